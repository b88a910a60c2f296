"""Files and folders: names, values that JSON can hold, and writing that survives a kill."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from filelock import BaseFileLock, FileLock, Timeout

from aliascope.errors import RunError


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


def lock(path: Path, record: str = "run.json") -> BaseFileLock:
    """Make the directory ours, or say whose it is.

    Args:
        path: made where missing.
        record: the file by which a directory of this kind is known.

    Raises:
        RunError: it holds other files, another process is writing it, or it cannot be written.
    """
    with refusal(path):
        path.mkdir(parents=True, exist_ok=True)
        visible = [entry.name for entry in path.iterdir() if not entry.name.startswith(".")]
        if visible and record not in visible:
            raise RunError(
                f"{path} holds other files ({visible[0]}) and no {record}: choose another --out"
            )
        try:
            return FileLock(path / ".lock").acquire(blocking=False).lock
        except Timeout:
            process = "another process"
            with suppress(OSError, ValueError, LookupError, TypeError):
                process = f"process {json.loads((path / record).read_bytes())['info']['pid']}"
            raise RunError(
                f"{path} is being written by {process}: wait for it, or choose another --out"
            ) from None


def refuse_another(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
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


def refuse_other_images(path: Path, held: Mapping[str, str], asked: Mapping[str, str]) -> None:
    """Raise unless all images that a directory holds are asked for, and are what they were.

    Args:
        path: the directory.
        held: image id → what it was known by when it was measured, "" where by its id alone.
        asked: image id → what it is known by now.

    Raises:
        RunError: the sentence names the first image that differs, and says how many do.
    """
    gone = [image_id for image_id in held if image_id not in asked]
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
def refusal(path: Path) -> Iterator[None]:
    """Turn what the system says (no space, no permission, a file in the way) into one sentence."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path} cannot be written ({error.strerror or error}): mend that and run the same "
            "command again, which keeps what is measured, or choose another --out"
        ) from error


def write_file(path: Path, data: bytes | pa.Buffer) -> None:
    """Put `data` in place, whole or not at all, whenever the process or the machine dies.

    Folders are made where missing.

    Raises:
        RunError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with refusal(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
