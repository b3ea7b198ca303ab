"""Products of bfloat16 rows, for processors with bfloat16 instructions (AVX512_BF16): no library need be imported.

The instruction, vdpbf16ps, takes two products of bfloat16 a lane, which are exact, and adds one after the other to a
float32, rounding to nearest each time. So a sum of K terms errs by at most ``gamma_K`` times the sum of their
magnitudes, whatever the order (Higham 2002, 3.1), as with any product that sums in float32; the zero that fills up an
odd row adds nothing. It takes subnormal numbers for zeros, whatever the process has set: a term ``a b`` with
``|a| < 2^-126`` is lost, that is less than ``2^-126 |b|``, and a sum below ``2^-126`` becomes zero. Each of the K terms
thus loses at most ``2^-126 (max(|a|, |b|) + 1)`` beside its rounding. Rows of scores are at most 2 long, so that their
entries are at most ``2 (1 + 2^-8)`` and the loss is below ``4 K 2^-126``, which the bounds of scores contain.

Blocks are multiplied as Goto and van de Geijn (2008) do: panels of rows of `b` are transposed into the second-level
cache, twelve rows of `a` at a time are copied into the first, and twelve times 32 sums stay in registers. Columns are
taken in blocks as well where rows are long; the sums then wait in float32, which rounds nothing.
"""

import functools
import threading
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils, config
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from numpy.typing import NDArray

__all__ = ["available", "multiply"]

Array = NDArray[Any]

_LANES = 16
"""Of float32, and of pairs of bfloat16, in a register."""

_ROWS = 12
"""Of `a` whose sums are in registers: 24 of the 32, which leaves some for two of `b` and a few of `a`."""

_COLUMNS = 2 * _LANES
"""Rows of `b`, and columns of the result, at a time."""

_SUMS = _ROWS * _COLUMNS

_PAIRS = 512
"""Pairs of columns at a time: twelve rows of them stay in the first-level cache."""

_PANELS = 2**19
"""Bytes of transposed rows of `b`, to stay in the second-level cache."""

_TALL = 1008
"""Rows of `a` at a time: a multiple of `_ROWS`. The sums that wait are that many times the rows of `b` at a time."""

_LINE = 64
"""Bytes of a line of the cache and of a register."""

_I16, _I32, _I64 = (ir.IntType(bits) for bits in (16, 32, 64))
_FLOATS, _WORDS = ir.VectorType(ir.FloatType(), _LANES), ir.VectorType(_I32, _LANES)
_HALVES = ir.VectorType(_I16, _LANES)
_ROW = ir.VectorType(_I16, 2 * _LANES)


@functools.cache
def available() -> bool:
    """Whether Numba compiles for a processor with these instructions, which its settings can deny."""
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return not config.DISABLE_JIT and "+avx512bf16" in features.split(",")


def _function(builder: Any, name: str, out: Any, *arguments: Any) -> Any:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(out, arguments), name)


def _at(builder: Any, base: Any, offset: Any, kind: Any) -> Any:
    offset = offset if isinstance(offset, ir.Value) else _I64(offset)
    return builder.inttoptr(builder.add(base, offset), kind.as_pointer())


def _load(builder: Any, base: Any, offset: Any, kind: Any, align: int) -> Any:
    found = builder.load(_at(builder, base, offset, kind))
    found.align = align
    return found


def _store(builder: Any, value: Any, base: Any, offset: Any, align: int) -> None:
    builder.store(value, _at(builder, base, offset, value.type)).align = align


def _everywhere(builder: Any, value: Any, kind: Any) -> Any:
    """Return a register that holds one value in each lane."""
    one = builder.insert_element(kind(ir.Undefined), value, _I32(0))
    return builder.shuffle_vector(one, kind(ir.Undefined), ir.VectorType(_I32, kind.count)(None))


def _emit_sums(
    builder: Any, a: Any, stride: Any, b: Any, pairs: Any, before: Any, after: Any, out: Any, step: Any, last: Any
) -> None:
    """Add the products of twelve rows and a panel to sums, in registers throughout; write them, or round them."""
    add = _function(builder, "llvm.x86.avx512bf16.dpbf16ps.512", _FLOATS, _FLOATS, _WORDS, _WORDS)
    narrow = _function(builder, "llvm.x86.avx512bf16.cvtneps2bf16.512", _HALVES, _FLOATS)
    starts = [_load(builder, before, _LINE * each, _FLOATS, _LINE) for each in range(_SUMS // _LANES)]
    rows = [builder.add(a, builder.mul(stride, _I64(row))) for row in range(_ROWS)]
    entry, loop, done = builder.block, builder.append_basic_block("pair"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    pair, sums = builder.phi(_I64), [builder.phi(_FLOATS) for _ in starts]
    pair.add_incoming(_I64(0), entry)
    there, along = builder.mul(pair, _I64(2 * _LINE)), builder.mul(pair, _I64(4))
    panel = [_load(builder, b, builder.add(there, _I64(side)), _WORDS, _LINE) for side in (0, _LINE)]
    added = []
    for number, row in enumerate(rows):
        both = _everywhere(builder, _load(builder, row, along, _I32, 4), _WORDS)
        added += [builder.call(add, [sums[2 * number + side], both, panel[side]]) for side in range(2)]
    following = builder.add(pair, _I64(1))
    pair.add_incoming(following, loop)
    for total, start, new in zip(sums, starts, added, strict=True):
        total.add_incoming(start, entry)
        total.add_incoming(new, loop)
    builder.cbranch(builder.icmp_signed("<", following, pairs), loop, done)
    builder.position_at_end(done)
    with builder.if_else(builder.icmp_signed("!=", last, _I64(0))) as (rounded, kept):
        with rounded:
            for number, total in enumerate(added):
                row, side = divmod(number, 2)
                into = builder.add(out, builder.mul(step, _I64(row)))
                _store(builder, builder.call(narrow, [total]), into, side * _LINE // 2, 2)
        with kept:
            for number, total in enumerate(added):
                _store(builder, total, after, _LINE * number, _LINE)


def _emit_transposed(builder: Any, source: Any, stride: Any, height: Any, width: Any, target: Any) -> None:
    """Transpose 16 rows of 16 pairs; what lies beyond `height` rows and `width` columns is read as zero."""
    flags = ir.VectorType(ir.IntType(1), 2 * _LANES)
    load = _function(builder, "llvm.masked.load.v32i16.p0", _ROW, _ROW.as_pointer(), _I32, flags, _ROW)
    numbers, most = _ROW(list(range(2 * _LANES))), _I64(2 * _LANES)
    width = builder.select(builder.icmp_signed("<", width, most), width, most)
    lines = []
    for row in range(_LANES):
        seen = builder.select(builder.icmp_signed(">", height, _I64(row)), width, _I64(0))
        mask = builder.icmp_unsigned("<", numbers, _everywhere(builder, builder.trunc(seen, _I16), _ROW))
        place = _at(builder, source, builder.mul(stride, _I64(row)), _ROW)
        lines.append(builder.bitcast(builder.call(load, [place, _I32(2), mask, _ROW(None)]), _WORDS))
    # Blocks of half the size change places across the diagonal, in four rounds.
    half = _LANES // 2
    while half:
        upper = [lane + _LANES - half if lane & half else lane for lane in range(_LANES)]
        lower = [lane + _LANES if lane & half else lane + half for lane in range(_LANES)]
        for row in range(_LANES):
            if not row & half:
                pair = lines[row], lines[row + half]
                lines[row], lines[row + half] = (
                    builder.shuffle_vector(*pair, ir.VectorType(_I32, _LANES)(lanes)) for lanes in (upper, lower)
                )
        half //= 2
    for number, line in enumerate(lines):
        _store(builder, line, target, 2 * _LINE * number, _LINE)


def _emit_copy(builder: Any, source: Any, target: Any, size: Any) -> None:
    byte = ir.IntType(8).as_pointer()
    cgutils.raw_memcpy(builder, builder.inttoptr(target, byte), builder.inttoptr(source, byte), size, 1)


def _emitted(emit: Any, arguments: int) -> Any:
    """Return what Numba needs to make a function of addresses and numbers out of what writes its instructions."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:  # noqa: ARG001
        emit(builder, *given)
        return context.get_dummy_value()

    return types.void(*[types.int64] * arguments), generate


@intrinsic
def _add_products(context, a, stride, b, pairs, before, after, out, step, last):  # type: ignore[no-untyped-def]  # noqa: ARG001
    return _emitted(_emit_sums, 9)


@intrinsic
def _transpose(context, source, stride, height, width, target):  # type: ignore[no-untyped-def]  # noqa: ARG001
    return _emitted(_emit_transposed, 5)


@intrinsic
def _copy(context, source, target, size):  # type: ignore[no-untyped-def]  # noqa: ARG001
    return _emitted(_emit_copy, 3)


@njit(nogil=True, cache=True)
def _gemm(
    a: int, a_stride: int, m: int, b: int, b_stride: int, n: int, d: int, out: int, step: int,
    pairs: int, wide: int, memory: Array,
) -> None:  # fmt: skip
    # Addresses and strides in bytes: arrays that may be written and others would be compiled one by one.
    start = memory.ctypes.data
    few_stride = (4 * pairs // _LINE | 1) * _LINE
    zeros, corner = start, start + 4 * _SUMS
    few = corner + 2 * _SUMS
    panels = few + _ROWS * few_stride
    sums = panels + 4 * pairs * wide
    for top in range(0, m, _TALL):
        bottom = min(top + _TALL, m)
        for left in range(0, n, wide):
            right = min(left + wide, n)
            for first in range(0, d, 2 * pairs):
                width = min(2 * pairs, d - first)
                last = first + width == d
                for j in range(left, right, _LANES):
                    side = (j - left) % _COLUMNS
                    panel = panels + 4 * (pairs * (j - left - side) + side)
                    for k in range(0, width, 2 * _LANES):
                        source = b + j * b_stride + 2 * (first + k)
                        _transpose(source, b_stride, n - j, width - k, panel + _LINE * k)
                for i in range(top, bottom, _ROWS):
                    height = min(_ROWS, m - i)
                    for row in range(height):
                        target = few + row * few_stride
                        _copy(a + (i + row) * a_stride + 2 * first, target, 2 * width)
                        if width % 2:
                            _copy(zeros, target + 2 * width, 2)
                    for j in range(left, right, _COLUMNS):
                        panel = panels + 4 * pairs * (j - left)
                        own = sums + 4 * ((i - top) * wide + (j - left) * _ROWS)
                        before = own if first else zeros
                        within = height == _ROWS and j + _COLUMNS <= n
                        into, apart = (out + i * step + 2 * j, step) if within else (corner, 2 * _COLUMNS)
                        _add_products(few, few_stride, panel, (width + 1) // 2, before, own, into, apart, int(last))
                        if last and not within:
                            for row in range(height):
                                into = out + (i + row) * step + 2 * j
                                _copy(corner + 2 * _COLUMNS * row, into, 2 * min(_COLUMNS, n - j))


_own = threading.local()


def _memory(size: int) -> Array:
    """Return this thread's working memory, which begins with zeros, and lasts as long as it does."""
    held: Array | None = getattr(_own, "held", None)
    if held is None or held.size < size:
        whole = np.zeros(size + _LINE, np.uint8)
        start = -whole.ctypes.data % _LINE
        held = _own.held = whole[start : start + size]
    return held


def multiply(a: Array, b: Array, out: Array) -> None:
    """Products of bfloat16 rows, kept as uint16, summed in float32 and rounded to bfloat16.

    Parameters
    ----------
    a, b : (m, d), (n, d) uint16
        Bit patterns of finite numbers; any layout, copied where a row is not contiguous. Subnormal numbers are taken
        for zeros.
    out : (m, n) uint16
        Overwritten with the bit patterns of ``a @ b.T``, rounded to nearest, ties to even.

    Notes
    -----
    O(m n d) time in the calling thread, without the interpreter's lock; about 0.6 MiB of memory a thread, and up to
    2 MiB more for rows of more than 1024 columns. `available` says whether this processor can.
    """
    (m, d), n = a.shape, len(b)
    a, b = (each if each.strides[1] == each.itemsize else np.ascontiguousarray(each) for each in (a, b))
    into = out if out.strides[1] == out.itemsize else np.empty(out.shape, out.dtype)
    # Blocks of columns of one size, each of whole lines.
    parts = -(-d // (2 * _PAIRS))
    pairs = -(-d // (parts * 2 * _LANES)) * _LANES
    wide = min(_PANELS // (4 * pairs), max(n, 1) + _COLUMNS - 1) // _COLUMNS * _COLUMNS
    tall = -(-min(m, _TALL) // _ROWS) * _ROWS if parts > 1 else 0
    size = 6 * _SUMS + _ROWS * (4 * pairs + _LINE) + 4 * wide * (pairs + tall)
    _gemm(
        a.ctypes.data, a.strides[0], m, b.ctypes.data, b.strides[0], n, d, into.ctypes.data, into.strides[0],
        pairs, wide, _memory(size),
    )  # fmt: skip
    if into is not out:
        out[...] = into
