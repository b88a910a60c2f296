"""Do cause and cure agree? What a place carries by aliasing against what a filter there takes away.

    python experiments/cause_and_cure.py ATTRIBUTION...

Of each file that `aliascope attribute --out` wrote, the places (the layers of one depth together):
the share that the aliasing band carries, its effect, the energy that was folded and the jump of the
equivariance error, against the change of logit instability by each filter. Spearman's ρ within each
network and its mean, with the p of permuting the places within each network, 20,000 times.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from aliascope import Attribution

CAUSES = ("alias_carried", "alias_effect", "alias_share", "jump")
DRAWN = 20_000


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
    """Mean of Spearman's ρ over networks, the p of so large a one, and how many networks."""
    rng, rhos, null = np.random.default_rng(0), [], np.zeros(DRAWN)
    for table in tables:
        rows = table[table["interaction"] <= 1] if believed else table
        x, y = (standardised(rankdata(rows[name])) for name in (cause, cure))
        rhos.append(x @ y)
        null += rng.permuted(np.tile(x, (DRAWN, 1)), axis=1) @ y / len(tables)
    mean = float(np.mean(rhos))
    return mean, (1 + np.count_nonzero(null >= mean - 1e-9)) / (1 + DRAWN), len(rhos)


def standardised(x):
    return (x - x.mean()) / np.linalg.norm(x - x.mean())


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
