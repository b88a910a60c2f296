"""Map-style data sets: any of (image, label) pairs, and those that torchvision fetches."""

import hashlib
import os
import re
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset

from aliascope.errors import ImageError
from aliascope.images.decoding import convert, explained
from aliascope.images.labels import class_number
from aliascope.images.source import Entry, ImageSource


def from_dataset(dataset: Any) -> ImageSource:
    """The items of anything with a length and items that are (image, label) pairs, or images.

    Raises:
        ImageError: it has no length or no items.

    >>> import torch
    >>> source = from_dataset([(torch.zeros(3, 2, 2), 7)])
    >>> [(image.id, image.label) for image in source]
    [('0', 7)]
    """
    indexed = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if not indexed or isinstance(dataset, IterableDataset):  # which inherits a __getitem__
        kind = type(dataset).__name__
        raise ImageError(f"a {kind} has no length or no items; give a list of (image, label) pairs")

    def read() -> Iterator[Entry]:
        # Items are fetched here, not in `load`: not every data set can be read by several threads.
        for index in range(len(dataset)):
            picture, label = _item(dataset, index)
            load, stamp = partial(convert, picture), partial(_content, picture)
            yield Entry(str(index), label, str(index), load, stamp)

    ids = [str(index) for index in range(len(dataset))]
    classes = len(getattr(dataset, "classes", None) or ()) or None
    if not isinstance(dataset, list | tuple):
        return ImageSource(read, classes, ids, fingerprint=cache(partial(_fingerprint, dataset)))
    if classes:
        return ImageSource(read, classes, ids)
    # Of what lies in memory all labels can be seen.
    known = (_item(dataset, index)[1] for index in range(len(dataset)))
    labels = frozenset(label for label in known if label is not None)
    return ImageSource(read, max(labels, default=-1) + 1 or None, ids, labels=labels)


def _item(dataset: Any, index: int) -> tuple[Any, int | None]:
    item = dataset[index]
    picture, label = (*item, None)[:2] if isinstance(item, tuple | list) else (item, None)
    wrong = f"the label of item {index} cannot be read; give (image, whole number) pairs, or images"
    with explained(wrong, ValueError, TypeError, RuntimeError, OverflowError):
        return picture, class_number(label)


def _content(picture: Any) -> str:
    """A digest of the pixels, or why there are none."""
    try:
        pixels, _ = convert(picture)
    except ImageError as error:
        return str(error)
    data = pixels.detach().cpu().numpy()
    return hashlib.sha256(repr((data.shape, data.dtype)).encode() + data.tobytes()).hexdigest()[:16]


def _fingerprint(dataset: Any) -> str:
    """A digest of a data set's settings and labels, as torchvision names them, and of eight items.

    Items that come out otherwise the second time, as augmented ones do, are left out.
    """
    told = [type(dataset).__qualname__, len(dataset)]
    for name in ("split", "train", "targets", "labels"):
        value: Any = getattr(dataset, name, None)
        told.append(value.tolist() if hasattr(value, "tolist") else value)
    for index in sorted({k * (len(dataset) - 1) // 7 for k in range(8 if len(dataset) else 0)}):
        items = [_item(dataset, index) for _ in range(2)]
        once, again = ((_content(picture), label) for picture, label in items)
        told.append(once if once == again else "another each time")
    # An object that does not print its content prints where it lies.
    text = re.sub(" at 0x[0-9a-f]+", "", repr(told))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def from_torchvision(name: str, **options: Any) -> ImageSource:
    """A data set of `torchvision.datasets`, kept in `$ALIASCOPE_CACHE` (~/.cache/aliascope).

    Raises:
        ImageError: it is not there and cannot be fetched.
    """
    import torchvision.datasets

    kind = getattr(torchvision.datasets, name)
    root = Path(os.environ.get("ALIASCOPE_CACHE") or Path.home() / ".cache" / "aliascope")
    remedy = f"put that file into {root}, or give a folder of pictures"
    with explained(f"{kind.url} could not be fetched; {remedy}", OSError, RuntimeError):
        return from_dataset(kind(root, download=True, **options))
