"""What a sweep is reduced to: counts, ranges and candidates, all of which merge."""

import math
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from geomkit.errors import InvalidInputError
from geomkit.kernels import Backend, load, module

__all__ = ["Above", "ExactSum", "Nearest", "RowExtremes", "RowRanges", "Tally", "Whole"]


class ExactSum:
    """A sum of float64 terms without rounding, so that it is the same to the bit in any order."""

    _UNIT = 2**1074

    def __init__(self) -> None:
        self.units = 0

    def add(self, value: float) -> None:
        """Add one finite term."""
        numerator, denominator = value.as_integer_ratio()
        self.units += numerator * (self._UNIT // denominator)

    def merge(self, other: Self) -> None:
        """Add another sum."""
        self.units += other.units

    def __float__(self) -> float:
        return self.units / self._UNIT


WAITING = 256
"""Tiles whose power sums wait where they were made to be added up: none is copied to the host alone."""


class Tally:
    """The distribution of the values: counts of bfloat16 bit patterns, power sums, extremes.

    A value is an entry of a tile plus `origin`. Counts are of ``value - centre``, so resolution is finest near
    `centre`. Tiles that are bfloat16 already (``rounded``) are counted as they are, about the origin; power sums and
    extremes are then those of the counted values. Merging is exact and order-free.
    """

    def __init__(
        self, backend: Backend, centre: float, device: Any = None, *, origin: float = 0.0, rounded: bool = False
    ) -> None:
        memory = module(backend)
        self.backend, self.device, self.origin, self.rounded = backend, device, origin, rounded
        self._shift = 0.0 if rounded else float(np.float32(centre - origin))
        self.centre = origin + self._shift
        self._kernel = load("count" if rounded else "tally", backend)
        # Banks small enough for cache, emptied into the totals before one could run over.
        self._banks = memory.zeros((4, 65536), memory.COUNTER, device)
        self._pending = 0
        self._totals = np.zeros(65536, np.int64)
        self._sums = memory.zeros((WAITING, 4), "float64", device)
        self._waiting = 0
        self._extremes = memory.zeros((2,), "float64", device)
        self._extremes[0], self._extremes[1] = math.inf, -math.inf
        self._power_sums = [ExactSum() for _ in range(4)]

    def spawn(self, device: Any = None) -> Self:
        """Return an empty tally about the same centre, on another device if one is given."""
        where = device or self.device
        return type(self)(self.backend, self.centre, where, origin=self.origin, rounded=self.rounded)

    def update(self, tile: Any, rows: slice, cols: slice) -> None:
        """Count the pairs of one tile."""
        entries = tile.shape[0] * tile.shape[1]
        if self._pending + entries >= 2**32:
            self._empty()
        if self.rounded:
            self._kernel(tile, rows == cols, self._banks)
        else:
            if self._waiting == len(self._sums):
                self._add_up()
            self._kernel(tile, rows == cols, self._shift, self._banks, self._sums[self._waiting], self._extremes)
            self._waiting += 1
        self._pending += entries

    def _add_up(self) -> None:
        """Take the sums of tiles that wait into the exact ones."""
        for terms in module(self.backend).to_numpy(self._sums[: self._waiting]).tolist():
            for total, term in zip(self._power_sums, terms, strict=True):
                total.add(term)
        self._sums[:] = 0
        self._waiting = 0

    def _empty(self) -> None:
        self._totals += module(self.backend).to_numpy(self._banks).sum(axis=0, dtype=np.int64)
        self._banks[:] = 0
        self._pending = 0

    def merge(self, other: Self) -> None:
        """Add the counts and sums of a sibling."""
        self._totals += other.counts
        other._add_up()
        for own, term in zip(self._power_sums, other._power_sums, strict=True):
            own.merge(term)
        memory = module(self.backend)
        (low, high), (least, largest) = memory.to_numpy(self._extremes), memory.to_numpy(other._extremes)
        self._extremes[0], self._extremes[1] = float(min(low, least)), float(max(high, largest))

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many pairs had each bit pattern of ``bfloat16(value - centre)``, (65536,)."""
        self._empty()
        return self._totals.copy()

    @property
    def power_sums(self) -> list[float]:
        """Sums of the first four powers of ``value - centre``."""
        if not self.rounded:
            self._add_up()
            return [float(total) for total in self._power_sums]
        values, counts = self._counted
        return [math.fsum(counts * values**k) for k in (1, 2, 3, 4)]

    @property
    def extremes(self) -> tuple[float, float]:
        """Least and largest value; of rounded tiles, to the counter."""
        if self.rounded:
            values, _ = self._counted
            return self.origin + float(values.min(initial=math.inf)), self.origin + float(values.max(initial=-math.inf))
        low, high = module(self.backend).to_numpy(self._extremes)
        return self.origin + float(low), self.origin + float(high)

    @property
    def _counted(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The bfloat16 values that occurred, and how often."""
        counts = self.counts
        patterns = np.flatnonzero(counts)
        values = (patterns.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
        return values, counts[patterns]


class RowRanges:
    """Least, largest and sum of each row's values over all other rows, from both triangles of each tile.

    Least and largest merge exactly; sums to a few units in the last place of float64.
    """

    def __init__(self, backend: Backend, n: int, device: Any = None) -> None:
        self.backend, self.n, self.device = backend, n, device
        self._kernel = load("row_ranges", backend)
        self._state = module(backend).zeros((3, n), "float64", device)
        self._state[0], self._state[1] = math.inf, -math.inf

    def spawn(self, device: Any = None) -> Self:
        """Return an empty sibling, on another device if one is given."""
        return type(self)(self.backend, self.n, device or self.device)

    def update(self, tile: Any, rows: slice, cols: slice) -> None:
        """Update the rows on both sides of one tile."""
        self._kernel(tile, rows == cols, self._state[:, rows], self._state[:, cols])

    def merge(self, other: Self) -> None:
        """Widen by what a sibling has seen."""
        memory = module(self.backend)
        own, new = memory.to_numpy(self._state), memory.to_numpy(other._state)
        merged = np.stack([np.minimum(own[0], new[0]), np.maximum(own[1], new[1]), own[2] + new[2]])
        self._state = memory.as_working(merged, "float64", self.device)

    @property
    def ranges(self) -> NDArray[np.float64]:
        """(least, largest, sum) of each row, (3, n)."""
        return np.asarray(module(self.backend).to_numpy(self._state))


class Nearest:
    """Candidates for the nearest others of each row, from both triangles of each tile.

    Siblings share their floors, so that each leaves out what any of them knows to be beaten. Merging keeps the
    candidates of both; which ones there are depends on the order of the tiles, and `candidates` says what no other
    entry exceeds.
    """

    def __init__(self, backend: Backend, n: int, keep: int, dtype: str, device: Any = None, floor: Any = None) -> None:
        memory = module(backend)
        self.backend, self.n, self.keep, self.dtype, self.device = backend, n, keep, dtype, device
        self._kernel = load("screen", backend)
        self._kind = memory.KEY.get(dtype, "int32")
        least = np.iinfo(self._kind).min
        # A list is halved when it is full. Empty places hold the least there is.
        self.lists = memory.zeros((n, 1 + memory.places(keep)), "int64", device)
        self.lists[:, 1:] = least << 32
        self.dropped = memory.zeros((n,), self._kind, device)
        self.dropped[:] = least
        self.floor = memory.zeros((n,), self._kind, device) if floor is None else floor
        if floor is None:
            self.floor[:] = least
        self.merged: list[Nearest] = []

    def spawn(self, device: Any = None) -> Self:
        """Return a sibling without candidates that shares the floors, or has its own on the device that is given."""
        where, floor = device or self.device, self.floor if device is None else None
        return type(self)(self.backend, self.n, self.keep, self.dtype, where, floor)

    def update(self, tile: Any, rows: slice, cols: slice) -> None:
        """Screen the pairs of one tile."""
        self._kernel(tile, rows == cols, rows.start, cols.start, self.lists, self.dropped, self.floor)

    def merge(self, other: Self) -> None:
        """Take over a sibling's candidates."""
        self.merged.append(other)

    @property
    def rounding(self) -> float:
        """Share of itself by which a value is rounded in its key."""
        return {"bfloat16": 2.0**-8, "float32": 0.0, "float64": 2.0**-24}[self.dtype]

    def candidates(self) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
        """Return values (n, c) and row numbers (n, c), -1 for none, and what no other entry exceeds, (n,)."""
        to_numpy = module(self.backend).to_numpy
        # Where siblings did the work, this one's own lists are empty.
        parts = [part for part in [self, *self.merged] if bool((part.lists[:, 0] > 0).any())]
        values, ids = [], []
        for part in parts:
            most = int(part.lists[:, 0].max())
            lists = to_numpy(part.lists[:, : 1 + most])
            entries = lists[:, 1:]
            values.append(self._values(entries >> 32))
            taken = np.arange(entries.shape[1]) < lists[:, :1]
            ids.append(np.where(taken, entries & 0xFFFFFFFF, -1))
        # Every floor was set by some list, which remembers it.
        beaten = np.max([self._values(to_numpy(part.dropped)) for part in parts], axis=0)
        return np.concatenate(values, axis=1), np.concatenate(ids, axis=1), beaten

    def _values(self, keys: NDArray[Any]) -> NDArray[np.float64]:
        """Values of keys; -inf for the least one, which is no entry's."""
        width = 8 * np.dtype(self._kind).itemsize
        bits = keys.astype(np.int64)
        bits = (bits ^ ((bits >> 63) & (2 ** (width - 1) - 1))) << (32 - width)
        values = bits.astype(np.uint32).view(np.float32).astype(np.float64)
        return np.where(keys == np.iinfo(self._kind).min, -math.inf, values)


class RowExtremes:
    """Least and largest entry of each row over all other rows, from both triangles of each tile. Merges exactly."""

    def __init__(self, backend: Backend, n: int, device: Any = None) -> None:
        self.backend, self.n, self.device = backend, n, device
        self._kernel = load("row_extremes", backend)
        self._state = module(backend).zeros((2, n), "float64", device)
        self._state[0], self._state[1] = math.inf, -math.inf

    def spawn(self, device: Any = None) -> Self:
        """Return an empty sibling, on another device if one is given."""
        return type(self)(self.backend, self.n, device or self.device)

    def update(self, tile: Any, rows: slice, cols: slice) -> None:
        """Update the rows on both sides of one tile."""
        self._kernel(tile, rows == cols, self._state[:, rows], self._state[:, cols])

    def merge(self, other: Self) -> None:
        """Widen by what a sibling has seen."""
        own, new = self.extremes, other.extremes
        merged = np.stack([np.minimum(own[0], new[0]), np.maximum(own[1], new[1])])
        self._state = module(self.backend).as_working(merged, "float64", self.device)

    @property
    def extremes(self) -> NDArray[np.float64]:
        """(least, largest) of each row, (2, n)."""
        return np.asarray(module(self.backend).to_numpy(self._state))


class Above:
    """Every pair whose entry is at least a threshold. Merges exactly, but for the order of the pairs.

    Raises
    ------
    InvalidInputError
        More than `limit` pairs reach the threshold.
    """

    def __init__(self, backend: Backend, threshold: float, limit: int) -> None:
        self.backend, self.threshold, self.limit = backend, threshold, limit
        self._kernel = load("above", backend)
        # Places within a tile stay where they were found until they are asked for, beside its first row and column.
        self._found: list[tuple[Any, int, int]] = []
        self._size = 0

    def spawn(self, device: Any = None) -> Self:  # noqa: ARG002
        """Return an empty sibling with the same threshold; what it finds stays where tiles are."""
        return type(self)(self.backend, self.threshold, self.limit)

    def update(self, tile: Any, rows: slice, cols: slice) -> None:
        """Collect from one tile."""
        found = self._kernel(tile, rows == cols, self.threshold)
        if found.shape[1]:
            self._take(found, rows.start, cols.start)

    def _take(self, found: Any, row: int, col: int) -> None:
        self._size += found.shape[1]
        if self._size > self.limit:
            msg = f"more than {self.limit:,} pairs are as near as duplicates; drop repeated rows, or lower `duplicates`"
            raise InvalidInputError(msg)
        self._found.append((found, row, col))

    def merge(self, other: Self) -> None:
        """Take over what a sibling has found."""
        for each in other._found:
            self._take(*each)

    @property
    def pairs(self) -> NDArray[np.int64]:
        """Row numbers of the pairs, the smaller first, in ascending order, (m, 2)."""
        to_numpy = module(self.backend).to_numpy
        parts = [to_numpy(found) + np.array([[row], [col]]) for found, row, col in self._found]
        found = np.concatenate([np.empty((2, 0), np.int64), *parts], axis=1)
        return np.ascontiguousarray(found[:, np.lexsort(found[::-1])].T)


class Whole:
    """The matrix of all pairs itself, both triangles from one, its entries projected onto an interval.

    Siblings share the matrix, of which every tile has a part of its own.
    """

    def __init__(self, out: Any, low: float, high: float) -> None:
        self.out, self.low, self.high = out, low, high

    def spawn(self, device: Any = None) -> Self:  # noqa: ARG002
        """Return a sibling that fills the same matrix."""
        return type(self)(self.out, self.low, self.high)

    def update(self, tile: Any, rows: slice, cols: slice) -> None:
        """Write one tile and its mirror image."""
        if isinstance(tile, np.ndarray):
            np.clip(tile, self.low, self.high, out=tile)
        else:
            tile.clamp_(self.low, self.high)
        self.out[rows, cols] = tile
        if rows != cols:
            self.out[cols, rows] = tile.T

    def merge(self, other: Self) -> None:
        """Do nothing: the matrix is shared."""
