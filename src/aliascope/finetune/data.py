"""Pictures for training: kept small in memory, cut at random; which ones, the step decides."""

import math
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from aliascope.errors import ImageError
from aliascope.images import Entry, Loaded, batches, in_threads
from aliascope.images.preprocessing import Preprocessing

_LOG_RATIO = math.log(4 / 3)
"""Largest for the sides of a crop, as everywhere since Inception."""

_SPLIT, _ORDER, _VIEW, _MIXTURE = 1, 2, 3, 4
"""What a random number is for; each use has a stream of its own."""


class Photos:
    """Pictures by their number, decoded when first asked for and kept as 8-bit values.

    Args:
        entries: all of them, none decoded.
        short_side: longer short sides are shrunk to it before a picture is kept.
        cache_bytes: what may be kept; the rest is decoded again each time, to the same pixels.
    """

    def __init__(self, entries: Sequence[Entry], short_side: int, cache_bytes: int | float) -> None:
        self.entries = entries
        self.unreadable: dict[str, str] = {}
        """Id → reason."""
        self._short_side = short_side
        self._left = cache_bytes
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 height width"] | None:
        """The picture, or None if it cannot be read. Safe to call in a thread."""
        if index in self._kept:
            return self._kept[index]
        try:
            decoded, _ = self.entries[index].load()
        except ImageError as error:
            self.unreadable[self.entries[index].id] = str(error)
            return None
        deep = decoded.is_floating_point()
        pixels = _shrunk((decoded * 255).round().byte() if deep else decoded, self._short_side)
        if self._left >= pixels.numel():
            self._left -= pixels.numel()
            self._kept[index] = pixels
        return pixels


class Views(NamedTuple):
    """The views of one step, before they are numbers: a quarter of the bytes to move."""

    pixels: UInt8[Tensor, "batch 3 height width"]
    kept: Float[np.ndarray, " batch"]
    """λ of `mixed` for each."""

    def on(self, device: torch.device) -> Float[Tensor, "batch 3 height width"]:
        """Values in [0, 1], mixed where they are used."""
        return mixed(self.pixels.to(device).float() / 255, self.kept)


class Cut(NamedTuple):
    """How a training view is cut out of a picture."""

    size: tuple[int, int]
    """Rows, columns of the view."""
    scale: tuple[float, float]
    """Smallest and largest share of the picture's area."""
    flip: bool
    interpolation: str


def order(count: int, seed: int, step: int, batch_size: int) -> list[int]:
    """The pictures of one step: every epoch is a permutation of all, batches straddle epochs.

    >>> sorted(order(4, 0, 0, 2) + order(4, 0, 1, 2))
    [0, 1, 2, 3]
    """
    places = range(step * batch_size, (step + 1) * batch_size)
    epochs = {place // count for place in places}
    shuffled = {epoch: _random(_ORDER, seed, epoch).permutation(count) for epoch in epochs}
    return [int(shuffled[place // count][place % count]) for place in places]


def views(
    photos: Photos,
    cut_at: Callable[[int], Cut],
    steps: range,
    *,
    seed: int,
    batch_size: int,
    mixup: int | float = 0,
    threads: int | None = None,
) -> Generator[Views, None, None]:
    """A batch of views for each step, made in threads two batches ahead.

    A view is a function of (seed, step, place in the batch), of nothing else; that share of them is
    mixed with the next one. Pictures that cannot be read are left out; of a batch of such, the next
    one that can be takes their place.

    Raises:
        ImageError: no picture can be read.
    """
    places = (
        (step, place, index)
        for step in steps
        for place, index in enumerate(order(len(photos), seed, step, batch_size))
    )

    def make(item: tuple[int, int, int]) -> Tensor | None:
        *moment, index = item
        pixels = photos[index]
        cut = cut_at(item[0])
        return None if pixels is None else view(pixels, cut, _random(_VIEW, seed, *moment))

    made = in_threads(make, places, ahead=lambda: 2 * batch_size, threads=threads)
    for step in steps:
        readable = [one for one in islice(made, batch_size) if one is not None]
        if not readable:
            first = order(len(photos), seed, step, batch_size)[0]
            readable = [view(_next(photos, first), cut_at(step), _random(_VIEW, seed, step, 0))]
        kept = weights(len(readable), mixup, _random(_MIXTURE, seed, step))
        yield Views(torch.stack(readable), kept)


def _next(photos: Photos, index: int) -> UInt8[Tensor, "3 height width"]:
    """The first picture behind that one that can be read."""
    for place in range(1, len(photos)):
        pixels = photos[(index + place) % len(photos)]
        if pixels is not None:
            return pixels
    name, reason = next(iter(photos.unreadable.items()))
    raise ImageError(f"no image can be read; {name}: {reason}")


def view(
    pixels: UInt8[Tensor, "3 height width"], cut: Cut, rng: np.random.Generator
) -> UInt8[Tensor, "3 rows columns"]:
    """A random crop, resized with antialiasing, mirrored every second time."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    top, left, height, width = box(pixels.shape[1], pixels.shape[2], cut.scale, rng)
    crop = pixels[:, top : top + height, left : left + width]
    mode = InterpolationMode(cut.interpolation)
    resized = functional.resize(crop, list(cut.size), interpolation=mode, antialias=True)
    mirrored = cut.flip and rng.random() < 0.5
    return resized.flip(-1) if mirrored else resized


def weights(
    count: int, share: int | float, rng: np.random.Generator
) -> Float[np.ndarray, " batch"]:
    """λ of a mixture: of that share of the views uniform on [½, 1], of the others 1."""
    return np.where(rng.random(count) < share, rng.uniform(0.5, 1, count), 1)


def mixed(
    views: Float[Tensor, "batch 3 height width"], kept: Float[np.ndarray, " batch"]
) -> Float[Tensor, "batch 3 height width"]:
    """λ x + (1 − λ) x′, x′ the next one of the batch.

    Source: Zhang et al. 2018, mixup (arXiv 1710.09412); for distillation, where the teacher judges
        the mixture, Beyer et al. 2022, A good teacher is patient and consistent (arXiv 2106.05237).
    """
    weight = torch.from_numpy(kept).to(views).view(-1, 1, 1, 1)
    return views.roll(-1, 0).lerp(views, weight)


def box(
    height: int, width: int, scale: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop of random area and shape.

    Source: Szegedy et al. 2015, Going Deeper with Convolutions (arXiv 1409.4842), section 6.
    """
    for _ in range(10):
        area = height * width * rng.uniform(scale[0], scale[1])
        ratio = math.exp(rng.uniform(-_LOG_RATIO, _LOG_RATIO))
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < rows <= height and 0 < columns <= width:
            break
    else:
        rows = columns = min(height, width)
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    return int(top), int(left), rows, columns


def split(entries: Sequence[Entry], held_out: int, seed: int) -> tuple[list[Entry], list[Entry]]:
    """Training and held-out pictures; crops of one photograph stay together.

    Raises:
        ImageError: nothing would be left to train on.
    """
    groups = sorted({entry.group for entry in entries})
    sizes = Counter(entry.group for entry in entries)
    chosen: set[str] = set()
    for place in _random(_SPLIT, seed).permutation(len(groups)):
        if sum(sizes[group] for group in chosen) >= held_out:
            break
        chosen.add(groups[place])
    training = [entry for entry in entries if entry.group not in chosen]
    if not training:
        raise ImageError(
            f"holding out {held_out} of {len(entries)} images leaves none to train on; "
            "give more images, or a smaller holdout"
        )
    return training, [entry for entry in entries if entry.group in chosen]


def readable_batches(
    entries: Iterable[Entry], preprocessing: Preprocessing, batch_size: int
) -> Iterator[tuple[list[Loaded], Float[Tensor, "batch chan height width"]]]:
    """Preprocessed pictures in [0, 1], decoded ahead; those that cannot be read are left out.

    Raises:
        ImageError: none can be read.
    """
    reason, some = "it yielded none", False
    for readable, others in batches(entries, preprocessing, lambda: batch_size):
        reason = next((item.note for item in others), reason)
        if readable:
            some = True
            yield (
                readable,
                torch.stack([x for x in (item.pixels for item in readable) if x is not None]),
            )
    if not some:
        raise ImageError(f"no image of the source can be used: {reason}")


def _random(use: int, *moment: int) -> np.random.Generator:
    return np.random.default_rng((use, *moment))


def _shrunk(pixels: Tensor, short_side: int) -> Tensor:
    from torchvision.transforms.v2 import functional

    if min(pixels.shape[1:]) <= short_side:
        return pixels
    return functional.resize(pixels, [short_side], antialias=True).contiguous()
