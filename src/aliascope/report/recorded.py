"""What any record says of how it came about."""

from collections.abc import Iterable, Mapping
from typing import Any

from aliascope.results.text import number


def facts(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Command, hardware and versions of an environment record."""
    found = []
    if command := str(info.get("command", "")):
        _, _, rest = command.partition(" ")
        found.append(("command", f"aliascope {rest}" if rest else command))
    known = ("hardware", "device", "threads", "precision", "python")
    found += [(name, str(info[name])) for name in known if info.get(name) is not None]
    found += [(name, str(version)) for name, version in info.get("versions", {}).items()]
    seconds = info.get("seconds")
    if seconds and isinstance(seconds, Mapping):  # of a timing, what it was given
        found.append(("time", f"{number(sum(seconds.values()), '.0f')} s"))
    return found


def skipped_of(rows: Iterable[Mapping[str, str]]) -> list[tuple[str, str]]:
    """Image id and reason, each once."""
    return [*dict.fromkeys((row["image_id"], row["reason"]) for row in rows)]
