"""Put the numbers of the studies in docs/studies into the documents that quote them.

    make numbers

Between `<!-- STUDY: BLOCK -->` and `<!-- end -->` stands what this script makes of
docs/studies/STUDY; a test fails where the two differ. A BLOCK is one of those below or the name of
a figure; captions are those of the study's manifest.
"""

import json
import re
from pathlib import Path

import pandas as pd

from aliascope import Attribution, Latency
from aliascope.results.text import interval as limits
from aliascope.results.text import number
from aliascope.study.study import read_csv
from aliascope.study.summary import Summary

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_BLOCK = re.compile(r"(<!-- (\w+): (\w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def main():
    for document in DOCUMENTS:
        document.write_text(rendered(document))


def rendered(document):
    """The document's text with all blocks made anew."""
    return _BLOCK.sub(
        lambda found: f"{found[1]}{block(found[3], studies() / found[2])}\n{found[4]}",
        document.read_text(),
    )


def block(name, study):
    return BLOCKS[name](study) if name in BLOCKS else figure(name, study)


def figure(name, study):
    """A figure of the study's manifest, and its caption."""
    entry = manifest(study)["figures"][name]
    place = (study / entry["files"][0]).relative_to(ROOT / "docs")
    return f"![{name.partition('_')[2].replace('_', ' ')}]({place})\n\n{entry['caption']}"


def manifest(study):
    return json.loads((study / "manifest.json").read_text())


def captioned(text, name, study):
    """A table, and below it what it is."""
    return f"{text}\n\n{manifest(study)['tables'][name]['caption']}"


def studies():
    return ROOT / "docs" / "studies"


def headline(study):
    """The closing table, without the place on the machine that wrote it."""
    record = json.loads((study / "summary.json").read_text())
    blocks = str(Summary(Path("results"), record, {})).split("\n\n")
    where = f"{record['hardware']}, {record['threads']} threads, "
    where += f"torch {record['versions']['torch']}, {record['study']['precision']}"
    return f"```\n{(2 * chr(10)).join(blocks[:3])}\n```\n\nOn {where}."


def layers(study):
    """The layer table: three figures a layer, baseline, control and antialiased side by side."""
    rows = table(study, "phase3_layerwise_avr_stats")
    titles = {"sampled_avr": "sampled AVR", "alias_share": "alias share", "avr": "read AVR"}
    rows = rows[rows["variant"].isin(titles)]
    order = dict.fromkeys(rows["layer_name"])
    rows = pd.concat([rows[rows["layer_name"] == name] for name in order])
    cells = {
        "layer": [f"`{name}`" for name in rows["layer_name"]],
        "figure": [titles[name] for name in rows["variant"]],
        "baseline": plus_minus(rows, "baseline"),
    }
    if "control_mean" in rows:
        cells["control"] = plus_minus(rows, "control")
    cells |= {
        "antialiased": plus_minus(rows, "antialiased"),
        "difference": interval(rows, "difference"),
        "Holm p": [number(p, ".2g") for p in rows["p_holm"]],
    }
    return captioned(markdown(cells), "phase3_layerwise_avr_stats", study)


def correlation(study):
    rows = table(study, "phase4_correlation")
    cells = {"layer": [f"`{name}`" for name in rows["layer_name"]]}
    for end, title in (("", "SIS"), ("_logit_instability", "logits")):
        for role in ("baseline", "antialiased"):
            cells[f"{role} r, {title}"] = interval(rows, f"{role}_r{end}", 3)
    return captioned(markdown(cells), "phase4_correlation", study)


def kinds(study):
    """The same by other measures of dependence: a row a layer of the baseline."""
    rows = table(study, "phase4_correlation")
    cells = {"layer": [f"`{name}`" for name in rows["layer_name"]]}
    shown = {"dcor": "distance correlation²", "mi": "mutual information (nats)"}
    shown |= {"network": "R² of a small network"}
    for end, target in (("", "SIS"), ("_logit_instability", "logits")):
        cells[f"r², {target}"] = [f"{r * r:.3f}" for r in rows[f"baseline_pearson{end}"]]
        for name, title in shown.items():
            own = rows[[f"baseline_{name}{end}", f"baseline_{name}{end}_p_holm"]]
            cells[f"{title}, {target}"] = [f"{x:z.3f} ({p:.2g})" for x, p in own.to_numpy()]
    return markdown(cells)


def together(study):
    """What all layers together explain, out of sample: a row a network, target and model."""
    rows = table(study, "phase4_dependence")
    targets = rows["target"].str.replace("_", " ").str.replace("sis", "SIS")
    cells = {"": list(rows["role"] + ", " + targets + ", " + rows["model"])}
    cells["R²"] = [f"{x:.3f} (p {p:.2g})" for x, p in zip(rows["r2"], rows["r2_p"], strict=True)]
    cells["of confidence alone"] = [f"{x:.3f}" for x in rows["r2_confidence"]]
    beyond = zip(rows["r2_beyond"], rows["r2_beyond_p"], strict=True)
    cells["of what that leaves"] = [f"{x:.3f} (p {p:.2g})" for x, p in beyond]
    return captioned(markdown(cells), "phase4_dependence", study)


def published(study):
    rows = pd.DataFrame(json.loads((study / "summary.json").read_text())["published"])
    rows = rows[rows["figure"].str.startswith("conv1 ") & ~rows["figure"].str.contains(" r ")]
    names = ["published", "here", "difference"]
    cells = {"figure": rows["figure"]} | {n: [f"{x:z.4f}" for x in rows[n]] for n in names}
    return markdown(cells)


def judged(study):
    """How the pair does on each set of photographs: a row a figure, a column a set."""
    rows = pd.read_csv(study / "judged.csv")
    sets = list(dict.fromkeys(rows["set"]))
    return _by_set(rows, list(dict.fromkeys(rows["figure"])), sets)


def verdict(study):
    """What the repair buys and costs, on the photographs that say most."""
    rows = pd.read_csv(study / "judged.csv")
    figures = ["top-1", "as the original"]
    figures += [f"logit instability, {shifts}" for shifts in ("crop", "native", "circular")]
    figures += ["agreement, crop", "SIS at confidence ½, crop"]
    shown = _by_set(
        rows, figures, ["embedded", "held-out", "unused", "unused, ImageNet validation"]
    )
    latency = Latency.open(study / "latency.json")
    cost = [
        f"{x.ratio:.2f} {limits(x.ratio_low, x.ratio_high, '.2f')} times as long at batch {x.batch}"
        for x in latency.table[latency.table["model"] != latency.info["reference"]].itertuples()
    ]
    return f"{shown}\n\nIt takes {' and '.join(cost)} ({latency.info['hardware']})."


_SETS = {
    "embedded": "crops of the 17 embedded photographs",
    "held-out": "held-out ImageNet training photographs",
    "trained on": "that it was trained on",
    "unused": "unused photographs",
    "unused, ImageNet validation": "of these, ImageNet validation",
}


def _by_set(rows, figures, sets):
    cells = {"": [x.replace("as the original", "answers as the original") for x in figures]}
    for name in sets:
        own = rows[rows["set"] == name].set_index("figure").reindex(figures)
        cells[f"{own['images'].max():.0f} {_SETS[name]}"] = [
            _moved(row) for row in own.itertuples()
        ]
    return markdown(cells)


def _moved(row):
    """Before, after, and the change: of shares in points, of others in percent."""
    if pd.isna(row.mean_a):
        return "–"
    share = row.Index in ("top-1", "confidence", "as the original")
    share |= row.Index.startswith("agreement")
    digits = 3 if share else 4
    change, low, high = (
        (row.difference, row.low, row.high)
        if share
        else (row.change, row.change_low, row.change_high)
    )
    form = "+.3f" if share else "+.0%"
    means = f"{row.mean_a:.{digits}f} → {row.mean_b:.{digits}f}"
    return f"{means}, {change:{form}} {limits(low, high, form)}"


def search(study):
    """What was tried first: a row a variant."""
    rows = pd.read_csv(study / "search.csv")
    return markdown({name: plain(rows[name]) for name in rows})


def training(study):
    """The history of the fine-tuning, and the original on the same photographs."""
    record = json.loads((study / "finetune.json").read_text())
    rows = pd.DataFrame([*record["history"], {"step": "original", **record["teacher"]}])
    names = {"step": "step", "seconds": "seconds"} | {
        "distillation": "KL", "features": "features", "correct": "top-1", "sis": "SIS",
        "logit_instability": "logit instability", "agreement": "agreement",
        "confidence": "confidence",
    }  # fmt: skip
    return markdown({title: plain(rows[name]) for name, title in names.items()})


def penalty(study):
    rows = pd.read_csv(study / "penalty.csv")
    names = {"variant": "variant", "correct": "top-1", "sis": "SIS"}
    names |= {"logit_instability": "logit instability", "agreement": "agreement"}
    names |= {"confidence": "confidence", "avr_box": "box AVR", "alias_share": "alias share"}
    names["seconds"] = "seconds"
    return markdown({title: plain(rows[name]) for name, title in names.items() if name in rows})


def methods(study):
    rows = pd.read_csv(study / "methods.csv")
    names = {"method": "method", "stage": "stage", "top1": "top-1", "kept": "kept"}
    for shifts in ("crop", "half", "native", "circular"):
        names |= {f"logit_instability_{shifts}": f"logit instability, {shifts}"}
    names |= {"agreement_crop": "agreement, crop", "sis_half_crop": "SIS at confidence ½, crop"}
    names |= {"sampled_avr_box": "sampled box AVR", "alias_share": "alias share"}
    names |= {"mflops": "MFLOPs", "latency_ratio": "latency", "memory_mb": "MB"}
    return markdown({title: plain(rows[name]) for name, title in names.items() if name in rows})


_RIVALS = {
    "efficientnet_lite0": "original",
    "efficientnet_lite0_ideal": "repaired",
    "efficientnet_lite0_fitted": "fitted",
    "low-pass": "its low-pass alone",
    "crop-selection:laplacian": "crop selection, Laplacian",
    "crop-selection": "crop selection",
    "crop-selection:circular": "crop selection, circular",
    "shift-average": "average of 4 shifts",
}


def _contender(spec):
    """A spec in words, where it has some."""
    base, *wrappers = spec.split("@")
    return " + ".join(_RIVALS.get(x, f"`{x}`") for x in (base, *wrappers))


def rivals(study):
    """Every contender under every condition: logit instability."""
    return _contenders(study, "logit_instability", ".3f")


def rivals_agreement(study):
    """The same of agreement."""
    return _contenders(study, "agreement", ".3f")


def rivals_pairs(study):
    """Some of them against each other: how the second one's logit instability differs."""
    rows = pd.read_csv(study / "pairs.csv")
    pairs = dict.fromkeys(zip(rows["one"], rows["other"], strict=True))
    cells = {"": [f"{_contender(one)} → {_contender(other)}" for one, other in pairs]}
    for condition, part in rows.groupby("condition", sort=False):
        own = part.set_index(["one", "other"]).loc[list(pairs)]
        cells[condition] = bounded(own, "change", "+z.0%")
    return markdown(cells)


def rivals_cost(study):
    """What each costs: top-1 of the unchanged pictures, against the original's, and operations."""
    rows = pd.read_csv(study / "accuracy.csv")
    cells = {"": [_contender(name) for name in rows["contender"]]}
    cells["top-1"] = [f"{x:.3f}" for x in rows["value"]]
    cells["change"] = interval(rows, "change", 3)
    cells["MFLOPs"] = [f"{x:.0f}" for x in rows["mflops"]]
    return markdown(cells)


def _contenders(study, figure, form):
    rows = pd.read_csv(study / "rivals.csv")
    names = list(dict.fromkeys(rows["contender"]))
    cells = {"": [_contender(name) for name in names]}
    for condition, part in rows[rows["figure"] == figure].groupby("condition", sort=False):
        own = part.set_index("contender").loc[names]
        own["high"] = own["high"].clip(upper=1 if figure == "agreement" else None)
        cells[condition] = bounded_by(own, form)
    return markdown(cells)


def moving(study):
    """How often answers flicker while a window moves, of single frames and of means of five."""
    rows = pd.read_csv(study / "moving.csv")
    names = list(dict.fromkeys(rows["contender"]))
    cells = {"": [_contender(name) for name in names]}
    for figure in ("flips", "crossings"):
        for averaged, part in rows[rows["figure"] == figure].groupby("averaged"):
            title = f"{figure}, " + ("each frame" if averaged == 1 else f"mean of {averaged}")
            cells[title] = bounded_by(part.set_index("contender").loc[names], ".0f")
    return markdown(cells)


def bounded_by(rows, form):
    """Means with their limits, none below 0."""
    return [
        f"{row.value:{form}} {limits(max(row.low, 0), row.high, form)}" for row in rows.itertuples()
    ]


def shares(study):
    """Of two attributions, what each band carries at each depth."""
    found = {file.stem: Attribution.open(file) for file in sorted(study.glob("eff*.json"))}
    first = next(iter(found.values())).depths
    cells = {"stride": list(first["stride"])}
    for name, each in found.items():
        rows = each.depths
        for column, title in (("alias_carried", "aliasing band"), ("low_carried", "low band")):
            cells[f"{title}, `{name}`"] = bounded(rows, column, ".2f")
        cells[f"interaction, `{name}`"] = [f"{x:.2f}" for x in rows["interaction"]]
    return markdown(cells)


def steps(study):
    """Of the same, the equivariance error before and behind, and what an ideal filter does."""
    cells = {}
    for file in sorted(study.glob("eff*.json")):
        each = Attribution.open(file)
        layers = each.layers.groupby("stride", sort=False).max(numeric_only=True)
        cells["stride"] = list(each.depths["stride"])
        layers = layers.loc[cells["stride"]]
        ends = zip(layers["equivariance_before"], layers["equivariance_behind"], strict=True)
        cells[f"error, `{file.stem}`"] = [f"{before:.3f} → {behind:.3f}" for before, behind in ends]
        ideal = each.doses[each.doses["dose"] == "ideal"].set_index("place")
        ideal = ideal.loc[each.depths["layers"]]
        cells[f"ideal filter, `{file.stem}`"] = bounded(ideal, "change", "+z.1%")
    return markdown(cells)


def cures(study):
    """How causes rank the places, against how much filters there take away."""
    rows = pd.read_csv(study / "cures.csv")
    titles = {"alias_carried": "share carried by aliasing", "alias_effect": "effect of aliasing"}
    titles |= {"alias_share": "energy folded", "jump": "step of the equivariance error"}
    cells = {"cause": [], "places": []}
    for (believed, cause), own in rows.groupby(["believed", "cause"], sort=False):
        cells["cause"].append(titles[cause])
        cells["places"].append("interaction ≤ 1" if believed else "all")
        for row in own.itertuples():
            title = row.cure.replace("taps_", "") + " taps" * (row.cure != "ideal")
            cells.setdefault(title, []).append(f"{row.rho:+.2f} (p {row.p:.2g})")
    return markdown(cells)


def architectures(study):
    """What the aliasing band carries at each cumulative stride: a row a network and setting."""
    rows = pd.read_csv(study / "architectures.csv")
    names = rows["model"].str.removeprefix("timm:")
    rows = rows.assign(network="`" + names + "`, " + rows["setting"])
    carried = rows.pivot_table("alias_carried", "network", "stride", sort=False)
    moved = rows.groupby("network", sort=False)["instability"].first()
    cells = {"network": list(carried.index)}
    for stride in sorted(carried):
        cells[f"stride {stride}"] = [number(x, ".2f") for x in carried[stride]]
    return markdown(cells | {"logit instability": [f"{x:.3f}" for x in moved]})


def explained(study):
    """What is cheap of a photograph, and how much it explains."""
    rows = pd.read_csv(study / "explained.csv")
    cells = {"columns": list(dict.fromkeys(rows["columns"]))}
    for said, own in rows.set_index("columns").groupby("of", sort=False):
        for model in ("ridge", "trees"):
            cells[f"{said}, {model}"] = [f"{x:.3f}" for x in own.loc[cells["columns"], model]]
    return markdown(cells)


def flips(study):
    """How well scores tell which photographs flip."""
    rows = pd.read_csv(study / "flips.csv")
    ahead = bounded(rows, "ahead", "+.4f")
    auc = [f"{x:.4f}" for x in rows["auc"]]
    return markdown({"score": list(rows["score"]), "AUC": auc, "ahead of the margin": ahead})


def flips_elsewhere(study):
    """The same of other networks, a row each: what explains the movement, what tells the flips."""
    places = {"efficientnet_lite0": studies() / "attribution"}
    places |= {place.name: place for place in sorted(study.iterdir())}
    cells = {"network": [f"`{name}`" for name in places]}
    for place in places.values():
        rows = pd.read_csv(place / "explained.csv")
        rows = rows[rows["of"] == "logit instability"].set_index("columns")["ridge"]
        scores = pd.read_csv(place / "flips.csv").set_index("score")
        own = {f"R², {name}": f"{rows[name]:.3f}" for name in _EXPLAINING}
        own["AUC of the margin"] = f"{scores.loc['margin', 'auc']:.4f}"
        for name in ("margin, predicted movement", "all"):
            (own[f"ahead of it: {name}"],) = bounded(scores.loc[[name]], "ahead", "+.4f")
        for title, text in own.items():
            cells.setdefault(title, []).append(text)
    return markdown(cells)


_EXPLAINING = ("read AVRs", "length of the logits", "alias, weighted by the gradient", "all")


def bounded(rows, name, form):
    """Numbers with their limits."""
    limited = zip(rows[name], rows[f"{name}_low"], rows[f"{name}_high"], strict=True)
    return [
        f"{number(x, form)} {limits(low, high, form)}".removesuffix(" –")
        for x, low, high in limited
    ]


def trained(study):
    """Networks that were trained with each downsampler: a row a method, against the strided one."""
    rows = pd.read_csv(study / "methods.csv")
    shown = {"accuracy": "top-1", "logit_instability": "logit instability"}
    shown |= {"agreement": "agreement", "sis_half": "SIS at confidence ½"}
    shown |= {"processor_seconds": "processor seconds"}
    cells = {"method": list(dict.fromkeys(rows["method"]))}
    for name, title in shown.items():
        own = rows[rows["figure"] == name].set_index("method").loc[cells["method"]]
        digits = 0 if name == "processor_seconds" else 3 if name != "sis_half" else 4
        cells[title] = [f"{mean:.{digits}f}" for mean in own["mean_b"]]
        for i, row in enumerate(own.itertuples()):
            if digits and row.Index != "strided":
                form = f"+.{digits}f"
                moved = f"{row.difference:{form}} {limits(row.low, row.high, form)}"
                cells[title][i] += f", {moved}"
    return markdown(cells)


def depths(study):
    """Networks trained with each downsampler at each depth: a row a method, means over seeds."""
    rows = pd.read_csv(study / "depths.csv")
    rows = rows.groupby(["method", "stride"], as_index=False).mean(numeric_only=True)
    cells = {"method": list(dict.fromkeys(rows["method"]))}
    shown = {"alias_carried": "aliasing carries", "equivariance_before": "error before"}
    shown |= {"equivariance_behind": "error behind"}
    for stride, own in rows.groupby("stride"):
        for name, title in shown.items():
            cells[f"stride {stride}, {title}"] = [number(x, ".3f") for x in own[name]]
    return markdown(cells)


def kernels(study):
    """One small network with strided kernels of several sizes: a row a size, before and after."""
    rows = pd.read_csv(study / "kernels.csv")
    shown = {"accuracy": "top-1", "logit_instability": "logit instability"}
    shown |= {"alias_share.layer1.conv1": "alias share, first"}
    shown |= {"alias_share.layer2.conv1": "second"}
    shown |= {f"alias_carried.{stride}": f"aliasing carries, stride {stride}" for stride in (2, 4)}
    cells = {"kernel": [], **{title: [] for title in shown.values()}}
    for (stage, kernel), own in rows.groupby(["stage", "kernel"], sort=False):
        cells["kernel"].append(f"{kernel} × {kernel}, {stage}")
        figures = own.set_index("figure")
        for name, title in shown.items():
            if name not in figures.index:
                cells[title].append("–")
                continue
            row = figures.loc[name]
            text = f"{row['mean_b']:.3f}"
            if stage == "trained" and row["difference"]:
                text += f", {row['difference']:+.3f} {limits(row['low'], row['high'], '+.3f')}"
            cells[title].append(text)
    return markdown(cells)


def fed(study):
    """What training with a low-pass changes in front of it, all places together."""
    rows = pd.read_csv(study / "delegation.csv")
    rows = rows[(rows["place"] == "all") & (rows["figure"] == "fed_avr")]
    return _changes(rows, "comparison")


def fed_places(study):
    """The same of what was learned, place by place."""
    rows = pd.read_csv(study / "delegation.csv")
    rows = rows[(rows["comparison"] == "learned") & (rows["figure"] == "fed_avr")]
    return _changes(rows[rows["place"] != "all"], "place")


def _changes(rows, name):
    """A row a method, a column each value of another column: the change and its interval."""
    cells = {"method": list(dict.fromkeys(rows["method"]))}
    for value in dict.fromkeys(rows[name]):
        own = rows[rows[name] == value].set_index("method").loc[cells["method"]]
        cells[value] = [
            f"{row.mean_a:.3f} → {row.mean_b:.3f}, {row.difference:+.3f} "
            f"{limits(row.low, row.high, '+.3f')}"
            for row in own.itertuples()
        ]
    return markdown(cells)


def folding(study):
    """Folded filters beside what else there is: a row a network, what it wins and costs."""
    rows = pd.read_csv(study / "folding.csv").set_index(["network", "metric", "shifts"])
    names = list(dict.fromkeys(rows.index.get_level_values("network")))
    accuracy = rows.xs(("accuracy", "crop"), level=("metric", "shifts")).loc[names]
    cells = {
        "network": names,
        "top-1": [_from_to(row, "+.3f") for row in accuracy.itertuples()],
        "as the original": [f"{kept:.3f}" for kept in accuracy["kept"]],
    }
    if "kl" in accuracy:
        cells["KL"] = [number(x, ".2f") for x in accuracy["kl"]]
    for shifts in ("crop", "native"):
        moved = rows.xs(("logit_instability", shifts), level=("metric", "shifts")).loc[names]
        cells[f"logits, {shifts}"] = bounded(moved, "change", "+.0%")
    agreed = rows.xs(("agreement", "crop"), level=("metric", "shifts")).loc[names]
    cells["agreement, crop"] = [_from_to(row, "+.3f") for row in agreed.itertuples()]
    certain = rows.xs(("sis_half", "crop"), level=("metric", "shifts")).loc[names]
    cells["SIS at confidence ½, crop"] = bounded(certain, "change", "+.0%")
    times = study / "latencies.csv"
    if times.exists():
        timed = pd.read_csv(times).set_index(["model", "batch"])
        for batch in (1, 32):
            own = timed.xs(batch, level="batch").reindex(names)  # filters alone decide it
            cells[f"latency, batch {batch}"] = bounded(own, "ratio", ".2f")
    return markdown(cells)


def channels(study):
    """What it wins to filter some channels alone: a row a share of them."""
    rows = pd.read_csv(study / "channels.csv")
    which = zip(rows["channels"], rows["that count"], strict=True)
    return markdown(
        {
            "filtered at": [x if " " in x else f"`{x}`" for x in rows["places"]],
            "channels": [
                {0: "none", 1: "all"}.get(x, f"{x:.1%}, which count {what}") for x, what in which
            ],
            "logits, crop": bounded(rows, "change", "+.0%"),
            "as the original": [f"{kept:.3f}" for kept in rows["kept"]],
        }
    )


def _from_to(row, form):
    change = f"{row.difference:{form}} {limits(row.low, row.high, form)}"
    return f"{row.mean_a:.3f} → {row.mean_b:.3f}, {change}"


def gpu_training(study):
    """Distance to the teacher while plans were trained on a GPU: a row a plan, a column a step."""
    rows = pd.read_csv(study / "gpu_training.csv")
    told = rows.pivot_table("distillation", "trained", "step", sort=False)
    cells = {"KL to the original": [f"`{name}`" for name in told.index]}
    for step in told:
        cells[f"step {step}"] = [number(x, ".2f") for x in told[step]]
    return markdown(cells)


def exports(study):
    """What each target's file does: a row a network and target."""
    rows = pd.DataFrame(_exported(study)["rows"])
    rows = rows.reindex(columns=[*rows, *{"ratio", "ratio_low", "ratio_high"} - {*rows}])
    times = zip(rows["ratio"], rows["ratio_low"], rows["ratio_high"], strict=True)
    cells = {
        "target": list(rows["target"]),
        "network": [f"`{name}`" for name in rows["model"]],
        "MB": [f"{x:.1f}" for x in rows["megabytes"]],
        "largest relative error": [f"{x:.1e}" for x in rows["error"]],
        "same prediction": [f"{x:.1%}" for x in rows["agreement"]],
        "latency": [
            f"{number(x, '.2f')} {limits(low, high, '.2f')}".removesuffix(" –")
            for x, low, high in times
        ],
    }
    return markdown(cells)


def ran(study):
    """With what the files were written and run."""
    record = _exported(study)
    found = {}
    for row in record["rows"]:
        found |= row["versions"]
    opsets = sorted({row["opset"] for row in record["rows"] if row["opset"]})
    versions = ", ".join(f"{name} {version}" for name, version in found.items())
    where = record["environment"]
    return (
        f"ONNX opset {', '.join(map(str, opsets))}; {versions}; {record['rows'][0]['pictures']} "
        f"crops of the embedded photographs; {where['hardware']}, {where['threads']} "
        f"thread{'s' * (where['threads'] != 1)}."
    )


def elsewhere(study):
    """Which operators a method adds, and who would not take them."""
    rows = _exported(study).get("methods", [])
    cells = {
        "method": [f"`{row['method']}`" for row in rows],
        "ONNX operators that it adds": [", ".join(row["added"]) or "none" for row in rows],
        "not in TensorRT's list": [", ".join(row["tensorrt_lacks"]) or "none" for row in rows],
        "converted to Core ML": [row["coreml"] or "not tried" for row in rows],
    }
    return markdown(cells)


def rates(study):
    """Images a second on a GPU: a row a contender, a column a precision, and its share of bare."""
    return _timed(study, "rates", "precision", "images/s", "of bare", "{:.0f}")


def graphs(study):
    """Milliseconds of one forward on a GPU: a row a way, a column a batch size."""
    return _timed(study, "forward", "batch", "ms a batch", "of eager", "{:.2f} ms")


def _timed(study, part, columns, name, share, form):
    rows = pd.DataFrame(json.loads((study / "gpu.json").read_text())["rows"])
    rows = rows[rows["part"] == part]
    cells = {"": list(dict.fromkeys(rows[""]))}
    for column, own in rows.groupby(columns, sort=False):
        title = f"{columns} {column}" if columns == "batch" else column
        pairs = zip(own[name], own[share], strict=True)
        cells[title] = [f"{form.format(x)} ({y:.0%})" for x, y in pairs]
    return markdown(cells)


def _exported(study):
    return json.loads((study / "export.json").read_text())


def plain(values):
    """Cells of a column: text as it is, large numbers whole, others to four places."""
    return [
        x if isinstance(x, str) else "–" if pd.isna(x) else f"{x:.0f}" if x >= 20 else f"{x:.4g}"
        for x in values
    ]


_MAKERS = (
    headline,
    layers,
    correlation,
    kinds,
    together,
    published,
    judged,
    verdict,
    search,
    training,
)
_MAKERS += (kernels, penalty, methods, shares, steps, cures, architectures, explained, flips)
_MAKERS += (flips_elsewhere, trained, fed, fed_places, folding, exports, ran, elsewhere)
_MAKERS += (rates, graphs, gpu_training, depths, channels)
_MAKERS += (rivals, rivals_agreement, rivals_pairs, rivals_cost, moving)
BLOCKS = {maker.__name__: maker for maker in _MAKERS}


def table(study, name):
    return read_csv(study / "tables" / f"{name}.csv")


def plus_minus(rows, role):
    pairs = zip(rows[f"{role}_mean"], rows[f"{role}_std"], strict=True)
    return [f"{mean:.4f} ± {deviation:.4f}" for mean, deviation in pairs]


def interval(rows, name, digits=4):
    """Numbers with their limits; alone where a difference has none."""
    form = f"+z.{digits}f"
    return [
        f"{number(x, form)} {limits(low, high, form)}".removesuffix(" –")
        for x, low, high in zip(rows[name], rows[f"{name}_low"], rows[f"{name}_high"], strict=True)
    ]


def markdown(cells):
    rows = [list(cells), ["---"] * len(cells), *zip(*cells.values(), strict=True)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()
