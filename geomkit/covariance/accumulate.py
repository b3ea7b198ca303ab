"""One pass over all rows, in threads: blocks of rows are read once, and leave their sums in scatters."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.matrix import Matrix, reject_invalid
from geomkit.core.progress import Counter
from geomkit.core.threads import one_thread_each, processors
from geomkit.covariance.batches import ScatterPair, block_rows, read
from geomkit.kernels import Backend

__all__ = ["WIDEST", "RowSums", "accumulate", "by_columns", "extend", "in_threads", "valid_rows"]

Vector = NDArray[np.float64]

WIDEST = 8192
"""Most coordinates of rows whose products of columns are held: two float64 matrices, 1 GiB."""

WORKER_BYTES = 2**28
"""Room for the scatters of all workers; where they would need more, there is one, and BLAS's own threads."""


def by_columns(matrix: Matrix) -> bool:
    """Whether the products of the columns are the smaller ones, and small enough to be held."""
    return matrix.d <= matrix.n and matrix.d <= WIDEST


def accumulate(
    matrix: Matrix, backend: Backend, threads: int | None, on_invalid: str, *, directed: bool = True
) -> tuple[ScatterPair, Matrix, Vector]:
    """Add all valid rows to a pair of scatters; return it, the valid rows, and their norms.

    Parameters
    ----------
    directed : bool
        Whether zero rows are invalid; otherwise they stay zero when they are normalized.

    Raises
    ------
    InvalidInputError
        Rows are not finite or zero, and ``on_invalid="raise"``; or fewer than two rows are left.
    """
    empty = ScatterPair.empty(matrix.d, backend, matrix.device if matrix.on_accelerator else None)
    sums = RowSums(matrix, backend, threads or processors(), empty, drop=on_invalid == "drop", directed=directed)
    pair, norms = matrix.run(sums)
    kept, valid = reject_invalid(matrix, norms, on_invalid, directed=directed)
    return pair, kept, norms[valid]


def extend(pair: ScatterPair, matrix: Matrix, threads: int | None, on_invalid: str, first: int) -> ScatterPair:
    """Add rows, of which the first has the number `first`; where invalid rows are refused, `pair` is as it was."""
    sums = RowSums(matrix, pair.raw.backend, threads or processors(), pair, drop=on_invalid == "drop")
    extended: ScatterPair
    extended, norms = matrix.run(sums)
    reject_invalid(matrix, norms, on_invalid, min_rows=0, first=first)
    return extended


def valid_rows(matrix: Matrix, backend: Backend, on_invalid: str, *, directed: bool = True) -> tuple[Matrix, Vector]:
    """Return the valid rows and their norms, as `accumulate` does, without sums."""
    norms = np.concatenate(
        [read(matrix, backend, *block).norms for block in matrix.blocks(block_rows(matrix, backend))]
    )
    kept, valid = reject_invalid(matrix, norms, on_invalid, directed=directed)
    return kept, norms[valid]


@dataclass(frozen=True, slots=True)
class RowSums:
    """The pass that adds all valid rows to a pair of scatters, and finds the norm of each row.

    The rows of a matrix of one block are added to `into` itself, once they are known to be valid.
    """

    matrix: Matrix
    backend: Backend
    threads: int
    """Workers of the CPU backend, each on consecutive rows of its own."""
    into: ScatterPair
    drop: bool
    """Whether invalid rows are left out; otherwise rows are added up to the first, and `into` is returned as it was."""
    directed: bool = True
    """Whether zero rows are invalid; otherwise they stay zero when they are normalized."""

    def run_here(self) -> tuple[ScatterPair, Vector]:
        """Return `into` with all valid rows, and the norms, (n,), NaN where a row is not finite."""
        matrix, size, norms = self.matrix, block_rows(self.matrix, self.backend), np.empty(self.matrix.n)
        if matrix.n <= size:
            self._add([0, matrix.n], self.into, norms)
            return self.into, norms
        blocks, most = -(-matrix.n // size), max(1, WORKER_BYTES // (16 * matrix.d**2))
        workers = min(self.threads, blocks, most) if self.backend is Backend.CPU else 1
        shares = [_cuts(matrix.n * k // workers, matrix.n * (k + 1) // workers, size) for k in range(workers)]
        pairs = [ScatterPair.empty(matrix.d, self.backend, self.into.raw.device) for _ in shares]
        count = Counter("rows", matrix.n)
        valid = in_threads(lambda share, pair: self._add(share, pair, norms, count), shares, pairs, workers=workers)
        return self.merged(pairs, valid=all(valid)), norms

    def merged(self, pairs: Sequence[ScatterPair], *, valid: bool) -> ScatterPair:
        """Merge the sums of parts of the rows into those that were there; where rows are refused, leave them alone."""
        if not (valid or self.drop):
            return self.into
        into, *others = pairs if self.into.raw.n == 0 else [self.into, *pairs]
        for other in others:
            into.merge(other)
        return into

    def invalid(self, norms: Vector) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Tell which rows with these norms are not finite, and which are zero and may not be."""
        return np.isnan(norms), (norms == 0) & self.directed

    def _add(self, cuts: Sequence[int], pair: ScatterPair, norms: Vector, count: Counter | None = None) -> bool:
        """Add the rows between the first and the last cut, block by block; tell whether all are valid."""
        valid = True
        # One buffer for all blocks: the system would clear new memory for each.
        dense = self.backend is Backend.CPU and self.matrix.kind != "sparse"
        buffer = np.empty((2, cuts[1] - cuts[0] + 2, self.matrix.d)) if dense else None
        for start, stop in pairwise(cuts):
            self.matrix.prefetch(stop, min(2 * stop - start, cuts[-1]))
            batch = read(self.matrix, self.backend, start, stop, buffer)
            norms[start:stop] = batch.norms
            bad = np.logical_or(*self.invalid(batch.norms))
            valid = valid and not bad.any()
            if count is not None:
                count(stop - start)
            if not (valid or self.drop):
                continue
            if bad.any():
                batch = batch.without(bad)
            if len(batch.norms):
                batch.add_to(pair)
        return valid


def _cuts(start: int, stop: int, size: int) -> list[int]:
    """Bounds of blocks of nearly equal and at most `size` rows."""
    parts = max(1, -(-(stop - start) // size))
    return [start + (stop - start) * k // parts for k in range(parts + 1)]


def in_threads(work: Callable[..., Any], *arguments: Sequence[Any], workers: int) -> list[Any]:
    """Map in as many threads, with single-threaded products; one worker runs here, with BLAS's own threads.

    BLAS thread counts belong to the process, so one pass at a time may change them.
    """
    if workers == 1:
        return list(map(work, *arguments))
    # The limit reaches only what is loaded, and the kernels load SciPy's BLAS.
    import geomkit.kernels.cpu_rows  # noqa: F401

    with one_thread_each(), ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, *arguments))
