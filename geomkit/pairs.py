"""The sweep: one pass over the tiles of the matrix of pairs, feeding many mergeable reducers.

A tile is small enough to stay in cache, or large enough to keep a device busy. Each worker thread, and each device,
owns its tiles and its copies of the reducers, which are merged at the end.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

from geomkit.device_sweep import sweep_on_devices
from geomkit.kernels import Backend
from geomkit.threads import ieee, one_thread_each, processors
from geomkit.tiles import PairReducer, Shared, Tiles, schedule, tile_size

__all__ = ["sweep"]


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
    rows = tiles.rows
    size = size or tile_size(tiles)
    order = list(schedule(rows.n, size))
    if rows.resident is not None:
        # Neighbours of a row in the input are often near it: candidates found early leave out more later.
        order.sort(key=lambda tile: tile[1].start - tile[0].start)
    if rows.backend.on_device:
        with ieee():
            sweep_on_devices(tiles, reducers, order, size)
        return
    workers = (threads or processors()) if rows.backend is Backend.CPU else 1
    workers = min(workers, len(order))
    if workers == 1:
        # A single tile is left to BLAS's own threads, unless the caller set their number.
        with ieee(), one_thread_each() if threads and rows.backend is Backend.CPU else nullcontext():
            _work(tiles, size, iter(order), reducers)
        return
    siblings = [[reducer.spawn() for reducer in reducers] for _ in range(workers)]
    # Workers take the next tile when they are done with one, so that none waits for another at the end.
    shared = Shared(order)
    with one_thread_each(), ieee(), ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(_work, tiles, size, shared, mine) for mine in siblings]:
            done.result()
    for mine in siblings:
        for reducer, other in zip(reducers, mine, strict=True):
            reducer.merge(other)


def _work(tiles: Tiles, size: int, order: Iterator[tuple[slice, slice]], reducers: Sequence[PairReducer]) -> None:
    make = tiles.worker(size)
    for i, j in order:
        tile = make(i, j)
        for reducer in reducers:
            reducer.update(tile, i, j)
