"""Folding: the spectrum along the rows before and after the first subsampling."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

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
    decibels,
    log_axis,
    mark_cutoff,
    merged,
    role_handles,
    rows_of,
    sheet,
    styled,
)

_STAGES = ("before", "after")
_FLOOR = -80  # dB
_BOX = {"linewidth": 0.9, "linestyle": (0, (4, 2))}


@styled
def draw(
    folding: pd.DataFrame,
    spectra: Mapping[str, np.ndarray],
    *,
    names: Mapping[str, str],
    caption: str,
) -> Figure:
    """A row a signal: share of its energy a frequency, before and after, in both models.

    Below, as published, the power spectra of the photograph: in each model before and after.

    Args:
        folding: The study's `phase2_folding`.
        spectra: The study's `phase2_spectra`: "ROLE/before" or "ROLE/after" → power, (H, W), zero
            frequency in the centre.
        names: Of the models, by role.
        caption: Under the figure.
    """
    signals, layers = (folding[column].unique() for column in ("signal", "layer_name"))
    handles = [*role_handles(names, lines=True), cutoff_handle()]
    note = "Dashed box: what the samples that are kept can hold; all else folds into it."
    count = len(signals)
    figure, grid = sheet(
        PAGE,
        1.9 * (count + 1),
        f"{caption} {note}",
        handles,
        shape=(count + 1, 2 * len(_STAGES)),
    )
    axes = [[merged([*row[:2]]), merged([*row[2:]])] for row in grid[:count]]
    for row, signal in zip(axes, signals, strict=True):
        rows = rows_of(folding, signal=signal)
        for ax in row:
            log_axis(ax.yaxis, rows["power"], span=6)
            ax.set(xlim=(0, 1))
        row[0].set_ylabel(f"{signal}: share of energy")
        row[1].tick_params(labelleft=False)
        for ax, stage in zip(row, _STAGES, strict=True):
            _lines(ax, rows_of(rows, where=stage))
        first = rows.iloc[0]
        _fold(row[1], first["cutoff"], first["tone"])
    for ax, stage in zip(axes[0], _STAGES, strict=True):
        ax.set_title(f"{stage} subsampling" + (f" at {layers[0]}" if len(layers) == 1 else ""))
    for ax in axes[-1]:
        ax.set_xlabel(FREQUENCY)
    _spectra(figure, [*grid[count]], spectra, folding["cutoff"].iloc[0])
    return figure


def _spectra(
    figure: Figure,
    row: Sequence[Axes],
    spectra: Mapping[str, np.ndarray],
    cutoff: float,
) -> None:
    """Power in dB below its peak; what is left after subsampling lies in the box."""
    parts = [(role, stage) for role in ROLES for stage in _STAGES]
    image = None
    for ax, (role, stage) in zip(row, parts, strict=True):
        level, extent = decibels(spectra[f"{role}/{stage}"], _FLOOR)
        share = cutoff if stage == "after" else 1
        image = ax.imshow(
            level, "viridis", vmin=_FLOOR, vmax=0, origin="lower",
            extent=cast("Any", [share * end for end in extent]),
        )  # fmt: skip
        ax.set(xlim=(-1, 1), ylim=(-1, 1), xticks=[-1, 0, 1], yticks=[-1, 0, 1], aspect="equal")
        ax.spines[:].set_visible(False)
        colour = "white" if stage == "before" else INK
        corner, side = (-cutoff, -cutoff), 2 * cutoff
        ax.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=colour, **_BOX))
        ax.set_title(f"{stage}, {role}")
        ax.tick_params(length=2, labelleft=ax is row[0])
    row[0].set_ylabel("vertical frequency")
    row[0].set_xlabel("horizontal frequency")
    bar = figure.colorbar(cast("Any", image), ax=[*row], location="right", aspect=15, pad=0.01)
    bar.set_label(f"dB below the peak (cut at {_FLOOR})".replace("-", "−"), size=SMALL)
    bar.outline.set_visible(False)


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
