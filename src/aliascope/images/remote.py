"""Pictures at an address that fsspec reaches: s3://bucket/folder, gs://…, https://…/a.png."""

from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from aliascope.errors import ImageError
from aliascope.images.decoding import Decoded, decode, explained, extensions
from aliascope.images.source import Entry, ImageSource

_KNOWN_BY = ("ETag", "etag", "md5Hash", "checksum", "mtime", "LastModified", "updated", "created")
"""What file systems call that which changes with a file."""


def from_address(spec: str) -> ImageSource:
    """The pictures below a folder, or one; hidden ones left out, in the order of their names.

    Credentials are those that fsspec finds, in the environment or its configuration.

    Raises:
        ImageError: it cannot be reached, or there is no picture.
    """
    import fsspec

    scheme = spec.partition("://")[0]
    remedy = f"give an address that fsspec reads, with what it needs for {scheme} installed"
    with explained(f"{spec} cannot be read; {remedy}", Exception):  # of whatever library is behind
        files, root = fsspec.url_to_fs(spec)
        found = files.find(root, detail=True)
    if [*found] == [root]:
        names = {PurePosixPath(root).name: root}
    else:
        names = {name.removeprefix(root).lstrip("/"): name for name in sorted(found)}
    pictures = {name: full for name, full in names.items() if _shown(name)}
    if not pictures:
        raise ImageError(f"{spec} holds no picture; give the address of a folder that does")

    def read() -> Iterator[Entry]:
        for name, full in pictures.items():
            known = found[full]
            yield Entry(name, None, name, partial(_fetch, files, full), partial(_stamp, known))

    return ImageSource(read, ids=[*pictures])


def _shown(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return PurePosixPath(name).suffix.lower() in extensions() and not any(
        part.startswith(".") for part in parts
    )


def _fetch(files: Any, name: str) -> Decoded:
    with explained("cannot be fetched", Exception):
        data = files.cat_file(name)
    return decode(data)


def _stamp(known: dict[str, Any]) -> str:
    changes = next((str(known[key]) for key in _KNOWN_BY if known.get(key)), "")
    return f"{known.get('size')} bytes, {changes}"
