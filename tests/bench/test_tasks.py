"""Word similarity, analogies and retrieval against answers worked out by hand."""

import numpy as np
import pytest
from scipy import sparse

from bench.measures import tasks
from bench.measures.intervals import bootstrap, jackknife
from geomkit.datasets import Vectors


def made(vectors, labels, categories=None):
    return Vectors(
        vectors, labels, categories, name="toy-2", family="word2vec", dim=vectors.shape[1],
        origin="", licence="", seed=None, note="",
    )  # fmt: skip


def by_metric(scores):
    return {score.metric: score for score in scores}


@pytest.mark.filterwarnings("ignore::scipy.stats.ConstantInputWarning")  # resamples of three pairs
def test_word_similarity_ranks_by_each_metric():
    # b is about a made ten times longer; c is nearest to a; d points elsewhere but is long.
    found = made(np.array([[1, 0], [10, 0.1], [0.9, 0.5], [2, 40]], np.float32), ["a", "b", "c", "d"])
    pairs = [("A", "b", 9.0), ("a", "c", 5.0), ("a", "d", 1.0), ("a", "missing", 3.0)]

    scores = by_metric(tasks.word_similarity(found, "toy", pairs, seed=0))

    assert scores["cosine"].value == pytest.approx(1.0)
    assert scores["dot"].value == pytest.approx(0.5)
    assert scores["euclidean"].value == pytest.approx(0.5)
    assert {(s.items, s.left_out) for s in scores.values()} == {(3, 1)}


def test_analogies_do_not_answer_with_the_question():
    # b - a + c = (1, 2) lies nearest c itself, which is no answer.
    x = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 1.2], [0.9, 2.6], [-1.0, 0.0]], np.float32)
    found = made(x, ["man", "king", "woman", "queen", "other"])
    questions = [("man", "king", "woman", "queen"), ("man", "king", "woman", "other"), ("man", "king", "x", "queen")]

    scores = by_metric(tasks.analogies(found, questions, seed=0))

    assert {metric: score.value for metric, score in scores.items()} == dict.fromkeys(tasks.METRICS, 0.5)
    assert {(s.items, s.left_out, s.chance) for s in scores.values()} == {(2, 1, 0.5)}


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array])
def test_retrieval_finds_separated_topics_and_not_mixed_ones(layout):
    rng = np.random.default_rng(0)
    topics = np.repeat(["x", "y"], 40)
    centres = np.where(topics[:, None] == "x", [[5.0, 0, 0]], [[0, 5.0, 0]])
    x = (centres + 0.1 * rng.standard_normal((80, 3))).astype(np.float32)

    apart = by_metric(tasks.retrieval(made(layout(x), list(map(str, range(80))), topics), seed=0))
    mixed = by_metric(tasks.retrieval(made(layout(x), list(map(str, range(80))), rng.permutation(topics)), seed=0))

    for metric in tasks.METRICS:
        assert apart[metric].value == 1.0
        assert apart[metric].chance == pytest.approx(39 / 79)
        assert abs(mixed[metric].value - 39 / 79) < 0.12


def test_jackknife_of_a_mean_is_its_standard_error():
    x = np.random.default_rng(0).standard_normal((4000, 1))
    value, se = jackknife(x, lambda rows: float(rows.mean()), seed=1)
    assert value == x.mean()
    assert se == pytest.approx(1 / np.sqrt(4000), rel=0.5)


def test_bootstrap_covers_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(100):
        low, high = bootstrap(rng.standard_normal(100), lambda v: float(v.mean()), seed)
        hits += low <= 0 <= high
    assert 86 <= hits <= 100
