"""Benchmark cases: inputs prepared, code compiled, the answer proved right, and then a thunk for the timer.

A case is a public function of ours over rows that lie in memory, or as a tensor on a device of torch's. Every contender
answers for a few hundred rows first, which is compared with float64; on a processor the answer for all rows is checked
too.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import cycle
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import geomkit
from bench.speed import baselines
from bench.speed.baselines import Distances, PairMoments, scipy_distances
from bench.speed.limits import Work
from bench.speed.timing import Thunk, rotation
from bench.speed.vectors import Rows, cosine_moments, exact_cosines, few, product_error, vectors
from geomkit.errors import BackendUnavailableError
from geomkit.kernels import PRECISIONS, Backend
from geomkit.pairwise.scores import UNIT_ROUNDOFF

__all__ = [
    "BARE", "OURS", "Case", "ConcentrationCase", "Contender", "CosineCase", "KeopsCase", "MomentsCase",
    "NeighborsCase", "SimilarityCase", "SquaredDistanceCase", "SurveyCase",
]  # fmt: skip

OURS = "geomkit"
"""The contender that is this library."""

BARE = "bare product"

TIMED = ("bfloat16", "float16", "tf32", "float32")
"""Precisions that contests are held at on a device."""

SAMPLE = 300
"""Rows at most for which answers are compared with float64."""

KEOPS_WIDEST = 128
"""KeOps is not meant for more coordinates: it keeps a row in registers, and compiles for minutes."""

COUNTER = 2.0**-8
"""Rounding of a counted value, as a share of its distance from the mean."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to the answer of a case."""

    name: str
    """`OURS`, or what a peer is called in tables."""
    prepare: Callable[[], Thunk]
    """Runs it, proves its answers right, and returns the call to be timed.

    Raises BackendUnavailableError where its library is missing or does not work here.
    """
    precision: str = "float32"
    """Of its products."""
    library: str = ""
    """Distribution that a peer comes from."""
    backend: str = ""
    """Of ours on a device."""

    @property
    def label(self) -> str:
        """Name, backend and precision."""
        return " ".join(filter(None, (self.name, self.backend, self.precision)))


@dataclass(frozen=True)
class Case:
    """A public function of ours over n rows of d coordinates, and those who answer the same question."""

    n: int
    d: int
    seed: int = 0
    data: str = "isotropic"
    """What the rows are: a name in `bench.speed.vectors`."""
    device: str = ""
    """Of torch's, where the rows are a tensor there; NumPy's rows where empty."""
    quick: bool = False
    """Whether to leave out peers that compile for a minute."""

    kernel: ClassVar[str]
    """Name of our public function."""
    precisions: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")
    """Of ours, on a processor."""
    triton: ClassVar[bool] = False
    """Whether Triton has kernels for it."""

    @property
    def setting(self) -> str:
        """Further arguments, as text."""
        return ""

    @property
    def arguments(self) -> dict[str, Any]:
        """Further arguments."""
        return {}

    @property
    def rows(self) -> Rows:
        """The input, (n, d)."""
        return vectors(self.data, self.n, self.d, self.seed)

    @property
    def pairs(self) -> int:
        """Distinct pairs of rows."""
        return self.n * (self.n - 1) // 2

    def contenders(self) -> list[Contender]:
        """All who answer, ours first. Nothing is run before it is prepared."""
        ways = [("", precision) for precision in self.precisions]
        if self.device:
            backends = ("triton", "torch") if self.triton and self.device.startswith("cuda") else ("torch",)
            ways = [
                (backend, precision)
                for backend in backends
                for precision in (TIMED if len(self.precisions) > 1 else self.precisions)
                if precision == "float64" or precision in PRECISIONS[Backend(backend)]
            ]
        ours = [
            Contender(OURS, lambda way=way: self.ours(way[1], backend=way[0]), way[1], backend=way[0])  # type: ignore[misc]
            for way in ways
        ]
        return [*ours, *self.peers()]

    def peers(self) -> Iterable[Contender]:
        """Others who answer."""
        raise NotImplementedError

    def ours(self, precision: str = "float32", threads: int | None = None, backend: str = "") -> Thunk:
        """Prove our answer and return the call to be timed."""
        arguments = self.arguments | {"precision": precision}
        if self.kernel == "moments":
            assert arguments.pop("precision") == "float64"  # There is no other.
        arguments |= {"threads": threads} if threads else {}
        arguments |= {"backend": backend, "device": self.device} if self.device else {}
        function = getattr(geomkit, self.kernel)
        return self.proven(lambda x: function(x, **arguments), self.prove, self.check)

    def prove(self, answer: Any, x: Rows) -> None:
        """Compare our answer for a few rows with float64."""

    def check(self, answer: Any) -> None:
        """Check our answer for all rows, on a processor."""

    def proven(
        self,
        call: Callable[[Any], Any],
        prove: Callable[[Any, Rows], None] | None = None,
        check: Callable[[Any], None] | None = None,
        precision: str = "",
        tensor: bool = False,
    ) -> Thunk:
        """Prove a call right on a sample and run it on all rows; return a call with its input, the next copy each time.

        Parameters
        ----------
        call : callable
            Of the rows; where `precision` is given, of unit rows in its dtype.
        prove, check : callable, optional
            Of the answer for a sample of rows, and of that for all rows; the latter on a processor alone.
        precision : str
        tensor : bool
            Whether it takes tensors even where the rows are NumPy's.
        """
        import torch

        def placed(x: Rows) -> Any:
            if not (tensor or self.device):
                return x
            rows = torch.from_numpy(x).to(self.device or "cpu")
            return baselines.unit(rows, precision) if precision else rows

        if prove is not None:
            sample = few(self.rows, SAMPLE)
            prove(call(placed(sample)), sample)
        copies = _inputs(self) if self.device and not precision else rotation(placed(self.rows))
        # Twice on a device: Triton tunes in the first call, allocators fill up.
        for x in copies[:2]:
            answer = call(x)
            if check is not None and not self.device:
                check(answer)
        turns = cycle(copies)
        return lambda: call(next(turns))

    @property
    def products(self) -> Sequence[str]:
        """Precisions that a product of torch's has on the device; TF32 is the GPU's."""
        if not self.device:
            return ("float32",)
        return TIMED if self.device.startswith("cuda") else ("bfloat16", "float32")

    def bare(self, precisions: Sequence[str] = ()) -> Iterable[Contender]:
        """Multiply all rows with all rows in torch, and do nothing else."""
        for precision in precisions or self.products:
            yield Contender(BARE, lambda p=precision: self._bare(p), precision, library="torch")  # type: ignore[misc]

    def _bare(self, precision: str) -> Thunk:
        out: Any = None

        def call(unit: Any) -> Any:
            nonlocal out
            if out is None or out.shape[1] != len(unit):
                out = baselines.room_for_product(unit)
            return baselines.bare_product(unit, out, precision)

        def prove(last: Any, x: Rows) -> None:
            error = last.float().cpu().numpy() - exact_cosines(x, x)[-len(last) :]
            assert np.all(np.abs(error) <= cosine_error(self.d, precision))

        return self.proven(call, prove, precision=precision, tensor=True)

    def work(self, precision: str) -> Work | None:
        """Say what any answer costs at least: multiply each pair once, count it, and read the rows."""
        pairs = self.n * (self.n - 1) / 2
        return Work(products=2 * pairs * self.d, precision=precision, increments=pairs, read=4.0 * self.n * self.d)


@lru_cache(maxsize=1)
def _inputs(case: Case) -> list[Any]:
    """Return copies of the rows on a device, which all contenders of a case share."""
    import torch

    return rotation(torch.from_numpy(case.rows).to(case.device))


class CosineCase(Case):
    """Mean, spread, every quantile and the extremes of the cosine over all pairs."""

    kernel = "cosine_stats"
    triton = True

    def peers(self) -> Iterable[Contender]:
        """Chunked torch, the product alone, and KeOps on a device."""
        for precision in self.products:
            yield Contender("chunked torch", lambda p=precision: self._chunked(p), precision, library="torch")  # type: ignore[misc]
        yield from self.bare()
        if self.device and self.d <= KEOPS_WIDEST:
            yield Contender("KeOps", self.keops, library="pykeops")

    def prove(self, answer: geomkit.CosineStats, x: Rows) -> None:
        """Compare moments and order statistics."""
        _prove_distribution(answer, exact_cosines(x, x)[np.triu_indices(len(x), 1)])

    def check(self, answer: geomkit.CosineStats) -> None:
        """Compare with moments that were summed over rows in float64."""
        mean, std = cosine_moments(self.data, self.n, self.d, self.seed)
        assert int(answer.distribution.counts.sum()) == self.pairs
        assert abs(answer.mean - mean) <= 1e-9
        assert abs(answer.std - std) <= answer.error_bound

    def _chunked(self, precision: str) -> Thunk:
        def prove(answer: Any, x: Rows) -> None:
            _prove_moments(answer, x, cosine_error(self.d, precision))
            # A value that rounding took past 1 is in no bin; rows with themselves alone are so large here.
            assert len(x) * (len(x) - 1) <= int(answer[2].sum()) <= len(x) ** 2

        return self.proven(lambda x: baselines.chunked(x, precision), prove, tensor=True)

    def keops(self) -> Thunk:
        """Prove lazy matrices in KeOps, which give mean and variance."""
        if self.quick:
            msg = "left out of a quick run: it compiles for a minute"
            raise BackendUnavailableError(msg)
        error = cosine_error(self.d, "float32")
        return self.proven(baselines.keops_sums, lambda answer, x: _prove_moments(answer, x, error), tensor=True)


class KeopsCase(CosineCase):
    """The same statistics beside KeOps, at a dimension that KeOps is made for."""

    precisions = ("float32",)

    def peers(self) -> Iterable[Contender]:
        """KeOps alone."""
        yield Contender("KeOps", self.keops, library="pykeops")


class SquaredDistanceCase(Case):
    """Mean, spread and every quantile of the squared distance over all pairs."""

    kernel = "squared_distance_stats"
    triton = True

    def peers(self) -> Iterable[Contender]:
        """Torch's distances, and the product alone."""
        yield from self.bare()
        yield Contender("torch.cdist", self._cdist, library="torch")

    def prove(self, answer: geomkit.SquaredDistanceStats, x: Rows) -> None:
        """Compare moments and order statistics."""
        _prove_distribution(answer, _squared_distances(x))

    def _cdist(self) -> Thunk:
        def prove(answer: Any, x: Rows) -> None:
            exact = _squared_distances(x)
            # What float32 leaves of a variance that is a hundredth of the squared mean.
            assert abs(float(answer[0]) / exact.mean() - 1) <= 1e-5
            assert abs(float(answer[1]) / exact.var() - 1) <= 1e-3

        return self.proven(baselines.cdist_squared, prove, tensor=True)


@dataclass(frozen=True)
class NeighborsCase(Case):
    """The k nearest others of each row, of unit length, by cosine."""

    data: str = "factors"
    k: int = 10

    kernel = "neighbors"
    triton = True

    @property
    def setting(self) -> str:
        """How many."""
        return f"k={self.k}"

    @property
    def arguments(self) -> dict[str, Any]:
        """How many."""
        return {"k": self.k}

    def peers(self) -> Iterable[Contender]:
        """Faiss and scikit-learn; on a device torch, faiss and cuVS."""
        if not self.device:
            for name, library, search in (
                ("faiss", "faiss-cpu", baselines.faiss_neighbors),
                ("scikit-learn", "scikit-learn", baselines.sklearn_neighbors),
            ):
                yield Contender(name, lambda search=search: self._peer(search), library=library)  # type: ignore[misc]
            return
        yield from self.bare()
        for precision in self.products:
            yield Contender("torch chunked + topk", lambda p=precision: self._topk(p), precision, library="torch")  # type: ignore[misc]
        for name, library, search in (
            ("faiss-gpu", "faiss-gpu-cu12", baselines.faiss_gpu_neighbors),
            ("cuVS", "cuvs-cu12", baselines.cuvs_neighbors),
        ):
            yield Contender(name, lambda search=search: self._peer(search), library=library)  # type: ignore[misc]

    def prove(self, answer: geomkit.Neighbors, x: Rows) -> None:
        """Compare the cosines of neighbours."""
        _prove_nearest(answer.indices, x, np.arange(len(x)), min(self.k, len(x) - 1), 1e-12)

    def check(self, answer: geomkit.Neighbors) -> None:
        """Compare some rows with float64, and all of them with what the screening in float32 finds."""
        indices = answer.indices
        _prove_nearest(indices, self.rows, np.arange(self.n)[:: -(-self.n // SAMPLE)], self.k, 1e-12)
        assert np.array_equal(indices, _ours(self))

    def _topk(self, precision: str) -> Thunk:
        return self._peer(lambda x, k: baselines.topk_neighbors(x, k, precision), precision)

    def _peer(self, search: Callable[[Any, int], Any], precision: str = "float32") -> Thunk:
        error = 2 * cosine_error(self.d, precision)

        def prove(indices: Any, x: Rows) -> None:
            _prove_nearest(without_self(_numpy(indices), self.k), x, np.arange(len(x)), self.k, error)

        def check(indices: Any) -> None:
            """Compare the neighbours of all rows; those that differ must be equally near, up to rounding in float32."""
            theirs, mine, x = without_self(_numpy(indices), self.k), _ours(self), self.rows
            for row in np.flatnonzero(np.any(np.sort(theirs, axis=1) != np.sort(mine, axis=1), axis=1)):
                a, b = (np.sort(exact_cosines(x[row : row + 1], x[numbers[row]])) for numbers in (theirs, mine))
                assert np.all(np.abs(a - b) <= product_error(self.d))

        return self.proven(lambda x: search(x, self.k), prove, check)

    def work(self, precision: str) -> Work:
        """Multiply each pair once and read the rows."""
        return Work(products=2.0 * self.pairs * self.d, precision=precision, read=4.0 * self.n * self.d)


@lru_cache(maxsize=1)
def _ours(case: NeighborsCase) -> NDArray[np.int64]:
    """Return the neighbours that we find in float32, which others are compared with."""
    return geomkit.neighbors(case.rows, case.k).indices


@dataclass(frozen=True)
class MomentsCase(Case):
    """Mean and variance of cosine and of squared distance over all pairs, in closed form and pairwise."""

    data: str = "factors"

    kernel = "moments"
    precisions = ("float64",)

    def peers(self) -> Iterable[Contender]:
        """Torch with all pairs, and on a device the product alone."""
        if self.device:
            yield from self.bare(["float32"])
        yield Contender("pairwise torch", self._pairwise, library="torch")

    def prove(self, answer: geomkit.Moments, x: Rows) -> None:
        """Compare with every pair by itself."""
        np.testing.assert_allclose(_moments(answer), _pair_by_pair(x), rtol=1e-9, atol=1e-12)

    def _pairwise(self) -> Thunk:
        def prove(answer: PairMoments, x: Rows) -> None:
            np.testing.assert_allclose(answer, _pair_by_pair(x), rtol=1e-3, atol=1e-5)

        def check(answer: PairMoments) -> None:
            # What float32 leaves of a variance of values around 1.
            np.testing.assert_allclose(answer, _moments(geomkit.moments(self.rows)), rtol=1e-3)

        return self.proven(baselines.pairwise_moments, prove, check, tensor=True)

    def work(self, precision: str) -> Work:
        """Multiply the columns, as they are and over the norms of the rows: two triangles of d x d sums over n."""
        return Work(products=2.0 * self.n * self.d * (self.d + 1), precision=precision, read=4.0 * self.n * self.d)


@dataclass(frozen=True)
class ConcentrationCase(Case):
    """Mean, spread and relative contrast of the distances of order p over all pairs."""

    p: float = 1.0

    kernel = "concentration"
    precisions = ("float32",)
    orders: ClassVar[tuple[float, ...]] = (0.5, 1.0, 1.5, 1.7, 2.0, math.inf)
    """Orders to time: those with arithmetic of their own, and one that needs a general power."""

    @property
    def setting(self) -> str:
        """Which order."""
        return f"p={self.p:g}"

    @property
    def arguments(self) -> dict[str, Any]:
        """Which order."""
        return {"p": self.p}

    def peers(self) -> Iterable[Contender]:
        """SciPy, scikit-learn and torch; on a device torch alone."""
        if not self.device:
            yield Contender("SciPy", lambda: self._peer(scipy_distances), "float64", "scipy")
            yield Contender("scikit-learn", lambda: self._peer(baselines.sklearn_distances), library="scikit-learn")
        yield Contender("torch", lambda: self._peer(baselines.cdist_distances, tensor=True), library="torch")

    def prove(self, answer: geomkit.Concentration, x: Rows) -> None:
        """Compare with SciPy in float64."""
        self._same(Distances(answer.mean, answer.std, answer.relative_contrast), x)
        assert int(answer.distribution.counts.sum()) == len(x) * (len(x) - 1) // 2

    def check(self, answer: geomkit.Concentration) -> None:
        """Count the pairs."""
        assert int(answer.distribution.counts.sum()) == self.pairs

    def _peer(self, call: Callable[[Any, float], Distances], *, tensor: bool = False) -> Thunk:
        return self.proven(lambda x: call(x, self.p), self._same, tensor=tensor)

    def _same(self, answer: Distances, x: Rows) -> None:
        exact = scipy_distances(x, self.p)
        # Float32 leaves about four digits of a spread that is a hundredth of the mean.
        np.testing.assert_allclose(answer[:1], exact[:1], rtol=1e-5)
        np.testing.assert_allclose(answer[1:], exact[1:], rtol=1e-3)

    def work(self, precision: str) -> Work | None:
        """Multiply (p = 2) or subtract and reduce (1, infinity) each pair's coordinates, and count it.

        Of a general power nothing is known but that it costs more.
        """
        return super().work(precision) if self.p in {1.0, 2.0, math.inf} else None


@dataclass(frozen=True)
class SimilarityCase(Case):
    """All n² cosines as a matrix."""

    slow: bool = False
    """Beside SciPy alone, which takes many times longer: for fewer rows."""

    kernel = "cosine_similarity"
    precisions = ("float32",)

    def peers(self) -> Iterable[Contender]:
        """Scikit-learn, NumPy, NumKong and SimSIMD; or SciPy."""
        others: dict[str, tuple[str, str, Callable[[Rows], Any]]] = {
            "scikit-learn": ("float32", "scikit-learn", baselines.sklearn_similarity),
            "NumPy": ("float32", "numpy", baselines.numpy_similarity),
            "NumKong": ("float64", "numkong", baselines.numkong_similarity),
            "SimSIMD": ("float64", "simsimd", baselines.simsimd_similarity),
        }
        if self.slow:
            others = {"SciPy": ("float64", "scipy", baselines.scipy_similarity)}
        for name, (precision, library, call) in others.items():
            yield Contender(name, lambda call=call: self.proven(call, check=self.check), precision, library)  # type: ignore[misc]

    def check(self, answer: Any) -> None:
        """Compare the cosines of some rows with all."""
        errors = np.asarray(answer)[:: -(-self.n // 64)] - exact_cosines(few(self.rows, 64), self.rows)
        assert float(np.abs(errors).max()) <= product_error(self.d)

    def work(self, precision: str) -> Work:
        """Multiply each pair once, and write the matrix."""
        return Work(products=float(self.n) ** 2 * self.d, precision=precision, copied=4.0 * self.n**2)


class SurveyCase(NeighborsCase):
    """Everything that one sweep over all pairs can tell, beside the cosine statistics alone."""

    kernel = "survey"
    triton = False

    def peers(self) -> Iterable[Contender]:
        """One of the reducers alone, at the same precisions."""
        alone = CosineCase(self.n, self.d, self.seed, self.data)
        for precision in self.precisions:
            yield Contender("cosine_stats alone", lambda p=precision: alone.ours(p), precision)  # type: ignore[misc]

    def prove(self, answer: Any, x: Rows) -> None:
        """Compare the cosines of neighbours."""
        super().prove(answer.neighbors, x)

    def check(self, answer: Any) -> None:
        """Compare cosines and neighbours with what their own calls say, and extremes with float64."""
        CosineCase(self.n, self.d, self.seed, self.data).check(answer.cosine)
        super().check(answer.neighbors)
        own = np.arange(self.n)[:: -(-self.n // 64)]
        cosines = exact_cosines(few(self.rows, 64), self.rows)
        # The row itself, at cosine 1, is never the least.
        assert np.all(np.abs(answer.least[own] - cosines.min(axis=1)) <= answer.cosine.error_bound)
        cosines[np.arange(len(own)), own] = -1.0
        assert np.all(np.abs(answer.largest[own] - cosines.max(axis=1)) <= answer.cosine.error_bound)
        assert len(answer.duplicates) == 0

    def work(self, precision: str) -> Work:
        """As much as for the statistics alone."""
        return replace(super().work(precision), increments=float(self.pairs))


def cosine_error(d: int, precision: str) -> float:
    """Bound on the error of a cosine from torch: of both rows, of the sum, and of the entry that is written."""
    u = UNIT_ROUNDOFF[precision]
    return 2 * u + u * u + product_error(d) + (u if precision in {"bfloat16", "float16"} else 0.0) * (1 + 2 * u)


def _prove_distribution(answer: Any, values: NDArray[np.float64]) -> None:
    """Compare moments and order statistics with those of all values.

    The error is that of the product and the width of a counter about the mean or 0. Quantiles of what falls where
    distances grow may be those of the next rank.
    """
    assert int(answer.distribution.counts.sum()) == len(values)
    assert abs(answer.mean - values.mean()) <= 1e-9 * max(1.0, abs(values.mean()))
    assert abs(answer.std - values.std()) <= answer.error_bound
    exact = np.sort(values)
    ends = np.concatenate([exact[:1], exact, exact[-1:]])
    for q in (0.0, 0.01, 0.5, 0.99, 1.0):
        rank = max(math.ceil(q * len(exact)), 1)
        low, high = (exact[rank - 1],) * 2 if q in {0.0, 1.0} else (ends[rank - 1], ends[rank + 1])
        quantile = float(answer.quantile(q))
        tolerance = answer.error_bound + 2 * COUNTER * max(abs(quantile), abs(quantile - answer.mean))
        assert low - tolerance <= quantile <= high + tolerance


def _prove_moments(answer: Any, x: Rows, error: float) -> None:
    """Compare a peer's mean and variance of the cosine; each row with itself adds its own error, n of n² sums."""
    cosines = exact_cosines(x, x)[np.triu_indices(len(x), 1)]
    assert abs(float(answer[0]) - cosines.mean()) <= 2 * error
    assert abs(float(answer[1]) - cosines.var()) <= 4 * error


def _prove_nearest(indices: Any, x: Rows, own: NDArray[np.int64], k: int, tolerance: float) -> None:
    """Compare the cosines of the neighbours of some rows, `own`, with the k largest of all others in float64."""
    assert indices.shape == (len(x), k)
    cosines, chosen = exact_cosines(x[own], x), indices[own]
    cosines[np.arange(len(own)), own] = -np.inf
    ordered = np.sort(chosen, axis=1)
    assert np.all(ordered[:, 1:] != ordered[:, :-1])
    nearest = -np.sort(-np.take_along_axis(cosines, chosen, axis=1), axis=1)
    best = -np.sort(-np.partition(cosines, -k, axis=1)[:, -k:], axis=1)
    assert np.all(np.abs(nearest - best) <= tolerance)


def without_self(indices: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Leave out each row itself, or what comes last where it is not among its own nearest."""
    if indices.shape[1] == k:
        return indices
    own = indices == np.arange(len(indices))[:, None]
    own[~own.any(axis=1), -1] = True
    return np.asarray(indices[~own].reshape(len(indices), k))


def _numpy(indices: Any) -> NDArray[np.int64]:
    return np.asarray(indices if isinstance(indices, np.ndarray) else indices.cpu().numpy())


def _moments(answer: geomkit.Moments) -> PairMoments:
    return PairMoments(*(getattr(answer, name) for name in PairMoments._fields))


def _squared_distances(x: Rows) -> NDArray[np.float64]:
    rows = x.astype(np.float64)
    return np.concatenate([np.square(rows[i + 1 :] - rows[i]).sum(axis=1) for i in range(len(x) - 1)])


def _pair_by_pair(x: Rows) -> PairMoments:
    """Take every pair's cosine and squared distance by itself."""
    cosines, distances = exact_cosines(x, x)[np.triu_indices(len(x), 1)], _squared_distances(x)
    return PairMoments(cosines.mean(), cosines.var(), distances.mean(), distances.var())
