"""What anti-aliasing buys and costs: stability against latency, and the change of each metric."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from aliascope.figures._style import (
    COLOUR,
    GREY,
    MARKER,
    PAGE,
    SMALL,
    dots,
    name_rows,
    note_row,
    sheet,
    signed,
    styled,
    wrap,
)


@styled
def draw(
    table: pd.DataFrame, effects: pd.DataFrame, *, names: Mapping[str, str], caption: str
) -> Figure:
    """Left: SIS against latency of both models; right: relative change of each metric.

    Args:
        table: The study's `phase5_tradeoff`.
        effects: The study's `effects`: metric, change, change_low, change_high.
        names: Of the models, by role.
        caption: Under the figure.
    """
    effects = effects.dropna(subset="change")
    note = "Whiskers: 95 % intervals (latency: of the median over rounds)."
    height = max(2.4, 0.36 * len(effects) + 0.9)
    figure, ((left, right),) = sheet(
        PAGE, height, f"{note} {caption}", shape=(1, 2), width_ratios=(1, 0.8)
    )
    _scatter(left, table.dropna(subset="latency_ms"), names)
    _changes(right, effects)
    right.set_title(wrap(f"{names['antialiased']} against {names['baseline']}", 2.8))
    return figure


def _scatter(ax: Axes, table: pd.DataFrame, names: Mapping[str, str]) -> None:
    ax.set_xlabel("latency, batch 1 (ms an image; less is faster)")
    ax.set_ylabel("mean shift instability score, SIS\n(less is more stable)")
    ax.margins(0.25, 0.3)
    ax.locator_params(nbins=5)
    if table.empty:
        ax.text(0.5, 0.5, "latency not measured", ha="center", transform=ax.transAxes)
        ax.set(xticks=[], yticks=[])
        return
    points = table.to_dict("records")
    for point in points:
        role, x, y = point["role"], point["latency_ms"], point["mean_sis"]
        ax.hlines(y, point["latency_low_ms"], point["latency_high_ms"], COLOUR[role], linewidth=1.4)
        ax.vlines(x, point["sis_low"], point["sis_high"], COLOUR[role], linewidth=1.4)
        ax.plot(x, y, MARKER[role], color=COLOUR[role], markersize=6.5)
        right, above = x > table["latency_ms"].mean(), y >= table["mean_sis"].mean()
        ax.annotate(
            wrap(names[role], 1.3, at="@:."),
            (x, point["sis_high"] if above else point["sis_low"]),
            (0, 4 if above else -4),
            textcoords="offset points",
            ha="right" if right else "left",
            va="bottom" if above else "top",
        )
    if len(points) == 2:
        ends = [(point["latency_ms"], point["mean_sis"]) for point in points]
        arrow = {"arrowstyle": "-|>", "color": GREY, "shrinkA": 7, "shrinkB": 7}
        ax.annotate("", ends[1], ends[0], arrowprops=arrow, zorder=1)


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
