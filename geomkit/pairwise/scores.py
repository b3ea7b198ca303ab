"""Rows made ready so that one matrix product gives the scores of all pairs.

A score is larger the nearer two rows are: the cosine, the inner product, or minus half the squared distance. With m a
vector near the middle of the rows and r = y - m, each is ``r_i · r_j + lift_i + lift_j + origin``. Low precision then
errs in proportion to ``|r_i| |r_j|`` instead of to the length of the rows, and counts and comparisons resolve the
spread of the scores instead of their size. The lifts ride in the product as a few more columns.
"""

from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.blocks import each_block
from geomkit.core.devices import if_it_fits
from geomkit.core.matrix import Matrix
from geomkit.errors import InvalidInputError
from geomkit.kernels import Backend, load, module
from geomkit.pairwise import normalization as preparing
from geomkit.pairwise.normalization import (
    Rows,
    as_given,
    centred_rows,
    directed,
    direction_norms,
    divided,
    rescaled,
    taken,
)

__all__ = ["COARSE", "UNIT_ROUNDOFF", "Form", "Scores", "cosine_scores", "euclidean_scores", "product_scores"]

UNIT_ROUNDOFF = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "tf32": 2.0**-10, "float32": 2.0**-24, "float64": 2.0**-53}
"""Greatest relative error of rounding to a precision; TF32 may cut off instead."""

COARSE = ("bfloat16", "float16", "tf32")
"""Precisions in which the rows are rounded further than the sums of their products, which are float32."""

_LEAST_SUM = {"float64": 2.0**-1022}
"""Least normal number of the sums of products, where it is not that of float32."""

_LEAST = {"float16": 2.0**-25}
"""What rounding a number to nothing can take, where it is not covered by the former."""

_LARGEST_FLOAT16 = 65504.0

_SPLIT = ("bfloat16", "float16")
"""Dtypes in which a lift is split into two pieces."""

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


@dataclass(frozen=True, slots=True)
class Scores:
    """Rows whose products, left with right, are the scores of their pairs less `origin`."""

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

    @property
    def sparse(self) -> bool:
        """Whether blocks are CSR."""
        return self.matrix.kind == "sparse" and self.backend is Backend.CPU

    @property
    def device(self) -> Any:
        """The torch device that blocks lie on, or None."""
        return self.matrix.device if self.backend.on_device else None

    @property
    def further(self) -> int:
        """Columns of a block after the coordinates: a lift and a one for each piece that a lift is split into."""
        return 0 if self.form is Form.PLAIN else 4 if self._rounded_to in _SPLIT else 2

    @property
    def width(self) -> int:
        """Columns of a block, those included that are zero because the backend wants them."""
        multiple = int(module(self.backend).COLUMNS)
        return -(-(self.matrix.d + self.further) // multiple) * multiple

    @property
    def _rounded_to(self) -> str:
        """Dtype that rows are rounded to before the product."""
        return "float32" if self.precision == "tf32" else self.precision

    @property
    def rounded(self) -> bool:
        """Whether tiles are bfloat16."""
        return self.dtype == "bfloat16"

    @property
    def product(self) -> str:
        """Name of the matrix product that all pairs go through."""
        if self.sparse:
            return "numba"
        return str(module(self.backend).product(self.precision, float(self.n) ** 2 * self.matrix.longest_row))

    def prepared(self, threads: int) -> "Scores":
        """Make every block once: keep the facts, and the factors themselves where they are small enough."""
        if self.sparse:
            left, right, facts = self._make(0, self.n)
            return replace(self, facts=facts, resident=(left, right))
        itemsize = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}[self.dtype]
        size = self.n * self.width * itemsize * (1 if self.form is Form.PLAIN else 2)
        if size <= preparing.room(self.matrix):
            kept = if_it_fits(lambda: self._prepared(threads, keep=True), "prepared rows", self.device)
            if kept is not None:
                return _within_range(kept)
        return _within_range(self._prepared(threads, keep=False))

    def _prepared(self, threads: int, *, keep: bool) -> "Scores":
        if not keep:
            found = each_block(self.matrix, self.backend, threads, self._facts)
            return replace(self, facts=np.concatenate(found, axis=1))
        memory, plain = module(self.backend), self.form is Form.PLAIN
        left = memory.zeros((self.n, self.width), self.dtype, self.device)
        right = left if plain else memory.zeros((self.n, self.width), self.dtype, self.device)

        def fill(start: int, stop: int) -> Any:
            made = self._make(start, stop)
            left[start:stop] = made[0]
            if not plain:
                right[start:stop] = made[1]
            return memory.to_numpy(made[2])

        facts = np.concatenate(each_block(self.matrix, self.backend, threads, fill), axis=1)
        return replace(self, facts=facts, resident=(left, right))

    def _facts(self, start: int, stop: int) -> Any:
        return module(self.backend).to_numpy(self._make(start, stop)[2])

    def left(self, start: int, stop: int) -> Any:
        """Return the left factors of rows ``start:stop``."""
        return self.resident[0][start:stop] if self.resident is not None else self._make(start, stop, right=False)[0]

    def right(self, start: int, stop: int) -> Any:
        """Return the right factors of rows ``start:stop``."""
        return self.resident[1][start:stop] if self.resident is not None else self._make(start, stop, left=False)[1]

    def factors(self, start: int, stop: int) -> tuple[Any, Any]:
        """Return both factors of rows ``start:stop``, made from one reading."""
        left, right, _ = self._make(start, stop)
        return left, right

    def take(self, numbers: NDArray[np.int64]) -> Any:
        """Return the left factors of the rows with these numbers."""
        if self.resident is not None:
            return self.resident[0][numbers]
        return self._factors(taken(self.matrix, self.backend, numbers), self.divisors[numbers], right=False)[0]

    def _make(self, start: int, stop: int, *, left: bool = True, right: bool = True) -> tuple[Any, Any, Any]:
        """Prepare both factors and the facts from the matrix as given; a factor not asked for has no rows."""
        if self.sparse:
            return self._sparse_factors(start, stop)
        x = as_given(self.matrix, self.backend, start, stop)
        return self._factors(x, self.divisors[start:stop], left=left, right=right)

    def _factors(
        self, x: Any, divisors: NDArray[np.float64], *, left: bool = True, right: bool = True
    ) -> tuple[Any, Any, Any]:
        memory, height = module(self.backend), len(divisors)
        if self.directed and not dividable(divisors):
            x, divisors = self.directions(x), np.ones(height)
        plain = self.form is Form.PLAIN
        a = memory.zeros((height if left or plain else 0, self.width), self._rounded_to, self.device)
        b = a if plain else memory.zeros((height if right else 0, self.width), self._rounded_to, self.device)
        facts = load("residual_rows", self.backend)(x, divisors, self.mean, int(self.form), self.offset, a, b)
        if self.dtype != self._rounded_to:
            wide = memory.widened(a)
            a, b = wide, wide if plain else memory.widened(b)
        return a, b, facts

    def directions(self, x: Any) -> Any:
        """Return rows over their norms in float64, however long they are."""
        out = module(self.backend).zeros(tuple(x.shape), "float64", self.device)
        load("unit_rows", self.backend)(x, out)
        return out

    def _sparse_factors(self, start: int, stop: int) -> tuple[Any, Any, Any]:
        import scipy.sparse

        block = divided(self.matrix.rows(start, stop), self.divisors[start:stop])
        squares = np.asarray(block.multiply(block).sum(axis=1)).ravel()
        taken_away = block - block.astype(self.dtype).astype(np.float64)
        slips = np.sqrt(np.asarray(taken_away.multiply(taken_away).sum(axis=1)).ravel())
        if self.form is Form.PLAIN:
            kept = block.astype(self.dtype)
            return kept, kept, np.stack([np.sqrt(squares), slips, np.asarray(block @ self.mean)])
        lifts = self.offset - squares / 2
        ones = np.ones(len(lifts))
        sides: list[Any] = [[block, lifts[:, None], ones[:, None]], [block, ones[:, None], lifts[:, None]]]
        left, right = (
            scipy.sparse.csr_array(scipy.sparse.hstack(side, format="csr"), dtype=self.dtype) for side in sides
        )
        return left, right, np.stack([np.sqrt(squares), slips, lifts])

    @property
    def errors(self) -> NDArray[np.float64]:
        """Bound on the error of the entries of each row before they are rounded to bfloat16, (n,).

        With r̃ the stored rows, ``|r̃_i · r̃_j - r_i · r_j| <= |r̃_i - r_i| |r_j| + |r̃_i| |r̃_j - r_j|``, where what
        rounding took was measured; a lift errs by the rounding of its last piece; and summing K terms errs by
        ``gamma_K = K u / (1 - K u)`` times the sum of their magnitudes (Higham 2002, 3.1), u being that of the sums.
        Numbers below the least normal one may vanish.
        """
        lengths, slips, lifts = self.facts
        terms = self.matrix.longest_row + self.further
        u = UNIT_ROUNDOFF[self.precision]
        sums = UNIT_ROUNDOFF["float64" if self.precision == "float64" else "float32"]
        lift = 0.0 if self.form is Form.PLAIN else float(np.abs(lifts).max())
        if self.precision == "tf32":
            # Stored in float32, and rounded again by the product.
            slips = slips + u * (lengths + slips)
        longest, slipped = _largest_of_others(lengths), _largest_of_others(slips)
        stored = lengths + slips
        rounding = slips * longest + stored * slipped
        rounding += 2 * lift * (u * u if self._rounded_to in _SPLIT else u) + 2 * _LEAST.get(self.precision, 0.0)
        gamma = terms * sums / (1 - terms * sums)
        summing = gamma * (stored * (longest + slipped) + 2 * (1 + u) * lift)
        vanishing = 4 * terms * _LEAST_SUM.get(self.precision, 2.0**-126) * (1 + longest)
        return np.asarray(rounding + summing + vanishing + self.slack)

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
    if scores.precision == "float16" and scores.further and float(np.abs(scores.facts[2]).max()) > _LARGEST_FLOAT16:
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
    norms, total = direction_norms(matrix, backend, threads)
    kept, had = directed(matrix, norms, on_invalid)
    n, mean, divisors = kept.n, total / kept.n, norms[had]
    if kept.kind == "sparse" and not dividable(divisors):
        kept, divisors = rescaled(kept)
    middle = float(mean @ mean)
    average = middle - max(1 - middle, 0.0) / (n - 1)
    plain = kept.kind == "sparse" or middle < WORTH_CENTRING
    scores = Scores(
        kept, backend, precision, dtype or precision, Form.PLAIN if plain else Form.RESIDUAL, divisors, mean,
        offset=0.0 if plain else (middle - average) / 2, origin=0.0 if plain else average, directed=True,
    )  # fmt: skip
    return scores.prepared(threads)


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
        ``origin`` is minus half the mean squared distance.

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
