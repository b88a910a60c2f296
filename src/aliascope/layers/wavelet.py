"""WaveletPool: the low-low band of a discrete wavelet transform."""

import math
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from torch import Tensor

from aliascope.layers._downsampler import (
    Downsampler,
    Pair,
    depthwise,
    filtered,
    per_axis,
)

Wavelet = Literal["haar", "db2", "bior2.2", "bior3.3", "sym4"]
WAVELETS = get_args(Wavelet)


class WaveletPool(Downsampler):
    """Low-low band of the discrete wavelet transform, divided by its gain.

    y[i, j] = Σ_k Σ_l h[k] h[l] x[2i + phase + k − m, 2j + phase + l − m], with h the wavelet's
    analysis low-pass divided by its sum √2 (so the band is divided by its DC gain 2) and m the tap
    nearest to its centre of mass: the filter is centred on `phase`, or half a sample after it. With
    "haar" and an even side it is `AvgPool2d(2)`. Linear, and shift-equivariant for circular shifts
    by multiples of the stride.

    Stride 4 is two levels of the transform, h ∗ (h upsampled by 2) in one filter; a stride that is
    no power of two takes the filter of the next one, and an axis of stride 1 is left alone.

    Args:
        channels: C of the maps it takes.
        stride: s, or (rows, columns).
        size: ignored, the wavelet decides; here so that all layers are called alike.
        padding: how the border is continued: reflect, zeros, replicate or circular.
        phase: which sample of each s × s cell is the centre, one number or (rows, columns).
        wavelet: haar, db2, bior2.2, bior3.3 or sym4.

    Raises:
        ValueError: an argument out of range.

    Source: Li et al. 2020, Wavelet Integrated CNNs for Noise-Robust Image Classification
        (arXiv 2005.03337), section 3.2; taps from PyWavelets.

    >>> import torch
    >>> WaveletPool(1, wavelet="haar")(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])).item()
    3.0
    """

    shown = ("stride", "wavelet", "padding", "phase")

    def __init__(
        self,
        channels: int,
        stride: Pair = 2,
        *,
        size: int = 3,
        padding: str = "reflect",
        phase: Pair = 0,
        wavelet: str = "haar",
    ) -> None:
        del size
        super().__init__(channels, stride, padding)
        self.phase, self.phases = phase, per_axis(phase, self.strides)
        if wavelet not in WAVELETS:
            raise ValueError(f"wavelet must be one of {', '.join(WAVELETS)}, got {wavelet!r}")
        self.wavelet = wavelet
        rows, columns = (_low_pass(wavelet, step) for step in self.strides)
        self.first = (self.phases[0] - _centre(rows), self.phases[1] - _centre(columns))
        # Not persistent: a converted model's state_dict is the original's.
        self.register_buffer("kernel", depthwise(rows, columns, channels), persistent=False)
        self.kernel: Tensor

    def forward(self, x: Float[Tensor, "batch chan h w"]) -> Float[Tensor, "batch chan h2 w2"]:
        """Filter and decimate."""
        return filtered(self.checked(x), self.kernel, self.first, self.strides, self.padding)

    def dense(self, x: Float[Tensor, "batch chan h w"]) -> Float[Tensor, "batch chan h1 w1"]:
        """The filter at every pixel."""
        (top, left), (row, column) = self.first, self.starts
        first, size = (top - row, left - column), self._dense_size(self.checked(x))
        return filtered(x, self.kernel, first, (1, 1), self.padding, size)


def _low_pass(wavelet: str, stride: int) -> list[float]:
    """Taps, in the order in which they meet the samples, of ⌈log₂ s⌉ levels; they sum to 1."""
    import pywt

    level = np.array(pywt.Wavelet(wavelet).dec_lo[::-1])  # pyright: ignore[reportAttributeAccessIssue]
    taps = np.ones(1)
    for number in range(math.ceil(math.log2(stride))):
        upsampled = np.zeros((len(level) - 1) * 2**number + 1)
        upsampled[:: 2**number] = level
        taps = np.convolve(taps, upsampled)
    return (taps / taps.sum()).tolist()


def delay(wavelet: str, stride: int) -> float:
    """How far the filter's centre of mass lies behind `phase`, in samples.

    >>> delay("haar", 2), round(delay("bior2.2", 2), 6)
    (0.5, 0.0)
    """
    taps = _low_pass(wavelet, stride)
    return _mass(taps) - _centre(taps)


def _centre(taps: list[float]) -> int:
    """The tap nearest to the centre of mass, the earlier one of two."""
    return math.ceil(_mass(taps) - 0.5 - 1e-9)


def _mass(taps: list[float]) -> float:
    return sum(place * tap for place, tap in enumerate(taps))
