"""Reports of what is no study: runs, comparisons, tables of methods, latencies, fine-tuning."""

import math
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from aliascope.compare import CURVES, Comparison, compare
from aliascope.errors import RunError
from aliascope.latency import Latency
from aliascope.measure.store import Run
from aliascope.report import layers, moving, plane
from aliascope.report.blocks import Card, Chart, Part, Section, Table, cell, limits
from aliascope.report.recorded import facts, skipped_of
from aliascope.results.checked import read_checked
from aliascope.results.files import unsealed
from aliascope.results.text import brief, interval
from aliascope.statistics import mean_intervals
from aliascope.study.tradeoffs import Tradeoffs
from aliascope.svg import Line, Mark, curves, dots, scatter

_METRICS = {
    "accuracy": ("accuracy", ".3f"),
    "agreement": ("agreement", ".3f"),
    "iou": ("IoU", ".3f"),
    "logit_instability": ("logit instability", ".4f"),
    "output_instability": ("output instability", ".4f"),
    "score_movement": ("score movement", ".4f"),
    "detections": ("detections", ".1f"),
    "sis_half": ("SIS at confidence ½", ".4f"),
    "sis": ("SIS", ".4f"),
    "confidence": ("confidence", ".3f"),
}
_UNCARDED = ("confidence", "sis", "detections")
"""What says nothing by itself."""


def of_run(path: Path) -> Part:
    """Of a run directory."""
    run = Run.open(path)
    images: Any = run.images
    values = images.rename(columns={"correct": "accuracy"}).reindex(columns=list(_METRICS))
    means: Any = mean_intervals(values.astype("float64"), run.photographs)
    rows = [
        [cell(_METRICS[str(m)][0]), limits(value, low, high, _METRICS[str(m)][1])]
        for m, value, low, high in means.dropna(subset="value").itertuples()
    ]
    header = ["figure", "mean over photographs"]
    sections = [Section("Figures", tables=[Table("figures", header, rows)])]
    if {"agreement", "output_instability"} & {*images}:
        sections.append(_most(images))
    sections.append(layers.of_run(run))
    border = run.config["border"]
    return Part(
        title=run.model,
        subtitle=f"Run on {run.config['images']}: {len(images)} images, {border} shifts",
        verdict=run.verdict,
        sections=sections,
        notices=run.notices,
        skipped=skipped_of(run.skipped),
        facts=facts(run.info),
    )


def _most(images: pd.DataFrame) -> Section:
    moved = {"agreement": True, "iou": True, "logit_instability": False}
    moved |= {"output_instability": False}
    order = {name: least for name, least in moved.items() if name in images}
    names = [*order, *(name for name in ("sis_half", "confidence") if name in images)]
    most = images.sort_values(by=[*order], ascending=[*order.values()]).head(10)
    rows = [
        [cell(str(row["image_id"])), *(cell(float(row[x]), ".3f") for x in names)]
        for row in most.to_dict("records")
    ]
    header = ["image", *(_METRICS[name][0] for name in names)]
    return Section("The photographs that move most", tables=[Table("moving", header, rows)])


def of_comparison(path: Path, pictures: dict[str, str]) -> Part:
    """Of comparison.json, or of the runs A and B of a directory."""
    file = path if path.is_file() else path / "comparison.json"
    found = Comparison.open(file) if file.exists() else compare(path / "A", path / "B")
    folder = file.parent
    sections = []
    if (folder / CURVES).exists():
        data = BytesIO(read_checked(folder, CURVES))
        table = pd.read_csv(data, keep_default_na=False, dtype={"image_id": str})
        sections.append(moving.section(table, {"A": "A", "B": "B"}, found.shifts, pictures))
    runs = [Run.open(folder / side) for side in "AB" if (folder / side / "run.json").exists()]
    points = plane.charts(_points(found, runs), found.shifts)
    sections.append(Section("Figures", charts=points, tables=[_figures(found)]))
    sections.append(layers.of_comparison(found.layers))
    sample = f"{found.n} images of {found.groups} photographs"
    return Part(
        title=f"{found.model_a} and {found.model_b}",
        subtitle=f"Comparison: {sample}, {found.shifts} shifts",
        verdict=found.verdict,
        roles=[("baseline", f"A, {found.model_a}"), ("antialiased", f"B, {found.model_b}")],
        cards=[*_cards(found)],
        sections=sections,
        notices=found.notices,
        skipped=skipped_of(x for run in runs for x in run.skipped),
        facts=facts(runs[-1].info) if runs else [],
    )


def _cards(found: Comparison) -> Iterator[Card]:
    rows = found.images.set_index("metric").to_dict("index")
    for metric, (name, form) in _METRICS.items():
        if (row := rows.get(metric)) is None or metric in _UNCARDED:
            continue
        drawn = dots(
            {"B − A": [Mark("antialiased", row["difference"], row["low"], row["high"])]},
            title=f"{name}, B − A",
            description=f"{row['difference']:+.4g} with its interval.",
            form="g",
            width=300,
        )
        shown = limits(row["difference"], row["low"], row["high"], f"+z{form}").text
        yield Card(
            name, format(row["mean_a"], form), format(row["mean_b"], form), shown, drawn, metric
        )
    share, low, high = found.prediction_agreement
    if not math.isnan(share):
        drawn = dots({"": [Mark("antialiased", share, low, high)]}, title="same prediction",
                     description=f"{share:.1%} of the images", form=".0%", width=300)  # fmt: skip
        yield Card("same prediction", "", f"{share:.1%}", interval(low, high, ".1%"), drawn, "kept")


def _points(found: Comparison, runs: list[Run]) -> list[tuple[str, Mark, Mark]]:
    """Both models in the plane of `plane.charts`; none without labels."""
    means: Any = found.images.set_index("metric")
    if not {"logit_instability", "accuracy"} <= {*means.index}:
        return []
    roles = ("baseline", "antialiased")
    if len(runs) == 2 and all(len(run.images) == found.n for run in runs):
        marks = [
            plane.marks_of(run, role, level=found.level)
            for run, role in zip(runs, roles, strict=True)
        ]
    else:  # the intervals of the means are not known
        names = ("logit_instability", "accuracy")
        marks = [
            tuple(Mark(role, means.loc[name, f"mean_{side}"]) for name in names)
            for side, role in zip("ab", roles, strict=True)
        ]
    return [(side, x, y) for side, (x, y) in zip("AB", marks, strict=True)]


def _figures(found: Comparison) -> Table:
    rows = []
    for row in found.images.to_dict("records"):
        name, form = _METRICS[row["metric"]]
        means = (cell(row[f"mean_{side}"], form) for side in "ab")
        difference = limits(row["difference"], row["low"], row["high"], f"+z{form}")
        change = limits(row["change"], row["change_low"], row["change_high"], "+z.1%")
        rows.append([cell(name), *means, difference, change, cell(row["p"], ".2g")])
    return Table("figures", ["figure", "A", "B", "B − A", "change", "p"], rows)


def of_methods(path: Path) -> Part:
    """Of methods.json, or of the directory that holds it."""
    found = Tradeoffs.open(path if path.is_file() else path / "methods.json")
    table: Any = found.table
    lead = next(str(x) for x in table if str(x).startswith("logit_instability_"))
    top = table["top1"].notna().all()
    accuracy, label = ("top1", "top-1") if top else ("kept", "predictions kept")
    kinds = {"original": "baseline", "control": "control"}
    kinds |= dict.fromkeys(("zero-shot", "recalibrated"), "antialiased")
    marks = [
        (f"{row['method']}{' +bn' if row['stage'] == 'recalibrated' else ''}", row)
        for row in table.to_dict("records")
    ]
    charts = [
        Chart(
            [
                scatter(
                    [(n, Mark(kinds[r["stage"]], r[x]), Mark("", r[lead])) for n, r in marks],
                    title=f"logit instability against {word}",
                    description="Each point is a method; below is steadier.",
                    x_label=word,
                    y_label="logit instability",
                )
            ],
            f"Steadier is lower; {side}. +bn: batch-norm recalibrated.",
        )
        for x, word, side in (
            (accuracy, label, "better is to the right"),
            ("latency_ratio", "latency, ratio to the original", "faster is to the left"),
        )
    ]
    known = [str(x) for x in table if not str(x).endswith(("_low", "_high"))]
    rows = []
    for row in table.to_dict("records"):
        own = []
        for name in known:
            if f"{name}_low" in row:
                own.append(limits(row[name], row[f"{name}_low"], row[f"{name}_high"], ".3f"))
            else:
                own.append(cell(row[name], ".1f"))
        rows.append(own)
    header = [name.replace("_", " ") for name in known]
    return Part(
        title=f"Methods on {found.model}",
        subtitle=f"Every method, measured on {found.info['images']}",
        verdict=found.verdict,
        roles=[
            ("baseline", "original"),
            ("control", "control: nothing filtered"),
            ("antialiased", "a method"),
        ],
        sections=[
            Section("Stability, accuracy, latency", "", charts, [Table("methods", header, rows)])
        ],
        notices=found.notices,
        facts=facts(found.info),
    )


def of_latency(path: Path) -> Part:
    """Of a file that `Latency.save` wrote."""
    found = Latency.open(path)
    rows = found.table.to_dict("records")
    marks: dict[str, list[Mark]] = {
        f"{row['model']}, batch {row['batch']}": [
            Mark("baseline", row["ratio"], row["ratio_low"], row["ratio_high"])
        ]
        for row in rows
    }
    drawn = dots(marks, title="ratio to the first model", description="Medians over rounds.")
    cells = [
        [
            cell(row["model"]),
            cell(row["batch"]),
            limits(row["ms_image"], row["low"], row["high"], ".2f"),
            limits(row["ratio"], row["ratio_low"], row["ratio_high"], ".3f"),
        ]
        for row in rows
    ]
    header = ["model", "batch", "ms an image", "ratio"]
    return Part(
        title="Latency",
        subtitle="Forwards of all models side by side, in one process",
        verdict=found.verdict,
        sections=[Section("Latency", "", [Chart([drawn])], [Table("latency", header, cells)])],
        notices=[*found.notices, *found.failures.values()],
        facts=facts(found.info),
    )


def of_finetuning(path: Path) -> Part:
    """Of a directory or file finetune.json, whose history it shows."""
    file = path if path.is_file() else path / "finetune.json"
    try:
        record: dict[str, Any] = unsealed(file.read_bytes(), older=True)
        history: Any = pd.DataFrame(record["history"])
        config = record.get("config", {})
        steps = history["step"].tolist()
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(
            f"{file} cannot be read ({brief(error)}): fine-tune into it again"
        ) from error
    shown = [x for x in history if x not in ("step", "seconds") and history[x].notna().any()]
    charts = [
        Chart(
            [curves(
                [Line("antialiased", str(x), steps, history[x].astype(float).tolist(), [],
                      [f"step {s}: {v:.4g}" for s, v in zip(steps, history[x], strict=True)])],
                title=str(x).replace("_", " "),
                description="Against the step.",
                x_label="step",
            )],
            str(x).replace("_", " "),
        )
        for x in shown
        if history[x].notna().sum() > 1
    ]  # fmt: skip
    rows = [
        [
            cell(row["step"]),
            *(cell(row[x], ".4g") for x in shown),
        ]
        for row in history.to_dict("records")
    ]
    model, images = config.get("model", file.parent.name), config.get("images", "")
    return Part(
        title=f"Fine-tuning of {model}",
        subtitle=f"{steps[-1] if steps else 0} steps on {images}; figures on held-out pictures",
        verdict="",
        sections=[Section("History", "", charts, [Table("history", ["step", *shown], rows)])],
        skipped=[*record.get("unreadable", {}).items()],
        facts=[(k, str(v)) for k, v in config.items()],
    )
