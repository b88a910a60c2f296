"""Charts as SVG text: small, readable aloud, and inert wherever they are put.

No script, no style sheet, no font and no picture from elsewhere: colours are attributes, so that a
page keeps its charts under a policy that forbids all styles; classes let a page's own style sheet
set others (`.baseline`, `.antialiased`, `.control`, `.ink`, `.grid`). Every chart has a title and a
description, and every mark a `<title>` with its value. All text is escaped.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from numpy import ndarray

COLOURS = {
    "baseline": "#1b6ca8",
    "antialiased": "#c8501e",
    "control": "#767676",
    "ink": "#333333",
    "grid": "#d0d0d0",
}
"""Of the classes, on white paper."""
_KINDS = ("#9aa3ad", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
"""Of Okabe and Ito, behind a grey."""
_ROW, _CHARACTER = 20, 6.6
"""Pixels a line, and about as wide as a letter of 12 pixels is."""


@dataclass(frozen=True)
class Mark:
    """One value with its interval, in a row of a chart."""

    role: str
    """A class: a key of `COLOURS`."""
    value: int | float
    low: int | float = math.nan
    high: int | float = math.nan
    text: str = ""
    """What it says when it is pointed at or read aloud; by default the numbers."""


@dataclass(frozen=True)
class Line:
    """One curve."""

    role: str
    name: str
    x: Sequence[int | float]
    y: Sequence[int | float]
    hollow: Sequence[bool] = ()
    """Points that are drawn as rings; none where it is empty."""
    texts: Sequence[str] = ()
    """What each point says."""


def dots(
    rows: Mapping[str, Sequence[Mark]],
    *,
    title: str,
    description: str,
    form: str = ".3g",
    width: int = 560,
    zero: bool = True,
) -> str:
    """Values with whiskers on one axis: a row a label, a mark a role.

    Args:
        rows: label → its marks; those that are not finite are left out.
        title: of the chart.
        description: what a reader who cannot see it must know.
        form: number format of ticks and values.
        width: of the drawing, in its own pixels.
        zero: whether the axis begins at 0 where no value is negative.
    """
    known = [m for marks in rows.values() for m in marks if math.isfinite(m.value)]
    ends = [x for m in known for x in (m.value, m.low, m.high) if math.isfinite(x)]
    ticks = _ticks([0.0, *ends] if zero else ends)
    labels = 12 + _CHARACTER * max(map(len, rows), default=0)
    left = max(labels, 2 + _CHARACTER * len(format(ticks[0], form)) / 2)
    across = _Scale(ticks, left, width - 24)
    step = max((len(marks) for marks in rows.values()), default=1)
    tall = _ROW if step == 1 else 7 + 11 * step
    bottom = 8 + tall * len(rows)
    parts = [_axis(ticks, across, 4, bottom, form)]
    for i, (label, marks) in enumerate(rows.items()):
        middle = 8 + tall * (i + 0.5)
        parts.append(_text(left - 10, middle + 4, label, anchor="end"))
        for j, mark in enumerate(marks):
            y = middle + 11 * (j - (len(marks) - 1) / 2)
            parts.append(_dot(mark, across, y, form))
    return _svg(title, description, width, bottom + 24, parts)


def curves(
    lines: Iterable[Line],
    *,
    title: str,
    description: str,
    x_label: str,
    y_label: str = "",
    y_range: tuple[int | float, int | float] | None = None,
    width: int = 360,
    height: int = 200,
    log: bool = False,
    mark: int | float | None = None,
) -> str:
    """Curves over one axis, with a ring where a point is hollow.

    Args:
        lines: what to draw, the last one on top; points that are not finite are left out.
        title: of the chart.
        description: what a reader who cannot see it must know.
        x_label: under the axis.
        y_label: above it.
        y_range: by default that of the values.
        width: of the drawing.
        height: of the drawing.
        log: whether y is drawn by its decimal logarithm.
        mark: an x at which a dashed line stands.
    """
    lines = list(lines)
    values = [y for line in lines for y in line.y if math.isfinite(y) and (y > 0 or not log)]
    lift = math.log10 if log else float
    y_ticks = _ticks([lift(y) for y in y_range or values])
    xs = [x for line in lines for x in line.x] or [0, 1]
    x_ticks = [x for x in _ticks(xs, 4) if min(xs) <= x <= max(xs)]
    across, up = _Scale(xs, 48, width - 12), _Scale(y_ticks, height - 40, 22)
    form = "10^{:g}" if log else "{:g}"
    parts = [_paper(x_ticks, y_ticks, across, up, x_label, y_label, form)]
    if mark is not None:
        parts.append(_rule(across(mark), up(y_ticks[0]), across(mark), up(y_ticks[-1]), dash=True))
    for line in lines:
        points = [
            (across(x), up(lift(y)), i)
            for i, (x, y) in enumerate(zip(line.x, line.y, strict=True))
            if math.isfinite(y) and (y > 0 or not log)
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
        colour = COLOURS[line.role]
        parts.append(
            f'<polyline class="{line.role} line" points="{path}" fill="none" stroke="{colour}" '
            f'stroke-width="1.8"><title>{escape(line.name)}</title></polyline>'
        )
        for x, y, i in points if line.texts else ():
            ring = bool(line.hollow) and line.hollow[i]
            fill = "#ffffff" if ring else colour
            kind = "ring" if ring else "point"
            parts.append(
                f'<circle class="{line.role} {kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.2" '
                f'fill="{fill}" stroke="{colour}" stroke-width="1.5">'
                f"<title>{escape(line.texts[i])}</title></circle>"
            )
    return _svg(title, description, width, height, parts)


def scatter(
    marks: Sequence[tuple[str, Mark, Mark]],
    *,
    title: str,
    description: str,
    x_label: str,
    y_label: str,
    arrows: Sequence[tuple[int, int]] = (),
    width: int = 560,
    height: int = 340,
) -> str:
    """Named points, with whiskers where their intervals are known.

    Args:
        marks: (name, x, y) of each, in the colour of x; those that are not finite are left out.
        title: of the chart.
        description: what a reader who cannot see it must know.
        x_label: under the axis.
        y_label: above it.
        arrows: from which of the marks to which.
        width: of the drawing.
        height: of the drawing.
    """
    finite = [
        (i, m) for i, m in enumerate(marks) if all(math.isfinite(side.value) for side in m[1:])
    ]
    # A control, which is the original as a rule, lies beneath and is seen around that.
    known = dict(sorted(finite, key=lambda item: item[1][1].role != "control"))
    sides = zip(*((x, y) for _, x, y in known.values()), strict=True)
    ends = [[e for mark in marks for e in _ends(mark)] for marks in sides] or [[], []]
    x_ticks, y_ticks = _ticks(_lowered(ends[0]), 4), _ticks(_lowered(ends[1]))
    across, up = _Scale(x_ticks, 54, width - 90), _Scale(y_ticks, height - 40, 22)
    at = {i: (across(x.value), up(y.value)) for i, (_, x, y) in known.items()}
    parts = [_paper(x_ticks, y_ticks, across, up, x_label, y_label)]
    for i, (_, x, y) in known.items():
        (left, right), (low, high) = ((min(_ends(m)), max(_ends(m))) for m in (x, y))
        if left < right:
            parts.append(_whisker(x.role, across(left), at[i][1], across(right), at[i][1]))
        if low < high:
            parts.append(_whisker(x.role, at[i][0], up(low), at[i][0], up(high)))
    parts += [_arrow(at[i], at[j]) for i, j in arrows if i in at and j in at]
    taken: list[tuple[float, float, float]] = []
    for i, (name, x, y) in known.items():
        said = f"{name}: {x.value:.4g}{_between(x, '.4g')}; {y.value:.4g}{_between(y, '.4g')}"
        parts.append(
            f'<circle class="{x.role} point" cx="{at[i][0]:.1f}" cy="{at[i][1]:.1f}" '
            f'r="{7 if x.role == "control" else 4.5}" fill="{COLOURS[x.role]}">'
            f"<title>{escape(x.text or said)}</title></circle>"
        )
    for i, (name, _, _) in sorted(known.items()):
        others = [at[k] for arrow in arrows for k in arrow if i in arrow and k != i and k in at]
        below = any(y < at[i][1] for _, y in others)
        parts.append(_label(name, *at[i], taken, below=below))
    return _svg(title, description, width, height, parts)


def heat(
    values: Float[ndarray, "rows columns"],
    *,
    title: str,
    description: str,
    width: int = 160,
    box: int | float | tuple[int | float, int | float] | None = None,
    low: int | float | None = None,
    high: int | float | None = None,
) -> str:
    """A map of grey levels, dark where values are large, with a box around its middle.

    Args:
        values: as large as it is to be drawn; aggregate what is larger than about 40 × 40.
        title: of the chart.
        description: what a reader who cannot see it must know.
        width: of the drawing.
        box: sides of the box, as a share of rows and columns: the Nyquist box of a stride is 1/s.
        low: value of the lightest grey; by default the smallest.
        high: of the darkest.
    """
    rows, columns = values.shape
    finite = np.nan_to_num(values, nan=np.nanmin(values) if np.isfinite(values).any() else 0)
    lightest = float(finite.min() if low is None else low)
    darkest = float(finite.max() if high is None else high)
    levels = np.clip((finite - lightest) / max(darkest - lightest, 1e-12), 0, 1)
    shades = np.round(levels * 24).astype(int)  # of which neighbours make one rectangle
    cell = width / columns
    paths: dict[int, list[str]] = {}
    for r in range(rows):
        edges = [0, *(np.flatnonzero(np.diff(shades[r])) + 1), columns]
        for c, end in pairwise(edges):
            wide = (end - c) * cell
            run = f"M{c * cell:.1f} {r * cell:.1f}h{wide:.1f}v{cell:.1f}h{-wide:.1f}z"
            paths.setdefault(int(shades[r, c]), []).append(run)
    parts = [
        f'<path d="{"".join(runs)}" fill="{colour}" stroke="{colour}" stroke-width="0.4"/>'
        for colour, runs in ((_grey(shade), runs) for shade, runs in paths.items())
    ]
    height = rows * cell
    if box is not None:
        tall, wide = box if isinstance(box, tuple) else (box, box)
        parts.append(
            f'<rect x="{width * (1 - wide) / 2:.2f}" y="{height * (1 - tall) / 2:.2f}" '
            f'width="{width * wide:.2f}" height="{height * tall:.2f}" fill="none" '
            f'stroke="{COLOURS["antialiased"]}" stroke-width="1.6"/>'
        )
    return _svg(title, description, width, height, parts)


def bars(
    rows: Sequence[tuple[str, Mark]], *, title: str, description: str, width: int = 320
) -> str:
    """Shares of one: a bar a row under its label, and a tick where `low` lies.

    Args:
        rows: (label, mark) from the top; values in [0, 1].
        title: of the chart.
        description: what a reader who cannot see it must know.
        width: of the drawing.
    """
    tall, letters = 34.0, int((width - 60) / _CHARACTER)
    parts = []
    for i, (label, mark) in enumerate(rows):
        y, colour = tall * i, COLOURS[mark.role]
        short = label if len(label) <= letters else f"{label[: letters - 1]}…"
        text = mark.text or f"{label}: {mark.value:.1%}"
        tick = ""
        if math.isfinite(mark.low):
            x = mark.low * width
            tick = _rule(x, y + 17, x, y + 31, dash=True)
        parts.append(
            f"<g><title>{escape(text)}</title>{_text(0.0, y + 14, short)}"
            f"{_text(float(width), y + 14, f'{mark.value:.1%}', anchor='end')}"
            f'<rect class="grid" y="{y + 20}" width="{width}" height="8" rx="2" '
            f'fill="{COLOURS["grid"]}"/>'
            f'<rect class="{mark.role} bar" y="{y + 20}" width="{mark.value * width:.1f}" '
            f'height="8" rx="2" fill="{colour}"/>{tick}</g>'
        )
    return _svg(title, description, width, tall * len(rows), parts)


@dataclass(frozen=True)
class Patch:
    """One square of a map of kinds."""

    kind: int
    """0 is neutral; the others have a colour and a letter each."""
    weight: float
    """In [0, 1]: how strongly it is coloured."""
    text: str = ""
    """What it says when it is pointed at or read aloud."""


def patches(
    cells: Mapping[tuple[int, int], Patch],
    *,
    radius: int,
    title: str,
    description: str,
    outlined: tuple[int, int] | None = None,
    width: int = 340,
) -> str:
    """A square map of kinds around (0, 0), told apart by colour and letter; white where none is.

    Args:
        cells: (row, column), each from -radius to radius → what is there; the group that is drawn
            for it says so in `data-at`.
        radius: of the map.
        title: of the chart.
        description: what a reader who cannot see it must know.
        outlined: the place with a frame around it.
        width: of the drawing.
    """
    left, top = 26.0, 4.0
    cell = (width - left - 4) / (2 * radius + 1)
    side = cell * (2 * radius + 1)

    def corner(row: int, column: int) -> tuple[float, float]:
        return left + (column + radius) * cell, top + (row + radius) * cell

    paper = (
        f'<rect class="paper" x="{left}" y="{top}" width="{side:.1f}" height="{side:.1f}" '
        f'fill="#ffffff" stroke="{COLOURS["grid"]}"/>'
    )
    parts = [paper]
    for (row, column), patch in sorted(cells.items()):
        x, y = corner(row, column)
        square = (
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{cell:.1f}" height="{cell:.1f}" '
            f'fill="{kind_colour(patch.kind)}" fill-opacity="{0.15 + 0.85 * patch.weight:.2f}"/>'
        )
        letter = (
            f'<text x="{x + cell / 2:.1f}" y="{y + cell / 2 + 4:.1f}" text-anchor="middle" '
            f'font-size="11" fill="#111111">{kind_letter(patch.kind)}</text>'
        )
        body = square + letter * bool(patch.kind)
        at = f'data-at="{row},{column}"'
        parts.append(f"<g {at}><title>{escape(patch.text)}</title>{body}</g>")
    for at in sorted({-radius, 0, radius}):
        x, y = corner(at, at)
        parts.append(_text(left - 5, y + cell / 2 + 4, f"{at:+d}" if at else "0", anchor="end"))
        middle = x + cell / 2
        parts.append(_text(middle, top + side + 15, f"{at:+d}" if at else "0", anchor="middle"))
    if outlined is not None:
        x, y = corner(*outlined)
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{cell:.1f}" height="{cell:.1f}" fill="none" '
            'stroke="#111111" stroke-width="2.4" pointer-events="none"/>'
        )
    return _svg(title, description, width, top + side + 20, parts)


def kind_colour(kind: int) -> str:
    """Of a `Patch`: grey, then those that the colour-blind tell apart, over and over."""
    return _KINDS[0] if kind == 0 else _KINDS[1:][(kind - 1) % (len(_KINDS) - 1)]


def kind_letter(kind: int) -> str:
    """Of a `Patch`: none, then a, b, c, …, over and over."""
    return "" if kind == 0 else chr(ord("a") + (kind - 1) % 26)


def _grey(shade: int) -> str:
    grey = round(250 - shade * 9.6)
    return f"#{grey:02x}{grey:02x}{min(grey + 12, 255):02x}"


def _svg(
    title: str, description: str, width: int | float, height: int | float, parts: Iterable[str]
) -> str:
    body = "".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="system-ui, sans-serif" font-size="12">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{body}</svg>"
    )


def _text(
    x: int | float, y: int | float, text: str, *, anchor: str = "start", size: int = 12
) -> str:
    return (
        f'<text class="ink" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="{COLOURS["ink"]}">{escape(text)}</text>'
    )


def _rule(
    x: int | float, y: int | float, x_end: int | float, y_end: int | float, *, dash: bool = False
) -> str:
    kind = ' stroke-dasharray="4 3"' if dash else ""
    colour = COLOURS["ink" if dash else "grid"]
    name = "mark" if dash else "grid"
    return (
        f'<line class="{name}" x1="{x:.1f}" y1="{y:.1f}" x2="{x_end:.1f}" y2="{y_end:.1f}" '
        f'stroke="{colour}"{kind}/>'
    )


def _axis(
    ticks: Sequence[int | float], across: "_Scale", top: int | float, bottom: int | float, form: str
) -> str:
    return "".join(
        _rule(across(t), top, across(t), bottom)
        + _text(across(t), bottom + 16, format(t, form), anchor="middle", size=11)
        for t in ticks
    )


def _paper(
    x_ticks: Sequence[int | float],
    y_ticks: Sequence[int | float],
    across: "_Scale",
    up: "_Scale",
    x_label: str,
    y_label: str,
    form: str = "{:g}",
) -> str:
    """Grid, ticks and labels of two axes."""
    left, right, bottom = across.start, across.start + across.length, up.start
    lines = [
        _rule(left, up(y), right, up(y))
        + _text(left - 4, up(y) + 4, form.format(y), anchor="end", size=11)
        for y in y_ticks
    ]
    lines += [_text(across(x), bottom + 16, f"{x:g}", anchor="middle", size=11) for x in x_ticks]
    lines += [_text((left + right) / 2, bottom + 34, x_label, anchor="middle")]
    return "".join([*lines, _text(4, 12, y_label)])


def _ends(mark: Mark) -> list[int | float]:
    return [e for e in (mark.value, mark.low, mark.high) if math.isfinite(e)]


def _lowered(values: list[int | float]) -> list[int | float]:
    """With room for a name below the least of them, but not below 0 for that."""
    if not values:
        return values
    least = min(values)
    room = least - (max(values) - least) / 10
    return [*values, room if least < 0 else max(room, 0)]


def _between(mark: Mark, form: str) -> str:
    known = math.isfinite(mark.low) and math.isfinite(mark.high)
    return f", {mark.low:{form}} to {mark.high:{form}}" if known else ""


def _whisker(
    role: str, x: int | float, y: int | float, x_end: int | float, y_end: int | float
) -> str:
    return (
        f'<line class="{role} line" x1="{x:.1f}" y1="{y:.1f}" x2="{x_end:.1f}" y2="{y_end:.1f}" '
        f'stroke="{COLOURS[role]}" stroke-width="2"/>'
    )


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    """From beside one point to beside another; none where they touch."""
    (x, y), (x_end, y_end) = start, end
    length = math.hypot(x_end - x, y_end - y)
    if length < 24:
        return ""
    u, v = (x_end - x) / length, (y_end - y) / length
    tip, foot = (x_end - 8 * u, y_end - 8 * v), (x_end - 16 * u, y_end - 16 * v)
    sides = [(foot[0] + k * v, foot[1] - k * u) for k in (4, -4)]
    head = "L".join(f"{a:.1f} {b:.1f}" for a, b in (tip, *sides))
    return (
        f'<line class="mark" x1="{x + 8 * u:.1f}" y1="{y + 8 * v:.1f}" x2="{foot[0]:.1f}" '
        f'y2="{foot[1]:.1f}" stroke="{COLOURS["ink"]}"/>'
        f'<path class="ink" d="M{head}z" fill="{COLOURS["ink"]}"/>'
    )


def _label(
    name: str,
    x: int | float,
    y: int | float,
    taken: list[tuple[float, float, float]],
    *,
    below: bool,
) -> str:
    """A name beside its point, above or below, where it covers no name before it."""
    wide = _CHARACTER * len(name)
    lifts = (16, -7, 30, -21) if below else (-7, 16, -21, 30)
    places = [(x + side * 7, y + lift, side) for lift in lifts for side in (1, -1)]
    spans = [(a if side > 0 else a - wide, b) for a, b, side in places]
    free = [
        i
        for i, (left, base) in enumerate(spans)
        if all(
            left > end or left + wide < start or abs(base - line) > 12 for start, end, line in taken
        )
    ]
    best = free[0] if free else 0
    left, base = spans[best]
    taken.append((left, left + wide, base))
    anchor = "start" if places[best][2] > 0 else "end"
    return _text(places[best][0], base, name, anchor=anchor, size=11)


def _dot(mark: Mark, across: "_Scale", y: int | float, form: str) -> str:
    if not math.isfinite(mark.value):
        return ""
    x, colour = across(mark.value), COLOURS[mark.role]
    limits = _between(mark, form)
    whisker = _whisker(mark.role, across(mark.low), y, across(mark.high), y) if limits else ""
    text = mark.text or f"{mark.role}: {mark.value:{form}}{limits}"
    return (
        f'<g><title>{escape(text)}</title>{whisker}<circle class="{mark.role} point" '
        f'cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/></g>'
    )


class _Scale:
    """From values to pixels, linearly."""

    def __init__(self, ticks: Sequence[int | float], start: int | float, end: int | float) -> None:
        self.low, self.span = min(ticks), max(ticks) - min(ticks) or 1.0
        self.start, self.length = start, end - start

    def __call__(self, value: int | float) -> float:
        return self.start + (value - self.low) / self.span * self.length


def _ticks(values: Iterable[int | float], about: int = 5) -> list[float]:
    """Round numbers around the values: steps of 1, 2 or 5 times a power of ten.

    >>> _ticks([0.0, 0.07])
    [0.0, 0.02, 0.04, 0.06, 0.08]
    """
    known = [x for x in values if math.isfinite(x)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        low, high = (low - 0.5, high + 0.5) if low else (0.0, 1.0)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]
