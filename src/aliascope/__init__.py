"""Measure how much a network aliases when it downsamples, and what that does to its predictions.

errors records results runtime layers   what travels and is written; downsamplers from papers
→ spectra shifts statistics svg         pure functions
→ dependence                            what goes with what, beyond a straight line
→ images taps                           pictures in; where a network samples, and what
→ stability dense antialias             from answers to figures; from a network to a repaired one
→ inference                             a network as it is, asked otherwise
→ models                                a spec → a network ready to run
→ measure                               a batch → figures → rows of a run
→ latency compare attribute finetune    the other arms
→ export                                a network for other runtimes, proven there
→ repair                                all of them: plan, surgery, training, proof
→ metrics callbacks                     in a training loop
→ figures study                         published protocol; all methods on one table
→ report                                a page that people send to each other
→ explorer                              a page in the browser
→ cli

>>> import aliascope
>>> run = aliascope.measure("efficientnet_lite0", "photos", limit=1)
>>> print(run.images.image_id[0])
astronaut.png#0-0
"""

import ast
import sys
from importlib import import_module
from importlib.metadata import version as _version
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported when a name is asked for: torch alone takes a second
    from aliascope.antialias import Conversion, Recipe, antialias, available_methods, conversion_of
    from aliascope.attribute import Attribution, attribute, attribution_of
    from aliascope.compare import Comparison, compare
    from aliascope.errors import AliascopeError, ImageError, ModelError, RunError
    from aliascope.export import Exported, export
    from aliascope.finetune import FineTuned, FinetuneSettings, finetune, recalibrate
    from aliascope.images import ImageSource, open_images
    from aliascope.images.preprocessing import Preprocessing
    from aliascope.inference import CropSelection, ShiftAverage, SmallerFrame
    from aliascope.latency import Latency, bench
    from aliascope.measure import measure, measure_together
    from aliascope.measure.merging import merge
    from aliascope.measure.store import Run
    from aliascope.measure.verifying import Verified, verify
    from aliascope.models import LoadedModel, available_models, load_model, save_model
    from aliascope.records import Image, StridedLayer
    from aliascope.repair import Budget, Plan, Repaired, repair
    from aliascope.spectra import (
        alias_violation_ratio,
        log_power_spectrum,
        power_spectrum,
        radial_profile,
    )
    from aliascope.stability import flip_risk, shift_instability
    from aliascope.taps import strided_layers, tap

__version__ = _version("aliascope")

__all__ = [
    "AliascopeError",
    "Attribution",
    "Budget",
    "Comparison",
    "Conversion",
    "CropSelection",
    "Exported",
    "FineTuned",
    "FinetuneSettings",
    "Image",
    "ImageError",
    "ImageSource",
    "Latency",
    "LoadedModel",
    "ModelError",
    "Plan",
    "Preprocessing",
    "Recipe",
    "Repaired",
    "Run",
    "RunError",
    "ShiftAverage",
    "SmallerFrame",
    "StridedLayer",
    "Verified",
    "__version__",
    "alias_violation_ratio",
    "antialias",
    "attribute",
    "attribution_of",
    "available_methods",
    "available_models",
    "bench",
    "compare",
    "conversion_of",
    "export",
    "finetune",
    "flip_risk",
    "load_model",
    "log_power_spectrum",
    "measure",
    "measure_together",
    "merge",
    "open_images",
    "power_spectrum",
    "radial_profile",
    "recalibrate",
    "repair",
    "save_model",
    "shift_instability",
    "strided_layers",
    "tap",
    "verify",
]


def _homes() -> dict[str, str]:
    """Name → the module that has it, as the imports above say."""
    source = __spec__.loader.get_source(__name__)  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    (block,) = (node for node in ast.parse(source).body if isinstance(node, ast.If))
    imports = (node for node in block.body if isinstance(node, ast.ImportFrom))
    return {alias.name: node.module or "" for node in imports for alias in node.names}


class _Lazily(ModuleType):
    """Imports a name or a module of the package when it is first asked for."""

    def __getattr__(self, name: str) -> Any:
        if name in _HOMES:
            value = getattr(import_module(_HOMES[name]), name)
            setattr(self, name, value)
            return value
        if not name.startswith("_") and find_spec(f"{__name__}.{name}"):
            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        # Python binds a package where it is imported: `measure` is the function all the same.
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


_HOMES = _homes()
sys.modules[__name__].__class__ = _Lazily
