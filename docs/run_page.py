"""Run every block of a page, or cell of a notebook, in order, and put what they print below them.

    python docs/run_page.py docs/tutorial.md

A `python` block with a title is written into a file of that name, the others share one namespace;
what these print stands in the `text` block behind them. Commands behind a $ in a `console` block
run in a shell, and what they print, notices included, stands below them. `pip install` is left to
its reader. Everything happens in a folder that is deleted afterwards.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path

import torch

from aliascope.runtime import environment

_BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
_TOOK = re.compile(r"(<!-- took -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def main():
    reader = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    reader.add_argument("page", type=Path)
    page = reader.parse_args().page
    if page.suffix == ".ipynb":
        page.write_text(executed_notebook(page.read_text()))
        return
    start = time.perf_counter()
    text = executed(page.read_text())
    minutes = (time.perf_counter() - start) / 60
    page.write_text(_TOOK.sub(rf"\g<1>{took(minutes)}\n\g<2>", text))


def took(minutes):
    """Both times: a machine that does other things takes longer than its processors work."""
    place = environment(torch.device("cpu"))
    where = f"{place['threads']} cores ({place['hardware']}, no GPU)"
    worked = sum(os.times()[:4]) / 60
    shared = " that other work shared" if minutes > 1.5 * worked else ""
    return (
        f"All of it took {minutes:.1f} minutes, {worked:.1f} of processor time, on {where}{shared}."
    )


def executed(text):
    """The page with what its blocks print now."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        sys.path.insert(0, folder)
        try:
            return _BLOCK.sub(Runner(), text)
        finally:
            sys.path.remove(folder)
            # Another page may have a file of the same name.
            for name, module in [*sys.modules.items()]:
                if str(getattr(module, "__file__", "")).startswith(folder):
                    del sys.modules[name]


def executed_notebook(text):
    """The same with the outputs that its cells have now, and nothing of when they ran."""
    import nbformat
    from nbclient import NotebookClient

    # Progress bars of other packages miss a widget; not the reader's concern.
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
    notebook = nbformat.reads(text, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=1200, record_timing=False, resources={"metadata": {"path": folder}}
        )
        client.execute()
    del notebook.metadata["language_info"]
    return nbformat.writes(notebook) + "\n"


class Runner:
    """What a block becomes once it has run; called with them in order."""

    def __init__(self):
        self.names = {}
        self.printed = ""

    def __call__(self, block):
        """A match of `_BLOCK` → the block with what it prints."""
        language, title, body = block.groups()
        if language == "text":
            body = self.printed
        if language == "python":
            self.printed = self.run(title, body)
        if language == "console":
            commands = re.findall(r"^\$ (.*)", body, flags=re.MULTILINE)
            body = "\n".join(f"$ {line}\n{in_shell(line)}" for line in commands)
        if language == "sh" and not body.startswith("pip install"):
            in_shell(body)
        return f"```{language}{title}\n{body}```"

    def run(self, title, code):
        """What Python code prints; with a title it is only written down."""
        if title:
            Path(re.search('title="(.+)"', title)[1]).write_text(code)
            return ""
        with redirect_stdout(StringIO()) as printed:
            exec(compile(code, "<page>", "exec"), self.names)  # noqa: S102  (the page's own code)
        return printed.getvalue()


def in_shell(command):
    """What it prints on a terminal of 110 columns; it must succeed."""
    beside = str(Path(sys.executable).parent)
    around = os.environ | {"COLUMNS": "110", "PATH": f"{beside}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(  # noqa: S602  (the page's own command)
        command,
        shell=True,
        env=around,
        text=True,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        raise SystemExit(f"{command}\n{done.stdout}")
    return "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines()) + "\n"


if __name__ == "__main__":
    main()
