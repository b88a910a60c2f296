"""A fine-tuning on disk, so that the same command continues it after a kill.

```
OUT/finetune.json                  configuration, step, history; names the files that belong to it
OUT/averaged-NNNNNN.safetensors    the averaged weights after that step: a state_dict
OUT/training-NNNNNN.safetensors    the weights in training and the moments of AdamW
OUT/model.safetensors              the averaged weights, once all steps are done
```

Every file is written whole or not at all, finetune.json last: it is what makes a checkpoint exist.
The order of the images and all randomness follow from (seed, step), so no generator is stored.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from aliascope.errors import RunError
from aliascope.finetune.optimisation import Average
from aliascope.models.files import read_tensors, sealed_tensors
from aliascope.results.files import refuse_another, sealed, unsealed, write_file
from aliascope.results.text import brief

RECORD = "finetune.json"
FIRST = "*-000000.safetensors"
"""What lies alone where a kill came before the first record."""
_FORMAT = 1
_PLAIN = ("step", "seconds", "history", "losses", "teacher", "predictions")
_PLAIN += ("recalibrated", "unreadable")
"""What of the progress is no tensor."""
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError)
_DAMAGE += (SafetensorError,)


@dataclass
class State:
    """Everything that a step changes."""

    student: nn.Module
    average: Average
    optimiser: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    losses: dict[str, float] = field(default_factory=dict)
    """Sum of each part since the latest row of the history."""
    teacher: dict[str, float | None] = field(default_factory=dict)
    """The teacher's figures on the held-out pictures."""
    predictions: list[int | None] = field(default_factory=list)
    """What the teacher predicts there."""
    unreadable: dict[str, str] = field(default_factory=dict)
    recalibrated: bool = False


class Checkpoints:
    """The directory of one fine-tuning; without one, nothing is kept.

    Args:
        path: the directory, locked by the caller.
        config: what decides the weights.
        info: recorded, not compared.
    """

    def __init__(self, path: Path | None, config: dict[str, Any], info: dict[str, Any]) -> None:
        self.path = path
        self._config = json.loads(json.dumps(config))
        self._info = info

    @property
    def exist(self) -> bool:
        """Whether there is something to continue."""
        return self.path is not None and (self.path / RECORD).exists()

    def save(self, progress: State) -> None:
        """Make the state as it stands the one that is continued.

        Raises:
            RunError: it cannot be written; the checkpoint before it stays.
        """
        if self.path is None:
            return
        files = {
            kind: f"{kind}-{progress.step:06d}.safetensors" for kind in ("averaged", "training")
        }
        tensors = {"averaged": progress.average.module.state_dict(), "training": _moving(progress)}
        for kind, name in files.items():
            write_file(self.path / name, sealed_tensors(_detached(tensors[kind]), {}))
        record = {"format": _FORMAT, "config": self._config, "info": self._info, "files": files}
        record |= {name: getattr(progress, name) for name in _PLAIN}
        record["scaler"] = progress.scaler.state_dict()
        write_file(self.path / RECORD, sealed(record))
        for old in (f for kind in files for f in self.path.glob(f"{kind}-*.safetensors")):
            if old.name not in files.values():
                old.unlink(missing_ok=True)

    def restore(self, progress: State) -> bool:
        """Take up the state on disk, bit for bit; False if there is none.

        Raises:
            RunError: it is of another configuration, or damaged.
        """
        if self.path is None or not self.exist:
            return False
        file = self.path / RECORD
        try:
            record = unsealed(file.read_bytes(), older=True)
            refuse_another(self.path, record["config"], self._config)
            found = {}
            for kind, name in record["files"].items():
                file = self.path / name
                found[kind] = read_tensors(file)
            averaged, training = found["averaged"], found["training"]
            progress.average.module.load_state_dict(averaged)
            progress.student.load_state_dict(_part(training, "student"))
            _restore_moments(progress.optimiser, _part(training, "moments"))
            progress.scaler.load_state_dict(record["scaler"])
            for name in _PLAIN:
                setattr(progress, name, record[name])
        except _DAMAGE as error:
            raise RunError(
                f"{file} is a damaged checkpoint ({brief(error)}): delete {self.path} and run the "
                "same command again"
            ) from error
        return True

    def finish(self, progress: State) -> None:
        """Put the averaged weights beside the checkpoint, under a name that stays."""
        if self.path is not None:
            data = sealed_tensors(_detached(progress.average.module.state_dict()), {})
            write_file(self.path / "model.safetensors", data)


def _moving(progress: State) -> dict[str, Tensor]:
    tensors = {f"student/{k}": v for k, v in progress.student.state_dict().items()}
    for index, moments in progress.optimiser.state_dict()["state"].items():
        tensors |= {f"moments/{index}/{name}": value for name, value in moments.items()}
    return tensors


def _restore_moments(optimiser: torch.optim.AdamW, tensors: dict[str, Tensor]) -> None:
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition("/")
        # Laid out in memory as the parameter is, or the last bit of a sum might differ.
        like = parameters[int(index)]
        laid_out = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
        state.setdefault(int(index), {})[name] = laid_out
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}/"
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}


def _detached(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # Copies: safetensors refuses tensors that share memory, as tied weights do.
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
