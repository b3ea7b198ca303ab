"""Tiles of the matrix of pairs: what one is, how large, and which come in which order.

The n x n matrix never exists. A tile is the product of two blocks of rows; only tiles at or above the diagonal are
computed, so every unordered pair is seen once.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any, Protocol, Self

import numpy as np

from geomkit.core.devices import if_it_fits
from geomkit.kernels import load, module
from geomkit.pairwise.normalization import Rows
from geomkit.pairwise.scores import Scores

__all__ = ["PairReducer", "Shared", "Tiles", "pairs_in", "schedule", "tile_size"]

TILE = 768
"""Rows and columns of a tile: 2.25 MiB in float32, large enough to hide the cost of a call, small enough for cache."""

TILE_OF_DIFFERENCES = 256
"""The same where a tile is no product."""

BLOCK_BYTES = 2**26
"""Dense blocks of rows that a worker makes stay below this, if need be with smaller tiles."""

DEVICE_TILE = 2**13
"""The same on an accelerator: 256 MiB in float32, beside which the cost of launching some 50 kernels is small."""

DEVICE_TILE_OF_DIFFERENCES = 2**12

FUSED_TILE = 2**15
"""The same where an accelerator reduces a product without storing it: a launch is long, and nothing is large."""

DEVICE_BLOCK_BYTES = 2**30

SHARES = 4
"""Rows of tiles that an accelerator gets at least, for then one tile can be made while another is reduced, ..."""

LEAST_SHARE = 2**11
"""... unless tiles would become smaller than this."""


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

    @property
    def fused(self) -> bool:
        """Whether a tile is two blocks of rows, whose product the reducers compute."""
        return self.kernel == "gram" and bool(module(self.rows.backend).FUSED)

    def on(self, device: Any) -> "Tiles":
        """Return the same tiles, made on another device, which keeps the rows if it has the memory."""
        rows, factors = self.rows, self.rows.resident_factors
        kept = None if factors is None else if_it_fits(lambda: _copied(*factors, device), "prepared rows", device)
        return replace(self, rows=rows.holding(rows.matrix.placed((str(device),)), kept))

    def worker(self, size: int, buffers: int = 1) -> Callable[[slice, slice], Any]:
        """Return a function that makes one tile; one worker uses it.

        A tile is the worker's own memory, and stays as it is until `buffers` more are made.
        """
        rows, memory = self.rows, module(self.rows.backend)
        held: tuple[slice, Any] = (slice(0, 0), None)

        def blocks(i: slice, j: slice) -> tuple[Any, Any]:
            nonlocal held
            if held[0] != i:
                held = (i, rows.left(i.start, i.stop))
            return held[1], rows.right(j.start, j.stop)

        if self.fused:
            precision = "tf32" if rows.precision == "tf32" else "ieee"
            return lambda i, j: memory.Product(*blocks(i, j), precision)
        kernel = load(f"sparse_{self.kernel}" if rows.sparse else self.kernel, rows.backend)
        side = min(size, rows.n)
        rooms = cycle([memory.zeros((side * side,), rows.dtype, rows.device) for _ in range(buffers)])
        squares: Any = rows.squares if isinstance(rows, Rows) else None
        if rows.backend.on_device and squares is not None:
            squares = memory.as_working(squares, rows.dtype, rows.device)

        def tile(i: slice, j: slice) -> Any:
            a, b = blocks(i, j)
            height, width = i.stop - i.start, j.stop - j.start
            out = next(rooms)[: height * width].reshape(height, width)
            if self.kernel == "euclidean":
                kernel(a, b, out, squares[i], squares[j])
            elif self.kernel == "minkowski":
                kernel(a, b, out, self.p)
            else:
                kernel(a, b, out)
            return out

        return tile


def _copied(left: Any, right: Any, device: Any) -> tuple[Any, Any]:
    """Copy both factors to a device; factors that are one stay one."""
    there = left.to(device)
    return there, there if right is left else right.to(device)


class PairReducer(Protocol):
    """Sees each tile once and merges with its siblings in any order."""

    def spawn(self, device: Any = None) -> Self:
        """Return an empty reducer of the same kind, for one worker; on another device if one is given."""

    def update(self, tile: Any, rows: slice, cols: slice) -> None:
        """Take in one tile, or fail for want of memory and change nothing.

        Where ``rows == cols`` only what lies above its diagonal counts.
        """

    def merge(self, other: Self) -> None:
        """Take in what a sibling has seen."""


def pairs_in(rows: slice, cols: slice) -> int:
    """Count the pairs of a tile, those of one on the diagonal once: the pieces of a tile have as many as the whole."""
    m, n = int(rows.stop - rows.start), int(cols.stop - cols.start)
    return m * (m - 1) // 2 if rows == cols else m * n


class Shared:
    """An iterator that several threads may draw from."""

    def __init__(self, items: Iterable[tuple[slice, slice]]) -> None:
        self._items, self._lock = iter(items), threading.Lock()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[slice, slice]:
        with self._lock:
            return next(self._items)

    def close(self) -> None:
        """Hand out nothing more: someone has failed."""
        with self._lock:
            self._items = iter(())


def schedule(n: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Tiles at or above the diagonal, row of tiles by row of tiles, so that a worker can keep its left block."""
    for i in range(0, n, size):
        for j in range(i, n, size):
            yield slice(i, min(i + size, n)), slice(j, min(j + size, n))


def tile_size(tiles: Tiles) -> int:
    """Rows and columns of a tile, by what makes it and where."""
    rows, differences = tiles.rows, tiles.kernel == "minkowski"
    if rows.matrix.on_accelerator:
        size = FUSED_TILE if tiles.fused else DEVICE_TILE_OF_DIFFERENCES if differences else DEVICE_TILE
        devices = len(rows.matrix.devices)
        if devices > 1 or not tiles.fused:
            size = min(size, max(LEAST_SHARE, -(-rows.n // (SHARES * devices))))
    else:
        # Differences gain nothing from a large tile, and lose on the half of a diagonal one that is computed in vain.
        size = TILE_OF_DIFFERENCES if differences else TILE
    if rows.resident is not None:
        return size
    itemsize = 2 if rows.rounded else np.dtype(rows.dtype).itemsize
    most = DEVICE_BLOCK_BYTES if rows.matrix.on_accelerator else BLOCK_BYTES
    return max(64, min(size, most // (2 * rows.matrix.d * itemsize)))
