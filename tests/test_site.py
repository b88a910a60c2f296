"""The site builds, loads nothing from outside, and shows what the commands print."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import aliascope

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
EXECUTED = [DOCS / "tutorial.md", DOCS / "howto_own_model.md"]


def script(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def loaded_from_outside(html):
    """What a browser fetches from elsewhere when it shows a page; links do not count."""
    tags = re.findall(r"<(?:script|img|iframe|source|video|link)\b[^>]*>", html)
    tags = [tag for tag in tags if 'rel="canonical"' not in tag]
    found = [re.search(r"(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)", tag) for tag in tags]
    styles = re.findall(r"(?:url\([\"']?|@import [\"'])((?:https?:)?//[^\"')]+)", html)
    return [match[1] for match in found if match] + styles


def words(text):
    """What is left of a page when its numbers may differ."""
    text = re.sub(r"<!-- took -->.*?<!-- end -->", "", text, flags=re.DOTALL)
    return re.findall(r"[^\W\d_]+", text)


@pytest.mark.slow
def test_the_site_is_whole_and_loads_nothing_from_outside(tmp_path):
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 15
    sheets = [*pages, *(tmp_path / "site").rglob("*.css")]
    assert {path.name: loaded_from_outside(path.read_text()) for path in sheets} == {
        path.name: [] for path in sheets
    }
    help_page = (tmp_path / "site" / "cli.html").read_text()
    assert all(f"aliascope {verb} --help" in help_page for verb in ("measure", "study", "bench"))


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example/x.js"></script>',
        "<img src=//example.org/x.png>",
        '<link rel="stylesheet" href="https://fonts.example/css">',
        "<style>@import 'https://fonts.example/css';</style>",
        "p { background: url(https://example.org/x.png) }",
    ],
)
def test_what_is_loaded_from_outside_is_noticed(html):
    assert loaded_from_outside(html)
    assert not loaded_from_outside('<a href="https://example.org">a link</a> <img src="x.png">')


def test_the_reference_names_all_that_is_public():
    listed = re.findall(
        r"^::: aliascope\.([\w.]+)$", (DOCS / "api.md").read_text(), flags=re.MULTILINE
    )
    names = {name.rpartition(".")[2] for name in listed}
    assert set(aliascope.__all__) - {"__version__"} <= names
    for path in listed:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(f"aliascope.{module}"), name), path


def test_docstrings_are_markdown():
    text = "What it does.\n\nSource: one,\n    another.\n\n>>> f(1)\n2\n>>> f(2)\n\nAnd more."
    read = SimpleNamespace(docstring=SimpleNamespace(value=text), is_alias=False)
    script("site_hooks").AsMarkdown().on_object(obj=read)
    source, example = "**Source.** one, another.", "```pycon\n>>> f(1)\n2\n>>> f(2)\n```"
    assert read.docstring.value == f"What it does.\n\n{source}\n\n{example}\n\nAnd more."


def test_the_help_on_the_site_is_the_help():
    hooks = script("site_hooks")
    assert hooks.help_of(["models"]) in hooks.helps()
    assert hooks.help_of(["models"]).startswith("Usage: aliascope models")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_small_executed_and_of_one_piece(path):
    assert path.stat().st_size < 200_000
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        compile("".join(cell["source"]), path.name, "exec")
        assert all(out["output_type"] != "error" for out in cell["outputs"])
        assert all(out.get("name") != "stderr" for out in cell["outputs"])


def test_pictures_are_small():
    for path in [*(DOCS / "concepts").iterdir(), DOCS / "logo.svg"]:
        assert path.stat().st_size < 150_000, path


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("path", EXECUTED, ids=lambda path: path.stem)
def test_pages_show_what_their_blocks_print(path):
    text = path.read_text()
    assert words(script("run_page").executed(text)) == words(text)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_show_what_their_cells_print(path):
    text = path.read_text()
    printed = printed_by(script("run_page").executed_notebook(text))
    assert [words(each) for each in printed] == [words(each) for each in printed_by(text)]


def printed_by(notebook):
    cells = [cell for cell in json.loads(notebook)["cells"] if cell["cell_type"] == "code"]
    return ["".join("".join(out.get("text", "")) for out in cell["outputs"]) for cell in cells]


def test_a_page_that_prints_something_else_is_noticed(tmp_path):
    runner = script("run_page")
    page = "```python\nprint('a 1')\n```\n\n```text\na 2\n```\n"
    assert words(runner.executed(page)) == words(page)
    assert runner.executed(page).endswith("```text\na 1\n```\n")
    changed = page.replace("a 2", "b 2")
    assert words(runner.executed(changed)) != words(changed)


def test_a_command_that_fails_stops_the_page():
    with pytest.raises(SystemExit, match="not here"):
        script("run_page").executed("```console\n$ echo not here; exit 3\n```\n")
