"""Rank correlation of grouped units: SciPy where groups do not matter, simulation where they do."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench.measures import association
from bench.measures.association import across, false_discovery, ranks, weighted_spearman, within


def tied(rng, n):
    return rng.integers(0, 6, n).astype(float)


@pytest.mark.parametrize("n", [3, 10, 101])
def test_with_equal_weights_it_is_the_usual_spearman(n):
    rng = np.random.default_rng(n)
    x, y = tied(rng, n), rng.standard_normal(n)
    x[0], x[-1] = math.inf, 7.0

    got = weighted_spearman(x, y, np.full((2, n), [[1.0], [0.25]]))

    assert got == pytest.approx([stats.spearmanr(x, y).statistic] * 2)
    assert ranks(x, np.ones((1, n)))[0] + 0.5 == pytest.approx(stats.rankdata(x))


def test_whole_weights_are_repetitions():
    rng = np.random.default_rng(0)
    x, y, times = tied(rng, 30), tied(rng, 30), rng.integers(0, 4, 30)

    got = weighted_spearman(x, y, times[None].astype(float))[0]

    assert got == pytest.approx(stats.spearmanr(np.repeat(x, times), np.repeat(y, times)).statistic)


def test_groups_of_one_size_leave_the_usual_spearman_and_of_others_do_not():
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(6), 8)
    x, y = rng.standard_normal((2, 48)) + group

    whole = across(x, y, group)
    assert whole.rho == pytest.approx(stats.spearmanr(x, y).statistic)
    # Seven copies of one group are as many spaces, and still one group.
    again = np.r_[np.arange(48), np.tile(np.flatnonzero(group == 5), 7)]
    more = across(x[again], y[again], group[again])
    assert (more.rho, more.low, more.high, more.p) == pytest.approx((whole.rho, whole.low, whole.high, whole.p))
    assert stats.spearmanr(x[again], y[again]).statistic != pytest.approx(whole.rho, abs=0.01)


def test_the_interval_is_the_jackknife_over_groups():
    rng = np.random.default_rng(2)
    group, (x, y) = grouped(rng, (9,) * 7, 0.5, 0.5)
    z = np.arctanh(stats.spearmanr(x, y).statistic)
    without = np.arctanh([stats.spearmanr(x[group != each], y[group != each]).statistic for each in range(7)])
    se = math.sqrt(6 / 7 * ((without - z) ** 2).sum())

    found = across(x, y, group)

    ends = np.tanh(z + se * stats.t(6).ppf([0.025, 0.975]))
    assert (found.low, found.high) == pytest.approx(ends)
    assert found.p == pytest.approx(2 * stats.t(6).sf(abs(z) / se))


@given(st.integers(0, 10_000))
def test_any_growing_function_and_any_order_of_units_give_the_same(seed):
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 7, 40)
    x, y, order = tied(rng, 40), rng.standard_normal(40), rng.permutation(40)
    same = {"abs": 1e-6, "nan_ok": True}

    got = across(x, y, group), within(x, y, group, group // 2)
    moved = across(np.exp(x), y**3, group + 100), within(np.exp(x), y**3, group, group // 2)
    mixed = across(x[order], y[order], group[order]), within(x[order], y[order], group[order], group[order] // 2)

    for one, other in zip(got * 2, moved + mixed, strict=True):
        assert (other.rho, other.low, other.high, other.p) == pytest.approx((one.rho, one.low, one.high, one.p), **same)


def grouped(rng, sizes, between, inside):
    """Normal values that share a part in each group: their correlations between and inside groups are known."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    shared = rng.multivariate_normal([0, 0], [[1, between], [between, 1]], len(sizes))[group]
    own = rng.multivariate_normal([0, 0], [[1, inside], [inside, 1]], len(group))
    return group, (shared + own).T


@pytest.mark.parametrize(("between", "inside"), [(0.0, 0.0), (0.8, 0.5)])
@pytest.mark.parametrize("sizes", [(80, 80, 40, 10, 10, 10, 1), (60, 60, 60, 10, 10, 10, 10, 10, 1, 1, 1)])
def test_intervals_cover_the_truth_about_as_often_as_they_say(between, inside, sizes):
    rng = np.random.default_rng(len(sizes))
    truth = 6 / math.pi * math.asin((between + inside) / 4)
    draws = 150
    hits, false = 0, 0
    for _ in range(draws):
        group, (x, y) = grouped(rng, sizes, between, inside)
        found = across(x, y, group)
        hits += found.low <= truth <= found.high
        false += found.p < 0.05
    assert 0.88 <= hits / draws <= 0.995
    if not between:
        assert false / draws <= 0.12


def test_an_interval_over_units_would_cover_far_less():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(100):
        _, (x, y) = grouped(rng, (40,) * 7, 0.0, 0.0)
        narrow = across(x, y, np.arange(len(x)))
        hits += narrow.low <= 0 <= narrow.high
    assert hits < 80


def test_within_sources_levels_do_not_matter():
    rng = np.random.default_rng(4)
    source = np.repeat(np.arange(12), 10)
    x = rng.standard_normal(120)
    # Sources stand in the opposite order of what their versions do.
    y = x - 100 * source
    x = x + 100 * source

    found = within(x, y, source, source // 2)

    assert found.rho == pytest.approx(1.0)
    assert across(x, y, source // 2).rho < -0.9
    alone = within(x[:10], -(x[:10] ** 2), source[:10], source[:10])
    assert alone.rho == pytest.approx(stats.spearmanr(x[:10], -(x[:10] ** 2)).statistic)
    assert alone.n_groups == 1
    assert math.isnan(alone.low)


def test_a_source_in_which_the_statistic_stands_still_counts_against_it():
    x, y = np.r_[np.arange(5.0), np.zeros(5)], np.r_[np.arange(5.0), np.arange(5.0)]
    group = np.repeat([0, 1], 5)
    assert within(x, y, group, group).rho == pytest.approx(math.sqrt(0.5))
    # One in which neither moves says nothing.
    assert within(x, np.where(group, 0.0, y), group, group).n_groups == 1


@pytest.mark.parametrize("groups", [1, association.LEAST_GROUPS - 1])
def test_few_groups_have_a_correlation_and_no_interval(groups):
    rng = np.random.default_rng(5)
    group, (x, y) = grouped(rng, (9,) * groups, 0.5, 0.5)
    found = across(x, y, group)
    assert -1 <= found.rho <= 1
    assert [math.isnan(each) for each in (found.low, found.high, found.p)] == [True] * 3
    assert found.n_groups == groups


def test_what_has_no_correlation_is_nan():
    group = np.repeat(np.arange(6), 3)
    rising = np.arange(18.0)
    assert math.isnan(across(np.ones(18), rising, group).rho)
    assert math.isnan(within(np.ones(18), np.ones(18), group, group).rho)
    # A statistic that varies in one group alone has none without that group.
    once = np.where(group == 2, rising, 0.0)
    assert math.isnan(within(once, np.where(group == 2, rising, 0.0), group, group).p)
    assert math.isnan(across(rising, rising, group).p)  # all groups say the same
    assert across(np.empty(0), np.empty(0), np.empty(0, int)) is association.NONE


def test_false_discovery_rates_are_those_of_scipy():
    rng = np.random.default_rng(6)
    p = rng.random(40) ** 3
    p[3] = p[17]
    assert false_discovery(p) == pytest.approx(stats.false_discovery_control(p))
    with_gaps = np.insert(p, [0, 20, 40], math.nan)
    assert false_discovery(with_gaps) == pytest.approx(
        np.insert(stats.false_discovery_control(p), [0, 20, 40], math.nan), nan_ok=True
    )
    assert np.isnan(false_discovery([math.nan])).all()
