"""The experiments on causes: what they compute, against planted truths and finite differences."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from aliascope import load_model, open_images
from aliascope.images import loaded_ahead
from aliascope.measure.batch import prepare, views_of
from aliascope.stability import logits_of

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def script(name):
    spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestCauseAndCure:
    def tables(self, *pairs):
        return [pd.DataFrame({"cause": c, "cure": k, "interaction": 0.5}) for c, k in pairs]

    def test_what_agrees_everywhere_has_rho_1(self):
        tables = self.tables(*[([1, 2, 3, 4, 5], [2, 3, 7, 8, 20])] * 3)
        rho, p, networks = script("cause_and_cure").agreement(tables, "cause", "cure", False)
        assert (rho, networks) == (pytest.approx(1), 3)
        assert p < 1e-3

    def test_p_is_that_of_all_orders(self):
        """Of five places in one network, 1 of 120 orders is the best, 4 the next best."""
        agreement = script("cause_and_cure").agreement
        _, best, _ = agreement(self.tables(([1, 2, 3, 4, 5],) * 2), "cause", "cure", False)
        assert best == pytest.approx(1 / 120, rel=0.25)
        near = self.tables(([1, 2, 3, 4, 5], [2, 1, 3, 4, 5]))
        rho, next_best, _ = agreement(near, "cause", "cure", False)
        assert rho == pytest.approx(0.9)
        assert next_best == pytest.approx(5 / 120, rel=0.15)

    def test_places_that_cannot_be_believed_are_left_out(self):
        (table,) = self.tables(([9, 1, 2, 3], [0, 1, 2, 3]))
        table.loc[0, "interaction"] = 3.0
        agreement = script("cause_and_cure").agreement
        assert agreement([table], "cause", "cure", True)[0] == pytest.approx(1)
        assert agreement([table], "cause", "cure", False)[0] < 0


class TestFlipRisk:
    def test_features_are_what_finite_differences_say(self):
        features = script("flip_risk").features
        specs = ("efficientnet_lite0", "efficientnet_lite0@blurpool:1:stem")
        original, twin = (prepare(load_model(x), border="crop", device="cpu") for x in specs)
        (item,) = loaded_ahead(open_images("photos", limit=1).entries(), original.seen)
        found = features(original, twin, item)
        views = views_of(original, item.pixels[None]).double()
        net = original.module.double()
        with torch.no_grad():
            logits = logits_of(net(views[:1]))[0]
            first, second = logits.topk(2).indices
            margin = logits[first] - logits[second]
            assert found["margin"] == pytest.approx(margin.item(), rel=1e-3)
            moved = []
            for view in views[1:]:
                step = 1e-4 * (view - views[0])
                z = logits_of(net((views[0] + step)[None]))[0]
                moved.append((z[first] - z[second] - margin).item() / 1e-4)
        assert found["predicted_rms"] == pytest.approx(np.sqrt(np.mean(np.square(moved))), rel=0.05)
        assert found["length"] == pytest.approx((logits - logits.mean()).norm().item(), rel=1e-3)
        assert len([x for x in found if x.startswith("weighted.")]) == 5

    def test_a_score_is_ahead_of_another_where_it_is(self):
        ahead, rng = script("flip_risk").ahead, np.random.default_rng(0)
        flips = rng.random(300) < 0.3
        good, bad = (flips + rng.normal(size=300) * noise for noise in (0.3, 3))
        by, low, high = ahead(good, bad, flips, draws=100)
        assert 0 < low < by < high
        assert ahead(good, good, flips, draws=10) == (0, 0, 0)

    def test_noise_explains_nothing_and_what_is_planted_is_found(self):
        explained, rng = script("flip_risk").explained, np.random.default_rng(0)
        x = pd.DataFrame(rng.normal(size=(200, 5)))
        y = x[0] - 2 * x[1] + rng.normal(size=200) * 0.1
        assert explained(x, y)["ridge"] > 0.98
        assert explained(x, rng.normal(size=200))["ridge"] < 0.05
