"""What else decides the figures: precision, batches, threads, processes.

    python benchmarks/bench_precision.py [--model SPEC] [--images SOURCE] [--limit N] [--device D]

One model on the same pictures, each time with one thing changed, against the same network in
float64; prints a table of the largest differences. TF32 is computed on CUDA; elsewhere its rounding
of both operands of each product to ten bits is imitated, and the sum is in float32.
"""

import argparse
from contextlib import nullcontext

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from aliascope import load_model, measure
from aliascope.runtime import environment

OF_IMAGES = ("sis", "sis_half", "logit_instability")
OF_LAYERS = ("avr", "sampled_avr", "alias_share")
PRODUCTS = [
    getattr(torch.ops.aten, name).default for name in ("convolution", "conv2d", "linear", "addmm")
]


class Rounding(TorchDispatchMode):
    """Operands of convolutions and of linear layers lose the bits that TF32 does not have."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in PRODUCTS:
            at = int(func is torch.ops.aten.addmm.default)  # addmm(bias, x, w), conv2d(x, w, bias)
            args = (*args[:at], *map(tf32, args[at : at + 2]), *args[at + 2 :])
        return func(*args, **(kwargs or {}))


def tf32(x):
    """The nearest float32 of ten bits behind the point."""
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--images", default="photos")
    parser.add_argument("--limit", type=int, default=53)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    print(environment(torch.device(given.device))["hardware"], f"torch {torch.__version__}")

    def measured(*, model=given.model, **options):
        options = {"batch_size": 8, "device": given.device, **options}
        return measure(model, given.images, limit=given.limit, **options)

    exact = load_model(given.model)
    exact.module.double()
    reference, usual = measured(model=exact), measured()
    imitated = given.device == "cpu"
    variants = {
        "fp32": usual,
        "fp32 again": measured(),
        "fp32, batches of 1": measured(batch_size=1),
        "fp32, batches of 32": measured(batch_size=32),
        "fp32, two processes": measured(workers=2),
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    variants["fp32, one thread"] = measured()
    torch.set_num_threads(threads)
    with Rounding() if imitated else nullcontext():
        tf = measured(precision="fp32" if imitated else "tf32")
    variants["tf32, imitated" if imitated else "tf32"] = tf
    variants |= {name: measured(precision=name) for name in ("fp16", "bf16")}
    rows = [row(name, run, reference, usual) for name, run in variants.items()]
    for cells in (rows[0], ["---"] * len(rows[0]), *(each.values() for each in rows)):
        print("|", " | ".join(map(str, cells)), "|")


def row(name, run, reference, usual):
    """How far a run is from the reference, and whether it is the usual one to the last bit."""
    of = [tables(x) for x in (run, reference, usual)]
    apart = {
        column: (of[0][i][column] - of[1][i][column]).abs().max()
        for i, columns in enumerate((OF_IMAGES, OF_LAYERS))
        for column in columns
    }
    mean = {f"mean {x}": of[0][0][x].mean() for x in ("sis", "logit_instability")}
    other = of[0][0]["prediction"] != of[1][0]["prediction"]
    bits = all(a[list(c)].equals(b[list(c)])
               for a, b, c in zip(of[0], of[2], (OF_IMAGES, OF_LAYERS), strict=True))  # fmt: skip
    return {"": name, **{key: f"{x:.1e}" for key, x in apart.items()},
            **{key: f"{x:.6f}" for key, x in mean.items()},
            "other predictions": int(other.sum()), "the bits of `fp32`": bits}  # fmt: skip


def tables(run):
    """Image and layer figures, in one order."""
    images = run.images.set_index("image_id").sort_index()
    layers = run.layers.astype({"layer": str}).set_index(["image_id", "layer"]).sort_index()
    return images, layers


if __name__ == "__main__":
    main()
