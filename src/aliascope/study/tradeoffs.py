"""Every method on one model: how much steadier it gets, what that costs, and what it forgets.

Zero-shot, and where images for it are given after batch-norm recalibration, each converted copy is
measured on the same images as the original, under crop shifts, and beside them under half, native
and circular ones. So are the rivals of repair, `aliascope.inference`, alone and around a repair. A
control, in which nothing is done but to compute the network densely, shows what a difference is
worth.
"""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from aliascope.antialias import Recipe, antialias
from aliascope.antialias.flops import counted
from aliascope.errors import AliascopeError, ModelError
from aliascope.finetune import recalibrate
from aliascope.images import open_images
from aliascope.images.preprocessing import possible_shifts
from aliascope.inference import is_wrapper
from aliascope.latency import bench
from aliascope.measure import measure
from aliascope.measure.store import Run
from aliascope.models import LoadedModel, load_model, within
from aliascope.records import Progress
from aliascope.results.files import Result, file_name, write_file
from aliascope.results.text import columns, number, wrapped
from aliascope.results.verdicts import Change, digits, listed, sample, under
from aliascope.runtime import chosen_device, environment
from aliascope.shifts import Border
from aliascope.statistics import mean_intervals, pareto
from aliascope.taps import evaluating

TRIED = (
    "blurpool:2",
    "blurpool:3",
    "blurpool:4",
    "blurpool:5",
    "ideal",
    "aps:1",
    "aps:3",
    "lps:1",
    "wavelet",
    "wavelet:sym4",
    "adaptive",
    "tips",
    "crop-selection:laplacian",
    "crop-selection",
    "crop-selection:circular",
    "shift-average",
    "ideal@crop-selection",
)
"""What is compared by default."""
ORIGINAL = "original"
CONTROL = "blurpool:1"
"""The network itself, computed densely."""
SHIFTS: tuple[Border, ...] = ("crop", "half", "native", "circular")
"""How pictures are moved; the first leads."""
_ROUNDING = 1e-3
"""A relative change no larger than rounding makes."""
_STABILITY = ("logit_instability", "agreement", "sis", "sis_half")
_LAYERS = ("sampled_avr_box", "alias_share")


@dataclass(frozen=True, eq=False)
class Tradeoffs(Result):
    """What `compare_methods` found; `str()` prints it as a table."""

    model: str
    table: pd.DataFrame
    """A row a method and stage (original, control, zero-shot, recalibrated): method, stage, top1
    (NaN without labels that fit), kept (share of images with the original's prediction);
    logit_instability_, agreement_, sis_ and sis_half_ crop, half, native and circular, those that
    differ;
    sampled_avr_box and alias_share (of what is decimated, mean over the layers behind the stem):
    each with _low and _high; mflops, latency_ratio with _low and _high, memory_mb (peak of one
    forward at batch 1)."""
    info: dict[str, Any]
    notices: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """Which methods no other beats, and what of a difference the control shows too."""
        return " ".join(_sentences(self))

    def _blocks(self) -> Iterator[str]:
        return _blocks(self)


def compare_methods(
    model: str | nn.Module | LoadedModel,
    images: str | Path,
    *,
    methods: Sequence[str] = TRIED,
    recalibrate_on: str | Path | None = None,
    weights: str | Path = "pretrained",
    limit: int | None = None,
    out: str | Path | None = None,
    latency_seconds: int | float = 20.0,
    device: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Tradeoffs:
    """Convert a model by every method and measure what each buys and costs.

    Args:
        model: a spec, a module, or what `load_model` returned; its stem is kept.
        images: a source as `open_images` takes it; top-1 where its labels number the classes.
        methods: as at the end of a model spec: a method of `antialias`, a wrapper of
            `aliascope.inference`, or both, `ideal@crop-selection`; the control comes before them.
        recalibrate_on: images for batch-norm recalibration; None measures zero-shot only.
        weights: "pretrained", "random" or a file.
        limit: at most so many images.
        out: a directory for runs, table and figure; runs in it are not measured again.
        latency_seconds: for timing all of them against each other at batch 1.
        device: by default CUDA where there is one.
        seed: of random weights and timing.
        progress: called with a title; its context yields what takes (done, total).

    Returns:
        The table. A method that fails is named in `notices`; the others go on.

    Raises:
        AliascopeError: the model or the images cannot be used, or no method could be applied.
    """
    loaded = load_model(model, weights=weights, seed=seed)
    folder = None if out is None else Path(out)
    source = open_images(images, limit=limit)
    shifts, notice = possible_shifts(SHIFTS, loaded.preprocessing, (x.pixels for x in source))
    notices = [notice] if notice else []
    measured = partial(
        _measured,
        images=images,
        limit=limit,
        shifts=shifts,
        device=device,
        folder=folder,
        progress=progress or (lambda _: nullcontext(lambda *_: None)),
    )
    converted: dict[str, LoadedModel] = {}
    for method in dict.fromkeys((CONTROL, *methods)):
        try:
            converted[method] = _converted(loaded, method)
        except AliascopeError as error:
            notices.append(f"{method}: {error}")
    if not {*converted} & {*methods}:
        raise AliascopeError(f"no method could be applied to {loaded.spec}: {notices[-1]}")
    original = measured(loaded, ORIGINAL, ORIGINAL)
    rows = [_row(loaded, ORIGINAL, ORIGINAL, original, original)]
    for method, version in converted.items():
        stage = "control" if method == CONTROL else "zero-shot"
        rows.append(_row(version, method, stage, measured(version, method, stage), original))
        if recalibrate_on is None or is_wrapper(method):  # a wrapper alone changes no statistics
            continue
        try:
            again = _recalibrated(version, recalibrate_on, device)
        except AliascopeError as error:
            notices.append(f"{method}: {error}")
        else:
            runs = measured(again, method, "recalibrated")
            rows.append(_row(again, method, "recalibrated", runs, original))
    table = pd.DataFrame(rows)
    latency = bench(
        [replace(v, spec=method) for method, v in ({ORIGINAL: loaded} | converted).items()],
        batch_sizes=[1],
        seconds=latency_seconds,
        device=device,
        seed=seed,
    )
    ratios = latency.table.set_index("model")
    for suffix in ("", "_low", "_high"):
        table[f"latency_ratio{suffix}"] = table["method"].map(ratios[f"ratio{suffix}"].get)
    notices += [*latency.notices, *latency.failures.values()]
    seen = original[shifts[0]].images
    settings = {"images": str(images), "limit": limit, "recalibrate_on": str(recalibrate_on or "")}
    settings |= {"measured": len(seen), "photographs": seen["group"].nunique()}
    info = environment(chosen_device(device)) | settings
    found = Tradeoffs(loaded.spec, table, info, tuple(notices))
    if folder is not None:
        found.save(folder / "methods.json")
        from aliascope.figures import methods_front, save

        write_file(folder / "methods.csv", table.to_csv(index=False).encode())
        caption = f"{len(seen)} images of {Path(images).name}, {shifts[0]} shifts."
        figure = methods_front.draw(table, model=loaded.spec, caption=caption)
        save(figure, folder, "methods_front")
    return found


def _converted(loaded: LoadedModel, method: str) -> LoadedModel:
    version = loaded
    for link in method.split("@"):
        if is_wrapper(link):
            version = within(version, link)
            continue
        recipe = vars(Recipe.parse(link))
        module = antialias(version.module, **recipe, example=version.example())
        version = replace(version, spec=f"{version.spec}@{link}", module=module)
    return version


def _recalibrated(loaded: LoadedModel, images: str | Path, device: str | None) -> LoadedModel:
    module = recalibrate(loaded, images, device=device)
    return replace(loaded, module=module)


def _measured(
    version: LoadedModel,
    method: str,
    stage: str,
    *,
    images: str | Path,
    limit: int | None,
    device: str | None,
    shifts: Sequence[Border],
    folder: Path | None,
    progress: Progress,
) -> dict[Border, Run]:
    """Its runs under all shifts."""
    runs: dict[Border, Run] = {}
    for border in shifts:
        name = file_name(f"{method}-{stage}-{border}")
        with progress(f"{version.spec}, {stage}, {border}") as report:
            runs[border] = measure(
                version,
                images,
                out=None if folder is None else folder / "runs" / name,
                shifts=border,
                limit=limit,
                device=device,
                progress=report,
            )
    return runs


def _row(
    version: LoadedModel,
    method: str,
    stage: str,
    runs: dict[Border, Run],
    original: dict[Border, Run],
) -> dict[str, Any]:
    figures = _figures(runs, original) | _cost(version.module, version.example())
    return {"method": method, "stage": stage} | figures


def _figures(runs: dict[Border, Run], original: dict[Border, Run]) -> dict[str, float]:
    """Means over images, with intervals."""
    lead = next(iter(runs.values()))
    images = lead.images.set_index("image_id")
    before = next(iter(original.values())).images.set_index("image_id").loc[images.index]
    if "prediction" not in images:
        raise ModelError(f"{lead.model} is no classifier: {lead.notices[0]}")
    columns = {
        "top1": images["correct"].astype("Float64"),
        "kept": (images["prediction"] == before["prediction"]).astype("Float64"),
    }
    for shifts, run in runs.items():
        own = run.images.set_index("image_id")
        columns |= {f"{name}_{shifts}": own[name] for name in _STABILITY}
    columns |= dict(_sampled(lead).items())
    metrics = pd.DataFrame(columns, index=images.index).astype("float64")
    means = mean_intervals(metrics, images["group"]).clip(lower=0)
    shares = ~means.index.str.startswith("logit_instability")
    means.loc[shares] = means.loc[shares].clip(upper=1)
    return {
        f"{name}{suffix}": means.loc[name, column]
        for name in metrics
        for suffix, column in (("", "value"), ("_low", "low"), ("_high", "high"))
    }


def _sampled(run: Run) -> pd.DataFrame:
    """Of each image, the mean over the layers behind the stem, which surgery keeps."""
    behind = [x.name for x in run.strided_layers if x.stride != x.cumulative_stride]
    rows = run.layers.astype({"image_id": str, "layer": str})
    return pd.DataFrame(rows[rows["layer"].isin(behind)].groupby("image_id")[[*_LAYERS]].mean())


def _cost(module: nn.Module, example: Tensor) -> dict[str, float]:
    """FLOPs and the peak of memory of one forward at batch 1, weights not counted."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it reports each start and stop on stderr
    memory = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with evaluating(module), memory as profiled:
        module(example)
    _, flops = counted(module, example)
    events: Any = profiled.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    held = np.cumsum([nbytes for _, nbytes in sorted(changes)])
    return {"mflops": flops[""] / 1e6, "memory_mb": held.max(initial=0) / 1e6}


def _blocks(found: Tradeoffs) -> Iterator[str]:
    info, table = found.info, found.table
    yield f"{found.model} on {info['images']}"
    lead, *others = moved_by(table)
    cells = {
        "method": table["method"],
        "stage": table["stage"],
        "top-1": _numbers(table["top1"], ".3f"),
        "kept": _numbers(table["kept"], ".3f"),
        "logits": _numbers(table[f"logit_instability_{lead}"], ".4f"),
        "agree": _numbers(table[f"agreement_{lead}"], ".3f"),
        "SIS, conf. ½": _numbers(table[f"sis_half_{lead}"], ".4f"),
    }
    for shifts in others:
        cells[shifts] = _numbers(table[f"logit_instability_{shifts}"], ".4f")
    cells |= {
        "AVR": _numbers(table["sampled_avr_box"], ".3f"),
        "alias": _numbers(table["alias_share"], ".3f"),
        "MFLOPs": _numbers(table["mflops"], ".0f"),
        "latency": _numbers(table["latency_ratio"], ".2f"),
        "MB": _numbers(table["memory_mb"], ".0f"),
    }
    yield columns([list(cells), *zip(*cells.values(), strict=True)], names=2)
    yield wrapped([found.verdict])
    beside = f"{' and '.join(others)}: logit instability under those; " if others else ""
    caption = (
        "kept: share of images with the original's prediction; logits, agree, SIS, conf. ½: logit "
        f"instability, agreement and SIS at confidence ½ under {lead} shifts; "
        f"{beside}AVR: box band, and alias: alias "
        "share, of what is decimated, mean over layers; latency: ratio to the original at batch 1; "
        "MB: peak of one forward. The control is the original, computed densely."
    )
    yield wrapped([caption])
    yield wrapped([f"notice: {text}" for text in found.notices])


def _sentences(found: Tradeoffs) -> Iterator[str]:
    """By the means, whose intervals stand in the table; of the control what it costs as well."""
    table = found.table
    shifts = moved_by(table)[0]
    steady = f"logit_instability_{shifts}"
    right, title = (
        ("top1", "top-1")
        if np.isfinite(table["top1"].to_numpy(float)).all()
        else ("kept", "predictions kept")
    )
    tried = table.query("method not in (@ORIGINAL, @CONTROL)")
    best = tried.loc[pareto(tried[steady], -tried[right])].to_dict("records")
    staged = len(set(tried["stage"])) > 1
    names = [f"{row['method']} {row['stage']}" if staged else row["method"] for row in best]
    if names:
        yield (
            f"By their means no method tried beats {listed(names)} both in stability "
            f"{under(shifts)} (logit instability) and in {title}."
        )
    before = table.loc[table["stage"] == ORIGINAL].iloc[0]
    for row in table.query("stage == 'control'").to_dict("records"):
        change = row[steady] / before[steady] - 1
        moved = f"{digits(100 * abs(change))} % {'more' if change > 0 else 'less'} than"
        moved = moved if abs(change) > _ROUNDING else "as far as"
        longer = Change(*(row[f"latency_ratio{end}"] - 1 for end in ("", "_low", "_high")))
        took = f"{longer.amount('less', 'longer', 'as long')} ({longer.certainty()})"
        yield (
            f"The control, {row['method']}, which filters nothing, moves {moved} the original"
            + ("." if math.isnan(longer.value) else f" and takes {took}.")
        )
    if "photographs" in found.info:
        yield sample(found.info["measured"], found.info["photographs"])


def moved_by(table: pd.DataFrame) -> list[str]:
    """The shifts of such a table, the leading ones first."""
    return [shifts for shifts in SHIFTS if f"logit_instability_{shifts}" in table]


def _numbers(values: Iterable[float], form: str) -> list[str]:
    return [number(x, form) for x in values]
