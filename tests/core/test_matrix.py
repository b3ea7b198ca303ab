import math
import sys

import ml_dtypes
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
import torch

from geomkit.core.matrix import as_matrix, finite_rows, reject_rows
from geomkit.errors import GeomkitError, InvalidInputError
from geomkit.stats.concentration import concentration
from geomkit.stats.cosine import cosine_similarity, cosine_stats
from geomkit.stats.orthogonality import orthogonality
from tests.bounds import assert_within
from tests.stats.oracle import cosines

PLAIN = np.array([[1.0, 2, 0, 4], [0, 3, 1, 0], [5, 0, 0, 7]])
MEASURES = [cosine_stats, orthogonality, concentration]


class OnlyArray:
    def __init__(self, data):
        self._data = data

    def __array__(self, dtype=None, copy=None):
        return np.array(self._data, dtype=dtype)


class OnlyDlpack:
    def __init__(self, data):
        self._data = data

    def __dlpack__(self, **how):
        return self._data.__dlpack__(**how)

    def __dlpack_device__(self):
        return self._data.__dlpack_device__()


def memory_map(folder):
    path = folder / "rows.bin"
    PLAIN.astype(np.float32).tofile(path)
    return np.memmap(path, np.float32, "r", shape=PLAIN.shape)


def untidy():
    """CSR with unsorted indices, an entry in two parts, and a stored zero."""
    values = np.array([4.0, 1, 2, 1, 1, 2, 0, 7, 5])
    columns = np.array([3, 0, 1, 2, 1, 1, 0, 3, 0])
    return scipy.sparse.csr_array((values, columns, [0, 3, 7, 9]), shape=(3, 4))


NUMBERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"]
SWAPPED = [">f2", ">f4", ">f8", ">i4"]
ACCEPTED = {
    **{f"numpy {each}": lambda _, dtype=each: PLAIN.astype(dtype) for each in (*NUMBERS, *SWAPPED)},
    "ml_dtypes bfloat16": lambda _: PLAIN.astype(ml_dtypes.bfloat16),
    "torch bfloat16": lambda _: torch.tensor(PLAIN, dtype=torch.bfloat16),
    "torch float16": lambda _: torch.tensor(PLAIN, dtype=torch.float16),
    "torch int64": lambda _: torch.tensor(PLAIN, dtype=torch.int64),
    "torch uint8": lambda _: torch.tensor(PLAIN, dtype=torch.uint8),
    "torch with gradient": lambda _: torch.tensor(PLAIN, requires_grad=True),
    "torch transposed": lambda _: torch.tensor(PLAIN.T.copy()).T,
    "torch parameter": lambda _: torch.nn.Parameter(torch.tensor(PLAIN)),
    "memory map": memory_map,
    "lists": lambda _: PLAIN.tolist(),
    "tuples of arrays": lambda _: tuple(PLAIN),
    "data frame": lambda _: pd.DataFrame(PLAIN),
    "masked without masked entries": lambda _: np.ma.masked_array(PLAIN, np.zeros(PLAIN.shape, bool)),
    "only __array__": lambda _: OnlyArray(PLAIN),
    "only __dlpack__": lambda _: OnlyDlpack(PLAIN),
    "only __dlpack__, bfloat16": lambda _: OnlyDlpack(torch.tensor(PLAIN, dtype=torch.bfloat16)),
    "csr array": lambda _: scipy.sparse.csr_array(PLAIN),
    "csr matrix": lambda _: scipy.sparse.csr_matrix(PLAIN),
    "csc array": lambda _: scipy.sparse.csc_array(PLAIN),
    "coo array": lambda _: scipy.sparse.coo_array(PLAIN),
    "lil matrix": lambda _: scipy.sparse.lil_matrix(PLAIN),
    "dok array": lambda _: scipy.sparse.dok_array(PLAIN),
    "csr int64": lambda _: scipy.sparse.csr_array(PLAIN.astype(np.int64)),
    "csr float32": lambda _: scipy.sparse.csr_array(PLAIN.astype(np.float32)),
    "untidy csr": lambda _: untidy(),
    "coo with duplicates": lambda _: scipy.sparse.coo_array(
        (
            np.array([1.0, 2, 4, 3, 1, 2, 3, 7]),
            (np.array([0, 0, 0, 1, 1, 2, 2, 2]), np.array([0, 1, 3, 1, 2, 0, 0, 3])),
        ),
        shape=(3, 4),
    ),
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_accepted(kind, tmp_path):
    x = ACCEPTED[kind](tmp_path)
    matrix = as_matrix(x)
    assert (matrix.n, matrix.d, matrix.n_dropped) == (3, 4, 0)
    block = matrix.block(0, 3)
    assert isinstance(block, np.ndarray)
    assert block.dtype in {np.dtype("float32"), np.dtype("float64")}
    assert np.array_equal(block, PLAIN)
    assert np.array_equal(matrix.block(1, 3), PLAIN[1:])
    for backend in ("cpu", "torch", "reference"):
        found = cosine_stats(x, backend=backend)
        assert_within(found.mean, cosines(PLAIN).mean(), 1e-14)


TRUTHS = PLAIN > 1
IN_MEMORY = {
    "array": lambda: TRUTHS,
    "transposed": lambda: TRUTHS.T.copy().T,
    "tensor": lambda: torch.tensor(TRUTHS.T.copy()).T,
    "lists": TRUTHS.tolist,
    "frame": lambda: pd.DataFrame(TRUTHS),
    "column": lambda: pa.array(TRUTHS.tolist()),
    "csc": lambda: scipy.sparse.csc_array(TRUTHS),
    "twice": lambda: scipy.sparse.csr_array((np.ones(5, bool), [0, 1, 1, 2, 0], [0, 2, 4, 5]), (3, 4)),
}


@pytest.mark.parametrize("kind", IN_MEMORY)
def test_booleans_are_0_and_1(kind):
    want = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0]]) if kind == "twice" else TRUTHS
    matrix = as_matrix(IN_MEMORY[kind]())
    assert matrix.dtype == "uint8"
    np.testing.assert_array_equal(matrix.block(0, 3), want)


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_booleans_are_not_copied(make):
    x = make(TRUTHS)
    data = as_matrix(x).data
    assert data.data_ptr() == x.data_ptr() if make is torch.tensor else np.shares_memory(data, x)


@pytest.mark.parametrize(
    ("dtype", "held"),
    [
        ("float16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
        ("int8", "float32"),
        ("uint16", "float32"),
        ("int32", "float64"),
        ("int64", "float64"),
        ("uint32", "float64"),
    ],
)
def test_blocks_are_as_wide_as_the_stored_values_need(dtype, held):
    for x in (PLAIN.astype(dtype), torch.tensor(PLAIN.astype(dtype))):
        assert as_matrix(x).block(0, 3).dtype == held
    assert as_matrix(PLAIN.astype(ml_dtypes.bfloat16)).block(0, 1).dtype == np.float32
    assert as_matrix(torch.tensor(PLAIN, dtype=torch.bfloat16)).block(0, 1).dtype == np.float32
    exact = np.array([[2**31 - 1, 1], [2**24 + 1, 0]])
    assert np.array_equal(as_matrix(exact.astype("int32")).block(0, 2), exact)


def test_dense_data_are_not_copied():
    x = PLAIN.astype(np.float32)
    assert np.shares_memory(as_matrix(x).data, x)
    assert np.shares_memory(as_matrix(x).block(0, 2), x)
    tensor = torch.tensor(x)
    assert as_matrix(tensor).data.data_ptr() == tensor.data_ptr()


def test_a_sparse_matrix_stays_as_its_owner_keeps_it():
    x = untidy()
    before = x.data.copy(), x.indices.copy(), x.indptr.copy()
    cosine_stats(x)
    concentration(x)
    assert all(np.array_equal(*each) for each in zip(before, (x.data, x.indices, x.indptr), strict=True))


def test_inputs_are_never_written_to():
    for x in (PLAIN.copy(), torch.tensor(PLAIN), PLAIN.astype(np.float32), scipy.sparse.csr_array(PLAIN)):
        for backend in ("cpu", "torch", "reference"):
            cosine_stats(x, backend=backend)
            concentration(x, backend=backend)
        dense = x.toarray() if scipy.sparse.issparse(x) else np.asarray(x)
        assert np.array_equal(dense, PLAIN)


def test_the_longest_row_is_what_a_sum_can_be_made_of():
    assert as_matrix(PLAIN).longest_row == 4
    assert as_matrix(scipy.sparse.csr_array(PLAIN)).longest_row == 3


@pytest.mark.parametrize("make", [np.asarray, torch.tensor, scipy.sparse.csr_array])
def test_rows_left_out(make):
    x = np.arange(1, 21.0).reshape(10, 2)
    matrix = as_matrix(make(x)).without(np.array([0, 4])).without(np.array([7]))
    left = [1, 2, 3, 5, 6, 7, 8]
    assert (matrix.n, matrix.n_dropped) == (7, 3)
    assert np.array_equal(matrix.block(0, 7), x[left])
    assert np.array_equal(matrix.block(2, 4), x[left[2:4]])
    assert list(matrix.blocks(3)) == [(0, 3), (3, 6), (6, 7)]


DTYPES = "float16, bfloat16, float32, float64, integers or booleans"
REFUSED = {
    "one row": (lambda: PLAIN[:1], r"x has 1 row \(shape \(1, 4\)\); it must have at least 2"),
    "no rows": (lambda: PLAIN[:0], r"x has 0 rows \(shape \(0, 4\)\); it must have at least 2"),
    "no columns": (lambda: PLAIN[:, :0], r"x has no columns \(shape \(3, 0\)\); it must have at least 1"),
    "one-dimensional": (lambda: PLAIN[0], r"x has 1 dimensions \(shape \(4,\)\); it must be a matrix"),
    "three-dimensional": (lambda: PLAIN[None], r"x has 3 dimensions \(shape \(1, 3, 4\)\); it must be a matrix"),
    "a number": (lambda: np.float64(3), r"x has 0 dimensions \(shape \(\)\); it must be a matrix"),
    "none": (lambda: None, r"x has 0 dimensions \(shape \(\)\); it must be a matrix"),
    "empty list": (list, r"x has 1 dimensions \(shape \(0,\)\); it must be a matrix"),
    "objects": (lambda: PLAIN.astype(object), f"x has dtype object; it must be {DTYPES}"),
    "mixed frame": (lambda: pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), "x has columns that are not all of numbers"),
    "strings": (lambda: [["a", "b"], ["c", "d"]], f"x has dtype <U1; it must be {DTYPES}"),
    "complex": (lambda: PLAIN * 1j, f"x has dtype complex128; it must be {DTYPES}"),
    "longdouble": (lambda: PLAIN.astype(np.longdouble), f"x has dtype float128; it must be {DTYPES}"),
    "dates": (lambda: np.zeros((3, 2), "M8[s]"), rf"x has dtype datetime64\[s\]; it must be {DTYPES}"),
    "float8": (lambda: PLAIN.astype(ml_dtypes.float8_e4m3fn), f"x has dtype float8_e4m3fn; it must be {DTYPES}"),
    "ragged": (
        lambda: [[1, 2], [3]],
        "x must be a matrix of numbers with rows of equal length; list could not be read",
    ),
    "masked": (
        lambda: np.ma.masked_array(PLAIN, PLAIN == 7),
        "x has 1 masked entries, which have no value; fill or drop them",
    ),
    "sparse tensor": (
        lambda: torch.tensor(PLAIN).to_sparse(),
        "x is a torch tensor of layout torch.sparse_coo; it must be dense",
    ),
    "meta tensor": (lambda: torch.empty(3, 4, device="meta"), "x is a torch tensor on the meta device"),
    "torch vector": (lambda: torch.ones(4), r"x has 1 dimensions \(shape \(4,\)\); it must be a matrix"),
    "torch complex": (lambda: torch.ones(3, 4) * 1j, f"x has dtype torch.complex64; it must be {DTYPES}"),
    "torch float8": (
        lambda: torch.ones(3, 4).to(torch.float8_e4m3fn),
        f"x has dtype torch.float8_e4m3fn; it must be {DTYPES}",
    ),
    "sparse vector": (lambda: scipy.sparse.coo_array(PLAIN[0]), r"x has 1 dimensions \(shape \(4,\)\)"),
    "sparse row": (lambda: scipy.sparse.csr_array(PLAIN[:1]), r"x has 1 row \(shape \(1, 4\)\)"),
    "sparse complex": (lambda: scipy.sparse.csr_array(PLAIN * 1j), f"x has dtype complex128; it must be {DTYPES}"),
    "string": (lambda: "text", r"x is 'text'; it must hold vectors: open a file"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind):
    make, message = REFUSED[kind]
    for measure in MEASURES:
        with pytest.raises(GeomkitError, match=message):
            measure(make())
    with pytest.raises(InvalidInputError, match=message.replace("x ", "z ", 1)):
        as_matrix(make(), name="z")


class Unreadable:
    def __dlpack__(self, **_how):
        raise BufferError("no")  # noqa: EM101

    def __dlpack_device__(self):
        return (1, 0)


def test_what_dlpack_cannot_read_is_refused():
    with pytest.raises(InvalidInputError, match=r"x \(Unreadable\) could not be read through DLPack: no"):
        as_matrix(Unreadable())


def test_what_torch_is_needed_for_is_refused_without_it(monkeypatch):
    x = OnlyDlpack(torch.tensor(PLAIN, dtype=torch.bfloat16))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InvalidInputError, match=r"x \(OnlyDlpack\) could not be read through DLPack"):
        as_matrix(x)


def spoilt(layout, rows, value):
    x = np.arange(1.0, 401.0).reshape(100, 4)
    x[rows, 2] = value
    return {"numpy": np.asarray, "torch": torch.tensor, "sparse": scipy.sparse.csr_array}[layout](x)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("layout", ["numpy", "torch", "sparse"])
@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
def test_rows_that_are_not_finite(layout, backend, value):
    x = spoilt(layout, [17, 40, 41, 99], value)
    message = r'x has 4 rows \(first: 17, 40, 41\) that are not finite; drop them with on_invalid="drop"'
    for measure in MEASURES:
        with pytest.raises(InvalidInputError, match=message):
            measure(x, backend=backend)
        assert measure(x, backend=backend, on_invalid="drop").n_dropped == 4
        assert measure(x, backend=backend, on_invalid="drop").n == 96


@pytest.mark.parametrize("layout", ["numpy", "torch", "sparse"])
@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
def test_rows_without_direction(layout, backend):
    x = np.array([[0.0, 0], [1, 2], [0, 0], [3, 4]])
    x = {"numpy": np.asarray, "torch": torch.tensor, "sparse": scipy.sparse.csr_array}[layout](x)
    message = r"x has 2 rows \(first: 0, 2\) that are zero and have no direction; drop them"
    for measure in (cosine_stats, orthogonality):
        with pytest.raises(InvalidInputError, match=message):
            measure(x, backend=backend)
        assert measure(x, backend=backend, on_invalid="drop").n_dropped == 2
    assert concentration(x, backend=backend).n_dropped == 0


def test_too_few_rows_left_to_measure():
    x = PLAIN.copy()
    x[:2, 1] = math.nan
    for measure in MEASURES:
        with pytest.raises(
            InvalidInputError, match=r"x has 1 rows left after dropping 2 rows .*; it must have at least 2"
        ):
            measure(x, on_invalid="drop")
    with pytest.raises(InvalidInputError, match="x has 0 rows left after dropping 3 rows"):
        cosine_stats(x * math.nan, on_invalid="drop")


@pytest.mark.parametrize("measure", MEASURES)
def test_arguments_that_are_no_choice(measure):
    with pytest.raises(InvalidInputError, match=r"on_invalid must be one of \['raise', 'drop'\]; got 'ignore'"):
        measure(PLAIN, on_invalid="ignore")
    with pytest.raises(InvalidInputError, match=r"precision must be one of \[.*'float32', 'float64'\]; got 'half'"):
        measure(PLAIN, precision="half")
    with pytest.raises(InvalidInputError, match=r"backend must be 'auto' or one of \[.*'torch'.*\]; got 'gpu'"):
        measure(PLAIN, backend="gpu")
    for threads in (0, -1, 1.5, True, "2"):
        with pytest.raises(InvalidInputError, match="threads must be a whole number of at least 1, or None; got"):
            measure(PLAIN, threads=threads)


def test_precision_and_backend_of_the_matrix():
    with pytest.raises(InvalidInputError, match=r"precision must be one of"):
        cosine_similarity(PLAIN, precision="half")
    with pytest.raises(InvalidInputError, match=r"backend must be 'auto' or one of"):
        cosine_similarity(PLAIN, backend="half")


def test_no_bad_rows_leave_the_matrix_as_it_is():
    matrix = as_matrix(PLAIN)
    assert reject_rows(matrix, np.zeros(3, bool), "are bad", "raise", 2) is matrix


def test_finite_rows_are_dense_and_wide():
    rows = finite_rows(np.array([[1, 2], [3, 4]], np.float16))
    assert rows.dtype == np.float64
    assert rows.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(InvalidInputError, match=r"^table has 2 rows \(first: 0, 2\) that are not finite; drop those"):
        finite_rows([[np.nan, 1], [1, 1], [1, -np.inf]], name="table")
    with pytest.raises(InvalidInputError, match=r"table has 1 row .* must have at least 2"):
        finite_rows([[1.0, 1]], name="table", min_rows=2)
