"""Interpretability, measured: coherence of the top words of each dimension, and word intrusion, by automated judges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.result import Result
from geomkit.core.validation import check_whole
from geomkit.errors import InvalidInputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Interpretability", "coherence", "interpretability", "intrusion"]

BLOCK = 20
"""Words of neighbouring frequency that are exchanged for each other in the null."""

_COLUMNS = 256  # dimensions that are looked at together

Array = NDArray[Any]
Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


def coherence(judge: Array, topics: Array) -> Floats:
    """Return the mean association of the pairs of words of each topic: with NPMI as the judge, C_NPMI.

    Parameters
    ----------
    judge : (n, n)
        Association of any two words.
    topics : (..., t) int64
        Numbers of t >= 2 words each.

    Returns
    -------
    (...) float64
    """
    t = topics.shape[-1]
    among = judge[topics[..., :, None], topics[..., None, :]]
    own = np.einsum("...ii->...", among)
    return np.asarray((among.sum(axis=(-2, -1)) - own) / (t * (t - 1)), np.float64)


def intrusion(judge: Array, questions: Array) -> Floats:
    """Whether the last of some words is the one that is least associated with the others.

    Parameters
    ----------
    judge : (n, n)
        Association of any two words.
    questions : (..., t) int64
        Numbers of t >= 3 words each; the last is the intruder.

    Returns
    -------
    (...) float64
        1 where it is found, 0 where another word is taken for it, and 1 over their number where several are least.
    """
    among = np.array(judge[questions[..., :, None], questions[..., None, :]], np.float64)
    diagonal = np.arange(questions.shape[-1])
    among[..., diagonal, diagonal] = 0
    close = among.sum(axis=-1)
    least = close == close.min(axis=-1, keepdims=True)
    return np.asarray(least[..., -1] / least.sum(axis=-1), np.float64)


@dataclass(frozen=True)
class Interpretability(Result):
    """How well the top words of each dimension of a space go together, by one or several judges."""

    dimensions: Whole = field(repr=False)
    """Numbers of the dimensions, or of the directions of the rotated space, (k,)."""
    top: Whole = field(repr=False)
    """Rows of the words that are highest in each dimension, highest first, and of those that are lowest, lowest first,
    where both ends are read: (k, ends, words)."""
    intruders: Whole = field(repr=False)
    """Row of the word that is put among the first of them, (k, ends)."""
    coherence: Mapping[str, Floats] = field(repr=False)
    """By judge, of each dimension, (k,): the mean over its ends. In the units of the judge."""
    intrusion: Mapping[str, Floats] = field(repr=False)
    """By judge, of each dimension, (k,), in [0, 1]: the share of its ends whose intruder is found."""
    coherence_null: Mapping[str, Floats] = field(repr=False)
    """The same for words of the same frequency, (k,): the mean over exchanges."""
    intrusion_null: Mapping[str, Floats] = field(repr=False)
    n: int
    """Words."""
    d: int
    """Dimensions of the space."""
    examined: int
    """Dimensions that were drawn."""
    left_out: int
    """Of these, how many have too few words above their median, or below it where both ends are read."""
    shown: int
    """Words of a dimension that the intruder is put among; chance is 1/(shown + 1)."""
    exchanges: int
    rotated: bool
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return every scalar, and the mean of every score over dimensions, beside its null."""
        scalars = super().to_dict()
        for score in ("coherence", "intrusion", "coherence_null", "intrusion_null"):
            scalars |= {f"{score}_{judge}": float(values.mean()) for judge, values in getattr(self, score).items()}
        return scalars

    def to_frame(self, words: Sequence[str]) -> "pd.DataFrame":
        """Return a row for each end of each dimension: its words, its intruder, and the scores of the dimension."""
        import pandas as pd

        rows = []
        for at, number in enumerate(self.dimensions.tolist()):
            scores = {
                f"{score}_{judge}": each[at]
                for score in ("coherence", "intrusion")
                for judge, each in getattr(self, score).items()
            }
            for end, sign in enumerate("+-"[: self.top.shape[1]]):
                top = " ".join(words[row] for row in self.top[at, end])
                intruder = words[self.intruders[at, end]]
                rows.append({"dimension": number, "end": sign, "words": top, "intruder": intruder, **scores})
        return pd.DataFrame(rows)


def interpretability(
    x: Any,
    judges: Mapping[str, Array],
    *,
    both: bool = True,
    rotate: bool = False,
    dimensions: int = 200,
    top: int = 10,
    shown: int = 5,
    frequency: Array | None = None,
    exchanges: int = 20,
    seed: int = 0,
) -> Interpretability:
    """Judge the dimensions of a space by the words that are at their ends.

    Parameters
    ----------
    x : array_like (n, d) or scipy sparse
        A row a word, finite. Rows are taken at the length that they have.
    judges : mapping of str to (n, n) array
        Association of any two words, symmetric: `npmi.Association.npmi`, or cosines of vectors that x has no part in.
    both : bool
        Read both ends of a dimension, as where its sign is arbitrary; else the positive one, as where no number is
        negative.
    rotate : bool
        Judge directions of the space turned at random instead: orthonormal, each uniform on the sphere (Haar), drawn
        without turning all of it.
    dimensions : int
        How many are drawn, at most.
    top, shown : int
        Words whose coherence is taken, and the first of them among which an intruder is to be found.
    frequency : (n,) array, optional
        By which words are sorted for the null; without it any word is exchanged for any other.
    exchanges : int
        Of the null.
    seed : int
        Draws dimensions, directions, intruders, exchanges, and the order of words that are equally high.

    Returns
    -------
    Interpretability

    Raises
    ------
    InvalidInputError
        x is not finite, a judge does not fit it, fewer than two dimensions can be judged, an argument is out of range,
        or no word is low in one dimension and high in another.

    Notes
    -----
    A dimension is judged if at least `top` words are above its median (and below it where both ends are read): of a
    sparse one, if as many words have it. Intruders are words at or below the median of a dimension, or at or above it
    at its lower end, that are among the `top` of another one (Chang et al. 2009; Lau, Newman & Baldwin 2014): dimension
    and word are drawn at random.

    The null puts in place of each word another one of about its frequency, by shuffling all words within blocks of
    `BLOCK` in the order of their frequency: what frequency alone gives a judge to go by. O(k n log n) time.

    References
    ----------
    J. Lau, D. Newman, T. Baldwin: Machine reading tea leaves. EACL 2014.
    """
    from scipy.sparse import csc_array, issparse

    whole = (("dimensions", dimensions, 2), ("shown", shown, 2), ("exchanges", exchanges, 1), ("seed", seed, 0))
    for name, value, low in whole:
        check_whole(value, name, low)
    check_whole(top, "top", shown)
    rows: Any = csc_array(x) if issparse(x) else np.asarray(x)  # type: ignore[call-overload]
    n, d = _checked(rows, judges, frequency)
    # Streams of their own, so that one more dimension does not draw other words.
    drawing, turning, asking, exchanging = (np.random.default_rng([seed, at]) for at in range(4))
    if rotate:
        frame = turning.standard_normal((d, min(d, dimensions)))
        q, r = np.linalg.qr(frame)
        rows = np.asarray(rows @ (q * np.sign(np.diag(r))))
    numbers, tops, low_in = [], [], []
    examined = 0
    for block in np.array_split(order := drawing.permutation(rows.shape[1]), -(-len(order) // _COLUMNS)):
        columns = rows[:, block]
        part = columns if isinstance(rows, np.ndarray) else columns.toarray()
        for at, number in enumerate(block.tolist()):
            examined += 1
            found = _ends(part[:, at], drawing.permutation(n), top, both=both)
            if found:
                numbers.append(number)
                tops.append(found[0])
                low_in.append(found[1])
            if len(numbers) == dimensions:
                break
        if len(numbers) == dimensions:
            break
    if len(numbers) < 2:
        msg = f"x has {len(numbers)} of {examined} dimensions with {top} words beyond their median; it needs 2"
        raise InvalidInputError(msg)
    best = np.array(tops)
    intruders = _intruders(best, np.array(low_in), asking)
    questions = np.concatenate([best[..., :shown], intruders[..., None]], axis=-1)
    swaps = [_exchanged(n, frequency, exchanging) for _ in range(exchanges)]

    def over(score: Any, judge: Array, ids: Whole) -> Floats:
        return np.asarray(score(judge, ids).mean(axis=1))

    def null(score: Any, judge: Array, ids: Whole) -> Floats:
        return np.asarray(np.mean([over(score, judge, swap[ids]) for swap in swaps], axis=0))

    return Interpretability(
        dimensions=np.array(numbers, np.int64), top=best, intruders=intruders,
        coherence={name: over(coherence, judge, best) for name, judge in judges.items()},
        intrusion={name: over(intrusion, judge, questions) for name, judge in judges.items()},
        coherence_null={name: null(coherence, judge, best) for name, judge in judges.items()},
        intrusion_null={name: null(intrusion, judge, questions) for name, judge in judges.items()},
        n=n, d=d, examined=examined, left_out=examined - len(numbers), shown=shown, exchanges=exchanges,
        rotated=bool(rotate), seed=seed,
    )  # fmt: skip


def _checked(rows: Any, judges: Mapping[str, Array], frequency: Array | None) -> tuple[int, int]:
    if rows.ndim != 2 or rows.dtype.kind not in "fiu":
        msg = f"x must be a matrix of numbers; got shape {rows.shape} of {rows.dtype}"
        raise InvalidInputError(msg)
    n, d = rows.shape
    bad = np.count_nonzero(~np.isfinite(rows if isinstance(rows, np.ndarray) else rows.data))
    if bad:
        msg = f"x has {bad} numbers that are not finite"
        raise InvalidInputError(msg)
    if not judges:
        msg = "judges is empty; give at least one"
        raise InvalidInputError(msg)
    for name, judge in judges.items():
        if np.shape(judge) != (n, n) or not np.isfinite(judge).all():
            msg = f"judges[{name!r}] must be finite and of shape {(n, n)}, as x has {n} rows; got {np.shape(judge)}"
            raise InvalidInputError(msg)
    if frequency is not None and np.shape(frequency) != (n,):
        msg = f"frequency must have a number for each of the {n} rows of x; got shape {np.shape(frequency)}"
        raise InvalidInputError(msg)
    return n, d


def _ends(values: Array, shuffle: Whole, top: int, *, both: bool) -> tuple[Whole, NDArray[np.bool_]] | None:
    """Words at the ends of a dimension, (ends, top), and which words are low there, (ends, n); None if too few."""
    middle = np.median(values)
    if np.count_nonzero(values > middle) < top or (both and np.count_nonzero(values < middle) < top):
        return None
    signs = (1, -1) if both else (1,)
    # Words that are equally high come in an order of their own, in each dimension another one.
    best = [shuffle[np.argsort(-sign * values[shuffle], kind="stable")[:top]] for sign in signs]
    return np.array(best, np.int64), np.array([sign * (values - middle) <= 0 for sign in signs])


def _intruders(best: Whole, low: NDArray[np.bool_], rng: np.random.Generator) -> Whole:
    """Draw a word for each end of each dimension that is low there and at an end of another dimension."""
    k, ends, top = best.shape
    out = np.empty((k, ends), np.int64)
    for at in range(k):
        for end in range(ends):
            for other in rng.permutation(k * ends):
                if other // ends == at:
                    continue
                words = best[other // ends, other % ends]
                words = words[low[at, end, words]]
                if len(words):
                    out[at, end] = rng.choice(words)
                    break
            else:
                msg = f"x has no word that is low in one dimension and among the {top} highest of another one"
                raise InvalidInputError(msg)
    return out


def _exchanged(n: int, frequency: Array | None, rng: np.random.Generator) -> Whole:
    """Return the word in place of each word, (n,), among those of about its frequency."""
    if frequency is None:
        return rng.permutation(n)
    order = np.argsort(-np.asarray(frequency), kind="stable")
    out = np.empty(n, np.int64)
    for start in range(0, n, BLOCK):
        block = order[start : start + BLOCK]
        out[block] = rng.permutation(block)
    return out
