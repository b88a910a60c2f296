"""What a GPU computes is what the CPU computes."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

import aliascope
from aliascope import antialias, attribute, finetune, load_model, measure, open_images, recalibrate
from aliascope.explorer.session import Explorer
from aliascope.layers import (
    AdaptivePool,
    APSPool,
    BlurPool,
    IdealPool,
    LPSPool,
    TIPSPool,
    WaveletPool,
)
from aliascope.measure.batch import prepare
from aliascope.measure.moving import flicker
from aliascope.measure.shiftmap import shift_curves
from aliascope.repair import fit_folded
from aliascope.runtime import computing, tf32

DEVICE = "cuda"
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.xdist_group("cuda"),  # one process on the device
]

SMALL = "cifar_resnet8"
CONVERTED = [
    f"{SMALL}@{method}"
    for method in ("aps", "lps", "wavelet", "folded", "ideal", "adaptive", "tips")
]
NETWORKS = [SMALL, "efficientnet_lite0", "efficientnet_lite0_ideal", *CONVERTED]
PATCHES = "timm:vit_tiny_patch16_224"
POOLS = [BlurPool, IdealPool, WaveletPool, AdaptivePool, TIPSPool, APSPool, LPSPool]
FIGURES = ("sis", "logit_instability", "avr", "sampled_avr", "alias_share")


@pytest.fixture
def exact():
    """Products that are not rounded to TF32, which torch by itself allows in convolutions."""
    with computing("fp32", torch.device(DEVICE)):
        yield


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def near(found, expected, atol=1e-5):
    """Equal but for rounding, the one on the device, the other not."""
    assert found.device.type == DEVICE
    torch.testing.assert_close(found.detach().cpu(), expected.detach(), atol=atol, rtol=1e-4)


def tables(run):
    images = run.images.set_index("image_id").sort_index()
    layers = run.layers.astype({"image_id": str, "layer": str})
    return images, layers.set_index(["image_id", "layer"]).sort_index()


def same(run, other, atol=1e-4):
    """All that is a number of both runs; predictions exactly."""
    for one, two in zip(tables(run), tables(other), strict=True):
        assert len(one)
        assert one.index.equals(two.index)
        names = one.select_dtypes("number").columns
        assert names.equals(two.select_dtypes("number").columns)
        for name in names:
            kept = 0 if name in {"prediction", "label"} else atol
            found, expected = (x[name].to_numpy(float, na_value=np.nan) for x in (one, two))
            np.testing.assert_allclose(found, expected, rtol=0, atol=kept, err_msg=name)


@cache
def on_cpu(model, **options):
    return measure(model, "photos", device="cpu", **{"limit": 5, "batch_size": 5, **options})


def there(model, **options):
    run = measure(model, "photos", device=DEVICE, **{"limit": 5, "batch_size": 5, **options})
    assert run.info["device"].startswith(DEVICE)
    return run


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()


class TestMeasure:
    @pytest.mark.parametrize("model", NETWORKS)
    def test_as_on_the_cpu(self, model):
        same(there(model), on_cpu(model))

    def test_patches_as_on_the_cpu(self):
        same(there(PATCHES, weights="random"), on_cpu(PATCHES, weights="random"), 1e-3)

    @pytest.mark.parametrize("shifts", ["circular", "crop", "native", "half"])
    @pytest.mark.parametrize("model", [SMALL, "efficientnet_lite0_ideal"])
    def test_all_shifts(self, model, shifts):
        run = there(model, shifts=shifts)
        assert run.config["border"] == shifts
        same(run, on_cpu(model, shifts=shifts))

    @pytest.mark.parametrize("model", [*NETWORKS, PATCHES])
    def test_a_network_is_read_alike(self, model):
        """Its layers, what they decimate, and whether pictures can go together."""
        loaded = load_model(model, weights="random" if model == PATCHES else "pretrained")
        found, expected = (prepare(loaded, device=x) for x in (DEVICE, "cpu"))
        assert found.layers == expected.layers
        assert found.decimations.keys() == expected.decimations.keys()
        assert found.singly is expected.singly is False
        assert found.notices == expected.notices
        assert {x.device.type for x in found.module.parameters()} == {DEVICE}

    @pytest.mark.parametrize("model", [SMALL, "efficientnet_lite0_ideal", f"{SMALL}@ideal"])
    def test_twice_the_same_bits(self, model, monkeypatch):
        monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
        same(there(model), there(model), 0)

    def test_twice_as_torch_is_by_default(self):
        same(there(SMALL), there(SMALL), 1e-6)

    def test_batches_of_any_size(self):
        whole = there(SMALL, limit=33, batch_size=32)
        same(there(SMALL, limit=33, batch_size=1), whole, 1e-5)
        same(there(SMALL, limit=33, batch_size=None), whole, 1e-5)

    def test_the_layers_alone(self):
        run = there(SMALL, only="avr")
        assert "sis" not in run.images
        same(run, on_cpu(SMALL, only="avr"))

    @pytest.mark.parametrize(
        ("precision", "atol"), [("tf32", 5e-3), ("fp16", 5e-3), ("bf16", 5e-2)]
    )
    def test_less_precise(self, precision, atol):
        run, usual = there("efficientnet_lite0", precision=precision), on_cpu("efficientnet_lite0")
        assert run.config["precision"] == precision
        pairs = list(zip(tables(run), tables(usual), strict=True))
        for one, two in pairs:
            for name in set(FIGURES) & set(one):
                apart = (one[name] - two[name]).abs().max()
                assert 1e-6 < apart < atol, name

    def test_what_the_user_allows_does_not_change_fp32(self):
        expected = there("efficientnet_lite0")
        with tf32(allowed=True):
            same(there("efficientnet_lite0"), expected, 1e-6)

    @pytest.mark.parametrize("first", ["cpu", DEVICE])
    def test_a_run_goes_on_elsewhere(self, tmp_path, first):
        second = DEVICE if first == "cpu" else "cpu"
        measure(SMALL, "photos", limit=2, device=first, out=tmp_path)
        said = []
        run = measure(SMALL, "photos", limit=5, device=second, out=tmp_path,
                      progress=lambda *x: said.append(x))  # fmt: skip
        assert said[0][0] == 2  # these are not measured again
        same(run, on_cpu(SMALL))

    def test_a_compiled_network(self):
        loaded = load_model(SMALL)
        compiled = torch.compile(loaded.module, backend="eager")
        same(there(compiled, preprocess=loaded.preprocessing), on_cpu(SMALL))

    def test_a_network_that_lies_there_stays_there(self):
        loaded = load_model(SMALL)
        module = copy.deepcopy(loaded.module).to(DEVICE)
        weights = copy.deepcopy(module.state_dict())
        same(there(module, preprocess=loaded.preprocessing), on_cpu(SMALL))
        assert all(torch.equal(x, weights[name]) for name, x in module.state_dict().items())
        assert {x.device.type for x in module.parameters()} == {DEVICE}


@pytest.mark.usefixtures("exact")
class TestLayers:
    @pytest.mark.parametrize("channels_last", [False, True])
    @pytest.mark.parametrize("pool", POOLS)
    def test_forward_and_gradient(self, pool, channels_last):
        torch.manual_seed(0)
        layer = pool(6).eval()
        x = noise(2, 6, 13, 12)
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        found = []
        for device in (DEVICE, "cpu"):
            own, z = copy.deepcopy(layer).to(device), x.to(device).requires_grad_()
            y = own(z)
            y.backward(noise(*y.shape, seed=1).to(y))
            found.append((y, z.grad, [p.grad for p in own.parameters()]))
        (y, z, weights), (expected, gradient, others) = found
        near(y, expected)
        near(z, gradient)
        for one, two in zip(weights, others, strict=True):
            assert (one is None) == (two is None)
            if two is not None:
                near(one, two, 1e-4)

    def test_surgery_there(self):
        net, x = small_net(), noise(2, 3, 32, 32)
        converted = antialias(copy.deepcopy(net).to(DEVICE), "ideal", example=x.to(DEVICE))
        near(converted(x.to(DEVICE)), antialias(net, "ideal", example=x)(x))

    def test_spectra(self):
        maps = noise(3, 4, 24, 20)
        for of in (lambda x: aliascope.alias_violation_ratio(x, 2), aliascope.power_spectrum):
            near(of(maps.to(DEVICE)), of(maps))


class TestOthers:
    def test_attribution(self):
        found, expected = (
            attribute(SMALL, "photos", limit=5, doses=2, device=x) for x in (DEVICE, "cpu")
        )
        for name in ("depths", "layers", "doses"):
            one, two = (getattr(x, name).select_dtypes("number") for x in (found, expected))
            assert one.size
            np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-3, err_msg=name)

    def test_recalibration(self):
        found, expected = (
            recalibrate(SMALL, "photos", limit=12, batch_size=6, device=x).state_dict()
            for x in (DEVICE, "cpu")
        )
        before = load_model(SMALL).module.state_dict()
        assert any(not torch.allclose(before[k], x, atol=1e-3) for k, x in expected.items())
        for name, x in found.items():
            torch.testing.assert_close(x, expected[name], atol=1e-4, rtol=1e-4)

    def test_latency(self):
        found = aliascope.bench([small_net(), small_net()], batch_sizes=[1, 4], seconds=0,
                                precision="fp16", device=DEVICE)  # fmt: skip
        assert found.info["device"] == DEVICE
        assert found.info["hardware"] == torch.cuda.get_device_name()
        assert found.failures == {}
        assert (found.times["ms"] > 0).all()
        assert (found.table["rounds"] == 11).all()

    @pytest.mark.usefixtures("exact")
    def test_fitted_kernels(self):
        net, images = small_net(), noise(8, 3, 16, 16)
        folded, dense = antialias(net, "folded"), antialias(net, "ideal")
        expected, errors = fit_folded(folded, dense, images, steps=10)
        folded, dense = (copy.deepcopy(x).to(DEVICE) for x in (folded, dense))
        found, others = fit_folded(folded, dense, images.to(DEVICE), steps=10)
        assert others.keys() == errors.keys()
        for name, (before, after) in others.items():
            assert (before, after) == pytest.approx(errors[name], rel=1e-3)
            assert after <= before
        near(found[3].weight, expected[3].weight, 1e-3)

    def test_predictions_at_many_shifts(self):
        picture = {"x": next(iter(open_images("photos", limit=1))).pixels}
        found, expected = (
            shift_curves({"a": prepare(load_model(SMALL), device=x)}, picture)
            for x in (DEVICE, "cpu")
        )
        assert found["prediction"].equals(expected["prediction"])
        np.testing.assert_allclose(found["confidence"], expected["confidence"], atol=1e-4)

    def test_flicker(self):
        pictures = [torch.rand(3, 400, 400, generator=torch.Generator().manual_seed(0))]
        found, expected = (
            flicker(SMALL, open_images(pictures), frames=12, device=x) for x in (DEVICE, "cpu")
        )
        assert found["flips"].equals(expected["flips"])
        np.testing.assert_allclose(found["confidence"], expected["confidence"], atol=1e-4)

    def test_explorer(self):
        found, expected = (Explorer([SMALL], device=x).model(SMALL) for x in (DEVICE, "cpu"))
        assert found.instrument.device.type == DEVICE
        assert found.instrument.layers == expected.instrument.layers


class TestTraining:
    STEPS = 3

    def tuned(self, device=DEVICE, **options):
        return finetune(
            f"{SMALL}@blurpool", "photos", SMALL, limit=12, holdout=4, batch_size=4,
            steps=self.STEPS, recalibration=8, evaluate_every=self.STEPS, device=device, **options
        )  # fmt: skip

    @pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
    def test_three_steps(self, precision, tmp_path):
        found = self.tuned(precision=precision, out=tmp_path)
        last = found.history.iloc[-1]
        assert last["step"] == self.STEPS
        assert np.isfinite(last["loss"])
        assert {x.device.type for x in found.model.state_dict().values()} == {"cpu"}
        before = load_model(f"{SMALL}@blurpool").module.state_dict()
        assert any(not torch.equal(x, before[k]) for k, x in found.model.state_dict().items())
        again = self.tuned(precision=precision, out=tmp_path)
        assert str(again) == str(found)
        for name, x in again.model.state_dict().items():
            assert torch.equal(x, found.model.state_dict()[name])

    def test_losses_as_on_the_cpu(self):
        found, expected = (self.tuned(x).history for x in (DEVICE, "cpu"))
        assert found["loss"].to_numpy() == pytest.approx(
            expected["loss"].to_numpy(), rel=1e-3, nan_ok=True
        )

    def test_an_interrupted_one_goes_on(self, tmp_path):
        def stop(done, total, waiting=""):
            if done == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            self.tuned(out=tmp_path, progress=stop)
        said = []
        found = self.tuned(out=tmp_path, progress=lambda *x: said.append(x[0]))
        assert said[0] >= 1
        assert found.history["step"].iloc[-1] == self.STEPS
        whole = self.tuned().history["loss"].iloc[-1]
        assert found.history["loss"].iloc[-1] == pytest.approx(whole, rel=1e-3)


@pytest.mark.usefixtures("exact")
class TestMetrics:
    def test_of_maps(self):
        metrics = pytest.importorskip("aliascope.metrics")
        maps, values = noise(4, 3, 16, 16), []
        for device in (DEVICE, "cpu"):
            metric = metrics.AliasViolationRatio(2).to(device)
            metric.update(maps.to(device))
            values.append(metric.compute())
        near(*values)

    def test_of_networks(self):
        metrics = pytest.importorskip("aliascope.metrics")
        images, values = noise(4, 3, 32, 32), []
        for device in (DEVICE, "cpu"):
            net, x = small_net().to(device).train(), images.to(device)
            shift = metrics.ShiftInstability().to(device)
            shift.update(net, x)
            whole = metrics.Aliasing(net, x).to(device)
            whole.update(net, x)
            assert net.training
            values.append({"shift": shift.compute(), **whole.compute()})
        found, expected = values
        assert found.keys() == expected.keys()
        for name, value in found.items():
            near(value, expected[name])


def test_a_device_that_is_not_there():
    """A device of a number too high is refused in a sentence."""
    with pytest.raises(aliascope.ModelError, match="cannot be used here"):
        measure(SMALL, "photos", limit=1, device=f"{DEVICE}:99")
