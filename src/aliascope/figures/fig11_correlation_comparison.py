"""Correlation of AVR and SIS over the images, for each strided layer of both models."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from aliascope.figures._style import (
    GREY,
    OFFSET,
    PALE,
    ROLES,
    dots,
    pair_labels,
    role_handles,
    row_sheet,
    styled,
)

_SMALL = 0.1


@styled
def draw(table: pd.DataFrame, *, names: Mapping[str, str], caption: str) -> Figure:
    """A row a layer, a dot a model, with its interval.

    Args:
        table: The study's `phase4_correlation`.
        names: Of the models, by role.
        caption: Under the figure.
    """
    note = "Whiskers: 95 % interval."
    shade = Patch(color=PALE, label=f"|r| < {_SMALL}: below {100 * _SMALL**2:g} % of the variance")
    handles = [*role_handles(names), shade]
    figure, ax = row_sheet(pair_labels(table), 0.36, f"{note} {caption}", handles)
    ax.axvspan(-_SMALL, _SMALL, color=PALE, linewidth=0, zorder=0)
    ax.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    for role in ROLES:
        r, low, high = (table[f"{role}_{name}"] for name in ("r", "r_low", "r_high"))
        dots(ax, np.arange(len(table)) + OFFSET[role], r, low, high, role)
    ax.grid(visible=False)
    reach = min(1.02, 1.1 * max(abs(limit) for limit in (*ax.dataLim.intervalx, 2 * _SMALL)))
    ax.set_xlim(-reach, reach)
    ax.set_xlabel("Pearson's r of AVR and SIS")
    return figure
