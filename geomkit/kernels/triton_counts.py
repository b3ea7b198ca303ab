"""Value counts, power sums and extremes of all products of rows, by Triton kernels that never write the products."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from geomkit.kernels.triton_tiles import (
    autotuned,
    cut,
    launch,
    most_programs,
    pairs,
    place,
    product,
    rows_from,
    tiles_of,
)

__all__ = ["KERNELS", "count_products", "least_of_window", "tally_products"]

OCTAVES = 16
"""Powers of two below the largest magnitude there can be whose values are counted in shared memory."""

HALF: tl.constexpr = tl.constexpr(128 * OCTAVES)
"""Counters of a window for each sign: a bfloat16 has 128 values an octave."""

UNSEEN: tl.constexpr = tl.constexpr(0x7FFF)
"""The bit pattern, of no number, that stands for pairs outside the matrix or below its diagonal."""


@triton.jit
def _count_within(index, mask, to_ptrs, BINS: tl.constexpr):
    """Count in shared memory, one bin an index, and add what was found to the counters at `to_ptrs`."""
    found = tl.histogram(index, BINS, mask=mask)
    tl.atomic_add(to_ptrs, found.to(tl.int64), mask=found > 0, sem="relaxed")


@triton.jit
def _count(patterns, counts_ptr, least):
    """Count bit patterns: those in the window that starts at the magnitude `least` at once, then all others."""
    patterns = patterns.to(tl.int32)
    above = (patterns & 0x7FFF) - least
    near = (above >= 0) & (above < HALF)
    bins = tl.arange(0, 2 * HALF)
    window = counts_ptr + (bins // HALF << 15) + least + bins % HALF
    _count_within(above + (patterns >> 15) * HALF, near, window, 2 * HALF)
    far = (near == 0) & (patterns != UNSEEN)
    if tl.max(far.to(tl.int32), 0) > 0:
        for first in range(0, 65536, 2 * HALF):
            here = far & (patterns >= first) & (patterns < first + 2 * HALF)
            _count_within(patterns - first, here, counts_ptr + first + bins, 2 * HALF)


@triton.jit
def _count_in_parts(
    patterns, counts_ptr, least, SIZE: tl.constexpr, PARTS: tl.constexpr
):  # fmt: skip
    """Count a tile whole or in parts, which take fewer registers at a time."""
    if PARTS == 1:
        _count(tl.reshape(patterns, (SIZE,)), counts_ptr, least)
    else:
        even, odd = tl.split(tl.reshape(patterns, (SIZE // 2, 2)))
        _count_in_parts(even, counts_ptr, least, SIZE // 2, PARTS // 2)
        _count_in_parts(odd, counts_ptr, least, SIZE // 2, PARTS // 2)


@autotuned("counts_ptr", light=True)
@triton.jit
def _count_kernel(
    a_ptr, b_ptr, stride_am, stride_bn, rows, cols, width, counts_ptr, least_ptr,
    DIAGONAL: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PARTS: tl.constexpr, PER_SM: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    least = tl.load(least_ptr)
    counts_ptr += tl.program_id(0) % 4 * 65536
    a = rows_from(a_ptr, stride_am, rows, width, BLOCK_M, BLOCK_K, DESCRIPTORS)
    b = rows_from(b_ptr, stride_bn, cols, width, BLOCK_N, BLOCK_K, DESCRIPTORS)
    tiles = tiles_of(rows, cols, DIAGONAL, BLOCK_M, BLOCK_N)
    for t in range(tl.program_id(0), tiles, tl.num_programs(0)):
        i0, j0, wanted = place(t, rows, cols, DIAGONAL, BLOCK_M, BLOCK_N)
        if wanted:
            values = product(
                a, b, stride_am, stride_bn, rows, cols, width, i0, j0, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION, DESCRIPTORS
            )
            # To the nearest bfloat16, ties to even, as a product that writes bfloat16 rounds.
            bits = values.to(tl.uint32, bitcast=True)
            patterns = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(tl.uint16)
            if cut(i0, j0, rows, cols, DIAGONAL, BLOCK_M, BLOCK_N):
                seen = pairs(i0, j0, rows, cols, DIAGONAL, BLOCK_M, BLOCK_N)
                patterns = tl.where(seen, patterns, UNSEEN).to(tl.uint16)
            _count_in_parts(patterns, counts_ptr, least, BLOCK_M * BLOCK_N, PARTS)


@autotuned("counts_ptr", "found_ptr", light=False)
@triton.jit
def _tally_kernel(
    a_ptr, b_ptr, stride_am, stride_bn, rows, cols, width, counts_ptr, least_ptr, found_ptr, centre,
    DIAGONAL: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PARTS: tl.constexpr, PER_SM: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    least = tl.load(least_ptr)
    counts_ptr += tl.program_id(0) % 4 * 65536
    # Sums of a row of a tile in float32, of rows and tiles in float64.
    one, two = tl.zeros((BLOCK_M,), tl.float64), tl.zeros((BLOCK_M,), tl.float64)
    three, four = tl.zeros((BLOCK_M,), tl.float64), tl.zeros((BLOCK_M,), tl.float64)
    low, high = tl.full((BLOCK_M,), float("inf"), tl.float32), tl.full((BLOCK_M,), float("-inf"), tl.float32)
    a = rows_from(a_ptr, stride_am, rows, width, BLOCK_M, BLOCK_K, DESCRIPTORS)
    b = rows_from(b_ptr, stride_bn, cols, width, BLOCK_N, BLOCK_K, DESCRIPTORS)
    tiles = tiles_of(rows, cols, DIAGONAL, BLOCK_M, BLOCK_N)
    for t in range(tl.program_id(0), tiles, tl.num_programs(0)):
        i0, j0, wanted = place(t, rows, cols, DIAGONAL, BLOCK_M, BLOCK_N)
        if wanted:
            values = product(
                a, b, stride_am, stride_bn, rows, cols, width, i0, j0, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION, DESCRIPTORS
            )
            seen = pairs(i0, j0, rows, cols, DIAGONAL, BLOCK_M, BLOCK_N)
            low = tl.minimum(low, tl.min(tl.where(seen, values, float("inf")), 1))
            high = tl.maximum(high, tl.max(tl.where(seen, values, float("-inf")), 1))
            off = tl.where(seen, values - centre, 0.0)
            square = off * off
            one += tl.sum(off, 1).to(tl.float64)
            two += tl.sum(square, 1).to(tl.float64)
            three += tl.sum(square * off, 1).to(tl.float64)
            four += tl.sum(square * square, 1).to(tl.float64)
            # To the nearest bfloat16, ties away from zero, as every backend counts float32 values.
            patterns = (off.to(tl.uint32, bitcast=True) + 0x8000) >> 16
            patterns = tl.where(seen, patterns, UNSEEN).to(tl.uint16)
            _count_in_parts(patterns, counts_ptr, least, BLOCK_M * BLOCK_N, PARTS)
    found_ptr += tl.program_id(0) * 6
    tl.store(found_ptr + 0, tl.sum(one, 0))
    tl.store(found_ptr + 1, tl.sum(two, 0))
    tl.store(found_ptr + 2, tl.sum(three, 0))
    tl.store(found_ptr + 3, tl.sum(four, 0))
    tl.store(found_ptr + 4, tl.min(low, 0).to(tl.float64))
    tl.store(found_ptr + 5, tl.max(high, 0).to(tl.float64))


KERNELS = {"count": _count_kernel, "tally": _tally_kernel}


def least_of_window(largest: Tensor) -> Tensor:
    """Return the least magnitude, as a bit pattern, of the window whose greatest is about `largest`, on the device."""
    pattern = largest.to(torch.bfloat16).view(torch.int16).to(torch.int32)
    # One more for the rounding of a norm, one for that of a value.
    return (pattern + 3 - HALF.value).clamp(0, 0x7F80 - HALF.value).reshape(1)


def count_products(a: Tensor, b: Tensor, diagonal: bool, precision: str, largest: Tensor, counts: Tensor) -> None:
    """Count the products of rows, each rounded to bfloat16, in four banks; `largest` bounds their magnitudes."""
    launch(_count_kernel, a, b, counts, least_of_window(largest), diagonal=diagonal, precision=precision)


def tally_products(
    a: Tensor, b: Tensor, diagonal: bool, precision: str, largest: Tensor, centre: float, counts: Tensor, sums: Tensor,
    extremes: Tensor,
) -> None:  # fmt: skip
    """Count the products of rows less `centre`, add their power sums, and widen their extremes."""
    found = torch.zeros((most_programs(a), 6), dtype=torch.float64, device=a.device)
    found[:, 4], found[:, 5] = torch.inf, -torch.inf
    # All memory is there before anything is counted.
    total, low, high = torch.empty(4, dtype=torch.float64, device=a.device), *extremes.new_empty((2,)).unbind()
    least = least_of_window(largest + abs(centre))
    launch(_tally_kernel, a, b, counts, least, found, centre, diagonal=diagonal, precision=precision)
    sums += torch.sum(found[:, :4], dim=0, out=total)
    torch.minimum(extremes[0], torch.amin(found[:, 4], dim=0, out=low), out=extremes[0])
    torch.maximum(extremes[1], torch.amax(found[:, 5], dim=0, out=high), out=extremes[1])
