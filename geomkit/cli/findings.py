"""Audits and comparisons as a person at a terminal reads them; elsewhere they are the plain text of the library."""

from typing import TYPE_CHECKING

from geomkit.cli.tables import at_terminal, columns, table

if TYPE_CHECKING:
    from geomkit.auditing.compare import Comparison
    from geomkit.auditing.result import Audit

__all__ = ["shown_audit", "shown_comparison"]

ROOMY = 110
"""Columns of a terminal from which on what statistics say stands beside them; in fewer it stands below."""


def shown_audit(audit: "Audit", *, all_suggestions: bool = False) -> str:
    """Return an audit as text: findings in a table as wide as the terminal, verdicts in colour and in words."""
    from geomkit.auditing.result import cells, conclusion, introduction, lines

    if not at_terminal():
        return "\n".join(lines(audit, all_suggestions=all_suggestions))
    from geomkit.auditing.statistics import STATISTICS

    rows: list[tuple[str, ...]] = []
    family = ""
    for each in audit.findings:
        if STATISTICS[each.statistic].family != family:
            family = STATISTICS[each.statistic].family
            rows.append((family,))
        rows.append(cells(each))
    headings = ("", "value", "95 % interval", "random", "z", "verdict", "")
    if columns() >= ROOMY:
        drawn = [table(headings, rows, numbers=(1, 3, 4))]
    else:
        drawn = [
            table(headings[:-1], [row[:-1] or row for row in rows], numbers=(1, 3, 4), breaks=(2,)),
            table(("", ""), [(row[0], row[-1]) for row in rows if len(row) > 1]),
        ]
    return "\n".join([*introduction(audit), *drawn, *conclusion(audit, all_suggestions=all_suggestions)])


def shown_comparison(comparison: "Comparison") -> str:
    """Return a comparison as text: a column for each space."""
    if not at_terminal():
        return str(comparison)
    from geomkit.auditing.compare import agreement, cells, conclusion, introduction

    headings = ("", *comparison.audits, "")
    rows = table(headings, cells(comparison), numbers=range(1, len(headings) - 1))
    return "\n".join([*agreement(comparison), introduction(comparison), rows, *conclusion(comparison)])
