"""Runs on the disk: shards put together, and what was written checked."""

from typing import Annotated

import typer

import aliascope
from aliascope.cli.options import Json
from aliascope.cli.output import print_json, say

Runs = Annotated[
    list[str],
    typer.Argument(metavar="RUN...", help="Read what `aliascope measure --out` wrote here."),
]


def merge(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="Join the shards that were measured into this run."),
    ],
    as_json: Json = False,
) -> None:
    """Make one run of the shards that several processes measured, in few and large files.

    All shards must be there and complete. Nothing is measured.
    """
    merged = aliascope.merge(run)
    if as_json:
        print_json(merged.to_dict())
    else:
        say(str(merged), merged.verdict)


def verify(runs: Runs, as_json: Json = False) -> None:
    """Check that runs hold what was written: every file's digest, every image's rows.

    Of the directory of a study, a comparison, methods or a fine-tuning, all that lies below it.
    The status is 1 where a file is damaged or a shard is not complete.
    """
    found = [aliascope.verify(run) for run in runs]
    if as_json:
        print_json([each.to_dict() for each in found])
    else:
        say("\n\n".join(map(str, found)))
    if not all(each.sound and not each.shards_left for each in found):
        raise typer.Exit(1)
