"""From a decoded picture to what a network takes: a record of the steps, and the steps."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from aliascope.errors import ModelError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """An evaluation transform: resize (with antialiasing), centre crop, normalise."""

    resize: tuple[int, ...]
    """(short side,) keeps the aspect ratio; (rows, columns) does not."""
    crop: tuple[int, int]
    """Rows, columns of what the network takes."""
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    margin: int = 0
    """Pixels kept on each side of the crop, for windows that move."""

    def __call__(
        self, pixels: Float[Tensor, "chan height width"]
    ) -> Float[Tensor, "chan crop_height crop_width"]:
        """Pixels in [0, 1] to the network's input, still to be normalised."""
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        mode = InterpolationMode(self.interpolation)
        size = list(self.resize)
        # Bicubic overshoots; a picture cannot.
        pixels = functional.resize(pixels, size, interpolation=mode, antialias=True).clamp(0, 1)
        if self.margin:
            # Of the widened crop the middle could come out a pixel off, where a side is odd.
            (height, width), (rows, columns) = pixels.shape[-2:], self.crop
            top, left = round((height - rows) / 2), round((width - columns) / 2)
            margin = self.margin
            size = (rows + 2 * margin, columns + 2 * margin)
            return functional.crop(pixels, top - margin, left - margin, *size)
        return functional.center_crop(pixels, list(self.crop))

    def normalise(
        self, images: Float[Tensor, "batch chan height width"]
    ) -> Float[Tensor, "batch chan height width"]:
        """(x − mean) / std per channel, on the device where the batch lies."""
        mean, std = (torch.tensor(v, device=images.device) for v in (self.mean, self.std))
        return (images - mean[:, None, None]) / std[:, None, None]

    def widened(self, margin: int) -> "Preprocessing":
        """The same crop with so many pixels more on each side.

        Raises:
            ModelError: the resized picture has no such pixels.
        """
        pairs = zip(self.crop, self.resize * 2, strict=False)
        if any(have < side + 2 * margin for side, have in pairs):
            raise ModelError(
                f"crop shifts need {margin} pixel around the crop, but {self.crop} is cut out of "
                f"{self.resize}: choose circular shifts, or a preprocessing with a larger resize"
            )
        return replace(self, margin=margin)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `run.json`."""
        return asdict(self)


RESIZE_224 = Preprocessing(resize=(224, 224), crop=(224, 224))
"""As in the published study: Resize((224, 224), bilinear, antialias), ImageNet statistics."""


def from_timm(config: Mapping[str, Any]) -> Preprocessing:
    """The evaluation transform of a timm data configuration.

    Raises:
        ModelError: a crop mode other than centre or squash.
    """
    height, width = config["input_size"][-2:]
    resize = tuple(math.floor(side / config["crop_pct"]) for side in (height, width))
    if config["crop_mode"] not in ("center", "squash"):
        raise ModelError(
            f"the model asks for crop mode {config['crop_mode']!r}, which is not supported; "
            "choose --preprocess resize224"
        )
    keep_aspect = config["crop_mode"] == "center" and height == width
    return Preprocessing(
        resize=resize[:1] if keep_aspect else resize,
        crop=(height, width),
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def from_torchvision(preset: Any) -> Preprocessing:
    """The evaluation transform of a torchvision weight's `transforms()`."""
    side = preset.crop_size[0]
    return Preprocessing(
        resize=tuple(preset.resize_size),
        crop=(side, side),
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )
