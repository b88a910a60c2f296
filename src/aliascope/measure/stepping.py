"""From a source of images to the rows of a run, a batch at a time."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from aliascope.errors import ImageError, ModelError
from aliascope.images import ImageSource, Loaded, batches, labels_fit
from aliascope.images.ahead import waits_for
from aliascope.measure.batch import Instrument, Rows
from aliascope.measure.store import Run
from aliascope.measure.writing import RunWriter, Shard
from aliascope.models import LoadedModel
from aliascope.records import Report
from aliascope.results.files import Place
from aliascope.runtime import environment

Figures = Callable[[Sequence[Loaded], bool, int], Rows]
"""Takes readable pictures, whether labels number the model's own classes, and how many images were
measured before these."""


def into_run(
    model: LoadedModel,
    instrument: Instrument,
    source: ImageSource,
    figures: Figures,
    settings: Mapping[str, Any],
    *,
    out: Place | None,
    shard: Shard | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    flush_seconds: float = 10.0,
    progress: Report | None = None,
) -> Generator[int, None, Run]:
    """Write the figures of all images into a run; an equal one in `out` is continued.

    Args:
        model: which the instrument was made from.
        instrument: from `prepare`.
        source: of the images; with a shard, that shard's.
        figures: what is measured of a batch.
        settings: what decides the figures besides model, preprocessing and precision.
        out: as for `measure`, like all that follow.
        shard: see there.
        batch_size: see there.
        seed: see there.
        flush_seconds: see there.
        progress: see there.

    Yields:
        Behind each batch, how many images are done.

    Raises:
        AliascopeError: as `measure`.
    """
    identities = source.identities()
    fits, unfit = labels_fit(source, instrument.classes)
    config = {
        "model": model.spec,
        "weights": model.weights,
        "weights_digest": model.weights_digest,
        "structure": model.structure_digest,
        "images": source.spec,
        "labels_fit": fits,
        "preprocessing": instrument.preprocessing.to_dict(),
        "precision": instrument.precision,
        "border": instrument.border,
        **settings,
    }
    if identities is None:  # what a stream will yield is not known: the same part of the same one
        config |= {"images_digest": source.digest, "limit": source.limit}
    info = environment(instrument.device) | {"seed": seed}
    if shard is not None:  # its number says which images it holds, as long as these are the same
        info["listing"] = replace(source, shard=(0, 1)).digest
    with RunWriter(
        out,
        config,
        instrument.layers,
        info,
        identities=identities,
        shard=shard,
        flush_seconds=flush_seconds,
    ) as writer:
        for notice in filter(None, [*instrument.notices, *source.notices, unfit]):
            writer.notice(notice)
        sizes = _batch_size(batch_size, writer.previous_info, instrument.device.type)
        todo = (entry for entry in source.entries() if entry.id not in writer.measured)
        held = writer.measured if identities is None else writer.measured & identities.keys()
        done = len(held)
        report = progress or (lambda *_: None)
        report(done, source.count, "decoding")
        asked = time.perf_counter()
        for readable, others in batches(todo, instrument.seen, lambda: sizes.current):
            got = time.perf_counter()
            for item in others:
                writer.skip(item.entry.id, item.note)
            if readable:
                before = done - len(writer.run.skipped) + len(others)
                _add_batch(writer, figures, readable, sizes, fits, before)
            writer.run.info["batch_size"] = sizes.current
            done += len(readable) + len(others)
            waited, whole = got - asked, time.perf_counter() - asked
            report(done, source.count, waits_for(waited, whole, "forward"))
            yield done
            asked = time.perf_counter()
        if len(writer.run.skipped) == done and (done or shard is None):
            reason = writer.run.skipped[0]["reason"] if done else "it yielded none"
            raise ImageError(f"no image of {source.spec} could be measured: {reason}")
        return writer.finish()


class BatchSize:
    """How many images go through one forward: doubled or halved while real batches get faster.

    On two cores one or two images (five views each) a forward beat 32 by a third; on a GPU the more
    the better until memory ends. Trying sizes on the work itself costs nothing extra.
    """

    _TRIALS = 2  # the first batch of a new size also pays for its set-up

    def __init__(self, start: int, *, fixed: bool = False) -> None:
        self.current = start
        self._settled = fixed
        self._limit = 1024
        self._seconds: dict[int, list[float]] = {}

    def record(self, images: int, seconds: float) -> None:
        """Take note of a batch; once a size is tried out, go on to the next or settle."""
        if self._settled or images != self.current:
            return
        trials = self._seconds.setdefault(images, [])
        trials.append(seconds / images)
        if len(trials) >= self._TRIALS:
            fastest = min(self._seconds, key=lambda size: min(self._seconds[size]))
            untried = [n for n in (2 * fastest, fastest // 2) if self._possible(n)]
            self.current = untried[0] if untried else fastest
            self._settled = not untried

    def forbid(self, images: int) -> None:
        """That many did not fit into memory."""
        self._limit = min(self._limit, images - 1)
        self.current = min(self.current, max(images // 2, 1))

    def _possible(self, size: int) -> bool:
        return 1 <= size <= self._limit and size not in self._seconds


def _batch_size(asked: int | None, previous_info: dict[str, Any] | None, device: str) -> BatchSize:
    """The size asked for, or that of the run being continued, or a start for the search."""
    known = asked or (previous_info or {}).get("batch_size")
    return BatchSize(known, fixed=True) if known else BatchSize(2 if device == "cpu" else 64)


def _add_batch(
    writer: RunWriter,
    figures: Figures,
    batch: Sequence[Loaded],
    sizes: BatchSize,
    fits: bool,
    before: int,
) -> None:
    """Measure pictures and hand their rows to the writer; in halves if memory is short."""
    start = time.perf_counter()
    try:
        rows = figures(batch, fits, before)
    except torch.OutOfMemoryError as error:
        if len(batch) == 1:
            raise ModelError(
                f"one image does not fit into the memory of {writer.run.info['device']}; "
                "choose --device cpu or --precision bf16"
            ) from error
        sizes.forbid(len(batch))
        half = len(batch) // 2
        for part, first in ((batch[:half], before), (batch[half:], before + half)):
            _add_batch(writer, figures, part, sizes, fits, first)
        return
    writer.add(rows.images, rows.layers)
    for notice in rows.notices:
        writer.notice(notice)
    sizes.record(len(batch), time.perf_counter() - start)
