"""Powers and roots of any order on the CPU: ``x^p = 2^(p log2 x)`` with polynomials whose loops LLVM vectorises.

Differences of a pair are measured against a power of two that none of them exceeds, so that no order overflows. Where
that leaves a sum W too small to be trusted, the pair's own largest difference takes its place.

How far off they are, where u is the unit roundoff of the sums and no operation is taken to be fused:

- ``log2`` of a significand errs by 5 u: its polynomial by 0.8 u in float32 and 0.2 u in float64, its evaluation, in
  running error analysis, by 3.2 u and 4.4 u.
- The exponent ``t = p log2(x / unit)`` then errs by at most ``3 u |t| + 7 p u``, or 10 p u against a pair's own largest
  difference, whose logarithm is rounded too; and ``2^t`` by another 3 u.
- In a sum W of d terms ``w = 2^t``, errors of the first kind weigh ``sum(w |t|) / W <= log2(d) - log2(W)``, for the
  entropy of d weights is log2(d) at most; and W is 2^-24 at least.
- Sums of 1024 terms at most are added up in float64; below order 1/4 all d are, in float64 themselves. To first order
  the relative error of W is thus below ``(min(d, 1024) + 4 + 3 ln 2 (log2(d) + 24)) u + 10 ln 2 p u``, and that of the
  power mean below 1/p of it.
- The differences add u, and the root, in float64, once more what exponents err by, with its own u.
"""

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from geomkit.kernels.cpu import FINITE

Array = NDArray[Any]

# Orders below the first are summed in float64, as powers less 1. Above the second, differences are measured against
# their largest at once, since most sums would turn out too small.
LOW, HIGH = 0.25, 8.0

# Polynomials must be evaluated as they are written, and adding a large number rounds to an integer.
AS_WRITTEN = {"contract", "nnan", "nsz"}

_RANGES = {"float32": (2.0**-100, 2.0**-40, 2.0**100), "float64": (2.0**-960, 2.0**-400, 2.0**1000)}
"""Least coordinate but 0 whose differences are normal numbers, least difference beside which 0 vanishes, and most."""

_LAYOUT = {types.float32: (ir.IntType(32), 23, 127), types.float64: (ir.IntType(64), 52, 1023)}
"""Integer of the same width, bits of the fraction, bias of the exponent."""


@intrinsic
def larger(_: Any, x: Any, y: Any) -> Any:
    """Return the larger of two numbers, in the form whose reduction LLVM vectorises."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        flags = ("nnan", "nsz")
        return builder.select(builder.fcmp_ordered(">", *arguments, flags=flags), *arguments, flags=flags)

    return x(x, y), generate


@intrinsic
def _exponent(_: Any, x: Any) -> Any:
    """Return ``2^m`` plus the biased exponent of x, where m is the length of the fraction; the sign is ignored."""
    whole, length, bias = _LAYOUT[x]

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        shifted = builder.lshr(builder.bitcast(arguments[0], whole), whole(length))
        exponent = builder.and_(shifted, whole(2 * bias + 1))
        return builder.bitcast(builder.or_(exponent, whole((bias + length) << length)), arguments[0].type)

    return x(x), generate


@intrinsic
def _fraction(_: Any, x: Any) -> Any:
    """Return the significand of x, in [1, 2); the sign is ignored."""
    whole, length, bias = _LAYOUT[x]

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        kept = builder.and_(builder.bitcast(arguments[0], whole), whole((1 << length) - 1))
        return builder.bitcast(builder.or_(kept, whole(bias << length)), arguments[0].type)

    return x(x), generate


@intrinsic
def _two_to(_: Any, x: Any) -> Any:
    """Return the power of two whose biased exponent stands in the last bits of x; 0 where that is 0."""
    whole, length, _bias = _LAYOUT[x]

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        shifted = builder.shl(builder.bitcast(arguments[0], whole), whole(length))
        return builder.bitcast(shifted, arguments[0].type)

    return x(x), generate


class _Lanes(NamedTuple):
    """What ``x -> x^p`` needs in one dtype."""

    p: Any
    high: tuple[Any, ...]
    low: tuple[Any, ...]
    """``p log2(1.5 + f)``, highest power first, in two parts, since LLVM unrolls no longer loop; without the last."""
    last: Any
    exp: tuple[Any, ...]
    """``(2^g - 1) / g``, highest power first."""
    one: Any
    middle: Any
    magic: Any
    """Added to a small number rounds it to an integer, which then stands in the last bits with the bias."""
    least: Any
    """Exponent of two that `_two_to` makes 0."""
    small: Any
    """Differences below this could no longer be told from 0 beside their largest."""


# Minimax polynomials: log2(1.5 + f) on |f| <= 1/2 to 0.72 u and 0.11 u, (2^g - 1) / g on |g| <= 1/2 to 0.18 u, where u
# is the unit roundoff of float32 and of float64.
_LOG2 = {
    "float32": (
        0.5849624879598008, 0.9617959715580291, -0.32059682925443445, 0.1425263747830794, -0.0712997455752309,
        0.03746290045754664, -0.020578752029238832, 0.014778805681004007, -0.009088908104546664,
    ),
    "float64": (
        0.5849625007211562, 0.9617966939259751, -0.3205988979753219, 0.1424883991002816, -0.07124419955055838,
        0.03799690641494433, -0.02110939243136657, 0.01206251043866792, -0.007036464978443401, 0.0041697465859476795,
        -0.0025018396503247798, 0.0015164034534590927, -0.0009267664651594322, 0.0005691912077706185,
        -0.0003519318631817431, 0.00022482831716101167, -0.00014196133360782243, 7.04636272492896e-05,
        -4.164855695934477e-05, 5.944090399399103e-05, -3.9819849786566316e-05,
    ),
}  # fmt: skip
_EXP2 = {
    "float32": (
        0.6931471879266923, 0.24022649794966477, 0.05550357433634894, 0.009618237493735582, 0.0013390735478205204,
        0.0001540351275964241,
    ),
    "float64": (
        0.6931471805599453, 0.24022650695910097, 0.055504108664821236, 0.009618129107607065, 0.0013333558146531644,
        0.00015403530441481298, 1.5252733701202011e-05, 1.3215442723870117e-06, 1.0178121305080868e-07,
        7.072561769865361e-09, 4.445536263023454e-10,
    ),
}  # fmt: skip


def _lanes(p: float, dtype: str) -> _Lanes:
    kind, info = np.dtype(dtype).type, np.finfo(dtype)
    logarithm = [kind(p * each) for each in reversed(_LOG2[dtype])]
    half = len(logarithm) // 2
    bias = 1 - int(info.minexp)
    return _Lanes(
        p=kind(p),
        high=tuple(logarithm[:half]),
        low=tuple(logarithm[half:-1]),
        last=logarithm[-1],
        exp=tuple(kind(each) for each in reversed(_EXP2[dtype])),
        one=kind(1),
        middle=kind(1.5),
        magic=kind(1.5 * 2.0**info.nmant + bias),
        least=kind(-bias),
        small=kind(_RANGES[dtype][1]),
    )


@njit(fastmath=AS_WRITTEN, forceinline=True)
def _split(x: Any, unit: Any, last: Any, f: _Lanes) -> Any:
    """``(x / unit)^p`` as a power of two and the rest, less 1."""
    z = _fraction(x) - f.middle
    h = f.high[0]
    for k in range(1, len(f.high)):
        h = h * z + f.high[k]
    for k in range(len(f.low)):
        h = h * z + f.low[k]
    t = larger(f.p * (_exponent(x) - unit) + (h * z + last), f.least)
    y = t + f.magic
    g = t - (y - f.magic)
    q = f.exp[0]
    for k in range(1, len(f.exp)):
        q = q * g + f.exp[k]
    return _two_to(y), g * q


@njit(fastmath=AS_WRITTEN, forceinline=True)
def _power(x: Any, unit: Any, last: Any, f: _Lanes) -> Any:
    """``(x / unit)^p`` for x far enough above 0."""
    two, rest = _split(x, unit, last, f)
    return two * (rest + f.one)


@njit(fastmath=AS_WRITTEN, forceinline=True)
def _power_less(x: Any, unit: Any, last: Any, f: _Lanes, less: Any) -> Any:
    """``(x / unit)^p - less``, for 0 too."""
    two, rest = _split(x, unit, last, f)
    power = two * rest + (two - less)
    return power if x != 0 else -less


@njit(fastmath=AS_WRITTEN, forceinline=True)
def _halved(scale: float, half: float) -> float:
    """Multiply by half of a root at a time: the product may be a number where the root is none."""
    return scale * half * half


@njit(fastmath=FINITE)
def _plain(own: Array, other: Array, p: float, d: int) -> float:
    """One power mean, whatever the size of its numbers, and slowly."""
    largest, total = 0.0, 0.0
    x, y = own.ravel(), other.ravel()
    for t in range(x.size):
        largest = max(largest, abs(np.float64(x[t]) - np.float64(y[t])))
    if largest > 0.0:
        for t in range(x.size):
            difference = abs(np.float64(x[t]) - np.float64(y[t]))
            if difference / largest >= 2.0**-900:
                total += (difference / largest) ** p
            elif difference > 0.0 and p < 1.0:
                # Shares leave the numbers before their powers do, where the order is small.
                total += (difference * 2.0**800 / (largest * 2.0**-300)) ** p * 2.0 ** (-1100 * p)
    return _halved(largest, (total / d) ** (0.5 / p))


@njit(fastmath=FINITE)
def _row(own: Array, b: Array, open_: Array, units: Array, lasts: Array, less: Any, f: _Lanes, sums: Array) -> None:
    """Sum powers of the differences of one row from each row that is open, all in pieces."""
    m, pieces, width = b.shape
    for j in range(m):
        if not open_[j]:
            continue
        unit, last, total = units[j], lasts[j], 0.0
        for k in range(pieces):
            part = less - less
            if f.p < f.one:
                for t in range(width):
                    part += _power_less(own[k, t] - b[j, k, t], unit, last, f, less)
            else:
                for t in range(width):
                    part += _power(own[k, t] - b[j, k, t], unit, last, f)
            total += part
        sums[j] = total


@njit(nogil=True, cache=True, fastmath=FINITE)
def _powers(  # noqa: PLR0912
    a: Array, b: Array, largest: Array, b_largest: Array, out: Array, f: _Lanes, root: _Lanes, p: float, d: int
) -> None:
    """Power means of any order from rows in pieces; `d` counts coordinates without padding."""
    kind, (m, pieces, width) = largest.dtype.type, b.shape
    usual, enough = (kind(1), 0.5 * d) if p < LOW else (kind(0), 2.0**-24)
    units, lasts, lesses = np.empty(m, largest.dtype), np.empty(m, largest.dtype), np.empty(m, largest.dtype)
    sums, scales, open_ = np.empty(m), np.empty(m), np.empty(m, np.bool_)
    for i in range(a.shape[0]):
        for j in range(m):
            bound = largest[i] + b_largest[j]
            units[j], lasts[j], lesses[j] = _exponent(bound) + f.one, f.last, usual
            scales[j] = _two_to(units[j])
            open_[j] = p <= HIGH and bound >= f.small
            sums[j] = 0
        for attempt in range(2):
            _row(a[i], b, open_, units, lasts, kind(0) if attempt else usual, f, sums)
            if attempt == 0:
                for j in range(m):
                    open_[j] = not open_[j] or sums[j] + lesses[j] * d < enough
                    if open_[j]:
                        bound = kind(0)
                        for k in range(pieces):
                            for t in range(width):
                                bound = larger(bound, abs(a[i, k, t] - b[j, k, t]))
                        scales[j], units[j], lesses[j] = bound, _exponent(bound), kind(0)
                        lasts[j] = np.float64(f.last) - np.float64(f.p) * np.log2(np.float64(_fraction(bound)))
                        if bound < f.small:
                            open_[j], sums[j], scales[j] = False, d, _plain(a[i], b[j], p, d)
        if p < LOW:
            for j in range(m):
                mean = np.log1p(sums[j] / d) if lesses[j] else np.log(sums[j] / d)
                out[i, j] = _halved(scales[j], np.exp(0.5 * mean / p))
        else:
            one = _exponent(root.one)
            for j in range(m):
                out[i, j] = scales[j] * _power(sums[j] / d, one, root.last, root)


@njit(nogil=True, cache=True, fastmath=FINITE)
def _roots(means: Array, root: _Lanes) -> None:
    one = _exponent(root.one)
    for i in range(means.shape[0]):
        for j in range(means.shape[1]):
            means[i, j] = _power(np.float64(means[i, j]), one, root.last, root)


def roots(means: Array, p: float) -> None:
    """Take the p-th root of every entry, in place; entries are far from the least and the largest number."""
    _roots(means, _lanes(1 / p, "float64"))


@njit(nogil=True, cache=True, fastmath=FINITE)
def plainly(a: Array, b: Array, out: Array, where: Array, p: float, d: int) -> None:
    """Power means of the pairs in the rows of `where`, whatever the size of their numbers, and slowly."""
    for k in range(where.shape[0]):
        i, j = where[k, 0], where[k, 1]
        out[i, j] = _plain(a[i], b[j], p, d)


def highest(dtype: str) -> float:
    """Order from which a power mean equals the largest difference to within ``ln(d) u / 8``."""
    return float(16 / np.finfo(dtype).eps)


def powers(a: Array, b: Array, out: Array, p: float, d: int) -> None:
    """Power means of any order; `d` counts coordinates without padding."""
    kind = out.dtype.name
    sizes = np.abs(a), np.abs(b)
    tame = all(_tame(each, kind) for each in sizes)
    if kind == "float32" and (p < LOW or not tame):
        wide = np.empty(out.shape)
        powers(a.astype(np.float64), b.astype(np.float64), wide, p, d)
        out[:] = wide
    elif tame:
        largest, b_largest = (each.max(axis=(1, 2)) for each in sizes)
        _powers(a, b, largest, b_largest, out, _lanes(p, kind), _lanes(1 / p, "float64"), p, d)
    else:
        plainly(a, b, out, np.argwhere(np.ones(out.shape, bool)), p, d)


def _tame(sizes: Array, dtype: str) -> bool:
    """Whether no difference can leave the normal numbers, and few are too small for `_powers`."""
    least, small, most = _RANGES[dtype]
    return bool(small <= sizes.max() <= most and sizes.min(initial=most, where=sizes > 0) >= least)
