"""Views a second of a repair's training, and what makes it faster.

    python benchmarks/bench_training.py [MODEL] [--steps 8] [--rounds 3]

Each round trains for a few steps in each way, one after the other, in an order that is drawn anew;
ratios are medians over rounds. The steps run through the whole schedule, so that views which grow
are counted with all their sizes. The first step of each training, which also sets up, is left out.
"""

import argparse
import statistics
import time

import numpy as np
import torch

from aliascope import load_model
from aliascope.finetune import finetune
from aliascope.repair.run import SETTINGS
from aliascope.runtime import environment, keep_memory

EARLY = ("conv_stem", "bn1", "blocks.0", "blocks.1")
"""Of EfficientNet: what works on a half and a quarter of the picture's sides."""

WAYS = {
    "as repair trains": {},
    "views from half the size on": {"resolution": 0.5},
    "no shifted views": {"consistency": 0.0},
    "no feature maps": {"feature_weight": 0.0},
    "stem and first blocks frozen": {"frozen": EARLY},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="efficientnet_lite0@folded:3")
    parser.add_argument("--teacher", default="efficientnet_lite0")
    parser.add_argument("--images", default="photos")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    given = parser.parse_args()
    keep_memory()  # as the command line does
    student, teacher = load_model(given.model), load_model(given.teacher)
    draw = np.random.default_rng(0)
    seconds = {name: [] for name in WAYS}
    for _ in range(given.rounds):
        for name in draw.permutation(list(WAYS)):
            seconds[name].append(trained(student, teacher, given, WAYS[name]))
    print(f"{given.model} from {given.teacher}, {given.steps} steps of {given.batch} views")
    first = next(iter(WAYS))
    for name, taken in seconds.items():
        rate = given.batch / statistics.median(taken)
        ratios = [a / b for a, b in zip(taken, seconds[first], strict=True)]
        print(f"{name:30} {rate:6.1f} views/s   {statistics.median(ratios):.2f} of the first")
    print(environment(torch.device(given.device))["hardware"])


def trained(student, teacher, given, options):
    """Seconds a step."""
    stamps = []
    finetune(
        student, given.images, teacher, settings=SETTINGS, steps=given.steps,
        batch_size=given.batch, device=given.device, precision=given.precision,
        holdout=0, preprocess=teacher.preprocessing,
        progress=lambda *_: stamps.append(time.perf_counter()), **options,
    )  # fmt: skip
    return (stamps[-1] - stamps[1]) / (given.steps - 1)


if __name__ == "__main__":
    main()
