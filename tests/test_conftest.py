"""What the end of a test run says of tests that did not run."""

import importlib.util
import types
from pathlib import Path

import pytest
import torch

from aliascope.shifts import Shift, largest
from aliascope.svg import heat


@pytest.fixture
def conftest():
    path = Path(__file__).with_name("conftest.py")
    spec = importlib.util.spec_from_file_location("a_second_conftest", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_line_says_which_data_is_not_here(conftest):
    reasons = [conftest.MISSING, conftest.MISSING, "other systems refuse such names"]
    reports = [types.SimpleNamespace(longrepr=("file", 1, f"Skipped: {why}")) for why in reasons]
    lines = []
    reporter = types.SimpleNamespace(stats={"skipped": reports}, write_line=lines.append)
    conftest.pytest_terminal_summary(reporter)
    assert lines == [f"2 skipped: {conftest.MISSING} in {conftest.PUBLISHED}"]
    reporter.stats = {"skipped": reports[2:]}
    conftest.pytest_terminal_summary(reporter)
    assert len(lines) == 1


@pytest.mark.slow  # where the suite is whole: it takes a fifth longer
def test_types_and_shapes_are_checked_in_the_package():
    assert largest([Shift("", 1, 0)]) == 1
    with pytest.raises(Exception, match=r"Type-check error .* parameters of .*largest"):
        largest([1])
    with pytest.raises(Exception, match=r"[Tt]ype-check"):
        heat(torch.zeros(3).numpy(), title="", description="")
