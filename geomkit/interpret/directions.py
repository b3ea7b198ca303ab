"""Leading principal directions of some rows, and coordinates of others along them; random directions beside them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse
from scipy.sparse.linalg import LinearOperator, svds

from geomkit.core.validation import is_whole
from geomkit.errors import InvalidInputError

__all__ = ["coordinates", "grid", "principal"]

Array = NDArray[np.float64]
Rows = NDArray[np.float64] | sparse.csr_array

MOST_SPARSE = 256
"""Directions at most of sparse rows that are too many for an n x n matrix ..."""

GRAM_ROWS = 4096
"""... which are more than so many (128 MiB)."""


def grid(rows: Rows, directions: Sequence[int] | None) -> tuple[int, ...]:
    """Return the numbers of directions to try: powers of two and all there can be, unless given.

    Raises
    ------
    InvalidInputError
        One of those given is not a whole number from 1 to what there can be.
    """
    n, d = rows.shape
    most = min(n - 1, d)
    if n > GRAM_ROWS and not isinstance(rows, np.ndarray):
        most = min(most, MOST_SPARSE)
    if directions is None:
        return (*(2**power for power in range(most.bit_length()) if 2**power < most), most)
    wrong = [k for k in directions if not is_whole(k) or not 1 <= k <= most]
    if wrong:
        msg = f"directions must be whole numbers from 1 to {most}; got {wrong[0]!r}"
        raise InvalidInputError(msg)
    return tuple(sorted({int(k) for k in directions}))


def coordinates(a: Rows, b: Rows, k: int, rng: np.random.Generator | None, seed: int) -> tuple[Array, Array]:
    """Return coordinates of `a` and `b`, less the mean of `a`, along k directions.

    Parameters
    ----------
    a, b : (n, d), (m, d)
    k : int
        At most min(n - 1, d).
    rng : Generator, optional
        Draws Gaussian directions, any first of which are the same for each k; by default the principal ones of `a`.
    seed : int
        Of the start of the iteration that sparse rows of more than 4,096 take; answers depend on it by rounding alone.

    Returns
    -------
    (n, k), (m, k) float64
        Largest variance first where directions are principal. Where `a` varies along fewer, the others are 0.
    """
    mean = np.asarray(a.mean(axis=0)).ravel()
    basis = rng.standard_normal((a.shape[1], k)) if rng is not None else principal(a, mean, k, seed)
    shift = mean @ basis
    return np.asarray(a @ basis) - shift, np.asarray(b @ basis) - shift


def principal(a: Rows, mean: Array, k: int, seed: int) -> Array:
    """Return k principal directions of rows, largest variance first, (d, k).

    Parameters
    ----------
    a : (n, d)
    mean : (d,)
        Of the rows.
    k : int
        At most min(n - 1, d), or what `grid` allows.
    seed : int
        As for `coordinates`.

    Returns
    -------
    (d, k) float64
        Orthonormal columns, but for those along which the rows do not vary beyond rounding: these are 0.
    """
    n, d = a.shape
    if isinstance(a, np.ndarray) and d <= n:
        centred = a - mean
        values, vectors = linalg.eigh(centred.T @ centred, subset_by_index=(d - k, d - 1))
        values, vectors = values[::-1], vectors[:, ::-1]
    elif n <= GRAM_ROWS:
        # Σ (x - m)(x - m)ᵀ: the directions are combinations of rows, whose weights are its eigenvectors.
        product = np.asarray((a @ a.T) if isinstance(a, np.ndarray) else (a @ a.T).toarray())
        side = np.asarray(a @ mean)
        gram = product - side[:, None] - side[None, :] + mean @ mean
        values, weights = linalg.eigh(gram, subset_by_index=(n - k, n - 1))
        values, weights = values[::-1], weights[:, ::-1]
        vectors = _scaled(np.asarray(a.T @ weights) - np.outer(mean, weights.sum(axis=0)), values)
    else:
        return _iterated(a, mean, k, seed)
    return np.where(values > max(n, d) * 2.0**-52 * max(values[0], 0.0), vectors, 0.0)


def _scaled(vectors: Array, values: Array) -> Array:
    return vectors / np.sqrt(np.where(values > 0, values, np.inf))


def _iterated(a: Any, mean: Array, k: int, seed: int) -> Array:
    n, d = a.shape
    centred = LinearOperator(
        (n, d), dtype=np.float64,
        matvec=lambda v: a @ v - mean @ v, rmatvec=lambda w: a.T @ w - mean * np.sum(w),
        matmat=lambda v: a @ v - mean @ v, rmatmat=lambda w: a.T @ w - np.outer(mean, np.sum(w, axis=0)),
    )  # fmt: skip
    start = np.random.default_rng(seed).standard_normal(min(n, d))
    _, values, vectors = svds(centred, k=k, v0=start)
    order = np.argsort(-values)
    return np.asarray(vectors[order].T)
