"""TF-IDF of real text, its decomposition and its projections."""

import numpy as np
import pytest
from scipy import sparse

from geomkit.datasets import load, names, tfidf
from geomkit.datasets.tfidf import LSA_DIMS, PROJECTION_DIMS, newsgroups_split, projection
from geomkit.errors import IntegrityError, InvalidInputError


def test_offers_the_grid():
    assert LSA_DIMS == (50, 100, 128, 200, 256, 300, 384, 512, 576, 768, 1024)
    assert PROJECTION_DIMS == (1536, 2048, 3072, 4096)
    assert {f"lsa-{dim}" for dim in LSA_DIMS} | {f"projection-{dim}" for dim in PROJECTION_DIMS} < set(names())


@pytest.mark.real
def test_ridge_classifier_finds_the_topics():
    from sklearn.linear_model import RidgeClassifier

    split = newsgroups_split()
    assert split.train.shape == (11_293, 30_925)
    assert split.test.shape[0] == 7_528 - 1  # one document has no word that train has three times
    accuracy = RidgeClassifier().fit(split.train, split.train_categories).score(split.test, split.test_categories)
    assert accuracy == pytest.approx(0.851, abs=0.005)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "rows", "label"),
    [
        ("tfidf-documents-30925", 11_293, "train/0"),
        ("tfidf-terms-11293", 30_925, "aa"),
        ("tfidf-bbc-12597", 2_127, "business/001"),
    ],
)
def test_sparse_sources(name, rows, label):
    got = load(name)

    assert isinstance(got.vectors, sparse.csr_array)
    assert got.vectors.dtype == np.float32
    assert got.vectors.shape == (rows, got.dim)
    assert len(got.labels) == rows
    assert got.labels[0] == label
    assert (np.diff(got.vectors.indptr) > 0).all()
    assert got.vectors.data.min() > 0
    assert "0 empty rows dropped" in got.note


@pytest.mark.real
def test_documents_have_norm_one_and_terms_are_their_transpose():
    documents, terms = load("tfidf-documents-30925"), load("tfidf-terms-11293")

    np.testing.assert_allclose(sparse.linalg.norm(documents.vectors, axis=1), 1, atol=1e-5)
    assert abs(documents.vectors.T - terms.vectors).max() == 0
    at = terms.labels.index("hockey")
    hockey = documents.categories[terms.vectors[[at]].nonzero()[1]]
    assert np.mean(hockey == "rec.sport.hockey") > 0.8


@pytest.mark.real
def test_bbc_rows_carry_their_topics_through_sampling():
    got = load("tfidf-bbc-12597", n=40, seed=2)

    assert got.vectors.shape == (40, 12_597)
    assert [label.split("/")[0] for label in got.labels] == list(got.categories)


@pytest.mark.real
def test_lsa_dimensions_are_prefixes_of_one_decomposition():
    small, large = load("lsa-50"), load("lsa-1024")

    assert small.vectors.shape == (11_293, 50)
    assert small.vectors.dtype == large.vectors.dtype == np.float32
    np.testing.assert_array_equal(small.vectors, large.vectors[:, :50])
    energy = (large.vectors.astype(np.float64) ** 2).sum(axis=0)
    # Rows of norm 1: the squared singular values add up to at most n; and they fall, but for the last few, which a
    # randomized decomposition finds least well.
    assert energy.sum() < 11_293
    assert (np.diff(energy[:900]) < 1e-3 * energy[0]).all()
    assert np.unique(small.categories).size == 20


@pytest.mark.real
def test_projection_keeps_lengths_and_cosines():
    got = load("projection-4096", n=300, seed=1)
    true = load("tfidf-documents-30925", n=300, seed=1)

    assert got.labels == true.labels
    assert got.vectors.shape == (300, 4096)
    upper = np.triu_indices(300)
    off = (got.vectors @ got.vectors.T)[upper] - (true.vectors @ true.vectors.T).toarray()[upper]
    # An inner product of unit rows is off by at most sqrt(2/dim) standard errors; six of them over 45,150 pairs.
    assert np.abs(off).max() < 6 * np.sqrt(2 / 4096)
    assert np.abs(off).max() > 0.5 * np.sqrt(2 / 4096)


def test_projection_is_seeded_linear_and_agrees_across_blocks():
    x = sparse.csr_array(np.random.default_rng(0).random((5, 40)) * (np.random.default_rng(1).random((5, 40)) < 0.3))
    first, same, other = projection(x, 1000, 7), projection(x, 1000, 7), projection(x, 1000, 8)

    assert first.shape == (5, 1000)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)
    np.testing.assert_allclose(projection(2 * x, 1000, 7), 2 * first, rtol=1e-6)
    norms = np.linalg.norm(first.astype(np.float64), axis=1) / sparse.linalg.norm(x, axis=1)
    assert np.abs(norms**2 - 1).max() < 5 * np.sqrt(2 / 1000)


@pytest.mark.parametrize("dim", [0, 1025])
def test_lsa_refuses_dimensions_that_it_does_not_have(dim):
    with pytest.raises(InvalidInputError, match=r"must be a whole number from 1 to .* = 1024"):
        tfidf.lsa(dim)


@pytest.mark.real
def test_another_vocabulary_is_an_integrity_error(monkeypatch):
    monkeypatch.setitem(tfidf.SETTINGS, "min_df", 4)
    with pytest.raises(IntegrityError, match="not 12,597"):
        load("tfidf-bbc-12597")
