"""The figure of the study `validity`: drawn from its table alone."""

from typing import TYPE_CHECKING

from bench.figures.families import legend_below
from geomkit.reporting.style import headed, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["OUTCOMES", "finding", "validity"]

OUTCOMES = {
    "hnsw_recall": "HNSW recall",
    "ivf_recall": "IVF recall",
    "same_label": "same-label retrieval",
    "probe": "probe accuracy",
    "wordsim": "word similarity",
}
"""How outcomes are named, in the order of the panels."""

_KINDS = {"": ("across sources", "#0072B2", "o", -0.17), "within_": ("within sources", "#D55E00", "^", 0.17)}
"""Columns of each kind of correlation: how it is named, coloured and marked, and how far below its line it is."""

_PLAIN = {"d": "d (columns)"}

_SIGNS = {-1: " (−)", 0: "", 1: " (+)"}


def validity(table: "pd.DataFrame") -> "Figure":
    """Correlation of each statistic with each outcome, a panel an outcome, with intervals; filled where it holds.

    Parameters
    ----------
    table : DataFrame
        results/validity.csv: columns statistic, outcome, expected, n_spaces, n_groups, and rho, low, high and holds,
        once as they are and once after ``within_``.
    """
    with styled():
        import matplotlib.pyplot as plt

        outcomes = [name for name in OUTCOMES if name in set(table.outcome)]
        statistics = table.drop_duplicates("statistic")
        height = 2.6 + 0.29 * len(statistics)
        figure, panels = plt.subplots(
            1, len(outcomes), figsize=(2.4 + 2.3 * len(outcomes), height), sharey=True, squeeze=False
        )
        places = {name: at for at, name in enumerate(statistics.statistic)}
        for axes, outcome in zip(panels[0], outcomes, strict=True):
            _panel(axes, table[table.outcome == outcome], places)
        first = panels[0][0]
        names = [
            f"{_PLAIN.get(str(row.statistic), row.statistic)}{_SIGNS[int(str(row.expected))]}"
            for row in statistics.itertuples()
        ]
        first.set_yticks(range(len(names)), names, fontsize=8.5)
        first.set_ylim(len(names) - 0.4, -0.6)
        _legend(figure, first)
        headed(figure, finding(table))
        return figure


def finding(table: "pd.DataFrame") -> str:
    """Say how many correlations hold, which is the strongest of each outcome, and whether verdicts point that way."""
    lines = []
    for prefix, (name, *_) in _KINDS.items():
        tested = table[table[f"{prefix}low"].notna()]
        held = tested[tested[f"{prefix}holds"]]
        best = []
        for outcome, label in OUTCOMES.items():
            if outcome not in set(tested.outcome):
                continue
            mine = held[held.outcome == outcome]
            if mine.empty:
                best.append(f"none with {label}")
            else:
                top = mine.iloc[int(mine[f"{prefix}rho"].abs().argmax())]
                best.append(f"{top.statistic} {_signed(float(top[f'{prefix}rho']))} with {label}")
        counted = f"{name.capitalize()} {len(held)} of {len(tested)} correlations hold"
        lines.append(f"{counted}; the strongest: {', '.join(best)}" if best else counted)
    agree = []
    for prefix, (name, *_) in _KINDS.items():
        judged = table[table[f"{prefix}holds"] & (table.expected != 0)]
        agree.append(f"{int((judged[f'{prefix}rho'] * judged.expected > 0).sum())} of {len(judged)} {name}")
    summary = f"Of correlations that hold, {' and '.join(agree)} have the sign that a verdict of the audit supposes"
    few = [OUTCOMES[each] for each in OUTCOMES if each in set(table.outcome) - set(table[table.low.notna()].outcome)]
    if few:
        lines.append(f"Too few models to test {', '.join(few)}")
    return "\n".join([summary, *lines])


def _signed(rho: float) -> str:
    return f"{rho:+.2f}".replace("-", "−")


def _panel(axes: "Axes", rows: "pd.DataFrame", places: dict[str, int]) -> None:
    for band in range(0, len(places), 2):
        axes.axhspan(band - 0.5, band + 0.5, color="0.965", zorder=0, linewidth=0)
    axes.axvline(0, color="0.35", linewidth=1)
    for prefix, (_, colour, marker, below) in _KINDS.items():
        for row in rows.to_dict("records"):
            at = places[row["statistic"]] + below
            holds = bool(row[f"{prefix}holds"])
            axes.plot(
                [row[f"{prefix}low"], row[f"{prefix}high"]], [at, at], color=colour, linewidth=1.3 if holds else 0.8,
                alpha=1.0 if holds else 0.45,
            )  # fmt: skip
            axes.plot(
                row[f"{prefix}rho"], at, marker=marker, markersize=4.6, color=colour, linestyle="",
                markerfacecolor=colour if holds else "white", markeredgewidth=1,
            )  # fmt: skip
    axes.set(xlim=(-1.05, 1.05), xticks=[-1, -0.5, 0, 0.5, 1], xlabel="Spearman's ρ")
    axes.set_xticklabels(["−1", "−½", "0", "½", "1"])
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    outcome = str(rows.outcome.iloc[0])
    groups = int(rows.n_groups.max())
    axes.set_title(f"{OUTCOMES[outcome]}\n", fontsize=10)
    axes.text(0, 1.008, f"{int(rows.n_spaces.max())} spaces of {groups} models", transform=axes.transAxes, fontsize=8)


def _legend(figure: "Figure", axes: "Axes") -> None:
    hows = ("all spaces, each model weighing the same", "versions of one source")
    for (name, colour, marker, _), how in zip(_KINDS.values(), hows, strict=True):
        axes.plot([], [], color=colour, marker=marker, markersize=5, label=f"{name}: {how}")
    for face, label in (("0.35", "filled: holds at a false discovery rate of 5 %"), ("white", "hollow: does not")):
        axes.plot([], [], color="0.35", marker="s", markersize=5, linestyle="", markerfacecolor=face, label=label)
    axes.plot([], [], color="0.35", linewidth=1.3, label="bars: 95 % interval over models, from five models on")
    axes.plot([], [], linestyle="", label="(−), (+): sign that a verdict of the audit supposes")
    legend_below(figure, [axes], 3)
