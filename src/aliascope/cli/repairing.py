"""Repair of one model, and all methods of it beside each other."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

import aliascope
from aliascope.antialias.recipe import Stem
from aliascope.cli.options import Csv, Device, Json, Limit, Model, Weights, defaults_of
from aliascope.cli.output import interruptible, print_csv, print_json, progress, say, show
from aliascope.cli.reporting import also_report
from aliascope.layers import Padding, Wavelet
from aliascope.models import check_name
from aliascope.repair.run import LATENCY, TRAINING
from aliascope.results.text import columns, wrapped
from aliascope.results.verdicts import listed
from aliascope.study.tradeoffs import compare_methods

_RECIPE = defaults_of(aliascope.Recipe)
_FINETUNE = defaults_of(aliascope.finetune)
_SETTINGS = defaults_of(aliascope.FinetuneSettings)
_METHODS = defaults_of(compare_methods)
_REPAIR = defaults_of(aliascope.repair)


def antialias(
    model: Model,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="Write this file, NAME.safetensors; it is a model spec afterwards."
        ),
    ],
    method: Annotated[
        str,
        typer.Option(
            metavar="METHOD", help="Filter by this method; `aliascope methods` lists them."
        ),
    ] = _RECIPE.method,
    size: Annotated[
        int, typer.Option(metavar="N", help="Give the filter so many taps, 1 to 7.")
    ] = _RECIPE.size,
    stem: Annotated[
        Stem, typer.Option(help="Keep or convert the operation that reads the image.")
    ] = _RECIPE.stem,
    shortcut: Annotated[
        bool, typer.Option(help="Convert the shortcuts of residual blocks, too.")
    ] = _RECIPE.shortcut,
    partial: Annotated[
        bool, typer.Option("--partial", help="Convert what can be converted, and list the rest.")
    ] = _RECIPE.partial,
    padding: Annotated[
        Padding, typer.Option(help="Continue maps beyond their border in this way.")
    ] = _RECIPE.padding,
    wavelet: Annotated[
        Wavelet, typer.Option(help="Filter with this wavelet, if --method is wavelet.")
    ] = _RECIPE.wavelet,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Convert only the operations of these names, or in modules of these names, with "
            "commas between them.",
        ),
    ] = None,
    finetune: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Train the result to predict as MODEL does, on pictures from a source, as for "
            "`measure`.",
        ),
    ] = None,
    steps: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help=f"Train for so many steps of {_SETTINGS.batch_size} pictures."
        ),
    ] = _SETTINGS.steps,
    holdout: Annotated[
        str,
        typer.Option(
            metavar="N|SOURCE",
            help="Judge the training on so many pictures kept out of it, or on another source.",
        ),
    ] = str(_FINETUNE.holdout),
    weights: Weights = _METHODS.weights,
    device: Device = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Anti-alias what downsamples in MODEL, keeping its weights, and write the result.

    Prints what was done with each operation and what that costs. --finetune wins accuracy back
    without labels; it leaves its progress in a folder beside the file, from which the same command
    goes on after a kill.
    """
    check_name(out)
    places = tuple(at.split(",")) if at else ()
    recipe = aliascope.Recipe(method, size, stem, shortcut, partial, padding, wavelet, places)
    loaded = aliascope.load_model(f"{model}@{recipe}", weights=weights)
    report = aliascope.conversion_of(loaded.module)
    trained = None
    if finetune is not None:
        with interruptible(kept=True), progress(loaded.spec, "steps") as steps_done:
            trained = aliascope.finetune(
                loaded,
                finetune,
                aliascope.load_model(model, weights=weights),
                steps=steps,
                holdout=int(holdout) if holdout.isdecimal() else holdout,
                out=out.with_suffix(".finetune"),
                device=device,
                progress=steps_done,
            )
        loaded = replace(loaded, module=trained.model)
    aliascope.save_model(loaded, out)
    if as_json:
        finetuned = {"finetune": trained.to_dict()} if trained else {}
        print_json({"model": str(out), "spec": loaded.spec, **report.to_dict(), **finetuned})
    elif as_csv:
        print_csv(report.table)
    else:
        say(str(report), report.verdict)
        if trained:
            say(f"\n{trained}", trained.verdict)
    also_report(trained.path if trained else None)


def repair(
    model: Model,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIRECTORY",
            help="Write model, plan, proof and report into this directory; the same command goes "
            "on with what is there.",
        ),
    ],
    images: Annotated[
        str,
        typer.Option(
            metavar="SOURCE",
            help="Read the pictures to plan with and train on from a source, as for `measure`.",
        ),
    ] = "photos",
    budget: Annotated[
        str,
        typer.Option(
            metavar="LIMITS",
            help="Keep within these: the ratio of latencies of single pictures, and the change of "
            "top-1 in points.",
        ),
    ] = str(_REPAIR.budget),
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Convert as this plan.json says, which a repair wrote and you may have edited, "
            "and try nothing else.",
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD[:SIZE]",
            help="Try only this method at each place, as in a model spec; repeatable. By default "
            f"{', '.join(_REPAIR.methods)}.",
        ),
    ] = None,
    holdout: Annotated[
        str,
        typer.Option(
            metavar="N|SOURCE",
            help="Keep so many pictures apart for the proof, or take another source.",
        ),
    ] = str(_REPAIR.holdout),
    steps: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help=f"Train for so many steps of {_SETTINGS.batch_size} pictures."
        ),
    ] = _REPAIR.settings.steps,
    frame: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="PIXELS",
            help="Show the repaired network its pictures at a smaller side: what that saves pays "
            "for filters.",
        ),
    ] = _REPAIR.frame,
    export_to: Annotated[
        str | None,
        typer.Option(
            "--export",
            metavar="NAME",
            help="Write the repaired network for another runtime, too, such as model.onnx; see "
            "`export`.",
        ),
    ] = None,
    planning: Annotated[
        int, typer.Option(min=1, metavar="N", help="Try methods on so many pictures.")
    ] = _REPAIR.planning,
    latency_seconds: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="Spend so long on timing each place."),
    ] = _REPAIR.latency_seconds,
    weights: Weights = _REPAIR.weights,
    limit: Limit = None,
    device: Device = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Repair MODEL: plan where to filter, train without labels, and prove it on other pictures.

    Tries each method at each place for what it wins and costs, combines them within the budget,
    distils the original into the result, and measures both on pictures that were kept apart.
    """
    with interruptible(kept=True):
        found = aliascope.repair(
            model,
            images,
            out=out,
            budget=budget,
            plan=plan,
            export_to=export_to,
            methods=method or _REPAIR.methods,
            holdout=int(holdout) if holdout.isdecimal() else holdout,
            settings=replace(_REPAIR.settings, steps=steps),
            frame=frame,
            weights=weights,
            planning=planning,
            latency_seconds=latency_seconds,
            limit=limit,
            device=device,
            progress=progress,
        )
    show(found, as_json=as_json, as_csv=as_csv)
    parts = [out / name for name in ("judged-crop", "judged-native", LATENCY, TRAINING)]
    also_report(out, out, *(part for part in parts if part.exists()))


def methods(
    measure: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC", help="Convert the model of this spec by every method, and measure each."
        ),
    ] = None,
    images: Annotated[
        str,
        typer.Option(metavar="SOURCE", help="Read the pictures from a source, as for `measure`."),
    ] = "photos",
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD[:SIZE]", help="Try only this method, as in a model spec; repeatable."
        ),
    ] = None,
    recalibrate: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Recalibrate batch-norm on pictures from this source, and measure that.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIRECTORY", help="Write runs, methods.csv and the figure into a directory."
        ),
    ] = None,
    weights: Weights = _METHODS.weights,
    limit: Limit = None,
    latency_seconds: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Spend so long on timing all of them.")
    ] = _METHODS.latency_seconds,
    device: Device = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """List the anti-aliased downsamplers, or with --measure compare them and their rivals.

    The list: paper, learned parameters and cost of one layer at stride 2 on a map of 64 × 56 × 56,
    and which shifts are exact. The comparison: stability under crop and other
    shifts, predictions kept, cost, zero-shot and with --recalibrate after batch-norm recalibration.
    """
    if measure is not None:
        with interruptible(kept=out is not None):
            compared = compare_methods(
                measure,
                images,
                methods=only or _METHODS.methods,
                recalibrate_on=recalibrate,
                weights=weights,
                limit=limit,
                out=out,
                latency_seconds=latency_seconds,
                device=device,
                progress=progress,
            )
        show(compared, as_json=as_json, as_csv=as_csv)
        also_report(out)
        return
    found = aliascope.available_methods()
    if as_json:
        print_json([asdict(method) for method in found])
        return
    if as_csv:
        print_csv(pd.DataFrame(found))
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
    learned = [method.name for method in found if method.parameters]
    verdict = f"{len(found)} methods: {listed(learned)} learn parameters, the others have none."
    say(f"{columns([header, *rows])}\n\n{wrapped([verdict])}", verdict)
