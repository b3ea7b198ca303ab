"""Files that are there as a whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geomkit.errors import StorageError

__all__ = ["written"]


@contextmanager
def written(out: Path) -> Iterator[Path]:
    """Give a temporary name beside `out` to write to, and rename what is there once it is complete.

    Raises
    ------
    StorageError
        It cannot be written; nothing is left behind.
    """
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(out)
    except OSError as why:
        msg = f"{out} could not be written: {why.strerror or why}"
        raise StorageError(msg) from why
    finally:
        part.unlink(missing_ok=True)
