"""The page of the project's own results: drawn from the tables of the studies alone."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from bench.figures import audits, decode
from bench.pages.results_geometry import concentration, cosines, layers, orthogonality
from geomkit.auditing.statistics import STATISTICS
from geomkit.reporting.audit import findings_table
from geomkit.reporting.cells import five, records, text
from geomkit.reporting.charts import bars, graph, lines
from geomkit.reporting.page import Cell, Column, Control, Element, Page, Panel, Section, Table, Text

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import pandas as pd

__all__ = ["READS", "results_page"]

READS = {
    "claims": ("claims.csv",),
    "geometry": ("cosine_histograms.csv", "geometry.csv"),
    "lens": ("lens.csv",),
    "audits": ("audits.csv",),
    "decode": ("decode_rate.csv",),
    "speed": ("speed.csv",),
    "atlas": ("atlas.csv",),
}
"""Tables that the page is drawn from, by the study that writes them."""


def results_page(folder: Path) -> Page:
    """Lay out the results in a folder: a section for each table that is there.

    Raises
    ------
    FileNotFoundError
        None of `READS` is there.
    """
    import pandas as pd

    names = [name for tables_of in READS.values() for name in tables_of if (folder / name).is_file()]
    tables = {name.removesuffix(".csv"): pd.read_csv(folder / name) for name in names}
    sections = [part(tables) for part, needed in _PARTS if needed <= set(tables)]
    if not sections:
        msg = f"there is no table of results in {folder}; `python -m bench geometry` writes the first"
        raise FileNotFoundError(msg)
    lead = (
        "What the studies of geomkit found about random vectors, TF-IDF, Word2Vec and language models. Every figure is "
        "drawn from the tables beside this file."
    )
    missing = [name for tables_of in READS.values() for name in tables_of if name not in names]
    if missing:
        lead += f" Not measured here: {', '.join(missing)}."
    return Page("geomkit: the geometry of embeddings", lead, sections, facts=_facts(folder))


def _facts(folder: Path) -> list[tuple[str, str]]:
    """When, where and with what each table was made."""
    facts = []
    for study, tables in READS.items():
        path = folder / f"{study}.provenance.json"
        if not path.is_file():
            continue
        made = json.loads(path.read_text(encoding="utf-8"))
        origin = f"{made['command']}; {made['date']}; " + "; or ".join(map(_machine, made["machines"]))
        facts.append((", ".join(name for name in tables if name in made["files"]), origin))
    return facts


def _machine(made: "dict[str, Any]") -> str:
    """Name the processor and the versions that something was made with."""
    versions, processor = made["versions"], made["processor"]
    extensions = " ".join(processor["extensions"])
    return (
        f"{processor['model']} ({extensions}), {made['cores']} cores; geomkit {versions['geomkit']}, "
        f"NumPy {versions['numpy']}, torch {versions['torch']}"
    )


def _claims(tables: "dict[str, pd.DataFrame]") -> Section:
    columns = [Column(each, number=False) for each in ("claim", "what is said", "verdict", "how to see it")]
    rows = []
    for order, row in enumerate(records(tables["claims"]), 1):
        rows.append((Cell(row["#"], f"{order:02d}"), *(text(row[name]) for name in ("claim", "verdict", "command"))))
    return Section(
        "claims", "What is said, and what we measured", [Table("claims", f"{len(rows)} claims", columns, rows)]
    )


def _atlas(tables: "dict[str, pd.DataFrame]") -> Section:
    atlas = tables["atlas"]
    nodes = atlas[atlas.kind == "node"]
    words = sorted({str(each) for each in atlas.word})
    spaces = list(dict.fromkeys(atlas.space))
    order = ["the word", "one of its nearest"]
    charts: list[Element] = []
    for space in spaces:
        mine = atlas[atlas.space == space]
        dots = [
            {"x": five(row["x"]), "y": five(row["y"]), "name": str(row["name"]), "who": order[int(row["rank"] > 0)],
             "cosine": five(row["cosine"]), "rank": int(row["rank"]), "word": str(row["word"])}
            for row in records(mine[mine.kind == "node"])
        ]  # fmt: skip
        edges = [
            {"x": five(row["x"]), "y": five(row["y"]), "x2": five(row["x2"]), "y2": five(row["y2"]),
             "similarity": five(row["cosine"]), "word": str(row["word"])}
            for row in records(mine[mine.kind == "edge"])
        ]  # fmt: skip
        charts.append(
            graph(
                f"atlas-{spaces.index(space)}", space,
                f"Words and their nearest in {space}: a graph whose edges join a word and each of its nearest.",
                dots, edges, order=order, when="word == '*' || datum.word == word", params={"word": words[0]},
            )
        )  # fmt: skip
    columns = [
        Column("word", number=False),
        Column("space", number=False),
        Column("nearest, with cosine", number=False),
    ]
    rows = []
    for (word, space), each in nodes[nodes["rank"] > 0].groupby(["word", "space"], sort=False):
        nearest = ", ".join(f"{row['name']} {row['cosine']:.2f}" for row in records(each.sort_values("rank")))
        rows.append((text(word), text(space), text(nearest)))
    table = Table("atlas", "Nearest of each word, by cosine", columns, rows)
    pick = Control("word", "word", [*((each, each) for each in words), ("*", "all")])
    return Section("atlas", "Words and their nearest", [*charts, table], [pick])


def _audits(tables: "dict[str, pd.DataFrame]") -> Section:
    audits_table = tables["audits"]
    # There a note is about the source.
    audits_table = audits_table.assign(verdict=audits_table.verdict.fillna(""), about=audits_table.note, note="")
    sources, panels = list(dict.fromkeys(audits_table.source)), []
    for source in sources:
        mine = audits_table[audits_table.source == source]
        known = records(mine[mine.statistic.isin(list(STATISTICS))])
        element: Element = Text([f"{source} is not measured here: {mine.about.iloc[0]}"])
        if known:
            element = findings_table(f"audit-{source}", f"Audit of {source}", known)
        panels.append(Panel("source", source, [element]))
    pick = Control("source", "source", [(each, each) for each in sources], start="googlenews-300")
    lead = audits.finding(tables["audits"]).replace("\n", " ") + "."
    return Section("audits", "Every source audited", panels, [pick], lead)


_KINDS = ("sign", "int4", "int8", "float16", "float32", "chance")


def _rates(tables: "dict[str, pd.DataFrame]") -> Section:
    rates = tables["decode_rate"].dropna(subset=["kept"])
    rates = rates.assign(where=rates.space + ", " + rates.what)
    spaces = list(dict.fromkeys(rates["where"]))
    rows = []
    for row in records(rates):
        each = {
            "bytes": float(row["bytes"]),
            "kept": five(row["kept"]),
            "who": str(row["kind"]),
            "space": row["where"],
        }
        rows.append(each | {"low": five(row["low"]), "high": five(row["high"])})
    rows += [
        {"bytes": float(end), "kept": five(mine.floor.iloc[0]), "who": "chance", "space": where,
         "low": five(mine.floor.iloc[0]), "high": five(mine.floor.iloc[0])}
        for where, mine in rates.groupby("where", sort=False)
        for end in (mine.bytes.min(), mine.bytes.max())
    ]  # fmt: skip
    chart = lines(
        "rates", f"{decode.bytes_finding(decode.half_bytes(tables['decode_rate']))}, of neighbours or of tokens",
        "Share of neighbours or tokens that are kept, against bytes of a vector, a line a kind of code.",
        sorted(rows, key=lambda each: float(each["bytes"])), x=("bytes", "bytes of a vector (log scale)"),
        y=("kept", "share kept"), order=_KINDS, interval=True, points=True, log_x=True, dashed=["chance"],
        when="datum.space == space",
        params={"space": spaces[0]}, note="Band: 95 % intervals. Dashed: chance.",
    )  # fmt: skip
    pick = Control("space", "space and what is kept", [(each, each) for each in spaces])
    return Section("rates", "Rate and distortion", [chart], [pick])


def _speed(tables: "dict[str, pd.DataFrame]") -> Section:
    ratios = tables["speed"]
    ratios = ratios[(ratios.statistic == "times_as_fast") & (ratios.contender == "geomkit")]
    setting = ratios.setting.fillna("").astype(str)
    # Which rows were measured is said where they were not the usual ones.
    unusual = [("" if data == "isotropic" else f", {data}") for data in ratios["data"]]
    ratios = ratios.assign(case=(ratios.kernel + " " + setting).str.strip(), unusual=unusual)
    panels = []
    for at, (case, mine) in enumerate(ratios.sort_values("d", kind="stable").groupby("case", sort=False)):
        rows = [
            {"name": f"{row['beside']}, d = {row['d']:,}{row['unusual']}", "times": five(row["value"]),
             "low": five(row["low"]), "high": five(row["high"]), "who": row["precision"]}
            for row in records(mine)
        ]  # fmt: skip
        least, most = mine.value.min(), mine.value.max()
        chart = bars(
            f"speed-{at}", f"{case}: {least:.1f} to {most:.1f} times as fast as what users call instead",
            f"Time of other libraries over that of geomkit for {case}, a bar a library, dimension and precision.",
            rows, x=("times", "times as fast"), y="name", who="who", order=sorted({row["who"] for row in rows}), at=1.0,
            note="In one run; rules: least and most of its rounds. From the line to the right: faster than the other.",
        )  # fmt: skip
        panels.append(Panel("kernel", case, [chart]))
    pick = Control("kernel", "kernel", [(each.value, each.value) for each in panels])
    return Section("speed", "Speed, as ratios", panels, [pick])


_PARTS: "tuple[tuple[Callable[[dict[str, pd.DataFrame]], Section], set[str]], ...]" = (
    (_claims, {"claims"}),
    (cosines, {"cosine_histograms"}),
    (orthogonality, {"geometry"}),
    (concentration, {"geometry"}),
    (layers, {"geometry", "lens"}),
    (_atlas, {"atlas"}),
    (_audits, {"audits"}),
    (_rates, {"decode_rate"}),
    (_speed, {"speed"}),
)
"""Sections of the page, and the tables that each is drawn from."""
