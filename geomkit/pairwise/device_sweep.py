"""The sweep on devices: tiles shared out among them, and each product made while the tile before it is reduced.

Where a device runs out of memory its tiles are halved, with a warning. Every reducer takes in every pair once all the
same: what had taken in a tile before it was halved does not see its pieces. Products are made on a stream of their own
beside the one that the sweep is called from; the CPU has no streams, does everything at once, and runs the same code.
"""

import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

from geomkit.core.devices import is_out_of_memory
from geomkit.core.progress import Counter
from geomkit.errors import DeviceMemoryError
from geomkit.pairwise.tiles import PairReducer, Shared, Tiles, pairs_in

__all__ = ["AtOnce", "Streams", "sweep_on_devices"]

LEAST_TILE = 64
"""Rows and columns below which a tile is not halved."""


def sweep_on_devices(
    tiles: Tiles, reducers: Sequence[PairReducer], order: Sequence[tuple[slice, slice]], size: int, count: Counter
) -> None:
    """Feed these tiles to every reducer, on all devices where the rows are placed.

    Parameters
    ----------
    tiles : Tiles
        What a tile is.
    reducers : sequence of PairReducer
        Updated in place; where there are several devices, by merging what a sibling on each has seen.
    order : sequence of (slice, slice)
        Rows and columns of the tiles.
    size : int
        Rows and columns of a tile at most.
    count : Counter
        Told the pairs of a tile when a device has passed it.

    Raises
    ------
    DeviceMemoryError
        A device has no room for the smallest tile.
    """
    devices = tiles.rows.matrix.devices
    if len(devices) == 1:
        _Worker(tiles, size, reducers, count).run(iter(order))
        return
    for device in devices:
        # What was made on streams of this thread, others read.
        Streams(device, two=False).settle()
    shared = Shared(order)
    with ThreadPoolExecutor(len(devices)) as pool:
        shards = [pool.submit(_shard, tiles, device, size, reducers, shared, count) for device in devices]
        try:
            found = [each.result() for each in shards]
        finally:
            # Where one has failed, or the user will not wait, the others need not go on.
            shared.close()
    for mine in found:
        for reducer, other in zip(reducers, mine, strict=True):
            reducer.merge(other)


def _shard(
    tiles: Tiles, device: Any, size: int, reducers: Sequence[PairReducer], shared: Shared, count: Counter
) -> list[PairReducer]:
    try:
        mine: list[PairReducer] = [reducer.spawn(device) for reducer in reducers]
        worker = _Worker(tiles.on(device), size, mine, count)
        worker.run(shared)
        worker.streams.settle()
    except BaseException:
        shared.close()
        raise
    return mine


@dataclass(frozen=True, slots=True)
class _Task:
    """A tile, and the reducers that have yet to take it in."""

    rows: slice
    cols: slice
    waiting: list[PairReducer]

    def pieces(self, side: int) -> Iterator["_Task"]:
        """Cut it into tiles of at most so many rows and columns, at or above the diagonal where it lies on it."""
        for i in _cut(self.rows, side):
            for j in _cut(self.cols, side):
                if self.rows != self.cols or j.start >= i.start:
                    yield _Task(i, j, list(self.waiting))


def _cut(part: slice, side: int) -> Iterator[slice]:
    for start in range(part.start, part.stop, side):
        yield slice(start, min(start + side, part.stop))


class _Worker:
    """Works off tiles on one device."""

    def __init__(self, tiles: Tiles, size: int, reducers: Sequence[PairReducer], count: Counter) -> None:
        self.tiles, self.reducers, self.count = tiles, reducers, count
        # Tiles that were asked for, with the marks that they are done.
        self.asked: deque[tuple[Any, int]] = deque()
        self.side = min(size, tiles.rows.n)
        # A product that is not stored cannot be made ahead.
        self.depth = 1 if tiles.fused else 2
        self.streams = Streams(tiles.rows.device, two=self.depth == 2)
        self.begun: deque[_Task] = deque()
        self.next: deque[_Task] = deque()

    def run(self, order: Iterator[tuple[slice, slice]]) -> None:
        """Work off the tiles that an iterator hands out."""
        with self.streams.here():
            while not self._done(order):
                # Here nothing refers to the memory any more that was used when it ran out.
                self._halve()
            self._tell(rest=True)

    def _done(self, order: Iterator[tuple[slice, slice]]) -> bool:
        """Work off everything; or leave what is not finished among what has begun, where memory runs out."""
        try:
            self._work(order)
        except RuntimeError as why:
            if not is_out_of_memory(why):
                raise
            return False
        return True

    def _work(self, order: Iterator[tuple[slice, slice]]) -> None:
        main, side = self.streams.main, self.streams.side
        make = self.tiles.worker(self.side, self.depth)
        # Marks after which the buffers may be written: nobody reads what they hold.
        free = deque([main.record_event()] * self.depth)
        made: deque[tuple[Any, Any]] = deque()
        try:
            while True:
                task = self._draw(order)
                if task is not None:
                    self.begun.append(task)
                    with self.streams.aside():
                        side.wait_event(free.popleft())
                        tile = make(task.rows, task.cols)
                        made.append((tile, side.record_event()))
                elif not made:
                    return
                if task is None or len(made) == self.depth:
                    tile, ready = made.popleft()
                    main.wait_event(ready)
                    _reduce(tile, self.begun[0])
                    free.append(main.record_event())
                    done = self.begun.popleft()
                    self.asked.append((free[-1], pairs_in(done.rows, done.cols)))
                    self._tell()
        finally:
            # Memory of the main stream, which the side may still use, is free for the main one after this.
            main.wait_event(side.record_event())

    def _tell(self, *, rest: bool = False) -> None:
        """Count the tiles that the device has finished, or those that it still works at, too."""
        while self.asked and (rest or self.streams.passed(self.asked[0][0])):
            self.count(self.asked.popleft()[1])

    def _draw(self, order: Iterator[tuple[slice, slice]]) -> _Task | None:
        if not self.next:
            for rows, cols in order:
                self.next.extend(_Task(rows, cols, list(self.reducers)).pieces(self.side))
                break
        return self.next.popleft() if self.next else None

    def _halve(self) -> None:
        before, self.side = self.side, self.side // 2
        where = self.streams.device or "cpu"
        if self.side < LEAST_TILE:
            msg = (
                f"{where} is out of memory with tiles of {before} x {before} pairs, and below {LEAST_TILE} x "
                f"{LEAST_TILE} they are not halved; free memory there, or use device='cpu'"
            )
            raise DeviceMemoryError(msg)
        msg = (
            f"{where} is out of memory: tiles of {before} x {before} pairs are halved to {self.side} x {self.side}; "
            f"no pair is lost or counted twice"
        )
        warnings.warn(msg, RuntimeWarning, stacklevel=2)
        left = [*self.begun, *self.next]
        self.begun.clear()
        self.next = deque(piece for task in left for piece in task.pieces(self.side))


def _reduce(tile: Any, task: _Task) -> None:
    """Feed a tile to the reducers that wait for it, each of which stops waiting once it has taken it in."""
    while task.waiting:
        task.waiting[0].update(tile, task.rows, task.cols)
        del task.waiting[0]


class AtOnce:
    """Stands for a stream where work is done by the time it was asked for."""

    def record_event(self) -> None:
        """Mark what was asked for so far."""

    def wait_event(self, event: None) -> None:
        """Let what is asked for from now on wait for a mark."""

    def synchronize(self) -> None:
        """Wait for everything."""


class Streams:
    """The streams of one device, for one thread.

    Parameters
    ----------
    device : torch.device, optional
        The CPU unless given.
    two : bool
        Whether the side is a stream of its own.

    Attributes
    ----------
    main : stream
        The current one of this thread: what it computes, others may read without waiting.
    side : stream
        Must wait for the main one, and the main one for it.
    """

    def __init__(self, device: Any, *, two: bool) -> None:
        self.device = device
        self._real = device is not None and device.type == "cuda"
        self.main: Any = AtOnce()
        self.side: Any = AtOnce()
        if self._real:
            import torch

            self.main = torch.cuda.current_stream(device)
            self.side = _beside(device) if two else self.main

    def here(self) -> AbstractContextManager[Any]:
        """Make the device the current one, which is where kernels are launched."""
        if not self._real:
            return nullcontext()
        import torch

        return torch.cuda.device(self.device)

    def aside(self) -> AbstractContextManager[Any]:
        """Let work go to the side stream; memory that is asked for meanwhile belongs to it."""
        if not self._real:
            return nullcontext()
        import torch

        return torch.cuda.stream(self.side)

    def passed(self, mark: Any) -> bool:
        """Whether what was asked for before a mark is done; does not wait for it."""
        return not self._real or bool(mark.query())

    def settle(self) -> None:
        """Wait until both are done."""
        self.side.synchronize()
        self.main.synchronize()


@cache
def _beside(device: Any) -> Any:
    """One side stream for each device: memory that was freed there can only be used there again."""
    import torch

    return torch.cuda.Stream(device=device)  # type: ignore[no-untyped-call]
