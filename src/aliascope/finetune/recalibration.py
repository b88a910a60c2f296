"""Batch-norm recalibration: the running statistics of a changed network, measured anew."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from aliascope.finetune.data import readable_batches
from aliascope.images import Entry, ImageSource, open_images
from aliascope.images.preprocessing import Preprocessing
from aliascope.models import LoadedModel, load_model
from aliascope.runtime import chosen_device, computing, copied, failures_named
from aliascope.taps import evaluating

ENOUGH = 512
"""Pictures, for means and variances over all places of a map."""


def recalibrate(
    model: str | nn.Module | LoadedModel,
    images: str | Path | ImageSource | Sequence[Any] | Dataset[Any],
    *,
    preprocess: Preprocessing | None = None,
    batch_size: int = 64,
    limit: int | None = ENOUGH,
    device: str | None = None,
) -> nn.Module:
    """A copy of a model whose batch-norms hold the mean and variance of the given images.

    Surgery changes what every later layer sees, and the statistics that batch-norm divides by were
    those of the old network. Each batch passes with batch-norm in training mode and all else
    (dropout, say) in eval mode; the batches' own statistics are pooled in float64:

    μ = Σ nᵢ μᵢ / N,  σ² = (Σ (nᵢ − 1) σᵢ² + Σ nᵢ (μᵢ − μ)²) / (N − 1)

    So the first batch-norm of a network gets the statistics of all images exactly, whatever the
    batch size. A later one sees maps that were normalised batch by batch, as in training, and its
    statistics depend on the batch size and on the order of the images: take batches of 32 or more.

    Args:
        model: left as it is. Without batch-norm an equal copy comes back.
        images: a source as `open_images` takes it; labels are not used.
        preprocess: by default the model's own evaluation transform.
        batch_size: images per forward, at least two: one value has no variance. A last batch of one
            goes with the one before.
        limit: at most so many images, spread evenly over the source (of a stream, the first): the
            first files of a folder are often all of one kind; None for all.
        device: by default CUDA where there is one.

    Returns:
        The copy, on the CPU, each submodule in the mode it was in.

    Raises:
        ImageError: no image can be read.
        ModelError: the model fails on the images.

    Source: Wu & Johnson 2021, Rethinking "Batch" in BatchNorm (arXiv 2105.07576), section 3.1
        (PreciseBN).

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4))
    >>> recalibrate(net, "photos", limit=4, device="cpu")[1].running_mean.equal(net[1].running_mean)
    False
    """
    loaded = load_model(model)
    preprocessing = loaded.prepared(preprocess)
    source = images if isinstance(images, ImageSource) else open_images(images)
    place = chosen_device(device)
    module = copied(loaded.module).to(place)
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    entries = _of(source, limit)
    batches = _batches(entries, preprocessing, max(batch_size, 2)) if norms else ()
    named = failures_named(loaded.spec, preprocessing.crop)
    with evaluating(module), _pooling(norms), named, computing("fp32", place):
        for pixels in batches:
            x = preprocessing.normalise(pixels.to(place))
            module(x.contiguous(memory_format=torch.channels_last))
    return module.cpu()


def spread(entries: Sequence[Entry], limit: int) -> list[Entry]:
    """At most that many pictures, evenly spaced."""
    count = min(limit, len(entries))
    return [entries[place * len(entries) // count] for place in range(count)]


def _of(source: ImageSource, limit: int | None) -> Iterable[Entry]:
    """That many pictures, evenly spaced; the first ones where their number is not known."""
    if limit is None or source.count is None:
        return islice(source.entries(), limit)
    return spread(list(source.entries()), limit)


def _batches(
    entries: Iterable[Entry], preprocessing: Preprocessing, size: int
) -> Iterator[Float[Tensor, "batch chan height width"]]:
    """Full batches of readable pictures, and a last one of more than one picture if there are."""
    loaded = readable_batches(entries, preprocessing, size)
    pictures = itertools.chain.from_iterable(pixels for _, pixels in loaded)
    batch = list(islice(pictures, size))
    while batch:
        following = list(islice(pictures, size))
        if len(following) == 1:
            batch += following
            following = []
        yield torch.stack(batch)
        batch = following


@contextmanager
def _pooling(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Pool what each norm sees in the block; on leaving it, that becomes its statistics."""
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    pools = {norm: _Pool() for norm in norms}

    def add(norm: Any, inputs: tuple[Tensor, ...], _output: Any) -> None:
        # At momentum 1 the running statistics are those of the batch that just passed.
        pools[norm].add(inputs[0].numel() // norm.num_features, norm.running_mean, norm.running_var)

    handles = [norm.register_forward_hook(add) for norm in norms]
    for norm, _, count in kept:
        norm.momentum, norm.training = 1.0, True
        norm.num_batches_tracked = None if count is None else count.clone()
    try:
        yield
        for norm, pool in pools.items():
            pool.write(norm)
    finally:
        for handle in handles:
            handle.remove()
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count


class _Pool:
    """Mean and variance of several batches together, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self.squares: Any = 0.0  # Σ (x − μ)²

    def add(self, count: int, mean: Tensor, variance: Tensor) -> None:
        """Take in a batch of `count` samples a channel, with its mean and unbiased variance."""
        apart = mean.double() - self.mean
        total = self.count + count
        self.squares = self.squares + variance.double() * (count - 1)
        self.squares = self.squares + apart**2 * (self.count * count / total)
        self.mean = self.mean + apart * (count / total)
        self.count = total

    def write(self, norm: Any) -> None:
        """Put the statistics in place; a norm that never ran keeps its own."""
        if self.count:
            norm.running_mean.copy_(self.mean)
            norm.running_var.copy_(self.squares / max(self.count - 1, 1))
