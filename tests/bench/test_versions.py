"""Versions of a space do to it what they say, and learn from the corpus alone."""

import numpy as np
import pytest
from scipy import sparse

import geomkit
from bench.inputs import versions


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(0)
    return (rng.standard_normal((90, 40)) * np.linspace(1, 5, 40) + 3).astype(np.float32)


@pytest.fixture(scope="module")
def made(corpus):
    queries = corpus[:7].copy()
    return {each.version: each for each in versions.spaces(corpus, (queries, np.empty((0, 40), np.float32)), seed=2)}


def cosines(x):
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return (unit @ unit.T)[np.triu_indices(len(x), 1)]


def distances(x):
    return np.linalg.norm(x[:, None].astype(float) - x[None], axis=2)


def test_every_version_is_made_and_keeps_rows_and_dtype(made, corpus):
    assert list(made) == [each.name for each in versions.VERSIONS]
    for name, space in made.items():
        assert space.corpus.shape == (90, 16 if name == "pca_16" else 40)
        assert space.corpus.dtype == space.others[0].dtype == np.float32
        assert [len(each) for each in space.others] == [7, 0]
        if name != "repeated":
            assert space.rows.tolist() == list(range(90))
        # Queries that are rows of the corpus become what the rows became; noise is drawn anew.
        if name not in {"noisy", "repeated"}:
            assert space.others[0] == pytest.approx(space.corpus[:7], abs=1e-4)
    assert made["as it is"].corpus is corpus


def test_what_each_version_does(made, corpus):
    assert np.abs(made["centering"].corpus.mean(axis=0)).max() < 1e-5
    assert made["standardizing"].corpus.std(axis=0) == pytest.approx(1, rel=1e-4)
    assert distances(made["shifted"].corpus) == pytest.approx(distances(corpus), rel=1e-3, abs=1e-3)
    assert cosines(made["shifted"].corpus).mean() > cosines(corpus).mean() + 0.2
    noise = (made["noisy"].corpus - corpus).astype(float)
    assert noise.var() == pytest.approx(corpus.var(axis=0).mean(), rel=0.1)
    assert (made["noisy"].others[0] != made["noisy"].corpus[:7]).all()
    assert set(np.unique(made["signs"].corpus)) == {-1, 1}
    assert ((made["signs"].corpus > 0) == (corpus > corpus.mean(axis=0, dtype=float))).all()
    eigenvalues = np.linalg.eigvalsh(np.cov(corpus.T.astype(float)))
    assert np.var(made["pca_16"].corpus, axis=0, ddof=1).sum() == pytest.approx(eigenvalues[-16:].sum(), rel=1e-4)
    whole, few = (geomkit.spectrum(each) for each in (corpus, made["whitening"].corpus))
    assert few.effective_rank > whole.effective_rank


def test_repeated_rows_are_copies_of_rows_that_stay(made, corpus):
    space = made["repeated"]
    assert (space.corpus == corpus[space.rows]).all()
    stay = np.flatnonzero(space.rows == np.arange(90))
    assert len(stay) == 60
    assert set(space.rows.tolist()) <= set(stay.tolist())
    assert (space.others[0] == corpus[:7]).all()


def test_only_the_corpus_is_learned_from(corpus):
    far = corpus[:7] * 100
    for space in versions.spaces(corpus, (far,), seed=2):
        near = {each.version: each for each in versions.spaces(corpus, (), seed=2)}[space.version]
        assert (space.corpus == near.corpus).all()


def test_seeds_draw(corpus):
    first, again, other = ({s.version: s.corpus for s in versions.spaces(corpus, (), seed)} for seed in (1, 1, 2))
    for name, each in first.items():
        assert (each == again[name]).all()
        assert (name in {"shifted", "noisy", "repeated"}) == bool((each != other[name]).any())


def test_sparse_and_wide_sources_say_what_is_left_out(corpus, monkeypatch):
    thin = sparse.csr_array(corpus)
    assert [each.version for each in versions.spaces(thin, (thin,), seed=0)] == ["as it is"]
    assert len(versions.left_out(thin)) == len(versions.VERSIONS) - 1
    assert versions.left_out(corpus) == ()
    monkeypatch.setattr(versions, "WIDEST", 39)
    assert versions.left_out(corpus) == ("all_but_the_top", "whitening", "pca_16")
    assert len(list(versions.spaces(corpus, (), seed=0))) == len(versions.VERSIONS) - 3
