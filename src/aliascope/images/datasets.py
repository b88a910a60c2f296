"""Map-style data sets: any of (image, label) pairs, and those that torchvision fetches."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset

from aliascope.errors import ImageError
from aliascope.images.decoding import convert, explained
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
            item = dataset[index]
            picture, label = (*item, None)[:2] if isinstance(item, tuple | list) else (item, None)
            yield Entry(str(index), public(label), str(index), partial(convert, picture))

    classes = len(getattr(dataset, "classes", None) or ()) or None
    return ImageSource(read, classes, [str(index) for index in range(len(dataset))])


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


def public(label: Any) -> int | None:
    """The label as a number; None for −1, by which public test sets keep theirs secret."""
    return None if label is None or int(label) < 0 else int(label)
