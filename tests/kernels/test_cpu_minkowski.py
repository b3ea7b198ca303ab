"""Power means of the CPU for every order: the polynomials under them, and all that padding and scaling could spoil."""

import math
import re

import llvmlite.binding
import mpmath
import numpy as np
import pytest
from numba import njit

from geomkit.kernels import Backend, cpu_minkowski, cpu_powers, load
from tests.bounds import assert_within, power_error, unit
from tests.kernels.cases import power_mean_error

BOTH = ["float32", "float64"]
ORDERS = [0.04, 0.2, 0.3, 0.5, 1.0, 1.2, 1.5, 2.5, 3.0, 4.0, 7.3, 50.0, 200.0]
DIMS = [1, 2, 15, 16, 17, 33, 1025]


@njit
def power_of(x, f, out):
    one = cpu_powers._exponent(f.one)
    for t in range(x.size):
        out[t] = cpu_powers._power(x[t], one, f.last, f)


@njit
def power_less_of(x, f, less, out):
    one = cpu_powers._exponent(f.one)
    for t in range(x.size):
        out[t] = cpu_powers._power_less(x[t], one, f.last, f, less)


def exact(x, p):
    """``x^p`` in extended precision."""
    return np.power(x.astype(np.longdouble), np.longdouble(p))


def spread(dtype, p):
    """Numbers of every size whose p-th power is a normal number, and the ends of some significands."""
    info, rng = np.finfo(dtype), np.random.default_rng(7)
    most = min(-info.minexp - 1, (info.maxexp - 2) / p)
    x = np.exp2(rng.uniform(-min(most, (-info.minexp - 1) / p), most, 200_000)).astype(dtype)
    powers = np.exp2(np.arange(-math.floor(min(most, 8)), math.floor(min(most, 8)))).astype(dtype)
    return np.concatenate([x, powers, np.nextafter(powers, dtype(0)), np.nextafter(powers, dtype(9))])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_polynomials_are_as_good_as_the_analysis_takes_them_to_be(dtype):
    name, u = np.dtype(dtype).name, unit(dtype)
    logarithm, exponential = cpu_powers._LOG2[name], cpu_powers._EXP2[name]
    with mpmath.workdps(40):
        for f in (mpmath.cos(mpmath.pi * k / 500) / 2 for k in range(501)):
            # In float64 0.2 u, and what rounding the coefficients adds, which running error analysis counts, too.
            assert abs(mpmath.polyval(logarithm[::-1], f) - mpmath.log(f + 1.5, 2)) <= 0.8 * u
            if f:
                want = mpmath.expm1(f * mpmath.log(2)) / f
                assert abs(mpmath.polyval(exponential[::-1], f) / want - 1) <= 0.6 * u


@pytest.mark.parametrize("dtype", BOTH)
def test_running_error_analysis(dtype):
    """What evaluating the polynomials adds, in units of u: two roundings a step and one in each coefficient."""

    def evaluate(coefficients, f, inexact):
        value, error = coefficients[-1] + 0 * f, inexact * abs(coefficients[-1])
        for each in coefficients[-2::-1]:
            product = value * f
            value = product + each
            error = np.abs(f) * error + np.abs(product) + np.abs(value) + inexact * abs(each)
        return value, error

    f = np.linspace(-0.5, 0.5, 10_001)
    wide = dtype == "float64"
    assert evaluate(cpu_powers._LOG2[dtype], f, 1 + wide)[1].max() <= (4.4 if wide else 3.2)
    value, error = evaluate((1.0, *cpu_powers._EXP2[dtype]), f, 1)
    assert ((error - 1) / value).max() <= 3 - 0.6 * 0.42


@pytest.mark.parametrize("p", [0.04, 0.3, 1.0, 1.5, 3.0, 7.3, 50.0, 200.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_powers_of_numbers(dtype, p):
    x = spread(dtype, p)
    if p == 1 and dtype is np.float32:
        # Every significand.
        x = np.concatenate([x, np.arange(0x3F800000, 0x40000000, dtype=np.uint32).view(np.float32)])
    out, lanes, u = np.empty_like(x), cpu_powers._lanes(p, np.dtype(dtype).name), unit(dtype)
    power_of(x, lanes, out)
    t = np.abs(p * np.log2(x.astype(np.float64)))
    bound = np.expm1(math.log(2) * (3 * t + 7 * p) * u + 3 * u)
    assert_within((out / exact(x, p)).astype(np.float64), 1, bound)
    power_of(-x, lanes, again := np.empty_like(x))
    assert (again == out).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_powers_less_one_keep_their_digits_where_the_order_is_small(dtype):
    x, p, u = spread(dtype, 1.0), 1e-6, unit(dtype)
    out = np.empty_like(x)
    power_less_of(x, cpu_powers._lanes(p, np.dtype(dtype).name), dtype(1), out)
    want = np.expm1(p * np.log(x.astype(np.longdouble))).astype(np.float64)
    t = np.abs(p * np.log2(x.astype(np.float64)))
    assert_within(out, want, 1.001 * math.log(2) * (3 * t + 7 * p) * u + 6 * u * np.abs(want))


@pytest.mark.parametrize("less", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zero_to_a_power_is_zero(dtype, less):
    x, out = np.array([0, -0.0], dtype), np.ones(2, dtype)
    power_less_of(x, cpu_powers._lanes(0.04, np.dtype(dtype).name), dtype(less), out)
    assert out.tolist() == [-less, -less]


def power_means(a, b, p, dtype):
    out = np.full((len(a), len(b)), 7, dtype)
    load("minkowski", Backend.CPU)(a, b, out, p)
    return out


def wanted(a, b, p):
    """In extended precision, from differences that are rounded as the kernel rounds them or not at all."""
    differences = np.abs(a[:, None].astype(np.longdouble) - b[None].astype(np.longdouble))
    largest = differences.max(axis=2)
    shares = differences / np.where(largest > 0, largest, 1)[:, :, None]
    with np.errstate(divide="ignore"):
        logarithm = np.log(np.mean(np.power(shares, np.longdouble(p)), axis=2)) / np.longdouble(p)
    return np.where(largest > 0, largest * np.exp(logarithm), 0).astype(np.float64)


def check(a, b, p, dtype):
    want = wanted(a, b, p)
    got = power_means(a, b, p, dtype)
    assert_within(got, want, want * power_mean_error(a.shape[1], p, dtype) + np.finfo(dtype).smallest_subnormal)
    return got


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("p", ORDERS)
def test_orders_and_tails(p, dtype, dim):
    rng = np.random.default_rng(dim)
    a, b = rng.standard_normal((7, dim)).astype(dtype), rng.standard_normal((3, dim)).astype(dtype)
    # Rows of `a` are taken four at a time.
    for n in (7, 6, 5) if dim < 100 else (7,):
        check(a[:n], b, p, dtype)


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("p", ORDERS)
def test_coordinates_that_agree_add_nothing(p, dtype):
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 4, 70)).astype(dtype)
    b[:, ::2] = a[:, ::2]
    b[0, :-1] = a[0, :-1]
    b[1], b[1, -1] = a[1], np.nextafter(a[1, -1], np.dtype(dtype).type(9))
    got = check(a, b, p, dtype)
    assert got[0, 0] == pytest.approx(abs(float(a[0, -1]) - float(b[0, -1])) * (1 / 70) ** (1 / p), rel=1e-3)
    same = power_means(a, a, p, dtype)
    assert not np.diag(same).any()
    assert not power_means(np.zeros_like(a), np.zeros_like(a), p, dtype).any()


SIZES = {"float32": (1e-44, 1e-30, 1e30, 1e38), "float64": (1e-320, 1e-300, 1e300, 1e307)}


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("p", ORDERS)
def test_any_scale(p, dtype, which):
    rng, size = np.random.default_rng(2), SIZES[dtype][which]
    a, b = (rng.uniform(-1, 1, (2, 4, 40)) * size).astype(dtype)
    check(a, b, p, dtype)


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("p", [0.001, *ORDERS])
def test_huge_and_tiny_coordinates_side_by_side(p, dtype):
    rng, info = np.random.default_rng(3), np.finfo(dtype)
    low, high = (info.minexp - info.nmant, info.maxexp - 3)
    a, b = (np.exp2(rng.uniform(low, high, (2, 6, 40))) * rng.choice([-1, 1], (2, 6, 40))).astype(dtype)
    # Rows between which everything is tiny, in a tile where nearly everything is huge.
    a[0] = b[0] = 0
    a[0, :7], b[0, :9] = info.smallest_subnormal, -info.smallest_normal
    a[1], b[1] = a[2], b[2]
    b[2, 3:] = a[2, 3:]
    check(a, b, p, dtype)


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("p", ORDERS)
def test_rows_far_closer_than_the_rest(p, dtype):
    """Powers of their differences vanish beside the scale of the tile."""
    rng = np.random.default_rng(4)
    a = rng.standard_normal((7, 65)).astype(dtype)
    b = a[:5] + (rng.standard_normal((5, 65)) * np.abs(a[:5]) * 8 * np.finfo(dtype).eps).astype(dtype)
    a[4], b[2] = 1e-9 * a[4], 1e-9 * a[3]
    # Still with differences that are normal numbers, but less than any sum of powers was measured against.
    least = np.dtype(dtype).type(2.0**-60 if dtype == "float32" else 2.0**-500)
    a[5], b[3] = least * a[5], least * b[3]
    # One difference barely above the subnormals, and none beside it.
    a[6], b[4] = 0, 0
    a[6, 9] = 2.0**-99 if dtype == "float32" else 2.0**-959
    b[4, 9] = np.nextafter(a[6, 9], np.dtype(dtype).type(1))
    check(a, b, p, dtype)


@pytest.mark.parametrize("dtype", BOTH)
def test_the_highest_orders_are_the_largest_difference(dtype):
    a, b = np.random.default_rng(5).standard_normal((2, 4, 50)).astype(dtype)
    largest = np.abs(a[:, None] - b[None]).max(axis=2)
    highest = cpu_powers.highest(dtype)
    for p in (highest * 1.01, 1e300, math.inf):
        assert (power_means(a, b, p, dtype) == largest).all()
    # Just below, the largest difference is still the limit that a mean of d shares approaches.
    assert_within(power_means(a, b, highest, dtype), largest, largest * (50 / highest + 10 * unit(dtype)))


@pytest.mark.parametrize("p", [1e-300, 1e-12])
@pytest.mark.parametrize("dtype", BOTH)
def test_the_lowest_orders_are_the_geometric_mean(dtype, p):
    a, b = np.random.default_rng(6).standard_normal((2, 4, 50)).astype(dtype)
    logarithms = np.log(np.abs(a[:, None].astype(np.longdouble) - b[None]))
    want = np.exp(logarithms.mean(axis=2)).astype(np.float64)
    # The mean of order p exceeds it by a factor of p range²/8 at most, and a sum of d terms errs by what they weigh.
    span = float(np.ptp(logarithms, axis=2).max())
    error = math.expm1(p * span**2 / 8) + power_error(60 * unit("float64") * span, 1) + 3 * unit(dtype)
    assert_within(power_means(a, b, p, dtype), want, want * error)


@pytest.mark.parametrize("dtype", BOTH)
def test_pieces_hold_every_coordinate_once(dtype):
    for d in (1, 16, 31, 63, 64, 300, 1024, 1025, 5000):
        x = np.arange(2 * d, dtype=dtype).reshape(2, d)
        whole, cut = cpu_minkowski._pieces(x, whole=True), cpu_minkowski._pieces(x, whole=False)
        assert np.shares_memory(whole, x)
        assert cut.shape[2] <= 1024 + 64
        assert np.shares_memory(cut, x) == (cut.size == x.size)
        flat = cut.reshape(2, -1)
        assert (flat[:, :d] == x).all()
        assert not flat[:, d:].any()


@pytest.mark.parametrize("dtype", BOTH)
def test_the_loop_over_coordinates_is_vectorised(dtype):
    if not llvmlite.binding.get_host_cpu_features().get("avx2"):
        pytest.skip("this processor has no AVX2")
    row = njit(fastmath=cpu_powers.FINITE)(cpu_powers._row.py_func)
    one, x = np.ones(3, dtype), np.ones((3, 1, 64), dtype)
    row(x[0], x, np.ones(3, bool), one, one, one[0], cpu_powers._lanes(1.7, dtype), np.empty(3))
    (assembly,) = row.inspect_asm().values()
    kind = "ps" if dtype == "float32" else "pd"
    assert len(re.findall(rf"vfmadd\w+{kind}\s.*%[yz]mm", assembly)) > 10
