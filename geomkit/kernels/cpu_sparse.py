"""The CPU kernels on CSR blocks: only stored entries are touched, and no block is ever made dense."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from geomkit.kernels.cpu import SUMS, distances_in_place

Array = NDArray[Any]


@njit(nogil=True, cache=True, fastmath=SUMS)
def _sparse_product(
    starts: Array, columns: Array, values: Array, b_starts: Array, b_rows: Array, b_values: Array, out: Array
) -> None:
    for i in range(out.shape[0]):
        out[i] = 0
        for at in range(starts[i], starts[i + 1]):
            column, value = columns[at], values[at]
            for other in range(b_starts[column], b_starts[column + 1]):
                out[i, b_rows[other]] += value * b_values[other]


def sparse_gram(a: Any, b: Any, out: Array) -> None:
    """All inner products of the rows of two CSR blocks: only terms that two rows share are touched."""
    by_column = b.tocsc()
    _sparse_product(a.indptr, a.indices, a.data, by_column.indptr, by_column.indices, by_column.data, out)


def sparse_euclidean(a: Any, b: Any, out: Array, a_squares: Array, b_squares: Array) -> None:
    """Euclidean distances of CSR blocks through their product."""
    sparse_gram(a, b, out)
    distances_in_place(out, a_squares.astype(out.dtype), b_squares.astype(out.dtype))


@njit(nogil=True, cache=True)
def _power(share: float, p: float) -> float:
    if p == 1.0:
        return share
    if p == 0.5:
        return np.sqrt(share)
    return share * share if p == 2.0 else share**p


@njit(nogil=True, cache=True)
def _sparse_powers(
    starts: Array, columns: Array, values: Array, b_starts: Array, b_columns: Array, b_values: Array,
    d: int, out: Array, p: float,
) -> None:  # fmt: skip
    highest = np.iinfo(np.int64).max
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            at, end, other, b_end = starts[i], starts[i + 1], b_starts[j], b_starts[j + 1]
            largest, total = 0.0, 0.0
            while at < end or other < b_end:
                column = np.int64(columns[at]) if at < end else highest
                b_column = np.int64(b_columns[other]) if other < b_end else highest
                difference = 0.0
                if column <= b_column:
                    difference = np.float64(values[at])
                    at += 1
                if b_column <= column:
                    difference -= np.float64(b_values[other])
                    other += 1
                difference = abs(difference)
                # Powers of shares of the largest difference so far: no order overflows, and none loses every term.
                if difference > largest:
                    total = total * _power(largest / difference, p) + 1.0
                    largest = difference
                elif difference > 0.0:
                    total += _power(difference / largest, p)
            out[i, j] = largest * (total / d) ** (1 / p)


def sparse_minkowski(a: Any, b: Any, out: Array, p: float) -> None:
    """Power means of the coordinate differences of CSR blocks with sorted indices, by merging two index lists."""
    _sparse_powers(a.indptr, a.indices, a.data, b.indptr, b.indices, b.data, a.shape[1], out, float(p))
