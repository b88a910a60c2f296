"""The report of a study, from the tables that it wrote."""

import math
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from aliascope.errors import RunError
from aliascope.measure.store import Run
from aliascope.report import layers, moving, plane
from aliascope.report.blocks import Card, Part, Section, Table, cell
from aliascope.report.recorded import facts, skipped_of
from aliascope.results.checked import read_checked
from aliascope.results.files import unsealed
from aliascope.results.text import brief, interval, number
from aliascope.study import Summary
from aliascope.study.settings import ANTIALIASED, BASELINE, CONTROL, ROLES
from aliascope.study.study import read_csv
from aliascope.study.summary import FORMAT, explained, rows_of
from aliascope.svg import Mark, dots

_CARDS = {
    "accuracy": ("accuracy", "accuracy", "error rate", ".3f"),
    "agreement": ("agreement", "agreement", "disagreement, {}", ".3f"),
    "logit_instability": ("logit instability", "logit_instability", "logit instability, {}", ".4f"),
    "sis_half": ("SIS at confidence ½", "sis_half", "SIS at confidence ½, {}", ".4f"),
    "latency_ms": ("latency, batch 1 (ms)", "latency", "latency, batch 1", ".2f"),
}
"""Column of the headline → name, prefix of its limits, metric of its change, format."""
CURVES = "data/phase5_shift_curves.csv"
_KNOWN = {"study", "headline", "phases", "skipped", "published", "notices"}
"""What a summary says."""


def part(path: Path, pictures: dict[str, str]) -> Part:
    """Read a study's directory.

    Args:
        path: the directory.
        pictures: image id → data URI of its thumbnail, of those that may be shown.

    Raises:
        RunError: its summary is missing or cannot be read.
    """
    record = summary_of(path)
    found, settings = record["headline"], record["study"]
    roles = [role for role in (BASELINE, CONTROL, ANTIALIASED) if settings.get(role)]
    names = {role: str(settings[role]) for role in roles}
    lead = found["shifts"][0] if found else ""
    n, photographs = (found["n"], found["photographs"]) if found else (None, None)
    sample = (
        f"{n} images of {photographs} photographs, {lead} shifts" if found else "no classifiers"
    )
    return Part(
        title=f"{names[BASELINE]} and {names[ANTIALIASED]}",
        subtitle=f"Study on {settings['images']}: {sample}",
        verdict=Summary(path, record, {}).verdict,
        roles=[(role, f"{role}: {name}") for role, name in names.items()],
        cards=[*_cards(path, found)] if found else [],
        sections=[*_sections(path, record, roles, pictures)],
        notices=record["notices"],
        skipped=skipped_of(x for rows in record["skipped"].values() for x in rows),
        facts=[*facts(record), ("phases", _phases(record))],
    )


def summary_of(path: Path) -> dict[str, Any]:
    """What summary.json holds.

    Raises:
        RunError: there is none, or it cannot be read.
    """
    try:
        record = unsealed((path / "summary.json").read_bytes(), older=True)
        missing = _KNOWN - record.keys() or {"images"} - record["study"].keys()
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(
            f"{path / 'summary.json'} cannot be read ({brief(error)}): let "
            f"`aliascope study --out {path}` finish first"
        ) from error
    if record.get("format") != FORMAT:
        raise RunError(
            f"{path / 'summary.json'} was written by another version of aliascope: let "
            f"`aliascope study --out {path}` finish once more"
        )
    if missing:
        raise RunError(
            f"{path / 'summary.json'} cannot be read (it says nothing of "
            f"{', '.join(sorted(missing))}): let `aliascope study --out {path}` finish first"
        )
    return record


def _cards(path: Path, found: dict[str, Any]) -> Iterator[Card]:
    rows: Any = _rows(path, "tables/phase5_tradeoff.csv").set_index("role")
    for column, (name, prefix, metric, form) in _CARDS.items():
        values = [found[column][role] for role in ROLES]
        if any(x is None or math.isnan(x) for x in values):
            continue
        ends = ("latency_low_ms", "latency_high_ms") if prefix == "latency" else None
        low, high = ends or (f"{prefix}_low", f"{prefix}_high")
        marks = [
            Mark(r, v, rows.loc[r, low], rows.loc[r, high])
            for r, v in zip(ROLES, values, strict=True)
        ]
        changed = found["changes"].get(metric.format(found["shifts"][0]))
        shown = ""
        if changed and None not in changed:
            word = {"accuracy": "errors ", "agreement": "other predictions "}.get(column, "")
            shown = f"{word}{number(changed[0], '+.1%')} {interval(changed[1], changed[2], '+.1%')}"
        drawn = dots(
            {role: [mark] for role, mark in zip(ROLES, marks, strict=True)},
            title=name,
            description=f"{name}: {values[0]:{form}}, then {values[1]:{form}}.",
            form="g",
            width=300,
            zero=column not in ("agreement", "accuracy"),
        )
        yield Card(name, format(values[0], form), format(values[1], form), shown, drawn, prefix)
    kept = found["predictions_kept"]
    drawn = dots({"": [Mark(ANTIALIASED, kept)]}, title="same prediction",
                 description=f"{kept:.1%}", form=".0%", width=300)  # fmt: skip
    yield Card("same prediction", "", f"{kept:.1%}", "of the images", drawn, "kept")


def _sections(
    path: Path, record: dict[str, Any], roles: list[str], pictures: dict[str, str]
) -> Iterator[Section]:
    found = record["headline"]
    if found and (path / CURVES).exists():
        named = {role: role for role in ROLES}
        yield moving.section(_rows(path, CURVES), named, found["shifts"][0], pictures)
    if found:
        points = plane.charts([*_points(path, record["study"])], found["shifts"][0])
        yield Section("Figures", charts=points, tables=[_headline(found)])
    stats = "tables/phase3_layerwise_avr_stats.csv"
    sampled = record["study"]["reading"] == "sampled"
    if (path / stats).exists():
        yield layers.of_study(_rows(path, stats), "sampled_avr" if sampled else "avr", roles)
    profiles, spectra = "data/phase3_radial_profiles.csv", "data/phase3_spectra.npz"
    if (path / profiles).exists() and (path / spectra).exists():
        drawn = dict(np.load(BytesIO(read_checked(path, spectra))))
        yield layers.spectra(drawn, _rows(path, profiles), sampled)
    correlation = "tables/phase4_correlation.csv"
    if (path / correlation).exists():
        yield _correlation(_rows(path, correlation), explained(record.get("together", [])))
    if record["published"]:
        rows = [
            [cell(x["figure"]), *(cell(x[k], ".4f") for k in ("published", "here", "difference"))]
            for x in record["published"]
        ]
        header = ["figure", "published", "here", "difference"]
        yield Section("Beside the published study", tables=[Table("published", header, rows)])


def _rows(path: Path, name: str) -> Any:
    try:
        return read_csv(BytesIO(read_checked(path, name)))
    except FileNotFoundError:
        raise RunError(
            f"{path / name} is missing: run the same study again, which makes it anew"
        ) from None


def _points(path: Path, settings: dict[str, Any]) -> Iterator[tuple[str, Mark, Mark]]:
    """The models in the plane of `plane.charts`; none without labels."""
    rows = _rows(path, "tables/phase5_tradeoff.csv").set_index("role")
    if rows["accuracy"].isna().any():
        return
    for role in ROLES:
        x, y = (
            Mark(role, *(rows.loc[role, f"{name}{end}"] for end in ("", "_low", "_high")))
            for name in ("logit_instability", "accuracy")
        )
        yield role, x, y
    if (path / "runs" / CONTROL / "run.json").exists():
        run = Run.open(path / "runs" / CONTROL)
        yield CONTROL, *plane.marks_of(run, CONTROL, class_map=settings["class_map"])


def _headline(found: dict[str, Any]) -> Table:
    rows = [[cell(text) for text in row] for row in rows_of(found)]
    header = ["figure", *found["models"].values(), "change, 95 % interval"]
    return Table("figures", header, rows)


def _correlation(table: Any, together: str) -> Section:
    lead = table["variant"].iloc[0]
    rows = [
        [
            cell(row["layer_name"]),
            *(cell(row[f"{role}_r"], "+.3f") for role in ROLES),
            *(cell(row[f"{role}_p_holm"], ".2g") for role in ROLES),
        ]
        for row in table[table["variant"] == lead].to_dict("records")
    ]
    header = ["layer", *(f"r, {role}" for role in ROLES), *(f"p (Holm), {role}" for role in ROLES)]
    text = f"Pearson's r over images, of a layer's {lead.replace('_', ' ')} with the image's SIS."
    return Section(
        "Does aliasing predict instability?",
        f"{text} {together}".rstrip(),
        tables=[Table("correlation", header, rows)],
    )


def _phases(record: dict[str, Any]) -> str:
    states = {number: state for number, state in record["phases"].items() if state != "complete"}
    return "; ".join(f"{n}: {state}" for n, state in states.items()) or "all complete"
