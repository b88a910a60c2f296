"""How fast weights move, which of them decay, and their average over the steps."""

import math

import torch
from torch import Tensor, nn

from aliascope.finetune.settings import FinetuneSettings
from aliascope.runtime import copied

_GROWN = 0.75
"""Share of the steps after which views have their full size."""
_GRID = 32
"""What sides are multiples of on the way: the cumulative stride of most networks."""


def rate_at(step: int, settings: FinetuneSettings) -> float:
    """The rate of one step, counted from 0: a straight rise, then half a cosine down to 0.

    peak · (step + 1) / warmup, then peak · (1 + cos(π (step − warmup) / (steps − warmup))) / 2
    """
    warmup = settings.warmup or 0
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(settings.steps - warmup, 1)
    return settings.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def side_at(step: int, side: int, settings: FinetuneSettings) -> int:
    """Pixels of the views of one step: a straight rise, in steps of 32, to the side asked for.

    >>> settings = FinetuneSettings(steps=100, resolution=0.5)
    >>> [side_at(step, 224, settings) for step in (0, 30, 75, 99)]
    [128, 160, 224, 224]
    """
    grown = min(step / max(_GROWN * settings.steps, 1), 1)
    share = settings.resolution + (1 - settings.resolution) * grown
    return min(max(_GRID * math.ceil(side * share / _GRID), _GRID), side)


def optimiser(model: nn.Module, settings: FinetuneSettings) -> torch.optim.AdamW:
    """AdamW; norms, biases and other vectors do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    decaying = [p for p in trained if p.ndim > 1]
    others = [p for p in trained if p.ndim <= 1]
    groups = [
        {"params": decaying, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.learning_rate)


class Average:
    """The exponential moving average of a model's weights and statistics.

    a ← d a + (1 − d) w with d = min(decay, (1 + t) / (10 + t)) after step t = 1, 2, …: a short run
    would else end near the weights that it began with.
    """

    def __init__(self, model: nn.Module, decay: int | float) -> None:
        self.module = copied(model).eval()
        self._decay = decay
        self._pairs: list[tuple[Tensor, Tensor]] = []
        own, theirs = self.module.state_dict(), model.state_dict()
        for name, tensor in own.items():
            self._pairs.append((tensor, theirs[name]))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the model's weights after that many steps."""
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        for average, current in self._pairs:
            if average.is_floating_point():
                average.lerp_(current, weight)
            else:
                average.copy_(current)
