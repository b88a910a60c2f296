"""Predictions of single photographs at many shifts: where they flip, and how sure they are."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from aliascope.measure.batch import Instrument, view_logits
from aliascope.records import Image
from aliascope.shifts import Border, Shift, largest, windows

RADIUS = 8
"""Pixels of the network, as far as maps and curves go."""


def grid(radius: int = RADIUS) -> list[Shift]:
    """All shifts up to `radius` along both axes, from the middle outwards.

    >>> [(s.rows, s.columns) for s in grid(1)][:5]
    [(0, 0), (-1, 0), (0, -1), (0, 1), (1, 0)]
    """
    steps = range(-radius, radius + 1)
    return sorted(
        (shift_by(r, c) for r in steps for c in steps), key=lambda s: s.rows**2 + s.columns**2
    )


def cross(radius: int = RADIUS) -> list[Shift]:
    """The shifts along one axis at a time, from the middle outwards.

    >>> len(cross(8))
    33
    """
    return [s for s in grid(radius) if 0 in (s.rows, s.columns)]


def shift_by(rows: int, columns: int) -> Shift:
    """A shift that is named after what it does."""
    return Shift(f"{rows:+d}, {columns:+d}", rows, columns)


@torch.inference_mode()
def shifted_logits(
    instrument: Instrument,
    pixels: Tensor,
    shifts: Sequence[Shift],
    *,
    border: Border = "crop",
    batch_size: int = 16,
) -> Iterator[tuple[Sequence[Shift], Float[Tensor, "shifts classes"]]]:
    """What a classifier says of one photograph under each shift, some shifts at a time.

    Args:
        instrument: from `prepare`, of a classifier.
        pixels: (C, H, W) as decoded.
        shifts: in the network's pixels, in the order in which they are wanted.
        border: "crop" moves the window over the photograph, "circular" rolls what it shows.
        batch_size: shifts a forward.

    Raises:
        ModelError: the crop leaves no such room.
    """
    views = shifted_pictures(instrument, pixels, shifts, border=border)
    for start in range(0, len(shifts), batch_size):
        some = torch.stack([*islice(views, batch_size)])
        yield shifts[start : start + batch_size], view_logits(instrument, some[None])[:, 0]


def shifted_pictures(
    instrument: Instrument, pixels: Tensor, shifts: Sequence[Shift], *, border: Border = "crop"
) -> Iterator[Float[Tensor, "chan height width"]]:
    """What the network is shown of one photograph under each shift, in [0, 1]."""
    whole = replace(instrument.preprocessing, margin=0)
    if border == "circular":
        picture = whole(pixels)
        return (picture.roll((s.rows, s.columns), (-2, -1)) for s in shifts)
    picture = whole.widened(largest(shifts))(pixels)
    return islice(windows(picture, shifts), 1, None)


def predictions(shifts: Sequence[Shift], logits: Float[Tensor, "shifts classes"]) -> pd.DataFrame:
    """What a classifier says under each shift, against what it says under none, the first.

    Args:
        shifts: the first one is none, as in `grid` and `cross`.
        logits: of each.

    Returns:
        A row a shift: rows, columns, prediction, confidence (its probability), steady (whether it
        is that of no shift) and probability (of the class that is predicted without a shift).

    >>> predictions(grid(1)[:2], torch.tensor([[2.0, 0], [0, 0]]))["probability"].round(2).tolist()
    [0.88, 0.5]
    """
    p = logits.double().softmax(-1)
    confidence, prediction = p.max(-1)
    return pd.DataFrame(
        {
            "rows": [s.rows for s in shifts],
            "columns": [s.columns for s in shifts],
            "prediction": prediction.tolist(),
            "confidence": confidence.tolist(),
            "steady": (prediction == prediction[0]).tolist(),
            "probability": p[:, prediction[0]].tolist(),
        }
    )


def shift_curves(
    instruments: Mapping[str, Instrument],
    pictures: Mapping[str, Tensor],
    *,
    border: Border = "crop",
    radius: int = RADIUS,
) -> pd.DataFrame:
    """Prediction and confidence of single photographs against the shift, along both axes.

    Args:
        instruments: by name, each from `prepare`, of classifiers.
        pictures: image id → (C, H, W) as decoded.
        border: "crop" or "circular".
        radius: pixels of the network, in each direction; less where the crop leaves less room.

    Returns:
        A row a picture, model and shift: image_id, model, the columns of `predictions` (one of rows
        and columns is 0) and name (of the class that is predicted, "" where it is not known).
    """
    room = min((x.preprocessing.room for x in instruments.values()), default=0)
    plan = cross(radius if border == "circular" else min(radius, room))
    frames = []
    for image_id, pixels in pictures.items():
        for name, instrument in instruments.items():
            found = [z for _, z in shifted_logits(instrument, pixels, plan, border=border)]
            frame = predictions(plan, torch.cat(found))
            known = instrument.class_names
            frame["name"] = [known[i] if i < len(known) else "" for i in frame["prediction"]]
            frame.insert(0, "image_id", image_id)
            frame.insert(1, "model", name)
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def telling_curves(
    instruments: Mapping[str, Instrument],
    images: Iterable[Image],
    chosen: Mapping[str, str],
    *,
    border: Border = "crop",
) -> pd.DataFrame:
    """`shift_curves` of the photographs that `telling` chose, with a column more: why."""
    pictures = {image.id: image.pixels for image in images if image.id in chosen}
    curves = shift_curves(instruments, pictures, border=border)
    return curves.assign(why=[chosen[name] for name in curves["image_id"]])


def telling(a: pd.DataFrame, b: pd.DataFrame, *, each: int = 2) -> dict[str, str]:
    """Which photographs to show of two models: those that move most in either, and least in A.

    Who moves more is who keeps the prediction under fewer of the four shifts, then who has the
    larger logit instability. To show A's alone would flatter B: what is extreme in one measurement
    is less so in another.

    Args:
        a: a row an image, as in `Run.images`.
        b: the other model's, of the same images.
        each: photographs of each kind.

    Returns:
        image id → why: "moves most in A", "moves most in B", "moves least in A".
    """
    chosen: dict[str, str] = {}
    groups = dict(zip(a["image_id"], a["group"], strict=True))

    def take(images: pd.DataFrame, why: str, *, least: bool = False) -> None:
        keys = images.sort_values(["agreement", "logit_instability"], ascending=[not least, least])
        left = each
        for image_id in keys["image_id"]:
            if left and groups.get(image_id) not in {groups[x] for x in chosen} | {None}:
                chosen[image_id] = why
                left -= 1

    take(a, "moves most in A")
    take(b, "moves most in B")
    take(a, "moves least in A", least=True)
    return chosen
