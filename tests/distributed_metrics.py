"""What each of several processes does in the test of the metrics; torchrun starts it as a script.

    torchrun --nproc-per-node 3 tests/distributed_metrics.py FOLDER

Each writes what it computed to FOLDER/RANK.json.
"""

import json
import os
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DistributedSampler
from torchmetrics import MeanMetric, Metric

from aliascope.callbacks.watch import Watch
from aliascope.metrics import Aliasing, AliasViolationRatio, ShiftInstability

IMAGES = 10


class MeanOfMeans(Metric):
    """How not to do it: each process its mean, then the mean of these."""

    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("mean", torch.zeros(()), dist_reduce_fx="mean")

    def update(self, values):
        self.mean = values.mean()

    def compute(self):
        return self.mean


def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 4 * 4, 5)).eval()


def material():
    """Images of very different aliasing, so that the mean depends on who counts how often."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(IMAGES, 3, 16, 16, generator=generator)
    smooth = noise.mean((2, 3), keepdim=True) + torch.linspace(0, 1, 16)
    strength = torch.linspace(0, 1, IMAGES)[:, None, None, None]
    logits = torch.randn(5, IMAGES, 7, generator=generator)
    logits[1:] = logits[:1] + strength[:, 0, 0] * logits[1:]
    return strength * noise + (1 - strength) * smooth, logits


def shares(ranks):
    """Case → rank → the ids of its batches."""
    last = [[] for _ in range(ranks - 2)]
    padded = [
        list(DistributedSampler(range(IMAGES), ranks, rank, shuffle=True, seed=3))
        for rank in range(ranks)
    ]
    return {
        "7 + 3": [[range(7)], [range(7, 10)], *last],
        "10 + 0": [[range(7), range(7, 10)], [], *last],
        "padded": [[ids[:2], ids[2:]] for ids in padded],
        "padded by hand": [[range(7)], [range(7, 10), range(4)], *last],
    }


def computed(rank, ranks):
    """What this process computes of each case, together with the others."""
    images, logits = material()
    model = net()
    results = {}
    for case, batches in shares(ranks).items():
        padded = "padded" in case
        samples = IMAGES if padded else None
        metrics = {
            "avr": AliasViolationRatio(2, samples=samples),
            "answers": ShiftInstability(samples=samples),
            "logits": ShiftInstability("logit_instability", samples=samples),
            "all": Aliasing(model, images, samples=samples),
        }
        numbers = {"wrong": MeanOfMeans(), "right": MeanMetric()}
        for batch in map(list, batches[rank]):
            ids = batch if padded else None
            metrics["avr"].update(images[batch], ids=ids)
            for name in ("answers", "logits"):
                metrics[name].update(logits[:, batch], ids=ids)
            metrics["all"].update(model, images[batch], ids=ids)
            for metric in numbers.values():
                metric.update(torch.tensor(batch).float())
        found = {name: metric.compute() for name, metric in metrics.items()}
        found |= found.pop("all")
        found |= {name: metric.compute() for name, metric in numbers.items()}
        results[case] = {name: value.item() for name, value in found.items()}
    results["watch"] = Watch(images).measured(model)
    return results


def run(rank, ranks, folder):
    """One process of several."""
    torch.set_num_threads(1)
    # torchmetrics says so of a process to which no image fell.
    warnings.filterwarnings("ignore", "The ``compute`` method of metric .* was called before")
    store = dist.FileStore(str(Path(folder) / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    try:
        (Path(folder) / f"{rank}.json").write_text(json.dumps(computed(rank, ranks)))
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    run(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), sys.argv[1])
