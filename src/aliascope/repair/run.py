"""The stages of a repair, one after the other, and what came of them."""

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.utils.data import Dataset

from aliascope.compare import Comparison, compare
from aliascope.errors import AliascopeError, ImageError
from aliascope.export import export
from aliascope.finetune import FinetuneSettings, finetune
from aliascope.finetune.data import split
from aliascope.finetune.recalibration import spread
from aliascope.finetune.run import recalibrated_if_nearer
from aliascope.images import Entry, ImageSource, open_images
from aliascope.images.preprocessing import possible_shifts
from aliascope.inference import seen_by
from aliascope.latency import Latency, bench
from aliascope.models import LoadedModel, load_model, save_model, within
from aliascope.models.files import read_tensors, sealed_tensors
from aliascope.records import Progress
from aliascope.repair.budget import Budget
from aliascope.repair.plan import NONE, Plan
from aliascope.repair.search import TRIED, Trials, built, pixels_of
from aliascope.results.files import (
    Result,
    lock,
    plain,
    refuse_another,
    sealed,
    unsealed,
    write_file,
)
from aliascope.results.text import columns, number, wrapped
from aliascope.results.verdicts import Change, digits, sample, under
from aliascope.runtime import chosen_device, environment
from aliascope.shifts import Border

_FITTED_ON, _FIT_STEPS = 128, 100
"""Pictures that what is folded is fitted on, where methods are tried on others, and steps."""
SEARCH, PLAN, FITTED = "search.json", "plan.json", "fitted.safetensors"
RECORD, MODEL, LATENCY, TRAINING = "repair.json", "model.safetensors", "latency.json", "training"
SHIFTS: tuple[Border, ...] = ("crop", "native")
"""How pictures are moved when the repair is judged."""
SETTINGS = FinetuneSettings(consistency=3.0, recalibration=0)
"""Of the training, where none are given. Recalibrated norms lose what the filters steadied
(docs/repair.md)."""
_JUDGED = {
    "accuracy": ("top-1", ".3f"),
    "logit_instability": ("logit instability", ".4f"),
    "agreement": ("agreement", ".3f"),
    "sis": ("SIS", ".4f"),
    "sis_half": ("SIS at confidence ½", ".4f"),
    "confidence": ("confidence", ".3f"),
}


@dataclass(frozen=True, eq=False)
class Repaired(Result):
    """What `repair` made and proved; `str()` prints it."""

    model: str
    """Spec of the network as it was."""
    spec: str
    """As it was converted; the weights are those of model.safetensors."""
    budget: str
    choices: dict[str, str]
    """Place → method or none."""
    tried: pd.DataFrame
    """A row a place and method, alone and untrained: place, stride, method, change (of logit
    instability), kl, latency with _low and _high, reason; empty where a plan was given."""
    combined: pd.DataFrame
    """A row a combination that was made: choices, predicted_change, change, kl, latency, score."""
    judged: pd.DataFrame
    """A row a figure and kind of shifts, on held-out pictures: shifts, metric, mean_a (as it was),
    mean_b (repaired), difference and change, each with _low and _high."""
    kept: dict[str, float]
    """Share of the held-out pictures that it still names as before: value, low, high."""
    latency: pd.DataFrame
    """A row a batch size: batch, ratio, ratio_low, ratio_high."""
    training: dict[str, Any]
    """steps, batch, images."""
    n: int
    groups: int
    """Held-out images and photographs."""
    info: dict[str, Any]
    notices: tuple[str, ...]

    @property
    def table(self) -> pd.DataFrame:
        """What was judged."""
        return self.judged

    @property
    def met(self) -> dict[str, bool | None]:
        """Whether each limit of the budget is kept, by the means; None where that is not known."""
        limits = Budget.parse(self.budget)
        rows: Any = self.latency.set_index("batch")["ratio"]
        ratio = rows.get(1, math.nan)
        change = _change(self, "accuracy")
        top1 = None if change is None else bool(100 * change.value >= limits.top1 - 1e-9)
        return {"latency": bool(ratio <= limits.latency), "top1": top1}

    @property
    def verdict(self) -> str:
        """What was won and what it costs."""
        return " ".join(_sentences(self))

    def _blocks(self) -> Iterator[str]:
        return _blocks(self)


def repair(
    model: str | nn.Module | LoadedModel,
    images: str | Path | ImageSource | Sequence[Any] | Dataset[Any],
    *,
    out: str | Path,
    budget: Budget | str = Budget(),  # noqa: B008 - it cannot be changed
    plan: Plan | str | Path | None = None,
    methods: Sequence[str] = TRIED,
    holdout: int | str | Path | ImageSource = 128,
    settings: FinetuneSettings = SETTINGS,
    frame: int | None = None,
    export_to: str | Path | None = None,
    weights: str | Path = "pretrained",
    planning: int = 24,
    latency_seconds: int | float = 10.0,
    limit: int | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Repaired:
    """Anti-alias a network where that pays, train it to answer as before, and prove what was won.

    Each method is tried at each place alone; the combination that steadies most within the budget
    is made and distilled from the original, on pictures without labels, and both networks are
    measured on pictures that were kept apart from all of that.

    Args:
        model: a classifier, as `load_model` takes it.
        images: a source as `open_images` takes it, to plan with and to train on.
        out: the directory; the same call goes on with what is there.
        budget: or its text, such as "latency=1.05,top1=-0.5".
        plan: which method goes where, in place of a search; or the file that holds it.
        methods: METHOD[:SIZE] that are tried at each place.
        holdout: number of pictures kept apart for the proof, or a source of its own; labels that
            number the model's classes give top-1.
        settings: of the training; `steps=0` leaves it out.
        frame: side in pixels at which the repaired network sees the original's pictures, smaller
            ones than those: that pays for filters. The limit of latency counts the whole.
        export_to: a file name in OUT, such as model.onnx: the repaired network for another runtime
            (see `export`), proven on the pictures kept apart.
        weights: "pretrained", "random" or a file.
        planning: pictures that methods are tried on.
        latency_seconds: for timing the methods of a place, and both networks in the end.
        limit: at most so many images.
        device: by default CUDA where there is one.
        progress: called with a title; its context yields what takes (done, total).

    Returns:
        The result, which OUT/repair.json holds; OUT/model.safetensors is a model spec.

    Raises:
        AliascopeError: the model cannot be repaired within the budget, there are no pictures to
            train on or to judge by, or `out` holds another repair.

    >>> import tempfile
    >>> plan = Plan("cifar_resnet8", {"layer1": "folded:3", "layer2": "none"})
    >>> untrained = replace(SETTINGS, steps=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = repair(
    ...         *("cifar_resnet8", "photos"), plan=plan, settings=untrained, out=folder,
    ...         limit=8, holdout=4, planning=2, latency_seconds=0, device="cpu",
    ...     )
    >>> found.spec
    'cifar_resnet8@folded:3:at=layer1'
    """
    limits = Budget.parse(budget) if isinstance(budget, str) else budget
    given = plan if isinstance(plan, Plan | None) else Plan.open(plan)
    loaded = load_model(model, weights=weights)
    crop = loaded.preprocessing.crop
    seen = crop if frame is None else seen_by(f"frame:{frame}", crop)
    source = images if isinstance(images, ImageSource) else open_images(images, limit=limit)
    training, held = _parted(source, holdout, settings.seed)
    pictures, fitting = _chosen(list(training.entries()), planning)
    folder = Path(out)
    told = progress or (lambda _: nullcontext(lambda *_: None))
    config = {
        "model": loaded.spec,
        "weights_digest": loaded.weights_digest,
        "structure": loaded.structure_digest,
        "images": [entry.id for entry in pictures],
        "budget": str(limits),
        "methods": list(methods),
        "plan": None if given is None else dict(given.choices),
        "holdout": [entry.id for entry in held.entries()],
        "settings": plain(settings.settled().to_dict()),
    } | ({} if frame is None else {"frame": frame})
    ours = lock(folder, SEARCH, PLAN, "judged-*", TRAINING)
    try:
        with told("trying methods") as report:
            found = _searched(
                folder, config, loaded, given, limits, (pictures, fitting), methods,
                frame=frame, seconds=latency_seconds, device=device, report=report,
            )  # fmt: skip
        spared = spread(list(training.entries()), settings.recalibration)
        with told("fitting"):
            small = replace(loaded, preprocessing=replace(loaded.preprocessing, crop=seen))
            inner = _fitted(folder, small, found.plan, fitting, spared, chosen_device(device))
            inner = replace(inner, preprocessing=loaded.preprocessing)
        repaired = inner if frame is None else within(inner, f"frame:{frame}")
        if settings.steps:
            with told("training") as report:
                tuned = finetune(
                    repaired,
                    training,
                    loaded,
                    settings=replace(settings, recalibration=0),
                    holdout=0,
                    preprocess=loaded.preprocessing,
                    device=device,
                    out=folder / TRAINING,
                    progress=report,
                )
            repaired = replace(repaired, module=tuned.model)
            trained = tuned.model if frame is None else tuned.model.get_submodule("model")
            inner = replace(inner, module=trained)
        if inner.provenance is not None:
            save_model(inner, folder / MODEL)
        judged = {}
        borders, notice = possible_shifts(
            SHIFTS, loaded.preprocessing, (picture.pixels for picture in held)
        )
        for border in borders:
            with told(f"judging, {border} shifts") as report:
                judged[border] = _judged(
                    folder / f"judged-{border}", loaded, repaired, held, border, device, report
                )
        if export_to is not None and not (folder / export_to).exists():
            with told("exporting") as report:
                export(repaired, folder / export_to, images=held, progress=report)
        with told("timing") as report:
            latency = _timed(folder / LATENCY, loaded, repaired, latency_seconds, device, report)
    finally:
        ours.release()
    told_too = [notice] if notice else []
    if frame is not None:
        told_too.append(f"it sees its pictures at a side of {frame}: name it {MODEL}@frame:{frame}")
    if inner.provenance is None:
        told_too.append(
            f"{loaded.spec} was passed as a module: {MODEL} was not written, {TRAINING} "
            f"(untrained: {FITTED}) holds the weights; name it as package.module:function to get a "
            "model spec"
        )
    result = _result(
        loaded, repaired.spec, found, limits, judged, latency, settings, training, device, told_too
    )
    result.save(folder / RECORD)
    return result


@dataclass(frozen=True)
class _Found:
    plan: Plan
    tried: pd.DataFrame
    combined: pd.DataFrame
    notices: list[str]


def _parted(
    source: ImageSource, holdout: int | str | Path | ImageSource, seed: int
) -> tuple[ImageSource, ImageSource]:
    """What is planned with and trained on, and what is kept apart."""
    entries = list(source.entries())
    if not isinstance(holdout, int):
        held = holdout if isinstance(holdout, ImageSource) else open_images(holdout)
        both = {entry.id for entry in entries} & {entry.id for entry in held.entries()}
        if both and held.spec == source.spec:
            raise ImageError(
                f"{held.spec} is what is trained on, too: give pictures of their own as holdout"
            )
        return source, held
    if holdout < 1:
        raise ImageError("a repair is proved on pictures kept apart: holdout must be at least 1")
    training, kept = split(entries, holdout, seed)
    return _source(source, training), _source(source, kept)


def _source(of: ImageSource, entries: list[Entry]) -> ImageSource:
    ids = [entry.id for entry in entries]
    return ImageSource(lambda: iter(entries), of.classes, ids, of.spec)


def _chosen(entries: list[Entry], planning: int) -> tuple[list[Entry], list[Entry]]:
    """Pictures that methods are tried on, and others that what is folded is fitted on."""
    tried_on = spread(entries, planning)
    others = [entry for entry in entries if entry not in tried_on]
    return tried_on, spread(others or tried_on, _FITTED_ON)


def _searched(
    folder: Path,
    config: dict[str, Any],
    loaded: LoadedModel,
    given: Plan | None,
    limits: Budget,
    pictures: tuple[Sequence[Entry], Sequence[Entry]],
    methods: Sequence[str],
    *,
    frame: int | None,
    seconds: int | float,
    device: str | None,
    report: Any,
) -> _Found:
    """The plan and what led to it; of an earlier start, where that asked for the same."""
    file = folder / SEARCH
    if file.exists():
        try:
            record = unsealed(file.read_bytes())
            refuse_another(folder, record["config"], config)
            tried, combined = (pd.DataFrame(record[name]) for name in ("tried", "combined"))
            plan = Plan(loaded.spec, record["choices"])
            return _Found(plan, tried, combined, record["notices"])
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise AliascopeError(
                f"{file} is damaged: delete it and run the same command again"
            ) from error
    if given is not None:
        found = _Found(replace(given, model=loaded.spec), pd.DataFrame(), pd.DataFrame(), [])
    else:
        trials, told = Trials(loaded, *pictures, seconds=seconds, device=device), []
        if frame is not None:
            share = trials.takes(within(loaded, f"frame:{frame}"))
            limits = replace(limits, latency=max(limits.latency / share, 1))
            told.append(
                f"at a side of {frame} the network itself takes {share:.2f} times as long, so that "
                f"filters were given {limits.latency:.2f} times its time there"
            )
        table = trials.tried(methods, report)
        plan, combinations = trials.chosen(table, limits)
        found = _Found(plan, table, combinations, [*told, *trials.notices])
    if all(method == NONE for method in found.plan.choices.values()):
        raise AliascopeError("the plan leaves every place as it is: name a method for one of them")
    found.plan.save(folder / PLAN)
    record = {"config": config, "choices": dict(found.plan.choices)}
    record |= {"notices": found.notices, "tried": found.tried.to_dict("records")}
    record |= {"combined": found.combined.to_dict("records")}
    write_file(file, sealed(record))
    return found


def _fitted(
    folder: Path,
    loaded: LoadedModel,
    plan: Plan,
    pictures: Sequence[Entry],
    spared: Sequence[Entry],
    device: torch.device,
) -> LoadedModel:
    """The converted network, what is folded fitted, batch-norm recalibrated where that helps."""
    made = built(loaded, plan)
    file = folder / FITTED
    if not file.exists():
        pixels = pixels_of(loaded, pictures)
        fitted = built(loaded, plan, pixels, steps=_FIT_STEPS, device=str(device))
        if spared:
            module = recalibrated_if_nearer(fitted, loaded, spared, loaded.preprocessing, device)
            fitted = replace(fitted, module=module)
        state = {name: x.clone() for name, x in fitted.module.state_dict().items()}
        write_file(file, sealed_tensors(state, {}))
    made.module.load_state_dict(read_tensors(file))
    return made


def _judged(
    folder: Path,
    before: LoadedModel,
    after: LoadedModel,
    held: ImageSource,
    border: Border,
    device: str | None,
    report: Any,
) -> Comparison:
    return compare(
        before, after, images=held, shifts=border, device=device, out=folder, progress=report
    )


def _timed(
    file: Path,
    before: LoadedModel,
    after: LoadedModel,
    seconds: int | float,
    device: str | None,
    report: Any,
) -> Latency:
    if file.exists():
        return Latency.open(file)
    pair = [replace(before, spec="as it was"), replace(after, spec="repaired")]
    found = bench(pair, seconds=seconds, device=device, progress=report)
    found.save(file)
    return found


def _result(
    loaded: LoadedModel,
    spec: str,
    found: _Found,
    limits: Budget,
    judged: dict[Border, Comparison],
    latency: Latency,
    settings: FinetuneSettings,
    training: ImageSource,
    device: str | None,
    told: Sequence[str],
) -> Repaired:
    frames = [x.images.assign(shifts=border) for border, x in judged.items()]
    first = next(iter(judged.values()))
    ends = ("", "_low", "_high")
    table: Any = pd.concat(frames, ignore_index=True)
    table = table.rename(columns={"low": "difference_low", "high": "difference_high"})
    wanted = [f"{name}{end}" for name in ("difference", "change") for end in ends]
    ratios: Any = latency.table[latency.table["model"] == "repaired"]
    notices = dict.fromkeys([*told, *found.notices, *first.notices, *latency.notices])
    return Repaired(
        model=loaded.spec,
        spec=spec,
        budget=str(limits),
        choices=dict(found.plan.choices),
        tried=found.tried,
        combined=found.combined,
        judged=table.reindex(columns=["shifts", "metric", "mean_a", "mean_b", *wanted]),
        kept=dict(zip(("value", "low", "high"), first.prediction_agreement, strict=True)),
        latency=ratios[["batch", "ratio", "ratio_low", "ratio_high"]].reset_index(drop=True),
        training={"steps": settings.steps, "batch": settings.batch_size, "images": training.count},
        n=first.n,
        groups=first.groups,
        info=environment(chosen_device(device)),
        notices=tuple(notices),
    )


def _change(found: Repaired, metric: str, shifts: str | None = None) -> Change | None:
    """How a figure changed: shares in points, others relative."""
    judged: Any = found.judged
    under_them = judged["shifts"] == (shifts or judged["shifts"].iloc[0])
    rows = judged[under_them & (judged["metric"] == metric)]
    if rows.empty:
        return None
    row, points = rows.iloc[0], metric in ("accuracy", "agreement", "confidence")
    name = "difference" if points else "change"
    value, low, high = (float(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return Change(value, low, high, "points" if points else "%")


def _sentences(found: Repaired) -> Iterator[str]:
    for shifts in dict.fromkeys(found.judged["shifts"]):
        change = _change(found, "logit_instability", shifts)
        if change is not None:
            yield (
                f"Repaired, {found.model} moves {change.amount()} {under(shifts)} "
                f"({change.certainty()})."
            )
    top1 = _change(found, "accuracy")
    kept = digits(100 * found.kept["value"])
    if top1 is None:
        yield f"It names {kept} % of the held-out pictures as before; top-1 is not known."
    else:
        yield (
            f"Top-1 is {top1.amount('lower', 'higher', 'the same')} ({top1.certainty()}); it "
            f"names {kept} % of the held-out pictures as before."
        )
    told = [
        f"{row['ratio']:.2f} times at batch {row['batch']:.0f}"
        for row in found.latency.to_dict("records")
    ]
    yield f"A forward takes {' and '.join(told)} as long."
    met = {None: "not known", True: "kept", False: "missed"}
    yield (
        f"Of the budget {found.budget}: "
        + ", ".join(f"{name} {met[state]}" for name, state in found.met.items())
        + "."
    )
    yield sample(found.n, found.groups)


def _blocks(found: Repaired) -> Iterator[str]:
    yield f"{found.model} repaired: {found.spec}"
    if len(found.tried):
        rows = [["place", "stride", "method", "logits move", "KL", "latency", ""]]
        for row in found.tried.to_dict("records"):
            chosen_ = "chosen" if found.choices.get(row["place"]) == row["method"] else ""
            cells = [number(row["change"], "+z.1%"), number(row["kl"], ".3f")]
            cells += [number(row["latency"], ".3f"), row["reason"] or chosen_]
            rows.append([row["place"], row["stride"], row["method"], *cells])
        yield columns(rows, names=1)
    if len(found.combined):
        rows = [["combination", "predicted", "logits move", "KL", "latency"]]
        for row in found.combined.to_dict("records"):
            figures = ("predicted_change", "change")
            cells = [number(row[name], "+z.1%") for name in figures]
            cells += [number(row["kl"], ".3f"), number(row["latency"], ".3f")]
            rows.append([row["choices"].partition("@")[2], *cells])
        yield columns(rows, names=1)
    rows = [["figure", "shifts", "as it was", "repaired", "change"]]
    for row in found.judged.to_dict("records"):
        if (known := _JUDGED.get(row["metric"])) is not None:
            change = _change(found, row["metric"], row["shifts"])
            means = (number(row[name], known[1]) for name in ("mean_a", "mean_b"))
            text = change and f"{change.amount('less', 'more')} ({change.certainty()})"
            rows.append([known[0], row["shifts"], *means, str(text)])
    yield columns(rows, names=2)
    yield wrapped([found.verdict])
    yield wrapped([_CAPTION] if len(found.tried) else [])
    yield wrapped([f"notice: {text}" for text in found.notices])


_CAPTION = (
    "Tried: each method at each place alone, untrained, what is folded fitted; logits move: change "
    "of logit instability; KL: nats from the original; latency: ratio to it, single pictures."
)
