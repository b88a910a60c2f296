"""A model made ready to measure, and the one batch function that every engine calls."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aliascope.errors import ModelError
from aliascope.fusion import fuse_batch_norm
from aliascope.models import LoadedModel
from aliascope.preprocessing import RESIZE_224, Preprocessing
from aliascope.records import StridedLayer
from aliascope.runtime import AUTOCAST, Precision, chosen_device, failures_named
from aliascope.shifts import Border, cropped_views, shifted_views
from aliascope.spectra import AVR_VARIANTS, alias_violation_ratios
from aliascope.stability import logits_of, stability
from aliascope.taps import evaluating, strided_layers, tap

Ops = Literal["all", "conv"]
Columns = dict[str, Tensor]

_CONV_KINDS = ("conv", "patch_embed", "blur_pool")


@dataclass(frozen=True)
class Instrument:
    """A loaded model made ready: batch-norm folded, on its device, layers known."""

    module: nn.Module
    layers: tuple[StridedLayer, ...]
    preprocessing: Preprocessing
    device: torch.device
    autocast: torch.dtype | None
    """None is float32 throughout."""
    classes: int | None
    """Number of logits; None where the model is no classifier."""
    no_classifier: str
    """Why shifts cannot be compared, or ""."""
    border: Border = "circular"
    """Of the shifted views."""


def prepare(
    model: LoadedModel,
    *,
    preprocess: Literal["model", "resize224"] | Preprocessing = "model",
    ops: Ops = "all",
    precision: Precision = "fp32",
    device: str | None = None,
    border: Border = "circular",
) -> Instrument:
    """Make a loaded model ready to measure; arguments as for `measure`.

    Raises:
        ModelError: the model fails on a blank image, or there is no such device.
    """
    named = {"model": model.preprocessing, "resize224": RESIZE_224}
    preprocessing = preprocess if isinstance(preprocess, Preprocessing) else named[preprocess]
    example = torch.zeros(1, 3, *preprocessing.crop)
    place = chosen_device(device)
    with failures_named(model.spec, example.shape):
        layers = strided_layers(model.module, example)
        module = fuse_batch_norm(model.module, example)
        with evaluating(module):
            output = module(example)
        module = module.to(place).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    classes, no_classifier = None, ""
    try:
        classes = logits_of(output).shape[1]
    except ModelError as error:
        no_classifier = str(error)
    if not classes:
        border = "circular"  # no shifts at all
    if border == "crop":
        preprocessing = preprocessing.widened(1)
    chosen = tuple(layer for layer in layers if ops == "all" or layer.kind in _CONV_KINDS)
    return Instrument(
        module, chosen, preprocessing, place, AUTOCAST[precision], classes, no_classifier, border
    )


@torch.inference_mode()
def measure_batch(
    instrument: Instrument, images: Float[Tensor, "batch chan height width"]
) -> tuple[Columns, Columns]:
    """All figures of one batch from one forward over five views of it.

    Args:
        instrument: from `prepare`.
        images: preprocessed, in [0, 1], not yet normalised; one pixel wider on each side where the
            shifts are of the crop.

    Returns:
        Image columns, name → (B,), as `stability` names them (empty for what is no classifier),
        and layer columns, `AVR_VARIANTS` → (B, L).
    """
    if instrument.device.type == "cuda":
        images = images.pin_memory()
    on_device = images.to(instrument.device, non_blocking=True)
    x = instrument.preprocessing.normalise(on_device)
    views = x
    if instrument.classes:
        views = (shifted_views if instrument.border == "circular" else cropped_views)(x)
    count = len(views) // len(x)

    def ratios(layer: StridedLayer, map_: Tensor) -> Columns:
        # Networks that fold space into the batch hold several maps an image: all are its channels.
        unshifted = map_[: len(map_) // count].reshape(len(x), -1, *map_.shape[-2:])
        return alias_violation_ratios(unshifted, layer.stride)

    kind = instrument.device.type
    autocast = torch.autocast(kind, instrument.autocast, enabled=instrument.autocast is not None)
    with tap(instrument.module, instrument.layers, read=ratios) as tapped, autocast:
        output = instrument.module(views.contiguous(memory_format=torch.channels_last))
    image_columns: Columns = {}
    if instrument.classes:
        image_columns = stability(logits_of(output).unflatten(0, (count, len(x))))
    undefined = dict.fromkeys(AVR_VARIANTS, x.new_full((len(x),), torch.nan, dtype=torch.float32))
    each = [tapped.inputs.get(layer.name, undefined) for layer in instrument.layers]
    layer_columns = {
        name: torch.stack([ratios[name] for ratios in each], dim=1) for name in AVR_VARIANTS if each
    }
    return (
        {name: column.cpu() for name, column in image_columns.items()},
        {name: column.cpu() for name, column in layer_columns.items()},
    )
