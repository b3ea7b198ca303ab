"""Association of words: in how many windows of some texts they stand together, as normalised mutual information."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.result import Result
from geomkit.core.validation import check_whole
from geomkit.errors import InvalidInputError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["Association", "association"]

EPSILON = 1e-12
"""Added to the probability of a pair before logarithms are taken, as gensim does: an unseen pair is not at -1."""

_BATCH = 1 << 22  # places in windows that are held at once, some 100 MB

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Association(Result):
    """How much more often than by chance any two words of a vocabulary stand in one window of reference texts."""

    words: tuple[str, ...] = field(repr=False)
    npmi: Floats = field(repr=False)
    """Normalised pointwise mutual information of any two words (Bouma 2009), (n, n), symmetric, in [-1, 1]."""
    occurrences: Whole = field(repr=False)
    """Windows that each word is in, (n,)."""
    n_windows: int
    n_texts: int
    n_tokens: int
    window: int


def association(texts: Iterable[Sequence[str]], words: Sequence[str], *, window: int = 10) -> Association:
    """Count in how many windows of reference texts words stand together, and return their NPMI.

    Parameters
    ----------
    texts : iterable of sequences of str
        Words in order. Texts that what is to be judged was not fitted to.
    words : sequence of str
        The vocabulary, each once; all must occur.
    window : int
        Words of a window, at least 2. It slides by one word; a text that is shorter is one window.

    Returns
    -------
    Association
        ``log((p_ij + ε)/(p_i p_j)) / -log(p_ij + ε)`` with p the share of windows and ε = 1e-12.

    Raises
    ------
    InvalidInputError
        A word is given twice or does not occur, a text is a string, or all are empty.

    Notes
    -----
    The means over pairs are C_NPMI (Aletras & Stevenson 2013; Röder, Both & Hinneburg 2015), and equal those of
    gensim's ``CoherenceModel(coherence="c_npmi")`` where no word stands twice in a window. Where one does, gensim takes
    it for gone as soon as the first of the two leaves the window, and counts too few. Given every window as a text of
    its own, gensim counts all of them, and the two are equal again; tests say so.

    O(tokens · window) memory for a batch of texts, and n² numbers. Two million words take seconds.
    """
    from scipy.sparse import csr_array

    check_whole(window, "window", 2)
    place = {word: at for at, word in enumerate(words)}
    if len(place) != len(words) or len(words) < 2:
        msg = f"words must be two or more, each once; got {len(words)}, of which {len(place)} differ"
        raise InvalidInputError(msg)
    n, n_windows, n_texts, n_tokens = len(words), 0, 0, 0
    pairs = csr_array((n, n), dtype=np.int64)
    for ids, lengths in _batches(texts, place, window):
        seen = _windows(ids, lengths, window, n)
        pairs = pairs + seen.T @ seen
        n_windows, n_texts, n_tokens = n_windows + seen.shape[0], n_texts + len(lengths), n_tokens + len(ids)
    if not n_windows:
        msg = "texts has no words"
        raise InvalidInputError(msg)
    counts = pairs.toarray()
    occurrences = counts.diagonal().copy()
    never = [word for word, count in zip(words, occurrences.tolist(), strict=True) if not count]
    if never:
        msg = f"words has {len(never)} that do not occur in texts (first: {', '.join(never[:3])}); leave them out"
        raise InvalidInputError(msg)
    share, joint = occurrences / n_windows, counts / n_windows + EPSILON
    npmi = np.log(joint / (share[:, None] * share)) / -np.log(joint)
    return Association(tuple(words), npmi, occurrences, n_windows, n_texts, n_tokens, window)


def _batches(texts: Iterable[Sequence[str]], place: Mapping[str, int], window: int) -> Iterator[tuple[Whole, Whole]]:
    """Yield numbers of the words of some texts, -1 for others, and how many words each text has."""
    held: list[Whole] = []
    size = 0
    for at, text in enumerate(texts):
        if isinstance(text, (str, bytes)):
            msg = f"texts must be sequences of words; text {at} is a string: split it first"
            raise InvalidInputError(msg)
        if len(text):
            held.append(np.fromiter((place.get(word, -1) for word in text), np.int64, len(text)))
            size += len(text)
        if size * window >= _BATCH:
            yield np.concatenate(held), np.array([len(each) for each in held], np.int64)
            held, size = [], 0
    if held:
        yield np.concatenate(held), np.array([len(each) for each in held], np.int64)


def _windows(ids: Whole, lengths: Whole, window: int, n: int) -> "csr_array[Any]":
    """Which words are in each window, (windows, n), sparse, of ones."""
    from scipy.sparse import csr_array

    starts, counts = np.cumsum(lengths) - lengths, np.maximum(lengths - window + 1, 1)
    known = np.flatnonzero(ids >= 0)
    text = np.repeat(np.arange(len(lengths)), lengths)[known]
    # A word at place p of its text is in the windows that begin at p - window + 1 to p, as far as there are any.
    first = (known - starts[text])[:, None] - np.arange(window)
    inside = (first >= 0) & (first < counts[text][:, None])
    rows = ((np.cumsum(counts) - counts)[text][:, None] + first)[inside]
    columns = np.broadcast_to(ids[known][:, None], first.shape)[inside]
    seen = csr_array((np.ones(len(rows), np.int64), (rows, columns)), shape=(int(counts.sum()), n))
    seen.sum_duplicates()
    seen.data[:] = 1
    return seen
