"""Blocks of rows, which add their sums to scatters in two forms: raw, and normalized.

A batch is a block of rows with its norms, in the memory of its backend. It knows its rows as differences from two
origins: the raw rows (as they are, divided by a power of two), and the normalized rows (divided by their norms).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from geomkit.core.executor import State
from geomkit.core.matrix import Matrix
from geomkit.covariance.scatter import LOWEST, Scatter, Step
from geomkit.kernels import Backend, load, module

__all__ = ["Batch", "ScatterPair", "block_rows", "exponent_of", "read"]

Vector = NDArray[np.float64]

BLOCK_ENTRIES = 2**18
"""Entries of a block of dense rows, 2 MiB in float64, ..."""

DEVICE_BLOCK_ENTRIES = 2**23
"""... and on an accelerator, for which a block takes some thirty launches and ten small copies to the host, ..."""

BLOCK_ROWS = 1024
"""... unless that were fewer rows than this: each block costs some d², which its products must outweigh."""

STORED_ENTRIES = 2**20
"""Entries that are stored of a block of sparse rows."""

_SAFE = 150
"""Norms within two to the power of plus or minus this need no scale: their eighth powers are inside float64."""


STATE = ("n", "exponent", "origin", "offset", "products", "squares", "spread", "skew")
"""Attributes of a scatter that make its state, ..."""

FORMS = ("plain", "unit")
"""... and what its two forms, raw and normalized, are called in files."""


@dataclass(slots=True)
class ScatterPair:
    """The scatters of the same rows in both forms."""

    raw: Scatter
    normalized: Scatter

    @classmethod
    def empty(cls, d: int, backend: Backend, device: Any) -> Self:
        """Return scatters without rows."""
        return cls(Scatter(d, backend, device), Scatter(d, backend, device))

    @property
    def d(self) -> int:
        """Coordinates of a row."""
        return len(self.raw.skew)

    @property
    def both(self) -> tuple[Scatter, Scatter]:
        """`raw` and `normalized`."""
        return self.raw, self.normalized

    @property
    def origins(self) -> Vector:
        """Of both scatters, (2, d)."""
        return np.stack([scatter.origin for scatter in self.both])

    def state_dict(self) -> State:
        """Return all sums, as arrays of the host."""
        to_numpy = module(self.raw.backend).to_numpy
        forms = zip(FORMS, self.both, strict=True)
        return {
            f"{form}_{name}": np.asarray(to_numpy(getattr(scatter, name))) for form, scatter in forms for name in STATE
        }

    @classmethod
    def from_state_dict(cls, state: State, backend: Backend) -> Self:
        """Return the pair with these sums."""
        pair = cls.empty(len(state["plain_skew"]), backend, None)
        for form, scatter in zip(FORMS, pair.both, strict=True):
            for name in STATE:
                value = state[f"{form}_{name}"]
                setattr(scatter, name, value.copy() if value.ndim else value.item())
        return pair

    def prepare_for(self, batch: "Batch") -> tuple[Vector, int]:
        """Choose scale and origins before a batch is added; return origins, (2, d), and exponent."""
        exponent = max(self.raw.exponent, exponent_of(float(batch.norms.max())))
        self.raw.rescale(exponent)
        # Normalized rows are always in units of 1.
        self.normalized.rescale(max(self.normalized.exponent, 0))
        if self.raw.n == 0:
            self.raw.origin, self.normalized.origin = batch.first(exponent)
        return self.origins, exponent

    def merge(self, other: Self) -> Self:
        """Add the rows of another pair."""
        for own, added in zip(self.both, other.both, strict=True):
            own.merge(added)
        return self


class Batch(ABC):
    """A block of rows, finite and not zero unless its norms say so."""

    norms: Vector
    """NaN where a row is not finite, infinite where float64 cannot say it."""

    @abstractmethod
    def without(self, bad: NDArray[np.bool_]) -> "Batch":
        """Return the same block less some rows."""

    @abstractmethod
    def first(self, exponent: int) -> Vector:
        """Return the first row in both forms, (2, d), or zeros where a difference would fill a sparse row."""

    @abstractmethod
    def means(self, exponent: int, origins: Vector) -> Vector:
        """Return the means of both forms less the origins, (2, d)."""

    @abstractmethod
    def shifted(self, exponent: int, origins: Vector, centres: Vector) -> tuple[list[Any], Vector]:
        """Return both forms less origins and centres (sparse rows stay as they are), and squared norms (2, m)."""

    @abstractmethod
    def add_products(self, form: int, rows: Any, scatter: Scatter, step: Step, mean: Vector) -> None:
        """Add the products of the columns of shifted rows, and move those of all rows to the joint mean."""

    def add_to(self, pair: "ScatterPair") -> None:
        """Add the rows to a pair of scatters."""
        m, origins, exponent = len(self.norms), *pair.prepare_for(self)
        means = self.means(exponent, origins)
        steps = [scatter.step(m, mean) for scatter, mean in zip(pair.both, means, strict=True)]
        forms, squares = self.shifted(exponent, origins, np.stack([step.centre for step in steps]))
        for form, (scatter, step, rows) in enumerate(zip(pair.both, steps, forms, strict=True)):
            scatter.join(m, step, scatter.part(squares[form], rows))
            self.add_products(form, rows, scatter, step, means[form] + origins[form])


def exponent_of(norm: float) -> int:
    """Power of two that rows with norms up to this one are divided by: 0 unless their powers could leave float64."""
    if math.isinf(norm):
        return 1023
    power = math.frexp(norm)[1]
    return 0 if abs(power) <= _SAFE else max(min(power, 1023), LOWEST)


class _CpuBatch(Batch):
    """A block of the CPU backend: float32 or float64, and each row's factors."""

    def __init__(self, x: NDArray[Any], buffer: Vector | None = None) -> None:
        from geomkit.kernels import cpu_rows

        self.x, self.kernels = x, cpu_rows
        self.buffer = np.empty((2, len(x) + 1, x.shape[1])) if buffer is None else buffer
        self.factors = np.empty((2, len(x)))
        self.norms: Vector = cpu_rows.row_norms(x, self.factors)

    def without(self, bad: NDArray[np.bool_]) -> Batch:
        return _CpuBatch(self.x[~bad], self.buffer)

    def first(self, exponent: int) -> Vector:
        row = self.x[0].astype(np.float64)
        return np.stack([row * math.ldexp(1.0, -exponent), row * self.factors[0, 0] * self.factors[1, 0]])

    def means(self, exponent: int, origins: Vector) -> Vector:
        out = np.zeros_like(origins)
        self.kernels.row_sums(self.x, math.ldexp(1.0, -exponent), self.factors, origins, out)
        return out / len(self.x)

    def shifted(self, exponent: int, origins: Vector, centres: Vector) -> tuple[list[Any], Vector]:
        m = len(self.x)
        rows, squares = [self.buffer[0, :m], self.buffer[1, :m]], np.empty((2, m))
        self.kernels.shifted_rows(self.x, math.ldexp(1.0, -exponent), self.factors, origins, centres, *rows, squares)
        return rows, squares

    def add_products(self, form: int, rows: Any, scatter: Scatter, step: Step, mean: Vector) -> None:  # noqa: ARG002
        # One row more: what is there already moves to the joint mean with the same product.
        self.buffer[form, len(rows)] = step.carried
        scatter.add_rows(self.buffer[form, : len(rows) + 1])


class _WorkingBatch(Batch):
    """A block of the reference or the torch backend, in float64."""

    def __init__(self, x: Any, backend: Backend, device: Any) -> None:
        self.memory, self.backend, self.device = module(backend), backend, device
        self.x = x
        self.unit = self.memory.zeros(tuple(x.shape), "float64", device)
        self.norms: Vector = self.memory.to_numpy(load("unit_rows", backend)(x, self.unit))

    def without(self, bad: NDArray[np.bool_]) -> Batch:
        return _WorkingBatch(self.x[np.flatnonzero(~bad)], self.backend, self.device)

    def first(self, exponent: int) -> Vector:
        return np.stack([self.memory.to_numpy(rows[0]) for rows in self._forms(exponent)])

    def means(self, exponent: int, origins: Vector) -> Vector:
        forms = zip(self._forms(exponent), origins, strict=True)
        sums = [self.memory.to_numpy((rows - self._there(origin)).sum(0)) for rows, origin in forms]
        return np.stack(sums) / len(self.x)

    def shifted(self, exponent: int, origins: Vector, centres: Vector) -> tuple[list[Any], Vector]:
        forms = zip(self._forms(exponent), origins, centres, strict=True)
        shifted = [rows - self._there(origin) - self._there(centre) for rows, origin, centre in forms]
        return shifted, np.stack([self.memory.to_numpy((rows * rows).sum(1)) for rows in shifted])

    def add_products(self, form: int, rows: Any, scatter: Scatter, step: Step, mean: Vector) -> None:  # noqa: ARG002
        scatter.add_rows(rows)
        scatter.add_outer(step.carried, 1.0)

    def _forms(self, exponent: int) -> tuple[Any, Any]:
        return self.x * math.ldexp(1.0, -exponent), self.unit

    def _there(self, vector: Vector) -> Any:
        return self.memory.as_working(vector, "float64", self.device)


class _SparseBatch(Batch):
    """A block of CSR rows in float64. Their mean is never subtracted from them, which would fill them."""

    def __init__(self, x: Any) -> None:
        from geomkit.kernels.cpu_rows import sparse_row_norms

        self.x = x.astype(np.float64)
        self.factors = np.empty((2, x.shape[0]))
        self.norms: Vector = sparse_row_norms(self.x.indptr, self.x.data, self.factors)

    def without(self, bad: NDArray[np.bool_]) -> Batch:
        return _SparseBatch(self.x[np.flatnonzero(~bad)])

    def first(self, exponent: int) -> Vector:  # noqa: ARG002
        return np.zeros((2, self.x.shape[1]))

    def means(self, exponent: int, origins: Vector) -> Vector:
        sums = [np.bincount(rows.indices, rows.data, self.x.shape[1]) for rows in self.forms(exponent)]
        return np.asarray(np.stack(sums) / self.x.shape[0] - origins)

    def shifted(self, exponent: int, origins: Vector, centres: Vector) -> tuple[list[Any], Vector]:
        forms = self.forms(exponent)
        row_of = np.repeat(np.arange(self.x.shape[0]), np.diff(self.x.indptr))
        squares = []
        for rows, point in zip(forms, origins + centres, strict=True):
            about_zero = np.bincount(row_of, np.square(rows.data), self.x.shape[0])
            squares.append(np.maximum(about_zero - 2 * (rows @ point) + point @ point, 0))
        return forms, np.stack(squares)

    def add_products(self, form: int, rows: Any, scatter: Scatter, step: Step, mean: Vector) -> None:  # noqa: ARG002
        from geomkit.kernels.cpu_rows import add_sparse_products

        m = rows.shape[0]
        add_sparse_products(rows.indptr, rows.indices, rows.data, scatter.products)
        # Products about zero, less those of the mean, are products about it; both parts then move to the joint one.
        scatter.add_outer(mean, -m)
        scatter.add_outer(step.delta, (scatter.n - m) * m / scatter.n)

    def forms(self, exponent: int) -> list[Any]:
        """Return the rows over two to the power of `exponent`, and over their norms."""
        row_of = np.repeat(np.arange(self.x.shape[0]), np.diff(self.x.indptr))
        plain, unit = self.x.copy(), self.x.copy()
        plain.data *= math.ldexp(1.0, -exponent)
        unit.data *= self.factors[0, row_of]
        unit.data *= self.factors[1, row_of]
        return [plain, unit]


def read(matrix: Matrix, backend: Backend, start: int, stop: int, buffer: Vector | None = None) -> Batch:
    """Read a block of rows; `buffer`, (2, at least m + 1, d), is where dense rows of the CPU are shifted to."""
    if matrix.kind == "sparse" and backend is Backend.CPU:
        return _SparseBatch(matrix.rows(start, stop))
    x = matrix.block(start, stop)
    if backend is Backend.CPU:
        return _CpuBatch(x, buffer)
    device = matrix.device if matrix.on_accelerator else None
    return _WorkingBatch(module(backend).as_working(x, "float64", device), backend, device)


def block_rows(matrix: Matrix, backend: Backend, *, dense: bool = False) -> int:
    """Rows of a block in a pass over the rows; `dense` where those of a sparse matrix are filled in."""
    if matrix.kind == "sparse" and backend is Backend.CPU and not dense:
        return max(BLOCK_ROWS, int(STORED_ENTRIES * matrix.n // max(1, matrix.data.nnz)))
    return max(BLOCK_ROWS, (DEVICE_BLOCK_ENTRIES if matrix.on_accelerator else BLOCK_ENTRIES) // matrix.d)
