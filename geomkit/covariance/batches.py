"""Blocks of rows, which pour their sums into scatters: as they are, and over their norms.

A batch is a block of rows with its norms, in the memory of its backend. It knows its rows as differences from two
origins: the rows as they are (``plain``, divided by a power of two), and the rows over their norms (``unit``).
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from geomkit.core.matrix import Matrix
from geomkit.covariance.scatter import LOWEST, Scatter
from geomkit.kernels import Backend, load, module

__all__ = ["Batch", "Pair", "block_rows", "exponent_of", "read"]

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


class Batch(Protocol):
    """A block of rows, finite and not zero unless its norms say so."""

    norms: Vector
    """NaN where a row is not finite, infinite where float64 cannot say it."""

    def without(self, bad: NDArray[np.bool_]) -> "Batch":
        """Return the same block less some rows."""

    def first(self, exponent: int) -> Vector:
        """Return the first row in both forms, (2, d), or zeros where a difference would fill a sparse row."""

    def means(self, exponent: int, origins: Vector) -> Vector:
        """Return the means of both forms less the origins, (2, d)."""

    def shifted(self, exponent: int, origins: Vector, centres: Vector) -> tuple[list[Any], Vector]:
        """Return both forms less origins and centres (sparse rows stay as they are), and squared norms (2, m)."""

    def pour(self, pair: "Pair") -> None:
        """Add the rows to a pair of scatters."""


STATE = ("n", "exponent", "origin", "offset", "products", "squares", "spread", "skew")
"""What a scatter holds, beside where."""


@dataclass(slots=True)
class Pair:
    """The scatters of the same rows as they are, and over their norms."""

    plain: Scatter
    unit: Scatter

    @classmethod
    def empty(cls, d: int, backend: Backend, device: Any) -> Self:
        """Return scatters without rows."""
        return cls(Scatter(d, backend, device), Scatter(d, backend, device))

    @property
    def d(self) -> int:
        """Coordinates of a row."""
        return len(self.plain.skew)

    @property
    def both(self) -> tuple[Scatter, Scatter]:
        """`plain` and `unit`."""
        return self.plain, self.unit

    @property
    def origins(self) -> Vector:
        """Of both scatters, (2, d)."""
        return np.stack([self.plain.origin, self.unit.origin])

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all sums, as arrays of the host."""
        parts = {"plain": self.plain, "unit": self.unit}
        arrays = {f"{which}_{name}": getattr(part, name) for which, part in parts.items() for name in STATE}
        return {name: np.asarray(module(self.plain.backend).to_numpy(value)) for name, value in arrays.items()}

    @classmethod
    def of_state(cls, state: dict[str, NDArray[Any]], backend: Backend) -> Self:
        """Return the pair with these sums."""
        pair = cls.empty(len(state["plain_skew"]), backend, None)
        for which, part in (("plain", pair.plain), ("unit", pair.unit)):
            for name in STATE:
                value = state[f"{which}_{name}"]
                setattr(part, name, value.copy() if value.ndim else value.item())
        return pair

    def merge(self, other: Self) -> Self:
        """Take in the rows of another pair."""
        for mine, theirs in zip(self.both, other.both, strict=True):
            mine.merge(theirs)
        return self


def _joint(pair: Pair, batch: Batch) -> tuple[int, Vector]:
    """Settle scale and origins before a batch comes in; return the exponent and the batch's means."""
    exponent = max(pair.plain.exponent, exponent_of(float(batch.norms.max())))
    pair.plain.rescale(exponent)
    # Unit rows are always in units of 1.
    pair.unit.rescale(max(pair.unit.exponent, 0))
    if pair.plain.n == 0:
        pair.plain.origin, pair.unit.origin = batch.first(exponent)
    return exponent, batch.means(exponent, pair.origins)


def exponent_of(norm: float) -> int:
    """Power of two that rows with norms up to this one are divided by: 0 unless their powers could leave float64."""
    if math.isinf(norm):
        return 1023
    power = math.frexp(norm)[1]
    return 0 if abs(power) <= _SAFE else max(min(power, 1023), LOWEST)


class _Dense:
    """A block of the CPU backend: float32 or float64, and each row's factors."""

    def __init__(self, x: NDArray[Any], room: Vector | None = None) -> None:
        from geomkit.kernels import cpu_rows

        self.x, self.room, self.kernels = x, room, cpu_rows
        self.factors = np.empty((2, len(x)))
        self.norms: Vector = cpu_rows.row_norms(x, self.factors)

    def without(self, bad: NDArray[np.bool_]) -> Batch:
        return _Dense(self.x[~bad], self.room)

    def first(self, exponent: int) -> Vector:
        row = self.x[0].astype(np.float64)
        return np.stack([row * math.ldexp(1.0, -exponent), row * self.factors[0, 0] * self.factors[1, 0]])

    def means(self, exponent: int, origins: Vector) -> Vector:
        out = np.zeros_like(origins)
        self.kernels.row_sums(self.x, math.ldexp(1.0, -exponent), self.factors, origins, out)
        return out / len(self.x)

    def shifted(self, exponent: int, origins: Vector, centres: Vector) -> tuple[list[Any], Vector]:
        return self._shifted(exponent, origins, centres, np.empty((2, *self.x.shape)))

    def _shifted(self, exponent: int, origins: Vector, centres: Vector, room: Vector) -> tuple[list[Any], Vector]:
        m = len(self.x)
        rows, squares = [room[0, :m], room[1, :m]], np.empty((2, m))
        self.kernels.shifted_rows(self.x, math.ldexp(1.0, -exponent), self.factors, origins, centres, *rows, squares)
        return rows, squares

    def pour(self, pair: Pair) -> None:
        m = len(self.x)
        exponent, means = _joint(pair, self)
        steps = [each.step(m, mean) for each, mean in zip(pair.both, means, strict=True)]
        # One row more: what is there already moves to the joint mean with the same product.
        room = np.empty((2, m + 1, self.x.shape[1])) if self.room is None else self.room
        rows, squares = self._shifted(exponent, pair.origins, np.stack([step.centre for step in steps]), room)
        for k, (scatter, step) in enumerate(zip(pair.both, steps, strict=True)):
            scatter.join(m, step, scatter.part(squares[k], rows[k]))
            room[k, m] = step.carried
            scatter.add_rows(room[k, : m + 1])


class _Plain:
    """A block of the reference or the torch backend, in float64."""

    def __init__(self, x: Any, backend: Backend, device: Any) -> None:
        self.memory, self.backend, self.device = module(backend), backend, device
        self.x = x
        self.unit = self.memory.zeros(tuple(x.shape), "float64", device)
        self.norms: Vector = self.memory.to_numpy(load("unit_rows", backend)(x, self.unit))

    def without(self, bad: NDArray[np.bool_]) -> Batch:
        return _Plain(self.x[np.flatnonzero(~bad)], self.backend, self.device)

    def first(self, exponent: int) -> Vector:
        return np.stack([self.memory.to_numpy(each[0]) for each in self._forms(exponent)])

    def means(self, exponent: int, origins: Vector) -> Vector:
        forms = zip(self._forms(exponent), origins, strict=True)
        return np.stack([self.memory.to_numpy((each - self._there(at)).sum(0)) for each, at in forms]) / len(self.x)

    def shifted(self, exponent: int, origins: Vector, centres: Vector) -> tuple[list[Any], Vector]:
        forms = zip(self._forms(exponent), origins, centres, strict=True)
        rows = [each - self._there(origin) - self._there(centre) for each, origin, centre in forms]
        return rows, np.stack([self.memory.to_numpy((each * each).sum(1)) for each in rows])

    def pour(self, pair: Pair) -> None:
        m = len(self.x)
        exponent, means = _joint(pair, self)
        steps = [each.step(m, mean) for each, mean in zip(pair.both, means, strict=True)]
        forms, squares = self.shifted(exponent, pair.origins, np.stack([step.centre for step in steps]))
        for scatter, step, rows, own in zip(pair.both, steps, forms, squares, strict=True):
            scatter.join(m, step, scatter.part(own, rows))
            scatter.add_rows(rows)
            scatter.add_outer(step.carried, 1.0)

    def _forms(self, exponent: int) -> tuple[Any, Any]:
        return self.x * math.ldexp(1.0, -exponent), self.unit

    def _there(self, vector: Vector) -> Any:
        return self.memory.as_working(vector, "float64", self.device)


class _Sparse:
    """A block of CSR rows in float64. Their mean is never subtracted from them, which would fill them."""

    def __init__(self, x: Any) -> None:
        from geomkit.kernels.cpu_rows import sparse_row_norms

        self.x = x.astype(np.float64)
        self.factors = np.empty((2, x.shape[0]))
        self.norms: Vector = sparse_row_norms(self.x.indptr, self.x.data, self.factors)

    def without(self, bad: NDArray[np.bool_]) -> Batch:
        return _Sparse(self.x[np.flatnonzero(~bad)])

    def first(self, exponent: int) -> Vector:  # noqa: ARG002
        return np.zeros((2, self.x.shape[1]))

    def means(self, exponent: int, origins: Vector) -> Vector:
        sums = [np.bincount(each.indices, each.data, self.x.shape[1]) for each in self.forms(exponent)]
        return np.asarray(np.stack(sums) / self.x.shape[0] - origins)

    def shifted(self, exponent: int, origins: Vector, centres: Vector) -> tuple[list[Any], Vector]:
        forms = self.forms(exponent)
        row_of = np.repeat(np.arange(self.x.shape[0]), np.diff(self.x.indptr))
        squares = []
        for each, point in zip(forms, origins + centres, strict=True):
            own = np.bincount(row_of, np.square(each.data), self.x.shape[0])
            squares.append(np.maximum(own - 2 * (each @ point) + point @ point, 0))
        return forms, np.stack(squares)

    def pour(self, pair: Pair) -> None:
        from geomkit.kernels.cpu_rows import add_sparse_products

        m = self.x.shape[0]
        exponent, means = _joint(pair, self)
        steps = [each.step(m, mean) for each, mean in zip(pair.both, means, strict=True)]
        origins = pair.origins
        forms, squares = self.shifted(exponent, origins, np.stack([step.centre for step in steps]))
        for k, (scatter, step, rows) in enumerate(zip(pair.both, steps, forms, strict=True)):
            seen = scatter.n
            scatter.join(m, step, scatter.part(squares[k], rows))
            add_sparse_products(rows.indptr, rows.indices, rows.data, scatter.products)
            # Products about zero, less those of the mean, are products about it; both parts then move to the joint one.
            scatter.add_outer(means[k] + origins[k], -m)
            scatter.add_outer(step.delta, seen * m / (seen + m))

    def forms(self, exponent: int) -> list[Any]:
        """Return the rows over two to the power of `exponent`, and over their norms."""
        row_of = np.repeat(np.arange(self.x.shape[0]), np.diff(self.x.indptr))
        plain, unit = self.x.copy(), self.x.copy()
        plain.data *= math.ldexp(1.0, -exponent)
        unit.data *= self.factors[0, row_of]
        unit.data *= self.factors[1, row_of]
        return [plain, unit]


def read(matrix: Matrix, backend: Backend, start: int, stop: int, room: Vector | None = None) -> Batch:
    """Read a block of rows; `room`, (2, at least m + 1, d), is where dense rows of the CPU are shifted to."""
    if matrix.kind == "sparse" and backend is Backend.CPU:
        return _Sparse(matrix.rows(start, stop))
    x = matrix.block(start, stop)
    if backend is Backend.CPU:
        return _Dense(x, room)
    device = matrix.device if matrix.on_accelerator else None
    return _Plain(module(backend).as_working(x, "float64", device), backend, device)


def block_rows(matrix: Matrix, backend: Backend, *, dense: bool = False) -> int:
    """Rows of a block in a pass over the rows; `dense` where those of a sparse matrix are filled in."""
    if matrix.kind == "sparse" and backend is Backend.CPU and not dense:
        return max(BLOCK_ROWS, int(STORED_ENTRIES * matrix.n // max(1, matrix.data.nnz)))
    return max(BLOCK_ROWS, (DEVICE_BLOCK_ENTRIES if matrix.on_accelerator else BLOCK_ENTRIES) // matrix.d)
