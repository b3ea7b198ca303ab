"""Intervals over points. Pairs share their endpoints, so an interval over pairs would be far too narrow."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUPS = 20


def jackknife(x: Any, statistic: Callable[[Any], float], seed: int) -> tuple[float, float]:
    """Value of a statistic of rows and its standard error, by leaving out a twentieth of the rows in turn.

    Parameters
    ----------
    x : (n, d) array or CSR
    statistic : callable
        Of such a matrix.
    seed : int
        Shares the rows out.

    Returns
    -------
    value, se : float
        se² = (g-1)/g Σ (θ_j - mean θ)² over g = 20 groups (Shao and Tu 1995, delete-d jackknife).
    """
    order = np.random.default_rng(seed).permutation(x.shape[0])
    left = []
    for group in np.array_split(order, GROUPS):
        keep = np.setdiff1d(order, group)
        left.append(statistic(x[keep]))
    deviations = np.array(left) - np.mean(left)
    return statistic(x), float(np.sqrt((GROUPS - 1) / GROUPS * np.square(deviations).sum()))


def bootstrap(
    values: NDArray[np.float64], statistic: Callable[[NDArray[Any]], float], seed: int
) -> tuple[float, float]:
    """95 % percentile interval of a statistic of independent units (rows of `values`), from 1,000 resamples."""
    rng = np.random.default_rng(seed)
    drawn = [statistic(values[rng.integers(0, len(values), len(values))]) for _ in range(1000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
