import io
import json
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


@pytest.fixture
def tiny_cifar(tmp_path):
    """Blobs whose colour tells the class, as JPEGs in Parquet, as Hugging Face's data sets are."""
    import numpy as np
    import PIL.Image
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, classes = np.random.default_rng(0), [f"class {number}" for number in range(10)]
    features = {"image": {"_type": "Image"}, "label": {"names": classes, "_type": "ClassLabel"}}
    described = {"huggingface": json.dumps({"info": {"features": features}})}
    folder = tmp_path / "data"
    folder.mkdir()
    for split, count in (("train", 80), ("test", 40)):
        labels = rng.integers(10, size=count)
        images = []
        for label in labels:
            pixels = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8)
            pixels[8:24, 8:24] += np.array([label * 19, 190 - label * 19, 90], dtype=np.uint8)
            file = io.BytesIO()
            PIL.Image.fromarray(pixels).save(file, "JPEG")
            images.append({"bytes": file.getvalue(), "path": f"{label}.jpg"})
        table = pa.table({"image": images, "label": labels}).replace_schema_metadata(described)
        pq.write_table(table, folder / f"{split}.parquet")
    return folder


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
