import functools
import os
import shutil
import types
from pathlib import Path
from typing import ForwardRef, Literal, get_args, get_origin

import hypothesis
import jaxtyping
import pytest
import torch

PUBLISHED = Path(__file__).parents[2] / "shared" / "data"
MISSING = "needs the data of the published figures"

# Two shared cores make single timings meaningless; no test asserts one.
hypothesis.settings.register_profile("aliascope", deadline=None, derandomize=True)
hypothesis.settings.load_profile("aliascope")
# Tables are as wide as this says.
os.environ.pop("COLUMNS", None)
# Each of several workers has one core to itself.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


def checked(jaxtyped):
    """Jaxtyping's decorator, but beartype alone where no shape of an array is annotated.

    What jaxtyping does besides, to bind the arguments of each call and to check them twice, took a
    third of the suite's time.
    """

    def decorate(fn=None, *, typechecker):
        if fn is None:
            return functools.partial(decorate, typechecker=typechecker)
        if not isinstance(fn, types.FunctionType) or shaped([*fn.__annotations__.values()]):
            return jaxtyped(fn, typechecker=typechecker)
        refusing = typechecker(fn)

        @functools.wraps(fn)
        def call(*args, **kwargs):
            chosen = fn if jaxtyping.config.jaxtyping_disable else refusing
            return chosen(*args, **kwargs)

        return call

    return decorate


def shaped(hint):
    """Whether a hint, or one within it, tells the shape of an array, or is a name yet to come."""
    if get_origin(hint) is Literal:
        return False
    if isinstance(hint, list):
        return any(map(shaped, hint))
    named = isinstance(hint, str | ForwardRef)
    array = isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)
    return named or array or shaped([*get_args(hint)])


jaxtyping.jaxtyped = checked(jaxtyping.jaxtyped)  # the hook looks it up when a module is imported


def pytest_sessionstart():
    """As the command line does: the suite takes a fifth less time."""
    from aliascope.runtime import keep_memory

    keep_memory()


@pytest.fixture
def published():
    """The folder of the photographs that the published figures are of, beside the checkout."""
    if not PUBLISHED.is_dir():
        pytest.skip(MISSING)
    return PUBLISHED


@pytest.fixture(scope="module")
def chromium():
    """Debian's browser."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def pytest_terminal_summary(terminalreporter):
    """One line for the tests that only run where that data is."""
    skipped = terminalreporter.stats.get("skipped", [])
    if count := sum(MISSING in str(report.longrepr) for report in skipped):
        terminalreporter.write_line(f"{count} skipped: {MISSING} in {PUBLISHED}")
