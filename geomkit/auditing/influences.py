"""Influence values: how much each row moves a statistic, from which standard errors and paired differences follow.

A statistic T of n rows is, to first order, its expectation plus the mean of an influence I_i over the rows. Then
sd(I)/√n is its standard error, and sd(I - I')/√n that of the difference of two spaces over the same rows. Rows that
share neighbours are taken as if they were independent.
"""

import math

import numpy as np
from numpy.typing import NDArray

from geomkit.stats.dimension import DISCARDED

__all__ = ["gini", "mle", "ratio", "skewness", "standard_error", "twonn", "variation"]

Vector = NDArray[np.float64]


def standard_error(influence: Vector) -> float:
    """sd(I)/√n."""
    return float(influence.std(ddof=1)) / math.sqrt(len(influence))


def ratio(above: Vector, below: Vector) -> Vector:
    """Of the mean of one quantity over the mean of another, by row."""
    top, bottom = float(above.mean()), float(below.mean())
    return (above - top - top / bottom * (below - bottom)) / bottom


def variation(values: Vector) -> Vector:
    """Of the standard deviation over the mean."""
    apart = values / float(values.mean()) - 1
    cv = float(apart.std())
    return (apart**2 - cv**2) / (2 * cv) - cv * apart if cv > 0 else apart


def skewness(values: NDArray[np.int64]) -> Vector:
    """Of the third standardised moment."""
    apart = values - float(values.mean())
    z = apart / float(apart.std())
    third = float((z**3).mean())
    return np.asarray(z**3 - third - 3 * z - 1.5 * third * (z**2 - 1))


def gini(values: NDArray[np.int64]) -> Vector:
    """Of the Gini coefficient: the mean difference of a row from all others over the mean, less its share in that."""
    n, order = len(values), np.argsort(values, kind="stable")
    ranked = values[order]
    total = float(ranked.sum())
    sides = 2 * np.arange(n) - (n - 1)
    coefficient = float(sides @ ranked) / (n * total)
    below = np.cumsum(ranked) - ranked
    differences = sides * ranked - 2 * below + (total - ranked)
    out = np.empty(n)
    out[order] = differences / total - coefficient * ranked * n / total
    return out - float(out.mean())


def mle(local: Vector) -> Vector:
    """Of the dimension that is the inverse of the mean inverse of the local ones; 0 where a row has none."""
    inverse = 1 / local
    used = np.isfinite(local)
    mean = float(inverse[used].mean())
    out = np.zeros(len(local))
    out[used] = (mean - inverse[used]) / mean**2 * (len(local) / used.sum())
    return out


def twonn(logs: Vector) -> Vector:
    """Of the slope that is fitted to ln μ, `logs`, NaN where a row was left out, whose influence is 0.

    With Q the quantiles of ln μ and w = -ln(1 - u), the slope is ∫ Q w du / ∫ Q² du up to u = 0.9. Since the influence
    of a value x on ∫ Q g(u) du is minus the integral of g(F(t)) over t from x, that on the slope is, but for a
    constant, H(min(x, Q(0.9))) / ∫ Q² du with H the integral of w - 2 D Q over t.
    """
    used = np.isfinite(logs)
    order = np.argsort(logs[used], kind="stable")
    x = logs[used][order]
    n = len(x)
    kept = max(1, math.floor(n * (1 - DISCARDED)))
    top, weights = x[:kept], -np.log1p(-np.arange(1, kept + 1) / n)
    squares = float(top @ top) / n
    slope = float(top @ weights) / n / squares
    density = weights - 2 * slope * top
    climb = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(top))])
    ranked = np.full(n, climb[-1])
    ranked[:kept] = climb
    values = np.empty(n)
    values[order] = (ranked - ranked.mean()) / squares
    out = np.zeros(len(logs))
    out[used] = values * (len(logs) / n)
    return out
