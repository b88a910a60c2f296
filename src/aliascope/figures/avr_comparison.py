"""AVR of each strided layer for a photograph and the two extremes."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from aliascope.figures._style import SMALL, row_sheet, styled

_COLOURS = {"natural": "#009E73", "checkerboard": "0.2", "constant": "0.75"}
_HEIGHT = 0.27  # of a bar, of the row


@styled
def draw(table: pd.DataFrame, *, caption: str) -> Figure:
    """A row a layer, a bar an input.

    Args:
        table: The study's `phase1_layerwise_avr`.
        caption: Under the figure.
    """
    handles = [Patch(color=colour, label=name) for name, colour in _COLOURS.items()]
    figure, ax = row_sheet(table["layer_name"].tolist(), 0.47, caption, handles)
    for i, (kind, colour) in enumerate(_COLOURS.items()):
        rows = np.arange(len(table)) + (i - 1) * _HEIGHT
        values = table[f"{kind}_avr"]
        ax.barh(rows, values, 0.9 * _HEIGHT, color=colour)
        for y, value in zip(rows, values, strict=True):
            known = not np.isnan(value)
            text, x = (f"{value:.3f}", value) if known else ("no energy", 0)
            ax.text(x + 0.015, y, text, va="center_baseline", size=SMALL)
    ax.grid(visible=False)  # the values are written
    ax.set(xlim=(0, 1.17), xticks=np.linspace(0, 1, 6))
    ax.set_xlabel("alias violation ratio (AVR)")
    return figure
