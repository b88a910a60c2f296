"""What a study is about: the pair of models, the images, and all else that decides its numbers."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from aliascope.errors import RunError
from aliascope.images.preprocessing import PreprocessingName
from aliascope.measure.batch import Ops
from aliascope.runtime import Precision
from aliascope.shifts import Border
from aliascope.study.published import CLASS_MAPS

BASELINE, CONTROL, ANTIALIASED = "baseline", "control", "antialiased"
ROLES = (BASELINE, ANTIALIASED)
"""The pair that is compared; the control stands beside it."""


@dataclass(frozen=True)
class StudySettings:
    """Everything that decides a study's numbers.

    A results directory is continued under equal ones only.
    """

    baseline: str
    """Spec of the model as it is."""
    antialiased: str
    """Spec of its anti-aliased version."""
    control: str | None = None
    """Spec of a version in which nothing was done: what a layer's figures are worth."""
    images: str = "photos"
    """A source as `open_images` takes it."""
    limit: int | None = None
    """At most so many images."""
    weights: str = "pretrained"
    """Of all models: "pretrained" or "random"."""
    preprocess: PreprocessingName = "model"
    """"model" is the baseline's evaluation transform, for all: a pair must see the same pixels."""
    shifts: tuple[Border, ...] = ("crop", "native", "circular")
    """How the pictures are moved: the first leads, the others stand beside it. Where the crop takes
    all of the resized picture there are circular shifts alone."""
    reading: Literal["sampled", "read"] = "sampled"
    """Which map of a layer tables, figures and texts lead with: what is decimated, at one place in
    all models, or what the operation reads, as published."""
    ops: Ops = "all"
    class_map: str | None = None
    """Name of the map from ImageNet classes to the labels, where the two differ (`CLASS_MAPS`)."""
    layer_map: tuple[tuple[str, str], ...] = ()
    """Layers of the baseline and their partners; by default as `compare` pairs them."""
    sweep: int = 10
    """Frequencies from 0.1 to 0.9 in phase 2."""
    latency_seconds: float = 10.0
    """Spent on timing each batch size."""
    precision: Precision = "fp32"
    device: str | None = None
    seed: int = 0
    """Of random weights and of the order of timing."""


PRESETS = {
    "embedded": StudySettings(
        "efficientnet_lite0",
        "efficientnet_lite0_ideal",
        control="efficientnet_lite0@blurpool:1",
    ),
    "paper": StudySettings(
        "timm:resnet50",
        "antialiased:resnet50",
        images="stl10",
        limit=1000,
        preprocess="resize224",
        shifts=("circular",),
        reading="read",
        ops="conv",
    ),
    "matched": StudySettings(
        "timm:resnet50.bt_in1k", "timm:resnetblur50.bt_in1k", images="stl10", limit=1000
    ),
}
"""embedded needs no network; paper is the published protocol; in matched both models were trained
alike, so that the difference is the blur."""


def settings_of(preset: str, **overrides: Any) -> StudySettings:
    """A preset with what the user asked for in its place; None leaves the preset's own.

    The labels of `stl10` are mapped unless a class map is given; the preset's control is that of
    the preset's baseline.

    Raises:
        RunError: no such preset or class map, a sweep of no frequencies, no shifts, or negative
            seconds.

    >>> settings_of("embedded", limit=8).limit
    8
    """
    if preset not in PRESETS:
        raise RunError(f"unknown preset {preset!r}; choose from {', '.join(PRESETS)}")
    given = {name: value for name, value in overrides.items() if value is not None}
    settings = PRESETS[preset]
    if given.get("baseline", settings.baseline) != settings.baseline:
        settings = replace(settings, control=None)
    settings = replace(settings, **given)
    if settings.class_map is None and settings.images == "stl10":
        settings = replace(settings, class_map="stl10")
    if settings.class_map not in (None, *CLASS_MAPS):
        raise RunError(
            f"unknown class map {settings.class_map!r}; choose from {', '.join(CLASS_MAPS)}"
        )
    if settings.sweep < 1:
        raise RunError(f"a sweep of {settings.sweep} frequencies measures nothing; give at least 1")
    if not settings.latency_seconds >= 0:
        raise RunError(
            f"latency_seconds must be at least 0, got {settings.latency_seconds:g}: give the "
            "seconds to time each batch size for"
        )
    if not settings.shifts:
        raise RunError("no shifts measure no stability; give crop, native or circular")
    return settings


def settings_from(record: dict[str, Any]) -> StudySettings:
    """The settings that `dataclasses.asdict` and JSON made this of."""
    known = {field.name for field in fields(StudySettings)}
    values = {name: value for name, value in record.items() if name in known}
    values["layer_map"] = tuple(tuple(pair) for pair in values.get("layer_map", ()))
    # Studies from before the sampled reading were circular and of what is read.
    values["shifts"] = tuple(values.get("shifts", ("circular",)))
    values.setdefault("reading", "read")
    return StudySettings(**values)
