"""What a conversion did, operation by operation, and what it costs."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import pandas as pd
from torch import nn

from aliascope.antialias.recipe import Recipe
from aliascope.errors import ModelError
from aliascope.records import Kind
from aliascope.results.text import columns, wrapped

Outcome = Literal["converted", "kept", "refused"]


@dataclass(frozen=True)
class ConvertedLayer:
    """One operation of the original that downsamples."""

    layer: str
    kind: Kind
    outcome: Outcome
    """kept: the stem, a shortcut, or what is anti-aliased already; refused: it cannot be done."""
    note: str
    """What was done, or why not."""
    downsampler: str | None = None
    """Name of the new module in the converted model; `#2` marks its second run."""
    flops_before: int = 0
    """Of the operation in a forward of the example, a multiply-add being two."""
    flops_after: int = 0
    """The same with its downsampler."""


@dataclass(frozen=True)
class Conversion:
    """The report of `antialias`; `str` prints it."""

    recipe: Recipe
    layers: tuple[ConvertedLayer, ...]
    """In order of execution."""
    input_shape: tuple[int, ...]
    """Of the example that FLOPs and phases belong to."""
    flops_before: int
    """Of the convolutions and matrix products of the whole network."""
    flops_after: int
    notices: tuple[str, ...] = ()

    def __str__(self) -> str:
        header = ["layer", "kind", "MFLOPs", "outcome", ""]
        rows = [
            [
                row.layer,
                row.kind,
                f"{row.flops_before / 1e6:.1f} → {row.flops_after / 1e6:.1f}",
                row.outcome,
                row.note,
            ]
            for row in self.layers
        ]
        lines = [columns([header, *rows]), wrapped([self.verdict])]
        lines += [wrapped([f"notice: {text}"]) for text in self.notices]
        return "\n".join(lines)

    @property
    def verdict(self) -> str:
        """How many operations were converted, and at what price."""
        converted = sum(row.outcome == "converted" for row in self.layers)
        size = "×".join(map(str, self.input_shape))
        ratio = self.flops_after / max(self.flops_before, 1)
        total = f"{self.flops_before / 1e9:.3g} → {self.flops_after / 1e9:.3g} GFLOPs"
        return (
            f"{self.recipe} on {size}: {total}, {ratio:.2f} times; {converted} of "
            f"{len(self.layers)} operations converted"
        )

    @property
    def table(self) -> pd.DataFrame:
        """A row an operation, with the columns of `ConvertedLayer`."""
        return pd.DataFrame(
            list(self.layers), columns=[field.name for field in fields(ConvertedLayer)]
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `--json` prints it."""
        return asdict(self)


def conversion_of(converted: nn.Module) -> Conversion:
    """The report of the model that `antialias` returned, or of a copy of it.

    Raises:
        ModelError: the model is none.

    >>> from aliascope import antialias
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2))
    >>> conversion_of(antialias(net)).layers[0].note
    'max at stride 1, then BlurPool after 1'
    """
    try:
        return converted._aliascope_conversion  # noqa: SLF001  # pyright: ignore[reportReturnType]
    except AttributeError:
        raise ModelError(
            f"this {type(converted).__name__} was not made by antialias: pass what that returned"
        ) from None
