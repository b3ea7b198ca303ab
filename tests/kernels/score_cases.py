"""Inputs and error bounds for the kernels behind scores and neighbours."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from geomkit.kernels import Backend, module
from geomkit.pairwise.candidates import Nearest
from tests.bounds import gamma, unit
from tests.kernels.case import NONE, Case, as_tile, quantised, rounded

OFFSET = 0.75

SPLIT = {"bfloat16", "float16"}
"""Dtypes in which a lift has two pieces."""


def _unit_sums(rng: np.random.Generator, dim: int, dtype: str) -> list[Case]:
    x = quantised(rng, (7, dim), dtype)
    x[2] = 0
    start = rng.standard_normal(dim)
    norms = np.linalg.norm(x, axis=1)
    entries = np.abs(x).T @ np.divide(1, norms, where=norms > 0, out=np.zeros(7))

    def bounds(want: dict[str, np.ndarray], kind: str, accumulate: str) -> dict[str, Any]:
        # Norms as those of `unit_rows`; then a sum of eight terms, in either.
        rounding = gamma(dim + 6, accumulate) + gamma(dim + 6, "float64")
        adding = gamma(8, accumulate) + gamma(8, "float64")
        return {"returned": rounding * norms, "total": (rounding + adding) * 1.001 * (entries + np.abs(start))}

    return [Case("unit_sums", (x,), {"total": start}, bounds, wide=frozenset({"total"}))]


def _residual_rows(rng: np.random.Generator, dim: int, dtype: str) -> list[Case]:
    x = quantised(rng, (7, dim), "float32" if dtype in SPLIT else dtype)
    x[3] = 0
    divisors, mean = rng.uniform(0.5, 4, 7), rng.standard_normal(dim)

    def of(form: int, heights: tuple[int, int]) -> Case:
        size = np.abs(x) / divisors[:, None] + (np.abs(mean) if form else 0)

        def factor(height: int) -> Callable[[str], np.ndarray]:
            pieces = 2 if form else 0
            return lambda kind: np.full((height, dim + (2 * pieces if kind in SPLIT else pieces)), 9.0)

        def reading(found: dict[str, Any]) -> dict[str, Any]:
            lengths, slips, lifts = found.pop("returned")
            out = {"lengths": lengths, "slips": slips, "lifts": lifts}
            for side, block in found.items():
                out[side] = block[:, :dim]
                if form:
                    halves = np.split(block[:, dim:], 2, axis=1)
                    lift, ones = halves if side == "left" else halves[::-1]
                    out[f"{side} lift"] = lift.sum(axis=1)
                    out[f"{side} ones"] = ones[:, [0, -1]]
            return out

        def bounds(want: dict[str, np.ndarray], kind: str, accumulate: str) -> dict[str, Any]:
            # Division and difference err by two roundings each, in float64, in the reference as well.
            row = 2 * gamma(3, accumulate) * size
            off, lengths = np.sqrt(np.square(row).sum(axis=1)), want["lengths"]
            summing = 2 * gamma(dim + 4, accumulate)
            longer = lengths + off
            squares, products = longer * off + summing * longer**2, (row + summing * size) @ np.abs(mean)
            lift = squares if form == 2 else products
            lift = lift + 2 * gamma(1, accumulate) * (np.abs(want["lifts"]) + OFFSET + lift)
            u = unit(kind)
            # Of two pieces, the second is what rounding took from the first, rounded.
            column = (u * u if kind in SPLIT else u) * (np.abs(want["lifts"]) + lift) + lift
            if kind == "float16":
                # Half the distance of its least numbers.
                column = column + 2.0**-25
            entries = u * np.abs(x / divisors[:, None] - (mean if form else 0)) + (1 + u) * row
            out: dict[str, Any] = {"lengths": off + summing * longer, "slips": u * longer, "lifts": lift}
            for side in ("left", "right"):
                if side in want:
                    height = len(want[side])
                    out[side] = entries[:height]
                    if form:
                        out[f"{side} lift"], out[f"{side} ones"] = column[:height], 0
            return out

        outputs = {"left": factor(heights[0]), "right": factor(heights[1])}
        arguments = (x, divisors, mean, form, OFFSET)
        return Case(
            "residual_rows", arguments, outputs, bounds, label=f"form {form}, {heights}", shared=form == 0,
            untouched=frozenset({1, 2}), as_given=frozenset({0}), reading=reading,
        )  # fmt: skip

    return [of(0, (7, 7)), *(of(form, heights) for form in (1, 2) for heights in ((7, 7), (7, 0), (0, 7)))]


def some_bfloat16(rng: np.random.Generator, shape: tuple[int, ...], dtype: str = "bfloat16") -> np.ndarray:
    """Finite bfloat16 values of every magnitude that the dtype has, half of them from a few that recur."""
    least, most = (0x3880, 0x4780) if dtype == "float16" else (0, 0x7F80)
    patterns = rng.integers(least, most, shape) | (rng.integers(0, 2, shape) << 15)
    few = np.array([0x0000, 0x8000, 0x3F80, 0xBF80, least + 1, 0x8001 + least, most - 1, 0x7FFF + most])
    patterns = np.where(rng.random(shape) < 0.5, few[rng.integers(0, 8, shape)], patterns)
    return patterns.astype(np.uint16).view(ml_dtypes.bfloat16).astype(np.float64)


def tiles(dim: int) -> list[tuple[str, bool, tuple[int, int]]]:
    return [("diagonal", True, (dim, dim)), ("wide", False, (7, dim)), ("tall", False, (dim, 3))]


def _count(rng: np.random.Generator, dim: int, dtype: str) -> list[Case]:
    def of(label: str, diagonal: bool, shape: tuple[int, int]) -> Case:
        outputs = {"counts": np.zeros((4, 65536), np.int64)}
        return Case(
            "count", (some_bfloat16(rng, shape, dtype), diagonal), outputs, lambda *_: {"counts": 0}, label=label
        )

    return [of(*tile) for tile in tiles(dim)]


def _row_extremes(rng: np.random.Generator, dim: int, dtype: str) -> list[Case]:
    def of(label: str, diagonal: bool, shape: tuple[int, int]) -> Case:
        tile = quantised(rng, shape, dtype)
        before = [np.stack([np.full(k, 0.1), np.full(k, -0.1)]) for k in shape]
        outputs = {"rows": before[0], "cols": before[1]}
        exact = {"rows": 0} if diagonal else {"rows": 0, "cols": 0}
        return Case(
            "row_extremes", (tile, diagonal), outputs, lambda *_: exact, label=label, wide=frozenset(outputs),
            shared=diagonal,
        )  # fmt: skip

    return [of(*tile) for tile in tiles(dim)]


def _above(rng: np.random.Generator, dim: int, dtype: str) -> list[Case]:
    def of(label: str, diagonal: bool, shape: tuple[int, int], threshold: float) -> Case:
        tile = rng.standard_normal(shape)
        tile[rng.random(shape) < 0.2] = threshold
        tile[rng.random(shape) < 0.1] = -0.0
        tile = rounded(tile, dtype)

        def reading(found: dict[str, Any]) -> dict[str, Any]:
            mask = np.zeros(shape)
            np.add.at(mask, tuple(found["returned"]), 1)
            return {"mask": mask}

        return Case(
            "above", (tile, diagonal), {}, lambda *_: {"mask": 0}, (threshold,), f"{label} {threshold}", reading=reading
        )

    # What every dtype has, what lies between two numbers of some, below 0 too, and nothing or everything.
    thresholds = (0.5, -0.5, 0.5 + 2.0**-12, -0.5 - 2.0**-12, 0.5 + 2.0**-40, -0.5 + 2.0**-40, 0.0, 100.0, -100.0)
    return [of(*tile, threshold) for tile in tiles(dim) for threshold in thresholds]


def distinct_symmetric(rng: np.random.Generator, n: int, dtype: str = "bfloat16") -> np.ndarray:
    """A symmetric matrix with distinct bfloat16 values of both signs above its diagonal, which the dtype has too."""
    patterns = np.arange(0x3880, 0x4700) if dtype == "float16" else np.arange(0x3580, 0x4980)
    signed = np.concatenate([patterns, patterns | 0x8000]).astype(np.uint16)
    values = rng.permutation(signed)[: n * (n - 1) // 2].view(ml_dtypes.bfloat16).astype(np.float64)
    out = np.full((n, n), 2.0**15 if dtype == "float16" else 2.0**30)
    out[np.triu_indices(n, 1)] = values
    return np.where(np.tri(n, k=-1, dtype=bool), out.T, out)


@dataclass(frozen=True)
class Screening:
    """The three tiles of a matrix of pairs that is cut once, screened one after the other: the best of each row."""

    matrix: np.ndarray
    cut: int
    keep: int
    label: str = "screening"

    def run(self, backend: Backend, dtype: str) -> dict[str, np.ndarray]:
        nearest = Nearest(backend, len(self.matrix), self.keep, module(backend).entries(dtype))
        first, second = slice(0, self.cut), slice(self.cut, len(self.matrix))
        for i, j in ((first, second), (first, first), (second, second)):
            nearest.update(as_tile(backend, self.matrix[i, j], dtype), i, j)
        values, ids, _ = nearest.candidates()
        values = np.where(ids < 0, -np.inf, values)
        best = np.argsort(-values, axis=1, kind="stable")[:, : self.keep]
        found = {"values": np.take_along_axis(values, best, 1), "ids": np.take_along_axis(ids, best, 1)}
        return {name: np.where(np.isneginf(each), NONE, each) for name, each in found.items()}

    def bounds(self, *_: Any) -> dict[str, Any]:
        return {"values": 0, "ids": 0}


def _screen(rng: np.random.Generator, dim: int, dtype: str) -> list[Screening]:
    matrix = distinct_symmetric(rng, dim + 7, dtype)
    return [Screening(matrix, cut, keep) for cut in (dim, 7) for keep in sorted({1, 3, dim + 6})]


def some_ids(rng: np.random.Generator, shape: tuple[int, int], below: int) -> np.ndarray:
    """Numbers that differ within a row, and here and there none."""
    ids = rng.permuted(np.tile(np.arange(below), (shape[0], 1)), axis=1)[:, : shape[1]]
    return np.where(rng.random(shape) < 0.2, -1, ids)


def _exact_scores(rng: np.random.Generator, dim: int, dtype: str) -> list[Case]:
    left, right = quantised(rng, (7, dim), dtype), quantised(rng, (20, dim), dtype)
    left_factors, right_factors = rng.uniform(0.5, 2, 7), rng.uniform(0.5, 2, 20)

    def of(width: int, euclidean: bool) -> Case:
        ids = some_ids(rng, (7, width), 20)
        ids[0, 0] = 3

        def bounds(want: dict[str, np.ndarray], kind: str, accumulate: str) -> dict[str, Any]:
            own, others = np.abs(left * left_factors[:, None]), np.abs(right[ids])
            rounding = gamma(dim + 6, accumulate) + gamma(dim + 6, "float64")
            if euclidean:
                total = np.square(own[:, None] + others * left_factors[:, None, None]).sum(axis=2)
            else:
                total = (own[:, None] * others).sum(axis=2) * right_factors[ids]
            return {"out": np.where(ids < 0, 0, rounding * total)}

        arguments = (left, right, ids, euclidean, left_factors, right_factors)
        return Case(
            "exact_scores", arguments, {"out": np.full((7, width), 9.0)}, bounds, label=f"{width} {euclidean}",
            wide=frozenset({"out"}), untouched=frozenset({2, 4, 5}),
        )  # fmt: skip

    return [of(width, euclidean) for width in (1, 16) for euclidean in (False, True)]


def _shortlist(rng: np.random.Generator, dim: int, dtype: str) -> list[Case]:
    # Multiples of powers of two, so that no comparison is a matter of rounding.
    values = rng.integers(-256, 256, (7, dim)) / 16
    ids, errors = some_ids(rng, (7, dim), dim), rng.integers(0, 64, 7) / 64
    return [
        Case("shortlist", (values, ids, errors), {}, lambda *_: {"returned": 0}, (share, k), f"{share} {k}",
             untouched=frozenset({0, 1, 2}))
        for share in (0.0, 2.0**-8) for k in sorted({1, min(dim, 3), dim, dim + 2})
    ]  # fmt: skip


def _best(rng: np.random.Generator, dim: int, dtype: str) -> list[Case]:
    # Few values, so that many are equal.
    scores, ids = rng.integers(-6, 7, (7, dim)) / 4, some_ids(rng, (7, dim), dim)
    return [
        Case("best", (scores, ids), {}, lambda *_: {"returned": 0, "returned1": 0}, (k,), f"{k}",
             untouched=frozenset({0, 1}))
        for k in sorted({1, min(dim, 3), dim})
    ]  # fmt: skip


CASES: dict[str, Callable[[np.random.Generator, int, str], list[Any]]] = {
    "unit_sums": _unit_sums,
    "residual_rows": _residual_rows,
    "count": _count,
    "row_extremes": _row_extremes,
    "above": _above,
    "screen": _screen,
    "exact_scores": _exact_scores,
    "shortlist": _shortlist,
    "best": _best,
}
