"""Markdown tables, written in one way by the pages of results, README and docs."""

from collections.abc import Sequence


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    """Write a table.

    Parameters
    ----------
    head : sequence of str
    rows : sequence of sequences of str
    align : str
        A letter a column, ``l`` or ``r``; by default all columns but the first hold numbers, on the right.
    """
    align = align or "l" + "r" * (len(head) - 1)
    rule = "".join({"l": "---|", "r": "---:|"}[side] for side in align)
    return "\n".join([f"| {' | '.join(head)} |", f"|{rule}", *(f"| {' | '.join(row)} |" for row in rows)])
