"""Phase 1: what the strided layers of the baseline read of a photograph and of known pictures."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from aliascope.figures import avr_comparison, fig1_layerwise_power_spectra, fig2_radial_profiles
from aliascope.results.text import pair
from aliascope.spectra import radial_profile
from aliascope.study.settings import BASELINE
from aliascope.study.study import Study
from aliascope.study.synthetic import checkerboard, constant


def compute(study: Study) -> None:
    """phase1_layerwise_avr, and the spectra behind it."""
    inputs = _inputs(study)
    ratios = {name: study.ratios(BASELINE, x) for name, x in inputs.items()}
    layers = study.instruments[BASELINE].layers
    rows = []
    for layer in layers:
        channels, height, width = layer.input_shape
        rows.append(
            {"layer_name": layer.name}
            | {f"{name}_avr": ratios[name][layer.name]["avr"].item() for name in inputs}
            | {"order": layer.order, "kind": layer.kind, "stride": pair(*layer.stride)}
            | {"channels": channels, "rows": height, "columns": width}
            | {
                f"{name}_{variant}": ratio.item()
                for name in inputs
                for variant, ratio in ratios[name][layer.name].items()
                if variant != "avr"
            }
        )
    caption = (
        f"{study.settings.baseline}, one forward each of a photograph, a checkerboard and a "
        "constant: figures of what each layer reads (avr, …), of what it decimates (sampled_…), "
        "and the part of what is kept that was folded (alias_share)."
    )
    study.write_table("phase1_layerwise_avr", pd.DataFrame(rows), caption, [])
    seen = {name: study.powers(BASELINE, x, "read") for name, x in inputs.items()}
    powers = {
        f"{name}/{layer.name}": seen[name][layer.name][0] for name in inputs for layer in layers
    }
    study.keep_arrays("phase1_power", lambda: {key: power.numpy() for key, power in powers.items()})
    profiles = []
    for key, power in powers.items():
        name, _, layer_name = key.partition("/")
        frequency, energy = radial_profile(power.double())
        (stride,) = (min(layer.stride) for layer in layers if layer.name == layer_name)
        profiles.append(
            pd.DataFrame(
                {
                    "input": name,
                    "layer_name": layer_name,
                    "frequency": frequency,
                    "energy": energy / energy.sum(),
                    "cutoff": 1 / stride,
                }
            )
        )
    study.keep_rows("phase1_radial_profiles", lambda: pd.concat(profiles))


def draw(study: Study) -> Iterator[tuple[str, Figure]]:
    """The three figures of the phase, by name."""
    settings, table = study.settings, "phase1_layerwise_avr"
    what = f"{settings.baseline}, one forward each: the first image of {settings.images}, "
    what += "a checkerboard of ±1 and a constant, both as the normalised input."
    yield (
        "fig1_layerwise_power_spectra",
        fig1_layerwise_power_spectra.draw(
            study.arrays("phase1_power"),
            study.table(table),
            caption=f"{what} Power spectra of what each layer reads, mean over channels.",
        ),
    )
    what += " Of what each layer reads."
    yield (
        "fig2_radial_profiles",
        fig2_radial_profiles.draw(study.rows("phase1_radial_profiles"), caption=what),
    )
    yield "avr_comparison", avr_comparison.draw(study.table(table), caption=what)


def _inputs(study: Study) -> dict[str, Tensor]:
    """As the network takes them; the synthetic ones, ±1 and ½, are not normalised."""
    _, natural = next(study.views(1))
    side = max(study.preprocessing.crop)
    return {
        "natural": natural,
        "checkerboard": study.synthetic(checkerboard(side)),
        "constant": study.synthetic(constant(side)),
    }
