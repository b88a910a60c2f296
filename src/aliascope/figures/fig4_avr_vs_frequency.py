"""AVR of a pure tone against its frequency: the metric's own response."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from aliascope.figures._style import (
    COLUMN,
    FREQUENCY,
    PALE,
    cutoff_handle,
    mark_cutoff,
    sheet,
    styled,
)

_LINES = {
    "avr": {"color": "0.15", "marker": "o", "linewidth": 1.9, "label": "AVR"},
    "avr_box": {"color": "#56B4E9", "marker": "s", "markersize": 3, "label": "AVR, box band"},
}


@styled
def draw(table: pd.DataFrame, *, caption: str) -> Figure:
    """Both AVRs at each frequency; what lies above the cutoff aliases.

    Args:
        table: The study's `phase2a_frequency_sweep`.
        caption: Under the figure.
    """
    handles = [Line2D([], [], **line) for line in _LINES.values()]
    shade = Patch(color=PALE, label="aliased")
    figure, ((ax,),) = sheet(COLUMN, 2.1, caption, [*handles, cutoff_handle(), shade])
    ax.axvspan(table["cutoff"].iloc[0], 1, color=PALE, linewidth=0, zorder=0)
    mark_cutoff(ax, table)
    for column, line in _LINES.items():
        ax.plot(table["frequency"], table[column], clip_on=False, zorder=3, **line)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel=f"{FREQUENCY} of the tone")
    ax.set_ylabel("alias violation ratio (AVR)")
    return figure
