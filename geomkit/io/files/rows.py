"""Rows and labels that come one by one, without knowing how many there will be."""

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.io.files.refusals import refusal, shorten

__all__ = ["GrowingMatrix", "as_labels"]

_CHUNK = 1 << 16


class GrowingMatrix:
    """A matrix that grows by rows of one width, in float32 or float64.

    Parameters
    ----------
    path : Path
        For messages.
    dtype : {"float32", "float64"}
        What is kept. Rows come as Python floats.
    unit : str
        What a row is in the file, for messages: "line" or "row".
    """

    def __init__(self, path: Path, dtype: str, unit: str = "line") -> None:
        self._path, self._dtype, self._unit = path, np.dtype(dtype), unit
        self._kept = array("d" if dtype == "float64" else "f")
        self._pending = array("d")
        self.n = 0
        self.d = 0

    def add(self, number: int, values: Sequence[float]) -> None:
        """Add one row; `number` is where it is in the file, for messages.

        Raises
        ------
        InvalidInputError
            It is not as wide as the rows before, or has a number beyond float32 where that is kept.
        """
        if self.n == 0:
            self.d = len(values)
        if len(values) != self.d or self.d == 0:
            before = f"; rows before have {self.d}" if self.n else ""
            msg = f"{self._unit} {number} has {len(values)} numbers{before}; all must have as many, at least 1"
            raise refusal(self._path, msg)
        self._pending.extend(values)
        self.n += 1
        if len(self._pending) >= _CHUNK:
            self._flush()

    def extend(self, block: NDArray[np.float64]) -> None:
        """Add rows (m, d) of the width of those before."""
        self._pending.frombytes(np.ascontiguousarray(block, np.float64).tobytes())
        self.n, self.d = self.n + len(block), block.shape[1]
        self._flush()

    def _flush(self) -> None:
        block = np.frombuffer(self._pending, np.float64)
        kept: NDArray[Any] = block
        if self._dtype == np.float32:
            with np.errstate(over="ignore"):
                small = block.astype(np.float32)
            if (beyond := np.flatnonzero(np.isinf(small) & np.isfinite(block))).size:
                row = self.n - (len(block) - int(beyond[0]) - 1) // self.d - 1
                msg = f"row {row} has {block[beyond[0]]}; numbers must be within the range of float32"
                raise refusal(self._path, msg)
            kept = small
        self._kept.frombytes(kept.tobytes())
        self._pending = array("d")

    def matrix(self) -> NDArray[Any]:
        """All rows, (n, d).

        Raises
        ------
        InvalidInputError
            There are none.
        """
        if self.n == 0:
            raise refusal(self._path, "it has no rows; it must have at least 1")
        self._flush()
        return np.frombuffer(self._kept, self._dtype).reshape(self.n, self.d)


def as_labels(path: Path, what: str, values: Iterable[object], n: int) -> tuple[str, ...]:
    """Return one label a row as text: what Python's `str` makes of numbers, UTF-8 of bytes.

    Parameters
    ----------
    path : Path
    what : str
        What `labels` named, for messages.
    values : iterable of str, bytes, int, float or bool
    n : int
        Rows.

    Raises
    ------
    InvalidInputError
        There are more or fewer than n, one is missing, or one is neither text nor a number.
    """
    found = []
    for row, value in enumerate(values):
        if isinstance(value, bytes):
            try:
                found.append(value.decode("utf-8"))
            except UnicodeDecodeError as why:
                raise refusal(path, f"{what} of row {row} is not UTF-8: {why}") from why
        elif isinstance(value, (str, int, float)):
            found.append(str(value))
        else:
            has = "is missing" if value is None else f"is {shorten(value)}"
            raise refusal(path, f"{what} of row {row} {has}; labels must be text or numbers, one a row")
    if len(found) != n:
        raise refusal(path, f"{what} has {len(found)} labels for {n} rows; it must have one a row")
    return tuple(found)
