"""Labels: the number of a class, the table beside a folder, and whether they fit a network."""

import csv
import re
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from posixpath import normpath
from typing import Any, NamedTuple
from unicodedata import normalize

from aliascope.errors import ImageError
from aliascope.images.decoding import explained
from aliascope.images.source import ImageSource


class Table(NamedTuple):
    """What FOLDER.csv says of the pictures of FOLDER."""

    labels: dict[str, int | None]
    """By the picture's name; None where the table says that it is unknown."""
    distinct: frozenset[int]
    """All known labels of the table, those of pictures that are not there too."""
    notices: list[str]


def class_number(label: Any) -> int | None:
    """The label as a number; None for an empty or a negative one, which is unknown.

    Public test sets keep their labels secret by −1.

    Raises:
        ValueError, TypeError, RuntimeError, OverflowError: it is no whole number below 2^63.

    >>> class_number(" 3.0 "), class_number(-1), class_number("")
    (3, None, None)
    """
    if isinstance(label, bytes):
        label = label.decode()
    if label is None or (isinstance(label, str) and not label.strip()):
        return None
    if isinstance(label, str):
        text = re.fullmatch(r"\s*([+-]?\d+)(\.0*)?\s*", label, re.ASCII)  # pandas writes 3.0
        number = int(text[1]) if text else None
    else:
        number = int(label) if int(label) == label else None
    if number is None or number >= 2**63:
        raise ValueError(f"{label!r} is no whole number below 2^63")
    return number if number >= 0 else None


def labels_beside(folder: Path, names: Sequence[str]) -> Table:
    """Read FOLDER.csv, a table with the columns `file` and `label`; empty where there is none.

    Columns are parted by commas, semicolons or tabs. A file is named by its path below the folder,
    or by one that begins with the folder's name or is absolute; backslashes are slashes.

    Args:
        folder: absolute.
        names: of its pictures, relative to it.

    Raises:
        ImageError: it cannot be read, a label is no number, no row names a picture, or two rows
            contradict each other.
    """
    path = folder.parent / f"{folder.name}.csv"
    if not path.is_file():
        return Table({}, frozenset(), [])
    wrong = f"{path} cannot be read as a table of labels; write a file and a whole number a row"
    with explained(wrong, OSError, ValueError, csv.Error):
        rows = _rows(path.read_bytes())
        if rows is None:
            lacking = f"{path} has no columns `file` and `label`: no labels are read from it"
            return Table({}, frozenset(), [lacking])
        told = list(rows)
    known = {_path(name): name for name in names}
    above = [_path(str(folder)) + "/", _path(folder.name) + "/"]
    labels: dict[str, int | None] = {}
    strangers = []
    for file, label in told:
        spelled = [_path(file), *(_path(file).removeprefix(prefix) for prefix in above)]
        name = next((known[key] for key in spelled if key in known), None)
        if name is None:
            strangers.append(file)
        elif labels.setdefault(name, label) != label:
            both = " and ".join("none" if n is None else str(n) for n in (labels[name], label))
            raise ImageError(f"{path} gives {name!r} two labels, {both}; keep one row a picture")
    if strangers and not labels:
        raise ImageError(
            f"no row of {path} names a picture of its folder: the table has {strangers[0]!r}, the "
            f"folder {names[0]!r}; write paths below the folder, or rename the table"
        )
    some = f"{len(strangers)} of the {len(told)} rows of {path} name no picture of its folder, "
    notices = [f"{some}such as {strangers[0]!r}"] if strangers else []
    return Table(labels, frozenset(n for _, n in told if n is not None), notices)


LEFT_OPEN = "whether an answer is correct is left open"
"""How a notice of labels that do not fit ends."""


def labels_fit(source: ImageSource, classes: int | None) -> tuple[bool, str]:
    """Whether labels number a network's own classes, and what the user should know of that, or "".

    A source that says how many classes it has must have as many as the network. A table may hold
    some of the network's classes only; where its labels run from 0 without a gap and stop before
    half of them, it has classes of its own.

    Args:
        source: its pictures are not decoded.
        classes: of the network; None where it is no classifier.
    """
    if not classes:
        return False, ""
    name = source.spec or "the source"
    blank = f"the network has {classes} classes: {LEFT_OPEN}"
    if source.labels:
        return _table_fits(source.labels, classes, name, blank)
    if source.classes is not None:
        fits = source.classes == classes
        return fits, "" if fits else f"{name} has {source.classes} classes, {blank}"
    first = next(source.entries(), None)
    if first is None or first.label is None:
        return False, ""
    wanted = "as a data set does by its attribute `classes`"
    return False, f"{name} does not say how many classes it has, {wanted}, and {blank}"


def _table_fits(labels: frozenset[int], classes: int, name: str, blank: str) -> tuple[bool, str]:
    count = max(labels) + 1
    if count > classes:
        return False, f"the labels of {name} go up to {count - 1}, {blank}"
    if count == classes or len(labels) < count:
        return True, ""
    run = f"the labels of {name} run from 0 to {count - 1} without a gap"
    if 2 * count <= classes:
        return False, f"{run}, as those of {count} classes of their own, and {blank}"
    return True, f"{run}: they are taken for the first of the network's {classes} classes"


def _rows(data: bytes) -> Iterator[tuple[str, int | None]] | None:
    """File and label of each row; None where there are no such columns."""
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    # A name that is no UTF-8 is read as the names of files are.
    text = data.decode("utf-16") if wide else data.decode("utf-8-sig", "surrogateescape")
    text = text.lstrip()
    first = text.partition("\n")[0].partition("\r")[0].lower()
    for delimiter in ",;\t":
        header = [cell.strip(' "') for cell in first.split(delimiter)]
        if {"file", "label"} <= set(header):
            lines = StringIO(text, newline="")
            reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
            next(reader)
            return _cells(reader, header.index("file"), header.index("label"))
    return None


def _cells(reader: Any, file: int, label: int) -> Iterator[tuple[str, int | None]]:
    for row in reader:
        if any(cell.strip() for cell in row):
            if len(row) <= max(file, label):
                raise ValueError(f"line {reader.line_num} has no label or no file")
            try:
                number = class_number(row[label])
            except ValueError as error:
                raise ValueError(f"line {reader.line_num}: {error}") from error
            yield row[file], number


def _path(name: str) -> str:
    """One spelling for all of a path: macOS decomposes letters, Windows has backslashes."""
    return normpath(normalize("NFC", name).replace("\\", "/").strip())
