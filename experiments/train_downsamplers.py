"""Train one small network on CIFAR-10 seven times a seed: only the downsampler differs.

    python experiments/train_downsamplers.py CIFAR10 --out RUNS

CIFAR10 is a folder with train.parquet and test.parquet (an image column of embedded files, and a
label), or the name of such a data set on the Hub (extra `hf`). RUNS gets the weights of each
network and a JSON file that says how it did; networks that are there already are not trained again,
so that a killed run goes on. Seed by seed: all methods of one seed, then those of the next. With
--start, the networks of an earlier RUNS are trained on, for one more cycle of the learning rate.
"""

import argparse
import json
import multiprocessing
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from aliascope import load_model, open_images, save_model
from aliascope.models.catalogues import CIFAR

METHODS = ("strided", "blurpool", "ideal", "aps", "lps", "tips", "wavelet")
RECIPE = {"batch": 64, "peak": 0.1, "momentum": 0.9, "decay": 5e-4}
WINDOW = 24


def spec_of(method):
    """The same network, sampled as it was built, or by a method with the defaults of surgery."""
    return CIFAR if method == "strided" else f"{CIFAR}@{method}"


def pictures(data, split, folder, limit=None):
    """All pictures of a split as 8-bit pixels (N, 3, 32, 32), and their labels; decoded once."""
    kept = folder / f"{split}{limit or ''}.pt"
    if not kept.exists():
        images = list(open_images(f"hf:{data}:{split}", limit=limit))
        pixels = torch.stack([image.pixels for image in images])
        torch.save((pixels, torch.tensor([image.label for image in images])), kept)
    return torch.load(kept, mmap=True)


def windows(pixels, generator):
    """A window of each picture, somewhere in it, every other one mirrored: of real pixels only."""
    count, _, side, _ = pixels.shape
    places = pixels.unfold(2, WINDOW, 1).unfold(3, WINDOW, 1)  # (B, 3, 9, 9, 24, 24)
    top, left = torch.randint(side - WINDOW + 1, (2, count), generator=generator)
    cut = places[torch.arange(count), :, top, left]
    mirrored = torch.rand(count, generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], cut.flip(3), cut)


def train(model, pixels, labels, *, epochs, seed, device):
    """SGD with one cycle of the learning rate; the mean loss of each epoch.

    The order of the batches, the windows and the mirrored ones depend on the seed alone.
    """
    torch.manual_seed(seed)  # of what a layer draws in training, as LPS does
    generator = torch.Generator().manual_seed(seed)
    net = model.module.to(device, memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(
        net.parameters(),
        lr=RECIPE["peak"],
        momentum=RECIPE["momentum"],
        weight_decay=RECIPE["decay"],
        nesterov=True,
    )
    steps = len(labels) // RECIPE["batch"]
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, RECIPE["peak"], epochs * steps)
    losses = []
    for _ in range(epochs):
        order, total = torch.randperm(len(labels), generator=generator), 0.0
        for chosen in order[: steps * RECIPE["batch"]].split(RECIPE["batch"]):
            images = windows(pixels[chosen], generator).to(device).float() / 255
            images = model.preprocessing.normalise(images)
            images = images.contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(net(images), labels[chosen].to(device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            cycle.step()
            total += loss.item()
        losses.append(total / steps)
    net.eval().to("cpu", memory_format=torch.contiguous_format)
    return losses


@torch.no_grad()
def accuracy(model, pixels, labels, device):
    """Top-1 on the window in the middle of each picture."""
    edge, net = (pixels.shape[2] - WINDOW) // 2, model.module.to(device)
    middle = pixels[:, :, edge : edge + WINDOW, edge : edge + WINDOW]
    right = 0
    for cut, wanted in zip(middle.split(500), labels.split(500), strict=True):
        images = model.preprocessing.normalise(cut.to(device).float() / 255)
        right += (net(images).argmax(1).cpu() == wanted).sum().item()
    net.cpu()
    return right / len(labels)


def job(named, *, data, out, start, epochs, limit, device):
    """Train one network, judge it, write it; the JSON file, which says that it is done, last."""
    method, seed = named
    name, before, drawn = f"{method}-{seed}", 0, seed
    if torch.device(device).type == "cpu":
        torch.set_num_threads(1)
    model = load_model(spec_of(method), weights="random", seed=seed)
    if start:
        model = load_model(str(start / f"{name}.safetensors"))
        before = json.loads((start / f"{name}.json").read_text())["epochs"]
        drawn += 1000 * before  # other batches than before, the same for all methods
    started, busy = time.monotonic(), time.process_time()
    losses = train(
        model, *pictures(data, "train", out, limit), epochs=epochs, seed=drawn, device=device
    )
    known = {
        "method": method,
        "seed": seed,
        "epochs": before + epochs,
        "accuracy": accuracy(model, *pictures(data, "test", out, limit), device),
        "loss": losses[-1],
        "losses": losses,
        "seconds": round(time.monotonic() - started, 1),
        "processor_seconds": round(time.process_time() - busy, 1),
    }
    save_model(model, out / f"{name}.safetensors")
    (out / f"{name}.json").write_text(json.dumps(known, indent=1) + "\n")
    return known


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", metavar="CIFAR10")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="an earlier --out, to go on from")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="so many pictures of each split")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread on a CPU")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        pictures(given.data, split, given.out, given.limit)
    missing = [
        (method, seed)
        for seed in range(given.seeds)
        for method in given.methods
        if not (given.out / f"{method}-{seed}.json").exists()
    ]
    work = partial(
        job,
        data=given.data,
        out=given.out,
        start=given.start,
        epochs=given.epochs,
        limit=given.limit,
        device=given.device,
    )
    for known in in_processes(work, missing, given.workers):
        del known["losses"]
        print(*(f"{name} {value}" for name, value in known.items()), flush=True)


def in_processes(work, named, workers):
    """What the work makes of each, as they end up; in this very process where one is enough."""
    if workers == 1:
        yield from map(work, named)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(work, named)


if __name__ == "__main__":
    main()
