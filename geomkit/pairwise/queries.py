"""Rows of one matrix scored against those of another: what a product gives, how far off it is, and what is exact.

A score is larger the nearer a query is to a row: the cosine, the inner product, or minus half the squared distance.
With m a vector near the middle of the rows, r = y - m for a row and z = y - m for a query, a tile holds
``z · r + share * lift``, where the lift belongs to the row alone: what depends on the query alone does not change which
rows are nearest to it, and would cost a query far from all rows its digits. Where lengths count, each query is divided
by a power of two of its own, so that none leaves the range. Prepared rows are made block by block while tiles are, and
never kept.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.matrix import Matrix, reject_rows
from geomkit.kernels import Backend, load, module
from geomkit.pairwise.normalization import as_given, direction_norms, divided, rescaled, taken
from geomkit.pairwise.scores import UNIT_ROUNDOFF, WORTH_CENTRING, Form, dividable

__all__ = ["Asked", "Corpus", "Queries", "corpus_of", "queries_of"]

Array = NDArray[np.float64]

_MIDDLE_ROWS = 1024
"""Rows whose mean stands for the middle of all where no pass needs theirs: any vector will do, a near one is better."""

_LEAST_NORMAL = 2.0**-126
"""Numbers below may be taken for nothing by products and keys in float32."""


@dataclass(frozen=True)
class Corpus:
    """The rows that queries are compared with: where they lie, and how they are made ready."""

    matrix: Matrix
    backend: Backend
    precision: str
    """Of the rows in the product: one of `UNIT_ROUNDOFF`."""
    dtype: str
    """What blocks are stored in: that of the precision, or float32 that holds bfloat16 values."""
    form: Form
    divisors: Array
    """What each row is divided by first, (n,)."""
    mean: Array
    """The vector m, (d,), of rows that are divided already."""
    offset: float
    """Added to every lift, so that lifts lie around 0."""
    directed: bool
    """Whether rows and queries are divided by their norms."""

    @property
    def sparse(self) -> bool:
        """Whether blocks are CSR."""
        return self.matrix.kind == "sparse" and self.backend is Backend.CPU

    @property
    def device(self) -> Any:
        """The torch device that blocks lie on, or None."""
        return self.matrix.device if self.backend.on_device else None

    @property
    def scale(self) -> float:
        """What rows are divided by, where that is not their norm."""
        return float(self.divisors[0])

    @property
    def pieces(self) -> int:
        """Columns of a block that hold the lift, in as many pieces."""
        return 0 if self.form is Form.PLAIN else 2 if self.precision == "bfloat16" else 1

    @property
    def width(self) -> int:
        """Columns of a block: the coordinates, and of a row ones and its lift."""
        return self.matrix.d + 2 * self.pieces

    def in_float32(self) -> "Corpus":
        """Return the same rows, made ready in float32."""
        return replace(self, precision="float32", dtype="float32")

    def right(self, start: int, stop: int) -> tuple[Any, Array]:
        """Return rows ``start:stop`` ready for the product, and their lengths, slips and lifts, (3, stop - start)."""
        divisors = self.divisors[start:stop]
        if self.sparse:
            block = divided(self.matrix.rows(start, stop), divisors)
            lengths, slips = _sizes(block, self.dtype)
            lifts = (self.offset - lengths**2 / 2) if self.form is Form.EUCLIDEAN else np.zeros(len(lengths))
            return self._with_columns(block, np.ones(len(lifts)), lifts), np.stack([lengths, slips, lifts])
        memory, x = module(self.backend), as_given(self.matrix, self.backend, start, stop)
        if self.directed and not dividable(divisors):
            x, divisors = self.directions(x), np.ones(len(divisors))
        out = memory.zeros((stop - start, self.width), self.precision, self.device)
        none = out[:0]
        left, right = (out, out) if self.form is Form.PLAIN else (none, out)
        kernel = load("residual_rows", self.backend)
        facts = kernel(x, divisors, self.mean, int(self.form), self.offset, left, right)
        return self._stored(out), np.asarray(memory.to_numpy(facts))

    def left(self, queries: "Queries", numbers: NDArray[np.int64]) -> "Asked":
        """Make the queries with these numbers ready."""
        matrix, norms = queries.matrix, queries.norms[numbers]
        if self.sparse:
            divisors, shares = self._divisors(norms)
            block = divided(matrix.data[matrix.in_input(numbers)], divisors)
            lengths, slips = _sizes(block, self.dtype)
            left, facts = self._with_columns(block, np.zeros(len(lengths)), shares), [lengths, slips, 0 * lengths]
            return Asked(numbers, left, divisors, shares, np.stack(facts))
        memory, x = module(self.backend), taken(matrix, self.backend, numbers)
        if self.directed:
            x = self.directions(x)
            if self.form is not Form.PLAIN:
                x = x - memory.as_working(self.mean, "float64", self.device)
        elif self.form is Form.EUCLIDEAN:
            apart, unit = (memory.zeros(tuple(x.shape), "float64", self.device) for _ in range(2))
            load("centred_rows", self.backend)(x, self.mean * self.scale, 1.0, apart)
            x, norms = apart, np.asarray(memory.to_numpy(load("unit_rows", self.backend)(apart, unit)))
            bad = np.zeros(matrix.n, bool)
            bad[numbers] = np.isnan(norms)
            reject_rows(matrix, bad, "lie further from the rows of x than float64 can say", "raise", 1)
        divisors, shares = self._divisors(norms)
        within = np.ones(len(numbers)) if self.directed else divisors
        out = memory.zeros((len(numbers), self.width), self.precision, self.device)
        facts = load("residual_rows", self.backend)(x, within, self.mean, int(Form.PLAIN), 0.0, out, out)
        for column in range(self.width - self.pieces, self.width):
            out[:, column] = self._as_stored(shares)
        return Asked(numbers, self._stored(out), divisors, shares, np.asarray(memory.to_numpy(facts)))

    def _divisors(self, norms: Array) -> tuple[Array, Array]:
        """Return what queries are divided by, and their shares, from the norms of what is divided."""
        if self.directed:
            return norms, np.ones(len(norms))
        divisors = _power_of_two(norms)
        if self.form is not Form.EUCLIDEAN:
            # Inner products scale with the query, and lose what depends on it alone: no mean is taken out of it.
            return divisors, np.zeros(len(norms))
        divisors = np.maximum(divisors, self.scale)
        return divisors, self.scale / divisors

    def directions(self, x: Any) -> Any:
        """Return rows over their norms in float64, however long they are."""
        out = module(self.backend).zeros(tuple(x.shape), "float64", self.device)
        load("unit_rows", self.backend)(x, out)
        return out

    def _as_stored(self, shares: Array) -> Any:
        """Store powers of two as a block does, exactly but for those that leave the range."""
        single = shares.astype(np.float32)
        if self.precision != "bfloat16" or self.backend.on_device:
            return module(self.backend).as_working(
                single if self.precision != "float64" else shares, self.precision, self.device
            )
        return (single.view(np.uint32) >> np.uint32(16)).astype(np.uint16)

    def _stored(self, block: Any) -> Any:
        return block if self.dtype == self.precision else module(self.backend).widened(block)

    def _with_columns(self, block: Any, first: Array, second: Array) -> Any:
        import scipy.sparse

        columns: list[Any] = [] if self.form is Form.PLAIN else [first[:, None], second[:, None]]
        whole: list[Any] = [block, *columns]
        return scipy.sparse.csr_array(scipy.sparse.hstack(whole, format="csr"), dtype=self.dtype)

    def bounds(self, asked: "Asked", longest: Array) -> tuple[Array, Array]:
        """Bound what the entries of each query, and its scores in float64, are off by.

        Parameters
        ----------
        asked : Asked
        longest : (3,)
            Greatest length, slip and absolute lift of any row.

        Returns
        -------
        errors : (h,)
            Of an entry before it is rounded to bfloat16, as in `Scores.errors`: what rounding took from both rows, and
            ``gamma_K`` for K terms; a lift errs by the rounding of its last piece.
        slack : (h,)
            Of the computed score of any row, in the units of exact scores: sums of d terms, and roundings of the rows
            over their divisors and less the mean, each at most u times the lengths that go in.
        """
        lengths, slips, _ = asked.facts
        length, slip, lift = (float(each) for each in longest)
        terms = self.matrix.longest_row + 2 * self.pieces
        u, wide = UNIT_ROUNDOFF[self.precision], UNIT_ROUNDOFF["float64"]
        sums = wide if self.precision == "float64" else UNIT_ROUNDOFF["float32"]
        if self.form is Form.PLAIN:
            lift = 0.0
        stored, lifted = lengths + slips, asked.shares * lift
        gamma = terms * sums / (1 - terms * sums)
        rounding = slips * length + stored * slip + lifted * (u * u if self.pieces == 2 else u)
        summing = gamma * (stored * (length + slip) + (1 + u) * lifted)
        vanishing = 4 * terms * _LEAST_NORMAL * (1 + length + lift)
        middle = 0.0 if self.form is Form.EUCLIDEAN else float(np.linalg.norm(self.mean))
        left, right = lengths + asked.shares * middle, length + middle
        whole = (left + asked.shares * right) ** 2 if self.form is Form.EUCLIDEAN else left * right
        whole = whole + asked.shares**2 * abs(self.offset)
        return rounding + summing + vanishing, 4 * (self.matrix.d + 16) * wide * whole + terms * 2.0**-1020

    def weights(self, asked: "Asked") -> Array:
        """Return what an entry of each query counts for in its exact score, (h,)."""
        return asked.shares if self.form is Form.EUCLIDEAN else np.ones(len(asked.shares))

    def shifts(self, asked: "Asked") -> Array:
        """Return what weighted entries of each query and this add up to exact scores, (h,)."""
        lengths, _, onto_mean = asked.facts
        if self.form is Form.EUCLIDEAN:
            return np.asarray(-(lengths**2) / 2 - asked.shares**2 * self.offset)
        if self.form is Form.PLAIN:
            return np.zeros(len(lengths))
        return np.asarray(onto_mean + asked.shares * float(self.mean @ self.mean))

    def units(self, asked: "Asked") -> Array:
        """Return the unit of the exact scores of each query, in that of the data, (h,); squares may leave the range."""
        if self.directed:
            return np.ones(len(asked.divisors))
        with np.errstate(over="ignore"):
            return asked.divisors * (asked.divisors if self.form is Form.EUCLIDEAN else self.scale)


@dataclass(frozen=True)
class Queries:
    """The queries that can be measured."""

    matrix: Matrix
    norms: Array
    """Their norms, (m,)."""


@dataclass(frozen=True)
class Asked:
    """Some queries made ready."""

    numbers: NDArray[np.int64]
    """Which of the queries that are left they are, (h,)."""
    left: Any
    """Their side of the product."""
    divisors: Array
    """What each is divided by, (h,): its norm, or a power of two, for distances at least that of the rows."""
    shares: Array
    """How much of the lift of a row counts for each, in [0, 1], (h,): 1 for cosines, 0 for inner products, which leave
    the mean in the query, and for distances what rows are divided by over what the query is."""
    facts: Array
    """Length of each z, that of what rounding took from it, and its product with the mean, (3, h)."""

    def some(self, which: NDArray[np.int64]) -> "Asked":
        """Return some of them."""
        facts = np.ascontiguousarray(self.facts[:, which])
        return Asked(self.numbers[which], self.left[which], self.divisors[which], self.shares[which], facts)


def _sizes(block: Any, dtype: str) -> tuple[Array, Array]:
    """Norms of CSR rows and of what rounding takes from them."""
    taken_away = block - block.astype(dtype).astype(np.float64)
    first, second = (np.sqrt(np.asarray(each.multiply(each).sum(axis=1)).ravel()) for each in (block, taken_away))
    return first, second


def _power_of_two(values: Array) -> Array:
    """Powers of two above norms, or the nearest whose reciprocals are numbers; 1 for a norm of 0."""
    finite = np.where(np.isfinite(values) & (values > 0), values, 0.5)
    exponents = np.where(np.isinf(values), 1023, np.clip(np.frexp(finite)[1], -1022, 1023))
    return np.ldexp(1.0, exponents)


def _usable(
    matrix: Matrix, norms: Array, on_invalid: str, min_rows: int, *, directed: bool
) -> tuple[Matrix, NDArray[np.bool_]]:
    """Refuse or drop rows that are not finite, and where directions count those that are zero."""
    unknown, zero = np.isnan(norms), (norms == 0) & directed
    if on_invalid == "raise":
        reject_rows(matrix, unknown, "are not finite", on_invalid, min_rows)
        reject_rows(matrix, zero, "are zero and have no direction", on_invalid, min_rows)
    what = "are not finite or zero" if directed else "are not finite"
    return reject_rows(matrix, unknown | zero, what, on_invalid, min_rows), ~(unknown | zero)


def corpus_of(
    matrix: Matrix, backend: Backend, precision: str, dtype: str, metric: str, on_invalid: str, threads: int
) -> Corpus:
    """Choose how rows are made ready, from one pass over them.

    Raises
    ------
    InvalidInputError
        Rows are not finite, or zero where the metric is cosine, and ``on_invalid="raise"``; or fewer than two are left.
    """
    directed = metric == "cosine"
    norms, total = direction_norms(matrix, backend, threads)
    kept, had = _usable(matrix, norms, on_invalid, 2, directed=directed)
    norms, sparse = norms[had], kept.kind == "sparse" and backend is Backend.CPU
    start = Corpus(kept, backend, precision, dtype, Form.PLAIN, norms, np.zeros(kept.d), 0.0, directed)
    if directed:
        if sparse:
            # Their largest entries are brought near 1, so that norms are in the range.
            kept, norms = rescaled(kept)
            return replace(start, matrix=kept, divisors=norms)
        mean = total / kept.n
        plain = float(mean @ mean) < WORTH_CENTRING
        return start if plain else replace(start, form=Form.RESIDUAL, mean=mean)
    divisors = np.full(kept.n, _power_of_two(norms.max(keepdims=True))[0])
    start = replace(start, divisors=divisors)
    if not sparse:
        some = np.unique(np.linspace(0, kept.n - 1, min(kept.n, _MIDDLE_ROWS)).astype(np.int64))
        rows = np.asarray(module(backend).to_numpy(taken(kept, backend, some))).astype(np.float64) / start.scale
        mean = rows[0] + (rows - rows[0]).mean(axis=0)
        start = replace(start, form=Form.RESIDUAL, mean=mean)
        typical = float(np.square(rows - mean).sum(axis=1).mean())
    else:
        typical = float(np.mean((norms / start.scale) ** 2))
    return start if metric == "dot" else replace(start, form=Form.EUCLIDEAN, offset=typical / 2)


def queries_of(corpus: Corpus, matrix: Matrix, on_invalid: str, threads: int) -> Queries:
    """Read the queries once, for their norms.

    Raises
    ------
    InvalidInputError
        Queries are not finite, or zero where the metric is cosine, and ``on_invalid="raise"``; or none is left.
    """
    if corpus.sparse and matrix.kind != "sparse":
        # Products of sparse rows are with sparse rows.
        import scipy.sparse

        data = scipy.sparse.csr_array(np.asarray(matrix.block(0, matrix.n)))
        matrix = replace(matrix, data=data, kind="sparse", dtype=data.dtype.name)
    norms, _ = direction_norms(matrix, corpus.backend, threads)
    kept, had = _usable(matrix, norms, on_invalid, 1, directed=corpus.directed)
    return Queries(*rescaled(kept)) if corpus.sparse and corpus.directed else Queries(kept, norms[had])
