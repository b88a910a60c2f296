"""What each of several processes does in the test of the callbacks; torchrun starts it.

    torchrun --nproc-per-node 2 tests/distributed_callbacks.py lightning|transformers FOLDER

Each writes what it logged, or had to monitor, to FOLDER/RANK.json: step → name → value.
"""

import json
import os
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from test_callbacks import IMAGES, Classifier, Learner, OfLightning, OfTransformers, Pictures


class Monitored(Callback):
    """Notes what can be monitored after each step."""

    def __init__(self):
        self.found = {}

    def on_train_batch_end(self, trainer, *_):
        known = trainer.callback_metrics.items()
        values = {name: value.item() for name, value in known if name.startswith("aliascope")}
        self.found[trainer.global_step] = values


def lightning(folder):
    monitored = Monitored()
    trainer = LightningTrainer(
        max_steps=2,
        accelerator="cpu",
        devices=int(os.environ["WORLD_SIZE"]),
        strategy="ddp",
        logger=CSVLogger(folder),
        callbacks=[OfLightning(IMAGES[:5], every=1, network="net"), monitored],
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Learner(), DataLoader(Pictures(), 8))
    return monitored.found


def transformers(folder):
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=2,
        per_device_train_batch_size=8,
        use_cpu=True,
        ddp_backend="gloo",
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = Trainer(Classifier(), arguments, train_dataset=Pictures())
    trainer.add_callback(OfTransformers(trainer, IMAGES[:5], every=1, network="net"))
    trainer.train()
    return {
        row["step"]: {name: value for name, value in row.items() if name.startswith("aliascope")}
        for row in trainer.state.log_history
        if any(name.startswith("aliascope") for name in row)
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {"lightning": lightning, "transformers": transformers}[sys.argv[1]](sys.argv[2])
    (Path(sys.argv[2]) / f"{os.environ['RANK']}.json").write_text(json.dumps(found))
