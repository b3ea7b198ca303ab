"""Damaged or unfit HDF5, safetensors, vecs and word2vec files, and libraries that are missing."""

import importlib
import json
import re
import struct
import sys
import zipfile

import h5py
import numpy as np
import pytest
import safetensors.numpy
import torch

from geomkit.errors import BackendUnavailableError, InvalidInputError
from geomkit.io import files
from tests.io.files import samples
from tests.io.files.samples import SAMPLES, X, binary, vecs
from tests.io.files.test_refusals import refused


def written(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file[name] = value
    return path


def test_hdf5_chooses_only_what_is_named(tmp_path):
    path = written(tmp_path / "a.h5", a=X, b=X, row=X[0], cube=X[None], words=[["a"]], y=np.arange(3))
    refused(path, "2 things in it are a two-dimensional dataset of numbers", "['a', 'b']")
    refused(path, "it has no 'c'", "['a', 'b']", key="c")
    refused(path, "'cube' is not a two-dimensional dataset of numbers", key="cube")
    refused(path, "dataset 'y' has 3 labels for 7 rows", key="a", labels="y")
    refused(path, "'b' is not a one-dimensional dataset", key="a", labels="b")
    refused(written(path, row=X[0]), "nothing in it is a two-dimensional dataset of numbers; it has ['row']")
    refused(written(path), "nothing in it is a two-dimensional dataset")
    refused(written(path, x=X[:0]), "the shape (0, 5)", "at least 1 row")


def test_hdf5_sparse_layouts(tmp_path):
    path = written(tmp_path / "a.h5", train=np.arange(9), test=np.arange(9), size_train=[4, 5], size_test=[4, 5])
    refused(path, "sparse rows or sets", "must be a dense matrix")
    path = written(tmp_path / "a.h5", train=X)
    with h5py.File(path, "a") as file:
        file.attrs["type"] = "sparse"
    refused(path, "sparse rows or sets")


def test_hdf5_links_are_not_followed(tmp_path):
    written(tmp_path / "other.h5", x=X)
    path = written(tmp_path / "a.h5", inner=X)
    with h5py.File(path, "a") as file:
        file["out"] = h5py.ExternalLink("other.h5", "/x")
        file["all"] = h5py.ExternalLink("other.h5", "/")
        file["soft"] = h5py.SoftLink("/out")
    assert files.read(path).note == "dataset 'inner'"
    refused(path, "'out' of key 'out' is an external link, which is not followed", key="out")
    refused(path, "'all' of key '/all/x' is an external link", key="/all/x")
    refused(path, "'soft' of key 'soft' is a soft link", key="soft")


def test_hdf5_numbers_in_other_files(tmp_path):
    X.tofile(tmp_path / "raw")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", X.shape, "f4", external=[(str(tmp_path / "raw"), 0, X.nbytes)])
    refused(tmp_path / "a.h5", "'x' is in other files; it must hold its numbers itself")
    layout = h5py.VirtualLayout(X.shape, "f4")
    layout[:] = h5py.VirtualSource(str(written(tmp_path / "other.h5", x=X)), "x", X.shape)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset("x", layout)
    refused(tmp_path / "a.h5", "'x' is assembled from others")


def test_hdf5_claims(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (10**9, 100), "f4", chunks=(1, 100))
    refused(path, "the shape (1000000000, 100), but nothing was ever written")
    with h5py.File(path, "a") as file:
        file["x"][0] = 1
    refused(path, "has shape (1000000000, 100), 400,000,000,000 bytes, of 400 bytes in the file")
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.zeros((20_000, 1_000), np.float32), compression="gzip")
    refused(path, "has shape (20000, 1000)", "200 times")


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [("length", 2**32 - 1, "refers to text that is not there"), ("address", 2**40, "no heap of text at byte"),
     ("number", 99, "refers to text that is not there"), ("size", 2**40, "no heap of text"),
     ("object", 2**40, "an object beyond its end"), ("version", 7, "no heap of text")],
)  # fmt: skip
def test_hdf5_damaged_text(place, value, says, tmp_path):
    path = written(tmp_path / "a.h5", x=X, y=list(samples.LABELS))
    with h5py.File(path) as file:
        reference = file["y"].id.get_offset()
    whole = bytearray(path.read_bytes())
    heap = int.from_bytes(whole[reference + 4 : reference + 12], "little")
    at, code = {"length": (reference, "<I"), "address": (reference + 4, "<Q"), "number": (reference + 12, "<I"),
                "size": (heap + 8, "<Q"), "object": (heap + 24, "<Q"), "version": (heap + 4, "<B")}[place]  # fmt: skip
    struct.pack_into(code, whole, at, value)
    path.write_bytes(whole)
    refused(path, says, labels="y")
    np.testing.assert_array_equal(files.read(path).vectors, X)


def test_hdf5_text_that_is_not_utf8(tmp_path):
    path = written(tmp_path / "a.h5", x=X[:1], y=np.array([b"\xff\xfe"]))
    refused(path, "dataset 'y' of row 0 is not UTF-8", labels="y")


SAFE = {
    "billion": {"x": {"dtype": "F32", "shape": [10**9, 10], "data_offsets": [0, 8]}},
    "beyond": {"x": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8 * 10**9]}},
    "negative": {"x": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}},
    "outside": {"x": {"dtype": "F32", "shape": [1, 2], "data_offsets": [10**12, 10**12 + 8]}},
    "unknown": {"x": {"dtype": "F31", "shape": [1, 2], "data_offsets": [0, 8]}},
    "nothing": {},
    "list": [],
}


@pytest.mark.parametrize("case", SAFE)
def test_safetensors_headers(case, tmp_path):
    head = json.dumps(SAFE[case]).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + bytes(8))
    refused(tmp_path / "a.safetensors", "" if case == "nothing" else "safetensors cannot read it")
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", 2**62) + head + bytes(8))
    refused(tmp_path / "a.safetensors", "safetensors cannot read it")


def test_safetensors_chooses_only_what_is_named(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file({"a": X, "b": X, "row": X[0], "y": np.arange(3)}, path)
    refused(path, "2 things in it are a two-dimensional tensor of numbers", "['a', 'b']")
    refused(path, "it has no 'c'", key="c")
    refused(path, "'row' is not a two-dimensional tensor", key="row")
    refused(path, "tensor 'y' has 3 labels for 7 rows", key="a", labels="y")
    safetensors.numpy.save_file({"a": X[:0]}, path)
    refused(path, "tensor 'a' has the shape (0, 5)")
    safetensors.numpy.save_file({"a": X > 0}, path)
    refused(path, "nothing in it is a two-dimensional tensor of numbers; it has ['a']")


def test_pt_holds_a_tensor_or_a_dict_of_them(tmp_path):
    path = tmp_path / "a.pt"
    x, beside = torch.tensor(X), {"row": torch.ones(5), "sparse": torch.eye(7).to_sparse(), "words": ["a"]}
    torch.save({"a": x, "b": x, "bits": x > 0, "y": torch.arange(7), **beside}, path)
    refused(path, "2 things in it are a two-dimensional tensor of numbers", "['a', 'b']")
    refused(path, "'sparse' is not a two-dimensional tensor", "torch.sparse_coo (7, 7)", key="sparse")
    refused(path, "'words' is not a two-dimensional tensor", "but list", key="words")
    refused(path, "'row' is not a two-dimensional tensor", "F32 (5,)", key="row")
    refused(path, "tensor 'row' has 5 labels for 7 rows", key="a", labels="row")
    opened = files.read(path, key="b", labels="y")
    assert (opened.note, opened.labels) == ("tensor 'b'", tuple("0123456"))
    np.testing.assert_array_equal(files.read(path, key="bits", bits=True).vectors, X > 0)
    torch.save(x, path)
    refused(path, "key is 'a', but it holds one tensor, which has no name", key="a")
    torch.save([x], path)
    refused(path, "it holds an object of type list; it must be a tensor or a dict of them")
    torch.save(torch.ones(1, 1).expand(10**6, 10**4), path)
    refused(path, "has shape (1000000, 10000)", "200 times")
    torch.save({"x": x.to(torch.float8_e5m2)}, path)
    assert files.read(path).note == "tensor 'x', F8_E5M2 as float32"


def test_pt_runs_no_code(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"x": torch.tensor(X), "where": tmp_path}, path)
    refused(path, "it holds pathlib.", "which takes pickle to read")
    torch.save(torch.nn.Embedding(3, 2), path)
    refused(path, "it holds torch.nn.modules.sparse.Embedding, which takes pickle to read")
    torch.save(torch.tensor(X), path, _use_new_zipfile_serialization=False)
    refused(path, "as no pt file does")


def test_pt_members_are_held_against_what_is_unpickled(tmp_path):
    torch.save(torch.tensor(X), tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as whole:
        members = {info.filename: whole.read(info) for info in whole.infolist()}
    for how, says in ((zipfile.ZIP_STORED, "it is damaged"), (zipfile.ZIP_DEFLATED, "its members are compressed")):
        with zipfile.ZipFile(tmp_path / "a.pt", "w", how) as archive:
            for name, content in members.items():
                archive.writestr(name, content[:-4] if name.endswith("data/0") else content)
        refused(tmp_path / "a.pt", says)


@pytest.mark.parametrize(
    ("d", "size", "says"),
    [(10**9, 40, "start with the number 1000000000"), (0, 40, "start with the number 0"), (-5, 40, "the number -5"),
     (9, 40 - 4, "start with the number 9"), (5, 48 + 4, "truncated or widths differ"), (2, 2, "the number 0")],
)  # fmt: skip
def test_vecs(d, size, says, tmp_path):
    (tmp_path / "a.fvecs").write_bytes((struct.pack("<i", d) + bytes(max(0, size - 4)))[:size])
    refused(tmp_path / "a.fvecs", says)


def test_vecs_of_mixed_widths(tmp_path):
    vecs(tmp_path / "a.bvecs", samples.BYTES)
    whole = bytearray((tmp_path / "a.bvecs").read_bytes())
    whole[3 * 9] = 4
    (tmp_path / "a.bvecs").write_bytes(whole)
    refused(tmp_path / "a.bvecs", "row 3 says that it has 4 columns, but row 0 has 5")


def test_word2vec_binary(tmp_path):
    path = tmp_path / "a.bin"
    binary(path)
    whole = path.read_bytes()
    cases = {
        b"999999999 300\n" + bytes(90): "says 999999999 rows of 300, but 90 bytes follow",
        b"999999999999999999 999999999999999999\n" + bytes(90): "90 bytes follow",
        b"0 5\n": "0 rows of 5",
        b"7 0\n" + bytes(90): "7 rows of 0",
        b"6" + whole[1:]: "bytes follow the last of its 6 rows",
        b"8" + whole[1:] + bytes(22): "it ends within row 7 of the 8",
        b"1 1\n" + bytes(90): "it ends within row 0 of the 1",
        b"1 1\n\xff " + bytes(4): "the word of row 0 is not UTF-8",
        b"text\n" + bytes(90): "as no word2vec-binary file does",
    }
    for content, says in cases.items():
        path.write_bytes(content)
        refused(path, says)


LIBRARIES = {
    "parquet": "pyarrow",
    "arrow": "pyarrow",
    "csv": "pyarrow",
    "tsv": "pyarrow",
    "hdf5": "h5py",
    "safetensors": "safetensors",
    "pt": "torch",
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_missing_library_is_named(name, tmp_path, monkeypatch):
    assert files.FORMATS[name].library == LIBRARIES[name]
    path = next(sample for sample in SAMPLES if sample.format == name).at(tmp_path)

    def absent(module):
        raise ModuleNotFoundError(module)

    extra = "torch" if name == "pt" else "files"
    monkeypatch.setattr("geomkit.io.files.refusals.importlib.import_module", _unless(LIBRARIES[name], absent))
    with pytest.raises(BackendUnavailableError, match=rf"{LIBRARIES[name]}.*pip install 'geomkit\[{extra}\]'"):
        files.read(path)


def _unless(library, absent):
    real = importlib.import_module
    return lambda module: absent(module) if module.split(".")[0] == library else real(module)


def test_libraries_of_the_table():
    assert {row.name: row.library for row in files.FORMATS.values() if row.library} == LIBRARIES


def test_bfloat16_without_a_library_for_it(tmp_path, monkeypatch):
    samples.bfloat16(tmp_path / "b.safetensors")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(BackendUnavailableError, match="torch or ml_dtypes"):
        files.read(tmp_path / "b.safetensors")


def test_other_dtypes_of_safetensors(tmp_path):
    safetensors.torch.save_file({"x": torch.tensor(X).to(torch.complex64)}, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", "nothing in it is a two-dimensional tensor of numbers", "x: C64 (7, 5)")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_small_floats_of_safetensors_come_as_float32(tmp_path, dtype):
    x = torch.tensor(X).to(dtype)
    safetensors.torch.save_file({"x": x}, tmp_path / "a.safetensors")
    opened = files.read(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(opened.vectors, x.float().numpy())
    assert "as float32" in opened.note


def test_the_docstring_has_every_format():
    for row in files.FORMATS.values():
        line = re.search(rf"^{re.escape(row.name)} .*$", files.__doc__, re.MULTILINE)
        assert line is not None
        shown = line[0].split()[1 : 1 + len(row.suffixes)]
        assert tuple(each.strip(",") for each in shown) == row.suffixes
        assert ("``labels``" in _entry(row.name)) == bool(row.labels) or row.name == "tsv"
        assert (", .gz" in line[0]) == row.gzip


def _entry(name):
    """A format's lines in the table: its own and those that go on."""
    lines = files.__doc__.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(f"{name} "))
    more = next(i for i in range(first + 1, len(lines)) if not lines[i].startswith("  "))
    entry = " ".join(lines[first:more])
    return entry.replace("as parquet", "``labels``").replace("as csv", "``labels``")


def test_opening_needs_no_library_until_then():
    assert isinstance(files.FORMATS["npy"], files.Format)
    assert all(":" in row.target for row in files.FORMATS.values())
    with pytest.raises(InvalidInputError):
        files.read("nowhere.npy")
