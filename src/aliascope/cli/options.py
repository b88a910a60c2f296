"""The options that several commands share, their defaults and how their texts are read.

What can be chosen and what is chosen by default is read off the library: no list stands here again.
"""

import inspect
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Annotated, Any, get_args

import typer

from aliascope.measure import Engine as AnyEngine
from aliascope.measure.batch import Only as AnyOnly
from aliascope.measure.batch import Ops as AnyOps
from aliascope.runtime import Precision as AnyPrecision
from aliascope.shifts import Border


def defaults_of(function: Callable[..., Any]) -> SimpleNamespace:
    """The defaults of a function's arguments, by their names.

    >>> defaults_of(lambda x, y=2: x + y).y
    2
    """
    taken = inspect.signature(function).parameters.values()
    return SimpleNamespace(**{p.name: p.default for p in taken if p.default is not p.empty})


SOURCES = (
    "photos (they come with aliascope), a folder or glob, stl10, cifar10, imagenet:PATH, "
    "imagefolder:PATH, hf:DATASET[:SPLIT], wds:SHARDS or an address such as s3://bucket/folder"
)
SHIFTS_HELP = (
    "Move each picture by one pixel: crop moves the window by a pixel of the network's, half by "
    "half of one, native by one of the photograph's own, circular rolls the picture (as published)."
)
OPS_HELP = "Measure all operations that downsample, or only convolutions (conv, as published)."
PREPROCESS_HELP = (
    "Prepare pictures as the model's own evaluation does (model), or resize them to 224 × 224 "
    "(resize224, as published)."
)
PRECISION_HELP = "Run the forward pass in this precision."


def _alone(context: Any, given: Any, value: bool) -> bool:
    other = "as_csv" if given.name == "as_json" else "as_json"
    if value and context.params.get(other):
        raise typer.BadParameter("--json and --csv are two forms of one output; give one of them")
    return value


Json = Annotated[
    bool, typer.Option("--json", callback=_alone, help="Print JSON instead of a table.")
]
Csv = Annotated[
    bool,
    typer.Option(
        "--csv", callback=_alone, help="Print the table as CSV (RFC 4180), with all digits."
    ),
]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Load the model of this spec; `aliascope models` lists them."
    ),
]
Images = Annotated[str, typer.Option(metavar="SOURCE", help=f"Read the pictures from {SOURCES}.")]
Limit = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Read at most so many pictures.")
]
Weights = Annotated[
    str,
    typer.Option(
        metavar="WEIGHTS",
        help="Load weights: pretrained, random, or those of a file (safetensors or state_dict).",
    ),
]
Precision = Annotated[AnyPrecision, typer.Option(help=PRECISION_HELP)]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE", help="Run on cpu, cuda, cuda:1, …; by default on the GPU if there is one."
    ),
]
Shifts = Annotated[
    Border | None,
    typer.Option(help=f"{SHIFTS_HELP} By default crop, or circular where there is no room."),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="PIXELS",
        help="Show the model pictures of this size, such as 224 or 288x224, not of its own.",
    ),
]
Resize = Annotated[
    str | None,
    typer.Option(
        metavar="PIXELS",
        help="Resize the short side to this before the crop, or rows and columns (256x256).",
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B", help="Subtract this from pixels in 0 to 1, such as 0.485,0.456,0.406."
    ),
]
Std = Annotated[
    str | None, typer.Option(metavar="R,G,B", help="Divide pixels by this after --mean.")
]
Interpolation = Annotated[
    str | None,
    typer.Option(
        metavar="METHOD", help="Resize with bilinear, bicubic or another method of Pillow's."
    ),
]
Only = Annotated[
    AnyOnly, typer.Option(help="Measure all, or the layers alone (avr), of one view and not five.")
]
Ops = Annotated[AnyOps, typer.Option(help=OPS_HELP)]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Show the model so many pictures at once; by default what is fastest.",
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Measure each N-th image from number I, which counts from 0; other processes measure "
        "the other shards into the same --out.",
    ),
]
Workers = Annotated[
    int, typer.Option(min=1, metavar="N", help="Share the work between so many processes.")
]
Engine = Annotated[
    AnyEngine,
    typer.Option(help="Measure on this machine, or spread the work over a Ray cluster."),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Use the Ray cluster at this address, such as auto; by default one on this machine.",
    ),
]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="A=B",
        help="Pair layer A of the first model with layer B of the second; repeatable.",
    ),
]


def assignments(texts: list[str] | None) -> dict[str, str]:
    """A=B, several times.

    >>> assignments(["conv1=stem.conv"])
    {'conv1': 'stem.conv'}
    """
    found = {}
    for text in texts or []:
        left, equals, right = text.partition("=")
        if not (left and equals and right):
            raise typer.BadParameter(f"{text!r} is not of the form A=B", param_hint="--map")
        found[left] = right
    return found


def shard_of(text: str | None) -> tuple[int, int] | None:
    """I/N.

    >>> shard_of("3/8")
    (3, 8)
    """
    if text is None:
        return None
    if not (ends := re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)):
        wrong = f"{text!r} is not of the form I/N, such as 0/8"
        raise typer.BadParameter(wrong, param_hint="--shard")
    return int(ends[1]), int(ends[2])


def border(text: str) -> str:
    """A way to move pictures; typer takes no list of a `Literal`."""
    if text not in get_args(Border):
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(get_args(Border))}")
    return text


def numbers(text: str) -> list[int]:
    """Phases, by number.

    >>> numbers("1,3-5")
    [1, 3, 4, 5]
    """
    found: list[int] = []
    for part in text.split(","):
        if not (ends := re.fullmatch(r"([0-9])(?:-([0-9]))?", part)):
            wrong = f"{text!r} is no list of phases; write it like 1,3-5"
            raise typer.BadParameter(wrong, param_hint="--phases")
        first, last = int(ends[1]), int(ends[2] or ends[1])
        if last < first:
            wrong = f"{part!r} runs backwards; write {last}-{first}"
            raise typer.BadParameter(wrong, param_hint="--phases")
        found += range(first, last + 1)
    return found
