"""Explained variance by its definition, firing by hand, and which rows are sinks."""

import numpy as np
import pytest

from geomkit.errors import InvalidInputError
from geomkit.interpret.activations import Activations
from geomkit.interpret.sae import autoencoder
from geomkit.interpret.sae.quality import explained, quality, token_rows
from tests.interpret.test_sae import made, naive


def some(n=60, d=6, seed=3):
    rng = np.random.default_rng(seed)
    states = (rng.standard_normal((n, d)) * [1, 1, 1, 1, 1, 20] + [0, 0, 0, 0, 0, 100]).astype(np.float32)
    return states, np.sort(rng.integers(0, 7, n))


@pytest.mark.parametrize("block", [5, 4096])
def test_explained_variance_is_its_definition(block, monkeypatch):
    monkeypatch.setattr(autoencoder, "BLOCK", block)
    states, texts = some()
    rows = np.arange(3, 57, 2)
    found = explained(states, texts, rows, np.round)
    x = states[rows].astype(np.float64)
    missed, apart = np.square(x - np.round(x)), np.square(x - x.mean(axis=0))
    assert found.explained_variance == pytest.approx(1 - missed.sum() / apart.sum())
    assert found.explained_about_zero == pytest.approx(1 - missed.sum() / np.square(x).sum())
    assert found.explained_of_a_dimension == pytest.approx(1 - np.mean(missed.sum(axis=0) / apart.sum(axis=0)))
    units = np.unique(texts[rows])
    assert (found.n, found.n_texts) == (27, len(units))
    for at, text in enumerate(units):
        assert found.residual[at] == pytest.approx(missed[texts[rows] == text].sum())
        assert found.deviation[at] == pytest.approx(apart[texts[rows] == text].sum())
    assert set(found.to_dict()) == {
        "n", "n_texts", "explained_variance", "explained_about_zero", "explained_of_a_dimension",
    }  # fmt: skip


def test_the_mean_explains_nothing_and_the_states_all():
    states, texts = some()
    rows = np.arange(60)
    mean = states.mean(axis=0)
    nothing = explained(states, texts, rows, lambda x: np.broadcast_to(mean, x.shape))
    assert nothing.explained_variance == pytest.approx(0, abs=1e-6)
    assert nothing.explained_about_zero > 0.9  # the common mean is most of the length
    assert nothing.explained_of_a_dimension == pytest.approx(0, abs=1e-6)
    assert explained(states, texts, rows, lambda x: x).explained_variance == 1


def test_a_constant_dimension_counts_for_nothing():
    states, texts = some()
    states[:, 2] = 5
    found = explained(states, texts, np.arange(60), np.round)
    assert np.isfinite(found.explained_of_a_dimension)


@pytest.mark.parametrize("k", [None, 1, 30])
def test_quality_counts_what_fires(k):
    of, (states, texts) = made(features=40), some(200)
    states[:, 5] = (states[:, 5] - 100) / 10
    rows = np.arange(10, 200)
    active = naive(of, states[rows], k or 3) > 0
    found = quality(of, states, texts, rows, k=k)
    assert found.firing.tolist() == active.sum(axis=0).tolist()
    assert found.l0 == pytest.approx(active.sum(axis=1).mean())
    assert found.dead_fraction == np.mean(~active.any(axis=0))
    assert found.dense_fraction == np.mean(active.mean(axis=0) > 0.1)
    few = quality(of, states, texts, rows[:9], k=k)
    fired = active[:9].sum(axis=0)
    assert few.dead_fraction == np.mean(fired == 0)
    assert (fired == 1).any()
    rebuilt = of.decode(of.encode(states[rows], k=k))
    want = explained(states, texts, rows, lambda _: rebuilt)
    assert found.explained_variance == pytest.approx(want.explained_variance, rel=1e-6)
    assert (found.n_features, found.k, found.n) == (40, k or 3, 190)


def test_what_cannot_be_measured():
    states, texts = some()
    with pytest.raises(InvalidInputError, match="at least 2"):
        explained(states, texts, np.array([4]), lambda x: x)
    with pytest.raises(InvalidInputError, match="all equal"):
        explained(np.ones_like(states), texts, np.arange(60), lambda x: x)
    with pytest.raises(InvalidInputError, match="6 numbers"):
        quality(made(), states[:, :5], texts, np.arange(60))
    states[7, 1] = np.inf
    with pytest.raises(InvalidInputError, match="first: 7"):
        explained(states, texts, np.arange(60), lambda x: x)


def test_sinks_are_left_out_wherever_they_are():
    states = np.ones((12, 4), np.float32)
    texts, positions = np.repeat([0, 1, 2], 4), np.tile(np.arange(4), 3)
    states[positions == 0] = 130
    states[5] = 130  # a second sink, at the second token of text 1
    states[10] *= 9.9
    made_of = Activations(
        model="m", key="k", layers=(2,), n_layers=3, n_texts=3, n_truncated=0, tokens=np.arange(12), texts=texts,
        positions=positions, states={2: states},
    )  # fmt: skip
    assert token_rows(made_of, 2).tolist() == [1, 2, 3, 6, 7, 9, 10, 11]
    assert token_rows(made_of, 2, np.array([2, 0])).tolist() == [1, 2, 3, 9, 10, 11]
