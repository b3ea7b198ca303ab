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
from tqdm import tqdm

from bench import inputs
from bench.runner import Context, Study
from geomkit import sources
from geomkit.meaning.separability import Separability, grouped_split, groups_of, row_keys, separability
from geomkit.report.separability import separability as figure
from geomkit.sources import corpora, tfidf, word2vec
from geomkit.sources.language_model import layer_vectors
from geomkit.sources.layers import SMOLLM2_CARD, smollm2
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


def run(context: Context) -> None:
    """Probe every space, and write separability.csv, separability_curve.csv and the figure."""
    rows: list[dict[str, Any]] = []
    curves = []
    for space in tqdm(_spaces(context), desc="separability", unit="space", disable=None):
        start = time.perf_counter()
        found = separability(
            space.vectors, space.labels, train=space.train, test=space.test, shuffles=SHUFFLES, on_copies="drop",
            # Sources draw their own random rows and shuffles, whatever others are measured.
            seed=context.seed + zlib.crc32(space.source.encode()), directions=space.directions,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        rows.append(_row(space, found, seconds))
        curves.append(found.to_frame().assign(source=space.source, corpus=space.corpus))
    table = pd.DataFrame(rows)
    curve = pd.concat(curves)[["corpus", "source", "kind", "directions", "accuracy", "low", "high"]]
    context.table("separability.csv", table)
    context.table("separability_curve.csv", curve)
    fits = len(curve) + len(table) * (SHUFFLES + 2)
    each = table.seconds.sum() / fits
    at_scale = each * 1e6 * 768 / float((table.n_train * table.d).mean())
    context.say(f"{table.seconds.sum():.0f} s for {fits} fits on one thread, {each:.2f} s a fit")
    context.say(f"a fit grows with rows times columns: some {at_scale:,.0f} s at a million rows of 768")


def draw(context: Context) -> None:
    """Draw separability.svg and separability.png."""
    context.figure("separability", figure(context.read("separability.csv"), context.read("separability_curve.csv")))


def _row(space: Space, found: Separability, seconds: float) -> dict[str, Any]:
    x = space.vectors[space.train]
    shape, twonn = spectrum(x), intrinsic_dimension(x, method="twonn")
    layer = re.search(r"-layer(\d+)-", space.source)
    return {
        "corpus": space.corpus, "source": space.source, "family": space.family,
        "layer": int(layer[1]) if layer else "", **found.to_dict(),
        "twonn": twonn.dimension_, "twonn_se": twonn.dimension_se, "participation_ratio": shape.participation_ratio,
        "effective_rank": shape.effective_rank, "n_given": space.n_given, "near_copies": space.near_copies,
        "seconds": round(seconds, 2),
    }  # fmt: skip


def _spaces(context: Context) -> Iterator[Space]:
    yield from bbc_spaces(context)
    if context.quick:
        context.say("--quick leaves out 20 Newsgroups")
    else:
        yield from newsgroups_spaces(context)


def bbc_spaces(context: Context) -> Iterator[Space]:
    """Yield every space of BBC News, all split alike: near copies of an article are on its side."""
    corpus = corpora.bbc()
    chosen = np.arange(len(corpus.texts))
    if context.quick:
        chosen = np.linspace(0, len(chosen) - 1, QUICK_TEXTS).astype(np.int64)
        context.say(f"--quick takes {QUICK_TEXTS} of {len(corpus.texts):,} articles")
    weighted = sources.load("tfidf-bbc-12597")
    place = {label: row for row, label in enumerate(weighted.labels)}
    chosen = np.array([row for row in chosen if corpus.labels[row] in place])
    known: Any = weighted.vectors
    known = known[[place[corpus.labels[row]] for row in chosen]]
    labels = corpus.categories[chosen]
    alike = pairs_above(known, NEAR)
    train, test = grouped_split(labels, groups_of(row_keys(known), alike), seed=context.seed)
    ids = [corpus.labels[row] for row in chosen]
    texts = [corpus.texts[row] for row in chosen]

    def space(source: str, family: str, vectors: Any) -> Space:
        return Space(source, family, "bbc", vectors, labels, train, test, len(ids), 0.0)

    yield space("tfidf-bbc-12597", "tfidf", known)
    for name in WORDS[: 1 if context.quick else None]:
        yield space(f"{name.replace('-', '-mean-')}", "word2vec", mean_of_words(name, texts))
    if context.quick:
        some = replace(corpus, texts=tuple(texts), labels=tuple(ids), categories=labels)
        for layer in (0, 16, 30):
            found = layer_vectors(SMOLLM2_CARD, some, layer, "documents", smollm2)
            yield space(f"smollm2-documents-layer{layer:02}-576", "llm", found.vectors)
        return
    for name in document_names(context):
        loaded = inputs.load(name, context, whole=True)
        if isinstance(loaded, inputs.Missing):
            continue
        at = {label: row for row, label in enumerate(loaded.labels)}
        yield space(name, loaded.family, loaded.vectors[[at[each] for each in ids]])


def document_names(context: Context) -> list[str]:
    """List the sources of BBC articles by language models and encoders; of layers one in `EVERY`, unless all."""
    listed = [name for name in inputs.names(context) if sources.get(name).family == "llm"]
    names = [name for name in listed if "-documents-" in name or name in ENCODERS]
    if context.everything:
        return names
    context.say(f"of the layers of a language model, one in {EVERY}; all with --all")
    layers = {name: re.search(r"-layer(\d+)-", name) for name in names}
    return [name for name, layer in layers.items() if not layer or int(layer[1]) % EVERY == 0]


def newsgroups_spaces(context: Context) -> Iterator[Space]:
    """Yield spaces of 20 Newsgroups, split by date, as it comes; all that is fitted is fitted to the earlier part."""
    split = tfidf.newsgroups_split()
    rng = np.random.default_rng(context.seed)
    parts = [
        np.sort(rng.choice(each.shape[0], min(MOST, each.shape[0]), replace=False))
        for each in (split.train, split.test)
    ]
    context.say(f"20 Newsgroups: {len(parts[0]):,} and {len(parts[1]):,} rows, drawn at random")
    labels = np.concatenate([split.train_categories[parts[0]], split.test_categories[parts[1]]])
    train, test = np.arange(len(parts[0])), len(parts[0]) + np.arange(len(parts[1]))
    first, second = split.train[parts[0]], split.test[parts[1]]
    near = float(np.mean([row.max() >= NEAR for row in _blocks(second, split.train)]))
    given = split.train.shape[0] + split.test.shape[0]

    def space(source: str, family: str, *vectors: Any) -> Space:
        stack = sparse.vstack(vectors).tocsr() if sparse.issparse(vectors[0]) else np.vstack(vectors)
        return Space(source, family, "20newsgroups", stack, labels, train, test, given, near)

    wide = space(f"tfidf-documents-{tfidf.TERMS}", "tfidf", first, second)
    yield replace(wide, directions=tuple(k for k in SPARSE_DIRECTIONS if k < first.shape[0]))
    whole = tfidf.lsa(tfidf.LSA_COMPONENTS)
    # X = U S Vᵀ was decomposed, and US kept: V = Xᵀ US/S².
    right = split.train.T @ (whole / np.square(whole, dtype=np.float64).sum(axis=0))
    for dim in LSA_DIMS:
        yield space(f"lsa-{dim}", "tfidf", whole[parts[0], :dim], second @ right[:, :dim])
    texts = [corpora.newsgroups("train").texts, corpora.newsgroups("test").texts]
    kept = [_kept(split.train, texts[0]), _kept(split.test, texts[1])]
    for name in WORDS:
        means = [
            mean_of_words(name, [text[row] for row in rows[part]])
            for text, rows, part in zip(texts, kept, parts, strict=True)
        ]
        yield space(f"{name.replace('-', '-mean-')}", "word2vec", *means)


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


STUDY = Study("separability", "whether categories are linearly separable, and in how few directions", run, draw=draw)
