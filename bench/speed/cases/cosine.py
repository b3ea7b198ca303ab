"""All-pair cosine statistics beside what an expert writes by hand, the bare product, and KeOps."""

from dataclasses import dataclass, field

import numpy as np

import geomkit
from bench.speed import baselines
from bench.speed.cases.case import OURS, Contender
from bench.speed.cases.vectors import Rows, cosine_moments, exact_cosines, few, product_error, vectors
from bench.speed.limits import Work
from bench.speed.timing import Thunk
from geomkit.core.validation import Precision
from geomkit.errors import BackendUnavailableError

COUNTER = 2.0**-8
"""Rounding of a counted value, as a share of its distance from the mean."""


@dataclass(frozen=True)
class CosineCase:
    """Mean, spread, every quantile and the extremes of the cosine over all pairs."""

    n: int
    d: int
    seed: int = 0
    data: str = "isotropic"
    kernel: str = field(default="cosine_stats", init=False)
    setting: str = field(default="", init=False)

    def contenders(self) -> list[Contender]:
        """Ours at two precisions, chunked torch, and the product alone."""
        return [
            Contender(OURS, self.ours),
            Contender(OURS, lambda: self.ours("bfloat16"), precision="bfloat16"),
            Contender("chunked torch", self._chunked, library="torch"),
            Contender("bare product", self._bare, library="torch"),
        ]

    @property
    def rows(self) -> Rows:
        """The input, (n, d)."""
        return vectors(self.data, self.n, self.d, self.seed)

    def ours(self, precision: Precision = "float32", threads: int | None = None) -> Thunk:
        """Return our call: its moments were those of float64 sums, its order statistics those of a float64 sample."""
        x = self.rows

        def call() -> geomkit.CosineStats:
            return geomkit.cosine_stats(x, precision=precision, threads=threads)

        self.check(call())
        sample = few(x, 256)
        near = geomkit.cosine_stats(sample, precision=precision)
        exact = np.sort(exact_cosines(sample, sample)[np.triu_indices(len(sample), 1)])
        for q in (0.0, 0.01, 0.5, 0.99, 1.0):
            want = float(np.quantile(exact, q, method="inverted_cdf"))
            assert abs(float(near.quantile(q)) - want) <= near.error_bound + 2 * COUNTER * abs(want - near.mean)
        return call

    def check(self, found: geomkit.CosineStats) -> None:
        """Compare with moments that were summed over rows in float64."""
        mean, std = cosine_moments(self.data, self.n, self.d, self.seed)
        assert int(found.distribution.counts.sum()) == self.n * (self.n - 1) // 2
        assert abs(found.mean - mean) <= 1e-9
        assert abs(found.std - std) <= found.error_bound

    def _chunked(self) -> Thunk:
        x = self.rows
        _same_moments(baselines.torch_chunked(x)[:2], self)
        return lambda: baselines.torch_chunked(x)

    def _bare(self) -> Thunk:
        import torch

        x, out = self.rows, torch.empty((self.n, self.n))
        baselines.bare_product(x, out)
        row = x[-1].astype(np.float64)
        norms = np.linalg.norm(row) * np.linalg.norm(x, axis=1)
        assert np.all(np.abs(out[-1].numpy() - x @ row) <= product_error(self.d) * norms)
        return lambda: baselines.bare_product(x, out)

    def work(self, precision: str) -> Work:
        """Multiply each pair once, count it, and read the rows."""
        pairs = self.n * (self.n - 1) / 2
        return Work(products=2 * pairs * self.d, precision=precision, increments=pairs, read=4.0 * self.n * self.d)


@dataclass(frozen=True)
class KeopsCase(CosineCase):
    """The same statistics beside KeOps, at a dimension that KeOps is made for; of them it gives mean and variance."""

    def contenders(self) -> list[Contender]:
        """Ours, and lazy matrices in KeOps."""
        return [Contender(OURS, self.ours), Contender("KeOps", self._keops, library="pykeops")]

    def _keops(self) -> Thunk:
        x = self.rows
        try:
            found = baselines.keops_sums(x)
        except BackendUnavailableError:
            raise
        except (
            RuntimeError,
            OSError,
            AttributeError,
        ) as why:  # Whatever becomes of a compiler that is not as expected.
            msg = f"KeOps does not compile here: {why!r}"
            raise BackendUnavailableError(msg) from why
        _same_moments(found, self)
        return lambda: baselines.keops_sums(x)


def _same_moments(found: tuple[float, float], case: CosineCase) -> None:
    """Compare a peer's mean and variance, from sums in float32, with those of float64 sums over rows."""
    mean, std = cosine_moments(case.data, case.n, case.d, case.seed)
    tolerance = product_error(case.d) + 1e-4 * mean**2
    assert abs(found[0] - mean) <= tolerance
    assert abs(found[1] - std**2) <= 2 * tolerance
