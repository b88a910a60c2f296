"""How the energy that each strided layer reads spreads over frequency, over the images."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from aliascope.figures._style import (
    FREQUENCY,
    INTERVAL,
    PAGE,
    ROLES,
    cutoff_handle,
    layer_handles,
    log_axis,
    mark_cutoff,
    rows_of,
    sheet,
    styled,
    wrap,
)


@styled
def draw(profiles: pd.DataFrame, *, names: Mapping[str, str], caption: str) -> Figure:
    """A panel a model, a line a layer: mean share of the energy in each ring of frequencies.

    Args:
        profiles: The study's `phase3_radial_profiles`.
        names: Of the models, by role.
        caption: Under the figure.
    """
    layers = layer_handles(profiles["layer_name"].unique())
    handles = [*layers.values(), cutoff_handle()]
    text = f"Bands: {INTERVAL}. {caption}"
    figure, (axes,) = sheet(PAGE, 2.5, text, handles, shape=(1, 2), beside=True, sharey=True)
    log_axis(axes[0].yaxis, profiles["energy"])
    for ax, role in zip(axes, ROLES, strict=True):
        rows = rows_of(profiles, role=role)
        for name, handle in layers.items():
            line, colour = rows_of(rows, layer_name=name), handle.get_color()
            ax.fill_between(
                line["frequency"], line["low"], line["high"], color=colour, alpha=0.25, linewidth=0
            )
            ax.plot(line["frequency"], line["energy"], color=colour, linewidth=1.1)
        mark_cutoff(ax, rows)
        ax.set(xlabel=FREQUENCY, title=wrap(names[role], 2.2))
        ax.margins(x=0.02)
    axes[0].set_ylabel("mean share of energy in the ring")
    return figure
