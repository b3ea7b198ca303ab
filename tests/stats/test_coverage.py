"""How often value ± 1.96 standard errors holds the true value, over rows drawn anew: 95 % of the time, or nearly."""

import functools
import math

import numpy as np
import pytest
from scipy.special import gammaln, hyp1f1

from geomkit.stats.cosine import cosine_stats
from geomkit.stats.dimension import mle_of, twonn_of
from geomkit.stats.hubness import hubness_of
from geomkit.stats.moments import moments
from geomkit.stats.neighbors import neighbors

DRAWS, WIDE = 200, 1.96
LOW, HIGH = 0.90, 0.99
"""A share of 95 % over 200 draws has a standard error of 1.5 %."""

CENTRES = np.random.default_rng(1).standard_normal((5, 16))
SPREAD, SHIFT = 0.7, 0.4


def shifted(rng, n, d):
    return rng.standard_normal((n, d)) + SHIFT


def gaussian(rng, n, d):
    return rng.standard_normal((n, d))


def clustered(rng, n, d):
    return CENTRES[rng.integers(0, 5, n), :d] + SPREAD * rng.standard_normal((n, d))


def anisotropic(rng, n, d):
    return rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.7


def rolled(rng, n, d):
    """A plane rolled up: two dimensions that bend through three."""
    turn, x = 1.5 * np.pi * (1 + 2 * rng.random(n)), np.zeros((n, d))
    x[:, 0], x[:, 1], x[:, 2] = turn * np.cos(turn), 21 * rng.random(n), turn * np.sin(turn)
    return x


def covered(values, errors, truth):
    return np.mean(np.abs(np.asarray(values) - truth) <= WIDE * np.asarray(errors))


def pull(length, d):
    """Mean of x̂·u of x from N(m, 1) in d dimensions, u the direction of m, whose length is this."""
    ratio = math.exp(gammaln((d + 1) / 2) - gammaln(d / 2 + 1))
    return length / math.sqrt(2) * ratio * hyp1f1(0.5, d / 2 + 1, -(length**2) / 2)


def mean_of_directions(kind, d):
    """Its squared length is the mean cosine of two rows drawn apart."""
    if kind is shifted:
        return np.ones(d) / math.sqrt(d) * pull(SHIFT * math.sqrt(d), d)
    lengths = np.linalg.norm(CENTRES, axis=1)
    return np.mean([at / far * pull(far / SPREAD, d) for at, far in zip(CENTRES, lengths, strict=True)], axis=0)


@pytest.mark.parametrize("kind", [shifted, clustered])
def test_the_true_mean_cosine_is_that_of_many_rows(kind):
    x = kind(np.random.default_rng(9), 200_000, 16)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    # A coordinate of a direction varies by 1/4 about its mean, and four standard errors of 200,000 are 0.009 of that.
    assert x.mean(axis=0) == pytest.approx(mean_of_directions(kind, 16), abs=0.0025)


@pytest.mark.parametrize("kind", [shifted, clustered])
def test_mean_cosine(kind):
    truth = float(np.square(mean_of_directions(kind, 16)).sum())
    draws = [kind(np.random.default_rng([seed, 1]), 300, 16) for seed in range(DRAWS)]
    fast, swept = ([of(x, threads=1) for x in draws] for of in (moments, cosine_stats))
    assert LOW <= covered([f.cosine_mean for f in fast], [f.cosine_mean_se for f in fast], truth) <= HIGH
    assert LOW <= covered([f.mean for f in swept], [f.mean_se for f in swept], truth) <= HIGH


def test_mean_cosine_of_centred_rows_errs_on_the_wide_side():
    # No row's own mean cosine differs from 0 there: the error is of second order, pairs alone, which influence values
    # count for both of their rows. The variance is 2/(n(n-1)d), and half of what is claimed.
    found = [moments(gaussian(np.random.default_rng([seed, 2]), 300, 16), threads=1) for seed in range(DRAWS)]
    errors = np.array([f.cosine_mean_se for f in found])
    assert covered([f.cosine_mean for f in found], errors, 0.0) >= 0.95
    # The mean of 200 variances that 300 values vary by some 10 % each.
    assert np.mean(errors**2) == pytest.approx(2 * 2 / (300 * 299 * 16), rel=0.06)


@functools.cache
def found(kind, n, d, metric):
    draws = (kind(np.random.default_rng([seed, n, d]), n, d) for seed in range(DRAWS))
    return [neighbors(x, 10, metric=metric, threads=1) for x in draws]


NEAR = [(gaussian, 300, 4, "euclidean"), (clustered, 300, 16, "cosine"), (anisotropic, 300, 24, "euclidean")]


def expected(values):
    """What the estimator gives on average on so many rows: it is biased, and an interval holds no more than this.

    From the draws themselves, to which it is close by construction: by 0.07 of a standard error, which moves the
    coverage by less than 0.2 %.
    """
    return np.mean(values)


@pytest.mark.parametrize(("kind", "n", "d", "metric"), [*NEAR, (gaussian, 300, 24, "euclidean")])
def test_hubness_skewness(kind, n, d, metric):
    results = [hubness_of(each) for each in found(kind, n, d, metric)]
    values, errors = [r.skewness for r in results], [r.skewness_se for r in results]
    assert LOW <= covered(values, errors, expected(values)) <= HIGH
    if (kind, d) == (gaussian, 24):
        # The hubs of high dimensions: a jackknife as if occurrences were independent says too little.
        assert expected(values) > 2
        assert covered(values, [jackknife(r.occurrence) for r in results], expected(values)) < 0.88


def jackknife(times):
    """The standard error of a skewness of independent draws."""
    left = [np.delete(times, at) for at in range(len(times))]
    z = np.array(left, float)
    z -= z.mean(axis=1, keepdims=True)
    skewness = (z**3).mean(axis=1) / (z**2).mean(axis=1) ** 1.5
    return skewness.std() * math.sqrt(len(times) - 1)


@pytest.mark.parametrize(("kind", "n", "d", "metric"), [*NEAR, (rolled, 300, 3, "euclidean")])
@pytest.mark.parametrize("method", [twonn_of, mle_of])
def test_dimension(method, kind, n, d, metric):
    results = [method(each) for each in found(kind, n, d, metric)]
    values, errors = [r.dimension for r in results], [r.dimension_se for r in results]
    assert LOW <= covered(values, errors, expected(values)) <= HIGH
    # Standard errors are the spread of the draws, which 200 of them know to 5 %; not right by width alone.
    assert 0.8 < math.sqrt(np.mean(np.square(errors))) / np.std(values, ddof=1) < 1.45


def test_twonn_covers_the_dimension_itself_where_it_is_unbiased():
    # Two dimensions without an edge: a torus of two circles, each of length 1, in the plane of its own.
    def torus(rng):
        turn = 2 * np.pi * rng.random((500, 2))
        return np.column_stack([np.cos(turn), np.sin(turn)])

    draws = [
        neighbors(torus(np.random.default_rng([seed, 3])), 2, metric="euclidean", threads=1) for seed in range(DRAWS)
    ]
    results = [twonn_of(each) for each in draws]
    assert LOW <= covered([r.dimension for r in results], [r.dimension_se for r in results], 2.0) <= HIGH
