import importlib
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import same_color, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.text import Text
from PIL import Image

from aliascope import figures
from aliascope.figures import FIGURES, _style
from aliascope.figures._style import (
    COLOUR,
    COLUMN,
    OFFSET,
    PAGE,
    ROLES,
    log_axis,
    rows_of,
    save,
    wrap,
)

NAMES = {"baseline": "tiny_net", "antialiased": "tiny_net@blurpool:2"}
LITE_NAMES = {"baseline": "efficientnet_lite0", "antialiased": "efficientnet_lite0@blurpool:2"}
INPUTS = ("natural", "checkerboard", "constant")
CAPTION = "60 images of 60 photographs: synthetic numbers that mean nothing, nowhere."
RESNET = ["conv1", *(f"layer{i}.0.{op}" for i in (2, 3, 4) for op in ("conv2", "downsample.0"))]
BLURRED = [name.replace("conv2", "conv3.0") for name in RESNET]
LITE = [f"blocks.{i}.0.conv_dw" for i in range(5)]
LITE_BLURRED = [f"blocks.{i}.0.bn2.act.1" for i in range(5)]
DEEP = [f"stages.{i}.blocks.0.downsample.conv2_3x3" for i in range(16)]

ARGUMENTS = {
    "fig1_layerwise_power_spectra": ("powers", "avr"),
    "fig2_radial_profiles": ("radial",),
    "avr_comparison": ("avr",),
    "fig4_avr_vs_frequency": ("sweep",),
    "fig5_layerwise_avr_comparison": ("checkerboard",),
    "fig6_aliasing_folding": ("folding", "spectra"),
    "fig7_layerwise_mean_avr": ("stats",),
    "fig8_avr_distributions": ("scores",),
    "fig9_radial_profiles_natural": ("profiles",),
    "fig10_avr_sis_scatter": ("scores", "correlation"),
    "fig11_correlation_comparison": ("correlation",),
    "fig12_sis_distributions": ("images",),
    "fig13_avr_intervention": ("stats",),
    "fig14_tradeoff": ("tradeoff", "effects"),
    "fig15_radial_overlay": ("profiles",),
}
WITHOUT_NAMES = FIGURES[:4]


def study(layers=RESNET, partners=None, *, n=60, seed=0):
    """Frames in the study's formats, by what `ARGUMENTS` calls them."""
    rng = np.random.default_rng(seed)
    partners = partners or layers
    return SimpleNamespace(
        **of_inputs(layers, rng),
        **of_images(layers, partners, n, rng),
        checkerboard=pd.DataFrame(rng.random((len(layers), 2)), columns=roles("{}_avr")).assign(
            layer_name=layers, antialiased_layer=partners, variant="avr"
        ),
        profiles=radial_profiles(layers, rng),
        folding=folding(rng),
        spectra={
            f"{role}/{where}": rng.exponential(size=(side, side))
            for role in ROLES
            for where, side in (("before", 16), ("after", 9))
        },
        tradeoff=pd.DataFrame(
            {
                "model": NAMES.values(),
                "role": ROLES,
                "mean_sis": [0.0229, 0.0138],
                "sis_low": [0.021, 0.0127],
                "sis_high": [0.0249, 0.015],
                "logit_instability": [0.17, 0.12],
                "logit_instability_low": [0.15, 0.11],
                "logit_instability_high": [0.19, 0.14],
                "agreement": [0.79, 0.94],
                "agreement_low": [0.71, 0.9],
                "agreement_high": [0.86, 0.97],
                "latency_ms": [21.3, 25.8],
                "latency_low_ms": [20.9, 25.1],
                "latency_high_ms": [22.0, 26.9],
                "accuracy": [0.76, np.nan],
            }
        ),
        effects=pd.DataFrame(
            {
                "metric": [
                    *("logit instability, crop", "disagreement, crop", "mean SIS, crop"),
                    *("logit instability, circular", "latency, batch 1"),
                ],
                "change": [-0.31, -0.27, -0.398, -0.37, 0.189],
                "change_low": [-0.33, -0.36, -0.43, -0.39, 0.17],
                "change_high": [-0.29, -0.15, -0.35, -0.34, 0.21],
            }
        ),
    )


def roles(pattern):
    return [pattern.format(role) for role in ROLES]


def of_inputs(layers, rng):
    """One photograph and the two extremes: the first layer's map is even, the others' odd."""
    powers, rows, rings = {}, [], []
    for i, layer in enumerate(layers):
        side = 15 if i else 16
        f = np.fft.fftshift(2 * np.fft.fftfreq(side))
        radius = np.hypot(f[:, None], f)
        noise = rng.exponential(size=(side, side))
        spectra = {"natural": noise / (0.05 + radius) ** 3, "checkerboard": i * noise * radius}
        spectra["constant"] = i * 1e-5 * noise
        if i == 0:
            spectra["checkerboard"][0, 0] = 1
        spectra["constant"][side // 2, side // 2] = 1
        row = {"layer_name": layer, "order": i, "kind": "conv", "stride": "2"}
        for kind, power in spectra.items():
            powers[f"{kind}/{layer}"] = power
            row[f"{kind}_avr"] = power[radius > 0.5].sum() / power.sum()
            energy = np.bincount(np.rint(radius.ravel() * side / 2).astype(int), power.ravel())
            ring = {"frequency": np.arange(len(energy)) * 2 / side, "energy": energy / power.sum()}
            rings.append(pd.DataFrame({"input": kind, "layer_name": layer, **ring, "cutoff": 0.5}))
        rows.append(row)
    f = np.linspace(0.1, 0.9, 10)
    avr = 1 / (1 + np.exp(-40 * (f - 0.5)))
    sweep = pd.DataFrame({"frequency": f, "avr": avr, "avr_box": 0.95 * avr, "cutoff": 0.5})
    avrs = pd.DataFrame(rows)
    return {"powers": powers, "avr": avrs, "radial": pd.concat(rings), "sweep": sweep}


def of_images(layers, partners, n, rng):
    ids = [f"photo{i}" for i in range(n)]
    sis = {"baseline": rng.lognormal(-5, 1.5, n)}
    sis["antialiased"] = sis["baseline"] * rng.uniform(0.3, 0.9, n)
    logits = {role: 4 * values**0.5 for role, values in sis.items()}
    values, stats, correlation = [], [], []
    for layer, partner in zip(layers, partners, strict=True):
        named = {"layer_name": layer, "antialiased_layer": partner, "variant": "avr", "n": n}
        row, link = {**named}, {**named}
        for role in ROLES:
            avr = np.clip(rng.uniform(0.1, 0.6) + rng.normal(0, 0.03, n), 0, 1)
            columns = {"role": role, "image_id": ids, "layer_name": layer, "avr": avr}
            columns["variant"] = "avr"
            stability = {"sis": sis[role], "logit_instability": logits[role]}
            values.append(pd.DataFrame({**columns, **stability}))
            row |= {f"{role}_mean": avr.mean(), f"{role}_std": avr.std(ddof=1)}
            row |= {f"{role}_low": avr.mean() - 0.01, f"{role}_high": avr.mean() + 0.02}
            r = np.corrcoef(avr, sis[role])[0, 1]
            for name, x in (("r", r), ("r_logit_instability", 0.8 * r)):
                ends = {f"{role}_{name}_low": x - 0.11, f"{role}_{name}_high": x + 0.14}
                link |= {f"{role}_{name}": x, **ends}
        row["difference"] = row["antialiased_mean"] - row["baseline_mean"]
        row["difference_low"] = row["difference"] - 0.015
        row["difference_high"] = row["difference"] + 0.025
        stats.append(row)
        correlation.append(link)
    images = [
        pd.DataFrame(
            {"role": role, "image_id": ids, "sis": sis[role], "logit_instability": logits[role]}
        )
        for role in ROLES
    ]
    return {
        "scores": pd.concat(values, ignore_index=True),
        "images": pd.concat(images, ignore_index=True),
        "stats": pd.DataFrame(stats),
        "correlation": pd.DataFrame(correlation),
    }


def radial_profiles(layers, rng):
    frequency = np.linspace(0, 1.4, 12)
    rows = []
    for role in ROLES:
        for layer in layers:
            energy = np.exp(-6 * frequency) * rng.uniform(0.8, 1.2, 12)
            band = {"energy": energy, "low": 0.9 * energy, "high": 1.2 * energy, "cutoff": 0.5}
            columns = {"role": role, "layer_name": layer, "frequency": frequency}
            rows.append(pd.DataFrame({**columns, **band}))
    return pd.concat(rows, ignore_index=True)


def folding(rng, *, cutoff=0.5, tone=0.75):
    rows = []
    for signal, pitch in (("tone", tone), ("photograph", np.nan)):
        for role in ROLES:
            for where, end in (("before", 1.0), ("after", cutoff)):
                f = np.linspace(0, end, 33)
                power = rng.uniform(0.5, 1, 33) * np.exp(-4 * f)
                columns = {"role": role, "signal": signal, "where": where, "layer_name": "conv1"}
                line = {"frequency": f, "power": power, "cutoff": cutoff, "tone": pitch}
                rows.append(pd.DataFrame({**columns, **line}))
    return pd.concat(rows, ignore_index=True)


def draw(name, data, *, names=NAMES, caption=CAPTION):
    options = {"caption": caption} | ({} if name in WITHOUT_NAMES else {"names": names})
    frames = [getattr(data, frame) for frame in ARGUMENTS[name]]
    return importlib.import_module(f"aliascope.figures.{name}").draw(*frames, **options)


@pytest.fixture(scope="module")
def data():
    return study(RESNET, BLURRED)


def texts(figure):
    """What can be read in the figure, of a figure that has been laid out."""
    hidden = beyond_limits(figure)
    return [
        text
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and text not in hidden
    ]


def beyond_limits(figure):
    """Tick labels that matplotlib holds but does not draw."""
    held, drawn = set(), set()
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        for ticks, found in (
            ([*axis.majorTicks, *axis.minorTicks], held),
            (axis._update_ticks(), drawn),
        ):
            found.update(label for tick in ticks for label in (tick.label1, tick.label2))
    return held - drawn


def boxes(figure):
    figure.draw_without_rendering()
    return {text: text.get_window_extent() for text in texts(figure)}


def overlaps(box):
    """Pairs of texts that share more than a pixel, of what `boxes` found."""
    shrunk = {text: extent.padded(-0.5) for text, extent in box.items()}
    return [
        (a.get_text(), b.get_text())
        for (a, box_a), (b, box_b) in combinations(shrunk.items(), 2)
        if box_a.overlaps(box_b)
    ]


def cut_off(figure, box):
    """Texts that do not lie within the figure."""
    page = figure.bbox.padded(0.5)
    return [
        text.get_text()
        for text, found in box.items()
        if not (page.contains(found.x0, found.y0) and page.contains(found.x1, found.y1))
    ]


def words(figure):
    """All text of the figure, lines joined."""
    return " | ".join(text.get_text().replace("\n", " ") for text in texts(figure))


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def dots(ax, role):
    """(x, y) of the dots of a role."""
    found = [
        line.get_xydata()
        for line in ax.lines
        if line.get_marker() == _style.MARKER[role] and same_color(line.get_color(), COLOUR[role])
    ]
    return np.concatenate(found)


def whiskers(ax, role, *, width=1.3):
    """(low, high) and row of the horizontal whiskers of a role."""
    (found,) = [
        lines
        for lines in ax.collections
        if isinstance(lines, LineCollection)
        and same_color(lines.get_color(), COLOUR[role])
        and lines.get_linewidth()[0] == width
    ]
    segments = np.array(found.get_segments())  # (rows, 2 ends, xy)
    assert (segments[:, 0, 1] == segments[:, 1, 1]).all()
    return segments[:, :, 0], segments[:, 0, 1]


def curves(ax, role):
    """Lines of a role that have no marker."""
    return [
        line.get_xydata()
        for line in ax.lines
        if same_color(line.get_color(), COLOUR[role]) and line.get_marker() in {"", "None"}
    ]


def cutoffs(ax):
    return [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"]


def test_every_module_is_listed():
    folder = Path(figures.__file__).parent
    names = {*FIGURES, "methods_front", "attribution"}  # those that no study draws
    assert names == {path.stem for path in folder.glob("[!_]*.py")}
    assert set(FIGURES) == set(ARGUMENTS)
    assert {*names, "FIGURES", "save"} == set(figures.__all__)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize(
    ("layers", "partners"),
    [
        (RESNET, BLURRED),
        pytest.param(LITE, LITE_BLURRED, marks=pytest.mark.slow),
        (DEEP[:1], None),
        (DEEP, None),
    ],
    ids=["seven", "five", "one", "sixteen"],
)
def test_legible(name, layers, partners):
    """In one test because the layout is what takes time."""
    figure = draw(name, study(layers, partners), names=LITE_NAMES)
    assert figure.get_figwidth() in {COLUMN, PAGE}
    box = boxes(figure)
    assert not overlaps(box)
    assert not cut_off(figure, box)
    assert min(text.get_fontsize() for text in box) >= 6.5
    # The caption stands under all else.
    (caption,) = [t for t in box if CAPTION in t.get_text().replace("\n", " ")]
    assert box[caption].y0 == min(b.y0 for b in box.values())
    assert caption.get_fontsize() == 7
    assert same_color(caption.get_color(), _style.GREY)
    # Axes are labelled and bare.
    axes = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    assert any(ax.get_xlabel() for ax in axes)
    assert not any(ax.spines[side].get_visible() for ax in axes for side in ("top", "right"))


def test_the_judge_of_overlaps_finds_them():
    figure = Figure((2, 2))
    figure.text(0.1, 0.5, "first")
    figure.text(0.1, 0.8, "apart")
    assert not overlaps(boxes(figure))
    figure.text(0.2, 0.52, "second")
    assert overlaps(boxes(figure)) == [("first", "second")]


def test_the_judge_of_overlaps_reads_ticks_in_view():
    figure = Figure((2, 2))
    ax = figure.subplots()
    ax.set_xticks([0, 0.01, 9], ["here", "there", "beyond"])
    ax.set(xlim=(0, 1), yticks=[])
    assert overlaps(boxes(figure)) == [("here", "there")]
    assert "beyond" not in words(figure)


def test_the_judge_of_edges_finds_what_is_cut_off():
    figure = Figure((2, 2))
    figure.text(0.1, 0.5, "inside")
    figure.text(0.8, 0.8, "too long to fit")
    assert cut_off(figure, boxes(figure)) == ["too long to fit"]


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in WITHOUT_NAMES])
def test_models_are_named_as_given(name, data):
    names = {"baseline": "some:model", "antialiased": "other@model:3"}
    figure = draw(name, data, names=names)
    assert all(model in words(figure) for model in names.values())
    assert "tiny_net" not in words(figure)


def test_roles_differ_in_grey():
    grey = [np.dot(to_rgb(COLOUR[role]), [0.2126, 0.7152, 0.0722]) for role in ROLES]
    assert abs(grey[0] - grey[1]) > 0.2
    assert len(set(_style.MARKER.values())) == 2


@pytest.mark.parametrize(
    ("name", "pixels"), [("fig4_avr_vs_frequency", 1050), ("fig14_tradeoff", 2148)]
)
def test_saved(name, pixels, data, tmp_path):
    png, svg = save(draw(name, data), tmp_path / "new" / "folder", name)
    assert (png, svg) == (tmp_path / f"new/folder/{name}.png", tmp_path / f"new/folder/{name}.svg")
    with Image.open(png) as image:
        assert image.width == pixels
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    root = ET.parse(svg).getroot()  # noqa: S314  (our own file)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "date" not in svg.read_text()


def test_the_same_figure_gives_the_same_bytes_whatever_the_users_style(data, tmp_path):
    name = "fig5_layerwise_avr_comparison"
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": "other", "lines.marker": "v"}):
        first = save(draw(name, data), tmp_path / "a", name)
    for a, b in zip(first, save(draw(name, data), tmp_path / "b", name), strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_wrap():
    text = "a caption that is far too long for a line of this width"
    lines = wrap(text, 1).split("\n")
    assert len(lines) > 2
    assert " ".join(lines) == text
    assert max(_style._width(line) for line in lines) <= 1
    assert wrap("layer2.0.downsample.0", 0.8, at=".") == "layer2.0.\ndownsample.0"
    assert wrap("timm:resnet@blur:2", 0.7, at="@:") == "timm:resnet@\nblur:2"
    assert wrap("unbreakable", 0.1) == "unbreakable"


def test_rows_of():
    frame = pd.DataFrame({"role": ["a", "b", "a"], "layer": ["x", "x", "y"], "n": [1, 2, 3]})
    assert rows_of(frame, role="a")["n"].tolist() == [1, 3]
    assert rows_of(frame, role="a", layer="y")["n"].tolist() == [3]
    assert rows_of(frame, role="c").empty


def test_legend_goes_on_below_where_names_are_long(data):
    name = "fig5_layerwise_avr_comparison"
    long = {role: f"a_very_long_name_of_the_{role}_model" for role in ROLES}
    short, high = draw(name, data), draw(name, data, names=long)
    assert [figure.legends[0]._ncols for figure in (short, high)] == [2, 1]
    assert high.get_figheight() > short.get_figheight()
    assert not cut_off(high, boxes(high))


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ([0.02, 0.3], (1e-2, 1)),
        ([0, np.nan, 0.05], (1e-2, 1e-1)),
        ([1e-12, 0.5], (1e-8, 1)),
        ([0, 0], (1e-1, 1)),
        ([], (1e-1, 1)),
        ([1], (1e-1, 1)),
        ([0.02, 20], (1e-2, 1e2)),
    ],
)
def test_log_axis_covers_whole_decades(values, limits):
    ax = Figure().subplots()
    assert log_axis(ax.xaxis, values) == pytest.approx(limits[0])
    assert ax.get_xlim() == pytest.approx(limits)
    assert ax.get_xscale() == "log"


# fig1


def panels_of_fig1(figure, layers):
    return np.array([ax for ax in figure.axes if ax.get_label() != "<colorbar>"]).reshape(
        len(layers), 3
    )


def test_fig1_shows_each_spectrum_below_its_peak(data):
    figure = draw("fig1_layerwise_power_spectra", data)
    axes = panels_of_fig1(figure, RESNET)
    assert [ax.get_title("center") for ax in axes[0]] == list(INPUTS)
    assert [ax.get_ylabel().replace("\n", "") for ax in axes[:, -1]] == RESNET
    for row, layer in zip(axes, RESNET, strict=True):
        for ax, kind in zip(row, INPUTS, strict=True):
            power = data.powers[f"{kind}/{layer}"]
            side = len(power)
            (image,) = ax.images
            shown = np.asarray(image.get_array())
            with np.errstate(divide="ignore"):
                level = np.maximum(10 * np.log10(power / power.max()), -60)
            np.testing.assert_allclose(shown[:side, :side], level, atol=1e-9)
            left, right, bottom, _ = image.get_extent()
            width = (right - left) / shown.shape[1]
            frequency = left + width * (np.arange(side) + 0.5)
            np.testing.assert_allclose(
                frequency, np.fft.fftshift(2 * np.fft.fftfreq(side)), atol=1e-12
            )
            assert (bottom, image.origin) == (left, "lower")
            assert image.get_clim() == (-60, 0)
            assert ax.get_xlim() == ax.get_ylim() == (-1, 1)


def test_fig1_writes_the_avr_and_marks_the_peak(data):
    axes = panels_of_fig1(draw("fig1_layerwise_power_spectra", data), RESNET)
    shown = [[ax.texts[0].get_text() for ax in row] for row in axes]
    columns = [f"{kind}_avr" for kind in INPUTS]
    assert shown == [[f"AVR {x:.3f}" for x in row] for row in data.avr[columns].to_numpy()]
    assert shown[0][1:] == ["AVR 1.000", "AVR 0.000"]
    corners = axes[0, 1].lines[0].get_xydata()
    np.testing.assert_allclose(corners, [(-1, -1), (1, -1), (-1, 1), (1, 1)], atol=1e-12)
    for row in axes:
        np.testing.assert_allclose(row[2].lines[0].get_xydata(), [(0, 0)], atol=1e-12)


@pytest.mark.parametrize(
    ("stride", "size"), [("2", (1, 1)), (2, (1, 1)), ("2×1", (2, 1)), ("4×2", (1, 0.5))]
)
def test_fig1_ring_lies_at_the_cutoff(stride, size):
    data = study(RESNET[:1])
    data.avr["stride"] = stride
    axes = panels_of_fig1(draw("fig1_layerwise_power_spectra", data), RESNET[:1])
    for ax in axes.flat:
        (ring,) = [patch for patch in ax.patches if isinstance(patch, Ellipse)]
        assert (ring.width, ring.height) == size
        assert ring.center == (0, 0)


def test_fig1_without_energy():
    data = study(RESNET[:2])
    data.powers["constant/conv1"] = np.zeros((16, 16))
    data.avr.loc[0, "constant_avr"] = np.nan
    axes = panels_of_fig1(draw("fig1_layerwise_power_spectra", data), RESNET[:2])
    assert [text.get_text() for text in axes[0, 2].texts] == ["no energy"]
    assert not axes[0, 2].images
    assert axes[1, 2].images


def test_fig1_with_no_energy_anywhere():
    data = study(RESNET[:1])
    data.avr[[f"{kind}_avr" for kind in INPUTS]] = np.nan
    figure = draw("fig1_layerwise_power_spectra", data)
    assert words(figure).count("no energy") == 3


# fig2, fig9, fig15


def test_fig2_draws_a_line_a_layer(data):
    figure = draw("fig2_radial_profiles", data)
    assert [ax.get_title("left") for ax in figure.axes] == list(INPUTS)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [*RESNET, "cutoff (1/stride)"]
    for ax, kind in zip(figure.axes, INPUTS, strict=True):
        assert ax.get_yscale() == "log"
        assert ax.get_xlabel() == "frequency (1 = Nyquist)"
        assert cutoffs(ax) == [0.5]
        for line, layer in zip(ax.lines, RESNET, strict=False):
            rows = rows_of(data.radial, input=kind, layer_name=layer)
            np.testing.assert_array_equal(line.get_xydata(), rows[["frequency", "energy"]])
    brightness = [sum(to_rgb(line.get_color())) for line in figure.axes[0].lines[:7]]
    assert brightness == sorted(brightness)
    assert "share of energy" in figure.axes[0].get_ylabel()


def test_fig2_without_energy(data):
    data = study(RESNET[:2])
    data.radial.loc[data.radial["input"] == "constant", "energy"] = np.nan
    figure = draw("fig2_radial_profiles", data)
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.axes[2].texts] == ["no energy"]


def band(ax, colour):
    """Frequencies, lower and upper edge of the band in a colour."""
    (found,) = [
        area
        for area in ax.collections
        if isinstance(area, PolyCollection) and same_color(area.get_facecolor()[0][:3], colour)
    ]
    points = found.get_paths()[0].vertices
    x = np.unique(points[:, 0])
    return x, *([f(points[points[:, 0] == at, 1]) for at in x] for f in (min, max))


def test_fig9_draws_bands_of_each_model(data):
    figure = draw("fig9_radial_profiles_natural", data)
    assert [ax.get_title("left") for ax in figure.axes] == list(NAMES.values())
    for ax, role in zip(figure.axes, ROLES, strict=True):
        for line, layer in zip(ax.lines, RESNET, strict=False):
            rows = rows_of(data.profiles, role=role, layer_name=layer)
            np.testing.assert_array_equal(line.get_xydata(), rows[["frequency", "energy"]])
            x, low, high = band(ax, line.get_color())
            np.testing.assert_array_equal(x, rows["frequency"])
            np.testing.assert_array_equal(low, rows["low"])
            np.testing.assert_array_equal(high, rows["high"])
        assert cutoffs(ax) == [0.5]
        assert ax.get_yscale() == "log"
    assert "95 % interval" in words(figure)


def test_fig15_lays_the_models_over_each_other(data):
    figure = draw("fig15_radial_overlay", data)
    assert [ax.get_title("left").replace("\n", "") for ax in figure.axes] == RESNET
    for ax, layer in zip(figure.axes, RESNET, strict=True):
        for role in ROLES:
            rows = rows_of(data.profiles, role=role, layer_name=layer)
            (line,) = curves(ax, role)
            np.testing.assert_array_equal(line, rows[["frequency", "energy"]])
            _, low, high = band(ax, COLOUR[role])
            np.testing.assert_array_equal(low, rows["low"])
            np.testing.assert_array_equal(high, rows["high"])
        assert cutoffs(ax) == [0.5]


def test_a_cutoff_a_layer():
    data = study(RESNET[:2])
    data.profiles.loc[data.profiles["layer_name"] == "conv1", "cutoff"] = 0.25
    assert [cutoffs(ax) for ax in draw("fig15_radial_overlay", data).axes] == [[0.25], [0.5]]
    assert cutoffs(draw("fig9_radial_profiles_natural", data).axes[0]) == [0.25, 0.5]


@pytest.mark.parametrize("n", [1, 2, 4, 5, 7, 16])
def test_panels_are_labelled_at_the_edges(n):
    figure = draw("fig15_radial_overlay", study(DEEP[:n]))
    figure.draw_without_rendering()
    places = [ax.get_subplotspec() for ax in figure.axes]
    under = {(place.rowspan.start, place.colspan.start) for place in places}
    for ax, place in zip(figure.axes, places, strict=True):
        below = (place.rowspan.start + 1, place.colspan.start)
        assert bool(ax.get_xlabel()) == (below not in under)
        assert bool(ax.get_ylabel()) == (place.colspan.start == 0)


# avr_comparison, fig4, fig5


def test_avr_comparison_draws_and_writes_each_value(data):
    figure = draw("avr_comparison", data)
    (ax,) = figure.axes
    assert labels(ax.yaxis) == RESNET
    assert "AVR" in ax.get_xlabel()
    for bars, kind in zip(ax.containers, INPUTS, strict=True):
        np.testing.assert_array_equal([bar.get_width() for bar in bars], data.avr[f"{kind}_avr"])
        middle = [bar.get_y() + bar.get_height() / 2 for bar in bars]
        np.testing.assert_array_equal(np.rint(middle), range(7))
    expected = [f"{x:.3f}" for kind in INPUTS for x in data.avr[f"{kind}_avr"]]
    assert [text.get_text() for text in ax.texts] == expected
    assert {"1.000", "0.000"} < set(expected)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(INPUTS)


def test_avr_comparison_without_energy():
    data = study(RESNET[:1])
    data.avr["constant_avr"] = np.nan
    assert draw("avr_comparison", data).axes[0].texts[2].get_text() == "no energy"


def test_fig4_draws_both_avrs(data):
    (ax,) = draw("fig4_avr_vs_frequency", data).axes
    lines = [line.get_xydata() for line in ax.lines if line.get_marker() in {"o", "s"}]
    for line, column in zip(lines, ("avr", "avr_box"), strict=True):
        np.testing.assert_array_equal(line, data.sweep[["frequency", column]])
    assert cutoffs(ax) == [0.5]
    (shade,) = ax.patches
    assert shade.get_bbox().intervalx.tolist() == [0.5, 1]
    assert ax.get_xlabel() == "frequency (1 = Nyquist) of the tone"


def test_fig5_draws_a_dot_a_model(data):
    (ax,) = draw("fig5_layerwise_avr_comparison", data).axes
    for role in ROLES:
        x, y = dots(ax, role).T
        np.testing.assert_array_equal(x, data.checkerboard[f"{role}_avr"])
        np.testing.assert_allclose(y, np.arange(7) + OFFSET[role])
    assert labels(ax.yaxis)[:2] == ["conv1", "layer2.0.conv2\n↔ layer2.0.conv3.0"]
    assert ax.yaxis_inverted()


def test_long_names_go_on_after_a_dot():
    (ax,) = draw("fig5_layerwise_avr_comparison", study(DEEP[:2])).axes
    assert labels(ax.yaxis)[0] == "stages.0.blocks.0.\ndownsample.conv2_3x3"


# fig6


def lines_of_fig6(figure):
    """Its panels of lines, without the spectra below and their colour bar."""
    return [ax for ax in figure.axes if ax.lines]


def test_fig6_draws_both_models_before_and_after(data):
    figure = draw("fig6_aliasing_folding", data)
    parts = [(signal, where) for signal in ("tone", "photograph") for where in ("before", "after")]
    for ax, (signal, where) in zip(lines_of_fig6(figure), parts, strict=True):
        for role in ROLES:
            rows = rows_of(data.folding, signal=signal, where=where, role=role)
            (line,) = curves(ax, role)
            np.testing.assert_array_equal(line, rows[["frequency", "power"]])
        assert ax.get_xlim() == (0, 1)
        assert ax.get_yscale() == "log"
        assert cutoffs(ax) == [0.5]
    assert [ax.get_title("left") for ax in lines_of_fig6(figure)[:2]] == [
        "before subsampling at conv1",
        "after subsampling at conv1",
    ]


def test_fig6_draws_the_published_pair_of_spectra(data):
    figure = draw("fig6_aliasing_folding", data)
    axes = [ax for ax in figure.axes if ax.images]
    parts = [(role, where) for role in ROLES for where in ("before", "after")]
    assert [ax.get_title("left") for ax in axes] == [f"{where}, {role}" for role, where in parts]
    for ax, (role, where) in zip(axes, parts, strict=True):
        power = data.spectra[f"{role}/{where}"]
        (image,), side = ax.images, len(power)
        level = np.maximum(10 * np.log10(power / power.max()), -80)
        np.testing.assert_allclose(np.asarray(image.get_array())[:side, :side], level, atol=1e-9)
        # In cycles of the grid before: what is left after decimation by 2 lies in the box.
        left, right, *_ = image.get_extent()
        first = left + (right - left) / image.get_array().shape[1] / 2
        lowest = np.fft.fftshift(2 * np.fft.fftfreq(side))[0]
        assert first == pytest.approx(lowest if where == "before" else lowest / 2)
        (box,) = ax.patches
        assert box.get_bbox().bounds == (-0.5, -0.5, 1, 1)
        assert ax.get_xlim() == ax.get_ylim() == (-1, 1)


@pytest.mark.parametrize(
    ("cutoff", "tone", "folded"), [(0.5, 0.75, 0.25), (0.25, 0.3, 0.2), (0.25, 0.6, 0.1)]
)
def test_fig6_marks_where_the_tone_went(cutoff, tone, folded):
    data = study(RESNET[:1])
    data.folding = folding(np.random.default_rng(0), cutoff=cutoff, tone=tone)
    axes = lines_of_fig6(draw("fig6_aliasing_folding", data))
    (note,) = axes[1].texts
    assert note.get_text() == f"tone at {tone:g}\nfolds to {folded:g}"
    assert note.xy[0] == pytest.approx(folded)
    assert note.get_position()[0] == tone
    assert not [text for ax in (axes[0], *axes[2:]) for text in ax.texts]


def test_fig6_tone_below_the_cutoff_stays():
    data = study(RESNET[:1])
    data.folding = folding(np.random.default_rng(0), tone=0.4)
    assert not lines_of_fig6(draw("fig6_aliasing_folding", data))[1].texts


def test_fig6_layers_that_differ_are_not_named():
    data = study(RESNET[:1])
    data.folding.loc[data.folding["role"] == "antialiased", "layer_name"] = "other"
    axes = lines_of_fig6(draw("fig6_aliasing_folding", data))
    assert [ax.get_title("left") for ax in axes[:2]] == ["before subsampling", "after subsampling"]


# fig7, fig11, fig13


def test_fig7_draws_means_intervals_and_spread(data):
    figure = draw("fig7_layerwise_mean_avr", data)
    (ax,) = figure.axes
    for role in ROLES:
        x, y = dots(ax, role).T
        np.testing.assert_array_equal(x, data.stats[f"{role}_mean"])
        ends, rows = whiskers(ax, role)
        np.testing.assert_array_equal(ends, data.stats[[f"{role}_low", f"{role}_high"]])
        np.testing.assert_array_equal(rows, y)
        mean, std = data.stats[f"{role}_mean"], data.stats[f"{role}_std"]
        ends, _ = whiskers(ax, role, width=0.6)
        np.testing.assert_array_equal(ends.T, [mean - std, mean + std])
    assert ax.get_xlim()[0] <= 0
    assert "95 % interval" in words(figure)
    assert "standard deviation" in words(figure)


def test_fig11_draws_r_and_its_interval(data):
    figure = draw("fig11_correlation_comparison", data)
    for ax, name in zip(figure.axes, ("r", "r_logit_instability"), strict=True):
        for role in ROLES:
            np.testing.assert_array_equal(dots(ax, role)[:, 0], data.correlation[f"{role}_{name}"])
            ends, _ = whiskers(ax, role)
            limits = [f"{role}_{name}_low", f"{role}_{name}_high"]
            np.testing.assert_array_equal(ends, data.correlation[limits])
        low, high = ax.get_xlim()
        assert low == -high
        assert high > data.correlation[roles("{}_" + name + "_high")].to_numpy().max()
        assert [line.get_xdata()[0] for line in ax.lines[:1]] == [0]
        assert ax.patches[0].get_bbox().intervalx.tolist() == [-0.1, 0.1]
    assert [ax.get_xlabel() for ax in figure.axes] == [
        "Pearson's r of AVR and SIS",
        "Pearson's r of AVR and logit instability",
    ]
    assert "|r| < 0.1: below 1 % of the variance" in words(figure)


def test_fig13_draws_and_writes_the_change(data):
    figure = draw("fig13_avr_intervention", data)
    (ax,) = figure.axes
    np.testing.assert_array_equal(dots(ax, "antialiased")[:, 0], data.stats["difference"])
    ends, rows = whiskers(ax, "antialiased")
    np.testing.assert_array_equal(ends, data.stats[["difference_low", "difference_high"]])
    np.testing.assert_array_equal(rows, range(7))
    written = [float(text.get_text().replace("−", "-")) for text in ax.texts]
    np.testing.assert_allclose(written, data.stats["difference"], atol=0.0005)
    assert all(text.get_text()[0] in "+−" for text in ax.texts)
    low, high = ax.get_xlim()
    assert low < 0 < high
    assert "tiny_net@blurpool:2 − tiny_net" in words(figure)


def test_fig13_without_energy():
    data = study(RESNET[:2])
    data.stats.loc[0, ["difference", "difference_low", "difference_high"]] = np.nan
    figure = draw("fig13_avr_intervention", data)
    assert figure.axes[0].texts[0].get_text() == "n/a"
    assert not overlaps(boxes(figure))


# fig8


def medians(ax, role):
    return np.concatenate(
        [
            line.get_xydata()
            for line in ax.lines
            if line.get_marker() == _style.MARKER[role]
            and same_color(line.get_markeredgecolor(), _style.INK)
        ]
    )


def violins(ax, role):
    return [
        area.get_paths()[0].vertices
        for area in ax.collections
        if isinstance(area, PolyCollection)
        and same_color(area.get_facecolor()[0][:3], COLOUR[role])
    ]


def test_fig8_violins_show_the_real_values(data):
    (ax,) = draw("fig8_avr_distributions", data).axes
    quartiles = [
        lines.get_segments()[0]
        for lines in ax.collections
        if isinstance(lines, LineCollection) and same_color(lines.get_color(), _style.INK)
    ]
    groups = data.scores.groupby(["layer_name", "role"])["avr"]
    for k, role in enumerate(ROLES):
        median = groups.median().xs(role, level="role")[RESNET]
        np.testing.assert_allclose(medians(ax, role)[:, 0], median)
        for i, (layer, violin) in enumerate(zip(RESNET, violins(ax, role), strict=True)):
            avr = groups.get_group((layer, role))
            assert violin[:, 0].min() == pytest.approx(avr.min())
            assert violin[:, 0].max() == pytest.approx(avr.max())
            middle = medians(ax, role)[i, 1]
            assert np.ptp(violin[:, 1]) == pytest.approx(0.3, rel=0.01)
            assert violin[:, 1].mean() == pytest.approx(middle, abs=0.01)
            np.testing.assert_allclose(quartiles[2 * i + k][:, 0], np.quantile(avr, [0.25, 0.75]))
    assert labels(ax.yaxis) == RESNET


def test_fig8_violin_bulges_where_the_values_are():
    data = study(RESNET[:1])
    data.scores["avr"] = np.r_[np.full(59, 0.2) + np.linspace(0, 0.01, 59), 0.9].tolist() * 2
    (ax,) = draw("fig8_avr_distributions", data).axes
    violin = violins(ax, "baseline")[0]
    widest = violin[np.argmax(violin[:, 1]), 0]
    assert widest == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("avr", [[0.3] * 60, [0.3, 0.3 + 1e-9] * 30, [0.3] + [np.nan] * 59])
def test_fig8_values_without_spread_are_a_line(avr):
    data = study(RESNET[:1])
    data.scores["avr"] = avr * 2
    figure = draw("fig8_avr_distributions", data)
    figure.draw_without_rendering()
    (ax,) = figure.axes
    for role in ROLES:
        assert not violins(ax, role)
        np.testing.assert_allclose(medians(ax, role)[:, 0], [0.3])
        lines = [
            c
            for c in ax.collections
            if isinstance(c, LineCollection) and same_color(c.get_color(), COLOUR[role])
        ]
        assert [line.get_segments()[0][0, 0] for line in lines] == pytest.approx([0.3])


def test_fig8_two_images():
    data = study(RESNET[:2], n=2)
    (ax,) = draw("fig8_avr_distributions", data).axes
    assert len(violins(ax, "baseline")) == 2


def test_fig8_without_energy():
    data = study(RESNET[:2])
    data.scores.loc[data.scores["layer_name"] == "conv1", "avr"] = np.nan
    (ax,) = draw("fig8_avr_distributions", data).axes
    assert medians(ax, "baseline")[:, 1].round().tolist() == [1]
    assert labels(ax.yaxis) == RESNET[:2]


# fig10, fig12


def test_fig10_draws_every_image_of_both_models(data):
    figure = draw("fig10_avr_sis_scatter", data)
    assert [ax.get_title("left").replace("\n", "") for ax in figure.axes] == 2 * RESNET
    found = data.correlation.to_dict("records")
    blocks = [("sis", "", row) for row in found]
    blocks += [("logit_instability", "_logit_instability", row) for row in found]
    for ax, (metric, suffix, row) in zip(figure.axes, blocks, strict=True):
        for role in ROLES:
            rows = rows_of(data.scores, layer_name=row["layer_name"], role=role)
            np.testing.assert_array_equal(dots(ax, role), rows[["avr", metric]])
        written = [text.get_text() for text in ax.get_legend().get_texts()]
        for text, role in zip(written, ROLES, strict=True):
            r, low, high = (row[f"{role}_r{suffix}{end}"] for end in ("", "_low", "_high"))
            assert text.replace("−", "-") == f"r = {r:+z.2f} [{low:+z.2f}, {high:+z.2f}]"
        assert ax.get_yscale() == "log"
    named = [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()]
    assert list(dict.fromkeys(named)) == ["SIS", "logit instability"]


def test_fig10_correlations_cover_no_point(data):
    figure = draw("fig10_avr_sis_scatter", data)
    figure.draw_without_rendering()
    for ax in figure.axes:
        points = np.concatenate([line.get_xydata() for line in ax.lines])
        assert ax.transData.transform(points)[:, 1].max() < ax.get_legend().get_window_extent().y0


def test_fig10_sis_of_zero_lies_on_the_lower_edge():
    data = study(RESNET[:2])
    assert "with 0" not in words(draw("fig10_avr_sis_scatter", data))
    data.scores["sis"] = data.scores["sis"].mask(data.scores["image_id"] == "photo3", 0.0)
    figure = draw("fig10_avr_sis_scatter", data)
    bottom, _ = figure.axes[0].get_ylim()
    assert dots(figure.axes[0], "baseline")[3, 1] == bottom > 0
    assert "Images with 0 lie on the lower edge" in words(figure)


def test_fig10_undefined_correlation():
    data = study(RESNET[:1])
    data.correlation[["baseline_r", "baseline_r_low", "baseline_r_high"]] = np.nan
    ax, _ = draw("fig10_avr_sis_scatter", data).axes
    assert ax.get_legend().get_texts()[0].get_text() == "r = n/a [n/a, n/a]"


def test_fig12_draws_the_cumulative_share(data):
    figure = draw("fig12_sis_distributions", data)
    for ax, metric in zip(figure.axes, ("sis", "logit_instability"), strict=True):
        medians = []
        for role in ROLES:
            values = data.images.loc[data.images["role"] == role, metric]
            (line,) = curves(ax, role)
            np.testing.assert_array_equal(line[:, 0], np.sort(values))
            np.testing.assert_allclose(line[:, 1], np.arange(1, 61) / 60)
            np.testing.assert_array_equal(dots(ax, role), [(values.median(), 0.5)])
            medians.append(f"{values.median():#.2g}")
        assert ax.get_title("left") == f"medians {', '.join(medians)}"
        assert ax.get_xscale() == "log"
    assert [ax.get_xlabel() for ax in figure.axes] == [
        "shift instability score (SIS) of an image",
        "logit instability of an image",
    ]
    assert "share" in figure.axes[0].get_ylabel()


@pytest.mark.parametrize("zeros", [1, 60])
def test_fig12_zero_is_counted_at_the_edge(zeros):
    data = study(RESNET[:1])
    data.images.loc[: zeros - 1, ["sis", "logit_instability"]] = 0.0
    figure = draw("fig12_sis_distributions", data)
    for ax in figure.axes:
        (line,) = curves(ax, "baseline")
        assert (line[:zeros, 0] == ax.get_xlim()[0]).all()
    assert "Images with 0 are counted at the left edge" in words(figure)


# fig14


def test_fig14_shows_sis_beside_what_says_more(data):
    *above, _ = draw("fig14_tradeoff", data).axes
    table = data.tradeoff.assign(
        disagreement=1 - data.tradeoff["agreement"],
        disagreement_low=1 - data.tradeoff["agreement_high"],
        disagreement_high=1 - data.tradeoff["agreement_low"],
    ).rename(columns={"mean_sis": "sis"})
    metrics = ["logit_instability", "disagreement", "sis"]
    for ax, metric in zip(above, metrics, strict=True):
        for row in table.to_dict("records"):
            role, x, y = row["role"], row["latency_ms"], row[metric]
            np.testing.assert_array_equal(dots(ax, role), [(x, y)])
            across, up = [
                lines.get_segments()[0].tolist()
                for lines in ax.collections
                if same_color(lines.get_color(), COLOUR[role])
            ]
            assert across == [[row["latency_low_ms"], y], [row["latency_high_ms"], y]]
            assert up == [[x, row[f"{metric}_low"]], [x, row[f"{metric}_high"]]]
        (arrow,) = ax.texts
        ends = [tuple(pair) for pair in table[["latency_ms", metric]].to_numpy()]
        assert [arrow.get_position(), arrow.xy] == ends
        assert ax.get_ylim()[0] == 0
    labels_of = [ax.get_ylabel().replace("\n", " ") for ax in above]
    assert labels_of[:2] == ["logit instability", "disagreement of the views"]
    assert labels_of[2] == "mean shift instability score, SIS"
    assert "ms an image" in above[1].get_xlabel()


def test_fig14_draws_and_writes_each_change(data):
    *_, below = draw("fig14_tradeoff", data).axes
    np.testing.assert_allclose(dots(below, "antialiased")[:, 0], 100 * data.effects["change"])
    ends, rows = whiskers(below, "antialiased")
    np.testing.assert_allclose(ends, 100 * data.effects[["change_low", "change_high"]])
    np.testing.assert_array_equal(rows, range(5))
    bars = [bar.get_width() for bar in below.containers[0]]
    np.testing.assert_allclose(bars, 100 * data.effects["change"])
    assert labels(below.yaxis) == data.effects["metric"].tolist()
    assert [text.get_text() for text in below.texts[:2]] == ["−31.0 %", "[−33.0, −29.0]"]
    assert [text.get_text() for text in below.texts[-2:]] == ["+18.9 %", "[+17.0, +21.0]"]
    assert below.get_title("left") == "tiny_net@blurpool:2 against tiny_net"
    low, high = below.get_xlim()
    assert low < 0 < high
    assert "%" in below.get_xlabel()


@pytest.mark.parametrize("lost", [[0], [1], [0, 1]])
def test_fig14_latency_not_measured(lost, data):
    table, effects = data.tradeoff.copy(), data.effects.copy()
    table.loc[lost, ["latency_ms", "latency_low_ms", "latency_high_ms"]] = np.nan
    effects.loc[4, ["change", "change_low", "change_high"]] = np.nan
    figure = draw("fig14_tradeoff", SimpleNamespace(tradeoff=table, effects=effects))
    *above, below = figure.axes
    assert not overlaps(boxes(figure))
    for ax in above:
        shown = ["latency not\nmeasured"] if len(lost) == 2 else []
        assert [text.get_text() for text in ax.texts] == shown
        for i, role in enumerate(ROLES):
            drawn = [line for line in ax.lines if same_color(line.get_color(), COLOUR[role])]
            assert bool(drawn) == (i not in lost)
    assert labels(below.yaxis) == data.effects["metric"].tolist()[:4]


# The control, and the two figures of the sampled reading


def sampled_rows(data):
    """Two variants, and a control that is the baseline."""
    table = pd.concat([data.stats.assign(variant=name) for name in ("sampled_avr", "alias_share")])
    means = {"control_mean": table["baseline_mean"], "control_difference": 0.0}
    return table.assign(**means).reset_index(drop=True)


def diamonds(ax):
    """Places of the control."""
    found = [line for line in ax.lines if line.get_marker() == "D"]
    return np.concatenate([line.get_xydata() for line in found])


@pytest.mark.parametrize("name", ["fig7_layerwise_mean_avr", "fig13_avr_intervention"])
def test_the_control_stands_beside_both_panels(name, data):
    table = sampled_rows(data)
    names = {**NAMES, "control": "tiny_net@blurpool:1"}
    figure = draw(name, SimpleNamespace(stats=table), names=names)
    assert "control: tiny_net@blurpool:1" in words(figure)
    assert not overlaps(boxes(figure))
    for ax, variant in zip(figure.axes, ("sampled_avr", "alias_share"), strict=True):
        own = rows_of(table, variant=variant)
        column = "control_mean" if "fig7" in name else "control_difference"
        np.testing.assert_array_equal(diamonds(ax)[:, 0], own[column])
        assert _style.METRICS[variant] in ax.get_xlabel()


def test_fig5_shows_the_control_and_small_ratios_large(data):
    table = data.checkerboard.assign(variant="sampled_avr")
    table = table.assign(**{f"{role}_avr": 0.02 * table[f"{role}_avr"] for role in ROLES})
    table["control_avr"] = table["baseline_avr"]
    names = {**NAMES, "control": "tiny_net@blurpool:1"}
    (ax,) = draw(
        "fig5_layerwise_avr_comparison", SimpleNamespace(checkerboard=table), names=names
    ).axes
    np.testing.assert_array_equal(diamonds(ax), dots(ax, "baseline"))
    assert table[roles("{}_avr")].to_numpy().max() < ax.get_xlim()[1] < 0.1
    assert "what is decimated" in ax.get_xlabel()
