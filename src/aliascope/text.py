"""Plain text that fits a terminal and a log file alike, and values that JSON can hold."""

import json
import re
from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd

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


def file_name(spec: str) -> str:
    """A model spec as the name of a file or folder.

    >>> file_name("timm:resnet50"), file_name("efficientnet_lite0@blurpool:2")
    ('timm-resnet50', 'efficientnet_lite0@blurpool-2')
    """
    return re.sub(r"[^\w@.+-]+", "-", spec)


def plain(value: Any) -> Any:
    """A value as JSON gives it back: numbers that are not finite as None, frames as rows.

    Tuples become lists, numpy's numbers Python's, and anything else its `str`.

    >>> plain({"rows": pd.DataFrame({"sis": [0.5, float("nan")]}), "side": (np.int64(3),)})
    {'rows': [{'sis': 0.5}, {'sis': None}], 'side': [3]}
    """
    return json.loads(json.dumps(value, default=_own), parse_constant=lambda _: None)


def _own(value: Any) -> Any:
    if isinstance(value, pd.DataFrame):
        return value.to_dict("records")
    return value.item() if isinstance(value, np.generic) else str(value)
