"""The CPU kernels: Numba beside the best matrix product of the machine. `cpu` and `cpu_sparse` alone import numba.

Every compiled function is ``nogil`` and single-threaded: the sweep runs one Python thread a core around them. Sums may
be reassociated, so that they vectorise, and a NaN stays a NaN. Compiled code is cached on disk across processes.
"""

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

Array = NDArray[Any]

# Sums may be reordered and contracted; NaN and infinity keep their meaning.
SUMS = {"reassoc", "contract"}
# Kernels behind `arrays.py` see finite values only, which lets least and largest vectorise.
FINITE = {"reassoc", "contract", "nnan", "nsz"}


def zeros(shape: tuple[int, ...], dtype: str, device: object = None) -> Array:  # noqa: ARG001
    """Zero-filled working memory."""
    return np.zeros(shape, dtype)


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


def _numpy_product(a: Array, b: Array, out: Array) -> None:
    # The same memory twice would make NumPy call syrk and mirror its result, several times slower than the product.
    np.matmul(a, (b.copy() if a.ctypes.data == b.ctypes.data else b).T, out=out)


def _torch_product(a: Array, b: Array, out: Array) -> None:
    import torch

    torch.mm(torch.from_numpy(a), torch.from_numpy(b).T, out=torch.from_numpy(out))


PRODUCTS: dict[str, Callable[[Array, Array, Array], None]] = {"numpy": _numpy_product, "torch": _torch_product}
"""The matrix products that this backend may use."""

_WORTH_MEASURING = 1e11
"""Operations from which the choice of a product repays importing torch and timing both."""

_chosen: dict[str, str] = {}


def product(dtype: str, operations: float) -> str:
    """Choose the matrix product for this much work and say its name.

    NumPy's and torch's BLAS differ by up to a factor of two, either way round, between processors. The first large
    job of a process times both on one tile, single-threaded as the sweep runs them; smaller ones before it use NumPy.
    """
    if dtype not in _chosen:
        if operations < _WORTH_MEASURING or importlib.util.find_spec("torch") is None:
            return "numpy"
        _chosen[dtype] = _fastest(dtype)
    return _chosen[dtype]


def _fastest(dtype: str) -> str:
    import torch

    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 512, 384)).astype(dtype)
    out = np.empty((512, 512), dtype)
    took: dict[str, list[float]] = {name: [] for name in PRODUCTS}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, "blas"):
            for _ in range(9):
                for name, multiply in PRODUCTS.items():
                    start = time.perf_counter()
                    multiply(a, b, out)
                    took[name].append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return min(took, key=lambda name: sorted(took[name])[len(took[name]) // 2])


def gram(a: Array, b: Array, out: Array) -> None:
    """All inner products of the rows of `a` with the rows of `b`."""
    PRODUCTS[_chosen.get(out.dtype.name, "numpy")](a, b, out)


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


# Coordinates and rows at a time in the loops over pairs: 64 rows of 1024 float32 stay in the second-level cache while
# all rows of the other block pass over them.
_COORDINATES, _ROWS = 1024, 64


@njit(nogil=True, cache=True, fastmath=FINITE)
def _means(a: Array, b: Array, out: Array, p: float) -> None:  # noqa: PLR0912
    """Power means for p = 0.5, 1 and 2, whose powers and roots need no logarithm."""
    kind, d = out.dtype.type, a.shape[1]
    out[:] = 0
    for t0 in range(0, d, _COORDINATES):
        for j0 in range(0, b.shape[0], _ROWS):
            for i in range(a.shape[0]):
                own = a[i, t0 : t0 + _COORDINATES]
                for j in range(j0, min(j0 + _ROWS, b.shape[0])):
                    other = b[j, t0 : t0 + _COORDINATES]
                    total = kind(0)
                    if p == 1.0:
                        for t in range(own.size):
                            total += abs(own[t] - other[t])
                    elif p == 2.0:
                        for t in range(own.size):
                            difference = own[t] - other[t]
                            total += difference * difference
                    else:
                        for t in range(own.size):
                            total += np.sqrt(abs(own[t] - other[t]))
                    out[i, j] += total
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            mean = out[i, j] / kind(d)
            if p == 2.0:
                mean = np.sqrt(mean)
            elif p == 0.5:
                mean = mean * mean
            out[i, j] = mean


@njit(nogil=True, cache=True, fastmath=FINITE)
def _chebyshev(a: Array, b: Array, out: Array, differences: Array, bits: Array) -> None:
    # The bit patterns of non-negative floats compare like integers, whose largest LLVM vectorises.
    found = np.empty(1, bits.dtype)
    value = found.view(out.dtype)
    out[:] = 0
    for t0 in range(0, a.shape[1], _COORDINATES):
        for j0 in range(0, b.shape[0], _ROWS):
            for i in range(a.shape[0]):
                own = a[i, t0 : t0 + _COORDINATES]
                for j in range(j0, min(j0 + _ROWS, b.shape[0])):
                    other = b[j, t0 : t0 + _COORDINATES]
                    for t in range(own.size):
                        differences[t] = abs(own[t] - other[t])
                    largest = bits[0]
                    for t in range(own.size):
                        largest = max(largest, bits[t])
                    found[0] = largest
                    out[i, j] = max(out[i, j], value[0])


@njit(nogil=True, cache=True, fastmath=FINITE)
def _powers(a: Array, b: Array, out: Array, p: float) -> None:
    for i in range(a.shape[0]):
        for j in range(b.shape[0]):
            largest = 0.0
            for t in range(a.shape[1]):
                largest = max(largest, np.float64(abs(a[i, t] - b[j, t])))
            total = 0.0
            if largest > 0.0:
                for t in range(a.shape[1]):
                    total += (np.float64(abs(a[i, t] - b[j, t])) / largest) ** p
            out[i, j] = largest * (total / a.shape[1]) ** (1 / p)


def minkowski(a: Array, b: Array, out: Array, p: float) -> None:
    """Power means of the coordinate differences: the Minkowski distance over d^(1/p), and the largest for p = inf."""
    if np.isinf(p):
        differences = np.empty(_COORDINATES, out.dtype)
        _chebyshev(a, b, out, differences, differences.view(f"int{8 * out.itemsize}"))
    elif p in {0.5, 1.0, 2.0}:
        _means(a, b, out, float(p))
    else:
        _powers(a, b, out, p)


@njit(nogil=True, cache=True, fastmath=FINITE)
def _tally(
    tile: Array, diagonal: bool, centre: float, b0: Array, b1: Array, b2: Array, b3: Array, sums: Array, extremes: Array
) -> None:
    rows, cols = tile.shape
    kind = tile.dtype.type
    middle, zero = kind(centre), kind(0)
    shifted = np.empty(cols, np.float32)
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
        # Four banks: equal neighbours would otherwise wait for each other's increment.
        steps = size // 4
        for step in range(steps):
            j = 4 * step
            b0[(bits[j] + half) >> shift] += 1
            b1[(bits[j + 1] + half) >> shift] += 1
            b2[(bits[j + 2] + half) >> shift] += 1
            b3[(bits[j + 3] + half) >> shift] += 1
        for j in range(4 * steps, size):
            b0[(bits[j] + half) >> shift] += 1
    for j in range(cols):
        extremes[0] = min(extremes[0], np.float64(least[j]))
        extremes[1] = max(extremes[1], np.float64(largest[j]))


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
