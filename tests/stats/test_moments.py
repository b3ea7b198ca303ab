import math
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse
import torch

from geomkit.covariance import batches, gram
from geomkit.kernels import Backend
from geomkit.stats.moments import Moments, moments
from tests.bounds import assert_within, gamma
from tests.stats.oracle import DATA, data
from tests.stats.pairs_oracle import TALL, WIDE, Pairs, U, check, forms, oracles, sparse_rows

ROOT = Path(__file__).parents[2]
BACKENDS = [backend.value for backend in Backend if backend is not Backend.TRITON]


@pytest.mark.parametrize("shape", [TALL, WIDE], ids=["tall", "wide"])
@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_brute_force(backend, name, shape):
    x = data(name, *shape)
    found = moments(x, backend=backend, standard_errors=True)
    assert (found.backend, found.side) == (backend, "columns" if shape is TALL else "rows")
    check(found, x, variance_se=True)
    check(moments(x, backend=backend), x)


FORMATS = {
    "float16": lambda x: x.astype(np.float16),
    "bfloat16": lambda x: torch.from_numpy(x).to(torch.bfloat16),
    "float64": lambda x: x.astype(np.float64) * (1 + 1e-9),
    "int16": lambda x: (x * 100).astype(np.int16),
    "uint8": lambda x: (np.abs(x) * 20 + 1).astype(np.uint8),
    "lists": lambda x: x.tolist(),
    "Fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=1)[::-1, ::2],
    "read-only": lambda x: np.frombuffer(x.tobytes(), np.float32).reshape(x.shape),
    "ml_dtypes": lambda x: x.astype(ml_dtypes.bfloat16),
    "torch": torch.from_numpy,
    "torch-strided": lambda x: torch.from_numpy(np.ascontiguousarray(x.T)).T,
    "torch-grad": lambda x: torch.from_numpy(x).requires_grad_(),
}


def as_numbers(x):
    if isinstance(x, torch.Tensor):
        return x.detach().to(torch.float64).numpy()
    return np.asarray(x).astype(np.float64)


@pytest.mark.parametrize("shape", [(60, 12), (12, 60)], ids=["tall", "wide"])
@pytest.mark.parametrize("name", FORMATS)
def test_reads_rows_where_they_lie(name, shape):
    x = FORMATS[name](data("gaussian", *shape))
    check(moments(x), as_numbers(x))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("far", [0.0, 30.0])
@pytest.mark.parametrize("shape", [TALL, WIDE], ids=["tall", "wide"])
def test_sparse_rows(shape, far, backend):
    x = sparse_rows(*shape, far=far)
    for kind in (scipy.sparse.csr_array, scipy.sparse.coo_matrix):
        check(moments(kind(x), backend=backend, standard_errors=True), x, sparse=True, variance_se=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["sparse", "dense"])
@pytest.mark.parametrize("variance_se", [True, False])
def test_rows_wider_than_the_limit(variance_se, kind, backend, monkeypatch):
    """More rows than columns, and still too many columns for d × d: tiles of several blocks."""
    monkeypatch.setattr("geomkit.covariance.accumulate.WIDEST", 10)
    monkeypatch.setattr(gram, "TILE_ROWS", 40)
    x = sparse_rows(*TALL)
    found = moments(scipy.sparse.csr_array(x) if kind == "sparse" else x, backend=backend, standard_errors=variance_se)
    by_columns = kind == "sparse" and backend == "cpu" and not variance_se
    assert found.side == ("columns" if by_columns else "rows")
    check(found, x, sparse=True, variance_se=variance_se)


def test_memory_maps(tmp_path):
    x = data("clustered", *TALL)
    np.save(tmp_path / "x.npy", x)
    check(moments(np.load(tmp_path / "x.npy", mmap_mode="r")), x)


@pytest.mark.parametrize("shape", [TALL, WIDE], ids=["tall", "wide"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_far_from_the_origin(backend, shape):
    """A translation by a million costs no digit: the bound knows nothing of it."""
    x = np.random.default_rng(0).integers(-50, 50, shape) / 64
    here, there = moments(x, backend=backend), moments(x + 1e6, backend=backend)
    plain = Pairs(x.astype(np.longdouble))
    for found in (here, there):
        assert_within(found.squared_distance_mean, plain.mean, plain.mean_bound)
        assert_within(found.squared_distance_variance, plain.variance, plain.variance_bound)
        assert_within(found.squared_distance_mean_se, plain.mean_se(), plain.mean_se_bound())
    # Unit rows, within 1e-6 of one another, are known to u: no closer, and no worse.
    check(there, x + 1e6)


def test_directions_all_but_equal():
    x = 1 + 1e-6 * np.random.default_rng(0).standard_normal((200, 30))
    found = moments(x)
    assert 1e-13 < 1 - found.cosine_mean < 1e-11
    unit = oracles(x)[1]
    assert unit.variance_bound < 1e-6 * unit.variance
    check(found, x)


@pytest.mark.parametrize("shape", [(60, 12), (12, 60)], ids=["tall", "wide"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [("float32", 1e30), ("float32", 1e-30), ("float64", 2.0**250), ("float64", 2.0**-250), ("float64", 2.0**1010)],
)
def test_scales(dtype, scale, backend, shape):
    x = (data("gaussian", *shape).astype(np.float64) * scale).astype(dtype)
    found, back = moments(x, backend=backend), x.astype(np.float64) / scale
    plain, unit = oracles(back)
    assert_within(found.cosine_mean, 1 - unit.mean / 2, unit.mean_bound)
    assert_within(found.cosine_variance, unit.variance / 4, unit.variance_bound)
    relative = 2 * plain.variance_bound / plain.mean**2
    assert_within(found.squared_distance_relative_variance, plain.variance / plain.mean**2, relative)
    if scale > 1e300:
        assert found.squared_distance_mean == found.squared_distance_variance == math.inf
        return
    assert_within(found.squared_distance_mean / scale / scale, plain.mean, 2 * plain.mean_bound)
    variance = math.sqrt(found.squared_distance_variance) / scale / scale
    assert_within(variance, math.sqrt(plain.variance), 2 * plain.variance_bound / math.sqrt(plain.variance))


def test_rows_of_scales_far_apart():
    x = data("gaussian", 60, 12).astype(np.float64)
    scaled = x * np.exp2(np.random.default_rng(1).integers(-1000, 1000, 60))[:, None]
    found, unit = moments(scaled), oracles(x)[1]
    assert_within(found.cosine_mean, 1 - unit.mean / 2, unit.mean_bound)
    assert_within(found.cosine_variance, unit.variance / 4, unit.variance_bound)


@pytest.mark.parametrize("shape", [(40, 7), (7, 40)], ids=["tall", "wide"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_rows(backend, shape):
    found = moments(np.tile(np.random.default_rng(0).standard_normal(shape[1]) + 1e5, (shape[0], 1)), backend=backend)
    assert found.cosine_mean == 1
    assert found.cosine_variance == found.squared_distance_mean == found.squared_distance_variance == 0
    assert found.cosine_mean_se == found.squared_distance_mean_se == 0
    assert math.isnan(found.squared_distance_relative_variance)


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_rows(backend):
    for d in (1, 2, 5):
        x = np.array([[3.0] + [0.0] * (d - 1), [4.0] + [0.0] * (d - 1)])
        found = moments(x, backend=backend, standard_errors=True)
        assert (found.cosine_mean, found.cosine_variance, found.squared_distance_variance) == (1, 0, 0)
        assert found.squared_distance_mean == 1
        assert found.squared_distance_relative_variance == 0
        assert math.isnan(found.cosine_mean_se)
        assert math.isnan(found.squared_distance_mean_se)
        assert math.isnan(found.cosine_variance_se)


@pytest.mark.parametrize("seed", range(20))
def test_opposite_rows_stay_in_range(seed):
    row = np.random.default_rng(seed).standard_normal(7)
    assert -1 <= moments([row, -3 * row]).cosine_mean < -1 + 16 * U


def test_closed_forms():
    """The corners of a regular simplex: all pairs equal; and a cross: cosines of 0 and -1."""
    found = moments(np.eye(30))
    assert_within([found.cosine_mean, found.squared_distance_mean], [0, 2], 64 * U)
    assert_within([found.cosine_variance, found.squared_distance_variance], 0, 64 * gamma(100, "float64"))
    n = 20
    found = moments(np.concatenate([np.eye(n // 2), -np.eye(n // 2)]))
    opposite = 1 / (n - 1)
    assert_within(found.cosine_mean, -opposite, 64 * U)
    assert_within(found.cosine_variance, opposite - opposite**2, 64 * gamma(100, "float64"))


@pytest.mark.parametrize("name", DATA)
def test_permutation_and_rotation(name):
    x = data(name, 90, 11).astype(np.float64)
    rng = np.random.default_rng(4)
    turn = np.linalg.qr(rng.standard_normal((11, 11)))[0]
    for other in (x[rng.permutation(90)], x @ turn):
        check(moments(other), other)
    plain, unit = oracles(x)
    a, b = moments(x), moments(x[rng.permutation(90)])
    assert_within(a.squared_distance_variance, b.squared_distance_variance, 2 * plain.variance_bound)
    assert_within(a.cosine_variance, b.cosine_variance, unit.variance_bound)


def jackknife(squared, statistic):
    """Standard error over rows of a statistic of the pairs, by leaving out each row."""
    n = len(squared)
    without = []
    for i in range(n):
        kept = np.delete(np.delete(squared, i, 0), i, 1)
        without.append(statistic(kept.sum() / ((n - 1) * (n - 2)), (kept**2).sum() / ((n - 1) * (n - 2))))
    return math.sqrt((n - 1) / n * np.sum((np.array(without) - np.mean(without)) ** 2))


@pytest.mark.parametrize("shape", [(400, 12), (300, 320)], ids=["tall", "wide"])
@pytest.mark.parametrize("name", ["gaussian", "clustered", "anisotropic"])
def test_standard_errors_agree_with_the_jackknife(name, shape):
    x = data(name, *shape)
    found = moments(x, standard_errors=True)
    for rows, names, scale in (
        (forms(x)[0], ("squared_distance_mean_se", "squared_distance_variance_se"), 1),
        (forms(x)[1], ("cosine_mean_se", "cosine_variance_se"), 2),
    ):
        y = (rows - rows.mean(axis=0)).astype(np.float64)
        own = (y**2).sum(axis=1)
        squared = own[:, None] + own - 2 * y @ y.T
        np.fill_diagonal(squared, 0)
        mean, variance = jackknife(squared, lambda m, _: m), jackknife(squared, lambda m, q: q - m * m)
        assert_within(getattr(found, names[0]), mean / scale, 0.01 * mean / scale)
        assert_within(getattr(found, names[1]), variance / scale**2, 0.05 * variance / scale**2)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("shape", [TALL, WIDE], ids=["tall", "wide"])
def test_threads_and_blocks_change_nothing_but_rounding(shape, threads, monkeypatch):
    monkeypatch.setattr(batches, "BLOCK_ROWS", 7)
    monkeypatch.setattr(batches, "BLOCK_ENTRIES", 1)
    monkeypatch.setattr(gram, "TILE_ROWS", 19)
    x = data("clustered", *shape)
    check(moments(x, threads=threads, standard_errors=True), x, variance_se=True)


def test_results_are_frozen_and_print():
    found = moments(data("gaussian", 30, 4), standard_errors=True)
    assert isinstance(found, Moments)
    with pytest.raises(FrozenInstanceError):
        found.n = 3
    assert "cosine_shares" not in found.to_dict()
    assert list(found.to_dict()) == [line.split()[0] for line in str(found).splitlines()]
    assert found == moments(data("gaussian", 30, 4), standard_errors=True)


MEASURE = """
import sys, numpy as np
from geomkit import moments

def resident(what):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what)) / 1024

x = np.load(sys.argv[1], mmap_mode="r")
moments(x[:5000])
open("/proc/self/clear_refs", "w").write("5")
before = resident("VmRSS")
moments(x)
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peak memory is read from /proc")
def test_memory_beyond_a_map_is_a_few_blocks(tmp_path):
    """Where one temporary of the size of the map would be twice it in float64."""
    path, shape = tmp_path / "x.npy", (250_000, 128)
    x = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    block = np.random.default_rng(0).standard_normal((2500, 128), np.float32)
    for start in range(0, len(x), len(block)):
        x[start : start + len(block)] = np.roll(block, start // len(block))
    x.flush()
    mapped = path.stat().st_size / 2**20
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert float(done.stdout) < mapped + 32
