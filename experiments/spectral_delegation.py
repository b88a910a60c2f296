"""Do networks that are trained with a low-pass become looser in front of it? All methods, judged.

    python experiments/spectral_delegation.py CIFAR10 RUNS [--limit 500] [--workers 2]

CIFAR10 as for train_downsamplers.py, RUNS what that wrote; a method is compared over the seeds that
it has. Each network is measured, and attributed, as it was trained; measured at its initialisation;
and "transplanted": the weights that were trained without a low-pass, in the network that has one.
Of the latter two the batch-norms are recalibrated on training pictures. Writes
docs/studies/delegation; what is measured lies in RUNS, so that a killed run goes on.
"""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from train_downsamplers import METHODS, in_processes, pictures, spec_of

from aliascope import attribute, load_model, measure, recalibrate
from aliascope.figures._style import COLOUR, GREY, INK, PAGE, PALE, sheet, styled
from aliascope.statistics import holm, paired

OUT = Path(__file__).parents[1] / "docs" / "studies" / "delegation"
PLACES = ("layer1.conv1", "layer1.downsample.0", "layer2.conv1", "layer2.downsample.0")
"""What samples, in the network as it was built, in the order in which it runs."""
READINGS = ("avr", "avr_box", "avr_ac", "avr_box_ac")
ANSWERS = ("correct", "sis", "sis_half", "logit_instability", "agreement", "confidence")
TRAINING = ("accuracy", "loss", "epochs", "processor_seconds")
"""What the training wrote down; accuracy is of all 10,000 test pictures."""
STAGES = ("initial", "transplanted", "trained")


def network(method, seed, stage, *, data, runs):
    """One network at one stage."""
    blank = load_model(spec_of(method), weights="random", seed=seed)
    if stage == "trained":
        return load_model(str(runs / f"{method}-{seed}.safetensors"))
    if stage == "transplanted":
        strided = load_model(str(runs / f"strided-{seed}.safetensors")).module.state_dict()
        blank.module.load_state_dict(strided, strict=False)
    images = first(1024, data, "train", runs)
    return replace(blank, module=recalibrate(blank, images, batch_size=128, device="cpu"))


def first(count, data, split, runs):
    """So many pictures of a split, of all classes alike, with their labels."""
    pixels, labels = pictures(data, split, runs)
    return list(zip(pixels[:count], labels[:count].tolist(), strict=True))


def judged(named, *, data, runs, limit):
    """Rows of one network: how it does, and what each place reads and keeps."""
    torch.set_num_threads(1)
    method, seed, stage = named
    model = network(method, seed, stage, data=data, runs=runs)
    measured = measure(
        model,
        first(limit, data, "test", runs),
        out=runs / "measured" / f"{method}-{seed}-{stage}",
        shifts="crop",
        device="cpu",
        batch_size=100,
    )
    known = {"seed": seed, "method": method, "stage": stage}
    answers = measured.images[list(ANSWERS)].astype(float).mean().to_dict()
    if stage == "trained":
        record = json.loads((runs / f"{method}-{seed}.json").read_text())
        answers |= {name: record[name] for name in TRAINING}
    layers = measured.layers.groupby("order").mean(numeric_only=True)
    places = [
        known | {"place": place} | fed(row, method) | kept(row)
        for place, row in zip(PLACES, layers.to_dict("records"), strict=True)
    ]
    depths = []
    if stage == "trained":
        depths = [known | row for row in by_depth(model, data, runs, max(limit // 5, 2))]
    return known | answers, places, depths


def by_depth(model, data, runs, limit):
    """What aliasing carries at each cumulative stride, and the equivariance error around it."""
    found = attribute(model, first(limit, data, "test", runs), doses=0, device="cpu", batch_size=20)
    errors = ["equivariance_before", "equivariance_behind"]
    layers = found.layers.groupby("stride", sort=False)[errors].mean()
    carried = found.depths.set_index("stride")[["alias_carried", "alias_effect", "low_effect"]]
    return carried.join(layers).reset_index().to_dict("records")


def fed(row, method):
    """Of the map that a low-pass gets, or would get: a strided network decimates that itself."""
    prefix = "sampled_" if method == "strided" else ""
    return {f"fed_{name}": row[f"{prefix}{name}"] for name in READINGS}


def kept(row):
    """Of the map that is decimated."""
    names = [*(f"sampled_{name}" for name in READINGS), "alias_share"]
    return {name: row[name] for name in names}


def against(table, columns, one, other):
    """Method B at its stage against method A at its own, paired by seed; a row a column."""
    a, b = (
        table[(table["method"] == method) & (table["stage"] == stage)].set_index("seed")[columns]
        for method, stage in (one, other)
    )
    both = a.index.intersection(b.index)
    found = paired(a.loc[both], b.loc[both], both)
    names = ["groups", "mean_a", "mean_b", "difference", "low", "high", "p"]
    return found[[*names, "change", "change_low", "change_high"]]


def methods(networks):
    """A row a method and figure: as trained, against the strided network, paired by seed."""
    columns = ["accuracy", "loss", "processor_seconds", *ANSWERS]
    trained = ("strided", "trained")
    rows = [
        against(networks, columns, trained, (method, "trained")).assign(method=method)
        for method in dict.fromkeys(networks["method"])
    ]
    found = pd.concat(rows).reset_index(names="figure")
    return found[["method", "figure", *found.columns[1:-1]]]


COMPARED = {
    "learned": lambda method: ((method, "transplanted"), (method, "trained")),
    "in all": lambda method: (("strided", "trained"), (method, "trained")),
    "surgery": lambda method: (("strided", "trained"), (method, "transplanted")),
    "untrained": lambda method: (("strided", "initial"), (method, "initial")),
}
"""Which two are compared. Learned: the same network, its weights trained with the low-pass, or
without it."""


def delegation(places):
    """A row a comparison, method and place; of all places, the mean. p is Holm's within each."""
    columns = [f"fed_{name}" for name in READINGS]
    everywhere = places.groupby(["seed", "method", "stage"], as_index=False)[columns].mean()
    everywhere = everywhere.assign(place="all")
    table, rows = pd.concat([places, everywhere]), []
    for comparison, pair in COMPARED.items():
        for method in dict.fromkeys(table["method"][table["method"] != "strided"]):
            for place in (*PLACES, "all"):
                found = against(table[table["place"] == place], columns, *pair(method))
                rows.append(found.assign(comparison=comparison, method=method, place=place))
    found = pd.concat(rows).reset_index(names="figure")
    family = [found["comparison"], found["figure"], found["place"] == "all"]
    found["p_holm"] = found.groupby(family)["p"].transform(lambda p: holm(p.to_numpy()))
    return found[["comparison", "figure", "method", "place", *found.columns[1:-4], "p_holm"]]


@styled
def draw(places, path):
    """What the low-pass is fed, at each place: untrained, transplanted and trained."""
    from matplotlib.lines import Line2D

    faces = {"initial": (GREY, "white"), "transplanted": (INK, "white")}
    faces["trained"] = (COLOUR["antialiased"], COLOUR["antialiased"])
    handles = [
        Line2D([], [], marker="o", lw=0, color=edge, markerfacecolor=face, label=stage)
        for stage, (edge, face) in faces.items()
    ]
    handles.append(Line2D([], [], color=COLOUR["baseline"], label="strided, trained"))
    text = "Every dot a network, a seed each. Share of energy above the new Nyquist limit, of "
    text += "the map that a low-pass is fed, or would be: test pictures of CIFAR-10, means."
    shown = [method for method in METHODS if method in set(places["method"])]
    drawn, axes = sheet(PAGE, 5.2, text, handles, shape=(2, 2))
    for ax, place in zip(axes.flat, PLACES, strict=True):
        here = places[places["place"] == place]
        strided = here[(here["method"] == "strided") & (here["stage"] == "trained")]
        ax.axhline(strided["fed_avr"].mean(), color=COLOUR["baseline"], lw=1, zorder=0)
        for stage, (edge, face) in faces.items():
            rows = here[here["stage"] == stage]
            x = [shown.index(method) for method in rows["method"]]
            x = [at + 0.22 * (STAGES.index(stage) - 1) for at in x]
            ax.plot(x, rows["fed_avr"], "o", ms=3.5, color=edge, markerfacecolor=face)
        ax.set(title=place, ylabel="AVR of what is fed", ylim=(0, None))
        ax.set_xticks(range(len(shown)), shown, rotation=30)
        ax.grid(axis="y", color=PALE)
    drawn.savefig(path, dpi=300)  # at less, letters are wider than the caption was wrapped for


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", metavar="CIFAR10")
    parser.add_argument("runs", metavar="RUNS", type=Path)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--limit", type=int, default=500, help="test pictures to measure")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    done = sorted(
        (int(seed), method)
        for method, seed in (path.stem.split("-") for path in given.runs.glob("*-*.json"))
        if method in given.methods and (given.runs / f"strided-{seed}.json").exists()
    )
    named = [
        (method, seed, stage)
        for seed, method in done
        for stage in STAGES
        if (method, stage) != ("strided", "transplanted")
    ]
    work = partial(judged, data=given.data, runs=given.runs, limit=given.limit)
    rows = []
    for network, places, depths in in_processes(work, named, given.workers):
        rows.append((network, places, depths))
        print(*(f"{name} {value}" for name, value in network.items()), flush=True)
    networks = pd.DataFrame([found for found, _, _ in rows])
    places, depths = (pd.DataFrame([x for row in rows for x in row[k]]) for k in (1, 2))
    tables = {"networks": networks, "places": places, "methods": methods(networks)}
    tables |= {"delegation": delegation(places), "depths": depths}
    given.out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.to_csv(given.out / f"{name}.csv", index=False, float_format="%.6g")
    draw(places, given.out / "delegation.png")


if __name__ == "__main__":
    main()
