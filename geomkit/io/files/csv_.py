"""Comma- and tab-separated values: a row a line, its numbers in the columns that are numeric in the first row."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geomkit.io.files.record import Opened
from geomkit.io.files.refusals import library_errors, refusal, require, shorten
from geomkit.io.files.rows import GrowingMatrix, as_labels
from geomkit.io.files.streams import open_bytes

__all__ = ["read_csv", "read_tsv"]

_BLOCK = 1 << 22


def read_csv(path: Path, labels: str | None, key: str | None) -> Opened:  # noqa: ARG001 - every reader takes both
    """Read comma-separated values."""
    return _read(path, "csv", ",", labels)


def read_tsv(path: Path, labels: str | None, key: str | None) -> Opened:  # noqa: ARG001 - every reader takes both
    """Read tab-separated values."""
    return _read(path, "tsv", "\t", labels)


@dataclass(frozen=True)
class _Layout:
    """What the first rows say about the columns."""

    header: list[str] | None
    skip: int  # bytes that a header takes
    numeric: list[int]
    label: int | None
    index: int | None  # the first column, where only it has no name: pandas writes its index so
    width: int

    def note(self) -> str:
        if self.header is None:
            return "no header"
        left = [self.header[i] for i in range(self.width) if i not in {*self.numeric, self.label, self.index}]
        parts = [f"header, {len(self.numeric)} numeric columns"]
        if left:
            parts.append(f"left out {shorten(left, 200)}, which hold no numbers")
        if self.index is not None:
            parts.append("names from the first column, which has none itself")
        return "; ".join(parts)


def _read(path: Path, name: str, delimiter: str, labels: str | None) -> Opened:
    arrow_csv, arrow = require("pyarrow.csv", path), require("pyarrow", path)
    layout = _layout(path, delimiter, labels)
    columns = [str(i) for i in range(layout.width)]
    text = [i for i in (layout.label, layout.index) if i is not None]
    convert = arrow_csv.ConvertOptions(
        column_types=dict.fromkeys([columns[i] for i in layout.numeric], arrow.float64())
        | dict.fromkeys([columns[i] for i in text], arrow.string()),
        include_columns=[columns[i] for i in (*layout.numeric, *text)],
        null_values=[""],
        strings_can_be_null=True,
    )
    rows = GrowingMatrix(path, "float64", "row")
    found: dict[int, list[object]] = {i: [] for i in text}
    with open_bytes(path) as file:
        file.read(layout.skip)
        with library_errors(path, "pyarrow"):
            reader = arrow_csv.open_csv(
                file,
                read_options=arrow_csv.ReadOptions(column_names=columns, block_size=_BLOCK, use_threads=False),
                parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                convert_options=convert,
            )
            batches = iter(reader)
        while True:
            with library_errors(path, "pyarrow"):
                batch = next(batches, None)
            if batch is None:
                break
            for at, i in enumerate((*layout.numeric, *text)):
                if batch.column(at).null_count:
                    row = rows.n + int(np.flatnonzero(batch.column(at).is_null())[0])
                    column = i + 1 if layout.header is None else repr(layout.header[i])
                    raise refusal(path, f"row {row} has nothing in column {column}; it must have a value in each")
            block = [batch.column(at).to_numpy() for at in range(len(layout.numeric))]
            rows.extend(np.column_stack(block))
            for at, i in enumerate(text, len(layout.numeric)):
                found[i].extend(batch.column(at).to_pylist())
    matrix = rows.matrix()
    taken = {i: as_labels(path, f"column {i + 1}", values, rows.n) for i, values in found.items()}
    return Opened(
        matrix,
        None if layout.label is None else taken[layout.label],
        None if layout.index is None else taken[layout.index],
        name,
        layout.note(),
    )


def _layout(path: Path, delimiter: str, labels: str | None) -> _Layout:
    first, second, skip = _first_rows(path, delimiter)
    header = first if _is_header(first, second) else None
    row = first if header is None else second
    if row is None:
        raise refusal(path, f"it has a header {shorten(first)} and no rows; it must have at least 1")
    if header is not None and len(row) != len(header):
        raise refusal(
            path, f"its header has {len(header)} columns, but its first row {len(row)}; both must have as many"
        )
    label = None
    if labels is not None:
        if header is None or header.count(labels) != 1:
            has = (
                "no header"
                if header is None
                else f"{header.count(labels)} columns {labels!r} in {shorten(header, 200)}"
            )
            raise refusal(path, f"it has {has}; labels must name one column of its header")
        label = header.index(labels)
    index = 0 if header is not None and header[0] == "" and all(header[1:]) and label != 0 else None
    numeric = [i for i, cell in enumerate(row) if _is_number(cell) and i not in {label, index}]
    if header is None and len(numeric) < len(row):
        bad = next(cell for cell in row if not _is_number(cell))
        raise refusal(
            path, f"its first row has {shorten(bad)} among its numbers; there must be numbers only, or a header"
        )
    if not numeric:
        msg = f"its first row {shorten(row, 200)} has no numbers between {delimiter!r}; it must have at least 1"
        raise refusal(path, msg)
    return _Layout(header, skip if header is not None else 0, numeric, label, index, len(row))


def _first_rows(path: Path, delimiter: str) -> tuple[list[str], list[str] | None, int]:
    """Return the cells of the first two rows, and how many bytes the first takes."""
    taken = 0

    def lines() -> Iterator[str]:
        nonlocal taken
        for number, line in enumerate(file):
            taken += len(line)
            yield line.decode("utf-8-sig" if number == 0 else "utf-8")

    with open_bytes(path) as file:
        try:
            rows = csv.reader(lines(), delimiter=delimiter, strict=True)
            first = next((row for row in rows if row), None)
            skip = taken
            second = next((row for row in rows if row), None)
        except UnicodeDecodeError as why:
            raise refusal(
                path, f"its first rows are not UTF-8 ({why.reason} at byte {why.start}); they must be"
            ) from why
        except csv.Error as why:
            raise refusal(path, f"its first rows cannot be read as {delimiter!r}-separated values: {why}") from why
    if first is None:
        raise refusal(path, "it has no rows; it must have at least 1")
    return first, second, skip


def _is_header(first: list[str], second: list[str] | None) -> bool:
    if not all(_is_number(cell) for cell in first):
        # Names, or 0, 1, 2, ... among them; a row of other numbers with one thing wrong in it is not a header.
        numbers = [cell for cell in first if _is_number(cell)]
        return numbers in ([str(i + base) for i in range(len(numbers))] for base in (0, 1))
    # pandas calls columns 0, 1, 2, ...; so many whole numbers above others that are not are their names.
    counting = first == [str(i) for i in range(len(first))]
    return counting and second is not None and not all(_is_whole(cell) for cell in second)


def _is_whole(cell: str) -> bool:
    return cell.strip().lstrip("+-").isdecimal()


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell and cell.isascii()
