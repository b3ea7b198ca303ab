"""The formats of TEXMEX (.fvecs, .bvecs, .ivecs: a width before each row) and of BigANN (.fbin: a shape before all)."""

from functools import partial
from pathlib import Path

import numpy as np

from geomkit.io.files.record import Opened, Selection
from geomkit.io.files.refusals import library_errors, refusal

__all__ = ["read_bvecs", "read_fbin", "read_fvecs", "read_i8bin", "read_ibin", "read_ivecs", "read_u8bin"]

_BLOCK = 1 << 24


def _read(name: str, dtype: str, path: Path, selection: Selection) -> Opened:  # noqa: ARG001
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(4)
    d = int.from_bytes(start, "little", signed=True) if len(start) == 4 else 0
    item = np.dtype(dtype).itemsize
    if not 1 <= d <= (size - 4) // item:
        msg = f"its {size:,} bytes start with the number {d}; it must be how many columns follow, {item} bytes each"
        raise refusal(path, msg)
    stride = 4 + d * item
    if size % stride:
        msg = f"its {size:,} bytes are not rows of {d} columns, {stride} bytes each; it is truncated or widths differ"
        raise refusal(path, msg)
    with library_errors(path, "numpy"):
        rows = np.memmap(path, np.dtype([("d", "<i4"), ("x", dtype, (d,))]), "r")
    step = max(1, _BLOCK // stride)
    for first in range(0, len(rows), step):
        widths = rows["d"][first : first + step]
        if (other := np.flatnonzero(widths != d)).size:
            row = first + int(other[0])
            msg = f"row {row} says that it has {widths[other[0]]} columns, but row 0 has {d}; all must have as many"
            raise refusal(path, msg)
    return Opened(rows["x"], None, None, name, "")


read_fvecs = partial(_read, "fvecs", "<f4")
read_bvecs = partial(_read, "bvecs", "u1")
read_ivecs = partial(_read, "ivecs", "<i4")


def _read_bin(name: str, dtype: str, path: Path, selection: Selection) -> Opened:  # noqa: ARG001
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
    n, d = int.from_bytes(start[:4], "little"), int.from_bytes(start[4:], "little")
    claimed = 8 + n * d * np.dtype(dtype).itemsize
    if len(start) < 8 or min(n, d) < 1 or claimed != size:
        msg = f"its {size:,} bytes start with {n:,} rows and {d:,} columns, which take {claimed:,} bytes"
        raise refusal(path, f"{msg}; both must be at least 1, and the file neither longer nor shorter")
    with library_errors(path, "numpy"):
        return Opened(np.memmap(path, np.dtype(dtype), "r", 8, (n, d)), None, None, name, "")


read_fbin = partial(_read_bin, "fbin", "<f4")
read_u8bin = partial(_read_bin, "u8bin", "u1")
read_i8bin = partial(_read_bin, "i8bin", "i1")
read_ibin = partial(_read_bin, "ibin", "<i4")
