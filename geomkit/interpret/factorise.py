"""Word vectors by factorising co-occurrence: shifted positive PMI and its truncated SVD; sparse throughout."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.result import Result
from geomkit.core.validation import check_number, check_whole
from geomkit.errors import InvalidInputError
from geomkit.interpret.cooccurrence import Cooccurrence, cooccurrence, keep_probability

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_array

__all__ = ["Cooccurrence", "Factorisation", "cooccurrence", "factorise", "keep_probability", "pmi"]

_DENSE = 1000
"""Rows or columns up to which a matrix is decomposed as a dense one (8 MiB), whatever its singular values are."""

_STEPS = 40
"""Of the iteration that looks for singular values that were left out."""

_EXACT = 1e-8
"""Error of singular vectors that is let pass, relative to the largest singular value."""


@dataclass(frozen=True)
class Factorisation(Result):
    """A truncated singular value decomposition M ≈ U Σ Vᵀ of a matrix of words and contexts."""

    left: NDArray[np.float64] = field(repr=False)
    """U, (v, d): orthonormal columns. The largest entry of each in magnitude is positive."""
    singular_values: NDArray[np.float64] = field(repr=False)
    """Σ, (d,): falling, in the unit of the matrix: nats for PMI."""
    right: NDArray[np.float64] = field(repr=False)
    """V, (contexts, d)."""
    words: tuple[str, ...] = field(repr=False)
    """A word a row of `left`."""
    power: float
    """p: words are U Σᵖ and contexts V Σ¹⁻ᵖ."""
    seed: int
    solver: str
    """``"lanczos"``, or ``"dense"`` where the matrix is small."""
    residual_fraction: float
    """|M - U Σ Vᵀ|² / |M|², the squared share of M that is not explained; in [0, 1]."""

    @property
    def dim(self) -> int:
        """Dimensions kept, d."""
        return len(self.singular_values)

    @property
    def vectors(self) -> NDArray[np.float64]:
        """Word vectors U Σᵖ, (v, d)."""
        return np.asarray(self.left * self.singular_values**self.power)

    @property
    def contexts(self) -> NDArray[np.float64]:
        """Context vectors V Σ¹⁻ᵖ, (contexts, d): ``vectors @ contexts.T`` is the matrix, as far as it is explained."""
        return np.asarray(self.right * self.singular_values ** (1 - self.power))

    def weighted(self, power: float, dim: int | None = None) -> "Factorisation":
        """Return the same decomposition with another power, and where asked fewer of its dimensions; O(v d).

        Raises
        ------
        InvalidInputError
            `power` is not in [0, 1], or there are fewer than `dim` dimensions.
        """
        check_number(power, "power", 0.0, 1.0)
        keep = self.dim if dim is None else check_whole(dim, "dim", 1, self.dim)
        values = self.singular_values
        # The whole of |M|² is what is explained over its share; what is cut off is not explained any more.
        explained = float((values**2).sum())
        cut = float((values[keep:] ** 2).sum()) / explained * (1 - self.residual_fraction) if explained else 0.0
        return replace(
            self,
            left=self.left[:, :keep],
            singular_values=values[:keep],
            right=self.right[:, :keep],
            power=float(power),
            residual_fraction=self.residual_fraction + cut,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return every scalar by name."""
        return {"dim": self.dim} | super().to_dict() | {"n_words": len(self.words)}

    def to_frame(self) -> "pd.DataFrame":
        """Word vectors as a table, a word a row."""
        import pandas as pd

        return pd.DataFrame(self.vectors, index=pd.Index(self.words, name="word"))


def pmi(
    counts: Any,
    *,
    positive: bool = True,
    shift: float = 1.0,
    alpha: float = 1.0,
    contexts: Any = None,
) -> "csr_array[Any]":
    """Take the pointwise mutual information of the pairs that were seen, in nats; shifted, smoothed, positive.

    Parameters
    ----------
    counts : sparse (v, c)
        Such as `Cooccurrence.counts`; finite and not negative.
    positive : bool
        Keep what is above 0 alone: shifted positive PMI.
    shift : float
        k, the number of negative samples that this corresponds to: log k is taken off. At least 1; 1 takes off nothing.
    alpha : float
        Power on the distribution of the contexts, in (0, 1]; 0.75 as in word2vec's negative samples.
    contexts : array_like (c,), optional
        What the distribution of the contexts is made of, at least 0; by default the columns' sums of `counts`. With
        the words' numbers of occurrences, and their alpha = 0.75, shift = negative samples, the result is where
        skip-gram has its optimum even if frequent words were subsampled.

    Returns
    -------
    csr_array (v, c) float64
        log P(w, c)/(P(w) P_α(c)) - log k at the pairs of counts above 0, and where `positive`, at those alone for which
        it is above 0. What is not stored is 0 where `positive`, and -∞ otherwise: entries that happen to be 0 are
        stored then.

    Raises
    ------
    InvalidInputError
        `counts` are not sparse, empty, not finite or negative; an argument is out of range; a context that was seen is
        given none of the distribution.

    Notes
    -----
    Skip-gram with k negative samples from P_α has its optimum at w · c = PMI - log k where the dimension does not bind
    (Levy & Goldberg 2014); P_α(c) ∝ #(c)^α is Levy, Goldberg & Dagan (2015). O(pairs seen).
    """
    from scipy import sparse

    if not sparse.issparse(counts):
        msg = f"counts must be a sparse matrix; got {type(counts).__name__}"
        raise InvalidInputError(msg)
    check_number(shift, "shift", 1.0, math.inf)
    check_number(alpha, "alpha", 0.0, 1.0, open_low=True)
    anything: Any = counts
    seen: Any = sparse.csr_array(anything, dtype=np.float64, copy=True)
    seen.sum_duplicates()
    if not np.all(np.isfinite(seen.data)) or np.any(seen.data < 0):
        msg = "counts must be finite and at least 0"
        raise InvalidInputError(msg)
    seen.eliminate_zeros()
    if not seen.nnz:
        msg = "counts must hold a pair that was seen; they are all 0"
        raise InvalidInputError(msg)
    rows, columns = np.asarray(seen.sum(axis=1)), np.asarray(seen.sum(axis=0))
    base = columns if contexts is None else _contexts(contexts, columns)
    # Scaled by the largest first: the power of a number of any size stays in the range.
    smooth = (base / base.max()) ** alpha
    with np.errstate(divide="ignore"):
        log_row, log_column = np.log(rows), np.log(smooth / smooth.sum()) + math.log(shift)
    values = np.log(seen.data)
    values -= np.repeat(log_row, np.diff(seen.indptr))
    values -= log_column[seen.indices]
    seen.data = values
    if positive:
        np.maximum(seen.data, 0.0, out=seen.data)
        seen.eliminate_zeros()
    whole: csr_array[Any] = seen
    return whole


def _contexts(given: Any, columns: NDArray[np.float64]) -> NDArray[np.float64]:
    try:
        base = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as why:
        msg = f"contexts must be {len(columns)} numbers, one a column of counts ({why})"
        raise InvalidInputError(msg) from why
    if base.shape != columns.shape or not np.all(np.isfinite(base)) or np.any(base < 0):
        msg = f"contexts must be {len(columns)} finite numbers of at least 0, one a column of counts; got {base.shape}"
        raise InvalidInputError(msg)
    without = np.flatnonzero((columns > 0) & (base == 0))
    if len(without):
        msg = f"contexts must be above 0 for every column with counts; {len(without)} are 0, the first {without[0]}"
        raise InvalidInputError(msg)
    return base


def factorise(
    matrix: Any, dim: int, *, seed: int, power: float = 0.5, words: Sequence[str] | None = None
) -> Factorisation:
    """Decompose a sparse matrix by its largest singular values: the best approximation of its rank.

    Parameters
    ----------
    matrix : sparse (v, c)
        Such as `pmi` returns with ``positive=True``: what is not stored counts as 0.
    dim : int
        Dimensions to keep, from 1 to min(v, c) - 1.
    seed : int
        Of the vector that the iteration starts with; the answer depends on it by rounding alone, but where singular
        values are equal.
    power : float
        p in [0, 1], the weight of the singular values in the word vectors U Σᵖ: 1 is the classical choice, 0.5 shares
        them out evenly as skip-gram does, and 0 often does best on word similarity (Levy, Goldberg & Dagan 2015).
    words : sequence of str, optional
        A word a row; by default the row numbers.

    Returns
    -------
    Factorisation

    Raises
    ------
    InvalidInputError
        `matrix` is not sparse, not finite or all 0, an argument is out of range, or singular values of a large matrix
        cannot be told from each other: so many are equal, or 0, that an iteration from one vector does not find them.

    Notes
    -----
    Lanczos bidiagonalisation with partial reorthogonalisation (PROPACK, Larsen 1998) in float64. What it finds is
    checked: vectors are orthonormal and singular to 1e-8, and nothing that is left is larger than what was found.
    O((stored entries + (v + c) d) · d) time and O((v + c) d) memory. Matrices of up to 1000 rows or columns are
    decomposed as dense ones.
    """
    from scipy import sparse

    if not sparse.issparse(matrix):
        msg = f"matrix must be sparse; got {type(matrix).__name__}"
        raise InvalidInputError(msg)
    anything: Any = matrix
    given = sparse.csr_array(anything, dtype=np.float64)
    check_whole(dim, "dim", 1, min(given.shape) - 1)
    check_number(power, "power", 0.0, 1.0)
    check_whole(seed, "seed", 0)
    names = tuple(str(at) for at in range(given.shape[0])) if words is None else tuple(words)
    if len(names) != given.shape[0]:
        msg = f"words must be {given.shape[0]}, one a row of matrix; got {len(names)}"
        raise InvalidInputError(msg)
    if not np.all(np.isfinite(given.data)):
        msg = "matrix must be finite"
        raise InvalidInputError(msg)
    whole = float((given.data**2).sum())
    if not whole:
        msg = "matrix must not be all 0"
        raise InvalidInputError(msg)
    small = min(given.shape) <= _DENSE
    left, values, right = _dense(given, dim) if small else _lanczos(given, dim, seed)
    sign = np.where(left[np.abs(left).argmax(axis=0), np.arange(dim)] < 0, -1.0, 1.0)
    return Factorisation(
        left=left * sign,
        singular_values=values,
        right=right * sign,
        words=names,
        power=float(power),
        seed=seed,
        solver="dense" if small else "lanczos",
        residual_fraction=min(1.0, max(0.0, 1 - float((values**2).sum()) / whole)),
    )


_Triplets = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""Left singular vectors, values, right singular vectors; a column a value, by falling value."""


def _dense(matrix: "csr_array[Any]", dim: int) -> _Triplets:
    left, values, right = np.linalg.svd(matrix.toarray(), full_matrices=False)
    return left[:, :dim], values[:dim], right[:dim].T


def _lanczos(matrix: "csr_array[Any]", dim: int, seed: int) -> _Triplets:
    from scipy.sparse.linalg import svds

    starts = np.random.default_rng(seed)
    try:
        # Ten times the dimension is how far SciPy goes by default: too near for a few dimensions of many.
        most = min(*matrix.shape, max(10 * dim, 300))
        start = starts.standard_normal(matrix.shape[0])
        found = svds(matrix, k=dim, v0=start, solver="propack", maxiter=most)
    except np.linalg.LinAlgError as why:
        raise InvalidInputError(_unresolved(dim, "the iteration did not converge")) from why
    return _certified(matrix, found, starts.standard_normal(matrix.shape[1]))


def _certified(matrix: "csr_array[Any]", found: Any, start: NDArray[np.float64]) -> _Triplets:
    """Return triplets by falling value, or refuse those that are no singular vectors or not the largest."""
    order = np.argsort(-found[1], kind="stable")
    left, values, right = found[0][:, order], found[1][order], found[2][order].T
    dim, turned = len(values), matrix.T.tocsr()
    # Where singular values repeat, the iteration can return what are no singular vectors, or too few of them.
    ones = np.eye(dim)
    gaps = (left.T @ left - ones, right.T @ right - ones)
    misses = (matrix @ right - left * values, turned @ left - right * values)
    error = max(*(np.abs(each).max() for each in gaps), *(np.abs(each).max() / values[0] for each in misses))
    if not error <= _EXACT:
        raise InvalidInputError(_unresolved(dim, f"the vectors found err by {error:.1g}"))
    beyond = _largest(matrix, turned, (left, values, right), start)
    if beyond > values[-1] * (1 + 1e-6):
        raise InvalidInputError(
            _unresolved(dim, f"one of {beyond:.4g} was left out beside the least, {values[-1]:.4g}")
        )
    return left, values, right


def _largest(matrix: Any, turned: Any, found: _Triplets, start: NDArray[np.float64]) -> float:
    """Bound the largest singular value of what is left of a matrix from below, by a few steps of Lanczos.

    It comes from another vector than the decomposition: copies of a value that are out of reach of one are not of two.
    """
    left, values, right = found
    x = start / np.linalg.norm(start)
    basis: list[NDArray[np.float64]] = []
    images: list[NDArray[np.float64]] = []
    for _ in range(min(_STEPS, len(start))):
        for _ in range(2):  # Once more, for what rounding leaves of the other vectors.
            for each in basis:
                x = x - each * (each @ x)
        length = float(np.linalg.norm(x))
        if length <= _EXACT:
            break
        basis.append(x / length)
        images.append(matrix @ basis[-1] - left @ (values * (right.T @ basis[-1])))
        x = turned @ images[-1] - right @ (values * (left.T @ images[-1]))
        size = float(np.linalg.norm(x))
        if not size > 0:
            break
        x = x / size
    return float(np.linalg.norm(np.array(images), 2))


def _unresolved(dim: int, why: str) -> str:
    return (
        f"matrix must have {dim} singular values above 0 that can be told from each other: {why}; "
        "factorise fewer dimensions"
    )
