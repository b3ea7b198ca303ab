"""Hubness against brute force by sorting all pairs, hand-made occurrences, and what random rows are known to give."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geomkit.errors import InvalidInputError
from geomkit.stats.hubness import hubness, hubness_of
from geomkit.stats.neighbors import neighbors
from tests.stats.oracle import data

METRICS = ["cosine", "euclidean", "dot"]


def listed(x, k, metric):
    """The k nearest of each row, and how far they are, by sorting all in float64."""
    x = np.asarray(x, np.float64)
    if metric == "euclidean":
        full = np.sqrt(np.square(x[:, None] - x[None]).sum(axis=2))
    else:
        if metric == "cosine":
            x = x / np.linalg.norm(x, axis=1, keepdims=True)
        full = (metric == "cosine") - x @ x.T
    np.fill_diagonal(full, np.inf)
    order = np.argsort(full, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(full, order, 1)


def components(edges):
    """Sizes of the connected parts, by flooding."""
    joined, left, sizes = edges | edges.T, set(range(len(edges))), []
    while left:
        reached, front = set(), {left.pop()}
        while front:
            reached |= front
            front = {int(to) for each in front for to in np.flatnonzero(joined[each])} - reached
        left -= reached
        sizes.append(len(reached))
    return sizes


def brute(x, k, metric):
    """Every figure of the answer from its definition."""
    order, far = listed(x, k, metric)
    n = len(x)
    edges = np.zeros((n, n), bool)
    np.put_along_axis(edges, order, values=True, axis=1)
    times = edges.sum(axis=0)
    sizes = components(edges)
    low, high = np.quantile(far[:, 0], [0.25, 0.75])
    z = (times - times.mean()) / times.std()
    skewness = np.mean(z**3)
    jackknife = [math.nan] * n
    for at in range(n):
        rest = np.delete(times, at)
        jackknife[at] = np.mean((rest - rest.mean()) ** 3) / rest.std() ** 3
    # Influences of two rows count together as far as these and their nearest are the same: by half, or wholly.
    influence = (n - 1) * (np.mean(jackknife) - jackknife)
    common = np.array([[len({i, order[i, 0]} & {j, order[j, 0]}) / 2 for j in range(n)] for i in range(n)])
    left_out = math.sqrt(influence @ common @ influence / (n * (n - common.sum() / n)))
    # The asymptotic variance of the skewness of normal draws is 6, that of gamma draws as below.
    steep = 1.875 * skewness**4
    gamma = math.sqrt((6 + 9 * skewness**2 + steep) / n)
    scale = 1.0 if metric == "cosine" else np.median(far[:, -1])
    return times, {
        "skewness": skewness,
        "skewness_se": math.exp((6 * math.log(left_out) + steep * math.log(gamma)) / (6 + steep)),
        "robin_hood": sum(abs(each - k) for each in times) / (2 * n * k),
        "gini": np.abs(times[:, None] - times).sum() / (2 * n * n * k),
        "antihub_fraction": sum(each == 0 for each in times) / n,
        "hub_fraction": sum(each > 2 * k for each in times) / n,
        "largest_occurrence": max(times),
        "n_components": len(sizes),
        "largest_component_fraction": max(sizes) / n,
        "mutual_fraction": sum(edges[j, i] for i in range(n) for j in order[i]) / (n * k),
        "outlier_fraction": np.mean(far[:, 0] > high + 3 * (high - low)),
        "duplicate_fraction": math.nan if metric == "dot" else np.mean(far[:, 0] <= 1e-6 * scale),
    }


def spoilt(rng, n, d):
    """Clusters with far-away rows and near-duplicates among them."""
    x = 3 * rng.standard_normal((5, d))[rng.integers(0, 5, n)] + 0.3 * rng.standard_normal((n, d))
    x[:4] = 30 * rng.standard_normal((4, d))
    x[5:20] = x[25:40] + 3e-8 * rng.standard_normal((15, d))
    return x


def a_list(lists, distances=None, *, metric="euclidean"):
    """A finished pass whose lists are these."""
    lists = np.asarray(lists)
    n, k = lists.shape
    found = neighbors(np.random.default_rng(1).standard_normal((n, 3)), k, metric=metric)
    far = np.ones((n, k)) if distances is None else np.sort(np.asarray(distances, float), axis=1)
    return replace(found, indices=lists, distances=far)


def assert_same(found, other):
    """Every scalar is the same, but for the order of sums."""
    want = other.to_dict()
    for name, value in found.to_dict().items():
        assert value == (want[name] if isinstance(value, str) else pytest.approx(want[name], rel=1e-11, nan_ok=True))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("k", "name"), [(1, "spoilt"), (3, "gaussian"), (5, "spoilt"), (10, "clustered")])
def test_matches_brute_force(metric, k, name):
    x = spoilt(np.random.default_rng(3), 240, 6) if name == "spoilt" else data(name, 240, 6)
    times, want = brute(x, k, metric)
    found = hubness(x, k, metric=metric)
    assert np.array_equal(found.occurrence, times)
    assert found.occurrence.dtype == np.int64
    got = found.to_dict()
    for field, value in want.items():
        assert got[field] == pytest.approx(value, rel=1e-11, nan_ok=True), field
    if name == "spoilt" and metric == "cosine":
        assert want["duplicate_fraction"] >= 30 / 240
    if name == "spoilt" and metric == "euclidean":
        assert want["outlier_fraction"] >= 4 / 240
        assert want["duplicate_fraction"] >= 29 / 240
    assert (found.n, found.d, found.k, found.metric, found.n_dropped) == (240, 6, k, metric, 0)


@pytest.mark.parametrize("metric", METRICS)
def test_a_finished_pass_gives_the_same(metric):
    x = data("anisotropic", 150, 7)
    passed = neighbors(x, 4, metric=metric, precision="float64")
    found = hubness(x, 4, metric=metric, precision="float64")
    assert str(hubness_of(passed)) == str(found)
    assert int(found.occurrence.sum()) == 150 * 4
    assert (found.backend, found.precision, found.matmul) == (passed.backend, passed.precision, passed.matmul)


@pytest.mark.parametrize(
    ("backend", "precision"), [("reference", "float64"), ("torch", "float32"), ("cpu", "bfloat16")]
)
def test_backends_agree(backend, precision):
    x = data("gaussian", 120, 9)
    found, plain = hubness(x, 5, backend=backend, precision=precision), hubness(x, 5)
    assert np.array_equal(found.occurrence, plain.occurrence)
    assert (found.backend, found.precision) == (backend, precision)


def test_a_star_by_hand():
    # Rows 1 to 4 name row 0, which names row 1: N = (4, 1, 0, 0, 0).
    found = hubness_of(a_list([[1], [0], [0], [0], [0]]))
    assert found.occurrence.tolist() == [4, 1, 0, 0, 0]
    assert found.robin_hood == 6 / 10  # Σ|N - 1| = 3 + 0 + 1 + 1 + 1
    assert found.gini == pytest.approx(0.72)  # (4·4 + 2·1)/(5·5): ranks 4, 2, 0, -2, -4
    assert found.skewness == pytest.approx((27 - 3) / 5 / (12 / 5) ** 1.5)
    assert (found.antihub_fraction, found.hub_fraction, found.largest_occurrence) == (0.6, 0.2, 4)
    assert (found.n_components, found.largest_component_fraction, found.mutual_fraction) == (1, 1.0, 2 / 5)


def test_exactly_twice_k_is_no_hub():
    found = hubness_of(a_list([[1], [0], [0], [1]]))
    assert found.occurrence.tolist() == [2, 2, 0, 0]
    assert (found.hub_fraction, found.largest_occurrence, found.skewness) == (0.0, 2, 0.0)


def test_a_ring_is_even_and_names_nobody_back():
    found = hubness_of(a_list([[1], [2], [3], [4], [0]]))
    assert (found.robin_hood, found.gini, found.mutual_fraction, found.n_components) == (0, 0, 0, 1)
    assert math.isnan(found.skewness)
    assert math.isnan(found.skewness_se)


@pytest.mark.parametrize("metric", METRICS)
def test_all_others_as_neighbours(metric):
    found = hubness(data("gaussian", 12, 4), 11, metric=metric)
    assert found.occurrence.tolist() == [11] * 12
    assert math.isnan(found.skewness)
    assert math.isnan(found.skewness_se)
    assert (found.robin_hood, found.gini, found.mutual_fraction, found.n_components) == (0, 0, 1, 1)
    assert (found.hub_fraction, found.antihub_fraction) == (0, 0)


def test_two_rows():
    found = hubness([[1.0, 0.0], [0.0, 1.0]], 1)
    assert (found.n_components, found.mutual_fraction, found.outlier_fraction, found.duplicate_fraction) == (1, 1, 0, 0)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_clusters_far_apart_are_components(metric):
    rng = np.random.default_rng(2)
    x = np.vstack([10 * np.eye(8)[at] + 0.1 * rng.standard_normal((size, 8)) for at, size in enumerate((30, 50, 20))])
    found = hubness(x, 6, metric=metric)
    assert found.n_components >= 3
    assert found.largest_component_fraction <= 0.5
    # More neighbours than the least cluster has members must cross over.
    assert hubness(x, 25, metric=metric).n_components <= 2


def test_outliers_lie_beyond_the_outer_fence():
    nearest = np.array([1.0, 2, 3, 4, 5, 10, 10.5])  # Q1 = 2.5, Q3 = 7.5: the fence is at 22.5.
    lists = np.array([[1], [0], [0], [0], [0], [0], [0]])
    assert hubness_of(a_list(lists, nearest[:, None])).outlier_fraction == 0
    nearest[-1] = 22.5
    assert hubness_of(a_list(lists, nearest[:, None])).outlier_fraction == 0
    nearest[-1] = 22.6
    assert hubness_of(a_list(lists, nearest[:, None])).outlier_fraction == 1 / 7


@pytest.mark.parametrize("metric", METRICS)
def test_equal_distances_but_for_rounding_have_no_outliers(metric):
    far = np.ones((40, 1))
    far[3] += 2.0**-50
    assert hubness_of(a_list((np.arange(40)[:, None] + 1) % 40, far, metric=metric)).outlier_fraction == 0
    rotation = np.linalg.qr(np.random.default_rng(5).standard_normal((40, 40)))[0]
    assert hubness(rotation, 1, metric="cosine").outlier_fraction == 0


def test_duplicates():
    x = np.random.default_rng(4).standard_normal((60, 5))
    x[:20] = x[20:40]
    for metric in ("cosine", "euclidean"):
        assert hubness(x, 3, metric=metric, duplicate_tolerance=0.0).duplicate_fraction == 40 / 60
        # Most nearest distances are 0, those to the third nearest are not.
        x[0] += 1e-9
        assert hubness(x, 3, metric=metric).duplicate_fraction == 40 / 60
        x[0] = x[20]
    assert hubness(x, 3, metric="euclidean", duplicate_tolerance=1e-12).duplicate_tolerance == 1e-12
    assert math.isnan(hubness(x, 3, metric="dot").duplicate_fraction)
    assert hubness(2.0 ** np.arange(8)[:, None] * x[0], 3).duplicate_fraction == 1
    assert hubness(2.0 ** np.arange(8)[:, None] * x[0], 3, metric="euclidean").duplicate_fraction == 0
    assert hubness(np.ones((8, 3)), 3, metric="euclidean").duplicate_fraction == 1


def test_duplicates_by_euclidean_distance_are_relative():
    lists = (np.arange(4)[:, None] + [1, 2]) % 4
    far = [[1, 4], [2, 4], [0, 0], [0, 0]]  # The median of the second that are not 0 is 4.
    for share, want in ((0.0, 2), (0.24, 2), (0.25, 3), (0.49, 3), (0.5, 4)):
        for scale in (1e-200, 1.0, 1e200):
            found = hubness_of(a_list(lists, np.array(far) * scale), share)
            assert found.duplicate_fraction == want / 4


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 8), metric=st.sampled_from(METRICS))
def test_order_does_not_matter(seed, k, metric):
    rng = np.random.default_rng(seed)
    x, order = rng.standard_normal((70, 5)), rng.permutation(70)
    plain, found = hubness(x, k, metric=metric), hubness(x[order], k, metric=metric)
    assert np.array_equal(found.occurrence, plain.occurrence[order])
    assert_same(found, plain)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 8))
def test_cosine_ignores_rotation_and_lengths(seed, k):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((70, 5))
    turned = x @ np.linalg.qr(rng.standard_normal((5, 5)))[0] * 10.0 ** rng.uniform(-5, 5, (70, 1))
    plain, found = hubness(x, k), hubness(turned, k)
    assert np.array_equal(found.occurrence, plain.occurrence)
    assert_same(found, plain)


@pytest.mark.parametrize("metric", METRICS)
def test_dropped_rows_keep_the_numbers_of_the_input(metric):
    x = data("clustered", 60, 8)
    broken = np.insert(x, [0, 30, 60], np.nan, axis=0)
    plain, found = hubness(x, 4, metric=metric), hubness(broken, 4, metric=metric, on_invalid="drop")
    assert np.array_equal(found.rows, np.delete(np.arange(63), [0, 31, 62]))
    assert np.array_equal(found.occurrence, plain.occurrence)
    assert found.n_dropped == 3
    assert_same(replace(found, n_dropped=0), plain)
    with pytest.raises(InvalidInputError):
        hubness(broken, 4, metric=metric)


@pytest.mark.parametrize("k", [0, 9, -1, 2.0, True, None])
def test_k_must_be_possible(k):
    with pytest.raises(InvalidInputError, match="k must be a whole number from 1 to n - 1 = 8; got"):
        hubness(np.eye(9), k)


def test_other_arguments_must_be_possible():
    with pytest.raises(InvalidInputError, match="metric must be"):
        hubness(np.eye(9), 2, metric="manhattan")
    with pytest.raises(InvalidInputError, match="on_invalid must be"):
        hubness(np.eye(9), 2, on_invalid="ignore")
    for bad in (-0.1, 1.1, "0.1", None, True, math.nan):
        with pytest.raises(InvalidInputError, match=r"duplicate_tolerance must be a number in \[0, 1\]; got"):
            hubness(np.eye(9), 2, duplicate_tolerance=bad)
        with pytest.raises(InvalidInputError, match=r"duplicate_tolerance must be a number in \[0, 1\]; got"):
            hubness_of(neighbors(np.eye(9), 2), bad)


def test_the_published_null():
    # Means over five draws: a draw varies by about 0.08 by cosine and by 1 by Euclidean distance.
    draws = [np.random.default_rng(seed).standard_normal((1000, 128)) for seed in range(5)]
    by_cosine = [hubness(x, 10).skewness for x in draws]
    by_distance = [hubness(x, 10, metric="euclidean").skewness for x in draws]
    assert 0.15 < np.mean(by_cosine) < 0.45
    assert min(by_distance) > 2


@pytest.mark.parametrize("shape", [0.5, 2.0, 50.0])
def test_the_gamma_part_is_the_error_of_gamma_draws(shape):
    # n draws from a gamma distribution, of skewness 2/√shape; by simulation, the standard deviation of theirs times √n.
    draws = np.random.default_rng(6).gamma(shape, size=(3000, 4000))
    draws -= draws.mean(axis=1, keepdims=True)
    found = (draws**3).mean(axis=1) / (draws**2).mean(axis=1) ** 1.5
    square = 4 / shape
    # Four standard errors of a standard deviation, and what 4000 draws are short of infinitely many: their sixth
    # moments are of few draws, the fewer the more skewed.
    slack = 4 / math.sqrt(6000) + {0.5: 0.2, 2.0: 0.05, 50.0: 0.0}[shape]
    assert found.std() * math.sqrt(4000) == pytest.approx(math.sqrt(6 + 9 * square + 1.875 * square**2), rel=slack)


def test_printing_shows_every_scalar():
    found = hubness(data("gaussian", 9, 3), k=2)
    assert {"occurrence", "rows"}.isdisjoint(found.to_dict())
    assert len(str(found).splitlines()) == len(found.to_dict()) == len(found.__dataclass_fields__) - 2
    assert "occurrence=" not in repr(found).replace("largest_occurrence=", "")
