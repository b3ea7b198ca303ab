"""What the Triton kernels promise beyond the case table, in every configuration that is tried on a GPU."""

import math
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import torch
import triton
import triton.language as tl

import geomkit
from geomkit.errors import BackendUnavailableError, InvalidInputError
from geomkit.kernels import Backend, load, module
from geomkit.kernels import triton_counts as counting
from geomkit.kernels import triton_nearest as finding
from geomkit.kernels import triton_tiles as tiling
from geomkit.pairwise.candidates import Nearest
from tests.kernels.case import DEVICE

TRITON = Backend.TRITON
KERNELS = counting.KERNELS | finding.KERNELS
SMALL = [
    tiling._configuration(16, 16, 16, 4, 2, 1, 1, descriptors=False),
    tiling._configuration(16, 32, 32, 4, 2, 1, 2, descriptors=False),
    tiling._configuration(16, 64, 16, 4, 2, 1, 4, descriptors=True),
    tiling._configuration(32, 32, 16, 4, 2, 1, 1, descriptors=True),
]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def said(configuration):
    sizes = configuration.kwargs
    return "x".join(str(sizes[f"BLOCK_{side}"]) for side in "MNK") + "-" * sizes["DESCRIPTORS"]


@pytest.fixture
def configured(monkeypatch):
    """Make the kernels use one configuration."""

    def use(configuration):
        monkeypatch.setattr(tiling, "configurations", lambda *_, **__: (configuration,))
        for kernel in KERNELS.values():
            monkeypatch.setattr(kernel, "cache", {})

    return use


def rows_of(rng, n, d, dtype):
    """Rows of small multiples of 1/8, whose products and sums are exact, padded as scores are."""
    x = torch.from_numpy(rng.integers(-4, 5, (n, d)) / 8.0)
    return torch.nn.functional.pad(x, (0, -d % module(TRITON).COLUMNS)).to(DEVICE, dtype)


def pairs_of(a, b, diagonal):
    values = (a.double() @ b.double().T).cpu().numpy()
    return values, np.triu(np.ones(values.shape, bool), 1) if diagonal else np.ones(values.shape, bool)


def zeros(shape, dtype=torch.float64):
    return torch.zeros(shape, dtype=dtype, device=DEVICE)


def check_all_kernels(a, b, diagonal):
    """Every kernel against the same pairs in float64; everything is exact."""
    tile = module(TRITON).Product(a, b)
    values, seen = pairs_of(a, b, diagonal)
    counts = zeros((4, 65536), torch.int64)
    load("count", TRITON)(tile, diagonal, counts)
    patterns = values[seen].astype(np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)
    assert np.array_equal(counts.cpu().numpy().sum(axis=0), np.bincount(patterns, minlength=65536))

    counts, sums, extremes = zeros((4, 65536), torch.int64), zeros(4), zeros(2)
    extremes[0], extremes[1] = math.inf, -math.inf
    load("tally", TRITON)(tile, diagonal, 0.25, counts, sums, extremes)
    off = values[seen] - 0.25
    bits = off.astype(np.float32).view(np.uint32).astype(np.int64)
    assert np.array_equal(counts.cpu().numpy().sum(axis=0), np.bincount((bits + 0x8000) >> 16, minlength=65536))
    for power, found in enumerate(sums.tolist(), 1):
        assert abs(found - np.sum(off**power)) <= 1e-5 * np.sum(np.abs(off) ** power)
    assert extremes.tolist() == [values[seen].min(initial=math.inf), values[seen].max(initial=-math.inf)]

    rows = zeros((2, len(a)))
    rows[0], rows[1] = math.inf, -math.inf
    cols = rows if diagonal else zeros((2, len(b)))
    cols[0], cols[1] = math.inf, -math.inf
    load("row_extremes", TRITON)(tile, diagonal, rows, cols)
    both = seen | seen.T if diagonal else seen
    for state, axis in ((rows, 1), (cols, 0)):
        low = np.where(both, values, math.inf).min(axis=axis)
        high = np.where(both, values, -math.inf).max(axis=axis)
        assert np.array_equal(state.cpu().numpy(), [low, high])

    threshold = float(np.quantile(values, 0.9))
    found = load("above", TRITON)(tile, diagonal, threshold).cpu().numpy()
    assert np.array_equal(found[:, np.lexsort(found[::-1])], np.stack(np.nonzero(seen & (values >= threshold))))


@pytest.mark.parametrize("configuration", SMALL, ids=said)
def test_every_block_edge(configured, configuration):
    """Rows, columns and coordinates just below, at and just above multiples of every side of a block."""
    configured(configuration)
    m, n, k = (configuration.kwargs[f"BLOCK_{side}"] for side in "MNK")
    rng = np.random.default_rng(m + n + k)
    sizes = [(1, 2, 1), (m - 1, n + 1, k), (m, n, k - 1), (m + 1, n - 1, k + 1), (2 * m + 1, 2 * n, 2 * k + 1)]
    for at, (rows, cols, d) in enumerate(sizes):
        dtype = DTYPES[at % 3]
        a = rows_of(rng, rows, d, dtype)
        check_all_kernels(a, rows_of(rng, cols, d, dtype), diagonal=False)
        both = rows_of(rng, cols, d, dtype)
        check_all_kernels(both, both, diagonal=True)


@pytest.mark.parametrize("configuration", tiling._EVERYTHING, ids=said)
def test_every_configuration_that_is_tried(configured, configuration):
    configured(configuration)
    n = configuration.kwargs["BLOCK_N"]
    rng = np.random.default_rng(n)
    a = rows_of(rng, n + 1, configuration.kwargs["BLOCK_K"] + 1, torch.float16)
    check_all_kernels(a, a, diagonal=True)


@triton.jit
def _visit_kernel(visits_ptr, rows, cols, DIAGONAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    tiles = tiling.tiles_of(rows, cols, DIAGONAL, BLOCK_M, BLOCK_N)
    for t in range(tl.program_id(0), tiles, tl.num_programs(0)):
        i0, j0, wanted = tiling.place(t, rows, cols, DIAGONAL, BLOCK_M, BLOCK_N)
        if wanted:
            tl.atomic_add(visits_ptr + (i0 // BLOCK_M) * tl.cdiv(cols, BLOCK_N) + j0 // BLOCK_N, 1)


@pytest.mark.parametrize(
    ("rows", "cols", "blocks"),
    [
        (1, 1, (16, 16)),
        (129, 129, (16, 16)),
        (257, 257, (16, 32)),
        (300, 300, (16, 64)),
        (272, 272, (16, 16)),
        (40, 300, (16, 16)),
        (300, 40, (16, 32)),
        (129, 130, (16, 64)),
        (16, 128, (16, 16)),
        (17, 129, (16, 16)),
    ],
)
def test_the_schedule_takes_every_tile_once(rows, cols, blocks):
    m, n = blocks
    for diagonal in {False, rows == cols}:
        grid = -(-rows // m), -(-cols // n)
        visits = zeros(grid, torch.int32)
        _visit_kernel[(3,)](visits, rows, cols, DIAGONAL=diagonal, BLOCK_M=m, BLOCK_N=n)
        i, j = np.indices(grid)
        wanted = np.minimum((j + 1) * n, cols) - 1 > i * m if diagonal else np.ones(grid, bool)
        found = visits.cpu().numpy()
        # Beyond the last column a tile may reach over the diagonal with nothing in it.
        assert np.array_equal(found[wanted], np.ones(wanted.sum()))
        assert found.max() == 1
        assert (found[~wanted] > 0).sum() <= grid[0]


@triton.jit
def _root_kernel(numbers_ptr, SIZE: tl.constexpr):
    at = numbers_ptr + tl.arange(0, SIZE)
    tl.store(at, tiling.triangular_root(tl.load(at)))


def test_triangular_roots_on_either_side_of_every_step():
    q = np.arange(2048, dtype=np.int32)
    starts = q * (q + 1) // 2
    for numbers, want in ((starts, q), (starts[1:] - 1, q[:-1]), (starts + q // 2, q)):
        given = torch.zeros(2048, dtype=torch.int32)
        given[: len(numbers)] = torch.from_numpy(numbers)
        found = given.to(DEVICE)
        _root_kernel[(1,)](found, SIZE=2048)
        assert np.array_equal(found.cpu().numpy()[: len(want)], want)


@pytest.mark.parametrize("cut", [200, 90, 20])
def test_every_pair_is_offered_once_to_either_row(configured, cut):
    """In all the launches between which floors rise: here nothing is ever beaten."""
    configured(SMALL[0])
    n = 200
    rows = torch.nn.functional.pad(torch.arange(1, n + 1).to(torch.float32)[:, None] / n, (0, 15)).to(DEVICE)
    nearest = Nearest(TRITON, n, n - 1, "float32", DEVICE)
    parts = [slice(0, cut), slice(cut, n)] if cut < n else [slice(0, n)]
    for i, j in [(part, part) for part in parts] + [tuple(parts)] * (len(parts) - 1):
        nearest.update(module(TRITON).Product(rows[i], rows[j]), i, j)
    _, ids, _ = nearest.candidates()
    assert ids.shape == (n, n - 1)
    assert np.array_equal(np.sort(ids, axis=1), [np.delete(np.arange(n), row) for row in range(n)])


def test_counts_round_to_the_nearest_with_ties_to_even():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((30, 40)).astype(np.float32)
    values[0, :4] = 1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 2.0**-8, 1 + 2.0**-8 + 2.0**-20
    counts = zeros((4, 65536), torch.int64)
    left = torch.nn.functional.pad(torch.from_numpy(values), (0, 8)).to(DEVICE)
    right = torch.nn.functional.pad(torch.eye(40), (0, 8)).to(DEVICE)
    load("count", TRITON)(module(TRITON).Product(left, right), False, counts)
    want = np.bincount(values.ravel().astype(ml_dtypes.bfloat16).view(np.uint16), minlength=65536)
    assert np.array_equal(counts.cpu().numpy().sum(axis=0), want)


@pytest.mark.parametrize("largest", [0.0, 1e-38, 1e-3, 1.0, 3.0, 1e30, 3.4e38, math.inf])
def test_the_window_ends_at_the_largest_magnitude_and_leaves_out_what_stands_for_no_pair(largest):
    least = int(counting.least_of_window(torch.tensor(largest)))
    half = counting.HALF.value
    assert 0 <= least <= 0x7F80 - half
    assert least + half <= counting.UNSEEN.value
    pattern = int(np.float32(min(largest, 3.3e38)).view(np.uint32)) >> 16
    assert least <= pattern + 1 < least + half
    if half < pattern < 0x7F70:
        assert least + half - pattern <= 4


def test_what_lies_outside_the_window_is_counted_all_the_same(configured):
    configured(SMALL[1])
    rng = np.random.default_rng(1)
    magnitudes = np.exp2(rng.uniform(-120, 120, (20, 33)))
    values = (magnitudes * rng.choice([-1, 1], magnitudes.shape)).astype(ml_dtypes.bfloat16).astype(np.float64)
    values[:, ::5] = 0
    left = torch.nn.functional.pad(torch.from_numpy(values), (0, 15)).to(DEVICE, torch.bfloat16)
    right = torch.nn.functional.pad(torch.eye(33), (0, 15)).to(DEVICE, torch.bfloat16)
    counts = zeros((4, 65536), torch.int64)
    load("count", TRITON)(module(TRITON).Product(left, right), False, counts)
    want = np.bincount(values.ravel().astype(ml_dtypes.bfloat16).view(np.uint16), minlength=65536)
    found = counts.cpu().numpy().sum(axis=0)
    assert np.array_equal(found, want)
    assert found[0] == values[:, ::5].size


def test_more_pairs_above_a_threshold_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(finding, "_FIRST_ROOM", 16)
    rng = np.random.default_rng(2)
    a = rows_of(rng, 20, 16, torch.float32)
    found = load("above", TRITON)(module(TRITON).Product(a, a), True, -100.0).cpu().numpy()
    assert np.array_equal(found[:, np.lexsort(found[::-1])], np.stack(np.triu_indices(20, 1)))


@pytest.mark.parametrize("order", ["random", "the nearest last", "the nearest first"])
def test_lists_that_run_over_remember_what_they_left_out(configured, monkeypatch, order):
    configured(SMALL[0])
    monkeypatch.setattr(finding, "LEAST_PLACES", 12)
    n, keep, rng = 100, 2, np.random.default_rng(3)
    # One coordinate each: products that grow with the number of a row.
    size = {"random": rng.permutation(n), "the nearest last": np.arange(n), "the nearest first": np.arange(n)[::-1]}
    x = np.zeros((n, 16))
    x[:, 0] = (size[order] + 1) / 128
    rows = torch.from_numpy(x).to(DEVICE, torch.float32)
    nearest = Nearest(TRITON, n, keep, "float32", DEVICE)
    blocks = [slice(0, 60), slice(60, n)]
    for i, j in ((blocks[0], blocks[0]), (blocks[1], blocks[1]), (blocks[0], blocks[1])):
        nearest.update(module(TRITON).Product(rows[i], rows[j]), i, j)
    values, ids, beaten = nearest.candidates()
    products = x[:, :1] @ x[:, :1].T
    for row in range(n):
        kept = ids[row][ids[row] >= 0]
        assert len(set(kept)) == len(kept)
        assert row not in kept
        assert np.allclose(values[row][ids[row] >= 0], products[row, kept])
        rest = np.setdiff1d(np.arange(n), [*kept, row])
        assert products[row, rest].max(initial=-math.inf) <= beaten[row] + 1e-6


def test_configurations_for_chips():
    sixteen = tiling.configurations("16 bits", 90, light=False)
    assert all(each.kwargs["DESCRIPTORS"] for each in sixteen)
    assert tiling.configurations("16 bits", 100, light=False) == sixteen
    assert not any(each.kwargs["DESCRIPTORS"] for each in tiling.configurations("16 bits", 89, light=True))
    assert tiling.configurations("ieee", 90, light=True)[0] in tiling.configurations("ieee", 80, light=False)
    assert len(tiling.configurations("16 bits", 90, light=True)) > len(sixteen)
    for each in tiling._EVERYTHING:
        assert each.kwargs["BLOCK_N"] % each.kwargs["BLOCK_M"] == 0
        assert tiling.WIDEST % each.kwargs["BLOCK_N"] == 0


def without_a_gpu(code):
    """What a process says on stderr, and its exit code, that has neither Triton's interpreter nor a GPU."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    hidden = "import torch; torch.cuda.is_available = lambda: False\n"
    done = subprocess.run(
        [sys.executable, "-c", hidden + code], env=environment, capture_output=True, text=True, check=False
    )
    return done.stderr.strip().splitlines(), done.returncode


MISSING = (
    "backend 'triton' needs an NVIDIA GPU that torch can use{built}; here run ['reference', 'cpu', 'torch']"
).format(built="" if torch.version.cuda else f"; torch {torch.__version__} was built without CUDA")


def test_without_a_gpu_it_says_what_is_missing_and_what_can_run():
    said, code = without_a_gpu("import numpy, geomkit; geomkit.cosine_stats(numpy.eye(3), backend='triton')")
    assert code == 1
    assert said[-1] == f"geomkit.errors.BackendUnavailableError: {MISSING}"


def test_on_the_command_line_that_is_one_line(tmp_path):
    np.save(tmp_path / "x.npy", np.eye(3))
    arguments = ["geomkit", "cosine", str(tmp_path / "x.npy"), "--backend", "triton"]
    said, code = without_a_gpu(f"import sys; sys.argv = {arguments!r}; from geomkit.cli import main; main()")
    assert code == 2
    assert len(said) == 1
    assert MISSING in said[0]


@pytest.mark.parametrize("measure", ["moments", "concentration", "cosine_similarity"])
def test_what_it_has_no_kernels_for_it_refuses(measure):
    with pytest.raises(BackendUnavailableError, match=r"^backend 'triton' has kernels for .* alone; for this"):
        getattr(geomkit, measure)(np.eye(3), backend="triton")


def test_precisions_are_those_of_the_backend():
    x = np.eye(3)
    with pytest.raises(InvalidInputError, match=r"^precision must be one of .*'tf32'.*; got 'float64'$"):
        geomkit.cosine_stats(x, backend="triton", precision="float64")
    for precision in ("float16", "tf32"):
        with pytest.raises(InvalidInputError, match=r"^precision must be one of .*'float64'\]; got"):
            geomkit.cosine_stats(x, precision=precision)
