"""Commands in the documents exist, and every number in the README is what the program prints."""

import ast
import contextlib
import doctest
import importlib.util
import json
import re
import shlex
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from typer.main import get_command

import aliascope
from aliascope.cli import app, main
from aliascope.study import PRESETS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = {path: path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
_GROUP = get_command(app)
COMMANDS = {verb: _GROUP.get_command(None, verb) for verb in _GROUP.list_commands(None)}


def blocks(language, text=README):
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def shell_lines():
    """Every command of every `sh` block, and those behind a $, with the document's name."""
    for path, text in DOCUMENTS.items():
        typed = [*blocks("sh", text), *(command for command, _ in commands(text))]
        for line in "\n".join(typed).replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield pytest.param(words, id=f"{path.name}: {' '.join(words)}")


def check_command(words):
    """Raises where a command line does not exist as it is written; runs nothing."""
    program, *arguments = words
    if program == "aliascope":
        verb, *arguments = arguments
        context = COMMANDS[verb].make_context(f"aliascope {verb}", arguments)
        assert context.params.get("preset", "embedded") in PRESETS
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert set(arguments) <= set(targets)
    elif program == "python":
        check_script(ROOT / arguments[0], arguments[1:])
    else:
        assert (program, arguments[0]) in {("pip", "install"), ("git", "clone")} or program == "cd"


def check_script(script, arguments):
    """Its options are those that it gives to argparse, each with a value, the others too."""
    calls = [node for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, ast.Call)]
    declared = {
        call.args[0].value: {k.arg for k in call.keywords}
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"
    }
    given = [word for word in arguments if word.startswith("-")]
    assert set(given) <= set(declared), script
    places = {name: keywords for name, keywords in declared.items() if not name.startswith("-")}
    needed = [name for name, keywords in places.items() if "nargs" not in keywords]
    assert len(needed) <= len(arguments) - 2 * len(given) <= len(places), script


def commands(text=README):
    """(command, printed) of every `$ aliascope …` in a console block, in order."""
    for block in blocks("console", text):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            yield command, printed


def assert_same_text(actual, expected):
    """Word for word; numbers may differ as far as another processor rounds."""
    words, wanted = actual.split(), expected.split()
    assert len(words) == len(wanted), actual
    for word, want in zip(words, wanted, strict=True):
        numbers, sought = (re.findall(r"\d+\.?\d*(?:e-\d+)?", text) for text in (word, want))
        assert re.sub(r"\d", "", word) == re.sub(r"\d", "", want) or "e-" in want
        assert [float(x) for x in numbers] == pytest.approx(
            [float(x) for x in sought], rel=0.05, abs=0.002
        )


def assert_excerpt(actual, expected):
    """The same, but where a line … stands lines may have been left out."""
    first, *others = re.split(r"^…\n", expected, flags=re.MULTILINE)
    words = actual.split()
    assert_same_text(" ".join(words[: len(first.split())]) if others else actual, first)
    at = len(first.split())
    for part in others:
        wanted = part.split()
        starts = [i for i in range(at, len(words)) if words[i : i + 1] == wanted[:1]]
        assert starts or not wanted, part
        for start in starts:
            with contextlib.suppress(AssertionError):
                assert_same_text(" ".join(words[start : start + len(wanted)]), part)
                at = start + len(wanted)
                break
        else:
            assert not wanted, part
    assert at == len(words) or (others and not others[-1].strip()), "more is printed"


def test_an_excerpt_leaves_out_but_changes_nothing():
    text = "head 1\nlayer a 2\nlayer b 3\nend 4"
    for cut in (text, "head 1\n…\n", "head 1\n…\nlayer b 3\n…\nend 4", "head 1\n…\nlayer a 2\n…\n"):
        assert_excerpt(text, cut)
    for wrong in (
        "head 1",
        "head 1\n…\nlayer a 2",
        "head 2\n…\n",
        "head 1\n…\nlayer b 2\n",
        "head 1\n…\nend 4\n…\nlayer b 3\n",
    ):
        with pytest.raises(AssertionError):
            assert_excerpt(text, wrong)


def test_the_comparison_of_texts_can_fail():
    assert_same_text("sis 0.0453 [-86.2%]", "sis 0.0454 [-86.1%]")
    for wrong in ("sis 0.0553 [-86.2%]", "sis 0.0453 [86.2%]", "sos 0.0453 [-86.2%]", "sis"):
        with pytest.raises(AssertionError):
            assert_same_text(wrong, "sis 0.0453 [-86.2%]")


@pytest.mark.parametrize("words", list(shell_lines()))
def test_every_command_of_the_documents_exists(words):
    check_command(words)


@pytest.mark.parametrize(
    "line",
    [
        "aliascope compare a b --pictures c",
        "aliascope measure a --shifts sideways",
        "aliascope measure",
        "aliascope study --preset other",
        "aliascope repair a",
        "make tea",
        "python experiments/none.py",
        "python experiments/search_pair.py imagenet",
        "python experiments/search_pair.py imagenet photos --fast yes",
        "conda install aliascope",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(line):
    with pytest.raises(Exception):  # noqa: B017, PT011  (each kind of command has its own)
        check_command(shlex.split(line))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_python_of_the_documents_runs(path):
    """As a doctest where it shows what it prints; what stands for the reader's own is compiled."""
    code = blocks("python", DOCUMENTS[path])
    examples = doctest.DocTestParser().get_examples(
        "\n".join(block for block in code if ">>>" in block)
    )
    for block in code:
        if ">>>" not in block:
            compile(block, path.name, "exec")
    test = doctest.DocTest(examples, {}, path.name, str(path), 0, None)
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    runner = doctest.DocTestRunner(optionflags=options, verbose=False)
    assert runner.run(test).failed == 0
    assert path.name != "README.md" or len(code) >= 1


TYPED = [
    pytest.param(
        shlex.split(command),
        printed,
        id=command,
        marks=[pytest.mark.slow] * ("--images" in command),  # all photographs: minutes
    )
    for command, printed in commands()
]


def test_the_readme_shows_what_commands_print():
    assert len(TYPED) >= 2


@pytest.mark.parametrize(("words", "printed"), TYPED)
def test_every_command_of_the_readme_prints_what_it_says(
    words, printed, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    assert words[0] == "aliascope"
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as leaving:
        main()
    assert not leaving.value.code
    assert_excerpt(capfd.readouterr().out, printed)


def test_documents_quote_the_tables_of_the_studies():
    spec = importlib.util.spec_from_file_location("render", ROOT / "docs" / "render.py")
    render = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(render)
    quoted = 0
    for document in render.DOCUMENTS:
        text = document.read_text()
        quoted += text.count("<!-- end -->")
        assert render.rendered(document) == text, f"{document.name}: run `make numbers`"
    assert quoted >= 6


def test_the_committed_studies_are_whole():
    studies = [path.parent for path in (ROOT / "docs" / "studies").glob("*/summary.json")]
    assert len(studies) >= 2
    for study in studies:
        record = json.loads((study / "summary.json").read_text())
        assert set(record["phases"].values()) == {"complete"}, study
        rows = pd.read_csv(study / "tables" / "phase5_tradeoff.csv").set_index("role")
        assert record["headline"]["mean_sis"] == pytest.approx(rows["mean_sis"].to_dict())
        tables = {file.stem for file in (study / "tables").iterdir()}
        assert len(tables - {"phase4_dependence"}) == 6  # which is younger than some of them


def test_the_targets_of_the_readme_exist():
    for target in re.findall(r"`make ([a-z-]+)`", README):
        check_command(["make", target])


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_links_of_the_documents_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)#:]+)\)", DOCUMENTS[path]):
        assert (path.parent / link).exists(), link


def test_every_public_name_has_a_docstring_with_an_example_or_is_plain_data():
    functions = [
        value
        for name in aliascope.__all__
        if callable(value := getattr(aliascope, name)) and not isinstance(value, type)
    ]
    assert len(functions) >= 12
    for function in functions:
        assert ">>>" in (function.__doc__ or ""), function


def test_nothing_of_this_machine_is_in_the_repository():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    for name in listed.stdout.split():
        text = (ROOT / name).read_text(errors="replace")
        assert "/wo" + "rk/" not in text, name
