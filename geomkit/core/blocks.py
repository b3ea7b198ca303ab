"""Passes over blocks of rows, in threads or by the crew of a matrix."""

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from geomkit.core.executor import Crew
from geomkit.core.matrix import Matrix
from geomkit.core.threads import map_in_threads
from geomkit.kernels import Backend

__all__ = ["block_rows", "each_block", "work_on"]

BLOCK_ENTRIES = 2**20
"""Entries of a block of rows in a pass over the rows (8 MiB in float64) ..."""

DEVICE_BLOCK_ENTRIES = 2**23
"""... and on an accelerator, which has some ten kernels launched for each."""


def block_rows(matrix: Matrix) -> int:
    """Rows of a block in a pass over the rows."""
    return max(1, (DEVICE_BLOCK_ENTRIES if matrix.on_accelerator else BLOCK_ENTRIES) // matrix.d)


def each_block(
    matrix: Matrix,
    backend: Backend,
    threads: int,
    work: Callable[..., Any],
    *by_row: NDArray[Any],
    crew: Crew | None = None,
) -> list[Any]:
    """Call ``work(start, stop, *parts)`` for consecutive blocks of rows, and return what it returned, in their order.

    Threads work on the CPU backend's blocks, whose kernels let go of the interpreter; the others use their own.

    Parameters
    ----------
    work : callable
        Changes nothing where there is a crew, whose members do not share memory with us.
    by_row : (n, ...)
        Arrays of which each block gets its part.
    crew : Crew, optional
        Who works; that of the matrix unless given.
    """
    blocks, crew = list(matrix.blocks(block_rows(matrix))), crew or matrix.crew
    if crew is not None:
        return crew.each_block(blocks, work, by_row)
    return work_on(blocks, work, by_row, threads if backend is Backend.CPU else 1, matrix)


def work_on(
    blocks: Sequence[tuple[int, int]],
    work: Callable[..., Any],
    by_row: Sequence[NDArray[Any]],
    threads: int,
    matrix: Matrix | None = None,
) -> list[Any]:
    """Call ``work(start, stop, *parts)`` for these blocks in threads of this process; say what will be read next."""
    first = blocks[0][0]

    def one(block: tuple[int, int]) -> Any:
        start, stop = block
        if matrix is not None:
            # Whoever else is at work has the blocks between.
            matrix.ahead(stop + (threads - 1) * (stop - start), stop + threads * (stop - start))
        return work(start, stop, *(each[start - first : stop - first] for each in by_row))

    return map_in_threads(one, blocks, threads=threads)
