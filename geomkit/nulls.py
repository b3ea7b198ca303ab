"""What random vectors would give: closed forms.

Every statistic of real vectors is read beside these. `sphere` is for directions: rows uniform on the unit sphere, and
Gaussian rows too, since cosine ignores length. `gaussian` and `cube` are for distances of rows with independent
coordinates.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from geomkit.core.deprecated import OldFields
from geomkit.errors import InvalidInputError

__all__ = ["Cube", "Gaussian", "LargestCosine", "Sphere", "cube", "gaussian", "sphere"]


@dataclass(frozen=True, slots=True)
class Sphere(OldFields):
    """The cosine of two independent directions uniform on the unit sphere of R^d.

    (1 + c)/2 follows Beta((d-1)/2, (d-1)/2); any two pairs of a set of such directions are independent, even when they
    share a direction, which makes the null variances over all pairs exact.
    """

    d: int

    def pdf(self, cosine: ArrayLike) -> NDArray[np.float64]:
        """Density of the cosine, proportional to (1 - c²)^((d-3)/2) on [-1, 1]; for d = 1 there is none.

        Raises
        ------
        InvalidInputError
            d is 1: the cosine is then -1 or 1.
        """
        if self.d == 1:
            msg = "d must be at least 2 for a density; at d = 1 every cosine is -1 or 1"
            raise InvalidInputError(msg)
        half = (self.d - 1) / 2
        from scipy import stats

        return np.asarray(stats.beta.pdf((1 + np.asarray(cosine, np.float64)) / 2, half, half) / 2)

    def cdf(self, cosine: ArrayLike) -> NDArray[np.float64]:
        """Probability that the cosine is at most `cosine`."""
        c = np.asarray(cosine, np.float64)
        if self.d == 1:
            return np.where(c < -1, 0.0, np.where(c < 1, 0.5, 1.0))
        half = (self.d - 1) / 2
        return np.asarray(special.betainc(half, half, np.clip((1 + c) / 2, 0, 1)))

    def quantile(self, probability: float) -> float:
        """Return the cosine that so large a share of pairs lies below: c² follows Beta(1/2, (d-1)/2).

        Raises
        ------
        InvalidInputError
            The probability is not in [0, 1].
        """
        if not 0 <= probability <= 1:
            msg = f"probability must lie in [0, 1]; got {probability!r}"
            raise InvalidInputError(msg)
        if self.d == 1:
            return -1.0 if probability <= 0.5 else 1.0
        square = float(special.betaincinv(0.5, (self.d - 1) / 2, abs(2 * probability - 1)))
        return math.copysign(math.sqrt(square), probability - 0.5)

    @property
    def std(self) -> float:
        """Standard deviation of the cosine: 1/√d."""
        return 1 / math.sqrt(self.d)

    @property
    def kurtosis(self) -> float:
        """Excess kurtosis of the cosine: -6/(d+2)."""
        return -6 / (self.d + 2)

    @property
    def mean_abs(self) -> float:
        """Mean of |cosine|: Γ(d/2) / (√π Γ((d+1)/2))."""
        return math.sqrt(2 * (1 + _relative_variance(self.d)) / (math.pi * self.d))

    def within_fraction(self, eps: float) -> float:
        """Probability that |cosine| is at most `eps`."""
        if eps >= 1 or eps < 0:
            return float(eps >= 1)
        if self.d == 1:
            return 0.0
        return float(special.betainc(0.5, (self.d - 1) / 2, eps * eps))

    def coherence(self, n: int) -> "LargestCosine":
        """Distribution of the largest |cosine| among all pairs of n directions."""
        if n < 2:
            msg = f"n must be at least 2; got {n!r}"
            raise InvalidInputError(msg)
        return LargestCosine(self.d, n)

    def mean_std(self, n: int) -> float:
        """Return the standard deviation of the mean cosine of all pairs of n directions: √(2/(d n (n-1)))."""
        return math.sqrt(2 / (self.d * n * (n - 1)))

    def mean_abs_std(self, n: int) -> float:
        """Return the standard deviation of the mean |cosine| over all pairs of n directions."""
        return math.sqrt(max(1 / self.d - self.mean_abs**2, 0.0) * 2 / (n * (n - 1)))

    def mean_square_std(self, n: int) -> float:
        """Return the standard deviation of the mean squared cosine over all pairs of n directions; its mean is 1/d."""
        fourth = 3 / (self.d * (self.d + 2))
        return math.sqrt(max(fourth - 1 / self.d**2, 0.0) * 2 / (n * (n - 1)))

    def within_fraction_std(self, eps: float, n: int) -> float:
        """Return the standard deviation of the share of pairs with |cosine| at most `eps` among n directions."""
        share = self.within_fraction(eps)
        return math.sqrt(share * (1 - share) * 2 / (n * (n - 1)))


@dataclass(frozen=True, slots=True)
class LargestCosine:
    """The largest |cosine| among all pairs of n directions uniform on the sphere.

    With N = n(n-1)/2 pairs its distribution function is P(|c| ≤ x)^N. The pairs are pairwise independent, not jointly,
    so this is an approximation; simulation at n = 50, d = 8 and d = 100 agrees to under 0.01 in probability.
    """

    d: int
    n: int

    def cdf(self, largest: ArrayLike) -> NDArray[np.float64]:
        """Probability that the largest |cosine| is at most `largest`."""
        c = np.clip(np.asarray(largest, np.float64), 0, 1)
        if self.d == 1:
            return np.where(c < 1, 0.0, 1.0)
        # Whichever tail is small is taken on its own: one minus the other would lose all digits where it matters.
        within = special.betainc(0.5, (self.d - 1) / 2, c * c)
        beyond = special.betainc((self.d - 1) / 2, 0.5, 1 - c * c)
        with np.errstate(divide="ignore"):
            logarithm = np.where(within < 0.5, np.log(within), np.log1p(-beyond))
        return np.asarray(np.exp(self.n * (self.n - 1) / 2 * logarithm))

    def quantile(self, probability: float) -> float:
        """Value that the largest |cosine| stays at or below with this probability, strictly between 0 and 1."""
        if not 0 < probability < 1:
            msg = f"probability must be strictly between 0 and 1; got {probability!r}"
            raise InvalidInputError(msg)
        if self.d == 1:
            return 1.0
        pairs = self.n * (self.n - 1) / 2
        within = math.exp(math.log(probability) / pairs)
        if within < 0.5:
            return math.sqrt(float(special.betaincinv(0.5, (self.d - 1) / 2, within)))
        beyond = -math.expm1(math.log(probability) / pairs)
        return math.sqrt(max(1 - float(special.betaincinv((self.d - 1) / 2, 0.5, beyond)), 0.0))

    @property
    def mean(self) -> float:
        """Mean of the largest |cosine|."""
        return self._moments()[0]

    @property
    def std(self) -> float:
        """Standard deviation of the largest |cosine|."""
        return self._moments()[1]

    def _moments(self) -> tuple[float, float]:
        if self.d == 1:
            return 1.0, 0.0
        low, high = self.quantile(1e-15), self.quantile(1 - 1e-15)
        grid = np.linspace(low, high, 4001)
        above = 1 - self.cdf(grid)
        from scipy import integrate

        mean = low + float(integrate.simpson(above, x=grid))
        second = low**2 + float(integrate.simpson(2 * grid * above, x=grid))
        return mean, math.sqrt(max(second - mean**2, 0.0))


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Distances between two rows of d independent Gaussian coordinates with standard deviation `sigma`.

    D²/(2σ²) follows the chi-squared distribution with d degrees of freedom.
    """

    d: int
    sigma: float = 1.0

    @property
    def mean(self) -> float:
        """Mean Euclidean distance: 2σ Γ((d+1)/2) / Γ(d/2)."""
        return self.sigma * math.sqrt(2 * self.d / (1 + self.relative_variance))

    @property
    def std(self) -> float:
        """Standard deviation of the Euclidean distance."""
        return self.mean * math.sqrt(self.relative_variance)

    @property
    def relative_variance(self) -> float:
        """Var(D)/(E D)² of the Euclidean distance, near 1/(2d)."""
        return _relative_variance(self.d)

    @property
    def mean_squared(self) -> float:
        """Mean squared distance: 2dσ²."""
        return 2 * self.d * self.sigma**2

    @property
    def relative_variance_squared(self) -> float:
        """Var(D²)/(E D²)²: 2/d."""
        return 2 / self.d

    @property
    def mean_manhattan(self) -> float:
        """Mean distance for p = 1: 2dσ/√π."""
        return 2 * self.d * self.sigma / math.sqrt(math.pi)

    @property
    def relative_variance_manhattan(self) -> float:
        """Var(D)/(E D)² for p = 1: (π/2 - 1)/d."""
        return (math.pi / 2 - 1) / self.d

    def mean_chebyshev(self) -> float:
        """Mean distance for p = inf: the mean of the largest of d half-normal variables of scale √2 σ."""
        return math.sqrt(2) * self.sigma * _mean_of_largest(lambda x: special.erf(x / math.sqrt(2)), self.d, 40.0)


@dataclass(frozen=True, slots=True)
class Cube:
    """Distances between two rows of d independent coordinates uniform on [0, 1]."""

    d: int

    @property
    def mean_squared(self) -> float:
        """Mean squared Euclidean distance: d/6."""
        return self.d / 6

    @property
    def relative_variance_squared(self) -> float:
        """Var(D²)/(E D²)²: 1.4/d."""
        return 1.4 / self.d

    @property
    def mean_manhattan(self) -> float:
        """Mean distance for p = 1: d/3."""
        return self.d / 3

    @property
    def relative_variance_manhattan(self) -> float:
        """Var(D)/(E D)² for p = 1: 1/(2d)."""
        return 1 / (2 * self.d)

    def mean_power(self, p: float) -> float:
        """Mean of Σ |x - y|^p: 2d/((p+1)(p+2))."""
        return 2 * self.d / ((p + 1) * (p + 2))

    def chebyshev_cdf(self, distance: ArrayLike) -> NDArray[np.float64]:
        """Probability that the distance for p = inf is at most `distance`: (2t - t²)^d."""
        t = np.clip(np.asarray(distance, np.float64), 0, 1)
        return np.asarray((2 * t - t * t) ** self.d)

    def mean_chebyshev(self) -> float:
        """Mean distance for p = inf."""
        return _mean_of_largest(lambda t: 2 * np.minimum(t, 1) - np.minimum(t, 1) ** 2, self.d, 1.0)


def _relative_variance(d: int) -> float:
    """(d/2) (Γ(d/2) / Γ((d+1)/2))² - 1, to the last digits.

    The difference of two log-gammas would cancel for large d; its asymptotic series does not (DLMF 5.11), and smaller d
    are led to where it holds by g(d) = g(d+2) / (1 - 1/(d+1)²), with g the above plus 1.
    """
    logarithm, k = 0.0, d
    while k < 64:
        logarithm -= math.log1p(-1 / (k + 1) ** 2)
        k += 2
    square = 1 / k**2
    series = 1 / 2 - square * (1 / 12 - square * (1 / 10 - square * (17 / 56 - square * 31 / 18)))
    return math.expm1(logarithm + series / k)


def _mean_of_largest(cdf: Callable[[Any], Any], d: int, end: float) -> float:
    """Mean of the largest of d independent non-negative variables, by integrating its upper tail."""
    from scipy import integrate

    value, _ = integrate.quad(lambda x: 1 - cdf(x) ** d, 0, end, limit=200)
    return float(value)


def sphere(d: int) -> Sphere:
    """Directions uniform on the unit sphere of R^d; also the directions of Gaussian rows.

    Raises
    ------
    InvalidInputError
        d is not a whole number of at least 1.
    """
    return Sphere(_dimension(d))


def gaussian(d: int, sigma: float = 1.0) -> Gaussian:
    """Rows of d independent Gaussian coordinates with standard deviation `sigma`."""
    return Gaussian(_dimension(d), sigma)


def cube(d: int) -> Cube:
    """Rows of d independent coordinates uniform on [0, 1]."""
    return Cube(_dimension(d))


def _dimension(d: int) -> int:
    if isinstance(d, bool) or not isinstance(d, (int, np.integer)) or d < 1:
        msg = f"d must be a whole number of at least 1; got {d!r}"
        raise InvalidInputError(msg)
    return int(d)


def z(value: float, null_mean: float, null_std: float) -> float:
    """How many null standard deviations a value lies from its null mean; NaN where the null has no spread."""
    return (value - null_mean) / null_std if null_std > 0 else math.nan
