"""Standard errors of the spectrum's figures: against the jackknife, against sampling, and where there are none."""

import math

import numpy as np
import pytest
import scipy.sparse
import torch

from geomkit.stats.spectrum import spectrum
from tests.bounds import assert_within
from tests.stats.oracle import BACKENDS

RANKS = ("participation_ratio", "effective_rank", "stable_rank", "isoscore")


def rows(kind, n, d, seed=1):
    """Spaces with a largest direction of their own, in norms that differ."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * 0.85 ** np.arange(d)
    if kind == "clusters":
        x = 0.5 * x + 3 * rng.standard_normal((4, d))[rng.integers(0, 4, n)]
    if kind == "heavy tails":
        x *= rng.exponential(size=(n, 1)) + 0.2
    if kind == "faint directions":
        x[:, 6:] *= 1e-3
    return x + 1e6 if kind == "far away" else x


def by_hand(x):
    """Influence values from a decomposition of the rows, with derivatives by finite differences."""
    y = x - x.mean(axis=0)
    _, singular, axes = np.linalg.svd(y, full_matrices=False)
    values = singular**2 / len(x)
    squares = (y @ axes.T) ** 2

    def figures(values):
        roots = np.sqrt(values)
        parts = roots / roots.sum()
        ratio = values.sum() ** 2 / (values**2).sum()
        entropy = -(parts * np.log(parts)).sum()
        return np.array([ratio, math.exp(entropy), values.sum() / values[0], (ratio - 1) / (x.shape[1] - 1)])

    slopes = []
    for j, value in enumerate(values):
        step = np.zeros(len(values))
        step[j] = 1e-5 * value
        slopes.append((figures(values + step) - figures(values - step)) / (2e-5 * value))
    influence = (squares - values) @ np.array(slopes)
    return influence.std(axis=0, ddof=1) / math.sqrt(len(x))


def errors(found, names=RANKS):
    return np.array([getattr(found, f"{name}_se") for name in names])


@pytest.mark.parametrize("kind", ["gaussian", "clusters", "heavy tails", "far away", "faint directions"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_they_are_those_of_influence_values(backend, kind):
    x = rows(kind, 150, 12)
    found = spectrum(x, standard_errors=True, backend=backend)
    # Differences of the second order, and float32 products of the CPU backend.
    assert_within(errors(found), by_hand(x), 1e-5 * by_hand(x))
    norms = np.linalg.norm(x, axis=1)
    middle, spread = norms.mean(), norms.std()
    influence = ((norms - middle) ** 2 - spread**2) / (2 * spread * middle) - spread * (norms - middle) / middle**2
    assert_within(found.norm_cv_se, influence.std(ddof=1) / math.sqrt(150), 1e-6 * found.norm_cv_se)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_and_columns_agree(backend):
    """As many rows as fit one route and, with a column of zeros more, the other."""
    x = rows("heavy tails", 12, 12)
    wider = np.hstack([x, np.zeros((12, 1))])
    one, other = (spectrum(each, standard_errors=True, backend=backend) for each in (x, wider))
    assert_within(errors(other, RANKS[:3]), errors(one, RANKS[:3]), 1e-4 * errors(one, RANKS[:3]))
    assert_within(other.isoscore_se * 12, one.isoscore_se * 11, 1e-4)
    assert_within(other.norm_cv_se, one.norm_cv_se, 1e-9)


@pytest.mark.parametrize("kind", ["gaussian", "clusters", "far away"])
def test_they_are_those_of_the_jackknife(kind):
    """Leaving out one row at a time; the two differ by the next order in 1/n, which is large where tails are heavy."""
    names = (*RANKS, "norm_cv")
    x = rows(kind, 200, 20)
    left = [spectrum(np.delete(x, row, axis=0)) for row in range(len(x))]
    values = np.array([[getattr(each, name) for name in names] for each in left])
    jackknife = np.sqrt((199 / 200) * ((values - values.mean(axis=0)) ** 2).sum(axis=0))
    assert_within(errors(spectrum(x, standard_errors=True), names), jackknife, 0.06 * jackknife)


def test_intervals_cover_what_samples_are_on_average():
    names = (*RANKS, "norm_cv")
    found = [spectrum(rows("gaussian", 1000, 20, seed), standard_errors=True) for seed in range(200)]
    values = np.array([[getattr(each, name) for name in names] for each in found])
    wide = 1.96 * np.array([errors(each, names) for each in found])
    covered = (np.abs(values - values.mean(axis=0)) <= wide).mean(axis=0)
    # 200 draws of a share of 95 % have a standard deviation of 1.5 %.
    assert covered.min() >= 0.90
    assert covered.max() <= 0.99


def test_they_are_given_when_asked_for():
    x = rows("gaussian", 60, 8)
    found, more = spectrum(x), spectrum(x, standard_errors=True)
    assert np.isnan(errors(found)).all()
    assert (errors(more) > 0).all()
    assert found.norm_cv_se == more.norm_cv_se > 0
    for name, value in found.to_dict().items():
        if not name.endswith("_se") and name != "backend":
            assert value == pytest.approx(getattr(more, name), rel=1e-12, nan_ok=True)


@pytest.mark.parametrize(
    ("x", "unknown"),
    [
        (rows("gaussian", 2, 5), (*RANKS, "norm_cv")),
        (rows("gaussian", 2, 1), (*RANKS, "norm_cv")),
        (np.ones((6, 4)), (*RANKS, "norm_cv")),
        (np.ones((3, 4)), (*RANKS, "norm_cv")),
        (np.vstack([np.eye(5), -np.eye(5)]), ("norm_cv",)),
        (rows("gaussian", 30, 1), ("isoscore",)),
    ],
)
def test_there_are_none_of_nothing(x, unknown):
    found = spectrum(x, standard_errors=True)
    names = (*RANKS, "norm_cv")
    assert {name for name in names if math.isnan(getattr(found, f"{name}_se"))} == set(unknown)


def test_a_single_direction_is_known():
    """Every rank of one direction is 1 whatever the rows, and so is that of a constant column beside it."""
    x = np.zeros((50, 4))
    x[:, 1], x[:, 2] = np.random.default_rng(0).standard_normal(50), 3
    assert_within(errors(spectrum(x, standard_errors=True)), np.zeros(4), 1e-6)


def test_faint_directions_are_left_out():
    """Directions that float32 does not see add next to nothing to the effective rank, and nothing wild to its error."""
    x = rows("gaussian", 300, 8)
    faint = np.hstack([x, 5e-7 * rows("gaussian", 300, 8, seed=2)])
    one, other = (spectrum(each, standard_errors=True) for each in (x, faint))
    assert other.effective_rank > one.effective_rank
    assert_within(errors(other, RANKS[:3]), errors(one, RANKS[:3]), 1e-4 * errors(one, RANKS[:3]))


def test_kinds_of_input():
    x = np.abs(rows("clusters", 80, 9)).astype(np.float32) * (np.random.default_rng(5).random((80, 9)) < 0.6)
    x[:, 0] += 1
    want = errors(spectrum(x, standard_errors=True))
    for kind in (torch.from_numpy(x), scipy.sparse.csr_array(x), np.asfortranarray(x), x.astype(np.float64)):
        assert_within(errors(spectrum(kind, standard_errors=True)), want, 1e-4 * want)
    spoilt = np.vstack([x[:3], np.zeros((1, 9)), x[3:], np.full((1, 9), np.nan)])
    found = spectrum(spoilt, standard_errors=True, on_invalid="drop")
    assert_within(errors(found), want, 1e-4 * want)
