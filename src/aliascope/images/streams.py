"""Streams, known only once read: Hugging Face data sets and WebDataset shards."""

import os
import tarfile
from collections.abc import Iterator, Mapping
from functools import partial
from glob import glob
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from aliascope.errors import ImageError
from aliascope.images.decoding import Decoded, decode, explained, extensions
from aliascope.images.labels import class_number
from aliascope.images.source import Entry, ImageSource


def from_hugging_face(spec: str) -> ImageSource:
    """DATASET[:SPLIT], a name on the Hub or a local folder; else validation, test or train.

    Raises:
        ImageError: it cannot be opened, or lacks the split or a column of images.
    """
    datasets = _optional("datasets", "hf")
    name, _, split = spec.partition(":")
    wrong = f"hf:{name} cannot be opened; give a name on the Hub or a local folder"
    with explained(wrong, OSError, ValueError, RuntimeError, LookupError):
        builder = datasets.load_dataset_builder(name)
        splits = builder.as_streaming_dataset()
    split = split or next((s for s in ("validation", "test", "train") if s in splits), min(splits))
    if split not in splits:
        raise ImageError(f"hf:{name} has no split {split!r}; choose from {', '.join(splits)}")
    features = splits[split].features or {}
    column = next((key for key, kind in features.items() if isinstance(kind, datasets.Image)), None)
    if column is None:
        raise ImageError(f"hf:{name} has no column of images; give a data set with a feature Image")
    labels = {k: f.num_classes for k, f in features.items() if isinstance(f, datasets.ClassLabel)}
    label, classes = next(iter(labels.items()), (None, None))
    rows = splits[split].cast_column(column, datasets.Image(decode=False))

    def read() -> Iterator[Entry]:
        with explained(f"hf:{name} broke off; run again to continue", OSError):
            for index, row in enumerate(rows):
                load = partial(_decode_cell, row[column])
                yield Entry(str(index), class_number(row.get(label)), str(index), load)

    # Names of files, and of each its time of change, or the repository's revision.
    files = (builder.config.data_files or {}).get(split, [])
    origin = f"{split} {list(files)} {getattr(files, 'origin_metadata', '')}"
    return ImageSource(read, classes, fingerprint=lambda: origin)


def from_webdataset(spec: str) -> ImageSource:
    """Samples of local tar files: a picture, and its class in `cls`; ids are SHARD/KEY.

    Raises:
        ImageError: a shard is no file, or later: it is damaged.
    """
    readers = _optional("webdataset", "wds").tariterators
    with explained(f"wds:{spec} cannot be read as a pattern; mend it", ValueError):
        patterns = list(import_module("braceexpand").braceexpand(str(Path(spec).expanduser())))
    found = (name for pattern in patterns for name in sorted(glob(pattern)) or [pattern])  # noqa: PTH207 - may be absolute
    shards = [Path(name).absolute() for name in found]
    if missing := [shard for shard in shards if not shard.is_file()]:
        wrong = f"wds:{spec} names {missing[0]}, which is no file"
        raise ImageError(f"{wrong}; give local tar files, no addresses and no commands")
    root = Path(os.path.commonpath([shard.parent for shard in shards]))

    def read() -> Iterator[Entry]:
        for shard in shards:
            for sample in _samples(shard, readers):
                yield _entry(f"{shard.relative_to(root).as_posix()}/{sample['__key__']}", sample)

    def origin() -> str:
        known = [(shard.relative_to(root).as_posix(), shard.stat()) for shard in shards]
        return "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in known)

    return ImageSource(read, fingerprint=origin)


def _samples(shard: Path, readers: Any) -> Iterator[Mapping[str, Any]]:
    wrong = f"wds: {shard} is damaged; mend it and run again to continue"
    # Opened here: webdataset would run `pipe:` commands, and leaves the file open.
    with explained(wrong, tarfile.TarError, OSError, ValueError), shard.open("rb") as file:
        files = readers.tar_file_expander([{"url": str(shard), "stream": file}])
        yield from readers.group_by_keys(files)


def _entry(key: str, sample: Mapping[str, Any]) -> Entry:
    pictures = (data for name, data in sample.items() if Path(f"x.{name}").suffix in extensions())
    with explained(f"wds: the label of {key} cannot be read; write a whole number", ValueError):
        label = class_number(sample.get("cls"))
    return Entry(key, label, key, partial(decode, next(pictures, b"")))


def _decode_cell(cell: Mapping[str, Any] | None) -> Decoded:
    """Decode a cell of an image column, which holds the bytes or says where they are."""
    import fsspec

    if cell is None or cell["bytes"] is not None:
        return decode(cell["bytes"] if cell else b"")
    with explained("cannot be fetched", OSError):
        filesystem, path = fsspec.url_to_fs(cell["path"])
        data = filesystem.cat_file(path)
    return decode(data)


def _optional(package: str, extra: str) -> ModuleType:
    sentence = f"{extra}: needs the package {package}; run `pip install aliascope[{extra}]`"
    with explained(sentence, ModuleNotFoundError):
        return import_module(package)
