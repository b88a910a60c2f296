"""Several processes on one machine, each of which measures a shard of one run."""

import multiprocessing
import os
import queue
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aliascope.errors import AliascopeError, RunError
from aliascope.measure.merging import merge
from aliascope.measure.parts import KINDS
from aliascope.measure.store import Run
from aliascope.measure.writing import Shard
from aliascope.records import Report
from aliascope.results.files import Place, place

_TRIES = 3
"""How often a shard is begun whose process dies, as of too little memory."""
_POLL = 0.2  # seconds


def checked(shard: Shard, out: Place | None) -> Shard:
    """The shard; raises RunError if there is no such one, or nowhere for the shards to meet."""
    index, count = shard
    if not 0 <= index < count:
        raise RunError(f"there is no shard {index}/{count}: they count from 0 to {count - 1}")
    if out is None:
        raise RunError(f"shard {index}/{count} of a run needs a directory: give --out")
    return shard


def in_processes(
    model: Any,
    images: Any,
    options: dict[str, Any],
    workers: int,
    *,
    out: Place | None,
    progress: Report | None,
) -> Run:
    """What `measure` with these options returns, from so many processes.

    A process that is killed is started again, twice; what it had written counts.

    Raises:
        RunError: there are fewer than one, or one died three times.
        AliascopeError: what `measure` raises, of the first worker that fails.
    """
    if workers < 1 or options["shard"] is not None:
        raise RunError(
            f"{workers} workers cannot share shard {options['shard']}: leave one of them out"
            if options["shard"] is not None
            else f"{workers} workers measure nothing: give at least 1"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = place(folder if out is None else out)
        with _started(model, images, path, options, workers) as (pool, told):
            _attend(pool, told, progress)
        run = merge(path)
        if out is None:
            run = _in_memory(run)
    return run


class _Worker:
    """One process of a pool, and what it last said."""

    def __init__(self, context: Any, args: tuple[Any, ...]) -> None:
        self._context, self._args, self.tries = context, args, 0
        self.done, self.count = 0, None
        self.process: Any = None
        self.start()

    def start(self) -> None:
        self.tries += 1
        self.process = self._context.Process(target=_measure_shard, args=self._args, daemon=True)
        self.process.start()


@contextmanager
def _started(
    model: Any, images: Any, path: Place, options: dict[str, Any], workers: int
) -> Iterator[tuple[list[_Worker], Any]]:
    context = multiprocessing.get_context("spawn")  # CUDA cannot be used in a forked process
    told = context.Queue()
    threads = max(1, (os.cpu_count() or 1) // workers)
    pool = []
    try:
        for index in range(workers):
            own = options | {"shard": (index, workers), "out": path}
            pool.append(_Worker(context, (told, index, threads, model, images, own)))
        yield pool, told
    except BaseException:
        for worker in pool:
            if worker.process.is_alive():
                os.kill(worker.process.pid, signal.SIGINT)  # they write what they have
        raise
    finally:
        for worker in pool:
            worker.process.join(timeout=30)
            if worker.process.is_alive():
                worker.process.kill()


def _attend(pool: list[_Worker], told: Any, progress: Report | None) -> None:
    """Hand on what the workers say until all have ended; raise what one of them raises."""
    left = set(range(len(pool)))
    while left:
        try:
            index, (kind, *said) = told.get(timeout=_POLL)
        except queue.Empty:
            for index in [i for i in left if not pool[i].process.is_alive()]:
                _again(pool[index], index, len(pool))
            continue
        if kind == "failed":
            raise said[0]
        if kind == "finished":
            left.discard(index)
            continue
        pool[index].done, pool[index].count, waits = said
        if progress:
            counts: list[Any] = [worker.count for worker in pool]
            whole = None if None in counts else sum(counts)
            progress(sum(worker.done for worker in pool), whole, waits)


def _again(worker: _Worker, index: int, workers: int) -> None:
    code = worker.process.exitcode
    if worker.tries >= _TRIES:
        raise RunError(
            f"worker {index} of {workers} died {_TRIES} times (exit code {code}), perhaps of too "
            "little memory: give fewer --workers or a smaller --batch-size; what is measured stays"
        )
    worker.start()


def _measure_shard(
    told: Any, index: int, threads: int, model: Any, images: Any, options: dict[str, Any]
) -> None:
    """What a worker does."""
    import torch

    from aliascope.measure import measure
    from aliascope.runtime import keep_memory

    keep_memory()
    torch.set_num_threads(threads)

    def report(*said: Any) -> None:
        told.put((index, ("done", *said)))

    try:
        measure(model, images, progress=report, **options)
    except KeyboardInterrupt:
        return
    except AliascopeError as error:
        told.put((index, ("failed", error)))
        return
    told.put((index, ("finished",)))


def _in_memory(run: Run) -> Run:
    """With its rows read, so that its directory may go."""
    run.batches = [{kind: run.rows(kind) for kind in KINDS}]
    run.path, run.parts = None, {}
    return run
