"""Do cause and cure agree? What a place carries by aliasing against what a filter there takes away.

    python experiments/cause_and_cure.py ATTRIBUTION...

Of each file that `aliascope attribute --out` wrote, the places (the layers of one depth together):
the share that the aliasing band carries, its effect, the energy that was folded and the jump of the
equivariance error, against the change of logit instability by each filter. Spearman's ρ within each
network and its mean, with the p of permuting the places within each network (exact up to 20,000
permutations, else as many drawn).
"""

import argparse
from itertools import islice, permutations, product
from math import factorial, prod
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from aliascope import Attribution

CAUSES = ("alias_carried", "alias_effect", "alias_share", "jump")
MOST = 20_000


def places_of(path):
    """A row a place: causes, and how much each filter takes away."""
    found = Attribution.open(path)
    layers = found.layers.assign(
        jump=found.layers["equivariance_behind"] - found.layers["equivariance_before"]
    )
    layers = layers.groupby("stride", sort=False)[["alias_share", "jump"]].max()
    table = found.depths.set_index("stride")[
        ["layers", "alias_carried", "alias_effect", "interaction"]
    ]
    table = table.join(layers).reset_index()
    doses = found.doses.pivot(index="place", columns="dose", values="change")
    table = table.join(-doses, on="layers").assign(model=found.model, images=found.n)
    return table.dropna(subset=["ideal"])


def agreement(tables, cause, cure, believed):
    """Mean of Spearman's ρ over networks, and the p of so large a one."""
    ranks = []
    for table in tables:
        rows = table[table["interaction"] <= 1] if believed else table
        if len(rows) > 2:
            ranks.append(tuple(map(rankdata, (rows[cause], rows[cure]))))
    rhos = [np.corrcoef(*pair)[0, 1] for pair in ranks]
    if not ranks:
        return np.nan, np.nan, 0
    if prod(factorial(len(x)) for x, _ in ranks) <= MOST:
        orders = product(*(permutations(range(len(x))) for x, _ in ranks))
    else:
        rng = np.random.default_rng(0)
        orders = ([rng.permutation(len(x)) for x, _ in ranks] for _ in range(MOST))
    null = [
        np.mean(
            [
                np.corrcoef(x[list(order)], y)[0, 1]
                for order, (x, y) in zip(each, ranks, strict=True)
            ]
        )
        for each in islice(orders, MOST)
    ]
    mean = float(np.mean(rhos))
    return mean, float(np.mean(np.array(null) >= mean - 1e-12)), len(ranks)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("attributions", nargs="+")
    parser.add_argument("--out", type=Path, help="write places.csv and cures.csv there")
    given = parser.parse_args()
    tables = [places_of(path) for path in given.attributions]
    shown = pd.concat(tables)
    print(shown.drop(columns=["alias_effect"]).to_string(index=False, float_format="{:.3f}".format))
    doses = [name for name in shown if name == "ideal" or str(name).startswith("taps_")]
    rows = [
        {"believed": believed, "cause": cause, "cure": cure}
        | dict(zip(("rho", "p", "networks"), agreement(tables, cause, cure, believed), strict=True))
        for believed in (False, True)
        for cause in CAUSES
        for cure in doses
    ]
    found = pd.DataFrame(rows)
    print("\nmean Spearman's ρ over networks; believed: where the interaction is at most 1")
    print(found.to_string(index=False, float_format="{:.4f}".format))
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        shown.to_csv(given.out / "places.csv", index=False)
        found.to_csv(given.out / "cures.csv", index=False)


if __name__ == "__main__":
    main()
