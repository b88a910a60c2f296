"""What every command prints, and where."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_stderr = Console(stderr=True, highlight=False, emoji=False)  # a spec may contain ":x:"


def complain(sentence: str) -> None:
    """Say on stderr what went wrong."""
    _tell("error", sentence)


def notify(sentence: str) -> None:
    """Say on stderr what to know before the figures are read."""
    _tell("notice", sentence)


def show(result: Any, as_json: bool) -> None:
    """Print a result of the library, as its table or as JSON."""
    if as_json:
        print_json(result.to_dict())
    else:
        typer.echo(str(result))


def print_json(data: Any) -> None:
    """Print plain values."""
    typer.echo(json.dumps(data, indent=2))


@contextmanager
def progress(title: str, unit: str = "images") -> Iterator[Any]:
    """A bar with rate and time left on stderr; called with the units done and their number."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=_stderr,
        transient=True,
        disable=not _stderr.is_terminal,
    )
    with bar:
        task = bar.add_task(title, total=None, rate="")

        def report(done: int, total: int | None) -> None:
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
            rate = f"{speed:.1f} {unit}/s" if speed else ""
            bar.update(task, completed=done, total=total, rate=rate)

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


def _tell(kind: str, sentence: str) -> None:
    _stderr.print(f"{kind}: {sentence}", markup=False, soft_wrap=True)
