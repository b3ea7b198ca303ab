"""The sweep: one pass over the tiles of the matrix of pairs, feeding many mergeable reducers.

The n x n matrix never exists. A tile is the product of two blocks of rows, small enough to stay in cache; only tiles at
or above the diagonal are computed, so every unordered pair is seen once. Each worker thread owns its tiles and its
copies of the reducers, which are merged at the end.
"""

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from geomkit.kernels import Backend, load, module
from geomkit.rows import Rows

__all__ = ["PairReducer", "RowRanges", "Tally", "Tiles", "sweep"]

TILE = 768
"""Rows and columns of a tile: 2.25 MiB in float32, large enough to hide the cost of a call, small enough for cache."""

TILE_OF_DIFFERENCES = 256
"""The same where a tile is no product."""

BLOCK_BYTES = 2**26
"""Dense blocks of rows that a worker makes stay below this, if need be with smaller tiles."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """What a tile is: which kernel turns two blocks of prepared rows into numbers about their pairs."""

    rows: Rows
    kernel: str
    """``gram``, ``euclidean`` or ``minkowski``."""
    p: float = 2.0

    @property
    def operations(self) -> float:
        """Arithmetic operations of the whole sweep, for choosing a product."""
        return float(self.rows.n) ** 2 * self.rows.matrix.longest_row

    def worker(self, size: int) -> Callable[[slice, slice], Any]:
        """Return a function that computes one tile into memory of its own; one worker thread uses it."""
        rows = self.rows
        kernel = load(f"sparse_{self.kernel}" if rows.sparse else self.kernel, rows.backend)
        side = min(size, rows.n)
        scratch = module(rows.backend).zeros((side * side,), rows.dtype, rows.device)
        held: tuple[slice, Any] = (slice(0, 0), None)

        def tile(i: slice, j: slice) -> Any:
            nonlocal held
            if held[0] != i:
                held = (i, rows.block(i.start, i.stop))
            a = held[1]
            b = a if i == j else rows.block(j.start, j.stop)
            height, width = i.stop - i.start, j.stop - j.start
            out = scratch[: height * width].reshape(height, width)
            if self.kernel == "euclidean":
                kernel(a, b, out, rows.squares[i], rows.squares[j])
            elif self.kernel == "minkowski":
                kernel(a, b, out, self.p)
            else:
                kernel(a, b, out)
            return out

        return tile


class PairReducer(Protocol):
    """Sees each tile once and merges with its siblings in any order."""

    def spawn(self) -> Self:
        """Return an empty reducer of the same kind, for one worker."""

    def update(self, tile: Any, rows: slice, cols: slice) -> None:
        """Take in one tile; where ``rows == cols`` only what lies above its diagonal."""

    def merge(self, other: Self) -> None:
        """Take in what a sibling has seen."""


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


class Tally:
    """The distribution of the values: counts of bfloat16 bit patterns, power sums, extremes.

    Counts are of ``value - centre``, so resolution is finest near `centre`. Merging is exact and order-free.
    """

    def __init__(self, backend: Backend, centre: float, device: Any = None) -> None:
        memory = module(backend)
        self.backend, self.device = backend, device
        self.centre = float(np.float32(centre))
        self._kernel = load("tally", backend)
        self._counts = memory.zeros((4, 65536), "int64", device)
        self._sums = memory.zeros((4,), "float64", device)
        self._extremes = memory.zeros((2,), "float64", device)
        self._extremes[0], self._extremes[1] = math.inf, -math.inf
        self.power_sums = [ExactSum() for _ in range(4)]

    def spawn(self) -> Self:
        """Return an empty tally about the same centre."""
        return type(self)(self.backend, self.centre, self.device)

    def update(self, tile: Any, rows: slice, cols: slice) -> None:
        """Count the pairs of one tile."""
        self._sums[:] = 0
        self._kernel(tile, rows == cols, self.centre, self._counts, self._sums, self._extremes)
        for total, term in zip(self.power_sums, module(self.backend).to_numpy(self._sums), strict=True):
            total.add(float(term))

    def merge(self, other: Self) -> None:
        """Add the counts and sums of a sibling."""
        self._counts += other._counts
        for own, term in zip(self.power_sums, other.power_sums, strict=True):
            own.merge(term)
        self._extremes[0] = min(self._extremes[0], other._extremes[0])
        self._extremes[1] = max(self._extremes[1], other._extremes[1])

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many pairs had each bit pattern of ``bfloat16(value - centre)``, (65536,)."""
        banks: NDArray[np.int64] = module(self.backend).to_numpy(self._counts)
        return np.asarray(banks.sum(axis=0))

    @property
    def extremes(self) -> tuple[float, float]:
        """Least and largest value."""
        low, high = module(self.backend).to_numpy(self._extremes)
        return float(low), float(high)


class RowRanges:
    """Least, largest and sum of each row's values over all other rows, from both triangles of each tile.

    Least and largest merge exactly; sums to a few units in the last place of float64.
    """

    def __init__(self, backend: Backend, n: int, device: Any = None) -> None:
        self.backend, self.n, self.device = backend, n, device
        self._kernel = load("row_ranges", backend)
        self._state = module(backend).zeros((3, n), "float64", device)
        self._state[0], self._state[1] = math.inf, -math.inf

    def spawn(self) -> Self:
        """Return an empty sibling."""
        return type(self)(self.backend, self.n, self.device)

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


def sweep(
    tiles: Tiles, reducers: Sequence[PairReducer], *, threads: int | None = None, size: int | None = None
) -> None:
    """Feed every tile at or above the diagonal to every reducer.

    Parameters
    ----------
    tiles : Tiles
        What a tile is.
    reducers : sequence of PairReducer
        Updated in place.
    threads : int, optional
        Worker threads of the CPU backend; all processors of this process unless given. The other backends use one
        and parallelise inside it.
    size : int, optional
        Rows and columns of a tile.

    Notes
    -----
    O(n² d) time. Memory beyond the rows: each worker's tile and blocks.
    """
    rows = tiles.rows
    size = size or _tile_size(tiles)
    workers = (threads or processors()) if rows.backend is Backend.CPU else 1
    schedule = list(_schedule(rows.n, size))
    workers = min(workers, len(schedule))
    if workers == 1:
        # A single tile is left to BLAS's own threads, unless the caller set their number.
        with _one_thread_each() if threads and rows.backend is Backend.CPU else nullcontext():
            _work(tiles, size, schedule, reducers)
        return
    siblings = [[reducer.spawn() for reducer in reducers] for _ in range(workers)]
    with _one_thread_each(), ThreadPoolExecutor(workers) as pool:
        shares = [schedule[w::workers] for w in range(workers)]
        for done in [pool.submit(_work, tiles, size, *each) for each in zip(shares, siblings, strict=True)]:
            done.result()
    for mine in siblings:
        for reducer, other in zip(reducers, mine, strict=True):
            reducer.merge(other)


def processors() -> int:
    """How many processors this process may use; not every system says which."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work(tiles: Tiles, size: int, schedule: list[tuple[slice, slice]], reducers: Sequence[PairReducer]) -> None:
    compute = tiles.worker(size)
    for i, j in schedule:
        tile = compute(i, j)
        for reducer in reducers:
            reducer.update(tile, i, j)


def _tile_size(tiles: Tiles) -> int:
    rows = tiles.rows
    # Differences gain nothing from a large tile, and lose on the half of a diagonal one that is computed in vain.
    size = TILE_OF_DIFFERENCES if tiles.kernel == "minkowski" else TILE
    if rows.resident is not None:
        return size
    return max(64, min(size, BLOCK_BYTES // (2 * rows.matrix.d * np.dtype(rows.dtype).itemsize)))


def _schedule(n: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Tiles at or above the diagonal, row of tiles by row of tiles, so that a worker can keep its left block."""
    for i in range(0, n, size):
        for j in range(i, n, size):
            yield slice(i, min(i + size, n)), slice(j, min(j + size, n))


_BLAS = threading.RLock()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Keep BLAS to one thread a call, since the sweep runs one Python thread a core around it.

    BLAS thread counts belong to the process, so one sweep at a time may change them.
    """
    import sys

    from threadpoolctl import threadpool_limits

    torch = sys.modules.get("torch")
    with _BLAS:
        # Read before the limit, which torch would report as its own count.
        threads = torch.get_num_threads() if torch is not None else 1
        with threadpool_limits(1):
            if torch is not None:
                torch.set_num_threads(1)
            try:
                yield
            finally:
                if torch is not None:
                    torch.set_num_threads(threads)
