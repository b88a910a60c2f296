"""Radial profiles of both models laid over each other, layer by layer."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from aliascope.figures._style import (
    COLOUR,
    FREQUENCY,
    INTERVAL,
    LINE,
    ROLES,
    cutoff_handle,
    label_panels,
    log_axis,
    mark_cutoff,
    panels,
    role_handles,
    rows_of,
    styled,
)


@styled
def draw(profiles: pd.DataFrame, *, names: Mapping[str, str], caption: str) -> Figure:
    """A panel a layer, a line a model: mean share of the energy in each ring of frequencies.

    Args:
        profiles: The study's `phase3_radial_profiles`.
        names: Of the models, by role.
        caption: Under the figure.
    """
    layers = profiles["layer_name"].unique().tolist()
    handles = [*role_handles(names, lines=True), cutoff_handle()]
    text = f"Bands: {INTERVAL}. {caption}"
    figure, (axes,) = panels(layers, text, handles, sharex=True, sharey=True)
    log_axis(axes[0].yaxis, profiles["energy"])
    for ax, layer in zip(axes, layers, strict=True):
        rows = rows_of(profiles, layer_name=layer)
        for role in ROLES:
            line, colour = rows_of(rows, role=role), COLOUR[role]
            ax.fill_between(
                line["frequency"], line["low"], line["high"], color=colour, alpha=0.3, linewidth=0
            )
            ax.plot(line["frequency"], line["energy"], color=colour, linewidth=LINE[role])
        mark_cutoff(ax, rows)
        ax.margins(x=0.02)
    label_panels(axes, FREQUENCY, "mean share of energy")
    return figure
