"""The CPU kernels of one pass over rows: norms, sums and shifted rows in float64, and the products of their columns.

As in `cpu`, every compiled function is ``nogil`` and single-threaded, and sums may be reassociated. Differences from
an origin may not: that equal rows come out as exactly zero rests on their order, so they have functions of their own,
whose instructions keep IEEE arithmetic where they are inlined.
"""

import ctypes
import math
from typing import Any

import numpy as np
from numba import njit
from numba.extending import get_cython_function_address
from numpy.typing import NDArray

import geomkit.kernels.cpu_cache  # noqa: F401 -- it says when kernels are compiled

Array = NDArray[Any]

# Sums may be reordered and contracted; NaN and infinity keep their meaning.
SUMS = {"reassoc", "contract"}

_INT, _DOUBLE = ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_double)

# SciPy's BLAS through its Cython interface: `scipy.linalg.blas` holds the interpreter's lock, a ctypes call lets go.
_dsyrk = ctypes.CFUNCTYPE(
    None, ctypes.c_char_p, ctypes.c_char_p, _INT, _INT, _DOUBLE, ctypes.c_void_p, _INT, _DOUBLE, ctypes.c_void_p, _INT
)(get_cython_function_address("scipy.linalg.cython_blas", "dsyrk"))


@njit(nogil=True, cache=True, fastmath=SUMS)
def _norm(values: Array) -> tuple[float, float, float]:
    """Norm, and the two factors that bring it to 1; NaN for values that are not finite, and factors 0 for a norm of 0.

    The first factor is a power of two, and 1 unless squares leave the range (float64 input only).
    """
    total = 0.0
    for t in range(values.size):
        total += np.float64(values[t]) * np.float64(values[t])
    if 1e-280 < total < 1e280:
        norm = math.sqrt(total)
        return norm, 1.0, 1.0 / norm
    largest = 0.0
    for t in range(values.size):
        value = abs(np.float64(values[t]))
        if not value <= 1.7976931348623157e308:
            return np.nan, 0.0, 0.0
        largest = max(largest, value)
    if largest == 0.0:
        return 0.0, 0.0, 0.0
    # The reciprocal of a smaller power of two than this is not a number.
    exponent = max(math.frexp(largest)[1] - 1, -1000)
    factor = math.ldexp(1.0, -exponent)
    total = 0.0
    for t in range(values.size):
        value = np.float64(values[t]) * factor
        total += value * value
    norm = math.sqrt(total)
    return norm / factor, factor, 1.0 / norm


@njit(nogil=True, cache=True)
def row_norms(x: Array, factors: Array) -> Array:
    """Euclidean norms of rows, and the two `factors`, (2, n), that bring each row to a norm of 1.

    A norm is NaN where a row is not finite, and infinite where float64 cannot say it; a zero row has norm 0.
    """
    norms = np.empty(x.shape[0])
    for i in range(x.shape[0]):
        norms[i], factors[0, i], factors[1, i] = _norm(x[i])
    return norms


@njit(nogil=True, cache=True)
def sparse_row_norms(starts: Array, values: Array, factors: Array) -> Array:
    """`row_norms` of CSR rows."""
    norms = np.empty(starts.size - 1)
    for i in range(norms.size):
        norms[i], factors[0, i], factors[1, i] = _norm(values[starts[i] : starts[i + 1]])
    return norms


# Not to inherit their callers' flags, `fastmath=False` must be said.
@njit(nogil=True, cache=True, fastmath=False)
def _apart(value: float, first: float, second: float, origin: float) -> float:
    # One factor at a time: their product may leave the range.
    return value * first * second - origin


# One output a loop: LLVM proves no more than a few arrays apart, and vectorises only then.
@njit(nogil=True, cache=True, fastmath=SUMS)
def _add(row: Array, first: float, second: float, origin: Array, out: Array) -> None:
    for t in range(row.size):
        out[t] += _apart(np.float64(row[t]), first, second, origin[t])


@njit(nogil=True, cache=True, fastmath=SUMS)
def _shift(row: Array, first: float, second: float, origin: Array, centre: Array, out: Array) -> float:
    total = 0.0
    for t in range(row.size):
        difference = _apart(np.float64(row[t]), first, second, origin[t]) - centre[t]
        out[t] = difference
        total += difference * difference
    return total


@njit(nogil=True, cache=True)
def row_sums(x: Array, scale: float, factors: Array, origins: Array, out: Array) -> None:
    """Add up rows as differences from an origin: ``x * scale`` into ``out[0]``, rows over their norms into ``out[1]``.

    `origins` and `out` are (2, d).
    """
    for i in range(x.shape[0]):
        _add(x[i], scale, 1.0, origins[0], out[0])
        _add(x[i], factors[0, i], factors[1, i], origins[1], out[1])


@njit(nogil=True, cache=True)
def shifted_rows(
    x: Array, scale: float, factors: Array, origins: Array, centres: Array, plain: Array, unit: Array, squares: Array
) -> None:
    """Write the differences of `row_sums` less `centres`, (2, d), to `plain` and `unit`; squared norms to `squares`."""
    for i in range(x.shape[0]):
        squares[0, i] = _shift(x[i], scale, 1.0, origins[0], centres[0], plain[i])
        squares[1, i] = _shift(x[i], factors[0, i], factors[1, i], origins[1], centres[1], unit[i])


def add_products(y: Array, out: Array) -> None:
    """Add ``y.T @ y`` to the lower triangle of `out`; both C-ordered float64. What lies above it is left alone."""
    size, length, one = ctypes.c_int(out.shape[0]), ctypes.c_int(y.shape[0]), ctypes.c_double(1.0)
    # BLAS counts along columns: our lower triangle is its upper one, and our rows are its columns.
    _dsyrk(b"U", b"N", size, length, one, y.ctypes.data, size, one, out.ctypes.data, size)


@njit(nogil=True, cache=True)
def add_sparse_products(starts: Array, columns: Array, values: Array, out: Array) -> None:
    """Add ``y.T @ y`` of CSR rows with sorted columns to the lower triangle of `out`: stored entries alone."""
    for i in range(starts.size - 1):
        for at in range(starts[i], starts[i + 1]):
            row, value = out[columns[at]], values[at]
            for other in range(starts[i], at + 1):
                row[columns[other]] += value * values[other]
