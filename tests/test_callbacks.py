"""Both callbacks on a small network: what they log, when, and that the training is as without."""

import json
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainingArguments

from aliascope.callbacks.lightning import AliasingCallback as OfLightning
from aliascope.callbacks.transformers import AliasingCallback as OfTransformers
from aliascope.callbacks.watch import Watch
from aliascope.errors import ModelError
from aliascope.metrics import STABILITY, aliasing

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
]

IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
NAMES = [
    *(f"aliascope/{figure}/{layer}" for figure in ("alias_share", "avr") for layer in ("0", "3")),
    *(f"aliascope/{name}" for name in STABILITY),
]


def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Dropout(), nn.Flatten(), nn.Linear(8 * 4 * 4, 2))


class Pictures(Dataset):
    """Stripes that stand or lie, and noise."""

    def __len__(self):
        return 32

    def __getitem__(self, index):
        picture = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(index))
        stripes = torch.arange(16) % 4 // 2 * 4.0
        return (
            {"pixel_values": picture + stripes.expand(16, 16), "labels": index % 2}
            if (index % 2)
            else {"pixel_values": picture + stripes[:, None].expand(16, 16), "labels": 0}
        )


class Learner(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _index):
        return F.cross_entropy(self(batch["pixel_values"]), batch["labels"])

    def validation_step(self, batch, _index):
        self.log("loss", self.training_step(batch, 0))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Classifier(nn.Module):
    """As Hugging Face's are: a loss where there are labels, and logits."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, pixel_values, labels=None):
        logits = self.net(pixel_values)
        found = {"logits": logits}
        if labels is not None:
            found = {"loss": F.cross_entropy(logits, labels), **found}
        return Output(found)


class Output(dict):
    __getattr__ = dict.__getitem__


def curves(folder):
    """Tag → [(step, value)] of all event files below a folder."""
    found = {}
    for path in folder.rglob("events*"):
        events = EventAccumulator(str(path))
        events.Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, []).extend((e.step, e.value) for e in events.Scalars(tag))
    return {tag: sorted(set(points)) for tag, points in found.items()}


def initial():
    return {f"aliascope/{name}": x.mean().item() for name, x in aliasing(net(), IMAGES).items()}


def fitted(folder, *callbacks, **options):
    """What Lightning makes of the network in eight steps, and its trainer."""
    learner = Learner()
    torch.manual_seed(1)
    trainer = LightningTrainer(
        **{
            "max_epochs": 2,
            "accelerator": "cpu",
            "logger": TensorBoardLogger(folder),
            "callbacks": list(callbacks),
            "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 5,
        }
        | options
    )
    loaders = (DataLoader(Pictures(), 8, shuffle=True), DataLoader(Pictures(), 8))
    trainer.fit(learner, *loaders)
    return learner, trainer


def assert_same(one, other):
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


class TestLightning:
    def test_curves_of_every_third_step_in_tensorboard(self, tmp_path):
        learner, trainer = fitted(tmp_path, OfLightning(IMAGES, every=3, network="net"))
        found = curves(tmp_path)
        assert [name for name in found if name.startswith("aliascope")] == NAMES
        for name in NAMES:
            assert [step for step, _ in found[name]] == [0, 3, 6]
        for name, value in initial().items():
            assert found[name][0][1] == pytest.approx(value, rel=1e-4, abs=1e-6)
            assert trainer.callback_metrics[name].item() == pytest.approx(found[name][2][1])
        shares = [value for _, value in found["aliascope/alias_share/3"]]
        assert len(set(shares)) == 3
        assert learner.training

    def test_the_training_is_as_without(self, tmp_path):
        plain, _ = fitted(tmp_path)
        seen, _ = fitted(tmp_path, OfLightning(IMAGES, every=1))
        assert_same(plain, seen)
        assert not torch.equal(net()[0].weight, seen.net[0].weight)

    def test_at_each_validation_and_what_a_checkpoint_monitors(self, tmp_path):
        monitor = "aliascope/alias_share/net.3"
        best = ModelCheckpoint(tmp_path / "best", monitor=monitor, mode="min")
        fitted(tmp_path, OfLightning(IMAGES), best)
        points = curves(tmp_path)[monitor]
        assert [step for step, _ in points] == [0, 4, 8]  # nothing of the sanity check
        assert best.best_model_score.item() == pytest.approx(min(x for _, x in points[1:]))

    def test_with_gradients_of_two_batches_a_step_counts_once(self, tmp_path):
        callback = OfLightning(IMAGES, every=1, shifts=None)
        fitted(tmp_path, callback, accumulate_grad_batches=2, max_epochs=1)
        assert [step for step, _ in curves(tmp_path)["aliascope/avr/net.0"]] == [0, 1, 2]

    def test_a_network_that_is_not_there(self, tmp_path):
        with pytest.raises(ModelError, match="Learner has no module 'model': choose from net"):
            fitted(tmp_path, OfLightning(IMAGES, network="model"))


def trained(folder, *, callback=None, **options):
    """What the Trainer makes of the network in eight steps, and the trainer."""
    model = Classifier()
    arguments = TrainingArguments(
        **{
            "output_dir": str(folder),
            "num_train_epochs": 2,
            "per_device_train_batch_size": 8,
            "use_cpu": True,
            "report_to": "tensorboard",
            "logging_steps": 2,
            "save_strategy": "no",
            "learning_rate": 0.05,
            "disable_tqdm": True,
            "seed": 1,
            "dataloader_pin_memory": False,
        }
        | options
    )
    trainer = Trainer(model, arguments, train_dataset=Pictures(), eval_dataset=Pictures())
    if callback:
        trainer.add_callback(callback(trainer))
    with redirect_stdout(StringIO()):
        trainer.train()
    return model, trainer


class TestTransformers:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "curves"))

    def test_curves_of_every_fourth_step_in_the_history_and_in_tensorboard(self, tmp_path):
        model, trainer = trained(
            tmp_path, callback=lambda t: OfTransformers(t, IMAGES, every=4, network="net")
        )
        rows = [row for row in trainer.state.log_history if NAMES[0] in row]
        assert [row["step"] for row in rows] == [0, 4, 8]
        for name, value in initial().items():
            assert rows[0][name] == pytest.approx(value, rel=1e-4, abs=1e-6)
        assert len({row["aliascope/alias_share/3"] for row in rows}) == 3
        found = curves(tmp_path)
        for name in NAMES:
            values = [value for _, value in found[f"train/{name}"]]
            assert values == pytest.approx([row[name] for row in rows])
        assert not model.net[0].weight.isnan().any()

    def test_the_training_and_its_own_log_are_as_without(self, tmp_path):
        plain, before = trained(tmp_path)
        seen, after = trained(tmp_path, callback=lambda t: OfTransformers(t, IMAGES, every=2))
        assert_same(plain, seen)
        losses = [
            [(row["step"], row["loss"]) for row in trainer.state.log_history if "loss" in row]
            for trainer in (before, after)
        ]
        assert losses[0] == losses[1]
        assert [step for step, _ in losses[0]] == [2, 4, 6, 8]

    def test_at_each_evaluation(self, tmp_path):
        _, trainer = trained(
            tmp_path,
            callback=lambda t: OfTransformers(t, IMAGES, shifts=None),
            eval_strategy="epoch",
        )
        rows = [row for row in trainer.state.log_history if "aliascope/avr/net.0" in row]
        assert [row["step"] for row in rows] == [0, 4, 8]
        assert not set(rows[0]) & {f"aliascope/{name}" for name in STABILITY}


def test_no_number_of_steps():
    with pytest.raises(ModelError, match="every=0 is no number of steps"):
        Watch(IMAGES, every=0)


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["lightning", "transformers"])
def test_two_processes_share_the_images_and_have_the_same_means(framework, tmp_path):
    script = Path(__file__).with_name("distributed_callbacks.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(script), framework, str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["2"] == second["2"]
    assert list(first["2"]) == NAMES
    assert first["1"] != first["2"]
    found = {name: x.mean().item() for name, x in aliasing(net(), IMAGES[:5]).items()}
    if framework == "transformers":
        before = first["0"]
    else:
        rows = pd.read_csv(next(tmp_path.rglob("metrics.csv"))).dropna(axis=1, how="all")
        assert list(rows.step) == [0, 1, 2]
        before = rows.iloc[0][NAMES].to_dict()
        assert rows.iloc[2][NAMES].to_dict() == pytest.approx(first["2"], rel=1e-4)
    wanted = {f"aliascope/{name}": value for name, value in found.items()}
    assert before == pytest.approx(wanted, abs=1e-6)
