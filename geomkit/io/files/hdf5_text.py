"""Text of varying length in HDF5, read from the file itself.

libhdf5 allocates what a damaged reference claims, up to 4 GB, and walks a damaged heap for ever. Both are simple: a
dataset of such text holds a length, the address of a collection and a number in it for each row; a collection ("GCOL",
the global heap of the format's specification, III.E) holds numbered objects one behind the other.
"""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from geomkit.io.files.refusals import check_claim, library_errors, refusal

__all__ = ["read_text"]

_REFERENCE = struct.Struct("<IQI")
_COLLECTION = struct.Struct("<4sB3xQ")
_OBJECT = struct.Struct("<HH4xQ")


def read_text(path: Path, name: str, dataset: Any) -> list[bytes]:
    """Return the text of a one-dimensional dataset, one a row.

    Parameters
    ----------
    path : Path
    name : str
        For messages.
    dataset : h5py.Dataset
        Of variable-length strings.

    Raises
    ------
    InvalidInputError
        It is compressed, or a reference or the heap is damaged.
    """
    with library_errors(path, "h5py"):
        n, base, pieces = dataset.shape[0], dataset.file.userblock_size, _pieces(dataset)
        compressed = dataset.id.get_create_plist().get_nfilters() > 0
    if compressed:
        msg = f"dataset {name!r} holds compressed text of varying length"
        raise refusal(path, f"{msg}; labels must be numbers, text of one length, or not compressed")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return list(_strings(path, name, content, base, pieces, n))


def _pieces(dataset: Any) -> list[tuple[int, int]]:
    """Return where references are, in order: the first byte, and how many rows from there."""
    n = dataset.shape[0]
    if dataset.chunks is None:
        return [(dataset.id.get_offset() or 0, n)]
    (size,) = dataset.chunks
    chunks = [dataset.id.get_chunk_info(i) for i in range(dataset.id.get_num_chunks())]
    starts = {chunk.chunk_offset[0]: chunk.byte_offset for chunk in chunks}
    return [(starts.get(first) or 0, min(size, n - first)) for first in range(0, n, size)]


def _strings(
    path: Path, name: str, content: mmap.mmap, base: int, pieces: list[tuple[int, int]], n: int
) -> Iterator[bytes]:
    heaps: dict[int, dict[int, tuple[int, int]]] = {}
    total = 0
    for start, rows in pieces:
        if start == 0 or start + rows * _REFERENCE.size > len(content):
            raise refusal(path, f"dataset {name!r} does not hold its {n} rows; it is truncated or damaged")
        for at in range(start, start + rows * _REFERENCE.size, _REFERENCE.size):
            length, address, number = _REFERENCE.unpack_from(content, at)
            if length == 0:
                yield b""
                continue
            if address not in heaps:
                heaps[address] = _objects(path, content, base + address)
            first, held = heaps[address].get(number, (0, 0))
            if length > held:
                raise refusal(path, f"dataset {name!r} refers to text that is not there; it is damaged")
            total += length
            check_claim(path, f"the text of {name!r}", (total,), 1, len(content))
            yield content[first : first + length]


def _objects(path: Path, content: mmap.mmap, start: int) -> dict[int, tuple[int, int]]:
    """Return where each object of a collection is, and how long."""
    found: dict[int, tuple[int, int]] = {}
    mark, version, size = (b"", 0, 0)
    if start + _COLLECTION.size <= len(content):
        mark, version, size = _COLLECTION.unpack_from(content, start)
    end = start + size
    if mark != b"GCOL" or version != 1 or end > len(content):
        raise refusal(path, f"there is no heap of text at byte {start}, where there must be one; it is damaged")
    at = start + _COLLECTION.size
    while at + _OBJECT.size <= end:
        number, _, held = _OBJECT.unpack_from(content, at)
        if number == 0:  # what is free reaches to the end
            break
        if at + _OBJECT.size + held > end:
            raise refusal(path, f"the heap of text at byte {start} has an object beyond its end; it is damaged")
        found[number] = (at + _OBJECT.size, held)
        at += _OBJECT.size + -(-held // 8) * 8
    return found
