"""What an attribution found: tables with intervals, in words, and on paper."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from aliascope.attribute.swapping import DOSES, EQUIVARIANCE, SWAPPED
from aliascope.errors import RunError
from aliascope.measure.store import Run
from aliascope.results.files import Result
from aliascope.results.text import columns, interval, number, pair, wrapped
from aliascope.results.verdicts import digits, listed, sample, share, under
from aliascope.statistics import Estimate, correlated, mean_interval, mean_intervals, paired

_ILL = 1.0
"""Interaction above which the two bands' effects are larger than what they explain."""
_DOSE_NAMES = {name: name.replace("taps_", "") + " taps" for name in DOSES} | {"ideal": "ideal"}


@dataclass(frozen=True, eq=False)
class Attribution(Result):
    """Where the movement of a network's logits arises; `str()` prints it."""

    model: str
    depths: pd.DataFrame
    """A row a depth, from fine to coarse: stride (cumulative), layers (their names, joined by
    " + "), and of each of alias_carried, low_carried (shares of the movement), interaction,
    alias_effect and low_effect (as shares of the logits' length) the mean over photographs, with
    its interval in _low and _high; r_low, Pearson's r over images of low_effect with logit
    instability."""
    layers: pd.DataFrame
    """A row a layer: layer, stride, the same of that layer alone, and equivariance_before, _behind
    and floor_before, _behind (what a map that moved exactly would show), with intervals."""
    doses: pd.DataFrame
    """A row a place and filter: place (the layers of a depth, or one of several), layers (how
    many), dose, n, groups; change of logit instability, −0.1 is 10 % less, with change_low and
    change_high."""
    instability: Estimate
    """Mean logit instability over photographs."""
    n: int
    groups: int
    """Images and photographs."""
    shifts: str
    info: dict[str, Any]
    """The run's: device, hardware, versions, …"""
    notices: tuple[str, ...]
    skipped: tuple[dict[str, str], ...]
    """image_id and reason of images that could not be used."""

    @property
    def table(self) -> pd.DataFrame:
        """The depths."""
        return self.depths

    @property
    def verdict(self) -> str:
        """Where it arises, in words."""
        return " ".join(_sentences(self))

    def _blocks(self) -> Iterator[str]:
        return _blocks(self)


def attribution_of(run: Run) -> Attribution:
    """What a run that `attribute` wrote says.

    Raises:
        RunError: it is another run, or empty.

    >>> import tempfile
    >>> from torch import nn
    >>> from aliascope import attribute
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = attribute(net, "photos", limit=1, device="cpu", doses=0, out=folder)
    ...     attribution_of(Run.open(folder)).n
    1
    """
    if not run.config.get("attributed") or not len(run.images):
        where = run.path or "this run"
        raise RunError(f"{where} holds no attribution: give what `aliascope attribute --out` wrote")
    images: Any = run.images.set_index("image_id")
    rows: Any = run.layers.astype({"image_id": str, "layer": str})
    each = {name: own.set_index("image_id") for name, own in rows.groupby("layer")}
    groups = run.photographs
    strides: dict[str, list[str]] = {}
    for layer in run.strided_layers:
        strides.setdefault(pair(*layer.cumulative_stride), []).append(layer.name)
    strides = dict(sorted(strides.items(), key=lambda item: _order(run, item[1][0])))
    moved = images["logit_instability"]
    depths, layers, doses = [], [], []
    for stride, names in strides.items():
        joint = each[names[0]]
        row = {"stride": stride, "layers": " + ".join(names)}
        depths.append(row | _means(joint, SWAPPED, groups) | _followed(joint, moved, groups))
        doses += _dosed(row["layers"], len(names), joint, DOSES, moved, groups)
        for name in names:
            own = each[name]
            figures = own[[f"own_{x}" for x in SWAPPED]].set_axis([*SWAPPED], axis=1)
            figures = figures.join(own[[*EQUIVARIANCE, "alias_share", "sampled_avr_ac"]])
            layers.append({"layer": name, "stride": stride} | _means(figures, figures, groups))
            if len(names) > 1:
                own_doses = own[[f"own_{x}" for x in DOSES]].set_axis(list(DOSES), axis=1)
                doses += _dosed(name, 1, own_doses, DOSES, moved, groups)
    notices = list(run.notices)
    photographs = int(groups.nunique())
    if photographs == 1:
        notices.append("a single photograph gives no intervals")
    return Attribution(
        model=run.model,
        depths=pd.DataFrame(depths),
        layers=pd.DataFrame(layers),
        doses=pd.DataFrame(doses, columns=["place", "layers", "dose", *_DOSE_COLUMNS]),
        instability=mean_interval(moved, groups.loc[moved.index]),
        n=len(images),
        groups=photographs,
        shifts=str(run.config.get("border", "")),
        info=run.info,
        notices=tuple(notices),
        skipped=tuple(run.skipped),
    )


_DOSE_COLUMNS = ["n", "groups", "change", "change_low", "change_high"]


def _order(run: Run, name: str) -> float:
    rows, across = next(x.cumulative_stride for x in run.strided_layers if x.name == name)
    return rows * across


def _means(frame: pd.DataFrame, names: Any, groups: pd.Series) -> dict[str, float]:
    """Mean, _low and _high of columns."""
    chosen: Any = frame[list(names)]
    found: Any = mean_intervals(chosen, groups.loc[frame.index])
    return {
        f"{name}{end}": float(value)
        for name, *estimate in found.itertuples()
        for value, end in zip(estimate, ("", "_low", "_high"), strict=True)
    }


def _followed(frame: pd.DataFrame, moved: pd.Series, groups: pd.Series) -> dict[str, float]:
    effect: Any = frame[["low_effect"]]
    found = correlated(effect, moved.loc[effect.index], groups.loc[effect.index])
    return {"r_low": float(found["r"].iloc[0])}


def _dosed(
    place: str, layers: int, frame: pd.DataFrame, names: Any, moved: pd.Series, groups: pd.Series
) -> Iterator[dict[str, Any]]:
    """How much each filter at a place changes logit instability, of the images it was tried on."""
    known: Any = frame[list(names)].dropna()
    if known.empty:
        return
    before = pd.DataFrame(dict.fromkeys(names, moved.loc[known.index]))
    found = paired(before, known, groups.loc[known.index])
    for name, row in found.iterrows():
        figures = {key: row[key] for key in _DOSE_COLUMNS}
        yield {"place": place, "layers": layers, "dose": name, **figures}


def _sentences(found: Attribution) -> Iterator[str]:
    depths: Any = found.depths
    value, low, high = found.instability
    moved = share(value, max(low, 0), high, of="their length")  # an interval of few may reach below
    yield f"The logits of {found.model} move {under(found.shifts)} by {moved}."
    believed = depths[depths["interaction"] <= _ILL]
    for row in believed.head(1).to_dict("records"):
        carried = share(*_of(row, "alias_carried"), of="that")
        yield f"What aliases at {row['layers']} carries {carried}."
    rest = believed.iloc[1:]
    if len(rest):
        last = rest.iloc[-1]
        low = share(*_of(last, "low_carried"), of="it")
        yield f"By {last['layers']} what does not alias carries {low}."
    if len(ill := depths[depths["interaction"] > _ILL]):
        names = listed([*ill["layers"]])
        yield (
            f"At {names} the bands cannot be told apart: their interaction is larger than the "
            "movement itself."
        )
    best: Any = found.doses.query("dose == 'ideal' and change_high < 0")
    for row in best.sort_values("change").head(1).to_dict("records"):
        yield (
            f"An ideal filter at {row['place']} alone, untrained, takes "
            f"{digits(-100 * row['change'])} % of the movement away."
        )
    yield sample(found.n, found.groups)


def _of(row: Any, name: str) -> tuple[float, float, float]:
    return row[name], row[f"{name}_low"], row[f"{name}_high"]


def _blocks(found: Attribution) -> Iterator[str]:
    sampled = f"{found.n} images" + (
        f" of {found.groups} photographs" if found.groups < found.n else ""
    )
    moved = number(found.instability.value, ".4f")
    yield f"{found.model}: {sampled}, {found.shifts} shifts; logit instability {moved}"
    header = ["stride", "layers", "aliasing band", "low band", "interaction", "r"]
    rows = [
        [
            row["stride"],
            row["layers"],
            *(_cell(row, name, ".2f") for name in ("alias_carried", "low_carried")),
            number(row["interaction"], ".2f"),
            number(row["r_low"], ".2f"),
        ]
        for row in found.depths.to_dict("records")
    ]
    yield columns([header, *rows], names=2)
    header = ["layer", "alone", "equivariance error", "energy folded"]
    rows = [
        [
            row["layer"],
            number(row["alias_carried"], ".2f"),
            _path(row),
            number(row["alias_share"], ".4f"),
        ]
        for row in found.layers.to_dict("records")
    ]
    yield columns([header, *rows])
    if len(found.doses):
        header = ["filtered", *_DOSE_NAMES.values(), "its interval"]
        doses: Any = found.doses.set_index(["place", "dose"])
        rows = [
            [
                name,
                *(number(doses["change"][name, dose], "+z.1%") for dose in _DOSE_NAMES),
                interval(
                    doses["change_low"][name, "ideal"], doses["change_high"][name, "ideal"], "+z.1%"
                ),
            ]
            for name in dict.fromkeys(found.doses["place"])
        ]
        yield columns([header, *rows])
    yield wrapped([found.verdict])
    yield wrapped([_CAPTION])
    yield wrapped([f"notice: {text}" for text in found.notices])
    yield wrapped([f"skipped {x['image_id']}: {x['reason']}" for x in found.skipped[:5]])


def _cell(row: Any, name: str, form: str) -> str:
    value, low, high = _of(row, name)
    return f"{number(value, form)} {interval(low, high, form)}"


def _path(row: Any) -> str:
    """Equivariance error before → behind, and its floor where that was measured."""
    text = f"{row['equivariance_before']:.3f} → {row['equivariance_behind']:.3f}"
    floor = row["floor_behind"]
    return text if np.isnan(floor) else f"{text} (floor {floor:.3f})"


_CAPTION = (
    "Aliasing band, low band: the share of the movement of the logits that the network shows when "
    "only that band of what is decimated moves. Interaction: ‖a + l − Δ‖ / ‖Δ‖; above 1 the split "
    "cannot be believed. r: of the low band's effect with logit instability, over images. Alone: "
    "the aliasing band of one layer. Equivariance error: before → behind the sampling. Filtered: "
    "the change of logit instability, untrained. In brackets: 95 % intervals."
)
