"""From a network to a file for another runtime, which is kept only if it answers alike there."""

import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from aliascope.dense import is_detections
from aliascope.errors import AliascopeError, ImageError, ModelError
from aliascope.export.exported import Exported, proven
from aliascope.export.proof import compared, prepared
from aliascope.export.targets import TARGETS, Run, Target, To, Written, quiet, target_of
from aliascope.images import open_images
from aliascope.images.preprocessing import Preprocessing, PreprocessingName, crop_of
from aliascope.latency import bench
from aliascope.models import LoadedModel, load_model
from aliascope.records import Report
from aliascope.results.files import refusal
from aliascope.results.text import brief
from aliascope.results.verdicts import digits
from aliascope.runtime import copied, failures_named

__all__ = ["TARGETS", "Exported", "export", "running"]

TOLERANCE = 1e-4
"""Of the largest relative error, by default: hundreds of times what float32 sums differ by."""


def export(
    model: str | nn.Module | LoadedModel,
    out: str | Path,
    to: To | None = None,
    *,
    images: Any = "photos",
    limit: int | None = None,
    against: str | nn.Module | LoadedModel | None = None,
    weights: str | Path = "pretrained",
    preprocess: PreprocessingName | Preprocessing = "model",
    tolerance: float = TOLERANCE,
    seconds: int | float = 10.0,
    progress: Report | None = None,
) -> Exported:
    """Write a network for another runtime, run the file there, and keep it if it answers alike.

    The file takes any number of pictures of one size, in float32, prepared as its metadata say:
    under "aliascope", in JSON. It is run on real pictures on the CPU, one by one and several at
    once, and its answers are compared with those of PyTorch.

    Args:
        model: a spec, a module or what `load_model` returned; a module is copied.
        out: the file. What was there is replaced only once the new one is proven.
        to: one of `TARGETS` (onnx, openvino, torch-export, executorch); by default what the file's
            ending says.
        images: pictures that prove it, a source as for `open_images`.
        limit: at most so many of them.
        against: another network, exported likewise but not kept, that this one is timed against.
        weights: "pretrained", "random" or a file.
        preprocess: how pictures are prepared, and thereby of which size they are.
        tolerance: of the largest relative error, max |y − y'| / max |y| of a picture's answers.
        seconds: to spend on timing.
        progress: called with the pictures compared so far and their number.

    Returns:
        Figures of the proof, size, operators, versions, and latency against the other.

    Raises:
        AliascopeError: no such target, its package is missing, or a setting that makes no sense.
        ModelError: the network cannot be loaded, traced or converted, or the file does not answer
            alike. No file is left then.
        ImageError: there is no picture to prove it on.
        RunError: the file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = export("cifar_resnet8_ideal", f"{folder}/net.pt2", limit=2)
    >>> made.target, float(made.table["error"].max()) < 1e-5
    ('torch-export', True)
    """
    path = Path(out)
    target = target_of(to, path)
    target.check()
    if not 0 < tolerance < math.inf:
        raise AliascopeError(f"tolerance must be above 0, such as {TOLERANCE:g}, not {tolerance:g}")
    made = _Maker(target, images, limit, preprocess, tolerance, progress)
    with (
        refusal(path),
        tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=_folder(path)) as folder,
    ):
        file = Path(folder) / path.name
        own = made.file(_loaded(model, weights, preprocess), file)
        latency, told, other = pd.DataFrame(), (), None
        if against is not None:
            rival = _loaded(against, weights, preprocess)
            other = made.file(rival, Path(folder) / f"against{path.suffix}")
            pair = [running(x.loaded, x.preprocessing, x.run) for x in (other, own)]
            timed = bench(pair, batch_sizes=[1], seconds=seconds, device="cpu")
            latency, told = timed.table, timed.notices
        files = _files(file, target)
        size = sum(each.stat().st_size for each in files)
        for each in files:
            each.replace(path.with_suffix(each.suffix))
    info = own.info | ({"against": other.loaded.spec} if other else {})
    notices = (*own.notices, *told)
    return Exported(
        own.loaded.spec, target.name, str(path), size, own.table, latency, info, notices
    )


class _Outputs(nn.Module):
    """The network with its answers as a list of tensors."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> list[Tensor]:
        """Called with the pictures."""
        return _tensors(self.module(x))


def _tensors(output: Any) -> list[Tensor]:
    """All in a network's answer; raises TypeError where there is something else."""
    if isinstance(output, Tensor):
        return [output]
    if not isinstance(output, Mapping | list | tuple):
        raise TypeError(type(output).__name__)
    parts = output.values() if isinstance(output, Mapping) else output
    return [x for part in parts for x in _tensors(part)]


@dataclass(frozen=True)
class _Running(LoadedModel):
    """A file in the place of a network, to be timed."""

    taken: int = 3

    @property
    def channels(self) -> int:
        """Of the images that it takes."""
        return self.taken


class _Runner(nn.Module):
    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.run(x)


@dataclass(frozen=True)
class _File:
    """A file that was proven."""

    loaded: LoadedModel
    preprocessing: Preprocessing
    run: Run
    table: pd.DataFrame
    info: dict[str, Any]
    notices: tuple[str, ...]


def running(loaded: LoadedModel, preprocessing: Preprocessing, run: Run) -> LoadedModel:
    """A file in the place of the network that it was made from, for `bench`.

    Args:
        loaded: the network.
        preprocessing: of the pictures that the file takes.
        run: what its target's `load` returned.
    """
    return _Running(
        spec=loaded.spec,
        module=_Runner(run),
        preprocessing=preprocessing,
        class_names=None,
        weights=loaded.weights,
        taken=loaded.channels,
    )


@dataclass(frozen=True)
class _Maker:
    """Writes files of one target and proves them."""

    target: Target
    images: Any
    limit: int | None
    preprocess: PreprocessingName | Preprocessing
    tolerance: float
    progress: Report | None

    def file(self, loaded: LoadedModel, path: Path) -> _File:
        """Write a network's file and compare it.

        Raises:
            ModelError: it cannot be written, or does not answer alike.
            ImageError: there is no picture.
        """
        target, preprocessing = self.target, loaded.prepared(self.preprocess)
        module = _Outputs(copied(loaded.module).cpu()).eval()
        shape = (loaded.channels, *preprocessing.crop)
        card = _card(loaded, preprocessing, shape)
        names = _names(loaded.spec, module, shape)
        written = _written(loaded.spec, module, shape, target, path, json.dumps(card), names)
        source = open_images(self.images, limit=self.limit)
        with _named(loaded.spec, target, "does not run"), quiet():
            runs = {"f32": target.load(path)}
            if target.by_default:
                runs["default"] = target.by_default(path)
            pictures = prepared(source, preprocessing)
            table = compared(runs, module, pictures, self.progress, source.count)
        if table["pictures"].min() == 0:
            raise ImageError(f"no picture of {source.spec} can be read: {source.skipped[0].reason}")
        self._check(loaded.spec, table)
        info = card | written.said | {"operators": written.operators}
        info |= {"versions": target.versions(), "tolerance": self.tolerance}
        info["images"] = str(source.spec)
        notices = [*_notices(target, table), preprocessing.notice, *source.notices]
        notices += [f"{name} is left out: it {why}" for name, why in source.skipped]
        if target.most:
            info["largest_batch"] = target.most
        return _File(loaded, preprocessing, runs["f32"], table, info, (*filter(None, notices),))

    def _check(self, spec: str, table: pd.DataFrame) -> None:
        rows = proven(table)
        worst = rows.loc[rows["error"].idxmax()]
        if worst["error"] <= self.tolerance:
            return
        raise ModelError(
            f"{spec} exported to {self.target.name} does not answer as in PyTorch: largest "
            f"relative error {worst['error']:.1e} (picture {worst['worst']}, batch "
            f"{worst['batch']}), more than {self.tolerance:g}, so that no file is left: choose "
            "another target, or a larger tolerance"
        )


def _loaded(
    model: str | nn.Module | LoadedModel,
    weights: str | Path,
    preprocess: PreprocessingName | Preprocessing,
) -> LoadedModel:
    return load_model(model, weights=weights, size=crop_of(preprocess))


def _card(
    loaded: LoadedModel, preprocessing: Preprocessing, shape: tuple[int, ...]
) -> dict[str, Any]:
    """What a file says of itself."""
    steps = preprocessing.to_dict()
    del steps["margin"]
    return {
        "model": loaded.spec,
        "aliascope": version("aliascope"),
        "weights_digest": loaded.weights_digest,
        "input": {
            "shape": ["batch", *shape],
            "type": "float32",
            "colours": "RGB" if shape[0] == 3 else "grey",
        },
        "preprocessing": steps,
    }


def _names(spec: str, module: _Outputs, shape: tuple[int, ...]) -> list[str]:
    """Of the outputs, from a forward over two pictures.

    Raises:
        ModelError: the network fails, or returns what no file can.
    """
    x = torch.zeros(2, *shape)
    with failures_named(spec, x.shape), torch.inference_mode():
        output = module.module(x)
    if is_detections(output):
        raise ModelError(
            f"{spec} returns detections, as many as it finds, and cannot be exported: only "
            "networks that return tensors with a row an image can"
        )
    try:
        tensors = _tensors(output)
    except TypeError as error:
        raise ModelError(
            f"{spec} returns something else than tensors ({brief(error)}), and cannot be exported"
        ) from error
    if not tensors or any(y.ndim < 2 or len(y) != 2 or not y.is_floating_point() for y in tensors):
        shapes = ", ".join(str(tuple(y.shape)) for y in tensors) or "nothing"
        raise ModelError(
            f"{spec} returns {shapes} of two pictures, and cannot be exported: only networks that "
            "return floating-point tensors with a row an image can"
        )
    if isinstance(output, Mapping) and len(output) == len(tensors):
        return [str(name) for name in output]
    first = "logits" if tensors[0].ndim == 2 else "output"
    return [first, *(f"output_{i}" for i in range(1, len(tensors)))]


def _written(
    spec: str,
    module: nn.Module,
    shape: tuple[int, ...],
    target: Target,
    path: Path,
    card: str,
    names: list[str],
) -> Written:
    batch = torch.export.Dim("batch", max=target.most) if target.most else torch.export.Dim("batch")
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    with _named(spec, target, "cannot be traced for batches of any size"), quiet(), torch.no_grad():
        program = torch.export.export(module, (x,), dynamic_shapes=({0: batch},), strict=False)
    with _named(spec, target, "cannot be converted"), quiet():
        return target.write(program, path, card, names)


@contextmanager
def _named(spec: str, target: Target, what: str) -> Iterator[None]:
    """Whatever an exporter or a runtime raises becomes one sentence."""
    try:
        yield
    except (AliascopeError, OSError):
        raise
    except Exception as error:
        raise ModelError(
            f"{spec} {what} ({target.name}: {type(error).__name__}: {brief(error)}): choose "
            "another target, or change the network there"
        ) from error


def _notices(target: Target, table: pd.DataFrame) -> Iterator[str]:
    rounded = table[table["precision"] == "default"]
    if len(rounded):
        error, agreement = rounded["error"].max(), rounded["agreement"].min()
        same = "" if math.isnan(agreement) else f", same prediction for {digits(100 * agreement)} %"
        yield (
            "compile the file with INFERENCE_PRECISION_HINT f32: OpenVINO otherwise rounds to "
            "bfloat16 on processors that compute it; on this one its default leads to a largest "
            f"relative error of {error:.1e}{same}"
        )
    if target.most:
        yield (
            f"{target.name} plans its memory beforehand: the file takes batches of up to "
            f"{target.most} pictures"
        )


def _folder(path: Path) -> Path:
    """Where the file goes, made where missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise OSError("it is a folder, not a file")
    return path.parent


def _files(path: Path, target: Target) -> list[Path]:
    """What was written, what lies beside the file first."""
    return [*(path.with_suffix(suffix) for suffix in target.companions), path]
