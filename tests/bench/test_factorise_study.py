"""The study of factorisation on a small made corpus, its intervals and exchanges by hand, and its figure."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.sparse import csr_array

from bench.figures import factorise as report
from bench.harness.study import Context
from bench.studies import factorise as study
from geomkit.datasets import corpora, word2vec
from geomkit.datasets.word2vec import WordVectors
from geomkit.interpret.cooccurrence import Cooccurrence
from geomkit.interpret.factorise import factorise, pmi
from tests.bench.answering import answer

WORDS = [f"w{at}" for at in range(60)]


def texts(n=120, seed=0):
    """Texts of 40 words from one of twelve topics."""
    rng = np.random.default_rng(seed)
    share = np.full((12, 60), 0.3)
    for topic in range(12):
        share[topic, 5 * topic : 5 * topic + 5] = 20
    share /= share.sum(axis=1, keepdims=True)
    return [" ".join(rng.choice(WORDS, 40, p=share[at % 12])) for at in range(n)]


@pytest.fixture
def judged(monkeypatch):
    """People who find two words of one topic alike."""
    rng = np.random.default_rng(1)
    pairs = [
        (int(a), int(b))
        for a, b in np.vstack(
            [rng.integers(0, 60, (60, 2)), rng.integers(0, 60, 30)[:, None] // 5 * 5 + rng.integers(0, 5, (30, 2))]
        )
        if a != b
    ]
    known = [(f"W{a}", f"w{b}", 5.0 * (a // 5 == b // 5) + rng.random()) for a, b in pairs]
    monkeypatch.setattr(corpora, "wordsim353", lambda: [*known, ("unheard", "w1", 3.0)])
    monkeypatch.setattr(corpora, "simlex999", lambda: [("w1", "w2", 3.0), ("unheard", "w1", 3.0)])
    return known


def context_of(out):
    return Context("factorise", out, quick=True)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path / "cache"))


def test_a_run_leaves_every_space_between_floor_and_ceiling(cache, tmp_path, monkeypatch, capsys, judged):
    monkeypatch.setattr(corpora, "newsgroups", lambda _: SimpleNamespace(texts=texts()))
    monkeypatch.setattr(study, "DIMS_QUICK", (8,))
    monkeypatch.setattr(study, "SEEN", 1.0)
    context = context_of(tmp_path)

    assert answer(study.STUDY, context) == ["factorise.csv", "factorise.svg", "factorise_cost.csv"]

    table, costs = (pd.read_csv(tmp_path / name) for name in ("factorise.csv", "factorise_cost.csv"))
    svd = table[table.space == "ppmi-svd"]
    spaces = ["skip-gram", "skip-gram, other seed", "skip-gram, rows shuffled", "ppmi-svd"]
    assert list(table.space.unique()) == spaces
    assert set(zip(svd["shift"], svd.power, strict=True)) == {(k, p) for k in (1, 5) for p in (0, 0.5, 1)}
    at = table.set_index(["space", "statistic"]).value
    for statistic in ("neighbours at 10", "cka", "procrustes", "w·c with PMI"):
        low, high = at["skip-gram, rows shuffled", statistic], at["skip-gram, other seed", statistic]
        assert low < high
    known = svd[svd.statistic == "wordsim353"]
    assert known.value.max() > 0.4
    assert (known.n == len(judged)).all()
    assert (known.left_out == 1).all()
    few = table[table.statistic == "simlex999"]
    assert few.value.isna().all()
    assert few.note.str.contains("1 pairs are known").all()
    floor = table[(table.space == "skip-gram, rows shuffled") & (table.statistic == "wordsim353")].iloc[0]
    assert floor.low < 0 < floor.high
    assert abs(floor.value) < 0.05  # the mean of many orders
    measured = table[table.value.notna()]
    assert (measured.low <= measured.value + 1e-9).all()
    assert (measured.value <= measured.high + 1e-9).all()
    assert list(costs.what) == ["counts", "SVD, shift 1", "SVD, shift 5", "skip-gram"]
    assert costs.seconds_ahead.to_numpy() == pytest.approx(costs.seconds.to_numpy() * 1e9 / 4800, rel=1e-5)
    assert "at that rate" in capsys.readouterr().err


def test_dimensions_share_their_counts_and_no_draw(cache, tmp_path, monkeypatch, judged):
    monkeypatch.setattr(corpora, "newsgroups", lambda _: SimpleNamespace(texts=texts()))
    monkeypatch.setattr(study, "DIMS_QUICK", (4, 8))
    monkeypatch.setattr(study, "SHUFFLES", 5)
    monkeypatch.setattr(study, "RESAMPLES", 51)
    context = context_of(tmp_path)
    units = study.units(context)
    assert [each.name for each in units] == ["4 dimensions", "8 dimensions"]
    assert [each.sources for each in study.units(Context("factorise", tmp_path))] == [
        ("skipgram-50",), ("skipgram-100",), ("skipgram-300",),
    ]  # fmt: skip

    found = [{each.name: study.measure(context, each) for each in order} for order in (units[::-1], units)]

    for name, tables in found[0].items():
        pd.testing.assert_frame_equal(tables["factorise.csv"], found[1][name]["factorise.csv"])
    # Counts and decompositions are of all dimensions, and are made once.
    costs = [found[at]["4 dimensions"]["factorise_cost.csv"] for at in (0, 1)]
    assert costs[0].what.tolist() == ["counts", "SVD, shift 1", "SVD, shift 5", "skip-gram"]
    assert costs[0].seconds[1:3].tolist() == costs[1].seconds[1:3].tolist()
    assert found[0]["8 dimensions"]["factorise_cost.csv"].what.tolist() == ["skip-gram"]


def test_a_decomposition_is_kept_as_it_was_made(cache):
    counts = csr_array(np.random.default_rng(0).integers(1, 9, (60, 60)).astype(float))
    seen = Cooccurrence(tuple(WORDS), np.arange(60, 0, -1), counts, 5, True, 0.0, 5, 999, 0.0)
    made, seconds = study.decomposed(seen, 1, 6, 3)
    again, same = study.decomposed(seen, 1, 6, 3)
    want = factorise(pmi(counts, alpha=study.ALPHA, shift=1, contexts=seen.occurrences), 6, seed=3, words=seen.words)
    for each in (made, again):
        assert each.to_dict() == want.to_dict()
        for name in ("left", "singular_values", "right"):
            np.testing.assert_array_equal(getattr(each, name), getattr(want, name))
    assert seconds == same > 0
    assert study.decomposed(seen, 5, 6, 3)[1] != seconds


def test_resamples_give_spearman_and_the_same_pairs_for_all():
    rng = np.random.default_rng(3)
    close, people = rng.random(50), rng.integers(0, 5, 50).astype(float)
    value, drawn = study._resampled(close, people, 7)
    assert value == pytest.approx(stats.spearmanr(close, people).statistic)
    assert len(drawn) == study.RESAMPLES - 1
    assert drawn.std() == pytest.approx(1 / math.sqrt(50), rel=0.25)
    assert np.array_equal(study._resampled(np.exp(close), people, 7)[1], drawn)
    assert study._resampled(people, people, 7)[1] == pytest.approx(np.ones(study.RESAMPLES - 1))


def test_judged_spaces_are_scored_beside_skip_gram_on_the_same_pairs(judged):
    rng = np.random.default_rng(4)
    vectors, reference = rng.random((60, 5)), rng.random((60, 5))

    def spearman(x):
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        close = [unit[int(a[1:])] @ unit[int(b[1:])] for a, b, _ in judged]
        return stats.spearmanr(close, [score for *_, score in judged]).statistic

    rows = study._judged(("ppmi-svd", 5, 1.0, 0.5), vectors, reference, WORDS, 0, shuffles=0)
    assert [row.statistic for row in rows[:2]] == ["wordsim353", "wordsim353 less skip-gram"]
    assert rows[0].value == pytest.approx(spearman(vectors))
    assert rows[1].value == pytest.approx(spearman(vectors) - spearman(reference))
    assert rows[1].low < rows[1].value < rows[1].high
    same = study._judged(("skip-gram", 5, 1.0, 0.5), reference, reference, WORDS, 0, shuffles=0)
    assert (same[1].value, same[1].low, same[1].high) == (0, 0, 0)


def test_aligned_spaces_are_those_of_the_most_frequent_words(monkeypatch):
    monkeypatch.setattr(study, "FREQUENT", 60)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 6))
    y = x @ np.linalg.qr(rng.standard_normal((6, 6)))[0]
    y[60:] = rng.standard_normal((140, 6))
    rows = {row.statistic: row for row in study._aligned(("ppmi-svd", 6, 1.0, 0.5), y, x, 0)}
    assert {name: row.value for name, row in rows.items()} == pytest.approx(
        {"neighbours at 10": 1.0, "cka": 1.0, "procrustes": 1.0}
    )
    assert {row.n for row in rows.values()} == {60}
    assert rows["neighbours at 10"].note == "chance 0.169"
    other = study._aligned(("ppmi-svd", 6, 1.0, 0.5), rng.standard_normal((200, 6)), x, 0)
    assert other[0].value == pytest.approx(10 / 59, abs=0.06)
    assert other[1].low < 0 < other[1].high


def test_products_are_held_against_pmi_by_word():
    rng = np.random.default_rng(2)
    counts = np.triu(rng.integers(0, 40, (50, 50))).astype(float)
    counts += counts.T
    occurrences = np.sort(rng.integers(20, 300, 50))[::-1]
    seen = Cooccurrence(tuple(WORDS[:50]), occurrences, csr_array(counts), 5, True, 0.0, 5, 999, 0.0)
    shift = study.SHIFTS[-1]
    target = pmi(seen.counts, alpha=0.75, shift=shift, positive=False, contexts=occurrences).toarray()
    exact = np.where(counts > 0, target, 0)
    # Vectors whose products are exactly half of what the theory says, and a number a word besides.
    vectors, contexts = np.hstack([exact / 2, rng.random((50, 1))]), np.hstack([np.eye(50), np.ones((50, 1))])
    found = {shift: factorise(pmi(seen.counts), 20, seed=0, words=seen.words)}
    rows = study._theory(20, study.Trained(vectors, contexts, 0.0), found, seen, 0)
    got = {(row.space, row.statistic): row for row in rows}
    assert got["skip-gram, other seed", "w·c with PMI"].value == pytest.approx(1)
    assert got["skip-gram, other seed", "slope of w·c on PMI"].value == pytest.approx(0.5)
    floor = got["skip-gram, rows shuffled", "w·c with PMI"]
    assert floor.value < 0.5
    assert floor.low < floor.value < floor.high
    assert floor.n == 50
    assert 0 < got["ppmi-svd", "w·c with PMI"].value < 1
    assert f"{int((counts >= study.SEEN).sum()):,} pairs" in floor.note


def test_too_few_words_for_the_theory_are_a_row_that_says_so():
    counts = csr_array(np.full((12, 12), 9.0) - 8 * np.eye(12))
    seen = Cooccurrence(tuple(WORDS[:12]), np.full(12, 9), counts, 5, True, 0.0, 5, 999, 0.0)
    seen.counts[0, 1:] = 1
    vectors = np.ones((12, 2))
    found = {study.SHIFTS[-1]: factorise(pmi(csr_array(np.eye(12))), 2, seed=0)}
    rows = study._theory(2, study.Trained(vectors, vectors, 0.0), found, seen, 0)
    assert all(math.isnan(row.value) for row in rows)
    assert "not measured: 0 words meet 10 others" in rows[0].note


def test_contexts_are_exchanged_among_words_of_about_one_frequency():
    order = study._exchanged(47, np.random.default_rng(0))
    assert sorted(order) == list(range(47))
    assert (order // study.BLOCK == np.arange(47) // study.BLOCK).all()
    assert (order != np.arange(47)).mean() > 0.7


def test_correlations_by_word_are_those_of_numpy():
    rng = np.random.default_rng(5)
    row = np.repeat([3, 8, 11], [30, 12, 9])
    got, want = rng.random(51), rng.random(51)
    correlations, slopes = study._by_word(row, got, want)
    parts = [(got[row == word], want[row == word]) for word in (3, 8)]
    assert correlations == pytest.approx([np.corrcoef(a, b)[0, 1] for a, b in parts])
    assert slopes == pytest.approx([np.polyfit(b, a, 1)[0] for a, b in parts])


def test_training_is_kept_and_put_in_our_order(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path))
    sentences = [text.split() for text in texts(40)]
    calls = []
    train = study._train
    monkeypatch.setattr(study, "_train", lambda *a: calls.append(a) or train(*a))
    words = sorted(WORDS)
    first = study.skipgram(sentences, 4, 1, words, whole=True)
    again = study.skipgram(sentences, 4, 1, words, whole=True)
    assert len(calls) == 1
    assert np.array_equal(first.vectors, again.vectors)
    assert np.array_equal(first.contexts, again.contexts)
    assert first.seconds == again.seconds > 0
    plain = word2vec.train_skipgram(sentences, 4, seed=1)
    at = {word: row for row, word in enumerate(plain.words)}
    assert np.array_equal(first.vectors, plain.vectors[[at[word] for word in words]])
    study.skipgram(sentences, 4, 2, words, whole=True)
    study.skipgram(sentences[:-1], 4, 1, words, whole=True)
    assert len(calls) == 3
    monkeypatch.setattr(word2vec, "skipgram", lambda _: WordVectors(plain.words, plain.vectors))
    source = study.skipgram(sentences, 4, 0, words, whole=True)
    assert np.array_equal(source.vectors, first.vectors)
    assert source.contexts is None
    with pytest.raises(ValueError, match="must be the same"):
        study.skipgram(sentences, 4, 1, words[1:], whole=True)


def rows_of(overlap, cka, people=0.3):
    """A table of one dimension, floors at 0 and ceilings at 0.8."""
    values = {"neighbours at 10": overlap, "cka": cka, "wordsim353": people}
    spaces = {"skip-gram": 0.6, "skip-gram, other seed": 0.8, "skip-gram, rows shuffled": 0.0}
    rows = [(space, math.nan, math.nan, name, value) for space, value in spaces.items() for name in values]
    rows += [("ppmi-svd", 1.0, p, name, value * (1 - p)) for name, value in values.items() for p in (0.0, 0.5)]
    table = pd.DataFrame(rows, columns=["space", "shift", "power", "statistic", "value"])
    return table.assign(dim=50, low=table.value - 0.1, high=table.value + 0.1, n=100)


def test_the_verdict_is_the_way_from_floor_to_ceiling():
    found = report.best(rows_of(0.2, 0.4)).set_index("statistic")
    assert found.power.eq(0.0).all()
    assert found.reached.to_dict() == pytest.approx({"neighbours at 10": 0.25, "cka": 0.5, "wordsim353": 0.5})
    assert report.finding(rows_of(0.2, 0.4)).startswith(
        "The equivalence holds in part: 25 to 50\u00a0% of the way from floor to another seed; "
        "on people's judgements 50\u00a0% of skip-gram"
    )
    assert "The equivalence holds: " in report.finding(rows_of(0.75, 0.8))
    assert "holds in part: 70 to 75\u00a0%" in report.finding(rows_of(0.56, 0.6))
    assert "The equivalence does not hold: " in report.finding(rows_of(0.01, 0.02))
    assert "share of 10 neighbours kept 0.20 [0.00, 0.80]" in report.finding(rows_of(0.2, 0.4))
    assert "share of 10 neighbours kept 0.00 [" in report.finding(rows_of(-0.001, 0.4))
    figure = report.factorise(rows_of(0.2, 0.4))
    assert [axes.get_title(loc="left").split(" (")[0] for axes in figure.axes] == list(report._PANELS.values())
