"""Means, deviations and principal directions of rows, read in blocks and added up in float64.

Differences from the first row, and then from the mean, are taken before anything is multiplied: rows far from the
origin cost no digits.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.linalg.blas import dsyrk

from geomkit.core.blocks import block_rows
from geomkit.core.matrix import Matrix
from geomkit.core.validation import name_rows
from geomkit.errors import InvalidInputError

__all__ = ["WIDEST", "Principal", "centre", "check_finite", "deviations", "principal"]

Vector = NDArray[np.float64]

WIDEST = 8192
"""Most columns of a d x d covariance: 512 MiB, and its eigenvectors take three times that."""

_RUN = 128
"""Rows that are added up one after the other: of m rows, a sum is off by at most (128 + m/128) 2⁻⁵³ of its terms."""

_REACH = 480
"""Squares of values within two to this power either way, and sums of them, fit float64."""


class Principal(NamedTuple):
    """Eigenvectors of the covariance, divided by n - 1, of the largest eigenvalues."""

    values: Vector
    """(k,), largest first; 0 where they are below max(n, d) 2⁻⁵² of the largest, which is rounding."""
    directions: Vector
    """(k, d) unit rows, the entry largest in size above 0."""
    rank: int
    """How many of them are above 0."""
    total: float
    """Sum of all d eigenvalues."""
    floor: float
    """Eigenvalues below this are rounding."""


def check_finite(
    x: NDArray[Any], start: int = 0, what: str = "with NaN or infinity; every value must be finite"
) -> None:
    """Refuse rows that are not finite, numbered from `start`."""
    if not np.isfinite(x).all():
        bad = start + np.flatnonzero(~np.isfinite(x).all(axis=1))
        msg = f"X has {name_rows(bad)} {what}"
        raise InvalidInputError(msg)


def centre(rows: Matrix) -> tuple[Vector, Vector]:
    """Return the mean of the rows and how far, at most, they lie from the first one, both by coordinate, (d,).

    Raises
    ------
    InvalidInputError
        Rows are not finite, or lie too far apart for float64.

    Notes
    -----
    One pass, O(n d).
    """
    first = np.asarray(rows.block(0, 1)[0], np.float64)
    away, reach = np.zeros(rows.d), np.zeros(rows.d)
    for start, stop in rows.blocks(block_rows(rows)):
        x = rows.block(start, stop)
        check_finite(x, start)
        with np.errstate(over="ignore", invalid="ignore"):
            apart = np.subtract(x, first)
            away += _column_sums(apart)
        np.maximum(reach, np.abs(apart, out=apart).max(axis=0), out=reach)
    mean = first + away / rows.n
    if not np.isfinite(mean).all() or not np.isfinite(reach).all():
        msg = "X has rows so far apart that their differences do not fit float64; rescale it"
        raise InvalidInputError(msg)
    return mean, reach


def deviations(rows: Matrix, mean: Vector, reach: Vector) -> Vector:
    """Return the standard deviation of each coordinate over the n rows, (d,); O(n d).

    A coordinate is 0 where all its values are equal, and there alone: each is squared in units of its own.
    """
    unit = np.ldexp(1.0, np.minimum(np.frexp(reach)[1], 1023))
    squares, drift = np.zeros(rows.d), np.zeros(rows.d)
    for start, stop in rows.blocks(block_rows(rows)):
        y = np.subtract(rows.block(start, stop), mean)
        y /= unit
        drift += _column_sums(y)
        squares += _column_sums(np.square(y, out=y))
    # The mean is rounded: what it is off by shows in the sum of the differences from it.
    variance = (squares - drift * (drift / rows.n)) / rows.n
    return np.where(reach > 0, unit * np.sqrt(np.maximum(variance, 0.0)), 0.0)


def principal(rows: Matrix, mean: Vector, reach: Vector, k: int) -> Principal:
    """Return the `k` principal directions of at least two rows.

    Raises
    ------
    InvalidInputError
        There are more than `WIDEST` columns, or variances that do not fit float64.

    Notes
    -----
    O(n d²) and O(d³) time; a few d x d matrices of memory.
    """
    if rows.d > WIDEST:
        msg = f"X has {rows.d} columns; it must have at most {WIDEST}, for a covariance is as wide and as high"
        raise InvalidInputError(msg)
    largest = float(reach.max())
    if largest > 0 and not 2.0**-_REACH <= largest <= 2.0**_REACH:
        msg = f"X has rows {largest:.1e} apart, whose variance does not fit float64; rescale it"
        raise InvalidInputError(msg)
    covariance = _covariance(rows, mean)
    total = float(np.trace(covariance))
    values, directions = eigh(
        covariance, lower=True, overwrite_a=True, check_finite=False, subset_by_index=[rows.d - k, rows.d - 1]
    )
    values, directions = values[::-1], np.ascontiguousarray(directions.T[::-1])
    floor = max(rows.n, rows.d) * 2.0**-52 * float(values[0])
    values = np.where(values > floor, values, 0.0)
    largest_entry = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    directions *= np.where(largest_entry < 0, -1.0, 1.0)
    return Principal(values, directions, int(np.count_nonzero(values)), total, floor)


def _column_sums(x: NDArray[Any]) -> Vector:
    return np.asarray(np.add.reduceat(x, np.arange(0, len(x), _RUN), axis=0).sum(axis=0))


def _covariance(rows: Matrix, mean: Vector) -> Vector:
    """Return the covariance, divided by n - 1, of which only the lower triangle counts."""
    products = np.zeros((rows.d, rows.d), order="F")
    drift = np.zeros(rows.d)
    for start, stop in rows.blocks(block_rows(rows)):
        y = np.subtract(rows.block(start, stop), mean)
        products = dsyrk(1.0, y.T, beta=1.0, c=products, overwrite_c=1, lower=1)
        drift += _column_sums(y)
    products = dsyrk(-1.0 / rows.n, drift[:, None], beta=1.0, c=products, overwrite_c=1, lower=1)
    products /= rows.n - 1
    return products
