"""A repair without cost at inference: folded filters, from surgery over fitting to training.

    python experiments/free_repair.py IMAGENET PHOTOS

The folders are those of embedded_pair.py. EfficientNet-Lite0 with a filter of three taps folded in
to the kernel at each of the four places behind the stem; the grown kernels fitted to the densely
filtered network; then distilled. Beside them the original, the control that filters nothing, and
`ideal`. Judged on held-out photographs under crop and native shifts, all timed together. Writes
docs/studies/repairs/folding.csv. A killed run goes on with the training where it was.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd
from embedded_pair import BASE, parted, source

from aliascope import Plan, bench, compare, load_model
from aliascope.finetune import finetune
from aliascope.finetune.recalibration import spread
from aliascope.repair.run import SETTINGS
from aliascope.repair.search import built, pixels_of

OUT = Path(__file__).parents[1] / "docs" / "studies" / "repairs" / "folding.csv"
PLACES = [f"blocks.{i}" for i in (1, 2, 3, 5)]
FIGURES = ("accuracy", "logit_instability", "agreement", "sis_half", "confidence")
COLUMNS = ["mean_a", "mean_b", "difference", "low", "high", "change", "change_low", "change_high"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("imagenet")
    parser.add_argument("photos")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--resolution", type=float, default=0.6)
    parser.add_argument("--limit", type=int, default=250)
    parser.add_argument("--fitted-on", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--training", type=Path, default=Path("free-repair"))
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    images, held = parted(given.imagenet, given.photos)
    held = source(list(held.entries())[: given.limit], held.classes, held.spec)
    original = load_model(BASE)
    networks = contenders(original, images, given)
    rows = []
    for name, network in networks.items():
        for shifts in ("crop", "native"):
            found = compare(original, network, images=held, shifts=shifts)
            chosen = found.images[found.images["metric"].isin(FIGURES)]
            kept = found.prediction_agreement.value
            rows.append(chosen.assign(network=name, shifts=shifts, kept=kept, n=found.n))
            print(f"{name}, {shifts}\n{chosen.round(4).to_string()}", flush=True)
    table = pd.concat(rows)[["network", "shifts", "metric", "n", "kept", *COLUMNS]]
    named = [replace(network, spec=name) for name, network in networks.items()]
    timed = bench([replace(original, spec="original"), *named], seconds=given.seconds).table
    for batch in (1, 32):
        own = timed[timed["batch"] == batch].set_index("model")
        for end in ("", "_low", "_high"):
            table[f"latency_{batch}{end}"] = table["network"].map(own[f"ratio{end}"])
    given.out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(given.out, index=False)


def contenders(original, images, given):
    """Name → network: what is filtered in which way, and what was done to it since."""
    folded = Plan(BASE, dict.fromkeys(PLACES, "folded:3"))
    pictures = pixels_of(original, spread(list(images.entries()), given.fitted_on))
    fitted = built(original, folded, pictures, steps=250)
    found = {
        "control: one tap": built(original, Plan(BASE, dict.fromkeys(PLACES, "folded:1"))),
        "ideal": built(original, folded.dense()),
        "folded": built(original, folded),
        "folded, fitted": fitted,
    }
    if given.steps:
        tuned = finetune(
            fitted,
            images,
            original,
            settings=SETTINGS,
            steps=given.steps,
            learning_rate=given.rate,
            resolution=given.resolution,
            preprocess=original.preprocessing,
            holdout=0,
            out=given.training,
        )
        name = f"folded, fitted, {given.steps} steps"
        found[name] = replace(fitted, module=tuned.model)
    return found


if __name__ == "__main__":
    main()
