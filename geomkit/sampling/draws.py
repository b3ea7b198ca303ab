"""Points drawn from many rows, and what a sweep over their pairs leaves behind."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from geomkit.core.matrix import Matrix, as_matrix
from geomkit.errors import InvalidInputError
from geomkit.kernels import Backend
from geomkit.pairwise.reducers import Tally
from geomkit.pairwise.scores import Scores, cosine_scores, euclidean_scores
from geomkit.pairwise.sweep import sweep
from geomkit.pairwise.tiles import PairReducer, Tiles
from geomkit.sampling.counts import WIDEST_TILE, BlockCounts, InsideBlocks, PointCounts
from geomkit.sampling.intervals import Sums
from geomkit.stats.cosine import prepare
from geomkit.stats.distribution import Distribution
from geomkit.stats.moments import Moments

__all__ = ["BLOCK_BYTES", "Drawn", "Known", "Swept", "known_from"]

Vector = NDArray[np.float64]

BLOCK_BYTES = 2**28
"""Room for the sums of all pairs of blocks."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known exactly of all pairs."""

    n: int
    n_dropped: int
    mean: float
    variance: float


def known_from(moments: Moments, metric: str) -> Known:
    """Read mean and variance of a metric off the moments."""
    if metric == "cosine":
        return Known(moments.n, moments.n_dropped, moments.cosine_mean, moments.cosine_variance)
    mean, variance = moments.squared_distance_mean, moments.squared_distance_variance
    return Known(moments.n, moments.n_dropped, mean, variance)


@dataclass(frozen=True)
class Drawn:
    """Points, made ready for products.

    A tile of theirs holds entries; the value of a pair is ``slope (entry + origin)``.
    """

    scores: Scores
    rows: NDArray[np.int64]
    """Row numbers, ascending, (m,)."""
    n: int
    """Rows that were drawn from."""
    cuts: NDArray[np.int64] | None
    """Where blocks of points begin, and m; None where points were drawn one by one."""
    n_blocks: int
    """Blocks that were drawn from."""
    slope: float
    low: float
    high: float
    """Between which all values lie."""

    @classmethod
    def of(
        cls,
        matrix: Matrix,
        n: int,
        points: int,
        blocks: int | None,
        rng: np.random.Generator,
        metric: str,
        precision: str,
        on_invalid: str,
        threads: int | None,
    ) -> Self:
        """Draw from all rows of a matrix, of which `n` are valid, and read what was drawn."""
        cuts, n_blocks = None, 0
        if blocks is None:
            rows = np.sort(rng.choice(matrix.n, points, replace=False))
            part = _taken(matrix, rows)
        else:
            n_blocks = -(-matrix.n // blocks)
            numbers = np.sort(rng.choice(n_blocks, points // blocks, replace=False)).astype(np.int64)
            starts, stops = matrix.n * numbers // n_blocks, matrix.n * (numbers + 1) // n_blocks
            rows = np.concatenate([np.arange(*span) for span in zip(starts, stops, strict=True)])
            cuts = np.concatenate([[0], np.cumsum(stops - starts)])
            part = _read(matrix, list(zip(starts.tolist(), stops.tolist(), strict=True)))
        kind = cosine_scores if metric == "cosine" else euclidean_scores
        scores = prepare(as_matrix(part, name=matrix.name), "cpu", precision, on_invalid, threads, kind)
        if scores.matrix.keep is not None:
            rows = rows[scores.matrix.keep]
        if metric == "cosine":
            return cls(scores, rows, n, cuts, n_blocks, 1.0, -1.0, 1.0)
        return cls(scores, rows, n, cuts, n_blocks, -2 * scores.unit, 0.0, np.inf)

    @property
    def error_bound(self) -> float:
        """Bound on the error of any value."""
        return self.scores.bound * abs(self.slope)

    def entry(self, value: float) -> float:
        """Return the entry of a tile that stands for a value."""
        return value / self.slope - self.scores.origin

    def quarter(self, rng: np.random.Generator, threads: int | None) -> Self:
        """Draw a quarter of the points again."""
        matrix = self.scores.matrix
        some = np.sort(rng.choice(matrix.n, matrix.n // 4, replace=False))
        part = matrix.rows(0, matrix.n)[some] if matrix.kind == "sparse" else matrix.take(some)
        kind = cosine_scores if self.slope == 1.0 else euclidean_scores
        scores = prepare(as_matrix(part), "cpu", self.scores.precision, "raise", threads, kind)
        cuts = None if self.cuts is None else np.unique(np.searchsorted(some, self.cuts))
        slope = 1.0 if self.slope == 1.0 else -2 * scores.unit
        return replace(self, scores=scores, rows=self.rows[some], cuts=cuts, slope=slope)

    @property
    def _inside(self) -> float:
        """Share of all pairs of rows that are within a block."""
        return (self.n / self.n_blocks - 1) / (self.n - 1) if self.n_blocks else 0.0

    def sweep(self, entries: Vector, known: Known | None, threads: int | None) -> "Swept":
        """Measure all pairs of the points, and count entries at most `entries`."""
        centre = known.mean / self.slope if known else self.scores.origin
        centre = centre if self.slope == 1.0 else self.scores.centre(centre)
        kernels = len(entries) + 2
        if self.cuts is None:
            points = PointCounts(entries, len(self.rows))
            found = _distribution(self.scores, centre, None, 0.0, [points], threads)
            return Swept(self, found, self._of_points(points, found))
        drawn = len(self.cuts) - 1
        if kernels * drawn**2 * 8 > BLOCK_BYTES:
            msg = (
                f"blocks: {drawn} of them are too many to keep the sums of all their pairs, for which there are "
                f"{BLOCK_BYTES // 2**20} MiB; draw longer ones, or fewer points"
            )
            raise InvalidInputError(msg)
        counts = BlockCounts(entries, self.cuts)
        found = _distribution(self.scores, centre, self.cuts, self._inside, [counts], threads)
        return Swept(self, found, self._of_blocks(counts))

    def _of_points(self, counts: PointCounts, found: Distribution) -> Sums:
        m = len(self.rows)
        by_unit = np.column_stack([counts.sums.T, np.full(m, m - 1.0)])
        patterns = np.flatnonzero(found.counts)
        values = (patterns.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
        entry = values + found.centre - self.scores.origin
        # To the width of a counter, which only the second term of a variance sees.
        each = np.stack([*(entry <= t for t in counts.thresholds), entry, entry**2, np.ones(len(entry))])
        return Sums(by_unit, (each * found.counts[patterns]) @ each.T, self.n)

    def _of_blocks(self, counts: BlockCounts) -> Sums:
        """Kernels of a pair of blocks, whose mean over all pairs of blocks is a mean over pairs of rows.

        That within a block are fewer pairs of the sample than of all rows is made up for by their weight.
        """
        drawn, sizes = len(counts.cuts) - 1, np.diff(counts.cuts).astype(np.float64)
        ones = np.triu(np.outer(sizes, sizes), 1)
        np.fill_diagonal(ones, sizes * (sizes - 1) / 2)
        every = np.concatenate([counts.sums, ones[None]])
        inside = np.diagonal(every, axis1=1, axis2=2).copy() / (self.n_blocks - 1)
        kernel = every + every.transpose(0, 2, 1) + inside[:, :, None] + inside[:, None, :]
        at = np.arange(drawn)
        kernel[:, at, at] = 0.0
        kernel /= kernel[-1].sum() / (drawn * (drawn - 1))
        flat = kernel.reshape(len(kernel), -1)
        return Sums(kernel.sum(axis=2).T, flat @ flat.T / 2, self.n_blocks)


@dataclass(frozen=True)
class Swept:
    """All pairs of the points, measured."""

    drawn: Drawn
    found: Distribution
    """Of ``value / slope``, each pair of points counted once."""
    sums: Sums

    @cached_property
    def _steps(self) -> tuple[Vector, Vector]:
        """Edges of the counters, and the weight of the pairs below each."""
        found = self.found
        patterns = np.flatnonzero(found.counts)
        sizes = np.concatenate([patterns & 0x7FFF, np.maximum(patterns & 0x7FFF, 1) - 1]).astype(np.uint32)
        halfway = ((sizes << np.uint32(16)) | np.uint32(0x8000)).view(np.float32).astype(np.float64)
        edges = np.concatenate([found.centre - halfway, found.centre + halfway, [found.minimum, found.maximum]])
        edges = np.unique(np.clip(edges, found.minimum, found.maximum))
        return edges, found.cumulative(edges)

    def quantile(self, share: float) -> float:
        """Value below which a share of the measured pairs lies; the end of all values where there are none beyond.

        Values are spread evenly over their counter.
        """
        m = len(self.drawn.rows)
        if share * m * (m - 1) < 2:
            return self.drawn.low
        if (1 - share) * m * (m - 1) < 2:
            return self.drawn.high
        edges, weights = self._steps
        slope = self.drawn.slope
        value = slope * float(np.interp((share if slope > 0 else 1 - share) * self.found.n, weights, edges))
        # And no negative zero.
        return min(max(value, self.drawn.low), self.drawn.high) + 0.0

    def place(self, share: float) -> float:
        """Return the same, but among the values measured."""
        ends = sorted([self.drawn.slope * self.found.minimum, self.drawn.slope * self.found.maximum])
        return min(max(self.quantile(share), ends[0]), ends[1]) + 0.0


_FINE = 2**20
"""What a pair between blocks counts, so that one within a block, which counts less, still counts a whole number."""


def _distribution(
    scores: Scores,
    centre: float,
    cuts: NDArray[np.int64] | None,
    inside: float,
    others: Sequence[PairReducer],
    threads: int | None,
) -> Distribution:
    """Sweep over all pairs; those within blocks weigh what `inside`, their share among the pairs of all rows, says."""
    tally = Tally(Backend.CPU, centre, origin=scores.origin)
    within = None if cuts is None else InsideBlocks(tally.spawn(), cuts)
    reducers: list[PairReducer] = [tally, *others]
    if within is not None:
        reducers.append(within)
    sweep(Tiles(scores, "gram"), reducers, threads=threads, size=min(WIDEST_TILE, scores.n))
    found = Distribution.of(tally)
    if within is None:
        return found
    alike = within.tally.counts
    between = found.counts - alike
    weight = inside / (1 - inside) * int(between.sum()) / max(int(alike.sum()), 1)
    return replace(found, counts=between * _FINE + np.rint(alike * (weight * _FINE)).astype(np.int64))


def _taken(matrix: Matrix, rows: NDArray[np.int64]) -> Any:
    if matrix.kind == "sparse":
        return matrix.data[rows]
    part = matrix.take(rows)
    return part.cpu().numpy() if matrix.on_accelerator else part


def _read(matrix: Matrix, spans: list[tuple[int, int]]) -> Any:
    if matrix.kind == "sparse":
        import scipy.sparse

        return scipy.sparse.vstack([matrix.data[slice(*span)] for span in spans], format="csr")
    parts = [matrix.block(*span) for span in spans]
    return np.concatenate([part.cpu().numpy() if matrix.on_accelerator else part for part in parts])
