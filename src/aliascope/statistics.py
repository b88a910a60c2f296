"""Paired statistics over images that come in groups: crops of one photograph are no new evidence.

Whatever is resampled or tested here is a photograph, never a crop. Differences and t are of B − A.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from scipy import stats
from scipy.special import ndtr, ndtri

_TESTS = ["n", "groups", "mean_a", "sd_a", "mean_b", "sd_b"]
_TESTS += ["t", "p", "d_z", "p_wilcoxon", "t_two_sample", "p_two_sample"]
_CORRELATIONS = ["n", "groups", "r", "r_low", "r_high", "p", "p_holm", "rho", "rho_p", "rho_p_holm"]


class Estimate(NamedTuple):
    """A value with its confidence interval, in the value's own unit."""

    value: float
    low: float
    high: float


def bootstrap_interval(
    values: ArrayLike, groups: ArrayLike, *, level: float = 0.95, seed: int = 0
) -> Estimate:
    """Mean of the values and its bootstrap interval, resampling groups.

    mean* = Σ_g w_g Σ_i x_gi / Σ_g w_g n_g, where w_g is how often group g was drawn; the limits are
    BCa quantiles (bias-corrected and accelerated) of mean* over 9999 resamples, beyond 10,000
    groups over 10⁸ draws (2000 resamples of 50,000 groups).

    Args:
        values: A number an image, (n,); what is not finite is left out.
        groups: The photograph that each image was cut from, (n,).
        level: Coverage, in (0, 1).
        seed: Of the resampling; the same seed gives the same interval.

    Returns:
        Mean and limits: equal limits for equal values, NaN limits for a single group or where a
        resample leaves the mean undefined.

    Source:
        Efron, Better bootstrap confidence intervals, JASA 82 (1987); whole clusters: Davison &
        Hinkley, Bootstrap Methods and their Application (1997), section 3.8.

    >>> photographs = ["cat", "cat", "cup", "cup", "sky", "sky", "sea"]
    >>> interval = bootstrap_interval([0.1, 0.2, 0.5, 0.6, 0.9, 0.7, 0.8], photographs)
    >>> print("{:.2f} [{:.2f}, {:.2f}]".format(*interval))
    0.54 [0.24, 0.80]
    """
    one = bootstrap_means(pd.DataFrame({0: np.asarray(values)}), groups, level=level, seed=seed)
    return Estimate(*one.iloc[0].tolist())


def bootstrap_means(
    values: pd.DataFrame, groups: ArrayLike, *, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """`bootstrap_interval` of each column, all from the same resamples: value, low, high.

    >>> frame = pd.DataFrame({"sis": [0.1, 0.2, 0.5], "agreement": [1.0, 1.0, 1.0]})
    >>> bootstrap_means(frame, ["cat", "cup", "sky"]).round(2).loc["agreement"].tolist()
    [1.0, 1.0, 1.0]
    """
    x = values.to_numpy(float)
    known = np.isfinite(x)
    sums = _group_sums(np.stack([np.where(known, x, 0), known], axis=1), groups)
    with _quiet():
        intervals = _bca(sums, lambda total: total[..., 0, :] / total[..., 1, :], level, seed)
    return pd.DataFrame(intervals, values.columns, ["value", "low", "high"])


def paired(
    a: pd.DataFrame, b: pd.DataFrame, groups: ArrayLike, *, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """How much each column changed from A to B, image by image, and how sure that is.

    difference = mean(b) − mean(a) and change = mean(b) / mean(a) − 1 over images, with intervals as
    in `bootstrap_interval`. The paired t-test, Wilcoxon's signed-rank test and Cohen's
    d_z = mean(d) / sd(d) take d = the mean of b − a in a group, an observation a group; where every
    group holds one image these are the ordinary tests. The two-sample t-test (over images, pairing
    ignored, equal variances) is the published study's, which gives it the sign of A − B.

    Args:
        a: A row an image, a column a metric.
        b: The other model's, same rows, same columns; a pair that is not finite is left out.
        groups: The photograph that each image was cut from, in the order of the rows.
        level: Coverage of the intervals, in (0, 1).
        seed: Of the resampling.

    Returns:
        A row a column: n (pairs), groups, mean_a, sd_a, mean_b, sd_b, t, p, d_z, p_wilcoxon,
        t_two_sample, p_two_sample, difference, low, high, change, change_low, change_high (−0.4 is
        40 % less). No difference at all gives t 0 and p 1, one that does not vary an infinite t;
        what is undetermined is NaN.

    Source:
        Wilcoxon, Biometrics Bulletin 1 (1945); d_z: Lakens, Frontiers in Psychology 4:863 (2013).

    >>> before, after = pd.DataFrame({"sis": [2.0, 3, 4]}), pd.DataFrame({"sis": [1.0, 2, 2]})
    >>> row = paired(before, after, ["cat", "cup", "sky"]).loc["sis"]
    >>> print(f"{row.difference:.2f} {row.change:+.1%} t {row.t:.1f} d_z {row.d_z:.2f}")
    -1.33 -44.4% t -4.0 d_z -2.31
    """
    both = np.array([a.to_numpy(float), b.to_numpy(float)])
    valid = np.isfinite(both).all(0)
    x, y = np.where(valid, both, 0)
    # y − x is summed by itself because for equal models it is exactly zero there, whereas two
    # matrix products of equal numbers may round differently.
    sums = _group_sums(np.stack([y - x, x, valid], axis=1), groups)

    def estimates(total: np.ndarray) -> np.ndarray:  # (..., 3, columns) -> (..., 2, columns)
        moved, start, count = np.moveaxis(total, -2, 0)
        return np.stack([moved / count, moved / start], axis=-2)

    with _quiet():
        moved, change = _bca(sums, estimates, level, seed)
        each = sums[:, 0] / sums[:, 2]  # (groups, columns)
        rows = [
            _tests(x[ok, j], y[ok, j], each[np.isfinite(each[:, j]), j])
            for j, ok in enumerate(np.transpose(valid))
        ]
    table = pd.DataFrame(rows, index=a.columns, columns=_TESTS)
    table[["difference", "low", "high"]] = moved
    table[["change", "change_low", "change_high"]] = change
    return table


def correlated(
    a: pd.DataFrame, target: ArrayLike, groups: ArrayLike, *, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """How closely each column follows the target over images, and how sure that is.

    r = (n Σxy − Σx Σy) / √((n Σx² − (Σx)²) (n Σy² − (Σy)²)), Pearson's, a function of sums over
    images; its interval resamples groups as in `bootstrap_interval`. ρ is r of the ranks. Both
    p-values take images as independent, as the published study did: where a group holds several,
    trust the interval instead.

    Args:
        a: A row an image, a column a metric.
        target: What the columns are held against, (n,); a pair that is not finite is left out.
        groups: The photograph that each image was cut from, (n,).
        level: Coverage of the intervals, in (0, 1).
        seed: Of the resampling.

    Returns:
        A row a column: n (pairs), groups, r, r_low, r_high, p, p_holm, rho, rho_p, rho_p_holm;
        p_holm and rho_p_holm are corrected over the columns. All but n and groups are NaN for fewer
        than 3 pairs or where either side is constant, the limits also where a resample is.

    Source:
        Pearson, Proc. R. Soc. 58 (1895); Spearman, Am. J. Psychology 15 (1904); intervals and
        correction: see `bootstrap_interval` and `holm`.

    >>> avr = pd.DataFrame({"conv1": [0.1, 0.2, 0.4, 0.3, 0.5, 0.6, 0.9, 0.7]})
    >>> sis = [0.02, 0.01, 0.03, 0.05, 0.04, 0.06, 0.07, 0.09]
    >>> row = correlated(avr, sis, list("abcdefgh")).loc["conv1"]
    >>> print(f"r {row.r:.2f} [{row.r_low:.2f}, {row.r_high:.2f}] p {row.p:.3f} rho {row.rho:.2f}")
    r 0.84 [0.43, 0.95] p 0.009 rho 0.88
    """
    x, y = np.broadcast_arrays(a.to_numpy(float), np.asarray(target, float)[:, None])
    valid = np.isfinite(x) & np.isfinite(y)
    with _quiet():
        u, v = (_centred(values, valid) for values in (x, y))
        sums = _group_sums(np.stack([valid, u, v, u * v, u * u, v * v], axis=1), groups)
        rows = [_correlations(x[ok, j], y[ok, j]) for j, ok in enumerate(np.transpose(valid))]
        intervals = _bca(sums, _pearson, level, seed)
    table = pd.DataFrame(rows, index=a.columns, columns=["p", "rho", "rho_p"])
    table["n"], table["groups"] = valid.sum(0), np.count_nonzero(sums[:, 0], axis=0)
    table[["r", "r_low", "r_high"]] = np.where(table[["p"]].isna(), np.nan, intervals)
    table["p_holm"], table["rho_p_holm"] = holm(table["p"]), holm(table["rho_p"])
    return table.reindex(columns=_CORRELATIONS)


def median_interval(values: ArrayLike, *, level: float = 0.95) -> Estimate:
    """Median of independent values and its interval, whatever their distribution.

    [x_(l), x_(n + 1 − l)] of the sorted values, with the largest l for which
    P(B < l) ≤ (1 − level) / 2, B ~ binomial(n, ½): coverage is at least the level.

    Args:
        values: (n,); what is not finite is left out.
        level: Least coverage, in (0, 1).

    Returns:
        Median and limits, which are NaN where even [least, greatest] covers less than the level:
        at 95 % for fewer than 6 values.

    Source:
        Conover, Practical Nonparametric Statistics (3rd ed. 1999), section 3.2.

    >>> median_interval([5, 1, 4, 2, 3, 9])
    Estimate(value=3.5, low=1.0, high=9.0)
    """
    x = np.asarray(values, dtype=float)
    x = np.sort(x[np.isfinite(x)])
    rank = np.count_nonzero(stats.binom.cdf(np.arange(len(x)), len(x), 0.5) <= (1 - level) / 2)
    low, high = (x[rank - 1], x[-rank]) if rank else (np.nan, np.nan)
    with _quiet():
        return Estimate(float(np.median(x)), float(low), float(high))


def pareto(cost: ArrayLike, loss: ArrayLike) -> Bool[np.ndarray, " n"]:
    """Whether no other point has less of one and not more of the other.

    >>> pareto([1, 2, 3], [5, 4, 4]).tolist()
    [True, True, False]
    """
    x, y = np.asarray(cost, float), np.asarray(loss, float)
    no_worse = (x[:, None] <= x) & (y[:, None] <= y)
    better = (x[:, None] < x) | (y[:, None] < y)
    return np.logical_not((no_worse & better).any(axis=0))


def holm(pvalues: ArrayLike) -> Float[np.ndarray, " n"]:
    """Holm's step-down correction: p_(k) · (m − k + 1), made monotone and capped at 1.

    By hand, because statsmodels' `multipletests` runs a garbage collection on every call, which
    takes up to a second where torch is loaded.

    Args:
        pvalues: One a hypothesis, (m,), in [0, 1]; NaN stays NaN and does not count.

    Source:
        Holm, A simple sequentially rejective multiple test procedure, Scand. J. Stat. 6 (1979).

    >>> holm([0.01, float("nan"), 0.04, 0.03])
    array([0.03,  nan, 0.06, 0.06])
    """
    adjusted = np.array(pvalues, dtype=float)
    order = np.argsort(adjusted)[: np.count_nonzero(~np.isnan(adjusted))]  # NaN sorts last
    steps = adjusted[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.maximum.accumulate(steps).clip(max=1)
    return adjusted


def _tests(x: np.ndarray, y: np.ndarray, each: np.ndarray) -> tuple[Any, ...]:
    """`_TESTS` of one column: x, y over images of A and B, `each` the mean of y − x in a group."""
    if len(each) and not each.any():
        t, p, d_z, p_wilcoxon, t_two_sample, p_two_sample = 0.0, 1.0, 0.0, 1.0, 0.0, 1.0
    else:
        t, p = stats.ttest_1samp(each, 0.0)
        d_z = each.mean() / each.std(ddof=1)
        p_wilcoxon = stats.wilcoxon(each)[1]
        t_two_sample, p_two_sample = stats.ttest_ind(y, x)
    return (
        *(len(x), len(each), x.mean(), x.std(ddof=1), y.mean(), y.std(ddof=1)),
        *(t, p, d_z, p_wilcoxon, t_two_sample, p_two_sample),
    )


def _correlations(x: np.ndarray, y: np.ndarray) -> tuple[Any, ...]:
    """P of Pearson's r, Spearman's rho and its p."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan, np.nan, np.nan
    rho, p = stats.spearmanr(x, y)
    return stats.pearsonr(x, y)[1], rho, p


def _centred(
    values: Float[np.ndarray, "images columns"], valid: Bool[np.ndarray, "images columns"]
) -> Float[np.ndarray, "images columns"]:
    """Mean 0 and greatest size 1 over what is valid, else 0: squares of these sum up accurately."""
    x = np.where(valid, values, 0)
    x = np.where(valid, x - x.sum(0) / valid.sum(0), 0)
    return np.nan_to_num(x / np.abs(x).max(0, initial=0))


def _pearson(total: np.ndarray) -> np.ndarray:  # (..., 6, columns) -> (..., columns)
    """Pearson's r from Σ1, Σx, Σy, Σxy, Σx², Σy²; NaN where either side does not vary."""
    n, x, y, xy, xx, yy = np.moveaxis(total, -2, 0)
    varying = [
        # Of equal numbers rounding leaves a variance of some 1e-16 of their mean square.
        np.where((moment := n * square - mean * mean) > 1e-13 * n * square, moment, np.nan)
        for mean, square in ((x, xx), (y, yy))
    ]
    return ((n * xy - x * y) / np.sqrt(varying[0] * varying[1])).clip(-1, 1)


def _bca(
    sums: Float[np.ndarray, "groups *columns"],
    estimate: Callable[[np.ndarray], np.ndarray],
    level: float,
    seed: int,
) -> Float[np.ndarray, "*values 3"]:
    """Value, low and high of every value of `estimate`, which maps (..., *columns) totals.

    `scipy.stats.bootstrap` gives the same limits, but its jackknife takes O(groups²) and each value
    draws anew: 15 s for 30 metrics of 1000 photographs, against 0.3 s here.
    """
    point, left_out = estimate(sums.sum(0)), estimate(sums.sum(0) - sums)
    drawn = estimate(_resampled(sums, seed))
    acceleration = np.nan_to_num(-stats.skew(left_out)) / (6 * len(sums) ** 0.5)
    z = ndtri([(1 - level) / 2, (1 + level) / 2])
    intervals = np.full((*point.shape, 3), np.nan)
    intervals[..., 0] = point
    for i in np.ndindex(point.shape):
        values = drawn[:, *i]
        if len(sums) == 1 or not np.isfinite(values).all():
            continue
        # Equal data have equal resamples however their sums were rounded: with all of them on one
        # side of the point, the bias would be infinite.
        values = np.where(np.isclose(values, point[i], rtol=1e-12, atol=0), point[i], values)
        bias = ndtri(((values < point[i]).mean() + (values <= point[i]).mean()) / 2)
        tails = ndtr(bias + (bias + z) / (1 - acceleration[i] * (bias + z)))
        intervals[i][1:] = np.quantile(values, tails)
    return intervals


def _resampled(
    sums: Float[np.ndarray, "groups *columns"], seed: int
) -> Float[np.ndarray, "resamples *columns"]:
    """Totals over as many groups, drawn with replacement."""
    groups, rng = len(sums), np.random.default_rng(seed)
    resamples = min(9999, max(999, 10**8 // groups))  # 2 s for 50,000 groups
    batch = max(1, 4 * 10**6 // groups)  # 130 MB at a time
    totals = []
    for start in range(0, resamples, batch):
        rows = min(batch, resamples - start)
        drawn = rng.integers(groups, size=(rows, groups)) + groups * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups)
        totals.append(np.tensordot(counts.astype(float), sums, 1))
    return np.concatenate(totals)


def _group_sums(
    values: Float[np.ndarray, "images *columns"], groups: ArrayLike
) -> Float[np.ndarray, "groups *columns"]:
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.zeros((len(names), *values.shape[1:]))
    np.add.at(sums, group, values)
    return sums


def _quiet() -> warnings.catch_warnings:
    """Degenerate data are answered with 0, inf or NaN, as documented, not with a RuntimeWarning."""
    return warnings.catch_warnings(action="ignore", category=RuntimeWarning)
