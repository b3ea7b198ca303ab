"""How queries fit a corpus: how many lie outside it, and how evenly its rows are retrieved."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.devices import Device
from geomkit.core.result import Result
from geomkit.errors import InvalidInputError
from geomkit.stats.neighbors import Neighbors, check_among_rows, neighbors

__all__ = ["QueryFit", "query_fit", "query_fit_of"]


@dataclass(frozen=True)
class QueryFit(Result):
    """How m queries fit the n rows of a corpus. All but counts and the threshold is dimensionless.

    Nulls are of two kinds: queries drawn as the rows were, for what lies outside; and queries that each retrieve k rows
    drawn uniformly, for how evenly rows are retrieved.
    """

    occurrence: NDArray[np.int64] = field(repr=False)
    """How many queries have each row of the corpus among their k nearest, (n,), in [0, m]; their mean is m k / n."""
    rows: NDArray[np.int64] = field(repr=False)
    """Row numbers of the corpus that `occurrence` is of, (n,): all of them unless some were dropped."""
    m: int
    """Queries."""
    n: int
    """Rows of the corpus."""
    d: int
    k: int
    metric: str
    quantile: float
    """Which quantile of the rows' own nearest distances is the threshold, in (0, 1)."""
    threshold: float
    """That quantile, in the units of `Neighbors.distances`: the ⌈`quantile` (n + 1)⌉-th smallest of the n distances of
    rows to the nearest other row, or the largest where n is too small for that."""
    outside_fraction: float
    """Share of queries whose nearest row is further than `threshold`, by more than rounding; in [0, 1]."""
    outside_fraction_se: float
    """Standard error over queries, the corpus held fixed: binomial."""
    outside_null_mean: float
    """Expected share for queries drawn as the rows were, (n + 1 - j)/(n + 1) with j the rank of the threshold: 1 -
    `quantile` but for rounding it to a rank. Equal distances can only bring it lower."""
    outside_null_std: float
    """Standard deviation of that share, binomial and that of the threshold: the count is beta-binomial."""
    outside_z: float
    """(share - null mean) / null std."""
    skewness: float
    """Third standardised moment of `occurrence` over the n rows; NaN where all are equal."""
    skewness_se: float
    """Delete-one jackknife over the m queries, which are the sample, the corpus held fixed; NaN where skewness is, and
    where leaving out a query makes all occurrences equal or there is but one query."""
    skewness_null: float
    """That of the binomial distribution of an occurrence under uniform retrieval, (1 - 2p)/√(m p (1 - p)), p = k/n; NaN
    for k = n."""
    never_fraction: float
    """Share of rows that no query has among its k nearest, in [0, 1)."""
    never_null_mean: float
    """Its expectation under uniform retrieval, (1 - k/n)^m."""
    never_null_std: float
    """Its standard deviation under uniform retrieval, exact."""
    largest_occurrence: int
    """Queries that have the most retrieved row among their k nearest, in [1, m]."""
    backend: str
    precision: str
    """The precision that screening ran in."""
    n_dropped: int
    n_dropped_queries: int


def query_fit(
    queries: Any,
    x: Any,
    k: int = 10,
    *,
    metric: str = "cosine",
    quantile: float = 0.99,
    precision: str = "float32",
    backend: str = "auto",
    device: Device = None,
    on_invalid: str = "raise",
    threads: int | None = None,
) -> QueryFit:
    """How queries fit a corpus, from exact nearest rows.

    Parameters
    ----------
    queries, x, k, metric, precision, backend, device, on_invalid, threads
        As for `neighbors`.
    quantile : float
        In (0, 1). A query lies outside where its nearest row is further than this quantile of the distances of rows to
        the nearest other row.

    Returns
    -------
    QueryFit

    Raises
    ------
    InvalidInputError
        As for `neighbors`, or `quantile` is not in (0, 1).
    BackendUnavailableError, DeviceMemoryError
        As for `neighbors`.

    Notes
    -----
    Time and memory as for `neighbors` with queries, and without them with k = 1.
    """
    _check_quantile(quantile)
    settings: dict[str, Any] = {
        "metric": metric, "precision": precision, "backend": backend, "device": device, "on_invalid": on_invalid,
        "threads": threads,
    }  # fmt: skip
    return query_fit_of(neighbors(x, k, queries=queries, **settings), neighbors(x, 1, **settings), quantile)


def query_fit_of(found: Neighbors, corpus: Neighbors, quantile: float = 0.99) -> QueryFit:
    """Read how queries fit a corpus from nearest rows that are there already.

    Parameters
    ----------
    found : Neighbors
        Nearest rows of each query.
    corpus : Neighbors
        Neighbours of the rows of the same corpus, by the same metric; the nearest of each is read.
    quantile : float
        As for `query_fit`.

    Returns
    -------
    QueryFit

    Raises
    ------
    InvalidInputError
        The two are not of the same corpus or metric, `found` is not of queries, `corpus` is, or `quantile` is not in
        (0, 1).

    Notes
    -----
    O(n log n + m k). Were the n + 1 nearest distances of the rows and of one query exchangeable, the share of queries
    beyond the j-th of n would follow a beta distribution with parameters n + 1 - j and j, so that the count is
    beta-binomial: mean p = (n + 1 - j)/(n + 1) and variance p (1 - p)(n + 1 + m)/(m (n + 2)). They nearly are: rows
    look among n - 1 others and queries among n, and rows that are nearest to each other have one distance. Over 300
    draws of Gaussian rows (n = 1000, m = 300, d = 8 and 64, by cosine and by distance) the mean was within 0.001 of p
    and the standard deviation 0.97 to 1.0 times what it says.

    Over queries drawn anew, the standard deviation of the skewness was 0.55 to 1.1 times what `skewness_se` says: it is
    about right where there are hubs, and too wide where retrieval is near uniform (Gaussian rows, n = 1000, m from 100
    to 3000).

    By ``"dot"`` a query is far where its largest inner product is small, as it is for a short query.
    """
    _check_quantile(quantile)
    _check_same_corpus(found, corpus)
    n, m, k = found.n, found.m, found.k
    rank = min(n, math.ceil(quantile * (n + 1)))
    threshold = float(np.partition(corpus.distances[:, 0], rank - 1)[rank - 1])
    # What float64 may be off by, absolute for a cosine and relative otherwise, is not outside.
    slack = 8 * (found.d + 16) * 2.0**-53 * (1 if found.metric == "cosine" else abs(threshold))
    share = float(np.mean(found.distances[:, 0] > threshold + slack))
    expected = (n + 1 - rank) / (n + 1)
    sd = math.sqrt(expected * (1 - expected) * (n + 1 + m) / (m * (n + 2)))
    places = found.positions
    occurrence = np.bincount(places.ravel(), minlength=n).astype(np.int64)
    skewness, skewness_se = _skewness(occurrence, places)
    p = k / n
    never, never_std = _never(n, m, k)
    return QueryFit(
        occurrence=occurrence,
        rows=found.corpus_rows,
        m=m,
        n=n,
        d=found.d,
        k=k,
        metric=found.metric,
        quantile=float(quantile),
        threshold=threshold,
        outside_fraction=share,
        outside_fraction_se=math.sqrt(share * (1 - share) / m),
        outside_null_mean=expected,
        outside_null_std=sd,
        outside_z=(share - expected) / sd,
        skewness=skewness,
        skewness_se=skewness_se,
        skewness_null=(1 - 2 * p) / math.sqrt(m * p * (1 - p)) if k < n else math.nan,
        never_fraction=float(np.mean(occurrence == 0)),
        never_null_mean=never,
        never_null_std=never_std,
        largest_occurrence=int(occurrence.max()),
        backend=found.backend,
        precision=found.precision,
        n_dropped=found.n_dropped,
        n_dropped_queries=found.n_dropped_queries,
    )


def _check_quantile(quantile: float) -> None:
    is_number = isinstance(quantile, (int, float, np.integer, np.floating)) and not isinstance(quantile, bool)
    if not is_number or not 0 < quantile < 1:
        msg = f"quantile must be a number above 0 and below 1; got {quantile!r}"
        raise InvalidInputError(msg)


def _check_same_corpus(found: Neighbors, corpus: Neighbors) -> None:
    check_among_rows(corpus, "corpus")
    if not found.of_queries:
        msg = "found must be nearest rows to queries, of geomkit.neighbors(x, k, queries=...); it is of the rows of x"
        raise InvalidInputError(msg)
    for name, one, other in (
        ("metric", found.metric, corpus.metric),
        ("number of columns", found.d, corpus.d),
        ("number of rows", found.n, corpus.n),
    ):
        if one != other:
            msg = f"found and corpus must be of one corpus and metric; their {name} is {one!r} and {other!r}"
            raise InvalidInputError(msg)
    if not np.array_equal(found.corpus_rows, corpus.rows):
        msg = "found and corpus must be of one corpus and metric; not the same rows of it were dropped"
        raise InvalidInputError(msg)


def _skewness(occurrence: NDArray[np.int64], places: NDArray[np.int64]) -> tuple[float, float]:
    """Skewness, and its standard error by leaving out each query in turn; from sums of whole numbers."""
    n, (m, k) = len(occurrence), places.shape
    counts = occurrence.astype(np.float64)
    mean = m * k / n
    second, third = (np.sum((counts - mean) ** power, keepdims=True) for power in (2, 3))
    full = _standardised(second, third, n)
    if m < 2:
        return float(full[0]), math.nan
    # About the mean without a query, of which k rows have one occurrence less.
    without = (m - 1) * k / n
    apart = counts - without
    own = apart[places]
    second, third = (np.sum(apart**power) + np.sum((own - 1) ** power - own**power, axis=1) for power in (2, 3))
    leaving = _standardised(second, third, n)
    return float(full[0]), float(np.std(leaving)) * math.sqrt(m - 1)


def _standardised(second: NDArray[np.float64], third: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Third moments over the 3/2 powers of second ones, from sums of powers; NaN where there is no spread."""
    spread = second > 1e-9
    return np.where(spread, third / n / np.where(spread, second / n, 1.0) ** 1.5, math.nan)


def _never(n: int, m: int, k: int) -> tuple[float, float]:
    """Mean and standard deviation of the share of rows in none of m uniformly drawn sets of k."""
    if k == n:
        return 0.0, 0.0
    none = math.exp(m * math.log1p(-k / n))
    variance = none * (1 - none) / n
    # Two rows are in none with probability ((n - k)(n - k - 1) / (n (n - 1)))^m, which for k = n - 1 is 0.
    both = math.expm1(m * math.log1p(-k / ((n - 1) * (n - k)))) if k < n - 1 else -1.0
    return none, math.sqrt(max(variance + (n - 1) / n * none**2 * both, 0.0))
