"""Parts of the page of results that show what the study `geometry` measured."""

from typing import TYPE_CHECKING

from bench.figures import lens
from bench.figures.families import FAMILIES
from bench.figures.geometry import concentration_finding, cosines_finding, layers_finding, orthogonality_finding
from geomkit.core.result import format_number
from geomkit.nulls import sphere
from geomkit.reporting.cells import five, number, records, text
from geomkit.reporting.charts import lines, scatter
from geomkit.reporting.page import Cell, Column, Control, Element, Panel, Section, Table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["concentration", "cosines", "layers", "orthogonality"]

LEAST = 1e-3
"""Densities below are not drawn, on a logarithmic axis."""

_NAMES = {family: title for family, (title, _, _) in FAMILIES.items()}
_COLOURS = dict(zip(_NAMES, ("var(--grey)", "var(--orange)", "var(--green)", "var(--blue)"), strict=True))
"""Of families, as in figures."""

_TITLED = {_NAMES[family]: colour for family, colour in _COLOURS.items()}
_TOGGLES = {f"show_{family}": title for family, title in _NAMES.items()}


_CURVE = {"cosine": "cosine", "density": "density", "who": "source", "family": "family", "d": "d"}
"""Columns of a curve, and those of the table that they are."""


def cosines(tables: "dict[str, pd.DataFrame]") -> Section:
    """Density of the cosine of all pairs, a curve a source, beside random directions."""
    found = tables["cosine_histograms"]
    found = found[found.density > LEAST].assign(
        cosine=lambda each: (each.left + 0.0025).round(4), density=lambda each: each.density.map(five)
    )
    sources = found.drop_duplicates("source")
    nulls = tables["cosine_histograms"].drop_duplicates(["d", "left"])
    nulls = nulls[nulls.null_density > LEAST]
    rows = [{name: row[column] for name, column in _CURVE.items()} for row in records(found)]
    random = "random directions of the same dimension"
    rows += [
        {"cosine": round(row["left"] + 0.0025, 4), "density": five(row["null_density"]), "who": random,
         "family": "null", "d": row["d"], "curve": f"d{row['d']}"}
        for row in records(nulls)
    ]  # fmt: skip
    toggles = [Control(f"family_{family}", title, (), "toggle") for family, title in _NAMES.items()]
    null = Control("family_null", random, (), "toggle")
    dimensions = sorted({int(each) for each in found.d})
    slider = Control("d", "dimension", [(0, "all"), *((each, f"{each:,}") for each in dimensions)], "range", start=300)
    colours = {row["source"]: _COLOURS[row["family"]] for row in records(sources)}
    shown_families = " || ".join(f"(family_{family} && datum.family == '{family}')" for family in (*_NAMES, "null"))
    chart = lines(
        "distribution", cosines_finding(tables["cosine_histograms"]),
        "Density of the cosine of all pairs of each source, on a log scale, beside random directions. "
        + "; ".join(f"{row['source']} of dimension {row['d']}" for row in records(sources)),
        rows, x=("cosine", "cosine similarity of a pair"), y=("density", "density of pairs (log scale)"),
        order=[*sources.source, random], dashed=[random], detail="curve", log_y=True, keyed=True, colours=colours,
        when=f"(d == 0 || datum.d == d) && ({shown_families})",
        params={**{f"family_{family}": True for family in (*_NAMES, "null")}, "d": 300}, height=380,
        note=f"All pairs of {int(found.n.iloc[0]):,} rows of each source. Dashed: closed form for the uniform sphere.",
    )  # fmt: skip
    return Section("cosines", "How cosines are distributed", [chart], [*toggles, null, slider])


def orthogonality(tables: "dict[str, pd.DataFrame]") -> Section:
    """Share of nearly orthogonal pairs against dimension, beside the closed form."""
    found = tables["geometry"]
    found = found[(found.metric == "cosine") & (found.statistic == "within_fraction")]
    found = found[found.n == found.n.min()]
    curve = found.drop_duplicates("d").sort_values("d")
    rows = [
        {"name": row["source"], "d": int(row["d"]), "value": row["value"], "family": _NAMES[row["family"]]}
        for row in records(found)
    ]  # fmt: skip
    null = [{"d": int(row["d"]), "value": row["null_mean"]} for row in records(curve)]
    chart = scatter(
        "orthogonality", orthogonality_finding(found),
        "Share of pairs with a cosine of at most 0.1 in size, against dimension, a point a source.",
        rows, null, x=("d", "dimension (log scale)"), y=("value", "share of pairs with |cosine| ≤ 0.1"), who="family",
        colours=_TITLED, toggles=_TOGGLES,
        note="Line: closed form for directions uniform on the sphere.",
    )  # fmt: skip
    return Section("orthogonality", "Are most vectors orthogonal?", [chart], _families())


def _families() -> list[Control]:
    """Toggles of what `scatter` shows."""
    return [Control(name, title, (), "toggle") for name, title in _TOGGLES.items()]


def concentration(tables: "dict[str, pd.DataFrame]") -> Section:
    """Relative contrast and variance of distances against dimension, for each order."""
    found = tables["geometry"]
    found = found[(found.n == found.n.min()) & (found.value > 0)]
    found = found.assign(p=found.metric.str.extract("^minkowski-(.*)$", expand=False)).dropna(subset="p")
    orders = {str(p): "∞ (largest difference)" if p == "inf" else str(p) for p in dict.fromkeys(found.p)}
    what = {
        "relative_contrast": "relative contrast, (d_max − d_min) / d_min",
        "relative_variance": "relative variance, Var D / (E D)²",
    }
    charts: list[Element] = []
    for statistic, title in what.items():
        mine = found[found.statistic == statistic]
        rows = [
            {"name": row["source"], "d": int(row["d"]), "value": five(row["value"]), "family": _NAMES[row["family"]],
             "p": row["p"]}
            for row in records(mine)
        ]  # fmt: skip
        null = [
            {"d": int(row["d"]), "value": five(row["null_mean"]), "p": row["p"]}
            for row in records(mine.drop_duplicates(["p", "d"]).sort_values("d"))
        ]
        said = concentration_finding(tables["geometry"], int(found.n.min()), statistic)
        charts.append(
            scatter(
                statistic, said, f"Of distances: {title}, against dimension, a point a source.",
                rows, null, x=("d", "dimension (log scale)"), y=("value", f"{title} (log scale)"), who="family",
                colours=_TITLED, toggles=_TOGGLES, when="datum.p == p", params={"p": "2"}, log_y=True, height=320,
                note="Line: Gaussian vectors, simulated; distances between rows are Minkowski's of order p.",
            )
        )  # fmt: skip
    pick = Control("p", "order p of the distance", list(orders.items()), start="2")
    return Section("concentration", "Are all rows as far away?", charts, [*_families(), pick])


_LENS = {
    "agreement": "its first token is the model's own",
    "kl": "KL to the model's answer, nats",
    "entropy": "entropy, nats",
    "rank": "rank of the model's own token",
}


def layers(tables: "dict[str, pd.DataFrame]") -> Section:
    """Mean cosine by layer of a language model, and what lenses read in each."""
    found = tables["geometry"]
    # Some sources are there twice: as many rows as the others, and whole.
    found = found[(found.metric == "cosine") & (found.n == found.n.min())]
    named = found.source.str.extract(r"^smollm2-(documents|tokens)-layer(\d+)-")
    found = found.assign(what=named[0], layer=named[1].astype(float)).dropna(subset=["layer"])
    wide = found.pivot_table(index=["what", "layer"], columns="statistic", values="value").reset_index()
    who = {"documents": "articles", "tokens": "tokens in context"}
    rows = [
        {"layer": int(row["layer"]), "mean": five(row["mean"]), "low": five(row["q1"]), "high": five(row["q99"]),
         "who": who[row["what"]]}
        for row in records(wide)
    ]  # fmt: skip
    numbers = sorted({int(each) for each in wide.layer})
    dimension = int(found.d.iloc[0])
    random, reach = f"random directions in {dimension} dimensions", five(sphere(dimension).quantile(0.99))
    rows += [
        {"layer": layer, "mean": 0.0, "low": -reach, "high": reach, "who": random}
        for layer in (numbers[0], numbers[-1])
    ]
    chart = lines(
        "layers", layers_finding(found).split("\n")[0],
        "Mean cosine of all pairs by layer of SmolLM2-135M, with the band from 1 % to 99 % of pairs.",
        rows, x=("layer", "layer (0 = input embedding)"), y=("mean", "cosine of a pair"),
        order=[*who.values(), random], dashed=[random], interval=True, params={"layer": numbers[0]}, marked="layer",
        note="Line: mean; band: 1 % to 99 % of pairs. The rule follows the slider.",
    )  # fmt: skip
    panels = [Panel("layer", layer, _layer(layer, wide, who, tables["lens"])) for layer in numbers]
    slider = Control("layer", "layer", [(each, str(each)) for each in numbers], "range")
    lead = lens.finding(tables["lens"]).replace("\n", ". ") + "."
    return Section("layers", "Through the layers of a language model", [chart, *panels], [slider], lead)


def _layer(layer: int, wide: "pd.DataFrame", who: dict[str, str], lens: "pd.DataFrame") -> list[Element]:
    geometry = [
        (text(who[row["what"]]), number(row["mean"]), number(row["std"]), number(row["q1"]), number(row["q99"]))
        for row in records(wide[wide.layer == layer])
    ]
    columns = [Column("vectors", number=False), Column("mean cosine"), Column("spread"), Column("1 %"), Column("99 %")]
    parts: list[Element] = [Table(f"geometry-{layer}", f"Geometry of layer {layer}", columns, geometry)]
    readers = []
    for row in records(lens[(lens.layer == layer) & lens.reader.isin(["lens", "tuned"])]):
        cells = [text("logit lens" if row["reader"] == "lens" else "tuned lens")]
        for name in _LENS:
            cell = number(row[name])
            low, high = format_number(row[f"{name}_low"]), format_number(row[f"{name}_high"])
            cells.append(Cell(f"{cell.shown} ({low} … {high})", cell.key))
        readers.append(tuple(cells))
    if readers:
        columns = [Column("reader", number=False), *(Column(each) for each in _LENS.values())]
        parts.append(
            Table(f"lens-{layer}", f"What lenses read in layer {layer}, with 95 % intervals", columns, readers)
        )
    return parts
