"""Measure how much a network aliases when it downsamples, and what that does to its predictions.

errors records results runtime layers   what travels and is written; downsamplers from papers
→ spectra shifts statistics svg         pure functions
→ images taps                           pictures in; where a network samples, and what
→ stability antialias                   from logits to figures; from a network to a repaired one
→ models                                a spec → a network ready to run
→ measure                               a batch → figures → rows of a run
→ latency compare finetune              the other arms
→ figures study                         published protocol; all methods on one table
→ report                                a page that people send to each other
→ explorer                              a page in the browser
→ cli

>>> import aliascope
>>> run = aliascope.measure("efficientnet_lite0", "photos", limit=1)
>>> print(run.images.image_id[0])
astronaut.png#0-0
"""

from importlib.metadata import version as _version

from aliascope.antialias import Conversion, Recipe, antialias, available_methods, conversion_of
from aliascope.compare import Comparison, compare
from aliascope.errors import AliascopeError, ImageError, ModelError, RunError
from aliascope.finetune import FineTuned, FinetuneSettings, finetune, recalibrate
from aliascope.images import ImageSource, open_images
from aliascope.images.preprocessing import Preprocessing
from aliascope.latency import Latency, bench
from aliascope.measure import measure
from aliascope.measure.merging import Verified, merge, verify
from aliascope.measure.store import Run
from aliascope.models import LoadedModel, available_models, load_model, save_model
from aliascope.records import Image, StridedLayer
from aliascope.spectra import (
    alias_violation_ratio,
    log_power_spectrum,
    power_spectrum,
    radial_profile,
)
from aliascope.stability import shift_instability
from aliascope.taps import strided_layers, tap

__version__ = _version("aliascope")

__all__ = [
    "AliascopeError",
    "Comparison",
    "Conversion",
    "FineTuned",
    "FinetuneSettings",
    "Image",
    "ImageError",
    "ImageSource",
    "Latency",
    "LoadedModel",
    "ModelError",
    "Preprocessing",
    "Recipe",
    "Run",
    "RunError",
    "StridedLayer",
    "Verified",
    "__version__",
    "alias_violation_ratio",
    "antialias",
    "available_methods",
    "available_models",
    "bench",
    "compare",
    "conversion_of",
    "finetune",
    "load_model",
    "log_power_spectrum",
    "measure",
    "merge",
    "open_images",
    "power_spectrum",
    "radial_profile",
    "recalibrate",
    "save_model",
    "shift_instability",
    "strided_layers",
    "tap",
    "verify",
]
