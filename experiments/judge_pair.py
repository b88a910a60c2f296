"""Judge the network that aliascope ships against the original, on photographs it never saw.

    python experiments/judge_pair.py IMAGENET PHOTOS [MODEL]

The folders are those of embedded_pair.py: the held-out fourth of IMAGENET, the unused fifteenth of
PHOTOS, and for comparison some that were trained on. Writes docs/studies/pair/judged.csv: for each
set and figure the mean of both, their change and its 95 % interval over photographs.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch

from aliascope import load_model, open_images
from aliascope.finetune.data import readable_batches
from aliascope.fusion import fuse_batch_norm
from aliascope.shifts import cropped_views, shifted_views
from aliascope.stability import matched_instability, stability
from aliascope.statistics import paired

OUT = Path(__file__).parents[1] / "docs" / "studies" / "pair" / "judged.csv"
COLUMNS = ["mean_a", "mean_b", "difference", "low", "high", "change", "change_low", "change_high"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("imagenet")
    parser.add_argument("photos")
    parser.add_argument("model", nargs="?", default="efficientnet_lite0_blurpool")
    given = parser.parse_args()
    labelled = list(open_images(given.imagenet).entries())
    unused = list(open_images(given.photos).entries())[14::15]
    sets = {
        "held-out": labelled[::4],
        "trained on": [entry for i, entry in enumerate(labelled) if i % 4][::3],
        "unused": unused,
        "unused, ImageNet validation": [e for e in unused if e.id.startswith("val_")],
    }
    models = [load_model(spec) for spec in ("efficientnet_lite0", given.model)]
    tables = []
    for name, entries in sets.items():
        table = judged(models, entries)
        tables.append(table.assign(set=name, images=len(entries)).reset_index(names="figure"))
        print(name, table.round(4).to_string(), sep="\n", flush=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    pd.concat(tables).to_csv(OUT, index=False)


def judged(models, entries):
    """A row a figure: both means, and how the second model differs."""
    (items, circular, crop), (_, other_circular, other_crop) = (seen(m, entries) for m in models)
    before, after = (
        figures(z, c, items) for z, c in ((circular, crop), (other_circular, other_crop))
    )
    sure = before["confidence"].mean()
    before["SIS at equal confidence"] = before["SIS"]
    after["SIS at equal confidence"] = matched_instability(other_circular, sure)[0].numpy()
    before["as the original"], after["as the original"] = 1.0, same(circular, other_circular)
    groups = [item.entry.group for item in items]
    return paired(before, after[before.columns], groups)[COLUMNS]


@torch.no_grad()
def seen(model, entries):
    """Readable pictures and the logits (views, B, K) of circular and of crop shifts."""
    network = fuse_batch_norm(model.module, model.example())
    preprocessing = model.preprocessing
    items, logits = [], ([], [])
    for batch, wide in readable_batches(entries, preprocessing.widened(1), 8):
        items += batch
        x = preprocessing.normalise(wide)
        still = x[..., 1:-1, 1:-1]
        views = (shifted_views(still), cropped_views(x))
        for kept, shown in zip(logits, views, strict=True):
            z = network(shown.contiguous(memory_format=torch.channels_last))
            kept.append(z.unflatten(0, (5, len(batch))))
    return items, *(torch.cat(parts, dim=1) for parts in logits)


def figures(circular, crop, items):
    """A row a picture."""
    each = {name: column.numpy() for name, column in stability(circular).items()}
    table = pd.DataFrame(
        {
            "SIS": each["sis"],
            "logit instability": each["logit_instability"],
            "agreement": each["agreement"],
            "agreement, crop": stability(crop)["agreement"].numpy(),
            "confidence": each["confidence"],
        }
    )
    labels = [item.entry.label for item in items]
    if None not in labels:
        table.insert(0, "top-1", (each["prediction"] == labels).astype(float))
    return table


def same(one, other):
    return (one[0].argmax(-1) == other[0].argmax(-1)).double().numpy()


if __name__ == "__main__":
    main()
