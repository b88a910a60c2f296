"""Does an image that aliases more also have a less stable prediction? A point an image."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
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


_BLOCKS = {"sis": ("SIS", ""), "logit_instability": ("logit instability", "_logit_instability")}
"""Column → what an axis calls it, and the suffix of its correlations."""


@styled
def draw(
    values: pd.DataFrame, table: pd.DataFrame, *, names: Mapping[str, str], caption: str
) -> Figure:
    """A panel a layer: SIS, and below logit instability, against AVR, and Pearson's r of both.

    Args:
        values: A row an image, layer and role: role, layer_name, avr, sis, logit_instability.
        table: The study's `phase4_correlation`.
        names: Of the models, by role.
        caption: Under the figure.
    """
    note = "Pearson's r with its 95 % interval."
    if np.any(values[[*_BLOCKS]] == 0):
        note += " Images with 0 lie on the lower edge."
    layers, handles = table["layer_name"].tolist(), role_handles(names)
    figure, blocks = panels(layers, f"{note} {caption}", handles, blocks=len(_BLOCKS))
    for axes, (metric, (title, suffix)) in zip(blocks, _BLOCKS.items(), strict=True):
        _block(axes, values, table, metric, suffix)
        label_panels(axes, "AVR", title)
        for ax in axes:
            ax.tick_params(labelleft=bool(ax.get_ylabel()))
    return figure


def _block(
    axes: Sequence[Axes], values: pd.DataFrame, table: pd.DataFrame, metric: str, suffix: str
) -> None:
    for ax, row in zip(axes, table.to_dict("records"), strict=True):
        floor = log_axis(ax.yaxis, values[metric])
        bottom, top = ax.get_ylim()
        ax.set_ylim(bottom, top * (top / bottom) ** 0.3)  # room for the two correlations
        for role in ROLES:
            points = rows_of(values, layer_name=row["layer_name"], role=role)
            ax.plot(
                points["avr"],
                np.maximum(points[metric], floor),
                MARKER[role],
                color=COLOUR[role],
                markersize=2,
                **_POINTS[role],
                rasterized=True,  # thousands of points make a heavy SVG
            )
        ax.locator_params(axis="x", nbins=4)
        notes = [_correlation(role, row, suffix) for role in ROLES]
        ax.legend(handles=notes, loc="upper left", handletextpad=0, labelspacing=0.2, fontsize=6.5)


def _correlation(role: str, row: Mapping[Any, Any], suffix: str) -> Line2D:
    ends = (f"{role}_r{suffix}{end}" for end in ("", "_low", "_high"))
    r, low, high = (signed(row[name]) for name in ends)
    text = f"r = {r} [{low}, {high}]"
    return Line2D([], [], color=COLOUR[role], marker=MARKER[role], linestyle="", label=text)
