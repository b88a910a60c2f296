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


def judged(study):
    rows = pd.read_csv(study / "judged.csv")
    shares = rows["figure"].isin(["top-1", "confidence", "as the original"])
    shares |= rows["figure"].str.startswith("agreement")
    moved = [
        f"{row.difference:+.4f} [{row.low:+.4f}, {row.high:+.4f}]"
        if share
        else f"{row.change:+.1%} [{row.change_low:+.1%}, {row.change_high:+.1%}]"
        for share, row in zip(shares, rows.itertuples(), strict=True)
    ]
    cells = {
        "photographs": rows["images"].astype(str) + " " + rows["set"],
        "figure": rows["figure"],
        "original": [f"{x:.4f}" for x in rows["mean_a"]],
        "repaired": [f"{x:.4f}" for x in rows["mean_b"]],
        "change": moved,
    }
    return markdown(cells)


def search(study):
    """What was tried first: a row a variant."""
    rows = pd.read_csv(study / "search.csv")
    names = ["variant", "top-1", "as the original", "KL", "SIS", "SIS at equal confidence"]
    names += ["logit instability", "agreement", "agreement, crop", "confidence"]
    return markdown({name: plain(rows[name]) for name in names})


def training(study):
    """The history of the fine-tuning, and the original on the same photographs."""
    record = json.loads((study / "finetune.json").read_text())
    rows = pd.DataFrame([*record["history"], {"step": "original", **record["teacher"]}])
    names = {"step": "step", "seconds": "seconds"} | {
        "distillation": "KL", "features": "features", "correct": "top-1", "sis": "SIS",
        "logit_instability": "logit instability", "agreement": "agreement",
        "confidence": "confidence",
    }  # fmt: skip
    return markdown({title: plain(rows[name]) for name, title in names.items()})


def penalty(study):
    rows = pd.read_csv(study / "penalty.csv")
    names = {"variant": "variant", "correct": "top-1", "sis": "SIS"}
    names |= {"logit_instability": "logit instability", "agreement": "agreement"}
    names |= {"confidence": "confidence", "avr_box": "box AVR", "seconds": "seconds"}
    return markdown({title: plain(rows[name]) for name, title in names.items()})


def methods(study):
    rows = pd.read_csv(study / "methods.csv")
    names = {
        "method": "method", "stage": "stage", "top1": "top-1", "kept": "kept", "sis": "SIS",
        "logit_instability": "logit instability", "agreement": "agreement",
        "agreement_crop": "agreement, crop", "avr_box_sampled": "box AVR", "mflops": "MFLOPs",
        "latency_ratio": "latency", "memory_mb": "MB",
    }  # fmt: skip
    return markdown({title: plain(rows[name]) for name, title in names.items()})


def plain(values):
    """Cells of a column: text as it is, large numbers whole, others to four places."""
    return [
        x if isinstance(x, str) else "–" if pd.isna(x) else f"{x:.0f}" if x >= 20 else f"{x:.4g}"
        for x in values
    ]


_MAKERS = (headline, layers, correlation, published, judged, search, training, penalty, methods)
BLOCKS = {maker.__name__: maker for maker in _MAKERS}


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
