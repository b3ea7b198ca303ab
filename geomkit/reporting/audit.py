"""The page of an audit: what is wrong and what to try, then every number beside random vectors."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geomkit.auditing.statistics import STATISTICS
from geomkit.core.frames import by_position
from geomkit.core.result import format_number
from geomkit.nulls import sphere
from geomkit.reporting.cells import number
from geomkit.reporting.charts import dots, lines, steps
from geomkit.reporting.page import Cell, Chart, Column, Control, Element, Page, Section, Table, Text, clipped

if TYPE_CHECKING:
    from geomkit.auditing.result import Audit, Finding, Suggestion

__all__ = ["audit_page", "distribution", "facts", "findings_of", "findings_table"]

BINS = 160
"""Of the distribution of cosine, between the quantiles that follow, ..."""

TAIL = 0.0005
"""... and the same of random directions."""

VERDICTS = ("fail", "warn", "ok", "not judged")
_COLOURS = ("var(--red)", "var(--orange)", "var(--blue)", "var(--grey)")

_KINDS = {
    "hubs": "hub: in the results of many rows",
    "antihubs": "never found by another row",
    "outliers": "outlier: far from its nearest",
    "duplicates": "duplicate of another row",
}


def audit_page(audit: "Audit", labels: Sequence[Any] | None = None) -> Page:
    """Lay out an audit.

    Parameters
    ----------
    audit : Audit
    labels : sequence, optional
        Of each row of the input: shown beside the numbers of rows to look at.
    """
    sections = [_first(audit), _distribution(audit), _findings(audit), _neighbours(audit)]
    rows = _rows(audit, labels)
    if rows is not None:
        sections.append(rows)
    sampled = f", sampled from {audit.sampled_from:,}" if audit.sampled_from else ""
    dropped = f"; {audit.n_dropped:,} rows were dropped" if audit.n_dropped else ""
    lead = (
        f"{audit.n:,} rows of {audit.d:,} numbers{sampled}{dropped}. Every number stands beside what random vectors of "
        "the same size give."
    )
    return Page(audit.source, lead, sections, audit.verdict, facts(audit))


def facts(audit: "Audit") -> list[tuple[str, str]]:
    """How an audit was made."""
    return [
        ("rows", f"{audit.n:,}"),
        ("sampled from", f"{audit.sampled_from:,}" if audit.sampled_from else "all rows measured"),
        ("rows dropped", f"{audit.n_dropped:,}"),
        ("dimensions", f"{audit.d:,}"),
        ("neighbours (k)", f"{audit.k:,}"),
        ("metric of neighbours", audit.metric),
        ("null", f"{audit.null}, {audit.null_draws} random sets"),
        ("seed", str(audit.seed)),
        ("backend", f"{audit.backend}, {audit.precision}, {audit.matmul}"),
        ("version", f"geomkit {audit.version}"),
    ]


def _first(audit: "Audit") -> Section:
    said = [f"{each.verdict.upper()}: {_sentence(each)}" for each in audit.flagged]
    if audit.like_random:
        said.append("Nothing here is unlike random vectors: there is no structure for a search to use.")
    elements: list[Element] = [
        Text(said or ["No number is both unlike random vectors and large enough to hurt."], True)
    ]
    if audit.suggestions:
        elements.append(Text([_in_a_line(each) for each in audit.suggestions], points=True))
    if audit.rejected:
        elements.append(Text([f"Tried, and not suggested. {_in_a_line(each)}" for each in audit.rejected], points=True))
    lead = (
        "A verdict says how unlike random vectors a number is on the side that costs something, not that an index will "
        "miss neighbours: measure recall for that."
    )
    return Section("first", "What stands out, and what to try", elements, lead=lead)


def _in_a_line(suggestion: "Suggestion") -> str:
    return ". ".join(line.strip() for line in str(suggestion).splitlines())


def _sentence(each: "Finding") -> str:
    return (
        f"{each.statistic} is {format_number(each.value)}, random vectors give {format_number(each.null_mean)} "
        f"(z = {format_number(each.z)}): {STATISTICS[each.statistic].about}."
    )


def distribution(audits: Mapping[str, "Audit"]) -> tuple[Chart | None, list[Control]]:
    """Draw the cosines of all pairs of each space, from their counts, beside those of random directions."""
    known = {name: each for name, each in audits.items() if each.measurements.cosines is not None}
    if not known:
        return None, []
    dimensions = sorted({each.d for each in known.values()})
    ends = []
    for each in known.values():
        ends += each.measurements.cosines.quantile([TAIL, 1 - TAIL]).tolist()  # type: ignore[union-attr]
    ends += [side * 4 * sphere(d).std for d in dimensions for side in (-1, 1)]
    low, high = max(-1.0, min(ends)), min(1.0, max(ends))
    edges = np.linspace(low, high, BINS + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    rows: list[dict[str, Any]] = []
    drawn = []
    for name, each in known.items():
        counts, _ = each.measurements.cosines.histogram(BINS, (low, high))  # type: ignore[union-attr]
        pairs = each.n * (each.n - 1) / 2
        drawn.append((name, counts / pairs / (edges[1] - edges[0])))
    randoms = [f"random directions, d = {d:,}" for d in dimensions]
    drawn += [(name, sphere(d).pdf(middles)) for name, d in zip(randoms, dimensions, strict=True)]
    names = [clipped(name) for name, _ in drawn]
    for at, (name, (_, densities)) in enumerate(zip(names, drawn, strict=True)):
        rows += [
            {"cosine": round(float(x), 6), "density": float(f"{y:.5g}"), "who": name, "at": at}
            for x, y in zip(middles, densities, strict=True)
        ]
    params = {f"show_{at}": True for at in range(len(names))}
    chart = lines(
        "cosines", _centres(known),
        f"Density of the cosine of all pairs of {', '.join(names)}. "
        + "; ".join(
            f"{name}: half of them below {format_number(each['cosine_q50'].value)}" for name, each in known.items()
        ),
        rows, x=("cosine", "cosine similarity of a pair"), y=("density", "density of pairs"), order=names,
        dashed=[clipped(each) for each in randoms],
        when=" || ".join(f"(show_{at} && datum.at == {at})" for at in range(len(names))), params=params,
        note="Counted over all pairs, none sampled; dashed: the closed form for directions uniform on the sphere.",
    )  # fmt: skip
    return chart, [Control(f"show_{at}", name, (), "toggle") for at, name in enumerate(names)]


def _centres(audits: Mapping[str, "Audit"]) -> str:
    """Say where the cosines of the spaces lie, and those of random directions."""
    medians = sorted(each["cosine_q50"].value for each in audits.values())
    ends = " to ".join(dict.fromkeys(format_number(each) for each in (medians[0], medians[-1])))
    return f"Half of all pairs have a cosine below {ends}; of random directions, below 0"


def _distribution(audit: "Audit") -> Section:
    chart, controls = distribution({audit.source: audit})
    title = "Where scores lie"
    if chart is None:
        why = f"The audit was made with the metric {audit.metric}: pairs were not counted by their cosine."
        return Section("distribution", title, [Text([why])])
    return Section("distribution", title, [chart], controls)


def findings_table(name: str, caption: str, findings: Sequence[Mapping[str, Any]]) -> Table:
    """Every statistic of an audit, to be sorted: rows as `Audit.to_rows` gives them."""
    columns = [
        Column("statistic", number=False), Column("value"), Column("low", about="lower end of the 95 % interval"),
        Column("high", about="upper end of the 95 % interval"), Column("random", about="mean of random sets"),
        Column("z", about="value less mean of random sets, over their spread"), Column("verdict", number=False),
        Column("about", number=False),
    ]  # fmt: skip
    order, rows = list(STATISTICS), []
    for each in findings:
        statistic, verdict = STATISTICS[each["statistic"]], each["verdict"] or "not judged"
        about = statistic.about + (f" ({each['note']})" if each["note"] else "")
        numbers = [number(each[column]) for column in ("value", "ci_low", "ci_high", "null_mean", "z")]
        rows.append(
            (
                Cell(statistic.name, f"{order.index(statistic.name):03d}"), *numbers,
                Cell(verdict, str(VERDICTS.index(verdict)), each["verdict"]), Cell(about, about),
            )
        )  # fmt: skip
    return Table(name, caption, columns, rows)


def findings_of(audit: "Audit", name: str = "findings") -> Table:
    """Every statistic of one audit."""
    caption = f"All statistics of {audit.source}, with 95 % intervals over rows"
    return findings_table(name, caption, audit.to_rows())


def _findings(audit: "Audit") -> Section:
    judged = [each for each in audit.findings if math.isfinite(each.z)]
    elements: list[Element] = []
    if judged:
        rows = [
            {"name": each.statistic, "z": float(f"{each.z:.6g}"), "verdict": each.verdict or "not judged"}
            for each in judged
        ]
        far = max(judged, key=lambda each: abs(each.z))
        elements.append(
            dots(
                "z", f"Farthest from random vectors: {far.statistic}, at z = {format_number(far.z)}",
                "How far from random vectors each statistic is: a dot for each at its z.",
                rows, x=("z", "z: standard deviations of random sets (symmetric log scale)"), who="verdict",
                order=VERDICTS, colours=_COLOURS, limits=(-4, 4),
                note="Dashed: z = ±4. Colour and shape tell the verdict, for which the size of the effect counts, too.",
            )
        )  # fmt: skip
    return Section("findings", "Every number beside its null", [*elements, findings_of(audit)])


def _neighbours(audit: "Audit") -> Section:
    occurrence = audit.measurements.hubness.occurrence
    most = int(occurrence.max())
    width = max(1, math.ceil((most + 1) / 60))
    counts = np.bincount(occurrence // width)
    rows = [
        {"left": at * width, "right": (at + 1) * width, "height": int(many)} for at, many in enumerate(counts.tolist())
    ]
    never = int((occurrence == 0).sum())
    chart = steps(
        "occurrence",
        f"In how many results a row turns up: {audit.k} on average, {most:,} at most, {never:,} rows never",
        f"Histogram of the number of rows that have a row among their {audit.k} nearest.",
        rows, x=f"results that a row is in (k = {audit.k})", y="rows (log scale)", log_y=True,
    )  # fmt: skip
    return Section("neighbours", "Who is found", [chart])


def _rows(audit: "Audit", labels: Sequence[Any] | None) -> Section | None:
    columns = [Column("row"), Column("why", number=False), Column("in results of")]
    told = {"name": audit.names, "label": by_position(labels)}
    given = {heading: texts for heading, texts in told.items() if texts is not None}
    columns += [Column(heading, number=False) for heading in given]
    occurrence = dict(
        zip(audit.measurements.rows.tolist(), audit.measurements.hubness.occurrence.tolist(), strict=True)
    )
    rows = []
    for kind, about in _KINDS.items():
        for row in audit.rows[kind].tolist():
            cells = [
                Cell(str(row), float(row)),
                Cell(about, about),
                Cell(f"{occurrence[row]:,}", float(occurrence[row])),
            ]
            cells += [Cell(str(texts[row]), clipped(str(texts[row]))) for texts in given.values()]
            rows.append(tuple(cells))
    if not rows:
        return None
    table = Table("rows", "At most 100 rows of each kind", columns, rows)
    return Section("rows", "Rows to look at", [table])
