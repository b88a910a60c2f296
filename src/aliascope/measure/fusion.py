"""Batch-norm folded into the convolution before it: the same network with fewer passes."""

import math
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from aliascope.runtime import copied
from aliascope.taps import evaluating
from aliascope.taps.sampling import tensors_in

_TOLERANCE = 1e-4
"""Of the outputs, as a share of their norm."""


def fuse_batch_norm(
    model: nn.Module, example: Float[Tensor, "batch chan height width"]
) -> nn.Module:
    """A copy in eval mode whose conv → batch-norm pairs are one convolution each.

    w' = w · γ / √(σ² + ε), b' = β + (b − μ) · γ / √(σ² + ε). Only the map between the two is gone:
    a pair is folded where no operation of a forward but the norm reads that map, so whatever any
    other operation reads is as before, up to rounding. What no operation shows (`.numpy()`, say)
    the outputs do: where they are not those of the model, nothing is folded.

    Args:
        model: left as it is.
        example: of the size of a batch; what is run is noise of that size, once through the model
            and once through the result.

    Returns:
        The copy. `.fused` names the convolution and the norm of each pair that is one now.

    Raises:
        Exception: whatever the model raises on noise of that size.

    Source: Jacob et al. 2018 (arXiv 1712.05877), section 3.2.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> fused = fuse_batch_norm(net, torch.zeros(1, 3, 8, 8))
    >>> fused[1], fused.fused
    (Sequential(), [('0', '1')])
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(example.shape, generator=generator).to(example)
    fused: Any = copied(model).eval()
    pairs, expected = _pairs(fused, noise)
    _fold(fused, pairs)
    if pairs and not (_agree(fused, noise, expected) or _agree_in_double(model, noise, pairs)):
        fused, pairs = copied(model).eval(), []
    fused.fused = pairs
    return fused


def _fold(model: nn.Module, pairs: Sequence[tuple[str, str]]) -> None:
    for conv_name, norm_name in pairs:
        conv: Any = model.get_submodule(conv_name)
        norm: Any = model.get_submodule(norm_name)
        statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
        # The activation of a fused norm stays, under its name: a tap may lie inside it.
        rest = nn.Sequential(OrderedDict(norm.named_children())).eval()
        aliases = [n for n, m in model.named_modules(remove_duplicate=False) if m is norm]
        for name in aliases:
            model.set_submodule(name, rest)


def _outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    """All tensors that a forward in eval mode returns, whatever it draws at random the same."""
    devices = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(devices), evaluating(model):
        torch.manual_seed(0)
        return list(tensors_in(model(x)))


def _agree(fused: nn.Module, noise: Tensor, expected: list[Tensor]) -> bool:
    """Whether the fused network answers as the model did, up to rounding."""
    try:
        found = _outputs(fused, noise)
    except Exception:  # noqa: BLE001  # code that asks a norm for its weights finds another module
        return False
    same_shapes = [x.shape for x in found] == [x.shape for x in expected]
    return same_shapes and all(map(_near, found, expected))


def _agree_in_double(model: nn.Module, noise: Tensor, pairs: Sequence[tuple[str, str]]) -> bool:
    """The same where rounding counts for nothing: random networks can multiply it by millions."""
    exact, noise = copied(model).eval().double(), noise.double()
    try:
        expected = _outputs(exact, noise)
    except Exception:  # noqa: BLE001  # part of the model insists on its own precision
        return False
    _fold(exact, pairs)
    return _agree(exact, noise, expected)


def _near(found: Tensor, expected: Tensor) -> bool:
    if not expected.is_floating_point():
        return found.equal(expected)
    tolerance = max(_TOLERANCE, math.sqrt(torch.finfo(expected.dtype).eps))
    error, size = (found.double() - expected.double()).norm(), expected.double().norm()
    return bool(error <= tolerance * size)  # NaN is not


def _pairs(model: nn.Module, noise: Tensor) -> tuple[list[tuple[str, str]], list[Tensor]]:
    """Names of each convolution and the batch-norm that alone reads its output; and the outputs."""
    plain = {name: module for name, module in model.named_modules() if _is_plain(module)}
    reads = _Reads(plain)
    handles = [m.register_forward_hook(partial(reads.ran, name)) for name, m in plain.items()]
    with reads:
        outputs = _outputs(model, noise)
    for handle in handles:
        handle.remove()
    return reads.pairs(), outputs


class _Reads(TorchDispatchMode):
    """Counts how often any operation reads the maps and parameters of chosen modules.

    Scripted functions and assignments to a part of a map are operations like all others here.
    """

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        super().__init__()
        self._names: MutableMapping[Tensor, str] = WeakTensorKeyDictionary()
        """Of a parameter, and of a convolution's output as long as it lives."""
        self._own = {name: list(_tensors(module)) for name, module in modules.items()}
        for name, tensors in self._own.items():
            for i, tensor in enumerate(tensors):
                self._names.setdefault(tensor, f"{name}.{i}")
        self._reads: Counter[str] = Counter()
        self._due: Counter[str] = Counter()
        """How often the modules themselves read a parameter, and how often they ran."""
        self._read_by: dict[str, str] = {}
        """Convolution → norm."""

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        del types
        for tensor in tensors_in((args, kwargs)):
            if tensor in self._names:
                self._reads[self._names[tensor]] += 1
        return func(*args, **(kwargs or {}))

    def ran(self, name: str, module: nn.Module, inputs: tuple, output: Any) -> None:
        """A forward hook of the chosen modules."""
        self._due.update([name, *(self._names[tensor] for tensor in self._own[name])])
        if isinstance(module, nn.Conv2d):
            self._names[output] = name
        elif inputs and inputs[0] in self._names:
            self._read_by[self._names[inputs[0]]] = name

    def pairs(self) -> list[tuple[str, str]]:
        """What ran once, was read once and is forgotten, and the norm that read it."""
        kept = set(self._names.values())
        return [
            (conv, norm)
            for conv, norm in self._read_by.items()
            if self._reads[conv] == self._due[conv] == self._due[norm] == 1
            and conv not in kept
            and self._reads_its_own(conv)
            and self._reads_its_own(norm)
        ]

    def _reads_its_own(self, name: str) -> bool:
        """Whether nobody else reads the module's parameters, by hand."""
        names = {self._names[tensor] for tensor in self._own[name]}
        return all(self._reads[each] == self._due[each] for each in names)


def _is_plain(module: nn.Module) -> bool:
    """Whether it does what its class says, with numbers that are known beforehand.

    Hooks and subclasses (a convolution that standardises its weights, say) may do more.
    """
    # A network holds none of timm's layers unless they have been imported, which takes seconds.
    timm: Any = sys.modules.get("timm.layers")
    convolutions = {nn.Conv2d, getattr(timm, "Conv2dSame", None)}
    norms = {nn.BatchNorm2d, getattr(timm, "BatchNormAct2d", None)}
    statistics = type(module) in norms and module.running_mean is not None
    known = type(module) in convolutions or statistics
    return known and not (module._forward_hooks or module._forward_pre_hooks)  # noqa: SLF001


def _tensors(module: Any) -> Iterator[Tensor]:
    """All that the module computes with."""
    names = ("weight", "bias", "running_mean", "running_var")
    return (x for name in names if (x := getattr(module, name, None)) is not None)
