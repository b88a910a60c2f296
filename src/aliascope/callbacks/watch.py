"""A few fixed images, and what a network in training makes of them: what every callback does."""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from aliascope.errors import ModelError
from aliascope.metrics import FIGURES, Aliasing, Shifts

PREFIX = "aliascope"


class Watch:
    """Measures a network on the same images again and again.

    Where several processes train, each measures its share of the images on its own replica, and the
    sums are added up, so that all of them have the same means. All must call `measured` alike.

    Args:
        images: as the network takes them, normalised, the same in every process; one pixel wider on
            each side under crop shifts. They stay on the CPU.
        every: optimiser steps between two measurements; None leaves it to the callback.
        network: the dotted name of what to measure inside of what trains; "" is all of it.
        figures: of each layer, as for `aliasing`.
        shifts: as for `aliasing`; None measures the layers alone.
        batch_size: images per forward, as for `aliasing`.

    >>> watch = Watch(torch.rand(2, 3, 16, 16), figures=["avr"], shifts=None)
    >>> list(watch.measured(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2))))
    ['aliascope/avr/0']
    """

    def __init__(
        self,
        images: Float[Tensor, "batch chan h w"],
        *,
        every: int | None = None,
        network: str = "",
        figures: Sequence[str] = FIGURES,
        shifts: Shifts | None = "circular",
        batch_size: int = 16,
    ) -> None:
        if every is not None and every < 1:
            raise ModelError(f"every={every} is no number of steps: give at least 1, or None")
        self._images = images.detach().cpu()
        self.every = every
        self._network = network
        self._figures, self._batch_size = figures, batch_size
        self._shifts: Shifts | None = shifts
        self._metric: Aliasing | None = None
        self._latest: int | None = None

    def due(self, step: int) -> bool:
        """Whether to measure after so many optimiser steps; once, however often it is asked.

        >>> watch = Watch(torch.rand(2, 3, 16, 16), every=2)
        >>> [watch.due(step) for step in (1, 2, 2, 3, 4)]
        [False, True, False, False, True]
        """
        if self.every is None or step % self.every or step == self._latest:
            return False
        self._latest = step
        return True

    def measured(self, model: nn.Module) -> dict[str, float]:
        """`aliascope/FIGURE/LAYER`, `aliascope/sis` and so on → the mean over all images.

        What is undefined is left out. The network's modes, gradients, statistics and hooks, and the
        random state are as before.

        Raises:
            ModelError: there is no such network, it fails on the images, or there are fewer images
                than processes.
        """
        network = self._part(model)
        if self._metric is None:
            self._metric = Aliasing(
                network,
                self._images,
                figures=self._figures,
                shifts=self._shifts,
                batch_size=self._batch_size,
            )
        metric = self._metric.to(_meeting_place(network))
        metric.reset()
        metric.update(network, self._share())
        means = {name: value.item() for name, value in metric.compute().items()}
        return {f"{PREFIX}/{name}": x for name, x in means.items() if math.isfinite(x)}

    def _part(self, model: nn.Module) -> nn.Module:
        try:
            return model.get_submodule(self._network)
        except AttributeError as error:
            known = ", ".join(name for name, _ in model.named_children())
            raise ModelError(
                f"{type(model).__name__} has no module {self._network!r}: choose from {known}"
            ) from error

    def _share(self) -> Tensor:
        together = dist.is_available() and dist.is_initialized()
        rank, processes = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        if len(self._images) < processes:
            raise ModelError(
                f"{len(self._images)} images for {processes} processes: give at least one to each"
            )
        return self._images[rank::processes]


def _meeting_place(network: nn.Module) -> torch.device:
    """Where sums are kept: with the network, so that NCCL can add them; Apple's has no float64."""
    place = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    return torch.device("cpu") if place.type == "mps" else place
