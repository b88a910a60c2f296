"""How the AVR of each strided layer varies from image to image, in both models."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.mlab import GaussianKDE

from aliascope.figures._style import (
    COLOUR,
    INK,
    MARKER,
    METRICS,
    OFFSET,
    ROLES,
    role_handles,
    row_sheet,
    rows_of,
    styled,
)

_HALF = 0.15  # of a violin, of the row
_RESOLUTION = 1e-6
"""AVRs closer than this are one value, which has no density."""


@styled
def draw(values: pd.DataFrame, *, names: Mapping[str, str], caption: str) -> Figure:
    """A row a layer, a violin a model, with median and quartiles.

    Args:
        values: A row an image, layer and role: role, layer_name, avr and, all the same,
            variant: which AVR that is.
        names: Of the models, by role.
        caption: Under the figure.
    """
    note = "Each violin is scaled to one width; dot: median, bar: quartiles."
    layers = values["layer_name"].unique().tolist()
    handles = role_handles(names)
    figure, ax = row_sheet(layers, 0.47, f"{note} {caption}", handles)
    for i, layer in enumerate(layers):
        for role in ROLES:
            rows = rows_of(values, role=role, layer_name=layer)
            avr = rows["avr"].dropna().to_numpy(dtype=float)
            if avr.size:
                _violin(ax, i + 1.35 * OFFSET[role], avr, role)
    ax.set_xlim(left=min(0, ax.get_xlim()[0]))
    ax.set_xlabel(f"{METRICS[values['variant'].iloc[0]]}, of an image")
    return figure


def _violin(ax: Axes, row: float, avr: np.ndarray, role: str) -> None:
    low, median, high = np.quantile(avr, [0.25, 0.5, 0.75])
    if np.ptp(avr) > _RESOLUTION:
        x = np.linspace(avr.min(), avr.max(), 200)
        density = GaussianKDE(avr).evaluate(x)
        half = _HALF * density / density.max()
        ax.fill_between(x, row - half, row + half, color=COLOUR[role], alpha=0.75, linewidth=0)
    else:
        ax.vlines(median, row - _HALF, row + _HALF, color=COLOUR[role], linewidth=1.4)
    ax.hlines(row, low, high, color=INK, linewidth=1.6)
    ax.plot(
        median,
        row,
        MARKER[role],
        color="white",
        markersize=3,
        markeredgecolor=INK,
        markeredgewidth=0.6,
    )
