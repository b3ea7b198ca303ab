"""How often words stand near each other: counts in a window, sparse throughout, with word2vec's weights if asked."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.result import Result
from geomkit.core.validation import check_number, check_whole
from geomkit.errors import InvalidInputError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["Cooccurrence", "cooccurrence", "keep_probability"]

_CHUNK = 1 << 24
"""Pairs of positions that are gathered before they are added up (some 400 MiB)."""


@dataclass(frozen=True)
class Cooccurrence(Result):
    """How often words stand near each other in a corpus."""

    words: tuple[str, ...] = field(repr=False)
    """The vocabulary by falling number of occurrences; equally frequent words in the order they first appear."""
    occurrences: NDArray[np.int64] = field(repr=False)
    """How often each word occurs, (v,)."""
    counts: "csr_array[Any]" = field(repr=False)
    """Pairs of a word and a word in its window, (v, v) float64, symmetric: each pair of positions counts once in each
    direction, with its weight. A word that is in its own window counts twice on the diagonal."""
    window: int
    """Words to either side."""
    dynamic: bool
    subsample: float
    min_count: int
    n_tokens: int
    """Words of the corpus, those that are too rare included."""
    neglected: float
    """Upper bound on the weight, of both directions, that `counts` leave out; 0 without subsampling."""

    @property
    def n_words(self) -> int:
        """Size of the vocabulary, v."""
        return len(self.words)

    def to_dict(self) -> dict[str, Any]:
        """Return every scalar by name, and the number of pairs of words that were seen."""
        return {"n_words": self.n_words} | super().to_dict() | {"n_pairs": int(self.counts.nnz)}


def keep_probability(occurrences: NDArray[np.int64], subsample: float) -> NDArray[np.float64]:
    """Probability that an occurrence of each word survives the subsampling of frequent words.

    Parameters
    ----------
    occurrences : (v,) int64
        Of each word, at least 1.
    subsample : float
        The threshold t as a share of all occurrences, at least 0; 0 keeps everything.

    Returns
    -------
    (v,) float64
        min(1, √(t/f) + t/f) of a word of frequency f: the formula of word2vec's code and of gensim, which is not quite
        that of the paper (Mikolov et al. 2013).
    """
    check_number(subsample, "subsample", 0.0, math.inf)
    if not subsample:
        return np.ones(len(occurrences))
    share = subsample * occurrences.sum() / occurrences
    return np.asarray(np.minimum(1.0, np.sqrt(share) + share))


def cooccurrence(
    sentences: Iterable[Sequence[str]],
    *,
    window: int,
    min_count: int = 1,
    dynamic: bool = False,
    subsample: float = 0.0,
    tolerance: float = 1e-6,
) -> Cooccurrence:
    """Count which words stand within a window of each other.

    Parameters
    ----------
    sentences : iterable of sequences of str
        Words in order; no window reaches over the end of a sentence.
    window : int
        Words to either side that are counted, at least 1.
    min_count : int
        Rarer words are taken out of their sentence before distances are counted, as word2vec does.
    dynamic : bool
        Weigh a pair at distance δ by (window - δ + 1)/window, the probability that it is seen where the window is drawn
        anew for each word, uniform from 1 to `window` (Levy, Goldberg & Dagan 2015, "dyn").
    subsample : float
        Count the expectation over random drops of frequent words, each occurrence dropped on its own with the
        probability that `keep_probability` leaves (gensim's ``sample``; 0 drops nothing). Words that are dropped close
        the gap, so that windows reach further (Levy et al. 2015, "dirty").
    tolerance : float
        With subsampling a word can be reached from any distance. Those in which less than this weight is expected, in
        all that is to the right of a position together, are left out, and `neglected` adds up what that is at most.

    Returns
    -------
    Cooccurrence

    Raises
    ------
    InvalidInputError
        No word occurs often enough, a sentence is a string or holds what is no string, or an argument is out of range.

    Notes
    -----
    The counts are exact without subsampling. With it, the number of words that are kept between two positions is
    Poisson-binomial; its probabilities are carried from distance to distance for all positions at once. Memory is
    O(tokens · window + pairs of words seen) and time O(tokens · reach · window), the reach being the window where
    nothing is dropped; no dense v × v matrix exists.
    """
    check_whole(window, "window", 1)
    check_whole(min_count, "min_count", 1)
    check_number(tolerance, "tolerance", 0.0, math.inf, open_low=True)
    ids, ends, words, occurrences, n_tokens = _encoded(sentences, min_count)
    keep = keep_probability(occurrences, subsample)
    weights = (window - np.arange(window)) / window if dynamic else np.ones(window)
    half, neglected = _forward(ids, ends, keep, weights, tolerance)
    return Cooccurrence(
        words=words,
        occurrences=occurrences,
        counts=(half + half.T).tocsr(),
        window=window,
        dynamic=bool(dynamic),
        subsample=float(subsample),
        min_count=min_count,
        n_tokens=n_tokens,
        neglected=2 * neglected,
    )


def _encoded(
    sentences: Iterable[Sequence[str]], min_count: int
) -> tuple[NDArray[np.int32], NDArray[np.int64], tuple[str, ...], NDArray[np.int64], int]:
    """Numbers of the words that are frequent enough, where the sentence of each ends, the words, and their counts."""
    first: dict[str, int] = {}
    raw: list[NDArray[np.int64]] = []
    for at, sentence in enumerate(sentences):
        if isinstance(sentence, (str, bytes)):
            msg = f"sentences must be sequences of words; sentence {at} is a string: split it first"
            raise InvalidInputError(msg)
        raw.append(np.fromiter((first.setdefault(word, len(first)) for word in sentence), np.int64, len(sentence)))
    odd = next((word for word in first if not isinstance(word, str)), None)
    if odd is not None:
        msg = f"sentences must hold words as str; got {odd!r}"
        raise InvalidInputError(msg)
    flat = np.concatenate(raw) if raw else np.empty(0, np.int64)
    times = np.bincount(flat, minlength=len(first))
    order = np.argsort(-times, kind="stable")
    order = order[times[order] >= min_count]
    if not len(order):
        msg = f"sentences have no word that occurs at least {min_count} times; they have {len(first)} words in all"
        raise InvalidInputError(msg)
    new = np.full(len(first), -1, np.int32)
    new[order] = np.arange(len(order), dtype=np.int32)
    ids = new[flat]
    sentence_of = np.repeat(np.arange(len(raw)), [len(each) for each in raw])[ids >= 0]
    ends = np.searchsorted(sentence_of, sentence_of, side="right")
    names = list(first)
    return ids[ids >= 0], ends, tuple(names[at] for at in order), times[order].astype(np.int64), len(flat)


def _forward(
    ids: NDArray[np.int32],
    ends: NDArray[np.int64],
    keep: NDArray[np.float64],
    weights: NDArray[np.float64],
    tolerance: float,
) -> tuple["csr_array[Any]", float]:
    """Count pairs of a word and a later one in expectation, and bound the weight that is neglected."""
    kept = keep[ids]
    # Weight that is still to come at most, where so many kept words have been passed.
    ahead = np.cumsum(weights[::-1])[::-1]
    sums, neglected = _Sums(len(keep)), 0.0
    at = np.arange(len(ids))
    # Probability that so many words between a position and the next candidate are kept, a row a number.
    passed = np.zeros((len(weights), len(ids)))
    passed[0] = kept
    distance = 0
    while True:
        distance += 1
        inside = at + distance < ends[at]
        coming = ahead @ passed
        alive = coming > tolerance
        neglected += float(coming[inside & ~alive].sum())
        at, passed = at[inside & alive], passed[:, inside & alive]
        if not len(at):
            return sums.total(), neglected
        there = kept[at + distance]
        sums.add(ids[at], ids[at + distance], weights @ passed * there)
        moved = passed * there
        passed -= moved
        passed[1:] += moved[:-1]


class _Sums:
    """Weights of pairs of words, added up in chunks."""

    def __init__(self, n: int) -> None:
        self._n, self._held = n, 0
        self._rows: list[NDArray[np.int32]] = []
        self._columns: list[NDArray[np.int32]] = []
        self._values: list[NDArray[np.float64]] = []
        self._whole: csr_array[Any] | None = None

    def add(self, rows: NDArray[np.int32], columns: NDArray[np.int32], values: NDArray[np.float64]) -> None:
        self._rows.append(rows)
        self._columns.append(columns)
        self._values.append(values)
        self._held += len(rows)
        if self._held >= _CHUNK:
            self._pour()

    def _pour(self) -> None:
        from scipy.sparse import coo_array, csr_array

        if not self._rows:
            part = csr_array((self._n, self._n))
        else:
            places = (np.concatenate(self._rows), np.concatenate(self._columns))
            part = coo_array((np.concatenate(self._values), places), shape=(self._n, self._n)).tocsr()
        self._whole = part if self._whole is None else self._whole + part
        self._rows, self._columns, self._values, self._held = [], [], [], 0

    def total(self) -> "csr_array[Any]":
        self._pour()
        assert self._whole is not None  # noqa: S101 - _pour has just set it
        return self._whole
