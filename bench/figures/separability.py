"""The figure of the study `separability`: drawn from its tables alone."""

from typing import TYPE_CHECKING, Any

from bench.figures.families import FAMILIES, legend_below
from geomkit.reporting.style import headed, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["finding", "separability"]

_CORPORA = {"bbc": "BBC News, 5 topics", "20newsgroups": "20 Newsgroups, split by date"}


def separability(table: "pd.DataFrame", curve: "pd.DataFrame") -> "Figure":
    """Accuracy of every space beside its nulls, and accuracy against the number of principal directions.

    Parameters
    ----------
    table : DataFrame
        results/separability.csv.
    curve : DataFrame
        results/separability_curve.csv.
    """
    with styled():
        import matplotlib.pyplot as plt

        corpora = [name for name in _CORPORA if name in set(table.corpus)]
        figure, panels = plt.subplots(
            len(corpora), 2, figsize=(13, 0.6 + 5.4 * len(corpora)), squeeze=False, width_ratios=(1, 1.25)
        )
        for (left, right), corpus in zip(panels, corpora, strict=True):
            mine = table[table.corpus == corpus]
            _accuracies(left, mine, _CORPORA[corpus])
            _curves(right, mine, curve[curve.corpus == corpus])
        legend_below(figure, panels[0], 3)
        headed(figure, finding(table))
        return figure


def finding(table: "pd.DataFrame") -> str:
    """Say how many spaces are separable above every null, and how few directions are enough, whatever the answer."""
    above = table[table.ci_low > table[["majority", "shuffled_max", "random_ci_high"]].max(axis=1)]
    summary = (
        f"In {len(above)} of {len(table)} spaces a linear classifier is above the largest class, shuffled labels and "
        "random vectors"
    )
    reached = f"Accuracy {table.accuracy.min():.2f} to {table.accuracy.max():.2f}"
    known = table[table.fewest.notna()]
    if known.empty:
        return f"{summary}\n{reached}"
    few = known.fewest.median()
    return (
        f"{summary}\n{reached}; {100 * known.keep.iloc[0]:.0f} % of it stays in {few:g} principal directions (median; "
        f"random ones: {known.fewest_random.median():g}; TwoNN {known.twonn.median():.0f}, participation ratio "
        f"{known.participation_ratio.median():.0f})"
    )


def _accuracies(axes: "Axes", rows: "pd.DataFrame", title: str) -> None:
    places = range(len(rows))
    for at, row in zip(places, rows.to_dict("records"), strict=True):
        colour, marker = FAMILIES[row["family"]][1:]
        axes.plot([row["ci_low"], row["ci_high"]], [at, at], color=colour, linewidth=1.4)
        axes.plot(row["accuracy"], at, color=colour, marker=marker, markersize=5, linestyle="")
    axes.plot(rows.majority, places, color="0.35", linewidth=1, label="always the largest class")
    axes.plot(rows.shuffled, places, color="0.35", marker="x", linestyle="", markersize=4, label="shuffled labels")
    axes.plot(rows.random, places, color="0.35", marker="o", linestyle="", markersize=3, markerfacecolor="white",
              label="random vectors")  # fmt: skip
    axes.set_yticks(places, [_short(str(source)) for source in rows.source], fontsize=7.5)
    axes.set(xlim=(0, 1.02), ylim=(len(rows) - 0.4, -0.6), xlabel="accuracy on test rows, with 95 % interval")
    axes.grid(visible=False, axis="y")
    axes.set_title(title)


def _curves(axes: "Axes", table: "pd.DataFrame", curve: "pd.DataFrame") -> None:
    named: set[str] = set()
    for row in table.to_dict("records"):
        _, colour, _ = FAMILIES[row["family"]]
        for kind, style in (("principal", "-"), ("random", ":")):
            mine: Any = curve[(curve.source == row["source"]) & (curve.kind == kind)]
            label = f"{FAMILIES[row['family']][0]}, {kind} directions"
            axes.plot(mine.directions, mine.accuracy, style, color=colour, linewidth=0.9, alpha=0.75,
                      label=None if label in named else label)  # fmt: skip
            named.add(label)
        if row["fewest"] == row["fewest"]:
            height = row["majority"] + row["keep"] * (row["accuracy"] - row["majority"])
            axes.plot(row["fewest"], height, color=colour, marker="v", markersize=4, linestyle="")
    axes.set(xscale="log", xlabel="directions (log scale; ▾: fewest that keep enough)", ylim=(0, 1.02))
    axes.set_ylabel("accuracy")
    axes.set_title("Accuracy along the leading directions of the training rows")


def _short(source: str) -> str:
    return source.replace("smollm2-documents-layer", "SmolLM2 layer ").removesuffix("-576")
