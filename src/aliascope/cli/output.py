"""What every command prints, and where."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from aliascope.results.text import visible, wrapped

_COLOURS = {"error": "red", "notice": "yellow", "verdict": "cyan"}
"""Colours alone: rich leaves these out under NO_COLOR, but not bold face."""


def complain(sentence: str) -> None:
    """Say on stderr what went wrong."""
    _tell("error", sentence)


def notify(sentence: str) -> None:
    """Say on stderr what to know before the figures are read."""
    _tell("notice", sentence)


def show(result: Any, *, as_json: bool, as_csv: bool) -> None:
    """Print a result of the library: as its table, as JSON, or the table's rows as CSV."""
    if as_json:
        print_json(result.to_dict())
    elif as_csv:
        print_csv(result.table)
    else:
        say(str(result), result.verdict)


def say(text: str, verdict: str = "") -> None:
    """Print text; on a terminal its notices and the verdict that it holds in colour."""
    console = _console(sys.stdout)
    if console.color_system is None:
        typer.echo(text)
        return
    painted = Text(text)
    painted.highlight_regex(r"(?m)^(notice|error|failed).*(\n  .*)*", _COLOURS["notice"])
    if verdict:
        painted.highlight_words([wrapped([verdict])], _COLOURS["verdict"])
    console.print(painted, soft_wrap=True)


def print_json(data: Any) -> None:
    """Print plain values."""
    typer.echo(json.dumps(data, indent=2))


def print_csv(table: pd.DataFrame) -> None:
    """Print rows with all their digits, as RFC 4180 has it; what is not known is empty."""
    typer.echo(table.to_csv(index=False, lineterminator="\r\n").encode(), nl=False)


@contextmanager
def progress(title: str, unit: str = "images") -> Iterator[Any]:
    """A bar on stderr, with rate, time left and what is waited for; yields a `Report`."""
    console = _console(sys.stderr)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[waiting]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal or console.is_dumb_terminal,
    )
    with bar:
        task = bar.add_task(title, total=None, rate="", waiting="")

        def report(done: int, total: int | None, waiting: str = "") -> None:
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
            rate = f"{speed:.1f} {unit}/s" if speed else ""
            waiting = f"waits for {waiting}" if waiting else ""
            bar.update(task, completed=done, total=total, rate=rate, waiting=waiting)

        yield report


@contextmanager
def interruptible(*, kept: bool) -> Iterator[None]:
    """Ctrl-C becomes a sentence and status 1.

    Args:
        kept: whether the command goes on from where it was when it is given again.
    """
    try:
        yield
    except KeyboardInterrupt:
        rest = "the same command goes on from there" if kept else "nothing was kept without --out"
        complain(f"interrupted; {rest}")
        raise typer.Exit(1) from None


def _console(stream: Any) -> Console:
    """What writes in colour on a terminal, unless NO_COLOR or TERM=dumb says not to."""
    # FORCE_COLOR makes no terminal of a file; a spec may contain ":x:".
    return Console(file=stream, force_terminal=stream.isatty(), highlight=False, emoji=False)


def _tell(kind: str, sentence: str) -> None:
    text = Text.assemble((f"{kind}:", _COLOURS[kind]), f" {visible(sentence)}")
    _console(sys.stderr).print(text, soft_wrap=True)
