"""A page in the browser: two networks, one photograph, and what a shift of it does to both.

state: what is shown, as a link has it → session: models and results, as plain values
→ drawing: HTML and SVG → page: the controls (Gradio), from which nothing is loaded from elsewhere
"""

from collections.abc import Sequence
from typing import Any

from aliascope.errors import AliascopeError
from aliascope.explorer.session import MODELS, Explorer

__all__ = ["MODELS", "Explorer", "build"]


def build(models: Sequence[str] = MODELS, *, device: str | None = None) -> Any:
    """The page, a `gradio.Blocks`: `build().launch()` serves it, on 127.0.0.1 by default.

    Args:
        models: specs to choose from, the first two shown first; those of the page's readers are
            only ever these, and these repaired.
        device: as for `measure`.

    Raises:
        AliascopeError: Gradio is missing, or a model cannot be loaded or is no classifier.
    """
    try:
        from aliascope.explorer.page import page
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise AliascopeError(
            "the explorer needs Gradio, which is an extra: pip install 'aliascope[explorer]'"
        ) from error
    explorer = Explorer(models, device=device)
    for spec in explorer.offer.first.specs:
        explorer.model(spec)  # what is wrong with it is said before anything is served
    return page(explorer)
