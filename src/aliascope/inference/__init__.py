"""A network as it is, asked otherwise: rivals of repair, which cost little and train nothing.

They are modules whose input is a frame larger than what the network takes, or as large. At the end
of a model spec they go around what stands before it: `efficientnet_lite0@crop-selection`,
`…@ideal@shift-average`.

crop-selection             the window that the content picks, to a fraction of a pixel
crop-selection:laplacian   by the strongest Laplacian response, to whole pixels
crop-selection:circular    the same as the first, of the picture rolled: exact under circular shifts
shift-average              the mean of the logits of four windows, half a sample of the stem apart
frame:192                  the same picture at a side of so many pixels: what pays for a repair
"""

from dataclasses import replace

from torch import nn

from aliascope.errors import ModelError
from aliascope.images.preprocessing import Preprocessing, channels_of
from aliascope.inference.averaging import ShiftAverage, half_phases
from aliascope.inference.frame import SmallerFrame
from aliascope.inference.selection import REACH, CropSelection, Score

__all__ = [
    "WRAPPERS",
    "CropSelection",
    "ShiftAverage",
    "SmallerFrame",
    "around",
    "is_wrapper",
    "seen_by",
]

WRAPPERS = ("crop-selection", "shift-average", "frame")
_SELECTIONS: dict[str, tuple[Score, bool]] = {
    "": ("corners", False),
    "laplacian": ("laplacian", False),
    "circular": ("corners", True),
}
MARGIN = 15
"""Pixels by which a window leaves the middle, at most; fewer where the crop leaves fewer."""


def is_wrapper(text: str) -> bool:
    """Whether the end of a spec names a wrapper.

    >>> is_wrapper("crop-selection:laplacian"), is_wrapper("blurpool:3")
    (True, False)
    """
    return text.partition(":")[0] in WRAPPERS


def seen_by(text: str, crop: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns that a network sees within a wrapper, of the crop that was its own.

    Raises:
        ModelError: a frame that is no smaller than the crop.

    >>> seen_by("frame:192", (224, 224)), seen_by("shift-average", (224, 224))
    ((192, 192), (224, 224))
    """
    name, _, side = text.partition(":")
    if name != "frame":
        return crop
    if not side.isdecimal() or not 0 < int(side) < max(crop):
        raise ModelError(
            f"frame takes the longer side of a smaller picture in pixels, below {max(crop)}, such "
            f"as frame:{round(max(crop) * 6 / 7)}; got {text!r}"
        )
    rows, columns = (max(round(x * int(side) / max(crop)), 1) for x in crop)
    return rows, columns


def around(
    module: nn.Module, preprocessing: Preprocessing, text: str
) -> tuple[nn.Module, Preprocessing]:
    """A wrapper around a network, and the transform to the frame that it takes.

    The resize stays, so that the network sees each thing as large as it did; only the crop grows,
    and leaves a pixel on each side for crop shifts.

    Args:
        module: the network; it is not copied.
        preprocessing: its own.
        text: the wrapper's name, and after a colon what it goes by.

    Raises:
        ModelError: no such wrapper, or the resized picture has too few pixels around the crop.

    >>> from aliascope.images.preprocessing import IMAGENET_EVALUATION
    >>> around(nn.Conv2d(3, 8, 3), IMAGENET_EVALUATION, "crop-selection")[1].crop
    (254, 254)
    """
    name, _, option = text.partition(":")
    if name == "frame":
        crop = preprocessing.crop
        return SmallerFrame(module, crop, seen_by(text, crop)), preprocessing
    if name == "shift-average" and not option:
        offsets = half_phases(module, channels_of(module), preprocessing.crop)
        more = max(max(offset) for offset in offsets)
        _check(text, preprocessing, (more + 1) // 2)
        frame = _larger(preprocessing, more)
        return ShiftAverage(module, preprocessing.crop, offsets), frame
    if name != "crop-selection" or option not in _SELECTIONS:
        known = ", ".join([*(f"crop-selection:{x}" for x in _SELECTIONS if x), *WRAPPERS])
        raise ModelError(f"no wrapper {text!r}; choose from {known}")
    score, circular = _SELECTIONS[option]
    margin = 0 if circular else min(preprocessing.room - 1, MARGIN)
    if not circular:
        _check(text, preprocessing, REACH + 1)
    selection = CropSelection(module, preprocessing.crop, margin, score=score, circular=circular)
    return selection, _larger(preprocessing, 2 * margin)


def _check(text: str, preprocessing: Preprocessing, least: int) -> None:
    if preprocessing.room <= least:
        raise ModelError(
            f"{text} needs {least + 1} pixels on each side of the crop, and {preprocessing.crop} is"
            f" cut out of {preprocessing.resize}: choose crop-selection:circular, or another model"
        )


def _larger(preprocessing: Preprocessing, more: int) -> Preprocessing:
    rows, columns = preprocessing.crop
    return replace(preprocessing, crop=(rows + more, columns + more))
