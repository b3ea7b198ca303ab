"""Moments of all pairs by brute force in extended precision, and how far float64 may be from them."""

import math

import numpy as np

from tests.bounds import assert_within, gamma

TALL, WIDE = (150, 24), (50, 120)
U = 2.0**-53


class Pairs:
    """One form of the rows in extended precision: all pairs by brute force, and how far a result may be from them.

    Radii r are those of the rows about their mean, or, for sparse rows, about zero as well.

    - A row is off by 4 u r from its two differences, and a unit row by (d/2 + 6) u more: a squared distance by
      ``moved``, and a seminorm like the standard deviation of many by no more than that.
    - Sums of n rows of d coordinates, their squares and the square of the product matrix take at most 2 (n + d) + 40
      roundings, relative to sums of absolute values: 2 r² for the mean, 64 r⁴ for the three terms of the variance.
    """

    def __init__(self, rows, *, about_zero=False, error=0.0):
        n, d = rows.shape
        self.n = n
        self.squared = np.array([((rows - row) ** 2).sum(axis=1) for row in rows])
        self.values = self.squared[np.triu_indices(n, 1)]
        y = rows - rows.mean(axis=0)
        r = float(np.sqrt((y * y).sum(axis=1).max()))
        if about_zero:
            r += float(np.sqrt((rows * rows).sum(axis=1).max()))
        row = 4 * U * r + error
        self.moved = 8 * r * row + 4 * row**2
        sums = gamma(2 * (n + d) + 40, "float64")
        self.mean, self.variance = float(self.values.mean()), float(self.values.var())
        self.mean_bound = self.moved + 4 * sums * r**2
        self.fourth = 64 * sums * r**4
        self.variance_bound = 2 * math.sqrt(self.variance) * self.moved + self.moved**2 + self.fourth

    def mean_se(self):
        by_row = self.squared.sum(axis=1) / (self.n - 1)
        return float(2 * np.std(by_row, ddof=1) / math.sqrt(self.n))

    def variance_se(self):
        apart = (self.squared - self.values.mean()) ** 2
        np.fill_diagonal(apart, 0)
        return float(2 * np.std(apart.sum(axis=1) / (self.n - 1), ddof=1) / math.sqrt(self.n))

    def mean_se_bound(self):
        """A sum of squares that is off by E has a root that is off by at most E over it, or √E."""
        se = self.mean_se()
        off = self.fourth * 4 / self.n + (self.moved / math.sqrt(self.n)) ** 2
        return 4 * self.moved + min(off / se if se > 0 else math.inf, math.sqrt(off)) * 2


def forms(x):
    """The rows as they are and over their norms."""
    x = np.asarray(x).astype(np.longdouble)
    unit = x / np.abs(x).max(axis=1, keepdims=True)
    return x, unit / np.sqrt((unit * unit).sum(axis=1, keepdims=True))


def oracles(x, *, sparse=False):
    plain, unit = forms(x)
    return Pairs(plain, about_zero=sparse), Pairs(unit, about_zero=sparse, error=(x.shape[1] / 2 + 6) * U)


def check(found, x, *, sparse=False, variance_se=False):
    """Every figure against brute force, within what float64 allows."""
    plain, unit = oracles(x, sparse=sparse)
    n, d = x.shape
    assert (found.n, found.d, found.n_pairs) == (n, d, n * (n - 1) // 2)
    assert_within(found.squared_distance_mean, plain.mean, plain.mean_bound)
    assert_within(found.squared_distance_variance, plain.variance, plain.variance_bound)
    assert_within(found.squared_distance_mean_se, plain.mean_se(), plain.mean_se_bound())
    relative = plain.variance_bound + 2 * plain.variance * plain.mean_bound / plain.mean
    assert_within(
        found.squared_distance_relative_variance, plain.variance / plain.mean**2, 1.01 * relative / plain.mean**2
    )
    assert_within(found.cosine_mean, 1 - unit.mean / 2, unit.mean_bound / 2 + U)
    assert_within(found.cosine_variance, unit.variance / 4, unit.variance_bound / 4)
    assert_within(found.cosine_mean_se, unit.mean_se() / 2, unit.mean_se_bound() / 2)
    directions = forms(x)[1]
    shares = (directions.sum(axis=0) ** 2 - (directions**2).sum(axis=0)) / (n * (n - 1))
    error = 8 * gamma(2 * (n + d) + 40, "float64")
    assert_within(found.cosine_shares, shares.astype(float), error)
    assert_within(found.cosine_shares.sum(), found.cosine_mean, error)
    if variance_se:
        for got, pairs, scale in ((found.squared_distance_variance_se, plain, 1), (found.cosine_variance_se, unit, 4)):
            bound = 64 * (pairs.variance_bound + math.sqrt(pairs.variance) * pairs.moved)
            assert_within(got, pairs.variance_se() / scale, bound / scale)
    else:
        assert math.isnan(found.squared_distance_variance_se)
        assert math.isnan(found.cosine_variance_se)


def sparse_rows(n, d, *, far=0.0, seed=2):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * (rng.random((n, d)) < 0.2) + np.eye(n, d, k=-1) + np.eye(n, d, k=1)
    x[:, 0] += 1 + far
    return x


def close(a, b, x, *, sparse=False):
    """Two results for the same rows, each within its bound of the truth."""
    plain, unit = oracles(x, sparse=sparse)
    assert (a.n, a.d, a.n_dropped) == (b.n, b.d, b.n_dropped)
    for name, pairs in (("squared_distance", plain), ("cosine", unit)):
        assert_within(getattr(a, f"{name}_mean"), getattr(b, f"{name}_mean"), 2 * pairs.mean_bound)
        assert_within(getattr(a, f"{name}_variance"), getattr(b, f"{name}_variance"), 2 * pairs.variance_bound)
        assert_within(getattr(a, f"{name}_mean_se"), getattr(b, f"{name}_mean_se"), 2 * pairs.mean_se_bound())
    assert_within(a.cosine_shares, b.cosine_shares, 16 * gamma(2 * (a.n + a.d) + 40, "float64"))
