"""Phase 4: does the AVR of a layer say how unstable the prediction is?"""

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from aliascope.figures import (
    fig10_avr_sis_scatter,
    fig11_correlation_comparison,
    fig12_sis_distributions,
)
from aliascope.statistics import correlated
from aliascope.study.settings import ANTIALIASED, BASELINE, ROLES
from aliascope.study.study import Study


def compute(study: Study) -> None:
    """phase4_correlation."""
    study.require_classifiers()
    values = study.values([study.leading])
    table = pd.DataFrame({"layer_name": list(study.layers[BASELINE])})
    found = {role: _correlated(study, values.query(f"role == {role!r}")) for role in ROLES}
    for role, (sis, _) in found.items():
        table[f"{role}_r"], table[f"{role}_p"] = sis["r"].to_numpy(), sis["p"].to_numpy()
    sis, _ = found[BASELINE]
    table["antialiased_layer"] = list(study.layers[ANTIALIASED].values())
    table["variant"] = study.leading
    table["n"], table["photographs"] = sis["n"].to_numpy(), sis["groups"].to_numpy()
    for role, (sis, logits) in found.items():
        for name in ("r_low", "r_high", "p_holm", "rho", "rho_p", "rho_p_holm"):
            table[f"{role}_{name}"] = sis[name].to_numpy()
        for name, end in (("r", ""), ("r", "_low"), ("r", "_high"), ("rho", ""), ("rho", "_p")):
            table[f"{role}_{name}_logit_instability{end}"] = logits[name + end].to_numpy()
    caption = (
        f"{study.sample(table)}, {study.shifts[0]} shifts: over images, Pearson's r and Spearman's "
        f"ρ of a layer's {study.leading} with SIS and with logit instability. {study.reading()}"
    )
    runs = [f"runs/{role}" for role in ROLES]
    study.write_table("phase4_correlation", table, caption, runs)


def _correlated(study: Study, values: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of one model, a row a layer: AVR against SIS, and against logit instability."""
    index = ["image_id", "group", "sis", "logit_instability"]
    wide = values.pivot(index=index, columns="layer_name", values=study.leading)
    wide = wide.reindex(columns=list(study.layers[BASELINE]))
    groups = wide.index.get_level_values("group")
    sis, logits = (
        correlated(wide, wide.index.get_level_values(name), groups)
        for name in ("sis", "logit_instability")
    )
    return sis, logits


def draw(study: Study) -> Iterator[tuple[str, Figure]]:
    """The three figures of the phase, by name."""
    table, names = study.table("phase4_correlation"), study.names
    shifts = study.stored_runs()[BASELINE].config["border"]
    sample = f"{study.sample(table)}, {shifts} shifts"
    values = study.values([study.leading]).rename(columns={study.leading: "avr"})
    yield (
        "fig10_avr_sis_scatter",
        fig10_avr_sis_scatter.draw(
            values,
            table,
            names=names,
            caption=f"{sample}, a point an image. {study.reading()}",
        ),
    )
    yield (
        "fig11_correlation_comparison",
        fig11_correlation_comparison.draw(
            study.table("phase4_correlation"), names=names, caption=f"{sample}. {study.reading()}"
        ),
    )
    yield (
        "fig12_sis_distributions",
        fig12_sis_distributions.draw(study.joined_images(), names=names, caption=f"{sample}."),
    )
