"""Columns of vectors in memory are measured as the matrix that they hold, where they lie."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from gensim.models import KeyedVectors

import geomkit
from geomkit.core.frames import row_names
from geomkit.core.matrix import as_matrix
from geomkit.errors import InvalidInputError

X = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)


def fixed(x=X):
    return pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])


def keyed():
    made = KeyedVectors(5)
    made.add_vectors([f"w{at}" for at in range(7)], X)
    return made


class Offer:
    """A column as polars has it: nothing but Arrow's PyCapsule interface."""

    def __init__(self, held):
        self.held = held

    def __arrow_c_stream__(self, requested_schema=None):
        return self.held.__arrow_c_stream__(requested_schema)


class OfferedFrame(Offer):
    @property
    def columns(self):
        return self.held.column_names


def named(module, name, **members):
    """An object of a class of a library that need not be installed."""
    return type(name, (), {"__module__": module, **members})()


def dataset(table, kind="numpy"):
    """What `datasets` offers of a table: rows in a format of the caller's, or as Arrow."""
    inner = {"format": {"type": kind}, "with_format": lambda _, name: {"arrow": table}[name]}
    return named("datasets.arrow_dataset", "Dataset", column_names=table.column_names, **inner)


def column_of(source, rows=()):
    members = {"__iter__": lambda _: iter(rows), "__len__": lambda _: len(rows)}
    return named("datasets.arrow_dataset", "Column", source=source, column_name="e", **members)


def words(rows=(4, 1, 4, 2)):
    """Vectors of words of spaCy: room for 9, of which some have words, one of them two."""
    data = np.zeros((9, 5), np.float32)
    data[list(rows)] = X[: len(rows)]
    vectors = named("spacy.vectors", "Vectors", data=data, mode="default", key2row=dict(enumerate(rows)))
    return named("spacy.vocab", "Vocab", vectors=vectors, strings=[f"w{at}" for at in range(9)])


HELD = {
    "offered column": lambda: Offer(pa.chunked_array([fixed()])),
    "offered frame of one column": lambda: OfferedFrame(pa.table({"e": fixed()})),
    "offered frame of numbers": lambda: OfferedFrame(pa.table({f"c{at}": X[:, at] for at in range(5)})),
    "dataset": lambda: dataset(pa.table({"e": fixed()})),
    "column of a dataset": lambda: column_of(dataset(pa.table({"id": range(7), "e": fixed()}))),
    "column with a transform": lambda: column_of(dataset(pa.table({"e": fixed(-X)}), "custom"), X.tolist()),
    "field of a column": lambda: column_of(named("datasets.arrow_dataset", "Column"), X.tolist()),
    "spaCy": lambda: words((0, 1, 2, 3, 5, 7, 8)),
    "spaCy vectors": lambda: words((0, 1, 2, 3, 5, 7, 8)).vectors,
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


MADE = {
    "array": lambda column: column,
    "chunk": lambda column: pa.chunked_array([column]),
    "offered": lambda column: Offer(pa.chunked_array([column])),
    "offered frame": lambda column: OfferedFrame(pa.table({"e": column})),
    "column of a dataset": lambda column: column_of(dataset(pa.table({"e": column}))),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_lists_of_one_length_are_not_copied(make):
    column = fixed()
    assert as_matrix(make(column)).data.ctypes.data == column.values.buffers()[1].address


def test_frames_of_numbers_and_words_are_not_copied():
    frame, full = pd.DataFrame(X), words(range(9)[:7])
    full.vectors.data = full.vectors.data[:7]
    assert np.shares_memory(as_matrix(frame).data, frame.to_numpy())
    assert as_matrix(full).data is full.vectors.data
    assert as_matrix(keyed_once := keyed()).data is keyed_once.vectors


def test_rows_of_no_word_are_none():
    np.testing.assert_array_equal(as_matrix(words()).data, X[[1, 3, 2]])
    assert row_names(words()) == ["w1", "w3", "w0"]


def test_names_of_rows():
    frame = pd.DataFrame(X)
    assert row_names(keyed()) == [f"w{at}" for at in range(7)]
    assert row_names(frame) is row_names(X) is row_names(words().vectors) is None
    assert list(row_names(frame[2:4])) == [2, 3]
    assert list(row_names(frame.set_index(pd.Index(list("abcdefg")))[0])) == list("abcdefg")


MIXED = r"x has columns that are not all of numbers \('id', 'e'\); pass the one of vectors, such as x\['e'\]"
REFUSED = {
    "mixed frame": (lambda: pd.DataFrame({"id": range(7), "e": list(X)}), MIXED),
    "mixed table": (lambda: pa.table({"id": range(7), "e": fixed()}), MIXED),
    "mixed offer": (lambda: OfferedFrame(pa.table({"id": list("abcdefg"), "e": fixed()})), MIXED),
    "mixed dataset": (lambda: dataset(pa.table({"id": range(7), "e": fixed()})), MIXED),
    "lists of lists": (lambda: pa.array([[[1.0, 2.0]], [[3.0, 4.0]]]), "must be a column of lists of numbers"),
    "no words": (lambda: words(()), r"x has no vector of a word \(default vectors\)"),
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
