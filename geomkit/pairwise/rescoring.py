"""Scores of chosen pairs in float64, from the rows as given: what screened candidates are settled by."""

from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from geomkit.core.blocks import block_rows, each_block
from geomkit.core.devices import if_it_fits
from geomkit.core.matrix import Matrix
from geomkit.kernels import load, module
from geomkit.pairwise.normalization import as_given, room, taken
from geomkit.pairwise.scores import Form, Scores, dividable

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
    if candidates.size == 0:
        return np.empty(candidates.shape)
    # One way for all rows, so that a score does not depend on what else is asked for.
    at_once = scores.unit != 1.0 or scores.form is Form.EUCLIDEAN or dividable(scores.divisors)
    work = partial(_settle, scores, _whole(scores, candidates.size) if at_once else None, at_once)
    view = Matrix("rows", rows[:, None], "numpy", len(rows), scores.matrix.d, "int64", places=scores.matrix.places)
    out = np.concatenate(
        each_block(view, scores.backend, threads, work, rows, candidates, crew=scores.matrix.crew), axis=0
    )
    return out / 2 if scores.form is Form.EUCLIDEAN else out


def _settle(
    scores: Scores,
    whole: "_Whole | None",
    at_once: bool,
    start: int,  # noqa: ARG001
    stop: int,  # noqa: ARG001
    rows: NDArray[np.int64],
    candidates: NDArray[np.int64],
) -> Any:
    if scores.sparse:
        return _sparse(scores, rows, candidates)
    if whole is not None:
        return _direct(scores, whole, rows, candidates)
    return _gathered(scores, rows, candidates, at_once)


class _Whole(NamedTuple):
    """All rows where the kernels can read them."""

    rows: Any
    factors: Any
    """What each is multiplied by; anything for those left out."""
    keep: NDArray[np.int64] | None
    """Where the rows of the matrix are among them, unless they are all and in order."""

    @classmethod
    def of(cls, scores: Scores, rows: Any, keep: NDArray[np.int64] | None) -> Self:
        """Put the factors beside the rows."""
        factors = np.ones(rows.shape[0])
        factors[slice(None) if keep is None else keep] = 1 / scores.divisors
        return cls(rows, module(scores.backend).as_working(factors, "float64", scores.device), keep)


def _whole(scores: Scores, wanted: int) -> _Whole | None:
    """All rows as they lie, or as a device has room for them where so many are wanted, or None."""
    matrix, data = scores.matrix, scores.matrix.data
    if scores.backend.on_device:
        if matrix.kind == "torch" and data.device == matrix.device:
            return _Whole.of(scores, data, matrix.keep)
        copy = _brought(scores) if matrix.on_accelerator and wanted >= matrix.n else None
        return None if copy is None else _Whole.of(scores, copy, None)
    if matrix.kind in {"sparse", "stored"}:
        return None
    if matrix.kind == "torch":
        if data.device.type != "cpu" or matrix.dtype not in {"float32", "float64"}:
            return None
        data = data.numpy()
    readable = data.dtype.isnative and data.dtype.name in {"float32", "float64"} and data.flags.c_contiguous
    return _Whole.of(scores, np.asarray(data), matrix.keep) if readable else None


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


def _direct(scores: Scores, whole: _Whole, rows: NDArray[np.int64], candidates: NDArray[np.int64]) -> Any:
    """Let the kernel read the rows where they lie."""
    numbers: Any = candidates
    own: Any = rows
    if whole.keep is not None:
        numbers, own = np.where(candidates < 0, -1, whole.keep[candidates]), whole.keep[rows]
    if scores.backend.on_device:
        own = module(scores.backend).as_working(own, "int64", scores.device)
    return _run(scores, whole.rows[own], whole.rows, numbers, whole.factors[own], whole.factors)


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
