"""Scores of chosen queries and rows in float64, from both as given: what screened candidates are settled by."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.matrix import Matrix
from geomkit.kernels import Backend, load, module
from geomkit.pairwise.normalization import taken
from geomkit.pairwise.queries import Asked, Corpus, Queries, divided
from geomkit.pairwise.scores import Form, dividable

__all__ = ["exact_between"]

_GATHERED_ENTRIES = 2**22
"""Entries of rows that are gathered at a time (32 MiB in float64)."""

_CHUNK = 2**14
"""Pairs that a thread settles at a time."""


def exact_between(
    corpus: Corpus, queries: Queries, asked: Asked, candidates: NDArray[np.int64], threads: int
) -> NDArray[np.float64]:
    """Score queries with their candidates.

    Parameters
    ----------
    corpus : Corpus
        Says which score.
    queries : Queries
        All of them, which the numbers of `asked` are of.
    asked : Asked
    candidates : (h, c)
        Row numbers; -1 for none.
    threads : int

    Returns
    -------
    (h, c) float64
        Cosines; inner products, or minus half of squared distances, of queries over their divisors with rows over
        theirs (distances: both over that of the query); -inf where there is no candidate.
    """
    out = np.empty(candidates.shape)
    if candidates.size == 0:
        return out
    settle = _Settling(corpus, queries, asked)

    def fill(start: int) -> None:
        part = slice(start, start + step)
        out[part] = settle.scores(part, candidates[part])

    step = max(1, _CHUNK // candidates.shape[1])
    starts = range(0, len(candidates), step)
    if corpus.backend is Backend.CPU and threads > 1 and len(starts) > 1:
        with ThreadPoolExecutor(min(threads, len(starts))) as pool:
            list(pool.map(fill, starts))
    else:
        for start in starts:
            fill(start)
    return out / 2 if corpus.form is Form.EUCLIDEAN else out


class _Settling:
    """Where the kernels find rows and queries."""

    def __init__(self, corpus: Corpus, queries: Queries, asked: Asked) -> None:
        self.corpus, self.queries, self.asked = corpus, queries, asked
        # One way for all, so that a score does not depend on what else is asked for.
        self.at_once = not corpus.directed or (dividable(corpus.divisors) and dividable(queries.norms))
        self.whole = _whole(corpus) if self.at_once else None
        if self.whole is not None:
            factors = np.ones(self.whole.shape[0])
            factors[slice(None) if corpus.matrix.keep is None else corpus.matrix.keep] = 1 / corpus.divisors
            self.factors = module(corpus.backend).as_working(factors, "float64", corpus.device)

    def scores(self, part: slice, candidates: NDArray[np.int64]) -> NDArray[np.float64]:
        """Score some of the queries."""
        if self.corpus.sparse:
            return self._sparse(part, candidates)
        if self.whole is None:
            return self._gathered(part, candidates)
        keep = self.corpus.matrix.keep
        numbers = candidates if keep is None else np.where(candidates < 0, -1, keep[candidates])
        return self._run(*self._own(part), self.whole, numbers, self.factors)

    def _own(self, part: slice) -> tuple[Any, NDArray[np.float64]]:
        """Return queries, and what to multiply them by."""
        return self._ready(self.queries.matrix, self.asked.numbers[part], self.asked.divisors[part])

    def _ready(
        self, matrix: Matrix, numbers: NDArray[np.int64], divisors: NDArray[np.float64]
    ) -> tuple[Any, NDArray[np.float64]]:
        x = taken(matrix, self.corpus.backend, numbers)
        return (x, 1 / divisors) if self.at_once else (self.corpus.directions(x), np.ones(len(numbers)))

    def _gathered(self, part: slice, candidates: NDArray[np.int64]) -> NDArray[np.float64]:
        """Gather the rows first, a window at a time."""
        corpus, out = self.corpus, np.full(candidates.shape, -np.inf)
        own, own_factors = self._own(part)
        width = max(1, min(candidates.shape[1], _GATHERED_ENTRIES // corpus.matrix.d))
        height = max(1, _GATHERED_ENTRIES // (corpus.matrix.d * width))
        for i in range(0, len(candidates), height):
            for c in range(0, candidates.shape[1], width):
                wanted = candidates[i : i + height, c : c + width]
                numbers = np.unique(wanted[wanted >= 0])
                if len(numbers):
                    rows, factors = self._ready(corpus.matrix, numbers, corpus.divisors[numbers])
                    local = np.where(wanted < 0, -1, np.searchsorted(numbers, wanted))
                    scores = self._run(own[i : i + height], own_factors[i : i + height], rows, local, factors)
                    out[i : i + height, c : c + width] = scores
        return out

    def _run(self, left: Any, left_factors: Any, right: Any, numbers: Any, right_factors: Any) -> NDArray[np.float64]:
        corpus, memory = self.corpus, module(self.corpus.backend)
        out = memory.zeros(numbers.shape, "float64", corpus.device)
        euclidean = corpus.form is Form.EUCLIDEAN
        load("exact_scores", corpus.backend)(left, right, numbers, euclidean, left_factors, right_factors, out)
        return np.asarray(memory.to_numpy(out))

    def _sparse(self, part: slice, candidates: NDArray[np.int64]) -> NDArray[np.float64]:
        """Touch stored entries only."""
        corpus, out = self.corpus, np.full(candidates.shape, -np.inf)
        numbers, divisors = self.asked.numbers[part], self.asked.divisors[part]
        at, column = np.nonzero(candidates >= 0)
        for first in range(0, len(at), _CHUNK):
            i, c = at[first : first + _CHUNK], column[first : first + _CHUNK]
            j = candidates[i, c]
            euclidean = corpus.form is Form.EUCLIDEAN
            left = divided(_stored(self.queries.matrix, numbers[i]), divisors[i])
            right = divided(_stored(corpus.matrix, j), divisors[i] if euclidean else corpus.divisors[j])
            if euclidean:
                difference = left - right
                out[i, c] = -np.asarray(difference.multiply(difference).sum(axis=1)).ravel()
            else:
                out[i, c] = np.asarray(left.multiply(right).sum(axis=1)).ravel()
        return out


def _stored(matrix: Matrix, numbers: NDArray[np.int64]) -> Any:
    return matrix.data[numbers if matrix.keep is None else matrix.keep[numbers]]


def _whole(corpus: Corpus) -> Any:
    """All rows as they lie, where the kernels can read them so, or None."""
    matrix, data = corpus.matrix, corpus.matrix.data
    if corpus.backend.on_device:
        return data if matrix.kind == "torch" and data.device == matrix.device else None
    if matrix.kind in {"sparse", "stored"}:
        return None
    if matrix.kind == "torch":
        if data.device.type != "cpu" or matrix.dtype not in {"float32", "float64"}:
            return None
        data = data.numpy()
    readable = data.dtype.isnative and data.dtype.name in {"float32", "float64"} and data.flags.c_contiguous
    return np.asarray(data) if readable else None
