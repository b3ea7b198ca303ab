"""One row for each word of a common vocabulary in every family of spaces, and judges of which words go together."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from bench.harness.study import Context
from geomkit import datasets
from geomkit.core.optional import require
from geomkit.datasets import corpora, tfidf, word2vec
from geomkit.interpret.activations import SMOLLM2, Activations, activations
from geomkit.interpret.coherence import coherence
from geomkit.interpret.npmi import Association, association
from geomkit.interpret.sae.autoencoder import SparseAutoencoder

LAYERS = (8, 16, 24)
"""Of 30, beside the input table; that of the sparse autoencoder among them."""

LEVELS = {"High": "tfidf", "Medium": "word2vec", "Low": "llm"}
"""The article's ranking of interpretability."""

AHEAD = 1_000_000_000
"""Words of a reference corpus that the cost of counting is carried forward to."""

CHECKED_TEXTS, CHECKED_TOPICS = 40, 50
"""Of the reference, that gensim counts too."""

TOLERANCE = 1e-9
"""Of a coherence, that gensim may differ by in the same windows."""

RANDOM_DIM = 300

Array = NDArray[Any]

_WORD = re.compile("[a-z]+")

_SPACES = "ĠĊĉč"
"""How byte-level vocabularies write a space, a new line, a tabulator and a return: as letters."""


@dataclass(frozen=True, slots=True)
class Size:
    """What words must have to be judged in, and how much is read."""

    reference_stride: int
    """Every so many reference texts are read."""
    least_texts: int
    """Reference texts that a word must be in."""
    least_contexts: int
    """Places in the texts that the model read at which a word must stand."""
    layers: tuple[int, ...]


FULL = Size(1, 20, 5, LAYERS)
QUICK = Size(5, 4, 1, (16,))


@dataclass(frozen=True, slots=True)
class Space:
    """A row for each word of the common vocabulary."""

    name: str
    family: str
    level: str
    """In the article's ranking; empty where it has none."""
    group: str
    """Spaces of one model share it: they are no independent witnesses."""
    vectors: Any
    both: bool
    """Whether dimensions have two ends; not where no number is negative."""
    probe: str = ""
    """How `separability.csv` calls it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the model reads, and whose features its states are turned into."""

    texts: tuple[str, ...]
    max_tokens: int
    layer: int
    autoencoder: Callable[[], SparseAutoencoder]


@dataclass(frozen=True, slots=True)
class Contexts:
    """The words of the common vocabulary, and where the model reads them."""

    words: tuple[str, ...]
    tokens: NDArray[np.int64]
    """Number of each in the model's vocabulary, (words,)."""
    rows: NDArray[np.int64]
    """Rows of the activations that are of one of them, (places,)."""
    mean: Any
    """(words, places), sparse: the weights of a mean over the places of each word."""


def prepared(reading: Reading, context: Context) -> tuple[list[Space], tuple[str, ...], dict[str, Array], Array]:
    """Return the spaces, the floor first, the words that are their rows, the judges, and how frequent each word is.

    The judges are NPMI in 20 Newsgroups test, which is later than train and nothing here was fitted to, and cosines of
    GloVe, which is none of the spaces.
    """
    size = QUICK if context.quick else FULL
    layers = sorted({*size.layers, reading.layer})
    texts = [text.split() for text in corpora.newsgroups("test").texts[:: size.reference_stride]]
    states = activations(SMOLLM2, reading.texts, layers, max_tokens=reading.max_tokens)
    terms = {"bbc": _terms(corpora.bbc().texts)}
    if context.quick:
        context.say("--quick leaves out TF-IDF of 20 Newsgroups")
    else:
        terms["newsgroups"] = _terms(corpora.newsgroups("train").texts)
    vectors = {"skipgram": word2vec.skipgram(300), "googlenews": word2vec.googlenews()}
    glove, table = word2vec.glove(), datasets.load("smollm2-input-576")
    often = Counter(word for text in texts for word in set(text))
    known = [{word for word, count in often.items() if count >= size.least_texts}]
    known += [set(names) for names, _ in terms.values()]
    known += [set(each.words) for each in (*vectors.values(), glove)]
    found = common(table.labels, states, set.intersection(*known), size.least_contexts)

    def rows(names: Sequence[str], of: Any) -> Any:
        place = {name: at for at, name in enumerate(names)}
        return of[[place[word] for word in found.words]]

    random = np.random.default_rng(context.seed).standard_normal((len(found.words), RANDOM_DIM))
    spaces = [Space("random", "random", "", "random", random, both=True)]
    for name, each in terms.items():
        probe = f"tfidf-bbc-{tfidf.BBC_TERMS}" if name == "bbc" else ""
        spaces.append(Space(f"tfidf {name}", "tfidf", "High", f"tfidf {name}", rows(*each), both=False, probe=probe))
    for name, word_vectors in vectors.items():
        mine = rows(word_vectors.words, word_vectors.vectors)
        spaces.append(Space(name, "word2vec", "Medium", name, mine, both=True, probe=f"{name}-mean-300"))
    inputs: Any = table.vectors
    spaces.append(_of_model("smollm2 input", inputs[found.tokens], 0))
    spaces += [
        _of_model(f"smollm2 layer {layer}", found.mean @ states.states[layer][found.rows], layer) for layer in layers
    ]
    features = reading.autoencoder().encode(states.states[reading.layer][found.rows])
    spaces.append(
        Space(f"sae of layer {reading.layer}", "llm", "", "smollm2", (found.mean @ features).tocsr(), both=False)
    )
    reference = counted(texts, found.words, context)
    near = np.asarray(rows(glove.words, glove.vectors), np.float64)
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    return spaces, found.words, {"npmi": reference.npmi, "glove": near @ near.T}, reference.occurrences


def _of_model(name: str, vectors: Array, layer: int) -> Space:
    return Space(name, "llm", "Low", "smollm2", vectors, both=True, probe=f"smollm2-documents-layer{layer:02}-576")


def _terms(texts: Iterable[str]) -> tuple[tuple[str, ...], Any]:
    """Return the terms of some texts, and their weights in each text, a row a term."""
    weigh = require("sklearn.feature_extraction.text").TfidfVectorizer(**tfidf.SETTINGS)
    weights = weigh.fit_transform(texts)
    return tuple(weigh.get_feature_names_out()), weights.T.tocsr()


def common(labels: Sequence[str], states: Activations, known: set[str], least: int) -> Contexts:
    """Find the words that are one token, and where the model read them as a whole word.

    Parameters
    ----------
    labels : sequence of str
        Tokens of the model's vocabulary; ``Ġ`` is the space before a word.
    states : Activations
        Attention sinks are left out, and tokens that go on or end what was read, of which what follows is not known.
    known : set of str
    least : int
        Places that a word needs.
    """
    token = {label[1:]: at for at, label in enumerate(labels) if label[:1] == "Ġ" and _WORD.fullmatch(label[1:])}
    goes_on = np.array([label[:1].isalnum() and label[0] not in _SPACES for label in labels])
    follows = states.next_tokens
    whole = ~states.sinks & (follows >= 0)
    whole[whole] = ~goes_on[follows[whole]]
    times = np.bincount(states.tokens[whole], minlength=len(labels))
    words = tuple(sorted(word for word in known & token.keys() if times[token[word]] >= least))
    tokens = np.array([token[word] for word in words], np.int64)
    of = np.full(len(labels), -1)
    of[tokens] = np.arange(len(words))
    rows = np.flatnonzero(whole & (of[states.tokens] >= 0))
    which = of[states.tokens[rows]]
    share = (1 / times[tokens[which]]).astype(np.float32)
    mean = csr_array((share, (which, np.arange(len(rows)))), shape=(len(words), len(rows)))
    return Contexts(words, tokens, rows, mean)


def counted(texts: Sequence[Sequence[str]], words: Sequence[str], context: Context) -> Association:
    """Count windows of the reference, say what it takes, and hold coherence against gensim's on a part of it.

    Raises
    ------
    RuntimeError
        gensim finds another coherence in the same windows.
    """
    begun = time.perf_counter()
    found = association(texts, words)
    seconds = time.perf_counter() - begun
    context.say(
        f"counting {found.n_windows:,} windows of {found.n_tokens:,} words takes {seconds:.1f} s: "
        f"{seconds / found.n_tokens * AHEAD / 3600:.1f} hours for {AHEAD:,} words"
    )
    apart, passing = against_gensim(texts[:CHECKED_TEXTS], words, context.seed)
    context.say(
        f"C_NPMI of {CHECKED_TOPICS} topics is gensim's to {apart:.0e} in the same windows; gensim's own windows, "
        f"which lose a word that stands twice, give another one by {passing:.3f} on average"
    )
    if not apart < TOLERANCE:
        msg = f"C_NPMI differs from gensim's by {apart:.2g} in the same windows"
        raise RuntimeError(msg)
    return found


def against_gensim(texts: Sequence[Sequence[str]], words: Iterable[str], seed: int) -> tuple[float, float]:
    """Return how far C_NPMI of topics drawn at random is from gensim's.

    Returns
    -------
    float
        At most, where gensim is given each window as a text.
    float
        On average, where it is given the texts.
    """
    there = {word for text in texts for word in text}
    known = [word for word in words if word in there]
    ours = association(texts, known)
    rng = np.random.default_rng(seed)
    topics = np.array([rng.choice(len(known), 10, replace=False) for _ in range(CHECKED_TOPICS)])
    named = [[known[at] for at in topic] for topic in topics]
    size = ours.window
    windows = [list(text[at : at + size]) for text in texts if text for at in range(max(1, len(text) - size + 1))]
    dictionary = require("gensim.corpora").Dictionary(windows)
    apart = []
    for given in (windows, [list(text) for text in texts if text]):
        theirs = require("gensim.models").CoherenceModel(
            topics=named, texts=given, dictionary=dictionary, coherence="c_npmi", window_size=size, processes=1
        )
        apart.append(np.abs(coherence(ours.npmi, topics) - theirs.get_coherence_per_topic()))
    return float(apart[0].max()), float(apart[1].mean())
