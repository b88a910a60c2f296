"""Whether a file answers as the network that it was made from."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from aliascope.export.targets import Run
from aliascope.records import Image, Report

BATCH = 4
"""The other batch size, beside 1."""


def compared(
    runs: dict[str, Run],
    module: nn.Module,
    pictures: Iterable[tuple[str, Tensor]],
    progress: Report | None,
    total: int | None,
) -> pd.DataFrame:
    """The rows of `Exported.table`.

    Each picture is shown to the network among others, and to the file so and alone. Where pictures
    do not fill a batch, they are repeated.

    Args:
        runs: precision → how the file is run.
        module: returns a list of tensors, an image a row.
        pictures: ids and what the network takes, (C, H, W).
        progress: called with the pictures done so far.
        total: of pictures, where it is known.
    """
    rows: dict[tuple[str, int], list[dict[str, Any]]] = {
        (name, batch): [] for name in runs for batch in (1, BATCH)
    }
    done = 0
    for chunk in _chunks(pictures):
        ids, images = zip(*chunk, strict=True)
        x = torch.stack([*images] * BATCH)[:BATCH].contiguous()
        with torch.inference_mode():
            wanted = module(x)
        for name, run in runs.items():
            together = run(x)
            alone = [run(image[None]) for image in images]
            for i, image_id in enumerate(ids):
                expected = [y[i] for y in wanted]
                rows[name, 1].append(difference(image_id, expected, [y[0] for y in alone[i]]))
                rows[name, BATCH].append(difference(image_id, expected, [y[i] for y in together]))
        done += len(ids)
        if progress:
            progress(done, total)
    return pd.DataFrame([_row(name, batch, own) for (name, batch), own in rows.items()])


def difference(
    image_id: str, expected: Sequence[Tensor], found: Sequence[Tensor]
) -> dict[str, Any]:
    """Largest relative error of an image's answers, and whether the prediction is the same.

    >>> difference("a", [torch.tensor([1.0, 2.0])], [torch.tensor([1.0, 2.5])])
    {'id': 'a', 'error': 0.25, 'same': 1.0}
    """
    error = max(map(_relative, expected, found), default=0.0)
    if len(expected) != len(found):
        error = float("inf")
    same = float("nan")
    if expected[0].ndim == 1 and expected[0].shape == found[0].shape:
        same = float(expected[0].argmax() == found[0].argmax())
    return {"id": image_id, "error": error, "same": same}


def _relative(expected: Tensor, found: Tensor) -> float:
    if expected.shape != found.shape or not found.isfinite().all():
        return float("inf")
    size = expected.abs().max().item() or 1.0
    return (expected - found).abs().max().item() / size


def _row(name: str, batch: int, own: list[dict[str, Any]]) -> dict[str, Any]:
    worst = max(own, key=lambda each: each["error"], default={"error": 0.0, "id": ""})
    agreement = sum(each["same"] for each in own) / max(len(own), 1)
    return {
        "precision": name,
        "batch": batch,
        "pictures": len(own),
        "error": worst["error"],
        "agreement": agreement,
        "worst": worst["id"],
    }


def _chunks(pictures: Iterable[tuple[str, Tensor]]) -> Iterator[list[tuple[str, Tensor]]]:
    chunk = []
    for each in pictures:
        chunk.append(each)
        if len(chunk) == BATCH:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def prepared(images: Iterable[Image], preprocessing: Any) -> Iterator[tuple[str, Tensor]]:
    """Ids and what the network takes."""
    for image in images:
        yield image.id, preprocessing.normalise(preprocessing(image.pixels)[None])[0]
