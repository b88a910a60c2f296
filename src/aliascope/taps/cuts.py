"""Where a network can be cut in two: all that samples to one cumulative stride, at once."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aliascope.taps.dataflow import Trace, watch
from aliascope.taps.decimation import Decimation
from aliascope.taps.replay import Replay, Undefined


@dataclass(frozen=True)
class Cut:
    """The layers that sample to one cumulative stride: what all paths to the output cross once."""

    scale: tuple[float, float]
    """Image pixels per sample behind it, along rows and columns."""
    places: tuple[Decimation, ...]
    """In the order of execution."""

    @property
    def names(self) -> list[str]:
        """Of its layers."""
        return [place.layer.name for place in self.places]


def cuts(decimations: Iterable[Decimation]) -> list[Cut]:
    """The depths of a network, from fine to coarse, by what its layers decimate.

    Whether all paths really lead through a cut shows when `Continuation` is asked to go on from it.
    """
    found: dict[tuple[float, float], list[Decimation]] = defaultdict(list)
    for place in decimations:
        found[place.layer.cumulative_stride].append(place)
    return [Cut(scale, tuple(found[scale])) for scale in sorted(found, key=lambda s: s[0] * s[1])]


class Continuation:
    """A network's output from what its layers hand on at a cut: only what follows is computed.

    Args:
        model: in eval mode, as it was when its layers' decimations were found.
        example: what it takes; all that it goes on from later must be of as many pictures.
        logits: takes from what the model returns the tensor that is wanted.

    Raises:
        Undefined: the output cannot be made again from the recorded calls.

    >>> from aliascope.taps import decimations, trace
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    >>> x = torch.randn(2, 3, 16, 16)
    >>> found, _ = decimations(net.eval(), trace(net, x))
    >>> first, second = cuts(found.values())
    >>> pooled = found["2"].handed_on(found["2"](net[:2](x)))
    >>> torch.equal(Continuation(net, x, lambda y: y).of(second, [pooled]), net(x))
    True
    """

    def __init__(
        self,
        model: nn.Module,
        example: Float[Tensor, "batch chan h w"],
        logits: Callable[[Any], Tensor],
    ) -> None:
        self._recorded = Trace()
        with watch(model, self._recorded), torch.no_grad():
            end = self._recorded.maker(logits(model(example)))
        if end is None:
            raise Undefined("its output does not depend on the picture in a way that was seen")
        self._end = end
        self._named = self._recorded.named()
        self._replays: dict[tuple[int, ...], Replay] = {}

    def of(self, cut: Cut, handed_on: Sequence[Tensor]) -> Tensor:
        """The output where the layers of a cut hand these on.

        Raises:
            Undefined: a path from the picture to the output leads past the cut.
        """
        nodes = tuple(self._named.get(place.node, -1) for place in cut.places)
        if -1 in nodes:
            raise Undefined("other operations run there than on a single picture")
        if nodes not in self._replays:
            self._replays[nodes] = Replay(self._recorded.programs, nodes, self._end)
        strides = self._recorded.strides
        return self._replays[nodes](
            {node: _laid_out(x, strides[node]) for node, x in zip(nodes, handed_on, strict=True)}
        )


def _laid_out(x: Tensor, strides: tuple[int, ...]) -> Tensor:
    """The map as it lay in the forward: recorded calls took it as it was."""
    if x.stride() == strides:
        return x
    return torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device).copy_(x)
