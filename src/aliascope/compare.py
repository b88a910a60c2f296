"""Two runs over the same images, side by side: what changed, and how sure that is."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd

from aliascope.errors import RunError
from aliascope.files import plain
from aliascope.statistics import Estimate, bootstrap_interval, holm, paired
from aliascope.store import Run
from aliascope.text import wrapped

_IMAGE_METRICS = ["sis", "agreement", "logit_instability", "confidence", "accuracy"]
_RESOLUTION = 1e-5
"""AVRs of one model agree this far between batch sizes; smaller differences count as none."""

# ResNet-50 and its BlurPool version, which blurs after the 3×3 convolution, before the next one.
_ANTIALIASED_RESNET50 = {"conv1": "conv1", "maxpool": "maxpool.1"}
for _stage in (2, 3, 4):
    _ANTIALIASED_RESNET50[f"layer{_stage}.0.conv2"] = f"layer{_stage}.0.conv3.0"
    _ANTIALIASED_RESNET50[f"layer{_stage}.0.downsample.0"] = f"layer{_stage}.0.downsample.0"

_HEADLINE = (
    "mean SIS {mean_a:{f}} → {mean_b:{f}}, {change:+z.1%} "
    "[{change_low:+z.1%}, {change_high:+z.1%}], d_z {d_z:z.2f}, paired t-test p {p}"
)
_DIFFERENCE = {"B - A": "{difference:+{f}}", "interval": "[{low:+{f}}, {high:+{f}}]"}
_IMAGE_TABLE = {"": "{metric:<17}", "A": "{mean_a:{f}}", "B": "{mean_b:{f}}"} | _DIFFERENCE
_IMAGE_TABLE |= {"change": "{change:+z.1%}", "d_z": "{d_z:z.2f}", "p": "{p}"}
_IMAGE_TABLE |= {"Wilcoxon p": "{p_wilcoxon}"}
_LAYER_TABLE = {"AVR": "", "A": "{mean_a:{f}} ± {sd_a:{f}}", "B": "{mean_b:{f}} ± {sd_b:{f}}"}
_LAYER_TABLE |= _DIFFERENCE | {"paired t": "{t:z.2f}", "two-sample t": "{t_two_sample:z.2f}"}
_LAYER_TABLE |= {"Holm p": "{p_holm}"}


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` found; `str()` prints it as a table."""

    model_a: str
    model_b: str
    n: int
    """Images in both runs."""
    groups: int
    """Photographs that these were cut from: intervals resample them, paired tests average them."""
    level: float
    """Coverage of the intervals."""
    images: pd.DataFrame
    """A row a metric: `metric` and the columns of `aliascope.statistics.paired`."""
    layers: pd.DataFrame
    """A row a metric and pair of layers: metric, layer_a, layer_b, kind (of A's), the columns of
    `paired`, and p_holm: the paired p corrected over the layers of that metric."""
    prediction_agreement: Estimate
    """Share of images that both models give the same class; NaN if one is no classifier."""
    notices: tuple[str, ...]
    """What to know before trusting the numbers, a sentence each."""

    def to_dict(self) -> dict[str, Any]:
        """The same in JSON's own types, the frames as lists of rows; None is NaN or infinite."""
        return plain(vars(self) | {"prediction_agreement": self.prediction_agreement._asdict()})

    def __str__(self) -> str:
        return "\n\n".join(filter(None, _blocks(self)))


def compare(
    run_a: Run | str | Path,
    run_b: Run | str | Path,
    *,
    layer_map: Mapping[str, str] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare two runs image by image and layer by layer.

    Images are paired by their id; layers by `layer_map`, else by the built-in map of ResNet-50 and
    its BlurPool version where the names fit, else by order of execution. Differences are B − A; for
    intervals and tests see `aliascope.statistics.paired`.

    Args:
        run_a: The run before, or its directory.
        run_b: The run after, or its directory.
        layer_map: Names in A -> names in B; other layers are left out.
        level: Coverage of the intervals, in (0, 1).
        seed: Of the bootstrap.

    Raises:
        RunError: The runs share no image, their layers cannot be paired, or a run cannot be read.

    Source:
        ResNet-50's map: Zhang, Making Convolutional Networks Shift-Invariant Again (2019).

    >>> from aliascope.store import RunWriter
    >>> def run(model, sis):
    ...     with RunWriter(None, {"model": model}, [], {}) as writer:
    ...         ids = ["cat", "cup", "sea", "sky"]
    ...         writer.add({"image_id": ids, "group": ids, "sis": sis}, {})
    ...         return writer.finish()
    >>> a, b = run("plain", [0.4, 0.3, 0.2, 0.4]), run("blurred", [0.2, 0.2, 0.2, 0.3])
    >>> compare(a, b).images[["metric", "mean_a", "mean_b", "difference", "t"]].round(3)
      metric  mean_a  mean_b  difference      t
    0    sis   0.325   0.225        -0.1 -2.449
    """
    if not 0 < level < 1:
        raise RunError(f"level must lie between 0 and 1, such as 0.95, but is {level:g}")
    a, b = (run if isinstance(run, Run) else Run.open(run) for run in (run_a, run_b))
    pairs = pair_layers(a.model, _names(a), b.model, _names(b), layer_map)
    images_a, images_b = (run.images.set_index("image_id") for run in (a, b))
    ids = images_a.index.intersection(images_b.index, sort=False)
    if ids.empty:
        raise RunError(
            f"{a.model} and {b.model} were measured on different images: no id is in both runs, "
            "measure both with the same --images"
        )
    images_a, images_b = images_a.loc[ids], images_b.loc[ids]
    groups = images_a["group"]
    options = {"level": level, "seed": seed}
    images = paired(_metrics(images_a), _metrics(images_b), groups, **options)
    images = images.reset_index(names="metric")
    layers = paired(*_maps(a, b, ids, pairs), groups, **options).reset_index()
    layers["p_holm"] = layers.groupby("metric")["p"].transform(holm)
    kinds = {layer.name: layer.kind for layer in a.strided_layers}
    layers.insert(3, "kind", [kinds[name] for name in layers["layer_a"]])
    same = (_predictions(images_a) == _predictions(images_b)).astype("float64")
    return Comparison(
        model_a=a.model,
        model_b=b.model,
        n=len(ids),
        groups=groups.nunique(),
        level=level,
        images=images.query("n > 0").reset_index(drop=True),
        layers=layers,
        prediction_agreement=bootstrap_interval(same["prediction"], groups, **options),
        notices=tuple(_notices(a, b, groups, pairs, images, layers)),
    )


def pair_layers(
    model_a: str,
    names_a: list[str],
    model_b: str,
    names_b: list[str],
    layer_map: Mapping[str, str] | None = None,
) -> list[tuple[str, str]]:
    """Names of the layers to compare, in A's order of execution; see `compare`.

    Raises:
        RunError: they cannot be paired.

    >>> pair_layers("plain", ["stem", "pool"], "blurred", ["stem", "pool.1"])
    [('stem', 'stem'), ('pool', 'pool.1')]
    """
    layer_map = layer_map or _built_in(names_a, names_b)
    if not layer_map and len(names_a) == len(names_b):
        return list(zip(names_a, names_b, strict=True))
    if not layer_map:
        raise RunError(
            f"{model_a} has {len(names_a)} downsampling layers ({', '.join(names_a)}), {model_b} "
            f"has {len(names_b)} ({', '.join(names_b)}): pair them with a layer map (--map A=B) or "
            "measure both with --ops conv"
        )
    for model, names, wanted in (
        (model_a, names_a, layer_map),
        (model_b, names_b, layer_map.values()),
    ):
        for name in wanted:
            if name not in names:
                nearest = get_close_matches(name, names, n=1, cutoff=0)
                hint = f", the nearest name is {nearest[0]}" if nearest else ""
                raise RunError(f"no layer {name} was measured of {model}{hint}")
    return [(name, layer_map[name]) for name in names_a if name in layer_map]


def _built_in(names_a: list[str], names_b: list[str]) -> dict[str, str]:
    there = _ANTIALIASED_RESNET50
    for known in (there, {y: x for x, y in there.items()}):
        fits = {x: y for x, y in known.items() if x in names_a and y in names_b}
        if len(fits) >= len(known) - 1:  # the max-pool is measured only with --ops all
            return fits
    return {}


def _names(run: Run) -> list[str]:
    return [layer.name for layer in run.strided_layers]


def _metrics(images: pd.DataFrame) -> pd.DataFrame:
    """A row an image, a column a metric; what was not measured is NaN."""
    known = images.rename(columns={"correct": "accuracy"})
    return known.reindex(columns=_IMAGE_METRICS).astype("float64")


def _predictions(images: pd.DataFrame) -> pd.DataFrame:
    return images.reindex(columns=["prediction"]).astype("Int64")  # NA where there is none


def _maps(
    a: Run, b: Run, ids: pd.Index, pairs: list[tuple[str, str]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row an image, a column an AVR variant and pair of layers, of both runs."""
    metrics = [name for name in a.layers if name.startswith("avr") and name in b.layers]
    names = ["metric", "layer_a", "layer_b"]
    columns = pd.DataFrame([(m, *pair) for m in metrics for pair in pairs], columns=names)

    def maps(run: Run, side: str) -> pd.DataFrame:
        rows = run.layers.astype({"image_id": str, "layer": str}).set_index(["layer", "image_id"])
        cells = {
            tuple(c.values()): rows.xs(c[side])[c["metric"]] for c in columns.to_dict("records")
        }
        return pd.DataFrame(cells, ids, pd.MultiIndex.from_frame(columns), dtype="float64")

    x, y = maps(a, "layer_a"), maps(b, "layer_b")
    return x, y.mask((y - x).abs() <= _RESOLUTION, x)


def _notices(
    a: Run,
    b: Run,
    groups: pd.Series,
    pairs: list[tuple[str, str]],
    images: pd.DataFrame,
    layers: pd.DataFrame,
) -> Iterator[str]:
    n = len(groups)
    if len(a.images) > n or len(b.images) > n:
        only_a, only_b = len(a.images) - n, len(b.images) - n
        yield f"{only_a} images only in A and {only_b} only in B are left out"
    if len(set(groups)) == 1:
        yield "a single photograph gives neither intervals nor paired tests"
    here, there = _settings(a), _settings(b)
    for name in here | there:
        if here.get(name) != there.get(name):
            yield f"the runs differ in {name}: {here.get(name)} in A, {there.get(name)} in B"
    for side, run in enumerate((a, b)):
        partners = {pair[side] for pair in pairs}
        if alone := [name for name in _names(run) if name not in partners]:
            yield f"layers of {'AB'[side]} without a partner are left out: {', '.join(alone)}"
    avr = layers.query("metric == 'avr'")
    names = [*images["metric"], *(f"avr of {name}" for name in avr["layer_a"])]
    counts = [*images["n"], *avr["n"]]
    for known in sorted(set(counts) - {n}):
        where = [name for name, count in zip(names, counts, strict=True) if count == known]
        if known == 0 and where == ["accuracy"]:
            continue  # pictures without labels are nothing to warn of
        yield f"not known in both runs for {n - known} of {n} images: {', '.join(where)}"


def _settings(run: Run) -> dict[str, Any]:
    """What must be equal for two runs to differ in the model alone; nested keys are joined."""
    chosen = {name: run.config.get(name) for name in ("images", "preprocessing", "precision")}
    return {str(k): v for k, v in pd.json_normalize(chosen).to_dict("records")[0].items()}


class _Number(float):
    """Prints itself as a dash where it is undefined, whatever the format."""

    def __format__(self, spec: str) -> str:
        return "–" if math.isnan(self) else super().__format__(spec)


def _blocks(c: Comparison) -> Iterator[str]:
    """The paragraphs of the printed comparison, 100 columns wide."""
    images = [_printable(row) for row in c.images.to_dict("records")]
    layers = [_printable(row) for row in c.layers.query("metric == 'avr'").to_dict("records")]
    share, low, high = map(_Number, c.prediction_agreement)
    percent = f"{100 * c.level:g} %"
    unit, sample = "photograph", f"{c.groups} photographs ({c.n} images)"
    if c.groups == c.n:
        unit, sample = "image", f"{c.n} images"
    yield f"A  {c.model_a}\nB  {c.model_b}"
    yield "".join(_HEADLINE.format_map(row) for row in images if row["metric"] == "sis")
    yield "\n".join(_table(images, _IMAGE_TABLE, percent))
    if not math.isnan(share):
        yield f"same prediction for {share:.1%} [{low:.1%}, {high:.1%}] of the images"
    header, *lines = _table(layers, _LAYER_TABLE, percent)
    names = [" → ".join(dict.fromkeys((row["layer_a"], row["layer_b"]))) for row in layers]
    yield "\n".join([header, *(f"{x}\n{y}" for x, y in zip(names, lines, strict=True))])
    caption = (
        f"{percent} intervals: bootstrap over {sample}. d_z, p, Wilcoxon p and paired t: of the "
        f"mean difference in each {unit}; two-sample t: of images, pairing ignored; Holm p: the "
        "paired p, corrected over the layers."
    )
    yield wrapped([caption])
    yield wrapped([f"notice: {text}" for text in c.notices])


def _table(rows: list[dict[str, Any]], cells: dict[str, str], percent: str) -> list[str]:
    """Header and lines; an empty header where there are no rows."""
    text = [{name: cell.format_map(row) for name, cell in cells.items()} for row in rows]
    frame = pd.DataFrame(text).rename(columns={"interval": f"{percent} interval"})
    return frame.to_string(index=False).splitlines() if rows else [""]


def _printable(row: dict[Any, Any]) -> dict[str, Any]:
    """The row with p-values as text and `f`, the number format that shows two digits of a mean."""
    largest = max(row["mean_a"], row["mean_b"])  # no metric is negative
    decimals = max(4, 1 - math.floor(math.log10(largest))) if largest > 0 else 4
    numbers = {name: _Number(x) if isinstance(x, float) else x for name, x in row.items()}
    pvalues = {name: _pvalue(x) for name, x in numbers.items() if name.startswith("p")}
    return numbers | pvalues | {"f": f"z.{decimals}f"}


def _pvalue(p: float) -> str:
    if p < 1e-300:  # below, the t distribution underflows
        return "<1e-300"
    return f"{p:.0e}" if p < 0.001 else f"{p:.3f}"
