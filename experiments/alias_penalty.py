"""Does a penalty on aliasing make a network steadier, without any new layer?

    python experiments/alias_penalty.py IMAGENET PHOTOS

Fine-tunes EfficientNet-Lite0, not converted, towards itself on 128 × 128 views of the photographs
that embedded_pair.py trains on, with two penalties and, for comparison, with none; judges on the
held-out fourth of IMAGENET. Writes docs/studies/penalty/penalty.csv.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
from embedded_pair import parted

from aliascope import load_model
from aliascope.finetune import finetune

OUT = Path(__file__).parents[1] / "docs" / "studies" / "penalty" / "penalty.csv"
TRIED = {
    "distillation alone": {},
    "alias_penalty 10": {"alias_penalty": 10},
    "alias_penalty 100": {"alias_penalty": 100},
}
FIGURES = ["correct", "sis", "logit_instability", "agreement", "confidence", "alias_share"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("imagenet")
    parser.add_argument("photos")
    parser.add_argument("--steps", type=int, default=120)
    given = parser.parse_args()
    images, held_out = parted(given.imagenet, given.photos)
    model = load_model("efficientnet_lite0")
    small = replace(model.preprocessing, resize=(146,), crop=(128, 128))
    rows = []
    for name, weights in TRIED.items():
        started = time.monotonic()
        tuned = finetune(
            model,
            images=images,
            steps=given.steps,
            evaluate_every=given.steps,
            learning_rate=1e-4,
            holdout=held_out,
            preprocess=small,
            **{"consistency": 0, "feature_weight": 0} | weights,
        )
        if not rows:
            rows.append({"variant": "as it was"} | {k: tuned.teacher[k] for k in FIGURES})
        rows.append({"variant": name} | {k: tuned.history[k].iloc[-1] for k in FIGURES})
        rows[-1]["seconds"] = round(time.monotonic() - started)
        print(pd.DataFrame(rows).round(4).to_string(), flush=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(OUT, index=False)


if __name__ == "__main__":
    main()
