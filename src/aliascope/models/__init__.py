"""From a model spec to a network that is ready to measure.

efficientnet_lite0              an embedded model, real ImageNet weights, no network needed
efficientnet_lite0_ideal        the same, repaired: `…@ideal`, fine-tuned; embedded, too
efficientnet_lite0_fitted       the same without a filter: other weights that yield what that does
cifar_resnet8                   78,000 parameters, trained on CIFAR-10 for this package
cifar_resnet8_METHOD            the same with blurpool or ideal, trained with it from scratch
timm:NAME  torchvision:NAME     their own pretrained weights
antialiased:NAME                antialiased-cnns (CC BY-NC-SA 4.0), an optional extra
package.module:function         your own: called without arguments, returns an nn.Module
FILE.safetensors                what `save_model` or `aliascope antialias --out` wrote
SPEC@METHOD[:OPTION…]           any of these, anti-aliased: `timm:resnet50@blurpool`, `…@aps:3:stem`

An OPTION is a number of taps (3 where there is none), `stem` to convert what reads the image too,
`no-shortcut` to leave the shortcuts of residual blocks alone, `partial` to convert what can be and
leave the rest, the padding of the downsamplers: `zeros`, `replicate`, `circular` (`reflect` where
there is none), or `at=PLACE,PLACE` to convert only what these names of operations or modules hold.
Conversions can be chained: `…@folded:5:at=blocks.1,blocks.2@ideal`.
The last link may be a wrapper of `aliascope.inference`: `timm:resnet50@crop-selection`,
`…@ideal@shift-average`, `…@ideal@frame:192`.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from aliascope.antialias import Recipe, antialias
from aliascope.errors import ModelError
from aliascope.images.preprocessing import (
    RESIZE_224,
    Preprocessing,
    PreprocessingName,
    channels_of,
    preprocessing_of,
)
from aliascope.inference import around, is_wrapper, seen_by
from aliascope.models.catalogues import (
    REPAIRED,
    available_models,
    blueprint,
    is_published,
)
from aliascope.models.digests import structure_digest, weights_digest
from aliascope.models.files import (
    SUFFIX,
    Provenance,
    check_name,
    load_state,
    provenance_of,
    read_state,
    recorded,
    write_weights,
)
from aliascope.runtime import copied, failures_named, uncompiled

__all__ = [
    "LoadedModel",
    "available_models",
    "check_name",
    "load_model",
    "save_model",
    "structure_digest",
    "weights_digest",
    "within",
]


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
    provenance: Provenance | None = None
    """What can be built again; None of a module that was passed as it is."""

    @property
    def weights_digest(self) -> str:
        """Of the module as it stands: see `digests.weights_digest`."""
        return weights_digest(self.module)

    @property
    def structure_digest(self) -> str:
        """Of the module as it stands: see `digests.structure_digest`."""
        return structure_digest(self.module)

    @property
    def channels(self) -> int:
        """Of the images that it takes: 1, grey, if its first convolution takes one; else 3, RGB."""
        return channels_of(self.module)

    def prepared(self, preprocess: PreprocessingName | Preprocessing | None) -> Preprocessing:
        """A transform by its name, or as given, for the channels that it takes; None: its own."""
        named = {None: self.preprocessing, "model": self.preprocessing, "resize224": RESIZE_224}
        chosen = preprocess if isinstance(preprocess, Preprocessing) else named[preprocess]
        return chosen.for_channels(self.channels)

    def example(self, size: Sequence[int] | None = None) -> Tensor:
        """A batch of one blank image, by default of the size that the network takes."""
        return torch.zeros(1, self.channels, *(size or self.preprocessing.crop))

    def converted(self, recipes: Sequence[Recipe], spec: str = "") -> "LoadedModel":
        """A copy with its own weights, converted further; by default named by its recipes.

        Raises:
            ModelError: a conversion is not possible.

        >>> load_model("cifar_resnet8").converted([Recipe.parse("blurpool:3")]).spec
        'cifar_resnet8@blurpool:3'
        """
        spec = spec or f"{self.spec}{_chain(recipes)}"
        *_, module = _stages(spec, self.module, recipes, self.example())
        known = self.provenance
        provenance = known and replace(known, recipes=(*known.recipes, *recipes))
        return replace(self, spec=spec, module=module, provenance=provenance)


def load_model(
    spec: str | nn.Module | LoadedModel,
    *,
    weights: str | Path = "pretrained",
    seed: int = 0,
    size: tuple[int, int] | None = None,
) -> LoadedModel:
    """Load a model by its spec, in eval mode on the CPU.

    Args:
        spec: see the module's docstring; an `nn.Module` is wrapped as it is, or if it lies on a GPU
            a copy of it on the CPU, from where each verb takes it to its device.
        weights: "pretrained", "random" (seeded, no network needed), or a file: safetensors, or
            what `torch.save` wrote of a state_dict (read with `weights_only=True`). Of a file that
            `save_model` wrote, the conversions are those that it records.
        seed: of random weights.
        size: rows and columns of the pictures that it will see, on which conversions are tried; by
            default those of its own transform.

    Raises:
        ModelError: no such model, weights that cannot be had or do not fit, other conversions in
            the spec than in the file, a spec that makes no `nn.Module`.

    >>> load_model("timm:resnet18", weights="random").preprocessing.crop
    (224, 224)
    """
    if isinstance(spec, LoadedModel):
        return spec
    if isinstance(spec, nn.Module):
        return _wrap(spec)
    base, texts = _parts(spec)
    if texts and is_wrapper(texts[-1]):
        inner = spec.removesuffix(f"@{texts[-1]}")
        loaded = load_model(inner, weights=weights, seed=seed)
        crop = loaded.preprocessing.crop
        if (seen := seen_by(texts[-1], crop)) != crop:  # "same" padding goes by the size
            loaded = load_model(inner, weights=weights, seed=seed, size=seen)
        return within(loaded, texts[-1])
    if early := next(filter(is_wrapper, texts), None):
        raise ModelError(f"{spec}: {early} goes around what stands before it; name it last")
    recipes = [Recipe.parse(text) for text in texts]
    file = None if weights in ("pretrained", "random") else Path(weights)
    base = str(REPAIRED.get(base, base))
    if base.endswith(SUFFIX):
        path = Path(base)
        file = path if weights == "pretrained" else file
        saved = provenance_of(path)
        recipes[:0], base = saved.recipes, _trusted(saved.base, path)
    state = None if file is None else read_state(file)
    made = None if file is None else recorded(file)
    if made and not recipes and made.recipes:
        recipes = list(made.recipes)
        spec = "@".join([spec, *map(str, recipes)])
    if made and tuple(recipes[: len(made.recipes)]) != made.recipes:
        raise ModelError(
            f"{file} holds weights of a network converted by {_chain(made.recipes)}, and the spec "
            f"asks for {_chain(recipes)}: name the network without a conversion, or other weights"
        )
    plan = blueprint(base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with _clear_failures(base, plan.file):
            pretrained = weights == "pretrained" and file is None
            module = uncompiled(plan.build(pretrained)).eval()
    preprocessing = plan.preprocessing(module)
    example = torch.zeros(1, channels_of(module), *(size or preprocessing.crop))
    stages = _stages(spec, module, recipes, example)
    module, original = _filled(stages, state, file)
    original = made.weights_digest if made else original or weights_digest(module)
    provenance = Provenance(base, tuple(recipes), original, version("aliascope"))
    source = "pretrained" if file in REPAIRED.values() else str(file or weights)
    return LoadedModel(spec, module, preprocessing, plan.class_names, source, provenance)


def within(loaded: LoadedModel, wrapper: str) -> LoadedModel:
    """A network within a wrapper of `aliascope.inference`, by its name.

    Raises:
        ModelError: no such wrapper, or the network's transform leaves it no room.

    >>> within(load_model("efficientnet_lite0"), "crop-selection").preprocessing.crop
    (254, 254)
    """
    module, preprocessing = around(loaded.module, loaded.preprocessing, wrapper)
    spec = f"{loaded.spec}@{wrapper}"
    return replace(loaded, spec=spec, module=module, preprocessing=preprocessing, provenance=None)


def save_model(model: LoadedModel, path: str | Path, *, half: bool = False) -> None:
    """Write a network's weights with what is needed to build it again; the file is a model spec.

    Args:
        model: loaded by a spec; its module may have been trained since.
        path: ends in .safetensors.
        half: round matrices and filters to 16-bit numbers, for half the size; norms, statistics and
            biases stay as they are.

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
    if is_wrapper(model.spec.rpartition("@")[2]):
        raise ModelError(
            f"{model.spec} ends in a wrapper, which has no weights: save what is in it, and name "
            "the wrapper behind the file's name"
        )
    if model.provenance is None:
        raise ModelError(
            f"{model.spec} was passed as a module, which no file can name: load it by a spec such "
            "as package.module:function"
        )
    write_weights(Path(path), model.module, model.provenance, half=half)


def _wrap(module: nn.Module) -> LoadedModel:
    module = uncompiled(module)
    if any(x.device.type not in {"cpu", "meta"} for x in (*module.parameters(), *module.buffers())):
        module = copied(module).cpu()
    return LoadedModel(type(module).__name__, module, preprocessing_of(module), None, "as given")


def _parts(spec: str) -> tuple[str, list[str]]:
    """The base of a spec and its conversions; the path of a file may hold an @."""
    at = spec.rfind(f"{SUFFIX}@")
    head = at + len(SUFFIX) if at >= 0 else len(spec) if spec.endswith(SUFFIX) else 0
    base, *texts = spec[head:].split("@")
    return spec[:head] + base, texts


def _trusted(base: str, path: Path) -> str:
    """A file may name a published network, not code to run."""
    if is_published(base):
        return base
    raise ModelError(
        f"{path} was made from {base!r}, which is code of your own: name {base} as the model, and "
        "give the file with --weights"
    )


def _chain(recipes: Iterable[Recipe]) -> str:
    return "".join(f"@{recipe}" for recipe in recipes)


def _stages(
    spec: str, module: nn.Module, recipes: Iterable[Recipe], example: Tensor
) -> Iterator[nn.Module]:
    """The network as it was built, and after each of its conversions."""
    yield module
    for recipe in recipes:
        with failures_named(spec, example.shape):
            module = antialias(module, **vars(recipe), example=example)
        yield module


def _filled(
    stages: Iterator[nn.Module], state: dict[str, Tensor] | None, file: Path | None
) -> tuple[nn.Module, str]:
    """The last stage with a file's weights, and the digest of the first where they fit that.

    Weights are loaded into the first stage that has their names: a method that learns adds some.
    """
    original, module = "", next(stages)
    for stage in itertools.count():
        if state is not None and file and _shapes(state) == _shapes(module.state_dict()):
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


def _shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


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
