"""Plain text that fits a terminal and a log file alike."""

import math
from collections.abc import Sequence
from textwrap import fill

WIDTH = 100


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, left-aligned.

    >>> print(columns([["layer", "stride"], ["conv1", "2"]]))
    layer  stride
    conv1  2
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def wrapped(texts: Sequence[str]) -> str:
    r"""Paragraphs of at most 100 columns, continued lines indented.

    >>> wrapped(["short", "too"])
    'short\ntoo'
    """
    return "\n".join(fill(text, WIDTH, subsequent_indent="  ") for text in texts)


def pair(rows: int | float, across: int | float) -> str:
    """A stride or the like: one number where both axes agree.

    >>> pair(2, 2.0), pair(2, 1)
    ('2', '2×1')
    """
    return f"{rows:.3g}" if rows == across else f"{rows:.3g}×{across:.3g}"


def number(x: float, form: str) -> str:
    """A number as a format has it, and a dash where it is not known.

    >>> number(0.25, "+.1%"), number(float("nan"), "+.1%")
    ('+25.0%', '–')
    """
    return "–" if math.isnan(x) else format(x, form)


def interval(low: float, high: float, form: str) -> str:
    """Two limits in brackets, and a dash where they are not known.

    >>> interval(-0.5, 0.25, "+.2f"), interval(float("nan"), float("nan"), "+.2f")
    ('[-0.50, +0.25]', '–')
    """
    known = not (math.isnan(low) or math.isnan(high))
    return f"[{format(low, form)}, {format(high, form)}]" if known else "–"
