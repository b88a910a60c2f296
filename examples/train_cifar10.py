"""Train a small residual network on CIFAR-10 and watch how it aliases, layer by layer.

    python examples/train_cifar10.py DATA [--out OUT] [--epochs 5] [--limit 50000]

DATA is a folder with train.parquet and test.parquet as Hugging Face's image data sets have them (an
image column of embedded files, and a label), or the name of such a data set on the Hub. OUT gets
TensorBoard curves (`tensorboard --logdir OUT`), metrics.csv and curves.svg; a table is printed.
Needs the extras `train` and `hf`.
"""

import argparse
import logging
import time
import warnings
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import aliascope
from aliascope.callbacks.lightning import AliasingCallback

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
WATCHED = 256
"""Test images that the callback looks at."""


class Block(nn.Module):
    """Two convolutions beside a shortcut, as in ResNet."""

    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.downsample = nn.Sequential()
        if stride > 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x):
        """Conv, norm, ReLU, conv, norm; plus the shortcut; ReLU."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Network(nn.Sequential):
    """Ten classes of 32 × 32 pictures; samples at three resolutions."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(2)
        self.layer1 = Block(16, 16, 1)
        self.layer2 = Block(16, 32, 2)
        self.layer3 = Block(32, 64, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(64, 10)


class Learner(LightningModule):
    """SGD with one cycle of the learning rate; flips and moves of up to four pixels."""

    def __init__(self, steps):
        super().__init__()
        self.net = Network()
        self.steps = steps

    def training_step(self, batch, _index):
        """One flip and one move for the whole batch."""
        images, labels = batch
        if torch.rand(()) < 0.5:
            images = images.flip(-1)
        top, left = torch.randint(9, (2,)).tolist()
        images = F.pad(images, (4, 4, 4, 4))[:, :, top : top + 32, left : left + 32]
        loss = F.cross_entropy(self.net(images), labels)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, _index):
        """Top-1 accuracy."""
        images, labels = batch
        self.log("accuracy", (self.net(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self):
        """The rate rises to 0.2 and falls to nothing."""
        optimiser = torch.optim.SGD(
            self.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.2, total_steps=self.steps)
        return [optimiser], [{"scheduler": cycle, "interval": "step"}]


def pictures(data, split, limit):
    """All pictures of a split, normalised, and their labels."""
    source = aliascope.open_images(f"hf:{data}:{split}", limit=limit)
    images = list(source)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    pixels = torch.stack([image.pixels for image in images]).float() / 255
    return (pixels - mean) / std, torch.tensor([image.label for image in images])


def draw(history, layers, steps_per_epoch, path):
    """Alias share by layer, and what becomes of the answers, against the epoch."""
    shares = history[[f"aliascope/alias_share/{layer}" for layer in layers]].dropna()
    answers = history[["aliascope/logit_instability", "aliascope/agreement"]].dropna()
    titles = {"alias share": shares, "answers under one-pixel shifts": answers}
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "aliascope"}):
        figure = Figure(figsize=(11, 3.2), layout="constrained")
        for axes, (title, table) in zip(figure.subplots(1, 2), titles.items(), strict=True):
            for mark, name in zip("osv^D", table, strict=False):
                label = name.rpartition("/")[2]
                axes.plot(
                    table.index / steps_per_epoch, table[name], marker=mark, ms=4, label=label
                )
            axes.set(xlabel="epoch", title=title, ylim=(0, None))
            axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        figure.savefig(path, metadata={"Date": None})


def by_epoch(history, layers, epochs, steps_per_epoch):
    """What was measured nearest to the end of each epoch; a column an epoch, 0 before training."""
    names = [f"aliascope/{figure}/{layer}" for figure in ("alias_share", "avr") for layer in layers]
    names += ["aliascope/logit_instability", "aliascope/agreement"]
    measured = history[names].dropna()
    ends = [
        min(measured.index, key=lambda step: abs(step - epoch * steps_per_epoch))
        for epoch in range(epochs + 1)
    ]
    table = measured.loc[ends].set_axis(pd.RangeIndex(epochs + 1, name="epoch"))
    return table.rename(columns=lambda name: name.removeprefix("aliascope/")).T


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("--out", type=Path, default=Path("cifar10"))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--limit", type=int, default=50_000)
    parser.add_argument("--batch-size", type=int, default=128)
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for known in ("does not have many workers", "isinstance.treespec", "Experiment logs directory"):
        warnings.filterwarnings("ignore", f".*{known}")
    seed_everything(0, verbose=False)
    train = TensorDataset(*pictures(options.data, "train", options.limit))
    test = TensorDataset(*pictures(options.data, "test", options.limit))
    loader = DataLoader(train, options.batch_size, shuffle=True, drop_last=True)
    steps = len(loader)
    learner = Learner(options.epochs * steps)
    layers = [layer.name for layer in aliascope.strided_layers(learner.net, test[:1][0])]
    trainer = Trainer(
        max_epochs=options.epochs,
        accelerator="cpu",
        logger=[
            TensorBoardLogger(options.out, name=None, version=""),
            CSVLogger(options.out, name=None, version=""),
        ],
        callbacks=[
            AliasingCallback(
                test[:WATCHED][0], every=max(steps // 4, 1), network="net", batch_size=64
            )
        ],
        log_every_n_steps=min(steps, 50),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    started = time.monotonic()
    trainer.fit(learner, loader, DataLoader(test, 500))
    seconds = time.monotonic() - started
    history = pd.read_csv(options.out / "metrics.csv").groupby("step").mean()
    draw(history, layers, steps, options.out / "curves.svg")
    print(by_epoch(history, layers, options.epochs, steps).to_string(float_format="{:.3f}".format))
    accuracy = history["accuracy"].dropna().iloc[-1]
    print(f"\naccuracy {accuracy:.3f} on {len(test)} test images; {seconds:.0f} s")


if __name__ == "__main__":
    main()
