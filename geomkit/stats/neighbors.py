"""Exact nearest neighbours, of rows among themselves or of queries among rows, certified by error bounds."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.deprecated import PUBLIC, withdrawn
from geomkit.core.devices import Device, check_one_place, place
from geomkit.core.matrix import Matrix, as_matrix, check_same_width
from geomkit.core.result import Result
from geomkit.core.threads import processors
from geomkit.core.validation import check_choice, check_threads
from geomkit.errors import InvalidInputError
from geomkit.kernels import Backend, module
from geomkit.pairwise.queries import queries_of
from geomkit.pairwise.scores import (
    Scores,
    corpus_scores,
    cosine_scores,
    euclidean_scores,
    product_scores,
)
from geomkit.pairwise.search import SearchResult, search_queries, search_rows
from geomkit.pairwise.tiles import PairReducer
from geomkit.stats.cosine import check_precision, prepare

__all__ = ["METRICS", "Neighbors", "neighbors"]

METRICS = {"cosine": cosine_scores, "euclidean": euclidean_scores, "dot": product_scores}
"""Which score stands behind a metric."""


@dataclass(frozen=True)
class Neighbors(Result):
    """The k nearest other rows of each row, or the k nearest rows to each query.

    They are exact: those that float64 over all pairs gives, equal ones by number.
    """

    indices: NDArray[np.int64] = field(repr=False)
    """Row numbers of the input, nearest first, (m, k)."""
    distances: NDArray[np.float64] = field(repr=False)
    """Ascending, (m, k): 1 - cosine in [0, 2], the Euclidean distance, or minus the inner product."""
    rows: NDArray[np.int64] = field(repr=False)
    """Row numbers of the input, or of the queries, that the m lists are of: all of them unless some were dropped."""
    corpus_rows: NDArray[np.int64] = field(repr=False)
    """Row numbers of the n rows that could be found: all of the input unless some were dropped; the same as `rows`
    where there are no queries."""
    of_queries: bool
    """Whether lists are those of queries, and not of the rows themselves."""
    m: int
    """Lists: rows, or queries."""
    n: int
    """Rows that could be found."""
    d: int
    k: int
    metric: str
    n_recomputed: int
    """Rows or queries that screening could not certify and that were redone; answers do not depend on it."""
    error_bound: float
    """Proven bound on the absolute error of a screened score before a bfloat16 product rounds it, in the units of
    `distances` (of half their square where the metric is Euclidean)."""
    backend: str
    precision: str
    """The precision that screening ran in."""
    matmul: str
    """The library whose matrix product ran."""
    n_dropped: int
    """Rows left out by ``on_invalid="drop"``."""
    n_dropped_queries: int
    """Queries left out by it; 0 where there are none."""

    @property
    def positions(self) -> NDArray[np.int64]:
        """Neighbours by their place among the n rows that could be found, (m, k), whatever was dropped before them."""
        return np.searchsorted(self.corpus_rows, self.indices) if self.n_dropped else self.indices


def neighbors(
    x: Any,
    k: int = 10,
    *,
    queries: Any = None,
    metric: str = "cosine",
    precision: str = "float32",
    backend: str = "auto",
    device: Device = None,
    on_invalid: str = "raise",
    threads: int | None = None,
) -> Neighbors:
    """Find the k nearest other rows of each row, or the k nearest rows to each query, certified exact.

    Parameters
    ----------
    x : array_like (n, d)
        The rows among which neighbours are found: float16, bfloat16, float32, float64 or integers; a NumPy array or
        memory map, a torch tensor, a scipy sparse matrix or shards. Finite; zero rows are welcome unless the metric is
        cosine. Read where it lies, block by block.
    k : int
        Neighbours to find. Without queries a row is not its own neighbour, and 1 <= k <= n - 1. With queries
        1 <= k <= n, and a query that is a row of `x` finds that row.
    queries : array_like (m, d), optional
        Whose neighbours are found, from one row upward, of the same kinds as `x`; the rows of `x` unless given.
    metric : {"cosine", "euclidean", "dot"}
        ``"dot"`` finds the largest inner products.
    precision : {"float32", "bfloat16", "float64"}; of Triton {"float32", "bfloat16", "float16", "tf32"}
        Of the screening. It decides speed, not the answer. Sparse rows are screened in float32 or float64.
    backend : {"auto", "cpu", "torch", "triton", "reference"}
        ``"auto"`` is torch for work on an accelerator and the CPU kernels otherwise. Triton does not take queries.
    device : str, torch.device or a list of these, optional
        Where work happens, such as ``"cuda"`` or ``"cpu"``: where the data lies unless given. Several devices share out
        the pairs of rows; queries take one device.
    on_invalid : {"raise", "drop"}
        What to do with rows and queries that are not finite, or zero where the metric is cosine.
    threads : int, optional
        Worker threads of the CPU backend; all processors of this process unless given.

    Returns
    -------
    Neighbors
        `indices` and `distances` hold the lists, nearest first; `rows` says whose they are.

    Raises
    ------
    InvalidInputError
        A matrix cannot be measured, the widths of `x` and `queries` differ, `k` is out of range, an argument is not one
        of its choices, or the two lie on different devices and none is named.
    BackendUnavailableError
        The library behind the backend, or the device, is missing.
    DeviceMemoryError
        A device has no room for the smallest tile of pairs.

    Notes
    -----
    Without queries: O(n² d) time, half of it saved by reading each tile of pairs for its rows and for its columns.
    Beyond the input, memory holds the rows made ready, up to 256 MiB, a tile for each thread, and 8 bytes for each of
    about 2.5 k candidates a row and thread.

    With queries: O(m n d) time. Beyond the input, memory holds for each thread a block of rows made ready, a tile, and
    some 2.5 k candidates for each of at most 8192 queries at a time, whatever n. Sparse rows take sparse queries, to
    which dense ones are converted; dense rows take sparse queries block by block.

    The candidates of each row or query are ranked in float64. A list is certified when its k-th best is better than
    anything that was left out can be, by the error bound of the products. Others are redone against all rows.

    Examples
    --------
    >>> import geomkit
    >>> x = [[1.0, 0.0], [2.0, 0.1], [0.0, 1.0]]
    >>> geomkit.neighbors(x, 1).indices.tolist()
    [[1], [0], [1]]
    >>> geomkit.neighbors(x, 2, queries=[[0.0, 3.0]]).indices.tolist()
    [[2, 1]]
    """
    check_choice(metric, "metric", tuple(METRICS))
    matrix = as_matrix(x)
    if queries is None:
        scores = scores_among(matrix, k, metric, precision, backend, device, on_invalid, threads)
        return neighbors_among(scores, k, metric, threads=threads)
    query_matrix = as_matrix(queries, name="queries", min_rows=1)
    check_same_width(query_matrix, matrix)
    _check_k(k, matrix.n, "n")
    check_threads(threads)
    check_one_place(matrix, query_matrix, device)
    matrix, which = place(matrix, backend, device, several=False)
    check_precision(matrix, which, precision)
    ran, workers = "float64" if which is Backend.REFERENCE else precision, threads or processors()
    operations = 2.0 * matrix.n * query_matrix.n * matrix.longest_row
    dtype = module(which).storage(ran, operations)
    scores = corpus_scores(matrix, which, ran, metric, on_invalid, dtype=dtype, threads=workers)
    _check_k(k, scores.n, "n")
    usable = queries_of(scores, query_matrix.placed(matrix.places), on_invalid, workers)
    result = search_queries(scores, usable, int(k), threads=threads)
    matmul = "numba" if scores.sparse else str(module(which).product(ran, operations))
    return _neighbors_from(scores, result, metric, matmul, usable.matrix)


def scores_among(
    matrix: Matrix,
    k: int,
    metric: str,
    precision: str,
    backend: str,
    device: Device,
    on_invalid: str,
    threads: int | None,
) -> Scores:
    """Make the rows of a checked matrix ready for neighbours among themselves; arguments as for `neighbors`."""
    check_k(k, matrix.n)
    scores = prepare(matrix, backend, precision, on_invalid, threads, METRICS[metric], device=device)
    check_k(k, scores.n)
    return scores


def neighbors_among(scores: Scores, k: int, metric: str, *others: PairReducer, threads: int | None = None) -> Neighbors:
    """Find the k nearest others of each row, in a sweep that feeds other reducers, too."""
    return _neighbors_from(scores, search_rows(scores, int(k), *others, threads=threads), metric, scores.matmul)


def check_k(k: int, n: int) -> None:
    """Refuse what is not a number of neighbours that n rows can have among themselves."""
    _check_k(k, n - 1, "n - 1")


def _check_k(k: int, most: int, name: str) -> None:
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= most:
        msg = f"k must be a whole number from 1 to {name} = {most}; got {k!r}"
        raise InvalidInputError(msg)


def check_among_rows(found: Neighbors, name: str = "found") -> None:
    """Refuse the nearest rows to queries where neighbours of rows among themselves are needed."""
    if found.of_queries:
        msg = (
            f"{name} must be neighbours of the rows of x among themselves; it is of {found.m} queries: call "
            "geomkit.neighbors(x, k) without queries"
        )
        raise InvalidInputError(msg)


def _neighbors_from(
    scores: Scores, result: SearchResult, metric: str, matmul: str, queries: Matrix | None = None
) -> Neighbors:
    matrix = scores.matrix
    everyone = matrix.in_input(np.arange(matrix.n))
    return Neighbors(
        indices=matrix.in_input(result.numbers),
        distances=result.distances,
        rows=everyone if queries is None else queries.in_input(np.arange(queries.n)),
        corpus_rows=everyone,
        of_queries=queries is not None,
        m=len(result.numbers),
        n=matrix.n,
        d=matrix.d,
        k=result.numbers.shape[1],
        metric=metric,
        n_recomputed=result.n_recomputed,
        error_bound=result.error_bound,
        backend=scores.backend.value,
        precision=scores.precision,
        matmul=matmul,
        n_dropped=matrix.n_dropped,
        n_dropped_queries=0 if queries is None else queries.n_dropped,
    )


def _nearest_to(queries: Any, x: Any, k: int = 10, **settings: Any) -> Neighbors:
    """Find the k nearest rows to each query: the deprecated name of `neighbors` with `queries`.

    Parameters
    ----------
    queries, x, k
        As for `neighbors`.
    **settings
        Its keywords.

    Returns
    -------
    Neighbors
    """
    return neighbors(x, k, queries=queries, **settings)


def __getattr__(name: str) -> Any:
    if PUBLIC.get(name, ("",))[0] == __name__:
        return withdrawn(name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
