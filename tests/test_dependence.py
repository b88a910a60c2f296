"""Dependence: against closed forms and libraries, under no effect, and with planted ones."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given as examples
from hypothesis import settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.feature_selection import mutual_info_regression
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from statsmodels.stats.multitest import multipletests

from aliascope import dependence
from aliascope.dependence import (
    STATISTICS,
    benjamini_hochberg,
    depends,
    distance_correlation,
    explains,
)
from aliascope.statistics import holm

COUNT = 80
FOLDS = KFold(5, shuffle=True, random_state=0)


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def one(x, y, groups=None):
    groups = range(len(x)) if groups is None else groups
    return depends(pd.DataFrame({"x": x}), y, groups).loc["x"]


@pytest.fixture
def few(monkeypatch):
    """Permutations that take little time."""
    monkeypatch.setattr(dependence, "PERMUTATIONS", 39)
    monkeypatch.setattr(dependence, "REFITS", 3)


def normal_scores(x):
    return stats.norm.ppf((stats.rankdata(x) - 0.5) / len(x))


def distances_by_hand(x):
    """Székely and Rizzo's U-centred matrix, entry by entry."""
    n = len(x)
    d = [[abs(u - v) for v in x] for u in x]
    total = sum(map(sum, d)) / ((n - 1) * (n - 2))
    return [
        [d[i][j] - sum(d[i]) / (n - 2) - sum(d[j]) / (n - 2) + total if i != j else 0.0
         for j in range(n)]
        for i in range(n)
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_distance_correlation_is_its_definition(seed):
    x, y = noise(seed, 2, 15)
    y = y + x**2
    a, b = distances_by_hand(x), distances_by_hand(y)

    def product(p, q):
        return sum(u * v for row, other in zip(p, q, strict=True) for u, v in zip(row, other))  # noqa: B905

    expected = product(a, b) / (product(a, a) * product(b, b)) ** 0.5
    assert distance_correlation(x, y) == pytest.approx(expected)


@pytest.mark.slow  # the oracle compiles itself for ten seconds and more
def test_distance_correlation_is_dcors():
    dcor = pytest.importorskip("dcor")
    for seed, count in enumerate((4, 30, 200)):
        x, y = noise(seed, 2, count)
        y = y + x**2
        expected = dcor.u_distance_correlation_sqr(x, y)
        assert distance_correlation(x, y) == pytest.approx(expected, abs=1e-12)


def test_distance_correlation_is_unbiased_and_the_plain_one_is_not():
    found = [distance_correlation(*noise(seed, 2, 12)) for seed in range(400)]
    assert abs(np.mean(found)) < 3 * np.std(found) / 20
    assert np.isnan(distance_correlation(np.ones(9), np.arange(9)))


def test_values_of_a_column_are_the_libraries(few):
    x, y = noise(1, 2, COUNT)
    y = y + x**2
    row = one(x, y)
    assert row.pearson == pytest.approx(stats.pearsonr(x, y).statistic)
    assert row.spearman == pytest.approx(stats.spearmanr(x, y).statistic)
    assert row.dcor == pytest.approx(distance_correlation(x, y))
    scores = normal_scores(x)
    (information,) = mutual_info_regression(scores[:, None], normal_scores(y), random_state=0)
    assert row.mi == pytest.approx(information)
    places = stats.norm.ppf((np.arange(16) + 0.5) / 16)
    units = np.tanh(2 * (scores[:, None] - places))
    network = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 5, 7)))
    predicted = cross_val_predict(network, units, y, cv=FOLDS)
    assert row.network == pytest.approx(out_of_sample(y, predicted))


def out_of_sample(y, predicted):
    """Against the mean of what was trained on; near scikit-learn's, which knows all."""
    mean = np.empty(len(y))
    for train, test in FOLDS.split(y):
        mean[test] = y[train].mean()
    r2 = 1 - np.sum((y - predicted) ** 2) / np.sum((y - mean) ** 2)
    assert r2 == pytest.approx(r2_score(y, predicted), abs=0.05)
    return r2


def test_permutation_ps_near_the_exact_ones():
    x, y = noise(1, 2, COUNT)
    y = y + 0.2 * x
    row = one(x, y)
    exact = stats.pearsonr(x, y).pvalue, stats.spearmanr(x, y).pvalue
    assert 0.02 < exact[0] < 0.5
    error = 4 * (0.25 / 499) ** 0.5
    assert (row.pearson_p, row.spearman_p) == pytest.approx(exact, abs=error)


def test_mutual_information_is_that_of_a_normal_pair(few):
    x, y = noise(0, 2, 1000)
    y = 0.8 * x + 0.6 * y
    assert one(x, y).mi == pytest.approx(-0.5 * np.log(1 - 0.8**2), abs=0.08)
    assert one(x, y).mi == pytest.approx(one(np.exp(x), y**3).mi)  # of ranks alone


@pytest.mark.parametrize("curve", [np.sin, np.square, np.tanh])
def test_the_network_explains_what_a_trained_one_does(curve, few):
    x, y = noise(0, 2, 200)
    y = curve(1.5 * x) + 0.5 * y
    trained = MLPRegressor(
        hidden_layer_sizes=(16,),
        activation="tanh",
        solver="lbfgs",
        alpha=1.0,
        max_iter=2000,
        random_state=0,
    )
    scores = normal_scores(x)[:, None]
    expected = out_of_sample(y, cross_val_predict(trained, scores, y, cv=FOLDS))
    assert expected > 0.3
    assert one(x, y).network == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("tried", [150, pytest.param(400, marks=pytest.mark.slow)])
def test_no_effect_is_found_as_often_as_it_should(few, tried):
    """The distribution of p is uniform on k/40: at most 5 % of it lies up to 0.05."""
    x = pd.DataFrame(np.exp(noise(0, 24, tried)))
    found = pd.concat(
        depends(x.iloc[:, [column]], np.exp(noise(1 + column, 24)), range(24))
        for column in range(tried)
    )
    # A target of its own for each column: those of one target share its permutations.
    low, high = stats.binom.interval(0.999, tried, 0.05)
    assert low > 0
    for statistic in STATISTICS:
        p = found[f"{statistic}_p"]
        assert p.min() >= 1 / 40
        rejected = np.count_nonzero(p <= 0.05)
        assert rejected <= high, statistic
        if statistic != "mi":  # many of which are 0: ties count against an effect
            assert rejected >= low, statistic
            assert stats.kstest(p - 1 / 80, "uniform").pvalue > 1e-3, statistic


@pytest.mark.parametrize("tried", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_no_effect_of_all_together_is_found_as_often_as_it_should(few, monkeypatch, tried):
    """With what is given in between: it moves both the columns and the target."""
    monkeypatch.setattr(dependence, "_boosting_r2", lambda x, y: np.zeros(1))
    found = []
    for seed in range(tried):
        z, y, *x = noise(seed, 6, 40)
        columns = pd.DataFrame(np.transpose(x)).add(z, axis=0)
        row = explains(columns, y + np.tanh(z), range(40), given=z).loc["ridge"]
        found.append((row.r2_beyond_p, row.r2_p))
    low, high = stats.binom.interval(0.999, tried, 0.05)
    beyond, alone = np.count_nonzero(np.array(found) <= 0.05, axis=0)
    assert low <= beyond <= high
    assert alone > high  # the test can see an effect


def test_a_line_is_found_by_all():
    x, y = noise(0, 2, COUNT)
    row = one(x, 2 * x + y)
    assert (row[[f"{statistic}_p" for statistic in STATISTICS]] <= 0.01).all()


def test_a_parabola_is_missed_by_pearson_and_found_by_the_rest():
    x = np.linspace(-1, 1, COUNT)
    row = one(x, x**2 + 0.1 * noise(0, COUNT))
    assert (row[["pearson_p", "spearman_p"]] > 0.2).all()
    assert (row[["dcor_p", "mi_p", "network_p"]] == 1 / 500).all()
    assert row.network > 0.8


def test_a_change_of_spread_alone_is_information_and_no_prediction(few):
    x, y = noise(0, 2, 200)
    row = one(x, y * np.exp(1.5 * x))
    assert row.mi_p == 1 / 40
    assert row.network < 0.1


def test_many_small_effects_are_found_together_only(few):
    x = pd.DataFrame(noise(0, 100, 20))
    y = x.sum(axis=1) + noise(1, 100)
    apart = depends(x, y, range(100))
    together = explains(x, y, range(100), given=noise(2, 100)).loc["ridge"]
    assert apart["network"].max() < 0.25
    assert together.r2 > 0.8
    assert together.r2_p == together.r2_beyond_p == 1 / 40
    assert abs(together.r2_given) < 0.1


def test_a_product_is_found_by_the_boosting_only(few, monkeypatch):
    monkeypatch.setattr(dependence, "REFITS", 19)
    x = pd.DataFrame(noise(0, 300, 3))
    y = np.sign(x[0] * x[1]) + 0.1 * noise(1, 300)
    found = explains(x, y, range(300), given=noise(2, 300))
    assert found.loc["ridge", "r2_p"] > 0.05
    assert found.loc["boosting", "r2"] > 0.3
    assert found.loc["boosting", "r2_p"] == 1 / 20


def test_an_effect_through_what_is_given_is_nothing_beyond_it(few, monkeypatch):
    monkeypatch.setattr(dependence, "REFITS", 19)
    """Both follow confidence, and neither follows it in a line."""
    z, u, v, w = noise(0, 4, 200)
    confidence = 1 / (1 + np.exp(-2 * z))
    x = pd.DataFrame({"a": np.exp(z) + 0.3 * u, "b": z**3 + v})
    y = np.log(1 - confidence) + 0.3 * w
    found = explains(x, y, range(200), given=confidence)
    assert (found["r2"] > 0.6).all()
    assert (found["r2_p"] <= 0.05).all()
    assert (found["r2_given"] > 0.9).all()
    assert (found["r2_beyond"] < 0.03).all()
    assert (found["r2_beyond_p"] > 0.05).all()
    monkeypatch.setattr(dependence, "REFITS", 1)
    own = explains(x, y + u, range(200), given=confidence).loc["ridge"]
    assert own.r2_beyond > 0.2  # what goes past confidence is seen
    assert own.r2_beyond_p == 1 / 40


def test_all_together_is_scikit_learns(few):
    x = pd.DataFrame(noise(0, 60, 4))
    y = x[0] + x[1] ** 2 + noise(1, 60)
    found = explains(x, y, range(60), given=x[2])
    ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 5, 7)))
    boosting = GradientBoostingRegressor(
        learning_rate=0.2, max_depth=2, subsample=0.5, validation_fraction=0.2,
        n_iter_no_change=5, random_state=0,
    )  # fmt: skip
    for name, model in (("ridge", ridge), ("boosting", boosting)):
        predicted = cross_val_predict(model, x.to_numpy(), y.to_numpy(), cv=FOLDS)
        assert found.loc[name, "r2"] == pytest.approx(out_of_sample(y.to_numpy(), predicted))
    assert found["r2_given"].tolist() == pytest.approx(
        [depends(x, y, range(60)).loc[2, "network"]] * 2
    )


def test_a_second_crop_of_each_photograph_says_nothing_new(few):
    x, y, z = noise(4, 3, 40)
    y = y + 0.5 * x
    twice = [np.tile(values, 2) for values in (x, y, z, range(40))]
    once, again = one(x, y), one(twice[0], twice[1], twice[3])
    assert (once.n, again.n, once.groups, again.groups) == (40, 80, 40, 40)
    assert again.drop("n").tolist() == pytest.approx(once.drop("n").tolist())
    columns, doubled = pd.DataFrame({"x": x}), pd.DataFrame({"x": twice[0]})
    first = explains(columns, y, range(40), given=z)
    second = explains(doubled, twice[1], twice[3], given=twice[2])
    pd.testing.assert_frame_equal(first.drop(columns="n"), second.drop(columns="n"))
    # Taken as photographs of their own they would: the test can see it.
    assert one(twice[0], twice[1]).pearson_p <= once.pearson_p
    assert one(twice[0], twice[1]).mi > 2 * once.mi


def test_crops_that_share_a_photographs_chance_are_no_evidence(few, monkeypatch):
    """Ten crops of each of twelve photographs, whose means are independent."""
    for slower in ("_distance_correlations", "_mutual_information"):
        monkeypatch.setattr(dependence, slower, lambda *_: np.zeros((1, 40)))
    monkeypatch.setattr(dependence, "_ridge_r2", lambda *_: np.zeros(40))
    groups, rejected = np.repeat(range(12), 10), 0
    for seed in range(60):
        x, y = noise(seed, 2, 12)[:, groups] + 0.1 * noise(seed + 1000, 2, 120)
        rejected += one(x, y, groups).pearson_p <= 0.05
    assert rejected <= stats.binom.ppf(0.999, 60, 0.05)


def test_columns_are_looked_at_alone_and_corrected_together(few):
    x, z, y = noise(0, 3, 40)
    z[:5] = np.nan
    table = depends(pd.DataFrame({"x": x, "flat": 0.1, "z": z}), y, range(40))
    alone = [f"{statistic}{end}" for statistic in STATISTICS for end in ("", "_p")]
    for name, values in (("x", x), ("z", z)):
        pd.testing.assert_series_equal(
            table.loc[name, ["n", "groups", *alone]],
            one(values, y)[["n", "groups", *alone]],
            check_names=False,
        )
    assert table["n"].tolist() == table["groups"].tolist() == [40, 40, 35]
    assert table.loc["flat", alone].isna().all()
    for statistic in STATISTICS:
        p = table[f"{statistic}_p"]
        assert table[f"{statistic}_p_holm"].tolist() == pytest.approx(holm(p), nan_ok=True)
        kept = benjamini_hochberg(p)
        assert table[f"{statistic}_p_bh"].tolist() == pytest.approx(kept, nan_ok=True)


@settings(max_examples=25)
@examples(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_benjamini_hochberg_is_statsmodels(pvalues):
    expected = multipletests(pvalues, method="fdr_bh")[1]
    assert benjamini_hochberg([np.nan, *pvalues])[1:] == pytest.approx(expected)


def test_benjamini_hochberg_of_nothing_known():
    assert np.isnan(benjamini_hochberg([np.nan])).all()
    assert len(benjamini_hochberg([])) == 0


def test_too_few_photographs_say_nothing(few):
    x, y = noise(0, 2, 29)
    row = one(x[:9], y[:9])
    assert (row.n, row.groups) == (9, 9)
    assert row.drop(["n", "groups"]).isna().all()
    assert one(x[:10], y[:10]).notna().all()
    found = explains(pd.DataFrame({"x": x}), y, range(29), given=x)
    assert (found[["n", "groups", "columns"]] == [29, 29, 1]).all(axis=None)
    assert found.drop(columns=["n", "groups", "columns"]).isna().all(axis=None)


def test_what_does_not_vary_explains_nothing(few):
    x, y = noise(0, 2, 40)
    assert one(x, np.ones(40)).drop(["n", "groups"]).isna().all()
    columns = pd.DataFrame({"x": x, "flat": 1.0, "unknown": np.nan})
    for target, given in ((np.ones(40), x), (y, np.ones(40))):
        assert explains(columns, target, range(40), given=given)["r2"].isna().all()
    found = explains(columns, y, range(40), given=noise(1, 40))
    assert found["columns"].tolist() == [1, 1]
    alone = explains(columns[["x"]], y, range(40), given=noise(1, 40))
    pd.testing.assert_frame_equal(found, alone)


def test_of_many_photographs_some_are_drawn(few, monkeypatch):
    monkeypatch.setattr(dependence, "MOST", 30)
    x, y = noise(0, 2, 60)
    row = one(x, y)
    chosen = np.sort(np.random.default_rng(0).choice(60, 30, replace=False))
    assert (row.n, row.groups) == (60, 60)
    assert row.pearson == pytest.approx(stats.pearsonr(x[chosen], y[chosen]).statistic)


def test_equal_values_are_no_order():
    """Zeros in both columns, sorted alike by where they stand, are not dependent."""
    x, y = np.maximum(noise(0, 2, 100), 0.3)
    assert one(x, y).mi_p > 0.05
    again = one(x, y)
    assert again.tolist() == one(x, y).tolist()
