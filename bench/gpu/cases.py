"""What is timed on a device: our public functions and their peers, each proven right on a few hundred rows first."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

import geomkit
from bench.gpu import baselines as peers
from bench.gpu.timing import Ready, rotation
from bench.speed.baselines import Distances, PairMoments, scipy_distances
from bench.speed.cases.case import OURS
from bench.speed.cases.cosine import COUNTER
from bench.speed.cases.vectors import Rows, exact_cosines, few, product_error, vectors
from geomkit.errors import BackendUnavailableError
from geomkit.kernels import PRECISIONS, Backend
from geomkit.pairwise.scores import UNIT_ROUNDOFF

__all__ = ["BARE", "KEOPS_WIDEST", "TIMED", "DeviceCase", "DeviceContender"]

TIMED = ("bfloat16", "float16", "tf32", "float32")
"""Precisions that contests are held at."""

BARE = "bare product"

KEOPS_WIDEST = 128
"""Beyond, KeOps is not meant for: it keeps a row in registers, and compiles for minutes."""

SAMPLE = 300


@dataclass(frozen=True, slots=True)
class DeviceContender:
    """One way to the answer of a case on a device."""

    name: str
    """`OURS`, or what a peer is called in tables."""
    precision: str
    prepare: Callable[[], Ready]
    """Proves it right on a sample and returns the call to be timed, with its inputs.

    Raises BackendUnavailableError where its library is missing or does not work here.
    """
    backend: str = ""
    """Of ours."""
    library: str = ""
    """Distribution that a peer comes from."""

    @property
    def label(self) -> str:
        """Name, backend and precision."""
        return " ".join(each for each in (self.name, self.backend, self.precision) if each)


@dataclass(frozen=True)
class DeviceCase:
    """A public function of ours over n rows of d coordinates on a device: `kernel` is a key of `_KINDS`."""

    kernel: str
    n: int
    d: int
    device: str
    seed: int = 0
    data: str = "isotropic"
    quick: bool = False
    """Without peers that compile for a minute."""
    k: int = 10
    p: float = 1.0

    @property
    def setting(self) -> str:
        """Further arguments, as text."""
        return {"neighbors": f"k={self.k}", "concentration": f"p={self.p:g}"}.get(self.kernel, "")

    def contenders(self) -> list[DeviceContender]:
        """All who answer, ours first. Nothing is run before it is prepared."""
        ours = [
            DeviceContender(OURS, precision, lambda b=backend, p=precision: self._ours(b, p), backend=backend)  # type: ignore[misc]
            for backend in self.backends
            for precision in _precisions(self.kernel, backend)
        ]
        return ours + _KINDS[self.kernel](self)

    @property
    def backends(self) -> tuple[str, ...]:
        """Of ours: Triton works on GPUs alone, and has pairs of products alone."""
        products = self.kernel in {"cosine_stats", "squared_distance_stats", "neighbors"}
        return ("triton", "torch") if products and self.device.startswith("cuda") else ("torch",)

    def rows(self) -> Rows:
        """Return the input, (n, d)."""
        return vectors(self.data, self.n, self.d, self.seed)

    def sample(self) -> Rows:
        """Return a few of the rows."""
        return few(self.rows(), SAMPLE)

    def place(self, x: Rows) -> Any:
        """Copy rows to the device."""
        import torch

        return torch.from_numpy(x).to(self.device)

    def ready(self, call: Callable[[Any], object], made: Any = None) -> Ready:
        """Return a call with its inputs, the rows unless others were made of them."""
        return Ready(call, _inputs(self) if made is None else rotation(made))

    def _ours(self, backend: str, precision: str) -> Ready:
        how: dict[str, Any] = {"backend": backend, "device": self.device}
        if self.kernel != "moments":
            how["precision"] = precision
        extra: dict[str, dict[str, Any]] = {"neighbors": {"k": self.k}, "concentration": {"p": self.p}}
        how |= extra.get(self.kernel, {})
        function = getattr(geomkit, self.kernel)

        def call(x: Any) -> Any:
            return function(x, **how)

        x = self.sample()
        _PROOFS[self.kernel](self, call(self.place(x)), x)
        return self.ready(call)


@lru_cache(maxsize=1)
def _inputs(case: DeviceCase) -> list[Any]:
    """Return copies of the rows in float32, which all contenders of a case share."""
    return rotation(case.place(case.rows()))


def _precisions(kernel: str, backend: str) -> Sequence[str]:
    if kernel == "moments":
        return ("float64",)
    if kernel == "concentration":
        return ("float32",)
    return [each for each in TIMED if each in PRECISIONS[Backend(backend)]]


def _products(case: DeviceCase) -> list[str]:
    """Return the precisions that a product of torch's has on the device; TF32 is the GPU's."""
    return [each for each in TIMED if case.device.startswith("cuda") or each in {"bfloat16", "float32"}]


def _cosine_peers(case: DeviceCase) -> list[DeviceContender]:
    return [
        *_bare(case),
        *(
            DeviceContender("torch chunked + histc", each, lambda p=each: _chunked(case, p), library="torch")  # type: ignore[misc]
            for each in _products(case)
        ),
        *(
            [DeviceContender("KeOps", "float32", lambda: _keops(case), library="pykeops")]
            if case.d <= KEOPS_WIDEST
            else []
        ),
    ]


def _squared_peers(case: DeviceCase) -> list[DeviceContender]:
    return [*_bare(case), DeviceContender("torch.cdist", "float32", lambda: _cdist_squared(case), library="torch")]


def _neighbor_peers(case: DeviceCase) -> list[DeviceContender]:
    return [
        *_bare(case),
        *(
            DeviceContender("torch chunked + topk", each, lambda p=each: _topk(case, p), library="torch")  # type: ignore[misc]
            for each in _products(case)
        ),
        DeviceContender("faiss-gpu", "float32", lambda: _search(case, peers.faiss_neighbors), library="faiss-gpu-cu12"),
        DeviceContender("cuVS", "float32", lambda: _search(case, peers.cuvs_neighbors), library="cuvs-cu12"),
    ]


def _moment_peers(case: DeviceCase) -> list[DeviceContender]:
    bare = _bare(case, ["float32"])
    return [*bare, DeviceContender("pairwise torch", "float32", lambda: _pairwise(case), library="torch")]


def _concentration_peers(case: DeviceCase) -> list[DeviceContender]:
    return [DeviceContender("torch.cdist", "float32", lambda: _cdist(case), library="torch")]


_KINDS: dict[str, Callable[[DeviceCase], list[DeviceContender]]] = {
    "cosine_stats": _cosine_peers,
    "squared_distance_stats": _squared_peers,
    "neighbors": _neighbor_peers,
    "moments": _moment_peers,
    "concentration": _concentration_peers,
}


def _bare(case: DeviceCase, precisions: Sequence[str] | None = None) -> list[DeviceContender]:
    def prepared(precision: str) -> Ready:
        sample = case.sample()
        rows = peers.unit(case.place(sample), precision)
        # Blocks that leave a rest, unless there is one row.
        out = peers.room_for_product(rows)[: max(1, 2 * len(rows) // 3)]
        last = peers.bare_product(rows, out, precision)
        exact = exact_cosines(sample, sample)[-len(last) :]
        assert np.all(np.abs(last.float().cpu().numpy() - exact) <= _error(case.d, precision))
        rows = peers.unit(case.place(case.rows()), precision)
        into = peers.room_for_product(rows)
        return case.ready(lambda x: peers.bare_product(x, into, precision), rows)

    return [
        DeviceContender(BARE, each, lambda p=each: prepared(p), library="torch")  # type: ignore[misc]
        for each in precisions or _products(case)
    ]


def _chunked(case: DeviceCase, precision: str) -> Ready:
    sample = case.sample()
    mean, variance, histogram = peers.chunked(case.place(sample), precision)
    _same_moments((float(mean), float(variance)), sample, _error(case.d, precision))
    # A value that rounding took past 1 is in no bin; rows with themselves alone are so large here.
    n = len(sample)
    assert n * n - n <= int(histogram.sum()) <= n * n
    return case.ready(lambda x: peers.chunked(x, precision))


def _keops(case: DeviceCase) -> Ready:
    if case.quick:
        msg = "left out of a quick run: it compiles for a minute"
        raise BackendUnavailableError(msg)
    sample = case.sample()
    try:
        found = peers.keops_sums(case.place(sample))
    except BackendUnavailableError:
        raise
    except (RuntimeError, OSError, AttributeError) as why:  # Whatever becomes of a compiler that is not as expected.
        msg = f"KeOps does not compile here: {why!r}"
        raise BackendUnavailableError(msg) from why
    _same_moments(found, sample, _error(case.d, "float32"))
    return case.ready(peers.keops_sums)


def _cdist_squared(case: DeviceCase) -> Ready:
    sample = case.sample()
    mean, variance = (float(each) for each in peers.cdist_squared(case.place(sample)))
    apart = _squared_distances(sample)
    # What float32 leaves of a variance that is a hundredth of the squared mean.
    assert abs(mean / apart.mean() - 1) <= 1e-5
    assert abs(variance / apart.var() - 1) <= 1e-3
    return case.ready(peers.cdist_squared)


def _cdist(case: DeviceCase) -> Ready:
    sample = case.sample()
    _same_distances(peers.cdist_distances(case.place(sample), case.p), sample, case.p)
    return case.ready(lambda x: peers.cdist_distances(x, case.p))


def _pairwise(case: DeviceCase) -> Ready:
    sample = case.sample()
    np.testing.assert_allclose(peers.pairwise_moments(case.place(sample)), _pair_by_pair(sample), rtol=1e-3, atol=1e-5)
    return case.ready(peers.pairwise_moments)


def _topk(case: DeviceCase, precision: str) -> Ready:
    sample = case.sample()
    found = peers.topk_neighbors(case.place(sample), case.k, precision)
    _near(found.cpu().numpy(), sample, case.k + 1, 2 * _error(case.d, precision), own=True)
    return case.ready(lambda x: peers.topk_neighbors(x, case.k, precision))


def _search(case: DeviceCase, search: Callable[[Any, int], Any]) -> Ready:
    sample = case.sample()
    found = search(case.place(sample), case.k)
    _near(found.cpu().numpy(), sample, case.k + 1, 2 * _error(case.d, "float32"), own=True)
    return case.ready(lambda x: search(x, case.k))


def _prove_cosine(_: DeviceCase, found: geomkit.CosineStats, x: Rows) -> None:
    exact = np.sort(exact_cosines(x, x)[np.triu_indices(len(x), 1)])
    assert int(found.distribution.counts.sum()) == len(exact)
    assert abs(found.mean - exact.mean()) <= 1e-9
    assert abs(found.std - exact.std()) <= found.error_bound
    _prove_quantiles(found.quantile, exact, found.error_bound, found.mean)


def _prove_squared(_: DeviceCase, found: geomkit.SquaredDistanceStats, x: Rows) -> None:
    exact = np.sort(_squared_distances(x))
    assert int(found.distribution.counts.sum()) == len(exact)
    assert abs(found.mean / exact.mean() - 1) <= 1e-9
    assert abs(found.std - exact.std()) <= found.error_bound
    _prove_quantiles(found.quantile, exact, found.error_bound, found.mean)


def _prove_quantiles(quantile: Callable[[float], Any], exact: Any, bound: float, mean: float) -> None:
    """Compare order statistics, within the error of the product and the width of a counter about the mean or 0.

    Quantiles of what falls where distances grow may be those of the next rank.
    """
    ends = np.concatenate([exact[:1], exact, exact[-1:]])
    for q in (0.0, 0.01, 0.5, 0.99, 1.0):
        rank = max(math.ceil(q * len(exact)), 1)
        low, high = (exact[rank - 1],) * 2 if q in {0.0, 1.0} else (ends[rank - 1], ends[rank + 1])
        found = float(quantile(q))
        width = 2 * COUNTER * max(abs(found), abs(found - mean))
        assert low - bound - width <= found <= high + bound + width


def _prove_neighbors(case: DeviceCase, found: geomkit.Neighbors, x: Rows) -> None:
    assert not np.any(found.indices == np.arange(len(x))[:, None])
    _near(found.indices, x, min(case.k, len(x) - 1), 1e-12, own=False)


def _prove_moments(_: DeviceCase, found: geomkit.Moments, x: Rows) -> None:
    mine = PairMoments(
        found.cosine_mean, found.cosine_variance, found.squared_distance_mean, found.squared_distance_variance
    )
    np.testing.assert_allclose(mine, _pair_by_pair(x), rtol=1e-9, atol=1e-12)


def _prove_concentration(case: DeviceCase, found: geomkit.Concentration, x: Rows) -> None:
    assert int(found.distribution.counts.sum()) == len(x) * (len(x) - 1) // 2
    _same_distances(Distances(found.mean, found.std, found.relative_contrast), x, case.p)


_PROOFS: dict[str, Callable[[DeviceCase, Any, Rows], None]] = {
    "cosine_stats": _prove_cosine,
    "squared_distance_stats": _prove_squared,
    "neighbors": _prove_neighbors,
    "moments": _prove_moments,
    "concentration": _prove_concentration,
}


def _error(d: int, precision: str) -> float:
    """Bound on the error of a cosine from torch: of both rows, of the sum, and of the entry that is written."""
    u = UNIT_ROUNDOFF[precision]
    return 2 * u + u * u + product_error(d) + (u if precision in {"bfloat16", "float16"} else 0.0) * (1 + 2 * u)


def _same_moments(found: tuple[float, float], x: Rows, error: float) -> None:
    cosines = exact_cosines(x, x)[np.triu_indices(len(x), 1)]
    # Each row with itself adds its own error, n of n² sums.
    assert abs(found[0] - cosines.mean()) <= 2 * error
    assert abs(found[1] - cosines.var()) <= 4 * error


def _squared_distances(x: Rows) -> Any:
    rows = x.astype(np.float64)
    return np.concatenate([np.square(rows[i + 1 :] - rows[i]).sum(axis=1) for i in range(len(x) - 1)])


def _pair_by_pair(x: Rows) -> PairMoments:
    cosines, apart = exact_cosines(x, x)[np.triu_indices(len(x), 1)], _squared_distances(x)
    return PairMoments(cosines.mean(), cosines.var(), apart.mean(), apart.var())


def _same_distances(found: Distances, x: Rows, p: float) -> None:
    # Float32 leaves about four digits of a spread that is a hundredth of the mean.
    np.testing.assert_allclose(found[:1], scipy_distances(x, p)[:1], rtol=1e-5)
    np.testing.assert_allclose(found[1:], scipy_distances(x, p)[1:], rtol=1e-3)


def _near(indices: Any, x: Rows, k: int, tolerance: float, *, own: bool) -> None:
    """Compare the cosines that were found with the k largest of all in float64, the row itself among them or not."""
    cosines = exact_cosines(x, x)
    if not own:
        np.fill_diagonal(cosines, -np.inf)
    ordered = np.sort(indices, axis=1)
    assert indices.shape == (len(x), k)
    assert np.all(ordered[:, 1:] != ordered[:, :-1])
    found = -np.sort(-np.take_along_axis(cosines, indices, axis=1), axis=1)
    best = -np.sort(-cosines, axis=1)[:, :k]
    assert np.all(np.abs(found - best) <= tolerance)
