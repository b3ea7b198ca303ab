"""Nearest rows of a corpus by brute force in extended precision, and what an answer must have in common with them."""

import numpy as np


def scores_between(queries, x, metric):
    """Scores of all queries with all rows, larger the nearer, and how far float64 may take each, (m, n)."""
    sides = [np.asarray(each, np.float64).astype(np.longdouble) for each in (queries, x)]
    if metric == "cosine":
        sides = [each / np.abs(each).max(axis=1, keepdims=True) for each in sides]
        sides = [each / np.sqrt(np.square(each).sum(axis=1, keepdims=True)) for each in sides]
    q, x = sides
    unit = np.longdouble(2.0) ** -52 * (x.shape[1] + 16)
    if metric == "euclidean":
        full = -np.square(q[:, None] - x[None]).sum(axis=2)
        # Differences are rounded once each, and lose nothing else.
        return full, -unit * full
    lengths = [np.sqrt(np.square(each).sum(axis=1)) for each in (q, x)]
    return (q[:, None] * x[None]).sum(axis=2), unit * lengths[0][:, None] * lengths[1]


def assert_nearest_to(found, queries, x, metric):
    """The lists are those of brute force, but for scores that float64 cannot tell apart."""
    full, slack = scores_between(queries, x, metric)
    (m, n), k = full.shape, found.k
    assert (found.m, found.n, found.metric) == (m, n, metric)
    assert found.indices.shape == found.distances.shape == (m, k)
    order = np.argsort(-full, axis=1, kind="stable")
    ranked = np.take_along_axis(full, order, 1)
    chosen = np.take_along_axis(full, found.indices, 1)
    slack = np.take_along_axis(slack, found.indices, 1)
    assert all(len(set(row)) == k for row in found.indices)
    assert np.all(np.abs(chosen - ranked[:, :k]) <= slack)
    # Where the gaps on both sides exceed the rounding of both scores, there is one right number.
    none = np.full((m, 1), np.inf)
    gaps = np.hstack([none, ranked[:, :-1] - ranked[:, 1:], none])
    sure = (gaps[:, :k] > 4 * slack) & (gaps[:, 1 : k + 1] > 4 * slack)
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
    _, group = np.unique(np.asarray(x, np.float64), axis=0, return_inverse=True)
    for numbers, distances in zip(found.indices, found.distances, strict=True):
        for each in np.unique(group[numbers]):
            taken = numbers[group[numbers] == each]
            assert taken.tolist() == np.flatnonzero(group == each)[: len(taken)].tolist()
            assert len(set(distances[group[numbers] == each])) == 1
