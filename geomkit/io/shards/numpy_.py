"""Shards of NumPy: .npy files, mapped or read by ranges of bytes, and arrays that the caller has."""

import hashlib
import io
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.errors import InvalidInputError
from geomkit.io.files.numpy_ import _LONGEST_HEADER as LONGEST_HEADER
from geomkit.io.files.numpy_ import _Header as Header
from geomkit.io.files.record import Selection
from geomkit.io.shards.locations import LocalStore, Place, reached
from geomkit.io.shards.shard import Kept, Part, check_rows, check_unnamed, in_host_order, pieces_of

__all__ = ["RawPart", "array_part", "open_npy"]


@dataclass(kw_only=True)
class RawPart(Part):
    """Numbers that lie in a file one after the other, uncompressed."""

    place: Place
    offset: int
    stored: np.dtype[Any]
    """In the byte order of the file."""
    fortran: bool

    def decode(self, piece: int, kept: Kept) -> NDArray[Any]:  # noqa: ARG002 - every shard takes it
        """As in `Part`: a view of the map, or ranges of bytes."""
        self.check()
        start, stop = int(self.bounds[piece]), int(self.bounds[piece + 1])
        if self.mapped:
            return self._map(start, stop)
        item = self.stored.itemsize
        if self.fortran:
            firsts = [self.offset + (column * self.rows + start) * item for column in range(self.d)]
            ends = [(first, first + (stop - start) * item) for first in firsts]
            columns = [np.frombuffer(each, self.stored) for each in self.place.ranges(ends)]
            return np.stack(columns, axis=1, dtype=self.dtype)
        ends = [(self.offset + start * self.d * item, self.offset + stop * self.d * item)]
        rows = np.frombuffer(self.place.ranges(ends)[0], self.stored).reshape(-1, self.d)
        return rows.astype(self.dtype, copy=False)

    def _map(self, start: int, stop: int) -> NDArray[Any]:
        if start == stop:
            return np.empty((0, self.d), self.stored)
        order = "F" if self.fortran else "C"
        with reached(self.label, "numpy"):
            found = np.memmap(Path(self.place.path), self.stored, "r", self.offset, (self.rows, self.d), order)  # type: ignore[call-overload]
        return found.view(np.ndarray)  # type: ignore[no-any-return]


def open_npy(place: Place, selection: Selection, unit: int, like: Any = None) -> RawPart:  # noqa: ARG001
    """Read the header of a .npy file and hold it against the file's size.

    Parameters
    ----------
    place : Place
    selection : Selection
        Such files have nothing by name, so that it must ask for nothing.
    unit : int
        Bytes to read at a time where the file cannot be mapped.
    like : object
        Not used: there is nothing to choose.
    """
    check_unnamed(place.label, selection, "npy files have")
    stamp = place.stamp()
    head = place.ranges([(0, min(stamp[0], LONGEST_HEADER + 12))])[0]
    header = Header(place.shown, "the array", io.BytesIO(head))
    header.check_objects(place.shown, "the array")
    check_rows(place.label, header.shape, header.dtype)
    header.check_size(place.shown, "the array", stamp[0])
    rows, d = header.shape
    local = place.store.local
    size = max(rows, 1) if local else max(1, unit // (d * header.dtype.itemsize))
    return RawPart(
        label=place.label,
        last=place.last,
        resolved=f"{place.store.resolved(place.path)} from byte {header.length}",
        rows=rows,
        d=d,
        dtype=in_host_order(header.dtype),
        bytes=stamp[0],
        bounds=pieces_of(rows, size),
        mapped=local,
        place=place,
        stamp=stamp,
        offset=header.length,
        stored=header.dtype,
        fortran=bool(header.fortran),
    )


@dataclass(kw_only=True)
class _Array(Part):
    """An array of the caller's."""

    array: NDArray[Any]

    def decode(self, piece: int, kept: Kept) -> NDArray[Any]:  # noqa: ARG002 - every shard takes it
        """As in `Part`: the array itself."""
        return self.array

    def content(self) -> str:
        """As in `Part`: a digest of its numbers."""
        digest = hashlib.sha256()
        step = max(1, 2**24 // max(1, self.array.shape[1] * self.array.itemsize))
        for start in range(0, self.rows, step):
            digest.update(np.ascontiguousarray(self.array[start : start + step], self.dtype).view(np.uint8).data)
        return digest.hexdigest()


def array_part(array: NDArray[Any], name: str) -> Part:
    """Take an array as one shard: a memory map by its file, so that another process can map it too.

    Parameters
    ----------
    array : ndarray (n, d)
    name : str
        What messages call it.
    """
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        msg = f"{name}: it has masked entries, which have no value; fill or drop them"
        raise InvalidInputError(msg)
    array = np.asanyarray(array)
    check_rows(name, array.shape, array.dtype)
    if (raw := _mapped_part(array)) is not None:
        return raw
    plain = array.view(np.ndarray)
    rows, d = plain.shape
    return _Array(
        label=name,
        last=name,
        # Where there is nothing to hold, arrays may share an address.
        resolved=f"array at {plain.__array_interface__['data'][0] if plain.size else id(plain)} {plain.shape} "
        f"{plain.strides} {plain.dtype}",
        rows=rows,
        d=d,
        dtype=in_host_order(plain.dtype),
        bytes=plain.nbytes,
        bounds=np.array([0, rows]),
        mapped=True,
        array=plain,
    )


def _mapped_part(array: NDArray[Any]) -> Part | None:
    """Find the bytes of a file that an array is a view of; None where it is anything else."""
    if not isinstance(array, np.memmap) or not array.size or not (array.flags.c_contiguous or array.flags.f_contiguous):
        return None
    whole: Any = array
    while isinstance(whole.base, np.memmap):
        whole = whole.base
    # A map that is copied on writing may no longer be what the file is.
    if not isinstance(whole.base, mmap.mmap) or whole.mode not in {"r", "r+", "w+"} or whole.filename is None:
        return None
    offset = int(whole.offset) + array.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    place = Place(LocalStore(), str(whole.filename))
    stamp = place.stamp()
    rows, d = array.shape
    return RawPart(
        label=place.label,
        last=place.last,
        resolved=f"{place.store.resolved(place.path)} from byte {offset}",
        rows=rows,
        d=d,
        dtype=in_host_order(array.dtype),
        bytes=array.nbytes,
        bounds=np.array([0, rows]),
        mapped=True,
        place=place,
        stamp=stamp,
        offset=offset,
        stored=array.dtype,
        fortran=not array.flags.c_contiguous,
    )
