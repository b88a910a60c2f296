"""Floating-point operations of one forward, module by module, along with its data flow."""

from collections import Counter
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from aliascope.taps import Trace, trace


class _Counter(TorchDispatchMode):
    """Adds what torch's own formulas say to every module that is running.

    `FlopCounterMode` finds the modules by hooks of its own, at five times the cost of a forward.
    """

    def __init__(self, recorded: Trace) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()
        self._recorded = recorded

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        del types
        output = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            count = formula(*args, **(kwargs or {}), out_val=output)
            for name in {frame.layer for frame in self._recorded.frames}:
                self.flops[name] += count
        return output


def counted(model: nn.Module, example: Tensor) -> tuple[Trace, Counter[str]]:
    """The data flow of one forward, and the FLOPs within each run of a module (`pool#2`).

    The whole has the name "".

    Convolutions and matrix products, a multiply-add being two; the rest is not counted.
    """
    recorded = Trace()
    with _Counter(recorded) as counter:
        trace(model, example, recorded)
    return recorded, counter.flops
