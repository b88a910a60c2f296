"""Anti-aliasing methods: stability against cost, and which of them no other one beats."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from aliascope.figures._style import COLOUR, GREY, INK, PAGE, PALE, SMALL, sheet, styled
from aliascope.statistics import pareto

_STAGES = {
    "original": ("D", INK),
    "control": ("D", "white"),
    "zero-shot": ("o", "white"),
    "recalibrated": ("o", None),
}
_LABELS = {
    "latency_ratio": "latency, ratio to the original",
    "instability": "logit instability (less is more stable)",
    "disagreement": "disagreement of the views",
}
_PANELS = (
    ("latency_ratio", "instability"),
    ("latency_ratio", "disagreement"),
    ("error", "instability"),
)
"""What each costs and what it leaves, both better when small."""


@styled
def draw(table: pd.DataFrame, *, model: str, caption: str) -> Figure:
    """Instability against latency, and against what accuracy it costs; Pareto fronts are lines.

    Args:
        table: `Tradeoffs.table`.
        model: What was converted.
        caption: Under the figure.
    """
    table = table.dropna(subset="latency_ratio")
    accuracy = "top1" if np.isfinite(table["top1"].to_numpy(float)).all() else "kept"
    lead = next(name for name in table if str(name).startswith("logit_instability_"))
    shifts = str(lead).rpartition("_")[2]
    own = {f"{lead}{suffix}": f"instability{suffix}" for suffix in ("", "_low", "_high")}
    table = table.rename(columns=own)
    table = table.assign(disagreement=1 - table[f"agreement_{shifts}"], error=1 - table[accuracy])
    labels = _LABELS | {"error": "1 − top-1" if accuracy == "top1" else "predictions that changed"}
    handles = [
        Line2D([], [], marker=marker, linewidth=0, markeredgecolor=INK, label=stage,
               markerfacecolor=COLOUR["baseline"] if face is None else face)
        for stage, (marker, face) in _STAGES.items()
        if stage in set(table["stage"])
    ]  # fmt: skip
    handles.append(Line2D([], [], color=COLOUR["antialiased"], linewidth=1.2, label="Pareto front"))
    note = "Whiskers: 95 % intervals."
    figure, axes = sheet(PAGE, 2.9, f"{model}. {note} {caption}", handles, shape=(1, 3))
    for ax, (cost, name) in zip(axes.flat, _PANELS, strict=True):
        ax.set(xlabel=labels[cost], ylabel=labels[name])
        ax.grid(color=PALE)
        front = table.loc[pareto(table[cost], table[name])].sort_values(by=cost)
        ax.step(front[cost], front[name], where="post", color=COLOUR["antialiased"], zorder=1)
        if name + "_low" in table:
            ax.vlines(table[cost], table[f"{name}_low"], table[f"{name}_high"],
                      color=GREY, linewidth=0.7, zorder=1)  # fmt: skip
        for stage, (marker, face) in _STAGES.items():
            rows = table[table["stage"] == stage]
            colour = COLOUR["baseline"] if face is None else face
            ax.plot(rows[cost], rows[name], marker, markerfacecolor=colour,
                    markeredgecolor=INK, markeredgewidth=0.6)  # fmt: skip
        apart = front.loc[~front[[cost, name]].round(3).duplicated()]
        for row in apart.to_dict(orient="records"):
            ax.annotate(row["method"], (row[cost], row[name]), (3, -3), size=SMALL,
                        textcoords="offset points", va="top")  # fmt: skip
        ax.margins(0.15)
    return figure
