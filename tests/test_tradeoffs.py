"""The comparison of methods: a control that changes nothing, and oracles for what is its own."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from aliascope import AliascopeError, ModelError
from aliascope.figures.methods_front import draw
from aliascope.measure.store import Run
from aliascope.models import load_model
from aliascope.statistics import pareto
from aliascope.study import tradeoffs
from aliascope.study.tradeoffs import SHIFTS, Tradeoffs, compare_methods

pytestmark = pytest.mark.xdist_group("methods")  # one worker makes what all share


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("methods") / "pictures"
    path.mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        coarse = rng.integers(0, 256, (40 + 20 * i, 40 + 20 * i, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((300, 300)).save(path / f"{i}.png")
    path.with_name("pictures.csv").write_text(
        "file,label\n" + "\n".join(f"{i}.png,{i % 4}" for i in range(8))
    )
    return path


def network():
    torch.manual_seed(0)
    layers = []
    for channels, out in ((3, 4), (4, 8), (8, 8)):
        conv = nn.Conv2d(channels, out, 3, 2, 1, bias=False)
        layers += [conv, nn.BatchNorm2d(out), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    net.pretrained_cfg = {"input_size": (3, 96, 96), "crop_pct": 0.875}
    return net


METHODS = ("blurpool:3", "aps:1", "nonsense", "blurpool:9")


@pytest.fixture(scope="module")
def found(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("methods-out")
    options = {
        "methods": METHODS,
        "recalibrate_on": folder,
        "latency_seconds": 0,
        "device": "cpu",
    }
    found = compare_methods(network(), folder, out=out, **options)
    return found, out, options


def rows(found):
    return found.table.set_index(["method", "stage"])


def test_the_control_is_the_network_itself(found):
    table = rows(found[0])
    original, control = table.loc["original", "original"], table.loc["blurpool:1", "control"]
    stability = [f"{name}_{shifts}" for shifts in SHIFTS for name in ("sis", "agreement")]
    for name in ("top1", *stability, *(f"logit_instability_{shifts}" for shifts in SHIFTS)):
        assert control[name] == pytest.approx(original[name], rel=1e-3, abs=1e-6), name
    for name in ("sampled_avr_box", "alias_share"):
        assert control[name] == pytest.approx(original[name], abs=1e-5), name
    assert control["kept"] == original["kept"] == 1
    assert control["mflops"] > original["mflops"]  # the same, computed densely


def test_what_is_decimated_is_that_of_the_runs(found):
    for method, stage in (("original", "original"), ("aps:1", "zero-shot")):
        run = Run.open(found[1] / "runs" / f"{method.replace(':', '-')}-{stage}-crop")
        layers = run.layers.astype({"layer": str}).query("layer != '0'")  # without the stem
        row = rows(found[0]).loc[method, stage]
        for name in ("sampled_avr_box", "alias_share"):
            assert 0 < row[name] < 1
            assert row[name] == pytest.approx(layers[name].mean())


def test_a_blur_takes_away_what_would_alias(found):
    table = rows(found[0])
    plain, blurred = table.loc["blurpool:1", "control"], table.loc["blurpool:3", "zero-shot"]
    for name in ("sampled_avr_box", "alias_share"):
        assert blurred[name] < 0.7 * plain[name]
    for shifts in SHIFTS:
        name = f"logit_instability_{shifts}"
        assert blurred[name] < plain[name]
        assert blurred[f"{name}_low"] <= blurred[name] <= blurred[f"{name}_high"]


def test_rivals_stand_in_the_table_with_their_own_cost(folder, monkeypatch):
    monkeypatch.setattr(tradeoffs, "SHIFTS", ("crop", "half"))
    tried = ["crop-selection", "shift-average", "blurpool:3@shift-average"]
    options = {"recalibrate_on": folder, "latency_seconds": 0, "device": "cpu", "limit": 4}
    monkeypatch.setattr(tradeoffs, "recalibrate", lambda loaded, *_, **__: loaded.module)
    table = compare_methods(network(), folder, methods=tried, **options).table
    stages = table.groupby("method")["stage"].agg(list)
    assert stages["crop-selection"] == stages["shift-average"] == ["zero-shot"]
    assert stages["blurpool:3@shift-average"] == ["zero-shot", "recalibrated"]
    table = table[table["stage"] != "recalibrated"].set_index("method")
    original, selection, average, both = (table.loc[name] for name in ("original", *tried))
    assert average["mflops"] == pytest.approx(4 * original["mflops"])
    filters = 2 * 9 * 3 * (96 * 104 + 96 * 96) / 1e6  # 9 taps down, and 9 across, of 3 channels
    assert selection["mflops"] == pytest.approx(original["mflops"] + filters)
    for shifts in ("crop", "half"):
        name = f"logit_instability_{shifts}"
        assert both[name] < average[name] < original[name]
        assert selection[name] != original[name]


def test_recalibration_is_a_stage_of_its_own(found):
    table = rows(found[0])
    before, after = (table.loc["blurpool:3", stage] for stage in ("zero-shot", "recalibrated"))
    assert before["logit_instability_crop"] != after["logit_instability_crop"]
    assert before["latency_ratio"] == after["latency_ratio"]  # the same arithmetic


def test_a_method_that_fails_is_named_and_the_others_go_on(found):
    notices = " ".join(found[0].notices)
    assert "nonsense: unknown method 'nonsense'" in notices
    assert "blurpool:9: blurpool takes 1 to 7 taps, got 9" in notices
    assert len(found[0].table) == 1 + 2 * 3


def test_nothing_is_measured_twice(found, folder, monkeypatch):
    first, out, options = found

    def never(*args):
        raise AssertionError("measured again")

    monkeypatch.setattr(sys.modules["aliascope.measure"], "rows_of", never)
    again = compare_methods(network(), folder, out=out, **options)
    names = ["method", "stage", "top1", "sis_native", "agreement_crop", "mflops"]
    pd.testing.assert_frame_equal(again.table[names], first.table[names])
    kept = pd.read_csv(out / "methods.csv")
    assert kept["sis_crop"].tolist() == pytest.approx(again.table["sis_crop"].tolist())


def test_it_prints_what_the_table_holds(found, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = str(found[0])
    line = next(line for line in text.splitlines() if line.startswith("blurpool:3  zero-shot"))
    row = rows(found[0]).loc["blurpool:3", "zero-shot"]
    assert line.split()[2:6] == [
        f"{row['top1']:.3f}",
        f"{row['kept']:.3f}",
        f"{row['logit_instability_crop']:.4f}",
        f"{row['agreement_crop']:.3f}",
    ]
    json.dumps(found[0].to_dict())


def test_costs_follow_from_the_shapes(found):
    original = rows(found[0]).loc["original", "original"]
    macs = 48**2 * 3 * 4 * 9 + 24**2 * 4 * 8 * 9 + 12**2 * 8 * 8 * 9 + 8 * 4
    assert original["mflops"] == pytest.approx(2 * macs / 1e6)
    # At the peak the largest map and what becomes of it by batch-norm are both there.
    assert original["memory_mb"] * 1e6 > 2 * 4 * 48 * 48 * 4
    assert original["memory_mb"] * 1e6 < 6 * 4 * 48 * 48 * 4


def test_no_classifier_and_no_method():
    with pytest.raises(ModelError, match="is no classifier"):
        compare_methods(network()[:9], "photos", methods=["blurpool:1"], limit=1, latency_seconds=0)
    with pytest.raises(AliascopeError, match="no method could be applied to Sequential: nonsense"):
        compare_methods(network(), "photos", methods=["nonsense"], limit=1)


def test_pareto_against_its_definition():
    rng = np.random.default_rng(0)
    for _ in range(50):
        x, y = rng.integers(0, 5, (2, 12))
        front = pareto(pd.Series(x), pd.Series(y))
        for i in range(12):
            beaten = any(
                x[j] <= x[i] and y[j] <= y[i] and (x[j] < x[i] or y[j] < y[i]) for j in range(12)
            )
            assert front[i] != beaten


def test_the_figure_draws_every_row(found):
    table = found[0].table
    figure = draw(table, model="Net", caption="8 images.")
    accuracy = "kept" if table["top1"].isna().any() else "top1"
    costs = [table["latency_ratio"], table["latency_ratio"], 1 - table[accuracy]]
    losses = [1 - table["agreement_crop"]]
    losses = [table["logit_instability_crop"], *losses, table["logit_instability_crop"]]
    for ax, cost, loss in zip(figure.axes, costs, losses, strict=True):
        across, up = (
            np.concatenate([getattr(line, f"get_{axis}data")() for line in ax.lines[1:]])
            for axis in "xy"
        )
        assert sorted(across) == pytest.approx(sorted(cost))
        assert sorted(up) == pytest.approx(sorted(loss))
    assert figure.axes[0].get_xlabel() == "latency, ratio to the original"
    assert "Net" in figure._supxlabel.get_text()


@pytest.mark.slow
def test_the_embedded_model_is_its_own_control():
    loaded = load_model("efficientnet_lite0")
    found = compare_methods(
        loaded, "photos", methods=["blurpool:1"], limit=1, latency_seconds=0, device="cpu"
    )
    table = rows(found)
    a, b = table.loc["original", "original"], table.loc["blurpool:1", "control"]
    assert b["logit_instability_crop"] == pytest.approx(a["logit_instability_crop"], rel=1e-3)
    assert b["sampled_avr_box"] == pytest.approx(a["sampled_avr_box"], abs=1e-5)
    assert b["kept"] == 1


def test_tradeoffs_are_saved_and_opened_to_the_last_bit(found, tmp_path):
    saved, _, _ = found
    saved.save(tmp_path / "tradeoffs.json")
    opened = Tradeoffs.open(tmp_path / "tradeoffs.json")
    assert (str(opened), opened.info) == (str(saved), saved.info)
    pd.testing.assert_frame_equal(opened.table, saved.table, check_exact=True)
