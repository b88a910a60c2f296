"""How fast models are."""

from typing import Annotated

import typer

import aliascope
from aliascope.cli.options import Csv, Device, Json, Precision, Weights, defaults_of
from aliascope.cli.output import complain, progress, show

_BENCH = defaults_of(aliascope.bench)


def bench(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="Time the models of these specs; ratios are to the first."
        ),
    ],
    batch_size: Annotated[
        list[int],
        typer.Option(
            min=1, metavar="N", help="Show the models so many pictures at once; repeatable."
        ),
    ] = list(_BENCH.batch_sizes),  # noqa: B006  (typer reads it, nobody writes to it)
    seconds: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="Spend so long on each batch size, but take 11 to 200 rounds.",
        ),
    ] = _BENCH.seconds,
    precision: Precision = _BENCH.precision,
    device: Device = None,
    weights: Weights = _BENCH.weights,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N", help="Seed random weights, the input and the order with this number."
        ),
    ] = _BENCH.seed,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Time the forward pass of one or more models against each other.

    Each round times every model once, in changing order; ratios are those within a round. The
    models run as they are: batch-norm is not folded. A model against itself shows how far a ratio
    can be trusted on this machine.
    """
    with progress("bench", "rounds") as report:
        latency = aliascope.bench(
            models,
            batch_sizes=batch_size,
            seconds=seconds,
            precision=precision,
            device=device,
            weights=weights,
            seed=seed,
            progress=report,
        )
    show(latency, as_json=as_json, as_csv=as_csv)
    for label, sentence in latency.failures.items():
        complain(f"{label}: {sentence}")
    if latency.failures:
        raise typer.Exit(1)
