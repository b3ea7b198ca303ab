"""Vectors that are written as text in a cell: ``[0.1, 0.2]`` of pandas and JSON, ``{0.1,0.2}`` of PostgreSQL.

`text_form` says what the cells of a column are, and `parse_vectors` reads them through Arrow, which parses numbers.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.io.files.refusals import library_errors, refusal, require, shorten
from geomkit.io.files.tables import Form

__all__ = ["byte_dtypes", "is_number", "parse_vectors", "text_form"]

_BRACKETS = "[]{}() \t\r\n"
_OPENING = ("[", "{", "(")
_CLOSING = ("]", "}", ")")
_SEPARATORS = re.compile(r"[\s,;|]+")
_ENTRY = re.compile(r"(?:\d+:)?(?:np\.float\d+\(|tensor\(|array\()?[\[\](){}\"']*([^\[\](){}\"']*)[\[\](){}\"']*")
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+(?:[eE][-+]?\d+)?")
_BYTES = re.compile(r"""b(['"]).*\\x[0-9a-f]{2}.*\1""", re.DOTALL)
_BASE64 = re.compile(r"[A-Za-z0-9+/]{16,}={0,2}")
_INSPECTED = 32
"""Cells of a column whose text is looked at, evenly spread over the sample."""
_LARGEST, _SMALLEST = 1e12, 1e-18
"""Bytes whose numbers lie beyond are no vectors: exponents of random bytes are spread evenly."""


def is_number(cell: str) -> bool:
    """Whether a cell is one number, as Python and Arrow both read it."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell and cell.isascii()


def text_form(cells: Sequence[str]) -> tuple[Form, str]:
    """Say what the text of a column is.

    Parameters
    ----------
    cells : sequence of str
        Cells that are there.

    Returns
    -------
    form, about : str
        "text" for vectors that `parse_vectors` reads, "unread" for what looks like vectors and is not read, or "other";
        and what it is, for messages.
    """
    inspected = [cells[at] for at in np.linspace(0, len(cells) - 1, min(len(cells), _INSPECTED)).astype(int)]
    kinds = [_cell_form(cell.strip()) for cell in inspected]
    alike = [kind for kind in kinds if kind is not None]
    if 2 * len(alike) < len(kinds) or not alike:
        return "other", "text"
    unreadable = next((kind for kind in alike if kind), None)
    if unreadable is not None:
        return "unread", unreadable
    return "text", "text with numbers in brackets"


def _cell_form(cell: str) -> str | None:  # noqa: PLR0911 - one for each form
    """Return an empty text for a readable vector, None for no vector, and else what keeps it from being read."""
    if _DECIMAL_COMMA.fullmatch(cell):
        return "numbers with a decimal comma: write them with a point"
    if _BYTES.fullmatch(cell):
        return "Python's text of bytes: write the numbers themselves"
    if _BASE64.fullmatch(cell) and len(cell) % 4 == 0:
        try:
            if "float32" in byte_dtypes([base64.b64decode(cell, validate=True)]):
                return "bytes in base64: decode them to numbers first"
        except binascii.Error:
            return None
        return None
    bracketed = cell.startswith(_OPENING) and cell.endswith(_CLOSING)
    entries = [entry for entry in _SEPARATORS.split(cell.strip(_BRACKETS)) if entry]
    numbers = [matched[1] for entry in entries if (matched := _ENTRY.fullmatch(entry)) and is_number(matched[1])]
    if not numbers or 2 * len(numbers) < len(entries):
        return None
    if not bracketed and (len(numbers) < 2 or not any(re.search(r"[.eE]", number) for number in numbers)):
        return None
    if "..." in entries:
        return "numbers that NumPy shortened to '...': the rest of them was never written"
    flat = cell.strip(_BRACKETS)
    if not bracketed or ";" in flat or "|" in flat or not all(is_number(entry) for entry in entries):
        return f"text such as {shorten(cell)}: write it as [0.1, 0.2]"
    return ""


def byte_dtypes(cells: Sequence[bytes]) -> list[str]:
    """Return the dtypes in which bytes, all of one length, look like coordinates of vectors.

    Parameters
    ----------
    cells : sequence of bytes
    """
    lengths = {len(cell) for cell in cells}
    if len(lengths) != 1 or 0 in lengths:
        return []
    data, plausible = b"".join(cells), []
    for name, item in (("float32", 4), ("float64", 8)):
        if len(cells[0]) % item == 0 and len(cells[0]) >= 2 * item:
            size = np.abs(np.frombuffer(data, name))
            if ((size == 0) | ((size < _LARGEST) & (size > _SMALLEST))).all() and size.any():
                plausible.append(name)
    return plausible


def parse_vectors(path: Path, cells: Any, start: int, name: str) -> NDArray[np.float64]:
    """Read a column of text with a vector in each cell.

    Parameters
    ----------
    path : Path
    cells : pyarrow.Array of text
        Without nulls, at least one.
    start : int
        The number of the first row, for messages.
    name : str
        What messages call the column.

    Returns
    -------
    ndarray (m, d)

    Raises
    ------
    InvalidInputError
        A cell is no such list of numbers, or has more or fewer than the first.
    """
    compute, arrow = require("pyarrow.compute", path), require("pyarrow", path)
    with library_errors(path, "pyarrow"):
        inner = compute.ascii_trim(cells.cast(arrow.large_string()), _BRACKETS)
        commas = compute.count_substring(inner, ",")
        if compute.max(commas).as_py():
            entries = compute.split_pattern(inner, ",")
        else:
            entries = compute.ascii_split_whitespace(inner)
        lengths = entries.value_lengths().to_numpy(zero_copy_only=False)
    width = int(lengths[0])
    if (unequal := np.flatnonzero(lengths != width)).size:
        row = int(unequal[0])
        msg = (
            f"row {start + row} of {name!r} has {lengths[row]} numbers, row {start} has {width}; all must have as many"
        )
        raise refusal(path, msg)
    try:
        numbers = compute.ascii_trim_whitespace(entries.flatten()).cast(arrow.float64())
    except arrow.ArrowInvalid as why:
        row = next(row for row, cell in enumerate(cells.to_pylist()) if _cell_form(cell.strip()) != "")
        has = shorten(cells[row].as_py())
        msg = f"row {start + row} of {name!r} is {has}; it must be a list of numbers such as [0.1, 0.2]"
        raise refusal(path, msg) from why
    return np.asarray(numbers.to_numpy(zero_copy_only=False)).reshape(len(cells), width)
