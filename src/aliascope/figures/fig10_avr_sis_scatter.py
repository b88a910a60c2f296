"""Does an image that aliases more also have a less stable prediction? A point an image."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from aliascope.figures._style import (
    COLOUR,
    MARKER,
    ROLES,
    label_panels,
    log_axis,
    panels,
    role_handles,
    rows_of,
    signed,
    styled,
)

_POINTS = {
    "baseline": {"alpha": 0.4, "markeredgewidth": 0},
    "antialiased": {"alpha": 0.6, "markeredgewidth": 0.4, "markerfacecolor": "none"},
}
"""Open squares over filled dots: where the models agree, both are seen."""


@styled
def draw(
    values: pd.DataFrame, table: pd.DataFrame, *, names: Mapping[str, str], caption: str
) -> Figure:
    """A panel a layer: SIS against AVR, and Pearson's r of both models.

    Args:
        values: A row an image, layer and role: role, layer_name, avr, sis.
        table: The study's `phase4_correlation`.
        names: Of the models, by role.
        caption: Under the figure.
    """
    note = "Pearson's r with its 95 % interval."
    if np.any(values["sis"] == 0):
        note += " Images with SIS 0 lie on the lower edge."
    handles = role_handles(names)
    figure, axes = panels(table["layer_name"].tolist(), f"{note} {caption}", handles, sharey=True)
    floor = log_axis(axes[0].yaxis, values["sis"])
    bottom, top = axes[0].get_ylim()
    axes[0].set_ylim(bottom, top * (top / bottom) ** 0.3)  # room for the two correlations
    for ax, row in zip(axes, table.to_dict("records"), strict=True):
        for role in ROLES:
            points = rows_of(values, layer_name=row["layer_name"], role=role)
            ax.plot(
                points["avr"],
                np.maximum(points["sis"], floor),
                MARKER[role],
                color=COLOUR[role],
                markersize=2,
                **_POINTS[role],
                rasterized=True,  # thousands of points make a heavy SVG
            )
        ax.locator_params(axis="x", nbins=4)
        notes = [_correlation(role, row) for role in ROLES]
        ax.legend(handles=notes, loc="upper left", handletextpad=0, labelspacing=0.2, fontsize=6.5)
    label_panels(axes, "AVR", "SIS")
    return figure


def _correlation(role: str, row: Mapping[Any, Any]) -> Line2D:
    r, low, high = (signed(row[f"{role}_{name}"]) for name in ("r", "r_low", "r_high"))
    text = f"r = {r} [{low}, {high}]"
    return Line2D([], [], color=COLOUR[role], marker=MARKER[role], linestyle="", label=text)
