"""From many writers' shards to one run, and whether a run is what was written."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from aliascope.errors import RunError
from aliascope.measure.parts import DAMAGE, KINDS, Digests, file_of, read_part, together, write_part
from aliascope.measure.store import RECORD, SHARD, Run, record_of, records, shards_left
from aliascope.results.files import Place, Result, lock, place, plain, refusal, sealed, write_file
from aliascope.results.text import wrapped

_PART = 100_000  # images: a part that is read at once


def merge(path: Place) -> Run:
    """Make one run of the shards that several processes wrote, of few and large parts.

    Nothing is measured; a run without shards keeps its state, and its parts are joined.

    Raises:
        RunError: a shard is missing or not complete, a part is damaged, somebody is writing, or it
            cannot be written; the run stays as it was.

    >>> import tempfile
    >>> from aliascope.measure.writing import RunWriter
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for shard in [(0, 2), (1, 2)]:
    ...         with RunWriter(folder, {"model": "toy"}, [], {}, shard=shard) as writer:
    ...             writer.add({"image_id": [f"{shard[0]}.png"]}, {})
    ...             _ = writer.finish()
    ...     run = merge(folder)
    >>> run.state, list(run.parts)
    ('complete', ['part-00000'])
    """
    path = place(path)
    if not any(records(path)):
        Run.open(path)  # which says what is wrong
    held = lock(path, RECORD, SHARD.format("*"), others=".lock-*")
    try:
        run = Run.open(path)
        if left := shards_left(path):
            raise RunError(
                f"{path} lacks {len(left)} of its shards, {', '.join(left[:9])}: measure with "
                f"--shard {left[0]} first; what the others have measured stays"
            )
        parts, replaced = _joined(run, path)
        run.parts = parts
        write_file(path / RECORD, sealed(record_of(run) | {"parts": parts}))
        with refusal(path):
            for file in path.glob(SHARD.format("*")):
                file.unlink()
            for part in replaced:
                for kind in KINDS:
                    file_of(path, kind, part).unlink(missing_ok=True)
        return Run.open(path)
    finally:
        held.release()


def _joined(run: Run, path: Place) -> tuple[dict[str, Digests], list[str]]:
    """The parts, small ones together in new files, and which of the old are no longer needed."""
    numbers = (part.removeprefix("part-") for part in run.parts)
    number = 1 + max((int(text) for text in numbers if text.isdecimal()), default=-1)
    parts: dict[str, Digests] = {}
    replaced = []
    for group in _groups(run):
        if len(group) == 1 and group[0].removeprefix("part-").isdecimal():
            parts[group[0]] = run.parts[group[0]]
            continue
        tables = {kind: together([run.read(part, kind) for part in group]) for kind in KINDS}
        name = f"part-{number:05d}"
        parts[name] = write_part(path, name, tables)
        number += 1
        replaced += group
    return parts, replaced


def _groups(run: Run) -> Iterator[list[str]]:
    """Parts in their order, so many that they hold `_PART` images, or one that holds more."""
    group, size = [], 0
    for part in run.parts:
        rows = run.read(part, "images").num_rows
        if group and size + rows > _PART:
            yield group
            group, size = [], 0
        group.append(part)
        size += rows
    if group:
        yield group


@dataclass(frozen=True)
class Verified(Result):
    """What `verify` found; `str()` prints it."""

    path: str
    """The run directory."""
    state: str
    """Of the run: running, complete, interrupted or failed."""
    images: int
    """Images whose rows are what was written."""
    parts: int
    """Parts that are whole."""
    damaged: tuple[str, ...]
    """Files that are not what was written, each with the reason."""
    shards_left: tuple[str, ...]
    """Shards, I/N, that are not complete."""
    twice: int
    """Images that two parts hold, as of shards of two partitions; they count once."""
    unlisted: tuple[str, ...]
    """Files that no record lists: leftovers of a kill, and no part of the run."""

    @property
    def sound(self) -> bool:
        """Whether all that was written can be read as it was written."""
        return not self.damaged

    @property
    def verdict(self) -> str:
        """What was found, and the remedy."""
        if self.damaged:
            return (
                f"Damaged files: {len(self.damaged)}. Run the same `aliascope measure` again, "
                "without --shard, which measures their images anew."
            )
        if self.shards_left:
            left = ", ".join(self.shards_left[:9])
            return f"What is there is what was written; these shards are not complete: {left}."
        return f"All {self.images} images are what was written."

    def to_dict(self) -> dict[str, Any]:
        """The same in JSON's own types."""
        return plain({"verdict": self.verdict, "sound": self.sound, **vars(self)})

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.state}, {self.images} images in {self.parts} parts"]
        lines += [f"damaged: {text}" for text in self.damaged]
        if self.twice:
            lines.append(f"notice: {self.twice} images are in two parts and count once")
        if self.unlisted:
            lines.append(
                f"notice: {len(self.unlisted)} files belong to no part: {self.unlisted[0]}"
            )
        return f"{wrapped(lines)}\n\n{wrapped([self.verdict])}"


def verify(path: Place) -> Verified:
    """Read all of a run again: digests, numbers of rows, and what belongs to nothing.

    Raises:
        RunError: it is no run directory, or a record of it is damaged.

    >>> import tempfile
    >>> from aliascope.measure.writing import RunWriter
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with RunWriter(folder, {"model": "toy"}, [], {}) as writer:
    ...         writer.add({"image_id": ["a.png", "b.png"]}, {})
    ...         _ = writer.finish()
    ...     verify(folder).verdict
    'All 2 images are what was written.'
    """
    run = Run.open(path := place(path))
    damaged, ids, parts = [], [], 0
    for part, digests in run.parts.items():
        wrong, tables = [], {}
        for kind in KINDS:
            try:
                tables[kind] = read_part(path, kind, part, digests[kind])
            except DAMAGE as error:
                wrong.append(f"{file_of(path, kind, part)} ({_reason(error)})")
        if not wrong and (text := _mismatch(run, tables)):
            wrong.append(f"{file_of(path, 'layers', part)} ({text})")
        damaged += wrong
        if not wrong:
            parts += 1
            ids += tables["images"]["image_id"].to_pylist()
    listed = {file_of(path, kind, part) for kind in KINDS for part in run.parts}
    found = {file for kind in KINDS for file in (path / kind).glob("*") if file.is_file()}
    return Verified(
        path=str(path),
        state=run.state,
        images=len(set(ids)),
        parts=parts,
        damaged=tuple(damaged),
        shards_left=tuple(shards_left(path)),
        twice=len(ids) - len(set(ids)),
        unlisted=tuple(sorted(str(file) for file in found - listed)),
    )


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)


def _mismatch(run: Run, tables: dict[str, pa.Table]) -> str:
    """Why the rows of a part cannot be each other's, or ""."""
    rows, layers = tables["images"].num_rows, tables["layers"].num_rows
    if layers != rows * len(run.strided_layers):
        return f"{layers} rows of {rows} images in {len(run.strided_layers)} layers"
    return ""
