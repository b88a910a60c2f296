"""What a page shows, as plain values: from models, a photograph and a shift to what to draw."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from aliascope.attribute.swapping import Attributor
from aliascope.compare.pairing import pair_layers
from aliascope.errors import ImageError, ModelError, RunError
from aliascope.explorer.state import Offer, Shown
from aliascope.images import ImageSource, decode, open_images
from aliascope.measure.batch import Columns, Instrument, layer_columns, prepare, view_logits
from aliascope.measure.shiftmap import (
    RADIUS,
    grid,
    predictions,
    shift_by,
    shifted_logits,
    shifted_pictures,
)
from aliascope.models import LoadedModel, load_model
from aliascope.records import StridedLayer
from aliascope.shifts import Border, Shift
from aliascope.spectra import power_spectrum
from aliascope.taps import tap

MODELS = ("efficientnet_lite0", "efficientnet_lite0_ideal")
MAX_BYTES = 20_000_000
"""Of a photograph that is dropped."""
SHOWN_LAYERS = ("sampled_avr", "alias_share", "avr")
"""What is drawn of each layer."""
_HELD, _BATCH, _SIDE = 32, 8, 28
"""Results in memory of each kind; shifts a forward; rows and columns of a drawn spectrum."""
_NO_SHIFT = shift_by(0, 0)

Made = TypeVar("Made")


@dataclass(frozen=True)
class Photo:
    """A decoded picture."""

    name: str
    pixels: Tensor
    """(3, H, W)."""
    digest: str
    """Of the pixels: what results are remembered by."""


@dataclass(frozen=True)
class Model:
    """A network that is ready, and how its classes are called."""

    loaded: LoadedModel
    instrument: Instrument

    def label(self, index: int) -> str:
        """Name of a class, or its number."""
        names = self.loaded.class_names or ()
        return names[index] if index < len(names) else f"class {index}"


@dataclass(frozen=True)
class Guess:
    """One of the classes that a network holds likely."""

    index: int
    label: str
    probability: float
    unshifted: float
    """Its probability without a shift."""


@dataclass(frozen=True)
class Sampling:
    """What one layer does to one photograph."""

    name: str
    stride: tuple[float, float]
    figures: dict[str, float]
    """As `measure` has them; where the network can be cut there, as `attribute` has them, too."""
    before: Float[ndarray, "rows columns"] | None
    """Decimal logarithm of the energy a frequency of what is decimated, mean over channels, divided
    by (H·W)² so that it can be compared with `after`; the zero frequency in the middle. None where
    it is not known what is decimated."""
    after: Float[ndarray, "rows columns"] | None
    """The same of the samples that are kept."""


class Explorer:
    """Models and results, shared by all readers of a page and safe to ask from many threads."""

    def __init__(self, models: Sequence[str] = MODELS, *, device: str | None = None) -> None:
        self.samples = _samples()
        self.offer = Offer(tuple(dict.fromkeys(models)) or MODELS, tuple(self.samples))
        self._device = device
        self._models: OrderedDict[Any, Model] = OrderedDict()
        self._logits: OrderedDict[Any, dict[Shift, Tensor]] = OrderedDict()
        self._attributors: OrderedDict[Any, Attributor | None] = OrderedDict()
        self._layers: OrderedDict[Any, list[Sampling]] = OrderedDict()
        self._loading = threading.Lock()
        # Hooks of one forward would read the maps of another; and cores are shared anyway.
        self._computing = threading.Lock()

    def model(self, spec: str) -> Model:
        """The network of a spec, converted where the spec says so; loaded once.

        Raises:
            ModelError: it cannot be loaded or converted, or is no classifier.
        """
        with self._loading:
            return _held(self._models, spec, partial(self._load, spec))

    def _load(self, spec: str) -> Model:
        loaded = load_model(spec)
        instrument = prepare(loaded, device=self._device)
        if instrument.classes is None:
            raise ModelError(f"{spec} is no classifier: {instrument.no_classifier}")
        return Model(loaded, instrument)

    def photo(self, sample: str) -> Photo:
        """One of the samples."""
        pixels, _ = self.samples[sample]()
        return Photo(sample, pixels, _digest(pixels))

    def radius(self, specs: Sequence[str], border: Border) -> int:
        """How far pictures can move under both models: 0 where the crop leaves no room."""
        if border == "circular":
            return RADIUS
        return min(RADIUS, *(self.model(spec).instrument.preprocessing.room for spec in specs))

    def picture(
        self, spec: str, photo: Photo, shift: Shift, border: Border
    ) -> UInt8[ndarray, "rows columns 3"]:
        """What the network is shown."""
        instrument = self.model(spec).instrument
        (shown,) = shifted_pictures(instrument, photo.pixels, [shift], border=border)
        return (shown.permute(1, 2, 0) * 255).round().byte().numpy()

    def guesses(
        self, spec: str, photo: Photo, shift: Shift, border: Border, *, count: int = 5
    ) -> list[Guess]:
        """The likeliest classes under a shift, the likeliest first."""
        known = self._known(spec, photo, border)
        for _ in self._filled(spec, photo, [_NO_SHIFT, shift], border):
            pass
        model = self.model(spec)
        p = known[shift].double().softmax(0)
        unshifted = known[_NO_SHIFT].double().softmax(0)
        values, indices = p.topk(min(count, len(p)))
        return [
            Guess(i, model.label(i), value, unshifted[i].item())
            for value, i in zip(values.tolist(), indices.tolist(), strict=True)
        ]

    def maps(
        self, specs: Sequence[str], photo: Photo, border: Border
    ) -> Iterator[list[pd.DataFrame]]:
        """Predictions at all shifts, of each model, as `shiftmap.predictions` has them.

        Yields:
            What is known so far, from the middle outwards; at last all of it.
        """
        plan = grid(self.radius(specs, border))
        steps = [self._filled(spec, photo, plan, border) for spec in specs]
        yield self.filled(specs, photo, border)
        for _ in zip(*steps, strict=True):
            yield self.filled(specs, photo, border)

    def filled(self, specs: Sequence[str], photo: Photo, border: Border) -> list[pd.DataFrame]:
        """What is known by now of the predictions at all shifts; computes none."""
        plan = grid(self.radius(specs, border))
        frames = []
        for spec in specs:
            known = self._known(spec, photo, border)
            there = [shift for shift in plan if shift in known]
            whole = there and there[0] == _NO_SHIFT
            frames.append(
                predictions(there, torch.stack([known[s] for s in there]))
                if whole
                else pd.DataFrame({"rows": [], "columns": []})
            )
        return frames

    def layers(self, spec: str, photo: Photo) -> list[Sampling]:
        """What each layer of a network that downsamples does to the photograph, unshifted."""
        key = spec, photo.digest
        return _held(self._layers, key, partial(self._sampled, spec, photo))

    def pairs(self, specs: tuple[str, str], photo: Photo) -> list[tuple[Sampling, Sampling]]:
        """The layers of two models that lie at one place; none where they cannot be paired."""
        found = [{layer.name: layer for layer in self.layers(spec, photo)} for spec in specs]
        a, b = (self.model(spec).instrument.layers for spec in specs)
        try:
            names = pair_layers(specs[0], a, specs[1], b)
        except RunError:
            return []
        return [(found[0][here], found[1][there]) for here, there in names]

    def record(self, shown: Shown, photo: Photo) -> dict[str, Any]:
        """What is shown, as far as it is computed, as plain values."""
        frames = self.filled(shown.specs, photo, shown.border)
        shift, models = shift_by(shown.rows, shown.columns), {}
        for name, spec, frame in zip("ab", shown.specs, frames, strict=True):
            model = self.model(spec)
            models[name] = {
                "spec": spec,
                "likeliest": [
                    asdict(guess) for guess in self.guesses(spec, photo, shift, shown.border)
                ],
                **summary(frame, model),
                "map": frame.to_dict("list"),
                "layers": [
                    {"layer": layer.name, "stride": list(layer.stride), **_finite(layer.figures)}
                    for layer in self._layers.get((spec, photo.digest), [])
                ],
            }
        return {
            "aliascope": version("aliascope"),
            **asdict(shown),
            "photograph": photo.name,
            "pixels_sha256": photo.digest,
            "models": models,
        }

    def _known(self, spec: str, photo: Photo, border: Border) -> dict[Shift, Tensor]:
        """Logits by shift, of what was asked before."""
        return _held(self._logits, (spec, photo.digest, border), dict)

    def _filled(
        self, spec: str, photo: Photo, plan: Sequence[Shift], border: Border
    ) -> Iterator[None]:
        """Compute what is missing of a plan, some shifts at a time, always in as many steps."""
        instrument, known = self.model(spec).instrument, self._known(spec, photo, border)
        some = range(0, len(plan), _BATCH)
        for part in (plan[start : start + _BATCH] for start in some):
            with self._computing:
                if missing := [x for x in dict.fromkeys(part) if x not in known]:
                    found = shifted_logits(
                        instrument, photo.pixels, missing, border=border, batch_size=_BATCH
                    )
                    for shifts, logits in found:
                        known |= zip(shifts, logits, strict=True)
            yield

    @torch.inference_mode()
    def _sampled(self, spec: str, photo: Photo) -> list[Sampling]:
        instrument = self.model(spec).instrument
        (whole,) = shifted_pictures(instrument, photo.pixels, [_NO_SHIFT])

        def read(layer: StridedLayer, map_: Tensor) -> tuple[Columns, Any, Any]:
            figures = layer_columns(instrument, layer, map_, 1)
            decimation = instrument.decimations.get(layer.name)
            if decimation is None:
                return figures, None, None
            dense = decimation(map_)
            return figures, _drawn(dense), _drawn(decimation.kept(dense))

        with self._computing:
            with tap(instrument.module, instrument.layers, read=read) as tapped:
                view_logits(instrument, whole[None, None])
            carried = self._carried(spec, photo)
        return [
            Sampling(
                *(layer.name, layer.stride, _plain(figures) | carried.get(layer.name, {})),
                *(before, after),
            )
            for layer in instrument.layers
            for figures, before, after in [tapped.inputs[layer.name]]
        ]

    def _carried(self, spec: str, photo: Photo) -> dict[str, dict[str, float]]:
        """Layer → what each band carries there; of a network that can be cut nowhere, nothing."""
        instrument = self.model(spec).instrument
        attributor = _held(self._attributors, spec, partial(_attributor, instrument))
        if attributor is None:
            return {}
        pixels, _ = instrument.seen(photo.pixels)
        _, columns = attributor.columns(pixels[None])
        names = ("alias_carried", "low_carried", "interaction")
        return {
            layer.name: {name: columns[name][0, index].item() for name in names}
            for index, layer in enumerate(attributor.layers)
        }


def _attributor(instrument: Instrument) -> Attributor | None:
    try:
        return Attributor(instrument)
    except ModelError:
        return None


def read_photo(path: Path) -> Photo:
    """A photograph that was dropped.

    Raises:
        ImageError: it is too large, or no picture; the sentence names the file.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ImageError(f"is larger than {MAX_BYTES // 1_000_000} MB; shrink it")  # noqa: TRY301
        pixels, _ = decode(path)
    except ImageError as error:
        raise ImageError(f"{path.name} {error}") from error
    return Photo(path.name, pixels, _digest(pixels))


def _samples() -> dict[str, Callable[[], tuple[Tensor, str]]]:
    """The embedded photographs: the first crop of each, the cat first."""
    source: ImageSource = open_images("photos")
    first = {entry.group: entry for entry in reversed(list(source.entries()))}
    order = sorted(first, key=lambda group: (not group.startswith("chelsea"), group))
    return {first[group].id: first[group].load for group in order}


def _digest(pixels: Tensor) -> str:
    described = f"{tuple(pixels.shape)} {pixels.dtype}".encode()
    return hashlib.sha256(described + pixels.numpy().tobytes()).hexdigest()


def _held(memory: OrderedDict[Any, Made], key: object, make: Callable[[], Made]) -> Made:
    """What is remembered under a key, made where it is not; the longest unused ones are left."""
    try:
        memory.move_to_end(key)
        return memory[key]
    except KeyError:
        made = make()
    kept = memory.setdefault(key, made)
    while len(memory) > _HELD:
        memory.popitem(last=False)
    return kept


def _drawn(maps: Float[Tensor, "1 chan h w"]) -> Float[ndarray, "rows columns"]:
    """A spectrum for a picture, as `Sampling` has it."""
    height, width = maps.shape[-2:]
    energy = power_spectrum(maps).mean((0, 1)).double() / (height * width) ** 2
    small = F.adaptive_avg_pool2d(energy[None], (min(height, _SIDE), min(width, _SIDE)))[0]
    return small.clamp(min=1e-30).log10().cpu().numpy()


def _plain(figures: Columns) -> dict[str, float]:
    return {name: float(value.item()) for name, value in figures.items()}


def _finite(figures: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {name: x if np.isfinite(x) else None for name, x in figures.items()}


def summary(frame: pd.DataFrame, model: Model) -> dict[str, Any]:
    """Of a map of predictions: share of flips, and the shift at which the class is least likely.

    Args:
        frame: as `shiftmap.predictions` has it, no shift first.
        model: whose they are.
    """
    shifted = frame.iloc[1:]
    if shifted.empty:
        return {}
    worst = shifted.loc[shifted["probability"].idxmin()]
    return {
        "prediction": model.label(int(frame["prediction"].iloc[0])),
        "shifts": len(shifted),
        "flips": int(np.count_nonzero(~shifted["steady"].to_numpy())),
        "worst_rows": int(worst["rows"]),
        "worst_columns": int(worst["columns"]),
        "worst_probability": float(worst["probability"]),
        "worst_prediction": model.label(int(worst["prediction"])),
        "probability": float(frame["probability"].iloc[0]),
    }
