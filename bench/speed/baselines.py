"""The other ways to get these numbers, called as their users would call them."""

import importlib
from contextlib import redirect_stdout
from io import StringIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomkit.errors import BackendUnavailableError

Rows = NDArray[np.float32]


def torch_chunked(x: Rows, chunk: int = 2048, bins: int = 1000) -> tuple[float, float, NDArray[np.float32]]:
    """Mean, variance and histogram of all pairwise cosines, as an expert writes it by hand in torch.

    Chunked product of normalised rows, `histc` and sums, on all threads. Every pair is seen twice and each row once
    with itself, which the sums take out again.
    """
    import torch

    rows = torch.nn.functional.normalize(torch.from_numpy(x), dim=1)
    n = len(rows)
    histogram = torch.zeros(bins)
    total = square = 0.0
    for start in range(0, n, chunk):
        cosines = rows[start : start + chunk] @ rows.T
        histogram += torch.histc(cosines, bins, -1.0, 1.0)
        total += float(cosines.sum())
        square += float((cosines * cosines).sum())
    pairs = n * (n - 1)
    mean = (total - n) / pairs
    return mean, (square - n) / pairs - mean * mean, histogram.numpy()


def bare_product(x: Rows, out: Any) -> Any:
    """Nothing but the product of all rows with all rows in torch, into memory that is there already."""
    import torch

    rows = torch.from_numpy(x)
    return torch.mm(rows, rows.T, out=out)


def keops_sums(x: Rows) -> tuple[float, float]:
    """Mean and variance of all pairwise cosines by two reductions of lazy matrices in KeOps.

    KeOps writes and compiles C++ for each formula and dimension: the first call takes a quarter of a minute or more.
    """
    import torch

    with redirect_stdout(StringIO()):  # It says on import that it found no GPU.
        need("pykeops").set_verbose(False)
    from pykeops.torch import LazyTensor

    rows = torch.nn.functional.normalize(torch.from_numpy(x), dim=1)
    left, right = LazyTensor(rows[:, None, :]), LazyTensor(rows[None, :, :])
    cosines = (left * right).sum(-1)
    n = len(rows)
    pairs = n * (n - 1)
    mean = (float(cosines.sum(dim=1).double().sum()) - n) / pairs
    square = (float((cosines * cosines).sum(dim=1).double().sum()) - n) / pairs
    return mean, square - mean * mean


class PairMoments(NamedTuple):
    """Mean and variance of cosine and of squared distance over all pairs."""

    cosine_mean: float
    cosine_variance: float
    squared_distance_mean: float
    squared_distance_variance: float


def torch_moments(x: Rows, chunk: int = 2048) -> PairMoments:
    """Moments of all pairs the pairwise way: chunked float32 product in torch, summed in float64 chunk by chunk."""
    import torch

    rows = torch.from_numpy(x)
    n = len(rows)
    squares = (rows * rows).sum(dim=1)
    norms = squares.sqrt()
    sums = np.zeros(4)
    for start in range(0, n, chunk):
        products = rows[start : start + chunk] @ rows.T
        apart = squares[start : start + chunk, None] + squares - 2 * products
        cosines = products.div_(norms[start : start + chunk, None]).div_(norms)
        for at, values in enumerate((cosines, cosines.square(), apart, apart.square())):
            sums[at] += float(values.sum(dtype=torch.float64))
    # Each row is once with itself, at cosine 1 and distance 0.
    c1, c2, d1, d2 = (sums - [n, n, 0, 0]) / (n * (n - 1))
    return PairMoments(c1, c2 - c1 * c1, d1, d2 - d1 * d1)


def faiss_neighbors(x: Rows, k: int) -> NDArray[np.int64]:
    """Search an exact inner-product index of the rows, which are of unit length, for each row and one more than k."""
    faiss = need("faiss", "faiss-cpu")
    index = faiss.IndexFlatIP(x.shape[1])
    index.add(x)
    return np.asarray(index.search(x, k + 1)[1])


def sklearn_neighbors(x: Rows, k: int) -> NDArray[np.int64]:
    """Return the neighbours that scikit-learn finds by brute force on all processors, rows themselves left out."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute", n_jobs=-1).fit(x)
    return np.asarray(found.kneighbors(return_distance=False))


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


class Distances(NamedTuple):
    """What a user reads from a matrix of distances to see whether they concentrate."""

    mean: float
    std: float
    relative_contrast: float


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


def torch_distances(x: Rows, p: float) -> Distances:
    """Square matrix of distances in torch, on all processors, and the same reductions."""
    import torch

    rows = torch.from_numpy(x)
    return _square(torch.cdist(rows, rows, p=p).numpy())


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
