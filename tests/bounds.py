"""Error bounds, derived from the length of a sum and the unit roundoff of its accumulator, and how to hold to them."""

import ml_dtypes
import numpy as np


def unit(dtype):
    """Unit roundoff: half the distance from 1 to the next number."""
    return float(ml_dtypes.finfo(dtype).eps) / 2


def gamma(length, dtype):
    """Relative error of `length` roundings in a row: k u / (1 - k u) (Higham 2002, lemma 3.1)."""
    ku = length * unit(dtype)
    assert ku < 0.5
    return ku / (1 - ku)


def cosine_bound(length, dtype):
    """Bound on the absolute error of a cosine computed as the product of two rounded unit rows.

    A unit row is computed in float64 and rounded once: relative error at most ``u + (length/2 + 4) u64`` with u the
    unit roundoff of `dtype`, plus half of the smallest subnormal an entry. The product of two such rows, summed in any
    order, adds at most ``gamma`` times the product of their norms (Higham 2002, 3.1).
    """
    subnormal = float(ml_dtypes.finfo(dtype).smallest_subnormal)
    row = unit(dtype) + (length / 2 + 4) * unit("float64") + np.sqrt(length) * subnormal
    return 2 * row + row * row + gamma(length, dtype) * (1 + row) ** 2


def power_error(inner, p):
    """Relative error of ``s ** (1 / p)`` where that of s is at most `inner`."""
    return max(np.expm1(np.log1p(inner) / p), -np.expm1(np.log1p(-inner) / p))


def assert_within(got, want, bound):
    """Every entry of `got` is a number and lies within `bound` of `want`."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert want.ndim == 0 or got.shape == want.shape
    assert np.isfinite(got).all()
    with np.errstate(invalid="ignore"):
        excess = np.abs(got - want) - bound
    assert np.all(excess <= 0), f"{np.sum(~(excess <= 0))} of {excess.size} entries are off, by up to {excess.max()}"


def assert_between(got, low, high):
    """Every entry of `got` lies between two bounds that were derived for it."""
    got = np.asarray(got, np.float64)
    assert np.all((got >= low) & (got <= high)), f"{got} is not in [{low}, {high}]"
