"""Intervals over drawn units against all subsets of a small population, binomial bounds, and closed forms."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import optimize, stats

from geomkit.sampling.intervals import Adjusted, Sums, furthest, hoeffding, student

ONE = np.array([0.0, 1.0])
"""Weights of the kernel that counts pairs; the kernel at hand has the first column."""
FIRST = np.array([1.0, 0.0])


def sums(kernel, chosen, *, more=()):
    """Sums over the pairs of chosen units, of kernels given as full matrices."""
    chosen = list(chosen)
    parts = [each[np.ix_(chosen, chosen)] * (1 - np.eye(len(chosen))) for each in (kernel, *more)]
    parts.append(1 - np.eye(len(chosen)))
    flat = np.stack(parts).reshape(len(parts), -1)
    return Sums(np.stack([each.sum(axis=1) for each in parts], axis=1), flat @ flat.T / 2, len(kernel))


def kernel_of(kind, n, seed=0):
    rng = np.random.default_rng(seed)
    rest = np.triu(rng.standard_normal((n, n)), 1)
    own = rng.standard_normal(n)
    if kind == "own":
        found = own[:, None] + own + 0.1 * (rest + rest.T)
    elif kind == "rest":
        found = rest + rest.T
    else:
        points = rng.standard_normal((n, 3))
        found = (points @ points.T > 0.2).astype(float)
    np.fill_diagonal(found, 0)
    return found


def over_all_subsets(kernel, m):
    n = len(kernel)
    pairs = kernel[np.triu_indices(n, 1)]
    means, first = [], []
    for chosen in combinations(range(n), m):
        found = sums(kernel, chosen)
        means.append(found.mean(FIRST))
        first.append(found)
    return pairs.mean(), np.array(means), first


@pytest.mark.parametrize("kind", ["own", "rest", "share"])
def test_the_mean_over_drawn_pairs_is_unbiased(kind):
    exact, means, _ = over_all_subsets(kernel_of(kind, 8), 5)
    assert means.mean() == pytest.approx(exact, abs=1e-13)


@pytest.mark.parametrize(("n", "m"), [(8, 5), (9, 6), (10, 5)])
@pytest.mark.parametrize("kind", ["own", "rest", "share"])
def test_the_variance_that_is_said_is_that_over_all_subsets(kind, n, m, monkeypatch):
    # Without putting terms to 0 that come out negative, each subset's estimate is unbiased.
    monkeypatch.setattr("geomkit.sampling.intervals.max", lambda value, _: value, raising=False)
    for seed in range(3):
        _, means, found = over_all_subsets(kernel_of(kind, n, seed), m)
        assert np.mean([each.variance(FIRST) for each in found]) == pytest.approx(means.var(), rel=1e-9)


@pytest.mark.parametrize("kind", ["own", "rest", "share"])
def test_putting_terms_to_0_only_widens(kind):
    _, means, found = over_all_subsets(kernel_of(kind, 8), 5)
    estimates = np.array([each.variance(FIRST) for each in found])
    assert (estimates >= 0).all()
    assert estimates.mean() >= means.var() * (1 - 1e-9)


def test_a_variance_does_not_see_a_constant_and_scales_with_the_square():
    kernel = kernel_of("own", 12)
    plain = sums(kernel, range(9)).variance(FIRST)
    assert sums(kernel * 3 + 100, range(9)).variance(FIRST) == pytest.approx(9 * plain, rel=1e-9)
    assert sums(kernel, range(9)).variance(ONE) == 0


def test_nothing_is_left_to_vary_as_all_units_are_drawn():
    kernel = kernel_of("own", 40)
    assert sums(kernel, range(40)).variance(FIRST) == 0
    few, many = (sums(kernel, range(m)).variance(FIRST) for m in (10, 35))
    assert many < few / 10


def test_bearing_counts_the_units_that_deviate():
    kernel = np.zeros((30, 30))
    assert sums(kernel, range(30)).bearing(FIRST) == math.inf
    own = np.zeros(30)
    own[:4] = [1, -1, 1, -1]
    assert sums(own[:, None] + own, range(30)).bearing(FIRST) == pytest.approx(4)


def test_without_controls_the_plain_mean_and_variance():
    found = sums(kernel_of("own", 30), range(25))
    plain = Adjusted.of(found, FIRST, np.empty((0, 2)), np.empty(0))
    assert (plain.value, plain.shift, plain.variance) == (found.mean(FIRST), 0.0, found.variance(FIRST))


def test_a_control_that_is_the_kernel_gives_its_known_mean():
    kernel = kernel_of("own", 60, 1)
    control = 2 * kernel + 5
    truth = kernel[np.triu_indices(60, 1)].mean()
    found = sums(kernel, range(40), more=[control])
    adjusted = Adjusted.of(found, np.eye(3)[0], np.eye(3)[1:2], np.array([2 * truth + 5]))
    assert adjusted.value == pytest.approx(truth, rel=1e-9)
    assert adjusted.shift == pytest.approx(found.mean(np.eye(3)[0]) - truth, rel=1e-9)
    assert adjusted.variance < 1e-9 * found.variance(np.eye(3)[0])


def test_slopes_are_those_of_least_squares_over_the_units_sums():
    rng = np.random.default_rng(3)
    controls = [kernel_of("own", 50, seed) for seed in (1, 2)]
    kernel = kernel_of("own", 50, 5) + 0.7 * controls[0] - 2 * controls[1]
    chosen = np.sort(rng.choice(50, 30, replace=False))
    found = sums(kernel, chosen, more=controls)
    known = np.array([each[np.triu_indices(50, 1)].mean() for each in controls])
    units = found.by_unit[:, :3] - found.by_unit[:, :3].mean(axis=0)
    slopes = np.linalg.lstsq(units[:, 1:], units[:, 0], rcond=None)[0]
    means = found.by_unit[:, :3].sum(axis=0) / (30 * 29)
    adjusted = Adjusted.of(found, np.eye(4)[0], np.eye(4)[1:3], known)
    assert adjusted.value == pytest.approx(means[0] - slopes @ (means[1:] - known), rel=1e-9)
    # One control said twice is one control.
    twice = Adjusted.of(found, np.eye(4)[0], np.eye(4)[[1, 1]], known[[0, 0]])
    once = Adjusted.of(found, np.eye(4)[0], np.eye(4)[1:2], known[:1])
    assert twice.value == pytest.approx(once.value, rel=1e-9)
    assert twice.variance == pytest.approx(once.variance, rel=1e-9)


def test_an_adjusted_variance_is_honest_where_the_controls_explain_nothing():
    """Simulated: regressing out two unrelated controls with slopes of the sample costs what is said, and more."""
    n, m, kernel = 400, 30, kernel_of("own", 400, 11)
    controls = [kernel_of("own", n, seed) for seed in (12, 13)]
    known = np.array([each[np.triu_indices(n, 1)].mean() for each in controls])
    rng, values, said = np.random.default_rng(0), [], []
    for _ in range(1500):
        found = sums(kernel, rng.choice(n, m, replace=False), more=controls)
        adjusted = Adjusted.of(found, np.eye(4)[0], np.eye(4)[1:3], known)
        values.append(adjusted.value)
        said.append(adjusted.variance)
    assert 1.15 < np.mean(said) / np.var(values) < 1.45


def test_freedom_is_fewer_where_few_units_bear_the_variance():
    own = np.random.default_rng(0).standard_normal(200)
    even = Adjusted.of(sums(np.sign(own)[:, None] + np.sign(own), range(150)), FIRST, np.empty((0, 2)), np.empty(0))
    own[0] = 30
    heavy = Adjusted.of(sums(own[:, None] + own, range(150)), FIRST, np.empty((0, 2)), np.empty(0))
    assert even.df > 140
    assert 1 < heavy.df < 5


def test_how_far_the_sample_is_off_in_its_controls():
    found = sums(kernel_of("own", 60), range(40))
    se, mean = math.sqrt(found.variance(FIRST)), found.mean(FIRST)
    assert furthest(found, np.empty((0, 2)), np.empty(0)) == 0
    assert furthest(found, np.stack([FIRST, FIRST]), np.array([mean + 3 * se, mean - se])) == pytest.approx(3)
    assert furthest(found, ONE[None], np.array([1.0])) == 0
    assert furthest(found, ONE[None], np.array([0.5])) == math.inf


def test_student_is_scipy():
    assert student(7.5, 0.9) == pytest.approx(stats.t.ppf(0.95, 7.5), rel=1e-10)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("drawn", [20, 51, 4000])
def test_hoeffding_inverts_the_bound_of_chernoff(share, drawn):
    low, high = hoeffding(share, drawn, 0.9)
    assert low <= share <= high
    most = math.log(2 / 0.1) / (drawn // 2)
    for end in (low, high):
        if end not in {0.0, 1.0}:
            assert stats.entropy([share, 1 - share], [end, 1 - end]) == pytest.approx(most, rel=1e-6)
    if share == 0:
        assert (low, high) == (0, pytest.approx(1 - math.exp(-most)))
    if share == 1:
        assert (low, high) == (pytest.approx(math.exp(-most)), 1)


def test_hoeffding_holds_for_binomial_draws():
    # Pairs without a common unit, so that the mean is a binomial share: both tails together at most 5 %.
    pairs = 30
    ends = [hoeffding(hits / pairs, 2 * pairs, 0.95) for hits in range(pairs + 1)]
    for share in (0.01, 0.1, 0.35, 0.5):
        chance = stats.binom.pmf(np.arange(pairs + 1), pairs, share)
        missed = sum(chance[k] for k, (low, high) in enumerate(ends) if not low <= share <= high)
        assert missed <= 0.05


def test_the_reach_of_a_share_of_0_is_as_documented():
    _, high = hoeffding(0.0, 10_000, 0.95)
    assert high * 10_000 == pytest.approx(7.4, abs=0.05)
    assert optimize.brentq(lambda t: 5000 * math.log1p(-t) + math.log(2 / 0.05), 0, 0.5) == pytest.approx(
        high, rel=1e-6
    )
