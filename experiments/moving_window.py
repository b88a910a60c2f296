"""How often answers flicker while a window moves slowly over a large photograph.

    python experiments/moving_window.py [PHOTOGRAPHS] --runs RUNS [--frames 200] [--also SPEC …]

PHOTOGRAPHS is a folder of large ones; without it, those that the installed packages ship and that
are large enough. The window moves by a quarter of the network's pixels a frame. RUNS keeps a table
a network. Writes docs/studies/rivals/moving.csv: flips and crossings of confidence ½ in 1000
frames, of single frames and of means of 5, which lag 2 frames behind.
"""

import argparse
from pathlib import Path

import pandas as pd
from rivals import BASE, FITTED, OUT, REPAIRED

from aliascope import open_images
from aliascope.images.photos import whole_photos
from aliascope.measure.moving import flicker
from aliascope.results.files import file_name
from aliascope.statistics import mean_intervals, paired

FIGURES = ["flips", "crossings", "confidence"]
CONTENDERS = [
    *(BASE + end for end in ("", "@crop-selection:laplacian", "@crop-selection")),
    *(network + end for network in (REPAIRED, FITTED) for end in ("", "@crop-selection")),
]


def summarised(tables):
    """A row a contender, number of averaged frames and figure, with intervals over photographs."""
    rows = []
    first = tables[BASE].query("averaged == 1").set_index("photograph")
    for spec, table in tables.items():
        for averaged, part in table.groupby("averaged"):
            own = part.set_index("photograph")
            means = mean_intervals(own[FIGURES], own.index)
            change = paired(first.loc[own.index, FIGURES], own[FIGURES], own.index)
            for name in FIGURES:
                head = {"contender": spec, "averaged": averaged, "figure": name}
                moved = change.loc[name, ["difference", "low", "high"]].tolist()
                names = ["change", "change_low", "change_high"]
                ends = means.loc[name].to_dict() | dict(zip(names, moved, strict=True))
                rows.append(head | ends | {"photographs": len(own)})
    return pd.DataFrame(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs", nargs="?")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--also", action="append", default=[], metavar="SPEC")
    given = parser.parse_args()
    images = open_images(given.photographs) if given.photographs else whole_photos()
    given.runs.mkdir(parents=True, exist_ok=True)
    tables = {}
    for spec in [*CONTENDERS, *given.also]:
        kept = given.runs / f"{file_name(spec)}-{given.frames}-frames.csv"
        if not kept.exists():
            shown = lambda done, _: print(f"{spec}: {done}", end="\r", flush=True)  # noqa: E731, B023
            table = flicker(spec, images, frames=given.frames, progress=shown)
            table.assign(frames=given.frames).to_csv(kept, index=False)
        tables[spec] = pd.read_csv(kept)
    table = summarised(tables).assign(frames=given.frames)
    OUT.mkdir(parents=True, exist_ok=True)
    table.to_csv(OUT / "moving.csv", index=False)
    shape = {"index": ["contender", "averaged"], "columns": "figure", "values": "value"}
    print(table.pivot(**shape).round(3).to_string())


if __name__ == "__main__":
    main()
