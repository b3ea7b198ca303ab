"""Rows made ready for products, and what one pass over the rows already tells about all pairs.

Prepared rows are kept whole while they are small and made again, block by block, when they are not, so memory beyond
the input stays bounded however many rows there are.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geomkit.arrays import Matrix, reject_rows
from geomkit.kernels import Backend, load, module

__all__ = ["Rows", "centred_rows", "pair_cosines_by_row", "squared_distance_moments", "unit_rows"]

RESIDENT_BYTES = 2**28
"""Prepared rows up to this size are kept; larger ones are made again for every tile."""

BLOCK_ENTRIES = 2**20
"""Entries of a block of rows in a pass over the rows (8 MiB in float64)."""

WIDE_BLOCK_ENTRIES = 2**23
"""Entries of a block of rows in a pass over pairs of blocks (64 MiB in float64)."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a matrix after one of two preparations.

    ``unit``: each row over its Euclidean norm. ``centred``: the mean taken out and everything divided by a power of
    two that brings the largest row to a norm of at most 1; sparse rows are scaled but not centred, since that would
    fill them.
    """

    matrix: Matrix
    backend: Backend
    dtype: str
    preparation: Literal["unit", "centred"]
    squares: NDArray[np.float64]
    """Squared norms of the prepared rows, (n,)."""
    scale: float = 1.0
    """What centred rows were divided by."""
    mean: NDArray[np.float64] | None = None
    resident: Any = None

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.matrix.n

    @property
    def sparse(self) -> bool:
        """Whether blocks are CSR: the CPU kernels read them so, the other backends read dense blocks."""
        return self.matrix.kind == "sparse" and self.backend is Backend.CPU

    @property
    def device(self) -> Any:
        """The torch device that blocks lie on, or None."""
        return _device(self.matrix, self.backend)

    def block(self, start: int, stop: int) -> Any:
        """Return prepared rows ``start:stop``, in this backend's memory and dtype."""
        if self.resident is not None:
            return self.resident[start:stop]
        return self.make(start, stop, self.dtype)

    def take(self, numbers: NDArray[np.int64]) -> Any:
        """Return prepared rows with these numbers."""
        if self.resident is not None:
            return self.resident[numbers]
        block = module(self.backend).zeros((len(numbers), self.matrix.d), self.dtype, self.device)
        for at, row in enumerate(numbers):
            block[at] = self.make(int(row), int(row) + 1, self.dtype)[0]
        return block

    def make(self, start: int, stop: int, dtype: str) -> Any:
        """Prepare rows ``start:stop`` in `dtype`, from the matrix as given."""
        if self.sparse:
            return self._make_sparse(start, stop, dtype)
        x = _as_given(self.matrix, self.backend, start, stop)
        out = module(self.backend).zeros((stop - start, self.matrix.d), dtype, self.device)
        if self.preparation == "unit":
            load("unit_rows", self.backend)(x, out)
        else:
            load("centred_rows", self.backend)(x, self.mean, self.scale, out)
        return out

    def _make_sparse(self, start: int, stop: int, dtype: str) -> Any:
        block = self.matrix.rows(start, stop).astype(np.float64)
        if self.preparation == "unit":
            scaled, row_of, norms, _ = _scaled(block)
            block.data = (scaled / norms[row_of]).astype(dtype)
        else:
            block.data = (block.data / self.scale).astype(dtype)
        return block


def _device(matrix: Matrix, backend: Backend) -> Any:
    return matrix.device if backend is Backend.TORCH else None


def _as_given(matrix: Matrix, backend: Backend, start: int, stop: int) -> Any:
    """Dense rows before any preparation, in the backend's memory: float32 where that holds them exactly."""
    x = matrix.block(start, stop)
    wide = x.dtype.itemsize == 8 or backend is Backend.REFERENCE
    return module(backend).as_working(x, "float64" if wide else "float32", _device(matrix, backend))


def _resident(rows: Rows) -> Any:
    """All prepared rows at once where they are small enough, else None."""
    if rows.sparse:
        # Prepared CSR rows are no larger than the input.
        return rows.make(0, rows.n, rows.dtype)
    if rows.n * rows.matrix.d * np.dtype(rows.dtype).itemsize > RESIDENT_BYTES:
        return None
    whole = module(rows.backend).zeros((rows.n, rows.matrix.d), rows.dtype, rows.device)
    for start, stop in rows.matrix.blocks(block_rows(rows.matrix.d)):
        whole[start:stop] = rows.make(start, stop, rows.dtype)
    return whole


def block_rows(d: int) -> int:
    """Rows of a block in a pass over the rows."""
    return max(1, BLOCK_ENTRIES // d)


def _norms(matrix: Matrix, backend: Backend) -> NDArray[np.float64]:
    """Euclidean norm of each row in float64, NaN where a row is not finite."""
    if matrix.kind == "sparse":
        return _sparse_norms(matrix)
    kernel, memory, device = load("unit_rows", backend), module(backend), _device(matrix, backend)
    norms = np.empty(matrix.n)
    for start, stop in matrix.blocks(block_rows(matrix.d)):
        x = _as_given(matrix, backend, start, stop)
        norms[start:stop] = memory.to_numpy(kernel(x, memory.zeros(tuple(x.shape), "float64", device)))
    return norms


def _sparse_norms(matrix: Matrix) -> NDArray[np.float64]:
    _, _, norms, scale = _scaled(matrix.rows(0, matrix.n))
    with np.errstate(over="ignore"):
        return norms * scale


def _scaled(block: Any) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Entries of a CSR block over a power of two near the largest of their row, so that squares stay in the range.

    Returns
    -------
    scaled, row_of : (nnz,)
        The entries, and the rows that they belong to.
    norms, scale : (n,)
        Norms of the scaled rows, NaN where a row is not finite; and what the rows were divided by.
    """
    n = block.shape[0]
    data = block.data.astype(np.float64)
    row_of = np.repeat(np.arange(n), np.diff(block.indptr))
    largest = np.zeros(n)
    with np.errstate(invalid="ignore"):
        np.maximum.at(largest, row_of, np.abs(data))
        finite = np.isfinite(largest)
        scale = np.exp2(np.frexp(np.where(finite & (largest > 0), largest, 1.0))[1].astype(np.float64) - 1)
        scaled = data / scale[row_of]
        squares = np.bincount(row_of, weights=scaled**2, minlength=n)
    return scaled, row_of, np.where(finite, np.sqrt(squares), np.nan), scale


def unit_rows(matrix: Matrix, backend: Backend, dtype: str, on_invalid: str) -> Rows:
    """Rows over their norms; rows without a direction are refused or dropped.

    Raises
    ------
    InvalidInputError
        Rows are not finite or zero, and ``on_invalid="raise"``; or fewer than two rows are left.
    """
    norms = _norms(matrix, backend)
    unknown, zero = np.isnan(norms), norms == 0
    if on_invalid == "raise":
        reject_rows(matrix, unknown, "are not finite", on_invalid, 2)
        reject_rows(matrix, zero, "are zero and have no direction", on_invalid, 2)
    kept = reject_rows(matrix, unknown | zero, "are not finite or zero", on_invalid, 2)
    return _with_resident(Rows(kept, backend, dtype, "unit", np.ones(kept.n)))


def centred_rows(matrix: Matrix, backend: Backend, dtype: str, on_invalid: str) -> Rows:
    """Rows less their mean, scaled by a power of two to norms of at most 1.

    The mean is taken relative to the first row, so that identical rows become exactly zero and a far-away origin costs
    no digits.

    Raises
    ------
    InvalidInputError
        Rows are not finite, and ``on_invalid="raise"``; or fewer than two rows are left; or the rows are further apart
        than float64 can say.
    """
    norms = _norms(matrix, backend)
    unknown = np.isnan(norms)
    kept = reject_rows(matrix, unknown, "are not finite", on_invalid, 2)
    scale = _power_of_two(float(norms[~unknown].max()))
    if matrix.kind == "sparse":
        squares = (norms[~unknown] / scale) ** 2
        _reject_distant(kept, squares)
        return _with_resident(Rows(kept, backend, dtype, "centred", squares, scale, np.zeros(kept.d)))
    origin = module(backend).to_numpy(_as_given(kept, backend, 0, 1))[0].astype(np.float64)
    shifted = Rows(kept, backend, "float64", "centred", np.empty(0), scale, origin)
    total = np.zeros(kept.d)
    for start, stop in kept.blocks(block_rows(kept.d)):
        total += module(backend).to_numpy(shifted.make(start, stop, "float64").sum(0))
    mean = origin + total / kept.n * scale
    centred = Rows(kept, backend, "float64", "centred", np.empty(0), scale, mean)
    squares = np.empty(kept.n)
    for start, stop in kept.blocks(block_rows(kept.d)):
        block = centred.make(start, stop, "float64")
        squares[start:stop] = module(backend).to_numpy((block * block).sum(1))
    _reject_distant(kept, squares)
    further = _power_of_two(math.sqrt(float(squares.max())))
    return _with_resident(Rows(kept, backend, dtype, "centred", squares / further**2, scale * further, mean))


def _reject_distant(matrix: Matrix, squares: NDArray[np.float64]) -> None:
    reject_rows(matrix, ~np.isfinite(squares), "lie further from the mean than float64 can say", "raise", 2)


def _power_of_two(value: float) -> float:
    """Power of two just above a norm, or the largest there is; 1 for a norm of 0."""
    if math.isinf(value):
        return 2.0**1023
    return math.ldexp(1.0, min(math.frexp(value)[1], 1023)) if value > 0 else 1.0


def _with_resident(rows: Rows) -> Rows:
    return replace(rows, resident=_resident(rows))


def pair_cosines_by_row(rows: Rows) -> tuple[float, NDArray[np.float64]]:
    """Mean cosine over all distinct pairs, and each row's mean cosine with the others, in one pass each.

    Returns
    -------
    mean : float
        (|s|² - n) / (n (n - 1)) with s the sum of the unit rows, in float64 throughout.
    by_row : (n,) float64
        (x̂_i · s - 1) / (n - 1).
    """
    n, memory = rows.n, module(rows.backend)
    size = block_rows(rows.matrix.d)
    total: Any = 0.0
    for start, stop in rows.matrix.blocks(size):
        total = total + rows.make(start, stop, "float64").sum(0)
    by_row = np.empty(n)
    for start, stop in rows.matrix.blocks(size):
        by_row[start:stop] = memory.to_numpy(rows.make(start, stop, "float64") @ total)
    squared = float((total * total).sum())
    return (squared - n) / (n * (n - 1)), (by_row - 1) / (n - 1)


def squared_distance_moments(rows: Rows) -> tuple[float, float]:
    """Mean and variance of the squared Euclidean distance over all distinct pairs, without the pairs.

    Computed from S1 = Σ a_i, S2 = Σ a_i², t = Σ y_i, v = Σ a_i y_i and M = Σ y_i y_iᵀ (a_i = |y_i|²) in one float64
    pass, or from the smaller of YᵀY and YYᵀ, whose Frobenius norms agree. O(n d min(n, d)).

    Returns
    -------
    mean, variance : float
        In units of ``rows.scale``, squared and to the fourth power: in those of the data they could leave float64.
    """
    n, d = rows.n, rows.matrix.d
    memory = module(rows.backend)
    by_columns = d <= n and not rows.sparse
    # Products of blocks with blocks want larger ones: each is made again for every block beside it.
    size = block_rows(d) if by_columns or rows.sparse else max(1, WIDE_BLOCK_ENTRIES // d)
    s1 = s2 = frobenius = 0.0
    t: Any = 0.0
    v: Any = 0.0
    second: Any = 0.0
    others = rows.make(0, n, "float64").T if rows.sparse else None
    for start, stop in rows.matrix.blocks(size):
        y = rows.make(start, stop, "float64")
        a = memory.to_numpy((y * y).sum(1)).astype(np.float64)
        s1, s2 = s1 + float(a.sum()), s2 + float((a * a).sum())
        weights = memory.as_working(a, "float64", rows.device)
        t, v = t + y.sum(0), v + y.T @ weights
        if by_columns:
            second = second + y.T @ y
        else:
            frobenius += _squared_products(rows, y, start, others, size)
    if by_columns:
        frobenius = float((second * second).sum())
    pairs = n * (n - 1)
    total = 2 * n * s1 - 2 * float((t * t).sum())
    fourth = 2 * n * s2 + 2 * s1 * s1 + 4 * frobenius - 8 * float((v * t).sum())
    mean = total / pairs
    variance = max(fourth / pairs - mean * mean, 0.0)
    return mean, variance


def _squared_products(rows: Rows, y: Any, first: int, others: Any, size: int) -> float:
    """Sum of the squared inner products of a block with all rows, counting each pair of blocks once for both.

    `others` are all rows, transposed, where they are sparse; dense ones are made block by block.
    """
    if others is not None:
        return float(np.square((y @ others).data).sum())
    total = float(((y @ y.T) ** 2).sum())
    for start in range(first + size, rows.n, size):
        beside = rows.make(start, min(start + size, rows.n), "float64")
        total += 2 * float(((y @ beside.T) ** 2).sum())
    return total
