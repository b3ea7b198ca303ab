"""Parquet, and Arrow's own files (Feather too): a column of lists of numbers, or numeric columns."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.io.files.record import Opened
from geomkit.io.files.refusals import check_claim, library_errors, pick, refusal, require, shorten
from geomkit.io.files.rows import as_labels

__all__ = ["Choice", "choose", "columns_of", "lists_of", "read_arrow", "read_parquet"]

_BATCH = 32 * 2**20
"""Bytes of numbers to decode at a time."""
_LIST = "a column of lists of numbers"
_INDEX = "__index_level_"


@dataclass(frozen=True)
class Choice:
    """Which columns to read, and what of them."""

    vectors: list[str]
    is_list: bool
    dtype: np.dtype[Any]
    labels: str | None
    note: str

    @property
    def columns(self) -> list[str]:
        """Every column to read, each once."""
        return self.vectors if self.labels is None or self.labels in self.vectors else [*self.vectors, self.labels]


def read_parquet(path: Path, labels: str | None, key: str | None) -> Opened:
    """Read a Parquet file batch by batch."""
    parquet, arrow = require("pyarrow.parquet", path), require("pyarrow", path)
    with library_errors(path, "pyarrow"):
        file = parquet.ParquetFile(path, memory_map=True)
    with file:
        with library_errors(path, "pyarrow"):
            schema, meta = file.schema_arrow, file.metadata
            n = meta.num_rows
        choice = choose(path, arrow, schema, labels, key)
        check_claim(path, "what it says it holds", (n,), choice.dtype.itemsize, path.stat().st_size)
        # What the file says of its column chunks is not asked for: where that is damaged, pyarrow aborts the process.
        first = next(_guarded(path, _batches(path, file, choice, 1)), None)
        d = 0 if first is None else len(choice.vectors) if not choice.is_list else _width(path, first.column(0))
        check_claim(path, "what it says it holds", (n, d), choice.dtype.itemsize, path.stat().st_size)
        batches = _batches(path, file, choice, max(1, min(n, _BATCH // (choice.dtype.itemsize * max(d, 1)))))
        return _opened(path, arrow, batches, choice, "parquet", n)


def _batches(path: Path, file: Any, choice: Choice, rows: int) -> Iterable[Any]:
    with library_errors(path, "pyarrow"):
        found: Iterable[Any] = file.iter_batches(batch_size=rows, columns=choice.columns, use_threads=False)
        return found


def _width(path: Path, column: Any) -> int:
    """Return how many numbers the first row has."""
    with library_errors(path, "pyarrow"):
        return len(column[0].as_py() or ())


def read_arrow(path: Path, labels: str | None, key: str | None) -> Opened:
    """Map an Arrow file or stream; rows that lie in one piece, uncompressed, are not copied."""
    arrow = require("pyarrow", path)
    with path.open("rb") as file:
        is_stream = file.read(6) != b"ARROW1"
    with library_errors(path, "pyarrow"):
        mapped = arrow.memory_map(str(path))
    with mapped:
        with library_errors(path, "pyarrow"):
            reader = arrow.ipc.open_stream(mapped) if is_stream else arrow.ipc.open_file(mapped)
        choice = choose(path, arrow, reader.schema, labels, key)
        batches, held = [], 0
        with library_errors(path, "pyarrow"):
            for whole in reader if is_stream else map(reader.get_batch, range(reader.num_record_batches)):
                batch = whole.select(choice.columns)
                # Nothing of a damaged file may point beyond what there is.
                batch.validate(full=True)
                held += batch.nbytes
                check_claim(path, "its numbers", (held,), 1, path.stat().st_size)
                if batch.num_rows:
                    batches.append(batch)
        return _opened(path, arrow, batches, choice, "arrow", sum(batch.num_rows for batch in batches))


def choose(path: Path, arrow: Any, schema: Any, labels: str | None, key: str | None) -> Choice:
    """Choose the columns that hold vectors, and labels where those are asked for; refuse where several could."""
    with library_errors(path, "pyarrow"):
        kinds = [(field.name, field.type) for field in schema]
    names = [name for name, _ in kinds]
    for wanted in (key, labels):
        if wanted is not None and names.count(wanted) > 1:
            raise refusal(path, f"it has {names.count(wanted)} columns {wanted!r}; names must be unique")
    if labels is not None and labels not in names:
        raise refusal(path, f"it has no column {labels!r}; labels must name one of {shorten(names, 300)}")
    lists = {name: kind.value_type for name, kind in kinds if _is_list(arrow, kind) and name != labels}
    flat = {name: kind for name, kind in kinds if _is_numeric(arrow, kind) and name != labels}
    flat = {name: kind for name, kind in flat.items() if not name.startswith(_INDEX)}
    if lists or key is not None or not flat:
        name = pick(path, list(lists), key, _LIST, others=names)
        if names.count(name) > 1:
            raise refusal(path, f"it has {names.count(name)} columns {name!r}; names must be unique")
        return Choice([name], True, _dtype(lists[name]), labels, f"column {name!r}")
    if len(flat) < len([name for name in names if name in flat]):
        raise refusal(path, f"its numeric columns {shorten(list(flat), 200)} are not unique; names must be")
    dtype = np.result_type(*(_dtype(kind) for kind in flat.values()))
    note = f"{len(flat)} numeric columns" + ("" if len(set(flat.values())) == 1 else f", together {dtype}")
    if left := [name for name in names if name not in flat and name != labels]:
        note += f"; left out {shorten(left, 200)}"
    return Choice(list(flat), False, dtype, labels, note)


def _is_numeric(arrow: Any, kind: Any) -> bool:
    return bool(arrow.types.is_integer(kind) or arrow.types.is_floating(kind))


def _is_list(arrow: Any, kind: Any) -> bool:
    types = arrow.types
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return is_list and _is_numeric(arrow, kind.value_type)


def _dtype(kind: Any) -> np.dtype[Any]:
    found: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
    return found


def _opened(path: Path, arrow: Any, batches: Iterable[Any], choice: Choice, name: str, n: int) -> Opened:
    if n < 1:
        raise refusal(path, "it has no rows; it must have at least 1")
    vectors: NDArray[Any] | None = None
    found: list[object] = []
    start = 0
    for batch in _guarded(path, batches):
        if choice.is_list:
            block = lists_of(path, batch.column(0), start, choice.vectors[0])
        else:
            block = columns_of(path, batch, start, choice)
        if start + len(block) > n:
            raise refusal(path, f"it says that it has {n} rows, but more are there; it is damaged")
        if choice.labels is not None:
            found.extend(_labels(path, arrow, batch.column(choice.columns.index(choice.labels)), choice.labels))
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
    taken = None if choice.labels is None else as_labels(path, f"column {choice.labels!r}", found, n)
    return Opened(vectors, taken, None, name, choice.note)


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


def lists_of(path: Path, column: Any, start: int, name: str) -> NDArray[Any]:
    """Rows of a column of lists, all of one length; `start` is the number of the first, for messages."""
    _check_present(path, column, start, name)
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
