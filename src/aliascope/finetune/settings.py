"""What decides the outcome of a fine-tuning, and is refused if it changes under way."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from aliascope.errors import ModelError
from aliascope.finetune.recalibration import ENOUGH
from aliascope.runtime import Precision

BatchNorm = Literal["train", "frozen"]


@dataclass(frozen=True)
class FinetuneSettings:
    """What `finetune` minimises, how fast, and on which views.

    T² KL(teacher ‖ student) + feature_weight · mean over maps of ‖student − teacher‖² / ‖teacher‖²
    + consistency · KL(student ‖ student shifted)
    + logit_consistency · ‖z shifted − z‖² / ‖z‖², z the student's logits
    + alias_penalty · mean box AVR

    Raises:
        ModelError: a setting is out of range.

    >>> FinetuneSettings(steps=100).settled().warmup
    5
    """

    steps: int = 500
    """Of the optimiser (AdamW, half a cosine, clipped gradients)."""
    batch_size: int = 32
    """Images a step."""
    learning_rate: int | float = 1e-4
    """Its peak."""
    weight_decay: int | float = 0.01
    """Of matrices and filters; norms and biases do not decay."""
    warmup: int | None = None
    """Steps of linear rise; by default a twentieth of all."""
    clip_norm: int | float = 1.0
    """Longest gradient, over all weights."""
    temperature: int | float = 1.0
    """T."""
    feature_weight: int | float = 1.0
    """Of the distance of the maps that the teacher's strided layers read, and of what its last
    linear layer reads, as far as the model has modules of these names; of every fourth image of a
    batch, or of eight."""
    consistency: int | float = 1.0
    """Weight of the change under a one-pixel move, by crops that really are one pixel apart;
    measured on every fourth image of a batch."""
    logit_consistency: int | float = 0.0
    """Weight of the squared change of the logits under the same move, which no softmax hides: what
    classes that are unlikely anyway do counts as much as the others."""
    alias_penalty: int | float = 0.0
    """Weight of the box AVR of what is sampled, mean over layers and images."""
    alias_layers: Sequence[str] | None = None
    """Names as `strided_layers` gives them; by default all that no image feeds."""
    batch_norm: BatchNorm = "frozen"
    """"frozen" normalises by the statistics that the model has, "train" by each batch, and keeps
    running statistics. After 20 steps of EfficientNet-Lite0 with batches of 32 the first shifted
    less at an accuracy that 250 pictures cannot tell apart."""
    recalibration: int = ENOUGH
    """Number of pictures to `recalibrate` the model on before the first step, 0 for none; undone
    where it leads away from the teacher (by the first term above)."""
    frozen: Sequence[str] = ()
    """Names of modules whose weights stay as they are. Where nothing that learns lies in front of
    them, they cost no backward pass and no memory for it."""
    resolution: int | float = 1.0
    """Sides of the first views, as a share of what the model takes; they grow to that over the
    first three quarters of the steps, in steps of 32. From half of 224 pixels on, all views
    together have 77 % of the pixels."""
    scale: tuple[float, float] = (0.35, 1.0)
    """Share of a picture's area that a view shows, smallest and largest."""
    flip: bool = True
    """Mirror every second view."""
    mixup: int | float = 0.5
    """Share of the views that are mixtures of two. Teacher and student see the same one, so that a
    view never comes back, however few pictures there are."""
    ema: int | float = 0.999
    """Decay of the averaged weights, which are what is evaluated and returned."""
    evaluate_every: int = 100
    """Steps."""
    precision: Precision = "fp32"
    """Of the student's passes and the evaluation; losses are in float32."""
    teacher_precision: Precision | None = None
    """The same by default. On processors with AMX "bf16" halves its time; the student's backward
    pass is slower in bf16 there where convolutions are depthwise."""
    seed: int = 0
    """Of the order of the images, of views and of dropout."""

    def __post_init__(self) -> None:
        """Refuse what cannot work before anything is computed."""
        positive = ("batch_size", "learning_rate", "temperature", "evaluate_every", "clip_norm")
        weights = ("feature_weight", "consistency", "logit_consistency")
        weights += ("alias_penalty", "weight_decay", "seed")
        low, high = self.scale
        wrong = [(name, "must be above 0") for name in positive if not getattr(self, name) > 0]
        wrong += [
            (name, "must be at least 0")
            for name in ("steps", "warmup", "recalibration", *weights)
            if not (getattr(self, name) is None or getattr(self, name) >= 0)
        ]
        wrong += [("ema", "must be at least 0 and below 1")] if not 0 <= self.ema < 1 else []
        wrong += [("resolution", "must be 0.1 to 1")] if not 0.1 <= self.resolution <= 1 else []
        wrong += [("mixup", "must be 0 to 1")] if not 0 <= self.mixup <= 1 else []
        wrong += [("scale", "must be 0 < low ≤ high ≤ 1")] if not 0 < low <= high <= 1 else []
        for name, rule in wrong:
            raise ModelError(f"{name} {rule}, got {getattr(self, name)}")

    def settled(self) -> "FinetuneSettings":
        """The same with what follows from other settings filled in."""
        return replace(
            self,
            warmup=-(-self.steps // 20) if self.warmup is None else self.warmup,
            alias_layers=None if self.alias_layers is None else tuple(self.alias_layers),
            frozen=tuple(self.frozen),
            teacher_precision=self.teacher_precision or self.precision,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `finetune.json`."""
        return asdict(self)
