"""What a shard is to the rest: rows in pieces, each read or decoded as one."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.errors import InvalidInputError
from geomkit.io.files.record import Selection
from geomkit.io.shards.locations import Place, Stamp

__all__ = ["UNKNOWN", "Kept", "Part", "check_rows", "check_unnamed", "in_host_order", "pieces_of"]

UNKNOWN = 0
"""The width of a shard of lists without rows, which fits any other."""

_FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True, slots=True)
class Kept:
    """The cache as one shard sees it."""

    peek: Callable[[int], NDArray[Any] | None]
    offer: Callable[[int, NDArray[Any]], None]


@dataclass(kw_only=True)
class Part(ABC):
    """One shard: what its header says of it, and how to read a piece. Nothing in it is open when it is pickled."""

    label: str
    """Its full name, for messages."""
    last: str
    """The last part of that name."""
    resolved: str
    """One name for all the ways to write where it lies; two shards must not share it."""
    rows: int
    d: int
    """Columns; `UNKNOWN` where there are no rows, and only rows would say."""
    dtype: np.dtype[Any]
    """In the host's byte order."""
    bytes: int
    """What it takes where it lies."""
    bounds: NDArray[np.int64] = field(repr=False)
    """Where pieces start, and the end: 0, ..., rows."""
    mapped: bool
    """Whether its pieces are views of a memory map or of an array, which take no memory of their own."""
    place: Place | None = None
    stamp: Stamp = (0, "")

    def check(self) -> None:
        """Refuse a shard that is not what it was when it was opened."""
        if self.place is not None:
            self.place.check(self.stamp)

    @abstractmethod
    def decode(self, piece: int, kept: Kept) -> NDArray[Any]:
        """Return the rows of a piece, (rows, d), C-contiguous unless it is a view."""

    @property
    def piece_bytes(self) -> int:
        """The most that a piece of it takes in memory."""
        longest = int(np.diff(self.bounds).max(initial=0))
        return 0 if self.mapped else longest * self.d * self.dtype.itemsize

    def content(self) -> str:
        """Return what changes when the shard does, for the digest of all shards."""
        return f"{self.stamp[0]} {self.stamp[1]}"


def check_rows(label: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse what is not a matrix of numbers that can be measured; it may have no rows.

    Raises
    ------
    InvalidInputError
        Naming the shard, what it has and what it must have.
    """
    if len(shape) != 2:
        msg = f"{label}: it has {len(shape)} dimensions (shape {tuple(shape)}); it must have two, rows x columns"
        raise InvalidInputError(msg)
    if shape[1] < 1:
        msg = f"{label}: it has no columns (shape {tuple(shape)}); it must have at least 1"
        raise InvalidInputError(msg)
    if dtype.name not in _FLOATS and dtype.kind not in "iu":
        msg = f"{label}: it holds {dtype}; it must hold float16, bfloat16, float32, float64 or integers"
        raise InvalidInputError(msg)


def check_unnamed(label: str, selection: Selection, what: str) -> None:
    """Refuse to choose by name where a shard has nothing by name.

    Raises
    ------
    InvalidInputError
        There is something that the selection names.
    """
    for name, unset in (("key", None), ("columns", ()), ("exclude", ()), ("dtype", None)):
        if (value := getattr(selection, name)) != unset:
            msg = f"{label}: {name} is {value!r}, but {what} nothing by name; it must be {unset}"
            raise InvalidInputError(msg)


def pieces_of(rows: int, size: int) -> NDArray[np.int64]:
    """Return the bounds of pieces of so many rows, the last one shorter."""
    return np.array([*range(0, rows, size), rows], np.int64)


def in_host_order(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the same dtype in the byte order of this machine."""
    return dtype.newbyteorder("=") if dtype.byteorder in "<>" else dtype
