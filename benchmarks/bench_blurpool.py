"""Time `BlurPool` against timm's `BlurPool2d` at the shapes where a ResNet-50 downsamples.

    python benchmarks/bench_blurpool.py [--size 3] [--padding reflect] [--batch 8] [--rounds 40]

The two take turns within one process, in changing order, on the same map. Two ratios are printed:
that of their fastest rounds, which other load on the machine hardly touches, and the median of the
ratios within a round. Both compute the same numbers, which is checked first.
"""

import argparse
import platform
import statistics
import time

import torch
from timm.layers import BlurPool2d

from aliascope.layers import BlurPool

SHAPES = ((64, 112), (256, 56), (512, 28), (1024, 14), (2048, 7))
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def timed(layer, x):
    start = time.perf_counter()
    layer(x)
    return time.perf_counter() - start


def versus(ours, theirs, x, rounds):
    """Seconds of each in every round."""
    for layer in (ours, theirs, ours, theirs):
        layer(x)
    times = []
    for number in range(rounds):
        first, second = (ours, theirs) if number % 2 else (theirs, ours)
        pair = {layer: timed(layer, x) for layer in (first, second)}
        times.append((pair[ours], pair[theirs]))
    return times


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=3, help="taps; timm needs an odd number")
    parser.add_argument("--padding", default="reflect", choices=["reflect", "zeros", "circular"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    mode = {"zeros": "constant"}.get(options.padding, options.padding)
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, float32, batch {options.batch}, {options.size} taps, "
        f"{options.padding} padding"
    )
    ratios = []
    for layout, memory_format in LAYOUTS.items():
        for channels, side in SHAPES:
            x = torch.randn(options.batch, channels, side, side).to(memory_format=memory_format)
            ours = BlurPool(channels, size=options.size, padding=options.padding)
            theirs = BlurPool2d(channels, options.size, pad_mode=mode)
            torch.testing.assert_close(ours(x), theirs(x))
            times = versus(ours, theirs, x, options.rounds)
            fastest = [min(column) for column in zip(*times, strict=True)]
            ratios.append((fastest[0] / fastest[1], statistics.median(a / b for a, b in times)))
            print(
                f"{layout:13} {channels:5} × {side:3}²  fastest: ours {fastest[0] * 1000:6.2f} ms, "
                f"timm {fastest[1] * 1000:6.2f} ms, ours / timm {ratios[-1][0]:.2f}; "
                f"median of rounds {ratios[-1][1]:.2f}"
            )
    means = [statistics.geometric_mean(column) for column in zip(*ratios, strict=True)]
    print(
        f"geometric means of ours / timm: fastest {means[0]:.2f}, median of rounds {means[1]:.2f}"
    )


if __name__ == "__main__":
    main()
