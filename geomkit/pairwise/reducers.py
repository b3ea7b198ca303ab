"""What a sweep is reduced to: counts, ranges and candidates, all of which merge.

A task makes an empty reducer for its own rows with the factory of a reducer, and returns its state: arrays that any
reducer of the kind can merge, and that can be written to a file.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from geomkit.core.executor import local_spans
from geomkit.errors import InvalidInputError
from geomkit.kernels import Backend, load, module

__all__ = ["Above", "ExactSum", "RowExtremes", "RowRanges", "Tally", "Whole"]


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

    def to_bytes(self) -> NDArray[np.uint8]:
        """Return the sum as bytes."""
        return np.frombuffer(self.units.to_bytes(self.units.bit_length() // 8 + 1, "little", signed=True), np.uint8)

    def add_bytes(self, data: NDArray[np.uint8]) -> None:
        """Add a sum that `to_bytes` wrote."""
        self.units += int.from_bytes(data.tobytes(), "little", signed=True)


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

    def factory(self) -> Callable[[int], "Tally"]:
        """Return what makes an empty tally about the same centre, of any number of rows."""
        return partial(_tally, self.backend, self.centre, self.origin, self.rounded)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return everything that was counted."""
        counts = self.counts
        self._add_up()
        sums = {f"power_{k + 1}": total.to_bytes() for k, total in enumerate(self._power_sums)}
        return {"counts": counts, "extremes": np.array(module(self.backend).to_numpy(self._extremes)), **sums}

    def merge_state(self, state: dict[str, NDArray[Any]], spans: Sequence[tuple[int, int]]) -> None:  # noqa: ARG002
        """Add what another tally has counted, whichever rows it had."""
        self._totals += state["counts"]
        for k, total in enumerate(self._power_sums):
            total.add_bytes(state[f"power_{k + 1}"])
        low, high = module(self.backend).to_numpy(self._extremes)
        self._extremes[0] = float(min(low, state["extremes"][0]))
        self._extremes[1] = float(max(high, state["extremes"][1]))

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


def _tally(backend: Backend, centre: float, origin: float, rounded: bool, n: int) -> Tally:  # noqa: ARG001
    return Tally(backend, centre, origin=origin, rounded=rounded)


def _of_rows(kind: Callable[[Backend, int], Any], backend: Backend, n: int) -> Any:
    return kind(backend, n)


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

    def factory(self) -> Callable[[int], "RowRanges"]:
        """Return what makes an empty one for any number of rows."""
        return partial(_of_rows, RowRanges, self.backend)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return everything that was seen."""
        return {"ranges": self.ranges}

    def merge_state(self, state: dict[str, NDArray[Any]], spans: Sequence[tuple[int, int]]) -> None:
        """Widen by what another has seen of the rows in these spans, one after the other."""
        for part, rows in local_spans(spans):
            least, largest, total = state["ranges"][:, part]
            self._state[0, rows] = np.minimum(self._state[0, rows], least)
            self._state[1, rows] = np.maximum(self._state[1, rows], largest)
            self._state[2, rows] += total

    @property
    def ranges(self) -> NDArray[np.float64]:
        """(least, largest, sum) of each row, (3, n)."""
        return np.asarray(module(self.backend).to_numpy(self._state))


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

    def factory(self) -> Callable[[int], "RowExtremes"]:
        """Return what makes an empty one for any number of rows."""
        return partial(_of_rows, RowExtremes, self.backend)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return everything that was seen."""
        return {"extremes": self.extremes}

    def merge_state(self, state: dict[str, NDArray[Any]], spans: Sequence[tuple[int, int]]) -> None:
        """Widen by what another has seen of the rows in these spans, one after the other."""
        for part, rows in local_spans(spans):
            self._state[0, rows] = np.minimum(self._state[0, rows], state["extremes"][0, part])
            self._state[1, rows] = np.maximum(self._state[1, rows], state["extremes"][1, part])

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

    def factory(self) -> Callable[[int], "Above"]:
        """Return what makes an empty one with the same threshold, of any number of rows."""
        return partial(_above, self.backend, self.threshold, self.limit)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return everything that was found."""
        return {"pairs": self.pairs}

    def merge_state(self, state: dict[str, NDArray[Any]], spans: Sequence[tuple[int, int]]) -> None:
        """Take over what another has found among the rows in these spans, one after the other."""
        if len(state["pairs"]):
            numbers = np.concatenate([np.arange(start, stop) for start, stop in spans])
            self._take(numbers[state["pairs"]].T, 0, 0)

    @property
    def pairs(self) -> NDArray[np.int64]:
        """Row numbers of the pairs, the smaller first, in ascending order, (m, 2)."""
        to_numpy = module(self.backend).to_numpy
        parts = [to_numpy(found) + np.array([[row], [col]]) for found, row, col in self._found]
        found = np.concatenate([np.empty((2, 0), np.int64), *parts], axis=1)
        return np.ascontiguousarray(found[:, np.lexsort(found[::-1])].T)


def _above(backend: Backend, threshold: float, limit: int, n: int) -> Above:  # noqa: ARG001
    return Above(backend, threshold, limit)


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
