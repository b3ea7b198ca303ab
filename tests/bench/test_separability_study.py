"""The study of separability on small made spaces whose answers are known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from bench.figures import separability as report
from bench.harness.study import Context, Unit
from bench.inputs import spaces as inputs
from bench.studies import separability
from geomkit import datasets
from geomkit.datasets import corpora, tfidf, word2vec
from geomkit.datasets.corpora import Corpus
from geomkit.datasets.record import Vectors
from geomkit.datasets.word2vec import WordVectors
from tests.bench.answering import answer


def context_of(out, *, quick=False):
    return Context("separability", out, quick=quick)


def space(name="lsa-50", family="tfidf", n=160, d=12, apart=3.0, corpus="bbc", seed=0):
    rng = np.random.default_rng(seed)
    of = rng.integers(0, 3, n)
    x = (rng.standard_normal((n, d)) + apart * rng.standard_normal((3, d))[of]).astype(np.float32)
    labels = np.array([f"topic {each}" for each in of])
    return separability.Space(name, family, corpus, x, labels, np.arange(100), np.arange(100, n), n, 0.0)


def test_a_run_leaves_every_space_beside_its_nulls(tmp_path, monkeypatch, capsys):
    spaces = [
        space(),
        space("smollm2-documents-layer16-576", "llm", seed=1),
        space("noise-12", "word2vec", apart=0.0, corpus="20newsgroups"),
    ]
    at = {each.source: each for each in spaces}
    monkeypatch.setattr(separability, "space_of", lambda name, _: at[name])
    study = replace(separability.STUDY, units=lambda _: [Unit(each.source) for each in spaces])
    context = context_of(tmp_path)

    assert answer(study, context) == ["separability.csv", "separability.svg", "separability_curve.csv"]

    table, curve = (pd.read_csv(tmp_path / name) for name in ("separability.csv", "separability_curve.csv"))
    assert table.source.tolist() == [each.source for each in spaces]
    assert (table.accuracy[:2] > 0.95).all()
    assert table.accuracy[2] < 0.6
    assert table.layer.isna().tolist() == [True, False, True]
    assert table.layer[1] == 16
    assert (table.ci_low <= table.accuracy).all()
    for name in ("majority", "shuffled", "random", "twonn", "participation_ratio", "effective_rank", "seconds"):
        assert table[name].notna().all()
    assert (table.participation_ratio[:2] < 5).all()
    assert set(curve.kind) == {"principal", "random"}
    assert len(curve) == 3 * 2 * 5
    assert "s a fit" in capsys.readouterr().err
    said = report.finding(table)
    assert "In 2 of 3 spaces" in said


@pytest.fixture
def articles(monkeypatch):
    """Sixty articles of three topics; each third one is an update of the one before."""
    rng = np.random.default_rng(0)
    words = [[f"{topic}{at}" for at in range(30)] for topic in "abc"]
    texts, topics = [], []
    for at in range(60):
        topic = at // 20
        text = list(rng.choice(words[topic], 15))
        if at % 3 == 1:
            text = [*texts[-1].split()[:-1], "update"]
            topic = (at - 1) // 20
        texts.append(" ".join(text))
        topics.append("abc"[topic])
    labels = tuple(f"{topic}/{at}" for at, topic in enumerate(topics))
    corpus = Corpus(tuple(texts), labels, np.array(topics), "", "", "")
    vocabulary = sorted({word for text in texts for word in text.split()})
    counts = np.array([[text.split().count(word) for word in vocabulary] for text in texts], float)
    unit = counts / np.linalg.norm(counts, axis=1, keepdims=True)
    found = Vectors(sparse.csr_array(unit), list(labels), corpus.categories, name="tfidf-bbc-12597", family="tfidf",
                    dim=len(vocabulary), origin="", licence="", seed=None, note="")  # fmt: skip
    monkeypatch.setattr(corpora, "bbc", lambda: corpus)
    monkeypatch.setattr(datasets, "load", lambda _: found)
    letters = WordVectors(tuple(vocabulary), np.random.default_rng(1).standard_normal((len(vocabulary), 5)))
    monkeypatch.setattr(word2vec, "googlenews", lambda: letters)
    monkeypatch.setattr(separability, "WORDS", ("googlenews-300",))
    return corpus, unit


def test_updates_of_an_article_are_on_its_side(tmp_path, monkeypatch, articles):
    corpus, unit = articles
    dense = Vectors(unit.astype(np.float32)[::-1], list(corpus.labels)[::-1], None, name="minilm-384", family="llm",
                    dim=unit.shape[1], origin="", licence="", seed=None, note="")  # fmt: skip
    monkeypatch.setattr(separability, "document_names", lambda _: ["minilm-384", "use-512"])
    monkeypatch.setattr(inputs, "left_out", lambda name, _: "no network" if name == "use-512" else "")
    monkeypatch.setattr(inputs, "load", lambda *_: dense)
    context = context_of(tmp_path)

    found = [
        separability.space_of(each.name, context)
        for each in separability.units(context)
        if each.name.startswith("bbc ")
    ]

    assert [each.source for each in found] == ["tfidf-bbc-12597", "googlenews-mean-300", "minilm-384"]
    tfidf_space = found[0]
    assert (unit[tfidf_space.test] @ unit[tfidf_space.train].T).max() < separability.NEAR
    naive = np.random.default_rng(0).permutation(60)
    assert (unit[naive[:15]] @ unit[naive[15:]].T).max() >= separability.NEAR
    for each in found:
        assert np.array_equal(each.train, tfidf_space.train)
        assert np.array_equal(each.test, tfidf_space.test)
        assert each.labels.tolist() == corpus.categories.tolist()
    assert found[2].vectors == pytest.approx(unit, abs=1e-6)  # rows by label, whatever their order
    text = corpus.texts[4].split()
    letters = word2vec.googlenews()
    rows = [letters.words.index(word) for word in text if word.isalpha()]
    assert found[1].vectors.shape == (60, 5)
    assert len(rows) <= len(text)


def test_words_are_averaged_and_unknown_ones_left_out(monkeypatch):
    known = WordVectors(("cat", "dog"), np.array([[1.0, 0.0], [0.0, 3.0]], np.float32))
    monkeypatch.setattr(word2vec, "glove", lambda: known)
    got = separability.mean_of_words("glove-50", ["Cat, dog! cat", "bird", "dog"])
    assert got == pytest.approx(np.array([[2 / 3, 1.0], [0, 0], [0, 3]]))


def test_newsgroups_keep_their_split_by_date(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    parts = [sparse.csr_array(np.maximum(rng.standard_normal((n, 30)), 0)) for n in (50, 40)]
    unit = [sparse.csr_array(x.toarray() / np.linalg.norm(x.toarray(), axis=1, keepdims=True)) for x in parts]
    topics = [rng.choice(["x", "y"], n) for n in (50, 40)]
    monkeypatch.setattr(tfidf, "newsgroups_split", lambda: tfidf.Split(unit[0], topics[0], unit[1], topics[1]))
    u, s, v = np.linalg.svd(unit[0].toarray(), full_matrices=False)
    monkeypatch.setattr(tfidf, "LSA_COMPONENTS", 20)
    monkeypatch.setattr(tfidf, "lsa", lambda dim: (u * s)[:, :dim])
    monkeypatch.setattr(separability, "LSA_DIMS", (4, 20))
    monkeypatch.setattr(separability, "WORDS", ())
    monkeypatch.setattr(separability, "MOST", 45)
    texts = {"train": ("a b",) * 50, "test": ("b",) * 40}
    monkeypatch.setattr(
        corpora, "newsgroups", lambda split: Corpus(texts[split], (), topics[split == "test"], "", "", "")
    )

    context = context_of(tmp_path)
    names = [each.name for each in separability.units(context) if each.name.startswith("20newsgroups ")]
    found = [separability.space_of(name, context) for name in names]

    assert [each.source for each in found] == [f"tfidf-documents-{tfidf.TERMS}", "lsa-4", "lsa-20"]
    whole = found[0]
    assert (len(whole.train), len(whole.test), whole.n_given) == (45, 40, 90)
    earlier = {row.tobytes() for row in unit[0].toarray()}
    rows = whole.vectors.toarray()
    assert all(rows[at].tobytes() in earlier for at in whole.train)
    assert not any(rows[at].tobytes() in earlier for at in whole.test)
    # What was fitted to the earlier part is applied to the later one.
    assert found[2].vectors == pytest.approx(rows @ v[:20].T, abs=1e-9)
    assert found[1].vectors == pytest.approx(rows @ v[:4].T, abs=1e-9)


def test_the_plan_has_every_other_layer_and_the_encoders(tmp_path):
    names = separability.document_names(context_of(tmp_path))
    assert {"minilm-384", "use-512", "smollm2-documents-layer00-576", "smollm2-documents-layer30-576"} <= set(names)
    assert "smollm2-documents-layer01-576" not in names
    assert not any("-tokens-" in name or "-input-" in name for name in names)
    every = separability.document_names(replace(context_of(tmp_path), everything=True))
    assert "smollm2-documents-layer01-576" in every


def test_units_are_the_spaces_of_each_corpus(tmp_path):
    found = separability.units(context_of(tmp_path, quick=True))
    assert [(each.name, each.sources[0]) for each in found] == [
        ("bbc tfidf-bbc-12597", "tfidf-bbc-12597"),
        ("bbc googlenews-mean-300", "googlenews-300"),
        *(
            (f"bbc smollm2-documents-layer{layer}-576", f"smollm2-documents-layer{layer}-576")
            for layer in ("00", "16", "30")
        ),
    ]
    names = [each.name for each in separability.units(context_of(tmp_path))]
    assert len(set(names)) == len(names)
    assert names[-7:] == [
        "20newsgroups tfidf-documents-30925", "20newsgroups lsa-50", "20newsgroups lsa-300", "20newsgroups lsa-1024",
        "20newsgroups googlenews-mean-300", "20newsgroups glove-mean-50", "20newsgroups skipgram-mean-300",
    ]  # fmt: skip
    assert not any("gpt2" in name for name in names)


def test_a_unit_gives_the_same_whatever_was_measured_before(tmp_path, monkeypatch, articles):
    turn = np.random.default_rng(2).standard_normal((articles[1].shape[1], 9))
    monkeypatch.setattr(separability, "mean_of_words", lambda *_: (articles[1] @ turn).astype(np.float32))
    context = context_of(tmp_path)
    two = separability.units(context)[:2]
    found = [{each.name: separability.measure(context, each) for each in order} for order in (two, two[::-1])]
    for name, tables in found[0].items():
        for file, table in tables.items():
            pd.testing.assert_frame_equal(
                table.drop(columns="seconds", errors="ignore"),
                found[1][name][file].drop(columns="seconds", errors="ignore"),
            )


def test_a_figure_without_curves_says_what_there_is():
    row = {
        "ci_low": 0.1,
        "majority": 0.5,
        "shuffled_max": 0.4,
        "random_ci_high": 0.4,
        "accuracy": 0.2,
        "fewest": np.nan,
    }
    assert report.finding(pd.DataFrame([row])).startswith("In 0 of 1 spaces")
