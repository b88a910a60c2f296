"""Changing a network as planned, without moving any of its names.

A downsampler becomes a child of the module that it runs before ("0") or after ("1"), and a hook of
that module calls it, as torch does for its own parametrizations. Wrapping the module in a
Sequential would rename its weights and hide its attributes (`conv.weight`, `bn.eps`) from code that
reads them; swapping in a subclass cannot be pickled and loses `type(m) is nn.ReLU`. The hooks are
instances of module-level classes that hold a name and no module, so that a deep copy calls its own
child, and they run under `torch.export`, `torch.compile` and `torch.fx` like any other.
"""

import copy
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aliascope.antialias.downsamplers import downsampler
from aliascope.antialias.places import ChannelsLast, Place, Step
from aliascope.antialias.recipe import Recipe
from aliascope.errors import ModelError
from aliascope.layers._downsampler import binomial, depthwise
from aliascope.layers._polyphase import PolyphaseChoice
from aliascope.taps import Trace, evaluating
from aliascope.taps.dataflow import split_convolutions
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
    if first.folded:
        for part in split_convolutions(module) or [module]:
            if recipe.only_fits:
                mark(part, recipe.size)
            else:
                fold(part, recipe.size)
        return [first.module] * len(steps)
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
            cutoff=step.cutoff,
        )
        for step in steps
    }
    shared = len(steps) > 1
    pool = PerChannels(pools) if shared else pools[str(first.channels)]
    pool = ChannelsLast(pool) if first.channels_last else pool
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


def fold(conv: nn.Conv2d, size: int) -> None:
    """Put a binomial low-pass into the kernel of a strided convolution, in place.

    K'[o, i] = h ⊛ K[o, i], h of n × n taps: convolutions commute, so K' at the convolution's own
    stride yields what K at stride 1, h and decimation would, but at the border, where h would meet
    what was computed there and K' meets the padding of the input. The kernel grows by n − 1 taps
    and the padding by half of that on each side; nothing else changes.

    Args:
        conv: not dilated; its `low_pass` is n afterwards.
        size: n, odd.

    Raises:
        ModelError: what pads this convolution does not keep it centred.

    >>> conv = nn.Conv2d(1, 1, 1, 2, bias=False).requires_grad_(False)
    >>> fold(conv, 3)
    >>> tuple(conv.weight.shape), conv.padding
    ((1, 1, 3, 3), (1, 1))
    """
    more = size - 1
    side = 8 * (size + max(*conv.kernel_size, *conv.stride))
    centres = _centres(conv, side)
    rows, columns = conv.kernel_size
    taps = binomial(size)
    with torch.no_grad():
        kernels = conv.weight.reshape(-1, 1, rows, columns).double()
        kernels = F.conv2d(kernels, depthwise(taps, taps, 1).to(kernels), padding=more)
        shape = (*conv.weight.shape[:2], rows + more, columns + more)
        grown = kernels.reshape(shape).to(conv.weight)
    conv.weight = nn.Parameter(grown, requires_grad=conv.weight.requires_grad)
    conv.kernel_size = (rows + more, columns + more)
    if isinstance(conv.padding, tuple):
        conv.padding = (conv.padding[0] + more // 2, conv.padding[1] + more // 2)
        # As in its constructor; what the modes other than zeros pad by.
        conv._reversed_padding_repeated_twice = [  # noqa: SLF001
            side for pad in reversed(conv.padding) for side in (pad, pad)
        ]
    mark(conv, size)
    for before, after in zip(centres, _centres(conv, side), strict=True):
        inner = (slice(size, -size), slice(size, -size))  # away from the border
        if before.shape != after.shape or not torch.allclose(before[inner], after[inner]):
            raise ModelError(
                f"{type(conv).__name__} pads in a way of its own, so that a larger kernel would "
                "not stay centred: leave it out (at=…), or use another method"
            )


def mark(module: nn.Module, size: int) -> None:
    """Let a module say of how many taps the low-pass in it is."""
    setattr(module, "low_pass", size)  # noqa: B010 - pyright takes attributes for tensors


def _centres(conv: nn.Conv2d, side: int) -> list[Tensor]:
    """The middle of what each output sample sees, of maps of that side and of one more."""
    mean = copy.deepcopy(conv).double()
    mean.weight = nn.Parameter(torch.full_like(mean.weight, 1 / mean.weight[0].numel()))
    mean.bias = None
    found = []
    with evaluating(mean):
        for count in (side, side + 1):
            places = torch.arange(count, device=mean.weight.device).double()
            x = (places[:, None] + count * places).expand(1, conv.in_channels, count, count)
            found.append(mean(x)[0, 0])
    return found


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
