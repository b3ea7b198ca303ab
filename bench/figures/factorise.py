"""The figure of the study `factorise`: drawn from its table alone."""

from typing import TYPE_CHECKING

from bench.figures.families import legend_below
from geomkit.reporting.style import headed, percent, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["best", "factorise", "finding", "verdict"]

_PANELS = {
    "wordsim353": "WordSim-353, Spearman's ρ",
    "simlex999": "SimLex-999, Spearman's ρ",
    "neighbours at 10": "share of 10 neighbours kept",
    "cka": "debiased CKA",
    "procrustes": "Procrustes, 1 − disparity",
    "w·c with PMI": "correlation of w·c with PMI − log k",
}
_COLOURS = {0.0: "#0072B2", 0.5: "#009E73", 1.0: "#E69F00"}
_OTHERS = {
    "skip-gram": ("skip-gram", "#000000", "*"),
    "skip-gram, other seed": ("skip-gram, another seed", "0.35", "D"),
    "skip-gram, rows shuffled": ("skip-gram, rows shuffled", "0.6", "x"),
}


def factorise(table: "pd.DataFrame") -> "Figure":
    """Every measure against the dimension, a panel a measure: PPMI-SVD by power and shift, between ceiling and floor.

    Parameters
    ----------
    table : DataFrame
        results/factorise.csv: columns space, dim, shift, power, statistic, value, low, high, n.
    """
    with styled():
        import matplotlib.pyplot as plt

        figure, panels = plt.subplots(2, 3, figsize=(12, 7.6))
        dims = sorted(table.dim.unique())
        for axes, (statistic, title) in zip(panels.flat, _PANELS.items(), strict=True):
            mine = table[table.statistic == statistic]
            _panel(axes, mine, dims)
            n = f"n = {int(mine.n.max()):,}" if len(mine) else "not measured"
            axes.set_title(f"{title} ({n})", fontsize=9.5)
            axes.set_xticks(range(len(dims)), [str(dim) for dim in dims])
            axes.set_xlim(-0.5, len(dims) - 0.5)
        for axes in panels[1]:
            axes.set_xlabel("dimensions")
        legend_below(figure, [panels[0][0]], 5)
        headed(figure, finding(table))
        return figure


def _panel(axes: "Axes", mine: "pd.DataFrame", dims: list[int]) -> None:
    place = {dim: at for at, dim in enumerate(dims)}
    kinds = [(name, None, None) for name in _OTHERS] + [
        ("ppmi-svd", shift, power)
        for shift in sorted(mine.loc[mine.space == "ppmi-svd", "shift"].unique())
        for power in _COLOURS
    ]
    for at, (space, shift, power) in enumerate(kinds):
        rows = mine[mine.space == space]
        if space == "ppmi-svd":
            rows = rows[(rows["shift"] == shift) & (rows.power == power)]
            label, colour = f"PPMI-SVD, k = {shift:g}, p = {power:g}", _COLOURS[power or 0.0]
            marker = "o" if shift == 1 else "s"
        else:
            label, colour, marker = _OTHERS[space]
        x = [place[dim] + 0.09 * (at - (len(kinds) - 1) / 2) for dim in rows.dim]
        axes.errorbar(
            x, rows.value, yerr=[rows.value - rows.low, rows.high - rows.value], color=colour, marker=marker,
            markersize=5, linestyle="", linewidth=1.1, label=label,
        )  # fmt: skip
    axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)


def best(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return the setting of PPMI-SVD with the highest value of each measure and dimension, between floor and ceiling.

    Parameters
    ----------
    table : DataFrame
        As for `factorise`.

    Returns
    -------
    DataFrame
        Its rows, with columns ceiling, floor and ``reached``: (value - floor)/(ceiling - floor). The ceiling is the
        other seed, and of judgements of people skip-gram itself. The setting was chosen by its value, among as many as
        there are: an upper bound on what one would get who chose beforehand.
    """
    mine = table[(table.space == "ppmi-svd") & table.statistic.isin(list(_PANELS))].dropna(subset=["value"])
    mine = mine.loc[mine.groupby(["statistic", "dim"]).value.idxmax()]
    known = table.set_index(["space", "statistic", "dim"]).value

    def of(space: str, row: "pd.Series") -> float:
        return float(known.get((space, row.statistic, row.dim), float("nan")))

    judged = mine.statistic.isin(["wordsim353", "simlex999"])
    ceiling = [
        of("skip-gram" if by_people else "skip-gram, other seed", row)
        for by_people, (_, row) in zip(judged, mine.iterrows(), strict=True)
    ]
    floor = [of("skip-gram, rows shuffled", row) for _, row in mine.iterrows()]
    mine = mine.assign(ceiling=ceiling, floor=floor)
    return mine.assign(reached=(mine.value - mine.floor) / (mine.ceiling - mine.floor))


def finding(table: "pd.DataFrame") -> str:
    """Say how far the equivalence holds at the largest dimension."""
    chosen = best(table)
    dim = int(table.dim.max())
    rows = chosen[chosen.dim == dim].set_index("statistic")
    parts = []
    for name, label in _PANELS.items():
        if name in rows.index:
            # Rounded first: there is no -0.00.
            row = rows.loc[name].to_dict()
            value, floor, ceiling = (round(row[column], 2) + 0.0 for column in ("value", "floor", "ceiling"))
            parts.append(f"{label} {value:.2f} [{floor:.2f}, {ceiling:.2f}]")
    return f"{verdict(chosen)}\nAt {dim} dimensions, the best setting of PPMI-SVD, [floor, ceiling]: {'; '.join(parts)}"


def verdict(chosen: "pd.DataFrame") -> str:
    """Say in words what `best` found: of spaces ("holds" from 90 % of the way to a second training on, else partly)."""
    shared = chosen[chosen.statistic.isin(["neighbours at 10", "cka", "procrustes"])].reached
    judged = chosen[chosen.statistic.isin(["wordsim353", "simlex999"])].reached
    if shared.empty:
        return "The equivalence was not measured"
    least, most = float(shared.min()), float(shared.max())
    word = "holds" if least >= 0.9 else "holds in part" if most >= 0.1 else "does not hold"
    text = f"The equivalence {word}: {percent(least, most)} of the way from floor to another seed"
    return text + (
        f"; on people's judgements {percent(judged.min(), judged.max())} of skip-gram" if len(judged) else ""
    )
