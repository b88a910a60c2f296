"""Every method on one model: how much steadier it gets, what that costs, and what it forgets.

Zero-shot, and where images for it are given after batch-norm recalibration, each converted copy is
measured on the same images as the original, under circular and under crop shifts.
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
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from aliascope.antialias import Recipe, antialias
from aliascope.antialias.flops import counted
from aliascope.errors import AliascopeError, ModelError
from aliascope.files import Result, file_name, plain, write_file
from aliascope.finetune import recalibrate
from aliascope.images import open_images
from aliascope.latency import bench
from aliascope.layers import APSPool, LPSPool, TIPSPool
from aliascope.measure import measure
from aliascope.models import LoadedModel, load_model
from aliascope.records import Progress, StridedLayer
from aliascope.runtime import chosen_device, environment
from aliascope.spectra import alias_violation_ratio
from aliascope.statistics import mean_intervals
from aliascope.store import Run
from aliascope.taps import evaluating, strided_layers, tap
from aliascope.text import columns, number, wrapped

TRIED = (
    "blurpool:1",
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
"""What is compared by default; blurpool:1 is the network itself, computed densely: the control."""
ORIGINAL = "original"
PHASE_CHOOSERS = (APSPool, LPSPool, TIPSPool)
_SPECTRA = 16
"""Images whose aliasing at the point of decimation is averaged."""


@dataclass(frozen=True, eq=False)
class Tradeoffs(Result):
    """What `compare_methods` found; `str()` prints it as a table."""

    model: str
    table: pd.DataFrame
    """A row a method and stage (original, zero-shot, recalibrated): method, stage, top1 (NaN
    without labels that fit), kept (share of images with the original's prediction), sis,
    logit_instability, agreement, agreement_crop, each with _low and _high; avr_box_sampled (box AVR
    of what is decimated, mean over the converted layers; NaN where the samples that are kept depend
    on the picture), mflops, latency_ratio with _low and _high, memory_mb (peak of one forward at
    batch 1)."""
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
        methods: names, each with an optional size.
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
    for method in methods:
        try:
            converted = _converted(loaded, method)
            versions[method, "zero-shot"] = converted
            if recalibrate_on is not None:
                versions[method, "recalibrated"] = _recalibrated(converted, recalibrate_on, device)
        except AliascopeError as error:
            notices.append(f"{method}: {error}")
    if len(versions) == 1:
        raise AliascopeError(f"no method could be applied to {loaded.spec}: {notices[0]}")
    rows = []
    original = measured(loaded, ORIGINAL, ORIGINAL)
    for (method, stage), version in versions.items():
        circular, crop = measured(version, method, stage)
        rows.append(
            {"method": method, "stage": stage}
            | _stability(circular, crop, original[0])
            | _cost(version.module, version.example())
        )
        rows[-1]["avr_box_sampled"] = _sampled(version, images, limit)
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
        caption = f"{len(original[0].images)} images of {Path(images).name}."
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
) -> tuple[Run, Run]:
    """Its runs under circular and under crop shifts."""
    runs = []
    for border in ("circular", "crop"):
        name = file_name(f"{method}-{stage}-{border}")
        place = None if folder is None else folder / "runs" / name
        title = f"{version.spec}, {stage}, {border}"
        with (progress or (lambda _: nullcontext()))(title) as report:
            run = measure(
                version,
                images,
                out=place,
                shifts=border,
                limit=limit,
                device=device,
                progress=report,
            )
        runs.append(run)
    circular, crop = runs
    return circular, crop


def _stability(circular: Run, crop: Run, original: Run) -> dict[str, float]:
    """Means over images, with intervals."""
    images = circular.images.set_index("image_id")
    before = original.images.set_index("image_id").loc[images.index]
    if "sis" not in images:
        raise ModelError(f"{circular.model} is no classifier: {circular.notices[0]}")
    metrics = pd.DataFrame(
        {
            "top1": images["correct"].astype("Float64"),
            "kept": (images["prediction"] == before["prediction"]).astype("Float64"),
            "sis": images["sis"],
            "logit_instability": images["logit_instability"],
            "agreement": images["agreement"],
            "agreement_crop": crop.images.set_index("image_id")["agreement"],
        },
        index=images.index,
    ).astype("float64")
    means = mean_intervals(metrics, images["group"]).clip(lower=0)
    shares = means.index != "logit_instability"
    means.loc[shares] = means.loc[shares].clip(upper=1)
    return {
        f"{name}{suffix}": means.loc[name, column]
        for name in metrics
        for suffix, column in (("", "value"), ("_low", "low"), ("_high", "high"))
    }


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


def _sampled(version: LoadedModel, images: str | Path, limit: int | None) -> float:
    """Box AVR of the maps that are decimated, mean over layers and images.

    Layers that keep samples by looking at them (aps, lps, tips) decimate no one map: NaN.
    """
    module, transform = version.module, version.preprocessing
    layers = [
        layer
        for layer in strided_layers(module, version.example())
        if layer.function is None and layer.stride != layer.cumulative_stride
    ]
    source = open_images(images, limit=min(limit or _SPECTRA, _SPECTRA))
    ratios = []
    with evaluating(module):
        for image in source:
            with tap(module, layers) as tapped:
                module(transform.normalise(transform(image.pixels)[None]))
            for layer in layers:
                pool = module.get_submodule(layer.name.partition("#")[0])
                if isinstance(pool, PHASE_CHOOSERS):
                    return float("nan")
                dense = dense_response(pool, tapped.inputs[layer.name], layer)
                ratios.append(alias_violation_ratio(dense, layer.stride, band="box"))
    return float(torch.cat(ratios).nanmean())


def dense_response(
    module: nn.Module, x: Float[Tensor, "batch chan h w"], layer: StridedLayer
) -> Float[Tensor, "batch chan2 h2 w2"]:
    """What an operation decimates: its output at stride 1.

    y[s_h·a + i, s_w·b + j] = f(x rolled by −i, −j)[a, b], for an f that decimates a filtered map:
    every phase in turn. At the border it is the circular continuation's.

    >>> conv = nn.Conv2d(1, 1, 1, stride=2, bias=False)
    >>> x = torch.rand(1, 1, 4, 4)
    >>> (layer,) = strided_layers(nn.Sequential(conv), x)
    >>> bool((dense_response(conv, x, layer) == conv.weight * x).all())
    True
    """
    rows, columns = (round(s) for s in layer.stride)
    phases = [
        [module(x.roll((-i, -j), dims=(-2, -1))) for j in range(columns)] for i in range(rows)
    ]
    each_row = [torch.stack(row, dim=-1).flatten(-2) for row in phases]  # (B, C, h, w·s_w)
    return torch.stack(each_row, dim=-2).flatten(-3, -2)


def _blocks(found: Tradeoffs) -> Iterator[str]:
    info, table = found.info, found.table
    yield f"{found.model} on {info['images']}"
    cells = {
        "method": table["method"],
        "stage": table["stage"],
        "top-1": _numbers(table["top1"], ".3f"),
        "kept": _numbers(table["kept"], ".3f"),
        "SIS": _numbers(table["sis"], ".4f"),
        "logits": _numbers(table["logit_instability"], ".4f"),
        "agree": _numbers(table["agreement"], ".3f"),
        "crop": _numbers(table["agreement_crop"], ".3f"),
        "AVR": _numbers(table["avr_box_sampled"], ".3f"),
        "MFLOPs": _numbers(table["mflops"], ".0f"),
        "latency": _numbers(table["latency_ratio"], ".2f"),
        "MB": _numbers(table["memory_mb"], ".0f"),
    }
    yield columns([list(cells), *zip(*cells.values(), strict=True)])
    caption = (
        "kept: share of images with the original's prediction; logits: logit instability; agree, "
        "crop: agreement under circular and crop shifts; AVR: box band, of what is decimated, mean "
        "over converted layers; latency: ratio to the original at batch 1; MB: peak of one forward."
    )
    yield wrapped([caption])
    yield wrapped([f"notice: {text}" for text in found.notices])


def _numbers(values: Iterable[float], form: str) -> list[str]:
    return [number(x, form) for x in values]
