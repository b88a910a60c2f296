"""One watched forward: which modules run, which torch functions they call, what feeds what."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from math import inf, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from aliascope.errors import ModelError
from aliascope.layers import Downsampler
from aliascope.records import Kind, StridedLayer
from aliascope.runtime import is_compiled
from aliascope.taps.sampling import MERGES, Sampling, sampling_of, slice_phase, tensors_in
from aliascope.taps.sizes import (
    ON_THE_FIRST,
    Grid,
    Scale,
    Sides,
    made_sides,
    map_sides,
    read_sides,
    returned_sides,
)

_SUMS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
_SLICES = MERGES | {"__getitem__"}
_PADS = {"pad", "_pad", "constant_pad_nd"}
_WEIGHTED = {"conv2d", "convolution", "deform_conv2d", "linear"}
_PRODUCTS = {
    "matmul",
    "bmm",
    "einsum",
    "scaled_dot_product_attention",
    "multi_head_attention_forward",
}
_RESHAPES = {
    *("permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "einsum"),
    *("view", "reshape", "flatten", "unflatten", "__get__"),  # x.mT is a __get__
}
"""What may exchange the axes of a map."""
_CONSTANT = -1
"""Maker of parameters, buffers and what is computed from them alone."""


class Call(NamedTuple):
    """One call of a torch function, as a node of the data flow."""

    function: str
    module: str
    """Name of the innermost module around it."""
    parents: tuple[int, ...]
    """The calls that made its inputs."""
    sampling: Sampling | None
    """Its input without values: a trace keeps no map alive."""
    grid: Grid
    """On which the samples of its output lie."""

    @property
    def scale(self) -> Scale:
        """Image pixels per sample of its output."""
        return self.grid.scale


class Name(NamedTuple):
    """Which call of a forward it is, in whatever layout and number the pictures come."""

    module: str
    function: str
    number: int
    """Of the calls of that function in that module, from 0."""


class Made(NamedTuple):
    """Stands for a map in a recorded call: what another call made."""

    call: int
    item: int | None = None
    """Which of its maps, where it made several."""


class Program(NamedTuple):
    """A recorded call that can be made again, on other maps."""

    func: Callable
    args: tuple
    kwargs: dict

    def reads(self) -> list[int]:
        """The calls whose maps it takes."""
        return list(_made_in((self.args, self.kwargs)))

    @property
    def in_place(self) -> bool:
        """Whether it writes into a map that it takes."""
        name = getattr(self.func, "__name__", "")
        return bool(self.kwargs.get("inplace")) or name.endswith("_") or name == "__setitem__"

    def run(self, made: Mapping[int, Any]) -> Any:
        """Call it with maps in the places of those that it was called with."""
        args, kwargs = _filled((self.args, self.kwargs), made)
        output = self.func(*args, **kwargs)
        return args[0] if output is None else output


def _same(x: Tensor) -> Tensor:
    return x


def _made_in(nested: Any) -> Iterator[int]:
    if isinstance(nested, Made):
        yield nested.call
    elif isinstance(nested, list | tuple):
        for item in nested:
            yield from _made_in(item)
    elif isinstance(nested, dict):
        yield from _made_in(list(nested.values()))


def _filled(nested: Any, made: Mapping[int, Any]) -> Any:
    if isinstance(nested, Made):
        whole = made[nested.call]
        return whole if nested.item is None else list(tensors_in(whole))[nested.item]
    if type(nested) in (list, tuple):
        return type(nested)(_filled(item, made) for item in nested)
    if type(nested) is dict:
        return {key: _filled(item, made) for key, item in nested.items()}
    return nested


class Span(NamedTuple):
    """One run of a module: the calls `first` up to, not including, `stop` were made in it."""

    module: str
    first: int
    stop: int
    input: int | None
    """The call that made its first argument, where that is a tensor."""
    output: int | None
    """The call that made what it returned, where that is one tensor."""


@dataclass
class Frame:
    """A module while its forward runs."""

    name: str
    layer: str
    """Its name as a layer, numbered."""
    leaf: bool
    """Whether it can be one layer, whatever it calls: a module on a map, without children."""
    input: Tensor | None
    downsampler: nn.Module | None = None
    """The module, where it is one of aliascope's own: a layer, whatever it computes and holds."""
    hidden: bool = False
    """Whether it runs inside such a downsampler, and is part of it."""
    split: bool = False
    """Whether its children convolve a chunk of the channels each: one layer all together."""
    chunk: bool = False
    """Whether it is such a child."""
    first_call: int = 0
    read: int | None = None
    """The call that made its first argument, where that is a tensor."""
    source: int | None = None
    """The call that made its input."""
    found: list[tuple[int, StridedLayer]] = field(default_factory=list)
    """The calls in it that downsample: layers of their own, unless it is one."""
    channels_last: bool = False
    """Whether one of them reads (B, H, W, C)."""


class Watcher(TorchFunctionMode):
    """Sees modules start and end and the torch functions that they call."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[Frame] = []
        self.counts: Counter[str] = Counter()
        """How often each module, and each bare sampling call, ran in the latest forward."""
        self.paused = False
        """Whether what runs now is no part of the forward, and not to be seen."""

    def start(self, name: str, module: nn.Module, inputs: Any) -> None:
        """A module's forward begins; the model itself, which begins first, has the name ""."""
        if not name:
            self.frames.clear()  # Ctrl-C ends a forward without a word
        if not self.frames:
            self.counts.clear()
        x = next(tensors_in(inputs), None)
        own = name != "" and isinstance(module, Downsampler)
        split = bool(split_convolutions(module))
        childless = own or all(_is_detail(module, *child) for child in module.named_children())
        hidden = any(frame.downsampler or frame.hidden for frame in self.frames[-1:])
        chunk = any(frame.leaf and frame.split for frame in self.frames[-1:])
        inside = name == "" or hidden or chunk
        leaf = (split or childless) and not inside and x is not None and x.ndim == 4
        downsampler = module if own and leaf else None
        layer = self._numbered(name)
        self.frames.append(Frame(name, layer, leaf, x, downsampler, hidden, split, chunk))

    def end(self, output: Any) -> Any:
        """The innermost module's forward ends; the output is None where it raised.

        What this returns takes the output's place, unless it is None.
        """
        del output
        self.frames.pop()

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func is Tensor.__setitem__:
            output = args[0]  # a map that is written into is another map from then on
        if self.frames and not self.paused and isinstance(output, Tensor | tuple | list):
            function = getattr(func, "__name__", "")
            within = self.frames[-1].downsampler or self.frames[-1].hidden
            sampling = None if within else sampling_of(function, args, kwargs, output)
            layer = None
            if sampling and max(sampling.stride) > 1 and not sampling.folds:
                layer = self._numbered(_call_name(self.frames[-1].name, function))
            replacement = self.call(func, (args, kwargs), output, sampling, layer)
            return output if replacement is None else replacement
        return output

    def call(
        self, func: Callable, inputs: Any, output: Any, sampling: Sampling | None, layer: str | None
    ) -> Any:
        """A torch function returned; where it downsamples, it has a name as a layer of its own.

        What this returns takes the output's place, unless it is None.
        """

    def _numbered(self, name: str) -> str:
        """`pool` for the first call of a forward, `pool#2` for the second."""
        self.counts[name] += 1
        return name if self.counts[name] == 1 else f"{name}#{self.counts[name]}"


def split_convolutions(module: nn.Module) -> list[nn.Conv2d]:
    """The convolutions of a container that hands each of them a chunk of the channels, as MixNet.

    >>> split_convolutions(nn.ModuleList([nn.Conv2d(3, 3, 1)]))  # no forward of its own
    []
    """
    holds = isinstance(module, nn.ModuleDict | nn.ModuleList)
    if not holds or type(module).forward is nn.Module.forward:
        return []
    found = [child for child in module.children() if isinstance(child, nn.Conv2d)]
    return found if len(found) == len(module) else []


def _is_detail(parent: nn.Module, name: str, module: nn.Module) -> bool:
    """Whether a child is no layer that runs inside its parent, but part of how that computes.

    The child "0" is a downsampler that `antialias` put before its parent.
    """
    padding = type(module).__module__ == "torch.nn.modules.padding"
    before = name == "0" and isinstance(module, Downsampler)
    return (
        name == "parametrizations" or padding or (before and not isinstance(parent, nn.Sequential))
    )


def _call_name(module: str, function: str) -> str:
    """The layer name of a bare call: `layer1.max_pool2d`."""
    function = "slice" if function in _SLICES else function
    return f"{module}.{function}" if module else function


def _named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Those that compute, under the names that they have where nothing is compiled."""
    for name, module in model.named_modules():
        if not is_compiled(module):
            yield ".".join(part for part in name.split(".") if part != "_orig_mod"), module


@contextmanager
def watch(model: nn.Module, watcher: Watcher, *, only: set[str] | None = None) -> Iterator[None]:
    """Let a watcher see every forward within the block.

    Args:
        model: whose modules and calls.
        watcher: told of each module's start and end, and of each torch function.
        only: names of the modules to see, next to the model itself; calls are then not seen.

    Raises:
        ModelError: part of the model is compiled by torch.jit, which hides what it calls.
    """

    def start(name: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if not watcher.paused:
            watcher.start(name, module, (args, kwargs))

    def end(name: str, _module: nn.Module, _args: tuple, output: Any) -> Any:
        started = watcher.frames and watcher.frames[-1].name == name
        return watcher.end(output) if started and not watcher.paused else None

    with ExitStack() as stack:
        if any(map(is_compiled, model.modules())):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for name, module in _named_modules(model):
            if isinstance(module, torch.jit.ScriptModule):
                raise ModelError(
                    f"{name or 'the model'} is compiled by torch.jit, which hides what it calls; "
                    "pass the module that it was compiled from"
                )
            if only is not None and name and name not in only:
                continue
            before, after = partial(start, name), partial(end, name)
            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(after, always_call=True).remove)
        if only is None:
            stack.enter_context(watcher)
        yield


class Trace(Watcher):
    """The data flow of one forward: calls, what they read, and the layers that downsample."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.programs: dict[int, Program] = {}
        """The calls that made maps, as they can be made again."""
        self.strides: dict[int, tuple[int, ...]] = {}
        """How the map of each call lies in memory, which what follows may have looked at."""
        self.spans: list[Span] = []
        """Every run of a module, in the order in which they ended."""
        self.held: set[int] = set()
        """Calls whose output outlives the forward: returned, or kept somewhere."""
        self._falls: dict[str, str] = {}
        self._image = Grid((1, 1), (0, 0), (1, 1))
        self._images = 1
        self._made_by: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()
        self._items: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()
        """Of a map that was made together with others, which of them it is."""
        self._layers: list[tuple[int, StridedLayer]] = []
        self._sliced: set[tuple] = set()

    def start(self, name: str, module: nn.Module, inputs: Any) -> None:  # noqa: D102
        super().start(name, module, inputs)
        frame = self.frames[-1]
        if not name:
            for constant in (*module.parameters(), *module.buffers()):
                self._made_by[constant] = _CONSTANT
            if frame.input is not None and frame.input.ndim == 4:
                self._images, _, rows, columns = frame.input.shape
                self._image = Grid((1, 1), (rows, columns), (1, 1))
            self._record(Call("input", "", (), None, self._image), tensors_in(inputs))
        frame.first_call = len(self.calls)
        frame.source = None if frame.input is None else self.maker(frame.input)
        args, kwargs = inputs
        first = next(chain(args, kwargs.values()), None)
        if isinstance(first, Tensor):
            frame.read = self.maker(first)

    def end(self, output: Any) -> Any:  # noqa: D102
        frame, returned = self.frames[-1], None
        same = isinstance(output, Tensor) and output is frame.input
        if same and self.maker(output) != frame.read:
            # Written in place: who reads what is returned is told from who reads what came in.
            output = returned = output.view_as(output)
        super().end(output)
        if frame.downsampler:
            self._downsampled(frame, frame.downsampler, output)
        if frame.leaf and frame.input is not None:
            self._layers += self._together(frame, frame.input, output)
        unseen = [tensor for tensor in tensors_in(output) if tensor not in self._made_by]
        if unseen and frame.input is not None:
            # Scripted functions and custom gradients are out of sight: their module stands in.
            parents, grid = self._parents([frame.input]), self._grid(frame.input)
            self._record(Call("", frame.name, parents, None, grid), unseen)
        made = self.maker(output) if isinstance(output, Tensor) else None
        self.spans.append(Span(frame.name, frame.first_call, len(self.calls), frame.read, made))
        if not self.frames:
            for tensor in tensors_in(output):
                grid = self._grid(tensor)
                if sides := returned_sides(tensor, grid, self._images):
                    self._corrected(grid, sides, "the end")
            self.held = set(self._made_by.values())
        return returned

    def call(  # noqa: D102
        self, func: Callable, inputs: Any, output: Any, sampling: Sampling | None, layer: str | None
    ) -> None:
        function = getattr(func, "__name__", "")
        made = list(tensors_in(output))
        read = list(tensors_in(inputs)) if made else []
        if not read:
            return
        if all(self._made_by.get(tensor) == _CONSTANT for tensor in read):
            for tensor in made:
                self._made_by[tensor] = _CONSTANT
            return
        parents, frame = self._parents(read), self.frames[-1]
        leading = bool(sampling) or function in _PRODUCTS or function in ON_THE_FIRST
        source = self._source(read, leading=leading)
        grid = self._grid(source)
        if sides := read_sides(function, source, inputs[0], grid, self._images):
            where = f"{function} in {frame.name or 'the model'}"
            grid = self._corrected(grid, sides, where)
        sampling = sampling and self._known(sampling, function, grid, parents)
        if sampling:
            folded = len(sampling.input) > self._images
            grid = grid.sampled(sampling.stride, None if folded else sampling.output_shape[1:])
        elif sides := made_sides(function, source, made[0], grid, self._images):
            grid = grid.bordered(sides)
        args, kwargs = self._without_maps(inputs)
        self.programs[len(self.calls)] = Program(func, args, kwargs)
        self._record(Call(function, frame.name, parents, sampling, grid), made)
        if not isinstance(output, Tensor):
            self._items.update({tensor: item for item, tensor in enumerate(made)})
        if sampling and layer and not self._is_another_phase(sampling, parents):
            found = _layer(layer, [sampling], sampling.stride, grid, sampling.input, function)
            holder = self.frames[-2] if frame.chunk else frame
            (holder.found if holder.leaf else self._layers).append((len(self.calls) - 1, found))
            holder.channels_last |= sampling.channels_last

    def _known(
        self, sampling: Sampling, function: str, grid: Grid, parents: tuple[int, ...]
    ) -> Sampling | None:
        """What a call samples, now that it is known where the map comes from."""
        if function in _SLICES and not self._on_image(sampling, grid.scale):
            return None
        if sampling.kind == "blur_pool" and self._reads_dense_max(parents):
            return sampling._replace(kind="max_blur_pool")
        if sampling.kind == "conv" and sampling.kernel == sampling.stride and grid.scale == (1, 1):
            return sampling._replace(kind="patch_embed")
        return sampling

    def _downsampled(self, frame: Frame, module: nn.Module, output: Any) -> None:
        """Record one of aliascope's own downsamplers as a single call, which may sample."""
        strides: Any = module.strides
        if frame.input is None or not isinstance(output, Tensor):
            return
        parents = self._parents([output])
        program = Program(_same, (self._without_maps(output),), {})
        if max(strides) == 1:
            self.programs[len(self.calls)] = program
            grid = self._grid(frame.input)  # whatever the filter was computed from
            self._record(Call("low_pass", frame.name, parents, None, grid), [output])
            return
        kernel: Any = getattr(module, "kernel", None)
        taps: Any = getattr(module, "size", 1)
        size = (taps, taps) if kernel is None else (kernel.shape[2], kernel.shape[3])
        # Who made the input was asked at the start: `x.float()` in the module may return x itself.
        dense_max = frame.read is not None and self._reads_dense_max((frame.read,))
        kind: Kind = "max_blur_pool" if dense_max else "blur_pool"
        shape = (output.shape[1], output.shape[2], output.shape[3])
        sampling = Sampling(kind, size, strides, frame.input, shape)
        grid = self._grid(frame.input).sampled(strides, shape[1:])
        self.programs[len(self.calls)] = program
        self._record(Call("downsample", frame.name, parents, sampling, grid), [output])

    def _without_maps(self, nested: Any) -> Any:
        """Arguments with a `Made` for each map in them; a trace keeps no map alive."""
        if isinstance(nested, Tensor):
            maker = self.maker(nested)
            return nested if maker is None else Made(maker, self._items.get(nested))
        if type(nested) in (list, tuple):
            return type(nested)(self._without_maps(item) for item in nested)
        if type(nested) is dict:
            return {key: self._without_maps(item) for key, item in nested.items()}
        return nested

    def sliced(self, at: int) -> int:
        """The call that made the map of which a call takes samples, by whatever views of it."""
        read = next(iter(self.calls[at].parents), at)
        while self.calls[at].function in MERGES and self.calls[read].function in _RESHAPES:
            read = next(iter(self.calls[read].parents), read)
        return read

    def phases(self, at: int) -> int:
        """How many phases of its map a module takes along with those that this call takes."""
        call = self.calls[at]
        if call.function != "__getitem__" or call.sampling is None:
            return prod(map(int, call.sampling.stride)) if call.sampling else 0
        alike = (call.function, call.module, call.parents, call.sampling.stride)
        found = {
            slice_phase(other.function, self.programs[index].args)
            for index, other in enumerate(self.calls)
            if other.sampling
            and (other.function, other.module, other.parents, other.sampling.stride) == alike
        }
        return len(found - {None})

    def unpadded(self, at: int) -> int:
        """The call that made a map before its borders were moved."""
        while self.calls[at].function in _PADS and self.calls[at].parents:
            (at, *_) = self.calls[at].parents
        return at

    def maker(self, tensor: Tensor) -> int | None:
        """The call that made a map; None of what is constant, or was made out of sight."""
        maker = self._made_by.get(tensor, _CONSTANT)
        return None if maker == _CONSTANT else maker

    def _record(self, call: Call, made: Iterable[Tensor]) -> None:
        if call.sampling:
            # A map that the trace itself keeps would count as held.
            blank = torch.empty(call.sampling.input.shape, device="meta")
            call = call._replace(sampling=call.sampling._replace(input=blank))
        self.calls.append(call)
        for tensor in made:
            self._made_by[tensor] = len(self.calls) - 1
            self._items.pop(tensor, None)
            self.strides[len(self.calls) - 1] = tensor.stride()

    def _together(self, frame: Frame, x: Tensor, output: Any) -> list[tuple[int, StridedLayer]]:
        """The layers that a module without children is: itself, or the calls in it."""
        inside = enumerate(self.calls[frame.first_call :], frame.first_call)
        sampled = [
            (index, call) for index, call in inside if call.sampling and not call.sampling.folds
        ]
        if not sampled:
            return []
        indices, calls = zip(*sampled, strict=True)
        if not self._is_one(frame, indices, x):
            return frame.found
        before = self._image if frame.source is None else self.calls[frame.source].grid
        if sides := map_sides(x, before, self._images):
            before = before.corrected(sides)
        after = calls[-1].grid
        stride = after.scale[0] / before.scale[0], after.scale[1] / before.scale[1]
        samplings = [call.sampling for call in calls]
        layer = _layer(frame.layer, samplings, stride, after, x)
        if frame.split and isinstance(output, Tensor) and output.ndim == 4:
            kernel = max(sampling.kernel for sampling in samplings)
            _, channels, rows, columns = output.shape
            layer = replace(layer, kernel=kernel, output_shape=(channels, rows, columns))
        return [(indices[0], layer)] if max(stride) > 1 else []

    def _is_one(self, frame: Frame, samplings: Sequence[int], x: Tensor) -> bool:
        """Whether all that a module samples is the map that it is passed, as (B, C, H, W)."""
        if frame.downsampler:
            return True
        sources, between, waiting = set(), set(), list(samplings)
        while waiting:
            for parent in self.calls[waiting.pop()].parents:
                if parent < frame.first_call:
                    sources.add(parent)
                elif parent not in between:
                    between.add(parent)
                    waiting.append(parent)
        if frame.channels_last or not sources <= {frame.source}:
            return False
        if not _RESHAPES & {self.calls[index].function for index in between}:
            return True
        # Its axes may have been exchanged: it can only be told by its sides, where they differ.
        read = next((layer for call, layer in frame.found if call == samplings[0]), None)
        return (
            read is not None
            and x.shape[1] != x.shape[3]
            and all(
                abs(side - own) <= taps
                for side, own, taps in zip(
                    x.shape[2:], read.input_shape[1:], read.kernel, strict=True
                )
            )
        )

    def _parents(self, read: list[Tensor]) -> tuple[int, ...]:
        makers = dict.fromkeys(self._made_by.get(tensor, _CONSTANT) for tensor in read)
        return tuple(maker for maker in makers if maker != _CONSTANT)

    def _grid(self, source: Tensor) -> Grid:
        """The grid of a map; of what was made out of sight, the image's until sizes tell."""
        maker = self.maker(source)
        if maker is None:
            return self._image._replace(coarsest=(inf, inf))
        return self.calls[maker].grid

    def _source(self, read: list[Tensor], *, leading: bool) -> Tensor:
        """The input whose grid a call keeps: the first one, or else the largest.

        What is smaller is spread over the largest; the product of queries and keys lies on the
        grid of the queries.
        """
        known = [tensor for tensor in read if self.maker(tensor) is not None] or read[:1]
        return known[0] if leading else max(known, key=Tensor.numel)

    def _corrected(self, grid: Grid, sides: Sides, where: str) -> Grid:
        """The grid that the sizes tell; a fall that is seen in them alone is noted."""
        found = grid.corrected(sides)
        if found.coarser_than(grid):
            fall = " to ".join(f"{rows}×{columns}" for rows, columns in (grid.sides, found.sides))
            # Residual sums would show it again in all blocks that follow.
            self._falls.setdefault(fall, where)
        return found

    def named(self) -> dict[Name, int]:
        """All calls by their names."""
        counts: Counter[tuple[str, str]] = Counter()
        found = {}
        for index, call in enumerate(self.calls):
            key = call.module, call.function
            found[Name(*key, counts[key])] = index
            counts[key] += 1
        return found

    @property
    def unexplained(self) -> list[str]:
        """Where maps get smaller and no operation that samples was seen: a sentence each."""
        return [
            f"before {where}, maps fall from {fall} samples by no operation that was seen"
            for fall, where in self._falls.items()
        ]

    def _on_image(self, sampling: Sampling, scale: Scale) -> bool:
        """Whether the axes are the image's; rotary embeddings slice tokens and features."""
        sides = zip(sampling.input.shape[2:], scale, self._image.sides, strict=False)
        return all(0.25 <= side * step / whole <= 4 for side, step, whole in sides)

    def _is_another_phase(self, sampling: Sampling, parents: tuple[int, ...]) -> bool:
        """Whether the same map was sliced before: space to depth is one layer, not s²."""
        if sampling.kind != "slice":
            return False
        slices = (self.frames[-1].name, parents, sampling.stride)
        known = slices in self._sliced
        self._sliced.add(slices)
        return known

    def _reads_dense_max(self, parents: tuple[int, ...]) -> bool:
        """Whether what comes in is a max at stride 1, padding aside: then the two are one pool."""
        while len(parents) == 1:
            parent = self.calls[parents[0]]
            if parent.function in _PADS:
                parents = parent.parents
            else:
                return parent.function.startswith("max_pool2d") and parent.sampling is None
        return False

    def strided_layers(self) -> list[StridedLayer]:
        """The layers in order of execution, shortcuts marked."""
        return [layer for _, layer in self.located_layers()]

    def located_layers(self) -> list[tuple[int, StridedLayer]]:
        """The same, each with the index of the call that samples, the first of several."""
        shortcuts = self._shortcut_calls()
        ordered = sorted(self._layers, key=lambda found: found[0])
        return [
            (call, replace(layer, order=order, shortcut=bool(shortcuts >> call & 1)))
            for order, (call, layer) in enumerate(ordered)
        ]

    def _shortcut_calls(self) -> int:
        """Bit set of the calls on the branch with fewer weights of any two that are added."""
        ancestors: list[int] = []
        weighted = shortcuts = 0
        for index, call in enumerate(self.calls):
            ancestors.append(1 << index)
            for parent in call.parents:
                ancestors[index] |= ancestors[parent]
            if call.function in _WEIGHTED:
                weighted |= 1 << index
            if call.function in _SUMS and len(call.parents) == 2:
                left, right = (ancestors[parent] for parent in call.parents)
                only = sorted(
                    (left & ~right, right & ~left), key=lambda own: (own & weighted).bit_count()
                )
                fewer, more = ((own & weighted).bit_count() for own in only)
                if fewer < more:
                    shortcuts |= only[0]
        return shortcuts


def _layer(
    name: str,
    samplings: Sequence[Any],
    stride: Scale,
    grid: Grid,
    x: Tensor,
    function: str | None = None,
) -> StridedLayer:
    """A layer, from what it reads, what samples in it, and the grid behind it."""
    _, channels, height, width = x.shape
    return StridedLayer(
        name=name,
        kind=samplings[0].kind,
        kernel=samplings[0].kernel,
        stride=_tidy(stride),
        input_shape=(channels, height, width),
        output_shape=samplings[-1].output_shape,
        cumulative_stride=_tidy(grid.scale),
        order=0,
        shortcut=False,
        function=function,
    )


def _tidy(scale: Scale) -> tuple[float, float]:
    """Whole numbers without the rounding errors of a product."""
    rows, columns = (round(s) if abs(s - round(s)) < 1e-6 else s for s in scale)
    return float(rows), float(columns)
