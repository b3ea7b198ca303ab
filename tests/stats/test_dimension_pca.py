"""Dimension by the covariance, from the sums that moments are made of: rows that those refuse, and rows they drop."""

import numpy as np
import pytest
import scipy.sparse

from geomkit.errors import InvalidInputError
from geomkit.stats.dimension import intrinsic_dimension
from geomkit.stats.spectrum import spectrum
from tests.bounds import assert_within
from tests.stats.oracle import BACKENDS, data

SHAPES = [(60, 8), (8, 60)]


def ratio(x):
    values = np.linalg.eigvalsh(np.cov(x.T))
    return values.sum() ** 2 / np.square(values).sum()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_zero_rows_count_unless_directions_are_asked_for(kind, backend, shape):
    x = data("clustered", *shape).astype(np.float64)
    x[[0, 5]] = 0
    given = scipy.sparse.csr_array(x) if kind == "sparse" else x
    found = intrinsic_dimension(given, method="pca", backend=backend)
    assert_within(found.dimension, ratio(x), 1e-9 * ratio(x))
    assert (found.n, found.n_dropped) == (shape[0], 0)
    with pytest.raises(InvalidInputError, match=r"x has 2 rows \(first: 0, 5\) that are zero and have no direction"):
        intrinsic_dimension(given, method="pca", metric="cosine", backend=backend)
    found = intrinsic_dimension(given, method="pca", metric="cosine", backend=backend, on_invalid="drop")
    left = np.delete(x, [0, 5], axis=0)
    want = ratio(left / np.linalg.norm(left, axis=1, keepdims=True))
    assert_within(found.dimension, want, 1e-9 * want)
    assert (found.n, found.n_dropped) == (shape[0] - 2, 2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_that_are_not_finite_are_dropped_alone(backend, shape):
    x = data("clustered", *shape).astype(np.float64)
    spoilt = x.copy()
    spoilt[3, 2], spoilt[4], x[4] = np.inf, 0, 0
    with pytest.raises(InvalidInputError, match=r"x has 1 row \(3\) that are not finite"):
        intrinsic_dimension(spoilt, method="pca", backend=backend)
    found = intrinsic_dimension(spoilt, method="pca", backend=backend, on_invalid="drop")
    want = ratio(np.delete(x, 3, axis=0))
    assert_within(found.dimension, want, 1e-9 * want)
    assert (found.n, found.n_dropped) == (shape[0] - 1, 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_participation_ratio(shape):
    x = data("anisotropic", *shape) + np.float32(1000)
    found = intrinsic_dimension(x, method="pca")
    assert_within(found.dimension, spectrum(x).participation_ratio, 1e-9 * found.dimension)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
@pytest.mark.parametrize("shape", SHAPES)
def test_scale_leaves_it(shape, scale):
    x = data("clustered", *shape).astype(np.float64)
    one, other = (intrinsic_dimension(each, method="pca") for each in (x, x * scale))
    assert_within(other.dimension, one.dimension, 1e-9 * one.dimension)
    assert other.components_95 == one.components_95


def test_all_rows_zero_are_all_equal():
    with pytest.raises(InvalidInputError, match="x has 9 rows that are all equal"):
        intrinsic_dimension(np.zeros((9, 4)), method="pca")
