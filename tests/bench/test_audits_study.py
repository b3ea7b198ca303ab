"""The study of audits: what it plans, what it writes, and that every finding of vecscope is covered."""

import importlib
import math

import numpy as np
import pandas as pd
import pytest

from bench.inputs import spaces
from bench.measures import audit_mapping
from bench.studies import audits as study
from geomkit import datasets
from geomkit.auditing.audit import audit
from geomkit.auditing.statistics import STATISTICS
from geomkit.datasets import Vectors
from tests.bench import answering


def context(out, **settings):
    return answering.context_of("audits", out, **({"quick": True} | settings))


def vectors(name, family, x, *, categories=None, note=""):
    labels = [str(row) for row in range(len(x))]
    return Vectors(x, labels, categories, name, family, x.shape[1], "made up", "none", 0, note)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Three sources of 60 rows, one of which cannot be had: labelled rows about a common direction, and a sphere."""
    rng = np.random.default_rng(5)
    topics = np.arange(60) % 3
    shifted = rng.standard_normal((60, 8)) + 6 + 2 * np.eye(8)[topics]
    made = {
        "lsa-50": vectors("lsa-50", "tfidf", shifted.astype(np.float32), categories=topics.astype(str), note="tiny"),
        "sphere-50": vectors("sphere-50", "random", rng.standard_normal((60, 8)).astype(np.float32)),
    }
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(spaces, "names", lambda _: [*made, "gpt2-input-768", "sphere-100"])
    monkeypatch.setattr(spaces, "left_out", lambda name, _: "" if name in made else "not here")
    monkeypatch.setattr(spaces, "load_rows", lambda name, _: made[name])
    return made


def test_it_audits_what_is_real_and_the_controls(small, tmp_path):
    assert study.names(context(tmp_path)) == ["lsa-50", "sphere-50", "gpt2-input-768"]
    assert set(study.CONTROLS) <= set(datasets.names(family="random"))
    assert set(study.FEATURED) <= set(datasets.names())
    assert {name for name in study.FEATURED if datasets.get(name).family == "random"} <= set(study.CONTROLS)


def test_random_sets_are_as_many_as_time_allows():
    assert study.draws(2000, 576, quick=False) == study.MOST == 16
    assert study.draws(2000, 1536, quick=False) == 10
    assert study.draws(2000, 30_925, quick=False) == study.FEWEST == 8
    assert study.draws(150, 576, quick=True) == 4


def test_a_run_leaves_its_tables_and_its_figure(small, tmp_path):
    where = context(tmp_path / "out")
    assert answering.answer(study.STUDY, where) == ["audit_suggestions.csv", "audits.csv", "audits.svg"]
    table = pd.read_csv(tmp_path / "out" / "audits.csv")
    assert list(table.columns) == list(study.Row.__dataclass_fields__)
    missing = table[table.source == "gpt2-input-768"]
    assert missing[["statistic", "note", "family", "d"]].to_numpy().tolist() == [
        ["not measured", "not here", "llm", 768]
    ]
    verdicts = table.set_index(["source", "statistic"]).verdict
    assert verdicts["lsa-50", "cosine_mean"] == "fail"
    assert verdicts["sphere-50", "cosine_mean"] == "ok"
    assert {"same_label_rate", "probe_accuracy"} <= set(table[table.source == "lsa-50"].statistic)
    assert "same_label_rate" not in set(table[table.source == "sphere-50"].statistic)
    suggested = pd.read_csv(tmp_path / "out" / "audit_suggestions.csv")
    centred = suggested[(suggested.source == "lsa-50") & (suggested.statistic == "cosine_mean")].iloc[0]
    assert centred["transform"] == "Centering"
    assert (round(centred.before, 1), round(centred.after, 1)) == (1.0, 0.0)


def test_every_source_is_a_unit_and_their_order_does_not_matter(small, tmp_path):
    where = context(tmp_path)
    units = study.units(where)
    assert [(each.name, each.sources, each.absent) for each in units] == [
        ("lsa-50", ("lsa-50",), ""), ("sphere-50", ("sphere-50",), ""),
        ("gpt2-input-768", ("gpt2-input-768",), "not here"),
    ]  # fmt: skip
    found, again = ({each.name: study.measure(where, each) for each in order} for order in (units, units[::-1]))
    for name, tables in found.items():
        for table, frame in tables.items():
            pd.testing.assert_frame_equal(frame, again[name][table])


def test_rows_say_what_the_audit_says(small, tmp_path):
    where = context(tmp_path)
    table = study.measure(where, study.units(where)[0])["audits.csv"]
    found = small["lsa-50"]
    result = audit(found.vectors, labels=found.categories, null_draws=4, try_transforms=False)
    mine = table[table.source == "lsa-50"].set_index("statistic")
    assert list(mine.index) == [each.statistic for each in result.findings]
    for each in result.findings:
        row = mine.loc[each.statistic]
        for name in ("value", "se", "ci_low", "ci_high", "null_mean", "null_std", "z", "effect"):
            assert row[name] == pytest.approx(getattr(each, name), nan_ok=True), (each.statistic, name)
        assert (row.verdict, row.group) == (each.verdict, STATISTICS[each.statistic].family)
        assert row.note == ("; ".join(filter(None, (each.note, "tiny"))))
    assert (mine.k.iloc[0], mine.null.iloc[0], mine.null_draws.iloc[0], mine.n.iloc[0]) == (10, "gaussian", 4, 60)


def test_a_suggestion_that_was_not_tried_says_why(monkeypatch, small, tmp_path):
    monkeypatch.setattr(study, "WIDEST", 7)
    where = context(tmp_path)
    tried = study.measure(where, study.units(where)[0])["audit_suggestions.csv"]
    assert tried.empty
    assert list(tried.columns) == list(study.Tried.__dataclass_fields__)


def test_every_finding_of_vecscope_is_mapped():
    evidence = importlib.import_module("vecscope.evidence")
    assert set(audit_mapping.FINDINGS) == set(evidence.ACTIONS)
    uncovered = {name for name, each in audit_mapping.FINDINGS.items() if not each.statistic}
    # It is about an index, of which an audit of vectors knows nothing.
    assert uncovered == {"ann_recall"}
    assert all(each.note for each in audit_mapping.FINDINGS.values())


def test_the_mapping_names_statistics_that_there_are():
    for each in audit_mapping.FINDINGS.values():
        assert each.statistic in {"", *STATISTICS}
    for pair in (*audit_mapping.OF_VECSCOPE, *audit_mapping.OF_SPECTRALYTE):
        assert pair.ours in {"", *STATISTICS}
        assert pair.note
    numbers = {pair.finding for pair in audit_mapping.OF_VECSCOPE}
    assert numbers == set(audit_mapping.FINDINGS) - {"ann_recall"}


@pytest.fixture
def data():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((300, 12)) * np.linspace(0.2, 2, 12) + 0.7
    x[7], x[9] = x[3], x[4] * 1.0001
    return x.astype(np.float32), rng.standard_normal((40, 12)).astype(np.float32)


def test_what_is_said_to_be_the_same_formula_is(data, monkeypatch, tmp_path):
    vecscope = importlib.import_module("vecscope.evidence")
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path))
    x, queries = data
    theirs = vecscope.audit(x, k=10, queries=queries).to_dict()
    ours = audit(x, k=10, queries=queries, null_draws=2, try_transforms=False).to_dict()
    rows = list(audit_mapping.beside_vecscope("x", x.shape, theirs, ours))
    found = {row.statistic: row for row in rows}

    assert set(found) == {pair.theirs for pair in audit_mapping.OF_VECSCOPE} | {"ann_recall", "verdict"}
    same = [row for row in rows if row.note.startswith("same formula")]
    assert len(same) == 7
    for row in same:
        assert row.our_value == pytest.approx(row.value, rel=2e-5, abs=1e-9), row.statistic
    assert found["collapse.near_duplicate_ratio"].value == pytest.approx(4 / 300)
    # Their sample of pairs has a standard error of some 0.02.
    assert found["anisotropy.mean_random_cosine"].value == pytest.approx(
        found["anisotropy.mean_random_cosine"].our_value, abs=0.08
    )
    assert found["anisotropy.effective_rank"].judged == "effective_rank"
    assert found["anisotropy.effective_rank"].verdict == "ok"
    assert (found["verdict"].verdict, found["verdict"].our_verdict) == (theirs["verdict"], ours["verdict"])
    assert found["ann_recall"].value is None
    assert "not asked for" in found["ann_recall"].note
    null = next(each for each in ours["findings"] if each["statistic"] == "hubness_skewness")["null_mean"]
    assert found["hubness.skewness"].our_null == null


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_spectralyte_is_put_beside_ours(data, monkeypatch, tmp_path, capsys):
    cli = importlib.import_module("spectralyte.cli")
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path))
    x = data[0] / np.linalg.norm(data[0], axis=1, keepdims=True)
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setattr("sys.argv", ["spectralyte", "audit", str(tmp_path / "x.npy"), "--json", "--experimental"])
    cli.main()
    said = pd.io.json.ujson_loads(capsys.readouterr().out)
    ours = audit(x, k=10, null_draws=2, try_transforms=False).to_dict()
    rows = {row.statistic: row for row in audit_mapping.beside_spectralyte("x", x.shape, said, ours)}
    assert set(rows) == {pair.theirs for pair in audit_mapping.OF_SPECTRALYTE}
    for name in ("anisotropy.score", "dimensionality.participation_ratio"):
        assert rows[name].our_value == pytest.approx(rows[name].value, rel=2e-5)
    assert rows["anisotropy.score"].verdict == said["anisotropy"]["interpretation"]
    assert math.isfinite(rows["density.cv"].value)
    assert rows["density.cv"].our_value is None
    without = {name: part for name, part in said.items() if name != "density"}
    assert "density.cv" not in {row.statistic for row in audit_mapping.beside_spectralyte("x", x.shape, without, ours)}
