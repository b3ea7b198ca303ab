"""Files of tensors: one of two dimensions, mapped into memory; bfloat16 stays what it is."""

import importlib.util
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from geomkit.errors import BackendUnavailableError
from geomkit.io.files.record import Opened, Selection
from geomkit.io.files.refusals import check_claim, library_errors, pick, refusal, require
from geomkit.io.files.rows import as_labels

__all__ = ["read_pt", "read_safetensors"]

_DTYPES = {
    "F16": "<f2", "F32": "<f4", "F64": "<f8", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8",
    "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8",
}  # fmt: skip
_SMALL = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
"""Dtypes that NumPy has only by ml_dtypes; those of one byte are given in float32, which holds them exactly."""
_CODES = {np.dtype(kind).name: code for code, kind in _DTYPES.items()} | {name: code for code, name in _SMALL.items()}
_CODES["bool"] = "BOOL"
"""The names that safetensors has for dtypes of torch."""


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
    kinds = {name: (heads[name]["dtype"], tuple(heads[name]["shape"])) for name in names}
    return _opened(path, "safetensors", kinds, lambda name: _tensor(path, name, heads[name], 8 + length), selection)


def read_pt(path: Path, selection: Selection) -> Opened:
    """Map one tensor of what `torch.save` wrote: a tensor, or a dict of them. Nothing else is unpickled."""
    torch = require("torch", path, "torch")
    with library_errors(path, "torch"):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise refusal(path, "its members are compressed, which torch never does; they must be stored")
        try:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except pickle.UnpicklingError as why:
            # What torch says is how to run whatever code the file has.
            what = re.search(r"GLOBAL ([\w.]+)", str(why))
            msg = f"it holds {what[1] if what else 'objects beside tensors'}, which takes pickle to read"
            raise refusal(path, f"{msg}; it must hold a tensor or a dict of tensors, as torch.save(x, path)") from why
    alone = isinstance(found, torch.Tensor)
    if not (alone or isinstance(found, dict)):
        raise refusal(path, f"it holds an object of type {type(found).__name__}; it must be a tensor or a dict of them")
    for by in ("key", "labels"):
        if alone and (name := getattr(selection, by)) is not None:
            raise refusal(path, f"{by} is {name!r}, but it holds one tensor, which has no name; it must be None")
    named = {"": found} if alone else {str(name): value for name, value in found.items()}
    kinds = {name: _kind(torch, value) for name, value in named.items()}
    sizes = {member.file_size for member in members}

    def tensor(name: str) -> Any:
        value = named[name].detach().resolve_neg()
        check_claim(path, f"tensor {name!r}", value.shape, value.itemsize, path.stat().st_size)
        if value.untyped_storage().nbytes() not in sizes:
            raise refusal(path, f"tensor {name!r} is of more or fewer bytes than any member has; it is damaged")
        if kinds[name][0] not in _SMALL:
            return value.numpy()
        return value if kinds[name][0] == "BF16" else value.float().numpy()

    return _opened(path, "pt", kinds, tensor, selection)


def _kind(torch: Any, value: Any) -> tuple[str, tuple[int, ...]]:
    """Return the dtype and shape of a tensor; of what cannot be read as one, what it is."""
    if not isinstance(value, torch.Tensor):
        return type(value).__name__, ()
    name = str(value.dtype).removeprefix("torch.")
    if value.layout != torch.strided or value.is_meta:
        name = "meta" if value.is_meta else str(value.layout)
    return _CODES.get(name, name), tuple(value.shape)


def _opened(
    path: Path,
    format_name: str,
    kinds: dict[str, tuple[str, tuple[int, ...]]],
    tensor: Callable[[str], Any],
    selection: Selection,
) -> Opened:
    """Choose among tensors of which dtypes and shapes are known."""
    others = {name: f"{dtype} {shape}" if shape else dtype for name, (dtype, shape) in kinds.items()}
    numeric = {*_DTYPES, *_SMALL, *(["BOOL"] if selection.bits else [])}
    matrices = [name for name, (dtype, shape) in kinds.items() if len(shape) == 2 and dtype in numeric]
    name = pick(path, matrices, selection.key, "a two-dimensional tensor of numbers", others=others)
    vectors = tensor(name)
    note, labels = f"tensor {name!r}" if name else "the tensor", None
    if kinds[name][0] not in {*_DTYPES, "BF16", "BOOL"}:
        note += f", {kinds[name][0]} as float32"
    if selection.labels is not None:
        columns = [name for name, (dtype, shape) in kinds.items() if len(shape) == 1 and dtype in _DTYPES]
        what = "a one-dimensional tensor of numbers, one label a row"
        column = pick(path, columns, selection.labels, what, others=others, by="labels")
        labels = as_labels(path, f"tensor {column!r}", tensor(column).tolist(), int(vectors.shape[0]))
    return Opened(vectors, labels, None, format_name, note)


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
