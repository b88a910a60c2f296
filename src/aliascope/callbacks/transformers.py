"""The callback of Hugging Face's `Trainer`."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from aliascope.callbacks.watch import Watch
from aliascope.errors import extra_missing
from aliascope.metrics import FIGURES, Shifts

try:
    from transformers import (
        Trainer,
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )
except ModuleNotFoundError as error:
    raise extra_missing(error, "transformers", "train") from error


class AliasingCallback(TrainerCallback):
    """Log aliasing by layer, and shift instability, of a few fixed images while a network trains.

    At the start of the training and then every so many optimiser steps, or at each evaluation.
    Values go through `trainer.log` into `state.log_history` and to all that `report_to` names, as
    `aliascope/alias_share/LAYER`, `aliascope/avr/LAYER`, `aliascope/logit_instability` and so on;
    TensorBoard puts `train/` before them, as it does with all that the `Trainer` logs. The training
    is not disturbed: modes, gradients, statistics, hooks and the random state are as before.

    Under DistributedDataParallel each process measures its share of the images on its own replica,
    and all have the means. FSDP and DeepSpeed have not been tried.

    Args:
        trainer: the one that `add_callback` is called on.
        images: as the network takes them (`pixel_values`), the same in every process; one pixel
            wider on each side under crop shifts.
        every: optimiser steps between two measurements; None measures at each evaluation.
        network: the attribute of the model that is measured; "" is the model itself.
        figures: of each layer, as for `aliascope.metrics.aliasing`.
        shifts: how images move; None measures the layers alone, at a fifth of the time.
        batch_size: images per forward; with shifts five times as many are run.

    >>> trainer.add_callback(AliasingCallback(trainer, images, every=500))  # doctest: +SKIP
    """

    def __init__(
        self,
        trainer: Trainer,
        images: Float[Tensor, "batch chan h w"],
        *,
        every: int | None = None,
        network: str = "",
        figures: Sequence[str] = FIGURES,
        shifts: Shifts | None = "circular",
        batch_size: int = 16,
    ) -> None:
        self._trainer = trainer
        self._watch = Watch(
            images,
            every=every,
            network=network,
            figures=figures,
            shifts=shifts,
            batch_size=batch_size,
        )

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **about: Any,
    ) -> None:
        """What the network is like before it trains."""
        del args, state
        self._log(control, about["model"])

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **about: Any,
    ) -> None:
        """After every so many steps."""
        del args
        if self._watch.due(state.global_step):
            self._log(control, about["model"])

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **about: Any,
    ) -> None:
        """At each evaluation, unless steps were asked for."""
        del args, state
        if self._watch.every is None:
            self._log(control, about["model"])

    def _log(self, control: TrainerControl, model: nn.Module) -> None:
        values = self._watch.measured(model)
        # To log marks all that was due to be logged as done: the loss of this step, say.
        due = control.should_log
        self._trainer.log(values)
        control.should_log = due
