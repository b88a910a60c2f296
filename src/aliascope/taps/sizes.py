"""What the shapes of maps tell of the sampling grid that they lie on."""

from typing import NamedTuple

from torch import Tensor

Scale = tuple[int | float, int | float]
Sides = tuple[int, int]

_ON_MAPS = frozenset(
    {"conv2d", "conv_transpose2d", "convolution", "deform_conv2d", "batch_norm", "instance_norm"}
    | {"max_pool2d", "max_pool2d_with_indices", "avg_pool2d", "lp_pool2d"}
    | {"adaptive_avg_pool2d", "adaptive_max_pool2d", "adaptive_max_pool2d_with_indices"}
    | {"interpolate", "pixel_shuffle", "pixel_unshuffle", "grid_sample", "group_norm"}
)
"""Functions of (B, C, H, W) alone: their rows and columns are certain."""
_ON_TOKENS = frozenset({"layer_norm", "rms_norm"})
"""Functions of (B, N, C) and (B, H, W, C)."""
_AT_BORDERS = frozenset({"pad", "_pad", "constant_pad_nd", "roi_align", "roi_pool"})
"""Functions that move the borders of a map, and leave its grid; crops are seen by their memory."""
ON_THE_FIRST = _ON_MAPS | _ON_TOKENS | _AT_BORDERS
"""Functions whose first map gives the grid."""
_ALIKE = 1.5
"""Sides that differ by less differ by their borders."""


class Grid(NamedTuple):
    """Where the samples of a map lie."""

    scale: Scale
    """Image pixels per sample, rows and columns."""
    sides: Sides
    """Rows and columns; an axis of one value, a mean say, stands for all that it was made from."""
    coarsest: Scale
    """The largest scale of the maps that it was made from."""

    def sampled(self, stride: Scale, sides: Sides | None) -> "Grid":
        """Of every s-th sample of it, whose rows and columns may be known."""
        scale = _product(self.scale, stride)
        rows, columns = (-int(-side // step) for side, step in zip(self.sides, stride, strict=True))
        sides = sides or (rows, columns)
        kept = zip(self.sides, sides, stride, strict=True)
        rows, columns = (old if new == step == 1 else new for old, new, step in kept)
        return Grid(scale, (rows, columns), _larger(self.coarsest, scale))

    def bordered(self, sides: Sides) -> "Grid":
        """With other borders."""
        return self.sampled((1, 1), sides)

    def corrected(self, sides: Sides) -> "Grid":
        """Of a map that turns out to have such sides, whatever was seen of how it came about.

        >>> Grid((2, 2), (32, 32), (2, 2)).corrected((16, 33)).scale
        (4, 2)
        """
        rows, columns = map(_stride, self.sides, sides)
        return self.sampled((rows, columns), sides)

    def coarser_than(self, other: "Grid") -> bool:
        """Whether it is coarser than anything the other was made from."""
        return any(own > 1.25 * seen for own, seen in zip(self.scale, other.coarsest, strict=True))


def read_sides(function: str, x: Tensor, args: tuple, grid: Grid, images: int) -> Sides | None:
    """Rows and columns of a map that a function reads; None where they cannot be told.

    Args:
        function: its name.
        x: what it reads.
        args: all its positional arguments.
        grid: of x, as far as is known.
        images: in the batch.
    """
    if function in _ON_MAPS and x.ndim == 4:
        return map_sides(x, grid, images)
    channels_last = function in _ON_TOKENS and len(args) > 1 and len(args[1]) == 1
    if channels_last and x.ndim == 4 and len(x) <= images:
        return _like(grid, (x.shape[1], x.shape[2]))
    if channels_last and x.ndim == 3:
        # Tokens of classes and registers come on top, and none is on a finer grid than its map.
        ratio = grid.sides[0] * grid.sides[1] * images / (len(x) * x.shape[1])
        step = round(ratio**0.5) if ratio >= 2 and len(x) * x.shape[1] > images else 1
        return -(-grid.sides[0] // step), -(-grid.sides[1] // step)
    return None


def map_sides(x: Tensor, grid: Grid, images: int) -> Sides | None:
    """Rows and columns of (B, C, H, W); where its windows lie in the batch, of all together."""
    own, known = x.shape[2] * x.shape[3], grid.sides[0] * grid.sides[1]
    if len(x) <= images or own == known:
        return x.shape[2], x.shape[3]
    finer = round((len(x) * own / (images * max(known, 1))) ** 0.5)
    return (grid.sides[0] * finer, grid.sides[1] * finer) if finer > 1 else None


def made_sides(function: str, x: Tensor, y: Tensor, grid: Grid, images: int) -> Sides | None:
    """Rows and columns of a map that a function made on the grid of what it read."""
    if x.ndim != 4 or y.ndim != 4 or len(x) > images:
        return None
    if function in _ON_MAPS:
        return y.shape[2], y.shape[3]
    if function in _AT_BORDERS or y.stride() == x.stride():
        for rows, columns in ((2, 3), (1, 2)):
            sides = zip((x.shape[rows], x.shape[columns]), grid.sides, strict=True)
            if all(side in (known, 1) for side, known in sides):
                return y.shape[rows], y.shape[columns]
    return None


def returned_sides(y: Tensor, grid: Grid, images: int) -> Sides | None:
    """Rows and columns of a map that the model returns, channels first or last, if others."""
    if y.ndim != 4 or len(y) > images:
        return None
    first, last = ((y.shape[i], y.shape[i + 1]) for i in (2, 1))
    if any(grid.corrected(sides).scale == grid.scale for sides in (first, last)):
        return None
    return _like(grid, first) or _like(grid, last)


def _like(grid: Grid, sides: Sides) -> Sides | None:
    """Sides of a map, if they have its proportions: heads × tokens and others have not."""
    rows, columns = (old / new for old, new in zip(grid.sides, sides, strict=True))
    return sides if 0.8 < rows / columns < 1.25 else None


def _stride(before: int, after: int) -> float | int:
    """Samples that one stands for."""
    if after == 1 or before == 0 or 1 / _ALIKE < before / after < _ALIKE:
        return 1
    return round(before / after) if after < before else 1 / round(after / before)


def _product(scale: Scale, stride: Scale) -> Scale:
    return scale[0] * stride[0], scale[1] * stride[1]


def _larger(scale: Scale, other: Scale) -> Scale:
    return max(scale[0], other[0]), max(scale[1], other[1])
