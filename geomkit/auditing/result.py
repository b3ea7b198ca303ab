"""What an audit says: findings, each beside its null, as text, as a dictionary and as a frame."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geomkit.auditing.measurements import Measurements
from geomkit.auditing.null import Expected
from geomkit.auditing.readings import INTERVAL, Value
from geomkit.auditing.statistics import STATISTICS, Statistic
from geomkit.core.deprecated import field_today
from geomkit.core.result import Result, format_number, json_safe

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LEVELS", "Audit", "Finding", "Suggestion", "Thresholds", "is_like_random"]

LEVELS = ("", "ok", "warn", "fail")
"""Verdicts, worst last; "" where there is none."""

FORMAT = 2
"""Of the dictionary: raised where a reader would have to change."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When a statistic is a finding: where it is unlike random vectors, and by enough to matter."""

    z: float = 4.0
    """Least |z|, on the side that hurts."""
    effects: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Effects from which on the verdict is warn, and fail, by statistic; those of the table where there is none."""

    def of(self, statistic: Statistic) -> tuple[float, float]:
        """Return the effects that are warn and fail for one statistic."""
        return self.effects.get(statistic.name, (statistic.warn, statistic.fail))


@dataclass(frozen=True, slots=True)
class Finding(Result):
    """One statistic beside what random vectors give."""

    statistic: str
    value: float
    """NaN where it cannot be had; `note` then says why."""
    se: float
    """Standard error over rows; NaN where there is none."""
    ci_low: float
    ci_high: float
    """Ends of the 95 % interval: value ± 1.96 se, Wilson's where the value is a share of rows; NaN without one."""
    null_mean: float
    null_std: float
    z: float
    effect: float
    """As the table says: value - null, value over null, or the ratio of what lies above 1; NaN where none is judged."""
    verdict: str
    """One of `LEVELS`."""
    note: str = ""

    @classmethod
    def of(cls, name: str, value: Value, null: Expected, thresholds: Thresholds) -> "Finding":
        """Judge one value."""
        statistic = STATISTICS[name]
        effect = _effect(statistic, value.value, null.mean)
        verdict = _verdict(statistic, effect, null.z, thresholds)
        low, high = value.ends or (value.value - INTERVAL * value.se, value.value + INTERVAL * value.se)
        return cls(name, value.value, value.se, low, high, null.mean, null.std, null.z, effect, verdict, value.note)

    @property
    def flagged(self) -> bool:
        """Whether the verdict is warn or fail."""
        return self.verdict in {"warn", "fail"}

    def __str__(self) -> str:
        statistic = STATISTICS[self.statistic]
        beside = f", random vectors give {format_number(self.null_mean)} (z = {format_number(self.z)})"
        return f"{self.verdict.upper():<4} {self.statistic} = {format_number(self.value)}{beside}: {statistic.about}"


def _effect(statistic: Statistic, value: float, null: float) -> float:
    if statistic.effect == "difference":
        return value - null
    if statistic.effect == "ratio":
        return value / null if null > 0 else math.nan
    if statistic.effect == "distance ratio":
        return (value - 1) / (null - 1) if null > 1 else math.nan
    return math.nan


def _verdict(statistic: Statistic, effect: float, z: float, thresholds: Thresholds) -> str:
    if not statistic.worse or math.isnan(effect) or math.isnan(z):
        return ""
    side = 1 if statistic.worse == "high" else -1
    if side * z < thresholds.z:
        return "ok"
    warn, fail = thresholds.of(statistic)
    return "fail" if side * (effect - fail) >= 0 else "warn" if side * (effect - warn) >= 0 else "ok"


def is_like_random(findings: Sequence[Finding], z: float) -> bool:
    """Whether no statistic is further than z from its null, on either side."""
    return not any(abs(each.z) > z for each in findings)


@dataclass(frozen=True, slots=True)
class Suggestion(Result):
    """What may help, and what it changed when it was tried on rows that it was not fitted on."""

    findings: tuple[str, ...]
    """Statistics that it is for."""
    action: str
    transform: str = ""
    """Name of the transform that was tried; "" where the action is not a transform."""
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    """Statistics with the transform, of the same held-out rows; `neighbours kept` is a share of the k nearest."""
    harm: tuple[str, ...] = ()
    """What got worse by more than its error: then it is no suggestion."""
    reason: str = ""
    """Why it could not be tried, or that it did not help."""

    def __str__(self) -> str:
        lines = [f"{', '.join(self.findings)}: {self.action}"]
        if self.transform and not self.reason:
            changes = [
                f"{name} {format_number(self.before[name])} → {format_number(self.after[name])}" for name in self.after
            ]
            lines.append(f"{self.transform}, on held-out rows: {'; '.join(changes)}")
        elif self.reason:
            lines.append(f"{self.transform}: {self.reason}")
        if self.harm:
            lines.append(f"makes worse: {', '.join(self.harm)}")
        return "\n    ".join(lines)


@dataclass(frozen=True)
class Audit(Result):
    """What a space is like, beside what random vectors would give."""

    findings: tuple[Finding, ...]
    source: str
    """What the caller calls the data."""
    n: int
    d: int
    k: int
    metric: str
    null: str
    null_draws: int
    seed: int
    verdict: str
    """The worst of all findings: ``"ok"``, ``"warn"`` or ``"fail"``."""
    like_random: bool
    """Whether no statistic that has a null is further than the threshold z from it, on either side."""
    suggestions: tuple[Suggestion, ...]
    """What helped when it was tried, and harmed nothing; and rows to look at."""
    rejected: tuple[Suggestion, ...]
    """What was tried, and did not help or did harm."""
    sampled_from: int | None
    """Rows that the sample was drawn from; None where all rows were measured."""
    n_dropped: int
    backend: str
    precision: str
    matmul: str
    version: str
    rows: Mapping[str, NDArray[np.int64]] = field(repr=False, compare=False)
    """Row numbers of the input to look at: ``hubs`` (most found first), ``antihubs``, ``outliers`` (farthest first) and
    ``duplicates``, at most 100 of each."""
    measurements: Measurements = field(repr=False, compare=False)
    """What it was read from: neighbours, occurrences, influences."""
    names: Sequence[Any] | None = field(default=None, repr=False, compare=False)
    """What rows of the input are called; None where they have numbers alone."""

    def __getitem__(self, statistic: str) -> Finding:
        """Return one finding by name; KeyError where the audit has none of it."""
        wanted = field_today(statistic)
        for each in self.findings:
            if each.statistic == wanted:
                return each
        raise KeyError(statistic)

    @property
    def flagged(self) -> tuple[Finding, ...]:
        """Findings whose verdict is warn or fail, worst first."""
        found = [each for each in self.findings if each.flagged]
        return tuple(sorted(found, key=lambda each: -LEVELS.index(each.verdict)))

    def to_rows(self) -> list[dict[str, Any]]:
        """Tidy rows, one a statistic."""
        return [
            {
                "source": self.source, "family": STATISTICS[each.statistic].family, "n": self.n, "d": self.d,
                "k": self.k, "metric": self.metric, "statistic": each.statistic, "value": each.value, "se": each.se,
                "ci_low": each.ci_low, "ci_high": each.ci_high, "null": self.null, "null_mean": each.null_mean,
                "null_std": each.null_std, "z": each.z, "effect": each.effect, "verdict": each.verdict,
                "note": each.note, "sampled_from": self.sampled_from, "backend": self.backend,
                "precision": self.precision, "seed": self.seed,
            }
            for each in self.findings
        ]  # fmt: skip

    def to_frame(self) -> "pd.DataFrame":
        """Tidy rows as a pandas frame."""
        import pandas as pd

        return pd.DataFrame(self.to_rows())

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain Python; NaN and infinity are None, as in JSON."""
        whole: dict[str, Any] = {
            "format": FORMAT,
            **{
                name: getattr(self, name)
                for name in (
                    "source", "n", "d", "k", "metric", "null", "null_draws", "seed", "verdict", "like_random",
                    "sampled_from", "n_dropped", "backend", "precision", "matmul", "version",
                )
            },
            "findings": [
                {name: row[name] for name in row if name not in _OF_ALL} for row in self.to_rows()
            ],
            "suggestions": [each.to_dict() for each in self.suggestions],
            "rejected": [each.to_dict() for each in self.rejected],
            "rows": {name: numbers.tolist() for name, numbers in self.rows.items()},
        }  # fmt: skip
        cleaned: dict[str, Any] = json_safe(whole)
        return cleaned

    def to_json(self) -> str:
        """Return the dictionary as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        return "\n".join(lines(self))


_OF_ALL = {"source", "n", "d", "k", "metric", "null", "sampled_from", "backend", "precision", "seed"}
"""Columns that are the same in every row."""


_MEANING = (
    "a verdict says how unlike random vectors a number is on the side that costs something, not that an index will "
    "miss neighbours: measure recall for that"
)


def introduction(audit: Audit) -> list[str]:
    """Lines that say what was measured, and beside what."""
    sampled = f", sampled from {audit.sampled_from:,} (seed {audit.seed})" if audit.sampled_from else ""
    dropped = f", {audit.n_dropped:,} rows dropped" if audit.n_dropped else ""
    return [
        f"{audit.source}: {audit.n:,} rows of {audit.d:,}{sampled}{dropped}; k = {audit.k}, {audit.metric}",
        f"null: {audit.null}, {audit.null_draws} random sets of the same size; {audit.backend}, {audit.precision}",
    ]


def conclusion(audit: Audit, *, all_suggestions: bool = False) -> list[str]:
    """Lines that say the verdict, what led to it, and what to try first; and what was tried in vain, if asked for."""
    lines = [f"verdict: {audit.verdict.upper()}"]
    if audit.like_random:
        lines.append("nothing here is unlike random vectors: there is no structure for a search to use")
    lines += [f"  {each}" for each in audit.flagged]
    if audit.flagged:
        lines.append(f"  {_MEANING}")
    if audit.suggestions:
        lines += ["", "what to try first"]
        lines += [f"  {each}" for each in audit.suggestions]
    if audit.rejected and all_suggestions:
        lines += ["", "tried, and not suggested"]
        lines += [f"  {each}" for each in audit.rejected]
    elif audit.rejected:
        tried = ", ".join(each.transform for each in audit.rejected)
        lines += ["", f"not suggested: {tried} (--all-suggestions, or `rejected`, says why)"]
    return lines


def cells(finding: Finding) -> tuple[str, str, str, str, str, str, str]:
    """Return the statistic, its value, interval, null, z, verdict and meaning as text, flagged verdicts in capitals."""
    if math.isnan(finding.value):
        return finding.statistic, "—", "", "", "", "", finding.note
    interval = (
        "" if math.isnan(finding.ci_low) else f"{format_number(finding.ci_low)} … {format_number(finding.ci_high)}"
    )
    verdict = finding.verdict.upper() if finding.flagged else finding.verdict
    about = f"{STATISTICS[finding.statistic].about}{f' ({finding.note})' if finding.note else ''}"
    value, null, z = map(format_number, (finding.value, finding.null_mean, finding.z))
    return finding.statistic, value, interval, null, z, verdict, about


def lines(audit: Audit, *, all_suggestions: bool = False) -> list[str]:
    """Return an audit as lines of plain text."""
    out = [
        *introduction(audit),
        "",
        f"  {'':<26}{'value':>10}  {'95 % interval':<20}{'random':>10}{'z':>10}",
    ]
    family = ""
    for each in audit.findings:
        statistic = STATISTICS[each.statistic]
        if statistic.family != family:
            family = statistic.family
            out.append(family)
        name, value, interval, null, z, verdict, about = cells(each)
        if math.isnan(each.value):
            out.append(f"  {name:<26}{value:>10}  {about}")
        else:
            out.append(f"  {name:<26}{value:>10}  {interval:<20}{null:>10}{z:>10}  {verdict:<5}{about}")
    return [*out, "", *conclusion(audit, all_suggestions=all_suggestions)]
