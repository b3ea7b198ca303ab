"""Contenders timed on a device: CUDA events where there are any, and inputs that have left the cache.

A round times every contender once and starts with another of them. On a GPU nothing waits for anything while rounds are
queued: events are marks in the device's own queue, read once after the last round. Whoever waits for the device within
a call pays for that.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.speed.regressions import interval
from bench.speed.timing import Pace

__all__ = ["CACHES", "CONFIDENCE", "WARM", "Median", "Ready", "median", "rotation", "rounds", "settled", "warmed"]

CACHES = 4
"""How many times the L2 cache the copies of an input fill together: what was read last time is gone."""

WARM = 2
"""Calls of each contender before the first that counts: Triton tunes in the first, allocators fill up."""

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Ready:
    """A contender whose answer was proven, and its inputs, equal copies of one another."""

    call: Callable[[Any], object]
    inputs: Sequence[Any]


class Median(NamedTuple):
    """A median, and order statistics that enclose it at `CONFIDENCE`: 0 and infinity where rounds are too few."""

    value: float
    low: float
    high: float


def rotation(x: Any) -> list[Any]:
    """Return a tensor and as many copies as fill the device's L2 cache several times, at least one."""
    import torch

    cache = torch.cuda.get_device_properties(x.device).L2_cache_size if x.is_cuda else 0
    size = x.numel() * x.element_size()
    return [x, *(x.clone() for _ in range(max(2, -(-CACHES * cache // size)) - 1))]


def warmed(ready: Ready, device: Any) -> Ready:
    """Call a contender as often as it takes for everything to be compiled, tuned and allocated."""
    for turn in range(WARM):
        ready.call(ready.inputs[turn % len(ready.inputs)])
    settled(device)
    return ready


def settled(device: Any) -> float:
    """Seconds on the host's clock, once the device has done all that it was asked."""
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def rounds(contenders: Sequence[Ready], device: Any, pace: Pace) -> NDArray[np.float64]:
    """Seconds of each contender, (rounds, contenders).

    One round that nobody records says how many fit into the time; none is stopped half-way.
    """
    import torch

    if not contenders:
        return np.empty((0, 0))
    clock = _Events() if torch.device(device).type == "cuda" else _Host()
    turns = [0] * len(contenders)

    def call(at: int) -> None:
        ready = contenders[at]
        ready.call(ready.inputs[turns[at] % len(ready.inputs)])
        turns[at] += 1

    begun = settled(device)
    for at in range(len(contenders)):
        call(at)
    took = settled(device) - begun
    number = min(max(int(pace.seconds / took), pace.least), pace.most)
    with torch.cuda.device(device) if isinstance(clock, _Events) else nullcontext():
        for each in range(number):
            for turn in range(len(contenders)):
                at = (turn + each) % len(contenders)
                clock.time(at, lambda at=at: call(at))  # type: ignore[misc]
        settled(device)
    seconds: list[list[float]] = [[] for _ in contenders]
    for at, value in clock.read():
        seconds[at].append(value)
    return np.array(seconds).T


class _Host:
    """The host's clock, for work that is done when a call returns."""

    def __init__(self) -> None:
        self._seconds: list[tuple[int, float]] = []

    def time(self, at: int, call: Callable[[], None]) -> None:
        start = time.perf_counter()
        call()
        self._seconds.append((at, time.perf_counter() - start))

    def read(self) -> list[tuple[int, float]]:
        return self._seconds


class _Events:
    """Marks in the queue of a GPU, before and after each call, read when the queue has passed them all."""

    def __init__(self) -> None:
        self._marks: list[tuple[int, Any, Any]] = []

    def time(self, at: int, call: Callable[[], None]) -> None:
        import torch

        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        call()
        end.record()
        self._marks.append((at, start, end))

    def read(self) -> list[tuple[int, float]]:
        return [(at, start.elapsed_time(end) / 1e3) for at, start, end in self._marks]


def median(values: NDArray[np.float64]) -> Median:
    """Median over rounds and its interval, which holds whatever the distribution of times."""
    return Median(float(np.median(values)), *interval(values.tolist(), CONFIDENCE))
