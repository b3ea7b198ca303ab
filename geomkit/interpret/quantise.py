"""Vectors in few bytes: float16, int8, four bits, one bit a coordinate, and any of these along principal directions."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.matrix import finite_rows
from geomkit.core.validation import check_choice, check_whole, name_rows
from geomkit.errors import InvalidInputError
from geomkit.interpret.directions import principal

__all__ = ["BITS", "Quantiser", "quantiser"]

BITS = {"float32": 32, "float16": 16, "int8": 8, "int4": 4, "sign": 1}
"""Bits a coordinate of each kind of code."""


@dataclass(frozen=True)
class Quantiser:
    """A code of a fixed number of bytes a vector, fitted to some rows.

    What all vectors share (ranges, levels, mean, directions) is not counted in `bytes_per_vector`.
    """

    kind: str
    """float32, float16, int8, int4 or sign."""
    d: int
    width: int
    """Coordinates that are coded: d, or the number of principal directions."""
    seed: int
    mean: NDArray[np.float64] | None = field(repr=False)
    """Of the rows fitted to, (d,); None without principal directions."""
    basis: NDArray[np.float64] | None = field(repr=False)
    """Principal directions, (d, width); None where the coordinates are those of the vectors."""
    low: NDArray[np.float64] = field(repr=False)
    """Value of the lowest level of each coordinate; of ``sign``, the mean of the values up to the middle, (width,)."""
    high: NDArray[np.float64] = field(repr=False)
    """Value of the highest level; of ``sign``, the mean of the values above the middle, (width,)."""
    middle: NDArray[np.float64] = field(repr=False)
    """Mean of each coordinate, which ``sign`` compares with, (width,)."""

    @property
    def bytes_per_vector(self) -> int:
        """Bytes that `encode` makes of a vector."""
        return -(-self.width * BITS[self.kind] // 8)

    @property
    def name(self) -> str:
        """The code in words, such as "pca-64 int8"."""
        return self.kind if self.basis is None else f"pca-{self.width} {self.kind}"

    def encode(self, x: Any) -> NDArray[np.uint8]:
        """Return the code of each row, (n, bytes_per_vector).

        Values beyond the range fitted to get the nearest level: `outside` says how many are.

        Raises
        ------
        InvalidInputError
            Rows are not finite or of another width, or float16 cannot hold a value.
        """
        values = self._coordinates(x)
        if self.kind in {"float32", "float16"}:
            with np.errstate(over="ignore"):
                kept = values.astype(f"<f{BITS[self.kind] // 8}")
            if not np.isfinite(kept).all():
                bad = np.flatnonzero(~np.isfinite(kept).all(axis=1))
                msg = f"x has {name_rows(bad)} with a value that {self.kind} cannot hold"
                raise InvalidInputError(msg)
            return np.ascontiguousarray(kept).view(np.uint8).reshape(len(values), -1)
        if self.kind == "sign":
            return np.packbits(values > self.middle, axis=1)
        # A coordinate that did not vary has one level, whatever is encoded.
        step = np.where(self._step() > 0, self._step(), 1.0)
        levels = np.clip(np.rint((values - self.low) / step), 0, 2 ** BITS[self.kind] - 1).astype(np.uint8)
        if self.kind == "int8":
            return levels
        padded = np.pad(levels, ((0, 0), (0, self.width % 2)))
        return np.asarray(padded[:, ::2] | padded[:, 1::2] << 4, np.uint8)

    def decode(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the vectors that codes stand for, (n, d).

        Raises
        ------
        InvalidInputError
            Codes are not bytes, or not `bytes_per_vector` a row.
        """
        if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] != self.bytes_per_vector:
            msg = f"codes must be uint8 of shape (n, {self.bytes_per_vector}); got {codes.dtype} of shape {codes.shape}"
            raise InvalidInputError(msg)
        if self.kind in {"float32", "float16"}:
            values = np.ascontiguousarray(codes).view(f"<f{BITS[self.kind] // 8}").astype(np.float64)
        elif self.kind == "sign":
            values = np.where(np.unpackbits(codes, axis=1, count=self.width), self.high, self.low)
        else:
            levels = codes
            if self.kind == "int4":
                levels = np.stack([codes & 15, codes >> 4], axis=2).reshape(len(codes), -1)[:, : self.width]
            values = self.low + levels * self._step()
        if self.basis is not None and self.mean is not None:
            values = self.mean + values @ self.basis.T
        return np.asarray(values, np.float32)

    def outside(self, x: Any) -> float:
        """Share of the coded values that lie beyond the range fitted to, which int8 and int4 bring to its ends."""
        if self.kind not in {"int8", "int4"}:
            return 0.0
        values = self._coordinates(x)
        return float(np.mean((values < self.low) | (values > self.high)))

    def _step(self) -> NDArray[np.float64]:
        return np.asarray((self.high - self.low) / (2 ** BITS[self.kind] - 1))

    def _coordinates(self, x: Any) -> NDArray[np.float64]:
        rows = finite_rows(x)
        if rows.shape[1] != self.d:
            msg = f"x has {rows.shape[1]} columns; this code is of {self.d}"
            raise InvalidInputError(msg)
        return rows if self.basis is None or self.mean is None else (rows - self.mean) @ self.basis


def quantiser(x: Any, kind: str, *, directions: int | None = None, seed: int = 0) -> Quantiser:
    """Fit a code to some rows.

    Parameters
    ----------
    x : array_like (n, d)
        Finite.
    kind : {"float32", "float16", "int8", "int4", "sign"}
        int8 and int4: so many levels, evenly from the least to the largest value of each coordinate. sign: whether a
        value is above the coordinate's mean, read as the mean of the values on that side.
    directions : int, optional
        Code the coordinates along so many principal directions of x, instead of those of the vectors.
    seed : int
        Of the directions; see `directions.coordinates`.

    Returns
    -------
    Quantiser

    Raises
    ------
    InvalidInputError
        Rows are not finite, or an argument is not one of its choices or out of range.
    """
    check_choice(kind, "kind", tuple(BITS))
    rows = finite_rows(x, min_rows=2)
    n, d = rows.shape
    mean = basis = None
    if directions is not None:
        check_whole(directions, "directions", 1, min(n - 1, d))
        mean = rows.mean(axis=0)
        basis = principal(rows, mean, int(directions), seed)
        rows = (rows - mean) @ basis
    middle, low, high = rows.mean(axis=0), rows.min(axis=0), rows.max(axis=0)
    if kind == "sign":
        above = rows > middle
        low, high = _mean_where(rows, ~above, middle), _mean_where(rows, above, middle)
    return Quantiser(kind, d, rows.shape[1], seed, mean, basis, low, high, middle)


def _mean_where(rows: NDArray[np.float64], chosen: NDArray[np.bool_], other: NDArray[np.float64]) -> Any:
    counts = chosen.sum(axis=0)
    return np.where(counts > 0, np.where(chosen, rows, 0.0).sum(axis=0) / np.maximum(counts, 1), other)
