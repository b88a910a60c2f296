"""The scripts of experiments/ import what exists; what they find out takes hours."""

import runpy
import sys
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SCRIPTS = sorted(EXPERIMENTS.glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_says_how_it_is_called(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.syspath_prepend(EXPERIMENTS)  # as python does: they import each other
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    assert f"usage: {script.name}" in capsys.readouterr().out


def test_the_readme_names_each_script_and_its_command():
    readme = (EXPERIMENTS / "README.md").read_text()
    for script in SCRIPTS:
        assert f"| `{script.name}` |" in readme
        assert f"python experiments/{script.name} " in readme
