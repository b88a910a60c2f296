"""Measure how much a network aliases when it downsamples, and what that does to its predictions.

errors records text files runtime layers   what travels, and the downsamplers, each from its paper
→ spectra shifts statistics synthetic svg  pure functions
→ images preprocessing taps                pictures in; where a network samples, and what
→ stability fusion antialias               from logits to figures; from a network to a repaired one
→ models                                   a spec → a network ready to run
→ batch shiftmap verdicts store            a batch, a photograph → figures; findings in words; runs
→ measure latency compare finetune         the arms
→ metrics callbacks                        in a training loop
→ figures study                            published protocol; all methods on one table
→ report                                   a page that people send to each other
→ explorer                                 a page in the browser
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
from aliascope.latency import Latency, bench
from aliascope.measure import measure
from aliascope.models import LoadedModel, available_models, load_model, save_model
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
    "open_images",
    "power_spectrum",
    "radial_profile",
    "recalibrate",
    "save_model",
    "shift_instability",
    "strided_layers",
    "tap",
]
