"""Paired statistics over images that come in groups: crops of one photograph are no new evidence.

One observation is a photograph, the mean of its crops: means, differences, intervals and tests are
over photographs, and all weigh alike. Differences and t are of B − A.
"""

import warnings
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from scipy import stats

_TESTS = ["n", "groups", "mean_a", "sd_a", "mean_b", "sd_b"]
_TESTS += ["t", "p", "d_z", "p_wilcoxon", "t_two_sample", "p_two_sample"]
_CORRELATIONS = ["n", "groups", "r", "r_low", "r_high", "p", "p_holm", "rho", "rho_p", "rho_p_holm"]


class Estimate(NamedTuple):
    """A value with its confidence interval, in the value's own unit."""

    value: float
    low: float
    high: float


def mean_interval(values: ArrayLike, groups: ArrayLike, *, level: float = 0.95) -> Estimate:
    """Mean over groups of the mean in each, and its interval.

    m ± t·s, s = sd(x_g) / √G of the means x_g of G groups, t the quantile of Student's t with G − 1
    degrees of freedom at (1 + level) / 2. Skewed data miss that on one side, so the limit on the
    side of the long tail is set out by another |γ| (1 + 2t²) / (6√G) · s, γ their skewness.
    Simulated at 95 %, from 3 groups of 1 to 6 images on, it holds in 95 to 97 % for normal data, in
    92 to 95 % for exponential and in 88 to 92 % for lognormal ones (σ = 1), of which a few
    photographs make up most.

    Args:
        values: A number an image, (n,); what is not finite is left out.
        groups: The photograph that each image was cut from, (n,).
        level: Coverage, in (0, 1).

    Returns:
        Mean and limits: equal limits for equal values, NaN limits for a single group.

    Source:
        Johnson, Modified t Tests and Confidence Intervals for Asymmetrical Populations, JASA 73
        (1978): the same correction, there on both sides.

    >>> photographs = ["cat", "cat", "cup", "cup", "sky", "sky", "sea"]
    >>> interval = mean_interval([0.1, 0.2, 0.5, 0.6, 0.9, 0.7, 0.8], photographs)
    >>> print("{:.2f} [{:.2f}, {:.2f}]".format(*interval))
    0.57 [-0.25, 1.06]
    """
    one = mean_intervals(pd.DataFrame({0: np.asarray(values)}), groups, level=level)
    return Estimate(*one.iloc[0].tolist())


def mean_intervals(values: pd.DataFrame, groups: ArrayLike, *, level: float = 0.95) -> pd.DataFrame:
    """`mean_interval` of each column: value, low, high.

    >>> frame = pd.DataFrame({"sis": [0.1, 0.2, 0.5], "agreement": [1.0, 1.0, 1.0]})
    >>> mean_intervals(frame, ["cat", "cup", "sky"]).round(2).loc["agreement"].tolist()
    [1.0, 1.0, 1.0]
    """
    x = values.to_numpy(float)
    with _quiet():
        rows = _means(_group_means(x, np.isfinite(x), groups), level)
    return pd.DataFrame(rows, values.columns, ["value", "low", "high"])


def group_means(values: pd.DataFrame, groups: ArrayLike) -> pd.DataFrame:
    """What `mean_intervals` averages: a row a group, the mean of its finite values.

    >>> group_means(pd.DataFrame({"sis": [0.1, 0.3, 0.5]}), ["cat", "cat", "cup"])["sis"].tolist()
    [0.2, 0.5]
    """
    x = values.to_numpy(float)
    with _quiet():
        return pd.DataFrame(_group_means(x, np.isfinite(x), groups), columns=values.columns)


def paired(
    a: pd.DataFrame, b: pd.DataFrame, groups: ArrayLike, *, level: float = 0.95
) -> pd.DataFrame:
    """How much each column changed from A to B, and how sure that is.

    Everything in a row is of one estimand: a photograph is one observation, the mean of its images.
    With a_g and b_g these means, difference = mean(b_g − a_g), with an interval as in
    `mean_interval`, and change = mean(b_g) / mean(a_g) − 1, with Fieller's: all ρ − 1 for which a
    paired t-test of b_g against ρ·a_g would not reject. The paired t-test, Wilcoxon's signed-rank
    test and Cohen's d_z = mean(d) / sd(d) are of d_g = b_g − a_g. The two-sample t-test (pairing
    ignored, equal variances) is the published study's, which gives it the sign of A − B. Where
    every group holds one image these are the ordinary tests.

    Args:
        a: A row an image, a column a metric.
        b: The other model's, same rows, same columns; a pair that is not finite is left out.
        groups: The photograph that each image was cut from, in the order of the rows.
        level: Coverage of the intervals, in (0, 1).

    Returns:
        A row a column: n (pairs of images), groups, mean_a, sd_a, mean_b, sd_b, t, p, d_z,
        p_wilcoxon, t_two_sample, p_two_sample, difference, low, high, change, change_low,
        change_high (−0.4 is 40 % less). No difference at all gives t 0 and p 1; where a difference
        does not vary, how sure it is is not known: NaN, as is what else is undetermined, such as a
        change from a mean that may be zero.

    Source:
        Fieller, Some Problems in Interval Estimation, J. R. Stat. Soc. B 16 (1954); Wilcoxon,
        Biometrics Bulletin 1 (1945); d_z: Lakens, Frontiers in Psychology 4:863 (2013).

    >>> before, after = pd.DataFrame({"sis": [2.0, 3, 4]}), pd.DataFrame({"sis": [1.0, 2, 2]})
    >>> row = paired(before, after, ["cat", "cup", "sky"]).loc["sis"]
    >>> print(f"{row.difference:.2f} {row.change:+.1%} t {row.t:.1f} d_z {row.d_z:.2f}")
    -1.33 -44.4% t -4.0 d_z -2.31
    """
    x, y = a.to_numpy(float), b.to_numpy(float)
    valid = np.isfinite(x) & np.isfinite(y)
    with _quiet():
        # y − x is averaged by itself: for equal models it is exactly zero there.
        x, y, each = (_group_means(z, valid, groups) for z in (x, y, y - x))
        moved, change = _means(each, level), _changes(x, y, level)
        known = np.isfinite(each)
        rows = [
            (valid[:, j].sum(), *_tests(x[ok, j], y[ok, j], each[ok, j]))
            for j, ok in enumerate(known.T)
        ]
    table = pd.DataFrame(rows, index=a.columns, columns=_TESTS)
    table[["difference", "low", "high"]] = moved
    table[["change", "change_low", "change_high"]] = change
    table.loc[table["t"].isna(), ["low", "high", "change_low", "change_high"]] = np.nan
    return table


def correlated(
    a: pd.DataFrame, target: ArrayLike, groups: ArrayLike, *, level: float = 0.95
) -> pd.DataFrame:
    """How closely each column follows the target over images, and how sure that is.

    r = (n Σxy − Σx Σy) / √((n Σx² − (Σx)²) (n Σy² − (Σy)²)), Pearson's, a function of sums over
    images; ρ is r of the ranks. The interval is Student's around z = artanh r, whose standard error
    is the jackknife's over groups: √((G − 1)/G · Σ (z_(g) − z̄)²), z_(g) without group g. Both
    p-values take images as independent, as the published study did: where a group holds several,
    trust the interval instead.

    Args:
        a: A row an image, a column a metric.
        target: What the columns are held against, (n,); a pair that is not finite is left out.
        groups: The photograph that each image was cut from, (n,).
        level: Coverage of the intervals, in (0, 1).

    Returns:
        A row a column: n (pairs), groups, r, r_low, r_high, p, p_holm, rho, rho_p, rho_p_holm;
        p_holm and rho_p_holm are corrected over the columns. All but n and groups are NaN for fewer
        than 3 pairs or where either side is constant, the limits also for fewer than 4 groups or
        where either side is constant without one of them.

    Source:
        Pearson, Proc. R. Soc. 58 (1895); Spearman, Am. J. Psychology 15 (1904); the interval:
        Miller, The Jackknife: a Review, Biometrika 61 (1974); correction: see `holm`.

    >>> avr = pd.DataFrame({"conv1": [0.1, 0.2, 0.4, 0.3, 0.5, 0.6, 0.9, 0.7]})
    >>> sis = [0.02, 0.01, 0.03, 0.05, 0.04, 0.06, 0.07, 0.09]
    >>> row = correlated(avr, sis, list("abcdefgh")).loc["conv1"]
    >>> print(f"r {row.r:.2f} [{row.r_low:.2f}, {row.r_high:.2f}] p {row.p:.3f} rho {row.rho:.2f}")
    r 0.84 [0.61, 0.94] p 0.009 rho 0.88
    """
    x, y = np.broadcast_arrays(a.to_numpy(float), np.asarray(target, float)[:, None])
    valid = np.isfinite(x) & np.isfinite(y)
    with _quiet():
        u, v = (_centred(values, valid) for values in (x, y))
        sums = _group_sums(np.stack([valid, u, v, u * v, u * u, v * v], axis=1), groups)
        rows = [_correlations(x[ok, j], y[ok, j]) for j, ok in enumerate(np.transpose(valid))]
        intervals = _jackknifed(sums, level)
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
    """`_TESTS` but n of one column: of a, b and b − a, a value a group."""
    t, p, d_z, p_wilcoxon, t_two_sample, p_two_sample = [np.nan] * 6
    if len(each) and not each.any():
        t, p, d_z, p_wilcoxon, t_two_sample, p_two_sample = 0.0, 1.0, 0.0, 1.0, 0.0, 1.0
    elif _varies(each):
        t, p = stats.ttest_1samp(each, 0.0)
        d_z = each.mean() / each.std(ddof=1)
        p_wilcoxon = stats.wilcoxon(each)[1]
        if _varies(x) or _varies(y):
            t_two_sample, p_two_sample = stats.ttest_ind(y, x)
    return (
        *(len(each), x.mean(), x.std(ddof=1), y.mean(), y.std(ddof=1)),
        *(t, p, d_z, p_wilcoxon, t_two_sample, p_two_sample),
    )


def _varies(x: np.ndarray) -> bool:
    """Whether numbers kept in 32 bits differ by more than their rounding."""
    return len(x) > 1 and bool(np.ptp(x) > 1e-6 * np.abs(x).max())


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


def _means(x: Float[np.ndarray, "groups columns"], level: float) -> Float[np.ndarray, "columns 3"]:
    """See `mean_interval`; a group that is NaN is left out."""
    count, mean = np.isfinite(x).sum(0), np.nanmean(x, axis=0)
    deviation = x - mean
    # Equal values differ by the rounding of their means.
    deviation = np.where(np.abs(deviation) <= 1e-12 * np.abs(mean), 0, deviation)
    moment = np.nansum(deviation**2, axis=0) / (count - 1)
    third = np.nansum(deviation**3, axis=0) * count / ((count - 1) * (count - 2))
    skewed = (count > 2) & (moment > 0)
    skewness = np.where(skewed, third / moment**1.5, 0)
    error, t = np.sqrt(moment / count), stats.t.ppf((1 + level) / 2, count - 1)
    shift = skewness * (1 + 2 * t**2) / (6 * count**0.5)
    low, high = mean + error * np.minimum(shift - t, -t), mean + error * np.maximum(shift + t, t)
    return np.stack([mean, low, high], axis=-1)


def _changes(
    x: Float[np.ndarray, "groups columns"], y: Float[np.ndarray, "groups columns"], level: float
) -> Float[np.ndarray, "columns 3"]:
    """mean(y) / mean(x) − 1 with Fieller's limits: the roots in ρ of m² = t² s² / G of y − ρ x."""
    count = np.isfinite(x).sum(0)
    spread = stats.t.ppf((1 + level) / 2, count - 1) ** 2 / (count * (count - 1))
    a, b = np.nanmean(x, axis=0), np.nanmean(y, axis=0)
    u, v = x - a, y - b
    square = a * a - spread * np.nansum(u * u, axis=0)
    product = a * b - spread * np.nansum(u * v, axis=0)
    rest = b * b - spread * np.nansum(v * v, axis=0)
    half = np.sqrt(np.maximum(product**2 - square * rest, 0))
    half = np.where(square > 0, half, np.nan)  # else no limits: the mean of x may be zero
    ratios = np.stack([b / a, (product - half) / square, (product + half) / square], axis=-1)
    return ratios - 1


def _jackknifed(
    sums: Float[np.ndarray, "groups 6 columns"], level: float
) -> Float[np.ndarray, "columns 3"]:
    """Pearson's r and its limits; see `correlated`."""
    known = sums[:, 0] > 0
    count = known.sum(0)
    r = _pearson(sums.sum(0))
    z = np.where(known, _artanh(_pearson(sums.sum(0) - sums)), 0)
    undefined = np.isnan(z).any(0) | (count < 4)  # two groups lie on a line: z would be infinite
    deviation = np.where(known, z - z.sum(0) / count, 0)
    error = np.sqrt((count - 1) / count * (deviation**2).sum(0))
    half = np.where(undefined, np.nan, stats.t.ppf((1 + level) / 2, count - 1) * error)
    middle = _artanh(r)
    return np.stack([r, np.tanh(middle - half), np.tanh(middle + half)], axis=-1)


def _artanh(r: np.ndarray) -> np.ndarray:
    return np.arctanh(np.clip(r, -1 + 1e-15, 1 - 1e-15))


def _group_means(
    values: Float[np.ndarray, "images columns"],
    valid: Bool[np.ndarray, "images columns"],
    groups: ArrayLike,
) -> Float[np.ndarray, "groups columns"]:
    """Means over the valid images of each group; NaN where it has none."""
    sums = _group_sums(np.stack([np.where(valid, values, 0), valid], axis=1), groups)
    return sums[:, 0] / sums[:, 1]


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
