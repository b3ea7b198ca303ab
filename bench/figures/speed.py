"""The figure of the study `speed`: drawn from its tables alone."""

from typing import TYPE_CHECKING

from bench.figures.families import plain_numbers
from geomkit.reporting.style import headed, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["speed"]

_OURS, _TIMES, _RATE, _SHARE = "geomkit", "times_as_fast", "million_pairs_per_second", "share_of_limit"

_LINES = {
    (_OURS, "bfloat16"): ("geomkit, bfloat16", "#D55E00", "D"),
    (_OURS, "float32"): ("geomkit, float32", "#0072B2", "o"),
    ("chunked torch", "float32"): ("chunked torch, float32", "#E69F00", "s"),
    ("bare product", "float32"): ("torch.mm(X, X.T) alone", "#7f7f7f", "^"),
}
"""How contenders are named, coloured and marked."""

_PRECISIONS = {"bfloat16": ("#D55E00", "D"), "float32": ("#0072B2", "o"), "float64": ("#009E73", "^")}

_DIMENSIONS = (50, 128, 384, 768, 1536, 4096)


def speed(table: "pd.DataFrame", growth: "pd.DataFrame") -> "Figure":
    """Pairs a second against dimension, times as fast as each peer, and seconds against the number of rows.

    Parameters
    ----------
    table : DataFrame
        results/speed.csv: columns kernel, data, setting, n, d, contender, precision, threads, statistic, beside, value.
    growth : DataFrame
        results/growth.csv: columns kernel, precision, source, against, n, d, statistic, value, se.
    """
    with styled():
        import matplotlib.pyplot as plt

        cosine = table[(table.kernel == "cosine_stats") & (table["data"] == "isotropic")]
        # Rows of KeOps and of one thread against many have another number of rows.
        cosine = cosine[cosine.n == cosine[cosine.contender == "bare product"].n.max()]
        figure, panels = plt.subplots(1, 3, figsize=(16.5, 7), width_ratios=(1.1, 1, 1))
        _rates(panels[0], cosine)
        _peers(panels[1], table)
        _growth(panels[2], growth)
        headed(figure, finding(cosine))
        return figure


def finding(cosine: "pd.DataFrame") -> str:
    """Say what the ratios of the cosine statistics are, whatever they are."""
    mine = cosine[(cosine.statistic == _TIMES) & (cosine.precision == "float32")]
    product = 1 / mine[mine.beside == "bare product"].value
    torch = mine[mine.beside == "chunked torch"].value
    return (
        f"All pairs counted in {product.min():.2f} to {product.max():.2f} of the time of their bare float32 product,"
        f" {torch.min():.1f} to {torch.max():.1f} times as fast as chunked torch"
    )


def _rates(axes: "Axes", cosine: "pd.DataFrame") -> None:
    rates = cosine[cosine.statistic == _RATE]
    for (contender, precision), (name, colour, marker) in _LINES.items():
        mine = rates[(rates.contender == contender) & (rates.precision == precision)].sort_values("d")
        axes.fill_between(mine.d, mine.low, mine.high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(mine.d, mine.value, color=colour, marker=marker, markersize=4.5, label=name)
        shares = cosine[(cosine.statistic == _SHARE) & (cosine.contender == contender)]
        limit = mine.merge(shares[shares.precision == precision], on="d", suffixes=("", "_share"))
        if not limit.empty:
            axes.plot(limit.d, limit.value / limit.value_share, color=colour, linestyle=":", linewidth=1.2)
    axes.plot([], [], color="0.4", linestyle=":", linewidth=1.2, label="least time: measured product and counter rates")
    axes.set(xscale="log", yscale="log", xlabel="dimension (log scale)", ylabel="million pairs a second (log scale)")
    plain_numbers(axes.xaxis, _DIMENSIONS)
    plain_numbers(axes.yaxis)
    _legend(axes)
    axes.set_title(f"Cosine statistics, {int(cosine.n.max()):,} rows")


def _peers(axes: "Axes", table: "pd.DataFrame") -> None:
    """Draw a line a peer and case, the largest dimension up to 768 of each."""
    ratios = table[(table.statistic == _TIMES) & (table.beside != "one thread") & (table.d <= 768)]
    places = ["kernel", "data", "setting", "beside"]
    ratios = ratios.assign(setting=ratios.setting.fillna(""))
    ratios = ratios[ratios.d == ratios.groupby(places).d.transform("max")]
    labels: list[str] = []
    for key, rows in ratios.groupby(places, sort=False):
        kernel, data, setting, beside = map(str, key)
        extra = ", ".join(each for each in (setting, "common mean" if data == "anisotropic" else "") if each)
        labels.append(f"{kernel}{f' {extra}' if extra else ''} · {beside} ({rows.n.iloc[0]:,} × {rows.d.iloc[0]})")
        for row in rows.itertuples():
            colour, marker = _PRECISIONS[str(row.precision)]
            low, value, high = (float(str(each)) for each in (row.low, row.value, row.high))
            axes.plot([low, high], [-len(labels)] * 2, color=colour, linewidth=1.2)
            axes.plot(value, -len(labels), color=colour, marker=marker, markersize=4.5)
    axes.axvline(1, color="0.35", linewidth=1.2)
    axes.set(xscale="log", xlabel="seconds of the peer over ours (log scale; bars: all rounds)")
    axes.set_yticks([-at - 1 for at in range(len(labels))], labels, fontsize=7)
    for precision, (colour, marker) in _PRECISIONS.items():
        axes.plot([], [], color=colour, marker=marker, markersize=4.5, linestyle="", label=precision)
    _legend(axes, 3)
    plain_numbers(axes.xaxis)
    axes.set_title("Times as fast as each peer")


def _growth(axes: "Axes", growth: "pd.DataFrame") -> None:
    of_rows = growth[growth.against == "n"]
    for at, ((kernel, precision, source), rows) in enumerate(
        of_rows.groupby(["kernel", "precision", "source"], sort=False)
    ):
        seconds = rows[rows.statistic == "seconds"].sort_values("n")
        slope = rows[rows.statistic == "exponent of seconds"].iloc[0]
        source_name = ", memory map" if source == "memory map" else ""
        name = f"{kernel} {precision}{source_name}, d = {seconds.d.iloc[0]:.0f}: n^{slope.value:.2f} ± {slope.se:.2f}"
        axes.plot(seconds.n, seconds.value, color=f"C{at}", marker="osD^vP*"[at % 7], markersize=4.5, label=name)
    axes.set(xscale="log", yscale="log", xlabel="rows (log scale)", ylabel="seconds (log scale)")
    plain_numbers(axes.xaxis, (5_000, 20_000, 100_000, 500_000, 2_000_000))
    plain_numbers(axes.yaxis)
    _legend(axes)
    axes.set_title("Growth with the number of rows")


def _legend(axes: "Axes", columns: int = 1) -> None:
    """Put the legend below the axes, where no line runs."""
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.11), ncols=columns, fontsize=8)
