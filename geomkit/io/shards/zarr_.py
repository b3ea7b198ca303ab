"""Shards of zarr: an array in a folder, in chunks of rows, each with all its columns or with some."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.errors import BackendUnavailableError, InvalidInputError
from geomkit.io.files.record import Selection
from geomkit.io.files.refusals import check_claim, pick
from geomkit.io.shards.locations import Place, RemoteStore, Stamp, reached
from geomkit.io.shards.shard import Kept, Part, check_rows, check_unnamed, in_host_order, pieces_of

__all__ = ["open_zarr"]


@dataclass(kw_only=True)
class _Zarr(Part):
    place: Place
    inner: str
    """The path of the array within the folder."""
    step: int
    """Rows of what is one file, which may hold several chunks."""
    files: tuple[tuple[tuple[str, Stamp], ...], ...] = field(repr=False)
    """The files of each such step, and what they were; those of the metadata last."""
    array: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"array": None}

    def check(self) -> None:
        """As in `Part`: the files that a piece is in are looked at when it is decoded."""

    def decode(self, piece: int, kept: Kept) -> NDArray[Any]:  # noqa: ARG002 - every shard takes it
        """As in `Part`: all chunks of some rows."""
        start, stop = int(self.bounds[piece]), int(self.bounds[piece + 1])
        # A chunk that is not there would be read as the fill value.
        for step in (*range(start // self.step, (stop - 1) // self.step + 1), -1):
            for name, stamp in self.files[step]:
                Place(self.place.store, f"{self.place.path.rstrip('/')}/{name}").check(stamp)
        if self.array is None:
            self.array = _opened(self.place, self.inner)
        with reached(self.label, "zarr"):
            return np.ascontiguousarray(self.array[start:stop], self.dtype)


def _opened(place: Place, inner: str = "") -> Any:
    try:
        import zarr
        import zarr.storage
    except ImportError as why:
        msg = f"{place.label} needs zarr, which cannot be imported ({why}); pip install 'geomkit[scale]'"
        raise BackendUnavailableError(msg) from why
    with reached(place.label, "zarr"):
        store: Any = place.path
        if isinstance(place.store, RemoteStore):
            mapper = place.store.filesystem.get_mapper(place.path)
            store = zarr.storage.FsspecStore.from_mapper(mapper, read_only=True)
        try:
            return zarr.open(store, mode="r", path=inner or None)
        except FileNotFoundError as why:
            msg = f"{place.label}: no array or group of zarr is in it; it must be the folder of one"
            raise InvalidInputError(msg) from why


def open_zarr(place: Place, selection: Selection, unit: int, like: Any) -> Part:  # noqa: ARG001
    """Read the metadata of a zarr array, and the list of its files.

    Parameters
    ----------
    place : Place
        The folder of an array or a group.
    selection : Selection
        Its key says which array of a group; it may have none where the group has one matrix of numbers.
    unit : int
        Bytes to decode at a time, as near as whole chunks allow.
    like : object
        Not used: there is nothing to choose.
    """
    key = selection.key
    check_unnamed(place.label, replace(selection, key=None), "zarr's arrays have")
    found, inner = _opened(place), ""
    if not hasattr(found, "chunks"):
        inner, found = _member(place, found, key)
    elif key is not None:
        msg = f"{place.label}: key is {key!r}, but it is one array; key must be None"
        raise InvalidInputError(msg)
    label = f"{place.label}, array {inner!r}" if inner else place.label
    shape, dtype = tuple(found.shape), np.dtype(found.dtype)
    check_rows(label, shape, dtype)
    rows, d = shape
    with reached(place.label):
        listed = place.store.stamps(place.path)
    outer = found.shards or found.chunks
    top = f"{inner}/" if inner else ""
    files, missing = [], []
    for step in range(-(-rows // outer[0])):
        names = [top + found.metadata.encode_chunk_key((step, column)) for column in range(-(-d // outer[1]))]
        missing += [name for name in names if name not in listed]
        files.append(tuple((name, listed.get(name, (0, ""))) for name in names))
    if missing:
        msg = (
            f"{label}: {len(missing)} chunks are missing, the first {missing[0]!r}, whose numbers would all be read "
            f"as {found.fill_value}; it must be whole: write with write_empty_chunks=True"
        )
        raise InvalidInputError(msg)
    about = {top + name for name in ("zarr.json", ".zarray")}
    files.append(tuple((name, stamp) for name, stamp in listed.items() if name in about))
    stored = sum(stamp[0] for step in files for _, stamp in step)
    check_claim(place.shown, "what it says it holds", shape, dtype.itemsize, stored)
    chunk = found.chunks[0]
    size = chunk * max(1, unit // (chunk * d * dtype.itemsize))
    digest = hashlib.sha256(repr([each for step in files for each in sorted(step)]).encode()).hexdigest()
    return _Zarr(
        label=label,
        last=f"{place.last}/{inner}" if inner else place.last,
        resolved=place.store.resolved(f"{place.path.rstrip('/')}/{inner}"),
        rows=rows,
        d=d,
        dtype=in_host_order(dtype),
        bytes=stored,
        bounds=pieces_of(rows, size),
        mapped=False,
        place=place,
        stamp=(stored, digest),
        inner=inner,
        step=outer[0],
        files=tuple(files),
        array=found,
    )


def _member(place: Place, group: Any, key: str | None) -> tuple[str, Any]:
    """Return the array of a group that is meant, and its path."""
    with reached(place.label, "zarr"):
        arrays = {
            str(each.path).strip("/").removeprefix(str(group.path).strip("/")).strip("/"): each
            for _, each in group.members(max_depth=None)
            if hasattr(each, "chunks")
        }
    found = [name for name, each in arrays.items() if len(each.shape) == 2 and np.dtype(each.dtype).kind in "fiu"]
    name = pick(place.shown, found, key, "a matrix of numbers", others=list(arrays))
    return name, arrays[name]
