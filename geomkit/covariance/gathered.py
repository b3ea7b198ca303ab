"""The sums behind all moments of the rows, from one pass: checked rows in, a pair of scatters out."""

import numpy as np
from numpy.typing import NDArray

from geomkit.core.matrix import Matrix, name_rows
from geomkit.core.threads import processors
from geomkit.covariance.accumulate import gather
from geomkit.covariance.batches import Pair
from geomkit.errors import InvalidInputError
from geomkit.kernels import Backend

__all__ = ["WIDEST", "by_columns", "filled", "measured", "too_few"]

WIDEST = 8192
"""Most coordinates of rows whose products of columns are held: two float64 matrices, 1 GiB."""


def by_columns(matrix: Matrix) -> bool:
    """Whether the products of the columns are the smaller ones, and small enough to be held."""
    return matrix.d <= matrix.n and matrix.d <= WIDEST


def measured(
    matrix: Matrix, backend: Backend, threads: int | None, on_invalid: str, *, directed: bool = True
) -> tuple[Pair, Matrix, NDArray[np.float64]]:
    """Pour all rows that can be measured into a pair of scatters; return it, those rows, and their norms.

    Parameters
    ----------
    directed : bool
        Whether zero rows cannot be measured; else they are zero over their norms, too.

    Raises
    ------
    InvalidInputError
        Rows are not finite or zero, and ``on_invalid="raise"``; or fewer than two rows are left.
    """
    empty = Pair.empty(matrix.d, backend, matrix.device if matrix.on_accelerator else None)
    norms = np.empty(matrix.n)
    pair = filled(matrix, empty, threads, on_invalid, 0, norms, directed=directed)
    if pair.plain.n < 2:
        raise InvalidInputError(too_few(matrix.name, pair.plain.n, matrix.n - pair.plain.n))
    if pair.plain.n == matrix.n:
        return pair, matrix, norms
    usable = ~np.isnan(norms) & ((norms > 0) | (not directed))
    return pair, matrix.without(np.flatnonzero(~usable)), norms[usable]


def filled(
    matrix: Matrix,
    pair: Pair,
    threads: int | None,
    on_invalid: str,
    first: int,
    norms: NDArray[np.float64] | None = None,
    *,
    directed: bool = True,
) -> Pair:
    """Add rows, of which the first has the number `first`; where invalid ones are refused, `pair` is as it was.

    `norms`, (n,), gets those of the rows.
    """
    drop = on_invalid == "drop"
    pair, invalid = gather(
        matrix, pair.plain.backend, threads or processors(), pair, drop=drop, directed=directed, norms=norms
    )
    kinds = {"are not finite": invalid.infinite, "are zero and have no direction": invalid.zero}
    for what, rows in kinds.items():
        if rows and not drop:
            named = _named(matrix, np.array(rows), first)
            msg = f'{matrix.name} has {named} that {what}; drop them with on_invalid="drop"'
            raise InvalidInputError(msg)
    return pair


def _named(matrix: Matrix, rows: NDArray[np.int64], first: int) -> str:
    """Name rows of a stream of blocks, whose numbers go on, or of one matrix."""
    return name_rows(rows + first) if first else matrix.name_rows(rows)


def too_few(name: str, n: int, dropped: int) -> str:
    """Say that a matrix has too few rows."""
    left = f" left after dropping {dropped}" if dropped else ""
    return f"{name} has {n} {'row' if n == 1 else 'rows'}{left}; it must have at least 2"
