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
from aliascope.study.presets import BASELINE, ROLES
from aliascope.study.study import Study


def compute(study: Study) -> None:
    """phase4_correlation."""
    study.require_classifiers()
    values = study.values()
    table = pd.DataFrame(study.pairs.items(), columns=["layer_name", "antialiased_layer"])
    found = {role: _correlated(study, values.query(f"role == {role!r}")) for role in ROLES}
    for role, (sis, _) in found.items():
        table[f"{role}_r"], table[f"{role}_p"] = sis["r"].to_numpy(), sis["p"].to_numpy()
    sis, _ = found[BASELINE]
    table["antialiased_layer"] = table.pop("antialiased_layer")
    table["n"], table["photographs"] = sis["n"].to_numpy(), sis["groups"].to_numpy()
    for role, (sis, logits) in found.items():
        for name in ("r_low", "r_high", "p_holm", "rho", "rho_p", "rho_p_holm"):
            table[f"{role}_{name}"] = sis[name].to_numpy()
        table[f"{role}_rho_logit_instability"] = logits["rho"].to_numpy()
        table[f"{role}_rho_logit_instability_p"] = logits["rho_p"].to_numpy()
    study.write_table("phase4_correlation", table)


def _correlated(study: Study, values: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of one model, a row a layer: AVR against SIS, and against logit instability."""
    index = ["image_id", "group", "sis", "logit_instability"]
    wide = values.pivot(index=index, columns="layer_name", values="avr")
    wide = wide.reindex(columns=list(study.pairs))
    groups = wide.index.get_level_values("group")
    sis, logits = (
        correlated(wide, wide.index.get_level_values(name), groups)
        for name in ("sis", "logit_instability")
    )
    return sis, logits


def draw(study: Study) -> Iterator[tuple[str, Figure]]:
    """The three figures of the phase, by name."""
    table, names = study.table("phase4_correlation"), study.names
    sample = study.sample(table)
    yield (
        "fig10_avr_sis_scatter",
        fig10_avr_sis_scatter.draw(
            study.values(),
            table,
            names=names,
            caption=f"{sample}, a point an image.",
        ),
    )
    yield (
        "fig11_correlation_comparison",
        fig11_correlation_comparison.draw(
            table,
            names=names,
            caption=f"{sample}.",
        ),
    )
    yield (
        "fig12_sis_distributions",
        fig12_sis_distributions.draw(study.joined_images(), names=names, caption=f"{sample}."),
    )
