"""A study's directory and what is measured in it, each thing once and on demand.

```
RESULTS/study.json           the settings
RESULTS/runs/ROLE[-SHIFTS]   what `measure` found of each model, under other shifts beside the first
RESULTS/tables/*.csv         the seven tables
RESULTS/data/*               rows that figures need beside them: spectra, latencies
RESULTS/figures/*            png and svg
RESULTS/manifest.json        of each table and figure: from which runs, and its caption
RESULTS/checksums.json       SHA-256 of each file in tables and data
RESULTS/summary.json         the headline
```
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import cached_property
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from aliascope.compare import Comparison, compare
from aliascope.compare.pairing import pair_layers, reads_alike
from aliascope.errors import ImageError, ModelError, RunError
from aliascope.images import ImageSource, open_images
from aliascope.images.preprocessing import Preprocessing, possible_shifts
from aliascope.measure import measure
from aliascope.measure.batch import LAYER_COLUMNS, Columns, Instrument, layer_columns, prepare
from aliascope.measure.store import Run
from aliascope.models import LoadedModel, load_model
from aliascope.records import Progress, StridedLayer
from aliascope.results.checked import is_whole, read_checked, write_checked
from aliascope.results.files import refuse_another, sealed, unsealed, write_file
from aliascope.results.text import brief
from aliascope.shifts import Border
from aliascope.spectra import power_spectrum
from aliascope.study.published import CLASS_MAPS
from aliascope.study.settings import (
    ANTIALIASED,
    BASELINE,
    CONTROL,
    ROLES,
    StudySettings,
    settings_from,
)
from aliascope.taps import tap

_LAYERS = {role: f"{role}_layer" for role in (CONTROL, ANTIALIASED)} | {BASELINE: "layer_name"}
"""Role → the column of the table `pairs` that names its layers."""
_TEXT = (*_LAYERS.values(), "stride", "kind", "role", "model", "metric", "variant")


def read_csv(file: Path | BytesIO) -> pd.DataFrame:
    """A table of a study; layers may be called "0.1" or "None" and are text all the same."""
    text: Any = dict.fromkeys(_TEXT, str)
    return pd.read_csv(file, dtype=text, keep_default_na=False, na_values=[""])


def settings_in(path: Path) -> StudySettings:
    """The settings of the study in a directory.

    Raises:
        RunError: there is none, or it cannot be read.
    """
    file = path / "study.json"
    try:
        return settings_from(unsealed(file.read_bytes(), older=True))
    except FileNotFoundError:
        raise RunError(f"{path} holds no study: run `aliascope study --out {path}` first") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{file} cannot be read ({brief(error)}): delete {path}") from error


class Study:
    """One study: its settings, its directory, and what phases draw on.

    Args:
        settings: what to measure.
        path: the results directory; `begin` makes it where missing.
        progress: called with a title; its context yields what takes (done, total).

    Raises:
        RunError: the directory holds another study.
    """

    def __init__(
        self, settings: StudySettings, path: Path, progress: Progress | None = None
    ) -> None:
        self.settings = settings
        self.path = path
        self.progress = progress or (lambda _: nullcontext(lambda *_: None))
        self.notices: list[str] = []
        """What was found on the way that a reader must know."""
        self._used: dict[str, None] = {}
        if (path / "study.json").exists():
            refuse_another(path, asdict(settings_in(path)), asdict(settings))

    def begin(self) -> None:
        """Load models and images, pair the layers, and only then make the directory this study's.

        Settings that cannot be had leave nothing that their correction would be held against.
        """
        self.source()
        paired = self._paired()
        file = self.path / "study.json"
        if not file.exists():
            write_file(file, sealed(asdict(self.settings)))
        self.keep_rows("pairs", lambda: paired)

    # Models and what is measured of them.

    @property
    def roles(self) -> tuple[str, ...]:
        """The pair, and the control between them where there is one."""
        return (BASELINE, CONTROL, ANTIALIASED) if self.settings.control else ROLES

    @property
    def names(self) -> dict[str, str]:
        """Role → model spec."""
        return {role: getattr(self.settings, role) for role in self.roles}

    @cached_property
    def models(self) -> dict[str, LoadedModel]:
        """Role → model."""
        options = {"weights": self.settings.weights, "seed": self.settings.seed}
        return {role: load_model(spec, **options) for role, spec in self.names.items()}

    @property
    def preprocessing(self) -> Preprocessing:
        """The same for all models."""
        return self.models[BASELINE].prepared(self.settings.preprocess)

    @cached_property
    def shifts(self) -> tuple[Border, ...]:
        """How pictures are moved, the leading way first; circular where there is no other."""
        pictures = (image.pixels for image in self.source())
        found, notice = possible_shifts(self.settings.shifts, self.preprocessing, pictures)
        self.notices += [notice] if notice else []
        return found

    @cached_property
    def instruments(self) -> dict[str, Instrument]:
        """Role → the model made ready."""
        settings = self.settings
        return {
            role: prepare(
                model,
                preprocess=self.preprocessing,
                ops=settings.ops,
                device=settings.device,
                border="circular",  # of the views that phases make themselves there are no shifts
            )
            for role, model in self.models.items()
        }

    @cached_property
    def layers(self) -> dict[str, dict[str, str]]:
        """Role → layer of the baseline → its own layer there, in order of execution."""
        table = self._pairs
        return {
            role: dict(zip(table["layer_name"], table[_LAYERS[role]], strict=True))
            for role in self.roles
        }

    @cached_property
    def _pairs(self) -> pd.DataFrame:
        used = {**self._used}
        table, self._used = self.rows("pairs"), used  # what every figure needs says nothing of one
        return table

    def _paired(self) -> pd.DataFrame:
        settings, layers = self.settings, {r: x.layers for r, x in self.instruments.items()}
        found = {}
        for role in self.roles[1:]:
            chosen = dict(settings.layer_map) if role == ANTIALIASED else None
            pair = (settings.baseline, layers[BASELINE], self.names[role], layers[role])
            found[role] = dict(pair_layers(*pair, chosen))
        names = [name for name in found[ANTIALIASED] if all(name in own for own in found.values())]
        if not names:
            raise ModelError(f"{settings.baseline} does not downsample: there is nothing to study")
        table = pd.DataFrame({"layer_name": names})
        for role, own in found.items():
            table[_LAYERS[role]] = [own[name] for name in names]
        here, there = ({x.name: x for x in layers[role]} for role in ROLES)
        table["reads_alike"] = [
            reads_alike(here[a], there[b])
            for a, b in zip(names, table[_LAYERS[ANTIALIASED]], strict=True)
        ]
        return table

    @cached_property
    def runs(self) -> dict[str, Run]:
        """Role → its run under the leading shifts, measured now or before."""
        return {role: self._measured(role, self.shifts[0]) for role in self.roles}

    @cached_property
    def moved(self) -> dict[Border, dict[str, Run]]:
        """Other shifts → role → its run, of the pair alone."""
        return {
            shifts: {role: self._measured(role, shifts) for role in ROLES}
            for shifts in self.shifts[1:]
        }

    def run_names(self, *, moved: bool = False) -> list[str]:
        """The directories of the runs, within that of the study."""
        names = [f"runs/{role}" for role in self.roles]
        others = [f"runs/{role}-{shifts}" for shifts in self.shifts[1:] for role in ROLES]
        return names + others * moved

    def _measured(self, role: str, shifts: Border) -> Run:
        settings = self.settings
        own = role if shifts == self.shifts[0] else f"{role}-{shifts}"
        with self.progress(f"measuring {self.names[role]}, {shifts} shifts") as progress:
            return measure(
                self.models[role],
                self.source(),
                out=self.path / "runs" / own,
                preprocess=self.preprocessing,
                ops=settings.ops,
                precision=settings.precision,
                device=settings.device,
                shifts=shifts,
                seed=settings.seed,
                progress=progress,
            )

    def stored_runs(self) -> dict[str, Run]:
        """Role → its run as it lies in the directory; nothing is measured."""
        self._used |= {f"runs/{role}": None for role in self.roles}
        return self._opened

    @cached_property
    def _opened(self) -> dict[str, Run]:
        return {role: Run.open(self.path / "runs" / role) for role in self.roles}

    @cached_property
    def comparisons(self) -> dict[str, Comparison]:
        """The baseline's run compared with the antialiased one, and with the control."""
        found = {
            role: compare(self.runs[BASELINE], self.runs[role], layer_map=self.layers[role])
            for role in self.roles[1:]
        }
        told = found[ANTIALIASED].notices
        self.notices += told
        if CONTROL in found:  # what holds of both is said once
            self.notices += [f"control: {x}" for x in found[CONTROL].notices if x not in told]
        return found

    def require_classifiers(self) -> None:
        """Raise ModelError unless the stability of both models is known."""
        for role in ROLES:
            if "prediction" not in self.runs[role].images:
                told = self.instruments[role].no_classifier
                raise ModelError(f"{self.names[role]} is no classifier: {told}")

    def joined_images(self, runs: dict[str, Run] | None = None) -> pd.DataFrame:
        """A row an image and role of the pair, of the images in both, in the same order.

        Besides the columns of a run: role; accuracy, 0 or 1, NaN where labels do not fit.

        Args:
            runs: role → run; by default the stored ones.
        """
        runs = runs or self.stored_runs()
        rows = {role: runs[role].images.set_index("image_id") for role in ROLES}
        ids = rows[BASELINE].index.intersection(rows[ANTIALIASED].index, sort=False)
        frames = [own.loc[ids].reset_index().assign(role=role) for role, own in rows.items()]
        images = pd.concat(frames, ignore_index=True)
        return images.assign(accuracy=accuracy(images, self.settings.class_map))

    def values(self, variants: Sequence[str]) -> pd.DataFrame:
        """A row an image, role and layer: figures of the layer, and the stability of the image.

        All models' layers bear the baseline's names.
        """
        names = ["image_id", "group", "sis", "logit_instability"]
        common = self.joined_images()[["image_id"]].drop_duplicates()
        frames = []
        for role, run in self.stored_runs().items():
            images = run.images.reindex(columns=names).merge(common)
            own = pd.DataFrame(self.layers[role].items(), columns=["layer_name", "layer"])
            rows = run.layers.astype({"image_id": str, "layer": str}).merge(own, on="layer")
            rows = rows[["image_id", "layer_name", *variants]].assign(role=role)
            frames.append(images.merge(rows, on="image_id"))
        return pd.concat(frames, ignore_index=True)

    @property
    def leading(self) -> str:
        """The column that tables, figures and texts lead with."""
        return "sampled_avr" if self.settings.reading == "sampled" else "avr"

    def led(self, table: pd.DataFrame, *variants: str) -> pd.DataFrame:
        """The rows of these variants, by default of the leading one, in that order."""
        chosen = variants or (self.leading,)
        return pd.concat([table.query(f"variant == {variant!r}") for variant in chosen])

    def reading(self) -> str:
        """What the leading figures are of, for a caption."""
        if self.settings.reading == "sampled":
            return "The maps are what is decimated, at one place in all models."
        table = self._pairs
        moved = table["reads_alike"].tolist().count(False)
        text = "The maps are what each operation reads, as published"
        if not moved:
            return f"{text}."
        return f"{text}: at different places of the two models in {moved} of {len(table)} layers."

    def sample(self, table: pd.DataFrame) -> str:
        """The images behind a table, for a caption: "53 images of photos (17 photographs)"."""
        n, photographs = int(table["n"].iloc[0]), int(table["photographs"].iloc[0])
        crops = f" ({photographs} photographs)" if photographs < n else ""
        return f"{n} images of {self.settings.images.rpartition('/')[2]}{crops}"

    def source(self) -> ImageSource:
        """The images, opened anew."""
        return open_images(self.settings.images, limit=self.settings.limit)

    def synthetic(self, picture: Tensor) -> Tensor:
        """The corner of a (1, side, side) picture as a network takes it, (1, C, H, W), as it is."""
        _, channels, height, width = self.models[BASELINE].example(self.preprocessing.crop).shape
        return picture[None, :, :height, :width].expand(1, channels, -1, -1)

    def views(self, number: int) -> Iterator[tuple[str, Tensor]]:
        """(photograph, normalised image (1, C, H, W)) of the first images that can be read."""
        for image in islice(self.source(), number):
            yield image.group, self.preprocessing.normalise(self.preprocessing(image.pixels)[None])

    def ratios(self, role: str, x: Tensor) -> dict[str, Columns]:
        """Layer → `LAYER_COLUMNS` → (B,) of one forward; NaN where that is not known."""
        instrument = self.instruments[role]
        unknown = dict.fromkeys(LAYER_COLUMNS, torch.full((len(x),), torch.nan))

        def read(layer: StridedLayer, map_: Tensor) -> Columns:
            found = layer_columns(instrument, layer, map_, len(x))
            return unknown | {name: ratio.cpu() for name, ratio in found.items()}

        return self._tapped(role, x, read)

    def powers(self, role: str, x: Tensor, reading: str) -> dict[str, Tensor]:
        """Layer → power spectrum (B, H, W) of one forward: mean over channels, DC in the centre.

        Args:
            role: of the model.
            x: normalised images.
            reading: "read" or "sampled"; NaN where it is not known what is decimated.
        """
        known = self.instruments[role].decimations

        def read(layer: StridedLayer, map_: Tensor) -> Tensor:
            decimation = known.get(layer.name) if reading == "sampled" else None
            maps = decimation(map_) if decimation else map_
            power = mean_power(maps, len(x))
            return power if decimation or reading == "read" else power * torch.nan

        return self._tapped(role, x, read)

    @torch.inference_mode()
    def _tapped(self, role: str, x: Tensor, read: Callable[[Any, Tensor], Any]) -> dict[str, Any]:
        """Layer → what `read` makes of its input in one forward."""
        instrument = self.instruments[role]
        with tap(instrument.module, instrument.layers, read=read) as tapped:
            instrument.module(x.to(instrument.device))
        return dict(tapped.inputs)

    # Files.

    def write_table(
        self, name: str, frame: pd.DataFrame, caption: str, runs: Sequence[str]
    ) -> None:
        """Put one of the seven tables in place.

        Args:
            name: of the file, without its ending.
            frame: the table.
            caption: what it shows, in whole sentences.
            runs: those that it is made of, as `run_names` gives them; none where known pictures
                went through the models.
        """
        file = f"tables/{name}.csv"
        write_checked(self.path, file, frame.to_csv(index=False).encode())
        self._declare("tables", name, {"file": file, "runs": [*runs], "caption": caption})

    def declared(self, drawn: Iterator[tuple[str, Figure]]) -> Iterator[tuple[str, Figure]]:
        """Put each figure into the manifest, with what was read for it since the one before."""
        self._used.clear()
        for name, figure in drawn:
            runs = {file: None for file in self._used if file.startswith("runs/")}
            sources = [file for file in self._used if file not in runs]
            for entry in self.manifest()["tables"].values():
                runs |= dict.fromkeys(entry["runs"] if entry["file"] in sources else ())
            entry = {"files": [f"figures/{name}.{suffix}" for suffix in ("png", "svg")]}
            entry |= {"sources": sources, "runs": [*runs]}
            caption = " ".join(figure.get_supxlabel().split())
            self._declare("figures", name, entry | {"caption": caption})
            yield name, figure
            self._used.clear()

    def manifest(self) -> dict[str, dict[str, Any]]:
        """`tables` and `figures`, each name → its files, runs and caption.

        Raises:
            RunError: it is damaged.
        """
        file = self.path / "manifest.json"
        try:
            return unsealed(file.read_bytes(), older=True)
        except FileNotFoundError:
            return {"tables": {}, "figures": {}}
        except (OSError, ValueError, AttributeError) as error:
            raise RunError(
                f"{file} cannot be read ({brief(error)}): delete it and run the same study again"
            ) from error

    def _declare(self, kind: str, name: str, entry: dict[str, Any]) -> None:
        record = self.manifest()
        if record[kind].get(name) != entry:
            record[kind][name] = entry
            write_file(self.path / "manifest.json", sealed(record))

    def table(self, name: str) -> pd.DataFrame:
        """One of the seven tables."""
        return self._read(f"tables/{name}.csv", read_csv)

    def rows(self, name: str) -> pd.DataFrame:
        """Rows that `write_rows` or `keep_rows` wrote."""
        return self._read(f"data/{name}.csv", read_csv)

    def record(self, name: str) -> Any:
        """What `keep_record` made."""
        return self._read(f"data/{name}.json", json.load)

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Arrays that `keep_arrays` made."""
        return self._read(f"data/{name}.npz", lambda file: dict(np.load(file)))

    def write_rows(self, name: str, frame: pd.DataFrame) -> None:
        """Put rows that figures need beside the tables in place."""
        write_checked(self.path, f"data/{name}.csv", frame.to_csv(index=False).encode())

    def keep_rows(self, name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """The rows as they lie in the directory, made if they are not there yet or damaged."""
        if not is_whole(self.path, f"data/{name}.csv"):
            self.write_rows(name, make())
        return self.rows(name)

    def keep_record(self, name: str, make: Callable[[], Any]) -> Any:
        """The same of what JSON can say."""
        file = f"data/{name}.json"
        if not is_whole(self.path, file):
            write_checked(self.path, file, json.dumps(make(), indent=2).encode())
        return self.record(name)

    def keep_arrays(
        self, name: str, make: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """The same of arrays."""
        file = f"data/{name}.npz"
        if not is_whole(self.path, file):
            buffer = BytesIO()
            np.savez_compressed(buffer, allow_pickle=False, **make())
            write_checked(self.path, file, buffer.getvalue())
        return self.arrays(name)

    def _read(self, name: str, reader: Callable[[BytesIO], Any]) -> Any:
        self._used[name] = None
        try:
            return reader(BytesIO(read_checked(self.path, name)))
        except FileNotFoundError:
            raise RunError(
                f"{self.path / name} is missing: run `aliascope study` with the phase that writes "
                "it first"
            ) from None


def mean_power(maps: Tensor, images: int) -> Tensor:
    """Power spectra (B, H, W) of an image's maps, mean over its channels."""
    return power_spectrum(maps.reshape(images, -1, *maps.shape[-2:])).mean(1).cpu()


def accuracy(images: pd.DataFrame, class_map: str | None) -> pd.Series:
    """1 where the prediction is right, 0 where it is wrong, NaN where that is not known.

    Args:
        images: a row an image: prediction, label, correct (as `measure` judged it).
        class_map: name in `CLASS_MAPS`: right is then what lies in the set of the image's label.

    Raises:
        ImageError: a label that the map does not have.
    """
    if class_map is None:
        known = images.reindex(columns=["correct"])["correct"]
        return pd.Series(known.astype("Float64"), dtype="float64")
    sets = list(CLASS_MAPS[class_map].values())
    rows = images.reindex(columns=["label", "prediction"]).astype("Int64")
    for label in rows["label"].dropna().unique():
        if label >= len(sets):
            raise ImageError(
                f"the class map {class_map} has labels 0 to {len(sets) - 1}, but an image has "
                f"{label}: leave out --class-map, or choose another"
            )
    right = [
        np.nan if pd.isna(label) or pd.isna(prediction) else float(prediction in sets[label])
        for label, prediction in rows.itertuples(index=False)
    ]
    return pd.Series(right, images.index)
