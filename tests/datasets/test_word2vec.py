"""Word vectors mean what words do, and training them twice gives the same bits."""

import random

import numpy as np
import pytest
from scipy.stats import spearmanr

from geomkit.datasets import load, names
from geomkit.datasets.corpora import wordsim353
from geomkit.datasets.word2vec import train_skipgram


def unit(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def corpus() -> list[list[str]]:
    """Return sentences in which words of one half never meet those of the other."""
    draw = random.Random(0)
    return [draw.choices([f"{half}{i}" for i in range(10)], k=20) for half in "ab" for _ in range(150)]


@pytest.mark.real
def test_king_minus_man_plus_woman_is_queen():
    got = load("googlenews-300")
    x, at = unit(got.vectors), {word: i for i, word in enumerate(got.labels)}
    asked = unit((x[at["king"]] - x[at["man"]] + x[at["woman"]])[None])[0]
    cosines = x @ asked
    cosines[[at["king"], at["man"], at["woman"]]] = -1

    assert got.vectors.shape == (26_423, 300)
    assert got.labels[int(cosines.argmax())] == "queen"
    assert cosines.max() == pytest.approx(0.71, abs=0.005)


@pytest.mark.real
def test_googlenews_agrees_with_people_on_relatedness():
    got = load("googlenews-300")
    x, at = unit(got.vectors), {word: i for i, word in enumerate(got.labels)}
    known = [(x[at[a]] @ x[at[b]], score) for a, b, score in wordsim353() if a in at and b in at]

    assert len(known) > 250
    assert spearmanr(*zip(*known, strict=True)).statistic == pytest.approx(0.69, abs=0.02)


@pytest.mark.real
def test_glove_is_all_there():
    got = load("glove-50")

    assert got.vectors.shape == (400_000, 50)
    assert got.vectors.dtype == np.float32
    assert np.isfinite(got.vectors).all()
    assert len(set(got.labels)) == 400_000
    assert list(got.labels[:3]) == ["the", ",", "."]
    x, at = unit(got.vectors[:20_000]), {word: i for i, word in enumerate(got.labels[:20_000])}
    cosines = x @ x[at["monday"]]
    cosines[at["monday"]] = -1
    assert got.labels[int(cosines.argmax())] in {"tuesday", "wednesday", "thursday", "friday", "sunday"}


@pytest.mark.real
def test_a_sample_keeps_words_with_their_vectors():
    whole, some = load("googlenews-300"), load("googlenews-300", n=100, seed=4)
    at = {word: i for i, word in enumerate(whole.labels)}

    np.testing.assert_array_equal(some.vectors, whole.vectors[[at[word] for word in some.labels]])
    assert "100 of 26,423 rows sampled without replacement with seed 4" in some.note


def test_skipgram_sizes_are_offered():
    assert {"skipgram-50", "skipgram-100", "skipgram-200", "skipgram-300"} < set(names(family="word2vec"))


def test_skipgram_twice_is_the_same_to_the_bit():
    text = corpus() * 15  # gensim hands out 10,000 words at a time; workers could race for these nine pieces
    first, same, other = (train_skipgram(text, 16, seed=seed) for seed in (3, 3, 4))

    assert first.words == same.words
    assert first.vectors.tobytes() == same.vectors.tobytes()
    assert first.vectors.tobytes() != other.vectors.tobytes()
    assert first.vectors.shape == (20, 16)
    assert first.vectors.dtype == np.float32


def test_skipgram_brings_words_of_one_context_together():
    trained = train_skipgram(corpus(), 16, seed=0, epochs=20)
    x = unit(trained.vectors)
    half = np.array([word[0] for word in trained.words])
    cosines = x @ x.T
    same = half[:, None] == half[None]
    np.fill_diagonal(cosines, np.nan)

    assert np.nanmean(cosines[same]) > np.nanmean(cosines[~same]) + 0.2


def test_skipgram_reads_sentences_of_any_length():
    long = [word for sentence in corpus() for word in sentence] * 3
    late = [*long, *["zeta", "eta"] * 20]
    assert len(long) > 10_000

    assert {"zeta", "eta"} < set(train_skipgram([late], 8, seed=0, epochs=1).words)
