"""Files of vectors: `read` opens one, and says what in it was taken for vectors.

A file is recognised by its suffix and, where the format has one, by how it starts. Nothing is unpickled, no link out
of a file is followed, and nothing of the size that a header merely claims is allocated: claims are held against the
size of the file first. Compressed content may come to 200 times its size in the file, or to 64 MiB.

=================  =========================  =======================================================================
format             suffixes                   vectors; ``key``; ``labels``
=================  =========================  =======================================================================
npy                .npy                       the array, memory-mapped
npz                .npz                       ``key``: an array, memory-mapped unless compressed; or scipy.sparse.
                                              ``labels``: a one-dimensional array
parquet            .parquet .pq               ``key``: a column of lists, of text such as "[0.1, 0.2]", of tensors or
                                              of bytes (``dtype``), also inside structs: ``key="a.b"``; or columns of
                                              numbers. ``labels`` and ``id``: columns
arrow              .arrow .feather .ipc       as parquet; file or stream, mapped where uncompressed and in one batch
jsonl              .jsonl .ndjson, .gz        a list a line, or ``key``: a field with one, or the path to it inside, as
                                              in ``vector.dense``; float64. ``labels`` and ``id``: fields
json               .json, .gz                 a list of such rows, or one object whose fields are columns; ``key`` and
                                              ``labels`` as in jsonl
csv                .csv, .gz                  columns of numbers, or ``key``: a column with text such as "[0.1, 0.2]";
                                              float64. ``labels`` and ``id``: columns
tsv                .tsv .tab, .gz             as csv
hdf5               .hdf5 .h5 .hdf             ``key``: a dataset; or `train` of ann-benchmarks. ``labels``: a dataset
fvecs              .fvecs                     rows of float32, memory-mapped
bvecs              .bvecs                     rows of uint8, memory-mapped
ivecs              .ivecs                     rows of int32, memory-mapped
fbin               .fbin                      BigANN's float32 behind its shape, memory-mapped
u8bin              .u8bin                     BigANN's uint8, memory-mapped
i8bin              .i8bin                     BigANN's int8, memory-mapped
ibin               .ibin                      BigANN's int32, memory-mapped
safetensors        .safetensors               ``key``: a tensor, memory-mapped; bfloat16 through torch or ml_dtypes.
                                              float8 as float32. ``labels``: a one-dimensional tensor
pt                 .pt .pth                   a tensor, or ``key``: one of a dict, memory-mapped; by `torch.load` with
                                              ``weights_only``. ``labels``: a one-dimensional tensor
word2vec-text      .txt .vec, .gz             first line "rows columns", then a word and its numbers a line; float32
glove              .txt .vec, .gz             a word and its numbers a line, no first line; float32. Or numbers alone,
                                              as ``numpy.savetxt`` writes them; float64
word2vec-binary    .bin                       first line "rows columns", then word, space, float32
=================  =========================  =======================================================================

Where several things in a file could be the vectors, `key` must say which. In tables, what looks like vectors in a form
that is not read is refused, and a column of numbers that counts or names the rows is left out; `Opened.note` says what
was taken and what was left out, and `columns` and `exclude` decide otherwise. Labels and names come back as text.
"""

import importlib
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from geomkit.core.matrix import as_matrix
from geomkit.errors import InvalidInputError
from geomkit.io.files.record import Format, Opened, Selection
from geomkit.io.files.refusals import refusal, shorten
from geomkit.io.files.streams import open_bytes
from geomkit.io.files.words import HEADER

__all__ = ["FORMATS", "Format", "Opened", "read", "selection_of"]


FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        Format(
            "npy", (".npy",), "One NumPy array, memory-mapped.", "geomkit.io.files.numpy_:read_npy",
            magic=re.compile(rb"\x93NUMPY"), options=("bits",),
        ),
        Format(
            "npz", (".npz",), "NumPy arrays by name, or a sparse matrix of scipy.", "geomkit.io.files.numpy_:read_npz",
            magic=re.compile(rb"PK\x03\x04|PK\x05\x06"), key="an array", labels="a one-dimensional array",
            options=("bits",),
        ),
        Format(
            "parquet", (".parquet", ".pq"), "A column of lists, or numeric columns.",
            "geomkit.io.files.columnar:read_parquet", magic=re.compile(rb"PAR1"), library="pyarrow",
            key="a column of lists", labels="a column", options=("columns", "exclude", "id", "dtype", "bits"),
        ),
        Format(
            "arrow", (".arrow", ".feather", ".ipc"), "A column of lists, or numeric columns; a file or a stream.",
            "geomkit.io.files.columnar:read_arrow", magic=re.compile(rb"ARROW1|\xff\xff\xff\xff"), library="pyarrow",
            key="a column of lists", labels="a column", options=("columns", "exclude", "id", "dtype", "bits"),
        ),
        Format(
            "jsonl", (".jsonl", ".ndjson"), "A list of numbers a line, or an object with one.",
            "geomkit.io.files.jsonl:read_jsonl", key="a field with a list of numbers", labels="a field", gzip=True,
            options=("exclude", "id"),
        ),
        Format(
            "json", (".json",), "A list of rows, or an object of columns.", "geomkit.io.files.jsonl:read_json",
            key="a field with a list of numbers", labels="a field", gzip=True, options=("exclude", "id"),
        ),
        Format(
            "csv", (".csv",), "Columns of numbers, or a column of vectors as text.", "geomkit.io.files.csv_:read_csv",
            library="pyarrow", key="a column of vectors as text", labels="a column", gzip=True,
            options=("columns", "exclude", "id", "encoding"),
        ),
        Format(
            "tsv", (".tsv", ".tab"), "Columns of numbers, or a column of vectors as text.",
            "geomkit.io.files.csv_:read_tsv", library="pyarrow", key="a column of vectors as text", labels="a column",
            gzip=True, options=("columns", "exclude", "id", "encoding"),
        ),
        Format(
            "hdf5", (".hdf5", ".h5", ".hdf"), "A two-dimensional dataset; `train` in the layout of ann-benchmarks.",
            "geomkit.io.files.hdf5:read_hdf5", library="h5py", key="a dataset", labels="a one-dimensional dataset",
            options=("bits",),
            # A block of the user's own, of 512 bytes or a power of two above, may come first.
            magic=re.compile(rb"(?s)(?:.{512}|.{1024}|.{2048}|.{4096})?\x89HDF\r\n\x1a\n"),
        ),
        Format("fvecs", (".fvecs",), "Rows of float32 behind their width.", "geomkit.io.files.xvecs:read_fvecs"),
        Format(
            "bvecs", (".bvecs",), "Rows of uint8 behind their width.", "geomkit.io.files.xvecs:read_bvecs",
            options=("bits",),
        ),
        Format("ivecs", (".ivecs",), "Rows of int32 behind their width.", "geomkit.io.files.xvecs:read_ivecs"),
        *(
            Format(
                name, (f".{name}",), f"A matrix of {dtype} behind its shape.", f"geomkit.io.files.xvecs:read_{name}",
                options=("bits",) if dtype == "uint8" else (),
            )
            for name, dtype in (("fbin", "float32"), ("u8bin", "uint8"), ("i8bin", "int8"), ("ibin", "int32"))
        ),
        Format(
            "safetensors", (".safetensors",), "A two-dimensional tensor, memory-mapped.",
            "geomkit.io.files.tensors:read_safetensors", library="safetensors", key="a tensor",
            labels="a one-dimensional tensor", options=("bits",),
        ),
        Format(
            "pt", (".pt", ".pth"), "A two-dimensional tensor that torch saved, memory-mapped.",
            "geomkit.io.files.tensors:read_pt", magic=re.compile(rb"PK\x03\x04"), library="torch", key="a tensor",
            labels="a one-dimensional tensor", options=("bits",),
        ),
        Format(
            "word2vec-text", (".txt", ".vec"), "Rows and columns, then a word and its numbers a line.",
            "geomkit.io.files.words:read_text", magic=HEADER, gzip=True, options=("encoding",),
        ),
        Format(
            "glove", (".txt", ".vec"), "A word and its numbers a line.", "geomkit.io.files.words:read_glove", gzip=True,
            options=("encoding",),
        ),
        Format(
            "word2vec-binary", (".bin",), "Rows and columns, then each word and its float32.",
            "geomkit.io.files.words:read_binary", magic=HEADER, options=("encoding",),
        ),
    )
}  # fmt: skip
"""Every format by name."""

_HEAD = 4096 + 8
_DTYPES = ("float16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64")
"""What bytes may hold."""


def read(
    path: str | os.PathLike[str],
    *,
    labels: str | None = None,
    key: str | None = None,
    columns: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    id: str | None = None,  # noqa: A002 - what it is called everywhere
    dtype: str | None = None,
    encoding: str | None = None,
    bits: bool = False,
    queries: bool = False,
) -> Opened:
    r"""Open a file of vectors.

    Parameters
    ----------
    path : str or path
        A file in one of `FORMATS`, recognised by its suffix in upper or lower case.
    labels : str, optional
        Which column, field, array, dataset or tensor holds a label for each row.
    key : str, optional
        Which array, column, field, dataset or tensor holds the vectors; needed where several could. In JSON and in
        structs of Parquet and Arrow it may be a path such as ``response.body.data.0.embedding``.
    columns : str or sequence of str, optional
        Which columns of single numbers are the coordinates: names, or patterns such as ``dim_*``.
    exclude : str or sequence of str, optional
        Which columns are no vectors, whatever they look like: names, or patterns.
    id : str, optional
        Which column or field names the rows.
    dtype : {"float16", "float32", "float64", ...}, optional
        What columns of bytes hold.
    encoding : str, optional
        Of text, such as ``latin-1``; UTF-8 unless given.
    bits : bool
        Whether values are bits: booleans, or uint8 with eight each, the highest first. They are given as 0 and 1.
    queries : bool
        Whether vectors are queries: of the layout of ann-benchmarks, `test` is taken and not `train`.

    Returns
    -------
    Opened
        `vectors` is what every measurement takes: (n, d) with n and d at least 1, in the dtype of the file.
        Numbers written as text come as float64, of word vectors as float32. NaN and infinities are kept.

    Raises
    ------
    InvalidInputError
        There is no such file, its suffix is unknown, it is damaged or claims more than it holds, it holds no matrix of
        numbers or several, or in a form that is not read, or labels are missing. The message names the file, what it
        has and what it must have.
    BackendUnavailableError
        The library that reads the format is not installed; the message says what to install.

    Notes
    -----
    One pass. What is memory-mapped takes no memory until it is used; the rest is held once, beside one batch. The file
    must not be changed while it is mapped.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.csv"
    >>> _ = path.write_text('id,text,embedding\n7,some text,"[0.1, 0.2]"\n9,other text,"[0.3, 0.5]"\n')
    >>> opened = read(path, labels="text")
    >>> opened.vectors
    array([[0.1, 0.2],
           [0.3, 0.5]])
    >>> opened.note
    "header, column 'embedding'; left out ['id']"
    """
    file = _regular_file(path)
    row = _recognise(file)
    selection = selection_of(
        labels=labels,
        key=key,
        columns=columns,
        exclude=exclude,
        id=id,
        dtype=dtype,
        encoding=encoding,
        bits=bits,
        queries=queries,
    )
    _check_takes(file, row, selection)
    module, function = row.target.split(":")
    opened: Opened = getattr(importlib.import_module(module), function)(file, selection)
    if selection.bits:
        opened = replace(opened, vectors=_as_bits(file, opened.vectors), note=f"{opened.note}; bits".lstrip("; "))
    as_matrix(opened.vectors, name=str(file), min_rows=1)
    return opened


def selection_of(**given: Any) -> Selection:
    """Return what a caller asks for, with a name alone in place of a list of one, once its types are right."""
    for name in ("columns", "exclude"):
        value = given.get(name) or ()
        given[name] = (value,) if isinstance(value, str) else tuple(value)
        if not all(isinstance(part, str) for part in given[name]):
            msg = f"{name} must be text, or a list of it; got {shorten(value)}"
            raise InvalidInputError(msg)
    for name in ("key", "labels", "id", "dtype", "encoding"):
        if (value := given.get(name)) is not None and not isinstance(value, str):
            msg = f"{name} must be text; got {shorten(value)}"
            raise InvalidInputError(msg)
    if (dtype := given.get("dtype")) is not None and dtype not in _DTYPES:
        msg = f"dtype must be one of {list(_DTYPES)}; got {dtype!r}"
        raise InvalidInputError(msg)
    if (encoding := given.get("encoding")) is not None:
        try:
            # Python has codecs that are no encodings of text, such as hex.
            "a".encode(encoding)
        except (LookupError, UnicodeError) as why:
            msg = f"encoding must be one that Python has, such as 'latin-1'; got {encoding!r}"
            raise InvalidInputError(msg) from why
    return Selection(**given)


def _check_takes(path: Path, row: Format, selection: Selection) -> None:
    for name, means in (("key", row.key), ("labels", row.labels)):
        if (value := getattr(selection, name)) is not None and not means:
            raise refusal(path, f"{name} is {value!r}, but {row.name} files have nothing by name; it must be None")
    for name in ("columns", "exclude", "id", "dtype", "encoding", "bits"):
        if (value := getattr(selection, name)) and name not in row.options:
            takers = ", ".join(other.name for other in FORMATS.values() if name in other.options)
            raise refusal(path, f"{name} is {value!r}, which {row.name} files don't take; it is for {takers}")


def _as_bits(path: Path, vectors: Any) -> Any:
    """Return booleans, or the bits of bytes, as 0 and 1 in uint8."""
    if vectors.dtype == np.bool_:
        return np.asarray(vectors).astype(np.uint8)
    if vectors.dtype == np.uint8 and isinstance(vectors, np.ndarray):
        return np.unpackbits(vectors, axis=1)
    raise refusal(path, f"bits is True, but its vectors are {vectors.dtype}; they must be bool or uint8")


def _regular_file(path: str | os.PathLike[str]) -> Path:
    try:
        where = Path(path)
        found = where.stat()
        if stat.S_ISREG(found.st_mode):
            with where.open("rb"):
                pass
    except TypeError as why:
        msg = f"path must be a file's name; got {shorten(path)}"
        raise InvalidInputError(msg) from why
    except (OSError, ValueError) as why:
        reason = getattr(why, "strerror", None) or str(why)
        msg = f"{path}: cannot be opened ({reason}); it must be a file that can be read"
        raise InvalidInputError(msg) from why
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "not a regular file"
        raise refusal(where, f"it is {kind}; it must be a file")
    if found.st_size == 0:
        raise refusal(where, "it is empty; it must hold vectors")
    return where


def _recognise(path: Path) -> Format:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    zipped = suffixes[-1:] == [".gz"]
    suffix = next(iter(suffixes[-2:-1] if zipped else suffixes[-1:]), "")
    rows = [row for row in FORMATS.values() if suffix in row.suffixes and (row.gzip or not zipped)]
    if not rows:
        known = sorted({each for row in FORMATS.values() for each in row.suffixes})
        texts = sorted({each for row in FORMATS.values() for each in row.suffixes if row.gzip})
        ends = "".join(suffixes[-2:] if zipped else suffixes[-1:])
        msg = f"its suffix is {ends!r}; it must be one of {', '.join(known)}, or {', '.join(texts)} with .gz"
        raise refusal(path, msg)
    with open_bytes(path) as file:
        head = file.read(_HEAD)
    for row in rows:
        if row.magic is None or row.magic.match(head):
            return row
    names = " or ".join(row.name for row in rows)
    raise refusal(path, f"it starts with {head[:8]!r}, as no {names} file does; its suffix must say what it is")
