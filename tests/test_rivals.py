"""Half-pixel views, the moving window and what the experiments on rivals make of them."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from aliascope import ImageError, measure
from aliascope.images import ImageSource
from aliascope.images.preprocessing import (
    INTERPOLATED,
    Preprocessing,
    half_views,
    native_views,
)
from aliascope.images.source import Entry
from aliascope.measure import moving
from aliascope.measure.moving import flicker, flickers, moving_window, smoothed
from aliascope.shifts import Shift

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SMALL = Preprocessing(resize=(40,), crop=(32, 32))


def noise(*shape, seed=0):
    return torch.randint(
        256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def ramp(height, width, down=1.0, right=2.0):
    """A plane, in [0, 1], by which places can be read off."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return ((down * y + right * x) / 1000).float().expand(3, -1, -1)


class TestHalfViews:
    def test_where_two_pixels_make_one_they_are_the_native_views(self):
        pixels = noise(3, 82, 82)  # 2 · (40 + 1)
        half, note = half_views(SMALL, pixels)
        native, _ = native_views(SMALL, pixels)
        assert note == ""
        torch.testing.assert_close(half, native, atol=1.01 / 255, rtol=0)  # rounding to 8 bits

    @pytest.mark.parametrize("size", [(82, 82), (60, 90), (300, 205), (30, 30)])
    def test_a_plane_moves_by_half_a_pixel_of_the_network(self, size):
        pixels = ramp(*size)
        views, note = half_views(SMALL, pixels)
        rows, columns = SMALL.resized(*size)
        down, right = size[0] / (rows + 1), size[1] / (columns + 1)
        moves = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
        for view, (y, x) in zip(views[1:], moves.values(), strict=True):
            expected = -(1.0 * y * down + 2.0 * x * right) / 2 / 1000
            inner = (view - views[0])[:, 4:-4, 4:-4]
            torch.testing.assert_close(inner, torch.full_like(inner, expected), atol=1e-4, rtol=0)
        assert note == ("" if min(down, right) > 1 else INTERPOLATED)

    def test_twice_half_a_pixel_is_a_whole_one(self):
        pixels = noise(3, 103, 120)
        plan = [Shift("one", 2, 0), Shift("other", 0, -2)]
        views, _ = half_views(SMALL, pixels, plan)
        close = {"atol": 2.01 / 255, "rtol": 0}
        torch.testing.assert_close(views[1][:, 1:], views[0][:, :-1], **close)
        torch.testing.assert_close(views[2][..., :-1], views[0][..., 1:], **close)

    def test_a_run_says_so(self):
        net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        run = measure(net, "photos", limit=1, shifts="half", device="cpu")
        assert run.images["logit_instability"].item() > 0
        assert run.images["note"].item() == INTERPOLATED
        assert "half-pixel shifts" in str(run)


class TestTheMovingWindow:
    def test_it_goes_on_evenly_and_is_thrown_back(self):
        pixels = ramp(100, 200)
        shown = list(itertools.islice(moving_window(SMALL, pixels, speed=1.0), 60))
        centre = torch.stack(shown)[:, 0, 16, 16]
        step = 80 / 40  # pixels of the photograph in one of the network's, both ways
        # 20 rows and 40 columns of room: in the network's pixels 10 and 20, passed at 0.6 and 0.8.
        goes = [1, 1, -1, 1]
        for first, (y, x) in ((0, goes[:2]), (17, goes[2:])):
            moved = (centre[first + 1 : first + 8] - centre[first : first + 7]) * 1000
            expected = step * (1.0 * 0.6 * y + 2.0 * 0.8 * x)
            assert moved.tolist() == pytest.approx([expected] * 7, abs=0.05)

    def test_a_photograph_that_is_too_small_is_refused(self):
        with pytest.raises(ImageError, match="45 × 60 pixels, and a window of 80%"):
            next(moving_window(SMALL, noise(3, 45, 60)))

    def test_flips_and_crossings_are_counted(self):
        p = torch.tensor([0.9, 0.9, 0.6, 0.4, 0.6, 0.9])
        p = torch.stack([p, 1 - p], 1)
        assert flickers(p, 0.7) == {"flips": 400.0, "crossings": 400.0}
        assert flickers(p[:2]) == {"flips": 0.0, "crossings": 0.0}

    def test_a_mean_of_frames_against_numpy(self):
        p = torch.rand(11, 3, generator=torch.Generator().manual_seed(0))
        expected = [np.convolve(p[:, k].numpy(), np.ones(5) / 5, "valid") for k in range(3)]
        np.testing.assert_allclose(smoothed(p, 5).numpy(), np.stack(expected, 1), rtol=1e-5)
        assert torch.equal(smoothed(p, 1), p)

    def test_a_network_that_reads_single_pixels_flickers_more_than_one_that_averages(self):
        entry = Entry("noise.png", None, "noise.png", lambda: (noise(3, 120, 120), ""))
        small = Entry("small.png", None, "small.png", lambda: (noise(3, 20, 20), ""))
        source = ImageSource(lambda: [small, entry], ids=["small.png", "noise.png"])
        pixel, mean = (self.network(middle) for middle in (slice(15, 16), slice(None)))
        jumpy, calm = (flicker(x, source, frames=40, device="cpu") for x in (pixel, mean))
        assert jumpy["photograph"].tolist() == ["noise.png"] * 2
        assert jumpy["averaged"].tolist() == [1, moving.SMOOTHING]
        assert jumpy["flips"][0] > 100 > calm["flips"][0]
        assert jumpy["flips"][1] < jumpy["flips"][0]
        with pytest.raises(ImageError, match=r"no photograph is large enough: small\.png"):
            flicker(pixel, ImageSource(lambda: [small], ids=["small.png"]), device="cpu")

    @staticmethod
    def network(middle):
        class Channels(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(3, 3, 1)
                nn.init.dirac_(self.conv.weight)
                nn.init.zeros_(self.conv.bias)

            def forward(self, x):
                return self.conv(x)[:, :, middle, middle].mean((2, 3))

        net = Channels()
        net.pretrained_cfg = {"input_size": (3, 32, 32), "crop_pct": 0.8}
        return net


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    import rivals

    yield rivals
    sys.modules.pop("rivals", None)


class TestTheTableOfRivals:
    def test_conditions_change_a_picture_and_each_is_undone_by_none(self, experiment):
        frame = Preprocessing(resize=(64,), crop=(54, 54))
        pixels = ramp(128, 160).mul(560).round().byte()
        views = experiment.conditions(frame, pixels, seed=0)
        assert [len(part) for part in views.values()] == [3, 3, 3, 1, 1, 2, 2]
        first = views["one pixel"][0]
        torch.testing.assert_close(views["one pixel"][1][:, 1:], first[:, :-1])
        for name in experiment.OF_THE_FIRST:
            assert 0 < (views[name][0] - first).abs().mean() < 0.05
        near, nearer = views["zoom"]
        span = [(x[0, :, -1] - x[0, :, 0]).mean().item() for x in (near, nearer)]
        assert span[1] / span[0] < 0.998
        assert span[1] / span[0] == pytest.approx(0.98 / 0.99, abs=0.008)
        one, other = (x[0, 4:-4, 4:-4] for x in views["rotation"])
        turned = torch.rad2deg(self.direction(other) - self.direction(one))
        assert abs(turned.item()) == pytest.approx(experiment.TURN, abs=0.25)

    @staticmethod
    def direction(plane):
        """Of steepest ascent."""
        return torch.atan2(plane.diff(dim=0).mean(), plane.diff(dim=1).mean())

    def test_the_filter_alone_leaves_a_plane_where_it_is(self, experiment):
        plane = ramp(58, 66)[None]
        seen = experiment.InTheMiddle(nn.Identity(), (40, 48), 9).windows(plane)
        torch.testing.assert_close(seen, plane[..., 9:-9, 9:-9])
        spot = torch.zeros(1, 3, 58, 66)
        spot[..., 20, 20] = 1
        assert experiment.InTheMiddle(nn.Identity(), (40, 48), 9).windows(spot).max() < 0.7

    def test_the_summary_is_paired_with_the_original(self, experiment):
        ids = list("abcdefgh")
        base = pd.DataFrame(
            {"photograph": ids, "condition": "one pixel", "agreement": 1.0,
             "logit_instability": np.linspace(0.1, 0.2, 8), "confidence": 0.5}
        )  # fmt: skip
        half = base.assign(logit_instability=base["logit_instability"] / 2)[::-1]
        table = experiment.summarised({experiment.BASE: base, "half": half})
        row = table.set_index(["contender", "figure"]).loc["half", "logit_instability"]
        assert row["value"] == pytest.approx(0.075)
        assert row["change"] == pytest.approx(-0.075)
        assert row["low"] < row["value"] < row["high"]
        assert row["photographs"] == 8
        both = {spec: base if spec == experiment.BASE else half for spec in experiment.CONTENDERS}
        pairs = experiment.paired_off(both).set_index(["one", "other"])
        own = pairs.loc[(experiment.BASE, experiment.FITTED)]
        assert own["change"].item() == pytest.approx(-0.5)
        assert own["change_low"].item() <= -0.5 <= own["change_high"].item()
        same = pairs.loc[(experiment.REPAIRED, experiment.FITTED)]
        assert same["change"].item() == 0
