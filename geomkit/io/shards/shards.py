"""A matrix whose rows lie in many files, here or elsewhere, or in several arrays."""

import hashlib
import operator
import os
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.row_source import RowSource
from geomkit.errors import InvalidInputError
from geomkit.io.files import selection_of
from geomkit.io.shards.listing import check_together, parts_of
from geomkit.io.shards.piece_cache import PieceCache
from geomkit.io.shards.shard import Kept, Part, check_unnamed
from geomkit.io.shards.spool import spooled

__all__ = ["CACHE_BYTES", "CACHE_SHARE", "Shard", "Shards", "open_shards"]

CACHE_SHARE = 4
"""One part in so many of `max_memory` is for decoded pieces that are kept."""
CACHE_BYTES = 256 * 2**20
"""What is for them where `max_memory` is None."""
_LARGEST_UNIT = 64 * 2**20
_OPENED = 128
"""Memory maps that are open at once: each takes a file descriptor."""


@dataclass(frozen=True, slots=True)
class Shard:
    """What is known of one shard."""

    name: str
    """The last part of its address where that tells the shards apart, or the whole of it."""
    first: int
    """The number of its first row among all rows."""
    rows: int
    bytes: int
    """What it takes where it lies, compressed or not."""


class Shards(RowSource):
    """Rows of many shards as one matrix, read when they are needed; made by `open_shards`.

    Threads may read at once. It can be pickled: the copy opens each shard again when it reads it, and refuses one that
    changed. Arrays of the caller's are pickled whole, memory maps by the name of their file.
    """

    note: str
    """What in tables was taken for the vectors and what was left out; empty where there was nothing to choose."""
    columns: Sequence[str]
    """The columns that are the vectors, of tables."""
    left_out: Sequence[str]
    """The columns that are not."""

    def __init__(self, parts: Sequence[Part], max_memory: int | None, cache_bytes: int) -> None:
        self._parts = tuple(parts)
        self._cache_bytes = cache_bytes
        self.max_memory = max_memory
        names = _names(parts)
        self._firsts = np.concatenate([[0], np.cumsum([part.rows for part in parts])]).astype(np.int64)
        self.shards = tuple(
            Shard(name, int(first), part.rows, part.bytes)
            for name, first, part in zip(names, self._firsts, parts, strict=False)
        )
        self.shape = (int(self._firsts[-1]), max(part.d for part in parts))
        self.dtype = parts[0].dtype.name
        self._type = parts[0].dtype
        choice = next((part.choice for part in parts if hasattr(part, "choice")), None)
        self.note = "" if choice is None else choice.note
        self.columns = () if choice is None else choice.vectors
        self.left_out = () if choice is None else choice.left_out
        self._digest = ""
        self._pieces, self._maps = PieceCache(cache_bytes), PieceCache(_OPENED)
        # A thread is started when there is something to read ahead.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="geomkit-shards")

    def __getstate__(self) -> dict[str, Any]:
        left = {"_pieces", "_maps", "_reader"}
        return {name: value for name, value in self.__dict__.items() if name not in left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pieces, self._maps = PieceCache(self._cache_bytes), PieceCache(_OPENED)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="geomkit-shards")

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<Shards {self.shape[0]} x {self.shape[1]} {self.dtype}, {len(self.shards)} shards>"

    @property
    def identity(self) -> str:
        """64 hexadecimal digits that change when a shard's name, size, shape, dtype, time or ETag does.

        Of an array of the caller's it is the content that counts, read once, when this is asked for first.
        """
        if not self._digest:
            digest = hashlib.sha256(f"{self.shape} {self.dtype}".encode())
            for part in self._parts:
                line = (part.last, part.rows, part.d, part.dtype.name, part.bytes, part.content())
                digest.update(repr(line).encode())
            self._digest = digest.hexdigest()
        return self._digest

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start:stop``, as stored.

        Parameters
        ----------
        start, stop : int
            0 <= start <= stop <= n.

        Returns
        -------
        ndarray (stop - start, d)
            C-contiguous, in the host's byte order, not to be written to: of one mapped file or array a view.

        Raises
        ------
        InvalidInputError
            A shard changed, vanished or broke, which the message names; or there are no such rows.

        Notes
        -----
        A piece of a shard (row group, record batch, chunks, range of bytes) is decoded once for all reads that follow
        one another, and for all threads that read it at once.
        """
        start, stop = operator.index(start), operator.index(stop)
        if not 0 <= start <= stop <= self.shape[0]:
            msg = f"start and stop must be within 0 <= start <= stop <= {self.shape[0]}; got {start} and {stop}"
            raise InvalidInputError(msg)
        runs = list(self._runs(start, stop))
        if len(runs) == 1:
            number, piece, low, high = runs[0]
            part = self._parts[number]
            rows = self._piece(number, piece)
            if part.mapped or high - low == len(rows):
                found = np.ascontiguousarray(rows[low:high], self._type)
            else:
                # A view would keep the whole piece alive beyond what the cache may hold.
                found = np.array(rows[low:high], self._type, order="C")
            found.flags.writeable = False
            return found
        joined = np.empty((stop - start, self.shape[1]), self._type)
        at = 0
        for number, piece, low, high in runs:
            joined[at : at + high - low] = self._piece(number, piece)[low:high]
            at += high - low
        return joined

    def take(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Return the rows with these numbers, in that order, as stored; each piece of a shard is decoded once.

        Parameters
        ----------
        numbers : (m,) int
            Each in [0, n); one may come several times.

        Returns
        -------
        ndarray (m, d)

        Raises
        ------
        InvalidInputError
            As for `read`.
        """
        asked = np.asarray(numbers)
        if asked.ndim != 1 or (asked.size and asked.dtype.kind not in "iu"):
            msg = f"numbers must be one-dimensional and whole; got {asked.dtype} of shape {asked.shape}"
            raise InvalidInputError(msg)
        if asked.size and not (int(asked.min()) >= 0 and int(asked.max()) < self.shape[0]):
            wrong = int(asked.min()) if asked.min() < 0 else int(asked.max())
            msg = f"numbers must be row numbers in [0, {self.shape[0]}); got {wrong}"
            raise InvalidInputError(msg)
        taken = np.empty((len(asked), self.shape[1]), self._type)
        order = np.argsort(asked, kind="stable")
        ordered = asked[order].astype(np.int64)
        at = 0
        while at < len(ordered):
            number = self._part_of(int(ordered[at]))
            part, first = self._parts[number], int(self._firsts[number])
            piece = int(np.searchsorted(part.bounds, ordered[at] - first, "right")) - 1
            end = int(np.searchsorted(ordered, first + part.bounds[piece + 1]))
            rows = ordered[at:end] - (first + part.bounds[piece])
            taken[order[at:end]] = self._piece(number, piece)[rows]
            at = end
        return taken

    def where(self, row: int) -> str:
        """Say where a row is, for messages: ``row 17 of part-0003.npy``."""
        row = operator.index(row)
        if not 0 <= row < self.shape[0]:
            msg = f"row must be in [0, {self.shape[0]}); got {row}"
            raise InvalidInputError(msg)
        shard = self.shards[self._part_of(row)]
        return f"row {row - shard.first} of {shard.name}"

    def prefetch(self, start: int, stop: int) -> None:
        """Decode the pieces of rows ``start:stop`` in a thread of its own, where the cache has room for two of each.

        Whatever goes wrong is said by the read that follows. What is mapped into memory the system reads ahead.
        """
        stop = min(stop, self.shape[0])
        item = self.shape[1] * self._type.itemsize
        for number, piece, _, _ in self._runs(min(start, stop), stop):
            part = self._parts[number]
            weight = int(part.bounds[piece + 1] - part.bounds[piece]) * item
            if not part.mapped and 2 * weight <= self._cache_bytes and self._pieces.peek((number, piece)) is None:
                self._reader.submit(self._piece, number, piece)

    def _part_of(self, row: int) -> int:
        return int(np.searchsorted(self._firsts, row, "right")) - 1

    def _runs(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """Shard, piece, and the first and last row within the piece, of each piece that a range meets."""
        while start < stop:
            number = self._part_of(start)
            part, first = self._parts[number], int(self._firsts[number])
            piece = int(np.searchsorted(part.bounds, start - first, "right")) - 1
            low, high = first + int(part.bounds[piece]), first + int(part.bounds[piece + 1])
            yield number, piece, start - low, min(stop, high) - low
            start = min(stop, high)

    def _piece(self, number: int, piece: int) -> NDArray[Any]:
        part = self._parts[number]
        if part.mapped:
            part.check()
            return self._maps.get((number, piece), 1, partial(part.decode, piece, Kept(lambda _: None, _forget)))
        cache, item = self._pieces, self.shape[1] * self._type.itemsize

        def weight(which: int) -> int:
            return int(part.bounds[which + 1] - part.bounds[which]) * item

        kept = Kept(
            lambda which: cache.peek((number, which)),
            lambda which, rows: cache.offer((number, which), weight(which), rows),
        )
        return cache.get((number, piece), weight(piece), partial(part.decode, piece, kept))


def _forget(piece: int, rows: NDArray[Any]) -> None:
    pass


def _names(parts: Sequence[Part]) -> list[str]:
    often = Counter(part.last for part in parts)
    return [part.last if often[part.last] == 1 else part.label for part in parts]


def open_shards(
    where: Any,
    *,
    key: str | None = None,
    columns: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    dtype: str | None = None,
    max_memory: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    spool: str | os.PathLike[str] | None = None,
) -> Shards:
    """Open rows that lie in many files, here or elsewhere, as one matrix that is read when it is needed.

    Parameters
    ----------
    where : address, array, iterator, or a list of addresses and arrays
        A folder, a glob or a file, as a path or as any address that fsspec knows (``s3://bucket/vectors``); or several
        in a list, in that order. A folder's shards come in the natural order of their names, part-2 before part-10, and
        folders within it are not entered. Shards are .npy, .parquet (.pq), .arrow (.feather, .ipc), .zarr, or text in
        .csv, .tsv or .jsonl (.ndjson), all of one kind in a folder; hidden files and what Spark leaves beside shards
        (``_SUCCESS``, ``_metadata``, ``.crc``) are none. Or an array or memory map (n, d), or a list of such. Or an
        iterator of blocks (m, d), which is drawn at once and written to a temporary file.
    key : str, optional
        Which column (Parquet, Arrow) or array (zarr) holds the vectors; needed where several could.
    columns, exclude : str or sequence of str, optional
        Which columns of single numbers are the coordinates, and which columns are no vectors: names, or patterns such
        as ``dim_*``.
    dtype : str, optional
        What columns of bytes hold, such as ``float32``.
    max_memory : int, optional
        Bytes that a measurement may take. A quarter of it, or 256 MiB where it is None, is for decoded pieces of shards
        that are kept for the next read; each thread that reads takes one piece more.
    storage_options : mapping, optional
        What fsspec's file system takes, such as credentials.
    spool : path, optional
        The folder for the temporary file of an iterator; None for the system's. The file is removed with the result.

    Returns
    -------
    Shards
        Accepted wherever a matrix is.

    Raises
    ------
    InvalidInputError
        No shards, no rows, a shard that is missing, damaged, cut short, not two-dimensional, given twice, or of another
        width or dtype than the first; a foreign file in a folder. The message names it.
    BackendUnavailableError
        A library is missing; the message says what to install.

    Notes
    -----
    Headers and footers are read, and of tables the first rows, which tell what is the vectors. Files
    must stay as they are while in use: size and time are looked at again with each read. Local .npy and uncompressed
    Arrow files are mapped into memory. A column-major .npy elsewhere takes a request for each column of each piece.
    A file of text is parsed whole, once for its number of rows and again whenever its rows are no longer kept: write
    text that comes to more than is kept as Parquet first. Sparse matrices are not sharded: pass one as it is.
    """
    if max_memory is not None and (
        isinstance(max_memory, bool) or not isinstance(max_memory, (int, np.integer)) or max_memory < 1
    ):
        msg = f"max_memory must be a number of bytes, at least 1, or None; got {max_memory!r}"
        raise InvalidInputError(msg)
    selection = selection_of(key=key, columns=columns, exclude=exclude, dtype=dtype)
    limit = CACHE_BYTES if max_memory is None else max(1, int(max_memory) // CACHE_SHARE)
    unit = max(1, min(_LARGEST_UNIT, limit // 4))
    if hasattr(where, "__next__"):
        check_unnamed("where is an iterator", selection, "its blocks have")
        if storage_options:
            msg = "where is an iterator, whose blocks have no addresses; storage_options must be None"
            raise InvalidInputError(msg)
        part, removal = spooled(where, spool)
        shards = Shards([part], max_memory, limit)
        weakref.finalize(shards, removal)
        return shards
    if spool is not None:
        msg = f"spool is {os.fspath(spool)!r}, but where is no iterator, so that nothing is written; it must be None"
        raise InvalidInputError(msg)
    parts = parts_of(where, selection, storage_options, unit)
    check_together(parts, max_memory)
    return Shards(parts, max_memory, limit)
