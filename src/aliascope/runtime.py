"""Where things run: device, precision, and what to record of both."""

import platform
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from aliascope.errors import ModelError

Precision = Literal["fp32", "bf16", "fp16"]

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What a forward is cast to; None is float32 throughout."""

MODEL_FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AttributeError)
"""What a model raises where its input does not suit it."""


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


def chosen_device(name: str | None) -> torch.device:
    """The device of that name; without one CUDA where there is one, else the CPU.

    Raises:
        ModelError: there is no such device here.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {name!r} cannot be used here; choose cpu") from error
    return device


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
