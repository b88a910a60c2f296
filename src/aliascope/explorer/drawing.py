"""From plain values to fragments of a page: inert HTML around charts of `aliascope.svg`."""

import base64
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
from jaxtyping import UInt8
from numpy import ndarray

from aliascope.explorer.session import Guess, Model, Sampling, summary
from aliascope.explorer.state import Shown
from aliascope.results.text import pair
from aliascope.svg import Line, Mark, Patch, bars, curves, dots, heat, kind_letter, patches

ROLES = ("baseline", "antialiased")
"""Of the first and the second model: classes and colours of `aliascope.svg`."""
_UNSAFE = str.maketrans({"{": "&#123;", "$": "&#36;", "`": "&#96;"})
"""What the page's templates would read as code; labels and file names may hold it."""


def inert(html: str) -> str:
    """HTML of which no template of the page makes anything else."""
    return html.translate(_UNSAFE)


def message(sentences: Sequence[str], *, wrong: bool = False) -> str:
    """What to know, or what went wrong, read aloud when it appears."""
    kind = "alert" if wrong else "status"
    lines = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    return inert(f'<div class="note {kind}" role="{kind}">{lines}</div>')


def answer(
    shown: Shown,
    name: str,
    picture: UInt8[ndarray, "rows columns 3"],
    guesses: Sequence[Sequence[Guess]],
) -> str:
    """The picture as the network sees it, and what both models say of it."""
    moved = f"{_moved(shown.rows, shown.columns)}, {shown.border}"
    picked = f"{name}, {moved}"
    seen = (
        f'<figure class="seen"><img src="{_png(picture)}" alt="{escape(picked)}">'
        f"<figcaption>{escape(name)}<br>{escape(moved)}</figcaption></figure>"
    )
    parts = [seen]
    for role, spec, top in zip(ROLES, shown.specs, guesses, strict=True):
        rows = [
            (
                guess.label,
                Mark(
                    role,
                    guess.probability,
                    low=guess.unshifted,
                    text=f"{guess.label}: {guess.probability:.1%}, {guess.unshifted:.1%} unshifted",
                ),
            )
            for guess in top
        ]
        heard = "; ".join(mark.text for _, mark in rows)
        chart = bars(rows, title=f"Five likeliest classes of {spec}", description=heard)
        parts.append(f'<section class="top">{_heading(role, spec)}{chart}</section>')
    return inert(
        f'<div class="row">{"".join(parts)}</div>'
        '<p class="hint">Dashed ticks: the same class without a shift.</p>'
    )


def maps(shown: Shown, models: Sequence[Model], frames: Sequence[pd.DataFrame], radius: int) -> str:
    """Predictions of both models at all shifts, what they are called, and the worst shift."""
    kinds = _kinds(frames)
    parts = [
        _map(role, shown, model, frame, radius, kinds)
        for role, model, frame in zip(ROLES, models, frames, strict=True)
    ]
    return inert(f'<div class="row">{"".join(parts)}</div>')


def _kinds(frames: Sequence[pd.DataFrame]) -> dict[int, int]:
    """Class → colour and letter, the same for both models: in the order in which they appear."""
    flipped = (frame[~frame["steady"]] for frame in frames if len(frame))
    order = dict.fromkeys(index for frame in flipped for index in frame["prediction"])
    return {int(index): kind for kind, index in enumerate(order, 1)}


def _map(
    role: str,
    shown: Shown,
    model: Model,
    frame: pd.DataFrame,
    radius: int,
    kinds: Mapping[int, int],
) -> str:
    cells = {
        (row["rows"], row["columns"]): Patch(
            0 if row["steady"] else kinds[row["prediction"]],
            row["confidence"],
            f"{_moved(row['rows'], row['columns'])}: {model.label(row['prediction'])} "
            f"{row['confidence']:.1%}",
        )
        for row in frame.to_dict("records")
    }
    told, whole = summary(frame, model) if len(frame) else {}, (2 * radius + 1) ** 2
    text = "no shift is computed yet"
    if told:
        text = (
            f"{told['prediction']} unshifted; another class at {told['flips']} of "
            f"{told['shifts']} shifts ({told['flips'] / told['shifts']:.1%}). Worst shift: "
            f"{_moved(told['worst_rows'], told['worst_columns'])}, where it falls from "
            f"{told['probability']:.1%} to {told['worst_probability']:.1%} "
            f"({told['worst_prediction']})."
        )
    filling = f" {len(cells)} of {whole} shifts so far." if len(cells) < whole else ""
    chart = patches(
        cells,
        radius=radius,
        title=f"Prediction of {model.loaded.spec} at each shift",
        description=text,
        outlined=(max(-radius, min(radius, shown.rows)), max(-radius, min(radius, shown.columns))),
    )
    return (
        f'<section class="map">{_heading(role, model.loaded.spec)}{chart}'
        f"{_legend(frame, model, kinds)}<p>{escape(text + filling)}</p>"
        f"{_table(cells, radius, model.loaded.spec)}</section>"
    )


def _legend(frame: pd.DataFrame, model: Model, kinds: Mapping[int, int]) -> str:
    if not len(frame):
        return ""
    counts = Counter(frame["prediction"].tolist())
    own = int(frame["prediction"].iloc[0])
    items = []
    for index, count in counts.most_common():
        kind = 0 if index == own else kinds[index]
        items.append(
            f'<li class="kind{kind % 8 if kind < 8 else (kind - 1) % 7 + 1}">'
            f"<b>{kind_letter(kind) or '&nbsp;'}</b> {escape(model.label(index))}"
            f"{' (unshifted)' if kind == 0 else ''} × {count}</li>"
        )
    return f'<ul class="kinds">{"".join(items)}</ul>'


def _table(cells: Mapping[tuple[int, int], Patch], radius: int, spec: str) -> str:
    """The map for who cannot see it."""
    steps = range(-radius, radius + 1)
    head = "".join(f'<th scope="col">{step:+d}</th>' for step in steps)
    rows = []
    for row in steps:
        known = (cells.get((row, column)) for column in steps)
        line = "".join(
            f"<td>{kind_letter(cell.kind) or '·'} {cell.weight:.0%}</td>" if cell else "<td></td>"
            for cell in known
        )
        rows.append(f'<tr><th scope="row">{row:+d}</th>{line}</tr>')
    return (
        "<details><summary>As a table</summary>"
        f'<div class="wide" tabindex="0" role="region" aria-label="Predictions of {escape(spec)}">'
        f"<table><caption>Letter of the class (· as unshifted) and confidence; rows: pixels down, "
        f"columns: pixels to the right</caption><tr><td></td>{head}</tr>{''.join(rows)}</table>"
        "</div></details>"
    )


def confidence(shown: Shown, models: Sequence[Model], frames: Sequence[pd.DataFrame]) -> str:
    """Probability of the class that is predicted without a shift, along both axes."""
    if not all(map(len, frames)):
        return ""
    charts = []
    for axis, other, way, at in (
        ("columns", "rows", "to the right", shown.columns),
        ("rows", "columns", "down", shown.rows),
    ):
        lines = []
        for role, model, frame in zip(ROLES, models, frames, strict=True):
            along = frame.query(f"{other} == 0").sort_values(axis)
            said = [
                f"{step:+d} px: {model.label(index)} {sure:.1%}"
                for step, index, sure in zip(
                    along[axis], along["prediction"], along["confidence"], strict=True
                )
            ]
            lines.append(
                Line(
                    role,
                    model.loaded.spec,
                    along[axis].tolist(),
                    along["probability"].tolist(),
                    (~along["steady"]).tolist(),
                    said,
                )
            )
        chart = curves(
            lines,
            title=f"Probability of the unshifted class, moved {way}",
            description="; ".join(
                f"{line.name}: {min(line.y):.1%} to {max(line.y):.1%}" for line in lines
            ),
            x_label=f"pixels {way}",
            y_label="probability of the unshifted class",
            y_range=(0, 1),
            mark=at,
        )
        charts.append(f"<section>{chart}</section>")
    return inert(
        f'<div class="row">{"".join(charts)}</div>'
        '<p class="hint">Rings: another class is predicted there. Dashed: the shift above.</p>'
    )


_CARRIED = (
    "of the movement of the logits under a shift, what the aliasing band carries; left out where "
    "the bands cannot be told apart"
)


def layers(shown: Shown, pairs: Sequence[tuple[Sampling, Sampling]]) -> str:
    """Of each layer that downsamples: its spectra, and the shares that alias, of both models."""
    if not pairs:
        return message(["The layers of these two models lie at no common places."])
    charts = []
    for column, title, what in (
        ("alias_share", "Alias share", "of the energy of the kept samples, what was folded"),
        ("sampled_avr", "Sampled AVR", "of the energy that is sampled, what lies above the cutoff"),
        ("alias_carried", "Carried by aliasing", _CARRIED),
    ):
        rows = {
            a.name: [
                Mark(role, layer.figures[column], text=f"{spec}: {layer.figures[column]:.2%}")
                for role, spec, layer in zip(ROLES, shown.specs, (a, b), strict=True)
                if _known(layer, column)
            ]
            for a, b in pairs
        }
        if not any(rows.values()):
            continue
        heard = "; ".join(f"{name}: {', '.join(m.text for m in row)}" for name, row in rows.items())
        chart = dots(rows, title=f"{title} by layer", description=heard, form=".0%", width=340)
        charts.append(f"<section><h3>{title}</h3><p>{escape(what)}</p>{chart}</section>")
    return inert(
        f'<div class="row">{"".join(charts)}</div><div class="layers">'
        f"{''.join(_spectra(shown, *two) for two in pairs)}</div>"
    )


def _known(layer: Sampling, column: str) -> bool:
    """Whether a figure is known, and to be believed."""
    believed = column != "alias_carried" or layer.figures.get("interaction", math.inf) <= 1
    return believed and math.isfinite(layer.figures.get(column, math.nan))


def _spectra(shown: Shown, a: Sampling, b: Sampling) -> str:
    known = [layer.before for layer in (a, b) if layer.before is not None]
    if not known:
        return ""
    low, high = (
        float(np.percentile(np.concatenate([x.ravel() for x in known]), q)) for q in (2, 99.5)
    )
    figures = []
    for role, spec, layer in zip(ROLES, shown.specs, (a, b), strict=True):
        if layer.before is None or layer.after is None:
            continue
        share = layer.figures["alias_share"]
        box = (1 / layer.stride[0], 1 / layer.stride[1])
        before = heat(
            layer.before,
            title=f"{spec}, {layer.name}: spectrum of what is sampled",
            description=f"The box holds what a stride of {pair(*layer.stride)} can keep.",
            width=140,
            box=box,
            low=low,
            high=high,
        )
        after = heat(
            layer.after,
            title=f"{spec}, {layer.name}: spectrum of the kept samples",
            description=f"{share:.2%} of its energy was folded into it.",
            width=round(140 * box[1]),
            low=low,
            high=high,
        )
        figures.append(
            f'<figure class="spectra {role}"><div>{before}{after}</div>'
            f"<figcaption>{_key(role)} {escape(layer.name)}: {share:.2%} folded</figcaption>"
            "</figure>"
        )
    stride = pair(*a.stride)
    return (
        f'<section class="layer"><h3>{escape(a.name)}, stride {stride}</h3>'
        f'<div class="row">{"".join(figures)}</div></section>'
    )


def links(shown: Shown, record: Mapping[str, Any]) -> str:
    """The link that shows this again, and the numbers as a file."""
    packed = base64.b64encode(json.dumps(record, indent=1).encode()).decode()
    return inert(
        f'<p><a class="share" href="{escape(shown.query)}">Link to what is shown</a> · '
        f'<a class="json" download="aliascope.json" href="data:application/json;base64,{packed}">'
        "Save as JSON</a></p>"
    )


def _heading(role: str, spec: str) -> str:
    return f"<h3>{_key(role)} {escape(spec)}</h3>"


def _key(role: str) -> str:
    letter = "AB"[ROLES.index(role)]
    return f'<span class="key {role}">{letter}</span>'


def _moved(rows: int, columns: int) -> str:
    """A shift in words.

    >>> _moved(-3, 0), _moved(0, 0)
    ('3 px up', 'not shifted')
    """
    words = [
        f"{abs(int(step))} px {there if step > 0 else back}"
        for step, there, back in ((rows, "down", "up"), (columns, "right", "left"))
        if step
    ]
    return ", ".join(words) or "not shifted"


def _png(picture: UInt8[ndarray, "rows columns 3"]) -> str:
    stream = BytesIO()
    if picture.shape[2] == 1:
        picture = picture.repeat(3, axis=2)
    PIL.Image.fromarray(picture).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
