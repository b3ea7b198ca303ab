"""Files that are there as a whole or not at all."""

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geomkit.errors import GeomkitError, StorageError

__all__ = ["flush", "replacing", "written"]


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """Give a temporary name beside `out` to write to, and once the file is complete, flush it to disk and rename it.

    An error leaves what was at `out` as it was, and no temporary file behind.
    """
    part = out.with_name(f".{out.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        yield part
        flush(part)
        part.replace(out)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def written(out: Path, error: type[GeomkitError] = StorageError) -> Iterator[Path]:
    """Do what `replacing` does, and raise an error of ours where the file cannot be written.

    Raises
    ------
    StorageError
        It cannot be written, or `error` in its place; what was at `out` is still there.
    """
    try:
        with replacing(out) as part:
            yield part
    except OSError as why:
        msg = f"{out} could not be written: {why.strerror or why}; what was there before still is"
        raise error(msg) from why


def flush(path: Path) -> None:
    """Have the system put a file on disk now."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
