"""Comma- and tab-separated values: a row a line, with its numbers in columns or as text in one cell."""

import csv
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from geomkit.errors import InvalidInputError
from geomkit.io.files.record import Opened, Selection
from geomkit.io.files.refusals import library_errors, refusal, require, shorten
from geomkit.io.files.rows import GrowingMatrix, as_labels
from geomkit.io.files.streams import open_bytes
from geomkit.io.files.tables import SAMPLE_ROWS, Column, Decision, choose_columns, describe_numbers
from geomkit.io.files.text_vectors import is_number, parse_vectors, text_form

__all__ = ["read_csv", "read_tsv"]

_BLOCK = 1 << 22
_LONGEST_CELL = 1 << 27
_SAMPLE_BYTES, _LEAST_ROWS = 1 << 20, 16
"""Columns are chosen by so many bytes of rows, or by more where these are few rows."""
_MISSING = frozenset(("", "NA", "N/A", "n/a", "#N/A", "null", "NULL", "None"))


@dataclass(frozen=True)
class _Layout:
    """What the first rows say about the columns."""

    names: list[str]
    """Of the header, made unique; 1, 2, … where there is none."""
    skip: int
    """Bytes that a header takes."""
    decision: Decision
    labels: str | None
    index: str | None
    """The column that names the rows."""
    note: str
    empty: list[str]
    """Columns without a value in the first rows."""


def _read(name: str, delimiter: str, path: Path, selection: Selection) -> Opened:
    arrow_csv, arrow = require("pyarrow.csv", path), require("pyarrow", path)
    layout = _layout(path, delimiter, selection)
    decision = layout.decision
    positions = {column: str(at) for at, column in enumerate(layout.names)}
    told = [column for column in (layout.labels, layout.index) if column is not None]
    text = [*([] if decision.is_flat else decision.columns), *told, *layout.empty]
    number_columns = decision.columns if decision.is_flat else []
    wanted = list(dict.fromkeys([*decision.columns, *text]))
    convert = arrow_csv.ConvertOptions(
        column_types={positions[column]: arrow.float64() for column in number_columns}
        | {positions[column]: arrow.string() for column in text},
        include_columns=[positions[column] for column in wanted],
        null_values=[""],
        strings_can_be_null=True,
    )
    rows = GrowingMatrix(path, "float64", "row")
    values: dict[str, list[object]] = {column: [] for column in told}
    with open_bytes(path) as file:
        file.read(layout.skip)
        with _arrow_errors(path, selection):
            reader = arrow_csv.open_csv(
                file,
                read_options=arrow_csv.ReadOptions(
                    column_names=list(positions.values()),
                    block_size=_BLOCK,
                    use_threads=False,
                    encoding=selection.encoding or "utf8",
                ),
                parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                convert_options=convert,
            )
            batches = iter(reader)
        while True:
            with _arrow_errors(path, selection):
                batch = next(batches, None)
            if batch is None:
                break
            columns = dict(zip(wanted, batch.columns, strict=True))
            for column in layout.empty:
                _check_empty(path, column, columns[column].to_pylist(), rows.n)
            for column in (*decision.columns, *told):
                if columns[column].null_count:
                    row = rows.n + int(np.flatnonzero(columns[column].is_null())[0])
                    shown = repr(column) if layout.skip else column
                    raise refusal(path, f"row {row} has nothing in column {shown}; it must have a value in each")
            if decision.is_flat:
                rows.extend(np.column_stack([columns[column].to_numpy() for column in number_columns]))
            elif batch.num_rows:
                rows.extend(parse_vectors(path, columns[decision.columns[0]], rows.n, decision.columns[0]))
            for column in told:
                values[column].extend(columns[column].to_pylist())
    matrix = rows.matrix()
    texts = {column: as_labels(path, f"column {column!r}", cells, rows.n) for column, cells in values.items()}
    return Opened(
        matrix,
        None if layout.labels is None else texts[layout.labels],
        None if layout.index is None else texts[layout.index],
        name,
        layout.note,
        decision.columns,
        decision.left_out,
    )


read_csv = partial(_read, "csv", ",")
read_tsv = partial(_read, "tsv", "\t")


@contextmanager
def _arrow_errors(path: Path, selection: Selection) -> Iterator[None]:
    with library_errors(path, "pyarrow"):
        try:
            yield
        except ValueError as why:
            if "UTF8" not in str(why):
                raise
            raise _not_in(path, "its text is", selection.encoding or "utf-8", str(why)) from why


def _not_in(path: Path, what: str, encoding: str, reason: str) -> InvalidInputError:
    return refusal(path, f"{what} not {encoding.upper()} ({reason}); give what it is, such as encoding='latin-1'")


def _check_empty(path: Path, column: str, cells: list[str | None], start: int) -> None:
    """Refuse a column that is empty in the first rows, by which columns are chosen, and not in others."""
    row = next((row for row, cell in enumerate(cells) if (cell or "") not in _MISSING), None)
    if row is not None:
        msg = f"column {column!r} is empty in the first rows, but row {start + row} has {shorten(cells[row])}"
        raise refusal(path, f"{msg}; leave it out with exclude={column!r}, or fill it")


def _layout(path: Path, delimiter: str, selection: Selection) -> _Layout:
    rows, skip = _first_rows(path, delimiter, selection.encoding or "utf-8")
    header = rows[0] if _is_header(rows) else None
    sample = rows if header is None else rows[1:]
    if not sample:
        raise refusal(path, f"it has a header {shorten(header)} and no rows; it must have at least 1")
    width = len(sample[0])
    if header is not None and width != len(header):
        raise refusal(path, f"its header has {len(header)} columns, but its first row {width}; both must have as many")
    for argument, name in (("labels", selection.labels), ("id", selection.id), ("key", selection.key)):
        if name is not None and (header is None or header.count(name) != 1) and (argument != "key" or header):
            has = f"{(header or []).count(name)} columns {name!r} in {shorten(header, 200)}" if header else "no header"
            raise refusal(path, f"it has {has}; {argument} must name one column of its header")
    names = [str(at + 1) for at in range(width)] if header is None else _unique(header)
    index = selection.id
    if index is None and header is not None and header[0] == "" and all(header[1:]) and selection.labels != "":
        index = ""  # pandas writes its index so
    columns, empty = [], []
    for at, name in enumerate(names):
        cells = [row[at] for row in sample if len(row) == width and row[at] not in _MISSING]
        columns.append(_described(name, cells))
        if not cells and name not in {selection.labels, index, selection.key, *selection.exclude, *selection.columns}:
            empty.append(name)
    is_text = any(column.form in {"text", "unread"} for column in columns)
    if header is None and not is_text and (bad := next((cell for cell in sample[0] if not is_number(cell)), None)):
        msg = f"its first row has {shorten(bad)} among its numbers; there must be numbers only, or a header"
        raise refusal(path, msg)
    if not any(column.form in {"number", "text", "unread"} for column in columns):
        msg = f"its first row {shorten(sample[0], 200)} has no numbers between {delimiter!r}; it must have at least 1"
        raise refusal(path, msg)
    what = "a column of vectors such as [0.1, 0.2]"
    decision = choose_columns(path, columns, replace(selection, id=index), what=what)
    note = f"{'no header' if header is None else 'header'}, {decision.note}"
    note += "; names from the first column, which has none itself" if index == "" else ""
    return _Layout(names, 0 if header is None else skip, decision, selection.labels, index, note, empty)


def _unique(header: list[str]) -> list[str]:
    """Return names that differ, as pandas numbers those that are there several times."""
    times: Counter[str] = Counter()
    names = []
    for name in header:
        names.append(f"{name}.{times[name]}" if times[name] else name)
        times[name] += 1
    return names


def _described(name: str, cells: list[str]) -> Column:
    try:
        values = np.array(cells, np.float64)
        numbers = cells if "_" not in "".join(cells) else []
    except ValueError:
        numbers = []
    if not numbers:
        numbers = [cell for cell in cells if is_number(cell)]
        values = np.array(numbers, np.float64)
    if numbers and 2 * len(numbers) >= len(cells):
        # What is no number among them is refused where it is read.
        finite = np.flatnonzero(np.isfinite(values))
        whole = bool((values[finite] % 1 == 0).all()) and all(_is_whole(numbers[at]) for at in finite)
        return describe_numbers(name, values, whole=whole)
    if not cells:
        return Column(name, "other")
    form, about = text_form(cells)
    hint = "write vectors as [0.1, 0.2], or each coordinate in a column of its own"
    return Column(name, form, about, hint, width=cells[0].count(",") + 1 if form == "text" else 0)


def _first_rows(path: Path, delimiter: str, encoding: str) -> tuple[list[list[str]], int]:
    """Return the cells of the first rows that are not blank, and how many bytes the first of them takes."""
    taken = 0

    def lines() -> Iterator[str]:
        nonlocal taken
        for number, line in enumerate(file):
            taken += len(line)
            yield line.decode("utf-8-sig" if number == 0 and encoding == "utf-8" else encoding)

    rows: list[list[str]] = []
    skip = 0
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        with open_bytes(path) as file:
            for row in csv.reader(lines(), delimiter=delimiter, strict=True):
                if row:
                    rows.append(row)
                    skip = taken if len(rows) == 1 else skip
                if len(rows) > SAMPLE_ROWS or (len(rows) > _LEAST_ROWS and taken > _SAMPLE_BYTES):
                    break
    except UnicodeDecodeError as why:
        raise _not_in(path, "its first rows are", encoding, f"{why.reason} at byte {why.start}") from why
    except csv.Error as why:
        raise refusal(path, f"its first rows cannot be read as {delimiter!r}-separated values: {why}") from why
    finally:
        csv.field_size_limit(limit)
    if not rows:
        raise refusal(path, "it has no rows; it must have at least 1")
    return rows, skip


def _is_header(rows: list[list[str]]) -> bool:
    first = rows[0]
    if not all(is_number(cell) for cell in first):
        # Names, or 0, 1, 2, ... among them; a row of other numbers with one thing wrong in it is not a header.
        numbers = [cell for cell in first if is_number(cell)]
        counted = numbers in ([str(at + base) for at in range(len(numbers))] for base in (0, 1))
        return counted and not any(text_form([cell])[0] != "other" for cell in first)
    # pandas calls columns 0, 1, 2, ...; so many whole numbers above others that are not are their names.
    counting = first == [str(at) for at in range(len(first))]
    return counting and len(rows) > 1 and not all(_is_whole(cell) for cell in rows[1])


def _is_whole(cell: str) -> bool:
    return cell.strip().lstrip("+-").isdecimal()
