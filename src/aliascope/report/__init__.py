"""One self-contained page of what was found: readable without scripts, styles or the network.

It reads runs, comparisons, repairs, studies, tables of methods, latencies and fine-tuning
histories, and computes nothing that the library does not.
"""

import base64
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from aliascope.compare import CURVES
from aliascope.errors import RunError
from aliascope.images import open_images
from aliascope.measure.store import Run
from aliascope.report import attribution, others, repaired, study
from aliascope.report.blocks import Part
from aliascope.report.definitions import DEFINITIONS
from aliascope.results.checked import read_checked
from aliascope.results.files import write_file
from aliascope.svg import COLOURS

_THUMBNAIL = 128
"""Pixels of the longer side."""
_EMBEDDED = "photos"
"""The source whose photographs anyone may see."""
_MOST = 3_000_000
"""Bytes that a page may have."""


def report(
    *paths: str | Path, out: str | Path | None = None, thumbnails: bool | None = None
) -> Path:
    """Write one HTML page of what lies in `paths`.

    Args:
        paths: of each a run directory, a directory or file of a comparison or repair, a study's,
            that of a table of methods or of a fine-tuning, or a file that a result's `save` wrote.
        out: the file; by default report.html in the first directory.
        thumbnails: whether small pictures of the photographs are in the page; by default only of
            the embedded ones, for others may be private.

    Returns:
        The file.

    Raises:
        RunError: a path holds nothing that can be reported, or the page cannot be written.
    """
    if not paths:
        raise RunError("nothing to report: give a directory that aliascope wrote")
    places = [Path(path) for path in paths]
    parts = [_part(path, thumbnails) for path in places]
    first = places[0] if places[0].is_dir() else places[0].parent
    file = first / "report.html" if out is None else Path(out)
    page = _rendered(parts).encode()
    if len(page) > _MOST:
        raise RunError(
            f"the report would have {len(page):,} bytes, more than {_MOST:,}: report fewer paths "
            "at once, or leave out the thumbnails"
        )
    write_file(file, page)
    return file


def _part(path: Path, thumbnails: bool | None) -> Part:
    for marker, read in _KINDS.items():
        if (path / marker).exists():
            return read(path, thumbnails)
    try:
        kind = json.loads(path.read_bytes())
        kind = kind.get("kind") or ("finetune" if "history" in kind else "")
    except (OSError, ValueError, AttributeError):
        kind = ""
    if kind in _SAVED:
        return _SAVED[kind](path)
    raise RunError(
        f"{path} holds nothing to report: give a directory or file that `aliascope study`, "
        "`compare --out`, `measure --out`, `attribute --out`, `repair --out`, `methods --out` or "
        "`antialias --finetune` wrote"
    )


def _study(path: Path, thumbnails: bool | None) -> Part:
    source = study.summary_of(path)["study"]["images"]
    shown = _pictures(path, study.CURVES, source, thumbnails)
    return study.part(path, shown)


def _comparison(path: Path, thumbnails: bool | None) -> Part:
    run = path / "A"
    source = Run.open(run).config["images"] if (run / "run.json").exists() else ""
    return others.of_comparison(path, _pictures(path, CURVES, source, thumbnails))


_KINDS: dict[str, Callable[[Path, bool | None], Part]] = {
    "study.json": _study,
    "repair.json": lambda path, _: repaired.part(path / "repair.json"),
    "attribution.json": lambda path, _: attribution.part(path / "attribution.json"),
    "methods.json": lambda path, _: others.of_methods(path),
    "comparison.json": _comparison,
    "A/run.json": _comparison,
    "run.json": lambda path, _: others.of_run(path),
    "finetune.json": lambda path, _: others.of_finetuning(path),
}
"""What a directory of each kind holds, and who reads it."""
_SAVED: dict[str, Callable[[Path], Part]] = {
    "Attribution": attribution.part,
    "Repaired": repaired.part,
    "Comparison": lambda path: others.of_comparison(path, {}),
    "Tradeoffs": others.of_methods,
    "Latency": others.of_latency,
    "finetune": others.of_finetuning,
}
"""The same of single files."""


def _pictures(folder: Path, curves: str, source: str, thumbnails: bool | None) -> dict[str, str]:
    """Image id → data URI of a small JPEG, of the photographs that the curves are of."""
    from aliascope.study.study import read_csv

    wanted = source == _EMBEDDED if thumbnails is None else thumbnails
    if not wanted or not (folder / curves).exists():
        return {}
    ids = {str(x) for x in read_csv(io.BytesIO(read_checked(folder, curves)))["image_id"]}
    found = {}
    for image in open_images(source):
        if image.id in ids:
            found[image.id] = _thumbnail(image.pixels)
            if len(found) == len(ids):
                break
    return found


def _thumbnail(pixels: object) -> str:
    from torchvision.transforms.v2.functional import to_pil_image

    picture = to_pil_image(pixels)  # pyright: ignore[reportArgumentType]
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _rendered(parts: Sequence[Part]) -> str:
    templates = Environment(
        loader=PackageLoader("aliascope.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    folder = Path(__file__).parent
    style, script = ((folder / f"page.{x}").read_text() for x in ("css", "js"))
    return templates.get_template("page.html.j2").render(
        parts=parts,
        definitions=DEFINITIONS,
        colours=COLOURS,
        style=Markup(style),  # noqa: S704 - our own files
        script=Markup(script),  # noqa: S704
        safe=Markup,  # of `aliascope.svg`, which escapes its texts itself
    )
