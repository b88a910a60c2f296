"""The records that travel along the data flow. Plain data; they know nothing of what makes them."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, NamedTuple

from jaxtyping import Float, UInt8
from torch import Tensor

Report = Callable[..., None]
"""Takes how much is done, of how much where that is known, and, where it is known, what is waited
for: decoding, forward or step."""

Progress = Callable[[str], AbstractContextManager[Report]]
"""Called with a title; its context yields a `Report`."""

Kind = Literal[
    "conv",
    "patch_embed",
    "blur_pool",
    "max_blur_pool",
    "lp_pool",
    "max_pool",
    "avg_pool",
    "slice",
    "interpolate",
]


class Image(NamedTuple):
    """One decoded picture."""

    id: str
    """Path relative to the source's root, or the data set's index."""
    pixels: UInt8[Tensor, "chan height width"] | Float[Tensor, "chan height width"]
    """RGB: uint8, or float in [0, 1] where the file is deeper."""
    label: int | None
    """Index of the class, where the source knows it."""
    group: str
    """The photograph it was cut from, or the id itself; intervals resample groups."""
    note: str
    """What had to be converted to get RGB ("greyscale", "CMYK", "first of 7 frames"), or ""."""


@dataclass(frozen=True)
class StridedLayer:
    """One operation that really downsamples, seen while the model ran an example."""

    name: str
    """The module's dotted name; `module.function` for a bare call; `#2` marks a second call."""
    kind: Kind
    kernel: tuple[int, int]
    """Rows, columns; (1, 1) where the op has none."""
    stride: tuple[float, float]
    """Rows, columns: input samples per output sample; whole numbers except for resampling."""
    input_shape: tuple[int, int, int]
    """Channels, rows, columns of what the op reads."""
    output_shape: tuple[int, int, int]
    cumulative_stride: tuple[float, float]
    """Image pixels per output sample."""
    order: int
    """Position in the order of execution, from 0."""
    shortcut: bool
    """Whether it lies on the short branch of a residual sum."""
    function: str | None = None
    """The function's name where the op is a bare call inside a larger module; None for a module."""
