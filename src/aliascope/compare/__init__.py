"""Two models over the same images, side by side: what changed, and how sure that is."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn
from torch.utils.data import Dataset

from aliascope.compare.pairing import pair_layers, reads_alike
from aliascope.compare.verdict import unchanged, verdict_of
from aliascope.errors import AliascopeError, RunError
from aliascope.images import ImageSource, open_images
from aliascope.images.preprocessing import crop_of
from aliascope.measure import measure_together
from aliascope.measure.batch import prepare
from aliascope.measure.shiftmap import telling, telling_curves
from aliascope.measure.store import Run
from aliascope.models import LoadedModel, load_model
from aliascope.results.checked import is_whole, write_checked
from aliascope.results.files import Result
from aliascope.results.text import fitted, interval, number, wrapped
from aliascope.results.verdicts import FEW
from aliascope.spectra import AVR_VARIANTS, SAMPLED_VARIANTS
from aliascope.statistics import Estimate, holm, mean_interval, paired

CURVES = "curves.csv"
_IMAGE_METRICS = {
    "agreement": "agreement",
    "iou": "IoU",
    "logit_instability": "logit instability",
    "output_instability": "output instability",
    "score_movement": "score movement",
    "detections": "detections",
    "accuracy": "accuracy",
    "confidence": "confidence",
    "sis_half": "SIS at confidence ½",
    "sis": "SIS",
}
_OF_CLASSIFIERS = ("agreement", "logit_instability", "accuracy", "confidence", "sis_half", "sis")
_LAYER_METRICS = {"sampled_avr": "sampled AVR", "alias_share": "alias share", "avr": "read AVR"}
"""What is printed of each layer; `Comparison.layers` holds every column that both runs have."""
_RESOLUTION = 1e-5
"""Figures of one network agree this far between batch sizes; smaller differences count as none."""
_UNTESTED = ["low", "high", "change", "change_low", "change_high", "t", "p", "d_z", "p_wilcoxon"]
"""What two maps from different places do not have; the published columns they keep."""
_CAPTION = (
    "An observation is a photograph, the mean of its images. {percent} intervals: Student's, "
    "widened for skewness; of the change Fieller's. p: paired t-test; Holm p: the same, corrected "
    "over the layers. Sampled: of what is decimated; alias share: the part of the kept samples' "
    "energy that was folded; read: of what the operation reads, as published."
)


@dataclass(frozen=True, eq=False)
class Comparison(Result):
    """What `compare` found; `str()` prints it as a table."""

    model_a: str
    model_b: str
    shifts: str
    """How the pictures were moved: circular, crop or native; "" where neither run says so."""
    n: int
    """Images in both runs."""
    groups: int
    """Photographs that these were cut from: each is one observation."""
    level: float
    """Coverage of the intervals."""
    images: pd.DataFrame
    """A row a metric: `metric` and the columns of `aliascope.statistics.paired`."""
    layers: pd.DataFrame
    """A row a metric and pair of layers: metric, layer_a, layer_b, kind (of A's), the columns of
    `paired`, and p_holm: the paired p corrected over the layers of that metric. What is decimated
    (sampled_…, alias_share) comes before what the operation reads (avr, …); where the latter lies
    at different places, intervals, changes and paired tests of it are NaN."""
    prediction_agreement: Estimate
    """Share of images that both models give the same class, limits cut to [0, 1]; NaN if one is no
    classifier."""
    notices: tuple[str, ...]
    """What to know before trusting the numbers, a sentence each."""

    @property
    def verdict(self) -> str:
        """What was found, in a sentence or two."""
        return verdict_of(self)

    @property
    def table(self) -> pd.DataFrame:
        """The rows of `images`, without layers, then those of `layers`."""
        filled = [rows for rows in (self.images, self.layers) if len(rows)]
        both = pd.concat(filled or [self.images])
        names = ["metric", "layer_a", "layer_b", "kind"]
        return both.reindex(columns=[*names, *both.columns.difference(names, sort=False)])

    def _blocks(self) -> Iterator[str]:
        return _blocks(self)


def compare(
    a: Run | str | Path | nn.Module | LoadedModel,
    b: Run | str | Path | nn.Module | LoadedModel,
    *,
    images: str | Path | ImageSource | Sequence[Any] | Dataset[Any] | None = None,
    layer_map: Mapping[str, str] | None = None,
    level: float = 0.95,
    seed: int = 0,
    **measure_options: Any,
) -> Comparison:
    """Compare two runs, or two models on the same images, image by image and layer by layer.

    Images are paired by their id; layers by `layer_map`, else by their place (see
    `aliascope.compare.pairing`). Differences are B − A, and such as rounding makes, of 1e-5, count
    as none (of SIS: in the distance √(2 · SIS) that it is half the square of). For intervals and
    tests see `aliascope.statistics.paired`.

    Args:
        a: The run before, or its directory; with `images`, a model as `load_model` takes it.
        b: The run after, or the model.
        images: A source as `open_images` takes it: both models are measured on it, preprocessed
            alike, for A as it asks unless `preprocess` is given.
        layer_map: Names in A -> names in B; other layers are left out.
        level: Coverage of the intervals, in (0, 1).
        seed: Of random weights.
        measure_options: Of `measure`: shifts, limit, device, weights, …; `out` is a directory that
            gets a run directory for each, "A" and "B", comparison.json, and of classifiers
            curves.csv: rows of `shift_curves` of the photographs that tell most.

    Raises:
        RunError: The runs share no image, their layers cannot be paired, or a run cannot be read.
        AliascopeError: What `measure` raises.

    >>> from aliascope import antialias
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.MaxPool2d(2), nn.Conv2d(8, 4, 3, 2, 1))
    >>> found = compare(net, antialias(net), images="photos", limit=2, device="cpu")
    >>> found.layers.query("metric == 'alias_share'")[["layer_a", "layer_b"]].values.tolist()
    [['1', '1.1'], ['2', '2.1']]
    """
    if not 0 < level < 1:
        raise RunError(f"level must lie between 0 and 1, such as 0.95, but is {level:g}")
    out = measure_options.pop("out", None)
    models: list[LoadedModel] = []
    if images is None:
        a, b = (_opened(given, measure_options) for given in (a, b))
    else:
        options = {"seed": seed, **measure_options}
        models = _loaded((a, b), options)
        a, b = _measured(models, images, options, out)
    pairs = pair_layers(a.model, a.strided_layers, b.model, b.strided_layers, layer_map)
    images_a, images_b = (run.images.set_index("image_id") for run in (a, b))
    ids = images_a.index.intersection(images_b.index, sort=False)
    if ids.empty:
        raise RunError(
            f"{a.model} and {b.model} were measured on different images: no id is in both runs, "
            "measure both with the same --images"
        )
    images_a, images_b = images_a.loc[ids], images_b.loc[ids]
    groups = images_a["group"]
    measured = _image_metrics({*images_a, *images_b})
    x, y = (_metrics(images, measured) for images in (images_a, images_b))
    near = _alike(_distances(x), _distances(y))
    table = paired(x, y.mask(near, x), groups, level=level).reset_index(names="metric")
    x, y = _maps(a, b, ids, pairs)
    layers = paired(x, y.mask(_alike(x, y), x), groups, level=level).reset_index()
    here, there = ({layer.name: layer for layer in run.strided_layers} for run in (a, b))
    moved = {(x, y) for x, y in pairs if not reads_alike(here[x], there[y])}
    keys = zip(layers["metric"], layers["layer_a"], layers["layer_b"], strict=True)
    apart = [metric in AVR_VARIANTS and (x, y) in moved for metric, x, y in keys]
    layers.loc[apart, _UNTESTED] = np.nan
    layers["p_holm"] = layers.groupby("metric")["p"].transform(holm)
    layers.insert(3, "kind", [here[name].kind for name in layers["layer_a"]])
    same = (_predictions(images_a) == _predictions(images_b)).astype("float64")
    share = mean_interval(same["prediction"], groups, level=level)
    borders = dict.fromkeys(str(run.config["border"]) for run in (a, b) if "border" in run.config)
    found = Comparison(
        model_a=a.model,
        model_b=b.model,
        shifts=" → ".join(borders),
        n=len(ids),
        groups=groups.nunique(),
        level=level,
        images=table.query("n > 0").reset_index(drop=True),
        layers=layers,
        prediction_agreement=Estimate(*np.clip(share, 0, 1).tolist()),
        notices=tuple(_notices(a, b, groups, pairs, moved, table, layers)),
    )
    if out is not None and models:
        found.save(Path(out) / "comparison.json")
        _keep_curves(Path(out), models, (a, b), images, measure_options)
    return found


def _opened(given: Any, measure_options: Mapping[str, Any]) -> Run:
    if isinstance(given, nn.Module | LoadedModel) or measure_options:
        what = ", ".join(measure_options) or "models"
        raise RunError(
            f"{what} can be compared only where there are images to measure: give them as images="
        )
    return given if isinstance(given, Run) else Run.open(given)


def _loaded(models: Sequence[Any], options: dict[str, Any]) -> list[LoadedModel]:
    if any(isinstance(model, Run) for model in models):
        raise RunError("with images= both models are measured: give models, or leave images out")
    known = {name: options[name] for name in ("weights", "seed") if name in options}
    size = crop_of(options.get("preprocess", "model"))
    first = load_model(models[0], **known, size=size)
    size = size or first.preprocessing.crop  # the second is shown what the first one asks for
    return [first, load_model(models[1], **known, size=size)]


def _measured(
    models: list[LoadedModel], images: Any, options: dict[str, Any], out: str | Path | None
) -> tuple[Run, Run]:
    """Both models' runs, preprocessed as the first one asks; an error of one ends both."""
    if options.get("preprocess", "model") == "model":
        options = options | {"preprocess": models[0].preprocessing}
    jobs = [
        {"model": model, "out": None if out is None else Path(out) / side}
        for side, model in zip("AB", models, strict=True)
    ]
    ended: dict[int, Run] = {}
    with closing(measure_together(images, jobs, **options)) as ending:
        for index, run in ending:
            if isinstance(run, AliascopeError):
                raise run
            ended[index] = run
    return ended[0], ended[1]


def _keep_curves(
    folder: Path,
    models: list[LoadedModel],
    runs: tuple[Run, Run],
    images: Any,
    options: dict[str, Any],
) -> None:
    """The shift curves of the photographs that tell most; none of what is no classifier."""
    if is_whole(folder, CURVES) or any("prediction" not in run.images for run in runs):
        return
    chosen = telling(*(run.images for run in runs))
    source = (
        images
        if isinstance(images, ImageSource)
        else open_images(images, **_only(options, "limit"))
    )
    preprocess = options.get("preprocess", "model")
    instruments = {
        side: prepare(
            model,
            preprocess=models[0].preprocessing if preprocess == "model" else preprocess,
            border="circular",  # the curves make their views themselves
            **_only(options, "device", "precision"),
        )
        for side, model in zip("AB", models, strict=True)
    }
    curves = telling_curves(instruments, source, chosen, border=runs[0].config["border"])
    write_checked(folder, CURVES, curves.to_csv(index=False).encode())


def _only(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names if name in options}


def _distances(metrics: pd.DataFrame) -> pd.DataFrame:
    """SIS is half a squared distance, and the distance is what rounding moves."""
    names = [name for name in ("sis", "sis_half") if name in metrics]
    return metrics.assign(**{name: (2 * metrics[name]) ** 0.5 for name in names})


def _image_metrics(columns: set[str]) -> list[str]:
    """Those to be compared: of classifiers all, also where none was measured."""
    others = _IMAGE_METRICS.keys() - {*_OF_CLASSIFIERS}
    known = columns if others & columns else {*_OF_CLASSIFIERS}
    return [name for name in _IMAGE_METRICS if name in known]


def _metrics(images: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """A row an image, a column a metric; what was not measured is NaN."""
    known = images.rename(columns={"correct": "accuracy"})
    return known.reindex(columns=names).astype("float64")


def _alike(x: pd.DataFrame, y: pd.DataFrame) -> pd.DataFrame:
    """Where two figures differ by no more than rounding."""
    return (y - x).abs() <= _RESOLUTION


def _predictions(images: pd.DataFrame) -> pd.DataFrame:
    return images.reindex(columns=["prediction"]).astype("Int64")  # NA where there is none


def _maps(
    a: Run, b: Run, ids: pd.Index, pairs: list[tuple[str, str]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row an image, a column a metric and pair of layers, of both runs."""
    known = [*SAMPLED_VARIANTS, *AVR_VARIANTS]
    metrics = [name for name in known if name in a.layers and name in b.layers]
    names = ["metric", "layer_a", "layer_b"]
    columns = pd.DataFrame([(m, *pair) for m in metrics for pair in pairs], columns=names)

    def maps(run: Run, side: str) -> pd.DataFrame:
        rows = run.layers.astype({"image_id": str, "layer": str}).set_index(["layer", "image_id"])
        cells = {
            tuple(c.values()): rows.xs(c[side])[c["metric"]] for c in columns.to_dict("records")
        }
        return pd.DataFrame(cells, ids, pd.MultiIndex.from_frame(columns), dtype="float64")

    return maps(a, "layer_a"), maps(b, "layer_b")


def _notices(
    a: Run,
    b: Run,
    groups: pd.Series,
    pairs: list[tuple[str, str]],
    moved: set[tuple[str, str]],
    images: pd.DataFrame,
    layers: pd.DataFrame,
) -> Iterator[str]:
    yield from _unchanged(images, layers)
    yield from _sample(a, b, groups)
    yield from dict.fromkeys([*a.notices, *b.notices])
    here, there = _settings(a), _settings(b)
    for name in here | there:
        if here.get(name) != there.get(name):
            yield f"the runs differ in {name}: {here.get(name)} in A, {there.get(name)} in B"
    if (
        "circular" in (here.get("border"), there.get("border"))
        and (images["n"] > 0).to_numpy().any()
    ):
        yield (
            "circular shifts tear the border and flatter a repair: measure with shifts='crop' "
            "(--shifts crop)"
        )
    if moved:
        names = [" → ".join(dict.fromkeys(pair)) for pair in pairs if pair in moved]
        yield (
            "what the operation reads lies at another place in B than in A: no test of its AVR "
            f"there, see sampled_avr ({', '.join(names)})"
        )
    for side, run in enumerate((a, b)):
        names, partners = [x.name for x in run.strided_layers], {pair[side] for pair in pairs}
        if alone := [name for name in names if name not in partners]:
            yield (
                f"layers of {'AB'[side]} without a partner are left out: {', '.join(alone)} "
                "(a layer map, --map A=B, pairs others)"
            )
    yield from _unknown(len(groups), images, layers)


def _sample(a: Run, b: Run, groups: pd.Series) -> Iterator[str]:
    n, photographs = len(groups), groups.nunique()
    if len(a.images) > n or len(b.images) > n:
        only_a, only_b = len(a.images) - n, len(b.images) - n
        yield f"{only_a} images only in A and {only_b} only in B are left out"
    if photographs == 1:
        yield "a single photograph gives neither intervals nor paired tests"
    elif photographs < FEW:
        yield (
            f"{photographs} photographs are few: below {FEW} each of them weighs in the intervals "
            "and tests, so measure more"
        )


def _unknown(n: int, images: pd.DataFrame, layers: pd.DataFrame) -> Iterator[str]:
    shown = layers[layers["metric"].isin(_LAYER_METRICS)]
    names = [_IMAGE_METRICS[metric] for metric in images["metric"]]
    labels = [_LAYER_METRICS[metric] for metric in shown["metric"]]
    names += [f"{x} of {name}" for x, name in zip(labels, shown["layer_a"], strict=True)]
    counts = [*images["n"], *shown["n"]]
    for known in sorted(set(counts) - {n}):
        where = [name for name, count in zip(names, counts, strict=True) if count == known]
        if known == 0 and where == ["accuracy"]:
            continue  # pictures without labels are nothing to warn of
        yield f"not known in both runs for {n - known} of {n} images: {', '.join(where)}"


def _unchanged(images: pd.DataFrame, layers: pd.DataFrame) -> Iterator[str]:
    """Says so where two networks sample the same maps, or are the same altogether."""
    if unchanged(images, layers):
        yield "nothing changed: no sampled column differs, nor does any figure of an image"
    elif unchanged(images.iloc[:0], layers):
        yield "no sampled column differs: both networks sample the same maps"


def _settings(run: Run) -> dict[str, Any]:
    """What must be equal for two runs to differ in the model alone; nested keys are joined."""
    names = ("images", "preprocessing", "precision", "border")
    chosen = {name: run.config.get(name) for name in names}
    return {str(k): v for k, v in pd.json_normalize(chosen).to_dict("records")[0].items()}


def _blocks(c: Comparison) -> Iterator[str]:
    """The paragraphs of the printed comparison."""
    images = c.images.to_dict("records")
    layers = c.layers.query("n > 0 and metric in @_LAYER_METRICS")
    percent = f"{100 * c.level:g} %"
    sample = f"{c.n} images"
    sample += f" of {c.groups} photographs" if c.groups < c.n else ""
    shifts = f", {c.shifts} shifts" if c.shifts else ""
    yield f"A  {c.model_a}\nB  {c.model_b}\n{sample}{shifts}"
    yield "\n".join(filter(None, _table([_image_cells(row, percent) for row in images])))
    share, low, high = c.prediction_agreement
    if not math.isnan(share):
        yield f"same prediction for {share:.1%} {interval(low, high, '.1%')} of the images"
    header, *rows = _table([_layer_cells(row, percent) for row in layers.to_dict("records")])
    pairs = zip(layers["layer_a"], layers["layer_b"], strict=True)
    named = [" → ".join(dict.fromkeys(pair)) for pair in pairs]
    lines = [header] if header else []
    for name in dict.fromkeys(named):
        lines += [name, *(row for row, own in zip(rows, named, strict=True) if own == name)]
    yield "\n".join(lines)
    yield wrapped([c.verdict])
    yield wrapped([_CAPTION.format(percent=percent)])
    yield wrapped([f"notice: {text}" for text in c.notices])


def _image_cells(row: dict[str, Any], percent: str) -> dict[str, str]:
    form = _form(row)
    means = {"A": number(row["mean_a"], form), "B": number(row["mean_b"], form)}
    changed = {
        "change": number(row["change"], "+z.1%"),
        f"{percent} interval ": interval(row["change_low"], row["change_high"], "+z.1%"),
        "d_z": number(row["d_z"], "z.2f"),
        "p": _pvalue(row["p"]),
    }
    name = f"{_IMAGE_METRICS[row['metric']]:<19}"
    return {"": name} | means | _difference(row, percent) | changed


def _layer_cells(row: dict[str, Any], percent: str) -> dict[str, str]:
    form = _form(row)
    means = {
        side.upper(): f"{number(row[f'mean_{side}'], form)} ± {number(row[f'sd_{side}'], form)}"
        for side in "ab"
    }
    tests = {"paired t": number(row["t"], "z.2f"), "Holm p": _pvalue(row["p_holm"])}
    return (
        {"": f"  {_LAYER_METRICS[row['metric']]:<11}"} | means | _difference(row, percent) | tests
    )


def _difference(row: dict[str, Any], percent: str) -> dict[str, str]:
    form = f"+{_form(row)}"
    found = {"B - A": number(row["difference"], form)}
    if row["difference"] == 0 and row["p"] == 1:
        return found | {f"{percent} interval": "no difference"}
    return found | {f"{percent} interval": interval(row["low"], row["high"], form)}


def _table(rows: list[dict[str, str]]) -> list[str]:
    """Header and rows; an empty header where there are none."""
    if not rows:
        return [""]
    header = [name.rstrip() for name in rows[0]]
    return fitted([header, *([*row.values()] for row in rows)], figures=True)


def _form(row: dict[str, Any]) -> str:
    """The number format that shows two digits of a mean."""
    largest = max(row["mean_a"], row["mean_b"])  # no metric is negative
    decimals = max(4, 1 - math.floor(math.log10(largest))) if largest > 0 else 4
    return f"z.{decimals}f"


def _pvalue(p: float) -> str:
    if p < 1e-300:  # below, the t distribution underflows
        return "<1e-300"
    return number(p, ".0e" if p < 0.001 else ".3f")
