"""What is shown, as a link has it. A link is a stranger's: it chooses among what is offered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from aliascope.measure.shiftmap import RADIUS
from aliascope.shifts import Border

METHODS = ("blurpool:2", "blurpool:3", "blurpool:5", "ideal", "aps", "wavelet")
"""Those that need no training, as the end of a spec."""
BORDERS: dict[Border, str] = {
    "crop": "the window moves over the photograph",
    "circular": "the picture is rolled, which tears its border",
}
"""How pictures move, and what that means."""
UPLOADED = "your photograph"
"""In place of a sample: what was dropped, which no link holds."""


@dataclass(frozen=True)
class Offer:
    """What a page lets its readers choose from."""

    models: Sequence[str]
    """Specs that the server was started with, the first one shown first."""
    samples: Sequence[str]
    """Ids of pictures."""

    @property
    def seconds(self) -> tuple[str, ...]:
        """What can stand beside a model: another, or the same repaired (`@METHOD`)."""
        return (*self.models, *(f"@{method}" for method in METHODS))

    @property
    def first(self) -> "Shown":
        """What is shown to who asks for nothing."""
        second = self.models[1] if len(self.models) > 1 else "@ideal"
        return Shown(self.models[0], second, self.samples[0])


@dataclass(frozen=True)
class Shown:
    """One state of the page."""

    a: str
    """Spec of the first model."""
    b: str
    """Of the second, or `@METHOD`: the first, repaired."""
    sample: str
    """Id of a picture, or `UPLOADED`."""
    rows: int = 0
    """Pixels downwards."""
    columns: int = 0
    """Pixels to the right."""
    border: Border = "crop"

    @property
    def specs(self) -> tuple[str, str]:
        """Of both models.

        >>> Shown("timm:resnet18", "@ideal", "a.png").specs
        ('timm:resnet18', 'timm:resnet18@ideal')
        """
        return self.a, self.a + self.b if self.b.startswith("@") else self.b

    @property
    def query(self) -> str:
        """The end of a link that shows this again.

        >>> Shown("net", "@aps", "a.png#0-0", rows=-2).query
        '?a=net&b=%40aps&sample=a.png%230-0&dx=0&dy=-2&border=crop'
        """
        named = {"a": self.a, "b": self.b, "sample": self.sample}
        return "?" + urlencode(named | {"dx": self.columns, "dy": self.rows, "border": self.border})


def restored(query: Mapping[str, Any], offer: Offer) -> tuple[Shown, list[str]]:
    """What a link asks for, as far as it is offered here, and a sentence for each thing that isn't.

    >>> offer = Offer(["net"], ["a.png"])
    >>> restored({"dx": "3", "b": "@aps"}, offer)[0].columns
    3
    >>> restored({"a": "os:system"}, offer)[1]
    ["the link asks for a='os:system', which this page does not offer"]
    """
    choices = {"a": offer.models, "b": offer.seconds, "border": tuple(BORDERS)}
    choices |= {"sample": (*offer.samples, UPLOADED)}
    steps = {str(step): step for step in range(-RADIUS, RADIUS + 1)}
    taken: dict[str, Any] = {}
    unknown = []
    for key, field in {"dx": "columns", "dy": "rows"}.items():
        if key in query:
            taken[field] = steps.get(str(query[key]))
            unknown += [key] * (taken[field] is None)
    for key, known in choices.items():
        if key in query:
            taken[key] = query[key] if query[key] in known else None
            unknown += [key] * (taken[key] is None)
    asked = {key: value for key, value in taken.items() if value is not None}
    complaints = [
        f"the link asks for {key}={str(query[key])[:60]!r}, which this page does not offer"
        for key in unknown
    ]
    if asked.get("sample") == UPLOADED:
        del asked["sample"]
        complaints.append("a link does not hold the photograph: drop it again to see the same")
    return replace(offer.first, **asked), complaints


def sample_name(sample: str) -> str:
    """Of a crop, its photograph.

    >>> sample_name("chelsea.png#0-0"), sample_name("me.jpg")
    ('chelsea', 'me.jpg')
    """
    name, cut, _ = sample.partition("#")
    return Path(name).stem if cut else sample
