"""Mean AVR over the images in each strided layer of both models."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from aliascope.figures._style import (
    COLOUR,
    INTERVAL,
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
    """A row a layer, a dot a model, with the interval and the spread of images.

    Args:
        table: The "avr" rows of the study's `phase3_layerwise_avr_stats`.
        names: Of the models, by role.
        caption: Under the figure.
    """
    note = f"Thick: {INTERVAL}, often hidden by the dot; thin: ± one standard deviation of images."
    handles = role_handles(names)
    figure, ax = row_sheet(pair_labels(table), 0.36, f"{note} {caption}", handles)
    for role in ROLES:
        rows = np.arange(len(table)) + OFFSET[role]
        mean, spread = table[f"{role}_mean"], table[f"{role}_std"]
        ax.hlines(rows, mean - spread, mean + spread, color=COLOUR[role], linewidth=0.6)
        dots(ax, rows, mean, table[f"{role}_low"], table[f"{role}_high"], role)
    ax.set_xlim(left=min(0, ax.get_xlim()[0]))
    ax.set_xlabel("mean alias violation\nratio (AVR)")
    return figure
