import copy
import dataclasses
import errno
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from aliascope import ImageError, ModelError, RunError, alias_violation_ratio, open_images
from aliascope.antialias import antialias
from aliascope.finetune import finetune, recalibrate
from aliascope.finetune.data import Cut, Photos, mixed, order, split, view, views, weights
from aliascope.finetune.losses import (
    Objective,
    Runner,
    distillation,
    feature_distance,
    feature_layers,
    mean_alias_ratio,
    penalised,
)
from aliascope.finetune.optimisation import Average, optimiser, rate_at, side_at
from aliascope.finetune.settings import FinetuneSettings
from aliascope.images import Entry, batches, in_threads
from aliascope.images.preprocessing import Preprocessing
from aliascope.inference import SmallerFrame
from aliascope.models import load_model
from aliascope.shifts import cropped_views
from aliascope.stability import circular_logits, shift_instability, stability
from aliascope.taps import strided_layers

pytestmark = pytest.mark.xdist_group("finetune")  # one worker makes what all share

SMALL = Preprocessing(resize=(20,), crop=(16, 16))
CPU = torch.device("cpu")
PLAIN = {"preprocess": SMALL, "device": "cpu"}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Maps this small gain nothing from two, which on shared cores wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Net(nn.Module):
    """Batch-norm after each of two strided convolutions, a dropout, a linear classifier."""

    def __init__(self, classes=5):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.norm1 = nn.BatchNorm2d(6)
        self.conv = nn.Conv2d(6, 8, 3, 2, 1)
        self.norm2 = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        x = torch.relu(self.norm1(self.stem(x)))
        x = torch.relu(self.norm2(self.conv(x)))
        return self.head(self.drop(x.mean((2, 3))))


def make_net(seed=0, classes=5):
    torch.manual_seed(seed)
    net = Net(classes)
    net.head.weight.data.mul_(8)
    return net.eval()


@pytest.fixture
def net():
    return make_net()


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [torch.from_numpy(rng.random((3, 22, 26), np.float32)) for _ in range(14)]


def some_settings(**changes):
    settings = {
        "steps": 10,
        "batch_size": 4,
        "learning_rate": 0.01,
        "weight_decay": 0.1,
        "warmup": 2,
        "feature_weight": 0.0,
        "consistency": 0.0,
        "batch_norm": "train",
        "mixup": 0.0,
    }
    return FinetuneSettings(**settings | changes).settled()


def digest(model):
    return load_model(model).weights_digest, [m.training for m in model.modules()]


def normalised(pictures):
    return SMALL.normalise(torch.stack([SMALL(p) for p in pictures]))


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def differs(one, other):
    return any(not torch.equal(one[name], other[name]) for name in one)


def near(found, expected):
    """Equal but for the rounding of float32."""
    torch.testing.assert_close(found.double(), expected.double(), atol=1e-6, rtol=1e-5)


class TestRecalibrate:
    @pytest.mark.parametrize("batch_size", [1, 3, 14])
    def test_first_norm_has_the_statistics_of_all_images(self, net, pictures, batch_size):
        """The oracle: the concatenated activations, whatever the batches, the last uneven."""
        done = recalibrate(net, pictures, batch_size=batch_size, **PLAIN)
        x = net.stem(normalised(pictures)).detach().double()
        near(done.norm1.running_mean, x.mean((0, 2, 3)))
        near(done.norm1.running_var, x.var((0, 2, 3)))
        assert not torch.allclose(net.norm1.running_var, done.norm1.running_var, atol=1e-3)

    def test_later_norms_have_the_statistics_of_one_whole_batch(self, net, pictures):
        done = recalibrate(net, pictures, batch_size=14, **PLAIN)
        x = net.stem(normalised(pictures)).detach().double()
        x = (x - x.mean((0, 2, 3), keepdim=True)) / (
            x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5
        ).sqrt()
        y = copy.deepcopy(net.conv).double()(torch.relu(x)).detach()
        near(done.norm2.running_mean, y.mean((0, 2, 3)))
        near(done.norm2.running_var, y.var((0, 2, 3)))

    def test_batch_size_matters_behind_the_first_norm_only(self, net, pictures):
        """What the docstring says is not independent of it, is not."""
        small, large = (recalibrate(net, pictures, batch_size=n, **PLAIN) for n in (2, 7))
        torch.testing.assert_close(small.norm1.running_var, large.norm1.running_var)
        assert not torch.allclose(small.norm2.running_var, large.norm2.running_var, rtol=1e-3)

    @pytest.mark.parametrize("batch_size", [1, 4])
    def test_no_batch_of_one_at_maps_of_one_place(self, pictures, batch_size):
        """One value has no variance; the oracle sees the norm's inputs at once."""
        net = nn.Sequential(nn.Conv2d(3, 4, 16), nn.BatchNorm2d(4), nn.Flatten())
        done = recalibrate(net, pictures[:5], batch_size=batch_size, **PLAIN)
        x = net[0](normalised(pictures[:5])).detach().double()
        near(done[1].running_mean, x.mean((0, 2, 3)))
        near(done[1].running_var, x.var((0, 2, 3)))

    def test_a_limit_is_spread_over_the_source(self, net, pictures):
        """Sorted files begin with one kind: 4 of 14 are the 1st, 4th, 8th and 11th."""
        done = recalibrate(net, pictures, limit=4, **PLAIN)
        chosen = [pictures[i] for i in (0, 3, 7, 10)]
        same(done.state_dict(), recalibrate(net, chosen, **PLAIN).state_dict())
        every = recalibrate(net, pictures, limit=99, **PLAIN)
        same(every.state_dict(), recalibrate(net, pictures, **PLAIN).state_dict())

    def test_a_norm_that_runs_twice_pools_both_calls(self, pictures):
        class Twice(nn.Module):
            def __init__(self):
                super().__init__()
                self.norm = nn.BatchNorm2d(3)

            def forward(self, x):
                return self.norm(x).mean() + self.norm(2 * x + 1).mean()

        done = recalibrate(Twice(), pictures, batch_size=5, **PLAIN)
        x = normalised(pictures).double()
        both = torch.cat([x, 2 * x + 1])
        near(done.norm.running_mean, both.mean((0, 2, 3)))
        near(done.norm.running_var, both.var((0, 2, 3)))

    def test_all_else_stays(self, net, pictures):
        net.drop.train()
        net.norm1.train()
        net.norm2.momentum = 0.3
        before = digest(net)
        done = recalibrate(net, pictures, **PLAIN)
        assert digest(net) == before
        assert [m.training for m in done.modules()] == before[1]
        assert done.norm2.momentum == 0.3
        assert not any(m._forward_hooks for m in done.modules())
        changed = {k for k, v in done.state_dict().items() if not v.equal(net.state_dict()[k])}
        assert changed == {f"norm{i}.running_{kind}" for i in (1, 2) for kind in ("mean", "var")}

    def test_dropout_is_off(self, pictures):
        class Dropped(nn.Sequential):
            pass

        net = Dropped(nn.Dropout(0.5), nn.BatchNorm2d(3)).train()
        done = recalibrate(net, pictures, **PLAIN)
        torch.testing.assert_close(done[1].running_mean, normalised(pictures).mean((0, 2, 3)))

    def test_without_batch_norm_an_equal_copy_comes_back(self, pictures):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4))
        done = recalibrate(net, pictures, **PLAIN)
        assert done is not net
        same(done.state_dict(), net.state_dict())

    def test_no_readable_image(self, net, tmp_path):
        (tmp_path / "a.png").write_bytes(b"no picture")
        with pytest.raises(ImageError, match="no image of the source can be used"):
            recalibrate(net, tmp_path, **PLAIN)


class TestSchedule:
    def test_closed_form(self):
        """Up along a line, down along half a cosine."""
        plan = some_settings(steps=102, warmup=2, learning_rate=0.5)
        rates = [rate_at(step, plan) for step in range(103)]
        assert rates[:3] == pytest.approx([0.25, 0.5, 0.5])
        assert rates[52] == pytest.approx(0.25)
        assert rates[27] == pytest.approx(0.25 * (1 + math.sqrt(0.5)))
        assert rates[102] == pytest.approx(0)
        assert rates[2:] == sorted(rates[2:], reverse=True)

    def test_all_warm_up(self):
        assert rate_at(3, some_settings(steps=4, warmup=4)) == 0.01

    def test_views_grow_to_the_size_of_the_model(self):
        plan = some_settings(steps=80, resolution=0.5)
        sides = [side_at(step, 224, plan) for step in range(80)]
        assert sides == sorted(sides)
        assert sides[0] == 128  # 112, and on to the next multiple of 32
        assert sides[30] == 192  # 224 (½ + ½ · 30/60) = 168
        assert set(sides[60:]) == {224}
        assert {side_at(step, 224, some_settings(steps=80)) for step in range(80)} == {224}
        assert side_at(0, 20, plan) == 20  # no larger than the model's own

    def test_a_killed_run_sees_the_same_sizes(self, net, pictures, tmp_path, monkeypatch):
        seen, plain = [], Objective.__call__

        def called(objective, made, step):
            seen.append(made.shape[-1] - 2)  # without the margin of the shifts
            return plain(objective, made, step)

        monkeypatch.setattr(Objective, "__call__", called)
        options = {"preprocess": Preprocessing(resize=(80,), crop=(72, 72)), "device": "cpu"}
        options |= {"images": pictures, "steps": 4, "batch_size": 2, "holdout": 0}
        options |= {"recalibration": 0, "teacher": Net().eval(), "resolution": 0.4}
        whole = finetune(net, **options)
        assert seen == [32, 64, 64, 72]

        def killed(step, *_):
            if step == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            finetune(net, **options, out=tmp_path, progress=killed)
        same(finetune(net, **options, out=tmp_path).model.state_dict(), whole.model.state_dict())
        assert seen == 2 * [32, 64, 64, 72]

    def test_norms_and_biases_do_not_decay(self, net):
        net.stem.weight.requires_grad_(False)
        decaying, others = optimiser(net, some_settings()).param_groups
        assert decaying["weight_decay"] == 0.1
        assert others["weight_decay"] == 0
        assert {id(p) for p in decaying["params"]} == {id(net.conv.weight), id(net.head.weight)}
        biases = (net.stem.bias, net.conv.bias, net.head.bias)
        scales = (net.norm1.weight, net.norm1.bias, net.norm2.weight, net.norm2.bias)
        assert {id(p) for p in others["params"]} == {id(p) for p in (*biases, *scales)}


class TestAverage:
    def test_closed_form(self):
        """Of weights 0, 1, 2, 3 by hand; the decay rises with the step."""
        layer = nn.Linear(1, 1, bias=False)
        layer.weight.data.fill_(0)
        average = Average(layer, 0.3)
        expected = 0.0
        for step, decay in [(1, 2 / 11), (2, 3 / 12), (3, 0.3), (4, 0.3)]:
            layer.weight.data.fill_(float(step))
            average.update(step)
            expected = decay * expected + (1 - decay) * step
            assert average.module.weight.item() == pytest.approx(expected)

    def test_statistics_are_averaged_and_counts_copied(self, net):
        average = Average(net, 0.5)
        before = net.norm1.running_var.clone()
        net.norm1.running_var.mul_(3)
        net.norm1.num_batches_tracked.fill_(7)
        average.update(100)
        torch.testing.assert_close(average.module.norm1.running_var, 2 * before)
        assert average.module.norm1.num_batches_tracked.item() == 7


class TestData:
    def test_every_epoch_shows_every_picture_once(self):
        drawn = [i for step in range(7) for i in order(7, 3, step, 4)]
        epochs = [drawn[i : i + 7] for i in range(0, 28, 7)]
        assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 1

    def test_views_depend_on_nothing_but_seed_and_step(self, pictures):
        entries = list(open_images(pictures).entries())
        cut = Cut((16, 16), (0.35, 1.0), flip=True, interpolation="bicubic")

        def batches(start, threads, cache, seed=0):
            photos = Photos(entries, 20, cache)
            steps = range(start, 5)
            settings = {"seed": seed, "batch_size": 4, "mixup": 0.7}
            made = views(photos, lambda _: cut, steps, **settings, threads=threads)
            return [one.on(CPU) for one in made]

        reference = batches(0, 1, 0)
        for other in (batches(0, 5, 1e9), batches(0, 3, 3000)):
            assert all(torch.equal(a, b) for a, b in zip(reference, other, strict=True))
        tail = batches(3, 2, 1e9)
        assert all(torch.equal(a, b) for a, b in zip(reference[3:], tail, strict=True))
        assert not torch.equal(reference[0], batches(0, 1, 0, seed=1)[0])
        assert not torch.equal(reference[0], reference[1])

    def test_that_share_of_the_views_is_mixed_with_the_next_one(self):
        x = torch.rand(4096, 3, 1, 2, generator=torch.Generator().manual_seed(0))
        assert torch.equal(mixed(x, weights(4096, 0, np.random.default_rng(1))), x)
        made = mixed(x, weights(4096, 0.25, np.random.default_rng(1)))
        other = x.roll(-1, 0)
        share = ((made - x) / (other - x)).double().flatten(1)  # 1 − λ
        touched = (made != x).flatten(1).any(1)
        assert touched.double().mean().item() == pytest.approx(0.25, abs=0.03)
        assert (share.amax(1) - share.amin(1))[touched].median().item() < 1e-5
        drawn, _ = share[touched].median(1)
        assert 0 < drawn.min().item() < 0.01
        assert 0.49 < drawn.max().item() < 0.5001
        assert drawn.mean().item() == pytest.approx(0.25, abs=0.01)

    def test_a_whole_view_is_the_picture(self):
        pixels = torch.arange(3 * 8 * 8, dtype=torch.uint8).reshape(3, 8, 8)

        class Whole(np.random.Generator):
            def uniform(self, low, high):
                return 1.0 if high == 1.0 else 0.0

            def integers(self, stop):
                assert stop == 1
                return 0

            def random(self):
                return self.draw

        rng = Whole(np.random.PCG64(0))
        cut = Cut((8, 8), (1.0, 1.0), flip=True, interpolation="bilinear")
        rng.draw = 0.7
        assert torch.equal(view(pixels, cut, rng), pixels)
        rng.draw = 0.2
        assert torch.equal(view(pixels, cut, rng), pixels.flip(-1))

    def test_pictures_are_shrunk_and_kept_within_the_budget(self, pictures):
        loads = []

        def entry(i):
            def load():
                loads.append(i)
                return pictures[i], ""

            return Entry(str(i), None, str(i), load)

        photos = Photos([entry(i) for i in range(3)], 11, 2 * 3 * 11 * 13)
        first = [photos[i] for i in range(3)]
        again = [photos[i] for i in range(3)]
        assert first[0].shape == (3, 11, 13)
        assert first[0].dtype == torch.uint8
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert loads == [0, 1, 2, 2]

    def test_crops_of_a_photograph_are_held_out_together(self):
        entries = [Entry(f"{g}#{i}", None, g, lambda: None) for g in "abcdef" for i in range(3)]
        training, held = split(entries, 4, 0)
        assert len(held) == 6
        assert not {e.group for e in training} & {e.group for e in held}
        assert sorted(training + held) == sorted(entries)
        assert split(entries, 4, 1)[1] != held or split(entries, 4, 2)[1] != held

    def test_nothing_left_to_train_on(self, net, pictures):
        with pytest.raises(ImageError, match="holding out 14 of 14 images leaves none"):
            finetune(net, images=pictures, holdout=14, **PLAIN)

    def test_unreadable_pictures_are_left_out_and_listed(self, net, tmp_path):
        import PIL.Image

        for i in range(3):
            PIL.Image.new("RGB", (20, 20), (i * 60, 99, 99)).save(tmp_path / f"{i}.png")
        (tmp_path / "bad.png").write_bytes(b"no picture")
        tuned = finetune(net, images=tmp_path, steps=2, batch_size=4, holdout=0, **PLAIN)
        assert list(tuned.unreadable) == ["bad.png"]
        assert "skipped bad.png: is in no format" in str(tuned)

    def test_a_batch_of_one_that_cannot_be_read(self, net, tmp_path):
        """The next picture stands in, at every place in the order."""
        import PIL.Image

        for i in range(2):
            PIL.Image.new("RGB", (20, 20), (i * 60, 99, 99)).save(tmp_path / f"{i}.png")
        (tmp_path / "bad.png").write_bytes(b"no picture")
        photos = Photos(list(open_images(tmp_path).entries()), 20, 1e6)
        cut = Cut((16, 16), (1.0, 1.0), flip=False, interpolation="bilinear")
        made = views(photos, lambda _: cut, range(6), seed=0, batch_size=1)
        assert {int(red) for one in made for red in one.pixels[:, 0, 0, 0]} == {0, 60}
        tuned = finetune(net, images=tmp_path, steps=3, batch_size=1, holdout=0, **PLAIN)
        assert list(tuned.unreadable) == ["bad.png"]
        assert tuned.history.loss.notna().all()

    def test_nothing_readable(self, net, tmp_path):
        (tmp_path / "bad.png").write_bytes(b"no picture")
        with pytest.raises(ImageError, match=r"no image can be read; bad.png: is in no"):
            finetune(
                net, images=tmp_path, steps=1, batch_size=2, holdout=0, recalibration=0, **PLAIN
            )
        with pytest.raises(ImageError, match=r"no image of the source.*is in no"):
            finetune(net, images=tmp_path, steps=1, batch_size=2, holdout=0, **PLAIN)

    def test_in_threads_keeps_the_order_and_looks_ahead_no_further_than_told(self):
        taken = []

        def items():
            for i in range(20):
                taken.append(i)
                yield i

        def slow_at_first(i):
            time.sleep(0.01 if i == 0 else 0)
            return i * i

        # The workers' own setting, one thread, must not become that of who starts them.
        before = torch.get_num_threads()
        results = in_threads(slow_at_first, items(), ahead=lambda: 4, threads=3)
        assert next(results) == 0
        assert len(taken) == 5
        assert list(results) == [i * i for i in range(1, 20)]
        assert torch.get_num_threads() == before
        with ThreadPoolExecutor(1) as fresh:
            assert fresh.submit(torch.get_num_threads).result() == before

    def test_a_whole_next_batch_is_made_ready_while_the_network_has_one(self):
        taken = []

        def entries():
            for i in range(300):
                taken.append(i)
                yield Entry(str(i), None, str(i), lambda: (torch.zeros(3, 2, 2), ""))

        made = batches(entries(), lambda x: x, lambda: 100)
        for done in (100, 200, 300):
            readable, _ = next(made)
            assert len(readable) == 100
            assert len(taken) == min(done + 132, 300)


class TestLosses:
    def test_distillation_is_the_divergence_written_out(self):
        torch.manual_seed(0)
        student, teacher = torch.randn(3, 4), torch.randn(3, 4)
        for temperature in (1, 2.5):
            p, q = (np.exp(z.double().numpy() / temperature) for z in (teacher, student))
            p, q = (v / v.sum(1, keepdims=True) for v in (p, q))
            expected = temperature**2 * (p * np.log(p / q)).sum(1).mean()
            assert distillation(student, teacher, temperature).item() == pytest.approx(
                expected, rel=1e-5
            )

    def test_feature_distance_is_relative_to_the_teacher(self):
        student, teacher = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
        expected = (student - teacher).norm() ** 2 / teacher.norm() ** 2
        assert feature_distance(student, teacher).item() == pytest.approx(expected.item())
        assert feature_distance(teacher, teacher).item() == 0
        assert feature_distance(0 * teacher, teacher).item() == pytest.approx(1)

    def test_a_map_of_another_size_is_resized(self):
        """A constant stays what it is, a fine tone vanishes: the teacher's map is antialiased."""
        board = 1 - 2.0 * ((torch.arange(16)[:, None] + torch.arange(16)) % 2)
        small = torch.full((1, 2, 8, 8), 3.0)
        assert feature_distance(small, torch.full((1, 2, 16, 16), 3.0)).item() < 1e-12
        assert feature_distance(small, board.expand(1, 2, 16, 16) + 3).item() < 1e-3

    def test_features_behind_a_smaller_frame_are_found_within_it(self, net):
        example = torch.zeros(1, 3, 16, 16)
        student = SmallerFrame(net, (16, 16), (12, 12))
        assert feature_layers(student, net, example) == {"conv": "model.conv", "head": "model.head"}

    def test_features_are_what_strided_layers_and_the_last_linear_layer_read(self, net):
        """The stem reads the image; a linear layer that does not run is none."""
        net.unused = nn.Linear(2, 2)
        example = torch.zeros(1, 3, 16, 16)
        assert feature_layers(net, net, example) == {"conv": "conv", "head": "head"}
        assert feature_layers(nn.ReLU(), net, example) == {}

    def test_a_downsampler_before_a_layer_does_not_change_its_features(self):
        """What is compared is the map, not what surgery filters it to."""
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1, 2), nn.Flatten(), nn.Linear(256, 2)
        )
        x = torch.rand(1, 3, 16, 16)
        converted = antialias(net, example=x)
        assert "1.0" in dict(converted.named_modules())
        passed = [Runner(m, "fp32", features=["1"])(x).features["1"] for m in (net, converted)]
        assert torch.equal(*passed)

    def test_what_can_be_penalised(self, net):
        layers = strided_layers(net, torch.zeros(1, 3, 16, 16))
        assert [layer.name for layer in penalised(layers, None)] == ["conv"]
        assert [layer.name for layer in penalised(layers, ["stem"])] == ["stem"]
        with pytest.raises(ModelError, match=r"alias_layers has 'head'; choose from stem, conv"):
            penalised(layers, ["head"])
        with pytest.raises(ModelError, match="behind the first one"):
            penalised(layers[:1], None)

    def objective(self, net, **changes):
        plan = some_settings(**changes)
        layers = penalised(strided_layers(net, torch.zeros(1, 3, 16, 16)), ["conv", "stem"])
        maps = ["conv", "head"]
        student = Runner(net, "fp32", maps, layers if plan.alias_penalty else ())
        return Objective(student, Runner(make_net(1), "fp32", maps), plan, SMALL)

    def test_every_part_is_the_plain_computation(self, net):
        """Consistency compares crops one pixel apart; the penalty is the box AVR."""
        weights = {"feature_weight": 0.5, "consistency": 2, "logit_consistency": 5}
        objective = self.objective(net, **weights, alias_penalty=3)
        teacher = make_net(1)
        seen = torch.rand(8, 3, 18, 18)
        for step, (rows, columns) in enumerate([(2, 1), (0, 1), (1, 2), (1, 0)]):  # up, down, …
            parts = objective(seen, step)
            x = SMALL.normalise(seen[..., 1:17, 1:17])
            moved = SMALL.normalise(seen[:2, :, rows : rows + 16, columns : columns + 16])
            z = net(x)
            assert parts["distillation"].item() == pytest.approx(
                distillation(z, teacher(x)).item(), rel=1e-4
            )
            assert parts["consistency"].item() == pytest.approx(
                distillation(net(moved), z[:2]).item(), rel=1e-3
            )
            change = (net(moved) - z[:2]).norm() ** 2 / z[:2].norm() ** 2
            assert parts["logit_consistency"].item() == pytest.approx(change.item(), rel=1e-3)
            stem = torch.relu(net.norm1(net.stem(torch.cat([x, moved]))))
            ratios = [
                alias_violation_ratio(m, 2, band="box").mean()
                for m in (stem, torch.cat([x, moved]))
            ]
            assert parts["aliasing"].item() == pytest.approx(sum(ratios).item() / 2, rel=1e-4)
            total = parts["distillation"] + parts["features"] / 2
            total = total + 2 * parts["consistency"] + 3 * parts["aliasing"]
            total = total + 5 * parts["logit_consistency"]
            assert objective.total(parts).item() == pytest.approx(total.item())
        stems = [torch.relu(m.norm1(m.stem(x))) for m in (net, teacher)]
        heads = [
            torch.relu(m.norm2(m.conv(stem))).mean((2, 3))
            for m, stem in zip((net, teacher), stems, strict=True)
        ]
        expected = (feature_distance(*stems) + feature_distance(*heads)).item() / 2
        assert parts["features"].item() == pytest.approx(expected, rel=1e-4)

    def test_maps_are_those_of_eight_images_or_of_a_fourth(self, net):
        """What the others of the batch show changes nothing in that part."""
        objective = self.objective(net.eval(), feature_weight=1, consistency=0)
        seen = torch.rand(40, 3, 16, 16)
        for size, compared in ((6, 6), (20, 8), (40, 10)):
            before = objective(seen[:size], 0)["features"].item()
            others, last = seen[:size].clone(), seen[:size].clone()
            others[compared:], last[compared - 1] = 0, 0
            assert objective(others, 0)["features"].item() == pytest.approx(before, rel=1e-5)
            assert objective(last, 0)["features"].item() != pytest.approx(before, rel=1e-3)

    def test_an_image_without_energy_has_no_say_in_the_penalty(self, net):
        (layer,) = penalised(strided_layers(net, torch.zeros(1, 3, 16, 16)), None)
        x = torch.rand(3, 6, 8, 8)
        x[1] = 0
        x.requires_grad_()
        ratio = mean_alias_ratio(x, layer)
        assert ratio.item() == pytest.approx(
            alias_violation_ratio(x[[0, 2]], 2, band="box").mean().item()
        )
        ratio.backward()
        assert x.grad.isfinite().all()
        assert mean_alias_ratio(torch.zeros(2, 6, 8, 8), layer).item() == 0

    def test_classes_must_match(self, net, pictures):
        with pytest.raises(ModelError, match="teacher knows 7 classes and the model 5"):
            finetune(net, pictures, make_net(classes=7), steps=1, holdout=0, **PLAIN)


class TestLearning:
    def test_distillation_brings_the_student_to_the_teacher(self, net, pictures):
        teacher = make_net(1)
        x = normalised(pictures)
        tuned = finetune(
            net, pictures, teacher, steps=80, batch_size=8, learning_rate=0.02, weight_decay=0,
            batch_norm="frozen", ema=0.9, mixup=0, holdout=0, evaluate_every=40, **PLAIN,
        )  # fmt: skip
        before, after = (distillation(m(x), teacher(x)).item() for m in (net, tuned.model))
        assert after < before / 3
        assert tuned.history.distillation.is_monotonic_decreasing

    def test_the_penalty_lowers_aliasing_with_no_new_layer(self, net, pictures):
        x = normalised(pictures)

        def ratio(model):
            stem = torch.relu(model.norm1(model.stem(x)))
            return alias_violation_ratio(stem, 2, band="box").mean().item()

        tuned = finetune(
            net, images=pictures, steps=15, batch_size=8, learning_rate=0.02, alias_penalty=10,
            batch_norm="frozen", ema=0, holdout=0, **PLAIN,
        )  # fmt: skip
        assert ratio(tuned.model) < 0.8 * ratio(net)
        assert [type(m) for m in tuned.model.modules()] == [type(m) for m in net.modules()]

    def test_consistency_steadies_the_student(self, net, pictures):
        x = normalised(pictures)
        tuned = finetune(
            net, images=pictures, steps=40, batch_size=8, learning_rate=0.02, consistency=50,
            batch_norm="frozen", ema=0, holdout=0, **PLAIN,
        )  # fmt: skip
        before, after = (shift_instability(m, x).mean() for m in (net, tuned.model))
        assert after < 0.7 * before

    def test_logit_consistency_steadies_what_no_softmax_shows(self, net, pictures):
        x = normalised(pictures)
        tuned = finetune(
            net, images=pictures, steps=40, batch_size=8, learning_rate=0.02, consistency=0,
            logit_consistency=10, batch_norm="frozen", ema=0, holdout=0, **PLAIN,
        )  # fmt: skip
        logits = (circular_logits(model, x) for model in (net, tuned.model))
        before, after = (stability(z)["logit_instability"].mean() for z in logits)
        assert after < 0.8 * before

    def test_what_is_frozen_does_not_learn(self, net, pictures):
        options = {"steps": 2, "batch_size": 4, "holdout": 0, "recalibration": 0, **PLAIN}
        tuned = finetune(net, pictures, make_net(1), frozen=["stem", "norm1"], **options)
        before, after = dict(net.named_parameters()), dict(tuned.model.named_parameters())
        equal = {name for name, p in after.items() if torch.equal(p, before[name])}
        assert equal == {"stem.weight", "stem.bias", "norm1.weight", "norm1.bias"}
        assert all(p.requires_grad for p in after.values())
        with pytest.raises(ModelError, match=r"frozen has 'stm', .* did you mean 'stem'\?"):
            finetune(net, pictures, frozen=["stm"], **options)

    def test_features_alone_pull_too(self, net, pictures):
        teacher = make_net(1)
        x = normalised(pictures)

        def distance(model):
            maps = [m.norm2(m.conv(torch.relu(m.norm1(m.stem(x))))) for m in (model, teacher)]
            return feature_distance(*(m.relu().mean((2, 3)) for m in maps)).item()

        tuned = finetune(
            net, pictures, teacher, steps=30, batch_size=8, learning_rate=0.02, feature_weight=20,
            batch_norm="frozen", ema=0, holdout=0, **PLAIN,
        )  # fmt: skip
        assert distance(tuned.model) < distance(net) / 2

    @pytest.mark.parametrize("batch_norm", ["train", "frozen"])
    def test_statistics_move_in_training_mode_only(self, net, pictures, batch_norm):
        tuned = finetune(
            net,
            pictures,
            make_net(1),
            steps=2,
            batch_size=4,
            batch_norm=batch_norm,
            holdout=0,
            **PLAIN,
        )
        moved = not torch.equal(tuned.model.norm1.running_mean, net.norm1.running_mean)
        assert moved == (batch_norm == "train")

    def test_recalibration_stays_where_it_leads_to_the_teacher(self, net, pictures, tmp_path):
        teacher = recalibrate(net, pictures, **PLAIN)
        wrong = copy.deepcopy(teacher)
        wrong.norm2.running_mean += 3
        settings = {"steps": 1, "holdout": 0, "out": tmp_path, **PLAIN}
        tuned = finetune(wrong, pictures, teacher, **settings)
        assert tuned.recalibrated
        assert "recalibrated before" in str(tuned)
        expected = recalibrate(wrong, pictures, **PLAIN)
        assert torch.equal(tuned.model.norm2.running_mean, expected.norm2.running_mean)
        assert finetune(wrong, pictures, teacher, **settings).recalibrated  # taken up again

        away = finetune(net, pictures, make_net(1), steps=1, holdout=0, **PLAIN)
        assert not away.recalibrated
        assert torch.equal(away.model.norm2.running_mean, net.norm2.running_mean)

    def test_without_pictures_to_recalibrate_on_nothing_is_recalibrated(self, net, pictures):
        wrong = copy.deepcopy(net)
        wrong.norm2.running_mean += 3
        tuned = finetune(wrong, pictures, net, steps=1, holdout=0, recalibration=0, **PLAIN)
        assert not tuned.recalibrated
        assert torch.equal(tuned.model.norm2.running_mean, wrong.norm2.running_mean)

    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    def test_half_precision(self, net, pictures, precision):
        """Near the run in full precision, and not it."""
        settings = {"steps": 3, "batch_size": 4, "holdout": 4, **PLAIN}
        settings |= {"feature_weight": 0, "consistency": 0}  # their gradients overflow at first
        half = finetune(net, pictures, make_net(1), precision=precision, **settings)
        full = finetune(net, pictures, make_net(1), **settings)
        assert half.history.loss.iloc[-1] == pytest.approx(full.history.loss.iloc[-1], rel=0.05)
        assert half.history.loss.iloc[-1] != full.history.loss.iloc[-1]
        assert differs(half.model.state_dict(), net.state_dict())


class TestEvaluation:
    def test_the_figures_are_those_of_the_model_returned(self, net, pictures):
        teacher = make_net(1)
        labels = [i % 5 for i in range(14)]

        class Labelled(list):
            classes = range(5)

        held = Labelled(zip(pictures, labels, strict=True))
        tuned = finetune(
            net, pictures, teacher, steps=3, batch_size=4, evaluate_every=2, holdout=held, **PLAIN
        )
        assert tuned.history.step.tolist() == [0, 2, 3]
        x = normalised(pictures)
        truth = torch.tensor(labels)
        for model, row in ((net, tuned.history.iloc[0]), (tuned.model, tuned.history.iloc[-1])):
            found = model(x).argmax(1)
            assert row.correct == pytest.approx((found == truth).float().mean().item())
            assert row.teacher_agreement == pytest.approx(
                (found == teacher(x).argmax(1)).float().mean().item()
            )
            wide = SMALL.widened(1)
            seen = cropped_views(SMALL.normalise(torch.stack([wide(p) for p in pictures])))
            logits = model(seen).unflatten(0, (5, -1))
            sis = stability(logits)["sis"].mean().item()
            assert row.sis == pytest.approx(sis, abs=1e-5)
        accuracy = (teacher(x).argmax(1) == truth).float().mean().item()
        assert tuned.teacher["correct"] == pytest.approx(accuracy)
        assert f"{accuracy:.4f}" in str(tuned)

    def test_the_held_out_part_is_not_trained_on(self, net, pictures):
        """Without the pictures held out, the same weights."""
        source = open_images(pictures)
        training, _ = split(list(source.entries()), 4, 0)
        rest = [pictures[int(entry.id)] for entry in training]
        settings = {"steps": 2, "batch_size": 4, **PLAIN}
        with_part = finetune(net, pictures, make_net(1), holdout=4, **settings)
        without = finetune(net, rest, make_net(1), holdout=0, **settings)
        same(with_part.model.state_dict(), without.model.state_dict())
        assert "correct" in with_part.history
        assert with_part.history.correct.isna().all()


class TestOneTap:
    def test_a_layer_that_is_a_map_and_penalised_at_once(self, net, pictures):
        """Both readings of one module, of the same forward, the map as it was passed."""

        class InPlace(Net):
            def forward(self, x):
                x = torch.relu(self.norm1(self.stem(x)))
                y = self.conv(x)
                x.zero_()
                return self.head(torch.relu(self.norm2(y)).mean((2, 3)))

        model = InPlace().eval()
        model.load_state_dict(net.state_dict())
        x = normalised(pictures)
        (layer,) = penalised(strided_layers(net, x), ["conv"])
        with torch.no_grad():
            seen = Runner(model, "fp32", ["conv"], [layer])(x)
            expected = torch.relu(net.norm1(net.stem(x)))
        torch.testing.assert_close(seen.features["conv"], expected)
        ratio = alias_violation_ratio(expected, 2, band="box").mean()
        torch.testing.assert_close(seen.ratios, [ratio])


class TestNothingElseChanges:
    def test_student_and_teacher(self, net, pictures):
        teacher = make_net(1).train()
        teacher.norm1.eval()
        net.stem.weight.requires_grad_(False)
        before = digest(net), digest(teacher), torch.get_rng_state()
        tuned = finetune(net, pictures, teacher, steps=2, batch_size=4, holdout=2, feature_weight=1,
            alias_penalty=1, **PLAIN,
        )  # fmt: skip
        assert (digest(net), digest(teacher)) == before[:2]
        assert torch.equal(torch.get_rng_state(), before[2])
        assert teacher.head.weight.requires_grad
        assert not net.stem.weight.requires_grad
        same({"w": tuned.model.stem.weight}, {"w": net.stem.weight})
        assert differs({"w": tuned.model.conv.weight}, {"w": net.conv.weight})
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in tuned.model.modules())
        assert not any(m.training for m in tuned.model.modules())

    def test_after_a_failure(self, net, pictures):
        class Fragile(Net):
            def forward(self, x):
                if self.training:
                    raise RuntimeError("no training today")
                return super().forward(x)

        torch.manual_seed(0)
        model = Fragile().train()
        model.norm1.eval()
        teacher = make_net(1)
        before = digest(model), digest(teacher)
        with pytest.raises(ModelError, match=r"Fragile failed on .* no training today"):
            finetune(model, pictures, teacher, steps=1, holdout=0, feature_weight=1, **PLAIN)
        assert (digest(model), digest(teacher)) == before
        assert all(p.requires_grad for m in (model, teacher) for p in m.parameters())


SETTINGS = {
    "steps": 7, "batch_size": 4, "learning_rate": 0.01, "holdout": 4, "evaluate_every": 3,
    "feature_weight": 1.0, "consistency": 1.0, "alias_penalty": 1.0, "checkpoint_seconds": 0,
    "batch_norm": "train", **PLAIN,
}  # fmt: skip


def states(path):
    return [file.read_bytes() for file in sorted(path.glob("*.safetensors"))]


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory):
    """A run that nothing disturbed, and its directory."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return finetune(make_net(), pictures, make_net(1), out=out, **SETTINGS), out


def test_progress_says_what_is_waited_for(pictures, monkeypatch):
    said, asked = iter("abc"), []

    def waits_for(decoding, whole, work):
        asked.append((0 <= decoding <= whole, work))
        return next(said)

    monkeypatch.setattr(sys.modules["aliascope.finetune.training"], "waits_for", waits_for)
    seen = []
    settings = SETTINGS | {"steps": 3}
    finetune(make_net(), pictures, make_net(1), progress=lambda *x: seen.append(x), **settings)
    assert seen == [(0, 3, "decoding"), (1, 3, "a"), (2, 3, "b"), (3, 3, "c")]
    assert asked == [(True, "step")] * 3


class TestResume:
    @pytest.mark.parametrize("at", [0, 1, 3, 5, 7])
    def test_after_an_interrupt_it_ends_with_the_same_bits(self, whole, pictures, tmp_path, at):
        def interrupt(step, *_):
            if step == at:
                raise KeyboardInterrupt

        arguments = (make_net(), pictures, make_net(1))
        with pytest.raises(KeyboardInterrupt):
            finetune(*arguments, out=tmp_path, progress=interrupt, **SETTINGS)
        assert json.loads((tmp_path / "finetune.json").read_text())["step"] == at
        reference, out = whole
        steps = []
        done = finetune(
            *arguments, out=tmp_path, progress=lambda s, *_: steps.append(s), **SETTINGS
        )
        assert steps[0] == at
        assert states(tmp_path) == states(out)
        pd.testing.assert_frame_equal(
            done.history.drop(columns="seconds"), reference.history.drop(columns="seconds")
        )
        same(done.model.state_dict(), reference.model.state_dict())

    def test_an_interrupt_within_a_step_leaves_no_trace_of_it(self, whole, pictures, tmp_path):
        """Training moves running statistics before it moves weights."""

        class Interrupting(nn.Linear):
            calls = itertools.count(1)  # no number: that would be another network at the next call

            def forward(self, x):
                if self.training and next(self.calls) == 4:
                    raise KeyboardInterrupt
                return super().forward(x)

        net = make_net()
        interrupting = Interrupting(8, 5)
        interrupting.load_state_dict(net.head.state_dict())
        net.head = interrupting
        settings = SETTINGS | {"checkpoint_seconds": 1e9}
        with pytest.raises(KeyboardInterrupt):
            finetune(net, pictures, make_net(1), out=tmp_path, **settings)
        assert json.loads((tmp_path / "finetune.json").read_text())["step"] == 3
        done = finetune(net, pictures, make_net(1), out=tmp_path, **settings)
        same(done.model.state_dict(), whole[0].model.state_dict())

    def test_another_set_up_gives_the_same_bits(self, whole, pictures):
        """Decoding threads, the cache and the checkpoints decide nothing; the seed does."""
        changes = {"threads": 1, "cache_bytes": 0, "checkpoint_seconds": 1e9}
        done = finetune(make_net(), pictures, make_net(1), **SETTINGS | changes)
        same(done.model.state_dict(), whole[0].model.state_dict())
        other = finetune(make_net(), pictures, make_net(1), **SETTINGS | {"seed": 1})
        assert differs(other.model.state_dict(), whole[0].model.state_dict())

    def test_a_run_that_is_done_is_read_back(self, whole, pictures):
        reference, out = whole
        before = states(out)
        again = finetune(make_net(), pictures, make_net(1), out=out, **SETTINGS)
        same(again.model.state_dict(), reference.model.state_dict())
        assert str(again) == str(reference)
        assert states(out) == before

    def test_the_weights_load_under_the_usual_option(self, whole):
        reference, out = whole
        same(load_file(out / "model.safetensors"), reference.model.state_dict())
        assert sorted(p.name for p in out.iterdir() if p.name[0] != ".") == [
            "averaged-000007.safetensors",
            "finetune.json",
            "model.safetensors",
            "training-000007.safetensors",
        ]

    def test_another_configuration_is_refused(self, whole, pictures):
        before = states(whole[1])
        changed = SETTINGS | {"learning_rate": 0.02, "seed": 4}
        with pytest.raises(RunError) as error:
            finetune(make_net(), pictures, make_net(1), out=whole[1], **changed)
        assert "configuration (learning_rate: 0.01 → 0.02; seed: 0 → 4; " in str(error.value)
        with pytest.raises(RunError, match="weights_digest:"):
            finetune(make_net(2), pictures, make_net(1), out=whole[1], **SETTINGS)
        with pytest.raises(RunError, match=r"configuration \(images_digest:"):
            finetune(make_net(), pictures[:-1], make_net(1), out=whole[1], **SETTINGS)
        assert states(whole[1]) == before

    def test_networks_with_equal_weights_are_told_apart(self, whole, pictures):
        net = make_net()
        net.drop.p = 0.1
        with pytest.raises(RunError, match=r"configuration \(structure:"):
            finetune(net, pictures, make_net(1), out=whole[1], **SETTINGS)

    def test_a_strangers_directory_is_refused(self, net, pictures, tmp_path):
        (tmp_path / "diary.txt").write_text("private")
        with pytest.raises(RunError, match=r"holds other files .* and no finetune.json"):
            finetune(net, images=pictures, out=tmp_path, **SETTINGS)

    def test_a_damaged_checkpoint(self, pictures, tmp_path):
        settings = SETTINGS | {"steps": 1}
        finetune(make_net(), pictures, make_net(1), out=tmp_path, **settings)
        (tmp_path / "training-000001.safetensors").write_bytes(b"broken")
        with pytest.raises(RunError, match="damaged checkpoint"):
            finetune(make_net(), pictures, make_net(1), out=tmp_path, **settings)

    def test_disk_full(self, net, pictures, tmp_path, monkeypatch):
        """The checkpoint before it stays whole."""
        written = Path.write_bytes
        calls = []

        def full(path, data):
            calls.append(path.name)
            if len(calls) > 5:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return written(path, data)

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(RunError, match=r"cannot be written \(No space left on device"):
            finetune(net, pictures, make_net(1), out=tmp_path, **SETTINGS)
        monkeypatch.undo()
        assert json.loads((tmp_path / "finetune.json").read_text())["step"] == 0
        finetune(net, pictures, make_net(1), out=tmp_path, **SETTINGS)

    def test_a_loss_that_is_not_finite(self, pictures, tmp_path):
        """Weights that leap to 1e30 overflow in the second step."""
        settings = SETTINGS | {"learning_rate": 1e30, "feature_weight": 0.0, "holdout": 0}
        settings |= {"checkpoint_seconds": 1e9, "warmup": 0}
        with pytest.raises(ModelError) as error:
            finetune(make_net(), pictures, make_net(1), out=tmp_path, **settings)
        assert str(error.value) == (
            "the loss of step 2 or its gradient is not finite; the checkpoint before it is kept: "
            "lower learning_rate (now 1e+30) and start in another directory"
        )
        kept = make_net(2)
        kept.load_state_dict(load_file(tmp_path / "averaged-000000.safetensors"))
        same(kept.state_dict(), make_net().state_dict())

    @pytest.mark.slow
    def test_after_a_kill_it_ends_with_the_same_bits(self, whole, pictures, tmp_path):
        code = (
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "import test_finetune as t, numpy as np, torch, time\n"
            "torch.set_num_threads(1)\n"
            "rng = np.random.default_rng(0)\n"
            "pics = [torch.from_numpy(rng.random((3, 22, 26), np.float32)) for _ in range(14)]\n"
            "wait = lambda step, *_: time.sleep(60 if step == 4 else 0)\n"
            "t.finetune(t.make_net(), pics, t.make_net(1), out=sys.argv[2], progress=wait,"
            " **t.SETTINGS)\n"
        )
        here, out = str(Path(__file__).parent), tmp_path / "run"
        process = subprocess.Popen([sys.executable, "-c", code, here, str(out)])
        try:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.1)
                record = out / "finetune.json"
                if record.exists() and json.loads(record.read_text())["step"] >= 3:
                    break
        finally:
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        done = finetune(make_net(), pictures, make_net(1), out=out, **SETTINGS)
        assert states(out) == states(whole[1])
        same(done.model.state_dict(), whole[0].model.state_dict())


class TestNetworksOfAnyMake:
    def test_one_channel_gets_grey_pictures(self, pictures):
        layers = nn.Conv2d(1, 4, 3, 2), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        net = nn.Sequential(*layers).eval()
        calm = recalibrate(net, pictures, **PLAIN)
        x = torch.stack([SMALL(p) for p in pictures])
        grey = (0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:] - 0.449) / 0.226
        torch.testing.assert_close(calm[1].running_mean, net[0](grey).mean((0, 2, 3)))
        options = {"steps": 1, "batch_size": 4, "holdout": 4, **PLAIN}
        assert finetune(net, pictures, **options).history["distillation"].notna().tolist()[1:]

    def test_weight_norm_of_the_old_make(self, net, pictures):
        with pytest.warns(FutureWarning, match="weight_norm"):
            torch.nn.utils.weight_norm(net.conv)
        net(torch.zeros(1, 3, 16, 16))  # from then on it holds a weight that was computed
        assert recalibrate(net, pictures, **PLAIN).conv.weight_g.equal(net.conv.weight_g)
        assert len(finetune(net, pictures, steps=1, batch_size=4, holdout=4, **PLAIN).history) == 2


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"learning_rate": 0}, "learning_rate must be above 0, got 0"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"ema": 1.0}, "ema must be at least 0 and below 1, got 1.0"),
        ({"scale": (0.5, 0.2)}, r"scale must be 0 < low ≤ high ≤ 1, got \(0.5, 0.2\)"),
        ({"temperature": math.nan}, "temperature must be above 0, got nan"),
    ],
)
def test_settings_out_of_range(net, pictures, setting, sentence):
    with pytest.raises(ModelError, match=sentence):
        finetune(net, images=pictures, **PLAIN | setting)


def test_settings_come_whole_or_singly(net, pictures):
    """Those given singly take the place of those in the whole; what follows from them follows."""
    whole = FinetuneSettings(steps=40, batch_size=2, feature_weight=0.0, alias_layers=["conv"])
    tuned = finetune(net, pictures, settings=whole, steps=1, holdout=0, **PLAIN)
    expected = dataclasses.replace(whole, steps=1).settled()
    assert tuned.config == tuned.config | expected.to_dict()
    assert (expected.warmup, whole.settled().warmup) == (1, 2)
    assert expected.teacher_precision == "fp32"
    with pytest.raises(TypeError, match="stepz"):
        finetune(net, pictures, stepz=1)


def test_nothing_to_train(net, pictures):
    net.requires_grad_(False)
    with pytest.raises(ModelError, match="Net has no parameter that requires a gradient"):
        finetune(net, images=pictures, holdout=0, **PLAIN)


def test_no_steps_change_nothing(net, pictures):
    tuned = finetune(net, images=pictures, steps=0, holdout=0, **PLAIN)
    same(tuned.model.state_dict(), net.state_dict())
    assert dataclasses.is_dataclass(tuned)
    assert len(tuned.history) == 0
