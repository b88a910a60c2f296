"""The layout is the data flow: imports point only to the left."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import aliascope

DRAWN = aliascope.__doc__.partition("\n\n")[2].partition("\n\n")[0]
ARROW = [name for line in DRAWN.splitlines() for name in re.findall("[a-z]+", line[:40])]
"""Left to right and line by line, as the package's own docstring draws it."""

PACKAGE = Path(__file__).parents[1] / "src" / "aliascope"
MODULES = sorted(
    path.stem
    for path in PACKAGE.iterdir()
    if path.stem[0] != "_" and (path.is_dir() or path.suffix == ".py")
)


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
    assert {"models", "images"} <= set(imported_by("measure"))


@pytest.mark.parametrize("module", ["images", "spectra", "results", "statistics", "taps"])
def test_what_must_not_know_of_models(module):
    assert "models" not in set(imported_by(module))


HEAVY = {
    *(
        "matplotlib",
        "fastapi",
        "gradio",
        "ray",
        "timm",
        "torchvision",
        "datasets",
        "skimage",
        "pywt",
    ),
    *(
        "sklearn",
        "pandas",
        "pyarrow",
        "scipy",
        "torch",
        "torchmetrics",
        "lightning",
        "transformers",
    ),
}


HELP = (
    "from typer.testing import CliRunner as R; from aliascope.cli import app; "
    "assert 'Measure aliasing' in R().invoke(app, '--help').output"
)


def loaded_by(*steps):
    """Heavy libraries that are loaded after each step of one process."""
    code = "\n".join(f"{step}; import sys; print(*sys.modules)" for step in steps)
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    lines = map(str.split, found.stdout.splitlines())
    return [{name.partition(".")[0] for name in line} & HEAVY for line in lines]


def test_nothing_heavy_is_loaded_before_it_is_needed():
    """Step by step in one process, so that torch is loaded once."""
    expected = {
        "import aliascope": set(),
        "import aliascope.cli": set(),
        HELP: set(),
        "from aliascope import power_spectrum": {"torch"},
        "from aliascope.layers import BlurPool": {"torch"},
    }
    figures = "import aliascope.figures, sys; assert 'matplotlib.pyplot' not in sys.modules"
    *found, drawing = loaded_by(*expected, figures)
    assert dict(zip(expected, found, strict=True)) == expected
    assert "matplotlib" in drawing


def test_a_function_keeps_its_name_when_the_package_of_that_name_is_imported():
    code = (
        "import aliascope.measure.store, aliascope.compare, aliascope.antialias.recipe, "
        "aliascope.finetune; import aliascope as a; "
        "assert all(map(callable, [a.measure, a.compare, a.antialias, a.finetune])); "
        "assert a.layers.BlurPool and a.Run is a.measure.__globals__['Run']; "
        "assert set(a.__all__) <= set(dir(a)); [getattr(a, name) for name in a.__all__]"
    )
    (loaded,) = loaded_by(code)
    assert "torch" in loaded


def test_a_name_that_there_is_not():
    with pytest.raises(AttributeError, match="module 'aliascope' has no attribute 'nothing'"):
        _ = aliascope.nothing
