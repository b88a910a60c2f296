"""Where instability arises."""

from typing import Annotated

import pandas as pd
import typer

import aliascope
from aliascope.attribute import Attribution
from aliascope.cli.options import (
    PREPROCESS_HELP,
    BatchSize,
    Csv,
    Device,
    Images,
    Json,
    Limit,
    Precision,
    Shifts,
    Weights,
    defaults_of,
)
from aliascope.cli.output import complain, interruptible, print_csv, print_json, progress, say
from aliascope.cli.reporting import also_report
from aliascope.errors import AliascopeError
from aliascope.images.preprocessing import PreprocessingName
from aliascope.results.files import file_name, place

_ATTRIBUTE = defaults_of(aliascope.attribute)


def attribute(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="Measure the models of these specs, one after the other."
        ),
    ],
    images: Images = "photos",
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIRECTORY",
            help="Write run, attribution.json, figure and report into this directory; of several "
            "models, the runs below it.",
        ),
    ] = None,
    weights: Weights = _ATTRIBUTE.weights,
    preprocess: Annotated[
        PreprocessingName, typer.Option(help=PREPROCESS_HELP)
    ] = _ATTRIBUTE.preprocess,
    precision: Precision = _ATTRIBUTE.precision,
    device: Device = None,
    shifts: Shifts = _ATTRIBUTE.shifts,
    doses: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Try filters at each place on so many images, the first ones: what costs most.",
        ),
    ] = _ATTRIBUTE.doses,
    batch_size: BatchSize = None,
    limit: Limit = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Seed random weights with this number.")
    ] = _ATTRIBUTE.seed,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Find where along a network its instability arises, and which band carries it.

    At each depth the network goes on from the maps of a picture and of its copy moved by a pixel
    with their bands exchanged: what aliases moves alone, then what does not. Beside it stand the
    equivariance error before and behind each sampling, and what a filter there would leave.
    """
    found: dict[str, Attribution] = {}
    failed = {}
    for spec in models:
        own = out if out is None or len(models) == 1 else place(out) / file_name(spec)
        try:
            with interruptible(kept=out is not None), progress(spec) as report:
                found[spec] = aliascope.attribute(
                    spec,
                    images,
                    out=own,
                    weights=weights,
                    preprocess=preprocess,
                    precision=precision,
                    device=device,
                    shifts=shifts,
                    doses=doses,
                    batch_size=batch_size,
                    limit=limit,
                    seed=seed,
                    progress=report,
                )
        except AliascopeError as error:
            if len(models) == 1:
                raise
            failed[spec] = error
            continue
        if not (as_json or as_csv):
            say(f"{found[spec]}\n", found[spec].verdict)
    if as_json:
        print_json([each.to_dict() for each in found.values()])
    if as_csv and found:
        tables = [each.table.assign(model=spec) for spec, each in found.items()]
        print_csv(pd.concat(tables))
    for spec, error in failed.items():
        complain(f"{spec}: {error}")
    if out is not None and found:
        _illustrate(found, out)
    if failed:
        raise typer.Exit(1)


def _illustrate(found: dict[str, Attribution], out: str) -> None:
    """The figure of the first two models, and the page of all."""
    from aliascope.figures import attribution, save

    if "://" not in out:
        shown = dict(list(found.items())[:2])
        one = next(iter(shown.values()))
        caption = f"{one.n} images of {one.groups} photographs, {one.shifts} shifts."
        save(attribution.draw(shown, caption=caption), out, "attribution")
    folders = [place(out) / file_name(spec) for spec in found]
    also_report(place(out), *(folders if len(folders) > 1 else ()))
