"""Files below a folder: links are followed, but each file is found once and hidden ones are not."""

import os
from collections import deque
from collections.abc import Collection, Iterator
from fnmatch import fnmatch
from glob import glob
from pathlib import Path
from typing import NamedTuple


class Found(NamedTuple):
    """Files below a folder."""

    names: list[str]
    """POSIX paths relative to the folder, sorted."""
    notices: list[str]
    """What was left out."""


def find(root: Path, pattern: str, endings: Collection[str]) -> Found:
    """The files below a folder that match a pattern and have one of these endings.

    A link is followed, unless it leads up to a folder that holds it. What can be reached in several
    ways is called by the one without links, or else by the first.

    Args:
        root: the folder.
        pattern: `*`, `?`, `[…]` and `**` as in `glob.glob`; hidden ones match no wildcard.
        endings: lower case, with the dot.

    Raises:
        OSError: the folder itself cannot be read.
    """
    again: list[str] = []
    unreadable: list[str] = []
    parts = pattern.split("/")
    if "**" in parts:
        depth = parts.index("**")
        head = "/".join([*parts[:depth], ""])  # ends in a slash: folders only
        starts = sorted(name.rstrip("/") for name in glob(head, root_dir=root)) if depth else [""]  # noqa: PTH207 - leaves out what is hidden
        walked = _walk(root, starts, again, unreadable)
        found = [pair for pair in walked if _matches(pair[0].split("/")[depth:], parts[depth:])]
    else:
        real = os.path.realpath(root)
        names = [name for name in glob(pattern, root_dir=root) if (root / name).is_file()]  # noqa: PTH207
        found = [(name, os.path.realpath(root / name) != f"{real}/{name}") for name in names]
    found = [(name, linked) for name, linked in found if Path(name).suffix.lower() in endings]
    names = _once(root, sorted(found), again)
    notices = [
        f"{_counted(some)} below {root} {what}"
        for some, what in (
            (again, "left out: a link to what is listed already, or to a folder that holds it"),
            (unreadable, "left out: a folder that cannot be read"),
        )
        if some
    ]
    return Found(sorted(names), notices)


def leads_up(path: Path) -> bool:
    """Whether it is a link to a folder that holds it."""
    return path.is_symlink() and Path(os.path.realpath(path.parent)).is_relative_to(
        os.path.realpath(path)
    )


def _walk(
    root: Path, starts: list[str], again: list[str], unreadable: list[str]
) -> Iterator[tuple[str, bool]]:
    """Each file below some folders, and whether it is a link."""
    seen: set[str] = set()
    plain = deque(name for name in starts if not (root / name).is_symlink() or not name)
    links = deque(name for name in starts if name not in plain)
    while plain or links:  # links last: what is reached without one is called so
        name = (plain or links).popleft()
        real = os.path.realpath(root / name)
        if real in seen or (name and leads_up(root / name)):
            again.append(name)
            continue
        seen.add(real)
        try:
            with os.scandir(root / name) as entries:
                children = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            if not name:
                raise
            unreadable.append(name)
            continue
        for child in children:
            if child.name.startswith("."):
                continue
            below, linked = f"{name}/{child.name}".lstrip("/"), child.is_symlink()
            # To os.path what cannot be followed is neither, to the entry itself an error.
            if os.path.isdir(child) if linked else child.is_dir():  # noqa: PTH112
                (links if linked else plain).append(below)
            elif os.path.isfile(child) if linked else child.is_file():  # noqa: PTH113
                yield below, linked


def _once(root: Path, found: list[tuple[str, bool]], again: list[str]) -> list[str]:
    """The names without those of links to a file that another name has."""
    names = [name for name, linked in found if not linked]
    links = [name for name, linked in found if linked]
    taken = {_node(root / name) for name in names} if links else set()
    for name in links:
        node = _node(root / name)
        (again if node in taken else names).append(name)
        taken.add(node)
    return names


def _node(path: Path) -> tuple[int, int]:
    known = path.stat()
    return known.st_dev, known.st_ino


def _matches(parts: list[str], pattern: list[str]) -> bool:
    """Whether a path matches a pattern, each in its parts."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[k:], pattern[1:]) for k in range(len(parts) + 1))
    return bool(parts) and fnmatch(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _counted(names: list[str]) -> str:
    return repr(names[0]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")
