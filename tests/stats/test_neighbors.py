import itertools
import math

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geomkit.core.matrix import as_matrix
from geomkit.errors import InvalidInputError
from geomkit.kernels import Backend
from geomkit.pairwise import tiles
from geomkit.pairwise.rescoring import exact_scores
from geomkit.pairwise.scores import COARSE
from geomkit.stats import neighbors as module
from geomkit.stats.neighbors import neighbors
from tests.bounds import assert_within
from tests.stats.nearest import (
    METRICS,
    NAMES,
    assert_equal_rows_come_by_number,
    assert_nearest,
    entries_of,
    keep_fewer,
    rows_of,
    same,
    scores_of,
)
from tests.stats.oracle import BACKENDS, SCREENED, SETTLED, data, force, ran

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

SHAPE = (130, 20)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("backend", "precision", "product"), SETTLED)
def test_matches_brute_force(monkeypatch, backend, precision, product, metric, name):
    force(monkeypatch, product)
    x = rows_of(name, *SHAPE)
    if (precision, metric, name) == ("float16", "dot", "translated"):
        with pytest.raises(InvalidInputError, match="too far from the origin for its inner products in float16"):
            neighbors(x, 7, metric=metric, backend=backend, precision=precision)
        return
    found = neighbors(x, 7, metric=metric, backend=backend, precision=precision)
    assert (found.n, found.d, found.k, found.metric) == (*SHAPE, 7, metric)
    assert (found.backend, found.precision) == (backend, ran(backend, precision))
    assert 0 <= found.n_recomputed <= found.n
    assert_nearest(found, x, metric)
    assert_equal_rows_come_by_number(found, x)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("precision", "product"), [("float32", ""), ("bfloat16", ""), ("bfloat16", "torch")])
def test_any_number_of_neighbours(monkeypatch, precision, product, metric):
    force(monkeypatch, product)
    for name in ("clustered", "duplicated"):
        x = rows_of(name, 23, 5)
        for k in (*range(1, 23), np.int64(3)):
            found = neighbors(x, k, metric=metric, precision=precision)
            assert type(found.k) is int
            assert_nearest(found, x, metric)
            assert_equal_rows_come_by_number(found, x)


@pytest.mark.parametrize("n", [2, 3, 15, 16, 17, 31, 32, 33, 49])
@pytest.mark.parametrize("backend", BACKENDS)
def test_sizes_around_those_of_tiles(monkeypatch, backend, n):
    monkeypatch.setattr(tiles, "TILE", 16)
    for metric, precision in itertools.product(METRICS, ("float32", "bfloat16")):
        x = rows_of("clustered", n, 6)
        found = neighbors(x, min(4, n - 1), metric=metric, backend=backend, precision=precision)
        assert_nearest(found, x, metric)


def test_nothing_is_redone_where_all_others_are_kept():
    for n in (2, 3, 8):
        for threads in (1, 2):
            assert neighbors(rows_of("gaussian", n, 4), n - 1, threads=threads).n_recomputed == 0


@pytest.mark.parametrize("name", ["gaussian", "clustered", "duplicated", "identical"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("backend", "precision"), [each[:2] for each in SCREENED if each[1] not in COARSE])
def test_sparse_rows_match_brute_force(monkeypatch, backend, precision, metric, name):
    x = rows_of(name, *SHAPE)
    # Equal rows stay equal.
    x = np.where(np.abs(x) > np.quantile(np.abs(x), 0.7), x, 0)
    x[:, 0] += 1
    given_rows = scipy.sparse.csr_array(x)
    found = neighbors(given_rows, 6, metric=metric, backend=backend, precision=precision)
    assert_nearest(found, x, metric)
    assert_equal_rows_come_by_number(found, x)
    assert (found.matmul == "numba") == (backend == "cpu")
    keep_fewer(monkeypatch)
    again = neighbors(given_rows, 6, metric=metric, backend=backend, precision=precision)
    assert again.n_recomputed > 0
    assert same(again, found)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("exponent", [-1063, -1000, -530, 530, 1000])
@pytest.mark.parametrize("backend", BACKENDS)
def test_lengths_that_squares_cannot_have(backend, exponent, sparse):
    # Whole numbers, so that the least of them are still exact.
    x = np.round(rows_of("gaussian", 40, 8).astype(np.float64) * 100)
    far = np.ldexp(x, exponent)
    given_rows = scipy.sparse.csr_array(far) if sparse else far
    found = neighbors(given_rows, 5, metric="euclidean", backend=backend)
    near = neighbors(x, 5, metric="euclidean", backend="reference")
    assert np.array_equal(found.indices, near.indices)
    # Distances among the least numbers are rounded to multiples of the very least.
    assert_within(found.distances, np.ldexp(near.distances, exponent), 2.0**-50 * found.distances + 5e-324)
    assert_nearest(neighbors(given_rows, 5, backend=backend), x, "cosine")


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_cosines_of_rows_whose_norms_have_nothing_in_common(backend, sparse):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((60, 9)) * 10.0 ** rng.integers(-300, 300, (60, 1))
    given_rows = scipy.sparse.csr_array(x) if sparse else x
    want = neighbors(given_rows, 4, backend=backend, precision="float64")
    assert_nearest(want, x, "cosine")
    for precision in ("float32",) if sparse else ("float32", "bfloat16"):
        assert same(neighbors(given_rows, 4, backend=backend, precision=precision), want)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_storage_of_every_kind(backend, metric, tmp_path):
    x = data("clustered", 60, 10)
    wide = np.zeros((120, 30), np.float32)
    wide[::2, ::3] = x
    fixed = x.copy()
    fixed.flags.writeable = False
    np.save(tmp_path / "x.npy", x)
    for kind in (
        x.astype(np.float16),
        x.astype(ml_dtypes.bfloat16),
        np.round(x * 4).astype(np.int8),
        torch.from_numpy(x),
        torch.from_numpy(x).to(torch.bfloat16).requires_grad_(),
        np.asfortranarray(x),
        wide[::2, ::3],
        fixed,
        x.astype(">f8"),
        np.load(tmp_path / "x.npy", mmap_mode="r"),
    ):
        as_float = kind.detach().to(torch.float64).numpy() if isinstance(kind, torch.Tensor) else kind.astype(float)
        assert_nearest(neighbors(kind, 5, metric=metric, backend=backend), as_float, metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_dropped_rows_keep_their_numbers(backend, metric):
    x = data("clustered", 40, 6)
    bad = [[math.nan] * 6, [0.0] * 6 if metric == "cosine" else [math.nan] * 6, [math.inf] * 6]
    spoilt = np.insert(x, [0, 7, 40], bad, axis=0)
    kept = np.flatnonzero(np.isfinite(spoilt).all(axis=1) & spoilt.any(axis=1))
    for kind in (spoilt, torch.from_numpy(spoilt), scipy.sparse.csr_array(spoilt)):
        want = neighbors(scipy.sparse.csr_array(x) if kind is not spoilt and scipy.sparse.issparse(kind) else x, 5,
                         metric=metric, backend=backend)  # fmt: skip
        found = neighbors(kind, 5, metric=metric, backend=backend, on_invalid="drop")
        assert (found.n, found.n_dropped) == (40, 3)
        assert np.array_equal(found.rows, kept)
        assert np.array_equal(found.indices, kept[want.indices])
        assert np.array_equal(found.distances, want.distances)
        with pytest.raises(InvalidInputError, match=r"k must be .* from 1 to n - 1 = 39; got 40"):
            neighbors(kind, 40, metric=metric, backend=backend, on_invalid="drop")
        with pytest.raises(InvalidInputError, match=r"x has .* that are not finite"):
            neighbors(kind, 5, metric=metric, backend=backend)
    assert np.array_equal(neighbors(x, 5).rows, np.arange(40))


def test_zero_rows_have_neighbours_unless_they_need_a_direction():
    x = np.vstack([np.zeros((2, 3)), data("gaussian", 9, 3)])
    for metric in ("euclidean", "dot"):
        assert_nearest(neighbors(x, 4, metric=metric), x, metric)
        assert_nearest(neighbors(scipy.sparse.csr_array(x), 4, metric=metric), x, metric)
    with pytest.raises(InvalidInputError, match=r"x has 2 rows \(first: 0, 1\) that are zero and have no direction"):
        neighbors(x, 4)


def test_identical_rows_are_no_distance_apart():
    x = np.tile(np.random.default_rng(0).standard_normal(12), (50, 1)) + 1e3
    for metric in ("cosine", "euclidean"):
        for precision in ("float32", "bfloat16"):
            found = neighbors(x, 3, metric=metric, precision=precision)
            assert np.all(found.distances >= 0)
            assert found.distances.max() <= 2.0**-50
            assert found.indices[0].tolist() == [1, 2, 3]
            assert found.indices[2].tolist() == [0, 1, 3]


def test_distances_of_cosines_lie_between_0_and_2():
    """Although rounding takes some cosines of equal and of opposed rows beyond 1."""
    beyond = 0
    for seed in range(20):
        row = np.random.default_rng(seed).standard_normal((1, 7))
        x = np.vstack([row, row, -row])
        found = neighbors(x, 2)
        assert np.all((found.distances >= 0) & (found.distances <= 2))
        assert_within(found.distances, [[0, 2], [0, 2], [2, 2]], 2.0**-50)
        scores = module.cosine_scores(as_matrix(x), Backend.CPU, "float64", "raise")
        beyond += exact_scores(scores, np.array([0]), np.array([[1]]), 1).item() > 1
    assert beyond > 0


@settings(max_examples=15, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(METRICS), st.sampled_from(["float32", "bfloat16"]))
def test_the_order_of_rows_does_not_matter(random, metric, precision):
    x = data("gaussian", 50, 9)
    order = list(range(50))
    random.shuffle(order)
    first = neighbors(x, 4, metric=metric, precision=precision)
    second = neighbors(x[order], 4, metric=metric, precision=precision)
    assert np.array_equal(np.array(order)[second.indices], first.indices[order])
    assert np.array_equal(second.distances, first.distances[order])


def test_the_input_is_left_alone():
    x = data("clustered", 50, 9)
    for kind in (x.copy(), torch.from_numpy(x.copy()), scipy.sparse.csr_array(x)):
        for metric in METRICS:
            neighbors(kind, 3, metric=metric)
        after = (
            kind.numpy() if isinstance(kind, torch.Tensor) else kind.toarray() if scipy.sparse.issparse(kind) else kind
        )
        assert np.array_equal(after, x)


@pytest.mark.parametrize("k", [0, -1, 6, True, 2.0, "3", None, np.bool_(True), math.nan])
def test_k_must_be_a_number_of_neighbours_that_there_are(k):
    with pytest.raises(InvalidInputError, match=r"k must be a whole number from 1 to n - 1 = 5; got"):
        neighbors(data("gaussian", 6, 3), k)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"metric": "manhattan"}, r"metric must be one of .*'cosine', 'euclidean', 'dot'.*; got 'manhattan'"),
        ({"precision": "float16"}, r"precision must be one of .*'bfloat16'.*; got 'float16'"),
        ({"backend": "gpu"}, r"backend must be 'auto' or one of .*; got 'gpu'"),
        ({"threads": 0}, r"threads must be a whole number of at least 1, or None; got 0"),
        ({"on_invalid": "skip"}, r"on_invalid must be one of .*; got 'skip'"),
    ],
)
def test_arguments_are_checked(how, message):
    with pytest.raises(InvalidInputError, match=message):
        neighbors(np.array([[1.0, math.nan], [0.5, 1], [3, 4]]), 1, **how)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sparse_rows_have_no_bfloat16(backend):
    with pytest.raises(InvalidInputError, match="precision 'bfloat16' is for dense rows; x is sparse: use 'float32'"):
        neighbors(scipy.sparse.csr_array(data("gaussian", 6, 3)), 1, precision="bfloat16", backend=backend)


def test_printing_and_dict_show_every_scalar():
    found = neighbors(data("gaussian", 9, 3), 2)
    scalars = found.to_dict()
    assert set(scalars) == set(found.__dataclass_fields__) - {"indices", "distances", "rows", "corpus_rows"}
    assert scalars["metric"] == "cosine"
    assert len(str(found).splitlines()) == len(scalars)
    assert "indices" not in repr(found)
    assert (found.indices.dtype, found.distances.dtype) == (np.int64, np.float64)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("backend", "precision", "product"), SETTLED)
def test_the_error_bound_is_that_of_screened_scores(monkeypatch, backend, precision, product, metric):
    force(monkeypatch, product)
    x = data("clustered", *SHAPE) * np.float32(3)
    found = neighbors(x, 3, metric=metric, backend=backend, precision=precision)
    scores = module.prepare(as_matrix(x), backend, precision, "raise", 1, module.METRICS[metric])
    full, _ = scores_of(x, metric)
    entries = (entries_of(scores) + scores.origin) * scores.unit
    true = full / 2 if metric == "euclidean" else full
    off, rounding = np.abs(entries - true), 2.0**-8 * scores.rounded * np.abs(entries - scores.origin * scores.unit)
    apart = ~np.eye(SHAPE[0], dtype=bool)
    assert np.all((off <= found.error_bound + rounding)[apart])
    assert found.precision == "float64" or off[apart].max() > found.error_bound / 100
