"""Everything that one sweep over all pairs can tell, beside the cosine statistics alone."""

from dataclasses import dataclass, field

import numpy as np

import geomkit
from bench.speed.cases.case import OURS, Contender
from bench.speed.cases.cosine import CosineCase
from bench.speed.cases.neighbors import NeighborsCase
from bench.speed.cases.vectors import exact_cosines, few, vectors
from bench.speed.limits import Work
from bench.speed.timing import Thunk
from geomkit.core.validation import Precision

ALONE = "cosine_stats alone"


@dataclass(frozen=True)
class SurveyCase:
    """Cosine statistics, extremes of each row, nearest neighbours and duplicates, from one sweep."""

    n: int
    d: int
    seed: int = 0
    k: int = 10
    data: str = "factors"
    kernel: str = field(default="survey", init=False)

    @property
    def setting(self) -> str:
        """How many neighbours."""
        return f"k={self.k}"

    def contenders(self) -> list[Contender]:
        """All reducers in one sweep, and one of them alone, at two precisions."""
        alone = CosineCase(self.n, self.d, self.seed, self.data)
        return [
            Contender(OURS, self.ours),
            Contender(OURS, lambda: self.ours("bfloat16"), precision="bfloat16"),
            Contender(ALONE, alone.ours),
            Contender(ALONE, lambda: alone.ours("bfloat16"), precision="bfloat16"),
        ]

    def ours(self, precision: Precision = "float32", threads: int | None = None) -> Thunk:
        """Return our call: it said of cosines and neighbours what their own calls say, and of extremes the truth."""
        x = vectors(self.data, self.n, self.d, self.seed)

        def call() -> geomkit.Survey:
            return geomkit.survey(x, k=self.k, precision=precision, threads=threads)

        found = call()
        CosineCase(self.n, self.d, self.seed, self.data).check(found.cosine)
        NeighborsCase(self.n, self.d, self.seed, self.k, self.data).check(found.neighbors.indices)
        own = np.arange(self.n)[:: -(-self.n // 64)]
        cosines = exact_cosines(few(x, 64), x)
        # The row itself, at cosine 1, is never the least.
        assert np.all(np.abs(found.least[own] - cosines.min(axis=1)) <= found.cosine.error_bound)
        cosines[np.arange(len(own)), own] = -1.0
        assert np.all(np.abs(found.largest[own] - cosines.max(axis=1)) <= found.cosine.error_bound)
        assert len(found.duplicates) == 0
        return call

    def work(self, precision: str) -> Work:
        """As much as for the statistics alone."""
        return CosineCase(self.n, self.d).work(precision)
