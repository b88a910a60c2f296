"""Swap a model's strided operations for anti-aliased ones and keep its weights.

`places` decides from the data flow of one forward what goes where, `surgery` does it, `report` says
what was done; `calls` makes modules of bare calls, `recipe` holds the arguments, `downsamplers`
makes the downsamplers.
"""

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aliascope.antialias.calls import make_modules
from aliascope.antialias.downsamplers import METHODS, Method, available_methods, layer_of
from aliascope.antialias.flops import counted
from aliascope.antialias.places import Planner, Step, Unconvertible
from aliascope.antialias.recipe import Recipe
from aliascope.antialias.report import Conversion, ConvertedLayer, conversion_of
from aliascope.antialias.surgery import operate, share_choices
from aliascope.errors import ModelError
from aliascope.images.preprocessing import channels_of, preprocessing_of
from aliascope.layers._polyphase import PolyphaseChoice
from aliascope.runtime import uncompiled
from aliascope.taps import Trace, evaluating

__all__ = [
    "METHODS",
    "Conversion",
    "ConvertedLayer",
    "Method",
    "Recipe",
    "antialias",
    "available_methods",
    "conversion_of",
]

Flops = Counter[str]


def antialias(
    model: nn.Module,
    method: str = "blurpool",
    *,
    size: int = 3,
    stem: str = "keep",
    shortcut: bool = True,
    partial: bool = False,
    padding: str = "reflect",
    wavelet: str = "haar",
    at: Sequence[str] = (),
    example: Float[Tensor, "batch chan height width"] | None = None,
) -> nn.Module:
    """A copy of a model in which what downsamples is filtered before it is decimated.

    - strided convolution: at stride 1 → norm → activation → downsampler, centred on the sample of
      each cell that the pretrained weights expect. A norm over space (GroupNorm, InstanceNorm)
      comes behind the downsampler and thus sees as many samples as it was trained with;
    - strided 1 × 1 convolution: downsampler → at stride 1;
    - max-pool: at stride 1 → downsampler; average pool: the downsampler in its place;
    - bare calls (`F.max_pool2d`): as modules, where `torch.fx` can rewrite the forward that makes
      them and the network then answers as before;
    - patches (kernel = stride): low-pass → the convolution as it is. A filter of a few taps stops
      only part of what a patch of 16 folds, and detail that the weights used is lost.

    `folded` costs next to nothing: the filter is convolved with the kernel of the strided
    convolution, which runs as before with a larger one. So it comes before norm and activation,
    and what the activation makes anew is not filtered: such a network has to be trained. What has
    no kernel (max-pool) or one of a single tap gets a BlurPool. With `size` 1 nothing changes: only
    `repair` then does something, which fits the weights to what filters would have yielded.

    The weights stay bit for bit (but of `folded`) and keep their names: the original's `state_dict`
    loads with `strict=True`. Methods that learn (lps, adaptive, tips) add weights under names of
    their own; with them it loads with `strict=False`, nothing but the new names missing. A
    downsampler is a child of the module that it runs before (`layer2.0.conv3.0`) or after
    (`maxpool.1`).

    Args:
        model: left untouched.
        method: see `available_methods`.
        size: taps of the filter, 1 to 7, where the method has one; of blurpool, 1 is plain
            decimation. That network computes what the original does (average pools stay as they
            are) and shows what anti-aliasing changes apart from its filters: nothing.
        stem: "keep" leaves what reads the image as it is, "convert" does not.
        shortcut: whether to convert the short branches of residual sums.
        partial: convert what can be, and list the rest in the report, instead of raising.
        padding: of the downsamplers: reflect, zeros, replicate or circular. The exactness of aps
            and lps needs circular padding in every convolution and pool of the model, too.
        wavelet: of the method of that name: haar, db2, bior2.2, bior3.3 or sym4.
        at: convert only these operations, by their names or those of modules that hold them
            (`layer2`); the others can be converted by other methods afterwards.
        example: a batch to follow through the model; by default one blank image of the size that a
            network of timm's names, or 3 × 224 × 224. Its size decides the phases of modules that
            pad as TensorFlow does.

    Returns:
        The converted model; `conversion_of` it is the report.

    Raises:
        ModelError: an argument out of range, nothing to convert, or something that samples and
            cannot be converted while `partial` is off; all such operations are named.

    Source: Zhang 2019 (arXiv 1904.11486), section 3.2; of the other methods, see their layers.

    >>> net = nn.Sequential(
    ...     nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(),
    ...     nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
    ... )
    >>> antialias(net).get_submodule("4.1")
    BlurPool(8, stride=2, size=3, padding='reflect', phase=0)
    """
    recipe = Recipe(method, size, stem, shortcut, partial, padding, wavelet, tuple(at))
    example = _blank(model) if example is None else example
    converted = _copied(uncompiled(model))
    planner, rows, steps, flops_before = _planned(converted, example, recipe)
    if make_modules(converted, planner.callers(rows), example):
        planner, rows, steps, flops_before = _planned(converted, example, recipe)
    _refuse(rows, recipe)
    names: dict[int, str] = {}
    # Stable: a pool that runs several times is one operation, at the place of its first run.
    order = sorted(steps, key=lambda i: min(j for j in steps if steps[j].module == steps[i].module))
    for _, group in groupby(order, key=lambda i: steps[i].module):
        runs = list(group)
        pools = operate(converted, [steps[i] for i in runs], recipe, example.device)
        names |= dict(zip(runs, pools, strict=True))
    after, flops_after = _run(converted, example, recipe)
    _check_shapes(planner, steps, names, after)
    apart = share_choices(converted, after)
    if issubclass(layer_of(method), PolyphaseChoice):
        _run(converted, example, recipe)  # with its choices shared
    costs = _costs(rows, steps, names, flops_after)
    layers = tuple(
        replace(
            row,
            downsampler=names.get(i),
            flops_before=flops_before[row.layer],
            flops_after=costs[i],
        )
        for i, row in enumerate(rows)
    )
    notices = tuple(
        f"{where} joins branches that cannot share their choice of a component: there, {method} is "
        "not exact under shifts"
        for where in apart
    )
    report: Any = Conversion(
        recipe, layers, tuple(example.shape), flops_before[""], flops_after[""], notices
    )
    converted._aliascope_conversion = report  # noqa: SLF001
    return converted


def _blank(model: nn.Module) -> Tensor:
    like = next(model.parameters(), torch.zeros(()))
    return torch.zeros(1, channels_of(model), *preprocessing_of(model).crop).to(like)


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:
        raise ModelError(
            f"this {type(model).__name__} cannot be copied ({error}): take off what computes its "
            "weights (torch.nn.utils.remove_weight_norm, remove_parametrizations) first"
        ) from error


def _check_places(planner: Planner, recipe: Recipe) -> None:
    names = [layer.name.partition("#")[0] for _, layer in planner.located]
    for place in recipe.at:
        if not any(replace(recipe, at=(place,)).wants(name) for name in names):
            raise ModelError(f"no operation is at {place!r}; choose from {', '.join(names)}")


def _planned(
    model: nn.Module, example: Tensor, recipe: Recipe
) -> tuple[Planner, list[ConvertedLayer], dict[int, Step], Flops]:
    """A row for each operation, the steps of those that are converted, and what all cost now."""
    recorded, flops = counted(model, example)
    planner = Planner(model, recorded, recipe)
    _check_places(planner, recipe)
    with evaluating(model):
        return planner, *_plan(planner), flops


def _plan(planner: Planner) -> tuple[list[ConvertedLayer], dict[int, Step]]:
    rows, steps = [], {}
    for i, (at, layer) in enumerate(planner.located):
        kept = planner.kept(at, layer)
        try:
            if kept is None:
                steps[i] = planner.step(at, layer)
            outcome, note = ("kept", kept) if kept else ("converted", steps[i].note)
        except Unconvertible as reason:
            outcome, note = "refused", str(reason)
        rows.append(ConvertedLayer(layer.name, layer.kind, outcome, note))
    return rows, steps


def _refuse(rows: list[ConvertedLayer], recipe: Recipe) -> None:
    refused = [row for row in rows if row.outcome == "refused"]
    if refused and (not recipe.partial or len(refused) == len(rows)):
        _raise_unconvertible(refused, rows)
    if not any(row.outcome == "converted" for row in rows):
        reasons = "; ".join(f"{row.layer} ({row.kind}): {row.note}" for row in rows)
        stem = " or convert the stem (stem='convert')" if "stem" in reasons else ""
        raise ModelError(
            f"nothing to anti-alias: {reasons or 'the model does not downsample'}; "
            f"measure it as it is{stem}"
        )


def _raise_unconvertible(refused: list[ConvertedLayer], rows: list[ConvertedLayer]) -> NoReturn:
    reasons = "; ".join(f"{row.layer} ({row.kind}): {row.note}" for row in refused)
    rest = any(row.outcome == "converted" for row in rows)
    remedy = "convert the others with partial=True (--partial)" if rest else "measure it as it is"
    raise ModelError(
        f"cannot anti-alias {len(refused)} of {len(rows)} operations: {reasons}; {remedy}"
    )


def _run(model: nn.Module, example: Tensor, recipe: Recipe) -> tuple[Trace, Flops]:
    try:
        return counted(model, example)
    except Exception as error:
        raise ModelError(
            f"the model does not run with {recipe}: {type(error).__name__}: {error}; convert it "
            "before it is compiled or wrapped, or report this model"
        ) from error


def _check_shapes(
    planner: Planner, steps: dict[int, Step], names: dict[int, str], after: Trace
) -> None:
    """Every converted operation must still yield maps of the size that its readers expect."""
    found = {layer.name: layer for layer in after.strided_layers()}
    for i, step in steps.items():
        layer = planner.located[i][1]
        made = found.get(layer.name if step.stride == (1, 1) else names[i])
        sides = made and made.output_shape[1:]
        if sides != layer.output_shape[1:]:
            raise ModelError(
                f"{layer.name} yielded {layer.output_shape[1:]} samples and anti-aliased "
                f"{sides}: measure the model as it is, and report this"
            )


def _costs(
    rows: list[ConvertedLayer], steps: dict[int, Step], names: dict[int, str], flops: Flops
) -> list[int]:
    """The FLOPs of each operation with its own downsampler, and without those of others.

    A module's own hooks run within it, its pre-hooks before it.
    """
    guests: Counter[str] = Counter()
    for i, step in steps.items():
        if step.place.side == "after" and not step.folded:
            own = step.place.module == step.module
            guests[rows[i].layer if own else step.place.module] += flops[names[i]]
    own = {i: 0 if steps[i].folded else flops[name] for i, name in names.items()}
    return [flops[row.layer] - guests[row.layer] + own.get(i, 0) for i, row in enumerate(rows)]
