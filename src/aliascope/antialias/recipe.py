"""What a conversion was asked to do, as arguments and as the end of a model spec."""

from dataclasses import dataclass, fields
from typing import Literal, get_args

from aliascope.antialias.downsamplers import FOLDED, METHODS, OF_TAPS, downsampler
from aliascope.errors import ModelError
from aliascope.layers import PADDINGS, WAVELETS

Stem = Literal["keep", "convert"]
STEMS = get_args(Stem)


@dataclass(frozen=True)
class Recipe:
    """The arguments of `antialias`, checked.

    As text: METHOD[:SIZE] and, where they differ from the defaults, `stem` (convert it too),
    `no-shortcut` (leave shortcuts alone), `partial` (convert what can be), the padding, the
    wavelet, and after `at=` the places, with commas between them.

    >>> str(Recipe("aps", stem="convert", padding="circular"))
    'aps:3:stem:circular'
    >>> Recipe.parse("blurpool:2") == Recipe("blurpool", size=2)
    True
    >>> Recipe.parse("ideal:at=layer2,layer3.0").at
    ('layer2', 'layer3.0')
    """

    method: str = "blurpool"
    size: int = 3
    stem: str = "keep"
    shortcut: bool = True
    partial: bool = False
    padding: str = "reflect"
    wavelet: str = "haar"
    at: tuple[str, ...] = ()
    """Names of operations, or of modules that hold them, the stem's too; none stands for all but
    the stem."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ModelError(f"unknown method {self.method!r}; choose from {', '.join(METHODS)}")
        if self.stem not in STEMS:
            raise ModelError(f"stem must be {' or '.join(STEMS)}, got {self.stem!r}")
        if not 1 <= self.size <= 7:  # of the methods with a filter of their own, too: one rule
            raise ModelError(f"{self.method} takes 1 to 7 taps, got {self.size}")
        if self.wavelet != "haar" and self.method != "wavelet":
            raise ModelError(f"{self.method} is no wavelet: leave out {self.wavelet!r}")
        if self.method == FOLDED and self.size % 2 == 0:
            raise ModelError(
                f"{FOLDED} takes 1, 3, 5 or 7 taps, which have a middle, got {self.size}"
            )
        object.__setattr__(self, "at", (self.at,) if isinstance(self.at, str) else tuple(self.at))
        for place in self.at:
            if not place or set(place) & set(",:@= "):
                raise ModelError(f"at takes names as `aliascope layers` lists them, got {place!r}")
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
        return self.method in OF_TAPS and self.size == 1

    @property
    def only_fits(self) -> bool:
        """Whether nothing but weights is to change."""
        return self.method == FOLDED and self.size == 1

    def wants(self, layer: str) -> bool:
        """Whether an operation is at one of the places."""
        return not self.at or any(f"{layer}.".startswith(f"{place}.") for place in self.at)

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
            if option.startswith("at="):
                name, value = "at", tuple(option.removeprefix("at=").split(","))
            if name in arguments:
                raise ModelError(f"@{text}: {option} is a second {name}; leave one of the two out")
            if name == "size":
                if not option.isdecimal():
                    raise ModelError(
                        f"@{text}: the size must be a whole number of taps, as in @{method}:3; "
                        f"the other options are {', '.join(known)} and at=PLACE,PLACE"
                    )
                value = int(option)
            arguments[name] = value
        return cls(method, **arguments)

    def __str__(self) -> str:
        words = [self.method, str(self.size)]
        words += ["stem"] * (self.stem == "convert") + ["no-shortcut"] * (not self.shortcut)
        words += ["partial"] * self.partial + [self.padding] * (self.padding != "reflect")
        words += [self.wavelet] * (self.wavelet != "haar")
        words += [f"at={','.join(self.at)}"] * bool(self.at)
        return ":".join(words)


ARGUMENTS = tuple(field.name for field in fields(Recipe))
