"""The rivals of a repair on one table: every contender under shifts and what comes with them.

    python experiments/rivals.py IMAGENET --runs RUNS [--count 100] [--also SPEC …]

IMAGENET is a folder of labelled photographs, of which every fourth was held out from training: of
these, as many as asked for, evenly spread. RUNS keeps a table a contender, so that a killed run
goes on and another network can be added. Writes docs/studies/rivals/rivals.csv; pairs.csv, some of
them against each other; and accuracy.csv: top-1 of the unchanged pictures on all that were held
out.

Conditions, each against a picture that went through the same filters: moved by one of the network's
pixels, by half of one, by one of the photograph's own (one down and one to the right each); saved
again as JPEG of quality 75; Gaussian noise of 4 grey levels; 1 % nearer; turned by 1°.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import torch

from aliascope import load_model, open_images
from aliascope.antialias.flops import counted
from aliascope.errors import AliascopeError
from aliascope.images import batches
from aliascope.images.preprocessing import half_views, native_views
from aliascope.inference import CropSelection
from aliascope.measure.fusion import fuse_batch_norm
from aliascope.results.files import file_name
from aliascope.shifts import Shift, cropped_views
from aliascope.stability import logits_of, stability
from aliascope.statistics import mean_intervals, paired

OUT = Path(__file__).parents[1] / "docs" / "studies" / "rivals"
BASE, REPAIRED = "efficientnet_lite0", "efficientnet_lite0_ideal"
FITTED = "efficientnet_lite0_fitted"
ALONE = "@low-pass"
"""The filter of crop selection, and no selection: what of it is due to the filter."""
CONTENDERS = [
    *(BASE + end for end in ("", ALONE, "@crop-selection:laplacian", "@crop-selection")),
    *(REPAIRED + end for end in ("", "@crop-selection:laplacian", "@crop-selection")),
    *(FITTED + end for end in ("", "@crop-selection")),
    f"{BASE}@shift-average",
]
PAIRS = [
    (BASE, FITTED),
    (REPAIRED, FITTED),
    (BASE, f"{BASE}@crop-selection"),
    (FITTED, f"{BASE}@crop-selection"),
    (FITTED, f"{FITTED}@crop-selection"),
    (FITTED, f"{BASE}@shift-average"),
]
"""Which are held against each other."""
CIRCULAR = f"{BASE}@crop-selection:circular"
"""For circular shifts, which no camera makes: of it only top-1 is asked."""
PLAN = (Shift("down", 1, 0), Shift("right", 0, 1))
OF_THE_FIRST = ("JPEG", "noise")
JPEG, NOISE, ZOOM, TURN = 75, 4.0, 0.01, 1.0
FIGURES = ("logit_instability", "agreement")


class InTheMiddle(CropSelection):
    """The filter of crop selection on the window in the middle."""

    def chosen(self, frames):
        """The same window of every frame."""
        corner = torch.full((len(frames),), self.margin, device=frames.device)
        still = torch.zeros_like(corner)
        return corner, corner, still, still


def contender(spec):
    """A loaded network, its batch-norms folded."""
    alone = spec.endswith(ALONE)
    loaded = load_model(spec.removesuffix(ALONE) + ("@crop-selection" if alone else ""))
    module = loaded.module
    if alone:
        module = InTheMiddle(module.model, module.size, module.margin)
    return fuse_batch_norm(module, loaded.example()), loaded.preprocessing


def conditions(preprocessing, pixels, seed):
    """Of a photograph, condition → views as the network takes them, the unchanged one first.

    That of `OF_THE_FIRST` is the first condition's.
    """
    moved = cropped_views(preprocessing.widened(1)(pixels)[None], PLAN)
    generator = torch.Generator().manual_seed(seed)
    noise = NOISE * torch.randn(pixels.shape, generator=generator)
    noisy = (pixels + noise).round().clamp(0, 255).to(torch.uint8)
    changed = [preprocessing(x) for x in (saved_again(pixels), noisy)]
    nearer = [preprocessing(pixels, box=inner(pixels, share)) for share in (1 - ZOOM, 1 - 2 * ZOOM)]
    turned = [
        preprocessing(turned_by(pixels, angle), box=inner(pixels, 0.95))
        for angle in (-TURN / 2, TURN / 2)
    ]
    return {
        "one pixel": moved,
        "half a pixel": half_views(preprocessing, pixels, PLAN)[0],
        "native pixel": native_views(preprocessing, pixels, PLAN)[0],
        "JPEG": changed[0][None],
        "noise": changed[1][None],
        "zoom": torch.stack(nearer),
        "rotation": torch.stack(turned),
    }


def saved_again(pixels):
    file = io.BytesIO()
    PIL.Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=JPEG)
    return torch.from_numpy(np.array(PIL.Image.open(file))).permute(2, 0, 1).contiguous()


def turned_by(pixels, angle):
    """About its middle, at the photograph's own resolution."""
    picture = PIL.Image.fromarray(pixels.permute(1, 2, 0).numpy())
    turned = picture.rotate(angle, PIL.Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(turned)).permute(2, 0, 1).contiguous()


def inner(pixels, share):
    """The middle of a picture."""
    height, width = pixels.shape[-2:]
    left, top = (side * (1 - share) / 2 for side in (width, height))
    return left, top, width - left, height - top


@torch.inference_mode()
def judged(spec, entries):
    """A row a photograph and condition."""
    module, preprocessing = contender(spec)
    rows = []
    for index, entry in enumerate(entries):
        try:
            pixels, _ = entry.load()
            views = conditions(preprocessing, pixels, seed=index)
        except AliascopeError as error:
            print(f"{entry.id}: {error}", flush=True)
            continue
        x = preprocessing.normalise(torch.cat(list(views.values())))
        logits = logits_of(module(x.contiguous(memory_format=torch.channels_last)))
        parts = logits.split([len(part) for part in views.values()])
        for condition, own in zip(views, parts, strict=True):
            part = torch.cat([parts[0][:1], own]) if condition in OF_THE_FIRST else own
            found = {
                name: x.item()
                for name, x in stability(part[:, None], PLAN[: len(part) - 1]).items()
            }
            row = {name: found[name] for name in (*FIGURES, "confidence")}
            right = found["prediction"] == entry.label
            rows.append({"photograph": entry.id, "condition": condition, "right": right, **row})
        print(f"{spec}: {index + 1} of {len(entries)}", end="\r", flush=True)
    return pd.DataFrame(rows)


@torch.inference_mode()
def answers(spec, entries):
    """A row a photograph: whether the unchanged one is named rightly."""
    module, preprocessing = contender(spec)
    rows = []
    for readable, _ in batches(entries, preprocessing, lambda: 8):
        x = preprocessing.normalise(torch.stack([item.pixels for item in readable]))
        found = logits_of(module(x.contiguous(memory_format=torch.channels_last))).argmax(-1)
        for item, answer in zip(readable, found.tolist(), strict=True):
            rows.append({"photograph": item.entry.id, "top1": answer == item.entry.label})
        print(f"{spec}: top-1, {len(rows)} of {len(entries)}", end="\r", flush=True)
    return pd.DataFrame(rows)


def cost(spec):
    """Millions of operations of one forward."""
    module, preprocessing = contender(spec)
    return counted(module, torch.zeros(1, 3, *preprocessing.crop))[1][""] / 1e6


def summarised(tables):
    """A row a contender, condition and figure: the mean, and how far it is off the original's."""
    first = tables[BASE]
    rows = []
    for spec, table in tables.items():
        for condition, part in table.groupby("condition", sort=False):
            own = part.set_index("photograph")
            before = first[first["condition"] == condition].set_index("photograph").loc[own.index]
            for name in FIGURES:
                head = {"contender": spec, "condition": condition, "figure": name}
                rows.append(head | against(before[name], own[name]))
    return pd.DataFrame(rows)


def paired_off(tables):
    """A row a pair and condition: how much less or more the second one's logits move."""
    rows = []
    for one, other in PAIRS:
        after = tables[other].set_index(["condition", "photograph"])
        for condition, part in tables[one].groupby("condition", sort=False):
            before = part.set_index("photograph")["logit_instability"].to_frame(0)
            own = after.loc[condition].loc[before.index, "logit_instability"].to_frame(0)
            found = paired(before, own, before.index).loc[
                0, ["change", "change_low", "change_high"]
            ]
            rows.append({"one": one, "other": other, "condition": condition} | found.to_dict())
    return pd.DataFrame(rows)


def against(before, own):
    """A mean over photographs, and its change, with their intervals."""
    groups = own.index
    mean = mean_intervals(own.astype(float).to_frame(0), groups).loc[0]
    change = paired(before.astype(float).to_frame(0), own.astype(float).to_frame(0), groups).loc[0]
    ends = {"change": change["difference"]}
    ends |= {f"change_{end}": change[end] for end in ("low", "high")}
    return mean.to_dict() | ends | {"photographs": len(own)}


def kept(made, spec, entries, runs):
    """A contender's table, made where there is none of as many photographs."""
    file = runs / f"{file_name(spec)}-{made.__name__}-{len(entries)}.csv"
    if not file.exists():
        made(spec, entries).to_csv(file, index=False)
    return pd.read_csv(file)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("imagenet")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--also", action="append", default=[], metavar="SPEC")
    given = parser.parse_args()
    held_out = list(open_images(given.imagenet).entries())[::4]
    entries = held_out[:: max(len(held_out) // given.count, 1)][: given.count]
    given.runs.mkdir(parents=True, exist_ok=True)
    tables, right = {}, {}
    for spec in [*CONTENDERS, *given.also]:
        tables[spec] = kept(judged, spec, entries, given.runs)
        right[spec] = kept(answers, spec, held_out, given.runs).set_index("photograph")["top1"]
    right[CIRCULAR] = kept(answers, CIRCULAR, held_out, given.runs).set_index("photograph")["top1"]
    OUT.mkdir(parents=True, exist_ok=True)
    table = summarised(tables)
    table.to_csv(OUT / "rivals.csv", index=False)
    paired_off(tables).to_csv(OUT / "pairs.csv", index=False)
    accuracy = pd.DataFrame(
        {"contender": spec, **against(right[BASE].loc[own.index], own), "mflops": cost(spec)}
        for spec, own in right.items()
    )
    accuracy.to_csv(OUT / "accuracy.csv", index=False)
    print(accuracy.to_string())
    print(
        table.pivot(index="contender", columns=["figure", "condition"], values="value").to_string()
    )


if __name__ == "__main__":
    main()
