"""The figure of the study `audits`: verdicts of every source, drawn from its table alone."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.figures.families import FAMILIES
from geomkit.reporting.style import styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLUMNS", "audits", "finding"]

_MISSING = "not measured"


class Column(NamedTuple):
    """How a statistic is headed and written."""

    heading: str
    flagged: str
    """What is wrong where it is flagged, as in "most often for …"; "" where it never is."""
    share: bool = False
    """Written in percent."""


COLUMNS = {
    "cosine_mean": Column("mean\ncosine", "a high mean cosine"),
    "hubness_skewness": Column("hubness\n(skewness)", "hubs"),
    "antihub_fraction": Column("rows never\nfound", "rows that are never found", share=True),
    "relative_contrast": Column("relative\ncontrast", "a low contrast"),
    "effective_rank": Column("effective\nrank", "directions that are not used"),
    "largest_variance_ratio": Column("top variance\nover mean", "one coordinate that varies most"),
    "near_duplicate_fraction": Column("near-\nduplicates", "near-duplicates", share=True),
    "duplicate_fraction": Column("\nduplicates", "duplicates", share=True),
    "outlier_fraction": Column("\noutliers", "outliers", share=True),
    "island_fraction": Column("rows on\nislands", "islands", share=True),
    "same_label_rate": Column("neighbours of\nthe same topic", "", share=True),
}
"""Judged statistics, and last one that is not: whether neighbours mean something all the same."""

_VERDICTS = {
    "ok": ("#eef3f7", "black", "ok: like random vectors, or not by enough to hurt"),
    "warn": ("#F3C969", "black", "warn"),
    "fail": ("#B2182B", "white", "fail: unlike random vectors on the side that hurts, by much"),
}
"""Fill, ink and meaning; they differ in lightness, so that they do without hue."""

_WIDTH, _HEIGHT, _NAME = 1.0, 0.3, 0.3
"""Of a cell and of the name of a family, in inches."""
_LABELS, _HEAD, _FOOT = 2.75, 1.15, 0.8
"""Room for names, headings and legend, in inches."""


def audits(table: "pd.DataFrame", sources: Sequence[str]) -> "Figure":
    """Draw a row a source and a column a statistic: value, what random vectors give, and the verdict as colour.

    Parameters
    ----------
    table : DataFrame
        Columns source, family, statistic, value, null_mean, verdict; a row of the statistic "not measured" and a note
        where a source has no figures.
    sources : sequence of str
        What to show, in this order within families; those that the table does not have are left out.
    """
    with styled():
        import matplotlib.pyplot as plt
        from matplotlib.layout_engine import PlaceHolderLayoutEngine

        known = table.drop_duplicates("source").set_index("source").family
        shown = {
            family: [name for name in sources if name in known.index and known[name] == family] for family in FAMILIES
        }
        families = [family for family, names in shown.items() if names]
        tall = sum(len(names) for names in shown.values()) * _HEIGHT + len(families) * _NAME
        wide = len(COLUMNS) * _WIDTH
        size = (wide + _LABELS, tall + _HEAD + _FOOT)
        # Everything has its place in inches. With no engine at all, saving would bring back that of the style.
        figure = plt.figure(
            figsize=size, layout=PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=True)
        )
        axes = figure.add_axes((_LABELS / size[0], _FOOT / size[1], wide / size[0], tall / size[1]))
        axes.set(xlim=(0, len(COLUMNS)), ylim=(tall, 0))
        axes.axis("off")
        top = 0.0
        for family in families:
            _family(axes, family, top, len(shown[family]))
            top += _NAME
            for name in shown[family]:
                _source(axes, name, table[table.source == name], top)
                top += _HEIGHT
        for at, column in enumerate(COLUMNS.values()):
            axes.text(at + 0.5, -0.08, column.heading, ha="center", va="bottom", fontsize=8.5, fontweight="bold")
        _legend(axes, tall)
        figure.text(0.01, 1 - 0.18 / size[1], finding(table), va="top", fontsize=12.5, fontweight="bold")
        return figure


def finding(table: "pd.DataFrame") -> str:
    """Say how many spaces are flagged, what for, and whether random directions are, whatever the answers."""
    measured = table[table.statistic != _MISSING]
    flagged = measured[measured.verdict.isin(["warn", "fail"])]
    real = measured[measured.family != "random"].source.nunique()
    flagged_real = flagged[flagged.family != "random"]
    summary = f"{flagged_real.source.nunique()} of {real} real spaces are flagged"
    counts = flagged_real.groupby("statistic", sort=False).source.nunique().sort_values(ascending=False, kind="stable")
    if len(counts):
        parts = [f"{COLUMNS[str(name)].flagged} ({count})" for name, count in counts.head(2).items()]
        summary += f", most often for {' and '.join(parts)}"
    directions = measured[measured.source.str.match("sphere-|gaussian-")]
    if directions.empty:
        return summary
    caught = directions.source[directions.source.isin(flagged.source)].nunique()
    which = "none" if caught == 0 else str(caught)
    return f"{summary};\n{which} of the {directions.source.nunique()} sets of random directions is"


def _family(axes: "Axes", family: str, top: float, count: int) -> None:
    """Name a family above its rows, and mark them by a bar in its colour."""
    title, colour, _ = FAMILIES[family]
    bar = [top + _NAME, top + _NAME + count * _HEIGHT]
    axes.plot([-0.04] * 2, bar, color=colour, linewidth=4, clip_on=False, solid_capstyle="butt")
    axes.text(-0.12, top + _NAME / 2, title, ha="right", va="center", fontsize=9, color=colour, fontweight="bold")


def _source(axes: "Axes", name: str, rows: "pd.DataFrame", top: float) -> None:
    middle = top + _HEIGHT / 2
    axes.text(-0.12, middle, name.replace("smollm2-", "smollm2 ").replace("-layer", " layer "), ha="right",
              va="center", fontsize=8.5)  # fmt: skip
    missing = rows[rows.statistic == _MISSING]
    if len(missing):
        axes.text(0.05, middle, f"not measured: {missing.note.iloc[0]}", va="center", fontsize=8, color="0.45")
        return
    by_statistic = rows.set_index("statistic")
    for at, (statistic, column) in enumerate(COLUMNS.items()):
        if statistic in by_statistic.index:
            _cell(axes, at, top, by_statistic.loc[statistic], share=column.share)


def _cell(axes: "Axes", at: int, top: float, row: Any, *, share: bool) -> None:
    fill, ink, _ = _VERDICTS.get(row.verdict, ("white", "black", ""))
    axes.fill_between([at + 0.02, at + 0.98], top + 0.015, top + _HEIGHT - 0.015, color=fill, linewidth=0)
    weight = "bold" if row.verdict in {"warn", "fail"} else "normal"
    middle = top + _HEIGHT / 2
    axes.text(at + 0.56, middle, _number(row.value, share=share), ha="right", va="center", fontsize=9, color=ink,
              fontweight=weight)  # fmt: skip
    grey = "#f3d5d5" if ink == "white" else "0.42"
    axes.text(at + 0.94, middle, _number(row.null_mean, share=share), ha="right", va="center", fontsize=6.5, color=grey)


def _number(value: float, *, share: bool) -> str:
    """Write a value in few digits; a dash where there is none."""
    if math.isnan(value):
        return "–"
    if share and 0 < value < 0.0005:
        return "<0.1 %"
    if share:
        return f"{100 * value:.0f} %" if value >= 0.0995 or value == 0 else f"{100 * value:.1f} %"
    digits = 0 if abs(value) >= 99.5 else 1 if abs(value) >= 9.95 else 2
    return f"{round(value, digits) + 0.0:,.{digits}f}"


def _legend(axes: "Axes", tall: float) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=fill, edgecolor="0.8", label=label) for fill, _, label in _VERDICTS.values()]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(-0.005, -0.1 / tall), ncols=3, fontsize=8.5,
                borderaxespad=0)  # fmt: skip
    explanation = (
        "Small: what random vectors of the same number and dimension give (Gaussian, mean of all sets drawn), for"
        " topics the same topics shuffled. Topics have no verdict. – : no value.\n"
        "Cubes are [0, 1]ᵈ, not about the origin: what is flagged there is their common direction."
    )
    axes.text(0.0, tall + 0.4, explanation, fontsize=8, color="0.3", va="top", linespacing=1.4)
