"""Single photographs: what is predicted, and how surely, against the shift."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from aliascope.report.blocks import Cell, Chart, Section, Table, cell
from aliascope.svg import Line, curves

_STEPS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


def section(
    table: pd.DataFrame, roles: Mapping[str, str], shifts: str, pictures: Mapping[str, str]
) -> Section:
    """The curves of each photograph, and its predictions in each direction.

    Args:
        table: rows of `aliascope.measure.shiftmap.shift_curves`, with the column `why`.
        roles: model in that table → its name here; the order is that of drawing.
        shifts: how the pictures were moved.
        pictures: image id → data URI of its thumbnail, of those that are shown.
    """
    table = table.astype({"image_id": str, "name": object}).fillna({"name": ""})
    order = {f"moves most in {letter}": i for i, letter in enumerate("AB")}
    table = table.sort_values(by="why", key=lambda why: why.map(order).fillna(2), kind="stable")
    charts, rows = [], []
    for image_id, own in table.groupby("image_id", sort=False):
        why = _named(str(own["why"].iloc[0]), roles)
        drawn = [_curve(own, axis, roles, f"{image_id}: {why}") for axis in ("columns", "rows")]
        charts.append(Chart(drawn, f"{image_id}: {why}", pictures.get(str(image_id), "")))
        rows += [
            [cell(str(image_id)), cell(name), *_answers(own, role)] for role, name in roles.items()
        ]
    header = ["photograph", "model", "unshifted", *_STEPS, "same prediction, all shifts"]
    farthest = int(table[["rows", "columns"]].abs().to_numpy().max(initial=0))
    how = "circular" if shifts == "circular" else "crop"  # native ones are less than a pixel
    text = (
        f"The probability of the class that a model predicts without a shift, while the photograph "
        f"moves by up to {farthest} of the network's pixels ({how} shifts). A ring is another "
        "prediction. Shown are the photographs that move most in either model, and those that move "
        "least in the first: not a sample of all."
    )
    return Section("Single photographs", text, charts, [Table("shift_curves", header, rows)])


def _named(why: str, roles: Mapping[str, str]) -> str:
    """What `telling` says, with the names of the models in place of A and B."""
    for letter, name in zip("AB", roles.values(), strict=False):
        why = why.removesuffix(f" {letter}") + f" {name}" if why.endswith(f" {letter}") else why
    return why


def _curve(own: pd.DataFrame, axis: str, roles: Mapping[str, str], title: str) -> str:
    lines = []
    other = "rows" if axis == "columns" else "columns"
    for (role, name), colour in zip(roles.items(), ("baseline", "antialiased"), strict=False):
        rows: Any = own[(own["model"] == role) & (own[other] == 0)]
        rows = rows.sort_values(axis)
        texts = [
            f"{name}, {row[axis]:+d} px: {row['name'] or 'class ' + str(row['prediction'])}, "
            f"{row['confidence']:.2f}"
            for row in rows.to_dict("records")
        ]
        hollow = (~rows["steady"].astype(bool)).tolist()
        x, y = rows[axis].tolist(), rows["probability"].tolist()
        lines.append(Line(colour, name, x, y, hollow, texts))
    flips = ", ".join(f"{x.name} flips at {sum(x.hollow)} of {len(x.x)} shifts" for x in lines)
    return curves(
        lines,
        title=title,
        description=f"{flips}.",
        x_label=f"moved {'right' if axis == 'columns' else 'down'} (pixels)",
        y_label="probability",
        y_range=(0.0, float(own["probability"].to_numpy().max())),
        width=320,
        height=190,
    )


def _answers(own: pd.DataFrame, role: str) -> list[Cell]:
    rows: Any = own[own["model"] == role].set_index(["rows", "columns"])
    found = []
    for place in ((0, 0), *_STEPS.values()):
        row = rows.loc[[place]].iloc[0] if place in rows.index else None
        name = "–" if row is None else row["name"] or f"class {row['prediction']}"
        found.append(cell(name if row is None else f"{name} ({row['confidence']:.2f})"))
    return [*found, cell(float(rows["steady"].mean()), ".0%")]
