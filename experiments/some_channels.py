"""A cheaper repair that does not work: to filter only the channels that alias most.

    python experiments/some_channels.py IMAGENET PHOTOS [--limit 64]

A filter behind a strided layer needs its dense response, which is most of what a repair costs; were
a quarter of the channels enough, a repair would cost a quarter. EfficientNet-Lite0, untrained, an
ideal filter at the first place behind the stem or at all four, of the channels whose folded energy
counts most in what reads them: E ‖S(D) − S(L D)‖² · ‖w‖², w the weights that read the channel.
The folders are those of embedded_pair.py; what is judged was held out. Writes
docs/studies/repairs/channels.csv.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from embedded_pair import BASE, BEHIND, parted, source
from torch import nn

from aliascope import compare, load_model, measure
from aliascope.finetune.recalibration import spread
from aliascope.layers import IdealPool
from aliascope.repair.search import pixels_of

OUT = Path(__file__).parents[1] / "docs" / "studies" / "repairs" / "channels.csv"
SHARES = (0, 1 / 8, 1 / 4, 1 / 2, 1)
COLUMNS = ["mean_a", "mean_b", "change", "change_low", "change_high"]


class Some(nn.Module):
    """The pool for chosen channels, plain sampling for the others."""

    def __init__(self, pool):
        super().__init__()
        self.pool = pool
        self.energy = torch.zeros(pool.channels)
        self.chosen = torch.zeros(pool.channels, dtype=torch.bool)

    def forward(self, x):
        """Sample, of some channels what the low-pass left; in training mode, add up what folded."""
        (row, column), (down, right) = map(int, self.pool.phases), self.pool.strides
        sampled, filtered = x[..., row::down, column::right], self.pool(x)
        if self.training:
            self.energy += (sampled - filtered).square().sum((0, 2, 3))
        return torch.where(self.chosen[:, None, None], filtered, sampled)

    def choose(self, share, weight, *, last=False):
        """Filter that share of the channels, those that count most, or least."""
        order = (self.energy * weight).argsort(descending=not last)
        self.chosen.zero_()[order[: round(share * len(order))]] = True


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("imagenet")
    parser.add_argument("photos")
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--scored-on", type=int, default=64)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    images, held = parted(given.imagenet, given.photos)
    held = source(spread(list(held.entries()), given.limit), held.classes, held.spec)
    original, converted = load_model(BASE), load_model(f"{BASE}@ideal")
    places = watched(converted.module)
    with torch.no_grad():
        for batch in pixels_of(original, spread(list(images.entries()), given.scored_on)).split(8):
            for place in places.values():
                place.train()
            converted.module(batch)
    converted.module.eval()
    before = measure(original, held)
    rows = []
    for where, chosen in {BEHIND[0]: BEHIND[:1], "all four": BEHIND}.items():
        for share, last in [*((share, False) for share in SHARES), (1 / 2, True)]:
            for name, place in places.items():
                weight = converted.module.get_submodule(f"{name}.0.conv_pwl").weight
                place.choose(
                    share if name in chosen else 0, weight.square().sum((0, 2, 3)), last=last
                )
            found = compare(before, measure(replace(converted, spec="some channels"), held))
            moved = found.images.set_index("metric").loc["logit_instability", COLUMNS]
            which = "least" if last else "most"
            row = {"places": where, "channels": share, "that count": which, "n": found.n}
            rows.append(row | {"kept": found.prediction_agreement.value, **moved})
            print(pd.Series(rows[-1]).to_frame().T.to_string(header=len(rows) == 1), flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(given.out, index=False)


def watched(module):
    """Place → what has taken the place of its pool."""
    found = {}
    for name, pool in list(module.named_modules()):
        if isinstance(pool, IdealPool):
            parent, _, own = name.rpartition(".")
            place = ".".join(name.split(".")[:2])
            found[place] = Some(pool)
            setattr(module.get_submodule(parent), own, found[place])
    return found


if __name__ == "__main__":
    main()
