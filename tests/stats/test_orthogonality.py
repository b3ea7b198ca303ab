import math

import numpy as np
import pytest

from geomkit import nulls
from geomkit.errors import InvalidInputError
from geomkit.stats.cosine import cosine_stats
from geomkit.stats.orthogonality import orthogonality, orthogonality_of
from tests.bounds import assert_between, assert_within
from tests.stats.oracle import (
    DATA,
    GRID,
    cosines,
    counter_reach,
    cumulative_bracket,
    data,
    ran,
    spread_error,
)

GRID_OF_DIMENSIONS = [50, 100, 128, 200, 256, 300, 384, 512, 576, 768, 1024, 1536, 2048, 3072, 4096]
STATISTICS = ["coherence", "mean_abs", "rms", "within_fraction", "mean"]


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize(("backend", "precision"), GRID)
def test_matches_brute_force(backend, precision, name):
    x = data(name, 220, 40)
    found, values = orthogonality(x, eps=0.15, backend=backend, precision=precision), cosines(x)
    error, middle = found.error_bound, values.mean()
    assert (found.n, found.d, found.eps, found.backend) == (220, 40, 0.15, backend)
    assert found.precision == ran(backend, precision)
    assert_within(found.coherence, np.abs(values).max(), error)
    assert_within(found.mean_abs, np.abs(values).mean(), np.mean(counter_reach(values, middle, error)))
    assert_within(found.rms, math.sqrt(np.mean(values**2)), 2 * spread_error(values, error, found.precision))
    assert_within(found.mean, middle, 1e-13)
    low, high = cumulative_bracket(values, np.array([0.15, -0.15]), middle, error)
    assert_between(found.within_fraction * len(values), low[0] - high[1], high[0] - low[1])


def test_coherence_is_of_magnitude():
    opposed = np.array([[1.0, 0.1], [-1.0, 0.1], [0.0, 1.0]])
    assert_within(orthogonality(opposed).coherence, 0.99 / 1.01, 1e-6)


def test_orthonormal_rows_are_orthogonal():
    # With few rows their mean is taken out, and put back up to rounding.
    for n, slack in ((9, 1e-6), (101, 0.0)):
        found = orthogonality(np.eye(n), eps=slack)
        assert slack == 0 or found.error_bound < slack
        assert_within([found.coherence, found.mean_abs, found.rms], 0, min(slack, found.error_bound) + 1e-15)
        assert_within(found.mean, 0, 1e-15)
        assert (found.within_fraction, found.welch_bound) == (1, 0)


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_welch_bound_holds_and_is_reached_by_the_simplex(d):
    # The d + 1 corners of a regular simplex in R^d meet the bound.
    corners = np.eye(d + 1) - 1 / (d + 1)
    basis = np.linalg.svd(corners)[0][:, :d]
    found = orthogonality(corners @ basis, precision="float64")
    assert found.d == d
    assert_within(found.coherence, 1 / d, 1e-13)
    assert_within(found.welch_bound, 1 / d, 1e-13)
    crowd = orthogonality(data("gaussian", 60, d))
    assert 0 < crowd.welch_bound <= crowd.coherence


def test_every_statistic_stands_beside_its_null():
    found = orthogonality(data("gaussian", 100, 30), eps=0.2)
    sphere, largest = nulls.sphere(30), nulls.sphere(30).coherence(100)
    assert set(found.nulls) == set(STATISTICS)
    want = {
        "coherence": (largest.mean, largest.std),
        "mean_abs": (sphere.mean_abs, sphere.mean_abs_std(100)),
        "rms": (sphere.std, sphere.mean_square_std(100) / (2 * sphere.std)),
        "within_fraction": (sphere.within_fraction(0.2), sphere.within_fraction_std(0.2, 100)),
        "mean": (0.0, sphere.mean_std(100)),
    }
    for name, null in found.nulls.items():
        assert (null.mean, null.std) == want[name]
        assert_within(null.z, (getattr(found, name) - null.mean) / null.std, 1e-12)
        assert abs(null.z) < 4
    flat = found.to_dict()
    assert flat["mean_abs_z"] == found.nulls["mean_abs"].z
    assert flat["coherence_null_mean"] == largest.mean
    assert "nulls" not in flat
    assert len(str(found).splitlines()) == len(flat)


def test_the_spread_of_every_statistic_over_random_sets_is_its_null_std():
    rng = np.random.default_rng(12)
    sets = [orthogonality(rng.standard_normal((40, 25)), eps=0.2, precision="float64") for _ in range(400)]
    for name in STATISTICS:
        z = np.array([each.nulls[name].z for each in sets])
        # 400 values: the mean has a standard error of 1/20, the spread one of about 1/28. The root of a mean square is
        # biased by half its variance, and the coherence null is an approximation.
        assert abs(z.mean()) < 4 / 20 + 0.05
        assert abs(z.std() - 1) < 4 / 28 + 0.05


def test_rows_on_a_line():
    found = orthogonality([[1.0], [2.0], [-3.0]])
    assert found.coherence == 1
    assert_within(found.rms, 1, found.error_bound)
    assert math.isnan(found.nulls["rms"].z)
    assert math.isnan(found.nulls["coherence"].z)
    assert found.within_fraction == 0
    assert found.welch_bound == 1


@pytest.mark.parametrize("d", GRID_OF_DIMENSIONS)
def test_sphere_directions_agree_with_the_closed_forms(d):
    n = 4000
    x = np.random.default_rng(d).standard_normal((n, d), dtype=np.float32)
    stats = cosine_stats(x)
    found, sphere = orthogonality_of(stats, 0.1), nulls.sphere(d)
    assert_within(found.mean, 0, 4 * sphere.mean_std(n))
    assert_within(stats.std**2, 1 / d, 4 * sphere.mean_square_std(n))
    assert_within(found.rms**2, 1 / d, 4 * sphere.mean_square_std(n))
    assert_within(found.mean_abs, sphere.mean_abs, 4 * sphere.mean_abs_std(n))
    assert_within(found.within_fraction, sphere.within_fraction(0.1), 4 * sphere.within_fraction_std(0.1, n))
    assert_between(sphere.coherence(n).cdf(found.coherence), 3e-5, 1 - 3e-5)
    for name in STATISTICS[1:]:
        assert abs(found.nulls[name].z) < 4


@pytest.mark.parametrize("eps", [-0.1, 1.1, math.nan, "0.1", None, True])
def test_eps_must_lie_between_0_and_1(eps):
    with pytest.raises(InvalidInputError, match=r"eps must be a number in \[0, 1\]; got"):
        orthogonality(data("gaussian", 5, 3), eps=eps)


def test_dropped_rows_are_counted():
    x = np.concatenate([data("gaussian", 20, 4), np.zeros((2, 4))])
    assert orthogonality(x, on_invalid="drop").n_dropped == 2
    with pytest.raises(InvalidInputError, match=r"x has 2 rows \(first: 20, 21\) that are zero and have no direction"):
        orthogonality(x)
