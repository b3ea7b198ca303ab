"""The torch kernels: one code for the CPU and for any device that torch drives. The only kernel module with torch."""

import math
from typing import Any

import torch
from torch import Tensor

COUNTER = "int64"
"""Dtype of the banks that a tally counts in."""

KEY: dict[str, str] = {}
"""Dtype of the keys of candidates, where it is not int32."""


def _dtype(name: str) -> torch.dtype:
    known = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
    known |= {"int16": torch.int16, "int32": torch.int32, "int64": torch.int64}
    return known[name]


def zeros(shape: tuple[int, ...], dtype: str, device: Any = None) -> Tensor:
    """Zero-filled working memory on the device."""
    return torch.zeros(shape, dtype=_dtype(dtype), device=device)


def to_numpy(a: Tensor) -> Any:
    """Copy a (small) result to the host as a NumPy array."""
    return a.detach().cpu().numpy()


def as_working(block: Any, dtype: str, device: Any = None) -> Tensor:
    """C-ordered rows in `dtype` on the device; a copy only where one is needed."""
    if not isinstance(block, Tensor):
        # torch cannot share memory that NumPy says is read-only (memory maps): those rows are copied.
        block = torch.from_numpy(block if block.flags.writeable else block.copy())
    return block.to(device=device, dtype=_dtype(dtype)).contiguous()


def product(precision: str, operations: float) -> str:  # noqa: ARG001
    """Name of the matrix product that runs."""
    return "torch"


def storage(precision: str, operations: float) -> str:  # noqa: ARG001
    """Dtype in which rows are stored."""
    return precision


def unit_rows(x: Tensor, out: Tensor) -> Tensor:
    """Divide each row by its norm; NaN marks a row that is not finite, and a zero row stays zero with norm 0."""
    wide = x.to(torch.float64)
    largest = wide.abs().amax(dim=1)
    finite = torch.isfinite(largest)
    usable = finite & (largest > 0)
    # A power of two near the largest entry: dividing by it is exact and keeps squares inside the range.
    exponent = torch.frexp(torch.where(usable, largest, 1.0)).exponent.to(torch.float64) - 1
    scale = torch.exp2(exponent)
    scaled = wide / scale[:, None]
    norms = torch.linalg.vector_norm(scaled, dim=1)
    out.copy_(scaled / torch.where(norms > 0, norms, 1.0)[:, None])
    return torch.where(finite, norms * scale, math.nan)


def centred_rows(x: Tensor, mean: Any, scale: float, out: Tensor) -> Tensor:
    """Subtract `mean`, divide by `scale`, and return each row's squared norm; NaN marks a row that is not finite."""
    middle = torch.as_tensor(mean, dtype=torch.float64, device=x.device)
    out.copy_((x.to(torch.float64) - middle) / scale)
    squares = out.to(torch.float64).square().sum(dim=1)
    return torch.where(torch.isfinite(squares), squares, math.nan)


def unit_sums(x: Tensor, total: Tensor) -> Tensor:
    """Add the unit rows to `total`; return the norms, NaN for a row that is not finite, which adds nothing."""
    unit = torch.empty(x.shape, dtype=torch.float64, device=x.device)
    norms = unit_rows(x, unit)
    total += torch.where(torch.isnan(norms)[:, None], 0.0, unit).sum(dim=0)
    return norms


def residual_rows(x: Tensor, divisors: Any, mean: Any, form: int, offset: float, left: Tensor, right: Tensor) -> Tensor:
    """Rows over their divisors, less the mean, with their lifts as further columns; (lengths, slips, lifts)."""
    middle = torch.as_tensor(mean, device=x.device)
    rows = x.to(torch.float64) / torch.as_tensor(divisors, device=x.device)[:, None]
    if form:
        rows = rows - middle
    squares = rows.square().sum(dim=1)
    lifts = (-squares / 2 if form == 2 else rows @ middle) + offset
    pieces = [lifts.to(left.dtype)]
    if left.dtype == torch.bfloat16:
        pieces.append((lifts - pieces[0].to(torch.float64)).to(left.dtype))
    ones = [torch.ones_like(pieces[0])] * len(pieces)
    for out, further in ((left, pieces + ones), (right, ones + pieces)):
        if len(out):
            out[:, : x.shape[1]] = rows
            if form:
                out[:, x.shape[1] :] = torch.stack(further, dim=1)
    slips = torch.linalg.vector_norm(rows - rows.to(left.dtype).to(torch.float64), dim=1)
    return torch.stack([squares.sqrt(), slips, lifts])


def gram(a: Tensor, b: Tensor, out: Tensor) -> None:
    """All inner products of the rows of `a` with the rows of `b`."""
    torch.mm(a, b.T, out=out)


def euclidean(a: Tensor, b: Tensor, out: Tensor, a_squares: Any, b_squares: Any) -> None:
    """Euclidean distances through the product; a negative square is rounding and becomes 0."""
    torch.mm(a, b.T, out=out)
    left = torch.as_tensor(a_squares, device=out.device).to(out.dtype)
    right = torch.as_tensor(b_squares, device=out.device).to(out.dtype)
    out.mul_(-2).add_(left[:, None]).add_(right[None, :]).clamp_(min=0).sqrt_()


def minkowski(a: Tensor, b: Tensor, out: Tensor, p: float) -> None:
    """Power means of the coordinate differences: the Minkowski distance over d^(1/p), and the largest for p = inf."""
    d = a.shape[1]
    if p in {1, 2} or math.isinf(p):
        out.copy_(torch.cdist(a, b, p=p, compute_mode="donot_use_mm_for_euclid_dist"))
        if not math.isinf(p):
            out.div_(d ** (1 / p))
        return
    # A block of rows at a time: rows x columns x coordinates in float64 would not fit for a whole tile.
    step = max(1, 2**22 // max(1, b.numel()))
    wide = b.to(torch.float64)
    for i in range(0, a.shape[0], step):
        differences = (a[i : i + step, None, :].to(torch.float64) - wide[None, :, :]).abs_()
        largest = differences.amax(dim=2)
        differences.div_(torch.where(largest > 0, largest, 1.0)[:, :, None]).pow_(p)
        out[i : i + step] = largest * differences.mean(dim=2).pow(1 / p)


def tally(tile: Tensor, diagonal: bool, centre: float, counts: Tensor, sums: Tensor, extremes: Tensor) -> None:
    """Count the bfloat16 bit patterns of ``tile - centre``; add its power sums; widen the extremes."""
    values = _above_diagonal(tile) if diagonal else tile.reshape(-1)
    if values.numel() == 0:
        return
    shifted = values - torch.tensor(centre, dtype=tile.dtype, device=tile.device)
    bits = shifted.to(torch.float32).view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    patterns = (bits + 0x8000) >> 16
    counts[0] += torch.bincount(patterns & 0xFFFF, minlength=65536)
    wide = shifted.to(torch.float64)
    power = wide.clone()
    for k in range(4):
        sums[k] += power.sum()
        power *= wide
    extremes[0] = torch.minimum(extremes[0], values.min().to(extremes.dtype))
    extremes[1] = torch.maximum(extremes[1], values.max().to(extremes.dtype))


def count(tile: Tensor, diagonal: bool, counts: Tensor) -> None:
    """Count the bit patterns of a bfloat16 tile."""
    values = _above_diagonal(tile) if diagonal else tile.reshape(-1)
    counts[0] += torch.bincount(values.view(torch.int16).to(torch.int64) & 0xFFFF, minlength=65536)


def _above_diagonal(tile: Tensor) -> Tensor:
    rows, cols = torch.triu_indices(tile.shape[0], tile.shape[1], offset=1, device=tile.device)
    return tile[rows, cols]


def row_ranges(tile: Tensor, diagonal: bool, rows: Tensor, cols: Tensor) -> None:
    """Update (least, largest, sum) of each row of the full matrix of pairs from one tile, for both triangles."""
    low = high = tile
    total = tile
    if diagonal:
        seen = torch.ones_like(tile, dtype=torch.bool).triu_(1)
        low = torch.where(seen, tile, math.inf)
        high = torch.where(seen, tile, -math.inf)
        total = torch.where(seen, tile, 0.0)
    for state, dim in ((rows, 1), (cols, 0)):
        torch.minimum(state[0], low.amin(dim=dim).to(state.dtype), out=state[0])
        torch.maximum(state[1], high.amax(dim=dim).to(state.dtype), out=state[1])
        state[2] += total.sum(dim=dim, dtype=torch.float64)


def row_extremes(tile: Tensor, diagonal: bool, rows: Tensor, cols: Tensor) -> None:
    """Update (least, largest) of each row of the full matrix of pairs from one tile, for both triangles."""
    low = high = tile
    if diagonal:
        seen = torch.ones_like(tile, dtype=torch.bool).triu_(1)
        low = torch.where(seen, tile, math.inf)
        high = torch.where(seen, tile, -math.inf)
    for state, dim in ((rows, 1), (cols, 0)):
        torch.minimum(state[0], low.amin(dim=dim).to(state.dtype), out=state[0])
        torch.maximum(state[1], high.amax(dim=dim).to(state.dtype), out=state[1])


def above(tile: Tensor, diagonal: bool, threshold: float) -> Tensor:
    """Rows and columns of the entries of at least `threshold`, (2, m)."""
    reached = tile.to(torch.float64) >= threshold
    return (reached.triu(1) if diagonal else reached).nonzero().T


def screen(tile: Tensor, diagonal: bool, i0: int, j0: int, lists: Tensor, dropped: Tensor, floor: Tensor) -> None:
    """Keep the best candidates of each row from one tile, for both triangles; keys are those of float32 entries."""
    bits = tile.to(torch.float32).view(torch.int32)
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64)
    least = torch.iinfo(torch.int32).min
    rows = torch.arange(i0, i0 + tile.shape[0], device=tile.device)
    cols = torch.arange(j0, j0 + tile.shape[1], device=tile.device)
    sides = [(rows, cols, torch.where(rows[:, None] == cols, least, keys))]
    if not diagonal:
        sides.append((cols, rows, keys.T))
    for own, others, entries in sides:
        packed = torch.cat([lists[own, 1:], (entries << 32) | others], dim=1)
        kept = packed.topk(lists.shape[1] - 1, dim=1).values
        lists[own, 1:] = kept
        lists[own, 0] = (kept >> 32 > least).sum(dim=1)
        dropped[own] = floor[own] = (kept[:, -1] >> 32).to(torch.int32)


def exact_scores(
    left: Tensor, right: Tensor, ids: Any, euclidean: bool, left_factors: Any, right_factors: Any, out: Tensor
) -> None:
    """Scores in float64 of each left row with the right rows numbered in `ids`; -inf where a number is negative."""
    numbers = torch.as_tensor(ids, device=left.device)
    factors = torch.as_tensor(left_factors, device=left.device)
    own = left.to(torch.float64) * factors[:, None]
    # A block of rows at a time: rows x candidates x coordinates would not fit for all.
    step = max(1, 2**22 // max(1, numbers.shape[1] * left.shape[1]))
    for i in range(0, left.shape[0], step):
        wanted = numbers[i : i + step]
        others = right[wanted.clamp(min=0)].to(torch.float64)
        if euclidean:
            differences = own[i : i + step, None, :] - others * factors[i : i + step, None, None]
            scores = -differences.square().sum(dim=2)
        else:
            # Not a matrix product, whose rounding of one score would depend on how many there are.
            scores = (others * own[i : i + step, None, :]).sum(dim=2)
            scores = scores * torch.as_tensor(right_factors, device=left.device)[wanted.clamp(min=0)]
        out[i : i + step] = torch.where(wanted < 0, -math.inf, scores)
