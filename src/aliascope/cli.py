"""The command line: one verb, one library call. Data on stdout, progress and notices on stderr."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import aliascope
from aliascope.batch import Ops
from aliascope.errors import AliascopeError
from aliascope.files import file_name
from aliascope.models import check_name
from aliascope.runtime import Precision
from aliascope.shifts import Border
from aliascope.text import columns, pair

app = typer.Typer(
    name="aliascope",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
_stderr = Console(stderr=True, highlight=False, emoji=False)  # a spec may contain ":x:"

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Weights = Annotated[
    str, typer.Option(help="pretrained, random, or a file (safetensors, or a torch state_dict).")
]


def main() -> None:
    """Run the command line; a mistake of the user's becomes one sentence and status 1."""
    debug = "--debug" in sys.argv
    try:
        app()
    except AliascopeError as error:
        if debug:
            raise
        _complain(str(error))
        sys.exit(1)


def _complain(sentence: str) -> None:
    _stderr.print(f"error: {sentence}", markup=False, soft_wrap=True)


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"aliascope {aliascope.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """How much does a network alias when it downsamples, and do its predictions survive a shift?"""
    del debug, version  # read in `main` and `_version`


@app.command(epilog="Example: aliascope layers timm:resnet50")
def layers(
    model: Annotated[str, typer.Argument(help="A model spec; `aliascope models` lists them.")],
    as_json: Json = False,
) -> None:
    """List every operation of MODEL that downsamples, in order of execution.

    No weights are needed: the operations are found by running the network on a blank image.
    """
    loaded = aliascope.load_model(model, weights="random")
    found = aliascope.strided_layers(loaded.module, loaded.example())
    if as_json:
        _print_json([asdict(layer) for layer in found])
        return
    header = ["#", "layer", "kind", "kernel", "stride", "input", "output", "image stride", ""]
    rows = [
        [
            str(layer.order),
            layer.name,
            layer.kind,
            "×".join(map(str, layer.kernel)),
            pair(*layer.stride),
            "×".join(map(str, layer.input_shape)),
            "×".join(map(str, layer.output_shape)),
            pair(*layer.cumulative_stride),
            "shortcut" if layer.shortcut else "",
        ]
        for layer in found
    ]
    typer.echo(columns([header, *rows]) if rows else f"{model} does not downsample")


@app.command(epilog="Example: aliascope measure efficientnet_lite0 --images photos --limit 2")
def measure(
    models: Annotated[
        list[str], typer.Argument(help="Model specs; `aliascope models` lists them.")
    ],
    images: Annotated[
        str,
        typer.Option(
            help="photos (embedded), a folder or glob, stl10, cifar10, imagenet:PATH, "
            "imagefolder:PATH, hf:DATASET[:SPLIT] or wds:SHARDS."
        ),
    ] = "photos",
    out: Annotated[
        Path | None,
        typer.Option(help="Run directory, or with several models the directory to hold them."),
    ] = None,
    weights: Weights = "pretrained",
    preprocess: Annotated[
        Literal["model", "resize224"],
        typer.Option(help="model (its own evaluation transform) or resize224 (as published)."),
    ] = "model",
    ops: Annotated[Ops, typer.Option(help="All that downsample, or convolutions only.")] = "all",
    precision: Annotated[Precision, typer.Option(help="Of the forward pass.")] = "fp32",
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, …; the GPU if there is one.")
    ] = None,
    shifts: Annotated[
        Border,
        typer.Option(help="circular (as published), or crop: the window moves over the picture."),
    ] = "circular",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images a forward; the fastest by default.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many images.")] = None,
    seed: Annotated[int, typer.Option(help="Of random weights.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure aliasing and shift instability of one or more models.

    One pass yields the alias violation ratio of every layer and image, and the shift instability,
    agreement, confidence and logit instability of every image. With --out a run that was killed
    goes on when the same command is given again.
    """
    runs, failed = [], False
    for spec in models:
        place = out if out is None or len(models) == 1 else out / file_name(spec)
        try:
            with _progress(spec) as progress:
                run = aliascope.measure(
                    spec,
                    images,
                    out=place,
                    weights=weights,
                    preprocess=preprocess,
                    ops=ops,
                    precision=precision,
                    device=device,
                    shifts=shifts,
                    batch_size=batch_size,
                    limit=limit,
                    seed=seed,
                    progress=progress,
                )
        except AliascopeError as error:
            if len(models) == 1:
                raise
            failed = True
            _complain(f"{spec}: {error}")
            continue
        except KeyboardInterrupt:
            kept = (
                "the same command goes on from there" if out else "nothing was kept without --out"
            )
            _complain(f"interrupted; {kept}")
            raise typer.Exit(1) from None
        runs.append(run)
        if not as_json:
            typer.echo(f"{run}\n")
    if as_json:
        _print_json([run.to_dict() for run in runs])
    if failed:
        raise typer.Exit(1)


@app.command(epilog="Example: aliascope compare runs/a runs/b --map conv1=stem.conv")
def compare(
    run_a: Annotated[Path, typer.Argument(help="Run directory of the first model.")],
    run_b: Annotated[Path, typer.Argument(help="Run directory of the second.")],
    layer_map: Annotated[
        list[str] | None,
        typer.Option("--map", help="A=B: compare layer A of the first with layer B; repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare two runs, paired by image and by layer.

    Layers are paired by order of execution, or as --map says. Intervals are bootstrapped over
    photographs; p-values are corrected over layers (Holm).
    """
    pairs = dict(_assignment(text) for text in layer_map or [])
    comparison = aliascope.compare(run_a, run_b, layer_map=pairs or None)
    _show(comparison, as_json)


@app.command(
    epilog="Example: aliascope bench efficientnet_lite0 efficientnet_lite0@blurpool --batch-size 1 "
    "--seconds 1"
)
def bench(
    models: Annotated[
        list[str], typer.Argument(help="Model specs; ratios are to the first of them.")
    ],
    batch_size: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Images a forward; repeatable; 1 and 32 by default."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0, help="To spend on each batch size, but 11 to 200 rounds.")
    ] = 10,
    precision: Annotated[Precision, typer.Option(help="Of the forward pass.")] = "fp32",
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, …; the GPU if there is one.")
    ] = None,
    weights: Weights = "pretrained",
    seed: Annotated[int, typer.Option(help="Of random weights, input and order.")] = 0,
    as_json: Json = False,
) -> None:
    """Time the forward pass of one or more models against each other.

    Each round times every model once, in changing order; ratios are those within a round. The
    models run as they are: batch-norm is not folded. A model against itself shows how far a ratio
    can be trusted on this machine.
    """
    with _progress("bench", "rounds") as progress:
        latency = aliascope.bench(
            models,
            batch_sizes=batch_size or (1, 32),
            seconds=seconds,
            precision=precision,
            device=device,
            weights=weights,
            seed=seed,
            progress=progress,
        )
    _show(latency, as_json)
    for label, sentence in latency.failures.items():
        _complain(f"{label}: {sentence}")
    if latency.failures:
        raise typer.Exit(1)


@app.command(epilog="Example: aliascope study --limit 4 --phases 1-3 --out results")
def study(
    preset: Annotated[
        Literal["embedded", "paper", "matched"],
        typer.Option(
            help="embedded (no network), paper (the published protocol) or matched (ResNet-50 "
            "with and without blur, trained alike)."
        ),
    ] = "embedded",
    baseline: Annotated[str | None, typer.Option(help="Model spec, over the preset's.")] = None,
    antialiased: Annotated[str | None, typer.Option(help="Spec of its counterpart.")] = None,
    images: Annotated[str | None, typer.Option(help="A source, as for `measure`.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many images.")] = None,
    phases: Annotated[str, typer.Option(help="Which of the five, such as 1,3-5.")] = "1-5",
    weights: Annotated[str | None, typer.Option(help="pretrained or random.")] = None,
    preprocess: Annotated[
        Literal["model", "resize224"] | None,
        typer.Option(help="model (the baseline's evaluation transform) or resize224."),
    ] = None,
    ops: Annotated[Ops | None, typer.Option(help="All that downsample, or convolutions.")] = None,
    class_map: Annotated[
        str | None,
        typer.Option(help="stl10: labels 0-9 of STL-10, predictions of ImageNet classes."),
    ] = None,
    layer_map: Annotated[
        list[str] | None,
        typer.Option("--map", help="A=B: pair layer A of the baseline with layer B; repeatable."),
    ] = None,
    sweep: Annotated[
        int | None, typer.Option(min=1, help="Frequencies in phase 2; 10 as published.")
    ] = None,
    latency_seconds: Annotated[
        float | None, typer.Option(help="To spend on timing each batch size.")
    ] = None,
    precision: Annotated[Precision | None, typer.Option(help="Of the forward pass.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, …; the GPU if there is one.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of random weights and intervals.")] = None,
    out: Annotated[Path, typer.Option(help="Results directory.")] = Path("results"),
    figures_only: Annotated[
        bool, typer.Option("--figures-only", help="Draw again from what --out holds.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run the five-phase study on a pair of models: six tables, fifteen figures, one summary.

    Phases: 1 what each layer reads, 2 synthetic pictures, 3 aliasing on natural images, 4 does it
    predict instability, 5 what the intervention buys and costs. What --out already holds of the
    same study is not measured again.
    """
    from aliascope.study import run_study

    pairs = tuple(_assignment(text) for text in layer_map or [])
    try:
        summary = run_study(
            preset,
            out=out,
            phases=_numbers(phases),
            figures_only=figures_only,
            progress=_progress,
            baseline=baseline,
            antialiased=antialiased,
            images=images,
            limit=limit,
            weights=weights,
            preprocess=preprocess,
            ops=ops,
            class_map=class_map,
            layer_map=pairs or None,
            sweep=sweep,
            latency_seconds=latency_seconds,
            precision=precision,
            device=device,
            seed=seed,
        )
    except KeyboardInterrupt:
        _complain("interrupted; the same command goes on from there")
        raise typer.Exit(1) from None
    _show(summary, as_json)
    for number, why in summary.failed.items():
        _complain(f"phase {number}: {why}")
    if summary.failed:
        raise typer.Exit(1)


@app.command(epilog="Example: aliascope antialias efficientnet_lite0 --size 2 --out l.safetensors")
def antialias(
    model: Annotated[str, typer.Argument(help="A model spec; `aliascope models` lists them.")],
    out: Annotated[Path, typer.Option(help="File to write, NAME.safetensors: a model spec, too.")],
    method: Annotated[str, typer.Option(help="As `aliascope methods` lists them.")] = "blurpool",
    size: Annotated[int, typer.Option(help="Taps of the filter, 1 to 7.")] = 3,
    stem: Annotated[
        Literal["keep", "convert"], typer.Option(help="What to do with what reads the image.")
    ] = "keep",
    shortcut: Annotated[
        bool, typer.Option(help="Convert the shortcuts of residual blocks, too.")
    ] = True,
    partial: Annotated[
        bool, typer.Option("--partial", help="Convert what can be, and list the rest.")
    ] = False,
    padding: Annotated[
        Literal["reflect", "zeros", "replicate", "circular"],
        typer.Option(help="How the downsamplers continue a border."),
    ] = "reflect",
    wavelet: Annotated[
        Literal["haar", "db2", "bior2.2", "bior3.3", "sym4"],
        typer.Option(help="Of --method wavelet."),
    ] = "haar",
    finetune: Annotated[
        str | None,
        typer.Option(help="A source, as for `measure`: train on it to predict as MODEL does."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of --finetune, 32 images each.")] = 500,
    holdout: Annotated[
        str, typer.Option(help="Images that --finetune judges on: how many, or another source.")
    ] = "128",
    weights: Weights = "pretrained",
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, …; the GPU if there is one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Anti-alias what downsamples in MODEL, keeping its weights, and write the result.

    Prints what was done with each operation and what that costs. --finetune wins accuracy back
    without labels; it leaves its progress in a folder beside the file, from which the same command
    goes on after a kill.
    """
    check_name(out)
    recipe = aliascope.Recipe(method, size, stem, shortcut, partial, padding, wavelet)
    loaded = aliascope.load_model(f"{model}@{recipe}", weights=weights)
    report = aliascope.conversion_of(loaded.module)
    trained = None
    if finetune is not None:
        with _progress(loaded.spec, "steps") as progress:
            trained = aliascope.finetune(
                loaded,
                aliascope.load_model(model, weights=weights),
                finetune,
                steps=steps,
                holdout=int(holdout) if holdout.isdecimal() else holdout,
                out=out.with_suffix(".finetune"),
                device=device,
                progress=progress,
            )
        loaded = replace(loaded, module=trained.model)
    aliascope.save_model(loaded, out)
    if as_json:
        finetuned = {"finetune": trained.to_dict()} if trained else {}
        _print_json({"model": str(out), "spec": loaded.spec, **report.to_dict(), **finetuned})
    else:
        typer.echo("\n\n".join(filter(None, [str(report), trained and str(trained)])))


@app.command(
    epilog="Example: aliascope methods --measure efficientnet_lite0 --limit 1 --only ideal "
    "--latency-seconds 0"
)
def methods(
    measure: Annotated[
        str | None, typer.Option(help="A model spec: convert it by every method and measure that.")
    ] = None,
    images: Annotated[str, typer.Option(help="A source, as for `measure`.")] = "photos",
    only: Annotated[
        list[str] | None, typer.Option(help="METHOD[:SIZE], as in a model spec; repeatable.")
    ] = None,
    recalibrate: Annotated[
        str | None, typer.Option(help="A source to recalibrate batch-norm on; none by default.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory for runs, methods.csv and the figure.")
    ] = None,
    weights: Weights = "pretrained",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many images.")] = None,
    latency_seconds: Annotated[float, typer.Option(min=0, help="To spend on timing.")] = 20,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, …; the GPU if there is one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the anti-aliased downsamplers, or with --measure compare them on a model.

    The list: paper, learned parameters and cost of one layer at stride 2 on a map of 64 × 56 × 56,
    and which shifts are exact. The comparison: stability, predictions kept, cost, zero-shot and
    with --recalibrate after batch-norm recalibration.
    """
    if measure is not None:
        from aliascope.tradeoffs import TRIED, compare_methods

        compared = compare_methods(
            measure,
            images,
            methods=only or TRIED,
            recalibrate_on=recalibrate,
            weights=weights,
            limit=limit,
            out=out,
            latency_seconds=latency_seconds,
            device=device,
            progress=_progress,
        )
        _show(compared, as_json)
        return
    found = aliascope.available_methods()
    if as_json:
        _print_json([asdict(method) for method in found])
        return
    header = ["method", "layer", "parameters", "MFLOPs", "exact under", "paper"]
    rows = [
        [
            method.name,
            method.layer,
            str(method.parameters),
            f"{method.mflops:.2f}",
            method.exact_under,
            method.paper,
        ]
        for method in found
    ]
    typer.echo(columns([header, *rows]))


@app.command(epilog="Example: aliascope models resnet18")
def models(
    pattern: Annotated[str, typer.Argument(help="Only specs that contain this.")] = "",
    as_json: Json = False,
) -> None:
    """List the model specs that can be measured.

    Besides these: package.module:function for a network of your own, a FILE.safetensors that
    `aliascope antialias` wrote, and SPEC@METHOD[:SIZE][:stem] for any of them anti-aliased.
    """
    specs = aliascope.available_models(pattern)
    if as_json:
        _print_json(specs)
    else:
        typer.echo("\n".join(specs) or f"no model contains {pattern!r}")


def _assignment(text: str) -> tuple[str, str]:
    left, equals, right = text.partition("=")
    if not (left and equals and right):
        raise typer.BadParameter(f"{text!r} is not of the form A=B", param_hint="--map")
    return left, right


def _numbers(text: str) -> list[int]:
    """1,3-5 as 1, 3, 4, 5."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            raise typer.BadParameter(
                f"{text!r} is no list of phases like 1,3-5", param_hint="--phases"
            )
        found += range(int(first), int(last or first) + 1)
    return found


def _show(result: Any, as_json: bool) -> None:
    if as_json:
        _print_json(result.to_dict())
    else:
        typer.echo(str(result))


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(data, indent=2))


@contextmanager
def _progress(title: str, unit: str = "images") -> Iterator[Any]:
    """A bar with rate and time left on stderr; called with the units done and their number."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=_stderr,
        transient=True,
        disable=not _stderr.is_terminal,
    )
    with bar:
        task = bar.add_task(title, total=None, rate="")

        def report(done: int, total: int | None) -> None:
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
            rate = f"{speed:.1f} {unit}/s" if speed else ""
            bar.update(task, completed=done, total=total, rate=rate)

        yield report


if __name__ == "__main__":
    main()
