"""From a model, a teacher and pictures to a better model: checks, set-up, and the result."""

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.utils.data import Dataset

from aliascope.errors import ImageError
from aliascope.files import lock, plain
from aliascope.finetune.checkpoint import RECORD, Checkpoints
from aliascope.finetune.data import Photos, split
from aliascope.finetune.evaluation import METRICS, HeldOut, divergence
from aliascope.finetune.recalibration import ENOUGH, recalibrate, spread
from aliascope.finetune.settings import BatchNorm, Settings
from aliascope.finetune.training import Training
from aliascope.images import Entry, ImageSource, open_images
from aliascope.models import LoadedModel, load_model
from aliascope.preprocessing import Preprocessing
from aliascope.runtime import Precision, chosen_device, environment
from aliascope.text import columns, wrapped

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

    def to_dict(self) -> dict[str, Any]:
        """All but the network as plain values; what is not known is None."""
        names = ("history", "teacher", "config", "recalibrated", "unreadable")
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
        return "\n\n".join(filter(None, [wrapped([head]), columns(rows), wrapped(tail)]))


def finetune(
    model: Model,
    teacher: Model | None = None,
    images: Source = "photos",
    *,
    steps: int = 500,
    batch_size: int = 32,
    learning_rate: int | float = 1e-4,
    weight_decay: int | float = 0.01,
    warmup: int | None = None,
    clip_norm: int | float = 1.0,
    temperature: int | float = 1.0,
    feature_weight: int | float = 1.0,
    consistency: int | float = 1.0,
    alias_penalty: int | float = 0.0,
    alias_layers: Sequence[str] | None = None,
    batch_norm: BatchNorm = "frozen",
    recalibration: int = ENOUGH,
    scale: tuple[float, float] = (0.35, 1.0),
    flip: bool = True,
    mixup: int | float = 0.5,
    ema: int | float = 0.999,
    holdout: int | Source = 128,
    evaluate_every: int = 100,
    preprocess: Preprocessing | None = None,
    precision: Precision = "fp32",
    teacher_precision: Precision | None = None,
    device: str | None = None,
    out: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    checkpoint_seconds: int | float = 120.0,
    cache_bytes: int | float = 2e9,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FineTuned:
    """Win accuracy back after surgery, or lower aliasing without any: distil from the old network.

    Each step shows teacher and student the same random views of unlabelled pictures and minimises

    T² KL(teacher ‖ student) + feature_weight · mean over maps of ‖student − teacher‖² / ‖teacher‖²
    + consistency · KL(student ‖ student shifted) + alias_penalty · mean box AVR

    Args:
        model: the student, a converted network as a rule; trained on a copy.
        teacher: by default the student as it is given; run in eval mode, never changed.
        images: a source as `open_images` takes it; labels are not used. A stream is read through
            once and held compressed: give it a `limit`.
        steps: of the optimiser (AdamW, half a cosine, clipped gradients).
        batch_size: images a step.
        learning_rate: its peak.
        weight_decay: of matrices and filters; norms and biases do not decay.
        warmup: steps of linear rise; by default a twentieth of all.
        clip_norm: longest gradient, over all weights.
        temperature: T.
        feature_weight: of the distance of the maps that the teacher's strided layers read, and of
            what its last linear layer reads, as far as the model has modules of these names.
        consistency: weight of the change under a one-pixel move, by crops that really are one pixel
            apart; measured on every fourth image of a batch.
        alias_penalty: weight of the box AVR of what is sampled, mean over layers and images.
        alias_layers: names as `strided_layers` gives them; by default all that no image feeds.
        batch_norm: "frozen" normalises by the statistics that the model has, "train" by each batch,
            and keeps running statistics. After 20 steps of EfficientNet-Lite0 with batches of 32
            the first shifted less at an accuracy that 250 pictures cannot tell apart.
        recalibration: number of pictures to `recalibrate` the model on before the first step, 0 for
            none; undone where it leads away from the teacher (by the first term above).
        scale: share of a picture's area that a view shows, smallest and largest.
        flip: mirror every second view.
        mixup: share of the views that are mixtures of two. Teacher and student see the same one, so
            that a view never comes back, however few pictures there are.
        ema: decay of the averaged weights, which are what is evaluated and returned.
        holdout: number of pictures kept apart to evaluate on, 0 for none, or a source of its own;
            with labels that number the model's classes, top-1 is reported.
        evaluate_every: steps.
        preprocess: by default the evaluation transform of the teacher, if that is a spec or was
            loaded, else of the model. Views have its size and its normalisation.
        precision: of the student's passes and the evaluation; losses are in float32.
        teacher_precision: the same by default. On processors with AMX "bf16" halves its time; the
            student's backward pass is slower in bf16 there where convolutions are depthwise.
        device: by default CUDA where there is one.
        out: directory for checkpoints and the result; the same call continues what is there and,
            on the same machine, ends with the same bits. None keeps nothing.
        limit: at most so many images.
        seed: of the order of the images, of views and of dropout.
        checkpoint_seconds: how much work, in seconds, a kill may cost.
        cache_bytes: of memory for decoded pictures; the others are decoded every time.
        threads: that decode; by default as many as there are cores.
        progress: called after each step with the steps done and their number.

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
    >>> finetune(net, images="photos", steps=1, batch_size=2, holdout=0, device="cpu").history.step
    0    1
    Name: step, dtype: int64
    """
    student = load_model(model)
    guide = student if teacher is None else load_model(teacher)
    settings = Settings(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warmup=-(-steps // 20) if warmup is None else warmup,
        clip_norm=clip_norm,
        temperature=temperature,
        feature_weight=feature_weight,
        consistency=consistency,
        alias_penalty=alias_penalty,
        alias_layers=None if alias_layers is None else tuple(alias_layers),
        batch_norm=batch_norm,
        recalibration=recalibration,
        scale=scale,
        flip=flip,
        mixup=mixup,
        ema=ema,
        evaluate_every=evaluate_every,
        precision=precision,
        teacher_precision=teacher_precision or precision,
        seed=seed,
    )
    known = student if isinstance(teacher, nn.Module | None) else guide
    preprocessing = preprocess or known.preprocessing
    source = _opened(images, limit)
    held_source = None if isinstance(holdout, int) else _opened(holdout, None)
    entries, held_entries = list(source.entries()), []
    if not entries:
        raise ImageError(f"no images to train on in {source.spec}; give another source")
    if held_source is not None:
        held_entries = list(held_source.entries())
    elif isinstance(holdout, int) and holdout:
        entries, held_entries = split(entries, holdout, seed)
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
    judge = HeldOut(held_entries, classes, preprocessing, precision, place)
    photos = Photos(entries, max(preprocessing.resize), cache_bytes)
    with ExitStack() as held:
        path = None if out is None else Path(out)
        if path is not None:
            held.callback(lock(path, RECORD).release)
        checkpoints = Checkpoints(path, config, environment(place))
        recalibrated = False
        if recalibration and not checkpoints.exist:
            some = spread(entries, recalibration)
            module = _recalibrated(student, guide, some, preprocessing, place)
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
    history = pd.DataFrame(state.history)
    return FineTuned(
        module, history, state.teacher, config, state.recalibrated, path, state.unreadable
    )


def _recalibrated(
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


def _opened(images: Source, limit: int | None) -> ImageSource:
    return images if isinstance(images, ImageSource) else open_images(images, limit=limit)


def _ids(entries: Sequence[Entry]) -> str:
    return hashlib.sha256("\n".join(entry.id for entry in entries).encode()).hexdigest()


def _cell(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.4f}"
