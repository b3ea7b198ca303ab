"""Queries made ready for products with the rows of a corpus, and how far what a product gives is from exact scores.

A score is larger the nearer a query is to a row: the cosine, the inner product, or minus half the squared distance.
With m a vector near the middle of the rows, r = y - m for a row and z = y - m for a query, a tile holds
``z · r + weight * lift``, where the lift belongs to the row alone: what depends on the query alone does not change
which rows are nearest to it, and would cost a query far from all rows its digits. Where lengths count, each query is
divided by a power of two of its own, so that none leaves the range.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomkit.core.matrix import Matrix, reject_invalid, reject_rows
from geomkit.kernels import load, module
from geomkit.pairwise.normalization import direction_norms, divided, power_of_two, rescaled, taken
from geomkit.pairwise.scores import UNIT_ROUNDOFF, EntryBounds, Form, Scores, csr_squares, csr_with_columns

__all__ = ["Queries", "QueryBatch", "queries_of", "query_batch", "query_bounds"]

Array = NDArray[np.float64]


class Queries(NamedTuple):
    """The queries that can be measured."""

    matrix: Matrix
    norms: Array
    """Their norms, (m,)."""


@dataclass(frozen=True)
class QueryBatch:
    """Some queries made ready."""

    numbers: NDArray[np.int64]
    """Which of the queries they are, (h,)."""
    left: Any
    """Their side of the product."""
    divisors: Array
    """What each is divided by, (h,): its norm, or a power of two, for distances at least that of the rows."""
    weights: Array
    """How much of the lift of a row counts for each, in [0, 1], (h,): 1 for cosines, 0 for inner products, which leave
    the mean in the query, and for distances what rows are divided by over what the query is."""
    facts: Array
    """Length of each z, that of what rounding took from it, and its product with the mean, (3, h)."""


def queries_of(scores: Scores, matrix: Matrix, on_invalid: str, threads: int) -> Queries:
    """Read the queries once, for their norms.

    Raises
    ------
    InvalidInputError
        Queries are not finite, or zero where the metric is cosine, and ``on_invalid="raise"``; or none is left.
    """
    if scores.sparse and matrix.kind != "sparse":
        # Products of sparse rows are with sparse rows.
        import scipy.sparse

        data = scipy.sparse.csr_array(np.asarray(matrix.block(0, matrix.n)))
        matrix = replace(matrix, data=data, kind="sparse", dtype=data.dtype.name)
    norms, _ = direction_norms(matrix, scores.backend, threads)
    kept, usable = reject_invalid(matrix, norms, on_invalid, directed=scores.directed, min_rows=1)
    return Queries(*rescaled(kept)) if scores.sparse and scores.directed else Queries(kept, norms[usable])


def query_batch(scores: Scores, queries: Queries, numbers: NDArray[np.int64]) -> QueryBatch:
    """Make the queries with these numbers ready.

    Raises
    ------
    InvalidInputError
        Some of them are further from the rows than float64 can say.
    """
    matrix, norms = queries.matrix, queries.norms[numbers]
    if scores.sparse:
        divisors, weights = _divisors(scores, norms)
        left = divided(matrix.data[matrix.in_input(numbers)], divisors)
        squares, slips = csr_squares(left, scores.dtype)
        none = np.zeros(len(numbers))
        if scores.form is Form.PLAIN:
            left = left.astype(scores.dtype)
        else:
            left = csr_with_columns(left, none, weights, scores.dtype)
        return QueryBatch(numbers, left, divisors, weights, np.stack([np.sqrt(squares), slips, none]))
    memory, x = module(scores.backend), taken(matrix, scores.backend, numbers)
    if scores.directed:
        x = scores.directions(x)
        if scores.form is not Form.PLAIN:
            x = x - memory.as_working(scores.mean, "float64", scores.device)
    elif scores.form is Form.EUCLIDEAN:
        apart, unit = (memory.zeros(tuple(x.shape), "float64", scores.device) for _ in range(2))
        load("centred_rows", scores.backend)(x, scores.mean * scores.scale, 1.0, apart)
        x, norms = apart, np.asarray(memory.to_numpy(load("unit_rows", scores.backend)(apart, unit)))
        bad = np.zeros(matrix.n, bool)
        bad[numbers] = np.isnan(norms)
        reject_rows(matrix, bad, "lie further from the rows of x than float64 can say", "raise", 1)
    divisors, weights = _divisors(scores, norms)
    within = np.ones(len(numbers)) if scores.directed else divisors
    left = memory.zeros((len(numbers), scores.width), scores.rounded_to, scores.device)
    facts = load("residual_rows", scores.backend)(x, within, scores.mean, int(Form.PLAIN), 0.0, left, left)
    first = matrix.d + scores.pieces
    for column in range(first, first + scores.pieces):
        left[:, column] = _stored_weights(scores, weights)
    return QueryBatch(numbers, scores.stored(left), divisors, weights, np.asarray(memory.to_numpy(facts)))


def _divisors(scores: Scores, norms: Array) -> tuple[Array, Array]:
    """Return what queries are divided by, and the weights of lifts, from the norms of what is divided."""
    if scores.directed:
        return norms, np.ones(len(norms))
    divisors = power_of_two(norms)
    if scores.form is not Form.EUCLIDEAN:
        # Inner products scale with the query, and lose what depends on it alone: no mean is taken out of it.
        return divisors, np.zeros(len(norms))
    divisors = np.maximum(divisors, scores.scale)
    return divisors, scores.scale / divisors


def _stored_weights(scores: Scores, weights: Array) -> Any:
    """Store powers of two as a block does, exactly but for those that leave the range."""
    single = weights.astype(np.float32)
    if scores.precision != "bfloat16" or scores.backend.on_device:
        exact = weights if scores.precision == "float64" else single
        return module(scores.backend).as_working(exact, scores.precision, scores.device)
    return (single.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def query_bounds(scores: Scores, batch: QueryBatch, longest: Array) -> EntryBounds:
    """Bound what the entries of each query, and its scores in float64, are off by.

    Parameters
    ----------
    scores : Scores
    batch : QueryBatch
    longest : (3,)
        Greatest length, slip and absolute lift of any row.

    Returns
    -------
    EntryBounds
        Errors of entries are those of `Scores.errors` without what was lost in float64, which is apart: sums of d
        terms, and roundings of the rows over their divisors and less the mean, each at most u times the lengths that
        go in.
    """
    lengths, slips, onto_mean = batch.facts
    length, slip, lift = (float(value) for value in longest)
    weights, euclidean = batch.weights, scores.form is Form.EUCLIDEAN
    errors = scores.rounding_errors(lengths, slips, (length, slip, lift), weights)
    middle = float(np.linalg.norm(scores.mean)) if scores.form is Form.RESIDUAL else 0.0
    left, right = lengths + weights * middle, length + middle
    whole = (left + weights * right) ** 2 if euclidean else left * right
    whole = whole + weights**2 * abs(scores.offset)
    d = scores.matrix.d
    lost = (
        4 * (d + 16) * UNIT_ROUNDOFF["float64"] * whole + (scores.matrix.longest_row + 2 * scores.pieces) * 2.0**-1020
    )
    with np.errstate(over="ignore"):
        units = (
            np.ones(len(weights))
            if scores.directed
            else batch.divisors * (batch.divisors if euclidean else scores.scale)
        )
    if euclidean:
        return EntryBounds(errors, lost, weights, -(lengths**2) / 2 - weights**2 * scores.offset, units)
    shifts = onto_mean + weights * float(scores.mean @ scores.mean) if scores.form is Form.RESIDUAL else 0 * lengths
    return EntryBounds(errors, lost, np.ones(len(weights)), shifts, units)
