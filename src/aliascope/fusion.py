"""Batch-norm folded into the convolution before it: the same network with fewer passes."""

import copy
from collections import Counter, OrderedDict
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from aliascope.taps import Trace, trace

_CONVOLUTIONS = ("torch.nn.modules.conv.Conv2d", "timm.layers.conv2d_same.Conv2dSame")
_NORMS = ("torch.nn.modules.batchnorm.BatchNorm2d", "timm.layers.norm_act.BatchNormAct2d")
"""By name: timm takes seconds to import and may not be needed."""


def fuse_batch_norm(
    model: nn.Module, example: Float[Tensor, "batch chan height width"]
) -> nn.Module:
    """A copy in eval mode whose conv → batch-norm pairs are one convolution each.

    w' = w · γ / √(σ² + ε), b' = β + (b − μ) · γ / √(σ² + ε). Only the map between the two is gone:
    a pair is folded where the data flow of a forward shows that nothing else reads that map, so
    whatever any other operation reads is as before, up to rounding.

    Args:
        model: left as it is.
        example: a batch to follow through the model.

    Raises:
        Exception: whatever the model raises on the example.

    Source: Jacob et al. 2018 (arXiv 1712.05877), section 3.2.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> fuse_batch_norm(net, torch.zeros(1, 3, 8, 8))[1]
    Sequential()
    """
    folded = copy.deepcopy(model).eval()
    for conv_name, norm_name in _pairs(folded, trace(folded, example)):
        conv: Any = folded.get_submodule(conv_name)
        norm: Any = folded.get_submodule(norm_name)
        statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
        # The activation of a fused norm stays, under its name: a tap may lie inside it.
        rest = nn.Sequential(OrderedDict(norm.named_children())).eval()
        aliases = [n for n, m in folded.named_modules(remove_duplicate=False) if m is norm]
        for name in aliases:
            folded.set_submodule(name, rest)
    return folded


def _pairs(model: nn.Module, recorded: Trace) -> list[tuple[str, str]]:
    """Names of each convolution and the batch-norm that alone reads its output."""
    readers = Counter(parent for call in recorded.calls for parent in call.parents)
    modules = dict(model.named_modules())
    pairs = []
    for call in recorded.calls:
        if call.function != "batch_norm" or len(call.parents) != 1:
            continue
        (parent,) = call.parents
        source = recorded.calls[parent]
        conv, norm = modules[source.module], modules[call.module]
        once = (
            readers[parent] == recorded.counts[source.module] == recorded.counts[call.module] == 1
        )
        alone = once and parent not in recorded.held
        if alone and source.function == "conv2d" and _plain(conv, norm):
            pairs.append((source.module, call.module))
    return pairs


def _plain(conv: nn.Module, norm: nn.Module) -> bool:
    """Whether both do what their class says, with statistics that are known beforehand.

    Hooks and subclasses (a convolution that standardises its weights, say) may do more.
    """
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in (conv, norm))  # noqa: SLF001
    known = _name(conv) in _CONVOLUTIONS and _name(norm) in _NORMS
    return known and not hooked and norm.running_mean is not None


def _name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
