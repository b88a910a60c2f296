"""The surgery: what goes where, on real networks; the weights and everything else stay.

The oracle of most tests: with `size=1`, BlurPool is plain decimation, so a network whose every
downsampler stands in the right place and on the right phase computes what the original computes.
"""

import copy
import io
import warnings

import jaxtyping
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from timm.layers import (
    AvgPool2dSame,
    Conv2dSame,
    EvoNorm2dS0,
    GroupNormAct,
    LayerNorm2d,
    ScaledStdConv2d,
    StdConv2dSame,
)
from timm.layers.pool2d_same import MaxPool2dSame
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from aliascope import ModelError, antialias, conversion_of, load_model, strided_layers, tap
from aliascope.antialias import METHODS, Recipe, available_methods
from aliascope.layers import LAYERS, APSPool, BlurPool
from aliascope.layers.wavelet import WAVELETS, delay
from aliascope.measure.fusion import fuse_batch_norm
from aliascope.models import weights_digest

tv = torchvision.models


def conv_block(inputs, outputs):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class UNet(nn.Module):
    """As people write it: one pool for all stages, odd sizes met by interpolating to the skip."""

    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.down = nn.ModuleList([conv_block(3, 8), conv_block(8, 16), conv_block(16, 32)])
        self.up = nn.ModuleList([conv_block(48, 16), conv_block(24, 8)])

    def forward(self, x):
        skips = []
        for block in self.down[:-1]:
            skips.append(block(x))
            x = self.pool(skips[-1])
        x = self.down[-1](x)
        for block, skip in zip(self.up, reversed(skips), strict=True):
            x = block(torch.cat([F.interpolate(x, size=skip.shape[2:]), skip], 1))
        return x


class Handwritten(nn.Module):
    """F.max_pool2d and F.relu in the forward, and a strided convolution that can be converted."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.c = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.a(x)), 2)
        return self.c(F.relu(self.b(x))).mean((2, 3))


def timm_model(name):
    return lambda: timm.create_model(name, num_classes=10)


def tv_model(name):
    return lambda: tv.get_model(name, num_classes=10)


def small_resnet():
    """A ResNet-18 without the blocks that do not downsample."""
    return tv.ResNet(tv.resnet.BasicBlock, [1, 1, 1, 1], 10)


def small_resnext():
    return tv.ResNet(tv.resnet.Bottleneck, [1, 2, 1, 1], 10, groups=32, width_per_group=4)


def small_densenet():
    return tv.DenseNet(8, (2, 2, 2, 2), 16, num_classes=10)


FAMILIES = {
    # name: (how to build it, how many of its operations are converted)
    "torchvision resnet18": (tv_model("resnet18"), 7),
    "resnext": (small_resnext, 7),
    "torchvision vgg": (lambda: tv.vgg.make_layers(tv.vgg.cfgs["A"], batch_norm=True), 5),
    "densenet": (small_densenet, 4),
    "tf mobilenetv3": (timm_model("tf_mobilenetv3_small_075"), 4),
    "timm tf_efficientnet_lite0": (timm_model("tf_efficientnet_lite0"), 4),
    "timm convnext_atto": (timm_model("convnext_atto"), 3),
    "u-net": (UNet, 2),
}
SLOW = {
    "timm resnet18": (timm_model("resnet18"), 7),
    "torchvision mobilenet_v2": (tv_model("mobilenet_v2"), 4),
    "torchvision regnet": (tv_model("regnet_y_400mf"), 8),
    "timm resnet50": (timm_model("resnet50"), 7),
    "timm resnext50": (timm_model("resnext50_32x4d"), 7),
    "torchvision resnext50": (tv_model("resnext50_32x4d"), 7),
    "torchvision densenet121": (tv_model("densenet121"), 4),
    "torchvision vgg16_bn": (tv_model("vgg16_bn"), 5),
    "timm vgg16_bn": (timm_model("vgg16_bn"), 5),
    "timm mobilenetv2_100": (timm_model("mobilenetv2_100"), 4),
    "torchvision mobilenet_v3_small": (tv_model("mobilenet_v3_small"), 4),
    "timm tf_mobilenetv3_small_100": (timm_model("tf_mobilenetv3_small_100"), 4),
    "timm mobilenetv3_small_100": (timm_model("mobilenetv3_small_100"), 4),
    "timm regnety_002": (timm_model("regnety_002"), 8),
    "torchvision resnet50": (tv_model("resnet50"), 7),
    "timm efficientnet_b0": (timm_model("efficientnet_b0"), 4),
    "timm convnext_tiny": (timm_model("convnext_tiny"), 3),
    "torchvision convnext_tiny": (tv_model("convnext_tiny"), 3),
    "torchvision squeezenet": (tv_model("squeezenet1_0"), 3),
    "timm resnet26d": (timm_model("resnet26d"), 7),
    "timm mobilevit_xxs": (timm_model("mobilevit_xxs"), 4),
    "torchvision shufflenet": (tv_model("shufflenet_v2_x0_5"), 7),
}
ALL = [
    *(pytest.param(*entry, id=name) for name, entry in FAMILIES.items()),
    *(pytest.param(*entry, id=name, marks=pytest.mark.slow) for name, entry in SLOW.items()),
]


def built(build, seed=0):
    """In eval mode, with statistics and weights that no mistake could hide behind."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = build().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def image(side=64, batch=1, seed=0):
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))


def assert_same_network(converted, model, x):
    with torch.no_grad():
        wanted, found = model(x), converted(x)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize(("build", "count"), ALL)
class TestFamilies:
    def test_what_aliased_is_filtered_and_all_else_stays(self, build, count):
        model, x = built(build), image()
        digest, before = weights_digest(model), strided_layers(model, x)
        converted = antialias(model, example=x)
        report = conversion_of(converted)
        assert [row.layer for row in report.layers] == [layer.name for layer in before]
        outcomes = [row.outcome for row in report.layers]
        assert outcomes.count("converted") == count
        assert outcomes.count("refused") == 0
        after = {layer.name: layer for layer in strided_layers(converted, x)}
        for row, layer in zip(report.layers, before, strict=True):
            if row.outcome == "converted" and "low-pass" not in row.note:
                pool = after.get(row.downsampler)
                if pool is None:  # a low-pass before patches
                    assert layer.kernel == layer.stride
                    continue
                assert pool.kind in ("blur_pool", "max_blur_pool")
                assert pool.stride == layer.stride
                assert pool.output_shape[1:] == layer.output_shape[1:]
            else:
                assert after[row.layer].kind == layer.kind
        # The original is as it was, and its weights are the copy's.
        assert weights_digest(model) == weights_digest(converted) == digest
        converted.load_state_dict(model.state_dict(), strict=True)
        with torch.no_grad():
            assert converted(x).shape == model(x).shape
            assert not torch.equal(converted(x), model(x))

    def test_one_tap_is_the_original_network(self, build, count, request):
        model = built(build)
        name = request.node.name
        even = {"mobilevit": [64], "tf": [97, 96]}  # MobileViT resizes odd maps
        for side in next((sides for word, sides in even.items() if word in name), [97]):
            x = image(side)
            assert_same_network(antialias(model, size=1, stem="convert", example=x), model, x)


class TestBlurPool:
    @pytest.mark.parametrize("size", range(1, 8))
    @pytest.mark.parametrize("shape", [(7, 7), (8, 8), (14, 9), (5, 16)])
    @pytest.mark.parametrize("phase", [0, 1])
    def test_constants_survive_and_the_side_is_halved_upwards(self, size, shape, phase):
        y = BlurPool(2, size=size, phase=phase)(torch.ones(1, 2, *shape))
        assert y.shape[2:] == tuple(-(-n // 2) for n in shape)
        torch.testing.assert_close(y, torch.ones_like(y))

    @pytest.mark.parametrize("size", range(1, 8))
    def test_the_taps_are_binomial_and_sum_to_one(self, size):
        impulse = torch.zeros(1, 1, 32, 32)
        impulse[..., 16, 16] = 1
        dense = BlurPool(1, stride=1, size=size)(impulse)[0, 0]
        row = [1.0]
        for _ in range(size - 1):
            row = [a + b for a, b in zip([0, *row], [*row, 0], strict=True)]
        found = dense.sum(0)
        assert found[found > 0].tolist() == pytest.approx([r / 2 ** (size - 1) for r in row])

    @pytest.mark.parametrize("stride", [2, 3, 4])
    def test_a_circular_roll_by_the_stride_rolls_the_output_by_one(self, stride):
        x = torch.randn(1, 4, 24, 24)
        pool = BlurPool(4, stride, size=4, padding="circular")
        torch.testing.assert_close(
            pool(x.roll((stride, -stride), (2, 3))), pool(x).roll((1, -1), (2, 3))
        )

    @pytest.mark.parametrize("phase", [0, 1])
    def test_the_phase_is_the_sample_that_the_filter_is_centred_on(self, phase):
        x = torch.randn(1, 3, 12, 12)
        assert torch.equal(BlurPool(3, size=1, phase=phase)(x), x[..., phase::2, phase::2])
        smooth = BlurPool(3, stride=1, size=3)(x)
        y = BlurPool(3, size=3, phase=phase)(x)
        torch.testing.assert_close(y[..., :5, :5], smooth[..., phase::2, phase::2][..., :5, :5])

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            ({"size": 8}, "1 to 7 taps, got 8"),
            ({"padding": "wrap"}, "got 'wrap'"),
            ({"phase": 2}, "0 to 1 for stride 2, got 2"),
        ],
    )
    def test_bad_arguments_are_named(self, arguments, sentence):
        with pytest.raises(ValueError, match=sentence):
            BlurPool(3, **arguments)


class TestPlaces:
    def notes(self, model, **options):
        rows = conversion_of(antialias(model, example=image(), **options)).layers
        return {row.layer: (row.downsampler, row.note) for row in rows}

    def test_zhangs_places_where_the_activation_is_shared(self):
        notes = self.notes(tv.resnet50(num_classes=2))
        assert notes["layer2.0.conv2"] == (
            "layer2.0.conv3.0",
            "conv at stride 1, then BlurPool before layer2.0.conv3",
        )
        assert notes["layer2.0.downsample.0"][0] == "layer2.0.downsample.0.0"
        assert notes["maxpool"][0] == "maxpool.1"
        notes = self.notes(tv.resnet18(num_classes=2), stem="convert")
        assert notes["layer3.0.conv1"][0] == "layer3.0.conv2.0"
        assert notes["conv1"][0] == "relu.1"

    def test_a_downsampler_reads_what_norm_and_activation_made(self):
        """Never before them: their output is what it samples."""
        model = built(timm_model("resnet18"))
        x = image()
        converted = antialias(model, example=x)
        layer = next(one for one in strided_layers(converted, x) if one.name == "layer2.0.act1.1")
        dense = copy.deepcopy(model.layer2[0].conv1)
        dense.stride = (1, 1)
        seen = []
        model.layer2.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        with torch.no_grad(), tap(converted, [layer]) as tapped:
            converted(x)
            before_blur = copy.deepcopy(converted)
            before_blur.layer2.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
            before_blur(x)
            wanted = model.layer2[0].bn1(dense(seen[0])).relu()
        torch.testing.assert_close(tapped.inputs[layer.name], wanted)
        assert float(tapped.inputs[layer.name].min()) == 0

    @pytest.mark.parametrize(
        ("norm", "place"),
        [
            (nn.BatchNorm2d(8), "3.1"),
            (LayerNorm2d(8), "3.1"),
            (nn.GroupNorm(4, 8), "1.1"),
            (nn.GroupNorm(1, 8), "1.1"),
            (nn.InstanceNorm2d(8), "1.1"),
            (nn.InstanceNorm2d(8, track_running_stats=True), "3.1"),
            (nn.BatchNorm2d(8, track_running_stats=False), "1.1"),
            (nn.LayerNorm((8, 16, 16)), "1.1"),
            (EvoNorm2dS0(8, 4), "1.1"),
            (GroupNormAct(8, 4), "1.1"),
        ],
        ids=lambda value: value if isinstance(value, str) else repr(value).partition("\n")[0],
    )
    @pytest.mark.parametrize("weight", [1, 0])
    def test_a_norm_over_space_sees_as_many_samples_as_before(self, norm, place, weight):
        norm = copy.deepcopy(norm)
        if norm.weight is not None:
            nn.init.constant_(norm.weight, weight)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, 2, 1), norm, nn.ReLU(), nn.Conv2d(8, 4, 3)
        ).eval()
        x = image(32, batch=2)
        assert_same_network(antialias(net, size=1, example=x), net, x)
        report = conversion_of(antialias(net, example=x))
        assert report.layers[0].downsampler == place

    @pytest.mark.parametrize(
        ("norm", "place"),
        [
            (F.instance_norm, "b.1"),
            (lambda x: F.group_norm(x, 2), "b.1"),
            (lambda x: F.batch_norm(x, torch.zeros(8), torch.ones(8)), "c.1"),
        ],
    )
    def test_a_functional_norm_over_space_does_too(self, norm, place):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b, self.c = conv_block(3, 8), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()

            def forward(self, x):
                return self.c(norm(self.b(self.a(x))))

        assert self.notes(Net())["b"][0] == place

    def test_a_functional_activation_is_followed_to_the_module_that_reads_it(self):
        notes = self.notes(Handwritten(), partial=True)
        assert notes["b"][0] == "c.0"

    def test_an_activation_with_two_readers_and_no_module_of_its_own_is_refused(self):
        class Forked(Handwritten):
            def forward(self, x):
                x = F.relu(self.b(self.a(x)))
                return self.c(x) + x

        with pytest.raises(ModelError, match=r"b \(conv\): no module of its own ends with relu"):
            antialias(nn.Sequential(Forked()), stem="convert", example=image())

    def test_a_composed_activation_is_one(self):
        class Swish(nn.Module):
            def forward(self, x):
                return x * x.sigmoid()

        model = nn.Sequential(
            conv_block(3, 8), nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), Swish(), nn.Dropout()
        )
        assert self.notes(model)["1"][0] == "3.1"

    def test_a_shared_pool_has_a_downsampler_for_each_width(self):
        x = image()
        converted = antialias(UNet(), example=x)
        names = [layer.name for layer in strided_layers(converted, x)]
        assert names == ["pool.1.8", "pool.1.16"]

    def test_a_pool_that_runs_at_one_width_has_one(self):
        class Loop(nn.Module):
            def __init__(self, pool):
                super().__init__()
                self.a, self.pool, self.b = conv_block(3, 8), pool, conv_block(8, 8)

            def forward(self, x):
                x = self.a(x)
                while x.shape[-1] > 7:
                    x = self.pool(self.b(x))
                return x

        x = image()
        for size, pool in ((1, nn.MaxPool2d(2)), (2, nn.AvgPool2d(2))):
            model = built(lambda pool=pool: Loop(pool))
            converted = antialias(model, size=size, example=x)
            assert_same_network(converted, model, x)
            rows, child = conversion_of(converted).layers, 1 if size == 1 else 0
            names = [f"pool.{child}.8{run}" for run in ("", "#2", "#3", "#4")]
            assert [row.downsampler for row in rows] == names
            assert [layer.name for layer in strided_layers(converted, x)] == names
            # size² multiply-adds for each sample of 8 channels.
            sides = [32, 16, 8, 4]
            assert [row.flops_after for row in rows] == [2 * size**2 * 8 * n * n for n in sides]

    def test_a_pool_that_is_also_held_elsewhere_is_converted_there_too(self):
        class Held(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.pool = conv_block(3, 8), nn.AvgPool2d(2)
                self.pools = [self.pool]

            def forward(self, x):
                return self.pools[0](self.a(x))

        converted = antialias(Held(), "aps", example=image())
        assert isinstance(converted.pools[0].get_submodule("0"), APSPool)

    def test_a_shared_convolution_is_refused(self):
        class Twice(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem, self.down = conv_block(3, 8), nn.Conv2d(8, 8, 3, 2, 1)

            def forward(self, x):
                return self.down(self.down(self.stem(x)))

        with pytest.raises(ModelError, match=r"down#2 .*the convolution runs 2 times"):
            antialias(Twice(), example=image())

    def test_shared_weights_under_one_more_name_stay_shared(self):
        model = nn.Sequential(conv_block(3, 8), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1))
        model[2].weight = model[1].weight
        converted = antialias(model, example=image())
        assert converted[2].weight is converted[1].weight

    def test_what_does_not_downsample_is_left_alone(self):
        model = nn.Sequential(
            conv_block(3, 8), nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1), nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip
        converted = antialias(model, example=image())
        assert [type(module) for module in converted] == [type(module) for module in model]
        assert [name for name, m in converted.named_modules() if isinstance(m, BlurPool)] == ["3.1"]

    def test_shortcuts_can_be_kept(self):
        x = image()
        report = conversion_of(antialias(tv.resnet18(num_classes=2), shortcut=False, example=x))
        kept = {row.layer: row.note for row in report.layers if row.outcome == "kept"}
        assert list(kept) == ["conv1", *(f"layer{i}.0.downsample.0" for i in (2, 3, 4))]
        assert set(kept.values()) == {"the stem, which reads the image", "a shortcut"}

    def test_the_first_pool_of_a_network_is_no_stem(self):
        model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        assert conversion_of(antialias(model, example=image())).layers[0].outcome == "converted"

    @pytest.mark.parametrize("method", ["blurpool", "adaptive"])
    def test_patches_read_a_map_without_what_folds(self, method):
        model, x = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=2), image()
        with pytest.raises(ModelError, match=r"nothing to anti-alias.*the stem.*stem='convert'"):
            antialias(model, method, example=x)
        converted = antialias(model, method, stem="convert", example=x)
        (layer,) = strided_layers(converted, x)
        assert (layer.name, layer.kind, layer.function) == ("patch_embed.proj", "patch_embed", None)
        with torch.no_grad(), tap(converted, [layer]) as tapped:
            converted(x)
        wanted = BlurPool(3, 1)(x)
        torch.testing.assert_close(tapped.inputs[layer.name], wanted)

    def test_blur_pools_that_are_there_are_left_and_named(self):
        report = conversion_of(antialias(timm_model("resnetblur18")(), example=image()))
        already = [row.layer for row in report.layers if row.note == "anti-aliased already"]
        assert already == ["maxpool.1", "layer2.0.aa", "layer3.0.aa", "layer4.0.aa"]
        with pytest.raises(ModelError, match=r"nothing to anti-alias.*anti-aliased already"):
            antialias(nn.Sequential(BlurPool(3)), example=image())

    def test_patches_behind_a_low_pass_are_left_and_named(self):
        net = nn.Sequential(conv_block(3, 8), nn.Conv2d(8, 8, 2, 2))
        with pytest.raises(
            ModelError, match=r"nothing to anti-alias: 1 \(patch_embed\): anti-aliased already;"
        ):
            antialias(antialias(net, example=image()), "adaptive", example=image())


class TestExample:
    def test_it_has_the_size_that_the_network_names(self):
        """Padding by the stride takes the other phase where a side is odd."""
        net = nn.Sequential(nn.Conv2d(3, 8, 1), Conv2dSame(8, 8, 3, 2)).eval()
        net.pretrained_cfg = {"input_size": (3, 31, 31)}
        converted = antialias(net, size=1)
        assert conversion_of(converted).input_shape == (1, 3, 31, 31)
        assert_same_network(converted, net, image(31))

    def test_it_has_the_dtype_of_the_network(self):
        net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.MaxPool2d(2)).double()
        assert conversion_of(antialias(net)).input_shape == (1, 3, 224, 224)


class TestPhases:
    """Every kind of operation alone, in a net around it, on even and odd sides."""

    @pytest.mark.parametrize("shape", [(32, 32), (33, 31), (30, 35)])
    @pytest.mark.parametrize(
        "operation",
        [
            nn.Conv2d(8, 8, 3, 2),
            nn.Conv2d(8, 8, 3, 2, 1),
            nn.Conv2d(8, 8, 5, 3, 1),
            nn.Conv2d(8, 8, 3, 2, 2, dilation=2),
            nn.Conv2d(8, 8, 2, 3),
            nn.Conv2d(8, 8, 4, 2, 1, groups=4),
            nn.Conv2d(8, 8, (3, 5), (1, 2), (0, 2)),
            nn.Conv2d(8, 8, 3, 2, 1, padding_mode="reflect"),
            nn.Conv2d(8, 8, 1, 2),
            nn.Conv2d(8, 8, 2, 2),
            Conv2dSame(8, 8, 3, 2),
            Conv2dSame(8, 8, 5, (2, 3)),
            Conv2dSame(8, 8, 3, 2, dilation=2),
            StdConv2dSame(8, 8, 3, 2),
            ScaledStdConv2d(8, 8, 3, 2, 1),
            nn.MaxPool2d(3, 2, 1),
            nn.MaxPool2d(2),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.MaxPool2d((2, 3), (3, 2), (1, 1), ceil_mode=True),
            nn.MaxPool2d(3, 3, 1, 2, ceil_mode=True),
            nn.MaxPool2d(1, 2),
            MaxPool2dSame(3, 2),
            MaxPool2dSame(2, 2),
            nn.LPPool2d(2, 3, 2),
        ],
        ids=str,
    )
    def test_one_tap_is_the_operation(self, operation, shape):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), copy.deepcopy(operation), nn.Tanh())
        x = torch.randn(2, 3, *shape)
        converted = antialias(model, size=1, example=x)
        assert_same_network(converted, model, x)
        if "Same" not in type(operation).__name__:  # its phase holds for the example's parity
            other = torch.randn(1, 3, shape[0] + 1, shape[1] + 2)
            assert_same_network(converted, model, other)

    @pytest.mark.parametrize("shape", [(32, 32), (33, 31)])
    @pytest.mark.parametrize(
        "operation",
        [
            nn.AvgPool2d(2),
            nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False),
            nn.AvgPool2d(3, 2, 1),
            nn.AvgPool2d(4, 4),
            nn.AvgPool2d((1, 2)),
            AvgPool2dSame(2, 2),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("method", ["blurpool", "ideal", "aps"])
    def test_an_average_pool_becomes_a_filter_with_the_same_middle(self, operation, shape, method):
        model = nn.Sequential(nn.Conv2d(3, 4, 1), operation)
        x = torch.randn(1, 3, *shape)
        converted = antialias(model, method, size=4, padding="replicate", example=x)
        assert type(converted.get_submodule("1.0")) is LAYERS[method]
        assert converted(x).shape == model(x).shape
        if method != "aps":
            # A slow wave has the same values at the same places, or is moved by what differs.
            wave = (2 * torch.pi * torch.arange(64.0) / 64).sin().expand(1, 4, 64, 64)
            wave = (wave + wave.mT) / 2
            # AvgPool2d(3, 2, 1) looks at a pixel, and where the stride is 1 nothing is averaged:
            # there, four taps are half a sample off.
            half = method == "blurpool" and operation.kernel_size in (3, (1, 2))
            off = 0.05 if half else 0.02
            found, wanted = converted[1](wave), operation(wave)
            middle = (..., slice(4, 12), slice(4, 12))
            assert float((found - wanted)[middle].abs().max()) < off

    @pytest.mark.parametrize("method", ["blurpool", "adaptive"])
    def test_one_tap_is_no_average(self, method):
        model, x = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AvgPool2d(2), nn.MaxPool2d(2)), image(33)
        converted = antialias(model, method, size=1, example=x)
        assert torch.equal(converted(x), model(x))
        rows = conversion_of(converted).layers
        assert [(row.layer, row.outcome) for row in rows] == [("1", "kept"), ("2", "converted")]
        assert rows[0].note == "an average pool, which plain decimation would not be"

    def test_two_taps_are_an_average_pool_of_two(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AvgPool2d(2))
        for side in (32, 33):
            x = image(side)
            torch.testing.assert_close(antialias(model, size=2, example=x)(x), model(x))

    def test_padding_mode_and_hooks_survive(self):
        model = nn.Sequential(conv_block(3, 8), nn.Conv2d(8, 8, 3, 2, 1, padding_mode="circular"))
        calls = []
        model[1].register_forward_hook(lambda *_: calls.append(1))
        converted = antialias(model, example=image())
        assert converted[1].padding_mode == "circular"
        calls.clear()
        converted(image())
        assert calls == [1]


class TestRefusals:
    def test_bare_calls_are_named_and_the_original_is_untouched(self):
        class Dependent(Handwritten):
            def forward(self, x):  # torch.fx cannot write it down
                return super().forward(x if x.isfinite().all() else x.nan_to_num())

        model = Dependent()
        digest, before = weights_digest(model), strided_layers(model, image())
        with pytest.raises(
            ModelError, match=r"1 of 2 .*max_pool2d \(max_pool\): a bare call.*part"
        ):
            antialias(model, example=image())
        assert (weights_digest(model), strided_layers(model, image())) == (digest, before)
        report = conversion_of(antialias(model, partial=True, example=image()))
        assert [(row.layer, row.outcome) for row in report.layers] == [
            ("max_pool2d", "refused"),
            ("b", "converted"),
        ]
        assert "a bare call of max_pool2d: make it a module" in str(report)

    def test_what_an_activation_in_place_returns_has_to_be_used(self):
        class Net(nn.Module):
            def __init__(self, assigned):
                super().__init__()
                self.a, self.b = conv_block(3, 8), nn.Conv2d(8, 8, 3, 2, 1)
                self.relu, self.c, self.assigned = nn.ReLU(inplace=True), nn.MaxPool2d(2), assigned

            def forward(self, x):
                y = self.b(self.a(x))
                z = self.relu(y)
                return self.c(z if self.assigned else y)

        model, x = built(lambda: Net(assigned=False)), image(batch=2)
        sentence = "relu works in place and what it returns is not used: assign it"
        with pytest.raises(ModelError, match=rf"1 of 2 operations: b \(conv\): {sentence}"):
            antialias(model, example=x)
        converted = antialias(model, size=1, partial=True, example=x)
        assert_same_network(converted, model, x)
        assert [row.outcome for row in conversion_of(converted).layers] == ["refused", "converted"]
        model = built(lambda: Net(assigned=True))
        converted = antialias(model, size=1, example=x)
        assert_same_network(converted, model, x)
        assert conversion_of(converted).layers[0].downsampler == "relu.1"

    def test_a_network_that_cannot_be_copied(self):
        net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1))
        net.kept = net[0](image())
        with pytest.raises(ModelError, match=r"this Sequential cannot be copied \(Only Tensors"):
            antialias(net, example=image())

    def test_all_of_them_are_listed(self):
        class Odd(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.indices = conv_block(3, 4), nn.MaxPool2d(2, return_indices=True)
                self.sums = nn.AvgPool2d(2, divisor_override=1)
                self.adaptive = nn.AdaptiveAvgPool2d(5)
                self.wide = nn.AvgPool2d(2, 2, 1)

            def forward(self, x):
                x = self.wide(self.sums(self.indices(self.conv(x))[0]))
                return F.interpolate(self.adaptive(x[:, :, ::2, ::2]), scale_factor=0.4)

        with pytest.raises(ModelError) as caught:
            antialias(Odd(), example=image(160))
        for sentence in (
            "6 of 6",
            "indices (max_pool): it returns indices",
            "sums (avg_pool): its divisor",
            "adaptive (avg_pool): AdaptiveAvgPool2d is no Conv2d, MaxPool2d, LPPool2d or AvgPool2d",
            "wide (avg_pool): its padding adds samples",
            "slice (slice): a strided slice",
            "interpolate (interpolate): interpolate resamples by no fixed stride",
            "measure it as it is",
        ):
            assert sentence in str(caught.value)
        with pytest.raises(ModelError, match="6 of 6"):
            antialias(Odd(), partial=True, example=image(160))

    def test_nothing_to_convert(self):
        with pytest.raises(
            ModelError, match="nothing to anti-alias: the model does not downsample"
        ):
            antialias(nn.Conv2d(3, 4, 3), example=image())

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"method": "blur"}, "unknown method 'blur'; choose from blurpool, ideal, aps"),
            ({"size": 0}, "blurpool takes 1 to 7 taps, got 0"),
            ({"stem": "drop"}, "stem must be keep or convert, got 'drop'"),
            ({"padding": "wrap"}, "padding must be one of .*, got 'wrap'"),
        ],
    )
    def test_bad_arguments_are_named(self, options, sentence):
        with pytest.raises(ModelError, match=sentence):
            antialias(nn.MaxPool2d(2), example=image(), **options)

    def test_a_module_that_was_not_converted_has_no_report(self):
        with pytest.raises(ModelError, match="this Conv2d was not made by antialias"):
            conversion_of(nn.Conv2d(3, 4, 3))


@pytest.fixture(scope="module")
def converted():
    return antialias(built(small_resnet), example=image(), stem="convert")


class TestSurvival:
    """What people do with a model afterwards."""

    def test_a_deep_copy_is_a_network_of_its_own(self, converted):
        other = copy.deepcopy(converted)
        with torch.no_grad():
            assert torch.equal(other(image()), converted(image()))
            wanted = converted(image())
            other.maxpool.get_submodule("1").kernel.zero_()
            assert torch.equal(converted(image()), wanted)
            assert not torch.equal(other(image()), wanted)
        assert conversion_of(other) == conversion_of(converted)

    def test_files(self, converted):
        buffer = io.BytesIO()
        torch.save(converted.state_dict(), buffer)
        buffer.seek(0)
        fresh = antialias(small_resnet().eval(), example=image(), stem="convert")
        fresh.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
        buffer = io.BytesIO()
        torch.save(converted, buffer)
        buffer.seek(0)
        whole = torch.load(buffer, weights_only=False)
        with torch.no_grad():
            assert torch.equal(fresh(image()), converted(image()))
            assert torch.equal(whole(image()), converted(image()))

    def test_export(self, converted):
        program = torch.export.export(converted, (image(batch=2),))
        with torch.no_grad():
            torch.testing.assert_close(
                program.module()(image(batch=2)), converted(image(batch=2)), rtol=1e-4, atol=1e-4
            )

    def test_the_graph_of_torch_fx(self):
        """Names of the original's nodes, average pools among them, and what they compute."""
        x = image(batch=2)
        converted = antialias(built(small_densenet), example=x)
        names = get_graph_node_names(converted)[1]
        assert names == get_graph_node_names(small_densenet().eval())[1]
        extractor = create_feature_extractor(converted, ["features.transition1.pool"])
        with torch.no_grad(), tap(converted, ["features.denseblock2"]) as tapped:
            (found,) = extractor(x).values()
            converted(x)
        assert torch.equal(found, tapped.inputs["features.denseblock2"])

    @pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning")
    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
    @pytest.mark.parametrize("method", ["aps", "lps"])
    def test_the_graph_of_torch_jit(self, method, monkeypatch):
        """Which component is kept is part of the graph: another image, another one."""
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # sides are tensors there
        net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2)).eval()
        converted = antialias(net, method, size=1, padding="circular", example=image(16))
        traced = torch.jit.trace(converted, image(16))
        for shift in (0, 1):
            x = image(16, seed=1).roll(shift, 3)
            assert torch.equal(traced(x), converted(x))
        pool = converted.get_submodule("1.1")
        assert not torch.equal(pool.choose(net[0](x)), pool.choose(net[0](x.roll(1, 3))))

    @pytest.mark.parametrize("method", ["lps", "tips"])
    def test_every_parameter_learns(self, method):
        converted = antialias(built(small_resnet).train(), method, example=image())
        converted(image(batch=2)).square().sum().backward()
        assert all(parameter.grad is not None for parameter in converted.parameters())

    def test_weights_that_are_computed(self):
        conv = torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 3, 2, 1))
        net, x = nn.Sequential(conv_block(3, 8), conv).eval(), image()
        assert_same_network(antialias(net, size=1, example=x), net, x)

    def test_dtypes_layouts_and_other_sizes(self, converted):
        with torch.no_grad():
            wanted = converted(image(97))
            double = copy.deepcopy(converted).double()
            torch.testing.assert_close(
                double(image(97).double()).float(), wanted, rtol=1e-3, atol=1e-3
            )
            last = copy.deepcopy(converted).to(memory_format=torch.channels_last)
            x = image(97).to(memory_format=torch.channels_last)
            torch.testing.assert_close(last(x), wanted, rtol=1e-3, atol=1e-3)

    def test_training(self):
        model = built(small_resnet).train()
        converted = antialias(model, example=image())
        assert all(module.training for module in converted.modules())
        converted(image(batch=2)).sum().backward()
        assert all(p.grad is not None for p in converted.parameters())
        assert all(p.grad is None for p in model.parameters())

    def test_batch_norm_can_still_be_folded(self, converted):
        folded = fuse_batch_norm(converted, image())
        with torch.no_grad():
            torch.testing.assert_close(folded(image()), converted(image()), rtol=1e-3, atol=1e-3)

    def test_the_random_state_is_left_alone(self):
        torch.manual_seed(3)
        state = torch.random.get_rng_state()
        models = [antialias(UNet(), "lps", example=image()) for _ in range(2)]
        torch.manual_seed(3)
        assert torch.equal(torch.random.get_rng_state(), state)
        nets = [model.pool.get_submodule("1").state_dict() for model in models]
        assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])


class TestMethods:
    @pytest.mark.parametrize("method", METHODS)
    def test_every_method_converts_and_the_tracer_sees_it(self, method):
        model, x = built(small_resnet), image()
        before = strided_layers(model, x)
        converted = antialias(model, method, stem="convert", example=x)
        after = strided_layers(converted, x)
        conv = {"conv"} if method == "folded" else set()
        assert {layer.kind for layer in after} == {"blur_pool", "max_blur_pool"} | conv
        assert len(after) == len(before)
        sides = [[one.output_shape[1:] for one in found] for found in (after, before)]
        assert sides[0] == sides[1]
        assert [x.cumulative_stride for x in after] == [x.cumulative_stride for x in before]
        names = {row.downsampler for row in conversion_of(converted).layers}
        assert {layer.name for layer in after} == names
        state = (converted if method == "folded" else model).state_dict()  # kernels have grown
        missing, unexpected = converted.load_state_dict(state, strict=False)
        assert not unexpected
        assert all(name.rpartition(".")[0].startswith(tuple(names)) for name in missing)
        learned = next(m.parameters for m in available_methods() if m.name == method)
        assert bool(missing) == bool(learned)
        x = image(97, batch=2)
        with torch.no_grad():
            assert converted(x).shape == model(x).shape
            assert torch.equal(copy.deepcopy(converted)(x), converted(x))

    def test_the_table_covers_every_layer(self):
        table = {method.name: method for method in available_methods()}
        assert set(table) == {*LAYERS, "folded"} == set(METHODS)
        assert all("arXiv" in method.paper for method in table.values())
        # A depthwise 3 × 3 filter: nine multiply-adds for each of 64 × 28 × 28 samples.
        assert table["blurpool"].mflops == pytest.approx(2 * 9 * 64 * 28 * 28 / 1e6, abs=0.01)

    @pytest.mark.parametrize(
        "recipe",
        [
            Recipe(),
            Recipe("aps", 1, "convert", padding="circular"),
            Recipe(shortcut=False, partial=True),
            Recipe("wavelet", wavelet="bior2.2"),
            Recipe("folded", 5, at=("layer2", "layer3.0.conv1")),
        ],
    )
    def test_a_recipe_reads_what_it_writes(self, recipe):
        assert Recipe.parse(str(recipe)) == recipe

    @pytest.mark.parametrize("wavelet", WAVELETS)
    def test_wavelets_stand_where_the_weights_expect_the_samples(self, wavelet):
        """Of a ramp, a filter with a gain of 1 yields the samples at its centre."""
        net = nn.Sequential(nn.Conv2d(3, 3, 1, 2, bias=False))
        net[0].weight.data = torch.eye(3)[..., None, None]
        ramp = torch.arange(32.0).expand(1, 3, 32, 32)
        converted = antialias(net, "wavelet", wavelet=wavelet, stem="convert", example=ramp)
        assert converted.get_submodule("0.0").wavelet == wavelet
        late = (converted(ramp) - net(ramp))[..., 6:-6, 6:-6]
        assert late.abs().max().item() <= 0.5 + 1e-4
        torch.testing.assert_close(late, late.mean().expand_as(late), rtol=0, atol=1e-4)
        assert late.mean().item() == pytest.approx(delay(wavelet, 2), abs=1e-4)

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("blurpool:3:5", "@blurpool:3:5: 5 is a second size"),
            ("aps:zeros:1:circular", "circular is a second padding"),
            ("aps:stem:stem", "stem is a second stem"),
        ],
    )
    def test_no_option_is_given_twice(self, text, sentence):
        with pytest.raises(ModelError, match=sentence):
            Recipe.parse(text)

    def test_a_wavelet_belongs_to_its_method(self):
        with pytest.raises(ModelError, match=r"blurpool is no wavelet: leave out 'sym4'"):
            Recipe.parse("blurpool:sym4")
        with pytest.raises(ModelError, match=r"wavelet must be one of haar, .*, got 'db9'"):
            Recipe("wavelet", wavelet="db9")


def circular(model):
    """Circular borders everywhere, as the exactness of APS asks for."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
            module.padding_mode = "circular"
    model.maxpool = nn.Sequential(nn.CircularPad2d(1), nn.MaxPool2d(3, 2))
    return model


class TestPolyphase:
    def difference(self, model, method, side):
        """Largest change of the logits of a ResNet-18 under circular shifts."""
        x = image(side, batch=2)
        converted = antialias(
            circular(model), method, stem="convert", padding="circular", example=x
        )
        shifts = [(1, 0), (0, 1), (3, 5), (-7, 18)]
        with torch.no_grad():
            logits = converted(x)
            assert float(logits.std(0).max()) > 1e-2
            moved = [converted(x.roll(shift, (2, 3))) for shift in shifts]
        return max(float((each - logits).abs().max()) for each in moved)

    @pytest.mark.parametrize(
        "side", [64, *(pytest.param(n, marks=pytest.mark.slow) for n in (96, 224))]
    )
    @pytest.mark.parametrize("method", ["aps", "lps"])
    def test_a_whole_network_is_exact(self, side, method):
        assert self.difference(built(tv_model("resnet18")), method, side) < 1e-5

    def test_it_is_not_where_a_side_does_not_divide_by_the_total_stride(self):
        """60 → 30 → 15: the last pixel has no partner, and where it lies depends on the shift."""
        assert self.difference(built(tv_model("resnet18")), "aps", 60) > 1e-3

    def test_nor_with_a_blur_alone(self):
        assert self.difference(built(tv_model("resnet18")), "blurpool", 64) > 1e-3

    def test_the_branches_of_a_block_share_their_choice(self):
        converted = antialias(small_resnet(), "aps", example=image())
        for stage in (converted.layer2, converted.layer3, converted.layer4):
            main = stage[0].conv2.get_submodule("0")
            shortcut = stage[0].downsample[0].get_submodule("0")
            assert isinstance(main, APSPool)
            assert main.leader is None
            assert main.followers == [shortcut.leader]
        assert not converted.maxpool.get_submodule("1").followers

    def test_branches_that_are_concatenated_share_it_too(self):
        class Branches(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem, self.conv = conv_block(3, 8), nn.Conv2d(8, 8, 3, 2, 1)
                self.pool = nn.MaxPool2d(3, 2, 1)

            def forward(self, x):
                x = self.stem(x)
                return torch.cat([self.pool(x), self.conv(x)], 1)

        converted = antialias(Branches(), "aps", example=image())
        assert converted.conv.get_submodule("1").leader is not None

    def test_heads_that_are_maps_of_their_own_do_not(self):
        """As in MViT: of each image two maps, and a choice for each."""

        class Heads(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem = conv_block(3, 8)
                self.pool, self.heads = nn.MaxPool2d(2), nn.MaxPool2d(2)

            def forward(self, x):
                x = self.stem(x)
                heads = self.heads(x.reshape(-1, 4, *x.shape[2:]))
                return self.pool(x) + heads.reshape(-1, 8, *heads.shape[2:])

        converted = antialias(Heads(), "aps", example=image())
        assert converted(image(batch=2)).shape == (2, 8, 32, 32)
        assert "joins branches that cannot share" in conversion_of(converted).notices[0]

    def test_branches_that_cannot_share_it_are_named(self):
        """One branch chooses, and the other takes the first component of every image."""
        model = small_resnet()
        notices = conversion_of(antialias(model, "aps", example=image())).notices
        assert notices == ()
        report = conversion_of(antialias(model, "aps", shortcut=False, example=image()))
        assert [notice.split(" joins ")[0] for notice in report.notices] == [
            "layer2.0",
            "layer3.0",
            "layer4.0",
        ]
        assert "notice: layer2.0 joins branches" in str(report)


class TestZhang:
    """Place for place the published architecture, and the same numbers from the same weights.

    One definition differs: his max-pool has kernel 2, ours keeps the model's own 3 × 3; the
    comparison is with that one replaced.
    """

    @pytest.mark.parametrize("name", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)])
    @pytest.mark.parametrize("size", [pytest.param(2, marks=pytest.mark.slow), 3, 4])
    def test_it_is_his_network(self, name, size):
        published = pytest.importorskip("antialiased_cnns")
        theirs = built(lambda: getattr(published, name)(pretrained=False, filter_size=size))
        model = getattr(tv, name)()
        assert (model.maxpool.kernel_size, model.maxpool.padding) == (3, 1)
        model.maxpool = nn.MaxPool2d(2)
        tensors = [t for n, t in theirs.state_dict().items() if not n.endswith("filt")]
        model.load_state_dict(dict(zip(model.state_dict(), tensors, strict=True)))
        x = image(96)
        ours = antialias(model.eval(), size=size, example=x)
        places = [
            [(y.kind, y.kernel, y.stride, y.input_shape, y.output_shape, y.shortcut) for y in found]
            for found in (strided_layers(ours, x), strided_layers(theirs, x))
        ]
        assert places[0] == places[1]
        assert_same_network(ours, theirs, x)


class TestReport:
    def test_flops(self):
        model, x = small_resnet(), image()
        report = conversion_of(antialias(model, example=x))
        rows = {row.layer: row for row in report.layers}
        conv = rows["layer2.0.conv1"]
        # 64 → 128 channels, 3 × 3, 8 × 8 samples; a multiply-add is two.
        assert conv.flops_before == 2 * 64 * 128 * 9 * 8 * 8
        assert conv.flops_after == 4 * conv.flops_before + 2 * 9 * 128 * 8 * 8
        # The shortcut's convolution reads as many samples as before.
        short = rows["layer2.0.downsample.0"]
        assert short.flops_after == short.flops_before + 2 * 9 * 64 * 8 * 8
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(x)
        assert report.flops_before == counter.get_total_flops()
        added = sum(row.flops_after - row.flops_before for row in report.layers)
        assert report.flops_after - report.flops_before == added

    def test_it_prints_and_serialises(self):
        report = conversion_of(antialias(UNet(), example=image()))
        assert str(report).splitlines()[1:3] == [
            "pool    max_pool  0.0 → 0.1  converted  max at stride 1, then BlurPool after pool",
            "pool#2  max_pool  0.0 → 0.1  converted  max at stride 1, then BlurPool after pool",
        ]
        assert str(report).splitlines()[-1].startswith("blurpool:3 on 1×3×64×64: ")
        assert report.to_dict()["layers"][1]["downsampler"] == "pool.1.16"


@pytest.fixture(scope="module")
def lite0():
    return load_model("efficientnet_lite0", weights="random").module


class TestEmbedded:
    def test_the_names_of_its_layers(self, lite0):
        x = torch.zeros(1, 3, 224, 224)
        after = strided_layers(antialias(lite0, size=2), x)
        assert [(layer.name, layer.kind) for layer in after] == [
            ("conv_stem", "conv"),
            *((f"blocks.{i}.0.bn2.act.1", "blur_pool") for i in (1, 2, 3, 5)),
        ]
        assert [layer.output_shape for layer in after] == [
            layer.output_shape for layer in strided_layers(lite0, x)
        ]

    @pytest.mark.parametrize("side", [224, 64])
    def test_one_tap_is_the_original_network(self, lite0, side):
        assert_same_network(antialias(lite0, size=1, example=image(side)), lite0, image(side))

    @pytest.mark.parametrize(
        ("spec", "sentence"),
        [
            ("@blur", "unknown method 'blur'; choose from blurpool"),
            ("@blurpool:9", "1 to 7 taps, got 9"),
            (
                "@blurpool:two",
                "whole number of taps, as in @blurpool:3; the other options are stem",
            ),
        ],
    )
    def test_bad_methods_are_named(self, spec, sentence):
        with pytest.raises(ModelError, match=sentence):
            load_model(f"efficientnet_lite0{spec}", weights="random")
