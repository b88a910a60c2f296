import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch import nn

from aliascope import ModelError, flip_risk, shift_instability
from aliascope.shifts import ONE_PIXEL, Shift, cropped_views, shifted_views
from aliascope.stability import logits_of, stability


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def slow_sis(model, x):
    """The definition, a forward and a direction at a time, in float64."""
    model = model.double().eval()
    with torch.no_grad():
        p = model(x.double()).softmax(1)
        scores = []
        for rows, columns in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            q = model(x.double().roll((rows, columns), (2, 3))).softmax(1)
            scores.append(1 - torch.cosine_similarity(p, q))
    return torch.stack(scores).mean(0)


def test_sis_equals_its_definition():
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    actual = shift_instability(net(), x)
    assert actual.max() > 1e-4  # else the comparison says nothing
    torch.testing.assert_close(actual.double(), slow_sis(net(), x), rtol=1e-3, atol=1e-7)


def test_a_model_in_train_mode_is_measured_in_eval_mode_and_left_as_it_was():
    model = net()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(
        shift_instability(model, x), shift_instability(net().eval(), x), rtol=0, atol=0
    )
    assert [module.training for module in model.modules()] == modes


def test_one_minus_cos_without_cancellation():
    # The probabilities differ by 1e-6: in float32 the cosine itself rounds to 1.
    logits = torch.zeros(5, 1, 2)
    logits[1:, 0, 0] = 1e-3
    p = torch.tensor([0.5, 0.5], dtype=torch.float64)
    q = torch.tensor([1e-3, 0.0], dtype=torch.float64).softmax(0)
    exact = 1 - (p @ q) / (p.norm() * q.norm())
    assert stability(logits)["sis"].item() == pytest.approx(exact.item(), rel=1e-3)


@given(st.integers(0, 2**31), st.floats(0.1, 20))
def test_ranges(seed, scale):
    logits = scale * torch.randn(5, 3, 7, generator=torch.Generator().manual_seed(seed))
    columns = stability(logits)
    assert ((columns["sis"] >= 0) & (columns["sis"] <= 1)).all()
    assert ((columns["agreement"] >= 0) & (columns["agreement"] <= 1)).all()
    assert ((columns["confidence"] >= 1 / 7) & (columns["confidence"] <= 1)).all()
    directions = torch.stack([columns[f"sis_{shift.name}"] for shift in ONE_PIXEL])
    torch.testing.assert_close(directions.mean(0), columns["sis"])


def test_logit_instability_does_not_follow_confidence_and_sis_does():
    logits = torch.randn(5, 50, 10, generator=torch.Generator().manual_seed(0))
    sure, unsure = stability(4 * logits), stability(logits / 4)
    torch.testing.assert_close(sure["logit_instability"], unsure["logit_instability"])
    torch.testing.assert_close(sure["agreement"], unsure["agreement"])
    assert sure["sis"].mean() > 10 * unsure["sis"].mean()


def test_logit_instability_ignores_a_constant_added_to_all_logits():
    logits = torch.randn(5, 3, 10, generator=torch.Generator().manual_seed(0))
    offset = torch.randn(5, 3, 1, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        stability(logits + 3 * offset)["logit_instability"],
        stability(logits)["logit_instability"],
        rtol=1e-4,
        atol=0,
    )


def test_agreement_counts_the_shifts_with_the_same_arg_max():
    logits = torch.eye(3)[[0, 0, 1, 0, 2]][:, None]
    assert stability(logits)["agreement"].item() == 0.5
    assert stability(logits)["prediction"].item() == 0


def test_views_are_the_images_then_each_shift_of_all_of_them():
    images = torch.randn(3, 2, 5, 6)
    views = shifted_views(images).unflatten(0, (5, 3))
    assert torch.equal(views[0], images)
    assert torch.equal(views[1][..., 0, :], images[..., 1, :])  # up: row 1 becomes row 0
    assert torch.equal(views[2][..., 1, :], images[..., 0, :])  # down
    assert torch.equal(views[3][..., 0], images[..., 1])  # left
    assert torch.equal(views[4][..., 1], images[..., 0])  # right


def test_a_plan_is_data():
    views = shifted_views(torch.arange(4.0).view(1, 1, 1, 4), [Shift("far", 0, 3)])
    assert views[1].flatten().tolist() == [1, 2, 3, 0]


class Boxes(nn.Module):
    def forward(self, x):
        return {"boxes": x.mean((2, 3))}


def test_what_is_no_classifier_is_named():
    with pytest.raises(ModelError, match="the model returned dict; aliasing can still be measured"):
        shift_instability(Boxes(), torch.rand(1, 3, 8, 8))
    with pytest.raises(ModelError, match=r"the model returned \(2, 3, 4, 4\)"):
        logits_of(torch.zeros(2, 3, 4, 4))


def test_logits_under_that_name():
    class Output:
        logits = torch.zeros(2, 5)

    assert logits_of(Output()).shape == (2, 5)


def test_logits_that_are_not_finite_give_undefined_scores():
    logits = torch.zeros(5, 2, 3)
    logits[2, 0, 1] = math.nan
    assert stability(logits)["sis"].isnan().tolist() == [True, False]


def test_cropped_views_equal_circular_ones_away_from_the_border():
    wide = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    views = cropped_views(wide)
    assert views.shape == (10, 3, 10, 8)
    torch.testing.assert_close(
        views[..., 1:-1, 1:-1], shifted_views(wide[..., 1:-1, 1:-1])[..., 1:-1, 1:-1]
    )
    # What comes in is the photograph's own: here the row above the window, after a shift down.
    torch.testing.assert_close(views[4:6, :, 0], wide[:, :, 0, 1:-1])


def test_sis_at_confidence_half_undoes_any_change_of_temperature():
    """Another scale for each image moves SIS and confidence, and not SIS at confidence ½."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(1, 64, 10, generator=generator)
    logits = logits + 0.3 * torch.randn(5, 64, 10, generator=generator)
    scale = torch.rand(64, 1, generator=generator) * 4 + 0.25
    plain, scaled = stability(logits), stability(scale * logits)
    assert abs(scaled["sis"].mean() / plain["sis"].mean() - 1) > 0.1  # the confound is there
    torch.testing.assert_close(scaled["sis_half"], plain["sis_half"], rtol=1e-4, atol=0)


def test_sis_at_confidence_half_is_the_sis_of_logits_that_have_it():
    """The temperature is found by scipy's root finder, an image at a time."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 8, 10, generator=generator).double()
    for image, found in enumerate(stability(logits.float())["sis_half"]):
        own = logits[:, image : image + 1]

        def above(t, own=own):
            return (own[0] / t).softmax(-1).max().item() - 0.5

        temperature = brentq(above, 1e-3, 1e3)
        expected = stability((own / temperature).float())["sis"].item()
        assert found.item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    "logits", [torch.zeros(5, 1, 10), torch.randn(5, 1, 2), torch.full((5, 1, 3), torch.nan)]
)
def test_where_no_temperature_gives_confidence_half(logits):
    assert stability(logits)["sis_half"].isnan().all()


def test_flip_risk_is_the_odds_of_the_runner_up():
    logits = torch.randn(50, 10, generator=torch.Generator().manual_seed(0)) * 4
    ordered = logits.softmax(1).sort(1, descending=True).values
    assert torch.allclose(flip_risk(logits), ordered[:, 1] / ordered[:, 0], rtol=1e-4)
    assert torch.allclose(flip_risk(logits.half()), flip_risk(logits), rtol=0.02)


def test_flip_risk_tells_those_that_noise_flips():
    """Planted: the same noise on all logits flips those whose margin is small."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 10, generator=generator) * 3
    moved = logits + torch.randn(400, 10, generator=generator) * 0.5
    flipped = moved.argmax(1) != logits.argmax(1)
    assert flipped.sum() > 20
    risk = flip_risk(logits)
    area = (risk[flipped][:, None] > risk[~flipped]).float().mean()  # under the ROC curve
    assert area > 0.85
