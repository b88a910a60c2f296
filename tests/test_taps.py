import copy
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache

import antialiased_cnns
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision.models as tv
from timm.layers import BlurPool2d
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.overrides import BaseTorchFunctionMode, _get_current_function_mode_stack
from torchvision.ops import deform_conv2d

from aliascope.errors import ModelError
from aliascope.measure.fusion import fuse_batch_norm
from aliascope.records import StridedLayer
from aliascope.taps import decimations, evaluating, strided_layers, tap, trace


class Net(nn.Module):
    """A model from a function of itself and its input, and its children."""

    def __init__(self, forward: Callable, **children):
        super().__init__()
        self.function = forward
        for name, child in children.items():
            setattr(self, name, child)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


def image(side=64, chan=3, batch=1):
    return torch.rand(batch, chan, side, side, generator=torch.Generator().manual_seed(0))


def row(layer: StridedLayer) -> str:
    """`name kind stride side→side image pixels per sample`, and `shortcut`."""
    cells = [layer.name, layer.kind, pair(layer.stride)]
    cells += [f"{pair(layer.input_shape[1:])}→{pair(layer.output_shape[1:])}"]
    cells += [pair(layer.cumulative_stride)] + ["shortcut"] * layer.shortcut
    return " ".join(cells)


def pair(values):
    first, second = (f"{value:.4g}" for value in values)
    return first if first == second else f"{first}×{second}"


def rows(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.strip().splitlines()]


# Whole models.


MODELS = {
    "resnet50": (
        lambda: timm.create_model("resnet50"),
        """
        conv1                 conv     2 64→32 2
        maxpool               max_pool 2 32→16 4
        layer2.0.conv2        conv     2 16→8  8
        layer2.0.downsample.0 conv     2 16→8  8 shortcut
        layer3.0.conv2        conv     2 8→4   16
        layer3.0.downsample.0 conv     2 8→4   16 shortcut
        layer4.0.conv2        conv     2 4→2   32
        layer4.0.downsample.0 conv     2 4→2   32 shortcut
        """,
    ),
    "antialiased resnet50": (
        lambda: antialiased_cnns.resnet50(pretrained=False),
        """
        conv1                 conv          2 64→32 2
        maxpool.1             max_blur_pool 2 31→16 4
        layer2.0.conv3.0      blur_pool     2 16→8  8
        layer2.0.downsample.0 blur_pool     2 16→8  8 shortcut
        layer3.0.conv3.0      blur_pool     2 8→4   16
        layer3.0.downsample.0 blur_pool     2 8→4   16 shortcut
        layer4.0.conv3.0      blur_pool     2 4→2   32
        layer4.0.downsample.0 blur_pool     2 4→2   32 shortcut
        """,
    ),
    "tf_efficientnet_lite0": (
        lambda: timm.create_model("tf_efficientnet_lite0"),
        """
        conv_stem          conv 2 64→32 2
        blocks.1.0.conv_dw conv 2 32→16 4
        blocks.2.0.conv_dw conv 2 16→8  8
        blocks.3.0.conv_dw conv 2 8→4   16
        blocks.5.0.conv_dw conv 2 4→2   32
        """,
    ),
    "resnetblur18": (
        lambda: timm.create_model("resnetblur18"),
        """
        conv1                 conv          2 64→32 2
        maxpool.1             max_blur_pool 2 32→16 4
        layer2.0.aa           blur_pool     2 16→8  8
        layer2.0.downsample.0 conv          2 16→8  8 shortcut
        layer3.0.aa           blur_pool     2 8→4   16
        layer3.0.downsample.0 conv          2 8→4   16 shortcut
        layer4.0.aa           blur_pool     2 4→2   32
        layer4.0.downsample.0 conv          2 4→2   32 shortcut
        """,
    ),
    "densenet121": (
        lambda: timm.create_model("densenet121", block_config=(1, 1, 1, 1), growth_rate=8),
        """
        features.conv0            conv     2 64→32 2
        features.pool0            max_pool 2 32→16 4
        features.transition1.pool avg_pool 2 16→8  8
        features.transition2.pool avg_pool 2 8→4   16
        features.transition3.pool avg_pool 2 4→2   32
        """,
    ),
    "vgg16_bn": (
        lambda: tv.vgg16_bn(init_weights=False).features,
        """
        6  max_pool 2 64→32 2
        13 max_pool 2 32→16 4
        23 max_pool 2 16→8  8
        33 max_pool 2 8→4   16
        43 max_pool 2 4→2   32
        """,
    ),
    "mobilenetv3_large_100": (
        lambda: timm.create_model("mobilenetv3_large_100"),
        """
        conv_stem          conv 2 64→32 2
        blocks.1.0.conv_dw conv 2 32→16 4
        blocks.2.0.conv_dw conv 2 16→8  8
        blocks.3.0.conv_dw conv 2 8→4   16
        blocks.5.0.conv_dw conv 2 4→2   32
        """,
    ),
    "convnext_tiny": (
        lambda: timm.create_model("convnext_tiny", depths=(1,) * 4, dims=(8, 16, 24, 32)),
        """
        stem.0                patch_embed 4 64→16 4
        stages.1.downsample.1 conv        2 16→8  8
        stages.2.downsample.1 conv        2 8→4   16
        stages.3.downsample.1 conv        2 4→2   32
        """,
    ),
    # Its position table, resized from 14×14 to this image, is no map of the image.
    "vit_tiny_patch16_224": (
        lambda: timm.create_model("vit_tiny_patch16_224", depth=1, dynamic_img_size=True),
        "patch_embed.proj patch_embed 16 64→4 16",
    ),
    # Rotary embeddings slice tokens × features, which are no rows × columns.
    "eva02_tiny_patch14_224": (
        lambda: timm.create_model("eva02_tiny_patch14_224", depth=1, img_size=64, patch_size=16),
        "patch_embed.proj patch_embed 16 64→4 16",
    ),
    "regnety_002": (
        lambda: timm.create_model("regnety_002"),
        """
        stem.conv             conv 2 64→32 2
        s1.b1.conv2.conv      conv 2 32→16 4
        s1.b1.downsample.conv conv 2 32→16 4 shortcut
        s2.b1.conv2.conv      conv 2 16→8  8
        s2.b1.downsample.conv conv 2 16→8  8 shortcut
        s3.b1.conv2.conv      conv 2 8→4   16
        s3.b1.downsample.conv conv 2 8→4   16 shortcut
        s4.b1.conv2.conv      conv 2 4→2   32
        s4.b1.downsample.conv conv 2 4→2   32 shortcut
        """,
    ),
    "resnet26d": (
        lambda: timm.create_model("resnet26d"),
        """
        conv1.0               conv     2 64→32 2
        maxpool               max_pool 2 32→16 4
        layer2.0.conv2        conv     2 16→8  8
        layer2.0.downsample.0 avg_pool 2 16→8  8 shortcut
        layer3.0.conv2        conv     2 8→4   16
        layer3.0.downsample.0 avg_pool 2 8→4   16 shortcut
        layer4.0.conv2        conv     2 4→2   32
        layer4.0.downsample.0 avg_pool 2 4→2   32 shortcut
        """,
    ),
    # Keys and values on a coarser grid than the queries, whose grid the product keeps.
    "pvt_v2_b0": (
        lambda: timm.create_model("pvt_v2_b0", depths=(1,) * 4),
        """
        patch_embed.proj           conv 4 64→16 4
        stages.0.blocks.0.attn.sr  conv 8 16→2  32
        stages.1.downsample.proj   conv 2 16→8  8
        stages.1.blocks.0.attn.sr  conv 4 8→2   32
        stages.2.downsample.proj   conv 2 8→4   16
        stages.2.blocks.0.attn.sr  conv 2 4→2   32
        stages.3.downsample.proj   conv 2 4→2   32
        """,
    ),
    # Four phases of one map, channels last, are one layer.
    "swin": (
        lambda: tv.SwinTransformer([4, 4], 8, [1, 1], [1, 1], [7, 7]),
        """
        features.0.0     patch_embed 4 64→16 4
        features.2.slice slice       2 16→8  8
        """,
    ),
    "inception_v3": (
        lambda: tv.inception_v3(init_weights=False, aux_logits=False),
        """
        Conv2d_1a_3x3.conv          conv     2 80→39 2
        maxpool1                    max_pool 2 37→18 4
        maxpool2                    max_pool 2 16→7  8
        Mixed_6a.branch3x3.conv     conv     2 7→3   16
        Mixed_6a.branch3x3dbl_3.conv conv    2 7→3   16
        Mixed_6a.max_pool2d         max_pool 2 7→3   16
        Mixed_7a.branch3x3_2.conv   conv     2 3→1   32
        Mixed_7a.branch7x7x3_4.conv conv     2 3→1   32
        """,
    ),
    "shufflenet_v2_x0_5": (
        tv.shufflenet_v2_x0_5,
        """
        conv1.0            conv     2 64→32 2
        maxpool            max_pool 2 32→16 4
        stage2.0.branch1.0 conv     2 16→8  8
        stage2.0.branch2.3 conv     2 16→8  8
        stage3.0.branch1.0 conv     2 8→4   16
        stage3.0.branch2.3 conv     2 8→4   16
        stage4.0.branch1.0 conv     2 4→2   32
        stage4.0.branch2.3 conv     2 4→2   32
        """,
    ),
    "squeezenet1_1": (
        tv.squeezenet1_1,
        """
        features.0 conv     2 64→31 2
        features.2 max_pool 2 31→15 4
        features.5 max_pool 2 15→7  8
        features.8 max_pool 2 7→3   16
        """,
    ),
    "googlenet": (
        lambda: tv.googlenet(init_weights=False, aux_logits=False),
        """
        conv1.conv conv     2 64→32 2
        maxpool1   max_pool 2 32→16 4
        maxpool2   max_pool 2 16→8  8
        maxpool3   max_pool 2 8→4   16
        maxpool4   max_pool 2 4→2   32
        """,
    ),
}


@cache
def found(name):
    model = MODELS[name][0]().eval()
    return model, strided_layers(model, image(80 if name == "inception_v3" else 64))


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
    _, layers = found(name)
    assert [row(layer) for layer in layers] == rows(MODELS[name][1])
    assert [layer.order for layer in layers] == list(range(len(layers)))


@pytest.mark.parametrize(
    ("name", "seven"),
    [
        (
            "resnet50",
            (
                "conv1, layer2.0.conv2, layer2.0.downsample.0, layer3.0.conv2, "
                "layer3.0.downsample.0, layer4.0.conv2, layer4.0.downsample.0"
            ),
        ),
        (
            "antialiased resnet50",
            (
                "conv1, layer2.0.conv3.0, layer2.0.downsample.0, layer3.0.conv3.0, "
                "layer3.0.downsample.0, layer4.0.conv3.0, layer4.0.downsample.0"
            ),
        ),
    ],
)
def test_published_lists_of_seven_layers(name, seven):
    convs = [
        layer for layer in found(name)[1] if layer.kind in ("conv", "patch_embed", "blur_pool")
    ]
    assert [layer.name for layer in convs] == seven.split(", ")
    (pool,) = set(found(name)[1]) - set(convs)
    assert pool.order == 1


def test_kernels_and_shapes_of_resnet50():
    _, layers = found("resnet50")
    assert [(layer.kernel, layer.input_shape, layer.output_shape) for layer in layers] == [
        ((7, 7), (3, 64, 64), (64, 32, 32)),
        ((3, 3), (64, 32, 32), (64, 16, 16)),
        ((3, 3), (128, 16, 16), (128, 8, 8)),
        ((1, 1), (256, 16, 16), (512, 8, 8)),
        ((3, 3), (256, 8, 8), (256, 4, 4)),
        ((1, 1), (512, 8, 8), (1024, 4, 4)),
        ((3, 3), (512, 4, 4), (512, 2, 2)),
        ((1, 1), (1024, 4, 4), (2048, 2, 2)),
    ]


def unet(up):
    def forward(net, x):
        fine = net.enter(x)
        coarse = net.down(fine)
        bottom = net.down2(coarse)
        coarse = torch.cat([coarse, net.up2(bottom)], dim=1)
        fine = torch.cat([fine, net.up(net.merge(coarse))], dim=1)
        return F.max_pool2d(fine, 2)

    return Net(
        forward,
        enter=nn.Conv2d(3, 4, 3, padding=1),
        down=nn.Conv2d(4, 8, 3, stride=2, padding=1),
        down2=nn.Conv2d(8, 8, 3, stride=2, padding=1),
        up2=up(8),
        merge=nn.Conv2d(16, 8, 1),
        up=up(8),
    )


@pytest.mark.parametrize(
    "up",
    [
        lambda chan: nn.ConvTranspose2d(chan, chan, 2, stride=2),
        lambda chan: nn.Upsample(scale_factor=2, mode="bilinear"),
        lambda chan: Net(lambda _, x: F.interpolate(x, scale_factor=2)),
        lambda chan: nn.Sequential(nn.Conv2d(chan, 4 * chan, 1), nn.PixelShuffle(2)),
    ],
    ids=["transposed", "upsample", "interpolate", "pixel_shuffle"],
)
def test_cumulative_stride_falls_again_where_a_model_upsamples(up):
    layers = strided_layers(unet(up), image(32))
    assert [row(layer) for layer in layers] == rows("""
        down       conv     2 32→16 2
        down2      conv     2 16→8  4
        max_pool2d max_pool 2 32→16 2
    """)


# Bare calls.

KERNEL = torch.randn(6, 3, 3, 3)


def tokens(x):
    return x.flatten(2).mT


def attend(q, kv):
    return F.scaled_dot_product_attention(q, kv, kv)


def attend_by_hand(q, kv):
    return torch.softmax(q @ kv.mT, dim=-1) @ kv


def pooled_queries(attention):
    """The keys stay on the fine grid; what comes out lies on that of the queries."""

    def function(x):
        attended = attention(tokens(F.avg_pool2d(x, 2)), tokens(x))
        return F.max_pool2d(attended.mT.unflatten(2, (14, 14)), 2)

    expected = """
        avg_pool2d avg_pool 2 28→14 2
        max_pool2d max_pool 2 14→7  4
    """
    return function, expected


CALLS = {
    "conv2d": (lambda x: F.conv2d(x, KERNEL, stride=2, padding=1), "conv2d conv 2 28→14 2"),
    "conv2d by keyword, reversed": (
        lambda x: F.conv2d(stride=2, padding=1, weight=KERNEL, input=x),
        "conv2d conv 2 28→14 2",
    ),
    "torch.conv2d, positional": (
        lambda x: torch.conv2d(x, KERNEL, None, (2, 1), 1),
        "conv2d conv 2×1 28→14×28 2×1",
    ),
    "conv2d at stride 1": (lambda x: F.conv2d(x, KERNEL, padding="same"), ""),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), "max_pool2d max_pool 2 28→14 2"),
    "max_pool2d, wide": (
        lambda x: F.max_pool2d(x, 3, stride=2, ceil_mode=True),
        "max_pool2d max_pool 2 28→14 2",
    ),
    "max_pool2d, indices": (
        lambda x: F.max_pool2d(x, 2, return_indices=True),
        "max_pool2d_with_indices max_pool 2 28→14 2",
    ),
    "max_pool2d, dense": (lambda x: F.max_pool2d(x, 3, stride=1), ""),
    "max_pool2d, over everything": (lambda x: F.max_pool2d(x, 28), ""),
    "avg_pool2d, anisotropic": (
        lambda x: F.avg_pool2d(x, (1, 2)),
        "avg_pool2d avg_pool 1×2 28→28×14 1×2",
    ),
    "avg_pool2d, over everything": (lambda x: F.avg_pool2d(x, x.shape[2:]), ""),
    "adaptive_avg_pool2d": (
        lambda x: F.adaptive_avg_pool2d(x, 14),
        "adaptive_avg_pool2d avg_pool 2 28→14 2",
    ),
    "adaptive_avg_pool2d to 1": (lambda x: F.adaptive_avg_pool2d(x, 1), ""),
    "adaptive_avg_pool2d to the same": (lambda x: F.adaptive_avg_pool2d(x, 28), ""),
    "adaptive_avg_pool2d along one axis": (lambda x: F.adaptive_avg_pool2d(x, (None, 1)), ""),
    "adaptive_max_pool2d": (
        lambda x: F.adaptive_max_pool2d(x, (14, 7)),
        "adaptive_max_pool2d max_pool 2×4 28→14×7 2×4",
    ),
    "interpolate down": (
        lambda x: F.interpolate(x, size=21, mode="bilinear"),
        "interpolate interpolate 1.333 28→21 1.333",
    ),
    "interpolate up": (lambda x: F.interpolate(x, scale_factor=2), ""),
    "interpolate up, then down": (
        lambda x: F.interpolate(F.interpolate(x, scale_factor=2), size=14),
        "interpolate interpolate 4 56→14 2",
    ),
    "slice": (lambda x: x[..., ::2, ::2], "slice slice 2 28→14 2"),
    "slice of rows": (lambda x: x[:, :, ::2], "slice slice 2×1 28→14×28 2×1"),
    "slice at another phase": (lambda x: x[:, 0:1, 1::4, 1::2], "slice slice 4×2 28→7×14 4×2"),
    "slice, channels last": (
        lambda x: x.permute(0, 2, 3, 1)[:, ::2, ::2, :],
        "slice slice 2 28→14 2",
    ),
    "slice of channels": (lambda x: x[:, ::2], ""),
    "slice of the batch": (lambda x: x[::2], ""),
    "crop": (lambda x: x[..., 2:-2, 2:-2], ""),
    "index by an array": (lambda x: x[np.array([0])], ""),
    "index by a tensor": (lambda x: x[torch.tensor([0])], ""),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 2), "pixel_unshuffle slice 2 28→14 2"),
    "space to depth by hand": (
        lambda x: torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], dim=1),
        "slice slice 2 28→14 2",
    ),
    "index by steps": (
        lambda x: x[:, :, torch.arange(1, 28, 2)][..., np.arange(0, 28, 2)],
        """
        slice   slice 2×1 28→14×28 2×1
        slice#2 slice 1×2 14×28→14 2
        """,
    ),
    "index_select": (
        lambda x: x.index_select(-1, torch.arange(0, 28, 4)),
        "index_select slice 1×4 28→28×7 1×4",
    ),
    "index without a step": (lambda x: x[:, :, torch.tensor([0, 5, 6])], ""),
    "patches as columns": (
        lambda x: F.unfold(x, (3, 5), stride=2, padding=(1, 2)).unflatten(2, (14, 14)),
        "unfold slice 2 28→14 2",
    ),
    "patches at every sample": (lambda x: F.unfold(x, 3, padding=1), ""),
    "patches side by side": (lambda x: F.unfold(x, 2, stride=2).unflatten(2, (14, 14)), ""),
    "every second sample of every second row": (
        lambda x: F.unfold(x, 1, stride=2).unflatten(2, (14, 14)),
        "unfold slice 2 28→14 2",
    ),
    "torch.convolution": (
        lambda x: torch.convolution(x, KERNEL, None, [2, 1], [1, 1], [1, 1], False, [0, 0], 1),
        "convolution conv 2×1 28→14×28 2×1",
    ),
    "deformable": (
        lambda x: deform_conv2d(x, torch.zeros(1, 18, 14, 14), KERNEL, stride=2, padding=1),
        "deform_conv2d conv 2 28→14 2",
    ),
    "grid_sample": (
        lambda x: F.grid_sample(x, torch.zeros(1, 7, 14, 2), align_corners=False),
        "grid_sample interpolate 4×2 28→7×14 4×2",
    ),
    "fractional max": (
        lambda x: F.fractional_max_pool2d(x, 2, output_size=14),
        "fractional_max_pool2d max_pool 2 28→14 2",
    ),
    "twice the same": (
        lambda x: F.max_pool2d(F.max_pool2d(x, 2), 2),
        """
        max_pool2d   max_pool 2 28→14 2
        max_pool2d#2 max_pool 2 14→7  4
        """,
    ),
    "a slice and a pool of the same map": (
        lambda x: x[..., ::2, ::2] + F.avg_pool2d(x, 2),
        """
        slice      slice    2 28→14 2
        avg_pool2d avg_pool 2 28→14 2
        """,
    ),
    "pooled queries": pooled_queries(attend),
    "pooled queries, by hand": pooled_queries(attend_by_hand),
    "a gate from a pooled strip": (
        lambda x: F.max_pool2d(F.adaptive_avg_pool2d(x, (None, 1)).sigmoid() * x, 2),
        "max_pool2d max_pool 2 28→14 2",
    ),
    "a gate from a coarse map": (
        lambda x: F.max_pool2d(F.avg_pool2d(x, 2).mean((2, 3), keepdim=True) * x, 2),
        """
        avg_pool2d avg_pool 2 28→14 2
        max_pool2d max_pool 2 28→14 2
        """,
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_bare_calls(name):
    function, expected = CALLS[name]
    layers = strided_layers(Net(lambda _, x: function(x)), image(28))
    assert [row(layer) for layer in layers] == rows(expected)
    assert all(layer.function is not None for layer in layers)


@pytest.mark.parametrize(
    ("mode", "size", "taps"), [("bicubic", 14, 8), ("bilinear", 14, 4), ("bilinear", 24, 3)]
)
def test_a_resize_with_antialiasing_has_the_taps_of_its_filter(mode, size, taps):
    """As many as a pixel of the result depends on at most."""
    net = Net(lambda _, x: F.interpolate(x, size, mode=mode, antialias=True))
    (layer,) = strided_layers(net, image(28))
    assert layer.kernel == (taps, taps)
    rows = torch.eye(28)[:, None, None]  # (28, 1, 1, 28): an impulse at each place of a line
    made = F.interpolate(rows, (1, size), mode=mode, antialias=True)
    assert made.abs().gt(1e-6).sum(0).max() == taps


@pytest.mark.parametrize("name", [name for name in CALLS if CALLS[name][1]])
def test_a_bare_call_is_tapped_at_its_argument(name):
    net = Net(lambda net, x: CALLS[name][0](net.relu(x - 0.5)), relu=nn.ReLU())
    layers = strided_layers(net, image(28))
    with tap(net, layers) as tapped:
        net(image(28))
    assert list(tapped.inputs) == [layer.name for layer in layers]
    assert [tuple(x.shape[1:]) for x in tapped.inputs.values()] == [
        layer.input_shape for layer in layers
    ]
    if "gate" not in name and "up" not in name:
        first = tapped.inputs[layers[0].name]
        assert torch.equal(first, (image(28) - 0.5).relu())


def quarter(x):
    return x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2))


def tokens_of_four(x):
    """As Hiera pools: over one axis of four, once the tokens are in an order of its own."""
    return F.layer_norm(tokens(x).view(1, 4, -1, x.shape[1]).amax(1), (x.shape[1],))


UNSEEN = {
    "view and max": lambda x: quarter(x).amax((3, 5)),
    "view and index": lambda x: quarter(x)[:, :, :, 0, :, 1],
    "a strided view": lambda x: x.contiguous().as_strided((1, 3, 14, 14), (2352, 784, 56, 2)),
    "unfold": lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2)[..., 0, 0],
    "in three dimensions": lambda x: F.max_pool3d(x, (1, 2, 2)),
    "vmap": torch.vmap(lambda one: F.max_pool2d(one, 2)),
    "the spectrum": lambda x: torch.fft.irfft2(torch.fft.rfft2(x)[:, :, :14, :8], s=(14, 14)),
    "rows, then columns, channels last": lambda x: x.permute(0, 2, 3, 1)[:, ::2][:, :, ::2],
    "tokens": tokens_of_four,
    "flattened maps": lambda x: F.layer_norm(F.avg_pool1d(x.flatten(2), 4).mT, (3,)),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_where_maps_fall_without_an_operation_that_is_seen(name):
    norms = [] if "tokens" in name or "last" in name or "flat" in name else [nn.BatchNorm2d(3)]
    down = Net(lambda _, x: UNSEEN[name](x))
    recorded = trace(nn.Sequential(nn.Conv2d(3, 3, 3, 1, 1), down, *norms), image(28))
    assert recorded.strided_layers() == []
    (sentence,) = recorded.unexplained
    assert "fall from 28×28 to 14×14 samples" in sentence


def test_a_fall_that_only_the_result_shows():
    recorded = trace(Net(lambda net, x: quarter(x).mean((3, 5))), image(28))
    assert recorded.unexplained == [
        "before the end, maps fall from 28×28 to 14×14 samples by no operation that was seen"
    ]


def test_strides_behind_an_unseen_operation_count_it():
    net = Net(lambda net, x: net.conv(quarter(x).amax((3, 5))), conv=nn.Conv2d(3, 4, 3, 2, 1))
    assert [row(layer) for layer in strided_layers(net, image(28))] == ["conv conv 2 14→7 4"]


def test_windows_in_the_batch_keep_the_scale_of_the_map():
    """As TNT cuts the image into patches, each of which a convolution samples."""
    cut = Net(lambda _, x: F.unfold(x, 7, stride=7).mT.reshape(-1, 3, 7, 7))
    layers = strided_layers(nn.Sequential(cut, nn.Conv2d(3, 4, 3, 2, 1)), image(28))
    assert [row(layer) for layer in layers] == ["1 conv 2 7→4 2"]


def test_what_is_folded_into_channels_is_on_a_coarser_grid():
    fold = Net(lambda _, x: F.unfold(x, 2, stride=2).unflatten(2, (14, 14)))
    for first in (fold, nn.Sequential(nn.Unfold(2, stride=2), nn.Unflatten(2, (14, 14)))):
        recorded = trace(nn.Sequential(first, nn.Conv2d(12, 4, 3, 2, 1)), image(28))
        assert recorded.unexplained == []
        assert [row(layer) for layer in recorded.strided_layers()] == ["1 conv 2 14→7 4"]


def test_a_fall_is_told_once():
    """Residual sums keep the grid that the data flow gives, which is the finer one."""

    def block(net, x):
        return x + F.layer_norm(x, (3,))

    blocks = (Net(block) for _ in range(2))
    down = Net(lambda net, x: net.same(tokens(x)).view(1, 4, -1, 3).amax(1), same=nn.Identity())
    (sentence,) = trace(nn.Sequential(down, *blocks), image(28)).unexplained
    assert sentence.startswith("before layer_norm in 1, maps fall from 28×28 to 14×14 samples")


def windows(x):
    return x.unflatten(3, (4, 7)).unflatten(2, (4, 7)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def coordinate_gate(net, x):
    """Means over rows and over columns, as one strip through a convolution."""
    strip = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).mT], dim=2)
    rows, columns = net.conv(strip).split([28, 28], dim=2)
    return net.conv(x * rows.sigmoid() * columns.mT.sigmoid())


def talking_heads(net, x):
    """A convolution over queries × keys, and one over the map that they make."""
    q = tokens(F.max_pool2d(x, 4))
    weights = net.conv((q @ q.mT).expand(1, 3, -1, -1)).softmax(-1)
    return net.conv((weights.mean(1) @ q).mT.unflatten(2, (7, 7)))


NO_FALL = {
    "crop": lambda net, x: net.conv(x[..., 7:-7, 7:-7]),
    "half": lambda net, x: net.conv(x.chunk(2, dim=3)[0]),
    "windows": lambda net, x: net.conv(windows(x)),
    "borders": lambda net, x: F.pad(F.conv2d(x, torch.ones(3, 3, 15, 15)), (0, 9, 0, 9)),
    "a mean": lambda net, x: net.conv(x.mean((2, 3), keepdim=True)) * x,
    "means of rows and columns": coordinate_gate,
    "talking heads": talking_heads,
    "a class token": lambda net, x: F.layer_norm(tokens(x)[:, :1], (3,)),
    "registers": lambda net, x: F.layer_norm(F.pad(tokens(x), (0, 0, 5, 0)), (3,)),
    "channels last": lambda net, x: F.layer_norm(x.permute(0, 2, 3, 1), (3,)),
    "positions": lambda net, x: x + net.conv(torch.zeros(1, 3, 7, 7).cumsum(2)).mean(),
    "the norm of queries": lambda net, x: F.layer_norm(
        tokens(x).unflatten(2, (3, 1)).transpose(1, 2), (1,)
    ),
}


@pytest.mark.parametrize("name", NO_FALL)
def test_what_is_no_downsampling_is_not_called_one(name):
    recorded = trace(Net(NO_FALL[name], conv=nn.Conv2d(3, 3, 1)), image(28))
    assert recorded.unexplained == []


def test_bare_calls_are_named_after_the_module_around_them():
    block = Net(lambda net, x: F.max_pool2d(net.conv(x), 2), conv=nn.Conv2d(3, 3, 1))
    net = nn.Sequential(block, nn.ReLU(), copy.deepcopy(block))
    layers = strided_layers(net, image(16))
    assert [layer.name for layer in layers] == ["0.max_pool2d", "2.max_pool2d"]
    assert {layer.function for layer in layers} == {"max_pool2d"}


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (nn.Conv2d(3, 4, 3, stride=2, padding=1), "conv2d conv 2 32→16 2"),
        (
            Net(
                lambda net, x: F.avg_pool2d(F.conv2d(x, net.weight, stride=2).relu_(), 3, 3),
                weight=nn.Parameter(torch.randn(4, 3, 2, 2)),
            ),
            """
            conv2d     patch_embed 2 32→16 2
            avg_pool2d avg_pool    3 16→5  6
            """,
        ),
    ],
    ids=["conv", "functional"],
)
def test_a_model_without_children_shows_its_calls(net, expected):
    layers = strided_layers(net, image(32))
    assert [row(layer) for layer in layers] == rows(expected)
    with tap(net, layers) as tapped:
        net(image(32))
    assert torch.equal(tapped.inputs["conv2d"], image(32))


# Modules without children: one layer each.


def phases(x):
    return torch.stack([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], dim=1)


def strongest_phase(_, x):
    best = phases(x).square().sum((2, 3, 4)).argmax(1)
    return phases(x)[torch.arange(len(x)), best]


BINOMIAL = torch.tensor([1.0, 2, 1]) / 4


def separable_blur(_, x):
    taps = BINOMIAL.repeat(x.shape[1], 1, 1, 1)
    x = F.conv2d(x, taps.mT, stride=(2, 1), padding=(1, 0), groups=x.shape[1])
    return F.conv2d(x, taps, stride=(1, 2), padding=(0, 1), groups=x.shape[1])


LEAVES = {
    "polyphase sampling": (strongest_phase, "0 slice 2 32→16 2"),
    "separable blur": (separable_blur, "0 blur_pool 2 32→16 2"),
    "anisotropic conv": (
        lambda _, x: F.conv2d(x, KERNEL, stride=(1, 3), padding=1),
        "0 conv 1×3 32→32×11 1×3",
    ),
    "down and up again": (lambda _, x: F.interpolate(F.avg_pool2d(x, 2), size=32), ""),
    "up, then further down": (
        lambda _, x: F.max_pool2d(F.interpolate(x, scale_factor=2), 4),
        "0 interpolate 2 32→16 2",
    ),
    "tokens out": (
        lambda _, x: F.conv2d(x, KERNEL[..., :2, :2], stride=2).flatten(2).mT,
        "0 patch_embed 2 32→16 2",
    ),
    "a record out": (lambda _, x: Features(F.max_pool2d(x, 2)), "0 max_pool 2 32→16 2"),
}


@dataclass
class Features:
    map: torch.Tensor


@pytest.mark.parametrize("name", LEAVES)
def test_a_module_without_children_is_one_layer(name):
    function, expected = LEAVES[name]
    net = nn.Sequential(Net(function))
    layers = strided_layers(net, image(32))
    assert [row(layer) for layer in layers] == rows(expected)
    with tap(net, layers) as tapped:
        net(image(32))
    assert [torch.equal(x, image(32)) for x in tapped.inputs.values()] == [True] * len(layers)


def test_a_module_on_tokens_shows_its_calls_instead():
    tokens = Net(lambda _, x: x.flatten(2).mT)
    pool = Net(lambda _, x: F.avg_pool2d(x.mT.unflatten(2, (16, 16)), 2))
    net = nn.Sequential(tokens, pool)
    layers = strided_layers(net, image(16))
    assert [row(layer) for layer in layers] == rows("1.avg_pool2d avg_pool 2 16→8 2")
    with tap(net, layers) as tapped:
        net(image(16))
    assert torch.equal(tapped.inputs["1.avg_pool2d"], image(16))


def even_phases(_, x):
    """Of (B, H, W, C), which `[..., ::2]` would slice along W and C."""
    return torch.cat([x[:, ::2, ::2], x[:, 1::2, ::2]], dim=-1)


CHANNELS_LAST = {
    "slices": (even_phases, "1.slice slice 2 16→8 2"),
    "conv": (
        lambda _, x: F.conv2d(x.permute(0, 3, 1, 2), torch.ones(4, 16, 3, 3), None, 2, 1),
        "1.conv2d conv 2 16→8 2",
    ),
    "pool": (lambda _, x: F.max_pool2d(x.movedim(-1, 1), 2), "1.max_pool2d max_pool 2 16→8 2"),
}


@pytest.mark.parametrize("name", CHANNELS_LAST)
def test_a_module_on_channels_last_maps_shows_its_calls(name):
    function, expected = CHANNELS_LAST[name]
    net = nn.Sequential(Net(lambda _, x: x.permute(0, 2, 3, 1)), Net(function))
    x = image(16, chan=16)  # the sides do not tell the axes apart
    layers = strided_layers(net, x)
    assert [row(layer) for layer in layers] == rows(expected)
    with tap(net, layers) as tapped:
        net(x)
    assert torch.equal(tapped.inputs[layers[0].name], x)


def test_a_module_that_exchanges_axes_and_puts_them_back_is_one_layer():
    def norm_then_pool(_, x):
        return F.max_pool2d(F.layer_norm(x.permute(0, 2, 3, 1), (3,)).permute(0, 3, 1, 2), 2)

    (layer,) = strided_layers(nn.Sequential(Net(norm_then_pool)), image(16))
    assert row(layer) == "0 max_pool 2 16→8 2"


def test_of_several_maps_the_one_that_is_sampled_counts():
    """As torchvision's LastLevelMaxPool, which is passed all levels and pools the last."""

    def forward(net, x):
        fine = net.stem(x)
        return net.coarser([fine, net.down(fine)])

    net = Net(
        forward,
        stem=nn.Conv2d(3, 4, 3, 2, 1),
        down=nn.Conv2d(4, 4, 3, 4, 1),
        coarser=Net(lambda _, maps: [*maps, F.max_pool2d(maps[-1], 1, 2, 0)]),
    )
    layers = strided_layers(net, image(64))
    assert [row(layer) for layer in layers] == rows("""
        stem             conv     2 64→32 2
        down             conv     4 32→8  8
        coarser.max_pool2d max_pool 2 8→4   16
    """)
    with tap(net, layers) as tapped:
        _, coarse, _ = net(image(64))
    assert torch.equal(tapped.inputs["coarser.max_pool2d"], coarse)


@pytest.mark.parametrize(
    ("blur", "kind"),
    [
        (BlurPool2d(3, filt_size=3), "blur_pool"),
        (BlurPool2d(3, filt_size=5, stride=4), "blur_pool"),
        (BlurPool2d(filt_size=3), "blur_pool"),
        (antialiased_cnns.BlurPool(3, filt_size=4, stride=2), "blur_pool"),
        (antialiased_cnns.BlurPool(3, filt_size=1, stride=2), "slice"),
    ],
    ids=["timm", "timm 5/4", "timm any channels", "antialiased_cnns", "antialiased_cnns 1"],
)
@pytest.mark.parametrize("pooled", [False, True], ids=["", "after a dense max"])
def test_blur_pools_are_tapped_before_their_own_padding(blur, kind, pooled):
    dense = nn.MaxPool2d(2, stride=1) if pooled else nn.Identity()
    net = nn.Sequential(dense, blur)
    (layer,) = strided_layers(net, image(32))
    assert layer.name == "1"
    assert layer.kind == (f"max_{kind}" if pooled and kind == "blur_pool" else kind)
    with tap(net, [layer]) as tapped:
        net(image(32))
    assert torch.equal(tapped.inputs["1"], dense(image(32)))


def test_blur_after_a_strided_max_is_a_blur_of_its_own():
    layers = strided_layers(nn.Sequential(nn.MaxPool2d(2), BlurPool2d(3)), image(32))
    assert [layer.kind for layer in layers] == ["max_pool", "blur_pool"]


def test_a_filter_that_differs_between_channels_is_a_conv():
    conv = nn.Conv2d(4, 4, 3, stride=2, groups=4, bias=False)
    conv.weight.data = torch.softmax(torch.randn(4, 1, 9), dim=-1).view(4, 1, 3, 3)
    (different,) = strided_layers(nn.Sequential(conv), image(chan=4))
    conv.weight.data[:] = conv.weight.data[:1].clone()
    (alike,) = strided_layers(nn.Sequential(conv), image(chan=4))
    assert (different.kind, alike.kind) == ("conv", "blur_pool")


def test_own_padding_and_parametrizations_are_part_of_a_layer():
    conv = nn.Conv2d(3, 4, 3, stride=2, padding=2, padding_mode="circular")
    net = nn.Sequential(weight_norm(conv))
    (layer,) = strided_layers(net, image(16))
    assert row(layer) == "0 conv 2 16→9 2"
    with tap(net, [layer]) as tapped:
        net(image(16))
    assert torch.equal(tapped.inputs["0"], image(16))


def test_out_of_sight_functions_do_not_break_the_chain():
    class Swish(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return torch.from_numpy(x.numpy() / (1 + np.exp(-x.numpy())))

    swish = Net(lambda _, x: Swish.apply(x))
    net = nn.Sequential(nn.MaxPool2d(2), swish, nn.MaxPool2d(2))
    assert [layer.cumulative_stride for layer in strided_layers(net, image(16))] == [(2, 2), (4, 4)]


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")  # of newer versions of torch
def test_compiled_by_jit_is_refused():
    traced = torch.jit.trace(nn.MaxPool2d(2), image(16))
    for net in (traced, nn.Sequential(traced)):
        with pytest.raises(ModelError, match=r"compiled by torch\.jit.*pass the module"):
            strided_layers(net, image(16))


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "a part"])
def test_a_compiled_model_is_seen_as_what_it_was_compiled_from(whole):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)))
    layers = strided_layers(net, image(16))
    assert [layer.name for layer in layers] == ["0", "1.1"]
    expected = net[1][0](net[0](image(16)))
    if whole:
        net = torch.compile(net, backend="eager")
    else:
        net[1] = torch.compile(net[1], backend="eager")
    assert strided_layers(net, image(16)) == layers
    with tap(net, layers) as tapped:
        net(image(16))
    assert torch.equal(tapped.inputs["1.1"], expected)


# Around the forward.


def test_the_shortcut_is_the_branch_with_fewer_weights():
    def forward(net, x):
        return net.main(x) + net.short(x)

    main = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1))
    net = Net(forward, main=main, short=nn.Conv2d(3, 4, 1, stride=2))
    shortcuts = {layer.name: layer.shortcut for layer in strided_layers(net, image(16))}
    assert shortcuts == {"main.1": False, "short": True}


def test_a_module_called_three_times():
    net = Net(lambda net, x: net.pool(net.pool(net.pool(x))), pool=nn.MaxPool2d(2))
    layers = strided_layers(net, image(16))
    assert [row(layer) for layer in layers] == rows("""
        pool   max_pool 2 16→8 2
        pool#2 max_pool 2 8→4  4
        pool#3 max_pool 2 4→2  8
    """)
    with tap(net, layers) as tapped:
        net(image(16))
    for name, size in {"pool": 1, "pool#2": 2, "pool#3": 4}.items():
        assert torch.equal(tapped.inputs[name], F.max_pool2d(image(16), size))
    with tap(net, layers[1:2]) as tapped:
        net(image(16))
    assert list(tapped.inputs) == ["pool#2"]


def test_modules_called_by_keyword():
    net = Net(lambda net, x: net.conv(input=x), conv=nn.Conv2d(3, 4, 3, stride=2))
    layers = strided_layers(net, image(16))
    assert [layer.name for layer in layers] == ["conv"]
    with tap(net, [*layers, "conv"]) as tapped, tap(net, ["conv"]) as named:
        net(x=image(16))
    assert torch.equal(tapped.inputs["conv"], image(16))
    assert torch.equal(named.inputs["conv"], image(16))


def test_what_a_module_called_by_keyword_decimates_is_known():
    net = nn.Sequential(
        nn.Conv2d(3, 3, 1), Net(lambda net, x: net.conv(input=x), conv=nn.Conv2d(3, 4, 3, stride=2))
    )
    found, missing = decimations(net, trace(net, image(16)))
    assert (list(found), missing) == (["1.conv"], {})
    dense = F.conv2d(net[0](image(16)), net[1].conv.weight, net[1].conv.bias)
    torch.testing.assert_close(found["1.conv"](net[0](image(16))), dense)


@pytest.mark.parametrize("wrap", [lambda x: {"out": x}, lambda x: (x, [x]), Features])
def test_outputs_of_any_type(wrap):
    net = Net(lambda net, x: wrap(net.pool(x)), pool=nn.AvgPool2d(2))
    assert [row(layer) for layer in strided_layers(net, image(16))] == ["pool avg_pool 2 16→8 2"]
    outer = Net(lambda net, x: net.inner(x), inner=net)
    assert [layer.name for layer in strided_layers(outer, image(16))] == ["inner.pool"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    net = timm.create_model("test_resnet", aa_layer=BlurPool2d).eval().to(dtype)
    layers = strided_layers(net, image(32).to(dtype))
    assert layers == strided_layers(net.float(), image(32))
    with tap(net.to(dtype), layers) as tapped:
        net(image(32).to(dtype))
    assert {x.dtype for x in tapped.inputs.values()} == {dtype}


def test_in_place_activations_keep_the_chain():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Hardswish(inplace=True),
        nn.Conv2d(4, 4, 3, stride=2, padding=1),
    )
    assert [layer.cumulative_stride[0] for layer in strided_layers(net, image(16))] == [2, 4, 8]


# Capturing.


def inputs_by_hook(model, names, x):
    """What plain forward pre-hooks see."""
    inputs, handles = {}, []
    for name in names:

        def hook(module, args, name=name):
            inputs[name] = args[0].clone()

        handles.append(model.get_submodule(name).register_forward_pre_hook(hook))
    model(x)
    for handle in handles:
        handle.remove()
    return inputs


@pytest.mark.parametrize("name", ["resnetblur18", "inception_v3"])
def test_captures_what_a_plain_hook_sees(name):
    net, layers = found(name)
    x = image(layers[0].input_shape[1], batch=2)
    with torch.no_grad():
        expected = inputs_by_hook(net, [layer.name for layer in layers if not layer.function], x)
        with tap(net, layers, read=lambda _, x: x.clone()) as tapped:
            net(x)
    assert list(tapped.inputs) == [layer.name for layer in layers]
    assert expected
    for layer in layers:
        assert tapped.inputs[layer.name].shape[1:] == layer.input_shape
        if not layer.function:
            assert torch.equal(tapped.inputs[layer.name], expected[layer.name])


def test_read_is_applied_at_once():
    def forward(net, x):
        x = x - 0.5
        pooled = net.pool(x), F.avg_pool2d(x, 2)
        x.zero_()
        return pooled

    net = Net(forward, pool=nn.MaxPool2d(2))
    layers = strided_layers(net, image(16))
    with tap(net, layers, read=lambda layer, x: (layer.name, x.sum())) as tapped:
        net(image(16))
    total = (image(16) - 0.5).sum()
    assert tapped.inputs == {name: (name, total) for name in ("pool", "avg_pool2d")}
    with tap(net, layers) as tapped:
        net(image(16))
    assert [x.sum() for x in tapped.inputs.values()] == [total, total]  # not what came of it


def test_what_read_calls_is_not_tapped():
    net = Net(
        lambda net, x: net.relu(F.avg_pool2d(net.pool(x), 2)), pool=nn.MaxPool2d(2), relu=nn.ReLU()
    )
    layers = strided_layers(net, image(16))
    with tap(net, layers, read=lambda _, x: F.avg_pool2d(x, 4)) as tapped:
        net(image(16))
    assert torch.equal(tapped.inputs["avg_pool2d"], F.avg_pool2d(F.max_pool2d(image(16), 2), 4))


@pytest.mark.parametrize("bare", [False, True])
def test_a_second_forward_replaces_the_first(bare):
    pool = Net(lambda _, x: F.max_pool2d(x, 2)) if bare else nn.MaxPool2d(2)
    net = Net(lambda net, x: net.pool(x) if x.mean() < 1 else x, pool=nn.Sequential(pool))
    first, second = image(16), image(16).flip(3)
    layers = strided_layers(net, first)
    with tap(net, layers) as tapped:
        net(first)
        net(second)
        assert torch.equal(tapped.inputs["pool.0"], second)
        net(first + 1)  # takes the other way
        assert not tapped.inputs
    net(first)
    assert not tapped.inputs


def test_tap_works_on_a_copy_of_the_model():
    net, layers = found("densenet121")
    twin = copy.deepcopy(net)
    with tap(net, layers) as tapped, tap(twin, layers) as tapped_twin:
        net(image())
        assert not tapped_twin.inputs
        twin(image())
    for layer in layers:
        assert torch.equal(tapped.inputs[layer.name], tapped_twin.inputs[layer.name])


def test_gradients_flow_through_a_tap():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2))
    with tap(net, strided_layers(net, image(16))) as tapped:
        net(image(16))
    tapped.inputs["1"].square().sum().backward()
    assert net[0].weight.grad.abs().sum() > 0


def test_modules_alone_are_watched_by_a_hook_each_and_nothing_more():
    slices = Net(lambda _, x: x[..., ::2, ::2], child=nn.Identity())
    net = nn.Sequential(nn.MaxPool2d(2), nn.ReLU(), slices)
    pool, bare = strided_layers(net, image(16))
    with tap(net, [pool]):
        hooked = [name for name, module in net.named_modules() if module._forward_pre_hooks]
        assert hooked == ["", "0"]
        assert not _get_current_function_mode_stack()
    with tap(net, [bare]):
        assert len(_get_current_function_mode_stack()) == 1


def test_unknown_layers_capture_nothing():
    net = nn.Sequential(nn.MaxPool2d(2))
    with tap(net, []) as tapped:
        net(image(16))
    assert tapped.inputs == {}


# Everything is put back.


def fragile(fail):
    """A model in train mode with a frozen batch-norm and dropout, that raises where it is told."""

    def forward(net, x):
        x = F.max_pool2d(F.dropout(net.norm(net.conv(x)), training=True), 2)
        return net.tail(net.trap(x))

    def spring(net, x):
        fail(net, x)
        return x

    net = Net(
        forward,
        conv=nn.Conv2d(3, 4, 3, stride=2),
        norm=nn.BatchNorm2d(4),
        trap=nn.Sequential(Net(spring)),
        tail=nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)),
    )
    net.train()
    net.norm.eval()
    net.tail[0].eval()
    return net


class Midway(Exception):  # noqa: N818
    pass


def raise_midway(net, x):
    raise Midway


def pass_through(net, x):
    return None


def state(net):
    """Everything that watching a forward could leave behind."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called")
    hooks += ("_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs", "_backward_hooks")
    return {
        "hooks": [len(getattr(module, kind)) for module in net.modules() for kind in hooks],
        "modes": [module.training for module in net.modules()],
        "weights": [value.tolist() for value in net.state_dict().values()],
        "gradients": torch.is_grad_enabled(),
        "function modes": len(_get_current_function_mode_stack()),
    }


def taps_and_runs(net, x):
    layers = strided_layers(fragile(pass_through), x)
    with tap(net, layers):
        net(x)


def taps_modules_only(net, x):
    layers = [layer for layer in strided_layers(fragile(pass_through), x) if not layer.function]
    with tap(net, layers):
        net(x)


def evaluates(net, x):
    with evaluating(net):
        net(x)


PUBLIC = [strided_layers, trace, evaluates, fuse_batch_norm, taps_and_runs, taps_modules_only]


@pytest.mark.parametrize("function", PUBLIC)
@pytest.mark.parametrize("raises", [False, True], ids=["succeeds", "raises"])
def test_everything_is_put_back(function, raises):
    net = fragile(raise_midway if raises else pass_through)
    if function in (taps_and_runs, taps_modules_only):
        net.eval()  # a tap runs in the user's mode, and batch-norm learns in train mode
        net.norm.train()
        net.norm.track_running_stats = False
    before = state(net)
    assert set(before["modes"]) == {True, False}
    if raises:
        with pytest.raises(Midway):
            function(net, image(16))
    else:
        function(net, image(16))
    assert state(net) == before


@contextmanager
def leftover(net):
    handle = net.conv.register_forward_hook(lambda *_: None)
    yield
    handle.remove()


@contextmanager
def other_mode(net):
    net.norm.train()
    yield
    net.norm.eval()


@contextmanager
def other_weights(net):
    net.norm.running_mean.add_(1)
    yield


@pytest.mark.parametrize(
    "spoil",
    [
        leftover,
        other_mode,
        other_weights,
        lambda _: torch.no_grad(),
        lambda _: BaseTorchFunctionMode(),
    ],
)
def test_the_check_for_leftovers_can_fail(spoil):
    net = fragile(pass_through)
    before = state(net)
    with spoil(net):
        assert state(net) != before


@pytest.mark.parametrize("function", [strided_layers, trace, fuse_batch_norm])
@pytest.mark.parametrize("raises", [False, True], ids=["succeeds", "raises"])
def test_random_state_is_put_back(function, raises):
    net = fragile(raise_midway if raises else pass_through)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    if raises:
        with pytest.raises(Midway):
            function(net, image(16))
    else:
        function(net, image(16))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("error", [Midway, KeyboardInterrupt])
@pytest.mark.parametrize("bare", [False, True], ids=["modules", "calls"])
def test_a_forward_that_raised_can_be_retried(error, bare):
    failures = iter([error])

    def fail_once(net, x):
        for failure in failures:
            raise failure

    net = fragile(fail_once).eval()
    with torch.random.fork_rng(), evaluating(net):
        layers = strided_layers(fragile(pass_through), image(16))
        layers = layers if bare else [layer for layer in layers if not layer.function]
        with tap(net, layers) as tapped:
            with pytest.raises(error):
                net(image(16))
            net(image(16).flip(2))
    assert list(tapped.inputs) == [layer.name for layer in layers]
    assert torch.equal(tapped.inputs["conv"], image(16).flip(2))


def test_a_hook_that_raises_before_a_module_starts():
    def refuse(module, args):
        raise Midway

    net = nn.Sequential(nn.MaxPool2d(2), nn.Sequential(nn.MaxPool2d(2)))
    layers = strided_layers(net, image(16))
    handle = net[1][0].register_forward_pre_hook(refuse)
    with tap(net, layers) as tapped:
        with pytest.raises(Midway):
            net(image(16))
        handle.remove()
        net(image(16))
    assert list(tapped.inputs) == ["0", "1.0"]


def test_a_module_that_raises_and_is_caught_has_ended():
    def forward(net, x):
        with suppress(Midway):
            net.trap(x)
        return F.max_pool2d(x, 2)

    net = Net(forward, trap=nn.Sequential(Net(raise_midway)))
    assert [layer.name for layer in strided_layers(net, image(16))] == ["max_pool2d"]


def test_a_read_that_raises_leaves_nothing_behind():
    def refuse(layer, x):
        raise Midway

    net = fragile(pass_through)
    before = state(net)
    for layer in strided_layers(net, image(16)):
        with pytest.raises(Midway), tap(net, [layer], read=refuse), evaluating(net):
            net(image(16))
        assert state(net) == before


def test_evaluating_sets_and_restores_each_mode():
    net = fragile(pass_through)
    before = [module.training for module in net.modules()]
    with evaluating(net):
        assert not any(module.training for module in net.modules())
        assert not torch.is_grad_enabled()
    assert [module.training for module in net.modules()] == before
    assert torch.is_grad_enabled()


def test_evaluating_restores_after_an_eval_that_raises():
    class Stubborn(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)
            raise Midway

    net = Stubborn(nn.ReLU())
    with pytest.raises(Midway), evaluating(net):
        pass
    assert [module.training for module in net.modules()] == [True, True]
