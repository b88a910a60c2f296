"""Where a model really downsamples, and what it is about to sample there.

The operations are found by running the model on an example and watching every call of a torch
function, so functional calls and hand-written modules are found like the usual ones. Where the
call happens inside a module without children, that module is the layer and its input is what is
tapped (a blur pool is tapped before its own padding); elsewhere the call itself is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aliascope.records import StridedLayer
from aliascope.taps.dataflow import Call, Span, Trace, Watcher, watch
from aliascope.taps.decimation import Decimation, decimations
from aliascope.taps.sampling import Sampling

__all__ = [
    "Call",
    "Decimation",
    "Span",
    "Tap",
    "Trace",
    "decimations",
    "evaluating",
    "strided_layers",
    "tap",
    "trace",
]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every submodule in eval mode and no gradients; each one's own mode is put back.

    >>> model = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3).eval())
    >>> with evaluating(model):
    ...     print(model[0].training)
    False
    >>> model[0].training, model[1].training
    (True, False)
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def strided_layers(
    model: nn.Module, example: Float[Tensor, "batch chan height width"]
) -> list[StridedLayer]:
    """Every operation that downsamples while the model runs on an example, in order of execution.

    Convolutions, max and average pools, blur pools, patch embeddings, resizing and strided slices,
    as modules or as functional calls. A pool down to one value per channel (global pooling) is no
    sampling and is left out. All the phases that a module slices a map into are one layer.

    Args:
        model: any module; its hooks, modes and parameters, and the random state, are as before
            when this returns or raises.
        example: a batch as the model takes it; its size decides what is seen.

    Raises:
        ModelError: part of the model is compiled by torch.jit, which hides what it calls.
        Exception: whatever the model raises on the example.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    >>> for layer in strided_layers(net, torch.zeros(1, 3, 32, 32)):
    ...     print(layer.name, layer.kind, layer.stride, layer.input_shape, layer.cumulative_stride)
    0 conv (2.0, 2.0) (3, 32, 32) (2.0, 2.0)
    2 max_pool (2.0, 2.0) (8, 16, 16) (4.0, 4.0)
    """
    return trace(model, example).strided_layers()


@dataclass
class Tap:
    """What `tap` captured in the latest forward."""

    inputs: dict[str, Any] = field(default_factory=dict)
    """Layer name → its input (B, C, H, W), or what `read` made of it."""
    outputs: dict[str, Any] = field(default_factory=dict)
    """The same of its output, where that was asked for."""


def _copied(_layer: StridedLayer | str, x: Tensor) -> Tensor:
    return x.clone()  # what comes later may write into it


@contextmanager
def tap(
    model: nn.Module,
    layers: Sequence[StridedLayer | str],
    *,
    read: Callable[[Any, Tensor], Any] = _copied,
    of: Literal["input", "output", "both"] = "input",
    replace: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
) -> Iterator[Tap]:
    """Capture what each layer is about to sample, in every forward within the block.

    Args:
        model: the module that `strided_layers` was asked about, or a copy of it.
        layers: which ones. The name of any module stands for what is passed to that module, before
            a downsampler that surgery put there.
        read: what to keep of each map, called with the layer and the map while that is at hand, so
            that nothing larger has to be held; by default a copy of the map.
        of: "output" captures what comes out of each layer, as `.outputs`, in place of what goes in;
            "both" does both in one forward.
        replace: layer name → what its output is to become: the rest of the network goes on from
            what that returns.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2))
    >>> example = torch.zeros(1, 3, 16, 16)
    >>> with tap(net, strided_layers(net, example)) as tapped:
    ...     _ = net(example)
    >>> tapped.inputs["1"].shape
    torch.Size([1, 8, 14, 14])
    """
    known = {layer.name: layer for layer in layers if isinstance(layer, StridedLayer)}
    reader = _Reader(known, read, of, replace or {})
    # Bare calls can only be told apart with every module and call in view; modules alone need
    # nothing but a hook each, which costs the forward nothing.
    bare = any(layer.function for layer in known.values())
    only = None if bare else {name.partition("#")[0] for name in (*known, *(replace or {}))}
    with ExitStack() as held:
        held.enter_context(watch(model, reader, only=only))
        for name in (layer for layer in layers if isinstance(layer, str)):
            hook = partial(reader.entered, name)
            module = model.get_submodule(name)
            handle = module.register_forward_pre_hook(hook, prepend=True, with_kwargs=True)
            held.callback(handle.remove)
        yield reader.tap


def trace(
    model: nn.Module,
    example: Float[Tensor, "batch chan height width"],
    into: Trace | None = None,
) -> Trace:
    """Run the model once in eval mode and record its data flow; the random state is put back.

    Args:
        model: any module.
        example: a batch as the model takes it.
        into: a fresh trace to record into, for who wants to look at it while the model runs.
    """
    recorded = Trace() if into is None else into
    devices = [example.device] if example.is_cuda else []
    with torch.random.fork_rng(devices), evaluating(model), watch(model, recorded):
        model(example)
    return recorded


class _Reader(Watcher):
    """Hands the inputs and outputs of chosen layers to a function, and replaces outputs."""

    def __init__(
        self,
        layers: dict[str, StridedLayer],
        read: Callable[[Any, Tensor], Any],
        of: str,
        replace: Mapping[str, Callable[[Tensor], Tensor]],
    ) -> None:
        super().__init__()
        self.layers = layers
        self.read = read
        self.tap = Tap()
        self._input, self._output = of != "output", of != "input"
        self._replace = replace

    def start(self, name: str, module: nn.Module, inputs: Any) -> None:
        super().start(name, module, inputs)
        if not name:
            self.tap.inputs.clear()
            self.tap.outputs.clear()
        frame = self.frames[-1]
        if frame.leaf and frame.input is not None and self._input:
            self.capture(self.tap.inputs, frame.layer, frame.input)

    def end(self, output: Any) -> Any:
        frame = self.frames[-1]
        replacement = None
        if frame.leaf and isinstance(output, Tensor):
            replacement = self.leaving(frame.layer, output)
        super().end(output)
        return replacement

    def call(
        self, func: Callable, inputs: Any, output: Any, sampling: Sampling | None, layer: str | None
    ) -> Any:
        del func, inputs
        if not sampling or not layer:
            return None
        if self._input:
            self.capture(self.tap.inputs, layer, sampling.input)
        return self.leaving(layer, output) if isinstance(output, Tensor) else None

    def entered(self, name: str, _module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.tap.inputs[name] = self._seen(name, next(chain(args, kwargs.values())))

    def leaving(self, name: str, output: Tensor) -> Tensor | None:
        replace = self._replace.get(name)
        replacement = None if replace is None else replace(output)
        if self._output:
            self.capture(self.tap.outputs, name, output if replacement is None else replacement)
        return replacement

    def capture(self, captured: dict[str, Any], name: str, x: Tensor) -> None:
        if name in self.layers:
            captured[name] = self._seen(self.layers[name], x)

    def _seen(self, layer: StridedLayer | str, x: Tensor) -> Any:
        paused, self.paused = self.paused, True
        try:
            return self.read(layer, x)
        finally:
            self.paused = paused
