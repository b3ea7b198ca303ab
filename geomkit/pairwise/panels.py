"""The sweep over rows that are too many to be held ready: pairs of panels, each made once for many tiles.

A panel is as many consecutive rows as a share of the memory holds when they are ready for products. Panels are
multiples of a tile, so that tiles, and the counts they lead to, are those of a sweep over rows that are all held. While
one pair of panels is multiplied, the next panel is read and made ready.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from geomkit.core.blocks import block_rows
from geomkit.kernels import module
from geomkit.pairwise.normalization import Rows
from geomkit.pairwise.scores import Scores
from geomkit.pairwise.tiles import Tiles

__all__ = ["Panel", "Panels", "Span", "panel_pairs", "panel_rows", "row_bytes", "tiles_of"]

AT_ONCE = 3
"""Panels that are held: two that are multiplied, and the next."""

Span = tuple[int, int]
"""First row of a panel, and the one after its last."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Rows that are ready: left and right factors, which are the same array where rows are their own factors."""

    span: Span
    left: Any
    right: Any


class _Within:
    """Slices of prepared rows by their numbers in the whole matrix."""

    def __init__(self, parts: Iterable[tuple[Span, Any]]) -> None:
        self._parts = list(parts)

    def __getitem__(self, rows: slice) -> Any:
        for (start, stop), data in self._parts:
            if start <= rows.start and rows.stop <= stop:
                return data[rows.start - start : rows.stop - start]
        msg = f"rows {rows.start} to {rows.stop} are in no panel that is held"
        raise IndexError(msg)


def row_bytes(rows: Rows | Scores) -> int:
    """Bytes of a row that is ready, both factors."""
    itemsize = 2 if rows.dtype in {"bfloat16", "float16"} else np.dtype(rows.dtype).itemsize
    return rows.width * itemsize * (1 + rows.two_sided)


def panel_rows(rows: Rows | Scores, room: int, tile: int) -> int:
    """Rows of a panel: the multiple of `tile` of which three fit into `room` bytes; at least one tile."""
    return max(1, room // (AT_ONCE * row_bytes(rows) * tile)) * tile


def panel_pairs(n: int, size: int) -> Iterator[tuple[Span, Span]]:
    """Pairs of panels at or above the diagonal; of two that follow one another, one panel mostly stays.

    Rows of panels are walked forwards and backwards in turn, so that the last right panel of one is the first of the
    next: n (n - 1) / 2 + 1 panels are made in all for n of them.
    """
    spans = [(start, min(start + size, n)) for start in range(0, n, size)]
    for i, left in enumerate(spans):
        rest = spans[i:]
        for right in reversed(rest) if i % 2 else rest:
            yield left, right


def tiles_of(left: Span, right: Span, size: int) -> list[tuple[slice, slice]]:
    """Tiles of a pair of panels, at or above the diagonal."""
    return [
        (slice(i, min(i + size, left[1])), slice(j, min(j + size, right[1])))
        for i in range(left[0], left[1], size)
        for j in range(i if left == right else right[0], right[1], size)
    ]


class Panels:
    """Makes panels, holds those that are in use, and reads ahead.

    Parameters
    ----------
    tiles : Tiles
        Whose rows are not resident.
    threads : int
        How many make a panel together.
    held : dict, optional
        Panels that are there already; gets those of the last pair.
    """

    def __init__(self, tiles: Tiles, threads: int, held: dict[Span, Panel] | None = None) -> None:
        self._tiles, self._threads = tiles, threads
        self._held: dict[Span, Panel] = {} if held is None else held
        self.made = 0

    def walk(self, pairs: Iterable[tuple[Span, Span]]) -> Iterator[tuple[Span, Span, Tiles]]:
        """Give each pair of panels, and tiles whose rows within these panels are resident."""
        pairs = list(pairs)
        with ThreadPoolExecutor(1, thread_name_prefix="geomkit-ahead") as reader:
            coming: dict[Span, Future[Panel]] = {}
            for at, (left, right) in enumerate(pairs):
                following = pairs[at + 1] if at + 1 < len(pairs) else ()
                for span in (left, right):
                    if span not in self._held:
                        self._held[span] = coming.pop(span).result() if span in coming else self._make(span)
                for span in [span for span in self._held if span not in {left, right, *following}]:
                    del self._held[span]
                for span in following:
                    if span not in self._held and span not in coming and len(self._held) + len(coming) < AT_ONCE:
                        coming[span] = reader.submit(self._make, span)
                yield left, right, self._resident(left, right)

    def _resident(self, left: Span, right: Span) -> Tiles:
        panels = [self._held[span] for span in dict.fromkeys((left, right))]
        lefts, rights = (_Within((panel.span, getattr(panel, side)) for panel in panels) for side in ("left", "right"))
        rows = self._tiles.rows
        return replace(self._tiles, rows=rows.holding(rows.matrix, (lefts, rights)))

    def _make(self, span: Span) -> Panel:
        """Prepare the rows of a panel, block by block."""
        rows = self._tiles.rows
        start, stop = span
        step, memory = block_rows(rows.matrix), module(rows.backend)
        left = memory.zeros((stop - start, rows.width), rows.dtype, rows.device)
        right = memory.zeros(tuple(left.shape), rows.dtype, rows.device) if rows.two_sided else left

        def fill(first: int) -> None:
            last = min(first + step, stop)
            rows.matrix.prefetch(last, last + step)
            part = slice(first - start, last - start)
            left[part], made = rows.factors(first, last)
            if rows.two_sided:
                right[part] = made

        firsts = range(start, stop, step)
        if self._threads == 1:
            for first in firsts:
                fill(first)
        else:
            with ThreadPoolExecutor(self._threads) as pool:
                list(pool.map(fill, firsts))
        self.made += 1
        return Panel(span, left, right)
