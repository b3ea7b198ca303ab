"""What helps these rows, tried on rows that a transform was not fitted on.

A transform is suggested where, on held-out rows, a flagged number gets better, none of the flagged ones gets worse, and
nothing that people want of a space is lost: neighbours, contrast, and where there are labels, what they tell.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from geomkit.auditing.extras import of_labels
from geomkit.auditing.measurements import Measurements, measure
from geomkit.auditing.null import on_host
from geomkit.auditing.passes import Options
from geomkit.auditing.readings import INTERVAL, Value
from geomkit.auditing.result import Finding, Suggestion
from geomkit.auditing.statistics import STATISTICS
from geomkit.core.matrix import Matrix, as_matrix
from geomkit.errors import GeomkitError, InvalidInputError
from geomkit.stats.alignment import overlap_of
from geomkit.stats.neighbors import Neighbors

__all__ = ["KEPT", "LEAST_KEPT", "suggest"]

LEAST_KEPT = 0.9
"""Share of nearest neighbours that must be kept where no labels tell whether other neighbours are as good."""

KEPT = "neighbours kept"

_LABELS = ("same_label_rate", "probe_accuracy")

_FOR = {
    "Centering": ("cosine_mean", "hubness_skewness", "antihub_fraction"),
    "Standardizing": ("largest_variance_ratio",),
    "AllButTheTop": ("cosine_mean", "hubness_skewness", "antihub_fraction", "largest_variance_ratio"),
}
"""Findings that a transform may mend, in the order in which transforms are tried: the mildest first."""

_ACTIONS = {
    "Centering": "subtract the mean of the corpus from corpus and queries",
    "Standardizing": "subtract the mean of the corpus from corpus and queries, divide coordinates by their spread",
    "AllButTheTop": "subtract the mean of the corpus and take its strongest directions out of corpus and queries",
}


def suggest(
    x: Any,
    found: Measurements,
    flagged: Sequence[Finding],
    options: Options,
    *,
    labels: Sequence[Any] | None,
    progress: Callable[[str], None],
) -> tuple[tuple[Suggestion, ...], tuple[Suggestion, ...]]:
    """Try what may mend findings; return what helps and harms nothing, and what was tried and is not suggested.

    AllButTheTop is tried only with labels: without them nothing tells whether the directions it takes out meant
    something. Findings whose rows are to be looked at say so.
    """
    names = [each.statistic for each in flagged]
    helpful: list[Suggestion] = []
    rejected: list[Suggestion] = []
    helped: set[str] = set()
    trial: _Trial | None = None
    for transform, mended in _FOR.items():
        targets = tuple(name for name in names if name in mended and name not in helped)
        if not targets or (transform == "AllButTheTop" and labels is None):
            continue
        try:
            progress(f"trying {transform} on held-out rows")
            trial = trial or _Trial(x, found, options, labels)
            tried = trial.of(transform, targets)
        except GeomkitError as why:
            tried = Suggestion(targets, _ACTIONS[transform], transform, reason=str(why))
        if tried.reason or tried.harm:
            rejected.append(tried)
        else:
            helpful.append(tried)
            helped |= set(tried.findings)
    by_action: dict[str, list[str]] = {}
    for name in names:
        if STATISTICS[name].remedy:
            by_action.setdefault(STATISTICS[name].remedy, []).append(name)
    helpful += [Suggestion(tuple(each), action) for action, each in by_action.items()]
    return tuple(helpful), tuple(rejected)


class _Trial:
    """Half of the rows, on which a transform is fitted, and the other half, measured before and after."""

    def __init__(self, x: Any, found: Measurements, options: Options, labels: Sequence[Any] | None) -> None:
        matrix = as_matrix(x)
        if matrix.kind == "stored":
            msg = "transforms are tried on rows in memory; audit a sample of these"
            raise InvalidInputError(msg)
        if found.n < 6 * options.k:
            msg = f"{found.n} rows are too few to try it on half of them; at k = {options.k} it takes {6 * options.k}"
            raise InvalidInputError(msg)
        shuffled = np.random.default_rng([options.seed, 2]).permutation(found.rows)
        fitted, held = (np.sort(part) for part in np.split(shuffled, [found.n // 2]))
        self.fitted, self.held = (self._rows(matrix, rows) for rows in (fitted, held))
        self.labels = None if labels is None else [labels[row] for row in held.tolist()]
        self.options = options
        self.before, self.neighbors = self._measured(self.held)

    @staticmethod
    def _rows(matrix: Matrix, rows: Any) -> Any:
        chosen = matrix.data[rows]
        return on_host(chosen) if matrix.kind == "torch" else chosen

    def of(self, transform: str, targets: tuple[str, ...]) -> Suggestion:
        """Try one transform."""
        from geomkit.transforms import TRANSFORMS

        changed = TRANSFORMS[transform]().fit(self.fitted).transform(self.held)
        after, neighbors = self._measured(changed)
        kept = overlap_of(self.neighbors, neighbors)
        shown = (*targets, *_wanted(self.before))
        harm = [name for name in shown if _worse(name, self.before[name], after[name])]
        if self.labels is None and kept.value < LEAST_KEPT:
            harm.append(KEPT)
        better = [name for name in targets if _worse(name, after[name], self.before[name])]
        return Suggestion(
            tuple(better) or targets,
            _ACTIONS[transform],
            transform,
            before={name: self.before[name].value for name in shown} | {KEPT: 1.0},
            after={name: after[name].value for name in shown} | {KEPT: kept.value},
            harm=tuple(harm),
            reason="" if better else f"{', '.join(targets)}: no better by more than its error, or too little to matter",
        )

    def _measured(self, rows: Any) -> tuple[dict[str, Value], Neighbors]:
        found = measure(rows, self.options, "raise")
        values = dict(found.values)
        if self.labels is not None:
            for extra in of_labels(rows, self.labels, found, self.options.seed, "raise", lambda _: None):
                values[extra.name] = extra.value
        return values, found.neighbors


def _wanted(values: dict[str, Value]) -> tuple[str, ...]:
    """Names of what people want of a space, and these rows have: contrast, and what labels tell."""
    names = ("relative_contrast", *_LABELS)
    return tuple(name for name in names if name in values and not math.isnan(values[name].value))


def _worse(name: str, before: Value, after: Value) -> bool:
    """Whether a number of the same rows is worse after than before: by more than its error, and enough to matter."""
    bad = -1 if name in _LABELS or STATISTICS[name].worse == "low" else 1
    error = INTERVAL * before.difference_se(after, paired=True)
    least = STATISTICS[name].least_difference(before.value, after.value)
    return not bad * (after.value - before.value) <= max(0.0 if math.isnan(error) else error, least)
