"""Rows made ready for products.

Prepared rows are kept whole while they are small and made again, panel by panel, when they are not, so memory beyond
the input stays bounded however many rows there are.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geomkit.core.blocks import each_block
from geomkit.core.devices import if_it_fits
from geomkit.core.matrix import Matrix, reject_invalid, reject_rows
from geomkit.core.memory import budget
from geomkit.core.threads import processors
from geomkit.kernels import Backend, load, module

__all__ = [
    "Rows",
    "as_given",
    "centred_rows",
    "direction_norms",
    "divided",
    "power_of_two",
    "rescaled",
    "room",
    "taken",
    "typical_distance",
    "unit_rows",
]


_LARGEST_UNSCALED = 2.0**900
"""Rows up to this norm can be added up as they are."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a matrix after one of two preparations.

    ``unit``: each row over its Euclidean norm. ``centred``: the mean taken out and everything divided by a power of
    two that brings the largest row to a norm of at most 1; sparse rows are scaled but not centred, since that would
    fill them.
    """

    matrix: Matrix
    backend: Backend
    dtype: str
    preparation: Literal["unit", "centred"]
    squares: NDArray[np.float64]
    """Squared norms of the prepared rows, (n,)."""
    scale: float = 1.0
    """What centred rows were divided by."""
    mean: NDArray[np.float64] | None = None
    resident: Any = None

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.matrix.n

    @property
    def sparse(self) -> bool:
        """Whether blocks are CSR: the CPU kernels read them so, the other backends read dense blocks."""
        return self.matrix.kind == "sparse" and self.backend is Backend.CPU

    @property
    def device(self) -> Any:
        """The torch device that blocks lie on, or None."""
        return _device(self.matrix, self.backend)

    @property
    def precision(self) -> str:
        """Of the rows in the product."""
        return self.dtype

    @property
    def rounded(self) -> bool:
        """Whether tiles are bfloat16."""
        return False

    @property
    def width(self) -> int:
        """Columns of a block."""
        return self.matrix.d

    @property
    def two_sided(self) -> bool:
        """Whether left and right factors of a product differ."""
        return False

    def block(self, start: int, stop: int) -> Any:
        """Return prepared rows ``start:stop``, in this backend's memory and dtype."""
        if self.resident is not None:
            return self.resident[start:stop]
        return self.make(start, stop, self.dtype)

    left = right = block
    """Both factors of a product of pairs."""

    def factors(self, start: int, stop: int) -> tuple[Any, Any]:
        """Return both factors of rows ``start:stop``, made from one reading."""
        block = self.make(start, stop, self.dtype)
        return block, block

    @property
    def resident_factors(self) -> tuple[Any, Any] | None:
        """All left and right factors, where they are kept."""
        return None if self.resident is None else (self.resident, self.resident)

    def holding(self, matrix: Matrix, factors: tuple[Any, Any] | None) -> "Rows":
        """Return the same rows with these factors."""
        return replace(self, matrix=matrix, resident=None if factors is None else factors[0])

    def take(self, numbers: NDArray[np.int64]) -> Any:
        """Return prepared rows with these numbers."""
        if self.resident is not None:
            return self.resident[numbers]
        block = module(self.backend).zeros((len(numbers), self.matrix.d), self.dtype, self.device)
        for at, row in enumerate(numbers):
            block[at] = self.make(int(row), int(row) + 1, self.dtype)[0]
        return block

    def make(self, start: int, stop: int, dtype: str) -> Any:
        """Prepare rows ``start:stop`` in `dtype`, from the matrix as given."""
        if self.sparse:
            return self._make_sparse(start, stop, dtype)
        x = as_given(self.matrix, self.backend, start, stop)
        out = module(self.backend).zeros((stop - start, self.matrix.d), dtype, self.device)
        if self.preparation == "unit":
            load("unit_rows", self.backend)(x, out)
        else:
            load("centred_rows", self.backend)(x, self.mean, self.scale, out)
        return out

    def _make_sparse(self, start: int, stop: int, dtype: str) -> Any:
        block = self.matrix.rows(start, stop).astype(np.float64)
        if self.preparation == "unit":
            scaled, row_of, norms, _ = _scaled(block)
            block.data = (scaled / norms[row_of]).astype(dtype)
        else:
            block.data = (block.data / self.scale).astype(dtype)
        return block


def _device(matrix: Matrix, backend: Backend) -> Any:
    return matrix.device if backend.on_device else None


def as_given(matrix: Matrix, backend: Backend, start: int, stop: int) -> Any:
    """Dense rows before any preparation, in the backend's memory: float32 where that holds them exactly."""
    return _placed(matrix, backend, matrix.block(start, stop))


def taken(matrix: Matrix, backend: Backend, numbers: NDArray[np.int64]) -> Any:
    """Return the rows with these numbers, as `as_given` does."""
    return _placed(matrix, backend, matrix.take(numbers))


def _placed(matrix: Matrix, backend: Backend, x: Any) -> Any:
    wide = x.dtype.itemsize == 8 or backend is Backend.REFERENCE
    return module(backend).as_working(x, "float64" if wide else "float32", _device(matrix, backend))


_FEW = 32
"""Rows whose pairs tell how far apart rows are."""


def typical_distance(rows: Rows, p: float) -> float:
    """Return the median distance among a few centred rows, as the kernel `minkowski` measures it, over their scale.

    It says where counters should be finest. A mean would follow one row that is far from all others.
    """
    from geomkit.kernels import reference

    few = np.unique(np.linspace(0, rows.n - 1, _FEW).astype(np.int64))
    given = module(rows.backend).to_numpy(taken(rows.matrix, rows.backend, few))
    x = given.astype(np.float64) / rows.scale
    out = np.empty((len(few), len(few)))
    reference.minkowski(x, x, out, p)
    return float(np.median(out[np.triu_indices(len(few), 1)]))


def room(matrix: Matrix) -> int:
    """Bytes of prepared rows that may be kept; on GPUs half of what is free on the one with the least."""
    allowed = budget(matrix)
    if allowed == 0 or not matrix.on_accelerator or matrix.device.type != "cuda":
        return allowed
    import torch

    return min(torch.cuda.mem_get_info(device)[0] for device in matrix.devices) // 2


def _resident(rows: Rows) -> Any:
    """All prepared rows at once where they are small enough, else None."""
    if rows.sparse:
        # Prepared CSR rows are no larger than the input.
        return rows.make(0, rows.n, rows.dtype)
    if _bytes(rows.matrix, rows.dtype) > room(rows.matrix):
        return None

    def whole() -> Any:
        out = module(rows.backend).zeros((rows.n, rows.matrix.d), rows.dtype, rows.device)

        def fill(start: int, stop: int) -> None:
            out[start:stop] = rows.make(start, stop, rows.dtype)

        each_block(rows.matrix, rows.backend, processors(), fill)
        return out

    return if_it_fits(whole, "prepared rows", rows.device)


def direction_norms(matrix: Matrix, backend: Backend, threads: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Norm of each row, NaN where it is not finite, and the sum of the unit rows of all others.

    Returns
    -------
    norms : (n,) float64
    total : (d,) float64
        Added up block by block in the order of the rows, whatever the number of threads.
    """
    if matrix.kind == "sparse":
        scaled, row_of, norms, scale = _scaled(matrix.rows(0, matrix.n))
        usable = np.isfinite(norms) & (norms > 0)
        weights = np.where(usable[row_of], scaled / np.where(usable, norms, 1.0)[row_of], 0.0)
        columns = matrix.rows(0, matrix.n).indices
        total: Any = np.bincount(columns, weights=weights, minlength=matrix.d)
        with np.errstate(over="ignore"):
            return norms * scale, total
    found = each_block(matrix, backend, threads, partial(_unit_sum, matrix, backend))
    return np.concatenate([norms for norms, _ in found]), np.sum([total for _, total in found], axis=0)


def _unit_sum(matrix: Matrix, backend: Backend, start: int, stop: int) -> tuple[Any, Any]:
    """Norms of some rows, and the sum of their directions."""
    memory = module(backend)
    total = memory.zeros((matrix.d,), "float64", _device(matrix, backend))
    norms = load("unit_sums", backend)(as_given(matrix, backend, start, stop), total)
    return memory.to_numpy(norms), memory.to_numpy(total)


def _norms(matrix: Matrix, backend: Backend) -> NDArray[np.float64]:
    """Euclidean norm of each row in float64, NaN where a row is not finite."""
    if matrix.kind == "sparse":
        return _sparse_norms(matrix)
    return np.concatenate(each_block(matrix, backend, 1, partial(_norms_of, matrix, backend)))


def _norms_of(matrix: Matrix, backend: Backend, start: int, stop: int) -> Any:
    x, memory = as_given(matrix, backend, start, stop), module(backend)
    out = memory.zeros(tuple(x.shape), "float64", _device(matrix, backend))
    return memory.to_numpy(load("unit_rows", backend)(x, out))


def _sparse_norms(matrix: Matrix) -> NDArray[np.float64]:
    _, _, norms, scale = _scaled(matrix.rows(0, matrix.n))
    with np.errstate(over="ignore"):
        return norms * scale


def rescaled(matrix: Matrix) -> tuple[Matrix, NDArray[np.float64]]:
    """Sparse rows over powers of two near their largest entries, in a copy, and their norms then."""
    scaled, _, norms, _ = _scaled(matrix.data)
    parts = scaled, matrix.data.indices, matrix.data.indptr
    copy = replace(matrix, data=type(matrix.data)(parts, shape=matrix.data.shape), dtype="float64")
    return copy, norms if matrix.keep is None else norms[matrix.keep]


def divided(block: Any, divisors: NDArray[np.float64]) -> Any:
    """Return CSR rows over their divisors, in float64."""
    block = block.astype(np.float64)
    block.data /= np.repeat(divisors, np.diff(block.indptr))
    return block


def _scaled(block: Any) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Entries of a CSR block over a power of two near the largest of their row, so that squares stay in the range.

    Returns
    -------
    scaled, row_of : (nnz,)
        The entries, and the rows that they belong to.
    norms, scale : (n,)
        Norms of the scaled rows, NaN where a row is not finite; and what the rows were divided by.
    """
    n = block.shape[0]
    data = block.data.astype(np.float64)
    row_of = np.repeat(np.arange(n), np.diff(block.indptr))
    largest = np.zeros(n)
    with np.errstate(invalid="ignore"):
        np.maximum.at(largest, row_of, np.abs(data))
        finite = np.isfinite(largest)
        scale = np.exp2(np.frexp(np.where(finite & (largest > 0), largest, 1.0))[1].astype(np.float64) - 1)
        scaled = data / scale[row_of]
        squares = np.bincount(row_of, weights=scaled**2, minlength=n)
    return scaled, row_of, np.where(finite, np.sqrt(squares), np.nan), scale


def unit_rows(matrix: Matrix, backend: Backend, dtype: str, on_invalid: str) -> Rows:
    """Rows over their norms; rows without a direction are refused or dropped.

    Raises
    ------
    InvalidInputError
        Rows are not finite or zero, and ``on_invalid="raise"``; or fewer than two rows are left.
    """
    whole: Any = None
    if matrix.kind == "sparse":
        norms = _sparse_norms(matrix)
    else:
        whole, norms = _all_units(matrix, backend, dtype)
    kept, _ = reject_invalid(matrix, norms, on_invalid)
    rows = Rows(kept, backend, dtype, "unit", np.ones(kept.n))
    if matrix.kind == "sparse":
        return _finished(rows, keep=True)
    if kept.n < matrix.n:
        # Made again without those that were dropped, and not beside them.
        fits, whole = whole is not None, None
        return _finished(rows, keep=fits)
    return replace(rows, resident=whole)


def _all_units(matrix: Matrix, backend: Backend, dtype: str) -> tuple[Any, NDArray[np.float64]]:
    """All unit rows where they are small enough, else None, and the norms: both from one reading."""
    if _bytes(matrix, dtype) > room(matrix):
        return None, _norms(matrix, backend)
    kernel, memory, device = load("unit_rows", backend), module(backend), _device(matrix, backend)
    norms = np.empty(matrix.n)

    def whole() -> Any:
        out = memory.zeros((matrix.n, matrix.d), dtype, device)

        def work(start: int, stop: int) -> None:
            x = as_given(matrix, backend, start, stop)
            norms[start:stop] = memory.to_numpy(kernel(x, out[start:stop]))

        each_block(matrix, backend, processors(), work)
        return out

    kept = if_it_fits(whole, "prepared rows", device)
    return (None, _norms(matrix, backend)) if kept is None else (kept, norms)


def _bytes(matrix: Matrix, dtype: str) -> int:
    return matrix.n * matrix.d * np.dtype(dtype).itemsize


def centred_rows(matrix: Matrix, backend: Backend, dtype: str, on_invalid: str, *, keep: bool = True) -> Rows:
    """Rows less their mean, scaled by a power of two to norms of at most 1; `keep` holds small ones resident.

    The mean is taken relative to the first row, so that identical rows become exactly zero and a far-away origin costs
    no digits.

    Raises
    ------
    InvalidInputError
        Rows are not finite, and ``on_invalid="raise"``; or fewer than two rows are left; or the rows are further apart
        than float64 can say.
    """
    if matrix.kind == "sparse":
        norms = _sparse_norms(matrix)
    else:
        norms, origin, total = _norms_and_sum(matrix, backend, 1.0)
    kept, valid = reject_invalid(matrix, norms, on_invalid, directed=False)
    scale = float(power_of_two(norms[valid].max()))
    if matrix.kind == "sparse":
        squares = (norms[valid] / scale) ** 2
        _reject_distant(kept, squares)
        return _finished(Rows(kept, backend, dtype, "centred", squares, scale, np.zeros(kept.d)), keep=keep)
    if kept.n < matrix.n or scale > _LARGEST_UNSCALED:
        _, origin, total = _norms_and_sum(kept, backend, scale)
    else:
        total = total / scale
    mean = origin + total / kept.n * scale
    centred = Rows(kept, backend, "float64", "centred", np.empty(0), scale, mean)
    squares = np.concatenate(each_block(kept, backend, processors(), partial(_squares_of, centred)))
    _reject_distant(kept, squares)
    # The reciprocal of the whole scale must be a number, too.
    further = max(float(power_of_two(np.sqrt(squares.max()))), 2.0**-1022 / scale)
    return _finished(Rows(kept, backend, dtype, "centred", squares / further**2, scale * further, mean), keep=keep)


def _norms_and_sum(
    matrix: Matrix, backend: Backend, scale: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Norm of each row, NaN where it is not finite; the first row; and the sum of the rows less it, over `scale`."""
    origin = module(backend).to_numpy(as_given(matrix, backend, 0, 1))[0].astype(np.float64)
    shifted = Rows(matrix, backend, "float64", "centred", np.empty(0), scale, origin)
    blocks = each_block(matrix, backend, processors(), partial(_norms_and_sum_of, shifted))
    return np.concatenate([norms for norms, _ in blocks]), origin, np.sum([total for _, total in blocks], axis=0)


def _norms_and_sum_of(rows: Rows, start: int, stop: int) -> tuple[Any, Any]:
    memory = module(rows.backend)
    x = as_given(rows.matrix, rows.backend, start, stop)
    out = memory.zeros(tuple(x.shape), "float64", rows.device)
    norms = memory.to_numpy(load("unit_rows", rows.backend)(x, out))
    # Sums that are not finite are not used.
    with np.errstate(over="ignore", invalid="ignore"):
        load("centred_rows", rows.backend)(x, rows.mean, rows.scale, out)
        return norms, memory.to_numpy(out.sum(0))


def _squares_of(rows: Rows, start: int, stop: int) -> Any:
    block = rows.make(start, stop, "float64")
    return module(rows.backend).to_numpy((block * block).sum(1))


def _reject_distant(matrix: Matrix, squares: NDArray[np.float64]) -> None:
    reject_rows(matrix, ~np.isfinite(squares), "lie further from the mean than float64 can say", "raise", 2)


def power_of_two(norms: Any) -> NDArray[np.float64]:
    """Return the powers of two just above norms, or the nearest whose reciprocals are numbers; 1 for a norm of 0."""
    finite = np.where(np.isfinite(norms) & (norms > 0), norms, 0.5)
    exponents = np.where(np.isinf(norms), 1023, np.clip(np.frexp(finite)[1], -1022, 1023))
    return np.ldexp(1.0, exponents)


def _finished(rows: Rows, *, keep: bool) -> Rows:
    return replace(rows, resident=_resident(rows)) if keep else rows
