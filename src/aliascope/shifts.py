"""The shift plan: which one-pixel shifts a prediction must survive, and the views they make."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Shift:
    """A circular shift of the picture."""

    name: str
    rows: int
    """Pixels downwards; negative moves the picture up."""
    columns: int
    """Pixels to the right."""


ONE_PIXEL = (Shift("up", -1, 0), Shift("down", 1, 0), Shift("left", 0, -1), Shift("right", 0, 1))
"""The published plan."""


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
