"""The layout is the data flow: imports point only to the left."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import aliascope

DRAWN = aliascope.__doc__.partition("\n\n")[2].partition("\n\n")[0]
ARROW = [name for line in DRAWN.splitlines() for name in re.findall("[a-z]+", line[:42])]
"""Left to right and line by line, as the package's own docstring draws it."""

PACKAGE = Path(__file__).parents[1] / "src" / "aliascope"
MODULES = sorted(path.stem for path in PACKAGE.iterdir() if path.stem[0] != "_")


def imported_by(module):
    path = PACKAGE / module
    files = sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aliascope."):
                yield node.module.split(".")[1]


def test_every_module_has_its_place():
    assert sorted(ARROW) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_left(module):
    right = set(ARROW[ARROW.index(module) + 1 :])
    assert not right & set(imported_by(module))


def test_the_reader_of_imports_finds_them():
    assert {"models", "store"} <= set(imported_by("measure"))


@pytest.mark.parametrize("module", ["images", "spectra", "store", "statistics", "taps"])
def test_what_must_not_know_of_models(module):
    assert "models" not in set(imported_by(module))


def test_import_loads_nothing_heavy():
    code = "import sys, aliascope; print(*sys.modules); import aliascope.figures; "
    found = subprocess.run(
        [sys.executable, "-c", code + "print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    loaded, drawing = (line.split() for line in found.stdout.splitlines())
    heavy = (
        "matplotlib",
        "fastapi",
        "gradio",
        "ray",
        "timm",
        "torchvision",
        "datasets",
        "skimage",
        "pywt",
        "torchmetrics",
        "lightning",
        "transformers",
        "tensorboard",
    )
    assert not [name for name in loaded if name.partition(".")[0] in heavy]
    assert "torch" in loaded
    assert "matplotlib" in drawing
    assert "matplotlib.pyplot" not in drawing  # which opens windows and keeps figures
