"""The sums of `geomkit.covariance.scatter` for rows too wide to hold the products of their columns.

The products of the columns, M, and those of the rows, K = (y_i · y_j), have the same sum of squares. Either is made in
tiles at or above the diagonal, and never held. Off its diagonal K has mean k̄ = -S/(n(n-1)), and

    ‖M‖² - S²/(n-1) = V + Σ_{i≠j} (k_ij - k̄)²,

which has nothing left to cancel. Sparse rows are never centred, which would fill them: what the mean adds comes off the
products, entry by entry.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomkit.core.matrix import Matrix
from geomkit.covariance.accumulate import in_threads
from geomkit.covariance.batches import Batch, exponent_of, read
from geomkit.covariance.influence import influence_of
from geomkit.covariance.scatter import PairSums
from geomkit.kernels import Backend, load, module

__all__ = ["Wide", "gram_pair_sums"]

Vector = NDArray[np.float64]

TILE_ROWS = 512
"""Most rows of a block in a pass over pairs of blocks ..."""

TILE_ENTRIES = 2**21
"""... and the most entries of a dense one, 16 MiB in float64: a worker holds two blocks in two forms."""

DEVICE_TILE_ROWS = 2**12
"""The same on an accelerator, which computes larger tiles in the time that it takes to launch kernels ..."""

DEVICE_TILE_ENTRIES = 2**24
"""... and holds larger blocks."""


class Wide(NamedTuple):
    """What a pass over tiles leaves behind."""

    sums: list[PairSums]
    """Of the raw rows, and of the normalized ones."""
    shares: Vector
    """Of each coordinate in the mean cosine, (d,)."""
    side: str
    """``"rows"`` or ``"columns"``: whose products were summed."""
    n_dropped: int
    means: Vector
    """Of the rows in both forms, (2, d), over two to the power of the exponent of their sums."""
    diagonal: Vector
    """Sums of the squares of each coordinate about its mean in both forms, (2, d), over the square of that power."""
    along: Vector
    """Inner products of the rows, less their mean, with it, in both forms, (2, n)."""
    gram: Vector
    """All products of the rows about their mean, (n, n), in the form that was to be held; else (0, 0)."""


def gram_pair_sums(
    matrix: Matrix,
    backend: Backend,
    threads: int,
    norms: Vector,
    *,
    by_row: bool = False,
    hold: int | None = None,
    forms: Sequence[int] = (0, 1),
) -> Wide:
    """Sum up all pairs in tiles.

    By rows O(n² d), for sparse rows O(n²) and the terms that pairs of rows share; sparse rows that are more than their
    columns go by columns, O(d²) and the terms that pairs of columns share.

    Parameters
    ----------
    norms : (n,) float64
        Of the rows, which are finite; those of zero rows are zero over their norms, too.
    by_row : bool
        Whether to sum up each row's part in the variances as well, which rows alone can.
    hold : {None, 0, 1}
        The form whose products of rows are kept whole, 8 n² bytes; then they are always those of the rows.
    forms : sequence of {0, 1}
        The forms whose products are summed up, raw and normalized; `excess` of the other is NaN.
    """
    exponent = exponent_of(float(norms.max()))
    tiles: _Tiles
    if matrix.kind != "sparse" or backend is not Backend.CPU:
        tiles = _DenseRows(matrix, backend, exponent)
    elif by_row or hold is not None or matrix.n <= matrix.d:
        tiles = _SparseRows(matrix, backend, exponent)
    else:
        tiles = _SparseColumns(matrix, backend, exponent)
    gram = np.empty((0, 0) if hold is None else (matrix.n, matrix.n))
    held = None if hold is None else _Held(hold, gram)
    sums = _sweep(tiles, threads if backend is Backend.CPU else 1, by_row=by_row, held=held, forms=forms)
    return Wide(sums, tiles.shares, tiles.side, matrix.n_dropped, tiles.means, tiles.diagonal, tiles.along, gram)


class _Held(NamedTuple):
    """Where the products of the rows in one form go."""

    form: int
    gram: Vector

    def keep(self, tile: Any, i: slice, j: slice, middle: float) -> None:
        """Keep a tile of products, given less their mean."""
        self.gram[i, j] = tile
        self.gram[i, j] += middle
        self.gram[j, i] = self.gram[i, j].T


class _DenseRows:
    """Rows about their mean, made again whenever they are needed."""

    side = "rows"

    def __init__(self, matrix: Matrix, backend: Backend, exponent: int) -> None:
        self.matrix, self.backend, self.exponent = matrix, backend, exponent
        self.device = matrix.device if matrix.on_accelerator else None
        n = self.count = matrix.n
        there = matrix.on_accelerator
        most, entries = (DEVICE_TILE_ROWS, DEVICE_TILE_ENTRIES) if there else (TILE_ROWS, TILE_ENTRIES)
        self.size = max(1, min(most, entries // matrix.d))
        self.origins = self._read(0, 1).first(exponent)
        self.centres = np.zeros((2, matrix.d))
        for start, stop in matrix.blocks(self.size):
            self.centres += self._read(start, stop).means(exponent, self.origins) * ((stop - start) / n)
        self.means = self.origins + self.centres
        self.squares, self.along, self.diagonal = np.empty((2, n)), np.empty((2, n)), np.zeros((2, matrix.d))
        memory = module(backend)
        means = memory.as_working(self.means, "float64", self.device)
        for start, stop in matrix.blocks(self.size):
            forms, self.squares[:, start:stop] = self._shifted(start, stop)
            for k, rows in enumerate(forms):
                self.along[k, start:stop] = memory.to_numpy(rows @ means[k])
                self.diagonal[k] += memory.to_numpy((rows * rows).sum(0))
        self.middles = _middles(self.squares)
        self.shares = self.means[1] ** 2 - self.diagonal[1] / (n * (n - 1))

    def block(self, part: slice) -> list[Any]:
        return self._shifted(part.start, part.stop)[0]

    def tile(self, k: int, left: Any, right: Any, i: slice, j: slice) -> Any:  # noqa: ARG002
        tile = left[k] @ right[k].T
        tile -= float(self.middles[k])
        return tile

    def _read(self, start: int, stop: int) -> Batch:
        return read(self.matrix, self.backend, start, stop)

    def _shifted(self, start: int, stop: int) -> tuple[list[Any], Vector]:
        return self._read(start, stop).shifted(self.exponent, self.origins, self.centres)


class _Sparse:
    """CSR rows in both forms, and their means."""

    device = None

    def __init__(self, matrix: Matrix, backend: Backend, exponent: int) -> None:
        self.backend, self.exponent = backend, exponent
        self.size = TILE_ROWS
        self.kernel: Callable[..., None] = load("sparse_gram", backend)
        batch, zeros, n = read(matrix, backend, 0, matrix.n), np.zeros((2, matrix.d)), matrix.n
        self.means = batch.means(exponent, zeros)
        self.forms, self.squares = batch.shifted(exponent, zeros, self.means)
        self.along = np.stack([form @ mean - mean @ mean for form, mean in zip(self.forms, self.means, strict=True)])
        columns = np.stack([np.bincount(form.indices, np.square(form.data), matrix.d) for form in self.forms])
        self.middles = _middles(self.squares)
        self.diagonal = np.maximum(columns - n * self.means**2, 0)
        self.shares = ((n * self.means[1]) ** 2 - columns[1]) / (n * (n - 1))

    def block(self, part: slice) -> list[Any]:
        return [form[part] for form in self.forms]

    def products(self, left: Any, right: Any) -> Vector:
        """Products of the rows of two blocks, about zero."""
        tile = np.empty((left.shape[0], right.shape[0]))
        self.kernel(left, right, tile)
        return tile


class _SparseRows(_Sparse):
    """For each row, what takes the mean of the rows, and that of the products, out of its products."""

    side = "rows"

    def __init__(self, matrix: Matrix, backend: Backend, exponent: int) -> None:
        super().__init__(matrix, backend, exponent)
        self.count = matrix.n
        along = np.stack([form @ mean for form, mean in zip(self.forms, self.means, strict=True)])
        lengths = np.einsum("ij,ij->i", self.means, self.means)
        self.corrections = along - (lengths - self.middles)[:, None] / 2

    def tile(self, k: int, left: Any, right: Any, i: slice, j: slice) -> Vector:
        tile = self.products(left[k], right[k])
        tile -= self.corrections[k, i, None]
        tile -= self.corrections[k, j]
        return tile


class _SparseColumns(_Sparse):
    """The columns as CSR rows."""

    side = "columns"

    def __init__(self, matrix: Matrix, backend: Backend, exponent: int) -> None:
        super().__init__(matrix, backend, exponent)
        self.n, self.count = matrix.n, matrix.d
        self.forms = [form.T.tocsr() for form in self.forms]

    def tile(self, k: int, left: Any, right: Any, i: slice, j: slice) -> Vector:
        tile = self.products(left[k], right[k])
        tile -= self.n * np.multiply.outer(self.means[k, i], self.means[k, j])
        return tile


_Tiles = _DenseRows | _SparseRows | _SparseColumns
"""Products of rows or of columns: `block` makes both forms of some of them, `tile` their products in one form."""


def _middles(squares: Vector) -> Vector:
    """Mean of the products of distinct rows about their mean, in both forms."""
    n = squares.shape[1]
    return np.asarray(-squares.sum(1) / (n * (n - 1)))


def _sweep(tiles: _Tiles, threads: int, *, by_row: bool, held: _Held | None, forms: Sequence[int]) -> list[PairSums]:
    apart = tiles.squares - tiles.squares.mean(1)[:, None]
    starts = range(0, tiles.count, tiles.size)
    workers = min(threads, len(starts))
    # A stripe of tiles is the shorter the later it starts: deal them out like cards.
    hands = [starts[k::workers] for k in range(workers)]
    parts = in_threads(
        lambda hand: _stripes(tiles, hand, apart, held, by_row=by_row, forms=forms), hands, workers=workers
    )
    sums = []
    for k, exponent in enumerate((tiles.exponent, 0)):
        squares, own = tiles.squares[k], apart[k]
        n, total, spread = len(squares), float(squares.sum()), float(own @ own)
        beside = math.fsum(part.totals[k] for part in parts)
        excess = spread + beside if tiles.side == "rows" else max(beside - total**2 / (n - 1), 0.0)
        influence = math.nan
        if by_row:
            middle = -total / (n * (n - 1))
            off, along = sum(part.rows[k] for part in parts)
            # The diagonal, where k_ii is the squared norm of the row, was left out, and the mean taken off the rest.
            fourth = off - 2 * middle * squares - (n - 1) * middle**2 + squares**2
            influence = influence_of(squares, fourth, along + own * (squares - middle))
        sums.append(PairSums(n, exponent, total, spread, excess, influence))
    return sums


class _TileSums(NamedTuple):
    """Sums over the tiles of some stripes, in both forms."""

    totals: list[float]
    """Of squared products: of columns, all; of rows, (k_ij - k̄)² over i ≠ j."""
    rows: Vector
    """By form and row, where asked for: (k_ij - k̄)², and (a_j - ā) (k_ij - k̄), over j ≠ i."""


def _stripes(
    tiles: _Tiles, starts: range, apart: Vector, held: _Held | None, *, by_row: bool, forms: Sequence[int]
) -> _TileSums:
    count, size, memory = tiles.count, tiles.size, module(tiles.backend)
    weights = memory.as_working(apart, "float64", tiles.device)
    totals = [0.0 if k in forms else math.nan for k in (0, 1)]
    sums = _TileSums(totals, np.zeros((2, 2, count if by_row else 0)))
    for start in starts:
        i = slice(start, min(start + size, count))
        left = tiles.block(i)
        for other in range(start, count, size):
            j = slice(other, min(other + size, count))
            right = left if i == j else tiles.block(j)
            for k in forms:
                tile = tiles.tile(k, left, right, i, j)
                if held is not None and held.form == k:
                    held.keep(memory.to_numpy(tile), i, j, float(tiles.middles[k]))
                if i == j and tiles.side == "rows":
                    diagonal = np.arange(tile.shape[0])
                    tile[diagonal, diagonal] = 0
                flat = tile.reshape(-1)
                sums.totals[k] += (1 if i == j else 2) * float(flat @ flat)
                if by_row:
                    _note_rows(sums.rows[k], tile, weights[k], (i, j), memory.to_numpy)
    return sums


def _note_rows(rows: Vector, tile: Any, weights: Any, place: tuple[slice, slice], to_numpy: Callable[..., Any]) -> None:
    i, j = place
    squared = tile * tile
    rows[0, i] += to_numpy(squared.sum(1))
    rows[1, i] += to_numpy(tile @ weights[j])
    if i != j:
        rows[0, j] += to_numpy(squared.sum(0))
        rows[1, j] += to_numpy(tile.T @ weights[i])
