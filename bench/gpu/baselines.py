"""The other ways to these numbers on a device, called as users would call them; rows are tensors that lie there."""

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any

from bench.speed.baselines import Distances, PairMoments, need
from geomkit.errors import BackendUnavailableError

CHUNK = 4096
"""Rows of a chunk, whose products with all rows fill 800 MB at n = 50,000 in float32."""

BINS = 1000

SHARE = 4
"""The output of a bare product takes at most this fraction of the free memory."""


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


def dtype_of(precision: str) -> Any:
    """Return the dtype that rows have in a product of this precision."""
    import torch

    return torch.float32 if precision == "tf32" else getattr(torch, precision)


def unit(x: Any, precision: str) -> Any:
    """Return unit rows in the dtype of a precision."""
    import torch

    return torch.nn.functional.normalize(x, dim=1).to(dtype_of(precision))


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
        for start in range(0, n, CHUNK):
            cosines = torch.mm(rows[start : start + CHUNK], rows.T).float()
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
        for start in range(0, n, CHUNK):
            squares = torch.cdist(x[start : start + CHUNK], x).square_()
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
        for start in range(0, n, CHUNK):
            apart = torch.cdist(x[start : start + CHUNK], x, p=p)
            own = torch.arange(len(apart), device=x.device)
            apart[own, start + own] = 0.0
            sums[0] += apart.sum(dtype=torch.float64)
            furthest = apart.amax(dim=1)
            apart[own, start + own] = torch.inf
            nearest = apart.amin(dim=1)
            apart[own, start + own] = 0.0
            sums[1] += apart.square_().sum(dtype=torch.float64)
            sums[2] += ((furthest - nearest) / nearest).sum(dtype=torch.float64)
    mean, square = (float(each) / (n * (n - 1)) for each in sums[:2])
    return Distances(mean, (square - mean * mean) ** 0.5, float(sums[2]) / n)


def pairwise_moments(x: Any) -> PairMoments:
    """Moments of all pairs the pairwise way: chunked float32 product, summed in float64 chunk by chunk."""
    import torch

    n = len(x)
    squares = (x * x).sum(dim=1)
    norms = squares.sqrt()
    sums = torch.zeros(4, dtype=torch.float64, device=x.device)
    with allowing("float32"):
        for start in range(0, n, CHUNK):
            products = torch.mm(x[start : start + CHUNK], x.T)
            apart = squares[start : start + CHUNK, None] + squares - 2 * products
            cosines = products.div_(norms[start : start + CHUNK, None]).div_(norms)
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
    found = torch.empty((len(x), k + 1), dtype=torch.int64, device=x.device)
    with allowing(precision):
        for start in range(0, len(x), CHUNK):
            cosines = torch.mm(rows[start : start + CHUNK], rows.T)
            found[start : start + CHUNK] = cosines.topk(k + 1, dim=1).indices
    return found


def faiss_neighbors(x: Any, k: int) -> Any:
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
    """Mean and variance of all cosines by two reductions of lazy matrices in KeOps, which compiles for each formula."""
    import torch

    with redirect_stdout(StringIO()):  # It says on import which GPUs it found.
        need("pykeops").set_verbose(False)
        from pykeops.torch import LazyTensor

    rows, n = torch.nn.functional.normalize(x, dim=1), len(x)
    left, right = LazyTensor(rows[:, None, :]), LazyTensor(rows[None, :, :])
    cosines = (left * right).sum(-1)
    mean = (float(cosines.sum(dim=1).double().sum()) - n) / (n * (n - 1))
    square = (float((cosines * cosines).sum(dim=1).double().sum()) - n) / (n * (n - 1))
    return mean, square - mean * mean
