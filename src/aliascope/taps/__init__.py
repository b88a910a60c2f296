"""Where a model really downsamples, and what it is about to sample there.

The operations are found by running the model on an example and watching every call of a torch
function, so functional calls and hand-written modules are found like the usual ones. Where the
call happens inside a module without children, that module is the layer and its input is what is
tapped (a blur pool is tapped before its own padding); elsewhere the call itself is.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aliascope.records import StridedLayer
from aliascope.taps.dataflow import Call, Span, Trace, Watcher, watch
from aliascope.taps.sampling import Sampling

__all__ = ["Call", "Span", "Tap", "Trace", "evaluating", "strided_layers", "tap", "trace"]


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


@contextmanager
def tap(
    model: nn.Module,
    layers: Sequence[StridedLayer],
    *,
    read: Callable[[StridedLayer, Tensor], Any] = lambda _, x: x,
    of: Literal["input", "output"] = "input",
) -> Iterator[Tap]:
    """Capture what each layer is about to sample, in every forward within the block.

    Args:
        model: the module that `strided_layers` was asked about, or a copy of it.
        layers: which ones.
        read: what to keep of each map, called while the map is at hand, so that nothing larger
            has to be held; the map itself by default.
        of: "output" captures what comes out of each layer, as `.outputs`, in place of what goes in.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2))
    >>> example = torch.zeros(1, 3, 16, 16)
    >>> with tap(net, strided_layers(net, example)) as tapped:
    ...     _ = net(example)
    >>> tapped.inputs["1"].shape
    torch.Size([1, 8, 14, 14])
    """
    reader = _Reader({layer.name: layer for layer in layers}, read, of)
    # Bare calls can only be told apart with every module and call in view; modules alone need
    # nothing but a hook each, which costs the forward nothing.
    bare = any(layer.function for layer in layers)
    only = None if bare else {layer.name.partition("#")[0] for layer in layers}
    with watch(model, reader, only=only):
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
    """Hands the inputs of chosen layers to a function."""

    def __init__(
        self, layers: dict[str, StridedLayer], read: Callable[[StridedLayer, Tensor], Any], of: str
    ) -> None:
        super().__init__()
        self.layers = layers
        self.read = read
        self.of = of
        self.tap = Tap()
        self._captured = self.tap.inputs if of == "input" else self.tap.outputs

    def start(self, name: str, module: nn.Module, inputs: Any) -> None:
        super().start(name, module, inputs)
        if not name:
            self._captured.clear()
        frame = self.frames[-1]
        if frame.leaf and frame.input is not None and self.of == "input":
            self.capture(frame.layer, frame.input)

    def end(self, output: Any) -> None:
        frame = self.frames[-1]
        if frame.leaf and isinstance(output, Tensor) and self.of == "output":
            self.capture(frame.layer, output)
        super().end(output)

    def call(
        self, function: str, inputs: Any, output: Any, sampling: Sampling | None, layer: str | None
    ) -> None:
        del function, inputs
        if sampling and layer:
            self.capture(layer, sampling.input if self.of == "input" else output)

    def capture(self, name: str, x: Tensor) -> None:
        if name in self.layers:
            self._captured[name] = self.read(self.layers[name], x)
