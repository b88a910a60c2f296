"""Judge a network that aliascope ships against the original, on photographs it never saw.

    python experiments/judge_pair.py IMAGENET PHOTOS [MODEL --out docs/studies/pair]

The folders are those of embedded_pair.py: the held-out fourth of IMAGENET, the unused fifteenth of
PHOTOS, the embedded ones, and for comparison some that were trained on. Writes judged.csv: for each
set and figure the mean of both, their change and its 95 % interval over photographs; and
latency.json, both timed against each other.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch

from aliascope import load_model, open_images
from aliascope.images import batches
from aliascope.latency import bench
from aliascope.measure.batch import prepare, view_logits
from aliascope.stability import stability
from aliascope.statistics import paired

OUT = Path(__file__).parents[1] / "docs" / "studies" / "pair"
COLUMNS = ["mean_a", "mean_b", "difference", "low", "high", "change", "change_low", "change_high"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("imagenet")
    parser.add_argument("photos")
    parser.add_argument("model", nargs="?", default="efficientnet_lite0_ideal")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seconds", type=float, default=60, help="of timing")
    given = parser.parse_args()
    labelled = list(open_images(given.imagenet).entries())
    unused = list(open_images(given.photos).entries())[14::15]
    sets = {
        "embedded": list(open_images("photos").entries()),
        "held-out": labelled[::4],
        "trained on": [entry for i, entry in enumerate(labelled) if i % 4][::3],
        "unused": unused,
        "unused, ImageNet validation": [e for e in unused if e.id.startswith("val_")],
    }
    specs = "efficientnet_lite0", given.model
    tables = []
    for name, entries in sets.items():
        table = judged(specs, entries)
        tables.append(table.assign(set=name, images=len(entries)).reset_index(names="figure"))
        print(name, table.round(4).to_string(), sep="\n", flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    pd.concat(tables).to_csv(given.out / "judged.csv", index=False)
    bench(list(specs), seconds=given.seconds).save(given.out / "latency.json")


def judged(specs, entries):
    """A row a figure: both means, and how the second model differs."""
    tables = [pd.DataFrame(), pd.DataFrame()]
    for border in ("crop", "native", "circular"):
        items, before = seen(specs[0], entries, border)
        _, after = seen(specs[1], entries, border)
        for table, logits in zip(tables, (before, after), strict=True):
            each = stability(logits)
            if border == "crop":  # what is said of the picture itself hardly depends on it
                labels = [item.entry.label for item in items]
                if None not in labels:
                    table["top-1"] = (each["prediction"].numpy() == labels).astype(float)
                table["as the original"] = before[0].argmax(-1).eq(each["prediction"]).double()
                table["confidence"] = each["confidence"]
            table[f"logit instability, {border}"] = each["logit_instability"]
            table[f"agreement, {border}"] = each["agreement"]
            table[f"SIS, {border}"] = each["sis"]
            table[f"SIS at confidence ½, {border}"] = each["sis_half"]
    groups = [item.entry.group for item in items]
    return paired(*tables, groups)[COLUMNS]


def seen(spec, entries, border):
    """Readable pictures, and the logits (views, B, K) under one kind of shifts."""
    instrument = prepare(load_model(spec), border=border)
    items, logits = [], []
    for readable, _ in batches(entries, instrument.seen, lambda: 4):
        items += [item._replace(pixels=None) for item in readable]
        logits.append(view_logits(instrument, torch.stack([item.pixels for item in readable])))
    return items, torch.cat(logits, dim=1)


if __name__ == "__main__":
    main()
