"""Photograph the explorer in Chromium, light and dark, once its map is filled; or a report.

    python docs/screenshots.py
    python docs/screenshots.py demo/report.html

Writes docs/explorer_light.png and docs/explorer_dark.png, or docs/report_….png.
"""

import shutil
import sys
from io import BytesIO
from pathlib import Path

import PIL.Image
from playwright.sync_api import sync_playwright

from aliascope.explorer import build

DOCS = Path(__file__).parent
QUERY = "?sample=chelsea.png%230-0&dx=-5&dy=3"
SIZE = {"width": 1240, "height": 1400}


def main(report=None):
    if report:
        photograph(Path(report).resolve().as_uri(), "report")
        return
    page = build()
    _, address, _ = page.launch(quiet=True, prevent_thread_lock=True)
    photograph(address + QUERY, "explorer", until="of 288 shifts")
    page.close()


def photograph(address, name, until=None):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for scheme in ("light", "dark"):
            view = browser.new_page(viewport=SIZE, color_scheme=scheme)
            view.set_default_timeout(600_000)
            view.goto(address)
            if until:
                view.locator("#maps section", has_text=until).nth(1).wait_for()
            small(view.screenshot()).save(DOCS / f"{name}_{scheme}.png", optimize=True)
        browser.close()


def small(screenshot):
    """Of 256 colours: a third of the bytes."""
    picture = PIL.Image.open(BytesIO(screenshot)).convert("RGB")
    return picture.quantize(256, dither=PIL.Image.Dither.NONE)


if __name__ == "__main__":
    main(*sys.argv[1:])
