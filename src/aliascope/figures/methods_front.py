"""Anti-aliasing methods: stability against cost, and which of them no other one beats."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from aliascope.figures._style import COLOUR, GREY, INK, PAGE, PALE, SMALL, sheet, styled
from aliascope.statistics import pareto

_STAGES = {"original": ("D", INK), "zero-shot": ("o", "white"), "recalibrated": ("o", None)}
_PANELS = {
    "logit_instability": "logit instability (less is more stable)",
    "disagreement": "disagreement under crop shifts",
    "error": "predictions that change or are wrong",
}


@styled
def draw(table: pd.DataFrame, *, model: str, caption: str) -> Figure:
    """A panel a quantity that should be small, against latency; the Pareto front is a line.

    Args:
        table: `Methods.table`.
        model: What was converted.
        caption: Under the figure.
    """
    table = table.dropna(subset="latency_ratio")
    accuracy = "top1" if np.isfinite(table["top1"].to_numpy(float)).all() else "kept"
    table = table.assign(disagreement=1 - table["agreement_crop"], error=1 - table[accuracy])
    labels = _PANELS | {"error": "1 − top-1" if accuracy == "top1" else "predictions that changed"}
    handles = [
        Line2D([], [], marker=marker, linewidth=0, markeredgecolor=INK, label=stage,
               markerfacecolor=COLOUR["baseline"] if face is None else face)
        for stage, (marker, face) in _STAGES.items()
        if stage in set(table["stage"])
    ]  # fmt: skip
    handles.append(Line2D([], [], color=COLOUR["antialiased"], linewidth=1.2, label="Pareto front"))
    note = "Whiskers: 95 % bootstrap intervals (left)."
    figure, axes = sheet(PAGE, 2.9, f"{model}. {note} {caption}", handles, shape=(1, 3))
    for ax, (name, label) in zip(axes.flat, labels.items(), strict=True):
        ax.set(xlabel="latency, ratio to the original", ylabel=label)
        ax.grid(color=PALE)
        front = table.loc[pareto(table["latency_ratio"], table[name])]
        best = front.sort_values(by="latency_ratio")
        ax.step(
            best["latency_ratio"], best[name], where="post", color=COLOUR["antialiased"], zorder=1
        )
        if name + "_low" in table:
            ax.vlines(table["latency_ratio"], table[f"{name}_low"], table[f"{name}_high"],
                      color=GREY, linewidth=0.7, zorder=1)  # fmt: skip
        for stage, (marker, face) in _STAGES.items():
            rows = table[table["stage"] == stage]
            colour = COLOUR["baseline"] if face is None else face
            ax.plot(rows["latency_ratio"], rows[name], marker, markerfacecolor=colour,
                    markeredgecolor=INK, markeredgewidth=0.6)  # fmt: skip
        for row in front.to_dict(orient="records"):
            ax.annotate(row["method"], (row["latency_ratio"], row[name]), (3, -3), size=SMALL,
                        textcoords="offset points", va="top")  # fmt: skip
        ax.margins(0.15)
    return figure
