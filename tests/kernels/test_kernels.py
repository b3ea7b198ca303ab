import math
import sys

import numpy as np
import pytest
import scipy.sparse

from geomkit.errors import BackendUnavailableError, InvalidInputError
from geomkit.kernels import BACKENDS, KERNELS, Backend, choose, load, module
from tests.bounds import assert_within, gamma, unit
from tests.kernels.case import DEVICE, as_tile, fused
from tests.kernels.cases import CASES, GRID, ORDERS, layouts, power_mean_error

DIMS = [1, 2, 31, 32, 33, 257]
EDGES = [1, 2, 7, 8, 9, 63, 64, 65]
"""Widths of a tile around those of its words."""
EDGED = {"count", "screen", "tally", "row_ranges", "row_extremes", "above"}
FAST = [Backend.CPU, Backend.TORCH]
BOTH = ["float32", "float64"]


def accumulator(kernel, backend, dtype):
    # 16-bit products are added up in float32.
    return KERNELS[kernel][backend].accumulate or ("float32" if dtype in {"bfloat16", "float16"} else dtype)


def outcomes(kernel, backend, dtype, dim):
    """What the kernel gives, what the reference gives, and how far apart they may be, for every output."""
    rng = np.random.default_rng(dim)
    for case in CASES[kernel](rng, dim, dtype):
        want = case.run(Backend.REFERENCE, "float64")
        got = case.run(backend, dtype)
        bounds = case.bounds(want, dtype, accumulator(kernel, backend, dtype))
        assert set(got) == set(want) == set(bounds), case.label
        if "counts" in want and fused(kernel, backend):
            # A sum of products is never minus zero.
            for counts in (got["counts"], want["counts"]):
                counts[0] += counts[0x8000]
                counts[0x8000] = 0
        for name in want:
            yield got[name], want[name], np.broadcast_to(bounds[name], want[name].shape)


def test_every_kernel_has_cases():
    assert set(CASES) == set(KERNELS)


def test_every_kernel_has_a_reference_and_every_target_exists():
    for kernel, row in KERNELS.items():
        assert Backend.REFERENCE in row
        for backend in row:
            assert callable(load(kernel, backend))


@pytest.mark.parametrize(
    ("kernel", "backend", "dtype", "dim"),
    [(*each, dim) for each in GRID for dim in (EDGES if each[0] in EDGED else DIMS)],
)
def test_matches_the_reference(kernel, backend, dtype, dim):
    for got, want, bound in outcomes(kernel, backend, dtype, dim):
        assert_within(got, want, bound)


@pytest.mark.parametrize(("kernel", "backend", "dtype"), GRID)
def test_a_mutated_answer_is_rejected(kernel, backend, dtype):
    tried = 0
    for got, want, bound in outcomes(kernel, backend, dtype, 33):
        for at in np.flatnonzero(np.abs(want) > 1e-3)[:5]:
            mutated = np.array(got, np.float64)
            mutated.flat[at] *= 1.05
            with pytest.raises(AssertionError):
                assert_within(mutated, want, bound)
            mutated.flat[at] = math.nan
            with pytest.raises(AssertionError):
                assert_within(mutated, want, bound)
            tried += 1
    assert tried >= 5


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("backend", FAST)
def test_tally_of_a_single_row_sees_no_pair(backend, dtype):
    memory = module(backend)
    counts, sums = memory.zeros((4, 65536), memory.COUNTER), memory.zeros((4,), "float64")
    extremes = memory.zeros((2,), "float64")
    extremes[0], extremes[1] = math.inf, -math.inf
    load("tally", backend)(memory.zeros((1, 1), dtype), True, 0.0, counts, sums, extremes)
    assert int(counts.sum()) == 0
    assert float(sums.sum()) == 0
    assert memory.to_numpy(extremes).tolist() == [math.inf, -math.inf]


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [(backend, dtype) for backend in Backend for dtype in BOTH if (backend, dtype) != (Backend.TRITON, "float64")],
)
def test_tally_rounds_ties_away_from_zero_and_keeps_signs_apart(backend, dtype):
    memory = module(backend)
    # 1 + 2^-8 lies half-way between two bfloat16 values; just below it rounds down.
    values = np.array([[1.0, 1 + 2.0**-8, 1 + 2.0**-8 - 2.0**-20, -1.0, -1 - 2.0**-8, 0.0, 2.0**-140]])
    place = {"device": DEVICE} if backend.on_device else {}
    counts, sums = memory.zeros((4, 65536), memory.COUNTER, **place), memory.zeros((4,), "float64", **place)
    extremes = memory.zeros((2,), "float64", **place)
    load("tally", backend)(as_tile(backend, values, dtype), False, 0.0, counts, sums, extremes)
    found = memory.to_numpy(counts).sum(axis=0)
    seen = {int(at): int(found[at]) for at in np.flatnonzero(found)}
    assert seen == {0x0000: 2, 0x3F80: 2, 0x3F81: 1, 0xBF80: 1, 0xBF81: 1}


def unit_of(backend, x, dtype):
    memory = module(backend)
    out = memory.zeros(x.shape, dtype)
    norms = load("unit_rows", backend)(memory.as_working(x, x.dtype.name), out)
    return memory.to_numpy(norms), memory.to_numpy(out).astype(np.float64)


EXTREME = [
    ("float32", 1e-30),
    ("float32", 1e30),
    ("float32", 1e-44),
    ("float64", 1e-300),
    ("float64", 1e300),
    ("float64", 1e-320),
    ("float64", 5e-324),
]


@pytest.mark.parametrize(("dtype", "size"), EXTREME)
@pytest.mark.parametrize("backend", FAST)
def test_unit_rows_survives_extreme_norms(backend, dtype, size):
    x = (np.random.default_rng(5).standard_normal((6, 33)) * size).astype(dtype)
    x[0], x[0, 3] = 0, size
    # In extended precision neither the squares nor the subnormals leave the range.
    wide = x.astype(np.longdouble)
    want = np.sqrt((wide * wide).sum(axis=1))
    norms, rows = unit_of(backend, x, "float64")
    assert_within(rows, (wide / want[:, None]).astype(np.float64), 2 * gamma(40, "float64"))
    # A norm below the normal numbers is rounded to a multiple of the smallest subnormal.
    assert_within(norms, want.astype(np.float64), 2 * gamma(40, "float64") * want.astype(np.float64) + 5e-324)


@pytest.mark.parametrize("backend", list(Backend))
def test_unit_rows_survives_the_largest_number(backend):
    x = np.array([[np.finfo("float64").max, 0.0], [0.0, -np.finfo("float64").max]])
    norms, rows = unit_of(backend, x, "float64")
    assert norms.tolist() == [np.finfo("float64").max] * 2
    assert rows.tolist() == [[1.0, 0.0], [0.0, -1.0]]


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("backend", list(Backend))
def test_unit_rows_flags_rows_without_direction(backend, dtype):
    x = np.ones((5, 33), dtype)
    x[1, 4], x[2, 0], x[3, 32], x[4] = math.nan, math.inf, -math.inf, 0
    x = x.astype("float64") if backend is Backend.REFERENCE else x
    norms, rows = unit_of(backend, x, "float64")
    assert np.isnan(norms).tolist() == [False, True, True, True, False]
    assert norms[4] == 0
    assert not rows[4].any()


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("backend", list(Backend))
def test_centred_rows_flags_rows_that_are_not_finite(backend, dtype):
    dtype = "float64" if backend is Backend.REFERENCE else dtype
    x = np.ones((3, 4), dtype)
    x[1, 2], x[2, 0] = math.nan, math.inf
    memory = module(backend)
    out = memory.zeros(x.shape, dtype)
    squares = memory.to_numpy(load("centred_rows", backend)(memory.as_working(x, dtype), np.zeros(4), 1.0, out))
    assert np.isnan(squares).tolist() == [False, True, True]
    assert squares[0] == 4


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize(
    ("kernel", "backend", "dtype"), [each for each in GRID if each[0] in {"minkowski", "sparse_minkowski"}]
)
def test_duplicates_are_exactly_nothing_apart(kernel, backend, dtype, p):
    x = np.random.default_rng(3).standard_normal((6, 257)).astype(dtype)
    memory = module(backend)
    rows = scipy.sparse.csr_array(x) if kernel.startswith("sparse") else memory.as_working(x, dtype)
    out = memory.zeros((6, 6), dtype)
    load(kernel, backend)(rows, rows, out, p)
    found = memory.to_numpy(out)
    assert not np.diag(found).any()
    assert (found[~np.eye(6, dtype=bool)] > 0).all()


@pytest.mark.parametrize("p", [0.02, 0.04, 40.0, 300.0])
@pytest.mark.parametrize(
    ("kernel", "backend", "dtype"), [each for each in GRID if each[0] in {"minkowski", "sparse_minkowski"}]
)
def test_extreme_orders_neither_overflow_nor_vanish(kernel, backend, dtype, p):
    rng = np.random.default_rng(4)
    x = (rng.standard_normal((4, 768)) * 1e-6).astype(dtype)
    memory = module(backend)
    rows = scipy.sparse.csr_array(x) if kernel.startswith("sparse") else memory.as_working(x, dtype)
    out = memory.zeros((4, 4), dtype)
    load(kernel, backend)(rows, rows, out, p)
    apart = memory.to_numpy(out).astype(np.float64)[~np.eye(4, dtype=bool)]
    differences = np.abs(x[:, None].astype(np.float64) - x[None])[~np.eye(4, dtype=bool)]
    want = np.exp(np.log(np.mean(np.exp(p * np.log(differences / 1e-6)), axis=1)) / p) * 1e-6
    error = unit(dtype) * 4 if kernel.startswith("sparse") else power_mean_error(768, p, dtype)
    assert_within(apart, want, want * (error + gamma(768 + 2 * p + 20, "float64") / min(p, 1)))


def test_layouts_hold_the_same_values():
    x = np.random.default_rng(0).standard_normal((5, 7))
    flags = {name: each.flags for name, each in layouts(x).items()}
    assert all((each == x).all() for each in layouts(x).values())
    assert flags["C"].c_contiguous
    assert flags["Fortran"].f_contiguous
    assert not flags["strided"].contiguous
    assert not flags["backwards"].contiguous
    assert not flags["read-only"].writeable


def test_an_unregistered_backend_is_named():
    with pytest.raises(BackendUnavailableError, match=r"'sparse_gram' has no 'torch'.*'reference', 'cpu'"):
        load("sparse_gram", Backend.TORCH)


@pytest.mark.parametrize(("backend", "library"), [(Backend.TORCH, "torch"), (Backend.CPU, "numba")])
def test_a_missing_library_is_named_and_nothing_is_substituted(monkeypatch, backend, library):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, BACKENDS[backend], raising=False)
    with pytest.raises(BackendUnavailableError, match=rf"backend '{backend.value}' needs.*{library}"):
        module(backend)
    with pytest.raises(BackendUnavailableError, match=library):
        load("gram", backend)


def test_choose():
    assert choose("auto", on_accelerator=False) is Backend.CPU
    assert choose("auto", on_accelerator=True) is Backend.TORCH
    assert choose("torch", on_accelerator=False) is Backend.TORCH
    with pytest.raises(InvalidInputError, match=r"backend must be 'auto' or one of .*'cpu'.*; got 'gpu'"):
        choose("gpu", on_accelerator=False)
    with pytest.raises(InvalidInputError, match=r"backend must be 'auto' or one of .*; got \['cpu'\]"):
        choose(["cpu"], on_accelerator=False)
    with pytest.raises(InvalidInputError, match="backend 'cpu' cannot work on an accelerator"):
        choose("cpu", on_accelerator=True)
