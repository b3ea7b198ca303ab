"""Shards of Parquet: row groups are the pieces, or parts of row groups where these are large."""

import threading
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.errors import InvalidInputError
from geomkit.io.files.columnar import Choice, choose, sample_rows, vectors_of
from geomkit.io.files.record import Selection
from geomkit.io.files.refusals import check_claim, library_errors, require
from geomkit.io.shards.locations import Place, reached
from geomkit.io.shards.shard import UNKNOWN, Kept, Part, check_rows

__all__ = ["Choice", "as_rows", "choose", "open_parquet"]


_BUFFER = 2**20
"""Bytes to fetch at a time of a row group that is decoded in parts."""
_OPENED = 64


@dataclass
class _Cursor:
    """Decoding of a row group that has got to some piece, and goes on from there."""

    group: int
    next: int
    batches: Iterator[Any]
    file: Any


_LEFT: "deque[weakref.ref[_Parquet]]" = deque()
"""Shards whose decoding has stopped within a row group, the last one last."""


@dataclass(kw_only=True)
class _Parquet(Part):
    place: Place
    choice: Choice
    groups: NDArray[np.int64] = field(repr=False)
    """Which row group each piece is of."""
    firsts: NDArray[np.int64] = field(repr=False)
    """The first piece of each row group, and the end."""
    unit: int
    """Rows of a piece where a row group has several."""
    meta: Any = None
    cursor: _Cursor | None = None
    lock: Any = None

    def __post_init__(self) -> None:
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"meta": None, "cursor": None, "lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    def decode(self, piece: int, kept: Kept) -> NDArray[Any]:
        """As in `Part`: a row group at once, or the next part of one."""
        self.check()
        group = int(self.groups[piece])
        first, end = int(self.firsts[group]), int(self.firsts[group + 1])
        if end - first == 1:
            cursor = self._at(group, whole=True)
            with cursor.file:
                return self._next(cursor)
        with self.lock:
            # Another thread may have decoded it while this one waited.
            if (found := kept.peek(piece)) is not None:
                return found
            left, self.cursor = self.cursor, None
            goes_on = left is not None and left.group == group and left.next <= piece
            cursor = left if left is not None and goes_on else self._at(group, whole=False)
            while cursor.next < piece:
                passed = cursor.next
                kept.offer(passed, self._next(cursor))
            rows = self._next(cursor)
            if cursor.next < end:
                self._leave(cursor)
            return rows

    def _leave(self, cursor: _Cursor) -> None:
        """Keep a cursor for the next piece; of those that were left, only the last few keep their files open."""
        self.cursor = cursor
        _LEFT.append(weakref.ref(self))
        while len(_LEFT) > _OPENED:
            old = _LEFT.popleft()()
            if old is not None and old is not self:
                old.cursor = None

    def _at(self, group: int, *, whole: bool) -> _Cursor:
        file = _opened(self.place, self.meta, whole=whole)
        self.meta = file.metadata
        with library_errors(self.place.shown, "pyarrow"):
            batches = file.iter_batches(
                batch_size=self.unit, row_groups=[group], columns=self.choice.columns, use_threads=False
            )
        return _Cursor(group, int(self.firsts[group]), batches, file)

    def _next(self, cursor: _Cursor) -> NDArray[Any]:
        start, stop = int(self.bounds[cursor.next]), int(self.bounds[cursor.next + 1])
        cursor.next += 1
        blocks: list[NDArray[Any]] = []
        while start < stop:
            with reached(self.label, "pyarrow"):
                batch = next(cursor.batches, None)
                if batch is not None:
                    batch.validate()
            if batch is None or batch.num_rows > stop - start:
                has = "ends" if batch is None else "has more rows than it says"
                msg = f"{self.label}: row group {cursor.group} {has} at row {start}; it is damaged"
                raise InvalidInputError(msg)
            if batch.num_rows:
                blocks.append(as_rows(self.place, batch, start, self.choice, self.d))
                start += batch.num_rows
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def as_rows(place: Place, batch: Any, start: int, choice: Choice, d: int) -> NDArray[Any]:
    """Return the rows of a batch that holds only the columns of `choice`, without copying where that can be.

    Parameters
    ----------
    place : Place
    batch : pyarrow.RecordBatch
        At least one row.
    start : int
        Its first row, for messages.
    choice : Choice
    d : int
        Numbers that a row must have.
    """
    rows = vectors_of(place.shown, require("pyarrow", place.shown), batch, start, choice)
    if rows.shape[1] != d:
        has = f"row {start} of {choice.vectors[0]!r} has {rows.shape[1]} numbers, the first row {d}"
        msg = f"{place.label}: {has}; all must have as many"
        raise InvalidInputError(msg)
    return rows


def _opened(place: Place, meta: Any = None, *, whole: bool = True) -> Any:
    """Open the file, not as a map: where a map is cut short, the process would be killed rather than told."""
    parquet, arrow = require("pyarrow.parquet", place.shown), require("pyarrow", place.shown)
    with reached(place.label, "pyarrow"):
        source = arrow.OSFile(place.path) if place.store.local else place.store.open(place.path)
        # Without a buffer, a row group is fetched whole even where it is decoded in parts.
        return parquet.ParquetFile(
            source,
            metadata=meta,
            pre_buffer=whole and not place.store.local,
            buffer_size=0 if whole else _BUFFER,
            page_checksum_verification=True,
        )


def open_parquet(place: Place, selection: Selection, unit: int, like: Choice | None) -> Part:
    """Read the footer of a Parquet file, and the first rows that tell which columns are the vectors.

    Parameters
    ----------
    place : Place
    selection : Selection
        Which columns are the vectors.
    unit : int
        Bytes to decode at a time of a row group that is larger.
    like : Choice or None
        What was chosen in a shard before, which holds where this one has the same columns.
    """
    stamp = place.stamp()
    arrow = require("pyarrow", place.shown)
    with _opened(place, whole=False) as file:
        with library_errors(place.shown, "pyarrow"):
            schema, meta = file.schema_arrow, file.metadata
            sizes = [meta.row_group(group).num_rows for group in range(meta.num_row_groups)]
        if like is not None and schema.equals(like.schema):
            choice = like
        else:
            choice = choose(place.shown, arrow, schema, selection, sample_rows(place.shown, file))
        rows = sum(sizes)
        if min(sizes, default=0) < 0 or rows != meta.num_rows:
            msg = f"{place.label}: its row groups have {rows} rows together, but it says {meta.num_rows}; it is damaged"
            raise InvalidInputError(msg)
        check_claim(place.shown, "what it says it holds", (rows,), choice.dtype.itemsize, stamp[0])
        d = _width(place, arrow, file, schema, choice, sizes)
    check_rows(place.label, (rows, d if rows else max(d, 1)), choice.dtype)
    check_claim(place.shown, "what it says it holds", (rows, d), choice.dtype.itemsize, stamp[0])
    size = max(1, unit // (max(d, 1) * choice.dtype.itemsize))
    bounds, groups, firsts, start = [0], [], [0], 0
    for group, held in enumerate(sizes):
        cuts = [start + cut for cut in (*range(size, held, size), held) if held]
        bounds += cuts
        groups += [group] * len(cuts)
        firsts.append(firsts[-1] + len(cuts))
        start += held
    return _Parquet(
        label=place.label,
        last=place.last,
        resolved=place.store.resolved(place.path),
        rows=rows,
        d=d,
        dtype=choice.dtype,
        bytes=stamp[0],
        bounds=np.array(bounds),
        mapped=False,
        place=place,
        stamp=stamp,
        choice=choice,
        groups=np.array(groups, np.int64),
        firsts=np.array(firsts),
        unit=size,
        meta=meta,
    )


def _width(place: Place, arrow: Any, file: Any, schema: Any, choice: Choice, sizes: list[int]) -> int:
    if not choice.is_list:
        return len(choice.vectors)
    kind = schema.field(choice.vectors[0]).type
    if arrow.types.is_fixed_size_list(kind) and not arrow.types.is_nested(kind.value_type):
        return int(kind.list_size)
    group = next((group for group, held in enumerate(sizes) if held), None)
    if group is None:
        return UNKNOWN
    # What the file says of its column chunks is not asked for: where that is damaged, pyarrow aborts the process.
    with library_errors(place.shown, "pyarrow"):
        first = next(file.iter_batches(batch_size=1, row_groups=[group], columns=choice.columns, use_threads=False))
    return int(vectors_of(place.shown, arrow, first, 0, choice).shape[1])
