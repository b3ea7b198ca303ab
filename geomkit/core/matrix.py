"""The friendly layer: anything array-like in, a checked matrix out.

What reaches the statistics from here is two-dimensional, has at least as many rows as asked, and a dtype that the
kernels know how to read. Nothing is copied whole: rows are converted block by block, when a block is needed.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geomkit.core.executor import Pass
from geomkit.core.frames import unwrapped
from geomkit.core.row_source import RowSlice, RowSource
from geomkit.core.validation import check_on_invalid, name_rows
from geomkit.errors import InvalidInputError

__all__ = [
    "Matrix",
    "as_matrix",
    "check_same_width",
    "finite_rows",
    "reject_invalid",
    "reject_rows",
]

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_ACCEPTED = "float16, bfloat16, float32, float64, integers or booleans"


@dataclass(frozen=True, slots=True)
class Matrix:
    """A checked n x d matrix that stays where, and as, its owner keeps it."""

    name: str
    """What the caller calls it, for messages."""
    data: Any
    """ndarray (memory maps included), torch tensor, `RowSource` rows, or scipy CSR array with sorted indices and no
    duplicates."""
    kind: Literal["numpy", "torch", "sparse", "stored"]
    n: int
    d: int
    dtype: str
    keep: NDArray[np.int64] | None = None
    """Row numbers that are left after dropping invalid rows; None where all are."""
    places: tuple[str, ...] = ()
    """Names of the devices where work happens, of one kind; empty for where the data lies."""

    @property
    def device(self) -> Any:
        """The torch device where blocks of rows go, the first of several; None for the host's memory."""
        return self.devices[0]

    @property
    def devices(self) -> tuple[Any, ...]:
        """The torch devices where work happens; None for the host's memory."""
        if not self.places:
            return (self.data.device if self.kind == "torch" else None,)
        import torch

        return tuple(torch.device(place) for place in self.places)

    @property
    def on_accelerator(self) -> bool:
        """Whether work happens on a GPU or the like."""
        if self.places:
            return not self.places[0].startswith("cpu")
        return self.kind == "torch" and self.data.device.type != "cpu"

    @property
    def crew(self) -> "Matrix":
        """The matrix itself, which runs passes over its rows; callers of `each_block` named it so before."""
        return self

    def run(self, work: Pass) -> Any:
        """Run a pass: in this process, unless the rows are of a source that shares passes out."""
        return self.data.run(work) if self.kind == "stored" else work.run_here()

    def placed(self, places: tuple[str, ...]) -> "Matrix":
        """Return the same matrix, to be worked on elsewhere; its data stays where it lies."""
        return replace(self, places=places)

    @property
    def n_dropped(self) -> int:
        """How many rows ``on_invalid="drop"`` left out."""
        return int(self.data.shape[0]) - self.n

    @property
    def longest_row(self) -> int:
        """Most stored entries in a row: the length of the longest sum that a product of rows can have."""
        return int(np.diff(self.data.indptr).max(initial=0)) if self.kind == "sparse" else self.d

    def in_input(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers that rows with these numbers have in the data as given."""
        return numbers if self.keep is None else self.keep[numbers]

    def without(self, bad: NDArray[np.int64]) -> "Matrix":
        """Return the same matrix less the rows numbered in `bad`."""
        rows = np.delete(np.arange(self.n) if self.keep is None else self.keep, bad)
        return replace(self, n=len(rows), keep=rows)

    def name_rows(self, rows: NDArray[Any]) -> str:
        """Say how many rows, and the first few; and of stored rows, where the first one is."""
        said = name_rows(rows)
        if self.kind != "stored":
            return said
        first = int(rows[0])
        return f"{said[:-1]}; the first is {self.data.where(first if self.keep is None else int(self.keep[first]))})"

    def rows(self, start: int, stop: int) -> Any:
        """Rows as stored: an ndarray, tensor or CSR block."""
        if self.kind == "stored":
            return self.data.read(start, stop) if self.keep is None else self.data.take(self.keep[start:stop])
        part: Any = slice(start, stop)
        if self.keep is not None:
            part = self.keep[start:stop]
            if self.kind == "torch":
                import torch

                part = torch.from_numpy(part).to(self.data.device)
        return self.data[part]

    def block(self, start: int, stop: int) -> Any:
        """Dense rows in float32, or in float64 where float32 could not hold the stored values exactly."""
        return self._dense(self.rows(start, stop))

    def part(self, start: int, stop: int) -> "Matrix":
        """Return rows ``start:stop`` of a row source as a matrix, whose passes run in this process."""
        if self.keep is None:
            return replace(self, data=RowSlice(self.data, start, stop), n=stop - start)
        return replace(
            self, data=RowSlice(self.data, 0, self.data.shape[0]), n=stop - start, keep=self.keep[start:stop]
        )

    def take(self, numbers: NDArray[np.int64]) -> Any:
        """Return the rows with these numbers, dense, as `block` does."""
        kept = self.in_input(numbers)
        if self.kind == "torch":
            import torch

            return self._dense(self.data[torch.from_numpy(kept).to(self.data.device)])
        return self._dense(self.data.take(kept) if self.kind == "stored" else self.data[kept])

    def prefetch(self, start: int, stop: int) -> None:
        """Hint that rows ``start:stop`` will be read soon."""
        if self.kind == "stored" and self.keep is None:
            self.data.prefetch(start, min(stop, self.n))

    def _dense(self, block: Any) -> Any:
        wide = self.dtype not in {"float16", "bfloat16", "float32", "int8", "uint8", "int16", "uint16"}
        if self.kind == "sparse":
            block = block.toarray()
        if self.kind == "torch":
            import torch

            # Moved as it is stored, which is never more than what it becomes.
            block = block.to(self.device).to(torch.float64 if wide else torch.float32)
            return block if self.on_accelerator else block.numpy()
        return np.ascontiguousarray(block, np.float64 if wide else np.float32)

    def blocks(self, size: int) -> Iterator[tuple[int, int]]:
        """(start, stop) of consecutive blocks of at most `size` rows."""
        for start in range(0, self.n, size):
            yield start, min(start + size, self.n)


def as_matrix(x: Any, *, name: str = "x", min_rows: int = 2) -> Matrix:  # noqa: PLR0911 (one for each kind)
    """Check the shape and dtype of anything array-like.

    Parameters
    ----------
    x : array_like (n, d)
        NumPy array or memory map, torch tensor, scipy sparse matrix or array, `geomkit.Shards`, anything with
        ``__array__`` or ``__dlpack__``, a column of lists or arrays of pandas, polars, pyarrow or `datasets`, gensim's
        KeyedVectors, or nested sequences of numbers. float16, bfloat16, float32, float64,
        integers, or booleans, which are read as 0 and 1.
    name : str
        What messages call it.
    min_rows : int
        Least number of rows.

    Returns
    -------
    Matrix
        A view: dense data is not copied. Values are not read yet.

    Raises
    ------
    InvalidInputError
        Not two-dimensional, too few rows, no columns, or a dtype that cannot be measured.
    """
    if isinstance(x, RowSource):
        return _from_stored(x, name, min_rows)
    if _is_torch(x):
        return _from_torch(x, name, min_rows)
    x = unwrapped(x, name)
    if "scipy.sparse" in sys.modules:
        import scipy.sparse

        if scipy.sparse.issparse(x):
            return _from_sparse(x, name, min_rows)
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        msg = f"{name} has {int(np.ma.getmaskarray(x).sum())} masked entries, which have no value; fill or drop them"
        raise InvalidInputError(msg)
    if not isinstance(x, np.ndarray) and _is_elsewhere(x):
        return _from_device(x, name, min_rows)
    if hasattr(x, "__dlpack__") and not hasattr(x, "__array__"):
        return _from_dlpack(x, name, min_rows)
    try:
        data = np.asarray(x)
    except (ValueError, TypeError) as why:
        if hasattr(x, "__dlpack__"):  # arrays of an accelerator refuse `__array__`
            return _from_dlpack(x, name, min_rows)
        msg = (
            f"{name} must be a matrix of numbers with rows of equal length; {type(x).__name__} could not be read: {why}"
        )
        raise InvalidInputError(msg) from why
    _check_shape(data.shape, name, min_rows)
    if data.dtype == np.bool_:
        data = data.view(np.uint8)
    dtype = data.dtype.name
    if not (dtype in _FLOATS or data.dtype.kind in "iu"):
        msg = f"{name} has dtype {data.dtype}; it must be {_ACCEPTED}"
        raise InvalidInputError(msg)
    return Matrix(name, data, "numpy", data.shape[0], data.shape[1], dtype)


def _from_stored(x: RowSource, name: str, min_rows: int) -> Matrix:
    _check_shape(x.shape, name, min_rows)
    return Matrix(name, x, "stored", *x.shape, x.dtype)


def _is_torch(x: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def _from_torch(x: Any, name: str, min_rows: int) -> Matrix:
    import torch

    if x.layout != torch.strided:
        msg = f"{name} is a torch tensor of layout {x.layout}; it must be dense, or a scipy.sparse matrix"
        raise InvalidInputError(msg)
    if x.is_meta:
        msg = f"{name} is a torch tensor on the meta device, which has no values; it must hold data"
        raise InvalidInputError(msg)
    _check_shape(tuple(x.shape), name, min_rows)
    if x.dtype == torch.bool:
        x = x.view(torch.uint8)
    dtype = str(x.dtype).removeprefix("torch.")
    if dtype not in _FLOATS and (x.is_complex() or x.is_floating_point() or x.is_quantized):
        msg = f"{name} has dtype {x.dtype}; it must be {_ACCEPTED}"
        raise InvalidInputError(msg)
    return Matrix(name, x.detach().resolve_neg(), "torch", int(x.shape[0]), int(x.shape[1]), dtype)


def _from_sparse(x: Any, name: str, min_rows: int) -> Matrix:
    import scipy.sparse

    _check_shape(x.shape, name, min_rows)
    if x.dtype.name not in _FLOATS and x.dtype.kind not in "iub":
        msg = f"{name} has dtype {x.dtype}; it must be {_ACCEPTED}"
        raise InvalidInputError(msg)
    data = scipy.sparse.csr_array(x)
    if not data.has_canonical_format:
        # A copy, for the caller's matrix is not ours to tidy; never more than the stored entries.
        data = data.copy()
        data.sum_duplicates()
    if data.dtype == np.bool_:
        data = scipy.sparse.csr_array((data.data.view(np.uint8), data.indices, data.indptr), data.shape)
    return Matrix(name, data, "sparse", data.shape[0], data.shape[1], data.dtype.name)


_HOST = {1, 3, 11, 13}
"""DLPack's numbers for memory that the host can read: its own, pinned for CUDA or for ROCm, and managed."""


def _is_elsewhere(x: Any) -> bool:
    """Whether an array says that it lies where the host cannot read it."""
    if not (hasattr(x, "__dlpack__") and hasattr(x, "__dlpack_device__")):
        return False
    return int(x.__dlpack_device__()[0]) not in _HOST


def _from_device(x: Any, name: str, min_rows: int) -> Matrix:
    """Share the memory of an accelerator: nothing passes through the host."""
    try:
        import torch

        tensor = torch.from_dlpack(x)  # type: ignore[attr-defined]
    except (ImportError, AssertionError, BufferError, RuntimeError, TypeError, ValueError) as why:
        kind, number = x.__dlpack_device__()
        msg = (
            f"{name} ({type(x).__name__}) lies on an accelerator (DLPack device {int(kind)}, {number}), which torch "
            f"could not read: {why}; pass numpy.asarray({name}) to measure a copy on the host"
        )
        raise InvalidInputError(msg) from why
    return _from_torch(tensor, name, min_rows)


def _from_dlpack(x: Any, name: str, min_rows: int) -> Matrix:
    try:
        return as_matrix(np.from_dlpack(x), name=name, min_rows=min_rows)
    except (BufferError, RuntimeError, TypeError, ValueError) as on_host:
        try:
            import torch

            return _from_torch(torch.from_dlpack(x), name, min_rows)  # type: ignore[attr-defined]
        except (ImportError, BufferError, RuntimeError, TypeError, ValueError) as why:
            msg = f"{name} ({type(x).__name__}) could not be read through DLPack: {on_host}; {why}"
            raise InvalidInputError(msg) from why


def _check_shape(shape: tuple[int, ...], name: str, min_rows: int) -> None:
    if len(shape) != 2:
        msg = f"{name} has {len(shape)} dimensions (shape {tuple(shape)}); it must be a matrix, rows x coordinates"
        raise InvalidInputError(msg)
    if shape[0] < min_rows:
        rows = "1 row" if shape[0] == 1 else f"{shape[0]} rows"
        msg = f"{name} has {rows} (shape {tuple(shape)}); it must have at least {min_rows}"
        raise InvalidInputError(msg)
    if shape[1] < 1:
        msg = f"{name} has no columns (shape {tuple(shape)}); it must have at least 1"
        raise InvalidInputError(msg)


def reject_invalid(
    matrix: Matrix,
    norms: NDArray[np.float64],
    on_invalid: str,
    *,
    directed: bool = True,
    min_rows: int = 2,
    first: int = 0,
) -> tuple[Matrix, NDArray[np.bool_]]:
    """Refuse or drop rows that cannot be measured: those that are not finite, or zero.

    Parameters
    ----------
    norms : (n,) float64
        Norms of the rows, NaN where a row is not finite.
    directed : bool
        Whether zero rows, which have no direction, are invalid.
    first : int
        Number of the first row, for messages about a stream of blocks.

    Returns
    -------
    matrix : Matrix
        The valid rows.
    valid : (n,) bool
        Which of the given rows they are.

    Raises
    ------
    InvalidInputError
        There are invalid rows and ``on_invalid="raise"``, or fewer than `min_rows` are left after dropping them.
    """
    infinite, zero = np.isnan(norms), (norms == 0) & directed
    if on_invalid == "raise":
        reject_rows(matrix, infinite, "are not finite", on_invalid, min_rows, first)
        reject_rows(matrix, zero, "are zero and have no direction", on_invalid, min_rows, first)
    invalid = infinite | zero
    what = "are not finite or zero" if directed else "are not finite"
    return reject_rows(matrix, invalid, what, on_invalid, min_rows, first), ~invalid


def reject_rows(
    matrix: Matrix, bad: NDArray[np.bool_], what: str, on_invalid: str, min_rows: int, first: int = 0
) -> Matrix:
    """Refuse or drop the rows flagged in `bad`, of which the first is called number `first`.

    Raises
    ------
    InvalidInputError
        There are such rows and ``on_invalid="raise"``, or too few rows are left after dropping them.
    """
    check_on_invalid(on_invalid)
    rows = np.flatnonzero(bad)
    if len(rows) == 0:
        return matrix
    if on_invalid == "raise":
        named = name_rows(rows + first) if first else matrix.name_rows(rows)
        msg = f'{matrix.name} has {named} that {what}; drop them with on_invalid="drop"'
        raise InvalidInputError(msg)
    kept = matrix.without(rows)
    if kept.n < min_rows:
        left = f"{matrix.name} has {kept.n} rows left after dropping {matrix.name_rows(rows)} that {what}"
        msg = f"{left}; it must have at least {min_rows}"
        raise InvalidInputError(msg)
    return kept


def finite_rows(x: Any, *, name: str = "x", min_rows: int = 1) -> NDArray[np.float64]:
    """Return all rows of anything array-like, dense and in float64, and refuse those that are not finite."""
    matrix = as_matrix(x, name=name, min_rows=min_rows)
    rows = np.array(matrix.block(0, matrix.n), np.float64)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        msg = f"{name} has {matrix.name_rows(bad)} that are not finite; drop those rows"
        raise InvalidInputError(msg)
    return rows


def check_same_width(x: Matrix, y: Matrix) -> None:
    """Refuse two matrices whose rows have different numbers of coordinates."""
    if x.d != y.d:
        msg = f"{x.name} and {y.name} must have the same number of columns; got {x.d} and {y.d}"
        raise InvalidInputError(msg)
