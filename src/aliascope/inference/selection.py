"""The window of a frame that the content of the picture picks, wherever the picture lies in it."""

import math
from collections.abc import Callable, Iterable
from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from aliascope.errors import ModelError
from aliascope.inference.averaging import check_frame

Score = Literal["corners", "laplacian"]
SIGMA = 4.0
"""Of the low-pass in front of the smooth score, in pixels."""
PHASES = 64
"""Fractions of a pixel that a window may lie at."""
REACH = 4
"""Pixels on each side that resampling reads beyond a window."""
CUTOFF = 0.75
"""Of resampling, as a share of the Nyquist frequency: nearer to it no filter of this length treats
all fractions of a pixel alike."""
_BETA = 4.0
"""Of the Kaiser window of that filter."""
_WEIGHTS = (0.299, 0.587, 0.114)
"""Of R, G and B in the picture that is scored."""


class CropSelection(nn.Module):
    """A network on the window of a frame that is picked by the picture's own content.

    p = argmax of a score over the places where it is a local maximum; a picture that moves takes p
    along, p its window, and the network sees the same pixels. It sees others where the window would
    leave the frame, where a stronger place enters it, or two are nearly equal: then the window
    jumps. Of places equally strong the one nearest to the middle counts.

    - laplacian: |Δx| of the grey picture at the places where the middle of a window can lie; it
      lies there, to whole pixels. Content that moves by half a pixel is sampled elsewhere, which
      the window does not undo.
    - corners: det H of the picture behind a Gaussian low-pass, H its second differences: blobs and
      corners, which a fraction of a pixel does not change, anywhere in the frame. p is refined by
      the quadric through the 3 × 3 values, −H⁻¹∇, and the window is the one nearest to the middle
      whose corner lies a multiple of n pixels from p, n the places that it has along an axis. It is
      resampled there by a low-pass that is as strong for whole pixels as for halves: else the
      network would see by how much the picture moved.

    Args:
        model: takes (B, C, *size).
        size: rows and columns that it takes.
        margin: pixels of the frame around it on each side; 0 where circular.
        score: what picks.
        circular: the frame is the picture itself, rolled until p is in its middle: exact under
            circular shifts, and torn at the border wherever p is not there by itself.

    Raises:
        ModelError: a margin that leaves no place to choose, or pictures too small to score.

    Source: Shifman & Weiss 2024 (arXiv 2404.07153), robust inference by crop selection, there to
    whole pixels; the strength of blobs: Beaudet 1978; the quadric: Brown & Lowe 2002.

    >>> selection = CropSelection(nn.Identity(), (6, 6), 2, score="laplacian")
    >>> frame = torch.zeros(1, 1, 10, 10)
    >>> frame[..., 6, 4] = 1
    >>> selection(frame)[0, 0].nonzero().tolist()
    [[3, 3]]
    """

    order: Tensor
    kernels: Tensor

    def __init__(
        self,
        model: nn.Module,
        size: tuple[int, int],
        margin: int,
        *,
        score: Score = "corners",
        circular: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.size, self.margin = model, size, margin
        self.score: Score = score
        self.circular = circular
        self._whole = score == "laplacian"
        self._low = 0 if self._whole else REACH  # the first place of a window in the frame
        if circular == bool(margin) or (not circular and margin <= self._low):
            wanted = "0" if circular else f"more than {self._low}"
            raise ModelError(f"crop selection takes a margin of {wanted} here, got {margin}")
        self._places = size if circular else (2 * (margin - self._low) + 1,) * 2
        # Of the frame, circular ones padded: what is scored, and where that begins.
        self._border = _BORDERS[score] + 1
        everywhere = not (self._whole or circular)
        self._first = [self._border if everywhere else self._low + side // 2 for side in size]
        self._scored = (
            tuple(side + 2 * (margin - self._border) for side in size)
            if everywhere
            else self._places
        )
        if min(self._scored) < 1 or (not everywhere and min(size) <= 2 * self._border):
            raise ModelError(
                f"pictures of {size[0]} × {size[1]} pixels are too small for the score {score!r}:"
                f" it reads {self._border} on each side; give larger ones"
            )
        self.register_buffer("order", _from_the_middle(*self._scored), persistent=False)
        self.register_buffer("kernels", _low_passes(), persistent=False)

    def forward(self, frames: Float[Tensor, "batch chan height width"]) -> object:
        """Frames → what the network says of their windows."""
        rows, columns = self.size
        check_frame(frames, (rows + 2 * self.margin, columns + 2 * self.margin))
        return self.model(self.windows(frames))

    def windows(
        self, frames: Float[Tensor, "batch chan height width"]
    ) -> Float[Tensor, "batch chan rows columns"]:
        """What the network is shown of each frame."""
        if self.circular:
            before = [side // 2 + self._low for side in self.size]
            after = [side - side // 2 - 1 + self._low for side in self.size]
            frames = F.pad(frames, (before[1], after[1], before[0], after[0]), mode="circular")
        top, left, down, right = self.chosen(frames)
        if self._whole:
            return _cut(frames, top, left, self.size)
        rows, columns = self.size
        wide = _cut(frames, top - REACH, left - REACH, (rows + 2 * REACH, columns + 2 * REACH))
        return _resampled(wide, self.kernels, down, right)

    def chosen(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Row and column of each window's corner, and by how many `PHASES` it lies beyond them."""
        scored = _SCORES[self.score](self._area(frames))  # (B, places + 2)
        middle = scored[:, 1:-1, 1:-1]
        peaks = middle >= F.max_pool2d(scored[:, None], 3, 1)[:, 0]
        ranked = middle.masked_fill(~peaks, -math.inf).flatten(1)[:, self.order]
        best = self.order[ranked.argmax(1)]
        place = best // self._scored[1], best % self._scored[1]
        still = torch.zeros_like(best)
        down, right = (still, still) if self._whole else _refined(scored, *place)
        top, left = (
            self._low + (x + first - side // 2 - self._low) % places
            for x, first, side, places in zip(
                place, self._first, self.size, self._places, strict=True
            )
        )
        return top, left, down, right

    def _area(self, frames: Tensor) -> Float[Tensor, "batch rows columns"]:
        """The grey picture, as far as it is scored, in float32."""
        cut = [
            slice(first - self._border, first + places + self._border)
            for first, places in zip(self._first, self._scored, strict=True)
        ]
        parts = frames[:, :, cut[0], cut[1]].float().unbind(1)
        weights = _WEIGHTS if len(parts) == 3 else [1 / len(parts)] * len(parts)
        return _weighted(weights, parts)

    def extra_repr(self) -> str:
        """What it was made with."""
        circular = ", circular=True" if self.circular else ""
        return f"size={self.size}, margin={self.margin}, score={self.score!r}{circular}"


def _laplacian(x: Float[Tensor, "batch height width"]) -> Float[Tensor, "batch rows columns"]:
    """|Δx|, one pixel less on each side."""
    across = x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
    return (across + x[:, :-2, 1:-1] + x[:, 2:, 1:-1] - 4 * x[:, 1:-1, 1:-1]).abs()


def _corners(x: Float[Tensor, "batch height width"]) -> Float[Tensor, "batch rows columns"]:
    """The determinant of the second differences of the low-passed picture."""
    _, _, down, right, mixed = _differences(_low_passed(_low_passed(x, 1), 2))
    return down * right - mixed * mixed


def _low_passed(x: Tensor, dim: int) -> Tensor:
    """By a Gaussian, valid samples alone.

    Sums of slices, not convolutions: the same pixels give the same value to the last bit, wherever
    they lie.
    """
    radius = _radius()
    weights = [math.exp(-(k**2) / (2 * SIGMA**2)) for k in range(-radius, radius + 1)]
    size = x.shape[dim] - 2 * radius
    parts = [x.narrow(dim, k, size) for k in range(len(weights))]
    return _weighted([w / sum(weights) for w in weights], parts)


def _weighted(weights: Iterable[float], parts: Iterable[Tensor]) -> Tensor:
    products = [w * x for w, x in zip(weights, parts, strict=True)]
    return reduce(torch.add, products)


def _radius() -> int:
    return math.ceil(3 * SIGMA)


_SCORES: dict[Score, Callable[[Tensor], Tensor]] = {"corners": _corners, "laplacian": _laplacian}
_BORDERS: dict[Score, int] = {"corners": _radius() + 1, "laplacian": 1}
"""Pixels that a score reads on each side of a place."""


def _differences(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """First differences down and right, second ones down, right and mixed: central, (…, h, w)."""
    up, down, left, right = x[..., :-2, 1:-1], x[..., 2:, 1:-1], x[..., 1:-1, :-2], x[..., 1:-1, 2:]
    twice = 2 * x[..., 1:-1, 1:-1]
    mixed = x[..., 2:, 2:] - x[..., 2:, :-2] - x[..., :-2, 2:] + x[..., :-2, :-2]
    return (down - up) / 2, (right - left) / 2, down + up - twice, right + left - twice, mixed / 4


def _refined(scored: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """−H⁻¹∇ at the chosen places, no further than half a pixel, in `PHASES` a pixel."""
    near = _cut(scored[:, None], row, column, (3, 3))[:, 0]
    first, second, down, right, mixed = (x[:, 0, 0] for x in _differences(near))
    bent = down * right - mixed * mixed
    sure = bent > 0
    bent = bent.where(sure, torch.ones_like(bent))
    moves = (mixed * second - right * first) / bent, (mixed * first - down * second) / bent
    row, column = (
        (PHASES * x.where(sure, torch.zeros_like(x)).clamp(-0.5, 0.5)).round().long() for x in moves
    )
    return row, column


def _cut(
    x: Float[Tensor, "batch chan height width"], top: Tensor, left: Tensor, size: tuple[int, int]
) -> Float[Tensor, "batch chan rows columns"]:
    """A window of each picture, at a place of its own."""
    rows, columns = (
        at[:, None] + torch.arange(side, device=x.device)
        for at, side in zip((top, left), size, strict=True)
    )
    each = torch.arange(len(x), device=x.device)[:, None, None]
    return x.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _resampled(x: Tensor, kernels: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each picture fractions of a pixel further down and right, and `REACH` less on each side."""
    batch, channels = x.shape[:2]
    down, right = (
        kernels[phases + PHASES // 2].to(x.dtype).repeat_interleave(channels, 0)[:, None]
        for phases in (down, right)
    )  # (B·C, 1, taps)
    y = F.conv2d(x.reshape(1, -1, *x.shape[2:]), down[..., None], groups=batch * channels)
    y = F.conv2d(y, right[:, :, None], groups=batch * channels)
    return y.reshape(batch, channels, *y.shape[2:])


def _low_passes() -> Float[Tensor, "fractions taps"]:
    """The filters for −1/2, …, 1/2 pixel, in steps of 1 / `PHASES`; all of gain 1.

    h(d) = sinc(c d) · I₀(β √(1 − (d / r)²)), d in pixels, c the cutoff and r the reach.
    """
    places = torch.arange(-REACH, REACH + 1, dtype=torch.float64)
    away = places - torch.arange(-PHASES // 2, PHASES // 2 + 1)[:, None] / PHASES
    inside = (1 - (away / REACH).square()).clamp(min=0)
    taps = torch.sinc(CUTOFF * away) * torch.special.i0(_BETA * inside.sqrt()) * (inside > 0)
    return (taps / taps.sum(1, keepdim=True)).float()


def _from_the_middle(rows: int, columns: int) -> Tensor:
    """Places, row by row, sorted by how far they are from the middle."""
    down, right = (torch.arange(side) - side // 2 for side in (rows, columns))
    return (down[:, None] ** 2 + right**2).flatten().argsort(stable=True)
