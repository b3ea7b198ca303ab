"""Rows that lie elsewhere, in files or on other machines, and are read when they are needed."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from geomkit.core.executor import Crew

__all__ = ["Divided", "Stored", "Subset", "Window"]


class Stored(ABC):
    """A matrix that is read by ranges of rows, which every measurement takes in place of an array.

    Several threads may read at once. Reading gives the same rows every time.
    """

    shape: tuple[int, int]
    """Rows and columns; at least one of each."""
    dtype: str
    """NumPy's name of what is stored."""
    max_memory: int | None = None
    """Bytes that a measurement may take for prepared rows; None for half of what is free."""
    crew: "Crew | None" = None
    """Who measures: None for the threads of this process."""

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

    def ahead(self, start: int, stop: int) -> None:  # noqa: B027 (a hint that may be ignored)
        """Hint that rows ``start:stop`` will be read soon; returns at once, and may do nothing."""


class _View(Stored):
    """Rows of another; measured by this process, whoever measures the other."""

    def __init__(self, source: Stored, rows: int) -> None:
        self.source, self.shape, self.dtype = source, (rows, source.shape[1]), source.dtype
        self.max_memory = source.max_memory


class Window(_View):
    """Consecutive rows of another."""

    def __init__(self, source: Stored, start: int, stop: int) -> None:
        super().__init__(source, stop - start)
        self.start = start

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read from the other, as all of these do."""
        return self.source.read(self.start + start, self.start + stop)

    def take(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Take from the other."""
        return self.source.take(self.start + numbers)

    def where(self, row: int) -> str:
        """Say where the other has it."""
        return self.source.where(self.start + row)

    def ahead(self, start: int, stop: int) -> None:
        """Pass the hint on."""
        self.source.ahead(self.start + start, self.start + min(stop, self.shape[0]))


class Subset(_View):
    """Chosen rows of another, (m,) numbers."""

    def __init__(self, source: Stored, numbers: NDArray[np.int64]) -> None:
        super().__init__(source, len(numbers))
        self.numbers = numbers

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Take from the other."""
        return self.source.take(self.numbers[start:stop])

    def take(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Take from the other."""
        return self.source.take(self.numbers[numbers])

    def where(self, row: int) -> str:
        """Say where the other has it."""
        return self.source.where(int(self.numbers[row]))


class Divided(_View):
    """Rows of another over a number each, in float32, or in float64 where the rows are wider than that."""

    def __init__(self, source: Stored, divisors: NDArray[np.float64]) -> None:
        super().__init__(source, source.shape[0])
        self.divisors = divisors
        self.dtype = "float64" if source.dtype in {"float64", "int32", "int64", "uint32", "uint64"} else "float32"

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read and divide."""
        return self._over(self.source.read(start, stop), self.divisors[start:stop])

    def take(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Take and divide."""
        return self._over(self.source.take(numbers), self.divisors[numbers])

    def where(self, row: int) -> str:
        """Say where the other has it."""
        return self.source.where(row)

    def ahead(self, start: int, stop: int) -> None:
        """Pass the hint on."""
        self.source.ahead(start, stop)

    def _over(self, rows: NDArray[Any], divisors: NDArray[np.float64]) -> NDArray[Any]:
        out = np.empty(rows.shape, self.dtype)
        np.divide(rows, divisors[:, None], out=out, casting="unsafe")
        return out
