"""What was tried before the repaired network was trained, judged on the held-out photographs.

    python docs/search_pair.py IMAGENET PHOTOS

The folders are those of embedded_pair.py. Converts EfficientNet-Lite0 in many ways, trains some of
them for 100 steps, and writes a row for each into docs/studies/pair/search.csv as soon as it is
judged; rows that stand there are not made again.
"""

import argparse
import copy
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
from embedded_pair import BASE, parted
from judge_pair import figures, same, seen

from aliascope import load_model
from aliascope.finetune import finetune
from aliascope.finetune.losses import distillation
from aliascope.layers import BlurPool, IdealPool
from aliascope.stability import matched_instability

OUT = Path(__file__).parent / "studies" / "pair" / "search.csv"
RECIPES = ("blurpool:2", "blurpool:3", "blurpool:3:stem", "blurpool:4", "wavelet:db2")
RECIPES += ("wavelet:bior2.2", "wavelet:bior3.3", "wavelet:sym4", "ideal", "ideal:stem")
PLACES = 4
"""Behind the stem."""
SHORT = {"steps": 100, "evaluate_every": 100, "holdout": 0, "teacher_precision": "bf16"}
TRAINED = (
    ("blurpool:3:stem", {"learning_rate": 1e-4, "mixup": 0.5}),
    ("ideal", {"learning_rate": 3e-4, "mixup": 0.5}),
    ("ideal", {"learning_rate": 1e-4, "mixup": 0.0}),
    ("ideal", {"learning_rate": 1e-4, "mixup": 0.5}),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("imagenet")
    parser.add_argument("photos")
    given = parser.parse_args()
    images, held_out = parted(given.imagenet, given.photos)
    entries, original = list(held_out.entries()), load_model(BASE)
    sure, before = None, None
    for name, make in trials(original, images).items():
        rows = pd.read_csv(OUT) if OUT.exists() else pd.DataFrame(columns=["variant"])
        if name in set(rows["variant"]) and name != "original":
            continue
        items, circular, crop = seen(make(), entries)
        table = figures(circular, crop, items)
        if before is None:
            before, sure = circular, table["confidence"].mean()
        row = {"variant": name} | table.mean().to_dict()
        row["SIS at equal confidence"] = matched_instability(circular, sure)[0].mean().item()
        row["as the original"] = same(before, circular).mean()
        row["KL"] = distillation(circular[0], before[0]).item()
        rows = pd.concat([rows[rows["variant"] != name], pd.DataFrame([row])])
        rows.to_csv(OUT, index=False)
        print(rows.tail(1).round(4).to_string(), flush=True)


def trials(original, images):
    """What each variant is called, and how it is made."""
    made = {"original": lambda: original}
    made |= {recipe: partial(load_model, f"{BASE}@{recipe}") for recipe in RECIPES}
    made |= {f"ideal, place {k + 1} alone": partial(alone, k) for k in range(PLACES)}
    for recipe, settings in TRAINED:
        words = [f"{name.replace('_', ' ')} {value:g}" for name, value in settings.items()]
        made[f"{recipe}, 100 steps, {', '.join(words)}"] = partial(
            trained, original, images, recipe, settings
        )
    return made


def alone(kept):
    """The ideal low-pass at one place, plain decimation at the others."""
    model = load_model(f"{BASE}@ideal")
    module = copy.deepcopy(model.module)
    found = [(name, m) for name, m in module.named_modules() if isinstance(m, IdealPool)]
    for place, (name, pool) in enumerate(found):
        if place != kept:
            module.set_submodule(name, BlurPool(pool.channels, size=1, phase=pool.phase))
    return replace(model, module=module)


def trained(original, images, recipe, settings):
    """After a short fine-tuning."""
    student = load_model(f"{BASE}@{recipe}")
    tuned = finetune(student, original, images, **SHORT | settings)
    return replace(student, module=tuned.model)


if __name__ == "__main__":
    main()
