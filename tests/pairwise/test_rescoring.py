import numpy as np
import pytest
import scipy.sparse
import torch

from geomkit.core.matrix import Matrix, as_matrix
from geomkit.kernels import Backend
from geomkit.pairwise import normalization as preparing
from geomkit.pairwise import rescoring
from geomkit.pairwise.rescoring import exact_scores
from geomkit.pairwise.scores import Scores, cosine_scores, euclidean_scores, product_scores
from tests.bounds import assert_within
from tests.kernels.score_cases import some_ids
from tests.pairwise.test_scores import FAR, SHAPE, mixed, true_scores
from tests.stats.oracle import data

METRICS = {"cosine": cosine_scores, "euclidean": euclidean_scores, "dot": product_scores}
N = SHAPE[0]
KINDS = ["float32", "float64", "float16", "Fortran", "torch", "torch bfloat16", "sparse"]


def stored(x, kind):
    if kind == "sparse":
        return scipy.sparse.csr_array(x)
    if kind == "Fortran":
        return np.asfortranarray(x)
    if kind.startswith("torch"):
        given = torch.from_numpy(x)
        return given.to(torch.bfloat16) if kind.endswith("bfloat16") else given
    return x.astype(kind)


def plain(x):
    if isinstance(x, torch.Tensor):
        return x.to(torch.float64).numpy()
    return (x.toarray() if scipy.sparse.issparse(x) else x).astype(np.float64)


def assert_exact(found, scores, x, metric, rows, wanted):
    want = true_scores(x, scores, metric)[rows[:, None], wanted]
    assert np.array_equal(np.isneginf(found), wanted < 0)
    seen = wanted >= 0
    assert_within(found[seen], want[seen].astype(np.float64), scores.slack + 1e-300)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", list(Backend))
def test_chosen_pairs_are_scored_in_float64(backend, metric, kind):
    rng = np.random.default_rng(1)
    for name in ("gaussian", "anisotropic", "duplicated"):
        x = stored(data(name, *SHAPE), kind)
        scores = METRICS[metric](as_matrix(x), backend, "float64", "raise")
        rows, wanted = rng.permutation(N)[:25], some_ids(rng, (25, 9), N)
        wanted[3] = -1
        found = exact_scores(scores, rows, wanted, 2)
        assert_exact(found, scores, plain(x), metric, rows, wanted)


def sayable(metric, name, sparse):
    """Whether float64 can say the scores: the small rows of the mixed ones are nothing beside the large ones."""
    if name == "mixed":
        return metric == "cosine"
    return not (
        (metric == "dot" and name in {"1e-320", "1.5e308"}) or (metric == "euclidean" and name == "1.5e308" and sparse)
    )


FAR_FETCHED = [
    (metric, name, sparse)
    for metric in METRICS
    for name in [*FAR, "mixed"]
    for sparse in (False, True)
    if sayable(metric, name, sparse)
]


@pytest.mark.parametrize(("metric", "name", "sparse"), FAR_FETCHED)
@pytest.mark.parametrize("backend", list(Backend))
def test_far_fetched_data(backend, metric, name, sparse):
    rng = np.random.default_rng(4)
    x = mixed(rng) if name == "mixed" else FAR[name](rng)
    n = len(x)
    scores = METRICS[metric](as_matrix(stored(x, "sparse") if sparse else x), backend, "float64", "raise")
    rows, wanted = np.arange(n), some_ids(rng, (n, min(9, n)), n)
    assert_exact(exact_scores(scores, rows, wanted, 2), scores, x, metric, rows, wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", list(Backend))
def test_windows_blocks_and_threads_change_no_bit(monkeypatch, backend, metric, kind):
    rng = np.random.default_rng(2)
    x = stored(data("duplicated", *SHAPE), kind)
    scores = METRICS[metric](as_matrix(x), backend, "float64", "raise")
    rows, wanted = rng.permutation(N), some_ids(rng, (N, 13), N)
    once = exact_scores(scores, rows, wanted, 1)
    for entries, block in ((1, 2**20), (3 * SHAPE[1], 2**20), (7 * SHAPE[1], 3 * SHAPE[1]), (2**22, 1)):
        monkeypatch.setattr(rescoring, "_GATHERED_ENTRIES", entries)
        monkeypatch.setattr("geomkit.core.blocks.BLOCK_ENTRIES", block)
        for threads in (1, 3):
            assert np.array_equal(exact_scores(scores, rows, wanted, threads), once)
    for at in (0, 17, 39):
        for column in np.flatnonzero(wanted[at] >= 0)[:3]:
            alone = exact_scores(scores, rows[at : at + 1], wanted[at : at + 1, column : column + 1], 1)
            assert alone.item() == once[at, column]


@pytest.mark.parametrize("backend", list(Backend))
def test_a_cosine_does_not_depend_on_what_else_is_asked_for(monkeypatch, backend):
    """Not even where some rows cannot be divided by their norms in one step."""
    rng = np.random.default_rng(6)
    x = data("gaussian", *SHAPE).astype(np.float64)
    x[::3] *= 1e-200
    scores = cosine_scores(as_matrix(x), backend, "float64", "raise")
    wanted = np.tile(np.arange(N), (N, 1))
    whole = exact_scores(scores, np.arange(N), wanted, 1)
    for _ in range(20):
        i, j = rng.integers(0, N, 2)
        assert exact_scores(scores, np.array([i]), np.array([[j]]), 1).item() == whole[i, j]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", list(Backend))
def test_rows_keep_their_numbers_where_others_were_dropped(backend, metric, kind):
    x = data("clustered", *SHAPE)
    spoilt = np.insert(x, [0, 7, N], np.nan, axis=0)
    whole = METRICS[metric](as_matrix(stored(x, kind)), backend, "float64", "raise")
    rest = METRICS[metric](as_matrix(stored(spoilt, kind)), backend, "float64", "drop")
    assert rest.n == N
    rows, wanted = np.arange(N), some_ids(np.random.default_rng(0), (N, 6), N)
    assert np.array_equal(exact_scores(rest, rows, wanted, 2), exact_scores(whole, rows, wanted, 2))


def test_dense_rows_are_read_where_they_lie(monkeypatch):
    """No copy of rows that the kernels can read: neither gathered nor converted."""
    gathered = []
    gather = rescoring._gathered
    monkeypatch.setattr(rescoring, "_gathered", lambda *given: gathered.append(given) or gather(*given))
    x = data("gaussian", *SHAPE)
    for given in (x, x.astype(np.float64), torch.from_numpy(x)):
        scores = cosine_scores(as_matrix(given), Backend.CPU, "float32", "raise")
        exact_scores(scores, np.arange(N), np.zeros((N, 1), np.int64), 1)
    scores = cosine_scores(as_matrix(torch.from_numpy(x)), Backend.TORCH, "float32", "raise")
    exact_scores(scores, np.arange(N), np.zeros((N, 1), np.int64), 1)
    assert gathered == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dropped", [False, True])
def test_rows_are_brought_to_a_device_that_has_room_once(monkeypatch, kind, dropped):
    """Of which the CPU plays the part: answers are those from rows that lie there."""
    x = data("clustered", *SHAPE)
    given = stored(np.insert(x, [0, 7], np.nan, axis=0) if dropped else x, kind)
    scores = cosine_scores(as_matrix(given), Backend.TORCH, "float32", "drop")
    rows, wanted = np.arange(N), some_ids(np.random.default_rng(0), (N, 6), N)
    want = exact_scores(scores, rows, wanted, 1)
    brought, gathered = [], []
    bring, gather = rescoring._brought, rescoring._gathered
    monkeypatch.setattr(rescoring, "_brought", lambda each: brought.append(bring(each)) or brought[-1])
    monkeypatch.setattr(rescoring, "_gathered", lambda *each: gathered.append(each) or gather(*each))
    monkeypatch.setattr("geomkit.core.blocks.DEVICE_BLOCK_ENTRIES", 7 * SHAPE[1])
    monkeypatch.setattr(Matrix, "on_accelerator", True)
    monkeypatch.setattr(Matrix, "device", property(lambda _: Elsewhere))
    monkeypatch.setattr(Matrix, "_dense", lambda _, block: torch.from_numpy(dense(block)))
    monkeypatch.setattr(Scores, "device", None)
    monkeypatch.setattr(preparing, "_device", lambda *_: None)
    assert np.array_equal(exact_scores(scores, rows, wanted, 1), want)
    assert [tuple(each.shape) for each in brought] == [SHAPE]
    # A few are not worth it.
    few = exact_scores(scores, rows[:2], wanted[:2], 1)
    assert np.array_equal(few, want[:2])
    assert len(brought) == 1
    assert len(gathered) == 1


class Elsewhere:
    """A device that is none of a tensor here."""

    type = "elsewhere"


def dense(block):
    found = block.to(torch.float64).numpy() if isinstance(block, torch.Tensor) else block
    return np.ascontiguousarray(found.toarray() if scipy.sparse.issparse(found) else found, np.float64)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_score(shape):
    scores = cosine_scores(as_matrix(data("gaussian", *SHAPE)), Backend.CPU, "float32", "raise")
    assert isinstance(scores, Scores)
    assert exact_scores(scores, np.zeros(shape[0], np.int64), np.zeros(shape, np.int64), 1).shape == shape
