"""What is refused when shards are opened: the message names the shard, what it has and what it must have."""

import os
import sys

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import zarr
from scipy import sparse

from geomkit.errors import BackendUnavailableError, InvalidInputError
from geomkit.io.shards.shards import open_shards
from tests.io.shards.samples import FORMATS, X, arrow, fixed, flat, npy, parquet, to_memory, varying, write


def refused(match, where, **how):
    with pytest.raises(InvalidInputError, match=match) as caught:
        open_shards(where, **how)
    assert "\n" not in str(caught.value)


WHERES = {
    "nothing": (lambda t: t / "no.npy", r"no\.npy: there is no such file or folder"),
    "nothing-remote": (lambda _: "memory://nothing/no.npy", "no.npy: there is no such file or folder"),
    "empty-list": (lambda _: [], "where is an empty list"),
    "empty-folder": (lambda t: t, "the folder has no shards; it must have at least 1 file that ends in .npy"),
    "glob": (lambda t: f"{t}/*.npy", "nothing matches"),
    "glob-remote": (lambda _: "memory://nothing/*.npy", "nothing matches"),
    "number": (lambda _: 7, "where is int; it must be an address, a NumPy array, or a list of these"),
    "numbers": (lambda _: [[1, 2], [3, 4]], "item 0 of where is list"),
    "dict": (lambda _: {"a": X}, r"where is dict, which can be drawn from again and again; pass iter\(x\)"),
    "range": (lambda _: range(4), r"where is range, which can be drawn from again and again"),
    "sparse": (lambda _: sparse.csr_array(X), r"where is sparse \(csr_array\), which shards cannot be"),
    "sparse-item": (lambda _: [X, sparse.csr_matrix(X)], r"item 1 of where is sparse"),
    "cube": (lambda _: [np.zeros((2, 5), np.float32), np.zeros((2, 5, 1))], r"array 1: it has 3 dimensions"),
    "complex": (lambda _: X.astype(complex), "the array: it holds complex128; it must hold float16"),
    "booleans": (lambda _: X > 0, "the array: it holds bool"),
    "no-columns": (lambda _: X[:, :0], r"it has no columns \(shape \(257, 0\)\)"),
    "no-rows": (lambda _: [X[:0], X[:0]], "the shards have no rows; all together must have at least 1"),
    "masked": (lambda _: np.ma.masked_less(X, 0), "masked entries"),
    "width": (lambda _: [X, X[:, :4]], "array 1: it has 4 columns, array 0 has 5; all shards must have as many"),
    "dtype": (lambda _: [X, X.astype(np.float64)], "array 1: it holds float64, array 0 holds float32"),
    "same-array": (lambda _: [X, X[:5], X], "array 2: it is given twice, as shards 0 and 2"),
    "protocol": (lambda _: "nosuch://bucket/x", r"nosuch://bucket/x: fsspec cannot read it \(ValueError"),
    "bytes": (lambda t: os.fsencode(t / "x.npy"), "where is bytes, which|where is bytes"),
}


@pytest.mark.parametrize("name", WHERES)
def test_what_cannot_be_shards(tmp_path, name):
    where, match = WHERES[name]
    refused(match, where(tmp_path))


def test_foreign_files_and_folders_and_mixtures(tmp_path):
    folder = write(tmp_path / "a", "npy")
    (folder / "README.md").write_text("x")
    refused(r"README\.md: it is a file, not a shard", folder)
    refused(r"README\.md: it is a file, not a shard", f"{folder}/*")
    (folder / "README.md").unlink()
    (folder / "more").mkdir()
    refused("more: it is a folder, not a shard", folder)
    (folder / "more").rmdir()
    (folder / "x.npy.gz").write_bytes(b"x")
    refused(r"x\.npy\.gz: it is a file, not a shard", folder)
    (folder / "x.npy.gz").unlink()
    parquet(X, folder / "x.parquet")
    refused(r"part-4\.npy and x\.parquet are of two formats; a folder's shards must be of one", folder)
    assert open_shards([folder / "part-12.npy", folder / "x.parquet"]).shape == (67 + 257, 5)
    refused("ab.npy: it is a file, not a shard|no such file", [folder / "part-12.npy", folder / "ab.npy"])
    os.mkfifo(folder / "pipe.npy")
    refused("pipe.npy: it is neither a file nor a folder, not a shard", folder / "pipe.npy")
    refused(r"read it \(|no such file", f"{folder}/part-4.npy/x.npy")


def test_a_shard_given_twice_is_named(tmp_path):
    folder = write(tmp_path / "a", "npy")
    one = folder / "part-12.npy"
    (tmp_path / "link.npy").symlink_to(one)
    match = r"part-12\.npy: it is given twice, as shards 0 and 3; each must be given once"
    refused(match, [one, folder / "part-4.npy", folder / "part-16.npy", f"{folder}/../a/part-12.npy"])
    refused("link.npy: it is given twice, as shards 2 and 5", [folder, tmp_path / "link.npy"])
    refused("given twice", [f"{folder}/part-1*.npy", f"{folder}/part-*.npy"])
    refused("given twice", [one, f"file://{one}"])
    refused("given twice", [one, np.load(one, mmap_mode="r")])
    remote = to_memory(folder, "twice")
    refused(r"memory:///twice/part-12\.npy: it is given twice", [remote, f"{remote}/part-12.npy"])
    assert open_shards([X[:9], X[:8]]).shape == (17, 5)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("remote", [False, True])
def test_another_width_or_dtype_is_named(tmp_path, name, remote):
    suffix, how = FORMATS[name]
    cases = [(X[:, :4], "it has 4 columns, .*part-4.* has 5; all shards must have as many")]
    if "big-endian" not in name:  # which are written as float32
        cases.append((X.astype(np.float64), "it holds float64, .*part-4.* holds float32; all must hold the same"))
    for at, (x, match) in enumerate(cases):
        folder = write(tmp_path / f"a{at}", name, cuts=(0, 257))
        how(x[:7], folder / f"part-12{suffix}")
        refused(rf"part-12\{suffix}: {match}", to_memory(folder, "other") if remote else folder)


CUT = [name for name, (suffix, _) in FORMATS.items() if suffix != ".zarr"]


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("name", CUT)
def test_a_file_cut_short_is_named(tmp_path, name, remote):
    folder = write(tmp_path / "a", name)
    suffix = FORMATS[name][0]
    path = folder / f"part-12{suffix}"
    whole = path.read_bytes()
    for length in (0, 1, 7, 60, len(whole) // 2, len(whole) - 1):
        if "stream" in name and length == len(whole) - 1:
            continue  # the mark at the end of a stream may be left out, and is of eight bytes
        path.write_bytes(whole[:length])
        refused(rf"part-12\{suffix}: ", to_memory(folder, "cut") if remote else folder)


def test_files_that_are_something_else(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, X[None])
    refused(r"x\.npy: it has 3 dimensions \(shape \(1, 257, 5\)\)", path)
    np.save(path, X.astype(complex))
    refused("x.npy: it holds complex128", path)
    np.save(path, np.array([[None, 1]]), allow_pickle=True)
    refused("holds Python objects", path)
    path.write_bytes(b"PK" + bytes(300))
    refused("x.npy: the array starts with", path)
    np.save(path, X)
    path.write_bytes(path.read_bytes() + b"x")
    refused("claims the shape", path)
    for ending in (".parquet", ".arrow"):
        (tmp_path / f"y{ending}").write_bytes(b"nothing of the kind" * 20)
        refused(rf"y\{ending}: ", tmp_path / f"y{ending}")
    (tmp_path / "z.zarr").mkdir()
    refused(r"z\.zarr: no array or group of zarr is in it", tmp_path / "z.zarr")
    arrow(X, tmp_path / "old.arrow")
    old = (tmp_path / "old.arrow").read_bytes()
    (tmp_path / "old.arrow").write_bytes(old.replace(b"\xff\xff\xff\xff", b"\x00\x01\x00\x00", 1))
    refused("no message of Arrow's format", tmp_path / "old.arrow")


def test_rows_of_unequal_length_nulls_and_columns(tmp_path):
    ragged = pa.table({"row": [[1.0, 2.0], [3.0]]})
    nulls = pa.table({"row": [[1.0, 2.0], None, [3.0, None]]})
    for table, match in ((ragged, "as many"), (nulls, "null|as many")):
        parquet(X, tmp_path / "x.parquet", lambda _, table=table: table)
        with pytest.raises(InvalidInputError, match=match):
            open_shards(tmp_path / "x.parquet").read(0, 2)
        arrow(X, tmp_path / "x.arrow", lambda _, table=table: table)
        with pytest.raises(InvalidInputError, match=match):
            open_shards(tmp_path / "x.arrow").read(0, 2)
    longer = pa.table({"row": [[1.0, 2.0]] * 16 + [[1.0] * 3] * 16})
    for write_it, path in ((parquet, tmp_path / "l.parquet"), (arrow, tmp_path / "l.arrow")):
        write_it(X, path, lambda _: longer)
        shards = open_shards(path)
        assert shards.read(0, 16).shape == (16, 2)
        with pytest.raises(InvalidInputError, match="row 16 of 'row' has 3 numbers, the first row 2"):
            shards.read(16, 17)


def test_keys(tmp_path):
    def two(x):
        return pa.table({"a": pa.array(list(x)), "b": pa.array(list(-x))})

    parquet(X, tmp_path / "x.parquet", two)
    arrow(X, tmp_path / "x.arrow", two)
    group = zarr.open_group(str(tmp_path / "x.zarr"), mode="w")
    for name, x in (("a", X), ("in/b", -X), ("c", X[:, 0])):
        group.create_array(name, data=x)
    for path, b in ((tmp_path / "x.parquet", "b"), (tmp_path / "x.arrow", "b"), (tmp_path / "x.zarr", "in/b")):
        refused("2 things in it are", path)
        refused("it has no 'none'", path, key="none")
        assert np.array_equal(open_shards(path, key=b).read(9, 30), -X[9:30])
    refused("'c' is not a matrix", tmp_path / "x.zarr", key="c")
    assert open_shards(tmp_path / "x.zarr", key="in/b").where(3) == "row 3 of x.zarr/in/b"
    npy(X, tmp_path / "x.npy")
    refused("x.npy: key is 'a', but npy files have nothing by name", tmp_path / "x.npy", key="a")
    refused("the array: key is 'a'", X, key="a")
    refused("key must be None", zarr_of(tmp_path), key="a")
    refused("key must be text; got 3", X, key=3)


def zarr_of(folder):
    zarr.create_array(str(folder / "one.zarr"), data=X)
    return folder / "one.zarr"


def test_a_zarr_without_all_its_chunks_is_named(tmp_path):
    write(tmp_path, "zarr", cuts=(0, 257))
    (tmp_path / "part-4.zarr" / "c" / "3" / "0").unlink()
    refused(r"part-4\.zarr: 1 chunks are missing, the first 'c/3/0', .* would all be read as 0\.0", tmp_path)
    zeros = zarr.create_array(str(tmp_path / "z.zarr"), shape=(8, 3), chunks=(4, 3), dtype="f4", fill_value=0)
    zeros[:] = 0
    refused("2 chunks are missing", tmp_path / "z.zarr")


def test_options(tmp_path):
    for wrong in (0, -5, 1.5, True, "1GB"):
        refused("max_memory must be a number of bytes, at least 1, or None", X, max_memory=wrong)
    npy(X, tmp_path / "x.npy")
    refused(r"storage_options are given \(\['token'\]\)", tmp_path / "x.npy", storage_options={"token": "secret"})
    refused("storage_options are given", X, storage_options={"token": "secret"})
    refused("storage_options must be a mapping", X, storage_options=3)
    refused("spool is .*, but where is no iterator", X, spool=tmp_path)
    refused("must be None", iter([X]), key="a")
    arrow(X, tmp_path / "x.arrow", compression="zstd", rows=100)
    refused(r"x\.arrow: 2,000 bytes of it can only be decoded at once, and max_memory is 1,999", tmp_path / "x.arrow",
            max_memory=1999)  # fmt: skip
    arrow(X, tmp_path / "y.arrow", rows=100)
    assert open_shards(tmp_path / "y.arrow", max_memory=100).read(0, 257).shape == (257, 5)


def test_claims_beyond_what_a_file_can_hold(tmp_path):
    parquet(np.zeros((400_000, 64), np.float32), tmp_path / "x.parquet", fixed, 400_000)
    assert (tmp_path / "x.parquet").stat().st_size < 500_000
    refused("what it says it holds has shape", tmp_path / "x.parquet")


def test_what_cannot_be_reached(tmp_path, monkeypatch):
    there = fsspec.filesystem("memory")
    address = to_memory(write(tmp_path / "a", "npy"), "far")
    monkeypatch.setattr(type(there), "cat_file", lambda *_, **__: (_ for _ in ()).throw(OSError("timed out")))
    refused(r"memory:///far/part-4\.npy: the file system cannot read it \(OSError: timed out\)", address)
    monkeypatch.setattr(type(there), "info", lambda *_, **__: (_ for _ in ()).throw(PermissionError("not yours")))
    refused(r"memory:///far/part-4\.npy: .*PermissionError: not yours", f"{address}/part-4.npy")


@pytest.mark.parametrize(("library", "name"), [("fsspec", None), ("zarr", "zarr"), ("pyarrow", "parquet-fixed")])
def test_a_library_that_is_missing_is_named(tmp_path, monkeypatch, library, name):
    where = write(tmp_path / "a", name) if name else "memory://a"
    for each in [each for each in sys.modules if each.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, each)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(BackendUnavailableError, match=rf"needs {library}.*pip install 'geomkit\["):
        open_shards(where)


def test_tables_of_samples_differ():
    assert {len(table(X).column_names) for table in (fixed, varying, flat)} == {2, 5}
