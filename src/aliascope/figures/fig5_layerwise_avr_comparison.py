"""AVR of the checkerboard in each strided layer of both models."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from aliascope.figures._style import (
    CONTROL,
    GREY,
    METRICS,
    OFFSET,
    ROLES,
    control_handle,
    dots,
    pair_labels,
    role_handles,
    row_sheet,
    styled,
)

_WHOLE = 0.4
"""A larger AVR is shown on the scale from 0 to 1."""


@styled
def draw(table: pd.DataFrame, *, names: Mapping[str, str], caption: str) -> Figure:
    """A row a layer, a dot a model.

    Args:
        table: Rows of one variant of the study's `phase2b_architecture_comparison`.
        names: Of the models, by role; the control may be missing.
        caption: Under the figure.
    """
    handles = [*role_handles(names), *control_handle(names)]
    figure, ax = row_sheet(pair_labels(table), 0.36, caption, handles)
    rows = np.arange(len(table))
    ends = [table[f"{role}_avr"] for role in ROLES]
    ax.plot(ends, [rows + OFFSET[role] for role in ROLES], color=GREY, linewidth=0.7, zorder=1)
    for role, x in zip(ROLES, ends, strict=True):
        dots(ax, rows + OFFSET[role], x, x, x, role)
    if "control" in names:
        ax.plot(table["control_avr"], rows + OFFSET["baseline"], linewidth=0, **CONTROL)
    reach = 1.0 if np.nanmax(ends) > _WHOLE else ax.get_xlim()[1]
    ax.set_xlim(-0.03 * reach, 1.03 * reach)
    ax.set_xlabel(f"{METRICS[table['variant'].iloc[0]]}, checkerboard")
    return figure
