"""Intrinsic dimension: how many coordinates the rows would need, seen from neighbours, pairs, or the covariance."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.devices import Device, place
from geomkit.core.matrix import Matrix, as_matrix
from geomkit.core.result import Result
from geomkit.core.threads import processors
from geomkit.core.validation import BackendName, Metric, OnInvalid, Precision, check_choice, check_threads, check_whole
from geomkit.covariance.accumulate import accumulate, by_columns, valid_rows
from geomkit.covariance.gram import gram_pair_sums
from geomkit.errors import InvalidInputError
from geomkit.kernels import PRECISIONS, Backend, module
from geomkit.pairwise.reducers import Tally
from geomkit.pairwise.scores import Scores, cosine_scores, euclidean_scores
from geomkit.pairwise.sweep import sweep
from geomkit.pairwise.tiles import Tiles
from geomkit.stats.cosine import prepare
from geomkit.stats.distribution import Distribution
from geomkit.stats.linked import linked_error, seen
from geomkit.stats.neighbors import Neighbors, check_among_rows, neighbors

__all__ = ["METHODS", "METRICS", "IntrinsicDimension", "intrinsic_dimension", "lid_of", "logs_of", "mle_of", "twonn_of"]

METHODS = ("twonn", "mle", "lid", "pca", "correlation")
METRICS = ("euclidean", "cosine")
"""An inner product is no distance, and has no dimension."""

DISCARDED = 0.1
"""Share of the largest μ that the fit of TwoNN leaves out, as Facco et al. do."""

SHARES = 0.001, 0.05
"""Shares of the pairs at whose quantiles the two radii of the correlation dimension lie."""

RESOLVED = 10.0
"""The square of the smaller radius must be this many error bounds: the radius then moves by at most 5 %."""

LEAST_PAIRS = 10
"""Pairs that must lie within the smaller of them."""

SPECTRUM = 2048
"""Largest min(n, d) whose covariance is diagonalised: a second or two, and 32 MiB."""

VARIANCE = 0.95


@dataclass(frozen=True, kw_only=True)
class IntrinsicDimension(Result):
    """An estimate of the intrinsic dimension; dimensionless, whatever the units of the data."""

    dimension: float
    """At least 0; infinite where all the neighbours of every row are equally far."""
    dimension_se: float = math.nan
    """Standard error over rows, of `twonn` and `mle`, that allows for the neighbours that rows share; NaN for the
    others, which have no simple form, and where all rows see the same rows."""
    maximum_likelihood: float = math.nan
    """n/Σ ln μ beside the fit of `twonn`; NaN for the others."""
    components_95: int | None = None
    """Principal directions that hold 95 % of the variance, for `pca` where min(n, d) <= 2048; else None."""
    radius_low: float = math.nan
    """Radii of `correlation`, in the units of the distance; NaN for the others."""
    radius_high: float = math.nan
    n: int
    d: int
    k: int | None = None
    """Neighbours used, 2 for `twonn`; None for `pca` and `correlation`."""
    method: str
    metric: str
    """``"cosine"`` means chord distances, √(2(1 - cos)), and unit rows for `pca`."""
    n_skipped: int = 0
    """Rows left out because another lies at distance 0 from them; 0 for `pca` and `correlation`, which use all."""
    backend: str
    precision: str
    """Of the screening or the sweep; ``"float64"`` for `pca`, always."""
    n_dropped: int
    local: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)
    """Dimension at each row for `mle` and `lid`, (n,): NaN where the row was skipped, infinite where all its neighbours
    are equally far. None for the others."""


def intrinsic_dimension(
    x: Any,
    *,
    method: str = "twonn",
    k: int = 10,
    metric: Metric = "euclidean",
    precision: Precision = "float32",
    backend: BackendName = "auto",
    device: Device = None,
    on_invalid: OnInvalid = "raise",
    threads: int | None = None,
) -> IntrinsicDimension:
    """Estimate the intrinsic dimension of the rows.

    Parameters
    ----------
    x : array_like (n, d)
        As for `cosine_stats`. Zero rows are welcome unless the metric is cosine. n >= 3 for `twonn`.
    method : {"twonn", "mle", "lid", "pca", "correlation"}
        See the notes.
    k : int
        Neighbours of each row for `mle` and `lid`, itself left out; 2 <= k <= n - 1. The others do not read it.
    metric : {"euclidean", "cosine"}
        ``"cosine"`` measures chord distances √(2(1 - cos)): 1 - cos goes as their square, and would give half the
        dimension.
    precision
        As for `neighbors`: of the screening, so that it does not change answers. `correlation` takes float32 and
        float64 alone; `pca` runs in float64.
    backend, device, on_invalid, threads
        As for `cosine_stats`; one device for `pca`.

    Returns
    -------
    IntrinsicDimension

    Raises
    ------
    InvalidInputError
        `x` cannot be measured, fewer than two rows are without a duplicate (all rows are equal, for `pca`), `k` is
        out of range, an argument is not one of its choices, or `correlation` has too few rows or a radius that the
        precision does not resolve.
    BackendUnavailableError, DeviceMemoryError
        As for `cosine_stats`.

    Notes
    -----
    With r_1 <= ... <= r_k the distances of a row to its exact neighbours:

    ``twonn`` (Facco et al. 2017): μ = r_2/r_1 has 1 - F(μ) = μ^-D where density is constant over two neighbours. D is
    the slope of -ln(1 - F) on ln μ through the origin, without the largest 10 % of μ. The fit is preferred to maximum
    likelihood, n/Σ ln μ, which has the smaller error where the model holds, but in whose sum the largest μ, those of
    stray rows, weigh most.

    ``mle``: at each row ((k-1)⁻¹ Σ_{j<k} ln(r_k/r_j))⁻¹ (Levina & Bickel 2004), averaged as the inverse of the mean of
    inverses (MacKay & Ghahramani 2005): the inverses are unbiased, their inverses are not.

    ``lid`` (Amsaleg et al. 2015): at each row -(k⁻¹ Σ_{j<=k} ln(r_j/r_k))⁻¹, the k-th term, which is 0, counted, so
    that it is k/(k-1) times the local value of `mle`. The dimension is the median over rows.

    ``pca``: the participation ratio Tr(C)²/Tr(C²) of the covariance, in [1, min(n-1, d)]. n rows give about
    1/(1/D + 1/n).

    ``correlation`` (Grassberger & Procaccia 1983): slope of log C(r) on log r, C(r) the share of the pairs within r,
    between the 0.1 % and 5 % quantiles of the distance, all pairs counted, those of duplicates too. Counters are finest
    near distance 0, and not, as those of `squared_distance_stats`, near the mean, whose width is more than a small
    radius: both radii are known to 2**-9 of themselves, and to the error bound of the products. At least 142 rows.

    Neighbour methods see far too low a dimension where n is not exponential in it: on 10,000 Gaussian rows of d = 768
    `twonn` gave 173. Compare with what random rows of the same n and d give.

    Rows with a duplicate have no logarithm of a ratio: they are left out and counted, not moved. Rows beside them still
    see both, which raises the estimate by some share of duplicates; drop repeated rows where these are many. Cosines
    within ``(d + 16) 2**-52`` of 1, their rounding, are at distance 0.

    O(n² d) time, as `neighbors` and `squared_distance_stats`; `pca` O(n d min(n, d)).
    """
    check_choice(method, "method", METHODS)
    check_choice(metric, "metric", METRICS)
    check_threads(threads)
    matrix = as_matrix(x, min_rows=3 if method == "twonn" else 2)
    if method == "pca":
        matrix, which = place(matrix, backend, device, several=False)
        check_choice(precision, "precision", PRECISIONS[which])
        return _pca(matrix, which, metric, on_invalid, threads)
    if method == "correlation":
        check_choice(precision, "precision", ("float32", "float64"))
        form = cosine_scores if metric == "cosine" else euclidean_scores
        scores = prepare(matrix, backend, precision, on_invalid, threads, form, device=device)
        return _correlation(scores, metric, threads)
    if method == "twonn":
        k = 2
    else:
        check_whole(k, "k", 2, matrix.n - 1, high_is="n - 1", suffix=f" for method {method!r}")
    found = neighbors(
        x, k, metric=metric, precision=precision, backend=backend, device=device, on_invalid=on_invalid, threads=threads
    )
    return _OF[method](found)


def twonn_of(found: Neighbors) -> IntrinsicDimension:
    """TwoNN from neighbours that are there already, of which it reads two. O(n log n).

    Raises
    ------
    InvalidInputError
        There is one neighbour a row, the metric is the inner product, or fewer than two rows are without a duplicate.

    Notes
    -----
    Standard error: what each row adds to the slope, see `_fit_influence`, dependent as `linked_error` has it. ± 1.96 of
    it held the expected dimension at n in 90 to 96 % of 400 draws for each of 30 kinds of rows, as `hubness` names
    them; as if rows were independent, it would be 87 to 96 %.
    """
    logs = logs_of(found)
    used = np.isfinite(logs)
    order = np.argsort(logs[used])
    logs, n = logs[used][order], len(order)
    kept = max(1, math.floor(n * (1 - DISCARDED)))
    x, y = logs[:kept], -np.log1p(-np.arange(1, kept + 1) / n)
    slope, likely = _over(float(x @ y), float(x @ x)), _over(n, float(logs.sum()))
    links = seen(found.positions[:, :2])[used][order]
    se = linked_error(_fit_influence(x, slope, n), links) if math.isfinite(slope) else math.nan
    return _of_neighbors(found, "twonn", slope, used, k=2, dimension_se=se, maximum_likelihood=likely)


def mle_of(found: Neighbors) -> IntrinsicDimension:
    """Levina and Bickel's dimension, averaged as by MacKay and Ghahramani. O(nk); refuses what `twonn_of` does.

    Of the same 30 kinds of rows, ± 1.96 standard errors held the expected dimension in 90 to 99 % of the draws for 25,
    and 82 to 89 % for Gaussian rows of 32 dimensions and more. As if rows were independent: 90 % or more for 8.
    """
    inverse, used = _inverses(found, found.k - 1)
    kept = inverse[used]
    value = _over(1.0, float(kept.mean()))
    links = seen(found.positions)[used]
    se = value**2 * linked_error(kept - kept.mean(), links) if math.isfinite(value) else math.nan
    return _of_neighbors(found, "mle", value, used, k=found.k, dimension_se=se, local=_inverted(inverse))


def lid_of(found: Neighbors) -> IntrinsicDimension:
    """Local intrinsic dimension by maximum likelihood. O(nk); refuses what `twonn_of` does."""
    inverse, used = _inverses(found, found.k)
    local = _inverted(inverse)
    return _of_neighbors(found, "lid", float(np.median(local[used])), used, k=found.k, local=local)


_OF: dict[str, Callable[[Neighbors], IntrinsicDimension]] = {"twonn": twonn_of, "mle": mle_of, "lid": lid_of}


def logs_of(found: Neighbors) -> NDArray[np.float64]:
    """Return ln(r_2/r_1) of each row, (n,), NaN where another lies at distance 0; refuses what `twonn_of` does."""
    radii, used = _radii(found)
    out = np.full(found.n, np.nan)
    out[used] = np.log(radii[used, 1]) - np.log(radii[used, 0])
    return out


def _radii(found: Neighbors) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Distances of which a dimension can be read, (n, k), and which rows have no duplicate, (n,)."""
    check_among_rows(found)
    check_choice(found.metric, "found.metric", METRICS)
    if found.k < 2:
        msg = f"found.k must be at least 2; got {found.k}"
        raise InvalidInputError(msg)
    cosine = found.metric == "cosine"
    radii = np.sqrt(2 * found.distances) if cosine else found.distances
    # Unlike differences, a cosine of equal directions may be rounded to something below 1.
    used = found.distances[:, 0] > (_cosine_rounding(found.d) if cosine else 0.0)
    if used.sum() < 2:
        msg = (
            f"x has {int(used.sum())} rows without a duplicate: {int((~used).sum())} of {found.n} are at distance 0 "
            f"from another; it must have at least 2: drop repeated rows"
        )
        raise InvalidInputError(msg)
    return radii, used


def _cosine_rounding(d: int) -> float:
    """How far float64 may take a cosine of d coordinates."""
    return (d + 16) * 2.0**-52


def _inverses(found: Neighbors, terms: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Σ_j ln(r_k/r_j) over the number of terms, (n,), NaN where a row is skipped; and which are not."""
    radii, used = _radii(found)
    out = np.full(found.n, np.nan)
    logs = np.log(radii[used])
    out[used] = (logs[:, -1:] - logs).sum(axis=1) / terms
    return out, used


def _inverted(inverse: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        return np.asarray(1 / inverse)


def _over(one: float, other: float) -> float:
    return one / other if other > 0 else math.inf


def _fit_influence(x: NDArray[np.float64], slope: float, n: int) -> NDArray[np.float64]:
    """By how much each of n rows, in order, moves the slope through the smallest ln μ, which are `x`; times n.

    The slope is ∫ y Q / ∫ Q², Q the quantiles of ln μ and y = -ln(1 - F). A row raises F, and so lowers Q, beyond its
    own: what it adds is ∫ (y - 2 slope Q) dQ up to there, or up to the last that is kept, less the mean of that.
    """
    before = np.concatenate([[0.0], x[:-1]])
    y = -np.log1p(-np.arange(len(x)) / n)
    reached = np.cumsum((y - slope * (before + x)) * (x - before))
    whole = np.concatenate([reached, np.full(n - len(x), reached[-1])])
    return np.asarray((whole - whole.mean()) * n / float(x @ x))


def _of_neighbors(
    found: Neighbors, method: str, value: float, used: NDArray[np.bool_], **more: Any
) -> IntrinsicDimension:
    skipped = int((~used).sum())
    return _result(found, found.metric, method, value, found.backend, found.precision, n_skipped=skipped, **more)


def _result(
    of: Neighbors | Matrix, metric: str, method: str, value: float, backend: Backend | str, precision: str, **more: Any
) -> IntrinsicDimension:
    return IntrinsicDimension(
        dimension=value,
        n=of.n,
        d=of.d,
        method=method,
        metric=metric,
        backend=Backend(backend).value,
        precision=precision,
        n_dropped=of.n_dropped,
        **more,
    )


def _correlation(scores: Scores, metric: str, threads: int | None) -> IntrinsicDimension:
    n_pairs = scores.n * (scores.n - 1) // 2
    if n_pairs * SHARES[0] < LEAST_PAIRS:
        least = math.ceil((1 + math.sqrt(1 + 8 * LEAST_PAIRS / SHARES[0])) / 2)
        msg = f"x has {scores.n} rows; it must have at least {least} for method 'correlation'"
        raise InvalidInputError(msg)
    # Half a squared distance is what a score lacks of the score of a row with itself.
    top, low = (1.0, -1.0) if metric == "cosine" else (0.0, -math.inf)
    tally = Tally(scores.backend, top, scores.device, origin=scores.origin)
    sweep(Tiles(scores, "gram"), [tally], threads=threads)
    found = Distribution.of(tally).within(low, top)
    edges = np.array([found.quantile(1 - share) for share in SHARES])
    squares = 2 * (top - edges)
    if not squares[0] >= RESOLVED * 2 * scores.bound:
        msg = (
            f"x has {SHARES[0]:.1%} of its pairs at squared distances up to {squares[0] * scores.unit:.3g}, which must "
            f"be {RESOLVED:g} times the error bound in {scores.precision}, {2 * scores.bound * scores.unit:.3g}: drop "
            f"repeated rows, or use precision='float64'"
        )
        raise InvalidInputError(msg)
    within = found.n - found.cumulative(edges)
    rise = float(np.log(within[1] / within[0]))
    value = _over(rise, 0.5 * float(np.log(squares[1] / squares[0])))
    first, last = (float(np.sqrt(square) * math.sqrt(scores.unit)) for square in squares)
    ran = scores.backend, scores.precision
    return _result(scores.matrix, metric, "correlation", value, *ran, radius_low=first, radius_high=last)


def _pca(matrix: Matrix, backend: Backend, metric: str, on_invalid: str, threads: int | None) -> IntrinsicDimension:
    """Read the covariance from the smaller of the products of columns and those of rows, whose spectra agree."""
    form, directed = METRICS.index(metric), metric == "cosine"
    products: Any = None
    if by_columns(matrix):
        pair, matrix, _ = accumulate(matrix, backend, threads, on_invalid, directed=directed)
        sums = pair.both[form].sums()
        if matrix.d <= SPECTRUM:
            products = module(backend).to_numpy(pair.both[form].products)
    else:
        matrix, norms = valid_rows(matrix, backend, on_invalid, directed=directed)
        held = form if matrix.n <= SPECTRUM else None
        wide = gram_pair_sums(matrix, backend, threads or processors(), norms, hold=held, forms=(form,))
        sums, products = wide.sums[form], wide.gram if held is not None else None
    n, trace = matrix.n, sums.squares
    # Equal directions may be rounded apart where their lengths differ.
    least = n * _cosine_rounding(matrix.d) ** 2 if directed else 0.0
    if not trace > least:
        msg = f"x has {n} {'directions' if directed else 'rows'} that are all equal; some must differ"
        raise InvalidInputError(msg)
    components = None if products is None else _components(np.asarray(products), trace)
    ratio = trace * trace / (sums.excess + trace * trace / (n - 1))
    return _result(matrix, metric, "pca", ratio, backend, "float64", components_95=components)


def _components(products: NDArray[np.float64], trace: float) -> int:
    """How many of the largest eigenvalues of a symmetric matrix, of which the lower triangle counts, reach 95 %."""
    shares = np.cumsum(np.linalg.eigvalsh(products)[::-1]) / trace
    # 19 of 20 equal eigenvalues are 95 %, whatever their rounding.
    return int(np.argmax(shares >= VARIANCE - len(shares) * 2.0**-50)) + 1
