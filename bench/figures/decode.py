"""The figure of the study `decode`: drawn from its tables alone."""

from typing import TYPE_CHECKING

from geomkit.reporting.style import headed, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["bytes_finding", "decode", "finding", "half_bytes"]

_READERS = {
    "nearest input embedding": ("#0072B2", "o"),
    "logit lens": ("#D55E00", "s"),
    "trained linear map": ("#009E73", "^"),
    "rotated table": ("0.5", "x"),
    "Word2Vec, turned onto it": ("#CC79A7", "v"),
    "Word2Vec, trained linear map": ("#E69F00", "D"),
    "input embedding, same words": ("#56B4E9", "o"),
}
"""Colour and mark of each reader."""

_OF_WORDS = ("Word2Vec, turned onto it", "Word2Vec, trained linear map", "input embedding, same words")
"""Readers that are asked for the words alone that Word2Vec has."""

_KINDS = {"float32": "o", "float16": "s", "int8": "^", "int4": "v", "sign": "D"}


def half_bytes(rate: "pd.DataFrame", share: float = 0.5) -> "pd.DataFrame":
    """Fewest bytes a vector at which so large a share of what float32 keeps is kept.

    Parameters
    ----------
    rate : DataFrame
        Columns space, what, code, d, bytes, kept, low, high.
    share : float
        Of what the vectors as they are keep.

    Returns
    -------
    DataFrame
        A row a space: bytes and the code that has them; `low` and `high` are the fewest bytes at which the upper and
        the lower end of the interval still reach so far: infinite where none of the codes does.
    """
    import pandas as pd

    rows = []
    for (space, what), mine in rate.groupby(["space", "what"], sort=False):
        whole = mine[mine.code == "float32"].iloc[0]
        ends = {}
        for name, column in (("bytes", "kept"), ("low", "high"), ("high", "low")):
            enough = mine[mine[column] >= share * whole.kept].sort_values(["bytes", column], ascending=[True, False])
            ends[name] = float(enough.bytes.iloc[0]) if len(enough) else float("inf")
            if name == "bytes":
                code = str(enough.code.iloc[0]) if len(enough) else ""
        rows.append({"space": space, "what": what, "share": share, **ends, "code": code, "whole": float(whole.kept),
                     "float32_bytes": int(whole.bytes), "floor": float(whole.floor)})  # fmt: skip
    return pd.DataFrame(rows)


def decode(tokens: "pd.DataFrame", bags: "pd.DataFrame", rate: "pd.DataFrame", few: "pd.DataFrame") -> "Figure":
    """Tokens read by layer, bags by length, and what is kept by bytes a vector.

    Parameters
    ----------
    tokens, bags, rate, few : DataFrame
        results/decode_tokens.csv, decode_bags.csv, decode_rate.csv and decode_bytes.csv.
    """
    with styled():
        import matplotlib.pyplot as plt

        figure, panels = plt.subplots(2, 2, figsize=(13, 10))
        _tokens(panels[0][0], tokens[tokens.target == "same"], "Read: the token that the vector is of")
        _tokens(panels[0][1], tokens[tokens.target == "next"], "Read: the token that follows", legend=False)
        _bags(panels[1][0], bags)
        _rate(panels[1][1], rate)
        headed(figure, finding(tokens, few))
        return figure


def finding(tokens: "pd.DataFrame", few: "pd.DataFrame") -> str:
    """Say what the best reader of each kind reads in the middle and last layers, and how few bytes are enough."""
    same = tokens[tokens.target == "same"].set_index(["reader", "layer"]).top1
    layers = sorted(tokens.layer.unique())
    middle, last = layers[len(layers) // 2], layers[-1]
    parts = [
        f"{reader} {100 * same[reader, middle]:.0f} % and {100 * same[reader, last]:.0f} %"
        for reader in ("logit lens", "trained linear map", "rotated table")
        if (reader, middle) in same.index
    ]
    known = [name for name in _READERS if (name, middle) in same.index and name not in _OF_WORDS]
    reader = max(known, key=lambda name: float(same[name, middle]))
    head = (
        f"At layer {middle} the best reader ({reader}) reads {100 * same[reader, middle]:.0f} % of tokens, and "
        f"{bytes_finding(few)}"
    )
    spans = [f"{row.space} {row.bytes:g} of {row.float32_bytes}" for row in few.itertuples()]
    by_layer = f"Of tokens at layers {middle} and {last}: {', '.join(parts)}"
    return f"{head}\n{by_layer}.\nBytes that keep half of neighbours or tokens: {'; '.join(spans)}"


def bytes_finding(few: "pd.DataFrame") -> str:
    """Say how few bytes are enough, over all spaces."""
    return f"{few.bytes.min():g} to {few.bytes.max():g} bytes a vector keep half of what float32 keeps"


def _tokens(axes: "Axes", rows: "pd.DataFrame", title: str, *, legend: bool = True) -> None:
    for reader, (colour, marker) in _READERS.items():
        mine = rows[rows.reader == reader].sort_values("layer")
        if mine.empty:
            continue
        axes.fill_between(mine.layer, mine.low, mine.high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(mine.layer, mine.top1, color=colour, marker=marker, markersize=4, label=reader)
    floor = rows[rows.reader == "logit lens"]
    axes.plot(floor.layer, floor.most_frequent, color="0.35", linestyle=":", label="always the most frequent token")
    axes.set(xlabel="layer", ylabel="share read right (band: 95 % over texts)", ylim=(-0.02, 1.02), title=title)
    if legend:
        axes.legend(fontsize=7.5)


def _bags(axes: "Axes", bags: "pd.DataFrame") -> None:
    for layer, colour in zip(sorted(bags.layer.unique()), ("#0072B2", "#D55E00", "#009E73"), strict=False):
        for guess, style in (("own", "-"), ("another text's", ":")):
            mine = bags[(bags.layer == layer) & (bags.guess == guess)].sort_values("length")
            axes.plot(mine.length, mine.recall, style, color=colour, marker="o", markersize=4,
                      label=f"layer {layer}" + ("" if guess == "own" else ", of another text's vector"))  # fmt: skip
            if guess == "own":
                axes.fill_between(mine.length, mine.recall_low, mine.recall_high, color=colour, alpha=0.15, linewidth=0)
    often = bags[bags.guess == "most frequent tokens"].drop_duplicates("length")
    axes.plot(often.length, often.recall, color="0.35", linestyle="--", label="the most frequent tokens")
    axes.set(xscale="log", xlabel="tokens that a vector is the mean of (log scale)", ylabel="share of them recovered")
    axes.set(ylim=(-0.02, 1.02), title="Bag of tokens from a mean of states")
    axes.set_xticks(sorted(bags.length.unique()), [str(length) for length in sorted(bags.length.unique())])
    axes.minorticks_off()
    axes.legend(fontsize=7.5)


def _rate(axes: "Axes", rate: "pd.DataFrame") -> None:
    for at, (space, mine) in enumerate(rate.groupby("space", sort=False)):
        colour = f"C{at}"
        best = mine.sort_values("bytes")
        best = best[best.kept >= best.kept.cummax()]
        axes.plot(best.bytes, best.kept, color=colour, linewidth=1.1, label=str(space))
        for kind, marker in _KINDS.items():
            some = mine[mine.kind == kind]
            axes.plot(some.bytes, some.kept, marker, color=colour, markersize=4, markerfacecolor="white")
        axes.axhline(float(mine.floor.iloc[0]), color=colour, linestyle=":", linewidth=0.8)
    for kind, marker in _KINDS.items():
        axes.plot([], [], marker, color="0.35", markersize=4, markerfacecolor="white", label=kind)
    axes.set(xscale="log", xlabel="bytes a vector (log scale; line: best code so far)", ylabel="share kept")
    axes.set(ylim=(-0.02, 1.02), title="10 nearest neighbours, or tokens, kept in few bytes (dotted: floors)")
    # Below the axes: points are everywhere.
    axes.legend(fontsize=7.5, ncols=3, loc="upper left", bbox_to_anchor=(0, -0.13))
