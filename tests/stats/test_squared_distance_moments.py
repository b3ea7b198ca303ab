import numpy as np
import pytest

from geomkit.pairwise.normalization import centred_rows
from geomkit.stats.concentration import squared_distance_moments
from tests.bounds import assert_within
from tests.pairwise.test_normalization import BACKENDS, SHAPES, given, squared_distances, upper, values


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_mean_and_variance_of_squared_distances(backend, shape, sparse):
    x = values(*shape, sparse=sparse)
    rows = centred_rows(given(x, sparse=sparse), backend, "float32", "raise")
    mean, variance = squared_distance_moments(rows)
    exact = upper(squared_distances(x))
    reach = np.square(x).sum(axis=1).max()
    # Both are differences of sums of squared norms (and of their products), in float64.
    bound = 40 * (sum(shape) + 10) * 2.0**-53
    assert_within(mean * rows.scale**2, exact.mean(), bound * reach)
    assert_within(variance * rows.scale**4, exact.var(), bound * reach**2)
