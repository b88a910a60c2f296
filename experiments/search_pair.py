"""What surgery alone does to EfficientNet-Lite0, judged on the held-out photographs.

    python experiments/search_pair.py IMAGENET PHOTOS

The folders are those of embedded_pair.py. Writes docs/studies/pair/search.csv, a row a variant.
"""

import argparse
from pathlib import Path

import pandas as pd
from embedded_pair import BASE, parted
from judge_pair import figures, same, seen

from aliascope import load_model
from aliascope.finetune.losses import distillation
from aliascope.layers import BlurPool, IdealPool
from aliascope.stability import matched_instability

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
    rows, before, sure = [], None, None
    for name, model in models.items():
        items, circular, crop = seen(model, entries)
        table = figures(circular, crop, items)
        if before is None:
            before, sure = circular, table["confidence"].mean()
        row = {"variant": name} | table.mean().to_dict()
        row["SIS at equal confidence"] = matched_instability(circular, sure)[0].mean().item()
        row["as the original"] = same(before, circular).mean()
        row["KL"] = distillation(circular[0], before[0]).item()
        rows.append(row)
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
