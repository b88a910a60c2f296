"""What one model does, and what two do beside each other."""

from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

import aliascope
from aliascope.cli.options import (
    PREPROCESS_HELP,
    Address,
    BatchSize,
    Csv,
    Device,
    Engine,
    Images,
    Interpolation,
    Json,
    Limit,
    Map,
    Mean,
    Only,
    Ops,
    Precision,
    Resize,
    Shard,
    Shifts,
    Size,
    Std,
    Weights,
    Workers,
    assignments,
    defaults_of,
    shard_of,
)
from aliascope.cli.output import complain, interruptible, print_csv, print_json, progress, say, show
from aliascope.cli.reporting import also_report
from aliascope.errors import AliascopeError, RunError
from aliascope.images.preprocessing import (
    RESIZE_224,
    Preprocessing,
    PreprocessingName,
    crop_of,
    customised,
)
from aliascope.measure import measure_together
from aliascope.models import LoadedModel
from aliascope.results.files import file_name, place

_MEASURE = defaults_of(aliascope.measure)

Preprocess = Annotated[PreprocessingName, typer.Option(help=PREPROCESS_HELP)]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed random weights with this number.")]


def measure(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Measure the models of these specs; `aliascope models` lists them.",
        ),
    ],
    images: Images = "photos",
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIRECTORY",
            help="Write the run into this directory, or one at an address such as s3://bucket/run; "
            "of several models, each into one below it.",
        ),
    ] = None,
    weights: Weights = _MEASURE.weights,
    preprocess: Preprocess = _MEASURE.preprocess,
    size: Size = None,
    resize: Resize = None,
    mean: Mean = None,
    std: Std = None,
    interpolation: Interpolation = None,
    ops: Ops = _MEASURE.ops,
    only: Only = _MEASURE.only,
    precision: Precision = _MEASURE.precision,
    device: Device = None,
    shifts: Shifts = _MEASURE.shifts,
    batch_size: BatchSize = None,
    limit: Limit = None,
    shard: Shard = None,
    workers: Workers = _MEASURE.workers,
    engine: Engine = _MEASURE.engine,
    address: Address = None,
    seed: Seed = _MEASURE.seed,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Measure aliasing and shift instability of one or more models.

    One pass yields the alias violation ratio of every layer and image, and the shift instability,
    agreement, confidence and logit instability of every image; of segmentation, detection and other
    maps what stays where it was when the picture moves. With --out a run that was killed goes on
    when the same command is given again.
    """
    pixels = {"size": size, "resize": resize, "mean": mean, "std": std}
    pixels |= {"interpolation": interpolation}
    jobs, failed, part = {}, {}, shard_of(shard)
    for spec in models:
        try:
            model = aliascope.load_model(
                spec, weights=weights, seed=seed, size=crop_of(preprocess, size)
            )
            prepared = _prepared(model, preprocess, **pixels)
        except AliascopeError as error:
            failed[spec] = error
            continue
        jobs[spec] = {"model": model, "out": _run_of(spec, out, models), "preprocess": prepared}
    with interruptible(kept=out is not None), progress(", ".join(jobs)) as report:
        measured = measure_together(
            images,
            [*jobs.values()],
            ops=ops,
            only=only,
            precision=precision,
            device=device,
            shifts=shifts,
            batch_size=batch_size,
            limit=limit,
            shard=part,
            workers=workers,
            engine=engine,
            address=address,
            seed=seed,
            progress=report,
        )
        ended = {[*jobs][index]: run for index, run in measured}
    found = {spec: ended[spec] for spec in jobs}
    failed |= {spec: run for spec, run in found.items() if isinstance(run, AliascopeError)}
    if len(models) == len(failed) == 1:
        raise failed[models[0]]
    for spec, error in failed.items():
        complain(f"{spec}: {error}")
    runs = [run for run in found.values() if isinstance(run, aliascope.Run)]
    for run in runs if not (as_json or as_csv) else ():
        say(f"{run}\n", run.verdict)
    if as_csv and runs:
        print_csv(pd.concat([run.table for run in runs]))
    if as_json:
        print_json([run.to_dict() for run in runs])
    if failed:
        raise typer.Exit(1)


def _run_of(spec: str, out: str | None, models: list[str]) -> Any:
    """Where the run of one of the models goes."""
    return out if out is None or len(models) == 1 else place(out) / file_name(spec)


def compare(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A", help="Compare the model of this spec, or this run directory, with B."
        ),
    ],
    b: Annotated[
        str,
        typer.Argument(
            metavar="B", help="Compare A with this model or run; differences are B - A."
        ),
    ],
    images: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE", help="Measure models on pictures of this source, as for `measure`."
        ),
    ] = None,
    layer_map: Map = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIRECTORY", help="Write each model's run into a directory below this one."
        ),
    ] = None,
    weights: Weights = _MEASURE.weights,
    preprocess: Preprocess = _MEASURE.preprocess,
    size: Size = None,
    resize: Resize = None,
    mean: Mean = None,
    std: Std = None,
    interpolation: Interpolation = None,
    precision: Precision = _MEASURE.precision,
    device: Device = None,
    shifts: Shifts = _MEASURE.shifts,
    batch_size: BatchSize = None,
    limit: Limit = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Compare two models on the same pictures, or two runs, paired by image and by layer.

    A and B are model specs, which are measured on --images first, or run directories. Layers are
    paired by their place in the network, or as --map says. Intervals and tests take a photograph as
    one observation; p-values are corrected over layers (Holm).
    """
    pairs = assignments(layer_map) or None
    options = {"out": out, "weights": weights, "precision": precision, "device": device}
    options |= {"shifts": shifts, "batch_size": batch_size, "limit": limit}
    pixels = {"size": size, "resize": resize, "mean": mean, "std": std}
    pixels |= {"interpolation": interpolation}
    if images is None:
        _refuse_models(a, b, options | pixels | {"preprocess": preprocess})
        show(aliascope.compare(a, b, layer_map=pairs), as_json=as_json, as_csv=as_csv)
        return
    if runs := [text for text in (a, b) if _is_run(text)]:
        raise RunError(
            f"{runs[0]} is a run, which is not measured again: leave --images out, or give two "
            "models"
        )
    first = aliascope.load_model(a, weights=weights, size=crop_of(preprocess, size))
    options["preprocess"] = _prepared(first, preprocess, **pixels)
    with interruptible(kept=out is not None), progress(f"{a}, {b}") as report:
        comparison = aliascope.compare(
            first, b, images=images, layer_map=pairs, progress=report, **options
        )
    show(comparison, as_json=as_json, as_csv=as_csv)
    also_report(out)


def _is_run(text: str) -> bool:
    return (place(text) / "run.json").exists()


def _refuse_models(a: str, b: str, options: dict[str, Any]) -> None:
    """Without --images there is nothing to measure, and nothing that options could change."""
    for text in (a, b):
        if not _is_run(text):
            raise RunError(
                f"{text} is no directory that `aliascope measure --out` wrote; to measure a model "
                "of that name, say on which --images"
            )
    idle = [name for name, value in options.items() if value != getattr(_MEASURE, name, None)]
    if idle:
        raise RunError(
            f"--{', --'.join(idle).replace('_', '-')}: nothing is measured without --images; leave "
            "this out to compare the runs as they are"
        )


def _prepared(model: LoadedModel, name: PreprocessingName, **pixels: str | None) -> Preprocessing:
    """The transform of that name, with what the options say in its place."""
    return customised(model.preprocessing if name == "model" else RESIZE_224, **pixels)
