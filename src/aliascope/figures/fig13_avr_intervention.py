"""What anti-aliasing does to the AVR of each strided layer."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from aliascope.figures._style import (
    CONTROL,
    GREY,
    INTERVAL,
    METRICS,
    SMALL,
    control_handle,
    dots,
    note_row,
    pair_labels,
    role_handles,
    row_panels,
    rows_of,
    signed,
    styled,
)


@styled
def draw(table: pd.DataFrame, *, names: Mapping[str, str], caption: str) -> Figure:
    """A row a layer: change of the mean AVR with its interval, around zero.

    Args:
        table: Rows of the study's `phase3_layerwise_avr_stats`, a panel a variant.
        names: Of the models, by role; the control may be missing.
        caption: Under the figure.
    """
    note = f"Whiskers: {INTERVAL} change."
    change = f"{names['antialiased']} − {names['baseline']}"
    handles = [role_handles({**names, "antialiased": change})[1], *control_handle(names)]
    variants = table["variant"].unique()
    labels = pair_labels(rows_of(table, variant=variants[0]))
    figure, axes = row_panels(labels, 0.36, f"{note} {caption}", handles, len(variants))
    for ax, variant in zip(axes, variants, strict=True):
        own = rows_of(table, variant=variant)
        change, low, high = (own[f"difference{end}"] for end in ("", "_low", "_high"))
        ax.axvline(0, color=GREY, linewidth=0.8, zorder=1)
        rows = range(len(own))
        dots(ax, rows, change, low, high, "antialiased")
        if "control" in names:
            ax.plot(own["control_difference"], rows, linewidth=0, **CONTROL)
        for row, value in zip(rows, change, strict=True):
            note_row(ax, row, signed(value, 3), 33, ha="right", size=SMALL)
        ax.set_xlabel(f"change of the mean\n{METRICS[variant]}\n(left of 0: less aliasing)")
    return figure
