"""Inputs and error bounds for every kernel of the table: a kernel that is registered without a case fails a test.

A case quantises its inputs to the dtype under test first, so that the reference, in float64, sees what the kernel
sees. `Case.run` returns named outputs as NumPy arrays; `Case.bounds` says how far each may lie from the reference.
Those of the kernels behind scores are in `score_cases`.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse

from geomkit.core.matrix import as_matrix
from geomkit.kernels import KERNELS, Backend
from tests.bounds import gamma, power_error, unit
from tests.kernels import score_cases
from tests.kernels.case import Case, quantised, rounded

ORDERS = (0.5, 1.0, 2.0, 3.0, 1.5, 0.04, 0.3, 7.3, math.inf)

_FIRST = {
    (impl.target, dtype): (kernel, backend, dtype)
    for kernel, row in KERNELS.items()
    for backend, impl in reversed(row.items())
    if backend is not Backend.REFERENCE
    for dtype in impl.dtypes
}
GRID = sorted(_FIRST.values())
"""Every function of the table with every dtype it takes, under the first of the backends that share it."""


def layouts(x: np.ndarray) -> dict[str, np.ndarray]:
    """The same values in C and Fortran order, strided both ways, and read-only."""
    strided = np.zeros((2 * x.shape[0], 3 * x.shape[1]), x.dtype)
    strided[::2, ::3] = x
    fixed = x.copy()
    fixed.flags.writeable = False
    backwards = np.ascontiguousarray(x[::-1, ::-1])
    return {
        "C": np.ascontiguousarray(x),
        "Fortran": np.asfortranarray(x),
        "strided": strided[::2, ::3],
        "read-only": fixed,
        "backwards": backwards[::-1, ::-1],
    }


def dense(x: np.ndarray, dtype: str, layout: str = "C") -> np.ndarray:
    """Rows as a kernel gets them, through the friendly layer."""
    matrix = as_matrix(layouts(x.astype(dtype))[layout], min_rows=1)
    return matrix.block(0, matrix.n)


def _unit_rows(rng: np.random.Generator, dim: int, dtype: str) -> list[Case]:
    x = quantised(rng, (7, dim), dtype)
    x[2] = 0

    def bounds(want: dict[str, np.ndarray], kind: str, accumulate: str) -> dict[str, Any]:
        # A sum of squares, a root, a division; the reference errs by as much in float64.
        rounding = gamma(dim + 6, accumulate) + gamma(dim + 6, "float64")
        return {"returned": rounding * want["returned"], "out": (rounding + unit(kind)) * np.abs(want["out"])}

    return [
        Case("unit_rows", (dense(x, dtype, layout),), {"out": np.ones((7, dim))}, bounds, label=layout)
        for layout in layouts(x)
    ]


def _centred_rows(rng: np.random.Generator, dim: int, dtype: str) -> list[Case]:
    x, mean = quantised(rng, (7, dim), dtype) + 100, rng.standard_normal(dim) + 100
    x = x.astype(dtype).astype(np.float64)

    def bounds(want: dict[str, np.ndarray], kind: str, accumulate: str) -> dict[str, Any]:
        stored = unit(kind) + gamma(4, "float64")
        squares = 2 * stored + stored**2 + gamma(dim + 2, accumulate) + gamma(dim + 2, "float64")
        return {"out": stored * np.abs(want["out"]), "returned": squares * want["returned"]}

    return [
        Case(
            "centred_rows",
            (dense(x, dtype, layout), mean, 8.0),
            {"out": np.ones((7, dim))},
            bounds,
            label=layout,
            untouched=frozenset({1}),
        )
        for layout in layouts(x)
    ]


def _two_blocks(rng: np.random.Generator, dim: int, dtype: str, *, sparse: bool) -> tuple[Any, Any]:
    a, b = quantised(rng, (7, dim), dtype), quantised(rng, (5, dim), dtype)
    if not sparse:
        return a, b
    a, b = a * (rng.random(a.shape) < 0.4), b * (rng.random(b.shape) < 0.4)
    a[3] = b[1] = 0
    return scipy.sparse.csr_array(a), scipy.sparse.csr_array(b)


def _plain(x: Any) -> np.ndarray:
    return x.toarray() if scipy.sparse.issparse(x) else x


def _gram(kernel: str) -> Callable[[np.random.Generator, int, str], list[Case]]:
    def cases(rng: np.random.Generator, dim: int, dtype: str) -> list[Case]:
        a, b = _two_blocks(rng, dim, dtype, sparse=kernel.startswith("sparse"))

        def of(left: Any, right: Any, label: str) -> Case:
            def bounds(want: dict[str, np.ndarray], kind: str, accumulate: str) -> dict[str, Any]:
                size = np.abs(_plain(left)) @ np.abs(_plain(right)).T
                summing = (gamma(dim, accumulate) + gamma(dim, "float64")) * size
                # Products of bfloat16 are exact in float32, and rounded once they are added up.
                rounding = unit(kind) * (np.abs(want["out"]) + summing) if kind == "bfloat16" else 0
                return {"out": summing + rounding}

            outputs = {"out": np.ones((left.shape[0], right.shape[0]))}
            return Case(kernel, (left, right), outputs, bounds, label=label)

        return [of(a, b, "apart"), of(a, a, "with itself")]

    return cases


def distance_error(squares: np.ndarray, distances: np.ndarray, dim: int, dtype: str) -> np.ndarray:
    """Error of distances through the product, from ``gamma_{d+10}`` times the sum of the squared norms."""
    error = gamma(dim + 10, dtype) * squares
    with np.errstate(divide="ignore", invalid="ignore"):
        near = np.fmin(error / distances, np.sqrt(error))
    return near + 2 * unit(dtype) * (distances + np.sqrt(error))


def _euclidean(kernel: str) -> Callable[[np.random.Generator, int, str], list[Case]]:
    def cases(rng: np.random.Generator, dim: int, dtype: str) -> list[Case]:
        a, b = _two_blocks(rng, dim, dtype, sparse=kernel.startswith("sparse"))
        squares = [np.square(_plain(x)).sum(axis=1) for x in (a, b)]

        def bounds(want: dict[str, np.ndarray], kind: str, accumulate: str) -> dict[str, Any]:
            return {"out": distance_error(squares[0][:, None] + squares[1], want["out"], dim, accumulate)}

        return [Case(kernel, (a, b), {"out": np.ones((7, 5))}, bounds, trailing=(squares[0], squares[1]))]

    return cases


def minkowski_error(dim: int, p: float, dtype: str, accumulate: str) -> float:
    """Relative error of a power mean: difference, division, power (2 u), sum, mean, root, and how it is stored."""
    if math.isinf(p):
        return 2 * unit(dtype)
    inner = gamma(dim + math.ceil(2 * p) + 6, accumulate)
    return power_error(inner, p) + gamma(5, accumulate) + 2 * unit(dtype)


def power_mean_error(dim: int, p: float, dtype: str) -> float:
    """Relative error of a dense power mean, as `geomkit.kernels.cpu_powers` derives it."""
    if math.isinf(p):
        return 2 * unit(dtype)
    # A sum of powers of three roundings each at most, in pieces but for the lowest orders.
    length = (dim if p < 0.25 else min(dim, 1024)) + 3
    if p in {0.5, 1, 2, 4}:
        return power_error(gamma(length, dtype), p) + gamma(3, dtype)
    lanes = "float64" if p < 0.25 else dtype
    exponents = math.ceil(3 * math.log(2) * (math.log2(dim) + 24))
    inner = gamma(length + 1 + exponents, lanes) + gamma(exponents + 5, "float64")
    return power_error(inner, p) + gamma(8, lanes) + gamma(8, "float64") + 2 * unit(dtype)


def _minkowski(kernel: str) -> Callable[[np.random.Generator, int, str], list[Case]]:
    def cases(rng: np.random.Generator, dim: int, dtype: str) -> list[Case]:
        a, b = _two_blocks(rng, dim, dtype, sparse=kernel.startswith("sparse"))

        def of(p: float) -> Case:
            def bounds(want: dict[str, np.ndarray], kind: str, accumulate: str) -> dict[str, Any]:
                error = power_mean_error(dim, p, kind)
                if kernel == "sparse_minkowski":
                    # Its sums are rescaled wherever a difference is the largest so far: three more roundings each time.
                    error = minkowski_error(4 * dim, p, kind, accumulate)
                return {"out": (error + minkowski_error(dim, p, "float64", "float64")) * want["out"]}

            return Case(kernel, (a, b), {"out": np.ones((7, 5))}, bounds, trailing=(p,), label=f"p={p}")

        return [of(p) for p in ORDERS]

    return cases


def _tiles(rng: np.random.Generator, dim: int) -> list[tuple[str, bool, tuple[int, int]]]:
    return [("diagonal", True, (dim, dim)), ("wide", False, (7, dim)), ("tall", False, (dim, 3))]


def _tally(rng: np.random.Generator, dim: int, dtype: str) -> list[Case]:
    def of(label: str, diagonal: bool, shape: tuple[int, int], centre: float) -> Case:
        # Multiples of 2^-10, so that tile, centre and difference are exact in both precisions, and so are the counts.
        tile = rounded(rng.integers(-1024, 1025, shape) / 1024, dtype)
        seen = np.triu(np.ones(shape, bool), 1) if diagonal else np.ones(shape, bool)
        powers = np.array([np.sum(np.abs(tile - centre)[seen] ** k) for k in (1, 2, 3, 4)])

        def bounds(want: dict[str, np.ndarray], kind: str, accumulate: str) -> dict[str, Any]:
            sums = gamma(shape[1] + 5, accumulate) + 2 * gamma(tile.size + 5, "float64")
            return {"counts": 0, "extremes": 0, "sums": sums * powers}

        outputs = {
            "counts": np.zeros((4, 65536), np.int64),
            "sums": np.zeros(4),
            "extremes": np.array([np.inf, -np.inf]) if seen.any() else np.array([-0.5, 0.5]),
        }
        wide = frozenset(outputs)
        return Case("tally", (tile, diagonal, centre), outputs, bounds, label=f"{label} {centre}", wide=wide)

    return [of(*tile, centre) for tile in _tiles(rng, dim) for centre in (0.0, 0.25)]


def _row_ranges(rng: np.random.Generator, dim: int, dtype: str) -> list[Case]:
    def of(label: str, diagonal: bool, shape: tuple[int, int]) -> Case:
        tile = np.abs(quantised(rng, shape, dtype))
        seen = np.where(np.triu(np.ones(shape, bool), 1), tile, 0) if diagonal else tile
        before = [np.stack([np.full(k, 0.7), np.full(k, 0.9), np.full(k, 3.0)]) for k in shape]
        length = max(shape) + 2

        def bounds(want: dict[str, np.ndarray], kind: str, accumulate: str) -> dict[str, Any]:
            rounding = gamma(length, accumulate) + 2 * gamma(length, "float64")
            rows, cols = (np.zeros_like(each) for each in before)
            rows[2], cols[2] = rounding * (seen.sum(axis=1) + 3), rounding * (seen.sum(axis=0) + 3)
            return {"rows": rows + cols} if diagonal else {"rows": rows, "cols": cols}

        outputs = {"rows": before[0], "cols": before[1]}
        wide = frozenset(outputs)
        return Case("row_ranges", (tile, diagonal), outputs, bounds, label=label, wide=wide, shared=diagonal)

    return [of(*tile) for tile in _tiles(rng, dim)]


CASES: dict[str, Callable[[np.random.Generator, int, str], list[Case]]] = {
    "unit_rows": _unit_rows,
    "centred_rows": _centred_rows,
    "gram": _gram("gram"),
    "euclidean": _euclidean("euclidean"),
    "minkowski": _minkowski("minkowski"),
    "sparse_gram": _gram("sparse_gram"),
    "sparse_euclidean": _euclidean("sparse_euclidean"),
    "sparse_minkowski": _minkowski("sparse_minkowski"),
    "tally": _tally,
    "row_ranges": _row_ranges,
    **score_cases.CASES,
}
