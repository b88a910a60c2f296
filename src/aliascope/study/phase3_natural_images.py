"""Phase 3: how much each layer of both models aliases on natural images."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from aliascope.figures import (
    fig7_layerwise_mean_avr,
    fig8_avr_distributions,
    fig9_radial_profiles_natural,
)
from aliascope.spectra import radial_profile
from aliascope.statistics import mean_intervals
from aliascope.study.presets import ANTIALIASED, BASELINE, ROLES
from aliascope.study.study import Study

PROFILED = 64
"""Images whose radial profiles are averaged; the ratios are of all of them."""


def compute(study: Study) -> None:
    """phase3_layerwise_avr_stats, and the mean radial profiles."""
    study.write_table("phase3_layerwise_avr_stats", _statistics(study))
    study.keep_rows("phase3_radial_profiles", lambda: _profiles(study))


def draw(study: Study) -> Iterator[tuple[str, Figure]]:
    """The three figures of the phase, by name."""
    table = study.table("phase3_layerwise_avr_stats")
    profiles = study.rows("phase3_radial_profiles")
    sample = study.sample(table)
    yield (
        "fig7_layerwise_mean_avr",
        fig7_layerwise_mean_avr.draw(
            table.query("variant == 'avr'"),
            names=study.names,
            caption=f"{sample}.",
        ),
    )
    yield (
        "fig8_avr_distributions",
        fig8_avr_distributions.draw(
            study.values(),
            names=study.names,
            caption=f"{sample}.",
        ),
    )
    yield (
        "fig9_radial_profiles_natural",
        fig9_radial_profiles_natural.draw(
            profiles, names=study.names, caption=profile_caption(study, profiles)
        ),
    )


def profile_caption(study: Study, profiles: pd.DataFrame) -> str:
    """What the radial profiles are of."""
    return f"{study.sample(profiles)}; rings of one DFT bin."


def _statistics(study: Study) -> pd.DataFrame:
    found = study.comparison.layers
    table = found.rename(
        columns={
            "layer_a": "layer_name",
            "layer_b": "antialiased_layer",
            "metric": "variant",
            "groups": "photographs",
            "mean_a": "baseline_mean",
            "sd_a": "baseline_std",
            "mean_b": "antialiased_mean",
            "sd_b": "antialiased_std",
            "p_two_sample": "p_value",
            "low": "difference_low",
            "high": "difference_high",
            "t": "t_paired",
            "p": "p_paired",
        }
    )
    # The published sign: baseline − antialiased; adding 0 makes −0 a 0.
    table["t_statistic"] = 0.0 - table["t_two_sample"]
    for role, means in _means(study).items():
        keys = list(zip(table["variant"], table["layer_name"], strict=True))
        table[[f"{role}_low", f"{role}_high"]] = means.loc[keys, ["low", "high"]].to_numpy()
    columns = ["layer_name", "baseline_mean", "baseline_std", "antialiased_mean", "antialiased_std"]
    columns += ["t_statistic", "p_value", "variant", "antialiased_layer", "n", "photographs"]
    columns += ["baseline_low", "baseline_high", "antialiased_low", "antialiased_high"]
    columns += ["difference", "difference_low", "difference_high"]
    columns += ["t_paired", "p_paired", "p_holm", "d_z", "p_wilcoxon"]
    return table.reindex(columns=columns)


def _means(study: Study) -> dict[str, pd.DataFrame]:
    """Role → value, low, high by (variant, the baseline's name of the layer)."""
    variants = list(dict.fromkeys(study.comparison.layers["metric"]))
    values = study.values(variants)
    means = {}
    for role in ROLES:
        own = values.query(f"role == {role!r}")
        wide = own.pivot(index=["image_id", "group"], columns="layer_name", values=variants)
        groups = wide.index.get_level_values("group")
        means[role] = mean_intervals(wide, groups)
    return means


def _profiles(study: Study) -> pd.DataFrame:
    names = {BASELINE: {name: name for name in study.pairs}}
    names[ANTIALIASED] = {partner: name for name, partner in study.pairs.items()}
    energies: dict[tuple[str, str], dict[str, Any]] = {}
    groups = []
    for group, x in study.views(PROFILED):
        groups.append(group)
        for role in ROLES:
            for layer, (_, power) in study.spectra(role, x).items():
                if layer in names[role]:
                    frequency, energy = radial_profile(power[0].double())
                    kept = energies.setdefault((role, names[role][layer]), {"energy": []})
                    kept["frequency"] = frequency.numpy()
                    kept["energy"].append((energy / energy.sum()).numpy())
    strides = {layer.name: min(layer.stride) for layer in study.instruments[BASELINE].layers}
    frames = []
    for role in ROLES:
        for name in study.pairs:
            kept = energies[role, name]
            means = mean_intervals(pd.DataFrame(kept["energy"]), groups)
            frames.append(
                pd.DataFrame(
                    {
                        "role": role,
                        "layer_name": name,
                        "frequency": kept["frequency"],
                        "energy": means["value"],
                        "low": means["low"],
                        "high": means["high"],
                        "n": len(groups),
                        "photographs": len(set(groups)),
                        "cutoff": 1 / strides[name],
                    }
                )
            )
    return pd.concat(frames)
