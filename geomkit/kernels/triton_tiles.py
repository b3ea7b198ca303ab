"""What the Triton kernels share: which tile comes next, its product, and the configurations that are tried for both.

A kernel is launched once for two blocks of rows. Its programs are persistent: each takes every so many-th tile of the
schedule, multiplies the two slices of rows with the tensor cores, and reduces the sums while they are in registers. The
matrix of pairs is never written.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = [
    "CONFIGURATIONS", "INTERPRETED", "NARROWEST", "WIDEST", "autotuned", "configurations", "cut", "kind_of",
    "launch", "most_programs", "pairs", "place", "product", "rows_from", "tiles_of", "triangular_root",
]  # fmt: skip

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
"""Whether Triton's interpreter runs the kernels, on the CPU; it is chosen before triton is imported."""

INTERPRETED_PROGRAMS = 3
"""Programs of a launch under the interpreter: few enough that each takes several tiles."""


GROUP: tl.constexpr = tl.constexpr(8)
"""Columns of tiles that the schedule takes together, so that programs side by side find each other's rows in L2."""


def _configuration(
    block_m: int, block_n: int, block_k: int, warps: int, stages: int, per_sm: int, parts: int, *, descriptors: bool
) -> triton.Config:
    sizes = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "PARTS": parts, "PER_SM": per_sm}
    return triton.Config(sizes | {"DESCRIPTORS": descriptors}, num_warps=warps, num_stages=stages)


CONFIGURATIONS: dict[tuple[str, int], tuple[tuple[triton.Config, ...], tuple[triton.Config, ...]]] = {
    # Rows of 16 bits on sm_90: wgmma out of tiles that the copy engine brings. Small programs, of which a
    # multiprocessor holds two, overlap the product of one with the reduction of the other; large ones load less.
    ("16 bits", 90): (
        (
            _configuration(128, 128, 64, 8, 4, 1, 1, descriptors=True),
            _configuration(64, 128, 64, 8, 3, 2, 1, descriptors=True),
        ),
        (
            _configuration(128, 128, 64, 8, 3, 2, 2, descriptors=True),
            _configuration(128, 256, 64, 8, 3, 1, 2, descriptors=True),
        ),
    ),
    # sm_80: mma.sync out of tiles that cp.async brings.
    ("16 bits", 80): (
        (
            _configuration(64, 128, 64, 8, 3, 2, 1, descriptors=False),
            _configuration(64, 64, 64, 4, 3, 3, 1, descriptors=False),
        ),
        (_configuration(128, 128, 32, 8, 3, 1, 2, descriptors=False),),
    ),
    # TF32 has half the rate of 16 bits and twice the bytes.
    ("tf32", 90): (
        (
            _configuration(128, 128, 32, 8, 4, 1, 1, descriptors=True),
            _configuration(64, 128, 32, 8, 3, 2, 1, descriptors=True),
        ),
        (_configuration(128, 128, 32, 8, 3, 2, 2, descriptors=True),),
    ),
    ("tf32", 80): (
        (
            _configuration(64, 128, 32, 8, 3, 2, 1, descriptors=False),
            _configuration(64, 64, 32, 4, 3, 3, 1, descriptors=False),
        ),
        (),
    ),
    # IEEE float32 has no tensor cores: fused multiply-adds, whose operands are registers.
    ("ieee", 80): (
        (_configuration(64, 64, 16, 8, 3, 2, 1, descriptors=False),),
        (_configuration(64, 128, 32, 8, 3, 2, 1, descriptors=False),),
    ),
}
"""What is tried for a kind of product from a compute capability upward: by all kernels, and by light ones as well.

Rows and columns of a tile (never more rows than columns), coordinates of a step, warps, steps in flight, programs on a
multiprocessor, parts in which a tile is counted, and whether tensor descriptors (the copy engine of sm_90) load it.
Under the interpreter the first one runs."""


def configurations(kind: str, capability: int, *, light: bool) -> tuple[triton.Config, ...]:
    """Return the configurations for a kind of product (``"16 bits"``, ``"tf32"``, ``"ieee"``) on a chip.

    `light` kernels need few registers beside the sums.
    """
    least = max(each for name, each in CONFIGURATIONS if name == kind and each <= capability)
    for_all, for_light = CONFIGURATIONS[kind, least]
    return for_all + for_light if light else for_all


_EVERYTHING = list(dict.fromkeys(each for groups in CONFIGURATIONS.values() for group in groups for each in group))

NARROWEST, WIDEST = (pick(each.kwargs["BLOCK_N"] for each in _EVERYTHING) for pick in (min, max))
"""Columns of the narrowest tile and of the widest, which all others divide."""


def kind_of(dtype: torch.dtype, precision: str) -> str:
    """Return which of the configurations rows of this dtype are multiplied with."""
    return "16 bits" if dtype.itemsize == 2 else precision


def autotuned(*outputs: str, light: bool) -> Callable[[Any], Any]:
    """Tune a kernel for each width and dtype of rows, and remember what was found on the disk.

    `outputs` are the arguments that it adds to, which trials must not change.
    """

    def those_for(_: Any, arguments: dict[str, Any], **constants: Any) -> list[triton.Config]:
        rows: Tensor = arguments["a_ptr"]
        kind = kind_of(rows.dtype, constants["PRECISION"])
        if INTERPRETED:
            return list(configurations(kind, 80, light=light)[:1])
        major, minor = torch.cuda.get_device_capability(rows.device)
        return list(configurations(kind, 10 * major + minor, light=light))

    return triton.autotune(
        configs=_EVERYTHING,
        key=["width", "DIAGONAL", "PRECISION"],
        prune_configs_by={"early_config_prune": those_for},
        restore_value=list(outputs),
        cache_results=True,
    )


def _programs(rows: Tensor, per_sm: int) -> int:
    if INTERPRETED:
        return INTERPRETED_PROGRAMS
    return per_sm * torch.cuda.get_device_properties(rows.device).multi_processor_count


def most_programs(rows: Tensor) -> int:
    """Return how many programs a launch over these rows can have."""
    return _programs(rows, max(each.kwargs["PER_SM"] for each in _EVERYTHING))


def launch(kernel: Any, a: Tensor, b: Tensor, *arguments: Any, diagonal: bool, precision: str) -> None:
    """Run a kernel over all pairs of the rows of `a` with those of `b`, or all distinct pairs of `a` if `diagonal`."""

    def grid(chosen: dict[str, Any]) -> tuple[int]:
        return (_programs(a, chosen["PER_SM"]),)

    if INTERPRETED and a.dtype == torch.bfloat16:
        # The interpreter would multiply their bits as integers; float32 holds the same values and exact products.
        a, b = a.to(torch.float32), b.to(torch.float32)
    # Tensor descriptors are kept in a little memory that each launch asks for.
    triton.set_allocator(lambda size, _align, _stream: torch.empty(size, dtype=torch.int8, device=a.device))
    sizes = (a.stride(0), b.stride(0), a.shape[0], b.shape[0], a.shape[1])
    kernel[grid](a, b, *sizes, *arguments, DIAGONAL=diagonal, PRECISION=precision, enable_fp_fusion=False)


@triton.jit
def triangular_root(u):
    """Return the largest q with q (q + 1) / 2 <= u; exact for u < 2^21, with a root that is rounded to the nearest."""
    return tl.cast((tl.sqrt_rn(tl.cast(8 * u + 1, tl.float32)) - 1) * 0.5, tl.int32)


@triton.jit
def _before(
    group, m_blocks, DIAGONAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    """How many places there are before a group of columns."""
    if DIAGONAL:
        return GROUP * GROUP * (BLOCK_N // BLOCK_M) * (group * (group + 1) // 2)
    else:
        return GROUP * m_blocks * group


@triton.jit
def tiles_of(
    rows, cols, DIAGONAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    """How many places the schedule has: all tiles, or those of groups of columns down to the diagonal."""
    m_blocks, n_blocks = tl.cdiv(rows, BLOCK_M), tl.cdiv(cols, BLOCK_N)
    last = (n_blocks - 1) // GROUP
    return _before(last, m_blocks, DIAGONAL, BLOCK_M, BLOCK_N) + (n_blocks - last * GROUP) * m_blocks


@triton.jit
def place(
    t, rows, cols, DIAGONAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    """First row and first column of place `t`, and whether there is a tile: some places lie below the diagonal.

    Places go down through a group of columns, then on to the next group; above the diagonal a group has as many rows as
    reach its last column.
    """
    m_blocks, n_blocks = tl.cdiv(rows, BLOCK_M), tl.cdiv(cols, BLOCK_N)
    if DIAGONAL:
        group = triangular_root(t // (GROUP * GROUP * (BLOCK_N // BLOCK_M)))
    else:
        group = t // (GROUP * m_blocks)
    within = t - _before(group, m_blocks, DIAGONAL, BLOCK_M, BLOCK_N)
    across = tl.minimum(GROUP, n_blocks - group * GROUP)
    i0, j0 = within // across * BLOCK_M, (group * GROUP + within % across) * BLOCK_N
    wanted = i0 < rows
    if DIAGONAL:
        wanted = wanted & (j0 + BLOCK_N - 1 > i0)
    return i0, j0, wanted


@triton.jit
def rows_from(
    ptr, stride, n, width, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, DESCRIPTORS: tl.constexpr
):  # fmt: skip
    """Rows as tiles are loaded from: a tensor descriptor, made once a program, or the pointer to them."""
    if DESCRIPTORS:
        return tl.make_tensor_descriptor(ptr, [n, width], [stride, 1], [BLOCK, BLOCK_K])
    else:
        return ptr


@triton.jit
def product(
    a, b, stride_am, stride_bn, rows, cols, width, i0, j0,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    """Products of BLOCK_M rows of one side with BLOCK_N of the other, summed in float32.

    Rows beyond the last are anything.
    """
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if DESCRIPTORS:
        # The copy engine fills what lies outside with zeros.
        for k0 in range(0, width, BLOCK_K):
            sums = tl.dot(a.load([i0, k0]), b.load([j0, k0]).T, sums, input_precision=PRECISION)
    else:
        i = tl.minimum(i0 + tl.arange(0, BLOCK_M), rows - 1).to(tl.int64)
        j = tl.minimum(j0 + tl.arange(0, BLOCK_N), cols - 1).to(tl.int64)
        k = tl.arange(0, BLOCK_K)
        a_ptrs = a + i[:, None] * stride_am + k[None, :]
        b_ptrs = b + j[None, :] * stride_bn + k[:, None]
        for k0 in range(0, width, BLOCK_K):
            left = tl.load(a_ptrs + k0, mask=k[None, :] < width - k0, other=0.0)
            right = tl.load(b_ptrs + k0, mask=k[:, None] < width - k0, other=0.0)
            sums = tl.dot(left, right, sums, input_precision=PRECISION)
    return sums


@triton.jit
def cut(i0, j0, rows, cols, DIAGONAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Whether a tile has entries that are no pairs: beyond the last row or column, or not above the diagonal.

    Most have none, and need no mask.
    """
    outside = (i0 + BLOCK_M > rows) | (j0 + BLOCK_N > cols)
    if DIAGONAL:
        outside = outside | (i0 + BLOCK_M > j0)
    return outside


@triton.jit
def pairs(i0, j0, rows, cols, DIAGONAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Which entries of a tile are pairs to be seen: inside the matrix, and above its diagonal where it has one."""
    i, j = i0 + tl.arange(0, BLOCK_M), j0 + tl.arange(0, BLOCK_N)
    # Those of rows that there are not begin after all columns.
    after = tl.where(i < rows, i if DIAGONAL else -1, cols)
    return (j[None, :] > after[:, None]) & (j[None, :] < cols)
