"""Moments of all pairs in closed form beside the pairwise way."""

from dataclasses import dataclass, field

import numpy as np

import geomkit
from bench.speed import baselines
from bench.speed.baselines import PairMoments
from bench.speed.cases.case import OURS, Contender
from bench.speed.cases.vectors import Rows, few, vectors
from bench.speed.limits import Work
from bench.speed.timing import Thunk
from geomkit.core.validation import Precision


@dataclass(frozen=True)
class MomentsCase:
    """Mean and variance of cosine and of squared distance over all pairs."""

    n: int
    d: int
    seed: int = 0
    data: str = "factors"
    kernel: str = field(default="moments", init=False)
    setting: str = field(default="", init=False)

    def contenders(self) -> list[Contender]:
        """Ours without pairs, and torch with all of them."""
        return [
            Contender(OURS, lambda: self.ours("float64"), precision="float64"),
            Contender("pairwise torch", self._pairwise, library="torch"),
        ]

    @property
    def rows(self) -> Rows:
        """The input, (n, d)."""
        return vectors(self.data, self.n, self.d, self.seed)

    def ours(self, precision: Precision = "float64", threads: int | None = None) -> Thunk:
        """Return our call: for a sample of rows its answer was that over their pairs, one by one in float64."""
        assert precision == "float64"  # There is no other.
        x = self.rows
        sample = few(x, 300)
        np.testing.assert_allclose(_ours(sample, threads), _pair_by_pair(sample), rtol=1e-9)
        geomkit.moments(x, threads=threads)
        return lambda: geomkit.moments(x, threads=threads)

    def _pairwise(self) -> Thunk:
        x = self.rows
        # What float32 leaves of a variance of values around 1.
        np.testing.assert_allclose(baselines.torch_moments(x), _ours(x, None), rtol=1e-3)
        return lambda: baselines.torch_moments(x)

    def work(self, precision: str) -> Work:
        """Multiply the columns, as they are and over the norms of the rows: two triangles of d x d sums over n."""
        return Work(products=2.0 * self.n * self.d * (self.d + 1), precision=precision, read=4.0 * self.n * self.d)


def _ours(x: Rows, threads: int | None) -> PairMoments:
    found = geomkit.moments(x, threads=threads)
    return PairMoments(
        found.cosine_mean,
        found.cosine_variance,
        found.squared_distance_mean,
        found.squared_distance_variance,
    )


def _pair_by_pair(x: Rows) -> PairMoments:
    """Take every pair's cosine and squared distance by itself."""
    rows = x.astype(np.float64)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = np.concatenate([unit[i + 1 :] @ unit[i] for i in range(len(x))])
    apart = np.concatenate([np.square(rows[i + 1 :] - rows[i]).sum(axis=1) for i in range(len(x))])
    return PairMoments(cosines.mean(), cosines.var(), apart.mean(), apart.var())
