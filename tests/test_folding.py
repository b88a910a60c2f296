"""Filters folded into kernels, and recipes that name places.

The oracles: convolutions commute, so a folded kernel yields what the convolution at stride 1, the
filter and decimation would; and a filter of one tap changes nothing.
"""

import copy
from functools import partial

import pytest
import timm
import torch
import torchvision
from timm.layers import Conv2dSame
from torch import nn

from aliascope import ModelError, antialias, conversion_of, load_model, save_model, strided_layers
from aliascope.antialias import Recipe
from aliascope.antialias.surgery import fold
from aliascope.compare.pairing import pair_layers
from aliascope.layers import BlurPool

CONVOLUTIONS = {
    "plain": lambda: nn.Conv2d(4, 6, 3, 2, 1),
    "grouped": lambda: nn.Conv2d(4, 8, 5, 2, 2, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, 2, 1, groups=4, bias=False),
    "anisotropic": lambda: nn.Conv2d(4, 4, (3, 5), (2, 3), (1, 2)),
    "circular": lambda: nn.Conv2d(4, 4, 3, 2, 1, padding_mode="circular"),
    "patches": lambda: nn.Conv2d(4, 4, 4, 4),
    "as TensorFlow": lambda: Conv2dSame(4, 4, 3, 2),
}


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def small():
    torch.manual_seed(0)
    return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], 10).eval()


@pytest.mark.parametrize("size", [1, 3, 5, 7])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_folded_kernel_is_filter_and_decimation(name, size):
    torch.manual_seed(0)
    conv = CONVOLUTIONS[name]().double()
    folded = copy.deepcopy(conv)
    fold(folded, size)
    x = noise(2, 4, 49, 48).double()
    dense = copy.deepcopy(conv)
    dense.stride = (1, 1)
    y = dense(x)
    # Where TensorFlow's padding puts the first sample depends on the stride.
    phases = (0, 0)
    if name == "as TensorFlow":
        strided = conv(x)
        kept = (..., slice(2, 20), slice(2, 20))
        phases = next(
            (r, c)
            for r, c in ((0, 0), (0, 1), (1, 0), (1, 1))
            if torch.allclose(strided[kept], y[..., r::2, c::2][kept])
        )
    pool = BlurPool(y.shape[1], conv.stride, size=size, phase=phases).double()
    wanted, found = pool(y), folded(x)
    assert found.shape == conv(x).shape
    rows, columns = found.shape[2:]
    inner = (..., slice(4, rows - 4), slice(4, columns - 4))
    assert found[inner].numel() > 0
    torch.testing.assert_close(found[inner], wanted[..., :rows, :columns][inner])


def test_a_constant_map_survives_and_a_circular_one_up_to_its_border():
    conv = nn.Conv2d(2, 2, 3, 2, 1, padding_mode="circular")
    folded = copy.deepcopy(conv)
    fold(folded, 5)
    x = torch.full((1, 2, 8, 8), 3.0)
    torch.testing.assert_close(folded(x), conv(x))
    x = noise(1, 2, 8, 8)
    rolled = folded(x.roll((2, 4), (2, 3))).roll((-1, -2), (2, 3))
    torch.testing.assert_close(rolled, folded(x))


def test_a_convolution_that_pads_in_its_own_way_is_refused():
    class Askew(nn.Conv2d):
        def forward(self, x):
            taps = self.kernel_size[0]
            return super().forward(nn.functional.pad(x, (taps, 0, taps, 0)))

    with pytest.raises(ModelError, match=r"Askew pads in a way of its own.*leave it out"):
        fold(Askew(1, 1, 3, 2), 3)


def test_one_tap_changes_nothing_and_more_change_only_kernels(small):
    x = noise(1, 3, 64, 64)
    control = antialias(small, "folded", size=1, example=x)
    assert torch.equal(control(x), small(x))
    cost = conversion_of(control)
    assert cost.flops_after == cost.flops_before
    assert [row.outcome for row in cost.layers] == ["kept"] + ["converted"] * 7
    assert [*dict(control.named_modules())] == [*dict(small.named_modules())]  # none of its own
    with pytest.raises(ModelError, match=r"nothing to anti-alias.*already"):
        antialias(control, "ideal", example=x)
    converted = antialias(small, "folded", example=x)
    assert [layer.stride for layer in strided_layers(converted, x)] == [
        layer.stride for layer in strided_layers(small, x)
    ]
    report = {row.layer: row for row in conversion_of(converted).layers}
    assert report["layer2.0.conv1"].note == "3 taps in its kernel, 5 × 5 now"
    assert report["layer2.0.conv1"].downsampler == "layer2.0.conv1"
    assert report["layer2.0.downsample.0"].downsampler == "layer2.0.downsample.0.0"
    assert converted.state_dict().keys() == small.state_dict().keys()
    # A 5 × 5 kernel on as many samples as a 3 × 3 one.
    before, after = report["layer2.0.conv1"].flops_before, report["layer2.0.conv1"].flops_after
    assert after * 9 == before * 25
    assert type(converted.layer2[0].conv1) is nn.Conv2d
    assert "already" in conversion_of(antialias(converted, "ideal", stem="convert")).layers[2].note


class Shared(nn.Module):
    """A pool that several stages share, and a bare call."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        x = self.pool(self.second(self.pool(self.first(x).relu())).relu())
        return nn.functional.max_pool2d(x, 2).mean((2, 3))


def test_what_is_but_fitted_may_run_several_times_and_without_a_module():
    torch.manual_seed(0)
    net, x = Shared().eval(), noise(2, 3, 32, 32)
    control = antialias(net, "folded", size=1, example=x)
    rows = conversion_of(control).layers
    assert [row.outcome for row in rows] == ["converted"] * 3
    assert [row.downsampler for row in rows[:2]] == ["pool", "pool"]
    assert [row.flops_after for row in rows] == [row.flops_before for row in rows]
    assert torch.equal(control(x), net(x))


@pytest.mark.parametrize("size", [2, 4])
def test_a_folded_filter_has_a_middle(size):
    with pytest.raises(ModelError, match=f"1, 3, 5 or 7 taps, which have a middle, got {size}"):
        Recipe("folded", size)


def test_a_dilated_kernel_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 2, 2))
    with pytest.raises(ModelError, match=r"2 .conv.: its kernel is dilated"):
        antialias(net, "folded", example=noise(1, 3, 32, 32))


def test_places_are_converted_by_methods_of_their_own(small):
    x = noise(1, 3, 64, 64)
    one = antialias(small, "folded", at=["layer2"], example=x)
    outcomes = {row.layer: (row.outcome, row.note) for row in conversion_of(one).layers}
    assert outcomes["layer2.0.conv1"][0] == outcomes["layer2.0.downsample.0"][0] == "converted"
    assert outcomes["layer3.0.conv1"] == ("kept", "not among the places asked for")
    both = antialias(one, "ideal", at=["layer3.0", "layer4.0.downsample"], example=x)
    converted = [r.layer for r in conversion_of(both).layers if r.outcome == "converted"]
    assert converted == ["layer3.0.conv1", "layer3.0.downsample.0", "layer4.0.downsample.0"]
    assert both.layer2[0].conv1.kernel_size == (5, 5)
    # A name is not the beginning of another.
    assert not Recipe(at=("layer2",)).wants("layer20.conv")
    stem = antialias(small, "folded", at=["conv1"], example=x)
    assert stem.conv1.kernel_size == (9, 9)
    with pytest.raises(ModelError, match=r"no operation is at 'layer9'.*conv1"):
        antialias(small, "ideal", at=["layer2", "layer9"], example=x)


@pytest.mark.parametrize("text", ["ideal:at=", "ideal:at=a,,b", "ideal:at=a:b=c"])
def test_places_are_names(text):
    with pytest.raises(ModelError):
        Recipe.parse(text)


def test_a_file_of_a_folded_network_is_a_spec(tmp_path):
    spec = "efficientnet_lite0@folded:3:at=blocks.1,blocks.2@ideal"
    loaded = load_model(spec, weights="random")
    with torch.no_grad():
        loaded.module.blocks[1][0].conv_dw.weight.mul_(1.5)  # as a training would
    path = tmp_path / "folded.safetensors"
    save_model(loaded, path)
    again = load_model(str(path))
    x = noise(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again.module(x), loaded.module(x))
    assert again.provenance.recipes == loaded.provenance.recipes
    # Weights of the original go in before the filters.
    original = load_model("efficientnet_lite0", weights="random", seed=1)
    torch.save(original.module.state_dict(), tmp_path / "original.pth")
    filled = load_model(spec, weights=tmp_path / "original.pth").module
    wanted = load_model(spec, weights="random", seed=1).module
    with torch.no_grad():
        assert torch.equal(filled(x), wanted(x))


def test_tensorflow_padding_of_a_real_network_stays_centred():
    model = timm.create_model("tf_efficientnet_lite0", num_classes=4).eval()
    x = noise(1, 3, 64, 64)
    got = {}

    def keep(name, _, args, output):
        got[f"{name} in"], got[name] = args[0], output

    for name, net in {"dense": model, "folded": antialias(model, "folded", example=x)}.items():
        conv = net.blocks[1][0].conv_dw
        conv.register_forward_hook(partial(keep, name))
        with torch.no_grad():
            net(x)
    dense = copy.deepcopy(model.blocks[1][0].conv_dw)
    dense._forward_hooks.clear()
    dense.stride = (1, 1)
    with torch.no_grad():
        wanted = BlurPool(96, size=3, phase=1)(dense(got["dense in"]))
    assert torch.equal(got["dense in"], got["folded in"])
    torch.testing.assert_close(got["folded"][..., 1:-1, 1:-1], wanted[..., 1:-1, 1:-1])


def test_what_is_folded_keeps_its_partner(small):
    x = noise(1, 3, 64, 64)
    some = antialias(small, "blurpool", at=["layer2"], example=x)
    mixed = antialias(some, "folded", at=["layer3", "layer4"], example=x)
    before, after = strided_layers(small, x), strided_layers(mixed, x)
    pairs = dict(pair_layers("before", before, "after", after))
    assert pairs["layer3.0.conv1"] == "layer3.0.conv1"
    assert pairs["layer3.0.downsample.0"] == "layer3.0.downsample.0.0"
    assert len(pairs) == len(before)
