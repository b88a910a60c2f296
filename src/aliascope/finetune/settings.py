"""What decides the outcome of a fine-tuning, and is refused if it changes under way."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from aliascope.errors import ModelError
from aliascope.runtime import Precision

BatchNorm = Literal["train", "frozen"]


@dataclass(frozen=True)
class Settings:
    """The settings of `finetune`, explained there."""

    steps: int
    batch_size: int
    learning_rate: int | float
    weight_decay: int | float
    warmup: int
    clip_norm: int | float
    temperature: int | float
    feature_weight: int | float
    consistency: int | float
    alias_penalty: int | float
    alias_layers: tuple[str, ...] | None
    batch_norm: BatchNorm
    recalibration: int
    scale: tuple[float, float]
    flip: bool
    mixup: int | float
    ema: int | float
    evaluate_every: int
    precision: Precision
    teacher_precision: Precision
    seed: int

    def __post_init__(self) -> None:
        """Refuse what cannot work before anything is computed."""
        positive = ("batch_size", "learning_rate", "temperature", "evaluate_every", "clip_norm")
        weights = ("feature_weight", "consistency", "alias_penalty", "weight_decay", "seed")
        low, high = self.scale
        wrong = [(name, "must be above 0") for name in positive if not getattr(self, name) > 0]
        wrong += [
            (name, "must be at least 0")
            for name in ("steps", "warmup", "recalibration", *weights)
            if not getattr(self, name) >= 0
        ]
        wrong += [("ema", "must be at least 0 and below 1")] if not 0 <= self.ema < 1 else []
        wrong += [("mixup", "must be 0 to 1")] if not 0 <= self.mixup <= 1 else []
        wrong += [("scale", "must be 0 < low ≤ high ≤ 1")] if not 0 < low <= high <= 1 else []
        for name, rule in wrong:
            raise ModelError(f"{name} {rule}, got {getattr(self, name)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `finetune.json`."""
        return asdict(self)
