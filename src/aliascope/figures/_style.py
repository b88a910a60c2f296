"""The one style of all figures: sizes, colours, labels, legend, caption, and how they are saved.

The two roles differ in colour (Okabe and Ito's, told apart by the colour-blind), in luminance and
in marker, so that a figure survives grey printing.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.style import context
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter
from numpy.typing import ArrayLike

COLUMN, PAGE = 3.5, 7.16
"""Width in inches of a figure in one column of a paper, and across both."""
ROLES = ("baseline", "antialiased")
COLOUR = {"baseline": "#0072B2", "antialiased": "#E69F00"}
MARKER = {"baseline": "o", "antialiased": "s"}
LINE = {"baseline": 1.9, "antialiased": 1.0}
"""The baseline's line is drawn first and wider: where both agree, both are seen."""
OFFSET = {"baseline": -0.17, "antialiased": 0.17}
"""Of the two models' marks in the row of a layer."""
CONTROL = {
    "marker": "D",
    "markersize": 6.5,
    "markeredgewidth": 0.8,
    "color": "0.4",
    "markerfacecolor": "none",
}
"""Of the network in which nothing was done: an open diamond around the baseline's dot."""
METRICS = {
    "avr": "alias violation ratio (AVR)\nof what is read",
    "sampled_avr": "alias violation ratio (AVR)\nof what is decimated",
    "alias_share": "alias share\nof what is kept",
}
"""Column of a run → what an axis calls it."""
INK, GREY, PALE = "0.15", "0.4", "0.9"
SMALL = 7
FREQUENCY = "frequency (1 = Nyquist)"
INTERVAL = "95 % interval of the mean"
"""What the columns `low` and `high` of the study's tables hold."""

_DPI = 300
_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure everywhere
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "legend.borderpad": 0.2,
    "legend.borderaxespad": 0.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "lines.markersize": 4,
    "svg.hashsalt": "aliascope",  # else its ids, and so the file, change from run to run
}
styled = context(["default", _STYLE])
"""Decorator of what draws or saves: a user's own matplotlibrc changes nothing."""


def sheet(
    width: int | float,
    height: int | float,
    caption: str,
    handles: Sequence[Artist] = (),
    *,
    shape: tuple[int, int] = (1, 1),
    beside: bool = False,
    **subplots: Any,
) -> tuple[Figure, np.ndarray]:
    """A figure with legend and caption, and its axes, an array of `shape`.

    Args:
        width: Of the figure, in inches.
        height: Of the panels, in inches; legend and caption come on top.
        caption: Small print under the figure, wrapped to its width.
        handles: What the legend explains, by their labels.
        shape: Rows and columns of panels.
        beside: Legend at the right of the panels rather than above.
        subplots: Options of `Figure.subplots`.
    """
    text = wrap(caption, width - 0.15)
    columns = 1 if beside else _legend_columns(handles, width)
    entries = 0.16 * math.ceil(len(handles) / columns)
    height = max(height, entries) if beside else height + entries
    height += 0.16 * (text.count("\n") + 1)
    figure = Figure((width, height), layout="constrained")
    if beside:
        figure.legend(handles=handles, loc="outside right upper")
    elif handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=columns, columnspacing=1.4)
    figure.supxlabel(text, x=0.05 / width, ha="left", size=SMALL, color=GREY, linespacing=1.3)
    return figure, figure.subplots(*shape, squeeze=False, **subplots)


def panels(
    titles: Sequence[str],
    caption: str,
    handles: Sequence[Artist],
    *,
    blocks: int = 1,
    **subplots: Any,
) -> tuple[Figure, list[list[Axes]]]:
    """A page of small panels, a layer each, at most four in a row; and their axes, by block.

    Args:
        titles: Of the panels of each block.
        caption: As of `sheet`.
        handles: As of `sheet`.
        blocks: Below each other.
        subplots: Options of `Figure.subplots`.
    """
    rows = math.ceil(len(titles) / 4)
    columns = math.ceil(len(titles) / rows)
    width = PAGE if columns > 1 else COLUMN
    shape = (blocks * rows, columns)
    figure, axes = sheet(width, 1.75 * shape[0], caption, handles, shape=shape, **subplots)
    found = []
    for block in np.split(axes, blocks):
        for ax, title in zip(block.flat, titles, strict=False):
            ax.set_title(wrap(title, 0.8 * width / columns - 0.1, at="."))
        for ax in block.flat[len(titles) :]:
            ax.remove()
        found.append(list(block.flat[: len(titles)]))
    return figure, found


def merged(axes: Sequence[Axes]) -> Axes:
    """One panel in the place of neighbours in a row of `sheet`."""
    figure, places = axes[0].figure, [ax.get_subplotspec() for ax in axes]
    first, last = cast("SubplotSpec", places[0]), cast("SubplotSpec", places[-1])
    for ax in axes:
        ax.remove()
    row = first.rowspan.start
    return figure.add_subplot(first.get_gridspec()[row, first.colspan.start : last.colspan.stop])


def decibels(
    power: np.ndarray, floor: int | float
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """A power spectrum in dB below its peak, and the extent of its bins (1 = Nyquist).

    Args:
        power: (H, W), zero frequency in the centre.
        floor: What lies deeper is cut off, in dB.
    """
    # The spectrum is periodic: −1 is also +1, which an even number of bins leaves out.
    whole = np.pad(power, [(0, 1 - n % 2) for n in power.shape], mode="wrap")
    y, x = (1 - n % 2 / n for n in power.shape)  # frequency of the last bin, odd or even
    dy, dx = (1 / n for n in power.shape)
    level = 10 * np.log10(np.maximum(whole / whole.max(), 10 ** (floor / 10)))
    return level, (-x - dx, x + dx, -y - dy, y + dy)


def label_panels(axes: Sequence[Axes], x: str, y: str) -> None:
    """Axis labels at the left of each row and under each column of `panels`, where a panel ends."""
    place = axes[0].get_subplotspec()
    columns = place.get_gridspec().ncols if place else 1
    for i, ax in enumerate(axes):
        if i % columns == 0:
            ax.set_ylabel(y)
        if i + columns >= len(axes):
            ax.set_xlabel(x)
            ax.tick_params(labelbottom=True)


def row_sheet(
    labels: Sequence[str], row: int | float, caption: str, handles: Sequence[Artist]
) -> tuple[Figure, Axes]:
    """A figure of one column with a named row a layer, and its axes.

    Args:
        labels: Of the rows, from the top.
        row: Height of a row in inches; more where a label needs it.
        caption: As of `sheet`.
        handles: As of `sheet`.
    """
    broken = [_break_names(label) for label in labels]
    row = max(row, 0.13 * max(label.count("\n") + 1 for label in broken) + 0.08)
    figure, ((ax,),) = sheet(COLUMN, max(row * len(labels) + 0.5, 1.2), caption, handles)
    name_rows(ax, broken)
    return figure, ax


def row_panels(
    labels: Sequence[str], row: int | float, caption: str, handles: Sequence[Artist], count: int
) -> tuple[Figure, list[Axes]]:
    """As `row_sheet`, but with so many panels that share the rows; several take a page."""
    if count == 1:
        figure, ax = row_sheet(labels, row, caption, handles)
        return figure, [ax]
    broken = [_break_names(label) for label in labels]
    row = max(row, 0.13 * max(label.count("\n") + 1 for label in broken) + 0.08)
    height = row * len(labels) + 0.5
    figure, axes = sheet(PAGE, height, caption, handles, shape=(1, count), sharey=True)
    for ax in axes.flat:
        name_rows(ax, broken)
    return figure, list(axes.flat)


def rows_of(frame: pd.DataFrame, **where: str) -> pd.DataFrame:
    """The rows in which each of these columns has that value."""
    match = [frame[column] == value for column, value in where.items()]
    return frame.take(np.flatnonzero(np.all(match, axis=0)))


def name_rows(ax: Axes, labels: Sequence[str]) -> None:
    """A row a label, from the top."""
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")


def note_row(ax: Axes, row: int, text: str, points: int | float, **options: Any) -> None:
    """Text beside a row, that many points right of the axes."""
    place = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points"}
    ax.annotate(text, (1, row), (points, 0), va="center_baseline", **place, **options)


def pair_labels(table: pd.DataFrame) -> list[str]:
    """Name of each layer, under it its partner's in the other model where that has another."""
    pairs = zip(table["layer_name"], table["antialiased_layer"], strict=True)
    return [a if a == b else f"{a}\n↔ {b}" for a, b in pairs]


def dots(
    ax: Axes, rows: ArrayLike, x: ArrayLike, low: ArrayLike, high: ArrayLike, role: str
) -> None:
    """A dot and its interval in each row, in the colour of the role."""
    ax.hlines(rows, low, high, color=COLOUR[role], linewidth=1.3)
    ax.plot(x, rows, MARKER[role], color=COLOUR[role])


def role_handles(names: Mapping[str, str], *, lines: bool = False) -> list[Line2D]:
    """What the legend says of the two models: their dots, or their lines."""
    return [
        Line2D(
            [],
            [],
            color=COLOUR[role],
            marker="" if lines else MARKER[role],
            linewidth=LINE[role] if lines else 0,
            label=names[role],
        )
        for role in ROLES
    ]


def control_handle(names: Mapping[str, str]) -> list[Line2D]:
    """What the legend says of the control; nothing where there is none."""
    label = f"control: {names['control']}" if "control" in names else ""
    return [Line2D([], [], linewidth=0, label=label, **CONTROL)] if label else []


def layer_handles(names: Iterable[str]) -> dict[str, Line2D]:
    """A line a layer, from dark (the first) to light (the last)."""
    names = list(names)
    colours = colormaps["viridis"](np.linspace(0, 0.88, len(names)))
    return {
        name: Line2D([], [], color=colour, linewidth=1.1, label=name)
        for name, colour in zip(names, colours, strict=True)
    }


def cutoff_handle() -> Line2D:
    """What the legend says of `mark_cutoff`."""
    return Line2D([], [], color=GREY, linestyle="--", linewidth=0.8, label="cutoff (1/stride)")


def mark_cutoff(ax: Axes, rows: pd.DataFrame) -> None:
    """A dashed line at each cutoff that occurs."""
    for cutoff in rows["cutoff"].unique():
        ax.axvline(cutoff, color=GREY, linestyle="--", linewidth=0.8, zorder=1)


def log_axis(axis: Axis, values: ArrayLike, *, span: int = 8) -> float:
    """Make an axis logarithmic, over whole decades, and give its lower limit.

    Args:
        axis: The x or y axis.
        values: What it has to hold; zeros and NaN do not count.
        span: Decades at most; what lies deeper is cut off.
    """
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known) & (known > 0)]
    lowest, highest = np.log10([known.min(), known.max()]) if known.size else (-1.0, 0.0)
    top = math.ceil(highest)
    bottom = min(max(math.floor(lowest), top - span), top - 1)
    name = "x" if axis is axis.axes.xaxis else "y"
    axis.axes.set(**{f"{name}scale": "log", f"{name}lim": (10.0**bottom, 10.0**top)})
    step = math.ceil((top - bottom) / 6)
    axis.set_major_locator(FixedLocator((10.0 ** np.arange(top, bottom - 1, -step)).tolist()))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())
    return 10.0**bottom


def signed(value: int | float, decimals: int = 2) -> str:
    """A number with its sign, and a minus as wide as the plus.

    >>> signed(-0.123), signed(-0.0001), signed(4.2, 0), signed(float("nan"))
    ('−0.12', '+0.00', '+4', 'n/a')
    """
    if math.isnan(value):
        return "n/a"
    return f"{value:+z.{decimals}f}".replace("-", "−")


def wrap(text: str, inches: int | float, *, at: str = " ") -> str:
    """Break text after spaces, or after other characters, into lines of at most that width."""
    lines = [""]
    for piece in re.split(f"(?<=[{re.escape(at)}])", text):
        if lines[-1] and _width(lines[-1] + piece) > inches:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.strip() for line in lines)


@styled
def save(figure: Figure, folder: str | Path, name: str) -> tuple[Path, Path]:
    """Write `name`.png (300 dpi) and `name`.svg, whose bytes depend on the figure alone."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    figure.savefig(png, dpi=_DPI, metadata={"Software": None})
    figure.set_layout_engine("none")  # laid out again, the other file would differ by a little
    figure.savefig(svg, dpi=_DPI, metadata={"Date": None})
    return png, svg


def _width(text: str) -> float:
    """In inches, in small print."""
    font = FontProperties(family="DejaVu Sans", size=SMALL)
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72


def _break_names(label: str) -> str:
    """Names too long for the left of a column go on after a dot."""
    return "\n".join(wrap(name, 1.5, at=".") for name in label.split("\n"))


def _legend_columns(handles: Sequence[Artist], width: int | float) -> int:
    widths = [_width(str(handle.get_label())) + 0.45 for handle in handles]  # the mark and a gap
    if not widths or sum(widths) < width:
        return max(1, len(widths))
    return max(1, int(width / max(widths)))
