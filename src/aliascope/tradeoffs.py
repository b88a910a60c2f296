"""Every method on one model: how much steadier it gets, what that costs, and what it forgets.

Zero-shot, and where images for it are given after batch-norm recalibration, each converted copy is
measured on the same images as the original, under crop shifts, and beside them under native and
circular ones. A control, in which nothing is done but to compute the network densely, shows what a
difference is worth.
"""

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
from aliascope.files import Result, file_name, plain, write_file
from aliascope.finetune import recalibrate
from aliascope.latency import bench
from aliascope.measure import measure
from aliascope.models import LoadedModel, load_model
from aliascope.records import Progress
from aliascope.runtime import chosen_device, environment
from aliascope.shifts import Border
from aliascope.statistics import mean_intervals
from aliascope.store import Run
from aliascope.taps import evaluating
from aliascope.text import columns, number, wrapped

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
)
"""What is compared by default."""
ORIGINAL = "original"
CONTROL = "blurpool:1"
"""The network itself, computed densely."""
SHIFTS: tuple[Border, ...] = ("crop", "native", "circular")
"""How pictures are moved; the first leads."""
_STABILITY = ("logit_instability", "agreement", "sis")
_LAYERS = ("sampled_avr_box", "alias_share")


@dataclass(frozen=True, eq=False)
class Tradeoffs(Result):
    """What `compare_methods` found; `str()` prints it as a table."""

    model: str
    table: pd.DataFrame
    """A row a method and stage (original, control, zero-shot, recalibrated): method, stage, top1
    (NaN without labels that fit), kept (share of images with the original's prediction);
    logit_instability_, agreement_ and sis_ crop, native and circular; sampled_avr_box and
    alias_share (of what is decimated, mean over the layers behind the stem): each with _low and
    _high; mflops, latency_ratio with _low and _high, memory_mb (peak of one forward at batch 1)."""
    info: dict[str, Any]
    notices: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same in JSON's own types; None is NaN."""
        return plain(vars(self))

    def __str__(self) -> str:
        return "\n\n".join(filter(None, _blocks(self)))


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
        methods: names, each with an optional size; the control comes before them.
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
    measured = partial(
        _measured, images=images, limit=limit, device=device, folder=folder, progress=progress
    )
    versions: dict[tuple[str, str], LoadedModel] = {(ORIGINAL, ORIGINAL): loaded}
    notices = []
    for method in dict.fromkeys((CONTROL, *methods)):
        try:
            converted = _converted(loaded, method)
            versions[method, "control" if method == CONTROL else "zero-shot"] = converted
            if recalibrate_on is not None:
                versions[method, "recalibrated"] = _recalibrated(converted, recalibrate_on, device)
        except AliascopeError as error:
            notices.append(f"{method}: {error}")
    if not {method for method, _ in versions} & {*methods}:
        raise AliascopeError(f"no method could be applied to {loaded.spec}: {notices[-1]}")
    rows = []
    original = measured(loaded, ORIGINAL, ORIGINAL)
    for (method, stage), version in versions.items():
        runs = original if stage == ORIGINAL else measured(version, method, stage)
        rows.append(
            {"method": method, "stage": stage}
            | _figures(runs, original)
            | _cost(version.module, version.example())
        )
    table = pd.DataFrame(rows)
    timed = {m: v for (m, stage), v in versions.items() if stage != "recalibrated"}
    latency = bench(
        [replace(version, spec=method) for method, version in timed.items()],
        batch_sizes=[1],
        seconds=latency_seconds,
        device=device,
        seed=seed,
    )
    ratios = latency.table.set_index("model")
    for suffix in ("", "_low", "_high"):
        table[f"latency_ratio{suffix}"] = table["method"].map(ratios[f"ratio{suffix}"].get)
    notices += [*latency.notices, *latency.failures.values()]
    settings = {"images": str(images), "limit": limit, "recalibrate_on": str(recalibrate_on or "")}
    info = environment(chosen_device(device)) | settings
    found = Tradeoffs(loaded.spec, table, info, tuple(notices))
    if folder is not None:
        from aliascope.figures import methods_front, save

        write_file(folder / "methods.csv", table.to_csv(index=False).encode())
        caption = (
            f"{len(original[SHIFTS[0]].images)} images of {Path(images).name}, {SHIFTS[0]} shifts."
        )
        figure = methods_front.draw(table, model=loaded.spec, caption=caption)
        save(figure, folder, "methods_front")
    return found


def _converted(loaded: LoadedModel, method: str) -> LoadedModel:
    recipe = vars(Recipe.parse(method))
    module = antialias(loaded.module, **recipe, example=loaded.example())
    return replace(loaded, spec=f"{loaded.spec}@{method}", module=module)


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
    folder: Path | None,
    progress: Progress | None,
) -> dict[Border, Run]:
    """Its runs under all shifts."""
    runs: dict[Border, Run] = {}
    for shifts in SHIFTS:
        name = file_name(f"{method}-{stage}-{shifts}")
        title = f"{version.spec}, {stage}, {shifts}"
        with (progress or (lambda _: nullcontext()))(title) as report:
            runs[shifts] = measure(
                version,
                images,
                out=None if folder is None else folder / "runs" / name,
                shifts=shifts,
                limit=limit,
                device=device,
                progress=report,
            )
    return runs


def _figures(runs: dict[Border, Run], original: dict[Border, Run]) -> dict[str, float]:
    """Means over images, with intervals."""
    lead = runs[SHIFTS[0]]
    images = lead.images.set_index("image_id")
    before = original[SHIFTS[0]].images.set_index("image_id").loc[images.index]
    if "sis" not in images:
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
    lead, *others = SHIFTS
    cells = {
        "method": table["method"],
        "stage": table["stage"],
        "top-1": _numbers(table["top1"], ".3f"),
        "kept": _numbers(table["kept"], ".3f"),
        "logits": _numbers(table[f"logit_instability_{lead}"], ".4f"),
        "agree": _numbers(table[f"agreement_{lead}"], ".3f"),
        "SIS": _numbers(table[f"sis_{lead}"], ".4f"),
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
    yield columns([list(cells), *zip(*cells.values(), strict=True)])
    caption = (
        "kept: share of images with the original's prediction; logits, agree, SIS: logit "
        f"instability, agreement and shift instability score under {lead} shifts; "
        f"{' and '.join(others)}: logit instability under those; AVR: box band, and alias: alias "
        "share, of what is decimated, mean over layers; latency: ratio to the original at batch 1; "
        "MB: peak of one forward. The control is the original, computed densely."
    )
    yield wrapped([caption])
    yield wrapped([f"notice: {text}" for text in found.notices])


def _numbers(values: Iterable[float], form: str) -> list[str]:
    return [number(x, form) for x in values]
