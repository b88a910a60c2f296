"""How far maps and detections move when the picture moves: answers other than a picture's logits.

A shift moves the answer too, so it is undone before two answers are compared, and they are compared
where all views show the scene: without as many rows and columns at each side as the plan moves.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from aliascope.errors import ModelError
from aliascope.shifts import ONE_PIXEL, Shift, largest

Kind = Literal["classes", "map", "boxes"]
"""Maps of class logits; any other maps; detections."""

COLUMNS: dict[Kind, tuple[str, ...]] = {
    "classes": ("sis", "agreement", "iou", "logit_instability", "confidence"),
    "map": ("output_instability",),
    "boxes": ("agreement", "iou", "score_movement", "detections"),
}
"""What `dense_stability` yields of each kind."""

SURE = 0.5
"""Score from which a detection counts."""
MATCHED = 0.5
"""IoU from which two boxes of a label are the same detection."""
_CHANNELS = {1, 3}
"""Of an unnamed map that is a picture or a depth, not class logits."""

Size = tuple[int, int]


def kind_of(output: object, size: Size) -> tuple[Kind, str]:
    """What a model returns of pictures, and what a user must be told of it.

    Maps of class logits: what is named `logits`, or `out` in a dict; an unnamed tensor of the
    picture's rows and columns with two channels or more, but not three. Other maps: tensors
    (B, C, h, w), (B, h, w, C) or (B, H, W), alone, in a list or in a dict. Detections: of each
    picture a dict with `boxes` (x1, y1, x2, y2 in pixels of the input), `labels` and `scores`.

    Args:
        output: of the model.
        size: H, W of the pictures.

    Raises:
        ModelError: it is none of these.

    >>> kind_of({"out": torch.zeros(1, 21, 8, 8)}, (64, 64))[0]
    'classes'
    >>> kind_of(torch.zeros(1, 1, 64, 64), (64, 64))[0]
    'map'
    """
    if is_detections(output):
        return "boxes", (
            f"the model detects: boxes of score {SURE} or more are matched between the views by "
            f"label and IoU of {MATCHED} or more"
        )
    named, maps = _named(output), maps_of(output, size)
    if not maps:
        raise ModelError(
            "shift stability needs logits (batch, classes), maps (batch, channels, rows, columns) "
            "or a dict of boxes, labels and scores for each picture, but the model returned "
            f"{_described(output)}; aliasing can still be measured"
        )
    channels, sides = maps[0].shape[1], (maps[0].shape[2], maps[0].shape[3])
    unnamed = isinstance(output, Tensor) and bool(_scale(sides, size)) and channels not in _CHANNELS
    if channels > 1 and (named is not None or unnamed):
        text = f"the model's answer is taken for a map of logits of {channels} classes"
        coarse = f": {sides[0]} × {sides[1]}, brought to the picture's size bilinearly, as for show"
        return "classes", text if _scale(sides, size) else text + coarse
    shapes = ", ".join(" × ".join(map(str, x.shape[1:])) for x in maps)
    coarse = not all(_scale((x.shape[2], x.shape[3]), size) for x in maps)
    text = f"the model's answer is taken for a map without classes ({shapes})"
    spectra = "; where it is coarser than the picture, amplitude spectra are compared"
    return "map", text + spectra * coarse


def maps_of(output: object, size: Size) -> list[Float[Tensor, "batch chan h w"]]:
    """All maps in a model's output; of one that names its logits, these alone."""
    named = _named(output)
    found: Iterable[Any] = [output] if named is None else [named]
    if named is None and isinstance(output, Mapping):
        found = output.values()
    elif named is None and isinstance(output, list | tuple):
        found = output
    maps = (_map(x, size) for x in found if isinstance(x, Tensor) and x.is_floating_point())
    return [x for x in maps if x is not None]


def dense_stability(
    kind: Kind,
    outputs: Sequence[Any],
    images: int,
    size: Size,
    plan: Sequence[Shift] = ONE_PIXEL,
) -> dict[str, Float[Tensor, " batch"]]:
    """The per-image figures of a kind, from what a model returned of all views.

    Of maps of class logits z, over pixels x classes, as `stability` has them of pictures: `sis`
    (mean over pixels of 1 − cos of softmax), `agreement` (share of the pixels with the same
    arg-max), `confidence`, and `logit_instability` ‖z − z_d‖ / ‖z‖ (each pixel's mean over classes
    removed); `iou`, of the arg-max maps, is the mean over the classes that either holds. Coarser
    ones are first resized bilinearly. Of other maps y, `output_instability` ‖y − y_d‖ / ‖y‖; of
    coarser ones, whose shift is no whole number of samples, ‖|F y| − |F y_d|‖ / ‖y‖, F the Fourier
    transform of a channel: what no shift explains, however far; the mean of several maps. Of
    detections with a score of `SURE` or more, matched with the largest sum of IoU, each pair of one
    label and with an IoU of `MATCHED` or more: `agreement` 2 · matched / (n + n_d), `iou` and
    `score_movement` |s − s_d| (means of the matched), and `detections`, n.

    Everything is the mean over the shifts d; of detections, over those for which it is defined.

    Args:
        kind: from `kind_of`.
        outputs: of forwards over views, the views of all images following each other: view 0 is the
            unshifted one, the others follow the plan.
        images: B.
        size: H, W of the pictures.
        plan: the shifts.

    >>> still = torch.rand(1, 4, 8, 8).expand(5, 4, 8, 8)
    >>> round(dense_stability("classes", [torch.zeros_like(still)], 1, (8, 8))["agreement"].item())
    1
    """
    if kind == "boxes":
        found = [_sure(one, size, plan, i // images) for i, one in enumerate(_all(outputs))]
        rows = [_detected(found[image::images]) for image in range(images)]
        return {name: torch.tensor([row[name] for row in rows]) for name in COLUMNS[kind]}
    parts = zip(*(maps_of(output, size) for output in outputs), strict=True)
    maps = [torch.cat(part).float().unflatten(0, (-1, images)) for part in parts]
    if kind == "classes":
        return _classes(maps[0], size, plan)
    moved = torch.stack([_output(y, size, plan) for y in maps])
    return {"output_instability": moved.mean(0)}


def _named(output: object) -> Tensor | None:
    """The logits in an output that names them."""
    held = output if isinstance(output, Mapping) else {}
    named = held.get("out", held.get("logits", getattr(output, "logits", None)))
    return named if isinstance(named, Tensor) else None


def _map(x: Tensor, size: Size) -> Tensor | None:
    """(B, C, h, w), if the tensor has a map of the picture's proportions."""
    if x.ndim == 3 and bool(_scale((x.shape[1], x.shape[2]), size)):
        return x[:, None]
    for y in (x, x.movedim(-1, 1)) if x.ndim == 4 else ():
        rows, columns = (side / whole for side, whole in zip(y.shape[2:], size, strict=True))
        if min(y.shape[2:]) > 1 and 0.8 < rows / columns < 1.25:
            return y
    return None


def _scale(sides: Size, size: Size) -> int:
    """Samples a pixel of the picture, if that is a whole number; else 0."""
    per = {side / whole for side, whole in zip(sides, size, strict=True)}
    return int(min(per)) if len(per) == 1 and min(per).is_integer() else 0


def is_detections(output: object) -> bool:
    """Whether it has boxes, labels and scores for each picture."""
    return (
        isinstance(output, list | tuple)
        and len(output) > 0
        and all(isinstance(x, Mapping) and {"boxes", "labels", "scores"} <= {*x} for x in output)
    )


def _described(output: object) -> str:
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    inside = f" of {', '.join(map(str, output))}" if isinstance(output, Mapping) and output else ""
    return f"{type(output).__name__}{inside}"


def _all(outputs: Sequence[Sequence[Any]]) -> list[Any]:
    return [one for output in outputs for one in output]


def _window(
    y: Shaped[Tensor, "*axes h w"], margin: int, rows: int = 0, columns: int = 0
) -> Shaped[Tensor, "*axes inner_h inner_w"]:
    """What lies within the margin, of a map that was moved by so many rows and columns."""
    height, width = (side - 2 * margin for side in y.shape[-2:])
    top, left = margin + rows, margin + columns
    return y[..., top : top + height, left : left + width]


def _classes(
    z: Float[Tensor, "views batch classes h w"], size: Size, plan: Sequence[Shift]
) -> dict[str, Float[Tensor, " batch"]]:
    if not (scale := _scale((z.shape[-2], z.shape[-1]), size)):
        flat = torch.nn.functional.interpolate(
            z.flatten(0, 1), size, mode="bilinear", align_corners=False
        )
        z, scale = flat.unflatten(0, z.shape[:2]), 1
    margin = scale * largest(plan)
    here = _window(z[0], margin)
    here = here - here.mean(1, keepdim=True)
    p = here.softmax(1)
    unit, top = p / p.norm(dim=1, keepdim=True), here.argmax(1)
    found: dict[str, list[Tensor]] = {}
    for shift, view in zip(plan, z[1:], strict=True):
        there = _window(view, margin, scale * shift.rows, scale * shift.columns)
        there = there - there.mean(1, keepdim=True)
        q = there.softmax(1)
        # As in `stability`: 1 - cos without its cancellation.
        moved = (q / q.norm(dim=1, keepdim=True) - unit).square().sum(1).mean((-2, -1)) / 2
        other = there.argmax(1)
        figures = {
            "sis": moved,
            "agreement": (other == top).float().mean((-2, -1)),
            "iou": _class_iou(top, other, z.shape[2]),
            "logit_instability": (there - here).flatten(1).norm(dim=1)
            / here.flatten(1).norm(dim=1),
        }
        for name, values in figures.items():
            # The arg-max of logits that are not finite is no class.
            found.setdefault(name, []).append(values.where(moved.isfinite(), torch.nan))
    means = {name: torch.stack(values).mean(0) for name, values in found.items()}
    return means | {"confidence": p.amax(1).mean((-2, -1))}


def _class_iou(
    x: Int[Tensor, "batch h w"], y: Int[Tensor, "batch h w"], classes: int
) -> Float[Tensor, " batch"]:
    """Mean IoU of two class maps over the classes that either holds."""

    def areas(maps: Tensor, counted: Tensor) -> Tensor:
        blank = torch.zeros(len(maps), classes, device=maps.device)
        return blank.scatter_add_(1, maps.flatten(1), counted.flatten(1).float())

    shared, everywhere = areas(x, x == y), torch.ones_like(x)
    either = areas(x, everywhere) + areas(y, everywhere) - shared
    return (shared / either).nanmean(1)  # 0 / 0 of a class that neither holds


def _output(
    y: Float[Tensor, "views batch chan h w"], size: Size, plan: Sequence[Shift]
) -> Float[Tensor, " batch"]:
    if scale := _scale((y.shape[-2], y.shape[-1]), size):
        margin = scale * largest(plan)
        here = _window(y[0], margin)
        views = (
            _window(view, margin, scale * shift.rows, scale * shift.columns)
            for shift, view in zip(plan, y[1:], strict=True)
        )
    else:
        here, *views = torch.fft.fft2(y, norm="ortho").abs()
    return torch.stack([_length(view - here) / _length(here) for view in views]).mean(0)


def _length(y: Float[Tensor, "batch chan h w"]) -> Float[Tensor, " batch"]:
    return y.flatten(1).norm(dim=1)


class _Found(NamedTuple):
    """The detections that count, of one picture."""

    boxes: Float[Tensor, "found 4"]
    labels: Int[Tensor, " found"]
    scores: Float[Tensor, " found"]


def _sure(output: Mapping[str, Tensor], size: Size, plan: Sequence[Shift], view: int) -> _Found:
    """With the shift of that view undone, within what all views show."""
    boxes, labels, scores = (output[name].detach().cpu() for name in ("boxes", "labels", "scores"))
    rows, columns = (plan[view - 1].rows, plan[view - 1].columns) if view else (0, 0)
    boxes = boxes.float() - torch.tensor([columns, rows, columns, rows])
    low, (height, width) = largest(plan), size
    high = torch.tensor([width - low, height - low, width - low, height - low])
    boxes = boxes.clamp(min=low).minimum(high)
    kept = (scores >= SURE) & (_areas(boxes) > 0)
    return _Found(boxes[kept], labels[kept], scores[kept].float())


def _detected(views: Sequence[_Found]) -> dict[str, float]:
    """The figures of one picture, from the detections of all its views."""
    here, *others = views
    rows: list[Tensor] = []
    for there in others:
        mine, theirs, overlap = _matched(here, there)
        whole = len(here.scores) + len(there.scores)
        agreement = 2 * len(mine) / whole if whole else torch.nan
        moved = (here.scores[mine] - there.scores[theirs]).abs().mean()
        rows.append(torch.stack([torch.tensor(agreement), overlap.mean(), moved]))
    agreement, iou, movement = torch.stack(rows).nanmean(0).tolist()
    figures = {"agreement": agreement, "iou": iou, "score_movement": movement}
    return figures | {"detections": float(len(here.scores))}


def _matched(x: _Found, y: _Found) -> tuple[Tensor, Tensor, Tensor]:
    """Detections of x, those of y that they are, and the IoU of both."""
    from scipy.optimize import linear_sum_assignment

    overlap = _box_iou(x.boxes, y.boxes)
    same = (x.labels[:, None] == y.labels) & (overlap >= MATCHED)
    pairs = linear_sum_assignment(overlap.where(same, 0.0).numpy(), maximize=True)
    mine, theirs = (torch.as_tensor(index) for index in pairs)
    kept = same[mine, theirs]
    mine, theirs = mine[kept], theirs[kept]
    return mine, theirs, overlap[mine, theirs]


def _box_iou(x: Float[Tensor, "n 4"], y: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    low, high = torch.maximum(x[:, None, :2], y[:, :2]), torch.minimum(x[:, None, 2:], y[:, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    return shared / (_areas(x)[:, None] + _areas(y) - shared)


def _areas(boxes: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1)
