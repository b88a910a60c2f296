"""Peak memory of `aliascope measure` at 200 and at 1000 images: it must not grow with their number.

    python benchmarks/bench_memory.py [--images SOURCE] [--model SPEC]

Each size runs in a process of its own; the batch size is fixed, for it decides the peak.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

CODE = """
import resource, sys, aliascope
model, images, limit, out = sys.argv[1:]
aliascope.measure(model, images, out=out, weights="random", limit=int(limit), batch_size=4)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(model, images, limit):
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", CODE, model, images, str(limit), str(Path(folder) / "run")]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    return int(output.split()[-1]) / 1024  # Linux counts in kB


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", required=True, help="a source with at least 1000 images")
    parser.add_argument("--model", default="timm:resnet50")
    options = parser.parse_args()
    peaks = {limit: peak(options.model, options.images, limit) for limit in (200, 1000)}
    for limit, megabytes in peaks.items():
        print(f"{limit:5} images: peak {megabytes:.0f} MB")
    print(f"growth: {peaks[1000] - peaks[200]:.0f} MB")


if __name__ == "__main__":
    main()
