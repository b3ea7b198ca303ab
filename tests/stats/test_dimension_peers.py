"""Intrinsic dimension beside scikit-dimension's estimators, on its own benchmark manifolds.

Where definitions coincide the two agree to rounding; where they differ, a test says by what.
"""

import functools
import math
import warnings

import numpy as np
import pytest
import skdim
from scipy.spatial.distance import pdist

from geomkit.stats import dimension as module
from geomkit.stats.dimension import intrinsic_dimension, lid_of, mle_of, twonn_of
from geomkit.stats.neighbors import neighbors
from tests.bounds import assert_within, gamma

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:skdim")

N, K = 160, 10
RELATIVE = 1e-10
"""Either side rounds distances of some 1e-15 of themselves, of which ln(r_2/r_1) keeps ten digits on these rows."""


@functools.cache
def manifolds():
    return skdim.datasets.BenchmarkManifolds(random_state=7).generate(n=N)


NAMES = sorted(skdim.datasets.BenchmarkManifolds()._dict_truth)


@functools.cache
def nearest(name):
    return neighbors(manifolds()[name], K, metric="euclidean", threads=1)


def theirs(estimator, x, **how):
    return estimator.fit(x, **how).dimension_


def test_there_are_manifolds_of_all_sorts():
    assert len(NAMES) == 24
    assert {x.shape[1] for x in manifolds().values()} >= {3, 36, 96}


@pytest.mark.parametrize("name", NAMES)
def test_twonn_is_theirs(name):
    found = twonn_of(nearest(name))
    assert skdim.id.TwoNN().discard_fraction == module.DISCARDED
    assert found.dimension == pytest.approx(theirs(skdim.id.TwoNN(), manifolds()[name]), rel=RELATIVE)
    # Their likelihood is less biased: n - 1 terms where the plain one, ours, has n.
    likely = theirs(skdim.id.TwoNN(discard_fraction=0.0, method="mle"), manifolds()[name])
    assert found.maximum_likelihood * (N - 1) / N == pytest.approx(likely, rel=RELATIVE)


@pytest.mark.parametrize("name", NAMES)
def test_mle_is_their_plain_one_averaged_as_inverses(name):
    found, x = mle_of(nearest(name)), manifolds()[name]
    plain = skdim.id.MLE().fit(x, n_neighbors=K)
    assert plain.comb_ == "mle"
    assert found.dimension == pytest.approx(plain.dimension_, rel=RELATIVE)
    assert found.local == pytest.approx(plain.dimension_pw_, rel=RELATIVE)
    # Corrected for bias, each local value has k - 2 for k - 1, and so has their average.
    unbiased = theirs(skdim.id.MLE(unbiased=True), x, n_neighbors=K)
    assert found.dimension * (K - 2) / (K - 1) == pytest.approx(unbiased, rel=RELATIVE)
    # Their other averages are those of our local values: that of Levina and Bickel is the mean, and the larger one.
    assert found.local.mean() == pytest.approx(theirs(skdim.id.MLE(), x, n_neighbors=K, comb="mean"), rel=RELATIVE)
    assert found.local.mean() > found.dimension


@pytest.mark.parametrize("name", NAMES)
def test_lid_is_the_median_of_their_local_values_but_for_the_last_term(name):
    found, x = lid_of(nearest(name)), manifolds()[name]
    median = theirs(skdim.id.MLE(), x, n_neighbors=K, comb="median")
    assert found.dimension == pytest.approx(median * K / (K - 1), rel=RELATIVE)


@pytest.mark.parametrize("name", NAMES)
def test_pca_is_their_participation_ratio(name):
    x = manifolds()[name]
    found = intrinsic_dimension(x, method="pca")
    assert found.dimension == pytest.approx(theirs(skdim.id.lPCA(ver="participation_ratio"), x), rel=RELATIVE)
    # They ask for the components that hold 95 %, too.
    assert found.components_95 == theirs(skdim.id.lPCA(ver="ratio", alphaRatio=0.95), x)


def slopes(pairs, radii, slack):
    """Least and largest of the logarithm of the number of pairs within a radius that is known to so much of itself."""
    counts = [[np.sum(pairs < radius * (1 + side * slack)) for side in (-1, 1)] for radius in radii]
    rise = math.log(radii[1] / radii[0])
    return [math.log(counts[1][side] / counts[0][1 - side]) / rise for side in (0, 1)]


@pytest.mark.parametrize("name", [each for each in NAMES if each != "Mbeta"])
def test_the_correlation_dimension_is_theirs_at_other_radii(name):
    x = manifolds()[name]
    pairs = pdist(x)
    # Theirs lie at the median distances to the k1-th and the k2-th neighbour, and so hold some k/(n - 1) of the pairs;
    # ours hold 0.1 % and 5 % of them, whatever n is. The slope is the same.
    far = np.sort(np.sqrt(((x[:, None] - x) ** 2).sum(axis=2)), axis=1)
    radii = np.median(far[:, [5, 20]], axis=0)
    # A median may be a distance itself, and within or without by its rounding.
    low, high = slopes(pairs, radii, 1e-12)
    assert low - RELATIVE <= theirs(skdim.id.CorrInt(k1=5, k2=20), x) <= high + RELATIVE
    found = intrinsic_dimension(x, method="correlation", precision="float64", threads=1)
    assert (found.radius_low, found.radius_high) == pytest.approx(np.quantile(pairs, module.SHARES), rel=2**-8 + 0.02)
    # Pairs in the same counter as a radius count in part: both radii move within it.
    low, high = slopes(pairs, (found.radius_low, found.radius_high), 2**-8)
    assert low <= found.dimension <= high


@pytest.mark.parametrize("dim", [2, 5, 10])
def test_at_like_radii_the_two_correlation_dimensions_agree(dim):
    # 5 % and 0.5 % of 1001 rows on a sphere, where all rows see the same, are 50 neighbours and 5.
    x = np.random.default_rng(dim).standard_normal((1001, dim + 1))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    other = theirs(skdim.id.CorrInt(k1=1, k2=50), x)
    ours = intrinsic_dimension(x, method="correlation", metric="cosine", threads=1).dimension
    # 500 pairs lie within the smaller radius: a count is known to 4.5 % of itself, the slope to that over the rise of
    # log C, ln 50. Their median of 1001 distances to the first neighbour holds ln 2 of a neighbour, not 1.
    assert ours == pytest.approx(other, rel=4 * math.sqrt(1 / 500 + 1 / 25000) / math.log(50) + 0.02)


@pytest.mark.parametrize("name", ["M1_Sphere", "M9_Affine", "Mn1_Nonlinear"])
def test_chord_distances_are_theirs_of_unit_rows(name):
    x = manifolds()[name]
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    found = neighbors(x, K, threads=1)
    # A chord r is read from a cosine, whose rounding is divided by r²: 1e-12 where chords are above 0.02.
    relative = gamma(x.shape[1] + 16, "float64") / float(found.distances[:, 0].min()) * 100
    assert relative < 1e-8
    assert twonn_of(found).dimension == pytest.approx(theirs(skdim.id.TwoNN(), unit), rel=relative)
    assert mle_of(found).dimension == pytest.approx(theirs(skdim.id.MLE(), unit, n_neighbors=K), rel=relative)


def test_repeated_rows_are_dropped_as_they_drop_them():
    x = np.vstack([manifolds()["M1_Sphere"], manifolds()["M1_Sphere"][:7]])
    found = intrinsic_dimension(x, threads=1)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        other = theirs(skdim.id.TwoNN(), x)
    assert found.n_skipped == 14
    assert any("Dropping 14 points" in str(each.message) for each in heard)
    assert found.dimension == pytest.approx(other, rel=RELATIVE)


@pytest.mark.parametrize("name", ["M9_Affine", "M10c_Cubic", "M2_Affine_3to5", "M12_Norm"])
def test_all_are_too_low_together_in_high_dimension(name):
    # That twenty dimensions read as fifteen is a property of the estimators on so few rows, not of one library.
    truth = skdim.datasets.BenchmarkManifolds()._dict_truth[name][0]
    found = mle_of(nearest(name))
    assert_within(found.dimension, theirs(skdim.id.MLE(), manifolds()[name], n_neighbors=K), 1e-9 * truth)
    assert (found.dimension < truth - 4 * found.dimension_se) == (truth >= 20)
