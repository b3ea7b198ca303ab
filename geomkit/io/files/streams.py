"""Text files as bytes, compressed with gzip or not, that never come to more than a file of that size may."""

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from geomkit.io.files.refusals import EXPANSION, allowed, refusal

__all__ = ["numbered_lines", "open_bytes"]

_BOM = b"\xef\xbb\xbf"


class _Unzipped(io.RawIOBase):
    """Bytes of a gzip file, with its refusals."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inner = gzip.GzipFile(path, "rb")
        self._left = allowed(path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        try:
            got = self._inner.read(len(view))
        except (OSError, EOFError, zlib.error) as why:
            raise refusal(self._path, f"gzip cannot read it: {why}") from why
        self._left -= len(got)
        if self._left < 0:
            msg = f"it comes to more than {EXPANSION} times its size; decompress it first if it is meant to"
            raise refusal(self._path, msg)
        view[: len(got)] = got
        return len(got)

    def close(self) -> None:
        self._inner.close()
        super().close()


def open_bytes(path: Path) -> BinaryIO:
    """Open a file to be read once from the start, decompressed where its name ends in .gz."""
    if path.suffix.lower() == ".gz":
        return io.BufferedReader(_Unzipped(path), 1 << 16)
    return path.open("rb")


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers from 1, without ends of lines and a mark of UTF-8; blank ones are no rows."""
    with open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            text = line.rstrip(b" \t\r\n")
            if number == 1:
                text = text.removeprefix(_BOM)
            if text:
                yield number, text
