"""The reducer that keeps candidates for the nearest others of each row."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from geomkit.core.executor import local_spans
from geomkit.kernels import Backend, load, module

__all__ = ["ROUNDING", "Nearest", "NearestToQueries"]


ROUNDING = {"bfloat16": 2.0**-8, "float32": 0.0, "float64": 2.0**-24}
"""Share of itself by which an entry of a dtype is rounded in its key."""


class _Absorbed(NamedTuple):
    """What came from elsewhere: the best of each row, and what no other entry exceeds."""

    values: NDArray[np.float64]
    ids: NDArray[np.int64]
    beaten: NDArray[np.float64]


class Nearest:
    """Candidates for the nearest others of each row, from both triangles of each tile.

    Siblings share their floors, so that each leaves out what any of them knows to be beaten. Merging keeps the
    candidates of both; which ones there are depends on the order of the tiles, and `candidates` says what no other
    entry exceeds.
    """

    def __init__(self, backend: Backend, n: int, keep: int, dtype: str, device: Any = None, floor: Any = None) -> None:
        memory = module(backend)
        self.backend, self.n, self.keep, self.dtype, self.device = backend, n, keep, dtype, device
        self._kernel = load("screen", backend)
        self._kind = memory.KEY.get(dtype, "int32")
        least = np.iinfo(self._kind).min
        # A list is halved when it is full. Empty places hold the least there is.
        self.lists = memory.zeros((n, 1 + memory.places(keep)), "int64", device)
        self.lists[:, 1:] = least << 32
        self.dropped = memory.zeros((n,), self._kind, device)
        self.dropped[:] = least
        self.floor = memory.zeros((n,), self._kind, device) if floor is None else floor
        if floor is None:
            self.floor[:] = least
        self.given: Any = None
        self.merged: list[Nearest] = []
        self.absorbed: _Absorbed | None = None

    def spawn(self, device: Any = None) -> Self:
        """Return a sibling without candidates that shares the floors, or has its own on the device that is given."""
        where, floor = device or self.device, self.floor if device is None else None
        return type(self)(self.backend, self.n, self.keep, self.dtype, where, floor)

    def update(self, tile: Any, rows: slice, cols: slice) -> None:
        """Screen the pairs of one tile."""
        self._kernel(tile, rows == cols, rows.start, cols.start, self.lists, self.dropped, self.floor)

    def merge(self, other: Self) -> None:
        """Take over a sibling's candidates."""
        self.merged.append(other)

    @property
    def rounding(self) -> float:
        """Share of itself by which a value is rounded in its key."""
        return ROUNDING[self.dtype]

    def candidates(self) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
        """Return values (n, c) and row numbers (n, c), -1 for none, and what no other entry exceeds, (n,)."""
        if self.absorbed is not None:
            return self.absorbed
        to_numpy = module(self.backend).to_numpy
        # Where siblings did the work, this one's own lists are empty.
        parts = [part for part in [self, *self.merged] if bool((part.lists[:, 0] > 0).any())] or [self]
        values, ids = [], []
        for part in parts:
            most = int(part.lists[:, 0].max())
            lists = to_numpy(part.lists[:, : 1 + most])
            entries = lists[:, 1:]
            values.append(self._values(entries >> 32))
            taken = np.arange(entries.shape[1]) < lists[:, :1]
            ids.append(np.where(taken, entries & 0xFFFFFFFF, -1))
        # Every floor was set by some list, which remembers it, or was given.
        floors = [part.dropped for part in parts] + ([] if self.given is None else [self.given])
        beaten = np.max([self._values(to_numpy(each)) for each in floors], axis=0)
        return np.concatenate(values, axis=1), np.concatenate(ids, axis=1), beaten

    def factory(self) -> Callable[[int], "Nearest"]:
        """Return what makes one without candidates, for any number of rows."""
        return partial(_nearest, self.backend, self.keep, self.dtype)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return the best `keep` candidates of each row, and what no other entry exceeds."""
        found = _best(_Absorbed(*self.candidates()), self.keep)
        return {"values": found.values, "ids": found.ids, "beaten": found.beaten}

    def merge_state(self, state: dict[str, NDArray[Any]], spans: Sequence[tuple[int, int]]) -> None:
        """Take over the candidates that another found for the rows in these spans, one after the other, among them.

        What is left then depends on the order in which states come, and what is certain does not.
        """
        if self.absorbed is None:
            shape = self.n, self.keep
            # All lists of our own are empty, and given back.
            self.lists = self.dropped = self.floor = None
            self.absorbed = _Absorbed(np.full(shape, -math.inf), np.full(shape, -1), np.full(self.n, -math.inf))
        numbers = np.concatenate([np.arange(start, stop) for start, stop in spans])
        local = state["ids"]
        ids = np.where(local < 0, -1, numbers[np.maximum(local, 0)])
        for part, rows in local_spans(spans):
            both = [
                (each[rows], new[part]) for each, new in zip(self.absorbed[:2], (state["values"], ids), strict=True)
            ]
            values, others = (np.concatenate(each, axis=1) for each in both)
            beaten = np.maximum(self.absorbed.beaten[rows], state["beaten"][part])
            for whole, best in zip(self.absorbed, _best(_Absorbed(values, others, beaten), self.keep), strict=True):
                whole[rows] = best

    def hints(self, spans: Sequence[tuple[int, int]]) -> dict[str, NDArray[Any]]:
        """Return what the rows of these spans need not look below: their last candidate, once they have them all."""
        n = sum(stop - start for start, stop in spans)
        if self.absorbed is None:
            return {"floor": np.full(n, -math.inf, np.float32)}
        values, ids, _ = self.absorbed
        # Values are those of keys, of float32 or narrower.
        floors = [np.where(ids[a:b] < 0, -math.inf, values[a:b]).min(axis=1) for a, b in spans]
        return {"floor": np.concatenate(floors).astype(np.float32)}

    def use_hints(self, hints: dict[str, NDArray[Any]]) -> None:
        """Leave out entries that do not exceed these floors, and say so."""
        self.given = module(self.backend).zeros((self.n,), self._kind, self.device)
        self.given[:] = self._keys(hints["floor"])
        self.floor[:] = self.given

    def _keys(self, values: NDArray[np.float32]) -> NDArray[Any]:
        """Return the keys of values that keys have; the least one for -inf."""
        width = 8 * np.dtype(self._kind).itemsize
        bits = values.view(np.int32).astype(np.int64) >> (32 - width)
        keys = bits ^ ((bits >> 63) & (2 ** (width - 1) - 1))
        return np.where(np.isneginf(values), np.iinfo(self._kind).min, keys).astype(self._kind)

    def _values(self, keys: NDArray[Any]) -> NDArray[np.float64]:
        """Values of keys; -inf for the least one, which is no entry's."""
        width = 8 * np.dtype(self._kind).itemsize
        bits = keys.astype(np.int64)
        bits = (bits ^ ((bits >> 63) & (2 ** (width - 1) - 1))) << (32 - width)
        values = bits.astype(np.uint32).view(np.float32).astype(np.float64)
        return np.where(keys == np.iinfo(self._kind).min, -math.inf, values)


class NearestToQueries(Nearest):
    """Candidates for the nearest rows of each query: the kernel of pairs, told that no row looks for queries.

    Rows are numbered after the queries. On the CPU the floors of all rows are as high as can be, which nothing passes;
    the other backends leave out the side of the columns of a tile that is said to lie on the diagonal.
    """

    @classmethod
    def among(cls, n_rows: int, backend: Backend, n: int, keep: int, dtype: str, device: Any = None) -> Self:
        """Return one without candidates, for n queries among so many rows."""
        floor = None
        if backend is Backend.CPU:
            kind = np.dtype(module(backend).KEY.get(dtype, "int32"))
            floor = np.full(n + n_rows, np.iinfo(kind).max, kind)
            floor[:n] = np.iinfo(kind).min
        return cls(backend, n, keep, dtype, device, floor)

    def update(self, tile: Any, rows: slice, cols: slice) -> None:
        """Screen one tile of queries and rows."""
        one_sided = self.backend is not Backend.CPU
        self._kernel(tile, one_sided, rows.start, self.n + cols.start, self.lists, self.dropped, self.floor)

    def candidates(self) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
        """Return values (n, c) and row numbers (n, c), -1 for none, and what no other entry exceeds, (n,)."""
        values, ids, floor = super().candidates()
        return values, np.where(ids < 0, -1, ids - self.n), floor


def _nearest(backend: Backend, keep: int, dtype: str, n: int) -> Nearest:
    return Nearest(backend, n, keep, dtype)


def _best(found: _Absorbed, keep: int) -> _Absorbed:
    """Keep the best so many of each row; what is cut off is beaten."""
    short = keep - found.values.shape[1]
    if short >= 0:
        wider = ((0, 0), (0, short))
        padded = np.pad(found.values, wider, constant_values=-math.inf), np.pad(found.ids, wider, constant_values=-1)
        return _Absorbed(*padded, found.beaten)
    # Places that are empty count as worse than any entry.
    values = np.where(found.ids < 0, -math.inf, found.values)
    order = np.argpartition(-values, (keep - 1, keep), axis=1)
    kept = order[:, :keep]
    cut = np.take_along_axis(values, order[:, keep : keep + 1], axis=1)[:, 0]
    taken = np.take_along_axis(values, kept, axis=1), np.take_along_axis(found.ids, kept, axis=1)
    return _Absorbed(*taken, np.maximum(found.beaten, cut))
