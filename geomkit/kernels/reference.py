"""The definition of every kernel: plain NumPy, in float64. Slow, short, and what the other backends are held to."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def zeros(shape: tuple[int, ...], dtype: str, device: object = None) -> NDArray[Any]:  # noqa: ARG001
    """Zero-filled working memory."""
    return np.zeros(shape, dtype)


def to_numpy(a: NDArray[Any]) -> NDArray[Any]:
    """Identity: working memory is NumPy already."""
    return a


def as_working(block: NDArray[Any], dtype: str, device: object = None) -> NDArray[Any]:  # noqa: ARG001
    """C-ordered rows in `dtype`; a copy only where one is needed."""
    return np.ascontiguousarray(block, dtype)


def product(dtype: str, operations: float) -> str:  # noqa: ARG001
    """Name of the matrix product that runs."""
    return "numpy"


def unit_rows(x: Array, out: Array) -> Array:
    """Divide each row by its norm; NaN marks a row that is not finite, and a zero row stays zero with norm 0."""
    largest = np.abs(x).max(axis=1)
    finite = np.isfinite(largest)
    # A power of two near the largest entry: dividing by it is exact and keeps squares inside the range.
    scale = np.exp2(np.frexp(np.where(finite & (largest > 0), largest, 1.0))[1].astype(np.float64) - 1)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = x / scale[:, None]
        norms = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))
        out[:] = scaled / np.where(norms > 0, norms, 1.0)[:, None]
        return np.where(finite, norms * scale, np.nan)


def centred_rows(x: Array, mean: Array, scale: float, out: Array) -> Array:
    """Subtract `mean`, divide by `scale`, and return each row's squared norm; NaN marks a row that is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        out[:] = (x - mean) / scale
        squares = np.einsum("ij,ij->i", out, out)
    return np.where(np.isfinite(squares), squares, np.nan)


def gram(a: Array, b: Array, out: Array) -> None:
    """All inner products of the rows of `a` with the rows of `b`."""
    np.matmul(a, b.T, out=out)


def euclidean(a: Array, b: Array, out: Array, a_squares: Array, b_squares: Array) -> None:
    """Euclidean distances; the reference takes differences, which the squared norms are only a short cut for."""
    del a_squares, b_squares
    for i, row in enumerate(a):
        out[i] = np.sqrt(np.square(row - b).sum(axis=1))


def minkowski(a: Array, b: Array, out: Array, p: float) -> None:
    """Power means of the coordinate differences: the Minkowski distance over d^(1/p), and the largest for p = inf.

    The mean instead of the sum keeps every intermediate between the least and the largest difference, so that no p
    overflows.
    """
    for i, row in enumerate(a):
        differences = np.abs(row - b)
        largest = differences.max(axis=1)
        if np.isinf(p):
            out[i] = largest
        else:
            shares = differences / np.where(largest > 0, largest, 1.0)[:, None]
            out[i] = largest * np.mean(shares**p, axis=1) ** (1 / p)


def _seen(tile: NDArray[Any], *, diagonal: bool) -> NDArray[np.bool_]:
    return np.triu(np.ones(tile.shape, bool), 1) if diagonal else np.ones(tile.shape, bool)


def tally(tile: Array, diagonal: bool, centre: float, counts: NDArray[np.int64], sums: Array, extremes: Array) -> None:
    """Count the bfloat16 bit patterns of ``tile - centre``; add its power sums; widen the extremes.

    `counts` is four banks of 65,536, to be added up; which of them a backend uses is its own affair. `sums` are the
    first four powers of ``tile - centre``, `extremes` the least and the largest entry of the tile itself.
    """
    values = tile[_seen(tile, diagonal=diagonal)]
    if values.size == 0:
        return
    shifted = values - centre
    bits = shifted.astype(np.float32).view(np.uint32)
    # Round to nearest on the magnitude (ties away from zero). In 64 bits, since the largest pattern would wrap.
    patterns = ((bits.astype(np.int64) + 0x8000) >> 16) & 0xFFFF
    counts[0] += np.bincount(patterns, minlength=65536)
    for k in range(4):
        sums[k] += np.sum(shifted ** (k + 1))
    extremes[0] = min(extremes[0], values.min())
    extremes[1] = max(extremes[1], values.max())


def row_ranges(tile: Array, diagonal: bool, rows: Array, cols: Array) -> None:
    """Update (least, largest, sum) of each row of the full matrix of pairs from one tile, for both triangles."""
    seen = _seen(tile, diagonal=diagonal)
    for state, axis in ((rows, 1), (cols, 0)):
        np.minimum(state[0], np.where(seen, tile, np.inf).min(axis=axis), out=state[0])
        np.maximum(state[1], np.where(seen, tile, -np.inf).max(axis=axis), out=state[1])
        state[2] += np.where(seen, tile, 0.0).sum(axis=axis)
