"""What in a table is the vectors: the right matrix, or a refusal that says why, never a column that is left over."""

import base64
import decimal
import json
import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from geomkit.errors import InvalidInputError
from geomkit.io import files
from tests.io.files.samples import X, arrow, parquet, text

N, D = X.shape
IDS = list(range(1, N + 1))
WIDE = {f"dim_{at}": X[:, at] for at in range(D)}


def decimals():
    return pa.array([[decimal.Decimal(f"{value:.4f}") for value in row] for row in X])


def cast(kind):
    return pa.array([row.tolist() for row in X], kind)


READ = {
    "text": lambda: pa.array([str(row.tolist()) for row in X.astype(float)]),
    "text with braces": lambda: pa.array(["{" + ",".join(map(repr, row)) + "}" for row in X.astype(float).tolist()]),
    "text by NumPy": lambda: pa.array([np.array2string(row.astype(float), floatmode="unique") for row in X]),
    "large text": lambda: pa.array([str(row.tolist()) for row in X.astype(float)], pa.large_string()),
    "text in a dictionary": lambda: pa.array([str(row.tolist()) for row in X.astype(float)]).dictionary_encode(),
    "fixed-shape tensor": lambda: pa.FixedShapeTensorArray.from_numpy_ndarray(X),
    "tensor of one row": lambda: pa.FixedShapeTensorArray.from_numpy_ndarray(X[:, None]),
    "list of one list": lambda: pa.array([[row.tolist()] for row in X], pa.list_(pa.list_(pa.float32()))),
    "large lists": lambda: cast(pa.large_list(pa.float32())),
}
REFUSED = {
    "bytes": (lambda: pa.array([row.tobytes() for row in X]), "of bytes, .*dtype='float32'"),
    "bytes of one length": (lambda: pa.array([row.tobytes() for row in X], pa.binary(4 * D)), "of bytes, .*dtype"),
    "base64": (lambda: pa.array([base64.b64encode(row.tobytes() * 3).decode() for row in X]), "bytes in base64"),
    "decimals": (decimals, r"of list<.*decimal128.*cast it to float64"),
    "booleans": (lambda: pa.array([(row > 0).tolist() for row in X]), "of list<.*bool>.*read it with bits"),
    "struct": (lambda: pa.array([{"values": row.tolist()} for row in X]), r"key='embedding\.values'"),
    "structs in lists": (lambda: pa.array([[{"v": row.tolist()}] for row in X]), r"key='embedding\.0\.v'"),
    "numbers of a struct": (lambda: pa.array([dict(zip("abcde", row.tolist(), strict=True)) for row in X]), "nested"),
    "matrices": (lambda: pa.array([[row.tolist()] * 2 for row in X]), "of matrices or tensors"),
    "tensors": (lambda: pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack([X, X], 1)), r"tensors .*\[2, 5\]"),
    "text by NumPy's scalars": (lambda: pa.array([str(list(row)) for row in X]), "np.float32"),
    "shortened text": (lambda: pa.array(["[0.1 0.2 ... 0.9]"] * N), "NumPy shortened"),
    "text without brackets": (lambda: pa.array(["0.1 0.2 0.3"] * N), r"text such as '0\.1 0\.2 0\.3'"),
    "text of JSON": (lambda: pa.array([json.dumps({"v": row.tolist()}) for row in X]), "text such as"),
}


@pytest.mark.parametrize("write", [parquet, arrow], ids=["parquet", "arrow"])
@pytest.mark.parametrize("beside", ["ids before", "ids behind", "alone"])
@pytest.mark.parametrize("form", READ)
def test_columns_of_vectors_beside_ids_are_read(form, beside, write, tmp_path):
    columns = {"id": IDS, "embedding": READ[form](), "title": [f"{at}." for at in IDS]}
    if beside == "ids behind":
        columns = dict(reversed(columns.items()))
    table = pa.table({"embedding": columns["embedding"]} if beside == "alone" else columns)
    write(table, tmp_path / f"a.{write.__name__}")
    opened = files.read(tmp_path / f"a.{write.__name__}")
    np.testing.assert_array_equal(opened.vectors, X)
    assert opened.columns == ["embedding"]
    assert opened.read["left_out"] == [name for name in table.column_names if name != "embedding"]


@pytest.mark.parametrize("write", [parquet, arrow], ids=["parquet", "arrow"])
@pytest.mark.parametrize("form", REFUSED)
def test_columns_that_look_like_vectors_are_refused_by_their_form(form, write, tmp_path):
    make, says = REFUSED[form]
    path = tmp_path / f"a.{write.__name__}"
    write(pa.table({"id": IDS, "score": X[:, 0], "embedding": make()}), path)
    with pytest.raises(InvalidInputError, match=rf"'embedding' is .*{says}"):
        files.read(path)
    # The same beside a column that is read: which is meant is not clear.
    write(pa.table({"tokens": [[1, 2]] * N, "embedding": make()}), path)
    if form != "numbers of a struct":
        with pytest.raises(InvalidInputError, match="'embedding'"):
            files.read(path)
    np.testing.assert_array_equal(files.read(path, exclude="embedding").vectors, [[1, 2]] * N)


def test_list_views_of_arrow(tmp_path):
    arrow(pa.table({"id": IDS, "embedding": cast(pa.list_view(pa.float32()))}), tmp_path / "a.arrow")
    np.testing.assert_array_equal(files.read(tmp_path / "a.arrow").vectors, X)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8"])
def test_bytes_are_read_as_what_is_said(tmp_path, dtype):
    x = (X * 9).astype(dtype)
    parquet(pa.table({"id": IDS, "embedding": [row.tobytes() for row in x]}), tmp_path / "a.parquet")
    opened = files.read(tmp_path / "a.parquet", dtype=dtype)
    np.testing.assert_array_equal(opened.vectors, x)
    assert opened.vectors.dtype == dtype
    with pytest.raises(InvalidInputError, match="dtype must be one of"):
        files.read(tmp_path / "a.parquet", dtype="pickle")
    parquet(pa.table({"embedding": [b"1234", b"123"]}), tmp_path / "a.parquet")
    with pytest.raises(InvalidInputError, match=r"nothing in it is|has 3 bytes"):
        files.read(tmp_path / "a.parquet", dtype="float16")


def test_bits(tmp_path):
    bits = X > 0
    packed = np.packbits(bits, axis=1)
    parquet(pa.table({"id": IDS, "embedding": bits.tolist()}), tmp_path / "a.parquet")
    np.save(tmp_path / "bool.npy", bits)
    np.save(tmp_path / "packed.npy", packed)
    np.testing.assert_array_equal(files.read(tmp_path / "a.parquet", bits=True).vectors, bits)
    np.testing.assert_array_equal(files.read(tmp_path / "bool.npy", bits=True).vectors, bits)
    np.testing.assert_array_equal(files.read(tmp_path / "packed.npy", bits=True).vectors[:, :D], bits)
    np.save(tmp_path / "float.npy", X)
    with pytest.raises(InvalidInputError, match="bits is True, but its vectors are float32"):
        files.read(tmp_path / "float.npy", bits=True)
    (tmp_path / "a.fvecs").write_bytes(b"\1\0\0\0" + b"\0" * 4)
    with pytest.raises(InvalidInputError, match="bits is True, which fvecs files don't take; it is for npy"):
        files.read(tmp_path / "a.fvecs", bits=True)


@pytest.mark.parametrize("write", [parquet, arrow], ids=["parquet", "arrow"])
def test_a_path_leads_into_structs(write, tmp_path):
    path = tmp_path / f"a.{write.__name__}"
    response = [{"data": [{"index": 0, "embedding": row.tolist()}]} for row in X.astype(float)]
    write(pa.table({"id": IDS, "response": response, "other": [[1.0]] * N}), path)
    opened = files.read(path, key="response.data.0.embedding")
    np.testing.assert_array_equal(opened.vectors, X)
    with pytest.raises(InvalidInputError, match=r"at 'vector' there is \['data'\]"):
        files.read(path, key="response.vector")


@pytest.mark.parametrize("name", ["doc_id", "id", "Unnamed: 0", "rowIdx"])
@pytest.mark.parametrize("suffix", ["csv", "parquet", "arrow"])
def test_columns_that_name_the_rows_are_left_out(tmp_path, name, suffix):
    ids = np.random.default_rng(1).permutation(N) + 1000
    check_left_out(tmp_path / f"a.{suffix}", {name: ids, **WIDE}, name)
    check_left_out(tmp_path / f"a.{suffix}", {**WIDE, name: ids}, name)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "arrow"])
def test_columns_that_count_the_rows_are_left_out(tmp_path, suffix):
    check_left_out(tmp_path / f"a.{suffix}", {"step": range(N), **WIDE}, "step")


def check_left_out(path, columns, name):
    frame = pd.DataFrame(columns)
    {
        ".csv": lambda: frame.to_csv(path, index=False),
        ".parquet": lambda: frame.to_parquet(path),
        ".arrow": lambda: arrow(pa.Table.from_pandas(frame), path),
    }[path.suffix]()
    opened = files.read(path)
    np.testing.assert_allclose(opened.vectors, X, rtol=1e-6)
    assert list(opened.left_out) == [name]
    assert f"left out [{name!r}]" in opened.note
    kept = files.read(path, columns=list(columns))
    np.testing.assert_allclose(kept.vectors, frame, rtol=1e-6)
    np.testing.assert_allclose(files.read(path, columns="dim_*").vectors, X, rtol=1e-6)
    assert files.read(path, id=name).names == tuple(str(value) for value in columns[name])


def test_an_index_that_the_metadata_of_pandas_name_is_left_out(tmp_path):
    ids = np.random.default_rng(1).permutation(N) + 1000
    pd.DataFrame(WIDE, index=pd.Index(ids, name="weight")).to_parquet(tmp_path / "a.parquet")
    opened = files.read(tmp_path / "a.parquet")
    np.testing.assert_array_equal(opened.vectors, X)
    assert opened.left_out == ["weight"]
    np.testing.assert_array_equal(files.read(tmp_path / "a.parquet", columns="weight").vectors, ids[:, None])


STRAYS = {
    "numbers of tokens": [7, 5, 9, 7, 6, 5, 8],
    "times": [1_700_000_321, 1_700_000_007, 1_700_000_100, 1_700_000_050, 1_700_000_200, 1_700_000_001, 1_700_000_123],
    "scores": [0.5, 0.25, 0.125, 0.5, 0.5, 0.25, 0.75],
}


@pytest.mark.parametrize("stray", STRAYS)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_other_numbers_beside_coordinates_are_refused(tmp_path, stray, suffix):
    frame = pd.DataFrame({**WIDE, "extra": STRAYS[stray]})
    path = tmp_path / f"a.{suffix}"
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    with pytest.raises(InvalidInputError, match=r"\['extra'\].*columns must name the coordinates"):
        files.read(path)
    np.testing.assert_allclose(files.read(path, exclude="extra").vectors, X, rtol=1e-6)
    np.testing.assert_allclose(files.read(path, columns="*").vectors, frame, rtol=1e-6)


def test_a_narrow_list_beside_many_coordinates_is_not_the_vectors(tmp_path):
    parquet(pa.table({"box": [[1.0, 2.0]] * N, **WIDE}), tmp_path / "a.parquet")
    with pytest.raises(InvalidInputError, match="'box' has 2 numbers a row, and 5 columns one each"):
        files.read(tmp_path / "a.parquet")
    assert files.read(tmp_path / "a.parquet", key="box").vectors.shape == (N, 2)


def test_a_number_that_is_left_over_is_not_the_vectors(tmp_path):
    text("title,score\na,0.5\nb,0.25\nc,0.125\n", tmp_path / "a.csv")
    with pytest.raises(InvalidInputError, match=r"its only column of numbers, 'score', .* hardly a vector"):
        files.read(tmp_path / "a.csv")
    assert files.read(tmp_path / "a.csv", columns="score").vectors.shape == (3, 1)
    text("id,title\n4,a\n1,b\n3,c\n", tmp_path / "a.csv")
    with pytest.raises(InvalidInputError, match=r"its only columns of numbers, \['id'\], look like numbers of rows"):
        files.read(tmp_path / "a.csv")


CELLS = {
    "JSON": "[0.5, -1.25e-3, 2]",
    "PostgreSQL": "{0.5,-1.25e-3,2}",
    "NumPy": "[ 0.5     -1.25e-3\n  2. ]",
    "tuple": "(0.5, -1.25e-3, 2)",
    "one list in a list": "[[0.5, -1.25e-3, 2]]",
}


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_cells_of_csv_hold_vectors(tmp_path, cell, header):
    head = "id,embedding,topic\n" if header else ""
    text(head + "".join(f'{at},"{CELLS[cell]}",{"ab"[at % 2]}\n' for at in range(1, 9)), tmp_path / "a.csv")
    opened = files.read(tmp_path / "a.csv", labels="topic" if header else None)
    np.testing.assert_array_equal(opened.vectors, [[0.5, -1.25e-3, 2]] * 8)
    assert opened.labels == (tuple("babababa") if header else None)


BAD_CELLS = {
    "unequal": ('"[1.0, 2.0]"', '"[1.0]"', "row 1 of 'v' has 1 numbers, row 0 has 2"),
    "text": ('"[1.0, 2.0]"', '"[1.0, x]"', "'v' is text such as"),
    "a null": ('"[1.0, 2.0]"', '"[1.0, null]"', "'v' is text such as"),
    "nothing": ('"[1.0, 2.0]"', "", "row 1 has nothing in column 'v'"),
    "decimal commas": ('"1,5"', '"2,5"', "a decimal comma"),
    "Python's bytes": (r'''"b'\x00\x01'"''', r'''"b'\x03\x01'"''', "Python's text of bytes"),
}


@pytest.mark.parametrize("case", BAD_CELLS)
def test_cells_of_csv_that_are_no_vectors(tmp_path, case):
    first, second, says = BAD_CELLS[case]
    text(f"id,v\n1,{first}\n2,{second}\n", tmp_path / "a.csv")
    with pytest.raises(InvalidInputError, match=says):
        files.read(tmp_path / "a.csv")


def test_a_bad_cell_behind_the_sample_is_named(tmp_path):
    text("id,v\n" + '1,"[1.0, 2.0]"\n' * 1500 + '2,"[1.0, x]"\n', tmp_path / "a.csv")
    with pytest.raises(InvalidInputError, match=r"row 1500 of 'v' is '\[1.0, x\]'"):
        files.read(tmp_path / "a.csv")


@pytest.mark.parametrize("missing", ["", "NA", "null", "None"])
def test_a_first_cell_that_is_missing_decides_nothing(tmp_path, missing):
    lines = [",".join(["t", *map(repr, row)]) for row in X.astype(float).tolist()]
    first = ",".join(["t", missing, *map(repr, X[0, 1:].astype(float).tolist())])
    text("\n".join(["topic,a,b,c,d,e", first, *lines]) + "\n", tmp_path / "a.csv")
    with pytest.raises(InvalidInputError, match=f"row 0 has nothing in column 'a'|'{missing}'"):
        files.read(tmp_path / "a.csv")
    np.testing.assert_array_equal(files.read(tmp_path / "a.csv", exclude="a").vectors[1:], X[:, 1:])


def test_a_column_that_is_empty_in_the_first_rows_alone_is_refused(tmp_path):
    rows = ["0.5,,0.25"] * 1500
    text("\n".join(["a,late,b", *rows, "0.5,7.5,0.25"]) + "\n", tmp_path / "a.csv")
    with pytest.raises(InvalidInputError, match=r"'late' is empty in the first rows, but row 1500 has '7.5'"):
        files.read(tmp_path / "a.csv")
    assert files.read(tmp_path / "a.csv", exclude="late").vectors.shape == (1501, 2)
    table = pa.table({"id": [0.5] * 3000, "w": [0.25] * 3000, "v": [None] * 2999 + ["[1.0, 2.0]"]})
    parquet(table, tmp_path / "a.parquet")
    with pytest.raises(InvalidInputError, match="row 0 of 'v' is null"):
        files.read(tmp_path / "a.parquet")


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


ROWS = X.astype(float).tolist()
JSON = {
    "OpenAI": ([{"response": {"body": {"data": [{"vector": row}]}}} for row in ROWS], "response.body.data.0.vector"),
    "Qdrant": ([{"id": 1, "vector": {"dense": row}, "payload": {}} for row in ROWS], "vector.dense"),
    "text": ([{"id": 1, "embedding": str(row)} for row in ROWS], "embedding"),
    "list of one list": ([{"id": 1, "embedding": [row]} for row in ROWS], "embedding"),
}  # fmt: skip


@pytest.mark.parametrize("case", JSON)
def test_fields_inside_objects(tmp_path, case):
    rows, key = JSON[case]
    text(lines(rows), tmp_path / "a.jsonl")
    np.testing.assert_array_equal(files.read(tmp_path / "a.jsonl", key=key).vectors, X)
    if "." in key:
        with pytest.raises(InvalidInputError, match=f"key={key!r}"):
            files.read(tmp_path / "a.jsonl")
    else:
        np.testing.assert_array_equal(files.read(tmp_path / "a.jsonl").vectors, X)


@pytest.mark.parametrize("file", ["a.json", "a.jsonl"])
def test_one_object_that_holds_columns(tmp_path, file):
    text(json.dumps({"ids": list("abcdefg"), "embeddings": ROWS, "documents": None}) + "\n", tmp_path / file)
    opened = files.read(tmp_path / file, id="ids")
    np.testing.assert_array_equal(opened.vectors, X)
    assert opened.names == tuple("abcdefg")


def test_one_object_with_a_list_of_objects(tmp_path):
    text(json.dumps({"data": [{"index": 0, "embedding": row} for row in ROWS]}), tmp_path / "a.json")
    with pytest.raises(InvalidInputError, match=r"such as 'data\.embedding'"):
        files.read(tmp_path / "a.json")
    np.testing.assert_array_equal(files.read(tmp_path / "a.json", key="data.embedding").vectors, X)


def test_the_first_line_does_not_decide_alone(tmp_path):
    rows = [{"tags": [1, 2], "embedding": None}, *({"tags": [1, 2], "embedding": row} for row in ROWS)]
    text(lines(rows), tmp_path / "a.jsonl")
    with pytest.raises(InvalidInputError, match=r"key must be one of \['tags', 'embedding'\]"):
        files.read(tmp_path / "a.jsonl")
    with pytest.raises(InvalidInputError, match="field 'embedding' of line 1 is missing or null"):
        files.read(tmp_path / "a.jsonl", key="embedding")


def test_numbers_without_words(tmp_path):
    np.savetxt(tmp_path / "a.txt", X)
    opened = files.read(tmp_path / "a.txt")
    np.testing.assert_array_equal(opened.vectors, X)
    assert opened.names is None
    text("3 4\n5 6\n", tmp_path / "a.txt")
    with pytest.raises(InvalidInputError, match="line 2 has 1 numbers after its word; it must have 4"):
        files.read(tmp_path / "a.txt")
    text("3 4 5\n5 6 7\n", tmp_path / "a.txt")
    with pytest.raises(InvalidInputError, match="the first may be a word or a coordinate"):
        files.read(tmp_path / "a.txt")
    text("1 0.5 0.25\n2.5 0.125 0.5\n", tmp_path / "a.txt")
    assert files.read(tmp_path / "a.txt").names == ("1", "2.5")
    text("0.5 0.25\n" * 1001 + "a 0.5\n", tmp_path / "a.txt")
    with pytest.raises(InvalidInputError, match="line 1002 has 'a' among its numbers"):
        files.read(tmp_path / "a.txt")


def test_words_that_are_blank_or_of_another_encoding(tmp_path):
    text("a 1 2.5\n 3 4.5\n", tmp_path / "a.txt")
    opened = files.read(tmp_path / "a.txt")
    assert opened.names == ("a", "")
    np.testing.assert_array_equal(opened.vectors, [[1, 2.5], [3, 4.5]])
    (tmp_path / "a.txt").write_bytes("zwölf 1 2.5\n".encode("latin-1"))
    with pytest.raises(InvalidInputError, match="encoding='latin-1'"):
        files.read(tmp_path / "a.txt")
    assert files.read(tmp_path / "a.txt", encoding="latin-1").names == ("zwölf",)
    for name in ("nonsense", "hex", "undefined"):
        with pytest.raises(InvalidInputError, match="encoding must be one that Python has"):
            files.read(tmp_path / "a.txt", encoding=name)


@pytest.mark.parametrize("before", [0, 2000])
def test_text_of_another_encoding_says_what_to_give(tmp_path, before):
    rows = [*(["a,0.25,0.5"] * before), "zwölf,0.5,0.75"]
    (tmp_path / "a.csv").write_bytes("\n".join(["w,x,y", *rows]).encode("latin-1"))
    with pytest.raises(InvalidInputError, match=r"not UTF-8 \(.*\); give what it is, such as encoding='latin-1'"):
        files.read(tmp_path / "a.csv", id="w")
    assert files.read(tmp_path / "a.csv", id="w", encoding="latin-1").names[-1] == "zwölf"


def test_objects_beside_the_array_that_is_asked_for(tmp_path):
    np.savez(tmp_path / "a.npz", embeddings=X, texts=np.array(["t"] * N, object))
    np.testing.assert_array_equal(files.read(tmp_path / "a.npz").vectors, X)
    with pytest.raises(InvalidInputError, match=r"'texts' is not a matrix of numbers, but object \(7,\)"):
        files.read(tmp_path / "a.npz", key="texts")
    with pytest.raises(InvalidInputError, match="'texts' is not a one-dimensional array"):
        files.read(tmp_path / "a.npz", labels="texts")
    (tmp_path / "a.npy").write_bytes(b"")
    np.save(tmp_path / "a.npy", np.array([X[0], X[1, :2]], object))
    with pytest.raises(InvalidInputError, match=r"Python objects .* pickle to read.*np.stack"):
        files.read(tmp_path / "a.npy")


def test_arguments_that_say_nothing_here(tmp_path):
    np.save(tmp_path / "a.npy", X)
    with pytest.raises(InvalidInputError, match=r"columns is \('a',\), which npy files don't take; it is for parquet"):
        files.read(tmp_path / "a.npy", columns="a")
    text("a,b\n1,2\n", tmp_path / "a.csv")
    with pytest.raises(InvalidInputError, match=r"it has no column 'c\*'; exclude must name columns among"):
        files.read(tmp_path / "a.csv", exclude="c*")
    with pytest.raises(InvalidInputError, match="columns must be text"):
        files.read(tmp_path / "a.csv", columns=[3])
    with pytest.raises(InvalidInputError, match="give one of them"):
        files.read(tmp_path / "a.csv", columns="a", key="b")


def test_a_record_of_what_was_read_can_be_copied(tmp_path):
    parquet(pa.table({"id": IDS, "embedding": READ["text"]()}), tmp_path / "a.parquet")
    opened = files.read(tmp_path / "a.parquet")
    assert pickle.loads(pickle.dumps(opened)).read == {  # noqa: S301 - our own
        "note": "column 'embedding'; left out ['id']", "columns": ["embedding"], "left_out": ["id"],
    }  # fmt: skip
