"""Which calls of torch functions change the sampling grid, and by how much."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Tensor

from aliascope.records import Kind

Scale = tuple[float, float]


class Sampling(NamedTuple):
    """One call that changes the sampling grid."""

    kind: Kind
    kernel: tuple[int, int]
    stride: Scale
    """Input samples per output sample, rows and columns; below 1 it upsamples."""
    input: Tensor


def sampling_of(function: str, args: tuple, kwargs: dict, output: Any) -> Sampling | None:
    """What a finished call did to the sampling grid; None where it kept it."""
    reader = _SAMPLERS.get(function)
    y = next(tensors_in(output), None) if reader else None
    x = next(tensors_in((args, kwargs)), None) if reader else None
    if reader is None or x is None or y is None or x.ndim != 4 or y.ndim != 4:
        return None
    return reader(x, y, args, kwargs)


def _conv(x: Tensor, y: Tensor, args: tuple, kwargs: dict) -> Sampling | None:
    del y
    weight = _argument(args, kwargs, 1, "weight", None)
    stride = _pair(_argument(args, kwargs, 3, "stride", 1))
    if stride == (1, 1):
        return None
    return Sampling("blur_pool" if _is_blur(weight) else "conv", tuple(weight.shape[2:]), stride, x)


def _is_blur(weight: Tensor) -> bool:
    """One low-pass filter for every channel: depthwise, all alike, gain 1."""
    if weight.shape[1] != 1 or weight[0].numel() == 1 or weight.shape[0] == 1:
        return False
    alike = bool((weight == weight[:1]).all())
    return alike and abs(float(weight[0].detach().sum()) - 1) < 1e-2


def _pool(kind: Kind) -> Callable[[Tensor, Tensor, tuple, dict], Sampling | None]:
    def pool(x: Tensor, y: Tensor, args: tuple, kwargs: dict) -> Sampling | None:
        kernel = _pair(_argument(args, kwargs, 1, "kernel_size", 1))
        stride = _argument(args, kwargs, 2, "stride", None)
        stride = _pair(stride) if stride is not None and stride != [] else kernel
        if stride == (1, 1) or _is_global(x, y, kernel):
            return None
        return Sampling(kind, kernel, stride, x)

    return pool


def _is_global(x: Tensor, y: Tensor, kernel: tuple[int, int]) -> bool:
    return y.shape[2:] == (1, 1) and kernel[0] >= x.shape[2] and kernel[1] >= x.shape[3]


def _resized(kind: Kind) -> Callable[[Tensor, Tensor, tuple, dict], Sampling | None]:
    """Grids whose stride only shows in the shapes: adaptive pools, resizing, transposed convs."""

    def resized(x: Tensor, y: Tensor, args: tuple, kwargs: dict) -> Sampling | None:
        del args, kwargs
        if y.shape[2:] == x.shape[2:] or y.shape[2:] == (1, 1):
            return None
        return Sampling(kind, (1, 1), (x.shape[2] / y.shape[2], x.shape[3] / y.shape[3]), x)

    return resized


def _slice(x: Tensor, y: Tensor, args: tuple, kwargs: dict) -> Sampling | None:
    del y, kwargs
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    if index.count(Ellipsis) == 1:
        at = index.index(Ellipsis)
        fill = (slice(None),) * (x.ndim - len(index) + 1)
        index = index[:at] + fill + index[at + 1 :]
    if not all(isinstance(i, slice) for i in index):
        return None
    step = [i.step or 1 for i in index] + [1] * (x.ndim - len(index))
    if step[2:] != [1, 1] and step[1] == 1 and step[3] >= 1:
        return Sampling("slice", (1, 1), (step[2], step[3]), x)
    if step[1] > 1 and step[3] == 1:  # channels last, as in token grids
        return Sampling("slice", (1, 1), (step[1], step[2]), x.permute(0, 3, 1, 2))
    return None


_SAMPLERS: dict[str, Callable[[Tensor, Tensor, tuple, dict], Sampling | None]] = {
    "conv2d": _conv,
    "max_pool2d": _pool("max_pool"),
    "max_pool2d_with_indices": _pool("max_pool"),
    "avg_pool2d": _pool("avg_pool"),
    "adaptive_avg_pool2d": _resized("avg_pool"),
    "adaptive_max_pool2d": _resized("max_pool"),
    "adaptive_max_pool2d_with_indices": _resized("max_pool"),
    "interpolate": _resized("interpolate"),
    "conv_transpose2d": _resized("interpolate"),
    "pixel_shuffle": _resized("interpolate"),
    "pixel_unshuffle": _resized("slice"),
    "__getitem__": _slice,
}


def _argument(args: tuple, kwargs: dict, position: int, name: str, default: Any) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (int(value[0]), int(value[-1]))


def tensors_in(nested: Any) -> Iterator[Tensor]:
    """The tensors in nested lists, tuples and dicts, in order."""
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, list | tuple):
        for item in nested:
            yield from tensors_in(item)
    elif isinstance(nested, dict):
        yield from tensors_in(list(nested.values()))
