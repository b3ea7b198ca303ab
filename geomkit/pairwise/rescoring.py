"""Scores of chosen pairs in float64, from the rows as given: what screened candidates are ranked by."""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomkit.core.blocks import block_rows, each_block
from geomkit.core.devices import if_it_fits
from geomkit.core.matrix import Matrix
from geomkit.kernels import Backend, load, module
from geomkit.pairwise.normalization import as_given, divided, room, taken
from geomkit.pairwise.queries import Queries
from geomkit.pairwise.scores import Form, Scores, dividable

__all__ = ["exact_scores"]

_GATHERED_ENTRIES = 2**22
"""Entries of rows that are gathered at a time (32 MiB in float64)."""

_FEW_CANDIDATES = 8
"""Candidates of a row from which on a block of the CPU backend has fewer rows ..."""

_NARROW = 64
"""... as it has no more for rows of fewer coordinates, so that threads share the work."""

_SPARSE_PAIRS = 2**16
"""Pairs of sparse rows that are multiplied at a time."""


def exact_scores(
    scores: Scores,
    numbers: NDArray[np.int64],
    candidates: NDArray[np.int64],
    threads: int,
    queries: Queries | None = None,
    divisors: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Score rows, or queries, with their candidates.

    Parameters
    ----------
    scores : Scores
        Says which score, and of which rows the candidates are.
    numbers : (m,)
        Which of the rows, or of the queries, are scored.
    candidates : (m, c)
        Row numbers; -1 for none.
    threads : int
    queries : Queries, optional
        What `numbers` are numbers of; the rows themselves unless given.
    divisors : (m,), optional
        What each query is divided by; given with `queries`.

    Returns
    -------
    (m, c) float64
        Cosines; inner products, or minus half of squared distances, of both rows over their divisors (for distances,
        over the divisor of the first); -inf where there is no candidate.
    """
    if candidates.size == 0:
        return np.empty(candidates.shape)
    matrix, crew = scores.matrix, scores.matrix.crew if queries is None else None
    if queries is None or divisors is None:
        queries, divisors = Queries(matrix, scores.divisors), scores.divisors[numbers]
    # One way for all rows, so that a score does not depend on what else is asked for.
    in_one_step = not scores.directed or (dividable(scores.divisors) and dividable(queries.norms))
    whole = _whole(scores, candidates.size) if in_one_step else None
    work = partial(_score_block, scores, queries.matrix, whole, in_one_step)
    entries = matrix.d
    if scores.backend is Backend.CPU:
        entries = max(entries, _NARROW) * -(-candidates.shape[1] // _FEW_CANDIDATES)
    blocks = Matrix("rows", numbers[:, None], "numpy", len(numbers), entries, "int64", places=matrix.places)
    parts = each_block(blocks, scores.backend, threads, work, numbers, divisors, candidates, crew=crew)
    out = np.concatenate(parts, axis=0)
    return out / 2 if scores.form is Form.EUCLIDEAN else out


class _Whole(NamedTuple):
    """All rows where the kernels can read them."""

    rows: Any
    factors: Any
    """What each is multiplied by; anything for rows that were dropped."""
    keep: NDArray[np.int64] | None
    """Where the rows of the matrix are among them, unless they are all and in order."""


def _whole(scores: Scores, n_pairs: int) -> _Whole | None:
    """Return all rows as they lie, or as a device has room for them where so many pairs are scored, or None."""
    matrix, rows, keep = scores.matrix, scores.matrix.data, scores.matrix.keep
    if scores.backend.on_device:
        if matrix.kind != "torch" or rows.device != matrix.device:
            rows, keep = _brought(scores) if matrix.on_accelerator and n_pairs >= matrix.n else None, None
    else:
        if matrix.kind == "torch" and rows.device.type == "cpu" and matrix.dtype in {"float32", "float64"}:
            rows = rows.numpy()
        contiguous = isinstance(rows, np.ndarray) and rows.dtype.isnative and rows.flags.c_contiguous
        rows = np.asarray(rows) if contiguous and rows.dtype.name in {"float32", "float64"} else None
    if rows is None:
        return None
    factors = np.ones(rows.shape[0])
    factors[slice(None) if keep is None else keep] = 1 / scores.divisors
    return _Whole(rows, module(scores.backend).as_working(factors, "float64", scores.device), keep)


def _brought(scores: Scores) -> Any:
    """Copy all rows to the device, where half of what is free there holds them."""
    matrix, backend = scores.matrix, scores.backend
    dtype = "float64" if as_given(matrix, backend, 0, 1).itemsize == 8 else "float32"
    if matrix.n * matrix.d * np.dtype(dtype).itemsize > room(matrix):
        return None

    def copy() -> Any:
        out = module(backend).zeros((matrix.n, matrix.d), dtype, scores.device)
        for start, stop in matrix.blocks(block_rows(matrix)):
            out[start:stop] = as_given(matrix, backend, start, stop)
        return out

    return if_it_fits(copy, "a copy of the rows", scores.device)


def _score_block(
    scores: Scores,
    queries: Matrix,
    whole: _Whole | None,
    in_one_step: bool,
    start: int,  # noqa: ARG001
    stop: int,  # noqa: ARG001
    numbers: NDArray[np.int64],
    divisors: NDArray[np.float64],
    candidates: NDArray[np.int64],
) -> Any:
    """Score some of the rows, by whichever way the kernels can read them."""
    if scores.sparse:
        return _sparse(scores, queries, numbers, divisors, candidates)
    if whole is None:
        return _gathered(scores, queries, in_one_step, numbers, divisors, candidates)
    if whole.keep is not None:
        candidates = np.where(candidates < 0, -1, whole.keep[candidates])
    left = taken(queries, scores.backend, numbers)
    return _run(scores, left, 1 / divisors, whole.rows, whole.factors, candidates)


def _gathered(
    scores: Scores,
    queries: Matrix,
    in_one_step: bool,
    numbers: NDArray[np.int64],
    divisors: NDArray[np.float64],
    candidates: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Gather both rows first, a window at a time; `in_one_step` says whether to divide them in one step."""
    d, out = scores.matrix.d, np.full(candidates.shape, -np.inf)
    width = max(1, min(candidates.shape[1], _GATHERED_ENTRIES // d))
    height = max(1, _GATHERED_ENTRIES // (d * width))

    def read(matrix: Matrix, rows: NDArray[np.int64], by: NDArray[np.float64]) -> tuple[Any, NDArray[np.float64]]:
        """Read rows, and what to multiply them by."""
        x = taken(matrix, scores.backend, rows)
        return (x, 1 / by) if in_one_step else (scores.directions(x), np.ones(len(rows)))

    for i in range(0, len(numbers), height):
        own, own_factors = read(queries, numbers[i : i + height], divisors[i : i + height])
        for c in range(0, candidates.shape[1], width):
            chosen = candidates[i : i + height, c : c + width]
            rows = np.unique(chosen[chosen >= 0])
            if len(rows):
                others, factors = read(scores.matrix, rows, scores.divisors[rows])
                local = np.where(chosen < 0, -1, np.searchsorted(rows, chosen))
                out[i : i + height, c : c + width] = _run(scores, own, own_factors, others, factors, local)
    return out


def _run(scores: Scores, left: Any, left_factors: Any, right: Any, right_factors: Any, ids: Any) -> Any:
    memory = module(scores.backend)
    out = memory.zeros(ids.shape, "float64", scores.device)
    euclidean = scores.form is Form.EUCLIDEAN
    load("exact_scores", scores.backend)(left, right, ids, euclidean, left_factors, right_factors, out)
    return memory.to_numpy(out)


def _sparse(
    scores: Scores,
    queries: Matrix,
    numbers: NDArray[np.int64],
    divisors: NDArray[np.float64],
    candidates: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Touch stored entries only; rows are divided before they are multiplied, which could leave the range."""
    out, euclidean = np.full(candidates.shape, -np.inf), scores.form is Form.EUCLIDEAN
    row, column = np.nonzero(candidates >= 0)
    for first in range(0, len(row), _SPARSE_PAIRS):
        i, c = row[first : first + _SPARSE_PAIRS], column[first : first + _SPARSE_PAIRS]
        j = candidates[i, c]
        left = divided(queries.data[queries.in_input(numbers[i])], divisors[i])
        right = divided(scores.matrix.data[scores.matrix.in_input(j)], divisors[i] if euclidean else scores.divisors[j])
        products = -(left - right).power(2) if euclidean else left.multiply(right)
        out[i, c] = np.asarray(products.sum(axis=1)).ravel()
    return out
