"""Word vectors: the text and binary formats of word2vec, and the text of GloVe."""

import mmap
import re
from itertools import islice
from pathlib import Path

import numpy as np

from geomkit.io.files.record import Opened, Selection
from geomkit.io.files.refusals import refusal, shorten
from geomkit.io.files.rows import GrowingMatrix
from geomkit.io.files.streams import numbered_lines

__all__ = ["HEADER", "read_binary", "read_glove", "read_text"]

HEADER = re.compile(rb"(?:\xef\xbb\xbf)?[ \t]*([0-9]{1,18})[ \t]+([0-9]{1,18})[ \t]*\r?\n")
"""The first line of word2vec's formats: rows and columns."""

_FLOAT32 = "numbers as float32"
_SAMPLE = 1000
"""Lines by which a file without a first line of its own is known to have words."""
_FRACTION = re.compile(rb"[.eE]|nan|inf")


def read_text(path: Path, selection: Selection) -> Opened:
    """Read word2vec's text: a line with rows and columns, then a word and its numbers a line."""
    return _lines(path, "word2vec-text", selection, header=True)


def read_glove(path: Path, selection: Selection) -> Opened:
    """Read GloVe's text, a word and its numbers a line; or numbers alone, as `numpy.savetxt` writes them."""
    first = [line.split() for _, line in islice(numbered_lines(path), _SAMPLE)]
    if first and all(_is_number(entry) for tokens in first for entry in tokens):
        if all(_FRACTION.search(tokens[0]) for tokens in first):
            return _matrix(path)
        if not any(_FRACTION.search(entry) for tokens in first for entry in tokens):
            msg = "its lines are whole numbers alone, so that the first may be a word or a coordinate"
            raise refusal(path, f"{msg}; save words with fractions behind them, or numbers alone as .csv or .npy")
    return _lines(path, "glove", selection, header=False)


def _matrix(path: Path) -> Opened:
    rows = GrowingMatrix(path, "float64")
    for number, line in numbered_lines(path):
        tokens = line.split()
        if (bad := next((token for token in tokens if not _is_number(token)), None)) is not None:
            has = shorten(bad.decode("utf-8", "replace"))
            raise refusal(path, f"line {number} has {has} among its numbers; lines before have no words")
        rows.add(number, [float(token) for token in tokens])
    return Opened(rows.matrix(), None, None, "glove", "numbers alone, without words, as numpy.savetxt writes them")


def _lines(path: Path, name: str, selection: Selection, *, header: bool) -> Opened:
    rows, words = GrowingMatrix(path, "float32"), []
    n = d = None
    for number, line in numbered_lines(path):
        if header and n is None:
            n, d = (int(part) for part in line.split())
            continue
        d = len(line.split()) - (not line[:1].isspace()) if d is None else d
        word, values = _row(path, number, line, d, selection)
        rows.add(number, values)
        words.append(word)
    if n is not None and n != rows.n:
        msg = f"its first line says {n} rows of {d}, but {rows.n} follow; it is truncated or damaged"
        raise refusal(path, msg)
    return Opened(rows.matrix(), None, tuple(words), name, _FLOAT32)


def _row(path: Path, number: int, line: bytes, d: int, selection: Selection) -> tuple[str, list[float]]:
    # From the right: some words of GloVe have spaces in them.
    parts = line.rsplit(None, d) if d else [line]
    if len(parts) == d and line[:1].isspace():
        parts = [b"", *parts]  # the word is a blank
    if len(parts) != d + 1 or d == 0:
        has = f"line {number} has {len(line.split()) - 1} numbers after its word"
        raise refusal(path, f"{has}; it must have {max(d, 1)}, as others do")
    before = parts[0].split()
    if len(before) > 1 and _is_number(before[-1]):
        has = f"line {number} has more than {d} numbers after its word {shorten(before[0])}"
        raise refusal(path, f"{has}; it must have {d}, as others do")
    try:
        if b"_" in line[len(parts[0]) :]:  # which Python would read as part of a number
            raise ValueError  # noqa: TRY301
        values = [float(part) for part in parts[1:]]
    except ValueError:
        bad = next(part for part in parts[1:] if not _is_number(part))
        has = f"line {number} has {shorten(bad.decode('utf-8', 'replace'))} among its numbers"
        raise refusal(path, f"{has}; there must be {d} numbers") from None
    return _word(path, f"line {number}", parts[0], selection), values


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return b"_" not in text


def _word(path: Path, place: str, text: bytes, selection: Selection) -> str:
    try:
        return text.decode(selection.encoding or "utf-8")
    except UnicodeDecodeError as why:
        name = (selection.encoding or "utf-8").upper()
        msg = f"the word of {place} is not {name} ({why.reason}): {shorten(text)}; it must be, or give what it is, "
        raise refusal(path, f"{msg}such as encoding='latin-1'") from None


def read_binary(path: Path, selection: Selection) -> Opened:
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
            words.append(_word(path, f"row {row}", content[at:space].lstrip(b"\n"), selection))
            vectors[row] = np.frombuffer(content[space + 1 : end], "<f4")
            at = end
        if content[at:].strip(b"\r\n"):
            raise refusal(path, f"{size - at:,} bytes follow the last of its {n} rows; there must be none")
    return Opened(vectors, None, tuple(words), "word2vec-binary", "")
