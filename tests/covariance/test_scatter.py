import pickle

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geomkit.core.matrix import as_matrix
from geomkit.covariance import accumulate as gathering
from geomkit.covariance import batches
from geomkit.covariance.accumulate import RowSums, in_threads
from geomkit.covariance.batches import ScatterPair, exponent_of
from geomkit.covariance.scatter import LOWEST, Scatter
from geomkit.kernels import Backend
from tests.bounds import assert_within, gamma

BACKENDS = [backend for backend in Backend if backend is not Backend.TRITON]
D = 5


def rows(n, *, seed=0, far=0.0):
    """Skewed rows in three clusters, far from zero if wanted."""
    rng = np.random.default_rng(seed)
    return rng.exponential(size=(n, D)) + 4 * rng.integers(0, 3, (n, 1)) * np.eye(D)[1] + far


def poured(x, cuts=(), backend=Backend.CPU, order=None):
    """A pair of scatters that took the rows in blocks, each merged from a pair of its own if there is an order."""
    parts = np.split(x, cuts)
    pair = ScatterPair.empty(x.shape[1], backend, None)
    if order is None:
        for part in parts:
            pair, _ = RowSums(as_matrix(part, min_rows=1), backend, 1, pair, drop=False).run_here()
        return pair
    pairs = [poured(part, backend=backend) for part in parts]
    for k in order:
        pair.merge(pairs[k])
    return pair


def exact(x):
    """Mean, M, S, V, w in extended precision."""
    x = np.asarray(x, np.longdouble)
    mean = x.mean(axis=0)
    y = x - mean
    a = (y * y).sum(axis=1)
    apart = a - a.mean()
    return mean, y.T @ y, a.sum(), (apart * apart).sum(), apart @ y


def check(scatter, x, *, merges=1):
    """Each sum within its rounding.

    The rows about their mean err by a few u of the radius r, and each sum takes `n` and some steps a merge: relative to
    sums of absolute values, which are at most n r², n r³, n r⁴.
    """
    mean, products, squares, spread, skew = exact(x)
    n, d = x.shape
    y = np.asarray(x - np.asarray(mean, np.float64), np.float64)
    r = np.sqrt((y**2).sum(axis=1).max())
    error = 16 * gamma(n + 2 * d + 20 * (merges + 1), "float64")
    one = 2.0**scatter.exponent
    assert scatter.n == n
    assert_within(scatter.mean * one, np.asarray(mean, float), error * r + 2.0**-52 * np.abs(x).max())
    assert_within(np.tril(scatter.products) * one**2, np.tril(products).astype(float), error * n * r**2)
    assert_within(scatter.squares * one**2, float(squares), error * n * r**2)
    assert_within(scatter.spread * one**4, float(spread), 4 * error * n * r**4)
    assert_within(scatter.skew * one**3, skew.astype(float), 2 * error * n * r**3)
    assert_within(np.sqrt(scatter.frobenius()) * one**2, float(np.sqrt((products**2).sum())), error * n * r**2)


@pytest.mark.parametrize("far", [0.0, 1e6])
@pytest.mark.parametrize("backend", BACKENDS)
def test_sums_of_one_block(backend, far):
    x = rows(40, far=far)
    pair = poured(x, backend=backend)
    check(pair.raw, x)
    # The oracle's unit rows are rounded like ours: as error of the rows, 8 u of a length of 1.
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    _, products, squares, _, _ = exact(unit)
    slack = 64 * gamma(len(x) + D, "float64") * (np.sqrt(float(squares) / len(x)) + 1e-16) * len(x)
    assert_within(np.tril(pair.normalized.products), np.tril(products).astype(float), slack)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_blocks_in_any_order(data):
    n = data.draw(st.integers(2, 30))
    x = rows(n, seed=data.draw(st.integers(0, 99)), far=data.draw(st.sampled_from([0.0, -1e6])))
    if data.draw(st.booleans()):
        x = x[np.argsort(x[:, 1])]
    cuts = sorted(data.draw(st.sets(st.integers(1, n - 1), max_size=6)))
    order = data.draw(st.none() | st.permutations(range(len(cuts) + 1)))
    check(poured(x, cuts, order=order).raw, x, merges=len(cuts) + 1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("first", ["outlier", "cluster", "one"])
def test_first_blocks_that_say_little_about_the_mean(backend, first):
    x = rows(60)
    if first == "outlier":
        x[0] += 1e8
    if first == "cluster":
        x[:30] = x[0] + 1e-9 * x[:30]
    cuts = [1] if first != "cluster" else [30]
    check(poured(x, cuts, backend).raw, x, merges=2)


def test_equal_rows_are_exactly_at_their_mean():
    x = np.tile(np.random.default_rng(3).standard_normal(D) + 1e6, (50, 1))
    for scatter in poured(x, [1, 7, 30], order=[2, 0, 3, 1]).both:
        assert scatter.squares == scatter.spread == scatter.frobenius() == 0
        assert not scatter.offset.any()


def test_merging_leaves_the_other_as_it_was():
    x = rows(30)
    a, b = poured(x[:10] * 2.0**310), poured(x[10:] * 2.0**300)
    before = pickle.dumps(b)
    a.merge(b)
    poured(x[:10]).merge(b)
    assert pickle.dumps(b) == before
    empty = ScatterPair.empty(D, Backend.CPU, None)
    empty.merge(b)
    empty.merge(poured(x[:10] * 2.0**300))
    assert pickle.dumps(b) == before
    b.merge(ScatterPair.empty(D, Backend.CPU, None))
    assert pickle.dumps(b) == before


@pytest.mark.parametrize("one", BACKENDS)
@pytest.mark.parametrize("other", BACKENDS)
def test_merges_across_backends(one, other):
    x = rows(40)
    merged = poured(x[:15], backend=one).merge(poured(x[15:], backend=other))
    check(merged.raw, x, merges=2)
    adopted = ScatterPair.empty(D, one, None).merge(poured(x[:15], backend=other)).merge(poured(x[15:], backend=one))
    check(adopted.raw, x, merges=2)
    assert adopted.raw.backend is one
    assert isinstance(adopted.raw.products, torch.Tensor) == (one is Backend.TORCH)


@pytest.mark.parametrize("backend", BACKENDS)
def test_times_diagonal_and_mirror(backend):
    x = rows(600) @ np.random.default_rng(1).standard_normal((D, 600))
    scatter = poured(x[:300], backend=backend).merge(poured(x[300:], backend=backend)).raw
    m = np.asarray(scatter.products).copy()
    m = np.tril(m) + np.tril(m, -1).T
    vector = np.random.default_rng(2).standard_normal(600)
    assert_within(scatter.times(vector), m @ vector, gamma(1300, "float64") * (np.abs(m) @ np.abs(vector)))
    assert np.array_equal(scatter.diagonal(), m.diagonal())
    assert_within(scatter.frobenius(), (m**2).sum(), gamma(1300, "float64") * (m**2).sum())
    assert np.array_equal(np.asarray(scatter.mirror()), m)


@pytest.mark.parametrize("order", [None, [0, 1], [1, 0]])
@pytest.mark.parametrize("scales", [(160, 164), (164, 160), (0, 400), (400, 0), (-400, -200), (-500, 0)])
def test_scales_meet(scales, order):
    """Blocks in units that are binades apart, in either order."""
    x = np.concatenate([rows(20) * 2.0 ** scales[0], rows(20, seed=1) * 2.0 ** scales[1]])
    pair = poured(x, [20], order=order)
    top = 2.0 ** max(scales)
    mean, products, squares, spread, skew = exact(x / top)
    one = 2.0 ** (pair.raw.exponent - max(scales))
    error = 200 * gamma(60, "float64")
    assert_within(pair.raw.squares * one**2, float(squares), error * squares)
    assert_within(pair.raw.spread * one**4, float(spread), error * spread)
    assert_within(pair.raw.frobenius() * one**4, float((products**2).sum()), error * (products**2).sum())
    assert_within(pair.raw.skew * one**3, skew.astype(float), error * np.abs(skew).max())
    assert_within(pair.raw.mean * one, mean.astype(float), error * np.abs(mean).max())


def test_exponents():
    assert [exponent_of(norm) for norm in (0.0, 1.0, 3e38, 1e-38)] == [0, 0, 0, 0]
    assert exponent_of(2.0**500) == 501
    assert exponent_of(2.0**-500) == -499
    assert exponent_of(np.inf) == exponent_of(1.7e308) == 1023
    assert exponent_of(5e-324) == LOWEST


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_threads_share_the_rows(threads, kind, monkeypatch):
    monkeypatch.setattr(batches, "BLOCK_ENTRIES", 1)
    monkeypatch.setattr(batches, "BLOCK_ROWS", 7)
    monkeypatch.setattr(batches, "STORED_ENTRIES", 1)
    x = rows(101) * (np.random.default_rng(5).random((101, D)) < 0.7) + np.eye(D)[0]
    matrix = as_matrix(scipy.sparse.csr_array(x) if kind == "sparse" else x)
    empty = ScatterPair.empty(D, Backend.CPU, None)
    pair, norms = RowSums(matrix, Backend.CPU, threads, empty, drop=False).run_here()
    np.testing.assert_allclose(norms, np.linalg.norm(x, axis=1), rtol=1e-14)
    # Sparse rows are summed about zero: their radius is their length.
    shifted = np.concatenate([x, [-x.mean(axis=0) * 8]]) if kind == "sparse" else x
    assert_within(pair.raw.squares, float(exact(x)[2]), 16 * gamma(200, "float64") * (shifted**2).sum())
    assert_within(pair.raw.spread, float(exact(x)[3]), 64 * gamma(300, "float64") * ((shifted**2).sum(1) ** 2).sum())
    wanted = np.tril(exact(x)[1]).astype(float)
    assert_within(np.tril(pair.raw.products), wanted, 16 * gamma(200, "float64") * (shifted**2).sum())
    assert pair.raw.n == 101


def test_one_worker_holds_large_scatters(monkeypatch):
    monkeypatch.setattr(batches, "BLOCK_ENTRIES", 1)
    monkeypatch.setattr(batches, "BLOCK_ROWS", 7)
    seen = []

    def spy(work, *arguments, workers):
        seen.append(workers)
        return in_threads(work, *arguments, workers=workers)

    monkeypatch.setattr(gathering, "in_threads", spy)
    for room, workers in ((16 * D**2 - 1, 1), (16 * D**2 * 2, 2), (2**28, 3)):
        monkeypatch.setattr(gathering, "WORKER_BYTES", room)
        RowSums(as_matrix(rows(30)), Backend.CPU, 3, ScatterPair.empty(D, Backend.CPU, None), drop=False).run_here()
        assert seen.pop() == workers


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("drop", [True, False])
def test_invalid_rows_are_found_or_dropped(backend, threads, drop, monkeypatch):
    monkeypatch.setattr(batches, "BLOCK_ENTRIES", 1)
    monkeypatch.setattr(batches, "BLOCK_ROWS", 7)
    x = rows(50)
    x[[13, 40]], x[[14, 20]] = np.nan, 0.0
    x[21:28] = np.inf
    into = poured(rows(4, seed=9), backend=backend)
    before = pickle.dumps(into)
    sums = RowSums(as_matrix(x), backend, threads, into, drop=drop)
    pair, norms = sums.run_here()
    infinite, zero = sums.invalid(norms)
    assert np.flatnonzero(infinite).tolist() == [13, *range(21, 28), 40]
    assert np.flatnonzero(zero).tolist() == [14, 20]
    if drop:
        kept = np.delete(x, [13, 14, 20, *range(21, 28), 40], axis=0)
        check(pair.raw, np.concatenate([rows(4, seed=9), kept]), merges=8)
    else:
        assert pair is into
        assert pickle.dumps(into) == before


def test_a_scatter_starts_empty():
    scatter = Scatter(3, Backend.CPU)
    assert (scatter.n, scatter.exponent, scatter.squares, scatter.spread) == (0, LOWEST, 0, 0)
    assert not scatter.products.any()
