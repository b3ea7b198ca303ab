"""The k nearest rows, exact: screened by inexact products, ranked in float64, certified, and redone where need be.

Rows look for others among themselves, or queries look for rows: one algorithm. Of each, candidates are kept from
products of low precision; `exact_scores` ranks them in float64. The k-th best is certified when it is better than
anything that was left out can be, by the error bound of the products. What is not certified is compared with all rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomkit.core.threads import ieee, processors
from geomkit.kernels import load, module
from geomkit.pairwise.candidates import Nearest, NearestToQueries
from geomkit.pairwise.queries import Queries, QueryBatch, query_batch, query_bounds
from geomkit.pairwise.rescoring import exact_scores
from geomkit.pairwise.scores import COARSE, EntryBounds, Form, Scores
from geomkit.pairwise.sweep import in_threads, sweep
from geomkit.pairwise.tiles import PairReducer, Tiles

__all__ = ["SearchResult", "candidates_of", "search_queries", "search_rows", "settled"]

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
"""Entries of a tile in which rows or queries are redone."""

Numbers = NDArray[np.int64]
Array = NDArray[np.float64]


class SearchResult(NamedTuple):
    """The k nearest rows of each row or query, nearest first."""

    numbers: Numbers
    """Row numbers, (m, k)."""
    distances: Array
    """1 - cosine, the Euclidean distance, or minus the inner product, (m, k)."""
    n_recomputed: int
    """How many were not certified, and redone."""
    error_bound: float
    """Of entries before they are rounded to bfloat16, in the units of the data."""


def n_candidates(scores: Scores, k: int, n: int) -> int:
    """Return how many candidates settle nearly every row or query, of n that there are."""
    # What lies between the k-th best and the last kept must exceed the error bound of the products.
    return min(k + k // 4 + 4 if scores.precision in COARSE else k + k // 8 + 2, n)


def candidates_of(scores: Scores, k: int) -> Nearest:
    """Return an empty reducer that keeps the candidates of each row among the others."""
    entries = module(scores.backend).entries(scores.dtype)
    return Nearest(scores.backend, scores.n, n_candidates(scores, k, scores.n - 1), entries, scores.device)


def search_rows(scores: Scores, k: int, *others: PairReducer, threads: int | None = None) -> SearchResult:
    """Find the k nearest others of each row, in a sweep that feeds other reducers, too."""
    nearest = candidates_of(scores, k)
    sweep(Tiles(scores, "gram"), [*others, nearest], threads=threads)
    return settled(scores, nearest, k, threads=threads)


def settled(scores: Scores, nearest: Nearest, k: int, *, threads: int | None = None) -> SearchResult:
    """Rank the candidates of a finished sweep over the rows, and redo the rows that they do not settle."""
    everyone, search = np.arange(scores.n), _Search(scores, k, threads)
    bounds = scores.entry_bounds
    top, numbers, unsure = search.certified(everyone, scores.divisors, nearest, bounds)
    error_bound = bounds.largest
    if len(unsure) and scores.precision in COARSE:
        finer = replace(scores, precision="float32", dtype="float32", resident=None).prepared(search.workers)
        if 2 * len(unsure) > scores.n:
            # Half of all pairs in one sweep are fewer than more than half of the rows with all others.
            again = search_rows(finer, k, threads=threads)
            return again._replace(n_recomputed=scores.n, error_bound=error_bound)
        search, bounds = _Search(finer, k, threads), finer.entry_bounds
    if len(unsure):
        take = search.scores.take
        top[unsure], numbers[unsure] = search.redone(
            unsure, scores.divisors[unsure], lambda part: take(unsure[part]), top[unsure, -1], bounds.of(unsure)
        )
    return SearchResult(numbers, _distances(top, scores, scores.divisors), len(unsure), error_bound)


def search_queries(scores: Scores, queries: Queries, k: int, *, threads: int | None = None) -> SearchResult:
    """Find the k nearest rows to each query.

    Parameters
    ----------
    scores : Scores
        Of `corpus_scores`.
    queries : Queries
    k : int
    threads : int, optional
        Worker threads of the CPU backend; all processors of this process unless given.

    Raises
    ------
    InvalidInputError
        Some queries are further from the rows than float64 can say.

    Notes
    -----
    Memory beyond the input, whatever n: for each thread a block of rows made ready, a tile, and the candidates of a
    batch of queries.
    """
    search, everyone = _Search(scores, k, threads, queries), np.arange(queries.matrix.n)
    places = int(module(scores.backend).places(n_candidates(scores, k, scores.n)))
    batch = max(16, min(BATCH, BATCH_PLACES // places))
    answers = [search.answered(queries, everyone[start : start + batch]) for start in range(0, len(everyone), batch)]
    numbers, distances, recomputed, error_bounds = zip(*answers, strict=True)
    return SearchResult(np.concatenate(numbers), np.concatenate(distances), sum(recomputed), max(error_bounds))


@dataclass(frozen=True)
class _Search:
    """Rows that look for rows among themselves, or queries that do."""

    scores: Scores
    k: int
    threads: int | None
    queries: Queries | None = None

    @property
    def workers(self) -> int:
        """Worker threads of the CPU backend."""
        return self.threads or processors()

    def exact(self, numbers: Numbers, divisors: Array, candidates: Numbers) -> tuple[Array, Numbers]:
        """Return the k best of the candidates, by their scores in float64."""
        scores = exact_scores(self.scores, numbers, candidates, self.workers, self.queries, divisors)
        best: tuple[Array, Numbers] = load("best", self.scores.backend)(scores, candidates, self.k)
        return best

    def certified(
        self, numbers: Numbers, divisors: Array, nearest: Nearest, bounds: EntryBounds
    ) -> tuple[Array, Numbers, Numbers]:
        """Return scores and numbers of the k best candidates, and which rows or queries they do not settle."""
        values, ids, floor = nearest.candidates()
        errors, lost, weights, shifts, _ = bounds
        with np.errstate(divide="ignore", over="ignore"):
            reach = errors + lost / weights
        likely = load("shortlist", self.scores.backend)(values, ids, reach, nearest.rounding, self.k)
        top, best = self.exact(numbers, divisors, likely)
        # Nothing is missing where no entry was ever left out; an equal score left out could have a smaller number.
        complete = np.isneginf(floor) | (nearest.keep == self.scores.n - (self.queries is None))
        beaten = np.where(complete, 0.0, floor)
        missed = weights * (beaten + nearest.rounding * np.abs(beaten) + errors) + shifts + lost
        return top, best, np.flatnonzero(~(complete | (missed < top[:, -1])))

    def redone(
        self, numbers: Numbers, divisors: Array, left: Callable[[slice], Any], reached: Array, bounds: EntryBounds
    ) -> tuple[Array, Numbers]:
        """Compare these with all rows, and rank all rows that may be as good as the k-th best score so far."""
        errors, lost, weights, shifts, _ = bounds
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            least = np.where(weights > 0, (reached - shifts - 2 * lost) / weights - errors, -np.inf)
        top, best = np.empty((len(numbers), self.k)), np.empty((len(numbers), self.k), np.int64)
        height = max(16, min(256, REDONE_ENTRIES // self.scores.n))
        for start in range(0, len(numbers), height):
            part = slice(start, start + height)
            candidates = self._at_least(left(part), least[part], numbers[part] if self.queries is None else None)
            top[part], best[part] = self.exact(numbers[part], divisors[part], candidates)
        return top, best

    def _at_least(self, left: Any, least: Array, itself: Numbers | None) -> Numbers:
        """Numbers of all other rows whose entry with each of these is at least so much, (h, most), -1 for none."""
        scores, memory, h = self.scores, module(self.scores.backend), len(least)
        step = max(64, REDONE_ENTRIES // max(h, scores.matrix.d))
        make, parts = _multiplier(scores, h * min(step, scores.n)), []
        # A threshold is rounded down to the dtype of the entries.
        limits = np.nextafter(least.astype(scores.dtype), -np.inf)[:, None]
        limits = memory.as_working(limits, scores.dtype, scores.device)
        for start, stop in scores.matrix.blocks(step):
            with ieee():
                reached = make(left, scores.right(start, stop)) >= limits
            row, other = (
                np.nonzero(reached) if isinstance(reached, np.ndarray) else memory.to_numpy(reached.nonzero().T)
            )
            parts.append(np.stack([row, other + start]))
        row, other = np.concatenate(parts, axis=1)
        if itself is not None:
            row, other = row[other != itself[row]], other[other != itself[row]]
        order = np.argsort(row, kind="stable")
        row, other = row[order], other[order]
        counts = np.bincount(row, minlength=h)
        out = np.full((h, counts.max(initial=1)), -1)
        out[row, np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)] = other
        return out

    def answered(self, queries: Queries, numbers: Numbers) -> SearchResult:
        """Find the k nearest rows to a batch of queries."""
        scores, batch = self.scores, query_batch(self.scores, queries, numbers)
        nearest, longest = self._screened(batch)
        bounds = query_bounds(scores, batch, longest)
        top, best, unsure = self.certified(numbers, batch.divisors, nearest, bounds)
        rest, divisors = numbers[unsure], batch.divisors[unsure]
        coarse = scores.precision in COARSE
        if len(unsure) and not coarse:
            reached = top[unsure, -1]
            top[unsure], best[unsure] = self.redone(
                rest, divisors, lambda part: batch.left[unsure[part]], reached, bounds.of(unsure)
            )
        distances = _distances(top, scores, batch.divisors)
        if len(unsure) and coarse:
            finer = replace(self, scores=replace(scores, precision="float32", dtype="float32")).answered(queries, rest)
            best[unsure], distances[unsure] = finer.numbers, finer.distances
        return SearchResult(best, distances, len(unsure), bounds.largest)

    def _tile(self, h: int) -> tuple[int, int]:
        """Return how many queries and rows a tile has at most."""
        if self.scores.matrix.on_accelerator:
            return DEVICE_TILE, DEVICE_TILE
        # Wide where queries are few, and yet some blocks for each worker.
        wide = min(WIDEST, max(TILE, TILE * TILE // min(h, TILE)))
        return TILE, min(wide, max(TILE // 3, -(-self.scores.n // (4 * self.workers))))

    def _screened(self, batch: QueryBatch) -> tuple[Nearest, Array]:
        """Collect candidates from all rows; and the greatest length, slip and absolute lift of any."""
        scores, h, n = self.scores, len(batch.numbers), self.scores.n
        height, width = self._tile(h)
        order = [(slice(0, h), slice(start, min(start + width, n))) for start in range(0, n, width)]
        longest = np.zeros((len(order), 3))
        keep, entries = n_candidates(scores, self.k, n), module(scores.backend).entries(scores.dtype)
        first = NearestToQueries.among(n, scores.backend, h, keep, entries, scores.device)

        def work(tiles: Iterator[tuple[slice, slice]], reducers: Sequence[Nearest]) -> None:
            make = _multiplier(scores, min(height, h) * width)
            for _, cols in tiles:
                _, right, facts = scores.make(cols.start, cols.stop, left=False)
                longest[cols.start // width] = np.abs(module(scores.backend).to_numpy(facts)).max(axis=1)
                for start in range(0, h, height):
                    rows = slice(start, min(start + height, h))
                    reducers[0].update(make(batch.left[rows], right), rows, cols)

        in_threads(scores.backend, self.threads, order, [first], work)
        return first, longest.max(axis=0)


def _multiplier(scores: Scores, entries: int) -> Callable[[Any, Any], Any]:
    """Return a function that multiplies factors, into memory for so many entries that it uses again."""
    memory = module(scores.backend)
    kernel = load("sparse_gram" if scores.sparse else "gram", scores.backend)
    room = memory.zeros((entries,), scores.dtype, scores.device)

    def multiply(left: Any, right: Any) -> Any:
        shape = left.shape[0], right.shape[0]
        out = room[: shape[0] * shape[1]].reshape(shape)
        kernel(left, right, out)
        return out

    return multiply


def _distances(top: Array, scores: Scores, divisors: Array) -> Array:
    """Distances from exact scores; the square of the scale may leave the range where distances do not."""
    if scores.directed:
        return np.clip(1 - top, 0.0, 2.0)
    by_row = divisors[:, None]
    if scores.form is Form.EUCLIDEAN:
        return np.asarray(np.sqrt(np.maximum(-2 * top, 0.0)) * by_row)
    return np.asarray(-top * by_row * scores.scale)
