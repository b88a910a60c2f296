"""A picture made smaller before the network sees it: what pays for a repair."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from aliascope.inference.averaging import check_frame


class SmallerFrame(nn.Module):
    """A network at a lower resolution than it was made for.

    y = f(R x), R a bicubic resize with antialiasing, which exports as two matrix products. The cost
    of f falls with the number of pixels. Whoever can resize the photograph itself spares R.

    Args:
        model: takes (B, C, *seen).
        size: rows and columns of the frames that it is given.
        seen: of what the network sees of them.

    >>> net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> SmallerFrame(net, (32, 32), (24, 24))(torch.ones(1, 3, 32, 32)).shape
    torch.Size([1, 3])
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, model: nn.Module, size: tuple[int, int], seen: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.size, self.seen = model, size, seen
        for name, before, after in zip(("rows", "columns"), size, seen, strict=True):
            whole = _resized(torch.eye(before)[None, None], (after, before))[0, 0]
            self.register_buffer(name, whole, persistent=False)

    def forward(self, frames: Float[Tensor, "batch chan height width"]) -> Tensor:
        """Frames → what the network says of them."""
        check_frame(frames, self.size)
        # Few runtimes know a resize with antialiasing.
        if torch.compiler.is_compiling():
            seen = self.rows.to(frames) @ frames @ self.columns.to(frames).mT
        else:
            seen = _resized(frames, self.seen)
        return self.model(seen)

    def extra_repr(self) -> str:
        """What it was made with."""
        return f"size={self.size}, seen={self.seen}"


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False)
