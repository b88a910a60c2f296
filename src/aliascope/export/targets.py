"""What a network can be exported to: how its file is written, loaded and run there.

onnx          .onnx    ONNX Runtime
openvino      .xml     OpenVINO, with a .bin beside it
torch-export  .pt2     torch.export.load
executorch    .pte     ExecuTorch with XNNPACK
"""

import io
import logging
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from aliascope.errors import AliascopeError, ModelError, extra_missing

CARD = "aliascope"
"""Under this name a file says what it is and how its pictures are prepared, as JSON."""

To = Literal["onnx", "openvino", "torch-export", "executorch"]
"""Name of a target."""

Run = Callable[[Tensor], list[Tensor]]
"""The answers of a file to a batch."""


@dataclass(frozen=True)
class Written:
    """What is known of a file once it is written."""

    operators: dict[str, int]
    """Name → how often, of what the runtime is given."""
    said: dict[str, Any] = field(default_factory=dict)
    """The opset and the like."""


@dataclass(frozen=True)
class Target:
    """One format and the runtime that it is meant for."""

    name: str
    suffix: str
    extra: str
    """Of aliascope, that installs what it needs; "" if nothing."""
    packages: tuple[str, ...]
    """What it needs, and whose versions are told."""
    write: Callable[[Any, Path, str, Sequence[str]], Written]
    """Called with an exported program, a path, the card and the names of the outputs."""
    load: Callable[[Path], Run]
    by_default: Callable[[Path], Run] | None = None
    """As `load`, as the runtime has it where nothing is said, if that computes otherwise."""
    most: int | None = None
    """The largest batch, where memory is planned beforehand."""
    companions: tuple[str, ...] = ()
    """Endings of the files beside it."""

    def check(self) -> None:
        """Refuse where a package is missing.

        Raises:
            AliascopeError: with what to install.
        """
        for package in self.packages:
            try:
                with quiet():
                    import_module(package)
            except ModuleNotFoundError as error:
                raise extra_missing(error, package, self.extra) from error

    def versions(self) -> dict[str, str]:
        """Of what writes and runs the file."""
        return {name: version(name) for name in ("torch", *self.packages)}


def target_of(to: str | None, path: Path) -> Target:
    """The target of that name, or the one that the file's ending tells.

    Raises:
        AliascopeError: there is none, or its files end otherwise.

    >>> target_of(None, Path("net.onnx")).name
    'onnx'
    """
    if to is None:
        found = [target for target in TARGETS.values() if target.suffix == path.suffix]
        if not found:
            known = ", ".join(f"{x.suffix} ({x.name})" for x in TARGETS.values())
            raise AliascopeError(f"{path} has no ending that tells a format; give one of {known}")
        return found[0]
    if to not in TARGETS:
        raise AliascopeError(f"no target {to!r}; choose from {', '.join(TARGETS)}")
    target = TARGETS[to]
    if path.suffix != target.suffix:
        raise AliascopeError(f"a file for {to} ends in {target.suffix}, and {path} does not")
    return target


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters warn, log and print of what a user cannot mend; in the block they do not."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextmanager
def _silenced() -> Iterator[None]:
    """Likewise what is written to the process's own standard error, as C++ does."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _write_onnx(program: Any, path: Path, card: str, outputs: Sequence[str]) -> Written:
    made = torch.onnx.export(
        program, dynamo=True, verbose=False, input_names=["images"], output_names=list(outputs)
    )
    if made is None:
        raise ModelError("torch.onnx.export returned nothing")
    made.model.metadata_props[CARD] = card
    made.save(path, external_data=False)
    import onnx

    model = onnx.load(path, load_external_data=False)
    opset = next(x.version for x in model.opset_import if x.domain in ("", "ai.onnx"))
    return Written(_counted(node.op_type for node in model.graph.node), {"opset": opset})


def _load_onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: [torch.from_numpy(y) for y in session.run(None, {name: x.numpy()})]


def _write_openvino(program: Any, path: Path, card: str, outputs: Sequence[str]) -> Written:
    import openvino

    model = openvino.convert_model(program)
    model.inputs[0].get_tensor().set_names({"images"})
    for output, name in zip(model.outputs, outputs, strict=True):
        output.get_tensor().set_names({name})
    model.set_rt_info(card, [CARD])
    openvino.save_model(model, path, compress_to_fp16=False)
    return Written(_counted(node.get_type_name() for node in model.get_ops()))


def _load_openvino(path: Path, **options: Any) -> Run:
    import openvino

    options["INFERENCE_NUM_THREADS"] = torch.get_num_threads()
    compiled = openvino.Core().compile_model(path, "CPU", options)
    return lambda x: [torch.from_numpy(y.copy()) for y in compiled(x.numpy()).to_tuple()]


def _load_openvino_f32(path: Path) -> Run:
    return _load_openvino(path, INFERENCE_PRECISION_HINT="f32")


def _write_torch(program: Any, path: Path, card: str, outputs: Sequence[str]) -> Written:
    del outputs
    torch.export.save(program, path, extra_files={CARD: card})
    calls = (node for node in program.graph.nodes if node.op == "call_function")
    return Written(_counted(str(node.target) for node in calls))


def _load_torch(path: Path) -> Run:
    module: Any = torch.export.load(path).module()
    return lambda x: list(module(x))


def _write_executorch(program: Any, path: Path, card: str, outputs: Sequence[str]) -> Written:
    # By name: it is in no other extra, so that a checker does not find it.
    xnnpack = import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    exir = import_module("executorch.exir")
    del outputs
    lowered = exir.to_edge_transform_and_lower(
        program, partitioner=[xnnpack.XnnpackPartitioner()], constant_methods={CARD: card}
    ).to_executorch()
    with path.open("wb") as file:
        lowered.write_to_file(file)
    plans = {plan.name: plan for plan in lowered.executorch_program.execution_plan}
    plan = plans["forward"]
    names = [x.name for x in plan.operators] + [x.id for x in plan.delegates]
    return Written(_counted(names))


def _load_executorch(path: Path) -> Run:
    with _silenced():
        program = import_module("executorch.runtime").Runtime.get().load_program(path)
        method = program.load_method("forward")
    if method is None:
        raise ModelError("the file has no method forward")

    held = program, method  # the method reads the program's memory, and does not keep it
    return lambda x: [y.clone() for y in held[1].execute([x.contiguous()])]


def _counted(names: Any) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


_ALL = (
    Target(
        "onnx", ".onnx", "export", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _load_onnx
    ),
    Target(
        "openvino",
        ".xml",
        "openvino",
        ("openvino",),
        _write_openvino,
        _load_openvino_f32,
        by_default=_load_openvino,
        companions=(".bin",),
    ),
    Target("torch-export", ".pt2", "", (), _write_torch, _load_torch),
    Target(
        "executorch",
        ".pte",
        "executorch",
        ("executorch",),
        _write_executorch,
        _load_executorch,
        most=8,
    ),
)
TARGETS: dict[str, Target] = {target.name: target for target in _ALL}
"""Name → target."""
