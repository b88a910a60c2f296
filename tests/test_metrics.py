import copy
import importlib
import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from torchmetrics import MetricCollection

from aliascope.errors import AliascopeError, ModelError
from aliascope.images.preprocessing import Preprocessing
from aliascope.measure.batch import LAYER_COLUMNS, measure_batch, prepare
from aliascope.metrics import (
    STABILITY,
    Aliasing,
    AliasViolationRatio,
    ShiftInstability,
    alias_violation_ratio,
    aliasing,
    shift_instability,
)
from aliascope.models import load_model
from aliascope.shifts import cropped_views
from aliascope.stability import stability
from distributed_metrics import IMAGES, material, net, run


def noise(count, side=16, channels=3, seed=0):
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


class TestAliasViolationRatio:
    @pytest.mark.parametrize("stride", [2, (1, 2), 2.5])
    @pytest.mark.parametrize("band", ["disc", "box"])
    @pytest.mark.parametrize("dc", ["keep", "remove"])
    def test_batches_of_any_size_have_the_mean_of_all_maps(self, stride, band, dc):
        maps, _ = material()
        metric = AliasViolationRatio(stride, band=band, dc=dc)
        for part in maps.split([1, 6, 3]):
            metric.update(part)
        each = alias_violation_ratio(maps, stride, band=band, dc=dc)
        assert each.std() > 0.1
        assert metric.compute().item() == pytest.approx(each.double().mean().item(), abs=1e-6)

    def test_what_is_undefined_does_not_count(self):
        maps = torch.cat([noise(2), torch.zeros(1, 3, 16, 16)])
        for samples, ids in ((None, None), (3, [0, 1, 2])):
            metric = AliasViolationRatio(2, samples=samples)
            metric.update(maps, ids=ids)
            expected = alias_violation_ratio(maps[:2], 2).mean().item()
            assert metric.compute().item() == pytest.approx(expected, abs=1e-6)
        metric.reset()
        metric.update(maps[2:], ids=[2])
        assert metric.compute().isnan()

    def test_an_image_counts_once_under_its_id(self):
        maps, _ = material()
        metric = AliasViolationRatio(2, samples=IMAGES)
        metric.update(maps[:7], ids=range(7))
        metric.update(maps[[9, 8, 7, 0, 0]], ids=torch.tensor([9, 8, 7, 0, 0]))
        expected = alias_violation_ratio(maps, 2).mean().item()
        assert metric.compute().item() == pytest.approx(expected, abs=1e-6)
        twice = AliasViolationRatio(2)
        twice.update(maps[[*range(10), 0, 0]])
        assert twice.compute().item() != pytest.approx(expected, abs=1e-3)

    def test_sums_are_kept_in_float64(self):
        # In float32, 2**24 + 1 is 2**24.
        metric = AliasViolationRatio(2)
        for name in (metric._total, metric._count):
            setattr(metric, name, torch.full((), 2.0**24, dtype=torch.float64))
        board = 1 - 2.0 * ((torch.arange(8)[:, None] + torch.arange(8)) % 2)
        metric.update(board[None, None])
        assert getattr(metric, metric._total).item() == 2**24 + 1
        metric.half()
        assert getattr(metric, metric._count).dtype == torch.float64

    def test_a_batch_of_no_image_changes_nothing(self):
        metric = AliasViolationRatio(2)
        metric.update(torch.zeros(0, 3, 16, 16))
        metric.update(noise(2))
        expected = alias_violation_ratio(noise(2), 2).mean().item()
        assert metric.compute().item() == pytest.approx(expected, abs=1e-6)

    def test_the_value_of_a_batch_and_of_all(self):
        metric = AliasViolationRatio(2)
        first, second = metric(noise(4)), metric(noise(2, seed=1) * torch.linspace(0, 1, 16))
        assert first != second
        assert metric.compute().item() == pytest.approx((4 * first + 2 * second).item() / 6)

    def test_two_strides_in_one_collection_stay_apart(self):
        # After a flat batch their states are equal, which torchmetrics takes for the same metric.
        pair = MetricCollection({"by 2": AliasViolationRatio(2), "by 4": AliasViolationRatio(4)})
        flat = torch.ones(1, 3, 16, 16)
        pair.update(flat)
        pair.update(noise(1))
        for name, stride in (("by 2", 2), ("by 4", 4)):
            expected = alias_violation_ratio(torch.cat([flat, noise(1)]), stride).mean().item()
            assert pair.compute()[name].item() == pytest.approx(expected, abs=1e-6)

    def test_a_gradient_is_not_kept(self):
        metric = AliasViolationRatio(2)
        metric.update(noise(2).requires_grad_())
        assert not getattr(metric, metric._total).requires_grad

    @pytest.mark.parametrize(
        ("options", "given", "sentence"),
        [
            ({}, {"ids": [0, 1]}, "ids need samples=N"),
            ({"samples": 4}, {}, "samples=4 needs ids, and 2 images have none"),
            ({"samples": 4}, {"ids": [0]}, "give one each"),
            ({"samples": 4}, {"ids": [0, 4]}, "ids run from 0 to 4, and samples=4 takes 0 to 3"),
            ({"samples": 4}, {"ids": [-1, 0]}, "ids run from -1"),
            ({"samples": 0}, {}, "at least 1, got 0"),
            ({"stride": 0}, {}, "stride must be at least 1"),
        ],
    )
    def test_what_is_refused(self, options, given, sentence):
        with pytest.raises(ValueError, match=sentence):
            AliasViolationRatio(**{"stride": 2} | options).update(noise(2), **given)


class TestShiftInstability:
    @pytest.mark.parametrize("figure", ["sis", "logit_instability"])
    def test_it_is_the_mean_of_what_stability_yields(self, figure):
        _, logits = material()
        metric = ShiftInstability(figure)
        for part in logits.split([7, 3], dim=1):
            metric.update(part)
        expected = stability(logits)[figure]
        assert expected.std() > 0.01
        assert metric.compute().item() == pytest.approx(expected.double().mean().item(), abs=1e-6)

    def test_a_classifier_is_run_on_its_shifted_views(self):
        model = net().train()
        metric = ShiftInstability()
        metric.update(model, noise(4))
        metric.update(nn.DataParallel(model), noise(2, seed=1))
        expected = shift_instability(model, torch.cat([noise(4), noise(2, seed=1)]))
        assert expected.min() > 1e-6
        assert metric.compute().item() == pytest.approx(expected.mean().item(), abs=1e-7)
        assert model.training

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match="comes with images"):
            ShiftInstability().update(net())
        with pytest.raises(ModelError, match="classifier"):
            ShiftInstability().update(nn.Conv2d(3, 4, 3), noise(1))


class TestAliasing:
    def test_it_is_what_measure_yields_of_a_copy(self):
        """The oracle fuses batch-norm in a copy; the shifts are the same."""
        model, images = net(), noise(5).sigmoid()
        found = aliasing(model, images, figures=LAYER_COLUMNS, batch_size=2)
        plain = Preprocessing((16, 16), (16, 16), mean=(0.0,), std=(1.0,))
        instrument = prepare(load_model(model), preprocess=plain, border="circular", device="cpu")
        answers, layers = measure_batch(instrument, images)
        wanted = {
            f"{column}/{layer.name}": layers[column][:, i]
            for column in LAYER_COLUMNS
            for i, layer in enumerate(instrument.layers)
        } | {name: answers[name] for name in STABILITY}
        assert list(found) == list(wanted)
        assert len(instrument.layers) == 2
        for name, expected in wanted.items():
            torch.testing.assert_close(found[name], expected.float(), rtol=1e-4, atol=1e-5)

    def test_it_follows_the_weights(self):
        model, images = net(), noise(4)
        before = aliasing(model, images)
        with torch.no_grad():
            model[0].weight.copy_(model[0].weight.mean((2, 3), keepdim=True).expand(8, 3, 3, 3))
            model[1].running_mean.add_(0.3)
        after = aliasing(model, images)
        assert after["alias_share/0"].mean() < before["alias_share/0"].mean() - 0.01
        for name, value in aliasing(copy.deepcopy(model), images).items():
            torch.testing.assert_close(after[name], value, rtol=0, atol=0)

    def test_a_metric_is_the_mean_of_it(self):
        model, images = net(), noise(5)
        metric = Aliasing(model, images[:1], figures=["avr", "alias_share"])
        for part in images.split([4, 1]):
            metric.update(model, part)
        metric.update(model, images[:0])
        found = aliasing(model, images, figures=["avr", "alias_share"])
        assert list(metric.compute()) == list(found)
        for name, value in metric.compute().items():
            assert value.item() == pytest.approx(found[name].mean().item(), abs=1e-6)
        assert not list(metric.parameters())

    def test_crop_shifts_move_a_window(self):
        model, wide = net(), noise(3, 18)
        found = aliasing(model, wide, shifts="crop")
        with torch.no_grad():
            logits = model(cropped_views(wide)).unflatten(0, (5, 3))
        expected = stability(logits)
        for name in STABILITY:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)
        inner = aliasing(model, wide[:, :, 1:-1, 1:-1])
        torch.testing.assert_close(found["alias_share/0"], inner["alias_share/0"])
        assert (found["sis"] - inner["sis"]).abs().min() > 1e-6

    def test_layers_alone(self):
        names = list(aliasing(net(), noise(2), shifts=None))
        assert names == ["alias_share/0", "alias_share/3", "avr/0", "avr/3"]

    def test_what_is_no_classifier_has_layers_and_moves(self):
        names = ["avr/0", "avr/3", "output_instability"]
        assert list(aliasing(net()[:4], noise(2), figures=["avr"])) == names
        with pytest.raises(ModelError, match="nothing can be measured"):
            aliasing(nn.Flatten(0), noise(2))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_weights_of_another_precision(self, dtype):
        expected = aliasing(net(), noise(4))
        found = aliasing(net().to(dtype), noise(4))
        tolerance = 0.05 if dtype == torch.bfloat16 else 1e-4
        for name in ("avr/3", "alias_share/0"):
            torch.testing.assert_close(found[name], expected[name], rtol=tolerance, atol=0.01)

    def test_a_compiled_network_is_run_as_it_was_written(self):
        expected = aliasing(net(), noise(2))
        for name, value in aliasing(nn.DataParallel(torch.compile(net())), noise(2)).items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=0)

    def test_nor_are_its_compiled_parts_and_they_stay(self):
        model, images = nn.Sequential(net()[:4], net()[4:]), noise(2)
        expected = aliasing(model, images)
        model[0] = torch.compile(model[0])
        model[1].compile()
        parts = [model[0], model[1]._compiled_call_impl]
        for name, value in aliasing(model, images).items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=0)
        assert [model[0], model[1]._compiled_call_impl] == parts

    def test_another_network_is_refused(self):
        metric = Aliasing(net(), noise(1))
        with pytest.raises(ModelError, match=r"the network has changed .*make a new metric"):
            metric.update(nn.Sequential(nn.AvgPool2d(2), *net()[:3]), noise(1))

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"figures": ["aliasing"]}, "no figure 'aliasing'; choose from avr,"),
            ({"batch_size": 0}, "batch_size is at least 1, got 0"),
        ],
    )
    def test_what_is_refused(self, options, sentence):
        with pytest.raises(ValueError, match=sentence):
            aliasing(net(), noise(2), **options)


class TestTrainingGoesOn:
    """A training in which it is measured is, bit for bit, the one in which it is not."""

    def trained(self, measured):
        torch.manual_seed(0)
        model = nn.Sequential(*net()[:4], nn.Dropout(), *net()[4:]).train()
        model[1].eval()
        calls = []
        model[3].register_forward_hook(lambda *_: calls.append(1))
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for step in range(4):
            loss = model(noise(6, seed=step)).logsumexp(1).sum()
            loss.backward()
            if measured:
                measured(model)
            optimiser.step()
            if step % 2:
                optimiser.zero_grad()
        return model, torch.rand(3), calls

    def test_every_bit_is_the_same(self):
        found = []
        plain, drawn, calls = self.trained(None)
        seen, drawn_too, more = self.trained(lambda model: found.append(aliasing(model, noise(3))))
        assert torch.equal(drawn, drawn_too)
        assert len(more) > len(calls)  # a hook of the user's is called, as in any validation
        assert [m.training for m in seen.modules()] == [m.training for m in plain.modules()]
        for name, value in plain.state_dict().items():
            assert torch.equal(value, seen.state_dict()[name]), name
        for one, other in zip(plain.parameters(), seen.parameters(), strict=True):
            assert (one.grad is None) == (other.grad is None)
        assert [len(m._forward_hooks) for m in seen.modules()] == [
            len(m._forward_hooks) for m in plain.modules()
        ]
        assert found[0]["sis"].tolist() != found[-1]["sis"].tolist()

    def test_nothing_stays_changed_when_the_network_fails(self):
        model = nn.Sequential(net()[0], nn.Dropout(), nn.Linear(99, 2)).train()
        model[1].eval()
        state = torch.get_rng_state()
        with pytest.raises(ModelError, match="Sequential failed on an image of shape"):
            aliasing(model, noise(2))
        assert [m.training for m in model] == [True, False, True]
        assert torch.equal(torch.get_rng_state(), state)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("metric", "top"),
    [(AliasViolationRatio(2), 1), (ShiftInstability(), 1)],
)
def test_a_plot_is_bounded(metric, top):
    if isinstance(metric, AliasViolationRatio):
        metric.update(noise(2))
    else:
        metric.update(material()[1])
    figure, axes = metric.plot()
    bottom, upper = axes.get_ylim()
    assert (bottom, upper) == pytest.approx((0, top), abs=0.11)
    plt.close(figure)
    assert ShiftInstability("logit_instability").plot_upper_bound is None


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("metrics", "torchmetrics"),
        ("callbacks.lightning", "lightning"),
        ("callbacks.transformers", "transformers"),
    ],
)
def test_without_the_extra_one_sentence_says_how_to_get_it(module, package, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == package] + [package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"aliascope.{module}", raising=False)
    with pytest.raises(AliascopeError) as caught:
        importlib.import_module(f"aliascope.{module}")
    sentence = f"{package} is missing, which is in an extra: pip install 'aliascope[train]'"
    assert str(caught.value) == sentence


def in_one_process():
    """What several processes must compute, from the functions on all the images at once."""
    images, logits = material()
    found = {name: values.mean().item() for name, values in aliasing(net(), images).items()}
    watched = {f"aliascope/{name}": value for name, value in found.items()}
    scores = stability(logits)
    return watched, found | {
        "avr": alias_violation_ratio(images, 2).double().mean().item(),
        "answers": scores["sis"].double().mean().item(),
        "logits": scores["logit_instability"].double().mean().item(),
    }


def check(folder, ranks):
    watched, expected = in_one_process()
    for rank in range(ranks):
        results = json.loads((Path(folder) / f"{rank}.json").read_text())
        assert results.pop("watch") == pytest.approx(watched, abs=1e-6)
        assert set(results) == {"7 + 3", "10 + 0", "padded", "padded by hand"}
        for case, found in results.items():
            wrong, right = found.pop("wrong"), found.pop("right")
            assert found == pytest.approx(expected, abs=1e-6), (case, rank)
            if case == "7 + 3":  # the mean of 0 … 9
                assert right == 4.5
                assert wrong == (5.5 if ranks == 2 else pytest.approx(11 / 3))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("ranks", [2, 3])
def test_several_processes_have_the_mean_of_one(ranks, tmp_path):
    forking = multiprocessing.get_context("fork")  # they need not import torch anew
    processes = [forking.Process(target=run, args=(r, ranks, tmp_path)) for r in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * ranks
    check(tmp_path, ranks)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_torchrun_has_the_mean_of_one_process(ranks, tmp_path):
    script = Path(__file__).with_name("distributed_metrics.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={ranks}", str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check(tmp_path, ranks)
