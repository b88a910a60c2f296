"""The report: what it says is what was found, and nothing in it runs, loads or leaks."""

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from aliascope import Preprocessing, antialias, bench, compare
from aliascope.compare import Comparison
from aliascope.errors import RunError
from aliascope.measure.store import Run
from aliascope.report import report
from aliascope.report.definitions import DEFINITIONS
from aliascope.statistics import mean_intervals
from aliascope.study.summary import FORMAT
from aliascope.study.tradeoffs import compare_methods

pytestmark = pytest.mark.xdist_group("report")  # one worker makes what all share

NASTY = "<img src=x onerror=alert(1)>.png"
NAMES = {
    "sis": "SIS",
    "sis_half": "SIS at confidence ½",
    "logit_instability": "logit instability",
}
PREPROCESSING = Preprocessing(resize=(40,), crop=(32, 32))


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 5))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in (NASTY, "a.png", "b.png", "c.png"):
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(folder / name)
    (folder / "broken.png").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def compared(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared") / "out"
    options = {"preprocess": PREPROCESSING, "device": "cpu", "out": out}
    found = compare(network(), antialias(network()), images=str(pictures), **options)
    return found, out, report(out)


class Page(HTMLParser):
    """Tags, what they point at, and the cells of all tables."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.ids, self.rows, self.text = [], [], [], [], ""
        self._cell = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href"):
                self.links.append(value)
            if name == "id":
                self.ids.append(value)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = ""

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append(self._cell)
            self._cell = None

    def handle_data(self, data):
        self.text += data
        if self._cell is not None:
            self._cell += data


def read(file):
    return Page(file.read_text())


def test_it_asks_for_nothing_and_runs_nothing_but_its_own_script(compared):
    page = read(compared[2])
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in page.links)
    assert page.tags.count("script") == 1
    assert not {"iframe", "object", "embed", "link", "base", "form"} & set(page.tags)
    text = compared[2].read_text()
    assert not re.search(r"@import|url\(", text)
    assert len(text) < 3_000_000


def test_links_lead_somewhere(compared):
    page = read(compared[2])
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_names_stay_inert(compared):
    text = compared[2].read_text()
    assert "<img src=x" not in text
    assert NASTY in read(compared[2]).text


def test_every_figure_is_the_comparison_s(compared):
    found, _, file = compared
    page = read(file)
    assert found.verdict in page.text
    for row in found.images.to_dict("records"):
        name = NAMES.get(row["metric"], row["metric"])
        cells = next(cells for cells in page.rows if cells[0] == name and len(cells) == 6)
        assert float(cells[1]) == pytest.approx(row["mean_a"], abs=6e-4)
        assert float(cells[2]) == pytest.approx(row["mean_b"], abs=6e-4)
    for row in found.layers.query("metric == 'alias_share'").to_dict("records"):
        cells = next(c for c in page.rows if c[:2] == [row["layer_a"], "alias share"])
        assert float(cells[2]) == pytest.approx(row["mean_a"], abs=6e-5)
        assert float(cells[3]) == pytest.approx(row["mean_b"], abs=6e-5)
    for notice in found.notices:
        assert notice in page.text


def test_what_was_skipped_is_said_with_its_reason(compared):
    assert re.search(r"1 pictures? (was|were) left out", read(compared[2]).text)
    assert "broken.png" in read(compared[2]).text


def test_single_photographs_are_drawn_against_the_shift(compared):
    _, out, file = compared
    curves = pd.read_csv(out / "curves.csv")
    assert curves["image_id"].nunique() == 4
    assert set(curves["model"]) == {"A", "B"}
    svgs = [ET.fromstring(x) for x in re.findall(r"<svg xmlns.*?</svg>", file.read_text())]  # noqa: S314
    space = "{http://www.w3.org/2000/svg}"
    assert all(svg.find(f"{space}title").text and svg.find(f"{space}desc").text for svg in svgs)
    rings = sum("ring" in c.get("class") for svg in svgs for c in svg.iter(f"{space}circle"))
    axes = (curves["rows"] == 0).astype(int) + (curves["columns"] == 0)
    assert rings == axes[~curves["steady"]].sum()


def test_thumbnails_are_shown_only_if_asked_for(compared, tmp_path):
    _, out, file = compared
    assert "data:image" not in file.read_text()
    asked = report(out, out=tmp_path / "r.html", thumbnails=True).read_text()
    assert asked.count("data:image/jpeg;base64,") == 4


def test_a_run_and_several_at_once(compared, tmp_path):
    _, out, _ = compared
    file = report(out / "A", out, out / "comparison.json", out=tmp_path / "all.html")
    page = read(file)
    assert page.tags.count("h1") == 3
    run = Run.open(out / "A")
    means = mean_intervals(run.images[["logit_instability"]], run.photographs)
    (_, said), *_ = [cells for cells in page.rows if cells[0] == "logit instability"]
    assert said == "{:.4f} [{:.4f}, {:.4f}]".format(*means.loc["logit_instability"])
    assert len(page.ids) == len(set(page.ids))


def test_accuracy_is_drawn_against_stability_where_there_are_labels(compared, tmp_path):
    title = "<title>top-1 against logit instability</title>"
    assert title not in compared[2].read_text()
    (tmp_path / "labelled").mkdir()
    rng = np.random.default_rng(1)
    lines = ["file,label"]
    for i in range(6):
        pixels = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "labelled" / f"{i}.png")
        lines.append(f"{i}.png,{i % 5}")
    (tmp_path / "labelled.csv").write_text("\n".join(lines))
    options = {"preprocess": PREPROCESSING, "device": "cpu", "out": tmp_path / "out"}
    images = str(tmp_path / "labelled")
    found = compare(network(), antialias(network()), images=images, **options)
    html = report(tmp_path / "out").read_text()
    assert html.count(title) == 1
    chart = html[html.index(title) :].partition("</svg>")[0]
    assert f"logit instability, {found.shifts} shifts" in chart
    means = found.images.set_index("metric")
    for side in "AB":
        x, y = re.search(rf"<title>{side}: ([^<]*); ([^<]*)</title>", chart).groups()
        for said, metric in ((x, "logit_instability"), (y, "accuracy")):
            value, limits = said.split(", ")
            assert float(value) == pytest.approx(means.loc[metric, f"mean_{side.lower()}"], 1e-3)
            low, high = map(float, limits.split(" to "))
            assert 0 <= low <= float(value) <= high


def test_methods_latency_and_history(pictures, tmp_path):
    found = compare_methods(
        network(), "photos", methods=["blurpool:2"], limit=2, latency_seconds=0, device="cpu",
        out=tmp_path / "methods",
    )  # fmt: skip
    page = read(report(tmp_path / "methods"))
    assert found.verdict in page.text
    assert [cells[0] for cells in page.rows[1:]] == found.table["method"].tolist()
    timed = bench([network()], seconds=0.01, device="cpu", batch_sizes=[1])
    timed.save(tmp_path / "latency.json")
    assert timed.verdict in read(report(tmp_path / "latency.json", out=tmp_path / "l.html")).text
    history = [{"step": i, "seconds": i, "loss": 1 / (i + 1), "correct": None} for i in range(3)]
    (tmp_path / "finetune.json").write_text(json.dumps({"history": history}))
    page = read(report(tmp_path / "finetune.json", out=tmp_path / "f.html"))
    assert page.rows[1] == ["0", "1"]
    assert "correct" not in page.rows[0]


def test_what_cannot_be_reported_is_said_in_a_sentence(tmp_path):
    (tmp_path / "x.json").write_text('{"kind": "Cake"}')
    for path in (tmp_path, tmp_path / "x.json", tmp_path / "none"):
        with pytest.raises(RunError, match="holds nothing to report: give a directory or file"):
            report(path)
    with pytest.raises(RunError, match="nothing to report: give a directory"):
        report()
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(RunError, match=r"summary\.json cannot be read"):
        report(tmp_path)
    (tmp_path / "summary.json").write_text('{"study": {}}')
    with pytest.raises(RunError, match="written by another version of aliascope"):
        report(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps({"study": {}, "format": FORMAT}))
    with pytest.raises(RunError, match="it says nothing of headline, notices"):
        report(tmp_path)
    (tmp_path / "history").mkdir()
    (tmp_path / "history" / "finetune.json").write_text("{")
    with pytest.raises(RunError, match=r"finetune\.json cannot be read"):
        report(tmp_path / "history")


def test_comparison_without_the_file_is_made_of_the_runs(compared, tmp_path):
    found, out, _ = compared
    import shutil

    for side in "AB":
        shutil.copytree(out / side, tmp_path / "two" / side)
    assert Comparison.open(out / "comparison.json").verdict == found.verdict
    assert found.verdict in read(report(tmp_path / "two")).text


def test_every_card_is_defined():
    assert {"accuracy", "agreement", "logit_instability", "sis", "kept", "latency"} <= {
        *DEFINITIONS
    }
