"""Blocks of an iterator, written to a temporary .npy file while they are drawn, and mapped from there."""

import contextlib
import errno
import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from geomkit.errors import InvalidInputError
from geomkit.io.files.record import Selection
from geomkit.io.shards.locations import LocalStore, Place
from geomkit.io.shards.numpy_ import RawPart, open_npy
from geomkit.io.shards.shard import check_rows, in_host_order

__all__ = ["spooled"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NAME = "the iterator"


@dataclass(kw_only=True)
class _Spooled(RawPart):
    """Mapped rows whose file has a name that means nothing."""

    digest: str

    def content(self) -> str:
        """As in `Part`: a digest of the numbers, for the file is another each time."""
        return self.digest


def spooled(blocks: Iterator[Any], folder: str | os.PathLike[str] | None) -> tuple[RawPart, Callable[[], None]]:
    """Draw all blocks into a temporary file.

    Parameters
    ----------
    blocks : iterator of (m, d) array_like
        Of one width and dtype.
    folder : path or None
        Where; None for the system's folder for temporary files.

    Returns
    -------
    part, remove
        The rows, and what removes the file, in this process only.

    Raises
    ------
    InvalidInputError
        A block is not a matrix of numbers or unlike the first, there are no rows, or the disk is full. No file is left.
    """
    where = Path(tempfile.gettempdir() if folder is None else folder)
    try:
        handle, name = tempfile.mkstemp(".npy", "geomkit-spool-", where)
    except OSError as why:
        msg = f"spool is {where}, where no file can be written ({why.strerror or why}); it must be such a folder"
        raise InvalidInputError(msg) from why
    remove = partial(_remove, name, os.getpid())
    try:
        with os.fdopen(handle, "wb", buffering=0) as file:
            digest = _write(blocks, file, where)
        part = open_npy(Place(LocalStore(), name), Selection(), 1)
    except BaseException:
        remove()
        raise
    shown = part.__dict__ | {"label": _NAME, "last": _NAME}
    return _Spooled(**shown, digest=digest), remove


def _remove(name: str, owner: int) -> None:
    if os.getpid() == owner:  # a fork of the process inherits what is to be done at its end
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()


def _write(blocks: Iterator[Any], file: IO[bytes], folder: Path) -> str:
    """Write all blocks, and the header once their number is known."""
    digest = hashlib.sha256()
    width, dtype, rows = 0, np.dtype(np.float32), 0
    for number, given in enumerate(blocks):
        block = _block(given, number)
        if number == 0:
            width, dtype = block.shape[1], block.dtype
            _to_disk(file, folder, rows, _header(0, width, dtype))
        if block.shape[1] != width or block.dtype.name != dtype.name:
            has = f"has {block.shape[1]} columns of {block.dtype}, block 0 {width} of {dtype}"
            msg = f"{_NAME}: block {number} {has}; all must have the same"
            raise InvalidInputError(msg)
        data = np.ascontiguousarray(block, dtype).reshape(-1).view(np.uint8).data
        digest.update(data)
        _to_disk(file, folder, rows, data)
        rows += len(block)
    if rows == 0:
        msg = f"{_NAME}: its blocks have no rows; they must have at least 1 together"
        raise InvalidInputError(msg)
    file.seek(0)
    _to_disk(file, folder, rows, _header(rows, width, dtype))
    return digest.hexdigest()


def _block(given: Any, number: int) -> NDArray[Any]:
    label = f"{_NAME}, block {number}"
    if type(given).__module__.split(".")[0] == "scipy":
        msg = f"{label}: it is sparse ({type(given).__name__}), which shards cannot be; it must be dense"
        raise InvalidInputError(msg)
    if isinstance(given, np.ma.MaskedArray) and np.ma.is_masked(given):
        msg = f"{label}: it has masked entries, which have no value; fill or drop them"
        raise InvalidInputError(msg)
    try:
        block = np.asarray(given)
    except (ValueError, TypeError) as why:
        msg = f"{label}: {type(given).__name__} cannot be read as a matrix ({why}); it must be one"
        raise InvalidInputError(msg) from why
    check_rows(label, block.shape, block.dtype)
    if block.dtype.name == "bfloat16":
        msg = f"{label}: it holds bfloat16, which a .npy file cannot say; give float32, which holds the same numbers"
        raise InvalidInputError(msg)
    return block.astype(in_host_order(block.dtype), copy=False)


def _header(rows: int, width: int, dtype: np.dtype[Any]) -> memoryview:
    """Return the header: NumPy leaves room in it, so that its length does not depend on the rows."""
    head = io.BytesIO()
    said = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows, width)}
    np.lib.format.write_array_header_1_0(head, said)
    return head.getbuffer()


def _to_disk(file: IO[bytes], folder: Path, rows: int, data: memoryview) -> None:
    """Write all of it, past any buffer, which would try again when it is closed."""
    done = 0
    try:
        while done < len(data):
            done += file.write(data[done:])
    except OSError as why:
        if why.errno not in _FULL:
            raise
        msg = f"spool {folder} is full ({why.strerror}) after {rows:,} rows of the iterator; give a folder with room"
        raise InvalidInputError(msg) from why
