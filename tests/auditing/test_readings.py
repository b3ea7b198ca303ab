"""Readings of the audit against the functions that measure one thing, and influence values against a jackknife."""

import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats

import geomkit
from geomkit.auditing import passes
from geomkit.auditing.influences import standard_error
from geomkit.auditing.measurements import measure
from geomkit.auditing.passes import Options
from geomkit.core.matrix import as_matrix
from geomkit.pairwise.scores import cosine_scores
from geomkit.stats.cosine import prepare
from tests.auditing import spaces

N, K = 300, 6
X = spaces.hubs(N, 12)
X[7] = X[8]
FOUND = measure(X, Options(k=K))
UNIT = X / np.linalg.norm(X.astype(np.float64), axis=1, keepdims=True)


def test_values_are_those_of_the_functions_that_measure_one_thing():
    hubs, cosines = geomkit.hubness(X, K), geomkit.cosine_stats(X)
    shape = geomkit.spectrum(UNIT, standard_errors=True)
    spread = geomkit.spectrum(X)
    want = {
        "cosine_mean": cosines.mean,
        "cosine_std": cosines.std,
        "cosine_q01": cosines.quantile(0.01),
        "cosine_q99": cosines.quantile(0.99),
        "hubness_skewness": hubs.skewness,
        "robin_hood": hubs.robin_hood,
        "gini": hubs.gini,
        "antihub_fraction": hubs.antihub_fraction,
        "hub_fraction": hubs.hub_fraction,
        "mutual_fraction": hubs.mutual_fraction,
        "island_fraction": 1 - hubs.largest_component_fraction,
        "outlier_fraction": hubs.outlier_fraction,
        "duplicate_fraction": hubs.duplicate_fraction,
        "near_duplicate_fraction": geomkit.hubness(X, K, duplicate_tolerance=0.01).duplicate_fraction,
        "twonn": geomkit.intrinsic_dimension(X, metric="cosine").dimension,
        "mle": geomkit.intrinsic_dimension(X, metric="cosine", method="mle", k=K).dimension,
        "lid": geomkit.intrinsic_dimension(X, metric="cosine", method="lid", k=K).dimension,
        "participation_ratio": shape.participation_ratio,
        "effective_rank": shape.effective_rank,
        "stable_rank": shape.stable_rank,
        "isoscore": shape.isoscore,
        "partition_isotropy": shape.partition_isotropy,
        "largest_variance_ratio": shape.largest_variance_ratio,
        "n_dominant": shape.n_dominant,
        "norm_cv": spread.norm_cv,
    }
    assert set(FOUND.values) - set(want) == {"cosine_q50", "relative_contrast", "metric_overlap"}
    for name, value in want.items():
        assert FOUND.values[name].value == pytest.approx(value, rel=1e-4, abs=1e-9), name
    for name in ("participation_ratio", "effective_rank", "stable_rank", "isoscore"):
        assert FOUND.values[name].se == pytest.approx(getattr(shape, f"{name}_se"), rel=1e-3), name
    assert FOUND.values["norm_cv"].se == pytest.approx(spread.norm_cv_se, rel=0.01)
    assert FOUND.values["cosine_mean"].se == pytest.approx(cosines.mean_se)


def test_the_influence_on_the_mean_cosine_gives_its_standard_error():
    value = FOUND.values["cosine_mean"]
    assert standard_error(value.influence) == pytest.approx(value.se, rel=0.01)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_contrast(metric):
    rows = UNIT if metric == "cosine" else X.astype(np.float64)
    squares = np.square(rows[:, None] - rows).sum(axis=2)
    distances = squares / 2 if metric == "cosine" else squares
    np.fill_diagonal(distances, np.inf)
    nearest = distances.min(axis=1)
    np.fill_diagonal(distances, 0)

    def contrast(kept):
        m = len(kept)
        ratio = distances[np.ix_(kept, kept)].sum() / (m * (m - 1)) / nearest[kept].mean()
        return ratio if metric == "cosine" else math.sqrt(ratio)

    value = measure(X, Options(k=K, metric=metric)).values["relative_contrast"]
    whole = contrast(np.arange(N))
    assert value.value == pytest.approx(whole, rel=1e-5)
    without = np.array([contrast(np.delete(np.arange(N), row)) for row in range(N)])
    jackknife = (N - 1) * (whole - without)
    assert np.corrcoef(value.influence, jackknife)[0, 1] > 0.999
    assert value.se == pytest.approx(standard_error(jackknife), rel=0.05)


def test_intervals_of_shares_are_wilsons():
    for name in ("antihub_fraction", "hub_fraction", "duplicate_fraction", "island_fraction"):
        value = FOUND.values[name]
        count = round(value.value * N)
        want = stats.binomtest(count, N).proportion_ci(0.95, "wilson")
        assert value.ends == pytest.approx((want.low, want.high), abs=1e-6), name
    assert FOUND.values["island_fraction"].ends[1] > 0


def test_shares_are_the_means_of_their_influence_values():
    for name in ("antihub_fraction", "hub_fraction", "mutual_fraction", "robin_hood", "duplicate_fraction"):
        value = FOUND.values[name]
        assert abs(value.influence.mean()) < 1e-12
        assert standard_error(value.influence) == pytest.approx(value.se, rel=0.01, abs=1e-12)


@pytest.mark.parametrize("compared", [0, 40, 500])
def test_overlap_of_cosine_and_inner_product(compared):
    rows = X * np.random.default_rng(0).uniform(0.5, 2, (N, 1)).astype(np.float32)
    value = measure(rows, Options(k=K, compared=compared, seed=3)).values["metric_overlap"]
    if compared == 0:
        assert math.isnan(value.value)
        assert value.note == "not compared"
        return
    drawn = np.arange(N)
    if compared < N:
        drawn = np.sort(np.random.default_rng([3, 2]).choice(N, compared, replace=False))
    by_cosine, by_product = (geomkit.neighbors(rows, K, metric=metric).indices for metric in ("cosine", "dot"))
    want = np.mean([len(set(by_cosine[row]) & set(by_product[row])) / K for row in drawn])
    assert value.value == pytest.approx(want)
    assert 0.2 < want < 0.95
    assert value.note == ("over 40 rows drawn with seed 3" if compared < N else "")


def test_the_largest_part_of_the_graph_is_not_an_island():
    x = np.concatenate([spaces.gaussian(20, 4) * 0.01 + [9, 0, 0, 0], spaces.gaussian(60, 4) * 0.01 - [9, 0, 0, 0]])
    value = measure(x, Options(k=5)).values["island_fraction"]
    assert value.value == pytest.approx(0.25)


def test_the_spectrum_of_directions_copies_no_rows():
    x = np.random.default_rng(0).standard_normal((200_000, 32), dtype=np.float32)
    scores = prepare(as_matrix(x), "auto", "float32", "raise", 1, cosine_scores)
    passes._shape(scores, Options(threads=1))
    tracemalloc.start()
    passes._shape(scores, Options(threads=1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Beside blocks, some numbers of each row; a copy of the rows would be x.nbytes more.
    assert peak < 0.8 * x.nbytes


@pytest.mark.parametrize("d", [8, 64, 300])
def test_rows_that_all_stand_twice_have_no_contrast(d):
    x = np.repeat(np.random.default_rng(0).standard_normal((60, d)), 2, axis=0)
    contrast = measure(x, Options(k=5)).values["relative_contrast"]
    assert math.isnan(contrast.value)
    assert "every row has an equal one" in contrast.note
