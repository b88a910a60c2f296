"""Time `aliascope.measure` against the study as published and against bare forwards.

    python benchmarks/bench_measure.py [--images SOURCE] [--limit 64] [--rounds 3]

ResNet-50 and its BlurPool version, random weights, the seven published layers. The contenders take
turns within one process, and what counts is the ratio of their times within a round:

    published  written plainly, as the study did it: one image at a time, numpy float64 FFTs; per
               model one pass for AVR, then five forwards for SIS and one for AVR, then five for
               SIS and one for accuracy
    bare       decode, then five batched channels_last forwards, nothing measured
    forwards   those of `measure` alone: folded batch-norms, all views of eight images at once
    aliascope  everything that `measure` yields
    one        decode, then one forward of each batch, as in bare
    only avr   what `measure(only="avr")` yields, of one view

Memory is kept, as the command line does it.

Beside them the least time that the arithmetic of five forwards takes at the rate of this machine's
own matrix product: what no engine that computes the same numbers can beat by much.
"""

import argparse
import platform
import statistics
import time
from itertools import islice

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import aliascope
from aliascope.images import loaded_ahead
from aliascope.images.preprocessing import RESIZE_224
from aliascope.measure.batch import prepare, view_logits
from aliascope.runtime import keep_memory

MODELS = ("timm:resnet50", "antialiased:resnet50")
LAYERS = {
    "timm:resnet50": [
        "conv1", "layer2.0.conv2", "layer2.0.downsample.0", "layer3.0.conv2",
        "layer3.0.downsample.0", "layer4.0.conv2", "layer4.0.downsample.0",
    ],
    "antialiased:resnet50": [
        "conv1", "layer2.0.conv3.0", "layer2.0.downsample.0", "layer3.0.conv3.0",
        "layer3.0.downsample.0", "layer4.0.conv3.0", "layer4.0.downsample.0",
    ],
}  # fmt: skip
SHIFTS = ((-1, 0), (1, 0), (0, -1), (0, 1))


def published(models, source):
    """The three passes of the study, plainly."""
    results = {}
    for spec, loaded in models.items():
        avr = [avr_of(loaded.module, LAYERS[spec], x) for x in one_by_one(source)]
        for x in one_by_one(source):
            sis_of(loaded.module, x)
            avr_of(loaded.module, LAYERS[spec], x)
        sis = []
        for x in one_by_one(source):
            sis.append(sis_of(loaded.module, x))
            loaded.module(x).argmax()
        results[spec] = (np.array(avr), np.array(sis))
    return results


def one_by_one(source):
    for image in source:
        yield RESIZE_224.normalise(RESIZE_224(image.pixels)[None])


def avr_of(module, names, x):
    captured = []
    modules = dict(module.named_modules())
    hooks = [
        modules[name].register_forward_pre_hook(lambda _, args: captured.append(args[0]))
        for name in names
    ]
    module(x)
    for hook in hooks:
        hook.remove()
    return [fft_avr(map_[0].numpy().astype(np.float64)) for map_ in captured]


def fft_avr(map_):
    power = np.fft.fftshift((np.abs(np.fft.fft2(map_)) ** 2).mean(axis=0))
    f_u, f_v = (np.fft.fftshift(np.fft.fftfreq(n)) * 2 for n in power.shape)
    radius = np.sqrt(f_u[:, None] ** 2 + f_v[None, :] ** 2)
    return power[radius > 0.5 + 1e-9].sum() / power.sum()


def sis_of(module, x):
    p = module(x).softmax(1)
    views = [module(x.roll(shift, dims=(2, 3))).softmax(1) for shift in SHIFTS]
    return np.mean([1 - torch.cosine_similarity(p, q).item() for q in views])


def bare(models, source, batch=32, shifts=SHIFTS):
    """Five forwards an image and nothing else."""
    for loaded in models.values():
        module = loaded.module.to(memory_format=torch.channels_last)
        images = list(one_by_one(source))
        for start in range(0, len(images), batch):
            x = torch.cat(images[start : start + batch])
            x = x.contiguous(memory_format=torch.channels_last)
            module(x).softmax(1)
            for shift in shifts:
                module(x.roll(shift, dims=(2, 3))).softmax(1)


def forwards(models, source, batch=8):
    """What `measure` runs, set-up included, and none of what it reads."""
    for loaded in models.values():
        instrument = prepare(loaded, preprocess="resize224", ops="conv", device="cpu")
        images = loaded_ahead(source.entries(), instrument.seen)
        while some := list(islice(images, batch)):
            view_logits(instrument, torch.stack([image.pixels for image in some]))


def measured(models, source, only="all"):
    """Both runs, in memory."""
    options = {"preprocess": "resize224", "ops": "conv", "only": only, "device": "cpu"}
    return {spec: aliascope.measure(loaded, source, **options) for spec, loaded in models.items()}


def differences(plain, runs):
    """Largest difference of AVR and of SIS between the plain study and aliascope."""
    avr = sis = 0.0
    for spec, (plain_avr, plain_sis) in plain.items():
        table = runs[spec].layers.pivot_table("avr", "image_id", "layer", sort=False, observed=True)
        ours = table.loc[runs[spec].images.image_id, LAYERS[spec]].to_numpy()
        avr = max(avr, np.abs(ours - plain_avr).max())
        sis = max(sis, np.abs(runs[spec].images.sis.to_numpy() - plain_sis).max())
    return avr, sis


def arithmetic_limit(models, source, side=3072):
    """Seconds of five forwards an image if every operation ran as fast as a matrix product."""
    with FlopCounterMode(display=False) as counter:
        for loaded in models.values():
            loaded.module(torch.zeros(1, 3, 224, 224))
    a = torch.rand(side, side)
    rate = 2 * side**3 / min(timed(torch.mm, a, a)[0] for _ in range(5))
    return counter.get_total_flops() * (1 + len(SHIFTS)) * source.count / rate


def timed(function, *arguments, **options):
    start = time.perf_counter()
    result = function(*arguments, **options)
    return time.perf_counter() - start, result


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", default="photos")
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    keep_memory()
    source = aliascope.open_images(options.images, limit=options.limit)
    models = {spec: aliascope.load_model(spec, weights="random") for spec in MODELS}
    measured(models, aliascope.open_images(options.images, limit=8))  # warm-up
    names = ("published", "bare", "forwards", "aliascope", "one", "only avr", "limit")
    times = {name: [] for name in names}
    for number in range(options.rounds):
        # Plain modules first get their default layout back, as the study had it.
        for loaded in models.values():
            loaded.module.to(memory_format=torch.contiguous_format)
        seconds, plain = timed(published, models, source)
        times["published"].append(seconds)
        times["bare"].append(timed(bare, models, source)[0])
        times["forwards"].append(timed(forwards, models, source)[0])
        seconds, runs = timed(measured, models, source)
        times["aliascope"].append(seconds)
        times["one"].append(timed(bare, models, source, shifts=())[0])
        times["only avr"].append(timed(measured, models, source, only="avr")[0])
        times["limit"].append(arithmetic_limit(models, source))
        print(f"round {number + 1}:", *(f"{name} {t[-1]:.1f} s" for name, t in times.items()))
    images = source.count * len(MODELS)
    print(
        f"\n{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, float32, {source.count} images of {options.images}"
    )
    for name, seconds in times.items():
        print(f"{name:10} {statistics.median(seconds) / images * 1000:7.1f} ms an image and model")
    pairs = [("aliascope", name) for name in ("published", "bare", "forwards", "limit")]
    for mine, name in [*pairs, ("forwards", "bare"), ("only avr", "one")]:
        ratios = [ours / theirs for ours, theirs in zip(times[mine], times[name], strict=True)]
        median = statistics.median(ratios)
        faster = f" (that is {1 / median:.2f} times faster)" if median < 1 else ""
        print(
            f"{mine} / {name}: {median:.3f}{faster}, rounds {min(ratios):.3f} to {max(ratios):.3f}"
        )
    avr, sis = differences(plain, runs)
    print(f"largest difference from the published computation: AVR {avr:.1e}, SIS {sis:.1e}")


if __name__ == "__main__":
    main()
