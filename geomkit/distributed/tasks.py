"""Passes over many rows, cut into tasks that any process can run: blocks, sums of rows, pairs of panels.

A job says how, and travels once; a task says which rows. What a task returns does not depend on the worker that ran it,
and results merge exactly: counts are the same for every number of workers, and after any number of them were lost.
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from geomkit.core.blocks import BlockMap
from geomkit.core.executor import HintedReducer, MergeableReducer, Span, State, local_spans
from geomkit.covariance.accumulate import RowSums
from geomkit.covariance.batches import ScatterPair
from geomkit.distributed.schedule import Stripe, spans_of
from geomkit.kernels import Backend, module
from geomkit.pairwise.panels import Panel
from geomkit.pairwise.sweep import PairSweep
from geomkit.pairwise.tiles import Tiles

__all__ = ["Accumulated", "BlockJob", "RowSumsJob", "SumsTree", "SweepJob"]


@dataclass(frozen=True, slots=True)
class BlockJob:
    """Calls a function for blocks of rows."""

    work: Callable[..., Any]

    def __call__(self, task: tuple[Sequence[Span], Sequence[NDArray[Any]]], threads: int) -> list[Any]:
        """Do consecutive blocks, with their parts of the arrays."""
        blocks, by_row = task
        return BlockMap(blocks, self.work, by_row, threads).run_here()


@dataclass(frozen=True, slots=True)
class Accumulated:
    """Sums and norms of some rows."""

    sums: State
    norms: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RowSumsJob:
    """Accumulates the rows of leaves, and merges their sums."""

    sums: RowSums

    def __call__(self, task: Sequence[Span], threads: int) -> Accumulated:
        """Accumulate the leaves of a branch; where invalid rows are refused, leaves that have some add none."""
        tree, norms, matrix = SumsTree(len(task), self.sums.backend), [], self.sums.matrix
        for number, (start, stop) in enumerate(task):
            leaf = matrix.part(start, stop)
            empty = ScatterPair.empty(matrix.d, self.sums.backend, None)
            pair, leaf_norms = replace(self.sums, matrix=leaf, threads=threads, into=empty).run_here()
            tree.add(0, number, pair.state_dict())
            norms.append(leaf_norms)
        return Accumulated(tree.root.state_dict(), np.concatenate(norms))


class SumsTree:
    """Sums of leaves, merged two by two as soon as both are there; nothing depends on which came first.

    Parameters
    ----------
    leaves : int
    backend : Backend
    """

    def __init__(self, leaves: int, backend: Backend) -> None:
        self._leaves, self._backend = leaves, backend
        self._nodes: dict[tuple[int, int], ScatterPair] = {}

    def add(self, level: int, at: int, sums: State) -> None:
        """Add the sums of one node: of a leaf, at level 0, or of a branch."""
        pair, width = ScatterPair.from_state_dict(sums, self._backend), math.ceil(self._leaves / (1 << level))
        while width > 1:
            sibling = at ^ 1
            if sibling < width:
                other = self._nodes.pop((level, sibling), None)
                if other is None:
                    break
                pair = pair.merge(other) if at < sibling else other.merge(pair)
            level, at, width = level + 1, at // 2, (width + 1) // 2
        self._nodes[level, at] = pair

    @property
    def root(self) -> ScatterPair:
        """Sums of all leaves, which are all there."""
        (pair,) = self._nodes.values()
        return pair

    def state_dict(self) -> State:
        """Return the nodes that wait for their siblings, and where in the tree they are."""
        return {
            f"node_{level}_{at}_{name}": value
            for (level, at), pair in self._nodes.items()
            for name, value in pair.state_dict().items()
        }

    def load_state_dict(self, state: State) -> None:
        """Take over nodes that `state_dict` returned."""
        nodes: dict[tuple[int, int], State] = {}
        for name, value in state.items():
            if name.startswith("node_"):
                _, level, at, rest = name.split("_", 3)
                nodes.setdefault((int(level), int(at)), {})[rest] = value
        self._nodes = {place: ScatterPair.from_state_dict(sums, self._backend) for place, sums in nodes.items()}


@dataclass(frozen=True, slots=True)
class SweepJob:
    """Feeds pairs of panels to reducers."""

    token: str
    """Tells this sweep from others, whose panels are of no use."""
    tiles: Tiles
    factories: tuple[Callable[[int], MergeableReducer], ...]
    size: int
    products: dict[str, str]
    """Which matrix products to use."""

    def __call__(self, task: tuple[Stripe, Sequence[State | None]], threads: int) -> list[State]:
        """Reduce one stripe, with hints from earlier ones: states of reducers over its rows, panel after panel."""
        stripe, hints = task
        if self.products:
            module(self.tiles.rows.backend).adopt(self.products)
        spans = spans_of(stripe)
        reducers = [factory(sum(stop - start for start, stop in spans)) for factory in self.factories]
        for reducer, hint in zip(reducers, hints, strict=True):
            if hint is not None and isinstance(reducer, HintedReducer):
                reducer.use_hints(hint)
        renumbered: list[Any] = [_Renumbered(reducer, local_spans(spans)) for reducer in reducers]
        with _PANELS.of(self.token) as held:
            pairs = [(stripe.left, right) for right in stripe.rights]
            PairSweep(self.tiles, renumbered, threads, self.size).over_panels(pairs, held=held)
            # The next stripe most often has the same left panel.
            for span in [span for span in held if span != stripe.left]:
                del held[span]
        return [reducer.state_dict() for reducer in reducers]


class _Renumbered:
    """Feeds tiles that are numbered in the whole matrix to a reducer of a few panels, one after the other."""

    def __init__(self, reducer: Any, spans: Sequence[tuple[slice, slice]]) -> None:
        self._reducer, self._spans = reducer, spans

    def spawn(self, device: Any = None) -> Self:
        return type(self)(self._reducer.spawn(device), self._spans)

    def update(self, tile: Any, rows: slice, cols: slice) -> None:
        self._reducer.update(tile, self._local(rows), self._local(cols))

    def merge(self, other: Self) -> None:
        self._reducer.merge(other._reducer)

    def _local(self, rows: slice) -> slice:
        for local, span in self._spans:
            if span.start <= rows.start < span.stop:
                shift = local.start - span.start
                return slice(rows.start + shift, rows.stop + shift)
        msg = f"rows {rows.start} to {rows.stop} are in no panel of this task"
        raise IndexError(msg)


class _HeldPanels:
    """Panels that a worker keeps between tasks of one sweep; one task at a time uses them."""

    def __init__(self) -> None:
        self._token, self._panels, self._lock = "", dict[Span, Panel](), threading.Lock()

    def of(self, token: str) -> Self:
        self._lock.acquire()
        if token != self._token:
            self._token, self._panels = token, {}
        return self

    def __enter__(self) -> dict[Span, Panel]:
        return self._panels

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            self._panels = {}
        self._lock.release()


_PANELS = _HeldPanels()
