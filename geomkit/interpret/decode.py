"""Reading tokens back: which token a vector is of, by its own model or a stranger; which tokens a mean is of."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.matrix import finite_rows
from geomkit.core.optional import require
from geomkit.core.validation import check_positive
from geomkit.errors import InvalidInputError
from geomkit.interpret.lens.logit_lens import LogitLens
from geomkit.interpret.lens.statistics import tensor

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AffineMap", "Bag", "by_lens", "nearest_in", "overlap", "procrustes_map", "pursuit"]
__all__ += ["ridge_map", "rotation", "token_ranks"]

Scorer = Callable[[NDArray[np.float32]], "Tensor"]
"""Scores of all tokens of a vocabulary for some vectors, (rows, vocabulary); the highest is what is read."""

CHUNK = 256
"""Vectors whose scores of all the vocabulary are held at once: 50 MB for 49,152 tokens."""


def nearest_in(table: Any, *, device: str | None = None) -> Scorer:
    """Return a reader that scores tokens by the cosine of a vector with their rows of a table.

    Parameters
    ----------
    table : array_like (vocabulary, d)
        Finite. A row of zeros is no direction and scores lowest.
    device : str, optional
        Where the products run; the CPU by default.
    """
    torch = require("torch")
    rows = finite_rows(table, name="table")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(norms > 0, norms, 1.0)
    unit = torch.from_numpy(rows.astype(np.float32)).to(device)
    empty = torch.from_numpy(norms.ravel() == 0).to(device)

    def score(vectors: NDArray[np.float32]) -> "Tensor":
        largest = np.abs(vectors).max(axis=1, keepdims=True)  # brought to 1, so that squares stay in the range
        block = torch.from_numpy(np.asarray(vectors / np.where(largest > 0, largest, 1.0), np.float32)).to(unit.device)
        scores: Tensor = torch.nn.functional.normalize(block, dim=-1) @ unit.T
        return scores.masked_fill(empty, -torch.inf)

    return score


def by_lens(lens: LogitLens, layer: int) -> Scorer:
    """Return a reader that scores tokens as the model's final norm and head do, as if a layer were its last."""
    torch = require("torch")

    def score(vectors: NDArray[np.float32]) -> "Tensor":
        with torch.inference_mode():
            return lens.logits(tensor(lens, vectors), layer).float()

    return score


def token_ranks(
    vectors: Any, read: Scorer, targets: Mapping[str, NDArray[np.int64]], *, chunk: int = CHUNK
) -> dict[str, NDArray[np.int64]]:
    """At which place a reader puts given tokens, for each vector.

    Parameters
    ----------
    vectors : array_like (rows, d)
    read : Scorer
        `nearest_in` or `by_lens`.
    targets : mapping of str to (rows,) int64
        Tokens that are looked for: such as the one that the vector is of, and the one that follows.
    chunk : int
        Vectors whose scores are held at once.

    Returns
    -------
    dict of str to (rows,) int64
        Tokens that score higher, from 0, the best. Of equal scores the lower number counts as higher, so that a reader
        that says the same of all tokens is not right by being undecided.

    Raises
    ------
    InvalidInputError
        Vectors are not finite, a target is not one token a vector, or it is not in the vocabulary.
    """
    torch = require("torch")
    rows = finite_rows(vectors, name="vectors")
    ranks = {name: np.empty(len(rows), np.int64) for name in targets}
    for start in range(0, len(rows), chunk):
        scores = read(rows[start : start + chunk].astype(np.float32))
        numbers = torch.arange(scores.shape[1], device=scores.device)
        for name, wanted in targets.items():
            _check_tokens(wanted, name, len(rows), scores.shape[1])
            asked = torch.from_numpy(np.asarray(wanted[start : start + chunk], np.int64)).to(scores.device)[:, None]
            own = scores.gather(1, asked)
            ahead = (scores > own).sum(1) + ((scores == own) & (numbers < asked)).sum(1)
            ranks[name][start : start + chunk] = ahead.cpu().numpy()
    return ranks


def rotation(d: int, seed: int) -> NDArray[np.float64]:
    """Return a random rotation or reflection, uniform over all (Haar; Mezzadri 2007), (d, d)."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))
    return np.asarray(q * np.sign(np.diagonal(r)))


@dataclass(frozen=True)
class AffineMap:
    """y ≈ (x - x_mean) W + y_mean."""

    weights: NDArray[np.float64] = field(repr=False)
    """(d_x, d_y)."""
    x_mean: NDArray[np.float64] = field(repr=False)
    y_mean: NDArray[np.float64] = field(repr=False)
    how: str
    """``"procrustes"`` or ``"ridge"``."""
    n: int
    """Pairs of rows fitted to."""

    def __call__(self, x: Any) -> NDArray[np.float64]:
        """Map rows, (n, d_x) to (n, d_y)."""
        return np.asarray((np.asarray(x, np.float64) - self.x_mean) @ self.weights + self.y_mean)


def procrustes_map(x: Any, y: Any) -> AffineMap:
    """Turn one space onto another over paired rows, without stretching: orthogonal Procrustes (Schönemann 1966).

    Parameters
    ----------
    x : array_like (n, d_x)
    y : array_like (n, d_y)

    Returns
    -------
    AffineMap
        Weights W of orthonormal columns or rows, whichever are fewer, that maximise tr(Wᵀ XᵀY) of the centred rows:
        the best in least squares where d_x <= d_y.

    Raises
    ------
    InvalidInputError
        Rows are not paired, or not finite.
    """
    a, b = _paired(x, y)
    left, _, right = np.linalg.svd((a - a.mean(axis=0)).T @ (b - b.mean(axis=0)), full_matrices=False)
    return AffineMap(left @ right, a.mean(axis=0), b.mean(axis=0), "procrustes", len(a))


def ridge_map(x: Any, y: Any, *, ridge: float = 1e-3) -> AffineMap:
    """Map one space onto another over paired rows by ridge regression.

    Parameters
    ----------
    x : array_like (n, d_x)
    y : array_like (n, d_y)
    ridge : float
        Penalty on squared weights as a share of n times the mean variance of the columns of x; above 0.

    Raises
    ------
    InvalidInputError
        Rows are not paired, or not finite; `ridge` is not above 0.
    """
    check_positive(ridge, "ridge")
    a, b = _paired(x, y)
    centred = a - a.mean(axis=0)
    products = centred.T @ centred
    penalty = ridge * np.trace(products) / len(products) or 1.0
    products[np.diag_indices(len(products))] += penalty
    weights = np.linalg.solve(products, centred.T @ (b - b.mean(axis=0)))
    return AffineMap(weights, a.mean(axis=0), b.mean(axis=0), "ridge", len(a))


@dataclass(frozen=True)
class Bag:
    """Tokens with how often each is there."""

    counts: Mapping[int, int]

    @classmethod
    def of(cls, tokens: Iterable[int]) -> "Bag":
        """Count tokens."""
        return cls(dict(Counter(int(each) for each in tokens)))

    @property
    def size(self) -> int:
        """Tokens, repeats counted."""
        return sum(self.counts.values())


def overlap(found: Bag, there: Bag) -> tuple[float, float]:
    """Return precision and recall of the tokens found, repeats counted; precision is 0 where nothing is found."""
    both = sum(min(count, there.counts.get(token, 0)) for token, count in found.counts.items())
    return (both / found.size if found.size else 0.0), both / there.size


def pursuit(
    pooled: Any,
    table: Any,
    lengths: Sequence[int],
    *,
    tolerance: float = 1e-4,
    device: str | None = None,
) -> list[Bag]:
    """Find which tokens a mean of rows of a table is of: orthogonal matching pursuit (Pati et al. 1993).

    Parameters
    ----------
    pooled : array_like (n, d)
        Means of vectors of tokens.
    table : array_like (vocabulary, d)
        A vector a token, none of zeros.
    lengths : sequence of int, (n,)
        How many tokens each is the mean of: one number more that the reader must be told.
    tolerance : float
        A vector is explained when what is left of it is so small a share of its norm.
    device : str, optional
        Where products with the table run; the CPU by default.

    Returns
    -------
    list of Bag
        Weights are rounded to whole numbers of tokens; a token of less than half is not found.

    Raises
    ------
    InvalidInputError
        A shape does not fit, a value is not finite, a row of the table is zero, or a length is not positive.

    Notes
    -----
    At each step the token whose direction is nearest to what is left (cosine, positive) joins, and all weights are
    fitted anew by least squares; at most min(length, d) steps. All vectors take their step in one product with the
    table: O(steps · n · vocabulary · d).
    """
    torch = require("torch")
    rows, words = finite_rows(pooled, name="pooled"), finite_rows(table, name="table")
    norms = np.linalg.norm(words, axis=1)
    if rows.shape[1] != words.shape[1] or not norms.all():
        msg = f"table must have {rows.shape[1]} columns as pooled has, and no row of zeros; got {words.shape}"
        raise InvalidInputError(msg)
    if len(lengths) != len(rows) or min(lengths) < 1:
        msg = f"lengths must be {len(rows)} positive whole numbers, one a row of pooled; got {list(lengths)[:5]}"
        raise InvalidInputError(msg)
    unit = torch.from_numpy((words / norms[:, None]).astype(np.float32)).to(device)
    left = rows.copy()
    small = tolerance * np.linalg.norm(rows, axis=1)
    chosen: list[list[int]] = [[] for _ in rows]
    bases = [np.empty((0, rows.shape[1])) for _ in rows]
    most = np.minimum(lengths, rows.shape[1])
    for step in range(int(most.max())):
        open_ = np.flatnonzero((step < most) & (np.linalg.norm(left, axis=1) > small))
        open_ = open_[[len(chosen[at]) == step for at in open_]]
        if not len(open_):
            break
        scores = torch.from_numpy(left[open_].astype(np.float32)).to(unit.device) @ unit.T
        for place, at in enumerate(open_.tolist()):
            scores[place, chosen[at]] = -torch.inf
        best = scores.max(1)
        for at, score, token in zip(open_.tolist(), best.values.tolist(), best.indices.tolist(), strict=True):
            fresh = words[token] - bases[at].T @ (bases[at] @ words[token])
            fresh -= bases[at].T @ (bases[at] @ fresh)  # twice is enough (Giraud et al. 2005)
            reach = float(np.linalg.norm(fresh))
            if score <= 0 or reach <= 1e-6 * norms[token]:
                continue
            chosen[at].append(token)
            bases[at] = np.vstack([bases[at], fresh / reach])
            left[at] -= bases[at][-1] * (bases[at][-1] @ left[at])
    return [_bag(row, words, tokens, length) for row, tokens, length in zip(rows, chosen, lengths, strict=True)]


def _bag(row: NDArray[np.float64], words: NDArray[np.float64], tokens: list[int], length: int) -> Bag:
    if not tokens:
        return Bag({})
    weights = np.linalg.lstsq(words[tokens].T, row, rcond=None)[0]
    counts = np.rint(weights * length).astype(np.int64).tolist()
    return Bag({token: count for token, count in zip(tokens, counts, strict=True) if count > 0})


def _paired(x: Any, y: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = finite_rows(x, name="x"), finite_rows(y, name="y")
    if len(a) != len(b):
        msg = f"x and y must have the same rows; got {len(a)} and {len(b)}"
        raise InvalidInputError(msg)
    return a, b


def _check_tokens(wanted: NDArray[np.int64], name: str, rows: int, vocabulary: int) -> None:
    if np.shape(wanted) != (rows,) or np.min(wanted) < 0 or np.max(wanted) >= vocabulary:
        msg = f"targets {name!r} must be {rows} numbers from 0 to {vocabulary - 1}, one a vector"
        raise InvalidInputError(msg)
