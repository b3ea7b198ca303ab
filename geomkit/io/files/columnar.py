"""Parquet, and Arrow's own files (Feather too): a column of vectors, or numeric columns."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.io.files.record import Opened, Selection
from geomkit.io.files.refusals import check_claim, library_errors, refusal, require
from geomkit.io.files.rows import as_labels
from geomkit.io.files.tables import SAMPLE_ROWS, Column, Form, choose_columns, describe_numbers
from geomkit.io.files.text_vectors import byte_dtypes, parse_vectors, text_form

__all__ = ["Choice", "choose", "columns_of", "read_arrow", "read_parquet", "sample_rows", "vectors_of"]

_BATCH = 32 * 2**20
"""Bytes of numbers to decode at a time."""
_LIST = "a column of lists of numbers"
_READ_AS_LIST = "write it as a column of lists of numbers"
_FEW_NUMBERS = 2


@dataclass(frozen=True)
class Choice:
    """Which columns to read, and what of them."""

    vectors: list[str]
    is_list: bool
    dtype: np.dtype[Any]
    labels: str | None
    note: str
    names: str | None = None
    """The column that names the rows."""
    path: tuple[str, ...] = ()
    """What leads from the column into its structs, down to the vectors."""
    left_out: list[str] = field(default_factory=list)
    schema: Any = None
    """What the choice was made from."""
    first_width: int = 0
    """Numbers of the first row; 0 where there was none."""

    @property
    def columns(self) -> list[str]:
        """Every column to read, each once."""
        told = [name for name in (self.labels, self.names) if name is not None and name not in self.vectors]
        return list(dict.fromkeys([*self.vectors, *told]))


def read_parquet(path: Path, selection: Selection) -> Opened:
    """Read a Parquet file batch by batch."""
    parquet, arrow = require("pyarrow.parquet", path), require("pyarrow", path)
    with library_errors(path, "pyarrow"):
        file = parquet.ParquetFile(path, memory_map=True)
    with file:
        with library_errors(path, "pyarrow"):
            schema, meta = file.schema_arrow, file.metadata
            n = meta.num_rows
        # What the file says of its column chunks is not asked for: where that is damaged, pyarrow aborts the process.
        choice = choose(path, arrow, schema, selection, sample_rows(path, file))
        d, item = choice.first_width, choice.dtype.itemsize
        check_claim(path, "what it says it holds", (n,), item, path.stat().st_size)
        check_claim(path, "what it says it holds", (n, d), item, path.stat().st_size)
        batches = _batches(path, file, choice.columns, max(1, min(n, _BATCH // (item * max(d, 1)))))
        return _opened(path, arrow, batches, choice, "parquet", n)


def _batches(path: Path, file: Any, columns: Sequence[str] | None, rows: int) -> Iterable[Any]:
    with library_errors(path, "pyarrow"):
        batches: Iterable[Any] = file.iter_batches(batch_size=rows, columns=columns, use_threads=False)
        return batches


def sample_rows(path: Path, file: Any) -> Iterator[Any]:
    """Give the first rows of a Parquet file in batches, until whoever decides has seen enough."""
    first = next(iter(_guarded(path, _batches(path, file, None, 1))), None)
    if first is not None:
        rows = max(1, min(SAMPLE_ROWS, _BATCH // max(1, first.nbytes)))
        yield from _guarded(path, _batches(path, file, None, rows))


def read_arrow(path: Path, selection: Selection) -> Opened:
    """Map an Arrow file or stream; rows that lie in one piece, uncompressed, are not copied."""
    arrow = require("pyarrow", path)
    with path.open("rb") as file:
        is_stream = file.read(6) != b"ARROW1"
    with library_errors(path, "pyarrow"):
        mapped = arrow.memory_map(str(path))
    with mapped:
        with library_errors(path, "pyarrow"):
            reader = arrow.ipc.open_stream(mapped) if is_stream else arrow.ipc.open_file(mapped)
        batches, size = [], 0
        with library_errors(path, "pyarrow"):
            for batch in reader if is_stream else map(reader.get_batch, range(reader.num_record_batches)):
                # Nothing of a damaged file may point beyond what there is.
                batch.validate(full=True)
                size += batch.nbytes
                check_claim(path, "its numbers", (size,), 1, path.stat().st_size)
                if batch.num_rows:
                    batches.append(batch)
        choice = choose(path, arrow, reader.schema, selection, batches)
        with library_errors(path, "pyarrow"):
            chosen = [batch.select(choice.columns) for batch in batches]
        return _opened(path, arrow, chosen, choice, "arrow", sum(batch.num_rows for batch in batches))


def choose(path: Path, arrow: Any, schema: Any, selection: Selection, batches: Iterable[Any]) -> Choice:
    """Choose the columns that hold vectors from their types and first rows, as `choose_columns` does.

    Parameters
    ----------
    path : Path
        For messages.
    arrow : module
        pyarrow.
    schema : pyarrow.Schema
    selection : Selection
    batches : iterable of pyarrow.RecordBatch
        The first rows; no more of them are drawn than it takes to see a value of each column.
    """
    with library_errors(path, "pyarrow"):
        names = list(schema.names)
        for argument, wanted in (("labels", selection.labels), ("id", selection.id)):
            if wanted is not None and wanted not in names:
                raise refusal(path, f"it has no column {wanted!r}; {argument} must name one of {names}"[:500])
        sample = _sample(arrow, schema, batches)
        columns = [_described(arrow, kind, column, selection) for kind, column in zip(schema, sample, strict=True)]
        index = _index_columns(schema)
    key = selection.key
    top = ""
    inner: tuple[str, ...] = ()
    if key is not None and key not in names:
        top = next((name for name in names if key.startswith(f"{name}.")), "")
        if names.count(top) == 1:
            at = names.index(top)
            inner = tuple(key[len(top) + 1 :].split("."))
            kind, values = _inside(path, arrow, schema.field(at).type, sample[at], inner, key)
            with library_errors(path, "pyarrow"):
                columns.append(_described(arrow, arrow.field(key, kind), values, selection))
    decision = choose_columns(path, columns, selection, what=_LIST, index=index)
    kinds = {column.name: column for column in columns}
    if not decision.is_flat:
        column = kinds[decision.columns[0]]
        if column.form == "bytes":
            dtype = np.dtype(selection.dtype)
        elif column.form == "text":
            dtype = np.dtype(np.float64)
        else:
            kind = kind if inner else schema.field(names.index(column.name)).type
            dtype = _dtype(_list_of(arrow, kind))
        vectors, width = [str(top) if inner else decision.columns[0]], column.width
    else:
        chosen = set(decision.columns)
        types = {field.type for field in schema if field.name in chosen}
        dtype = np.result_type(*(_dtype(kind) for kind in types))
        vectors, width = decision.columns, len(decision.columns)
    note = decision.note
    if decision.is_flat and len(types) > 1:
        note = note.replace("numeric columns", f"numeric columns, together {dtype}", 1)
    left = [name for name in decision.left_out if name not in vectors]
    return Choice(
        vectors, not decision.is_flat, dtype, selection.labels, note, selection.id, inner, left, schema, width
    )


def _sample(arrow: Any, schema: Any, batches: Iterable[Any]) -> list[Any]:
    """Return the first rows of each column, and of one without a value there the first rows that have one."""
    parts: list[list[Any]] = [[] for _ in schema]
    unseen = {at for at, column in enumerate(schema) if not arrow.types.is_null(column.type)}
    for number, batch in enumerate(batches):
        for at in range(len(parts)) if number == 0 else sorted(unseen):
            values = batch.column(at)
            if number == 0 or values.null_count < len(values):
                parts[at].append(values.drop_null()[:SAMPLE_ROWS])
            if values.null_count < len(values):
                unseen.discard(at)
        if not unseen:
            break
    return [
        arrow.concat_arrays(chunks) if chunks else arrow.array([], column.type)
        for chunks, column in zip(parts, schema, strict=True)
    ]


def _index_columns(schema: Any) -> list[str]:
    """Return the columns of which pandas says that they were the index."""
    written = (schema.metadata or {}).get(b"pandas")
    index = [] if written is None else json.loads(written).get("index_columns", [])
    return [name for name in index if isinstance(name, str)]


def _is_numeric(arrow: Any, kind: Any) -> bool:
    return bool(arrow.types.is_integer(kind) or arrow.types.is_floating(kind))


def _list_of(arrow: Any, kind: Any) -> Any:
    """Return what lists of a type hold, through extensions and lists of one list; None where it has no lists."""
    types = arrow.types
    if isinstance(kind, arrow.BaseExtensionType):
        kind = kind.storage_type
    is_view = types.is_list_view(kind) or types.is_large_list_view(kind)
    if not (is_view or types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return None
    return _list_of(arrow, kind.value_type) or kind.value_type


def _described(  # noqa: PLR0911 - one for each kind
    arrow: Any, column: Any, values: Any, selection: Selection
) -> Column:
    """Describe a column from its type and from values that are not null."""
    types, name, kind = arrow.types, column.name, column.type
    if types.is_dictionary(kind):
        kind, values = kind.value_type, values.dictionary_decode()
    if _is_numeric(arrow, kind):
        return describe_numbers(name, values.to_numpy(zero_copy_only=False))
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        if not len(values):
            return Column(name, "other")
        form, about = text_form(values.to_pylist())
        width = str(values[0]).count(",") + 1 if form == "text" else 0
        return Column(name, form, about, _READ_AS_LIST, width=width)
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return _described_bytes(name, values, selection)
    if types.is_struct(kind):
        numbers = sum(_is_numeric(arrow, inner.type) for inner in kind)
        return _described_nested(arrow, name, kind, "unread" if numbers >= _FEW_NUMBERS else "other")
    held = _list_of(arrow, kind)
    if held is None:
        return Column(name, "other")
    if _is_numeric(arrow, held) or (types.is_boolean(held) and selection.bits):
        shape = [side for side in _sides(arrow, values) if side != 1]
        if len(shape) > 1:
            hint = "flatten each, or take one row of it"
            return Column(name, "unread", f"of matrices or tensors ({kind}), the first of {shape}", hint)
        return Column(name, "vector", width=shape[0] if shape else 1, whole=types.is_integer(held))
    if types.is_boolean(held) or types.is_decimal(held):
        hint = "read it with bits" if types.is_boolean(held) else "cast it to float64"
        return Column(name, "unread", f"of {kind}", hint)
    return _described_nested(arrow, name, kind, "other")


def _described_nested(arrow: Any, name: str, kind: Any, otherwise: Form) -> Column:
    """Describe objects by the lists of numbers inside them; those of whole numbers are no rivals of vectors."""
    paths = dict(_paths(arrow, kind, name))
    best = next((path for path, is_float in paths.items() if is_float), next(iter(paths), None))
    hint = _READ_AS_LIST if best is None else f"give the path inside it: key={best!r}"
    form: Form = "unread" if paths else otherwise
    return Column(name, form, f"of nested objects ({kind})"[:200], hint, weak=not any(paths.values()))


def _described_bytes(name: str, values: Any, selection: Selection) -> Column:
    cells = values.to_pylist()
    lengths = {len(cell) for cell in cells}
    if selection.dtype is not None and len(lengths) == 1 and 0 not in lengths:
        return Column(name, "bytes", width=lengths.pop() // np.dtype(selection.dtype).itemsize)
    plausible = byte_dtypes(cells)
    if not plausible and (len(lengths) != 1 or lengths.pop() < 2):
        return Column(name, "other")
    hint = f"say of which numbers, such as dtype={(plausible or ['float32'])[0]!r}"
    return Column(name, "unread", "of bytes", hint, weak=not plausible)


def _sides(arrow: Any, values: Any) -> list[int]:
    """Return the shape of the first value, and of lists of lists how many each has at most."""
    if isinstance(values.type, arrow.FixedShapeTensorType):
        return list(values.type.shape)
    values = values.storage if isinstance(values, arrow.ExtensionArray) else values
    sides = []
    while len(values) and _list_of(arrow, values.type) is not None:
        inner = values.value_lengths() if hasattr(values, "value_lengths") else arrow.array([len(values[0])])
        nested = _list_of(arrow, values.type.value_type) is not None
        sides.append(int(np.max(inner.to_numpy(zero_copy_only=False))) if nested else len(values[0]))
        values = values.flatten()
    return sides


def _paths(arrow: Any, kind: Any, name: str) -> Iterator[tuple[str, bool]]:
    """Give the dotted paths to lists of numbers inside structs and lists of them, and whether they hold floats."""
    if arrow.types.is_struct(kind):
        for inner in kind:
            held = _list_of(arrow, inner.type)
            if held is not None and _is_numeric(arrow, held):
                yield f"{name}.{inner.name}", arrow.types.is_floating(held)
            else:
                yield from _paths(arrow, inner.type, f"{name}.{inner.name}")
    elif (held := _list_of(arrow, kind)) is not None and arrow.types.is_struct(held):
        yield from _paths(arrow, held, f"{name}.0")


def _inside(path: Path, arrow: Any, kind: Any, values: Any, inner: Sequence[str], key: str) -> tuple[Any, Any]:
    """Follow a path into structs, and by numbers into lists; return the type and the values there."""
    compute = require("pyarrow.compute", path)
    for part in inner:
        if arrow.types.is_struct(kind) and kind.get_field_index(part) >= 0:
            kind = kind.field(part).type
            with library_errors(path, "pyarrow"):
                values = compute.struct_field(values, part)
        elif part.isdecimal() and _list_of(arrow, kind) is not None:
            kind = kind.value_type
            with library_errors(path, "pyarrow"):
                values = compute.list_element(values, int(part))
        else:
            has = [field.name for field in kind] if arrow.types.is_struct(kind) else str(kind)
            raise refusal(path, f"it has no {key!r}: at {part!r} there is {has}; key must be a path through objects")
    return kind, values


def _dtype(kind: Any) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
    return dtype


def _opened(path: Path, arrow: Any, batches: Iterable[Any], choice: Choice, format_name: str, n: int) -> Opened:
    if n < 1:
        raise refusal(path, "it has no rows; it must have at least 1")
    vectors: NDArray[Any] | None = None
    told: dict[str, list[object]] = {name: [] for name in (choice.labels, choice.names) if name is not None}
    start = 0
    for batch in _guarded(path, batches):
        block = vectors_of(path, arrow, batch, start, choice)
        if start + len(block) > n:
            raise refusal(path, f"it says that it has {n} rows, but more are there; it is damaged")
        for name, values in told.items():
            values.extend(_labels(path, arrow, batch.column(choice.columns.index(name)), name))
        if start == 0 and len(block) == n:
            vectors = block
        elif vectors is None:
            check_claim(path, "what it says it holds", (n, block.shape[1]), block.itemsize, path.stat().st_size)
            vectors = np.empty((n, block.shape[1]), block.dtype)
        if vectors is not block:
            if block.shape[1] != vectors.shape[1]:
                msg = (
                    f"row {start} of {choice.vectors[0]!r} has {block.shape[1]} numbers, rows before {vectors.shape[1]}"
                )
                raise refusal(path, f"{msg}; all must have as many")
            vectors[start : start + len(block)] = block
        start += len(block)
    if vectors is None or start != n:
        raise refusal(path, f"it says that it has {n} rows, but {start} are there; it is truncated or damaged")
    texts = {column: as_labels(path, f"column {column!r}", values, n) for column, values in told.items()}
    labels = None if choice.labels is None else texts[choice.labels]
    names = None if choice.names is None else texts[choice.names]
    return Opened(vectors, labels, names, format_name, choice.note, choice.vectors, choice.left_out)


def _guarded(path: Path, batches: Iterable[Any]) -> Iterator[Any]:
    each = iter(batches)
    while True:
        with library_errors(path, "pyarrow"):
            batch = next(each, None)
            if batch is not None:
                batch.validate()
        if batch is None:
            return
        yield batch


def vectors_of(path: Path, arrow: Any, batch: Any, start: int, choice: Choice) -> NDArray[Any]:
    """Return the vectors of a batch that holds the columns of a choice; `start` is its first row, for messages."""
    if not choice.is_list:
        return columns_of(path, batch, start, choice)
    name = ".".join([choice.vectors[0], *choice.path])
    _, column = _inside(path, arrow, batch.column(0).type, batch.column(0), choice.path, name)
    _check_present(path, column, start, name)
    with library_errors(path, "pyarrow"):
        if arrow.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        column = column.storage if isinstance(column, arrow.ExtensionArray) else column
        types, kind = arrow.types, column.type
        is_binary = types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    if is_binary:
        return _from_bytes(path, column.to_pylist(), start, name, choice.dtype)
    if _list_of(arrow, kind) is None:
        return parse_vectors(path, column, start, name)
    return _from_lists(path, arrow, column, start, name)


def _from_bytes(path: Path, cells: list[bytes], start: int, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    width = len(cells[0])
    unequal = next((row for row, cell in enumerate(cells) if len(cell) != width), None)
    if unequal is not None or width == 0 or width % dtype.itemsize:
        row = unequal or 0
        msg = f"row {start + row} of {name!r} has {len(cells[row])} bytes, row {start} has {width}"
        raise refusal(path, f"{msg}; all must have as many, a multiple of the {dtype.itemsize} of {dtype}")
    return np.frombuffer(b"".join(cells), dtype).reshape(len(cells), -1)


def _from_lists(path: Path, arrow: Any, column: Any, start: int, name: str) -> NDArray[Any]:
    """Rows of a column of lists, all of one length, or of lists of one such list."""
    with library_errors(path, "pyarrow"):
        lengths = column.value_lengths().to_numpy(zero_copy_only=False)
        values = column.flatten()
    d = int(lengths[0])
    if d == 0 or (other := np.flatnonzero(lengths != d)).size:
        row, has = (start, d) if d == 0 else (start + int(other[0]), int(lengths[other[0]]))
        msg = f"row {row} of {name!r} has {has} numbers" + (f", row {start} has {d}" if d else "")
        raise refusal(path, f"{msg}; all must have as many, at least 1")
    if values.null_count:
        row = start + int(np.flatnonzero(values.is_null())[0]) // d
        raise refusal(path, f"row {row} of {name!r} has a null among its numbers; there must be none")
    if _list_of(arrow, values.type) is not None:
        inner = _from_lists(path, arrow, values, start * d, name)
        if d > 1 and inner.shape[1] > 1:
            raise refusal(path, f"row {start} of {name!r} holds {d} lists; it must hold one list of numbers")
        return inner.reshape(len(lengths), -1)
    with library_errors(path, "pyarrow"):
        return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(-1, d)


def columns_of(path: Path, batch: Any, start: int, choice: Choice) -> NDArray[Any]:
    """Rows of numeric columns side by side; `start` is the number of the first, for messages."""
    block = np.empty((batch.num_rows, len(choice.vectors)), choice.dtype)
    for at, name in enumerate(choice.vectors):
        column = batch.column(at)
        _check_present(path, column, start, name)
        with library_errors(path, "pyarrow"):
            values = np.asarray(column.to_numpy(zero_copy_only=False))
        block[:, at] = values
        if values.dtype.kind in "iu" and choice.dtype.kind == "f" and (changed := _changed(block[:, at], values)).size:
            row = int(changed[0])
            msg = f"row {start + row} of {name!r} has {values[row]}, which {choice.dtype} cannot hold beside others"
            raise refusal(path, f"{msg}; give it a column of lists")
    return block


def _changed(cast: NDArray[Any], values: NDArray[Any]) -> NDArray[np.intp]:
    """Rows whose whole number is no longer the same as a float: Python compares the two exactly."""
    digits = np.finfo(cast.dtype).nmant + 1
    beyond = np.flatnonzero((values > 2**digits) | (values < -(2**digits) if values.dtype.kind == "i" else False))
    return beyond[[int(cast[row]) != int(values[row]) for row in beyond]] if beyond.size else beyond


def _check_present(path: Path, column: Any, start: int, name: str) -> None:
    if column.null_count:
        row = start + int(np.flatnonzero(column.is_null())[0])
        raise refusal(path, f"row {row} of {name!r} is null; it must have a value in each row")


def _labels(path: Path, arrow: Any, column: Any, name: str) -> list[object]:
    kind = column.type
    if arrow.types.is_nested(kind):
        raise refusal(path, f"column {name!r} is of {kind}; labels must be text or numbers, one a row")
    with library_errors(path, "pyarrow"):
        found: list[object] = column.to_pylist()
        return found
