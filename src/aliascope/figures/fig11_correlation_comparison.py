"""Correlation of AVR and instability over the images, for each strided layer of both models."""

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
    row_panels,
    styled,
)

_SMALL = 0.1
_PANELS = {"": "SIS", "_logit_instability": "logit instability"}
"""Suffix of the columns → what AVR is held against."""


@styled
def draw(table: pd.DataFrame, *, names: Mapping[str, str], caption: str) -> Figure:
    """A row a layer, a dot a model, with its interval: of SIS, and of logit instability beside it.

    Args:
        table: The study's `phase4_correlation`.
        names: Of the models, by role.
        caption: Under the figure.
    """
    note = "Whiskers: 95 % interval."
    shade = Patch(color=PALE, label=f"|r| < {_SMALL}: below {100 * _SMALL**2:g} % of the variance")
    handles = [*role_handles(names), shade]
    labels = pair_labels(table)
    figure, axes = row_panels(labels, 0.36, f"{note} {caption}", handles, len(_PANELS))
    for ax, (end, title) in zip(axes, _PANELS.items(), strict=True):
        ax.axvspan(-_SMALL, _SMALL, color=PALE, linewidth=0, zorder=0)
        ax.axvline(0, color=GREY, linewidth=0.8, zorder=1)
        for role in ROLES:
            columns = (f"{role}_r{end}", f"{role}_r{end}_low", f"{role}_r{end}_high")
            r, low, high = (table[name] for name in columns)
            dots(ax, np.arange(len(table)) + OFFSET[role], r, low, high, role)
        ax.grid(visible=False)
        reach = min(1.02, 1.1 * max(abs(x) for x in (*ax.dataLim.intervalx, 2 * _SMALL)))
        ax.set_xlim(-reach, reach)
        ax.set_xlabel(f"Pearson's r of AVR and {title}")
    return figure
