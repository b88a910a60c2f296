"""BlurPool: a binomial low-pass filter, then every s-th pixel."""

from jaxtyping import Float
from torch import Tensor

from aliascope.layers._downsampler import (
    Downsampler,
    Pair,
    binomial,
    depthwise,
    filtered,
    per_axis,
)


class BlurPool(Downsampler):
    """Depthwise binomial filter and decimation by `stride`.

    y[i, j] = Σ_k Σ_l h[k] h[l] x[s·i + phase + k − ⌊(n−1)/2⌋, s·j + phase + l − ⌊(n−1)/2⌋],
    h[k] = C(n−1, k) / 2^(n−1); the output has ⌈H/s⌉ × ⌈W/s⌉ samples for every n.

    Args:
        channels: C of the maps it takes.
        stride: s, or (rows, columns).
        size: number of taps n per axis, 1 to 7; 1 is plain decimation.
        padding: how the border is continued: reflect, zeros, replicate or circular; a map narrower
            than the border is mirrored again and again, as in `numpy.pad`.
        phase: which sample of each s × s cell the filter is centred on (for even n, half a sample
            after it), one number or (rows, columns).

    Raises:
        ValueError: an argument out of range.

    Source: Zhang 2019, Making Convolutional Networks Shift-Invariant Again (arXiv 1904.11486),
        section 3.2.

    >>> import torch
    >>> BlurPool(8, size=3)(torch.ones(1, 8, 7, 6)).shape
    torch.Size([1, 8, 4, 3])
    """

    shown = ("stride", "size", "padding", "phase")

    def __init__(
        self,
        channels: int,
        stride: Pair = 2,
        *,
        size: int = 3,
        padding: str = "reflect",
        phase: Pair = 0,
    ) -> None:
        super().__init__(channels, stride, padding)
        self.phase, self.phases = phase, per_axis(phase, self.strides)
        self.size = size
        taps = binomial(size)
        before = (size - 1) // 2
        self.first = (self.phases[0] - before, self.phases[1] - before)
        # Not persistent: a converted model's state_dict is the original's.
        self.register_buffer("kernel", depthwise(taps, taps, channels), persistent=False)
        self.kernel: Tensor

    def forward(self, x: Float[Tensor, "batch chan h w"]) -> Float[Tensor, "batch chan h2 w2"]:
        """Filter and decimate."""
        return filtered(self.checked(x), self.kernel, self.first, self.strides, self.padding)

    def dense(self, x: Float[Tensor, "batch chan h w"]) -> Float[Tensor, "batch chan h1 w1"]:
        """The filter at every pixel; of one tap, the map itself."""
        if self.size == 1:
            return self.checked(x)
        (top, left), (row, column) = self.first, self.starts
        first, size = (top - row, left - column), self._dense_size(self.checked(x))
        return filtered(x, self.kernel, first, (1, 1), self.padding, size)
