"""The study of interpretability on small made spaces, its common vocabulary and intervals by hand, and its figure."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from bench.figures import interpret as report
from bench.harness.study import Context
from bench.inputs import words as word_spaces
from bench.inputs.words import Reading, Size, Space
from bench.studies import interpret as study
from geomkit.datasets import corpora, word2vec
from geomkit.datasets.corpora import Corpus
from geomkit.datasets.record import Vectors
from geomkit.datasets.word2vec import WordVectors
from geomkit.interpret.activations import Activations
from geomkit.interpret.npmi import association
from tests.bench.answering import answer

TOPICS, EACH = 24, 12
N = TOPICS * EACH
WORDS = tuple(f"w{at}" for at in range(N))
TOPIC = np.repeat(np.arange(TOPICS), EACH)


def context_of(out, *, quick=True):
    return Context("interpret", out, quick=quick)


def spaces():
    """Axes that are topics, the same ones turned, and noise."""
    rng = np.random.default_rng(0)
    axes = 3 * np.eye(TOPICS)[TOPIC] + 0.3 * np.abs(rng.standard_normal((N, TOPICS)))
    turn = np.linalg.qr(rng.standard_normal((TOPICS, TOPICS)))[0]
    blurred = 0.6 * axes @ turn + 0.6 * rng.standard_normal((N, TOPICS))
    return [
        Space("random", "random", "", "random", rng.standard_normal((N, 30)), both=True),
        Space("tfidf bbc", "tfidf", "High", "tfidf", sparse.csr_array(axes), both=False, probe="tfidf-bbc-12597"),
        Space("googlenews", "word2vec", "Medium", "googlenews", blurred, both=True, probe="googlenews-mean-300"),
        Space("smollm2 layer 16", "llm", "Low", "smollm2", rng.standard_normal((N, 40)), both=True),
        Space("sae of layer 16", "llm", "", "smollm2", sparse.csr_array(axes), both=False),
    ]  # fmt: skip


def judges():
    same = (TOPIC[:, None] == TOPIC).astype(float)
    bumps = np.random.default_rng(1).random((N, N)) / 10
    return {"npmi": same, "glove": same + bumps + bumps.T}


PROBES = pd.DataFrame(
    {
        "corpus": ["20newsgroups", "bbc", "bbc"], "source": ["tfidf-bbc-12597"] * 2 + ["googlenews-mean-300"],
        "accuracy": [0.1, 0.9, 0.8], "ci_low": [0, 0.85, 0.7], "ci_high": [1, 0.95, 0.9],
    }
)  # fmt: skip


@pytest.fixture
def judged(monkeypatch):
    """People who find two words of one topic alike."""
    rng = np.random.default_rng(1)
    pairs = [(int(a), int(b)) for a, b in rng.integers(0, N, (20, 2))] + [(at, at + 1) for at in range(0, N, EACH)]
    known = [(f"W{a}", f"w{b}", 5.0 * (a // EACH == b // EACH) + rng.random()) for a, b in pairs if a != b]
    monkeypatch.setattr(corpora, "wordsim353", lambda: [*known, ("unheard", "w1", 3.0)])
    monkeypatch.setattr(corpora, "simlex999", lambda: [("w1", "w2", 3.0), ("unheard", "w1", 3.0)])
    return known


NAMES = ("interpret", "interpret_ranking", "interpret_use", "interpret_tradeoff", "interpret_words")


@pytest.fixture
def ran(tmp_path, monkeypatch, capsys, judged):
    """A run's files, its tables by name, and what it said."""
    monkeypatch.setattr(study, "prepared", lambda *_: (spaces(), WORDS, judges(), np.arange(N)))
    PROBES.to_csv(tmp_path / "separability.csv", index=False)
    context = context_of(tmp_path)
    files = answer(study.STUDY, context)
    tables = {name: pd.read_csv(tmp_path / f"{name}.csv") for name in NAMES}
    return files, tables, capsys.readouterr().err


def scored(table):
    """Rows of the judge who knows the topics, of spaces as they are."""
    return table[(table.judge == "npmi") & (table.form == "as it is")].set_index(["space", "statistic"])


def test_a_run_leaves_every_space_beside_floor_and_null(ran):
    files, tables, _ = ran
    table = tables["interpret"]
    assert files == sorted([*(f"{name}.csv" for name in NAMES), "interpret.svg", "interpret_similarity.csv"])
    assert len(table) == 5 * 3 * 2 * 2
    assert (table.low <= table.value).all()
    assert (table.value <= table.high).all()
    np.testing.assert_allclose(table.gain, table.value - table.null, atol=1e-6)
    assert (table.gain_low <= table.gain).all()
    mine = scored(table)
    assert mine.value["tfidf bbc", "coherence"] > 0.95
    assert mine.value["tfidf bbc", "intrusion"] > 0.95
    assert mine.chance["tfidf bbc", "intrusion"] == pytest.approx(1 / 6)
    assert math.isnan(mine.chance["tfidf bbc", "coherence"])
    assert mine.gain_low["random", "coherence"] < 0 < mine.gain_high["random", "coherence"] + 0.02
    assert mine.random["tfidf bbc", "coherence"] == mine.value["random", "coherence"]
    assert mine.ends["tfidf bbc", "coherence"] == 1
    assert mine.ends["googlenews", "coherence"] == 2
    assert set(table.ends[table.form == "rotated"]) == {2}


def test_a_run_compares_spaces_and_forms(ran):
    ranking, mine = ran[1]["interpret_ranking"], scored(ran[1]["interpret"])
    found = ranking[(ranking.judge == "npmi") & (ranking.statistic == "coherence")]
    assert set(found.kind) == {"level", "level, unit rows", "rotation", "sae"}
    at_length_1 = found[found.kind == "level, unit rows"].set_index(["upper", "lower"])
    found = found[found.kind != "level, unit rows"].set_index(["upper", "lower"])
    assert at_length_1.difference["tfidf bbc", "googlenews"] != found.difference["tfidf bbc", "googlenews"]
    assert len(at_length_1) == 3
    assert found.claim["tfidf bbc", "smollm2 layer 16"] == "High over Low"
    assert found.low["tfidf bbc", "googlenews"] > 0
    assert found.low["sae of layer 16", "smollm2 layer 16"] > 0
    assert found.low["tfidf bbc", "tfidf bbc"] > 0
    assert found.low["random", "random"] < 0.02
    assert found.difference["googlenews", "googlenews"] != 0
    assert len(found) == 3 + 5 + 1
    gains = mine.gain["tfidf bbc", "coherence"] - mine.gain["googlenews", "coherence"]
    assert found.difference["tfidf bbc", "googlenews"] == pytest.approx(gains, abs=1e-6)


def test_a_run_holds_use_against_interpretability(ran):
    _, use, trade, shown = (ran[1][name] for name in NAMES[1:])
    mine = scored(ran[1]["interpret"])
    assert use.space.tolist() == [each.name for each in spaces()[1:]]
    assert use.probe[:2].tolist() == [0.9, 0.8]
    assert use.probe[2:].isna().all()
    assert use.wordsim353[0] > 0.5
    assert use.simlex999.isna().all()
    assert set(use.simlex999_pairs) == {1}
    assert use.coherence_npmi[0] == mine.value["tfidf bbc", "coherence"]
    assert use.coherence_npmi_gain[0] == mine.gain["tfidf bbc", "coherence"]
    assert set(trade.useful) == {"wordsim353", "simlex999", "probe"}
    assert trade[trade.useful == "wordsim353"].spaces.tolist() == [4] * 8
    assert trade[trade.useful == "wordsim353"].models.tolist() == [3] * 8
    assert trade.low.isna().all()  # of three models there is no interval
    assert shown.groupby(["space", "form"]).dimension.nunique().max() == study.SPEAK
    said = ran[2]
    assert "hours for 1,000,000 dimensions" in said
    assert "High over Medium in 1 of 1, reversed in 0" in said


def test_spaces_are_one_unit_and_probes_are_no_part_of_it(tmp_path, monkeypatch, judged):
    monkeypatch.setattr(study, "prepared", lambda *_: (spaces(), WORDS, judges(), np.arange(N)))
    context = context_of(tmp_path)
    (unit,) = study.units(context)
    assert unit.name == "all spaces"
    assert study.STUDY.reads == ("separability",)
    tables = study.measure(context, unit)  # there is no separability.csv
    assert list(tables) == [
        "interpret.csv", "interpret_ranking.csv", "interpret_similarity.csv", "interpret_words.csv",
    ]  # fmt: skip
    use = study.useful(tables["interpret.csv"], tables["interpret_similarity.csv"], PROBES.iloc[:2])
    assert use.probe.notna().tolist() == [True, False, False, False]
    assert "probed_as" not in use


def test_unit_rows():
    x = np.vstack([spaces()[1].vectors.toarray(), np.zeros(TOPICS)])
    want = np.vstack([x[:-1] / np.linalg.norm(x[:-1], axis=1, keepdims=True), np.zeros(TOPICS)])
    np.testing.assert_allclose(study.unit_rows(x), want)
    np.testing.assert_allclose(study.unit_rows(sparse.csr_array(x)).toarray(), want)


def test_the_verdict_counts_what_is_decided():
    rows = [
        ("High over Medium", "npmi", 0.1, 0.3), ("High over Medium", "npmi", -0.1, 0.3),
        ("Medium over Low", "npmi", -0.4, -0.2), ("High over Medium", "glove", -0.4, -0.2),
    ]  # fmt: skip
    ranking = pd.DataFrame(rows, columns=["claim", "judge", "low", "high"]).assign(kind="level", statistic="coherence")
    assert report.verdict(ranking) == (
        "High over Medium in 1 of 2, reversed in 0; Medium over Low in 0 of 1, reversed in 1; "
        "High over Low in 0 of 0, reversed in 0"
    )
    assert "High over Medium in 0 of 1, reversed in 1" in report.verdict(ranking, "glove")
    assert "High over Medium in 0 of 0" in report.verdict(ranking, kind="level, unit rows")


def test_word_similarity_is_spearmans(judged):
    vectors = spaces()[2].vectors
    value, low, high, known = study.word_similarity(vectors, WORDS, corpora.wordsim353(), 0)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    close = [float(unit[int(a[1:])] @ unit[int(b[1:])]) for a, b, _ in judged]
    assert known == len(judged)
    assert value == pytest.approx(stats.spearmanr(close, [score for *_, score in judged]).statistic)
    rng, again = np.random.default_rng(1), []
    for _ in range(300):
        at = rng.integers(0, known, known)
        again.append(stats.spearmanr(np.array(close)[at], np.array([score for *_, score in judged])[at]).statistic)
    assert (low, high) == pytest.approx(np.quantile(again, [0.025, 0.975]), abs=0.06)


LABELS = ("<s>", "Ġcat", "Ġdog", "s", "Ġsat", "Ċ", "Ġon", "Ġfish", ".", "é", "ĠCat", "Ġsun")


def read(*texts, d=4):
    """Activations of these tokens: the state of a token is its place in all texts."""
    tokens = np.array([LABELS.index(token) for text in texts for token in text])
    positions = np.concatenate([np.arange(len(text)) for text in texts])
    states = np.arange(len(tokens))[:, None] + np.zeros((1, d), np.float32)
    return Activations(
        model="m", key="k", layers=(16,), n_layers=30, n_texts=len(texts), n_truncated=0, tokens=tokens,
        texts=np.repeat(np.arange(len(texts)), [len(text) for text in texts]), positions=positions,
        states={16: states.astype(np.float32)},
    )  # fmt: skip


def test_words_are_whole_tokens_whose_end_is_known():
    states = read(
        ["Ġdog", "Ġcat", "s", "Ġcat", "Ċ", "Ġdog", "Ġsat", ".", "ĠCat"],
        ["<s>", "Ġcat", "Ġdog", "é", "Ġdog", "Ġon", "Ġfish"],
    )
    known = {"cat", "dog", "on", "fish", "sun", "sat", "unheard", "Cat"}
    found = word_spaces.common(LABELS, states, known, 1)
    # Not the dog that is a sink, cats, Cat, dogé, nor the fish that ends a text; no sun is read.
    assert found.words == ("cat", "dog", "on", "sat")
    assert found.tokens.tolist() == [1, 2, 6, 4]
    assert found.rows.tolist() == [3, 5, 6, 10, 13, 14]
    means = found.mean @ states.states[16][found.rows]
    np.testing.assert_allclose(means[:, 0], [(3 + 10) / 2, (5 + 13) / 2, 14, 6])
    assert word_spaces.common(LABELS, states, known, 2).words == ("cat", "dog")


def made_up(monkeypatch):
    """Sources of a few dozen words, in place of those that take minutes."""
    rng = np.random.default_rng(0)
    names = [a + b for a in "abcdefg" for b in "hijklm"]
    labels = ("<s>", ".", *(f"Ġ{name}" for name in names))
    texts = [["<s>", *(f"Ġ{name}" for name in rng.permutation(names)), "."] for _ in range(3)]
    tokens = [labels.index(token) for text in texts for token in text]
    states = {layer: rng.standard_normal((len(tokens), 6)).astype(np.float32) for layer in (8, 16, 24)}
    size = len(texts[0])

    def activations(_, given, layers, *, max_tokens):
        assert (given, max_tokens) == (("",), 77)
        return Activations(
            model="m", key="k", layers=tuple(layers), n_layers=30, n_texts=3, n_truncated=0, states=states,
            tokens=np.array(tokens), texts=np.repeat(np.arange(3), size), positions=np.tile(np.arange(size), 3),
        )  # fmt: skip

    said = tuple(" ".join(rng.choice(names, 30)) for _ in range(60))
    corpus = Corpus(said, said, np.array(["x"] * 60), "", "", "")
    monkeypatch.setattr(word_spaces, "activations", activations)
    monkeypatch.setattr(corpora, "bbc", lambda: corpus)
    monkeypatch.setattr(corpora, "newsgroups", lambda _: corpus)
    vectors = WordVectors(tuple(names), rng.standard_normal((len(names), 5)).astype(np.float32))
    for name in ("googlenews", "glove"):
        monkeypatch.setattr(word2vec, name, lambda: vectors)
    monkeypatch.setattr(word2vec, "skipgram", lambda _: vectors)
    table = rng.standard_normal((len(labels), 6)).astype(np.float32)
    found = Vectors(table, labels, None, "t", "llm", 6, "", "", None, "")
    monkeypatch.setattr(word_spaces.datasets, "load", lambda _: found)
    encode = SimpleNamespace(encode=lambda x: sparse.csr_array(np.maximum(x, 0)))
    reading = Reading(("",), 77, 16, lambda: encode)
    return names, table, labels, reading


@pytest.mark.parametrize("quick", [True, False])
def test_every_space_has_a_row_a_word(tmp_path, monkeypatch, capsys, quick):
    names, table, labels, reading = made_up(monkeypatch)
    monkeypatch.setattr(word_spaces, "FULL", Size(1, 1, 1, (8, 16, 24)))
    got, words, known, frequency = word_spaces.prepared(reading, context_of(tmp_path, quick=quick))
    assert set(words) <= set(names)
    assert len(words) > 10
    listed = ["random", "tfidf bbc", "tfidf newsgroups", "skipgram", "googlenews", "smollm2 input", "smollm2 layer 8",
              "smollm2 layer 16", "smollm2 layer 24", "sae of layer 16"]  # fmt: skip
    left_out = {"tfidf newsgroups", "smollm2 layer 8", "smollm2 layer 24"} if quick else set()
    assert [each.name for each in got] == [name for name in listed if name not in left_out]
    for each in got:
        assert each.vectors.shape[0] == len(words)
        given = each.vectors.toarray() if sparse.issparse(each.vectors) else each.vectors
        assert np.isfinite(given).all()
        assert each.both == bool((given < 0).any())
    at = {each.name: each for each in got}
    rows = [labels.index(f"Ġ{word}") for word in words]
    np.testing.assert_array_equal(at["smollm2 input"].vectors, table[rows])
    assert at["smollm2 layer 16"].probe == "smollm2-documents-layer16-576"
    assert at["tfidf bbc"].vectors.shape[1] == 60
    assert {known[name].shape for name in known} == {(len(words), len(words))}
    np.testing.assert_allclose(np.diag(known["glove"]), 1)
    assert frequency.shape == (len(words),)
    said = capsys.readouterr().err
    assert "hours for 1,000,000,000 words" in said
    assert "is gensim's to" in said


def test_a_coherence_that_is_not_gensims_stops_the_study(tmp_path, monkeypatch):
    texts = [list(np.random.default_rng(at).choice(["a", "b", *"cdefghijklmn"], 30)) for at in range(20)]
    words = sorted({word for text in texts for word in text})
    same, passing = word_spaces.against_gensim(texts, words, 0)
    assert same < 1e-12
    assert passing > 1e-3  # of fourteen words most windows have one twice
    real = association
    monkeypatch.setattr(word_spaces, "association", lambda *args: SimpleNamespace(
        **{name: getattr(real(*args), name) for name in ("n_windows", "n_tokens", "window")},
        npmi=real(*args).npmi + 1e-6, occurrences=None))  # fmt: skip
    with pytest.raises(RuntimeError, match="C_NPMI differs from gensim's by 1e-06"):
        word_spaces.counted(texts, words, context_of(tmp_path))
