"""Phase 3: how much each layer of all models aliases on natural images."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from aliascope.figures import (
    fig7_layerwise_mean_avr,
    fig8_avr_distributions,
    fig9_radial_profiles_natural,
)
from aliascope.spectra import radial_profile
from aliascope.statistics import mean_intervals
from aliascope.study.settings import ANTIALIASED, BASELINE, CONTROL, ROLES
from aliascope.study.study import Study

PROFILED = 64
"""Images whose radial profiles are averaged; the ratios are of all of them."""
_PUBLISHED: dict[Any, str] = {
    "layer_a": "layer_name",
    "mean_a": "baseline_mean",
    "sd_a": "baseline_std",
    "mean_b": "antialiased_mean",
    "sd_b": "antialiased_std",
    "t_statistic": "t_statistic",
    "p_two_sample": "p_value",
    "metric": "variant",
    "layer_b": "antialiased_layer",
    "n": "n",
    "groups": "photographs",
}
"""Columns of `Comparison.layers` → those of the table that come first, the published ones above."""
_TESTS: dict[Any, str] = {
    "difference": "difference",
    "low": "difference_low",
    "high": "difference_high",
}
_TESTS |= {"t": "t_paired", "p": "p_paired", "p_holm": "p_holm"}
_TESTS |= {"d_z": "d_z", "p_wilcoxon": "p_wilcoxon"}
_CONTROL: dict[Any, str] = {
    "layer_b": "control_layer",
    "mean_b": "control_mean",
    "sd_b": "control_std",
    "difference": "control_difference",
    "low": "control_difference_low",
    "high": "control_difference_high",
    "p_holm": "control_p_holm",
}


def compute(study: Study) -> None:
    """phase3_layerwise_avr_stats, and the mean radial profiles."""
    table = _statistics(study)
    beside = ", beside a control in which nothing was done" if CONTROL in study.roles else ""
    caption = (
        f"{study.sample(table)}: figures of each layer of both models{beside}. sampled_… and "
        "alias_share are of what is decimated, avr_… of what the operation reads, as published; "
        "where that lies at different places there is no test."
    )
    study.write_table("phase3_layerwise_avr_stats", table, caption, study.run_names())
    study.keep_rows("phase3_radial_profiles", lambda: _profiles(study))


def draw(study: Study) -> Iterator[tuple[str, Figure]]:
    """The three figures of the phase, by name."""
    table = study.table("phase3_layerwise_avr_stats")
    text = f"{study.sample(table)}. {study.reading()}"
    yield (
        "fig7_layerwise_mean_avr",
        fig7_layerwise_mean_avr.draw(shown(study, table), names=study.names, caption=text),
    )
    values = study.values([study.leading]).rename(columns={study.leading: "avr"})
    yield (
        "fig8_avr_distributions",
        fig8_avr_distributions.draw(
            values.assign(variant=study.leading), names=study.names, caption=text
        ),
    )
    profiles = study.rows("phase3_radial_profiles")
    yield (
        "fig9_radial_profiles_natural",
        fig9_radial_profiles_natural.draw(
            profiles, names=study.names, caption=profile_caption(study, profiles)
        ),
    )


def shown(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """The rows that figures show: of the sampled reading the alias share beside the AVR."""
    shares = ["alias_share"] if study.settings.reading == "sampled" else []
    return study.led(table, study.leading, *shares)


def profile_caption(study: Study, profiles: pd.DataFrame) -> str:
    """What the radial profiles are of."""
    return f"{study.sample(profiles)}; rings of one DFT bin. {study.reading()}"


def _statistics(study: Study) -> pd.DataFrame:
    found = study.comparisons[ANTIALIASED].layers
    # The published sign: baseline − antialiased; adding 0 makes −0 a 0.
    found = found.assign(t_statistic=0.0 - found["t_two_sample"])
    table = found.reindex(columns=[*_PUBLISHED, *_TESTS]).rename(columns=_PUBLISHED | _TESTS)
    if CONTROL in study.roles:
        control = study.comparisons[CONTROL].layers
        control = control.reindex(columns=["metric", "layer_a", *_CONTROL]).rename(columns=_CONTROL)
        control = control.rename(columns={"metric": "variant", "layer_a": "layer_name"})
        table = table.merge(control, "left", on=["variant", "layer_name"])
    variants = list(dict.fromkeys(table["variant"]))
    for role, means in _means(study, variants).items():
        rows = list(zip(table["variant"], table["layer_name"], strict=True))
        table[[f"{role}_low", f"{role}_high"]] = means.loc[rows, ["low", "high"]].to_numpy()
    sampled = study.settings.reading == "sampled"
    lead = [name for name in variants if name.startswith("avr") != sampled]
    return study.led(table, *lead, *(name for name in variants if name not in lead))


def _means(study: Study, variants: list[str]) -> dict[str, pd.DataFrame]:
    """Role → value, low, high by (variant, the baseline's name of the layer)."""
    values = study.values(variants)
    means = {}
    for role in study.roles:
        own = values[values["role"] == role]
        wide = own.pivot(index=["image_id", "group"], columns="layer_name", values=variants)
        own = mean_intervals(wide, wide.index.get_level_values("group"))
        means[role] = own.clip(lower=0)
    return means


def _profiles(study: Study) -> pd.DataFrame:
    energies: dict[tuple[str, str], dict[str, Any]] = {}
    groups = []
    for group, x in study.views(PROFILED):
        groups.append(group)
        for role in ROLES:
            powers = study.powers(role, x, study.settings.reading)
            for name, layer in study.layers[role].items():
                frequency, energy = radial_profile(powers[layer][0].double())
                kept = energies.setdefault((role, name), {"energy": [], "power": []})
                kept["frequency"] = frequency.numpy()
                kept["energy"].append((energy / energy.sum()).numpy())
                kept["power"].append(_binned(powers[layer]))
    study.keep_arrays(
        "phase3_spectra",
        lambda: {f"{role}/{name}": np.mean(x["power"], 0) for (role, name), x in energies.items()},
    )
    strides = {layer.name: min(layer.stride) for layer in study.instruments[BASELINE].layers}
    frames = []
    for (role, name), kept in energies.items():
        means = mean_intervals(pd.DataFrame(kept["energy"]), groups)
        columns = {"role": role, "layer_name": name, "frequency": kept["frequency"]}
        columns |= {"energy": means["value"], "low": means["low"], "high": means["high"]}
        columns |= {"n": len(groups), "photographs": len(set(groups))}
        frames.append(pd.DataFrame(columns | {"cutoff": 1 / strides[name]}))
    return pd.concat(frames)


def _binned(power: Tensor) -> np.ndarray:
    """The share of the energy in each of at most 32 × 32 equal bins, its mean where they split."""
    share = power.double() / power.double().sum()
    rows, columns = share.shape[-2:]
    return adaptive_avg_pool2d(share, (min(rows, 32), min(columns, 32)))[0].numpy()
