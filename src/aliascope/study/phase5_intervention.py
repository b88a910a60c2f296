"""Phase 5: what the anti-aliased version buys, and what it costs."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from aliascope.figures import fig13_avr_intervention, fig14_tradeoff, fig15_radial_overlay
from aliascope.latency import bench
from aliascope.measure.shiftmap import telling, telling_curves
from aliascope.measure.store import Run
from aliascope.shifts import Border
from aliascope.statistics import mean_intervals, paired
from aliascope.study import phase3_natural_images
from aliascope.study.settings import ANTIALIASED, BASELINE, ROLES
from aliascope.study.study import Study

BATCHES = (1, 32)
"""Images a forward at which latency is measured; the first is the published one."""
_Metrics = dict[Border, dict[str, pd.DataFrame]]
"""Shifts, the leading ones first → role → a row an image, a column a metric."""


def compute(study: Study) -> None:
    """phase5_tradeoff, what changed relatively, and phase 3 where its figures are needed."""
    study.require_classifiers()
    phase3_natural_images.compute(study)
    latency = _latency(study)
    runs: dict[Border, dict[str, Run]] = {study.shifts[0]: study.runs, **study.moved}
    metrics: _Metrics = {shifts: _metrics(study.joined_images(own)) for shifts, own in runs.items()}
    table = _tradeoff(study, metrics, latency)
    caption = (
        f"{study.sample(table)}: predictions and their stability under {study.shifts[0]} shifts, "
        "of a whole pixel; latency; with 95 % intervals."
    )
    if study.moved:
        caption += f" Beside it under {' and '.join(study.moved)} shifts."
    study.write_table("phase5_tradeoff", table, caption, study.run_names(moved=True))
    study.write_rows("effects", _effects(metrics, latency))
    study.keep_rows("phase5_shift_curves", lambda: _curves(study))


def draw(study: Study) -> Iterator[tuple[str, Figure]]:
    """The three figures of the phase, by name."""
    changes = study.table("phase3_layerwise_avr_stats")
    yield (
        "fig13_avr_intervention",
        fig13_avr_intervention.draw(
            phase3_natural_images.shown(study, changes),
            names=study.names,
            caption=f"{study.sample(changes)}. {study.reading()}",
        ),
    )
    table, info = study.table("phase5_tradeoff"), study.record("latency")["info"]
    yield (
        "fig14_tradeoff",
        fig14_tradeoff.draw(
            table,
            study.rows("effects"),
            names=study.names,
            caption=f"{study.sample(table)}, moved by one pixel; above {table['shifts'].iloc[0]} "
            f"shifts. Latency: {info['precision']}, {info['device']}, {info['threads']} threads.",
        ),
    )
    profiles = study.rows("phase3_radial_profiles")
    yield (
        "fig15_radial_overlay",
        fig15_radial_overlay.draw(
            profiles,
            names=study.names,
            caption=phase3_natural_images.profile_caption(study, profiles),
        ),
    )


def _latency(study: Study) -> pd.DataFrame:
    """Rows of `Latency.table`, with the role of each model."""
    settings = study.settings

    def measured() -> dict[str, Any]:
        with study.progress("timing both models") as progress:
            latency = bench(
                [study.models[role] for role in ROLES],
                batch_sizes=BATCHES,
                seconds=settings.latency_seconds,
                precision=settings.precision,
                device=settings.device,
                seed=settings.seed,
                progress=progress,
            )
        rows = latency.to_dict()
        del rows["times"]
        return rows

    table = pd.DataFrame(study.keep_record("latency", measured)["table"])
    table["role"] = np.where(table["model"] == settings.baseline, BASELINE, ANTIALIASED)
    return table.set_index(["role", "batch"])


def _curves(study: Study) -> pd.DataFrame:
    """Rows of `shift_curves`, of the photographs that tell most; `why` says what of."""
    chosen = telling(*(study.runs[role].images for role in ROLES))
    instruments = {role: study.instruments[role] for role in ROLES}
    return telling_curves(instruments, study.source(), chosen, border=study.shifts[0])


def _metrics(images: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Role → a row an image, in the order of both runs: what the two models are compared by."""
    names = ["sis", "sis_half", "agreement", "logit_instability", "confidence", "accuracy"]
    own = images.set_index(["image_id", "group"])
    rows = {role: own.query(f"role == {role!r}").reindex(columns=names) for role in ROLES}
    return {role: frame.astype("float64") for role, frame in rows.items()}


def _tradeoff(study: Study, metrics: _Metrics, latency: pd.DataFrame) -> pd.DataFrame:
    kept = {BASELINE: 1.0, ANTIALIASED: study.comparisons[ANTIALIASED].prediction_agreement.value}
    lead, *others = metrics
    rows = []
    for role in ROLES:
        frame = metrics[lead][role]
        groups = frame.index.get_level_values("group")
        means = mean_intervals(frame, groups)
        one, many = (_timed(latency, role, batch) for batch in BATCHES)
        rows.append(
            {
                "model": study.names[role],
                "mean_sis": means.loc["sis", "value"],
                "std_sis": frame["sis"].std(),
                "latency_ms": one["ms_image"],
                "accuracy": means.loc["accuracy", "value"],
                "role": role,
                "n": len(frame),
                "photographs": groups.nunique(),
                "shifts": lead,
                **_ends(means, ["agreement", "logit_instability", "sis", "sis_half", "accuracy"]),
                "confidence": means.loc["confidence", "value"],
                "latency_low_ms": one["low"],
                "latency_high_ms": one["high"],
                "latency_batch": BATCHES[1],
                "latency_batch_ms": many["ms_image"],
                "parameters": sum(p.numel() for p in study.models[role].module.parameters()),
                "predictions_kept": kept[role],
            }
        )
        for shifts in others:
            frame = metrics[shifts][role]
            means = mean_intervals(frame, frame.index.get_level_values("group"))
            rows[-1] |= _ends(means, ["agreement", "logit_instability"], f"_{shifts}")
    return pd.DataFrame(rows)


def _ends(means: pd.DataFrame, names: list[str], suffix: str = "") -> dict[str, float]:
    """Mean and limits of metrics; those with a column of their own bear limits alone."""
    top = {"agreement": 1.0, "accuracy": 1.0}
    return {
        f"{name}{suffix}{end}": np.clip(means.loc[name, key], 0, top.get(name))
        for name in names
        for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))
        if name + end not in ("sis", "accuracy")
    }


def _effects(metrics: _Metrics, latency: pd.DataFrame) -> pd.DataFrame:
    """Relative changes, antialiased against baseline, with intervals: under each way of moving."""
    lead, *_ = metrics
    frames = []
    for shifts, own in metrics.items():
        a, b = (_worse(own[role], shifts) for role in ROLES)
        if shifts != lead:
            a, b = (frame.iloc[:, :2] for frame in (a, b))
        frames.append(paired(a, b, a.index.get_level_values("group")))
    both = pd.concat(frames)
    changes = both.loc[both["n"] > 0, ["change", "change_low", "change_high", "p", "d_z"]]
    for batch in BATCHES:
        row = _timed(latency, ANTIALIASED, batch)
        ratio = [row[name] - 1 for name in ("ratio", "ratio_low", "ratio_high")]
        changes.loc[f"latency, batch {batch}"] = [*ratio, np.nan, np.nan]
    return changes.reset_index(names="metric")


def _worse(frame: pd.DataFrame, shifts: str) -> pd.DataFrame:
    """The metrics of a model, all better when small; those of stability first."""
    return pd.DataFrame(
        {
            f"logit instability, {shifts}": frame["logit_instability"],
            f"disagreement, {shifts}": 1 - frame["agreement"],
            f"SIS at confidence ½, {shifts}": frame["sis_half"],
            f"mean SIS, {shifts}": frame["sis"],
            "error rate": 1 - frame["accuracy"],
        }
    )


def _timed(latency: pd.DataFrame, role: str, batch: int) -> pd.Series:
    """NaN where that could not be timed."""
    return latency.reindex([(role, batch)]).iloc[0]
