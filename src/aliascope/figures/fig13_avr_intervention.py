"""What anti-aliasing does to the AVR of each strided layer."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from aliascope.figures._style import (
    GREY,
    INTERVAL,
    SMALL,
    dots,
    note_row,
    pair_labels,
    role_handles,
    row_sheet,
    signed,
    styled,
)


@styled
def draw(table: pd.DataFrame, *, names: Mapping[str, str], caption: str) -> Figure:
    """A row a layer: change of the mean AVR with its interval, around zero.

    Args:
        table: The "avr" rows of the study's `phase3_layerwise_avr_stats`.
        names: Of the models, by role.
        caption: Under the figure.
    """
    note = f"Whiskers: {INTERVAL} change."
    antialiased = role_handles(
        {**names, "antialiased": f"{names['antialiased']} − {names['baseline']}"}
    )
    figure, ax = row_sheet(pair_labels(table), 0.36, f"{note} {caption}", antialiased[1:])
    change, low, high = (table[f"difference{end}"] for end in ("", "_low", "_high"))
    ax.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    rows = range(len(table))
    dots(ax, rows, change, low, high, "antialiased")
    for row, value in zip(rows, change, strict=True):
        note_row(ax, row, signed(value, 3), 33, ha="right", size=SMALL)
    ax.set_xlabel("change of the mean AVR\n(left of 0: less aliasing)")
    return figure
