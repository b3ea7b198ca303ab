"""HDF5: a two-dimensional dataset, or `train` in the layout of ann-benchmarks. Links are not followed."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.io.files.hdf5_text import read_text
from geomkit.io.files.record import Opened, Selection
from geomkit.io.files.refusals import check_claim, library_errors, pick, refusal, require, shorten
from geomkit.io.files.rows import as_labels

__all__ = ["read_hdf5"]

_ANN = "train"
_REFERENCE = 16  # bytes in the file to a text of varying length
_MOST_OBJECTS = 100_000


def read_hdf5(path: Path, selection: Selection) -> Opened:
    """Read one dataset of an HDF5 file."""
    h5py = require("h5py", path)
    with library_errors(path, "h5py"):
        file = h5py.File(path, "r")
    with file:
        datasets = _datasets(path, h5py, file)
        kinds = {name: f"{dataset.dtype} {dataset.shape}" for name, dataset in datasets.items()}
        numeric = "fiub" if selection.bits else "fiu"
        matrices = [name for name, held in datasets.items() if len(held.shape) == 2 and held.dtype.kind in numeric]
        key = None if selection.key is None else selection.key.strip("/")
        if key is None:
            _check_dense(path, file, datasets)
            if _ANN in matrices:
                key = "test" if selection.queries and "test" in matrices else _ANN
        elif key not in datasets:
            _explain(path, h5py, file, selection.key or "")
        name = pick(path, matrices, key, "a two-dimensional dataset of numbers", others=kinds)
        vectors = _array(path, h5py, name, datasets[name])
        labels = None
        if selection.labels is not None:
            columns = [name for name, held in datasets.items() if len(held.shape) == 1]
            what = "a one-dimensional dataset, one label a row"
            column = pick(path, columns, selection.labels.strip("/"), what, others=kinds, by="labels")
            values = _array(path, h5py, column, datasets[column]).tolist()
            labels = as_labels(path, f"dataset {column!r}", values, len(vectors))
        return Opened(vectors, labels, None, "hdf5", f"dataset {name!r}")


def _datasets(path: Path, h5py: Any, file: Any) -> dict[str, Any]:
    """Every dataset that hard links lead to, by its first name."""
    found: dict[str, Any] = {}
    seen = 0

    def visit(name: str, each: Any) -> str | None:
        nonlocal seen
        seen += 1
        if isinstance(each, h5py.Dataset) and each.shape is not None:
            found[name] = each
        return name if seen >= _MOST_OBJECTS else None

    with library_errors(path, "h5py"):
        # Soft and external links are left out by what this is built on.
        stopped = file.visititems(visit)
        for each in found.values():
            each.shape, each.dtype  # noqa: B018 - damaged ones raise here
    if stopped is not None:
        raise refusal(path, f"it has {_MOST_OBJECTS:,} objects or more; it must have fewer")
    return found


def _check_dense(path: Path, file: Any, found: dict[str, Any]) -> None:
    """Refuse the layout that ann-benchmarks has for sets: concatenated, beside the sizes of the sets."""
    with library_errors(path, "h5py"):
        kind = file.attrs.get("type", "dense")
        kind = kind.decode("utf-8", "replace") if isinstance(kind, bytes) else kind
    if f"size_{_ANN}" in found or (_ANN in found and isinstance(kind, str) and kind == "sparse"):
        msg = f"its {_ANN!r} holds sparse rows or sets, as ann-benchmarks writes them for Jaccard"
        raise refusal(path, f"{msg}; it must be a dense matrix, or save it with scipy.sparse.save_npz")


def _explain(path: Path, h5py: Any, file: Any, key: str) -> None:
    """Refuse a key that leads through a link, which could lead out of the file."""
    at = file
    for part in key.strip("/").split("/"):
        with library_errors(path, "h5py"):
            link = at.get(part, getlink=True) if isinstance(at, h5py.Group) else None
        if link is not None and not isinstance(link, h5py.HardLink):
            kind = "an external link" if isinstance(link, h5py.ExternalLink) else "a soft link"
            raise refusal(path, f"{part!r} of key {key!r} is {kind}, which is not followed; name the dataset itself")
        if link is None:
            return
        with library_errors(path, "h5py"):
            at = at[part]


def _array(path: Path, h5py: Any, name: str, dataset: Any) -> NDArray[Any]:
    """Return all of a dataset, once what it claims fits what is stored."""
    size = path.stat().st_size
    with library_errors(path, "h5py"):
        outside = "in other files" if dataset.external else "assembled from others" if dataset.is_virtual else None
        shape, stored = dataset.shape, min(dataset.id.get_storage_size(), size)
        itemsize, chunks = dataset.id.get_type().get_size(), dataset.chunks
        text = h5py.check_string_dtype(dataset.dtype)
        varies = text is not None and text.length is None
        itemsize = _REFERENCE if varies else itemsize
    if outside:
        raise refusal(path, f"dataset {name!r} is {outside}; it must hold its numbers itself")
    if dataset.dtype.kind not in "fiub" and text is None:
        raise refusal(path, f"dataset {name!r} is of {shorten(str(dataset.dtype))}; it must be numbers or text")
    if 0 in shape:
        raise refusal(path, f"dataset {name!r} has the shape {shape}; it must have at least 1 row and 1 column")
    if stored == 0:
        raise refusal(path, f"dataset {name!r} has the shape {shape}, but nothing was ever written to it; it must be")
    if chunks is None and (claimed := math.prod(shape) * itemsize) > stored:
        msg = f"dataset {name!r} has the shape {shape}, {claimed:,} bytes, but {stored:,} are stored; it is damaged"
        raise refusal(path, msg)
    check_claim(path, f"dataset {name!r}", shape, itemsize, stored)
    check_claim(path, f"a chunk of dataset {name!r}", chunks or (), itemsize, stored)
    if varies:
        return np.asarray(read_text(path, name, dataset), object)
    with library_errors(path, "h5py"):
        return np.asarray(dataset[:])
