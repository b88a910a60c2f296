"""What a study found, in one small record and a closing table."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from aliascope.errors import RunError
from aliascope.files import plain
from aliascope.study.presets import ANTIALIASED, BASELINE, PRESETS, PUBLISHED, ROLES
from aliascope.study.study import Study
from aliascope.text import columns, interval, number, wrapped

_FORMAT = 1


@dataclass(frozen=True)
class Summary:
    """The headline of a study; `str()` prints the closing table."""

    path: Path
    """The results directory."""
    record: dict[str, Any]
    """What summary.json holds: study (the plan), command, versions, device, …; phases (number →
    "complete" or why it was left out); seconds; images and skipped a role; headline; published (a
    list of figure, published, here, difference; empty for other pairs); notices."""

    failed: dict[str, str]
    """Phase → why it was left out, of those that this call was asked for."""

    def to_dict(self) -> dict[str, Any]:
        """The record in JSON's own types; None is NaN."""
        return plain(self.record)

    def __str__(self) -> str:
        return "\n\n".join(filter(None, _blocks(self)))


def headline(study: Study) -> dict[str, Any]:
    """The figures that the closing table shows, from the tables of phase 5; {} without them."""
    try:
        table, effects = study.table("phase5_tradeoff"), study.rows("effects")
    except RunError:
        return {}
    rows = table.set_index("role")
    changes = effects.set_index("metric")
    found: dict[str, Any] = {
        "models": study.names,
        "n": int(table["n"].iloc[0]),
        "photographs": int(table["photographs"].iloc[0]),
        "predictions_kept": rows.loc[ANTIALIASED, "predictions_kept"],
    }
    for name in ("mean_sis", "agreement", "logit_instability", "confidence", "accuracy"):
        found[name] = rows[name].to_dict()
    found["latency_ms"] = rows["latency_ms"].to_dict()
    found["latency_batch_ms"] = rows["latency_batch_ms"].to_dict()
    found["latency_batch"] = int(table["latency_batch"].iloc[0])
    found["changes"] = {
        metric: row[["change", "change_low", "change_high"]].tolist()
        for metric, row in changes.iterrows()
    }
    found["p_paired_of_sis"] = changes.loc["mean SIS", "p"]
    return found


def published(study: Study) -> list[dict[str, Any]]:
    """Each figure of the published study beside ours; none for another pair of models."""
    paper = PRESETS["paper"]
    if (study.plan.baseline, study.plan.antialiased) != (paper.baseline, paper.antialiased):
        return []
    rows = [*_published_headline(headline(study)), *_published_layers(study)]
    return [
        {"figure": figure, "published": there, "here": here, "difference": here - there}
        for figure, there, here in rows
    ]


def _published_headline(found: dict[str, Any]) -> Iterator[tuple[str, float, float]]:
    if not found:
        return
    for name in ("mean_sis", "latency_ms"):
        for role in ROLES:
            yield f"{name} {role}", PUBLISHED[name][role], found[name][role]
    yield "change of mean_sis", PUBLISHED["change_of_sis"], found["changes"]["mean SIS"][0]
    yield (
        "change of latency_ms",
        PUBLISHED["change_of_latency"],
        found["changes"]["latency, batch 1"][0],
    )
    yield "predictions_kept", PUBLISHED["predictions_kept"], found["predictions_kept"]


def _published_layers(study: Study) -> Iterator[tuple[str, float, float]]:
    tables = {}
    for name in ("phase3_layerwise_avr_stats", "phase4_correlation"):
        try:
            tables[name] = study.table(name)
        except RunError:
            tables[name] = pd.DataFrame(columns=["layer_name", "variant"])
    stats, correlation = tables.values()
    stats = stats[stats["variant"] == "avr"].set_index("layer_name")
    correlation = correlation.set_index("layer_name")
    for layer, (before, after, t, r) in PUBLISHED["layers"].items():
        if layer in stats.index:
            row = stats.loc[layer]
            for role, (mean, deviation) in zip(ROLES, (before, after), strict=True):
                yield f"{layer} AVR mean {role}", mean, row[f"{role}_mean"]
                yield f"{layer} AVR standard deviation {role}", deviation, row[f"{role}_std"]
            yield f"{layer} t", t, row["t_statistic"]
        if layer in correlation.index:
            yield f"{layer} r {BASELINE}", r, correlation.loc[layer, "baseline_r"]


def record_of(
    study: Study, phases: dict[str, str], seconds: dict[str, float], info: dict[str, Any]
) -> dict[str, Any]:
    """What summary.json holds."""
    runs, notices = {}, []
    try:
        runs = study.stored_runs
        notices = [f"{run.model}: {text}" for run in runs.values() for text in run.notices]
        latency = study.record("latency")
        notices += [*latency["notices"], *latency["failures"].values()]
    except RunError:
        pass  # phases 1 and 2 need no runs
    return {
        "format": _FORMAT,
        "study": asdict(study.plan),
        **info,
        "phases": phases,
        "seconds": seconds,
        "images": {role: len(run.images) for role, run in runs.items()},
        "skipped": {role: run.skipped for role, run in runs.items()},
        "headline": headline(study),
        "published": published(study),
        "notices": notices,
    }


def _blocks(summary: Summary) -> Iterator[str]:
    record = summary.record
    if found := record["headline"]:
        yield columns([["", *found["models"].values(), "change"], *_rows(found)])
        kept, n = found["predictions_kept"], found["n"]
        crops = f" ({found['photographs']} photographs)" if found["photographs"] < n else ""
        sample = f"{n} images of {record['study']['images']}{crops}. Changes with 95 % intervals: "
        sample += "over photographs; latency: order statistics over rounds."
        same = f"Both models give the same prediction for {kept:.1%} of the images; paired t-test "
        same += f"of SIS: p = {found['p_paired_of_sis']:.2g}."
        yield wrapped([sample, same])
    skipped = len({item["image_id"] for rows in record["skipped"].values() for item in rows})
    notes = [f"notice: {text}" for text in record["notices"]]
    notes += (
        [f"notice: {skipped} images could not be read; summary.json lists them"] if skipped else []
    )
    notes += [f"phase {number} left out: {why}" for number, why in summary.failed.items()]
    yield wrapped(notes)
    if beside := record["published"]:
        header = ["figure", "published", "here", "difference"]
        cells = [[row["figure"], *(f"{row[name]:.4f}" for name in header[1:])] for row in beside]
        yield columns([header, *cells])
    yield f"tables, figures and summary.json are in {summary.path}"


def _rows(found: dict[str, Any]) -> Iterator[list[str]]:
    """Cells of the closing table: a metric, both models, the change."""
    lines = [
        ("mean SIS", "mean_sis", ".4f", "mean SIS"),
        ("agreement", "agreement", ".4f", ""),
        ("logit instability", "logit_instability", ".4f", "logit instability"),
        ("confidence", "confidence", ".4f", ""),
        ("accuracy", "accuracy", ".4f", ""),
        ("ms an image, batch 1", "latency_ms", ".2f", "latency, batch 1"),
        (
            f"ms an image, batch {found['latency_batch']}",
            "latency_batch_ms",
            ".2f",
            f"latency, batch {found['latency_batch']}",
        ),
    ]
    for title, name, form, change in lines:
        values = [found[name][role] for role in ROLES]
        if any(value is None or math.isnan(value) for value in values):  # None: read from JSON
            continue
        cells = [format(value, form) for value in values]
        if change:
            value, low, high = found["changes"][change]
            yield [title, *cells, f"{number(value, '+.1%')} {interval(low, high, '+.1%')}"]
        else:
            yield [title, *cells, f"{values[1] - values[0]:+{form}}"]
