"""Intervals beside those of SciPy."""

import math

import pytest
from scipy import stats

from geomkit.core.intervals import Z95, wilson


def test_the_normal_quantile():
    assert stats.norm.ppf(0.975) == Z95


@pytest.mark.parametrize(("hits", "of"), [(0, 20), (1, 20), (7, 20), (20, 20), (1, 40), (20, 40), (39, 40), (0, 7)])
@pytest.mark.parametrize("confidence", [0.95, 0.5])
def test_wilson_is_that_of_scipy(hits, of, confidence):
    low, high = wilson(hits / of, of, stats.norm.ppf((1 + confidence) / 2))
    expected = stats.binomtest(hits, of).proportion_ci(confidence, method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-12)
    assert low <= hits / of <= high
    assert low >= 0
    assert high <= 1


def test_a_share_without_variance_is_its_own_interval():
    assert wilson(0.3, math.inf) == (0.3, 0.3)
