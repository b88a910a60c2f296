"""A model made ready to measure, and the one function from a batch to rows that engines call."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from aliascope.dense import SURE, Kind, dense_stability, is_detections, kind_of, maps_of
from aliascope.errors import ModelError
from aliascope.images import Loaded
from aliascope.images.preprocessing import (
    Preprocessing,
    PreprocessingName,
    half_views,
    native_views,
)
from aliascope.measure.fusion import fuse_batch_norm
from aliascope.models import LoadedModel
from aliascope.records import StridedLayer
from aliascope.runtime import (
    MODEL_FAILURES,
    Precision,
    channels_last,
    chosen_device,
    computing,
    failures_named,
)
from aliascope.shifts import FRACTIONAL, Border, cropped_views, shifted_views
from aliascope.spectra import (
    AVR_VARIANTS,
    SAMPLED_VARIANTS,
    alias_violation_ratios,
    band_limited,
    lost_share,
    sampled_ratios,
)
from aliascope.stability import logits_of, stability
from aliascope.taps import Decimation, decimations, evaluating, tap, trace

Ops = Literal["all", "conv"]
Only = Literal["all", "avr"]
Columns = dict[str, Tensor]

LAYER_COLUMNS = (*AVR_VARIANTS, *SAMPLED_VARIANTS)
"""What is measured of each image and layer."""
_CONV_KINDS = ("conv", "patch_embed", "blur_pool")


@dataclass(frozen=True)
class Instrument:
    """A loaded model made ready: batch-norm fused, on its device, layers known."""

    module: nn.Module
    layers: tuple[StridedLayer, ...]
    decimations: dict[str, Decimation]
    """Layer name → what it decimates; without those of which that cannot be said."""
    preprocessing: Preprocessing
    device: torch.device
    precision: Precision
    """Of the forward; ratios are computed in float32 all the same."""
    classes: int | None
    """Number of logits; None where the model is no classifier."""
    class_names: tuple[str, ...]
    """Of the classes; empty where the model does not say what its outputs mean."""
    border: Border
    """Of the shifted views."""
    singly: bool
    """Whether each view needs a forward of its own: in company its maps come out otherwise."""
    no_classifier: str
    """Why there are no logits of a picture, or ""."""
    dense: Kind | None
    """What else it answers, of which shifts are compared."""
    notices: tuple[str, ...]
    """What to know of the model before its figures are read."""

    @property
    def moves(self) -> bool:
        """Whether shifted views are run."""
        return bool(self.classes or self.dense)

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights, and so of what it takes."""
        return _dtype(self.module)

    def seen(self, pixels: Tensor) -> tuple[Tensor, str]:
        """A decoded picture as `rows_of` takes it, and a note: the part for decoding threads."""
        if self.border in FRACTIONAL:
            views = native_views if self.border == "native" else half_views
            return views(self.preprocessing, pixels)
        return self.preprocessing(pixels), ""


class Rows(NamedTuple):
    """What was measured of a batch."""

    images: dict[str, Any]
    """Column → a value an image: image_id, group, label, note, and of a classifier prediction,
    correct (None where unknown) and the columns of `stability`; or those of `dense_stability`."""
    layers: dict[str, np.ndarray]
    """`LAYER_COLUMNS` → (B, L), in the order of the instrument's layers."""
    notices: list[str]


def prepare(
    model: LoadedModel,
    *,
    preprocess: PreprocessingName | Preprocessing = "model",
    ops: Ops = "all",
    only: Only = "all",
    precision: Precision = "fp32",
    device: str | None = None,
    border: Border | None = None,
) -> Instrument:
    """Make a loaded model ready to measure; arguments as for `measure`, whose shifts are `border`.

    Raises:
        ModelError: the model fails on a blank image, or there is no such device.
    """
    preprocessing = model.prepared(preprocess)
    example = model.example(preprocessing.crop).to(_dtype(model.module))
    place = chosen_device(device, precision)
    # In full precision, whatever is measured later: what depends on what is told by small numbers.
    with failures_named(model.spec, example.shape), computing("fp32", place):
        module = fuse_batch_norm(model.module, example)
        module = channels_last(module.to(place))
        found = _found(module, example.to(place))
    notices = [preprocessing.notice] if preprocessing.notice else []
    notices += found.notices
    if preprocessing.grey:
        notices.append("the network takes one channel: pictures are turned to grey")
    if found.singly:
        notices.append("what else is in a batch changes the maps: each view is measured alone")
    dense = found.dense if only != "avr" and border not in FRACTIONAL else None
    notices += _of_answers(found, border)
    if precision == "bf16" and only != "avr":
        notices.append(
            "bf16 keeps 8 bits, and what it rounds away moves the outputs, too: stability reads "
            "worse than it is (docs/reliability.md); choose fp16 or fp32 for figures to be quoted"
        )
    if only == "avr" or not (found.classes or dense):
        border = "circular"  # no shifts at all
    preprocessing, border, told = _bordered(preprocessing, border, dense=bool(dense))
    notices += told
    return Instrument(
        module=module,
        layers=tuple(x for x in found.layers if ops == "all" or x.kind in _CONV_KINDS),
        decimations=found.decimations,
        preprocessing=preprocessing,
        device=place,
        precision=precision,
        classes=None if only == "avr" else found.classes,
        class_names=model.class_names or (),
        border=border,
        singly=found.singly,
        no_classifier=found.no_classifier,
        dense=dense,
        notices=tuple(notices),
    )


def _of_answers(found: "_Found", border: Border | None) -> Iterator[str]:
    """What to know of the answers of what is no classifier."""
    if found.no_classifier and not found.dense:
        yield found.no_classifier
    if found.dense and border in FRACTIONAL:
        yield (
            f"{border} shifts move an answer by less than its pixels, which nothing undoes: only "
            "aliasing is measured; choose crop or circular shifts"
        )


def _bordered(
    preprocessing: Preprocessing, border: Border | None, *, dense: bool
) -> tuple[Preprocessing, Border, list[str]]:
    """The transform with the room that the shifts need, the shifts, and what to know of both."""
    notices = []
    if dense and border != "circular" and not preprocessing.room:
        tight, preprocessing = preprocessing, preprocessing.roomy(1)
        before, after = (" × ".join(map(str, x.resize)) for x in (tight, preprocessing))
        notices.append(
            f"the crop takes all of the resized picture: it is resized to {after} instead of "
            f"{before}, for a pixel around the crop to move over"
        )
    if border is None:
        border = "crop" if preprocessing.room else "circular"
        if not preprocessing.room:
            notices.append("the crop takes all of the resized picture: shifts are circular")
    return preprocessing.widened(1) if border == "crop" else preprocessing, border, notices


def living(
    module: nn.Module,
    example: Float[Tensor, "batch chan height width"],
    *,
    border: Literal["circular", "crop"] = "circular",
) -> Instrument:
    """An instrument on a network as it stands, which goes on training: no copy, nothing fused.

    What a layer decimates is a function of the weights of now: take a new one after the next step.
    `measure_live` is for it, not `measure_batch`, which leaves tensors that no gradient may pass.

    Args:
        module: on any device, in any mode.
        example: a batch as the network takes it, with all that normalises it; its first image alone
            is run.
        border: of the shifted views.

    Raises:
        ModelError: the network fails on the example.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> living(net, torch.rand(1, 3, 32, 32)).module is net
    True
    """
    place = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    one = example[:1, :, 1:-1, 1:-1] if border == "crop" else example[:1]
    named = failures_named(type(module).__name__, one.shape)
    with named, _still(module, place), computing("fp32", place):
        found = _found(module, one.to(place, _dtype(module)))
    rows, columns = one.shape[2:]
    return Instrument(
        module=module,
        layers=tuple(found.layers),
        decimations=found.decimations,
        preprocessing=Preprocessing((rows, columns), (rows, columns), mean=(0.0,), std=(1.0,)),
        device=place,
        precision="fp32",
        classes=found.classes,
        class_names=(),
        border=border,
        singly=found.singly,
        no_classifier=found.no_classifier,
        dense=found.dense,
        notices=tuple(found.notices),
    )


class _Found(NamedTuple):
    """What running a network shows of it."""

    layers: list[StridedLayer]
    decimations: dict[str, Decimation]
    singly: bool
    classes: int | None
    no_classifier: str
    dense: Kind | None
    notices: list[str]


def _found(module: nn.Module, example: Tensor) -> _Found:
    recorded = trace(module, example)
    layers = recorded.strided_layers()
    found, missing = decimations(module, recorded)
    output, singly, others = _alone(module, layers, example)
    notices = [
        f"{name}: what it decimates is not measured: {text}"
        for name, text in missing.items()
        if name not in others
    ]
    notices += recorded.unexplained
    if others:
        layers = [layer for layer in layers if layer.name not in others]
        some = f"{', '.join(others[:2])}{' …' if len(others) > 2 else ''}"
        notices.append(f"what works on single detections is no layer of the picture's ({some})")
    classes, no_classifier, dense = None, "", None
    try:
        classes = logits_of(output).shape[1]
    except ModelError as error:
        no_classifier = str(error)
        try:
            dense, taken = kind_of(output, _sides(example))
            notices.append(taken)
        except ModelError as nothing:
            no_classifier = str(nothing)
    return _Found(layers, found, singly, classes, no_classifier, dense, notices)


def _sides(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def _alone(
    module: nn.Module, layers: Sequence[StridedLayer], example: Tensor
) -> tuple[object, bool, list[str]]:
    """What a model returns of one picture, and whether it returns another in company.

    It may loop over the pictures, norm over all of them, or take no more than one. The third are
    the layers of a detector that read no more of two pictures than of one, beside those that do.
    """
    noise = torch.randn(2, *example.shape[1:], generator=torch.Generator().manual_seed(0))
    noise = noise.to(example)

    def run(x: Tensor) -> tuple[Any, dict[str, tuple[int, ...]]]:
        with evaluating(module), tap(module, layers, read=lambda _, m: tuple(m.shape)) as tapped:
            output = module(x.contiguous(memory_format=torch.channels_last))
        return output, dict(tapped.inputs)

    output, shapes = run(noise[:1])
    try:
        both, twice = run(noise)
    except MODEL_FAILURES:
        return output, True, []
    doubled = {name: (2 * shape[0], *shape[1:]) for name, shape in shapes.items()}
    others: list[str] = []
    if is_detections(output):
        steady = {name for name, shape in doubled.items() if twice.get(name) == shape}
        others = [layer.name for layer in layers if layer.name not in steady] if steady else []
    elif twice != doubled:
        return output, True, []
    size = _sides(example)
    one, first = (next(iter(_floats(x, size)), None) for x in (output, both))
    if one is None or first is None:
        return output, twice != doubled and not others, others
    apart = (one[0] - first[0]).float().norm() > 1e-3 * one[0].float().norm()
    return output, bool(apart), others


def _floats(output: object, size: tuple[int, int]) -> Iterator[Tensor]:
    found = getattr(output, "logits", output)
    if isinstance(found, Tensor) and found.is_floating_point() and found.ndim:
        yield found
    yield from maps_of(output, size)


def rows_of(instrument: Instrument, batch: Sequence[Loaded], *, labels_fit: bool) -> Rows:
    """All figures of a batch of pictures, from one forward over all of their views.

    Args:
        instrument: from `prepare`.
        batch: readable pictures.
        labels_fit: whether labels number the model's own classes.

    >>> from aliascope.images import loaded_ahead, open_images
    >>> from aliascope.models import load_model
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> instrument = prepare(load_model(net), device="cpu")
    >>> loaded = loaded_ahead(open_images("photos", limit=2).entries(), instrument.seen)
    >>> rows = rows_of(instrument, list(loaded), labels_fit=False)
    >>> rows.images["image_id"], rows.layers["avr"].shape
    (['astronaut.png#0-0', 'astronaut.png#0-1'], (2, 1))
    """
    pixels = torch.stack([item.pixels for item in batch if item.pixels is not None])
    return told(instrument, batch, *measure_batch(instrument, pixels), labels_fit=labels_fit)


def told(
    instrument: Instrument,
    batch: Sequence[Loaded],
    image_columns: Columns,
    layer_columns: Columns,
    *,
    labels_fit: bool,
) -> Rows:
    """What was measured of a batch, beside what is known of its pictures."""
    images: dict[str, Any] = {
        "image_id": [item.entry.id for item in batch],
        "group": [item.entry.group for item in batch],
        "label": [item.entry.label for item in batch],
        "note": [item.note for item in batch],
        **{name: column.cpu().numpy() for name, column in image_columns.items()},
    }
    if instrument.classes:
        known = np.isfinite(images["confidence"])
        answers = zip(images["prediction"], known, strict=True)
        images["prediction"] = [int(answer) if ok else None for answer, ok in answers]
        pairs = zip(images["label"], images["prediction"], strict=True)
        images["correct"] = [
            label == answer if labels_fit and None not in (label, answer) else None
            for label, answer in pairs
        ]
    layers = {name: column.cpu().numpy() for name, column in layer_columns.items()}
    return Rows(images, layers, list(_undefined(instrument, images, layers)))


@torch.inference_mode()
def measure_batch(
    instrument: Instrument, images: Float[Tensor, "batch *views chan height width"]
) -> tuple[Columns, Columns]:
    """The figures of a batch, as tensors.

    Args:
        instrument: from `prepare`.
        images: preprocessed, in [0, 1], not yet normalised; one pixel wider on each side where the
            shifts are of the crop; all views of each where they are native or half.

    Returns:
        Image columns, name → (B,), as `stability` names them, or of what is no classifier
        `dense_stability` (empty where neither suits), and layer columns, `LAYER_COLUMNS` → (B, L).
    """
    return _measured(instrument, images)


def measure_live(
    instrument: Instrument, images: Float[Tensor, "batch chan height width"]
) -> tuple[Columns, Columns]:
    """The same of a network that goes on training, and stays as it is.

    Its modes, gradients, statistics and the random state are as before when this returns or raises.

    Args:
        instrument: from `living`.
        images: as the network takes them; one pixel wider on each side under crop shifts.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> images = torch.rand(2, 3, 32, 32)
    >>> measure_live(living(net, images), images)[1]["alias_share"].shape
    torch.Size([2, 1])
    """
    with _still(instrument.module, instrument.device):
        return _measured(instrument, images)


@contextmanager
def _still(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Eval mode, no gradients, and the random state and modes put back."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []), evaluating(module):
        yield


def _dtype(module: nn.Module) -> torch.dtype:
    weights = (p.dtype for p in module.parameters() if p.is_floating_point())
    return next(weights, torch.float32)


def _measured(instrument: Instrument, images: Tensor) -> tuple[Columns, Columns]:
    outputs, columns = zip(*_forwards(instrument, images, len(images)), strict=True)
    columns = [each for each in columns if each]
    image_columns: Columns = {}
    if instrument.classes:
        logits = torch.cat([logits_of(output) for output in outputs])
        image_columns = stability(logits.unflatten(0, (-1, len(images))))
    elif instrument.dense:
        margin = 2 if instrument.border == "crop" else 0
        size = images.shape[-2] - margin, images.shape[-1] - margin
        image_columns = dense_stability(instrument.dense, outputs, len(images), size)
    layer_columns = (
        {name: torch.cat([each[name] for each in columns]) for name in LAYER_COLUMNS}
        if instrument.layers
        else {}
    )
    return (
        {name: column.cpu() for name, column in image_columns.items()},
        {name: column.cpu() for name, column in layer_columns.items()},
    )


@torch.inference_mode()
def view_logits(
    instrument: Instrument, images: Float[Tensor, "batch *views chan height width"]
) -> Float[Tensor, "views batch classes"]:
    """What a classifier says of a batch and its shifted views, as `stability` takes it.

    >>> from aliascope.models import load_model
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> view_logits(prepare(load_model(net), device="cpu"), torch.rand(2, 3, 226, 226)).shape
    torch.Size([5, 2, 8])
    """
    outputs = (output for output, _ in _forwards(instrument, images, 0))
    logits = torch.cat([logits_of(output) for output in outputs])
    return logits.unflatten(0, (-1, len(images))).cpu()


def _forwards(
    instrument: Instrument, images: Tensor, measured: int
) -> Iterator[tuple[Any, Columns]]:
    """What `_forward` yields of all views, of whose first so many the maps are looked at."""
    views = views_of(instrument, images)
    for start, part in enumerate(views.split(1) if instrument.singly else [views]):
        yield _forward(instrument, part, min(max(measured - start, 0), len(part)))


def views_of(
    instrument: Instrument, images: Float[Tensor, "batch *views chan height width"]
) -> Float[Tensor, "shown taken rows columns"]:
    """All views on the device, normalised: view by view, the unshifted one first."""
    if instrument.device.type == "cuda" and images.device.type == "cpu":
        images = images.pin_memory()
    images = images.to(instrument.device, non_blocking=True)
    if images.ndim == 5:
        views = instrument.preprocessing.normalise(images.transpose(0, 1).flatten(0, 1))
        views = views.to(instrument.dtype)
        return views if instrument.moves else views[: len(images)]
    x = instrument.preprocessing.normalise(images).to(instrument.dtype)
    if not instrument.moves:
        return x
    return (shifted_views if instrument.border == "circular" else cropped_views)(x)


def _forward(instrument: Instrument, views: Tensor, unshifted: int) -> tuple[Any, Columns]:
    """One forward, and the figures (n, L) of the maps of its first views."""

    def read(layer: StridedLayer, map_: Tensor) -> Columns:
        # Networks that fold space into the batch hold several maps an image: all are its channels.
        own = map_[: len(map_) * unshifted // len(views)]
        return layer_columns(instrument, layer, own, unshifted)

    layers = instrument.layers if unshifted else ()
    precisely = computing(instrument.precision, instrument.device)
    with tap(instrument.module, layers, read=read) as tapped, precisely:
        output = instrument.module(views.contiguous(memory_format=torch.channels_last))
    undefined = views.new_full((unshifted,), torch.nan, dtype=torch.float32)
    each = [tapped.inputs.get(layer.name, {}) for layer in layers]
    return output, {
        name: torch.stack([figures.get(name, undefined) for figures in each], dim=1)
        for name in LAYER_COLUMNS
        if each
    }


def layer_columns(
    instrument: Instrument,
    layer: StridedLayer,
    map_: Float[Tensor, "maps *chan h w"],
    images: int,
    dense: Tensor | None = None,
) -> Columns:
    """`LAYER_COLUMNS` → (B,) of what a layer reads; those of what it decimates where that is known.

    Args:
        instrument: from `prepare`.
        layer: one of its layers.
        map_: what the layer reads of the images, one map or several of each.
        images: B.
        dense: what it decimates, where that is known.
    """
    stride = max(layer.stride[0], 1), max(layer.stride[1], 1)
    figures = alias_violation_ratios(_together(map_, images), stride)
    decimation = instrument.decimations.get(layer.name)
    if decimation is None:
        return figures
    return figures | _sampled(decimation, decimation(map_) if dense is None else dense, images)


def _sampled(decimation: Decimation, dense: Tensor, images: int) -> Columns:
    """The figures of what a layer decimates."""
    rows, columns = decimation.layer.output_shape[1:]
    figures = sampled_ratios(
        _together(dense, images), decimation.stride, phase=decimation.phase, size=(rows, columns)
    )
    if decimation.chooses:
        kept = (decimation.kept(x, dense) for x in (dense, band_limited(dense, decimation.stride)))
        figures["alias_share"] = lost_share(*(_together(x, images) for x in kept))
    return figures


def _together(maps: Tensor, images: int) -> Tensor:
    """All maps of an image as its channels."""
    return maps if len(maps) == images else maps.reshape(images, -1, *maps.shape[-2:])


def _undefined(
    instrument: Instrument, images: dict[str, Any], layers: dict[str, np.ndarray]
) -> Iterator[str]:
    if "sis" in images and not np.isfinite(images["sis"]).all():
        yield "some logits are not finite: their predictions and stability are left undefined"
    if "detections" in images and not np.isfinite(images["agreement"]).all():
        yield f"where no view has a detection of score {SURE} or more, agreement is undefined"
    if layers:
        for index in np.flatnonzero(np.isnan(layers["avr"]).any(axis=0)):
            yield (
                f"{instrument.layers[index].name}: some ratios are undefined, because a map has no "
                "energy or is not finite"
            )
