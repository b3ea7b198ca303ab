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
parquet            .parquet .pq               ``key``: a column of lists; or all numeric columns. ``labels``: a column
arrow              .arrow .feather .ipc       as parquet; file or stream, mapped where uncompressed and in one batch
jsonl              .jsonl .ndjson, .gz        a list a line, or ``key``: a field with one; float64. ``labels``: a field
csv                .csv, .gz                  columns that are numeric in the first row; float64. ``labels``: a column
tsv                .tsv .tab, .gz             as csv
hdf5               .hdf5 .h5 .hdf             ``key``: a dataset; or `train` of ann-benchmarks. ``labels``: a dataset
fvecs              .fvecs                     rows of float32, memory-mapped
bvecs              .bvecs                     rows of uint8, memory-mapped
ivecs              .ivecs                     rows of int32, memory-mapped
safetensors        .safetensors               ``key``: a tensor, memory-mapped; bfloat16 through torch or ml_dtypes.
                                              ``labels``: a one-dimensional tensor
word2vec-text      .txt .vec, .gz             first line "rows columns", then a word and its numbers a line; float32
glove              .txt .vec, .gz             a word and its numbers a line, no first line; float32
word2vec-binary    .bin                       first line "rows columns", then word, space, float32
=================  =========================  =======================================================================

Where several things in a file could be the vectors, `key` must say which. Labels and names come back as text.
"""

import importlib
import os
import re
import stat
from pathlib import Path

from geomkit.core.matrix import as_matrix
from geomkit.errors import InvalidInputError
from geomkit.io.files.record import Format, Opened
from geomkit.io.files.refusals import refusal, shorten
from geomkit.io.files.streams import open_bytes
from geomkit.io.files.words import HEADER

__all__ = ["FORMATS", "Format", "Opened", "read"]


FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        Format(
            "npy", (".npy",), "One NumPy array, memory-mapped.", "geomkit.io.files.numpy_:read_npy",
            magic=re.compile(rb"\x93NUMPY"),
        ),
        Format(
            "npz", (".npz",), "NumPy arrays by name, or a sparse matrix of scipy.", "geomkit.io.files.numpy_:read_npz",
            magic=re.compile(rb"PK\x03\x04|PK\x05\x06"), key="an array", labels="a one-dimensional array",
        ),
        Format(
            "parquet", (".parquet", ".pq"), "A column of lists, or numeric columns.",
            "geomkit.io.files.columnar:read_parquet", magic=re.compile(rb"PAR1"), library="pyarrow",
            key="a column of lists", labels="a column",
        ),
        Format(
            "arrow", (".arrow", ".feather", ".ipc"), "A column of lists, or numeric columns; a file or a stream.",
            "geomkit.io.files.columnar:read_arrow", magic=re.compile(rb"ARROW1|\xff\xff\xff\xff"), library="pyarrow",
            key="a column of lists", labels="a column",
        ),
        Format(
            "jsonl", (".jsonl", ".ndjson"), "A list of numbers a line, or an object with one.",
            "geomkit.io.files.jsonl:read_jsonl", key="a field with a list of numbers", labels="a field", gzip=True,
        ),
        Format(
            "csv", (".csv",), "Columns that are numeric in the first row.", "geomkit.io.files.csv_:read_csv",
            library="pyarrow", labels="a column", gzip=True,
        ),
        Format(
            "tsv", (".tsv", ".tab"), "Columns that are numeric in the first row.", "geomkit.io.files.csv_:read_tsv",
            library="pyarrow", labels="a column", gzip=True,
        ),
        Format(
            "hdf5", (".hdf5", ".h5", ".hdf"), "A two-dimensional dataset; `train` in the layout of ann-benchmarks.",
            "geomkit.io.files.hdf5:read_hdf5", library="h5py", key="a dataset", labels="a one-dimensional dataset",
            # A block of the user's own, of 512 bytes or a power of two above, may come first.
            magic=re.compile(rb"(?s)(?:.{512}|.{1024}|.{2048}|.{4096})?\x89HDF\r\n\x1a\n"),
        ),
        Format("fvecs", (".fvecs",), "Rows of float32 behind their width.", "geomkit.io.files.xvecs:read_fvecs"),
        Format("bvecs", (".bvecs",), "Rows of uint8 behind their width.", "geomkit.io.files.xvecs:read_bvecs"),
        Format("ivecs", (".ivecs",), "Rows of int32 behind their width.", "geomkit.io.files.xvecs:read_ivecs"),
        Format(
            "safetensors", (".safetensors",), "A two-dimensional tensor, memory-mapped.",
            "geomkit.io.files.tensors:read_safetensors", library="safetensors", key="a tensor",
            labels="a one-dimensional tensor",
        ),
        Format(
            "word2vec-text", (".txt", ".vec"), "Rows and columns, then a word and its numbers a line.",
            "geomkit.io.files.words:read_text", magic=HEADER, gzip=True,
        ),
        Format(
            "glove", (".txt", ".vec"), "A word and its numbers a line.", "geomkit.io.files.words:read_glove", gzip=True
        ),
        Format(
            "word2vec-binary", (".bin",), "Rows and columns, then each word and its float32.",
            "geomkit.io.files.words:read_binary", magic=HEADER,
        ),
    )
}  # fmt: skip
"""Every format by name."""

_HEAD = 4096 + 8


def read(path: str | os.PathLike[str], *, labels: str | None = None, key: str | None = None) -> Opened:
    """Open a file of vectors.

    Parameters
    ----------
    path : str or path
        A file in one of `FORMATS`, recognised by its suffix in upper or lower case.
    labels : str, optional
        Which column, field, array, dataset or tensor holds a label for each row.
    key : str, optional
        Which array, column, field, dataset or tensor holds the vectors; needed where several could.

    Returns
    -------
    Opened
        `vectors` is what every measurement takes: (n, d) with n and d at least 1, in the dtype of the file.
        Numbers written as text come as float64, of word vectors as float32. NaN and infinities are kept.

    Raises
    ------
    InvalidInputError
        There is no such file, its suffix is unknown, it is damaged or claims more than it holds, it holds no matrix of
        numbers or several, or labels are missing. The message names the file, what it has and what it must have.
    BackendUnavailableError
        The library that reads the format is not installed; the message says what to install.

    Notes
    -----
    One pass. What is memory-mapped takes no memory until it is used; the rest is held once, beside one batch. The file
    must not be changed while it is mapped.
    """
    where = _regular_file(path)
    row = _recognise(where)
    asked: tuple[tuple[str, object, str], ...] = (("key", key, row.key), ("labels", labels, row.labels))
    for name, value, means in asked:
        if value is not None and not isinstance(value, str):
            msg = f"{name} must be text; got {shorten(value)}"
            raise InvalidInputError(msg)
        if value is not None and not means:
            raise refusal(where, f"{name} is {value!r}, but {row.name} files have nothing by name; it must be None")
    module, function = row.target.split(":")
    opened: Opened = getattr(importlib.import_module(module), function)(where, labels, key)
    as_matrix(opened.vectors, name=str(where), min_rows=1)
    return opened


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
