"""Influence values against the delete-one jackknife, which recomputes each statistic without each row."""

import numpy as np
import pytest

from geomkit.auditing import influences

N = 400


def skewness(values):
    apart = values - values.mean()
    return (apart**3).mean() / (apart**2).mean() ** 1.5


def gini(values):
    return np.abs(values[:, None] - values).mean() / (2 * values.mean())


def slope(logs):
    logs = np.sort(logs)
    kept = int(len(logs) * 0.9)
    heights = -np.log1p(-np.arange(1, kept + 1) / len(logs))
    return logs[:kept] @ heights / (logs[:kept] @ logs[:kept])


RNG = np.random.default_rng(0)
COUNTS, LENGTHS, LOGS = RNG.poisson(10, N), RNG.gamma(3, size=N), RNG.exponential(0.1, N)
ABOVE = RNG.gamma(2, size=N)
CASES = {
    "skewness": (influences.skewness, skewness, (COUNTS,)),
    "gini": (influences.gini, gini, (COUNTS,)),
    "twonn": (influences.twonn, slope, (LOGS,)),
    "variation": (influences.variation, lambda x: x.std() / x.mean(), (LENGTHS,)),
    "mle": (influences.mle, lambda x: 1 / (1 / x).mean(), (LENGTHS,)),
    "ratio": (influences.ratio, lambda x, y: x.mean() / y.mean(), (ABOVE, ABOVE + LENGTHS)),
}


@pytest.mark.parametrize("name", CASES)
def test_influences_are_what_the_jackknife_finds(name):
    influence, statistic, data = CASES[name]
    found = influence(*data)
    whole = statistic(*data)
    without = np.array([statistic(*(np.delete(each, row) for each in data)) for row in range(N)])
    jackknife = (N - 1) * (whole - without)
    assert abs(found.mean()) <= 1e-9 * np.abs(found).max()
    # The two differ in what is of second order in 1/n.
    assert np.corrcoef(found, jackknife)[0, 1] > 0.999
    assert influences.standard_error(found) == pytest.approx(influences.standard_error(jackknife), rel=0.08)


@pytest.mark.parametrize("name", ["twonn", "mle"])
def test_rows_left_out_have_no_influence(name):
    influence, _, (data,) = CASES[name]
    with_holes = np.insert(data.astype(float), [0, 7, 7, N], np.nan)
    found = influence(with_holes)
    used = np.isfinite(with_holes)
    assert not found[~used].any()
    # The mean over all rows of what those used move.
    np.testing.assert_allclose(found[used], influence(data) * (N + 4) / N)
