"""What a report is made of; the page template knows these, and nothing of runs and studies."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from aliascope.results.text import interval, number


class Cell(NamedTuple):
    """Of a table: what is shown, and by what it is sorted."""

    text: str
    value: float | str


@dataclass(frozen=True)
class Chart:
    """Drawings of `aliascope.svg`, with a caption, and the thumbnail that they are about."""

    drawings: Sequence[str]
    caption: str = ""
    picture: str = ""
    """A data URI, or ""."""


@dataclass(frozen=True)
class Table:
    """Rows of a header's length."""

    name: str
    """Of the file that "copy as CSV" stands for, and of the heading above it."""
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Card:
    """One figure of the first screen."""

    name: str
    before: str
    after: str
    change: str
    svg: str
    meaning: str
    """The id of its definition."""


@dataclass(frozen=True)
class Section:
    """A heading, what it says, and what it shows."""

    title: str
    text: str = ""
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Part:
    """The report of one path."""

    title: str
    subtitle: str
    verdict: str
    roles: Sequence[tuple[str, str]] = ()
    """Class of the colour → what it stands for."""
    cards: Sequence[Card] = ()
    sections: Sequence[Section] = ()
    notices: Sequence[str] = ()
    skipped: Sequence[tuple[str, str]] = ()
    """Image id and reason, of each picture that was left out."""
    facts: Sequence[tuple[str, str]] = ()
    """Versions, hardware, the command."""


def cell(value: object, form: str = "") -> Cell:
    """A value as a table shows and sorts it.

    >>> cell(0.25, ".1%").text, cell(float("nan"), ".1f").text, cell("conv1").text
    ('25.0%', '–', 'conv1')
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        sortable = float(value) if math.isfinite(value) else ""
        return Cell(number(float(value), form or "g"), sortable)
    return Cell(str(value), str(value))


def limits(value: float, low: float, high: float, form: str) -> Cell:
    """A value with its interval.

    >>> limits(0.5, 0.25, 0.75, ".2f").text
    '0.50 [0.25, 0.75]'
    """
    shown = number(value, form)
    known = "" if math.isnan(low) or math.isnan(high) else f" {interval(low, high, form)}"
    return Cell(shown + known, value if math.isfinite(value) else "")
