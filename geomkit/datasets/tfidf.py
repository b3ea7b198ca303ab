"""TF-IDF vectors of text, their latent semantic analysis, and random projections of them.

All of it is deterministic: `seed` chooses rows, and the decomposition and the projections have seeds of their own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from geomkit.core.cache import cached_array
from geomkit.core.optional import require
from geomkit.core.validation import check_whole
from geomkit.datasets.catalogue import PACKAGES
from geomkit.datasets.corpora import BBC, NEWSGROUPS, Corpus, bbc, newsgroups, texts_hash
from geomkit.datasets.record import GRID, Source, Vectors, expect_dim, taken

SETTINGS: dict[str, object] = {"sublinear_tf": True, "min_df": 3, "stop_words": "english"}
"""What every TF-IDF here is made with; rows are scaled to norm 1 (scikit-learn's default)."""

TERMS = 30_925  # of 20 Newsgroups train
DOCUMENTS = 11_293  # of 20 Newsgroups train
BBC_TERMS = 12_597

LSA_COMPONENTS = 1024
LSA_DIMS = tuple(dim for dim in GRID if dim <= LSA_COMPONENTS)
PROJECTION_DIMS = tuple(dim for dim in GRID if dim > LSA_COMPONENTS)
_SEED = 0  # of the decomposition and of the projections
_COLUMNS = 512  # of a projection matrix at a time: 30,925 x 4,096 float32 would take half a gigabyte
_DESCRIBED = "sublinear tf, min_df 3, English stop words"


@dataclass(frozen=True, slots=True)
class Split:
    """TF-IDF of 20 Newsgroups, fitted on the train texts only."""

    train: sparse.csr_array  # (documents, 30,925) float64
    train_categories: NDArray[np.str_]
    test: sparse.csr_array
    test_categories: NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class _Weighted:
    matrix: sparse.csr_array  # documents x terms, float64, no empty row
    terms: tuple[str, ...]
    kept: NDArray[np.intp]  # rows of the corpus that are in it
    note: str


def newsgroups_split() -> Split:
    """Return the train and test matrices on which a linear classifier is the sanity check of this text.

    Returns
    -------
    Split
        Documents without any known term are dropped. `RidgeClassifier` fitted on train is right on 0.851 of test.

    Raises
    ------
    SourceUnavailableError, IntegrityError
        As `fetch`; IntegrityError too where the vocabulary is not of the size catalogued.
    """
    train, test = newsgroups("train"), newsgroups("test")
    vectorizer = _vectorizer()
    fitted = sparse.csr_array(vectorizer.fit_transform(train.texts))
    expect_dim(f"tfidf-documents-{TERMS}", fitted.shape[1], TERMS)
    applied = sparse.csr_array(vectorizer.transform(test.texts))
    train_rows, test_rows = _not_empty(fitted), _not_empty(applied)
    return Split(fitted[train_rows], train.categories[train_rows], applied[test_rows], test.categories[test_rows])


def lsa(dim: int) -> NDArray[np.float32]:
    """Return the leading coordinates of the documents of 20 Newsgroups train in latent semantic analysis.

    One randomized decomposition with 1,024 components (Halko et al., 2011; seed 0) is computed and kept; any `dim` is a
    prefix of it, so that columns agree between dimensions.

    Parameters
    ----------
    dim : int
        1 to 1,024.

    Returns
    -------
    (11,293, dim) float32
        U S of the TF-IDF matrix's decomposition, columns by falling singular value; read-only, memory-mapped.

    Raises
    ------
    InvalidInputError
        dim out of range.
    """
    check_whole(dim, "dim", 1, LSA_COMPONENTS, high_is="components of latent semantic analysis")
    corpus = newsgroups("train")
    parts = {
        "format": 1,
        "texts": texts_hash(corpus.texts),
        "settings": SETTINGS,
        "components": LSA_COMPONENTS,
        "seed": _SEED,
    }
    return cached_array("lsa", parts, lambda: _decomposed(_weighted(corpus)))[:, :dim]


def projection(x: sparse.csr_array, dim: int, seed: int) -> NDArray[np.float32]:
    """Project rows with a Gaussian matrix (Johnson and Lindenstrauss, 1984).

    Parameters
    ----------
    x : (n, d) sparse
    dim : int
        Columns of the result, at least 1.
    seed : int

    Returns
    -------
    (n, dim) float32
        x @ R with entries of R from N(0, 1/dim): squared lengths and inner products are kept in expectation, with a
        relative error of order sqrt(2/dim).
    """
    rng = np.random.default_rng(seed)
    rows = x.astype(np.float32)
    out = np.empty((rows.shape[0], dim), dtype=np.float32)
    for start in range(0, dim, _COLUMNS):
        stop = min(start + _COLUMNS, dim)
        out[:, start:stop] = rows @ rng.standard_normal((rows.shape[1], stop - start), dtype=np.float32)
    out /= np.float32(np.sqrt(dim))
    return out


def _vectorizer() -> Any:
    return require("sklearn.feature_extraction.text").TfidfVectorizer(**SETTINGS)


def _not_empty(x: sparse.csr_array) -> NDArray[np.intp]:
    return np.flatnonzero(np.diff(x.indptr)).astype(np.intp)


def _weighted(corpus: Corpus) -> _Weighted:
    vectorizer = _vectorizer()
    matrix = sparse.csr_array(vectorizer.fit_transform(corpus.texts))
    kept = _not_empty(matrix)
    dropped = matrix.shape[0] - len(kept)
    note = "; ".join(filter(None, (_DESCRIBED, corpus.note, f"{dropped} empty rows dropped")))
    return _Weighted(matrix[kept], tuple(vectorizer.get_feature_names_out()), kept, note)


def _decomposed(weighted: _Weighted) -> NDArray[np.float32]:
    svd = require("sklearn.decomposition").TruncatedSVD(LSA_COMPONENTS, algorithm="randomized", random_state=_SEED)
    return np.ascontiguousarray(svd.fit_transform(weighted.matrix), dtype=np.float32)


def _document_vectors(
    name: str, corpus: Corpus, kept: NDArray[np.intp], vectors: sparse.csr_array | NDArray[np.float32], note: str
) -> Vectors:
    return Vectors(
        vectors=vectors,
        labels=[corpus.labels[i] for i in kept.tolist()],
        categories=corpus.categories[kept],
        name=name,
        family="tfidf",
        dim=vectors.shape[1],
        origin=corpus.origin,
        licence=corpus.licence,
        seed=None,
        note=note,
    )


def _load_documents(name: str, terms: int, n: int | None, seed: int) -> Vectors:
    corpus = bbc() if name.startswith("tfidf-bbc") else newsgroups("train")
    weighted = _weighted(corpus)
    expect_dim(name, weighted.matrix.shape[1], terms)
    return taken(_document_vectors(name, corpus, weighted.kept, weighted.matrix, weighted.note), n, seed)


def _load_terms(name: str, n: int | None, seed: int) -> Vectors:
    corpus = newsgroups("train")
    weighted = _weighted(corpus)
    expect_dim(name, weighted.matrix.shape[0], DOCUMENTS)
    # Every term of the vocabulary is in at least min_df documents, so no row of the transpose can be empty.
    whole = Vectors(
        vectors=sparse.csr_array(weighted.matrix.T),
        labels=weighted.terms,
        categories=None,
        name=name,
        family="tfidf",
        dim=DOCUMENTS,
        origin=corpus.origin,
        licence=corpus.licence,
        seed=None,
        note=f"{weighted.note}; the documents' matrix transposed, so weights were scaled to norm 1 by document",
    )
    return taken(whole, n, seed)


def _load_lsa(name: str, dim: int, n: int | None, seed: int) -> Vectors:
    corpus = newsgroups("train")
    vectors = lsa(dim)
    expect_dim(name, vectors.shape[0], DOCUMENTS)
    note = f"{_DESCRIBED}; first {dim} of {LSA_COMPONENTS} components of one randomized decomposition (seed {_SEED})"
    return taken(_document_vectors(name, corpus, np.arange(DOCUMENTS), vectors, note), n, seed)


def _load_projection(name: str, dim: int, n: int | None, seed: int) -> Vectors:
    corpus = newsgroups("train")
    weighted = _weighted(corpus)
    expect_dim(name, weighted.matrix.shape[1], TERMS)
    note = f"{weighted.note}; Gaussian random projection from {TERMS:,} terms with seed {_SEED}"
    vectors = projection(weighted.matrix, dim, _SEED)
    return taken(_document_vectors(name, corpus, weighted.kept, vectors, note), n, seed)


def _source(name: str, dim: int, about: str, load: Callable[[int | None, int], Vectors]) -> Source:
    package = PACKAGES[BBC if name.startswith("tfidf-bbc") else NEWSGROUPS]
    return Source(
        name=name,
        family="tfidf",
        dim=dim,
        licence=package.licence,
        origin=f"{'BBC News' if package.name == BBC else '20 Newsgroups train'}, {package.requirement}",
        about=about,
        packages=(package.name,),
        optional=False,
        load=load,
    )


def _listed() -> Iterator[Source]:
    news, transposed, articles = f"tfidf-documents-{TERMS}", f"tfidf-terms-{DOCUMENTS}", f"tfidf-bbc-{BBC_TERMS}"
    about = "TF-IDF of 20 Newsgroups train, a row a document, a column a term; sparse."
    yield _source(news, TERMS, about, partial(_load_documents, news, TERMS))
    about = "TF-IDF of 20 Newsgroups train, a row a term, a column a document; sparse."
    yield _source(transposed, DOCUMENTS, about, partial(_load_terms, transposed))
    about = "TF-IDF of BBC News, a row a document, a column a term; sparse."
    yield _source(articles, BBC_TERMS, about, partial(_load_documents, articles, BBC_TERMS))
    for dim in LSA_DIMS:
        about = f"Latent semantic analysis of 20 Newsgroups train: TF-IDF reduced to {dim} components."
        yield _source(f"lsa-{dim}", dim, about, partial(_load_lsa, f"lsa-{dim}", dim))
    for dim in PROJECTION_DIMS:
        about = f"TF-IDF of 20 Newsgroups train, projected at random to {dim} dimensions."
        yield _source(f"projection-{dim}", dim, about, partial(_load_projection, f"projection-{dim}", dim))


SOURCES: tuple[Source, ...] = tuple(_listed())
