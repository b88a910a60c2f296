"""Seconds from the drop of a photograph to the first answer of the embedded models, in Chromium.

    python benchmarks/bench_explorer.py

Ten photographs of the embedded ones, each in full; the first is left out. The map of the photograph
before is still filling when the next one is dropped.
"""

import shutil
import statistics
import time

import torch
from playwright.sync_api import sync_playwright

from aliascope.explorer import build
from aliascope.images.photos import _paths
from aliascope.runtime import environment, keep_memory

DROPS = 10


def main():
    keep_memory()  # as the command line does
    page = build()
    _, address, _ = page.launch(quiet=True, prevent_thread_lock=True)
    seconds = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        view = browser.new_page()
        view.goto(address)
        view.locator("#answer figcaption").wait_for(timeout=300_000)
        for path in list(_paths())[:DROPS]:
            start = time.perf_counter()
            view.locator("#drop input[type=file]").set_input_files(path)
            shown = view.locator("#answer figcaption", has_text=path.name)
            shown.wait_for(timeout=300_000)
            seconds.append(time.perf_counter() - start)
            time.sleep(2)
        browser.close()
    page.close()
    machine = environment(torch.device("cpu"))
    print(f"{machine['hardware']}, {machine['threads']} threads")
    print(f"median {statistics.median(seconds[1:]):.2f} s, slowest {max(seconds[1:]):.2f} s")


if __name__ == "__main__":
    main()
