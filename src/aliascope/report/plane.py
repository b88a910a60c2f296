"""Accuracy against stability: where a repair takes a network."""

from collections.abc import Sequence

import pandas as pd

from aliascope.measure.store import Run
from aliascope.report.blocks import Chart
from aliascope.statistics import mean_intervals
from aliascope.study.study import accuracy
from aliascope.svg import Mark, scatter


def charts(points: Sequence[tuple[str, Mark, Mark]], shifts: str) -> list[Chart]:
    """One chart, or none where there is no pair.

    Args:
        points: (name, logit instability, top-1): the original, the repaired one, then a control.
        shifts: how the pictures were moved.
    """
    if len(points) < 2:
        return []
    said = "; ".join(f"{name}: {x.value:.4g}, {y.value:.3f}" for name, x, y in points)
    drawn = scatter(
        points,
        title="top-1 against logit instability",
        description=f"Logit instability, then top-1, of {said}.",
        x_label=f"logit instability, {shifts} shifts",
        y_label="top-1",
        arrows=[(0, 1)],
        width=360,
        height=280,
    )
    caption = (
        "Steadier is to the left, more accurate is up. Whiskers: 95 % intervals of each mean. Both "
        "networks saw the same photographs, so that the difference, in the table, is surer than "
        "they look."
    )
    return [Chart([drawn], caption)]


def marks_of(
    run: Run, role: str, *, class_map: str | None = None, level: float = 0.95
) -> tuple[Mark, Mark]:
    """Logit instability and top-1 of a run, with intervals over photographs.

    Args:
        run: of a classifier.
        role: whose colour they have.
        class_map: see `aliascope.study.study.accuracy`.
        level: coverage of the intervals.
    """
    values = pd.DataFrame(
        {"x": run.images["logit_instability"], "y": accuracy(run.images, class_map)},
        dtype="float64",
    )
    means = mean_intervals(values, run.photographs, level=level).clip(lower=0)
    return Mark(role, *means.loc["x"]), Mark(role, *means.loc["y"].clip(upper=1))
