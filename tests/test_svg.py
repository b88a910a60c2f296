"""Charts: every mark where its value says, every text inert."""

import math
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aliascope.svg import Line, Mark, _ticks, curves, dots, heat, scatter

NASTY = '<img src=x onerror="alert(1)">&'
SVG = "{http://www.w3.org/2000/svg}"


def parsed(text):
    root = ET.fromstring(text)  # noqa: S314 - our own
    assert root.find(f"{SVG}title").text
    assert root.find(f"{SVG}desc").text
    return root


def circles(root):
    return [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter(f"{SVG}circle")]


def test_texts_are_inert():
    marks = [Mark("baseline", 0.5, text=NASTY)]
    line = Line("baseline", NASTY, [0, 1], [0.1, 0.2], [True, False], [NASTY, NASTY])
    drawn = [
        dots({NASTY: marks}, title=NASTY, description=NASTY),
        curves([line], title=NASTY, description=NASTY, x_label=NASTY, y_label=NASTY),
        scatter([(NASTY, Mark("control", 1), Mark("control", 2))], title=NASTY, description=NASTY,
                x_label=NASTY, y_label=NASTY),
        heat(np.eye(3), title=NASTY, description=NASTY),
    ]  # fmt: skip
    for text in drawn:
        assert "<img" not in text
        root = parsed(text)
        assert root.find(f"{SVG}title").text == NASTY
        for element in root.iter():
            assert element.tag.removeprefix(SVG) in {
                "svg", "title", "desc", "g", "line", "text", "circle", "polyline", "path", "rect"
            }  # fmt: skip
            assert not [name for name in element.attrib if name.startswith("on") or name == "style"]


def test_dots_stand_where_their_values_are():
    values = [0.0, 0.25, 1.0]
    rows = {str(v): [Mark("baseline", v, v - 0.0, v)] for v in values}
    x = [c[0] for c in circles(parsed(dots(rows, title="t", description="d")))]
    assert (x[1] - x[0]) / (x[2] - x[0]) == pytest.approx(0.25, abs=1e-3)


def test_points_have_whiskers_and_arrows_and_names_of_their_own():
    first = ("A", Mark("baseline", 1.0, 0.5, 2.0), Mark("baseline", 0.5, 0.4, 0.6))
    second = ("B", Mark("antialiased", 5.0), Mark("antialiased", 1.0))
    twin = ("C", Mark("control", 1.0), Mark("control", 0.5))
    gone = ("D", Mark("control", np.nan), Mark("control", 0.5))
    options = {"title": "t", "description": "d", "x_label": "x", "y_label": "y"}
    root = parsed(scatter([first, second, twin, gone], arrows=[(0, 1), (0, 3)], **options))
    twins, (x, y), (x_end, y_end) = circles(root)  # the control lies beneath
    assert twins == (x, y)
    across, up = [line for line in root.iter(f"{SVG}line") if line.get("class") == "baseline line"]
    left, right = float(across.get("x1")), float(across.get("x2"))
    assert (right - x) / (x - left) == pytest.approx(2, abs=0.02)
    assert float(up.get("y1")) - y == pytest.approx(y - float(up.get("y2")), abs=0.2)
    (arrow,) = [line for line in root.iter(f"{SVG}line") if line.get("class") == "mark"]
    ends = [float(arrow.get(name)) for name in ("x1", "y1", "x2", "y2")]
    slope = (ends[3] - ends[1]) / (ends[2] - ends[0])
    assert slope == pytest.approx((y_end - y) / (x_end - x), rel=0.01)
    named = {t.text: t for t in root.iter(f"{SVG}text") if t.text in "ABC"}
    apart = abs(float(named["A"].get("y")) - float(named["C"].get("y")))
    assert apart >= 12 or named["A"].get("text-anchor") != named["C"].get("text-anchor")
    said = [c.find(f"{SVG}title").text for c in root.iter(f"{SVG}circle")]
    assert said == ["C: 1; 0.5", "A: 1, 0.5 to 2; 0.5, 0.4 to 0.6", "B: 5; 1"]


def test_a_mark_says_its_interval():
    text = dots({"a": [Mark("baseline", 0.5, 0.4, 0.75)]}, title="t", description="d", form=".2f")
    assert "baseline: 0.50, 0.40 to 0.75" in text


def test_the_sign_of_the_first_tick_is_within_the_drawing():
    rows = {"": [Mark("antialiased", -0.016, -0.021, -0.01)]}
    root = parsed(dots(rows, title="t", description="d", width=200))
    ticks = [t for t in root.iter(f"{SVG}text") if t.text == "-0.025"]
    assert [t.get("text-anchor") for t in ticks] == ["middle"]
    assert float(ticks[0].get("x")) > 3 * len("-0.025")  # half of its letters


def test_what_is_not_known_is_not_drawn():
    rows = {"a": [Mark("baseline", math.nan)], "b": [Mark("control", 1.0)]}
    assert len(circles(parsed(dots(rows, title="t", description="d")))) == 1
    line = Line("baseline", "l", [0, 1, 2], [1.0, math.nan, 2.0], [], ["a", "b", "c"])
    root = parsed(curves([line], title="t", description="d", x_label="x"))
    assert len(circles(root)) == 2
    assert circles(parsed(curves([], title="t", description="d", x_label="x"))) == []
    zero = Line("baseline", "l", [0, 1], [0.0, 10.0], [], ["a", "b"])
    assert (
        len(circles(parsed(curves([zero], title="t", description="d", x_label="x", log=True)))) == 1
    )


def test_curves_are_linear_and_log_where_asked():
    line = Line("antialiased", "l", [0, 1, 2], [1.0, 10.0, 100.0], [False, True, False], ["a"] * 3)
    for log, share in ((False, 9 / 99), (True, 0.5)):
        root = parsed(curves([line], title="t", description="d", x_label="x", log=log))
        (_, a), (_, b), (_, c) = circles(root)
        assert (b - a) / (c - a) == pytest.approx(share, abs=1e-2)
        kinds = [c.get("class") for c in root.iter(f"{SVG}circle")]
        assert kinds == ["antialiased point", "antialiased ring", "antialiased point"]


def test_a_heat_map_covers_its_area_once_and_is_darkest_at_its_peak():
    values = np.zeros((8, 8))
    values[4, 4] = 1
    root = parsed(heat(values, title="t", description="d", width=80, box=0.5))
    paths = {p.get("fill"): p.get("d") for p in root.iter(f"{SVG}path")}
    darkest = min(paths)
    assert paths[darkest] == "M40.0 40.0h10.0v10.0h-10.0z"
    area = sum(
        float(run.split("h")[1].split("v")[0]) * float(run.split("v")[1].split("h")[0])
        for d in paths.values()
        for run in d.split("M")[1:]
    )
    assert area == pytest.approx(80 * 80)
    box = next(root.iter(f"{SVG}rect"))
    assert [float(box.get(k)) for k in ("x", "y", "width", "height")] == [20, 20, 40, 40]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8))
def test_ticks_are_round_and_hold_the_values(values):
    ticks = _ticks(values)
    assert 2 <= len(ticks) <= 12
    step = ticks[1] - ticks[0]
    assert ticks[0] <= min(values) + 1e-6 * step
    assert ticks[-1] >= max(values) - 1e-6 * step
    assert np.allclose(np.diff(ticks), step)
