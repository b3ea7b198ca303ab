"""The matrix of cosines beside the libraries that make one."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import geomkit
from bench.speed import baselines
from bench.speed.cases.case import OURS, Contender
from bench.speed.cases.vectors import Rows, exact_cosines, few, product_error, vectors
from bench.speed.limits import Work
from bench.speed.timing import Thunk
from geomkit.core.validation import Precision


@dataclass(frozen=True)
class SimilarityCase:
    """All n² cosines as a matrix."""

    n: int
    d: int
    seed: int = 0
    slow: bool = False
    """Beside SciPy alone, which takes many times longer: for fewer rows."""
    data: str = "isotropic"
    kernel: str = field(default="cosine_similarity", init=False)
    setting: str = field(default="", init=False)

    def contenders(self) -> list[Contender]:
        """Ours, scikit-learn, NumPy, NumKong and SimSIMD; or ours and SciPy."""
        others: dict[str, tuple[str, Callable[[Rows], Any]]] = {
            "scikit-learn": ("scikit-learn", baselines.sklearn_similarity),
            "NumPy": ("numpy", baselines.numpy_similarity),
            "NumKong": ("numkong", baselines.numkong_similarity),
            "SimSIMD": ("simsimd", baselines.simsimd_similarity),
        }
        if self.slow:
            others = {"SciPy": ("scipy", baselines.scipy_similarity)}
        return [
            Contender(OURS, self.ours),
            *(
                Contender(
                    name,
                    lambda call=call: self._proved(call),  # type: ignore[misc]
                    precision="float32" if name in {"scikit-learn", "NumPy"} else "float64",
                    library=library,
                )
                for name, (library, call) in others.items()
            ),
        ]

    def ours(self, precision: Precision = "float32", threads: int | None = None) -> Thunk:
        """Return our call. It has no argument for threads: BLAS has its own."""
        assert threads is None
        return self._proved(lambda x: geomkit.cosine_similarity(x, precision=precision))

    def _proved(self, call: Callable[[Rows], Any]) -> Thunk:
        """Return a call whose entries, those of some rows with all, were the cosines in float64."""
        x = vectors(self.data, self.n, self.d, self.seed)
        step = -(-self.n // 64)
        errors = np.asarray(call(x))[::step] - exact_cosines(few(x, 64), x)
        assert float(np.abs(errors).max()) <= product_error(self.d)
        return lambda: call(x)

    def work(self, precision: str) -> Work:
        """Multiply each pair once, and write the matrix."""
        return Work(products=float(self.n) ** 2 * self.d, precision=precision, copied=4.0 * self.n**2)
