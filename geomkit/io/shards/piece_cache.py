"""Decoded pieces of shards that are kept for the next read, bounded in bytes."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from numpy.typing import NDArray

__all__ = ["PieceCache"]


class PieceCache:
    """The pieces used last. Several threads may ask at once; who asks for what another makes, waits for it.

    Parameters
    ----------
    limit : int
        What the weights of kept pieces, and of those being made, may come to. A piece that weighs more is kept alone.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.weight = 0
        """What is kept and being made weighs together."""
        self.most = 0
        """The largest that `weight` has been."""
        self.made = 0
        """How many pieces were made: each that was not kept any more counts anew."""
        self._kept: OrderedDict[Hashable, tuple[NDArray[Any], int]] = OrderedDict()
        self._gates: dict[Hashable, tuple[threading.Lock, int]] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, weight: int, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return a piece, made now unless it is kept.

        Parameters
        ----------
        key : hashable
        weight : int
            What it will weigh; room is made before it is made.
        make : callable
            What it raises is raised; then nothing is kept, and the next who asks tries again.
        """
        with self._lock:
            if key in self._kept:
                return self._used(key)
            gate, waiting = self._gates.get(key, (threading.Lock(), 0))
            self._gates[key] = gate, waiting + 1
        try:
            with gate:
                with self._lock:
                    if key in self._kept:
                        return self._used(key)
                    self._make_room(weight)
                try:
                    piece = make()
                except BaseException:
                    with self._lock:
                        self.weight -= weight
                    raise
                with self._lock:
                    self.made += 1
                    self._keep(key, piece, weight)
                return piece
        finally:
            with self._lock:
                gate, waiting = self._gates[key]
                if waiting == 1:
                    del self._gates[key]
                else:
                    self._gates[key] = gate, waiting - 1

    def peek(self, key: Hashable) -> NDArray[Any] | None:
        """Return a piece if it is kept."""
        with self._lock:
            return self._used(key) if key in self._kept else None

    def offer(self, key: Hashable, weight: int, piece: NDArray[Any]) -> None:
        """Keep a piece that was made on the way to another."""
        with self._lock:
            self._make_room(weight)
            self._keep(key, piece, weight)

    def _keep(self, key: Hashable, piece: NDArray[Any], weight: int) -> None:
        if key in self._kept:  # offered while it was asked for
            self.weight -= self._kept.pop(key)[1]
        self._kept[key] = piece, weight

    def _used(self, key: Hashable) -> NDArray[Any]:
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def _make_room(self, weight: int) -> None:
        while self._kept and self.weight + weight > self.limit:
            _, (_, freed) = self._kept.popitem(last=False)
            self.weight -= freed
        self.weight += weight
        self.most = max(self.most, self.weight)

    def clear(self) -> None:
        """Keep nothing any more."""
        with self._lock:
            while self._kept:
                _, (_, freed) = self._kept.popitem()
                self.weight -= freed
