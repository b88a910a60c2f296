"""The part of a report that says what was tried for a repair, and what was chosen."""

from pathlib import Path
from typing import Any

from aliascope.repair import Repaired
from aliascope.report.blocks import Card, Chart, Part, Section, Table, cell, limits
from aliascope.report.recorded import facts
from aliascope.svg import Mark, dots, scatter

_CARDS = {
    "logit_instability": ("logit instability", ".4f", "change", "+z.1%"),
    "accuracy": ("top-1", ".1%", "difference", "+z.1%"),
    "agreement": ("agreement", ".1%", "difference", "+z.1%"),
}


def part(path: Path) -> Part:
    """Of repair.json."""
    found = Repaired.open(path)
    sections = []
    if len(found.tried):
        sections.append(_tried(found))
    if len(found.combined):
        sections.append(_combined(found))
    sections.append(Section("Plan", "What was done at each place.", tables=[_plan(found)]))
    return Part(
        title=f"{found.model}, repaired",
        subtitle=f"Repair: judged on {found.n} images of {found.groups} photographs kept apart",
        verdict=found.verdict,
        roles=[("baseline", "as it was"), ("antialiased", "repaired")],
        cards=_cards(found),
        sections=sections,
        notices=found.notices,
        facts=[
            *facts(found.info),
            ("weights", "model.safetensors"),
            ("converted", _broken(found.spec)),
        ],
    )


def _cards(found: Repaired) -> list[Card]:
    lead = found.judged["shifts"].iloc[0]
    cards = []
    for row in found.judged.to_dict("records"):
        if row["shifts"] != lead or row["metric"] not in _CARDS:
            continue
        name, form, kind, signed = _CARDS[row["metric"]]
        ends = (row[f"{kind}{end}"] for end in ("", "_low", "_high"))
        value, low, high = ends
        drawn = dots(
            {"": [Mark("antialiased", value, low, high)]},
            title=f"{name}, change",
            description=f"{value:+.4g} with its interval.",
            form="g",
            width=300,
        )
        shown = limits(value, low, high, signed).text
        before, after = format(row["mean_a"], form), format(row["mean_b"], form)
        cards.append(Card(name, before, after, shown, drawn, row["metric"]))
    return cards


def _tried(found: Repaired) -> Section:
    rows: list[Any] = found.tried.to_dict("records")
    known = [row for row in rows if row["reason"] == ""]
    marks = [
        (
            f"{row['stride']} {row['method']}",
            Mark("antialiased" if found.choices.get(row["place"]) == row["method"] else "control",
                 row["latency"], row["latency_low"], row["latency_high"]),
            Mark("", 1 + row["change"]),
        )
        for row in known
    ]  # fmt: skip
    drawn = scatter(
        marks,
        title="What each method at each place wins and costs",
        description="Each point is one method at one place, alone and untrained.",
        x_label="latency, ratio to the original",
        y_label="logit instability, ratio",
    )
    cells = [
        [
            *(cell(_broken(row[name])) for name in ("place", "stride", "method")),
            cell(row["change"], "+z.1%"),
            cell(row["kl"], ".3f"),
            limits(row["latency"], row["latency_low"], row["latency_high"], ".3f"),
            cell(row["reason"]),
        ]
        for row in rows
    ]
    header = ["place", "stride", "method", "logits move", "KL", "latency", "not done, because"]
    return Section(
        "Tried",
        "Each method at each place alone, untrained, what is folded fitted.",
        [Chart([drawn], "Steadier is lower, faster is to the left; coloured: what was chosen.")],
        [Table("tried", header, cells)],
    )


def _combined(found: Repaired) -> Section:
    cells = [
        [
            cell(row["predicted_change"], "+z.1%"),
            cell(row["change"], "+z.1%"),
            cell(row["kl"], ".3f"),
            limits(row["latency"], row["latency_low"], row["latency_high"], ".3f"),
            cell(_broken(row["choices"].partition("@")[2])),  # the longest: last
        ]
        for row in found.combined.to_dict("records")
    ]
    header = ["predicted", "logits move", "KL", "latency", "combination"]
    return Section(
        "Combined",
        "What promised most within the budget, made and measured before training.",
        tables=[Table("combined", header, cells)],
    )


def _broken(names: str) -> str:
    """With spaces where a line may break."""
    return names.replace(",", ", ").replace("@", " @")


def _plan(found: Repaired) -> Table:
    cells = [[cell(_broken(place)), cell(method)] for place, method in found.choices.items()]
    return Table("plan", ["place", "method"], cells)
