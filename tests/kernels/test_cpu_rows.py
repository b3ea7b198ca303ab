import math

import numpy as np
import pytest
import scipy.sparse

from geomkit.kernels import cpu_rows
from tests.bounds import assert_within, gamma

SHAPE = (23, 37)


def rows(dtype, scale=1.0, *, seed=0):
    return (np.random.default_rng(seed).standard_normal(SHAPE) * scale).astype(dtype)


def factors_of(x):
    factors = np.empty((2, len(x)))
    return cpu_rows.row_norms(x, factors), factors


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        ("float32", 1),
        ("float32", 1e30),
        ("float32", 1e-30),
        ("float32", 1e-44),
        ("float64", 1e300),
        ("float64", 1e-300),
    ],
)
def test_norms_and_factors(dtype, scale):
    x = rows(dtype, scale)
    norms, factors = factors_of(x)
    # Powers of two change nothing but the range.
    shrunk = x.astype(np.longdouble) / scale
    wanted = np.sqrt((shrunk**2).sum(axis=1))
    assert_within(norms / scale, wanted.astype(np.float64), gamma(SHAPE[1] + 6, "float64") * 10)
    unit = x.astype(np.float64) * factors[0, :, None] * factors[1, :, None]
    assert_within(unit, (shrunk / wanted[:, None]).astype(np.float64), gamma(SHAPE[1] + 6, "float64"))
    assert np.array_equal(np.frexp(factors[0])[0], np.full(len(x), 0.5))


def test_norms_at_the_ends_of_float64():
    x = np.array([[5e-324, 0.0], [1.7e308, 1.7e308], [0.0, 0.0], [np.nan, 1.0], [1.0, np.inf], [3.0, 4.0]])
    norms, factors = factors_of(x)
    assert norms[0] == 5e-324
    assert math.isinf(norms[1])
    assert norms[2] == 0
    assert np.isnan(norms[3:5]).all()
    assert (norms[5], factors[0, 5], factors[1, 5]) == (5, 1, 0.2)
    unit = x[:2] * factors[0, :2, None] * factors[1, :2, None]
    assert_within(unit, [[1, 0], [0.5**0.5, 0.5**0.5]], 4 * 2.0**-53)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1.0, 2.0**-7])
def test_differences_are_those_of_ieee_arithmetic(dtype, scale):
    """To the bit: reassociated or fused, equal rows would not become zero."""
    x = rows(dtype)
    _, factors = factors_of(x)
    forms = [x.astype(np.float64) * scale, x.astype(np.float64) * factors[0, :, None] * factors[1, :, None]]
    origins = np.stack([form[0] for form in forms])
    centres = np.stack([form[1] / 3 for form in forms])
    plain, unit, squares = np.empty(SHAPE), np.empty(SHAPE), np.empty((2, SHAPE[0]))
    cpu_rows.shifted_rows(x, scale, factors, origins, centres, plain, unit, squares)
    sums = np.zeros((2, SHAPE[1]))
    cpu_rows.row_sums(x, scale, factors, origins, sums)
    for k, got in enumerate((plain, unit)):
        assert np.array_equal(got, (forms[k] - origins[k]) - centres[k])
        assert_within(squares[k], (got**2).sum(axis=1), gamma(2 * SHAPE[1], "float64") * (got**2).sum(axis=1))
        apart = forms[k] - origins[k]
        assert_within(sums[k], apart.sum(axis=0), gamma(2 * SHAPE[0], "float64") * np.abs(apart).sum(axis=0))


@pytest.mark.parametrize("scale", [2.0**1020, 2.0**-1050])
def test_unit_rows_at_the_ends_of_float64(scale):
    """The two factors may only be applied one by one: their product has lost digits, or is infinite."""
    x = rows("float64", scale)
    _, factors = factors_of(x)
    zeros, plain, unit, squares = np.zeros((2, SHAPE[1])), np.empty(SHAPE), np.empty(SHAPE), np.empty((2, SHAPE[0]))
    cpu_rows.shifted_rows(x, 2.0**-1000 * (scale > 1), factors, zeros, zeros, plain, unit, squares)
    shrunk = (x / scale).astype(np.longdouble)
    wanted = shrunk / np.sqrt((shrunk**2).sum(axis=1, keepdims=True))
    assert_within(unit, wanted.astype(np.float64), gamma(SHAPE[1] + 6, "float64"))
    assert_within(squares[1], 1, gamma(3 * SHAPE[1], "float64"))


def test_products_fill_the_lower_triangle_and_leave_the_rest():
    y = rows("float64")
    out = np.full((SHAPE[1], SHAPE[1]), 3.0)
    cpu_rows.add_products(y, out)
    bound = gamma(SHAPE[0] + 2, "float64") * (np.abs(y).T @ np.abs(y) + 3)
    assert_within(np.tril(out), np.tril(y.T @ y + 3), bound)
    assert np.array_equal(np.triu(out, 1), np.triu(np.full_like(out, 3.0), 1))


def test_sparse_rows_agree_with_dense_ones():
    dense = rows("float64") * (np.random.default_rng(1).random(SHAPE) < 0.3)
    dense[5] = 0
    sparse = scipy.sparse.csr_array(dense)
    factors = np.empty((2, SHAPE[0]))
    norms = cpu_rows.sparse_row_norms(sparse.indptr, sparse.data, factors)
    assert_within(norms, np.linalg.norm(dense, axis=1), gamma(SHAPE[1] + 4, "float64") * norms)
    out, wanted = np.zeros((SHAPE[1], SHAPE[1])), np.zeros((SHAPE[1], SHAPE[1]))
    cpu_rows.add_sparse_products(sparse.indptr, sparse.indices, sparse.data, out)
    cpu_rows.add_products(dense, wanted)
    assert_within(out, wanted, 2 * gamma(SHAPE[0] + 2, "float64") * np.abs(dense).T @ np.abs(dense))
