"""Power means of coordinate differences on the CPU, for every order.

Whole and half-whole orders that are often asked for are multiplied out, four rows of one block at a time, so that a row
of the other is loaded once for all of them: a relative error of ``(min(d, 1024) + 3) u / p + 3 u`` to first order, with
u the unit roundoff of the tile. Means of powers that left the numbers are computed again, slowly. `cpu_powers` has
every other order, and the roots of 3/2, 5/2 and 3.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from geomkit.kernels import cpu_powers
from geomkit.kernels.cpu import FINITE

# Numba looks at no file but this for what it has cached: whoever changes `larger` empties the cache.
from geomkit.kernels.cpu_powers import larger

Array = NDArray[Any]

_COORDINATES = 1024
"""Coordinates that one sum in the dtype of the tile takes in."""

_CACHED = 2**18
"""Bytes of rows that stay in the second-level cache while the rows of the other block pass over them."""

_SQUARES = {0.5, 1.0, 2.0, 4.0}
_MULTIPLIED = _SQUARES | {1.5, 2.5, 3.0}


@njit(fastmath=FINITE)
def _square(x: Any) -> Any:
    return x * x


@njit(fastmath=FINITE)
def _cube(x: Any) -> Any:
    return x * (x * x)


@njit(fastmath=FINITE)
def _rooted(x: Any, order: float) -> Any:
    # The root takes longer than either product.
    return (x if order == 1.5 else x * x) * np.sqrt(x)


@njit(nogil=True, cache=True, fastmath=FINITE)
def _means(a: Array, b: Array, out: Array, order: float, one: Any, d: int, low: float, high: float) -> int:  # noqa: PLR0912, PLR0915
    """Power means but for a root that no square gives, and -1 for the doubtful, whose number is returned."""
    doubtful = 0
    n, pieces, width = a.shape
    step = max(1, _CACHED // (pieces * width * a.itemsize))
    sums = np.empty((4, step))
    for j0 in range(0, b.shape[0], step):
        m = min(step, b.shape[0] - j0)
        for i in range(0, n, 4):
            # Fewer than four rows are left at the end: the last stands in for those that are missing.
            i1, i2, i3 = min(i + 1, n - 1), min(i + 2, n - 1), min(i + 3, n - 1)
            sums[:] = 0
            for k in range(pieces):
                for j in range(m):
                    s0 = s1 = s2 = s3 = one - one
                    if order == 1:
                        # Multiplying by 1 moves the addition to units that would stand idle.
                        for t in range(width):
                            s0 += one * abs(a[i, k, t] - b[j0 + j, k, t])
                            s1 += one * abs(a[i1, k, t] - b[j0 + j, k, t])
                            s2 += one * abs(a[i2, k, t] - b[j0 + j, k, t])
                            s3 += one * abs(a[i3, k, t] - b[j0 + j, k, t])
                    elif order == 0.5:
                        for t in range(width):
                            s0 += np.sqrt(abs(a[i, k, t] - b[j0 + j, k, t]))
                            s1 += np.sqrt(abs(a[i1, k, t] - b[j0 + j, k, t]))
                            s2 += np.sqrt(abs(a[i2, k, t] - b[j0 + j, k, t]))
                            s3 += np.sqrt(abs(a[i3, k, t] - b[j0 + j, k, t]))
                    elif order == 2:
                        for t in range(width):
                            s0 += _square(a[i, k, t] - b[j0 + j, k, t])
                            s1 += _square(a[i1, k, t] - b[j0 + j, k, t])
                            s2 += _square(a[i2, k, t] - b[j0 + j, k, t])
                            s3 += _square(a[i3, k, t] - b[j0 + j, k, t])
                    elif order == 3:
                        for t in range(width):
                            s0 += _cube(abs(a[i, k, t] - b[j0 + j, k, t]))
                            s1 += _cube(abs(a[i1, k, t] - b[j0 + j, k, t]))
                            s2 += _cube(abs(a[i2, k, t] - b[j0 + j, k, t]))
                            s3 += _cube(abs(a[i3, k, t] - b[j0 + j, k, t]))
                    elif order == 4:
                        for t in range(width):
                            s0 += _square(_square(a[i, k, t] - b[j0 + j, k, t]))
                            s1 += _square(_square(a[i1, k, t] - b[j0 + j, k, t]))
                            s2 += _square(_square(a[i2, k, t] - b[j0 + j, k, t]))
                            s3 += _square(_square(a[i3, k, t] - b[j0 + j, k, t]))
                    else:
                        for t in range(width):
                            s0 += _rooted(abs(a[i, k, t] - b[j0 + j, k, t]), order)
                            s1 += _rooted(abs(a[i1, k, t] - b[j0 + j, k, t]), order)
                            s2 += _rooted(abs(a[i2, k, t] - b[j0 + j, k, t]), order)
                            s3 += _rooted(abs(a[i3, k, t] - b[j0 + j, k, t]), order)
                    sums[0, j] += s0
                    sums[1, j] += s1
                    sums[2, j] += s2
                    sums[3, j] += s3
            for k in range(min(4, n - i)):
                for j in range(m):
                    mean = sums[k, j] / d
                    trusted = low < mean < high
                    doubtful += not trusted
                    if order == 2 or order == 4:  # noqa: PLR1714
                        mean = np.sqrt(mean)
                    if order == 4:
                        mean = np.sqrt(mean)
                    if order == 0.5:
                        mean = mean * mean
                    out[i + k, j0 + j] = mean if trusted else -1.0
    return doubtful


@njit(nogil=True, cache=True, fastmath=FINITE)
def _chebyshev(a: Array, b: Array, out: Array) -> None:
    """Largest differences, from rows in pieces."""
    n, pieces, width = a.shape
    step = max(1, _CACHED // (pieces * width * a.itemsize))
    out[:] = 0
    for j0 in range(0, b.shape[0], step):
        for i in range(0, n, 4):
            i1, i2, i3 = min(i + 1, n - 1), min(i + 2, n - 1), min(i + 3, n - 1)
            for k in range(pieces):
                a0, a1, a2, a3 = a[i, k], a[i1, k], a[i2, k], a[i3, k]
                for j in range(j0, min(j0 + step, b.shape[0])):
                    x = b[j, k]
                    s0, s1, s2, s3 = out[i, j], out[i1, j], out[i2, j], out[i3, j]
                    for t in range(width):
                        s0 = larger(s0, abs(a0[t] - x[t]))
                        s1 = larger(s1, abs(a1[t] - x[t]))
                        s2 = larger(s2, abs(a2[t] - x[t]))
                        s3 = larger(s3, abs(a3[t] - x[t]))
                    out[i, j], out[i1, j], out[i2, j], out[i3, j] = s0, s1, s2, s3


def _multiplied(a: Array, b: Array, out: Array, p: float, d: int) -> None:
    """Power means whose powers are products and square roots."""
    doubtful = _means(a, b, out, p, out.dtype.type(1), d, *_trusted(out.dtype.name, p))
    where = np.argwhere(out < 0) if doubtful else ()
    if p not in _SQUARES:
        cpu_powers.roots(out, p)
    if doubtful:
        cpu_powers.plainly(a, b, out, where, p, d)


def _trusted(dtype: str, p: float) -> tuple[float, float]:
    """Means of powers that lost nothing to the least and the largest number, nor lose digits in their root."""
    if dtype == "float32":
        return 2.0**-100, 2.0**120
    return (2.0**-900, 2.0**900) if p in _SQUARES else (2.0**-40, 2.0**40)


def _pieces(x: Array, *, whole: bool) -> Array:
    """Rows in pieces of equal length, (rows, pieces, length); unless whole, zeros fill the last.

    Loops take 256 bytes at a step, and are slow on what remains; a sum in the dtype of the tile takes in one piece.
    """
    n, d = x.shape
    lanes = 64 // x.itemsize
    step = lanes if d <= 2 * lanes else 4 * lanes
    pieces = 1 if whole else -(-d // _COORDINATES)
    length = d if whole else -(-d // (pieces * step)) * step
    if d != pieces * length:
        out = np.zeros((n, pieces * length), x.dtype)
        out[:, :d] = x
        x = out
    return x.reshape(n, pieces, length)


def minkowski(a: Array, b: Array, out: Array, p: float) -> None:
    """Power means of the coordinate differences: the Minkowski distance over d^(1/p), and the largest for p = inf."""
    d, p = a.shape[1], float(p)
    # Where powers less 1 are summed, a zero that was added would count.
    a, b = (_pieces(each, whole=p < cpu_powers.LOW) for each in (a, b))
    if p > cpu_powers.highest(out.dtype.name):
        _chebyshev(a, b, out)
    elif p in _MULTIPLIED:
        _multiplied(a, b, out, p, d)
    else:
        cpu_powers.powers(a, b, out, p, d)
