"""Tables for people: by Rich within the width of a terminal, or as wide as they are, and plain, where there is none."""

import io
import shutil
import sys
from collections.abc import Sequence

__all__ = ["at_terminal", "columns", "table"]

WIDE = 100_000
"""Columns of a table that goes to a file or a pipe: a row is a line there, however long."""

STYLES = {"ok": "green", "WARN": "bold yellow", "FAIL": "bold red"}
"""Of cells that are a verdict, which says in words what its colour says."""


_LEAST = 10
"""Width that cells are broken to at least, for others to stay whole."""


def columns() -> int:
    """Return how many columns the terminal has."""
    return shutil.get_terminal_size().columns


def at_terminal() -> bool:
    """Whether a person reads what is printed."""
    return sys.stdout.isatty()


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str = "",
    *,
    numbers: Sequence[int] = (),
    breaks: Sequence[int] = (),
) -> str:
    """Return rows as text.

    Parameters
    ----------
    headings : sequence of str
        All empty for none.
    rows : sequence of sequences of str
        Shown as they are: markup in them is not read as such. A row of one cell heads those below it.
    title : str
        In a line of its own above.
    numbers : sequence of int
        Columns that are set flush right.
    breaks : sequence of int
        Columns whose cells are broken first where there is little room; the last one unless given.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = at_terminal()
    out = io.StringIO()
    room = columns() if terminal else WIDE
    console = Console(file=out, width=room, force_terminal=terminal, highlight=False, markup=False, emoji=False)
    drawn = Table(
        box=box.SIMPLE_HEAD if terminal else None,
        show_header=any(headings),
        pad_edge=False,
    )
    last = len(headings) - 1
    breaking = set(breaks) or {last}
    whole = [row for row in (headings, *rows) if len(row) == len(headings)]
    widths = [max(cell_len(row[at]) for row in whole) for at in range(len(headings))]
    needed = sum(min(width, _LEAST) if at in breaking else width for at, width in enumerate(widths)) + 2 * len(widths)
    for at, heading in enumerate(headings):
        drawn.add_column(
            Text(heading),
            justify="right" if at in numbers else "left",
            overflow="fold",
            # Where these do not fit either, all break: nothing is cut.
            no_wrap=at not in breaking and needed <= room,
        )
    for row in rows:
        bold = "bold" if len(row) == 1 else ""
        drawn.add_row(*(Text(each, style=STYLES.get(each, bold)) for each in row))
    console.print(drawn)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    return "\n".join([title, *lines] if title else lines)
