"""Phase 5: what the anti-aliased version buys, and what it costs."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from aliascope.figures import fig13_avr_intervention, fig14_tradeoff, fig15_radial_overlay
from aliascope.latency import bench
from aliascope.statistics import mean_intervals, paired
from aliascope.study import phase3_natural_images
from aliascope.study.presets import ANTIALIASED, BASELINE, ROLES
from aliascope.study.study import Study

BATCHES = (1, 32)
"""Images a forward at which latency is measured; the first is the published one."""


def compute(study: Study) -> None:
    """phase5_tradeoff, what changed relatively, and phase 3 where its figures are needed."""
    study.require_classifiers()
    phase3_natural_images.compute(study)
    latency = _latency(study)
    images = study.joined_images()
    metrics = {role: _metrics(images, role) for role in ROLES}
    study.write_table("phase5_tradeoff", _tradeoff(study, metrics, latency))
    study.write_rows("effects", _effects(metrics, latency))


def draw(study: Study) -> Iterator[tuple[str, Figure]]:
    """The three figures of the phase, by name."""
    table, effects = study.table("phase5_tradeoff"), study.rows("effects")
    changes = study.table("phase3_layerwise_avr_stats").query("variant == 'avr'")
    profiles = study.rows("phase3_radial_profiles")
    sample, info = study.sample(table), study.record("latency")["info"]
    yield (
        "fig13_avr_intervention",
        fig13_avr_intervention.draw(
            changes,
            names=study.names,
            caption=f"{study.sample(changes)}.",
        ),
    )
    yield (
        "fig14_tradeoff",
        fig14_tradeoff.draw(
            table,
            effects,
            names=study.names,
            caption=f"{sample}; latency: {info['precision']}, {info['device']}, {info['threads']} "
            "threads.",
        ),
    )
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
    plan = study.plan

    def measured() -> dict[str, Any]:
        with study.progress("timing both models") as progress:
            latency = bench(
                [study.models[role] for role in ROLES],
                batch_sizes=BATCHES,
                seconds=plan.latency_seconds,
                precision=plan.precision,
                device=plan.device,
                seed=plan.seed,
                progress=progress,
            )
        rows = latency.to_dict()
        del rows["times"]
        return rows

    table = pd.DataFrame(study.keep_record("latency", measured)["table"])
    table["role"] = np.where(table["model"] == plan.baseline, BASELINE, ANTIALIASED)
    return table.set_index(["role", "batch"])


def _metrics(images: pd.DataFrame, role: str) -> pd.DataFrame:
    """A row an image, in the order of both runs: what the two models are compared by."""
    own = images.query(f"role == {role!r}").set_index(["image_id", "group"])
    names = ["sis", "agreement", "logit_instability", "confidence", "accuracy"]
    return own.reindex(columns=names).astype("float64")


def _tradeoff(
    study: Study, metrics: dict[str, pd.DataFrame], latency: pd.DataFrame
) -> pd.DataFrame:
    kept = {BASELINE: 1.0, ANTIALIASED: study.comparison.prediction_agreement.value}
    rows = []
    for role in ROLES:
        frame = metrics[role]
        groups = frame.index.get_level_values("group")
        means = mean_intervals(frame, groups)
        one, many = (_timed(latency, role, batch) for batch in BATCHES)
        intervals = {
            f"{name}{suffix}": means.loc[name, key]
            for name in ("sis", "agreement", "logit_instability", "accuracy")
            for suffix, key in (("", "value"), ("_low", "low"), ("_high", "high"))
            if name + suffix not in ("sis", "accuracy")
        }
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
                **intervals,
                "confidence": means.loc["confidence", "value"],
                "latency_low_ms": one["low"],
                "latency_high_ms": one["high"],
                "latency_batch": BATCHES[1],
                "latency_batch_ms": many["ms_image"],
                "parameters": sum(p.numel() for p in study.models[role].module.parameters()),
                "predictions_kept": kept[role],
            }
        )
    return pd.DataFrame(rows)


def _effects(metrics: dict[str, pd.DataFrame], latency: pd.DataFrame) -> pd.DataFrame:
    """Relative changes, antialiased against baseline, with intervals."""
    worse = {
        role: pd.DataFrame(
            {
                "mean SIS": frame["sis"],
                "logit instability": frame["logit_instability"],
                "disagreement": 1 - frame["agreement"],
                "error rate": 1 - frame["accuracy"],
            }
        )
        for role, frame in metrics.items()
    }
    groups = worse[BASELINE].index.get_level_values("group")
    both = paired(worse[BASELINE], worse[ANTIALIASED], groups)
    changes = both.loc[both["n"] > 0, ["change", "change_low", "change_high", "p", "d_z"]]
    for batch in BATCHES:
        row = _timed(latency, ANTIALIASED, batch)
        ratio = [row[name] - 1 for name in ("ratio", "ratio_low", "ratio_high")]
        changes.loc[f"latency, batch {batch}"] = [*ratio, np.nan, np.nan]
    return changes.reset_index(names="metric")


def _timed(latency: pd.DataFrame, role: str, batch: int) -> pd.Series:
    """NaN where that could not be timed."""
    return latency.reindex([(role, batch)]).iloc[0]
