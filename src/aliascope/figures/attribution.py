"""Where along a network its instability arises, grows and fades: models side by side."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from aliascope.figures._style import (
    COLOUR,
    GREY,
    INK,
    LINE,
    MARKER,
    PAGE,
    PALE,
    ROLES,
    sheet,
    styled,
)

_APART = 0.16
"""Between the models' marks of one depth, in depths."""


@styled
def draw(found: Mapping[str, Any], *, caption: str) -> Figure:
    """Equivariance error along the depths, what the aliasing band carries, what a filter would do.

    Args:
        found: model → its `Attribution`; one or two of them.
        caption: Under the figure.
    """
    roles = dict(zip(found, ROLES, strict=False))
    handles = [
        Line2D([], [], color=COLOUR[role], marker=MARKER[role], linewidth=1.2, label=model)
        for model, role in roles.items()
    ]
    handles.append(
        Line2D([], [], color=GREY, linestyle=":", linewidth=1, label="floor: moved exactly")
    )
    note = (
        "Left: before → behind each sampling (thick), mean of its layers. Middle: open marks where "
        "the interaction exceeds 1. Whiskers: 95 % intervals of the mean."
    )
    figure, axes = sheet(PAGE, 2.5, f"{note} {caption}", handles, shape=(1, 3))
    path, carried, doses = axes.flat
    strides = list(dict.fromkeys(x for each in found.values() for x in each.depths["stride"]))
    strides.sort(key=lambda stride: float(stride.partition("×")[0]))
    place: Any = {stride: index for index, stride in enumerate(strides)}
    for number, (model, role) in enumerate(roles.items()):
        shift = _APART * (number - (len(roles) - 1) / 2)
        _draw_path(path, found[model], role, place)
        depths: Any = found[model].depths
        at = depths["stride"].map(place) + shift
        sound = depths["interaction"] <= 1
        _whiskers(carried, at, depths, "alias_carried", role, sound)
        ideal = _ideal(found[model])
        if len(ideal):
            _whiskers(doses, ideal["stride"].map(place) + shift, ideal, "change", role)
    labels = (
        "equivariance error",
        "share of the movement that\nthe aliasing band carries",
        "change of logit instability by an\nideal filter there, untrained",
    )
    for ax, label in zip(axes.flat, labels, strict=True):
        ax.set(xlabel="cumulative stride", ylabel=label, xlim=(-0.6, len(strides) - 0.4))
        ax.set_xticks(range(len(strides)), strides)
        ax.grid(axis="y", color=PALE)
    path.set_ylim(bottom=0)
    for ax in (carried, doses):
        ax.axhline(0, color=INK, linewidth=0.6)
    if not doses.lines[1:] and not doses.collections:
        doses.text(0.5, 0.5, "no filters were tried", transform=doses.transAxes, ha="center")
    return figure


def _draw_path(ax: Any, found: Any, role: str, place: Mapping[str, int]) -> None:
    """The error before and behind each sampling, joined along the network."""
    names = [
        f"{what}_{where}" for what in ("equivariance", "floor") for where in ("before", "behind")
    ]
    means = found.layers.groupby("stride", sort=False)[names].mean()
    means = means.loc[[stride for stride in found.depths["stride"] if stride in means.index]]
    at = np.array([place[stride] for stride in means.index], float)
    ends = np.stack([at - 0.22, at + 0.22], 1)
    errors = means[["equivariance_before", "equivariance_behind"]].to_numpy()
    ax.plot(ends.ravel(), errors.ravel(), color=COLOUR[role], linewidth=0.7)
    for x, y in zip(ends, errors, strict=True):
        ax.plot(x, y, color=COLOUR[role], linewidth=LINE[role] + 0.9, solid_capstyle="butt")
        ax.plot(x[1], y[1], color=COLOUR[role], marker=MARKER[role], markersize=3.2)
    floors = means[["floor_before", "floor_behind"]].to_numpy()
    ax.plot(ends.ravel(), floors.ravel(), color=GREY, linestyle=":", linewidth=1)


def _whiskers(
    ax: Any, at: Any, table: pd.DataFrame, name: str, role: str, filled: Any = None
) -> None:
    """Means with their intervals, open where they are not to be believed."""
    ax.vlines(at, table[f"{name}_low"], table[f"{name}_high"], color=COLOUR[role], linewidth=1)
    for index, x in at.items():
        solid = filled is None or bool(filled[index])
        ax.plot(x, table[name][index], marker=MARKER[role], color=COLOUR[role],
                markerfacecolor=COLOUR[role] if solid else "white")  # fmt: skip


def _ideal(found: Any) -> pd.DataFrame:
    """The doses of whole depths, with their strides."""
    doses = found.doses[found.doses["dose"] == "ideal"]
    strides = found.depths.set_index("layers")["stride"]
    doses = doses[doses["place"].isin(strides.index)]
    return doses.assign(stride=doses["place"].map(strides)).reset_index(drop=True)
