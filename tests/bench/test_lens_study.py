"""The study of lenses on a tiny model, its readers by hand, and its figure."""

import numpy as np
import pandas as pd
import pytest
import torch

from bench.figures.lens import finding
from bench.figures.lens import lens as drawn
from bench.harness.study import Context
from bench.studies import lens as study
from geomkit.interpret.activations import Deferred
from geomkit.interpret.lens.logit_lens import logit_lens
from geomkit.interpret.lens.statistics import LensStatistics
from tests.bench.answering import answer
from tests.interpret import lens_models
from tests.interpret.lens_models import one_thread  # noqa: F401

SMALL = study.Size(30, 10, 20, 20, 6, None, (1, 2), 20, 64)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path / "cache"))


def context_of(out, *, quick=True):
    return Context("lens", out, quick=quick)


@pytest.fixture
def tiny(cache, monkeypatch):
    """A model of three blocks and sixty texts, in place of SmolLM2 and BBC News."""
    loaded = lens_models.loaded("llama")
    monkeypatch.setattr(study, "SMOLLM2", Deferred(loaded.card, lambda: loaded))
    monkeypatch.setattr(study, "QUICK", SMALL)
    monkeypatch.setattr(study, "bbc", lambda: type("C", (), {"texts": tuple(lens_models.texts(60))}))


def test_a_run_leaves_a_row_a_reading_and_says_its_cost(tiny, tmp_path, capsys):
    assert answer(study.STUDY, context_of(tmp_path)) == ["lens.csv", "lens.svg"]

    table = pd.read_csv(tmp_path / "lens.csv")
    readings = {reader: rows.layer.tolist() for reader, rows in table.groupby("reader")}
    others = {"other_basis": [1, 2, 3], "nearest_input": [1, 2, 3], "constant": [3]}
    assert readings == {"lens": [0, 1, 2, 3], "regression": [1, 2], "tuned": [1, 2]} | others
    by = table.set_index(["reader", "layer"])
    assert by.kl["lens", 3] == 0
    assert by.agreement["lens", 3] == 1
    for layer in (1, 2):
        assert by.kl["tuned", layer] < by.kl["lens", layer] < by.kl["other_basis", 3] + 100
        fall = by.kl["lens", layer] - by.kl["tuned", layer]
        assert by.kl_fall["tuned", layer] == pytest.approx(fall, rel=1e-4)
        assert by.kl_fall_low["tuned", layer] < fall < by.kl_fall_high["tuned", layer]
    assert by.kl["other_basis", 3] > 0
    assert table[table.reader == "nearest_input"].kl.isna().all()
    assert table[table.reader == "nearest_input"]["rank"].notna().all()
    assert table[table.reader == "lens"].mean_cosine.notna().all()
    assert table[table.reader != "lens"].mean_cosine.isna().all()
    assert (table.n_texts == 10).all()
    said = capsys.readouterr().err
    for each in ("reading the texts took", "training took", "would take", "measuring took"):
        assert each in said


def test_units_share_no_draw(tiny, tmp_path):
    context = context_of(tmp_path)
    units = study.units(context)
    assert [each.name for each in units] == ["logit lens", "layer 1", "layer 2", "last layer"]
    found = [{each.name: study.measure(context, each)["lens.csv"] for each in order} for order in (units, units[::-1])]
    for name, table in found[0].items():
        pd.testing.assert_frame_equal(table, found[1][name])


def test_a_translator_is_the_same_beside_that_of_another_layer(tiny, tmp_path):
    ready = study.prepared(study.SMOLLM2, study.bbc().texts, SMALL, context_of(tmp_path))
    both = study.train_tuned_lens(ready.lens, ready.train, (1, 2), ready.seen, steps=20, batch=64, seed=0).tuned
    for layer in (1, 2):
        alone = study._train(ready, layer, 20, context_of(tmp_path)).tuned
        np.testing.assert_allclose(alone.weights[layer], both.weights[layer], rtol=0, atol=1e-6)
        np.testing.assert_allclose(alone.biases[layer], both.biases[layer], rtol=0, atol=1e-6)


def test_texts_that_train_are_not_measured(cache, tmp_path, monkeypatch):
    seen = []
    plain = study.activations

    def watched(model, texts, *args, **how):
        seen.append(set(texts))
        return plain(model, texts, *args, **how)

    monkeypatch.setattr(study, "activations", watched)
    loaded = lens_models.loaded("llama")
    every = tuple(f"{text} w{i}" for i, text in enumerate(lens_models.texts(40)))
    study.prepared(Deferred(loaded.card, lambda: loaded), every, SMALL, context_of(tmp_path))
    assert [len(each) for each in seen] == [30, 10]
    assert not seen[0] & seen[1]


def test_readers_by_hand():
    loaded = lens_models.loaded("gpt2")
    lens = logit_lens(loaded)
    states = torch.randn(4, 32)
    weight = loaded.model.lm_head.weight
    with torch.no_grad():
        order = np.random.default_rng([5, 1]).permutation(32)
        got = study.other_basis(lens, 5)(states, 3)
        torch.testing.assert_close(got, states[:, order.tolist()] @ weight.T)
        nearest = study.nearest_input(lens)(states, 1)
        cosines = torch.nn.functional.cosine_similarity(states[:, None], weight[None], dim=-1)
        torch.testing.assert_close(nearest, cosines, rtol=1e-4, atol=1e-5)


def test_falls_are_paired_by_text():
    kl = np.array([[1.0, 2.0, 9.0], [0.5, 1.5, 8.5], [0.0, 0.0, 0.0]])
    values = dict.fromkeys(("entropy", "cross_entropy", "rank", "agreement"), kl) | {"kl": kl}
    readings = (("lens", 1), ("tuned", 1), ("nearest_input", 1))
    table = study.tidy(LensStatistics("m", 5, readings, np.array([0, 1, 2]), values), 3, 3)
    # Texts differ by far more than the two readers do, which differ by the same in each.
    assert (table.kl_fall_low[1], table.kl_fall[1], table.kl_fall_high[1]) == pytest.approx((0.5, 0.5, 0.5))
    assert table.kl_low[1] < 0
    assert table.kl_fall.isna().tolist() == [True, False, True]
    assert table.kl.isna().tolist() == [False, False, True]


def rows(reader, layers, kl, fall=np.nan):
    return [
        {
            "reader": reader, "layer": layer, "kl": value, "kl_low": value - 0.1, "kl_high": value + 0.1,
            "kl_fall_low": fall, "rank": 10.0, "rank_low": 9.0, "rank_high": 11.0, "agreement": 0.5,
            "agreement_low": 0.4, "agreement_high": 0.6, "mean_cosine": 0.5, "effective_rank": 300.0, "d": 576,
            "intrinsic_dimension": 12.0,
        }
        for layer, value in zip(layers, kl, strict=True)
    ]  # fmt: skip


def test_the_finding_counts():
    table = pd.DataFrame([
        *rows("lens", range(5), [9.0, 8.0, 4.1, 2.0, 0.0]),
        *rows("tuned", [1, 3], [1.0, 2.5], 0.2),
        *rows("constant", [4], [4.0]),
    ])  # fmt: skip
    table.loc[(table.reader == "tuned") & (table.layer == 3), "kl_fall_low"] = -0.6
    said = finding(table)
    assert "At 2 of 4 layers before the last" in said
    assert "(4.0 nats" in said
    assert "lowers KL at 1 of 2 layers: 8.0 → 1.0 at 1, 2.0 → 2.5 at 3" in said
    figure = drawn(table)
    assert " ".join(figure.get_suptitle().split()) == said.splitlines()[0]
    assert len(figure.axes) == 4
