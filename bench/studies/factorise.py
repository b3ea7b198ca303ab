"""Whether skip-gram is a factorisation of shifted PMI: both on the same words and windows, beside two skip-grams."""

import hashlib
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from bench.figures.factorise import factorise as figure_of
from bench.figures.factorise import finding
from bench.harness.code_keys import Code
from bench.harness.study import Context, Study, Tables, Unit
from bench.measures import tasks
from bench.measures.intervals import jackknife
from geomkit.core.cache import cached_folder, derived, read_array
from geomkit.core.threads import one_thread_each
from geomkit.datasets import corpora, word2vec
from geomkit.interpret.cooccurrence import Cooccurrence, cooccurrence
from geomkit.interpret.factorise import Factorisation, factorise, pmi
from geomkit.stats.alignment import alignment

DIMS, DIMS_QUICK = (50, 100, 300), (50,)
POWERS = (0.0, 0.5, 1.0)
SHIFTS = (1, word2vec.SETTINGS["negative"])
ALPHA = 0.75
"""Power on the distribution that gensim draws negative samples from."""

SUBSAMPLE = 1e-3
"""Threshold at which gensim drops frequent words, unless told otherwise."""

TEXTS_QUICK = 500
FREQUENT = 5000
"""Words that spaces are compared on, the most frequent: a word of five occurrences has hardly a vector."""

RESAMPLES = 1001
"""Of pairs of words; the first is the pairs as they are."""

SHUFFLES = 200
"""Of the rows: pairs share words, so that one order alone can be far from chance by luck."""

K = 10
SEEDS = (0, 1)
"""Of skip-gram; the vectors of the first are those of the source."""

PAIRS = 400_000
"""Pairs of word and context that the theory is held against, at most."""

SEEN = 5.0
"""Expected meetings of a pair from which on its PMI is held against the theory: below, it is mostly noise."""

BLOCK = 20
"""Words of neighbouring rank whose contexts are exchanged, as a floor that keeps what frequency alone explains."""

AHEAD = 1e9
"""Words of a corpus that costs are carried forward to."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One number, with its interval, beside what nothing in common and two trainings would give."""

    space: str
    """``ppmi-svd``, ``skip-gram``, ``skip-gram, other seed`` or ``skip-gram, rows shuffled``."""
    dim: int
    shift: float
    power: float
    statistic: str
    value: float
    low: float
    high: float
    """Ends of the 95 % interval over words, or over pairs judged by people; of shuffled ones, over shuffles."""
    n: int
    """Words or pairs."""
    left_out: int = 0
    """Pairs with a word that the corpus does not have."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Trained:
    """Skip-gram vectors in the order of our vocabulary."""

    vectors: Array
    contexts: Array | None
    seconds: float
    """That training took, when it was done."""


def units(context: Context) -> tuple[Unit, ...]:
    """Every number of dimensions is a unit."""
    dims = DIMS_QUICK if context.quick else DIMS
    # In a quick run skip-gram is trained on a few texts, and no source is read.
    return tuple(
        Unit(f"{dim} dimensions", () if context.quick else (f"skipgram-{dim}",), shares="SVDs") for dim in dims
    )


def measure(context: Context, unit: Unit) -> Tables:
    """Compare all spaces of one number of dimensions; the cost of counts and SVDs, of all, is told with the first."""
    dims, dim = DIMS_QUICK if context.quick else DIMS, int(unit.name.split()[0])
    sentences = [text.split() for text in corpora.newsgroups("train").texts[: TEXTS_QUICK if context.quick else None]]
    settings, tokens = word2vec.SETTINGS, sum(len(each) for each in sentences)
    start = time.perf_counter()
    seen = cooccurrence(
        sentences, window=settings["window"], min_count=settings["min_count"], dynamic=True, subsample=SUBSAMPLE
    )
    steps = [("counts", 0, time.perf_counter() - start)]
    found = {}
    for shift in SHIFTS:
        found[shift], seconds = decomposed(seen, shift, max(dims), context.seed)
        steps.append((f"SVD, shift {shift}", max(dims), seconds))
    pair = [skipgram(sentences, dim, seed, seen.words, whole=not context.quick) for seed in SEEDS]
    steps = [*(steps if dim == dims[0] else ()), ("skip-gram", dim, pair[1].seconds)]
    rows = of_dim(dim, pair, found, seen, context.seed)
    return {
        "factorise.csv": pd.DataFrame([asdict(row) for row in rows]),
        "factorise_cost.csv": pd.DataFrame([_cost(*step, tokens, context) for step in steps]),
    }


def conclude(context: Context) -> None:
    """Say whether the equivalence holds."""
    context.say(finding(context.read("factorise.csv")).replace("\n", "; "))


def draw(context: Context) -> None:
    """Draw factorise.svg."""
    context.figure("factorise", figure_of(context.read("factorise.csv")))


def decomposed(seen: Cooccurrence, shift: int, dim: int, seed: int) -> tuple[Factorisation, float]:
    """Decompose shifted PMI, which is kept for all dimensions; return what it took when it was done, too."""
    # The optimum is of the distribution that negative samples come from: of all occurrences, dropped or not.
    matrix = pmi(seen.counts, alpha=ALPHA, shift=shift, contexts=seen.occurrences)
    digest = hashlib.sha256(b"".join(each.tobytes() for each in (matrix.data, matrix.indices, matrix.indptr)))
    # What is kept is of these numbers and of this code, as the units that read it are.
    parts = {"matrix": digest.hexdigest(), "dim": dim, "seed": seed, "code": Code().closure_of([factorise]).modules}
    arrays = ("left", "singular_values", "right")

    def build(folder: Path) -> None:
        start = time.perf_counter()
        with one_thread_each():
            made = factorise(matrix, dim, seed=seed, words=seen.words)
        about = {
            "seconds": time.perf_counter() - start,
            "solver": made.solver,
            "residual_fraction": made.residual_fraction,
        }
        for name in arrays:
            np.save(folder / f"{name}.npy", getattr(made, name))
        (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")

    folder = cached_folder(derived(f"ppmi-svd-{dim}", parts), parts, build)
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    left, values, right = (np.asarray(np.load(folder / f"{name}.npy"), np.float64) for name in arrays)
    made = Factorisation(left, values, right, seen.words, 0.5, seed, about["solver"], about["residual_fraction"])
    return made, about["seconds"]


def _cost(what: str, dim: int, seconds: float, tokens: int, context: Context) -> dict[str, Any]:
    ahead = seconds * AHEAD / tokens
    name = f"{what}, {dim} dimensions" if dim else what
    context.say(f"{name}: {seconds:.1f} s for {tokens:,} words; {ahead / 3600:.2g} h for {AHEAD:.0e} at that rate")
    return {"what": what, "dim": dim, "seconds": seconds, "tokens": tokens, "seconds_ahead": ahead}


def skipgram(sentences: Sequence[Sequence[str]], dim: int, seed: int, words: Sequence[str], *, whole: bool) -> Trained:
    """Skip-gram trained as the source is, with its context vectors, in the order of `words`; kept where it is whole.

    Parameters
    ----------
    sentences : sequence of sequences of str
    dim, seed : int
    words : sequence of str
        The vocabulary.
    whole : bool
        The corpus is that of the source: the vectors of its seed are the source's, and others are kept beside them.

    Raises
    ------
    ValueError
        gensim's vocabulary is another one.
    """
    if whole and seed == SEEDS[0]:
        source = word2vec.skipgram(dim)
        return Trained(_ordered(source.words, words, source.vectors), None, math.nan)
    if not whole:
        names, vectors, contexts, seconds = _train(sentences, dim, seed)
        return Trained(_ordered(names, words, vectors), _ordered(names, words, contexts), seconds)
    parts = {
        "format": 1, "texts": corpora.texts_hash([" ".join(each) for each in sentences]), "dim": dim, "seed": seed,
        "settings": word2vec.SETTINGS,
    }  # fmt: skip

    def build(folder: Path) -> None:
        logging.getLogger(__name__).info("training skip-gram at %d dimensions; this takes minutes and is kept", dim)
        names, vectors, contexts, seconds = _train(sentences, dim, seed)
        np.save(folder / "vectors.npy", vectors)
        np.save(folder / "contexts.npy", contexts)
        (folder / "about.json").write_text(json.dumps({"words": names, "seconds": seconds}), encoding="utf-8")

    folder = cached_folder(derived(f"skipgram-contexts-{dim}", parts), parts, build)
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    vectors, contexts = (read_array(folder / f"{name}.npy") for name in ("vectors", "contexts"))
    return Trained(
        _ordered(about["words"], words, vectors), _ordered(about["words"], words, contexts), about["seconds"]
    )


def _train(sentences: Sequence[Sequence[str]], dim: int, seed: int) -> tuple[list[str], Array, Array, float]:
    """Train as `word2vec.train_skipgram` does, and return the context vectors too."""
    from gensim.models import Word2Vec

    longest = 10_000  # words that gensim reads of a sentence
    pieces = [list(each[at : at + longest]) for each in sentences for at in range(0, len(each), longest)]
    start = time.perf_counter()
    model = Word2Vec(pieces, vector_size=dim, seed=seed, workers=1, **word2vec.SETTINGS)
    return list(model.wv.index_to_key), model.wv.vectors, model.syn1neg, time.perf_counter() - start


def _ordered(names: Sequence[str], words: Sequence[str], vectors: Array) -> Array:
    if len(names) != len(words) or set(names) != set(words):
        msg = f"skip-gram has {len(names):,} words and the counts have {len(words):,}, which must be the same"
        raise ValueError(msg)
    at = {name: row for row, name in enumerate(names)}
    return np.asarray(vectors, np.float32)[[at[word] for word in words]]


def of_dim(
    dim: int, pair: Sequence[Trained], found: dict[int, Factorisation], seen: Cooccurrence, seed: int
) -> list[Row]:
    """Compare every space of one dimension with skip-gram: two seeds, the second with contexts, and SVDs by shift."""
    reference = pair[0].vectors
    order = np.random.default_rng([seed, dim]).permutation(len(reference))
    none = (math.nan, math.nan)
    spaces: list[tuple[str, tuple[float, float], Array]] = [
        ("skip-gram", none, reference),
        ("skip-gram, other seed", none, pair[1].vectors),
        ("skip-gram, rows shuffled", none, reference[order]),
        *(
            ("ppmi-svd", (float(shift), power), each.weighted(power, dim).vectors)
            for shift, each in found.items()
            for power in POWERS
        ),
    ]
    rows = []
    for space, settings, vectors in spaces:
        about = (space, dim, *settings)
        shuffled = space.endswith("shuffled")
        rows += _judged(about, vectors, reference, seen.words, seed, shuffles=SHUFFLES if shuffled else 0)
        if vectors is not reference:
            rows += _aligned(about, vectors, reference, seed)
    return rows + _theory(dim, pair[1], found, seen, seed)


About = tuple[str, int, float, float]


def _judged(
    about: About, vectors: Array, reference: Array, words: Sequence[str], seed: int, *, shuffles: int
) -> list[Row]:
    """Spearman correlation with human judgement, and by how much it exceeds skip-gram's on the same pairs.

    With `shuffles`, what is given is a floor: the mean over so many orders of the rows, and where 95 % of them are.
    """
    rows = []
    for name, pairs in (("wordsim353", corpora.wordsim353()), ("simlex999", corpora.simlex999())):
        left, right, judged = tasks.known_pairs(words, pairs)
        known, missing, names = len(judged), len(pairs) - len(judged), (name, f"{name} less skip-gram")
        if known < K:
            note = f"not measured: {known} pairs are known"
            rows += [Row(*about, statistic, math.nan, math.nan, math.nan, known, missing, note) for statistic in names]
            continue
        ours, theirs = (_resampled(_cosines(x[left], x[right]), judged, seed) for x in (vectors, reference))
        if shuffles:
            rng = np.random.default_rng([seed, 2])
            floors = np.array([_shuffled(vectors, left, right, judged, rng) for _ in range(shuffles)])
            ours = float(floors.mean()), floors
            theirs = theirs[0], np.full(shuffles, theirs[0])
        for statistic, (value, drawn) in zip(names, (ours, (ours[0] - theirs[0], ours[1] - theirs[1])), strict=True):
            low, high = np.quantile(drawn, [0.025, 0.975])
            rows.append(Row(*about, statistic, value, float(low), float(high), known, missing))
    return rows


def _cosines(x: Array, y: Array) -> Array:
    return tasks.closeness(x.astype(np.float64), y.astype(np.float64), "cosine")


def _shuffled(vectors: Array, left: Array, right: Array, judged: Array, rng: np.random.Generator) -> float:
    """Spearman correlation where every word has the vector of another."""
    order = rng.permutation(len(vectors))
    return float(stats.spearmanr(_cosines(vectors[order[left]], vectors[order[right]]), judged).statistic)


def _resampled(close: Array, judged: Array, seed: int) -> tuple[float, Array]:
    """Spearman correlation, and that of resamples of the pairs: the same ones whatever is correlated."""
    draws = np.random.default_rng(seed).integers(0, len(close), (RESAMPLES, len(close)))
    draws[0] = np.arange(len(close))
    ranks = [stats.rankdata(values[draws], axis=1) for values in (close, judged)]
    a, b = (each - each.mean(axis=1, keepdims=True) for each in ranks)
    found = (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return float(found[0]), found[1:]


def _aligned(about: About, vectors: Array, reference: Array, seed: int) -> list[Row]:
    """Hold a space against skip-gram on the most frequent words: neighbours, debiased CKA, Procrustes."""
    x, y = (np.asarray(each[:FREQUENT], np.float64) for each in (vectors, reference))
    n, d = x.shape
    overlap = alignment(x, y, method="neighbors", k=K)
    reach = 1.96 * overlap.value_se
    note = f"chance {overlap.chance:.3g}"
    rows = [
        Row(*about, f"neighbours at {K}", overlap.value, overlap.value - reach, overlap.value + reach, n, note=note)
    ]
    both = np.hstack([x, y])
    # Hundreds of small products wait for threads of BLAS longer than they compute.
    with one_thread_each():
        for method in ("cka", "procrustes"):
            value, se = jackknife(both, partial(_halves, d, method), seed)
            rows.append(Row(*about, method, value, value - 1.96 * se, value + 1.96 * se, n))
    return rows


def _halves(d: int, method: str, both: Array) -> float:
    return alignment(both[:, :d], both[:, d:], method=method).value


def _theory(dim: int, trained: Trained, found: dict[int, Factorisation], seen: Cooccurrence, seed: int) -> list[Row]:
    """Hold products of word and context vectors against PMI - log k over pairs that met: the claim itself."""
    shift = SHIFTS[-1]
    target = pmi(seen.counts, alpha=ALPHA, shift=shift, positive=False, contexts=seen.occurrences).tocoo()
    rng = np.random.default_rng([seed, dim, 1])
    # Both are of the same sorted entries, of which PMI keeps every one.
    often = np.flatnonzero(seen.counts.data >= SEEN)
    # Whole words, that they be the units of an interval.
    words = rng.permutation(np.unique(target.row[often]))
    size = np.bincount(target.row[often], minlength=seen.n_words)[words]
    taken = words[: max(1, int(np.searchsorted(np.cumsum(size), PAIRS)))]
    often = often[np.isin(target.row[often], taken)]
    row, column, want = target.row[often], target.col[often], target.data[often]
    near = _exchanged(seen.n_words, rng)
    assert trained.contexts is not None
    svd = found[shift].weighted(0.5, dim)
    rows = []
    for space, power, x, y in (
        ("skip-gram, other seed", math.nan, trained.vectors, trained.contexts),
        ("skip-gram, rows shuffled", math.nan, trained.vectors, trained.contexts[near]),
        ("ppmi-svd", 0.5, svd.vectors, svd.contexts),
    ):
        got = _products(x, y, row, column)
        correlations, slopes = _by_word(row, got, want)
        about = (space, dim, float(shift), power)
        note = f"w·c against PMI - log {shift}, over {len(row):,} pairs that meet {SEEN:g} times or more"
        for statistic, values in (("w·c with PMI", correlations), ("slope of w·c on PMI", slopes)):
            if len(values) < K:
                few = f"not measured: {len(values)} words meet {K} others so often"
                rows.append(Row(*about, statistic, math.nan, math.nan, math.nan, len(values), note=few))
                continue
            mean, reach = float(values.mean()), 1.96 * float(values.std(ddof=1)) / math.sqrt(len(values))
            rows.append(Row(*about, statistic, mean, mean - reach, mean + reach, len(values), note=note))
    return rows


def _exchanged(n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return another order of words by frequency, in which each stays among those of about its rank."""
    return np.concatenate([at + rng.permutation(min(BLOCK, n - at)) for at in range(0, n, BLOCK)])


def _products(x: Array, y: Array, row: Array, column: Array) -> NDArray[np.float64]:
    step = 1 << 16
    blocks = [slice(at, at + step) for at in range(0, len(row), step)]
    return np.concatenate([np.einsum("ij,ij->i", x[row[at]], y[column[at]]) for at in blocks]).astype(np.float64)


def _by_word(row: Array, got: Array, want: Array) -> tuple[Array, Array]:
    """Correlate over the contexts of each word that has ten or more, and fit the slope of `got` on `want`."""
    _, word, size = np.unique(row, return_inverse=True, return_counts=True)

    def mean(values: Array) -> Array:
        return np.asarray(np.bincount(word, values) / size)

    a, b = got - mean(got)[word], want - mean(want)[word]
    cross, own, other = mean(a * b), mean(a * a), mean(b * b)
    fit = (size >= K) & (own > 0) & (other > 0)
    return np.asarray(cross[fit] / np.sqrt(own[fit] * other[fit])), np.asarray(cross[fit] / other[fit])


STUDY = Study("factorise", "whether skip-gram is what factorising shifted PMI gives", measure, units, conclude, draw)
