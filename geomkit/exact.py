"""Scores of chosen pairs in float64, from the rows as given: what screened candidates are settled by."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.arrays import Matrix
from geomkit.kernels import Backend, load, module
from geomkit.rows import each_block, taken
from geomkit.scores import Form, Scores, dividable

__all__ = ["exact_scores"]

_GATHERED_ENTRIES = 2**22
"""Entries of rows that are gathered at a time (32 MiB in float64)."""


def exact_scores(
    scores: Scores, rows: NDArray[np.int64], candidates: NDArray[np.int64], threads: int
) -> NDArray[np.float64]:
    """Score every row with its candidates.

    Parameters
    ----------
    scores : Scores
        Says which score.
    rows : (m,)
        Row numbers.
    candidates : (m, c)
        Row numbers; -1 for none.
    threads : int

    Returns
    -------
    (m, c) float64
        In the units of the entries of `scores`, `origin` included; -inf where there is no candidate.
    """
    out = np.empty(candidates.shape)
    if candidates.size == 0:
        return out
    whole = None if scores.sparse else _whole(scores.matrix, scores.backend)
    # One way for all rows, so that a score does not depend on what else is asked for.
    at_once = scores.unit != 1.0 or scores.form is Form.EUCLIDEAN or dividable(scores.divisors)

    def fill(start: int, stop: int) -> None:
        part = slice(start, stop)
        if scores.sparse:
            out[part] = _sparse(scores, rows[part], candidates[part])
        elif whole is not None and at_once:
            out[part] = _direct(scores, whole, rows[part], candidates[part])
        else:
            out[part] = _gathered(scores, rows[part], candidates[part], at_once)

    view = Matrix("rows", rows[:, None], "numpy", len(rows), scores.matrix.d, "int64")
    each_block(view, scores.backend, threads, fill)
    return out / 2 if scores.form is Form.EUCLIDEAN else out


def _whole(matrix: Matrix, backend: Backend) -> Any:
    """All rows as the kernels can read them where they lie, or None."""
    if backend is Backend.TORCH:
        return matrix.data if matrix.kind == "torch" else None
    data = matrix.data
    if matrix.kind == "sparse":
        return None
    if matrix.kind == "torch":
        if matrix.on_accelerator or matrix.dtype not in {"float32", "float64"}:
            return None
        data = data.numpy()
    readable = data.dtype.isnative and data.dtype.name in {"float32", "float64"} and data.flags.c_contiguous
    return np.asarray(data) if readable else None


def _direct(scores: Scores, whole: Any, rows: Any, candidates: Any) -> Any:
    """Let the kernel read the rows where they lie."""
    factors = 1 / scores.divisors
    keep = scores.matrix.keep
    numbers, own = candidates, rows
    if keep is not None:
        numbers, own = np.where(candidates < 0, -1, keep[candidates]), keep[rows]
        everywhere = np.empty(whole.shape[0])
        everywhere[keep] = factors
    else:
        everywhere = factors
    if scores.backend is Backend.TORCH:
        import torch

        own = torch.from_numpy(own).to(whole.device)
    return _run(scores, whole[own], whole, numbers, factors[rows], everywhere)


def _gathered(
    scores: Scores, rows: NDArray[np.int64], candidates: NDArray[np.int64], at_once: bool
) -> NDArray[np.float64]:
    """Gather rows and candidates first, a window at a time; `at_once` says whether to divide them in one step."""
    d, out = scores.matrix.d, np.empty(candidates.shape)
    width = max(1, min(candidates.shape[1], _GATHERED_ENTRIES // d))
    height = max(1, _GATHERED_ENTRIES // (d * width))
    for i in range(0, len(rows), height):
        own, own_factors = _prepared(scores, rows[i : i + height], at_once)
        for c in range(0, candidates.shape[1], width):
            wanted = candidates[i : i + height, c : c + width]
            numbers = np.unique(wanted[wanted >= 0])
            if len(numbers) == 0:
                out[i : i + height, c : c + width] = -np.inf
                continue
            others, factors = _prepared(scores, numbers, at_once)
            local = np.where(wanted < 0, -1, np.searchsorted(numbers, wanted))
            out[i : i + height, c : c + width] = _run(scores, own, others, local, own_factors, factors)
    return out


def _prepared(scores: Scores, numbers: NDArray[np.int64], at_once: bool) -> tuple[Any, NDArray[np.float64]]:
    """Rows with these numbers, and what to multiply them by."""
    x, divisors = taken(scores.matrix, scores.backend, numbers), scores.divisors[numbers]
    if at_once:
        return x, 1 / divisors
    unit = module(scores.backend).zeros(tuple(x.shape), "float64", scores.device)
    load("unit_rows", scores.backend)(x, unit)
    return unit, np.ones(len(numbers))


def _run(scores: Scores, left: Any, right: Any, numbers: Any, left_factors: Any, right_factors: Any) -> Any:
    memory = module(scores.backend)
    out = memory.zeros(numbers.shape, "float64", scores.device)
    euclidean = scores.form is Form.EUCLIDEAN
    load("exact_scores", scores.backend)(left, right, numbers, euclidean, left_factors, right_factors, out)
    return memory.to_numpy(out)


def _sparse(scores: Scores, rows: NDArray[np.int64], candidates: NDArray[np.int64]) -> NDArray[np.float64]:
    """Touch stored entries only."""
    out = np.full(candidates.shape, -np.inf)
    at, column = np.nonzero(candidates >= 0)
    data = scores.matrix.data
    number = np.arange(scores.n) if scores.matrix.keep is None else scores.matrix.keep
    step = 2**16
    for first in range(0, len(at), step):
        i, c = at[first : first + step], column[first : first + step]
        j = candidates[i, c]
        left, right = (_divided(data[number[each]], scores.divisors[each]) for each in (rows[i], j))
        if scores.form is Form.EUCLIDEAN:
            difference = left - right
            out[i, c] = -np.asarray(difference.multiply(difference).sum(axis=1)).ravel()
        else:
            out[i, c] = np.asarray(left.multiply(right).sum(axis=1)).ravel()
    return out


def _divided(block: Any, divisors: NDArray[np.float64]) -> Any:
    """Divide sparse rows before they are multiplied, which could leave the range."""
    block = block.astype(np.float64)
    block.data /= np.repeat(divisors, np.diff(block.indptr))
    return block
