"""Which operations can be anti-aliased, and where in the network each downsampler goes.

All of it is read off the data flow of one forward; nothing is changed here.
"""

import math
import sys
from collections import defaultdict
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from aliascope.antialias.downsamplers import FOLDED, LOW_PASSES, centre, layer_of
from aliascope.antialias.recipe import Recipe
from aliascope.antialias.report import ConvertedLayer
from aliascope.layers import Downsampler
from aliascope.records import StridedLayer
from aliascope.taps import Trace
from aliascope.taps.dataflow import split_convolutions
from aliascope.taps.decimation import Followers, densified, found_phase
from aliascope.taps.sampling import pair

_WEIGHTED = frozenset({"conv2d", "linear"})
_POOLS = (nn.MaxPool2d, nn.LPPool2d, nn.AvgPool2d)
_CALLED = ("conv", "patch_embed", "max_pool", "avg_pool")
"""Kinds of operations that can be modules."""
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""Modules that take their children for steps of their own: nothing can be attached to them."""

Phase = tuple[float | int, float | int]


class Place(NamedTuple):
    """Where a downsampler goes."""

    side: Literal["before", "after"]
    module: str


class Step(NamedTuple):
    """How one operation is anti-aliased."""

    module: str
    """The operation's."""
    dense: bool
    """Whether it then runs at stride 1."""
    place: Place
    channels: int
    stride: tuple[int, int]
    """Of the downsampler; 1 where it only filters."""
    phase: Phase
    note: str
    folded: bool = False
    """Whether the filter goes into the kernel, and nothing is attached."""
    cutoff: tuple[int, int] | None = None
    """The stride that follows, where the downsampler only filters."""
    channels_last: bool = False
    """Whether the map at the place is (B, H, W, C)."""


class ChannelsLast(nn.Module):
    """A downsampler of maps that are (B, H, W, C)."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Filter along rows and columns."""
        return self.pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Unconvertible(Exception):  # noqa: N818
    """Why an operation is left as it is."""


class Planner:
    """Answers for one network and its trace."""

    def __init__(self, model: nn.Module, recorded: Trace, recipe: Recipe) -> None:
        self.recorded, self.recipe = recorded, recipe
        self.following = Followers(model, recorded)
        self.modules, self.readers = self.following.modules, self.following.readers
        self.located = recorded.located_layers()

    def kept(self, at: int, layer: StridedLayer) -> str | None:
        """Why an operation is left alone although nothing would stop its conversion."""
        if self._filters(at, layer):
            return "anti-aliased already"
        if not self.recipe.wants(layer.name.partition("#")[0]):
            return "not among the places asked for"
        if layer.kind == "avg_pool" and self.recipe.decimates:
            return "an average pool, which plain decimation would not be"
        if self.recipe.stem == "keep" and not self.recipe.at and self._reads_image(at, layer):
            return "the stem, which reads the image"
        if layer.shortcut and not self.recipe.shortcut:
            return "a shortcut"
        return None

    def callers(self, rows: list[ConvertedLayer]) -> list[str]:
        """The modules whose bare calls of what samples could not be converted."""
        return [
            self.recorded.calls[at].module
            for (at, layer), row in zip(self.located, rows, strict=True)
            if row.outcome == "refused" and layer.kind in _CALLED
            if layer.function or not self._is_known(self.modules[layer.name.partition("#")[0]])
        ]

    def _is_known(self, module: nn.Module) -> bool:
        return isinstance(module, (nn.Conv2d, *_POOLS)) or bool(split_convolutions(module))

    def step(self, at: int, layer: StridedLayer) -> Step:
        """How to convert an operation.

        Raises:
            Unconvertible: it cannot be done.
        """
        name = layer.name.partition("#")[0]
        if layer.kind == "slice" and (step := self._merged(at, layer)):
            return step
        if layer.function:
            raise Unconvertible(_reason_of_call(layer))
        module = self.modules[name]
        runs = self.recorded.counts[name]
        chunks = split_convolutions(module)
        if runs > 1 and (isinstance(module, nn.Conv2d) or chunks):
            raise Unconvertible(f"the convolution runs {runs} times in a forward")
        if self.recipe.only_fits:
            return _untouched(layer, name)
        if chunks:
            return self._split_convolution(at, layer, module, chunks)
        if isinstance(module, nn.Conv2d):
            return self._convolution(at, layer, module)
        if not isinstance(module, _POOLS):
            known = "Conv2d, MaxPool2d, LPPool2d or AvgPool2d"
            raise Unconvertible(f"{type(module).__name__} is no {known}")
        if runs > 1:
            self._check_runs(name, runs)
        if isinstance(module, nn.AvgPool2d):
            return self._average_pool(layer, module)
        return self._dense_pool(layer, module)

    def _convolution(self, at: int, layer: StridedLayer, conv: nn.Conv2d) -> Step:
        stride, name = (conv.stride[0], conv.stride[1]), layer.name
        channels = layer.input_shape[0], layer.output_shape[0]
        label = _label(self.recipe.method)
        if self.recipe.method == FOLDED and tuple(conv.kernel_size) != (1, 1):
            return self._folded(layer, [conv])
        if stride == tuple(conv.kernel_size):
            if self.recipe.method not in LOW_PASSES:
                methods = " or ".join(LOW_PASSES)
                raise Unconvertible(
                    f"its patches do not overlap, so it needs a low-pass at stride 1: {methods}"
                )
            place, note = Place("before", name), f"{label} at stride 1 before it"
            return Step(name, False, place, channels[0], (1, 1), (0, 0), note, cutoff=stride)
        if tuple(conv.kernel_size) == (1, 1):
            if conv.padding not in ((0, 0), 0, "valid"):
                raise Unconvertible("a 1×1 convolution with padding")
            place, note = Place("before", name), f"{label} before it, then it at stride 1"
            return Step(name, True, place, channels[0], stride, (0, 0), note)
        return self._dense_convolution(at, layer, conv)

    def _split_convolution(
        self, at: int, layer: StridedLayer, conv: nn.Module, chunks: list[nn.Conv2d]
    ) -> Step:
        if len({chunk.stride for chunk in chunks}) > 1:
            raise Unconvertible("the convolutions in it have several strides")
        if self.recipe.method == FOLDED:
            return self._folded(layer, chunks)
        return self._dense_convolution(at, layer, conv)

    def _dense_convolution(self, at: int, layer: StridedLayer, conv: nn.Module) -> Step:
        name, channels = layer.name, layer.output_shape[0]
        phase = _phase(conv, layer)
        end = next(s.output for s in self.recorded.spans if s.module == name)
        end = self.following.activated(at if end is None else end, channels)
        place = self._place(end)
        label = _label(self.recipe.method)
        note = f"conv at stride 1, then {label} {place.side} {place.module}"
        return Step(name, True, place, channels, _whole(layer.stride), phase, note)

    def _merged(self, at: int, layer: StridedLayer) -> Step | None:
        """Before a module that hands on all phases of what it reads, as Swin's patch merging."""
        sampled, stride = self.recorded.calls[at].sampling, _whole(layer.stride)
        if sampled is None or self.recipe.method not in LOW_PASSES:
            return None
        if self.recorded.phases(at) < stride[0] * stride[1]:
            return None
        if self.recipe.only_fits:
            return _untouched(layer, self.recorded.calls[at].module)
        read = self.recorded.unpadded(self.recorded.sliced(at))
        for span in self.following.reading(read):
            if self._takes(span.module):
                place = Place("before", span.module)
                note = f"{_label(self.recipe.method)} at stride 1 before {span.module}"
                channels, last = layer.input_shape[0], sampled.channels_last
                ones, first = (1, 1), (0, 0)
                return Step(
                    *(span.module, False, place, channels, ones, first, note),
                    cutoff=stride,
                    channels_last=last,
                )
        return None

    def _folded(self, layer: StridedLayer, chunks: list[nn.Conv2d]) -> Step:
        if any(conv.dilation != (1, 1) for conv in chunks):
            raise Unconvertible(
                "its kernel is dilated: a filter folded into it would be as large as all it spans"
            )
        rows, columns = (side + self.recipe.size - 1 for side in layer.kernel)
        note = f"{self.recipe.size} taps in its kernel, {rows} × {columns} now"
        place, channels = Place("before", layer.name), layer.output_shape[0]
        return Step(layer.name, False, place, channels, (1, 1), (0, 0), note, folded=True)

    def _dense_pool(self, layer: StridedLayer, pool: nn.MaxPool2d | nn.LPPool2d) -> Step:
        if isinstance(pool, nn.MaxPool2d) and pool.return_indices:
            raise Unconvertible("it returns indices, which belong to its stride")
        name, plain = layer.name.partition("#")[0], type(pool).forward is nn.MaxPool2d.forward
        if pool.ceil_mode and not plain:
            raise Unconvertible(f"{type(pool).__name__} with ceil_mode")
        phase = _phase(pool, layer)
        what = "max" if isinstance(pool, nn.MaxPool2d) else "power mean"
        note = f"{what} at stride 1, then {_label(self.recipe.method)} after {name}"
        channels, place = layer.output_shape[0], Place("after", name)
        return Step(name, True, place, channels, _whole(layer.stride), phase, note)

    def _average_pool(self, layer: StridedLayer, pool: nn.AvgPool2d) -> Step:
        if pool.divisor_override is not None:
            raise Unconvertible("its divisor is overridden, so that it is no average")
        plain = type(pool).forward is nn.AvgPool2d.forward
        if not plain and not _pads_as_tensorflow(pool):
            raise Unconvertible(f"{type(pool).__name__} has a forward of its own")
        sides = layer.input_shape[1:], layer.output_shape[1:]
        stride = _whole(layer.stride)
        if any(made > -(-side // step) for side, made, step in zip(*sides, stride, strict=True)):
            raise Unconvertible("its padding adds samples that its map does not have")
        name = layer.name.partition("#")[0]
        firsts = pair(pool.padding)
        if not plain:
            firsts = _same_padding(layer.kernel, stride, (1, 1), sides[0])
        middles = (
            (kernel - 1) / 2 - first for kernel, first in zip(layer.kernel, firsts, strict=True)
        )
        rows, columns = (
            _aimed(self.recipe, middle, step) for middle, step in zip(middles, stride, strict=True)
        )
        note = f"{_label(self.recipe.method)} in its place"
        place = Place("before", name)
        return Step(name, True, place, layer.input_shape[0], stride, (rows, columns), note)

    def _check_runs(self, name: str, runs: int) -> None:
        """A pool that several stages share is converted where that suits all of them."""
        of_it = [entry for entry in self.located if entry[1].name.partition("#")[0] == name]
        if len(of_it) < runs:
            raise Unconvertible(f"it runs {runs} times and does not always downsample")
        if any(self.kept(*entry) for entry in of_it):
            raise Unconvertible(f"it runs {runs} times, and one of them is to be kept")
        parities = defaultdict(set)
        for _, layer in of_it:
            phase = _phase(self.modules[name], layer)
            parities[layer.output_shape[0]].add(phase)
        if any(len(phases) > 1 for phases in parities.values()):
            raise Unconvertible(f"it runs {runs} times and needs different phases")

    def _place(self, end: int) -> Place:
        """After the module that made a call's output, or before the one that alone reads it."""
        readers = self.readers[end]
        for span in self.recorded.spans:
            made = span.output == end and span.first <= end < span.stop
            read_inside = any(reader < span.stop for reader in readers)
            if made and not read_inside and self._takes(span.module):
                if not readers and end not in self.recorded.held:
                    raise Unconvertible(
                        f"{span.module} works in place and what it returns is not used: assign it, "
                        "as in x = self.relu(x)"
                    )
                return Place("after", span.module)
        if end not in self.recorded.held and readers:
            for span in self.following.reading(end):
                if self._takes(span.module):
                    return Place("before", span.module)
        call = self.recorded.calls[end]
        raise Unconvertible(
            f"no module of its own ends with {call.function} in {call.module or 'the model'}, and "
            f"{len(readers)} operations read that: give it a module that is called once"
        )

    def _takes(self, name: str) -> bool:
        module = self.modules[name]
        once = self.recorded.counts[name] == 1
        return name != "" and once and not isinstance(module, _CONTAINERS)

    def _filters(self, at: int, layer: StridedLayer) -> bool:
        makers = [self.recorded.calls[i].module for i in self.recorded.calls[at].parents]
        if layer.kind == "slice":
            makers = [self.recorded.calls[self.recorded.unpadded(self.recorded.sliced(at))].module]
        return (
            layer.kind in ("blur_pool", "max_blur_pool")
            or any(isinstance(self.modules[maker], Downsampler | ChannelsLast) for maker in makers)
            or folded_into(self.modules[self.recorded.calls[at].module])
        )

    def _reads_image(self, at: int, layer: StridedLayer) -> bool:
        before = (self.recorded.calls[i].function for i in self._ancestors(at))
        return layer.stride == layer.cumulative_stride and not _WEIGHTED.intersection(before)

    def _ancestors(self, at: int) -> set[int]:
        found, waiting = set(), list(self.recorded.calls[at].parents)
        while waiting:
            if (call := waiting.pop()) not in found:
                found.add(call)
                waiting += self.recorded.calls[call].parents
        return found


def _untouched(layer: StridedLayer, name: str) -> Step:
    """Of an operation in a module that is but marked: what it is to yield is fitted."""
    place, note = Place("before", name), "as it is, to be fitted"
    return Step(name, False, place, layer.output_shape[0], (1, 1), (0, 0), note, folded=True)


def _reason_of_call(layer: StridedLayer) -> str:
    if layer.kind in (*_CALLED, "lp_pool"):
        return f"a bare call of {layer.function}: make it a module"
    if layer.kind == "slice":
        return "a strided slice, with no operation before it that could be anti-aliased"
    return f"{layer.function} resamples by no fixed stride"


def folded_into(module: nn.Module | None) -> bool:
    """Whether a convolution's kernel holds a low-pass, or those of split convolutions do."""
    chunks = split_convolutions(module) if module else []
    return any(hasattr(conv, "low_pass") for conv in chunks or [module])


def _label(method: str) -> str:
    return layer_of(method).__name__


# Which sample of each cell of its dense response an operation takes.


def _phase(module: Any, layer: StridedLayer) -> tuple[int, int]:
    """Where in its response at stride 1 an operation finds its first sample."""
    phase = found_phase(layer, module.forward, densified(module).forward, module)
    if phase is None:
        rows, columns = layer.output_shape[1:]
        raise Unconvertible(
            f"{type(module).__name__} at stride 1 does not hold the {rows} × {columns} samples "
            "that it yields at its own stride"
        )
    return phase


def _pads_as_tensorflow(module: nn.Module) -> bool:
    # A network holds none of timm's pools unless they have been imported, which takes seconds.
    timm: Any = sys.modules.get("timm.layers.pool2d_same")
    return timm is not None and type(module).forward is timm.AvgPool2dSame.forward


def _same_padding(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    shape: tuple[int, int],
) -> tuple[int, int]:
    """Samples of padding before the first row and the first column."""
    rows, columns = (
        max((-(-side // step) - 1) * step + spread * (taps - 1) + 1 - side, 0) // 2
        for taps, step, spread, side in zip(kernel, stride, dilation, shape, strict=True)
    )
    return rows, columns


def _aimed(recipe: Recipe, middle: float, stride: int) -> float | int:
    """The phase that puts the middle of the filter where the window's middle is, or before it."""
    phase = middle - centre(recipe.method, recipe.size, stride, recipe.wavelet)
    if recipe.method == "ideal":
        return min(max(phase, 0), stride - 1)
    return min(max(math.ceil(phase - 0.5), 0), stride - 1)


def _whole(stride: tuple[float, float]) -> tuple[int, int]:
    return int(stride[0]), int(stride[1])
