"""`compare`: several spaces side by side, and where they differ."""

import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from geomkit.auditing.audit import audit
from geomkit.auditing.measurements import Measurements
from geomkit.auditing.readings import INTERVAL
from geomkit.auditing.result import Audit
from geomkit.auditing.statistics import STATISTICS
from geomkit.core.deprecated import renamed_keywords
from geomkit.core.matrix import as_matrix
from geomkit.core.result import Result, format_number, json_safe
from geomkit.errors import InvalidInputError
from geomkit.stats.alignment import Alignment, alignment, overlap_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison", "Difference", "compare"]

LEVEL = 0.05
"""Chance that any difference at all is called significant where none is."""


@dataclass(frozen=True, slots=True)
class Difference(Result):
    """How far two spaces differ in one statistic."""

    statistic: str
    first: str
    second: str
    value: float
    """First less second."""
    se: float
    """Over rows: of the difference by row where `paired`, else of two independent values; NaN where there is none."""
    ci_low: float
    ci_high: float
    """Ends of the 95 % interval of this difference alone."""
    paired: bool
    """Whether both spaces hold the same rows, whose shared part then does not count as error."""
    significant: bool | None
    """Whether it differs from 0 after Holm's correction for all differences of the comparison, at 5 % in all; None
    where it has no standard error, and so was not tested."""
    least: float
    """Least difference that matters: 0.01 for cosines and fractions, 0.1 for skewness, 1 for counts, and 5 % of the
    smaller value for dimensions, ranks and ratios."""
    answer: str
    """Do they differ: "yes" where it is significant and at least `least`, else "no", or "not tested"."""


@dataclass(frozen=True)
class Comparison:
    """Several spaces side by side."""

    audits: Mapping[str, Audit]
    differences: tuple[Difference, ...]
    alignments: tuple[tuple[str, str, Alignment], ...]
    """Of every two spaces over the same rows: debiased CKA, and overlap of the k nearest neighbours."""
    paired: bool
    notes: tuple[str, ...] = ()
    """What could not be had, and why."""

    @property
    def verdict(self) -> str:
        """The worst verdict of all audits."""
        return max((each.verdict for each in self.audits.values()), key=("ok", "warn", "fail").index)

    @property
    def differing(self) -> set[tuple[str, str]]:
        """In which statistics which spaces differ from the first one: pairs of a statistic and the name of a space."""
        first = next(iter(self.audits))
        return {(d.statistic, d.second) for d in self.differences if d.first == first and d.answer == "yes"}

    def to_frame(self) -> "pd.DataFrame":
        """Tidy rows of all audits, as `Audit.to_frame` gives them."""
        import pandas as pd

        return pd.DataFrame([row for each in self.audits.values() for row in each.to_rows()])

    def differences_frame(self) -> "pd.DataFrame":
        """One row a statistic and pair of spaces."""
        import pandas as pd

        return pd.DataFrame([difference.to_dict() for difference in self.differences])

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain Python; NaN and infinity are None, as in JSON."""
        whole: dict[str, Any] = json_safe(
            {
                "audits": {name: each.to_dict() for name, each in self.audits.items()},
                "paired": self.paired,
                "differences": [difference.to_dict() for difference in self.differences],
                "alignments": [{"first": a, "second": b} | each.to_dict() for a, b, each in self.alignments],
                "verdict": self.verdict,
                "notes": list(self.notes),
            }
        )
        return whole

    def to_json(self) -> str:
        """Return the dictionary as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        names = list(self.audits)
        width = max(12, *(len(name) + 2 for name in names))
        lines = [*agreement(self), introduction(self)]
        lines.append(f"  {'':<26}" + "".join(f"{name:>{width}} " for name in names))
        for name, *values, about in cells(self):
            # Values keep their place, whether a mark follows or not.
            columns = "".join(each.rjust(width + 1) if each.endswith("*") else f"{each:>{width}} " for each in values)
            lines.append(f"  {name:<26}{columns} {about}".rstrip())
        return "\n".join([*lines, *conclusion(self)])


def introduction(comparison: Comparison) -> str:
    """Say what is compared with what, and what the marks mean."""
    how = "paired by row" if comparison.paired else "of independent rows"
    least = "significant (Holm, 5 % over all) and large enough to matter"
    return f"difference from {next(iter(comparison.audits))}, {how}: * where it is {least}"


def cells(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return rows of text: a statistic, its value in each space, with * where it differs, and what it says."""
    first, *others = names = list(comparison.audits)
    differing = comparison.differing
    rows: list[tuple[str, ...]] = []
    for finding in comparison.audits[first].findings:
        statistic = finding.statistic
        beside = [
            format_number(comparison.audits[name][statistic].value) + ("*" if (statistic, name) in differing else "")
            for name in others
        ]
        rows.append((statistic, format_number(finding.value), *beside, STATISTICS[statistic].about))
    return [*rows, ("verdict", *(comparison.audits[name].verdict for name in names), "")]


def agreement(comparison: Comparison) -> list[str]:
    """Lines that say how alike spaces of the same rows are: neighbours kept, and CKA."""
    lines = []
    for a, b, aligned in comparison.alignments:
        kept = f"{aligned.value:.1%} of the {aligned.k} nearest neighbours are the same (chance {aligned.chance:.1%})"
        cka = f"debiased CKA {format_number(aligned.value)}"
        lines.append(f"{a} / {b}: {kept if aligned.method == 'neighbors' else cka}")
    return [*lines, ""] if lines else []


def conclusion(comparison: Comparison) -> list[str]:
    """Lines that say how many differences were not tested, and what was not compared."""
    untested = sum(each.significant is None for each in comparison.differences)
    lines = ["", f"not tested, for want of a standard error: {untested} of {len(comparison.differences)}"]
    return (lines if untested else []) + [f"  {note}" for note in comparison.notes]


@renamed_keywords(say="progress", sample="n_sample")
def compare(
    spaces: Mapping[str, Any], *, paired: bool | None = None, progress: Callable[[str], None] | None = None, **how: Any
) -> Comparison:
    """Audit several spaces, and say where they differ.

    Parameters
    ----------
    spaces : mapping of name to array_like (n, d)
        At least two. Widths may differ.
    paired : bool, optional
        Whether row i is the same item in every space. Unless given: where all have the same number of rows.
    progress : callable, optional
        Told about progress, a line at a time.
    **how
        As for `audit`, but `source`. `labels` are of the rows of every space; `queries` are not taken, since each space
        would need its own.

    Returns
    -------
    Comparison

    Raises
    ------
    InvalidInputError
        As for `audit`; there are fewer than two spaces; or `paired` is asked for and the numbers of rows, or the rows
        that were dropped, differ.

    Notes
    -----
    Each space is audited as `audit` does. Differences are given with standard errors over rows wherever the influence
    of a row is known; over the same rows they are those of the differences of influences, which is much narrower where
    spaces rank rows alike. Alignment is O(n d²) beyond the audits, whose neighbours it uses.
    """
    if len(spaces) < 2:
        msg = f"spaces must hold at least two; got {len(spaces)}"
        raise InvalidInputError(msg)
    for name in ("queries", "source"):
        if how.get(name) is not None:
            msg = f"compare takes no {name}: each space would need its own; got {how[name]!r:.60}"
            raise InvalidInputError(msg)
    heights = {name: as_matrix(x, name=name).n for name, x in spaces.items()}
    same = len(set(heights.values())) == 1
    if paired and not same:
        msg = f"spaces must have the same number of rows to be paired; got {heights}"
        raise InvalidInputError(msg)
    audits = {
        name: audit(x, source=name, progress=progress and _named(name, progress), **how) for name, x in spaces.items()
    }
    found = {name: each.measurements for name, each in audits.items()}
    rows = [each.rows for each in found.values()]
    aligned = same and all(np.array_equal(rows[0], each) for each in rows[1:])
    if paired and not aligned:
        msg = "spaces must keep the same rows to be paired; different ones were dropped"
        raise InvalidInputError(msg)
    joined = aligned if paired is None else bool(paired)
    pairs = list(itertools.combinations(spaces, 2))
    differences = [each for a, b in pairs for each in _differences(a, b, found, paired=joined)]
    alignments: list[tuple[str, str, Alignment]] = []
    notes: list[str] = []
    for a, b in pairs if joined else []:
        alignments.append((a, b, overlap_of(found[a].neighbors, found[b].neighbors)))
        try:
            alignments.append((a, b, _cka(spaces, found, a, b, how)))
        except InvalidInputError as why:
            notes.append(f"no CKA of {a} and {b}: {why}")
    return Comparison(audits, tuple(_holm(differences)), tuple(alignments), joined, tuple(notes))


def _named(name: str, progress: Callable[[str], None]) -> Callable[[str], None]:
    return lambda line: progress(f"{name}: {line}")


def _differences(a: str, b: str, found: Mapping[str, Measurements], *, paired: bool) -> list[Difference]:
    first, second = found[a].values, found[b].values
    out = []
    for name in STATISTICS:
        if name not in first or name not in second:
            continue
        x, y = first[name], second[name]
        se = x.difference_se(y, paired=paired)
        value = x.value - y.value
        ends = value - INTERVAL * se, value + INTERVAL * se
        least = STATISTICS[name].least_difference(x.value, y.value)
        out.append(Difference(name, a, b, value, se, *ends, paired, None, least, "not tested"))
    return out


def _holm(differences: list[Difference]) -> list[Difference]:
    """Call those significant that stand after Holm's correction for all that have a standard error."""
    tails = []
    for at, each in enumerate(differences):
        if math.isfinite(each.se) and math.isfinite(each.value):
            ratio = abs(each.value) / each.se if each.se > 0 else (math.inf if each.value else 0.0)
            tails.append((2 * float(special.ndtr(-ratio)), at))
    significant = dict.fromkeys((at for _, at in tails), False)
    for rank, (tail, at) in enumerate(sorted(tails)):
        if tail > LEVEL / (len(tails) - rank):
            break
        significant[at] = True
    return [
        replace(
            each,
            significant=significant[at],
            answer="yes" if significant[at] and abs(each.value) >= each.least else "no",
        )
        if at in significant
        else each
        for at, each in enumerate(differences)
    ]


def _cka(
    spaces: Mapping[str, Any], found: Mapping[str, Measurements], a: str, b: str, how: Mapping[str, Any]
) -> Alignment:
    if found[a].n != as_matrix(spaces[a]).n:
        msg = "it pairs rows as they are given, of which some were left out here"
        raise InvalidInputError(msg)
    shared = {name: how[name] for name in ("backend", "device", "threads") if name in how}
    return alignment(spaces[a], spaces[b], method="cka", **shared)
