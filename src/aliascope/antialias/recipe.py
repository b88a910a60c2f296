"""What a conversion was asked to do, as arguments and as the end of a model spec."""

from dataclasses import dataclass, fields
from typing import Literal, get_args

from aliascope.antialias.downsamplers import LOW_PASSES, downsampler
from aliascope.errors import ModelError
from aliascope.layers import LAYERS, PADDINGS, WAVELETS

Stem = Literal["keep", "convert"]
STEMS = get_args(Stem)


@dataclass(frozen=True)
class Recipe:
    """The arguments of `antialias`, checked.

    As text: METHOD[:SIZE] and, where they differ from the defaults, `stem` (convert it too),
    `no-shortcut` (leave shortcuts alone), `partial` (convert what can be), the padding and the
    wavelet.

    >>> str(Recipe("aps", stem="convert", padding="circular"))
    'aps:3:stem:circular'
    >>> Recipe.parse("blurpool:2") == Recipe("blurpool", size=2)
    True
    """

    method: str = "blurpool"
    size: int = 3
    stem: str = "keep"
    shortcut: bool = True
    partial: bool = False
    padding: str = "reflect"
    wavelet: str = "haar"

    def __post_init__(self) -> None:
        if self.method not in LAYERS:
            raise ModelError(f"unknown method {self.method!r}; choose from {', '.join(LAYERS)}")
        if self.stem not in STEMS:
            raise ModelError(f"stem must be {' or '.join(STEMS)}, got {self.stem!r}")
        if not 1 <= self.size <= 7:  # of the methods with a filter of their own, too: one rule
            raise ModelError(f"{self.method} takes 1 to 7 taps, got {self.size}")
        if self.wavelet != "haar" and self.method != "wavelet":
            raise ModelError(f"{self.method} is no wavelet: leave out {self.wavelet!r}")
        try:
            downsampler(
                self.method,
                1,
                (2, 2),
                size=self.size,
                padding=self.padding,
                wavelet=self.wavelet,
            )
        except ValueError as error:
            raise ModelError(f"{self.method}: {error}") from error

    @property
    def decimates(self) -> bool:
        """Whether its filter is a single tap: a control, which computes what the original does."""
        return self.method in LOW_PASSES and self.size == 1

    @classmethod
    def parse(cls, text: str) -> "Recipe":
        """Read what `str` writes; options in any order.

        Raises:
            ModelError: an unknown method or option.
        """
        method, *options = text.split(":")
        known = {"stem": ("stem", "convert"), "no-shortcut": ("shortcut", False)}
        known |= {"partial": ("partial", True)} | {name: ("padding", name) for name in PADDINGS}
        known |= {name: ("wavelet", name) for name in WAVELETS}
        arguments: dict = {}
        for option in options:
            name, value = known.get(option, ("size", option))
            if name in arguments:
                raise ModelError(f"@{text}: {option} is a second {name}; leave one of the two out")
            if name == "size":
                if not option.isdecimal():
                    raise ModelError(
                        f"@{text}: the size must be a whole number of taps, as in @{method}:3; "
                        f"the other options are {', '.join(known)}"
                    )
                value = int(option)
            arguments[name] = value
        return cls(method, **arguments)

    def __str__(self) -> str:
        words = [self.method, str(self.size)]
        words += ["stem"] * (self.stem == "convert") + ["no-shortcut"] * (not self.shortcut)
        words += ["partial"] * self.partial + [self.padding] * (self.padding != "reflect")
        words += [self.wavelet] * (self.wavelet != "haar")
        return ":".join(words)


ARGUMENTS = tuple(field.name for field in fields(Recipe))
