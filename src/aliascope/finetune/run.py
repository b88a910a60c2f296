"""From a model, a teacher and pictures to a better model: checks, set-up, and the result."""

import hashlib
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.utils.data import Dataset

from aliascope.errors import ImageError
from aliascope.finetune.checkpoint import FIRST, RECORD, Checkpoints
from aliascope.finetune.data import Photos, split
from aliascope.finetune.evaluation import METRICS, HeldOut, divergence
from aliascope.finetune.recalibration import recalibrate, spread
from aliascope.finetune.settings import FinetuneSettings
from aliascope.finetune.training import Training
from aliascope.images import Entry, ImageSource, open_images
from aliascope.images.preprocessing import Preprocessing
from aliascope.models import LoadedModel, load_model
from aliascope.records import Report
from aliascope.results.files import lock, plain
from aliascope.results.text import columns, wrapped
from aliascope.results.verdicts import digits
from aliascope.runtime import chosen_device, environment

_JUDGED = 128
"""Pictures that tell whether recalibration helped."""

Model = str | nn.Module | LoadedModel
Source = str | Path | ImageSource | Sequence[Any] | Dataset[Any]


@dataclass(frozen=True, eq=False, repr=False)
class FineTuned:
    """A fine-tuned network and how it came about; `str()` is a table of its history."""

    model: nn.Module
    """The averaged weights, in eval mode, on the CPU."""
    history: pd.DataFrame
    """A row an evaluation, of the averaged weights: step, seconds, learning_rate, the mean of the
    loss and of each of its parts since the row before, and the figures on held-out pictures."""
    teacher: dict[str, float | None]
    """The teacher's own figures on the same pictures."""
    config: dict[str, Any]
    """What decided the weights."""
    recalibrated: bool = False
    """Whether recalibration came first."""
    path: Path | None = None
    """The directory; model.safetensors in it holds the weights."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Id of each picture that could not be read, and why."""

    def __repr__(self) -> str:
        return f"<FineTuned {self.config['model']}, {self.config['steps']} steps>"

    @property
    def verdict(self) -> str:
        """What training changed on held-out pictures, in words."""
        return _verdict(self)

    def to_dict(self) -> dict[str, Any]:
        """All but the network as plain values; what is not known is None."""
        names = ("verdict", "history", "teacher", "config", "recalibrated", "unreadable")
        return plain({name: getattr(self, name) for name in names})

    def __str__(self) -> str:
        filled = set(self.history.columns[self.history.notna().any()])
        shown = {name: heading for name, heading in METRICS.items() if name in filled}
        rows = [["step", "seconds", "loss", *shown.values()]]
        if self.teacher:
            rows.append(["teacher", "", "", *(_cell(self.teacher.get(k)) for k in shown)])
        for row in self.history.to_dict("records"):
            cells = [_cell(row["loss"]), *(_cell(row[k]) for k in shown)]
            rows.append([str(row["step"]), f"{row['seconds']:.0f}", *cells])
        head = f"{self.config['model']} fine-tuned on {self.config['images']}: "
        head += f"{self.config['steps']} steps of {self.config['batch_size']} images"
        head += ", recalibrated before" if self.recalibrated else ""
        tail = [f"skipped {name}: {reason}" for name, reason in [*self.unreadable.items()][:5]]
        more = len(self.unreadable) - 5
        tail += [f"… and {more} more"] if more > 0 else []
        blocks = [wrapped([head]), columns(rows), wrapped([self.verdict]), wrapped(tail)]
        return "\n\n".join(filter(None, blocks))


def finetune(
    model: Model,
    images: Source = "photos",
    teacher: Model | None = None,
    *,
    settings: FinetuneSettings | None = None,
    holdout: int | Source = 128,
    preprocess: Preprocessing | None = None,
    device: str | None = None,
    out: str | Path | None = None,
    limit: int | None = None,
    checkpoint_seconds: int | float = 120.0,
    cache_bytes: int | float = 2e9,
    threads: int | None = None,
    progress: Report | None = None,
    **overrides: Any,
) -> FineTuned:
    """Win accuracy back after surgery, or lower aliasing without any: distil from the old network.

    Each step shows teacher and student the same random views of unlabelled pictures and minimises
    what `FinetuneSettings` says.

    Args:
        model: the student, a converted network as a rule; trained on a copy.
        images: a source as `open_images` takes it; labels are not used. A stream is read through
            once and held compressed: give it a `limit`.
        teacher: by default the student as it is given; run in eval mode, never changed.
        settings: what decides the weights.
        holdout: number of pictures kept apart to evaluate on, 0 for none, or a source of its own;
            with labels that number the model's classes, top-1 is reported.
        preprocess: by default the evaluation transform of the teacher, if that is a spec or was
            loaded, else of the model. Views have its size and its normalisation.
        device: by default CUDA where there is one.
        out: directory for checkpoints and the result; the same call continues what is there and,
            on the same machine, ends with the same bits. None keeps nothing.
        limit: at most so many images.
        checkpoint_seconds: how much work, in seconds, a kill may cost.
        cache_bytes: of memory for decoded pictures; the others are decoded every time.
        threads: that decode; by default 16 or as many as there are cores, whichever is less.
        progress: called after each step with the steps done, their number, and what it waits for:
            decoding or step.
        overrides: single settings by name, in place of those of `settings`.

    Returns:
        The network and its history.

    Raises:
        ModelError: model and teacher do not fit, a setting is out of range, or the loss is no
            longer finite; the last good checkpoint stays.
        ImageError: there are no images to train on.
        RunError: `out` holds another configuration or cannot be written.

    Source: Hinton et al. 2015 (arXiv 1503.02531); for `consistency` Zhang 2019 (arXiv 1904.11486),
        who measures it and does not train on it.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> finetune(net, "photos", steps=1, batch_size=2, holdout=0, device="cpu").history.step
    0    1
    Name: step, dtype: int64
    """
    settings = replace(settings or FinetuneSettings(), **overrides).settled()
    student = load_model(model)
    guide = student if teacher is None else load_model(teacher)
    known = student if isinstance(teacher, nn.Module | None) else guide
    preprocessing = student.prepared(preprocess or known.preprocessing)
    source = _opened(images, limit)
    held_source = None if isinstance(holdout, int) else _opened(holdout, None)
    entries, held_entries = list(source.entries()), []
    if not entries:
        raise ImageError(f"no images to train on in {source.spec}; give another source")
    if held_source is not None:
        held_entries = list(held_source.entries())
    elif isinstance(holdout, int) and holdout:
        entries, held_entries = split(entries, holdout, settings.seed)
    config = settings.to_dict() | {
        "model": student.spec,
        "weights_digest": student.weights_digest,
        "structure": student.structure_digest,
        "teacher": guide.spec,
        "teacher_digest": guide.weights_digest,
        "teacher_structure": guide.structure_digest,
        "preprocessing": preprocessing.to_dict(),
        "images": source.spec,
        "images_digest": _ids(entries),
        "holdout_digest": _ids(held_entries),
    }
    place = chosen_device(device)
    classes = (held_source or source).classes
    judge = HeldOut(held_entries, classes, preprocessing, settings.precision, place)
    photos = Photos(entries, max(preprocessing.resize), cache_bytes)
    with ExitStack() as held:
        path = None if out is None else Path(out)
        if path is not None:
            held.callback(lock(path, RECORD, FIRST).release)
        checkpoints = Checkpoints(path, config, environment(place))
        recalibrated = False
        if settings.recalibration and not checkpoints.exist:
            some = spread(entries, settings.recalibration)
            module = recalibrated_if_nearer(student, guide, some, preprocessing, place)
            recalibrated = module is not student.module
            student = replace(student, module=module)
        training = Training(student, guide, settings, preprocessing, place)
        training.progress.recalibrated = recalibrated
        training.run(
            checkpoints,
            judge,
            photos,
            checkpoint_seconds=checkpoint_seconds,
            threads=threads,
            report=progress or (lambda *_: None),
        )
    state = training.progress
    module = state.average.module.cpu().to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    for one, before in zip(module.parameters(), student.module.parameters(), strict=True):
        one.requires_grad_(before.requires_grad)
    history = pd.DataFrame(state.history)
    return FineTuned(
        module, history, state.teacher, config, state.recalibrated, path, state.unreadable
    )


def recalibrated_if_nearer(
    student: LoadedModel,
    guide: LoadedModel,
    entries: Sequence[Entry],
    preprocessing: Preprocessing,
    device: torch.device,
) -> nn.Module:
    """The student recalibrated, or as it was where that is nearer to the teacher."""
    judges = spread(entries, _JUDGED)
    before = divergence(student, guide, judges, preprocessing, device)
    if before == 0:
        return student.module
    source = ImageSource(lambda: iter(entries), ids=[entry.id for entry in entries])
    module = recalibrate(student, source, preprocess=preprocessing, limit=None, device=str(device))
    after = divergence(replace(student, module=module), guide, judges, preprocessing, device)
    return module if after < before else student.module


def _verdict(found: FineTuned) -> str:
    """From the first and the last row of the history: means, of which no interval is known."""
    steps = f"{found.config['steps']} steps"
    judged = found.history.reindex(columns=["step", *METRICS]).dropna(subset="logit_instability")
    if judged.empty:
        return f"After {steps} nothing was judged: no picture was held out."
    first, last = judged.iloc[0], judged.iloc[-1]

    def told(name: str) -> str:
        before = "" if len(judged) == 1 else f", before {digits(100 * first[name])} %"
        teacher = found.teacher.get(name)
        beside = "" if teacher is None else f", the teacher {digits(100 * teacher)} %"
        return f"{digits(100 * last[name])} %{before}{beside}"

    sentence = f"After {last['step']:.0f} steps {found.config['model']} "
    clauses = []
    if pd.notna(last["teacher_agreement"]):
        clauses.append(f"answers as the teacher for {told('teacher_agreement')}")
    if pd.notna(last["correct"]):
        clauses.append(f"names {told('correct')} correctly")
    clauses.append(f"moves by {told('logit_instability')} of its logits' length")
    return f"{sentence}{'; '.join(clauses)} (means over the held-out pictures, no interval known)."


def _opened(images: Source, limit: int | None) -> ImageSource:
    return images if isinstance(images, ImageSource) else open_images(images, limit=limit)


def _ids(entries: Sequence[Entry]) -> str:
    return hashlib.sha256("\n".join(entry.id for entry in entries).encode()).hexdigest()


def _cell(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.4f}"
