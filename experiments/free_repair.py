"""A repair without cost at inference: folded filters, from surgery over fitting to training.

    python experiments/free_repair.py IMAGENET PHOTOS

The folders are those of embedded_pair.py. EfficientNet-Lite0 with a filter of three taps folded
into the kernel at each of the four places behind the stem, and at the stem as well; the grown
kernels fitted to the densely filtered network; recalibrated; distilled. Beside them the control
that filters nothing, and `ideal`. Judged against the original on held-out photographs under crop
and native shifts; then all are timed side by side. Writes docs/studies/repairs/folding.csv and
latencies.csv. A killed run goes on with the training where it was.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd
from embedded_pair import BASE, parted, source

from aliascope import Plan, bench, compare, load_model, measure
from aliascope.finetune import finetune, recalibrate
from aliascope.finetune.recalibration import spread
from aliascope.repair.run import SETTINGS
from aliascope.repair.search import built, pixels_of

OUT = Path(__file__).parents[1] / "docs" / "studies" / "repairs"
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
    parser.add_argument("--limit", type=int, default=250, help="0 judges none, and times alone")
    parser.add_argument("--fitted-on", type=int, default=64)
    parser.add_argument("--fit-steps", type=int, default=250)
    parser.add_argument("--recalibrated-on", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=60, help="of timing; 0 leaves it out")
    parser.add_argument("--training", type=Path, default=Path("free-repair"))
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    images, held = parted(given.imagenet, given.photos)
    held = source(list(held.entries())[: given.limit], held.classes, held.spec)
    original = load_model(BASE)
    networks = contenders(original, images, given)
    given.out.mkdir(parents=True, exist_ok=True)
    borders = ("crop", "native") if given.limit else ()
    before = {shifts: measure(original, held, shifts=shifts) for shifts in borders}
    rows = []
    for name, network in networks.items():
        for shifts, run in before.items():
            found = compare(run, measure(network, held, shifts=shifts))
            chosen = found.images[found.images["metric"].isin(FIGURES)]
            kept = found.prediction_agreement.value
            rows.append(chosen.assign(network=name, shifts=shifts, kept=kept, n=found.n))
            print(f"{name}, {shifts}\n{chosen.round(4).to_string()}", flush=True)
    if rows:
        table = pd.concat(rows)[["network", "shifts", "metric", "n", "kept", *COLUMNS]]
        table.to_csv(given.out / "folding.csv", index=False)
    if given.seconds:
        named = [replace(network, spec=name) for name, network in networks.items()]
        timed = bench([replace(original, spec="original"), *named], seconds=given.seconds)
        print(timed)
        hardware = timed.info["hardware"]
        timed.table.assign(hardware=hardware).to_csv(given.out / "latencies.csv", index=False)


def contenders(original, images, given):
    """Name → network: what is filtered in which way, and what was done to it since."""
    behind = dict.fromkeys(PLACES, "folded:3")
    all_five = {"conv_stem": "folded:3"} | behind
    pictures = list(images.entries())
    pixels = pixels_of(original, spread(pictures, given.fitted_on))

    def made(choices, fit=given.limit > 0):  # weights cost no time
        return built(original, Plan(BASE, choices), pixels if fit else None, steps=given.fit_steps)

    fitted = made(behind)
    some = spread(pictures, given.recalibrated_on if given.limit else 2)
    recalibrated = recalibrate(fitted, source(some, None, "recalibration"), limit=None)
    found = {
        "control: one tap": made(dict.fromkeys(all_five, "folded:1")),
        "ideal": made(dict.fromkeys(PLACES, "ideal")),
        "folded": made(behind, fit=False),
        "folded, fitted": fitted,
        "folded, fitted, recalibrated": replace(fitted, module=recalibrated),
        "folded with the stem, fitted": made(all_five),
        "stem folded and fitted, ideal behind": made(
            {"conv_stem": "folded:3"} | dict.fromkeys(PLACES, "ideal")
        ),
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
