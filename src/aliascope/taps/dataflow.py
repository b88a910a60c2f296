"""One watched forward: which modules run, which torch functions they call, what feeds what."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from aliascope.records import StridedLayer
from aliascope.taps.sampling import Sampling, Scale, sampling_of, tensors_in

_SUMS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
_PADS = {"pad", "_pad", "constant_pad_nd"}
_WEIGHTED = {"conv2d", "linear"}


class Call(NamedTuple):
    """One call of a torch function, as a node of the data flow."""

    function: str
    module: str
    """Name of the innermost module around it."""
    parents: tuple[int, ...]
    """The calls that made its inputs."""
    sampling: Sampling | None
    scale: Scale
    """Image pixels per sample of its output."""


@dataclass
class Frame:
    """A module while its forward runs."""

    name: str
    leaf: bool
    input: Tensor | None
    first_call: int = 0


class Watcher(TorchFunctionMode):
    """Sees modules start and end and the torch functions that they call."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[Frame] = []

    def start(self, name: str, module: nn.Module, inputs: Any) -> None:
        """A module's forward begins; the model itself, which begins first, has the name ""."""
        leaf = name != "" and all(_is_padding(child) for child in module.children())
        self.frames.append(Frame(name, leaf, next(tensors_in(inputs), None)))

    def end(self, output: Any) -> None:
        """The innermost module's forward ends; the output is None where it raised."""
        del output
        self.frames.pop()

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if self.frames and isinstance(output, Tensor | tuple | list):
            self.call(getattr(func, "__name__", ""), args, kwargs, output)
        return output

    def call(self, function: str, args: tuple, kwargs: dict, output: Any) -> None:
        """A torch function returned one or more tensors."""


def _is_padding(module: nn.Module) -> bool:
    return type(module).__module__ == "torch.nn.modules.padding"


@contextmanager
def watch(model: nn.Module, watcher: Watcher, *, only: set[str] | None = None) -> Iterator[None]:
    """Let a watcher see every forward within the block.

    Args:
        model: whose modules and calls.
        watcher: told of each module's start and end, and of each torch function.
        only: names of the modules to see, next to the model itself; calls are then not seen.
    """
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if only is not None and name and name not in only:
                continue

            def start(module: nn.Module, args: tuple, kwargs: dict, name: str = name) -> None:
                watcher.start(name, module, (args, kwargs))

            def end(_module: nn.Module, _args: tuple, output: Any) -> None:
                watcher.end(output)

            stack.callback(module.register_forward_pre_hook(start, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(end, always_call=True).remove)
        if only is None:
            stack.enter_context(watcher)
        yield


class Trace(Watcher):
    """The data flow of one forward: calls, what they read, and the layers that downsample."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.counts: Counter[str] = Counter()
        """How often each module, and each bare sampling call, ran."""
        self._made_by = WeakTensorKeyDictionary()
        self._layers: list[tuple[int, StridedLayer]] = []

    def start(self, name: str, module: nn.Module, inputs: Any) -> None:  # noqa: D102
        super().start(name, module, inputs)
        self.frames[-1].first_call = len(self.calls)
        self.counts[name] += 1

    def end(self, output: Any) -> None:  # noqa: D102
        frame = self.frames[-1]
        super().end(output)
        inside = range(frame.first_call, len(self.calls))
        samplings = [i for i in inside if self.calls[i].sampling]
        made = next(tensors_in(output), None)
        if frame.leaf and samplings and frame.input is not None and made is not None:
            before, after = self._scale(frame.input), self._scale(made)
            stride = (after[0] / before[0], after[1] / before[1])
            self._add(frame.name, samplings[0], stride, frame.input, made, bare=False)

    def call(  # noqa: D102
        self, function: str, args: tuple, kwargs: dict, output: Any
    ) -> None:
        made = list(tensors_in(output))
        inputs = list(tensors_in((args, kwargs)))
        if not made or not inputs:
            return
        parents = tuple({self._made_by[t]: None for t in inputs if t in self._made_by})
        sampling = sampling_of(function, args, kwargs, output)
        scales = [self.calls[p].scale for p in parents] or [(1, 1)]
        step = sampling.stride if sampling else (1, 1)
        scale = (max(s[0] for s in scales) * step[0], max(s[1] for s in scales) * step[1])
        if sampling and sampling.kind == "blur_pool" and self._reads_dense_max(parents):
            sampling = sampling._replace(kind="max_blur_pool")
        if sampling and sampling.kind == "conv" and sampling.kernel == step and scale == step:
            sampling = sampling._replace(kind="patch_embed")
        frame = self.frames[-1]
        self.calls.append(Call(function, frame.name, parents, sampling, scale))
        for tensor in made:
            self._made_by[tensor] = len(self.calls) - 1
        if sampling and not frame.leaf and max(step) > 1:
            name = call_name(frame.name, function)
            self.counts[name] += 1
            self._add(name, len(self.calls) - 1, step, sampling.input, made[0], bare=True)

    def _add(
        self, name: str, call: int, stride: Scale, x: Tensor, y: Tensor, *, bare: bool
    ) -> None:
        sampling = self.calls[call].sampling
        if sampling is None or max(stride) <= 1:
            return
        layer = StridedLayer(
            name=numbered(name, self.counts[name]),
            kind=sampling.kind,
            kernel=sampling.kernel,
            stride=_whole(stride),
            input_shape=_image_shape(x),
            output_shape=_image_shape(y),
            cumulative_stride=_whole(self._scale(y)),
            order=0,
            shortcut=False,
            function=self.calls[call].function if bare else None,
        )
        self._layers.append((call, layer))

    def _scale(self, x: Tensor) -> Scale:
        return self.calls[self._made_by[x]].scale if x in self._made_by else (1, 1)

    def _reads_dense_max(self, parents: tuple[int, ...]) -> bool:
        """Whether what comes in is a max at stride 1, padding aside: then the two are one pool."""
        while len(parents) == 1:
            parent = self.calls[parents[0]]
            if parent.function in _PADS:
                parents = parent.parents
            else:
                return parent.function.startswith("max_pool2d")
        return False

    def strided_layers(self) -> list[StridedLayer]:
        """The layers in order of execution, shortcuts marked."""
        shortcuts = self._shortcut_calls()
        ordered = sorted(self._layers, key=lambda found: found[0])
        return [
            replace(layer, order=order, shortcut=bool(shortcuts >> call & 1))
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
                if left & right and fewer < more:
                    shortcuts |= only[0]
        return shortcuts


def call_name(module: str, function: str) -> str:
    """The layer name of a bare call: `layer1.max_pool2d`."""
    function = "slice" if function == "__getitem__" else function
    return f"{module}.{function}" if module else function


def numbered(name: str, count: int) -> str:
    """`pool` for the first call of a forward, `pool#2` for the second."""
    return name if count == 1 else f"{name}#{count}"


def _whole(scale: Scale) -> Scale:
    """Whole numbers as integers: 2, not 2.0."""
    rows, columns = (round(s) if abs(s - round(s)) < 1e-6 else s for s in scale)
    return rows, columns


def _image_shape(x: Tensor) -> tuple[int, int, int]:
    channels, height, width = x.shape[-3:] if x.ndim >= 3 else (x.shape[-1], 1, 1)
    return channels, height, width
