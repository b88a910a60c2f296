"""What a GPU measures in a second, where its time goes, and what graphs save of a forward.

    python benchmarks/bench_gpu.py [--seconds 60] [--device cuda] [--compile] [--out FILE.json]

Three parts, each in rounds in which all contenders take turns; medians, ratios within a round:

    rates    images a second of `measure`, five views each, in every precision, beside what it is
             made of: the bare forward, with the views and their stability, with the spectra, and
             with all else (threads, rows); then from JPEG files, and decoding alone
    forward  of one network: eager, channels_last, compiled (`--compile`), in CUDA graphs
    repaired what anti-aliased downsamplers cost, by `aliascope.bench`

What the device lacks is left out with a line. On the CPU, to see that it runs:

    python benchmarks/bench_gpu.py --device cpu --seconds 6 --model timm:resnet18 --batch 2 \
        --images 6 --jpegs 6 --batches 1 2 --latency 1 --precisions fp32 tf32
"""

import argparse
import copy
import io
import json
import statistics
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import torch

import aliascope
from aliascope.images import Entry, ImageSource, batches, open_images
from aliascope.measure.batch import measure_batch, prepare, rows_of, views_of
from aliascope.measure.stepping import into_run
from aliascope.models import load_model
from aliascope.runtime import channels_last, chosen_device, computing, environment

PRECISIONS = ["fp32", "tf32", "bf16", "fp16"]
REPAIRED = ("efficientnet_lite0", "efficientnet_lite0@ideal", "efficientnet_lite0@folded:3")
_FEWEST, _MOST = 3, 100
"""Rounds."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="of all parts, about")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="timm:resnet50", help="of random weights")
    parser.add_argument("--precisions", nargs="*", default=PRECISIONS, help="part `rates`")
    parser.add_argument("--batch", type=int, default=64, help="images a forward of `measure`")
    parser.add_argument("--images", type=int, default=512, help="in memory")
    parser.add_argument("--jpegs", type=int, default=512, help="files; 0 leaves them out")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 64], help="bare forwards")
    parser.add_argument("--latency", type=int, nargs="*", default=[1, 64], help="part `repaired`")
    parser.add_argument("--compile", action="store_true", help="torch.compile, some minutes")
    parser.add_argument("--parts", nargs="*", default=["rates", "forward", "repaired"])
    parser.add_argument("--out", type=Path, help="all rows, as JSON")
    given = parser.parse_args()
    device = chosen_device(given.device)
    began, rows = time.perf_counter(), []
    parts = {"rates": (rates, 0.6), "forward": (forward, 0.2), "repaired": (repaired, 0.2)}
    for name in given.parts:
        part, share = parts[name]
        print(f"\n## {name}\n", flush=True)
        try:
            rows.extend({"part": name, **x} for x in part(given, device, share * given.seconds))
        except Exception as error:  # noqa: BLE001  (the other parts are worth having)
            print(f"{name} stopped: {reason(error)}")
        save(given.out, device, rows)  # after each: a machine that is lent may go
    known = environment(device)
    print(
        f"\n{known['hardware']}, {known['threads']} threads, torch {torch.__version__}, "
        f"CUDA {torch.version.cuda}, Python {known['python']}, "
        f"{time.perf_counter() - began:.0f} s"
    )


def save(path, device, rows):
    if path:
        path.write_text(json.dumps({"environment": environment(device), "rows": rows}, indent=1))


def rates(given, device, seconds):
    """Images a second, in each precision."""
    loaded = load_model(given.model, weights="random")
    share = seconds / len(given.precisions)
    with tempfile.TemporaryDirectory() as folder:
        if given.jpegs:
            write_jpegs(Path(folder), given.jpegs)
        for precision in given.precisions:
            try:
                chosen_device(given.device, precision)
                found = rates_of(loaded, precision, given, device, share, folder)
            except Exception as error:  # noqa: BLE001
                print(f"{precision} left out: {reason(error)}\n")
                continue
            table(found)
            yield from found
            told(found)


def rates_of(loaded, precision, given, device, seconds, folder):
    instrument = prepare(loaded, precision=precision, device=given.device)
    plain = channels_last(copy.deepcopy(loaded.module).to(device))
    batch, transform = given.batch, instrument.preprocessing
    generator = torch.Generator().manual_seed(0)
    sides = (transform.resize * 2)[:2]
    noise = torch.randint(256, (batch, 3, *sides), generator=generator, dtype=torch.uint8)
    pixels = torch.stack([transform(picture) for picture in noise])
    views = views_of(instrument, pixels).contiguous(memory_format=torch.channels_last)
    no_taps = replace(instrument, layers=())
    memory = in_memory(noise, given.images)
    contenders = {
        "bare forward": partial(bare, plain, views, precision, device),
        "bare forward, batch-norm fused": partial(
            bare, instrument.module, views, precision, device
        ),
        "+ transfer, views, stability": partial(batch_rate, no_taps, pixels),
        "+ spectra of all layers": partial(batch_rate, instrument, pixels),
        "`measure`, decoded in memory": partial(run_rate, loaded, instrument, memory, batch),
    }
    if given.jpegs:
        files = open_images(folder)
        contenders["`measure`, JPEG files"] = partial(run_rate, loaded, instrument, files, batch)
        contenders["decoding and resizing alone"] = partial(decoding, instrument, files, batch)
    each = rounds(contenders, seconds)
    reference = each["bare forward"]
    return [
        {
            "precision": precision,
            "": name,
            "batch": batch,
            "images/s": round(statistics.median(found), 1),
            "lowest": round(min(found), 1),
            "highest": round(max(found), 1),
            "of bare": round(statistics.median(map(_over, found, reference)), 3),
            "rounds": len(found),
        }
        for name, found in each.items()
    ]


def _over(a, b):
    return a / b


def told(rows):
    """Where the time of an image goes, by what each part adds."""
    ms = {row[""]: 1e3 / row["images/s"] for row in rows}
    names = list(ms)[1:5]
    whole = ms[names[-1]]
    before = [0.0, *(ms[name] for name in names)]
    parts = ("forward", "transfer, views, stability", "spectra", "threads, stacking, rows")
    shares = (f"{part} {(ms[name] - earlier) / whole:.0%}"
              for part, name, earlier in zip(parts, names, before, strict=False))  # fmt: skip
    print(f"\nOf {whole:.2f} ms an image: {', '.join(shares)}.\n", flush=True)


def rounds(contenders, seconds):
    """Name → what each round yields, all in turn; the first, which warms up, is left out."""
    begin = time.perf_counter()
    for run in contenders.values():
        run()
    found = {name: [] for name in contenders}
    for done in range(_MOST):
        if done >= _FEWEST and time.perf_counter() - begin > seconds:
            break
        for name, run in contenders.items():
            found[name].append(run())
    return found


@torch.inference_mode()
def bare(module, views, precision, device, repeats=3):
    """Images a second of one forward over five views each, pixels and weights in place."""
    finish(device)
    begin = time.perf_counter()
    for _ in range(repeats):
        with computing(precision, device):
            module(views)
    finish(device)
    return repeats * len(views) / 5 / (time.perf_counter() - begin)


def batch_rate(instrument, pixels, repeats=3):
    """Of batches that lie on the host; their figures are read back."""
    begin = time.perf_counter()
    for _ in range(repeats):
        measure_batch(instrument, pixels)
    return repeats * len(pixels) / (time.perf_counter() - begin)


def run_rate(loaded, instrument, source, batch):
    """Of what `measure` does once the network is ready, from the first batch's end on."""
    steps = into_run(
        loaded,
        instrument,
        source,
        lambda some, fits, _: rows_of(instrument, some, labels_fit=fits),
        {},
        out=None,
        batch_size=batch,
    )
    ends = [(done, time.perf_counter()) for done in steps]
    (first, begin), (last, end) = ends[0], ends[-1]
    return (last - first) / (end - begin)


def decoding(instrument, source, batch):
    """Of decoding and the transform of all pictures in threads, for nobody."""
    begin, done = time.perf_counter(), 0
    for readable, _ in batches(source.entries(), instrument.seen, lambda: batch):
        done += len(readable)
    return done / (time.perf_counter() - begin)


def in_memory(pictures, count):
    """A source of so many pictures that are decoded already, and of the size after the resize."""

    def read():
        for index in range(count):
            yield Entry(str(index), None, str(index), partial(decoded, pictures, index))

    ids = [str(index) for index in range(count)]
    return ImageSource(read, ids=ids, spec="memory", fingerprint=lambda: "noise")


def decoded(pictures, index):
    """Pixels, and nothing to say of them."""
    return pictures[index % len(pictures)], ""


def write_jpegs(folder, count, distinct=16):
    """Pictures of 500 × 375 pixels, gradients with noise."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:375, 0:500]
    files = []
    for _ in range(min(distinct, count)):
        slope = rng.uniform(0, 0.3, (2, 3))
        pixels = rows[..., None] * slope[0] + columns[..., None] * slope[1]
        pixels = (pixels + rng.normal(0, 12, pixels.shape)).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        PIL.Image.fromarray(pixels).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    for index in range(count):
        (folder / f"{index:05}.jpg").write_bytes(files[index % len(files)])
    print(f"JPEG files of {sum(map(len, files)) / len(files) / 1000:.0f} kB\n")


@torch.no_grad()
def forward(given, device, seconds):
    """Milliseconds of one forward, on the ways that torch has to make it shorter."""
    loaded = load_model(given.model, weights="random")
    precision = "tf32" if device.type == "cuda" else "fp32"
    sizes = [x for x in given.batches if x in (1, 64)] if given.compile else given.batches
    shape = loaded.example().shape[1:]
    plain = copy.deepcopy(loaded.module).to(device)
    ordered = channels_last(copy.deepcopy(loaded.module).to(device))
    compiled = {}
    if given.compile:
        for mode in ("default", "reduce-overhead"):
            module = torch.compile(copy.deepcopy(ordered), mode=mode, dynamic=False)
            compiled[f"torch.compile, {mode}"] = module
    with computing(precision, device):
        for batch in sizes:
            generator = torch.Generator().manual_seed(0)
            x = torch.randn(batch, *shape, generator=generator).to(device)
            z = x.contiguous(memory_format=torch.channels_last)
            expected = plain(x)
            makers = {
                "eager": lambda x=x: partial(plain, x),
                "eager, channels_last": lambda z=z: partial(ordered, z),
                **{name: partial(warm, module, z) for name, module in compiled.items()},
                "CUDA graph by hand": partial(graphed, ordered, z),
            }
            found = list(forwards(makers, expected, batch, precision, device, seconds / len(sizes)))
            table(found)
            print(flush=True)
            yield from found


def forwards(makers, expected, batch, precision, device, seconds):
    """A row a contender; of one that fails, why."""
    runs, apart, failed = {}, {}, {}
    for name, make in makers.items():
        try:
            run = make()
            apart[name] = f"{(run() - expected).abs().max().item():.0e}"
            runs[name] = partial(milliseconds, run, device)
        except Exception as error:  # noqa: BLE001
            failed[name] = reason(error)
    each = rounds(runs, seconds)
    for name in makers:
        times, why = each.get(name), failed.get(name, "")
        ratios = times and list(map(_over, times, each["eager"]))
        yield {
            "precision": precision,
            "batch": batch,
            "": name,
            "ms a batch": round(statistics.median(times), 3) if times else None,
            "of eager": round(statistics.median(ratios), 3) if times else None,
            "rounds": len(times) if times else 0,
            "largest difference": apart.get(name, ""),
            "not run": why,
        }


def warm(module, x):
    """Compiled, with its graphs recorded; what it yields is overwritten by the next call."""
    for _ in range(4):
        module(x)
    finish(x.device)
    return partial(module, x)


def graphed(module, x):
    """A forward captured once, to be replayed without a launch for each kernel."""
    if x.device.type != "cuda":
        raise RuntimeError(f"there are no CUDA graphs on {x.device}")
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            module(x)
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = module(x)

    def run():
        graph.replay()
        return output

    return run


def milliseconds(run, device):
    """Of one call, between two events on a GPU, with nothing else in its queue."""
    finish(device)
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)
    begin = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - begin)


def repaired(given, device, seconds):
    """What the repaired networks take, as `aliascope bench` says."""
    for precision in ("fp32", "fp16") if device.type == "cuda" else ("fp32",):
        latency = aliascope.bench(
            list(REPAIRED),
            batch_sizes=given.latency,
            seconds=seconds / len(given.latency) / 2,
            precision=precision,
            device=given.device,
        )
        found = [{"precision": precision, **row} for row in latency.table.to_dict("records")]
        table([{k: round(x, 3) if isinstance(x, float) else x for k, x in row.items()}
               for row in found])  # fmt: skip
        for line in (latency.verdict, *latency.notices, *latency.failures.values()):
            print(f"\n{line}")
        print(flush=True)
        yield from found


def finish(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reason(error):
    """The first line of an error."""
    with suppress(IndexError):
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}"
    return type(error).__name__


def table(rows):
    """Rows as markdown."""
    for cells in (rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)):
        print("|", " | ".join("" if x is None else str(x) for x in cells), "|")


if __name__ == "__main__":
    main()
