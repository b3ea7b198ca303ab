"""Shards of Arrow, files and streams: record batches are the pieces, mapped where they are local and uncompressed."""

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.errors import InvalidInputError
from geomkit.io.files.columnar import Choice, choose, vectors_of
from geomkit.io.files.record import Selection
from geomkit.io.files.refusals import check_claim, library_errors, require
from geomkit.io.shards.locations import Place, Stamp, reached
from geomkit.io.shards.parquet import as_rows
from geomkit.io.shards.shard import UNKNOWN, Kept, Part, check_rows

__all__ = ["open_arrow"]

_MAGIC = b"ARROW1"
_CONTINUES = 0xFFFFFFFF
_SCHEMA, _BATCH = 1, 3
_LONGEST_METADATA = 64 * 2**20


@dataclass(frozen=True, slots=True)
class _Message:
    """A message of Arrow's format: what its metadata says, and where it lies in the file."""

    start: int
    stop: int
    kind: int
    rows: int
    nodes: tuple[int, ...]
    """Entries of each array of a batch, in depth-first order of the schema."""
    compressed: bool


class _Table:
    """A table of a flatbuffer, which is what metadata is written in: just the few fields that are needed here."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at
        (back,) = struct.unpack_from("<i", data, at)
        self._vtable = at - back
        (self._size,) = struct.unpack_from("<H", data, self._vtable)

    def where(self, number: int) -> int:
        """Where a field lies; 0 where it is left out."""
        slot = 4 + 2 * number
        if slot + 2 > self._size:
            return 0
        (offset,) = struct.unpack_from("<H", self._data, self._vtable + slot)
        return self._at + offset if offset else 0

    def number(self, number: int, form: str) -> int:
        at = self.where(number)
        return int(struct.unpack_from(form, self._data, at)[0]) if at else 0

    def follow(self, number: int) -> int:
        at = self.where(number)
        return at + int(struct.unpack_from("<I", self._data, at)[0])

    def table(self, number: int) -> "_Table":
        return _Table(self._data, self.follow(number))


def _message(data: bytes, start: int, body: int) -> _Message:
    top = _Table(data, struct.unpack_from("<I", data, 0)[0])
    kind, length = top.number(1, "<B"), top.number(3, "<q")
    nodes: tuple[int, ...] = ()
    rows, compressed = 0, False
    if length < 0:
        msg = f"a body of {length} bytes"
        raise ValueError(msg)
    if kind == _BATCH:
        batch = top.table(2)
        rows, compressed = batch.number(0, "<q"), bool(batch.where(3))
        if batch.where(1):
            at = batch.follow(1)
            (count,) = struct.unpack_from("<I", data, at)
            if at + 4 + 16 * count > len(data):
                msg = f"{count} arrays in {len(data)} bytes of metadata"
                raise ValueError(msg)
            nodes = struct.unpack_from("<" + "qq" * count, data, at + 4)[::2]
    return _Message(start, body + length, kind, rows, tuple(int(each) for each in nodes), compressed)


def _messages(place: Place, size: int) -> list[_Message]:
    """Walk through the file from one message's metadata to the next, past what they describe."""
    head = place.ranges([(0, min(size, 8))])[0]
    is_file = head.startswith(_MAGIC)
    if is_file and place.ranges([(max(0, size - 6), size)])[0] != _MAGIC:
        msg = f"{place.label}: it ends without {_MAGIC!r}, as an Arrow file must; it is truncated"
        raise InvalidInputError(msg)
    found: list[_Message] = []
    at, end = (8, size - 6) if is_file else (0, size)
    while at + 8 <= end:
        marks, length = struct.unpack("<II", place.ranges([(at, at + 8)])[0])
        if marks != _CONTINUES:
            msg = f"{place.label}: no message of Arrow's format (version 0.15 or later) starts at byte {at:,}"
            raise InvalidInputError(msg)
        if length == 0:
            return found
        body = at + 8 + length
        if length > _LONGEST_METADATA or body > end:
            msg = f"{place.label}: byte {at:,} claims {length:,} bytes of metadata; it is truncated or damaged"
            raise InvalidInputError(msg)
        data = place.ranges([(at + 8, body)])[0]
        with reached(place.label, "Arrow's metadata"):
            found.append(_message(data, at, body))
        at = found[-1].stop
        if at > end:
            msg = f"{place.label}: it claims {at:,} bytes but has {size:,}; it is truncated"
            raise InvalidInputError(msg)
    if is_file or at != end:
        msg = f"{place.label}: its messages end at byte {at:,} of {size:,} without a mark; it is truncated or damaged"
        raise InvalidInputError(msg)
    return found


@dataclass(kw_only=True)
class _Arrow(Part):
    place: Place
    choice: Choice
    messages: tuple[_Message, ...] = field(repr=False)
    """The batches, one a piece."""
    opening: bytes = field(repr=False)
    """The message with the schema."""

    def decode(self, piece: int, kept: Kept) -> NDArray[Any]:  # noqa: ARG002 - every shard takes it
        """As in `Part`: a record batch, where it is mapped without copying."""
        self.check()
        message = self.messages[piece]
        batch = _batch(self.place, self.opening, message).select(self.choice.columns)
        start = int(self.bounds[piece])
        if batch.num_rows != message.rows:
            msg = f"{self.label}: the batch from row {start} has {batch.num_rows} rows, it says {message.rows}"
            raise InvalidInputError(msg)
        if not batch.num_rows:
            return np.empty((0, self.d), self.dtype)
        return as_rows(self.place, batch, start, self.choice, self.d)


def _batch(place: Place, opening: bytes, message: _Message) -> Any:
    """Return a record batch, mapped where it is local."""
    arrow = require("pyarrow", place.shown)
    if place.store.local:
        with reached(place.label, "pyarrow"), arrow.memory_map(place.path) as file:
            file.seek(message.start)
            data = file.read_buffer(message.stop - message.start)
    else:
        data = arrow.py_buffer(place.ranges([(message.start, message.stop)])[0])
    with library_errors(place.shown, "pyarrow"):
        schema = _plain(arrow, arrow.ipc.read_schema(arrow.py_buffer(opening)))
        batch = arrow.ipc.read_record_batch(arrow.ipc.read_message(data), schema)
        # Nothing of a damaged file may point beyond what there is.
        batch.validate(full=True)
    return batch


def _without_dictionaries(arrow: Any, schema: Any, batch: Any = None) -> Any:
    """Return the schema, or a batch, with nulls for the columns whose values lie in a dictionary elsewhere."""
    for at, column in enumerate(schema):
        if arrow.types.is_dictionary(column.type):
            plain = column.with_type(arrow.null())
            if batch is None:
                schema = schema.set(at, plain)
            else:
                batch = batch.set_column(at, plain, arrow.nulls(len(batch)))
    return schema if batch is None else batch


def _plain(arrow: Any, schema: Any) -> Any:
    """Return the schema with whole numbers for dictionaries, which are how such columns are stored."""
    for at, column in enumerate(schema):
        if arrow.types.is_dictionary(column.type):
            schema = schema.set(at, column.with_type(column.type.index_type))
    return schema


def open_arrow(place: Place, selection: Selection, unit: int, like: Choice | None) -> Part:  # noqa: ARG001
    """Read the metadata of each record batch of an Arrow file or stream, and the first batch where it must decide.

    Parameters
    ----------
    place : Place
    selection : Selection
        Which columns are the vectors.
    unit : int
        Not used: batches are as long as they were written.
    like : Choice or None
        What was chosen in a shard before, which holds where this one has the same columns.
    """
    arrow = require("pyarrow", place.shown)
    stamp: Stamp = place.stamp()
    messages = _messages(place, stamp[0])
    if not messages or messages[0].kind != _SCHEMA:
        msg = f"{place.label}: it starts without a schema, as no Arrow file or stream does; it is damaged"
        raise InvalidInputError(msg)
    opening = place.ranges([(messages[0].start, messages[0].stop)])[0]
    with library_errors(place.shown, "pyarrow"):
        schema = arrow.ipc.read_schema(arrow.py_buffer(opening))
    batches = tuple(message for message in messages if message.kind == _BATCH)
    rows = [message.rows for message in batches]
    if min(rows, default=0) < 0:
        msg = f"{place.label}: a batch claims {min(rows)} rows; it is damaged"
        raise InvalidInputError(msg)
    known = _without_dictionaries(arrow, schema)
    if like is not None and known.equals(like.schema):
        choice = like
    else:
        held = (message for message in batches if message.rows)
        first = (_without_dictionaries(arrow, schema, _batch(place, opening, message)) for message in held)
        choice = choose(place.shown, arrow, known, selection, first)
    d = _width(place, arrow, schema, choice, opening, batches)
    check_rows(place.label, (sum(rows), d if sum(rows) else max(d, 1)), choice.dtype)
    check_claim(place.shown, "what it says it holds", (sum(rows), d), choice.dtype.itemsize, stamp[0])
    return _Arrow(
        label=place.label,
        last=place.last,
        resolved=place.store.resolved(place.path),
        rows=sum(rows),
        d=d,
        dtype=choice.dtype,
        bytes=stamp[0],
        bounds=np.cumsum([0, *rows]),
        mapped=place.store.local and _is_plain(arrow, schema, choice) and not any(each.compressed for each in batches),
        place=place,
        stamp=stamp,
        choice=choice,
        messages=batches,
        opening=opening,
    )


def _is_plain(arrow: Any, schema: Any, choice: Choice) -> bool:
    """Whether vectors are lists of numbers as they stand, which are views of the file."""
    kind = schema.field(choice.vectors[0]).type
    types = arrow.types
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return choice.is_list and not choice.path and is_list and types.is_primitive(kind.value_type)


def _width(place: Place, arrow: Any, schema: Any, choice: Choice, opening: bytes, batches: tuple[_Message, ...]) -> int:
    """Return how many numbers a row has: of lists without a fixed length, from how many there are in a batch."""
    if not choice.is_list:
        return len(choice.vectors)
    first = next((message for message in batches if message.rows), None)
    at = schema.get_field_index(choice.vectors[0])
    is_plain = _is_plain(arrow, schema, choice)
    if is_plain and arrow.types.is_fixed_size_list(schema.field(at).type):
        return int(schema.field(at).type.list_size)
    if first is None:
        return UNKNOWN
    if not is_plain:
        batch = _batch(place, opening, first).select(choice.columns)
        return int(vectors_of(place.shown, arrow, batch.slice(0, 1), 0, choice).shape[1])
    before = sum(_arrays(schema.field(number).type) for number in range(at))
    held = first.nodes[before + 1] if before + 1 < len(first.nodes) else 0
    if held % first.rows:
        msg = f"{place.label}: a batch has {held} numbers in {first.rows} rows of {choice.vectors[0]!r}"
        msg += "; all rows must have as many"
        raise InvalidInputError(msg)
    return held // first.rows


def _arrays(kind: Any) -> int:
    """How many arrays a column of this type is written as."""
    return 1 + sum(_arrays(kind.field(number).type) for number in range(kind.num_fields))
