"""What to try first where something is wrong, tried on the rows themselves."""

from collections.abc import Callable, Sequence
from typing import Any

from geomkit.auditing.measurements import Measurements, measure
from geomkit.auditing.null import on_host
from geomkit.auditing.passes import Options
from geomkit.auditing.result import Finding, Suggestion
from geomkit.auditing.statistics import STATISTICS
from geomkit.core.matrix import as_matrix
from geomkit.errors import GeomkitError, InvalidInputError

__all__ = ["suggest"]

_BY_FINDING = {
    "cosine_mean": "Centering",
    "largest_variance_ratio": "Standardizing",
    "effective_rank": "AllButTheTop",
    "hubness_skewness": "AllButTheTop",
    "antihub_fraction": "AllButTheTop",
}
"""The transform for a finding, the first that applies: a common direction is behind most of the others."""


def suggest(
    x: Any, found: Measurements, flagged: Sequence[Finding], options: Options, *, progress: Callable[[str], None] | None
) -> tuple[Suggestion, ...]:
    """Suggest something for every finding, and try the transform that is named first."""
    names = [each.statistic for each in flagged]
    curable = [name for name in _BY_FINDING if name in names]
    suggested = []
    if curable:
        transform = _BY_FINDING[curable[0]]
        suggested.append(_tried(x, found, transform, tuple(curable), options, progress))
    by_action: dict[str, list[str]] = {}
    for name in names:
        if name not in curable:
            by_action.setdefault(STATISTICS[name].remedy, []).append(name)
    suggested += [Suggestion(tuple(each), action) for action, each in by_action.items()]
    return tuple(suggested)


def _tried(
    x: Any,
    found: Measurements,
    name: str,
    findings: tuple[str, ...],
    options: Options,
    progress: Callable[[str], None] | None,
) -> Suggestion:
    action = STATISTICS[findings[0]].remedy
    try:
        from geomkit.transforms import TRANSFORMS

        if progress is not None:
            progress(f"trying {name}")
        matrix = as_matrix(x)
        if matrix.kind == "stored":
            msg = "transforms are tried on rows in memory; audit a sample of these"
            raise InvalidInputError(msg)
        rows = matrix.data[found.rows] if found.n_dropped else matrix.data
        changed = TRANSFORMS[name]().fit_transform(on_host(rows) if matrix.kind == "torch" else rows)
        again = measure(changed, options, "drop")
    except GeomkitError as why:
        return Suggestion(findings, action, name, reason=str(why))
    before = {each: found.values[each].value for each in findings}
    after = {each: again.values[each].value for each in findings}
    return Suggestion(findings, action, name, before, after)
