import itertools
import math

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geomkit.core.matrix import as_matrix
from geomkit.errors import InvalidInputError
from geomkit.kernels import Backend, module
from geomkit.pairwise.candidates import Nearest
from geomkit.pairwise.normalization import Rows, centred_rows
from geomkit.pairwise.reducers import WAITING, Above, ExactSum, RowExtremes, RowRanges, Tally
from geomkit.pairwise.sweep import sweep
from geomkit.pairwise.tiles import Tiles
from tests.bounds import assert_within, gamma
from tests.kernels.case import working
from tests.kernels.score_cases import distinct_symmetric, some_bfloat16

N = 35
SIZES = [1, 2, 31, 32, 33, N - 1, N, N + 1]
CENTRE = 0.5
BACKENDS = [backend for backend in Backend if backend is not Backend.TRITON]
"""Those whose tiles are numbers."""
FAST = [Backend.CPU, Backend.TORCH]


def tile_of(backend, values, dtype="float64"):
    return working(backend, np.array(values, np.float64), dtype)


def tiles(n, size):
    """Tiles at or above the diagonal."""
    edges = [slice(at, min(at + size, n)) for at in range(0, n, size)]
    return [(i, j) for i in edges for j in edges if j.start >= i.start]


def merged(parts, order):
    whole = parts[0].spawn()
    for at in order:
        whole.merge(parts[at])
    return whole


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


def state(tally):
    return tally.counts.tolist(), tally.power_sums, tally.extremes


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_tallies_merge_to_the_bit_in_any_order(backend, rounded):
    rng = np.random.default_rng(8)
    # Values over many magnitudes, so that floating-point sums would show the order.
    values = rng.standard_normal((40, 6, 11)) * 10.0 ** rng.integers(-8, 4, (40, 1, 1))
    dtype = "bfloat16" if rounded and backend is not Backend.REFERENCE else "float64"
    if rounded:
        values = values.astype(ml_dtypes.bfloat16).astype(np.float64)
    parts = []
    for tile in values:
        part = Tally(backend, CENTRE, origin=0.25, rounded=rounded)
        part.update(tile_of(backend, tile, dtype), slice(0, 6), slice(6, 17))
        parts.append(part)
    first = merged(parts, range(40))
    assert first.counts.sum() == values.size
    assert first.extremes == (0.25 + values.min(), 0.25 + values.max())
    for _ in range(10):
        assert state(merged(parts, rng.permutation(40))) == state(first)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tally_counts_about_its_centre_and_reports_values(backend):
    entries = np.array([[0.125, -0.5, 0.25, 1.0]])
    tally = Tally(backend, 3.25, origin=3.0)
    tally.update(tile_of(backend, entries), slice(0, 1), slice(1, 5))
    shifted = entries.ravel() - 0.25
    patterns = (shifted.astype(np.float32).view(np.uint32) + 0x8000) >> 16
    assert tally.centre == 3.25
    assert np.array_equal(tally.counts, np.bincount(patterns, minlength=65536))
    assert tally.power_sums == [math.fsum(shifted**k) for k in (1, 2, 3, 4)]
    assert tally.extremes == (2.5, 4.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rounded_tally_counts_entries_as_they_are(backend):
    rng = np.random.default_rng(3)
    values = some_bfloat16(rng, (7, 9))
    values = np.where(np.abs(values) < 1e30, values, 3.0)
    tally = Tally(backend, 0.7, origin=0.5, rounded=True)
    dtype = "float64" if backend is Backend.REFERENCE else "bfloat16"
    tally.update(tile_of(backend, values, dtype), slice(0, 7), slice(7, 16))
    patterns = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    assert tally.centre == 0.5
    assert np.array_equal(tally.counts, np.bincount(patterns.ravel(), minlength=65536))
    for k, total in enumerate(tally.power_sums, 1):
        terms = values**k
        assert_within(total, math.fsum(terms.ravel()), 2.0**-52 * np.abs(terms).sum())
    assert tally.extremes == (0.5 + values.min(), 0.5 + values.max())


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_counters_are_emptied_before_they_run_over(backend, rounded):
    tally = Tally(backend, 0.0, rounded=rounded)
    ones = tile_of(backend, np.ones((9, 8)), "float64" if backend is Backend.REFERENCE else "bfloat16")
    if not rounded:
        ones = tile_of(backend, np.ones((9, 8)), "float64")
    # As if 2^32 - 100 pairs had gone to each of the four banks already, which is more than can.
    for bank in range(4):
        tally._banks[bank][0x3F80] = 2**32 - 100
    tally._pending = 2**32 - 100
    for _ in range(20):
        tally.update(ones, slice(0, 9), slice(9, 17))
    assert tally._pending == (20 - 1) * 72
    assert tally.counts[0x3F80] == tally.counts.sum() == 4 * (2**32 - 100) + 20 * 72
    twice = tally.spawn()
    twice.merge(tally)
    twice.merge(tally)
    assert twice.counts.sum() == 2 * tally.counts.sum()


@pytest.mark.parametrize("before", [2**32 - 73, 2**32 - 72, 2**32 - 71])
def test_counters_are_emptied_no_earlier_than_they_must(before):
    tally = Tally(Backend.CPU, 0.0)
    tally._pending = before
    tally.update(np.ones((9, 8)), slice(0, 9), slice(9, 17))
    assert tally._pending == (before + 72 if before + 72 < 2**32 else 72)
    assert tally.counts.sum() == 72


@pytest.mark.parametrize("tiles_seen", [1, WAITING - 1, WAITING, WAITING + 1, 2 * WAITING + 3])
@pytest.mark.parametrize("backend", BACKENDS)
def test_power_sums_wait_and_are_added_up_exactly(monkeypatch, backend, tiles_seen):
    rng = np.random.default_rng(tiles_seen)
    # Whole numbers, whose powers are exact, over many magnitudes.
    values = rng.integers(-3, 4, (tiles_seen, 1, 2)) * 2.0 ** rng.integers(-20, 5, (tiles_seen, 1, 1))
    tally, copies = Tally(backend, 0.0), []
    to_numpy = module(backend).to_numpy
    monkeypatch.setattr(module(backend), "to_numpy", lambda a: copies.append(1) or to_numpy(a))
    for tile in values:
        tally.update(tile_of(backend, tile), slice(0, 1), slice(1, 3))
    assert len(copies) <= (tiles_seen - 1) // WAITING
    other = tally.spawn()
    other.update(tile_of(backend, values[0]), slice(0, 1), slice(1, 3))
    other.merge(tally)
    again = np.concatenate([values[:1], values])
    assert other.power_sums == [math.fsum((again**k).ravel()) for k in (1, 2, 3, 4)]
    for _ in range(2):
        assert tally.power_sums == [math.fsum((values**k).ravel()) for k in (1, 2, 3, 4)]


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize(
    ("origin", "centre"), [(0.0, 0.5), (1.0, 1 + 3e-10), (0.996, 0.9960000000007), (-1.0, 1 / 3), (1 + 2.0**-52, 1.0)]
)
def test_a_spawned_tally_is_empty_and_about_the_same_centre(origin, centre, rounded):
    full = Tally(Backend.CPU, centre, origin=origin, rounded=rounded)
    full.update(tile_of(Backend.CPU, np.ones((3, 4)), "bfloat16" if rounded else "float64"), slice(0, 3), slice(3, 7))
    empty = full.spawn()
    for again in (empty, empty.spawn()):
        assert again.counts.sum() == 0
        assert again.extremes == (math.inf, -math.inf)
        assert (again.centre, again._shift) == (full.centre, full._shift)
    assert full.counts.sum() == 12
    empty.update(tile_of(Backend.CPU, np.ones((3, 4)), "bfloat16" if rounded else "float64"), slice(0, 3), slice(3, 7))
    assert state(empty) == state(full)


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


@pytest.fixture(scope="module")
def entries():
    """A symmetric matrix of distinct bfloat16 numbers, its diagonal larger than all."""
    return distinct_symmetric(np.random.default_rng(5), N)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("backend", FAST)
def test_row_extremes_are_those_of_the_full_matrix_in_any_order(backend, dtype, entries):
    whole = RowExtremes(backend, N)
    for i, j in tiles(N, 8):
        part = whole.spawn()
        part.update(tile_of(backend, entries[i, j], dtype), i, j)
        whole.merge(part)
    once = whole.spawn()
    for i, j in tiles(N, 8)[::-1]:
        once.update(tile_of(backend, entries[i, j], dtype), i, j)
    apart = np.where(np.eye(N, dtype=bool), np.nan, entries)
    for each in (whole, once):
        assert np.array_equal(each.extremes, [np.nanmin(apart, axis=1), np.nanmax(apart, axis=1)])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("backend", FAST)
def test_pairs_above_a_threshold_in_any_order(backend, dtype, entries):
    threshold = float(np.quantile(entries, 0.9, method="nearest"))
    parts = []
    for i, j in tiles(N, 8):
        parts.append(Above(backend, threshold, 10**6))
        parts[-1].update(tile_of(backend, entries[i, j], dtype), i, j)
    want = np.argwhere(np.triu(entries, 1) * np.triu(np.ones((N, N)), 1) >= threshold)
    for order in (range(len(parts)), range(len(parts))[::-1]):
        assert np.array_equal(merged(parts, order).pairs, want)
    assert len(want) > 20
    assert Above(backend, threshold, 5).pairs.shape == (0, 2)


@pytest.mark.parametrize("way", ["update", "merge"])
def test_more_pairs_than_can_be_kept_are_refused(way):
    parts = [Above(Backend.CPU, 0.5, 11) for _ in range(2)]
    for part in parts:
        part.update(np.ones((2, 4)), slice(0, 2), slice(2, 6))
    calls = {
        "merge": lambda: parts[0].merge(parts[1]),
        "update": lambda: parts[0].update(np.ones((1, 4)), slice(2, 3), slice(3, 7)),
    }
    with pytest.raises(InvalidInputError, match="more than 11 pairs"):
        calls[way]()


def best(nearest, keep):
    """The best candidates of each row, in order, and what no other exceeds."""
    values, ids, beaten = nearest.candidates()
    values = np.where(ids < 0, -np.inf, values)
    order = np.argsort(-values, axis=1, kind="stable")[:, :keep]
    return np.take_along_axis(values, order, 1), np.take_along_axis(ids, order, 1), beaten


@pytest.mark.parametrize("keep", [1, 4, N - 1])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("backend", FAST)
def test_candidates_of_siblings_are_those_of_one_in_any_order(backend, dtype, keep, entries):
    rng = np.random.default_rng(keep)
    apart = np.where(np.eye(N, dtype=bool), -np.inf, entries)
    want = np.argsort(-apart, axis=1)[:, :keep]
    for _ in range(3):
        first = Nearest(backend, N, keep, dtype)
        siblings = [first.spawn() for _ in range(3)]
        for at in rng.permutation(len(tiles(N, 6))):
            i, j = tiles(N, 6)[at]
            siblings[rng.integers(3)].update(tile_of(backend, entries[i, j], dtype), i, j)
        for order in itertools.permutations(range(3)):
            whole = first.spawn()
            for sibling in order:
                whole.merge(siblings[sibling])
            values, ids, beaten = best(whole, keep)
            assert np.array_equal(ids, want)
            assert np.array_equal(values, np.take_along_axis(apart, want, 1))
            assert np.all(beaten <= values[:, -1])
            rest = apart.copy()
            for row, kept in enumerate(whole.candidates()[1]):
                rest[row, kept[kept >= 0]] = -np.inf
            assert np.all(rest.max(axis=1) <= beaten)


def test_siblings_share_what_is_beaten(entries):
    """One that knows nothing itself leaves out what another has shown to be beaten, and merging tells."""
    first = Nearest(Backend.CPU, N, 2, "float64")
    one, other = first.spawn(), first.spawn()
    one.update(entries[:1, 1:].copy(), slice(0, 1), slice(1, N))
    worst = np.full((1, N - 1), entries[0, 1:].min() - 1)
    other.update(worst, slice(0, 1), slice(1, N))
    assert np.all(other.candidates()[1][0] == -1)
    first.merge(one)
    first.merge(other)
    assert first.candidates()[2][0] >= worst[0, 0]


@pytest.mark.parametrize("keep", [1, 4, N - 2])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_one_that_is_guided_leaves_out_what_is_beaten_and_says_so(dtype, keep, entries):
    def reduced(nearest):
        for i, j in tiles(N, 6):
            nearest.update(tile_of(Backend.CPU, entries[i, j], dtype), i, j)
        return nearest

    whole = Nearest(Backend.CPU, N, keep, dtype)
    state = reduced(whole.factory()(N)).state_dict()
    assert np.all(whole.hints([(0, N)])["floor"] == -np.inf)
    whole.merge_state(state, [(0, N)])
    last = state["values"].min(axis=1)
    assert np.array_equal(whole.hints([(6, N), (0, 6)])["floor"], np.roll(last, -6))
    guided = whole.factory()(N)
    guided.use_hints(whole.hints([(0, N)]))
    values, ids, beaten = reduced(guided).candidates()
    assert np.all((ids >= 0).sum(axis=1) == keep - 1)
    assert np.all(values[ids >= 0] > np.repeat(last, keep - 1))
    assert np.array_equal(beaten, last)
    # Where there is nothing to know, nothing is left out.
    fresh = Nearest(Backend.CPU, N, keep, dtype)
    fresh.use_hints({"floor": np.full(N, -np.inf, np.float32)})
    assert all(np.array_equal(a, b) for a, b in zip(reduced(fresh).state_dict().values(), state.values(), strict=True))


def test_candidates_know_how_far_their_values_are_rounded():
    for dtype, share in (("bfloat16", 2.0**-8), ("float32", 0.0), ("float64", 2.0**-24)):
        assert Nearest(Backend.CPU, 4, 1, dtype).rounding == share
    value = 1 + 2.0**-24 + 2.0**-40
    nearest = Nearest(Backend.CPU, 3, 2, "float64")
    nearest.update(np.array([[value, -value]]), slice(0, 1), slice(1, 3))
    values, ids, _ = nearest.candidates()
    assert np.all(np.abs(values[0][ids[0] >= 0] - [value, -value]) <= nearest.rounding * value)
