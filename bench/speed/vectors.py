"""The rows that cases are about."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]

COMMON = 3.0
"""Length of the common mean of anisotropic rows, over that of what is left: their mean cosine is 9/10."""

FACTORS = 24
"""Factors behind rows that have neighbours worth finding."""


def isotropic(n: int, d: int, seed: int) -> Rows:
    """Directions uniform on the sphere of R^d."""
    return np.random.default_rng(seed).standard_normal((n, d), dtype=np.float32)


def anisotropic(n: int, d: int, seed: int) -> Rows:
    """Rows around one large common mean, as a middle layer of a language model has them."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, d), dtype=np.float32)
    mean = rng.standard_normal(d, dtype=np.float32)
    rows += COMMON * np.sqrt(np.float32(d)) * mean / np.linalg.norm(mean)
    return rows


def factors(n: int, d: int, seed: int) -> Rows:
    """Rows of unit length that 24 factors, noise and a common offset make."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, FACTORS), dtype=np.float32) @ rng.standard_normal((FACTORS, d), dtype=np.float32)
    rows += np.float32(0.6) * rng.standard_normal((n, d), dtype=np.float32) + np.float32(0.5)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


DATA = {"isotropic": isotropic, "anisotropic": anisotropic, "factors": factors}


@lru_cache(maxsize=1)
def vectors(data: str, n: int, d: int, seed: int) -> Rows:
    """Make the rows of a case, or return those of the last call: every contender gets the same memory."""
    return DATA[data](n, d, seed)


@lru_cache(maxsize=1)
def cosine_moments(data: str, n: int, d: int, seed: int) -> tuple[float, float]:
    """Mean and standard deviation of the cosine over all pairs in float64, from sums over rows alone.

    With S the sum of the unit rows and M the sum of their outer products, the sums over all ordered pairs, each row
    with itself included, are |S|² and ‖M‖².
    """
    rows = vectors(data, n, d, seed)
    total, products = np.zeros(d), np.zeros((d, d))
    for start in range(0, n, 4096):
        unit = rows[start : start + 4096].astype(np.float64)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        total += unit.sum(axis=0)
        products += unit.T @ unit
    pairs = n * (n - 1)
    mean = float(total @ total - n) / pairs
    square = float(np.vdot(products, products) - n) / pairs
    return mean, float(np.sqrt(square - mean * mean))


def few(rows: Rows, most: int) -> Rows:
    """Rows at equal steps, at most so many, for comparing with what is slow and certain."""
    return np.ascontiguousarray(rows[:: -(-len(rows) // most)])


def exact_cosines(left: Rows, right: Rows) -> NDArray[np.float64]:
    """Cosines of all rows of one with all of the other, in float64."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    return a @ b.T


def product_error(d: int) -> float:
    """Bound on the error of a float32 product of two unit rows that were rounded, gamma_{d+4}, and then some."""
    u = 2.0**-24
    return 2 * (d + 4) * u / (1 - (d + 4) * u)
