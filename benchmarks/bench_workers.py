"""One process against several on the same machine, each measuring the same pictures, in turns.

    python benchmarks/bench_workers.py [--model SPEC] [--images SOURCE] [--limit N] [--workers N]

Prints seconds and the ratio of each round; both start from nothing, as a user's command does, so
that a second process pays for its start.
"""

import argparse
import statistics
import subprocess
import sys
import time

from aliascope.runtime import environment


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--images", default="photos")
    parser.add_argument("--limit", type=int, default=53)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    import torch

    print(environment(torch.device("cpu"))["hardware"], torch.get_num_threads(), "threads")
    ratios = []
    for _ in range(given.rounds):
        seconds = [timed(given, count) for count in (1, given.workers)]
        ratios.append(seconds[1] / seconds[0])
        print(f"1 process {seconds[0]:.1f} s, {given.workers} {seconds[1]:.1f} s: {ratios[-1]:.2f}",
              flush=True)  # fmt: skip
    print(f"median ratio {statistics.median(ratios):.2f}")


def timed(given, workers):
    command = [sys.executable, "-m", "aliascope.cli", "measure", given.model]
    command += ["--images", given.images, "--limit", str(given.limit), "--workers", str(workers)]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
