"""From many writers' shards to one run."""

from collections.abc import Iterator

from aliascope.errors import RunError
from aliascope.measure.parts import KINDS, Digests, file_of, together, write_part
from aliascope.measure.store import RECORD, SHARD, Run, record_of, records, shards_left
from aliascope.results.files import Place, lock, place, refusal, sealed, write_file

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
