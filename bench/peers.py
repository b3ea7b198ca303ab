"""The other ways to get these numbers, called as their users would call them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def torch_chunked(
    x: NDArray[np.float32], chunk: int = 2048, bins: int = 1000
) -> tuple[float, float, NDArray[np.float32]]:
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


def bare_product(x: NDArray[np.float32], out: Any) -> Any:
    """Nothing but the product of all rows with all rows in torch, into memory that is there already."""
    import torch

    rows = torch.from_numpy(x)
    return torch.mm(rows, rows.T, out=out)
