"""One pass over all rows, in threads: blocks of rows are read once, and leave their sums in scatters."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.matrix import Matrix
from geomkit.core.progress import Counter
from geomkit.core.threads import one_thread_each
from geomkit.covariance.batches import Pair, block_rows, read
from geomkit.kernels import Backend

__all__ = ["Invalid", "gather", "in_threads"]

WORKER_BYTES = 2**28
"""Room for the scatters of all workers; where they would need more, there is one, and BLAS's own threads."""


class Invalid:
    """Numbers of the rows that cannot be measured, found block by block."""

    def __init__(self) -> None:
        self.infinite: list[int] = []
        self.zero: list[int] = []

    def note(self, norms: NDArray[np.float64], first: int, *, directed: bool = True) -> NDArray[np.bool_]:
        """Note the invalid rows of a block that begins with row `first`, and return which they are."""
        infinite, zero = np.isnan(norms), (norms == 0) & directed
        self.infinite += (first + np.flatnonzero(infinite)).tolist()
        self.zero += (first + np.flatnonzero(zero)).tolist()
        return np.asarray(infinite | zero)

    def __len__(self) -> int:
        return len(self.infinite) + len(self.zero)


def gather(
    matrix: Matrix,
    backend: Backend,
    threads: int,
    into: Pair,
    *,
    drop: bool,
    directed: bool = True,
    norms: NDArray[np.float64] | None = None,
) -> tuple[Pair, Invalid]:
    """Read all rows once.

    Parameters
    ----------
    threads : int
        Workers of the CPU backend, each on consecutive rows of its own.
    into : Pair
        Gets the rows of a matrix of one block, once they are known to be valid; otherwise it is left alone, or
        replaced if it is empty.
    drop : bool
        Leave invalid rows out; else stop adding at the first, and go on looking for them.
    directed : bool
        Whether zero rows are invalid; else they are zero over their norms, too.
    norms : (n,) float64, optional
        Gets the norm of each row, NaN where it is not finite.

    Returns
    -------
    pair : Pair
        `into` with all valid rows in it.
    invalid : Invalid
        Where there are such rows and `drop` is not set, `pair` is `into` as it was.
    """
    if matrix.crew is not None:
        return _gathered(matrix, backend, into, drop=drop, directed=directed, norms=norms)
    size = block_rows(matrix, backend)
    lengths = np.empty(matrix.n) if norms is None else norms
    if matrix.n <= size:
        return into, _pour(matrix, backend, [0, matrix.n], into, lengths, drop=drop, directed=directed)
    blocks, room = -(-matrix.n // size), max(1, WORKER_BYTES // (16 * matrix.d**2))
    workers = min(threads, blocks, room) if backend is Backend.CPU else 1
    shares = [_cuts(matrix.n * k // workers, matrix.n * (k + 1) // workers, size) for k in range(workers)]
    pairs, count = [Pair.empty(matrix.d, backend, into.plain.device) for _ in shares], Counter("rows", matrix.n)
    found = in_threads(
        lambda share, pair: _pour(matrix, backend, share, pair, lengths, drop=drop, directed=directed, count=count),
        shares,
        pairs,
        workers=workers,
    )
    invalid = Invalid()
    for each in found:
        invalid.infinite += each.infinite
        invalid.zero += each.zero
    if len(invalid) and not drop:
        return into, invalid
    if into.plain.n == 0:
        into = pairs.pop(0)
    while pairs:
        into.merge(pairs.pop(0))
    return into, invalid


def _gathered(
    matrix: Matrix, backend: Backend, into: Pair, *, drop: bool, directed: bool, norms: NDArray[np.float64] | None
) -> tuple[Pair, Invalid]:
    """Let the crew of the matrix read all rows."""
    pair, infinite, zero, lengths = matrix.crew.gather(matrix, backend, drop=drop, directed=directed)
    if norms is not None:
        norms[:] = lengths
    invalid = Invalid()
    invalid.infinite, invalid.zero = infinite, zero
    if len(invalid) and not drop:
        return into, invalid
    return into.merge(pair), invalid


def _cuts(start: int, stop: int, size: int) -> list[int]:
    """Bounds of blocks of nearly equal and at most `size` rows."""
    parts = max(1, -(-(stop - start) // size))
    return [start + (stop - start) * k // parts for k in range(parts + 1)]


def _pour(
    matrix: Matrix,
    backend: Backend,
    cuts: Sequence[int],
    pair: Pair,
    norms: NDArray[np.float64],
    *,
    drop: bool,
    directed: bool,
    count: Counter | None = None,
) -> Invalid:
    invalid = Invalid()
    # One room for all blocks: the system would clear new memory for each.
    dense = backend is Backend.CPU and matrix.kind != "sparse"
    room = np.empty((2, cuts[1] - cuts[0] + 2, matrix.d)) if dense else None
    for start, stop in pairwise(cuts):
        matrix.ahead(stop, min(2 * stop - start, cuts[-1]))
        batch = read(matrix, backend, start, stop, room)
        norms[start:stop] = batch.norms
        bad = invalid.note(batch.norms, start, directed=directed)
        if count is not None:
            count(stop - start)
        if len(invalid) and not drop:
            continue
        if bad.any():
            batch = batch.without(bad)
        if len(batch.norms):
            batch.pour(pair)
    return invalid


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
