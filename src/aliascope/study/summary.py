"""What a study found, in one small record and a closing table."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from aliascope.errors import RunError
from aliascope.images.labels import LEFT_OPEN
from aliascope.results.files import plain
from aliascope.results.text import columns, interval, number, wrapped
from aliascope.results.verdicts import Change, listed, moves, sample, share
from aliascope.study.published import PUBLISHED
from aliascope.study.settings import ANTIALIASED, BASELINE, PRESETS, ROLES
from aliascope.study.study import Study

FORMAT = 3
_PHASE5 = ("tables/phase5_tradeoff.csv", "data/effects.csv")


@dataclass(frozen=True)
class Summary:
    """The headline of a study; `str()` prints the closing table."""

    path: Path
    """The results directory."""
    record: dict[str, Any]
    """What summary.json holds: study (the settings), command, versions, device, …; phases (number →
    "complete" or why it was left out); seconds; images and skipped a role; headline; together (the
    rows of phase4_dependence); published (a list of figure, published, here, difference; empty for
    other pairs); notices."""

    failed: dict[str, str]
    """Phase → why it was left out, of those that this call was asked for."""

    @property
    def verdict(self) -> str:
        """What the intervention bought and cost, in words; "" without phase 5."""
        return _verdict(found) if (found := self.record["headline"]) else ""

    @property
    def table(self) -> pd.DataFrame:
        """A row a figure of the closing table; none without phase 5.

        Columns: figure, both models, and change, change_low and change_high, which are relative
        where they have an interval.
        """
        names = ["figure", *ROLES, "change", "change_low", "change_high"]
        found = self.record["headline"]
        return pd.DataFrame(_figures(found) if found else [], columns=names)

    def to_dict(self) -> dict[str, Any]:
        """The record in JSON's own types; None is NaN."""
        return plain({"verdict": self.verdict, **self.record})

    def __str__(self) -> str:
        return "\n\n".join(filter(None, _blocks(self)))


def headline(study: Study) -> dict[str, Any]:
    """The figures that the closing table shows, from the tables of phase 5; {} without them."""
    if not all((study.path / name).exists() for name in _PHASE5):
        return {}
    table, effects = study.table("phase5_tradeoff"), study.rows("effects")
    rows = table.set_index("role")
    changes = effects.set_index("metric")
    lead = str(table["shifts"].iloc[0])
    moved = [name.rpartition("_")[2] for name in table if name.startswith("agreement_")]
    others = [shifts for shifts in dict.fromkeys(moved) if shifts not in ("low", "high")]
    found: dict[str, Any] = {
        "models": {role: study.names[role] for role in ROLES},
        "n": int(table["n"].iloc[0]),
        "photographs": int(table["photographs"].iloc[0]),
        "shifts": [lead, *others],
        "predictions_kept": rows.loc[ANTIALIASED, "predictions_kept"],
    }
    names = ["mean_sis", "agreement", "logit_instability", "sis_half", "confidence", "accuracy"]
    names += [f"{name}_{shifts}" for shifts in others for name in names[1:3]]
    for name in (*names, "latency_ms", "latency_batch_ms"):
        found[name] = rows[name].to_dict()
    found["latency_batch"] = int(table["latency_batch"].iloc[0])
    found["changes"] = {
        metric: row[["change", "change_low", "change_high"]].tolist()
        for metric, row in changes.iterrows()
    }
    found["p_paired"] = {metric: p for metric, p in changes["p"].items() if lead in str(metric)}
    return found


def together(study: Study) -> list[dict[str, Any]]:
    """The rows of `phase4_dependence`; none without phase 4."""
    if not (study.path / "tables/phase4_dependence.csv").exists():
        return []
    return study.table("phase4_dependence").to_dict("records")


def explained(rows: Sequence[Mapping[str, Any]]) -> str:
    """What all layers together explain by a ridge, in words; "" where that is not known.

    >>> row = {"model": "ridge", "role": "baseline", "target": "log sis", "columns": 25}
    >>> explained([row | {"r2": 0.24, "r2_p": 0.002, "r2_beyond": 0.1, "r2_beyond_p": 0.01}])
    'All layers together (25 figures, ridge, out of sample) explain of log SIS: baseline R² 0.240
    (permutation p 0.002), of what confidence leaves 0.100 (p 0.01).'
    """
    clauses: dict[str, list[str]] = {}
    for row in rows:
        if row["model"] != "ridge" or math.isnan(_known(row["r2"])):
            continue
        alone, beyond = (f"{row[name]:.3f}" for name in ("r2", "r2_beyond"))
        clauses.setdefault(row["target"].replace("_", " ").replace("sis", "SIS"), []).append(
            f"{row['role']} R² {alone} (permutation p {row['r2_p']:.2g}), of what confidence "
            f"leaves {beyond} (p {row['r2_beyond_p']:.2g})"
        )
    if not clauses:
        return ""
    counts = sorted({row["columns"] for row in rows})
    said = "; ".join(f"of {target}: {', '.join(each)}" for target, each in clauses.items())
    figures = f"{' or '.join(map(str, counts))} figures"
    return f"All layers together ({figures}, ridge, out of sample) explain {said}."


def published(study: Study) -> list[dict[str, Any]]:
    """Each figure of the published study beside ours; none for another pair of models."""
    paper = PRESETS["paper"]
    if (study.settings.baseline, study.settings.antialiased) != (paper.baseline, paper.antialiased):
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
    yield (
        "change of mean_sis",
        PUBLISHED["change_of_sis"],
        found["changes"][f"mean SIS, {found['shifts'][0]}"][0],
    )
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
    runs, notices = {}, [*study.notices]
    try:
        runs = study.stored_runs()
        notices += [f"{run.model}: {text}" for run in runs.values() for text in run.notices]
        latency = study.record("latency")
        notices += [*latency["notices"], *latency["failures"].values()]
    except RunError:
        pass  # phases 1 and 2 need no runs
    if study.settings.class_map:  # which says what the labels mean
        notices = [text for text in notices if not text.endswith(LEFT_OPEN)]
    return {
        "format": FORMAT,
        "study": asdict(study.settings),
        **info,
        "phases": phases,
        "seconds": seconds,
        "images": {role: len(run.images) for role, run in runs.items()},
        "skipped": {role: run.skipped for role, run in runs.items()},
        "headline": headline(study),
        "together": together(study),
        "published": published(study),
        "notices": notices,
    }


def _blocks(summary: Summary) -> Iterator[str]:
    record = summary.record
    if found := record["headline"]:
        yield columns([["", *found["models"].values(), "change"], *rows_of(found)])
        kept, n, lead = found["predictions_kept"], found["n"], found["shifts"][0]
        crops = f" ({found['photographs']} photographs)" if found["photographs"] < n else ""
        moved = f"{n} images of {record['study']['images']}{crops}, moved by one pixel. Changes "
        moved += "with 95 % intervals, an observation a photograph; latency: of an image, from "
        moved += "order statistics over rounds."
        tests = ", ".join(
            f"{metric.partition(',')[0]} p = {number(_known(p), '.2g')}"
            for metric, p in found["p_paired"].items()
        )
        same = f"Both models give the same prediction for {kept:.1%} of the images. Paired t-tests "
        same += f"under {lead} shifts: {tests}."
        yield wrapped([summary.verdict])
        yield wrapped([moved, same])
    yield wrapped([explained(record.get("together", []))])
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


def _verdict(found: dict[str, Any]) -> str:
    a, b = (found["models"][role] for role in ROLES)
    changes = {
        title: Change(_known(value), _known(low), _known(high))
        for title, (value, low, high) in found["changes"].items()
        if value is not None and not math.isnan(value)
    }
    clauses, shifts = [], found["shifts"][0]
    if change := changes.get(f"logit instability, {shifts}"):
        clauses.append(moves(a, shifts, change))
    if change := changes.get("error rate"):
        amount = f"{change.amount()} often" if change.value else "as often"
        clauses.append(f"errs {amount} ({change.certainty()})")
    other = 1 - found["predictions_kept"]
    clauses.append(f"gives another prediction for {share(other, math.nan, math.nan, 'the images')}")
    timed = {f"batch {n}": changes.get(f"latency, batch {n}") for n in (1, found["latency_batch"])}
    clauses += [
        f"takes {change.amount('less', 'longer', 'as long')} at {batch} ({change.certainty()})"
        for batch, change in timed.items()
        if change
    ]
    return f"{b} {listed(clauses)}. {sample(found['n'], found['photographs'])}"


def rows_of(found: dict[str, Any]) -> Iterator[list[str]]:
    """Cells of the closing table: a metric, both models, the change."""
    for title, *values, change, low, high in _figures(found):
        form = ".2f" if title.startswith("latency") else ".4f"
        cells = [format(value, form) for value in values]
        if title.partition(" (")[0] in found["changes"]:
            yield [title, *cells, f"{number(change, '+.1%')} {interval(low, high, '+.1%')}"]
        else:
            yield [title, *cells, f"{change:+{form}}"]


def _figures(found: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Rows of `Summary.table`; a figure that either model lacks is left out."""
    lead, *others = found["shifts"]
    lines = {
        f"logit instability, {lead}": "logit_instability",
        f"agreement, {lead}": "agreement",
        f"SIS at confidence ½, {lead}": "sis_half",
        f"mean SIS, {lead}": "mean_sis",
    }
    for shifts in others:
        lines[f"logit instability, {shifts}"] = f"logit_instability_{shifts}"
        lines[f"agreement, {shifts}"] = f"agreement_{shifts}"
    lines |= {"confidence": "confidence", "accuracy": "accuracy"}
    lines["latency, batch 1 (ms)"] = "latency_ms"
    lines[f"latency, batch {found['latency_batch']} (ms)"] = "latency_batch_ms"
    for title, name in lines.items():
        values = [_known(found[name][role]) for role in ROLES]
        if any(map(math.isnan, values)):
            continue
        change = found["changes"].get(title.partition(" (")[0])
        change = map(_known, change) if change else (values[1] - values[0], math.nan, math.nan)
        yield title, *values, *change


def _known(x: float | None) -> float:
    """JSON has no NaN."""
    return math.nan if x is None else x
