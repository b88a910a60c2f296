"""From a decoded picture to what a network takes: a record of the steps, and the steps."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from aliascope.errors import ImageError, ModelError
from aliascope.images import MAX_PIXELS
from aliascope.shifts import ONE_PIXEL, Border, Shift, cropped_views, largest, windows

PreprocessingName = Literal["model", "resize224"]
"""The model's own evaluation transform, or `RESIZE_224`."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

INTERPOLATIONS = tuple(method.name.lower() for method in PIL.Image.Resampling)
"""Those of Pillow, which timm and torchvision resize with."""

_LUMA = (0.299, 0.587, 0.114)
"""Of R, G and B in a grey picture, as Pillow converts them (ITU-R BT.601)."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""

AS_CROP = "no larger than the network's frame: moved by one of the network's pixels"
"""Note of a picture under native shifts that the resize does not shrink."""

INTERPOLATED = "no larger than the network's frame: interpolated in every view, the unshifted too"
"""Note of a picture under half shifts that the resize does not shrink."""


@dataclass(frozen=True)
class Preprocessing:
    """An evaluation transform: resize (with antialiasing), centre crop, normalise.

    Raises:
        ModelError: a value that no transform can have.

    >>> Preprocessing(resize=(256,), crop=(224, 224))(torch.zeros(3, 300, 400)).shape
    torch.Size([3, 224, 224])
    """

    resize: tuple[int, ...]
    """(short side,) keeps the aspect ratio; (rows, columns) does not."""
    crop: tuple[int, int]
    """Rows, columns of what the network takes."""
    interpolation: str = "bilinear"
    """One of `INTERPOLATIONS`."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    margin: int = 0
    """Pixels kept on each side of the crop, for windows that move."""
    assumed: bool = field(default=False, compare=False)
    """Whether this is the usual one, because the network came without a transform of its own."""
    grey: bool = False
    """Whether `normalise` turns pictures to grey, for a network of one channel."""

    def __post_init__(self) -> None:
        sides = {"crop": self.crop, "resize": self.resize}
        for name, value in sides.items():
            counted = len(value) == 2 or (len(value), name) == (1, "resize")
            if not counted or min(value) < 1 or math.prod(value) > MAX_PIXELS:
                raise ModelError(f"{name} {value} is no size; give pixels, such as (224, 224)")
        if self.interpolation not in INTERPOLATIONS:
            known = ", ".join(INTERPOLATIONS)
            raise ModelError(f"no interpolation {self.interpolation!r}; choose from {known}")
        for name, value in {"mean": self.mean, "std": self.std}.items():
            low = 0 if name == "mean" else 1e-6
            if len(value) not in {1, 3} or not all(low <= number <= 1 for number in value):
                raise ModelError(
                    f"{name} {value} does not fit pixels in [0, 1]; give three numbers for R, G "
                    "and B (those for 0 to 255, divided by 255)"
                )

    def __call__(
        self,
        pixels: UInt8[Tensor, "chan height width"] | Float[Tensor, "chan height width"],
        *,
        box: Box | None = None,
    ) -> Float[Tensor, "chan crop_height crop_width"]:
        """Pixels, 8-bit or in [0, 1], to the network's input in [0, 1], still to be normalised.

        Resized as timm and torchvision do it, by Pillow: 8-bit pixels are rounded and clipped
        between its two passes. (torch's own 8-bit resize is up to two grey levels off.)

        Args:
            pixels: a picture as decoded.
            box: the part of it that is resized, in its pixels and their fractions; by default all.
                What lies around it is read where the filter reaches beyond.

        Raises:
            ImageError: the resized picture would be too large to hold.
        """
        size = self.resized(*pixels.shape[-2:])
        if math.prod(size) > MAX_PIXELS:
            shape = f"{size[0]:,} × {size[1]:,} pixels"
            limit = f"the {MAX_PIXELS:,} allowed"
            raise ImageError(f"would be resized to {shape}, more than {limit}; cut it")
        # Band by band: each is cropped before the next one is resized.
        bands = (_resize(band, size, self.interpolation, box) for band in pixels)
        cut = torch.stack([self._cropped(band) for band in bands])
        # Bicubic overshoots; a picture cannot.
        return cut.float() / 255 if cut.dtype == torch.uint8 else cut.clamp(0, 1)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of such a picture when it is resized, before the crop.

        >>> Preprocessing(resize=(256,), crop=(224, 224)).resized(300, 451)
        (256, 384)
        """
        if len(self.resize) == 2:
            return self.resize[0], self.resize[1]
        side = self.resize[0]
        if width <= height:
            return side * height // width, side
        return side, side * width // height

    def _cropped(self, band: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional

        if not self.margin:
            return functional.center_crop(band[None], list(self.crop))[0]
        # Of the widened crop the middle could come out a pixel off, where a side is odd.
        (height, width), (rows, columns), margin = band.shape, self.crop, self.margin
        top, left = round((height - rows) / 2) - margin, round((width - columns) / 2) - margin
        return band[top : top + rows + 2 * margin, left : left + columns + 2 * margin]

    def normalise(
        self, images: Float[Tensor, "batch chan height width"]
    ) -> Float[Tensor, "batch taken height width"]:
        """(x − mean) / std per channel, on the device where the batch lies; of grey where asked."""
        if self.grey:
            images = torch.einsum("bchw,c->bhw", images, images.new_tensor(_LUMA)).unsqueeze(1)
        mean, std = (torch.tensor(v, device=images.device) for v in (self.mean, self.std))
        return (images - mean[:, None, None]) / std[:, None, None]

    @property
    def room(self) -> int:
        """Pixels that a resized picture surely has on each side of the crop."""
        pairs = zip(self.crop, self.resize * 2, strict=False)
        return max(min((have - side) // 2 for side, have in pairs), 0)

    def widened(self, margin: int) -> "Preprocessing":
        """The same crop with so many pixels more on each side.

        Raises:
            ModelError: the resized picture has no such pixels.
        """
        if self.room < margin:
            raise ModelError(
                f"crop shifts need {margin} pixel around the crop, but {self.crop} is cut out of "
                f"{self.resize}: choose circular shifts, or a preprocessing with a larger resize"
            )
        return replace(self, margin=margin)

    def roomy(self, margin: int) -> "Preprocessing":
        """The same crop, of a picture that is resized to have so many pixels more on each side.

        >>> RESIZE_224.roomy(1).resize
        (226, 226)
        """
        least = [side + 2 * margin for side in self.crop]
        wanted = least if len(self.resize) == 2 else [max(least)]
        return replace(self, resize=tuple(map(max, self.resize, wanted)))

    def for_channels(self, channels: int) -> "Preprocessing":
        """The same for a network of 1 or 3 channels: for one, grey, by the means of mean and std.

        >>> RESIZE_224.for_channels(1).normalise(torch.zeros(1, 3, 2, 2)).shape
        torch.Size([1, 1, 2, 2])
        """
        if channels != 1 or self.grey:
            return self
        mean, std = ((sum(values) / len(values),) for values in (self.mean, self.std))
        return replace(self, mean=mean, std=std, grey=True)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `run.json`: all that decides the pixels, beside the network."""
        values = asdict(self)
        del values["assumed"], values["grey"]
        return values

    @property
    def notice(self) -> str:
        """What a user must be told of it: that it is only assumed; "" where the network said so."""
        if not self.assumed:
            return ""
        size = " × ".join(map(str, self.resize))
        return (
            f"the network says nothing of its preprocessing, so ImageNet's usual one is assumed "
            f"(resize {size}, crop {self.crop[0]} × {self.crop[1]}, {self.interpolation}, ImageNet "
            "mean and std): give its own with preprocess=Preprocessing(…), or with --size, "
            "--resize, --interpolation, --mean and --std"
        )


def _resize(band: Tensor, size: tuple[int, int], interpolation: str, box: Box | None) -> Tensor:
    if tuple(band.shape) == size and box is None:
        return band
    method = PIL.Image.Resampling[interpolation.upper()]
    plane = PIL.Image.fromarray(band.cpu().numpy())  # of mode L, or F for floats
    return torch.from_numpy(np.array(plane.resize((size[1], size[0]), method, box=box)))


def native_views(
    preprocessing: Preprocessing,
    pixels: UInt8[Tensor, "chan height width"] | Float[Tensor, "chan height width"],
    plan: Sequence[Shift] = ONE_PIXEL,
) -> tuple[Float[Tensor, "views chan rows columns"], str]:
    """One photograph, unshifted and under each shift by pixels of its own, ready for the network.

    The window that moves is the photograph without a border as wide as the largest shift. Each
    window goes through the same preprocessing, so nothing is interpolated that would not be anyway,
    and a photograph that is shrunk n-fold moves by 1/n of the network's pixels. One that is not
    shrunk moves by whole pixels of the network (`cropped_views`) instead.

    Args:
        preprocessing: not widened.
        pixels: as decoded.
        plan: the shifts, in pixels of the photograph.

    Returns:
        1 + S views in [0, 1], the unshifted one first; and a note, "" or `AS_CROP`.

    Raises:
        ImageError: it is not shrunk, and the crop leaves no border to move over; or it is too
            large.

    >>> views, note = native_views(RESIZE_224, torch.rand(3, 300, 400))
    >>> views.shape, note
    (torch.Size([5, 3, 224, 224]), '')
    """
    margin = largest(plan)
    if _shrunk(preprocessing, pixels, margin):
        return torch.stack([preprocessing(window) for window in windows(pixels, plan)]), ""
    try:
        wide = preprocessing.widened(margin)
    except ModelError:
        raise ImageError(
            f"is not larger than the network's frame {preprocessing.resize}, and its crop takes "
            "all of that, so the picture cannot move; choose circular shifts"
        ) from None
    return cropped_views(wide(pixels)[None], plan), AS_CROP


def half_views(
    preprocessing: Preprocessing,
    pixels: UInt8[Tensor, "chan height width"] | Float[Tensor, "chan height width"],
    plan: Sequence[Shift] = ONE_PIXEL,
) -> tuple[Float[Tensor, "views chan rows columns"], str]:
    """One photograph, unshifted and moved by half of the network's pixels for each of the plan's.

    The box that is resized moves over the photograph, by s/2 of its pixels, s of which make one of
    the network's: s = H / (R + w) for H rows resized to R and a plan of w pixels at most, so that
    all boxes lie within. Each goes through the same filter of the same width, the unshifted one
    too, so that no view is smoother than another.

    Args:
        preprocessing: not widened.
        pixels: as decoded.
        plan: the shifts, in halves of the network's pixels.

    Returns:
        1 + S views in [0, 1], the unshifted one first; and a note, "" or `INTERPOLATED`.

    Raises:
        ImageError: it is too large.

    >>> half_views(RESIZE_224, torch.rand(3, 450, 450))[0].shape
    torch.Size([5, 3, 224, 224])
    """
    height, width = pixels.shape[-2:]
    rows, columns = preprocessing.resized(height, width)
    margin = largest(plan)
    down, right = height / (rows + margin), width / (columns + margin)

    def box(shift: Shift) -> Box:
        top, left = down * (margin - shift.rows) / 2, right * (margin - shift.columns) / 2
        far = min(left + right * columns, float(width)), min(top + down * rows, float(height))
        return left, top, *far

    views = [preprocessing(pixels, box=box(shift)) for shift in (Shift("none", 0, 0), *plan)]
    return torch.stack(views), "" if min(down, right) > 1 else INTERPOLATED


def _shrunk(preprocessing: Preprocessing, pixels: Tensor, margin: int) -> bool:
    """Whether the resize makes the picture smaller, without so many pixels on each side."""
    height, width = (side - 2 * margin for side in pixels.shape[-2:])
    if min(height, width) < 1:
        return False
    rows, columns = preprocessing.resized(height, width)
    return rows < height and columns < width


def possible_shifts(
    asked: Sequence[Border], preprocessing: Preprocessing, pictures: Iterable[Tensor]
) -> tuple[tuple[Border, ...], str]:
    """Those of the asked shifts that are different ones here, and why others are left out, or "".

    Args:
        asked: the leading ones first.
        preprocessing: not widened.
        pictures: (C, H, W) as decoded; looked at no further than the first that is shrunk.

    >>> possible_shifts(("crop", "native"), RESIZE_224, [])[0]
    ('circular',)
    """
    if not preprocessing.room:
        if tuple(asked) == ("circular",):
            return ("circular",), ""
        return ("circular",), (
            "the crop takes all of the resized picture: no shifts but circular ones, which tear "
            "the border and flatter a repair"
        )
    if {"native", "crop"} <= {*asked} and not any(_shrunk(preprocessing, x, 1) for x in pictures):
        return tuple(shifts for shifts in asked if shifts != "native"), (
            "no picture is larger than the network's frame: native shifts are crop shifts, and not "
            "measured again"
        )
    return tuple(asked), ""


RESIZE_224 = Preprocessing(resize=(224, 224), crop=(224, 224))
"""As in the published study: Resize((224, 224), bilinear, antialias), ImageNet statistics."""


IMAGENET_EVALUATION = Preprocessing(resize=(256,), crop=(224, 224))


def preprocessing_of(module: Any) -> Preprocessing:
    """The evaluation transform that a network of timm's names, or the usual one, assumed."""
    if not getattr(module, "pretrained_cfg", None):
        return replace(IMAGENET_EVALUATION, assumed=True)
    from timm.data.config import resolve_model_data_config

    return from_timm(resolve_model_data_config(module))


def channels_of(module: nn.Module) -> int:
    """Of the images that a network takes: 1, grey, if its first convolution takes one; else 3."""
    convolutions = (part for part in module.modules() if isinstance(part, nn.Conv2d))
    first = next(convolutions, None)
    return 1 if first is not None and first.in_channels == 1 else 3


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
    """The evaluation transform of a torchvision weight's `transforms()`.

    Segmentation crops nothing; pictures of one size are wanted here: the square in the middle.
    """
    side = getattr(preset, "crop_size", preset.resize_size)[0]
    return Preprocessing(
        resize=tuple(preset.resize_size),
        crop=(side, side),
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def for_detector(module: nn.Module) -> Preprocessing:
    """What a torchvision detector is to be shown, which resizes and normalises by itself.

    It takes pictures of any size, and here they have one: that to which it would resize, all of the
    picture where it does not keep the aspect ratio, else the square in the middle.

    >>> from torchvision.models.detection.transform import GeneralizedRCNNTransform
    >>> own = GeneralizedRCNNTransform(800, 1333, [0.0], [1.0])
    >>> for_detector(nn.ModuleDict({"transform": own})).resize
    (800,)
    """
    own: Any = module.get_submodule("transform")
    squashed: tuple[int, int] | None = own.fixed_size
    side = own.min_size[-1]
    return Preprocessing(squashed or (side,), squashed or (side, side), mean=(0.0,), std=(1.0,))


def crop_of(
    preprocess: PreprocessingName | Preprocessing, size: str | None = None
) -> tuple[int, int] | None:
    """Rows and columns that a network is to take; None where that is its own affair.

    Args:
        preprocess: a transform, or its name.
        size: what stands in place of its crop, as for `customised`.

    Raises:
        ModelError: `size` cannot be read.

    >>> crop_of("model"), crop_of("resize224"), crop_of("model", "32x40")
    (None, (224, 224), (32, 40))
    """
    if size is not None:
        return _crop(size)
    if isinstance(preprocess, Preprocessing):
        return preprocess.crop
    return RESIZE_224.crop if preprocess == "resize224" else None


def customised(
    base: Preprocessing,
    *,
    size: str | None = None,
    resize: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    interpolation: str | None = None,
) -> Preprocessing:
    """A transform with some of its values replaced, as the command line gives them.

    Args:
        base: what stands where nothing is given.
        size: rows and columns that the network takes, "224" or "288x224". The resize keeps its
            ratio to it, unless it is given too.
        resize: "256" for the short side, "256x256" for rows and columns.
        mean: of R, G and B in [0, 1], "0.485,0.456,0.406", or one number for all.
        std: likewise.
        interpolation: one of `INTERPOLATIONS`.

    Raises:
        ModelError: a value cannot be read or used.

    >>> customised(RESIZE_224, size="160", mean="0.5").to_dict()["resize"]
    (160, 160)
    """
    values: dict[str, Any] = {}
    if size is not None:
        values["crop"] = crop = _crop(size)
        values["resize"] = _scaled(base, crop)
    if resize is not None:
        values["resize"] = _whole("--resize", resize)
    for name, text in {"mean": mean, "std": std}.items():
        if text is not None:
            values[name] = _numbers(f"--{name}", text)
    if interpolation is not None:
        values["interpolation"] = interpolation
    changed = replace(base, **values, assumed=base.assumed and not values)
    pairs = zip(changed.crop, changed.resize * 2, strict=False)
    if "resize" in values and any(side > have for side, have in pairs):
        raise ModelError(
            f"a resize to {changed.resize} leaves nothing around a crop of {changed.crop} and less "
            "than it needs; give a larger --resize, or a smaller --size"
        )
    return changed


def _scaled(base: Preprocessing, crop: tuple[int, ...]) -> tuple[int, ...]:
    """The resize that stands to a crop as that of the base does to its own."""
    ratios = [new / old for new, old in zip(crop, base.crop, strict=True)]
    if len(base.resize) == 1:
        return (math.floor(base.resize[0] * max(ratios)),)
    return tuple(math.floor(s * ratio) for s, ratio in zip(base.resize, ratios, strict=True))


def _crop(size: str) -> tuple[int, int]:
    rows, columns, *_ = _whole("--size", size) * 2
    return rows, columns


def _whole(option: str, text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d{1,9}([x×]\d{1,9})?", text, re.ASCII):
        raise ModelError(f"{option} {text!r} is no size in pixels; write 224, or 288x224")
    return tuple(int(part) for part in re.split("[x×]", text))


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in {1, 3}:
        wrong = f"{option} {text!r} is not one number nor three"
        raise ModelError(f"{wrong}; write it as 0.5 or 0.485,0.456,0.406")
    return numbers * (3 // len(numbers))
