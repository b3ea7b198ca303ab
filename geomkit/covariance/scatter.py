"""How rows lie about their mean: the sums from which the moments of all pairs follow, kept so that they can be merged.

With y_i = x_i - μ and a_i = |y_i|², a `Scatter` holds n, μ, M = Σ y_i y_iᵀ, S = Σ a_i, V = Σ (a_i - ā)² and
w = Σ (a_i - ā) y_i. All of them are sums about means, so nothing cancels that is not small in the data. When the mean
moves from μ to μ - s, the same rows give, exactly,

    M' = M + n s sᵀ,   S' = S + n |s|²,   V' = V + 4 s·w + 4 sᵀMs,   w' = w + 2 M s,

and two sets about one point add up after Chan, Golub & LeVeque (1983). Every sum is taken about the mean of all rows
seen so far, never about that of a block. Orders of blocks and of merging change results by rounding alone: each of
them moves a sum by a few unit roundoffs of its size.

The mean is held as the first row and an offset from it: rows far from zero are subtracted from one another before
anything is rounded, and equal rows become exactly zero.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from geomkit.kernels import Backend, module

__all__ = ["LOWEST", "DistanceMoments", "PairSums", "Part", "Scatter", "Step"]

Vector = NDArray[np.float64]

LOWEST = -1000
"""Least power of two that rows are divided by; that of a scatter without rows."""

_ROWS = 256
"""Rows of the products' matrix at a time."""


class Part(NamedTuple):
    """What a set of rows adds beside its products, seen from the joint mean."""

    squares: float
    spread: float
    skew: Vector


class Step(NamedTuple):
    """How the mean moves when rows come in."""

    delta: Vector
    """From the mean so far to that of the new rows."""
    centre: Vector
    """The joint mean, as an offset from the origin."""
    carried: Vector
    """The row whose products move those so far to the joint mean: √n s."""
    own: Part
    """What is there already, seen from the joint mean."""


class DistanceMoments(NamedTuple):
    """Mean and variance of squared distances over all pairs, and their standard errors over rows."""

    mean: float
    mean_se: float
    variance: float
    variance_se: float


@dataclass(frozen=True, slots=True)
class PairSums:
    """The sums of n rows that the moments of squared distances between them are made of, over a power of two."""

    n: int
    exponent: int
    """Rows were divided by two to this power."""
    squares: float
    """S: sum of the squared distances from the mean."""
    spread: float
    """V: sum of their squared deviations from their own mean."""
    excess: float
    """‖M‖² - S²/(n-1): never negative, and 0 for the corners of a regular simplex."""
    influence: float = math.nan
    """Standard deviation over rows of their part in the variance, times n-1; NaN where it was not asked for."""

    def distance_moments(self) -> DistanceMoments:
        """Return the moments of squared distances, over two to the power of twice the exponent, and of four times it.

        Notes
        -----
        ``E D² = 2 S / (n - 1)`` and ``Var D² = 2 V / (n - 1) + 4 (‖M‖² - S²/(n - 1)) / (n (n - 1))``, both terms of
        which are at least 0. Standard errors are those of a mean over pairs (Hoeffding 1948).
        """
        n = self.n
        mean = 2 * self.squares / (n - 1)
        if n == 2:
            return DistanceMoments(mean, math.nan, 0.0, math.nan)
        # Row i is at (n a_i + S) / (n - 1) from the others on average.
        mean_se = 2 * math.sqrt(n * self.spread / (n - 1)) / (n - 1)
        variance = 2 * self.spread / (n - 1) + 4 * self.excess / (n * (n - 1))
        return DistanceMoments(mean, mean_se, variance, 2 * self.influence / ((n - 1) * math.sqrt(n)))


class Scatter:
    """Mergeable sums of rows about their mean; see the module.

    Parameters
    ----------
    d : int
        Coordinates of a row.
    backend : Backend
        Which kernels add up products.
    device : optional
        Where the products lie; host memory unless given.

    Attributes
    ----------
    n : int
        Rows seen.
    exponent : int
        Everything is in units of two to this power (and of its powers, as its meaning asks).
    origin, offset : (d,) float64
        The first row, and the mean less it.
    products : (d, d) float64
        M; only its lower triangle counts.
    squares, spread : float
        S and V.
    skew : (d,) float64
        w.
    """

    def __init__(self, d: int, backend: Backend, device: Any = None) -> None:
        self.backend = backend
        self.device = device
        self.n = 0
        self.exponent = LOWEST
        self.origin: Vector = np.zeros(d)
        self.offset: Vector = np.zeros(d)
        self.products: Any = module(backend).zeros((d, d), "float64", device)
        self.squares = 0.0
        self.spread = 0.0
        self.skew: Vector = np.zeros(d)

    @property
    def mean(self) -> Vector:
        """Mean of the rows, (d,), over two to the power of `exponent`."""
        return self.origin + self.offset

    def copy(self) -> Self:
        """Return the same sums in memory of their own."""
        twin = type(self).__new__(type(self))
        twin.__dict__ = dict(self.__dict__)
        twin.origin, twin.offset, twin.skew = self.origin.copy(), self.offset.copy(), self.skew.copy()
        twin.products = self.products + 0
        return twin

    def rescale(self, exponent: int) -> None:
        """Go over to a larger power of two. Exact, save that what is too small to matter there becomes 0."""
        one = math.ldexp(1.0, self.exponent - exponent)
        if one != 1 and self.n:
            self.origin, self.offset = self.origin * one, self.offset * one
            self.products *= one * one
            self.squares *= one**2
            self.skew = self.skew * one**3
            self.spread *= one**4
        self.exponent = exponent

    def step(self, count: int, mean: Vector) -> Step:
        """Foresee the joint mean with `count` more rows, whose mean less the origin is `mean`."""
        delta = mean - self.offset
        shift = -delta * (count / (self.n + count))
        return Step(delta, self.offset - shift, math.sqrt(self.n) * shift, self.seen_from(shift))

    def part(self, squares: Vector, rows: Any) -> Part:
        """Sum up new rows: their squared norms about the joint mean, and the rows, which may lie about any point."""
        apart = squares - squares.mean()
        weights = module(self.backend).as_working(apart, "float64", self.device)
        skew = np.asarray(module(self.backend).to_numpy(rows.T @ weights))
        return Part(float(squares.sum()), float(apart @ apart), skew)

    def seen_from(self, shift: Vector) -> Part:
        """S, V and w of the rows so far when their mean lies at `shift`."""
        if self.n == 0 or not shift.any():
            return Part(self.squares, self.spread, self.skew)
        moved = self.times(shift)
        spread = self.spread + 4 * float(shift @ self.skew + shift @ moved)
        return Part(self.squares + self.n * float(shift @ shift), max(spread, 0.0), self.skew + 2 * moved)

    def join(self, count: int, step: Step, part: Part) -> None:
        """Take in everything about `count` rows but their products, and go where `step` foresaw."""
        squares, spread, skew = step.own
        if self.n:
            gap, weight = squares / self.n - part.squares / count, self.n * count / (self.n + count)
            spread += weight * gap * gap
            skew = skew - weight * gap * step.delta
        self.squares, self.spread, self.skew = squares + part.squares, spread + part.spread, skew + part.skew
        self.offset = step.centre
        self.n += count

    def add_rows(self, y: Any) -> None:
        """Add the products of the columns of `y`, (m, d). O(m d²)."""
        if self.backend is Backend.CPU:
            from geomkit.kernels.cpu_rows import add_products

            add_products(y, self.products)
        else:
            self.products += y.T @ y

    def add_outer(self, vector: Vector, weight: float) -> None:
        """Add the products of one row, `weight` times. O(d²)."""
        if self._elsewhere:
            there = module(self.backend).as_working(vector, "float64", self.device)
            self.products += weight * there[:, None] * there
            return
        for start in range(0, len(vector), _ROWS):
            rows = slice(start, start + _ROWS)
            self.products[rows, : start + _ROWS] += weight * vector[rows, None] * vector[: start + _ROWS]

    def merge(self, other: Self) -> Self:
        """Take in the rows of another scatter, which stays as it is. O(d²), exact up to rounding."""
        if other.n == 0:
            return self
        if self.n == 0:
            twin = other.copy()
            twin.backend, twin.device = self.backend, self.device
            twin.products = self._here(other, twin.products)
            self.__dict__ = twin.__dict__
            return self
        if other.exponent > self.exponent:
            self.rescale(other.exponent)
        elif other.exponent < self.exponent:
            other = other.copy()
            other.rescale(self.exponent)
        n, count = self.n, other.n
        step = self.step(count, (other.origin - self.origin) + other.offset)
        self.join(count, step, other.seen_from(step.delta * (n / (n + count))))
        self.products += self._here(other, other.products)
        self.add_outer(step.delta, n * count / (n + count))
        return self

    def times(self, vector: Vector) -> Vector:
        """M times a vector. O(d²)."""
        if self._elsewhere:
            lower = self.products.tril()
            there = module(self.backend).as_working(vector, "float64", self.device)
            return np.asarray(module(self.backend).to_numpy(lower @ there + lower.tril(-1).T @ there))
        from scipy.linalg.blas import dsymv

        # The lower triangle of rows is the upper one of BLAS's columns; so seen, nothing is copied.
        return np.asarray(dsymv(1.0, self.products.T, vector))

    def diagonal(self) -> Vector:
        """Sum of the squares of each coordinate about its mean, (d,)."""
        return np.array(module(self.backend).to_numpy(self.products.diagonal()))

    def frobenius(self) -> float:
        """Sum of the squares of all entries of M. O(d²)."""
        total = 0.0
        for start in range(0, len(self.skew), _ROWS):
            rows = self.products[start : start + _ROWS, : start + _ROWS]
            below, beside = rows[:, :start], rows[:, start:]
            lower = np.tril(beside) if isinstance(beside, np.ndarray) else beside.tril()
            total += 2 * (float((below * below).sum()) + float((lower * lower).sum()))
        return total - float((self.diagonal() ** 2).sum())

    def mirror(self) -> Any:
        """M with its upper triangle filled in, in place. O(d²)."""
        for start in range(0, len(self.skew), _ROWS):
            stop = start + _ROWS
            self.products[:start, start:stop] = self.products[start:stop, :start].T
            corner = self.products[start:stop, start:stop]
            if isinstance(corner, np.ndarray):
                corner[:] = np.tril(corner) + np.tril(corner, -1).T
            else:
                corner[:] = corner.tril() + corner.tril(-1).T
        return self.products

    def sums(self) -> PairSums:
        """Sum up what pairs need; of at least two rows."""
        excess = self.frobenius() - self.squares**2 / (self.n - 1)
        return PairSums(self.n, self.exponent, self.squares, self.spread, max(excess, 0.0))

    @property
    def _elsewhere(self) -> bool:
        """Whether the products are not NumPy's."""
        return not isinstance(self.products, np.ndarray)

    def _here(self, other: Self, products: Any) -> Any:
        """Products of `other` in the memory of this scatter."""
        if self.backend is other.backend and self.device == other.device:
            return products
        return module(self.backend).as_working(module(other.backend).to_numpy(products), "float64", self.device)
