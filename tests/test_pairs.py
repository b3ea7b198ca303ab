import math
import threading

import numpy as np
import pytest
import threadpoolctl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geomkit import pairs
from geomkit import rows as preparing
from geomkit.arrays import as_matrix
from geomkit.kernels import Backend
from geomkit.pairs import ExactSum, RowRanges, Tally, Tiles, sweep
from geomkit.rows import Rows, centred_rows, unit_rows
from geomkit.stats.concentration import concentration
from geomkit.stats.cosine import cosine_stats
from tests.bounds import assert_within, gamma

N = 35
SIZES = [1, 2, 31, 32, 33, N - 1, N, N + 1]
CENTRE = 0.5
BACKENDS = list(Backend)


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


@pytest.mark.parametrize("backend", BACKENDS)
def test_tallies_merge_to_the_bit_in_any_order(backend):
    rng = np.random.default_rng(8)
    # Values over many magnitudes, so that floating-point sums would show the order.
    values = rng.standard_normal((40, 6, 11)) * 10.0 ** rng.integers(-8, 4, (40, 1, 1))
    parts = []
    for tile in values:
        part = Tally(backend, CENTRE)
        part.update(torch.from_numpy(tile) if backend is Backend.TORCH else tile, slice(0, 6), slice(6, 17))
        parts.append(part)

    def merged(order):
        whole = parts[0].spawn()
        for at in order:
            whole.merge(parts[at])
        return whole

    first = merged(range(40))
    assert first.counts.sum() == values.size
    assert first.extremes == (values.min(), values.max())
    for _ in range(10):
        again = merged(rng.permutation(40))
        assert np.array_equal(again.counts, first.counts)
        assert [float(s) for s in again.power_sums] == [float(s) for s in first.power_sums]
        assert again.extremes == first.extremes


def test_a_spawned_tally_is_empty_and_about_the_same_centre():
    full = tallied(whole_rows(9, Backend.CPU))
    empty = full.spawn()
    assert empty.centre == full.centre == CENTRE
    assert empty.counts.sum() == 0
    assert empty.extremes == (math.inf, -math.inf)
    assert full.counts.sum() == 36


terms = st.floats(min_value=-1e300, max_value=1e300, allow_nan=False, allow_infinity=False)


@given(st.lists(terms, max_size=40), st.lists(terms, max_size=40), st.randoms(use_true_random=False))
def test_exact_sum_is_the_rounded_true_sum_in_any_order(one, other, random):
    def summed(values):
        total = ExactSum()
        for value in values:
            total.add(value)
        return total

    apart = summed(one)
    apart.merge(summed(other))
    together = [*one, *other]
    random.shuffle(together)
    assert float(apart) == float(summed(together)) == math.fsum(together)


def distances(x):
    x = np.asarray(x, np.float64)
    return np.sqrt(np.square(x[:, None] - x[None]).sum(axis=2))


@pytest.mark.parametrize("kernel", ["euclidean", "minkowski"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("size", "threads"), [(1, 2), (2, 1), (31, 2), (N - 1, 1), (N, 1), (N + 1, 3), (12, 3)])
def test_row_ranges_are_those_of_the_full_matrix(kernel, backend, size, threads):
    x = np.random.default_rng(2).standard_normal((N, 6))
    rows = centred_rows(as_matrix(x), backend, "float64", "raise")
    ranges = RowRanges(backend, N)
    sweep(Tiles(rows, kernel, 2.0), [ranges], size=size, threads=threads)
    unit = rows.scale * (1 if kernel == "euclidean" else math.sqrt(6))
    least, largest, total = ranges.ranges * unit
    full = distances(x)
    apart = full[~np.eye(N, dtype=bool)].reshape(N, N - 1)
    reach = 4 * np.square(x).sum(axis=1).max()
    bound = gamma(40, "float64") * reach / apart.min()
    assert_within(least, apart.min(axis=1), bound)
    assert_within(largest, apart.max(axis=1), bound)
    assert_within(total, apart.sum(axis=1), bound * N + gamma(N, "float64") * apart.sum(axis=1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_row_ranges_least_and_largest_do_not_depend_on_tiles(backend):
    x = np.random.default_rng(3).integers(-4, 5, (N, 3)).astype(np.float64)
    squares = np.square(x).sum(axis=1)
    resident = torch.from_numpy(x) if backend is Backend.TORCH else x
    rows = Rows(as_matrix(x), backend, "float64", "centred", squares, mean=np.zeros(3), resident=resident)
    apart = distances(x)
    np.fill_diagonal(apart, np.nan)
    for size in SIZES:
        ranges = RowRanges(backend, N)
        sweep(Tiles(rows, "euclidean"), [ranges], size=size, threads=2)
        # The squares are whole numbers and exact; torch's root may be off by a unit in the last place.
        assert_within(ranges.ranges[0], np.nanmin(apart, axis=1), 2.0**-52 * np.nanmin(apart, axis=1))
        assert_within(ranges.ranges[1], np.nanmax(apart, axis=1), 2.0**-52 * np.nanmax(apart, axis=1))


def test_one_sweep_feeds_many_reducers():
    rows = whole_rows(N, Backend.CPU)
    tallies = [Tally(Backend.CPU, CENTRE) for _ in range(3)]
    sweep(Tiles(rows, "gram"), tallies, size=16, threads=2)
    for tally in tallies:
        assert_tally_is(tally, products_above_diagonal(rows))


def without_residents(monkeypatch):
    monkeypatch.setattr(preparing, "RESIDENT_BYTES", 0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_rows_made_again_for_every_tile_give_the_same_cosines(monkeypatch, backend, precision):
    x = np.random.default_rng(4).standard_normal((150, 20))
    kept = cosine_stats(x, backend=backend, precision=precision)
    without_residents(monkeypatch)
    monkeypatch.setattr(preparing, "BLOCK_ENTRIES", 20 * 7)
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


def test_tiles_shrink_where_blocks_of_rows_are_wide(monkeypatch):
    x = np.random.default_rng(0).standard_normal((70, 40))
    kept = unit_rows(as_matrix(x), Backend.CPU, "float64", "raise")
    assert pairs._tile_size(pairs.Tiles(kept, "gram")) == pairs.TILE
    without_residents(monkeypatch)
    made = unit_rows(as_matrix(x), Backend.CPU, "float64", "raise")
    monkeypatch.setattr(pairs, "BLOCK_BYTES", 2 * 40 * 8 * 100)
    assert pairs._tile_size(pairs.Tiles(made, "gram")) == 100
    monkeypatch.setattr(pairs, "BLOCK_BYTES", 1)
    assert pairs._tile_size(pairs.Tiles(made, "gram")) == 64


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
        blas = [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
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
            assert all(set(blas) == {1} and own == 1 for blas, own in watching.seen)
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
