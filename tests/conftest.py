import os
import shutil
from pathlib import Path

import hypothesis
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
