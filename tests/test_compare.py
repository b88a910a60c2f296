import json
import re

import numpy as np
import pandas as pd
import pytest

from aliascope.compare import compare
from aliascope.errors import RunError
from aliascope.records import StridedLayer
from aliascope.statistics import holm, paired
from aliascope.store import RunWriter

STAGES = [f"layer{stage}.0.{op}" for stage in (2, 3, 4) for op in ("conv2", "downsample.0")]
RESNET = ["conv1", "maxpool", *STAGES]
BLURRED = ["conv1", "maxpool.1", *(name.replace("conv2", "conv3.0") for name in STAGES)]
CONFIG = {
    "images": "photos",
    "precision": "fp32",
    "preprocessing": {"crop": [224, 224], "interpolation": "bicubic"},
}


def make(images, layers=None, *, settings=None, model="plain", path=None):
    """A run of columns of images and, by layer, AVRs; two crops of each photograph, unless told."""
    layers = layers or {}
    n = len(next(iter(images.values())))
    ids = [f"photo{i // 2}/{i % 2}" for i in range(n)]
    shapes = (3, 3), (2.0, 2.0), (3, 8, 8), (3, 4, 4), (2.0, 2.0)
    described = [
        StridedLayer(name, "conv", *shapes, i, shortcut=False) for i, name in enumerate(layers)
    ]
    avr = np.array(list(layers.values()), dtype=float).reshape(len(layers), n).T
    with RunWriter(path, {"model": model, **CONFIG, **(settings or {})}, described, {}) as writer:
        columns = {"image_id": ids, "group": [name.split("/")[0] for name in ids], **images}
        writer.add(columns, {"avr": avr, "avr_box": avr / 2, "avr_ac": avr * 2} if layers else {})
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


def layer_pairs(comparison):
    rows = comparison.layers.query("metric == 'avr'")
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
    comparison = compare(a, b, level=0.9, seed=3)
    metrics = ["sis", "agreement"]
    x, y = a.images[metrics].astype(float), b.images[metrics].astype(float)
    expected = paired(x, y, a.images["group"], level=0.9, seed=3)
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
    assert comparison.layers["n"].tolist() == [4, 4, 4]
    assert "not known in both runs for 4 of 4 images: sis, agreement" in comparison.notices[0]
    assert "SIS" not in str(comparison)


def test_prediction_agreement():
    a = make({"prediction": [1, 2, 3, 4, 5, 6]})
    b = make({"prediction": [1, 2, 3, 0, None, None]})
    share, low, high = compare(a, b).prediction_agreement
    assert share == 0.75
    assert np.isnan([low, high]).all()  # a resample may hold only the photograph without a class
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
    assert comparison.layers["change"].tolist() == pytest.approx([-0.5] * 3)
    both = compare(a, b, layer_map={"down": "pool", "stem": "late"})
    assert layer_pairs(both) == [("stem", "late"), ("down", "pool")]  # A's order of execution
    assert "layers of A without a partner are left out: stem" in comparison.notices
    assert "layers of B without a partner are left out: conv1, late" in comparison.notices


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
def test_resnet50_map_is_built_in_both_ways(without):
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
    assert any("maxpool" in notice for notice in there.notices) == (len(without) == 1)


def test_holm_corrects_over_the_layers_of_a_metric():
    comparison = compare(*resnets())
    assert list(comparison.layers["metric"].unique()) == ["avr", "avr_box", "avr_ac"]
    for _, rows in comparison.layers.groupby("metric"):
        assert rows["p_holm"].tolist() == pytest.approx(holm(rows["p"]).tolist())
        assert (rows["p_holm"] >= rows["p"]).all()


def test_rounding_is_no_difference():
    comparison = compare(*resnets())
    row = comparison.layers.set_index(["metric", "layer_a"]).loc[("avr", "conv1")]
    assert (row.difference, row.t, row.t_two_sample, row.p_holm) == (0, 0, 0, 1)
    assert (comparison.layers["t"] == 0).sum() == 3  # of conv1 alone


def test_identical_runs():
    a, _ = resnets()
    comparison = compare(a, a)
    for frame in (comparison.images, comparison.layers):
        assert (frame[["difference", "low", "high", "change", "t", "d_z"]] == 0).all(axis=None)
        assert (frame[["p", "p_wilcoxon"]] == 1).all(axis=None)
    assert comparison.prediction_agreement == (1, 1, 1)
    assert "d_z 0.00, paired t-test p 1.000" in str(comparison)


def test_layer_undefined_on_some_images():
    avr = [0.1, 0.2, 0.3, 0.5]
    comparison = compare(
        make({"sis": avr}, {"conv1": avr}), make({"sis": avr}, {"conv1": [0.1, np.nan, 0.2, 0.3]})
    )
    assert comparison.layers["n"].tolist() == [3, 3, 3]
    assert "not known in both runs for 1 of 4 images: avr of conv1" in comparison.notices


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


GOLDEN = """\
A  timm:resnet50
B  antialiased:resnet50

mean SIS 0.0148 → 0.0086, -41.9% [-47.1%, -37.3%], d_z -1.75, paired t-test p 0.002

                       A      B   B - A      95 % interval change   d_z     p Wilcoxon p
sis               0.0148 0.0086 -0.0062 [-0.0084, -0.0038] -41.9% -1.75 0.002      0.008
agreement         0.9409 0.9705 +0.0295 [+0.0193, +0.0390]  +3.1%  1.95 9e-04      0.008

same prediction for 75.0% [37.5%, 100.0%] of the images

AVR               A               B   B - A      95 % interval paired t two-sample t Holm p
conv1
    0.3097 ± 0.0216 0.3097 ± 0.0216 +0.0000 [+0.0000, +0.0000]     0.00         0.00  1.000
layer2.0.conv2 → layer2.0.conv3.0
    0.3032 ± 0.0214 0.2429 ± 0.0140 -0.0603 [-0.0645, -0.0541]   -21.53        -9.43  7e-07
layer2.0.downsample.0
    0.2993 ± 0.0196 0.2379 ± 0.0221 -0.0613 [-0.0661, -0.0558]   -21.64        -8.31  7e-07
layer3.0.conv2 → layer3.0.conv3.0
    0.3017 ± 0.0196 0.2406 ± 0.0265 -0.0611 [-0.0695, -0.0542]   -14.71        -7.40  3e-06
layer3.0.downsample.0
    0.2982 ± 0.0175 0.2378 ± 0.0161 -0.0603 [-0.0659, -0.0550]   -20.16       -10.15  7e-07
layer4.0.conv2 → layer4.0.conv3.0
    0.3012 ± 0.0211 0.2396 ± 0.0226 -0.0616 [-0.0663, -0.0537]   -19.11        -7.96  8e-07
layer4.0.downsample.0
    0.2920 ± 0.0194 0.2291 ± 0.0191 -0.0628 [-0.0683, -0.0593]   -26.64        -9.24  2e-07

95 % intervals: bootstrap over 8 photographs (16 images). d_z, p, Wilcoxon p and paired t: of the
  mean difference in each photograph; two-sample t: of images, pairing ignored; Holm p: the paired
  p, corrected over the layers.

notice: the runs differ in precision: fp32 in A, bf16 in B
notice: layers of B without a partner are left out: maxpool.1
notice: not known in both runs for 16 of 16 images: logit_instability, confidence, accuracy"""


def test_printed_table():
    a, b = resnets(
        names_a=[name for name in RESNET if name != "maxpool"], settings={"precision": "bf16"}
    )
    assert str(compare(a, b)) == GOLDEN


def test_printed_numbers_add_up():
    lines = GOLDEN.splitlines()
    number = r"[-+]?[\d.]+"
    headline = next(line for line in lines if line.startswith("mean SIS"))
    before, after, change, low, high = (
        float(x) for x in re.findall(number, headline.replace("%", ""))[:5]
    )
    assert 100 * (after / before - 1) == pytest.approx(change, abs=0.5)
    assert low < change < high
    rows = [
        [float(x) for x in re.findall(number, line.replace("±", ""))][:7]
        for line in lines
        if "±" in line
    ]
    assert len(rows) == 7
    for mean_a, _, mean_b, _, difference, low, high in rows:
        assert mean_b - mean_a == pytest.approx(difference, abs=1.01e-4)
        assert low <= difference <= high


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
    assert "mean SIS 0.000050 → 0.000020, -60.0%" in text


def test_single_photograph_prints_dashes():
    comparison = compare(make({"sis": [0.1, 0.2]}), make({"sis": [0.1, 0.1]}))
    assert "-33.3% [–, –], d_z –, paired t-test p –" in str(comparison)
    assert "a single photograph gives neither intervals nor paired tests" in comparison.notices
