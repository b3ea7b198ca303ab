"""Labels of neighbours against counting, and their null against all permutations; bad labels are refused."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geomkit.errors import InvalidInputError
from geomkit.stats.labels import as_labels, same_label_rate
from geomkit.stats.neighbors import neighbors
from tests.stats.nearest import METRICS
from tests.stats.oracle import data


def a_graph(lists):
    """A finished pass whose lists are these."""
    lists = np.asarray(lists)
    n, k = lists.shape
    return replace(neighbors(np.random.default_rng(1).standard_normal((n, 3)), k), indices=lists)


def random_graph(rng, n, k):
    return a_graph([rng.permutation(np.delete(np.arange(n), row))[:k] for row in range(n)])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 5])
def test_matches_counting(metric, k):
    x = data("clustered", 120, 6)
    labels = np.random.default_rng(0).integers(0, 4, 120)
    near = neighbors(x, k, metric=metric)
    found = same_label_rate(near, labels)
    shares = [sum(labels[j] == labels[i] for j in near.indices[i]) / k for i in range(120)]
    counts = [int(np.sum(labels == each)) for each in range(4)]
    assert found.rate == pytest.approx(np.mean(shares), rel=1e-13)
    assert found.rate_se == pytest.approx(np.std(shares, ddof=1) / math.sqrt(120), rel=1e-12)
    assert found.null_mean == pytest.approx(sum(c * (c - 1) for c in counts) / (120 * 119), rel=1e-14)
    assert found.z == pytest.approx((found.rate - found.null_mean) / found.null_std, rel=1e-12)
    assert (found.majority_fraction, found.n_classes) == (max(counts) / 120, 4)
    assert (found.n, found.d, found.k, found.metric, found.n_dropped) == (120, 6, k, metric, 0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 6), data=st.data())
def test_the_null_is_that_of_all_permutations(seed, n, data):
    rng = np.random.default_rng(seed)
    k = data.draw(st.integers(1, n - 1))
    graph, labels = random_graph(rng, n, k), rng.integers(0, 3, n)
    labels[:2] = 0, 1
    rates = [np.mean(np.array(way)[graph.indices] == np.array(way)[:, None]) for way in itertools.permutations(labels)]
    found = same_label_rate(graph, labels)
    assert found.null_mean == pytest.approx(np.mean(rates), rel=1e-12)
    assert found.null_std == pytest.approx(np.std(rates), rel=1e-9, abs=1e-9)
    assert math.isnan(found.z) == (np.std(rates) < 1e-12)


def test_the_null_of_a_larger_graph_is_that_of_shuffling():
    rng = np.random.default_rng(4)
    near = neighbors(data("clustered", 200, 5), 6)
    labels = rng.choice(["a", "b", "c"], 200, p=[0.6, 0.3, 0.1])
    found = same_label_rate(near, labels)
    rates = [same_label_rate(near, rng.permutation(labels)).rate for _ in range(600)]
    assert abs(np.mean(rates) - found.null_mean) < 4 * found.null_std / math.sqrt(600)
    assert np.std(rates) == pytest.approx(found.null_std, rel=0.12)  # 600 draws know it to 3 %.


def test_clusters_and_noise():
    x = data("clustered", 300, 8)
    near = neighbors(x, 5, metric="euclidean")
    group = np.unique(np.round(x @ np.ones(8, np.float32) / 40), return_inverse=True)[1]
    _, first = np.unique(np.linalg.norm(x[:, None] - x[None], axis=2) < 4, axis=0, return_inverse=True)
    assert same_label_rate(near, first).rate > 0.9
    assert same_label_rate(near, first).z > 20
    assert abs(same_label_rate(near, np.random.default_rng(1).permutation(first)).z) < 4
    assert len(group) == 300


def test_all_others_as_neighbours_leave_nothing_to_chance():
    found = same_label_rate(neighbors(data("gaussian", 8, 3), 7), [0, 0, 0, 1, 1, 1, 2, 2])
    assert found.rate == pytest.approx(found.null_mean, rel=1e-15)
    assert found.null_std == 0
    assert math.isnan(found.z)


def test_dropped_rows_need_no_usable_labels():
    x, labels = data("clustered", 60, 8), np.random.default_rng(0).integers(0, 3, 60).tolist()
    broken = np.insert(x, [0, 30, 60], np.nan, axis=0)
    spoilt = [None, *labels[:30], "", *labels[30:], math.nan]
    plain = same_label_rate(neighbors(x, 4), labels)
    found = same_label_rate(neighbors(broken, 4, on_invalid="drop"), spoilt)
    assert replace(found, n_dropped=0) == plain
    assert found.n_dropped == 3
    with pytest.raises(InvalidInputError, match="one label for each of the 63 rows of x; got 60"):
        same_label_rate(neighbors(broken, 4, on_invalid="drop"), labels)


def test_labels_of_every_kind():
    codes = np.array([0, 1, 1, 2, 0, 2])
    names = np.array(["x", "yy", "z"])
    kinds = (
        codes,
        codes.astype(np.uint8),
        codes.astype(float),
        codes.tolist(),
        tuple(codes),
        torch.from_numpy(codes),
        names[codes],
        names[codes].astype(object),
        names[codes].tolist(),
        names[codes].astype("S2"),
        pd.Series(names[codes], index=np.arange(6)[::-1]),
        pd.Categorical(names[codes]),
        [(each, "of") for each in codes.tolist()],
        np.ma.masked_array(codes, mask=False),
    )
    for kind in kinds:
        found = as_labels(kind, 6)
        assert found.codes.tolist() == codes.tolist()
        assert found.counts.tolist() == [2, 2, 2]
        assert found.majority_fraction == 1 / 3
    assert as_labels(np.array([5, 3, 5]), 3).names == (3, 5)
    # Nothing is converted.
    assert as_labels([1, "1", 2], 3).names == (1, "1", 2)
    assert as_labels(np.array([True, False, True]), 3).names == (False, True)


@pytest.mark.parametrize(
    "labels",
    [
        ["a", None, "b", "a", ""],
        ["a", math.nan, "b", "a", None],
        np.array(["a", "", "b", "a", "  "]),
        np.array([1, math.nan, 2, 1, math.nan]),
        np.array(["a", None, "b", "a", None], object),
        pd.Series(["a", pd.NA, "b", "a", pd.NaT]),
        pd.Series([1, pd.NA, 2, 1, pd.NA], dtype="Int64"),
        np.ma.masked_array([1, 0, 2, 1, 0], mask=[0, 1, 0, 0, 1]),
    ],
)
def test_missing_labels_are_refused(labels):
    with pytest.raises(InvalidInputError, match=r"labels are missing for 2 rows \(first: 1, 4\); drop those rows"):
        as_labels(labels, 5)
    with pytest.raises(InvalidInputError, match=r"labels are missing for 1 row \(4\)"):
        as_labels(labels, 5, np.array([0, 2, 3, 4]))
    assert as_labels(labels, 5, np.array([0, 2, 3])).codes.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2, 3, 4], "one label for each of the 5 rows of x; got 4"),
        (np.zeros((5, 2)), r"one label for each of the 5 rows of x; got an array of shape \(5, 2\)"),
        (np.array(3), r"labels must be one label for each row of x; got array\(3\)"),
        ("abcde", "labels must be one label for each row of x; got 'abcde'"),
        (None, "labels must be one label for each row of x; got None"),
        ([[1], [2], [1], [2], [1]], "labels must be numbers, strings or the like, .*unhashable"),
        ([7] * 5, "labels must be of at least two classes; all 5 are 7"),
        (np.array(["one"] * 5), "labels must be of at least two classes; all 5 are 'one'"),
    ],
)
def test_bad_labels_are_refused(labels, message):
    with pytest.raises(InvalidInputError, match=message):
        as_labels(labels, 5)
    with pytest.raises(InvalidInputError, match=message):
        same_label_rate(neighbors(data("gaussian", 5, 3), 2), labels)


def test_printing_shows_everything():
    found = same_label_rate(neighbors(data("gaussian", 9, 3), 2), [0, 1, 0, 1, 0, 1, 0, 1, 2])
    assert len(str(found).splitlines()) == len(found.to_dict()) == len(found.__dataclass_fields__)
