"""Tables and paragraphs at every width."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aliascope.results.text import columns, fitted, width, wrapped

WORDS = st.lists(st.sampled_from(["a", "conv", "0.0325 ± 0.0253", "–", "", "x" * 40]), min_size=4)
TABLES = st.lists(WORDS.map(lambda words: words[:4]), min_size=2, max_size=5)


@pytest.mark.parametrize("figures", [True, False])
@given(rows=TABLES, room=st.integers(24, 200))
def test_no_table_is_wider_than_the_terminal_and_none_loses_a_word(rows, room, figures):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(room))
        text = "\n".join(fitted([["#", "one", "two", "three"], *rows], figures=figures))
    assert max(map(len, text.splitlines()), default=0) <= room
    whole = "".join(text.split())
    for cell in {cell for row in rows for cell in row}:
        assert "".join(cell.split()) in whole or len(cell) > room - 10


def test_a_table_gets_narrower_step_by_step(monkeypatch):
    rows = [["layer", "stride", "what is done with it"], ["conv1", "2", "blurred and then sampled"]]
    shapes = {}
    for room in (100, 38, 36, 24):
        monkeypatch.setenv("COLUMNS", str(room))
        shapes[room] = columns(rows)
    assert shapes[100].splitlines()[1] == "conv1  2       blurred and then sampled"
    assert shapes[38].splitlines()[1] == "conv1 2      blurred and then sampled"
    assert shapes[36] == "conv1\n  stride 2, what is done with it\n  blurred and then sampled"
    assert shapes[24].splitlines()[0] == "conv1"
    long = [["layer", "note"], ["conv1", "blurred and then sampled, " * 2]]
    monkeypatch.setenv("COLUMNS", "40")
    assert columns(long).splitlines()[2] == "       and then sampled,"


def test_the_width_is_the_terminals_or_a_hundred(monkeypatch):
    monkeypatch.setattr("os.get_terminal_size", lambda *_: (_ for _ in ()).throw(OSError))
    assert width() == 100
    monkeypatch.setenv("COLUMNS", "72")
    assert width() == 72
    monkeypatch.setenv("COLUMNS", "3")
    assert width() == 24


def test_a_number_and_its_sign_stay_together(monkeypatch):
    monkeypatch.setenv("COLUMNS", "24")
    assert wrapped(["it moves much less, by 29 %"]) == "it moves much less, by\n  29 %"
