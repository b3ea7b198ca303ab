"""Recall of two approximate indices, HNSW and IVF of faiss, against exact neighbours."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.speed.baselines import need

Rows = NDArray[np.float32]
Numbers = NDArray[np.int64]

LINKS, CONSTRUCTION, BEAM = 4, 40, 16
"""M, efConstruction and efSearch of HNSW: low, for usual values find all neighbours among two thousand rows."""

PROBES = 4
"""Of 2 √n lists, how many IVF reads."""

BUILDS = 3
"""Indices of each kind over which recall is averaged: in another order of rows, from other seeds."""

_ROUNDING = 1e-6
"""By what share a squared distance may exceed that of the k-th neighbour and still be a tie: rounding of float32."""


def needs_faiss() -> None:
    """Refuse where faiss is missing.

    Raises
    ------
    BackendUnavailableError
        Says what to install.
    """
    need("faiss", "faiss-cpu")


def unit(x: Any) -> Rows:
    """Rows divided by their lengths, in float64, as float32; dense. No row may be 0."""
    dense = np.asarray(x.toarray() if hasattr(x, "toarray") else x, np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", dense, dense, dtype=np.float64))
    return np.asarray(np.divide(dense, lengths[:, None], dtype=np.float64), np.float32)


def recall(rows: Rows, queries: Rows, found: Numbers, exact: Numbers) -> float:
    """Share of the k nearest rows that were found, mean over queries.

    Parameters
    ----------
    rows, queries : (n, d), (m, d)
    found : (m, k)
        Row numbers; -1 where fewer were found.
    exact : (m, k)
        Row numbers of the nearest, the farthest of them last.

    Returns
    -------
    float
        In [0, 1]. A row as near as the exact k-th counts, whichever of the equally near ones that is (Aumüller et al.
        2020, ANN-Benchmarks).
    """
    hits = 0
    for query, mine, true in zip(queries.astype(np.float64), found, exact, strict=True):
        reached = np.square(rows[true] - query).sum(axis=1).max()
        apart = np.square(rows[mine[mine >= 0]] - query).sum(axis=1)
        hits += int((apart <= reached * (1 + _ROUNDING)).sum())
    return hits / exact.size


def hnsw(rows: Rows, queries: Rows, k: int, seed: int) -> Numbers:
    """Search a graph index, built row by row in an order that `seed` draws; (m, k), -1 for none."""
    faiss = need("faiss", "faiss-cpu")
    order = np.random.default_rng(seed).permutation(len(rows))
    index = faiss.IndexHNSWFlat(rows.shape[1], LINKS)
    index.hnsw.efConstruction = CONSTRUCTION
    index.hnsw.efSearch = max(BEAM, k)
    with _one_thread(faiss):
        index.add(np.ascontiguousarray(rows[order]))
        places = index.search(queries, k)[1]
    return np.where(places >= 0, order[places], -1)


def ivf(rows: Rows, queries: Rows, k: int, seed: int) -> Numbers:
    """Search an inverted file of 2 √n k-means lists that start from `seed`; (m, k), -1 for none."""
    faiss = need("faiss", "faiss-cpu")
    quantiser = faiss.IndexFlatL2(rows.shape[1])
    index = faiss.IndexIVFFlat(quantiser, rows.shape[1], round(2 * len(rows) ** 0.5))
    index.cp.seed = seed + 1  # 0 is no seed to faiss
    index.cp.min_points_per_centroid = 1  # else faiss warns of few rows a list
    with _one_thread(faiss):
        index.train(rows)
        index.add(rows)
        index.nprobe = PROBES
        return np.asarray(index.search(queries, k)[1])


def mean_recalls(rows: Rows, queries: Rows, exact: Numbers, seed: int) -> tuple[float, float]:
    """Recall of HNSW and of IVF at k = columns of `exact`, means over `BUILDS` indices each."""
    k = exact.shape[1]
    found = [
        [recall(rows, queries, search(rows, queries, k, seed + at), exact) for at in range(BUILDS)]
        for search in (hnsw, ivf)
    ]
    return float(np.mean(found[0])), float(np.mean(found[1]))


@contextmanager
def _one_thread(faiss: Any) -> Iterator[None]:
    """One thread builds the same graph every time."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
