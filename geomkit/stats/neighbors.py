"""Exact nearest neighbours from inexact products: screened at low precision, settled in float64, certified."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.devices import Device
from geomkit.core.matrix import as_matrix, check_choice
from geomkit.core.threads import ieee, processors
from geomkit.errors import InvalidInputError
from geomkit.kernels import load, module
from geomkit.pairwise.candidates import Nearest
from geomkit.pairwise.rescoring import exact_scores
from geomkit.pairwise.scores import COARSE, Scores, cosine_scores, euclidean_scores, product_scores
from geomkit.pairwise.sweep import sweep
from geomkit.pairwise.tiles import Tiles
from geomkit.stats.cosine import prepare

__all__ = ["METRICS", "Neighbors", "neighbors"]

METRICS = {"cosine": cosine_scores, "euclidean": euclidean_scores, "dot": product_scores}
"""Which score stands behind a metric."""

_REDONE_ENTRIES = 2**22
"""Entries of a tile in which rows are redone."""


@dataclass(frozen=True)
class Neighbors:
    """The k nearest other rows of each row, exact: those that float64 over all pairs gives, equal ones by number."""

    indices: NDArray[np.int64] = field(repr=False)
    """Row numbers of the input, nearest first, (n, k)."""
    distances: NDArray[np.float64] = field(repr=False)
    """Ascending, (n, k): 1 - cosine in [0, 2], the Euclidean distance, or minus the inner product."""
    rows: NDArray[np.int64] = field(repr=False)
    """Row numbers of the input that the n rows of the answer are of: all of them unless some were dropped."""
    n: int
    d: int
    k: int
    metric: str
    n_recomputed: int
    """Rows that screening could not certify and that were redone; answers do not depend on it."""
    error_bound: float
    """Proven bound on the absolute error of a screened score before a bfloat16 product rounds it, in the units of
    `distances` (of half their square where the metric is Euclidean)."""
    backend: str
    precision: str
    """The precision that screening ran in."""
    product: str
    """The library whose matrix product ran."""
    n_dropped: int

    def to_dict(self) -> dict[str, float | int | str]:
        """Every scalar field by name."""
        left_out = {"indices", "distances", "rows"}
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in left_out}

    def __str__(self) -> str:
        return "\n".join(f"{name:<12} {value}" for name, value in self.to_dict().items())


def neighbors(
    x: Any,
    k: int = 10,
    *,
    metric: str = "cosine",
    precision: str = "float32",
    backend: str = "auto",
    device: Device = None,
    on_invalid: str = "raise",
    threads: int | None = None,
) -> Neighbors:
    """Find the k nearest other rows of each row, certified exact.

    Parameters
    ----------
    x : array_like (n, d)
        As for `cosine_stats`. Zero rows are welcome unless the metric is cosine.
    k : int
        Neighbours of each row, itself left out; 1 <= k <= n - 1.
    metric : {"cosine", "euclidean", "dot"}
        ``"dot"`` finds the largest inner products.
    precision
        Of the screening, as for `cosine_stats`. It decides speed, not the answer.
    backend, device, on_invalid, threads
        As for `cosine_stats`.

    Returns
    -------
    Neighbors

    Raises
    ------
    InvalidInputError
        `x` cannot be measured, `k` is out of range, or an argument is not one of its choices.
    BackendUnavailableError, DeviceMemoryError
        As for `cosine_stats`.

    Notes
    -----
    O(n² d) time, half of it saved by reading each tile of pairs for its rows and for its columns; memory beyond the
    input: as for `cosine_stats`, and 8 bytes for each of about 2.5k candidates a row and thread. Each row's candidates
    are settled in float64; a row is certified when its k-th best is better than anything that was left out can be, by
    the error bound of the products. Others are redone against all rows.
    """
    check_choice(metric, "metric", tuple(METRICS))
    matrix = as_matrix(x)
    check_k(k, matrix.n)
    scores = prepare(matrix, backend, precision, on_invalid, threads, METRICS[metric], device=device)
    check_k(k, scores.n)
    nearest = candidates_of(scores, k)
    sweep(Tiles(scores, "gram"), [nearest], threads=threads)
    return settle(scores, nearest, k, metric, threads=threads)


def check_k(k: int, n: int) -> None:
    """Refuse what is not a number of neighbours that n rows can have."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= n - 1:
        msg = f"k must be a whole number from 1 to n - 1 = {n - 1}; got {k!r}"
        raise InvalidInputError(msg)


def candidates_of(scores: Scores, k: int) -> Nearest:
    """Return an empty reducer that keeps enough candidates to settle nearly every row."""
    # What lies between the k-th best and the last kept must exceed the error bound of the products.
    keep = k + k // 4 + 4 if scores.precision in COARSE else k + k // 8 + 2
    keep = min(keep, scores.n - 1)
    entries = module(scores.backend).entries(scores.dtype)
    return Nearest(scores.backend, scores.n, keep, entries, scores.device)


def settle(scores: Scores, nearest: Nearest, k: int, metric: str, *, threads: int | None = None) -> Neighbors:
    """Rank the candidates of a finished sweep in float64, and redo the rows that they do not settle."""
    n, workers = scores.n, threads or processors()
    values, ids, floor = nearest.candidates()
    share, errors = nearest.rounding, scores.errors
    wanted = load("shortlist", scores.backend)(values, ids, errors, share, k)
    everyone = np.arange(n)
    exact = exact_scores(scores, everyone, wanted, workers)
    top, numbers = load("best", scores.backend)(exact, wanted, k)
    # Nothing is missing where no entry was ever left out; an equal score left out could have a smaller number.
    complete = np.isneginf(floor)
    beaten = np.where(complete, 0.0, floor)
    missed = beaten + share * np.abs(beaten) + errors + scores.slack
    certain = complete | (missed < top[:, -1] - scores.origin)
    unsure = np.flatnonzero(~certain)
    if scores.precision in COARSE and 2 * len(unsure) > n:
        # Half of all pairs in one sweep are fewer than more than half of the rows with all others.
        again = _in_float32(scores, workers)
        nearest = candidates_of(again, k)
        sweep(Tiles(again, "gram"), [nearest], threads=threads)
        settled = settle(again, nearest, k, metric, threads=threads)
        return replace(settled, n_recomputed=n, error_bound=scores.bound * scores.unit, precision=scores.precision)
    if len(unsure):
        top[unsure], numbers[unsure] = _redo(scores, unsure, top[unsure, -1], k, workers)
    keep = scores.matrix.keep
    return Neighbors(
        indices=numbers if keep is None else keep[numbers],
        distances=_distances(top, scores, metric),
        rows=everyone if keep is None else keep,
        n=n,
        d=scores.matrix.d,
        k=int(k),
        metric=metric,
        n_recomputed=len(unsure),
        error_bound=scores.bound * scores.unit,
        backend=scores.backend.value,
        precision=scores.precision,
        product=scores.product,
        n_dropped=scores.matrix.n_dropped,
    )


def _distances(top: NDArray[np.float64], scores: Scores, metric: str) -> NDArray[np.float64]:
    if metric == "cosine":
        return np.clip(1 - top, 0.0, 2.0)
    # The square of the scale may leave the range where distances do not.
    scale = float(scores.divisors[0])
    return np.asarray(np.sqrt(np.maximum(-2 * top, 0.0)) * scale if metric == "euclidean" else -top * scale * scale)


def _redo(
    scores: Scores, rows: NDArray[np.int64], reached: NDArray[np.float64], k: int, threads: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Compare these rows with all others in float32, and settle all that may be as good as what was reached.

    `reached` is the k-th best score of each so far, which the true one can only exceed.
    """
    if scores.precision in COARSE:
        scores = _in_float32(scores, threads)
    top, numbers = np.empty((len(rows), k)), np.empty((len(rows), k), np.int64)
    least = reached - scores.origin - scores.errors[rows] - 2 * scores.slack
    height = max(16, min(256, _REDONE_ENTRIES // scores.n))
    for at in range(0, len(rows), height):
        part = slice(at, at + height)
        found = _at_least(scores, rows[part], least[part])
        exact = exact_scores(scores, rows[part], found, threads)
        top[part], numbers[part] = load("best", scores.backend)(exact, found, k)
    return top, numbers


def _in_float32(scores: Scores, threads: int) -> Scores:
    """Prepare the same rows again in float32."""
    return replace(scores, precision="float32", dtype="float32", resident=None).prepared(threads)


def _at_least(scores: Scores, rows: NDArray[np.int64], least: NDArray[np.float64]) -> NDArray[np.int64]:
    """Numbers of all other rows whose entry with each of these is at least so much, (m, most), -1 for none."""
    memory = module(scores.backend)
    kernel = load("sparse_gram" if scores.sparse else "gram", scores.backend)
    left, found = scores.take(rows), []
    step = max(64, _REDONE_ENTRIES // max(len(rows), scores.matrix.d))
    for start in range(0, scores.n, step):
        stop = min(start + step, scores.n)
        tile = memory.zeros((len(rows), stop - start), scores.dtype, scores.device)
        with ieee():
            kernel(left, scores.right(start, stop), tile)
        # A threshold is rounded down to the dtype of the entries.
        limits = np.nextafter(least.astype(scores.dtype), -np.inf)[:, None]
        reached = tile >= memory.as_working(limits, scores.dtype, scores.device)
        at, other = np.nonzero(reached) if isinstance(reached, np.ndarray) else memory.to_numpy(reached.nonzero().T)
        apart = other + start != rows[at]
        found.append(np.stack([at[apart], other[apart] + start]))
    at, other = np.concatenate(found, axis=1)
    order = np.argsort(at, kind="stable")
    at, other = at[order], other[order]
    counts = np.bincount(at, minlength=len(rows))
    out = np.full((len(rows), counts.max(initial=1)), -1)
    out[at, np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)] = other
    return out
