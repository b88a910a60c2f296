"""What each strided layer reads: its power spectrum, for three inputs."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse

from aliascope.figures._style import (
    COLUMN,
    FREQUENCY,
    PALE,
    SMALL,
    decibels,
    sheet,
    styled,
    wrap,
)

_INPUTS = ("natural", "checkerboard", "constant")
_FLOOR = -60  # dB
_RING = {"color": "white", "linewidth": 0.8, "linestyle": (0, (4, 2))}
_PEAK = {"marker": "o", "markersize": 4, "markerfacecolor": "none", "markeredgecolor": "#D55E00"}


@styled
def draw(powers: Mapping[str, np.ndarray], table: pd.DataFrame, *, caption: str) -> Figure:
    """A row a layer, a column an input: power in dB below its peak, cutoff ring and AVR.

    Args:
        powers: "INPUT/LAYER" -> power, (H, W), zero frequency in the centre.
        table: The study's `phase1_layerwise_avr`.
        caption: Under the figure.
    """
    caption = f"Dashed ring: cutoff (1/stride). Small circles: peak. {caption}"
    shape = (len(table), len(_INPUTS))
    figure, axes = sheet(
        COLUMN, 0.97 * len(table) + 0.9, caption, shape=shape, sharex=True, sharey=True
    )
    image = None
    for row, layer in zip(axes, table.to_dict("records"), strict=True):
        for ax, kind in zip(row, _INPUTS, strict=True):
            power, avr = powers[f"{kind}/{layer['layer_name']}"], layer[f"{kind}_avr"]
            image = _panel(ax, power, avr, str(layer["stride"])) or image
        row[-1].yaxis.set_label_position("right")
        name = wrap(layer["layer_name"], 0.85, at=".")
        row[-1].set_ylabel(name, rotation=270, va="bottom", size=SMALL)
    for ax, kind in zip(axes[0], _INPUTS, strict=True):
        ax.set_title(kind, loc="center")
    axes[-1, 1].set_xlabel(f"horizontal {FREQUENCY}")
    axes[len(axes) // 2, 0].set_ylabel(f"vertical {FREQUENCY}".replace(" (", "\n("))
    if image:
        label = f"dB relative to the panel's peak (cut at {_FLOOR})".replace("-", "−")
        share = 0.15 / figure.get_figheight()
        bar = figure.colorbar(
            image, ax=axes, location="bottom", fraction=share, pad=share, aspect=40, label=label
        )
        bar.outline.set_visible(False)
    return figure


def _panel(ax: Axes, power: np.ndarray, avr: int | float, stride: str) -> AxesImage | None:
    ax.set(xlim=(-1, 1), ylim=(-1, 1), xticks=[-1, 0, 1], yticks=[-1, 0, 1], aspect="equal")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=2)
    if np.isnan(avr):
        ax.set_facecolor(PALE)
        ax.text(0, 0, "no energy", ha="center", va="center", size=SMALL)
        return None
    level, extent = decibels(power, _FLOOR)
    image = ax.imshow(level, "viridis", vmin=_FLOOR, vmax=0, origin="lower", extent=extent)
    rows, across = [float(s) for s in stride.split("×") * 2][:2]
    ax.add_patch(Ellipse((0, 0), 2 / across, 2 / rows, fill=False, **_RING))
    v, u = np.nonzero(level == 0)
    (left, bottom), (dy, dx) = (extent[0], extent[2]), (2 / n for n in power.shape)
    x, y = left + dx * (u + 0.5), bottom + dy * (v + 0.5)
    ax.add_line(Line2D(x, y, linestyle="", clip_on=False, **_PEAK))
    box = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1}
    ax.text(0, -0.78, f"AVR {avr:.3f}", ha="center", va="center", size=6.5, bbox=box)
    return image
