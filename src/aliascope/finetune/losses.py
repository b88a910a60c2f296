"""What fine-tuning minimises: distance to the teacher, to the shifted self, and aliasing."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from aliascope.errors import ModelError
from aliascope.finetune.settings import FinetuneSettings
from aliascope.images.preprocessing import Preprocessing
from aliascope.inference import SmallerFrame
from aliascope.records import StridedLayer
from aliascope.runtime import Precision, computing
from aliascope.shifts import ONE_PIXEL
from aliascope.spectra import alias_violation_ratio
from aliascope.stability import logits_of
from aliascope.taps import evaluating, strided_layers, tap

_SHARE = 4
"""Every fourth image is seen shifted, too: as unbiased as all, at a quarter of the price."""
_COMPARED = 8
"""Images whose maps are compared, or every fourth where these are more."""


def distillation(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch known"],
    temperature: int | float = 1.0,
) -> Float[Tensor, ""]:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), mean over the batch, in nats.

    Raises:
        ModelError: student and teacher do not know the same classes.

    Source: Hinton et al. 2015 (arXiv 1503.02531), section 2.

    >>> distillation(torch.ones(1, 4), torch.ones(1, 4)).item()
    0.0
    """
    if student.shape != teacher.shape:
        raise ModelError(
            f"the teacher knows {teacher.shape[1]} classes and the model {student.shape[1]}: give "
            "a teacher with the same outputs"
        )
    log_p, log_q = ((z.float() / temperature).log_softmax(-1) for z in (teacher, student))
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def feature_distance(
    student: Float[Tensor, "batch *map"], teacher: Float[Tensor, "batch *larger"]
) -> Float[Tensor, ""]:
    """‖student − teacher‖² / ‖teacher‖² over the batch: 0 where equal, 1 for a student of zeros.

    A teacher's map of another size is resized, with antialiasing.
    """
    if student.shape[2:] != teacher.shape[2:]:
        teacher = F.interpolate(teacher.float(), student.shape[2:], mode="bilinear", antialias=True)
    difference = student.float() - teacher.float()
    return difference.square().mean() / teacher.float().square().mean().clamp_min(1e-12)


def mean_alias_ratio(x: Float[Tensor, "batch chan h w"], layer: StridedLayer) -> Float[Tensor, ""]:
    """Box AVR of a map at a layer, mean over the images that have energy there."""
    ratios = alias_violation_ratio(x, layer.stride, band="box")
    defined = ratios.detach().isfinite()
    if not defined.all():  # 0 / 0 has no gradient, not even a masked one
        x = x[defined]
        ratios = alias_violation_ratio(x, layer.stride, band="box")
    return ratios.mean() if len(ratios) else x.sum()


def penalised(layers: Sequence[StridedLayer], chosen: Sequence[str] | None) -> list[StridedLayer]:
    """The layers whose aliasing training can lower: those chosen, or all that no image feeds.

    Raises:
        ModelError: there is none, or none of a chosen name.
    """
    known = {layer.name: layer for layer in layers}
    if chosen is None:
        found = [layer for layer in layers if layer.stride != layer.cumulative_stride]
        if not found:
            raise ModelError("alias_penalty needs a layer that downsamples behind the first one")
        return found
    for name in chosen:
        if name not in known:
            raise ModelError(f"alias_layers has {name!r}; choose from {', '.join(known)}")
    return [known[name] for name in chosen]


def feature_layers(
    student: nn.Module, teacher: nn.Module, example: Float[Tensor, "batch chan h w"]
) -> dict[str, str]:
    """Modules whose inputs the networks share: where the teacher downsamples, and its classifier.

    These are the last maps of each resolution; what reads the image is left out. Surgery keeps the
    teacher's names; behind a smaller frame they have a prefix. There may be none.

    Returns:
        Name in the teacher → name in the student.
    """
    layers = strided_layers(teacher, example)
    names = [layer.name for layer in layers if layer.stride != layer.cumulative_stride]
    linear = [name for name, module in teacher.named_modules() if isinstance(module, nn.Linear)]
    ran: list[str] = []
    with evaluating(teacher), tap(teacher, linear, read=lambda name, _: ran.append(name)):
        teacher(example)
    known = {name for name, _ in student.named_modules()}
    inside = "model." if isinstance(student, SmallerFrame) else ""
    shared = {name: f"{inside}{name}" for name in [*names, *ran[-1:]]}
    return {name: own for name, own in shared.items() if own in known}


@dataclass
class Pass:
    """What one forward yielded."""

    logits: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)
    ratios: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Runner:
    """A network, and what is to be read from it while it runs."""

    module: nn.Module
    precision: Precision
    features: Sequence[str] = ()
    """Names of modules whose inputs are read, before a downsampler that surgery put there."""
    layers: Sequence[StridedLayer] = ()

    def __call__(self, x: Float[Tensor, "batch chan h w"], compared: int | None = None) -> Pass:
        """One forward; features are those of so many images, or of all."""
        features: dict[str, Tensor] = {}
        ratios: dict[str, Tensor] = {}

        def read(layer: StridedLayer | str, x: Tensor) -> None:
            if isinstance(layer, str):
                features[layer] = x[:compared].clone()  # what comes later may write into it
            else:
                ratios[layer.name] = mean_alias_ratio(x, layer)

        chosen = [*self.layers, *self.features]
        with tap(self.module, chosen, read=read), computing(self.precision, x.device):
            logits = logits_of(self.module(x))
        return Pass(logits.float(), features, ratios=list(ratios.values()))


class Objective:
    """The loss of one batch of views, in parts."""

    def __init__(
        self,
        student: Runner,
        teacher: Runner,
        settings: FinetuneSettings,
        preprocessing: Preprocessing,
    ) -> None:
        self._student = student
        self._teacher = teacher
        self._settings = settings
        self._preprocessing = preprocessing
        self.margin = 1 if settings.consistency or settings.logit_consistency else 0
        """Pixels that views must have on each side beyond what the network takes."""
        self.weights = {
            "distillation": 1.0,
            "features": settings.feature_weight,
            "consistency": settings.consistency,
            "logit_consistency": settings.logit_consistency,
            "aliasing": settings.alias_penalty,
        }

    def __call__(
        self, views: Float[Tensor, "batch chan h w"], step: int
    ) -> dict[str, Float[Tensor, ""]]:
        """Every part that has a weight, not yet weighted.

        Raises:
            ModelError: student and teacher do not know the same classes.
        """
        settings = self._settings
        x = _window(views, 0, 0, self.margin)
        count = len(x)
        some = -(-count // _SHARE)
        compared = min(max(some, _COMPARED), count)
        both = x
        if self.margin:
            shift = ONE_PIXEL[step % len(ONE_PIXEL)]
            moved = _window(views[:some], shift.rows, shift.columns, 1)
            both = torch.cat([x, moved])
        both = self._preprocessing.normalise(both).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            target = self._teacher(both[:count], compared)
        output = self._student(both, compared)
        z, shifted = output.logits[:count], output.logits[count:]
        parts = {"distillation": distillation(z, target.logits, settings.temperature)}
        if target.features:
            names = zip(self._student.features, self._teacher.features, strict=True)
            pairs = [(output.features[own], target.features[name]) for own, name in names]
            parts["features"] = torch.stack([feature_distance(*pair) for pair in pairs]).mean()
        still = z[: len(shifted)].detach()
        if settings.consistency:
            parts["consistency"] = distillation(shifted, still)
        if settings.logit_consistency:
            parts["logit_consistency"] = feature_distance(shifted, still)
        if settings.alias_penalty:
            parts["aliasing"] = torch.stack(output.ratios).mean()
        return parts

    def total(self, parts: dict[str, Tensor]) -> Tensor:
        """The weighted sum."""
        return torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()


def _window(views: Tensor, rows: int, columns: int, margin: int) -> Tensor:
    """The views without their margin, seen after the picture moved by so many pixels."""
    height, width = (side - 2 * margin for side in views.shape[-2:])
    top, left = margin - rows, margin - columns
    return views[..., top : top + height, left : left + width]
