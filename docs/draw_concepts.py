"""Draw the pictures of docs/concepts.md, three of them from maps of EfficientNet-Lite0.

python docs/draw_concepts.py
"""

from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import aliascope
from aliascope.figures._style import COLOUR, FREQUENCY, GREY, INK, PAGE, decibels, styled
from aliascope.spectra import power_spectrum, sampled_ratios

FOLDER = Path(__file__).parent / "concepts"
PHOTOGRAPH, LAYER, CHANNEL = "china.jpg#0-0", "blocks.1.0.bn2.act.1", 94
"""A channel that answers to fine vertical stripes; the layer's other channels alias less."""
BEFORE, AFTER = COLOUR["baseline"], COLOUR["antialiased"]
DETAIL = (slice(46, 82), slice(28, 64))
"""Rows and columns of the map that are shown larger."""


@styled
def main():
    FOLDER.mkdir(exist_ok=True)
    photograph, dense, sampled, repaired, phase = maps()
    figures = {
        "grating.svg": grating(),
        "maps.png": panels_of_maps(photograph, dense, sampled, repaired, phase),
        "spectra.png": spectra(dense, sampled, repaired),
        "neighbours.svg": neighbours(dense, phase),
    }
    for name, figure in figures.items():
        write(figure, FOLDER / name)


def write(figure, path):
    """On white, which both light and dark pages show; a PNG in 256 colours."""
    figure.set_facecolor("white")
    if path.suffix == ".svg":
        figure.savefig(path, metadata={"Date": None})
        return
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=150)
    PIL.Image.open(drawn).convert("RGB").quantize(256).save(path, optimize=True)


def maps():
    """The photograph, the map that is about to be sampled, and its samples in both networks.

    Of `@blurpool:1`, the network with its decimations written out, the downsampler's input is the
    map that the original never computes as a whole, and its output what the original keeps of it.
    """
    found = {}
    entries = aliascope.open_images("photos").entries()
    pixels, _ = next(entry for entry in entries if entry.id == PHOTOGRAPH).load()
    for method in ("blurpool:1", "ideal"):
        loaded = aliascope.load_model(f"efficientnet_lite0@{method}")
        seen = loaded.preprocessing(pixels)
        layers = aliascope.strided_layers(loaded.module, loaded.example())
        with torch.no_grad(), aliascope.tap(loaded.module, layers, of="both") as tapped:
            loaded.module(loaded.preprocessing.normalise(seen[None]))
        found[method] = tapped.inputs[LAYER][0, CHANNEL], tapped.outputs[LAYER][0, CHANNEL]
        phase = loaded.module.get_submodule(LAYER).phase
    dense, sampled = found["blurpool:1"]
    return seen.permute(1, 2, 0).numpy(), dense, sampled, found["ideal"][1], phase


def sheet(height, rows, columns, **options):
    figure = Figure((PAGE, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def grating():
    """A wave too fine for every second sample, and the wave that these samples show."""
    figure, axes = sheet(3.0, 2, 1, height_ratios=(3, 2))
    top, bottom = axes[:, 0]
    x, pixels = np.linspace(0, 20, 801), np.arange(0, 21)
    fine, folded = 0.8, 0.2
    top.plot(x, np.cos(np.pi * fine * x), color=GREY, linewidth=0.9)
    top.plot(pixels, np.cos(np.pi * fine * pixels), "o", color=GREY, markersize=3)
    top.plot(x, np.cos(np.pi * folded * x), color=AFTER, linewidth=1.8)
    top.plot(pixels[::2], np.cos(np.pi * fine * pixels[::2]), "o", color=AFTER, markersize=6)
    top.set(xlim=(-0.3, 20.3), yticks=[], xticks=pixels[::2], xlabel="pixel")
    top.set_title("grey: a wave of frequency 0.8 and its pixels;  orange: every second pixel, "
                  "and the wave of frequency 0.2 through them")  # fmt: skip
    bottom.axvspan(0, 0.5, color="0.92", linewidth=0)
    bottom.axvline(0.5, color=GREY, linestyle="--", linewidth=0.8)
    bottom.vlines(fine, 0, 1, color=GREY, linewidth=3)
    bottom.vlines(folded, 0, 1, color=AFTER, linewidth=3)
    bend = {"arrowstyle": "-|>", "color": INK, "connectionstyle": "arc3,rad=0.12"}
    bottom.annotate("", (folded + 0.01, 0.9), (fine - 0.01, 0.9), arrowprops=bend)
    bottom.text(0.51, 0.12, "folds at the new Nyquist, 0.5", color=INK)
    bottom.text(0.01, 1.45, "what every second pixel can hold", color=INK)
    bottom.set(xlim=(0, 1), ylim=(0, 1.9), yticks=[], xlabel=FREQUENCY)
    for ax in (top, bottom):
        ax.spines["left"].set_visible(False)
    return figure


def panels_of_maps(photograph, dense, sampled, repaired, phase):
    """Whole maps, and a part of each; grey values from the smallest to nearly the largest."""
    figure, axes = sheet(3.8, 2, 4)
    share = alias_share(dense, sampled, phase)
    titles = ("what the network sees", "the map before sampling",
              f"every second sample:\n{share:.0%} of its energy is folded",
              "low-passed, then sampled")  # fmt: skip
    pictures = (photograph, dense, sampled, repaired)
    for column, title, picture in zip(axes.T, titles, pictures, strict=True):
        scale = len(picture) / len(dense)
        rows, columns = (slice(int(s.start * scale), int(s.stop * scale)) for s in DETAIL)
        limits = {}
        if picture.ndim == 2:
            low, high = np.quantile(picture, [0.01, 0.995])
            limits = {"vmin": low, "vmax": high, "cmap": "gray"}
        column[0].imshow(picture, **limits)
        corner = columns.start - 0.5, rows.start - 0.5
        size = columns.stop - columns.start, rows.stop - rows.start
        column[0].add_patch(Rectangle(corner, *size, fill=False, edgecolor=AFTER, linewidth=1.2))
        column[1].imshow(picture[rows, columns], **limits)
        size = f"{picture.shape[0]} × {picture.shape[1]}"
        column[0].set_title(title if "\n" in title else f"{title}\n{size}")
        for ax, colour in zip(column, ("none", AFTER), strict=True):
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set(visible=True, color=colour, linewidth=1.2)
    return figure


def alias_share(dense, sampled, phase):
    places = phase if isinstance(phase, tuple) else (phase, phase)
    found = sampled_ratios(dense[None, None], 2, phase=places, size=tuple(sampled.shape))
    return found["alias_share"].item()


def spectra(dense, sampled, repaired):
    """Power in dB below its peak; in the middle of the first, what a grid of stride 2 can hold."""
    figure, axes = sheet(2.5, 1, 3)
    titles = ("map before sampling", "every second sample", "low-passed, then sampled")
    for ax, title, picture in zip(axes[0], titles, (dense, sampled, repaired), strict=True):
        level, extent = decibels(power_spectrum(picture - picture.mean()).numpy(), -40)
        share = len(picture) / len(dense)
        image = ax.imshow(level, "viridis", vmin=-40, vmax=0, origin="lower",
                          extent=[share * end for end in extent])  # fmt: skip
        ax.set(xlim=(-1, 1), ylim=(-1, 1), xticks=[-1, 0, 1], yticks=[-1, 0, 1], title=title)
        edge = "white" if picture is dense else GREY
        box = Rectangle((-0.5, -0.5), 1, 1, fill=False, edgecolor=edge, linestyle="--")
        ax.add_patch(box)
        ax.set_xlabel("horizontal frequency")
    axes[0][0].set_ylabel("vertical frequency")
    bar = figure.colorbar(image, ax=[*axes[0]], shrink=0.8)
    bar.set_label("dB below the peak")
    bar.outline.set_visible(False)
    return figure


def neighbours(dense, phase):
    """One row of the map, and the two sets of samples that neighbouring pixels begin."""
    figure, axes = sheet(3.0, 2, 1, sharex=True, sharey=True)
    offset = phase[1] if isinstance(phase, tuple) else phase
    row = dense[dense.var(dim=1).argmax()]
    spectrum = torch.fft.rfft(row)
    spectrum[len(row) // 4 :] = 0
    smooth = torch.fft.irfft(spectrum, len(row))
    x = np.arange(len(row))
    titles = (
        "a row of the map: the samples of one grid and those of the next say different things",
        "the same row without what aliases: both say the same",
    )
    for ax, line, title in zip(axes[:, 0], (row, smooth), titles, strict=True):
        ax.plot(x, line, color="0.75", linewidth=0.8)
        for start, colour, mark in ((offset, BEFORE, "o"), (1 - offset, AFTER, "s")):
            ax.plot(x[start::2], line[start::2], color=colour, marker=mark, markersize=3,
                    linewidth=1.3)  # fmt: skip
        ax.set_title(title)
        ax.set(xlim=(28, 84), yticks=[])
        ax.spines["left"].set_visible(False)
    axes[1, 0].set_xlabel("column of the map")
    return figure


if __name__ == "__main__":
    main()
