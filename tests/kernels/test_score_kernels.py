"""What the kernels behind scores and neighbours promise beyond the case table."""

import math

import ml_dtypes
import numpy as np
import pytest

from geomkit.kernels import Backend, load, module
from geomkit.pairwise.candidates import Nearest
from tests.bounds import assert_within, gamma, unit
from tests.kernels.case import as_tile, quantised, read, working
from tests.kernels.score_cases import distinct_symmetric, some_bfloat16

FAST = [Backend.CPU, Backend.TORCH]
DTYPES = ["bfloat16", "float32", "float64"]
GRID = [(backend, dtype) for backend in Backend for dtype in DTYPES if (backend, dtype) != (Backend.TRITON, "float64")]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", list(Backend))
def test_unit_sums_leave_out_rows_that_are_not_finite(backend, dtype):
    dtype = "float64" if backend is Backend.REFERENCE else dtype
    x = np.ones((6, 4), dtype)
    x[1, 2], x[3, 0], x[4] = math.nan, -math.inf, 0
    total = module(backend).zeros((4,), "float64")
    norms = read(backend, load("unit_sums", backend)(working(backend, x, dtype), total))
    assert np.isnan(norms).tolist() == [False, True, False, True, False, False]
    assert norms[[0, 4]].tolist() == [2, 0]
    assert_within(read(backend, total), np.full(4, 1.5), 1e-15)


@pytest.mark.parametrize("size", [1e-300, 1e300, 5e-324])
@pytest.mark.parametrize("backend", FAST)
def test_unit_sums_survive_extreme_norms(backend, size):
    x = np.array([[1.0, 0], [0, 1], [0, 1]]) * size
    total = module(backend).zeros((2,), "float64")
    norms = read(backend, load("unit_sums", backend)(working(backend, x, "float64"), total))
    assert norms.tolist() == [size] * 3
    assert read(backend, total).tolist() == [1, 2]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", [0, 1, 2])
@pytest.mark.parametrize("backend", FAST)
def test_slips_are_the_norms_of_what_rounding_took(backend, form, dtype):
    rng = np.random.default_rng(form)
    x = quantised(rng, (9, 33), "float32") * np.exp2(rng.integers(-20, 20, (9, 1)))
    x[4] = 0
    mean, divisors = rng.standard_normal(33) * (form > 0), np.full(9, 2.0)
    width = 33 + (0 if form == 0 else 4 if dtype == "bfloat16" else 2)
    left, right = (module(backend).zeros((9, width), dtype) for _ in range(2))
    given = working(backend, x, "float64" if dtype == "float64" else "float32")
    facts = read(backend, load("residual_rows", backend)(given, divisors, mean, form, 0.0, left, right))
    rows = x / 2 - mean
    kept = read(backend, left)[:, :33].astype(np.float64)
    took = np.linalg.norm(rows - kept, axis=1)
    off = gamma(3, "float64") * np.linalg.norm(np.abs(x) + np.abs(mean), axis=1)
    assert_within(facts[1], took, gamma(40, "float64") * took + off)
    assert np.all(took <= unit(dtype) * np.linalg.norm(rows, axis=1) + off)
    if dtype != "float64":
        assert np.all(took[np.abs(rows).max(axis=1) > 0] > 0) or form == 0


@pytest.mark.parametrize("backend", FAST)
def test_bfloat16_rows_are_rounded_to_nearest_with_ties_to_even(backend):
    values = np.array([[1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-8 + 2.0**-20, -1 - 2.0**-8, 3e38, 0.0, 2.0**-149]])
    left = module(backend).zeros((1, 7), "bfloat16")
    load("residual_rows", backend)(working(backend, values, "float32"), np.ones(1), np.zeros(7), 0, 0.0, left, left)
    want = values.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)
    assert read(backend, left).tolist() == want.tolist()
    assert want[0, :4].tolist() == [1, 1 + 2.0**-6, 1 + 2.0**-7, -1]


@pytest.mark.parametrize("backend", list(Backend))
def test_counts_of_every_bit_pattern(backend):
    patterns = np.array([p for p in range(65536) if p & 0x7FFF < 0x7F80], np.uint16)
    values = patterns.view(ml_dtypes.bfloat16).astype(np.float64).reshape(-1, 128)
    dtype = "float64" if backend is Backend.REFERENCE else "bfloat16"
    counts = module(backend).zeros((4, 65536), module(backend).COUNTER)
    load("count", backend)(as_tile(backend, values, dtype), False, counts)
    found = read(backend, counts).sum(axis=0)
    if backend is Backend.TRITON:
        # A sum of products is never minus zero.
        assert (found[0], found[0x8000]) == (2, 0)
        found[0] = found[0x8000] = 1
    assert np.array_equal(np.flatnonzero(found), np.sort(patterns))
    assert found.max() == 1


@pytest.mark.parametrize(("backend", "dtype"), GRID)
def test_signed_zeros_reach_a_threshold_of_zero(backend, dtype):
    dtype = "float64" if backend is Backend.REFERENCE else dtype
    tile = as_tile(backend, np.array([[0.0, -0.0, -1e-30, 1e-30]]), dtype)
    for threshold in (0.0, -0.0):
        assert read(backend, load("above", backend)(tile, False, threshold))[1].tolist() == [0, 1, 3]


@pytest.mark.parametrize("keep", [1, 2, 5])
@pytest.mark.parametrize(("backend", "dtype"), GRID)
def test_screening_remembers_what_it_left_out(backend, dtype, keep):
    """Whatever is not among the candidates, ties included, is at most what the reducer says that it may be."""
    dtype = "float64" if backend is Backend.REFERENCE else dtype
    n, rng = 40, np.random.default_rng(keep)
    few = np.array([-2.0, -0.0, 0.0, 0.5, 1.0, 1.0078125, 3.0])
    for matrix in (distinct_symmetric(rng, n), few[rng.integers(0, 7, (n, n))], np.zeros((n, n))):
        symmetric = np.triu(matrix, 1) + np.triu(matrix, 1).T
        nearest = Nearest(backend, n, keep, module(backend).entries(dtype))
        blocks = [slice(at, min(at + 9, n)) for at in range(0, n, 9)]
        for i in blocks:
            for j in blocks:
                if j.start >= i.start:
                    nearest.update(as_tile(backend, symmetric[i, j], dtype), i, j)
        values, ids, beaten = nearest.candidates()
        for row in range(n):
            kept = ids[row][ids[row] >= 0]
            assert len(set(kept)) == len(kept) >= keep
            assert row not in kept
            assert np.array_equal(values[row][ids[row] >= 0], symmetric[row, kept])
            rest = np.setdiff1d(np.arange(n), [*kept, row])
            assert symmetric[row, rest].max(initial=-math.inf) <= beaten[row]
            assert beaten[row] <= np.sort(np.delete(symmetric[row], row))[-keep]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", FAST)
def test_screening_takes_the_largest_and_smallest_numbers(backend, dtype):
    values = np.unique(some_bfloat16(np.random.default_rng(0), (500,)))[::-1].copy()
    nearest = Nearest(backend, 1 + len(values), 3, dtype)
    nearest.update(working(backend, values[None, :], dtype), slice(0, 1), slice(1, 1 + len(values)))
    found, ids, _ = nearest.candidates()
    kept = ids[0] >= 0
    assert {1, 2, 3} <= set(ids[0][kept].tolist())
    assert np.array_equal(found[0][kept], values[ids[0][kept] - 1])
    assert found[-1].max() == values[-1]


@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize("dim", [1, 3, 50, 333])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", list(Backend))
def test_an_exact_score_does_not_depend_on_its_neighbours(backend, dtype, dim, euclidean):
    """To the bit: equal rows have equal scores, and candidates may be asked for in any company."""
    dtype = "float64" if backend is Backend.REFERENCE else dtype
    rng = np.random.default_rng(dim)
    left, right = quantised(rng, (5, dim), dtype), quantised(rng, (30, dim), dtype)
    right[1::3], left_factors, right_factors = right[4], rng.uniform(0.5, 2, 5), np.repeat(rng.uniform(0.5, 2, 10), 3)
    right_factors[1::3] = 1.5

    def scored(rows, ids):
        out = module(backend).zeros((len(rows), ids.shape[1]), "float64")
        load("exact_scores", backend)(
            working(backend, left[rows], dtype), working(backend, right, dtype), ids, euclidean, left_factors[rows],
            right_factors, out,
        )  # fmt: skip
        return read(backend, out)

    whole = scored(np.arange(5), np.tile(np.arange(30), (5, 1)))
    assert np.all(whole[:, 1::3] == whole[:, 1:2])
    for row in range(5):
        for ids in ([7], [1, 4], [29, 0, 5], list(range(16))):
            assert np.array_equal(scored(np.array([row]), np.array([ids]))[0], whole[row, ids])
    twisted = rng.permutation(30)
    assert np.array_equal(scored(np.arange(5), np.tile(twisted, (5, 1))), whole[:, twisted])


@pytest.mark.parametrize("backend", list(Backend))
def test_equal_scores_come_by_number(backend):
    scores, ids = np.array([[1.0, 2, 1, 2, 1, 9]]), np.array([[7, 5, 3, 1, 0, -1]])
    top, numbers = load("best", backend)(scores, ids, 4)
    assert top.tolist() == [[2, 2, 1, 1]]
    assert numbers.tolist() == [[1, 5, 0, 3]]
    top, numbers = load("best", backend)(scores, np.where(ids == 5, 5, -1), 2)
    assert top.tolist() == [[2, -math.inf]]
    assert numbers.tolist() == [[5, -1]]
