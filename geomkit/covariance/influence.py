"""How much each row moves the variances of all pairs: what standard errors over rows are made of.

The variance is a mean over pairs, so a row's influence on it is its own mean over the others, of (D²_ij - D̄²)². With
β_i = a_i - ā + 2S/n - D̄², q_i = Σ_j (y_i·y_j)² = y_iᵀMy_i and b_i = y_i·w (see `geomkit.covariance.scatter`) that is

    (n β_i² + 4 q_i - 4 b_i + constant) / (n - 1),

and the standard error is twice its standard deviation over √n (Hoeffding 1948). That D̄² is itself a mean over the same
pairs adds nothing of first order, for Σ (D²_ij - D̄²) = 0.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.matrix import Matrix
from geomkit.covariance.accumulate import in_threads
from geomkit.covariance.batches import ScatterPair, block_rows, read
from geomkit.covariance.scatter import Scatter
from geomkit.kernels import Backend, module

__all__ = ["influence_of", "influences"]

Vector = NDArray[np.float64]


def influence_of(squares: Vector, fourth: Vector, along: Vector) -> float:
    """Compute the standard deviation over rows of their influence on the variance of squared distances, times n-1.

    Parameters
    ----------
    squares, fourth, along : (n,) float64
        a, q and b.

    Returns
    -------
    float
        At least 0; NaN for fewer than three rows.
    """
    n = len(squares)
    if n < 3:
        return math.nan
    apart = squares - squares.mean() - 2 * float(squares.sum()) / (n * (n - 1))
    return float(np.std(n * apart**2 + 4 * fourth - 4 * along, ddof=1))


def influences(matrix: Matrix, backend: Backend, threads: int, pair: ScatterPair) -> list[float]:
    """`influence_of` both forms of the rows whose scatters these are, in a second pass. O(n d²).

    Rows that are not finite or zero are left out.
    """
    blocks = list(matrix.blocks(block_rows(matrix, backend, dense=True)))
    for scatter in pair.both:
        scatter.mirror()
    centres = np.stack([scatter.offset for scatter in pair.both])

    def work(block: tuple[int, int]) -> Vector:
        batch = read(matrix, backend, *block)
        bad = np.isnan(batch.norms) | (batch.norms == 0)
        if bad.any():
            batch = batch.without(bad)
        rows, squares = batch.shifted(pair.raw.exponent, pair.origins, centres)
        return np.stack([_by_row(*each) for each in zip(rows, squares, pair.both, strict=True)])

    workers = min(threads, len(blocks)) if backend is Backend.CPU else 1
    found = np.concatenate(in_threads(work, blocks, workers=workers), axis=2)
    return [influence_of(*each) for each in found]


def _by_row(rows: Any, squares: Vector, scatter: Scatter) -> Vector:
    """Return a, q and b of some rows, (3, m)."""
    products, memory = scatter.products, module(scatter.backend)
    if hasattr(rows, "indptr"):
        # Sparse rows lie about zero: the mean comes off the results.
        point = scatter.mean
        turned = scatter.times(point)
        fourth = np.asarray(rows.multiply(rows @ products).sum(axis=1)).ravel() - 2 * (rows @ turned) + point @ turned
        return np.stack([squares, fourth, rows @ scatter.skew - point @ scatter.skew])
    weights = memory.as_working(scatter.skew, "float64", scatter.device)
    fourth = memory.to_numpy(((rows @ products) * rows).sum(1))
    return np.stack([squares, fourth, memory.to_numpy(rows @ weights)])
