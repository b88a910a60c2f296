"""How SIS, and beside it logit instability, is spread over the images, in both models."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aliascope.figures._style import (
    COLOUR,
    LINE,
    MARKER,
    PAGE,
    ROLES,
    log_axis,
    role_handles,
    rows_of,
    sheet,
    styled,
)

_PANELS = {
    "sis": "shift instability score (SIS) of an image",
    "logit_instability": "logit instability of an image",
}


@styled
def draw(images: pd.DataFrame, *, names: Mapping[str, str], caption: str) -> Figure:
    """Share of the images whose instability is at most x, and the median of each model.

    Args:
        images: A row an image and role: role, sis, logit_instability.
        names: Of the models, by role.
        caption: Under the figure.
    """
    note = "Markers: medians."
    if np.any(images[[*_PANELS]] == 0):
        note += " Images with 0 are counted at the left edge."
    figure, (axes,) = sheet(
        PAGE, 2.2, f"{note} {caption}", role_handles(names), shape=(1, 2), sharey=True
    )
    for ax, (metric, title) in zip(axes, _PANELS.items(), strict=True):
        _distributions(ax, images, metric)
        ax.set(ylim=(0, 1), xlabel=title)
        ax.grid()
    axes[0].set_ylabel("share of images at or below")
    return figure


def _distributions(ax: Axes, images: pd.DataFrame, metric: str) -> None:
    values = {role: rows_of(images, role=role)[metric].dropna() for role in ROLES}
    floor = log_axis(ax.xaxis, images[metric])
    medians = {role: own.median() for role, own in values.items()}
    for role, own in values.items():
        x = np.sort(np.maximum(own, floor))
        share = np.arange(1, len(x) + 1) / len(x)
        ax.step(x, share, where="post", color=COLOUR[role], linewidth=LINE[role])
    for role, median in medians.items():
        ax.plot(max(median, floor), 0.5, MARKER[role], color=COLOUR[role], markersize=5.5)
    ax.set_title("medians " + ", ".join(f"{medians[role]:#.2g}" for role in ROLES))
