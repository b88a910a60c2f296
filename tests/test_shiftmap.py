"""Predictions at many shifts against windows cut by hand."""

import pandas as pd
import pytest
import torch
from torch import nn

from aliascope import Preprocessing, load_model
from aliascope.measure.batch import prepare, view_logits
from aliascope.measure.shiftmap import cross, grid, shift_curves, shifted_logits, telling
from aliascope.shifts import ONE_PIXEL

PREPROCESSING = Preprocessing(resize=(40,), crop=(32, 32))


@pytest.fixture(scope="module")
def instrument():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
                        nn.Linear(72, 5))  # fmt: skip
    return prepare(load_model(net), preprocess=PREPROCESSING, device="cpu")


@pytest.fixture(scope="module")
def picture():
    noise = torch.randint(0, 256, (3, 40, 50), generator=torch.Generator().manual_seed(1))
    return noise.to(torch.uint8)  # 40 rows: the resize leaves it as it is


def by_hand(instrument, picture, shift):
    top, left = 4 - shift.rows, 9 - shift.columns
    window = picture[:, top : top + 32, left : left + 32].float() / 255
    with torch.inference_mode():
        return instrument.module(PREPROCESSING.normalise(window[None]))[0]


def test_the_grid_is_whole_and_begins_in_the_middle():
    shifts = grid(3)
    assert (shifts[0].rows, shifts[0].columns) == (0, 0)
    assert len({(s.rows, s.columns) for s in shifts}) == 49
    assert {(s.rows, s.columns) for s in cross(3)} == {
        (s.rows, s.columns) for s in shifts if 0 in (s.rows, s.columns)
    }


def test_crop_shifts_are_windows_of_the_photograph(instrument, picture):
    found = list(shifted_logits(instrument, picture, grid(2), batch_size=7))
    assert [len(some) for some, _ in found] == [7, 7, 7, 4]
    for some, logits in found:
        for shift, z in zip(some, logits, strict=True):
            assert torch.allclose(z, by_hand(instrument, picture, shift), atol=1e-5)


def test_circular_shifts_are_rolls(instrument, picture):
    view = PREPROCESSING(picture)
    for some, logits in shifted_logits(instrument, picture, cross(5), border="circular"):
        for shift, z in zip(some, logits, strict=True):
            rolled = view.roll((shift.rows, shift.columns), (-2, -1))
            with torch.inference_mode():
                expected = instrument.module(PREPROCESSING.normalise(rolled[None]))[0]
            assert torch.allclose(z, expected, atol=1e-5)


def test_one_pixel_is_what_a_run_measures(instrument, picture):
    wide = instrument.preprocessing(picture)[None]
    (_, mine), *_ = shifted_logits(instrument, picture, ONE_PIXEL)
    assert torch.allclose(mine, view_logits(instrument, wide)[1:, 0], atol=1e-5)


def test_curves_say_where_the_prediction_flips(instrument, picture):
    table = shift_curves({"A": instrument, "B": instrument}, {"x": picture})
    assert table["rows"].abs().max() == 4  # the crop leaves no more room
    a, b = (own.drop(columns="model").reset_index(drop=True) for _, own in table.groupby("model"))
    pd.testing.assert_frame_equal(a, b)
    still = a[(a["rows"] == 0) & (a["columns"] == 0)].iloc[0]
    assert still["steady"]
    assert still["probability"] == still["confidence"]
    for row, shift in zip(a.to_dict("records"), cross(4), strict=True):
        p = by_hand(instrument, picture, shift).double().softmax(-1)
        assert row["prediction"] == int(p.argmax())
        assert row["steady"] == (row["prediction"] == still["prediction"])
        assert row["probability"] == pytest.approx(float(p[still["prediction"]]), abs=1e-5)
    assert set(a["name"]) == {""}  # of five classes no names are known


def test_what_tells_most_is_of_both_models_and_of_each_photograph_once():
    ids = [f"{i}" for i in range(8)]
    rows = {"image_id": ids, "group": ["0", "0", *ids[2:]], "logit_instability": [0.1] * 8}
    a = pd.DataFrame({**rows, "agreement": [0, 0, 0.25, 1, 1, 1, 1, 1]})
    b = pd.DataFrame({**rows, "agreement": [0, 0, 0, 0.5, 0.75, 1, 1, 1]})
    a.loc[7, "logit_instability"] = 0.01
    assert telling(a, b, each=2) == {
        "0": "moves most in A",
        "2": "moves most in A",
        "3": "moves most in B",
        "4": "moves most in B",
        "7": "moves least in A",
        "5": "moves least in A",
    }
    assert len(telling(a.head(1), b.head(1))) == 1
