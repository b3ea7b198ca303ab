"""The figure of the study `lookup`: drawn from its table alone."""

from typing import TYPE_CHECKING

from bench.figures.families import legend_below
from geomkit.reporting.style import headed, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["finding", "lookup"]

_COLOURS = {"one-hot": "#D55E00", "one-hot given": "#E69F00", "gather, sparse gradient": "#0072B2"}
_MARKERS = ("o", "^", "s", "D")
_LINES = ("-", "--", ":", "-.")
_MEASURES = {"ratio": "time / time of a gather", "memory_ratio": "peak memory / that of a gather"}


def lookup(table: "pd.DataFrame") -> "Figure":
    """Time and memory of each way as ratios to the gather, against the vocabulary, on logarithmic axes.

    Parameters
    ----------
    table : DataFrame
        results/lookup.csv: a row a device, size, pass and way.
    """
    with styled():
        import matplotlib.pyplot as plt

        panels = [(device, passes) for device in _distinct(table, "device") for passes in _distinct(table, "passes")]
        figure, axes = plt.subplots(
            len(_MEASURES), len(panels), figsize=(1 + 5.2 * len(panels), 8.4), sharex=True, sharey="row", squeeze=False
        )
        for column, (device, passes) in enumerate(panels):
            mine = table[(table.device == device) & (table.passes == passes)]
            for row, (measure, label) in enumerate(_MEASURES.items()):
                panel = axes[row][column]
                _panel(panel, mine, measure, _distinct(table, "tokens"))
                if column == 0:
                    panel.set_ylabel(label)
            axes[0][column].set_title(f"{passes}, {device}")
            axes[-1][column].set_xlabel("vocabulary (log scale)")
        legend_below(figure, figure.axes, 4)
        headed(figure, finding(table))
        return figure


def _distinct(table: "pd.DataFrame", column: str) -> list[str]:
    return list(dict.fromkeys(table[column].tolist()))


def _panel(axes: "Axes", mine: "pd.DataFrame", measure: str, sizes: list[str]) -> None:
    axes.axhline(1, color="0.35", linewidth=1.2, label="gather, dense gradient")
    for way, colour in _COLOURS.items():
        for at, tokens in enumerate(sizes):
            rows = mine[(mine.way == way) & (mine.tokens == tokens)].dropna(subset=[measure]).sort_values("vocabulary")
            if rows.empty:
                continue
            axes.plot(
                rows.vocabulary, rows[measure], color=colour, linestyle=_LINES[at % 4], marker=_MARKERS[at % 4],
                markersize=4, label=f"{way}, {tokens:,} tokens",
            )  # fmt: skip
            if measure == "ratio":
                axes.fill_between(
                    rows.vocabulary, rows.ratio_low, rows.ratio_high, color=colour, alpha=0.12, linewidth=0
                )
    axes.set(xscale="log", yscale="log")


def finding(table: "pd.DataFrame") -> str:
    """Say whether both ways are equal, by how much the gather is faster and smaller, and what was not run."""
    proven = table[table.equal.notna()]
    equal = bool(proven.equal.astype(bool).all()) and not proven.empty
    sizes = proven.drop_duplicates(["device", "vocabulary", "tokens"]).shape[0]
    share = proven.gradient_fraction.max() if len(proven) else 0.0
    lines = []
    for passes in _distinct(table, "passes"):
        mine = table[(table.passes == passes) & (table.way == "one-hot") & table.seconds.notna()]
        if mine.empty:
            continue
        ordered = mine.sort_values("ratio")
        small, large = ordered.iloc[0], ordered.iloc[-1]
        lines.append(
            f"{passes}: one-hot takes {_times(small.ratio)} ({_size(small)}) to {_times(large.ratio)} ({_size(large)}) "
            f"the time of a gather, and up to {_times(mine.memory_ratio.max())} its memory"
        )
    slowest = _times(table[table.way == "one-hot"].ratio.max())
    head = (
        f"A one-hot product gives what a gather gives, to the bit, in up to {slowest} its time"
        if equal
        else "NOT equal: see the column equal"
    )
    if equal:
        lines.append(
            f"Equal outputs to the bit and equal gradients but for the order of sums (at most {share:.2f} of the "
            f"bound) at {sizes} sizes"
        )
    left = table[table.seconds.isna()].drop_duplicates(["device", "vocabulary", "tokens"])
    if len(left):
        lines.append("Not run for memory: " + ", ".join(_size(row) for _, row in left.iterrows()))
    return "\n".join([head, *lines])


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}×" if ratio >= 10 else f"{ratio:.2g}×"


def _size(row: "pd.Series") -> str:
    return f"{int(row.vocabulary):,} words, {int(row.tokens):,} tokens"
