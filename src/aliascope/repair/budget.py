"""What a repair may cost."""

import math
from dataclasses import dataclass

from aliascope.errors import AliascopeError


@dataclass(frozen=True)
class Budget:
    """Limits that a repair is planned for and judged by.

    Raises:
        AliascopeError: a limit that nothing can keep.

    >>> Budget.parse("latency=1.05,top1=-0.5")
    Budget(latency=1.05, top1=-0.5)
    """

    latency: int | float = 1.15
    """Largest ratio to the original's latency, of single pictures."""
    top1: int | float = -1.0
    """Smallest change of top-1 on held-out pictures, in points: −1 is one picture in a hundred."""

    def __post_init__(self) -> None:
        if not self.latency >= 1:
            raise AliascopeError(
                f"latency must be at least 1, the original's own, got {self.latency:g}"
            )
        if not -100 <= self.top1 <= 0:
            raise AliascopeError(
                f"top1 is a change in points, −100 to 0, got {self.top1:g}: write top1=-0.5 for "
                "half a point"
            )

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read `latency=RATIO,top1=POINTS`; what is not named keeps its default.

        Raises:
            AliascopeError: another name, no number, or a limit out of range.
        """
        found: dict[str, float] = {}
        for item in filter(None, text.split(",")):
            name, _, value = item.partition("=")
            wrong = name not in cls.__dataclass_fields__ or name in found
            try:
                found[name] = math.nan if wrong else float(value)
            except ValueError:
                wrong = True
            if wrong:
                raise AliascopeError(
                    f"cannot read {item!r} in the budget: write latency=1.05,top1=-0.5, each once"
                )
        return cls(**found)

    def __str__(self) -> str:
        return f"latency={self.latency:g},top1={self.top1:g}"
