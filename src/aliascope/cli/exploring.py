"""The page in the browser."""

from typing import Annotated

import typer

from aliascope.cli.options import Device
from aliascope.cli.output import notify
from aliascope.errors import RunError
from aliascope.explorer import MODELS, build


def explore(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL [MODEL]]",
            help="Offer the models of these specs; by default the two embedded ones.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, metavar="N", help="Serve here; by default the first free from 7860."
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="Serve at this address; 0.0.0.0 lets other machines in."
        ),
    ] = "127.0.0.1",
    device: Device = None,
) -> None:
    """Shift a photograph in the browser and see two models answer, until Ctrl-C.

    Drop a photograph, or take one that comes with aliascope; beside the first model stands the
    second, or the first repaired there and then. Needs the extra `explorer`.
    """
    page = build(models or MODELS, device=device)
    try:
        _, address, _ = page.launch(
            server_name=host, server_port=port, quiet=True, prevent_thread_lock=True
        )
    except OSError as error:
        raise RunError(
            f"cannot serve at {host}:{port or 7860} ({error}): give another --port or --host"
        ) from error
    typer.echo(address)
    notify("Ctrl-C ends it")
    try:
        page.block_thread()
    finally:
        page.close()
