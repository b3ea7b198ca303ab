import math

import numpy as np
import pytest
import scipy.sparse
import torch

from geomkit.core import memory
from geomkit.core.matrix import as_matrix
from geomkit.errors import InvalidInputError
from geomkit.kernels import Backend, module, torch_
from geomkit.pairwise.normalization import as_given, centred_rows, direction_norms, room, taken, unit_rows
from geomkit.stats.concentration import squared_distance_moments
from tests.bounds import assert_within

BACKENDS = list(Backend)
SHAPES = [(40, 7), (9, 60), (2, 1), (2, 3), (30, 30)]


def values(n, d, *, sparse, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d))
    if sparse:
        x *= rng.random((n, d)) < 0.4
        x[:, 0] += 1
    return x


def given(x, *, sparse):
    return as_matrix(scipy.sparse.csr_array(x) if sparse else x)


def upper(matrix):
    return matrix[np.triu_indices(len(matrix), 1)]


def squared_distances(x):
    return np.square(x[:, None] - x[None]).sum(axis=2)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_norms_and_the_sum_of_all_directions(monkeypatch, backend, shape, sparse, threads):
    monkeypatch.setattr("geomkit.core.blocks.BLOCK_ENTRIES", 4 * shape[1])
    x = values(*shape, sparse=sparse)
    x[0], x[1, 0] = (0, np.nan) if shape[0] > 2 else (x[0], x[1, 0])
    norms, total = direction_norms(given(x, sparse=sparse), backend, threads)
    want = np.sqrt(np.square(x).sum(axis=1))
    assert np.array_equal(np.isnan(norms), np.isnan(want))
    bound = (shape[1] + 10) * 2.0**-53
    usable = np.flatnonzero(want > 0)
    assert_within(np.nan_to_num(norms), np.nan_to_num(want), bound * np.nan_to_num(want))
    u = x[usable] / want[usable, None]
    assert_within(total, u.sum(axis=0), (bound + shape[0] * 2.0**-53) * np.abs(u).sum(axis=0))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_sum_of_all_directions_does_not_depend_on_threads(monkeypatch, backend):
    monkeypatch.setattr("geomkit.core.blocks.BLOCK_ENTRIES", 50)
    matrix = given(values(200, 7, sparse=False), sparse=False)
    once = direction_norms(matrix, backend, 1)
    for threads in (2, 5):
        again = direction_norms(matrix, backend, threads)
        assert all(np.array_equal(one, other) for one, other in zip(once, again, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("where", ["numpy", "torch", "sparse"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_by_number_are_those_of_the_block(backend, where, dtype):
    x = values(20, 6, sparse=True).astype(dtype)
    x[[2, 7]] = 0
    matrix = as_matrix({"torch": torch.from_numpy, "sparse": scipy.sparse.csr_array}.get(where, np.asarray)(x))
    for kept in (matrix, matrix.without(np.array([2, 7]))):
        whole = module(backend).to_numpy(as_given(kept, backend, 0, kept.n))
        some = np.array([3, 0, kept.n - 1, 3])
        assert np.array_equal(module(backend).to_numpy(taken(kept, backend, some)), whole[some])
        assert np.array_equal(whole, x if kept is matrix else np.delete(x, [2, 7], axis=0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_far_away_origin_costs_no_digits(backend, dtype):
    x = np.random.default_rng(5).standard_normal((30, 9))
    near = centred_rows(as_matrix(x), backend, dtype, "raise")
    shifted = x + 1e6
    far = centred_rows(as_matrix(shifted), backend, dtype, "raise")
    # The shift itself rounds the data to multiples of 2^-33, and that is all.
    rounding = 1e6 * 2.0**-52
    assert near.scale == far.scale
    kernels = module(backend)
    between = np.abs(kernels.to_numpy(near.make(0, 30, "float64")) - kernels.to_numpy(far.make(0, 30, "float64")))
    assert between.max() <= 2 * rounding / near.scale
    mean, variance = squared_distance_moments(far)
    exact = upper(squared_distances(shifted - shifted[0]))
    assert_within(mean * far.scale**2, exact.mean(), 1e-13 * exact.mean())
    assert_within(variance * far.scale**4, exact.var(), 1e-12 * exact.var())


@pytest.mark.parametrize("value", [0.1, 1e6 + 0.1, 1e-300, 1e300])
@pytest.mark.parametrize("backend", BACKENDS)
def test_identical_rows_become_exactly_zero(backend, value):
    x = np.full((17, 5), value) * [1, -1, 0.3, 7, 1e-3]
    rows = centred_rows(as_matrix(x), backend, "float32", "raise")
    assert not np.asarray(rows.block(0, 17)).any()
    assert not rows.squares.any()
    assert squared_distance_moments(rows) == (0.0, 0.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_are_scaled_by_a_power_of_two_to_norms_of_at_most_one(backend):
    for size in (1e-150, 1e-6, 1.0, 3e5, 1e150):
        x = values(20, 6, sparse=False) * size
        rows = centred_rows(as_matrix(x), backend, "float32", "raise")
        assert math.frexp(rows.scale)[0] == 0.5
        assert 0.25 <= rows.squares.max() <= 1
        centred = x - x.mean(axis=0)
        assert_within(rows.squares * rows.scale**2, np.square(centred).sum(axis=1), 1e-14 * size**2 * 100)


@pytest.mark.parametrize("backend", BACKENDS)
def test_numbers_near_the_end_of_the_range(backend):
    x = np.array([[1.7e308, 1.0], [1.6e308, 0.0], [1.5e308, 2.0]])
    rows = centred_rows(as_matrix(x), backend, "float64", "raise")
    mean, _ = squared_distance_moments(rows)
    made = np.asarray(module(backend).to_numpy(rows.make(0, 3, "float64")))
    assert_within(made * rows.scale / 1e307, [[1, 0], [0, 0], [-1, 0]], 1e-14)
    assert_within(mean * (rows.scale / 1e307) ** 2, 2.0, 1e-13)
    beyond = centred_rows(as_matrix(np.array([[1.7e308, 1.7e308], [1.6e308, 1.7e308]])), backend, "float64", "raise")
    assert_within(squared_distance_moments(beyond)[0] * (beyond.scale / 1e307) ** 2, 1.0, 1e-13)
    with pytest.raises(InvalidInputError, match=r"x has .* that lie further from the mean than float64 can say"):
        centred_rows(as_matrix(np.array([[1.7e308], [-1.7e308]])), backend, "float64", "raise")


def direction(size):
    return np.array([[1.0, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]) * size


@pytest.mark.parametrize("size", [1.0, 1e-30, 1e30, 1e-300, 1e300, 5e-324, 1e-320, 1.7e308])
def test_sparse_unit_rows_survive_extreme_norms(size):
    matrix = as_matrix(scipy.sparse.csr_array(direction(size)))
    rows = unit_rows(matrix, Backend.CPU, "float64", "raise")
    root = math.sqrt(0.5)
    want = [[root, 0, root, 0], [0, root, root, 0], [0, 0, 0, 1]]
    assert_within(rows.block(0, 3).toarray(), want, 4 * 2.0**-53)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("layout", ["dense", "sparse"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_taken_rows_are_the_rows(monkeypatch, backend, layout, kept):
    if not kept:
        monkeypatch.setattr("geomkit.core.memory.RESIDENT_BYTES", 0)
    rows = unit_rows(given(values(20, 6, sparse=True), sparse=layout == "sparse"), backend, "float64", "raise")
    some = np.array([3, 0, 19, 3])
    picked, block = rows.take(some), rows.block(0, 20)
    assert (rows.resident is not None) == (kept or rows.sparse)
    if rows.sparse:
        picked, block = picked.toarray(), block.toarray()
    assert np.array_equal(np.asarray(picked), np.asarray(block)[some])


def test_gpus_keep_rows_up_to_half_of_what_the_fullest_has_free(monkeypatch):
    free = {torch.device("cuda:0"): 10 * 2**30, torch.device("cuda:1"): 6 * 2**30}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device], 2**40))
    matrix = as_matrix(np.ones((3, 2)))
    assert room(matrix) == room(matrix.placed(("cpu",))) == memory.RESIDENT_BYTES
    assert room(matrix.placed(("cuda:0",))) == 5 * 2**30
    assert room(matrix.placed(("cuda:0", "cuda:1"))) == 3 * 2**30


@pytest.mark.parametrize("prepare", [unit_rows, centred_rows])
def test_rows_for_which_a_device_has_no_room_are_made_again(monkeypatch, prepare):
    monkeypatch.setattr("geomkit.core.blocks.BLOCK_ENTRIES", 6 * 7)
    x = as_matrix(values(20, 6, sparse=False))
    kept, zeros = prepare(x, Backend.TORCH, "float64", "raise"), torch_.zeros

    def scarce(shape, dtype, device=None):
        if shape == (20, 6) and len(asked) == 0:
            asked.append(shape)
            raise torch.OutOfMemoryError("full")  # noqa: EM101
        return zeros(shape, dtype, device)

    asked = []
    monkeypatch.setattr(torch_, "zeros", scarce)
    with pytest.warns(RuntimeWarning, match="^the host has no memory to keep prepared rows, which will be made again"):
        made = prepare(x, Backend.TORCH, "float64", "raise")
    assert kept.resident is not None
    assert made.resident is None
    assert torch.equal(made.block(0, 20), kept.block(0, 20))


@pytest.mark.parametrize("backend", BACKENDS)
def test_sparse_and_dense_rows_prepare_alike(backend):
    x = values(25, 8, sparse=True)
    for dtype in ("float32", "float64"):
        sparse = unit_rows(given(x, sparse=True), backend, dtype, "raise").block(0, 25)
        dense = unit_rows(given(x, sparse=False), backend, dtype, "raise").block(0, 25)
        sparse = sparse.toarray() if scipy.sparse.issparse(sparse) else np.asarray(sparse)
        # Two roundings to dtype, either way.
        assert_within(sparse, np.asarray(dense), 2 * float(np.finfo(dtype).eps))
