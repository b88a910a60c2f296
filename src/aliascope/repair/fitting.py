"""Folded kernels made to yield what a dense filter would, one convolution after the other.

A folded filter comes before norm and activation, a dense one behind them. What the activation makes
of that cannot be had by convolution, but most of it can: the kernel has grown, and least squares
find the taps with which convolution, norm and activation come closest to the filtered map.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aliascope.antialias import conversion_of
from aliascope.taps import evaluating, trace
from aliascope.taps.decimation import Followers
from aliascope.taps.replay import Replay

_RATE, _AFFINE_RATE = 0.03, 0.01
"""Of Adam, as a share of the mean size of the weights: of kernels, of norms and biases."""
_SEED = 0


def fit_folded(
    model: nn.Module,
    dense: nn.Module,
    images: Float[Tensor, "batch chan height width"],
    *,
    layers: Sequence[str] | None = None,
    steps: int = 120,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[nn.Module, dict[str, tuple[float, float]]]:
    """Fit each folded convolution, and the norm behind it, to a densely filtered network.

    min over kernel, bias and norm of Σ_c ‖a(K ∗ x)_c − t_c‖² / ‖t_c‖², a the norm and activation
    behind the convolution, x what it reads in the network as fitted so far, t the samples that the
    dense network keeps there, c a channel; by Adam, on batches of pictures drawn anew each step.

    Args:
        model: with folded filters; copied.
        dense: the same network with another filter at those places; as a rule, `ideal`.
        images: normalised; all maps of one layer must fit into memory.
        layers: names of convolutions; by default those with a filter of more than one tap.
        steps: of each convolution.
        batch_size: pictures a step.
        progress: called with the convolutions done, and their number.

    Returns:
        The fitted network, in eval mode, and of each convolution the relative error
        ‖y − t‖² / ‖t‖² before and after.

    >>> from aliascope import antialias
    >>> dense, strided = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 2, 1)
    >>> net = nn.Sequential(dense, nn.ReLU(), strided, nn.ReLU())
    >>> folded, ideal = antialias(net, "folded"), antialias(net, "ideal")
    >>> _, errors = fit_folded(folded, ideal, torch.rand(4, 3, 16, 16), steps=20)
    >>> before, after = errors["2"]
    >>> after < before
    True
    """
    student = copy.deepcopy(model).eval()
    student.requires_grad_(requires_grad=False)
    downsamplers = {row.layer: row.downsampler for row in conversion_of(dense).layers}
    if layers is None:
        modules = student.named_modules()
        layers = [name for name, module in modules if getattr(module, "low_pass", 1) > 1]
    names = [name for name in layers if downsamplers.get(name)]
    errors = {}
    done = progress or (lambda *_: None)
    with evaluating(student), torch.enable_grad():
        for count, name in enumerate(names):
            done(count, len(names))
            wanted = _maps(dense, str(downsamplers[name]), images, output=True)
            read = _maps(student, name, images, output=False)
            errors[name] = _fitted(student, name, read, wanted, images[:1], steps, batch_size)
    done(len(names), len(names))
    for one, original in zip(student.parameters(), model.parameters(), strict=True):
        one.requires_grad_(original.requires_grad)
    return student, errors


def _fitted(
    student: nn.Module,
    name: str,
    read: Tensor,
    wanted: Tensor,
    example: Tensor,
    steps: int,
    batch_size: int,
) -> tuple[float, float]:
    conv: Any = student.get_submodule(name)
    behind, end, beside = _behind(student, name, example)

    def made(x: Tensor) -> Tensor:
        return behind({end: conv(x)})

    def error() -> float:
        with torch.no_grad():
            parts = zip(read.split(batch_size), wanted.split(batch_size), strict=True)
            apart = sum((made(x) - t).square().sum().double() for x, t in parts)
        return float(apart / wanted.square().sum().double())

    size = wanted.square().mean((0, 2, 3), keepdim=True)
    size = size + 1e-6 * size.mean()
    rates = [(conv.weight, _RATE), *((p, _AFFINE_RATE) for p in beside)]
    rates += [(conv.bias, _AFFINE_RATE)] if conv.bias is not None else []
    groups = [
        {"params": [p.requires_grad_()], "lr": rate * max(float(p.detach().abs().mean()), 1e-3)}
        for p, rate in rates
    ]
    optimiser = torch.optim.Adam(groups)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    before = error()
    kept = [p.detach().clone() for p, _ in rates]
    draw = torch.Generator().manual_seed(_SEED)
    for _ in range(steps):
        some = torch.randperm(len(read), generator=draw)[:batch_size]
        loss = ((made(read[some]) - wanted[some]).square() / size).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        cosine.step()
    after = error()
    with torch.no_grad():
        for (p, _), was in zip(rates, kept, strict=True):
            p.requires_grad_(requires_grad=False)
            if not after < before:
                p.copy_(was)
    return before, min(before, after)


def _behind(model: nn.Module, name: str, example: Tensor) -> tuple[Replay, int, list[nn.Parameter]]:
    """Norm and activation behind a convolution as a function, where it starts, its parameters."""
    recorded = trace(model, example)
    ends = [(s.output, s.stop) for s in recorded.spans if s.module == name]
    end, first = next((output, stop) for output, stop in ends if output is not None)
    layer = next(layer for layer in recorded.strided_layers() if layer.name == name)
    last = Followers(model, recorded).activated(end, layer.output_shape[0])
    inside = {s.module for s in recorded.spans if s.first >= first and s.stop <= last + 1}
    parameters = dict.fromkeys(p for m in inside for p in model.get_submodule(m).parameters())
    return Replay(recorded.programs, [end], last), end, list(parameters)


class _Seen(Exception):  # noqa: N818
    """Nothing that follows is needed."""


@torch.no_grad()
def _maps(model: nn.Module, name: str, images: Tensor, *, output: bool) -> Tensor:
    """What a module reads, or yields, of some pictures at a time."""
    found: list[Tensor] = []

    def read(_: nn.Module, args: tuple, *yielded: Tensor) -> None:
        found.append((yielded[0] if output else args[0]).clone())
        raise _Seen

    module = model.get_submodule(name)
    hook = module.register_forward_hook if output else module.register_forward_pre_hook
    handle = hook(read)
    try:
        with evaluating(model):
            for part in images.split(8):
                try:
                    model(part)
                except _Seen:
                    continue
    finally:
        handle.remove()
    return torch.cat(found)
