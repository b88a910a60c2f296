"""What the layers alias: figures with intervals, spectra with the Nyquist box, radial profiles."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from aliascope.measure.store import Run
from aliascope.report.blocks import Chart, Section, Table, cell, limits
from aliascope.statistics import mean_intervals
from aliascope.svg import Line, Mark, curves, dots, heat

_SHOWN = {
    "alias_share": ("alias share", "the share of the kept samples' energy that was folded"),
    "sampled_avr": (
        "sampled AVR",
        "the share of the energy above the new cutoff, of what is sampled",
    ),
    "avr": ("read AVR", "the same of what the operation reads, as published"),
}


def section(found: Mapping[str, Mapping[str, list[Mark]]], table: Table, text: str) -> Section:
    """Charts of the metrics, and the table.

    Args:
        found: metric → layer → its marks.
        table: all rows.
        text: what to know of them.
    """
    charts = []
    for metric, rows in found.items():
        title, meaning = _SHOWN[metric]
        drawn = dots(rows, title=title, description=f"{title} of each layer: {meaning}.")
        charts.append(Chart([drawn], f"{title}: {meaning}"))
    return Section("Layers", text, charts, [table])


def of_study(stats: pd.DataFrame, leading: str, roles: list[str]) -> Section:
    """Of the table `phase3_layerwise_avr_stats`."""
    metrics = ["alias_share", "sampled_avr"] if leading == "sampled_avr" else ["avr"]
    charts: dict[str, dict[str, list[Mark]]] = {}
    rows = []
    for metric in [m for m in metrics if m in set(stats["variant"])]:
        own: Any = stats.query("variant == @metric").to_dict("records")
        charts[metric] = {
            row["layer_name"]: [
                Mark(role, row[f"{role}_mean"], row[f"{role}_low"], row[f"{role}_high"])
                for role in roles
            ]
            for row in own
        }
        rows += [
            [
                cell(row["layer_name"]),
                cell(_SHOWN[metric][0]),
                *(
                    limits(row[f"{r}_mean"], row[f"{r}_low"], row[f"{r}_high"], ".4f")
                    for r in roles
                ),
                limits(row["difference"], row["difference_low"], row["difference_high"], "+z.4f"),
                cell(row["p_holm"], ".2g"),
            ]
            for row in own
        ]
    header = ["layer", "figure", *roles, "antialiased − baseline", "p (Holm)"]
    control = "control" in roles
    text = "Means over photographs, with 95 % intervals."
    text += (
        " In the control nothing was filtered: what it differs by is no repair." if control else ""
    )
    return section(charts, Table("layers", header, rows), text)


def of_comparison(layers: pd.DataFrame) -> Section:
    """Of `Comparison.layers`."""
    charts: dict[str, dict[str, list[Mark]]] = {}
    rows = []
    known: Any = layers[layers["metric"].isin(list(_SHOWN)) & (layers["n"] > 0)]
    for row in known.to_dict("records"):
        name = row["layer_a"]
        if row["metric"] != "avr":
            marks = [Mark("baseline", row["mean_a"]), Mark("antialiased", row["mean_b"])]
            charts.setdefault(row["metric"], {})[name] = marks
        rows.append(
            [
                cell(name),
                cell(_SHOWN[row["metric"]][0]),
                cell(row["mean_a"], ".4f"),
                cell(row["mean_b"], ".4f"),
                limits(row["difference"], row["low"], row["high"], "+z.4f"),
                cell(row["p_holm"], ".2g"),
            ]
        )
    header = ["layer", "figure", "A", "B", "B − A", "p (Holm)"]
    text = (
        "Means over photographs, layers named as in A; of the difference, 95 % intervals. Where "
        "both read maps at different places, their difference says nothing of the repair, and has "
        "no interval."
    )
    return section(charts, Table("layers", header, rows), text)


def of_run(run: Run) -> Section:
    """Of one run: a row a layer, in the order of execution."""
    charts: dict[str, dict[str, list[Mark]]] = {}
    rows = {layer.name: [cell(layer.name)] for layer in run.strided_layers}
    for metric in _SHOWN:
        values = run.layers.reindex(columns=["image_id", "layer", metric]).dropna()
        if values.empty:
            continue
        values = values.pivot_table(metric, "image_id", "layer", observed=True)
        means = mean_intervals(
            values.reindex(columns=list(rows)), run.photographs.loc[values.index]
        )
        charts[metric] = {name: [Mark("baseline", *x)] for name, *x in means.itertuples()}
        for name, value, low, high in means.itertuples():
            rows[name].append(limits(value, low, high, ".4f"))
    header = ["layer", *(_SHOWN[m][0] for m in charts)]
    text = "Means over photographs, with 95 % intervals."
    return section(charts, Table("layers", header, [*rows.values()]), text)


def spectra(arrays: Mapping[str, np.ndarray], profiles: pd.DataFrame, sampled: bool) -> Section:
    """Mean 2-D power spectra before and after, and radial profiles beside them."""
    what = "of what is sampled" if sampled else "of what each operation reads, as published"
    text = (
        f"Mean power spectra {what}, in decibels below each map's largest bin. What lies outside "
        "the box, the band that the new grid can hold, folds into it."
    )
    return Section("Spectra", text, list(_pairs(arrays, profiles)))


def _pairs(arrays: Mapping[str, np.ndarray], profiles: pd.DataFrame) -> Iterator[Chart]:
    for name, own in profiles.groupby("layer_name", sort=False):
        cutoff = float(own["cutoff"].iloc[0])
        drawn = []
        for role in ("baseline", "antialiased"):
            if (power := arrays.get(f"{role}/{name}")) is None:
                continue
            floor = np.maximum(power, power.max() * 1e-7)
            drawn.append(
                heat(
                    10 * np.log10(floor / power.max()),
                    title=f"{name}, {role}",
                    description=f"Power spectrum, with the box of the cutoff at {cutoff:.3g}.",
                    box=cutoff,
                    low=-70,
                    high=0,
                )
            )
        lines = [
            Line(str(role), str(role), rows["frequency"].tolist(), rows["energy"].tolist())
            for role, rows in own.groupby("role", sort=False)
        ]
        profile = curves(
            lines,
            title=f"{name}: radial profile",
            description="Share of the energy a ring against the frequency; dashed: the cutoff.",
            x_label="frequency (1 = Nyquist)",
            y_label="share of energy a ring",
            log=True,
            mark=cutoff,
            width=300,
            height=180,
        )
        caption = f"{name}: baseline, antialiased; radial profiles, dashed the new cutoff"
        yield Chart([*drawn, profile], caption)
