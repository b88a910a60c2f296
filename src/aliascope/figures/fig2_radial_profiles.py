"""How the energy that each strided layer reads spreads over frequency, for three inputs."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from aliascope.figures._style import (
    FREQUENCY,
    PAGE,
    cutoff_handle,
    layer_handles,
    log_axis,
    mark_cutoff,
    rows_of,
    sheet,
    styled,
)


@styled
def draw(profiles: pd.DataFrame, *, caption: str) -> Figure:
    """A panel an input, a line a layer: share of its energy in each ring of frequencies.

    Args:
        profiles: The study's `phase1_radial_profiles`.
        caption: Under the figure.
    """
    layers = layer_handles(profiles["layer_name"].unique())
    inputs = profiles["input"].unique()
    figure, axes = sheet(
        PAGE,
        2.3,
        caption,
        [*layers.values(), cutoff_handle()],
        shape=(1, len(inputs)),
        beside=True,
        sharey=True,
    )
    log_axis(axes[0, 0].yaxis, profiles["energy"])
    for ax, kind in zip(axes[0], inputs, strict=True):
        rows = rows_of(profiles, input=kind)
        for name, handle in layers.items():
            line = rows_of(rows, layer_name=name)
            ax.plot(line["frequency"], line["energy"], color=handle.get_color(), linewidth=1.1)
        if np.all(np.isnan(rows["energy"])):
            ax.text(0.5, 0.5, "no energy", ha="center", transform=ax.transAxes)
        mark_cutoff(ax, rows)
        ax.set(title=kind, xlabel=FREQUENCY)
        ax.margins(x=0.02)
    axes[0, 0].set_ylabel("share of energy in the ring")
    return figure
