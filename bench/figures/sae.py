"""The figure of the study `sae`: drawn from its tables alone."""

from typing import TYPE_CHECKING

from bench.figures.families import legend_below
from geomkit.reporting.style import headed, percent, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["sae"]

_METHODS = {
    "sae": ("sparse autoencoder: k active features", "#0072B2", "o"),
    "pca": ("principal components: k numbers", "#E69F00", "s"),
    "random features": ("k of as many random directions", "#7f7f7f", "^"),
}
"""How each method is named, coloured and marked."""

BAR = 0.75
"""Share of variance that is asked of an autoencoder with at most 64 active features."""


def sae(table: "pd.DataFrame", curves: "pd.DataFrame") -> "Figure":
    """Variance explained, loss when spliced into the model, the curve of training, and its cost.

    Parameters
    ----------
    table : DataFrame
        results/sae.csv.
    curves : DataFrame
        results/sae_training.csv.
    """
    with styled():
        import matplotlib.pyplot as plt

        figure, panels = plt.subplots(1, 4, figsize=(15.5, 4.8), width_ratios=(1, 0.9, 1, 0.8))
        _explained(panels[0], table[(table.part == "quality") & (table.statistic == "explained_variance")])
        _spliced(panels[1], table[(table.part == "spliced") & (table.statistic == "cross_entropy")])
        _curves(panels[2], curves)
        _cost(panels[3], table[table.part == "cost"])
        legend_below(figure, [panels[0]], 4)
        headed(figure, _finding(table))
        return figure


def _value(table: "pd.DataFrame", part: str, method: str, statistic: str) -> float:
    """Return the value of the largest k."""
    rows = table[(table.part == part) & (table.method == method) & (table.statistic == statistic)]
    return float(rows.sort_values("k").value.iloc[-1])


def _finding(table: "pd.DataFrame") -> str:
    k = int(table[(table.part == "quality") & (table.method == "sae")].k.max())
    shares = [_value(table, "quality", method, "explained_variance") for method in ("sae", "pca", "random features")]
    dead = _value(table, "quality", "sae", "dead_fraction")
    back = _value(table, "spliced", "sae", "recovered_from_mean")
    cost = _value(table, "cost", "sae", "training_over_forward")
    return (
        f"{k} active features explain {percent(shares[0])} of held-out variance about the mean (as many principal "
        f"components {percent(shares[1])}, random features {percent(shares[2])}); {percent(dead, digits=2)} are dead\n"
        f"Spliced into the model they keep {percent(back)} of what replacing states by their mean loses; a token in "
        f"training took {cost:.2f} times the model's own forward pass"
    )


def _explained(axes: "Axes", rows: "pd.DataFrame") -> None:
    for method, (label, colour, marker) in _METHODS.items():
        mine = rows[rows.method == method].sort_values("k")
        spread = [mine.value - mine.low, mine.high - mine.value]
        axes.errorbar(mine.k, mine.value, spread, color=colour, marker=marker, markersize=5, label=label, capsize=2)
    one = rows[rows.method == "nearest token"]
    if not one.empty:
        axes.axhline(one.value.iloc[0], color="#009E73", linestyle=":", label="the nearest of as many training tokens")
    axes.axhline(BAR, color="0.35", linewidth=0.9, linestyle="--")
    axes.text(rows[rows.method == "sae"].k.min(), BAR + 0.012, percent(BAR), fontsize=8, color="0.35")
    ticks = sorted(set(rows[rows.method == "sae"].k))
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.set(xlabel="k (log scale)", ylabel="share of held-out variance explained", ylim=(None, 1))
    axes.set_title("Reconstruction\n(bars: 95 % over texts)")


def _spliced(axes: "Axes", rows: "pd.DataFrame") -> None:
    rows = rows.sort_values("value", ascending=False)
    names = [f"{row.method} {row.k}" if int(str(row.k)) else str(row.method) for row in rows.itertuples()]
    colours = [_METHODS.get(method, ("", "0.6", ""))[1] for method in rows.method]
    axes.barh(names, rows.value, color=colours, xerr=[rows.value - rows.low, rows.high - rows.value], ecolor="0.35")
    axes.set(xlabel="cross-entropy of the next token, nats")
    axes.grid(visible=False, axis="y")
    axes.set_title("States replaced in the running model\n(clean: none; zero, mean: all by one)")


def _curves(axes: "Axes", curves: "pd.DataFrame") -> None:
    for at, (k, mine) in enumerate(curves.groupby("k")):
        axes.plot(mine.tokens, 1 - mine.unexplained, marker="o", markersize=3, color=f"C{at}", label=f"k = {k}")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.0f}k")
    axes.set(xlabel="tokens trained on", ylabel="share of variance explained")
    axes.legend(loc="lower right")
    axes.set_title("Training\n(batches before they are learned from)")


def _cost(axes: "Axes", rows: "pd.DataFrame") -> None:
    seconds = rows[rows.statistic.isin(["forward_seconds", "training_seconds"])]
    names = ["model forward" if row.method == "model" else f"training, k = {row.k}" for row in seconds.itertuples()]
    colours = ["0.6" if method == "model" else _METHODS["sae"][1] for method in seconds.method]
    axes.barh(names[::-1], seconds.value[::-1] * 1e3, color=colours[::-1])
    axes.set(xlabel="milliseconds a token")
    axes.grid(visible=False, axis="y")
    axes.set_title("Cost\n")
