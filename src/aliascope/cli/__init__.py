"""The command line: one verb, one library call. Data on stdout, progress and notices on stderr."""

import ast
import sys
from importlib import import_module
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from aliascope.errors import AliascopeError

COMMANDS = {
    "layers": ("inspecting", "timm:resnet50"),
    "measure": ("measuring", "efficientnet_lite0 --images photos --limit 2"),
    "attribute": ("attributing", "efficientnet_lite0 --images photos --limit 2"),
    "merge": ("keeping", "run"),
    "verify": ("keeping", "run"),
    "compare": (
        "measuring",
        "efficientnet_lite0 efficientnet_lite0_ideal --images photos --limit 4",
    ),
    "bench": (
        "timing",
        "efficientnet_lite0 efficientnet_lite0@blurpool --batch-size 1 --seconds 1",
    ),
    "study": ("studying", "--limit 4 --phases 1-3 --out results"),
    "repair": (
        "repairing",
        "cifar_resnet8 --limit 16 --holdout 8 --steps 0 --budget latency=9 --out repaired",
    ),
    "antialias": ("repairing", "efficientnet_lite0 --size 2 --out l.safetensors"),
    "export": ("exporting", "cifar_resnet8_ideal --out net.pt2 --limit 2"),
    "methods": (
        "repairing",
        "--measure efficientnet_lite0 --limit 1 --only ideal --latency-seconds 0",
    ),
    "report": ("reporting", "results"),
    "models": ("inspecting", "resnet18"),
    "explore": ("exploring", "efficientnet_lite0 efficientnet_lite0_ideal"),
}
"""Command → the module of this package that has it, and an example that runs, for its help."""
_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Commands(TyperGroup):
    """Each command is imported when it is called: help is there at once."""

    def __init__(self, **attrs: Any) -> None:
        known: Any = dict.fromkeys(COMMANDS)
        attrs["commands"] = known
        super().__init__(**attrs)

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of the table."""
        del ctx
        return [*COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Of that name; None where there is none."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, example = COMMANDS[cmd_name]
        function = getattr(import_module(f"aliascope.cli.{module}"), cmd_name)
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        epilog = f"Example: aliascope {cmd_name} {example}"
        alone.command(cmd_name, epilog=epilog, context_settings=_SETTINGS)(function)
        return typer.main.get_command(alone)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Names and first sentences, which are read and not imported."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first_sentence(name)) for name in COMMANDS])


def _first_sentence(command: str) -> str:
    text = Path(__file__).with_name(f"{COMMANDS[command][0]}.py").read_text("utf-8")
    found = {x.name: x for x in ast.parse(text).body if isinstance(x, ast.FunctionDef)}
    return (ast.get_docstring(found[command]) or "").partition("\n")[0]


app = typer.Typer(
    cls=_Commands,
    name="aliascope",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=_SETTINGS,
)


def main() -> None:
    """Run the command line; a mistake of the user's becomes one sentence and status 1."""
    debug = "--debug" in sys.argv
    try:
        app()
    except (AliascopeError, OSError) as error:
        if debug:
            raise
        from aliascope.cli.output import complain

        told = str(error)
        if isinstance(error, OSError):  # of a place that no command looks at before it is used
            told = f"{error.filename or 'a file'} cannot be used ({error.strerror or error}): "
            told += "give another path, or mend that"
        complain(told)
        sys.exit(1)


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"aliascope {version_of('aliascope')}")
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
    from aliascope.runtime import keep_memory

    keep_memory()
