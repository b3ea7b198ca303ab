"""Files that are not what they should be are refused in one line that names them, and cost no memory."""

import io
import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from scipy import sparse

from geomkit.errors import InvalidInputError
from geomkit.io import files
from geomkit.io.files import columnar
from tests.io.files import samples
from tests.io.files.samples import SAMPLES, X, arrow, hdf5, parquet, text


def refused(path, *says, **how):
    """Read a file that must be refused, and return what is said."""
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError) as caught:
            files.read(path, **how)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    for each in says:
        assert each in message
    assert peak < 32e6
    return message


def npy_header(shape, descr="<f4", body=b""):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + body


FIRSTS = list({sample.format: sample for sample in SAMPLES}.values())
"""One sample of each format."""


@pytest.mark.parametrize("sample", FIRSTS, ids=lambda sample: sample.format)
def test_truncated_files(sample, tmp_path):
    path = sample.at(tmp_path)
    whole = path.read_bytes()
    for share in (0.02, 0.3, 0.6, 0.9):
        path.write_bytes(whole[: max(1, int(len(whole) * share))])
        try:
            got = files.read(path)
        except InvalidInputError as why:
            message = str(why)
        else:
            # A text cut within its last row, or rows cut between two, are shorter files; nothing else may pass.
            assert sample.format in {"csv", "tsv", "glove", "fvecs", "bvecs", "ivecs"}
            assert len(got.vectors) <= share * len(X) + 1
            continue
        assert str(path) in message


@pytest.mark.parametrize("sample", FIRSTS, ids=lambda sample: sample.format)
@pytest.mark.parametrize("content", [b"<!DOCTYPE html>\n<html>\n", b"\xff\xfe\x00\x01" * 20, b"\0" * 64, b"\n \n"])
def test_something_else_altogether(sample, content, tmp_path):
    path = tmp_path / sample.file
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("sample", FIRSTS, ids=lambda sample: sample.format)
def test_what_is_no_file(sample, tmp_path):
    path = tmp_path / sample.file
    refused(path, "No such file", "must be a file")
    path.mkdir()
    refused(path, "it is a folder; it must be a file")
    path.rmdir()
    path.touch()
    refused(path, "it is empty")
    path.unlink()
    os.mkfifo(path)
    refused(path, "not a regular file")


@pytest.mark.parametrize(("path", "says"), [(None, "path must be"), (3.5, "path must be"), ("a\0b.npy", "cannot be")])
def test_what_is_no_path(path, says):
    with pytest.raises(InvalidInputError, match=says):
        files.read(path)


def test_unknown_suffixes_are_told_the_known(tmp_path):
    for name in ("a.xyz", "a", "a.npy.gz", "a.gz"):
        (tmp_path / name).write_bytes(b"x")
        message = refused(tmp_path / name, "its suffix is", ".parquet", ".csv, .json, .jsonl")
    assert all(suffix in message for row in files.FORMATS.values() for suffix in row.suffixes)


def test_key_and_labels_where_there_are_none(tmp_path):
    np.save(tmp_path / "a.npy", X)
    refused(tmp_path / "a.npy", "key is 'x', but npy files have nothing by name", key="x")
    refused(tmp_path / "a.npy", "labels is 'x', but npy files have nothing by name", labels="x")
    np.savez(tmp_path / "a.npz", X)
    with pytest.raises(InvalidInputError, match="key must be text; got 3"):
        files.read(tmp_path / "a.npz", key=3)


NPY = {
    "pickle": (pickle.dumps(X), ["starts with", "as no npy file does"]),
    "objects": (npy_header((2,), "|O", pickle.dumps([1, 2])), ["Python objects", "pickle"]),
    "billion": (npy_header((10**9, 10**6), body=bytes(80)), ["claims the shape (1000000000, 1000000)", "truncated"]),
    "beyond": (npy_header((2**62, 2**62)), ["claims the shape"]),
    "longer": (npy_header((2, 5), body=bytes(44)), ["holds 44"]),
    "vector": (npy_header((10,), body=bytes(40)), ["shape (10,)", "must be a matrix"]),
    "cube": (npy_header((2, 5, 1), body=bytes(40)), ["shape (2, 5, 1)", "must be a matrix"]),
    "empty": (npy_header((0, 5)), ["shape (0, 5)", "at least 1 x 1"]),
    "narrow": (npy_header((5, 0)), ["shape (5, 0)", "at least 1 x 1"]),
    "text": (npy_header((1, 2), "<U1", bytes(8)), ["<U1", "must be a matrix of numbers"]),
    "long": (npy_header((1, 2), "<f16", bytes(32)), ["has dtype", "it must be float16"]),
    "complex": (npy_header((1, 2), "<c8", bytes(16)), ["complex64", "must be a matrix of numbers"]),
    "negative": (npy_header((-1, -2), body=bytes(8)), ["no side may be negative"]),
    "header": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", ["header of 4,294,967,295 bytes"]),
    "version": (b"\x93NUMPY\x09\x00\x10\x00" + b" " * 30, ["version 1, 2 or 3"]),
    "nothing": (b"\x93NUMPY\x01\x00\x00\x00\x00\x00\x00", ["numpy cannot read it"]),
}


@pytest.mark.parametrize("case", NPY)
def test_npy(case, tmp_path):
    content, says = NPY[case]
    (tmp_path / "a.npy").write_bytes(content)
    refused(tmp_path / "a.npy", *says)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    message = refused(tmp_path / "a.npz")
    assert any(says[-1] in each for each in (message, "as no npy file does")) or case == "pickle"


def test_npz_chooses_only_what_is_named(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=X, b=X, row=X[0], y=np.arange(3))
    refused(path, "2 things in it are a matrix of numbers", "key must be one of ['a', 'b']")
    refused(path, "it has no 'c'", "['a', 'b']", key="c")
    refused(path, "'row' is not a matrix of numbers", key="row")
    refused(path, "it has no 'z'; labels must name", "['row', 'y']", key="a", labels="z")
    refused(path, "'b' is not a one-dimensional array", key="a", labels="b")
    refused(path, "array 'y' has 3 labels for 7 rows", key="a", labels="y")
    np.savez(path, row=X[0])
    refused(path, "'row' is of float32 and has the shape (5,); it must be a matrix")
    np.savez(path, row=X[0], other=X[0])
    refused(path, "nothing in it is a matrix of numbers; it has ['row', 'other']")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.md", "x")
    refused(path, "it has no arrays")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", npy_header((1, 1), body=bytes(4)))
    refused(path, "must be stored or deflated")


def test_npz_bombs(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros((20_000, 1_000), np.float32))
    refused(path, "'x' has shape", "at most 200 times that")
    np.savez_compressed(path, x=np.zeros((2_000, 1_000), np.float32))
    assert files.read(path).vectors.shape == (2_000, 1_000)
    np.savez_compressed(path, x=X)
    whole = path.read_bytes()
    place = whole.rindex(b"PK\x01\x02") + 24
    path.write_bytes(whole[:place] + struct.pack("<I", 2 * 10**9) + whole[place + 4 :])
    refused(path, "claims 2,000,000,000 bytes", "it is damaged")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"indices": np.int32([0, 99])}, "scipy cannot read it"),
        ({"indices": np.int32([0, -1])}, "scipy cannot read it"),
        ({"indptr": np.int32([0, 9, 2])}, "scipy cannot read it"),
        ({"shape": np.int64([10**12, 3])}, "where its rows start has shape"),
        ({"shape": np.int64([2])}, "at least 1 row"),
        ({"shape": np.int64([0, 3])}, "at least 1 row"),
        ({"format": np.array("dia")}, "of format 'dia'; it must be csr, csc or coo"),
        ({"format": np.array(3)}, "not the name of a sparse format"),
        ({"data": np.array(["a", "b"])}, "must be numbers"),
        ({"indptr": None}, "without ['indptr']"),
    ],
)
@pytest.mark.parametrize("kind", ["csr", "csc"])
def test_sparse(kind, change, says, tmp_path):
    x = sparse.csr_array(np.float32([[1, 0, 0], [0, 0, 2]])).asformat(kind)
    parts = {"indices": x.indices, "indptr": x.indptr, "data": x.data, "shape": np.int64(x.shape), "format": kind}
    np.savez(tmp_path / "a.npz", **{name: part for name, part in (parts | change).items() if part is not None})
    refused(tmp_path / "a.npz", says)


TABLES = {
    "unequal": ({"v": [[1.0, 2], [3.0]]}, {}, ["row 1 of 'v' has 1 numbers, row 0 has 2"]),
    "null list": ({"v": [[1.0, 2], None]}, {}, ["row 1 of 'v' is null"]),
    "null number": ({"v": [[1.0, 2], [3.0, None]]}, {}, ["row 1 of 'v' has a null among its numbers"]),
    "no numbers": ({"v": pa.array([[], []], pa.list_(pa.float32()))}, {}, ["row 0 of 'v' has 0 numbers", "at least 1"]),
    "null column": ({"a": [1.0, None], "b": [1.0, 2]}, {}, ["row 1 of 'a' is null"]),
    "text": ({"a": ["1", "2"]}, {}, ["nothing in it is a column of lists of numbers", "['a']"]),
    "text lists": ({"a": [["1"], ["2"]]}, {}, ["nothing in it is a column of lists of numbers"]),
    "two": ({"v": [[1.0]], "w": [[1.0]]}, {}, ["2 things in it are a column of lists", "['v', 'w']"]),
    "no key": ({"v": [[1.0]]}, {"key": "w"}, ["it has no 'w'", "['v']"]),
    "flat key": ({"v": [[1.0]], "w": [1.0]}, {"key": "w"}, ["'w' is not a column of lists of numbers"]),
    "no label": ({"v": [[1.0]]}, {"labels": "y"}, ["it has no column 'y'; labels must name one of ['v']"]),
    "null label": ({"v": [[1.0], [2]], "y": ["a", None]}, {"labels": "y"}, ["column 'y' of row 1 is missing"]),
    "list label": ({"v": [[1.0]], "y": [["a"]]}, {"labels": "y"}, ["labels must be text or numbers"]),
    "no rows": ({"v": pa.array([], pa.list_(pa.float32()))}, {}, ["it has no rows"]),
}


@pytest.mark.parametrize("write", [parquet, arrow], ids=["parquet", "arrow"])
@pytest.mark.parametrize("case", TABLES)
def test_columns(case, write, tmp_path):
    columns, how, says = TABLES[case]
    path = tmp_path / f"a.{write.__name__}"
    write(pa.table(columns), path)
    refused(path, *says, **how)


@pytest.mark.parametrize("write", [parquet, arrow], ids=["parquet", "arrow"])
def test_columns_of_one_name(write, tmp_path):
    path = tmp_path / f"a.{write.__name__}"
    write(pa.table([pa.array([1.0]), pa.array([2.0])], names=["a", "a"]), path)
    refused(path, "not unique")


def test_text_of_arrow_that_points_beyond_the_file(tmp_path):
    arrow(pa.table({"v": [[1.0], [2.0], [3.0]], "y": ["ab", "cde", "f"]}), tmp_path / "a.arrow")
    whole = (tmp_path / "a.arrow").read_bytes()
    offsets = struct.pack("<4i", 0, 2, 5, 6)
    assert whole.count(offsets) == 1
    (tmp_path / "a.arrow").write_bytes(whole.replace(offsets, struct.pack("<4i", 0, 2, 10**6, 6)))
    refused(tmp_path / "a.arrow", "pyarrow cannot read it", labels="y")


@pytest.mark.parametrize("n", [3, 5, 7])
def test_tables_of_more_or_fewer_rows_than_they_say(n, tmp_path):
    parquet(pa.table({"v": [[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]]}), tmp_path / "a.parquet")
    choice = columnar.Choice(["v"], True, np.dtype(np.float64), None, "")
    with pq.ParquetFile(tmp_path / "a.parquet") as file, pytest.raises(InvalidInputError, match="it says that it has"):
        columnar._opened(tmp_path / "a.parquet", pa, file.iter_batches(batch_size=3), choice, "parquet", n)


def test_lists_that_differ_between_batches(tmp_path):
    table = pa.table({"v": [[1.0, 2], [3.0, 4], [5.0], [6.0]]})
    arrow(table, tmp_path / "a.arrow", rows=2)
    refused(tmp_path / "a.arrow", "row 2 of 'v' has 1 numbers, rows before 2")


def test_compressed_tables_that_would_fill_memory(tmp_path):
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(20_000_000, np.float32)), 1_000)
    parquet(pa.table({"v": column}), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", "what it says it holds has shape (20000, 1000)", "200 times")
    arrow(pa.table({"v": column}), tmp_path / "a.arrow", compression="zstd", rows=2_000)
    refused(tmp_path / "a.arrow", "its numbers has shape", "200 times")


LINES = {
    "a.jsonl": {
        "[1, 2]\n[3]\n": ["line 2 has 1 numbers; rows before have 2"],
        "[1, 2]\n[3, null]\n": ["line 2 has None among its numbers"],
        '[1, 2]\n[3, "4"]\n': ["line 2 has '4' among its numbers"],
        "[1, 2]\n[3, true]\n": ["line 2 has True among its numbers"],
        "[1, 2]\n\n[3\n": ["line 3 is not JSON"],
        "[1, 2]\n7\n": ["line 2 is 7; it must be a list of numbers"],
        "[]\n": ["line 1 has 0 numbers", "at least 1"],
        '[1, 2]\n{"v": [1, 2]}\n': ["line 2 is an object, but lines before are lists"],
        '{"v": [1]}\n[1]\n': ["line 2 is not an object, but lines before are"],
        '{"v": [1], "w": [1]}\n': ["2 things in it are a list of numbers", "['v', 'w']"],
        '{"v": "1"}\n': ["nothing in it is a list of numbers; it has ['v']"],
        '{"v": [1]}\n{"w": [1]}\n': ["2 things in it are a list of numbers", "['v', 'w']"],
        '{"v": [1]}\n{"v": null}\n': ["field 'v' of line 2 is missing or null"],
        "[" * 100_000: ["line 1 is not JSON"],
        "[" + "9" * 5_000 + "]": ["line 1 is not JSON"],
        "[" + "9" * 400 + "]": ["beyond float64"],
        "\n\n": ["it has no rows"],
        "[1, 2]\n\udcff\n": ["line 2 is not UTF-8"],
    },
    "a.csv": {
        "u,v\n1,2\n3\n": ["pyarrow cannot read it", "Expected 2 columns, got 1"],
        "u,v\n1,2\n3,x\n": ["pyarrow cannot read it", "'x'"],
        "u,v\n1,2\n3,\n": ["row 1 has nothing in column 'v'"],
        "1,2\n,3\n": ["row 1 has nothing in column 1"],
        "1.5,x\n2,3\n": ["its first row has 'x' among its numbers"],
        "5,x\n2,3\n": ["its first row has 'x' among its numbers"],
        "a,b\nc,d\n": ["['c', 'd'] has no numbers"],
        "u,v\n": ["a header ['u', 'v'] and no rows"],
        "u,v\n1,2,3\n": ["its header has 2 columns, but its first row 3"],
        "1;2\n3;4\n": ["no numbers between ','"],
        "\n\n": ["it has no rows"],
        '"u,v\n1,2\n': ["cannot be read as ','-separated values"],
        "u,v\udcff\n1,2\n": ["not UTF-8"],
        "u,v\n1,2\n1_0,2\n": ["pyarrow cannot read it"],
    },
    "a.txt": {
        "2 3\na 1 2 3\n": ["says 2 rows of 3, but 1 follow"],
        "1 3\na 1 2 3\nb 1 2 3\n": ["says 1 rows of 3, but 2 follow"],
        "999999999 999999999\na 1 2 3\n": ["line 2 has 3 numbers after its word; it must have 999999999"],
        "1 0\na\n": ["line 2 has 0 numbers"],
        "0 3\n": ["it has no rows"],
        "a 1 2 3\nb 1 2\n": ["line 2 has 2 numbers after its word; it must have 3"],
        "a 1 2 3\nb 1 2 3 4\n": ["line 2 has more than 3 numbers after its word b'b'"],
        "a 1 2 3\nb 1 x 3\n": ["line 2 has 'x' among its numbers"],
        "a 1 2 3\nb 1 1_0 3\n": ["line 2 has '1_0' among its numbers"],
        "a 1 2 3\nb 1 1e39 3\n": ["row 1 has 1e+39", "range of float32"],
        "a 1 2 3\nb\udcff 1 2 3\n": ["the word of line 2 is not UTF-8"],
        "word\n": ["line 1 has 0 numbers"],
        "\n\n": ["it has no rows"],
    },
}


@pytest.mark.parametrize(("file", "content"), [(file, content) for file in LINES for content in LINES[file]])
def test_text(file, content, tmp_path):
    path = tmp_path / file
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    message = refused(path)
    for says in LINES[file][content]:
        assert says in message


@pytest.mark.parametrize("file", ["a.jsonl", "a.csv", "a.tsv", "a.parquet", "a.h5", "a.npz", "a.safetensors"])
def test_labels_that_are_not_there(file, tmp_path):
    write = {
        "a.jsonl": lambda p: text('{"v": [1], "y": "a"}\n{"v": [1]}\n', p),
        "a.csv": lambda p: text("u,v\n1,2\n", p),
        "a.tsv": lambda p: text("1\t2\n", p),
        "a.parquet": lambda p: parquet(samples.flat(), p),
        "a.h5": hdf5,
        "a.npz": lambda p: np.savez(p, X),
        "a.safetensors": lambda p: safetensors.numpy.save_file({"x": X}, p),
    }
    write[file](tmp_path / file)
    refused(tmp_path / file, "labels must name" if file != "a.jsonl" else "line 2 has no field 'y'", labels="y")


@pytest.mark.parametrize("label", ["null", "[1]", '{"a": 1}'])
def test_labels_that_are_none(label, tmp_path):
    text(f'{{"v": [1], "y": {label}}}\n', tmp_path / "a.jsonl")
    refused(tmp_path / "a.jsonl", labels="y")


def test_empty_labels_of_csv(tmp_path):
    text("y,v\na,1\n,2\n", tmp_path / "a.csv")
    refused(tmp_path / "a.csv", "row 1 has nothing in column 'y'", labels="y")


@pytest.mark.parametrize("file", ["a.jsonl.gz", "a.csv.gz", "a.txt.gz"])
def test_gzip(file, tmp_path):
    path = tmp_path / file
    path.write_bytes(b"1,2\n")
    refused(path, "gzip cannot read it")
    sample = {"a.jsonl.gz": "[1, 2]\n", "a.csv.gz": "1,2\n", "a.txt.gz": "a 1 2\n"}[file]
    samples.zipped(sample * 1000, path)
    path.write_bytes(path.read_bytes()[:-9])
    refused(path, "gzip cannot read it")


def test_gzip_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr("geomkit.io.files.refusals.FREE", 1 << 16)
    for file, content in (
        ("a.jsonl.gz", "[" + " " * (1 << 18)),
        ("a.csv.gz", "0," * (1 << 17)),
        ("a.txt.gz", "a 1\n" * (1 << 16)),
    ):
        samples.zipped(content, tmp_path / file)
        refused(tmp_path / file, "more than 200 times its size")
