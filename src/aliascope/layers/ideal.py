"""IdealPool: the low-pass that lets nothing alias, then every s-th pixel."""

import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from aliascope.layers._downsampler import (
    Downsampler,
    Pair,
    as_laid_out,
    per_axis,
    source,
)

Places = tuple[float | int, int, int]
"""Where a map is evaluated along an axis: the first place, the step and their number."""


class IdealPool(Downsampler):
    """Keep the frequencies that the coarser grid can hold, drop all others, sample.

    Y = A_h X A_wᵀ with A[i, m] = (1/N) Σ_{|k| < N/2c} exp(2πi k (s·i + phase − m) / N): per axis
    the DFT bins below the new Nyquist frequency, without the bin on it, which is its own alias;
    gain 1. The result of FFT, mask, inverse FFT and decimation, as one small dense matrix an axis,
    built for the size at hand and kept for the next map; an axis where c = 1 is left alone.

    With circular padding it is exact: of a map without higher frequencies it yields the samples,
    and where s divides the side, any shift of such a map, sub-pixel ones included, shifts the
    output by that over s.

    Args:
        channels: C of the maps it takes.
        stride: s, or (rows, columns).
        size: ignored, the filter is as wide as the map; here so that all layers are called alike.
        padding: what the DFT takes as the period: circular the map itself, as published; reflect
            the map and its mirror image, 2N − 2 samples, so that opposite borders do not mix;
            replicate and zeros 3N samples, the map in their middle.
        phase: which place of each s × s cell is sampled, one number or (rows, columns); fractions
            lie between the pixels.
        cutoff: c, the stride of the grid that is to hold what is kept, or (rows, columns); by
            default s. With stride 1 the layer only filters, for what samples behind it.

    Raises:
        ValueError: an argument out of range.

    Source: Grabinski et al. 2022, FrequencyLowCut Pooling (arXiv 2204.00491); Michaeli et al.
        2023, Alias-Free Convnets (arXiv 2303.08085), section 3.

    >>> board = 1 - 2.0 * ((torch.arange(8)[:, None] + torch.arange(8)) % 2)
    >>> (IdealPool(1)(board[None, None] + 3) - 3).abs().max().item() < 1e-6
    True
    """

    shown = ("stride", "padding", "phase", "cutoff")

    def __init__(
        self,
        channels: int,
        stride: Pair = 2,
        *,
        size: int = 3,
        padding: str = "circular",
        phase: float | int | tuple[float | int, float | int] = 0,
        cutoff: Pair | None = None,
    ) -> None:
        del size
        super().__init__(channels, stride, padding)
        self.phase, self.phases = phase, per_axis(phase, self.strides)
        self.cutoff = self.stride if cutoff is None else cutoff
        self.cutoffs = (self.cutoff,) * 2 if isinstance(self.cutoff, int) else self.cutoff
        if min(self.cutoffs) < 1:
            raise ValueError(f"cutoff must be at least 1, got {cutoff}")

    def forward(self, x: Float[Tensor, "batch chan h w"]) -> Float[Tensor, "batch chan h2 w2"]:
        """Filter and decimate, in float32 at least."""
        height, width = self.checked(x).shape[2:]
        places = (
            (phase, step, -(-side // step))
            for side, step, phase in zip((height, width), self.strides, self.phases, strict=True)
        )
        return self._at(x, *places)

    def dense(self, x: Float[Tensor, "batch chan h w"]) -> Float[Tensor, "batch chan h1 w1"]:
        """The low-pass at every pixel, moved by the fraction of the phase."""
        size = self._dense_size(self.checked(x))
        return self._at(
            x, *((phase % 1, 1, count) for phase, count in zip(self.phases, size, strict=True))
        )

    def _at(self, x: Tensor, *places: Places) -> Tensor:
        """The low-passed map at chosen rows and columns."""
        batch, channels, height, width = x.shape
        precise = x if x.dtype == torch.float64 else x.float()
        rows, columns = (
            _matrix(side, step, at, self.padding, precise)
            for side, step, at in zip((height, width), self.cutoffs, places, strict=True)
        )
        # Autocast would round the products to half precision.
        kind = x.device.type
        casts = torch.is_autocast_enabled(kind)
        with torch.autocast(kind, enabled=False) if casts else nullcontext():
            if x.is_contiguous():
                y = precise @ columns.mT
                y = rows @ y.flatten(0, 1)  # (B·C, K_h, K_w)
                return y.unflatten(0, (batch, channels)).to(x.dtype)
            maps = precise.permute(0, 2, 3, 1)  # (B, H, W, C), without a copy where channels_last
            y = rows @ maps.flatten(2)  # (B, K_h, W·C)
            y = columns @ y.reshape(-1, width, channels)  # (B·K_h, K_w, C)
            y = y.view(batch, len(rows), len(columns), channels)
        return as_laid_out(y.permute(0, 3, 1, 2), x)


def _matrix(side: int, cutoff: int, places: Places, padding: str, like: Tensor) -> Tensor:
    known = side, cutoff, places, padding, like.dtype, like.device
    if torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling():
        fixed = all(isinstance(x, int | float) for x in (side, *places))
        # An export holds the matrix itself, made in a thread: to trace is a thread's own affair.
        with ThreadPoolExecutor(1) as untraced:
            return untraced.submit(_kept, *known).result() if fixed else _computed(*known)
    # Where a program is traced otherwise, the matrix has to be computed in it.
    if torch.compiler.is_compiling() or type(like) is not Tensor:
        return _computed(*known)
    return _kept(*known)


def _computed(
    side: int, cutoff: int, places: Places, padding: str, dtype: torch.dtype, device: Any
) -> Tensor:
    return low_pass(side, cutoff, places, padding).to(device, dtype)


@lru_cache(maxsize=32)
def _kept(
    side: int, cutoff: int, places: Places, padding: str, dtype: torch.dtype, device: Any
) -> Tensor:
    with torch.inference_mode(mode=False):  # or a later backward pass would refuse it
        return _computed(side, cutoff, places, padding, dtype, device)


def low_pass(side: int, cutoff: int, places: Places, padding: str) -> Float[Tensor, "k n"]:
    """The matrix A of one axis, float64: row i holds the weights of output sample i.

    >>> low_pass(4, 2, (0, 2, 2), "circular").tolist()
    [[0.25, 0.25, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25]]
    """
    if cutoff == 1 and places == (0, 1, side):
        return torch.eye(side, dtype=torch.float64)
    window = {"circular": (0, side), "reflect": (0, max(2 * side - 2, 1))}.get(
        padding, (-side, 2 * side)
    )
    period = window[1] - window[0]
    kept = 2 * ((period - 1) // (2 * cutoff)) + 1
    first, step, count = places
    at = step * torch.arange(count, dtype=torch.float64) + first
    distance = at[:, None] - torch.arange(*window)
    # The sum of the kept exponentials (Dirichlet's kernel); 0/0 where a sample meets itself.
    half_turns = math.pi * (distance.remainder(period)) / period
    itself = half_turns.sin().abs() < 1e-12
    weights = (kept * half_turns).sin() / half_turns.sin().masked_fill(itself, 1)
    weights = weights.masked_fill(itself, kept) / period  # (K, period)
    index = source(window, side, padding)
    if padding == "zeros":
        weights = weights[:, side : 2 * side]
        index = torch.arange(side)
    return weights.new_zeros(count, side).index_add(1, index, weights)
