"""LPSPool: a small net chooses the polyphase component."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from aliascope.layers._downsampler import Pair
from aliascope.layers._polyphase import ComponentScore, PolyphaseChoice
from aliascope.layers.aps import first_largest, loudness


class LPSPool(PolyphaseChoice):
    """Learnable polyphase sampling: keep the component that a shared net scores highest.

    y = x[s_h·a + i, s_w·b + j], (i, j) = argmax f(x[i::s_h, j::s_w]), one (i, j) an image. f is a
    small convolutional net with a global mean at its end, the same for all components, so that a
    shift of the map permutes the scores. In training, one component is drawn: the
    largest of softmax((f + g) / τ), g being Gumbel noise, with the gradient of that softmax
    (straight-through). The noise comes from PyTorch's global generator, as that of dropout does.

    A fresh layer is `APSPool` in eval mode: the net's last layer starts at zero, and equal scores
    are settled by the l2 norm. A pretrained network thus starts from what APS makes of it. In
    eval mode it is exact where `APSPool` is, up to scores that differ by rounding errors only.

    How the two branches of a residual block keep the same component: see `follow` and `choose`.

    Args:
        channels: C of the maps it takes.
        stride: s, or (rows, columns).
        size: taps of the blur before it, 1 to 7; 1 is none.
        padding: how the border is continued, in the net too: reflect, zeros, replicate, circular.
        hidden: channels inside the net.
        temperature: τ above 0; the lower, the closer to a choice without noise.

    Raises:
        ValueError: an argument out of range.

    Source: Rojas-Gomez et al. 2022, Learnable Polyphase Sampling for Shift Invariant and
        Equivariant Convolutional Networks (arXiv 2210.08001), section 4.

    >>> LPSPool(1, (1, 2), size=1).eval()(torch.tensor([[[[1.0, 5.0, 1.0, 6.0]]]])).tolist()
    [[[[5.0, 6.0]]]]
    """

    shown = ("stride", "size", "padding", "hidden", "temperature")

    def __init__(
        self,
        channels: int,
        stride: Pair = 2,
        *,
        size: int = 3,
        padding: str = "reflect",
        hidden: int = 16,
        temperature: float | int = 1,
    ) -> None:
        super().__init__(channels, stride, size, padding)
        if hidden < 1 or temperature <= 0:
            raise ValueError(
                f"hidden must be at least 1 and temperature above 0, got {hidden}, {temperature}"
            )
        self.hidden, self.temperature = hidden, temperature
        self.net = ComponentScore(channels, hidden, padding)

    def follow(self, leader: PolyphaseChoice) -> None:
        """As any layer that chooses; what it would have scored components with is gone."""
        super().follow(leader)
        del self.net

    def _chosen(self, components: Float[Tensor, "batch p chan h w"]) -> Shaped[Tensor, "batch *p"]:
        scores = self.net(components)
        if not self.training:
            return first_largest((scores, *loudness(components, "l2")))
        noise = -torch.empty_like(scores).exponential_().log()
        soft = ((scores + noise) / self.temperature).softmax(1)
        hard = torch.zeros_like(soft).scatter(1, soft.argmax(1, keepdim=True), 1.0)
        return hard + soft - soft.detach()
