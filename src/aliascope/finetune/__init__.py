"""The end of the repair arm: win accuracy back after surgery, without labels.

| module | yields |
|---|---|
| `recalibration` | `recalibrate`: batch-norm statistics of the changed network |
| `settings` | `FinetuneSettings`: what decides the outcome |
| `data` | random views of pictures, a function of (seed, step) |
| `losses` | distance to the teacher, to the shifted self, and aliasing |
| `optimisation` | learning rate, weight decay, averaged weights |
| `evaluation` | the figures on held-out pictures |
| `checkpoint` | what is on disk, so that a kill costs little |
| `training` | the loop over steps |
| `run` | `finetune`: set-up, loop, result |
"""

from aliascope.finetune.recalibration import recalibrate
from aliascope.finetune.run import FineTuned, finetune
from aliascope.finetune.settings import FinetuneSettings

__all__ = ["FineTuned", "FinetuneSettings", "finetune", "recalibrate"]
