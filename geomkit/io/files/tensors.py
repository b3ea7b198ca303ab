"""safetensors: a two-dimensional tensor, mapped into memory; bfloat16 stays what it is."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np

from geomkit.errors import BackendUnavailableError
from geomkit.io.files.record import Opened, Selection
from geomkit.io.files.refusals import library_errors, pick, refusal, require
from geomkit.io.files.rows import as_labels

__all__ = ["read_safetensors"]

_DTYPES = {
    "F16": "<f2", "F32": "<f4", "F64": "<f8", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8",
    "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8",
}  # fmt: skip
_SMALL = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
"""Dtypes that NumPy has only by ml_dtypes; those of one byte are given in float32, which holds them exactly."""


def read_safetensors(path: Path, selection: Selection) -> Opened:
    """Map one tensor of a safetensors file."""
    safe_open = require("safetensors", path).safe_open
    with library_errors(path, "safetensors"):
        # It checks the header against the file: dtypes, shapes, offsets, and that nothing overlaps.
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
        with path.open("rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
            heads: dict[str, Any] = json.loads(raw.read(length))
    kinds = {name: f"{head['dtype']} {tuple(head['shape'])}" for name, head in heads.items() if name in names}
    numeric = {*_DTYPES, *_SMALL, *(["BOOL"] if selection.bits else [])}
    matrices = [name for name in names if len(heads[name]["shape"]) == 2 and heads[name]["dtype"] in numeric]
    name = pick(path, matrices, selection.key, "a two-dimensional tensor of numbers", others=kinds)
    vectors = _tensor(path, name, heads[name], 8 + length)
    note, labels = f"tensor {name!r}", None
    if heads[name]["dtype"] not in {*_DTYPES, "BF16", "BOOL"}:
        note += f", {heads[name]['dtype']} as float32"
    if selection.labels is not None:
        columns = [name for name in names if len(heads[name]["shape"]) == 1 and heads[name]["dtype"] in _DTYPES]
        what = "a one-dimensional tensor of numbers, one label a row"
        column = pick(path, columns, selection.labels, what, others=kinds, by="labels")
        values = _tensor(path, column, heads[column], 8 + length).tolist()
        labels = as_labels(path, f"tensor {column!r}", values, int(vectors.shape[0]))
    return Opened(vectors, labels, None, "safetensors", note)


def _tensor(path: Path, name: str, head: dict[str, Any], start: int) -> Any:
    shape = tuple(head["shape"])
    if 0 in shape:
        raise refusal(path, f"tensor {name!r} has the shape {shape}; it must have at least 1 row and 1 column")
    stored = head["dtype"]
    if stored == "BF16" and importlib.util.find_spec("torch") is not None:
        with library_errors(path, "safetensors"), require("safetensors", path).safe_open(path, framework="pt") as file:
            return file.get_tensor(name)
    dtype = _small_float(path, stored) if stored in _SMALL else np.dtype(_DTYPES.get(stored, "?"))
    with library_errors(path, "numpy"):
        tensor = np.memmap(path, dtype, "r", start + head["data_offsets"][0], shape)
    return tensor.astype(np.float32) if dtype.itemsize == 1 and stored in _SMALL else tensor


def _small_float(path: Path, stored: str) -> Any:
    try:
        import ml_dtypes
    except ImportError as why:
        name = _SMALL[stored].partition("_")[0]
        msg = f"{path} holds {name}, which takes torch or ml_dtypes to read; pip install 'geomkit[torch]'"
        raise BackendUnavailableError(msg) from why
    return np.dtype(getattr(ml_dtypes, _SMALL[stored]))
