"""Counts of a sweep by row, or by pair of blocks of rows: what intervals over points are made of.

Of each drawn point a variance over points needs how many of its pairs lie below each threshold, and the sums of its
values and of their squares. Of drawn blocks it needs the same for every pair of blocks.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from geomkit.pairwise.reducers import Tally

__all__ = ["WIDEST_TILE", "BlockCounts", "InsideBlocks", "PointCounts"]

Vector = NDArray[np.float64]

WIDEST_TILE = 768
"""Rows and columns of a tile: eight flags lie in a word, a byte each, and 255 words may be added before one is full."""


@dataclass(slots=True)
class _Room:
    """What a worker needs beside a tile; made for the first one."""

    flags: NDArray[np.bool_]
    squares: NDArray[Any]

    @classmethod
    def for_tile(cls, side: int, dtype: Any) -> Self:
        return cls(np.zeros((side, -(-side // 8) * 8), np.bool_), np.empty((side, side), dtype))


class _Counts:
    """Shared by both kinds: thresholds, and a place to put flags."""

    def __init__(self, thresholds: Vector, shape: tuple[int, ...]) -> None:
        self.thresholds = thresholds
        self.sums: Vector = np.zeros(shape)
        self._room: _Room | None = None

    def merge(self, other: Self) -> None:
        """Add what a sibling has counted. Counts are exact; sums of values differ by rounding of float64."""
        self.sums += other.sums

    def _ready(self, tile: NDArray[Any]) -> _Room:
        side = max(tile.shape)
        if self._room is None or len(self._room.flags) < side:
            self._room = _Room.for_tile(side, tile.dtype)
        return self._room


class PointCounts(_Counts):
    """How many of each row's entries are at most each threshold, and the sums of its entries and of their squares.

    Parameters
    ----------
    thresholds : (t,) float64
        Rounded to the dtype of the tiles.
    m : int
        Rows.

    Attributes
    ----------
    sums : (t + 2, m) float64
        Counts, whole numbers; then the two sums, each tile's added up in its dtype.
    """

    def __init__(self, thresholds: Vector, m: int) -> None:
        super().__init__(thresholds, (len(thresholds) + 2, m))

    def spawn(self, device: Any = None) -> Self:  # noqa: ARG002
        """Return an empty sibling."""
        return type(self)(self.thresholds, self.sums.shape[1])

    def update(self, tile: Any, rows: slice, cols: slice) -> None:
        """Count the pairs of one tile for the rows on both sides of it."""
        room, (height, width) = self._ready(tile), tile.shape
        above = np.triu(np.ones((height, width), np.bool_), 1) if rows == cols else None
        flags = room.flags[:height, :width]
        if room.flags.shape[1] > width:
            room.flags[:height, width:] = False
        words = room.flags[:height].view(np.uint64)
        for k, threshold in enumerate(self.thresholds):
            np.less_equal(tile, tile.dtype.type(threshold), out=flags)
            if above is not None:
                flags &= above
            self.sums[k, rows] += words.sum(axis=1).view(np.uint8).reshape(height, 8).sum(axis=1)
            for start in range(0, height, 255):
                self.sums[k, cols] += words[start : start + 255].sum(axis=0).view(np.uint8)[:width]
        squares = room.squares[:height, :width]
        if above is not None:
            tile = np.where(above, tile, 0)
        np.multiply(tile, tile, out=squares)
        ones = np.ones(max(height, width), tile.dtype)
        for k, part in ((-2, tile), (-1, squares)):
            self.sums[k, rows] += part @ ones[:width]
            self.sums[k, cols] += ones[:height] @ part


class BlockCounts(_Counts):
    """Sums of flags, entries and their squares over the pairs of rows between, and within, blocks of rows.

    Parameters
    ----------
    thresholds : (t,) float64
    cuts : (k + 1,) int64
        Where blocks begin, and the number of rows.

    Attributes
    ----------
    sums : (t + 2, k, k) float64
        Of pairs of rows i < j, by the block of i and the block of j.
    """

    def __init__(self, thresholds: Vector, cuts: NDArray[np.int64]) -> None:
        super().__init__(thresholds, (len(thresholds) + 2, len(cuts) - 1, len(cuts) - 1))
        self.cuts = cuts

    def spawn(self, device: Any = None) -> Self:  # noqa: ARG002
        """Return an empty sibling."""
        return type(self)(self.thresholds, self.cuts)

    def update(self, tile: Any, rows: slice, cols: slice) -> None:
        """Add up one tile."""
        room, (height, width) = self._ready(tile), tile.shape
        (left, i), (right, j) = self._members(rows, tile.dtype), self._members(cols, tile.dtype)
        above = np.triu(np.ones((height, width), np.bool_), 1) if rows == cols else None
        flags, squares = room.flags[:height, :width], room.squares[:height, :width]

        def add(k: int, part: Any) -> None:
            # Counts of a tile are below 2^24, which float32 holds.
            self.sums[k, i, j] += left @ part @ right.T

        for k, threshold in enumerate(self.thresholds):
            np.less_equal(tile, tile.dtype.type(threshold), out=flags)
            if above is not None:
                flags &= above
            add(k, flags.astype(tile.dtype))
        if above is not None:
            tile = np.where(above, tile, 0)
        np.multiply(tile, tile, out=squares)
        add(-2, tile)
        add(-1, squares)

    def _members(self, rows: slice, dtype: Any) -> tuple[NDArray[Any], slice]:
        """Return which of these rows are in which block, (blocks, rows), and the numbers of those blocks."""
        of = np.searchsorted(self.cuts, np.arange(rows.start, rows.stop), side="right") - 1
        return (np.arange(of[0], of[-1] + 1)[:, None] == of).astype(dtype), slice(int(of[0]), int(of[-1]) + 1)


class InsideBlocks:
    """A tally of the pairs of rows that are of one block, of which a sample of blocks has too many."""

    def __init__(self, tally: Tally, cuts: NDArray[np.int64]) -> None:
        self.tally, self.cuts = tally, cuts

    def spawn(self, device: Any = None) -> Self:
        """Return an empty sibling."""
        return type(self)(self.tally.spawn(device), self.cuts)

    def update(self, tile: Any, rows: slice, cols: slice) -> None:
        """Count what lies near the diagonal."""
        first = int(np.searchsorted(self.cuts, cols.start, side="right")) - 1
        last = int(np.searchsorted(self.cuts, rows.stop - 1, side="right")) - 1
        for block in range(first, last + 1):
            start, stop = int(self.cuts[block]), int(self.cuts[block + 1])
            i = slice(max(start, rows.start) - rows.start, min(stop, rows.stop) - rows.start)
            j = slice(max(start, cols.start) - cols.start, min(stop, cols.stop) - cols.start)
            if i.stop > i.start and j.stop > j.start:
                # The tally asks only whether both sides are the same rows.
                self.tally.update(np.ascontiguousarray(tile[i, j]), i, i if rows == cols else slice(-1, -1))

    def merge(self, other: Self) -> None:
        """Add what a sibling has counted."""
        self.tally.merge(other.tally)
