"""A network for other runtimes."""

from pathlib import Path
from typing import Annotated

import typer

import aliascope
from aliascope.cli.measuring import Preprocess
from aliascope.cli.options import (
    Csv,
    Images,
    Interpolation,
    Json,
    Limit,
    Mean,
    Model,
    Resize,
    Size,
    Std,
    Weights,
    defaults_of,
)
from aliascope.cli.output import interruptible, progress, show
from aliascope.export.targets import To
from aliascope.images.preprocessing import RESIZE_224, crop_of, customised

_EXPORT = defaults_of(aliascope.export)


def export(
    model: Model,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Write this file: NAME.onnx, .xml (OpenVINO), .pt2 (torch-export) or .pte "
            "(ExecuTorch).",
        ),
    ],
    to: Annotated[
        To | None,
        typer.Option(help="Write in this format; by default what the ending of --out says."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Time the file against this model's, such as the unrepaired one's.",
        ),
    ] = None,
    images: Images = "photos",
    limit: Limit = None,
    weights: Weights = _EXPORT.weights,
    preprocess: Preprocess = _EXPORT.preprocess,
    size: Size = None,
    resize: Resize = None,
    mean: Mean = None,
    std: Std = None,
    interpolation: Interpolation = None,
    tolerance: Annotated[
        float,
        typer.Option(
            metavar="ERROR",
            help="Keep a file only if its largest relative error is not above this.",
        ),
    ] = _EXPORT.tolerance,
    seconds: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Spend so long on timing.")
    ] = _EXPORT.seconds,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Write MODEL for another runtime, and prove that it answers there as in PyTorch.

    The file takes batches of any size. It is run on --images, alone and several at once; one that
    does not agree is not kept. How pictures are to be prepared stands in the file's metadata, and
    is printed.
    """
    loaded = aliascope.load_model(model, weights=weights, size=crop_of(preprocess, size))
    prepared = customised(
        loaded.preprocessing if preprocess == "model" else RESIZE_224,
        size=size,
        resize=resize,
        mean=mean,
        std=std,
        interpolation=interpolation,
    )
    with interruptible(kept=False), progress(f"{model} → {out}", "pictures") as report:
        exported = aliascope.export(
            loaded,
            out,
            to,
            images=images,
            limit=limit,
            against=against,
            weights=weights,
            preprocess=prepared,
            tolerance=tolerance,
            seconds=seconds,
            progress=report,
        )
    show(exported, as_json=as_json, as_csv=as_csv)
