"""What an export is, and what proves it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from aliascope.results.files import Result
from aliascope.results.text import columns, number, wrapped
from aliascope.results.verdicts import Change, digits


@dataclass(frozen=True, eq=False)
class Exported(Result):
    """What `export` wrote, and how it compares with PyTorch; `str()` prints it."""

    model: str
    target: str
    path: str
    """The file; OpenVINO's .bin lies beside its .xml."""
    size: int
    """Bytes of all its files."""
    table: pd.DataFrame
    """A row a way to run it and batch size: precision ("f32", or "default" where the runtime
    rounds unless it is told not to), batch, pictures, error (largest relative error: over pictures
    and outputs, max |y − y'| / max |y|), agreement (share of pictures with the same prediction; NaN
    of networks that do not classify), worst (the picture of the largest error)."""
    latency: pd.DataFrame
    """Of this export and that of `against`, as `Latency.table` has it; no rows without it."""
    info: dict[str, Any]
    """input, preprocessing, operators, opset, versions, tolerance, weights_digest, images, against,
    largest_batch where there is one."""
    notices: tuple[str, ...]
    """What to know before it is used, a sentence each."""

    @property
    def verdict(self) -> str:
        """Whether the file answers as the network does, and what it costs."""
        return " ".join(_sentences(self))

    def _blocks(self) -> Iterator[str]:
        return _blocks(self)


def proven(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that count: those that were computed in float32."""
    return table.query("precision == 'f32'")


def _sentences(exported: Exported) -> Iterator[str]:
    rows = proven(exported.table)
    batches = " and ".join(str(batch) for batch in rows["batch"])
    agreement = min(rows["agreement"])
    same = "" if math.isnan(agreement) else f", same prediction for {digits(100 * agreement)} %"
    yield (
        f"{exported.path} answers as {exported.model} does in PyTorch: largest relative error "
        f"{max(rows['error']):.1e} over {max(rows['pictures'])} pictures at batch {batches}"
        f"{same}."
    )
    for row in exported.latency.iloc[1:].to_dict("records"):
        change = Change(*(row[name] - 1 for name in ("ratio", "ratio_low", "ratio_high")))
        amount = change.amount("less", "longer", "as long")
        yield (
            f"It takes {amount} {'than' if change.value else 'as'} the export of "
            f"{exported.info['against']} at batch {row['batch']} ({change.certainty()}, "
            f"{row['rounds']} rounds in turn)."
        )


def _blocks(exported: Exported) -> Iterator[str]:
    info = exported.info
    opset = f", opset {info['opset']}" if "opset" in info else ""
    versions = ", ".join(f"{name} {number}" for name, number in info["versions"].items())
    kind = f"{exported.target}{opset}, {exported.size / 1e6:.2f} MB"
    yield wrapped([f"{exported.model} → {exported.path} ({kind})", versions])
    header = ["precision", "batch", "pictures", "largest relative error", "same prediction"]
    yield columns([header, *(_cells(row) for row in exported.table.to_dict("records"))])
    yield wrapped([f"input: {described(info)}"])
    named = ", ".join(f"{name} {count}" for name, count in info["operators"].items())
    yield wrapped([f"operators: {named}"])
    yield wrapped([exported.verdict])
    yield wrapped([f"notice: {text}" for text in exported.notices])


def _cells(row: dict[Any, Any]) -> list[str]:
    return [
        row["precision"],
        str(row["batch"]),
        str(row["pictures"]),
        f"{row['error']:.1e}",
        number(row["agreement"], ".1%"),
    ]


def described(info: dict[str, Any]) -> str:
    """What the file takes, in words."""
    taken, steps = info["input"], info["preprocessing"]
    sides = " × ".join(map(str, steps["resize"]))
    resize = f"to {sides}" if len(steps["resize"]) == 2 else f"the short side to {sides}"
    crop = " × ".join(map(str, steps["crop"]))
    mean, std = (", ".join(f"{x:g}" for x in steps[name]) for name in ("mean", "std"))
    shape = ", ".join(map(str, taken["shape"]))
    return (
        f"({shape}), float32, {taken['colours']}: resize {resize} ({steps['interpolation']}), "
        f"cut {crop} out of the middle, of values in 0 to 1 subtract {mean}, divide by {std}"
    )
