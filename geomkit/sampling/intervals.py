"""Intervals for means over pairs, from points or blocks that were drawn without replacement.

A mean over the pairs of m drawn units, of N, is a U-statistic of degree two. Its kernel φ is the sum of its mean θ, of
a part g_i + g_j that belongs to one unit each, and of a rest g_ij whose sum over j is 0 (Hoeffding 1948; of finite
populations Zhao & Chen 1990). Both parts are uncorrelated, and with S² = Σ g_i²/(N-1) and σ² the mean of g_ij²,

    Var U = 4/m (1 - m/N) S² + 2/(m(m-1)) · (N-m)(N-m-1)/((N-2)(N-3)) · σ²,

exactly. The first term leads unless the kernel is nearly degenerate, as shares of cosines of isotropic rows are. S² and
σ² follow from three means of products of φ: over pairs taken twice, over pairs that share a unit, over pairs that do
not. The same means over the drawn units are unbiased for them.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FAR",
    "FEWEST",
    "LEVERAGE",
    "SLOPE_COST",
    "Adjusted",
    "Interval",
    "Sums",
    "furthest",
    "hoeffding",
    "student",
]

Vector = NDArray[np.float64]

FEWEST = 10
"""Points that must bear the variance of a share, for its interval to rest on it: (Σ e²)²/Σ e⁴ of their deviations e.

With so many Student's t has some 20 degrees of freedom. A third of the points bear the variance where deviations are
normal, so that of fewer than 50 points a fifth is enough.
"""

LEVERAGE = 0.5
"""What one unit may have of the say over slopes, at most, to be left out by dividing by 1 less it.

Where 20 units bear each control hardly one has more; what it misses of the slopes is then said as if it had this much.
"""

SLOPE_COST = 3.0
"""What each control adds to the variance, in parts of 1/m, beyond what leaving out one unit at a time says.

Leaving out a unit does not show how slopes bend with the units drawn, which clustered rows make them do. Found by
simulation of such rows, where without it the said variance of shares is too small; where controls explain nothing, it
is too large by as much.
"""

FAR = 5.0
"""Standard errors between a control's mean over the sample and over all, beyond which controls are not used.

By chance that is one sample in a million; else the standard error is wrong, and so are slopes.
"""


@dataclass(frozen=True)
class Sums:
    """Sums of several kernels over the pairs of drawn units; the last kernel stands for the number of pairs."""

    by_unit: Vector
    """Sum of each kernel over the pairs of each unit, (m, k)."""
    products: Vector
    """Sums over pairs a < b of the products of two kernels, (k, k)."""
    of: int
    """Units that were drawn from."""

    @property
    def drawn(self) -> int:
        """Units drawn."""
        return len(self.by_unit)

    def mean(self, weights: Vector) -> float:
        """Mean over pairs of a weighted sum of kernels."""
        return float(self.by_unit.sum(axis=0) @ weights / self.by_unit[:, -1].sum())

    def centred(self, weights: Vector) -> Vector:
        """Return the weights of the same kernel less its mean."""
        less = weights.copy()
        less[-1] -= self.mean(weights)
        return less

    def variance(self, weights: Vector) -> float:
        """Estimate the variance of the mean of a kernel, with both terms; at least 0.

        Each term is unbiased but for being put to 0 where it comes out negative.
        """
        weights = self.centred(weights)
        m, n = float(self.drawn), float(self.of)
        by_unit, twice = self.by_unit @ weights, float(weights @ self.products @ weights)
        sharing = float(by_unit @ by_unit) - 2 * twice
        # The kernel's sum over all pairs is 0.
        apart = -twice - sharing
        z2 = twice / (m * (m - 1) / 2)
        z3 = sharing / (m * (m - 1) * (m - 2))
        z4 = apart / (m * (m - 1) * (m - 2) * (m - 3) / 4)
        square = (z2 + 2 * (n - 2) * z3 + (n - 2) * (n - 3) / 2 * z4) / (n * (n - 1) / 2)
        first = n * (n - 1) / (n - 2) ** 2 * ((z2 + (n - 2) * z3) / (n - 1) - square)
        second = z2 - square - 2 * first * (n - 2) / n
        left = (n - m) * (n - m - 1) / ((n - 2) * (n - 3))
        return 4 / m * (1 - m / n) * max(first, 0.0) + 2 / (m * (m - 1)) * left * max(second, 0.0)

    def bearing(self, weights: Vector) -> float:
        """How many units bear the variance of a kernel: (Σ e²)²/Σ e⁴; infinite where all are alike."""
        return _bearing(self.by_unit @ self.centred(weights))


class Interval(NamedTuple):
    """A value with its standard error and interval."""

    value: float
    se: float
    low: float
    high: float


@dataclass(frozen=True)
class Adjusted:
    """A mean of a kernel, less what the sample's controls are off by."""

    value: float
    shift: float
    """What came off the plain mean."""
    variance: float
    df: float
    """Degrees of freedom of the variance: fewer the fewer units bear it."""

    @classmethod
    def of(cls, sums: Sums, weights: Vector, controls: Vector, known: Vector) -> Self:
        """Regress the controls out of a kernel, with coefficients from the values by unit.

        Parameters
        ----------
        sums : Sums
        weights : (k,) float64
            Of the kernel.
        controls : (c, k) float64
            Of the controls; c may be 0.
        known : (c,) float64
            Their means over all pairs.
        """
        own = sums.by_unit @ sums.centred(weights)
        bearing = _bearing(own)
        if not len(controls):
            return cls(sums.mean(weights), 0.0, sums.variance(weights), _freedom(bearing, sums.drawn))
        by_unit = sums.by_unit @ np.stack([sums.centred(each) for each in controls]).T
        scale = np.sqrt((by_unit**2).sum(axis=0))
        scale[scale == 0] = 1.0
        basis, sizes, turn = np.linalg.svd(by_unit / scale, full_matrices=False)
        kept = sizes > 1e-9 * sizes.max(initial=0.0)
        basis, back = basis[:, kept], (turn[kept].T / sizes[kept]) / scale[:, None]
        slopes = back @ (basis.T @ own)
        off = np.array([sums.mean(each) for each in controls]) - known
        rest = own - by_unit @ slopes
        # What leaving out one unit does to slopes and mean (Särndal et al. 1989; MacKinnon & White 1985).
        leverage = 1 / sums.drawn + (basis**2).sum(axis=1)
        moved = 1 - basis @ (back.T @ off) * (sums.drawn * (sums.drawn - 1) / 2)
        alone = rest * moved / (1 - np.minimum(leverage, LEVERAGE))
        grown = max(float(alone @ alone) / (float(rest @ rest) or 1.0), 1.0)
        grown *= 1 + SLOPE_COST * int(kept.sum()) / sums.drawn
        variance = sums.variance(weights - slopes @ controls) * grown
        shift = float(slopes @ off)
        return cls(sums.mean(weights) - shift, shift, variance, _freedom(_bearing(rest), sums.drawn))


def _bearing(apart: Vector) -> float:
    squares = (apart / (float(np.abs(apart).max()) or 1.0)) ** 2
    fourth = float((squares**2).sum())
    return float(squares.sum()) ** 2 / fourth if fourth > 0 else math.inf


def _freedom(bearing: float, drawn: int) -> float:
    """Degrees of freedom of a variance whose own variance follows from the fourth moment (Satterthwaite 1946)."""
    part = 1 / bearing - 1 / drawn
    return min(drawn - 1.0, 2 / part) if part > 0 else drawn - 1.0


def furthest(sums: Sums, controls: Vector, known: Vector) -> float:
    """How many standard errors the controls are off, at most; 0 without controls."""
    far = 0.0
    for each, mean in zip(controls, known, strict=True):
        off, se = abs(sums.mean(each) - mean), math.sqrt(sums.variance(each))
        far = max(far, off / se if se > 0 else 0.0 if off == 0 else math.inf)
    return far


def student(df: float, confidence: float) -> float:
    """Return the quantile of Student's t for a two-sided interval."""
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + confidence) / 2))


def hoeffding(share: float, drawn: int, confidence: float) -> tuple[float, float]:
    """Interval of a share over pairs that holds for any rows: at least `confidence`, mostly far more.

    A mean over all pairs is a mean of means over ``drawn // 2`` pairs without a common unit, which are independent, or
    drawn without replacement, so that the bound of Chernoff holds with so many terms (Hoeffding 1963, sections 5, 6).
    At 95 % and a share of 0 it reaches up to 7.4 / drawn.
    """
    most = math.log(2 / (1 - confidence)) / (drawn // 2)

    def within(other: float) -> bool:
        apart = 0.0
        for a, b in ((share, other), (1 - share, 1 - other)):
            apart += a * math.log(a / b) if a > 0 else 0.0
        return apart <= most

    ends = []
    for end in (0.0, 1.0):
        inside, outside = share, end
        for _ in range(200):
            middle = (inside + outside) / 2
            if middle in {inside, outside}:
                break
            if within(middle):
                inside = middle
            else:
                outside = middle
        ends.append(outside if share != end else end)
    return ends[0], ends[1]
