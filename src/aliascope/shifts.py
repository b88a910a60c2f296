"""The shift plan: which one-pixel shifts a prediction must survive, and the views they make."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

Border = Literal["circular", "crop", "half", "native"]
"""How the picture moves: rolled, so that its other side comes in at the border; the window over the
photograph by one of the network's pixels, or by half of one; or by one of the photograph's own,
before the resize."""

FRACTIONAL: tuple[Border, ...] = ("half", "native")
"""Those that move the photograph before the resize, by less than one of the network's pixels."""


@dataclass(frozen=True)
class Shift:
    """A shift of the picture."""

    name: str
    rows: int
    """Pixels downwards; negative moves the picture up."""
    columns: int
    """Pixels to the right."""


ONE_PIXEL = (Shift("up", -1, 0), Shift("down", 1, 0), Shift("left", 0, -1), Shift("right", 0, 1))
"""The published plan."""


def largest(plan: Sequence[Shift]) -> int:
    """Pixels by which the plan moves the picture at most along one axis."""
    return max(max(abs(s.rows), abs(s.columns)) for s in plan)


def shifted_views(
    images: Float[Tensor, "batch chan h w"], plan: Sequence[Shift] = ONE_PIXEL
) -> Float[Tensor, "views chan h w"]:
    """The images themselves, then all of them under each shift: (1 + S)·B views, view by view.

    Convolutions see the pixels of one view together, so one forward serves all of them, and the
    first B rows of anything computed from it belong to the unshifted images.

    >>> views = shifted_views(torch.eye(2)[None, None], [Shift("down", 1, 0)])
    >>> views[1, 0].tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    views = [images, *(images.roll((s.rows, s.columns), dims=(-2, -1)) for s in plan)]
    return torch.cat(views).contiguous(memory_format=torch.channels_last)


def cropped_views(
    images: Float[Tensor, "batch chan h_wide w_wide"], plan: Sequence[Shift] = ONE_PIXEL
) -> Float[Tensor, "views chan h w"]:
    """As `shifted_views`, but by moving a window over a larger picture, as a camera would.

    Args:
        images: wider than the views by the largest shift of the plan on each side.
        plan: the shifts.

    Source: Zhang 2019 (arXiv 1904.11486), section 4.2: consistency under crop shifts.

    >>> picture = torch.arange(9.0).reshape(1, 1, 3, 3)
    >>> cropped_views(picture, [Shift("down", 1, 0)]).flatten().tolist()
    [4.0, 1.0]
    """
    views = list(windows(images, plan))
    return torch.cat(views).contiguous(memory_format=torch.channels_last)


def windows(
    pictures: Shaped[Tensor, "*axes h_wide w_wide"], plan: Sequence[Shift] = ONE_PIXEL
) -> Iterator[Shaped[Tensor, "*axes h w"]]:
    """What a window in the middle shows, and what it shows when the pictures move under it.

    >>> [int(window) for window in windows(torch.arange(9).reshape(3, 3))]
    [4, 7, 1, 5, 3]
    """
    margin = largest(plan)
    height, width = (side - 2 * margin for side in pictures.shape[-2:])
    corners = [(margin, margin), *((margin - s.rows, margin - s.columns) for s in plan)]
    return (pictures[..., top : top + height, left : left + width] for top, left in corners)
