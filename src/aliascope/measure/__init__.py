"""The measuring arm: images × a model → rows of a run.

It reads like the arrow: load the model, find its strided layers, decode images ahead, and for each
batch run one forward over the images and their shifted views, with the taps open.
"""

import inspect
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import nn
from torch.utils.data import Dataset

from aliascope.errors import AliascopeError
from aliascope.images import ImageSource, open_images
from aliascope.images.preprocessing import Preprocessing, PreprocessingName, crop_of
from aliascope.measure.batch import Only, Ops, prepare, rows_of
from aliascope.measure.on_ray import on_ray
from aliascope.measure.stepping import into_run
from aliascope.measure.store import Run
from aliascope.measure.workers import checked, in_processes
from aliascope.measure.writing import Shard
from aliascope.models import LoadedModel, load_model
from aliascope.records import Report
from aliascope.results.files import Place
from aliascope.runtime import Precision
from aliascope.shifts import ONE_PIXEL, Border

Engine = Literal["local", "ray"]
_DRIVER = ("workers", "engine", "address")
"""What says where the work is done."""
_SHARED = ("model", "images", "out", "progress", *_DRIVER)
"""What the processes that measure a shard do not take as it is."""


def measure(
    model: str | nn.Module | LoadedModel,
    images: str | Path | ImageSource | Sequence[Any] | Dataset[Any],
    *,
    out: Place | None = None,
    weights: str | Path = "pretrained",
    preprocess: PreprocessingName | Preprocessing = "model",
    ops: Ops = "all",
    only: Only = "all",
    precision: Precision = "fp32",
    device: str | None = None,
    shifts: Border | None = None,
    batch_size: int | None = None,
    limit: int | None = None,
    shard: Shard | None = None,
    workers: int = 1,
    engine: Engine = "local",
    address: str | None = None,
    seed: int = 0,
    flush_seconds: float = 10.0,
    progress: Report | None = None,
) -> Run:
    """Measure aliasing and shift instability of one model on one source of images.

    Args:
        model: a spec, a module, or what `load_model` returned. It is measured in eval mode, on a
            copy; a module that is given stays as it is.
        images: a source as `open_images` takes it.
        out: the run directory, also at an address (s3://…, extra `cloud`); an equal run that was
            interrupted is continued, and one of fewer of these images is extended by the others.
            None keeps the rows in memory.
        weights: "pretrained", "random" or a file.
        preprocess: "model" for the model's own evaluation transform, "resize224" for
            Resize((224, 224)) with ImageNet statistics, as published, or your own.
        ops: "all" that downsample, or "conv": convolutions and what took their place, without
            pools, as published.
        only: "avr" for the layers alone: one view of each image in place of five, and nothing is
            said of predictions.
        precision: of the forward pass; ratios are computed in float32 all the same.
        device: "cpu", "cuda", "cuda:1", …; by default CUDA where there is one.
        shifts: how the picture moves by one pixel. "crop", the default where the crop leaves room:
            the window moves over the photograph by one of the network's pixels. "native": by one of
            the photograph's own, before the resize, as a camera moves. "half": by half of one of
            the network's, before the resize. "circular", as published: the picture is rolled, which
            tears its border.
        batch_size: images per forward; by default the fastest, found by timing real batches. The
            figures do not depend on it beyond 1e-5.
        limit: at most so many images.
        shard: (I, N): of the images those number I, I + N, I + 2 N, …, from 0, while other
            processes, on this machine or others, measure the other shards into the same `out`.
        workers: so many processes on this machine, a shard each; the model, where it is no spec,
            must be one that can be pickled.
        engine: "local", or "ray" (extra `ray`), which spreads shards over a cluster that sees
            `out` and `images` at the same paths.
        address: of a Ray cluster; None starts one on this machine.
        seed: of random weights.
        flush_seconds: how much work, in seconds, a kill may cost; 1 % of the time so far if that is
            more.
        progress: called after each batch with the images done, their number, if known, and what it
            waited for: "decoding" of pictures, or the "forward" of the network.

    Returns:
        The run; `print` shows a table, `.images` and `.layers` are data frames.

    Raises:
        AliascopeError: images, model or run directory cannot be used; what is already measured
            stays.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> run = measure(net, "photos", limit=2, device="cpu")
    >>> run.layers[["layer", "order"]].drop_duplicates().values.tolist()
    [['0', 0]]
    """
    options = {name: value for name, value in locals().items() if name not in _SHARED}
    if engine == "ray":
        return on_ray(model, images, options, address=address, out=out, progress=progress)
    if workers != 1:
        return in_processes(model, images, options, workers, out=out, progress=progress)
    steps = _steps(model, images, out=out, progress=progress, **options)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def measure_together(
    images: str | Path | ImageSource | Sequence[Any] | Dataset[Any],
    jobs: Sequence[Mapping[str, Any]],
    *,
    limit: int | None = None,
    progress: Report | None = None,
    **options: Any,
) -> Generator[tuple[int, Run | AliascopeError], None, None]:
    """Measure several models on the same images, side by side: each picture is decoded once.

    All models lie in memory at once.

    Args:
        images: as for `measure`.
        jobs: what `measure` takes of each model alone: model, out, preprocess, …
        limit: as for `measure`.
        progress: called as by `measure`, with the images of all models.
        options: of `measure`, for all.

    Yields:
        Of each model, as it ends, its number among the jobs, and its run or the error that ended
        it, which does not end the others: to end them, too, leave the loop.

    >>> nets = [nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(3, 8, 5, 2, 2)]
    >>> jobs = [{"model": net} for net in nets]
    >>> runs = dict(measure_together("photos", jobs, limit=1, device="cpu"))
    >>> len(runs[0].images), len(runs[1].images)
    (1, 1)
    """
    reports = _summed(progress, len(jobs))
    each = [
        {**options, **job, "progress": report} for job, report in zip(jobs, reports, strict=True)
    ]
    if options.get("workers", 1) != 1 or options.get("engine", "local") != "local":
        for index, given in enumerate(each):
            try:
                yield index, measure(images=images, limit=limit, **given)
            except AliascopeError as error:
                yield index, error
        return
    source = images if isinstance(images, ImageSource) else open_images(images, limit=limit)
    if len(jobs) > 1:
        source = source.shared(len(jobs))
    with ExitStack() as held:
        steps = [held.enter_context(closing(_steps(**_settings(source, given)))) for given in each]
        done = dict.fromkeys(range(len(jobs)), 0)
        while done:
            behind = min(done, key=done.__getitem__)
            try:
                done[behind] = next(steps[behind])
                continue
            except StopIteration as stop:
                ended = stop.value
            except AliascopeError as error:
                ended = error
            del done[behind]
            yield behind, ended


def _settings(images: ImageSource, given: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of `measure`, those that are not given by their defaults."""
    bound = inspect.signature(measure).bind(images=images, **given)
    bound.apply_defaults()
    return {name: x for name, x in bound.arguments.items() if name not in _DRIVER}


def _summed(progress: Report | None, models: int) -> list[Report | None]:
    """A report for each of several models, which adds up what they say."""
    if progress is None:
        return [None] * models
    said: dict[int, int] = {}

    def told(index: int, done: int, total: int | None, waiting: str = "") -> None:
        said[index] = done
        progress(sum(said.values()), None if total is None else models * total, waiting)

    return [partial(told, index) for index in range(models)]


def _steps(
    model: str | nn.Module | LoadedModel,
    images: Any,
    *,
    out: Place | None,
    weights: str | Path,
    preprocess: PreprocessingName | Preprocessing,
    ops: Ops,
    only: Only,
    precision: Precision,
    device: str | None,
    shifts: Border | None,
    batch_size: int | None,
    limit: int | None,
    shard: Shard | None,
    seed: int,
    flush_seconds: float,
    progress: Report | None,
) -> Generator[int, None, Run]:
    """`measure`, pausing behind each batch to say how many images are done."""
    source = images if isinstance(images, ImageSource) else open_images(images, limit=limit)
    if shard is not None:
        source = replace(source, shard=checked(shard, out))
    loaded = load_model(model, weights=weights, seed=seed, size=crop_of(preprocess))
    instrument = prepare(
        loaded,
        preprocess=preprocess,
        ops=ops,
        only=only,
        precision=precision,
        device=device,
        border=shifts,
    )
    settings = {"ops": ops, "only": only, "shifts": [asdict(shift) for shift in ONE_PIXEL]}
    return (
        yield from into_run(
            loaded,
            instrument,
            source,
            lambda batch, fits, _: rows_of(instrument, batch, labels_fit=fits),
            settings,
            out=out,
            shard=shard,
            batch_size=batch_size,
            seed=seed,
            flush_seconds=flush_seconds,
            progress=progress,
        )
    )
