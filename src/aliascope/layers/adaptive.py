"""AdaptivePool: a low-pass filter of its own for every place and group of channels."""

from math import gcd

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from aliascope.layers._downsampler import (
    Downsampler,
    Pair,
    as_laid_out,
    binomial,
    extend,
    per_axis,
)


class AdaptivePool(Downsampler):
    """Content-adaptive low-pass filter, predicted from the map, then every s-th pixel.

    y[c, i, j] = Σ_k Σ_l w[g(c), k, l, i, j] x[c, s·i + phase + k − ⌊(n−1)/2⌋, …], w = softmax over
    the n² taps of BN(conv(x)): non-negative filters that sum to 1, one for each place and group of
    channels. Filters are predicted only where a sample is taken.

    A fresh layer is `BlurPool` of the same size, in training and eval mode: the batch norm starts
    with weight 0 and, as its bias, the logarithm of the binomial filter.

    Args:
        channels: C of the maps it takes.
        stride: s, or (rows, columns).
        size: taps n per axis, 1 to 7, of the filters and of the convolution that predicts them.
        padding: how the border is continued: reflect, zeros, replicate or circular.
        phase: which sample of each s × s cell the filters are centred on, one number or
            (rows, columns).
        groups: filters per place; where that does not divide the channels, their greatest common
            divisor.

    Raises:
        ValueError: an argument out of range.

    Source: Zou et al. 2020, Delving Deeper into Anti-aliasing in ConvNets (arXiv 2008.09604),
        section 3.

    >>> AdaptivePool(8)(torch.ones(1, 8, 7, 6)).shape
    torch.Size([1, 8, 4, 3])
    """

    shown = ("stride", "size", "padding", "phase", "groups")

    def __init__(
        self,
        channels: int,
        stride: Pair = 2,
        *,
        size: int = 3,
        padding: str = "reflect",
        phase: Pair = 0,
        groups: int = 8,
    ) -> None:
        super().__init__(channels, stride, padding)
        self.phase, self.phases = phase, per_axis(phase, self.strides)
        if groups < 1:
            raise ValueError(f"groups must be at least 1, got {groups}")
        self.size, self.groups = size, gcd(channels, groups)
        taps = torch.tensor(binomial(size))
        self.predict = nn.Conv2d(
            channels, self.groups * size * size, size, stride=self.strides, bias=False
        )
        self.norm = nn.BatchNorm2d(self.groups * size * size)
        nn.init.zeros_(self.norm.weight)
        with torch.no_grad():
            self.norm.bias.copy_(torch.outer(taps, taps).log().flatten().repeat(self.groups))

    def forward(self, x: Float[Tensor, "batch chan h w"]) -> Float[Tensor, "batch chan h2 w2"]:
        """Predict the filters where samples are taken, and apply them there."""
        rows, columns = (
            -(-side // step)
            for side, step in zip(self.checked(x).shape[2:], self.strides, strict=True)
        )
        return self._at(x, self.starts, self.strides, (rows, columns))

    def dense(self, x: Float[Tensor, "batch chan h w"]) -> Float[Tensor, "batch chan h1 w1"]:
        """Filters predicted for every pixel, and applied there; meant for eval mode."""
        return self._at(x, (0, 0), (1, 1), self._dense_size(self.checked(x)))

    def _at(
        self, x: Tensor, first: tuple[int, int], strides: tuple[int, int], size: tuple[int, int]
    ) -> Tensor:
        """The filtered map from a first place on, at every s-th."""
        (s_h, s_w), n = strides, self.size
        rows, columns = (
            (start - (n - 1) // 2, start - (n - 1) // 2 + (count - 1) * step + n)
            for start, step, count in zip(first, strides, size, strict=True)
        )
        border = extend(x, rows, columns, self.padding)
        read = border.to(self.predict.weight.dtype)
        logits = self.norm(F.conv2d(read, self.predict.weight, self.predict.bias, strides))
        height, width = logits.shape[2:]
        weights = logits.float().unflatten(1, (self.groups, n * n)).softmax(2)  # (B, G, n², h, w)
        maps = border.unflatten(1, (self.groups, -1))  # (B, G, C/G, H, W)
        total = torch.zeros((), device=x.device)
        for tap in range(n * n):
            k, last = divmod(tap, n)
            seen = maps[..., k : k + s_h * height : s_h, last : last + s_w * width : s_w]
            total = total + weights[:, :, tap, None] * seen
        return as_laid_out(total.flatten(1, 2), x)
