"""Columns of vectors in memory: of pandas, polars, pyarrow and `datasets`, object arrays, and word vectors of gensim.

Nothing is imported that the caller has not imported, but pyarrow where an object offers itself through Arrow's
PyCapsule interface and is nothing else. Lists of one length are views of the column's memory.
"""

import importlib
import os
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.errors import BackendUnavailableError, InvalidInputError

__all__ = ["unwrapped"]

_ARROW = ("__arrow_c_stream__", "__arrow_c_array__")


def unwrapped(x: Any, name: str) -> Any:  # noqa: PLR0911 (one for each kind)
    """Return the array inside what holds one vector a row; anything else as it is.

    Parameters
    ----------
    x : Any
    name : str
        What messages call it.

    Raises
    ------
    InvalidInputError
        Vectors in it are of unequal length, or there are none; or it is a path.
    """
    if isinstance(x, (str, os.PathLike)):
        msg = f"{name} is {os.fspath(x)!r}; it must hold vectors: open a file with geomkit.io.read(path).vectors"
        raise InvalidInputError(msg)
    if isinstance(x, np.ndarray):
        return _stacked(x, name) if x.dtype == object and (x.ndim == 1 or x.shape[1:] == (1,)) else x
    root = type(x).__module__.partition(".")[0]
    if root == "gensim" and hasattr(x, "key_to_index"):
        return x.vectors
    if root == "spacy" and type(x).__name__ == "Vectors":
        return x.data
    if root == "pandas":
        values = x.to_numpy()
        return unwrapped(values, name) if values.dtype == object else values
    if root == "datasets" and type(x).__name__ == "Column":
        return unwrapped(np.fromiter((np.asarray(row) for row in x), object, len(x)), name)
    if any(hasattr(x, offer) for offer in _ARROW):
        return _from_arrow(x, name)
    return x


def _stacked(x: NDArray[Any], name: str) -> NDArray[Any]:
    """Stack an object array of arrays or lists of one length."""
    rows = [np.asarray(row) for row in x.ravel()]
    first = rows[0].shape if rows else ()
    if len(first) != 1:
        return x
    unequal = next((row for row, values in enumerate(rows) if values.shape != first), None)
    if unequal is not None:
        has = f"row {unequal} of the shape {rows[unequal].shape}, row 0 of {first}"
        msg = f"{name} is an object array with {has}; all must be alike, for np.stack to make a matrix of them"
        raise InvalidInputError(msg)
    return np.stack(rows)


def _from_arrow(x: Any, name: str) -> Any:
    try:
        arrow = importlib.import_module("pyarrow")
    except ImportError as why:
        msg = f"{name} ({type(x).__name__}) offers itself through Arrow, which needs pyarrow, which is not installed"
        msg += "; pip install 'geomkit[files]'"
        raise BackendUnavailableError(msg) from why
    if ("polars" in sys.modules and hasattr(x, "columns")) or isinstance(x, (arrow.Table, arrow.RecordBatch)):
        table = arrow.table(x)
        if table.num_columns != 1:
            return np.column_stack([column.to_numpy() for column in table.columns])
        column = table.column(0)
    else:
        column = arrow.chunked_array(x) if hasattr(x, _ARROW[0]) else arrow.chunked_array([arrow.array(x)])
    whole = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    whole = whole.storage if isinstance(whole, arrow.ExtensionArray) else whole
    if not hasattr(whole, "flatten") or arrow.types.is_struct(whole.type):
        msg = f"{name} is a column of {column.type}; it must be a column of lists of numbers, one a row"
        raise InvalidInputError(msg)
    lengths = whole.value_lengths().to_numpy(zero_copy_only=False)
    values = whole.flatten()
    if whole.null_count or values.null_count or len(lengths) == 0 or (lengths != lengths[0]).any():
        has = f"{whole.null_count} rows and {values.null_count} numbers that are null, and rows of "
        has += f"{np.nanmin(lengths):g} to {np.nanmax(lengths):g} numbers" if len(lengths) else "no numbers"
        msg = f"{name} is a column of {column.type} with {has}; all rows must be there and have as many numbers"
        raise InvalidInputError(msg)
    return values.to_numpy(zero_copy_only=False).reshape(len(lengths), int(lengths[0]))
