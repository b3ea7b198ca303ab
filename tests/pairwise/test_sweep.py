import math
import threading

import numpy as np
import pytest
import threadpoolctl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geomkit.core.matrix import as_matrix
from geomkit.kernels import Backend, cpu_product
from geomkit.pairwise.normalization import Rows, centred_rows, unit_rows
from geomkit.pairwise.panels import panel_pairs
from geomkit.pairwise.reducers import Tally
from geomkit.pairwise.sweep import sweep
from geomkit.pairwise.tiles import Tiles
from geomkit.stats.concentration import concentration
from geomkit.stats.cosine import cosine_stats
from tests import precision
from tests.bounds import assert_within
from tests.precision import STRICT, permissions

N = 35
SIZES = [1, 2, 31, 32, 33, N - 1, N, N + 1]
CENTRE = 0.5
BACKENDS = [backend for backend in Backend if backend is not Backend.TRITON]
"""Those whose tiles are numbers."""


def whole_rows(n, backend, dtype="float64", *, seed=0):
    """Rows of -1, 0 and 1: their products, and the products' first four powers, are exact in every precision."""
    x = np.random.default_rng(seed).integers(-1, 2, (n, 5)).astype(dtype)
    resident = torch.from_numpy(x) if backend is Backend.TORCH else x
    return Rows(as_matrix(x, min_rows=1), backend, dtype, "unit", np.ones(n), resident=resident)


def products_above_diagonal(rows):
    x = np.asarray(rows.resident, np.float64)
    return (x @ x.T)[np.triu_indices(len(x), 1)]


def tallied(rows, **how):
    tally = Tally(rows.backend, CENTRE)
    sweep(Tiles(rows, "gram"), [tally], **how)
    return tally


def assert_tally_is(tally, values):
    """The counts, sums and extremes are those of `values`, to the bit."""
    patterns = ((values - CENTRE).astype(np.float32).view(np.uint32) + 0x8000) >> 16
    assert np.array_equal(tally.counts, np.bincount(patterns, minlength=65536))
    assert [float(s) for s in tally.power_sums] == [math.fsum((values - CENTRE) ** k) for k in (1, 2, 3, 4)]
    assert tally.extremes == (values.min(), values.max())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES)
def test_tally_ignores_tile_size(backend, dtype, size):
    rows = whole_rows(N, backend, dtype)
    assert_tally_is(tallied(rows, size=size), products_above_diagonal(rows))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n", [2, 3, 15, 16, 17, 31, 32, 33])
def test_tally_sees_every_pair_once_around_the_tile_size(backend, n):
    rows = whole_rows(n, backend)
    tally = tallied(rows, size=16)
    assert tally.counts.sum() == n * (n - 1) // 2
    assert_tally_is(tally, products_above_diagonal(rows))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("size", [8, 32, 768])
def test_tally_ignores_threads(threads, size):
    rows = whole_rows(N, Backend.CPU, "float32")
    assert_tally_is(tallied(rows, size=size, threads=threads), products_above_diagonal(rows))


def test_more_threads_than_tiles():
    rows = whole_rows(9, Backend.CPU)
    assert_tally_is(tallied(rows, size=5, threads=64), products_above_diagonal(rows))


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(N)))
def test_tally_ignores_the_order_of_rows(order):
    rows = whole_rows(N, Backend.CPU)
    x = rows.resident[list(order)]
    permuted = Rows(as_matrix(x), Backend.CPU, "float64", "unit", np.ones(N), resident=x)
    assert_tally_is(tallied(permuted, size=16), products_above_diagonal(rows))


def test_one_sweep_feeds_many_reducers():
    rows = whole_rows(N, Backend.CPU)
    tallies = [Tally(Backend.CPU, CENTRE) for _ in range(3)]
    sweep(Tiles(rows, "gram"), tallies, size=16, threads=2)
    for tally in tallies:
        assert_tally_is(tally, products_above_diagonal(rows))


def without_residents(monkeypatch):
    monkeypatch.setattr("geomkit.core.memory.RESIDENT_BYTES", 0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_rows_made_again_for_every_tile_give_the_same_cosines(monkeypatch, backend, precision):
    x = np.random.default_rng(4).standard_normal((150, 20))
    kept = cosine_stats(x, backend=backend, precision=precision)
    without_residents(monkeypatch)
    monkeypatch.setattr("geomkit.core.blocks.BLOCK_ENTRIES", 20 * 7)
    ran = "float64" if backend is Backend.REFERENCE else precision
    assert unit_rows(as_matrix(x), backend, ran, "raise").resident is None
    again = cosine_stats(x, backend=backend, precision=precision)
    assert np.array_equal(again.distribution.counts, kept.distribution.counts)
    assert (again.min, again.max) == (kept.min, kept.max)
    assert_within(again.mean, kept.mean, 1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("p", [1.0, 2.0, 1.5])
def test_rows_made_again_for_every_tile_give_the_same_distances(monkeypatch, backend, p):
    x = np.random.default_rng(4).standard_normal((90, 12))
    x[40] = x[3]
    kept = concentration(x, p=p, backend=backend, precision="float64")
    without_residents(monkeypatch)
    again = concentration(x, p=p, backend=backend, precision="float64")
    assert centred_rows(as_matrix(x), backend, "float64", "raise").resident is None
    assert again.n_skipped == kept.n_skipped == 2
    assert again.n_recomputed == kept.n_recomputed
    for name in ("mean", "std", "relative_variance_squared", "relative_contrast", "nearest_to_mean"):
        assert_within(getattr(again, name), getattr(kept, name), 1e-12 * getattr(kept, name))


def thread_counts():
    """How many threads each BLAS and torch would use, in this thread and in a fresh one."""
    seen = [(pool["filepath"], pool["num_threads"]) for pool in threadpoolctl.threadpool_info()]
    inside = [line for line in torch.__config__.parallel_info().splitlines() if "get_max_threads" in line]
    fresh = []
    worker = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
    worker.start()
    worker.join()
    return seen, inside, torch.get_num_threads(), fresh


class Failing(Tally):
    def update(self, *_):
        msg = "no"
        raise ArithmeticError(msg)


class Watching(Tally):
    seen: list

    def spawn(self):
        sibling = super().spawn()
        sibling.seen = self.seen
        return sibling

    def update(self, tile, rows, cols):
        # A BLAS on OpenMP, which faiss brings and no sweep calls, has a count of its own in every thread.
        pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
        blas = [pool["num_threads"] for pool in pools if pool["threading_layer"] != "openmp"]
        assert blas
        self.seen.append((blas, torch.get_num_threads()))
        super().update(tile, rows, cols)


def test_a_sweep_keeps_blas_and_torch_to_one_thread_and_then_restores_them():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threadpoolctl.threadpool_limits(2):
            counts = thread_counts()
            watching = Watching(Backend.CPU, CENTRE)
            watching.seen = []
            sweep(Tiles(whole_rows(N, Backend.CPU), "gram"), [watching], size=16, threads=2)
            assert thread_counts() == counts
            assert len(watching.seen) == 6
            assert {(*blas, own) for blas, own in watching.seen} == {(*[1] * len(watching.seen[0][0]), 1)}
    finally:
        torch.set_num_threads(before)


def test_thread_counts_are_restored_where_a_reducer_raises():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threadpoolctl.threadpool_limits(2):
            counts = thread_counts()
            with pytest.raises(ArithmeticError, match="no"):
                sweep(Tiles(whole_rows(N, Backend.CPU), "gram"), [Failing(Backend.CPU, 0.0)], size=16, threads=2)
            assert thread_counts() == counts
    finally:
        torch.set_num_threads(before)


class Looking(Tally):
    """Notes what torch allows its products while tiles are counted."""

    seen: list

    def spawn(self):
        sibling = super().spawn()
        sibling.seen = self.seen
        return sibling

    def update(self, tile, rows, cols):
        self.seen.append(permissions())
        super().update(tile, rows, cols)


def looking(backend):
    reducer = Looking(backend, CENTRE)
    reducer.seen = []
    return reducer


@pytest.mark.parametrize("threads", [None, 1, 2])
@pytest.mark.parametrize("backend", [Backend.CPU, Backend.TORCH])
def test_products_are_as_exact_as_their_rows_whatever_the_process_allows(permissive, backend, threads):
    before, watching = permissions(), looking(backend)
    assert before != STRICT
    sweep(Tiles(whole_rows(N, backend, "float32"), "gram"), [watching], size=16, threads=threads)
    assert watching.seen == [STRICT] * 6
    assert permissions() == before


@pytest.mark.parametrize("backend", [Backend.CPU, Backend.TORCH])
def test_what_the_process_allows_changes_no_answer(permissive, monkeypatch, backend):
    monkeypatch.setattr(cpu_product, "_chosen", dict.fromkeys(("float32", "float64", "bfloat16"), "torch"))
    x = np.random.default_rng(1).standard_normal((200, 300)).astype(np.float32)
    found = [tallied(unit_rows(as_matrix(x), backend, "float32", "raise"), threads=1)]
    precision.permit(STRICT)
    found.append(tallied(unit_rows(as_matrix(x), backend, "float32", "raise"), threads=1))
    assert np.array_equal(found[0].counts, found[1].counts)
    assert found[0].power_sums == found[1].power_sums


@pytest.mark.parametrize("threads", [None, 1, 2])
@pytest.mark.parametrize("backend", [Backend.CPU, Backend.TORCH])
def test_what_the_process_allows_is_restored_where_a_reducer_raises(permissive, backend, threads):
    before = permissions()
    with pytest.raises(ArithmeticError, match="no"):
        sweep(Tiles(whole_rows(N, backend), "gram"), [Failing(backend, 0.0)], size=16, threads=threads)
    assert permissions() == before


def test_two_sweeps_at_once_leave_each_other_what_they_need(permissive):
    """The one that ends first must not give the other back what the process allows."""
    before, inside, gone, seen = permissions(), threading.Event(), threading.Event(), []

    class Waiting(Tally):
        def update(self, *_):
            # Released by the other sweep's end, where both may run at once, and by the clock, where they may not.
            inside.set()
            gone.wait(0.3)
            seen.append(permissions())

    rows = whole_rows(9, Backend.TORCH)
    slow = threading.Thread(target=sweep, args=(Tiles(rows, "gram"), [Waiting(Backend.TORCH, 0.0)]))
    quick = threading.Thread(target=lambda: (sweep(Tiles(rows, "gram"), [looking(Backend.TORCH)]), gone.set()))
    slow.start()
    inside.wait(5)
    quick.start()
    slow.join()
    quick.join()
    assert seen == [STRICT]
    assert permissions() == before


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("kept", [True, False])
def test_every_tile_comes_once_and_those_near_the_diagonal_first(monkeypatch, kept, threads):
    rows = whole_rows(N, Backend.CPU)
    if not kept:
        monkeypatch.setattr("geomkit.core.memory.RESIDENT_BYTES", 0)
        rows = unit_rows(as_matrix(rows.resident + 3), Backend.CPU, "float64", "raise")
    seen = []

    class Listing(Tally):
        def update(self, _, rows, cols):
            seen.append((rows.start, cols.start))

    sweep(Tiles(rows, "gram"), [Listing(Backend.CPU, 0.0)], size=8, threads=threads)
    starts = range(0, N, 8)
    assert sorted(seen) == [(i, j) for i in starts for j in starts if j >= i]
    if threads == 1:
        away = [j - i for i, j in seen]
        # Without room for rows, a panel is a tile.
        walked = [(left[0], right[0]) for left, right in panel_pairs(N, 8)]
        assert away == sorted(away) if kept else seen == walked


def test_a_worker_that_fails_ends_the_sweep():
    class Once(Tally):
        def update(self, _, rows, __):
            if rows.start == 8:
                msg = "this one"
                raise ArithmeticError(msg)

    with pytest.raises(ArithmeticError, match="this one"):
        sweep(Tiles(whole_rows(N, Backend.CPU), "gram"), [Once(Backend.CPU, 0.0)], size=8, threads=2)
