"""Means, deviations and covariances against longdouble, from rows far away, very large and very small."""

import numpy as np
import pytest

import geomkit.core.blocks
from geomkit.core.matrix import as_matrix
from geomkit.errors import InvalidInputError
from geomkit.transforms import sums
from tests.transforms.cases import dyadic, rows

U = 2.0**-53


def wide(x):
    """Mean, deviation (n) and covariance (n - 1) with eleven more bits."""
    x = np.asarray(x, np.longdouble)
    y = x - x.mean(axis=0)
    return x.mean(axis=0), np.sqrt((y * y).mean(axis=0)), y.T @ y / (len(x) - 1)


def measured(x, k=None):
    matrix = as_matrix(x, min_rows=1)
    mean, reach = sums.centre(matrix)
    return mean, sums.deviations(matrix, mean, reach), sums.principal(matrix, mean, reach, k or matrix.d)


@pytest.mark.parametrize("shift", [0.0, 1e6, -1e6, 2.0**30])
@pytest.mark.parametrize("block", [1, 6 * 11, 2**20])
def test_against_longdouble(shift, block, monkeypatch):
    monkeypatch.setattr(geomkit.core.blocks, "BLOCK_ENTRIES", block)
    x = dyadic() + shift
    mean, sd, (values, directions, rank, total, floor) = measured(x)
    want_mean, want_std, covariance = wide(x)
    n, d = x.shape
    assert np.abs(mean - want_mean).max() <= U * (abs(shift) + 4) + n * U * 8
    np.testing.assert_allclose(sd, want_std.astype(float), rtol=4 * n * U)
    room = 8 * (n + d * d) * U * float(covariance.trace())
    np.testing.assert_allclose((directions.T * values) @ directions, covariance.astype(float), rtol=0, atol=room)
    assert rank == d
    assert total == pytest.approx(float(covariance.trace()), rel=4 * n * U)
    assert floor == n * 2.0**-52 * values[0]


@pytest.mark.parametrize("k", [1, 3, 6])
def test_directions_come_in_order_with_one_sign(k):
    x = rows()
    found = measured(x, k)[2]
    assert found.values.shape == (k,)
    assert found.directions.shape == (k, 6)
    assert found.directions.flags.c_contiguous
    assert (np.diff(found.values) < 0).all()
    np.testing.assert_allclose(found.directions @ found.directions.T, np.eye(k), rtol=0, atol=1e-14)
    assert (found.directions[np.arange(k), np.abs(found.directions).argmax(axis=1)] > 0).all()
    assert found.total == pytest.approx(np.cov(x.T).trace(), rel=1e-13)
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh(np.cov(x.T))[::-1][:k], rtol=1e-12)


@pytest.mark.parametrize("power", [-1000, -540, 0, 500, 1000])
def test_deviations_of_any_size(power):
    x = rows() * np.ldexp(1.0, power)
    x[:, 2] = x[0, 2]
    matrix = as_matrix(x)
    mean, reach = sums.centre(matrix)
    sd = sums.deviations(matrix, mean, reach)
    assert np.flatnonzero(sd == 0).tolist() == [2]
    np.testing.assert_allclose(np.ldexp(sd, -power), np.std(np.ldexp(x, -power), axis=0), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("power", "fits"), [(-481, False), (-470, True), (470, True), (481, False)])
def test_variances_that_do_not_fit_are_refused(power, fits):
    x = np.ldexp(rows(40, 3, seed=3) - 1, power)
    matrix = as_matrix(x)
    assert 2.0**-2 < np.ldexp(sums.centre(matrix)[1].max(), -power) < 2.0**4
    if fits:
        want = np.linalg.eigvalsh(np.cov(np.ldexp(x, -power).T))[::-1]
        np.testing.assert_allclose(np.ldexp(measured(x)[2].values, -2 * power), want, rtol=1e-12)
    else:
        x = np.ldexp(x, 8 if power > 0 else -8)
        with pytest.raises(InvalidInputError, match="whose variance does not fit float64; rescale"):
            measured(x)


@pytest.mark.parametrize("at", [1, 60, 99])
def test_one_row_that_differs_is_seen_in_every_block(at, monkeypatch):
    monkeypatch.setattr(geomkit.core.blocks, "BLOCK_ENTRIES", 2 * 10)
    x = np.ones((100, 2))
    x[at, 1] = 3
    mean, reach = sums.centre(as_matrix(x))
    assert reach.tolist() == [0, 2]
    np.testing.assert_allclose(sums.deviations(as_matrix(x), mean, reach), [0, 2 * np.sqrt(0.01 * 0.99)], rtol=1e-14)


def test_a_rounded_mean_costs_nothing_where_rows_differ_in_the_last_digits():
    steps = np.random.default_rng(0).integers(0, 4, (101, 3))
    x = 1 + steps * 2.0**-52
    _, sd, found = measured(x)
    np.testing.assert_allclose(sd * 2.0**52, steps.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.values * 2.0**104, np.linalg.eigvalsh(np.cov(steps.T))[::-1], rtol=1e-12)


def test_equal_rows_vary_nowhere():
    mean, sd, found = measured(np.tile([0.1, 0.7, 1e9], (50, 1)))
    assert mean.tolist() == [0.1, 0.7, 1e9]
    assert sd.tolist() == [0, 0, 0]
    assert (found.rank, found.total, found.values.tolist()) == (0, 0.0, [0, 0, 0])


def test_fewer_rows_than_columns():
    found = measured(rows(4, 30))[2]
    assert found.rank == 3
    assert (found.values[3:] == 0).all()


def test_too_many_columns_are_refused_before_anything_is_allocated():
    matrix = as_matrix(np.broadcast_to(np.float32(1), (3, 8193)))
    with pytest.raises(InvalidInputError, match="X has 8193 columns; it must have at most 8192"):
        sums.principal(matrix, *sums.centre(matrix), 1)
