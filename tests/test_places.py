"""Places of their own: convolutions over chunks of the channels, and patches."""

import pytest
import timm
import torch
import torchvision
from timm.layers import MixedConv2d
from timm.models import swin_transformer
from torch import nn

from aliascope import ModelError, antialias, conversion_of, strided_layers, tap
from aliascope.layers import BlurPool, IdealPool
from aliascope.taps import decimations, trace
from test_antialias import assert_same_network, built, conv_block, image


def split(stride=2, padding="", kernels=(3, 5), **options):
    """As MixNet: behind the convolutions come a norm and an activation for all of them."""
    return nn.Sequential(
        conv_block(3, 8),
        MixedConv2d(8, 16, [*kernels], stride, padding, **options),
        nn.BatchNorm2d(16),
        nn.SiLU(),
        nn.Conv2d(16, 4, 1),
    )


class TestSplitConvolutions:
    def test_they_are_one_layer(self):
        (layer,) = strided_layers(split(), image())
        assert (layer.name, layer.kind, layer.kernel, layer.function) == ("1", "conv", (5, 5), None)
        assert (layer.input_shape, layer.output_shape) == ((8, 64, 64), (16, 32, 32))
        assert layer.stride == layer.cumulative_stride == (2, 2)
        assert strided_layers(split(stride=1), image()) == []

    def test_what_they_read_is_tapped(self):
        net, x = built(split), image()
        layers = strided_layers(net, x)
        with torch.no_grad(), tap(net, layers) as tapped:
            net(x)
            assert torch.equal(tapped.inputs["1"], net[0](x))

    @pytest.mark.parametrize("side", [64, 63])
    @pytest.mark.parametrize("padding", ["", "same"])
    @pytest.mark.parametrize("method", ["blurpool", "folded"])
    def test_one_tap_is_the_original_network(self, side, padding, method):
        net, x = built(lambda: split(padding=padding, kernels=(3, 5, 7))), image(side, batch=2)
        converted = antialias(net, method, size=1, example=x)
        assert conversion_of(converted).layers[0].outcome == "converted"
        assert_same_network(converted, net, x)
        converted.load_state_dict(net.state_dict(), strict=True)

    def test_the_filter_reads_what_norm_and_activation_made_of_all(self):
        """And that is what the original decimates."""
        net, x = built(split), image()
        converted = antialias(net, example=x)
        assert conversion_of(converted).layers[0].downsampler == "3.1"
        (layer,) = strided_layers(converted, x)
        chunks = net[0](x).split(4, 1)
        dense = [
            nn.functional.conv2d(chunk, conv.weight, padding=conv.padding)
            for chunk, conv in zip(chunks, net[1].values(), strict=True)
        ]
        wanted = net[3](net[2](torch.cat(dense, 1)))
        with torch.no_grad(), tap(converted, [layer]) as tapped:
            converted(x)
        torch.testing.assert_close(tapped.inputs["3.1"], wanted)
        found, missing = decimations(net, trace(net, x))
        assert missing == {}
        torch.testing.assert_close(found["1"](net[0](x)), wanted)

    def test_a_filter_folded_into_each_kernel_is_a_filter_behind_them(self):
        net, x = built(split), image()
        converted = antialias(net, "folded", example=x)
        assert [conv.kernel_size for conv in converted[1].values()] == [(5, 5), (7, 7)]
        found, _ = decimations(net[:2], trace(net[:2], x))
        wanted = BlurPool(16)(found["1"](net[0](x)))
        inner = (..., slice(4, -4), slice(4, -4))
        torch.testing.assert_close(converted[:2](x)[inner], wanted[inner])
        with pytest.raises(ModelError, match=r"1 .*: anti-aliased already"):
            antialias(converted, example=x)

    def test_several_phases_are_refused(self):
        """Padded by the stride, one tap takes the first of two samples and three the second."""
        with pytest.raises(ModelError, match="MixedConv2d at stride 1 does not hold"):
            antialias(split(padding="same", kernels=(1, 3)), example=image())

    def test_several_strides_are_refused(self):
        net = split()
        net[1]["1"].stride = (1, 1)
        with pytest.raises(Exception, match="Sizes of tensors must match"):
            net(image())
        net[1].forward = lambda x: torch.cat(
            [nn.functional.interpolate(conv(x[:, :4]), 32) for conv in net[1].values()], 1
        )
        with pytest.raises(ModelError, match="several strides"):
            antialias(net, example=image())

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["mixnet_s", "tf_mixnet_s"])
    def test_mixnet(self, name):
        net, x = built(lambda: timm.create_model(name, num_classes=10)), image(96)
        converted = antialias(net, size=1, stem="convert", example=x)
        assert [row.outcome for row in conversion_of(converted).layers] == ["converted"] * 5
        assert_same_network(converted, net, x)


def patches(kernel=2):
    return nn.Sequential(conv_block(3, 8), nn.Conv2d(8, 8, kernel, kernel), nn.Conv2d(8, 4, 1))


class TestPatches:
    @pytest.mark.parametrize("side", [64, 62])
    @pytest.mark.parametrize("padding", ["circular", "reflect"])
    def test_behind_an_ideal_low_pass_nothing_folds(self, side, padding):
        """What they read has no frequency that the grid of the patches cannot hold."""
        net, x = built(patches), image(side)
        converted = antialias(net, "ideal", padding=padding, example=x)
        assert conversion_of(converted).layers[0].note == "IdealPool at stride 1 before it"
        converted.load_state_dict(net.state_dict(), strict=True)
        (layer,) = strided_layers(converted, x)
        assert (layer.name, layer.input_shape) == ("1", (8, side, side))
        with torch.no_grad(), tap(converted, [layer]) as tapped:
            converted(x)
            read = tapped.inputs["1"]
        if padding == "reflect":  # the period is the map and its mirror image
            read = torch.cat([read, read[..., 1:-1].flip(-1)], -1)
            read = torch.cat([read, read[..., 1:-1, :].flip(-2)], -2)
        spectrum = torch.fft.fft2(read.double()).abs()
        k = torch.fft.fftfreq(read.shape[-1]).abs() >= 0.25
        assert spectrum[..., k, :].max() < 1e-4 * spectrum.max()
        assert spectrum[..., :, k].max() < 1e-4 * spectrum.max()
        assert spectrum[..., ~k, :][..., ~k].median() > 1e-3  # the rest is there
        constant = torch.full((1, 8, side, side), 0.7)  # which survives
        assert_same_network(converted[1:], net[1:], constant)

    def test_patches_of_another_size_have_another_cutoff(self):
        pool = antialias(patches(4), "ideal", example=image()).get_submodule("1.0")
        assert (pool.strides, pool.cutoffs) == ((1, 1), (4, 4))

    def test_convnext(self):
        net, x = timm.create_model("convnext_atto", num_classes=2).eval(), image()
        converted = antialias(net, "ideal", stem="convert", example=x)
        rows = conversion_of(converted).layers
        assert [row.outcome for row in rows] == ["converted"] * 4
        with torch.no_grad():
            assert converted(x).shape == net(x).shape

    @pytest.mark.parametrize("method", ["aps", "lps", "wavelet", "tips"])
    def test_the_others_exist_only_with_a_decimation(self, method):
        methods = "blurpool or adaptive or folded or ideal"
        with pytest.raises(ModelError, match=f"do not overlap.*at stride 1: {methods}"):
            antialias(patches(), method, example=image())


class Sliced(nn.Module):
    """Space to depth of (B, C, H, W) by slices, of all phases or of some."""

    def __init__(self, phases=((0, 0), (0, 1), (1, 0), (1, 1))):
        super().__init__()
        self.phases, self.reduce = phases, nn.Conv2d(8 * len(phases), 16, 1)

    def forward(self, x):
        return self.reduce(torch.cat([x[:, :, i::2, j::2] for i, j in self.phases], 1))


class Merged(nn.Module):
    """Around a patch merging of maps that are (B, H, W, C)."""

    def __init__(self, merging):
        super().__init__()
        self.before, self.merge = conv_block(3, 8), merging(8)

    def forward(self, x):
        return self.merge(self.before(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


MERGINGS = {
    "timm": lambda: Merged(swin_transformer.PatchMerging),
    "torchvision": lambda: Merged(torchvision.models.swin_transformer.PatchMerging),
    "slices": lambda: nn.Sequential(conv_block(3, 8), Sliced()),
}


@pytest.mark.parametrize("name", MERGINGS)
class TestPatchMerging:
    """All phases are kept; what reads them is a convolution of patches."""

    def test_it_is_a_layer(self, name):
        net, x = built(MERGINGS[name]), image(62)
        (layer,) = strided_layers(net, x)
        assert layer.name == ("1.slice" if name == "slices" else "merge.slice")
        assert (layer.kind, layer.stride, layer.cumulative_stride) == ("slice", (2, 2), (2, 2))
        assert (layer.input_shape, layer.output_shape[1:]) == ((8, 62, 62), (31, 31))
        with torch.no_grad(), tap(net, [layer]) as tapped:
            net(x)
            read = (net[0] if name == "slices" else net.before)(x)
        assert torch.equal(tapped.inputs[layer.name], read)
        found, missing = decimations(net, trace(net, x))
        assert missing == {}
        assert torch.equal(found[layer.name].kept(found[layer.name](read)), read[..., ::2, ::2])

    @pytest.mark.parametrize("side", [64, 63])
    def test_one_tap_is_the_original_network(self, name, side):
        side += name == "slices" and side % 2  # whose phases must be of one size
        net, x = built(MERGINGS[name]), image(side, batch=2)
        converted = antialias(net, size=1, example=x)
        assert conversion_of(converted).layers[0].outcome == "converted"
        assert_same_network(converted, net, x)

    def test_to_be_fitted_it_stays_as_it_is(self, name):
        net, x = built(MERGINGS[name]), image()
        converted = antialias(net, "folded", size=1, example=x)
        assert_same_network(converted, net, x)
        assert [*dict(converted.named_modules())] == [*dict(net.named_modules())]
        with pytest.raises(ModelError, match="anti-aliased already"):
            antialias(converted, "ideal", example=x)

    @pytest.mark.parametrize("method", ["blurpool", "adaptive", "ideal", "folded"])
    def test_a_low_pass_stands_before_it(self, name, method):
        net, x = built(MERGINGS[name]), image()
        converted = antialias(net, method, example=x)
        (row,) = conversion_of(converted).layers
        host = row.layer.removesuffix(".slice")
        assert row.downsampler == f"{host}.0"
        assert row.note.endswith(f"at stride 1 before {host}")
        assert row.flops_after > row.flops_before == 0
        (layer,) = strided_layers(converted, x)
        assert layer.name == row.layer
        ideal = IdealPool(8, 1, cutoff=2, padding="reflect")
        low_pass = ideal if method == "ideal" else BlurPool(8, 1)
        with torch.no_grad(), tap(converted, [layer]) as tapped:
            converted(x)
            wanted = low_pass((net[0] if name == "slices" else net.before)(x))
        torch.testing.assert_close(tapped.inputs[layer.name], wanted)
        missing, unexpected = converted.load_state_dict(net.state_dict(), strict=False)
        assert not unexpected
        assert bool(missing) == (method == "adaptive")
        with pytest.raises(ModelError, match="anti-aliased already"):
            antialias(converted, example=x)

    def test_where_the_map_is_read_past_it_nothing_is_filtered(self, name):
        class Read(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = MERGINGS[name]()

            def forward(self, x):
                first, second = self.net.children()
                x = first(x)
                if name != "slices":
                    x = x.permute(0, 2, 3, 1)
                return second(x).mean((1, 2, 3)) + x.mean((1, 2, 3))

        with pytest.raises(ModelError, match="a strided slice, with no operation before it"):
            antialias(Read(), example=image())


def test_some_phases_alone_are_no_patches():
    net = nn.Sequential(conv_block(3, 8), Sliced(((0, 0), (1, 1))))
    with pytest.raises(ModelError, match="a strided slice, with no operation before it"):
        antialias(net, example=image())


def test_windows_are_no_samples():
    """As Swin partitions a map, by the same functions as it merges patches."""

    class Windows(nn.Module):
        def forward(self, x):
            batch, rows, columns, channels = x.shape
            x = x.view(batch, rows // 4, 4, columns // 4, 4, channels).permute(0, 1, 3, 2, 4, 5)
            windows = x.reshape(-1, 4, 4, channels)
            x = windows.view(batch, rows // 4, columns // 4, 4, 4, channels)
            return x.permute(0, 1, 3, 2, 4, 5).reshape(batch, rows, columns, channels)

    assert strided_layers(Merged(lambda _: Windows()), image()) == []


@pytest.mark.slow
@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_swin(library):
    x = image(64, batch=2)
    if library == "timm":
        swin = "swin_tiny_patch4_window7_224"
        net = built(lambda: timm.create_model(swin, img_size=64, num_classes=4, depths=(1,) * 4))
    else:
        net = built(lambda: torchvision.models.swin_t(num_classes=4))
    recorded = trace(net, x)
    assert recorded.unexplained == []
    strides = [layer.cumulative_stride for layer in recorded.strided_layers()]
    assert strides == [(4, 4), (8, 8), (16, 16), (32, 32)]
    for method, size in (("blurpool", 1), ("ideal", 3)):
        converted = antialias(net, method, size=size, stem="convert", example=x)
        assert [row.outcome for row in conversion_of(converted).layers] == ["converted"] * 4
        if size == 1:
            assert_same_network(converted, net, x)


class TestIdealCutoff:
    def test_it_is_the_low_pass_of_the_decimation(self):
        """At stride 1 with the cutoff of 2, every other sample is that of stride 2."""
        x = torch.randn(2, 3, 14, 11)
        for padding in ("circular", "reflect", "zeros", "replicate"):
            dense = IdealPool(3, 1, padding=padding, cutoff=(2, 3))(x)
            assert dense.shape == x.shape
            kept = IdealPool(3, (2, 3), padding=padding)(x)
            torch.testing.assert_close(dense[..., ::2, ::3], kept)
            torch.testing.assert_close(IdealPool(3, 1, padding=padding)(x), x)

    def test_a_cutoff_below_one_is_refused(self):
        with pytest.raises(ValueError, match="cutoff must be at least 1, got 0"):
            IdealPool(3, 1, cutoff=0)
