"""Hubness beside the formulas of scikit-hubness (Feldbauer, Rattei & Flexer, JOSS 5(45), 2020; BSD 3-clause).

That library is no longer maintained and does not run on current NumPy, so its definitions, those of version 0.21.2
(`skhubness/analysis/estimation.py`), are written out here anew: from scipy where it calls scipy, and else naively.
"""

import numpy as np
import pytest
import scipy.stats
from sklearn.neighbors import NearestNeighbors

from geomkit.stats.hubness import hubness
from tests.stats.oracle import data

METRICS = ["cosine", "euclidean"]
KINDS = ["gaussian", "clustered", "anisotropic"]


def their_occurrence(x, k, metric):
    """How often each row is listed, itself left out, by scikit-learn's search, as theirs is."""
    lists = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(x).kneighbors(return_distance=False)
    return np.bincount(lists.ravel(), minlength=len(x))


def their_measures(times, k):
    """What its `Hubness(return_value="all")` holds, from the k-occurrence."""
    n, total = len(times), int(times.sum())
    differences = sum(abs(int(a) - int(b)) for a in times for b in times)
    hubs = times[times >= 2 * k]
    return {
        "k_skewness": scipy.stats.skew(times),
        "gini": differences / (2 * n * total),
        "robinhood": 0.5 * sum(abs(each - total / n) for each in times) / total,
        "atkinson": 1 - np.mean(np.sqrt(times)) ** 2 / (total / n),
        "antihub_occurrence": sum(each == 0 for each in times) / n,
        "hub_occurrence": hubs.sum() / k / n,
        "groupie_ratio": times.max() / n / k,
    }


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("n", "d", "k"), [(300, 12, 10), (250, 60, 5), (120, 4, 1)])
def test_what_both_have_is_the_same(metric, name, n, d, k):
    x = data(name, n, d).astype(np.float64)
    found, times = hubness(x, k, metric=metric, threads=1), their_occurrence(x, k, metric)
    assert np.array_equal(found.occurrence, times)
    theirs = their_measures(times, k)
    # Sums of n terms, each rounded.
    exact = {"rel": 8 * n * 2.0**-53, "abs": 8 * n * 2.0**-53}
    assert found.skewness == pytest.approx(theirs["k_skewness"], **exact)
    assert found.gini == pytest.approx(theirs["gini"], **exact)
    assert found.robin_hood == pytest.approx(theirs["robinhood"], **exact)
    assert found.antihub_fraction == theirs["antihub_occurrence"]
    assert found.largest_occurrence / (n * k) == pytest.approx(theirs["groupie_ratio"], **exact)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", KINDS)
def test_what_they_have_besides_follows_from_the_occurrence(metric, name):
    k = 5
    x = data(name, 300, 40).astype(np.float64)
    found = hubness(x, k, metric=metric, threads=1)
    theirs = their_measures(their_occurrence(x, k, metric), k)
    times = found.occurrence
    # Theirs is the share of votes that hubs have, and 2k makes a hub; ours that of rows that are hubs, above 2k.
    assert times[times >= 2 * k].sum() / (found.n * k) == pytest.approx(theirs["hub_occurrence"], rel=1e-14)
    assert found.hub_fraction == np.mean(times > 2 * k) <= np.mean(times >= 2 * k)
    assert found.hub_fraction * 2 < theirs["hub_occurrence"]
    # At their weight of a half, Atkinson's index never exceeds Gini's: it ranks spaces, and adds no verdict.
    assert 1 - np.mean(np.sqrt(times)) ** 2 / k == pytest.approx(theirs["atkinson"], rel=1e-13)
    assert 0 < theirs["atkinson"] < found.gini < 1
    assert theirs["robinhood"] < found.gini


def test_their_truncated_skewness_is_of_two_moments_alone():
    # Theirs is the third raw moment of a standard normal cut at N = 0. It reads the mean and the spread of N and no
    # third moment, so that hubs and no hubs give the same: not offered here.
    def truncated(times):
        mean, spread = times.mean(), times.std(ddof=1)
        return scipy.stats.truncnorm(-mean / spread, np.inf).moment(3)

    few, many = np.array([1, 1, 1, 1, 1, 1, 1, 9]), np.array([-1.0, -1, 1, 1, 3, 3, 5, 5])
    many = 2 + (many - many.mean()) * few.std() / many.std()
    assert few.mean() == many.mean() == 2
    assert truncated(few) == pytest.approx(truncated(many), rel=1e-12)
    assert scipy.stats.skew(few) > 2
    assert abs(scipy.stats.skew(many)) < 0.1
