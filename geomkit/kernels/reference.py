"""The definition of every kernel: plain NumPy, in float64. Slow, short, and what the other backends are held to."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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


def zeros(shape: tuple[int, ...], dtype: str, device: object = None) -> NDArray[Any]:  # noqa: ARG001
    """Zero-filled working memory."""
    return np.zeros(shape, dtype)


def to_numpy(a: NDArray[Any]) -> NDArray[Any]:
    """Identity: working memory is NumPy already."""
    return a


def as_working(block: NDArray[Any], dtype: str, device: object = None) -> NDArray[Any]:  # noqa: ARG001
    """C-ordered rows in `dtype`; a copy only where one is needed."""
    return np.ascontiguousarray(block, dtype)


def product(precision: str, operations: float) -> str:  # noqa: ARG001
    """Name of the matrix product that runs."""
    return "numpy"


def storage(precision: str, operations: float) -> str:  # noqa: ARG001
    """Dtype in which rows are stored."""
    return "float64"


def unit_rows(x: Array, out: Array) -> Array:
    """Divide each row by its norm; NaN marks a row that is not finite, and a zero row stays zero with norm 0."""
    largest = np.abs(x).max(axis=1)
    finite = np.isfinite(largest)
    # A power of two near the largest entry: dividing by it is exact and keeps squares inside the range.
    scale = np.exp2(np.frexp(np.where(finite & (largest > 0), largest, 1.0))[1].astype(np.float64) - 1)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = x / scale[:, None]
        norms = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))
        out[:] = scaled / np.where(norms > 0, norms, 1.0)[:, None]
        return np.where(finite, norms * scale, np.nan)


def centred_rows(x: Array, mean: Array, scale: float, out: Array) -> Array:
    """Subtract `mean`, divide by `scale`, and return each row's squared norm; NaN marks a row that is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        out[:] = (x - mean) / scale
        squares = np.einsum("ij,ij->i", out, out)
    return np.where(np.isfinite(squares), squares, np.nan)


def unit_sums(x: Array, total: Array) -> Array:
    """Add the unit rows to `total`; return the norms, NaN for a row that is not finite, which adds nothing."""
    unit = np.empty_like(x)
    norms = unit_rows(x, unit)
    total += unit[~np.isnan(norms)].sum(axis=0)
    return norms


def residual_rows(x: Array, divisors: Array, mean: Array, form: int, offset: float, left: Array, right: Array) -> Array:
    """Rows over their divisors, less the mean, with their lifts as further columns.

    `form` 0 is the plain row, which gets no further columns, 1 the row less the mean, 2 the same with minus half of its
    square as lift; the lift of the others is the product with the mean. `offset` is added to every lift. Further
    columns are (lift, 1) on the left and (1, lift) on the right, in two pieces each where they are bfloat16. A factor
    without rows is not wanted. Returned are the norms of the rows, those of what rounding to the dtype of the factors
    takes from them, and the lifts, (3, n) in float64.
    """
    rows = x / divisors[:, None] - (mean if form else 0.0)
    squares = np.einsum("ij,ij->i", rows, rows)
    lifts = (-squares / 2 if form == 2 else rows @ mean) + offset
    ones = np.ones(len(rows))
    for out, further in ((left, (lifts, ones)), (right, (ones, lifts))):
        if len(out):
            out[:, : x.shape[1]] = rows
            if form:
                out[:, -2], out[:, -1] = further
    return np.stack([np.sqrt(squares), np.zeros(len(rows)), lifts])


def gram(a: Array, b: Array, out: Array) -> None:
    """All inner products of the rows of `a` with the rows of `b`."""
    np.matmul(a, b.T, out=out)


def euclidean(a: Array, b: Array, out: Array, a_squares: Array, b_squares: Array) -> None:
    """Euclidean distances; the reference takes differences, which the squared norms are only a short cut for."""
    del a_squares, b_squares
    for i, row in enumerate(a):
        out[i] = np.sqrt(np.square(row - b).sum(axis=1))


def minkowski(a: Array, b: Array, out: Array, p: float) -> None:
    """Power means of the coordinate differences: the Minkowski distance over d^(1/p), and the largest for p = inf.

    The mean instead of the sum keeps every intermediate between the least and the largest difference, so that no p
    overflows.
    """
    for i, row in enumerate(a):
        differences = np.abs(row - b)
        largest = differences.max(axis=1)
        if np.isinf(p):
            out[i] = largest
        else:
            shares = differences / np.where(largest > 0, largest, 1.0)[:, None]
            out[i] = largest * np.mean(shares**p, axis=1) ** (1 / p)


def _seen(tile: NDArray[Any], *, diagonal: bool) -> NDArray[np.bool_]:
    return np.triu(np.ones(tile.shape, bool), 1) if diagonal else np.ones(tile.shape, bool)


def tally(tile: Array, diagonal: bool, centre: float, counts: NDArray[np.int64], sums: Array, extremes: Array) -> None:
    """Count the bfloat16 bit patterns of ``tile - centre``; add its power sums; widen the extremes.

    `counts` is four banks of 65,536, to be added up; which of them a backend uses is its own affair. `sums` are the
    first four powers of ``tile - centre``, `extremes` the least and the largest entry of the tile itself.
    """
    values = tile[_seen(tile, diagonal=diagonal)]
    if values.size == 0:
        return
    shifted = values - centre
    bits = shifted.astype(np.float32).view(np.uint32)
    # Round to nearest on the magnitude (ties away from zero). In 64 bits, since the largest pattern would wrap.
    patterns = ((bits.astype(np.int64) + 0x8000) >> 16) & 0xFFFF
    counts[0] += np.bincount(patterns, minlength=65536)
    for k in range(4):
        sums[k] += np.sum(shifted ** (k + 1))
    extremes[0] = min(extremes[0], values.min())
    extremes[1] = max(extremes[1], values.max())


def count(tile: Array, diagonal: bool, counts: NDArray[np.int64]) -> None:
    """Count the bit patterns of a tile whose entries are bfloat16 already, into the first of four banks."""
    bits = tile[_seen(tile, diagonal=diagonal)].astype(np.float32).view(np.uint32)
    counts[0] += np.bincount(bits >> 16, minlength=65536)


def row_ranges(tile: Array, diagonal: bool, rows: Array, cols: Array) -> None:
    """Update (least, largest, sum) of each row of the full matrix of pairs from one tile, for both triangles."""
    seen = _seen(tile, diagonal=diagonal)
    for state, axis in ((rows, 1), (cols, 0)):
        np.minimum(state[0], np.where(seen, tile, np.inf).min(axis=axis), out=state[0])
        np.maximum(state[1], np.where(seen, tile, -np.inf).max(axis=axis), out=state[1])
        state[2] += np.where(seen, tile, 0.0).sum(axis=axis)


def row_extremes(tile: Array, diagonal: bool, rows: Array, cols: Array) -> None:
    """Update (least, largest) of each row of the full matrix of pairs from one tile, for both triangles."""
    seen = _seen(tile, diagonal=diagonal)
    for state, axis in ((rows, 1), (cols, 0)):
        np.minimum(state[0], np.where(seen, tile, np.inf).min(axis=axis), out=state[0])
        np.maximum(state[1], np.where(seen, tile, -np.inf).max(axis=axis), out=state[1])


def above(tile: Array, diagonal: bool, threshold: float) -> NDArray[np.int64]:
    """Rows and columns of the entries of at least `threshold`, (2, m)."""
    return np.stack(np.nonzero(_seen(tile, diagonal=diagonal) & (tile >= threshold)))


def screen(
    tile: Array,
    diagonal: bool,
    i0: int,
    j0: int,
    lists: NDArray[np.int64],
    dropped: NDArray[np.int32],
    floor: NDArray[np.int32],
) -> None:
    """Keep the best candidates of each row from one tile, for both triangles.

    A list is how many candidates it has, and then the candidates: the key of an entry above the number of a row, 32
    bits each. Keys are the bit patterns of entries in float32 as signed integers that compare like them. Nothing that
    was left out exceeds `dropped`. What is not above the `floor` of its row may be left out unseen.
    """
    bits = tile.astype(np.float32).view(np.int32)
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)
    rows, cols = np.arange(i0, i0 + tile.shape[0]), np.arange(j0, j0 + tile.shape[1])
    sides = [(rows, cols, np.where(rows[:, None] == cols, np.iinfo(np.int32).min, keys))]
    if not diagonal:
        sides.append((cols, rows, keys.T))
    for own, others, entries in sides:
        packed = np.concatenate([lists[own, 1:], (entries << 32) | others], axis=1)
        kept = np.sort(packed, axis=1)[:, : -lists.shape[1] : -1]
        lists[own, 1:] = kept
        lists[own, 0] = np.sum(kept >> 32 > np.iinfo(np.int32).min, axis=1)
        dropped[own] = floor[own] = kept[:, -1] >> 32


def shortlist(values: Array, ids: NDArray[np.int64], errors: Array, share: float, k: int) -> NDArray[np.int64]:
    """Candidates that may be among the k best, given how far each value may be off; the others become -1.

    A value v of row i may be off by ``errors[i] + share |v|``.
    """
    values = np.where(ids < 0, -np.inf, values)
    with np.errstate(invalid="ignore"):
        off = np.where(ids < 0, 0.0, share * np.abs(values) + errors[:, None])
    least = -np.sort(-(values - off), axis=1)[:, min(k, values.shape[1]) - 1]
    return np.where((ids >= 0) & (values + off >= least[:, None]), ids, -1)


def exact_scores(
    left: Array, right: Array, ids: NDArray[np.int64], euclidean: bool, left_factors: Array, right_factors: Array,
    out: Array,
) -> None:  # fmt: skip
    """Scores in float64 of each left row with the right rows numbered in `ids`; -inf where a number is negative.

    Inner products of the rows times their factors, or minus the squared distance of the rows times the first factor.
    """
    for i, numbers in enumerate(ids):
        wanted = numbers[numbers >= 0]
        others, factor = right[wanted].astype(np.float64), left_factors[i]
        own = left[i].astype(np.float64) * factor
        if euclidean:
            scores = -np.square(own - others * factor).sum(axis=1)
        else:
            # Not a matrix product, whose rounding of one score would depend on how many there are.
            scores = (others * own).sum(axis=1) * right_factors[wanted]
        out[i] = -np.inf
        out[i, numbers >= 0] = scores


def best(scores: Array, ids: NDArray[np.int64], k: int) -> tuple[Array, NDArray[np.int64]]:
    """Return the k largest scores of each row and their numbers, in descending order, equal ones by number."""
    missing = ids < 0
    order = np.lexsort((ids, -scores, missing), axis=1)[:, :k]
    top = np.where(np.take_along_axis(missing, order, 1), -np.inf, np.take_along_axis(scores, order, 1))
    return top, np.take_along_axis(np.where(missing, -1, ids), order, 1)
