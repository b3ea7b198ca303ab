import math

import numpy as np
import pytest
import scipy.sparse
import torch

from geomkit.errors import InvalidInputError
from geomkit.stats.squared_distance import squared_distance_stats
from tests.bounds import assert_between, assert_within, gamma
from tests.stats.oracle import BFLOAT16, DATA, counter_reach, data, force, ran, upper

SHAPE = (220, 40)
SHARES = np.array([0, 0.005, 0.05, 0.25, 0.5, 0.75, 0.95, 0.995, 1])
GRID = [
    ("reference", "float64", None),
    ("cpu", "float32", None),
    ("cpu", "float64", None),
    *(("cpu", "bfloat16", product) for product in BFLOAT16),
    ("cpu", "bfloat16", "numpy in float32"),
    ("torch", "float32", None),
    ("torch", "bfloat16", None),
    *(("triton", precision, None) for precision in ("bfloat16", "float16")),
]


def squared(x):
    x = np.asarray(x, np.float64)
    return upper(np.square(x[:, None] - x[None]).sum(axis=2))


def about_mean(x):
    return x - np.asarray(x, np.float64).mean(axis=0)


def check(found, values, rows):
    """`rows` are those that the closed form adds up the squares of."""
    error, n = found.error_bound, found.n
    mean = values.mean()
    assert found.n_pairs == len(values) == n * (n - 1) // 2
    assert found.distribution.counts.sum() == len(values)
    # Closed form in float64 of rows less their mean: relative to the sums that it is made of.
    size = 2 * np.square(rows).sum() / (n - 1)
    assert_within(found.mean, mean, 8 * gamma(n + rows.shape[1], "float64") * size)
    assert_within([found.min, found.max], [values.min(), values.max()], error)
    reach = counter_reach(values, mean, error)
    assert_within(found.std, values.std(), math.sqrt(np.mean(reach**2)))
    low, high = (np.quantile(values, SHARES, method=how) for how in ("lower", "higher"))
    assert_between(
        found.quantile(SHARES), low - counter_reach(low, mean, error), high + counter_reach(high, mean, error)
    )
    assert found.quantile(0.3) == found.quantile([0.3])[0]


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize(("backend", "precision", "product"), GRID)
def test_matches_brute_force(monkeypatch, backend, precision, product, name):
    force(monkeypatch, product)
    x = data(name, *SHAPE)
    found = squared_distance_stats(x, backend=backend, precision=precision)
    assert (found.backend, found.precision) == (backend, ran(backend, precision))
    check(found, squared(x), about_mean(x))
    assert found.error_bound <= 0.1 * found.mean


@pytest.mark.parametrize(("backend", "precision", "product"), GRID)
def test_a_far_away_origin_costs_no_digits(monkeypatch, backend, precision, product):
    force(monkeypatch, product)
    x = np.round(data("gaussian", *SHAPE).astype(np.float64) * 64) / 64
    near = squared_distance_stats(x, backend=backend, precision=precision)
    far = squared_distance_stats(x + 2.0**20, backend=backend, precision=precision)
    check(far, squared(x), about_mean(x))
    assert_within(far.error_bound, near.error_bound, 0.01 * near.error_bound)


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_scale_is_carried_through(factor):
    x = data("clustered", 60, 20)
    one, other = squared_distance_stats(x), squared_distance_stats((x * np.float32(factor)).astype(np.float64))
    for name in ("mean", "std", "max", "mean_se"):
        assert_within(getattr(other, name) / factor**2, getattr(one, name), 1e-5 * getattr(one, name))
    assert_within(other.relative_variance, one.relative_variance, 1e-5)


@pytest.mark.parametrize(("backend", "precision"), [("reference", "float64"), ("cpu", "float32"), ("torch", "float32")])
def test_sparse_rows_match_brute_force(backend, precision):
    x = data("gaussian", *SHAPE) * (np.random.default_rng(2).random(SHAPE) < 0.3)
    found = squared_distance_stats(scipy.sparse.csr_array(x), backend=backend, precision=precision)
    # Sparse rows are not centred: the sums are those of the rows themselves.
    check(found, squared(x), x.astype(np.float64))
    dense = squared_distance_stats(x, backend=backend, precision=precision)
    assert_within(found.mean_se, dense.mean_se, 1e-12)


def test_identical_rows():
    found = squared_distance_stats(np.ones((9, 4)))
    assert (found.mean, found.std, found.min, found.max) == (0, 0, 0, 0)
    assert math.isnan(found.relative_variance)


def test_standard_error_is_over_rows():
    x = data("clustered", 400, 20).astype(np.float64)
    full = np.square(x[:, None] - x[None]).sum(axis=2)
    without = (full.sum() / 2 - full.sum(axis=1)) / (399 * 398 / 2)
    jackknife = math.sqrt(399 / 400 * np.sum((without - without.mean()) ** 2))
    assert_within(squared_distance_stats(x).mean_se, jackknife, 0.02 * jackknife)


def test_gaussian_rows_have_the_relative_variance_of_chi_squared():
    x = np.random.default_rng(0).standard_normal((1500, 64))
    assert_within(squared_distance_stats(x, precision="bfloat16").relative_variance, 2 / 64, 0.05 * 2 / 64)


def test_two_rows_and_dropped_rows():
    two = squared_distance_stats([[0.0, 0.0], [3.0, 4.0]])
    assert_within([two.mean, two.min, two.max], 25, two.error_bound)
    assert math.isnan(two.mean_se)
    spoilt = squared_distance_stats([[0.0, 0.0], [math.nan, 1.0], [3.0, 4.0]], on_invalid="drop")
    assert (spoilt.n, spoilt.n_dropped, spoilt.mean) == (2, 1, two.mean)


def test_printing_and_refusals():
    found = squared_distance_stats(data("gaussian", 5, 3))
    assert set(found.to_dict()) == set(found.__dataclass_fields__) - {"distribution", "unit"}
    assert len(str(found).splitlines()) == len(found.to_dict())
    with pytest.raises(InvalidInputError, match="precision must be one of"):
        squared_distance_stats(np.ones((3, 2)), precision="float8")
    with pytest.raises(InvalidInputError, match="precision 'bfloat16' is for dense rows; x is sparse"):
        squared_distance_stats(scipy.sparse.eye_array(4, format="csr"), precision="bfloat16")


@pytest.mark.parametrize("row", [0, 137, 299])
@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_array, torch.tensor])
def test_one_row_far_away_moves_no_quantile(kind, row):
    x = np.random.default_rng(0).standard_normal((300, 16))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x[row] *= 1e4
    shares = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
    values = np.square(x[:, None] - x).sum(axis=2)[np.triu_indices(300, 1)]
    found = squared_distance_stats(kind(x))
    np.testing.assert_allclose(found.quantile(shares), np.quantile(values, shares), rtol=2.0**-7)
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert found.std == pytest.approx(values.std(), rel=1e-5)
    np.testing.assert_allclose(
        squared_distance_stats(kind(x), precision="float64").quantile(shares), np.quantile(values, shares), rtol=2.0**-8
    )
