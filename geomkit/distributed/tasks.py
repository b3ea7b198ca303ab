"""What is to be done on many rows, cut into tasks that any process can do: blocks, sums of rows, pairs of panels.

A job says how, and travels once; a task says which rows. What a task returns does not depend on who did it, and is
merged exactly: counts are the same for every number of workers, and after any number of them were lost.
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from geomkit.core.blocks import work_on
from geomkit.core.executor import Guided, Portable
from geomkit.core.matrix import Matrix
from geomkit.core.row_source import Window
from geomkit.covariance.accumulate import gather
from geomkit.covariance.batches import Pair
from geomkit.distributed.schedule import Stripe, spans_of
from geomkit.kernels import Backend, module
from geomkit.pairwise.panels import Panel, Span
from geomkit.pairwise.sweep import sweep_panels
from geomkit.pairwise.tiles import Tiles

__all__ = ["Blocks", "Count", "Job", "Poured", "Pouring", "State", "Tree"]

State = dict[str, NDArray[Any]]


class Job(Protocol):
    """Does tasks of one kind."""

    def __call__(self, task: Any, threads: int) -> Any:
        """Do one."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Calls a function for blocks of rows."""

    work: Callable[..., Any]

    def __call__(self, task: tuple[Sequence[Span], Sequence[NDArray[Any]]], threads: int) -> list[Any]:
        """Do consecutive blocks, with their parts of the arrays."""
        blocks, by_row = task
        return work_on(blocks, self.work, by_row, threads)


@dataclass(frozen=True, slots=True)
class Poured:
    """What pouring some rows gave."""

    sums: State
    infinite: list[int]
    zero: list[int]
    norms: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pouring:
    """Pours rows into a pair of scatters."""

    matrix: Matrix
    backend: Backend
    drop: bool
    directed: bool

    def __call__(self, task: Sequence[Span], threads: int) -> Poured:
        """Pour the leaves of a branch, and merge them."""
        tree, infinite, zero, norms = Tree(len(task), self.backend), list[int](), list[int](), []
        for number, leaf in enumerate(task):
            poured = self._pour(leaf, threads)
            tree.add(0, number, poured.sums)
            norms.append(poured.norms)
            infinite, zero = infinite + poured.infinite, zero + poured.zero
        return Poured(tree.root.state(), infinite, zero, np.concatenate(norms))

    def _pour(self, leaf: Span, threads: int) -> Poured:
        """Pour consecutive rows; where invalid ones are refused and there are some, the sums are of no rows."""
        start, stop = leaf
        part = replace(self.matrix, data=Window(self.matrix.data, start, stop), n=stop - start)
        norms, empty = np.empty(part.n), Pair.empty(part.d, self.backend, None)
        pair, invalid = gather(
            part, self.backend, threads, empty, drop=self.drop, directed=self.directed, norms=norms
        )  # fmt: skip
        infinite, zero = ([start + row for row in rows] for rows in (invalid.infinite, invalid.zero))
        return Poured(pair.state(), infinite, zero, norms)


class Tree:
    """Sums of leaves, merged two by two as soon as both are there; nothing depends on which came first.

    Parameters
    ----------
    leaves : int
    backend : Backend
    """

    def __init__(self, leaves: int, backend: Backend) -> None:
        self._leaves, self._backend = leaves, backend
        self._nodes: dict[tuple[int, int], Pair] = {}

    def add(self, level: int, at: int, sums: State) -> None:
        """Take in the sums of one node: of a leaf, at level 0, or of a branch."""
        pair, width = Pair.of_state(sums, self._backend), math.ceil(self._leaves / (1 << level))
        while width > 1:
            beside = at ^ 1
            if beside < width:
                other = self._nodes.pop((level, beside), None)
                if other is None:
                    break
                pair = pair.merge(other) if at < beside else other.merge(pair)
            level, at, width = level + 1, at // 2, (width + 1) // 2
        self._nodes[level, at] = pair

    @property
    def root(self) -> Pair:
        """Sums of all leaves, which are all there."""
        (pair,) = self._nodes.values()
        return pair

    def state(self) -> State:
        """Return the nodes that wait, and where in the tree they are."""
        found: State = {}
        for (level, at), pair in self._nodes.items():
            found |= {f"node_{level}_{at}_{name}": value for name, value in pair.state().items()}
        return found

    def load(self, state: State) -> None:
        """Take over nodes that were written down."""
        parts: dict[tuple[int, int], State] = {}
        for name, value in state.items():
            if name.startswith("node_"):
                _, level, at, rest = name.split("_", 3)
                parts.setdefault((int(level), int(at)), {})[rest] = value
        self._nodes = {where: Pair.of_state(sums, self._backend) for where, sums in parts.items()}


@dataclass(frozen=True, slots=True)
class Count:
    """Feeds pairs of panels to reducers."""

    token: str
    """Tells this sweep from others, whose panels are of no use."""
    tiles: Tiles
    recipes: tuple[Callable[[int], Portable], ...]
    size: int
    products: dict[str, str]
    """Which matrix products to use."""

    def __call__(self, task: tuple[Stripe, Sequence[State | None]], threads: int) -> list[State]:
        """Reduce one stripe, guided by what was found so far: states of reducers over its rows, panel after panel."""
        stripe, guides = task
        if self.products:
            module(self.tiles.rows.backend).adopt(self.products)
        spans = spans_of(stripe)
        local = [recipe(sum(stop - start for start, stop in spans)) for recipe in self.recipes]
        for each, guide in zip(local, guides, strict=True):
            if guide is not None and isinstance(each, Guided):
                each.follow(guide)
        among: list[Any] = [_Among(each, spans) for each in local]
        with _HELD.of(self.token) as held:
            pairs = [(stripe.left, right) for right in stripe.rights]
            sweep_panels(self.tiles, among, pairs, threads=threads, size=self.size, held=held)
            # The next stripe most often has the same left panel.
            for span in [span for span in held if span != stripe.left]:
                del held[span]
        return [each.state() for each in local]


class _Among:
    """Feeds tiles that are numbered in the whole matrix to a reducer of a few panels, one after the other."""

    def __init__(self, inner: Any, spans: Sequence[Span]) -> None:
        self._inner, self._spans = inner, spans

    def spawn(self, device: Any = None) -> Self:
        return type(self)(self._inner.spawn(device), self._spans)

    def update(self, tile: Any, rows: slice, cols: slice) -> None:
        self._inner.update(tile, self._local(rows), self._local(cols))

    def merge(self, other: Self) -> None:
        self._inner.merge(other._inner)

    def _local(self, rows: slice) -> slice:
        at = 0
        for start, stop in self._spans:
            if start <= rows.start < stop:
                return slice(at + rows.start - start, at + rows.stop - start)
            at += stop - start
        msg = f"rows {rows.start} to {rows.stop} are in no panel of this task"
        raise IndexError(msg)


class _Held:
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


_HELD = _Held()
