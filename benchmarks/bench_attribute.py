"""Time `aliascope.attribute` against `aliascope.measure` on the same images.

    python benchmarks/bench_attribute.py [MODEL] [--images SOURCE] [--limit 24] [--rounds 3]

They take turns within one process, and what counts is the ratio of their times within a round:

    measure    five views of each image, all layers
    swaps      `attribute(doses=0)`: three views, the bands exchanged at each depth, equivariance
    doses      `attribute` with filters tried on every image: what N doses cost, an image

Set-up (loading, cutting, recording) is in none of them: a first, untimed call of each pays for it,
and the time is that of the images.
"""

import argparse
import platform
import statistics
import time

import torch

import aliascope
from aliascope.runtime import environment, keep_memory


def main():
    reader = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    reader.add_argument("model", nargs="?", default="efficientnet_lite0")
    reader.add_argument("--images", default="photos")
    reader.add_argument("--limit", type=int, default=24)
    reader.add_argument("--rounds", type=int, default=3)
    given = reader.parse_args()
    keep_memory()
    model = aliascope.load_model(given.model)
    contenders = {
        "measure": lambda **told: aliascope.measure(model, given.images, **told),
        "swaps": lambda **told: aliascope.attribute(model, given.images, doses=0, **told),
        "doses": lambda **told: aliascope.attribute(model, given.images, doses=10**6, **told),
    }
    taken = {name: [] for name in contenders}
    for number in range(given.rounds + 1):
        for name, run in contenders.items():
            seconds = of_the_images(run, given.limit)
            if number:
                taken[name].append(seconds / given.limit)
    where = environment(torch.device("cpu"))["hardware"]
    print(
        f"{given.model}, {given.limit} images, {given.rounds} rounds, {where}, "
        f"{torch.get_num_threads()} threads, {platform.system()}"
    )
    for name, each in taken.items():
        ratios = [x / y for x, y in zip(each, taken["measure"], strict=True)]
        print(
            f"{name:<8} {1000 * statistics.median(each):7.0f} ms an image, ratio "
            f"{statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def of_the_images(run, limit):
    """Seconds from the first batch's end to the last one's, scaled to all images."""
    told = []

    def report(done, _total, _waiting=""):
        told.append((done, time.perf_counter()))

    run(limit=limit, batch_size=2, progress=report)
    (first, start), (last, stop) = told[1], told[-1]
    return (stop - start) * limit / (last - first)


if __name__ == "__main__":
    main()
