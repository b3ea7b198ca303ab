"""Our own product of bfloat16 rows, against float64 sums of what it is given; and processors that do not have it."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import llvmlite.binding
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geomkit.kernels import cpu_bfloat16
from geomkit.kernels.cpu_bfloat16 import available, multiply
from tests.bounds import assert_within, gamma, unit
from tests.kernels.cases import layouts

here = pytest.mark.skipif(not available(), reason="needs a processor with AVX512_BF16")

NAN = 0x7FFF
"""The bit pattern of a number that is none, which whatever reads too far would read."""

LARGEST = float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)

LEAST = 2.0**-126
"""Least normal number."""


def bits(x):
    return np.asarray(x, np.float64).astype(ml_dtypes.bfloat16).view(np.uint16)


def values(patterns):
    return patterns.view(ml_dtypes.bfloat16).astype(np.float64)


def multiplied(a, b):
    out = np.full((len(a), len(b)), NAN, np.uint16)
    multiply(a, b, out)
    return out


def draw(seed, *shape):
    return bits(np.random.default_rng(seed).standard_normal(shape))


def check(a, b):
    """Hold a product to the bound that the module's docstring proves, and to one rounding of the sum."""
    got, a, b = values(multiplied(a, b)), values(a), values(b)
    terms, want, size = a.shape[1], a @ b.T, np.abs(a) @ np.abs(b.T)
    lost = LEAST * np.sum(np.maximum(np.abs(a[:, None]), np.abs(b[None])) + 1, axis=2)
    summing = gamma(terms, "float32") * (size + lost) + lost
    bound = summing + unit("bfloat16") * (np.abs(want) + summing) + gamma(terms, "float64") * size
    assert_within(got, want, bound)


def single(value):
    """Round whole numbers as float32 sums do, which hold them, and then to bfloat16: ties to even."""
    return np.asarray(value, np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)


@here
@pytest.mark.parametrize("dim", [1, 2, 3, 31, 32, 33, 257, 768])
@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (70, 1), (11, 31), (12, 32), (13, 33), (24, 64), (70, 17)])
def test_products_are_within_the_bound(shape, dim):
    check(*(draw(dim + side, rows, dim) for side, rows in enumerate(shape)))


@here
@pytest.mark.parametrize("dim", [1, 2, 3, 31, 32, 33, 257])
def test_every_number_of_rows_has_its_products(dim):
    rng = np.random.default_rng(dim)
    a, b = (rng.integers(-9, 10, (70, dim)).astype(float) for _ in range(2))
    want = single(a @ b.T)
    for rows in range(1, 71):
        other = (rows * 31) % 70 + 1
        assert np.array_equal(values(multiplied(bits(a[:rows]), bits(b[:other]))), want[:rows, :other])


@here
@pytest.mark.parametrize("dim", [1023, 1024, 1025, 2047, 2048, 2049, 2500, 4096])
@pytest.mark.parametrize("shape", [(3, 5), (25, 300)])
def test_long_rows_are_summed_block_by_block(shape, dim):
    rng = np.random.default_rng(dim)
    a, b = (rng.integers(-9, 10, (rows, dim)).astype(float) for rows in shape)
    assert np.array_equal(values(multiplied(bits(a), bits(b))), single(a @ b.T))
    check(*(draw(dim + side, rows, dim) for side, rows in enumerate((3, 40))))


@here
@pytest.mark.parametrize(("m", "n", "dim"), [(1007, 40, 5), (1009, 3, 1030), (2030, 700, 33), (13, 9000, 60)])
def test_many_rows_are_taken_block_by_block(m, n, dim):
    rng = np.random.default_rng(m)
    a, b = (rng.integers(-9, 10, (rows, dim)).astype(float) for rows in (m, n))
    assert np.array_equal(values(multiplied(bits(a), bits(b))), single(a @ b.T))


@here
@given(st.integers(1, 30), st.integers(1, 70), st.integers(1, 90), st.integers(0, 2**32 - 1))
def test_whole_numbers_have_exact_sums_rounded_once(m, n, dim, seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(-200, 201, (rows, dim)).astype(float) for rows in (m, n))
    assert np.array_equal(values(multiplied(bits(a), bits(b))), single(values(bits(a)) @ values(bits(b)).T))


@here
def test_a_sum_is_rounded_to_nearest_and_ties_to_even():
    a = np.array([[256, 1], [256, 3], [256, 1.0078125], [256, 2.984375], [-256, -1], [-256, -3], [LARGEST, 0]])
    got = values(multiplied(bits(a), bits(np.ones((1, 2)))))[:, 0]
    assert got.tolist() == [256, 260, 258, 258, -256, -260, LARGEST]
    # Beyond the largest, half a unit is rounded up to infinity, and what is less down.
    half = LARGEST * 2.0**-9
    assert values(multiplied(bits([[LARGEST, half * 1.01]]), bits([[1, 1]])))[0, 0] == np.inf
    assert values(multiplied(bits([[LARGEST, half / 2]]), bits([[1, 1]])))[0, 0] == LARGEST


@here
@pytest.mark.parametrize("layout", ["C", "Fortran", "strided", "read-only", "backwards"])
@pytest.mark.parametrize("dim", [1, 6, 51])
def test_the_layout_of_the_rows_does_not_matter(layout, dim):
    a, b = draw(1, 15, dim), draw(2, 35, dim)
    want = multiplied(a, b)
    assert np.array_equal(multiplied(layouts(a)[layout], b), want)
    assert np.array_equal(multiplied(a, layouts(b)[layout]), want)
    for out in (np.zeros((35, 15), np.uint16).T, np.zeros((15, 70), np.uint16)[:, ::2], np.zeros((30, 35), "u2")[::-2]):
        multiply(a, b, out)
        assert np.array_equal(out, want)


@here
@pytest.mark.parametrize("dim", [1, 2, 7, 30, 33, 64, 1025])
def test_nothing_outside_the_blocks_is_read_or_written(dim):
    a, b = np.full((20, dim + 40), NAN, np.uint16), np.full((50, dim + 40), NAN, np.uint16)
    a[2:15, 3 : 3 + dim], b[4:41, 5 : 5 + dim] = draw(1, 13, dim), draw(2, 37, dim)
    rows, others = a[2:15, 3 : 3 + dim], b[4:41, 5 : 5 + dim]
    whole = np.full((30, 60), NAN, np.uint16)
    multiply(rows, others, whole[6:19, 7:44])
    assert np.array_equal(whole[6:19, 7:44], multiplied(rows.copy(), others.copy()))
    assert np.isfinite(values(whole[6:19, 7:44])).all()
    whole[6:19, 7:44] = NAN
    assert np.all(whole == NAN)


EDGE = """
import ctypes, mmap
import numpy as np
from geomkit.kernels.cpu_bfloat16 import multiply

def at_the_edge(values):
    # Rows that end where a page does, before one that nobody may touch.
    size = -(-values.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    pages = mmap.mmap(-1, size + mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    assert protect(start + size, mmap.PAGESIZE, 0) == 0
    room = np.frombuffer(pages, values.dtype, values.size, size - values.nbytes).reshape(values.shape)
    room[...] = values
    return room

for m, n, d in [(1, 1, 1), (5, 7, 9), (13, 33, 31), (12, 32, 32), (11, 17, 1025)]:
    a, b, out = (at_the_edge(np.full(shape, 0x3F80, np.uint16)) for shape in ((m, d), (n, d), (m, n)))
    multiply(a, b, out)
    assert len(np.unique(out)) == 1
"""


@here
@pytest.mark.skipif(sys.platform != "linux", reason="protects a page of memory")
def test_memory_beyond_the_last_row_is_not_touched():
    subprocess.run([sys.executable, "-c", EDGE], check=True, timeout=60)


@here
def test_a_product_is_the_same_beside_any_others_and_after_any():
    a, b = draw(1, 40, 99), draw(2, 80, 99)
    whole = multiplied(a, b)
    # What an earlier product left in memory is not a number.
    for wide in (2100, 99, 98, 3):
        multiplied(np.full((13, wide), NAN, np.uint16), np.full((47, wide), NAN, np.uint16))
        assert np.array_equal(multiplied(a[7:20], b[33:66]), whole[7:20, 33:66])
    check(draw(3, 13, 1501), draw(4, 47, 1501))


@here
def test_the_same_rows_may_be_both_sides():
    a = draw(1, 45, 70)
    found = multiplied(a, a)
    assert np.array_equal(found, multiplied(a, a.copy()))
    assert np.array_equal(found, found.T)
    check(a, a)


@here
def test_zeros_and_the_signs_of_zeros_add_nothing():
    a, b = draw(1, 14, 40), draw(2, 34, 40)
    a[3], b[5], a[:, 7], b[:, 9] = 0, 0x8000, 0x8000, 0
    found = values(multiplied(a, b))
    assert np.all(found[3] == 0)
    assert np.all(found[:, 5] == 0)
    assert np.array_equal(found, values(multiplied(np.delete(a, [7, 9], axis=1), np.delete(b, [7, 9], axis=1))))


@here
def test_large_numbers_of_either_sign_cancel():
    big = 2.0**63
    a = np.array([[big, 1, -big], [big, big, big], [-big, 3, 5]])
    b = np.array([[big, 2, big], [big, -big, 0], [1, 1, 1]])
    assert np.array_equal(values(multiplied(bits(a), bits(b)))[1:, 1:], single(a @ b.T)[1:, 1:])
    assert abs(values(multiplied(bits(a), bits(b)))[0, 0]) <= 2
    check(bits(a), bits(b))


@here
def test_subnormal_numbers_lose_what_the_bound_allows():
    small = np.concatenate([np.arange(1, 64), 0x8000 + np.arange(1, 64), 0x80 + np.arange(64), [0]]).astype(np.uint16)
    rng = np.random.default_rng(1)
    a = rng.choice(small, (14, 60))
    for power in (-130, -126, -20, 0, 1, 60, 126):
        check(a, bits(rng.standard_normal((35, 60)) * 2.0**power))
    check(a, a)
    # They are taken for zeros, and so is a sum below the least normal number.
    assert values(multiplied(np.array([[0x7F]], np.uint16), bits([[1.0]])))[0, 0] == 0
    assert values(multiplied(bits([[2.0**-70]]), bits([[2.0**-60]])))[0, 0] == 0
    assert values(multiplied(bits([[2.0**-66]]), bits([[2.0**-60]])))[0, 0] == LEAST


@here
def test_threads_do_not_share_their_memory():
    sizes = [(61, 130, 257), (13, 700, 40), (200, 90, 1100), (64, 64, 64)]
    inputs = [(draw(m, m, dim), draw(n + 1, n, dim)) for m, n, dim in sizes]
    want = [multiplied(*each) for each in inputs]
    with ThreadPoolExecutor(4) as pool:
        for number, found in pool.map(lambda number: (number, multiplied(*inputs[number])), [0, 1, 2, 3] * 60):
            assert np.array_equal(found, want[number])


@here
def test_one_function_is_compiled_for_all_kinds_of_memory():
    fixed = draw(1, 3, 5)
    fixed.flags.writeable = False
    for a, b in product([fixed, fixed.copy(), fixed[:, ::2], fixed.astype(">u2").astype("u2")], repeat=2):
        if a.shape[1] == b.shape[1]:
            multiplied(a, b)
    assert len(cpu_bfloat16._gemm.signatures) == 1


CODE = """
import sys
import numpy as np
from geomkit.kernels import cpu_bfloat16, cpu_product
x, out = np.ones((2, 3), "float32"), np.empty((2, 2), "float32")
said = cpu_product.product("bfloat16", 6e9), cpu_product.storage("bfloat16", 6e9)
cpu_product.gram(x, x, out)
timed = cpu_product.OWN in cpu_product._names("bfloat16")
print(cpu_bfloat16.available(), timed, *said, out.sum(), "torch" in sys.modules, sep=",")
"""


def features(*, without):
    """Features of this processor in LLVM's words, less those that begin with some word."""
    had = llvmlite.binding.get_host_cpu_features()
    return ",".join(f"{'-' if name.startswith(without) or not has else '+'}{name}" for name, has in had.items())


SETTINGS = {
    "without bfloat16": {"NUMBA_CPU_FEATURES": features(without="avx512bf16")},
    "without AVX-512": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": features(without="avx512")},
    "generic": {"NUMBA_CPU_NAME": "generic"},
    "AVX turned off": {"NUMBA_ENABLE_AVX": "0"},
    "interpreted": {"NUMBA_DISABLE_JIT": "1"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_processor_without_the_instructions_is_not_given_them(name):
    env = {each: value for each, value in os.environ.items() if not each.startswith("NUMBA_CPU")} | SETTINGS[name]
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, env=env, timeout=60)
    assert done.stdout.strip() == "False,False,numpy in float32,float32,12.0,False"


def test_it_is_available_where_numba_compiles_for_it(monkeypatch):
    kind = type(cpu_bfloat16.cpu_target.target_context.codegen())
    for said, has in [("+avx512bf16", True), ("+avx,+avx512bf16,-amx", True), ("-avx512bf16", False), ("", False)]:
        monkeypatch.setattr(kind, "magic_tuple", lambda _, said=said: ("triple", "name", said))
        assert available.__wrapped__() is has
