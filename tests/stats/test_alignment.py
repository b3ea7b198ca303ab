import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.spatial import procrustes
from scipy.stats import ortho_group

from geomkit.core import blocks
from geomkit.errors import InvalidInputError
from geomkit.stats import alignment as module
from geomkit.stats.alignment import METHODS, Alignment, alignment
from tests.bounds import assert_within, gamma
from tests.stats.nearest import METRICS, scores_of
from tests.stats.oracle import BACKENDS, data

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

KINDS = ["gaussian", "clustered", "duplicated", "anisotropic"]


def spaces(name, n=60, d_x=7, d_y=11):
    """Two spaces of the same points that have something to do with each other."""
    x = data(name, n, d_x).astype(np.float64)
    noise = np.random.default_rng(3).standard_normal((n, d_y))
    return x, x @ np.random.default_rng(2).standard_normal((d_x, d_y)) + noise


def independent(n, d_x, d_y, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d_x)), rng.standard_normal((n, d_y))


def moved(x, *, seed=4):
    """Rotated, scaled and translated, in two dimensions more."""
    x = np.column_stack([x, np.zeros((len(x), 2))])
    return 3 * x @ ortho_group.rvs(x.shape[1], random_state=seed) + np.arange(x.shape[1])


def unbiased_hsic(k, m):
    """By its definition over n x n matrices with a diagonal of zeros (Song et al. 2012, equation 5)."""
    # Coefficients as well: their products with what lies far from the origin nearly cancel.
    n = np.longdouble(len(k))
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(len(k))
    total = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (total - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


def cka_of(x, y):
    """In extended precision, and how far float64 may take it."""
    n, x, y = len(x), np.asarray(x, np.longdouble), np.asarray(y, np.longdouble)
    k, m = x @ x.T, y @ y.T
    mixed, own_x, own_y = unbiased_hsic(k, m), unbiased_hsic(k, k), unbiased_hsic(m, m)
    value = mixed / np.sqrt(own_x * own_y)
    # All three sums err in proportion to the squares in them, by the length of their sums.
    size_x, size_y = (np.square(each - each.mean(axis=0)).sum() / np.sqrt(n * (n - 3)) for each in (x, y))
    lost = size_x * size_y / np.sqrt(own_x * own_y) + (size_x**2 / own_x + size_y**2 / own_y) * abs(value) / 2
    return float(value), 4 * gamma(n + max(x.shape[1], y.shape[1]) + 16, "float64") * float(lost)


def biased_cka(x, y):
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    k, m = x @ x.T, y @ y.T
    return np.vdot(k, m) / np.sqrt(np.vdot(k, k) * np.vdot(m, m))


def others(scores, i):
    return np.delete(scores[i], i)


def shares_of(x, y, k, metric):
    """Share of neighbours in common, each row."""
    lists = []
    for space in (x, y):
        scores = scores_of(space, metric)[0].astype(np.float64)
        np.fill_diagonal(scores, -np.inf)
        lists.append(np.argsort(-scores, axis=1, kind="stable")[:, :k])
    return np.array([len(set(a) & set(b)) / k for a, b in zip(*lists, strict=True)])


def ranks_of(x, y, metric):
    """Rank in y of what is nearest in x, by counting, each row."""
    of_x, of_y = scores_of(x, metric)[0], scores_of(y, metric)[0]
    ranks = []
    for i in range(len(x)):
        a, b = others(of_x, i), others(of_y, i)
        nearest = np.flatnonzero(a == a.max())
        ranks.append(np.mean([(np.sum(b > b[j]) + np.sum(b >= b[j]) + 1) / 2 for j in nearest]))
    return np.array(ranks)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_cka_is_that_of_its_definition(monkeypatch, backend, name):
    x, y = spaces(name)
    for entries in (blocks.BLOCK_ENTRIES, 50):
        monkeypatch.setattr(blocks, "BLOCK_ENTRIES", entries)
        found = alignment(x, y, backend=backend)
        assert (found.method, found.n, found.d_x, found.d_y, found.k) == ("cka", 60, 7, 11, 0)
        assert (found.metric, found.backend, found.precision, found.chance) == ("", backend, "float64", 0.0)
        assert math.isnan(found.value_se)
        assert_within(found.value, *cka_of(x, y))


def test_cka_of_independent_spaces_is_about_nothing_where_the_biased_one_is_not():
    found = [alignment(*independent(80, 200, 160, seed)).value for seed in range(30)]
    assert min(found) < 0 < max(found)
    assert abs(np.mean(found)) < 4 * np.std(found, ddof=1) / np.sqrt(30) < 0.02
    assert biased_cka(*independent(80, 200, 160)) > 0.6


def test_cka_of_four_points():
    x, y = independent(4, 3, 2)
    assert_within(alignment(x, y).value, *cka_of(x, y))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("method", ["cka", "procrustes", "neighbors"])
def test_a_space_is_like_itself_however_it_lies(method, name):
    x = data(name, 50, 6).astype(np.float64)
    for k in (1, 5):
        # Distances do not see where a space lies.
        found = alignment(x, x if name == "duplicated" else moved(x), method=method, metric="euclidean", k=k)
        assert_within(found.value, 1, 1e-10)
    if name != "duplicated":
        turned = 7 * x @ ortho_group.rvs(6, random_state=1)
        assert_within(alignment(x, turned, method=method, metric="cosine").value, 1, 1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_space_far_from_the_origin_loses_no_more_than_its_rows(backend):
    x, y = (np.round(each * 2**10) for each in spaces("gaussian"))
    far, exponents = x + 2.0**36, (-1000, -400, 400, 1000)
    for method in ("cka", "procrustes"):
        want = alignment(x, y, method=method, backend=backend).value
        assert_within(alignment(far, y, method=method, backend=backend).value, want, 1e-12)
        assert_within(alignment(scipy.sparse.csr_array(far), y, method=method, backend=backend).value, want, 1e-12)
        for exponent in exponents:
            assert_within(alignment(np.ldexp(x, exponent), y, method=method, backend=backend).value, want, 1e-12)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_procrustes_is_that_of_scipy(backend, name):
    x, y = spaces(name)
    padded = np.column_stack([x, np.zeros((60, 4))])
    for a, b in ((x, y), (y, x)):
        found = alignment(a, b, method="procrustes", backend=backend)
        assert_within(found.value, 1 - procrustes(padded, y)[2], 1e-12)
        assert math.isnan(found.chance)
        assert math.isnan(found.value_se)
    assert 0 < alignment(*independent(60, 2, 3), method="procrustes").value < 0.3


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_neighbours_in_common_are_those_of_brute_force(backend, metric):
    x, y = spaces("gaussian")
    for k in (1, 4, 59):
        found = alignment(x, y, method="neighbors", k=k, metric=metric, backend=backend)
        shares = shares_of(x, y, k, metric)
        assert_within(found.value, shares.mean(), 1e-14)
        assert_within(found.value_se, shares.std(ddof=1) / np.sqrt(60), 1e-14)
        assert (found.k, found.metric, found.chance) == (k, metric, k / 59)


def test_the_screening_of_neighbours_does_not_show():
    x, y = spaces("clustered", 100)
    for precision in ("bfloat16", "float64"):
        found = alignment(x, y, method="neighbors", precision=precision)
        assert found.precision == precision
        assert_within(found.value, shares_of(x, y, 10, "cosine").mean(), 1e-14)


def test_independent_spaces_share_neighbours_by_chance():
    for seed in range(5):
        found = alignment(*independent(500, 20, 30, seed), method="neighbors", k=20)
        assert found.chance == 20 / 499
        assert 0 < found.value_se < 0.004
        assert abs(found.value - found.chance) < 4 * found.value_se


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_imbalance_is_that_of_counting(monkeypatch, backend, metric, name):
    if name == "duplicated":
        # Of whole numbers ties are ties however they are computed; cosines of theirs are rounded, if not of equal rows.
        x, y = data(name, 60, 3), data("gaussian", 10, 2)[np.arange(60) % 10]
        if metric != "cosine":
            x, y = np.round(x), np.round(2 * y)
    else:
        x, y = spaces(name)
    for entries in (blocks.BLOCK_ENTRIES, 150):
        monkeypatch.setattr(blocks, "BLOCK_ENTRIES", entries)
        found = alignment(x, y, method="imbalance", metric=metric, backend=backend, threads=2)
        forth, back = (2 / 60 * each for each in (ranks_of(x, y, metric), ranks_of(y, x, metric)))
        assert_within([found.value, found.x_to_y], [forth.mean()] * 2, 1e-14)
        assert_within(found.y_to_x, back.mean(), 1e-14)
        want = [each.std(ddof=1) / np.sqrt(60) for each in (forth, back)]
        assert_within([found.value_se, found.y_to_x_se], want, 1e-14)
        assert (found.k, found.chance, found.metric, found.precision) == (1, 1.0, metric, "float64")
        assert min(found.x_to_y, found.y_to_x) >= 2 / 60


def test_known_imbalances():
    x, y = independent(400, 3, 3)
    same = alignment(x, x, method="imbalance", metric="euclidean")
    assert_within([same.x_to_y, same.y_to_x, same.value_se], [2 / 400, 2 / 400, 0], 1e-16)
    apart = alignment(x, y, method="imbalance", metric="euclidean")
    assert abs(apart.x_to_y - 1) < 4 * apart.value_se < 0.2
    assert abs(apart.y_to_x - 1) < 4 * apart.y_to_x_se < 0.2
    # The whole says where the points lie in a part of it, but not the other way round.
    part = alignment(x, x[:, :1], method="imbalance", metric="euclidean")
    assert part.x_to_y < 0.25
    assert part.y_to_x > part.x_to_y + 0.2
    # Where all are equally near there is nothing to be learnt.
    nothing = alignment(x, np.ones((400, 2)), method="imbalance", metric="euclidean")
    assert_within([nothing.x_to_y, nothing.y_to_x], [1, 1], 1e-14)


@pytest.mark.parametrize("method", METHODS)
def test_points_may_come_in_any_order_but_must_stay_paired(method):
    x, y = spaces("gaussian", 200, 5, 6)
    order = np.random.default_rng(8).permutation(200)
    before, after = alignment(x, y, method=method), alignment(x[order], y[order], method=method)
    for name, value in before.to_dict().items():
        if isinstance(value, float):
            np.testing.assert_allclose(after.to_dict()[name], value, rtol=1e-12)
        else:
            assert after.to_dict()[name] == value
    broken = alignment(x, y[order], method=method)
    assert abs(broken.value - before.value) > 0.2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_storage_of_every_kind(backend, method, tmp_path):
    x, y = (each.astype(np.float32) for each in spaces("gaussian"))
    x[np.abs(x) < 0.5] = 0
    np.save(tmp_path / "x.npy", x)
    want = alignment(x, y, method=method, backend=backend)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for kind in (mapped, torch.from_numpy(x), np.asfortranarray(x), x.tolist(), scipy.sparse.csr_matrix(x)):
        found = alignment(kind, y, method=method, backend=backend)
        np.testing.assert_allclose(found.value, want.value, rtol=1e-12)
        swapped = alignment(y, kind, method=method, backend=backend)
        np.testing.assert_allclose(swapped.value, want.y_to_x if method == "imbalance" else want.value, rtol=1e-12)
        assert (swapped.d_x, swapped.d_y) == (11, 7)


@pytest.mark.parametrize("method", METHODS)
def test_reads_like_the_others(method):
    found = alignment(*spaces("gaussian"), method=method)
    assert list(found.to_dict()) == list(Alignment.__dataclass_fields__)
    assert f"method    {method}" in str(found).splitlines()
    assert math.isnan(found.x_to_y) == (method != "imbalance")
    assert "value" in repr(found)


def test_names_the_argument_that_is_wrong():
    x, y = spaces("gaussian")
    for change, message in {
        "rows": r"x and y must have the same number of rows, which are paired; got 60 and 59",
        "method": r"method must be one of \['cka', 'neighbors', 'procrustes', 'imbalance'\]; got 'rsa'",
        "metric": r"metric must be one of .*; got 'l1'",
        "k": r"k must be a whole number from 1 to n - 1 = 59; got 60",
        "precision": r"precision must be one of .*; got 'half'",
        "threads": r"threads must be a whole number of at least 1, or None; got 0",
    }.items():
        given = {
            "rows": {}, "method": {"method": "rsa"}, "metric": {"metric": "l1"}, "precision": {"precision": "half"},
            "k": {"method": "neighbors", "k": 60}, "threads": {"threads": 0},
        }[change]  # fmt: skip
        with pytest.raises(InvalidInputError, match=message):
            alignment(x, y[:59] if change == "rows" else y, **given)
    with pytest.raises(InvalidInputError, match="y has 1 dimensions"):
        alignment(x, y[:, 0])
    with pytest.raises(InvalidInputError, match="x and y have 3 rows; debiased CKA must have at least 4"):
        alignment(x[:3], y[:3])
    assert alignment(x[:3], y[:3], method="procrustes").n == 3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("on_x", "on_y"), [("cuda:1", None), (None, "cuda:0"), ("cuda:0", "cuda:1")])
def test_matrices_on_two_devices_are_refused_unless_one_is_named(monkeypatch, method, on_x, on_y):
    # Matrices that say where they are: no such device is needed to refuse them.
    as_matrix, on = module.as_matrix, {"x": on_x, "y": on_y}

    def elsewhere(given, name="x"):
        return replace(as_matrix(given, name=name), places=(on[name],) if on[name] else ())

    class Placed(Exception):  # noqa: N818
        """The matrices were let through."""

    def place(matrix, backend, device, **_):
        raise Placed(device)

    monkeypatch.setattr(module, "as_matrix", elsewhere)
    monkeypatch.setattr(module, "place", place)
    x, y = spaces("gaussian")
    message = f"x and y must be on one device, or device must say where to go; got {on_x or 'cpu'} and {on_y or 'cpu'}"
    with pytest.raises(InvalidInputError, match=message):
        alignment(x, y, method=method)
    with pytest.raises(Placed, match="cuda:1"):
        alignment(x, y, method=method, device="cuda:1")
    on["y"] = on["x"]
    with pytest.raises(Placed, match="None"):
        alignment(x, y, method=method)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_rows_are_refused_and_never_dropped(method, sparse):
    x, y = spaces("gaussian")
    for value in (np.nan, np.inf):
        bad = y.copy()
        bad[[4, 9], 2] = value
        message = r"y has 2 rows \(first: 4, 9\) that are not finite; rows are paired, .* out of both x and y"
        with pytest.raises(InvalidInputError, match=message):
            alignment(x, scipy.sparse.csr_array(bad) if sparse else bad, method=method)
    zero = x.copy()
    zero[7] = 0
    zero = scipy.sparse.csr_array(zero) if sparse else zero
    if method in {"neighbors", "imbalance"}:
        with pytest.raises(InvalidInputError, match=r"x has 1 row \(7\) that are zero and have no direction; rows are"):
            alignment(zero, y, method=method)
    assert 0 < alignment(zero, y, method=method, metric="euclidean").value < 1


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_has_no_spread_is_refused(backend, sparse):
    x, _ = spaces("gaussian")
    equal = np.tile(np.array([0.1, 0.7, 1e9 / 3]), (60, 1))
    equal = scipy.sparse.csr_array(equal) if sparse else equal
    for method in ("cka", "procrustes"):
        with pytest.raises(InvalidInputError, match="y has no spread, all of its rows are equal; it must have some"):
            alignment(x, equal, method=method, backend=backend)
    for apart in (np.eye(60), 1e3 * np.eye(60) + 7):
        given = scipy.sparse.csr_array(apart) if sparse else apart
        with pytest.raises(InvalidInputError, match="x has no spread, all of its rows are equally far apart"):
            alignment(given, x, backend=backend)


def test_rows_too_wide_or_too_far_apart_are_refused(monkeypatch):
    x, y = spaces("gaussian")
    far = x.copy()
    far[3], far[0] = 1.7e308, -1.7e308
    with pytest.raises(InvalidInputError, match=r"x has .*3.* that lie further from others than float64 can say"):
        alignment(far, y)
    monkeypatch.setattr(module, "WIDEST", 10)
    for method in ("cka", "procrustes"):
        with pytest.raises(InvalidInputError, match="y has 11 columns; it must have at most 10"):
            alignment(x, y, method=method)
    assert alignment(x, y, method="neighbors").d_y == 11


def test_never_holds_all_pairs(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ENTRIES", 600)
    seen, ranks = [], module._ranks
    monkeypatch.setattr(module, "_ranks", lambda x, y: seen.append(x.shape) or ranks(x, y))
    alignment(*spaces("gaussian"), method="imbalance", threads=1)
    assert seen == [(10, 60)] * 12
