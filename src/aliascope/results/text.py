"""Plain text that fits a terminal and a log file alike."""

import math
import re
import shutil
from collections.abc import Sequence
from textwrap import fill, wrap

_NO_TERMINAL = (100, 24)
_NARROWEST = 24
"""Columns below which text in a cell is not wrapped."""
_GLUE = "\xa0"
"""In place of a space at which a line must not break: a header and its cell stay together."""
_COMMANDS = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""What moves a cursor, colours a terminal or turns the direction of writing."""


def visible(text: str) -> str:
    r"""Text in which a terminal finds no command: names of files can hold any.

    >>> print(visible("a\x1b[31mred\u202egnp.exe"))
    a\x1b[31mred\u202egnp.exe
    """
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def brief(error: BaseException) -> str:
    """The cause of an error for a sentence: one line, and no more than 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def width() -> int:
    """Columns of the terminal, or as COLUMNS says; 100 where there is neither."""
    return max(_NARROWEST, shutil.get_terminal_size(_NO_TERMINAL).columns)


def columns(rows: Sequence[Sequence[str]], *, names: int = 1) -> str:
    """Rows of cells, left-aligned, the first one the header; as `fitted` makes them fit.

    >>> print(columns([["layer", "stride"], ["conv1", "2"]]))
    layer  stride
    conv1  2
    """
    return "\n".join(filter(None, fitted(rows, names=names)))


def fitted(rows: Sequence[Sequence[str]], *, names: int = 1, figures: bool = False) -> list[str]:
    r"""The text of each row, no wider than the terminal.

    Where it is too wide the columns move closer, then the last one is wrapped, and where that is
    not enough, each row is stacked: what names it, and below it the other cells with their headers.

    Args:
        rows: as many cells each; the first is the header, which is "" where rows are stacked.
        names: how many of the first cells name a row.
        figures: align all but the first column to the right, and never wrap them.

    >>> fitted([["layer", "stride", ""], ["conv1", "2", "shortcut"]])
    ['layer  stride', 'conv1  2       shortcut']
    """
    rows = [[visible(cell) for cell in row] for row in rows]
    room = width()
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for gap in (1,) if figures else (2, 1):
        if sum(widths) + gap * (len(widths) - 1) <= room:
            return [_line(row, widths, gap, figures=figures) for row in rows]
    left = room - sum(widths[:-1]) - 2 * (len(widths) - 1)
    if not figures and left >= _NARROWEST:
        return ["\n".join(_line(part, widths, 2) for part in _split(row, left)) for row in rows]
    return ["", *(_stacked(rows[0], row, names, room) for row in rows[1:])]


def _line(row: Sequence[str], widths: list[int], gap: int, *, figures: bool = False) -> str:
    first, *others = map(str.ljust, row, widths)
    if figures:
        others = map(str.rjust, row[1:], widths[1:])
    return (" " * gap).join([first, *others]).rstrip()


def _split(row: Sequence[str], room: int) -> list[list[str]]:
    first, *more = wrap(row[-1], room) or [""]
    return [[*row[:-1], first], *([""] * (len(row) - 1) + [text] for text in more)]


def _stacked(header: Sequence[str], row: Sequence[str], names: int, room: int) -> str:
    title = " ".join(filter(None, row[:names]))
    indent = " " * (len(title) - len(title.lstrip()) + 2)
    cells = zip(header[names:], row[names:], strict=True)
    told = [f"{head} {cell}".strip() for head, cell in cells if cell]
    # What does not fit a line of its own may break where it has spaces.
    whole = [text.replace(" ", _GLUE) if len(text) < room - len(indent) else text for text in told]
    lines = [_filled(title, "", indent, room), _filled(", ".join(whole), indent, indent, room)]
    return "\n".join(filter(None, lines))


def wrapped(texts: Sequence[str]) -> str:
    r"""Paragraphs no wider than the terminal, continued lines indented.

    >>> wrapped(["short", "too"])
    'short\ntoo'
    """
    room = width()
    return "\n".join(_filled(text.replace(" %", f"{_GLUE}%"), "", "  ", room) for text in texts)


def _filled(text: str, first: str, others: str, room: int) -> str:
    text = visible(text)
    lines = fill(text, room, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)
    return lines.replace(_GLUE, " ")


def pair(rows: int | float, across: int | float) -> str:
    """A stride or the like: one number where both axes agree.

    >>> pair(2, 2.0), pair(2, 1)
    ('2', '2×1')
    """
    return f"{rows:.3g}" if rows == across else f"{rows:.3g}×{across:.3g}"


def number(x: int | float, form: str) -> str:
    """A number as a format has it, and a dash where it is not known.

    >>> number(0.25, "+.1%"), number(float("nan"), "+.1%")
    ('+25.0%', '–')
    """
    return "–" if math.isnan(x) else format(x, form)


def interval(low: int | float, high: int | float, form: str) -> str:
    """Two limits in brackets, and a dash where they are not known.

    >>> interval(-0.5, 0.25, "+.2f"), interval(float("nan"), float("nan"), "+.2f")
    ('[-0.50, +0.25]', '–')
    """
    known = not (math.isnan(low) or math.isnan(high))
    return f"[{format(low, form)}, {format(high, form)}]" if known else "–"
