import math

import numpy as np
import pytest
import scipy.sparse
import torch

from geomkit.errors import InvalidInputError
from geomkit.stats import dimension as module
from geomkit.stats.dimension import intrinsic_dimension, lid_of, mle_of, twonn_of
from geomkit.stats.neighbors import neighbors
from tests.stats.oracle import data

METRICS = ["euclidean", "cosine"]
NEAR = ["twonn", "mle", "lid"]


def embedded(kind, dim, n, d, seed=0):
    """Rows uniform on a cube or sphere of known dimension, turned in space at random."""
    rng = np.random.default_rng(seed)
    if kind == "cube":
        x = rng.random((n, dim))
    else:
        x = rng.standard_normal((n, dim + 1))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x @ np.linalg.qr(rng.standard_normal((d, d)))[0][: x.shape[1]]


def distances(x, metric):
    """All distances by differences, in extended precision, a row to itself infinite."""
    x = np.asarray(x, np.longdouble)
    if metric == "cosine":
        x = x / np.sqrt((x * x).sum(axis=1, keepdims=True))
    full = np.sqrt(np.square(x[:, None] - x[None]).sum(axis=2))
    np.fill_diagonal(full, np.inf)
    return full


def linked(influence, lists):
    """Standard error of a mean over rows, whose influences count together as far as they see the same rows."""
    n, each = len(lists), [{int(i), *map(int, row)} for i, row in lists]
    share = np.array([[len(a & b) / len(a) for b in each] for a in each])
    return math.sqrt(influence @ share @ influence / (n * (n - share.sum() / n)))


def brute(method, x, k, metric):
    """Dimension, its standard error, what else there is, row by row; a distance below 1e-12 is 0."""
    full = distances(x, metric)
    order = np.argsort(full, axis=1, kind="stable")[:, :k]
    ranked = np.take_along_axis(full, order, 1)
    used = [i for i, row in enumerate(ranked) if row[0] > 1e-12]
    lists, n = [(i, order[i]) for i in used], len(used)
    if method == "twonn":
        ratios = np.array([float(np.log(ranked[i, 1] / ranked[i, 0])) for i in used])
        kept = int(0.9 * n + 1e-9)
        logs, tails = np.sort(ratios)[:kept], np.array([-math.log(1 - i / n) for i in range(1, kept + 1)])
        slope = np.linalg.lstsq(logs[:, None], tails, rcond=None)[0][0]
        # What a row adds, by a Riemann sum: 1 - F is the share of ratios that are larger than q.
        q, step = np.linspace(0, logs[-1], 200_001, retstep=True)
        q = q[:-1] + step / 2
        rest = 1 - np.searchsorted(np.sort(ratios), q, side="right") / n
        area = np.concatenate([[0], np.cumsum(-np.log(rest) - 2 * slope * q)]) * step
        added = area[np.minimum(np.round(ratios / step).astype(int), 200_000)] / np.mean(
            np.append(logs**2, np.zeros(n - kept))
        )
        return slope, linked(added - added.mean(), lists), n / math.fsum(ratios)
    local = np.full(len(ranked), np.nan)
    for i in used:
        sums = [float(np.log(ranked[i, k - 1] / ranked[i, j])) for j in range(k)]
        local[i] = (k - 1 if method == "mle" else k) / math.fsum(sums)
    inverse = 1 / local[used]
    if method == "lid":
        return np.median(local[used]), math.nan, local
    left = (n - 1) / (inverse.sum() - inverse)
    return 1 / np.mean(inverse), linked((n - 1) * (left.mean() - left), lists), local


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", ["gaussian", "some twice", "anisotropic"])
@pytest.mark.parametrize("method", NEAR)
def test_neighbour_methods_match_brute_force(method, name, metric):
    x = np.vstack([data("gaussian", 220, 7)] * 2)[:240] if name == "some twice" else data(name, 240, 7)
    found = intrinsic_dimension(x, method=method, k=9, metric=metric)
    value, error, more = brute(method, x, 2 if method == "twonn" else 9, metric)
    # A cosine near 1 is known to some 1e-15, of which a distance of 1e-4 keeps eight digits.
    relative = 1e-10 if metric == "euclidean" else 1e-6
    assert found.dimension == pytest.approx(value, rel=relative)
    assert found.k == (2 if method == "twonn" else 9)
    nearest = distances(x, metric).min(axis=1)
    assert found.n_skipped == np.sum(nearest < 1e-12)
    assert (found.n_skipped > 0) == (name == "some twice")
    if method == "twonn":
        assert found.maximum_likelihood == pytest.approx(more, rel=relative)
        assert found.dimension_se == pytest.approx(error, rel=1e-3)
        assert found.local is None
        return
    assert np.array_equal(np.isnan(found.local), np.isnan(more))
    assert found.local == pytest.approx(more, rel=100 * relative, nan_ok=True)
    assert math.isnan(found.maximum_likelihood)
    # The jackknife differs from the delta method by terms of 1/n.
    assert found.dimension_se == pytest.approx(error, rel=5 / 240, nan_ok=True)


def inverse_on_a_sphere(dim, radius):
    """Mean of ln(r_k/r) over the rest of a ball of chord r_k on the unit sphere; and the exponent of its volume there.

    A chord r has a sphere of r^(dim-1) (1 - r²/4)^((dim-2)/2) around it: flat space but for the second factor.
    """
    r = np.linspace(0, radius, 4001)[1:]
    around = r ** (dim - 1) * (1 - r**2 / 4) ** ((dim - 2) / 2)
    volume = around.sum() - around[-1] / 2
    return (np.log(radius / r) * around).sum() / volume, radius * around[-1] / volume / (radius / 4000)


@pytest.mark.parametrize("dim", [2, 5, 10])
def test_dimension_of_a_sphere(dim):
    found = neighbors(embedded("sphere", dim, 3000, 24), 10, metric="euclidean")
    mle, twonn = mle_of(found), twonn_of(found)
    # Rows within the k-th distance of a row are uniform there, so that the mean of inverses is known exactly.
    grid = np.linspace(found.distances[:, -1].min(), found.distances[:, -1].max(), 200)
    inverse = np.interp(found.distances[:, -1], grid, [inverse_on_a_sphere(dim, each)[0] for each in grid])
    assert abs(mle.dimension - 1 / inverse.mean()) < 4 * mle.dimension_se < 0.06 * dim
    # The exponent of the volume falls with the radius: what TwoNN sees lies between that at r_2 and that at 0. The fit
    # runs high by ln(n)/n.
    least = inverse_on_a_sphere(dim, found.distances[:, 1].max())[1]
    band = 4 * twonn.dimension_se + dim * math.log(3000) / 3000
    assert least - band < twonn.dimension < dim + band < 1.2 * dim
    # A local value is k over a sum of k - 1 unit exponentials over dim, whose median is nearly k - 4/3.
    expected = 10 / (10 - 4 / 3)
    # The median of n values errs by 1.2533 times their mean: as that of mle does, and by no more.
    assert least * expected - band < lid_of(found).dimension < dim * expected + band


@pytest.mark.parametrize("dim", [2, 5, 10])
def test_dimension_of_a_cube(dim):
    found = neighbors(embedded("cube", dim, 3000, 24), 10, metric="euclidean")
    # From a row of a convex body, volume grows no faster than in all of space; what lies beyond the 2 dim faces of the
    # cube takes from a ball of radius r, to first order, a share of r dim E|z| of its volume, z a coordinate in a ball
    # of radius 1, and so r E|z| of its exponent: less at the smaller radii that are measured, and to higher orders.
    coordinate = dim / (dim + 1) * math.gamma(dim / 2) / math.sqrt(math.pi) / math.gamma((dim + 1) / 2)
    least = dim * (1 - float(found.distances[:, -1].mean()) * coordinate)
    for result in (twonn_of(found), mle_of(found)):
        band = 4 * result.dimension_se + dim * math.log(3000) / 3000
        assert least - band < result.dimension < dim + band


def test_influences_on_the_fit_are_those_of_exponential_samples():
    rng = np.random.default_rng(3)
    n, repeats, kept = 400, 1500, 360
    logs = np.sort(rng.exponential(size=(repeats, n)), axis=1)
    tails = -np.log1p(-np.arange(1, kept + 1) / n)
    slopes = (logs[:, :kept] @ tails) / np.square(logs[:, :kept]).sum(axis=1)
    squares = [
        np.square(module._fit_influence(x[:kept], slope, n)).mean() for x, slope in zip(logs, slopes, strict=True)
    ]
    # Four standard errors of a standard deviation, and the next order in 1/n: a few parts of n.
    relative = 4 / math.sqrt(2 * repeats) + 10 / n
    assert math.sqrt(np.mean(squares)) == pytest.approx(slopes.std() * math.sqrt(n), rel=relative)


def test_standard_errors_are_those_of_independent_rows():
    # Every row's distances are drawn apart from all others': links between rows are there, and mean nothing.
    rng = np.random.default_rng(4)
    found, n = neighbors(rng.standard_normal((500, 4)), 8, metric="euclidean"), 500
    results = {"twonn": [], "mle": []}
    for _ in range(400):
        radii = np.sort(rng.random((n, 9)), axis=1) ** (1 / 6)
        object.__setattr__(found, "distances", radii[:, :8])
        results["twonn"].append(twonn_of(found))
        results["mle"].append(mle_of(found))
    for method, each in results.items():
        values = np.array([one.dimension for one in each])
        claimed = math.sqrt(np.mean([one.dimension_se**2 for one in each]))
        # Sixteen parts of n: the fit runs high by ln(n)/n, the inverse of a mean by 1/n.
        assert abs(values.mean() - 6) < 4 * values.std() / 20 + 6 * 16 / n, method
        assert claimed == pytest.approx(values.std(), rel=4 / math.sqrt(800) + 10 / n), method


def test_twonn_of_high_gaussian_rows_is_far_too_low():
    found = intrinsic_dimension(np.random.default_rng(0).standard_normal((2000, 256)))
    # Nearly all squared distances are 2 d (1 ± √(2/d)): an exponent at their lower end, not that of a ball. An upper
    # tail of a normal variable at share p has ln p = -z²/2, whose slope in ln r is 2 z √(d/2): about 78 at p = 2/2000.
    z = 3.09
    assert found.dimension == pytest.approx(2 * z * math.sqrt(256 / 2), rel=0.25)
    assert found.dimension + 4 * found.dimension_se < 0.5 * 256


@pytest.mark.parametrize("method", module.METHODS)
def test_scale_rotation_and_translation(method):
    rng = np.random.default_rng(2)
    x = embedded("cube", 4, 500, 9)
    turned = x @ np.linalg.qr(rng.standard_normal((9, 9)))[0]
    plain = intrinsic_dimension(x, method=method, precision="float64").dimension
    # Counters of distances are 2**-7 wide; both ends move, over the 3.9 that log C rises.
    relative = 2 * plain * 2**-8 / 3.9 if method == "correlation" else 1e-9
    for changed in (1e-3 * x, 1e100 * x, turned, x + 50, turned[::-1] * 7 - 3):
        other = intrinsic_dimension(changed, method=method, precision="float64").dimension
        assert other == pytest.approx(plain, rel=relative)
    stretched = x * rng.uniform(0.1, 10, (500, 1))
    one, two = (intrinsic_dimension(y, method=method, metric="cosine", precision="float64") for y in (x, stretched))
    assert two.dimension == pytest.approx(one.dimension, rel=max(relative, 1e-6))


@pytest.mark.parametrize("metric", METRICS)
def test_duplicates_are_skipped_and_counted(metric):
    x = embedded("sphere", 5, 900, 12)
    twins = np.vstack([x, (1 if metric == "euclidean" else 2.5) * x[:6]])
    for method in NEAR:
        plain, found = (intrinsic_dimension(y, method=method, metric=metric) for y in (x, twins))
        assert (plain.n_skipped, found.n_skipped, found.n) == (0, 12, 906)
        # 6 of 900 rows are gone, and the other rows near them (k of each) see one radius twice.
        assert found.dimension == pytest.approx(plain.dimension, rel=0.05)
        if found.local is not None:
            assert np.array_equal(np.flatnonzero(np.isnan(found.local)), [*range(6), *range(900, 906)])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("method", NEAR)
def test_rows_that_are_all_duplicated_are_refused(method, metric):
    x = np.repeat(np.random.default_rng(0).standard_normal((20, 5)), 2, axis=0)
    with pytest.raises(InvalidInputError, match="x has 0 rows without a duplicate: 40 of 40 are at distance 0"):
        intrinsic_dimension(x, method=method, metric=metric)


def test_equal_rows_have_no_covariance_and_no_radii():
    row = np.random.default_rng(0).standard_normal((1, 6)) / 3
    x = np.repeat(row, 200, axis=0)
    with pytest.raises(InvalidInputError, match="x has 200 rows that are all equal"):
        intrinsic_dimension(x, method="pca")
    with pytest.raises(InvalidInputError, match="x has 200 directions that are all equal"):
        intrinsic_dimension(x * np.linspace(0.1, 3, 200)[:, None], method="pca", metric="cosine")
    with pytest.raises(InvalidInputError, match="drop repeated rows, or use precision='float64'"):
        intrinsic_dimension(x, method="correlation")


def test_equally_far_rows_have_infinite_dimension():
    for method in NEAR:
        found = intrinsic_dimension(np.eye(12), method=method, k=5)
        assert found.dimension == math.inf
        assert math.isnan(found.dimension_se)


def test_chord_distances_give_twice_what_one_less_cosine_gives():
    x = embedded("sphere", 6, 800, 10)
    found = neighbors(x, 10)
    plain = neighbors(x, 10, metric="euclidean")
    object.__setattr__(plain, "distances", found.distances)
    for method in (lid_of, mle_of, twonn_of):
        chord, squared = method(found).dimension, method(plain).dimension
        assert chord == pytest.approx(2 * squared, rel=1e-12)
        assert chord == pytest.approx(method(neighbors(x, 10, metric="euclidean")).dimension, rel=1e-6)


def test_local_conventions_differ_by_the_last_term():
    found = neighbors(data("gaussian", 150, 6), 8, metric="euclidean")
    assert lid_of(found).local == pytest.approx(mle_of(found).local * 8 / 7, rel=1e-12)
    two = neighbors(data("gaussian", 150, 6), 2, metric="euclidean")
    # With two neighbours the mean of inverses is that of ln μ.
    assert mle_of(two).dimension == pytest.approx(twonn_of(two).maximum_likelihood, rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(300, 12), (40, 90), (200, 200)])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("form", ["dense", "sparse", "torch", "reference", "small blocks"])
def test_pca_matches_the_covariance(monkeypatch, form, metric, n, d):
    x = data("anisotropic", n, d).astype(np.float64) + 5
    y = x / np.linalg.norm(x, axis=1, keepdims=True) if metric == "cosine" else x
    values = np.linalg.eigvalsh(np.cov(y.T))[::-1]
    if form == "small blocks":
        monkeypatch.setattr("geomkit.covariance.batches.BLOCK_ENTRIES", 1)
        monkeypatch.setattr("geomkit.covariance.batches.BLOCK_ROWS", 7)
        monkeypatch.setattr("geomkit.covariance.gram.TILE_ROWS", 7)
    given = {"sparse": scipy.sparse.csr_array, "torch": torch.from_numpy}.get(form, np.asarray)(x)
    backend = form if form in {"torch", "reference"} else "auto"
    found = intrinsic_dimension(given, method="pca", metric=metric, backend=backend)
    assert found.dimension == pytest.approx(values.sum() ** 2 / np.square(values).sum(), rel=1e-9)
    assert found.components_95 == 1 + np.argmax(np.cumsum(values) >= 0.95 * values.sum())
    assert (found.precision, found.k, found.n_skipped) == ("float64", None, 0)
    monkeypatch.setattr(module, "SPECTRUM", min(n, d) - 1)
    above = intrinsic_dimension(given, method="pca", metric=metric, backend=backend)
    assert above.components_95 is None
    assert above.dimension == found.dimension
    monkeypatch.setattr("geomkit.covariance.accumulate.WIDEST", d - 1)
    rows = intrinsic_dimension(given, method="pca", metric=metric, backend=backend)
    assert rows.dimension == pytest.approx(found.dimension, rel=1e-9)


def test_pca_of_a_simplex_is_all_of_it():
    found = intrinsic_dimension(np.eye(21), method="pca")
    # Twenty equal eigenvalues: 19 of them are 95 % exactly.
    assert (found.dimension, found.components_95) == (pytest.approx(20, rel=1e-12), 19)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [2, 5])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_correlation_dimension_is_that_of_all_pairs(precision, dim, metric):
    x = embedded("sphere", dim, 600, 14)
    found = intrinsic_dimension(x, method="correlation", metric=metric, precision=precision)
    pairs = distances(x, metric)[np.triu_indices(600, 1)].astype(np.float64)
    radii = found.radius_low, found.radius_high
    # A counter is 2**-7 of a square wide, half of that of a distance; radii lie in the counter of their quantile.
    assert radii == pytest.approx(np.quantile(pairs, [0.001, 0.05]), rel=2**-8)
    counts = [[np.sum(pairs <= radius * (1 + side * 2**-8)) for side in (-1, 1)] for radius in radii]
    rise = math.log(radii[1] / radii[0])
    low, high = (math.log(counts[1][side] / counts[0][1 - side]) / rise for side in (0, 1))
    assert low <= found.dimension <= high
    assert found.dimension == pytest.approx(dim, rel=0.1)
    assert math.isnan(found.dimension_se)


def test_correlation_needs_pairs_and_resolution():
    x = embedded("cube", 3, 142, 5)
    assert intrinsic_dimension(x, method="correlation").n == 142
    with pytest.raises(InvalidInputError, match="x has 141 rows; it must have at least 142 for method 'correlation'"):
        intrinsic_dimension(x[1:], method="correlation")
    line = embedded("cube", 1, 800, 40)
    with pytest.raises(InvalidInputError, match="times the error bound in float32"):
        intrinsic_dimension(line, method="correlation")
    exact = intrinsic_dimension(line, method="correlation", precision="float64")
    # C(r) = 2r - r² of a unit interval, whose slope falls from 1 by r_high / 2 over the way.
    assert 0.95 < exact.dimension < 1.03


def test_dropped_rows_are_counted_and_change_nothing():
    x = data("gaussian", 200, 5)
    spoilt = np.insert(x, [3, 70], np.nan, axis=0)
    for method in module.METHODS:
        plain, found = (
            intrinsic_dimension(x, method=method),
            intrinsic_dimension(spoilt, method=method, on_invalid="drop"),
        )
        assert found.dimension == pytest.approx(plain.dimension, rel=1e-9)
        assert (found.n, found.n_dropped, plain.n_dropped) == (200, 2, 0)
        with pytest.raises(InvalidInputError, match="x has 2 rows"):
            intrinsic_dimension(spoilt, method=method)


def test_zero_rows_are_welcome_to_distances():
    x = np.vstack([np.zeros((1, 4)), data("gaussian", 199, 4)])
    for method in module.METHODS:
        assert intrinsic_dimension(x, method=method).n == 200
        with pytest.raises(InvalidInputError, match="zero and have no direction"):
            intrinsic_dimension(x, method=method, metric="cosine")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "danco"}, "method must be one of .*; got 'danco'"),
        ({"metric": "dot"}, r"metric must be one of \['euclidean', 'cosine'\]; got 'dot'"),
        ({"method": "mle", "k": 1}, "k must be a whole number from 2 to n - 1 = 29 for method 'mle'; got 1"),
        ({"method": "lid", "k": 30}, "k must be a whole number from 2 to n - 1 = 29 for method 'lid'; got 30"),
        ({"method": "mle", "k": True}, "got True"),
        ({"method": "lid", "k": 2.0}, "got 2.0"),
        ({"method": "correlation", "precision": "bfloat16"}, "precision must be one of"),
        ({"method": "pca", "precision": "float8"}, "precision must be one of"),
        ({"precision": "float8"}, "precision must be one of"),
        ({"on_invalid": "skip"}, "on_invalid must be one of"),
        ({"method": "pca", "threads": 0}, "threads must be a whole number"),
    ],
)
def test_arguments_are_refused(wrong, message):
    with pytest.raises(InvalidInputError, match=message):
        intrinsic_dimension(data("gaussian", 30, 4) if "on_invalid" not in wrong else np.full((30, 4), np.nan), **wrong)


def test_neighbours_that_do_not_serve_are_refused():
    x = data("gaussian", 30, 4)
    for method in (twonn_of, mle_of, lid_of):
        with pytest.raises(InvalidInputError, match=r"found\.metric must be one of .*; got 'dot'"):
            method(neighbors(x, 3, metric="dot"))
        with pytest.raises(InvalidInputError, match=r"found\.k must be at least 2; got 1"):
            method(neighbors(x, 1))
    with pytest.raises(InvalidInputError, match="at least 3"):
        intrinsic_dimension(x[:2])


def test_unused_k_is_not_read():
    x = data("gaussian", 150, 4)
    for method in ("twonn", "pca", "correlation"):
        assert intrinsic_dimension(x, method=method, k=10**6).k == (2 if method == "twonn" else None)


def test_printing_shows_every_scalar():
    found = intrinsic_dimension(data("gaussian", 60, 3), method="mle")
    assert "local" not in found.to_dict()
    assert len(str(found).splitlines()) == len(found.to_dict())
