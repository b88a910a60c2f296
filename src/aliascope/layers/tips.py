"""TIPSPool: a mixture of the polyphase components, with learned weights."""

from jaxtyping import Float
from torch import Tensor

from aliascope.layers._downsampler import (
    Downsampler,
    Pair,
    as_laid_out,
    per_axis,
)
from aliascope.layers._polyphase import ComponentScore, mixed, polyphase


class TIPSPool(Downsampler):
    """Translation-invariant polyphase sampling: a softmax-weighted sum of the components.

    y = Σ_ij τ_ij x[s_h·a + i, s_w·b + j], τ = softmax f(x[i::s_h, j::s_w]) over the s_h · s_w
    components, one set of weights an image, f a small net that all components share. The paper's
    two penalties on τ belong to training and are not in here.

    A fresh layer is the mean of each s_h × s_w cell (`AvgPool2d(s)`, for s = 2 a `BlurPool` of two
    taps): the net's last layer starts at zero.

    Args:
        channels: C of the maps it takes.
        stride: s, or (rows, columns).
        size: ignored, a cell is mixed; here so that all layers are called alike.
        padding: how the border is continued, in the net too: reflect, zeros, replicate, circular.
        phase: the sample of each cell at which the mixture starts, one number or (rows, columns).
        hidden: channels inside the net.

    Raises:
        ValueError: an argument out of range.

    Source: Saha & Gokhale 2025, Improving Shift Invariance in Convolutional Neural Networks with
        Translation Invariant Polyphase Sampling (arXiv 2404.07410), section 4.

    >>> import torch
    >>> TIPSPool(1)(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])).item()
    3.0
    """

    shown = ("stride", "padding", "phase", "hidden")

    def __init__(
        self,
        channels: int,
        stride: Pair = 2,
        *,
        size: int = 3,
        padding: str = "reflect",
        phase: Pair = 0,
        hidden: int = 16,
    ) -> None:
        del size
        super().__init__(channels, stride, padding)
        self.phase, self.phases = phase, per_axis(phase, self.strides)
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {hidden}")
        self.hidden = hidden
        self.net = ComponentScore(channels, hidden, padding)

    def forward(self, x: Float[Tensor, "batch chan h w"]) -> Float[Tensor, "batch chan h2 w2"]:
        """Score the components and mix them."""
        return self.sample(self.dense(x))

    def dense(self, x: Float[Tensor, "batch chan h w"]) -> Float[Tensor, "batch chan h w"]:
        """The map itself: what mixes its components is no filter, but their weights."""
        return self.checked(x)

    def choice_of(self, dense: Float[Tensor, "batch chan h w"]) -> Float[Tensor, "batch p"]:
        """The weight of each component."""
        return self.net(self._components(dense)).softmax(1)

    def sample(
        self, dense: Float[Tensor, "batch chan h w"], choice: Float[Tensor, "batch p"] | None = None
    ) -> Float[Tensor, "batch chan h2 w2"]:
        """The mixture of the components of what `dense` returned."""
        components = self._components(dense)
        weights = self.net(components).softmax(1) if choice is None else choice
        return as_laid_out(mixed(components, weights), dense)

    def _components(self, dense: Tensor) -> Tensor:
        return polyphase(dense, self.strides, self.padding, self.starts)
