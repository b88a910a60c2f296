"""AVR of the checkerboard in each strided layer of both models."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from aliascope.figures._style import (
    GREY,
    OFFSET,
    ROLES,
    dots,
    pair_labels,
    role_handles,
    row_sheet,
    styled,
)


@styled
def draw(table: pd.DataFrame, *, names: Mapping[str, str], caption: str) -> Figure:
    """A row a layer, a dot a model.

    Args:
        table: The study's `phase2b_architecture_comparison`.
        names: Of the models, by role.
        caption: Under the figure.
    """
    figure, ax = row_sheet(pair_labels(table), 0.36, caption, role_handles(names))
    rows = np.arange(len(table))
    ends = [table[f"{role}_avr"] for role in ROLES]
    ax.plot(ends, [rows + OFFSET[role] for role in ROLES], color=GREY, linewidth=0.7, zorder=1)
    for role, x in zip(ROLES, ends, strict=True):
        dots(ax, rows + OFFSET[role], x, x, x, role)
    ax.set(xlim=(-0.03, 1.03), xticks=np.linspace(0, 1, 6))
    ax.set_xlabel("AVR of the checkerboard")
    return figure
