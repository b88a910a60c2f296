"""A video made of one photograph: a window moves over it slowly, and how often answers flicker."""

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from aliascope.errors import ImageError
from aliascope.images import ImageSource, open_images
from aliascope.images.preprocessing import Preprocessing
from aliascope.measure.fusion import fuse_batch_norm
from aliascope.models import LoadedModel, load_model
from aliascope.records import Report
from aliascope.runtime import chosen_device, computing
from aliascope.stability import logits_of

SHARE = 0.8
"""Of a photograph's sides, how much the window shows."""
SPEED = 0.25
"""Of the window, in the network's pixels a frame."""
SMOOTHING = 5
"""Frames whose probabilities are averaged; the mean is of the frame half as many back."""
_DIRECTION = (0.6, 0.8)
"""Rows and columns of a step of length 1: neither axis, and no diagonal."""


def moving_window(
    preprocessing: Preprocessing, pixels: Tensor, *, speed: float = SPEED
) -> Iterator[Float[Tensor, "chan rows columns"]]:
    """What a network is shown of a photograph as a window moves over it, without end.

    The window shows `SHARE` of each side, starts in the corner, goes straight on and is thrown back
    by the photograph's sides. It is resized at the place where it is, to a fraction of a pixel,
    through the same filter everywhere: nothing changes but the place.

    Args:
        preprocessing: of the network.
        pixels: (C, H, W) as decoded.
        speed: in the network's pixels a frame.

    Raises:
        ImageError: the window is smaller than the network's frame, and would be enlarged.

    >>> from aliascope.images.preprocessing import RESIZE_224
    >>> next(moving_window(RESIZE_224, torch.rand(3, 300, 400))).shape
    torch.Size([3, 224, 224])
    """
    sides = pixels.shape[-2:]
    resized = preprocessing.resized(*sides)
    steps = [SHARE * side / short for side, short in zip(sides, resized, strict=True)]
    if min(steps) < 1:
        raise ImageError(
            f"is {sides[0]} × {sides[1]} pixels, and a window of {SHARE:.0%} of that would be "
            f"enlarged to {resized[0]} × {resized[1]}: give larger photographs"
        )
    spare = [(1 - SHARE) * side for side in sides]
    for frame in count():
        top, left = (
            _thrown_back(frame * speed * part * step, room)
            for part, step, room in zip(_DIRECTION, steps, spare, strict=True)
        )
        box = left, top, left + SHARE * sides[1], top + SHARE * sides[0]
        yield preprocessing(pixels, box=box)


def _thrown_back(way: float, room: float) -> float:
    """Where something is that has gone so far between two walls."""
    return room - abs(way % (2 * room) - room)


def flickers(
    probabilities: Float[Tensor, "frames classes"], threshold: float = 0.5
) -> dict[str, float]:
    """How often an answer changes, and how often it passes a threshold, in 1000 frames.

    flips = 1000 · mean over frames t > 0 of [arg-max p_t ≠ arg-max p_(t−1)]; crossings: the same of
    [max p_t ≥ threshold].

    >>> flickers(torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.1, 0.9]]), threshold=0.8)
    {'flips': 500.0, 'crossings': 1000.0}
    """
    confidence, answer = probabilities.max(-1)
    return {"flips": _changes(answer), "crossings": _changes(confidence >= threshold)}


def _changes(values: Shaped[Tensor, " frames"]) -> float:
    return 1000 * (values[1:] != values[:-1]).double().mean().item()


def smoothed(
    probabilities: Float[Tensor, "frames classes"], frames: int = SMOOTHING
) -> Float[Tensor, "fewer classes"]:
    """Means of so many frames in a row: each says what was seen (frames − 1) / 2 frames ago.

    >>> smoothed(torch.tensor([[1.0], [2.0], [6.0], [4.0]]), 3).flatten().tolist()
    [3.0, 4.0]
    """
    return probabilities.unfold(0, frames, 1).mean(-1)


@torch.inference_mode()
def flicker(
    model: str | nn.Module | LoadedModel,
    images: str | Path | ImageSource,
    *,
    frames: int = 200,
    speed: float = SPEED,
    threshold: float = 0.5,
    device: str | None = None,
    batch_size: int = 8,
    progress: Report | None = None,
) -> pd.DataFrame:
    """How a classifier flickers while a window moves over each of some large photographs.

    Args:
        model: a spec, a module, or what `load_model` returned.
        images: a source as `open_images` takes it; what is too small is left out.
        frames: of each photograph.
        speed: of the window, in the network's pixels a frame.
        threshold: of confidence.
        device: by default CUDA where there is one.
        batch_size: frames a forward.
        progress: called after each photograph with how many are done and None.

    Returns:
        A row a photograph and number of frames that are averaged, 1 and `SMOOTHING`: photograph,
        averaged, flips and crossings (in 1000 frames, see `flickers`), confidence (mean).

    Raises:
        ImageError: every photograph is too small.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> import tempfile, PIL.Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     PIL.Image.new("RGB", (400, 400)).save(f"{folder}/black.png")
    ...     print(flicker(net, folder, frames=6, device="cpu")["flips"].tolist())
    [0.0, 0.0]
    """
    loaded = load_model(model)
    place = chosen_device(device)
    module = fuse_batch_norm(loaded.module, loaded.example()).to(place)
    source = images if isinstance(images, ImageSource) else open_images(images)
    rows, refused = [], ""
    for done, image in enumerate(source, start=1):
        video = moving_window(loaded.preprocessing, image.pixels, speed=speed)
        try:
            shown = torch.stack([*islice(video, frames)])
        except ImageError as error:
            refused = f"{image.id} {error}"
            continue
        parts = loaded.preprocessing.normalise(shown).split(batch_size)
        with computing("fp32", place):
            logits = torch.cat([logits_of(module(part.to(place))).cpu() for part in parts])
        p = logits.double().softmax(-1)
        for averaged in (1, SMOOTHING):
            mean = smoothed(p, averaged)
            found = flickers(mean, threshold) | {"confidence": mean.amax(-1).mean().item()}
            rows.append({"photograph": image.id, "averaged": averaged, **found})
        if progress:
            progress(done, None)
    if not rows:
        raise ImageError(f"no photograph is large enough: {refused or 'there is none'}")
    return pd.DataFrame(rows)
