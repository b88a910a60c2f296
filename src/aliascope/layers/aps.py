"""APSPool: keep the polyphase component with the largest norm."""

from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from aliascope.layers._downsampler import Pair
from aliascope.layers._polyphase import PolyphaseChoice

Norm = Literal["l1", "l2", "linf"]
_NORMS = ("l1", "l2", "linf")


class APSPool(PolyphaseChoice):
    """Adaptive polyphase sampling: of the s_h · s_w ways to take every s-th pixel, the loudest.

    y = x[s_h·a + i, s_w·b + j], (i, j) = argmax ‖x[i::s_h, j::s_w]‖ over all channels, one (i, j)
    an image; before that an optional binomial blur at stride 1.

    A circular shift of the map permutes and rolls its components, so it only rolls the output: with
    circular padding and sides that the strides divide this is exact, and without a blur to the last
    bit. Floating-point sums depend on their order, so norms are added up as integers; components
    of equal norm are told apart by a number that no shift changes. Where a side is not divisible,
    it is continued by `padding` to the next multiple, and the shift is no longer exact.

    How the two branches of a residual block keep the same component: see `follow` and `choose`.

    Args:
        channels: C of the maps it takes.
        stride: s, or (rows, columns).
        size: taps of the blur before it, 1 to 7; 1 is none.
        padding: how the border is continued: reflect, zeros, replicate or circular.
        norm: which norm, l1, l2 or linf.

    Raises:
        ValueError: an argument out of range.

    Source: Chaman & Dokmanić 2021, Truly shift-invariant convolutional neural networks
        (arXiv 2011.14214), section 3.

    >>> x = torch.tensor([[[[1.0, 5.0, 1.0, 6.0]]]])
    >>> APSPool(1, (1, 2), size=1)(x).tolist()
    [[[[5.0, 6.0]]]]
    """

    shown = ("stride", "size", "padding", "norm")

    def __init__(
        self,
        channels: int,
        stride: Pair = 2,
        *,
        size: int = 3,
        padding: str = "reflect",
        norm: Norm = "l2",
    ) -> None:
        super().__init__(channels, stride, size, padding)
        if norm not in _NORMS:
            raise ValueError(f"norm must be one of {', '.join(_NORMS)}, got {norm!r}")
        self.norm: Norm = norm

    def _chosen(self, components: Float[Tensor, "batch p chan h w"]) -> Int[Tensor, " batch"]:
        return first_largest(loudness(components, self.norm))


def loudness(
    components: Float[Tensor, "batch p chan h w"], norm: Norm
) -> tuple[Shaped[Tensor, "batch p"], ...]:
    """The norm of each component, up to a monotone function, and what tells equals apart.

    Keys for `first_largest`. None depends on the order in which a component's pixels are stored:
    values are rounded to integers relative to the largest one of the image, and integers add up
    alike in any order. Where a program is traced, a sum is kept in digits: runtimes that it may be
    exported to compute integers in 32 bits.
    """
    x = components if components.dtype == torch.float64 else components.float()
    x = x.detach()
    x = x * (_SCALE / x.abs().amax((1, 2, 3, 4), keepdim=True).clamp(min=1e-30))
    if norm == "linf":
        return x.abs().amax((2, 3, 4)), _fingerprint(x)
    size = x.abs() * _SCALE if norm == "l1" else x * x
    if not torch.compiler.is_compiling():
        return size.long().sum((2, 3, 4)), _fingerprint(x)
    size = size.floor()
    high = (size / _BASE).floor()
    return *_digits(high.long(), (size - _BASE * high).long(), (4, 3, 2)), _fingerprint(x)


def _digits(
    high: Int[Tensor, "batch p *map"], low: Int[Tensor, "batch p *map"], dims: Iterable[int]
) -> tuple[Int[Tensor, "batch p *kept"], ...]:
    """The sum of _BASE · high + low over these dimensions, as three digits in that base.

    With digits below _BASE no number exceeds 2³¹ where sides and channels are at most 8192.

    >>> ones = torch.ones(1, 1, 3, dtype=torch.int64)
    >>> [int(digit) for digit in _digits(ones, (_BASE - 1) * ones, [2])]
    [0, 5, 262141]
    """
    top = torch.zeros_like(low)
    for dim in dims:
        top, high, low = (digit.sum(dim) for digit in (top, high, low))
        high, low = high + low // _BASE, low % _BASE
        top, high = top + high // _BASE, high % _BASE
    return top, high, low


def first_largest(keys: Iterable[Shaped[Tensor, "batch p"]]) -> Int[Tensor, " batch"]:
    """Index of the largest first key; of equals the one with the largest second key, and so on.

    >>> first_largest([torch.tensor([[2, 7, 7]]), torch.tensor([[9, 1, 3]])]).item()
    2
    """
    best: Bool[Tensor, "batch p"] | None = None
    for key in keys:
        least = -torch.inf if key.is_floating_point() else torch.iinfo(key.dtype).min
        ranked = key if best is None else key.masked_fill(~best, least)
        largest = ranked == ranked.amax(1, keepdim=True)
        # Where a runtime computes in 32 bits, what was masked may come out as large as the others.
        best = largest if best is None else torch.logical_and(best, largest)
    if best is None:
        raise ValueError("first_largest needs a key")
    return best.int().argmax(1)


def _fingerprint(x: Float[Tensor, "batch p chan h w"]) -> Int[Tensor, "batch p"]:
    """A hash of each component that is the same for all its circular shifts.

    Every pixel gets a hash of the whole map as seen from there, from the hashes 1, 2, 4, … pixels
    further on; their sum does not depend on where one starts.
    """
    weights = 2 * torch.arange(x.shape[2], device=x.device) + 1
    seen = _cut((x.long() * weights[:, None, None]).sum(2))  # (B, P, h, w)
    for dim in (2, 3):
        side = int(seen.shape[dim])  # of a map that torch.jit traces, a tensor
        for power in range((side - 1).bit_length()):
            seen = _cut(seen * (2 * seen + 1) + 5 * seen.roll(2**power, dim))
    return seen.sum((2, 3))


def _cut(x: Int[Tensor, "*map"]) -> Int[Tensor, "*map"]:
    """The low bits; where a program is traced, as a remainder: few runtimes have bitwise and."""
    return x % (_BITS + 1) if torch.compiler.is_compiling() else x & _BITS


_SCALE = 2**18 - 5
"""What the largest value of an image becomes: its square, summed over 2²⁷ values, fits an integer.
Odd, so that maps of a few round values do not lose themselves in the low bits of a hash."""

_BASE = 2**18
"""Of the digits of a sum."""

_BITS = 2**30 - 1
"""Hashes stay below this, so that products of two do not overflow."""
