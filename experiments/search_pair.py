"""What surgery alone does to EfficientNet-Lite0, judged on the held-out photographs.

    python experiments/search_pair.py IMAGENET PHOTOS

The folders are those of embedded_pair.py. Writes docs/studies/pair/search.csv, a row a variant.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from embedded_pair import BASE, parted
from judge_pair import seen

from aliascope import load_model
from aliascope.finetune.losses import distillation
from aliascope.layers import BlurPool, IdealPool
from aliascope.stability import stability

OUT = Path(__file__).parents[1] / "docs" / "studies" / "pair" / "search.csv"
RECIPES = ("blurpool:2", "blurpool:3", "blurpool:3:stem", "blurpool:4", "wavelet:db2")
RECIPES += ("wavelet:bior2.2", "wavelet:bior3.3", "wavelet:sym4", "ideal", "ideal:stem")
PLACES = 4
"""Behind the stem."""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("imagenet")
    parser.add_argument("photos")
    given = parser.parse_args()
    _, held_out = parted(given.imagenet, given.photos)
    entries = list(held_out.entries())
    models = {"original": load_model(BASE)}
    models |= {recipe: load_model(f"{BASE}@{recipe}") for recipe in RECIPES}
    models |= {f"ideal, place {k + 1} alone": alone(k) for k in range(PLACES)}
    rows, before = [], None
    for name, model in models.items():
        items, circular = seen(model, entries, "circular")
        _, crop = seen(model, entries, "crop")
        each = stability(circular)
        if before is None:
            before = circular
        truth = torch.tensor([item.entry.label for item in items])
        row = {
            "top-1": each["prediction"].eq(truth),
            "SIS": each["sis"],
            "logit instability": each["logit_instability"],
            "agreement": each["agreement"],
            "agreement, crop": stability(crop)["agreement"],
            "confidence": each["confidence"],
            "SIS at confidence ½": each["sis_half"],
            "as the original": each["prediction"].eq(before[0].argmax(-1)),
        }
        means = {figure: column.double().mean().item() for figure, column in row.items()}
        kl = distillation(circular[0], before[0]).item()
        rows.append({"variant": name} | means | {"KL": kl})
        print(pd.DataFrame(rows[-1:]).round(4).to_string(), flush=True)
    pd.DataFrame(rows).to_csv(OUT, index=False)


def alone(kept):
    """The ideal low-pass at one place, plain decimation at the others."""
    model = load_model(f"{BASE}@ideal")
    found = [(name, m) for name, m in model.module.named_modules() if isinstance(m, IdealPool)]
    for place, (name, pool) in enumerate(found):
        if place != kept:
            pool = BlurPool(pool.channels, size=1, phase=pool.phase)  # noqa: PLW2901
            model.module.set_submodule(name, pool)
    return model


if __name__ == "__main__":
    main()
