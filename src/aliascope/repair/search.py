"""Which method at which place buys most, and what it costs: tried, then combined within a budget.

Each method is tried at each place alone, without training but with what is folded fitted. Effects
of several places are taken as independent (factors of instability multiply, KL and latency add) to
find the few best combinations; those are then made and measured as they are.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from aliascope.errors import AliascopeError, ImageError, ModelError
from aliascope.finetune.data import readable_batches
from aliascope.finetune.losses import distillation
from aliascope.finetune.recalibration import spread
from aliascope.images import Entry, batches
from aliascope.latency import bench
from aliascope.measure.batch import Instrument, prepare, view_logits
from aliascope.models import LoadedModel
from aliascope.records import Report
from aliascope.repair.budget import Budget
from aliascope.repair.fitting import fit_folded
from aliascope.repair.plan import NONE, Plan
from aliascope.runtime import chosen_device, computing
from aliascope.shifts import Border
from aliascope.stability import stability
from aliascope.taps import strided_layers

TRIED = ("folded:1", "blurpool:3", "ideal")
"""Methods for each place."""
WORTH = 0.5
"""What a nat of KL to the original, before training, weighs against the logarithm of instability.

Of three plans for EfficientNet-Lite0 the one nearest to the original before training was nearest
after it, and the best of them (docs/repair.md, Trained). A tenth, as it was before that was known,
would have chosen the worst."""
_VERIFIED = 3
"""Combinations that are made and measured."""
_UNSURE = 0.1
"""Width of the interval of a latency ratio beyond which a plan may rest on chance."""
_FIT_STEPS, _FITTED_ON = 60, 32
"""Steps of each block with a folded filter, and pictures, while methods are compared; those that
are chosen are fitted for longer, on more."""


def places_of(model: LoadedModel) -> dict[str, str]:
    """The places that can be converted, with the cumulative stride of each, from fine to coarse.

    Operations of one cumulative stride go together: of the branches of a residual block, one that
    is filtered alone moves apart from the other.
    """
    strides: dict[tuple[float, float], list[str]] = {}
    for layer in strided_layers(model.module, model.example()):
        name = layer.name.partition("#")[0]
        names = strides.setdefault(layer.cumulative_stride, [])
        if not layer.function and name not in names:
            names.append(name)
    ordered = sorted(strides.items(), key=lambda item: item[0][0] * item[0][1])
    return {
        ",".join(names): "×".join(f"{side:g}" for side in stride)
        for stride, names in ordered
        if names
    }


class Trials:
    """A network before any repair, and what conversions of it are tried on.

    Args:
        model: as it was.
        entries: some training pictures.
        fitting: others, on the first of which what is folded is fitted.
        border: of the one-pixel shifts.
        seconds: for timing the conversions of one place against the original.
        device: as for `measure`.

    Raises:
        ModelError: the model is no classifier.
        ImageError: no picture can be read.
    """

    def __init__(
        self,
        model: LoadedModel,
        entries: Sequence[Entry],
        fitting: Sequence[Entry],
        *,
        border: Border | None = None,
        seconds: int | float = 5.0,
        device: str | None = None,
    ) -> None:
        self.model = model
        self._border: Border | None = border
        self._seconds, self._device = seconds, device
        self.notices: list[str] = []
        """What to know of the timings."""
        instrument = prepare(model, border=border, device=device)
        if instrument.classes is None:
            raise ModelError(f"{model.spec} is no classifier: only those can be repaired yet")
        seen = batches(entries, instrument.seen, lambda: 4)
        pixels: Any = [[x.pixels for x in items] for items, _ in seen if items]
        self._views = [torch.stack(each) for each in pixels]
        if not self._views:
            raise ImageError("none of the pictures to plan with can be read: give others")
        self._pixels = pixels_of(model, spread(fitting, _FITTED_ON))
        self._before = self._logits(instrument)
        self._moved = stability(self._before)["logit_instability"].mean()

    def tried(self, methods: Sequence[str] = TRIED, progress: Report | None = None) -> pd.DataFrame:
        """Each method at each place alone.

        Args:
            methods: with sizes, as in a spec.
            progress: called with the conversions done and their number.

        Returns:
            A row a place and method: place, stride, method, change (of logit instability, −0.1 is
            10 % less), kl (nats, original ‖ converted), latency (ratio to the original, single
            pictures), with latency_low and _high, and reason where it cannot be done.

        Raises:
            ModelError: the model does not downsample.
        """
        places = places_of(self.model)
        if not places:
            raise ModelError(f"{self.model.spec} has no operation that could be repaired")
        rows: list[dict[str, Any]] = []
        for place, stride in places.items():
            own: list[dict[str, Any]] = []
            made: dict[str, LoadedModel] = {}
            for method in methods:
                if progress:
                    progress(len(rows) + len(own), len(places) * len(methods))
                row = {"place": place, "stride": stride, "method": method, "reason": ""}
                try:
                    made[method] = self._built(Plan(self.model.spec, {place: method}))
                    row |= self._figures(made[method])
                except AliascopeError as error:
                    row["reason"] = str(error)
                own.append(row)
            timed = self._latency(made)
            rows += [row | timed.get(row["method"], {}) for row in own]
        names = ["place", "stride", "method", "change", "kl", "latency", "latency_low"]
        return pd.DataFrame(rows).reindex(columns=[*names, "latency_high", "reason"])

    def chosen(self, table: pd.DataFrame, budget: Budget) -> tuple[Plan, pd.DataFrame]:
        """The plan, and the best combinations as they were measured.

        Args:
            table: of `tried`.
            budget: of which the latency counts.

        Returns:
            The plan and a row a combination: choices, predicted_change, change, kl, latency, score.

        Raises:
            AliascopeError: nothing that was tried keeps the budget and steadies the network.
        """
        spec = self.model.spec
        if all(pd.isna(seconds) for seconds in table["latency"]):
            raise AliascopeError(f"no method can be tried on {spec}: {table['reason'].iloc[0]}")
        promised: Any = combined(table, budget)
        places = [str(name) for name in table["place"].unique() if name in promised]
        best = promised[promised["change"] < 0].head(_VERIFIED).to_dict("records")
        if not best:
            raise AliascopeError(
                f"nothing that was tried keeps {budget} and steadies {spec}: the quickest took "
                f"{table['latency'].min():.2f} times as long; allow more latency"
            )
        plans = [Plan(spec, {place: row[place] for place in places}) for row in best]
        made = {plan.spec: self._built(plan) for plan in plans}
        timed = self._latency(made)
        rows = []
        for row, (choices, version) in zip(best, made.items(), strict=True):
            figures = self._figures(version) | timed[choices]
            figures["score"] = score(figures["change"], figures["kl"])
            rows.append({"choices": choices, "predicted_change": row["change"], **figures})
        kept = [i for i, row in enumerate(rows) if row["latency_low"] <= budget.latency]
        if not kept:
            raise AliascopeError(
                f"what was predicted to keep {budget} takes {rows[0]['latency']:.2f} times as long "
                "when it is put together: allow more latency"
            )
        return plans[min(kept, key=lambda i: rows[i]["score"])], pd.DataFrame(rows)

    def takes(self, version: LoadedModel) -> float:
        """How much longer it takes than the original, for single pictures."""
        return self._latency({version.spec: version})[version.spec]["latency"]

    def _built(self, plan: Plan) -> LoadedModel:
        options = {"steps": _FIT_STEPS, "behind": False, "device": self._device}
        return built(self.model, plan, self._pixels, **options)

    def _figures(self, version: LoadedModel) -> dict[str, float]:
        """Change of the mean logit instability, and KL."""
        logits = self._logits(prepare(version, border=self._border, device=self._device))
        moved = stability(logits)["logit_instability"].mean()
        kl = distillation(logits[0], self._before[0])
        return {"change": float(moved / self._moved - 1), "kl": float(kl)}

    def _logits(self, instrument: Instrument) -> Tensor:
        return torch.cat([view_logits(instrument, x) for x in self._views], dim=1)

    def _latency(self, made: dict[str, LoadedModel]) -> dict[str, dict[str, float]]:
        """Ratios to the original, by name."""
        if not made:
            return {}
        original = replace(self.model, spec="original")
        timed = bench(
            [original, *(replace(version, spec=name) for name, version in made.items())],
            batch_sizes=[1],
            seconds=self._seconds,
            device=self._device,
        )
        rows: Any = timed.table.set_index("model")
        if any(x > _UNSURE for x in rows["ratio_high"] - rows["ratio_low"]):
            told = f"latencies were known to no better than ±{_UNSURE / 2:.2f} while methods were "
            told += "tried: close what else runs, or give more seconds, and repair anew"
            self.notices = [told]
        ends = ("", "_low", "_high")
        return {
            name: {f"latency{end}": float(rows.loc[name, f"ratio{end}"]) for end in ends}
            for name in made
            if name in rows.index
        }


def score(change: float, kl: float, worth: int | float = WORTH) -> float:
    """What is to be made small: ln(1 + change of instability) + worth · KL."""
    return math.log(max(1 + change, 1e-6)) + worth * kl


def combined(table: pd.DataFrame, budget: Budget, worth: int | float = WORTH) -> pd.DataFrame:
    """Every combination of what was tried that keeps the budget, by what it promises.

    Args:
        table: of `tried`.
        budget: of which the latency counts.
        worth: of a nat of KL; see `WORTH`.

    Returns:
        A row a combination, best first: a column a place with its method or none, change, kl,
        latency (as predicted from single places) and score, ln(1 + change) + worth · kl.

    >>> table = pd.DataFrame({"place": ["a", "a"], "method": ["ideal", "blurpool:3"]})
    >>> table = table.assign(change=[-0.2, -0.1], kl=[0.1, 0.05], latency=[1.2, 1.01])
    >>> combined(table, Budget(latency=1.1))["a"].tolist()
    ['blurpool:3', 'none']
    """
    known: Any = table.dropna(subset=["change", "kl", "latency"])
    options: list[list[tuple[str, float, float, float]]] = []
    places = list(dict.fromkeys(known["place"]))
    for place in places:
        own = known[known["place"] == place]
        found = own[["method", "change", "kl", "latency"]].itertuples(index=False)
        options.append([(NONE, 0.0, 0.0, 1.0), *map(tuple, found)])
    rows = []
    for choice in itertools.product(*options):
        methods, changes, kls, latencies = zip(*choice, strict=True) if choice else ((),) * 4
        # Less than nothing is what a clock's noise makes of it.
        latency = 1 + sum(max(ratio - 1, 0) for ratio in latencies)
        if latency <= budget.latency:
            change = math.prod(1 + x for x in changes) - 1
            kl = sum(kls)
            rows.append([*methods, change, kl, latency, score(change, kl, worth)])
    names = [*places, "change", "kl", "latency", "score"]
    return pd.DataFrame(rows, columns=names).sort_values("score", ignore_index=True, kind="stable")


def built(
    model: LoadedModel,
    plan: Plan,
    pixels: Tensor | None = None,
    *,
    steps: int = 100,
    behind: bool = True,
    device: str | None = "cpu",
) -> LoadedModel:
    """A network converted as planned, with its own weights.

    Args:
        model: as it was, loaded by the spec that the plan names or given as a module.
        plan: to be carried out.
        pixels: normalised pictures that what is folded is fitted on; None leaves it as folded.
        steps: of fitting each block.
        behind: whether blocks behind it are fitted, too.
        device: that fits them; None is CUDA where there is one.

    Raises:
        ModelError: it cannot be converted so, or nothing of what is folded can be fitted.
    """
    made = model.converted(plan.recipes, spec=plan.spec)
    folded = any(method.startswith("folded") for method in plan.choices.values())
    if pixels is None or not folded:
        return made
    place = chosen_device(device)
    dense = model.converted(plan.dense().recipes).module.to(place)
    with computing("fp32", place):
        fitted, errors = fit_folded(
            made.module.to(place), dense, pixels.to(place), steps=steps, behind=behind
        )
    if not errors:
        raise ModelError(
            f"nothing in {plan.spec} can be fitted: behind what is folded no module alone hands on "
            "a map; name another method"
        )
    return replace(made, module=fitted.cpu())


def pixels_of(model: LoadedModel, entries: Sequence[Entry]) -> Float[Tensor, "n chan h w"]:
    """Pictures as the network takes them, those that can be read."""
    loaded = readable_batches(entries, model.preprocessing, 8)
    return torch.cat([model.preprocessing.normalise(pixels) for _, pixels in loaded])
