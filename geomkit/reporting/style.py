"""How figures look: one style, a heading that says what was found, and files that are the same to the byte."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["headed", "percent", "save", "styled"]

STYLE = Path(__file__).with_name("geomkit.mplstyle")


@contextmanager
def styled() -> Iterator[None]:
    """Draw inside this, and a figure looks like the others."""
    import matplotlib as mpl
    from matplotlib import style

    mpl.use("agg")
    with style.context(STYLE):
        yield


def save(figure: "Figure", path: Path, suffix: str) -> None:
    """Write a figure as ``svg`` or ``png``; the same figure gives the same bytes."""
    with styled():
        figure.savefig(path, format=suffix, metadata={"Date": None} if suffix == "svg" else None)


def headed(figure: "Figure", said: str) -> None:
    """Write what was found above the panels: the first line in bold, the figures it rests on below it.

    Parameters
    ----------
    figure : Figure
        Of any size; lines are broken to its width.
    said : str
        The finding; further lines give its numbers.
    """
    from textwrap import wrap

    wide, tall = figure.get_size_inches()
    first, *more = said.split("\n")
    head = wrap(first, int(11.3 * wide))
    small = [part for line in more for part in wrap(line, int(14.5 * wide))]
    # The title makes room for all lines, of which it draws its own.
    figure.suptitle("\n".join(head + [" "] * len(small)), x=0.01, ha="left", fontsize=11, fontweight="bold")
    top = 1 - (3 + 15.4 * len(head)) / 72 / tall
    figure.text(0.01, top, "\n".join(small), va="top", fontsize=9.2, linespacing=1.4)


def percent(low: float, high: float | None = None, *, digits: int = 0) -> str:
    """Say a share, or the least and the most of some, in percent; once where both are said alike."""
    ends = dict.fromkeys(f"{100 * each:.{digits}f}" for each in ((low,) if high is None else (low, high)))
    # A line is not broken before the sign.
    return f"{' to '.join(ends)}\u00a0%"
