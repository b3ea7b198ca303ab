"""Partition sums: screening in float32 changes no answer, and no tail, block or scale loses one."""

import math
import warnings

import numpy as np
import pytest
import scipy.sparse

from geomkit.core.matrix import as_matrix
from geomkit.covariance import projections
from geomkit.covariance.projections import Axes, Partition, project_rows
from geomkit.kernels import Backend
from tests.bounds import assert_within
from tests.stats.oracle import DATA, data

BACKENDS = [backend for backend in Backend if backend is not Backend.TRITON]


def exact(x, directions):
    onto = np.asarray(x, np.longdouble) @ np.asarray(directions, np.longdouble)
    return np.stack([np.logaddexp.reduce(sign * onto, axis=0) for sign in (1, -1)])


def turned(d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]


def look(x, directions, *, guess=None, backend=Backend.CPU, threads=2, exponent=0, **more):
    guess = np.zeros((2, directions.shape[1])) if guess is None else guess
    longest = max(math.hypot(*map(float, row)) for row in x)
    return project_rows(as_matrix(x), backend, threads, directions, guess, exponent=exponent, longest=longest, **more)


@pytest.fixture
def passes(monkeypatch):
    """Dtype and directions of every pass over the rows."""
    seen = []
    read = projections._read

    def spy(matrix, size, eye, *rest):
        seen.append((str(np.dtype(eye.dtype)), eye.directions.shape[1]))
        return read(matrix, size, eye, *rest)

    monkeypatch.setattr(projections, "_read", spy)
    return seen


@pytest.mark.parametrize("length", [1e-3, 0.1, 1.0, 30.0, 1e3, 1e5])
@pytest.mark.parametrize("name", DATA)
def test_screening_finds_the_least_and_the_largest(name, length, passes, monkeypatch):
    x = data(name, 300, 40).astype(np.float64)
    x = (x * (length / np.linalg.norm(x, axis=1).max())).astype(np.float32)
    directions = turned(40)
    logs = exact(x, directions)
    monkeypatch.setattr(projections, "ROOM", 2)
    found, squares = look(x, directions)
    assert squares is None
    # Products of float64 rows, whose errors a sum of exponentials hands on as they are.
    want = float(np.exp(logs.min() - logs.max()))
    assert_within(found, want, 1e-12 * max(1.0, length) * want + 1e-300)
    (first, all_of_them), (second, few) = passes
    assert (first, all_of_them, second) == ("float32", 40, "float64")
    assert 1 <= few <= 40
    if length >= 30:
        assert few <= 5


@pytest.mark.parametrize("seed", range(6))
def test_ties_are_settled_in_float64(passes, monkeypatch, seed):
    """Least and largest sums that differ by less than float32 products err, so that these put them in another order."""
    monkeypatch.setattr(projections, "ROOM", 2)
    directions = turned(60, seed)
    lengths = np.repeat([600, 800, 1000], 20) + 1e-6 * (np.arange(60) % 20)
    x = np.vstack([directions.T, -directions.T]) * np.concatenate([lengths, lengths])[:, None]
    found, _ = look(x, directions)
    logs = exact(x, directions)
    assert_within(math.log(found), float(logs.min() - logs.max()), 1e-10)
    # Not the twenty between.
    assert passes[1] == ("float64", 40)


def test_a_guess_says_whether_to_screen_and_nothing_else(passes):
    x, directions = data("gaussian", 200, 30), turned(30)
    guess = exact(x, directions).astype(float)
    found = [look(x, directions, guess=each)[0] for each in (guess, np.zeros_like(guess), guess[:, ::-1], -guess)]
    assert_within(found, found[0], 1e-13)
    assert passes[0] == ("float32", 30)
    assert passes[2] == ("float64", 30)


@pytest.mark.parametrize("scale", [2.0**21, 2.0**140])
def test_rows_that_float32_says_nothing_of_are_not_screened(scale, passes):
    x, directions = data("gaussian", 50, 5).astype(np.float64) * scale, turned(5)
    logs = exact(x, directions).astype(float)
    # So far apart that a guess would leave two directions.
    found, _ = look(x, directions, guess=np.where(np.arange(5) == 2, [[1e30], [-1e30]], logs / scale))
    assert found == float(np.exp(logs.min() - logs.max())) == 0
    assert passes == [("float64", 5)]


@pytest.mark.parametrize("exponent", [-900, -3, 0, 3, 900])
@pytest.mark.parametrize("backend", BACKENDS)
def test_powers_of_two(backend, exponent):
    x = data("clustered", 90, 12).astype(np.float64) * 2.0**exponent
    directions = turned(12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, _ = look(x, directions, backend=backend, exponent=exponent)
    logs = exact(x, directions)
    assert_within(found, float(np.exp(logs.min() - logs.max())), 1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_partitions_take_rows_in_any_blocks_and_merge(dtype):
    onto = np.random.default_rng(0).standard_normal((100, 7)) * np.array([0, 1, 10, 30, 60, 1e3, 1e5])
    onto = onto.astype(dtype)
    want = np.stack([np.logaddexp.reduce(sign * onto.astype(np.longdouble), axis=0) for sign in (1, -1)])
    for cuts in ([], [1, 2], [40], [99], list(range(1, 100))):
        parts = [Partition(7) for _ in range(2)]
        for at, block in enumerate(np.split(onto, cuts)):
            parts[at % 2].add(block.copy())
        parts[0].merge(parts[1])
        slack = 1e-13 if dtype == np.float64 else 2e-6 + 2**-23 * np.abs(onto).max(axis=0)
        assert_within(parts[0].logs(), want.astype(float), slack * np.ones_like(want, float) + 1e-15 * np.abs(want))
    assert_within(parts[0].ratio(), float(np.exp(want.min() - want.max())), 1e-12)
    assert parts[0].ratio(-1e4) == pytest.approx(math.exp(-1e4 - float(want.max())) if want.max() < -9e3 else 0)
    calm = Partition(1)
    calm.add(np.zeros((4, 1)))
    assert calm.ratio(math.log(8)) == pytest.approx(0.5, rel=1e-15)
    assert calm.ratio(math.log(1)) == pytest.approx(0.25, rel=1e-15)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 7, 16, 90])
def test_blocks_and_threads(rows, threads, monkeypatch):
    monkeypatch.setattr("geomkit.covariance.batches.BLOCK_ENTRIES", 1)
    monkeypatch.setattr("geomkit.covariance.batches.BLOCK_ROWS", rows)
    monkeypatch.setattr(projections, "ROOM", 2)
    x, directions = data("clustered", 90, 12), turned(12)
    logs = exact(x, directions)
    axes = Axes(x.mean(axis=0, dtype=np.float64), directions[:, :5], np.eye(5)[:, :2] + 0.5)
    found, squares = look(x, directions, threads=threads, axes=axes)
    assert_within(found, float(np.exp(logs.min() - logs.max())), 1e-12)
    want = ((x - axes.mean) @ axes.axes) ** 2 @ axes.weights
    assert_within(squares, want, 1e-5 * want.max())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("backend", BACKENDS)
def test_squares_far_from_zero(backend, dtype):
    """Rows as far away as their dtype can tell apart; the mean comes off before anything is rounded."""
    far = {np.float16: 500, np.float32: 2.0**20, np.float64: 2.0**40}[dtype]
    x = (np.random.default_rng(0).integers(-4, 5, (60, 6)) + far).astype(dtype)
    axes = Axes(x.mean(axis=0, dtype=np.float64), turned(6), np.ones((6, 1)))
    _, squares = look(x, turned(6), backend=backend, axes=axes)
    want = np.square(x.astype(np.float64) - axes.mean).sum(axis=1)
    assert_within(squares[:, 0], want, 1e-5 * want)


def test_sparse_rows_are_filled_in_few_at_a_time(monkeypatch):
    seen = []
    read = projections._read
    monkeypatch.setattr(
        projections, "_read", lambda matrix, size, *rest: seen.append(size) or read(matrix, size, *rest)
    )
    x = scipy.sparse.csr_array((np.ones(5000), (np.arange(5000), np.arange(5000) % 300)), shape=(5000, 300))
    project_rows(as_matrix(x), Backend.CPU, 2, np.eye(300), np.zeros((2, 300)), exponent=0, longest=1.0)
    assert seen == [1024]
