"""Whether categories are linearly separable, in how few directions, and how that compares with intrinsic dimension."""

import re
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from bench.figures.separability import separability as figure
from bench.harness.study import Context, Study, Tables, Unit
from bench.inputs import spaces
from geomkit import datasets
from geomkit.datasets import corpora, tfidf, word2vec
from geomkit.datasets.language_model import layer_vectors
from geomkit.datasets.layers import SMOLLM2_CARD, smollm2
from geomkit.interpret.separability import Separability, grouped_split, groups_of, row_keys, separability
from geomkit.stats.dimension import intrinsic_dimension
from geomkit.stats.spectrum import spectrum

SHUFFLES = 5

NEAR = 0.8
"""Articles at least so alike by cosine of TF-IDF are on one side of the split: one is often an update of the other."""

EVERY = 2
"""Of the layers of a language model, one in so many, unless all are asked for."""

SPARSE_DIRECTIONS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Tried of the sparse rows of 20 Newsgroups: all 4,000 would take ten minutes."""

LSA_DIMS = (50, 300, tfidf.LSA_COMPONENTS)

MOST = 4000
"""Rows of each part of 20 Newsgroups at most, drawn at random."""

WORDS = ("googlenews-300", "glove-50", "skipgram-300")
"""Word vectors whose means over the words of a document stand for it."""

ENCODERS = ("minilm-384", "use-512", "mpnet-768")
"""Sources of BBC articles that are no layer."""

QUICK_TEXTS = 40

BBC, NEWSGROUPS = "bbc", "20newsgroups"

SPLIT_BY, WIDE = "tfidf-bbc-12597", f"tfidf-documents-{tfidf.TERMS}"

_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True, slots=True)
class Space:
    """Vectors of documents with their categories, dealt into two parts."""

    source: str
    family: str
    corpus: str
    vectors: Any
    labels: NDArray[np.str_]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    n_given: int
    """Rows that could have been used."""
    near_copies: float
    """Share of the test rows with a training row at least `NEAR` by cosine of TF-IDF."""
    directions: tuple[int, ...] | None = None
    """Numbers of directions that are tried; None for powers of two up to all."""


def units(context: Context) -> tuple[Unit, ...]:
    """Every space of a corpus is a unit."""
    return (*_bbc_units(context), *_newsgroups_units(context))


def measure(context: Context, unit: Unit) -> Tables:
    """Probe one space: a row of separability.csv, and its curves for separability_curve.csv."""
    space = space_of(unit.name, context)
    start = time.perf_counter()
    found = separability(
        space.vectors, space.labels, train=space.train, test=space.test, shuffles=SHUFFLES, on_copies="drop",
        # Sources draw their own random rows and shuffles, whatever others are measured.
        seed=context.seed + zlib.crc32(space.source.encode()), directions=space.directions,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    curve = found.to_frame().assign(source=space.source, corpus=space.corpus)
    return {
        "separability.csv": pd.DataFrame([_row(space, found, seconds)]),
        "separability_curve.csv": curve[["corpus", "source", "kind", "directions", "accuracy", "ci_low", "ci_high"]],
    }


def conclude(context: Context) -> None:
    """Say what was left out, what all fits took, and what a fit would take at a million rows."""
    table, curve = context.read("separability.csv"), context.read("separability_curve.csv")
    if context.quick:
        context.say(f"--quick takes {QUICK_TEXTS} articles of BBC News, and leaves out 20 Newsgroups")
    elif not context.everything:
        context.say(f"of the layers of a language model, one in {EVERY}; all with --all")
    fits = len(curve) + len(table) * (SHUFFLES + 2)
    each = table.seconds.sum() / fits
    at_scale = each * 1e6 * 768 / float((table.n_train * table.d).mean())
    context.say(f"{table.seconds.sum():.0f} s for {fits} fits, {each:.2f} s a fit")
    context.say(f"a fit grows with rows times columns: some {at_scale:,.0f} s at a million rows of 768")


def draw(context: Context) -> None:
    """Draw separability.svg."""
    context.figure("separability", figure(context.read("separability.csv"), context.read("separability_curve.csv")))


def _row(space: Space, found: Separability, seconds: float) -> dict[str, Any]:
    x = space.vectors[space.train]
    shape, twonn = spectrum(x), intrinsic_dimension(x, method="twonn")
    layer = re.search(r"-layer(\d+)-", space.source)
    return {
        "corpus": space.corpus, "source": space.source, "family": space.family,
        "layer": int(layer[1]) if layer else "", **found.to_dict(),
        "twonn": twonn.dimension, "twonn_se": twonn.dimension_se, "participation_ratio": shape.participation_ratio,
        "effective_rank": shape.effective_rank, "n_given": space.n_given, "near_copies": space.near_copies,
        "seconds": round(seconds, 2),
    }  # fmt: skip


def space_of(unit: str, context: Context) -> Space:
    """Return the space that a unit is named after: its corpus, and its source there."""
    corpus, _, source = unit.partition(" ")
    return bbc_space(source, context) if corpus == BBC else newsgroups_space(source, context)


def _bbc_units(context: Context) -> Iterator[Unit]:
    # The split of all spaces is by the cosines of this source.
    yield Unit(f"{BBC} {SPLIT_BY}", (SPLIT_BY,))
    for name in WORDS[: 1 if context.quick else None]:
        yield Unit(f"{BBC} {_mean(name)}", (name, SPLIT_BY))
    for name in document_names(context):
        if not spaces.left_out(name, context):
            yield Unit(f"{BBC} {name}", (name, SPLIT_BY))


def _newsgroups_units(context: Context) -> Iterator[Unit]:
    if context.quick:
        return
    yield Unit(f"{NEWSGROUPS} {WIDE}", (WIDE,))
    for dim in LSA_DIMS:
        yield Unit(f"{NEWSGROUPS} lsa-{dim}", (f"lsa-{dim}",))
    for name in WORDS:
        yield Unit(f"{NEWSGROUPS} {_mean(name)}", (name,))


def _mean(name: str) -> str:
    """Name of the means of some word vectors over the words of a document."""
    return name.replace("-", "-mean-")


@dataclass(frozen=True, slots=True)
class Articles:
    """Articles of BBC News, split so that near copies of an article are on its side."""

    ids: list[str]
    texts: list[str]
    labels: NDArray[np.str_]
    weighted: Any
    """Their TF-IDF, a row an article."""
    train: NDArray[np.int64]
    test: NDArray[np.int64]


def articles(context: Context) -> Articles:
    """Return the articles that all spaces of BBC News are of, and their one split."""
    corpus = corpora.bbc()
    chosen = np.arange(len(corpus.texts))
    if context.quick:
        chosen = np.linspace(0, len(chosen) - 1, QUICK_TEXTS).astype(np.int64)
    weighted = datasets.load(SPLIT_BY)
    place = {label: row for row, label in enumerate(weighted.labels)}
    chosen = np.array([row for row in chosen if corpus.labels[row] in place])
    known: Any = weighted.vectors
    known = known[[place[corpus.labels[row]] for row in chosen]]
    labels = corpus.categories[chosen]
    train, test = grouped_split(labels, groups_of(row_keys(known), pairs_above(known, NEAR)), seed=context.seed)
    ids = [corpus.labels[row] for row in chosen]
    return Articles(ids, [corpus.texts[row] for row in chosen], labels, known, train, test)


def bbc_space(source: str, context: Context) -> Space:
    """Return a space of BBC News: one of `document_names`, means of word vectors, or TF-IDF."""
    given = articles(context)

    def space(family: str, vectors: Any) -> Space:
        return Space(source, family, BBC, vectors, given.labels, given.train, given.test, len(given.ids), 0.0)

    if source == SPLIT_BY:
        return space("tfidf", given.weighted)
    if "-mean-" in source:
        return space("word2vec", mean_of_words(source.replace("-mean-", "-"), given.texts))
    if context.quick:
        some = replace(corpora.bbc(), texts=tuple(given.texts), labels=tuple(given.ids), categories=given.labels)
        layer = int(source.partition("-layer")[2][:2])
        return space("llm", layer_vectors(SMOLLM2_CARD, some, layer, "documents", smollm2).vectors)
    loaded: Any = spaces.load(source, context)
    at = {label: row for row, label in enumerate(loaded.labels)}
    return space(loaded.family, loaded.vectors[[at[each] for each in given.ids]])


def document_names(context: Context) -> list[str]:
    """List the sources of BBC articles by language models and encoders; of layers one in `EVERY`, unless all."""
    listed = [name for name in spaces.names(context) if datasets.get(name).family == "llm"]
    names = [name for name in listed if "-documents-" in name or name in ENCODERS]
    if context.everything or context.quick:
        return names
    layers = {name: re.search(r"-layer(\d+)-", name) for name in names}
    return [name for name, layer in layers.items() if not layer or int(layer[1]) % EVERY == 0]


def newsgroups_space(source: str, context: Context) -> Space:
    """Return a space of 20 Newsgroups, split by date, as it comes; all that is fitted is fitted to the earlier part."""
    split = tfidf.newsgroups_split()
    rng = np.random.default_rng(context.seed)
    parts = [
        np.sort(rng.choice(each.shape[0], min(MOST, each.shape[0]), replace=False))
        for each in (split.train, split.test)
    ]
    labels = np.concatenate([split.train_categories[parts[0]], split.test_categories[parts[1]]])
    train, test = np.arange(len(parts[0])), len(parts[0]) + np.arange(len(parts[1]))
    first, second = split.train[parts[0]], split.test[parts[1]]
    near = float(np.mean([row.max() >= NEAR for row in _blocks(second, split.train)]))
    given = split.train.shape[0] + split.test.shape[0]

    def space(family: str, *vectors: Any) -> Space:
        stack = sparse.vstack(vectors).tocsr() if sparse.issparse(vectors[0]) else np.vstack(vectors)
        return Space(source, family, NEWSGROUPS, stack, labels, train, test, given, near)

    if source == WIDE:
        tried = tuple(k for k in SPARSE_DIRECTIONS if k < first.shape[0])
        return replace(space("tfidf", first, second), directions=tried)
    if source.startswith("lsa-"):
        whole, dim = tfidf.lsa(tfidf.LSA_COMPONENTS), int(source.removeprefix("lsa-"))
        # X = U S Vᵀ was decomposed, and US kept: V = Xᵀ US/S².
        right = split.train.T @ (whole / np.square(whole, dtype=np.float64).sum(axis=0))
        return space("tfidf", whole[parts[0], :dim], second @ right[:, :dim])
    means = []
    for corpus, matrix, part in zip(
        (corpora.newsgroups("train"), corpora.newsgroups("test")), (split.train, split.test), parts, strict=True
    ):
        rows = _kept(matrix, corpus.texts)[part]
        means.append(mean_of_words(source.replace("-mean-", "-"), [corpus.texts[row] for row in rows]))
    return space("word2vec", *means)


def _kept(matrix: Any, texts: tuple[str, ...]) -> NDArray[np.int64]:
    """Rows of the corpus that are in a matrix without rows of zeros: all of them, or those with a known term."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    if matrix.shape[0] == len(texts):
        return np.arange(len(texts))
    fitted = TfidfVectorizer(**tfidf.SETTINGS).fit(corpora.newsgroups("train").texts)
    return np.flatnonzero(np.diff(fitted.transform(texts).indptr))


def _blocks(rows: Any, others: Any) -> Iterator[NDArray[np.float64]]:
    for start in range(0, rows.shape[0], 500):
        yield from (rows[start : start + 500] @ others.T).toarray()


def pairs_above(x: Any, least: float) -> list[int]:
    """Return numbers of connected parts of the graph that joins rows of norm 1 whose cosine is at least so much."""
    near = (x @ x.T).tocoo()
    keep = near.data >= least
    graph = sparse.coo_array((near.data[keep], (near.row[keep], near.col[keep])), shape=near.shape)
    return [int(each) for each in connected_components(graph, directed=False)[1]]


def mean_of_words(name: str, texts: list[str]) -> NDArray[np.float32]:
    """Average the vectors of the words of each text, lower-cased; zero where none is known."""
    read = {"googlenews-300": word2vec.googlenews, "glove-50": word2vec.glove}
    found = read[name]() if name in read else word2vec.skipgram(int(name.rpartition("-")[2]))
    place = {word: row for row, word in enumerate(found.words)}
    out = np.zeros((len(texts), found.vectors.shape[1]), np.float32)
    for at, text in enumerate(texts):
        rows = [place[word] for word in _WORD.findall(text.lower()) if word in place]
        if rows:
            out[at] = found.vectors[rows].mean(axis=0)
    return out


STUDY = Study(
    "separability", "whether categories are linearly separable, and in how few directions", measure, units, conclude,
    draw,
)  # fmt: skip
