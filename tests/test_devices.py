"""Devices that are not here: everything behind the transfer stays on one of them."""

import copy
import importlib
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from aliascope import load_model, spectra
from aliascope.layers import Downsampler

batch = importlib.import_module("aliascope.measure.batch")  # `aliascope.measure` is the function

CUDA = torch.device("cuda", 0)
pytestmark = [
    pytest.mark.skipif(
        not hasattr(torch.backends.cudnn, "conv"), reason="tensors without data need torch 2.9"
    ),
    pytest.mark.xdist_group("devices"),  # one worker learns to compute without data
]


@pytest.fixture
def cuda(monkeypatch):
    """Tensors without data, which refuse to meet one of another device."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x)  # would ask the driver
    caches = [x for x in vars(spectra).values() if hasattr(x, "cache_clear")]
    for cache in caches:
        cache.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield lambda x: torch.empty(x.shape, dtype=x.dtype, device=CUDA)
    for cache in caches:
        cache.cache_clear()  # of tensors without data


def moved(module, there):
    for each in module.modules():
        for name, x in each.named_parameters(recurse=False):
            each._parameters[name] = nn.Parameter(there(x), requires_grad=False)
        for name, x in each.named_buffers(recurse=False):
            each._buffers[name] = there(x)
    return module


@pytest.fixture(scope="module")
def prepared():
    """Of a repaired network; what it decimates is known from the modules that surgery put there."""
    found = batch.prepare(load_model("efficientnet_lite0_ideal"), device="cpu")
    modules = dict(found.module.named_modules())
    of_modules = {name: x for name, x in found.decimations.items()
                  if isinstance(modules.get(name), Downsampler)}  # fmt: skip
    assert len(of_modules) == 4
    return replace(found, decimations=of_modules)


@pytest.fixture
def instrument(prepared):
    return copy.deepcopy(prepared)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_batch_is_measured_where_the_network_is(instrument, cuda, dtype, monkeypatch):
    # No driver is there to be asked whether it can autocast.
    monkeypatch.setattr(batch, "computing", lambda *_: nullcontext())
    there = replace(instrument, module=moved(instrument.module.to(dtype), cuda), device=CUDA)
    images, layers = batch.measure_batch(there, torch.empty(2, 3, 226, 226))
    assert {x.device.type for x in (*images.values(), *layers.values())} == {"cpu"}
    assert images["sis"].shape == (2,)
    assert {name: x.shape for name, x in layers.items()} == dict.fromkeys(
        batch.LAYER_COLUMNS, (2, len(instrument.layers))
    )


def test_what_is_left_behind_is_refused(instrument, cuda):
    there = replace(instrument, module=moved(instrument.module, cuda), device=CUDA)
    there.module.conv_stem.weight = nn.Parameter(torch.zeros_like(there.module.conv_stem.weight,
                                                                  device="cpu"))  # fmt: skip
    with pytest.raises(RuntimeError, match="device"):
        batch.measure_batch(there, torch.empty(2, 3, 226, 226))
