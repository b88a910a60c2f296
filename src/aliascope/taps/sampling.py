"""Which calls of torch functions change the sampling grid, and by how much."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aliascope.records import Kind
from aliascope.taps.sizes import Scale

MERGES = frozenset({"flatten", "reshape", "view"})
"""Functions that may put the phases of a map side by side, as channels."""


class Sampling(NamedTuple):
    """One call that changes the sampling grid."""

    kind: Kind
    kernel: tuple[int, int]
    stride: Scale
    """Input samples per output sample, rows and columns; below 1 it upsamples."""
    input: Tensor
    """What is sampled, as (B, C, H, W)."""
    output_shape: tuple[int, int, int]
    """Channels, rows, columns."""
    channels_last: bool = False
    """Whether the call itself reads (B, H, W, C)."""
    folds: bool = False
    """Whether every sample is kept, as a channel: another grid, and no decimation."""


def sampling_of(function: str, args: tuple, kwargs: dict, output: Any) -> Sampling | None:
    """What a finished call did to the sampling grid; None where it kept it."""
    reader = _SAMPLERS.get(function)
    y = next(tensors_in(output), None) if reader else None
    x = _argument(args, kwargs, 0, "input", None) if reader else None
    if reader is None or x is None or y is None:
        return None
    merges = function in MERGES
    if x.ndim != (6 if merges else 4) or y.ndim != (3 if function == "unfold" else 4):
        return None
    return reader(x, y, args, kwargs)


def at_stride_one(
    func: Callable, function: str, args: tuple, kwargs: dict, stride: Scale
) -> tuple[Callable, tuple, dict] | None:
    """A call that samples, without its sampling: function and arguments; None if there is none."""
    if function == "interpolate":
        return _first, args, kwargs
    if function.startswith("adaptive_"):
        whole = (int(stride[0]), int(stride[1]))
        pool = F.max_pool2d if "max" in function else F.avg_pool2d
        return pool, (args[0], whole, 1), {}
    place = {"conv2d": 3, "max_pool2d": 2, "avg_pool2d": 2, "lp_pool2d": 3}.get(function)
    if place is None:
        return None
    if len(args) > place:
        return func, (*args[:place], 1, *args[place + 1 :]), kwargs
    return func, args, kwargs | {"stride": 1}


def slice_phase(function: str, args: tuple) -> tuple[int, int] | None:
    """Row and column of the first sample that a slice takes; None if that cannot be told."""
    if function != "__getitem__":
        return (0, 0) if function == "pixel_unshuffle" or function in MERGES else None
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    starts = [item.start or 0 for item in index if isinstance(item, slice) and item.step]
    return (starts[0], starts[1]) if len(starts) == 2 and min(starts) >= 0 else None


def _first(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def _conv(x: Tensor, y: Tensor, args: tuple, kwargs: dict) -> Sampling | None:
    weight = _argument(args, kwargs, 1, "weight", None)
    stride = pair(_argument(args, kwargs, 3, "stride", 1))
    if stride == (1, 1):
        return None
    kind: Kind = "blur_pool" if _is_blur(weight) else "conv"
    return Sampling(kind, tuple(weight.shape[2:]), stride, x, _image_shape(y))


def _convolution(x: Tensor, y: Tensor, args: tuple, kwargs: dict) -> Sampling | None:
    """`torch.convolution`, which is both."""
    transposed = _argument(args, kwargs, 6, "transposed", False)
    return (_transposed_conv if transposed else _conv)(x, y, args, kwargs)


def _deformed_conv(x: Tensor, y: Tensor, args: tuple, kwargs: dict) -> Sampling | None:
    """Torchvision's operator: the weight comes second, each number of a pair on its own."""
    del kwargs
    _, weight, _, _, _, rows, columns, *_ = args
    if (rows, columns) == (1, 1):
        return None
    return Sampling("conv", tuple(weight.shape[2:]), (rows, columns), x, _image_shape(y))


def _unfold(x: Tensor, y: Tensor, args: tuple, kwargs: dict) -> Sampling | None:
    """Patches as columns: a shifted slice for each of their samples, or a mere fold."""
    names = ("kernel_size", "dilation", "padding", "stride")
    values = (_argument(args, kwargs, 1 + i, name, int(i != 1)) for i, name in enumerate(names))
    kernel, dilation, padding, stride = map(pair, values)
    rows, columns = (
        (side + 2 * pad - spread * (taps - 1) - 1) // step + 1
        for side, pad, spread, taps, step in zip(
            x.shape[2:], padding, dilation, kernel, stride, strict=True
        )
    )
    shape = y.shape[1], rows, columns
    return Sampling(
        "slice", kernel, stride, x, shape, folds=kernel == stride and dilation == (1, 1)
    )


def _transposed_conv(x: Tensor, y: Tensor, args: tuple, kwargs: dict) -> Sampling | None:
    rows, columns = pair(_argument(args, kwargs, 3, "stride", 1))
    return Sampling("interpolate", (1, 1), (1 / rows, 1 / columns), x, _image_shape(y))


def _is_blur(weight: Tensor) -> bool:
    """One low-pass filter for every channel: depthwise, all alike, gain 1."""
    if weight.shape[1] != 1 or weight[0].numel() == 1 or weight.shape[0] == 1:
        return False
    alike = bool((weight == weight[:1]).all())
    return alike and abs(float(weight[0].detach().sum()) - 1) < 1e-2


def _pool(kind: Kind, at: int = 1) -> Callable[[Tensor, Tensor, tuple, dict], Sampling | None]:
    """Pools whose kernel and stride are the arguments from a place on."""

    def pool(x: Tensor, y: Tensor, args: tuple, kwargs: dict) -> Sampling | None:
        kernel = pair(_argument(args, kwargs, at, "kernel_size", 1))
        stride = _argument(args, kwargs, at + 1, "stride", None)
        stride = pair(stride) if stride is not None and stride != [] else kernel
        if stride == (1, 1) or _is_global(x, y, kernel):
            return None
        return Sampling(kind, kernel, stride, x, _image_shape(y))

    return pool


def _is_global(x: Tensor, y: Tensor, kernel: tuple[int, int]) -> bool:
    return y.shape[2:] == (1, 1) and kernel[0] >= x.shape[2] and kernel[1] >= x.shape[3]


def _resized(kind: Kind) -> Callable[[Tensor, Tensor, tuple, dict], Sampling | None]:
    """Grids whose stride only shows in the shapes: adaptive pools, resizing, pixel shuffling."""

    def resized(x: Tensor, y: Tensor, args: tuple, kwargs: dict) -> Sampling | None:
        del args, kwargs
        # A single value along an axis stands for all of it: a mean or a constant, not a sample.
        rows, columns = (
            1 if 1 in (read, made) else read / made
            for read, made in zip(x.shape[2:], y.shape[2:], strict=True)
        )
        if rows == columns == 1:
            return None
        return Sampling(kind, (1, 1), (rows, columns), x, _image_shape(y))

    return resized


def _interpolated(x: Tensor, y: Tensor, args: tuple, kwargs: dict) -> Sampling | None:
    """A resize; one with antialiasing reads as many samples as its filter is wide."""
    found = _resized("interpolate")(x, y, args, kwargs)
    if not (found and _argument(args, kwargs, 6, "antialias", False)):
        return found
    wide = {"bilinear": 2, "bicubic": 4}[_argument(args, kwargs, 3, "mode", "")]
    rows, columns = (math.ceil(wide * max(step, 1)) for step in found.stride)
    return found._replace(kernel=(rows, columns))


def _warped(x: Tensor, y: Tensor, args: tuple, kwargs: dict) -> Sampling | None:
    """Samples at given places: a coarser map, if there are fewer along neither axis alone."""
    found = _resized("interpolate")(x, y, args, kwargs)
    return found if found and min(found.stride) >= 1 else None


def _selected(x: Tensor, y: Tensor, args: tuple, kwargs: dict) -> Sampling | None:
    """`index_select` is a slice where the index has a constant step."""
    axis = _argument(args, kwargs, 1, "dim", 0) % 4
    index = _argument(args, kwargs, 2, "index", None)
    return _slice(x, y, (x, (*(slice(None),) * axis, index)), {})


def _stepped(item: Any) -> Any:
    """An index of whole numbers in constant steps, as a slice."""
    if not _is_array(item):
        return item
    index = torch.as_tensor(item)
    steps = set(index.diff().tolist()) if index.ndim == 1 and index.dtype == torch.long else ()
    return slice(int(index[0]), None, steps.pop()) if len(steps) == 1 and min(steps) > 0 else item


def _is_array(item: Any) -> bool:
    return isinstance(item, Tensor | list | range | np.ndarray)


def _slice(x: Tensor, y: Tensor, args: tuple, kwargs: dict) -> Sampling | None:
    del kwargs
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    # By identity: an array in the index would compare itself element by element.
    at = next((i for i, item in enumerate(index) if item is Ellipsis), len(index))
    rest = index[at + 1 :]
    index = (*index[:at], *(slice(None),) * (x.ndim - at - len(rest)), *rest)
    index = tuple(map(_stepped, index)) if sum(map(_is_array, index)) == 1 else index
    if not all(isinstance(item, slice) for item in index):
        return None
    match [item.step or 1 for item in index[1:]]:
        case [1, rows, columns] if (rows, columns) != (1, 1):
            return Sampling("slice", (1, 1), (rows, columns), x, _image_shape(y))
        case [rows, columns, 1] if rows > 1 and columns > 1:  # channels last, as in token grids
            x, y = x.permute(0, 3, 1, 2), y.permute(0, 3, 1, 2)
            return Sampling("slice", (1, 1), (rows, columns), x, _image_shape(y), True)
    return None


def _merged(x: Tensor, y: Tensor, args: tuple, kwargs: dict) -> Sampling | None:
    """Space to depth, channels last: of (B, h, w, phases, phases, C) the last three as one.

    That these are phases, the rows' first or the columns', shows in how the map lies in memory.
    """
    del args, kwargs
    batch, rows, columns, *phases, channels = x.shape
    if y.shape != (batch, rows, columns, phases[0] * phases[1] * channels):
        return None
    for row, column in ((3, 4), (4, 3)):
        strides = x.shape[row], x.shape[column]
        within = strides[0] * x.stride(row), strides[1] * x.stride(column)
        if max(strides) > 1 and (x.stride(1), x.stride(2)) == within:
            image = x.permute(0, 5, 1, row, 2, column).flatten(4, 5).flatten(2, 3)
            return Sampling("slice", (1, 1), strides, image, (y.shape[3], rows, columns), True)
    return None


_SAMPLERS: dict[str, Callable[[Tensor, Tensor, tuple, dict], Sampling | None]] = {
    "conv2d": _conv,
    "convolution": _convolution,
    "deform_conv2d": _deformed_conv,
    "max_pool2d": _pool("max_pool"),
    "max_pool2d_with_indices": _pool("max_pool"),
    "avg_pool2d": _pool("avg_pool"),
    "lp_pool2d": _pool("lp_pool", at=2),
    "adaptive_avg_pool2d": _resized("avg_pool"),
    "adaptive_max_pool2d": _resized("max_pool"),
    "adaptive_max_pool2d_with_indices": _resized("max_pool"),
    "fractional_max_pool2d": _resized("max_pool"),
    "fractional_max_pool2d_with_indices": _resized("max_pool"),
    "interpolate": _interpolated,
    "grid_sample": _warped,
    "conv_transpose2d": _transposed_conv,
    "pixel_shuffle": _resized("interpolate"),
    "pixel_unshuffle": _resized("slice"),
    "unfold": _unfold,
    "index_select": _selected,
    "__getitem__": _slice,
    **dict.fromkeys(MERGES, _merged),
}


def _argument(args: tuple, kwargs: dict, position: int, name: str, default: Any) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)


def pair(value: Any) -> tuple[int, int]:
    """Rows and columns, where one number stands for both.

    >>> pair(3), pair((3, 2))
    ((3, 3), (3, 2))
    """
    if isinstance(value, int):
        return value, value
    return (int(value[0]), int(value[-1]))


def _image_shape(x: Tensor) -> tuple[int, int, int]:
    _, channels, height, width = x.shape
    return channels, height, width


def tensors_in(nested: Any) -> Iterator[Tensor]:
    """The tensors in nested lists, tuples and dicts, in order."""
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, list | tuple):
        for item in nested:
            yield from tensors_in(item)
    elif isinstance(nested, dict):
        yield from tensors_in(list(nested.values()))
