"""Columns of vectors in memory: of pandas, polars, pyarrow and `datasets`, object arrays, and vectors of words.

Nothing is imported that the caller has not imported, but pyarrow where an object offers itself through Arrow's
PyCapsule interface and is nothing else. Lists of one length are views of the column's memory.
"""

import importlib
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.errors import BackendUnavailableError, InvalidInputError

__all__ = ["by_position", "row_names", "unwrapped"]

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
    if root == "spacy" and type(x).__name__ in {"Vectors", "Vocab"}:
        return _of_spacy(getattr(x, "vectors", x), name)
    if root == "pandas":
        values = x.to_numpy()
        if values.dtype == object and values.ndim == 2 and values.shape[1] > 1:
            raise _several(name, x.columns)
        return unwrapped(values, name) if values.dtype == object else values
    if root == "datasets" and type(x).__name__ == "Dataset" and x.format["type"] != "custom":
        x = x.with_format("arrow")[:]
    if root == "datasets" and type(x).__name__ == "Column":
        # What a transform of the caller's makes, and a field of a column, are in no table.
        if getattr(x.source, "format", {"type": "custom"})["type"] == "custom":
            return unwrapped(np.fromiter((np.asarray(row) for row in x), object, len(x)), name)
        x = x.source.with_format("arrow")[x.column_name]
    if any(hasattr(x, offer) for offer in _ARROW):
        return _from_arrow(x, name)
    return x


def by_position(values: Any) -> Any:
    """Return what has a value for each row as that which ``values[row]`` counts by rows: a Series goes by its index."""
    return values.to_numpy() if hasattr(values, "to_numpy") else values


def row_names(x: Any) -> Any:
    """Return a sequence of what a frame or vectors of words call their rows; None where rows have numbers alone."""
    root = type(x).__module__.partition(".")[0]
    if root == "pandas":
        counts = type(x.index).__name__ == "RangeIndex" and x.index.start == 0 and x.index.step == 1
        return None if counts else x.index
    if root == "gensim" and hasattr(x, "key_to_index"):
        return x.index_to_key
    if root == "spacy" and type(x).__name__ == "Vocab":
        words: dict[int, str] = {}
        for key, row in x.vectors.key2row.items():
            words.setdefault(row, x.strings[key])
        return [words[row] for row in sorted(words)]
    return None


def _several(name: str, columns: Any) -> InvalidInputError:
    has = ", ".join(repr(each) for each in list(columns)[:10])
    msg = f"{name} has columns that are not all of numbers ({has}); pass the one of vectors"
    return InvalidInputError(f"{msg}, such as {name}[{columns[-1]!r}], or a frame of numbers alone")


def _of_spacy(vectors: Any, name: str) -> Any:
    """Return the rows that are the vector of a key; others are free, or of parts of words."""
    used = sorted(set(vectors.key2row.values()))
    if not used:
        msg = f"{name} has no vector of a word ({vectors.mode} vectors); it must have vectors by word"
        raise InvalidInputError(msg)
    return vectors.data if len(used) == len(vectors.data) else vectors.data[used]


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
    types = arrow.types
    if hasattr(x, "columns"):
        table = arrow.table(x)
        kinds = table.schema.types
        numbers = [types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) for kind in kinds]
        if table.num_columns > 1 and not all(numbers):
            raise _several(name, table.column_names)
        if table.num_columns != 1:
            return np.column_stack([column.to_numpy() for column in table.columns])
        column = table.column(0)
    else:
        column = arrow.chunked_array(x) if hasattr(x, _ARROW[0]) else arrow.chunked_array([arrow.array(x)])
    whole = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    whole = whole.storage if isinstance(whole, arrow.ExtensionArray) else whole
    if not hasattr(whole, "value_lengths") or types.is_nested(whole.type.value_type):
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
