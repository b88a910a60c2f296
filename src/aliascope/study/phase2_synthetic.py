"""Phase 2: pictures of known frequency: where energy counts as aliased, and where it folds to."""

from collections.abc import Iterator
from functools import cache

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from aliascope.figures import (
    fig4_avr_vs_frequency,
    fig5_layerwise_avr_comparison,
    fig6_aliasing_folding,
)
from aliascope.spectra import power_spectrum
from aliascope.study.settings import ANTIALIASED, BASELINE, ROLES
from aliascope.study.study import Study, mean_power
from aliascope.study.synthetic import checkerboard, sinusoid
from aliascope.taps import tap

TONE = 0.7
"""Frequency of the tone that folds, between the cutoff ½ of stride 2 and Nyquist."""
_BATCH = 8


def compute(study: Study) -> None:
    """Both tables of the phase, and the spectra of what folds."""
    sweep = pd.concat(_sweep(study))
    caption = (
        f"{study.settings.baseline}: AVR of what the first strided layer reads, of a sinusoid "
        "along the columns of each frequency (1 = Nyquist)."
    )
    study.write_table("phase2a_frequency_sweep", sweep, caption, [])
    caption = f"A checkerboard of ±1 as the normalised input: AVR in each layer. {study.reading()}"
    study.write_table("phase2b_architecture_comparison", _checkerboard(study), caption, [])
    signals = _signals(study)
    around = cache(lambda role, signal: _around(study, role, signals[signal]))
    study.keep_rows(
        "phase2_folding",
        lambda: pd.concat(_folding(study, r, s, around(r, s)) for r in ROLES for s in signals),
    )
    study.keep_arrays(
        "phase2_spectra",
        lambda: {
            f"{role}/{where}": mean_power(map_, 1)[0].numpy()
            for role in ROLES
            for where, map_ in around(role, "photograph").items()
        },
    )


def draw(study: Study) -> Iterator[tuple[str, Figure]]:
    """The three figures of the phase, by name."""
    settings, sweep = study.settings, study.table("phase2a_frequency_sweep")
    yield (
        "fig4_avr_vs_frequency",
        fig4_avr_vs_frequency.draw(
            sweep,
            caption=f"{settings.baseline}, first strided layer: {len(sweep)} sinusoids along the "
            "columns. Of what the layer reads.",
        ),
    )
    yield (
        "fig5_layerwise_avr_comparison",
        fig5_layerwise_avr_comparison.draw(
            study.led(study.table("phase2b_architecture_comparison")),
            names=study.names,
            caption=f"A checkerboard of ±1 as the normalised input, one forward. {study.reading()}",
        ),
    )
    maps = "What the first strided layer decimates and what is kept of it"
    if settings.reading == "read":
        maps = "What the first strided layer reads and what comes out of it"
    yield (
        "fig6_aliasing_folding",
        fig6_aliasing_folding.draw(
            study.rows("phase2_folding"),
            study.arrays("phase2_spectra"),
            names=study.names,
            caption=f"{maps}, for a tone at {TONE} of Nyquist and for the first image of "
            f"{settings.images}; mean over channels. Lines: power along the columns, summed over "
            "rows. Below: power spectra of the photograph.",
        ),
    )


def _side(study: Study) -> int:
    return max(study.preprocessing.crop)


def _sweep(study: Study) -> Iterator[pd.DataFrame]:
    first = study.instruments[BASELINE].layers[0]
    frequencies = np.linspace(0.1, 0.9, study.settings.sweep)
    for start in range(0, len(frequencies), _BATCH):
        part = frequencies[start : start + _BATCH]
        x = torch.cat([study.synthetic(sinusoid(_side(study), f)) for f in part.tolist()])
        ratios = study.ratios(BASELINE, x)[first.name]
        columns = {"frequency": part, "avr": ratios["avr"], "avr_box": ratios["avr_box"]}
        yield pd.DataFrame(columns | {"cutoff": 1 / first.stride[1]})


def _checkerboard(study: Study) -> pd.DataFrame:
    """A row a variant and layer, the leading variant first."""
    board = study.synthetic(checkerboard(_side(study)))
    found = {role: study.ratios(role, board) for role in study.roles}
    rows = []
    for variant in sorted(("sampled_avr", "avr"), key=lambda name: name != study.leading):
        for name in study.layers[BASELINE]:
            own = {role: study.layers[role][name] for role in study.roles}
            avr = {role: found[role][layer][variant].item() for role, layer in own.items()}
            row = {"layer_name": name} | {f"{role}_avr": avr[role] for role in ROLES}
            row |= {"difference": avr[ANTIALIASED] - avr[BASELINE], "variant": variant}
            row |= {f"{role}_layer": own[role] for role in study.roles[1:]}
            rows.append(row | {f"{role}_avr": value for role, value in avr.items()})
    return pd.DataFrame(rows)


def _signals(study: Study) -> dict[str, Tensor]:
    _, photograph = next(study.views(1))
    return {"tone": study.synthetic(sinusoid(_side(study), TONE)), "photograph": photograph}


@torch.inference_mode()
def _around(study: Study, role: str, x: Tensor) -> dict[str, Tensor]:
    """The maps of the first strided layer before and after its subsampling.

    What it decimates and what is kept of that; as published, or where that is not known, what it
    reads and what comes out of it.
    """
    instrument = study.instruments[role]
    module, layer = instrument.module, instrument.layers[0]
    with tap(module, [layer], of="both") as tapped:
        module(x.to(instrument.device))
    before, after = tapped.inputs[layer.name], tapped.outputs[layer.name]
    decimation = instrument.decimations.get(layer.name)
    if study.settings.reading == "sampled" and decimation:
        before = decimation(before)
        after = decimation.kept(before)
    return {"before": before, "after": after}


def _folding(study: Study, role: str, signal: str, around: dict[str, Tensor]) -> pd.DataFrame:
    first = study.instruments[role].layers[0]
    step = first.stride[1]
    tone = TONE * first.cumulative_stride[1] / step  # on the grid that the layer reads
    frames = []
    for where, scale in (("before", 1), ("after", 1 / step)):
        frequency, power = _columns(around[where])
        columns = {"role": role, "signal": signal, "where": where, "frequency": frequency * scale}
        columns |= {
            "power": power,
            "cutoff": 1 / step,
            "tone": tone if signal == "tone" else np.nan,
        }
        frames.append(pd.DataFrame(columns | {"layer_name": first.name}))
    return pd.concat(frames)


def _columns(map_: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """One-sided spectrum along the columns: frequency (1 = Nyquist) and share of the energy."""
    power = power_spectrum(map_[0]).double().sum((0, 1)).cpu().numpy()  # (W,)
    frequency = np.abs(np.fft.fftshift(np.fft.fftfreq(len(power))) * 2).round(9)
    known, place = np.unique(frequency, return_inverse=True)
    return known, np.bincount(place, power) / power.sum()
