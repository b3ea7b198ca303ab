"""Distance concentration: how alike all distances are, and what is left of the nearest neighbour's lead."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geomkit.core.devices import Device, place
from geomkit.core.matrix import as_matrix
from geomkit.core.result import Result
from geomkit.core.threads import processors
from geomkit.core.validation import BackendName, OnInvalid, Precision, check_choice, check_positive, check_threads
from geomkit.covariance.accumulate import accumulate, by_columns, valid_rows
from geomkit.covariance.gram import gram_pair_sums
from geomkit.kernels import Backend, load, module
from geomkit.pairwise.normalization import Rows, centred_rows, typical_distance
from geomkit.pairwise.reducers import RowRanges, Tally
from geomkit.pairwise.scores import FAR
from geomkit.pairwise.sweep import sweep
from geomkit.pairwise.tiles import Tiles
from geomkit.stats.distribution import Distribution

__all__ = ["Concentration", "concentration", "squared_distance_moments"]

CERTAIN = 100.0
"""A nearest distance through the product is taken only where its square is this many error bounds from zero."""


@dataclass(frozen=True)
class Concentration(Result):
    """Minkowski distances over all n(n-1)/2 distinct pairs of rows, in the units of the data."""

    n: int
    d: int
    p: float
    n_pairs: int
    mean: float
    """Mean distance; infinite where d^(1/p) leaves float64 (p below about 0.01), the ratios below staying finite."""
    std: float
    relative_variance: float
    """Var(D)/(E D)²; NaN where all distances are 0. Falls towards 0 as distances concentrate."""
    relative_variance_squared: float
    """Var(D²)/(E D²)², in closed form for p = 2."""
    relative_contrast: float
    """(d_max - d_min)/d_min of each row against all others, averaged over rows (Beyer et al. 1999)."""
    relative_contrast_se: float
    """Standard error over rows."""
    nearest_to_mean: float
    """Nearest distance over mean distance of each row, averaged over rows; in [0, 1]."""
    nearest_to_mean_se: float
    n_skipped: int
    """Rows whose nearest distance is 0 (duplicates), left out of the two averages over rows."""
    n_recomputed: int
    """Rows whose nearest distance was too small to trust from the product (p = 2) and was taken from differences."""
    error_bound: float
    """Proven bound on the absolute error of any single distance at this precision on this data; NaN unless p is 2."""
    backend: str
    precision: str
    n_dropped: int
    distribution: Distribution = field(repr=False)
    """Of the distance over `unit`."""
    unit: float = field(repr=False)

    def quantile(self, q: ArrayLike) -> Any:
        """Distance at or below which a share `q` of the pairs lies; see `Distribution.quantile`."""
        return _in_units(self.distribution.quantile(q), self.unit)


def concentration(
    x: Any,
    *,
    p: float = 2.0,
    backend: BackendName = "auto",
    device: Device = None,
    precision: Precision = "float32",
    on_invalid: OnInvalid = "raise",
    threads: int | None = None,
) -> Concentration:
    """How far Minkowski distances between rows concentrate around their mean.

    Parameters
    ----------
    x : array_like (n, d)
        As for `cosine_stats`, but zero rows are welcome.
    p : float
        Order of the distance, ``(Σ |x_k - y_k|^p)^(1/p)``: any p > 0, and ``inf`` for the largest difference. Below 1
        it is not a metric (Aggarwal et al. 2001).
    precision : {"float32", "float64"}
        Of the products, or differences. `squared_distance_stats` has bfloat16 too.
    backend, device, on_invalid, threads
        As for `cosine_stats`; rows are invalid where they are not finite.

    Returns
    -------
    Concentration

    Raises
    ------
    InvalidInputError
        `x` cannot be measured, or an argument is not one of its choices.
    BackendUnavailableError, DeviceMemoryError
        As for `cosine_stats`.

    Notes
    -----
    O(n² d) time: through the matrix product for p = 2, differences otherwise. Rows are centred first, so a far-away
    origin costs no digits. A square distance computed through the product errs by at most
    ``gamma_{d+10} (|y_i|² + |y_j|²)`` with y the centred rows; a row whose nearest square is not 100 times that is
    compared with all others by differences.
    """
    check_positive(p, "p")
    check_choice(precision, "precision", ("float32", "float64"))
    check_threads(threads)
    matrix = as_matrix(x)
    matrix, which = place(matrix, backend, device)
    ran = "float64" if which is Backend.REFERENCE else precision
    return concentration_of(centred_rows(matrix, which, ran, on_invalid), float(p), threads=threads)


def concentration_of(rows: Rows, p: float, *, threads: int | None = None, size: int | None = None) -> Concentration:
    """Concentration of rows that are centred already; `size` sets the tile."""
    n, d = rows.n, rows.matrix.d
    squared: tuple[float, float] | None = None
    if p == 2:
        squared = squared_distance_moments(rows, threads)
        tiles, unit = Tiles(rows, "euclidean"), rows.scale
        centre, typical = math.sqrt(squared[0]), typical_distance(rows, p) * math.sqrt(d)
        centre = centre if centre <= FAR * typical else typical
    else:
        tiles = Tiles(rows, "minkowski", p)
        unit = rows.scale * _power(d, p)
        centre = typical_distance(rows, p)
    module(rows.backend).product(rows.dtype, tiles.operations)
    tally, ranges = Tally(rows.backend, centre, rows.device), RowRanges(rows.backend, n, rows.device)
    sweep(tiles, [tally, ranges], threads=threads, size=size)
    found = Distribution.of(tally)
    nearest, furthest, total = ranges.ranges
    recomputed = _recompute(rows, nearest) if p == 2 else 0
    apart = nearest > 0
    contrast, contrast_se = _over_rows((furthest[apart] - nearest[apart]) / nearest[apart])
    lead, lead_se = _over_rows(nearest[apart] / (total[apart] / (n - 1)))
    return Concentration(
        n=n,
        d=d,
        p=p,
        n_pairs=n * (n - 1) // 2,
        mean=float(_in_units(found.mean, unit)),
        std=float(_in_units(found.std, unit)),
        relative_variance=_ratio(found.variance, found.mean**2),
        relative_variance_squared=_ratio(squared[1], squared[0] ** 2) if squared else _squared(found),
        relative_contrast=contrast,
        relative_contrast_se=contrast_se,
        nearest_to_mean=lead,
        nearest_to_mean_se=lead_se,
        n_skipped=int(n - apart.sum()),
        n_recomputed=recomputed,
        error_bound=_error_bound(rows, found) * unit if p == 2 else math.nan,
        backend=rows.backend.value,
        precision=rows.dtype,
        n_dropped=rows.matrix.n_dropped,
        distribution=found,
        unit=unit,
    )


def squared_distance_moments(rows: Rows, threads: int | None = None) -> tuple[float, float]:
    """Mean and variance of the squared distance over all pairs, in closed form.

    Returns
    -------
    mean, variance : float
        In units of ``rows.scale``, squared and to the fourth power: in those of the data they could leave float64.
    """
    matrix, backend = rows.matrix, rows.backend
    if by_columns(matrix):
        sums = accumulate(matrix, backend, threads, "raise", directed=False)[0].raw.sums()
    else:
        matrix, norms = valid_rows(matrix, backend, "raise", directed=False)
        sums = gram_pair_sums(matrix, backend, threads or processors(), norms, forms=(0,)).sums[0]
    found = sums.distance_moments()
    # Both scales are powers of two.
    exponent = sums.exponent - math.frexp(rows.scale)[1] + 1
    return math.ldexp(found.mean, 2 * exponent), math.ldexp(found.variance, 4 * exponent)


def _power(d: int, p: float) -> float:
    """d^(1/p): what a power mean is multiplied by to be the distance."""
    try:
        return float(math.pow(d, 1 / p))
    except OverflowError:
        return math.inf


def _in_units(value: Any, unit: float) -> Any:
    """Multiply by the unit; 0 stays 0 where that is infinite."""
    return value * unit if math.isfinite(unit) else np.where(np.asarray(value) > 0, math.inf, 0.0)[()]


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else math.nan


def _squared(found: Distribution) -> float:
    """Relative variance of the squared distance from the moments of ``e = D - c``: D² - c² = 2ce + e²."""
    c, (m1, m2, m3, m4) = found.centre, found.moments
    shift = 2 * c * m1 + m2
    variance = max(4 * c * c * m2 + 4 * c * m3 + m4 - shift * shift, 0.0)
    return _ratio(variance, (c * c + shift) ** 2)


def _over_rows(values: NDArray[np.float64]) -> tuple[float, float]:
    if len(values) == 0:
        return math.nan, math.nan
    se = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), se


def _gamma(rows: Rows) -> tuple[float, float]:
    """Return what a square distance through the product errs by, over the squares of both rows, and the roundoff."""
    length, u = rows.matrix.longest_row + 10, float(np.finfo(rows.dtype).eps) / 2
    return length * u / (1 - length * u), u


def _error_bound(rows: Rows, found: Distribution) -> float:
    """Bound the error of any distance over the scale, from the largest rows and the least distance that was measured.

    Rounding moves each row by at most its roundoff, and the mean by its own. A root differs by at most the square root
    of what its square errs by, and by no more than that over the root itself.
    """
    gamma, u = _gamma(rows)
    squares = np.partition(rows.squares, -2)[-2:]
    mean = 0.0 if rows.mean is None else float(np.linalg.norm(rows.mean / rows.scale))
    moved = (u + 2.0**-50) * float(np.sqrt(squares).sum()) + 2.0**-52 * mean
    square = gamma * (1 + 2 * u) ** 2 * float(squares.sum())
    root = min(math.sqrt(square), square / found.minimum) if found.minimum > 0 else math.sqrt(square)
    return moved + root + 4 * u * (found.maximum + root)


def _recompute(rows: Rows, nearest: NDArray[np.float64]) -> int:
    """Replace nearest distances that the product could not tell from 0 by differences; return how many."""
    gamma, _ = _gamma(rows)
    unsure = np.flatnonzero(nearest**2 <= CERTAIN * gamma * (rows.squares + rows.squares.max()))
    kernel, memory = load("sparse_minkowski" if rows.sparse else "minkowski", rows.backend), module(rows.backend)
    factor, step = math.sqrt(rows.matrix.d), 512
    for at in range(0, len(unsure), step):
        mine = unsure[at : at + step]
        block = rows.take(mine)
        least = np.full(len(mine), np.inf)
        for start, stop in rows.matrix.blocks(step):
            out = memory.zeros((len(mine), stop - start), rows.dtype, rows.device)
            kernel(block, rows.block(start, stop), out, 2.0)
            own = np.flatnonzero((mine >= start) & (mine < stop))
            out[own, mine[own] - start] = np.inf
            closest = out.min(axis=1) if isinstance(out, np.ndarray) else memory.to_numpy(out.amin(dim=1))
            least = np.minimum(least, closest)
        nearest[mine] = factor * least
    return len(unsure)
