"""The sweep: one pass over the tiles of the matrix of pairs, feeding many mergeable reducers.

A tile is small enough to stay in cache, or large enough to keep a device busy. Each worker thread, and each device,
owns its tiles and its copies of the reducers, which are merged at the end. Rows that are too many to be held ready are
walked in pairs of panels.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from geomkit.core.executor import Span
from geomkit.core.progress import Counter
from geomkit.core.threads import ieee, one_thread_each, processors
from geomkit.kernels import Backend
from geomkit.pairwise.device_sweep import sweep_on_devices
from geomkit.pairwise.normalization import room
from geomkit.pairwise.panels import Panel, Panels, panel_pairs, panel_rows, tiles_of
from geomkit.pairwise.tiles import PairReducer, Shared, Tiles, pairs_in, schedule, tile_size

__all__ = ["PairSweep", "in_threads", "sweep"]

Reducer = TypeVar("Reducer", bound=PairReducer)


def sweep(
    tiles: Tiles, reducers: Sequence[PairReducer], *, threads: int | None = None, size: int | None = None
) -> None:
    """Feed every tile at or above the diagonal to every reducer.

    Parameters
    ----------
    tiles : Tiles
        What a tile is.
    reducers : sequence of PairReducer
        Updated in place.
    threads : int, optional
        Worker threads of the CPU backend; all processors of this process unless given. The others use one for each
        device and parallelise inside it.
    size : int, optional
        Rows and columns of a tile.

    Raises
    ------
    DeviceMemoryError
        A device has no room for the smallest tile.

    Notes
    -----
    O(n² d) time. Memory beyond the rows: each worker's tile and blocks; on a device two tiles, and what reducing one
    takes. Where a device runs out of memory its tiles are halved, which a warning says.
    """
    tiles.rows.matrix.run(PairSweep(tiles, reducers, threads, size or tile_size(tiles)))


@dataclass(frozen=True, slots=True)
class PairSweep:
    """The pass that feeds tiles of pairs to reducers; see `sweep`."""

    tiles: Tiles
    reducers: Sequence[PairReducer]
    threads: int | None
    size: int

    def run_here(self) -> None:
        """Sweep over all tiles on the devices, or in threads of this process."""
        rows = self.tiles.rows
        count = Counter("pairs", rows.n * (rows.n - 1) // 2)
        if rows.resident is None and not rows.backend.on_device:
            panels = panel_pairs(rows.n, panel_rows(rows, room(rows.matrix), self.size))
            self.over_panels(panels, count=count)
            return
        order = list(schedule(rows.n, self.size))
        if rows.resident is not None:
            order = _from_the_diagonal(order)
        if rows.backend.on_device:
            with ieee():
                sweep_on_devices(self.tiles, self.reducers, order, self.size, count)
            return
        in_threads(rows.backend, self.threads, order, self.reducers, partial(_work, self.tiles, self.size, count))

    def over_panels(
        self,
        pairs: Iterable[tuple[Span, Span]],
        *,
        held: dict[Span, Panel] | None = None,
        count: Counter | None = None,
    ) -> None:
        """Sweep over the tiles of these pairs of panels, each panel prepared once while it is in use.

        Parameters
        ----------
        pairs : iterable of (span, span)
            Panels of rows, the first not after the second, and both a multiple of `size` rows but for the last.
        held : dict, optional
            Panels that are prepared already; gets those of the last pair.
        count : Counter, optional
            Told about every tile.
        """
        workers = (self.threads or processors()) if self.tiles.rows.backend is Backend.CPU else 1
        siblings = [[reducer.spawn() for reducer in self.reducers] for _ in range(workers)]
        with one_thread_each(), ieee(), ThreadPoolExecutor(workers) as pool:
            for left, right, tiles in Panels(self.tiles, workers, held).walk(pairs):
                shared = Shared(_from_the_diagonal(tiles_of(left, right, self.size)))
                for done in [pool.submit(_work, tiles, self.size, count, shared, own) for own in siblings]:
                    done.result()
        _merge(self.reducers, siblings)


def in_threads(
    backend: Backend,
    threads: int | None,
    order: Sequence[tuple[slice, slice]],
    reducers: Sequence[Reducer],
    work: Callable[[Iterator[tuple[slice, slice]], Sequence[Reducer]], None],
) -> None:
    """Have workers feed tiles to the reducers: threads of the CPU backend, or this thread alone.

    Parameters
    ----------
    threads : int, optional
        All processors of this process unless given.
    order : sequence of (slice, slice)
        Rows and columns of the tiles.
    reducers : sequence of PairReducer
        Updated in place; of several workers, each has siblings, which are merged.
    work : callable
        Feeds the tiles that an iterator hands out to these reducers.
    """
    on_cpu = backend is Backend.CPU
    workers = min(threads or processors(), len(order)) if on_cpu else 1
    if workers == 1:
        # A single tile is left to BLAS's own threads, unless the caller set their number.
        with ieee(), one_thread_each() if threads and on_cpu else nullcontext():
            work(iter(order), reducers)
        return
    siblings = [[reducer.spawn() for reducer in reducers] for _ in range(workers)]
    # Workers take the next tile when they are done with one, so that none waits for another at the end.
    shared = Shared(order)
    with one_thread_each(), ieee(), ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(work, shared, own) for own in siblings]:
            done.result()
    _merge(reducers, siblings)


def _merge(reducers: Sequence[Reducer], siblings: Iterable[Sequence[Reducer]]) -> None:
    for own in siblings:
        for reducer, sibling in zip(reducers, own, strict=True):
            reducer.merge(sibling)


def _from_the_diagonal(order: list[tuple[slice, slice]]) -> list[tuple[slice, slice]]:
    """Order tiles by how near their rows are in the input: candidates found early leave out more later."""
    return sorted(order, key=lambda tile: tile[1].start - tile[0].start)


def _work(
    tiles: Tiles,
    size: int,
    count: Counter | None,
    order: Iterator[tuple[slice, slice]],
    reducers: Sequence[PairReducer],
) -> None:
    make = tiles.worker(size)
    for i, j in order:
        tile = make(i, j)
        for reducer in reducers:
            reducer.update(tile, i, j)
        if count is not None:
            count(pairs_in(i, j))
