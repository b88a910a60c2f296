"""Measure how much a network aliases when it downsamples, and what that does to its predictions.

images → models → taps → spectra → stability → measure → store → statistics → compare
                   ↑ layers → antialias → latency

>>> import aliascope
>>> run = aliascope.measure("efficientnet_lite0", "photos", limit=1)
>>> print(run.images.image_id[0])
astronaut.png#0-0
"""

from importlib.metadata import version as _version

from aliascope.antialias import antialias
from aliascope.compare import Comparison, compare
from aliascope.errors import AliascopeError, ImageError, ModelError, RunError
from aliascope.images import ImageSource, open_images
from aliascope.latency import Latency, bench
from aliascope.measure import measure
from aliascope.models import LoadedModel, available_models, load_model
from aliascope.preprocessing import Preprocessing
from aliascope.records import Image, StridedLayer
from aliascope.spectra import (
    alias_violation_ratio,
    log_power_spectrum,
    power_spectrum,
    radial_profile,
)
from aliascope.stability import shift_instability
from aliascope.store import Run
from aliascope.taps import strided_layers, tap

__version__ = _version("aliascope")

__all__ = [
    "AliascopeError",
    "Comparison",
    "Image",
    "ImageError",
    "ImageSource",
    "Latency",
    "LoadedModel",
    "ModelError",
    "Preprocessing",
    "Run",
    "RunError",
    "StridedLayer",
    "__version__",
    "alias_violation_ratio",
    "antialias",
    "available_models",
    "bench",
    "compare",
    "load_model",
    "log_power_spectrum",
    "measure",
    "open_images",
    "power_spectrum",
    "radial_profile",
    "shift_instability",
    "strided_layers",
    "tap",
]
