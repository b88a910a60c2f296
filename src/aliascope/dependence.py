"""Dependence that a straight line misses, one column at a time and all together.

One observation is a photograph, the mean of its images, so that what permutations shuffle and what
folds hold out are photographs: more crops of one are no new evidence. Of more than `MOST`
photographs so many are drawn, for a distance correlation takes their square.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy import stats

from aliascope.statistics import group_means, holm

PERMUTATIONS = 499
"""Least p 0.002: of up to 25 columns one can still be told from chance at 5 % after Holm."""
REFITS = 19
"""Permutations for boosting, which is fitted anew for each: least p 0.05."""
FOLDS = 5
MOST = 1000
FEWEST, FEWEST_TOGETHER = 10, 30
"""Photographs without which nothing is said, of one column and of all together."""

STATISTICS = ("pearson", "spearman", "dcor", "mi", "network")
_ENDS = ("", "_p", "_p_holm", "_p_bh")
_TOGETHER = ("n", "groups", "columns", "r2_given", "r2", "r2_p", "r2_beyond", "r2_beyond_p")
_PENALTIES = np.logspace(-1, 5, 7)
_UNITS = 16
_ROUNDING = 1e-6  # of sums in 32 bits: what differs by less is a tie


def depends(a: pd.DataFrame, target: ArrayLike, groups: ArrayLike) -> pd.DataFrame:
    """Five measures of how each column goes with the target, over photographs.

    `pearson` and `spearman` see a line and a monotone curve; `dcor` is `distance_correlation`, 0 in
    the limit only under independence; `mi` the mutual information in nats by the 3 nearest
    neighbours (KSG, as scikit-learn has it) of normal scores, which leave it as it is; `network`
    the share of the target's variance that a network of one hidden layer predicts out of sample,
    R² over five folds: ridge on 16 units tanh(2 (z − t_k)), z the column's normal scores, t_k
    normal quantiles. Its first layer is fixed so that it can be fitted anew to every permutation
    of the target: a p-value that knows nothing of the fit would be too small.

    p = (1 + #{t_π ≥ t}) / (1 + 499) over permutations π of the target among photographs, of |t| for
    `pearson` and `spearman`.

    Args:
        a: A row an image, a column a metric.
        target: What the columns are held against, (n,); a pair that is not finite is left out.
        groups: The photograph that each image was cut from, (n,).

    Returns:
        A row a column: n (pairs), groups, and for each measure its value, `_p`, `_p_holm` and
        `_p_bh`, corrected over the columns. NaN for fewer than 10 photographs or where either side
        is constant.

    Source:
        Székely & Rizzo, Ann. Statist. 42 (2014): dcor; Kraskov, Stögbauer & Grassberger, Phys. Rev.
        E 69 (2004): mi; Rahimi & Recht, Weighted Sums of Random Kitchen Sinks (2008): networks of
        which only the last layer is fitted; Phipson & Smyth (2010): p.

    >>> x = np.linspace(-1, 1, 60)
    >>> row = depends(pd.DataFrame({"conv1": x}), x**2, range(60)).loc["conv1"]
    >>> print(f"{row.pearson_p:.1f} {row.dcor_p:.3f} {row.mi_p:.3f} {row.network:.2f}")
    1.0 0.002 0.002 1.00
    """
    x, y = a.to_numpy(float), np.asarray(target, float)
    valid = np.isfinite(x) & np.isfinite(y)[:, None]
    table = pd.DataFrame(np.nan, a.columns, [s + end for s in STATISTICS for end in _ENDS[:2]])
    table.insert(0, "n", valid.sum(0))
    table.insert(1, "groups", 0)
    for rows in np.unique(valid, axis=1).T:  # columns that know the same images share permutations
        alike = np.flatnonzero((valid == rows[:, None]).all(axis=0))
        own = np.column_stack([x[rows][:, alike], y[rows]])
        means = group_means(pd.DataFrame(own), np.asarray(groups)[rows]).to_numpy()
        table.iloc[alike, 1] = len(means)
        means = _drawn(means)
        varying = _varies(means)
        if len(means) >= FEWEST and varying[-1] and varying[:-1].any():
            table.iloc[alike[varying[:-1]], 2:] = _block(means[:, varying][:, :-1], means[:, -1])
    for statistic in STATISTICS:
        p = table[f"{statistic}_p"]
        table[f"{statistic}_p_holm"], table[f"{statistic}_p_bh"] = holm(p), benjamini_hochberg(p)
    return table.loc[:, ["n", "groups", *(s + end for s in STATISTICS for end in _ENDS)]]


def explains(
    a: pd.DataFrame, target: ArrayLike, groups: ArrayLike, *, given: ArrayLike
) -> pd.DataFrame:
    """How much of the target all columns together predict, out of sample, and beyond what is given.

    R² = 1 − Σ (y − ŷ)² / Σ (y − ȳ)² over photographs, ŷ and the mean ȳ from the other four of five
    folds, in which the fit's own choice is made again: the penalty of a ridge by leaving one out,
    the number of trees of a boosting by a fifth held back. Below 0 the columns predict worse than
    a mean does. `r2_given` is R² of what is given alone, through the network of `depends`, and
    `r2_beyond` R² of y − E[y | given] from x − E[x | given], residuals of that network out of
    sample: the share of what is left that the columns explain.

    Args:
        a: A row an image, a column a metric; columns that nothing is known of are left out.
        target: What is predicted, (n,); an image of which anything is not finite is left out.
        groups: The photograph that each image was cut from, (n,).
        given: What is known anyway, (n,): the confidence.

    Returns:
        Rows `ridge` and `boosting`: n (images), groups, columns, r2_given, r2, r2_p, r2_beyond,
        r2_beyond_p. The p-values are of permutations as in `depends`, 499 for the ridge and 19 for
        the boosting, each fitted anew. All but counts are NaN for fewer than 30 photographs or
        where the target or what is given does not vary.

    Source:
        Stone, J. R. Stat. Soc. B 36 (1974): nested cross-validation; Shah & Peters, Ann. Statist.
        48 (2020): residuals of both sides as a test of conditional independence.

    >>> x = pd.DataFrame(np.random.default_rng(0).normal(size=(80, 4)), columns=list("abcd"))
    >>> found = explains(x, x.a + x.b, range(80), given=x.a)
    >>> found.loc["ridge", ["r2", "r2_given", "r2_beyond", "r2_p"]].astype(float).round(2).tolist()
    [1.0, 0.54, 0.95, 0.0]
    """
    known = a.loc[:, np.isfinite(a.to_numpy(float)).any(axis=0)]
    values = np.column_stack([known.to_numpy(float), np.asarray(given), np.asarray(target)])
    rows = np.isfinite(values).all(axis=1)
    means = group_means(pd.DataFrame(values[rows]), np.asarray(groups)[rows]).to_numpy()
    table = pd.DataFrame(np.nan, ["ridge", "boosting"], _TOGETHER)
    table[["n", "groups"]] = rows.sum(), len(means)
    means = _drawn(means)
    varying = _varies(means) if len(means) else np.zeros(values.shape[1], bool)
    table["columns"] = np.count_nonzero(varying[:-2])
    if len(means) >= FEWEST_TOGETHER and varying[-2:].all() and varying[:-2].any():
        *_, z, y = means.T
        x = means[:, :-2][:, varying[:-2]]
        left = np.column_stack([x, y])
        expected = _ridge(_hidden(z), left)
        table["r2_given"] = _r2(expected[:, -1:], y[:, None])[0]
        left = left - expected
        for end, features, values in (("r2", x, y), ("r2_beyond", left[:, :-1], left[:, -1])):
            for model, fitted in (("ridge", _ridge_r2), ("boosting", _boosting_r2)):
                found = fitted(features, values)
                table.loc[model, [end, f"{end}_p"]] = found[0], _p(found)
    return table.astype({"n": int, "groups": int, "columns": int})


def distance_correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Squared distance correlation of two sequences, bias-corrected.

    R = ⟨A, B⟩ / √(⟨A, A⟩ ⟨B, B⟩), A and B the distances |x_i − x_j| and |y_i − y_j| less their row
    and column sums / (n − 2), plus their total / ((n − 1)(n − 2)), 0 on the diagonal. About r² for
    a line; its mean is 0 under independence, whatever n, so that it may fall below 0: the plain
    one, always above, would grow as photographs get fewer. The package `dcor` is the test's oracle
    and no dependency, since it brings a compiler.

    Args:
        x: (n,), n ≥ 4.
        y: (n,).

    Returns:
        In [−1, 1]; NaN where either side is constant.

    Source:
        Székely & Rizzo, Partial Distance Correlation with Methods for Dissimilarities, Ann. Stat.
        42 (2014), section 2.

    >>> x = np.arange(50.0)
    >>> print(f"{distance_correlation(x, 3 - 2 * x):.2f} {distance_correlation(x, x % 7):.2f}")
    1.00 -0.04
    """
    a, b = _centred_distances(np.asarray(x, float)), _centred_distances(np.asarray(y, float))
    scale = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / scale) if scale else float("nan")


def benjamini_hochberg(pvalues: ArrayLike) -> Float[np.ndarray, " n"]:
    """Benjamini and Hochberg's step-up correction, of the share of false discoveries.

    Args:
        pvalues: One a hypothesis, (m,), in [0, 1]; NaN stays NaN and does not count.

    Source:
        Benjamini & Hochberg, J. R. Stat. Soc. B 57 (1995).

    >>> benjamini_hochberg([0.01, float("nan"), 0.04, 0.03])
    array([0.03,  nan, 0.04, 0.04])
    """
    adjusted = np.array(pvalues, dtype=float)
    known = ~np.isnan(adjusted)
    if known.any():
        adjusted[known] = stats.false_discovery_control(adjusted[known])
    return adjusted


def _block(
    x: Float[np.ndarray, "groups columns"], y: Float[np.ndarray, " groups"]
) -> Float[np.ndarray, "columns measures"]:
    """Value and p of each of `STATISTICS`, a row a column."""
    orders = _orders(len(y), PERMUTATIONS)
    scores = np.stack([_normal_scores(column) for column in x.T], axis=1)
    found = [
        np.abs(line := _standard(x).T @ _standard(y)[orders].T),
        np.abs(monotone := _standard(stats.rankdata(x, axis=0)).T @ _ranked(y)[orders].T),
        _distance_correlations(x, y, orders),
        _mutual_information(scores, _normal_scores(y, seed=1)),
        np.stack([_ridge_r2(_units(column), y) for column in scores.T]),
    ]
    values = [line[:, 0], monotone[:, 0], *(measure[:, 0] for measure in found[2:])]
    ps = [[_p(permuted) for permuted in measure] for measure in found]
    return np.stack([column for pair in zip(values, ps, strict=True) for column in pair], axis=1)


def _p(found: Float[np.ndarray, " permutations"]) -> float:
    """Of the first, among all of them."""
    return float(np.mean(found >= found[0] - _ROUNDING))


@lru_cache(maxsize=4)
def _orders(count: int, permutations: int) -> Int[np.ndarray, "permutations groups"]:
    """The order as it is, then permutations of it."""
    rng = np.random.default_rng(0)
    return np.stack([np.arange(count), *(rng.permutation(count) for _ in range(permutations))])


def _distance_correlations(
    x: Float[np.ndarray, "groups columns"],
    y: Float[np.ndarray, " groups"],
    orders: Int[np.ndarray, "permutations groups"],
) -> Float[np.ndarray, "columns permutations"]:
    def unit(values: np.ndarray) -> np.ndarray:
        a = _centred_distances(values)
        return (a / np.sqrt((a * a).sum())).astype(np.float32)

    a, b = np.stack([unit(column).ravel() for column in x.T]), unit(y)
    found = np.stack([a @ b[order][:, order].ravel() for order in orders], axis=1).astype(float)
    found[:, 0] = [distance_correlation(column, y) for column in x.T]
    return found


def _centred_distances(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n n"]:
    n = len(values)
    distance = np.abs(values[:, None] - values)
    each = distance.sum(0) / (n - 2)
    centred = distance - each - each[:, None] + distance.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(centred, 0)
    return centred


def _mutual_information(
    x: Float[np.ndarray, "groups columns"], y: Float[np.ndarray, " groups"]
) -> Float[np.ndarray, "columns permutations"]:
    """Normal scores of any column are the same numbers: all columns have one null distribution."""
    from sklearn.feature_selection import mutual_info_regression

    found = mutual_info_regression(x, y, random_state=0)
    null = np.broadcast_to(_null_information(len(y), PERMUTATIONS), (len(found), PERMUTATIONS))
    return np.column_stack([found, null])


@lru_cache(maxsize=4)
def _null_information(count: int, permutations: int) -> Float[np.ndarray, " permutations"]:
    from sklearn.feature_selection import mutual_info_regression

    scores = _normal_scores(np.arange(count))
    permuted = scores[_orders(count, permutations)[1:]].T
    return mutual_info_regression(permuted, scores, random_state=0)


def _normal_scores(values: np.ndarray, seed: int = 0) -> Float[np.ndarray, " n"]:
    """Φ⁻¹((rank − ½) / n); equal values are put into an order by chance.

    Both sides of a pair must not take the same chance, or their ties would go together.
    """
    chance = np.random.default_rng(seed).permutation(len(values))
    order = np.lexsort([chance, values])
    scores = np.empty(len(values))
    scores[order] = stats.norm.ppf((np.arange(len(values)) + 0.5) / len(values))
    return scores


def _hidden(values: np.ndarray) -> Float[np.ndarray, "n units"]:
    return _units(_normal_scores(values))


def _units(scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n units"]:
    """The hidden layer of the network in `depends`."""
    places = stats.norm.ppf((np.arange(_UNITS) + 0.5) / _UNITS)
    return np.tanh(2 * (scores[:, None] - places))


def _ridge_r2(x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, " permutations"]:
    """Of the target and of its permutations, which the ridge takes as so many targets."""
    targets = y[_orders(len(y), PERMUTATIONS)].T
    return _r2(_ridge(x, targets), targets)


def _boosting_r2(x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, " permutations"]:
    targets = y[_orders(len(y), REFITS)].T
    return _r2(np.stack([_boosting(x, target) for target in targets.T], axis=1), targets)


def _ridge(
    x: Float[np.ndarray, "groups columns"], y: Float[np.ndarray, "groups targets"]
) -> Float[np.ndarray, "groups targets"]:
    """Out-of-sample predictions of each target, with its own penalty."""
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    predicted = np.empty(y.shape)
    for train, test in _folds(len(y)):
        scaler = StandardScaler().fit(x[train])
        model = RidgeCV(_PENALTIES, alpha_per_target=True)
        model.fit(scaler.transform(x[train]), y[train])
        predicted[test] = model.predict(scaler.transform(x[test])).reshape(len(test), -1)
    return predicted


def _boosting(
    x: Float[np.ndarray, "groups columns"], y: Float[np.ndarray, " groups"]
) -> Float[np.ndarray, " groups"]:
    """Out-of-sample predictions of the target."""
    from sklearn.ensemble import GradientBoostingRegressor

    predicted = np.empty(len(y))
    for train, test in _folds(len(y)):
        model = GradientBoostingRegressor(
            learning_rate=0.2,
            max_depth=2,
            subsample=0.5,
            validation_fraction=0.2,
            n_iter_no_change=5,
            random_state=0,
        )
        predicted[test] = model.fit(x[train], y[train]).predict(x[test])
    return predicted


def _folds(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import KFold

    return KFold(FOLDS, shuffle=True, random_state=0).split(np.empty(count))


def _r2(
    predicted: Float[np.ndarray, "groups targets"], y: Float[np.ndarray, "groups targets"]
) -> Float[np.ndarray, " targets"]:
    mean = np.empty(y.shape)
    for train, test in _folds(len(y)):
        mean[test] = y[train].mean(0)
    return 1 - ((y - predicted) ** 2).sum(0) / ((y - mean) ** 2).sum(0)


def _drawn(means: Float[np.ndarray, "groups columns"]) -> Float[np.ndarray, "drawn columns"]:
    if len(means) <= MOST:
        return means
    return means[np.sort(np.random.default_rng(0).choice(len(means), MOST, replace=False))]


def _varies(means: Float[np.ndarray, "groups columns"]) -> np.ndarray:
    """Whether columns differ by more than the rounding of means of equal numbers."""
    return np.ptp(means, axis=0) > 1e-12 * np.abs(means).max(0)


def _ranked(values: np.ndarray) -> np.ndarray:
    return _standard(stats.rankdata(values))


def _standard(values: np.ndarray) -> np.ndarray:
    """Mean 0 and length 1."""
    centred = values - values.mean(0)
    return centred / np.sqrt((centred**2).sum(0))
