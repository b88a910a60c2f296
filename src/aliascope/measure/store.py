"""A run directory: what was measured of one model, in Parquet parts, crash-safe and resumable.

```
RUN/run.json                     config, layer table, versions, state, skipped images, notices,
                                 and the parts that belong to the run, with their SHA-256
RUN/images/part-NNNNN.parquet    a row an image
RUN/layers/part-NNNNN.parquet    a row an image and layer
```

Every file is written under a temporary name, synced and renamed, run.json last: a part belongs to
the run from the moment run.json lists it. Files that are not listed are leftovers of a kill, which
readers ignore and the next writer of that part replaces; a bit that flips in a listed one is
noticed.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from aliascope.errors import RunError
from aliascope.records import StridedLayer
from aliascope.results.files import (
    lock,
    plain,
    refusal,
    refuse_another,
    refuse_other_images,
    write_file,
)
from aliascope.results.text import columns, pair, wrapped
from aliascope.results.verdicts import sample, share, under
from aliascope.statistics import group_means, mean_intervals

State = Literal["running", "complete", "interrupted", "failed"]

_FORMAT = 2
_RECORDED = ("state", "error", "config", "info", "times", "skipped", "notices")
_KINDS = ("layers", "images")
_MAX_BUFFERED = 4096  # images: bounds the memory where `flush_seconds` alone would not
_TYPES: dict[str, pa.DataType] = dict.fromkeys(
    ("image_id", "group", "note", "identity"), pa.string()
)
_TYPES |= dict.fromkeys(("label", "prediction"), pa.int64()) | {"correct": pa.bool_()}
_NULLABLE = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
_IMAGE_METRICS = {
    "sis": "shift instability (SIS)",
    "sis_half": "SIS at confidence ½",
    "agreement": "agreement",
    "logit_instability": "logit instability",
    "correct": "accuracy",
}
_LAYER_METRICS = {"sampled_avr": "sampled AVR", "alias_share": "alias share", "avr": "read AVR"}


@dataclass(eq=False, repr=False)
class Run:
    """What was measured of one model; `str(run)` is a table of it. `RunWriter` makes it."""

    config: dict[str, Any]
    """What decides the numbers: a run is continued only under an equal one."""
    strided_layers: list[StridedLayer]
    info: dict[str, Any]
    """What is recorded and not compared: versions, device, command, batch size, process id."""
    path: Path | None = None
    """The run directory; None where the rows live in memory."""
    state: State = "running"
    """A process killed without notice leaves "running" behind."""
    error: str = ""
    """The sentence of a failed run."""
    times: dict[str, str] = field(default_factory=dict)
    """started, updated: UTC, ISO 8601."""
    skipped: list[dict[str, str]] = field(default_factory=list)
    """image_id and reason of each image that could not be used."""
    notices: list[str] = field(default_factory=list)
    parts: dict[str, dict[str, str]] = field(default_factory=dict)
    """Name of each part → "images", "layers" → SHA-256 of that file."""
    batches: list[dict[str, pa.Table]] = field(default_factory=list)
    """The rows that are in no file: all of them where there is no directory."""

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """Open a run directory, complete or not; the rows are read when they are asked for.

        Raises:
            RunError: there is none, it is no run directory, its run.json cannot be read, or another
                aliascope wrote it.
        """
        file = (path := Path(path)) / "run.json"
        try:
            record = json.loads(file.read_bytes())
            version = record.pop("format")
            remedy = "upgrade aliascope" if version > _FORMAT else f"delete {path}, measure again"
            if version == _FORMAT:
                layers = [_layer(row) for row in record.pop("layers")]
                parts = record.pop("parts").items()
                # To delete the images file is to drop a part.
                kept = {
                    part: files for part, files in parts if _file(path, "images", part).exists()
                }
                return cls(strided_layers=layers, path=path, parts=kept, **record)
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(
                f"{file} does not exist: give a directory that `aliascope measure --out` wrote"
            ) from None
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise RunError(
                f"{file} cannot be read ({error!r}): delete {path} and measure again"
            ) from error
        raise RunError(f"{file} has format {version}, this aliascope's is {_FORMAT}: {remedy}")

    @property
    def model(self) -> str:
        """The model's spec."""
        return self.config["model"]

    @cached_property
    def images(self) -> pd.DataFrame:
        """A row an image, with the columns of `RunWriter.add`."""
        return self._rows("images", _image_table({name: [] for name in _TYPES}))

    @cached_property
    def layers(self) -> pd.DataFrame:
        """A row an image and layer: image_id, layer (both categorical), order, the metrics."""
        return self._rows("layers", _layer_table([], self.strided_layers, {}))

    def _rows(self, kind: str, empty: pa.Table) -> pd.DataFrame:
        tables = [self._read(part, kind) for part in self.parts]
        tables += [rows[kind] for rows in self.batches]
        return _concat(tables or [empty]).to_pandas(types_mapper=_NULLABLE.get)

    def _read(self, part: str, kind: str) -> pa.Table:
        file, first = (_file(self.path or Path(), name, part) for name in (kind, "images"))
        try:
            data = _verified(file, self.parts[part][kind])
            return pq.ParquetFile(pa.BufferReader(data)).read()
        except (OSError, pa.ArrowException) as error:
            reason = getattr(error, "strerror", None) or error
            raise RunError(
                f"{file} cannot be read ({reason}): delete {first} and run the same command again, "
                "which measures its images anew"
            ) from error

    @property
    def photographs(self) -> pd.Series:
        """Image id → the photograph that it was cut from."""
        ids = self.images["image_id"]
        return self.images.get("group", ids).set_axis(ids)

    @property
    def verdict(self) -> str:
        """How far predictions move and which layer aliases most, in words."""
        return " ".join(_sentences(self)) if len(self.images) else "No image was measured."

    @property
    def table(self) -> pd.DataFrame:
        """A row a metric, of the images and then of each layer: mean and standard deviation.

        As everywhere, an observation is a photograph, the mean of its images.
        """
        summary = self.to_dict()
        found = [({"layer": "", "kind": ""}, summary["metrics"])]
        found += [({"layer": x["name"], "kind": x["kind"]}, x) for x in summary["layers"]]
        rows = [
            {"model": self.model, **place, "metric": name, **figures[name]}
            for place, figures in found
            for name in (*_IMAGE_METRICS, *_LAYER_METRICS)
            if name in figures
        ]
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """What run.json holds and a summary of the rows, in JSON's own types.

        Returns:
            Besides run.json's keys "path"; "measured", the number of images; "verdict"; "metrics"
            and, in each of "layers": {mean, std} a metric over photographs, None where undefined
            ("correct" is the accuracy).
        """
        groups = self.photographs
        layers = [
            row | _moments(self.layers[self.layers["layer"] == row["name"]], groups, _LAYER_METRICS)
            for row in map(asdict, self.strided_layers)
        ]
        metrics = _moments(self.images, groups, _IMAGE_METRICS)
        del metrics["correct"]["std"]  # of a truth value the mean says all
        rows = {"path": self.path, "measured": len(self.images), "verdict": self.verdict}
        rows |= {"metrics": metrics}
        return _record(self) | plain(rows | {"layers": layers})

    def __repr__(self) -> str:
        return f"<Run of {self.model}, {self.state}, in {self.path or 'memory'}>"

    def __str__(self) -> str:
        summary = self.to_dict()
        moved = f", {self.config['border']} shifts" if "border" in self.config else ""
        head = f"{self.model} on {self.config.get('images', 'images')}{moved}: "
        head += f"{summary['measured']} images measured, {len(self.skipped)} skipped, {self.state}"
        means = [[text, _cell(summary["metrics"][key])] for key, text in _IMAGE_METRICS.items()]
        layers = [["layer", "kind", "stride", *_LAYER_METRICS.values()]]
        layers += [_layer_cells(row) for row in summary["layers"]]
        tail = [f"error: {self.error}"] if self.error else []
        tail += [f"notice: {text}" for text in self.notices]
        tail += [f"skipped {item['image_id']}: {item['reason']}" for item in self.skipped[:5]]
        tail += [f"… and {len(self.skipped) - 5} more"] if len(self.skipped) > 5 else []
        verdict = wrapped([self.verdict])
        blocks = [wrapped([head]), columns(means), columns(layers), verdict, wrapped(tail)]
        return "\n\n".join(filter(None, blocks))


class RunWriter:
    """Writes one run, in a `with` block; an equal one in the directory is continued or extended.

    On leaving the block early, by an error or Ctrl-C, the buffered rows are written all the same.

    Args:
        path: the run directory, made where missing; None keeps the rows in memory.
        config: what decides the numbers; "model" names the model, "images" their source.
        layers: the layers measured.
        info: versions, device, command: recorded, not compared.
        identities: of all images that are asked for, by their ids: what tells such an image and its
            label from another of the same id. A run that holds some of them is extended by the
            others. None where the images are not known before they are read.
        flush_seconds: how much work, in seconds, a kill may cost.

    Attributes:
        run: the run as it stands; what is added to its `info` is saved with the next part.
        measured: ids of what is asked for that the run holds already; known inside the block.
        previous_info: the `info` of that run, or None.

    Raises:
        RunError: on entering the block: the directory holds another run, images that have changed
            since, images that are not asked for, or somebody else's files; another process is
            writing it, or it cannot be written.

    Example:
        >>> layer = StridedLayer("conv1", "conv", (7, 7), (2.0, 2.0), (3, 224, 224),
        ...                      (64, 112, 112), (2.0, 2.0), 0, shortcut=False)
        >>> with RunWriter(None, {"model": "toy", "images": "noise"}, [layer], {}) as writer:
        ...     images = {"image_id": ["a", "b"], "label": [1, None], "sis": [0.1, 0.2]}
        ...     writer.add(images, {"avr": np.array([[0.003], [0.004]])})
        ...     writer.skip("c", "truncated")
        ...     print(writer.finish())
        toy on noise: 2 images measured, 1 skipped, complete
        <BLANKLINE>
        shift instability (SIS)  0.1500 ± 0.0707
        SIS at confidence ½      –
        agreement                –
        logit instability        –
        accuracy                 –
        <BLANKLINE>
        layer  kind  stride  sampled AVR  alias share  read AVR
        conv1  conv  2       –            –            0.0035 ± 0.0007
        <BLANKLINE>
        2 photographs: fewer than 30, so that each of them weighs.
        <BLANKLINE>
        skipped c: truncated
    """

    def __init__(
        self,
        path: str | Path | None,
        config: dict[str, Any],
        layers: Sequence[StridedLayer],
        info: dict[str, Any],
        *,
        identities: Mapping[str, str] | None = None,
        flush_seconds: float = 10.0,
    ) -> None:
        # Through JSON, so that a run in memory and one read back have the same config.
        self.run = Run(plain(config), list(layers), info | {"pid": os.getpid()})
        self.run.path = None if path is None else Path(path)
        self.measured: frozenset[str] = frozenset()
        self.previous_info: dict[str, Any] | None = None
        self._identities = identities
        self._flush_seconds = flush_seconds
        self._flushed = time.monotonic()
        self._number = 0
        self._held = ExitStack()

    def __enter__(self) -> "RunWriter":  # noqa: PYI034  (beartype knows Self in whole classes only)
        with ExitStack() as held:
            if self.run.path is not None:
                held.callback(lock(self.run.path).release)
                self._resume(self.run.path)
            self._held = held.pop_all()
        return self

    def _resume(self, path: Path) -> None:
        if (path / "run.json").exists():
            earlier = Run.open(path)
            refuse_another(path, _identity(earlier), _identity(self.run))
            held = (
                earlier.images.reindex(columns=["image_id", "identity"]).astype(object).fillna("")
            )
            self.measured = frozenset(held["image_id"])
            if self._identities is not None:
                refuse_other_images(path, dict(held.to_numpy()), self._identities)
            self.run.times, self.run.notices = earlier.times, earlier.notices
            self.run.parts = earlier.parts
            self.previous_info = earlier.info
            self._number = 1 + max(map(_number, self.run.parts), default=-1)
        # run.json before the folders: with folders and without it, this is a stranger's directory.
        self._save()
        with refusal(path):
            for kind in _KINDS:
                (path / kind).mkdir(exist_ok=True)
                for leftover in (path / kind).glob(".part-*.tmp"):
                    leftover.unlink()

    def add(
        self,
        images: dict[str, Sequence[Any] | np.ndarray],
        layers: dict[str, Float[np.ndarray, "batch layer"]],
    ) -> None:
        """Add the rows of one batch of B images, none of them in `measured`.

        Args:
            images: name -> B values: image_id; group, the photograph it was cut from; label and
                prediction, indices of classes; correct, a truth value; note; any other name is a
                metric, kept as float32. None and NaN: unknown. The column identity is added here.
            layers: metric -> (B, L), in the order of the run's layers, kept as float32.

        Raises:
            RunError: a part cannot be written; the parts before it are safe.
        """
        if self._identities is not None:
            known = [self._identities[image_id] for image_id in images["image_id"]]
            images = images | {"identity": known}
        rows = _layer_table(images["image_id"], self.run.strided_layers, layers)
        self.run.batches.append({"layers": rows, "images": _image_table(images)})
        late = time.monotonic() - self._flushed >= self._flush_seconds
        if late or len(images["image_id"]) * len(self.run.batches) >= _MAX_BUFFERED:
            self._flush()

    def skip(self, image_id: str, reason: str) -> None:
        """List an image that cannot be used; a continued run tries it again."""
        self.run.skipped.append({"image_id": image_id, "reason": reason})

    def notice(self, text: str) -> None:
        """Record, once, what the user should know about the whole run."""
        if text not in self.run.notices:
            self.run.notices.append(text)

    def finish(self) -> Run:
        """Write what is left and mark the run complete.

        Raises:
            RunError: the directory cannot be written.
        """
        self._flush()
        self.run.state = "complete"
        self._save()
        return self.run

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self._held:
            if self.run.state == "running":
                failed = isinstance(error, Exception)
                self.run.state = "failed" if failed else "interrupted"
                self.run.error = str(error) if failed else ""
                self._flush()

    def _flush(self) -> None:
        if self.run.batches and self.run.path is not None:
            part, digests = f"part-{self._number:05d}", {}
            for kind in _KINDS:
                table = _concat([batch[kind] for batch in self.run.batches])
                pq.write_table(table, stream := pa.BufferOutputStream())
                write_file(_file(self.run.path, kind, part), data := stream.getvalue())
                digests[kind] = hashlib.sha256(data).hexdigest()
            self.run.parts[part] = digests
            # In one step: interrupted before it, the part is written again, not its rows twice.
            self.run.batches, self._number = [], self._number + 1
        self._flushed = time.monotonic()
        self._save()

    def _save(self) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.run.times = {"started": now, **self.run.times, "updated": now}
        if self.run.path is not None:
            record = _record(self.run) | {"parts": self.run.parts}
            text = json.dumps(record, indent=2, ensure_ascii=False)
            # A file name that is no Unicode becomes a JSON escape, and comes back as it was.
            write_file(self.run.path / "run.json", text.encode("utf-8", "backslashreplace"))


def _identity(run: Run) -> dict[str, Any]:
    return run.config | {"layers": [layer.name for layer in run.strided_layers]}


def _file(path: Path, kind: str, part: str) -> Path:
    return path / kind / f"{part}.parquet"


def _verified(file: Path, digest: str) -> bytes:
    # Parquet's own checksums cover its pages, not what it says of them.
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise OSError("its bytes are not those that were written")
    return data


def _number(part: str) -> int:
    return int(part.removeprefix("part-"))


def _array(name: str, values: Sequence[Any] | np.ndarray) -> pa.Array:
    # What is not named there is a metric; NaN becomes null and is read back as NaN.
    return pa.array(values, _TYPES.get(name, pa.float32()), from_pandas=True)


def _image_table(columns: dict[str, Any]) -> pa.Table:
    return pa.table({name: _array(name, values) for name, values in columns.items()})


def _layer_table(ids: Any, layers: list[StridedLayer], columns: dict[str, np.ndarray]) -> pa.Table:
    image, layer = (index.ravel() for index in np.indices((len(ids), len(layers)), np.int32))
    names = _array("image_id", [layer.name for layer in layers])
    # Dictionary-encoded, so that a million rows do not hold a million strings.
    keys = {
        "image_id": pa.DictionaryArray.from_arrays(image, _array("image_id", ids)),
        "layer": pa.DictionaryArray.from_arrays(layer, names),
        "order": np.array([layer.order for layer in layers], np.int32)[layer],
    }
    return pa.table(keys | {name: _array(name, values.ravel()) for name, values in columns.items()})


def _concat(tables: list[pa.Table]) -> pa.Table:
    # A metric that only some parts have is null in the others.
    return pa.concat_tables(tables, promote_options="default").unify_dictionaries()


def _record(run: Run) -> dict[str, Any]:
    kept = {"format": _FORMAT} | {name: getattr(run, name) for name in _RECORDED}
    return plain(kept | {"layers": [asdict(layer) for layer in run.strided_layers]})


def _layer(row: dict[str, Any]) -> StridedLayer:
    known: Any = {name: tuple(v) if isinstance(v, list) else v for name, v in row.items()}
    return StridedLayer(**known)


def _sentences(run: Run) -> Iterator[str]:
    """What `Run.verdict` says, from the means over photographs."""
    images, groups = run.images.set_index("image_id"), run.photographs
    means = mean_intervals(images.reindex(columns=["logit_instability", "agreement"]), groups)
    means = means.clip(lower=0)  # neither can be negative, an interval of few photographs can
    if np.isfinite(means["value"].to_numpy(float)).all():
        moved = share(*means.loc["logit_instability"], of="its logits' length")
        kept = share(*means.loc["agreement"].clip(upper=1), of="them")
        shifts = under(str(run.config.get("border", "")))
        yield f"{run.model} moves {shifts} by {moved} and keeps its prediction under {kept}."
    layers = run.layers.reindex(columns=["image_id", "layer", "alias_share"]).dropna()
    if len(layers):
        shares = layers.pivot_table("alias_share", "image_id", "layer", observed=True)
        folded = mean_intervals(shares, groups.loc[shares.index])
        most = folded["value"].idxmax()
        energy = share(*folded.loc[most].clip(0, 1), of="the energy of its samples")
        yield f"{most} aliases most: folded is {energy}."
    yield sample(len(images), groups.nunique())


def _moments(
    rows: pd.DataFrame, groups: pd.Series, names: dict[str, str]
) -> dict[str, dict[str, float]]:
    """Mean and sample standard deviation over photographs; NaN where a metric was not measured."""
    values = rows.reindex(columns=list(names)).astype(float)
    each = group_means(values, groups.loc[rows["image_id"]])
    return each.agg(["mean", "std"]).to_dict()


def _cell(moments: dict[str, float | None]) -> str:
    return " ± ".join(f"{value:.4f}" for value in moments.values() if value is not None) or "–"


def _layer_cells(row: dict[str, Any]) -> list[str]:
    name = row["name"] if len(row["name"]) <= 23 else f"…{row['name'][-22:]}"
    return [
        name,
        row["kind"],
        pair(*row["stride"]),
        *(_cell(row[metric]) for metric in _LAYER_METRICS),
    ]
