"""Pictures made ready in threads, ahead of the network that is waiting for them."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from aliascope.errors import ImageError
from aliascope.images.source import Entry

_NOTICED = 0.1
"""Share of the time that was spent waiting for pictures, beyond which that is worth saying."""

_AHEAD = 32
"""Pictures that are made ready beyond the next batch, or where there are no batches."""
_FORWARD = 256
"""The next batch is made ready while the network has this one, of a larger one so many."""

T = TypeVar("T")
R = TypeVar("R")


class Loaded(NamedTuple):
    """One picture, decoded and transformed, or not readable."""

    entry: Entry
    pixels: Tensor | None
    note: str
    """What was converted, or why there are no pixels."""


Transform = Callable[[Tensor], Tensor | tuple[Tensor, str]]
"""Makes what a network takes of a decoded picture, with a note where there is something to say."""


def batches(
    entries: Iterable[Entry], transform: Transform, size: Callable[[], int]
) -> Iterator[tuple[list[Loaded], list[Loaded]]]:
    """Pictures made ready, so many at a time as `size` says then: readable ones, and the others.

    >>> from aliascope.images import open_images
    >>> entries = open_images("photos", limit=3).entries()
    >>> [len(readable) for readable, _ in batches(entries, lambda x: x, lambda: 2)]
    [2, 1]
    """
    loaded = loaded_ahead(entries, transform, lambda: min(size(), _FORWARD) + _AHEAD)
    while batch := list(islice(loaded, size())):
        readable = [item for item in batch if item.pixels is not None]
        yield readable, [item for item in batch if item.pixels is None]


def loaded_ahead(
    entries: Iterable[Entry], transform: Transform, ahead: Callable[[], int] = lambda: _AHEAD
) -> Iterator[Loaded]:
    """Decode and transform pictures in threads, in order, so many ahead at most.

    An ImageError of either becomes the note of a picture without pixels.
    """

    def load(entry: Entry) -> Loaded:
        try:
            pixels, note = entry.load()
            made = transform(pixels)
            seen, more = made if isinstance(made, tuple) else (made, "")
            return Loaded(entry, seen, ", ".join(filter(None, [note, more])))
        except ImageError as error:
            return Loaded(entry, None, str(error))

    yield from in_threads(load, entries, ahead=ahead)


def in_threads(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    ahead: Callable[[], int] = lambda: _AHEAD,
    threads: int | None = None,
) -> Iterator[R]:
    """Apply a function in threads and yield its results in order.

    Args:
        function: called with one item at a time; what it raises is raised at its turn.
        items: taken as they are needed.
        ahead: at most so many are under way or waiting to be taken; asked again each time.
        threads: 16 or as many as there are cores, whichever is less, by default.

    >>> list(in_threads(abs, [-3, -2, -1]))
    [3, 2, 1]
    """
    # A thread takes the latest number set by any of them with its first parallel operation, or when
    # it asks: unasked, the caller would go on with the one thread of its workers.
    own_threads = torch.get_num_threads()
    # One torch thread in each worker: the cores belong to the forward pass.
    workers = ThreadPoolExecutor(
        threads or min(16, os.cpu_count() or 1), initializer=lambda: torch.set_num_threads(1)
    )
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(workers.submit(function, item))
            if len(waiting) > ahead():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        workers.shutdown(cancel_futures=True)
        torch.set_num_threads(own_threads)


def waits_for(decoding: int | float, whole: int | float, work: str) -> str:
    """What a bar says that it waits for: decoding, or the work that is done with the pictures.

    Args:
        decoding: seconds spent waiting for pictures.
        whole: seconds of all.
        work: its name.

    >>> waits_for(0.5, 1, "step"), waits_for(0.01, 1, "step")
    ('decoding', 'step')
    """
    return "decoding" if decoding > _NOTICED * whole else work
