"""One page of what was found."""

from pathlib import Path
from typing import Annotated

import typer

from aliascope.cli.output import notify
from aliascope.errors import AliascopeError


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="Read the study, comparison, run, table of methods or fine-tuning in this "
            "directory, or a saved result in this file.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write this file, by default report.html in the first directory."
        ),
    ] = None,
    thumbnails: Annotated[
        bool | None,
        typer.Option(
            "--thumbnails/--no-thumbnails",
            help="Show small pictures of single photographs in the page. By default only those of "
            "the embedded ones are shown: others may be private.",
        ),
    ] = None,
) -> None:
    """Write one HTML page of results, for people to read and send to each other.

    The page opens by double click, asks the network for nothing, and can be read without scripts.
    """
    from aliascope.report import report as write

    typer.echo(write(*paths, out=out, thumbnails=thumbnails))


def also_report(path: Path | None, *parts: Path) -> None:
    """Write the page beside what a command wrote; where that cannot be had, the results stand.

    Args:
        path: the directory that the page goes into.
        parts: what it is of, where that is not the directory itself.
    """
    if path is None:
        return
    from aliascope.report import report as write

    try:
        notify(f"the report is in {write(*(parts or [path]), out=path / 'report.html')}")
    except AliascopeError as error:
        notify(f"no report: {error}")
