"""Centring: the mean goes to 0, and with it the mean cosine, by as much as theory says."""

import math

import numpy as np
import pytest

from geomkit.transforms import Centering
from tests.transforms.cases import rows

U = 2.0**-53


def mean_cosine(x):
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return (np.square(unit.sum(axis=0)).sum() - len(x)) / (len(x) * (len(x) - 1))


@pytest.mark.parametrize("n", [1, 2, 300, 20_000])
@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_the_mean_is_0_afterwards(n, shift):
    x = rows(n) + shift
    fitted = Centering().fit(x)
    y = fitted.transform(x)
    assert np.abs(y.astype(np.longdouble).mean(axis=0)).max() <= (n / 128 + 128) * U * np.abs(x).max()
    np.testing.assert_allclose(
        fitted.mean_,
        x.mean(axis=0, dtype=np.longdouble).astype(float),
        rtol=0,
        atol=(n / 128 + 128) * U * np.abs(x).max(),
    )
    assert np.array_equal(y, x - fitted.mean_)


def test_queries_lose_the_mean_of_the_corpus():
    fitted = Centering().fit([[1.0, 5.0], [3.0, 5.0]])
    assert fitted.transform([[2.0, 6.0], [0.0, 0.0]]).tolist() == [[0.0, 1.0], [-2.0, -5.0]]


def test_equal_rows_become_exactly_0():
    x = np.tile(np.float32([0.1, 1e7, -3e-8]), (1000, 1))
    assert not Centering().fit_transform(x).any()


@pytest.mark.parametrize("share", [0.2, 1.0, 4.0])
def test_mean_cosine_falls_from_what_a_shared_mean_makes_it_to_that_of_random_rows(share):
    """With |μ|² = share · d σ², a cosine is near |μ|²/(|μ|² + d σ²); without μ, 0 ± √(2/(d n (n - 1)))."""
    n, d = 1000, 600
    rng = np.random.default_rng(5)
    spread = np.exp(rng.uniform(-0.5, 0.5, d))
    mu = rng.standard_normal(d)
    mu *= math.sqrt(share * np.square(spread).sum() / np.square(mu).sum())
    x = mu + spread * rng.standard_normal((n, d))
    assert mean_cosine(x) == pytest.approx(share / (1 + share), rel=0.02)
    # The rows now add up to 0, so their cosines make up for the n of 1 on the diagonal: -1/(n - 1), nearly.
    after = mean_cosine(Centering().fit_transform(x))
    assert after == pytest.approx(-1 / (n - 1), abs=5 * math.sqrt(2 / (d * n * (n - 1))))
    fresh = mean_cosine(Centering().fit(x).transform(mu + spread * rng.standard_normal((n, d))))
    assert abs(fresh) < 5 * math.sqrt(2 / (d * n * (n - 1))) + 2 / n
