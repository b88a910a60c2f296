"""The callback of Lightning."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from aliascope.callbacks.watch import Watch
from aliascope.errors import extra_missing
from aliascope.metrics import FIGURES, Shifts

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError as error:
    raise extra_missing(error, "lightning", "train") from error


class AliasingCallback(Callback):
    """Log aliasing by layer, and shift instability, of a few fixed images while a network trains.

    At the start of the training and then every so many optimiser steps, or at the end of each
    validation. Values go to all loggers of the trainer as `aliascope/alias_share/LAYER`,
    `aliascope/avr/LAYER`, `aliascope/logit_instability` and so on, and all but those of the start
    can be monitored by `ModelCheckpoint` or `EarlyStopping`. The training is not disturbed: modes,
    gradients, statistics, hooks and the random state are as before.

    Under DistributedDataParallel each process measures its share of the images on its own replica,
    and all have the means. FSDP and DeepSpeed have not been tried.

    Args:
        images: as the network takes them, normalised, the same in every process; one pixel wider on
            each side under crop shifts.
        every: optimiser steps between two measurements; None measures at each validation.
        network: the attribute of the `LightningModule` that is measured, such as "model"; "" is the
            module itself, run by its `forward`.
        figures: of each layer, as for `aliascope.metrics.aliasing`.
        shifts: how images move; None measures the layers alone, at a fifth of the time.
        batch_size: images per forward; with shifts five times as many are run.

    >>> import torch
    >>> callback = AliasingCallback(torch.rand(8, 3, 32, 32), every=100, network="model")
    >>> Trainer(callbacks=[callback], logger=False)  # doctest: +SKIP
    """

    def __init__(
        self,
        images: Float[Tensor, "batch chan h w"],
        *,
        every: int | None = None,
        network: str = "",
        figures: Sequence[str] = FIGURES,
        shifts: Shifts | None = "circular",
        batch_size: int = 16,
    ) -> None:
        self._watch = Watch(
            images,
            every=every,
            network=network,
            figures=figures,
            shifts=shifts,
            batch_size=batch_size,
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What the network is like before it trains."""
        self._logged(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any
    ) -> None:
        """After every so many steps."""
        if self._watch.due(trainer.global_step):
            values = self._logged(trainer, pl_module)
            pl_module.log_dict(values, on_step=True, on_epoch=False, logger=False, batch_size=1)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """At each validation, unless steps were asked for."""
        if self._watch.every is None and not trainer.sanity_checking:
            values = self._logged(trainer, pl_module)
            # All processes have the same means already; without sync_dist Lightning would warn.
            pl_module.log_dict(values, logger=False, sync_dist=True, batch_size=1)

    def _logged(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        values = self._watch.measured(pl_module)
        # `log` would drop what does not fall on a step of `log_every_n_steps`.
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
        return values
