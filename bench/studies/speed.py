"""Speed of the all-pair cosine statistics beside what an expert writes by hand, and beside the bare product."""

import os

import numpy as np
import pandas as pd
from tqdm import tqdm

from bench.cases import CosineCase, interleaved
from bench.runner import Context, Study
from geomkit.sources import GRID

N, N_QUICK = 8_192, 4_096
ROUNDS = 5
_QUICK_DIMS = (50, 300, 768)


def run(context: Context) -> None:
    """Time every dimension of the grid and write results/speed.csv."""
    held = [name for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if name in os.environ]
    if held:
        context.say(f"{' and '.join(held)} hold NumPy's product back; unset for benchmarks, as `make results` does")
    n = N_QUICK if context.quick else N
    rows = []
    for d in tqdm(_QUICK_DIMS if context.quick else GRID, desc="speed", unit="dimension", disable=None):
        case = CosineCase(n, d, context.seed)
        took = interleaved([case.ours(), case.torch_chunked(), case.bare_product()], 3 if context.quick else ROUNDS)
        ours, chunked, bare = np.median(took, axis=0)
        rows.append(
            {
                "statistic": "cosine_stats",
                "precision": "float32",
                "n": n,
                "d": d,
                "seconds": ours,
                "million_pairs_per_second": n * (n - 1) / 2 / ours / 1e6,
                "times_chunked_torch": np.median(took[:, 1] / took[:, 0]),
                "of_bare_product": np.median(took[:, 0] / took[:, 2]),
                "chunked_torch_seconds": chunked,
                "bare_product_seconds": bare,
                "rounds": len(took),
            }
        )
    context.table("speed.csv", pd.DataFrame(rows))


STUDY = Study("speed", "all-pair cosine statistics beside chunked torch and the bare product", run)
