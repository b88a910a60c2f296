"""Swap a model's strided operations for anti-aliased ones and keep its weights."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aliascope.errors import ModelError
from aliascope.layers import BlurPool
from aliascope.records import StridedLayer
from aliascope.taps import Trace, trace

METHODS = ("blurpool",)


def antialias(
    model: nn.Module,
    method: str = "blurpool",
    *,
    size: int = 3,
    example: Float[Tensor, "batch chan height width"] | None = None,
) -> nn.Module:
    """A copy of a model whose strided convolutions run at stride 1 and are then blurred.

    conv at stride 1 → batch-norm → activation → BlurPool, centred on the phase that the strided
    convolution sampled. The op that reads the image (the stem) is kept as it is. The new layers
    hold no parameters, so `state_dict` is the original's.

    Args:
        model: left untouched.
        method: "blurpool".
        size: taps of the filter, 1 to 7.
        example: a batch to follow through the model; one 3 × 224 × 224 image by default. Its size
            decides the phases.

    Raises:
        ModelError: an unknown method or size, or anything that samples and cannot be converted:
            a model is never converted by half.

    Source: Zhang 2019 (arXiv 1904.11486), section 3.2.

    >>> net = nn.Sequential(
    ...     nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(),
    ...     nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
    ... )
    >>> antialias(net)[4][1]
    BlurPool(8, stride=2, size=3, padding='reflect', phase=0)
    """
    if method not in METHODS:
        raise ModelError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    if not 1 <= size <= 7:
        raise ModelError(f"{method} takes 1 to 7 taps, got {size}")
    converted = copy.deepcopy(model)
    recorded = trace(converted, torch.zeros(1, 3, 224, 224) if example is None else example)
    layers = [
        layer for layer in recorded.strided_layers() if layer.stride != layer.cumulative_stride
    ]
    for layer in layers:
        conv = _strided_conv(converted, layer)
        activation = _activation_after(recorded, layer)
        blur = BlurPool(
            layer.output_shape[0], conv.stride[0], size=size, phase=_phase(conv, layer.input_shape)
        )
        conv.stride = (1, 1)
        after = nn.Sequential(converted.get_submodule(activation), blur)
        converted.set_submodule(activation, after)
    return converted


def _strided_conv(model: nn.Module, layer: StridedLayer) -> Any:
    module = model.get_submodule(layer.name) if layer.function is None else None
    if isinstance(module, nn.Conv2d) and layer.kernel != (1, 1) and len(set(layer.stride)) == 1:
        return module
    raise _unconvertible(layer)


def _activation_after(recorded: Trace, layer: StridedLayer) -> str:
    """Name of the module that activates the layer's output, batch-norm in between."""
    at = next(i for i, call in enumerate(recorded.calls) if call.module == layer.name)
    calls = [call for _, call in zip(range(3), _only_readers(recorded, at), strict=False)]
    functions = [call.function for call in calls]
    if functions[:2] != ["conv2d", "batch_norm"] or len(calls) < 3:
        raise _unconvertible(layer)
    activation = calls[2].module
    if recorded.counts[activation] != 1 or calls[2].function in ("conv2d", "add"):
        raise _unconvertible(layer)
    return activation


def _only_readers(recorded: Trace, at: int) -> Iterator[Any]:
    """A call, the one that alone reads its output, and so on along the chain."""
    while True:
        if not recorded.calls[at].function.endswith("pad"):
            yield recorded.calls[at]
        readers = [i for i, call in enumerate(recorded.calls) if at in call.parents]
        if len(readers) != 1:
            return
        (at,) = readers


def _phase(conv: Any, input_shape: tuple[int, int, int]) -> int:
    """Which sample of each cell of its stride-1 response the convolution takes.

    A module that pads its input itself ("same" as in TensorFlow) puts ⌊p/2⌋ of the p samples of
    padding first, so that an even map is sampled at odd places.
    """
    (kernel, *_), (stride, *_), side = conv.kernel_size, conv.stride, input_shape[1]
    dense_first = (kernel - 1) // 2
    if type(conv).forward is nn.Conv2d.forward:
        return (dense_first - conv.padding[0]) % stride
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return (dense_first - total // 2) % stride


def _unconvertible(layer: StridedLayer) -> ModelError:
    return ModelError(
        f"cannot anti-alias {layer.name} ({layer.kind}): only square strided convolutions with a "
        "batch-norm and an activation of their own can be converted; measure the model as it is"
    )
