"""Files of a folder that are read again, each known by the SHA-256 in a record beside them."""

import hashlib

from aliascope.errors import RunError
from aliascope.results.files import Place, sealed, unsealed, write_file

RECORD = "checksums.json"


def write_checked(folder: Place, name: str, data: bytes) -> None:
    """Put a file in place and its digest into the record.

    Raises:
        RunError: it cannot be written.

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as place:
    ...     write_checked(Path(place), "tables/a.csv", b"1,2")
    ...     read_checked(Path(place), "tables/a.csv")
    b'1,2'
    """
    digests = checksums(folder) | {name: hashlib.sha256(data).hexdigest()}
    # The digest first: what a kill between the two leaves is made anew, not trusted.
    write_file(folder / RECORD, sealed(digests))
    write_file(folder / name, data)


def read_checked(folder: Place, name: str) -> bytes:
    """The bytes of a file; one that the record does not list, as of an older version, is trusted.

    Raises:
        FileNotFoundError: there is no such file.
        RunError: its bytes are not those that were written, or it cannot be read.
    """
    file = folder / name
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunError(f"{file} cannot be read ({error.strerror}): mend that") from error
    known = checksums(folder).get(name)
    if known not in (None, hashlib.sha256(data).hexdigest()):
        raise RunError(
            f"{file} is not what was written: run the same command again, which makes it anew"
        )
    return data


def is_whole(folder: Place, name: str) -> bool:
    """Whether the file is there, and nothing tells that it is not what was written."""
    try:
        read_checked(folder, name)
    except FileNotFoundError:
        return False
    except RunError:
        if not (folder / name).is_file():
            raise
        checksums(folder)  # damaged itself, it says so
        return False
    return True


def checksums(folder: Place) -> dict[str, str]:
    """Name → SHA-256 of each listed file.

    Raises:
        RunError: the record is damaged.
    """
    file = folder / RECORD
    try:
        return unsealed(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, AttributeError) as error:
        raise RunError(
            f"{file} cannot be read ({error}): delete it and run the same command again"
        ) from error
