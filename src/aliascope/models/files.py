"""Files of weights, and what aliascope writes into its own: how to build the network again.

A file of aliascope's is safetensors whose metadata hold one JSON object under "aliascope": format,
base (the spec of the network before it was converted), recipes (the arguments of each `antialias`,
in order), weights_digest (of the base's weights, before conversion) and version. Under "tensors" is
a SHA-256 of the tensors, under "sha256" one of the other metadata: a bit that flips is noticed.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from aliascope.antialias import Recipe
from aliascope.errors import ModelError, RunError
from aliascope.models.digests import state_digest
from aliascope.results.files import write_file
from aliascope.results.text import brief

SUFFIX = ".safetensors"
_FORMAT = 1
_SEAL = "sha256"
_CHANGED = "its content is not what was written"


@dataclass(frozen=True)
class Provenance:
    """Where the weights in a file of aliascope's come from."""

    base: str
    """Spec of the network before any conversion."""
    recipes: tuple[Recipe, ...]
    weights_digest: str
    """Of the base's weights."""
    version: str
    """Of the aliascope that wrote it."""


def check_name(path: Path) -> None:
    """Refuse the name of a file that weights cannot be written to.

    Raises:
        ModelError: it has another ending.
    """
    if path.suffix != SUFFIX:
        raise ModelError(f"weights are written as safetensors: {path} must end in {SUFFIX}")


def write_weights(
    path: Path, module: nn.Module, provenance: Provenance, *, half: bool = False
) -> None:
    """Write a network's state_dict, whole or not at all; with `half`, what is no vector as float16.

    Raises:
        ModelError: the name has another ending, or the file cannot be written.
    """
    check_name(path)
    # Copies: safetensors refuses tensors that share memory, as tied weights do.
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }
    if half:
        state = {
            name: x.half() if x.is_floating_point() and x.ndim > 1 else x
            for name, x in state.items()
        }
    record = json.dumps({"format": _FORMAT, **asdict(provenance)})
    try:
        write_file(path, sealed_tensors(state, {"aliascope": record}))
    except RunError as error:
        reason = getattr(error.__cause__, "strerror", None) or error.__cause__
        raise ModelError(
            f"{path} cannot be written ({reason}): mend that or choose another --out"
        ) from error


def sealed_tensors(state: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file with digests of what is in it."""
    metadata = {"format": "pt", "tensors": _tensors(state), **metadata}
    data = save(state, metadata | {_SEAL: _digest(metadata)})
    # safetensors writes the metadata in an order that changes from call to call.
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        OSError, SafetensorError: it cannot be read.
        ValueError: it holds digests, and these are of something else.
    """
    metadata, state = read_metadata(path), load_file(path)
    if "tensors" in metadata and metadata["tensors"] != _tensors(state):
        raise ValueError(_CHANGED)
    return state


def read_metadata(path: Path) -> dict[str, str]:
    """What such a file says of itself; raises the same."""
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata() or {})
    if _SEAL in metadata and metadata.pop(_SEAL) != _digest(metadata):
        raise ValueError(_CHANGED)
    return metadata


def _digest(metadata: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()


def _tensors(state: dict[str, Tensor]) -> str:
    return state_digest(dict(sorted(state.items())))


def provenance_of(path: Path) -> Provenance:
    """What aliascope wrote into a file.

    Raises:
        ModelError: no such file, no safetensors, none that aliascope wrote, or one that a newer
            aliascope wrote.
    """
    known = recorded(path)
    if known is None:
        raise ModelError(
            f"{path} has no aliascope metadata: name the base model, and give the file with "
            "--weights"
        )
    return known


def recorded(path: Path) -> Provenance | None:
    """The same, or None of a file that is none of aliascope's."""
    if path.suffix != SUFFIX:
        return None
    try:
        text = read_metadata(path).get("aliascope")
    except FileNotFoundError as error:
        raise ModelError(f"no such model: {path} does not exist") from error
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(
            f"cannot read {path} as safetensors ({brief(error)}): give a whole file"
        ) from error
    return None if text is None else _parsed(text, path)


def _parsed(text: str, path: Path) -> Provenance:
    try:
        record = json.loads(text)
        version = record.pop("format")
        if version <= _FORMAT:
            recipes = tuple(
                Recipe(**recipe | {"at": tuple(recipe.get("at", ()))})
                for recipe in record.pop("recipes")
            )
            texts = {name: str(record[name]) for name in ("base", "weights_digest", "version")}
            return Provenance(recipes=recipes, **texts)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ModelError(
            f"cannot read the aliascope metadata of {path} ({brief(error)})"
        ) from error
    raise ModelError(f"{path} has format {version}, newer than {_FORMAT}: upgrade aliascope")


def read_state(path: Path) -> dict[str, Tensor]:
    """A state_dict, from safetensors or from what `torch.save` wrote; no code in it is run.

    Raises:
        ModelError: there is no such file, or it holds no state_dict.
    """
    try:
        if path.suffix == SUFFIX:
            return read_tensors(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        for key in ("state_dict", "model"):
            state = state.get(key, state)
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    except FileNotFoundError as error:
        raise ModelError(
            f"no such weights: {path}; give an existing file, pretrained or random"
        ) from error
    except Exception as error:  # whatever hostile bytes make a reader raise
        raise ModelError(
            f"cannot read weights from {path}: a state_dict saved with torch.save or safetensors "
            f"was expected ({type(error).__name__}: {brief(error)})"
        ) from error


def load_state(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Put all of a state_dict into a network.

    Raises:
        ModelError: it does not fit.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"the weights in {path} do not fit the model: {reason}") from error
