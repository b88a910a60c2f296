"""A picture made smaller before the network sees it: what pays for a repair."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from aliascope.inference.averaging import check_frame


class SmallerFrame(nn.Module):
    """A network at a lower resolution than it was made for.

    y = f(R x), R a bicubic resize with antialiasing. The cost of f falls with the number of pixels.
    Whoever can resize the photograph itself to that size spares R.

    Args:
        model: takes (B, C, *seen).
        size: rows and columns of the frames that it is given.
        seen: of what it sees of them.

    >>> net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> SmallerFrame(net, (32, 32), (24, 24))(torch.ones(1, 3, 32, 32)).shape
    torch.Size([1, 3])
    """

    def __init__(self, model: nn.Module, size: tuple[int, int], seen: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.size, self.seen = model, size, seen

    def forward(self, frames: Float[Tensor, "batch chan height width"]) -> Tensor:
        """Frames → what the network says of them."""
        check_frame(frames, self.size)
        seen = F.interpolate(frames, self.seen, mode="bicubic", antialias=True, align_corners=False)
        return self.model(seen)

    def extra_repr(self) -> str:
        """What it was made with."""
        return f"size={self.size}, seen={self.seen}"
