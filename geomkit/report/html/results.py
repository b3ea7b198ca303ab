"""The page of the project's own results: drawn from the tables of the studies alone."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geomkit.auditing.result import shown
from geomkit.auditing.statistics import STATISTICS
from geomkit.report.figures import FAMILIES
from geomkit.report.html.audit import findings_table, number
from geomkit.report.html.charts import bars, graph, lines, scatter
from geomkit.report.html.page import Cell, Column, Control, Element, Page, Panel, Section, Table, Text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

__all__ = ["READS", "results_page"]

READS = (
    "claims.csv", "cosine_histograms.csv", "geometry.csv", "lens.csv", "audits.csv", "decode_rate.csv", "speed.csv",
    "atlas.csv",
)  # fmt: skip
"""Tables that the page is drawn from."""

LEAST = 1e-3
"""Densities below are not drawn, on a logarithmic axis."""

_NAMES = {family: title for family, (title, _, _) in FAMILIES.items()}
_ORDER = list(_NAMES.values())


def results_page(folder: Path) -> Page:
    """Lay out the results in a folder.

    Raises
    ------
    FileNotFoundError
        One of `READS` is not there.
    """
    import pandas as pd

    tables = {name.removesuffix(".csv"): pd.read_csv(folder / name) for name in READS}
    parts: Sequence[Callable[[dict[str, pd.DataFrame]], Section]] = (
        _claims, _cosines, _orthogonality, _layers, _atlas, _audits, _rates, _speed,
    )  # fmt: skip
    sections = [part(tables) for part in parts]
    lead = (
        "What the studies of geomkit found about random vectors, TF-IDF, Word2Vec and language models. Every figure is "
        "drawn from the tables beside this file."
    )
    return Page("geomkit: the geometry of embeddings", lead, sections, facts=_facts(folder))


def _facts(folder: Path) -> list[tuple[str, str]]:
    """When, where and with what each table was made."""
    found = []
    for path in sorted(folder.glob("*.provenance.json")):
        made = json.loads(path.read_text(encoding="utf-8"))
        if set(made["files"]) & set(READS):
            versions = made["versions"]
            found.append(
                (
                    ", ".join(name for name in made["files"] if name in READS),
                    (
                        f"{made['command']}; {made['date']}; {made['processor']['model']}, {made['cores']} cores; "
                        f"geomkit {versions['geomkit']}, NumPy {versions['numpy']}, torch {versions['torch']}"
                    ),
                )
            )
    return found


def _records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """Rows of a table as dictionaries."""
    found: list[dict[str, Any]] = frame.to_dict("records")  # type: ignore[assignment]
    return found


def _text(value: Any) -> Cell:
    said = "" if isinstance(value, float) and math.isnan(value) else str(value)
    return Cell(said, said)


def _claims(tables: "dict[str, pd.DataFrame]") -> Section:
    columns = [Column(each, number=False) for each in ("claim", "what is said", "verdict", "how to see it")]
    rows = []
    for order, row in enumerate(_records(tables["claims"]), 1):
        rows.append((Cell(row["#"], f"{order:02d}"), *(_text(row[name]) for name in ("claim", "verdict", "command"))))
    return Section("claims", "What is said, and what we measured", [Table("claims", "Fifteen claims", columns, rows)])


_CURVE = {"cosine": "cosine", "density": "density", "who": "source", "family": "family", "d": "d"}


def _cosines(tables: "dict[str, pd.DataFrame]") -> Section:
    found = tables["cosine_histograms"]
    found = found[found.density > LEAST].assign(
        cosine=lambda each: (each.left + 0.0025).round(4), density=lambda each: each.density.map(_five)
    )
    sources = found.drop_duplicates("source")
    nulls = tables["cosine_histograms"].drop_duplicates(["d", "left"])
    nulls = nulls[nulls.null_density > LEAST]
    rows = [
        {
            "cosine": row["cosine"],
            "density": row["density"],
            "who": row["source"],
            "family": row["family"],
            "d": row["d"],
        }
        for row in _records(found)
    ]
    random = "random directions of the same dimension"
    rows += [
        {"cosine": round(row["left"] + 0.0025, 4), "density": _five(row["null_density"]), "who": random,
         "family": "null", "d": row["d"], "curve": f"d{row['d']}"}
        for row in _records(nulls)
    ]  # fmt: skip
    toggles = [Control(f"family_{family}", title, (), "toggle") for family, title in _NAMES.items()]
    null = Control("family_null", random, (), "toggle")
    dimensions = sorted({int(each) for each in found.d})
    slider = Control("d", "dimension", [(0, "all"), *((each, f"{each:,}") for each in dimensions)], "range", start=300)
    shown_families = " || ".join(f"(family_{family} && datum.family == '{family}')" for family in (*_NAMES, "null"))
    chart = lines(
        "distribution", "Real embeddings do not fill the sphere: their cosines are wider, shifted, or both",
        "Density of the cosine of all pairs of each source, on a log scale, beside random directions. "
        + "; ".join(f"{row['source']} of dimension {row['d']}" for row in _records(sources)),
        rows, x=("cosine", "cosine similarity of a pair"), y=("density", "density of pairs (log scale)"),
        order=[*sources.source, random], dashed=[random], detail="curve", log_y=True, labelled=True,
        when=f"(d == 0 || datum.d == d) && ({shown_families})",
        params={**{f"family_{family}": True for family in (*_NAMES, "null")}, "d": 300}, height=380,
        note=f"All pairs of {int(found.n.iloc[0]):,} rows of each source. Dashed: closed form for the uniform sphere.",
    )  # fmt: skip
    return Section("cosines", "How cosines are distributed", [chart], [*toggles, null, slider])


def _five(value: float) -> float:
    return float(f"{value:.5g}")


def _orthogonality(tables: "dict[str, pd.DataFrame]") -> Section:
    found = tables["geometry"]
    found = found[(found.metric == "cosine") & (found.statistic == "fraction_within")]
    found = found[found.n == found.n.min()]
    curve = found.drop_duplicates("d").sort_values("d")
    rows = [
        {"name": row["source"], "d": int(row["d"]), "value": row["value"], "family": _NAMES[row["family"]]}
        for row in _records(found)
    ]  # fmt: skip
    null = [{"d": int(row["d"]), "value": row["null_mean"]} for row in _records(curve)]
    chart = scatter(
        "orthogonality",
        "In 512 to 1024 dimensions random directions are nearly orthogonal; language models far less so",
        "Share of pairs with a cosine of at most 0.1 in size, against dimension, a point a source.",
        rows, null, x=("d", "dimension (log scale)"), y=("value", "share of pairs with |cosine| ≤ 0.1"), who="family",
        order=_ORDER, toggles={f"show_{family}": title for family, title in _NAMES.items()},
        note="Line: closed form for directions uniform on the sphere.",
    )  # fmt: skip
    toggles = [Control(f"show_{family}", title, (), "toggle") for family, title in _NAMES.items()]
    return Section("orthogonality", "Are most vectors orthogonal?", [chart], toggles)


_LENS = {
    "agreement": "its first token is the model's own",
    "kl": "KL to the model's answer, nats",
    "entropy": "entropy, nats",
    "rank": "rank of the model's own token",
}


def _layers(tables: "dict[str, pd.DataFrame]") -> Section:
    found = tables["geometry"]
    # Some sources are there twice: as many rows as the others, and whole.
    found = found[(found.metric == "cosine") & (found.n == found.n.min())]
    named = found.source.str.extract(r"^smollm2-(documents|tokens)-layer(\d+)-")
    found = found.assign(what=named[0], layer=named[1].astype(float)).dropna(subset=["layer"])
    wide = found.pivot_table(index=["what", "layer"], columns="statistic", values="value").reset_index()
    who = {"documents": "articles", "tokens": "tokens in context"}
    rows = [
        {"layer": int(row["layer"]), "mean": _five(row["mean"]), "low": _five(row["q1"]), "high": _five(row["q99"]),
         "who": who[row["what"]]}
        for row in _records(wide)
    ]  # fmt: skip
    layers = sorted({int(each) for each in wide.layer})
    chart = lines(
        "layers", "In the middle layers all texts point the same way",
        "Mean cosine of all pairs by layer of SmolLM2-135M, with the band from 1 % to 99 % of pairs.",
        rows, x=("layer", "layer (0 = input embedding)"), y=("mean", "cosine of a pair"),
        order=list(who.values()), interval=True, params={"layer": layers[0]}, marked="layer",
        note="Line: mean; band: 1 % to 99 % of pairs; random directions lie at 0. The rule follows the slider.",
    )  # fmt: skip
    panels = [Panel("layer", layer, _layer(layer, wide, who, tables["lens"])) for layer in layers]
    slider = Control("layer", "layer", [(each, str(each)) for each in layers], "range")
    return Section("layers", "Through the layers of a language model", [chart, *panels], [slider])


def _layer(layer: int, wide: "pd.DataFrame", who: dict[str, str], lens: "pd.DataFrame") -> list[Element]:
    geometry = [
        (_text(who[row["what"]]), number(row["mean"]), number(row["std"]), number(row["q1"]), number(row["q99"]))
        for row in _records(wide[wide.layer == layer])
    ]
    columns = [Column("vectors", number=False), Column("mean cosine"), Column("spread"), Column("1 %"), Column("99 %")]
    parts: list[Element] = [Table(f"geometry-{layer}", f"Geometry of layer {layer}", columns, geometry)]
    readers = []
    for row in _records(lens[(lens.layer == layer) & lens.reader.isin(["lens", "tuned"])]):
        cells = [_text("logit lens" if row["reader"] == "lens" else "tuned lens")]
        for name in _LENS:
            said = number(row[name])
            cells.append(Cell(f"{said.shown} ({shown(row[f'{name}_low'])} … {shown(row[f'{name}_high'])})", said.key))
        readers.append(tuple(cells))
    if readers:
        columns = [Column("reader", number=False), *(Column(each) for each in _LENS.values())]
        parts.append(
            Table(f"lens-{layer}", f"What lenses read in layer {layer}, with 95 % intervals", columns, readers)
        )
    return parts


def _atlas(tables: "dict[str, pd.DataFrame]") -> Section:
    found = tables["atlas"]
    nodes = found[found.kind == "node"]
    words = sorted({str(each) for each in found.word})
    spaces = list(dict.fromkeys(found.space))
    order = ["the word", "one of its nearest"]
    charts: list[Element] = []
    for space in spaces:
        mine = found[found.space == space]
        dots = [
            {"x": _five(row["x"]), "y": _five(row["y"]), "name": str(row["name"]), "who": order[int(row["rank"] > 0)],
             "cosine": _five(row["cosine"]), "rank": int(row["rank"]), "word": str(row["word"])}
            for row in _records(mine[mine.kind == "node"])
        ]  # fmt: skip
        edges = [
            {"x": _five(row["x"]), "y": _five(row["y"]), "x2": _five(row["x2"]), "y2": _five(row["y2"]),
             "similarity": _five(row["cosine"]), "word": str(row["word"])}
            for row in _records(mine[mine.kind == "edge"])
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
        said = ", ".join(f"{row['name']} {row['cosine']:.2f}" for row in _records(each.sort_values("rank")))
        rows.append((_text(word), _text(space), _text(said)))
    table = Table("atlas", "Nearest of each word, by cosine", columns, rows)
    pick = Control("word", "word", [*((each, each) for each in words), ("*", "all")])
    return Section("atlas", "Words and their nearest", [*charts, table], [pick])


def _audits(tables: "dict[str, pd.DataFrame]") -> Section:
    found = tables["audits"]
    # There a note is about the source.
    found = found.assign(verdict=found.verdict.fillna(""), about=found.note, note="")
    sources, panels = list(dict.fromkeys(found.source)), []
    for source in sources:
        mine = found[found.source == source]
        known = _records(mine[mine.statistic.isin(list(STATISTICS))])
        element: Element = Text([f"{source} is not measured here: {mine.about.iloc[0]}"])
        if known:
            element = findings_table(f"audit-{source}", f"Audit of {source}", known)
        panels.append(Panel("source", source, [element]))
    pick = Control("source", "source", [(each, each) for each in sources], start="googlenews-300")
    return Section("audits", "Every source audited", panels, [pick])


_KINDS = ("sign", "int4", "int8", "float16", "float32", "chance")


def _rates(tables: "dict[str, pd.DataFrame]") -> Section:
    found = tables["decode_rate"].dropna(subset=["kept"])
    found = found.assign(where=found.space + ", " + found.what)
    spaces = list(dict.fromkeys(found["where"]))
    rows = []
    for row in _records(found):
        each = {
            "bytes": float(row["bytes"]),
            "kept": _five(row["kept"]),
            "who": str(row["kind"]),
            "space": row["where"],
        }
        rows.append(each | {"low": _five(row["low"]), "high": _five(row["high"])})
    rows += [
        {"bytes": float(end), "kept": _five(mine.floor.iloc[0]), "who": "chance", "space": where,
         "low": _five(mine.floor.iloc[0]), "high": _five(mine.floor.iloc[0])}
        for where, mine in found.groupby("where", sort=False)
        for end in (mine.bytes.min(), mine.bytes.max())
    ]  # fmt: skip
    chart = lines(
        "rates", "How many bytes a vector needs to keep its neighbours, or its tokens",
        "Share of neighbours or tokens that are kept, against bytes of a vector, a line a kind of code.",
        sorted(rows, key=lambda each: float(each["bytes"])), x=("bytes", "bytes of a vector (log scale)"),
        y=("kept", "share kept"), order=_KINDS, interval=True, points=True, log_x=True, dashed=["chance"],
        when="datum.space == space",
        params={"space": spaces[0]}, note="Band: 95 % intervals. Dashed: chance.",
    )  # fmt: skip
    pick = Control("space", "space and what is kept", [(each, each) for each in spaces])
    return Section("rates", "Rate and distortion", [chart], [pick])


def _speed(tables: "dict[str, pd.DataFrame]") -> Section:
    found = tables["speed"]
    found = found[(found.statistic == "times_as_fast") & (found.contender == "geomkit")]
    setting = found.setting.fillna("").astype(str)
    found = found.assign(case=(found.kernel + " " + setting).str.strip())
    panels = []
    for at, (case, mine) in enumerate(found.sort_values("d", kind="stable").groupby("case", sort=False)):
        rows = [
            {"name": f"{row['beside']}, d = {row['d']:,}", "times": _five(row["value"]), "low": _five(row["low"]),
             "high": _five(row["high"]), "who": row["precision"]}
            for row in _records(mine)
        ]  # fmt: skip
        least, most = mine.value.min(), mine.value.max()
        chart = bars(
            f"speed-{at}", f"{case}: {least:.1f} to {most:.1f} times as fast as what users call instead",
            f"Time of other libraries over that of geomkit for {case}, a bar a library, dimension and precision.",
            rows, x=("times", "times as fast"), y="name", who="who", order=sorted({row["who"] for row in rows}), at=1.0,
            note="In one run; rules: least and most of its rounds. Dashed: as fast as the other.",
        )  # fmt: skip
        panels.append(Panel("kernel", case, [chart]))
    pick = Control("kernel", "kernel", [(each.value, each.value) for each in panels])
    return Section("speed", "Speed, as ratios", panels, [pick])
