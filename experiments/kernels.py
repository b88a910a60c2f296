"""Does a larger kernel sample with less aliasing? One small network, its strided kernels varied.

    python experiments/kernels.py CIFAR10 --out RUNS

Trains the network of train_downsamplers.py, on the same pictures in the same order, with strided
convolutions of 1, 3, 5 and 7 taps a side (as built: 3), three seeds each; all other weights begin
alike. Each is judged as train_downsamplers.py and spectral_delegation.py judge, at its
initialisation (batch-norm recalibrated) and trained. RUNS gets a file a network; those that are
there are not trained again. Writes docs/studies/delegation/kernels.csv.
"""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from spectral_delegation import ANSWERS, OUT, by_depth, first
from torch import nn
from train_downsamplers import accuracy, in_processes, pictures, train

from aliascope import load_model, measure, recalibrate
from aliascope.models.catalogues import CIFAR
from aliascope.statistics import paired

BUILT, SIDES = 3, (1, 3, 5, 7)


def network(side, seed):
    """The network with strided kernels of that side, drawn as the others are; shortcuts stay."""
    model = load_model(CIFAR, weights="random", seed=seed)
    torch.manual_seed(seed)
    for name, conv in [*model.module.named_modules()]:
        if isinstance(conv, nn.Conv2d) and conv.stride == (2, 2) and conv.kernel_size != (1, 1):
            size = conv.in_channels, conv.out_channels, side, 2, side // 2
            wider = nn.Conv2d(*size, bias=False)  # initialised as the others are
            if side != BUILT:
                model.module.set_submodule(name, wider)
    return model


def judged(model, data, runs, limit):
    """How it does under crop shifts, and at each stride what aliasing carries."""
    images = first(limit, data, "test", runs)
    found = measure(model, images, shifts="crop", device="cpu", batch_size=100)
    row = found.images[list(ANSWERS)].astype(float).mean().to_dict()
    layers = found.layers.groupby("layer", observed=True)["alias_share"].mean()
    row |= {f"alias_share.{name}": share for name, share in layers.items() if "conv" in name}
    for depth in by_depth(model, data, runs, max(limit // 5, 2)):
        stride = depth.pop("stride")
        row |= {f"{name}.{stride}": value for name, value in depth.items()}
    return row


def job(named, *, data, out, epochs, limit, device):
    """Train one network and judge it before and after."""
    side, seed = named
    torch.set_num_threads(1)
    model = network(side, seed)
    blank = recalibrate(model, first(1024, data, "train", out), batch_size=128, device="cpu")
    known = {"kernel": side, "seed": seed}
    rows = [known | {"stage": "initial"} | judged(replace(model, module=blank), data, out, limit)]
    losses = train(model, *pictures(data, "train", out), epochs=epochs, seed=seed, device=device)
    row = {"loss": losses[-1], "accuracy": accuracy(model, *pictures(data, "test", out), "cpu")}
    rows.append(known | {"stage": "trained"} | row | judged(model, data, out, limit))
    (out / f"kernel{side}-{seed}.json").write_text(json.dumps(rows, indent=1) + "\n")


def compared(rows):
    """A row a stage, kernel and figure: against the kernel as built, paired by seed."""
    tables = []
    for stage, own in rows.groupby("stage", sort=False):
        figures = own.drop(columns=["kernel", "seed", "stage"]).dropna(axis=1).columns
        by_side = {side: x.set_index("seed")[figures] for side, x in own.groupby("kernel")}
        for side, table in by_side.items():
            seeds = table.index.intersection(by_side[BUILT].index)
            found = paired(by_side[BUILT].loc[seeds], table.loc[seeds], seeds)
            tables.append(found.assign(stage=stage, kernel=side).reset_index(names="figure"))
    names = ["stage", "kernel", "figure", "groups", "mean_a", "mean_b", "difference", "low", "high"]
    return pd.concat(tables)[[*names, "p"]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", metavar="CIFAR10")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=500, help="test pictures to measure")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread on a CPU")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--table", type=Path, default=OUT / "kernels.csv")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        pictures(given.data, split, given.out)
    named = [(side, seed) for seed in range(given.seeds) for side in SIDES]
    files = {(side, seed): given.out / f"kernel{side}-{seed}.json" for side, seed in named}
    fixed = {"data": given.data, "out": given.out, "epochs": given.epochs, "limit": given.limit}
    work = partial(job, device=given.device, **fixed)
    missing = [one for one in named if not files[one].exists()]
    for _ in in_processes(work, missing, given.workers):
        pass
    rows = pd.DataFrame([row for path in files.values() for row in json.loads(path.read_text())])
    found = compared(rows)
    found.to_csv(given.table, index=False, float_format="%.6g")
    wide = found.pivot_table("mean_b", "figure", ["stage", "kernel"], sort=False)
    print(wide.to_string(float_format="{:.4f}".format))


if __name__ == "__main__":
    main()
