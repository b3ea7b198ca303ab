"""Tables for people: by Rich, in as many columns as the terminal has, or as wide as they are where there is none."""

import io
import shutil
import sys
from collections.abc import Sequence

__all__ = ["table"]

WIDE = 240
"""Columns of a table that goes to a file or a pipe."""


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", *, numbers: Sequence[int] = ()
) -> str:
    """Return rows as text.

    Parameters
    ----------
    headings : sequence of str
        All empty for none.
    rows : sequence of sequences of str
        Shown as they are: markup in them is not read as such.
    title : str
        In a line of its own above.
    numbers : sequence of int
        Columns that are set flush right.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    out = io.StringIO()
    width = shutil.get_terminal_size().columns if terminal else WIDE
    console = Console(file=out, width=width, force_terminal=terminal, highlight=False, markup=False, emoji=False)
    drawn = Table(
        box=box.SIMPLE_HEAD, show_header=any(headings), title=title or None, title_justify="left", pad_edge=False
    )
    for at, heading in enumerate(headings):
        drawn.add_column(Text(heading), justify="right" if at in numbers else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(each) for each in row))
    console.print(drawn)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
