"""The formats of TEXMEX: .fvecs, .bvecs and .ivecs, a number of columns before each row."""

from functools import partial
from pathlib import Path

import numpy as np

from geomkit.io.files.record import Opened
from geomkit.io.files.refusals import library_errors, refusal

__all__ = ["read_bvecs", "read_fvecs", "read_ivecs"]

_BLOCK = 1 << 24


def _read(name: str, dtype: str, path: Path, labels: str | None, key: str | None) -> Opened:  # noqa: ARG001
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
