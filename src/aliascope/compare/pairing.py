"""Which layers of two networks lie at one place, and whether their operations read the same map."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from aliascope.errors import RunError
from aliascope.records import StridedLayer

_READS_WHAT_IS_DECIMATED = frozenset(
    {"blur_pool", "max_blur_pool", "slice", "interpolate", "avg_pool", "patch_embed"}
)


def pair_layers(
    model_a: str,
    layers_a: Sequence[StridedLayer],
    model_b: str,
    layers_b: Sequence[StridedLayer],
    layer_map: Mapping[str, str] | None = None,
) -> list[tuple[str, str]]:
    """Names of the layers to compare, in A's order of execution.

    Layers at one place are partners, in order of execution: of one cumulative stride, both on a
    shortcut or neither, and of one output size; then those that agree but for the size, then those
    that agree but for the shortcut. Where a
    place holds more layers in one model than in the other they have no partners. Where one model
    alone begins by resizing the picture, strides are counted from there. Models without any
    place in common are paired by order alone, if they have as many layers.

    Args:
        model_a: What to call the first in errors.
        layers_a: Of it.
        model_b: What to call the second.
        layers_b: Of it.
        layer_map: Names in A -> names in B, in place of all that.

    Raises:
        RunError: they cannot be paired.

    >>> from aliascope import antialias, strided_layers
    >>> from torch import nn, zeros
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3, padding=1), nn.MaxPool2d(2))
    >>> before, after = (strided_layers(m, zeros(1, 3, 32, 32)) for m in (net, antialias(net)))
    >>> pair_layers("plain", before, "blurred", after)
    [('0', '0'), ('2', '2.1')]
    """
    if layer_map:
        return _mapped(model_a, layers_a, model_b, layers_b, layer_map)
    names_a, names_b = ([layer.name for layer in layers] for layers in (layers_a, layers_b))
    if _resizes_the_picture(layers_a) != _resizes_the_picture(layers_b):
        layers_a, layers_b = (_behind_a_resize(layers) for layers in (layers_a, layers_b))
    partners: dict[str, str] = {}
    for place in (
        _place,
        lambda layer: _place(layer)[:2],
        lambda layer: _place(layer)[::2],
    ):
        taken = {*partners.values()}
        here = _by(place, [layer for layer in layers_a if layer.name not in partners])
        there = _by(place, [layer for layer in layers_b if layer.name not in taken])
        for key in here:
            if len(here[key]) == len(there[key]):
                partners |= zip(here[key], there[key], strict=True)
    if not partners and len(names_a) == len(names_b):
        return list(zip(names_a, names_b, strict=True))
    if not partners:
        raise RunError(
            f"{model_a} has {len(names_a)} downsampling layers ({', '.join(names_a)}), {model_b} "
            f"has {len(names_b)} ({', '.join(names_b)}): pair them with a layer map (--map A=B) or "
            "measure both with --ops conv"
        )
    return [(name, partners[name]) for name in names_a if name in partners]


def _place(layer: StridedLayer) -> tuple[Any, ...]:
    return layer.cumulative_stride, layer.shortcut, layer.output_shape[1:]


def _resizes_the_picture(layers: Sequence[StridedLayer]) -> bool:
    first = layers[:1]
    return any(x.kind == "interpolate" and x.stride == x.cumulative_stride for x in first)


def _behind_a_resize(layers: Sequence[StridedLayer]) -> Sequence[StridedLayer]:
    """Without a resize of the picture itself, with strides as if there had been none."""
    if not _resizes_the_picture(layers):
        return layers
    rows, columns = layers[0].stride
    strides = [(x.cumulative_stride[0] / rows, x.cumulative_stride[1] / columns) for x in layers]
    return [
        replace(layer, cumulative_stride=(round(down, 6), round(right, 6)))
        for layer, (down, right) in zip(layers[1:], strides[1:], strict=True)
    ]


def _by(
    place: Callable[[StridedLayer], tuple[Any, ...]], layers: list[StridedLayer]
) -> dict[tuple[Any, ...], list[str]]:
    names = defaultdict(list)
    for layer in layers:
        names[place(layer)].append(layer.name)
    return names


def _mapped(
    model_a: str,
    layers_a: Sequence[StridedLayer],
    model_b: str,
    layers_b: Sequence[StridedLayer],
    layer_map: Mapping[str, str],
) -> list[tuple[str, str]]:
    for model, layers, wanted in (
        (model_a, layers_a, layer_map),
        (model_b, layers_b, layer_map.values()),
    ):
        names = [layer.name for layer in layers]
        for name in wanted:
            if name not in names:
                nearest = get_close_matches(name, names, n=1, cutoff=0)
                hint = f", the nearest name is {nearest[0]}" if nearest else ""
                raise RunError(f"no layer {name} was measured of {model}{hint}")
    return [(layer.name, layer_map[layer.name]) for layer in layers_a if layer.name in layer_map]


def reads_alike(a: StridedLayer, b: StridedLayer) -> bool:
    """Whether two partners read maps at the same place, so that their AVRs can be compared.

    What has taps of its own (a convolution, a max-pool) reads the map before these; what comes
    behind a dense operation the map that is decimated.

    >>> from aliascope import antialias, strided_layers
    >>> from torch import nn, zeros
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.MaxPool2d(2), nn.Conv2d(8, 8, 1, 2))
    >>> before, after = (strided_layers(m, zeros(1, 3, 32, 32)) for m in (net, antialias(net)))
    >>> [reads_alike(a, b) for a, b in zip(before, after)]
    [False, True]
    """
    here, there = (
        (_reads_what_is_decimated(layer), layer.shortcut, layer.input_shape) for layer in (a, b)
    )
    return here == there


def _reads_what_is_decimated(layer: StridedLayer) -> bool:
    pointwise = layer.kind == "conv" and layer.kernel == (1, 1)
    return pointwise or layer.kind in _READS_WHAT_IS_DECIMATED
