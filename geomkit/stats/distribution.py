"""The distribution of a value over all pairs, read from the counts of a sweep."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geomkit.core.validation import check_whole
from geomkit.errors import InvalidInputError
from geomkit.pairwise.reducers import Tally

__all__ = ["Distribution"]


LEAST_SINGLE = 2.0**-35
"""Least spread whose fourth power float32 holds with some digits: its least number is 2**-149."""


@dataclass(frozen=True)
class Distribution:
    """Counts of the bfloat16 values of ``value - centre`` over all pairs, beside exact moments and extremes.

    A bfloat16 has 8 significant bits: a counter is at most ``2**-7 |value - centre|`` wide, and its middle lies within
    ``2**-8 |value - centre|`` of every value in it. Values are taken to be spread evenly over their counter.
    """

    counts: NDArray[np.int64] = field(repr=False)
    """(65536,), by bit pattern."""
    centre: float
    minimum: float
    maximum: float
    moments: tuple[float, float, float, float]
    """Means of the first four powers of ``value - centre``."""

    @classmethod
    def of(cls, tally: Tally) -> "Distribution":
        """Read a finished tally."""
        counts = tally.counts
        n = int(counts.sum())
        m1, m2, m3, m4 = (total / n for total in tally.power_sums)
        return cls(counts, tally.centre, *tally.extremes, (m1, m2, m3, m4))

    def within(self, low: float, high: float) -> "Distribution":
        """Project the extremes onto an interval in which every true value lies."""
        return replace(self, minimum=min(max(self.minimum, low), high), maximum=min(max(self.maximum, low), high))

    @property
    def n(self) -> int:
        """Number of pairs."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Mean over all pairs, from the sweep."""
        return self.centre + self.moments[0]

    @property
    def variance(self) -> float:
        """Variance over all pairs (divided by their number)."""
        return max(self.moments[1] - self.moments[0] ** 2, 0.0)

    @property
    def std(self) -> float:
        """Standard deviation over all pairs."""
        return math.sqrt(self.variance)

    @property
    def skewness(self) -> float:
        """Third standardised moment; NaN where all values are equal."""
        m1, m2, m3, _ = self.moments
        third = m3 - 3 * m1 * m2 + 2 * m1**3
        return third / self.variance**1.5 if self.variance > 0 else math.nan

    @property
    def kurtosis(self) -> float:
        """Fourth standardised moment less 3; NaN where all values are equal."""
        m1, m2, m3, m4 = self.moments
        fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
        return fourth / self.variance**2 - 3 if self.variance > 0 else math.nan

    def shape(self, error: float, *, single: bool) -> tuple[float, float]:
        """Return skewness and kurtosis; NaN where rounding decides them.

        Parameters
        ----------
        error : float
            Bound on the rounding error of a value: a spread that does not exceed it has no shape.
        single : bool
            Whether the powers were taken in float32, which does not hold the fourth power of a spread below 2**-35.
        """
        if self.std <= error:
            return math.nan, math.nan
        return self.skewness, math.nan if single and self.std < LEAST_SINGLE else self.kurtosis

    @property
    def mean_abs(self) -> float:
        """Mean magnitude, values being spread evenly over their counters."""
        low, high, counts = self._occupied
        width = np.where(high > low, high - low, 1.0)
        both = (low < 0) & (high > 0)
        magnitude = np.where(both, (low * low + high * high) / (2 * width), np.abs(low + high) / 2)
        return float((magnitude * counts).sum()) / self.n

    @property
    def counter_bound(self) -> float:
        """Bound on what rounding to a bfloat16 about the centre takes from any value that was counted."""
        # The largest counted value may be rounded itself: 1 / (1 - u) makes up for that.
        return max(abs(self.minimum - self.centre), abs(self.maximum - self.centre)) * 2.0**-8 / (1 - 2.0**-8)

    @cached_property
    def _occupied(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Lower edges, upper edges and counts of the occupied counters, in ascending order of value."""
        patterns = np.flatnonzero(self.counts)
        signed = np.where(patterns & 0x8000, -(patterns & 0x7FFF), patterns & 0x7FFF)
        order = np.argsort(signed, kind="stable")
        patterns, signed = patterns[order], np.abs(signed[order])
        sign = np.where(patterns & 0x8000, -1.0, 1.0)
        # Rounding to nearest: a counter reaches half-way to its neighbours in magnitude; zero's reaches both ways.
        inner = np.where(signed > 0, _midpoint(np.maximum(signed, 1) - 1), 0.0)
        outer = _midpoint(signed)
        inner = np.where(signed == 0, -outer, inner)
        low = np.where(signed == 0, -outer, np.minimum(sign * inner, sign * outer))
        high = np.where(signed == 0, outer, np.maximum(sign * inner, sign * outer))
        # Values lie between the extremes, which are known exactly.
        low = np.clip(self.centre + low, self.minimum, self.maximum)
        high = np.clip(self.centre + high, self.minimum, self.maximum)
        return low, high, self.counts[patterns]

    def cumulative(self, value: ArrayLike) -> NDArray[np.float64]:
        """Return the number of pairs at or below each value; within a counter, in proportion."""
        low, high, counts = self._occupied
        value = np.asarray(value, np.float64)
        # Counters do not overlap, so that all before the last one that starts at or below a value are full.
        last = np.searchsorted(low, value, side="right") - 1
        at = np.maximum(last, 0)
        width = high[at] - low[at]
        inside = np.where(width > 0, np.clip((value - low[at]) / np.where(width > 0, width, 1.0), 0.0, 1.0), 1.0)
        until = np.cumsum(counts)[at] - counts[at]
        return np.asarray(np.where(last < 0, 0.0, until + inside * counts[at]))

    def quantile(self, q: ArrayLike) -> Any:
        """Value at or below which a share `q` of the pairs lies.

        Parameters
        ----------
        q : float or array_like
            In [0, 1]. 0 gives the minimum and 1 the maximum, exactly.

        Returns
        -------
        float or ndarray
            Within the error bound plus ``2**-8 |value - centre|`` of the exact quantile.

        Raises
        ------
        InvalidInputError
            A share lies outside [0, 1].
        """
        share = np.asarray(q, np.float64)
        if not np.all((share >= 0) & (share <= 1)):
            msg = f"q must lie in [0, 1]; got {q!r}"
            raise InvalidInputError(msg)
        low, high, counts = self._occupied
        until = np.cumsum(counts)
        # Ranks count from 0 to n - 1, as in NumPy's quantile; the k values of a counter sit evenly inside it.
        rank = share * (self.n - 1)
        at = np.minimum(np.searchsorted(until, rank, side="right"), len(until) - 1)
        inside = (rank - (until[at] - counts[at]) + 0.5) / counts[at]
        low, high = low[at], high[at]
        value = low + np.clip(inside, 0.0, 1.0) * (high - low)
        # Wherever in their counter the values really lie, the answer is then as near to them as promised.
        below, above = high - np.abs(high - self.centre) / 256, low + np.abs(low - self.centre) / 256
        value = np.clip(value, np.minimum(below, above), np.maximum(below, above))
        value = np.where(share == 0, self.minimum, np.where(share == 1, self.maximum, value))
        return float(value) if value.ndim == 0 else value

    def histogram(self, bins: int, limits: tuple[float, float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pairs per bin: counters that straddle an edge are divided in proportion.

        Returns
        -------
        counts : (bins,) float64
            Sums to the number of pairs inside the limits.
        edges : (bins + 1,) float64
        """
        low, high = limits
        check_whole(bins, "bins", 1)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            msg = f"range must be two finite numbers in ascending order; got {limits!r}"
            raise InvalidInputError(msg)
        edges = np.linspace(low, high, bins + 1)
        # A bin has its lower edge and not its upper one, except for the last, which has both.
        below = self.cumulative(np.nextafter(edges, -np.inf))
        below[-1] = self.cumulative(edges[-1])
        return np.diff(below), edges


def _midpoint(pattern: NDArray[np.int64]) -> NDArray[np.float64]:
    """Half-way between the bfloat16 of this bit pattern and the next one away from zero."""
    bits = (pattern.astype(np.uint32) << np.uint32(16)) | np.uint32(0x8000)
    return bits.view(np.float32).astype(np.float64)
