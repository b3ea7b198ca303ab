"""What was written comes back: every format, dtype to the bit, labels and names."""

import gc

import numpy as np
import pytest
import torch
from gensim.models import KeyedVectors
from scipy import sparse

from geomkit.core.matrix import as_matrix
from geomkit.errors import InvalidInputError
from geomkit.io import files
from geomkit.io.files import columnar, csv_, xvecs
from tests.io.files import samples
from tests.io.files.samples import CSV_LABELS, DOUBLE, LABELS, SAMPLES, WORDS, X


def dense(vectors):
    if isinstance(vectors, torch.Tensor):
        return vectors.float().numpy()
    return vectors.toarray() if sparse.issparse(vectors) else np.asarray(vectors)


@pytest.fixture
def collect():
    """Collect what is made from here on, and spend no time on all that is there."""
    gc.freeze()
    yield gc.collect
    gc.unfreeze()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.file)
def test_what_was_written_comes_back(sample, tmp_path, collect):
    got = files.read(sample.at(tmp_path), labels=sample.labels, key=sample.key)
    collect()  # what a map or a file held on to must still be there

    np.testing.assert_array_equal(dense(got.vectors), dense(sample.x))
    assert as_matrix(got.vectors).dtype == sample.dtype
    assert got.format == sample.format
    assert got.names == sample.names
    want = CSV_LABELS if sample.format in {"csv", "tsv"} else LABELS
    assert got.labels == (want if sample.labels else None)
    assert isinstance(got.vectors, np.memmap) or not sample.mapped


def test_every_format_has_a_sample():
    assert {sample.format for sample in SAMPLES} == set(files.FORMATS)


def test_a_path_may_be_text(tmp_path):
    np.save(tmp_path / "a.npy", X)
    np.testing.assert_array_equal(files.read(str(tmp_path / "a.npy")).vectors, X)


@pytest.mark.parametrize(("file", "binary"), [("a.txt", False), ("a.bin", True)])
def test_word_vectors_are_those_of_gensim(tmp_path, file, binary):
    words = [f"w{i}" for i in range(7)]
    if file == "a.txt":
        samples.text(samples.text_of(X, words), tmp_path / file)
    else:
        samples.binary(tmp_path / file, X, words)
    want = KeyedVectors.load_word2vec_format(str(tmp_path / file), binary=binary)

    got = files.read(tmp_path / file)
    assert list(got.names) == want.index_to_key
    np.testing.assert_array_equal(got.vectors, want.vectors)


@pytest.mark.parametrize("binary", [False, True])
def test_what_gensim_saves_is_read(tmp_path, binary):
    made = KeyedVectors(5)
    made.add_vectors([f"w{i}" for i in range(7)], X)
    made.save_word2vec_format(str(tmp_path / "a.bin"), binary=binary)
    path = (tmp_path / "a.bin").rename(tmp_path / ("a.bin" if binary else "a.vec"))

    got = files.read(path)
    assert list(got.names) == made.index_to_key
    np.testing.assert_allclose(got.vectors, X, rtol=1e-6)


def test_words_may_have_spaces_and_numbers_tabs(tmp_path):
    samples.text(". . .\t1 2 \nx 3  4\n", tmp_path / "a.txt")
    with pytest.raises(InvalidInputError, match="among its numbers"):
        files.read(tmp_path / "a.txt")  # the first line says how many numbers there are
    samples.text("x 3  4\n. . .\t1 2 \n", tmp_path / "a.txt")
    got = files.read(tmp_path / "a.txt")
    assert got.names == ("x", ". . .")
    np.testing.assert_array_equal(got.vectors, [[3, 4], [1, 2]])


@pytest.mark.parametrize("file", ["a.npy", "a.jsonl", "a.csv", "a.txt", "a.h5", "a.parquet"])
def test_nan_and_infinity_are_kept(tmp_path, file):
    x = np.array([[np.nan, 1], [np.inf, 2], [-np.inf, 3]], np.float32)
    content = {
        "a.npy": lambda p: np.save(p, x),
        "a.jsonl": lambda p: samples.text("[NaN, 1]\n[Infinity, 2]\n[-Infinity, 3]\n", p),
        "a.csv": lambda p: samples.text("u,v\nnan,1\ninf,2\n-inf,3\n", p),
        "a.txt": lambda p: samples.text("a nan 1\nb inf 2\nc -inf 3\n", p),
        "a.h5": lambda p: samples.hdf5(p, x, None),
        "a.parquet": lambda p: samples.parquet(samples.pa.table({"v": list(x)}), p),
    }
    content[file](tmp_path / file)
    np.testing.assert_array_equal(files.read(tmp_path / file).vectors, x)


@pytest.mark.parametrize(
    ("content", "x", "names", "note"),
    [
        ("1,2\n3,4\n", [[1, 2], [3, 4]], None, "no header"),
        ("u,v\n3,4\n", [[3, 4]], None, "header, 2 numeric columns"),
        (",u,v\nfirst,3,4\nsecond,5,6\n", [[3, 4], [5, 6]], ("first", "second"), "names from the first column"),
        ("0,1\n0.5,4\n", [[0.5, 4]], None, "header"),
        ("0,1\n5,4\n", [[0, 1], [5, 4]], None, "no header"),
        (",0,1\n0,7,8\n", [[7, 8]], ("0",), "header"),
        ('"u\nv",w,v\r\n"5",x,6\r\n\r\n7,y,8\r\n', [[5, 6], [7, 8]], None, "left out ['w']"),
        ("\ufeffu,u\n3,4\n", [[3, 4]], None, "header, 2 numeric columns"),
    ],
)
def test_headers_and_indices_of_csv(tmp_path, content, x, names, note):
    samples.text(content, tmp_path / "a.csv")
    got = files.read(tmp_path / "a.csv")
    np.testing.assert_array_equal(got.vectors, x)
    assert got.names == names
    assert note in got.note


@pytest.mark.parametrize(
    "content", {"a.csv": "1,2\n", "a.jsonl": "[1, 2]\n", "a.txt": "a 1 2\n", "a.vec": "1 2\na 1 2\n"}.items()
)
def test_a_mark_of_utf8_is_no_part_of_the_text(tmp_path, content):
    samples.text("\ufeff" + content[1], tmp_path / content[0])
    got = files.read(tmp_path / content[0])
    np.testing.assert_array_equal(got.vectors, [[1, 2]])
    assert got.names in {None, ("a",)}


def test_what_pandas_writes(tmp_path):
    import pandas as pd

    frame = pd.DataFrame(DOUBLE).assign(topic=CSV_LABELS)
    frame.to_csv(tmp_path / "a.csv")
    frame.rename(columns=str).set_index(pd.Index([9, 4, 7, 1, 2, 3, 5])).to_parquet(tmp_path / "a.parquet")
    for file in ("a.csv", "a.parquet"):
        got = files.read(tmp_path / file, labels="topic")
        np.testing.assert_array_equal(got.vectors, DOUBLE)
        assert got.labels == CSV_LABELS
    assert files.read(tmp_path / "a.csv").names == tuple("0123456")


def test_large_files_come_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_, "_BLOCK", 1 << 15)
    monkeypatch.setattr(columnar, "_BATCH", 1 << 15)
    monkeypatch.setattr(xvecs, "_BLOCK", 1 << 15)
    x = np.random.default_rng(0).standard_normal((4_000, 20))
    words = [str(i) for i in range(len(x))]
    samples.text(samples.text_of(x, words), tmp_path / "a.txt")
    samples.text(samples.csv_of(x, words), tmp_path / "a.csv")
    samples.text(samples.jsonl_of(x, words), tmp_path / "a.jsonl")
    table = samples.pa.table({"v": list(x.astype(np.float32)), "topic": words})
    samples.parquet(table, tmp_path / "a.parquet", row_group_size=1_500)
    samples.vecs(tmp_path / "a.fvecs", x.astype(np.float32))
    for file in ("a.txt", "a.csv", "a.jsonl", "a.parquet", "a.fvecs"):
        labels = None if file in {"a.txt", "a.fvecs"} else "topic"
        got = files.read(tmp_path / file, labels=labels)
        exact = got.vectors.dtype == np.float64
        np.testing.assert_array_equal(got.vectors, x if exact else x.astype(np.float32))
        assert labels is None or got.labels == tuple(words)
    assert files.read(tmp_path / "a.txt").names == tuple(words)


def test_mixed_columns_take_the_wider_dtype_and_say_so(tmp_path):
    columns = {"a": np.float32([1, 2]), "b": np.int64([3, 2**53 + 1]), "topic": ["x", "y"]}
    samples.parquet(samples.pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(InvalidInputError, match="row 1 of 'b' has 9007199254740993, which float64"):
        files.read(tmp_path / "a.parquet")
    columns["b"] = np.int64([3, 2**53])
    samples.parquet(samples.pa.table(columns), tmp_path / "a.parquet")
    got = files.read(tmp_path / "a.parquet")
    assert got.note == "2 numeric columns, together float64; left out ['topic']"
    np.testing.assert_array_equal(got.vectors, [[1, 3], [2, 2**53]])


def test_bfloat16_without_torch(tmp_path, monkeypatch):
    samples.bfloat16(tmp_path / "b.safetensors")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    got = files.read(tmp_path / "b.safetensors")
    assert isinstance(got.vectors, np.memmap)
    assert as_matrix(got.vectors).dtype == "bfloat16"
    np.testing.assert_array_equal(got.vectors.astype(np.float32), torch.tensor(X).bfloat16().float().numpy())


def test_text_of_hdf5_in_chunks_and_of_one_length(tmp_path):
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = X
        file.create_dataset("chunks", data=list(WORDS), dtype=h5py.string_dtype(), chunks=(3,))
        file["short"] = np.array([word.encode() for word in WORDS])
        file["numbers"] = np.arange(7)
        file.create_dataset("packed", data=list(WORDS), dtype=h5py.string_dtype(), chunks=(3,), compression="gzip")
    assert files.read(tmp_path / "a.h5", labels="chunks").labels == WORDS
    assert files.read(tmp_path / "a.h5", labels="short").labels == WORDS
    assert files.read(tmp_path / "a.h5", labels="numbers").labels == tuple("0123456")
    with pytest.raises(InvalidInputError, match="'packed' holds compressed text"):
        files.read(tmp_path / "a.h5", labels="packed")
