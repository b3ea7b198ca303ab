"""Projections of rows onto directions, in a second pass: partition sums, and the squares behind standard errors.

A partition sum is Z(c) = Σ exp(c · x_i). Of many directions only the least and the largest are wanted: float32 products
say, within a proven bound, which directions these can be, and float64 products decide among them. The answer is that
of float64 products throughout.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.matrix import Matrix
from geomkit.covariance.accumulate import in_threads
from geomkit.covariance.batches import block_rows
from geomkit.kernels import Backend, module

__all__ = ["Axes", "Partition", "project_rows"]

Vector = NDArray[np.float64]

UNIT = 2.0**-24
"""Unit roundoff of float32."""

SCREENED = 2.0**20
"""Longest rows whose float32 products say anything."""

ROOM = 0.25
"""Share of the directions from which on float64 products of all are cheaper than to screen them first."""

_LANES = 16
"""Sums of float32 in a block of rows are split into so many, to be rounded less often."""


@dataclass(frozen=True, slots=True)
class Axes:
    """Weighted squares of each row's coordinates: Σ_j ((x_i - mean) · axes_j)² weights_jk."""

    mean: Vector
    """(d,), over the power of two that rows are divided by."""
    axes: Vector
    """(d, r); they bring the divided rows to coordinates near 1."""
    weights: Vector
    """(r, k)"""


class Partition:
    """Logarithms of the partition sums of directions, in both senses of each; fed block by block, and mergeable.

    Parameters
    ----------
    count : int
        Directions.
    exponent : int
        Rows were divided by two to this power; `top` and what `logs` returns are, too.
    """

    def __init__(self, count: int, exponent: int = 0) -> None:
        self.exponent = exponent
        self.top: Vector = np.full((2, count), -np.inf)
        self.total: Vector = np.zeros((2, count))

    def add(self, onto: NDArray[Any], room: NDArray[Any] | None = None) -> None:
        """Take in the inner products of rows with the directions, (m, count), which are overwritten, as is `room`."""
        self._raise(np.stack([onto.max(0), -onto.min(0)]).astype(np.float64))
        up, down = self.top.astype(onto.dtype)
        self.total[0] += _sum(self._exp(np.subtract(onto, up, out=room)))
        self.total[1] += _sum(self._exp(np.subtract(-down, onto, out=onto)))

    def merge(self, other: "Partition") -> None:
        """Take in other rows."""
        self._raise(other.top)
        self.total += other.total * self._exp(other.top - self.top)

    def logs(self) -> Vector:
        """Logarithms over two to the power of the exponent, (2, count)."""
        return np.asarray(self.top + np.log(self.total) * math.ldexp(1.0, -self.exponent))

    def ratio(self, also: float | None = None) -> float:
        """Least over largest, with the logarithm of another sum `also` among them."""
        logs = self.logs() if also is None else np.append(self.logs(), also * math.ldexp(1.0, -self.exponent))
        with np.errstate(over="ignore"):
            return math.exp(float(np.ldexp(logs.min() - logs.max(), self.exponent)))

    def _raise(self, tops: Vector) -> None:
        higher = np.maximum(self.top, tops)
        self.total *= self._exp(self.top - higher)
        self.top = higher

    def _exp(self, values: NDArray[Any]) -> NDArray[Any]:
        with np.errstate(over="ignore", under="ignore"):
            if self.exponent:
                values *= math.ldexp(1.0, self.exponent)
            return np.asarray(np.exp(values, out=values))


def _sum(values: NDArray[Any]) -> Vector:
    """Sum of the rows in float64, each lane of them in their own dtype."""
    whole = len(values) // _LANES * _LANES
    lanes = values[:whole].reshape(-1, _LANES, values.shape[1]).sum(0)
    return np.asarray(lanes.sum(0, dtype=np.float64) + values[whole:].sum(0, dtype=np.float64))


def project_rows(
    matrix: Matrix,
    backend: Backend,
    threads: int,
    directions: Vector,
    guess: Vector,
    *,
    exponent: int,
    longest: float,
    axes: Axes | None = None,
    norms: Vector | None = None,
) -> tuple[float, Vector | None]:
    """Read the rows once more, and a few directions a third time.

    Parameters
    ----------
    directions : (d, m) float64
        Unit columns.
    guess : (2, m) float64
        About what the logarithms will be, up to a constant, in both senses, for an exponent of 0. It changes how long
        this takes alone.
    exponent : int
        Rows are divided by two to this power.
    longest : float
        Largest norm of a row as given, or more.
    axes : Axes, optional
        What to sum up for each row; float32 products on the CPU backend, float64 on the others.
    norms : (n,) float64, optional
        What the rows are divided by instead of the power of two.

    Returns
    -------
    ratio : float
        Least over largest partition sum of all directions in both senses, in [0, 1], from float64 products.
    squares : (n, k) float64, or None

    Notes
    -----
    O(n d m) time. With rows of norm at most L, an inner product in float32 errs by at most (d + 4) u L, with u = 2⁻²⁴,
    whatever the order of its sum; shift and exponential add 4 u L and a few u, the sum of a block of b rows b u / 16.
    A sum whose logarithm lies further than twice all this from the least, and from the largest, is neither of them.
    """
    size = block_rows(matrix, backend, dense=True)
    bound = 1.01 * UNIT * ((matrix.d + 8) * longest + size / _LANES + _LANES)
    on_cpu = backend is Backend.CPU
    screened = on_cpu and exponent == 0 and longest <= SCREENED and float(_near(guess, bound).mean()) <= ROOM
    dtype = "float32" if screened else "float64"
    products: _NumpyProducts | _BackendProducts
    if on_cpu:
        products = _NumpyProducts(directions, dtype, exponent, axes)
    else:
        products, threads = _BackendProducts(matrix, backend, directions, exponent, axes), 1
    width = 0 if axes is None else axes.weights.shape[1]
    partition, squares = _read(matrix, size, products, exponent, threads, width, norms)
    if screened:
        few = directions[:, _near(partition.logs(), bound)]
        products = _NumpyProducts(few, "float64", exponent, None)
        partition, _ = _read(matrix, size, products, exponent, threads, 0, norms)
    return partition.ratio(), squares


def _near(logs: Vector, bound: float) -> NDArray[np.bool_]:
    """Which directions may have the least or the largest sum, (m,)."""
    return np.asarray(((logs <= logs.min() + 2 * bound) | (logs >= logs.max() - 2 * bound)).any(0))


class _NumpyProducts:
    """Products by NumPy: with the directions in `dtype`, with the axes in float32."""

    def __init__(self, directions: Vector, dtype: str, exponent: int, axes: Axes | None) -> None:
        self.dtype, self.one = dtype, math.ldexp(1.0, -exponent)
        self.directions = np.ascontiguousarray(directions, dtype)
        if axes is not None:
            self.mean = axes.mean
            # Two pieces, so that float32 rows far from zero lose nothing.
            self.high = axes.mean.astype(np.float32)
            self.low = (axes.mean - self.high).astype(np.float32)
            self.axes, self.weights = (np.ascontiguousarray(each, "float32") for each in (axes.axes, axes.weights))

    def project(self, x: Any, out: NDArray[Any]) -> NDArray[Any]:
        return np.matmul(x.astype(self.dtype, copy=False), self.directions, out=out)

    def squares(self, x: Any) -> Vector:
        y = (x - self.high) - self.low if x.dtype == np.float32 else (x - self.mean).astype(np.float32)
        onto = y @ self.axes
        np.multiply(onto, onto, out=onto)
        return np.asarray(onto @ self.weights, np.float64)

    def divided(self, x: Any, norms: Vector | None) -> NDArray[Any]:
        if norms is not None:
            return np.asarray(x / norms[:, None])
        return np.asarray(x if self.one == 1 else x.astype(np.float64) * self.one)


class _BackendProducts:
    """Products by another backend, in float64."""

    dtype = "float64"

    def __init__(self, matrix: Matrix, backend: Backend, directions: Vector, exponent: int, axes: Axes | None) -> None:
        self.memory, self.device = module(backend), matrix.device if matrix.on_accelerator else None
        self.one = math.ldexp(1.0, -exponent)
        self.directions = self._put(directions)
        if axes is not None:
            self.mean, self.axes, self.weights = map(self._put, (axes.mean, axes.axes, axes.weights))

    def project(self, x: Any, out: NDArray[Any]) -> NDArray[Any]:
        out[:] = self.memory.to_numpy(x @ self.directions)
        return out

    def squares(self, x: Any) -> Vector:
        onto = (x - self.mean) @ self.axes
        return np.asarray(self.memory.to_numpy((onto * onto) @ self.weights))

    def divided(self, x: Any, norms: Vector | None) -> Any:
        return self._put(x) * self.one if norms is None else self._put(x) / self._put(norms)[:, None]

    def _put(self, x: Any) -> Any:
        return self.memory.as_working(x, "float64", self.device)


def _read(
    matrix: Matrix,
    size: int,
    products: _NumpyProducts | _BackendProducts,
    exponent: int,
    threads: int,
    width: int,
    norms: Vector | None,
) -> tuple[Partition, Vector | None]:
    """Read all rows, in threads, each with rows of its own; `width` weighted squares of each, if there are any."""
    blocks = list(matrix.blocks(size))
    workers = min(threads, len(blocks))
    shares = [blocks[len(blocks) * k // workers : len(blocks) * (k + 1) // workers] for k in range(workers)]
    squares = np.empty((matrix.n, width)) if width else None

    def work(share: Sequence[tuple[int, int]]) -> Partition:
        partition = Partition(int(products.directions.shape[1]), exponent)
        # One buffer for all blocks: the system would clear new memory for each.
        buffer = np.empty((2, min(size, matrix.n), partition.top.shape[1]), products.dtype)
        for start, stop in share:
            x = products.divided(matrix.block(start, stop), None if norms is None else norms[start:stop])
            partition.add(products.project(x, buffer[0, : stop - start]), buffer[1, : stop - start])
            if squares is not None:
                squares[start:stop] = products.squares(x)
        return partition

    whole, *others = in_threads(work, shares, workers=workers)
    for other in others:
        whole.merge(other)
    return whole, squares
