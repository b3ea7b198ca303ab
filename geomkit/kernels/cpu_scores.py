"""The CPU kernels that prepare rows for products of scores: norms and sums, then residuals with their lifts."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from geomkit.kernels.cpu import SUMS, unit_rows

Array = NDArray[Any]


@njit(nogil=True, cache=True, fastmath=SUMS)
def unit_sums(x: Array, total: Array) -> Array:
    """Add the unit rows to `total`; return the norms, NaN for a row that is not finite, which adds nothing."""
    n, d = x.shape
    norms, unit = np.empty(n), np.empty((1, d))
    for i in range(n):
        norms[i] = unit_rows(x[i : i + 1], unit)[0]
        own = unit[0]
        for t in range(d):
            total[t] += own[t]
    return norms


@njit(nogil=True, cache=True, fastmath=SUMS)
def _residual(x: Array, divisor: float, mean: Array, form: int, row: Array) -> tuple[float, float]:
    """Fill `row`; return its square and its product with the mean."""
    square, lift = 0.0, 0.0
    if form == 0:
        for t in range(x.size):
            value = np.float64(x[t]) / divisor
            row[t] = value
            square += value * value
            lift += value * mean[t]
    else:
        for t in range(x.size):
            value = np.float64(x[t]) / divisor - mean[t]
            row[t] = value
            square += value * value
            lift += value * mean[t]
    return square, lift


@njit(nogil=True, cache=True, fastmath=SUMS)
def _residual_rows(
    x: Array, divisors: Array, mean: Array, form: int, offset: float, left: Array, right: Array, facts: Array
) -> None:
    n, d = x.shape
    row, stored = np.empty(d), np.empty(d, left.dtype)
    for i in range(n):
        square, lift = _residual(x[i], divisors[i], mean, form, row)
        lift = (-square / 2 if form == 2 else lift) + offset
        facts[0, i], facts[2, i] = np.sqrt(square), lift
        slip = 0.0
        for t in range(d):
            stored[t] = row[t]
            taken = row[t] - np.float64(stored[t])
            slip += taken * taken
        facts[1, i] = np.sqrt(slip)
        if left.shape[0]:
            out = left[i]
            for t in range(d):
                out[t] = stored[t]
            if form > 0:
                out[d], out[d + 1] = lift, 1
        if form > 0 and right.shape[0]:
            out = right[i]
            for t in range(d):
                out[t] = stored[t]
            out[d], out[d + 1] = 1, lift


_ONE = np.uint16(0x3F80)


@njit(nogil=True, cache=True, fastmath=SUMS)
def _residual_rows_bfloat16(
    x: Array, divisors: Array, mean: Array, form: int, offset: float, left: Array, right: Array, facts: Array
) -> None:
    n, d = x.shape
    row, single = np.empty(d), np.empty(d, np.float32)
    bits = single.view(np.uint32)
    piece = np.empty(2, np.float32)
    piece_bits, rounded = piece.view(np.uint32), np.empty(2, np.uint16)
    half, shift, one, high = np.uint32(0x7FFF), np.uint32(16), np.uint32(1), np.uint32(0xFFFF0000)
    for i in range(n):
        square, lift = _residual(x[i], divisors[i], mean, form, row)
        lift = (-square / 2 if form == 2 else lift) + offset
        facts[0, i], facts[2, i] = np.sqrt(square), lift
        for t in range(d):
            single[t] = row[t]
        for t in range(d):
            bits[t] = (bits[t] + half + ((bits[t] >> shift) & one)) & high
        slip = 0.0
        for t in range(d):
            taken = row[t] - np.float64(single[t])
            slip += taken * taken
        facts[1, i] = np.sqrt(slip)
        if form > 0:
            # The second piece is what rounding takes from the first.
            piece[0] = lift
            piece_bits[0] = (piece_bits[0] + half + ((piece_bits[0] >> shift) & one)) & high
            piece[1] = lift - np.float64(piece[0])
            rounded[0] = piece_bits[0] >> shift
            rounded[1] = (piece_bits[1] + half + ((piece_bits[1] >> shift) & one)) >> shift
        if left.shape[0]:
            out = left[i]
            for t in range(d):
                out[t] = bits[t] >> shift
            if form > 0:
                out[d], out[d + 1], out[d + 2], out[d + 3] = rounded[0], rounded[1], _ONE, _ONE
        if form > 0 and right.shape[0]:
            out = right[i]
            for t in range(d):
                out[t] = bits[t] >> shift
            out[d], out[d + 1], out[d + 2], out[d + 3] = _ONE, _ONE, rounded[0], rounded[1]


def residual_rows(x: Array, divisors: Array, mean: Array, form: int, offset: float, left: Array, right: Array) -> Array:
    """Rows over their divisors, less the mean, with their lifts as further columns; (lengths, slips, lifts)."""
    facts = np.empty((3, len(x)))
    run = _residual_rows_bfloat16 if left.dtype == np.uint16 else _residual_rows
    run(x, divisors, mean, form, float(offset), left, right, facts)
    return facts
