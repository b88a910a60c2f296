"""The arm that asks why: at which sampling the movement of the logits arises, and by which band."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from aliascope.attribute.attribution import Attribution, attribution_of
from aliascope.attribute.swapping import PLAN, Attributor
from aliascope.images import ImageSource, open_images
from aliascope.images.preprocessing import Preprocessing, PreprocessingName, crop_of
from aliascope.measure.batch import prepare
from aliascope.measure.stepping import into_run
from aliascope.models import LoadedModel, load_model
from aliascope.records import Report
from aliascope.results.files import Place, place
from aliascope.runtime import Precision
from aliascope.shifts import Border

__all__ = ["RECORD", "Attribution", "attribute", "attribution_of"]

RECORD = "attribution.json"


def attribute(
    model: str | nn.Module | LoadedModel,
    images: str | Path | ImageSource | Sequence[Any] | Dataset[Any],
    *,
    out: Place | None = None,
    weights: str | Path = "pretrained",
    preprocess: PreprocessingName | Preprocessing = "model",
    precision: Precision = "fp32",
    device: str | None = None,
    shifts: Border | None = None,
    doses: int = 32,
    batch_size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    progress: Report | None = None,
) -> Attribution:
    """Where along a network the movement of its logits under a one-pixel shift arises, and why.

    The picture and its moved copies are run. At each depth, all layers that sample to one
    cumulative stride at once and then each alone, the network goes on from what they decimate with
    the bands exchanged: below the new Nyquist limit that of the one picture, above it that of the
    other. No map is interpolated. Next to it the equivariance error before and behind each
    sampling, and what a filter there would leave of the movement.

    Args:
        model: a classifier, as for `measure`.
        images: a source as `open_images` takes it.
        out: the run directory; an equal run that was interrupted is continued. It gets
            attribution.json, too. None keeps the rows in memory.
        weights: "pretrained", "random" or a file.
        preprocess: as for `measure`.
        precision: of the forward pass.
        device: as for `measure`.
        shifts: how the picture moves by one pixel, down and to the right; see `measure`.
        doses: on how many images, the first ones, filters are tried at each place, which costs more
            than all else there; 0 for none.
        batch_size: images at once; by default the fastest.
        limit: at most so many images.
        seed: of random weights.
        progress: as for `measure`.

    Returns:
        The attribution; `print` shows its tables.

    Raises:
        ModelError: the model is no classifier, or cannot be cut in two at any sampling.
        AliascopeError: images, model or directory cannot be used; what is measured stays.

    Source: the definitions of band swap and equivariance error in docs/definitions.md.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> found = attribute(net, "photos", limit=2, device="cpu", doses=0)
    >>> found.depths[["stride", "layers"]].values.tolist()
    [['2', '0']]
    """
    source = images if isinstance(images, ImageSource) else open_images(images, limit=limit)
    loaded = load_model(model, weights=weights, seed=seed, size=crop_of(preprocess))
    instrument = prepare(
        loaded, preprocess=preprocess, precision=precision, device=device, border=shifts
    )
    attributor = Attributor(instrument, doses)
    instrument = replace(
        instrument,
        layers=tuple(attributor.layers),
        notices=(*instrument.notices, *attributor.notices),
    )
    settings = {"shifts": [asdict(shift) for shift in PLAN], "attributed": True, "doses": doses}
    steps = into_run(
        loaded,
        instrument,
        source,
        attributor.rows,
        settings,
        out=out,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            found = attribution_of(stop.value)
            break
    if out is not None:
        found.save(place(out) / RECORD)
    return found
