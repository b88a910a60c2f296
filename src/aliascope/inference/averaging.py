"""The mean of what a network says of several windows."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aliascope.errors import ModelError
from aliascope.stability import logits_of
from aliascope.taps import strided_layers

Offset = tuple[int, int]
"""Rows and columns of a window's corner in the frame."""


class ShiftAverage(nn.Module):
    """The mean of a classifier's logits over several windows of a frame.

    z(x) = 1/K Σ_k f(W_k x), at K times the cost. Offsets half a patch apart are phase
    marginalisation of a network that reads patches.

    Args:
        model: takes (B, C, *size) and returns logits.
        size: rows and columns that it takes.
        offsets: of the windows' corners; the frame is as large as they need.

    Source: test-time augmentation; of patches: Ercan 2026 (arXiv 2606.08132), with K = 4.

    >>> net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> ShiftAverage(net, (2, 2), [(0, 0), (0, 1)])(torch.eye(3)[None, None, :2].expand(1, 2, 2, 3))
    tensor([[0.3750, 0.3750]])
    """

    def __init__(self, model: nn.Module, size: tuple[int, int], offsets: Sequence[Offset]) -> None:
        super().__init__()
        if not offsets or min(map(min, offsets)) < 0:
            raise ModelError(f"offsets are pixels from the frame's corner, got {list(offsets)}")
        self.model, self.size, self.offsets = model, size, tuple(offsets)

    def forward(self, frames: Float[Tensor, "batch chan height width"]) -> Tensor:
        """Frames → logits (B, K)."""
        rows, columns = self.size
        down, right = (max(side) for side in zip(*self.offsets, strict=True))
        check_frame(frames, (rows + down, columns + right))
        windows = [frames[..., r : r + rows, c : c + columns] for r, c in self.offsets]
        # Image by image, so that the maps of one image lie together.
        logits = logits_of(self.model(torch.stack(windows, dim=1).flatten(0, 1)))  # (B·K, classes)
        return logits.unflatten(0, (-1, len(windows))).mean(1)

    def extra_repr(self) -> str:
        """What it was made with."""
        return f"size={self.size}, offsets={self.offsets}"


def half_phases(module: nn.Module, channels: int, size: tuple[int, int]) -> list[Offset]:
    """Four windows, by half a stride of the first layer that samples apart: half a patch, say.

    Raises:
        ModelError: the network does not sample.

    >>> half_phases(nn.Conv2d(3, 8, 16, 16), 3, (32, 32))
    [(0, 0), (0, 8), (8, 0), (8, 8)]
    """
    layers = strided_layers(module, torch.zeros(1, channels, *size))
    if not layers:
        raise ModelError(
            "the network does not downsample, so shift-average has no phases to average"
        )
    half = max(int(layers[0].stride[0]) // 2, 1)
    return [(r, c) for r in (0, half) for c in (0, half)]


def check_frame(frames: Tensor, expected: tuple[int, int]) -> None:
    """Refuse frames of another size than the wrapper takes.

    Raises:
        ModelError: it is another one.
    """
    found = tuple(frames.shape[-2:])
    if found != expected:
        raise ModelError(
            f"the wrapper takes frames of {expected[0]} × {expected[1]} pixels, got {found[0]} × "
            f"{found[1]}: give the preprocessing that `load_model` returns with it"
        )
