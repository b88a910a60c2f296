from math import comb

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from statsmodels.stats.multitest import multipletests

from aliascope.statistics import (
    correlated,
    holm,
    mean_interval,
    mean_intervals,
    median_interval,
    paired,
)

SIZES = [1, 4, 2, 3, 1, 5, 2, 2]
GROUPS = np.repeat([f"photo{i}" for i in range(len(SIZES))], SIZES)


def sample(seed=0, groups=GROUPS):
    """A and B over crops that resemble their photograph."""
    rng = np.random.default_rng(seed)
    _, group = np.unique(groups, return_inverse=True)
    common = rng.gamma(2, 1, group.max() + 1)[group]
    a = common + rng.uniform(0.5, 1, len(groups))
    return a, 0.7 * a + 0.3 * rng.uniform(0.5, 1, len(groups))


def one(a, b, groups, **options):
    return paired(pd.DataFrame({"x": a}), pd.DataFrame({"x": b}), groups, **options).loc["x"]


def means_of(values, groups=GROUPS):
    return pd.Series(values).groupby(groups).mean().to_numpy()


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("sign", [1, -1])
def test_interval_is_students_set_out_on_the_side_of_the_tail(level, sign):
    """Johnson's: t + (γ/√n) (2t² + 1) / 6, Cornish and Fisher's expansion of a studentised mean."""
    a = sign * sample()[0]
    x = means_of(a)
    n, error, t = len(x), stats.sem(x), stats.t.ppf((1 + level) / 2, len(x) - 1)
    skewness = stats.skew(x, bias=False)
    assert sign * skewness > 0.5
    ends = list(stats.t.interval(level, n - 1, x.mean(), error))
    ends[sign > 0] += error * skewness / n**0.5 * (2 * t**2 + 1) / 6
    value, low, high = mean_interval(a, GROUPS, level=level)
    assert value == pytest.approx(x.mean())
    assert (low, high) == pytest.approx(ends)


def test_interval_of_symmetrical_data_is_students():
    x = np.array([1.0, 2, 3, 4, 5])
    expected = stats.t.interval(0.95, 4, 3, stats.sem(x))
    assert mean_interval(x, range(5))[1:] == pytest.approx(expected)


DATA = {
    "normal": lambda rng, size: rng.normal(size=size),
    "gamma": lambda rng, size: rng.gamma(2, 1, size) - 2,
    "lognormal": lambda rng, size: rng.lognormal(0, 0.5, size) - np.exp(0.125),
}


def covers(table, value, prefix=""):
    low, high = table[f"{prefix}low"], table[f"{prefix}high"]
    return ((low <= value) & (high >= value)).mean()


@pytest.mark.parametrize("count", [3, 8, 17])
@pytest.mark.parametrize("kind", DATA)
def test_intervals_hold_what_they_say(kind, count):
    """A photograph has an effect of its own, and 1 to 6 crops that scatter around it."""
    rng = np.random.default_rng(count)
    groups = np.repeat(range(count), rng.choice([1, 2, 6], count))
    values = DATA[kind](rng, (count, 4000))[groups] + rng.normal(0, 0.5, (len(groups), 4000))
    assert 0.925 <= covers(mean_intervals(pd.DataFrame(values), groups), 0) <= 0.985


@pytest.mark.parametrize("count", [8, 17])
def test_intervals_of_a_change_hold_what_they_say(count):
    rng = np.random.default_rng(count)
    groups = np.repeat(range(count), rng.choice([1, 2, 6], count))
    before = rng.lognormal(0, 0.5, (count, 300))[groups] + rng.gamma(2, 0.1, (len(groups), 300))
    after = before * rng.uniform(0.2, 0.8, before.shape)
    table = paired(pd.DataFrame(before), pd.DataFrame(after), groups)
    assert table["change_low"].notna().mean() > 0.95
    assert 0.92 <= covers(table, -0.5, "change_") <= 0.985


def test_the_simulation_sees_an_interval_over_images_fail():
    rng = np.random.default_rng(0)
    groups = np.repeat(range(15), 8)
    values = pd.DataFrame(rng.normal(size=(15, 500))[groups] + rng.normal(0, 0.2, (120, 500)))
    assert covers(mean_intervals(values, range(120)), 0) < 0.7
    assert covers(mean_intervals(values, groups), 0) > 0.92


def test_level_widens_the_interval():
    a, _ = sample()
    narrow, wide = (mean_interval(a, GROUPS, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_interval_of_equal_values_is_a_point():
    value, low, high = mean_interval(np.full(len(GROUPS), 0.1), GROUPS)
    assert value == pytest.approx(0.1)
    assert low == value == high  # to the last bit


def test_interval_of_one_group_is_undefined():
    value, low, high = mean_interval([1.0, 3.0], ["sky", "sky"])
    assert value == 2
    assert np.isnan([low, high]).all()


def test_interval_of_two_groups_is_students():
    expected = stats.t.interval(0.95, 1, 1.5, 0.5)
    assert mean_interval([1.0, 2.0], ["sky", "sea"])[1:] == pytest.approx(expected)


def test_interval_of_nothing_is_undefined():
    assert np.isnan(mean_interval([np.nan, np.nan], ["sky", "sea"])).all()


def test_interval_leaves_nan_out():
    a, _ = sample()
    gap = np.append(a, np.nan)
    assert mean_interval(gap, [*GROUPS, "photo0"]) == mean_interval(a, GROUPS)


def test_limits_of_a_change_are_where_a_paired_test_would_reject():
    a, b = sample()
    row = one(a, b, GROUPS)
    x, y = means_of(a), means_of(b)
    assert row.change == pytest.approx(y.mean() / x.mean() - 1)
    for limit in (row.change_low, row.change_high):
        assert stats.ttest_rel(y, (1 + limit) * x).pvalue == pytest.approx(0.05)
    assert row.change_low < row.change < row.change_high


def test_a_change_from_what_may_be_zero_has_no_limits():
    row = one([0.01, 0.02, 4.0], [0.02, 0.01, 5.0], range(3))
    assert np.isfinite(row.change)
    assert row[["change_low", "change_high"]].isna().all()


def test_a_difference_and_its_test_never_point_apart():
    """Many crops of one photograph fall, one crop of each of ten others rises."""
    groups = np.array([0] * 30 + list(range(1, 11)))
    a = np.full(40, 0.5)
    b = np.where(groups == 0, 0.3 - 0.01 * np.arange(40) / 30, 0.55 + 0.001 * groups)
    row = one(a, b, groups)
    assert (b - a).mean() < 0 < row.difference
    assert row.difference == pytest.approx(row.mean_b - row.mean_a)
    assert row.difference == pytest.approx(means_of(b - a, groups).mean())
    for test in (row.t, row.d_z, row.t_two_sample, row.change):
        assert test > 0
    assert row.low < row.difference < row.high


def test_paired_is_the_ordinary_test_where_groups_are_single_images():
    a, b = sample()
    row = one(a, b, np.arange(len(a)))
    t, p = stats.ttest_rel(b, a)
    t_two_sample, p_two_sample = stats.ttest_ind(b, a)
    assert (row.t, row.p) == pytest.approx((t, p))
    assert row.p_wilcoxon == pytest.approx(stats.wilcoxon(b, a).pvalue)
    assert (row.t_two_sample, row.p_two_sample) == pytest.approx((t_two_sample, p_two_sample))
    assert row.d_z == pytest.approx(t / len(a) ** 0.5)
    assert (row.mean_a, row.sd_a) == pytest.approx((a.mean(), a.std(ddof=1)))
    assert (row.mean_b, row.sd_b) == pytest.approx((b.mean(), b.std(ddof=1)))
    assert (row.n, row.groups) == (len(a), len(a))


def test_paired_tests_take_a_group_as_one_observation():
    a, b = sample()
    row = one(a, b, GROUPS)
    means = pd.DataFrame({"a": a, "b": b}).groupby(GROUPS).mean()
    assert (row.t, row.p) == pytest.approx(tuple(stats.ttest_rel(means["b"], means["a"])))
    assert row.p_wilcoxon == pytest.approx(stats.wilcoxon(means["b"], means["a"]).pvalue)
    assert row.d_z == pytest.approx(row.t / len(SIZES) ** 0.5)
    assert row.t_two_sample == pytest.approx(stats.ttest_ind(means["b"], means["a"]).statistic)
    assert (row.mean_a, row.sd_a) == pytest.approx((means["a"].mean(), means["a"].std()))
    assert (row.n, row.groups) == (len(a), len(SIZES))


def test_paired_columns_do_not_touch_each_other():
    (a, b), (c, d) = sample(0), sample(1)
    c[3] = np.nan
    both = paired(pd.DataFrame({"x": a, "y": c}), pd.DataFrame({"x": b, "y": d}), GROUPS)
    pd.testing.assert_series_equal(both.loc["x"], one(a, b, GROUPS))
    pd.testing.assert_series_equal(both.loc["y"], one(c, d, GROUPS), check_names=False)


def test_paired_drops_a_pair_that_is_not_finite_on_either_side():
    a, b = sample()
    expected = one(a[3:], b[3:], GROUPS[3:])
    a[0], b[1], a[2], b[2] = np.nan, np.nan, np.inf, np.inf
    row = one(a, b, GROUPS)
    assert row.n == len(a) - 3
    tests = ["n", "groups", "mean_a", "sd_a", "mean_b", "sd_b", "t", "p", "d_z", "difference"]
    assert row[tests].tolist() == pytest.approx(expected[tests].tolist())


def test_published_row_of_identical_columns():
    a, _ = sample()
    row = one(a, a.copy(), GROUPS)
    zeros = ["difference", "low", "high", "change", "change_low", "change_high"]
    assert (row[[*zeros, "t", "d_z", "t_two_sample"]] == 0).all()
    assert (row[["p", "p_wilcoxon", "p_two_sample"]] == 1).all()


@pytest.mark.parametrize("count", [2, 3, 20])
def test_a_difference_that_does_not_vary_has_no_test(count):
    row = one(np.full(count, 2.0), np.full(count, 3.0), range(count))
    assert (row.difference, row.change) == (1, 0.5)
    rest = ["low", "high", "change_low", "change_high", "t", "d_z", "p", "p_wilcoxon"]
    assert row[[*rest, "t_two_sample", "p_two_sample"]].isna().all()
    scattered = np.arange(count) / 7 + np.float32(0.1)
    row = one(scattered, (scattered + 0.3).astype(np.float32), range(count))
    assert row[rest].isna().all()  # but for rounding to 32 bits


def test_paired_of_one_group_has_means_and_nothing_else():
    row = one([1.0, 2.0], [2.0, 5.0], ["sky", "sky"])
    assert (row.difference, row.change) == (2, pytest.approx(4 / 3))
    assert row[["low", "high", "change_low", "change_high", "t", "p", "d_z"]].isna().all()


def test_change_from_zero_is_undefined():
    row = one(np.zeros(6), np.arange(6.0), range(6))
    assert np.isinf(row.change)
    assert row[["change_low", "change_high"]].isna().all()
    assert 0 < row.low < row.difference < row.high


def test_paired_of_nothing_known():
    row = one(np.full(3, np.nan), np.ones(3), range(3))
    assert (row.n, row.groups) == (0, 0)
    assert row.drop(["n", "groups"]).isna().all()


VALUES = arrays(float, len(GROUPS), elements=st.floats(0, 1, width=16))


@settings(max_examples=12)
@given(VALUES, VALUES)
def test_swapping_a_and_b_flips_signs(a, b):
    there, back = one(a, b, GROUPS), one(b, a, GROUPS)
    odd = ["difference", "low", "high", "t", "d_z", "t_two_sample"]
    expected = (-back[["difference", "high", "low", "t", "d_z", "t_two_sample"]]).tolist()
    assert there[odd].tolist() == pytest.approx(expected, nan_ok=True, abs=1e-9)
    even = ["n", "p", "p_wilcoxon", "p_two_sample"]
    assert there[even].tolist() == pytest.approx(back[even].tolist(), nan_ok=True)


@settings(max_examples=12)
@given(VALUES, VALUES, st.integers(-3, 3))
def test_unit_does_not_matter(a, b, power):
    row, scaled = one(a, b, GROUPS), one(a * 2.0**power, b * 2.0**power, GROUPS)
    lengths = ["mean_a", "sd_a", "mean_b", "sd_b", "difference", "low", "high"]
    expected = row.where(~row.index.isin(lengths), row * 2.0**power)
    assert scaled.tolist() == pytest.approx(expected.tolist(), nan_ok=True)


@settings(max_examples=25)
@given(st.integers(0, 99), st.permutations(range(len(GROUPS))))
def test_order_of_the_rows_does_not_matter(seed, order):
    a, b = sample(seed)
    row, shuffled = one(a, b, GROUPS), one(a[order], b[order], GROUPS[order])
    assert shuffled.tolist() == pytest.approx(row.tolist(), rel=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_the_textbooks(pvalues):
    expected = [0.0] * len(pvalues)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(pvalues)), key=pvalues.__getitem__)):
        largest = max(largest, min(1.0, pvalues[i] * (len(pvalues) - rank)))
        expected[i] = largest
    assert holm(pvalues) == pytest.approx(expected)
    assert holm([np.nan, *pvalues])[1:] == pytest.approx(expected)


def test_holm_is_statsmodels():
    pvalues = np.random.default_rng(0).uniform(0, 0.1, 20)
    assert holm(pvalues) == pytest.approx(multipletests(pvalues, method="holm")[1])


def test_holm_of_nothing_known():
    assert np.isnan(holm([np.nan, np.nan])).all()
    assert len(holm([])) == 0


def follows(x, y, groups=GROUPS, **options):
    return correlated(pd.DataFrame({"x": x}), y, groups, **options).loc["x"]


def test_correlation_is_scipys():
    x, y = sample()
    row = follows(x, y)
    assert (row.r, row.p) == pytest.approx(tuple(stats.pearsonr(x, y)))
    assert (row.rho, row.rho_p) == pytest.approx(tuple(stats.spearmanr(x, y)))
    assert (row.n, row.groups) == (len(x), len(SIZES))


def test_interval_of_a_correlation_is_the_jackknifes():
    x, y = sample(3)
    y = y**2
    row = follows(x, y)

    def z(keep):
        return np.arctanh(np.corrcoef(x[keep], y[keep])[0, 1])

    left_out = np.array([z(name != GROUPS) for name in np.unique(GROUPS)])
    count = len(left_out)
    error = np.sqrt((count - 1) / count * np.sum((left_out - left_out.mean()) ** 2))
    half = stats.t.ppf(0.975, count - 1) * error
    middle = z(np.full(len(x), fill_value=True))
    assert (row.r_low, row.r_high) == pytest.approx(np.tanh([middle - half, middle + half]))


def test_more_crops_of_the_same_photographs_say_no_more_of_a_correlation():
    x, y = sample()
    y = y + np.random.default_rng(1).normal(0, 1, len(y))
    once, often = follows(x, y), follows(*(np.repeat(v, 5) for v in (x, y, GROUPS)))
    assert often[["r", "r_low", "r_high"]].tolist() == pytest.approx(
        once[["r", "r_low", "r_high"]].tolist(), abs=1e-9
    )
    assert often.n == 5 * once.n
    assert often.groups == once.groups
    assert often.p < once.p  # the published test takes crops as independent


@pytest.mark.parametrize(("count", "rho"), [(4, 0.0), (8, 0.6), (17, 0.6)])
def test_intervals_of_correlations_hold_what_they_say(count, rho):
    rng = np.random.default_rng(count)
    groups = np.repeat(range(count), rng.choice([1, 2, 6], count))
    covered = 0
    for _ in range(100):
        x, noise = rng.normal(size=(2, count))[:, groups] + rng.normal(0, 0.3, (2, len(groups)))
        row = follows(x, rho * x + (1 - rho**2) ** 0.5 * noise, groups)
        covered += row.r_low <= rho <= row.r_high
    assert 90 <= covered <= 99


WHOLE = arrays(float, len(GROUPS), elements=st.integers(0, 20).map(float))


@settings(max_examples=25)
@given(WHOLE, WHOLE, st.integers(-3, 3), st.integers(-50, 50), st.booleans())
def test_units_and_offsets_do_not_touch_a_correlation(x, y, power, offset, mirrored):
    row, other = follows(x, y), follows((-1) ** mirrored * x * 2.0**power + offset, y * 3)
    names = ["r", "r_low", "r_high", "rho", "p", "rho_p"]
    expected = row[names]
    if mirrored:
        expected = row[["r", "r_high", "r_low", "rho", "p", "rho_p"]] * [-1, -1, -1, -1, 1, 1]
    assert other[names].tolist() == pytest.approx(expected.tolist(), nan_ok=True, abs=1e-6)
    if not np.isnan(row.r):
        assert -1 <= row.r <= 1


def test_a_large_offset_costs_no_digits():
    x, y = sample()
    assert follows(x + 1e8, y).r == pytest.approx(follows(x, y).r, abs=1e-6)
    assert follows(x * 1e-200, y * 1e200).r_low == pytest.approx(follows(x, y).r_low)


def test_correlation_leaves_a_pair_out_that_is_not_finite_on_either_side():
    x, y = sample()
    expected = follows(x[3:], y[3:], GROUPS[3:])
    x[0], y[1], x[2], y[2] = np.nan, np.inf, -np.inf, np.nan
    row = follows(x, y)
    assert row.n == len(x) - 3
    names = ["n", "r", "p", "rho", "rho_p"]
    assert row[names].tolist() == pytest.approx(expected[names].tolist())


def test_columns_are_correlated_alone_and_corrected_together():
    (x, y), (z, _) = sample(0), sample(1)
    z[:4] = np.nan
    flat = np.full(len(x), 0.1)
    table = correlated(pd.DataFrame({"x": x, "flat": flat, "z": z}), y, GROUPS)
    assert list(table.index) == ["x", "flat", "z"]
    alone = ["n", "groups", "r", "r_low", "r_high", "p", "rho", "rho_p"]
    for name, values in (("x", x), ("flat", flat), ("z", z)):
        pd.testing.assert_series_equal(
            table.loc[name, alone], follows(values, y)[alone], check_names=False
        )
    assert table["p_holm"].tolist() == pytest.approx(holm(table["p"]), nan_ok=True)
    assert table["rho_p_holm"].tolist() == pytest.approx(holm(table["rho_p"]), nan_ok=True)
    assert table["p_holm"]["x"] == pytest.approx(2 * table["p"].min())  # the flat one is no test


@pytest.mark.parametrize("other", [np.arange(6.0), np.full(6, 0.3)])
def test_a_constant_has_no_correlation(other):
    constant = np.full(6, 0.1)
    for row in (follows(constant, other, range(6)), follows(other, constant, range(6))):
        assert (row.n, row.groups) == (6, 6)
        assert row.drop(["n", "groups"]).isna().all()


def test_fewer_than_three_pairs_have_no_correlation():
    for x in ([1.0, 2.0, np.nan], [np.nan] * 3):
        row = follows(x, [1.0, 2.0, 3.0], range(3))
        assert row.n == np.isfinite(x).sum() == row.groups
        assert row.drop(["n", "groups"]).isna().all()
    assert follows([1.0, 2.0, 4.0], [1.0, 2.0, 3.0], range(3)).r == pytest.approx(0.98198)


def test_one_photograph_has_a_correlation_and_no_interval():
    row = follows([1.0, 2.0, 4.0], [1.0, 2.0, 3.0], ["sky"] * 3)
    assert row.r == pytest.approx(0.98198)
    assert row[["r_low", "r_high"]].isna().all()


def test_a_perfect_correlation_is_a_point():
    x = np.random.default_rng(0).normal(size=30)
    row = follows(x, 3 - 2 * x, range(30))
    assert (row.r, row.r_low, row.r_high) == pytest.approx((-1, -1, -1), abs=1e-12)
    assert row.p == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("n", [6, 11, 12, 40, 200])
def test_interval_of_a_median_is_scipys(n, level):
    x = np.random.default_rng(n).normal(size=n)
    expected = tuple(stats.quantile_test(x, p=0.5).confidence_interval(level))
    assert median_interval(x, level=level)[1:] == pytest.approx(expected, nan_ok=True)
    assert median_interval(x, level=level).value == np.median(x)


@pytest.mark.parametrize("n", range(1, 31))
def test_interval_of_a_median_is_the_shortest_that_covers(n):
    """The binomial sum, in whole numbers."""
    _, low, high = median_interval(np.arange(n))
    if np.isnan(low):
        assert n < 6
        return
    assert low + high == n - 1

    def covers(skipped):
        outside = 2 * sum(comb(n, k) for k in range(skipped + 1))
        return 100 * outside <= 5 * 2**n

    assert covers(int(low))
    assert not covers(int(low) + 1)


def test_interval_of_a_median_leaves_out_what_is_not_finite():
    x = [3.0, 1.0, 2.0, 5.0, 4.0, 6.0]
    assert median_interval([*x, np.nan, np.inf]) == median_interval(x) == (3.5, 1, 6)
    assert np.isnan(median_interval([])).all()
    assert median_interval(x[:3])[0] == 2
    assert np.isnan(median_interval(x[:3])[1:]).all()
