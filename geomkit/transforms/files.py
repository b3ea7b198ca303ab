"""Fitted transforms in safetensors files: learned arrays, and parameters as JSON. Nothing in one is executed."""

import importlib
import json
import os
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from geomkit._version import __version__
from geomkit.core.atomic import replacing
from geomkit.errors import BackendUnavailableError, InvalidInputError
from geomkit.transforms.base import Transform
from geomkit.transforms.table import TRANSFORMS

__all__ = ["FORMAT", "load", "save"]

FORMAT = "1"
"""Version of what a file holds; a file of another version is refused."""

_KIND = "geomkit.transforms"
_DTYPES = {"F64": "float64", "BOOL": "bool"}


def save(transform: Transform, path: str | os.PathLike[str]) -> None:
    """Write a fitted transform to a safetensors file.

    Parameters
    ----------
    transform : Transform
        One of the classes in `TRANSFORMS`, fitted.
    path : path
        Replaced where it exists, once the whole file has been written beside it.

    Raises
    ------
    InvalidInputError
        `transform` is of no class in `TRANSFORMS`, or a parameter was changed since `fit` to one that cannot be used.
    NotFittedError
        It was not fitted.
    BackendUnavailableError
        safetensors is not installed.
    OSError
        The file cannot be written; what was at `path` is still there.

    Notes
    -----
    Metadata: ``kind``, ``format``, ``geomkit`` (the version that wrote it), ``class``, ``parameters`` (JSON), and
    ``feature_names_in`` (JSON) where there are names.
    """
    numpy_files = _safetensors("safetensors.numpy")
    if TRANSFORMS.get(type(transform).__name__) is not type(transform):
        msg = f"transform must be one of {list(TRANSFORMS)}; got {type(transform).__name__}"
        raise InvalidInputError(msg)
    check_is_fitted(transform)
    transform.check_fit()
    parameters = {name: _plain(value) for name, value in transform.get_params(deep=False).items()}
    metadata = {
        "kind": _KIND,
        "format": FORMAT,
        "geomkit": __version__,
        "class": type(transform).__name__,
        "parameters": json.dumps(parameters, allow_nan=False),
    }
    if hasattr(transform, "feature_names_in_"):
        metadata["feature_names_in"] = json.dumps(list(transform.feature_names_in_))
    tensors = {
        name: np.array(getattr(transform, name), what.dtype, order="C") for name, what in transform.learned.items()
    }
    with replacing(Path(path)) as part:
        part.write_bytes(numpy_files.save(tensors, metadata))


def load(path: str | os.PathLike[str]) -> Transform:
    """Read a fitted transform that `save` wrote; it transforms to the same bits.

    Parameters
    ----------
    path : path
        A safetensors file.

    Returns
    -------
    Transform
        Of the class that was saved, fitted.

    Raises
    ------
    InvalidInputError
        There is no such file, or it is not whole, of another format, or not what a fit leaves behind: its class,
        parameters, names, dtypes, shapes or values.
    BackendUnavailableError
        safetensors is not installed.

    Notes
    -----
    Names, dtypes and shapes are checked before any values are read, and no more is read than the file holds.
    """
    numpy_files = _safetensors("safetensors")
    file = Path(path)
    if not file.is_file():
        _refuse(file, "is not a file")
    try:
        with numpy_files.safe_open(file, framework="np") as stored:
            transform = _empty(file, stored.metadata() or {})
            learned = _read(file, stored, transform)
    except (numpy_files.SafetensorError, OSError) as why:
        _refuse(file, f"cannot be read as safetensors: {why}", why)
    transform.__dict__.update(learned)
    d = len(learned["mean_"])
    transform.n_features_in_ = d
    names = getattr(transform, "feature_names_in_", None)
    if names is not None and len(names) != d:
        _refuse(file, f"has {len(names)} names of features for {d} columns")
    try:
        transform.check_fit()
    except InvalidInputError as why:
        _refuse(file, f"does not hold a fit: {why}", why)
    return transform


def _safetensors(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as why:
        msg = f"saved transforms need safetensors ({why}); pip install 'safetensors>=0.5'"
        raise BackendUnavailableError(msg) from why


def _refuse(file: Path, what: str, why: Exception | None = None) -> NoReturn:
    msg = " ".join(f"{file} {what}".split())
    raise InvalidInputError(msg) from why


def _plain(value: Any) -> Any:
    """Return a parameter as JSON can hold it: NumPy's numbers as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _empty(file: Path, metadata: dict[str, str]) -> Transform:
    """Make the transform that the metadata names, with its parameters and names of features, not fitted."""
    if metadata.get("kind") != _KIND:
        _refuse(file, f"holds no saved transform: its metadata has kind {metadata.get('kind')!r}, not {_KIND!r}")
    if metadata.get("format") != FORMAT:
        _refuse(file, f"has format {metadata.get('format')!r}; this version of geomkit reads {FORMAT!r}")
    name = metadata.get("class", "")
    if name not in TRANSFORMS:
        _refuse(file, f"has class {name!r}; it must be one of {list(TRANSFORMS)}")
    transform = TRANSFORMS[name]()
    parameters = _parsed(file, metadata, "parameters")
    if not isinstance(parameters, dict) or set(parameters) != set(transform.get_params(deep=False)):
        _refuse(file, f"must have the parameters {sorted(transform.get_params(deep=False))} of {name}")
    transform.set_params(**parameters)
    if "feature_names_in" in metadata:
        names = _parsed(file, metadata, "feature_names_in")
        if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
            _refuse(file, "must have names of features that are strings")
        transform.feature_names_in_ = np.array(names, object)
    return transform


def _parsed(file: Path, metadata: dict[str, str], name: str) -> Any:
    try:
        return json.loads(metadata.get(name, ""))
    except (ValueError, RecursionError) as why:
        _refuse(file, f"has metadata {name} that is not JSON: {why}", why)


def _read(file: Path, stored: Any, transform: Transform) -> dict[str, NDArray[Any]]:
    """Return the learned arrays, after names, dtypes and shapes have been found to be right."""
    kind, wanted = type(transform).__name__, transform.learned
    if set(stored.keys()) != set(wanted):
        _refuse(file, f"has the tensors {sorted(stored.keys())}; a {kind} has {sorted(wanted)}")
    lengths: dict[str, int] = {}
    for name, what in wanted.items():
        told = stored.get_slice(name)
        dtype, shape = told.get_dtype(), tuple(told.get_shape())
        if _DTYPES.get(dtype) != what.dtype:
            _refuse(file, f"has {name} of dtype {dtype}; it must be {what.dtype}")
        right = len(shape) == len(what.shape) and all(
            lengths.setdefault(axis, length) == length for axis, length in zip(what.shape, shape, strict=True)
        )
        if not right or lengths["d"] < 1:
            _refuse(file, f"has {name} of shape {shape}; it must be {what.shape}, where {lengths}")
    learned = {name: np.array(stored.get_tensor(name)) for name in wanted}
    for name, value in learned.items():
        if not np.isfinite(value).all():
            _refuse(file, f"has NaN or infinity in {name}")
    return learned
