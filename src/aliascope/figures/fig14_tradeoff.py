"""What anti-aliasing buys and costs: stability against latency, and the change of each metric."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from aliascope.figures._style import (
    COLOUR,
    GREY,
    MARKER,
    PAGE,
    ROLES,
    SMALL,
    dots,
    name_rows,
    note_row,
    role_handles,
    sheet,
    signed,
    styled,
    wrap,
)

_PANELS = {
    "logit_instability": "logit instability",
    "disagreement": "disagreement of the views",
    "sis": "mean shift instability\nscore, SIS",
}
"""What small multiples show, all better when small."""


@styled
def draw(
    table: pd.DataFrame, effects: pd.DataFrame, *, names: Mapping[str, str], caption: str
) -> Figure:
    """Above: what is left of instability, in three metrics, against latency; below: each change.

    Args:
        table: The study's `phase5_tradeoff`.
        effects: The study's `effects`: metric, change, change_low, change_high.
        names: Of the models, by role.
        caption: Under the figure.
    """
    effects = effects.dropna(subset="change")
    note = "Whiskers: 95 % intervals (latency: of the median over rounds)."
    lower = 0.24 * len(effects) + 0.5
    figure, ((whole,),) = sheet(PAGE, 2.1 + lower, f"{note} {caption}", role_handles(names))
    whole.remove()
    parts: Any = figure.subfigures(2, 1, height_ratios=(2.1, lower))
    above, below = parts
    axes = above.subplots(1, len(_PANELS))
    table = table.dropna(subset="latency_ms")
    ends = {end: 1 - table[f"agreement{end}"] for end in ("", "_low", "_high")}
    table = table.assign(
        sis=table["mean_sis"],
        disagreement=ends[""],
        disagreement_low=ends["_high"],
        disagreement_high=ends["_low"],
    )
    for ax, (metric, title) in zip(axes, _PANELS.items(), strict=True):
        ax.set_ylabel(title)
        _scatter(ax, table, metric)
    axes[1].set_xlabel("latency, batch 1 (ms an image; less is faster)")
    changes = below.subplots()
    _changes(changes, effects)
    changes.set_title(wrap(f"{names['antialiased']} against {names['baseline']}", 5))
    return figure


def _scatter(ax: Axes, table: pd.DataFrame, metric: str) -> None:
    ax.margins(0.25, 0.3)
    ax.locator_params(nbins=4)
    if table.empty:
        ax.text(0.5, 0.5, "latency not\nmeasured", ha="center", transform=ax.transAxes)
        ax.set(xticks=[], yticks=[])
        return
    points = {point["role"]: point for point in table.to_dict("records")}
    for role, point in points.items():
        x, y = point["latency_ms"], point[metric]
        ax.hlines(y, point["latency_low_ms"], point["latency_high_ms"], COLOUR[role], linewidth=1.4)
        ax.vlines(x, point[f"{metric}_low"], point[f"{metric}_high"], COLOUR[role], linewidth=1.4)
        ax.plot(x, y, MARKER[role], color=COLOUR[role], markersize=6.5)
    if len(points) == 2:
        ends = [(points[role]["latency_ms"], points[role][metric]) for role in ROLES]
        arrow = {"arrowstyle": "-|>", "color": GREY, "shrinkA": 7, "shrinkB": 7}
        ax.annotate("", ends[1], ends[0], arrowprops=arrow, zorder=1)
    ax.set_ylim(bottom=0)


def _changes(ax: Axes, effects: pd.DataFrame) -> None:
    rows = range(len(effects))
    ends = ("change", "change_low", "change_high")
    ax.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    change, low, high = (100 * effects[end] for end in ends)
    ax.barh(rows, change, 0.5, color=COLOUR["antialiased"], alpha=0.3)
    dots(ax, rows, change, low, high, "antialiased")
    for row, effect in zip(rows, effects.to_dict("records"), strict=True):
        written = [signed(100 * effect[end], 1) for end in ends]
        note_row(ax, row, f"{written[0]} %", 48, ha="right", weight="bold")
        note_row(ax, row, f"[{written[1]}, {written[2]}]", 54, size=SMALL, color=GREY)
    name_rows(ax, effects["metric"].tolist())
    ax.tick_params(axis="y", labelsize=8)
    ax.margins(x=0.08)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: signed(x, 0) if x else "0"))
    ax.set_xlabel("change in % (less is better)")
