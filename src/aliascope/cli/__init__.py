"""The command line: one verb, one library call. Data on stdout, progress and notices on stderr."""

import sys
from typing import Annotated

import typer

import aliascope
from aliascope.cli.exploring import explore
from aliascope.cli.inspecting import layers, models
from aliascope.cli.keeping import merge, verify
from aliascope.cli.measuring import compare, measure
from aliascope.cli.output import complain
from aliascope.cli.repairing import antialias, methods
from aliascope.cli.reporting import report
from aliascope.cli.studying import study
from aliascope.cli.timing import bench
from aliascope.errors import AliascopeError
from aliascope.runtime import keep_memory

COMMANDS = {
    layers: "timm:resnet50",
    measure: "efficientnet_lite0 --images photos --limit 2",
    merge: "run",
    verify: "run",
    compare: "efficientnet_lite0 efficientnet_lite0_blurpool --images photos --limit 4",
    bench: "efficientnet_lite0 efficientnet_lite0@blurpool --batch-size 1 --seconds 1",
    study: "--limit 4 --phases 1-3 --out results",
    antialias: "efficientnet_lite0 --size 2 --out l.safetensors",
    methods: "--measure efficientnet_lite0 --limit 1 --only ideal --latency-seconds 0",
    report: "results",
    models: "resnet18",
    explore: "efficientnet_lite0 efficientnet_lite0_blurpool",
}
"""Command → what its help shows behind its name, as an example that runs."""

app = typer.Typer(
    name="aliascope",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for _command, _example in COMMANDS.items():
    app.command(epilog=f"Example: aliascope {_command.__name__} {_example}")(_command)


def main() -> None:
    """Run the command line; a mistake of the user's becomes one sentence and status 1."""
    debug = "--debug" in sys.argv
    keep_memory()
    try:
        app()
    except AliascopeError as error:
        if debug:
            raise
        complain(str(error))
        sys.exit(1)


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"aliascope {aliascope.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _common(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback where a command fails.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and leave."
        ),
    ] = False,
) -> None:
    """How much does a network alias when it downsamples, and do its predictions survive a shift?"""
    del debug, version  # read in `main` and `_version`
