"""From a pretrained network to a repaired one with its proof: plan, surgery, training, judgement.

```
OUT/search.json         what was tried at each place, and what was chosen; read by a later start
OUT/plan.json           the choice alone: edit it and give it with `plan`
OUT/fitted.safetensors  the network before training: fitted, norms recalibrated
OUT/training/           the fine-tuning, with its checkpoints
OUT/judged-SHIFTS/      the runs of both networks over the held-out pictures, compared
OUT/latency.json        both networks timed side by side
OUT/model.safetensors   the repaired network, a model spec
OUT/model.onnx          the same for another runtime, where it was asked for
OUT/repair.json         the result
```

A stage whose file is there is not done again, so that the same command goes on after a kill.
"""

from aliascope.repair.budget import Budget
from aliascope.repair.fitting import fit_folded
from aliascope.repair.plan import Plan
from aliascope.repair.run import Repaired, repair

__all__ = ["Budget", "Plan", "Repaired", "fit_folded", "repair"]
