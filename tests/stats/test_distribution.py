import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geomkit.errors import InvalidInputError
from geomkit.kernels import Backend
from geomkit.pairwise.reducers import Tally
from geomkit.stats.distribution import Distribution
from tests.bounds import assert_between, assert_within
from tests.stats.oracle import counter_reach, cumulative_bracket, quantile_bracket

SHARES = np.array([0, 0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1])


def distribution(values, centre=0.0):
    """The distribution of values that lie on no tile, in float64."""
    tally = Tally(Backend.REFERENCE, centre)
    tally.update(np.asarray(values, np.float64)[None], slice(0, 1), slice(1, 1 + len(values)))
    return Distribution.of(tally)


def samples():
    rng = np.random.default_rng(6)
    return {
        "normal": rng.standard_normal(5000),
        "two clumps": np.concatenate([np.full(400, -0.7), np.full(700, 0.9013)]),
        "low ends of counters": np.repeat(1 + 2.0**-7 * np.arange(20) - 2.0**-8 * 0.99, 50),
        "high ends of counters": np.repeat(1 + 2.0**-7 * np.arange(20) + 2.0**-8 * 0.99, 50),
        "many magnitudes": rng.choice([-1, 1], 3000) * 10.0 ** rng.uniform(-12, 2, 3000),
        "zeros": np.concatenate([np.zeros(500), rng.random(300)]),
        "one value": np.full(300, 0.3),
    }


@pytest.mark.parametrize("centre", [0.0, 0.25, -1.0])
@pytest.mark.parametrize("name", list(samples()))
def test_quantiles_lie_within_the_documented_reach(name, centre):
    values = samples()[name]
    assert_between(distribution(values, centre).quantile(SHARES), *quantile_bracket(values, SHARES, centre, 0))


@pytest.mark.parametrize("centre", [0.0, 0.25])
@pytest.mark.parametrize("name", list(samples()))
def test_quantiles_ascend_and_end_at_the_extremes(name, centre):
    values = samples()[name]
    found = distribution(values, centre)
    assert (np.diff(found.quantile(np.linspace(0, 1, 300))) >= 0).all()
    assert found.quantile(0) == values.min()
    assert found.quantile(1) == values.max()


def test_each_rank_has_its_own_value():
    values = np.sort(np.random.default_rng(2).uniform(-1, 1, 257))
    # A share of k/256 of 257 values is the value of rank k, exactly.
    shares = np.arange(257) / 256
    assert_within(distribution(values).quantile(shares), values, counter_reach(values, 0, 0))
    clumps = np.repeat([-0.75, 0.125, 0.5, 0.9], [64, 1, 100, 92])
    assert_within(distribution(clumps).quantile(shares), clumps, counter_reach(clumps, 0, 0))


def test_most_quantiles_of_smooth_data_are_much_finer_than_a_counter():
    values = np.random.default_rng(1).standard_normal(200_000)
    shares = np.linspace(0.01, 0.99, 99)
    got, want = distribution(values).quantile(shares), np.quantile(values, shares)
    assert np.median(np.abs(got - want)) < 2.0**-10


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=60), st.floats(0, 1), st.floats(-1, 1, width=16))
def test_any_quantile_of_anything(values, share, centre):
    values = np.array(values)
    low, high = quantile_bracket(values, share, centre, 0)
    assert low <= distribution(values, centre).quantile(share) <= high


def test_a_quantile_is_a_float_and_quantiles_an_array():
    found = distribution(samples()["normal"])
    assert isinstance(found.quantile(0.5), float)
    assert found.quantile([[0.1, 0.2]]).shape == (1, 2)


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan, [0.5, 2]])
def test_shares_outside_0_and_1_are_refused(q):
    with pytest.raises(InvalidInputError, match=r"q must lie in \[0, 1\]; got"):
        distribution([1.0, 2.0]).quantile(q)


@pytest.mark.parametrize("centre", [0.0, 0.25])
@pytest.mark.parametrize("name", list(samples()))
def test_cumulative_counts_lie_between_those_of_near_values(name, centre):
    values = samples()[name]
    at = np.linspace(values.min() - 0.1, values.max() + 0.1, 57)
    found = distribution(values, centre).cumulative(at)
    assert_between(found, *cumulative_bracket(values, at, centre, 0))
    assert (np.diff(found) >= 0).all()
    assert found[0] == 0
    assert found[-1] == len(values)


def test_counters_are_divided_in_proportion():
    # The counter of 1 + 2^-7 holds what lies within 2^-8 of it.
    values = 1 + 2.0**-7 + 2.0**-8 * np.linspace(-1, 1, 1001)[1:-1]
    found = distribution(values)
    assert np.count_nonzero(found.counts) == 1
    at = np.quantile(values, [0.1, 0.25, 0.5, 0.9])
    assert_within(found.cumulative(at), 999 * np.array([0.1, 0.25, 0.5, 0.9]), 1)
    counts, _ = found.histogram(10, (values[0], values[-1]))
    assert_within(counts, 99.9, 1)


@settings(max_examples=60)
@given(
    st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50),
    st.floats(-1, 1, width=16),
    st.integers(1, 40),
)
def test_a_histogram_loses_nothing_inside_its_range(values, centre, bins):
    counts, edges = distribution(values, centre).within(-1, 1).histogram(bins, (-1.0, 1.0))
    assert len(counts) == bins
    assert edges[0] == -1
    assert edges[-1] == 1
    assert_within(counts.sum(), len(values), 1e-9)
    assert (counts >= 0).all()


def test_a_histogram_sees_only_its_range():
    counts, edges = distribution(np.array([0.1, 0.2, 0.3, 0.6])).histogram(4, (0.15, 0.45))
    assert_within(edges, [0.15, 0.225, 0.3, 0.375, 0.45], 1e-15)
    assert_within([counts.sum(), counts[0]], [2, 1], 1e-9)


def test_values_beyond_the_interval_are_projected_onto_it():
    found = distribution(np.array([1.0000001, 1.0000002, -1.0000001, 0.5]), 0.5).within(-1, 1)
    counts, _ = found.histogram(10, (-1.0, 1.0))
    assert (found.minimum, found.maximum) == (-1, 1)
    assert counts.sum() == 4
    assert counts[0] == 1
    assert counts[-1] == 2


def test_fine_histograms_do_not_need_bins_times_counters_of_memory():
    rng = np.random.default_rng(0)
    values = rng.choice([-1, 1], 300_000) * 10.0 ** rng.uniform(-12, 0, 300_000)
    found = distribution(values)
    assert np.count_nonzero(found.counts) > 8000
    tracemalloc.start()
    counts, _ = found.histogram(20_000, (-1.0, 1.0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert_within(counts.sum(), len(values), 1e-6)
    assert peak < 2**24


@pytest.mark.parametrize("bins", [0, -3, 2.5, True, "10"])
def test_bins_must_be_a_whole_number(bins):
    with pytest.raises(InvalidInputError, match="bins must be a whole number of at least 1; got"):
        distribution([1.0, 2.0]).histogram(bins, (0.0, 1.0))


@pytest.mark.parametrize("limits", [(1.0, 1.0), (1.0, 0.0), (0.0, math.inf), (math.nan, 1.0)])
def test_ranges_must_ascend(limits):
    with pytest.raises(InvalidInputError, match="range must be two finite numbers in ascending order; got"):
        distribution([1.0, 2.0]).histogram(3, limits)


@pytest.mark.parametrize("centre", [0.0, 0.25])
@pytest.mark.parametrize("name", list(samples()))
def test_moments(name, centre):
    values = samples()[name]
    found = distribution(values, centre)
    # Power sums in float64, about a centre that may lie some standard deviations off.
    spread = np.abs(values - centre).max() ** 2
    assert_within(found.mean, values.mean(), 1e-13 * (1 + np.abs(values).max()))
    assert_within(found.variance, values.var(), 1e-13 * spread)
    assert_within(found.std**2, values.var(), 1e-13 * spread)
    if name != "one value":
        z = (values - values.mean()) / values.std()
        tolerance = 1e-12 * (spread / values.var()) ** 2
        assert_within(found.skewness, np.mean(z**3), tolerance)
        assert_within(found.kurtosis, np.mean(z**4) - 3, tolerance)


def test_moments_of_equal_values_are_nothing_or_unknown():
    found = distribution(np.full(7, 0.25), 0.25)
    assert found.std == found.variance == 0
    assert math.isnan(found.skewness)
    assert math.isnan(found.kurtosis)
    assert found.mean == found.quantile(0.3) == found.mean_abs == 0.25


@pytest.mark.parametrize("centre", [0.0, 0.25])
@pytest.mark.parametrize("name", list(samples()))
def test_mean_magnitude(name, centre):
    values = samples()[name]
    bound = np.mean(counter_reach(values, centre, 0))
    assert_within(distribution(values, centre).mean_abs, np.abs(values).mean(), bound)


def test_counters_that_straddle_nothing_split_their_magnitude():
    # Spread evenly over a counter about -1 + 1 = 0, whose lower half is twice as fine as its upper half.
    width = 2.0**-7
    values = -1 + 1 + np.linspace(-width / 4, width / 2, 30001)[1:-1]
    found = distribution(values, -1.0)
    assert np.count_nonzero(found.counts) == 1
    assert_within(found.mean_abs, np.abs(values).mean(), 1e-6)
