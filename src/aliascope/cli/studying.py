"""The five-phase study."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from aliascope.cli.options import (
    OPS_HELP,
    PRECISION_HELP,
    PREPROCESS_HELP,
    SHIFTS_HELP,
    Csv,
    Device,
    Json,
    Limit,
    Map,
    assignments,
    border,
    numbers,
)
from aliascope.cli.output import complain, interruptible, progress, show
from aliascope.cli.reporting import also_report
from aliascope.images.preprocessing import PreprocessingName
from aliascope.measure.batch import Ops
from aliascope.runtime import Precision
from aliascope.shifts import Border


def study(
    preset: Annotated[
        str,
        typer.Option(
            metavar="PRESET",
            help="Begin from embedded (needs no network), paper (the published protocol) or "
            "matched (ResNet-50 with and without blur, trained alike); the others change it.",
        ),
    ] = "embedded",
    baseline: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Take the model of this spec as the one before."),
    ] = None,
    antialiased: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Take the model of this spec as the one after."),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC", help="Show beside them a model in which nothing was filtered."
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Read the pictures from a source, as for `measure`."),
    ] = None,
    limit: Limit = None,
    phases: Annotated[
        str, typer.Option(metavar="PHASES", help="Run these of the five phases, such as 1,3-5.")
    ] = "1-5",
    weights: Annotated[
        str | None, typer.Option(metavar="WEIGHTS", help="Load pretrained or random weights.")
    ] = None,
    preprocess: Annotated[PreprocessingName | None, typer.Option(help=PREPROCESS_HELP)] = None,
    shifts: Annotated[
        list[str] | None,
        typer.Option(
            parser=border,
            metavar=f"<{'|'.join(get_args(Border))}>",
            help=f"{SHIFTS_HELP} Repeat it to show others beside the first.",
        ),
    ] = None,
    ops: Annotated[Ops | None, typer.Option(help=OPS_HELP)] = None,
    class_map: Annotated[
        str | None,
        typer.Option(
            metavar="LABELS",
            help="Count ImageNet classes as right for other labels: those of stl10.",
        ),
    ] = None,
    layer_map: Map = None,
    sweep: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Try so many frequencies in phase 2 (10 were published)."
        ),
    ] = None,
    latency_seconds: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="Spend so long on timing each batch size."),
    ] = None,
    precision: Annotated[Precision | None, typer.Option(help=PRECISION_HELP)] = None,
    device: Device = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Seed random weights and intervals with this number."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIRECTORY", help="Write into this directory, or go on with what it holds."
        ),
    ] = Path("results"),
    figures_only: Annotated[
        bool, typer.Option("--figures-only", help="Only draw the figures again from --out.")
    ] = False,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Run the five-phase study on a pair of models: seven tables, fifteen figures, one summary.

    Phases: 1 what each layer reads, 2 synthetic pictures, 3 aliasing on natural images, 4 does it
    predict instability, 5 what the intervention buys and costs. What --out already holds of the
    same study is not measured again. What no option says is as the preset has it.
    """
    from aliascope.study import run_study

    with interruptible(kept=True):
        summary = run_study(
            preset,
            out=out,
            phases=numbers(phases),
            figures_only=figures_only,
            progress=progress,
            baseline=baseline,
            antialiased=antialiased,
            control=control,
            images=images,
            limit=limit,
            weights=weights,
            preprocess=preprocess,
            shifts=tuple(shifts or ()) or None,
            ops=ops,
            class_map=class_map,
            layer_map=tuple(assignments(layer_map).items()) or None,
            sweep=sweep,
            latency_seconds=latency_seconds,
            precision=precision,
            device=device,
            seed=seed,
        )
    show(summary, as_json=as_json, as_csv=as_csv)
    also_report(out)
    for number, why in summary.failed.items():
        complain(f"phase {number}: {why}")
    if summary.failed:
        raise typer.Exit(1)
