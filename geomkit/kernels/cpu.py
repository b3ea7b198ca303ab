"""The CPU kernels: Numba beside the best matrix product of the machine. `cpu` and `cpu_sparse` alone import numba.

Every compiled function is ``nogil`` and single-threaded: the sweep runs one Python thread a core around them. Sums may
be reassociated, so that they vectorise, and a NaN stays a NaN. Compiled code is cached on disk across processes.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

import geomkit.kernels.cpu_cache  # noqa: F401 -- it says when kernels are compiled
from geomkit.kernels.cpu_product import adopt, choices, gram, product, storage

__all__ = [
    "FINITE", "SUMS", "adopt", "as_working", "centred_rows", "choices", "count", "distances_in_place",
    "euclidean", "gram", "product", "row_ranges", "storage", "tally", "to_numpy", "unit_rows", "widened",
    "zeros",
]  # fmt: skip

Array = NDArray[Any]

# Sums may be reordered and contracted; NaN and infinity keep their meaning.
SUMS = {"reassoc", "contract"}
# Kernels behind `arrays.py` see finite values only, which lets least and largest vectorise.
FINITE = {"reassoc", "contract", "nnan", "nsz"}


COUNTER = "uint32"
"""Dtype of the banks that a tally counts in."""

KEY = {"bfloat16": "int16"}
"""Dtype of the keys of candidates, where it is not int32."""

FUSED = False
"""Whether tiles are named, for kernels to compute, instead of computed."""

COLUMNS = 1
"""Rows are padded with zeros to a multiple of this many columns."""


def entries(dtype: str) -> str:
    """Dtype of the entries of tiles of rows of this dtype."""
    return dtype


def places(keep: int) -> int:
    """Return how many places a list needs in which the best `keep` are looked for."""
    return 2 * keep


def zeros(shape: tuple[int, ...], dtype: str, device: object = None) -> Array:  # noqa: ARG001
    """Zero-filled working memory; bfloat16 is kept as its bits, in uint16."""
    return np.zeros(shape, "uint16" if dtype == "bfloat16" else dtype)


def widened(bits: Array) -> Array:
    """Return the float32 values of bfloat16 bits."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_numpy(a: Array) -> Array:
    """Identity: working memory is NumPy already."""
    return a


def as_working(block: Array, dtype: str, device: object = None) -> Array:  # noqa: ARG001
    """C-ordered rows in `dtype`; a copy only where one is needed."""
    return np.ascontiguousarray(block, dtype)


@njit(nogil=True, cache=True, fastmath=SUMS)
def unit_rows(x: Array, out: Array) -> Array:
    """Divide each row by its norm; NaN marks a row that is not finite, and a zero row stays zero with norm 0."""
    n, d = x.shape
    norms = np.empty(n)
    for i in range(n):
        total = 0.0
        for t in range(d):
            total += np.float64(x[i, t]) * np.float64(x[i, t])
        scale = 1.0
        if not (1e-280 < total < 1e280):
            # Squares left the range (float64 input only) or the row is zero or not finite: scale by a power of two.
            largest = 0.0
            finite = True
            for t in range(d):
                value = abs(np.float64(x[i, t]))
                if not value <= 1.7976931348623157e308:
                    finite = False
                largest = max(largest, value)
            if not finite:
                norms[i] = np.nan
                out[i] = 0
                continue
            if largest == 0.0:
                norms[i] = 0.0
                out[i] = 0
                continue
            # The logarithm of the largest numbers rounds up to 1024, and 2^1024 is not a number.
            scale = 2.0 ** min(np.floor(np.log2(largest)), 1023.0)
            total = 0.0
            for t in range(d):
                value = np.float64(x[i, t]) / scale
                total += value * value
        norm = np.sqrt(total)
        norms[i] = norm * scale
        for t in range(d):
            out[i, t] = np.float64(x[i, t]) / scale / norm
    return norms


@njit(nogil=True, cache=True, fastmath=SUMS)
def centred_rows(x: Array, mean: Array, scale: float, out: Array) -> Array:
    """Subtract `mean`, divide by `scale`, and return each row's squared norm; NaN marks a row that is not finite."""
    n, d = x.shape
    squares = np.empty(n)
    for i in range(n):
        total = 0.0
        for t in range(d):
            out[i, t] = (np.float64(x[i, t]) - mean[t]) / scale
            value = np.float64(out[i, t])
            total += value * value
        squares[i] = total if total <= 1.7976931348623157e308 else np.nan
    return squares


@njit(nogil=True, cache=True, fastmath=FINITE)
def distances_in_place(tile: Array, a_squares: Array, b_squares: Array) -> None:
    """Turn a tile of products into distances; a negative square is rounding and becomes 0."""
    zero, two = tile.dtype.type(0), tile.dtype.type(2)
    for i in range(tile.shape[0]):
        own = a_squares[i]
        for j in range(tile.shape[1]):
            tile[i, j] = np.sqrt(max(own + b_squares[j] - two * tile[i, j], zero))


def euclidean(a: Array, b: Array, out: Array, a_squares: Array, b_squares: Array) -> None:
    """Euclidean distances through the product; a negative square is rounding and becomes 0."""
    gram(a, b, out)
    distances_in_place(out, a_squares.astype(out.dtype), b_squares.astype(out.dtype))


@njit(nogil=True, cache=True, fastmath=FINITE)
def _tally(
    tile: Array, diagonal: bool, centre: float, b0: Array, b1: Array, b2: Array, b3: Array, sums: Array, extremes: Array
) -> None:
    rows, cols = tile.shape
    kind = tile.dtype.type
    middle, zero = kind(centre), kind(0)
    shifted, patterns = np.empty(cols, np.float32), np.empty(cols, np.uint16)
    bits = shifted.view(np.uint32)
    half, shift = np.uint32(0x8000), np.uint32(16)
    # Least and largest by column: LLVM vectorises that, and not one running least for the whole tile.
    least, largest = np.full(cols, kind(np.inf)), np.full(cols, kind(-np.inf))
    for i in range(rows):
        # Slices, so that every index counts up from 0: LLVM then vectorises, needing no check for negative ones.
        first = i + 1 if diagonal else 0
        row, low, high = tile[i, first:], least[first:], largest[first:]
        size = row.size
        one, two, three, four = zero, zero, zero, zero
        for j in range(size):
            e = row[j] - middle
            shifted[j] = e
            square = e * e
            one += e
            two += square
            three += square * e
            four += square * square
        sums[0] += one
        sums[1] += two
        sums[2] += three
        sums[3] += four
        for j in range(size):
            low[j] = min(low[j], row[j])
            high[j] = max(high[j], row[j])
        # Round to the upper 16 bits, ties away from zero.
        for j in range(size):
            patterns[j] = (bits[j] + half) >> shift
        # Four banks: equal neighbours would otherwise wait for each other's increment.
        steps = size // 4
        for step in range(steps):
            j = 4 * step
            b0[patterns[j]] += 1
            b1[patterns[j + 1]] += 1
            b2[patterns[j + 2]] += 1
            b3[patterns[j + 3]] += 1
        for j in range(4 * steps, size):
            b0[patterns[j]] += 1
    for j in range(cols):
        extremes[0] = min(extremes[0], np.float64(least[j]))
        extremes[1] = max(extremes[1], np.float64(largest[j]))


@njit(nogil=True, cache=True)
def _count(tile: Array, diagonal: bool, b0: Array, b1: Array, b2: Array, b3: Array) -> None:
    for i in range(tile.shape[0]):
        row = tile[i, i + 1 if diagonal else 0 :]
        steps = row.size // 4
        for step in range(steps):
            j = 4 * step
            b0[row[j]] += 1
            b1[row[j + 1]] += 1
            b2[row[j + 2]] += 1
            b3[row[j + 3]] += 1
        for j in range(4 * steps, row.size):
            b0[row[j]] += 1


def count(tile: Array, diagonal: bool, counts: Array) -> None:
    """Count the bit patterns of a bfloat16 tile."""
    _count(tile, diagonal, counts[0], counts[1], counts[2], counts[3])


def tally(tile: Array, diagonal: bool, centre: float, counts: Array, sums: Array, extremes: Array) -> None:
    """Count the bfloat16 bit patterns of ``tile - centre``; add its power sums; widen the extremes."""
    _tally(tile, diagonal, float(centre), counts[0], counts[1], counts[2], counts[3], sums, extremes)


@njit(nogil=True, cache=True, fastmath=FINITE)
def _row_ranges(tile: Array, bits: Array, diagonal: bool, rows: Array, cols: Array) -> None:
    # The bit patterns of non-negative floats compare like integers, whose least and largest LLVM vectorises.
    n, m = tile.shape
    found = np.empty(2, bits.dtype)
    values = found.view(tile.dtype)
    kind = tile.dtype.type
    least, largest, total = np.full(m, kind(np.inf)), np.full(m, kind(-np.inf)), np.zeros(m)
    for i in range(n):
        first = i + 1 if diagonal else 0
        row, low, high, sums = tile[i, first:], least[first:], largest[first:], total[first:]
        size = row.size
        own = kind(0)
        for j in range(size):
            own += row[j]
        rows[2, i] += own
        for j in range(size):
            sums[j] += row[j]
        for j in range(size):
            low[j] = min(low[j], row[j])
            high[j] = max(high[j], row[j])
        if size > 0:
            keys = bits[i, first:]
            smallest = largest_key = keys[0]
            for j in range(size):
                smallest, largest_key = min(smallest, keys[j]), max(largest_key, keys[j])
            found[0], found[1] = smallest, largest_key
            rows[0, i] = min(rows[0, i], np.float64(values[0]))
            rows[1, i] = max(rows[1, i], np.float64(values[1]))
    for j in range(m):
        cols[0, j] = min(cols[0, j], np.float64(least[j]))
        cols[1, j] = max(cols[1, j], np.float64(largest[j]))
        cols[2, j] += total[j]


def row_ranges(tile: Array, diagonal: bool, rows: Array, cols: Array) -> None:
    """Update (least, largest, sum) of each row of the full matrix of pairs from one tile, for both triangles.

    Entries must not be negative: distances.
    """
    _row_ranges(tile, tile.view(f"int{8 * tile.itemsize}"), diagonal, rows, cols)
