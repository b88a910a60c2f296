"""What there is: models that can be named, and the layers of one."""

from dataclasses import asdict, replace
from typing import Annotated

import typer

import aliascope
from aliascope.cli.options import Json, Model, Size
from aliascope.cli.output import notify, print_json
from aliascope.preprocessing import customised
from aliascope.runtime import failures_named
from aliascope.taps import trace
from aliascope.text import columns, pair


def layers(model: Model, size: Size = None, as_json: Json = False) -> None:
    """List every operation of MODEL that downsamples, in order of execution.

    No weights are needed: the operations are found by running the network on a blank image.
    """
    loaded = aliascope.load_model(model, weights="random")
    preprocessing = customised(loaded.preprocessing, size=size)
    example = replace(loaded, preprocessing=preprocessing).example()
    with failures_named(model, example.shape):
        recorded = trace(loaded.module, example)
    found = recorded.strided_layers()
    if preprocessing.assumed:
        side = " × ".join(map(str, preprocessing.crop))
        notify(
            f"{model} does not say what size it takes, so it was run on {side}: give "
            "its own with --size"
        )
    for notice in recorded.unexplained:
        notify(notice)
    if as_json:
        print_json([asdict(layer) for layer in found])
        return
    header = ["#", "layer", "kind", "kernel", "stride", "input", "output", "image stride", ""]
    rows = [
        [
            str(layer.order),
            layer.name,
            layer.kind,
            "×".join(map(str, layer.kernel)),
            pair(*layer.stride),
            "×".join(map(str, layer.input_shape)),
            "×".join(map(str, layer.output_shape)),
            pair(*layer.cumulative_stride),
            "shortcut" if layer.shortcut else "",
        ]
        for layer in found
    ]
    nothing = "no operation was seen" if recorded.unexplained else f"{model} does not downsample"
    typer.echo(columns([header, *rows]) if rows else nothing)


def models(
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="List only the specs that contain this.")
    ] = "",
    as_json: Json = False,
) -> None:
    """List the model specs that can be measured.

    Besides these: package.module:function for a network of your own, a FILE.safetensors that
    `aliascope antialias` wrote, and SPEC@METHOD[:SIZE][:stem] for any of them anti-aliased.
    """
    specs = aliascope.available_models(pattern)
    if as_json:
        print_json(specs)
    else:
        typer.echo("\n".join(specs) or f"no model contains {pattern!r}")
