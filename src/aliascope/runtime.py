"""Where things run: device, precision, and what to record of both."""

import copy
import ctypes
import platform
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from aliascope.errors import ModelError

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
"""Of a forward. tf32: float32 whose products CUDA rounds to 10 bits of mantissa; fp32 never is,
which torch's own default does not say of convolutions."""

AUTOCAST = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What a forward is cast to; None is float32 throughout."""

MODEL_FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AttributeError)
"""What a model raises where its input does not suit it."""


_MALLOPT = {-1: 2_000_000_000, -2: 64 << 20, -4: 0}
"""glibc's M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_MAX."""


def keep_memory() -> None:
    """Have this process keep the memory of freed maps, for the next forward to take.

    glibc hands what is large back to the system at once, and gets it again, zeroed page by page, at
    the next forward: a third of the time of `measure` on two cores. For processes of our own, such
    as the command line; without glibc nothing changes.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in _MALLOPT.items():
            libc.mallopt(option, value)


def environment(device: torch.device) -> dict[str, Any]:
    """What decides how fast a figure came about and, in its last digits, which: for the record."""
    packages = ("aliascope", "torch", "torchvision", "timm", "numpy", "pillow")
    cuda = device.type == "cuda"
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "device": str(device),
        "hardware": torch.cuda.get_device_name(device) if cuda else _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def _processor() -> str:
    """Its name, which Linux tells in a file only."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def chosen_device(name: str | None, precision: Precision = "fp32") -> torch.device:
    """The device of that name; without one CUDA where there is one, else the CPU.

    Raises:
        ModelError: there is no such device here, or it has no such precision.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {name!r} cannot be used here; choose cpu") from error
    _check(precision, device)
    return device


def copied(module: nn.Module) -> nn.Module:
    """A deep copy, of a module with the old `torch.nn.utils.weight_norm` too.

    Its hook computes the weight anew in each forward, and torch copies no computed tensor.
    """
    computed = (x for part in module.modules() for x in vars(part).values())
    values = (x for x in computed if isinstance(x, Tensor) and not x.is_leaf)
    return copy.deepcopy(module, {id(x): x.detach().clone() for x in values})


def uncompiled(module: nn.Module) -> nn.Module:
    """What `torch.compile` made a module from; a copy, where only parts of it were compiled.

    >>> net = nn.Conv2d(3, 4, 3)
    >>> uncompiled(torch.compile(net)) is net
    True
    """
    while is_compiled(module):
        module = module.get_submodule("_orig_mod")
    parts: list[Any] = list(module.modules())
    if any(is_compiled(part) or part._compiled_call_impl for part in parts):  # noqa: SLF001
        module = copied(module)  # without what `Module.compile` made
        for parent in list(module.modules()):
            for name, child in parent.named_children():
                setattr(parent, name, uncompiled(child))
    return module


def is_compiled(module: nn.Module) -> bool:
    """Whether a module stands before another one that `torch.compile` was given."""
    return "_orig_mod" in module._modules  # noqa: SLF001  (its class takes seconds to import)


def channels_last(module: nn.Module) -> nn.Module:
    """The module itself, with filters in the order in which convolutions read them fastest.

    `Module.to` fails where a parameter has five axes.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return module


@contextmanager
def computing(precision: Precision, device: torch.device) -> Iterator[None]:
    """Forwards in the block run in that precision; settings are put back after it.

    A backward pass must lie outside of autocast, but in `tf32` as its forward does.

    Raises:
        ModelError: the device has no such precision.

    >>> with computing("bf16", torch.device("cpu")):
    ...     print((torch.ones(1, 1) @ torch.ones(1, 1)).dtype)
    torch.bfloat16
    """
    _check(precision, device)
    dtype = AUTOCAST[precision]
    with ExitStack() as held:
        if device.type == "cuda":
            held.enter_context(tf32(allowed=precision == "tf32"))
        held.enter_context(torch.autocast(device.type, dtype, enabled=dtype is not None))
        yield


@contextmanager
def tf32(*, allowed: bool) -> Iterator[None]:
    """Whether CUDA rounds float32 products to TF32 in the block; settings are put back after it."""
    settings = _tf32_settings(allowed=allowed)
    with _silent():
        before = [(place, name, getattr(place, name)) for place, name, _ in settings]
    _apply(settings)
    try:
        yield
    finally:
        _apply(before)


def _tf32_settings(*, allowed: bool) -> list[tuple[Any, str, Any]]:
    """Whose attribute is to become what, in that order; none where all is so already."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    if not hasattr(cudnn, "conv"):  # torch < 2.9
        return [(cudnn, "allow_tf32", allowed), (matmul, "allow_tf32", allowed)]
    places = (cudnn.conv, cudnn.rnn, matmul)
    if all((place.fp32_precision == "tf32") == allowed for place in places):
        return []
    value = "tf32" if allowed else "ieee"
    settings: list[tuple[Any, str, Any]] = [(place, "fp32_precision", value) for place in places]
    # Reading the old setting raises where it and the new ones differ, and `cudnn.flags` in a
    # model's forward reads it. Setting it overrides the new ones, so it comes first.
    with suppress(RuntimeError), _silent():
        _ = cudnn.allow_tf32
        settings.insert(0, (cudnn, "allow_tf32", allowed))
    return settings


def _apply(settings: list[tuple[Any, str, Any]]) -> None:
    with _silent():
        for place, name, value in settings:
            setattr(place, name, value)


@contextmanager
def _silent() -> Iterator[None]:
    """Some versions of torch warn of the old API."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check(precision: Precision, device: torch.device) -> None:
    if precision == "tf32" and not (
        device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    ):
        raise ModelError(
            f"{device} does not compute in tf32, which takes a CUDA device of capability 8.0 or "
            "more; choose fp32"
        )


@contextmanager
def failures_named(spec: str, shape: Sequence[int]) -> Iterator[None]:
    """What a model raises on images of that shape becomes a ModelError of one sentence."""
    try:
        yield
    except MODEL_FAILURES as error:
        sentence = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"{spec} failed on an image of shape {tuple(shape)}: {sentence}"
        ) from error
