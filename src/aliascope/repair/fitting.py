"""A network with folded filters made to yield what a densely filtered one does, part after part.

A folded filter comes before norm and activation, a dense one behind them. What the activation makes
of that cannot be had by one convolution; a residual block, whose weights all move, comes close.
"""

import copy
import math
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aliascope.taps import evaluating
from aliascope.taps.dataflow import Trace, watch
from aliascope.taps.replay import Replay, Undefined
from aliascope.taps.sampling import tensors_in

_RATE, _AFFINE_RATE = 0.3, 0.01
"""Of Adam, as a share of the mean size of a tensor's weights: of kernels, whose taps all move at
once, by the square root of the taps that one output reads; of norms and biases."""
_KEPT_APART = 4
"""Every fourth picture tells whether a part is better for it."""
_STEADY = 5
"""Weight of how an error changes as the picture moves. Without it, EfficientNet-Lite0 knows more
and moves nearly as before."""
_SAME = 1e-10
"""Error below which maps are the same, but for rounding."""
_MAP = 4
"""Axes of one: pictures, channels, rows, columns."""
_SEED = 0


@dataclass(frozen=True)
class _Part:
    """What a network does between two maps through which all that it sees has to pass."""

    end: str
    """The module that yields the second of them."""
    replay: Replay
    start: int
    weights: tuple[nn.Parameter, ...]
    folded: bool
    """Whether it holds a folded filter, were it of one tap. Where it has no weights, as a pool, the
    next part is fitted for it."""
    count: int
    """Pictures in the forward that was recorded: a call may hold their number."""

    def __call__(self, x: Tensor) -> Tensor:
        filled = torch.cat([x, *[x[-1:]] * (self.count - len(x))])
        return self.replay({self.start: filled})[: len(x)]


def fit_folded(
    model: nn.Module,
    dense: nn.Module,
    images: Float[Tensor, "batch chan height width"],
    *,
    behind: bool = True,
    steps: int = 100,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[nn.Module, dict[str, tuple[float, float]]]:
    """Fit a network with folded filters to a densely filtered one, a residual block at a time.

    min over all weights of a part of Σ_c (‖e_c‖² + 5 ‖e_c, the picture moved, − e_c‖²) / ‖t_c‖²,
    e = y − t, y what the part yields of what the parts before it, fitted already, hand on, t what
    the dense network has there, c a channel; the picture moves by one pixel along both axes. By
    Adam, on batches of pictures drawn anew each step. A part that is not better on pictures that it
    was not fitted on stays as it was, and so does one that yields the same in both networks, and
    what leads to no module that alone hands on a map.

    Args:
        model: with folded filters; copied.
        dense: the same network with other filters at those places; as a rule, `ideal`.
        images: normalised; the maps between two parts must fit into memory, of all of them.
        behind: whether parts without a folded filter are fitted, too, to what they read now.
        steps: of each part.
        batch_size: pictures a step, half of them the others moved.
        progress: called with the parts done, and their number.

    Returns:
        The fitted network, in eval mode, and of each part, by the module that ends it, the mean of
        ‖e_c‖² / ‖t_c‖² before and after, on the pictures kept apart.

    Source: Li et al. 2021, BRECQ (arXiv 2102.05426), section 3.2, who reconstruct the blocks of a
        quantised network.

    >>> from aliascope import antialias
    >>> dense, strided = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 2, 1)
    >>> net = nn.Sequential(dense, nn.ReLU(), strided, nn.ReLU())
    >>> folded, ideal = antialias(net, "folded"), antialias(net, "ideal")
    >>> _, errors = fit_folded(folded, ideal, torch.rand(8, 3, 16, 16), steps=20)
    >>> before, after = errors["3"]
    >>> after < before
    True
    """
    student = copy.deepcopy(model).eval()
    student.requires_grad_(requires_grad=False)
    both = torch.cat([images, _moved(images)])
    parts = _parts(student, dense, both[:batch_size])
    errors, read, due = {}, both, False
    done = progress or (lambda *_: None)
    with evaluating(student), torch.enable_grad():
        for count, part in enumerate(parts):
            done(count, len(parts))
            due = due or part.folded
            if part.weights and (due or behind):
                wanted = _yielded(dense, part.end, both)
                before, after = _fitted(part, read, wanted, steps, batch_size)
                if before:
                    errors[part.end] = before, after
                due = False
            with torch.no_grad():
                read = torch.cat([part(x) for x in read.split(batch_size)])
    done(len(parts), len(parts))
    for one, original in zip(student.parameters(), model.parameters(), strict=True):
        one.requires_grad_(original.requires_grad)
    return student, errors


def _fitted(
    part: _Part, read: Tensor, wanted: Tensor, steps: int, batch_size: int
) -> tuple[float, float]:
    count, pairs = len(read) // 2, max(min(batch_size, part.count) // 2, 1)
    apart = torch.arange(count) % _KEPT_APART == _KEPT_APART - 1
    fitted_on = (~apart).nonzero().flatten()
    judged_on = apart.nonzero().flatten() if apart.any() else fitted_on
    size = wanted.square().mean((0, 2, 3), keepdim=True)
    size = size + 1e-6 * size.mean()

    def distance(some: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([some, some + count])
        off = (part(read[both]) - wanted[both]) / size.sqrt()
        still, moved = off.chunk(2)
        return off.square().mean(), (moved - still).square().mean()

    def judged() -> tuple[float, float]:
        """The error and what is minimised, on the pictures kept apart."""
        with torch.no_grad():
            found = [torch.stack([*distance(i)]) * len(i) for i in judged_on.split(pairs)]
        error, change = (torch.stack(found).double().sum(0) / len(judged_on)).tolist()
        return error, error + _STEADY * change

    before, least = judged()
    if before < _SAME:
        return 0.0, 0.0
    kept = [p.detach().clone() for p in part.weights]
    groups = []
    for p in part.weights:
        share = _RATE / math.sqrt(p[0].numel()) if p.ndim > 1 else _AFFINE_RATE
        groups.append({"params": [p], "lr": share * max(float(p.abs().mean()), 1e-3)})
        p.requires_grad_()
    optimiser = torch.optim.Adam(groups)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    draw = torch.Generator().manual_seed(_SEED)
    for _ in range(steps):
        error, change = distance(fitted_on[torch.randperm(len(fitted_on), generator=draw)[:pairs]])
        loss = error + _STEADY * change
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        cosine.step()
    after, reached = judged()
    with torch.no_grad():
        for p, was in zip(part.weights, kept, strict=True):
            p.requires_grad = False
            if not reached < least:
                p.copy_(was)
    return before, after if reached < least else before


def _moved(images: Tensor) -> Tensor:
    """By one pixel along both axes, what comes in being what was at the border."""
    return nn.functional.pad(images, (1, 0, 1, 0), mode="replicate")[..., :-1, :-1]


def _parts(student: nn.Module, dense: nn.Module, example: Tensor) -> list[_Part]:
    """The student from the picture on, cut where both networks hand on one map of one shape.

    Blocks stay whole: those with a shortcut hand on two maps within, and of the others no part ends
    within.
    """
    recorded = Trace()
    with evaluating(student), watch(student, recorded), torch.no_grad():
        last = recorded.maker(next(tensors_in(student(example))))
    shapes, others = _shapes(student, example), _shapes(dense, example)
    parts: list[_Part] = []
    start = 0
    for span in recorded.spans:
        above = accumulate(span.module.split(".")[:-1], "{}.{}".format)
        within = any(_is_block(student.get_submodule(name)) for name in above)
        shape = shapes.get(span.module, ())
        alike = len(shape) == _MAP and shape == others.get(span.module)
        if not (span.module and alike) or within or span.output is None or span.output <= start:
            continue
        made = _replay(recorded, start, span.output)
        if made is None or _replay(recorded, span.output, last) is None:
            continue
        inside = (x.module for x in recorded.spans if x.first > start and x.stop <= span.stop)
        modules = dict.fromkeys(map(student.get_submodule, inside))
        weights = dict.fromkeys(p for m in modules for p in m.parameters())
        folded = any(hasattr(m, "low_pass") for m in modules)
        parts.append(_Part(span.module, made, start, tuple(weights), folded, len(example)))
        start = span.output
    return parts


def _is_block(module: nn.Module) -> bool:
    """Whether it holds weights or convolutions itself, and no sequence of others that do."""
    children = list(module.children())
    holds = any(isinstance(child, nn.Conv2d) for child in children)
    own = next(module.parameters(recurse=False), None) is not None
    blocks = (block for child in children if isinstance(child, nn.Sequential) for block in child)
    deep = (x for block in blocks for x in block.modules() if x is not block)
    whole = isinstance(module, nn.Sequential) or any(isinstance(x, nn.Conv2d) for x in deep)
    return own or (holds and not whole)


def _replay(recorded: Trace, start: int, end: int | None) -> Replay | None:
    """What lies between two calls, where all that the later one sees leads through the first."""
    try:
        return None if end is None else Replay(recorded.programs, [start], end)
    except Undefined:
        return None


@torch.no_grad()
def _shapes(model: nn.Module, example: Tensor) -> dict[str, tuple[int, ...]]:
    """Of the map that each module yields, if it runs once."""
    found: dict[str, list[tuple[int, ...]]] = {}

    def read(name: str, _: nn.Module, _args: tuple, yielded: Any) -> None:
        shape = tuple(yielded.shape) if isinstance(yielded, Tensor) else ()
        found.setdefault(name, []).append(shape)

    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        for name, module in model.named_modules():
            stack.callback(module.register_forward_hook(partial(read, name)).remove)
        model(example)
    return {name: shapes[0] for name, shapes in found.items() if len(shapes) == 1}


class _Seen(Exception):  # noqa: N818
    """Nothing that follows is needed."""


@torch.no_grad()
def _yielded(model: nn.Module, name: str, images: Tensor) -> Tensor:
    """What a module yields of some pictures at a time."""
    found: list[Tensor] = []

    def read(_: nn.Module, _args: tuple, yielded: Tensor) -> None:
        found.append(yielded.clone())
        raise _Seen

    handle = model.get_submodule(name).register_forward_hook(read)
    try:
        with evaluating(model):
            for part in images.split(8):
                with suppress(_Seen):
                    model(part)
    finally:
        handle.remove()
    return torch.cat(found)
