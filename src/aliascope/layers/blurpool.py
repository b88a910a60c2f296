"""BlurPool: a binomial low-pass filter, then every s-th pixel."""

from math import comb

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_PAD_MODES = {
    "reflect": "reflect",
    "zeros": "constant",
    "replicate": "replicate",
    "circular": "circular",
}


class BlurPool(nn.Module):
    """Depthwise binomial filter and decimation by `stride`.

    y[i, j] = Σ_k Σ_l h[k] h[l] x[s·i + phase + k − ⌊(n−1)/2⌋, s·j + phase + l − ⌊(n−1)/2⌋],
    h[k] = C(n−1, k) / 2^(n−1); the output has ⌈H/s⌉ × ⌈W/s⌉ samples for every n.

    Args:
        channels: C of the maps it takes.
        stride: s.
        size: number of taps n per axis, 1 to 7; 1 is plain decimation.
        padding: how the border is continued: reflect, zeros, replicate or circular.
        phase: which sample of each s × s cell the filter is centred on (for even n, half a sample
            after it).

    Raises:
        ValueError: an argument out of range.

    Source: Zhang 2019, Making Convolutional Networks Shift-Invariant Again (arXiv 1904.11486),
        section 3.2.

    >>> BlurPool(8, size=3)(torch.ones(1, 8, 7, 6)).shape
    torch.Size([1, 8, 4, 3])
    """

    def __init__(
        self,
        channels: int,
        stride: int = 2,
        *,
        size: int = 3,
        padding: str = "reflect",
        phase: int = 0,
    ) -> None:
        super().__init__()
        if not 1 <= size <= 7:
            raise ValueError(f"size must be 1 to 7 taps, got {size}")
        if padding not in _PAD_MODES:
            raise ValueError(f"padding must be one of {', '.join(_PAD_MODES)}, got {padding!r}")
        if not 0 <= phase < stride:
            raise ValueError(f"phase must be 0 to {stride - 1} for stride {stride}, got {phase}")
        self.channels, self.stride, self.size = channels, stride, size
        self.padding, self.phase = padding, phase
        taps = torch.tensor([comb(size - 1, k) for k in range(size)], dtype=torch.float32)
        taps /= taps.sum()
        # Not persistent: a converted model's state_dict is the original's.
        self.register_buffer(
            "kernel", torch.outer(taps, taps).repeat(channels, 1, 1, 1), persistent=False
        )
        self.kernel: Tensor

    def forward(self, x: Float[Tensor, "batch chan h w"]) -> Float[Tensor, "batch chan h2 w2"]:
        """Filter and decimate."""
        before = (self.size - 1) // 2 - self.phase
        after = self.size // 2 + self.phase
        x = x[..., max(-before, 0) :, max(-before, 0) :]
        before = max(before, 0)
        x = F.pad(x, (before, after, before, after), mode=_PAD_MODES[self.padding])
        return F.conv2d(x, self.kernel.to(x.dtype), stride=self.stride, groups=self.channels)

    def extra_repr(self) -> str:
        """The arguments, for `print(model)`."""
        return (
            f"{self.channels}, stride={self.stride}, size={self.size}, "
            f"padding={self.padding!r}, phase={self.phase}"
        )
