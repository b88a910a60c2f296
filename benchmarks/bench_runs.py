"""How a run directory of many small parts behaves: opening, reading, checking, merging.

    python benchmarks/bench_runs.py [--parts 100000] [--images 12] [--shards 1000]

Writes a run as so many shards would (made-up rows of 20 layers) into a temporary folder and times
each step of a reader, before and after `aliascope merge`. Files are not synced while they are made:
what is measured is listing and reading them.
"""

import argparse
import platform
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from aliascope import Run, merge, verify
from aliascope.measure.writing import RunWriter
from aliascope.records import StridedLayer
from aliascope.results import files

LAYERS = [
    StridedLayer(f"layer{k}", "conv", (3, 3), (2.0, 2.0), (8, 56, 56), (8, 28, 28), (2.0, 2.0), k,
                 shortcut=False)
    for k in range(20)
]  # fmt: skip
METRICS = ("avr", "avr_box", "avr_ac", "avr_box_ac", "sampled_avr", "sampled_avr_box")
METRICS += ("sampled_avr_ac", "sampled_avr_box_ac", "alias_share")
IMAGE_METRICS = ("confidence", "sis", "sis_half", "agreement", "logit_instability")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=12, help="of a part")
    parser.add_argument("--shards", type=int, default=1000)
    given = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {given.parts} parts of {given.images} "
          f"images and {len(LAYERS)} layers, by {given.shards} shards")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        with timed("written"):
            write(path, given)
        with timed("start"), shard(path, given.shards - 1, given.shards) as writer:
            writer.finish()
        read(path)
        with timed("verify"):
            print(verify(path).verdict)
        with timed("merge"):
            merge(path)
        print(f"merged into {len(Run.open(path).parts)} parts")
        read(path)
        with timed("verify"):
            print(verify(path).verdict)


def write(path, given):
    """As the shards would, one after the other."""
    files._sync = lambda _: None
    random = np.random.default_rng(0)
    for index in range(given.shards):
        with shard(path, index, given.shards) as writer:
            for part in range(given.parts // given.shards):
                ids = [f"{index}/{part}/{k}.jpg" for k in range(given.images)]
                rows = {name: random.random(len(ids)) for name in IMAGE_METRICS}
                layers = {name: random.random((len(ids), len(LAYERS))) for name in METRICS}
                writer.add({"image_id": ids, "group": ids} | rows, layers)
                writer._save = lambda: None  # the record is written once, at the end
                writer._flush()
                del writer._save
            writer.finish()


def shard(path, index, count):
    """Who writes one of them; on entering, what the shards before have written lies there."""
    return RunWriter(
        path, {"model": "m", "images": "i"}, LAYERS, {"listing": "these"},
        shard=(index, count), flush_seconds=1e9,
    )  # fmt: skip


def read(path):
    with timed("open"):
        run = Run.open(path)
    with timed("images"):
        count = len(run.images)
    with timed("layers"):
        rows = len(run.layers)
    print(f"{count} images, {rows} rows of layers")


@contextmanager
def timed(name):
    start = time.perf_counter()
    yield
    print(f"{name:>8} {time.perf_counter() - start:8.1f} s", flush=True)


if __name__ == "__main__":
    main()
