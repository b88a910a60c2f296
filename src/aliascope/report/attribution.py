"""The report of an attribution: where instability arises, grows and fades."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aliascope.attribute import Attribution
from aliascope.report.blocks import Chart, Part, Section, Table, cell, limits
from aliascope.report.recorded import facts, skipped_of
from aliascope.svg import Mark, dots


def part(path: Path) -> Part:
    """Of a file that `Attribution.save` wrote."""
    found = Attribution.open(path)
    sample = f"{found.n} images of {found.groups} photographs, {found.shifts} shifts"
    return Part(
        title=found.model,
        subtitle=f"Attribution: {sample}",
        verdict=found.verdict,
        roles=[
            ("antialiased", "the aliasing band; behind the sampling"),
            ("baseline", "the low band; before the sampling"),
        ],
        sections=[*_sections(found)],
        notices=found.notices,
        skipped=skipped_of(found.skipped),
        facts=facts(found.info),
    )


def _sections(found: Attribution) -> Iterator[Section]:
    depths: Any = found.depths
    shares = {
        f"{row['stride']}  {_short(row['layers'])}": [
            _mark("antialiased", row, "alias_carried"),
            _mark("baseline", row, "low_carried"),
        ]
        for row in depths.to_dict("records")
    }
    told = "; ".join(
        f"{row['layers']}: {row['alias_carried']:.2f} and {row['low_carried']:.2f}, interaction "
        f"{row['interaction']:.2f}"
        for row in depths.to_dict("records")
    )
    drawn = dots(
        shares,
        title="share of the movement of the logits that each band carries, by depth",
        description=f"Aliasing band, then low band: {told}.",
    )
    text = (
        "Of a picture and its copy moved by a pixel, the network goes on with one band of what it "
        "decimates from the one and the rest from the other. Where the interaction exceeds 1, the "
        "bands' effects are larger than the movement, and their shares cannot be believed."
    )
    columns = ("alias_carried", "low_carried", "interaction", "alias_effect", "low_effect")
    header = ["stride", "layers", *(name.replace("_", " ") for name in columns), "r"]
    rows = [
        [
            cell(row["stride"]),
            cell(row["layers"]),
            *(limits(row[x], row[f"{x}_low"], row[f"{x}_high"], ".3f") for x in columns),
            cell(row["r_low"], ".2f"),
        ]
        for row in depths.to_dict("records")
    ]
    table = Table("depths", header, rows)
    yield Section("Where the movement arises", text, [Chart([drawn])], [table])
    yield _layers(found)
    if len(found.doses):
        yield _doses(found)


def _layers(found: Attribution) -> Section:
    records = found.layers.to_dict("records")
    names = ("equivariance_before", "equivariance_behind")
    drawn = dots(
        {
            _short(row["layer"]): [
                _mark(role, row, name)
                for role, name in zip(("baseline", "antialiased"), names, strict=True)
            ]
            for row in records
        },
        title="equivariance error before and behind each sampling",
        description="; ".join(
            f"{row['layer']}: {row[names[0]]:.3f} to {row[names[1]]:.3f}" for row in records
        ),
    )
    columns = (*names, "floor_before", "floor_behind", "alias_carried", "alias_share")
    header = ["layer", "stride", *(name.replace("_", " ") for name in columns)]
    rows = [
        [
            cell(row["layer"]),
            cell(row["stride"]),
            *(limits(row[x], row[f"{x}_low"], row[f"{x}_high"], ".3f") for x in columns),
        ]
        for row in records
    ]
    text = (
        "How far the amplitude spectrum of the map changes when the picture moves by a pixel; the "
        "floor is what a map that moved exactly would show. A sampling that aliases raises it. "
        "Alias carried is of the layer alone."
    )
    title, table = "Before and behind each sampling", Table("layers", header, rows)
    return Section(title, text, [Chart([drawn])], [table])


def _doses(found: Attribution) -> Section:
    doses: Any = found.doses
    kinds = list(dict.fromkeys(doses["dose"]))
    table = doses.set_index(["place", "dose"])
    places = list(dict.fromkeys(doses["place"]))
    rows = [
        [
            cell(place),
            *(
                limits(row["change"], row["change_low"], row["change_high"], "+z.1%")
                for row in (table.loc[(place, x)] for x in kinds)
            ),
        ]
        for place in places
    ]
    header = ["filtered", *(x.replace("taps_", "taps ") for x in kinds)]
    text = (
        f"How logit instability changes when one place alone is filtered, in the network as it is, "
        f"on {int(doses['n'].max())} images."
    )
    return Section("What a filter would leave", text, tables=[Table("doses", header, rows)])


def _mark(role: str, row: Mapping[str, Any], name: str) -> Mark:
    return Mark(role, row[name], row[f"{name}_low"], row[f"{name}_high"])


def _short(name: str) -> str:
    """Names of more than two layers, counted."""
    first, *others = name.split(" + ")
    return name if len(others) < 2 else f"{first} and {len(others)} more"
