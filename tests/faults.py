"""What breaks runs, for tests: kills at random moments, flipped bits, full disks, lost renames."""

import multiprocessing
import os
import subprocess
import time
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo
from torch import nn

PROCESSES = multiprocessing.get_context("forkserver")
ONE_WORKER = pytest.mark.xdist_group("faults")
"""Of all that starts such processes: their server takes ten seconds to import."""


@contextmanager
def served():
    """A server of processes that imports once: a fork of it is a real process in 30 ms.

    The first module that asks starts it, so it knows those of all.
    """
    with pytest.MonkeyPatch.context() as patch:
        paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        PROCESSES.set_forkserver_preload([__name__, "test_store", "test_faults", "test_hostile"])
        forkserver.ensure_running()
    seconds(time.sleep, 0)  # until it is there
    yield


@contextmanager
def process(target, *args):
    """A process that runs a function, and is killed at the end of the block."""
    child = PROCESSES.Process(target=target, args=args)
    child.start()
    try:
        yield child
    finally:
        child.kill()
        child.join()


def kill(target, *args, after):
    """Kill a process that runs a function after so many seconds; its exit code."""
    with process(target, *args) as child:
        child.join(after)
    return child.exitcode


def seconds(target, *args):
    """How long a process takes to run a function."""
    start = time.monotonic()
    with process(target, *args) as child:
        child.join(600)
    assert child.exitcode == 0
    return time.monotonic() - start


@contextmanager
def disk(path, size):
    """A small disk of its own, mounted at a path; its `remount` takes other options."""
    path.mkdir(exist_ok=True)

    def mount(*options):
        subprocess.run(["mount", "-t", "tmpfs", *options, str(path)], check=True,
                       capture_output=True)  # fmt: skip

    try:
        mount("-o", f"size={size}", "tmpfs")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting is not permitted")
    try:
        yield lambda options: mount("-o", f"remount,{options}", "tmpfs")
    finally:
        subprocess.run(["umount", str(path)], check=True)


def flipped(data, seed, count):
    """Copies of a file with one bit flipped in each."""
    random = np.random.default_rng(seed)
    for place, bit in zip(
        random.integers(0, len(data), count), random.integers(0, 8, count), strict=True
    ):
        copy = bytearray(data)
        copy[place] ^= 1 << bit
        yield bytes(copy)


@contextmanager
def losing_renames(share, seed):
    """Some renames are said to be done, and are not."""
    chance, replace, lost = np.random.default_rng(seed), os.replace, []

    def perhaps(source, target, *args, **options):
        if chance.random() < share:
            lost.append(target)
            Path(source).unlink()
        else:
            replace(source, target, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", perhaps)
        yield lost


# Networks of a few kB, and pictures of as much.


def _stage(channels, out):
    conv = nn.Conv2d(channels, out, 3, 2, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU())


def small():
    """Of two strided layers; also the spec faults:small."""
    torch.set_num_threads(1)  # of each process that builds one
    torch.manual_seed(0)
    net = nn.Sequential(
        _stage(3, 4), _stage(4, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    )
    net.pretrained_cfg = {"input_size": (3, 32, 32), "crop_pct": 0.5, "mean": (0.5,) * 3}
    return net.eval()


def pictures(folder, count):
    """PNG files of noise that differs, by their names."""
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.integers(0, 256, (8 + i, 8 + i, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((64, 64)).save(folder / f"{i:02}.png")
    return folder
