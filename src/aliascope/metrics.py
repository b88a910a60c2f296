"""Metrics for training loops, as torchmetrics has them: the mean over images of per-image figures.

`AliasViolationRatio` and `ShiftInstability` are the means of `alias_violation_ratio` and
`shift_instability`; `Aliasing` is that of `aliasing`, of all layers of a network at once. Sums and
counts are kept in float64 and added up over processes, so that neither batches of different size
nor processes with different numbers of images change a mean. Needs the extra `train`.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aliascope.dense import COLUMNS
from aliascope.errors import ModelError, extra_missing
from aliascope.measure.batch import LAYER_COLUMNS, Instrument, living, measure_live
from aliascope.runtime import is_compiled
from aliascope.spectra import DC, Band, Stride, alias_violation_ratio
from aliascope.stability import circular_logits, shift_instability, stability

try:
    from torchmetrics import Metric
except ModuleNotFoundError as error:
    raise extra_missing(error, "torchmetrics", "train") from error

__all__ = [
    "AliasViolationRatio",
    "Aliasing",
    "ShiftInstability",
    "alias_violation_ratio",
    "aliasing",
    "shift_instability",
]

FIGURES = ("alias_share", "avr")
"""What is measured of each layer unless said otherwise."""
STABILITY = ("sis", "logit_instability", "agreement", "confidence")
"""What is measured of a classifier's answers."""
SHIFTS = ("circular", "crop")

Shifts = Literal["circular", "crop"]
Ids = Sequence[int] | Int[Tensor, " batch"] | None


class _MeanOfImages(Metric):
    """The mean over images of one figure, or of several.

    Without `samples`, every image that is seen counts. With it, an image counts once, however often
    and in however many processes it was seen: its values are averaged first. What is undefined
    (NaN) does not count.
    """

    is_differentiable = False
    higher_is_better: bool | None = False
    full_state_update = False
    plot_lower_bound: float | None = 0.0
    plot_upper_bound: float | None = 1.0

    def __init__(
        self,
        kind: str,
        shape: tuple[int, ...] = (),
        *,
        samples: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if samples is not None and samples < 1:
            raise ValueError(f"samples is the size of the data set, at least 1, got {samples}")
        self.samples = samples
        # A MetricCollection takes two metrics for one whose states have the same names and are
        # equal after the first batch: those of other settings must have other names.
        kind = re.sub(r"\W+", "_", kind)
        self._total, self._count = f"total_{kind}", f"count_{kind}"
        shape = shape if samples is None else (samples, *shape)
        for name in (self._total, self._count):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def _take(self, values: Float[Tensor, "batch *figures"], ids: Ids) -> None:
        total, count = getattr(self, self._total), getattr(self, self._count)
        values = values.detach().to(total.device, torch.float64)
        defined = ~values.isnan()
        values, known = values.where(defined, 0.0), defined.double()
        if self.samples is None:
            if ids is not None:
                raise ValueError("ids need samples=N, the size of the data set that they number")
            total, count = total + values.sum(0), count + known.sum(0)
        else:
            rows = self._rows(ids, len(values)).to(total.device)
            total = total.index_add(0, rows, values)
            count = count.index_add(0, rows, known)
        setattr(self, self._total, total)
        setattr(self, self._count, count)

    def _rows(self, ids: Ids, images: int) -> Tensor:
        if ids is None:
            raise ValueError(f"samples={self.samples} needs ids, and {images} images have none")
        rows = torch.as_tensor(ids, dtype=torch.int64)
        if rows.shape != (images,):
            raise ValueError(f"ids of shape {tuple(rows.shape)} for {images} images: give one each")
        if images and not 0 <= int(rows.min()) <= int(rows.max()) < (self.samples or 0):
            raise ValueError(
                f"ids run from {int(rows.min())} to {int(rows.max())}, and samples={self.samples} "
                f"takes 0 to {(self.samples or 0) - 1}"
            )
        return rows

    def _mean(self) -> Tensor:
        mean = getattr(self, self._total) / getattr(self, self._count)
        return mean if self.samples is None else mean.nanmean(0)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw one value or several, as every metric of torchmetrics does."""
        return self._plot(val, ax)


class AliasViolationRatio(_MeanOfImages):
    """Mean over images of `alias_violation_ratio`, of the map that one layer reads.

    Args:
        stride: samples read per sample kept, or (rows, columns).
        band: as for `alias_violation_ratio`.
        dc: as for `alias_violation_ratio`.
        samples: size of the data set, where `update` gets ids; memory is 16 bytes each.
        options: of `torchmetrics.Metric`.

    >>> metric = AliasViolationRatio(stride=2)
    >>> board = 1 - 2.0 * ((torch.arange(8)[:, None] + torch.arange(8)) % 2)
    >>> metric.update(board.expand(7, 1, 8, 8))
    >>> metric.update(torch.ones(3, 1, 8, 8))
    >>> metric.compute()
    tensor(0.7000, dtype=torch.float64)
    """

    def __init__(
        self,
        stride: Stride,
        *,
        band: Band = "disc",
        dc: DC = "keep",
        samples: int | None = None,
        **options: Any,
    ) -> None:
        alias_violation_ratio(
            torch.ones(1, 1, 2, 2), stride, band=band, dc=dc
        )  # says what is wrong
        kind = f"{stride}_{band}_{dc}".replace(".", "_")
        super().__init__(samples=samples, kind=kind, **options)
        self.stride: Stride = stride
        self.band: Band = band
        self.dc: DC = dc

    def update(self, maps: Float[Tensor, "batch chan h w"], ids: Ids = None) -> None:
        """Take in a batch.

        Args:
            maps: what the layer reads, one an image.
            ids: the images' numbers in the data set, for `samples`.
        """
        if len(maps):
            ratios = alias_violation_ratio(maps.detach(), self.stride, band=self.band, dc=self.dc)
            self._take(ratios, ids)

    def compute(self) -> Tensor:
        """The mean over all images of all processes; NaN of none."""
        return self._mean()


class ShiftInstability(_MeanOfImages):
    """Mean over images of how far a classifier's answers move under one-pixel shifts.

    Args:
        figure: "sis", of which `shift_instability` is the twin; or "logit_instability", which does
            not fall by itself when a network becomes less sure.
        samples: size of the data set, where `update` gets ids; memory is 16 bytes each.
        options: of `torchmetrics.Metric`.

    >>> from torch import nn
    >>> metric = ShiftInstability("logit_instability")
    >>> metric.update(nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten()), torch.rand(2, 1, 8, 8))
    >>> 0 < metric.compute() < 2
    tensor(True)
    """

    def __init__(
        self,
        figure: Literal["sis", "logit_instability"] = "sis",
        *,
        samples: int | None = None,
        **options: Any,
    ) -> None:
        if figure not in ("sis", "logit_instability"):
            raise ValueError(f"figure is sis or logit_instability, got {figure!r}")
        super().__init__(figure, samples=samples, **options)
        self.figure = figure

    @property
    def plot_upper_bound(self) -> float | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of SIS 1; the other has none."""
        return 1.0 if self.figure == "sis" else None

    def update(
        self,
        answers: Float[Tensor, "views batch classes"] | nn.Module,
        images: Float[Tensor, "batch chan h w"] | None = None,
        ids: Ids = None,
    ) -> None:
        """Take in a batch.

        Args:
            answers: logits of all views, the unshifted one first, as `stability` takes them; or the
                classifier, which is run on the images and their four circular shifts.
            images: for the classifier, normalised as it expects them.
            ids: the images' numbers in the data set, for `samples`.
        """
        if isinstance(answers, nn.Module):
            if images is None:
                raise ValueError("a classifier comes with images, or give the logits of all views")
            if not len(images):
                return
            with as_written(answers) as network:
                answers = circular_logits(network, images)
        if answers.shape[1]:
            self._take(stability(answers)[self.figure], ids)

    def compute(self) -> Tensor:
        """The mean over all images of all processes; NaN of none."""
        return self._mean()


def aliasing(
    model: nn.Module,
    images: Float[Tensor, "batch chan h w"],
    *,
    figures: Sequence[str] = FIGURES,
    shifts: Shifts | None = "circular",
    batch_size: int = 16,
) -> dict[str, Float[Tensor, " batch"]]:
    """Figures of every layer that samples, and of the answers, from one forward over all views.

    The network is run as it stands, in eval mode and without gradients, where its weights lie, and
    is left as it was, the random state too. It is never copied. What it costs: a forward over the
    images and their shifts, and about six of a single image, which find the layers anew.

    Args:
        model: in training or not; wrapped by DistributedDataParallel or `torch.compile`, or not.
        images: as the network takes them, normalised; one pixel wider on each side under crop
            shifts.
        figures: of each layer, names of `measure.batch.LAYER_COLUMNS`.
        shifts: how images move; None leaves the answers out.
        batch_size: images per forward; with shifts five times as many are run.

    Returns:
        `FIGURE/LAYER` → (B,), then `sis`, `logit_instability`, `agreement` and `confidence`; of a
        network that answers with maps or detections, those of `dense.COLUMNS`.
        NaN where a figure is undefined.

    Raises:
        ModelError: the network fails on the images.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2))
    >>> list(aliasing(net, torch.rand(2, 3, 32, 32)))
    ['alias_share/0', 'alias_share/2', 'avr/0', 'avr/2', 'output_instability']
    """
    batches = images.split(_at_least_one("batch_size", batch_size))
    with as_written(model) as network:
        instrument = _instrument(network, images, figures, shifts)
        names = _names(instrument, figures)
        parts = [_values(instrument, batch, figures) for batch in batches]
    return dict(zip(names, torch.cat(parts).unbind(1), strict=True))


class Aliasing(_MeanOfImages):
    """Mean over images of all that `aliasing` yields.

    Args:
        model: as for `aliasing`; only the names of its layers are kept.
        example: one image or more, as `update` will get them.
        figures: as for `aliasing`.
        shifts: as for `aliasing`.
        batch_size: as for `aliasing`.
        samples: size of the data set, where `update` gets ids; memory is 16 bytes each and figure.
        options: of `torchmetrics.Metric`.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2))
    >>> images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> metric = Aliasing(net, images, figures=["avr"], shifts=None)
    >>> metric.update(net, images)
    >>> {name: 0 < value < 1 for name, value in metric.compute().items()}
    {'avr/0': tensor(True), 'avr/2': tensor(True)}
    """

    plot_upper_bound = None  # logit instability has none

    def __init__(
        self,
        model: nn.Module,
        example: Float[Tensor, "batch chan h w"],
        *,
        figures: Sequence[str] = FIGURES,
        shifts: Shifts | None = "circular",
        batch_size: int = 16,
        samples: int | None = None,
        **options: Any,
    ) -> None:
        with as_written(model) as network:
            names = _names(_instrument(network, example, figures, shifts), figures)
        kind = f"{'_'.join(figures)}_{shifts}"
        super().__init__(kind, (len(names),), samples=samples, **options)
        self.names = names
        self.figures = tuple(figures)
        self.shifts: Shifts | None = shifts
        self.batch_size = _at_least_one("batch_size", batch_size)

    def update(
        self, model: nn.Module, images: Float[Tensor, "batch chan h w"], ids: Ids = None
    ) -> None:
        """Take in a batch.

        Args:
            model: the network as it stands by now.
            images: as for `aliasing`.
            ids: the images' numbers in the data set, for `samples`.

        Raises:
            ModelError: the network samples elsewhere than the one that the metric was made for.
        """
        if not len(images):
            return
        found = aliasing(
            model,
            images,
            figures=self.figures,
            shifts=self.shifts,
            batch_size=self.batch_size,
        )
        if tuple(found) != self.names:
            other = sorted(set(found) ^ set(self.names))
            raise ModelError(
                f"the network has changed ({', '.join(other[:3])}): make a new metric for it"
            )
        self._take(torch.stack(list(found.values()), dim=1), ids)

    def compute(self) -> dict[str, Tensor]:
        """Name → the mean over all images of all processes; NaN where there is none."""
        return dict(zip(self.names, self._mean().unbind(0), strict=True))


@contextmanager
def as_written(model: nn.Module) -> Iterator[nn.Module]:
    """The network without what wraps it and its parts, for the block; nothing is copied.

    The forward of DistributedDataParallel waits for other processes, which need not come; what
    `torch.compile` made hides its calls, and would be compiled anew for another size of batch.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3))
    >>> with as_written(nn.DataParallel(net)) as network:
    ...     print(network is net)
    True
    """
    network = _inside(model)
    with ExitStack() as held:
        for parent in list(network.modules()):
            for name, child in list(parent.named_children()):
                if is_compiled(child):
                    held.callback(setattr, parent, name, child)
                    setattr(parent, name, _inside(child))
        for part in network.modules():
            if compiled := part._compiled_call_impl:  # noqa: SLF001  (of `Module.compile`)
                held.callback(setattr, part, "_compiled_call_impl", compiled)
                part._compiled_call_impl = None  # noqa: SLF001
        yield network


def _inside(model: nn.Module) -> nn.Module:
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(model, wrappers) or is_compiled(model):
        model = model.get_submodule("_orig_mod" if is_compiled(model) else "module")
    return model


def _instrument(
    network: nn.Module, images: Tensor, figures: Sequence[str], shifts: Shifts | None
) -> Instrument:
    if unknown := [name for name in figures if name not in LAYER_COLUMNS]:
        raise ValueError(f"no figure {unknown[0]!r}; choose from {', '.join(LAYER_COLUMNS)}")
    if shifts not in (*SHIFTS, None):
        raise ValueError(f"shifts are circular, crop or None, got {shifts!r}")
    instrument = living(network, images, border=shifts or "circular")
    return instrument if shifts else replace(instrument, classes=None, dense=None)


def _names(instrument: Instrument, figures: Sequence[str]) -> tuple[str, ...]:
    layers = [f"{figure}/{layer.name}" for figure in figures for layer in instrument.layers]
    return (*layers, *_answers(instrument))


def _answers(instrument: Instrument) -> tuple[str, ...]:
    """The figures of what it answers."""
    if instrument.classes:
        return STABILITY
    return COLUMNS[instrument.dense] if instrument.dense else ()


def _values(instrument: Instrument, images: Tensor, figures: Sequence[str]) -> Tensor:
    """(B, F) in the order of the names."""
    answers, layers = measure_live(instrument, images)
    columns = [layers[name] for name in figures] if layers else []
    columns += [answers[name][:, None] for name in _answers(instrument)]
    if not columns:
        raise ModelError(
            "nothing can be measured: no layer downsamples, and no answer can be compared"
        )
    return torch.cat([column.float() for column in columns], dim=1)


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} is at least 1, got {value}")
    return value
