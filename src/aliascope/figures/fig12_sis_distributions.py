"""How SIS is spread over the images, in both models."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from aliascope.figures._style import (
    COLOUR,
    COLUMN,
    LINE,
    MARKER,
    ROLES,
    log_axis,
    role_handles,
    rows_of,
    sheet,
    styled,
)


@styled
def draw(images: pd.DataFrame, *, names: Mapping[str, str], caption: str) -> Figure:
    """Share of the images whose SIS is at most x, and the median of each model.

    Args:
        images: A row an image and role: role, sis.
        names: Of the models, by role.
        caption: Under the figure.
    """
    note = "Markers: medians."
    if np.any(images["sis"] == 0):
        note += " Images with SIS 0 are counted at the left edge."
    sis = {role: rows_of(images, role=role)["sis"].dropna() for role in ROLES}
    medians = {role: sis[role].median() for role in ROLES}
    handles = role_handles({role: f"{names[role]}, median {medians[role]:#.2g}" for role in ROLES})
    figure, ((ax,),) = sheet(COLUMN, 2.2, f"{note} {caption}", handles)
    floor = log_axis(ax.xaxis, images["sis"])
    for role, values in sis.items():
        x = np.sort(np.maximum(values, floor))
        share = np.arange(1, len(x) + 1) / len(x)
        ax.step(x, share, where="post", color=COLOUR[role], linewidth=LINE[role])
    for role, median in medians.items():
        ax.plot(max(median, floor), 0.5, MARKER[role], color=COLOUR[role], markersize=5.5)
    ax.set(ylim=(0, 1), xlabel="shift instability score (SIS) of an image")
    ax.set_ylabel("share of images at or below")
    ax.grid()
    return figure
