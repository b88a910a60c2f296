"""Phase 4: does the AVR of a layer say how unstable the prediction is?"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from aliascope.dependence import STATISTICS, depends, explains
from aliascope.figures import (
    fig10_avr_sis_scatter,
    fig11_correlation_comparison,
    fig12_sis_distributions,
)
from aliascope.spectra import AVR_VARIANTS, SAMPLED_VARIANTS
from aliascope.statistics import correlated
from aliascope.study.settings import ANTIALIASED, BASELINE, ROLES
from aliascope.study.study import Study

_TARGETS = ("sis", "logit_instability")
_RUNS = [f"runs/{role}" for role in ROLES]


def compute(study: Study) -> None:
    """phase4_correlation, phase4_dependence."""
    study.require_classifiers()
    variants = SAMPLED_VARIANTS if study.settings.reading == "sampled" else tuple(AVR_VARIANTS)
    values: Any = study.values(variants)
    wide: Any = {role: _wide(study, values[values["role"] == role], variants) for role in ROLES}
    _layers(study, {role: own[study.leading] for role, own in wide.items()})
    _together(study, wide)


def _wide(study: Study, values: pd.DataFrame, variants: tuple[str, ...]) -> pd.DataFrame:
    """Of one model, a row an image: variant and layer in the columns."""
    index = ["image_id", "group", *_TARGETS]
    wide = values.pivot(index=index, columns="layer_name", values=list(variants))
    return wide.reindex(columns=pd.MultiIndex.from_product([variants, study.layers[BASELINE]]))


def _layers(study: Study, wide: dict[str, pd.DataFrame]) -> None:
    table = pd.DataFrame({"layer_name": list(study.layers[BASELINE])})
    found = {role: _correlated(own) for role, own in wide.items()}
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
    dependent = {
        f"{role}_{name}{target}{end}": own[name + end].to_numpy()
        for role, both in found.items()
        for target, own in zip(("", "_logit_instability"), both, strict=True)
        for name in STATISTICS
        for end in ("", "_p", "_p_holm", "_p_bh")
    }
    table = pd.concat([table, pd.DataFrame(dependent)], axis=1)
    caption = (
        f"{study.sample(table)}, {study.shifts[0]} shifts: over images, Pearson's r and Spearman's "
        f"ρ of a layer's {study.leading} with SIS and with logit instability; over photographs, "
        "these two, distance correlation, mutual information and the R² of a small network, with "
        f"p-values of permutations. {study.reading()}"
    )
    study.write_table("phase4_correlation", table, caption, _RUNS)


def _correlated(wide: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of one model, a row a layer: AVR against SIS, and against logit instability."""
    groups = wide.index.get_level_values("group")
    sis, logits = (
        correlated(wide, target, groups).join(
            depends(wide, target, groups).drop(columns=["n", "groups"])
        )
        for target in map(wide.index.get_level_values, _TARGETS)
    )
    return sis, logits


def _together(study: Study, wide: dict[str, pd.DataFrame]) -> None:
    rows = []
    for role, own in wide.items():
        groups = own.index.get_level_values("group")
        images = study.runs[role].images.set_index("image_id")
        given = images.loc[own.index.get_level_values("image_id"), "confidence"]
        for target in _TARGETS:
            with np.errstate(divide="ignore"):  # log 0 is left out as not finite
                y = np.log(own.index.get_level_values(target).to_numpy(float))
            found = explains(own, y, groups, given=given).rename_axis("model").reset_index()
            rows.append(found.assign(role=role, target=f"log {target}"))
    names = {"groups": "photographs", "r2_given": "r2_confidence"}
    table: Any = pd.concat(rows, ignore_index=True).rename(columns=names)
    table = table[["role", "target", *table.columns.drop(["role", "target"])]]
    caption = (
        f"{study.sample(table)}, {study.shifts[0]} shifts: what all layers together explain of the "
        "log of SIS and of logit instability, R² out of sample over photographs, alone and of what "
        f"confidence leaves, with p-values of permutations. {study.reading()}"
    )
    study.write_table("phase4_dependence", table, caption, _RUNS)


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
