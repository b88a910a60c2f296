"""Where pictures come from: a source lists them in a fixed order and decodes them on demand."""

import warnings
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from aliascope.errors import ImageError
from aliascope.images.ahead import Loaded, batches, in_threads, loaded_ahead
from aliascope.images.datasets import from_dataset, from_torchvision
from aliascope.images.decoding import MAX_PIXELS, decode, explained
from aliascope.images.files import from_class_folders, from_imagenet, from_path
from aliascope.images.labels import labels_fit
from aliascope.images.photos import from_photos
from aliascope.images.remote import from_address
from aliascope.images.source import Entry, ImageSource, Skipped
from aliascope.images.streams import from_hugging_face, from_webdataset

__all__ = [
    "MAX_PIXELS",
    "Entry",
    "ImageSource",
    "Loaded",
    "Skipped",
    "batches",
    "decode",
    "in_threads",
    "labels_fit",
    "loaded_ahead",
    "open_images",
]

_KINDS: dict[str, Callable[[str], ImageSource]] = {
    "photos": lambda _: from_photos(),
    "stl10": lambda _: from_torchvision("STL10", split="test"),
    "cifar10": lambda _: from_torchvision("CIFAR10", train=False),
    "imagenet:": from_imagenet,
    "imagefolder:": from_class_folders,
    "hf:": from_hugging_face,
    "wds:": from_webdataset,
}
"""What opens each kind of source; it is given what follows the colon."""


def open_images(
    source: str | Path | Sequence[Any] | Dataset[Any], *, limit: int | None = None
) -> ImageSource:
    """Open a source of pictures.

    | source | pictures | labels |
    |---|---|---|
    | `photos` | 256 × 256 crops of photographs that installed packages ship | none |
    | a folder | every picture below it, hidden ones left out | `FOLDER.csv` (`file,label`) |
    | a pattern, `a/**/*.jpg` | those that match | none |
    | a file | that one | none |
    | `stl10`, `cifar10` | the test set, fetched into `$ALIASCOPE_CACHE` | yes |
    | `imagenet:PATH` | folders named by WordNet id in PATH or PATH/val | index of 1000 classes |
    | `imagefolder:PATH` | one folder a class | place among the sorted folders |
    | `hf:DATASET[:SPLIT]` | a Hugging Face data set, streamed | its first `ClassLabel` |
    | `wds:SHARDS` | local WebDataset tar files; braces and wildcards allowed | `cls` |
    | an address, `s3://bucket/folder` | every picture below it, as for a folder | none |
    | a data set | (PIL image or tensor, label) pairs, as torchvision has them | yes |

    Class folders take turns, one picture each, so that a limited part still holds every class. An
    empty or negative label is unknown. Links are followed, but no picture is listed twice.

    Args:
        source: one of the above; `./photos` is a folder that is called like a kind.
        limit: at most that many pictures, from the first.

    Returns:
        The source; no picture is decoded yet.

    Raises:
        ImageError: there is no such source, no picture in it, or no sense in its labels.

    >>> source = open_images("photos", limit=5)
    >>> [image.id for image in source][3:]
    ['astronaut.png#1-1', 'brick.png#0-0']
    >>> source.count, source.skipped
    (5, [])
    """
    if limit is not None and limit < 1:
        raise ImageError(f"a limit of {limit} leaves no picture; give at least 1, or leave it out")
    # Pillow warns of broken metadata, on which no pixel depends. The filter stays: filters are
    # shared by all threads, and to undo it while others decode would undo it for them too.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    if isinstance(source, str | Path):
        opened = _open(str(source))
        opened.spec = str(source)
    else:
        opened = from_dataset(source)
        opened.spec = type(source).__name__
    opened.limit = limit
    return opened


def _open(spec: str) -> ImageSource:
    kind, colon, rest = spec.partition(":")
    with explained(f"{spec!r} cannot be read", OSError):
        if kind + colon in _KINDS:
            opened = _KINDS[kind + colon](rest)
        else:
            opened = from_address(spec) if rest.startswith("//") else from_path(spec)
    if opened is not None:
        return opened
    kinds = [known.replace(":", ":…") for known in _KINDS]
    near = get_close_matches(kind + colon, kinds, 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ImageError(
        f"{spec!r} does not exist and is no kind of source{hint}; "
        f"give a folder, a file, a pattern, or one of {', '.join(kinds)}"
    )
