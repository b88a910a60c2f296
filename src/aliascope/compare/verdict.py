"""What a comparison found, in a sentence or two."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from aliascope.results.verdicts import Change, listed, moves, sample, share, under
from aliascope.spectra import SAMPLED_VARIANTS

if TYPE_CHECKING:
    from aliascope.compare import Comparison


def verdict_of(found: "Comparison") -> str:
    """Of answers how far they move, accuracy and predictions kept; of any network alias shares."""
    a, b = found.model_a, found.model_b
    if a == b:
        a, b = "A", "B"
    counted = sample(found.n, found.groups)
    same = found.prediction_agreement.value
    if unchanged(found.images, found.layers) and (same == 1 or np.isnan(same)):
        return f"Nothing changed: {b} gives the figures of {a} for every image. {counted}"
    clauses = list(_clauses(found, a))
    sentences = [f"{b} {listed(clauses)}."] if clauses else []
    if alias := _alias(found, in_full=not clauses):
        sentences.append(f"{alias}.")
    return " ".join([*(sentences or [f"Nothing is known of both {a} and {b}."]), counted])


def unchanged(images: pd.DataFrame, layers: pd.DataFrame) -> bool:
    """Whether two networks sample the same maps and answer alike."""
    sampled = layers[layers["metric"].isin(SAMPLED_VARIANTS) & (layers["n"] > 0)]
    differences = [images["difference"], sampled["difference"]]
    return not sampled.empty and not np.nan_to_num(np.concatenate(differences).astype(float)).any()


def _clauses(found: "Comparison", a: str) -> Iterator[str]:
    rows, level = found.images.set_index("metric").to_dict("index"), found.level
    if row := rows.get("logit_instability"):
        yield moves(a, found.shifts, _relative(row), level)
    if row := rows.get("output_instability"):
        yield moves(a, found.shifts, _relative(row), level, "output instability")
    if "detections" in rows and (row := rows.get("agreement")):
        change = Change(row["difference"], row["low"], row["high"], "points")
        amount = change.amount("fewer", "more", "as many")
        yield f"keeps {amount} of its detections {under(found.shifts)} ({change.certainty(level)})"
    if row := rows.get("accuracy"):
        change = Change(row["difference"], row["low"], row["high"], "points")
        amount = change.amount("fewer", "more", "as many")
        yield f"names {amount} correctly ({change.certainty(level)})"
    same, low, high = found.prediction_agreement
    noun = "the photographs" if found.n == found.groups else "the images"
    if same == 1:
        yield f"gives the same prediction for all of {noun}"
    elif not np.isnan(same):
        yield f"gives another prediction for {share(1 - same, 1 - high, 1 - low, noun, level)}"


def _alias(found: "Comparison", *, in_full: bool) -> str:
    """In how many layers less is folded, by the p-values that are corrected over the layers."""
    rows = found.layers.query("metric == 'alias_share' and n > 0")
    if rows.empty:
        return ""
    differences, p = (rows[name].to_numpy(float) for name in ("difference", "p_holm"))
    shown = p < 1 - found.level  # NaN, of what was not tested, is not
    fewer, more = (np.count_nonzero(shown & (sign * differences > 0)) for sign in (-1, 1))
    places = f"{len(rows)} {'layer' if len(rows) == 1 else 'layers'}"
    if not fewer and not more:
        known = np.isfinite(p).any()
        return f"Alias share: {'no difference shown' if known else 'no test'} in {places}"
    told = [f"{verb} in {n}" for verb, n in (("falls", fewer), ("rises", more)) if n]
    text = f"Alias share {listed(told)} of {places} (corrected p below {1 - found.level:.2g})"
    if in_full:
        row = rows.iloc[np.where(shown, np.abs(differences), 0).argmax()].to_dict()
        change = _relative(row)
        text += f", most in {row['layer_a']}: {change.amount()} ({change.certainty(found.level)})"
    return text


def _relative(row: dict[Any, Any]) -> Change:
    """The change of a row, or where that is not determined, the difference."""
    change = Change(row["change"], row["change_low"], row["change_high"])
    difference = Change(row["difference"], row["low"], row["high"], "")
    whole = [known for known in (change, difference) if np.isfinite(known[:3]).all()]
    if whole:
        return whole[0]
    return change if np.isfinite(change.value) else difference
