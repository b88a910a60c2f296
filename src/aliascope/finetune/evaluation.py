"""The figures of a network on the held-out pictures, by the instrument that `measure` uses."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from aliascope.batch import measure_batch, prepare
from aliascope.finetune.data import readable_batches
from aliascope.finetune.losses import distillation
from aliascope.images import Entry
from aliascope.models import LoadedModel, load_model
from aliascope.preprocessing import Preprocessing
from aliascope.runtime import Precision, computing, failures_named
from aliascope.stability import logits_of

METRICS = {
    "correct": "top-1",
    "teacher_agreement": "as the teacher",
    "sis": "SIS",
    "agreement": "agreement",
    "logit_instability": "logit instability",
    "confidence": "confidence",
    "alias_share": "alias share",
}
"""Columns of the history, each with its heading."""


@dataclass(frozen=True)
class HeldOut:
    """Pictures that are never trained on."""

    entries: Sequence[Entry]
    classes: int | None
    """Of the source; labels count where they number the model's own classes."""
    preprocessing: Preprocessing
    precision: Precision
    device: torch.device

    def judge(
        self, model: nn.Module, teacher: Int[Tensor, " n"] | None = None
    ) -> tuple[dict[str, float | None], Int[Tensor, " n"]]:
        """Means over the pictures, None where undefined, and the predictions.

        Args:
            model: on any device; left as it is.
            teacher: the teacher's predictions, to compare with.
        """
        loaded = load_model(copy.deepcopy(model).cpu())
        instrument = prepare(
            loaded,
            preprocess=self.preprocessing,
            precision=self.precision,
            device=str(self.device),
        )
        columns: dict[str, list[Tensor]] = {}
        labels: list[int | None] = []
        size = 4 if self.device.type == "cpu" else 32  # each seen in five views
        for items, pixels in readable_batches(self.entries, self.preprocessing, size):
            images, layers = measure_batch(instrument, pixels)
            for name, column in (images | layers).items():
                columns.setdefault(name, []).append(column)
            labels += [item.entry.label for item in items]
        every = {name: torch.cat(parts) for name, parts in columns.items()}
        means = {name: _mean(every[name]) for name in METRICS if name in every}
        predictions = every["prediction"]
        known = [i for i, label in enumerate(labels) if label is not None]
        if known and self.classes == instrument.classes:
            truth = torch.tensor([labels[i] for i in known])
            means["correct"] = _mean((predictions[known] == truth).float())
        if teacher is not None:
            means["teacher_agreement"] = _mean((predictions == teacher).float())
        return {name: means.get(name) for name in METRICS}, predictions


@torch.no_grad()
def divergence(
    model: LoadedModel,
    teacher: LoadedModel,
    entries: Sequence[Entry],
    preprocessing: Preprocessing,
    device: torch.device,
) -> float:
    """KL(teacher ‖ model) in nats, mean over pictures in the evaluation's own view."""
    runners = [copy.deepcopy(each.module).eval().to(device) for each in (model, teacher)]
    total, count = 0.0, 0
    for items, pixels in readable_batches(entries, preprocessing, 32):
        x = preprocessing.normalise(pixels.to(device)).contiguous(memory_format=torch.channels_last)
        with failures_named(model.spec, x.shape), computing("fp32", device):
            answer, target = (logits_of(runner(x)) for runner in runners)
        total += distillation(answer, target).item() * len(items)
        count += len(items)
    return total / count


def _mean(column: Tensor) -> float | None:
    defined = column[column.isfinite()]
    return defined.double().mean().item() if len(defined) else None
