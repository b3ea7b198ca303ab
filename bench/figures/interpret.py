"""The figure of the study `interpret`: drawn from its tables alone."""

from typing import TYPE_CHECKING, Any

from bench.figures.families import FAMILIES, legend_below
from geomkit.reporting.style import headed, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

__all__ = ["finding", "interpret", "verdict"]

_JUDGES = {"npmi": "NPMI in 20 Newsgroups test", "glove": "cosine of GloVe"}
_STATISTICS = {
    "coherence": "Coherence of ten words at the end of a dimension, less that of others as frequent",
    "intrusion": "Share of intruders found among five of them, less that among others as frequent",
}
_USES = {"simlex999": "SimLex-999, Spearman's ρ", "probe": "BBC topics, accuracy of a linear probe"}
_FORMS = {"as it is": "as it is", "rotated": "rotated at random"}
_LEVELS = ("High over Medium", "Medium over Low", "High over Low")


def interpret(table: "pd.DataFrame", ranking: "pd.DataFrame", use: "pd.DataFrame") -> "Figure":
    """Draw every score of every space, as it is and rotated, above its null; and coherence against usefulness.

    Parameters
    ----------
    table, ranking, use : DataFrame
        results/interpret.csv, results/interpret_ranking.csv and results/interpret_use.csv.
    """
    with styled():
        import matplotlib.pyplot as plt
        from adjustText import adjust_text

        figure, panels = plt.subplots(2, 3, figsize=(15, 9.2), width_ratios=(1, 1, 0.9))
        for down, (statistic, title) in enumerate(_STATISTICS.items()):
            for along, (judge, name) in enumerate(_JUDGES.items()):
                axes = panels[down][along]
                _scores(axes, table[(table.judge == judge) & (table.statistic == statistic)], named=not along)
                axes.set_title(title if not along else "", fontsize=9.5)
                axes.set_xlabel(f"judge: {name}")
        names = [_against(axes, use, *measure) for axes, measure in zip(panels[:, 2], _USES.items(), strict=True)]
        legend_below(figure, [panels[0][0]])
        headed(figure, finding(table, ranking))
        # Names move off each other once the panels have their final sizes.
        figure.draw_without_rendering()
        for axes, texts in zip(panels[:, 2], names, strict=True):
            at = [text.get_position() for text in texts]
            adjust_text(
                texts, *zip(*at, strict=True), ax=axes, expand=(1.15, 1.4), ensure_inside_axes=True, iter_lim=500
            )
        return figure


def verdict(ranking: "pd.DataFrame", judge: str = "npmi", statistic: str = "coherence", kind: str = "level") -> str:
    """Say of how many pairs of spaces the article's High, Medium, Low is true, and of how many the reverse is.

    A pair counts whose difference in gain has an interval on one side of 0.

    Parameters
    ----------
    ranking : DataFrame
        results/interpret_ranking.csv.
    judge, statistic : str
        By which score.
    kind : {"level", "level, unit rows"}
        Rows at the length that they have, or at length 1.
    """
    mine = ranking[(ranking.kind == kind) & (ranking.judge == judge) & (ranking.statistic == statistic)]
    counts = []
    for claim in _LEVELS:
        pairs = mine[mine.claim == claim]
        holds, fails = int((pairs.low > 0).sum()), int((pairs.high < 0).sum())
        counts.append(f"{claim} in {holds} of {len(pairs)}, reversed in {fails}")
    return "; ".join(counts)


def finding(table: "pd.DataFrame", ranking: "pd.DataFrame") -> str:
    """Say what became of the ranking, and in how many spaces axes mean more than directions drawn at random."""
    turned = ranking[(ranking.kind == "rotation") & (ranking.judge == "npmi") & (ranking.statistic == "coherence")]
    lost = turned[turned.low > 0].upper.tolist()
    mine = table[(table.judge == "npmi") & (table.statistic == "coherence") & (table.form == "as it is")]
    mine = mine[mine.family != "random"]
    return (
        f"{int((mine.gain_low > 0).sum())} of {len(mine)} spaces have dimensions more coherent than words as frequent; "
        f"a random rotation lowers {len(lost)} of them ({', '.join(lost) or 'none'})\n"
        f"Pairs of spaces, coherence by NPMI: {verdict(ranking)}.\n"
        f"With rows of length 1: {verdict(ranking, kind='level, unit rows')}. By GloVe: {verdict(ranking, 'glove')}."
    )


def _scores(axes: "Axes", rows: "pd.DataFrame", *, named: bool) -> None:
    spaces = list(dict.fromkeys(rows.space))
    place = {name: at for at, name in enumerate(spaces)}
    rows = rows[rows.form.isin(list(_FORMS))]
    for row in rows.to_dict("records"):
        colour, marker = FAMILIES[row["family"]][1:]
        at = place[row["space"]] + (0.18 if row["form"] == "rotated" else -0.18)
        face = "white" if row["form"] == "rotated" else colour
        axes.plot([row["gain_low"], row["gain_high"]], [at, at], color=colour, linewidth=1.3)
        axes.plot(row["gain"], at, color=colour, marker=marker, markersize=5, linestyle="", markerfacecolor=face)
    for form, label in _FORMS.items():
        face = "white" if form == "rotated" else "0.35"
        axes.plot([], [], color="0.35", marker="o", markersize=5, linestyle="", markerfacecolor=face, label=label)
    axes.axvline(0, color="0.35", linestyle=":", linewidth=1.1, label="other words of the same frequency")
    axes.set_yticks(range(len(spaces)), spaces if named else [""] * len(spaces), fontsize=8)
    axes.set_ylim(len(spaces) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def _against(axes: "Axes", use: "pd.DataFrame", column: str, label: str) -> "list[Text]":
    mine: Any = use[use[column].notna()]
    names = []
    for row in mine.to_dict("records"):
        colour, marker = FAMILIES[row["family"]][1:]
        low, high = row[f"{column}_low"], row[f"{column}_high"]
        axes.plot([row["coherence_npmi_gain"]] * 2, [low, high], color=colour, linewidth=1)
        axes.plot(row["coherence_npmi_gain"], row[column], color=colour, marker=marker, markersize=5, linestyle="")
        names.append(axes.text(row["coherence_npmi_gain"], row[column], row["space"], fontsize=7))
    axes.set(xlabel="C_NPMI of its dimensions, less that of others as frequent", ylabel=label)
    axes.set_title("More useful, less interpretable?" if column == "simlex999" else "", fontsize=9.5)
    axes.margins(x=0.1)
    return names
