"""Phase 2: pictures of known frequency: where energy counts as aliased, and where it folds to."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from aliascope.batch import Instrument
from aliascope.figures import (
    fig4_avr_vs_frequency,
    fig5_layerwise_avr_comparison,
    fig6_aliasing_folding,
)
from aliascope.records import StridedLayer
from aliascope.spectra import power_spectrum
from aliascope.study.presets import ANTIALIASED, BASELINE, ROLES
from aliascope.study.study import Study
from aliascope.synthetic import checkerboard, sinusoid
from aliascope.taps import tap

TONE = 0.7
"""Frequency of the tone that folds, between the cutoff ½ of stride 2 and Nyquist."""
_BATCH = 8


def compute(study: Study) -> None:
    """Both tables of the phase, and the spectra of what folds."""
    first = study.instruments[BASELINE].layers[0]
    frequencies = np.linspace(0.1, 0.9, study.plan.sweep)
    sweep = []
    for start in range(0, len(frequencies), _BATCH):
        part = frequencies[start : start + _BATCH]
        x = torch.cat([_input(study, sinusoid(_side(study), f)) for f in part.tolist()])
        ratios, _ = study.spectra(BASELINE, x)[first.name]
        columns = {"frequency": part, "avr": ratios["avr"], "avr_box": ratios["avr_box"]}
        sweep.append(pd.DataFrame(columns | {"cutoff": 1 / first.stride[1]}))
    study.write_table("phase2a_frequency_sweep", pd.concat(sweep))

    board = _input(study, checkerboard(_side(study)))
    avr = {role: study.spectra(role, board) for role in ROLES}
    rows = []
    for name, partner in study.pairs.items():
        before, after = (
            avr[role][layer][0]["avr"].item()
            for role, layer in ((BASELINE, name), (ANTIALIASED, partner))
        )
        rows.append((name, before, after, after - before, partner))
    columns = ["layer_name", "baseline_avr", "antialiased_avr", "difference", "antialiased_layer"]
    table = pd.DataFrame(rows, columns=columns)
    study.write_table("phase2b_architecture_comparison", table)

    study.keep_rows("phase2_folding", lambda: pd.concat(_folding(study)))


def draw(study: Study) -> Iterator[tuple[str, Figure]]:
    """The three figures of the phase, by name."""
    plan, size = study.plan, "sinusoids along the columns"
    sweep = study.table("phase2a_frequency_sweep")
    yield (
        "fig4_avr_vs_frequency",
        fig4_avr_vs_frequency.draw(
            sweep, caption=f"{plan.baseline}, first strided layer: {len(sweep)} {size}."
        ),
    )
    yield (
        "fig5_layerwise_avr_comparison",
        fig5_layerwise_avr_comparison.draw(
            study.table("phase2b_architecture_comparison"),
            names=study.names,
            caption="A checkerboard of ±1 as the normalised input, one forward.",
        ),
    )
    yield (
        "fig6_aliasing_folding",
        fig6_aliasing_folding.draw(
            study.rows("phase2_folding"),
            names=study.names,
            caption=f"What the first strided layer reads and what comes out of it, for a tone at "
            f"{TONE} of Nyquist and for the first image of {plan.images}. Power along the columns, "
            "summed over rows, mean over channels.",
        ),
    )


def _side(study: Study) -> int:
    return max(study.preprocessing.crop)


def _input(study: Study, picture: Tensor) -> Tensor:
    """As a network takes it, (1, 3, H, W), not normalised."""
    height, width = study.preprocessing.crop
    return picture[None, :, :height, :width].expand(1, 3, -1, -1)


def _folding(study: Study) -> Iterator[pd.DataFrame]:
    _, photograph = next(study.views(1))
    signals = {"tone": _input(study, sinusoid(_side(study), TONE)), "photograph": photograph}
    for role in ROLES:
        instrument = study.instruments[role]
        first = instrument.layers[0]
        step = first.stride[1]
        tone = TONE * first.cumulative_stride[1] / step  # on the grid that the layer reads
        for signal, x in signals.items():
            before, after = _around(instrument, first, x)
            for where, map_, scale in (("before", before, 1), ("after", after, 1 / step)):
                frequency, power = _columns(map_)
                yield pd.DataFrame(
                    {
                        "role": role,
                        "signal": signal,
                        "where": where,
                        "frequency": frequency * scale,
                        "power": power,
                        "cutoff": 1 / step,
                        "tone": tone if signal == "tone" else np.nan,
                        "layer_name": first.name,
                    }
                )


@torch.inference_mode()
def _around(instrument: Instrument, layer: StridedLayer, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer reads and what comes out of it."""
    module = instrument.module
    with tap(module, [layer]) as before, tap(module, [layer], of="output") as after:
        module(x.to(instrument.device))
    return before.inputs[layer.name], after.outputs[layer.name]


def _columns(map_: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """One-sided spectrum along the columns: frequency (1 = Nyquist) and share of the energy."""
    power = power_spectrum(map_[0]).double().sum((0, 1)).cpu().numpy()  # (W,)
    frequency = np.abs(np.fft.fftshift(np.fft.fftfreq(len(power))) * 2).round(9)
    known, place = np.unique(frequency, return_inverse=True)
    return known, np.bincount(place, power) / power.sum()
