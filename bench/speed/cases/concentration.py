"""Concentration of Minkowski distances beside SciPy, scikit-learn and torch."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

import geomkit
from bench.speed import baselines
from bench.speed.baselines import Distances
from bench.speed.cases.case import OURS, Contender
from bench.speed.cases.vectors import Rows, few, vectors
from bench.speed.limits import Work
from bench.speed.timing import Thunk
from geomkit.core.validation import Precision


@dataclass(frozen=True)
class ConcentrationCase:
    """Mean, spread and relative contrast of the distances of order p over all pairs."""

    n: int
    d: int
    p: float
    seed: int = 0
    data: str = "isotropic"
    kernel: str = field(default="concentration", init=False)

    @property
    def setting(self) -> str:
        """Which order."""
        return f"p={self.p:g}"

    def contenders(self) -> list[Contender]:
        """Ours, SciPy, scikit-learn and torch."""
        others: dict[str, tuple[str, str, Callable[[Rows, float], Distances]]] = {
            "SciPy": ("float64", "scipy", baselines.scipy_distances),
            "scikit-learn": ("float32", "scikit-learn", baselines.sklearn_distances),
            "torch": ("float32", "torch", baselines.torch_distances),
        }
        return [
            Contender(OURS, self.ours),
            *(
                Contender(
                    name,
                    lambda call=call: self._peer(call),  # type: ignore[misc]
                    precision=precision,
                    library=library,
                )
                for name, (precision, library, call) in others.items()
            ),
        ]

    def ours(self, precision: Precision = "float32", threads: int | None = None) -> Thunk:
        """Return our call: on a sample of rows its answer was that of SciPy in float64."""
        x = vectors(self.data, self.n, self.d, self.seed)

        def call(rows: Rows) -> geomkit.Concentration:
            return geomkit.concentration(rows, p=self.p, precision=precision, threads=threads)

        sample = few(x, 100)
        near = call(sample)
        self._same(Distances(near.mean, near.std, near.relative_contrast), sample)
        assert int(call(x).distribution.counts.sum()) == self.n * (self.n - 1) // 2
        return lambda: call(x)

    def _peer(self, call: Callable[[Rows, float], Distances]) -> Thunk:
        x = vectors(self.data, self.n, self.d, self.seed)
        sample = few(x, 100)
        self._same(call(sample, self.p), sample)
        return lambda: call(x, self.p)

    def _same(self, found: Distances, sample: Rows) -> None:
        want = baselines.scipy_distances(sample, self.p)
        # Float32 leaves about four digits of a spread that is a hundredth of the mean.
        assert abs(found.mean / want.mean - 1) <= 1e-5
        assert abs(found.std / want.std - 1) <= 1e-3
        assert abs(found.relative_contrast / want.relative_contrast - 1) <= 1e-3

    def work(self, precision: str) -> Work | None:
        """Multiply (p = 2) or subtract and reduce (1, infinity) each pair's coordinates, and count it.

        Of a general power nothing is known but that it costs more.
        """
        if self.p not in {1.0, 2.0, math.inf}:
            return None
        pairs = self.n * (self.n - 1) / 2
        return Work(products=2 * pairs * self.d, precision=precision, increments=pairs, read=4.0 * self.n * self.d)


ORDERS = (0.5, 1.0, 1.5, 1.7, 2.0, np.inf)
"""Orders to time: those with arithmetic of their own, and one that needs a general power."""
