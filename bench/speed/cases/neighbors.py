"""Exact nearest neighbours beside faiss and scikit-learn."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

import geomkit
from bench.speed import baselines
from bench.speed.cases.case import OURS, Contender
from bench.speed.cases.vectors import Rows, exact_cosines, few, product_error, vectors
from bench.speed.limits import Work
from bench.speed.timing import Thunk
from geomkit.core.validation import Precision

Indices = NDArray[np.int64]
SAMPLE = 200


@dataclass(frozen=True)
class NeighborsCase:
    """The k nearest others of each row by cosine."""

    n: int
    d: int
    seed: int = 0
    k: int = 10
    data: str = "factors"
    kernel: str = field(default="neighbors", init=False)

    @property
    def setting(self) -> str:
        """How many."""
        return f"k={self.k}"

    def contenders(self) -> list[Contender]:
        """Ours at two precisions of the screening, faiss and scikit-learn."""
        return [
            Contender(OURS, self.ours),
            Contender(OURS, lambda: self.ours("bfloat16"), precision="bfloat16"),
            Contender("faiss", lambda: self._peer(baselines.faiss_neighbors), library="faiss-cpu"),
            Contender("scikit-learn", lambda: self._peer(baselines.sklearn_neighbors), library="scikit-learn"),
        ]

    @property
    def rows(self) -> Rows:
        """The input, (n, d), of unit length."""
        return vectors(self.data, self.n, self.d, self.seed)

    def ours(self, precision: Precision = "float32", threads: int | None = None) -> Thunk:
        """Return our call: the neighbours of some rows were those of float64, and all were those of float32."""
        x = self.rows

        def call() -> geomkit.Neighbors:
            return geomkit.neighbors(x, self.k, precision=precision, threads=threads)

        self.check(call().indices)
        return call

    def check(self, indices: Indices) -> None:
        """Compare some rows with float64, and all of them with what the screening in float32 finds."""
        self._check_sample(indices, 1e-12)
        assert np.array_equal(indices, _ours(self))

    def _peer(self, search: Callable[[Rows, int], Indices]) -> Thunk:
        x = self.rows
        indices = _without_self(search(x, self.k), self.k)
        self._check_sample(indices, product_error(self.d))
        self._check_same(indices, _ours(self))
        return lambda: search(x, self.k)

    def _check_sample(self, indices: Indices, tolerance: float) -> None:
        """Compare the cosines that were found with the largest of all in float64."""
        x, k = self.rows, self.k
        at = np.arange(self.n)[:: -(-self.n // SAMPLE)]
        cosines = exact_cosines(few(x, SAMPLE), x)
        cosines[np.arange(len(at)), at] = -np.inf
        assert np.all(np.sort(indices[at], axis=1)[:, 1:] != np.sort(indices[at], axis=1)[:, :-1])
        found = -np.sort(-np.take_along_axis(cosines, indices[at], axis=1), axis=1)
        best = -np.sort(-np.partition(cosines, -k, axis=1)[:, -k:], axis=1)
        assert np.all(np.abs(found - best) <= tolerance)

    def _check_same(self, theirs: Indices, mine: Indices) -> None:
        """Compare the neighbours of all rows; those that differ must be equally near, up to rounding in float32."""
        x = self.rows
        differ = np.flatnonzero(np.any(np.sort(theirs, axis=1) != np.sort(mine, axis=1), axis=1))
        for row in differ:
            a, b = (np.sort(exact_cosines(x[row : row + 1], x[numbers[row]])) for numbers in (theirs, mine))
            assert np.all(np.abs(a - b) <= product_error(self.d))

    def work(self, precision: str) -> Work:
        """Multiply each pair once and read the rows."""
        pairs = self.n * (self.n - 1) / 2
        return Work(products=2 * pairs * self.d, precision=precision, read=4.0 * self.n * self.d)


@lru_cache(maxsize=1)
def _ours(case: NeighborsCase) -> Indices:
    """Return the neighbours that we find in float32, which others are compared with."""
    return geomkit.neighbors(case.rows, case.k).indices


def _without_self(indices: Indices, k: int) -> Indices:
    """Leave out each row itself, or what comes last where it is not among its own nearest."""
    if indices.shape[1] == k:
        return indices
    own = indices == np.arange(len(indices))[:, None]
    own[~own.any(axis=1), -1] = True
    return np.asarray(indices[~own].reshape(len(indices), k))
