"""Changing a network as planned, without moving any of its names.

A downsampler becomes a child of the module that it runs before ("0") or after ("1"), and a hook of
that module calls it, as torch does for its own parametrizations. Wrapping the module in a
Sequential would rename its weights and hide its attributes (`conv.weight`, `bn.eps`) from code that
reads them; swapping in a subclass cannot be pickled and loses `type(m) is nn.ReLU`. The hooks are
instances of module-level classes that hold a name and no module, so that a deep copy calls its own
child, and they run under `torch.export`, `torch.compile` and `torch.fx` like any other.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from aliascope.antialias.downsamplers import downsampler
from aliascope.antialias.places import Place, Step
from aliascope.antialias.recipe import Recipe
from aliascope.layers._polyphase import PolyphaseChoice
from aliascope.taps import Trace
from aliascope.taps.decimation import densify
from aliascope.taps.sampling import pair


@dataclass(frozen=True)
class Before:
    """Forward pre-hook: what the module reads goes through its child first."""

    child: str

    def __call__(self, module: nn.Module, args: tuple) -> tuple:
        """Called by torch with the positional arguments; what it returns takes their place."""
        return (getattr(module, self.child)(args[0]), *args[1:])


@dataclass(frozen=True)
class After:
    """Forward hook: what the module made goes through its child."""

    child: str

    def __call__(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        """Called by torch with the output; what it returns takes its place."""
        del args
        return getattr(module, self.child)(output)


@dataclass(frozen=True)
class Crop:
    """Forward hook: drop what a floor-mode average pool of the same map would not have made."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def __call__(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        """Called by torch with the output; what it returns takes its place."""
        del module
        rows, columns = (
            (side + 2 * pad - taps) // step + 1
            for side, taps, step, pad in zip(
                args[0].shape[2:], self.kernel, self.stride, self.padding, strict=True
            )
        )
        return output[:, :, :rows, :columns]


class PerChannels(nn.ModuleDict):
    """The downsamplers of a pool that several stages share, by their number of channels."""

    def forward(self, x: Tensor) -> Tensor:
        """Take the one that fits."""
        return self[str(x.shape[1])](x)


def operate(model: nn.Module, steps: list[Step], recipe: Recipe, device: torch.device) -> list[str]:
    """Carry out the steps of one operation, one for each time it runs.

    Returns:
        The downsamplers' names as layers, as many as steps.
    """
    first = steps[0]
    module: Any = model.get_submodule(first.module)
    pool: nn.Module
    pools = {
        str(step.channels): downsampler(
            recipe.method,
            step.channels,
            step.stride,
            size=recipe.size,
            padding=recipe.padding,
            wavelet=recipe.wavelet,
            phase=step.phase,
        )
        for step in steps
    }
    shared = len(steps) > 1
    pool = PerChannels(pools) if shared else pools[str(first.channels)]
    pool.to(device).train(model.training)
    if isinstance(module, nn.AvgPool2d):
        if not module.ceil_mode and type(module).forward is nn.AvgPool2d.forward:
            crop = Crop(pair(module.kernel_size), first.stride, pair(module.padding))
            for each in pools.values():
                each.register_forward_hook(crop)
        # The downsampler is the average, and that of a single sample is the sample.
        module.kernel_size, module.stride, module.padding = (1, 1), (1, 1), (0, 0)
    elif first.dense:
        densify(module)
    name = _attach(model.get_submodule(first.place.module), first.place, pool)
    if not shared:
        return [name]
    widths = [step.channels for step in steps]
    runs = (widths[: i + 1].count(width) for i, width in enumerate(widths))
    return [
        f"{name}.{width}" + f"#{run}" * (run > 1) for width, run in zip(widths, runs, strict=True)
    ]


def _attach(host: nn.Module, place: Place, pool: nn.Module) -> str:
    """Make the downsampler a child, and let a hook of its host call it."""
    child = {"before": "0", "after": "1"}[place.side]
    while hasattr(host, child):
        child += "_"
    host.add_module(child, pool)
    if place.side == "before":
        host.register_forward_pre_hook(Before(child))
    else:
        host.register_forward_hook(After(child))
    return f"{place.module}.{child}"


def share_choices(model: nn.Module, recorded: Trace) -> list[str]:
    """Let polyphase layers whose outputs meet keep the same component of an image.

    Where two branches join (a residual sum, a concatenation), the last such layer of each branch
    that the other has not: whichever runs first leads.

    Returns:
        The modules where branches join that cannot share a choice.
    """
    apart: list[str] = []
    modules = dict(model.named_modules())
    choosers: dict[int, PolyphaseChoice] = {}
    leaders: dict[int, int] = {}
    ancestors: list[int] = []
    for index, call in enumerate(recorded.calls):
        module = modules.get(call.module)
        once = recorded.counts[call.module] == 1
        if call.sampling and once and isinstance(module, PolyphaseChoice):
            choosers[index], leaders[index] = module, index
        for left, right in combinations([ancestors[parent] for parent in call.parents], 2):
            one, other = _last(choosers, left & ~right), _last(choosers, right & ~left)
            if (one is None and other is None) or isinstance(module, PolyphaseChoice):
                continue
            if one is None or other is None or not _alike(recorded, one, other):
                apart.append(call.module or "the model")
                continue
            first, second = sorted((leaders[one], leaders[other]))
            leaders = {i: first if leader == second else leader for i, leader in leaders.items()}
        own = 1 << index
        for parent in call.parents:
            own |= ancestors[parent]
        ancestors.append(own)
    for index, leader in leaders.items():
        if index != leader:
            choosers[index].follow(choosers[leader])
    return list(dict.fromkeys(apart))


def _last(choosers: dict[int, PolyphaseChoice], calls: int) -> int | None:
    """The one among a bit set of calls that ran last."""
    return max((index for index in choosers if calls >> index & 1), default=None)


def _alike(recorded: Trace, one: int, other: int) -> bool:
    """Whether two layers go from the same grid to the same grid, of as many maps."""
    a, b = recorded.calls[one], recorded.calls[other]
    if a.sampling is None or b.sampling is None:
        return False
    as_many = len(a.sampling.input) == len(b.sampling.input)  # heads may be maps of their own
    return as_many and a.scale == b.scale and a.sampling.stride == b.sampling.stride
