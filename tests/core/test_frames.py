"""Columns of vectors in memory are measured as the matrix that they hold, where they lie."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from gensim.models import KeyedVectors

import geomkit
from geomkit.core.matrix import as_matrix
from geomkit.errors import InvalidInputError

X = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)


def fixed(x=X):
    return pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])


def keyed():
    made = KeyedVectors(5)
    made.add_vectors([f"w{at}" for at in range(7)], X)
    return made


HELD = {
    "Series of arrays": lambda: pd.Series(list(X)),
    "Series of lists": lambda: pd.Series(X.astype(float).tolist()),
    "frame of one column": lambda: pd.DataFrame({"e": list(X)}),
    "frame of numbers": lambda: pd.DataFrame(X),
    "object array": lambda: pd.Series(list(X)).to_numpy(),
    "Arrow lists of one length": fixed,
    "Arrow lists": lambda: pa.array(list(X)),
    "Arrow chunks": lambda: pa.chunked_array([fixed(X[:3]), fixed(X[3:])]),
    "Arrow table": lambda: pa.table({"e": fixed()}),
    "Arrow tensors": lambda: pa.FixedShapeTensorArray.from_numpy_ndarray(X),
    "pandas column of Arrow": lambda: pd.Series(fixed(), dtype=pd.ArrowDtype(pa.list_(pa.float32(), 5))),
    "gensim": keyed,
}


@pytest.mark.parametrize("name", HELD)
def test_columns_of_vectors_are_the_matrix(name):
    matrix = as_matrix(HELD[name]())
    np.testing.assert_array_equal(matrix.block(0, 7), X)
    assert geomkit.cosine_stats(HELD[name]()).mean == pytest.approx(geomkit.cosine_stats(X).mean, abs=1e-6)


@pytest.mark.parametrize("make", [lambda column: column, lambda column: pa.chunked_array([column])])
def test_lists_of_one_length_are_not_copied(make):
    column = fixed()
    assert as_matrix(make(column)).data.ctypes.data == column.values.buffers()[1].address


REFUSED = {
    "unequal arrays": (lambda: pd.Series([X[0], X[1, :3]]), r"row 1 of the shape \(3,\), row 0 of \(5,\).*np.stack"),
    "unequal lists": (lambda: pa.array([[1.0], [1.0, 2.0]]), "rows of 1 to 2 numbers"),
    "null": (lambda: pa.array([[1.0], None]), "1 rows and 0 numbers that are null"),
    "text": (lambda: pa.array(["a", "b"]), "a column of string; it must be a column of lists"),
    "objects": (lambda: np.array(["a", None], object), "1 dimensions"),
    "path": (lambda: "a.npy", r"x is 'a\.npy'; it must hold vectors: open a file with geomkit\.io\.read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_columns_that_are_no_matrix(name):
    make, says = REFUSED[name]
    with pytest.raises(InvalidInputError, match=says):
        as_matrix(make())
