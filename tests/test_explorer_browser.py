"""The page in a real browser, served by the command line, against the library's own answers."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import skimage
import torch

import aliascope
from aliascope.images import decode
from aliascope.measure.batch import prepare
from aliascope.measure.shiftmap import shift_by, shifted_logits
from test_explorer import TOY

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
PATIENCE = 120_000
"""Milliseconds; nothing is asserted about time."""
COFFEE = Path(skimage.__file__).parent / "data" / "coffee.png"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    (folder / "toy.py").write_text(TOY)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "aliascope.cli", "explore", "toy:net", "toy:other"]
    server = subprocess.Popen(
        [*command, "--port", str(port), "--device", "cpu"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder) + os.pathsep + os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    yield server.stdout.readline().strip()
    server.send_signal(signal.SIGINT)
    assert server.wait(120) == 0
    server.stdout.close()


@pytest.fixture
def visit(chromium, address):
    contexts, faults = [], []

    def visit(query="", **settings):
        """A page of a new reader that shows its first answer."""
        context = chromium.new_context(**settings)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: faults.extend(outside(request.url, address)))
        page.on("console", lambda said: faults.extend([said.text] * (said.type == "error")))
        page.goto(address + query)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert faults == []


def outside(url, address):
    return [] if url.startswith((address, "data:", "blob:")) else [url]


def test_the_check_for_outside_requests_can_fail():
    assert outside("https://fonts.example/a.woff", "http://127.0.0.1:1/")
    assert not outside("http://127.0.0.1:1/a.js", "http://127.0.0.1:1/")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """What the library says of pixels under a shift, as the page writes it."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "toy.py").write_text(TOY)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.delitem(sys.modules, "toy", raising=False)
        instruments = {
            spec: prepare(aliascope.load_model(spec), device="cpu")
            for spec in ("toy:net", "toy:other", "toy:net@ideal")
        }

    def answer(spec, pixels, rows=0, columns=0, border="crop"):
        plan = [shift_by(0, 0), shift_by(rows, columns)]
        found = shifted_logits(instruments[spec], pixels, plan, border=border)
        (unshifted, shifted) = torch.cat([z for _, z in found]).double().softmax(-1)
        values, indices = shifted.topk(5)
        return [
            (f"class {i}", 100 * value, 100 * unshifted[i].item())
            for i, value in zip(indices.tolist(), values.tolist(), strict=True)
        ]

    return answer


def bars(page, index):
    """(class, percent, percent unshifted) of one of the two charts."""
    chart = page.locator("#answer section.top svg").nth(index)
    titles = chart.locator("g > title").all_text_contents()
    parts = [re.fullmatch(r"(.+): (.+)%, (.+)% unshifted", title).groups() for title in titles]
    return [(name, float(now), float(before)) for name, now, before in parts]


def assert_same(found, wanted):
    assert [name for name, *_ in found] == [name for name, *_ in wanted]
    for (_, *here), (_, *there) in zip(found, wanted, strict=True):
        assert here == pytest.approx(there, abs=0.06)  # as it is rounded


def seen(page, text):
    page.locator("#answer figcaption", has_text=text).wait_for()


def test_a_photograph_is_dropped_and_moved(visit, library):
    page = visit()
    seen(page, "not shifted")
    page.locator("#drop input[type=file]").set_input_files(COFFEE)
    seen(page, "coffee.png")
    pixels, _ = decode(COFFEE)
    before = bars(page, 0)
    assert_same(before, library("toy:net", pixels))
    for key, control, text in (
        ("ArrowRight", "#dx", "1 px right"),
        ("ArrowDown", "#dy", "1 px up, 1 px right"),
    ):
        page.locator(f"{control} input[type=range]").press(key)
        seen(page, text)
    assert bars(page, 0) != before
    for index, spec in enumerate(("toy:net", "toy:other")):
        assert_same(bars(page, index), library(spec, pixels, -1, 1))
    page.locator("#maps section", has_text="class").first.wait_for()
    page.locator("#layers svg").first.wait_for()


@pytest.mark.slow
def test_a_click_on_a_map_sets_the_shift(visit, library):
    page = visit("?sample=brick.png%230-0")
    page.locator("#maps section", has_text="of 288 shifts").nth(1).wait_for()
    page.locator('#maps section:nth-child(2) [data-at="-2,3"] rect').click()
    seen(page, "2 px up, 3 px right")
    pixels = next(x.pixels for x in aliascope.open_images("photos") if x.group == "brick.png")
    assert_same(bars(page, 0), library("toy:net", pixels, -2, 3))
    for control, value in (("#dx", "3"), ("#dy", "-2")):
        assert page.locator(f"{control} input[type=range]").input_value() == value
    page.wait_for_function("location.search.includes('dx=3')")
    page.locator("#dx input[type=range]").press("ArrowLeft")  # they go on from there
    seen(page, "2 px up, 2 px right")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_violation_of_accessibility(visit, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = visit("?sample=brick.png%230-0&dx=2", color_scheme=scheme)
    page.locator("#layers svg").first.wait_for()
    found = Axe().run(page).response["violations"]
    serious = [x for x in found if x["impact"] in ("serious", "critical")]
    assert [(x["id"], y["html"]) for x in serious for y in x["nodes"]] == []


@pytest.mark.slow
def test_a_repair_that_is_chosen_is_drawn(visit, library):
    page = visit()
    seen(page, "not shifted")
    page.get_by_label("A repaired: ideal").check()
    page.locator("#answer h3", has_text="toy:net@ideal").wait_for()
    pixels = next(x.pixels for x in aliascope.open_images("photos") if x.group == "chelsea.png")
    assert_same(bars(page, 1), library("toy:net@ideal", pixels))
    page.locator("#maps h3", has_text="toy:net@ideal").wait_for()
    page.locator("#layers title", has_text="toy:net@ideal").first.wait_for(state="attached")


@pytest.mark.slow
def test_a_text_file_gets_a_sentence(visit, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    page = visit()
    seen(page, "chelsea")
    page.locator("#drop input[type=file]").set_input_files(tmp_path / "text.png")
    alert = page.locator("#notes [role=alert]")
    alert.wait_for()
    assert alert.inner_text() == (
        "text.png is in no format that Pillow reads; save it as PNG or JPEG"
    )
    seen(page, "chelsea")  # what was there is there still


@pytest.mark.slow
@pytest.mark.parametrize("name", ["<img src=x onerror=alert(1)>.png", "${alert(2)}{{value}}`.png"])
def test_names_stay_text(visit, tmp_path, name):
    (tmp_path / name).write_bytes(COFFEE.read_bytes())
    page = visit()
    seen(page, "chelsea")
    page.locator("#drop input[type=file]").set_input_files(tmp_path / name)
    page.locator("#answer figcaption", has_text=".png").wait_for()
    page.locator("#layers svg").first.wait_for()
    assert page.locator("#answer img").count() == 1


@pytest.mark.slow
def test_a_link_restores_what_is_shown(visit, library):
    query = "?a=toy%3Aother&b=%40ideal&sample=brick.png%230-0&dx=-3&dy=8&border=circular"
    page = visit(query)
    seen(page, "brick\n8 px down, 3 px left, circular".partition("\n")[2])
    assert page.locator("#dx input[type=range]").input_value() == "-3"
    assert page.get_by_label("toy:other").first.is_checked()
    page.locator("#dx input[type=range]").press("ArrowLeft")
    seen(page, "4 px left")
    page.wait_for_function("location.search.includes('dx=-4')")
    assert page.locator("a.share").get_attribute("href") == query.replace("dx=-3", "dx=-4")
    again = visit(page.evaluate("location.search"))
    seen(again, "4 px left")
    assert bars(again, 1) == bars(page, 1)


@pytest.mark.slow
def test_a_link_runs_nothing(visit):
    page = visit("?a=os:getcwd&b=%2Fetc%2Fx.safetensors&dx=1e9")
    seen(page, "not shifted")
    assert page.locator("#notes p").count() == 3


@pytest.mark.slow
def test_ten_readers_get_their_own_answers(visit, library):
    photos = {x.group: x for x in reversed([*aliascope.open_images("photos")])}
    names = sorted(photos)[:10]
    pages = []
    for step, name in enumerate(names):
        sample = photos[name].id.replace("#", "%23")
        pages.append(visit(f"?sample={sample}&dx={step - 5}&dy={step - 2}"))
    for step, (name, page) in enumerate(zip(names, pages, strict=True)):
        seen(page, name.partition(".")[0])
        for index, spec in enumerate(("toy:net", "toy:other")):
            assert_same(bars(page, index), library(spec, photos[name].pixels, step - 2, step - 5))


@pytest.mark.slow
def test_numbers_and_picture_can_be_saved(visit, tmp_path):
    page = visit("?dx=2")
    page.locator("a.json").wait_for()
    page.wait_for_function(
        "JSON.parse(atob(document.querySelector('a.json').href.split(',')[1]))"
        ".models.b.map.rows.length == 289"
    )
    with page.expect_download() as saving:
        page.locator("a.json").click()
    saving.value.save_as(tmp_path / "shown.json")
    record = json.loads((tmp_path / "shown.json").read_text())
    assert record["columns"] == 2
    assert len(record["models"]["b"]["map"]["prediction"]) == 289
    with page.expect_download() as saving:
        page.locator("#png").click()
    saving.value.save_as(tmp_path / "shown.png")
    picture = np.asarray(PIL.Image.open(tmp_path / "shown.png").convert("RGB"))
    assert picture.shape[1] == 1100
    colours = {tuple(int(x) for x in c) for c in picture.reshape(-1, 3)}
    assert {(0x1B, 0x6C, 0xA8), (0xC8, 0x50, 0x1E)} <= colours  # bars of both models
    assert len(colours) > 1000  # and the photograph


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_need_not_be_scrolled_sideways(visit, scheme):
    page = visit(viewport={"width": 360, "height": 800}, color_scheme=scheme)
    page.locator("#layers svg").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ink = page.locator("#answer svg .ink").first.evaluate("e => getComputedStyle(e).fill")
    assert (min(map(int, re.findall(r"\d+", ink))) > 128) == (scheme == "dark")
