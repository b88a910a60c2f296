"""Verdicts: their words agree with the intervals, and their numbers with the tables."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aliascope.compare import Comparison
from aliascope.finetune import FineTuned
from aliascope.latency import Latency
from aliascope.measure.writing import RunWriter
from aliascope.results.verdicts import FEW, Change
from aliascope.statistics import Estimate, holm, mean_interval, paired
from aliascope.study.tradeoffs import CONTROL, Tradeoffs
from test_store import layer

NUMBER = r"[+−]?\d+\.?\d*"


def figures(text):
    """The numbers of a sentence."""
    return [float(x.replace("−", "-")) for x in re.findall(NUMBER, text)]


def compared(a, b, *, shifts="crop", crops=1, layers=()):
    """A comparison of columns of figures, a row an image; `layers` are pairs of alias shares."""
    groups = np.arange(len(next(iter(a.values())))) // crops
    rows = paired(pd.DataFrame(a), pd.DataFrame(b), groups).reset_index(names="metric")
    before = pd.DataFrame({("alias_share", f"l{i}"): x for i, (x, _) in enumerate(layers)})
    after = pd.DataFrame({("alias_share", f"l{i}"): y for i, (_, y) in enumerate(layers)})
    tested = paired(before, after, groups) if layers else rows.iloc[:0]
    tested = tested.reset_index(names=["metric", "layer_a"]) if layers else tested
    tested = tested.assign(layer_b="", p_holm=holm(tested["p"]) if layers else [])
    same = [1.0] * len(groups)
    if "prediction" in a:
        same = (np.asarray(a["prediction"]) == np.asarray(b["prediction"])).astype(float)
        rows = rows[rows["metric"] != "prediction"]
    return Comparison(
        *("before", "after", shifts, len(groups), len(set(groups)), 0.95),
        rows,
        tested,
        Estimate(*np.clip(mean_interval(same, groups), 0, 1).tolist()),
        (),
    )


def clause(text, name):
    """The part of a verdict with this word: how much, and what stands in brackets behind it."""
    return re.search(rf"{name}[^()]*\([^()]*\)", text)[0]


shares = st.lists(
    st.tuples(*[st.floats(0.01, 1)] * 2, *[st.booleans()] * 2), min_size=2, max_size=40
)


@settings(max_examples=25)
@given(rows=shares, factor=st.sampled_from([0.0, 0.01, 1.0]))
def test_words_and_numbers_are_those_of_the_table(rows, factor):
    x, y, right, still = map(np.array, zip(*rows, strict=True))
    y = x + factor * (y - x)
    found = compared(
        {"logit_instability": x, "accuracy": right.astype(float)},
        {"logit_instability": y, "accuracy": still.astype(float)},
    )
    table = found.images.set_index("metric")
    for name, word, columns, less in (
        ("logit_instability", "moves", ["change", "change_low", "change_high"], " less than"),
        ("accuracy", "names", ["difference", "low", "high"], " fewer"),
    ):
        text = clause(found.verdict, word)
        value, low, high = 100 * table.loc[name, columns].to_numpy(float)
        if value == 0:
            assert not re.search(r" less| more| fewer", text)
            continue
        if np.isnan([low, high]).any():  # not determined, such as a change from about nothing
            assert "%" not in text.partition("(")[0] or "no interval known" in text
            continue
        assert (less in text) == (value < 0)
        assert (" more" in text) == (value > 0)
        assert ("no difference shown" in text) == (low <= 0 <= high)
        size, level, *ends = figures(text.replace("one-pixel", ""))
        assert level == 95
        assert size == pytest.approx(abs(value), rel=0.06)
        ends = np.abs(ends) if not low <= 0 <= high else ends
        wanted = (low, high) if low <= 0 <= high else sorted(np.abs([low, high]))
        assert ends == pytest.approx(wanted, rel=0.06, abs=1e-9)
    assert found.verdict.endswith(".")
    assert f"{len(rows)} photographs" in found.verdict
    assert ("fewer than" in found.verdict) == (len(rows) < FEW)


def test_what_a_repair_did_in_a_sentence():
    x = 0.2 + 0.01 * np.sin(np.arange(40))
    fewer = (np.arange(40) % 20 > 0).astype(int)
    found = compared(
        {"logit_instability": x, "accuracy": fewer, "sis": x, "prediction": fewer},
        {
            "logit_instability": x * (0.6 + x),
            "accuracy": fewer,
            "sis": x / 9,
            "prediction": [1] * 40,
        },
        layers=[(x, x / 2), (x, x), (x, x / 4)],
    )
    row = found.images.set_index("metric").loc["logit_instability"]
    assert found.verdict.startswith(
        "after moves 20 % less than before under one-pixel crop shifts ("
    )
    assert f"{-100 * row['change']:.0f} %" == "20 %"
    assert "names as many correctly (no difference)" in found.verdict
    assert "gives another prediction for 5.0 % of the photographs (95 % interval" in found.verdict
    assert (
        "Alias share falls in 2 of 3 layers (corrected p below 0.05). 40 photographs."
        in found.verdict
    )
    assert "SIS" not in found.verdict
    assert found.verdict in " ".join(str(found).split())
    assert found.to_dict()["verdict"] == found.verdict


def test_what_is_not_known_is_left_out():
    x = 0.2 + 0.01 * np.sin(np.arange(40))
    alone = compared({"sis": x}, {"sis": x / 2}, shifts="")
    assert "Nothing is known" not in alone.verdict.replace("after", "")
    assert "SIS" not in alone.verdict
    assert "shift" not in alone.verdict
    nothing = compared({"sis": x}, {"sis": x / 2}, layers=[(x, x), (x, x * x)])
    nothing = Comparison(**vars(nothing) | {"prediction_agreement": Estimate(*[np.nan] * 3)})
    assert nothing.verdict.startswith("Alias share falls in 1 of 2 layers (corrected p below 0.05)")
    assert "most in l1: 80 % less" in nothing.verdict
    assert "predict" not in nothing.verdict
    assert "correctly" not in nothing.verdict


def test_equal_networks_have_changed_in_nothing():
    x = np.linspace(0.1, 0.3, 40)
    same = {"logit_instability": x, "prediction": x}
    assert compared(same, same, layers=[(x, x)]).verdict.startswith("Nothing changed: ")
    other = {"logit_instability": x, "prediction": x + 1}
    assert "Nothing changed" not in compared(same, other, layers=[(x, x)]).verdict
    assert "Nothing changed" not in compared(same, same, layers=[(x, x / 2)]).verdict


def test_a_single_photograph_shows_nothing():
    found = compared({"logit_instability": [0.2, 0.3]}, {"logit_instability": [0.1, 0.3]}, crops=2)
    assert "(logit instability, no interval known)" in found.verdict
    assert "2 images of 1 photograph" in found.verdict


def test_a_change_that_is_not_determined_is_said_as_a_difference():
    zeros, some = np.zeros(40), 0.2 + 0.01 * np.sin(np.arange(40))
    verdict = compared({"logit_instability": zeros}, {"logit_instability": some}).verdict
    row = compared({"logit_instability": zeros}, {"logit_instability": some}).images.loc[0]
    assert figures(clause(verdict, "moves"))[0] == pytest.approx(row["difference"], rel=0.05)
    assert "%" not in clause(verdict, "moves").partition("(")[0]


def test_zero_on_the_edge_is_no_difference_shown():
    assert "no difference shown" in Change(0.1, 0.0, 0.2).certainty()
    assert "no difference shown" not in Change(0.1, 1e-9, 0.2).certainty()


def measured(columns, layers=None, border="native"):
    names = list(layers or {})
    config = {"model": "net", "images": "x", "border": border}
    with RunWriter(None, config, [layer(name, i) for i, name in enumerate(names)], {}) as writer:
        n = len(next(iter(columns.values())))
        ids = {"image_id": [str(i) for i in range(n)], "group": [str(i // 2) for i in range(n)]}
        writer.add(
            ids | columns, {"alias_share": np.array([layers[k] for k in names]).T} if names else {}
        )
        return writer.finish()


def test_a_run_says_what_moves_and_what_aliases():
    rng = np.random.default_rng(0)
    moved, kept = rng.uniform(0.1, 0.2, 80), rng.uniform(0.7, 0.9, 80)
    run = measured(
        {"logit_instability": moved, "agreement": kept},
        {"first": [0.1] * 80, "second": [0.3] * 80, "third": [np.nan] * 80},
    )
    means = [mean_interval(x, np.arange(80) // 2) for x in (moved, kept)]
    said = figures(run.verdict.replace("one-pixel", ""))
    wanted = [x for mean in means for x in (mean.value, 0.95, mean.low, mean.high)]
    assert said[:8] == pytest.approx([100 * x for x in wanted], rel=0.06)
    assert "under one-pixel native shifts" in run.verdict
    assert "second aliases most: folded is 30 % of the energy of its samples" in run.verdict
    assert run.verdict.endswith("80 images of 40 photographs.")
    printed = [float(x) for x in re.findall(r"(?:instability|agreement) +(\S+) ±", str(run))]
    assert printed == pytest.approx([means[1].value, means[0].value], abs=6e-5)
    assert run.verdict in " ".join(str(run).split())


def test_a_run_without_classes_tells_of_its_layers_alone():
    verdict = measured({"note": ["", ""]}, {"first": [0.1, 0.1]}).verdict
    assert verdict.startswith("first aliases most: folded is 10 % ")
    assert "shifts" not in verdict


def timed(**ratios):
    rows = [
        {"model": name, "batch": 1, "ms_image": 10 * r, "low": 9 * r, "high": 11 * r, "ratio": r}
        | {"ratio_low": r - 0.1, "ratio_high": r + 0.1, "rounds": 11, "spread": 0.1}
        for name, r in ratios.items()
    ]
    info = {"reference": next(iter(ratios)), "precision": "fp32", "device": "cpu", "hardware": "x"}
    info |= {"threads": 1, "versions": {"torch": "2"}}
    return Latency(pd.DataFrame(), pd.DataFrame(rows), info, {}, ())


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (1.24, "b takes 24 % longer than a (95 % interval 14 to 34 %)"),
        (0.8, "b takes 20 % less than a (95 % interval 10 to 30 %)"),
        (1.05, "b takes 5.0 % longer than a (95 % interval −5.0 to +15 %: no difference shown)"),
    ],
)
def test_latency_in_words(ratio, said):
    found = timed(a=1.0, b=ratio)
    assert found.verdict == f"At batch 1 {said}."
    assert found.verdict in " ".join(str(found).split())


def test_latency_of_one_and_of_many():
    assert timed(a=1.0).verdict == "a takes 10 ms an image at batch 1 (95 % interval 9.0 to 11)."
    many = timed(a=1.0, b=1.5, c=2.0, d=0.5, e=1.2).verdict
    assert many.startswith("At batch 1 of 4 models d takes 50 % less than a (")
    assert "c takes 100 % longer" in many
    assert "b takes" not in many


def tried(**changes):
    table = pd.DataFrame(
        [
            ("original", "original", 0.90, 0.20, 1.0),
            (CONTROL, "control", 0.90, 0.20, 1.2),
            ("aps", "zero-shot", 0.80, 0.10, 1.5),
            ("ideal", "zero-shot", 0.85, 0.15, 1.4),
            ("lps", "zero-shot", 0.84, 0.16, 1.4),
        ],
        columns=["method", "stage", "top1", "logit_instability_crop", "latency_ratio"],
    )
    table["kept"] = table["top1"]
    table["latency_ratio_low"] = table["latency_ratio"] - 0.1
    table["latency_ratio_high"] = table["latency_ratio"] + 0.1
    for name, value in changes.items():
        table[name] = value
    return Tradeoffs("net", table, {"measured": 60, "photographs": 30}, ())


def test_methods_that_nothing_beats():
    verdict = tried().verdict
    assert "no method tried beats aps and ideal both in stability" in verdict
    assert "and in top-1." in verdict
    assert (
        "The control, blurpool:1, which filters nothing, moves as far as the original and takes "
        "20 % longer (95 % interval 10 to 30 %)." in verdict
    )
    assert verdict.endswith("60 images of 30 photographs.")
    assert "and in predictions kept." in tried(top1=np.nan).verdict
    moved = tried(logit_instability_crop=[0.2, 0.21, 0.1, 0.1, 0.1]).verdict
    assert "moves 5.0 % more than the original" in moved


def test_fine_tuning_in_words():
    history = pd.DataFrame(
        [
            {"step": 0, "teacher_agreement": 0.5, "logit_instability": 0.3, "correct": None},
            {"step": 9, "teacher_agreement": 0.8, "logit_instability": 0.1, "correct": None},
        ]
    ).assign(seconds=1.0, loss=0.5)
    config = {"model": "net", "steps": 9, "images": "x", "batch_size": 2}
    found = FineTuned(torch.nn.Identity(), history, {"logit_instability": 0.4}, config)
    assert found.verdict == (
        "After 9 steps net answers as the teacher for 80 %, before 50 %; moves by 10 %, before "
        "30 %, the teacher 40 % of its logits' length (means over the held-out pictures, no "
        "interval known)."
    )
    assert found.verdict in " ".join(str(found).split())
    unjudged = FineTuned(
        torch.nn.Identity(), history[["step", "seconds", "loss"]], {}, config
    ).verdict
    assert unjudged == "After 9 steps nothing was judged: no picture was held out."


def test_the_rows_of_a_run_are_its_means():
    run = measured({"sis": [0.1, 0.3], "correct": [True, False]}, {"first": [0.1, 0.2]})
    rows = run.table.set_index(["layer", "metric"])
    assert rows.loc[("", "sis"), "mean"] == pytest.approx(0.2)
    assert rows.loc[("", "correct"), "mean"] == 0.5
    assert rows.loc[("first", "alias_share"), "mean"] == pytest.approx(0.15)
    assert set(rows["model"]) == {"net"}


def test_the_rows_of_a_comparison_are_those_of_images_and_layers():
    x = 0.2 + 0.01 * np.sin(np.arange(40))
    found = compared({"sis": x}, {"sis": x / 2}, layers=[(x, x / 2)])
    assert found.table["metric"].tolist() == ["sis", "alias_share"]
    assert found.table["p"].tolist() == [*found.images["p"], *found.layers["p"]]
    assert found.table["layer_a"].isna().tolist() == [True, False]
