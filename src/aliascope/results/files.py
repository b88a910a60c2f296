"""Files and folders: names, values that JSON can hold, and writing that survives a kill."""

import fnmatch
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

import numpy as np
import pandas as pd
import pyarrow as pa
from filelock import FileLock, Timeout

from aliascope.errors import RunError
from aliascope.results.text import brief

Place = Any
"""A `Path`, or what fsspec reaches by an address, which has a path's methods."""
_RESULT_FORMAT = 1
_SEAL = "sha256"


def place(path: str | os.PathLike[str] | Place) -> Place:
    """A local path, or of an address such as s3://bucket/run (extra `cloud`) the same of that.

    Raises:
        RunError: it is an address, and what reads those is not installed.

    >>> place("runs/a") / "run.json"
    PosixPath('runs/a/run.json')
    """
    if "://" not in str(path):
        return Path(path)
    scheme = str(path).partition("://")[0]
    try:
        from upath import UPath

        return UPath(str(path))
    except (ImportError, ValueError) as error:  # of a protocol that there is not
        raise RunError(
            f"{path} cannot be reached ({error}): run `pip install aliascope[cloud]`, and what "
            f"fsspec needs for {scheme}"
        ) from error


def file_name(spec: str) -> str:
    """A model spec as the name of a file or folder.

    >>> file_name("timm:resnet50"), file_name("efficientnet_lite0@blurpool:2")
    ('timm-resnet50', 'efficientnet_lite0@blurpool-2')
    """
    return re.sub(r"[^\w@.+-]+", "-", spec)


def plain(value: Any) -> Any:
    """A value as JSON gives it back: numbers that are not finite as None, frames as rows.

    Tuples become lists, numpy's numbers Python's, and anything else its `str`.

    >>> plain({"rows": pd.DataFrame({"sis": [0.5, float("nan")]}), "side": (np.int64(3),)})
    {'rows': [{'sis': 0.5}, {'sis': None}], 'side': [3]}
    """
    return json.loads(json.dumps(value, default=_own), parse_constant=lambda _: None)


def _own(value: Any) -> Any:
    if isinstance(value, pd.DataFrame):
        return value.to_dict("records")
    return value.item() if isinstance(value, np.generic) else str(value)


_Kept = TypeVar("_Kept", bound="Result")
"""Beartype knows Self in whole classes only."""


class Result:
    """What is printed by `str()`, and kept in a file: `found.save(path)`, `Comparison.open(path)`.

    For dataclasses of numbers, texts, dicts, lists, tuples and frames (their index is not kept);
    what is opened is what was saved, to the last bit.

    >>> import tempfile
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Table(Result):
    ...     rows: pd.DataFrame
    ...     notices: tuple[str, ...]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Table(pd.DataFrame({"sis": [0.1, float("inf")]}), ("few",)).save(f"{folder}/table.json")
    ...     Table.open(f"{folder}/table.json")
    Table(rows=   sis
    0  0.1
    1  inf, notices=('few',))
    """

    @property
    def verdict(self) -> str:
        """What was found, in a sentence or two."""
        raise NotImplementedError

    def _blocks(self) -> Iterator[str]:
        """The paragraphs of what is printed; empty ones are left out."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """The same in JSON's own types, the frames as lists of rows; None is NaN or infinite."""
        own = {
            name: value._asdict() if hasattr(value, "_asdict") else value
            for name, value in vars(self).items()
        }
        return plain({"verdict": self.verdict, **own})

    def __str__(self) -> str:
        return "\n\n".join(filter(None, self._blocks()))

    def save(self, path: str | os.PathLike[str] | Place) -> None:
        """Write it as JSON, whole or not at all.

        Raises:
            RunError: it cannot be written.
        """
        record = {"kind": type(self).__name__, "format": _RESULT_FORMAT}
        record |= {name: _encoded(value) for name, value in vars(self).items()}
        write_file(place(path), sealed(record))

    @classmethod
    def open(cls: type[_Kept], path: str | os.PathLike[str] | Place) -> _Kept:  # noqa: PYI019
        """What `save` wrote.

        Raises:
            RunError: there is no such file, or it holds something else.
        """
        try:
            text = json.dumps(unsealed(place(path).read_bytes(), older=True))
            record = json.loads(text, object_hook=_decoded)
            kind, version = record.pop("kind"), record.pop("format")
        except OSError as error:
            raise RunError(
                f"{path} cannot be read ({error.strerror}): give a saved file"
            ) from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise RunError(
                f"{path} is no result that aliascope saved, or damaged ({brief(error)}): give a "
                "file that `save` wrote, or make it anew"
            ) from error
        if kind != cls.__name__:
            raise RunError(f"{path} holds a {kind}, not a {cls.__name__}: open it with {kind}.open")
        names = {field.name for field in fields(cls)}  # pyright: ignore[reportArgumentType]
        if version != _RESULT_FORMAT or names != record.keys():
            raise RunError(
                f"{path} was saved by another version of aliascope (format {version}, this one's "
                f"is {_RESULT_FORMAT}): open it with that, or make it anew"
            )
        for name, wanted in get_type_hints(cls).items():
            if isinstance(record.get(name), list):
                made = get_origin(wanted) or wanted
                record[name] = (
                    made(*record[name]) if hasattr(made, "_fields") else made(record[name])
                )
        return cls(**record)


def _encoded(value: Any) -> Any:
    """In JSON's own types, with a word for what it lacks."""
    if isinstance(value, pd.DataFrame):
        kept = [[name, str(x.dtype), _encoded(x.tolist())] for name, x in value.items()]
        return {"frame": kept}
    if isinstance(value, dict):
        return {str(name): _encoded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(float(value))}
    return value


def _decoded(found: dict[str, Any]) -> Any:
    match found:
        case {"float": str(text), **rest} if not rest:
            return float(text)
        case {"frame": list(kept), **rest} if not rest:
            return pd.DataFrame({name: pd.Series(x, dtype=dtype) for name, dtype, x in kept})
    return found


def sealed(record: dict[str, Any]) -> bytes:
    """A record as JSON that people can read, with a digest of itself.

    >>> unsealed(sealed({"state": "complete"}))
    {'state': 'complete'}
    """
    # Through JSON, so that the digest is of what will be read back.
    record = json.loads(json.dumps(record, default=_own))
    text = json.dumps(record | {_SEAL: _digest(record)}, indent=2, ensure_ascii=False)
    # A file name that is no Unicode becomes a JSON escape, and comes back as it was.
    return text.encode("utf-8", "backslashreplace")


def unsealed(data: bytes, *, older: bool = False) -> dict[str, Any]:
    """What `sealed` took; raises ValueError, LookupError or AttributeError if that has changed.

    Args:
        data: of the file.
        older: whether to take a record without a digest as well, as earlier versions wrote it.
    """
    record = parsed(data)
    if older and _SEAL not in record.keys():  # noqa: SIM118 - of a list it raises AttributeError
        last = [*record.values()][-1:]
        if last and re.fullmatch("[0-9a-f]{64}", str(last[0])):
            raise ValueError("the name of its digest is not what was written")
        return record
    if record.pop(_SEAL) != _digest(record):
        raise ValueError("its content is not what was written")
    return record


def parsed(data: bytes) -> Any:
    """What JSON says; raises ValueError if it is none, or nested without end."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def lock(path: Place, *records: str, name: str = ".lock", others: str | None = None) -> Any:
    """Make the directory ours, or say whose it is.

    Args:
        path: made where missing.
        records: patterns of the files by which a directory of this kind is known.
        name: of the lock.
        others: pattern of the locks that nobody may hold beside it.

    Raises:
        RunError: it holds other files, another process is writing it, or it cannot be written.
    """
    with refusal(path):
        path.mkdir(parents=True, exist_ok=True)
        entries = path.iterdir() if path.exists() else ()  # an object store has no empty folders
        visible = [entry.name for entry in entries if not entry.name.startswith(".")]
        known = [file for pattern in records for file in fnmatch.filter(visible, pattern)]
        if visible and not known:
            raise RunError(
                f"{path} holds other files ({visible[0]}) and no {records[0]}: choose another --out"
            )
        if not isinstance(path, Path):
            return _Unlocked()
        try:
            ours = FileLock(path / name).acquire(blocking=False).lock
            try:
                for other in path.glob(others) if others else ():
                    FileLock(other).acquire(timeout=1).lock.release()  # others look at it, too
            except Timeout:
                ours.release()
                raise
        except Timeout:
            process = "another process"
            with suppress(OSError, ValueError, LookupError, TypeError):
                process = f"process {json.loads((path / known[0]).read_bytes())['info']['pid']}"
            raise RunError(
                f"{path} is being written by {process}: wait for it, or choose another --out"
            ) from None
        return ours


class _Unlocked:
    """In the place of a lock where there are none: who writes there is for its users to see to."""

    def release(self) -> None:
        """Nothing."""


def refuse_another(path: Place, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raise unless what a directory was begun with is what is asked for now.

    Raises:
        RunError: they differ; the sentence names each setting, as it was and as it is.
    """
    pairs = {key: (old.get(key, "unset"), new.get(key, "unset")) for key in old | new}
    differences = [f"{key}: {was} → {now}" for key, (was, now) in pairs.items() if was != now]
    if differences:
        raise RunError(
            f"{path} holds a run of another configuration ({'; '.join(differences)}): "
            "choose another --out, or delete that directory"
        )


def refuse_other_images(
    path: Place, held: Mapping[str, str], asked: Mapping[str, str], *, all_of_them: bool = True
) -> None:
    """Raise unless all images that a directory holds are asked for, and are what they were.

    Args:
        path: the directory.
        held: image id → what it was known by when it was measured, "" where by its id alone.
        asked: image id → what it is known by now.
        all_of_them: whether it may hold no others; a shard asks for its own images only.

    Raises:
        RunError: the sentence names the first image that differs, and says how many do.
    """
    gone = [image_id for image_id in held if image_id not in asked] if all_of_them else []
    changed = [image_id for image_id, was in held.items() if asked.get(image_id, was) != was]
    for ids, what in (
        (changed, "whose picture or label has changed since"),
        (gone, "not asked for"),
    ):
        if ids:
            more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
            raise RunError(
                f"{path} holds figures of {ids[0]}{more}, {what}: choose another --out, or delete "
                "that directory"
            )


@contextmanager
def refusal(path: Place) -> Iterator[None]:
    """Turn what the system says (no space, no permission, a file in the way) into one sentence."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path} cannot be written ({error.strerror or error}): mend that and run the same "
            "command again, which keeps what is measured, or choose another --out"
        ) from error


def write_file(path: Place, data: bytes | pa.Buffer) -> None:
    """Put `data` in place, whole or not at all, whenever the process or the machine dies.

    Folders are made where missing.

    Raises:
        RunError: it cannot be written.
    """
    with refusal(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.name or (path.exists() and not path.is_file()):
            raise OSError("it is a folder or a device, not a file")
        if not isinstance(path, Path):  # an object store puts all of it or nothing
            path.write_bytes(bytes(data))
            return
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            temporary.write_bytes(data)
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
            if path.read_bytes() != data:  # a network's file system may lose a rename
                raise OSError("what was written is not what can be read there")
        finally:
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
