"""Whether the audit's numbers predict what people care about: recall of indices, retrieval, probes, similarity."""

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from bench.figures.validity import validity
from bench.harness.study import Context, Study, Tables, Unit
from bench.inputs import spaces as inputs
from bench.inputs import versions
from bench.measures import tasks
from bench.measures.association import NONE, Association, across, false_discovery, within
from bench.measures.recall import mean_recalls, needs_faiss, unit
from geomkit import datasets
from geomkit.auditing import measurements
from geomkit.auditing.passes import Options
from geomkit.auditing.readings import READINGS
from geomkit.auditing.statistics import STATISTICS
from geomkit.core.threads import one_thread_each
from geomkit.datasets import corpora
from geomkit.datasets.record import Vectors, taken
from geomkit.errors import GeomkitError
from geomkit.stats.labels import as_labels
from geomkit.stats.neighbors import neighbors
from geomkit.stats.probe import WIDEST, probe

K = 10
CORPUS = 0.8
"""Share of the rows that are measured and indexed; the others are queries."""

EVERY = 2
"""Of the layers of a language model, one in so many."""

SMALL = 1024
"""Columns up to which matrices are factorised on one thread."""

LEAST_PAIRS = 100
"""Word pairs of WordSim-353 that a source must know."""

RATE = 0.05
"""False discovery rate at which an association is said to hold."""

PREDICTORS = ("d", *(name for names in READINGS for name in names))
"""The dimension, which costs nothing to measure, and all that an audit reads from rows alone."""

OUTCOMES = ("hnsw_recall", "ivf_recall", "same_label", "probe", "wordsim")

_LAYER = re.compile(r"-layer(\d+)-")
_EXPECTED = {"high": -1, "low": 1, "": 0}


@dataclass(frozen=True, slots=True)
class Asked:
    """A source cut into what is measured and what is asked of it."""

    corpus: Any
    queries: Any
    labels: NDArray[np.str_] | None
    query_labels: NDArray[np.str_] | None
    words: NDArray[np.float32]
    """Vectors of the words of WordSim-353 that the source knows, (w, d)."""
    pairs: list[tuple[int, int, float]]
    """Rows of `words` of each known pair, and how alike people find them."""


def units(context: Context) -> tuple[Unit, ...]:
    """Every source is a unit, with all its versions."""
    return tuple(each for each in inputs.units(context, planned(context)) if not each.absent)


def measure(context: Context, unit: Unit) -> Tables:
    """Measure every version of a source: validity_spaces.csv."""
    whole = _has_words(unit.name, datasets.get(unit.name).family)
    found = inputs.load(unit.name, context) if whole else inputs.load_rows(unit.name, context)
    return {"validity_spaces.csv": pd.DataFrame(of_source(found, context))}


def conclude(context: Context) -> None:
    """Correlate what was measured over all spaces: validity.csv."""
    context.table("validity.csv", associations(context.read("validity_spaces.csv")))


def draw(context: Context) -> None:
    """Draw validity.svg."""
    context.figure("validity", validity(context.read("validity.csv")))


def planned(context: Context) -> list[str]:
    """List the real sources that are measured: all of them, but for layers only every other one."""
    real = [name for name in inputs.names(context) if datasets.get(name).family != "random"]
    return [name for name in real if not (layer := _LAYER.search(name)) or int(layer[1]) % EVERY == 0]


def group_of(name: str) -> str:
    """Name of the model or method that a source is of, whatever its dimension or layer: the unit of intervals."""
    return re.sub(r"(-layer\d+)?-\d+$", "", name)


def _has_words(name: str, family: str) -> bool:
    return family == "word2vec" or "-input-" in name or "unembedding" in name


def of_source(found: Vectors, context: Context) -> list[dict[str, Any]]:
    """Measure every version of one source.

    Parameters
    ----------
    found : Vectors
        With more rows than the study takes, where words are looked up among all of them.
    context : Context

    Returns
    -------
    list of dict
        A row for each version: what it is of, `PREDICTORS`, `OUTCOMES`, and why some of them are missing.
    """
    asked = cut(found, inputs.rows(context), context.seed)
    if skipped := versions.left_out(asked.corpus):
        context.say(f"{found.name} is not made into {', '.join(skipped)}: it is sparse or too wide")
    rows = []
    # Sources draw their own shifts and noise, whatever others are measured.
    seed = context.seed + zlib.crc32(found.name.encode())
    named = {"source": found.name, "group": group_of(found.name), "family": found.family}
    # Hundreds of small factorisations wait for threads of BLAS longer than they compute.
    with one_thread_each() if found.dim <= SMALL else nullcontext():
        for space in versions.spaces(asked.corpus, (asked.queries, asked.words), seed):
            try:
                measured = _of_space(space, asked, context.seed)
            except GeomkitError as why:
                context.say(f"{found.name}, {space.version}, is not measured: {why}")
                measured = {"d": space.corpus.shape[1], "note": str(why)}
            rows.append(named | {"version": space.version} | measured)
    return rows


def cut(found: Vectors, n: int, seed: int) -> Asked:
    """Draw n rows of a source and deal them into corpus and queries; look up the words of WordSim-353 among all."""
    drawn = found if found.vectors.shape[0] <= n else taken(found, n, seed)
    order = np.random.default_rng([seed, 1]).permutation(drawn.vectors.shape[0])
    kept, asked = np.sort(order[: round(CORPUS * len(order))]), np.sort(order[round(CORPUS * len(order)) :])
    topics = drawn.categories
    words, pairs = _words(found) if _has_words(found.name, found.family) else (np.empty((0, found.dim), np.float32), [])
    return Asked(
        corpus=drawn.vectors[kept],
        queries=drawn.vectors[asked],
        labels=None if topics is None else topics[kept],
        query_labels=None if topics is None else topics[asked],
        words=words,
        pairs=pairs,
    )


def _words(found: Vectors) -> tuple[NDArray[np.float32], list[tuple[int, int, float]]]:
    left, right, judged = tasks.known_pairs(found.labels, corpora.wordsim353(), _place)
    known: dict[int, int] = {}
    pairs = [
        (known.setdefault(one, len(known)), known.setdefault(other, len(known)), score)
        for one, other, score in zip(left.tolist(), right.tolist(), judged.tolist(), strict=True)
    ]
    dense: Any = found.vectors
    return np.asarray(dense[list(known)], np.float32).reshape(len(known), found.dim), pairs


def _place(places: Mapping[str, int], word: str) -> int | None:
    """Row of a word as it is written or in lower case; of tokens, of the one that starts a word."""
    forms = (f"Ġ{word}", f"Ġ{word.lower()}", word, word.lower())
    return next((places[form] for form in forms if form in places), None)


def _of_space(space: versions.Space, asked: Asked, seed: int) -> dict[str, Any]:
    queries, words = space.others
    found = measurements.measure(space.corpus, Options(k=K, seed=seed))
    values = {name: found.values[name].value for name in PREDICTORS if name != "d"}
    rows, searched = unit(space.corpus), unit(queries)
    exact = neighbors(rows, K, queries=searched).indices
    recalls = mean_recalls(rows, searched, exact, seed)
    labelled, notes = _by_label(space, asked, exact, seed)
    wordsim, why = word_similarity(words, asked.pairs)
    notes += [why] if why else []
    outcomes = {"hnsw_recall": recalls[0], "ivf_recall": recalls[1]} | labelled | {"wordsim": wordsim}
    size = {"n": found.n, "queries": len(searched), "d": found.d}
    return size | values | outcomes | {"word_pairs": len(asked.pairs), "note": "; ".join(notes)}


def _by_label(
    space: versions.Space, asked: Asked, exact: NDArray[np.int64], seed: int
) -> tuple[dict[str, float], list[str]]:
    """Score retrieval and probe above chance: 0 is chance and 1 always right, so that tasks of more classes compare."""
    missing = dict.fromkeys(("same_label", "same_label_rate", "probe", "probe_accuracy"), math.nan)
    if asked.labels is None or asked.query_labels is None:
        return missing, []
    labels = asked.labels[space.rows]
    if len(set(labels.tolist())) < 2:
        return missing, ["rows are of one class"]
    rate, chance = same_label(labels, asked.query_labels, exact)
    out = missing | {"same_label_rate": rate, "same_label": (rate - chance) / (1 - chance)}
    if len(np.unique(space.rows)) < len(space.rows):
        return out, ["no probe: copies of a row would be on both sides of a fold"]
    if space.corpus.shape[1] > WIDEST or not isinstance(space.corpus, np.ndarray):
        return out, [f"no probe: sparse, or more than {WIDEST} columns"]
    try:
        seen = probe(space.corpus, labels, seed=seed, shuffles=2)
    except GeomkitError as why:
        return out, [f"no probe: {why}"]
    majority = as_labels(labels, len(labels)).majority_fraction
    return out | {"probe_accuracy": seen.accuracy, "probe": (seen.accuracy - majority) / (1 - majority)}, []


def same_label(
    labels: NDArray[np.str_], query_labels: NDArray[np.str_], nearest: NDArray[np.int64]
) -> tuple[float, float]:
    """Share of the nearest rows that have the query's label, and the share of all rows that have it: chance."""
    rate = (labels[nearest] == query_labels[:, None]).mean()
    return float(rate), float((labels[None, :] == query_labels[:, None]).mean())


def word_similarity(words: NDArray[np.float32], pairs: Sequence[tuple[int, int, float]]) -> tuple[float, str]:
    """Spearman correlation of cosine with human judgement, or NaN and why."""
    if not pairs:
        return math.nan, ""
    if len(pairs) < LEAST_PAIRS:
        return math.nan, f"no word similarity: {len(pairs)} pairs are known"
    places = np.array([pair[:2] for pair in pairs])
    left, right = words[places.T].astype(np.float64)
    close = tasks.closeness(left, right, "cosine")
    return float(stats.spearmanr(close, [judged for *_, judged in pairs]).statistic), ""


def associations(spaces: pd.DataFrame) -> pd.DataFrame:
    """Correlate every predictor with every outcome, over all spaces and inside sources.

    Parameters
    ----------
    spaces : DataFrame
        Columns source, group, `PREDICTORS` and `OUTCOMES`.

    Returns
    -------
    DataFrame
        A row for each predictor and outcome. `expected` is the sign that a verdict of the audit supposes (0: it gives
        none); `q` and `within_q` are false discovery rates over all tests of the table together; `holds` and
        `within_holds` say where they are at most `RATE`.
    """
    rows = [_pair(spaces, statistic, outcome) for outcome in OUTCOMES for statistic in PREDICTORS]
    table = pd.DataFrame(rows)
    table["q"], table["within_q"] = false_discovery(np.r_[table.p, table.within_p]).reshape(2, -1)
    table["holds"], table["within_holds"] = table.q <= RATE, table.within_q <= RATE
    return table


def _pair(spaces: pd.DataFrame, statistic: str, outcome: str) -> dict[str, Any]:
    both = spaces[["source", "group"]].assign(x=spaces.get(statistic, math.nan), y=spaces.get(outcome, math.nan))
    # Estimates of dimension are infinite where neighbours are equally near, and rank last.
    both = both[both.x.notna() & both.y.notna()]
    source, group = (np.unique(both[name].to_numpy(str), return_inverse=True)[1] for name in ("source", "group"))
    x, y = both.x.to_numpy(float), both.y.to_numpy(float)
    plain = float(stats.spearmanr(x, y).statistic) if len(set(x)) > 1 and len(set(y)) > 1 else math.nan
    over, inside = (across(x, y, group), within(x, y, source, group)) if len(both) else (NONE, NONE)
    judged = STATISTICS[statistic].worse if statistic in STATISTICS else ""
    return {
        "statistic": statistic,
        "outcome": outcome,
        "n_spaces": len(both),
        "n_sources": both.source.nunique(),
        "expected": _EXPECTED[judged],
        **_named("", over),
        "rho_unweighted": plain,
        **_named("within_", inside),
    }


def _named(prefix: str, found: Association) -> dict[str, float]:
    names = {"n_groups": found.n_groups, "rho": found.rho, "low": found.low, "high": found.high, "p": found.p}
    return {f"{prefix}{name}": value for name, value in names.items()}


STUDY = Study(
    "validity", "whether an audit's numbers predict recall, retrieval, probes and word similarity", measure, units,
    conclude, draw, needs=needs_faiss,
)  # fmt: skip
