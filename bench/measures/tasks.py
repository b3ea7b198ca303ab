"""What people use cosine for: word similarity, analogies, retrieval; by cosine, Euclidean distance and dot product."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bench.measures.intervals import bootstrap
from geomkit.datasets import Vectors

METRICS = ("cosine", "euclidean", "dot")
NEIGHBOURS = 10


@dataclass(frozen=True, slots=True)
class Score:
    """How well one metric does at one task."""

    source: str
    task: str
    metric: str
    value: float
    low: float
    high: float
    """Ends of the 95 % interval over items: word pairs, questions or queries."""
    chance: float
    items: int
    left_out: int
    """Items with a word that the source does not have."""


def index(labels: Sequence[str]) -> dict[str, int]:
    """Row of each label; of labels that are equal, the first."""
    found: dict[str, int] = {}
    for row, label in enumerate(labels):
        found.setdefault(label, row)
    return found


def as_written(rows: Mapping[str, int], word: str) -> int | None:
    """Row of a word as it is written, or in lower case, in which many vocabularies keep their words."""
    return rows.get(word, rows.get(word.lower()))


def lower_case(rows: Mapping[str, int], word: str) -> int | None:
    """Row of a word in lower case."""
    return rows.get(word.lower())


def known_pairs(
    labels: Sequence[str],
    pairs: Sequence[tuple[str, str, float]],
    row_of: Callable[[Mapping[str, int], str], int | None] = lower_case,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the rows of both words of each pair whose words are known, and how alike people find them."""
    rows = index(labels)
    placed = [(row_of(rows, one), row_of(rows, other), score) for one, other, score in pairs]
    known = [(one, other, score) for one, other, score in placed if one is not None and other is not None]
    left, right = (np.array([pair[side] for pair in known], np.int64) for side in (0, 1))
    return left, right, np.array([score for *_, score in known], np.float64)


def closeness(x: NDArray[np.float64], y: NDArray[np.float64], metric: str) -> NDArray[np.float64]:
    """How close each row of x is to the same row of y: greater is closer."""
    if metric == "euclidean":
        return np.asarray(-np.linalg.norm(x - y, axis=1))
    dot = np.einsum("ij,ij->i", x, y)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return np.asarray(dot / lengths if metric == "cosine" else dot)


def word_similarity(found: Vectors, task: str, pairs: Sequence[tuple[str, str, float]], seed: int) -> list[Score]:
    """Spearman correlation of closeness with human judgement; chance is 0."""
    left, right, judged = known_pairs(found.labels, pairs, as_written)
    dense: Any = found.vectors
    x, y = dense[left].astype(np.float64), dense[right].astype(np.float64)
    scores = []
    for metric in METRICS:
        both = np.column_stack([closeness(x, y, metric), judged])
        low, high = bootstrap(both, _spearman, seed)
        missing = len(pairs) - len(judged)
        scores.append(Score(found.name, task, metric, _spearman(both), low, high, 0.0, len(judged), missing))
    return scores


def _spearman(both: NDArray[np.float64]) -> float:
    return float(stats.spearmanr(both[:, 0], both[:, 1]).statistic)


def analogies(found: Vectors, questions: Sequence[tuple[str, str, str, str]], seed: int) -> list[Score]:
    """Share of analogies a : b = c : ? answered right by the word nearest to b - a + c (of unit vectors).

    The three words of the question are no answers (Mikolov et al. 2013).
    """
    rows = index(found.labels)
    placed = [[as_written(rows, word) for word in question] for question in questions]
    known = np.array([question for question in placed if None not in question], dtype=np.int64)
    dense: Any = found.vectors
    table = dense.astype(np.float32)
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    lengths = np.square(table).sum(axis=1)
    scores = []
    for metric in METRICS:
        used = unit if metric == "cosine" else table
        right = np.empty(len(known))
        for start in range(0, len(known), 1024):
            a, b, c, answer = known[start : start + 1024].T
            near = (used[b] - used[a] + used[c]) @ used.T
            if metric == "euclidean":
                near -= lengths / 2  # the rest of -|x - y|²/2 is the same for all candidates
            for words in (a, b, c):
                near[np.arange(len(a)), words] = -np.inf
            right[start : start + 1024] = near.argmax(axis=1) == answer
        low, high = bootstrap(right, lambda values: float(values.mean()), seed)
        missing = len(questions) - len(known)
        chance = 1 / (len(table) - 3)
        scores.append(
            Score(found.name, "analogies", metric, float(right.mean()), low, high, chance, len(known), missing)
        )
    return scores


def retrieval(found: Vectors, seed: int) -> list[Score]:
    """Share of the ten nearest other documents that have the query's topic, averaged over all queries."""
    if found.categories is None:
        msg = f"{found.name} has no topics"
        raise ValueError(msg)
    topics = found.categories
    x: Any = found.vectors
    product: Any = x @ x.T
    dot = np.asarray(product if isinstance(product, np.ndarray) else product.toarray(), np.float64)
    squares = np.diag(dot).copy()
    lengths = np.sqrt(squares)
    same = topics[:, None] == topics[None, :]
    n = len(topics)
    chance = float((same.sum(axis=1) - 1).mean() / (n - 1))
    near: Mapping[str, NDArray[np.float64]] = {
        "cosine": dot / lengths[:, None] / lengths[None, :],
        "euclidean": dot - squares[None, :] / 2,
        "dot": dot,
    }
    scores = []
    for metric in METRICS:
        values = near[metric].copy()
        np.fill_diagonal(values, -np.inf)
        nearest = np.argpartition(-values, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        share = np.take_along_axis(same, nearest, axis=1).mean(axis=1)
        low, high = bootstrap(share, lambda shares: float(shares.mean()), seed)
        scores.append(Score(found.name, "same-topic retrieval", metric, float(share.mean()), low, high, chance, n, 0))
    return scores
