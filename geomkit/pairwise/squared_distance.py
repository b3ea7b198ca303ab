"""What one pass over prepared rows tells about their squared distances, without the pairs."""

from typing import Any

import numpy as np

from geomkit.core.blocks import block_rows
from geomkit.kernels import module
from geomkit.pairwise.normalization import Rows

__all__ = ["squared_distance_moments"]

WIDE_BLOCK_ENTRIES = 2**23
"""Entries of a block of rows in a pass over pairs of blocks (64 MiB in float64)."""


def squared_distance_moments(rows: Rows) -> tuple[float, float]:
    """Mean and variance of the squared Euclidean distance over all distinct pairs, without the pairs.

    Computed from S1 = Σ a_i, S2 = Σ a_i², t = Σ y_i, v = Σ a_i y_i and M = Σ y_i y_iᵀ (a_i = |y_i|²) in one float64
    pass, or from the smaller of YᵀY and YYᵀ, whose Frobenius norms agree. O(n d min(n, d)).

    Returns
    -------
    mean, variance : float
        In units of ``rows.scale``, squared and to the fourth power: in those of the data they could leave float64.
    """
    n, d = rows.n, rows.matrix.d
    memory = module(rows.backend)
    by_columns = d <= n and not rows.sparse
    # Products of blocks with blocks want larger ones: each is made again for every block beside it.
    size = block_rows(rows.matrix) if by_columns or rows.sparse else max(1, WIDE_BLOCK_ENTRIES // d)
    s1 = s2 = frobenius = 0.0
    t: Any = 0.0
    v: Any = 0.0
    second: Any = 0.0
    others = rows.make(0, n, "float64").T if rows.sparse else None
    for start, stop in rows.matrix.blocks(size):
        y = rows.make(start, stop, "float64")
        a = memory.to_numpy((y * y).sum(1)).astype(np.float64)
        s1, s2 = s1 + float(a.sum()), s2 + float((a * a).sum())
        weights = memory.as_working(a, "float64", rows.device)
        t, v = t + y.sum(0), v + y.T @ weights
        if by_columns:
            second = second + y.T @ y
        else:
            frobenius += _squared_products(rows, y, start, others, size)
    if by_columns:
        frobenius = float((second * second).sum())
    pairs = n * (n - 1)
    total = 2 * n * s1 - 2 * float((t * t).sum())
    fourth = 2 * n * s2 + 2 * s1 * s1 + 4 * frobenius - 8 * float((v * t).sum())
    mean = total / pairs
    variance = max(fourth / pairs - mean * mean, 0.0)
    return mean, variance


def _squared_products(rows: Rows, y: Any, first: int, others: Any, size: int) -> float:
    """Sum of the squared inner products of a block with all rows, counting each pair of blocks once for both.

    `others` are all rows, transposed, where they are sparse; dense ones are made block by block.
    """
    if others is not None:
        return float(np.square((y @ others).data).sum())
    total = float(((y @ y.T) ** 2).sum())
    for start in range(first + size, rows.n, size):
        beside = rows.make(start, min(start + size, rows.n), "float64")
        total += 2 * float(((y @ beside.T) ** 2).sum())
    return total
