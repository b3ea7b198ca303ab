import math
import warnings

import numpy as np
import pytest
import scipy.sparse
import torch

from geomkit.errors import InvalidInputError
from geomkit.stats.moments import moments
from geomkit.stats.spectrum import spectrum, spectrum_and_moments
from tests.bounds import assert_within
from tests.stats.oracle import BACKENDS, DATA, data

SHAPES = [(120, 9), (9, 120), (30, 30), (2, 3), (40, 1)]


def brute(x):
    """Every figure as its paper has it, from a decomposition of the rows themselves."""
    x = np.asarray(x, np.float64)
    n, d = x.shape
    y = x - x.mean(axis=0)
    singular = np.linalg.svd(y, compute_uv=False)
    values = singular**2
    found = {"participation_ratio": values.sum() ** 2 / (values**2).sum(), "stable_rank": values.sum() / values[0]}
    parts = singular / singular.sum()
    parts = parts[parts > 1e-14]
    found["effective_rank"] = np.exp(-(parts * np.log(parts)).sum())
    if d > 1:
        variances = np.zeros(d)
        variances[: len(values)] = values
        normal = math.sqrt(d) * variances / np.linalg.norm(variances)
        defect = np.linalg.norm(normal - 1) / math.sqrt(2 * (d - math.sqrt(d)))
        occupied = (d - defect**2 * (d - math.sqrt(d))) ** 2 / d**2
        found["isoscore"] = (d * occupied - 1) / (d - 1)
    _, directions = np.linalg.eigh(x.T @ x)
    both = np.concatenate([x @ directions, -x @ directions], axis=1).astype(np.longdouble)
    z = np.exp(both).sum(axis=0)
    found["partition_isotropy"] = float(z.min() / z.max())
    return found, values / (n - 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_brute_force(backend, name, shape):
    x = data(name, *shape) + 100 * (name == "whole_numbers")
    found = spectrum(x, backend=backend)
    with np.errstate(invalid="ignore", divide="ignore"):
        want, values = brute(x)
    for figure, value in want.items():
        # Eigenvalues at rounding level add up; those of a space with few directions are mostly that.
        if figure != "partition_isotropy" and values[0] < 1e-20:
            assert math.isnan(getattr(found, figure))
        else:
            assert_within(getattr(found, figure), value, 1e-6 * abs(value) + 1e-12)
    assert_within(found.eigenvalues[: len(values)], values[: len(found.eigenvalues)], 1e-12 * values[0] + 1e-15)
    assert (found.n, found.d, found.backend) == (*shape, backend)
    assert_within(found.shares, moments(x).cosine_shares, 1e-13)
    assert_within(found.mean_cosine, moments(x).cosine_mean, 1e-13)
    if not math.isnan(found.participation_ratio):
        variances = np.asarray(x, np.float64).var(axis=0)
        assert_within(found.largest_variance_ratio, variances.max() / variances.mean(), 1e-12 * shape[1])
    norms = np.linalg.norm(np.asarray(x, np.float64), axis=1)
    assert_within(found.norm_cv, norms.std() / norms.mean(), 1e-12)
    summary = [norms.mean(), norms.std(), norms.min(), norms.max()]
    assert_within([found.norm_mean, found.norm_std, found.norm_min, found.norm_max], summary, 1e-12 * norms.max())


@pytest.mark.parametrize("d", [2, 5, 12])
def test_equal_variance_in_every_direction_is_all_of_them(d):
    x = np.vstack([np.eye(d), -np.eye(d)])
    found = spectrum(x)
    figures = [found.participation_ratio, found.effective_rank, found.stable_rank]
    assert_within(figures, [d] * 3, 1e-12 * d)
    assert_within(found.isoscore, 1, 1e-12)
    assert_within(found.partition_isotropy, 1, 1e-12)
    assert found.mean_cosine < 0
    assert found.n_dominant == 0


@pytest.mark.parametrize("shape", [(50, 8), (8, 50)])
def test_one_direction_is_one(shape):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((shape[0], 1)) * rng.standard_normal(shape[1]) + 1
    found = spectrum(x)
    assert_within([found.participation_ratio, found.stable_rank], [1, 1], 1e-10)
    # An entropy of roots sees rounding of eigenvalues at its square root.
    assert_within(found.effective_rank, 1, 1e-4)
    assert_within(found.isoscore, 0, 1e-10)


def test_a_coordinate_that_all_rows_share_dominates_the_mean_cosine():
    x = np.random.default_rng(1).standard_normal((200, 20))
    x[:, 7] += 30
    found = spectrum(x)
    assert found.n_dominant == 1
    assert int(found.shares.argmax()) == 7
    x[:, 3] += 30
    assert spectrum(x).n_dominant in {1, 2}
    assert set(np.argsort(spectrum(x).shares)[-2:]) == {3, 7}


@pytest.mark.parametrize("shape", [(60, 7), (7, 60)])
def test_rotation_leaves_all_but_the_shares(shape):
    rng = np.random.default_rng(2)
    x = rng.standard_normal(shape) + 0.3
    turned = x @ np.linalg.qr(rng.standard_normal((shape[1], shape[1])))[0]
    one, other = spectrum(x), spectrum(turned)
    for figure in ("participation_ratio", "effective_rank", "stable_rank", "isoscore", "mean_cosine", "norm_std"):
        assert_within(getattr(other, figure), getattr(one, figure), 1e-9 * abs(getattr(one, figure)))
    assert_within(other.partition_isotropy, one.partition_isotropy, 1e-9)
    assert np.abs(one.shares - other.shares).max() > 1e-3


SCALELESS = (
    "participation_ratio", "effective_rank", "stable_rank", "isoscore", "mean_cosine", "n_dominant", "norm_cv",
    "norm_cv_se", "largest_variance_ratio",
)  # fmt: skip


@pytest.mark.parametrize("size", [1e-200, 1e-30, 1e30, 1e200, 1e305])
@pytest.mark.parametrize("shape", [(60, 7), (7, 60)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_scale_leaves_the_ranks(backend, shape, size):
    x = np.random.default_rng(3).standard_normal(shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, other = (spectrum(each, backend=backend, standard_errors=True) for each in (x, x * size))
    for figure in SCALELESS:
        assert_within(getattr(other, figure), getattr(one, figure), 1e-9 * abs(getattr(one, figure)))
    for figure in ("participation_ratio_se", "effective_rank_se", "stable_rank_se", "isoscore_se"):
        # Float32 products, for rows that were given as float64.
        assert_within(getattr(other, figure), getattr(one, figure), 1e-5 * abs(getattr(one, figure)))
    assert_within(other.norm_mean / size, one.norm_mean, 1e-12)
    assert_within(other.norm_std / size, one.norm_std, 1e-12)
    assert other.partition_isotropy == (0 if size > 1 else 1)
    if abs(math.log10(size)) > 150:
        assert other.eigenvalues[0] == (np.inf if size > 1 else 0)
    else:
        assert_within(other.eigenvalues / size / size, one.eigenvalues, 1e-12 * one.eigenvalues[0])


@pytest.mark.parametrize("shape", [(9, 3), (3, 9)])
def test_norms_that_float64_cannot_say(shape):
    x = np.random.default_rng(3).choice([-1.7e308, 1.7e308], shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = spectrum(x, standard_errors=True)
    assert (found.norm_mean, found.norm_max) == (math.inf, math.inf)
    assert math.isnan(found.norm_std)
    assert math.isnan(found.norm_cv)
    want, _ = brute(np.sign(x))
    assert_within(found.participation_ratio, want["participation_ratio"], 1e-9 * want["participation_ratio"])
    assert found.partition_isotropy == 0


def test_a_far_away_origin_costs_no_digits():
    x = np.random.default_rng(4).integers(-8, 9, (100, 6)).astype(np.float64)
    one, other = spectrum(x + 100), spectrum(x + 2.0**30)
    assert_within(other.eigenvalues, one.eigenvalues, 1e-9 * one.eigenvalues[0])


@pytest.mark.parametrize("shape", [(90, 11), (11, 90)])
def test_kinds_of_input(shape):
    x = np.abs(data("clustered", *shape)) * (np.random.default_rng(5).random(shape) < 0.6)
    x[:, 0] += 1
    want = spectrum(x)
    kinds = [torch.from_numpy(x), scipy.sparse.csr_array(x), np.asfortranarray(x), x.tolist()]
    for kind in kinds:
        found = spectrum(kind)
        assert_within(found.eigenvalues, want.eigenvalues, 1e-6 * want.eigenvalues[0])
        assert_within(found.shares, want.shares, 1e-7)
        assert_within(found.partition_isotropy, want.partition_isotropy, 1e-5)
        assert_within(found.largest_variance_ratio, want.largest_variance_ratio, 1e-6)


@pytest.mark.parametrize("shape", [(60, 7), (7, 60)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_both_at_once_are_each_alone(backend, shape):
    x = data("clustered", *shape)
    found, pairs = spectrum_and_moments(x, backend=backend)
    assert (str(found), str(pairs)) == (str(spectrum(x, backend=backend)), str(moments(x, backend=backend)))
    assert found.mean_cosine == pairs.cosine_mean
    assert found.shares is pairs.cosine_shares
    assert pairs.side == ("columns" if shape[0] > shape[1] else "rows")


@pytest.mark.parametrize("shape", [(700, 9), (30, 90)])
def test_blocks_and_threads_change_nothing_but_rounding(shape, monkeypatch):
    x = data("clustered", *shape)
    want = spectrum(x, standard_errors=True, threads=1)
    monkeypatch.setattr("geomkit.covariance.batches.BLOCK_ENTRIES", 1)
    monkeypatch.setattr("geomkit.covariance.batches.BLOCK_ROWS", 37)
    monkeypatch.setattr("geomkit.covariance.gram.TILE_ROWS", 7)
    for threads in (1, 2, 5):
        found = spectrum(x, standard_errors=True, threads=threads)
        assert_within(found.eigenvalues, want.eigenvalues, 1e-12 * want.eigenvalues[0])
        for figure, value in found.to_dict().items():
            if not isinstance(value, str):
                error = 1e-5 if figure.endswith("_se") else 1e-10
                assert_within(value, want.to_dict()[figure], error * abs(value) + 1e-15)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_identical_rows_have_no_spread(shape):
    found = spectrum(np.ones(shape) / 3, standard_errors=True)
    names = ("participation_ratio", "effective_rank", "isoscore", "largest_variance_ratio", "norm_cv_se")
    assert all(math.isnan(getattr(found, name)) for name in names)
    assert (found.mean_cosine, found.norm_std, found.norm_cv) == (1, 0, 0)


def test_invalid_rows_are_refused_or_dropped():
    x = data("gaussian", 40, 5)
    spoilt = x.copy()
    spoilt[3], spoilt[7, 1] = 0, np.nan
    with pytest.raises(InvalidInputError, match="x has 1 row \\(7\\) that are not finite"):
        spectrum(spoilt)
    found, want = spectrum(spoilt, on_invalid="drop"), spectrum(np.delete(x, [3, 7], axis=0))
    assert (found.n, found.n_dropped) == (38, 2)
    assert_within(found.eigenvalues, want.eigenvalues, 1e-12)
    assert_within(found.shares, want.shares, 1e-12)
    assert_within(found.partition_isotropy, want.partition_isotropy, 1e-12)
    assert_within(found.norm_cv_se, want.norm_cv_se, 1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_fewer_rows_than_columns_may_be_left(backend):
    x = data("gaussian", 12, 10)
    spoilt = np.vstack([x[:4], np.zeros((5, 10)), x[4:7], np.full((1, 10), np.inf)])
    found = spectrum(spoilt, on_invalid="drop", backend=backend, standard_errors=True)
    want = spectrum(x[:7], backend=backend, standard_errors=True)
    assert (found.n, found.n_dropped, len(found.eigenvalues)) == (7, 6, 7)
    assert_within(found.eigenvalues, want.eigenvalues, 1e-12)
    assert_within(found.partition_isotropy, want.partition_isotropy, 1e-9)
    assert_within(found.effective_rank_se, want.effective_rank_se, 1e-5)
    with pytest.raises(InvalidInputError, match="x has 1 row left after dropping 1; it must have at least 2"):
        spectrum([[1.0], [0.0]], on_invalid="drop", backend=backend)


def test_more_of_both_than_eigenvalues_are_taken_of(monkeypatch):
    for module in ("stats.spectrum", "covariance.gathered"):
        monkeypatch.setattr(f"geomkit.{module}.WIDEST", 4)
    with pytest.raises(InvalidInputError, match="x has 6 rows and 5 columns; the fewer of them must be at most 4"):
        spectrum(data("gaussian", 6, 5))


def test_fields_by_name():
    found = spectrum(data("gaussian", 20, 4))
    assert set(found.to_dict()) == set(found.__dataclass_fields__) - {"eigenvalues", "shares"}
    assert "participation_ratio" in str(found)
