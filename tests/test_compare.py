import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from aliascope import Preprocessing, antialias, conversion_of, load_model, strided_layers
from aliascope.compare import Comparison, compare
from aliascope.compare.pairing import pair_layers
from aliascope.errors import RunError
from aliascope.latency import Latency
from aliascope.measure.store import Run
from aliascope.measure.writing import RunWriter
from aliascope.records import StridedLayer
from aliascope.results.files import sealed, unsealed
from aliascope.spectra import AVR_VARIANTS
from aliascope.statistics import Estimate, holm, paired

STAGES = [f"layer{stage}.0.{op}" for stage in (2, 3, 4) for op in ("conv2", "downsample.0")]
RESNET = ["conv1", "maxpool", *STAGES]
BLURRED = ["conv1", "maxpool.1", *(name.replace("conv2", "conv3.0") for name in STAGES)]
CONFIG = {
    "images": "photos",
    "precision": "fp32",
    "preprocessing": {"crop": [224, 224], "interpolation": "bicubic"},
}


def described(name, order):
    """A layer by its name, at the place that it has in ResNet-50 or in its BlurPool version."""
    stage = int(name[5]) if name.startswith("layer") else {"maxpool": 1}.get(name[:7], 0)
    kind, kernel = ("conv", (3, 3)) if stage != 1 else ("max_pool", (3, 3))
    if "downsample" in name:
        kernel = (1, 1)
    if name in BLURRED[1:]:
        kind = "blur_pool"
    stride = 2.0 ** (stage + 1)
    side = int(224 / stride)
    shapes = (8, 2 * side, 2 * side), (8, side, side)
    strides = (2.0, 2.0), (stride, stride)
    return StridedLayer(
        name, kind, kernel, strides[0], *shapes, strides[1], order, shortcut="down" in name[6:]
    )


def make(images, layers=None, *, settings=None, model="plain", path=None):
    """A run of columns of images and, by layer, AVRs; two crops of each photograph, unless told."""
    layers = layers or {}
    n = len(next(iter(images.values())))
    ids = [f"photo{i // 2}/{i % 2}" for i in range(n)]
    avr = np.array(list(layers.values()), dtype=float).reshape(len(layers), n).T
    places = [described(name, i) for i, name in enumerate(layers)]
    with RunWriter(path, {"model": model, **CONFIG, **(settings or {})}, places, {}) as writer:
        columns = {"image_id": ids, "group": [name.split("/")[0] for name in ids], **images}
        figures = {"avr": avr, "avr_box": avr / 2}
        figures |= {"sampled_avr": 0.9 * avr, "alias_share": avr / 3}
        writer.add(columns, figures if layers else {})
        return writer.finish()


def resnets(n=16, names_a=RESNET, names_b=BLURRED, settings=None):
    """A pair whose conv1 is equal but for rounding, as in the published table."""
    rng = np.random.default_rng(0)
    sis = rng.gamma(2, 0.01, n)
    predictions = rng.integers(0, 5, n)
    avr = {name: 0.3 + rng.normal(0, 0.02, n) for name in RESNET}
    lower = {
        name: avr[RESNET[BLURRED.index(name)]] * (1 if name == "conv1" else 0.8)
        + rng.normal(0, 2e-6 if name == "conv1" else 0.01, n)
        for name in BLURRED
    }
    a = {"sis": sis, "agreement": 1 - sis * 4, "prediction": predictions}
    b = {"sis": sis * rng.uniform(0.4, 0.8, n), "agreement": 1 - sis * 2}
    b["prediction"] = np.where(np.arange(n) < n // 4, predictions + 1, predictions)
    return (
        make(a, {name: avr[name] for name in names_a}, model="timm:resnet50"),
        make(
            b,
            {name: lower[name] for name in names_b},
            model="antialiased:resnet50",
            settings=settings,
        ),
    )


METRICS = ["sampled_avr", "alias_share", "avr", "avr_box"]


def layer_pairs(comparison):
    rows = comparison.layers.query("metric == 'sampled_avr'")
    return list(zip(rows["layer_a"], rows["layer_b"], strict=True))


def test_images_are_paired_by_id():
    sis = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    a, b = make({"sis": sis}), make({"sis": sis[::-1] / 2})
    b.images = b.images.iloc[::-1]
    row = compare(a, b).images.loc[0]
    assert (row.metric, row.n, row.groups) == ("sis", 6, 3)
    means = pd.Series(sis[::-1] / 2 - sis).groupby([0, 0, 1, 1, 2, 2]).mean()
    assert row.t == pytest.approx(means.mean() / means.std() * 3**0.5, rel=1e-5)


def test_images_of_one_run_only_are_left_out_and_counted():
    a, b = make({"sis": [0.1, 0.2, 0.3, 0.4]}), make({"sis": [0.2, 0.3]})
    comparison = compare(a, b)
    assert (comparison.n, comparison.groups) == (2, 1)
    assert comparison.images["mean_a"].tolist() == pytest.approx([0.15])
    assert "2 images only in A and 0 only in B are left out" in comparison.notices


def test_no_common_image():
    a, b = make({"sis": [0.1]}), make({"sis": [0.1]}, model="blurred")
    b.images = b.images.assign(image_id=["other"])
    with pytest.raises(RunError, match=r"plain and blurred were measured on different images"):
        compare(a, b)


def test_settings_that_differ_are_named():
    other = {"crop": [224, 224], "interpolation": "bilinear"}
    comparison = compare(
        make({"sis": [0.1]}), make({"sis": [0.1]}, settings={"preprocessing": other, "ops": "all"})
    )
    assert "the runs differ in preprocessing.interpolation: bicubic in A, bilinear in B" in (
        comparison.notices
    )
    assert not any("crop" in notice or "ops" in notice for notice in comparison.notices)
    comparison = compare(
        make({"sis": [0.1]}), make({"sis": [0.1]}, settings={"images": "x", "precision": "bf16"})
    )
    assert {
        "the runs differ in images: photos in A, x in B",
        "the runs differ in precision: fp32 in A, bf16 in B",
    } < set(comparison.notices)


def test_image_metrics_are_the_paired_tests():
    a, b = resnets()
    comparison = compare(a, b, level=0.9)
    metrics = ["agreement", "sis"]
    x, y = a.images[metrics].astype(float), b.images[metrics].astype(float)
    expected = paired(x, y, a.images["group"], level=0.9)
    assert comparison.images["metric"].tolist() == metrics
    pd.testing.assert_frame_equal(
        comparison.images.set_index("metric"), expected, check_names=False
    )


def test_accuracy_counts_only_images_known_in_both():
    a = make({"sis": [0.1] * 4, "correct": [True, True, None, False]})
    b = make({"sis": [0.1] * 4, "correct": [False, True, True, None]})
    comparison = compare(a, b)
    row = comparison.images.set_index("metric").loc["accuracy"]
    assert (row.n, row.mean_a, row.mean_b) == (2, 1.0, 0.5)
    assert "not known in both runs for 2 of 4 images: accuracy" in comparison.notices


def test_model_that_is_no_classifier():
    nothing = {"sis": [np.nan] * 4, "prediction": [None] * 4}
    avr = {"conv1": [0.1, 0.2, 0.3, 0.5]}
    comparison = compare(make({"sis": [0.1] * 4, "prediction": [1] * 4}, avr), make(nothing, avr))
    assert comparison.images.empty
    assert np.isnan(comparison.prediction_agreement).all()
    assert comparison.layers["n"].tolist() == [4] * 4
    unknown = next(text for text in comparison.notices if text.startswith("not known"))
    assert unknown.startswith("not known in both runs for 4 of 4 images: agreement, logit")
    assert "→" not in str(comparison)


def test_prediction_agreement():
    a = make({"prediction": [1, 2, 3, 4, 5, 6]})
    b = make({"prediction": [1, 2, 3, 0, None, None]})
    share, low, high = compare(a, b).prediction_agreement
    assert share == 0.75
    assert (low, high) == (0, 1)  # two photographs say nothing of it
    value, low, high = compare(*resnets()).prediction_agreement
    assert 0 < low < value == 0.75 < high <= 1


def test_layers_are_paired_by_order():
    avr = [0.1, 0.2, 0.3, 0.5]
    a = make({"sis": avr}, {"stem": avr, "down": avr})
    b = make({"sis": avr}, {"conv1": avr, "pool": avr})
    assert layer_pairs(compare(a, b)) == [("stem", "conv1"), ("down", "pool")]


def test_layers_are_paired_by_a_map():
    avr = [0.1, 0.2, 0.3, 0.5]
    a = make({"sis": avr}, {"stem": avr, "down": avr})
    b = make({"sis": avr}, {"conv1": avr, "pool": np.array(avr) / 2, "late": avr})
    comparison = compare(a, b, layer_map={"down": "pool"})
    assert layer_pairs(comparison) == [("down", "pool")]
    assert comparison.layers["change"].tolist() == pytest.approx([-0.5] * 4)
    both = compare(a, b, layer_map={"down": "pool", "stem": "late"})
    assert layer_pairs(both) == [("stem", "late"), ("down", "pool")]  # A's order of execution
    assert any("of A without a partner are left out: stem (" in x for x in comparison.notices)
    assert any("of B without a partner are left out: conv1, late" in x for x in comparison.notices)


@pytest.mark.parametrize(
    ("layer_map", "message"),
    [
        ({"don": "pool"}, "no layer don was measured of plain, the nearest name is down"),
        ({"down": "pol"}, "no layer pol was measured of blurred, the nearest name is pool"),
    ],
)
def test_map_with_an_unknown_layer(layer_map, message):
    a = make({"sis": [0.1]}, {"stem": [0.1], "down": [0.1]})
    b = make({"sis": [0.1]}, {"conv1": [0.1], "pool": [0.1]}, model="blurred")
    with pytest.raises(RunError, match=message):
        compare(a, b, layer_map=layer_map)


def test_different_numbers_of_layers():
    a = make({"sis": [0.1]}, {"stem": [0.1], "down": [0.1]})
    b = make({"sis": [0.1]}, {"conv1": [0.1]}, model="blurred")
    message = r"plain has 2 .*\(stem, down\), blurred has 1 \(conv1\): .*--map A=B.*--ops conv"
    with pytest.raises(RunError, match=message):
        compare(a, b)


@pytest.mark.parametrize("without", [[], ["maxpool"], ["maxpool.1"], ["maxpool", "maxpool.1"]])
def test_layers_are_paired_by_place_both_ways(without):
    a, b = resnets(
        names_a=[name for name in RESNET if name not in without],
        names_b=[name for name in reversed(BLURRED) if name not in without],
    )
    there = compare(a, b)
    expected = list(zip(RESNET, BLURRED, strict=True))
    if without:
        expected.remove(("maxpool", "maxpool.1"))
    assert layer_pairs(there) == expected
    assert {(y, x) for x, y in layer_pairs(compare(b, a))} == set(expected)
    lonely = any("without a partner" in notice for notice in there.notices)
    assert lonely == (len(without) == 1)


def test_the_place_of_two_layers_and_one_has_no_partner():
    avr = [0.1, 0.2]
    a = make({"sis": avr}, {"maxpool": avr, "layer2.0.conv2": avr})
    b = make({"sis": avr}, {"maxpool": avr, "layer2.0.conv1": avr, "layer2.0.conv2": avr})
    comparison = compare(a, b)
    assert layer_pairs(comparison) == [("maxpool", "maxpool")]
    left_out = "layers of B without a partner are left out: layer2.0.conv1, layer2.0.conv2"
    assert any(text.startswith(left_out) for text in comparison.notices)


def test_pictures_of_another_size_pair_by_stride():
    a, b = (load_model("timm:resnet18", weights="random").module for _ in range(2))
    small, large = (strided_layers(m, torch.zeros(1, 3, n, n)) for m, n in ((a, 64), (b, 96)))
    names = [layer.name for layer in small]
    assert pair_layers("a", small, "b", large) == list(zip(names, names, strict=True))


def test_layers_of_a_converted_network_are_paired_as_surgery_reports():
    net = load_model("timm:resnet18", weights="random").module
    example = torch.zeros(1, 3, 64, 64)
    twin = antialias(net, stem="convert", example=example)
    pairs = pair_layers("a", strided_layers(net, example), "b", strided_layers(twin, example))
    assert pairs == [(row.layer, row.downsampler) for row in conversion_of(twin).layers]
    assert len(pairs) == 8


def test_maps_that_are_read_at_other_places_are_not_tested():
    comparison = compare(*resnets())
    layers = comparison.layers.set_index(["metric", "layer_a"])
    tests = ["low", "high", "change", "t", "p", "p_holm", "d_z", "p_wilcoxon"]
    for name in RESNET:
        moved = name == "maxpool" or "conv2" in name
        for metric in METRICS:
            row = layers.loc[metric, name]
            assert row[tests].isna().all() == (moved and metric.startswith("avr"))
            assert np.isfinite(row[["mean_a", "sd_a", "mean_b", "sd_b"]].astype(float)).all()
    notice = next(text for text in comparison.notices if "another place" in text)
    assert notice.endswith(
        "see sampled_avr (maxpool → maxpool.1, layer2.0.conv2 → layer2.0.conv3.0, "
        "layer3.0.conv2 → layer3.0.conv3.0, layer4.0.conv2 → layer4.0.conv3.0)"
    )
    assert holm(layers.loc["avr", "p"]) == pytest.approx(layers.loc["avr", "p_holm"], nan_ok=True)


class Residual(nn.Module):
    """A stem, a pool, and a block that strides on both of its branches."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.main = nn.Sequential(
            nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16)
        )
        self.act, self.short = nn.ReLU(), nn.Conv2d(8, 16, 1, 2)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.act(self.main(x) + self.short(x)).mean((2, 3)))


MEASURED = {"device": "cpu", "limit": 4, "preprocess": Preprocessing(resize=(66,), crop=(64, 64))}


@pytest.mark.parametrize("stem", ["keep", "convert"])
def test_a_network_and_its_dense_twin_have_changed_in_nothing(stem):
    torch.manual_seed(0)
    net = Residual().eval()
    twin = antialias(net, size=1, stem=stem, example=torch.zeros(1, 3, 64, 64))
    comparison = compare(net, twin, images="photos", **MEASURED)
    assert comparison.notices[0] == (
        "nothing changed: no sampled column differs, nor does any figure of an image"
    )
    sampled = comparison.layers[~comparison.layers["metric"].isin(AVR_VARIANTS)]
    assert len(sampled) == 4 * 5
    for frame in (sampled, comparison.images):
        assert (frame["n"] == 4).all()
        assert (frame["difference"] == 0).all()
        assert (frame[["p", "p_wilcoxon"]] == 1).all(axis=None)
    assert not (comparison.layers["p_holm"] < 1).any()
    assert any("another place" in text for text in comparison.notices)


def test_a_filter_changes_something():
    torch.manual_seed(0)
    net = Residual().eval()
    comparison = compare(net, antialias(net), images="photos", **MEASURED)
    assert not any("nothing changed" in text for text in comparison.notices)
    shares = comparison.layers.query("metric == 'alias_share' and layer_a == 'main.2'")
    assert (shares["difference"] < 0).all()


def test_rounding_of_a_score_is_no_difference():
    a = make({"sis": [2e-1, 3e-2, 4e-5, 0]})
    b = make({"sis": [2e-1 + 5e-6, 3e-2 - 2e-6, 4e-5 + 8e-8, 4e-11]})
    assert (compare(a, b).images["difference"] == 0).all()
    assert (compare(a, make({"sis": [2e-1, 3e-2, 3e-5, 0]})).images["difference"] < 0).all()


def test_both_models_are_measured_as_the_first_asks(tmp_path):
    net = Residual().eval()
    other = replace(load_model(net), spec="other", preprocessing=MEASURED["preprocess"])
    comparison = compare(
        other, net, images="photos", limit=2, device="cpu", shifts="crop", out=tmp_path
    )
    assert (comparison.model_a, comparison.model_b) == ("other", "Residual")
    runs = [Run.open(tmp_path / side) for side in "AB"]
    assert runs[0].config["preprocessing"] == runs[1].config["preprocessing"]
    assert runs[0].config["preprocessing"]["crop"] == [64, 64]
    assert str(compare(*runs)) == str(comparison)
    assert "2 images of 1 photographs, crop shifts" in str(comparison)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("module", {}, "only where there are images to measure: give them as images="),
        ("run", {"limit": 2}, "limit can be compared only where there are images"),
        ("run", {"images": "photos"}, "with images= both models are measured: give models"),
    ],
)
def test_runs_and_models_are_not_mixed_up(given, options, message):
    one = make({"sis": [0.1]}) if given == "run" else Residual()
    with pytest.raises(RunError, match=message):
        compare(one, one, **options)


def test_holm_corrects_over_the_layers_of_a_metric():
    comparison = compare(*resnets())
    assert list(comparison.layers["metric"].unique()) == METRICS
    for _, rows in comparison.layers.groupby("metric"):
        assert rows["p_holm"].tolist() == pytest.approx(holm(rows["p"]).tolist(), nan_ok=True)
        assert not (rows["p_holm"] < rows["p"]).any()


def test_rounding_is_no_difference():
    comparison = compare(*resnets())
    row = comparison.layers.set_index(["metric", "layer_a"]).loc[("avr", "conv1")]
    assert (row.difference, row.t, row.t_two_sample, row.p_holm) == (0, 0, 0, 1)
    assert (comparison.layers["t"] == 0).sum() == 4  # of conv1 alone


def test_identical_runs():
    a, _ = resnets()
    comparison = compare(a, a)
    for frame in (comparison.images, comparison.layers):
        assert (frame[["difference", "low", "high", "change", "t", "d_z"]] == 0).all(axis=None)
        assert (frame[["p", "p_wilcoxon"]] == 1).all(axis=None)
    assert comparison.prediction_agreement == (1, 1, 1)
    assert str(comparison).count("no difference") == len(comparison.images) + 3 * len(RESNET)


def test_layer_undefined_on_some_images():
    avr = [0.1, 0.2, 0.3, 0.5]
    comparison = compare(
        make({"sis": avr}, {"conv1": avr}), make({"sis": avr}, {"conv1": [0.1, np.nan, 0.2, 0.3]})
    )
    assert comparison.layers["n"].tolist() == [3] * 4
    assert "1 of 4 images: sampled AVR of conv1, alias share of conv1" in comparison.notices[-1]


def test_runs_are_opened_from_their_directories(tmp_path):
    a = make({"sis": [0.1, 0.2, 0.4]}, {"conv1": [0.1, 0.2, 0.4]}, path=tmp_path / "a")
    b = make({"sis": [0.1, 0.1, 0.3]}, {"conv1": [0.1, 0.2, 0.3]}, path=tmp_path / "b")
    assert str(compare(tmp_path / "a", str(tmp_path / "b"))) == str(compare(a, b))


def test_runs_without_layers():
    comparison = compare(make({"sis": [0.1, 0.2, 0.4]}), make({"sis": [0.1, 0.1, 0.3]}))
    assert comparison.layers.empty
    assert {"metric", "layer_a", "layer_b", "kind", "p_holm"} < set(comparison.layers)
    assert "AVR" not in str(comparison)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_level_outside_its_range(level):
    with pytest.raises(RunError, match=f"between 0 and 1, such as 0.95, but is {level:g}"):
        compare(make({"sis": [0.1]}), make({"sis": [0.1]}), level=level)


def test_to_dict_is_json():
    comparison = compare(make({"sis": [0.0, 0.0]}), make({"sis": [0.1, 0.2]}))
    found = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert found == comparison.to_dict()
    (row,) = found["images"]
    assert row["mean_b"] == pytest.approx(0.15)
    assert (row["change"], row["low"], row["n"]) == (None, None, 2)  # infinite, undefined
    assert found["prediction_agreement"] == {"value": None, "low": None, "high": None}
    assert found["layers"] == []


def test_a_comparison_is_saved_and_opened_to_the_last_bit(tmp_path):
    saved = compare(*resnets())
    saved.images.loc[0, "change"] = np.inf
    saved.save(tmp_path / "found.json")
    opened = Comparison.open(tmp_path / "found.json")
    assert str(opened) == str(saved)
    assert opened.to_dict() == saved.to_dict()
    assert type(opened.prediction_agreement) is Estimate
    for name in ("images", "layers"):
        pd.testing.assert_frame_equal(getattr(opened, name), getattr(saved, name), check_exact=True)
    assert opened.notices == saved.notices
    json.loads((tmp_path / "found.json").read_text(), parse_constant=pytest.fail)


def test_what_is_no_comparison_is_not_opened_as_one(tmp_path):
    file = tmp_path / "found.json"
    with pytest.raises(RunError, match=r"found.json cannot be read \(No such file"):
        Comparison.open(file)
    for text in ("[1]", "{}", "nonsense", "\xff"):
        file.write_text(text, encoding="latin-1")
        with pytest.raises(RunError, match="is no result that aliascope saved"):
            Comparison.open(file)
    compare(*resnets()).save(file)
    with pytest.raises(RunError, match=r"holds a Comparison, not a Latency: open it with Compar"):
        Latency.open(file)
    record = unsealed(file.read_bytes())
    for changed in (record | {"format": 9}, record | {"another": 1}):
        file.write_bytes(sealed(changed))
        with pytest.raises(RunError, match="was saved by another version of aliascope"):
            Comparison.open(file)


GOLDEN = """\
A  timm:resnet50
B  antialiased:resnet50
16 images of 8 photographs

                         A      B   B - A      95 % interval change    95 % interval   d_z     p
agreement           0.9409 0.9705 +0.0295 [+0.0166, +0.0422]  +3.1%   [+1.7%, +4.6%]  1.95 9e-04
SIS                 0.0148 0.0086 -0.0062 [-0.0091, -0.0031] -41.9% [-48.4%, -34.4%] -1.75 0.002

same prediction for 75.0% [19.4%, 100.0%] of the images

                            A               B   B - A      95 % interval paired t Holm p
conv1
  sampled AVR 0.2787 ± 0.0154 0.2787 ± 0.0154 +0.0000      no difference     0.00  1.000
  alias share 0.1032 ± 0.0057 0.1032 ± 0.0057 +0.0000      no difference     0.00  1.000
  read AVR    0.3097 ± 0.0171 0.3097 ± 0.0171 +0.0000      no difference     0.00  1.000
layer2.0.conv2 → layer2.0.conv3.0
  sampled AVR 0.2728 ± 0.0109 0.2186 ± 0.0068 -0.0543 [-0.0602, -0.0465]   -21.53  7e-07
  alias share 0.1011 ± 0.0040 0.0810 ± 0.0025 -0.0201 [-0.0223, -0.0172]   -21.53  7e-07
  read AVR    0.3032 ± 0.0121 0.2429 ± 0.0076 -0.0603                  –        –      –
layer2.0.downsample.0
  sampled AVR 0.2693 ± 0.0140 0.2141 ± 0.0141 -0.0552 [-0.0612, -0.0484]   -21.64  7e-07
  alias share 0.0998 ± 0.0052 0.0793 ± 0.0052 -0.0204 [-0.0227, -0.0179]   -21.64  7e-07
  read AVR    0.2993 ± 0.0156 0.2379 ± 0.0156 -0.0613 [-0.0680, -0.0538]   -21.64  3e-07
layer3.0.conv2 → layer3.0.conv3.0
  sampled AVR 0.2716 ± 0.0119 0.2166 ± 0.0193 -0.0550 [-0.0651, -0.0461]   -14.71  3e-06
  alias share 0.1006 ± 0.0044 0.0802 ± 0.0071 -0.0204 [-0.0241, -0.0171]   -14.71  3e-06
  read AVR    0.3017 ± 0.0133 0.2406 ± 0.0214 -0.0611                  –        –      –
layer3.0.downsample.0
  sampled AVR 0.2684 ± 0.0125 0.2141 ± 0.0071 -0.0543 [-0.0609, -0.0479]   -20.16  7e-07
  alias share 0.0994 ± 0.0046 0.0793 ± 0.0026 -0.0201 [-0.0225, -0.0178]   -20.16  7e-07
  read AVR    0.2982 ± 0.0139 0.2378 ± 0.0078 -0.0603 [-0.0676, -0.0533]   -20.16  4e-07
layer4.0.conv2 → layer4.0.conv3.0
  sampled AVR 0.2711 ± 0.0123 0.2156 ± 0.0151 -0.0554 [-0.0623, -0.0460]   -19.11  8e-07
  alias share 0.1004 ± 0.0045 0.0799 ± 0.0056 -0.0205 [-0.0231, -0.0171]   -19.11  8e-07
  read AVR    0.3012 ± 0.0136 0.2396 ± 0.0168 -0.0616                  –        –      –
layer4.0.downsample.0
  sampled AVR 0.2628 ± 0.0142 0.2062 ± 0.0155 -0.0565 [-0.0632, -0.0515]   -26.64  2e-07
  alias share 0.0973 ± 0.0053 0.0764 ± 0.0058 -0.0209 [-0.0234, -0.0191]   -26.64  2e-07
  read AVR    0.2920 ± 0.0158 0.2291 ± 0.0173 -0.0628 [-0.0703, -0.0572]   -26.64  1e-07

antialiased:resnet50 gives another prediction for 25 % of the images (95 % interval 0 to 81 %).
  Alias share falls in 6 of 7 layers (corrected p below 0.05). 16 images of 8 photographs: fewer
  than 30, so that each of them weighs.

An observation is a photograph, the mean of its images. 95 % intervals: Student's, widened for
  skewness; of the change Fieller's. p: paired t-test; Holm p: the same, corrected over the layers.
  Sampled: of what is decimated; alias share: the part of the kept samples' energy that was folded;
  read: of what the operation reads, as published.

notice: 8 photographs are few: below 30 each of them weighs in the intervals and tests, so measure
  more
notice: the runs differ in precision: fp32 in A, bf16 in B
notice: what the operation reads lies at another place in B than in A: no test of its AVR there, see
  sampled_avr (layer2.0.conv2 → layer2.0.conv3.0, layer3.0.conv2 → layer3.0.conv3.0, layer4.0.conv2
  → layer4.0.conv3.0)
notice: layers of B without a partner are left out: maxpool.1 (a layer map, --map A=B, pairs others)
notice: not known in both runs for 16 of 16 images: logit instability, accuracy, confidence, SIS at
  confidence ½"""


def test_printed_table():
    a, b = resnets(
        names_a=[name for name in RESNET if name != "maxpool"], settings={"precision": "bf16"}
    )
    assert str(compare(a, b)) == GOLDEN


def test_printed_numbers_add_up():
    number = r"[-+]?[\d.]+"
    rows = [
        [float(x) for x in re.findall(number, line.replace("±", ""))][:7]
        for line in GOLDEN.splitlines()
        if "±" in line and "[" in line
    ]
    assert len(rows) > 14
    for mean_a, _, mean_b, _, difference, low, high in rows:
        assert mean_b - mean_a == pytest.approx(difference, abs=1.01e-4)
        assert low <= difference <= high


def test_no_score_is_printed_alone():
    comparison = compare(*resnets())
    rows = [line.split()[0] for line in str(comparison).splitlines() if line[:1].strip()]
    assert rows.index("SIS") == rows.index("agreement") + 1
    assert "SIS" not in comparison.verdict


@pytest.mark.parametrize(
    ("borders", "told", "printed"),
    [
        (["circular", "circular"], True, ", circular shifts"),
        (["crop", "crop"], False, ", crop shifts"),
        (["circular", "crop"], True, ", circular → crop shifts"),
        ([None, None], False, "photographs\n"),
    ],
)
def test_torn_borders_are_told_of(borders, told, printed):
    a, b = (
        make({"sis": [0.1, 0.2, 0.4]}, settings={"border": border} if border else {})
        for border in borders
    )
    comparison = compare(a, b)
    flattering = "circular shifts tear the border and flatter a repair: measure with shifts='crop'"
    assert any(text.startswith(flattering) for text in comparison.notices) == told
    differ = "the runs differ in border: circular in A, crop in B"
    assert (differ in comparison.notices) == (len(set(borders)) == 2)
    assert printed in str(comparison)


def test_few_photographs_are_told_of():
    def notices(count):
        values = np.random.default_rng(0).uniform(size=2 * count)
        return compare(make({"sis": values}), make({"sis": values / 2})).notices

    assert "29 photographs are few: below 30" in notices(29)[0]
    assert not any("few" in text for text in notices(30))


def test_three_photographs_claim_nothing_that_they_cannot_know():
    a, b = (make({"agreement": [share] * 6, "sis": [0.1, 0.2] * 3}) for share in (0.75, 1.0))
    text = str(compare(a, b))
    assert not re.search(r"inf|nan|1e-300", text)
    row = next(line for line in text.splitlines() if line.startswith("agreement  "))
    assert row.split()[1:] == ["0.7500", "1.0000", "+0.2500", "–", "+33.3%", "–", "–", "–"]


def test_printed_table_fits_a_terminal_at_its_widest():
    rng = np.random.default_rng(0)
    n = 2000
    sis, avr = rng.uniform(0.1, 1, n), {name: rng.uniform(0.3, 0.5, n) for name in RESNET}
    less = {name: avr[RESNET[i]] - 0.2 + rng.normal(0, 1e-3, n) for i, name in enumerate(BLURRED)}
    images = {"sis": sis, "agreement": sis, "logit_instability": sis, "prediction": [1] * n}
    a, b = make(images, avr), make({**images, "sis": sis - 0.1, "agreement": sis / 2}, less)
    text = str(compare(a, b))
    assert "<1e-300" in text
    assert max(map(len, text.splitlines())) <= 100


def test_small_scores_keep_two_digits():
    text = str(compare(make({"sis": [2e-5, 6e-5, 7e-5]}), make({"sis": [1e-5, 2e-5, 3e-5]})))
    assert "A 0.000055, B 0.000022" in text  # the mean of two photographs


def test_single_photograph_prints_dashes():
    comparison = compare(make({"sis": [0.1, 0.2]}), make({"sis": [0.1, 0.1]}))
    assert re.search(r"-0\.0500 +– +-33\.3% +– +– +–\n", str(comparison))
    assert "a single photograph gives neither intervals nor paired tests" in comparison.notices


def test_what_a_run_had_to_assume_is_told_once():
    with RunWriter(None, {"model": "a"}, [], {}) as writer:
        ids = ["cat", "cup", "sea"]
        writer.add({"image_id": ids, "group": ids, "sis": [0.1, 0.2, 0.3]}, {})
        writer.notice("the transform is assumed")
        run = writer.finish()
    assert compare(run, run).notices.count("the transform is assumed") == 1
