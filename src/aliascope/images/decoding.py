"""From a file, its bytes, a PIL image or a tensor to RGB. Decoding happens only here."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from aliascope.errors import ImageError

Decoded = tuple[UInt8[Tensor, "3 height width"] | Float[Tensor, "3 height width"], str]
"""RGB pixels, uint8 or in [0, 1], and a note of what was converted to get them, "" for nothing."""

MAX_PIXELS = 100_000_000
"""Larger pictures are refused before they are decoded: a small file can unpack to gigabytes."""

_NOT_PIXELS = {"EPS", "PDF", "PALM", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}
"""Left out: EPS starts Ghostscript on a stranger's file; Pillow cannot decode the others."""

_NOTES = {"RGB": "", "RGBA": "", "L": "greyscale", "LA": "greyscale", "1": "1-bit"}
_NOTES |= {"P": "palette", "PA": "palette"}


def decode(file: Path | bytes) -> Decoded:
    """Decode one picture of any format that Pillow reads, as timm and torchvision evaluate it.

    8-bit values as they are, 16-bit grey / 65535; the first frame of several; alpha dropped, not
    blended; rotation by EXIF ignored.

    Args:
        file: its path or its contents.

    Returns:
        RGB pixels, contiguous (3, H, W), uint8 or, of a deeper file, float in [0, 1]; and a note of
        what was converted.

    Raises:
        ImageError: it is unreadable, too large or out of range; the sentence leaves out its name.
    """
    stream = BytesIO(file) if isinstance(file, bytes) else file
    # Hostile bytes make Pillow's many decoders raise nearly anything.
    with explained("cannot be decoded", Exception):
        try:
            picture = PIL.Image.open(stream, formats=_formats())
        except PIL.UnidentifiedImageError:
            raise ImageError("is in no format that Pillow reads; save it as PNG or JPEG") from None
        with picture:
            return _from_pil(picture)


def convert(picture: Any) -> Decoded:
    """Convert the picture of a data set's item: a PIL image, or a tensor (3 or 1, H, W).

    Args:
        picture: tensors are uint8, or lie in [0, 1].

    Raises:
        ImageError: it is neither, or out of range.

    >>> convert(torch.full((1, 1, 1), 0.2))
    (tensor([[[0.2000]], [[0.2000]], [[0.2000]]]), 'greyscale')
    """
    if isinstance(picture, PIL.Image.Image):
        with explained("cannot be decoded", Exception):
            return _from_pil(picture)
    shape = tuple(getattr(picture, "shape", ()))
    if not isinstance(picture, Tensor) or len(shape) != 3 or shape[0] not in {1, 3} or 0 in shape:
        what = f"{type(picture).__name__} {shape}"
        raise ImageError(f"is a {what}; give a PIL image or a tensor (3, H, W)")
    pixels = picture if picture.dtype == torch.uint8 else _in_range(picture.float())
    return pixels.expand(3, -1, -1).contiguous(), "greyscale" if shape[0] == 1 else ""


@contextmanager
def explained(sentence: str, *expected: type[Exception]) -> Iterator[None]:
    """Turn the expected errors into an ImageError: the sentence, with the cause in brackets."""
    try:
        yield
    except ImageError:
        raise
    except expected as error:
        cause = getattr(error, "strerror", None) or next(iter(error.args), "") or type(error)
        raise ImageError(f"{sentence} ({' '.join(str(cause).split())})") from error


@cache
def extensions() -> set[str]:
    """Endings of the files that can be decoded, lower case, with the dot."""
    known = PIL.Image.registered_extensions()
    return {ending for ending, name in known.items() if name not in _NOT_PIXELS}


@cache
def _formats() -> list[str]:
    PIL.Image.init()
    return [name for name in PIL.Image.OPEN if name not in _NOT_PIXELS]


def _from_pil(picture: PIL.Image.Image) -> Decoded:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        size = f"{width:,} × {height:,} pixels"
        raise ImageError(f"its {size} are more than the {MAX_PIXELS:,} allowed; shrink it")
    frames = getattr(picture, "n_frames", 1)
    if picture.mode[0] in "IF":  # I;16, I;16B, I, F: a single deep channel
        kind, scale = ("floating-point", 1) if picture.mode == "F" else ("16-bit", 65535)
        grey = torch.from_numpy(np.asarray(picture).astype(np.float32))
        pixels, notes = _in_range(grey / scale).expand(3, -1, -1), [f"{kind} greyscale"]
    else:
        rgb = torch.from_numpy(np.array(picture.convert("RGB")))
        pixels = rgb.permute(2, 0, 1)
        alpha = "alpha dropped" if picture.has_transparency_data else ""
        notes = [_NOTES.get(picture.mode, picture.mode), alpha]
    notes = [f"first of {frames} frames" if frames > 1 else "", *notes]
    return pixels.contiguous(), ", ".join(filter(None, notes))


def _in_range(pixels: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    low, high = (bound.item() for bound in pixels.aminmax())
    if not 0 <= low <= high <= 1:  # NaN fails too
        raise ImageError(f"has values from {low:.4g} to {high:.4g}; scale them to [0, 1]")
    return pixels
