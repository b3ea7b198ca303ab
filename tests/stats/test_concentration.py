import math

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from geomkit.core.matrix import as_matrix
from geomkit.errors import InvalidInputError
from geomkit.kernels import Backend, load, module
from geomkit.pairwise.normalization import centred_rows
from geomkit.stats.concentration import CERTAIN, concentration, concentration_of
from tests.bounds import assert_between, assert_within, gamma, unit
from tests.kernels.cases import minkowski_error
from tests.stats.oracle import (
    BACKENDS,
    DATA,
    GRID,
    SUMS,
    counter_reach,
    data,
    distance_brackets,
    ran,
    squared_norms,
    through_product,
    upper,
)

ORDERS = [0.5, 1.0, 2.0, 3.0, math.inf]
SHAPE = (70, 24)
SHARES = np.array([0, 0.01, 0.1, 0.5, 0.9, 0.99, 1])


def lone(values, pick):
    """Least or largest of each row of a square matrix, its diagonal left out."""
    filled = values.copy()
    np.fill_diagonal(filled, math.inf if pick is np.min else -math.inf)
    return pick(filled, axis=1)


def check(found, x, p):
    """Every figure against brute force over all pairs, within brackets derived pair by pair."""
    x, dtype, n = np.asarray(x, np.float64), found.precision, len(x)
    low, high, exact = distance_brackets(x, p, dtype)
    error = minkowski_error(x.shape[1], p, dtype, dtype) + minkowski_error(x.shape[1], p, "float64", "float64")
    near_low, near_high = lone(low, np.min) * (1 - error), lone(high, np.min) * (1 + error)
    if p == 2:
        low, high = through_product(x, low, high, dtype)
        # Rows whose nearest is certainly far enough were not recomputed; the others may or may not have been.
        squares = squared_norms(x - x.mean(axis=0))
        reach = CERTAIN * gamma(x.shape[1] + 10, dtype) * (squares + squares.max())
        sure = near_high**2 < 0.9 * reach
        near_low = np.where(sure, near_low, np.minimum(near_low, lone(low, np.min)))
        near_high = np.where(sure, near_high, np.maximum(near_high, lone(high, np.min)))
    else:
        low, high = low * (1 - error), high * (1 + error)
    values, below, above = upper(exact), upper(low), upper(high)
    width = above - below
    sums = gamma(SUMS, dtype) + gamma(n * n, "float64")
    middle = found.distribution.centre * found.unit
    if p == 2:
        assert_within(middle, math.sqrt(np.mean(values**2)), 1e-6 * middle)
    else:
        assert_between(middle, below.min(), above.max())
    apart = np.abs(values - middle) + width
    slack = sums * apart.mean() + 2.0**-50 * values.mean()
    assert found.n_pairs == found.distribution.counts.sum() == n * (n - 1) // 2
    assert_between(found.mean, below.mean() - slack, above.mean() + slack)
    second = math.sqrt(np.mean(apart**2))
    spread = math.sqrt(np.mean(width**2)) + math.sqrt(sums) * second
    if values.std() > second / 10:
        spread = math.sqrt(np.mean(width**2)) + 10 * sums * second
    assert_within(found.std, values.std(), spread)
    relative = spread / values.std() + np.mean(width) / values.mean() + 4 * sums if values.std() > 0 else 0
    assert_within(found.relative_variance, (values.std() / values.mean()) ** 2, 3 * relative * found.relative_variance)
    squared = values**2
    moved = math.sqrt(np.mean((above**2 - below**2) ** 2)) + np.mean(above**2 - below**2)
    c = abs(middle)
    terms = 4 * c * c * np.mean(apart**2) + 4 * c * np.mean(apart**3) + np.mean(apart**4)
    wanted = squared.var() / squared.mean() ** 2
    of_squares = 3 * moved / squared.mean() * math.sqrt(wanted) + (3 * moved / squared.mean()) ** 2
    of_squares += 20 * (sums + 2.0**-48) * (terms + squared.mean() ** 2 * 2.0**-2) / squared.mean() ** 2
    assert_within(found.relative_variance_squared, wanted, 1e-9 * (1 + wanted) if p == 2 else of_squares)
    for share in SHARES:
        ends = [np.quantile(each, share, method=how) for each, how in ((below, "lower"), (above, "higher"))]
        error = counter_reach(np.array(ends), middle, 0) * (1 + 4 * unit(dtype)) + 4 * unit(dtype) * c
        assert_between(found.quantile(share), ends[0] - error[0], ends[1] + error[1])
    check_rows(found, n, exact, (low, high), (near_low, near_high), sums)


def check_rows(found, n, exact, both, near, sums):
    (low, high), (near_low, near_high) = both, near
    kept = lone(exact, np.min) > 0
    assert found.n_skipped == n - kept.sum()
    if not kept.any():
        assert math.isnan(found.relative_contrast)
        assert math.isnan(found.nearest_to_mean)
        return
    far_low, far_high = lone(low, np.max), lone(high, np.max)
    total = [(each.sum(axis=1) - np.diag(each)) / (n - 1) for each in both]
    assert (near_low[kept] > 0).all()
    with np.errstate(divide="ignore", invalid="ignore"):
        contrast = (far_low / near_high - 1)[kept], (far_high / near_low - 1)[kept]
        lead = (near_low / total[1])[kept], (near_high / total[0])[kept]
    assert_between(found.relative_contrast, contrast[0].mean() * (1 - sums), contrast[1].mean() * (1 + sums))
    assert_between(found.nearest_to_mean, lead[0].mean() * (1 - sums), lead[1].mean() * (1 + sums))
    if kept.sum() > 1:
        for got, (least, most) in ((found.relative_contrast_se, contrast), (found.nearest_to_mean_se, lead)):
            middle = (least + most) / 2
            moved = np.sqrt(np.mean((most - least) ** 2)) + sums * np.abs(middle).max()
            assert_within(got, middle.std(ddof=1) / math.sqrt(kept.sum()), 2 * moved / math.sqrt(kept.sum()))


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize(("backend", "precision"), GRID)
def test_matches_brute_force(backend, precision, name, p):
    x = data(name, *SHAPE)
    found = concentration(x, p=p, backend=backend, precision=precision)
    assert (found.n, found.d, found.p) == (*SHAPE, p)
    assert (found.backend, found.precision) == (backend, ran(backend, precision))
    check(found, x, p)


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("name", DATA)
def test_matches_scipy(name, p):
    x = data(name, *SHAPE).astype(np.float64)
    found = concentration(x, p=p, precision="float64")
    values = pdist(x, "chebyshev") if math.isinf(p) else pdist(x, "minkowski", p=p)
    assert_within(found.mean, values.mean(), 1e-7 * values.mean())
    assert_within(found.std, values.std(), 1e-7 * values.mean())
    assert_within([found.quantile(0), found.quantile(1)], [values.min(), values.max()], 1e-6 * values.max())


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize(("backend", "precision"), GRID)
def test_sparse_rows_match_dense_ones(backend, precision, p):
    x = data("gaussian", *SHAPE) * (np.random.default_rng(2).random(SHAPE) < 0.3)
    x[5] = x[11]
    x[20] = 0
    found = concentration(scipy.sparse.csr_array(x), p=p, backend=backend, precision=precision)
    dense = concentration(x, p=p, backend=backend, precision=precision)
    wide = 200 * gamma(SHAPE[1] + 10, found.precision)
    for name in ("mean", "std", "relative_variance", "relative_variance_squared", "nearest_to_mean"):
        assert_within(getattr(found, name), getattr(dense, name), wide * (getattr(dense, name) + 0.1 * dense.mean))
    assert found.n_skipped == dense.n_skipped == 2


@pytest.mark.parametrize("size", [1, 7, 32, 69, 70, 71])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("p", [2.0, 1.0])
def test_answers_ignore_tiles_and_threads(size, threads, p):
    x = data("gaussian", *SHAPE)
    rows = centred_rows(as_matrix(x), Backend.CPU, "float32", "raise")
    check(concentration_of(rows, p, threads=threads, size=size), x, p)


@pytest.mark.parametrize("p", [0.02, 0.04, 40.0, 300.0])
@pytest.mark.parametrize(("backend", "precision"), GRID)
def test_extreme_orders_have_finite_ratios(backend, precision, p):
    x = np.random.default_rng(0).standard_normal((25, 768))
    for rows in (x, scipy.sparse.csr_array(x)):
        found = concentration(rows, p=p, backend=backend, precision=precision)
        ratios = [found.relative_variance, found.relative_variance_squared, found.relative_contrast]
        assert np.isfinite([*ratios, found.relative_contrast_se, found.nearest_to_mean]).all()
        assert min(ratios) > 0
        assert 0 < found.nearest_to_mean < 1
        assert found.n_skipped == 0


def test_an_order_whose_distances_leave_float64():
    x = np.random.default_rng(0).standard_normal((25, 768))
    found = concentration(x, p=0.005)
    assert math.isinf(found.mean)
    assert 0 < found.relative_variance < 1
    assert 0 < found.nearest_to_mean < 1
    same = concentration(np.ones((5, 768)), p=0.005)
    assert (same.mean, same.std, same.quantile(0.5)) == (0, 0, 0)


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize(("backend", "precision"), GRID)
def test_identical_rows(backend, precision, p):
    x = np.tile(np.random.default_rng(0).standard_normal(30) + 1e6, (40, 1))
    found = concentration(x, p=p, backend=backend, precision=precision)
    assert (found.mean, found.std, found.n_skipped) == (0, 0, 40)
    assert found.quantile([0, 0.5, 1]).tolist() == [0, 0, 0]
    unknown = [found.relative_variance, found.relative_variance_squared, found.relative_contrast]
    unknown += [found.relative_contrast_se, found.nearest_to_mean, found.nearest_to_mean_se]
    assert np.isnan(unknown).all()


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize(("backend", "precision"), GRID)
def test_duplicates_are_skipped_and_counted(backend, precision, p):
    x = data("gaussian", 50, 20)
    x[7] = x[31] = x[2]
    x[49] = x[0]
    found = concentration(x, p=p, backend=backend, precision=precision)
    assert found.n_skipped == 5
    assert found.n_recomputed >= (5 if p == 2 else 0)
    assert found.n_recomputed == 0 or p == 2
    check(found, x, p)


@pytest.mark.parametrize("backend", BACKENDS)
def test_near_rows_are_told_apart_by_differences(backend):
    x = data("gaussian", 40, 100).astype(np.float64)
    # The product alone would be off by half here in float32, and by a factor of thousands for the nearer pair.
    x[9] = x[4] + 1e-3 * np.eye(100)[3]
    x[21] = x[30] + 1e-5 * np.eye(100)[3]
    found = concentration(x, backend=backend)
    assert found.n_skipped == 0
    assert found.n_recomputed == (2 if backend == "reference" else 4)
    check(found, x, 2.0)
    check(concentration(x, backend=backend, precision="float64"), x, 2.0)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize(("backend", "precision"), GRID)
def test_few_coordinates_match_brute_force(backend, precision, d):
    x = data("gaussian", 90, d)
    found = concentration(x, backend=backend, precision=precision)
    check(found, x, 2.0)
    assert found.n_recomputed > 0 or found.precision == "float64" or d > 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("p", ORDERS)
def test_two_rows(backend, p):
    found = concentration([[1.0, 2.0], [4.0, -2.0]], p=p, backend=backend, precision="float64")
    want = {0.5: (3**0.5 + 4**0.5) ** 2, 1.0: 7, 2.0: 5, 3.0: 91 ** (1 / 3), math.inf: 4}[p]
    assert_within([found.mean, found.quantile(0.5)], want, 1e-14 * want)
    assert_within([found.relative_contrast, found.std, found.relative_variance], 0, 1e-14)
    assert_within(found.nearest_to_mean, 1, 1e-14)
    assert found.relative_contrast >= 0
    assert found.n_pairs == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("p", ORDERS)
def test_one_coordinate(backend, p):
    found = concentration([[0.0], [1.0], [4.0]], p=p, backend=backend, precision="float64")
    assert_within(found.mean, 8 / 3, 1e-14)
    assert_within(found.relative_contrast, (3 + 2 + 1 / 3) / 3, 1e-13)
    assert_within(found.nearest_to_mean, (1 / 2.5 + 1 / 2 + 3 / 3.5) / 3, 1e-13)
    single = concentration([[0.0], [1.0]], p=p, backend=backend)
    assert_within(single.mean, 1, 1e-6)
    assert single.relative_contrast >= 0


def test_rows_at_two_places_have_no_negative_contrast():
    rng = np.random.default_rng(0)
    for seed in range(30):
        two = rng.standard_normal((2, 3)) * 10.0**seed
        assert concentration(two).relative_contrast >= 0


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_far_away_origin_changes_nothing(backend, p):
    x = np.random.default_rng(3).standard_normal((60, 30))
    near, far = (concentration(each, p=p, backend=backend) for each in (x, x + 1e6))
    # The shift rounds the data to 2^-33; the precision of the distances is float32's either way.
    slack = 4 * gamma(40, near.precision) + 1e-8
    for name in ("mean", "relative_contrast", "nearest_to_mean", "std"):
        assert_within(getattr(far, name), getattr(near, name), 100 * slack * max(near.mean, getattr(near, name)))
    for name in ("relative_variance", "relative_variance_squared"):
        assert_within(getattr(far, name), getattr(near, name), 100 * slack)
    assert far.n_skipped == 0


def figures(found):
    return np.array(
        [found.relative_variance, found.relative_variance_squared, found.relative_contrast, found.nearest_to_mean]
    )


matrices = st.integers(0, 2**32 - 1).map(lambda seed: data("gaussian", 30, 12, seed=seed).astype(np.float64))
orders = st.sampled_from(ORDERS)


@settings(max_examples=15, deadline=None)
@given(matrices, orders, st.randoms(use_true_random=False))
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_order_of_rows_does_not_matter(backend, x, p, random):
    order = list(range(len(x)))
    random.shuffle(order)
    first, second = (concentration(each, p=p, backend=backend, precision="float64") for each in (x, x[order]))
    assert_within(figures(second), figures(first), 1e-9)
    assert_within(second.mean, first.mean, 1e-12 * first.mean)


@settings(max_examples=15, deadline=None)
@given(matrices, orders, st.sampled_from([1e-30, 1e30, 1e-200, 1e200, -3.0]))
@pytest.mark.parametrize("backend", BACKENDS)
def test_scale_goes_into_the_distances_alone(backend, x, p, factor):
    first = concentration(x, p=p, backend=backend, precision="float64")
    second = concentration(x * factor, p=p, backend=backend, precision="float64")
    assert_within(figures(second), figures(first), 1e-9)
    for name in ("mean", "std"):
        want = getattr(first, name) * abs(factor)
        assert_within(getattr(second, name), want, 1e-9 * want)
    half = first.quantile(0.5) * abs(factor)
    assert_within(second.quantile(0.5), half, 2**-7 * half)


@settings(max_examples=15, deadline=None)
@given(matrices)
def test_rotation_does_not_matter(x):
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((12, 12)))
    first, second = (concentration(each, precision="float64") for each in (x, x @ turn))
    assert_within(figures(second), figures(first), 1e-9)


@settings(max_examples=15, deadline=None)
@given(matrices, orders)
def test_duplication_leaves_no_nearest_neighbour(x, p):
    n = len(x)
    first, twice = concentration(x, p=p, precision="float64"), concentration(np.tile(x, (2, 1)), p=p)
    assert twice.n_skipped == 2 * n
    # Each pair occurs four times, and n pairs are of one and the same row.
    assert_within(twice.mean, first.mean * 4 * (n - 1) / (2 * (2 * n - 1)), 1e-3 * first.mean)


def test_dropped_rows_are_counted_and_zero_rows_welcome():
    x = data("gaussian", 30, 5)
    x[3] = 0
    spoilt = np.insert(x, [0, 7], [[math.nan] * 5, [math.inf] * 5], axis=0)
    for backend in BACKENDS:
        found = concentration(spoilt, backend=backend, on_invalid="drop")
        assert (found.n, found.n_dropped) == (30, 2)
        check(found, x, 2.0)
    with pytest.raises(InvalidInputError, match=r"x has 2 rows \(first: 0, 8\) that are not finite; drop them"):
        concentration(spoilt)


def test_sparse_rows_are_never_made_dense_whole(monkeypatch):
    x = scipy.sparse.random_array((1000, 50_000), density=1e-3, rng=np.random.default_rng(0), format="csr")
    seen = []
    original = scipy.sparse.csr_array.toarray
    monkeypatch.setattr(scipy.sparse.csr_array, "toarray", lambda a: seen.append(a.shape[0]) or original(a))
    for p in (1.0, 2.0):
        assert concentration(x, p=p, backend="cpu").n_pairs == 1000 * 999 // 2
    assert max(seen, default=0) <= 1000 * 0.25


@pytest.mark.parametrize("p", [0, -1.0, math.nan, "2", None, True])
def test_p_must_be_a_number_above_0(p):
    with pytest.raises(InvalidInputError, match=r"p must be (a number )?above 0; got"):
        concentration(data("gaussian", 5, 3), p=p)


def test_printing_and_dict_show_every_scalar():
    found = concentration(data("gaussian", 5, 3))
    scalars = found.to_dict()
    assert set(scalars) == set(found.__dataclass_fields__) - {"distribution", "unit"}
    assert scalars["relative_contrast"] == found.relative_contrast
    assert len(str(found).splitlines()) == len(scalars)


@pytest.mark.parametrize("row", [0, 137, 299])
@pytest.mark.parametrize("p", [2.0, 1.0, 0.5, math.inf])
@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_array, torch.tensor])
def test_one_row_far_away_moves_no_quantile(kind, p, row):
    x = np.random.default_rng(0).standard_normal((300, 16))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x[row] *= 1e4
    found, shares = concentration(kind(x), p=p), np.array([0.05, 0.25, 0.5, 0.75, 0.95])
    apart = np.abs(x[:, None] - x)[np.triu_indices(300, 1)]
    values = apart.max(axis=1) if p == math.inf else (apart**p).sum(axis=1) ** (1 / p)
    # Of unit rows about a mean 33 away, which float32 holds to 2e-6 of that; counters are 2**-8 wide.
    np.testing.assert_allclose(found.quantile(shares), np.quantile(values, shares), rtol=2.0**-8)
    np.testing.assert_allclose([found.mean, found.std], [values.mean(), values.std()], rtol=1e-5)


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize(("backend", "precision"), GRID)
def test_the_error_bound_holds_every_distance(name, backend, precision):
    x = data(name, *SHAPE)
    found = concentration(x, backend=backend, precision=precision)
    rows = centred_rows(as_matrix(x), Backend(backend), found.precision, "raise")
    memory, block = module(rows.backend), rows.make(0, len(x), rows.dtype)
    measured, squares = memory.zeros((len(x), len(x)), rows.dtype), memory.as_working(rows.squares, rows.dtype)
    load("euclidean", rows.backend)(block, block, measured, squares, squares)
    exact = np.sqrt(np.square(np.asarray(x, np.float64)[:, None] - np.asarray(x, np.float64)).sum(axis=2))
    off = np.abs(upper(memory.to_numpy(measured).astype(np.float64) * rows.scale) - upper(exact))
    assert off.max() <= found.error_bound
    # Where no distance is near 0, it is no more than a hundred times what the largest rows could err by.
    if upper(exact).min() > 0.1 * math.sqrt(rows.squares.max()) * rows.scale:
        assert found.error_bound < 100 * SHAPE[1] * unit(found.precision) * math.sqrt(rows.squares.max()) * rows.scale


def test_the_error_bound_is_that_of_euclidean_distances_alone():
    x = data("gaussian", *SHAPE)
    assert math.isnan(concentration(x, p=1).error_bound)
    twice = np.repeat(x, 2, axis=0)
    assert 0 < concentration(x).error_bound < concentration(twice).error_bound < 0.05
    assert concentration(scipy.sparse.csr_array(x), precision="float64").error_bound < 1e-12
