"""The distribution of the squared Euclidean distance over all distinct pairs, by counting its values."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geomkit.core.devices import Device
from geomkit.core.matrix import as_matrix
from geomkit.core.result import Result
from geomkit.core.validation import BackendName, OnInvalid, Precision
from geomkit.pairwise.reducers import Tally
from geomkit.pairwise.scores import Scores, euclidean_scores
from geomkit.pairwise.sweep import sweep
from geomkit.pairwise.tiles import Tiles
from geomkit.stats.cosine import prepare
from geomkit.stats.distribution import Distribution

__all__ = ["SquaredDistanceStats", "squared_distance_stats"]


@dataclass(frozen=True)
class SquaredDistanceStats(Result):
    """The distribution of |x_i - x_j|² over all n(n-1)/2 distinct pairs of rows, in squared units of the data."""

    n: int
    d: int
    n_pairs: int
    mean: float
    """From the closed form in float64."""
    mean_se: float
    """Standard error of the mean over rows, not pairs, which share rows; NaN for n = 2."""
    std: float
    relative_variance: float
    """Var(D²)/(E D²)²: 2/d for a Gaussian, and less the more distances concentrate; NaN where all are 0."""
    skewness: float
    """NaN where all distances are equal within rounding."""
    kurtosis: float
    """Excess: 0 for a normal distribution. NaN where all distances are equal within rounding."""
    min: float
    max: float
    error_bound: float
    """Proven bound on the absolute error of any single squared distance at this precision on this data."""
    backend: str
    precision: str
    matmul: str
    """The library whose matrix product ran."""
    n_dropped: int
    distribution: Distribution = field(repr=False)
    """Of minus half the squared distance, over `unit`."""
    unit: float = field(repr=False)

    def quantile(self, q: ArrayLike) -> Any:
        """Squared distance at or below which a share `q` of the pairs lies.

        Within `error_bound` plus the rounding of the counter, ``2**-8 |value - centre|``: the centre is the mean, or
        the median of a few pairs where the mean is more than twice that. 0 and 1 give `min` and `max`.
        """
        found = np.asarray(self.distribution.quantile(1 - np.asarray(q, np.float64)))
        value = np.maximum(-2 * self.unit * found, 0.0)
        return float(value) if value.ndim == 0 else value


def squared_distance_stats(
    x: Any,
    *,
    backend: BackendName = "auto",
    device: Device = None,
    precision: Precision = "float32",
    on_invalid: OnInvalid = "raise",
    threads: int | None = None,
) -> SquaredDistanceStats:
    """Distribution of the squared Euclidean distance over all distinct pairs of rows.

    Parameters
    ----------
    x : array_like (n, d)
        Rows to measure: float16, bfloat16, float32, float64 or integers; dense or scipy sparse; n >= 2, and finite.
        They are read where they lie, block by block.
    backend : {"auto", "cpu", "torch", "triton", "reference"}
        Which kernels run; ``"auto"`` is torch for work on an accelerator and the CPU kernels otherwise.
    device : str, torch.device or a list of these, optional
        Where work happens, such as ``"cuda"``, ``"cuda:1"`` or ``"cpu"``; where the data lies unless given. Several
        devices share the work.
    precision : {"float32", "bfloat16", "float64"}; of Triton {"float32", "bfloat16", "float16", "tf32"}
        Precision of the products; `error_bound` says what it cost.
    on_invalid : {"raise", "drop"}
        What to do with rows that are not finite.
    threads : int, optional
        Worker threads of the CPU backend; all processors of this process unless given.

    Returns
    -------
    SquaredDistanceStats
        `mean` is exact in float64; `relative_variance` falls towards 0 as distances concentrate.

    Raises
    ------
    InvalidInputError
        `x` cannot be measured, or an argument is not one of its choices.
    BackendUnavailableError
        The library behind the backend, or the device, is missing.
    DeviceMemoryError
        A device has no room for the smallest tile of pairs.

    Notes
    -----
    O(n² d) time, through one product of the rows less their mean, which a far-away origin costs no digits. Counters are
    finest near the mean squared distance, or near the median of a few pairs where the mean is more than twice that.

    Examples
    --------
    >>> import numpy as np
    >>> import geomkit
    >>> x = np.random.default_rng(0).standard_normal((200, 8))
    >>> found = geomkit.squared_distance_stats(x)
    >>> print(f"{found.mean:.2f} {found.relative_variance:.3f}")
    15.59 0.249
    """
    scores = prepare(as_matrix(x), backend, precision, on_invalid, threads, euclidean_scores, device=device)
    return distances_of(scores, threads=threads)


def distances_of(scores: Scores, *, threads: int | None = None, size: int | None = None) -> SquaredDistanceStats:
    """Statistics of rows that are prepared already; `size` sets the tile."""
    n, factor = scores.n, 2 * scores.unit
    by_row = mean_square_by_row(scores)
    mean = float(by_row.mean())
    tally = Tally(scores.backend, scores.centre(-mean / 2), scores.device, origin=scores.origin, rounded=scores.rounded)
    sweep(Tiles(scores, "gram"), [tally], threads=threads, size=size)
    found = Distribution.of(tally).within(-math.inf, 0.0)
    skewness, kurtosis = found.shape(scores.bound, single=scores.dtype != "float64")
    return SquaredDistanceStats(
        n=n,
        d=scores.matrix.d,
        n_pairs=n * (n - 1) // 2,
        mean=mean * scores.unit,
        mean_se=2 * float(np.std(by_row, ddof=1)) / math.sqrt(n) * scores.unit if n > 2 else math.nan,
        std=found.std * factor,
        relative_variance=4 * found.variance / mean**2 if mean > 0 else math.nan,
        skewness=-skewness,
        kurtosis=kurtosis,
        min=-found.maximum * factor + 0.0,
        max=-found.minimum * factor + 0.0,
        error_bound=(scores.bound + (found.counter_bound if tally.rounded else 0.0)) * factor,
        backend=scores.backend.value,
        precision=scores.precision,
        matmul=scores.matmul,
        n_dropped=scores.matrix.n_dropped,
        distribution=found,
        unit=scores.unit,
    )


def mean_square_by_row(scores: Scores) -> NDArray[np.float64]:
    """Mean squared distance of each row to all others, over `unit`: (n a_i + Σ a - 2 y_i · Σ y) / (n - 1), a = |y|²."""
    n, squares = scores.n, scores.facts[0] ** 2
    along: Any = 0.0
    if scores.matrix.kind == "sparse":
        # Sparse rows are not centred.
        rows = scores.matrix.rows(0, n).astype(np.float64)
        total = np.asarray(rows.sum(axis=0)).ravel() / scores.divisors[0]
        along = np.asarray(rows @ total) / scores.divisors[0]
    return np.asarray(np.maximum((n * squares + squares.sum() - 2 * along) / (n - 1), 0.0))
