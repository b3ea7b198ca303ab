"""Word vectors: the text and binary formats of word2vec, and the text of GloVe."""

import mmap
import re
from pathlib import Path

import numpy as np

from geomkit.io.files.record import Opened
from geomkit.io.files.refusals import refusal, shorten
from geomkit.io.files.rows import GrowingMatrix
from geomkit.io.files.streams import numbered_lines

__all__ = ["HEADER", "read_binary", "read_glove", "read_text"]

HEADER = re.compile(rb"(?:\xef\xbb\xbf)?[ \t]*([0-9]{1,18})[ \t]+([0-9]{1,18})[ \t]*\r?\n")
"""The first line of word2vec's formats: rows and columns."""

_FLOAT32 = "numbers as float32"


def read_text(path: Path, labels: str | None, key: str | None) -> Opened:  # noqa: ARG001 - every reader takes both
    """Read word2vec's text: a line with rows and columns, then a word and its numbers a line."""
    return _lines(path, "word2vec-text", header=True)


def read_glove(path: Path, labels: str | None, key: str | None) -> Opened:  # noqa: ARG001 - every reader takes both
    """Read GloVe's text: a word and its numbers a line."""
    return _lines(path, "glove", header=False)


def _lines(path: Path, name: str, *, header: bool) -> Opened:
    rows, words = GrowingMatrix(path, "float32"), []
    n = d = None
    for number, line in numbered_lines(path):
        if header and n is None:
            n, d = (int(part) for part in line.split())
            continue
        d = len(line.split()) - 1 if d is None else d
        word, values = _row(path, number, line, d)
        rows.add(number, values)
        words.append(word)
    if n is not None and n != rows.n:
        msg = f"its first line says {n} rows of {d}, but {rows.n} follow; it is truncated or damaged"
        raise refusal(path, msg)
    return Opened(rows.matrix(), None, tuple(words), name, _FLOAT32)


def _row(path: Path, number: int, line: bytes, d: int) -> tuple[str, list[float]]:
    # From the right: some words of GloVe have spaces in them.
    parts = line.rsplit(None, d) if d else [line]
    if len(parts) != d + 1 or d == 0:
        msg = (
            f"line {number} has {len(line.split()) - 1} numbers after its word; it must have {max(d, 1)}, as others do"
        )
        raise refusal(path, msg)
    before = parts[0].split()
    if len(before) > 1 and _is_number(before[-1]):
        found = f"line {number} has more than {d} numbers after its word {shorten(before[0])}"
        raise refusal(path, f"{found}; it must have {d}, as others do")
    try:
        if b"_" in line[len(parts[0]) :]:  # which Python would read as part of a number
            raise ValueError  # noqa: TRY301
        values = [float(part) for part in parts[1:]]
    except ValueError:
        bad = next(part for part in parts[1:] if not _is_number(part))
        msg = (
            f"line {number} has {shorten(bad.decode('utf-8', 'replace'))} among its numbers; there must be {d} numbers"
        )
        raise refusal(path, msg) from None
    return _word(path, f"line {number}", parts[0]), values


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return b"_" not in text


def _word(path: Path, where: str, text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as why:
        raise refusal(path, f"the word of {where} is not UTF-8 ({why.reason}): {shorten(text)}; it must be") from None


def read_binary(path: Path, labels: str | None, key: str | None) -> Opened:  # noqa: ARG001 - every reader takes both
    """Read word2vec's binary format: a line with rows and columns, then each word, a space, and float32."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        header = HEADER.match(content)
        if header is None:
            raise refusal(path, "it does not start with a line of two numbers; it must say rows and columns")
        n, d = int(header[1]), int(header[2])
        at, size = header.end(), len(content)
        # A word has at least one byte and a space behind it.
        if min(n, d) < 1 or n * (4 * d + 2) > size - at:
            msg = f"its first line says {n} rows of {d}, but {size - at:,} bytes follow; they must hold at least 1 x 1"
            raise refusal(path, msg)
        vectors, words = np.empty((n, d), "<f4"), []
        for row in range(n):
            space = content.find(b" ", at)
            end = space + 1 + 4 * d
            if space < 0 or end > size:
                raise refusal(path, f"it ends within row {row} of the {n} that its first line says; it is truncated")
            words.append(_word(path, f"row {row}", content[at:space].lstrip(b"\n")))
            vectors[row] = np.frombuffer(content[space + 1 : end], "<f4")
            at = end
        if content[at:].strip(b"\r\n"):
            raise refusal(path, f"{size - at:,} bytes follow the last of its {n} rows; there must be none")
    return Opened(vectors, None, tuple(words), "word2vec-binary", "")
