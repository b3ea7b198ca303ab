"""Rows made ready so that one matrix product gives the scores of all pairs.

A score is larger the nearer two rows are: the cosine, the inner product, or minus half the squared distance. With m a
vector near the middle of the rows and r = y - m, each is ``r_i · r_j + lift_i + lift_j + origin``. Low precision then
errs in proportion to ``|r_i| |r_j|`` instead of to the length of the rows, and counts and comparisons resolve the
spread of the scores instead of their size. The lifts ride in the product as a few more columns.
"""

from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomkit.core.blocks import each_block
from geomkit.core.devices import if_it_fits
from geomkit.core.matrix import Matrix, reject_invalid
from geomkit.errors import InvalidInputError
from geomkit.kernels import Backend, load, module
from geomkit.pairwise import normalization as preparing
from geomkit.pairwise.normalization import (
    Rows,
    as_given,
    centred_rows,
    direction_norms,
    divided,
    power_of_two,
    rescaled,
    taken,
    typical_distance,
)

__all__ = [
    "COARSE",
    "FAR",
    "UNIT_ROUNDOFF",
    "EntryBounds",
    "Form",
    "Scores",
    "corpus_scores",
    "cosine_scores",
    "csr_squares",
    "csr_with_columns",
    "euclidean_scores",
    "product_scores",
]

UNIT_ROUNDOFF = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "tf32": 2.0**-10, "float32": 2.0**-24, "float64": 2.0**-53}
"""Greatest relative error of rounding to a precision; TF32 may cut off instead."""

COARSE = ("bfloat16", "float16", "tf32")
"""Precisions in which the rows are rounded further than the sums of their products, which are float32."""

FAR = 2
"""A mean that is more than so many medians follows a few rows that are far from the others: counters about it would be
wider than most distances."""

_LEAST_NORMAL = 2.0**-126
"""Numbers below may be taken for nothing by products, and by the keys of candidates, in float32."""

_LEAST = {"float16": 2.0**-25}
"""What rounding a number to nothing can take, where that is more."""

_LARGEST_FLOAT16 = 65504.0

_SPLIT = ("bfloat16", "float16")
"""Dtypes in which a lift is split into two pieces."""

_MIDDLE_ROWS = 1024
"""Rows whose mean stands for the middle of all where no pass needs theirs: any vector will do, a near one is better."""

WORTH_CENTRING = 0.01
"""Share of the mean in the square of the unit rows below which taking it out would shrink no bound by more than 1 %."""

_SAFE = 1e-140, 1e140
"""Norms by which rows can be divided in one step."""


class Form(IntEnum):
    """What a prepared row is, and what its lift."""

    PLAIN = 0
    """The row; no lift in the product."""
    RESIDUAL = 1
    """The row less the mean; lift = its product with the mean."""
    EUCLIDEAN = 2
    """The row less the mean; lift = minus half of its square."""


class EntryBounds(NamedTuple):
    """How far ``weight * entry + shift`` may be from the exact score of a row or query with another row, (n,) each."""

    errors: NDArray[np.float64]
    """Of an entry before it is rounded to bfloat16."""
    float64_errors: NDArray[np.float64]
    """Of a score in float64, in the units of exact scores."""
    weights: NDArray[np.float64]
    shifts: NDArray[np.float64]
    units: NDArray[np.float64]
    """Scores of the data are this times exact scores; it may leave the range."""

    @property
    def largest(self) -> float:
        """The largest error of an entry, in the units of the data."""
        with np.errstate(invalid="ignore", over="ignore"):
            return float(np.where(self.weights > 0, self.errors * self.weights * self.units, 0.0).max())

    def of(self, numbers: NDArray[np.int64]) -> "EntryBounds":
        """Return the bounds of some of them."""
        return EntryBounds(*(bound[numbers] for bound in self))


@dataclass(frozen=True, slots=True)
class Scores:
    """Rows whose products, left with right, are the scores of their pairs less `origin`.

    The right factors are those of queries, too: `queries` makes their left factors.
    """

    matrix: Matrix
    backend: Backend
    precision: str
    """Of the rows in the product: one of `UNIT_ROUNDOFF`."""
    dtype: str
    """What blocks are stored in: that of the precision, or float32 that holds bfloat16 values or is read as TF32."""
    form: Form
    divisors: NDArray[np.float64]
    """What each row is divided by first, (n,)."""
    mean: NDArray[np.float64]
    """The vector m, (d,)."""
    offset: float
    """Added to every lift, so that entries lie around 0."""
    origin: float
    """score = entry + origin, in units of `unit`."""
    directed: bool
    """Whether rows are divided by their norms; all are divided by one number otherwise."""
    facts: NDArray[np.float64] = field(default_factory=lambda: np.empty((3, 0)))
    """Norm of each r, norm of what rounding took from it, and lift (`offset` included), (3, n)."""
    resident: tuple[Any, Any] | None = None
    """All left and right rows, where they are small enough."""

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.matrix.n

    @property
    def scale(self) -> float:
        """What rows are divided by, where that is not their norm."""
        return float(self.divisors[0])

    @property
    def unit(self) -> float:
        """Scores of the data are this times the scores of the prepared rows."""
        return 1.0 if self.directed else self.scale * self.scale

    def centre(self, mean: float) -> float:
        """Return where to count minus half squared distances: at their mean, unless a few rows decide that."""
        return mean if mean >= FAR * self.origin else self.origin

    @property
    def sparse(self) -> bool:
        """Whether blocks are CSR."""
        return self.matrix.kind == "sparse" and self.backend is Backend.CPU

    @property
    def device(self) -> Any:
        """The torch device that blocks lie on, or None."""
        return self.matrix.device if self.backend.on_device else None

    @property
    def pieces(self) -> int:
        """Columns of a block that hold the lift, in as many pieces; as many more hold ones."""
        return 0 if not self.two_sided else 2 if self.rounded_to in _SPLIT else 1

    @property
    def two_sided(self) -> bool:
        """Whether left and right factors of a product differ."""
        return self.form is not Form.PLAIN

    @property
    def width(self) -> int:
        """Columns of a block, those included that are zero because the backend wants them."""
        multiple = int(module(self.backend).COLUMNS)
        return -(-(self.matrix.d + 2 * self.pieces) // multiple) * multiple

    @property
    def rounded_to(self) -> str:
        """Dtype that rows are rounded to before the product."""
        return "float32" if self.precision == "tf32" else self.precision

    @property
    def rounded(self) -> bool:
        """Whether tiles are bfloat16."""
        return self.dtype == "bfloat16"

    @property
    def matmul(self) -> str:
        """Name of the matrix product that all pairs go through."""
        if self.sparse:
            return "numba"
        return str(module(self.backend).product(self.precision, float(self.n) ** 2 * self.matrix.longest_row))

    def prepared(self, threads: int) -> "Scores":
        """Make every block once: keep the facts, and the factors themselves where they are small enough."""
        if self.sparse:
            left, right, facts = self.make(0, self.n)
            return replace(self, facts=facts, resident=(left, right))
        itemsize = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}[self.dtype]
        size = self.n * self.width * itemsize * (1 + self.two_sided)
        if size <= preparing.room(self.matrix):
            kept = if_it_fits(lambda: self._prepared(threads, keep=True), "prepared rows", self.device)
            if kept is not None:
                return _within_range(kept)
        return _within_range(self._prepared(threads, keep=False))

    def _prepared(self, threads: int, *, keep: bool) -> "Scores":
        if not keep:
            found = each_block(self.matrix, self.backend, threads, self._facts)
            return replace(self, facts=np.concatenate(found, axis=1))
        memory = module(self.backend)
        left = memory.zeros((self.n, self.width), self.dtype, self.device)
        right = left if not self.two_sided else memory.zeros((self.n, self.width), self.dtype, self.device)

        def fill(start: int, stop: int) -> Any:
            made = self.make(start, stop)
            left[start:stop] = made[0]
            if self.two_sided:
                right[start:stop] = made[1]
            return memory.to_numpy(made[2])

        facts = np.concatenate(each_block(self.matrix, self.backend, threads, fill), axis=1)
        return replace(self, facts=facts, resident=(left, right))

    def _facts(self, start: int, stop: int) -> Any:
        return module(self.backend).to_numpy(self.make(start, stop)[2])

    def left(self, start: int, stop: int) -> Any:
        """Return the left factors of rows ``start:stop``."""
        return self.resident[0][start:stop] if self.resident is not None else self.make(start, stop, right=False)[0]

    def right(self, start: int, stop: int) -> Any:
        """Return the right factors of rows ``start:stop``."""
        return self.resident[1][start:stop] if self.resident is not None else self.make(start, stop, left=False)[1]

    def factors(self, start: int, stop: int) -> tuple[Any, Any]:
        """Return both factors of rows ``start:stop``, made from one reading."""
        return self.make(start, stop)[:2]

    @property
    def resident_factors(self) -> tuple[Any, Any] | None:
        """All left and right factors, where they are kept."""
        return self.resident

    def holding(self, matrix: Matrix, factors: tuple[Any, Any] | None) -> "Scores":
        """Return the same rows with these factors."""
        return replace(self, matrix=matrix, resident=factors)

    def take(self, numbers: NDArray[np.int64]) -> Any:
        """Return the left factors of the rows with these numbers."""
        if self.resident is not None:
            return self.resident[0][numbers]
        return self._factors(taken(self.matrix, self.backend, numbers), self.divisors[numbers], right=False)[0]

    def make(self, start: int, stop: int, *, left: bool = True, right: bool = True) -> tuple[Any, Any, Any]:
        """Prepare both factors and the facts from the matrix as given; a factor not asked for is empty, or None."""
        if self.sparse:
            return self._sparse_factors(start, stop, left=left, right=right)
        x = as_given(self.matrix, self.backend, start, stop)
        return self._factors(x, self.divisors[start:stop], left=left, right=right)

    def _factors(
        self, x: Any, divisors: NDArray[np.float64], *, left: bool = True, right: bool = True
    ) -> tuple[Any, Any, Any]:
        memory, height = module(self.backend), len(divisors)
        if self.directed and not dividable(divisors):
            x, divisors = self.directions(x), np.ones(height)
        plain = self.form is Form.PLAIN
        a = memory.zeros((height if left or plain else 0, self.width), self.rounded_to, self.device)
        b = a if plain else memory.zeros((height if right else 0, self.width), self.rounded_to, self.device)
        facts = load("residual_rows", self.backend)(x, divisors, self.mean, int(self.form), self.offset, a, b)
        stored = self.stored(a)
        return stored, stored if plain else self.stored(b), facts

    def stored(self, block: Any) -> Any:
        """Return a block of factors in the dtype that the product wants."""
        return block if self.dtype == self.rounded_to else module(self.backend).widened(block)

    def directions(self, x: Any) -> Any:
        """Return rows over their norms in float64, however long they are."""
        out = module(self.backend).zeros(tuple(x.shape), "float64", self.device)
        load("unit_rows", self.backend)(x, out)
        return out

    def _sparse_factors(self, start: int, stop: int, *, left: bool, right: bool) -> tuple[Any, Any, Any]:
        block = divided(self.matrix.rows(start, stop), self.divisors[start:stop])
        squares, slips = csr_squares(block, self.dtype)
        if self.form is Form.PLAIN:
            kept = block.astype(self.dtype)
            return kept, kept, np.stack([np.sqrt(squares), slips, np.asarray(block @ self.mean)])
        lifts = self.offset - squares / 2
        ones = np.ones(len(lifts))
        return (
            csr_with_columns(block, lifts, ones, self.dtype) if left else None,
            csr_with_columns(block, ones, lifts, self.dtype) if right else None,
            np.stack([np.sqrt(squares), slips, lifts]),
        )

    @property
    def errors(self) -> NDArray[np.float64]:
        """Bound on the error of the entries of each row before they are rounded to bfloat16, (n,).

        With r̃ the stored rows, ``|r̃_i · r̃_j - r_i · r_j| <= |r̃_i - r_i| |r_j| + |r̃_i| |r̃_j - r_j|``, where what
        rounding took was measured; a lift errs by the rounding of its last piece; and summing K terms errs by
        ``gamma_K = K u / (1 - K u)`` times the sum of their magnitudes (Higham 2002, 3.1), u being that of the sums.
        Numbers below the least normal one may vanish.
        """
        lengths, slips, lifts = self.facts
        if self.precision == "tf32":
            # Stored in float32, and rounded again by the product.
            slips = slips + UNIT_ROUNDOFF["tf32"] * (lengths + slips)
        longest = _largest_of_others(lengths), _largest_of_others(slips), float(np.abs(lifts).max())
        return np.asarray(self.rounding_errors(lengths, slips, longest, 2.0) + self.slack)

    def rounding_errors(
        self, lengths: NDArray[np.float64], slips: NDArray[np.float64], longest: tuple[Any, Any, float], weights: Any
    ) -> NDArray[np.float64]:
        """Bound the error of products of left factors with right ones; see `errors`.

        Parameters
        ----------
        lengths, slips : (h,)
            Of the left factors.
        longest : (length, slip, lift)
            The greatest of any right factor; the lift as a magnitude.
        weights : float or (h,)
            Of how many lifts of this magnitude an entry is made.
        """
        terms, stored = self.matrix.longest_row + 2 * self.pieces, lengths + slips
        length, slip, lift = longest if self.pieces else (*longest[:2], 0.0)
        u, lifts = UNIT_ROUNDOFF[self.precision], weights * lift
        sums = UNIT_ROUNDOFF["float64" if self.precision == "float64" else "float32"]
        lifted = lifts * (u * u if self.pieces == 2 else u) + 2 * _LEAST.get(self.precision, 0.0)
        rounding = slips * length + stored * slip + lifted
        gamma = terms * sums / (1 - terms * sums)
        summing = gamma * (stored * (length + slip) + (1 + u) * lifts)
        return np.asarray(rounding + summing + 4 * terms * _LEAST_NORMAL * (1 + length + lift))

    @property
    def entry_bounds(self) -> EntryBounds:
        """Bounds of the entries of the rows among themselves."""
        lost, shifts, units = (np.full(self.n, value) for value in (self.slack, self.origin, self.unit))
        return EntryBounds(self.errors, lost, np.ones(self.n), shifts, units)

    @property
    def slack(self) -> float:
        """Bound on what was lost in float64 before: rows divided, less the mean, and multiplied by it.

        Distances do not depend on what is taken away.
        """
        whole = float(self.facts[0].max())
        if self.form is not Form.EUCLIDEAN:
            whole += float(np.linalg.norm(self.mean))
        return 4 * (self.matrix.longest_row + 16) * UNIT_ROUNDOFF["float64"] * whole * (whole + 1)

    @property
    def bound(self) -> float:
        """Bound on the error of any entry before it is rounded to bfloat16, in units of `unit`."""
        return float(self.errors.max())


def _within_range(scores: Scores) -> Scores:
    """Refuse lifts that float16 cannot hold; rows are at most 1 long, and their products fit into all else."""
    if scores.precision == "float16" and scores.pieces and float(np.abs(scores.facts[2]).max()) > _LARGEST_FLOAT16:
        msg = (
            f"{scores.matrix.name} lies too far from the origin for its inner products in float16; precision must be "
            "'bfloat16', 'tf32' or 'float32', got 'float16'"
        )
        raise InvalidInputError(msg)
    return scores


def _largest_of_others(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest of all other values, for each."""
    at = int(values.argmax())
    out = np.full(len(values), values[at])
    out[at] = np.delete(values, at).max(initial=0.0)
    return out


def dividable(divisors: NDArray[np.float64]) -> bool:
    """Whether rows can be divided by their norms in one step."""
    return bool(np.all((divisors >= _SAFE[0]) & (divisors <= _SAFE[1])))


def cosine_scores(
    matrix: Matrix, backend: Backend, precision: str, on_invalid: str, *, dtype: str = "", threads: int = 1
) -> Scores:
    """Prepare unit rows, less their mean where that is not near zero already.

    Parameters
    ----------
    matrix : Matrix
    backend : Backend
    precision : one of `UNIT_ROUNDOFF`
    on_invalid : {"raise", "drop"}
    dtype : str
        What blocks are stored in; that of the precision unless given.
    threads : int
        Threads of the passes over the rows.

    Returns
    -------
    Scores
        ``origin`` is the mean cosine, or 0 where the rows are left as they are; their lifts, which no product has,
        are still their products with the mean.

    Raises
    ------
    InvalidInputError
        Rows are not finite or zero, and ``on_invalid="raise"``; or fewer than two rows are left.
    """
    return _unit_scores(matrix, backend, precision, on_invalid, dtype=dtype, threads=threads).prepared(threads)


def _unit_scores(
    matrix: Matrix, backend: Backend, precision: str, on_invalid: str, *, dtype: str, threads: int
) -> Scores:
    """Say how unit rows are made ready, from one pass over them."""
    norms, total = direction_norms(matrix, backend, threads)
    kept, had = reject_invalid(matrix, norms, on_invalid)
    n, mean, divisors = kept.n, total / kept.n, norms[had]
    if kept.kind == "sparse" and not dividable(divisors):
        kept, divisors = rescaled(kept)
    middle = float(mean @ mean)
    average = middle - max(1 - middle, 0.0) / (n - 1)
    plain = kept.kind == "sparse" or middle < WORTH_CENTRING
    return Scores(
        kept, backend, precision, dtype or precision, Form.PLAIN if plain else Form.RESIDUAL, divisors, mean,
        offset=0.0 if plain else (middle - average) / 2, origin=0.0 if plain else average, directed=True,
    )  # fmt: skip


def euclidean_scores(
    matrix: Matrix, backend: Backend, precision: str, on_invalid: str, *, dtype: str = "", threads: int = 1
) -> Scores:
    """Prepare rows less their mean, with lifts that make the product minus half the squared distance.

    Parameters
    ----------
    matrix, backend, precision, on_invalid, dtype, threads
        As for `cosine_scores`. Sparse rows are not centred, which would fill them.

    Returns
    -------
    Scores
        ``origin`` is minus half the mean squared distance, or the median of a few where that is less than half of it.

    Raises
    ------
    InvalidInputError
        Rows are not finite, and ``on_invalid="raise"``; or fewer than two rows are left.
    """
    rows = centred_rows(matrix, backend, "float64", on_invalid, keep=False)
    return _shifted(rows, precision, dtype, Form.EUCLIDEAN).prepared(threads)


def product_scores(
    matrix: Matrix, backend: Backend, precision: str, on_invalid: str, *, dtype: str = "", threads: int = 1
) -> Scores:
    """Prepare rows less their mean, with lifts that put it back into every inner product.

    Parameters
    ----------
    matrix, backend, precision, on_invalid, dtype, threads
        As for `cosine_scores`. Sparse rows are not centred, which would fill them.

    Returns
    -------
    Scores

    Raises
    ------
    InvalidInputError
        As for `euclidean_scores`.
    """
    rows = centred_rows(matrix, backend, "float64", on_invalid, keep=False)
    form = Form.PLAIN if rows.matrix.kind == "sparse" else Form.RESIDUAL
    return _shifted(rows, precision, dtype, form).prepared(threads)


def _shifted(rows: Rows, precision: str, dtype: str, form: Form) -> Scores:
    n, scale = rows.n, rows.scale
    mean = np.zeros(rows.matrix.d) if rows.mean is None else rows.mean / scale
    if form is Form.EUCLIDEAN:
        spread = float(rows.squares.sum())
        # Sparse rows are not centred: the squares about the mean are fewer.
        typical = spread / (n - 1)
        # A row far from all others makes the mean of squares no typical one.
        median = typical_distance(rows, 2.0) ** 2 * rows.matrix.d / 2
        typical = typical if typical <= FAR * median else median
        offset, origin = typical / 2, -typical
    elif form is Form.RESIDUAL:
        middle = float(mean @ mean)
        offset, origin = 0.0, middle
    else:
        offset = origin = 0.0
    return Scores(
        rows.matrix, rows.backend, precision, dtype or precision, form, np.full(n, scale), mean, offset, origin,
        directed=False,
    )  # fmt: skip


def corpus_scores(
    matrix: Matrix, backend: Backend, precision: str, metric: str, on_invalid: str, *, dtype: str = "", threads: int = 1
) -> Scores:
    """Say how rows are made ready for queries, from one pass over them; `queries` bounds the errors.

    Parameters
    ----------
    matrix, backend, precision, on_invalid, dtype, threads
        As for `cosine_scores`.
    metric : {"cosine", "euclidean", "dot"}

    Returns
    -------
    Scores
        Neither facts nor factors are kept: blocks are made while they are multiplied. An entry of a query is that of
        a batch of `queries`.

    Raises
    ------
    InvalidInputError
        Rows are not finite, or zero where the metric is cosine, and ``on_invalid="raise"``; or fewer than two are left.
    """
    if metric == "cosine":
        scores = _unit_scores(matrix, backend, precision, on_invalid, dtype=dtype, threads=threads)
        return replace(scores, offset=0.0, origin=0.0)
    norms, _ = direction_norms(matrix, backend, threads)
    kept, usable = reject_invalid(matrix, norms, on_invalid, directed=False)
    scale, mean = float(power_of_two(norms[usable].max())), np.zeros(kept.d)
    sparse = kept.kind == "sparse" and backend is Backend.CPU
    if sparse:
        typical = float(np.mean((norms[usable] / scale) ** 2))
    else:
        some = np.unique(np.linspace(0, kept.n - 1, min(kept.n, _MIDDLE_ROWS)).astype(np.int64))
        rows = np.asarray(module(backend).to_numpy(taken(kept, backend, some))).astype(np.float64) / scale
        mean = rows[0] + (rows - rows[0]).mean(axis=0)
        typical = float(np.square(rows - mean).sum(axis=1).mean())
    euclidean = metric == "euclidean"
    form = Form.EUCLIDEAN if euclidean else Form.PLAIN if sparse else Form.RESIDUAL
    return Scores(
        kept, backend, precision, dtype or precision, form, np.full(kept.n, scale), mean,
        offset=typical / 2 if euclidean else 0.0, origin=0.0, directed=False,
    )  # fmt: skip


def csr_squares(block: Any, dtype: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Squared norms of CSR rows, and the norms of what rounding takes from them."""
    taken_away = block - block.astype(dtype).astype(np.float64)
    squares, lost = (np.asarray(rows.multiply(rows).sum(axis=1)).ravel() for rows in (block, taken_away))
    return squares, np.sqrt(lost)


def csr_with_columns(block: Any, first: NDArray[np.float64], second: NDArray[np.float64], dtype: str) -> Any:
    """Append two columns to CSR rows."""
    import scipy.sparse

    whole: list[Any] = [block, first[:, None], second[:, None]]
    return scipy.sparse.csr_array(scipy.sparse.hstack(whole, format="csr"), dtype=dtype)
