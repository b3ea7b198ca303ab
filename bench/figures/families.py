"""What figures share: how families of sources are named, coloured and marked, legends, and numbers on axes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = ["FAMILIES", "legend_below", "plain_numbers", "scatter_families"]

FAMILIES = {
    "random": ("Random: sphere, Gaussian, cube", "#7f7f7f", "o"),
    "tfidf": ("TF-IDF", "#E69F00", "s"),
    "word2vec": ("Word2Vec and GloVe", "#009E73", "^"),
    "llm": ("Language models", "#0072B2", "D"),
}
"""Title, colour and marker of each family."""


def scatter_families(axes: "Axes", rows: "pd.DataFrame", **how: Any) -> None:
    """Draw value against dimension, a point a source, in the colour and with the marker of its family."""
    for family, (title, colour, marker) in FAMILIES.items():
        mine = rows[rows.family == family]
        axes.scatter(mine.d, mine.value, color=colour, marker=marker, label=title, **how)


def legend_below(figure: "Figure", panels: "Sequence[Axes]", columns: int | None = None) -> None:
    """Put one legend below all panels, with what some of them have, each label once."""
    entries: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns or len(entries))


def plain_numbers(axis: "Axis", ticks: Sequence[int] = ()) -> None:
    """Write numbers out instead of powers of ten, at these places or at 1, 2, 5, 10 and so on."""
    from matplotlib import ticker

    axis.set_major_locator(ticker.FixedLocator(ticks) if ticks else ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.7g}"))
    axis.set_minor_locator(ticker.NullLocator())
