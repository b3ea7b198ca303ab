import math
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geomkit.core.matrix import as_matrix
from geomkit.errors import InvalidInputError
from geomkit.kernels import Backend
from geomkit.pairwise.scores import COARSE, UNIT_ROUNDOFF, cosine_scores
from geomkit.stats.cosine import cosine_stats, mean_by_row, mean_cosine, stats_of
from tests.bounds import assert_between, assert_within, cosine_bound, gamma, unit
from tests.stats.oracle import (
    BACKENDS,
    DATA,
    GRID,
    SCREENS,
    SUMS,
    cosines,
    counter_reach,
    cumulative_bracket,
    data,
    force,
    quantile_bracket,
    ran,
    spread_error,
    standardised_brackets,
    summed,
    upper,
)

SHARES = np.array([0, 0.005, 0.05, 0.25, 0.5, 0.75, 0.95, 0.995, 1])
SHAPE = (220, 40)
ROOT = Path(__file__).parents[2]


def check(found, values):
    """Every figure against brute force, within what the error of a single cosine allows."""
    error, n, dtype = found.error_bound, found.n, summed(found)
    mean, std = values.mean(), values.std()
    assert found.n_pairs == len(values) == n * (n - 1) // 2
    assert found.distribution.counts.sum() == len(values)
    # The mean is a closed form in float64, whatever the precision.
    assert_within(found.mean, mean, 4 * (cosine_bound(found.d, "float64") + gamma(n, "float64")))
    assert_within([found.min, found.max], [values.min(), values.max()], error)
    assert_within(found.std, std, spread_error(values, error, dtype))
    assert_between(found.quantile(SHARES), *quantile_bracket(values, SHARES, mean, error))
    assert_within(found.mean_abs, np.abs(values).mean(), np.mean(counter_reach(values, mean, error)))
    assert_within(found.rms, math.sqrt(np.mean(values**2)), 2 * spread_error(values, error, dtype))
    for eps in (0.0, 0.05, 0.2, 0.996, 1.0):
        inside = np.sum(np.abs(values) <= eps)
        low = cumulative_bracket(values, np.array([eps, -eps]), mean, error)
        assert_between(found.within_fraction(eps) * len(values), low[0][0] - low[1][1], low[1][0] - low[0][1])
        assert low[0][0] - low[1][1] <= inside <= low[1][0] - low[0][1]
    counts, edges = found.histogram(64)
    assert_within(counts.sum(), len(values), 1e-9 * len(values))
    inner = np.cumsum(counts)[:-1]
    slack = 1e-9 * len(values)
    low, high = cumulative_bracket(values, edges[1:-1], mean, error)
    assert_between(inner, low - slack, high + slack)


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize(("backend", "precision", "product"), SCREENS)
def test_matches_brute_force(monkeypatch, backend, precision, product, name):
    force(monkeypatch, product)
    x = data(name, *SHAPE)
    found = cosine_stats(x, backend=backend, precision=precision)
    assert (found.n, found.d) == SHAPE
    assert (found.backend, found.precision) == (backend, ran(backend, precision))
    library = backend if backend in {"torch", "triton"} else product or "numpy"
    assert found.matmul == library + (" in float32" if precision == "bfloat16" and library == "numpy" else "")
    check(found, cosines(x))


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize(("backend", "precision", "product"), SCREENS)
def test_the_error_bound_is_worth_its_name(monkeypatch, backend, precision, product, name):
    """Near that of two rounded unit rows for data without a direction, and far below it for data with one."""
    force(monkeypatch, product)
    found = cosine_stats(data(name, *SHAPE), backend=backend, precision=precision)
    u = UNIT_ROUNDOFF[found.precision]
    rows = 2 * u + u * u if precision in COARSE else cosine_bound(SHAPE[1], found.precision)
    if precision == "tf32":
        # Rows of float32 are rounded again by the product.
        rows += 2 * unit("float32")
    # What float64 loses before the product hardly shows in lower precision.
    assert found.error_bound < (0.05 if name == "anisotropic" else 1.5) * rows + 1e-13
    assert found.error_bound > 2.0**-53


@pytest.mark.parametrize("name", ["gaussian", "clustered", "anisotropic"])
@pytest.mark.parametrize(("backend", "precision", "product"), SCREENS)
def test_shape_of_the_distribution(monkeypatch, backend, precision, product, name):
    force(monkeypatch, product)
    x = data(name, *SHAPE)
    found = cosine_stats(x, backend=backend, precision=precision)
    skewness, kurtosis = standardised_brackets(cosines(x), found.error_bound, summed(found))
    assert_between(found.skewness, *skewness)
    assert_between(found.kurtosis, *kurtosis)


def test_anisotropic_data_are_as_the_design_says():
    values = cosines(data("anisotropic", *SHAPE))
    assert 0.995 < values.mean() < 0.997
    assert 0.001 < values.std() < 0.003


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize(("backend", "precision"), GRID)
def test_sparse_rows_match_brute_force(backend, precision, name):
    x = data(name, *SHAPE) * (np.random.default_rng(2).random(SHAPE) < 0.3)
    x[:, 0] += 1
    found = cosine_stats(scipy.sparse.csr_array(x), backend=backend, precision=precision)
    check(found, cosines(x))
    assert found.matmul == ("numba" if backend == "cpu" else {"torch": "torch", "reference": "numpy"}[backend])


@pytest.mark.parametrize("n", [2, 3, 31, 32, 33, 65])
@pytest.mark.parametrize("size", [1, 16, 32, 64])
def test_answers_ignore_tiles(n, size):
    x = data("gaussian", n, 9)
    scores = cosine_scores(as_matrix(x), Backend.CPU, "float32", "raise")
    check(stats_of(scores, size=size, threads=2), cosines(x))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_answers_ignore_threads(threads):
    x = data("clustered", 2000, 16)
    found = cosine_stats(x, threads=threads)
    assert found.n_pairs == found.distribution.counts.sum()
    check(found, cosines(x))


def converted(kind, x):
    whole = np.round(x * 8)
    whole[:, 0] = 9
    return {
        "float16": lambda: x.astype(np.float16),
        "bfloat16": lambda: x.astype(ml_dtypes.bfloat16),
        "torch bfloat16": lambda: torch.from_numpy(x).to(torch.bfloat16).requires_grad_(),
        "torch float16": lambda: torch.from_numpy(x).to(torch.float16),
        "int8": lambda: whole.astype(np.int8),
        "uint8": lambda: np.abs(whole).astype(np.uint8),
        "int64": lambda: whole.astype(np.int64) * 10**9,
        "torch int32": lambda: torch.from_numpy(whole).to(torch.int32),
        "swapped": lambda: x.astype(">f4"),
        "float64": lambda: x.astype(np.float64) + 1e-9,
        "Fortran": lambda: np.asfortranarray(x),
        "strided": lambda: np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3],
    }[kind]()


@pytest.mark.parametrize(
    "kind",
    [
        "float16",
        "bfloat16",
        "torch bfloat16",
        "torch float16",
        "int8",
        "uint8",
        "int64",
        "torch int32",
        "swapped",
        "float64",
        "Fortran",
        "strided",
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_storage_of_every_kind(backend, kind):
    x = converted(kind, data("gaussian", 60, 20))
    plain = x.detach().to(torch.float64).numpy() if isinstance(x, torch.Tensor) else x.astype(np.float64)
    check(cosine_stats(x, backend=backend), cosines(plain))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("shape", [(40, 7), (9, 60), (2, 1), (2, 3), (30, 30)])
@pytest.mark.parametrize("backend", list(Backend))
def test_mean_cosine_and_each_rows_share_of_it(backend, shape, sparse):
    mask = np.random.default_rng(0).random(shape) < (0.4 if sparse else 1)
    for x in (data("gaussian", *shape) * mask, (data("clustered", *shape) + 2) * mask):
        x[:, 0] += 1
        scores = cosine_scores(as_matrix(scipy.sparse.csr_array(x) if sparse else x), backend, "float32", "raise")
        u = x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
        cosine = u @ u.T
        np.fill_diagonal(cosine, 0)
        # Sums of n terms of size 1, divided by n: the error stays near that of one cosine in float64.
        bound = 4 * (sum(shape) + 10) * 2.0**-53
        assert_within(mean_cosine(scores), upper(cosine).mean(), bound)
        assert_within(mean_by_row(scores), cosine.sum(axis=1) / (shape[0] - 1), bound)


def test_standard_error_is_over_rows():
    x = data("clustered", 400, 20)
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    c = u.astype(np.float64) @ u.T
    total = (c.sum() - np.trace(c)) / 2
    without = (total - (c.sum(axis=1) - np.diag(c))) / (399 * 398 / 2)
    jackknife = math.sqrt(399 / 400 * np.sum((without - without.mean()) ** 2))
    assert_within(cosine_stats(x).mean_se, jackknife, 0.02 * jackknife)


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_rows(backend):
    found = cosine_stats([[1.0, 0.0], [3.0, 4.0]], backend=backend)
    assert math.isnan(found.mean_se)
    assert math.isnan(found.skewness)
    assert math.isnan(found.kurtosis)
    assert found.n_pairs == 1
    assert_within([found.mean, found.min, found.max, found.quantile(0.5)], 0.6, found.error_bound)
    assert_within(found.std, 0, found.error_bound)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_coordinate(backend):
    found = cosine_stats([[2.0], [-3.0], [1e-30]], backend=backend)
    assert (found.min, found.max) == (-1, 1)
    assert_within(found.mean, -1 / 3, 1e-15)
    assert_within(found.within_fraction(0.5), 0, 0)
    two = cosine_stats([[2.0], [-3.0]], backend=backend)
    assert (two.mean, two.min, two.max, two.n_pairs) == (-1, -1, -1, 1)


@pytest.mark.parametrize("d", [3, 50, 333])
@pytest.mark.parametrize(("backend", "precision"), GRID)
def test_identical_rows_lose_no_pair_and_stay_in_range(backend, precision, d):
    row = np.random.default_rng(d).standard_normal(d).astype(np.float32)
    found = cosine_stats(np.tile(row, (70, 1)), backend=backend, precision=precision)
    counts, _ = found.histogram(50)
    assert_within(counts.sum(), 70 * 69 / 2, 1e-9)
    assert_within(counts[-1], counts.sum(), 1e-9)
    assert 1 - found.error_bound <= found.min <= found.max <= 1
    assert_within([found.mean, found.quantile(0.3)], 1, found.error_bound)
    assert found.mean <= 1
    assert found.std <= found.error_bound
    assert found.within_fraction(1.0) == 1


def test_a_cosine_just_above_one_is_kept():
    scores = cosine_scores(as_matrix(np.ones((4, 3))), Backend.CPU, "float32", "raise")
    left, _ = scores.resident
    left[:, -2] += np.float32(4e-7)
    found = stats_of(scores)
    assert found.distribution.moments[0] > 2e-7
    assert found.distribution.centre <= 1.000001
    assert (found.max, found.histogram(20)[0].sum()) == (1, 6)


matrices = st.integers(0, 2**32 - 1).map(lambda seed: data("gaussian", 40, 12, seed=seed))


def figures(found):
    return [found.mean, found.min, found.max, found.std, found.mean_abs, found.mean_se]


def allowance(found):
    """Twice the error of a cosine, with what counters and sums add to the mean magnitude and the spread."""
    slack = 2 * found.error_bound + 2 * gamma(SUMS, found.precision) + 1e-6
    return [slack, slack, slack, slack, 2**-8, slack]


@settings(max_examples=12, deadline=None)
@given(matrices, st.randoms(use_true_random=False))
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_order_of_rows_does_not_matter(backend, x, random):
    order = list(range(len(x)))
    random.shuffle(order)
    first, second = cosine_stats(x, backend=backend), cosine_stats(x[order], backend=backend)
    assert_within(figures(second), figures(first), allowance(first))


@settings(max_examples=12, deadline=None)
@given(matrices, st.sampled_from([2.0**-100, 2.0**-70, 3.0, 1e-30, 1e30]))
@pytest.mark.parametrize("backend", BACKENDS)
def test_length_does_not_matter(backend, x, factor):
    first = cosine_stats(x, backend=backend)
    scaled = x * np.float32(factor)
    each = x.astype(np.float64) * np.geomspace(1e-300, 1e290, len(x))[:, None]
    for other in (scaled, each):
        assert_within(figures(cosine_stats(other, backend=backend)), figures(first), allowance(first))


@settings(max_examples=12, deadline=None)
@given(matrices)
def test_rotation_does_not_matter(x):
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((12, 12)))
    first, second = cosine_stats(x), cosine_stats(x.astype(np.float64) @ turn)
    assert_within(figures(second), figures(first), allowance(first))


@settings(max_examples=12, deadline=None)
@given(matrices)
def test_duplication_adds_pairs_at_one(x):
    n = len(x)
    first, twice = cosine_stats(x), cosine_stats(np.concatenate([x, x]))
    pairs = n * (n - 1) // 2
    assert_within(twice.mean, (4 * pairs * first.mean + n) / (2 * n * (2 * n - 1) / 2), 1e-14)
    assert_within(twice.max, 1, first.error_bound)
    assert_within(twice.min, first.min, 2 * first.error_bound)


def test_dropped_rows_are_counted_and_do_not_matter():
    x = data("gaussian", 30, 5)
    spoilt = np.insert(x, [0, 7, 30], [[math.nan] * 5, [0.0] * 5, [math.inf] * 5], axis=0)
    for backend in BACKENDS:
        for given_rows in (spoilt, torch.from_numpy(spoilt), scipy.sparse.csr_array(spoilt)):
            found = cosine_stats(given_rows, backend=backend, on_invalid="drop")
            assert (found.n, found.n_dropped) == (30, 3)
            check(found, cosines(x))
    assert cosine_stats(x, on_invalid="drop").n_dropped == 0


def test_torch_and_cpu_agree_within_their_bounds():
    x = data("clustered", 300, 64)
    cpu, other = cosine_stats(x, backend="cpu"), cosine_stats(x, backend="torch")
    assert_within(figures(other), figures(cpu), allowance(cpu))


def test_sparse_rows_are_never_made_dense_whole(monkeypatch):
    x = scipy.sparse.random_array((2000, 50_000), density=2e-3, rng=np.random.default_rng(0), format="csr")
    seen = []
    original = scipy.sparse.csr_array.toarray
    monkeypatch.setattr(scipy.sparse.csr_array, "toarray", lambda a: seen.append(a.shape[0]) or original(a))
    found = cosine_stats(x, backend="cpu")
    assert max(seen, default=0) <= 2000 * 0.25
    assert found.n_pairs == 2000 * 1999 // 2
    few = cosine_stats(x[:30], backend="reference")
    values = cosines(x[:30].toarray())
    check(few, values)
    check(cosine_stats(x[:30]), values)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sparse_rows_have_no_bfloat16(backend):
    with pytest.raises(InvalidInputError, match="precision 'bfloat16' is for dense rows; x is sparse: use 'float32'"):
        cosine_stats(scipy.sparse.csr_array(data("gaussian", 6, 3)), precision="bfloat16", backend=backend)


@pytest.mark.parametrize("eps", [-0.1, math.nan, "0.1", None])
def test_eps_must_be_a_number_of_at_least_0(eps):
    with pytest.raises(InvalidInputError, match="eps must be a number of at least 0; got"):
        cosine_stats(data("gaussian", 5, 3)).within_fraction(eps)


def test_printing_and_dict_show_every_scalar():
    found = cosine_stats(data("gaussian", 5, 3))
    scalars = found.to_dict()
    assert set(scalars) == set(found.__dataclass_fields__) - {"distribution"}
    assert scalars["mean"] == found.mean
    assert len(str(found).splitlines()) == len(scalars)
    assert "distribution" not in repr(found)


MEMORY = r"""
import re
from pathlib import Path

import numpy as np
from geomkit.stats.cosine import cosine_stats

x = np.empty((50_000, 768), np.float32)
rng = np.random.default_rng(0)
for at in range(0, 50_000, 5000):
    rng.standard_normal(dtype=np.float32, out=x[at : at + 5000])
cosine_stats(x[:1000])


def kibibytes(name):
    # Not resource.getrusage: what it says of a child process starts from the size of its parent.
    return int(re.search(name + r":\s*(\d+) kB", Path("/proc/self/status").read_text())[1])


before = kibibytes("VmRSS")
found = cosine_stats(x)
print((kibibytes("VmHWM") - before) // 1024, found.distribution.n)
"""


def test_fifty_thousand_rows_take_little_memory_beyond_themselves():
    ended = subprocess.run(
        [sys.executable, "-c", MEMORY], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    mebibytes, pairs = map(int, ended.stdout.split())
    assert pairs == 50_000 * 49_999 // 2
    assert 100 < mebibytes < 500


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("offset", [1e3, 1e4, 1e5, 1e6])
def test_the_shape_of_a_small_spread_is_right_or_not_said(offset, precision):
    x = np.random.default_rng(0).standard_normal((60, 16)) + offset
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    apart = (unit @ unit.T)[np.triu_indices(60, 1)]
    apart -= apart.mean()
    stats = cosine_stats(x, precision=precision)
    kurtosis = float((apart**4).mean() / (apart**2).mean() ** 2 - 3)
    assert np.isnan(stats.kurtosis) == (offset == 1e6 and precision == "float32")
    assert np.isnan(stats.kurtosis) or abs(stats.kurtosis - kurtosis) < 0.01


def test_equal_rows_have_no_shape():
    stats = cosine_stats(np.tile(np.arange(1.0, 9.0), (50, 1)))
    assert stats.std < stats.error_bound
    assert np.isnan([stats.skewness, stats.kurtosis]).all()
