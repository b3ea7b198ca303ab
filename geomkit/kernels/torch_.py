"""The torch kernels: one code for the CPU and for any device that torch drives.

What a reduction leaves behind changes only once everything is there that it adds: where memory runs out in the middle,
it has not taken in the tile. Tiles are gone through in slabs of rows, so that temporaries stay small, and nothing waits
for a device but `above`, which must know how many pairs there are.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

COUNTER = "int64"
"""Dtype of the banks that a tally counts in."""

KEY: dict[str, str] = {}
"""Dtype of the keys of candidates, where it is not int32."""

FUSED = False
"""Whether tiles are named, for kernels to compute, instead of computed."""

COLUMNS = 1
"""Rows are padded with zeros to a multiple of this many columns."""


def entries(dtype: str) -> str:
    """Dtype of the entries of tiles of rows of this dtype."""
    return dtype


def places(keep: int) -> int:
    """Return how many places a list needs in which the best `keep` are looked for."""
    return 2 * keep


def _dtype(name: str) -> torch.dtype:
    known = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "float64": torch.float64}
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
    if left.dtype.itemsize == 2:
        pieces.append((lifts - pieces[0].to(torch.float64)).to(left.dtype))
    ones = [torch.ones_like(pieces[0])] * len(pieces)
    d = x.shape[1]
    for out, further in ((left, pieces + ones), (right, ones + pieces)):
        if len(out):
            out[:, :d] = rows
            if form:
                out[:, d : d + len(further)] = torch.stack(further, dim=1)
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


SLAB = 2**24
"""Entries of a tile that temporaries are made of at a time: 64 MiB each in float32."""

DIFFERENCES = 2**22
"""Coordinates of pairs of rows that are held at a time, in float64."""

LANES = 16
"""Neighbouring entries of an accelerator that are counted apart, for equal ones wait for each other's increment."""


def minkowski(a: Tensor, b: Tensor, out: Tensor, p: float) -> None:
    """Power means of the coordinate differences: the Minkowski distance over d^(1/p), and the largest for p = inf."""
    d = a.shape[1]
    if p in {1, 2} or math.isinf(p):
        out.copy_(torch.cdist(a, b, p=p, compute_mode="donot_use_mm_for_euclid_dist"))
        if not math.isinf(p):
            out.div_(d ** (1 / p))
        return
    width = max(1, min(len(b), DIFFERENCES // d))
    height = max(1, DIFFERENCES // (width * d))
    for j in range(0, len(b), width):
        others = b[j : j + width].to(torch.float64)
        for i in range(0, len(a), height):
            differences = (a[i : i + height, None, :].to(torch.float64) - others).abs_()
            largest = differences.amax(dim=2)
            differences.div_(torch.where(largest > 0, largest, 1.0)[:, :, None]).pow_(p)
            out[i : i + height, j : j + width] = largest * differences.mean(dim=2).pow_(1 / p)


def _slabs(tile: Tensor, diagonal: bool) -> Iterator[tuple[int, int, Tensor]]:
    """First row, first column and entries of a few rows at a time.

    Of a tile on the diagonal the columns that are above it in the first of the rows: of the slab, what is on or above
    its own diagonal counts.
    """
    step = max(1, SLAB // max(1, tile.shape[1]))
    for row in range(0, tile.shape[0], step):
        col = row + 1 if diagonal else 0
        slab = tile[row : row + step, col:]
        if slab.numel():
            yield row, col, slab


def _fence(slab: Tensor, diagonal: bool) -> Tensor | float:
    """Infinity below the diagonal of a slab and 0 elsewhere: added, it leaves only what counts to be the least."""
    return torch.full_like(slab, math.inf).tril_(-1) if diagonal else 0.0


class _Counts:
    """Counts of 16-bit patterns from many slabs."""

    def __init__(self, device: torch.device) -> None:
        self.lanes = self.lanes_of(device)
        # A tile has fewer than 2^31 entries, and devices count faster in 32 bits.
        self.found = torch.zeros(self.lanes * 65536, dtype=torch.int32, device=device)
        self.one = torch.ones((), dtype=torch.int32, device=device)
        self.extra = 0

    @staticmethod
    def lanes_of(device: torch.device) -> int:
        """Return how many neighbours are counted apart."""
        return 1 if device.type == "cpu" else LANES

    def add(self, patterns: Tensor, diagonal: bool) -> None:
        """Count the int32 patterns of a slab, in place."""
        height, width = patterns.shape
        if diagonal:
            # What does not count is counted as 0, and taken back.
            patterns.triu_()
            self.extra += height * (height - 1) // 2
        if self.lanes > 1:
            lane = torch.arange(width, dtype=torch.int32, device=patterns.device) % self.lanes
            patterns += lane * 65536
        self.found.index_add_(0, patterns.reshape(-1), self.one.expand(patterns.numel()))

    def total(self) -> Tensor:
        """Add up the lanes, (65536,) int64."""
        total = self.found.view(self.lanes, 65536).sum(dim=0)
        total[0] -= self.extra
        return total


def tally(tile: Tensor, diagonal: bool, centre: float, counts: Tensor, sums: Tensor, extremes: Tensor) -> None:
    """Count the bfloat16 bit patterns of ``tile - centre``; add its power sums; widen the extremes."""
    found, low, high, powers = _Counts(tile.device), [], [], []
    # As a number of the tile's own dtype, which takes no copy to the device.
    centre = torch.tensor(centre, dtype=tile.dtype).item()
    for _, _, slab in _slabs(tile, diagonal):
        fence = _fence(slab, diagonal)
        low.append((slab + fence if diagonal else slab).amin())
        high.append((slab - fence if diagonal else slab).amax())
        del fence
        off = slab - centre
        if diagonal:
            off.triu_()
        # Of each row in its own dtype, and of rows in float64.
        square = off * off
        rows = [off.sum(dim=1), square.sum(dim=1)]
        # Round to the upper 16 bits, ties away from zero; what runs over is cut off.
        patterns = off.to(torch.float32).view(torch.int32) + 0x8000
        found.add(patterns.bitwise_right_shift_(16).bitwise_and_(0xFFFF), diagonal)
        del patterns
        rows.append(off.mul_(square).sum(dim=1))
        rows.append(square.mul_(square).sum(dim=1))
        powers.append(torch.stack(rows).sum(dim=1, dtype=torch.float64))
    if not powers:
        return
    added, total = found.total(), torch.stack(powers).sum(dim=0)
    least, largest = torch.stack(low).amin().to(torch.float64), torch.stack(high).amax().to(torch.float64)
    counts[0].add_(added)
    sums.add_(total)
    torch.minimum(extremes[0], least, out=extremes[0])
    torch.maximum(extremes[1], largest, out=extremes[1])


def count(tile: Tensor, diagonal: bool, counts: Tensor) -> None:
    """Count the bit patterns of a bfloat16 tile."""
    found = _Counts(tile.device)
    for _, _, slab in _slabs(tile, diagonal):
        found.add(slab.view(torch.int16).to(torch.int32).bitwise_and_(0xFFFF), diagonal)
    added = found.total()
    counts[0].add_(added)


def _ranges(tile: Tensor, diagonal: bool, size: int) -> list[Tensor]:
    """(least, largest) of each row, and of each column; with three places, the sums as well; float64."""
    sides = [torch.zeros((size, length), dtype=torch.float64, device=tile.device) for length in tile.shape]
    for side in sides:
        side[0], side[1] = math.inf, -math.inf
    for row, col, slab in _slabs(tile, diagonal):
        fence = _fence(slab, diagonal)
        rows, cols = sides[0][:, row : row + len(slab)], sides[1][:, col:]
        low = slab + fence if diagonal else slab
        rows[0] = low.amin(dim=1)
        torch.minimum(cols[0], low.amin(dim=0).to(torch.float64), out=cols[0])
        high = slab - fence if diagonal else slab
        rows[1] = high.amax(dim=1)
        torch.maximum(cols[1], high.amax(dim=0).to(torch.float64), out=cols[1])
        del low, high, fence
        if size == 3:
            wide = slab.to(torch.float64)
            if diagonal:
                wide = wide.triu()
            rows[2] = wide.sum(dim=1)
            cols[2] += wide.sum(dim=0)
    return sides


def row_ranges(tile: Tensor, diagonal: bool, rows: Tensor, cols: Tensor) -> None:
    """Update (least, largest, sum) of each row of the full matrix of pairs from one tile, for both triangles."""
    for state, found in zip((rows, cols), _ranges(tile, diagonal, 3), strict=True):
        torch.minimum(state[0], found[0], out=state[0])
        torch.maximum(state[1], found[1], out=state[1])
        state[2].add_(found[2])


def row_extremes(tile: Tensor, diagonal: bool, rows: Tensor, cols: Tensor) -> None:
    """Update (least, largest) of each row of the full matrix of pairs from one tile, for both triangles."""
    for state, found in zip((rows, cols), _ranges(tile, diagonal, 2), strict=True):
        torch.minimum(state[0], found[0], out=state[0])
        torch.maximum(state[1], found[1], out=state[1])


def above(tile: Tensor, diagonal: bool, threshold: float) -> Tensor:
    """Rows and columns of the entries of at least `threshold`, (2, m)."""
    # The least number of the tile's dtype that is not below it: no entry lies between.
    least = torch.tensor(threshold, dtype=tile.dtype)
    if least.item() < threshold:
        least = torch.nextafter(least, torch.tensor(math.inf, dtype=tile.dtype))
    found = [torch.empty((0, 2), dtype=torch.int64, device=tile.device)]
    for row, col, slab in _slabs(tile, diagonal):
        reached = slab >= least.item()
        pairs = (reached.triu_() if diagonal else reached).nonzero()
        pairs[:, 0] += row
        pairs[:, 1] += col
        found.append(pairs)
    return torch.cat(found).T


def screen(tile: Tensor, diagonal: bool, i0: int, j0: int, lists: Tensor, dropped: Tensor, floor: Tensor) -> None:
    """Keep the best candidates of each row from one tile, for both triangles; keys are those of float32 entries."""
    height, width = tile.shape
    ready = []
    step = max(1, SLAB // max(1, width))
    for i in range(0, height, step):
        part = tile[i : i + step]
        ready.append(_merged(part, slice(i0 + i, i0 + i + len(part)), j0, lists))
    step = max(1, SLAB // max(1, height))
    for j in range(0, 0 if diagonal else width, step):
        part = tile[:, j : j + step].T.contiguous()
        ready.append(_merged(part, slice(j0 + j, j0 + j + len(part)), i0, lists))
    for own, kept, size, last in ready:
        lists[own, 1:].copy_(kept)
        lists[own, 0].copy_(size)
        dropped[own].copy_(last)
        floor[own].copy_(last)


def _merged(entries: Tensor, own: slice, first: int, lists: Tensor) -> tuple[slice, Tensor, Tensor, Tensor]:
    """Merge entries of some rows with the others from `first` on into their lists, best first.

    Returns
    -------
    own : slice
        The rows.
    kept, size, last
        Their candidates, how many are none of the least, and the last one's key.
    """
    most, least = lists.shape[1] - 1, torch.iinfo(torch.int32).min
    # The entry of a row with itself may be one of them.
    values, at = entries.topk(min(most + 1, entries.shape[1]), dim=1, sorted=False)
    bits = values.to(torch.float32).view(torch.int32)
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64)
    others = at + first
    itself = torch.arange(own.start, own.stop, device=entries.device)[:, None] == others
    packed = torch.cat([lists[own, 1:], (torch.where(itself, least, keys) << 32) | others], dim=1)
    kept = packed.topk(most, dim=1).values
    keys = kept >> 32
    return own, kept, (keys > least).sum(dim=1), keys[:, -1].to(torch.int32)


def exact_scores(
    left: Tensor, right: Tensor, ids: Any, euclidean: bool, left_factors: Any, right_factors: Any, out: Tensor
) -> None:
    """Scores in float64 of each left row with the right rows numbered in `ids`; -inf where a number is negative."""
    numbers = torch.as_tensor(ids, device=left.device)
    factors = torch.as_tensor(left_factors, device=left.device)
    others_factors = torch.as_tensor(right_factors, device=left.device)
    own = left.to(torch.float64) * factors[:, None]
    # A block of rows at a time: rows x candidates x coordinates would not fit for all.
    step = max(1, DIFFERENCES // max(1, numbers.shape[1] * left.shape[1]))
    for i in range(0, left.shape[0], step):
        wanted = numbers[i : i + step]
        some = wanted.clamp(min=0)
        others = right[some].to(torch.float64)
        if euclidean:
            differences = own[i : i + step, None, :] - others * factors[i : i + step, None, None]
            scores = -differences.square().sum(dim=2)
        else:
            # Not a matrix product, whose rounding of one score would depend on how many there are.
            scores = (others * own[i : i + step, None, :]).sum(dim=2) * others_factors[some]
        out[i : i + step] = torch.where(wanted < 0, -math.inf, scores)
