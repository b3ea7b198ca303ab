"""How queries fit a corpus: against definitions, counting over all draws, and simulation of both nulls."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from geomkit.errors import InvalidInputError
from geomkit.stats.neighbors import neighbors
from geomkit.stats.query_fit import query_fit, query_fit_of
from tests.stats.nearest import METRICS
from tests.stats.oracle import data


def handmade(lists, n, distances=None, own=None):
    """Finished passes whose lists and nearest distances are these."""
    lists = np.asarray(lists)
    m, k = lists.shape
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 3))
    found = neighbors(x, k, queries=rng.standard_normal((m, 3)), metric="euclidean")
    corpus = neighbors(x, 1, metric="euclidean")
    far = np.ones((m, k)) if distances is None else np.sort(np.asarray(distances, float), axis=1)
    return (
        replace(found, indices=lists, distances=far),
        corpus if own is None else replace(corpus, distances=np.asarray(own, float)[:, None]),
    )


def skewness(counts):
    counts = np.asarray(counts, float)
    return math.nan if np.ptp(counts) == 0 else float(stats.skew(counts))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 4])
def test_matches_its_definition(metric, k):
    x, q = data("clustered", 150, 6), data("clustered", 40, 6, seed=7) * np.float32(1.3)
    found, near = query_fit(q, x, k, metric=metric, quantile=0.9), neighbors(x, k, queries=q, metric=metric)
    own = np.sort(neighbors(x, 1, metric=metric).distances[:, 0])
    times = [int(np.sum(near.indices == row)) for row in range(150)]
    assert found.occurrence.tolist() == times
    rank = math.ceil(0.9 * 151)
    assert found.threshold == own[rank - 1]
    assert found.outside_fraction == np.mean(near.distances[:, 0] > own[rank - 1])
    assert found.outside_fraction_se == pytest.approx(
        math.sqrt(found.outside_fraction * (1 - found.outside_fraction) / 40)
    )
    beta = stats.betabinom(40, 151 - rank, rank)
    assert found.outside_null_mean == pytest.approx(beta.mean() / 40, rel=1e-12)
    assert found.outside_null_std == pytest.approx(beta.std() / 40, rel=1e-12)
    assert found.outside_z == pytest.approx((found.outside_fraction - beta.mean() / 40) / (beta.std() / 40))
    assert found.skewness == pytest.approx(skewness(times), rel=1e-11)
    left = [skewness(np.bincount(np.delete(near.indices, at, axis=0).ravel(), minlength=150)) for at in range(40)]
    assert found.skewness_se == pytest.approx(math.sqrt(39) * np.std(left), rel=1e-9)
    assert found.skewness_null == pytest.approx(float(stats.binom(40, k / 150).stats("s")))
    assert (found.never_fraction, found.largest_occurrence) == (times.count(0) / 150, max(times))
    assert (found.m, found.n, found.d, found.k, found.metric) == (40, 150, 6, k, metric)
    assert query_fit_of(near, neighbors(x, 3, metric=metric), 0.9).to_dict() == found.to_dict()


@pytest.mark.parametrize(("n", "m", "k"), [(4, 3, 2), (5, 2, 1), (4, 2, 3), (3, 3, 3), (2, 4, 1)])
def test_the_null_of_rows_never_retrieved_counts_all_ways(n, m, k):
    sets = list(itertools.combinations(range(n), k))
    shares = [1 - len(set(itertools.chain(*way))) / n for way in itertools.product(sets, repeat=m)]
    found = query_fit_of(*handmade([range(k)] * m, n))
    assert found.never_null_mean == pytest.approx(np.mean(shares), abs=1e-12)
    assert found.never_null_std == pytest.approx(np.std(shares), abs=1e-9)


def test_uniform_retrieval_is_as_its_nulls_say():
    rng = np.random.default_rng(1)
    n, m, k, base = 60, 90, 3, handmade([[0, 1, 2]] * 90, 60)
    draws = []
    for _ in range(300):
        lists = np.array([rng.choice(n, k, replace=False) for _ in range(m)])
        draws.append(query_fit_of(replace(base[0], indices=lists), base[1]))
    never = [each.never_fraction for each in draws]
    # The mean of 300 lies within 4 of its standard errors, and their spread is known to 4 %.
    assert abs(np.mean(never) - draws[0].never_null_mean) < 4 * draws[0].never_null_std / math.sqrt(300)
    assert np.std(never) == pytest.approx(draws[0].never_null_std, rel=0.17)
    assert np.mean([each.skewness for each in draws]) == pytest.approx(draws[0].skewness_null, abs=0.1)
    assert np.mean([each.skewness_se for each in draws]) > 0.8 * np.std([each.skewness for each in draws])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_queries_like_the_rows_are_outside_as_often_as_the_null_says(metric):
    draws = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x, q = rng.standard_normal((300, 12)), rng.standard_normal((100, 12))
        draws.append(query_fit(q, x, 3, metric=metric, threads=1))
    z = np.array([each.outside_z for each in draws])
    assert abs(z.mean()) < 4 / math.sqrt(60)
    # 60 draws know a standard deviation to 9 %, and rows that share a distance make the threshold less certain.
    assert 0.6 < z.std() < 1.5


def test_queries_elsewhere_are_outside():
    x = data("gaussian", 500, 16) + 2
    away = data("gaussian", 80, 16, seed=3) - 2
    for metric in ("cosine", "euclidean"):
        found = query_fit(away, x, metric=metric)
        assert found.outside_fraction > 0.9
        assert found.outside_z > 20
        assert query_fit(x[:50], x, metric=metric).outside_fraction == 0


def test_the_threshold_is_a_rank():
    lists, own = [[0]] * 4, np.arange(1.0, 100.0)  # 99 rows: the 99th of 99 is the least that leaves 1 %.
    found = query_fit_of(*handmade(lists, 99, [[98.5], [99.0], [99.5], [100.0]], own))
    assert (found.threshold, found.outside_fraction, found.outside_null_mean) == (99.0, 0.5, pytest.approx(0.01))
    found = query_fit_of(*handmade(lists, 99, [[49.0], [50.0], [50.0], [51.0]], own), 0.5)
    assert (found.threshold, found.outside_fraction, found.outside_null_mean) == (50.0, 0.25, 0.5)
    # Too few rows for a rank: the largest, whose null is wider.
    few = query_fit_of(*handmade(lists, 9, [[1.0], [9.0], [9.5], [10.0]], np.arange(1.0, 10.0)))
    assert (few.threshold, few.outside_fraction, few.outside_null_mean) == (9.0, 0.5, pytest.approx(0.1))


def test_distances_that_are_equal_but_for_rounding_are_not_outside():
    far = np.array([[1 + 2.0**-50], [1.0], [1 - 2.0**-50]])
    for scale in (1e-100, 1.0, 1e100):
        assert query_fit_of(*handmade([[0]] * 3, 5, far * scale, np.full(5, scale))).outside_fraction == 0
        assert query_fit_of(*handmade([[0]] * 3, 5, far * scale * 1.001, np.full(5, scale))).outside_fraction == 1


def test_edges():
    even = query_fit_of(*handmade([[0, 1, 2]] * 4, 3))
    assert math.isnan(even.skewness)
    assert math.isnan(even.skewness_se)
    assert math.isnan(even.skewness_null)
    assert (even.never_fraction, even.never_null_mean, even.never_null_std, even.largest_occurrence) == (0, 0, 0, 4)
    one = query_fit_of(*handmade([[0, 2]], 5))
    assert one.occurrence.tolist() == [1, 0, 1, 0, 0]
    assert one.skewness == pytest.approx(skewness([1, 0, 1, 0, 0]))
    assert math.isnan(one.skewness_se)
    assert one.never_fraction == one.never_null_mean == pytest.approx(3 / 5)
    assert one.never_null_std == pytest.approx(0, abs=1e-8)
    # Without the second query all occurrences are equal.
    spread = query_fit_of(*handmade([[0, 1], [0, 2], [2, 3]], 4))
    assert (spread.occurrence.tolist(), spread.skewness) == ([2, 1, 2, 1], 0)
    assert math.isnan(spread.skewness_se)


def test_dropped_rows_keep_their_numbers():
    x, q = data("clustered", 60, 8), data("clustered", 12, 8, seed=2)
    broken = np.insert(x, [0, 30, 60], np.nan, axis=0)
    plain, found = query_fit(q, x, 4), query_fit(q, broken, 4, on_invalid="drop")
    assert np.array_equal(found.rows, np.delete(np.arange(63), [0, 31, 62]))
    assert np.array_equal(found.occurrence, plain.occurrence)
    assert replace(found, n_dropped=0).to_dict() == plain.to_dict()


def test_both_must_be_of_one_corpus():
    x, q = data("gaussian", 30, 4), data("gaussian", 5, 4, seed=2)
    found = neighbors(x, 3, queries=q)
    for other, what in (
        (neighbors(x, 1, metric="dot"), "metric is 'cosine' and 'dot'"),
        (neighbors(x[:20], 1), "number of rows is 30 and 20"),
        (neighbors(x[:, :3], 1), "number of columns is 4 and 3"),
    ):
        with pytest.raises(InvalidInputError, match=f"of one corpus and metric; their {what}"):
            query_fit_of(found, other)
    halves = [np.insert(x, [at], np.nan, axis=0) for at in (0, 5)]
    found, other = neighbors(halves[0], 3, queries=q, on_invalid="drop"), neighbors(halves[1], 1, on_invalid="drop")
    with pytest.raises(InvalidInputError, match="not the same rows of it were dropped"):
        query_fit_of(found, other)


@pytest.mark.parametrize("quantile", [0, 1, -0.1, 1.5, math.nan, "0.9", None, True])
def test_quantiles_lie_between_0_and_1(quantile):
    for call in (lambda: query_fit(np.eye(3), np.eye(3), 1, quantile=quantile),
                 lambda: query_fit_of(*handmade([[0]], 3), quantile)):  # fmt: skip
        with pytest.raises(InvalidInputError, match="quantile must be a number above 0 and below 1; got"):
            call()


def test_printing_shows_every_scalar():
    found = query_fit(data("gaussian", 9, 3), data("gaussian", 12, 3), 2)
    assert {"occurrence", "rows"}.isdisjoint(found.to_dict())
    assert len(str(found).splitlines()) == len(found.to_dict()) == len(found.__dataclass_fields__) - 2
