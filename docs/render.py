"""Put the numbers of the studies in docs/studies into the documents that quote them.

    python docs/render.py

Between `<!-- STUDY: BLOCK -->` and `<!-- end -->` stands what this script makes of
docs/studies/STUDY; a test fails where the two differ.
"""

import json
import re
from pathlib import Path

import pandas as pd

from aliascope.study.study import read_csv
from aliascope.study.summary import Summary

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "results.md")
_BLOCK = re.compile(r"(<!-- (\w+): (\w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def main():
    for document in DOCUMENTS:
        document.write_text(rendered(document))


def rendered(document):
    """The document's text with all blocks made anew."""
    return _BLOCK.sub(
        lambda found: f"{found[1]}{BLOCKS[found[3]](studies() / found[2])}\n{found[4]}",
        document.read_text(),
    )


def studies():
    return ROOT / "docs" / "studies"


def headline(study):
    """The closing table, without the place on the machine that wrote it."""
    record = json.loads((study / "summary.json").read_text())
    blocks = str(Summary(Path("results"), record, {})).split("\n\n")
    where = f"{record['hardware']}, {record['threads']} threads, "
    where += f"torch {record['versions']['torch']}, {record['study']['precision']}"
    return f"```\n{chr(10).join(blocks[:2])}\n```\n\nOn {where}."


def layers(study):
    rows = table(study, "phase3_layerwise_avr_stats").query("variant == 'avr'")
    cells = {
        "layer": [f"`{name}`" for name in rows["layer_name"]],
        "baseline AVR": plus_minus(rows, "baseline"),
        "antialiased AVR": plus_minus(rows, "antialiased"),
        "difference": interval(rows, "difference"),
        "t as published": [f"{t:.2f}" for t in rows["t_statistic"]],
        "paired t": [f"{t:.2f}" for t in rows["t_paired"]],
        "Holm p": [f"{p:.2g}" for p in rows["p_holm"]],
    }
    return markdown(cells)


def correlation(study):
    rows = table(study, "phase4_correlation")
    cells = {
        "layer": [f"`{name}`" for name in rows["layer_name"]],
        "baseline r": interval(rows, "baseline_r", 3),
        "antialiased r": interval(rows, "antialiased_r", 3),
        "baseline ρ": [f"{x:+.3f}" for x in rows["baseline_rho"]],
        "antialiased ρ": [f"{x:+.3f}" for x in rows["antialiased_rho"]],
        "baseline ρ, logit instability": [
            f"{x:+.3f}" for x in rows["baseline_rho_logit_instability"]
        ],
    }
    return markdown(cells)


def published(study):
    rows = pd.DataFrame(json.loads((study / "summary.json").read_text())["published"])
    rows = rows[rows["figure"].str.startswith("conv1 ") & ~rows["figure"].str.contains(" r ")]
    names = ["published", "here", "difference"]
    cells = {"figure": rows["figure"]} | {n: [f"{x:z.4f}" for x in rows[n]] for n in names}
    return markdown(cells)


BLOCKS = {f.__name__: f for f in (headline, layers, correlation, published)}


def table(study, name):
    return read_csv(study / "tables" / f"{name}.csv")


def plus_minus(rows, role):
    pairs = zip(rows[f"{role}_mean"], rows[f"{role}_std"], strict=True)
    return [f"{mean:.4f} ± {deviation:.4f}" for mean, deviation in pairs]


def interval(rows, name, digits=4):
    each = zip(rows[name], rows[f"{name}_low"], rows[f"{name}_high"], strict=True)
    return ["{:+z.{d}f} [{:+z.{d}f}, {:+z.{d}f}]".format(*x, d=digits) for x in each]


def markdown(cells):
    rows = [list(cells), ["---"] * len(cells), *zip(*cells.values(), strict=True)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()
