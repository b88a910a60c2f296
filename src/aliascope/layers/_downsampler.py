"""What every downsampler shares: its arguments, the border and the depthwise filter."""

from math import comb, floor
from typing import Literal, TypeVar, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

Padding = Literal["reflect", "zeros", "replicate", "circular"]
PADDINGS = get_args(Padding)

Pair = int | tuple[int, int]
Number = TypeVar("Number", int, float)
Window = tuple[int, int]
"""First sample and the one after the last; both may lie outside of the map."""


class Downsampler(nn.Module):
    """The arguments that every downsampler takes, checked once.

    A map of H × W samples becomes ⌈H/s_h⌉ × ⌈W/s_w⌉, of the same dtype and memory format. In eval
    mode this is `sample(dense(x))`: first what is decimated, then the samples that are kept of it.

    Args:
        channels: C of the maps it takes.
        stride: samples read per sample kept, s or (rows, columns), each at least 1.
        padding: how the border is continued; see `extend`.

    Raises:
        ValueError: an argument out of range.
    """

    shown: tuple[str, ...] = ("stride", "padding")
    """Arguments that `print(model)` names."""
    phases: tuple[float | int, float | int] = (0, 0)
    """The place of each s_h × s_w cell that is sampled."""

    def __init__(self, channels: int, stride: Pair, padding: str) -> None:
        super().__init__()
        self.channels, self.stride, self.padding = channels, stride, padding
        self.strides = (stride, stride) if isinstance(stride, int) else stride
        if channels < 1 or min(self.strides) < 1:
            raise ValueError(f"channels and stride must be at least 1, got {channels} and {stride}")
        if padding not in PADDINGS:
            raise ValueError(f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")

    def checked(self, x: Float[Tensor, "batch chan h w"]) -> Float[Tensor, "batch chan h w"]:
        """The map, refused where a filter made for other channels would be spread over it."""
        if x.shape[1] != self.channels:
            raise ValueError(
                f"{type(self).__name__} was made for {self.channels} channels and got a map of "
                f"shape {tuple(x.shape)}; pass channels={x.shape[1]}"
            )
        return x

    def dense(self, x: Float[Tensor, "batch chan h w"]) -> Float[Tensor, "batch chan h1 w1"]:
        """What is decimated: the low-passed map at stride 1, of the size of x.

        Where the last cell is cut off by the border and its sample lies behind it, the map goes on
        as far as that.
        """
        raise NotImplementedError

    def choice_of(
        self, dense: Float[Tensor, "batch chan h w"]
    ) -> Shaped[Tensor, "batch *p"] | None:
        """What `sample` would keep of this map, to be kept of another; None if that is fixed."""
        del dense

    def hand_over(self, choice: Shaped[Tensor, "batch *p"] | None) -> None:
        """Let the layers that share a choice take this one in their next call."""
        del choice

    def sample(
        self,
        dense: Float[Tensor, "batch chan h w"],
        choice: Shaped[Tensor, "batch *p"] | None = None,
    ) -> Float[Tensor, "batch chan h2 w2"]:
        """The samples that are kept of what `dense` returned; linear in it for a given choice.

        >>> from aliascope.layers import BlurPool
        >>> pool, x = BlurPool(1), torch.rand(1, 1, 8, 7)
        >>> torch.allclose(pool.sample(pool.dense(x)), pool(x))
        True
        """
        del choice
        (top, left), (s_h, s_w) = self.starts, self.strides
        rows, columns = self._reach(dense)
        return as_laid_out(
            extend(dense, (0, rows), (0, columns), self.padding)[:, :, top::s_h, left::s_w], dense
        )

    @property
    def starts(self) -> tuple[int, int]:
        """The first row and column that are sampled."""
        return floor(self.phases[0]), floor(self.phases[1])

    def _reach(self, x: Tensor) -> tuple[int, int]:
        """Rows and columns of a map that is continued up to its last sample."""
        rows, columns = (
            max(side, (-(-side // step) - 1) * step + start + 1)
            for side, step, start in zip(x.shape[2:], self.strides, self.starts, strict=True)
        )
        return rows, columns

    def _dense_size(self, x: Tensor) -> tuple[int, int]:
        """Of `dense`: a filtered map repeats itself where the map does, and need not go on."""
        return (x.shape[2], x.shape[3]) if self.padding == "circular" else self._reach(x)

    def extra_repr(self) -> str:
        """The arguments, for `print(model)`."""
        arguments = (f"{name}={getattr(self, name)!r}" for name in self.shown)
        return ", ".join([str(self.channels), *arguments])


def per_axis(
    phase: Number | tuple[Number, Number], strides: tuple[int, int]
) -> tuple[Number, Number]:
    """A phase for rows and columns: the place in each s_h × s_w cell that a filter is centred on.

    Raises:
        ValueError: a place outside of the cell.
    """
    each = phase if isinstance(phase, tuple) else (phase, phase)
    for start, step in zip(each, strides, strict=True):
        if not 0 <= start < step:
            raise ValueError(f"phase must be 0 to {step - 1} for stride {step}, got {phase}")
    return each


def binomial(size: int) -> list[float]:
    """Taps C(n−1, k) / 2^(n−1).

    Raises:
        ValueError: not 1 to 7 taps.

    >>> binomial(3)
    [0.25, 0.5, 0.25]
    """
    if not 1 <= size <= 7:
        raise ValueError(f"size must be 1 to 7 taps, got {size}")
    return [comb(size - 1, k) / 2 ** (size - 1) for k in range(size)]


def depthwise(rows: list[float], columns: list[float], channels: int) -> Tensor:
    """The outer product of two filters, one copy a channel, (C, 1, R, K)."""
    kernel = torch.outer(torch.tensor(rows).double(), torch.tensor(columns).double())
    return kernel.float().repeat(channels, 1, 1, 1)


def filtered(
    x: Float[Tensor, "batch chan h w"],
    kernel: Float[Tensor, "chan 1 r k"],
    first: tuple[int, int],
    stride: tuple[int, int],
    padding: str,
    size: tuple[int, int] | None = None,
) -> Float[Tensor, "batch chan h2 w2"]:
    """Filter and decimate in one convolution; the result has ⌈H/s⌉ × ⌈W/s⌉ samples, or `size`.

    y[i, j] = Σ_k Σ_l kernel[k, l] x[s_h·i + first_h + k, s_w·j + first_w + l]

    Half of the time goes into copying the map in order to pad it, so only the border that the
    filter really reads is added: none for two taps on an even side, none that the convolution can
    add itself.
    """
    _, channels, height, width = x.shape
    _, _, tall, wide = kernel.shape
    (s_h, s_w), (top, left) = stride, first
    kernel = kernel if kernel.dtype == x.dtype else kernel.to(x.dtype)
    rows, columns = size or (-(-height // s_h), -(-width // s_w))
    last = (rows - 1) * s_h + top + tall, (columns - 1) * s_w + left + wide
    if (
        padding == "zeros"
        and top <= 0
        and left <= 0
        and _adds_up(x, kernel, first, stride, (rows, columns))
    ):
        return F.conv2d(x, kernel, None, stride, (-top, -left), 1, channels)
    window = (top, max(height, last[0])), (left, max(width, last[1]))
    return F.conv2d(extend(x, *window, padding), kernel, None, stride, 0, 1, channels)


def _adds_up(
    x: Tensor,
    kernel: Tensor,
    first: tuple[int, int],
    stride: tuple[int, int],
    size: tuple[int, int],
) -> bool:
    """Whether as many zeros behind the map as before it give as many samples as asked for."""
    return all(
        (side - 2 * start - taps) // step + 1 == count
        for side, start, taps, step, count in zip(
            x.shape[2:], first, kernel.shape[2:], stride, size, strict=True
        )
    )


def extend(
    x: Float[Tensor, "batch chan h w"], rows: Window, columns: Window, padding: str
) -> Float[Tensor, "batch chan h2 w2"]:
    """A window of the map continued without end in all directions.

    `zeros`, `replicate`, `circular` (the map repeats itself) or `reflect` (mirrored at the centre
    of the last pixel). Unlike `F.pad`, which refuses a border as wide as the map, the continuation
    goes on for as long as it has to, as in `numpy.pad`: a map that is narrower than the border is
    mirrored again and again, and a single pixel is repeated.

    >>> extend(torch.arange(3.0).view(1, 1, 1, 3), (0, 1), (-4, 5), "reflect").flatten().tolist()
    [0.0, 1.0, 2.0, 1.0, 0.0, 1.0, 2.0, 1.0, 0.0]
    """
    _, _, height, width = x.shape
    border = -columns[0], columns[1] - width, -rows[0], rows[1] - height
    # First what is usual: on small maps all the questions below take as long as the padding.
    usual = 0 <= min(border) <= max(border) < min(height, width) > 1
    if usual and padding in ("reflect", "replicate"):
        return F.pad(x, border, mode=padding) if any(border) else x
    top, left = max(rows[0], 0), max(columns[0], 0)
    if padding == "zeros":
        below, right = rows[1] - max(height, rows[0]), columns[1] - max(width, columns[0])
        return F.pad(x[:, :, top:, left:], (left - columns[0], right, top - rows[0], below))
    border = (left - columns[0], columns[1] - width, top - rows[0], rows[1] - height)
    if not any(border) and top == left == 0:
        return x
    fits = max(border[:2]) < width - left and max(border[2:]) < height - top and min(border) >= 0
    if fits and padding == "circular" and top == left == 0:
        return as_laid_out(F.pad(x, border, mode="circular"), x)
    if fits and padding != "circular":
        kept = x[:, :, top:, left:] if top or left else x
        y = F.pad(kept, border, mode=padding)
        # Of maps with a side of one pixel PyTorch takes either layout for the other.
        return as_laid_out(y, x) if height == 1 or width == 1 else y
    y = x.index_select(2, source(rows, height, padding).to(x.device))
    return as_laid_out(y.index_select(3, source(columns, width, padding).to(x.device)), x)


def source(window: Window, side: int, padding: str) -> Int[Tensor, " n"]:
    """Where in the map each sample of a window comes from; of zeros, the nearest pixel."""
    index = torch.arange(*window)
    if padding == "circular":
        return index % side
    if padding == "reflect":
        period = max(2 * (side - 1), 1)
        return torch.minimum(index % period, -index % period)
    return index.clamp(0, side - 1)


def as_laid_out(
    y: Float[Tensor, "batch chan h2 w2"], x: Float[Tensor, "batch chan h w"]
) -> Float[Tensor, "batch chan h2 w2"]:
    """The result in the dtype and the memory format of what came in."""
    y = y.to(x.dtype)
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return y.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
