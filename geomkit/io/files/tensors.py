"""safetensors: a two-dimensional tensor, mapped into memory; bfloat16 stays what it is."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np

from geomkit.errors import BackendUnavailableError
from geomkit.io.files.record import Opened
from geomkit.io.files.refusals import library_errors, pick, refusal, require
from geomkit.io.files.rows import as_labels

__all__ = ["read_safetensors"]

_DTYPES = {
    "F16": "<f2", "F32": "<f4", "F64": "<f8", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8",
    "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8",
}  # fmt: skip
_BFLOAT16 = "BF16"


def read_safetensors(path: Path, labels: str | None, key: str | None) -> Opened:
    """Map one tensor of a safetensors file."""
    safe_open = require("safetensors", path).safe_open
    with library_errors(path, "safetensors"):
        # It checks the header against the file: dtypes, shapes, offsets, and that nothing overlaps.
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
        with path.open("rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
            heads: dict[str, Any] = json.loads(raw.read(length))
    found = [name for name in names if len(heads[name]["shape"]) == 2 and _is_number(heads[name]["dtype"])]
    name = pick(path, found, key, "a two-dimensional tensor of numbers", others=names)
    vectors = _tensor(path, name, heads[name], 8 + length)
    taken = None
    if labels is not None:
        columns = [each for each in names if len(heads[each]["shape"]) == 1 and heads[each]["dtype"] in _DTYPES]
        what = "a one-dimensional tensor of numbers, one label a row"
        column = pick(path, columns, labels, what, others=names, by="labels")
        values = _tensor(path, column, heads[column], 8 + length).tolist()
        taken = as_labels(path, f"tensor {column!r}", values, int(vectors.shape[0]))
    return Opened(vectors, taken, None, "safetensors", f"tensor {name!r}")


def _is_number(dtype: str) -> bool:
    return dtype in _DTYPES or dtype == _BFLOAT16


def _tensor(path: Path, name: str, head: dict[str, Any], start: int) -> Any:
    shape = tuple(head["shape"])
    if 0 in shape:
        raise refusal(path, f"tensor {name!r} has the shape {shape}; it must have at least 1 row and 1 column")
    if head["dtype"] == _BFLOAT16 and importlib.util.find_spec("torch") is not None:
        with library_errors(path, "safetensors"), require("safetensors", path).safe_open(path, framework="pt") as file:
            return file.get_tensor(name)
    dtype = _bfloat16(path) if head["dtype"] == _BFLOAT16 else np.dtype(_DTYPES[head["dtype"]])
    with library_errors(path, "numpy"):
        return np.memmap(path, dtype, "r", start + head["data_offsets"][0], shape)


def _bfloat16(path: Path) -> Any:
    try:
        from ml_dtypes import bfloat16
    except ImportError as why:
        msg = f"{path} holds bfloat16, which takes torch or ml_dtypes to read; pip install 'geomkit[torch]'"
        raise BackendUnavailableError(msg) from why
    return np.dtype(bfloat16)
