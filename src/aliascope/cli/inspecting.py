"""What there is: models that can be named, and the layers of one."""

from collections import Counter
from dataclasses import asdict, fields
from typing import Annotated

import pandas as pd
import typer

import aliascope
from aliascope.cli.options import Csv, Json, Model, Size
from aliascope.cli.output import notify, print_csv, print_json, say
from aliascope.images.preprocessing import crop_of, customised
from aliascope.records import StridedLayer
from aliascope.results.text import columns, pair, wrapped
from aliascope.results.verdicts import listed
from aliascope.runtime import failures_named
from aliascope.taps import trace

_LOW_PASSES = frozenset({"blur_pool", "max_blur_pool", "avg_pool"})
"""Kinds that average what they sample, with weights that nobody learned."""


def layers(model: Model, size: Size = None, as_json: Json = False, as_csv: Csv = False) -> None:
    """List every operation of MODEL that downsamples, in order of execution.

    No weights are needed: the operations are found by running the network on a blank image.
    """
    loaded = aliascope.load_model(model, weights="random", size=crop_of("model", size))
    preprocessing = customised(loaded.preprocessing, size=size)
    example = loaded.example(preprocessing.crop)
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
    if as_csv:
        print_csv(_table(found))
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
    verdict = _verdict(found) if found else nothing
    table = [columns([header, *rows], names=2)] if rows else []
    say("\n\n".join([*table, wrapped([verdict])]), verdict)


def _table(found: list[StridedLayer]) -> pd.DataFrame:
    """A row a layer, sizes written 3x224x224."""
    names = [field.name for field in fields(StridedLayer)]
    rows = [
        {
            name: "x".join(f"{x:g}" for x in value) if isinstance(value, tuple) else value
            for name, value in vars(layer).items()
        }
        for layer in found
    ]
    return pd.DataFrame(rows, columns=names)


def _filters(layer: StridedLayer) -> bool:
    """Whether it is a fixed low-pass; of resizes those with antialiasing have taps."""
    resize = layer.kind == "interpolate" and layer.kernel != (1, 1)
    return layer.kind in _LOW_PASSES or resize


def _verdict(found: list[StridedLayer]) -> str:
    bare = Counter(layer.kind for layer in found if not _filters(layer))
    kinds = [f"{kind} ({n})" for kind, n in bare.items()]
    places = f"{len(found)} {'place downsamples' if len(found) == 1 else 'places downsample'}"
    if not kinds:
        return f"{places}, all of them through a fixed low-pass."
    count = "all" if bare.total() == len(found) else str(bare.total())
    return f"{places}, {count} of them through no fixed low-pass: {listed(kinds)}."


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
