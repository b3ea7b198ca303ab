"""The page of a comparison: several spaces side by side, and where they differ."""

from typing import TYPE_CHECKING

from geomkit.auditing.statistics import STATISTICS
from geomkit.core.result import format_number
from geomkit.reporting.audit import distribution, facts, findings_of
from geomkit.reporting.cells import number
from geomkit.reporting.page import Cell, Column, Control, Element, Page, Panel, Section, Table, Text

if TYPE_CHECKING:
    from geomkit.auditing.compare import Comparison

__all__ = ["comparison_page"]


def comparison_page(comparison: "Comparison") -> Page:
    """Lay out a comparison."""
    names = list(comparison.audits)
    first = next(iter(comparison.audits.values()))
    chart, controls = distribution(comparison.audits)
    sections = []
    if comparison.alignments:
        sections.append(Section("alignment", "Do they agree on who is near?", [_alignments(comparison)]))
    side = Section("side", "Side by side", [_side(comparison), *_notes(comparison)], lead=_lead(comparison))
    sections.append(side)
    if chart is not None:
        sections.append(Section("distribution", "Where scores lie", [chart], controls))
    sections.append(Section("differences", "Differences", [_differences(comparison)]))
    pick = Control("space", "Space", [(at, name) for at, name in enumerate(names)])
    panels = [
        Panel("space", at, [findings_of(each, f"findings-{at}")]) for at, each in enumerate(comparison.audits.values())
    ]
    sections.append(Section("findings", "Every number beside its null", panels, [pick]))
    how = "paired by row" if comparison.paired else "of independent rows"
    made = [("spaces", ", ".join(names)), ("differences", how), *facts(first)[4:]]
    return Page(" / ".join(names), f"{len(names)} spaces, {how}.", sections, comparison.verdict, made)


def _lead(comparison: "Comparison") -> str:
    answers = [each.answer for each in comparison.differences]
    return (
        f"{answers.count('yes')} of {len(answers)} numbers differ: the difference stands after Holm's correction for "
        f"all of them, at 5\u00a0% in all, and is large enough; {answers.count('not tested')} are not tested."
    )


def _notes(comparison: "Comparison") -> list[Element]:
    return [Text(list(comparison.notes))] if comparison.notes else []


def _side(comparison: "Comparison") -> Table:
    names = list(comparison.audits)
    differing = comparison.differing
    columns = [Column("statistic", number=False), *(Column(name) for name in names), Column("about", number=False)]
    rows = []
    for order, each in enumerate(comparison.audits[names[0]].findings):
        cells = [Cell(each.statistic, f"{order:03d}")]
        for name in names:
            value = number(comparison.audits[name][each.statistic].value)
            apart = (each.statistic, name) in differing
            cells.append(Cell(f"{value.shown} *", value.key, "apart") if apart else value)
        about = STATISTICS[each.statistic].about
        rows.append((*cells, Cell(about, about)))
    return Table("side", f"Values of each space; * where it differs from {names[0]}", columns, rows)


def _differences(comparison: "Comparison") -> Table:
    columns = [
        Column("statistic", number=False), Column("first", number=False), Column("second", number=False),
        Column("first less second"), Column("low", about="lower end of the 95 % interval of this difference alone"),
        Column("high", about="upper end of the 95 % interval of this difference alone"),
        Column("least that matters"), Column("differs", number=False),
    ]  # fmt: skip
    order = list(STATISTICS)
    order_of = {"yes": "0", "no": "1", "not tested": "2"}
    rows = [
        (
            Cell(each.statistic, f"{order.index(each.statistic):03d}"), Cell(each.first, each.first),
            Cell(each.second, each.second), number(each.value), number(each.ci_low), number(each.ci_high),
            number(each.least), Cell(each.answer, order_of[each.answer], "apart" if each.answer == "yes" else ""),
        )
        for each in comparison.differences
    ]  # fmt: skip
    return Table("differences", "Every difference, with its 95 % interval over rows", columns, rows)


def _alignments(comparison: "Comparison") -> Table:
    columns = [
        Column("first", number=False), Column("second", number=False), Column("what", number=False), Column("value"),
        Column("chance"),
    ]  # fmt: skip
    rows = []
    for first, second, each in comparison.alignments:
        what = "debiased CKA" if each.method == "cka" else f"share of the {each.k} nearest in common"
        rows.append(
            (
                Cell(first, first), Cell(second, second), Cell(what, what), number(each.value),
                Cell(format_number(each.chance), each.chance),
            )
        )  # fmt: skip
    return Table("alignment", "Of every two spaces over the same rows", columns, rows)
