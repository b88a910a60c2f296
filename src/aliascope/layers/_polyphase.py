"""The s_h · s_w components of a map, one of which is kept: what APS, LPS and TIPS share."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from aliascope.layers._downsampler import (
    Downsampler,
    Pair,
    as_laid_out,
    binomial,
    depthwise,
    extend,
    filtered,
)


def polyphase(
    x: Float[Tensor, "batch chan h w"],
    strides: tuple[int, int],
    padding: str,
    phases: tuple[int, int] = (0, 0),
) -> Float[Tensor, "batch component chan h2 w2"]:
    """Every way to take every s-th pixel: component i·s_w + j holds x[s_h·a + i, s_w·b + j].

    All have ⌈H/s_h⌉ × ⌈W/s_w⌉ samples: a side that s does not divide is continued by its padding.

    >>> polyphase(torch.arange(4.0).view(1, 1, 1, 4), (1, 2), "zeros").flatten(2).tolist()
    [[[0.0, 2.0], [1.0, 3.0]]]
    """
    rows, columns = (
        (phase, phase - (-side // step) * step)
        for side, step, phase in zip(x.shape[2:], strides, phases, strict=True)
    )
    x = extend(x, rows, columns, padding)
    s_h, s_w = strides
    return torch.stack([x[:, :, i::s_h, j::s_w] for i in range(s_h) for j in range(s_w)], 1)


class Slot:
    """Hands one choice from a layer to another within a forward, and keeps nothing after it."""

    choice: Tensor | None = None

    def __reduce__(self) -> tuple:
        """Copies and pickles start empty: a choice may hold the graph of its forward."""
        return Slot, ()


class PolyphaseChoice(Downsampler):
    """Keeps one polyphase component an image; subclasses say which in `scores`.

    **Sharing a choice.** The two branches of a residual block have to keep the same component, or
    their sum mixes shifted maps. Explicitly: `choice = main.choose(x)`, then `main(x, choice)` and
    `shortcut(z, choice)`. Where nobody can pass an argument, as in a converted model:
    `shortcut.follow(main)` once, after which every forward of `shortcut` takes the component that
    the latest forward of `main` chose. `main` must run first; each choice is handed over once and
    then forgotten, so nothing stale is ever used and no graph is kept alive. A deep copy of a model
    that holds both follows its own copy. Not for two threads in the same model at once.
    """

    def __init__(self, channels: int, stride: Pair, size: int, padding: str) -> None:
        super().__init__(channels, stride, padding)
        self.size = size
        self.followers: list[Slot] = []
        self.leader: Slot | None = None
        taps = binomial(size)
        # Not persistent: a converted model's state_dict is the original's.
        self.register_buffer("kernel", depthwise(taps, taps, channels), persistent=False)
        self.kernel: Tensor

    def follow(self, leader: "PolyphaseChoice") -> None:
        """Take, from now on, the component that `leader` chose last.

        Raises:
            ValueError: the strides differ.
        """
        if leader.strides != self.strides:
            raise ValueError(
                f"a layer of stride {self.strides} cannot follow one of stride {leader.strides}"
            )
        self.leader = Slot()
        leader.followers.append(self.leader)

    def forward(
        self, x: Float[Tensor, "batch chan h w"], choice: Shaped[Tensor, "batch *p"] | None = None
    ) -> Float[Tensor, "batch chan h2 w2"]:
        """Blur, then keep one component of each image, chosen here unless `choice` says which.

        Raises:
            RuntimeError: a follower ran before its leader.
        """
        components = self._components(self.dense(x))
        choice = self._choice(components) if choice is None else choice
        self.hand_over(choice)
        return as_laid_out(_kept(components, choice), x)

    def hand_over(self, choice: Shaped[Tensor, "batch *p"] | None) -> None:
        """Let those that follow take this choice; what this layer was given itself is spent."""
        if self.leader is not None:
            self.leader.choice = None
        for slot in self.followers:
            slot.choice = choice

    def choose(self, x: Float[Tensor, "batch chan h w"]) -> Shaped[Tensor, "batch *p"]:
        """What `forward` would keep of these maps: an index an image, or a weight a component.

        Raises:
            RuntimeError: a follower is asked before its leader ran.
        """
        return self.choice_of(self.dense(x))

    def dense(self, x: Float[Tensor, "batch chan h w"]) -> Float[Tensor, "batch chan h w"]:
        """The blurred map; without a blur, the map itself."""
        if self.size == 1:
            return self.checked(x)
        before = (self.size - 1) // 2
        return filtered(self.checked(x), self.kernel, (-before, -before), (1, 1), self.padding)

    def choice_of(self, dense: Float[Tensor, "batch chan h w"]) -> Shaped[Tensor, "seen *p"]:
        """What is kept of this map; of a follower, what its leader has just chosen, unspent.

        Raises:
            RuntimeError: a follower is asked before its leader ran.
        """
        return self._choice(self._components(dense))

    def sample(
        self,
        dense: Float[Tensor, "batch chan h w"],
        choice: Shaped[Tensor, "batch *p"] | None = None,
    ) -> Float[Tensor, "batch chan h2 w2"]:
        """The component that is kept of what `dense` returned; nothing is handed over."""
        components = self._components(dense)
        return as_laid_out(
            _kept(components, self._choice(components) if choice is None else choice), dense
        )

    def _components(self, dense: Tensor) -> Tensor:
        return polyphase(dense, self.strides, self.padding)

    def _choice(self, components: Tensor) -> Tensor:
        if self.leader is None:
            return self._chosen(components)
        if self.leader.choice is None:
            raise RuntimeError(
                "a polyphase layer ran before the one that it follows; let the layer that runs "
                "first be the leader"
            )
        return self.leader.choice

    def _chosen(self, components: Float[Tensor, "batch p chan h w"]) -> Shaped[Tensor, "batch *p"]:
        raise NotImplementedError


def _kept(
    components: Float[Tensor, "batch p chan h w"], choice: Shaped[Tensor, "batch *p"]
) -> Float[Tensor, "batch chan h w"]:
    if choice.is_floating_point():
        return mixed(components, choice)
    return components[torch.arange(choice.shape[0], device=choice.device), choice]


def mixed(
    components: Float[Tensor, "batch p chan h w"], weights: Float[Tensor, "batch p"]
) -> Float[Tensor, "batch chan h w"]:
    """The weighted sum of an image's components."""
    return (components * weights[:, :, None, None, None].to(components.dtype)).sum(1)


class ComponentScore(nn.Module):
    """A small net that every component goes through alone: 3×3, ReLU, 3×3 to one map, its mean.

    Its last layer starts at zero, so that at first all components score alike.
    """

    def __init__(self, channels: int, hidden: int, padding: str) -> None:
        super().__init__()
        self.padding = padding
        self.features = nn.Conv2d(channels, hidden, 3)
        self.score = nn.Conv2d(hidden, 1, 3, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, components: Float[Tensor, "batch p chan h w"]) -> Float[Tensor, "batch p"]:
        """One number a component."""
        y = components.flatten(0, 1).to(self.score.weight.dtype)
        for conv in (self.features, self.score):
            y = conv(extend(y, (-1, y.shape[2] + 1), (-1, y.shape[3] + 1), self.padding))
            y = y.relu() if conv is self.features else y
        return y.float().mean((1, 2, 3)).unflatten(0, components.shape[:2])
