"""The figures of a network on the held-out pictures, by the instrument that `measure` uses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from aliascope.finetune.data import readable_batches
from aliascope.finetune.losses import distillation
from aliascope.images import Entry
from aliascope.images.preprocessing import Preprocessing
from aliascope.measure.batch import prepare, rows_of
from aliascope.models import LoadedModel, load_model
from aliascope.runtime import Precision, computing, copied, failures_named
from aliascope.stability import logits_of

METRICS = {
    "correct": "top-1",
    "teacher_agreement": "as the teacher",
    "sis": "SIS",
    "sis_half": "SIS at confidence ½",
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
        self, model: nn.Module, teacher: Sequence[int | None] | None = None
    ) -> tuple[dict[str, float | None], list[int | None]]:
        """Means over the pictures, None where undefined, and the predictions.

        Args:
            model: on any device; left as it is.
            teacher: the teacher's predictions, to compare with.
        """
        instrument = prepare(
            load_model(copied(model).cpu()),
            preprocess=self.preprocessing,
            precision=self.precision,
            device=str(self.device),
        )
        columns: dict[str, list[Any]] = {}
        size = 4 if self.device.type == "cpu" else 32  # each seen in five views
        for items, _ in readable_batches(self.entries, instrument.preprocessing, size):
            rows = rows_of(instrument, items, labels_fit=self.classes == instrument.classes)
            for name, column in (rows.images | rows.layers).items():
                columns.setdefault(name, []).extend(column)
        predictions = columns["prediction"]
        if teacher is not None:
            pairs = zip(predictions, teacher, strict=True)
            columns["teacher_agreement"] = [p == t if p is not None else None for p, t in pairs]
        return {name: _mean(columns.get(name, [])) for name in METRICS}, predictions


@torch.no_grad()
def divergence(
    model: LoadedModel,
    teacher: LoadedModel,
    entries: Sequence[Entry],
    preprocessing: Preprocessing,
    device: torch.device,
) -> float:
    """KL(teacher ‖ model) in nats, mean over pictures in the evaluation's own view."""
    runners = [copied(each.module).eval().to(device) for each in (model, teacher)]
    total, count = 0.0, 0
    for items, pixels in readable_batches(entries, preprocessing, 32):
        x = preprocessing.normalise(pixels.to(device)).contiguous(memory_format=torch.channels_last)
        with failures_named(model.spec, x.shape), computing("fp32", device):
            answer, target = (logits_of(runner(x)) for runner in runners)
        total += distillation(answer, target).item() * len(items)
        count += len(items)
    return total / count


def _mean(column: Sequence[Any]) -> float | None:
    values = np.asarray(column, float)  # None becomes NaN
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if defined.size else None
