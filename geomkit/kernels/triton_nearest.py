"""Candidates, extremes of rows and pairs above a threshold, from products that Triton kernels never write.

Float32 values are compared as keys: their bit patterns as signed integers that have the same order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from geomkit.kernels.triton_tiles import (
    NARROWEST,
    WIDEST,
    autotuned,
    launch,
    pairs,
    place,
    product,
    rows_from,
    tiles_of,
)

__all__ = ["KERNELS", "candidates_of_products", "extremes_of_products", "products_above"]

LEAST = -(2**31)
"""The key of no value: less than all."""

MOST: tl.constexpr = tl.constexpr(2048)
"""Entries of a tile that are looked at one by one at a time, where some are wanted."""


@triton.jit
def _key(values):
    bits = values.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _value(keys):
    """Return the values of keys, minus infinity for the key of no value."""
    bits = keys ^ ((keys >> 31) & 0x7FFFFFFF)
    return tl.where(keys == -2147483648, float("-inf"), bits.to(tl.float32, bitcast=True))


@triton.jit
def _offer(found, keys, own, other, lists_ptr, stride_list, dropped_ptr, room):
    """Append entries to the lists of their rows; of what finds no room, remember the largest."""
    mine = lists_ptr + own.to(tl.int64) * stride_list
    at = tl.atomic_add(mine, 1, mask=found, sem="relaxed")
    fits = found & (at < room)
    tl.store(mine + 1 + at, (keys.to(tl.int64) << 32) | other, mask=fits)
    tl.atomic_max(dropped_ptr + own, keys, mask=found & (at >= room), sem="relaxed")


@triton.jit
def _offer_in_parts(
    values, i0, j0, rows, cols, first_i, first_j, lists_ptr, stride_list, dropped_ptr, floor_ptr, room,
    DIAGONAL: tl.constexpr, BLOCK_N: tl.constexpr, SIZE: tl.constexpr, STEP: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """Offer entries to the lists of their rows and of their columns, a part at a time, which takes fewer registers.

    Entries are every STEP-th of the tile, row by row, from FIRST on.
    """
    if SIZE <= MOST:
        at = FIRST + STEP * tl.arange(0, SIZE)
        i, j = i0 + at // BLOCK_N, j0 + at % BLOCK_N
        seen = (i < rows) & (j < cols)
        if DIAGONAL:
            seen = seen & (j > i)
        keys = _key(values)
        from_row = seen & (keys > tl.load(floor_ptr + first_i + i, mask=seen, other=0))
        from_col = seen & (keys > tl.load(floor_ptr + first_j + j, mask=seen, other=0))
        # Most parts have nothing to offer, and what has takes its registers in turn.
        if tl.max(from_row.to(tl.int32), 0) > 0:
            _offer(from_row, keys, first_i + i, first_j + j, lists_ptr, stride_list, dropped_ptr, room)
        if tl.max(from_col.to(tl.int32), 0) > 0:
            _offer(from_col, keys, first_j + j, first_i + i, lists_ptr, stride_list, dropped_ptr, room)
    else:
        even, odd = tl.split(tl.reshape(values, (SIZE // 2, 2)))
        _offer_in_parts(
            even, i0, j0, rows, cols, first_i, first_j, lists_ptr, stride_list, dropped_ptr, floor_ptr, room, DIAGONAL,
            BLOCK_N, SIZE // 2, 2 * STEP, FIRST,
        )  # fmt: skip
        _offer_in_parts(
            odd, i0, j0, rows, cols, first_i, first_j, lists_ptr, stride_list, dropped_ptr, floor_ptr, room, DIAGONAL,
            BLOCK_N, SIZE // 2, 2 * STEP, FIRST + STEP,
        )  # fmt: skip


@autotuned("lists_ptr", "dropped_ptr", light=False)
@triton.jit
def _screen_kernel(
    a_ptr, b_ptr, stride_am, stride_bn, rows, cols, width, first_i, first_j, near, far, around,
    lists_ptr, stride_list, dropped_ptr, floor_ptr, room,
    DIAGONAL: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PARTS: tl.constexpr, PER_SM: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    a = rows_from(a_ptr, stride_am, rows, width, BLOCK_M, BLOCK_K, DESCRIPTORS)
    b = rows_from(b_ptr, stride_bn, cols, width, BLOCK_N, BLOCK_K, DESCRIPTORS)
    tiles = tiles_of(rows, cols, DIAGONAL, BLOCK_M, BLOCK_N)
    for t in range(tl.program_id(0), tiles, tl.num_programs(0)):
        i0, j0, wanted = place(t, rows, cols, DIAGONAL, BLOCK_M, BLOCK_N)
        # How far a tile is from the diagonal, which runs on from the first column where there are more rows.
        distance = (j0 - i0 // BLOCK_N * BLOCK_N + around) % around
        if wanted & (distance >= near) & (distance < far):
            values = product(
                a, b, stride_am, stride_bn, rows, cols, width, i0, j0, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION, DESCRIPTORS
            )
            i, j = i0 + tl.arange(0, BLOCK_M), j0 + tl.arange(0, BLOCK_N)
            seen = pairs(i0, j0, rows, cols, DIAGONAL, BLOCK_M, BLOCK_N)
            own = _value(tl.load(floor_ptr + first_i + i, mask=i < rows, other=0))
            other = _value(tl.load(floor_ptr + first_j + j, mask=j < cols, other=0))
            beyond = seen & ((values > own[:, None]) | (values > other[None, :]))
            if tl.max(tl.max(beyond.to(tl.int32), 1), 0) > 0:
                size: tl.constexpr = BLOCK_M * BLOCK_N
                _offer_in_parts(
                    tl.reshape(values, (size,)), i0, j0, rows, cols, first_i, first_j, lists_ptr, stride_list,
                    dropped_ptr, floor_ptr, room, DIAGONAL, BLOCK_N, size, 1, 0,
                )  # fmt: skip


@autotuned("row_keys_ptr", "col_keys_ptr", light=False)
@triton.jit
def _extremes_kernel(
    a_ptr, b_ptr, stride_am, stride_bn, rows, cols, width, row_keys_ptr, col_keys_ptr,
    DIAGONAL: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PARTS: tl.constexpr, PER_SM: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    a = rows_from(a_ptr, stride_am, rows, width, BLOCK_M, BLOCK_K, DESCRIPTORS)
    b = rows_from(b_ptr, stride_bn, cols, width, BLOCK_N, BLOCK_K, DESCRIPTORS)
    tiles = tiles_of(rows, cols, DIAGONAL, BLOCK_M, BLOCK_N)
    for t in range(tl.program_id(0), tiles, tl.num_programs(0)):
        i0, j0, wanted = place(t, rows, cols, DIAGONAL, BLOCK_M, BLOCK_N)
        if wanted:
            values = product(
                a, b, stride_am, stride_bn, rows, cols, width, i0, j0, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION, DESCRIPTORS
            )
            i, j = i0 + tl.arange(0, BLOCK_M), j0 + tl.arange(0, BLOCK_N)
            seen = pairs(i0, j0, rows, cols, DIAGONAL, BLOCK_M, BLOCK_N)
            low, high = tl.where(seen, values, float("inf")), tl.where(seen, values, float("-inf"))
            tl.atomic_min(row_keys_ptr + i, _key(tl.min(low, 1)), mask=i < rows, sem="relaxed")
            tl.atomic_max(row_keys_ptr + rows + i, _key(tl.max(high, 1)), mask=i < rows, sem="relaxed")
            tl.atomic_min(col_keys_ptr + j, _key(tl.min(low, 0)), mask=j < cols, sem="relaxed")
            tl.atomic_max(col_keys_ptr + cols + j, _key(tl.max(high, 0)), mask=j < cols, sem="relaxed")


@triton.jit
def _collect_in_parts(
    values, i0, j0, rows, cols, pairs_ptr, size_ptr, room, threshold,
    DIAGONAL: tl.constexpr, BLOCK_N: tl.constexpr, SIZE: tl.constexpr, STEP: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """Append the pairs whose values reach the threshold while there is room, and count all of them."""
    if SIZE <= MOST:
        at = FIRST + STEP * tl.arange(0, SIZE)
        i, j = i0 + at // BLOCK_N, j0 + at % BLOCK_N
        reached = (values >= threshold) & (i < rows) & (j < cols)
        if DIAGONAL:
            reached = reached & (j > i)
        to = tl.atomic_add(size_ptr + 0 * at, 1, mask=reached, sem="relaxed")
        tl.store(pairs_ptr + to, (i.to(tl.int64) << 32) | j, mask=reached & (to < room))
    else:
        even, odd = tl.split(tl.reshape(values, (SIZE // 2, 2)))
        _collect_in_parts(
            even, i0, j0, rows, cols, pairs_ptr, size_ptr, room, threshold, DIAGONAL, BLOCK_N, SIZE // 2, 2 * STEP,
            FIRST,
        )  # fmt: skip
        _collect_in_parts(
            odd, i0, j0, rows, cols, pairs_ptr, size_ptr, room, threshold, DIAGONAL, BLOCK_N, SIZE // 2, 2 * STEP,
            FIRST + STEP,
        )  # fmt: skip


@autotuned("pairs_ptr", "size_ptr", light=False)
@triton.jit
def _above_kernel(
    a_ptr, b_ptr, stride_am, stride_bn, rows, cols, width, pairs_ptr, size_ptr, room, threshold,
    DIAGONAL: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PARTS: tl.constexpr, PER_SM: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):  # fmt: skip
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
            if tl.max(tl.max((seen & (values >= threshold)).to(tl.int32), 1), 0) > 0:
                size: tl.constexpr = BLOCK_M * BLOCK_N
                _collect_in_parts(
                    tl.reshape(values, (size,)), i0, j0, rows, cols, pairs_ptr, size_ptr, room, threshold, DIAGONAL,
                    BLOCK_N, size, 1, 0,
                )  # fmt: skip


KERNELS = {"screen": _screen_kernel, "row_extremes": _extremes_kernel, "above": _above_kernel}

_FIRST_ROOM = 2**16
"""Pairs above a threshold for which a launch has room at first."""


def products_above(a: Tensor, b: Tensor, diagonal: bool, precision: str, threshold: float) -> Tensor:
    """Rows of `a` and of `b` whose product is at least `threshold`, (2, m)."""
    room = _FIRST_ROOM
    while True:
        pairs = torch.empty(room, dtype=torch.int64, device=a.device)
        size = torch.zeros(1, dtype=torch.int64, device=a.device)
        launch(_above_kernel, a, b, pairs, size, room, threshold, diagonal=diagonal, precision=precision)
        found = int(size)
        if found <= room:
            pairs = pairs[:found]
            return torch.stack([pairs >> 32, pairs & 0xFFFFFFFF])
        room = found


def extremes_of_products(a: Tensor, b: Tensor, diagonal: bool, precision: str) -> tuple[Tensor, Tensor]:
    """(least, largest) product of each row of `a`, and of each row of `b`, infinite where it has no pair; float32."""
    sides = [torch.empty((2, len(each)), dtype=torch.int32, device=a.device) for each in (a, b)]
    infinite = torch.tensor([torch.inf, -torch.inf], device=a.device)
    for keys in sides:
        keys[:] = _keys_of(infinite)[:, None]
    launch(_extremes_kernel, a, b, *sides, diagonal=diagonal, precision=precision)
    rows, cols = (_values_of(keys) for keys in sides)
    return rows, cols


def _keys_of(values: Tensor) -> Tensor:
    bits = values.view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _values_of(keys: Tensor) -> Tensor:
    return (keys ^ ((keys >> 31) & 0x7FFFFFFF)).view(torch.float32)


def candidates_of_products(
    a: Tensor, b: Tensor, diagonal: bool, precision: str, i0: int, j0: int, lists: Tensor, dropped: Tensor,
    floor: Tensor,
) -> None:  # fmt: skip
    """Screen the products of rows: append to the lists what is above the floors, then cut the lists to their best.

    Floors move only between launches. Where there are none yet, the pairs nearest to the diagonal go first, few enough
    for all to find room, and then several times as many at a time as were seen before, so that lists seldom run over.
    """
    rows, cols = slice(i0, i0 + len(a)), slice(j0, j0 + len(b))
    sides = [rows] if diagonal else [rows, cols]
    # Cutting lists takes memory, and must not run out of it when they have taken in some of the tile.
    torch.empty((len(a) + len(b)) * lists.shape[1] * 2, dtype=torch.int64, device=a.device)
    around = -(-max(len(a), len(b)) // WIDEST) * WIDEST
    near, far = 0, around
    if bool(torch.stack([(floor[side] == LEAST).any() for side in sides]).any()):
        far = 1
    room = lists.shape[1] - 1
    keep = room // PLACES
    # A row meets as many others for each column of a tile in its row as it does in its column: hence twice.
    growth = 1 + max(1, room // (4 * keep))
    while near < around:
        launch(
            _screen_kernel, a, b, i0, j0, near, far, around, lists, lists.stride(0), dropped, floor, room,
            diagonal=diagonal, precision=precision,
        )  # fmt: skip
        for side in sides:
            _cut(lists[side], dropped[side], floor[side], keep)
        near, far = far, min(around, growth * max(far, NARROWEST))


PLACES = 6
"""Places of a list for each candidate that is kept between launches."""

LEAST_PLACES = 320
"""More than a row meets in the widest tile at the diagonal, before there are floors."""


def places(keep: int) -> int:
    """Return how many places a list needs so that at least `keep` candidates are kept."""
    return max(PLACES * keep, LEAST_PLACES)


def _cut(lists: Tensor, dropped: Tensor, floor: Tensor, keep: int) -> None:
    """Keep the best of each list; what is cut is at most the new floor, which nothing seen before can exceed later."""
    best = lists[:, 1:].topk(keep, dim=1).values
    lists[:, 1 : 1 + keep] = best
    lists[:, 1 + keep :] = LEAST << 32
    keys = best >> 32
    lists[:, 0] = (keys > LEAST).sum(dim=1)
    torch.maximum(floor, keys[:, -1].to(torch.int32), out=floor)
    torch.maximum(dropped, floor, out=dropped)
