"""Whether what was written is there as it was written."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from aliascope.errors import AliascopeError, RunError
from aliascope.measure.parts import DAMAGE, KINDS, file_of, read_part
from aliascope.measure.store import RECORD, SHARD, Run, records, shards_left
from aliascope.models.files import SUFFIX, read_state
from aliascope.results.checked import RECORD as CHECKSUMS
from aliascope.results.checked import checksums, read_checked
from aliascope.results.files import Place, Result, place, plain, unsealed
from aliascope.results.text import brief, wrapped


@dataclass(frozen=True)
class Verified(Result):
    """What `verify` found; `str()` prints it."""

    path: str
    """The directory."""
    state: str
    """Of the run: running, complete, interrupted or failed; of several, complete if all are."""
    images: int
    """Images whose rows are what was written."""
    parts: int
    """Parts that are whole."""
    files: int
    """Other files that hold a digest or are listed with one, and are what was written."""
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
                f"Damaged files: {len(self.damaged)}. Run the same command again, without --shard: "
                "it makes anew what can be, and says what to delete."
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
        if self.files:
            lines[0] += f"; {self.files} other files"
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

    Of any other directory, such as a study's, the same of all runs below it, and the digests of the
    records, tables and weights beside them.

    Raises:
        RunError: it holds nothing that can be verified, or is a run whose record is damaged.

    >>> import tempfile
    >>> from aliascope.measure.writing import RunWriter
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with RunWriter(folder, {"model": "toy"}, [], {}) as writer:
    ...         writer.add({"image_id": ["a.png", "b.png"]}, {})
    ...         _ = writer.finish()
    ...     verify(folder).verdict
    'All 2 images are what was written.'
    """
    path = place(path)
    if any(records(path)) or not isinstance(path, Path):
        return _run(path)
    found, damaged = [], []
    runs = sorted(
        {file.parent for name in (RECORD, SHARD.format("*")) for file in path.rglob(name)}
    )
    for run in runs:
        try:
            found.append(_run(run))
        except RunError as error:
            damaged.append(str(error))
    files = 0
    for file, check in _files(path):
        if file.parent in runs:
            continue
        try:
            check()
            files += 1
        except (AliascopeError, OSError, ValueError, LookupError, AttributeError) as error:
            damaged.append(f"{file} ({brief(error)})")
    if not (found or files or damaged):
        Run.open(path)  # which says what is wrong
    states = dict.fromkeys(run.state for run in found)
    return Verified(
        path=str(path),
        state=next((state for state in states if state != "complete"), "complete"),
        images=sum(run.images for run in found),
        parts=sum(run.parts for run in found),
        files=files,
        damaged=(*(text for run in found for text in run.damaged), *damaged),
        shards_left=tuple(f"{shard} of {x.path}" for x in found for shard in x.shards_left),
        twice=sum(run.twice for run in found),
        unlisted=tuple(text for run in found for text in run.unlisted),
    )


def _files(path: Path) -> Iterator[tuple[Path, Callable[[], Any]]]:
    """What is in no run, and what raises unless it is what was written."""
    for file in sorted(path.rglob(f"*{SUFFIX}")):
        yield file, partial(read_state, file)
    for file in sorted(path.rglob("*.json")):
        yield file, partial(_record, file)
    for file in sorted(path.rglob(CHECKSUMS)):
        for name in _listed(file.parent):
            yield file.parent / name, partial(read_checked, file.parent, name)


def _record(file: Path) -> None:
    unsealed(file.read_bytes(), older=True)


def _listed(folder: Path) -> list[str]:
    try:
        return [*checksums(folder)]
    except RunError:
        return []  # it is a damaged record itself


def _run(path: Place) -> Verified:
    run = Run.open(path)
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
        files=0,
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
