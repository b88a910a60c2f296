"""A repair without cost at inference: folded filters, as they are, fitted, and trained.

    python experiments/free_repair.py IMAGENET PHOTOS

The folders are those of embedded_pair.py. EfficientNet-Lite0 with a filter of three taps folded
into the kernel at each of the four places behind the stem; fitted, block after block, to the
densely filtered network; recalibrated; and the network itself, fitted in the same way. Beside them
the control that filters nothing, and `ideal`. With --trained, in place of these, what
embedded_pair.py made, or other specs. Judged against the original on held-out photographs under
crop and native shifts; then all are timed side by side. Writes docs/studies/repairs/folding.csv and
latencies.csv. A killed run goes on with the networks that are missing.
"""

import argparse
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import pandas as pd
import torch
from embedded_pair import BASE, BEHIND, STEM, parted, source

from aliascope import Plan, bench, compare, load_model, measure
from aliascope.finetune import recalibrate
from aliascope.finetune.losses import distillation
from aliascope.finetune.recalibration import spread
from aliascope.repair.search import built, pixels_of

OUT = Path(__file__).parents[1] / "docs" / "studies" / "repairs"
ALL = [STEM, *BEHIND]
FIGURES = ("accuracy", "logit_instability", "agreement", "sis_half", "confidence")
COLUMNS = ["mean_a", "mean_b", "difference", "low", "high", "change", "change_low", "change_high"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("imagenet")
    parser.add_argument("photos")
    parser.add_argument("--base", default=BASE, help="what --trained is held against")
    parser.add_argument("--trained", action="append", default=[], metavar="SPEC")
    parser.add_argument("--limit", type=int, default=250, help="0 judges none, and times alone")
    parser.add_argument("--fitted-on", type=int, default=128)
    parser.add_argument("--fit-steps", type=int, default=100)
    parser.add_argument("--recalibrated-on", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=60, help="of timing; 0 leaves it out")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    images, held = parted(given.imagenet, given.photos)
    held = source(list(held.entries())[: given.limit], held.classes, held.spec)
    original = load_model(given.base)
    trained = {named(spec): partial(read, spec) for spec in given.trained}
    makers = trained or contenders(original, images, given)
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "folding.csv"
    if given.limit:
        known = pd.read_csv(file) if file.exists() else pd.DataFrame({"network": []})
        missing = [name for name in makers if name not in {*known["network"]}]
        borders = ("crop", "native") if missing else ()
        before = {shifts: measure(original, held, shifts=shifts) for shifts in borders}
        for name in missing:
            rows = [known, *judged(name, makers[name](), held, before, original)]
            known = pd.concat([each for each in rows if len(each)], ignore_index=True)
            known.to_csv(file, index=False)
    if given.seconds:
        made = [replace(make(fit=False), spec=name) for name, make in makers.items()]
        timed = bench([replace(original, spec="original"), *made], seconds=given.seconds)
        print(timed)
        hardware = timed.info["hardware"]
        timed.table.assign(hardware=hardware).to_csv(given.out / "latencies.csv", index=False)


def judged(name, network, held, before, original):
    """Its figures against the original's, a table for each kind of shifts."""
    distance = divergence(network, original, held)
    for shifts, run in before.items():
        found = compare(run, measure(network, held, shifts=shifts))
        chosen = found.images[found.images["metric"].isin(FIGURES)]
        kept = found.prediction_agreement.value
        print(f"{name}, {shifts}\n{chosen[['metric', *COLUMNS]].round(4).to_string()}", flush=True)
        own = chosen.assign(network=name, shifts=shifts, kept=kept, kl=distance, n=found.n)
        yield own[["network", "shifts", "metric", "n", "kept", "kl", *COLUMNS]]


def divergence(network, original, held):
    """Mean KL(original ‖ network), in nats."""
    pixels = pixels_of(original, list(held.entries()))
    with torch.no_grad():
        pairs = [(network.module(x), original.module(x)) for x in pixels.split(16)]
    return distillation(*map(torch.cat, zip(*pairs, strict=True))).item()


def contenders(original, images, given):
    """Name → what makes the network, with its kernels fitted or not: time does not depend on it."""
    shop = Workshop(original, images, given)
    return {
        "control: one tap": partial(shop.unfitted, dict.fromkeys(ALL, "folded:1")),
        "ideal": partial(shop.made, dict.fromkeys(BEHIND, "ideal")),
        "kernels of the same size, fitted": partial(shop.made, dict.fromkeys(BEHIND, "folded:1")),
        "folded": partial(shop.unfitted, dict.fromkeys(BEHIND, "folded:3")),
        "folded, fitted": partial(shop.made, dict.fromkeys(BEHIND, "folded:3")),
        "folded, fitted, recalibrated": shop.recalibrated,
    }


def named(spec):
    """Of a file the folder's name, and which of its files it is if not the model; else the spec."""
    path, found, more = spec.partition(".safetensors")
    if not found:
        return spec
    file = Path(path)
    return file.parent.name + ("" if file.stem == "model" else f", {file.stem}") + more


def read(spec, fit=True):  # noqa: ARG001 - called as the workshop is
    """What was trained, from its file."""
    return load_model(spec)


class Workshop:
    """Makes networks, and what is done to them."""

    def __init__(self, original, images, given):
        self.original, self.images, self.given = original, images, given
        self.pictures = list(images.entries())
        self.known = {}

    @cached_property
    def pixels(self):
        """What kernels are fitted on."""
        return pixels_of(self.original, spread(self.pictures, self.given.fitted_on))

    def made(self, choices, fit=True):
        """Converted by a method each place."""
        plan, pixels = Plan(BASE, choices), self.pixels if fit else None
        if (plan.spec, fit) not in self.known:
            made = built(self.original, plan, pixels, steps=self.given.fit_steps)
            self.known[plan.spec, fit] = made
        return self.known[plan.spec, fit]

    def unfitted(self, choices, fit=False):  # noqa: ARG002 - called as `made` is
        """Kernels as they are folded."""
        return self.made(choices, fit=False)

    def recalibrated(self, fit=True):
        """Folded, fitted, and norms measured anew."""
        fitted = self.made(dict.fromkeys(BEHIND, "folded:3"), fit)
        if not fit:
            return fitted
        some = source(spread(self.pictures, self.given.recalibrated_on), None, "recalibration")
        return replace(fitted, module=recalibrate(fitted, some, limit=None))


if __name__ == "__main__":
    main()
