"""From a network to a file for another runtime, which is kept only if it answers alike there."""

import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn

from aliascope.errors import AliascopeError, ImageError, ModelError
from aliascope.export.exported import Exported, proven
from aliascope.export.proof import compared, prepared
from aliascope.export.targets import TARGETS, Run, Target, quiet, target_of
from aliascope.export.tracing import Outputs, named, names_of, traced
from aliascope.images import ImageSource, open_images
from aliascope.images.preprocessing import Preprocessing, PreprocessingName, crop_of
from aliascope.latency import bench
from aliascope.models import LoadedModel, load_model
from aliascope.records import Report
from aliascope.results.files import refusal
from aliascope.results.verdicts import digits
from aliascope.runtime import copied

__all__ = ["TARGETS", "Exported", "export", "running"]

TOLERANCE = 1e-4
"""Of the largest relative error, by default: hundreds of times what float32 sums differ by."""


def export(
    model: str | nn.Module | LoadedModel,
    out: str | Path,
    to: str | None = None,
    *,
    images: Any = "photos",
    limit: int | None = None,
    against: str | nn.Module | LoadedModel | None = None,
    weights: str | Path = "pretrained",
    preprocess: PreprocessingName | Preprocessing = "model",
    tolerance: int | float = TOLERANCE,
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
    with ExitStack() as stack:
        with refusal(path):
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=_folder(path))
            )
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
        with refusal(path):
            for each in files:
                each.replace(path.with_suffix(each.suffix))
    info = own.info | ({"against": other.loaded.spec} if other else {})
    notices = (*own.notices, *told)
    return Exported(
        own.loaded.spec, target.name, str(path), size, own.table, latency, info, notices
    )


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
    tolerance: int | float
    progress: Report | None

    def file(self, loaded: LoadedModel, path: Path) -> _File:
        """Write a network's file and compare it.

        Raises:
            ModelError: it cannot be written, or does not answer alike.
            ImageError: there is no picture.
        """
        given = self.images
        known = isinstance(given, ImageSource)
        source = given if known else open_images(given, limit=self.limit)
        target, preprocessing = self.target, loaded.prepared(self.preprocess)
        module = Outputs(copied(loaded.module).cpu()).eval()
        shape = (loaded.channels, *preprocessing.crop)
        card = _card(loaded, preprocessing, shape)
        names = names_of(loaded.spec, module, shape)
        program = traced(loaded.spec, module, shape, target)
        with named(loaded.spec, target, "cannot be converted"), refusal(path), quiet():
            written = target.write(program, path, json.dumps(card), names)
        with named(loaded.spec, target, "does not run"), quiet():
            runs = {"f32": target.load(path)}
            if target.by_default:
                runs["default"] = target.by_default(path)
            pictures = prepared(source, preprocessing)
            table = compared(runs, module, pictures, self.progress, source.count)
        if not min(table["pictures"]):
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
        worst = max(proven(table).to_dict("records"), key=lambda row: row["error"])
        if worst["error"] <= self.tolerance:
            return
        raise ModelError(
            f"{spec} exported to {self.target.name} does not answer as in PyTorch: largest "
            f"relative error {worst['error']:.1e} (picture {worst['worst']}, batch "
            f"{worst['batch']}), more than {self.tolerance:g}, so that the file is not kept: "
            "choose another target, or a larger tolerance"
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
            "colours": "RGB" if shape[0] == 3 else "grey, 0.299 R + 0.587 G + 0.114 B",
        },
        "preprocessing": steps,
    }


def _notices(target: Target, table: pd.DataFrame) -> Iterator[str]:
    rounded = table.query("precision == 'default'")
    if len(rounded):
        error, agreement = max(rounded["error"]), min(rounded["agreement"])
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
