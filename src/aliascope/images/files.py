"""Pictures on disk: a folder, a pattern, a file, or a folder for each class."""

import csv
from collections.abc import Iterator, Mapping
from functools import partial
from glob import glob
from itertools import chain, groupby, zip_longest
from pathlib import Path

from aliascope.errors import ImageError
from aliascope.images.decoding import decode, explained, extensions
from aliascope.images.source import Entry, ImageSource


def from_path(spec: str) -> ImageSource | None:
    """The pictures of a folder, a pattern or a file, by POSIX path; None if it is none of them."""
    path = Path(spec).expanduser()
    wild = next((k for k, part in enumerate(path.parts) if set("*?[") & set(part)), None)
    if spec and path.is_dir():
        labels = _labels_beside(path.absolute())
        return _listed(path, _pictures(path), labels, max(labels.values(), default=-1) + 1 or None)
    if path.is_file():
        return _listed(path.parent, [path.name])
    if wild is not None:
        root = Path(*path.parts[:wild])
        return _listed(root, _pictures(root, "/".join(path.parts[wild:])))
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
    labels: Mapping[str, int] | None = None,
    classes: int | None = None,
) -> ImageSource:
    # A file's name need not be valid Unicode; an id must be, or it cannot be stored.
    ids = [name.encode(errors="backslashreplace").decode() for name in names]

    def read() -> Iterator[Entry]:
        for key, name in zip(ids, names, strict=True):
            yield Entry(key, (labels or {}).get(name), key, partial(decode, root / name))

    return ImageSource(read, classes, ids)


def _pictures(root: Path, pattern: str = "**/*") -> list[str]:
    # Unlike Path.glob, glob follows links and leaves out what is hidden.
    found = {Path(name) for name in glob(pattern, root_dir=root, recursive=True)}  # noqa: PTH207
    names = [name for name in found if name.suffix.lower() in extensions()]
    names = sorted(name.as_posix() for name in names if (root / name).is_file())
    if not names:
        raise ImageError(f"no images found in {root / pattern}; give a folder of .jpg, .png, …")
    return names


def _labels_beside(folder: Path) -> dict[str, int]:
    """FOLDER.csv; none if there is no such file, or it is a table of something else."""
    path = folder.with_name(f"{folder.name}.csv")
    if not path.is_file():
        return {}
    wrong = f"{path} cannot be read as a table of labels; write whole numbers from 0"
    with explained(wrong, ValueError, TypeError), path.open(encoding="utf-8-sig", newline="") as f:
        rows = csv.DictReader(f)
        if not {"file", "label"} <= set(rows.fieldnames or ()):
            return {}
        return {row["file"]: int(row["label"]) for row in rows}


def _folders(root: Path) -> list[str]:
    if not root.is_dir():
        raise ImageError(f"{str(root)!r} is no folder; give one that holds a folder for each class")
    return sorted(path.name for path in root.iterdir() if path.is_dir() and path.name[0] != ".")


def _in_turn(root: Path, index: Mapping[str, int]) -> ImageSource:
    """One picture of each class in turn, so that a limited part still holds every class."""
    pictures = _pictures(root, "*/**/*")
    classes = [list(names) for _, names in groupby(pictures, key=_first_folder)]
    names = [name for name in chain.from_iterable(zip_longest(*classes)) if name]
    return _listed(root, names, {name: index[_first_folder(name)] for name in names}, len(index))


def _first_folder(name: str) -> str:
    return name.partition("/")[0]
