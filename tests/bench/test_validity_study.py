"""The study of validity on small made sources whose answers are known."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from bench.inputs import spaces as inputs
from bench.inputs import versions
from bench.measures.association import within
from bench.studies import validity
from geomkit import datasets
from geomkit.datasets import Vectors, corpora
from geomkit.errors import InvalidInputError, SourceUnavailableError
from geomkit.stats.neighbors import neighbors
from tests.bench import answering


def made(name, family="tfidf", n=150, d=12, classes=3, apart=4.0, seed=0):
    """Clusters of one label each, further apart than they are wide."""
    rng = np.random.default_rng(seed)
    of = rng.integers(0, classes, n)
    x = rng.standard_normal((n, d)) + apart * rng.standard_normal((classes, d))[of]
    labels = np.array([f"topic {each}" for each in of]) if classes > 1 else None
    return Vectors(
        x.astype(np.float32), [f"word{row}" for row in range(n)], labels, name=name, family=family, dim=d,
        origin="", licence="", seed=None, note="",
    )  # fmt: skip


def context_of(out):
    return answering.context_of("validity", out, quick=True)


@pytest.fixture
def three_pairs(monkeypatch):
    monkeypatch.setattr(validity, "LEAST_PAIRS", 3)
    pairs = [("word1", "word2", 9.0), ("Word3", "word4", 5.0), ("word5", "word6", 1.0), ("word7", "unheard", 2.0)]
    monkeypatch.setattr(corpora, "wordsim353", lambda: pairs)


def test_a_run_leaves_every_space_and_every_association(tmp_path, monkeypatch, capsys, three_pairs):
    names = ("lsa-50", "minilm-384", "smollm2-documents-layer00-576")
    named = {name: made(name, seed=at) for at, name in enumerate(names)}
    named |= {"glove-50": made("glove-50", "word2vec", d=50, classes=1)}
    monkeypatch.setattr(validity, "planned", lambda _: [*named, "use-512"])

    def load(name, context):
        assert name == "glove-50"
        return named[name]

    def load_rows(name, context):
        assert name != "glove-50"
        return named[name]

    monkeypatch.setattr(inputs, "load", load)
    monkeypatch.setattr(inputs, "load_rows", load_rows)
    monkeypatch.setattr(inputs, "left_out", lambda name, _: "" if name in named else "no network")
    context = context_of(tmp_path)

    assert [(each.name, each.sources) for each in validity.units(context)] == [(name, (name,)) for name in named]
    assert answering.answer(replace(validity.STUDY, draw=None), context) == ["validity.csv", "validity_spaces.csv"]
    spaces, table = (pd.read_csv(tmp_path / name) for name in ("validity_spaces.csv", "validity.csv"))
    assert spaces.groupby("source").version.agg(list).map(len).to_dict() == dict.fromkeys(named, len(versions.VERSIONS))
    assert set(validity.PREDICTORS) | set(validity.OUTCOMES) <= set(spaces.columns)
    for outcome in ("hnsw_recall", "ivf_recall"):
        assert spaces[outcome].between(0.05, 1).all()
    documents = spaces[spaces.source != "glove-50"]
    plain = documents[documents.version == "as it is"]
    assert plain.same_label_rate.gt(0.9).all()
    assert plain.probe_accuracy.gt(0.9).all()
    noisy = documents[documents.version == "noisy"]
    assert noisy.same_label.mean() < plain.same_label.mean()
    assert spaces[spaces.source == "glove-50"].wordsim.notna().all()
    assert spaces[spaces.source == "glove-50"].same_label.isna().all()
    copies = documents[documents.version == "repeated"]
    assert copies.probe.isna().all()
    assert copies.note.str.contains("both sides").all()
    assert copies.duplicate_fraction.gt(0.3).all()
    assert list(table.outcome.unique()) == list(validity.OUTCOMES)
    assert list(table.statistic[: len(validity.PREDICTORS)]) == list(validity.PREDICTORS)
    assert table.n_groups.max() == 4
    assert table.low.isna().all()
    assert not table.holds.any()


def test_what_is_measured_is_what_the_library_says(tmp_path):
    found = made("toy-12")
    rows = validity.of_source(found, context_of(tmp_path))
    asked = validity.cut(found, 150, 0)

    assert asked.corpus.shape == (120, 12)
    assert asked.queries.shape == (30, 12)
    every = {tuple(row) for row in found.vectors}
    assert {tuple(row) for row in np.vstack([asked.corpus, asked.queries])} == every
    place = {tuple(row): label for row, label in zip(found.vectors, found.categories, strict=True)}
    assert [place[tuple(row)] for row in asked.corpus] == asked.labels.tolist()
    assert [place[tuple(row)] for row in asked.queries] == asked.query_labels.tolist()
    nearest = neighbors(asked.corpus, k=10)
    assert rows[0]["hubness_skewness"] == pytest.approx(
        stats.skew(np.bincount(nearest.indices.ravel(), minlength=120)), rel=1e-6
    )
    assert (rows[0]["n"], rows[0]["queries"], rows[0]["d"]) == (120, 30, 12)
    assert rows[0]["group"] == "toy"


def test_the_order_of_sources_does_not_matter(tmp_path, monkeypatch):
    named = {name: made(name, seed=at) for at, name in enumerate(("lsa-50", "minilm-384"))}
    monkeypatch.setattr(validity, "planned", lambda _: list(named))
    monkeypatch.setattr(inputs, "load_rows", lambda name, _: named[name])
    monkeypatch.setattr(inputs, "left_out", lambda *_: "")
    context = context_of(tmp_path)
    units = validity.units(context)
    found, again = ({each.name: validity.measure(context, each) for each in order} for order in (units, units[::-1]))
    for name in named:
        pd.testing.assert_frame_equal(found[name]["validity_spaces.csv"], again[name]["validity_spaces.csv"])


def test_scores_are_above_chance(tmp_path):
    found = made("toy-12", apart=0.5)
    row = validity.of_source(found, context_of(tmp_path))[0]
    asked = validity.cut(found, 150, 0)
    shares = {label: np.mean(asked.labels == label) for label in set(asked.labels)}
    chance = np.mean([shares[label] for label in asked.query_labels])
    assert chance < row["same_label_rate"] < 0.95
    assert row["same_label"] == pytest.approx((row["same_label_rate"] - chance) / (1 - chance))
    most = max(shares.values())
    assert row["probe"] == pytest.approx((row["probe_accuracy"] - most) / (1 - most))


def test_rows_and_labels_stay_together_where_rows_are_copied(tmp_path):
    found = made("toy-12", apart=40.0)
    rows = {row["version"]: row for row in validity.of_source(found, context_of(tmp_path))}
    # Labels of copies are those of what they copy, else a third of the neighbours would have another.
    assert rows["repeated"]["same_label_rate"] == pytest.approx(1.0)


def test_more_rows_than_are_wanted_are_sampled(tmp_path):
    assert validity.cut(made("toy-12", n=400), 150, 0).corpus.shape == (120, 12)


def test_same_label_is_counted_by_hand():
    labels, asked = np.array(["a", "a", "b", "b"]), np.array(["a", "b"])
    rate, chance = validity.same_label(labels, asked, np.array([[0, 1], [2, 0]]))
    assert rate == 0.75
    assert chance == 0.5


def test_word_similarity_is_spearman_of_cosine(three_pairs):
    found = made("glove-50", "word2vec", d=50, classes=1)
    asked = validity.cut(found, 100, 0)
    assert len(asked.words) == 6
    rows = [validity.tasks.index(found.labels)[f"word{at}"] for at in range(1, 7)]
    places = [place for a, b, _ in asked.pairs for place in (a, b)]
    assert (asked.words[places] == found.vectors[rows]).all()
    rng = np.random.default_rng(0)
    words = (rng.standard_normal((40, 5)) * rng.uniform(0.1, 10, (40, 1))).astype(np.float32)
    pairs = [(a, a + 20, float(a % 7)) for a in range(20)]
    x = words.astype(float)
    cosines = [x[a] @ x[b] / np.linalg.norm(x[a]) / np.linalg.norm(x[b]) for a, b, _ in pairs]
    value, why = validity.word_similarity(words, pairs)
    assert value == pytest.approx(stats.spearmanr(cosines, [judged for *_, judged in pairs]).statistic)
    assert why == ""
    value, why = validity.word_similarity(asked.words, asked.pairs[:2])
    assert math.isnan(value)
    assert "2 pairs" in why
    assert validity.word_similarity(asked.words, [])[1] == ""


def test_tokens_that_start_a_word_come_first():
    assert validity._place({"tiger": 3, "Ġtiger": 8}, "tiger") == 8
    assert validity._place({"tiger": 3}, "Tiger") == 3
    assert validity._place({"tig": 3}, "tiger") is None


def test_a_space_that_cannot_be_measured_is_a_row_that_says_why(tmp_path, capsys):
    found = made("toy-12")
    x = found.vectors.copy()
    x[5] = 0
    rows = validity.of_source(replace(found, vectors=x), context_of(tmp_path))
    assert len(rows) == len(versions.VERSIONS)
    assert "hnsw_recall" not in rows[0]
    assert "zero" in rows[0]["note"]
    assert "toy-12, as it is, is not measured" in capsys.readouterr().err
    assert "hnsw_recall" in rows[1]  # centred, it has a direction


def test_a_sparse_source_has_one_space_and_no_probe(tmp_path, capsys):
    found = made("toy-12")
    thin = replace(found, vectors=sparse.csr_array(np.maximum(found.vectors, 0)))
    (row,) = validity.of_source(thin, context_of(tmp_path))
    assert math.isnan(row["probe"])
    assert "sparse" in row["note"]
    assert row["same_label_rate"] > 0.5
    assert "not made into centering" in capsys.readouterr().err


def test_rows_of_one_class_have_no_retrieval(tmp_path):
    found = made("toy-12")
    row = validity.of_source(replace(found, categories=np.full(150, "one")), context_of(tmp_path))[0]
    assert math.isnan(row["same_label"])
    assert "one class" in row["note"]


def test_the_plan_has_every_real_source_but_layers_in_between(tmp_path):
    planned = validity.planned(replace(context_of(tmp_path), quick=False))
    assert all(datasets.get(name).family != "random" for name in planned)
    left = [name for name in datasets.names() if datasets.get(name).family != "random" and name not in planned]
    assert left
    assert all(int(name.partition("-layer")[2][:2]) % 2 == 1 for name in left)
    assert {"lsa-300", "projection-4096", "use-512", "smollm2-documents-layer30-576"} <= set(planned)


def test_layers_and_dimensions_of_one_model_are_one_group():
    names = {"lsa-50": "lsa", "lsa-1024": "lsa", "smollm2-input-576": "smollm2-input"}
    names |= {"smollm2-documents-layer00-576": "smollm2-documents", "tfidf-bbc-12597": "tfidf-bbc"}
    assert {name: validity.group_of(name) for name in names} == names


@pytest.fixture
def spaces():
    """Eight models of three sources each: recall falls with `mle` alone."""
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"group": np.repeat(np.arange(8), 30).astype(str), "source": np.repeat(np.arange(24), 10)})
    table["source"] = table.source.astype(str)
    level = rng.standard_normal(24).repeat(10)
    table["mle"] = level + rng.standard_normal(240)
    table["hnsw_recall"] = -table.mle + 0.3 * rng.standard_normal(240)
    table["cosine_mean"] = rng.standard_normal(24).repeat(10) + rng.standard_normal(240)
    table["ivf_recall"] = np.where(table.group == "3", np.nan, table.hnsw_recall)
    table["twonn"] = np.where(table.mle > 1, math.inf, table.mle)
    table["island_fraction"] = 0.0
    return table


def test_associations_find_what_is_there_and_nothing_else(spaces):
    table = validity.associations(spaces).set_index(["outcome", "statistic"])

    there = table.loc["hnsw_recall", "mle"]
    assert there.rho < -0.9
    assert there.within_rho < -0.9
    assert there.low < there.rho < there.high < -0.7
    assert there.holds
    assert there.within_holds
    assert there.rho_unweighted == pytest.approx(stats.spearmanr(spaces.mle, spaces.hnsw_recall).statistic)
    assert there.rho == pytest.approx(there.rho_unweighted)  # models of one size
    assert (there.n_spaces, there.n_sources, there.n_groups) == (240, 24, 8)
    nothing = table.loc["hnsw_recall", "cosine_mean"]
    assert not nothing.holds
    assert not nothing.within_holds
    assert nothing.low < 0 < nothing.high
    gap = table.loc["ivf_recall", "mle"]
    assert (gap.n_spaces, gap.n_groups) == (210, 7)
    assert table.loc["hnsw_recall", "twonn"].rho < -0.8  # infinite estimates rank last
    assert table.loc["hnsw_recall", "twonn"].n_spaces == 240
    source, group = spaces.source.to_numpy(int), spaces.group.to_numpy(int)
    inside = within(spaces.cosine_mean.to_numpy(), spaces.hnsw_recall.to_numpy(), source, group)
    assert (nothing.within_rho, nothing.within_p) == pytest.approx((inside.rho, inside.p))
    assert math.isnan(table.loc["hnsw_recall", "island_fraction"].rho)
    assert table.loc["probe", "mle"].n_spaces == 0
    assert not table.loc["probe"].holds.any()
    assert table.loc["hnsw_recall"].expected.to_dict() | {"cosine_mean": -1, "relative_contrast": 1, "d": 0} == (
        table.loc["hnsw_recall"].expected.to_dict()
    )


def test_rates_of_false_discovery_are_over_all_tests_of_the_table(spaces):
    table = validity.associations(spaces)
    p = np.r_[table.p, table.within_p]
    want = stats.false_discovery_control(p[~np.isnan(p)])
    assert np.r_[table.q, table.within_q][~np.isnan(p)] == pytest.approx(want)
    assert (table.holds == (table.q <= 0.05)).all()


def test_what_else_goes_wrong_is_not_hidden(tmp_path, monkeypatch):
    def broken(*_):
        msg = "broken"
        raise ValueError(msg)

    monkeypatch.setattr(validity, "_of_space", broken)
    with pytest.raises(ValueError, match="broken"):
        validity.of_source(made("toy-12"), context_of(tmp_path))
    assert not issubclass(ValueError, (InvalidInputError, SourceUnavailableError))
