"""A study's directory and what is measured in it, each thing once and on demand.

```
RESULTS/study.json           the plan
RESULTS/runs/ROLE            what `measure` found of each model
RESULTS/tables/*.csv         the six tables
RESULTS/data/*               rows that figures need beside them: spectra, latencies
RESULTS/figures/*            png and svg
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
from torch import Tensor

from aliascope.batch import Instrument, prepare
from aliascope.compare import Comparison, compare
from aliascope.errors import ImageError, ModelError, RunError
from aliascope.files import refuse_another, write_file
from aliascope.images import ImageSource, open_images
from aliascope.measure import measure
from aliascope.models import LoadedModel, load_model
from aliascope.pairing import pair_layers
from aliascope.preprocessing import RESIZE_224, Preprocessing
from aliascope.records import Progress
from aliascope.spectra import alias_violation_ratios, power_spectrum
from aliascope.store import Run
from aliascope.study.presets import ANTIALIASED, BASELINE, CLASS_MAPS, ROLES, Plan, plan_from
from aliascope.taps import tap

_TEXT = ("layer_name", "antialiased_layer", "stride", "kind", "role", "model", "metric", "variant")


def read_csv(file: Path) -> pd.DataFrame:
    """A table of a study; layers may be called "0.1" or "None" and are text all the same."""
    text: Any = dict.fromkeys(_TEXT, str)
    return pd.read_csv(file, dtype=text, keep_default_na=False, na_values=[""])


def plan_in(path: Path) -> Plan:
    """The plan of the study in a directory.

    Raises:
        RunError: there is none, or it cannot be read.
    """
    file = path / "study.json"
    try:
        return plan_from(json.loads(file.read_bytes()))
    except FileNotFoundError:
        raise RunError(f"{path} holds no study: run `aliascope study --out {path}` first") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{file} cannot be read ({error}): delete {path}") from error


class Study:
    """One study: its plan, its directory, and what phases draw on.

    Args:
        plan: what to measure.
        path: the results directory; `begin` makes it where missing.
        progress: called with a title; its context yields what takes (done, total).

    Raises:
        RunError: the directory holds another study.
    """

    def __init__(self, plan: Plan, path: Path, progress: Progress | None = None) -> None:
        self.plan = plan
        self.path = path
        self.progress = progress or (lambda _: nullcontext(lambda *_: None))
        if (path / "study.json").exists():
            refuse_another(path, asdict(plan_in(path)), asdict(plan))

    def begin(self) -> None:
        """Load models and images, pair the layers, and only then make the directory this study's.

        A plan that cannot be had leaves nothing that its correction would be held against.
        """
        self.source()
        paired = self._paired()
        file = self.path / "study.json"
        if not file.exists():
            write_file(file, json.dumps(asdict(self.plan), indent=2).encode())
        self.keep_rows("pairs", lambda: paired)

    # Models and what is measured of them.

    @property
    def names(self) -> dict[str, str]:
        """Role → model spec."""
        return {role: getattr(self.plan, role) for role in ROLES}

    @cached_property
    def models(self) -> dict[str, LoadedModel]:
        """Role → model."""
        options = {"weights": self.plan.weights, "seed": self.plan.seed}
        return {role: load_model(spec, **options) for role, spec in self.names.items()}

    @property
    def preprocessing(self) -> Preprocessing:
        """The same for both models."""
        own = self.models[ROLES[0]].preprocessing
        return RESIZE_224 if self.plan.preprocess == "resize224" else own

    @cached_property
    def instruments(self) -> dict[str, Instrument]:
        """Role → the model made ready."""
        return {
            role: prepare(
                model, preprocess=self.preprocessing, ops=self.plan.ops, device=self.plan.device
            )
            for role, model in self.models.items()
        }

    @cached_property
    def pairs(self) -> dict[str, str]:
        """Layer of the baseline → its partner, in order of execution."""
        table = self.rows("pairs")
        return dict(zip(table["layer_name"], table["antialiased_layer"], strict=True))

    def _paired(self) -> pd.DataFrame:
        a, b = (self.instruments[role].layers for role in ROLES)
        plan = self.plan
        pairs = pair_layers(plan.baseline, a, plan.antialiased, b, dict(plan.layer_map))
        if not pairs:
            raise ModelError(f"{plan.baseline} does not downsample: there is nothing to study")
        return pd.DataFrame(pairs, columns=["layer_name", "antialiased_layer"])

    @cached_property
    def runs(self) -> dict[str, Run]:
        """Role → its run, measured now or before."""
        return {role: self._measured(role) for role in ROLES}

    def _measured(self, role: str) -> Run:
        plan = self.plan
        with self.progress(f"measuring {self.names[role]}") as progress:
            return measure(
                self.models[role],
                self.source(),
                out=self.path / "runs" / role,
                preprocess=self.preprocessing,
                ops=plan.ops,
                precision=plan.precision,
                device=plan.device,
                seed=plan.seed,
                progress=progress,
            )

    @cached_property
    def stored_runs(self) -> dict[str, Run]:
        """Role → its run as it lies in the directory; nothing is measured."""
        return {role: Run.open(self.path / "runs" / role) for role in ROLES}

    @cached_property
    def comparison(self) -> Comparison:
        """The two runs compared."""
        runs = self.runs
        return compare(*(runs[role] for role in ROLES), layer_map=self.pairs)

    def require_classifiers(self) -> None:
        """Raise ModelError unless the stability of both models is known."""
        for role, run in self.runs.items():
            if "sis" not in run.images:
                raise ModelError(f"{self.names[role]}: {self.instruments[role].no_classifier}")

    def joined_images(self) -> pd.DataFrame:
        """A row an image and role, of the images in both stored runs, in the same order.

        Besides the columns of a run: role; accuracy, 0 or 1, NaN where labels do not fit.
        """
        runs = {role: run.images.set_index("image_id") for role, run in self.stored_runs.items()}
        ids = runs[ROLES[0]].index.intersection(runs[ROLES[1]].index, sort=False)
        frames = [run.loc[ids].reset_index().assign(role=role) for role, run in runs.items()]
        images = pd.concat(frames, ignore_index=True)
        return images.assign(accuracy=accuracy(images, self.plan.class_map))

    def values(self, variants: Sequence[str] = ("avr",)) -> pd.DataFrame:
        """A row an image, role and layer: the ratios, and the stability of the image.

        Both models' layers bear the baseline's names.
        """
        table = self.rows("pairs")
        images = self.joined_images().reindex(
            columns=["role", "image_id", "group", "sis", "logit_instability"]
        )
        frames = []
        for role, column in ((BASELINE, "layer_name"), (ANTIALIASED, "antialiased_layer")):
            rows = self.stored_runs[role].layers.astype({"image_id": str, "layer": str})
            names = pd.DataFrame({"layer": table[column], "layer_name": table["layer_name"]})
            rows = rows[["image_id", "layer", *variants]].merge(names, on="layer")
            frames.append(rows.drop(columns="layer").assign(role=role))
        return images.merge(pd.concat(frames), on=["role", "image_id"])

    def sample(self, table: pd.DataFrame) -> str:
        """The images behind a table, for a caption: "53 images of photos (17 photographs)"."""
        n, photographs = int(table["n"].iloc[0]), int(table["photographs"].iloc[0])
        crops = f" ({photographs} photographs)" if photographs < n else ""
        return f"{n} images of {self.plan.images.rpartition('/')[2]}{crops}"

    def source(self) -> ImageSource:
        """The images, opened anew."""
        return open_images(self.plan.images, limit=self.plan.limit)

    def views(self, number: int) -> Iterator[tuple[str, Tensor]]:
        """(photograph, normalised image (1, 3, H, W)) of the first images that can be read."""
        for image in islice(self.source(), number):
            yield image.group, self.preprocessing.normalise(self.preprocessing(image.pixels)[None])

    @torch.inference_mode()
    def spectra(self, role: str, x: Tensor) -> dict[str, tuple[dict[str, Tensor], Tensor]]:
        """What each strided layer reads in one forward: AVR variants (B,), power (B, H, W).

        The power spectrum is the mean over channels, DC in the centre.
        """
        instrument = self.instruments[role]

        def read(layer: Any, map_: Tensor) -> tuple[dict[str, Tensor], Tensor]:
            maps = map_.reshape(len(x), -1, *map_.shape[-2:])
            ratios = alias_violation_ratios(maps, layer.stride)
            power = power_spectrum(maps).mean(1).cpu()
            return {name: ratio.cpu() for name, ratio in ratios.items()}, power

        with tap(instrument.module, instrument.layers, read=read) as tapped:
            instrument.module(x.to(instrument.device))
        return dict(tapped.inputs)

    # Files.

    def write_table(self, name: str, frame: pd.DataFrame) -> None:
        """Put one of the six tables in place."""
        write_file(self.path / "tables" / f"{name}.csv", frame.to_csv(index=False).encode())

    def table(self, name: str) -> pd.DataFrame:
        """One of the six tables."""
        return self._read(self.path / "tables" / f"{name}.csv", read_csv)

    def rows(self, name: str) -> pd.DataFrame:
        """Rows that `write_rows` or `keep_rows` wrote."""
        return self._read(self.path / "data" / f"{name}.csv", read_csv)

    def record(self, name: str) -> Any:
        """What `keep_record` made."""
        return self._read(
            self.path / "data" / f"{name}.json", lambda file: json.loads(file.read_bytes())
        )

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Arrays that `keep_arrays` made."""
        return self._read(self.path / "data" / f"{name}.npz", lambda file: dict(np.load(file)))

    def write_rows(self, name: str, frame: pd.DataFrame) -> None:
        """Put rows that figures need beside the tables in place."""
        write_file(self.path / "data" / f"{name}.csv", frame.to_csv(index=False).encode())

    def keep_rows(self, name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """The rows as they lie in the directory, made if they are not there yet."""
        if not (self.path / "data" / f"{name}.csv").exists():
            self.write_rows(name, make())
        return self.rows(name)

    def keep_record(self, name: str, make: Callable[[], Any]) -> Any:
        """The same of what JSON can say."""
        file = self.path / "data" / f"{name}.json"
        if not file.exists():
            write_file(file, json.dumps(make(), indent=2).encode())
        return self.record(name)

    def keep_arrays(
        self, name: str, make: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """The same of arrays."""
        file = self.path / "data" / f"{name}.npz"
        if not file.exists():
            buffer = BytesIO()
            np.savez_compressed(buffer, allow_pickle=False, **make())
            write_file(file, buffer.getvalue())
        return self.arrays(name)

    def _read(self, file: Path, reader: Callable[[Path], Any]) -> Any:
        try:
            return reader(file)
        except FileNotFoundError:
            raise RunError(
                f"{file} is missing: run `aliascope study` with the phase that writes it first"
            ) from None


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
