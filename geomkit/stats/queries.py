"""Exact nearest rows of a corpus for each query: screened at low precision, settled in float64, certified."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.devices import Device, place
from geomkit.core.matrix import Matrix, as_matrix, check_choice, check_same_width
from geomkit.core.threads import ieee, one_thread_each, processors
from geomkit.errors import InvalidInputError
from geomkit.kernels import PRECISIONS, Backend, load, module
from geomkit.pairwise.candidates import Nearest
from geomkit.pairwise.queries import Asked, Corpus, Queries, corpus_of, queries_of
from geomkit.pairwise.rescoring import exact_scores
from geomkit.pairwise.scores import COARSE, Form
from geomkit.pairwise.tiles import Shared
from geomkit.stats.cosine import check_threads
from geomkit.stats.neighbors import METRICS

__all__ = ["QueryNeighbors", "nearest_to"]

TILE = 768
"""Queries in a tile at most, and rows at least where there are so many: what stays in cache."""

WIDEST = 4096
"""Rows in a tile of few queries at most."""

DEVICE_TILE = 2**12
"""Queries and rows in a tile on an accelerator: 64 MiB in float32."""

BATCH = 2**13
"""Queries that are made ready together ..."""

BATCH_PLACES = 2**22
"""... unless the places for their candidates would be more (32 MiB a thread)."""

REDONE_ENTRIES = 2**22
"""Entries of a tile in which queries are redone."""


@dataclass(frozen=True)
class QueryNeighbors:
    """The k nearest rows of a corpus to each query, exact: those of float64 over all pairs, equal ones by number."""

    indices: NDArray[np.int64] = field(repr=False)
    """Row numbers of the corpus as given, nearest first, (m, k)."""
    distances: NDArray[np.float64] = field(repr=False)
    """Ascending, (m, k): 1 - cosine in [0, 2], the Euclidean distance, or minus the inner product."""
    rows: NDArray[np.int64] = field(repr=False)
    """Row numbers of the m queries that the answer is of: all of them unless some were dropped, (m,)."""
    corpus_rows: NDArray[np.int64] = field(repr=False)
    """Row numbers of the n rows that could be found: all of the corpus unless some were dropped, (n,)."""
    m: int
    """Queries answered."""
    n: int
    """Rows of the corpus that could be found."""
    d: int
    k: int
    metric: str
    n_recomputed: int
    """Queries that screening could not certify and that were redone; answers do not depend on it."""
    error_bound: float
    """Proven bound on the absolute error of a screened score before a bfloat16 product rounds it, in the units of
    `distances` (of half their square where the metric is Euclidean), over all queries."""
    backend: str
    precision: str
    """The precision that screening ran in."""
    product: str
    """The library whose matrix product ran."""
    n_dropped: int
    """Rows of the corpus left out by ``on_invalid="drop"``."""
    n_dropped_queries: int

    def to_dict(self) -> dict[str, float | int | str]:
        """Every scalar field by name."""
        left_out = {"indices", "distances", "rows", "corpus_rows"}
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in left_out}

    def __str__(self) -> str:
        return "\n".join(f"{name:<18} {value}" for name, value in self.to_dict().items())


def nearest_to(
    queries: Any,
    x: Any,
    k: int = 10,
    *,
    metric: str = "cosine",
    precision: str = "float32",
    backend: str = "auto",
    device: Device = None,
    on_invalid: str = "raise",
    threads: int | None = None,
) -> QueryNeighbors:
    """Find the k nearest rows of a corpus for each query, certified exact.

    Parameters
    ----------
    queries : array_like (m, d)
        As for `cosine_stats`, from one row upward.
    x : array_like (n, d)
        The corpus, as for `cosine_stats`. Zero rows are welcome on both sides unless the metric is cosine.
    k : int
        Rows to find for each query; 1 <= k <= n. A query that is a row of the corpus finds that row: use `neighbors`
        for rows among themselves.
    metric : {"cosine", "euclidean", "dot"}
        ``"dot"`` finds the largest inner products.
    precision : {"float32", "bfloat16", "float64"}
        Of the screening. It decides speed, not the answer.
    backend : {"auto", "cpu", "torch", "reference"}
    device : str or torch.device, optional
        One device; where the data lies unless given.
    on_invalid : {"raise", "drop"}
        What to do with rows and queries that are not finite, or zero where the metric is cosine.
    threads : int, optional
        Worker threads of the CPU backend; all processors of this process unless given.

    Returns
    -------
    QueryNeighbors

    Raises
    ------
    InvalidInputError
        One of the matrices cannot be measured, their widths differ, `k` is out of range, an argument is not one of its
        choices, or the two lie on different devices and none is named.
    BackendUnavailableError
        The library behind the backend, or the device, is missing.

    Notes
    -----
    O(m n d) time: one product of the queries with the rows. Memory beyond the input, whatever n: for each thread a
    block of rows made ready, a tile, and some 2.5 k candidates for each of at most 8192 queries at a time. Sparse rows
    take sparse queries, to which dense ones are converted; dense rows take sparse queries block by block.

    Each query's candidates are settled in float64; a query is certified when its k-th best is better than anything
    that was left out can be, by the error bound of the products. Others are redone against all rows.
    """
    check_choice(metric, "metric", tuple(METRICS))
    rows, wanted = as_matrix(x), as_matrix(queries, name="queries", min_rows=1)
    check_same_width(wanted, rows)
    _check_k(k, rows.n)
    check_threads(threads)
    rows, wanted, which = _placed(rows, wanted, backend, device)
    check_choice(precision, "precision", PRECISIONS[which])
    if precision in COARSE and rows.kind == "sparse":
        msg = f"precision {precision!r} is for dense rows; x is sparse: use 'float32'"
        raise InvalidInputError(msg)
    workers = threads or processors()
    ran = "float64" if which is Backend.REFERENCE else precision
    operations = 2.0 * rows.n * wanted.n * rows.longest_row
    dtype = module(which).storage(ran, operations)
    corpus = corpus_of(rows, which, ran, dtype, metric, on_invalid, workers)
    _check_k(k, corpus.matrix.n)
    asking = queries_of(corpus, wanted, on_invalid, workers)
    matrix = asking.matrix
    search = _Search(corpus, asking, int(k), workers, alone=threads is not None)
    found = _Found.empty(matrix.n, int(k))
    everyone = np.arange(matrix.n)
    for start in range(0, matrix.n, search.batch):
        part = everyone[start : start + search.batch]
        search.answer(corpus.left(asking, part), found)
    keep, kept = corpus.matrix.keep, matrix.keep
    return QueryNeighbors(
        indices=found.numbers if keep is None else keep[found.numbers],
        distances=found.distances,
        rows=everyone if kept is None else kept,
        corpus_rows=np.arange(corpus.matrix.n) if keep is None else keep,
        m=matrix.n,
        n=corpus.matrix.n,
        d=corpus.matrix.d,
        k=int(k),
        metric=metric,
        n_recomputed=int(found.unsure.sum()),
        error_bound=float(found.errors.max()),
        backend=which.value,
        precision=ran,
        product="numba" if corpus.sparse else str(module(which).product(ran, operations)),
        n_dropped=corpus.matrix.n_dropped,
        n_dropped_queries=matrix.n_dropped,
    )


def _check_k(k: int, n: int) -> None:
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= n:
        msg = f"k must be a whole number from 1 to n = {n}; got {k!r}"
        raise InvalidInputError(msg)


def _placed(rows: Matrix, wanted: Matrix, backend: str, device: Device) -> tuple[Matrix, Matrix, Backend]:
    places = [str(matrix.device or "cpu") for matrix in (rows, wanted)]
    if device is None and places[0] != places[1]:
        msg = f"x and queries must be on one device, or device must say where to go; got {places[0]} and {places[1]}"
        raise InvalidInputError(msg)
    rows, which = place(rows, backend, device, several=False)
    return rows, wanted.placed(rows.places), which


@dataclass(frozen=True)
class _Found:
    """Answers, filled batch by batch."""

    numbers: NDArray[np.int64]
    distances: NDArray[np.float64]
    errors: NDArray[np.float64]
    unsure: NDArray[np.bool_]

    @classmethod
    def empty(cls, m: int, k: int) -> "_Found":
        return cls(np.empty((m, k), np.int64), np.empty((m, k)), np.empty(m), np.zeros(m, bool))


class _Candidates(Nearest):
    """Candidates for the nearest rows of each query: the kernel of pairs, told that no row looks for queries.

    Rows are numbered after the queries. On the CPU the floors of all rows are as high as can be, which nothing passes;
    the other backends leave out the side of the columns of a tile that is said to lie on the diagonal.
    """

    @classmethod
    def among(cls, corpus: Corpus, m: int, keep: int) -> "_Candidates":
        entries, floor = module(corpus.backend).entries(corpus.dtype), None
        if corpus.backend is Backend.CPU:
            kind = np.dtype(module(corpus.backend).KEY.get(entries, "int32"))
            floor = np.full(m + corpus.matrix.n, np.iinfo(kind).max, kind)
            floor[:m] = np.iinfo(kind).min
        return cls(corpus.backend, m, keep, entries, corpus.device, floor)

    def update(self, tile: Any, rows: slice, cols: slice) -> None:
        """Screen one tile of queries and rows."""
        first = self.n + cols.start
        one_sided = self.backend is not Backend.CPU
        self._kernel(tile, one_sided, rows.start, first, self.lists, self.dropped, self.floor)


@dataclass(frozen=True)
class _Search:
    """One corpus, and what is asked of it."""

    corpus: Corpus
    queries: Queries
    k: int
    threads: int
    alone: bool
    """Whether the caller set the number of threads."""

    @property
    def keep(self) -> int:
        """Candidates that settle nearly every query: as many more than k as for `neighbors`."""
        k = self.k
        keep = k + k // 4 + 4 if self.corpus.precision in COARSE else k + k // 8 + 2
        return min(keep, self.corpus.matrix.n)

    @property
    def batch(self) -> int:
        """Queries at a time."""
        return max(16, min(BATCH, BATCH_PLACES // int(module(self.corpus.backend).places(self.keep))))

    def answer(self, asked: Asked, found: _Found, *, again: bool = False) -> None:
        """Answer some queries; `again` after a first try in lower precision."""
        corpus, k, h = self.corpus, self.k, len(asked.numbers)
        nearest, longest = self._screened(asked)
        values, ids, floor = nearest.candidates()
        errors, slack = corpus.bounds(asked, longest)
        weights, shifts, share = corpus.weights(asked), corpus.shifts(asked), nearest.rounding
        with np.errstate(divide="ignore", over="ignore"):
            reach = errors + slack / weights
        wanted = load("shortlist", corpus.backend)(values, np.where(ids < 0, -1, ids - h), reach, share, k)
        exact = exact_scores(corpus, asked.numbers, wanted, self.threads, self.queries, asked.divisors)
        top, numbers = load("best", corpus.backend)(exact, wanted, k)
        # Nothing is missing where no entry was ever left out; an equal score left out could have a smaller number.
        complete = np.isneginf(floor) | (self.keep == corpus.matrix.n)
        beaten = np.where(complete, 0.0, floor)
        missed = weights * (beaten + share * np.abs(beaten) + errors) + shifts + slack
        unsure = np.flatnonzero(~(complete | (missed < top[:, -1])))
        found.numbers[asked.numbers], found.distances[asked.numbers] = numbers, _distances(top, corpus, asked)
        if not again:
            units = corpus.units(asked)
            with np.errstate(invalid="ignore", over="ignore"):
                found.errors[asked.numbers] = np.where(weights > 0, errors * weights * units, 0.0)
            found.unsure[asked.numbers[unsure]] = True
        if len(unsure) == 0:
            return
        if corpus.precision in COARSE:
            finer = _Search(corpus.in_float32(), self.queries, k, self.threads, self.alone)
            finer.answer(finer.corpus.left(self.queries, asked.numbers[unsure]), found, again=True)
            return
        rest = asked.some(unsure)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            least = (top[unsure, -1] - shifts[unsure] - 2 * slack[unsure]) / weights[unsure] - errors[unsure]
        least[~(weights[unsure] > 0)] = -np.inf
        top, numbers = self._redone(rest, least)
        found.numbers[rest.numbers], found.distances[rest.numbers] = numbers, _distances(top, corpus, rest)

    def _tiles(self, h: int) -> tuple[int, int]:
        """Return how many queries and rows a tile has at most."""
        if self.corpus.matrix.on_accelerator:
            return DEVICE_TILE, DEVICE_TILE
        n, workers = self.corpus.matrix.n, self.threads
        # Wide where queries are few, and yet some blocks for each worker.
        wide = min(WIDEST, max(TILE, TILE * TILE // min(h, TILE)))
        return TILE, min(wide, max(TILE // 3, -(-n // (4 * workers))))

    def _screened(self, asked: Asked) -> tuple[_Candidates, NDArray[np.float64]]:
        """Collect candidates from all rows; and the greatest length, slip and absolute lift of any."""
        corpus, h, n = self.corpus, len(asked.numbers), self.corpus.matrix.n
        height, width = self._tiles(h)
        order = [(slice(0, h), slice(start, min(start + width, n))) for start in range(0, n, width)]
        longest = np.zeros((len(order), 3))
        first = _Candidates.among(corpus, h, self.keep)

        def work(mine: Iterator[tuple[slice, slice]], nearest: _Candidates) -> None:
            make = self._maker(asked, height, width)
            for _, cols in mine:
                right, facts = corpus.right(cols.start, cols.stop)
                longest[cols.start // width] = np.abs(facts).max(axis=1)
                for start in range(0, h, height):
                    rows = slice(start, min(start + height, h))
                    nearest.update(make(rows, right), rows, cols)

        workers = min(self.threads, len(order)) if corpus.backend is Backend.CPU else 1
        if workers == 1:
            limit = one_thread_each() if self.alone and corpus.backend is Backend.CPU else nullcontext()
            with ieee(), limit:
                work(iter(order), first)
            return first, longest.max(axis=0)
        shared, siblings = Shared(order), [first.spawn() for _ in range(workers)]
        with one_thread_each(), ieee(), ThreadPoolExecutor(workers) as pool:
            for done in [pool.submit(work, shared, each) for each in siblings]:
                done.result()
        for each in siblings:
            first.merge(each)
        return first, longest.max(axis=0)

    def _maker(self, asked: Asked, height: int, width: int) -> Callable[[slice, Any], Any]:
        """Return a function that multiplies some queries with a block of rows, into memory that it uses again."""
        corpus, memory = self.corpus, module(self.corpus.backend)
        kernel = load("sparse_gram" if corpus.sparse else "gram", corpus.backend)
        room = memory.zeros((min(height, len(asked.numbers)) * width,), corpus.dtype, corpus.device)

        def make(rows: slice, right: Any) -> Any:
            shape = rows.stop - rows.start, right.shape[0]
            out = room[: shape[0] * shape[1]].reshape(shape)
            kernel(asked.left[rows], right, out)
            return out

        return make

    def _redone(self, asked: Asked, least: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Settle all rows whose entry with a query is at least so much."""
        h, k, n = len(asked.numbers), self.k, self.corpus.matrix.n
        top, numbers = np.empty((h, k)), np.empty((h, k), np.int64)
        height = max(16, min(256, REDONE_ENTRIES // n))
        for at in range(0, h, height):
            some = asked.some(np.arange(at, min(at + height, h)))
            reached = self._at_least(some, least[at : at + height])
            exact = exact_scores(self.corpus, some.numbers, reached, self.threads, self.queries, some.divisors)
            part = slice(at, at + height)
            top[part], numbers[part] = load("best", self.corpus.backend)(exact, reached, k)
        return top, numbers

    def _at_least(self, asked: Asked, least: NDArray[np.float64]) -> NDArray[np.int64]:
        """Numbers of all rows whose entry with each of these is at least so much, (h, most), -1 for none."""
        corpus, h, memory = self.corpus, len(asked.numbers), module(self.corpus.backend)
        step = min(corpus.matrix.n, max(64, REDONE_ENTRIES // max(h, corpus.matrix.d)))
        make, found = self._maker(asked, h, step), []
        # A threshold is rounded down to the dtype of the entries.
        limits = memory.as_working(
            np.nextafter(least.astype(corpus.dtype), -np.inf)[:, None], corpus.dtype, corpus.device
        )
        for start, stop in corpus.matrix.blocks(step):
            with ieee():
                reached = make(slice(0, h), corpus.right(start, stop)[0]) >= limits
            at, row = np.nonzero(reached) if isinstance(reached, np.ndarray) else memory.to_numpy(reached.nonzero().T)
            found.append(np.stack([at, row + start]))
        at, row = np.concatenate(found, axis=1)
        order = np.argsort(at, kind="stable")
        at, row = at[order], row[order]
        counts = np.bincount(at, minlength=h)
        out = np.full((h, counts.max(initial=1)), -1)
        out[at, np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)] = row
        return out


def _distances(top: NDArray[np.float64], corpus: Corpus, asked: Asked) -> NDArray[np.float64]:
    if corpus.directed:
        return np.clip(1 - top, 0.0, 2.0)
    divisors = asked.divisors[:, None]
    if corpus.form is Form.EUCLIDEAN:
        return np.asarray(np.sqrt(np.maximum(-2 * top, 0.0)) * divisors)
    return np.asarray(-top * divisors * corpus.scale)
