"""Standard errors of means over rows whose values depend on some of the same rows, as those of neighbours do."""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["linked_error", "seen"]


def seen(lists: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows that each row's value depends on: itself and its neighbours, (n, k + 1)."""
    return np.column_stack([np.arange(len(lists)), lists])


def linked_error(influence: NDArray[np.float64], links: NDArray[np.int64]) -> float:
    """Find the standard error of a mean from what each of its m terms adds, where terms depend on rows in common.

    Parameters
    ----------
    influence : (m,) float64
        By how much each term moves the result, times m; they add up to 0.
    links : (m, g) int64
        The rows that each term depends on; none twice.

    Returns
    -------
    float
        In the units of the result; NaN where all terms depend on the same rows.

    Notes
    -----
    Two terms are taken to be as dependent as the share of rows that they have in common: the variance is the sum over
    all pairs of the product of their influences times that share. That is the sum over rows of the square of what
    depends on the row, over g, and so never negative, and takes O(m g). Influences add up to 0, by which they lose of
    this sum what m independent ones would lose on average; it is put back, as n - 1 puts it back in a variance.
    """
    m, width = links.shape
    of = links.ravel()
    total = np.bincount(of, np.repeat(influence, width))
    times = np.bincount(of)
    left = width * m * m - int(times @ times)
    return math.sqrt(float(total @ total) / left) if left > 0 else math.nan
