"""Does one unshifted forward, and one backward, tell which photographs move and which flip?

    python experiments/flip_risk.py PHOTOS [--model SPEC] [--limit N] [--out FOLDER]

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
from aliascope.measure.batch import measure_batch, prepare, views_of
from aliascope.spectra import AVR_VARIANTS, band_limited
from aliascope.stability import logits_of

FOLDS = 10


def features(original, twin, item):
    """One photograph: what is cheap, and what is dear.

    Args:
        original: an instrument on the network; what `measure` says of it.
        twin: on its dense twin, where a layer yields the very samples, behind norm and activation.
        item: the photograph, loaded.
    """
    images, layers = measure_batch(original, item.pixels[None])
    found = {name: float(images[name][0]) for name in ("logit_instability", "agreement", "sis")}
    found["confidence"] = float(images["confidence"][0])
    for index, layer in enumerate(original.layers):
        found |= {f"{name}.{layer.name}": float(x[0, index]) for name, x in layers.items()}
    views = views_of(twin, item.pixels[None]).contiguous(memory_format=torch.channels_last)
    picture, maps = views[:1].clone().requires_grad_(), {}

    def both(layer, map_):  # called with what a layer reads, then with what it yields
        maps.setdefault(layer.name, []).append(map_)

    with torch.enable_grad(), tap(twin.module, twin.layers, read=both, of="both"):
        logits = logits_of(twin.module(picture))
        first, second = logits[0].topk(2).indices
        margin = logits[0, first] - logits[0, second]
    wanted = [picture, *(kept for _, kept in maps.values())]
    gradient, *gradients = torch.autograd.grad(margin, wanted)
    with torch.no_grad():
        z = logits[0] - logits[0].mean()
        found |= {"margin": margin.item(), "length": z.norm().item()}
        moved = (views[1:] - views[:1]).flatten(1) @ gradient.flatten()
        found |= {"predicted_rms": moved.square().mean().sqrt().item()}
        found |= {"predicted_most": (-moved).max().item()}
        for (name, (read, kept)), gradient in zip(maps.items(), gradients, strict=True):
            place = twin.decimations[name]
            _, rows, columns = place.layer.output_shape
            size = {"phase": place.phase, "size": (rows, columns)}
            folded = kept - band_limited(place(read), place.stride, **size)
            found[f"weighted.{name}"] = (gradient * folded).norm().item()
            found[f"sensitive.{name}"] = (gradient.norm() * folded.norm()).item()
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
    parser.add_argument("--rows", type=Path, help="keep the photographs' figures in this file")
    parser.add_argument("--out", type=Path, help="write explained.csv and flips.csv there")
    given = parser.parse_args()
    if given.rows and given.rows.exists():
        table = pd.read_csv(given.rows)
    else:
        # The dense twin with its decimations written out is the same network, to 1e-5.
        specs = (given.model, f"{given.model}@blurpool:1:stem")
        original, twin = (prepare(load_model(spec), border="crop") for spec in specs)
        source = open_images(given.photos, limit=given.limit)
        loaded = loaded_ahead(source.entries(), original.seen)
        table = pd.DataFrame([features(original, twin, x) for x in loaded if x.pixels is not None])
        if given.rows:
            table.to_csv(given.rows, index=False)
    flips = (table["agreement"] < 1).to_numpy()
    print(f"{len(table)} photographs, {flips.sum()} flip under one of four crop shifts")
    for name, found in (("explained", what_explains(table)), ("flips", what_flips(table, flips))):
        print(f"\n{found.to_string(index=False, float_format='{:.4f}'.format)}")
        if given.out:
            given.out.mkdir(parents=True, exist_ok=True)
            found.to_csv(given.out / f"{name}.csv", index=False)


def sets_of(table):
    """Name → columns that one forward, or one forward and one backward, yields."""
    log = np.log(table.drop(columns=["agreement"]).clip(lower=1e-9))
    length = log["length"]

    def of(*kinds, frame=table):
        return frame[[x for x in frame if x.partition(".")[0] in kinds and "." in x]]

    sampled = [f"sampled_{name}" for name in AVR_VARIANTS]
    sets = {
        "read AVRs": of(*AVR_VARIANTS),
        "sampled AVRs, alias shares": of(*sampled, "alias_share"),
        "length of the logits": log[["length"]],
        "confidence, margin": log[["confidence", "margin"]],
        "alias, weighted by the gradient": of("weighted", frame=log).sub(length, axis=0),
        "norm of gradient · norm of alias": of("sensitive", frame=log).sub(length, axis=0),
        "predicted movement": (log["predicted_rms"] - length).to_frame("relative"),
    }
    sets["all"] = pd.concat([x.add_prefix(f"{name} ") for name, x in sets.items()], axis=1)
    return sets


def what_explains(table):
    """R² out of sample of the log of logit instability, and of its absolute size ‖z − z_d‖."""
    sets, y = sets_of(table), np.log(table["logit_instability"])
    absolute = y + np.log(table["length"])
    return pd.DataFrame(
        {"columns": name, "of": said, **explained(columns, target)}
        for said, target in (("logit instability", y), ("absolute movement", absolute))
        for name, columns in sets.items()
    )


def what_flips(table, flips):
    """AUC of flipping, and how far it is ahead of the margin's (95 %, paired bootstrap)."""
    log = np.log(table.drop(columns=["agreement"]).clip(lower=1e-9))
    margin, moved = -table["margin"].to_numpy(), log["predicted_rms"]
    scores = {
        "margin": margin,
        "1 − confidence": -table["confidence"].to_numpy(),
        "margin / length of the logits": -(table["margin"] / table["length"]).to_numpy(),
        "margin / predicted movement": -(log["margin"] - moved).to_numpy(),
        "margin, predicted movement": told_apart(log[["margin", "predicted_rms"]], flips),
        "margin, predicted movement, length": told_apart(
            log[["margin", "predicted_rms", "length"]], flips
        ),
        "margin, length": told_apart(log[["margin", "length"]], flips),
        "all": told_apart(pd.concat([log[["margin"]], sets_of(table)["all"]], axis=1), flips),
    }
    rows = []
    for name, score in scores.items():
        ahead_by, low, high = ahead(score, margin, flips)
        rows.append(
            {"score": name, "auc": roc_auc_score(flips, score), "ahead": ahead_by}
            | {"ahead_low": low, "ahead_high": high}
        )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
