"""Nearest rows of a corpus against brute force in extended precision, and that nothing but the rows decides them."""

import math

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import geomkit
from geomkit.core.matrix import as_matrix
from geomkit.errors import BackendUnavailableError, InvalidInputError
from geomkit.kernels import Backend, load
from geomkit.kernels import module as backend_of
from geomkit.pairwise import rescoring
from geomkit.pairwise import scores as prepared
from geomkit.pairwise import search as module
from geomkit.pairwise.queries import queries_of, query_batch, query_bounds
from geomkit.pairwise.scores import corpus_scores
from geomkit.stats import neighbors as neighbors_module
from geomkit.stats.alignment import overlap_of
from geomkit.stats.dimension import lid_of, mle_of, twonn_of
from geomkit.stats.hubness import hubness_of
from geomkit.stats.labels import same_label_rate
from geomkit.stats.neighbors import neighbors
from geomkit.stats.query_fit import query_fit_of
from tests.kernels.case import read
from tests.stats.cross_oracle import assert_equal_rows_come_by_number, assert_nearest_to, scores_between
from tests.stats.nearest import METRICS, NAMES, keep_fewer, rows_of, same
from tests.stats.oracle import BACKENDS, SETTLED, data, force, ran

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

WAYS = [each for each in SETTLED if each[0] != "triton"]
M, N, D = 41, 130, 20


def nearest_to(queries, x, k=10, **how):
    return neighbors(x, k, queries=queries, **how)


def asked(name, *, m=M, d=D):
    """Queries of the same kind as the corpus of that name, some of which are rows of it, and some far from all."""
    q = np.array(rows_of(name, m, d, seed=2), np.float64)
    q[: m // 4] = np.asarray(rows_of(name, N, d), np.float64)[: m // 4]
    q[m // 4 : m // 3] *= 1e3
    return q


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("backend", "precision", "product"), WAYS)
def test_matches_brute_force(monkeypatch, backend, precision, product, metric, name):
    force(monkeypatch, product)
    x, q = rows_of(name, N, D), asked(name)
    found = nearest_to(q, x, 7, metric=metric, backend=backend, precision=precision)
    assert (found.d, found.k, found.backend, found.precision) == (D, 7, backend, ran(backend, precision))
    assert_nearest_to(found, q, x, metric)
    assert_equal_rows_come_by_number(found, x)
    with monkeypatch.context() as context:
        keep_fewer(context)
        again = nearest_to(q, x, 7, metric=metric, backend=backend, precision=precision)
        assert again.n_recomputed >= found.n_recomputed
        assert same(again, found)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_what_screening_cannot_settle_is_redone(monkeypatch, backend, metric):
    x, q = rows_of("clustered", N, D), asked("clustered")
    for precision in ("float32", "bfloat16"):
        plain = nearest_to(q, x, 4, metric=metric, backend=backend, precision=precision)
        with monkeypatch.context() as context:
            keep_fewer(context)
            found = nearest_to(q, x, 4, metric=metric, backend=backend, precision=precision)
            assert found.n_recomputed > plain.n_recomputed
            context.setattr(module, "REDONE_ENTRIES", 64)
            again = nearest_to(q, x, 4, metric=metric, backend=backend, precision=precision)
        assert same(found, plain)
        assert same(again, plain)


def test_gaussian_queries_need_no_second_pass():
    x, q = data("gaussian", 3000, 32), data("gaussian", 200, 32, seed=5)
    for metric in METRICS:
        assert nearest_to(q, x, metric=metric).n_recomputed <= 2


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_any_number_of_neighbours_and_queries(precision, metric):
    for name in ("clustered", "duplicated"):
        x = rows_of(name, 23, 5)
        for k in (*range(1, 24), np.int64(3)):
            q = rows_of(name, k, 5, seed=3)
            found = nearest_to(q, x, k, metric=metric, precision=precision)
            assert type(found.k) is int
            assert_nearest_to(found, q, x, metric)
            assert_equal_rows_come_by_number(found, x)


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_rows_need_no_redoing(backend):
    x = rows_of("many equal", 12, 4)
    found = nearest_to(x[:3], x, 12, backend=backend)
    assert found.n_recomputed == 0
    assert_nearest_to(found, x[:3], x, "cosine")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", ["gaussian", "many equal", "translated", "of different length"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_blocks_threads_and_precision_do_not_matter(monkeypatch, backend, name, metric):
    x, q = rows_of(name, N, D), asked(name)
    want = nearest_to(q, x, 6, metric=metric, backend=backend, precision="float64", threads=1)
    for precision, threads, tile in (("float32", 3, 7), ("bfloat16", 2, 29), ("float64", None, 768)):
        with monkeypatch.context() as context:
            context.setattr(module, "TILE", tile)
            context.setattr(module, "WIDEST", 4 * tile)
            assert same(nearest_to(q, x, 6, metric=metric, backend=backend, precision=precision, threads=threads), want)
    for target, value in (
        ((module, "BATCH"), 3),
        ((module, "BATCH_PLACES"), 1),
        ((module, "REDONE_ENTRIES"), 100),
        ((prepared, "_MIDDLE_ROWS"), 1),
        ((rescoring, "_GATHERED_ENTRIES"), 5 * D),
        ((rescoring, "_FEW_CANDIDATES"), 1),
    ):
        with monkeypatch.context() as context:
            context.setattr(*target, value)
            for rows in (x, np.asfortranarray(x)):
                assert same(nearest_to(q, rows, 6, metric=metric, backend=backend), want)


@pytest.mark.parametrize("metric", METRICS)
def test_is_what_neighbours_of_the_corpus_are(metric):
    x = rows_of("clustered", 90, 12)
    among, found = neighbors(x, 5, metric=metric), nearest_to(x, x, 90, metric=metric)
    others = found.indices != np.arange(90)[:, None]
    assert np.array_equal(found.indices[others].reshape(90, 89)[:, :5], among.indices)
    assert np.array_equal(found.distances[others].reshape(90, 89)[:, :5], among.distances)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_storage_of_every_kind(backend, metric, tmp_path):
    x, q = data("clustered", 60, 10), data("clustered", 9, 10, seed=4)
    wide = np.zeros((120, 30), np.float32)
    wide[::2, ::3] = x
    np.save(tmp_path / "x.npy", x)
    kinds = (
        x.astype(np.float16),
        x.astype(ml_dtypes.bfloat16),
        np.round(x * 4).astype(np.int8),
        x.astype(np.float64),
        torch.from_numpy(x),
        torch.from_numpy(x).to(torch.bfloat16).requires_grad_(),
        wide[::2, ::3],
        x.astype(">f8"),
        np.load(tmp_path / "x.npy", mmap_mode="r"),
    )
    for kind in kinds:
        as_float = kind.detach().to(torch.float64).numpy() if isinstance(kind, torch.Tensor) else kind.astype(float)
        assert_nearest_to(nearest_to(q, kind, 5, metric=metric, backend=backend), q, as_float, metric)
        assert_nearest_to(nearest_to(kind, q, 5, metric=metric, backend=backend), as_float, q, metric)


@pytest.mark.parametrize("name", ["gaussian", "duplicated", "identical"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_sparse_rows_and_queries(monkeypatch, backend, metric, name):
    x, q = (np.asarray(each, np.float64) for each in (rows_of(name, N, D), asked(name)))
    x, q = (np.where(np.abs(each) > np.quantile(np.abs(x), 0.7), each, 0) for each in (x, q))
    x[:, 0] += 1
    q[:, 0] += 1
    stored = scipy.sparse.csr_array(x), scipy.sparse.csr_array(q)
    for rows, wanted in ((stored[0], stored[1]), (stored[0], q), (x, stored[1])):
        found = nearest_to(wanted, rows, 6, metric=metric, backend=backend)
        assert_nearest_to(found, q, x, metric)
        assert_equal_rows_come_by_number(found, x)
        assert (found.matmul == "numba") == (backend == "cpu" and rows is stored[0])
        with monkeypatch.context() as context:
            keep_fewer(context)
            assert same(nearest_to(wanted, rows, 6, metric=metric, backend=backend), found)
    with pytest.raises(InvalidInputError, match="precision 'bfloat16' is for dense rows; x is sparse: use 'float32'"):
        nearest_to(q, stored[0], 6, precision="bfloat16", backend="cpu")


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    "sizes", [(1e-30, 1e-30), (1e30, 1e30), (1e30, 1.0), (1.0, 1e30), (1e-30, 1e3), (1e300, 1e-30)]
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_tiny_and_huge(backend, sizes, sparse):
    x, q = (data("clustered", n, 8, seed=n).astype(np.float64) * size for n, size in zip((50, 11), sizes, strict=True))
    given_rows = scipy.sparse.csr_array(x) if sparse else x
    for metric in METRICS:
        for precision in ("float32",) if sparse else ("float32", "bfloat16"):
            found = nearest_to(q, given_rows, 4, metric=metric, backend=backend, precision=precision)
            if metric == "euclidean" and max(sizes) > 1e150:
                far = np.sqrt(-scores_between(q / 1e200, x / 1e200, metric)[0]) * np.longdouble(1e200)
                assert np.allclose(np.take_along_axis(far, found.indices, 1).astype(float), found.distances, rtol=1e-14)
            else:
                assert_nearest_to(found, q, x, metric)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_cosines_of_rows_whose_norms_have_nothing_in_common(backend, sparse):
    rng = np.random.default_rng(5)
    x, q = (rng.standard_normal((n, 9)) * 10.0 ** rng.integers(-300, 300, (n, 1)) for n in (60, 14))
    rows = scipy.sparse.csr_array(x) if sparse else x
    found = nearest_to(q, rows, 4, backend=backend)
    assert_nearest_to(found, q, x, "cosine")
    assert same(nearest_to(q, rows, 4, backend=backend, precision="float64"), found)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("exponents", [(-1063, 0), (0, -1063), (1000, -530), (1013, 1013)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_lengths_that_squares_or_reciprocals_cannot_have(backend, exponents, sparse):
    # Whole numbers, so that the least of them are still exact.
    x, q = (np.round(data("gaussian", n, 8, seed=n).astype(np.float64) * 100) for n in (40, 9))
    far_x, far_q = (np.ldexp(each, exponent) for each, exponent in zip((x, q), exponents, strict=True))
    rows = scipy.sparse.csr_array(far_x) if sparse else far_x
    assert_nearest_to(nearest_to(far_q, rows, 5, backend=backend), q, x, "cosine")
    if exponents[0] == exponents[1]:
        found = nearest_to(far_q, rows, 5, metric="euclidean", backend=backend)
        near = nearest_to(q, x, 5, metric="euclidean", backend="reference")
        assert np.array_equal(found.indices, near.indices)
        assert np.allclose(np.ldexp(found.distances, -exponents[0]), near.distances, rtol=1e-14)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("backend", "precision", "product"), WAYS)
def test_the_error_bound_holds(monkeypatch, backend, precision, product, metric):
    force(monkeypatch, product)
    for name, shift in (("clustered", 0), ("anisotropic", 0), ("gaussian", 1e3)):
        x, q = rows_of(name, N, D) + shift, asked(name) + shift
        which, how = Backend(backend), ran(backend, precision)
        dtype = backend_of(which).storage(how, 1.0)
        corpus = corpus_scores(as_matrix(x), which, how, metric, "raise", dtype=dtype)
        queries = queries_of(corpus, as_matrix(q), "raise", 1)
        some = query_batch(corpus, queries, np.arange(M))
        _, right, facts = corpus.make(0, N)
        out = backend_of(which).zeros((M, N), corpus.dtype, corpus.device)
        load("gram", which)(some.left, right, out)
        entries = read(which, out).astype(np.float64)
        bounds = query_bounds(corpus, some, np.abs(read(which, facts)).max(axis=1))
        errors, slack, weights, shifts, units = (bound[:, None] for bound in bounds)
        full, _ = scores_between(q, x, metric)
        true = (full / 2 if metric == "euclidean" else full) / units
        rounding = 2.0**-8 * (corpus.dtype == "bfloat16") * np.abs(entries)
        off = np.abs(weights * entries + shifts - true)
        assert np.all(off <= weights * (errors + rounding) + slack)
        # And it is not so wide that it says nothing.
        assert how == "float64" or np.any(off >= weights * errors / 300)
        found = nearest_to(q, x, 3, metric=metric, backend=backend, precision=precision)
        assert found.error_bound == pytest.approx(float((errors * weights * units).max()), rel=1e-2)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_dropped_rows_keep_their_numbers(backend, metric):
    x, q = data("clustered", 40, 6), data("clustered", 8, 6, seed=3)
    bad = [[math.nan] * 6, [0.0] * 6 if metric == "cosine" else [math.nan] * 6, [math.inf] * 6]
    broken, unasked = np.insert(x, [0, 7, 40], bad, axis=0), np.insert(q, [0, 8], bad[:2], axis=0)
    kept = np.delete(np.arange(43), [0, 8, 42])
    want = nearest_to(q, x, 5, metric=metric, backend=backend)
    for way in (np.asarray, torch.from_numpy, scipy.sparse.csr_array):
        found = nearest_to(way(unasked), way(broken), 5, metric=metric, backend=backend, on_invalid="drop")
        assert (found.m, found.n, found.n_dropped, found.n_dropped_queries) == (8, 40, 3, 2)
        assert np.array_equal(found.rows, np.delete(np.arange(10), [0, 9]))
        assert np.array_equal(found.corpus_rows, kept)
        assert np.array_equal(found.indices, kept[want.indices])
        assert np.allclose(found.distances, want.distances, rtol=1e-12, atol=1e-14)
        with pytest.raises(InvalidInputError, match=r"x has .* that are not finite; drop them"):
            nearest_to(way(q), way(broken), 5, metric=metric, backend=backend)
        with pytest.raises(InvalidInputError, match=r"queries has .* that are not finite; drop them"):
            nearest_to(way(unasked), way(x), 5, metric=metric, backend=backend)
        with pytest.raises(InvalidInputError, match=r"k must be a whole number from 1 to n = 40; got 41"):
            nearest_to(way(q), way(broken), 41, metric=metric, backend=backend, on_invalid="drop")
        with pytest.raises(InvalidInputError, match="queries has 0 rows left after dropping"):
            nearest_to(way(np.array(bad)), way(x), 5, metric=metric, backend=backend, on_invalid="drop")


def test_zero_rows_and_one_query():
    x = np.vstack([np.zeros((2, 3)), data("gaussian", 9, 3)])
    for metric in ("euclidean", "dot"):
        assert_nearest_to(nearest_to(x[:1], x, 4, metric=metric), x[:1], x, metric)
        assert nearest_to(x[:2], np.zeros((5, 3)), 2, metric=metric).indices.tolist() == [[0, 1], [0, 1]]
    with pytest.raises(InvalidInputError, match=r"x has 2 rows \(first: 0, 1\) that are zero and have no direction"):
        nearest_to(x[2:], x, 4)
    with pytest.raises(InvalidInputError, match=r"queries has 1 row \(0\) that are zero and have no direction"):
        nearest_to(np.zeros((1, 3)), x[2:], 4)
    with pytest.raises(InvalidInputError, match=r"queries has 1 row \(1\) that lie further from the rows of x than"):
        nearest_to([[0.0, 0], [-1.7e308, 0]], [[1.7e308, 0], [1.7e308, 1]], 1, metric="euclidean")


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 9), metric=st.sampled_from(METRICS))
def test_order_does_not_matter(seed, k, metric):
    rng = np.random.default_rng(seed)
    x, q = rng.standard_normal((50, 6)), rng.standard_normal((12, 6))
    rows, wanted = rng.permutation(50), rng.permutation(12)
    plain, found = nearest_to(q, x, k, metric=metric), nearest_to(q[wanted], x[rows], k, metric=metric)
    assert np.array_equal(rows[found.indices], plain.indices[wanted])
    assert np.array_equal(found.distances, plain.distances[wanted])


@pytest.mark.parametrize("k", [0, -1, 7, True, 2.0, "3", None, math.nan])
def test_k_must_be_a_number_of_rows_that_there_are(k):
    with pytest.raises(InvalidInputError, match=r"k must be a whole number from 1 to n = 6; got"):
        nearest_to(data("gaussian", 9, 3), data("gaussian", 6, 3), k)


def test_arguments_are_checked():
    x = data("gaussian", 6, 3)
    with pytest.raises(InvalidInputError, match="queries and x must have the same number of columns; got 4 and 3"):
        nearest_to(data("gaussian", 6, 4), x, 2)
    for how, message in (
        ({"metric": "manhattan"}, "metric must be one of .*; got 'manhattan'"),
        ({"precision": "float16"}, "precision must be one of .*; got 'float16'"),
        ({"backend": "gpu"}, "backend must be 'auto' or one of .*; got 'gpu'"),
        ({"threads": 0}, "threads must be a whole number of at least 1, or None; got 0"),
        ({"on_invalid": "skip"}, "on_invalid must be one of .*; got 'skip'"),
        ({"device": "gpu"}, "device must be None"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            nearest_to(x, x, 2, **how)
    with pytest.raises(InvalidInputError, match="queries has 1 dimensions"):
        nearest_to(x[0], x, 2)
    with pytest.raises(BackendUnavailableError, match="triton"):
        nearest_to(x, x, 2, backend="triton")


def test_the_input_is_left_alone_and_printing_shows_every_scalar():
    x, q = data("clustered", 50, 9), data("clustered", 7, 9, seed=2)
    before = x.copy(), q.copy()
    for metric in METRICS:
        found = nearest_to(q, x, 3, metric=metric)
    assert np.array_equal(x, before[0])
    assert np.array_equal(q, before[1])
    left_out = {"indices", "distances", "rows", "corpus_rows"}
    assert set(found.to_dict()) == set(found.__dataclass_fields__) - left_out
    assert len(str(found).splitlines()) == len(found.to_dict())
    assert "indices" not in repr(found)
    assert (found.indices.dtype, found.distances.dtype, found.rows.dtype) == (np.int64, np.float64, np.int64)


def test_a_result_says_whose_neighbours_it_holds():
    x, q = data("clustered", 30, 5), data("clustered", 7, 5, seed=2)
    found, among = neighbors(x, 3, queries=q), neighbors(x, 3)
    assert (found.of_queries, found.m, found.n) == (True, 7, 30)
    assert (among.of_queries, among.m, among.n, among.n_dropped_queries) == (False, 30, 30, 0)
    assert among.corpus_rows is among.rows


@pytest.mark.parametrize(
    "read",
    [
        hubness_of, twonn_of, mle_of, lid_of, lambda found: same_label_rate(found, np.arange(30) % 2),
        lambda found: overlap_of(neighbors(data("clustered", 30, 5), 3), found),
        lambda found: query_fit_of(found, found),
    ],
)  # fmt: skip
def test_neighbours_of_queries_are_refused_where_those_of_rows_are_needed(read):
    x = data("clustered", 30, 5)
    with pytest.raises(InvalidInputError, match="must be neighbours of the rows of x among themselves; it"):
        read(neighbors(x, 3, queries=x))


def test_the_fit_of_queries_needs_queries():
    among = neighbors(data("clustered", 30, 5), 3)
    with pytest.raises(InvalidInputError, match="found must be nearest rows to queries"):
        query_fit_of(among, among)


def test_the_old_names_work_and_warn():
    x, q = data("clustered", 30, 5), data("clustered", 7, 5, seed=2)
    with pytest.warns(
        DeprecationWarning, match="nearest_to is deprecated .* use geomkit.neighbors with queries="
    ) as old:
        found = geomkit.nearest_to(q, x, 4, metric="euclidean")
    assert [warning.filename for warning in old] == [__file__]
    assert same(found, neighbors(x, 4, queries=q, metric="euclidean"))
    with pytest.warns(
        DeprecationWarning, match="QueryNeighbors is deprecated and goes with 0.11; use geomkit.Neighbors"
    ) as old:
        assert geomkit.QueryNeighbors is geomkit.Neighbors
    assert [warning.filename for warning in old] == [__file__]
    with pytest.warns(DeprecationWarning, match="QueryNeighbors is deprecated") as old:
        from geomkit.stats.neighbors import QueryNeighbors
    assert QueryNeighbors is geomkit.Neighbors
    assert [warning.filename for warning in old] == [__file__]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        neighbors_module.nothing  # noqa: B018
