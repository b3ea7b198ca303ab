"""The sweep: one pass over the tiles of the matrix of pairs, feeding many mergeable reducers.

The n x n matrix never exists. A tile is the product of two blocks of rows, small enough to stay in cache; only tiles at
or above the diagonal are computed, so every unordered pair is seen once. Each worker thread owns its tiles and its
copies of the reducers, which are merged at the end.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np

from geomkit.kernels import Backend, load, module
from geomkit.rows import Rows
from geomkit.scores import Scores
from geomkit.threads import ieee, one_thread_each, processors

__all__ = ["PairReducer", "Tiles", "sweep"]

TILE = 768
"""Rows and columns of a tile: 2.25 MiB in float32, large enough to hide the cost of a call, small enough for cache."""

TILE_OF_DIFFERENCES = 256
"""The same where a tile is no product."""

BLOCK_BYTES = 2**26
"""Dense blocks of rows that a worker makes stay below this, if need be with smaller tiles."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """What a tile is: which kernel turns two blocks of prepared rows into numbers about their pairs."""

    rows: Rows | Scores
    kernel: str
    """``gram``, ``euclidean`` or ``minkowski``; scores are for ``gram`` alone."""
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
                held = (i, rows.left(i.start, i.stop))
            a = held[1]
            b = rows.right(j.start, j.stop)
            height, width = i.stop - i.start, j.stop - j.start
            out = scratch[: height * width].reshape(height, width)
            if isinstance(rows, Rows) and self.kernel == "euclidean":
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
    schedule = list(_schedule(rows.n, size))
    if rows.resident is not None:
        # Neighbours of a row in the input are often near it: candidates found early leave out more later.
        schedule.sort(key=lambda tile: tile[1].start - tile[0].start)
    workers = (threads or processors()) if rows.backend is Backend.CPU else 1
    workers = min(workers, len(schedule))
    if workers == 1:
        # A single tile is left to BLAS's own threads, unless the caller set their number.
        with ieee(), one_thread_each() if threads and rows.backend is Backend.CPU else nullcontext():
            _work(tiles, size, iter(schedule), reducers)
        return
    siblings = [[reducer.spawn() for reducer in reducers] for _ in range(workers)]
    # Workers take the next tile when they are done with one, so that none waits for another at the end.
    shared = _Shared(schedule)
    with one_thread_each(), ieee(), ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(_work, tiles, size, shared, mine) for mine in siblings]:
            done.result()
    for mine in siblings:
        for reducer, other in zip(reducers, mine, strict=True):
            reducer.merge(other)


class _Shared:
    """An iterator that several threads may draw from."""

    def __init__(self, items: Sequence[tuple[slice, slice]]) -> None:
        self._items, self._lock = iter(items), threading.Lock()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[slice, slice]:
        with self._lock:
            return next(self._items)


def _work(tiles: Tiles, size: int, schedule: Iterator[tuple[slice, slice]], reducers: Sequence[PairReducer]) -> None:
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
    itemsize = 2 if rows.rounded else np.dtype(rows.dtype).itemsize
    return max(64, min(size, BLOCK_BYTES // (2 * rows.matrix.d * itemsize)))


def _schedule(n: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Tiles at or above the diagonal, row of tiles by row of tiles, so that a worker can keep its left block."""
    for i in range(0, n, size):
        for j in range(i, n, size):
            yield slice(i, min(i + size, n)), slice(j, min(j + size, n))
