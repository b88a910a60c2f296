"""Pictures on disk: a folder, a pattern, a file, or a folder for each class."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain, groupby, zip_longest
from pathlib import Path

from aliascope.errors import ImageError
from aliascope.images.decoding import decode, extensions
from aliascope.images.labels import labels_beside
from aliascope.images.source import Entry, ImageSource
from aliascope.images.walking import Found, find, leads_up


def from_path(spec: str) -> ImageSource | None:
    """The pictures of a folder, a pattern or a file, by POSIX path; None if it is none of them."""
    path = Path(spec).expanduser()
    wild = next((k for k, part in enumerate(path.parts) if set("*?[") & set(part)), None)
    if spec and path.is_dir():
        found = _pictures(path)
        folder = Path(os.path.abspath(path))  # noqa: PTH100 - a link keeps its own name
        table = labels_beside(folder, found.names)
        classes = max(table.distinct, default=-1) + 1 or None
        source = _listed(path, found.names, table.labels, classes)
        return replace(source, labels=table.distinct, notices=[*found.notices, *table.notices])
    if path.is_file():
        return _listed(path.parent, [path.name])
    if wild is not None:
        root = Path(*path.parts[:wild])
        found = _pictures(root, "/".join(path.parts[wild:]))
        return replace(_listed(root, found.names), notices=found.notices)
    return None


def from_class_folders(path: str) -> ImageSource:
    """The pictures of a folder that holds a folder for each class; labels are their sorted places.

    Raises:
        ImageError: it is no folder, or holds no pictures in folders.
    """
    root = Path(path).expanduser()
    return _in_turn(root, {name: label for label, name in enumerate(_folders(root))})


def from_imagenet(path: str) -> ImageSource:
    """The pictures of ImageNet-1k, or of some of its classes, labelled by the standard index.

    Raises:
        ImageError: a folder is not called by the WordNet id of one of the 1000 classes.
    """
    from timm.data.imagenet_info import ImageNetInfo

    root = Path(path).expanduser()
    root = root / "val" if (root / "val").is_dir() else root
    index = {wnid: label for label, wnid in enumerate(ImageNetInfo().label_names())}
    if unknown := sorted(set(_folders(root)) - index.keys()):
        raise ImageError(
            f"the folder {unknown[0]!r} in {root} is no ImageNet class such as 'n01440764'; "
            f"use imagefolder:{path} for other classes"
        )
    return _in_turn(root, index)


def _listed(
    root: Path,
    names: list[str],
    labels: Mapping[str, int | None] | None = None,
    classes: int | None = None,
) -> ImageSource:
    ids = [_id(name) for name in names]

    def read() -> Iterator[Entry]:
        for key, name in zip(ids, names, strict=True):
            file = root / name
            label = (labels or {}).get(name)
            yield Entry(key, label, key, partial(decode, file), partial(_stamp, file))

    return ImageSource(read, classes, ids)


def _id(name: str) -> str:
    # A file's name need not be valid Unicode; an id must be, or it cannot be stored. What looks
    # like the escape of such a name is escaped too, so that no two names have one id.
    if re.search(r"[\udc80-\udcff]|\\udc", name):
        name = name.replace("\\", "\\\\")
    return name.encode(errors="backslashreplace").decode()


def _stamp(file: Path) -> str:
    try:
        known = file.stat()
    except OSError:
        return "missing"
    return f"{known.st_size} bytes, {known.st_mtime_ns} ns"


def _pictures(root: Path, pattern: str = "**/*") -> Found:
    found = find(root, pattern, extensions())
    if not found.names:
        raise ImageError(f"no images found in {root / pattern}; give a folder of .jpg, .png, …")
    return found


def _folders(root: Path) -> list[str]:
    if not root.is_dir():
        raise ImageError(f"{str(root)!r} is no folder; give one that holds a folder for each class")
    below = (path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    return sorted(path.name for path in below if not leads_up(path))


def _in_turn(root: Path, index: Mapping[str, int]) -> ImageSource:
    """One picture of each class in turn, so that a limited part still holds every class."""
    found = _pictures(root, "*/**/*")
    classes = [list(names) for _, names in groupby(found.names, key=_first_folder)]
    names = [name for name in chain.from_iterable(zip_longest(*classes)) if name]
    labels = {name: index[_first_folder(name)] for name in names}
    return replace(_listed(root, names, labels, len(index)), notices=found.notices)


def _first_folder(name: str) -> str:
    return name.partition("/")[0]
