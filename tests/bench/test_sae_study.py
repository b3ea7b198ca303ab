"""The study of sparse autoencoders on a model of a few thousand weights, and what they are measured beside."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from bench.figures.sae import sae as drawn
from bench.harness.study import Context
from bench.measures.sae_rivals import nearest, principal_components, projected, untrained
from bench.studies import sae as study_of
from geomkit.datasets.corpora import bbc
from geomkit.interpret.activations import SMOLLM2, Deferred
from geomkit.interpret.sae.autoencoder import SparseAutoencoder
from geomkit.interpret.sae.learner import Settings
from geomkit.interpret.sae.quality import explained, quality
from tests.interpret import lens_models

SETTINGS = Settings(n_features=64, batch=64, auxiliary_k=8, dead_after=500)
SIZE = study_of.Size(2, 8, 25, 5, (4, 16), SETTINGS, 20)


@pytest.fixture(autouse=True)
def one_thread():
    """Products this small are done before a second thread has woken up."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def context_of(out, seed=0):
    return Context("sae", out, quick=True, seed=seed)


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path / "cache"))
    ready = lens_models.loaded("llama")
    found = Deferred(ready.card, lambda: ready)
    monkeypatch.setattr(study_of, "SMOLLM2", found)
    monkeypatch.setattr(study_of, "LAYER", 2)
    monkeypatch.setattr(study_of, "QUICK", SIZE)
    monkeypatch.setattr(study_of, "bbc", lambda: SimpleNamespace(texts=tuple(lens_models.texts(70))))
    return found


def measured(context):
    """All tables, unrounded."""
    tables = {}
    for unit in study_of.units(context):
        for name, table in study_of.measure(context, unit).items():
            tables.setdefault(name, []).append(table)
    return [pd.concat(tables[f"{name}.csv"], ignore_index=True) for name in ("sae", "sae_training", "sae_features")]


def test_units_share_no_draw(model, tmp_path):
    context = context_of(tmp_path)
    units = study_of.units(context)
    assert [each.name for each in units] == [
        "4 active features", "16 active features", "nearest token", "training tokens", "spliced",
        "contexts of features",
    ]  # fmt: skip
    assert len(study_of.units(Context("sae", tmp_path))) == 3 + 4
    found = [{each.name: study_of.measure(context, each) for each in order} for order in (units[::-1], units)]
    for name, tables in found[0].items():
        for file, table in tables.items():
            pair = [each if file != "sae.csv" else each[each.part != "cost"] for each in (table, found[1][name][file])]
            pd.testing.assert_frame_equal(*pair)


def test_a_study_leaves_what_its_figure_and_its_claim_read(model, tmp_path, capsys):
    context = context_of(tmp_path)
    table, curves, features = measured(context)

    shares = table[table.statistic == "explained_variance"].set_index(["part", "method", "k"])
    for k in SIZE.ks:
        mine, floor = shares.loc["quality", "sae", k], shares.loc["quality", "random features", k]
        assert mine.low <= mine.value <= mine.high
        assert mine.floor == floor.value
        assert np.isnan(floor.floor)
        assert shares.loc["quality", "pca", k].value > 0
    assert shares.loc["quality", "nearest token", 1].value < 1
    assert shares.loc["training tokens", "sae", 16].tokens > shares.loc["quality", "sae", 16].tokens
    quality_rows = table[(table.part == "quality") & (table.method == "sae") & (table.k == 16)].set_index("statistic")
    assert 0 < quality_rows.value.l0 <= 16
    assert 0 <= quality_rows.value.dead_fraction <= 1
    spliced = table[table.part == "spliced"].set_index(["method", "k", "statistic"])
    clean, mean, back = (
        spliced.loc[key].value
        for key in (("clean", 0, "cross_entropy"), ("mean", 0, "cross_entropy"), ("sae", 16, "cross_entropy"))
    )
    assert spliced.loc["sae", 16, "recovered_from_mean"].value == pytest.approx((mean - back) / (mean - clean))
    assert ("clean", 0, "recovered_from_mean") not in spliced.index
    assert ("mean", 0, "recovered_from_zero") in spliced.index
    assert {method for method, *_ in spliced.index} == {"clean", "zero", "mean", "sae", "random features", "pca"}
    cost = table[table.part == "cost"].set_index(["method", "k", "statistic"]).value
    ratio = cost["sae", 4, "training_seconds"] / cost["model", 0, "forward_seconds"]
    assert cost["sae", 4, "training_over_forward"] == pytest.approx(ratio)
    # Weights of three blocks, 4 x 32² with half as many keys and values and 3 x 32 x 48, and of the head, 60 x 32.
    flops = 2 * (3 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48) + 60 * 32)
    assert cost["model", 0, "forward_flops"] == flops
    assert cost["sae", 4, "training_flops"] == 2 * 32 * 64 + 10 * 32 * 4 + 28 * 32 * 64 / 64
    assert cost["sae", 4, "hours_at_scale"] == pytest.approx(cost["sae", 4, "training_seconds"] * 1e9 / 3600)
    assert set(curves.k) == set(SIZE.ks)
    assert (curves.groupby("k").tokens.max() == shares.loc["training tokens", "sae", 16].tokens).all()
    assert set(features.columns) >= {
        "k",
        "feature",
        "firing_fraction",
        "promotes",
        "token",
        "before",
        "after",
        "activation",
    }
    assert 0 < features.feature.nunique() <= study_of.FEATURES_SHOWN
    assert "hours for this layer" in capsys.readouterr().err

    context.figure("sae", drawn(table, curves))
    assert (tmp_path / "sae.svg").stat().st_size > 1000


def test_texts_are_held_out_whole(model):
    texts = tuple(lens_models.texts(70))
    ready = study_of.prepared(model, texts, 2, SIZE, 0)
    of = ready.states.texts
    assert set(of[ready.held]) == set(ready.held_texts)
    assert not set(of[ready.held]) & set(of[ready.train])
    assert (len(set(of[ready.held])), len(set(of[ready.train]))) == (8, 25)
    assert ready.states.positions[ready.train].min() == 1
    assert ready.states.n_texts == 35
    other = study_of.prepared(model, texts, 2, SIZE, 1)
    assert set(other.held_texts) != set(ready.held_texts)


def some(n=400, d=10, seed=0):
    rng = np.random.default_rng(seed)
    states = (rng.standard_normal((n, d)) * np.arange(1, d + 1) + 5) @ rng.standard_normal((d, d))
    return states.astype(np.float32)


def test_components_are_those_of_the_singular_values():
    states, rows = some(), np.arange(0, 400, 2)
    mean, directions = principal_components(states, rows)
    centred = states[rows].astype(np.float64) - states[rows].mean(axis=0, dtype=np.float64)
    values = np.linalg.svd(centred, full_matrices=False)[1]
    for k in (1, 4, 10):
        found = explained(states, np.zeros(400, int), rows, projected(mean, directions[:k]))
        want = np.square(values[:k]).sum() / np.square(values).sum()
        assert found.explained_variance == pytest.approx(want, abs=1e-5)


def test_the_nearest_is_the_nearest():
    states, known = some(), some(30, seed=1)
    far = np.square(states[:, None].astype(float) - known[None]).sum(axis=2)
    assert np.array_equal(nearest(known)(states), known[far.argmin(axis=1)])


def test_random_features_have_the_length_that_explains_most():
    states, rows = some(), np.arange(400)
    mean = states.mean(axis=0)
    found = untrained(states, rows, mean, Settings(n_features=50, k=4), "m", 1, 1e4)
    texts = np.zeros(400, int)
    best = quality(found, states, texts, rows).explained_variance
    assert 0 < best < 0.9
    for factor in (0.8, 1.2):
        longer = SparseAutoencoder(**{**vars(found), "encoder": found.encoder * np.float32(factor)})
        assert quality(longer, states, texts, rows).explained_variance < best
    again = untrained(states, rows, mean, Settings(n_features=50, k=4, seed=1), "m", 1, 1e4)
    assert not np.array_equal(again.decoder, found.decoder)


def test_curves_and_bars_are_drawn_of_any_number_of_trainings(model, tmp_path, monkeypatch):
    monkeypatch.setattr(study_of, "QUICK", study_of.Size(2, 8, 25, 5, (4,), SETTINGS, 20))
    table, curves, _ = measured(context_of(tmp_path))
    figure = drawn(table, curves)
    assert len(figure.axes) == 4
    assert "4 active features explain" in figure.get_suptitle()
    assert isinstance(table, pd.DataFrame)


@pytest.mark.real
def test_features_of_smollm2_explain_held_out_texts(tmp_path, monkeypatch):
    size = study_of.Size(90, 5, 18, 1, (20,), Settings(n_features=256, batch=32, epochs=4, dead_after=2000), 48)
    ready = study_of.prepared(SMOLLM2, bbc().texts, study_of.LAYER, size, 0)
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path / "cache"))
    of = study_of.trained(ready, study_of.LAYER, 20, size, context_of(tmp_path)).autoencoder
    states = ready.states.states[study_of.LAYER]
    found = quality(of, states, ready.states.texts, ready.held)
    assert found.l0 == pytest.approx(20, abs=0.5)
    mean, directions = principal_components(states, ready.train)
    by_one = explained(states, ready.states.texts, ready.held, projected(mean, directions[:1]))
    assert found.explained_variance > by_one.explained_variance + 0.1
    assert found.explained_about_zero > found.explained_variance + 0.1
