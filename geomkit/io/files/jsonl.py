"""JSON lines: a list of numbers a line, or an object with one."""

import json
from pathlib import Path
from typing import Any

from geomkit.io.files.record import Opened
from geomkit.io.files.refusals import pick, refusal, shorten
from geomkit.io.files.rows import GrowingMatrix, as_labels
from geomkit.io.files.streams import numbered_lines

__all__ = ["read_jsonl"]

_VECTOR = "a list of numbers"


def read_jsonl(path: Path, labels: str | None, key: str | None) -> Opened:
    """Read a row a line, in float64."""
    rows, found = GrowingMatrix(path, "float64"), []
    field: str | None = None
    for number, line in numbered_lines(path):
        value = _parsed(path, number, line)
        if isinstance(value, dict):
            if field is None:
                if rows.n:
                    raise refusal(path, f"line {number} is an object, but lines before are lists; all must be alike")
                lists = [name for name, each in value.items() if _is_vector(each)]
                field = pick(path, lists, key, _VECTOR, others=list(value))
            if labels is not None:
                found.append(_label(path, number, value, labels))
            value = value.get(field)
        elif field is not None:
            raise refusal(path, f"line {number} is not an object, but lines before are; all must be alike")
        elif (name := key or labels) is not None:
            msg = f"line {number} is {shorten(value)}, which has no field {name!r}; it must be an object"
            raise refusal(path, msg)
        rows.add(number, _numbers(path, number, value, field))
    taken = as_labels(path, f"field {labels!r}", found, rows.n) if labels is not None and rows.n else None
    return Opened(rows.matrix(), taken, None, "jsonl", "" if field is None else f"field {field!r}")


def _parsed(path: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as why:
        raise refusal(path, f"line {number} is not UTF-8 ({why.reason}): {shorten(line)}; it must be") from why
    except (ValueError, RecursionError) as why:
        raise refusal(path, f"line {number} is not JSON ({shorten(str(why))}): {shorten(line)}; it must be") from why


def _is_vector(value: object) -> bool:
    return isinstance(value, list) and len(value) > 0 and {type(each) for each in value} <= {int, float}


def _numbers(path: Path, number: int, value: object, field: str | None) -> list[float]:
    where = f"line {number}" if field is None else f"field {field!r} of line {number}"
    if not isinstance(value, list):
        has = "is missing or null" if value is None else f"is {shorten(value)}"
        raise refusal(path, f"{where} {has}; it must be {_VECTOR}")
    if not {type(each) for each in value} <= {int, float}:
        bad = next(each for each in value if type(each) not in {int, float})
        raise refusal(path, f"{where} has {shorten(bad)} among its numbers; it must be {_VECTOR}")
    try:
        return [float(each) for each in value]
    except OverflowError as why:
        raise refusal(path, f"{where} has a whole number beyond float64; numbers must be within its range") from why


def _label(path: Path, number: int, value: dict[str, Any], labels: str) -> object:
    if value.get(labels) is None:
        msg = f"line {number} has no field {labels!r}, or null; every line must have it, beside {shorten(list(value))}"
        raise refusal(path, msg)
    return value[labels]
