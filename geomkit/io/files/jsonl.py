"""JSON: a list of numbers a line, an object with one a line, or one document that holds all rows."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from geomkit.io.files.record import Opened, Selection
from geomkit.io.files.refusals import refusal, shorten
from geomkit.io.files.rows import GrowingMatrix, as_labels
from geomkit.io.files.streams import numbered_lines, open_bytes
from geomkit.io.files.tables import SAMPLE_ROWS, Column, choose_columns
from geomkit.io.files.text_vectors import text_form

__all__ = ["read_json", "read_jsonl"]

_VECTOR = "a list of numbers"
_BRACES = str.maketrans("{}()", "[][]")


def read_jsonl(path: Path, selection: Selection) -> Opened:
    """Read a row a line, in float64."""
    lines = ((number, _parsed(path, f"line {number}", line)) for number, line in numbered_lines(path))
    first = list(islice(lines, 2))
    if len(first) == 1 and isinstance(first[0][1], dict):
        return _from_document(path, first[0][1], selection, "jsonl")
    return _from_rows(path, chain(first, lines), selection, "jsonl")


def read_json(path: Path, selection: Selection) -> Opened:
    """Read one JSON document: a list of rows, or an object whose fields hold one value for each row."""
    with open_bytes(path) as file:
        document = _parsed(path, "it", file.read().removeprefix(b"\xef\xbb\xbf"))
    return _from_document(path, document, selection, "json")


def _from_document(path: Path, document: Any, selection: Selection, name: str) -> Opened:
    """Read rows from one object, such as Chroma's: each of its fields a column; or from a list of rows."""
    if isinstance(document, dict):
        matrices = [field for field, value in document.items() if _is_matrix(value)]
        key = selection.key
        is_vector = key is not None and _is_vector(_follow(document, key))
        if key is not None and _is_matrix(nested := _follow(document, key)) and key not in matrices:
            matrices, document = [*matrices, key], {**document, key: nested}
        if matrices and not is_vector:
            length = len(document[key if key in matrices else matrices[0]])
            columns = {
                field: value for field, value in document.items() if isinstance(value, list) and len(value) == length
            }
            document = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        else:
            document, selection = _rows_inside(path, document, selection)
    if not isinstance(document, list):
        raise refusal(path, f"it is {shorten(document)}; it must be a list of rows, or an object of columns")
    return _from_rows(path, enumerate(document, 1), selection, name)


def _rows_inside(path: Path, document: dict[str, Any], selection: Selection) -> tuple[list[Any], Selection]:
    """Return the rows of an object that has a list of objects, such as OpenAI's answers, or that is one row itself."""
    inside = {field: rows for field, rows in document.items() if isinstance(rows, list) and len(rows) > 1}
    paths = {
        field: f"{field}{inner[len(field) + 2 :]}" for field, rows in inside.items() for inner in _paths(rows, field)
    }
    field, _, rest = (selection.key or "").partition(".")
    if field in paths and not rest.partition(".")[0].isdecimal():
        return inside[field], replace(selection, key=rest)
    if paths and selection.key is None:
        hint = f"key must name them, such as {next(iter(paths.values()))!r}"
        raise refusal(path, f"it is one object with the rows inside, in {list(paths)}; {hint}")
    return [document], selection


def _from_rows(path: Path, rows: Iterable[tuple[int, Any]], selection: Selection, name: str) -> Opened:
    matrix = GrowingMatrix(path, "float64")
    values = iter(rows)
    sample = list(islice(values, SAMPLE_ROWS))
    field: str | None = None
    note = ""
    left: list[str] = []
    if sample and isinstance(sample[0][1], dict):
        field, note, left = _field(path, sample, selection)
    told: dict[str, list[object]] = {told: [] for told in (selection.labels, selection.id) if told is not None}
    for number, value in chain(sample, values):
        if isinstance(value, dict):
            if field is None:
                raise refusal(path, f"line {number} is an object, but lines before are lists; all must be alike")
            for column, cells in told.items():
                cells.append(_label(path, number, value, column))
            vector = _follow(value, field)
        elif field is not None:
            raise refusal(path, f"line {number} is not an object, but lines before are; all must be alike")
        elif (named := selection.key or selection.labels or selection.id) is not None:
            msg = f"line {number} is {shorten(value)}, which has no field {named!r}; it must be an object"
            raise refusal(path, msg)
        else:
            vector = value
        matrix.add(number, _numbers(path, number, vector, field))
    if not matrix.n:
        raise refusal(path, "it has no rows; it must have at least 1")
    texts = {column: as_labels(path, f"field {column!r}", cells, matrix.n) for column, cells in told.items()}
    labels = None if selection.labels is None else texts[selection.labels]
    names = None if selection.id is None else texts[selection.id]
    return Opened(matrix.matrix(), labels, names, name, note, [] if field is None else [field], left)


def _field(path: Path, sample: Sequence[tuple[int, Any]], selection: Selection) -> tuple[str, str, list[str]]:
    """Choose the field that holds the vectors, by the first lines."""
    objects = [value for _, value in sample if isinstance(value, dict)]
    fields = list(dict.fromkeys(field for value in objects for field in value))
    columns = [_described(field, [value.get(field) for value in objects]) for field in fields]
    key = selection.key
    if key is not None and key not in fields:
        inside = [_follow(value, key) for value in objects]
        if any(value is not None for value in inside):
            columns.append(_described(key, inside))
    decision = choose_columns(path, columns, selection, what=_VECTOR, flat=False, note="field")
    return decision.columns[0], decision.note, decision.left_out


def _described(name: str, values: Sequence[Any]) -> Column:
    """Describe a field by its values in some lines."""
    present = [value for value in values if value is not None]
    vectors = [value for value in present if _is_vector(_unnested(value))]
    if vectors:
        return Column(name, "vector", width=len(_unnested(vectors[0])))
    texts = [value for value in present if isinstance(value, str)]
    if texts:
        form, about = text_form(texts)
        return Column(name, form, about, "write a list of numbers")
    if any(_is_matrix(value) for value in present):
        shape = f"{len(present[0])} lists of numbers a row"
        return Column(name, "unread", shape, "give one list a row")
    inside = [inner for value in present[:1] for inner in _paths(value, name)]
    if inside:
        hint = f"give the path inside it: key={inside[0]!r}"
        return Column(name, "unread", "of nested objects", hint)
    if present and isinstance(present[0], list) and present[0] and {type(entry) for entry in present[0]} == {bool}:
        return Column(name, "unread", "of lists of true and false", "write 0 and 1")
    return Column(name, "number" if present and isinstance(present[0], (int, float)) else "other")


def _paths(value: Any, name: str) -> Iterator[str]:
    """Give the dotted paths to lists of numbers inside an object, and inside the first of a list of objects."""
    if isinstance(value, dict):
        for field, inner in value.items():
            path = f"{name}.{field}"
            if _is_vector(_unnested(inner)) or (isinstance(inner, str) and text_form([inner])[0] == "text"):
                yield path
            else:
                yield from _paths(inner, path)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from _paths(value[0], f"{name}.0")


def _follow(value: Any, key: str) -> Any:
    """Return the value of a field, or at the end of a dotted path into objects and lists; None where there is none."""
    if isinstance(value, dict) and key in value:
        return value[key]
    first, _, rest = key.partition(".")
    inner: Any = None
    if isinstance(value, dict):
        inner = value.get(first)
    elif isinstance(value, list) and first.isdecimal() and int(first) < len(value):
        inner = value[int(first)]
    return inner if not rest or inner is None else _follow(inner, rest)


def _parsed(path: Path, part: str, text: bytes) -> Any:
    try:
        return json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as why:
        raise refusal(path, f"{part} is not UTF-8 ({why.reason}): {shorten(text)}; it must be") from why
    except (ValueError, RecursionError) as why:
        raise refusal(path, f"{part} is not JSON ({shorten(str(why))}): {shorten(text)}; it must be") from why


def _is_vector(value: object) -> bool:
    return isinstance(value, list) and len(value) > 0 and {type(entry) for entry in value} <= {int, float}


def _is_matrix(value: object) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(_is_vector(row) for row in value)


def _unnested(value: Any) -> Any:
    """Return the one list in a list of one."""
    return value[0] if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list) else value


def _numbers(path: Path, number: int, value: Any, field: str | None) -> list[float]:
    place = f"line {number}" if field is None else f"field {field!r} of line {number}"
    if isinstance(value, str) and text_form([value])[0] == "text":
        inner = value.translate(_BRACES)
        value = _parsed(path, place, (inner if "," in inner else ",".join(inner.split())).encode())
    value = _unnested(value)
    if not isinstance(value, list):
        has = "is missing or null" if value is None else f"is {shorten(value)}"
        raise refusal(path, f"{place} {has}; it must be {_VECTOR}")
    if not {type(entry) for entry in value} <= {int, float}:
        bad = next(entry for entry in value if type(entry) not in {int, float})
        raise refusal(path, f"{place} has {shorten(bad)} among its numbers; it must be {_VECTOR}")
    try:
        return [float(entry) for entry in value]
    except OverflowError as why:
        raise refusal(path, f"{place} has a whole number beyond float64; numbers must be within its range") from why


def _label(path: Path, number: int, value: dict[str, Any], labels: str) -> object:
    label = _follow(value, labels)
    if label is None:
        msg = f"line {number} has no field {labels!r}, or null; every line must have it, beside {shorten(list(value))}"
        raise refusal(path, msg)
    return label
