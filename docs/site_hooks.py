"""What the site has besides the pages in docs/: help, the data flow, examples and notebooks.

MkDocs calls the `on_…` functions while it builds (`make docs`); nothing of this is kept, so nothing
can be out of date.
"""

import json
import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File
from typer.main import get_command
from typer.testing import CliRunner

import aliascope
from aliascope.cli import app

ROOT = Path(__file__).parents[1]
HELP, DATA_FLOW = "<!-- the help of every command -->", "<!-- the data flow -->"
"""What stands on a page in the place of what the program itself says."""


class AsMarkdown(griffe.Extension):
    """Docstrings as Markdown takes them: >>> would be a quote, `Source:` a heading."""

    def on_object(self, *, obj, **_):
        """Called by griffe with everything that has been read."""
        if obj.docstring and not obj.is_alias:
            text = _EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
            obj.docstring.value = _SOURCE.sub(
                lambda m: f"**Source.** {' '.join(m[1].split())}", text
            )


def in_bold(source):
    return f"**Source.** {' '.join(source[1].split())}"


_EXAMPLE = re.compile(r"^>>> .+(?:\n.+)*", flags=re.MULTILINE)
_SOURCE = re.compile(r"^Source: (.+(?:\n +.+)*)", flags=re.MULTILINE)


def on_files(files, config):
    """Notebooks become pages; CONTRIBUTING becomes one, for the design links to it."""
    pages = {"contributing.md": (ROOT / "CONTRIBUTING.md").read_text()}
    for notebook in sorted(Path(config.docs_dir).glob("notebooks/*.ipynb")):
        name = f"notebooks/{notebook.name}"
        pages[name.replace(".ipynb", ".md")] = page_of(json.loads(notebook.read_text()), notebook)
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown, **_):
    """Links that lead somewhere in the repository lead to the same place on the site."""
    markdown = markdown.replace("](../CONTRIBUTING.md)", "](contributing.md)")
    markdown = re.sub(r"\]\((\w+/)?(\w+)\.ipynb\)", r"](\1\2.md)", markdown)
    if HELP in markdown:
        markdown = markdown.replace(HELP, helps())
    return markdown.replace(DATA_FLOW, fenced(aliascope.__doc__.split("\n\n")[1]))


def helps():
    """A section a command, in the order of `aliascope --help`."""
    names = list(get_command(app).commands)
    sections = [f"```console\n$ aliascope --help\n{help_of([])}\n```"]
    sections += [
        f"## {name}\n\n```console\n$ aliascope {name} --help\n{help_of([name])}\n```"
        for name in names
    ]
    return "\n\n".join(sections)


def help_of(words):
    result = CliRunner().invoke(app, [*words, "--help"], prog_name="aliascope", terminal_width=100)
    if result.exit_code:
        raise result.exception
    return "\n".join(line.rstrip() for line in result.output.strip().splitlines())


def page_of(notebook, path):
    """A notebook as Markdown: text, code, and what it printed or drew."""
    blocks = [block for cell in notebook["cells"] for block in blocks_of(cell)]
    download = f'<a href="{path.name}" download>Download the notebook</a>'
    return "\n\n".join([blocks[0], download, *blocks[1:]])


def blocks_of(cell):
    text = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield text
        return
    yield f"```python\n{text}\n```"
    for output in cell["outputs"]:
        yield shown(output)


def shown(output):
    """One output of a cell; an error has no place on a page and stops the build."""
    if output["output_type"] == "stream":
        return fenced(output["text"])
    data = output["data"]
    if "image/png" in data:
        return f'<img alt="What the cell draws" src="data:image/png;base64,{data["image/png"]}">'
    return fenced(data["text/plain"])


def fenced(lines):
    return f"```text\n{''.join(lines).strip(chr(10))}\n```"
