"""A source of pictures: what it is, whichever way it was opened."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from threading import Lock
from typing import NamedTuple

from aliascope.errors import ImageError
from aliascope.images.decoding import Decoded
from aliascope.records import Image


class Entry(NamedTuple):
    """One picture that is not decoded yet."""

    id: str
    """Path relative to the source's root, or the data set's index; unique in its source."""
    label: int | None
    """Index of the class, where the source knows it."""
    group: str
    """The photograph it was cut from; the id itself, unless crops share one."""
    load: Callable[[], Decoded]
    """RGB pixels in [0, 1] and what was converted; raises ImageError. Safe to call in a thread."""
    stamp: Callable[[], str] = str
    """What tells its content from another, cheaply: of a file, its size and time of change."""

    @property
    def identity(self) -> str:
        """What tells this picture and its label from another of the same id; looked up when asked.

        >>> Entry("a.png", 7, "a.png", lambda: None, lambda: "1234 bytes").identity
        '1234 bytes, label 7'
        """
        return f"{self.stamp()}, label {self.label}"


class Skipped(NamedTuple):
    """One picture that could not be read."""

    id: str
    reason: str


@dataclass
class ImageSource:
    """Pictures in a fixed order; iterating decodes them one at a time.

    Those that cannot be read are left out and listed in `skipped`, anew at each iteration.
    """

    read: Callable[[], Iterable[Entry]]
    """Lists all pictures from the first, none decoded and the limit unheeded."""
    classes: int | None = None
    """Number of classes of the whole source; None where there are none or it is not known."""
    ids: Sequence[str] | None = None
    """Ids of all pictures; None for a stream, which is not known before it is read."""
    spec: str = ""
    """What `open_images` was given."""
    limit: int | None = None
    """At most that many pictures, from the first; None for all."""
    shard: tuple[int, int] = (0, 1)
    """(I, N): of these, the pictures number I, I + N, I + 2 N, …; the others are not decoded."""
    skipped: list[Skipped] = field(default_factory=list)
    labels: frozenset[int] = frozenset()
    """All labels of a table, which need not hold every class: `classes` is one more than the
    highest. Empty where the source itself says how many classes it has."""
    fingerprint: Callable[[], str] | None = None
    """What tells it from another of its kind, where pictures are known only once they are read."""
    notices: list[str] = field(default_factory=list)
    """What the user should know of the source: what was left out, and labels that match nothing."""

    @property
    def count(self) -> int | None:
        """Number of pictures of the shard, unreadable ones included; None for a stream."""
        return None if self.ids is None else len(self._own_ids(self.ids))

    def identities(self) -> dict[str, str] | None:
        """What each picture of the shard is known by, by its id; None for a stream.

        None is decoded: those of a data set share its fingerprint.
        """
        if self.ids is None:
            return None
        if self.fingerprint is not None:
            return dict.fromkeys(self._own_ids(self.ids), self.fingerprint())
        return {entry.id: entry.identity for entry in self.entries()}

    @property
    def digest(self) -> str:
        """SHA-256 of the identities up to the limit; of a stream, of its fingerprint and limit."""
        known = self.identities()
        if known is None:
            known = {str(self.limit): self.fingerprint() if self.fingerprint else ""}
        lines = (f"{key} {identity}" for key, identity in known.items())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def entries(self) -> Iterator[Entry]:
        """The pictures of the shard up to the limit, none decoded."""
        index, count = self.shard
        return islice(islice(self.read(), self.limit), index, None, count)

    def shared(self, readers: int) -> "ImageSource":
        """The same pictures for so many readers that go along side by side: each decoded once.

        >>> from aliascope.images import open_images
        >>> source = open_images("photos", limit=1).shared(2)
        >>> first, second = (next(source.entries()).load() for _ in range(2))
        >>> first is second
        True
        """
        pictures = _Shared(readers)
        return replace(self, read=lambda: map(pictures.entry, self.read()))

    def _own_ids(self, ids: Sequence[str]) -> Sequence[str]:
        index, count = self.shard
        return ids[: self.limit][index::count]

    def __iter__(self) -> Iterator[Image]:
        self.skipped = []
        for entry in self.entries():
            try:
                pixels, note = entry.load()
            except ImageError as error:
                self.skipped.append(Skipped(entry.id, str(error)))
            else:
                yield Image(entry.id, pixels, entry.label, entry.group, note)


class _Shared:
    """What one reader of a source has decoded, until the last of them has taken it."""

    _HELD = 256
    """Pictures at most: where one reader leaves some out, the oldest are decoded anew."""

    def __init__(self, readers: int) -> None:
        self._readers = readers
        self._held: OrderedDict[str, tuple[Future[Decoded], int]] = OrderedDict()
        self._lock = Lock()

    def entry(self, entry: Entry) -> Entry:
        """The same picture, decoded once."""
        return entry._replace(load=partial(self._load, entry))

    def _load(self, entry: Entry) -> Decoded:
        with self._lock:
            known = self._held.pop(entry.id, None)
            picture, left = known or (Future(), self._readers)
            if left > 1:
                self._held[entry.id] = picture, left - 1
            if len(self._held) > self._HELD:
                self._held.popitem(last=False)
        if known is None:
            try:
                picture.set_result(entry.load())
            except BaseException as error:  # noqa: BLE001 - raised below, and where it is waited for
                picture.set_exception(error)
        return picture.result()
