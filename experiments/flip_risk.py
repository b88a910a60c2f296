"""Does one unshifted forward, and one backward, tell which photographs move and which flip?

    python experiments/flip_risk.py PHOTOS [--model SPEC] [--limit N] [--out photographs.csv]

Of each photograph, what can be had without a shifted forward: the margin between the first two
logits, the length of the logits, ratios of aliasing by layer, the folded part of each layer's
samples weighted by the gradient of the margin, and the movement of the margin that the gradient
predicts for each shift, ⟨∂m/∂x, x_d − x⟩. Against what the four shifted forwards say: logit
instability, and whether the prediction flips. Out of sample, over photographs.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from aliascope import load_model, open_images, tap
from aliascope.images import loaded_ahead
from aliascope.measure.batch import layer_columns, prepare, views_of
from aliascope.spectra import band_limited
from aliascope.stability import logits_of, stability

FOLDS = 10


def features(instrument, item):
    """One photograph: what is cheap, and what is dear."""
    views = views_of(instrument, item.pixels[None]).contiguous(memory_format=torch.channels_last)
    picture = views[:1].clone().requires_grad_()
    samples, figures, kept = {}, {}, {}

    def both(layer, map_):  # called with what a layer reads, then with what it yields
        if layer.name in samples:
            kept[layer.name] = map_
        else:
            samples[layer.name] = map_
            figures[layer.name] = layer_columns(instrument, layer, map_.detach(), 1)

    with torch.enable_grad(), tap(instrument.module, instrument.layers, read=both, of="both"):
        logits = logits_of(instrument.module(picture))
        first, second = logits[0].topk(2).indices
        margin = logits[0, first] - logits[0, second]
    wanted = [name for name in kept if kept[name].requires_grad]
    gradients = torch.autograd.grad(margin, [picture, *(kept[name] for name in wanted)])
    with torch.no_grad():
        known = stability(torch.stack([logits_of(instrument.module(v[None])) for v in views]))
        z = logits[0] - logits[0].mean()
        found = {name: float(known[name][0]) for name in ("logit_instability", "agreement", "sis")}
        found |= {"margin": margin.item(), "length": z.norm().item()}
        found |= {"confidence": float(known["confidence"][0])}
        moved = (views[1:] - views[:1]).flatten(1) @ gradients[0].flatten()
        found |= {"predicted_rms": moved.square().mean().sqrt().item()}
        found |= {"predicted_most": (-moved).max().item()}
        for name, gradient in zip(wanted, gradients[1:], strict=True):
            place = instrument.decimations[name]
            dense = place(samples[name])
            _, rows, columns = place.layer.output_shape
            size = {"phase": place.phase, "size": (rows, columns)}
            folded = place.kept(dense) - band_limited(dense, place.stride, **size)
            weighted = (gradient * folded).flatten()
            found[f"weighted.{name}"] = weighted.norm().item()
            found[f"sensitive.{name}"] = (gradient.norm() * folded.norm()).item()
        for name, columns in figures.items():
            found |= {f"{key}.{name}": float(value[0]) for key, value in columns.items()}
    return found


def explained(columns, y):
    """R² out of sample, of ridge and of boosted trees."""
    x, folds = np.nan_to_num(columns.to_numpy(float)), KFold(FOLDS, shuffle=True, random_state=0)
    models = {
        "ridge": make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 13))),
        "trees": HistGradientBoostingRegressor(max_depth=3, learning_rate=0.05, random_state=0),
    }
    return {
        name: r2_score(y, cross_val_predict(each, x, y, cv=folds)) for name, each in models.items()
    }


def told_apart(columns, flips):
    """Out-of-sample scores of a logistic regression."""
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    x = columns.to_numpy(float)
    return cross_val_predict(model, x, flips, cv=folds, method="decision_function")


def ahead(score, base, flips, draws=2000):
    """By how much the AUC of a score exceeds that of another, with a paired bootstrap's limits."""
    rng, found = np.random.default_rng(0), []
    for _ in range(draws):
        rows = rng.integers(0, len(flips), len(flips))
        if 0 < flips[rows].sum() < len(rows):
            found.append(
                roc_auc_score(flips[rows], score[rows]) - roc_auc_score(flips[rows], base[rows])
            )
    low, high = np.quantile(found, [0.025, 0.975])
    return roc_auc_score(flips, score) - roc_auc_score(flips, base), low, high


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos")
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.out and given.out.exists():
        table = pd.read_csv(given.out)
    else:
        # The dense twin with its decimations written out: the same network, to 1e-5.
        twin = load_model(f"{given.model}@blurpool:1:stem")
        instrument = prepare(twin, border="crop")
        source = open_images(given.photos, limit=given.limit)
        loaded = loaded_ahead(source.entries(), instrument.seen)
        table = pd.DataFrame(
            [features(instrument, item) for item in loaded if item.pixels is not None]
        )
        if given.out:
            table.to_csv(given.out, index=False)
    report(table)


def report(table):
    flips = (table["agreement"] < 1).to_numpy()
    print(f"{len(table)} photographs, {flips.sum()} flip under one of four crop shifts")
    log = np.log(table.drop(columns=["agreement"]).clip(lower=1e-9))
    of = {
        kind: [x for x in table if x.startswith(f"{kind}.")]
        for kind in (
            "avr",
            "avr_box",
            "avr_ac",
            "avr_box_ac",
            "alias_share",
            "weighted",
            "sensitive",
        )
    }
    sampled = [x for x in table if x.startswith("sampled_")]
    read = [x for kind in ("avr", "avr_box", "avr_ac", "avr_box_ac") for x in of[kind]]
    share = table["logit_instability"]
    y = np.log(share)
    relative = log["predicted_rms"] - log["length"]
    sets = {
        "read AVRs": table[read],
        "sampled AVRs, alias shares": table[[*sampled, *of["alias_share"]]],
        "length of the logits": log[["length"]],
        "gradient-weighted alias": log[of["weighted"]].sub(log["length"], axis=0),
        "‖gradient‖ · ‖alias‖": log[of["sensitive"]].sub(log["length"], axis=0),
        "predicted movement": relative.to_frame("relative"),
        "confidence, margin": log[["confidence", "margin"]],
    }
    sets["all of these"] = pd.concat([x.add_prefix(f"{name} ") for name, x in sets.items()], axis=1)
    print("\nR² out of sample of log logit instability (ridge, trees)")
    for name, columns in sets.items():
        print(f"{name:<28} " + "  ".join(f"{r2:6.3f}" for r2 in explained(columns, y).values()))
    print("\nof the log of its absolute size, ‖z − z_d‖ (ridge, trees)")
    absolute = y + log["length"]
    for name in ("length of the logits", "all of these"):
        print(
            f"{name:<28} "
            + "  ".join(f"{r2:6.3f}" for r2 in explained(sets[name], absolute).values())
        )
    margin = -table["margin"].to_numpy()
    scores = {
        "margin": margin,
        "1 − confidence": -table["confidence"].to_numpy(),
        "margin / length": -(table["margin"] / table["length"]).to_numpy(),
        "margin / predicted, rms": -(log["margin"] - log["predicted_rms"]).to_numpy(),
        "margin / predicted, most": -(
            table["margin"] / table["predicted_most"].clip(lower=1e-3)
        ).to_numpy(),
        "logistic: margin, predicted": told_apart(log[["margin", "predicted_rms"]], flips),
        "logistic: margin, predicted, length": told_apart(
            log[["margin", "predicted_rms", "length"]], flips
        ),
        "logistic: all": told_apart(
            pd.concat([log[["margin"]], sets["all of these"]], axis=1), flips
        ),
    }
    print("\nAUC of flipping, and how far that is ahead of the margin (95 %, paired bootstrap)")
    for name, score in scores.items():
        difference, low, high = ahead(score, margin, flips)
        print(
            f"{name:<36} {roc_auc_score(flips, score):.4f}  {difference:+.4f} "
            f"[{low:+.4f}, {high:+.4f}]"
        )


if __name__ == "__main__":
    main()
