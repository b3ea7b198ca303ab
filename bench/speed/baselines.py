"""The other ways to get these numbers, called as their users would call them.

Those that torch computes take tensors, wherever these lie; all others take NumPy's rows.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomkit.errors import BackendUnavailableError

Rows = NDArray[np.float32]

BINS = 1000

SHARE = 4
"""The output of a bare product takes at most this fraction of the free memory of a GPU."""


class Distances(NamedTuple):
    """What a user reads from a matrix of distances to see whether they concentrate."""

    mean: float
    std: float
    relative_contrast: float


class PairMoments(NamedTuple):
    """Mean and variance of cosine and of squared distance over all pairs."""

    cosine_mean: float
    cosine_variance: float
    squared_distance_mean: float
    squared_distance_variance: float


def chunks(x: Any) -> Iterator[slice]:
    """Slices of rows, whose float32 products with all rows fill 800 MB at n = 50,000 on a GPU; on a processor half."""
    size = 4096 if x.is_cuda else 2048
    return (slice(start, start + size) for start in range(0, len(x), size))


@contextmanager
def allowing(precision: str) -> Iterator[None]:
    """Let torch's float32 products be TF32, or forbid it; what the process had comes back."""
    import torch

    settings = torch.backends.cuda.matmul
    name, loose, strict = (
        ("fp32_precision", "tf32", "ieee") if hasattr(settings, "fp32_precision") else ("allow_tf32", True, False)
    )
    before = getattr(settings, name)
    setattr(settings, name, loose if precision == "tf32" else strict)
    try:
        yield
    finally:
        setattr(settings, name, before)


def unit(x: Any, precision: str) -> Any:
    """Return unit rows in the dtype that they have in a product of a precision."""
    import torch

    dtype = torch.float32 if precision == "tf32" else getattr(torch, precision)
    return torch.nn.functional.normalize(x, dim=1).to(dtype)


def room_for_product(rows: Any) -> Any:
    """Memory for the product of as many rows with all as fit, at most all."""
    import torch

    n, height = len(rows), len(rows)
    if rows.is_cuda:
        free, _ = torch.cuda.mem_get_info(rows.device)
        height = max(1, min(n, free // SHARE // (n * rows.element_size())))
    return torch.empty((height, n), dtype=rows.dtype, device=rows.device)


def bare_product(rows: Any, out: Any, precision: str) -> Any:
    """Nothing but the products of all rows with all rows, block by block into the same memory; the last one stays."""
    import torch

    height, last = len(out), out
    with allowing(precision):
        for start in range(0, len(rows), height):
            block = rows[start : start + height]
            last = torch.mm(block, rows.T, out=out[: len(block)])
    return last


def chunked(x: Any, precision: str) -> tuple[Any, Any, Any]:
    """Mean, variance and histogram of all cosines, as an expert writes it by hand: chunked product and `histc`.

    Every pair is seen twice and each row once with itself, which the sums take out again. Nothing waits for the device.
    """
    import torch

    rows, n = unit(x, precision), len(x)
    histogram = torch.zeros(BINS, device=x.device)
    sums = torch.zeros(2, dtype=torch.float64, device=x.device)
    with allowing(precision):
        for chunk in chunks(x):
            cosines = torch.mm(rows[chunk], rows.T).float()
            histogram += torch.histc(cosines, BINS, -1.0, 1.0)
            sums[0] += cosines.sum()
            sums[1] += cosines.square_().sum()
    mean, square = (sums - n) / (n * (n - 1))
    return mean, square - mean * mean, histogram


def cdist_squared(x: Any) -> tuple[Any, Any]:
    """Mean and variance of all squared distances from `torch.cdist`, chunk by chunk."""
    import torch

    n = len(x)
    sums = torch.zeros(2, dtype=torch.float64, device=x.device)
    with allowing("float32"):
        for chunk in chunks(x):
            squares = torch.cdist(x[chunk], x).square_()
            sums[0] += squares.sum(dtype=torch.float64)
            sums[1] += squares.square_().sum(dtype=torch.float64)
    mean, square = sums / (n * (n - 1))
    return mean, square - mean * mean


def cdist_distances(x: Any, p: float) -> Distances:
    """Mean, spread and relative contrast of all distances of order p from `torch.cdist`, chunk by chunk."""
    import torch

    n = len(x)
    sums = torch.zeros(3, dtype=torch.float64, device=x.device)
    with allowing("float32"):
        for chunk in chunks(x):
            apart = torch.cdist(x[chunk], x, p=p)
            own = torch.arange(len(apart), device=x.device)
            apart[own, chunk.start + own] = 0.0
            sums[0] += apart.sum(dtype=torch.float64)
            furthest = apart.amax(dim=1)
            apart[own, chunk.start + own] = torch.inf
            nearest = apart.amin(dim=1)
            apart[own, chunk.start + own] = 0.0
            sums[1] += apart.square_().sum(dtype=torch.float64)
            sums[2] += ((furthest - nearest) / nearest).sum(dtype=torch.float64)
    mean, square = (sums[:2] / (n * (n - 1))).tolist()
    return Distances(mean, (square - mean * mean) ** 0.5, float(sums[2]) / n)


def pairwise_moments(x: Any) -> PairMoments:
    """Moments of all pairs the pairwise way: chunked float32 product, summed in float64 chunk by chunk."""
    import torch

    n = len(x)
    squares = (x * x).sum(dim=1)
    norms = squares.sqrt()
    sums = torch.zeros(4, dtype=torch.float64, device=x.device)
    with allowing("float32"):
        for chunk in chunks(x):
            products = torch.mm(x[chunk], x.T)
            apart = squares[chunk, None] + squares - 2 * products
            cosines = products.div_(norms[chunk, None]).div_(norms)
            for at, values in enumerate((cosines, cosines.square(), apart, apart.square())):
                sums[at] += values.sum(dtype=torch.float64)
    # Each row is once with itself, at cosine 1 and distance 0.
    sums[:2] -= n
    c1, c2, d1, d2 = (sums / (n * (n - 1))).tolist()
    return PairMoments(c1, c2 - c1 * c1, d1, d2 - d1 * d1)


def topk_neighbors(x: Any, k: int, precision: str) -> Any:
    """Numbers of the k + 1 rows of largest cosine for each row, itself included: chunked product and `topk`."""
    import torch

    rows = unit(x, precision)
    indices = torch.empty((len(x), k + 1), dtype=torch.int64, device=x.device)
    with allowing(precision):
        for chunk in chunks(x):
            cosines = torch.mm(rows[chunk], rows.T)
            indices[chunk] = cosines.topk(k + 1, dim=1).indices
    return indices


def faiss_gpu_neighbors(x: Any, k: int) -> Any:
    """Numbers of the k + 1 nearest by inner product in faiss on a GPU; rows are of unit length."""
    faiss = need("faiss", "faiss-gpu-cu12")
    if not hasattr(faiss, "StandardGpuResources") or not x.is_cuda:
        what = "knows no GPU: it is faiss-cpu" if not hasattr(faiss, "StandardGpuResources") else "would run on the CPU"
        msg = f"faiss-gpu is not installed or not usable: the faiss {faiss.__version__} that is here {what}"
        raise BackendUnavailableError(msg)
    need("faiss.contrib.torch_utils", "faiss-gpu-cu12")
    resources = faiss.StandardGpuResources()
    return faiss.knn_gpu(resources, x, x, k + 1, metric=faiss.METRIC_INNER_PRODUCT)[1]


def cuvs_neighbors(x: Any, k: int) -> Any:
    """Numbers of the k + 1 nearest by inner product from cuVS's brute force; rows are of unit length."""
    brute_force = need("cuvs.neighbors.brute_force", "cuvs-cu12")
    import torch

    if not x.is_cuda:
        msg = "cuVS works on NVIDIA GPUs alone"
        raise BackendUnavailableError(msg)
    index = brute_force.build(x, metric="inner_product")
    return torch.as_tensor(brute_force.search(index, x, k + 1)[1], device=x.device)


def keops_sums(x: Any) -> tuple[float, float]:
    """Mean and variance of all cosines by two reductions of lazy matrices in KeOps.

    KeOps writes and compiles code for each formula and dimension: the first call takes a quarter of a minute or more.

    Raises
    ------
    BackendUnavailableError
        It is not installed, or its compiler does not work here.
    """
    with redirect_stdout(StringIO()):  # It says on import which GPUs it found.
        need("pykeops").set_verbose(False)
        from pykeops.torch import LazyTensor

    rows, n = unit(x, "float32"), len(x)
    try:
        cosines = (LazyTensor(rows[:, None, :]) * LazyTensor(rows[None, :, :])).sum(-1)
        first, second = (float(sums.sum(dim=1).double().sum()) for sums in (cosines, cosines * cosines))
    except (RuntimeError, OSError, AttributeError) as why:  # Whatever becomes of a compiler that is not as expected.
        msg = f"KeOps does not compile here: {why!r}"
        raise BackendUnavailableError(msg) from why
    mean, square = (first - n) / (n * (n - 1)), (second - n) / (n * (n - 1))
    return mean, square - mean * mean


def faiss_neighbors(x: Rows, k: int) -> NDArray[np.int64]:
    """Search an exact inner-product index of the rows, which are of unit length, for each row and one more than k."""
    faiss = need("faiss", "faiss-cpu")
    index = faiss.IndexFlatIP(x.shape[1])
    index.add(x)
    return np.asarray(index.search(x, k + 1)[1])


def sklearn_neighbors(x: Rows, k: int) -> NDArray[np.int64]:
    """Return the neighbours that scikit-learn finds by brute force on all processors, rows themselves left out."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute", n_jobs=-1).fit(x)
    return np.asarray(search.kneighbors(return_distance=False))


def sklearn_similarity(x: Rows) -> Any:
    """Return scikit-learn's cosine similarity."""
    from sklearn.metrics.pairwise import cosine_similarity

    return cosine_similarity(x)


def numpy_similarity(x: Rows) -> Any:
    """Return the product of unit rows in NumPy."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit @ unit.T


def scipy_similarity(x: Rows) -> Any:
    """Return 1 less SciPy's cosine distance, in float64."""
    from scipy.spatial.distance import cdist

    return 1 - cdist(x, x, "cosine")


def numkong_similarity(x: Rows) -> Any:
    """Return 1 less NumKong's angular distance (that is, 1 - cosine) on all processors, in float64."""
    return 1 - np.asarray(need("numkong").cdist(x, x, "angular", threads=0))


def simsimd_similarity(x: Rows) -> Any:
    """Return 1 less SimSIMD's cosine distance on all processors, in float64."""
    return 1 - np.asarray(need("simsimd").cdist(x, x, "cosine", threads=0))


def scipy_distances(x: Rows, p: float) -> Distances:
    """Condensed distances in SciPy, their mean and spread, and each row's nearest and furthest from the square form."""
    from scipy.spatial.distance import pdist, squareform

    if p == 1:
        condensed = pdist(x, "cityblock")
    elif p == 2:
        condensed = pdist(x, "euclidean")
    else:
        condensed = pdist(x, "chebyshev") if p == np.inf else pdist(x, "minkowski", p=p)
    square = squareform(condensed)
    return Distances(float(condensed.mean()), float(condensed.std()), _contrast(square))


def sklearn_distances(x: Rows, p: float) -> Distances:
    """Square matrix of distances in scikit-learn, on all processors, and the same reductions."""
    from sklearn.metrics import pairwise_distances

    name = {1: "manhattan", 2: "euclidean", np.inf: "chebyshev"}.get(p)
    order: dict[str, Any] = {} if name else {"p": p}
    square = pairwise_distances(x, metric=name or "minkowski", n_jobs=-1, **order)
    return _square(np.asarray(square))


def _square(square: NDArray[Any]) -> Distances:
    # Distances through a product leave a row at some distance from itself, enough to be seen in the spread.
    np.fill_diagonal(square, 0)
    n = len(square)
    pairs = n * (n - 1)
    mean = float(square.sum(dtype=np.float64)) / pairs
    return Distances(
        mean, (float(np.square(square).sum(dtype=np.float64)) / pairs - mean * mean) ** 0.5, _contrast(square)
    )


def _contrast(square: NDArray[Any]) -> float:
    furthest = square.max(axis=1)
    np.fill_diagonal(square, np.inf)
    nearest = square.min(axis=1)
    return float(np.mean((furthest - nearest) / nearest))


def need(name: str, install: str = "") -> Any:
    """Import a peer that may be missing.

    Raises
    ------
    BackendUnavailableError
        It cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as why:
        msg = f"{name} is not installed, or cannot be imported ({why}); pip install {install or name}"
        raise BackendUnavailableError(msg) from why
