"""A network as exporters take it: traced for any number of pictures, answers as a list."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from aliascope.dense import is_detections
from aliascope.errors import AliascopeError, ModelError
from aliascope.export.targets import Target, quiet
from aliascope.results.text import brief
from aliascope.runtime import failures_named


class Outputs(nn.Module):
    """The network with its answers as a list of tensors."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> list[Tensor]:
        """Called with the pictures."""
        return tensors_of(self.module(x))


def tensors_of(output: Any) -> list[Tensor]:
    """All in a network's answer; raises TypeError where there is something else."""
    if isinstance(output, Tensor):
        return [output]
    if not isinstance(output, Mapping | list | tuple):
        raise TypeError(type(output).__name__)
    parts = output.values() if isinstance(output, Mapping) else output
    return [x for part in parts for x in tensors_of(part)]


def names_of(spec: str, module: Outputs, shape: Sequence[int]) -> list[str]:
    """Names of the outputs, from a forward over two pictures.

    Raises:
        ModelError: the network fails, or returns what no file can.
    """
    x = torch.zeros(2, *shape)
    with failures_named(spec, x.shape), torch.inference_mode():
        output = module.module(x)
    if is_detections(output):
        raise ModelError(
            f"{spec} returns detections, as many as it finds, and cannot be exported: only "
            "networks that return tensors with a row an image can"
        )
    try:
        tensors = tensors_of(output)
    except TypeError as error:
        raise ModelError(
            f"{spec} returns something else than tensors ({brief(error)}), and cannot be exported"
        ) from error
    if not tensors or any(y.ndim < 2 or len(y) != 2 or not y.is_floating_point() for y in tensors):
        shapes = ", ".join(str(tuple(y.shape)) for y in tensors) or "nothing"
        raise ModelError(
            f"{spec} returns {shapes} of two pictures, and cannot be exported: only networks that "
            "return floating-point tensors with a row an image can"
        )
    if isinstance(output, Mapping) and len(output) == len(tensors):
        return [str(name) for name in output]
    first = "logits" if tensors[0].ndim == 2 else "output"
    return [first, *(f"output_{i}" for i in range(1, len(tensors)))]


def traced(spec: str, module: nn.Module, shape: Sequence[int], target: Target) -> Any:
    """The exported program, for batches of any size up to the target's largest.

    Raises:
        ModelError: it cannot be traced, or for batches of one size only.
    """
    batch = torch.export.Dim("batch", max=target.most) if target.most else torch.export.Dim("batch")
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    with named(spec, target, "cannot be traced for batches of any size"), quiet(), torch.no_grad():
        return torch.export.export(module, (x,), dynamic_shapes=({0: batch},), strict=False)


@contextmanager
def named(spec: str, target: Target, what: str) -> Iterator[None]:
    """Whatever an exporter or a runtime raises becomes one sentence."""
    try:
        yield
    except AliascopeError:
        raise
    except Exception as error:
        raise ModelError(
            f"{spec} {what} ({target.name}: {type(error).__name__}: {brief(error)}): choose "
            "another target, or change the network there"
        ) from error
