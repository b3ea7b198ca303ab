"""Rows that lie in files or on other machines, and are read when they are needed."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.executor import Pass

__all__ = ["RowSlice", "RowSource"]


class RowSource(ABC):
    """A matrix that is read by ranges of rows, which every measurement takes in place of an array.

    Several threads may read at once. Reading gives the same rows every time.
    """

    shape: tuple[int, int]
    """Rows and columns; at least one of each."""
    dtype: str
    """NumPy's name of what is stored."""
    max_memory: int | None = None
    """Bytes of prepared rows that this process may hold; None for half of what is free."""

    def run(self, work: Pass) -> Any:
        """Run a pass over these rows: whole, in threads of this process, unless a subclass shares it out."""
        return work.run_here()

    @abstractmethod
    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start:stop``, (stop - start, d), contiguous, as stored; not to be written to."""

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """Rows of a slice without a step, or with these numbers, or where a mask is true, as stored."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(self.shape[0])
            return self.read(start, max(start, stop)) if step == 1 else self.take(np.arange(start, stop, step))
        chosen = np.asarray(rows)
        return self.take(np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen)

    @abstractmethod
    def take(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Return the rows with these numbers, in that order, as stored."""

    @abstractmethod
    def where(self, row: int) -> str:
        """Say where a row is, for messages: ``row 17 of part-0003.npy``."""

    def prefetch(self, start: int, stop: int) -> None:  # noqa: B027 (a hint that may be ignored)
        """Hint that rows ``start:stop`` will be read soon; returns at once, and may do nothing."""


class RowSlice(RowSource):
    """Consecutive rows of another source; passes over them run in this process, wherever those over the source run."""

    def __init__(self, source: RowSource, start: int, stop: int) -> None:
        self.source, self.start, self.shape, self.dtype = source, start, (stop - start, source.shape[1]), source.dtype
        self.max_memory = source.max_memory or None

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read from the source, as all of these methods do."""
        return self.source.read(self.start + start, self.start + stop)

    def take(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Take rows of the source."""
        return self.source.take(self.start + numbers)

    def where(self, row: int) -> str:
        """Say where the source has a row."""
        return self.source.where(self.start + row)

    def prefetch(self, start: int, stop: int) -> None:
        """Pass the hint on."""
        self.source.prefetch(self.start + start, self.start + min(stop, self.shape[0]))
