"""Passes over blocks of rows, in threads of this process or wherever the rows are measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from geomkit.core.executor import Span
from geomkit.core.matrix import Matrix
from geomkit.core.threads import map_in_threads
from geomkit.kernels import Backend

__all__ = ["BlockMap", "block_rows", "each_block"]

BLOCK_ENTRIES = 2**20
"""Entries of a block of rows in a pass over the rows (8 MiB in float64) ..."""

DEVICE_BLOCK_ENTRIES = 2**23
"""... and on an accelerator, which has some ten kernels launched for each."""


def block_rows(matrix: Matrix) -> int:
    """Rows of a block in a pass over the rows."""
    return max(1, (DEVICE_BLOCK_ENTRIES if matrix.on_accelerator else BLOCK_ENTRIES) // matrix.d)


@dataclass(frozen=True, slots=True)
class BlockMap:
    """The pass that calls a function for consecutive blocks of rows; see `each_block`."""

    blocks: Sequence[Span]
    work: Callable[..., Any]
    by_row: Sequence[NDArray[Any]]
    threads: int
    matrix: Matrix | None = None
    """Whose rows are read; it is told which it should read ahead."""

    def run_here(self) -> list[Any]:
        """Return what the function returned for each block, in their order."""
        return map_in_threads(self._call, self.blocks, threads=self.threads)

    def _call(self, block: Span) -> Any:
        start, stop = block
        if self.matrix is not None:
            # The other threads have the blocks in between.
            height = stop - start
            self.matrix.prefetch(stop + (self.threads - 1) * height, stop + self.threads * height)
        first = self.blocks[0][0]
        return self.work(start, stop, *(values[start - first : stop - first] for values in self.by_row))


def each_block(
    matrix: Matrix,
    backend: Backend,
    threads: int,
    work: Callable[..., Any],
    *by_row: NDArray[Any],
    crew: Matrix | None = None,
) -> list[Any]:
    """Call ``work(start, stop, *parts)`` for consecutive blocks of rows, and return the results in their order.

    The CPU backend runs blocks in threads, since its kernels release the interpreter; the others have threads of
    their own.

    Parameters
    ----------
    work : callable
        It must return what it computes and change nothing, where blocks may run in other processes.
    by_row : (n, ...)
        Arrays of which each block gets its part.
    crew : Matrix, optional
        The matrix that runs the pass, where `matrix` only cuts the blocks.
    """
    blocks = list(matrix.blocks(block_rows(matrix)))
    block_map = BlockMap(blocks, work, by_row, threads if backend is Backend.CPU else 1, matrix)
    result: list[Any] = (crew or matrix).run(block_map)
    return result
