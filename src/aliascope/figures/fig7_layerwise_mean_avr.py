"""Mean AVR over the images in each strided layer of both models."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from aliascope.figures._style import (
    COLOUR,
    CONTROL,
    INTERVAL,
    METRICS,
    OFFSET,
    ROLES,
    control_handle,
    dots,
    pair_labels,
    role_handles,
    row_panels,
    rows_of,
    styled,
)


@styled
def draw(table: pd.DataFrame, *, names: Mapping[str, str], caption: str) -> Figure:
    """A row a layer, a dot a model, with the interval and the spread of images.

    Args:
        table: Rows of the study's `phase3_layerwise_avr_stats`, a panel a variant.
        names: Of the models, by role; the control may be missing.
        caption: Under the figure.
    """
    note = f"Thick: {INTERVAL}, often hidden by the dot; thin: ± one standard deviation of images."
    variants = table["variant"].unique()
    labels = pair_labels(rows_of(table, variant=variants[0]))
    handles = [*role_handles(names), *control_handle(names)]
    figure, axes = row_panels(labels, 0.36, f"{note} {caption}", handles, len(variants))
    for ax, variant in zip(axes, variants, strict=True):
        own = rows_of(table, variant=variant)
        for role in ROLES:
            rows = np.arange(len(own)) + OFFSET[role]
            mean, spread = own[f"{role}_mean"], own[f"{role}_std"]
            ax.hlines(rows, mean - spread, mean + spread, color=COLOUR[role], linewidth=0.6)
            dots(ax, rows, mean, own[f"{role}_low"], own[f"{role}_high"], role)
        if "control" in names:
            rows = np.arange(len(own)) + OFFSET["baseline"]
            ax.plot(own["control_mean"], rows, linewidth=0, **CONTROL)
        ax.set_xlim(left=min(0, ax.get_xlim()[0]))
        ax.set_xlabel(f"mean {METRICS[variant]}")
    return figure
