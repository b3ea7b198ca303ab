"""Counts by row, by pair of blocks and inside blocks against plain counting over the full matrix."""

import numpy as np
import pytest

from geomkit.kernels import Backend
from geomkit.pairwise.reducers import Tally
from geomkit.sampling.counts import WIDEST_TILE, BlockCounts, InsideBlocks, PointCounts
from geomkit.stats.distribution import Distribution

THRESHOLDS = np.array([-0.3, 0.25, 0.0])


def entries(m, seed=0):
    """Symmetric, with values at the thresholds themselves, in quarters so that sums are exact."""
    full = np.random.default_rng(seed).integers(-8, 9, (m, m)).astype(np.float32) / 4
    return np.triu(full, 1) + np.triu(full, 1).T


def tiles(m, size):
    """Tiles of the upper half, as a sweep gives them: whole ones on the diagonal."""
    spans = [slice(start, min(start + size, m)) for start in range(0, m, size)]
    return [(rows, cols) for i, rows in enumerate(spans) for cols in spans[i:]]


def fed(reducer, full, size, *, workers=1):
    """What siblings make of their tiles, merged; lower halves of diagonal tiles hold rubbish."""
    siblings = [reducer.spawn() for _ in range(workers)]
    for k, (rows, cols) in enumerate(tiles(len(full), size)):
        tile = full[rows, cols].copy()
        if rows == cols:
            tile[np.tril_indices(len(tile))] = 0.2
        siblings[k % workers].update(tile, rows, cols)
    for sibling in siblings:
        reducer.merge(sibling)
    return reducer


def stacked(full):
    """Flags at most each threshold, entries, squares: of all pairs of different rows."""
    parts = [full <= np.float32(each) for each in THRESHOLDS]
    return np.stack([*parts, full, full.astype(np.float64) ** 2]).astype(np.float64) * (1 - np.eye(len(full)))


@pytest.mark.parametrize(("m", "size"), [(7, 3), (40, 16), (41, 41), (300, 64), (700, 300), (1000, WIDEST_TILE)])
@pytest.mark.parametrize("workers", [1, 3])
def test_counts_by_row(m, size, workers):
    full = entries(m)
    found = fed(PointCounts(THRESHOLDS, m), full, size, workers=workers)
    assert np.array_equal(found.sums, stacked(full).sum(axis=2))


def test_more_than_255_rows_and_words_all_set():
    # A byte that ran over would lose 256.
    found = fed(PointCounts(np.array([10.0]), WIDEST_TILE * 2), entries(WIDEST_TILE * 2), WIDEST_TILE)
    assert (found.sums[0] == WIDEST_TILE * 2 - 1).all()


def test_narrow_tiles_after_wide_ones_see_nothing_of_them():
    full, counts = entries(40), PointCounts(THRESHOLDS, 40)
    counts.update(np.full((24, 24), -9, np.float32), slice(0, 24), slice(0, 24))
    before = counts.sums.copy()
    counts.update(full[24:29, 29:40].copy(), slice(24, 29), slice(29, 40))
    added = counts.sums - before
    part = full[24:29, 29:40]
    assert np.array_equal(added[1, 24:29], (part <= 0.25).sum(axis=1))
    assert np.array_equal(added[1, 29:40], (part <= 0.25).sum(axis=0))


def test_values_in_float64_are_added_up_in_float64():
    full = entries(30).astype(np.float64) + 1e-12
    found = fed(PointCounts(THRESHOLDS, 30), full, 8)
    assert found.sums[-2] == pytest.approx((full * (1 - np.eye(30))).sum(axis=1), rel=1e-15)


CUTS = [0, 5, 9, 17, 18, 30, 61]


@pytest.mark.parametrize("size", [4, 16, 61, 100])
@pytest.mark.parametrize("workers", [1, 2])
def test_sums_between_and_within_blocks(size, workers):
    full, cuts = entries(61), np.array(CUTS)
    found = fed(BlockCounts(THRESHOLDS, cuts), full, size, workers=workers)
    upper = np.triu(stacked(full), 1)
    for a in range(6):
        for b in range(6):
            part = upper[:, cuts[a] : cuts[a + 1], cuts[b] : cuts[b + 1]]
            assert np.array_equal(found.sums[:, a, b], part.sum(axis=(1, 2)))


@pytest.mark.parametrize("size", [4, 16, 61])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_tally_of_the_pairs_inside_blocks(size, workers):
    full, cuts = entries(61, seed=2), np.array(CUTS)
    tally = Tally(Backend.CPU, 0.0, origin=0.0)
    found = fed(InsideBlocks(tally, cuts), full, size, workers=workers)
    block = np.searchsorted(cuts, np.arange(61), side="right") - 1
    rows, cols = np.triu_indices(61, 1)
    values = full[rows, cols][block[rows] == block[cols]]
    seen = Distribution.of(found.tally)
    assert seen.n == len(values)
    assert seen.mean == pytest.approx(values.mean(), abs=1e-6)
    assert (seen.minimum, seen.maximum) == (values.min(), values.max())
    kept, counts = np.unique(values, return_counts=True)
    # Quarters have counters of their own.
    assert np.array_equal(np.sort(seen.counts[seen.counts > 0]), np.sort(counts))
    assert len(kept) == (seen.counts > 0).sum()
