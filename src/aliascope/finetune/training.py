"""The training loop: self-distillation on unlabelled pictures, one step after another."""

import difflib
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from aliascope.errors import ModelError, RunError
from aliascope.finetune.checkpoint import Checkpoints, State
from aliascope.finetune.data import Cut, Photos, Views, views
from aliascope.finetune.evaluation import HeldOut
from aliascope.finetune.losses import Objective, Runner, feature_layers, penalised
from aliascope.finetune.optimisation import Average, optimiser, rate_at, side_at
from aliascope.finetune.settings import FinetuneSettings
from aliascope.images.ahead import waits_for
from aliascope.images.preprocessing import Preprocessing
from aliascope.measure.fusion import fuse_batch_norm
from aliascope.models import LoadedModel
from aliascope.records import Report
from aliascope.runtime import copied, failures_named, tf32
from aliascope.taps import strided_layers


class Training:
    """Student, teacher and what moves the one towards the other."""

    def __init__(
        self,
        student: LoadedModel,
        teacher: LoadedModel,
        settings: FinetuneSettings,
        preprocessing: Preprocessing,
        device: torch.device,
    ) -> None:
        example = student.example(preprocessing.crop)
        module = frozen(copied(student.module), settings.frozen)
        self._name = student.spec
        with failures_named(student.spec, example.shape):
            layers, features = [], {}
            if settings.alias_penalty:
                layers = penalised(strided_layers(module, example), settings.alias_layers)
            if settings.feature_weight:
                features = feature_layers(module, teacher.module, example)
        with failures_named(teacher.spec, example.shape):
            folded = fuse_batch_norm(teacher.module, example).requires_grad_(requires_grad=False)
        module, self.guide = _placed(module, device), _placed(folded, device)
        if not any(p.requires_grad for p in module.parameters()):
            raise ModelError(f"{student.spec} has no parameter that requires a gradient")
        self.objective = Objective(
            Runner(module, settings.precision, [*features.values()], layers),
            Runner(self.guide, settings.teacher_precision or settings.precision, [*features]),
            settings,
            preprocessing,
        )
        self.progress = State(
            module,
            Average(module, settings.ema),
            optimiser(module, settings),
            torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16"),
        )
        self.settings = settings
        self.device = device
        margin = 2 * self.objective.margin
        self._cut = Cut((0, 0), settings.scale, settings.flip, preprocessing.interpolation)
        self._crop, self._margin = preprocessing.crop, margin
        self._whole = True
        """Whether the state is that after a whole step."""

    def run(
        self,
        checkpoints: Checkpoints,
        held_out: HeldOut,
        photos: Photos,
        *,
        checkpoint_seconds: int | float,
        threads: int | None,
        report: Report,
    ) -> None:
        """Do what is still to do of the steps, evaluate on the way, keep checkpoints."""
        settings, state = self.settings, self.progress
        if not checkpoints.restore(state):
            checkpoints.save(state)
        self._set_modes()
        batches = views(
            photos,
            self.cut_at,
            range(state.step, settings.steps),
            seed=settings.seed,
            batch_size=settings.batch_size,
            mixup=settings.mixup,
            threads=threads,
        )
        saved, waiting = time.monotonic(), "decoding"
        try:
            with closing(batches):
                while True:
                    report(state.step, settings.steps, waiting)
                    if self._due(held_out):
                        self._evaluate(held_out)
                        saved = -math.inf
                    if time.monotonic() - saved >= checkpoint_seconds:
                        checkpoints.save(state)
                        saved = time.monotonic()
                    if state.step == settings.steps:
                        break
                    waiting = self.step(batches)
                    state.unreadable |= photos.unreadable
        except (ModelError, RunError):
            raise
        except BaseException:
            if self._whole:
                checkpoints.save(state)
            raise
        checkpoints.finish(state)

    def cut_at(self, step: int) -> Cut:
        """How the views of a step are cut."""
        rows, columns = (side_at(step, side, self.settings) + self._margin for side in self._crop)
        return self._cut._replace(size=(rows, columns))

    def step(self, batches: Iterator[Views]) -> str:
        """One step of the optimiser; interrupted before its end, it leaves no trace.

        Returns:
            What it waited for: decoding or step.

        Raises:
            ModelError: the loss or its gradient is not finite.
        """
        state, started = self.progress, time.monotonic()
        views_ = next(batches).on(self.device)
        decoding = time.monotonic() - started
        statistics = [(b, b.clone()) for b in state.student.buffers()]
        try:
            parts = self._backward(views_)
        except BaseException:
            for buffer, before in statistics:
                buffer.copy_(before)
            raise
        self._whole = False
        for group in state.optimiser.param_groups:
            group["lr"] = rate_at(state.step, self.settings)
        state.scaler.step(state.optimiser)
        state.scaler.update()
        state.step += 1
        state.average.update(state.step)
        for name, value in parts.items():
            state.losses[name] = state.losses.get(name, 0.0) + value
        whole = time.monotonic() - started
        state.seconds += whole
        self._whole = True
        return waits_for(decoding, whole, "step")

    def _backward(self, views_: Tensor) -> dict[str, float]:
        """Leave the clipped gradient in the student; the parts of the loss, and their sum."""
        state, objective = self.progress, self.objective
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices), failures_named(self._name, views_.shape):
            torch.manual_seed(_seed(self.settings.seed, state.step))
            parts = objective(views_, state.step)
            loss = objective.total(parts)
            state.optimiser.zero_grad()
            finite = bool(loss.isfinite())
            if finite:
                with tf32(allowed=self.settings.precision == "tf32"):
                    state.scaler.scale(loss).backward()
                state.scaler.unscale_(state.optimiser)
                weights = state.student.parameters()
                norm = nn.utils.clip_grad_norm_(weights, self.settings.clip_norm)
                # In fp16 an overflow is expected: the scaler leaves the step out and scales less.
                finite = bool(norm.isfinite()) or state.scaler.is_enabled()
        if not finite:
            raise ModelError(
                f"the loss of step {state.step + 1} or its gradient is not finite; the checkpoint "
                f"before it is kept: lower learning_rate (now {self.settings.learning_rate:g}) and "
                "start in another directory"
            )
        return {name: part.item() for name, part in (parts | {"loss": loss}).items()}

    def _set_modes(self) -> None:
        self.progress.student.train()
        if self.settings.batch_norm == "frozen":
            for module in self.progress.student.modules():
                if isinstance(module, _BatchNorm):
                    module.training = False

    def _due(self, held_out: HeldOut) -> bool:
        """Whether the step calls for a row of the history that it has not."""
        state, settings = self.progress, self.settings
        if state.history and state.history[-1]["step"] == state.step:
            return False
        if state.step == 0:
            return bool(held_out.entries)
        return state.step % settings.evaluate_every == 0 or state.step == settings.steps

    def _evaluate(self, held_out: HeldOut) -> None:
        state = self.progress
        latest = state.history[-1]["step"] if state.history else 0
        row: dict[str, Any] = {"step": state.step, "seconds": state.seconds}
        row["learning_rate"] = rate_at(max(state.step - 1, 0), self.settings)
        row["loss"] = None
        row |= {name: total / (state.step - latest) for name, total in state.losses.items()}
        if held_out.entries:
            if not state.teacher:
                state.teacher, state.predictions = held_out.judge(self.guide)
            row |= held_out.judge(state.average.module, state.predictions)[0]
        state.history.append(row)
        state.losses = {}


def frozen(module: nn.Module, names: Sequence[str]) -> nn.Module:
    """The module itself, in which those of these names do not learn.

    Raises:
        ModelError: it has none of such a name.
    """
    known = dict(module.named_modules())
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ModelError(f"frozen has {name!r}, which is no module of the network{hint}")
        known[name].requires_grad_(requires_grad=False)
    return module


def _placed(module: nn.Module, device: torch.device) -> nn.Module:
    return module.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
