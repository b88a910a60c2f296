"""Folding: the spectrum along the rows before and after the first subsampling."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aliascope.figures._style import (
    COLOUR,
    FREQUENCY,
    GREY,
    INK,
    LINE,
    PAGE,
    PALE,
    ROLES,
    SMALL,
    cutoff_handle,
    log_axis,
    mark_cutoff,
    role_handles,
    rows_of,
    sheet,
    styled,
)

_STAGES = ("before", "after")


@styled
def draw(folding: pd.DataFrame, *, names: Mapping[str, str], caption: str) -> Figure:
    """A row a signal: share of its energy a frequency, before and after, in both models.

    Args:
        folding: The study's `phase2_folding`.
        names: Of the models, by role.
        caption: Under the figure.
    """
    signals, layers = (folding[column].unique() for column in ("signal", "layer_name"))
    handles = [*role_handles(names, lines=True), cutoff_handle()]
    shape = (len(signals), len(_STAGES))
    figure, axes = sheet(
        PAGE, 1.9 * len(signals), caption, handles, shape=shape, sharex=True, sharey="row"
    )
    for row, signal in zip(axes, signals, strict=True):
        rows = rows_of(folding, signal=signal)
        log_axis(row[0].yaxis, rows["power"], span=6)
        row[0].set_ylabel(f"{signal}: share of energy")
        for ax, stage in zip(row, _STAGES, strict=True):
            _lines(ax, rows_of(rows, where=stage))
        first = rows.iloc[0]
        _fold(row[1], first["cutoff"], first["tone"])
    for ax, stage in zip(axes[0], _STAGES, strict=True):
        ax.set_title(f"{stage} subsampling" + (f" at {layers[0]}" if len(layers) == 1 else ""))
    for ax in axes[-1]:
        ax.set(xlabel=FREQUENCY, xlim=(0, 1))
    return figure


def _lines(ax: Axes, rows: pd.DataFrame) -> None:
    for role in ROLES:
        line = rows_of(rows, role=role)
        ax.plot(line["frequency"], line["power"], color=COLOUR[role], linewidth=LINE[role])
    mark_cutoff(ax, rows)


def _fold(ax: Axes, cutoff: int | float, tone: int | float) -> None:
    """No frequency above the cutoff is left: a tone there has moved to its mirror image."""
    ax.axvspan(cutoff, 1, color=PALE, linewidth=0, zorder=0)
    if not tone > cutoff:
        return
    folded = abs((tone + cutoff) % (2 * cutoff) - cutoff)  # 2·cutoff − tone, for tones up to there
    bend = {"arrowstyle": "-|>", "color": GREY, "connectionstyle": "arc3,rad=0.25", "shrinkB": 1}
    ax.annotate(
        f"tone at {tone:.3g}\nfolds to {folded:.3g}",
        (folded, 0.8),
        (tone, 0.8),
        xycoords=("data", "axes fraction"),
        ha="left",
        va="center",
        size=SMALL,
        color=INK,
        arrowprops=bend,
    )
