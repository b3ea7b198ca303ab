"""Association of words against windows cut out by hand, and against gensim."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geomkit.errors import InvalidInputError
from geomkit.interpret import npmi
from geomkit.interpret.coherence import coherence
from geomkit.interpret.npmi import association

WORDS = tuple("abcdefgh")


def made(n=40, seed=0, longest=60):
    """Texts of few words, many of them twice in a window, some shorter than a window and one empty."""
    rng = np.random.default_rng(seed)
    lengths = [0, 1, 3, 10, 11, *rng.integers(1, longest, n)]
    return [rng.choice([*WORDS, "unknown", "other"], int(length)).tolist() for length in lengths]


def cut(texts, window):
    """Every window, cut out by hand."""
    return [text[at : at + window] for text in texts if text for at in range(max(1, len(text) - window + 1))]


def by_hand(texts, words, window):
    """NPMI from sets, pair by pair."""
    windows = [set(each) for each in cut(texts, window)]
    share = {word: sum(word in each for each in windows) / len(windows) for word in words}
    out = np.full((len(words), len(words)), np.nan)
    for (i, a), (j, b) in combinations(enumerate(words), 2):
        joint = sum(a in each and b in each for each in windows) / len(windows) + 1e-12
        out[i, j] = out[j, i] = math.log(joint / (share[a] * share[b])) / -math.log(joint)
    return len(windows), share, out


def gensims(texts, topics, window):
    """C_NPMI of topics by gensim."""
    from gensim.corpora import Dictionary
    from gensim.models import CoherenceModel

    asked = {"texts": texts, "dictionary": Dictionary(texts), "window_size": window, "processes": 1}
    return CoherenceModel(topics=topics, coherence="c_npmi", **asked).get_coherence_per_topic()


@pytest.mark.parametrize("window", [2, 3, 10, 70])
def test_matches_sets_of_words(window):
    texts = made()
    found = association(texts, WORDS, window=window)
    windows, share, want = by_hand(texts, WORDS, window)
    assert (found.n_windows, found.window) == (windows, window)
    assert (found.n_texts, found.n_tokens) == (len(texts) - 1, sum(map(len, texts)))
    assert found.occurrences.tolist() == [round(share[word] * windows) for word in WORDS]
    off = ~np.eye(len(WORDS), dtype=bool)
    np.testing.assert_allclose(found.npmi[off], want[off], rtol=1e-12)
    np.testing.assert_array_equal(found.npmi, found.npmi.T)
    assert found.to_dict() == {"n_windows": windows, "n_texts": len(texts) - 1, "n_tokens": found.n_tokens,
                               "window": window}  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12))
def test_batches_do_not_change_it(seed, window):
    texts = [[*WORDS], *made(12, seed)]
    whole = association(texts, WORDS, window=window)
    before, npmi._BATCH = npmi._BATCH, 37
    try:
        found = association(iter(texts), WORDS, window=window)
    finally:
        npmi._BATCH = before
    np.testing.assert_array_equal(found.npmi, whole.npmi)
    np.testing.assert_array_equal(found.occurrences, whole.occurrences)
    assert found.to_dict() == whole.to_dict()


def test_is_gensims_coherence_where_every_window_is_a_text():
    texts = made(60, seed=1)
    found = association(texts, WORDS, window=10)
    topics = np.array([[0, 1, 2, 3, 4], [7, 6, 5, 4, 3], [0, 2, 4, 6, 7]])
    named = [[WORDS[at] for at in topic] for topic in topics]
    np.testing.assert_allclose(coherence(found.npmi, topics), gensims(cut(texts, 10), named, 10), atol=1e-13)


def test_is_gensims_coherence_of_texts_in_which_no_window_has_a_word_twice():
    rng = np.random.default_rng(2)
    filler = [f"x{at}" for at in range(40)]
    texts = [list(rng.permutation([*WORDS, *filler])[:25]) for _ in range(80)]
    found = association(texts, WORDS, window=10)
    topics = np.array([[0, 1, 2], [5, 6, 7]])
    named = [[WORDS[at] for at in topic] for topic in topics]
    np.testing.assert_allclose(coherence(found.npmi, topics), gensims(texts, named, 10), atol=1e-13)


def test_gensim_loses_a_word_that_stands_twice_in_a_window():
    """Why counts are our own; once gensim counts these too, the notes can say so."""
    text = ["a", "a", "b", "x", "a", "b"]
    found = association([text], ("a", "b"), window=3)
    assert found.occurrences.tolist() == [4, 4]  # aab, abx, bxa, xab
    ours = float(coherence(found.npmi, np.array([0, 1])))
    assert gensims(cut([text], 3), [["a", "b"]], 3) == pytest.approx([ours])
    assert gensims([text], [["a", "b"]], 3) != pytest.approx([ours], abs=1e-3)


def test_unseen_pairs_and_constant_companions():
    texts = [["a", "b"], ["a", "b"], ["c"], ["d"]]
    found = association(texts, ("a", "b", "c"), window=2).npmi
    assert found[0, 1] == pytest.approx(1)
    assert found[0, 2] == pytest.approx((math.log(1e-12) - math.log(0.5 * 0.25)) / -math.log(1e-12))


@pytest.mark.parametrize(
    ("texts", "words", "more", "said"),
    [
        ([["a", "b"]], ("a", "a"), {}, "each once; got 2, of which 1 differ"),
        ([["a", "b"]], ("a",), {}, "words must be two or more"),
        ([["a", "b"]], ("a", "b", "zebra"), {}, r"words has 1 that do not occur in texts \(first: zebra\)"),
        ([["a", "b"], "a b"], ("a", "b"), {}, "text 1 is a string: split it first"),
        ([["a", "b"]], ("a", "b"), {"window": 1}, "window must be a whole number of at least 2"),
        ([], ("a", "b"), {}, "texts has no words"),
    ],
)  # fmt: skip
def test_refuses(texts, words, more, said):
    with pytest.raises(InvalidInputError, match=said):
        association(texts, words, **more)
