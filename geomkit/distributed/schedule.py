"""Which rows go to which task: leaves of a sum over rows, stripes of pairs of panels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from geomkit.core.executor import Span

__all__ = ["Stripe", "branches", "leaves", "panel_cut", "spans_of", "stripes"]

LEAVES = 64
"""Parts that the rows are poured in, at least, where there are rows enough, ..."""

LEAF_ROWS = 2**13, 2**20
"""... of which each has no fewer and, above so many leaves, no more rows than these."""

SUMS_BYTES = 2**33
"""Sums of all leaves, which may come to one process, stay below this, if need be with fewer leaves."""

BRANCHES_EACH = 4
"""Branches of the tree that a worker gets, at least, where there are leaves enough."""

PAIRS_EACH = 8
"""Pairs of panels that a worker gets to do in all, at least, so that none waits long for the others at the end."""


def leaves(n: int, d: int) -> list[Span]:
    """Cut n rows into leaves of a tree whose shape depends on the shape of the matrix alone, as sums do on it."""
    room = max(8, SUMS_BYTES // (16 * d**2))
    many = max(min(max(LEAVES, math.ceil(n / LEAF_ROWS[1])), room, n // LEAF_ROWS[0]), 1)
    return [(n * k // many, n * (k + 1) // many) for k in range(many)]


def branches(done: Sequence[bool], n: int, workers: int) -> list[tuple[int, int]]:
    """Cut what is left of the tree into branches, each poured and merged by one worker.

    Parameters
    ----------
    done : sequence of bool
        Of each leaf, whether it is in the sums already.
    n : int
        Rows.
    workers : int

    Returns
    -------
    list of (level, at)
        Nodes of the tree, no leaf of which is done: the leaves ``at << level`` up to ``(at + 1) << level``. As high as
        leaves enough for all workers a branch, and no more rows in it than a leaf may have, so that a run which is
        stopped has little to do again.
    """
    many = len(done)
    top = 0
    while 2 << top <= min(many // (BRANCHES_EACH * workers), LEAF_ROWS[1] * many // n):
        top += 1
    found: list[tuple[int, int]] = []

    def cut(level: int, at: int) -> None:
        mine = done[at << level : (at + 1) << level]
        if len(mine) and not any(mine):
            found.append((level, at))
        elif level and not all(mine):
            cut(level - 1, 2 * at)
            cut(level - 1, 2 * at + 1)

    for at in range(math.ceil(many / (1 << top))):
        cut(top, at)
    return found


def panel_cut(n: int, tile: int, most: int, workers: int) -> tuple[int, int]:
    """Return rows of a panel, and pairs of panels in a stripe.

    Parameters
    ----------
    n : int
        Rows.
    tile : int
        Rows of a tile, of which a panel is a multiple.
    most : int
        Rows of a panel that the memory of a worker allows.
    workers : int
    """
    least = math.ceil(math.sqrt(2 * PAIRS_EACH * workers))
    fair = max(1, n // (least * tile)) * tile
    panel = min(most, fair)
    return panel, max(1, math.ceil(n / panel) // least)


@dataclass(frozen=True, slots=True)
class Stripe:
    """Pairs of one panel with some others at or after it."""

    left: Span
    rights: tuple[Span, ...]


def stripes(n: int, panel: int, most: int) -> list[Stripe]:
    """Cut all pairs of panels into stripes of at most so many of them."""
    spans = [(start, min(start + panel, n)) for start in range(0, n, panel)]
    return [
        Stripe(left, tuple(spans[j : j + most])) for i, left in enumerate(spans) for j in range(i, len(spans), most)
    ]


def spans_of(stripe: Stripe) -> list[Span]:
    """Panels of a stripe, each once."""
    return list(dict.fromkeys((stripe.left, *stripe.rights)))
