"""A run directory: what was measured of one model, in Parquet parts, crash-safe and resumable.

```
RUN/run.json                     config, layer table, versions, state, skipped images, notices,
                                 and the parts that belong to the run, with their SHA-256
RUN/shard-I-of-N.json            the same of one of several writers, until `merge`
RUN/images/part-….parquet        a row an image
RUN/layers/part-….parquet        a row an image and layer
```

Every file is written under a temporary name, synced and renamed, the record last: a part belongs to
the run from the moment a record lists it. Files that are not listed are leftovers of a kill, which
readers ignore and the next writer of that part replaces; a bit that flips in a listed one, or in a
record, is noticed.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import isfinite
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute

from aliascope.errors import RunError
from aliascope.measure.parts import (
    DAMAGE,
    NULLABLE,
    TYPES,
    Digests,
    file_of,
    image_table,
    layer_table,
    read_part,
    together,
)
from aliascope.records import StridedLayer
from aliascope.results.files import Place, parsed, place, plain, refuse_another, unsealed
from aliascope.results.text import brief, columns, pair, wrapped
from aliascope.results.verdicts import sample, share, under
from aliascope.statistics import group_means, mean_intervals

State = Literal["running", "complete", "interrupted", "failed"]

RECORD, SHARD = "run.json", "shard-{}.json"
_FORMAT = 3
_VALUES: dict[str, type] = {"state": str, "error": str}
_VALUES |= dict.fromkeys(("config", "info", "times", "parts"), dict)
_VALUES |= dict.fromkeys(("skipped", "notices"), list)
_RECORDED = ("state", "error", "config", "info", "times", "skipped", "notices")
_IMAGE_METRICS = {
    "sis": "shift instability (SIS)",
    "sis_half": "SIS at confidence ½",
    "agreement": "agreement",
    "logit_instability": "logit instability",
    "correct": "accuracy",
}
_OTHER_METRICS = {
    "iou": "IoU",
    "output_instability": "output instability",
    "score_movement": "score movement",
    "detections": "detections an image",
}
"""Of maps and detections: shown where they were measured, and then what was not is not."""
_LAYER_METRICS = {"sampled_avr": "sampled AVR", "alias_share": "alias share", "avr": "read AVR"}


@dataclass(eq=False, repr=False)
class Run:
    """What was measured of one model; `str(run)` is a table of it. `RunWriter` makes it."""

    config: dict[str, Any]
    """What decides the numbers: a run is continued only under an equal one."""
    strided_layers: list[StridedLayer]
    info: dict[str, Any]
    """What is recorded and not compared: versions, device, command, batch size, process id."""
    path: Place | None = None
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
    parts: dict[str, Digests] = field(default_factory=dict)
    """Name of each part → "images", "layers" → SHA-256 of that file."""
    batches: list[dict[str, pa.Table]] = field(default_factory=list)
    """The rows that are in no file: all of them where there is no directory."""

    @classmethod
    def open(cls, path: Place) -> "Run":
        """Open a run directory, complete or not; the rows are read when they are asked for.

        Of a run that several processes write a shard each, all their records make one run. It is
        complete when all shards are.

        Raises:
            RunError: there is none, it is no run directory, a record cannot be read or is of
                another run, or another aliascope wrote it.
        """
        path = place(path)
        found = {file.name: _opened(file) for file in records(path)}
        if not found:
            raise RunError(
                f"{path / RECORD} does not exist: give a directory that `aliascope measure --out` "
                "wrote"
            )
        first, *others = found.values()
        for other in others:
            refuse_another(path, identity_of(first), identity_of(other))
        return first if [*found] == [RECORD] else _united(found)

    @property
    def model(self) -> str:
        """The model's spec."""
        return self.config["model"]

    @cached_property
    def images(self) -> pd.DataFrame:
        """A row an image, with the columns of `RunWriter.add`."""
        return _frame(self.rows("images"))

    @cached_property
    def layers(self) -> pd.DataFrame:
        """A row an image and layer: image_id, layer (both categorical), order, the metrics."""
        return _frame(self.rows("layers"))

    def rows(self, kind: str) -> pa.Table:
        """The rows of images or of layers, as they are stored."""
        tables = [self.read(part, kind) for part in self.parts]
        tables += [rows[kind] for rows in self.batches]
        if not tables and kind == "images":
            return image_table({name: [] for name in TYPES})
        return _once(together(tables)) if tables else layer_table([], self.strided_layers, {})

    def read(self, part: str, kind: str) -> pa.Table:
        """The rows of one part; raises RunError unless they are what was written."""
        path = self.path
        try:
            return read_part(path, kind, part, self.parts[part][kind])
        except DAMAGE as error:
            reason = getattr(error, "strerror", None) or error
            raise RunError(
                f"{file_of(path, kind, part)} cannot be read ({reason}): run the same command "
                "again, without --shard, which measures its images anew"
            ) from error

    @property
    def photographs(self) -> pd.Series:
        """Image id → the photograph that it was cut from."""
        images: Any = self.images
        ids = images["image_id"]
        return images.get("group", ids).set_axis(ids)

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
            for name in (*_IMAGE_METRICS, *_OTHER_METRICS, *_LAYER_METRICS)
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
        rows: Any = self.layers
        layers = [
            row | _moments(rows[rows["layer"] == row["name"]], groups, _LAYER_METRICS)
            for row in map(asdict, self.strided_layers)
        ]
        metrics = _moments(self.images, groups, _image_metrics(self.images))
        if "correct" in metrics:
            del metrics["correct"]["std"]  # of a truth value the mean says all
        rows = {"path": self.path, "measured": len(self.images), "verdict": self.verdict}
        rows |= {"metrics": metrics}
        return record_of(self) | plain(rows | {"layers": layers})

    def __repr__(self) -> str:
        return f"<Run of {self.model}, {self.state}, in {self.path or 'memory'}>"

    def __str__(self) -> str:
        summary = self.to_dict()
        moved = f", {self.config['border']} shifts" if "border" in self.config else ""
        head = f"{self.model} on {self.config.get('images', 'images')}{moved}: "
        head += f"{summary['measured']} images measured, {len(self.skipped)} skipped, {self.state}"
        names = _image_metrics(self.images).items()
        means = [[text, _cell(summary["metrics"][key])] for key, text in names]
        layers = [["layer", "kind", "stride", *_LAYER_METRICS.values()]]
        layers += [_layer_cells(row) for row in summary["layers"]]
        tail = [f"error: {self.error}"] if self.error else []
        tail += [f"notice: {text}" for text in self.notices]
        tail += [f"skipped {item['image_id']}: {item['reason']}" for item in self.skipped[:5]]
        tail += [f"… and {len(self.skipped) - 5} more"] if len(self.skipped) > 5 else []
        verdict = wrapped([self.verdict])
        blocks = [wrapped([head]), columns(means), columns(layers), verdict, wrapped(tail)]
        return "\n\n".join(filter(None, blocks))


def records(path: Place) -> Iterator[Place]:
    """The files by which a directory is known as a run's."""
    yield from (file for file in [path / RECORD] if file.exists())
    yield from sorted(path.glob(SHARD.format("*")))


def record_of(run: Run) -> dict[str, Any]:
    """What is written of a run, but its parts."""
    kept = {"format": _FORMAT} | {name: getattr(run, name) for name in _RECORDED}
    return plain(kept | {"layers": [asdict(layer) for layer in run.strided_layers]})


def identity_of(run: Run) -> dict[str, Any]:
    """What decides the numbers."""
    return run.config | {"layers": [layer.name for layer in run.strided_layers]}


def shards_left(path: Place) -> list[str]:
    """Shards of a run, I/N, that are not complete."""
    return _left({file.name: _opened(file) for file in records(path) if file.name != RECORD})


def _left(found: dict[str, Run]) -> list[str]:
    """Of the partitions under way, the one that lacks least: which of its shards do."""
    counts = {name.removesuffix(".json").rpartition("-")[2] for name in found}
    left = [
        [
            f"{i}/{n}"
            for i in range(int(n))
            if getattr(found.get(SHARD.format(f"{i}-of-{n}")), "state", "") != "complete"
        ]
        for n in counts
        if n.isdecimal()
    ]
    return min(left, key=len, default=[])


def _opened(file: Place) -> Run:
    path = file.parent
    try:
        version = parsed(data := file.read_bytes())["format"]
        remedy = "upgrade aliascope" if version > _FORMAT else f"delete {path}, measure again"
        if version == _FORMAT:
            record = unsealed(data)
            del record["format"]
            layers = [_layer(row) for row in record.pop("layers")]
            _check(record)
            return Run(strided_layers=layers, path=path, **record)
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise RunError(
            f"{file} cannot be read ({brief(error)}): delete {path} and measure again"
        ) from error
    raise RunError(f"{file} has format {version}, this aliascope's is {_FORMAT}: {remedy}")


def _check(record: dict[str, Any]) -> None:
    """Raise ValueError unless the values are of their kinds, and parts lie in the run."""
    for name, value in record.items():
        if name in _VALUES and not isinstance(value, _VALUES[name]):
            raise ValueError(f"{name} is {value!r:.50}")
    times = [record["times"][name] for name in ("started", "updated")]
    texts = [*record["notices"], *times, record["config"]["model"]]
    texts += [item[key] for item in record["skipped"] for key in ("image_id", "reason")]
    texts += [files[kind] for files in record["parts"].values() for kind in ("images", "layers")]
    if (listing := record["info"].get("listing")) is not None:
        texts.append(listing)
    if any(not isinstance(text, str) for text in texts):
        raise ValueError("it has something else in the place of text")
    if strange := [part for part in record["parts"] if not re.fullmatch(r"part-[\w-]+", part)]:
        raise ValueError(f"{strange[0]!r:.50} is no part")


def _united(found: dict[str, Run]) -> Run:
    """One run of the records of all its writers."""
    whole = list(found.values())
    shards = {name: run for name, run in found.items() if name != RECORD}
    told = list(shards.values())
    states = {run.state for run in told}
    state: State = "interrupted"
    if states & {"running", "failed"}:
        state = "running" if "running" in states else "failed"
    last = max(told, key=lambda run: run.times["updated"])
    listings = {run.info.get("listing") for run in whole}
    return Run(
        config=last.config,
        strided_layers=last.strided_layers,
        info=last.info | {"listing": listings.pop() if len(listings) == 1 else None},
        path=last.path,
        state="complete" if not _left(shards) else state,
        error="; ".join(dict.fromkeys(run.error for run in told if run.error)),
        times={
            "started": min(run.times["started"] for run in whole),
            "updated": last.times["updated"],
        },
        # What a shard could not use it says itself; it tries again what was skipped before.
        skipped=[item for run in told for item in run.skipped],
        notices=[*dict.fromkeys(text for run in whole for text in run.notices)],
        parts={part: files for run in whole for part, files in run.parts.items()},
    )


def _once(table: pa.Table) -> pa.Table:
    """Without the rows of an image that a part before has too: shards of two partitions overlap."""
    keys = [name for name in ("image_id", "layer") if name in table.schema.names]
    plainly = [table[name].cast(pa.string()) for name in keys]
    pc: Any = pyarrow.compute  # whose functions are made at run time
    joined = pc.binary_join_element_wise(*plainly, "\0") if len(plainly) > 1 else plainly[0]
    if pc.count_distinct(joined).as_py() == table.num_rows:
        return table
    twice = joined.to_pandas().duplicated().to_numpy()
    return table.filter(pa.array(~twice))


def _frame(table: pa.Table) -> pd.DataFrame:
    return table.to_pandas(types_mapper=NULLABLE.get)


def _layer(row: Any) -> StridedLayer:
    known: Any = {name: tuple(v) if isinstance(v, list) else v for name, v in row.items()}
    layer = StridedLayer(**known)
    sizes = [layer.kernel, layer.stride, layer.cumulative_stride]
    numbers = [*sum(sizes, ()), *layer.input_shape, *layer.output_shape, layer.order]
    texts = [layer.name, layer.kind, layer.function or ""]
    if {len(size) for size in sizes} != {2} or not (
        all(isinstance(x, int | float) and isfinite(x) for x in numbers)
        and all(isinstance(text, str) for text in texts)
    ):
        raise ValueError(f"{row!r:.100} is no layer")
    return layer


def _sentences(run: Run) -> Iterator[str]:
    """What `Run.verdict` says, from the means over photographs."""
    images, groups = run.images.set_index("image_id"), run.photographs
    wanted = ["logit_instability", "output_instability", "agreement"]
    means = mean_intervals(images.reindex(columns=wanted), groups)
    means = means.clip(lower=0)  # none can be negative, an interval of few photographs can
    known = np.isfinite(means["value"])
    kept = _kept(images, means.loc["agreement"].clip(upper=1)) if known["agreement"] else ""
    shifts = under(str(run.config.get("border", "")))
    if known["logit_instability"] and kept:
        moved = share(*means.loc["logit_instability"], of="its logits' length")
        yield f"{run.model} moves {shifts} by {moved} and keeps {kept}."
    elif known["output_instability"]:
        moved = share(*means.loc["output_instability"], of="its answer's length")
        yield f"{run.model} moves {shifts} by {moved}."
    elif kept and "detections" in images:
        yield f"{run.model} keeps {shifts} {kept}."
    layers = run.layers.reindex(columns=["image_id", "layer", "alias_share"]).dropna()
    if len(layers):
        shares = layers.pivot_table("alias_share", "image_id", "layer", observed=True)
        folded = mean_intervals(shares, groups.loc[shares.index])
        most = folded["value"].idxmax()
        energy = share(*folded.loc[most].clip(0, 1), of="the energy of its samples")
        yield f"{most} aliases most: folded is {energy}."
    yield sample(len(images), groups.nunique())


def _kept(images: pd.DataFrame, agreement: pd.Series) -> str:
    """What agreement is a share of."""
    if "detections" in images:
        return share(*agreement, of="its detections")
    if "iou" in images:
        return f"the class of {share(*agreement, of='the pixels')}"
    return f"its prediction under {share(*agreement, of='them')}"


def _image_metrics(images: pd.DataFrame) -> dict[str, str]:
    """What is shown of the images: all figures of a classifier, or those of another answer."""
    if not {*_OTHER_METRICS} & {*images}:
        return _IMAGE_METRICS
    return {name: x for name, x in (_IMAGE_METRICS | _OTHER_METRICS).items() if name in images}


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
