"""Honest timing: models side by side in one process, and how sure their ratio is.

Each round times every model once, so that whatever slows the machine down slows all of them, and
what is compared are the times of one round. The models run as their user runs them: in eval mode,
without gradients, but with batch-norm unfolded and the memory format as it is.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from aliascope.errors import AliascopeError, ModelError
from aliascope.models import LoadedModel, load_model
from aliascope.records import Report
from aliascope.results.files import Result
from aliascope.results.text import columns, interval, number, wrapped
from aliascope.results.verdicts import Change, digits, listed
from aliascope.runtime import (
    Precision,
    chosen_device,
    computing,
    copied,
    environment,
    failures_named,
    tf32,
)
from aliascope.statistics import median_interval
from aliascope.taps import evaluating

_FEWEST_ROUNDS, _MOST_ROUNDS = 11, 200
_WARM_UP = 3
"""Forwards; the first ones also pay for kernels chosen, memory allocated and caches filled."""
_SHORTEST = 1e-3
"""Seconds; a forward that is over sooner is repeated until this long is timed."""
_BUSY = 0.2
"""Spread beyond which the machine did something else besides."""
_SAID = 3
"""Models that a verdict names one by one."""

_now = time.perf_counter


@dataclass(frozen=True, eq=False)
class Latency(Result):
    """What `bench` found; `str()` prints it as a table."""

    times: pd.DataFrame
    """A row a batch, round and model, in the order of timing: model, batch, round, ms (one forward
    of the whole batch)."""
    table: pd.DataFrame
    """A row a batch and model: model, batch, ms_image (median over rounds / batch), low, high,
    ratio (median over rounds of the ratio to the first model in that round), ratio_low, ratio_high,
    rounds, spread (interquartile range / median). Intervals: 95 %, see
    `aliascope.statistics.median_interval`; they take rounds as independent."""
    info: dict[str, Any]
    """device, hardware, threads, precision, versions, the reference of the ratios, …"""
    failures: dict[str, str]
    """Model → why it, or one of its batch sizes, could not be timed."""
    notices: tuple[str, ...]
    """What to know before trusting the numbers, a sentence each."""

    @property
    def verdict(self) -> str:
        """How much longer than the first model the others take, in words."""
        return " ".join(_sentences(self))

    def _blocks(self) -> Iterator[str]:
        return _blocks(self)


def bench(
    models: str | nn.Module | LoadedModel | Sequence[str | nn.Module | LoadedModel],
    *,
    batch_sizes: Sequence[int] = (1, 32),
    seconds: int | float = 10.0,
    precision: Precision = "fp32",
    device: str | None = None,
    weights: str | Path = "pretrained",
    seed: int = 0,
    progress: Report | None = None,
) -> Latency:
    """Time the forward pass of models against each other.

    After warm-up each round times every model once, in an order in which all come first equally
    often. The input, random and of the model's own size, is made once for each batch size. On a GPU
    the time is the device's own, between two events; elsewhere it is the wall clock's.

    Args:
        models: specs, modules or what `load_model` returned; the second "m" is named "m #2". A
            module is timed itself where it is on the device already, else a copy of it.
        batch_sizes: images a forward.
        seconds: to spend on each batch size, warm-up not counted, but 11 to 200 rounds.
        precision: fp32 runs the model as it is, tf32 with products that CUDA rounds, bf16 and fp16
            under autocast.
        device: "cpu", "cuda", "cuda:1", …; by default CUDA where there is one.
        weights: "pretrained", "random" or a file.
        seed: of random weights, input and order.
        progress: called after each round with the rounds done so far and None.

    Returns:
        Times and their table. A model that fails is named in `failures`, one that runs out of
        memory in `notices`; the others go on without it.

    Raises:
        ModelError: no model could be timed, or there is no such device.
        AliascopeError: no models, or a batch size or duration that makes no sense.

    Source: Conover, Practical Nonparametric Statistics (3rd ed. 1999), section 3.2: the intervals.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> latency = bench([net, net], batch_sizes=[1], seconds=0, device="cpu")
    >>> latency.table[["model", "batch", "rounds"]]
               model  batch  rounds
    0     Sequential      1      11
    1  Sequential #2      1      11
    """
    given = [models] if isinstance(models, str | nn.Module | LoadedModel) else list(models)
    _check(given, batch_sizes, seconds)
    place = chosen_device(device, precision)
    labels = list(_labels(given))
    entrants: list[_Entrant] = []
    lost: _Lost = {}
    for label, model in zip(labels, given, strict=True):
        with _noting(lost, label):
            entrants.append(_entrant(label, model, weights, seed, place))
    failures = {label: sentence for label, (_, sentence) in lost.items()}
    rows, notices = [], []
    rounds = count(1)

    def report() -> None:
        if progress:
            progress(next(rounds), None)

    with _ready(entrants, place, precision):
        for batch in dict.fromkeys(batch_sizes):
            timer = _Timer(batch, place, precision, seed)
            more, lost = _time_batch(entrants, timer, seconds, report)
            rows += more
            for label, (kind, sentence) in lost.items():
                if kind is _OutOfMemoryError:
                    notices.append(sentence)
                else:
                    failures[label] = sentence
    if not rows:
        raise ModelError("; ".join(dict.fromkeys([*failures.values(), *notices])))
    times = pd.DataFrame(rows)
    timed = set(times["model"])
    reference = next(label for label in labels if label in timed)
    table = _table(times, labels, reference)
    settings = {"precision": precision, "seconds": seconds, "seed": seed, "reference": reference}
    known = {entrant.label: entrant.info for entrant in entrants}
    return Latency(
        times=times,
        table=table,
        info=environment(place) | settings | {"models": known},
        failures=failures,
        notices=(*notices, *_notices(table, labels[0], reference, seconds)),
    )


@dataclass(frozen=True, eq=False)
class _Entrant:
    label: str
    module: nn.Module
    shape: tuple[int, ...]
    """Channels, rows, columns of its images."""
    info: dict[str, Any]


_Lost = dict[str, tuple[type[ModelError], str]]
"""Label → kind and sentence: the error itself would hold the tensors that its frames hold."""


class _OutOfMemoryError(ModelError):
    """A model and batch that the device cannot hold."""


@dataclass(frozen=True)
class _Timer:
    """How forwards of one batch size are timed."""

    batch: int
    device: torch.device
    precision: Precision
    seed: int

    def prepare(self, entrant: _Entrant) -> Callable[[], float]:
        """Warm up on random images; what is returned times one forward of them, in seconds."""
        shape = (self.batch, *entrant.shape)

        def guarded() -> Any:
            return _guarded(entrant.label, shape, self.device)

        with guarded():
            generator = torch.Generator().manual_seed(self.seed)
            x = torch.randn(shape, generator=generator).to(self.device)

        def forward() -> None:
            # Autocast is entered anew each time: it would otherwise keep the weights cast.
            with computing(self.precision, self.device):
                entrant.module(x)

        def timed(repeats: int) -> float:
            with guarded():
                return _elapsed(forward, repeats, self.device) / repeats

        once = min([timed(1) for _ in range(_WARM_UP)])
        # Not on a GPU, whose events are exact: repeats would overlap there.
        repeats = 1 if x.is_cuda else math.ceil(_SHORTEST / max(once, 1e-6))
        return lambda: timed(repeats)


def _elapsed(forward: Callable[[], None], repeats: int, device: torch.device) -> float:
    """Seconds that so many forwards take, with nothing else in the device's queue."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        for _ in range(repeats):
            forward()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3
    finish = (lambda: None) if device.type == "cpu" else torch.accelerator.synchronize
    finish()
    begin = _now()
    for _ in range(repeats):
        forward()
    finish()
    return _now() - begin


@contextmanager
def _ready(entrants: list[_Entrant], device: torch.device, precision: Precision) -> Iterator[None]:
    """Every submodule in eval mode, no gradients, events on the right GPU; all put back."""
    with ExitStack() as stack:
        for entrant in entrants:
            stack.enter_context(evaluating(entrant.module))
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
            stack.enter_context(tf32(allowed=precision == "tf32"))  # once, not in timed forwards
        stack.enter_context(torch.inference_mode())
        yield


def _time_batch(
    entrants: list[_Entrant],
    timer: _Timer,
    seconds: int | float,
    report: Callable[[], None],
) -> tuple[list[dict[str, Any]], _Lost]:
    """Rows of `Latency.times` for one batch size, and who dropped out and why."""
    timed: dict[str, Callable[[], float]] = {}
    rows: list[dict[str, Any]] = []
    lost: _Lost = {}
    for entrant in entrants:
        with _noting(lost, entrant.label):
            timed[entrant.label] = timer.prepare(entrant)
    deadline = _now() + seconds
    for done, order in enumerate(_orders(list(timed), timer.seed)):
        enough = done >= _FEWEST_ROUNDS and _now() >= deadline
        if enough or done == _MOST_ROUNDS or len(lost) == len(entrants):
            break
        for label in order:
            if label not in lost:
                with _noting(lost, label):
                    row = {"model": label, "batch": timer.batch, "round": done}
                    rows.append(row | {"ms": 1e3 * timed[label]()})
        report()
    return [row for row in rows if row["model"] not in lost], lost


def _orders(labels: list[str], seed: int) -> Iterator[list[str]]:
    """Orders without end: of as many in a row as there are labels, each label is first in one."""
    rng = np.random.default_rng(seed)
    while labels:
        shuffled = rng.permutation(len(labels))
        for first in range(len(labels)):
            yield [labels[i] for i in np.roll(shuffled, -first)]


def _table(times: pd.DataFrame, labels: list[str], reference: str) -> pd.DataFrame:
    rows = []
    for batch in times["batch"].unique().tolist():
        rounds = times[times["batch"] == batch].pivot_table("ms", "round", "model")
        for label in labels:
            if label not in rounds:
                continue
            ms = rounds[label]
            ratio = median_interval(ms / rounds.get(reference, np.nan))
            quarter, three_quarters = ms.quantile([0.25, 0.75])
            each = [x / batch for x in median_interval(ms)]
            spread = (three_quarters - quarter) / ms.median()
            rows.append((label, batch, *each, *ratio, len(ms), spread))
    names = ["model", "batch", "ms_image", "low", "high", "ratio", "ratio_low", "ratio_high"]
    return pd.DataFrame(rows, columns=[*names, "rounds", "spread"])


def _notices(
    table: pd.DataFrame, first: str, reference: str, seconds: int | float
) -> Iterator[str]:
    if reference != first:
        yield f"{first} could not be timed: ratios are to {reference}"
    for batch in table.loc[table["ratio"].isna(), "batch"].unique():
        yield f"no ratios at batch {batch}, at which {reference} could not be timed"
    for batch in table.loc[table["rounds"] == _FEWEST_ROUNDS, "batch"].unique():
        yield (
            f"at batch {batch} the {_FEWEST_ROUNDS} rounds that are the fewest took {seconds:g} s "
            "or more, so that intervals are wide: give more seconds"
        )
    busy = table.query(f"spread > {_BUSY}").to_dict("records")
    if busy:
        where = [f"{x['model']} at batch {x['batch']} ({x['spread']:.0%})" for x in busy]
        yield (
            f"the machine seems busy, times spread by more than {_BUSY:.0%} of their median: "
            f"{', '.join(where)}; close what else runs and time again"
        )


def _check(models: Sequence[Any], batch_sizes: Sequence[int], seconds: int | float) -> None:
    if not models:
        raise AliascopeError("there is no model to time: give at least one")
    if not batch_sizes or min(batch_sizes) < 1:
        sizes = ", ".join(map(str, batch_sizes)) or "none"
        raise AliascopeError(f"batch sizes must be 1 or more, such as 1 and 32, but are {sizes}")
    if not 0 <= seconds < math.inf:
        raise AliascopeError(f"seconds must be 0 or more, such as 10, but are {seconds:g}")


def _labels(models: Sequence[str | nn.Module | LoadedModel]) -> Iterator[str]:
    seen: Counter[str] = Counter()
    for model in models:
        name = model.spec if isinstance(model, LoadedModel) else type(model).__name__
        name = model if isinstance(model, str) else name
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name} #{seen[name]}"


def _entrant(
    label: str,
    model: str | nn.Module | LoadedModel,
    weights: str | Path,
    seed: int,
    device: torch.device,
) -> _Entrant:
    loaded = load_model(model, weights=weights, seed=seed)
    module, shape = loaded.module, tuple(loaded.example().shape)
    with _guarded(label, shape, device):
        there = torch.empty(0, device=device).device  # cuda is cuda:0
        if any(x.device != there for x in chain(module.parameters(), module.buffers())):
            module = copied(module).to(device)
    info = {"weights": loaded.weights, "weights_digest": loaded.weights_digest}
    return _Entrant(label, module, shape[1:], info | {"input": list(shape[1:])})


@contextmanager
def _noting(lost: _Lost, label: str) -> Iterator[None]:
    """A model that fails in the block is noted as lost; the others go on."""
    try:
        yield
    except ModelError as error:
        lost[label] = type(error), str(error)


@contextmanager
def _guarded(label: str, shape: tuple[int, ...], device: torch.device) -> Iterator[None]:
    """Whatever the model raises becomes a ModelError, and lack of memory one of its own kind."""
    try:
        with failures_named(label, shape):
            yield
    except ModelError as error:
        reason = error.__cause__
        full = isinstance(reason, torch.OutOfMemoryError)
        if not full and "DefaultCPUAllocator" not in str(reason):
            raise
        remedy = "a smaller batch size" if shape[0] > 1 else "another device"
        raise _OutOfMemoryError(
            f"{label} at batch {shape[0]} does not fit into the memory of {device} and is left "
            f"out: choose {remedy}"
        ) from error


def _sentences(latency: Latency) -> Iterator[str]:
    """Of more models than a sentence holds, the fastest and the slowest."""
    reference = latency.info["reference"]
    rows = latency.table.query("model != @reference and ratio == ratio")
    if rows.empty:
        for row in latency.table.to_dict("records"):
            low, high = digits(row["low"]), digits(row["high"])
            yield (
                f"{row['model']} takes {digits(row['ms_image'])} ms an image at batch "
                f"{row['batch']} (95 % interval {low} to {high})."
            )
    for batch, some in rows.groupby("batch", sort=False):
        ordered = some.sort_values("ratio", kind="stable")
        kept = some if len(some) <= _SAID else ordered.iloc[[0, -1]]
        said = [_longer(row, reference) for row in kept.to_dict("records")]
        of = "" if kept is some else f"of {len(some)} models "
        yield f"At batch {batch} {of}{listed(said)}."


def _longer(row: dict[Any, Any], reference: str) -> str:
    change = Change(*(row[name] - 1 for name in ("ratio", "ratio_low", "ratio_high")))
    amount = change.amount("less", "longer", "as long")
    joined = "than" if change.value else "as"
    return f"{row['model']} takes {amount} {joined} {reference} ({change.certainty()})"


def _blocks(latency: Latency) -> Iterator[str]:
    """The paragraphs of the printed table."""
    info = latency.info
    yield (
        f"{info['precision']} on {info['device']} ({info['hardware']}, "
        f"{info['threads']} threads), torch {info['versions']['torch']}"
    )
    limits = "95 % interval"
    header = ["model", "batch", "ms an image", limits, "ratio", limits, "rounds", "spread"]
    yield columns([header, *(_cells(row) for row in latency.table.to_dict("records"))])
    yield wrapped([latency.verdict])
    caption = (
        "ms an image: median over rounds of one forward / batch; ratio: to "
        f"{info['reference']} in the same round, median; 95 % intervals: from order statistics; "
        "spread: interquartile range / median. The models run as they are: batch-norm is not "
        "folded, the memory format is not changed."
    )
    yield wrapped([caption])
    yield wrapped(
        [
            *(f"notice: {text}" for text in latency.notices),
            *(f"failed {label}: {text}" for label, text in latency.failures.items()),
        ]
    )


def _cells(row: dict[Any, Any]) -> list[str]:
    return [
        row["model"],
        str(row["batch"]),
        f"{row['ms_image']:.3f}",
        interval(row["low"], row["high"], ".3f"),
        number(row["ratio"], ".3f"),
        interval(row["ratio_low"], row["ratio_high"], ".3f"),
        str(row["rounds"]),
        f"{row['spread']:.1%}",
    ]
