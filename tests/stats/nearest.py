"""Nearest neighbours by brute force in extended precision, and what an answer must have in common with them."""

import numpy as np
import torch

from geomkit.kernels import Backend, load, triton_nearest
from geomkit.kernels import module as backend_of
from geomkit.pairwise import search
from tests.kernels.case import read
from tests.stats.oracle import data

METRICS = ["cosine", "euclidean", "dot"]


def tight(rng, n, d):
    """Clusters far narrower than bfloat16 can tell apart, beside rows that lie alone."""
    x = np.vstack([np.eye(d)[:1] + 1e-5 * rng.standard_normal((n // 3, d)), rng.standard_normal((n - n // 3, d))])
    return x[rng.permutation(n)]


FURTHER = {
    "many equal": lambda rng, n, d: rng.standard_normal((4, d))[rng.integers(0, 4, n)],
    "identical": lambda rng, n, d: np.tile(rng.standard_normal(d), (n, 1)),
    "translated": lambda rng, n, d: rng.standard_normal((n, d)) + 1e6,
    "of different length": lambda rng, n, d: rng.standard_normal((n, d)) * 10.0 ** rng.uniform(-3, 3, (n, 1)),
    "tight": tight,
}
NAMES = ["gaussian", "clustered", "duplicated", "anisotropic", "whole_numbers", *FURTHER]


def rows_of(name, n, d, *, seed=1):
    return FURTHER[name](np.random.default_rng(seed), n, d) if name in FURTHER else data(name, n, d, seed=seed)


def scores_of(x, metric):
    """Scores of all pairs, larger the nearer, and how far float64 may take each, (n, n)."""
    x = np.asarray(x, np.float64).astype(np.longdouble)
    if metric == "cosine":
        x = x / np.abs(x).max(axis=1, keepdims=True)
        x = x / np.sqrt(np.square(x).sum(axis=1, keepdims=True))
    unit = np.longdouble(2.0) ** -52 * (x.shape[1] + 16)
    if metric == "euclidean":
        full = -np.square(x[:, None] - x[None]).sum(axis=2)
        # Differences are rounded once each, and lose nothing else.
        return full, -unit * full
    lengths = np.sqrt(np.square(x).sum(axis=1))
    return (x[:, None] * x[None]).sum(axis=2), unit * lengths[:, None] * lengths


def entries_of(scores):
    """What a tile of all pairs would hold, in float64."""
    left, right = scores.left(0, scores.n), scores.right(0, scores.n)
    if scores.backend is Backend.TRITON:
        # What its kernels do in registers; TF32 may cut off the last 13 of 23 bits.
        left, right = left.to(torch.float32), right.to(torch.float32)
        if scores.precision == "tf32":
            left, right = ((side.view(torch.int32) & ~0x1FFF).view(torch.float32) for side in (left, right))
        out = left @ right.T
        return read(scores.backend, out.to(torch.bfloat16) if scores.rounded else out).astype(np.float64)
    out = backend_of(scores.backend).zeros((scores.n, scores.n), scores.dtype, scores.device)
    load("sparse_gram" if scores.sparse else "gram", scores.backend)(left, right, out)
    return read(scores.backend, out).astype(np.float64)


def assert_nearest(found, x, metric):
    """The lists are those of brute force, but for scores that float64 cannot tell apart."""
    full, slack = scores_of(x, metric)
    n, k = len(full), found.k
    assert found.indices.shape == found.distances.shape == (n, k)
    np.fill_diagonal(full, -np.inf)
    order = np.argsort(-full, axis=1, kind="stable")
    ranked = np.take_along_axis(full, order, 1)
    chosen = np.take_along_axis(full, found.indices, 1)
    slack = np.take_along_axis(slack, found.indices, 1)
    assert all(len(set(row)) == k for row in found.indices)
    assert np.all(found.indices != np.arange(n)[:, None])
    assert np.all(np.abs(chosen - ranked[:, :k]) <= slack)
    # Where the gaps on both sides exceed the rounding of both scores, there is one right number.
    gaps = ranked[:, :-1] - ranked[:, 1:]
    below = np.column_stack([gaps[:, :k], np.full(n, np.inf)])[:, :k]
    above = np.column_stack([np.full(n, np.inf), gaps])[:, :k]
    sure = (below > 4 * slack) & (above > 4 * slack)
    assert np.array_equal(found.indices[sure], order[:, :k][sure])
    assert np.all(np.diff(found.distances, axis=1) >= 0)
    if metric == "euclidean":
        squares = found.distances.astype(np.longdouble) ** 2
        assert np.all(np.abs(squares + chosen) <= slack + 2.0**-50 * squares)
    else:
        want = np.clip(1 - chosen, 0, 2) if metric == "cosine" else -chosen
        assert np.all(np.abs(found.distances - want) <= slack + 2.0**-52 * np.abs(want))


def assert_equal_rows_come_by_number(found, x):
    """Of rows that are the same, those with the smaller numbers are taken, and come first."""
    x = np.asarray(x, np.float64)
    _, group = np.unique(x, axis=0, return_inverse=True)
    for row, (numbers, distances) in enumerate(zip(found.indices, found.distances, strict=True)):
        for each in np.unique(group[numbers]):
            members = np.flatnonzero(group == each)
            taken = numbers[group[numbers] == each]
            assert taken.tolist() == members[members != row][: len(taken)].tolist()
            assert len(set(distances[group[numbers] == each])) == 1


def same(one, other):
    """Whether two answers agree to the bit."""
    return np.array_equal(one.indices, other.indices) and np.array_equal(one.distances, other.distances)


def keep_fewer(monkeypatch):
    """Keep so few candidates that screening cannot settle the rows: k on the CPU, where a list is k to 2 k long."""

    def keep(scores, k, n):
        return k if scores.backend is Backend.CPU else -(-k // 2)

    monkeypatch.setattr(search, "n_candidates", keep)
    monkeypatch.setattr(triton_nearest, "LEAST_PLACES", 1)
