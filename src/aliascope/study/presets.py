"""What a study is about: the pair of models, the images, and the figures it is laid beside."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from aliascope.batch import Ops
from aliascope.errors import RunError
from aliascope.runtime import Precision

BASELINE, ANTIALIASED = "baseline", "antialiased"
ROLES = (BASELINE, ANTIALIASED)


@dataclass(frozen=True)
class Plan:
    """Everything that decides a study's numbers.

    A results directory is continued under an equal one only.
    """

    baseline: str
    """Spec of the model as it is."""
    antialiased: str
    """Spec of its anti-aliased version."""
    images: str = "photos"
    """A source as `open_images` takes it."""
    limit: int | None = None
    """At most so many images."""
    weights: str = "pretrained"
    """Of both models: "pretrained" or "random"."""
    preprocess: Literal["model", "resize224"] = "model"
    """"model" is the baseline's evaluation transform, for both: a pair must see the same pixels."""
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


PRESETS = {
    "embedded": Plan("efficientnet_lite0", "efficientnet_lite0_blurpool"),
    "paper": Plan(
        "timm:resnet50",
        "antialiased:resnet50",
        images="stl10",
        limit=1000,
        preprocess="resize224",
        ops="conv",
    ),
    "matched": Plan(
        "timm:resnet50.bt_in1k", "timm:resnetblur50.bt_in1k", images="stl10", limit=1000
    ),
}
"""embedded needs no network; paper is the published protocol; in matched both models were trained
alike, so that the difference is the blur."""


def plan_of(preset: str, **overrides: Any) -> Plan:
    """A preset with what the user asked for in its place; None leaves the preset's own.

    The labels of `stl10` are mapped unless a class map is given.

    Raises:
        RunError: no such preset or class map, or a sweep of no frequencies.

    >>> plan_of("embedded", limit=8).limit
    8
    """
    if preset not in PRESETS:
        raise RunError(f"unknown preset {preset!r}; choose from {', '.join(PRESETS)}")
    plan = replace(
        PRESETS[preset], **{name: value for name, value in overrides.items() if value is not None}
    )
    if plan.class_map is None and plan.images == "stl10":
        plan = replace(plan, class_map="stl10")
    if plan.class_map not in (None, *CLASS_MAPS):
        raise RunError(f"unknown class map {plan.class_map!r}; choose from {', '.join(CLASS_MAPS)}")
    if plan.sweep < 1:
        raise RunError(f"a sweep of {plan.sweep} frequencies measures nothing; give at least 1")
    return plan


def plan_from(record: dict[str, Any]) -> Plan:
    """The plan that `dataclasses.asdict` and JSON made this of."""
    known = {field.name for field in fields(Plan)}
    values = {name: value for name, value in record.items() if name in known}
    values["layer_map"] = tuple(tuple(pair) for pair in values.get("layer_map", ()))
    return Plan(**values)


# The ten labels of STL-10 in its own order, and the classes of ImageNet-1k that belong to each. The
# predictions are those of the 1000-class network: whatever lies in no set is wrong. ImageNet-1k has
# no deer (its three antelopes stand in) and one horse; apes are no monkeys; pickups count as cars.
_STL10 = {
    "airplane": {404, 895},
    "bird": {*range(7, 25), *range(80, 101), *range(127, 147)},
    "car": {407, 436, 468, 511, 609, 627, 656, 661, 717, 734, 751, 817},
    "cat": set(range(281, 286)),
    "deer": {351, 352, 353},
    "dog": set(range(151, 269)),
    "horse": {339},
    "monkey": set(range(370, 383)),
    "ship": {403, 472, 484, 510, 554, 576, 625, 628, 724, 780, 814, 871, 914},
    "truck": {555, 569, 675, 864, 867},
}
CLASS_MAPS: dict[str, dict[str, set[int]]] = {"stl10": _STL10}
"""Name → label name, in the order of the labels → indices of ImageNet-1k."""

PUBLISHED: dict[str, Any] = {
    "mean_sis": {BASELINE: 0.0229, ANTIALIASED: 0.0138},
    "change_of_sis": -0.398,
    "latency_ms": {BASELINE: 2.352, ANTIALIASED: 2.798},
    "change_of_latency": 0.189,
    "predictions_kept": 0.654,
    "layers": {
        "conv1": ((0.0036, 0.0024), (0.0036, 0.0024), 0.00, 0.093),
        "layer2.0.conv2": ((0.3119, 0.0420), (0.3974, 0.0420), -45.47, 0.116),
        "layer2.0.downsample.0": ((0.0542, 0.0117), (0.1589, 0.0321), -96.91, 0.060),
        "layer3.0.conv2": ((0.3875, 0.0297), (0.3605, 0.0351), 18.50, 0.090),
        "layer3.0.downsample.0": ((0.1328, 0.0195), (0.3409, 0.0345), -166.06, 0.038),
        "layer4.0.conv2": ((0.3407, 0.0332), (0.3258, 0.0285), 10.70, 0.084),
        "layer4.0.downsample.0": ((0.1710, 0.0195), (0.4100, 0.0265), -229.48, 0.005),
    },
}
"""The published study: of each layer AVR mean and deviation of both models, two-sample t of
baseline − antialiased, and Pearson's r of AVR and SIS in the baseline. Latency: RTX 4050 laptop."""
