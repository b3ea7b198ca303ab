"""NumPy's own files: .npy, and .npz with dense arrays or SciPy's sparse matrices. Pickle is never read."""

import io
import math
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from geomkit.io.files.record import Opened, Selection
from geomkit.io.files.refusals import check_claim, library_errors, pick, refusal
from geomkit.io.files.rows import as_labels

__all__ = ["read_npy", "read_npz"]

_MAGIC = b"\x93NUMPY"
_VERSIONS = {(1, 0), (2, 0), (3, 0)}
_LONGEST_HEADER = 10_000  # as NumPy has it: its parser is not safe beyond

_DEFLATE = 1032
"""Deflate makes at most so many bytes of one; more is a header that lies."""
_LOCAL_HEADER = struct.Struct("<26xHH")
_SPARSE = {"format", "shape", "data"}
_SPARSE_PARTS = {"csr": ("indices", "indptr"), "csc": ("indices", "indptr"), "coo": ("row", "col")}


class _Header:
    """What the header of an array in NumPy's format says, and how many bytes it takes."""

    def __init__(self, path: Path, what: str, file: IO[bytes]) -> None:
        start = file.read(12)
        version = tuple(start[6:8])
        if start[:6] != _MAGIC or version not in _VERSIONS or len(start) < 12:
            msg = f"{what} starts with {start[:8]!r}; it must start with {_MAGIC!r} and be of version 1, 2 or 3"
            raise refusal(path, msg)
        fixed, length = (10, int.from_bytes(start[8:10], "little")) if version == (1, 0) else (
            12, int.from_bytes(start[8:12], "little"))  # fmt: skip
        if length > _LONGEST_HEADER:
            msg = f"{what} claims a header of {length:,} bytes; it may have at most {_LONGEST_HEADER:,}"
            raise refusal(path, msg)
        head = io.BytesIO(start + file.read(max(0, fixed + length - len(start))))
        head.seek(8)
        with library_errors(path, "numpy"):
            # Version 3 differs from 2 in how names of fields are encoded; arrays with fields are refused.
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, self.fortran, self.dtype = read(head)
        self.length = fixed + length
        if min(self.shape, default=0) < 0:
            raise refusal(path, f"{what} claims the shape {self.shape}; no side may be negative")
        self.size = math.prod(self.shape) * self.dtype.itemsize  # of Python's integers, which do not overflow

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"

    def is_matrix(self, *, bits: bool = False) -> bool:
        return len(self.shape) == 2 and self.dtype.kind in ("fiub" if bits else "fiu")

    def is_column(self) -> bool:
        return len(self.shape) == 1 and self.dtype.kind in "fiubSU"

    def check_objects(self, path: Path, what: str) -> None:
        """Refuse what only pickle could read."""
        if self.dtype.hasobject:
            msg = f"{what} holds Python objects ({self.dtype}), which take pickle to read; it must hold numbers"
            raise refusal(path, f"{msg}: save np.stack(x) of an array of arrays")

    def check_matrix(self, path: Path, what: str, *, bits: bool = False) -> None:
        """Refuse what is not a matrix of numbers, or is an empty one, which cannot be mapped."""
        self.check_objects(path, what)
        if not self.is_matrix(bits=bits) or 0 in self.shape:
            msg = f"{what} is of {self.dtype} and has the shape {self.shape}"
            raise refusal(path, f"{msg}; it must be a matrix of numbers, at least 1 x 1")

    def check_size(self, path: Path, what: str, held: int) -> None:
        """Refuse a header that does not go with the bytes that follow; of pickled objects no header says how many."""
        if not self.dtype.hasobject and self.length + self.size != held:
            msg = (
                f"{what} claims the shape {self.shape} of {self.dtype}, {self.size:,} bytes, but holds "
                f"{max(0, held - self.length):,}; it is truncated or damaged"
            )
            raise refusal(path, msg)

    def mapped(self, path: Path, offset: int) -> NDArray[Any]:
        order = "F" if self.fortran else "C"
        return np.memmap(path, self.dtype, "r", offset + self.length, self.shape, order)  # type: ignore[call-overload, no-any-return]


def read_npy(path: Path, selection: Selection) -> Opened:
    """Map the array of a .npy file into memory."""
    with path.open("rb") as file:
        header = _Header(path, "the array", file)
    header.check_matrix(path, "the array", bits=selection.bits)
    header.check_size(path, "the array", path.stat().st_size)
    return Opened(header.mapped(path, 0), None, None, "npy", "")


def read_npz(path: Path, selection: Selection) -> Opened:
    """Map or read one array of a .npz file, or a sparse matrix that SciPy saved."""
    with library_errors(path, "zipfile"):
        archive = zipfile.ZipFile(path)
    with archive:
        members = _Members(path, archive)
        headers = members.headers
        if set(headers) >= _SPARSE and selection.key is None:
            return _sparse(path, members, selection.labels)
        if selection.key is None and len(headers) == 1:
            (name,) = headers  # an archive of one array is about that array, whatever is wrong with it
        else:
            matrices = [name for name, header in headers.items() if header.is_matrix(bits=selection.bits)]
            kinds = {name: str(header) for name, header in headers.items()}
            name = pick(path, matrices, selection.key, "a matrix of numbers", others=kinds)
        headers[name].check_matrix(path, repr(name), bits=selection.bits)
        vectors = members.array(name, mapped=True)
        note = f"array {name!r}, {'memory-mapped' if isinstance(vectors, np.memmap) else 'read into memory'}"
        return Opened(vectors, members.labels(selection.labels, len(vectors)), None, "npz", note)


class _Members:
    """The arrays of an archive by name; their headers are read, and checked against the file, at once."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path, self._archive = path, archive
        self._stored = path.stat().st_size
        self._infos: dict[str, zipfile.ZipInfo] = {}
        self.headers: dict[str, _Header] = {}
        for info in archive.infolist():
            if not info.filename.endswith(".npy"):
                continue
            name = info.filename.removesuffix(".npy")
            if name in self._infos:
                raise refusal(path, f"it has {name!r} twice; names must be unique")
            self._check_claim(name, info)
            with library_errors(path, "zipfile"), archive.open(info) as file:
                header = _Header(path, repr(name), file)
            header.check_size(path, repr(name), info.file_size)
            self._infos[name], self.headers[name] = info, header
        if not self._infos:
            raise refusal(path, "it has no arrays; it must have at least 1 member that ends in .npy")

    def _check_claim(self, name: str, info: zipfile.ZipInfo) -> None:
        if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            msg = f"{name!r} is compressed by method {info.compress_type}; it must be stored or deflated, as by NumPy"
            raise refusal(self._path, msg)
        most = info.compress_size * (_DEFLATE if info.compress_type == zipfile.ZIP_DEFLATED else 1)
        if info.compress_size > self._stored or info.file_size > most:
            msg = f"{name!r} claims {info.file_size:,} bytes of {info.compress_size:,} in a file of {self._stored:,}"
            raise refusal(self._path, f"{msg}; it is damaged")
        check_claim(self._path, repr(name), (info.file_size,), 1, info.compress_size)

    def array(self, name: str, *, mapped: bool = False) -> NDArray[Any]:
        """Return one array, mapped if that is asked for and it is not compressed."""
        info, header = self._infos[name], self.headers[name]
        header.check_objects(self._path, repr(name))
        if mapped and info.compress_type == zipfile.ZIP_STORED:
            start = self._start(info)
            if start + info.file_size <= self._stored:
                return header.mapped(self._path, start)
        with library_errors(self._path, "zipfile"), self._archive.open(info) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    def _start(self, info: zipfile.ZipInfo) -> int:
        """Where the bytes of a member start: behind a header of its own, which `open` has checked already."""
        with self._path.open("rb") as file:
            file.seek(info.header_offset)
            name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        return int(info.header_offset + _LOCAL_HEADER.size + name + extra)

    def labels(self, name: str | None, n: int) -> tuple[str, ...] | None:
        if name is None:
            return None
        columns = [column for column, header in self.headers.items() if header.is_column()]
        kinds = {column: str(header) for column, header in self.headers.items()}
        pick(self._path, columns, name, "a one-dimensional array, one label a row", others=kinds, by="labels")
        return as_labels(self._path, f"array {name!r}", self.array(name).tolist(), n)


def _sparse(path: Path, members: _Members, labels: str | None) -> Opened:
    from scipy import sparse

    kind, shape = members.array("format"), members.array("shape")
    if kind.shape != () or kind.dtype.kind not in "SU":
        raise refusal(path, "'format' is not the name of a sparse format; it must be csr, csc or coo")
    name = kind.item().decode("latin-1") if kind.dtype.kind == "S" else str(kind.item())
    if name not in _SPARSE_PARTS:
        raise refusal(path, f"it is a sparse matrix of format {name!r}; it must be csr, csc or coo: save x.tocsr()")
    if missing := [part for part in _SPARSE_PARTS[name] if part not in members.headers]:
        raise refusal(path, f"it is a sparse {name} matrix without {missing}; it must have them")
    if shape.shape != (2,) or shape.dtype.kind not in "iu" or shape.min() < 1:
        raise refusal(
            path, f"it is a sparse matrix of shape {shape.tolist()}; it must have at least 1 row and 1 column"
        )
    if members.headers["data"].dtype.kind not in "fiu":
        raise refusal(path, f"its values are of {members.headers['data'].dtype}; they must be numbers")
    n, d = (int(side) for side in shape)
    check_claim(path, "where its rows start", (n + 1,), 8, path.stat().st_size)
    with library_errors(path, "scipy"):
        # Out of range, an index would be followed beyond the array: checked before anything follows it.
        loaded: Any = sparse.load_npz(path)
        if name == "coo":
            loaded = sparse.coo_array((loaded.data, (loaded.row, loaded.col)), shape=(n, d))
        else:
            loaded.check_format(full_check=True)
        vectors = sparse.csr_array(loaded)
    note = "sparse" if name == "csr" else f"sparse, converted from {name} to csr"
    return Opened(vectors, members.labels(labels, n), None, "npz", note)
