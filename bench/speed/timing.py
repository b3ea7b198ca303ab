"""Contenders timed in turn: ratios of times from one run, in which a drift of the machine's speed hits all alike.

On a GPU nothing waits for anything while rounds are queued: events are marks in the device's own queue, read once after
the last round. A contender that waits for the device within a call pays for that.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Thunk = Callable[[], object]

CACHES = 4
"""How many times the L2 cache the copies of an input fill together: what was read last time is gone."""


@dataclass(frozen=True, slots=True)
class Pace:
    """When a set of contenders has been timed for long enough."""

    seconds: float
    """No round starts after this many seconds ..."""
    least: int = 3
    """... unless fewer than these have been timed."""
    most: int = 9


class Spread(NamedTuple):
    """A median over rounds, and the least and the largest of them, or order statistics that enclose it."""

    value: float
    low: float
    high: float


def interleaved(thunks: Sequence[Thunk], pace: Pace) -> NDArray[np.float64]:
    """Seconds of each thunk, (rounds, thunks).

    Every round times every thunk once, and starts with another of them, so that none always follows the same one. The
    thunks have run before.
    """
    rounds: list[NDArray[np.float64]] = []
    begun = time.perf_counter()
    while len(rounds) < pace.least or (len(rounds) < pace.most and time.perf_counter() - begun < pace.seconds):
        took = np.empty(len(thunks))
        for turn in range(len(thunks)):
            at = (turn + len(rounds)) % len(thunks)
            start = time.perf_counter()
            thunks[at]()
            took[at] = time.perf_counter() - start
        rounds.append(took)
    return np.array(rounds)


def interleaved_on(device: str, thunks: Sequence[Thunk], pace: Pace) -> NDArray[np.float64]:
    """Seconds of each thunk on a device, (rounds, thunks): as `interleaved` does, on a GPU by events in its queue.

    One round that nobody records says how many fit into the time; none is stopped half-way.
    """
    import torch

    if not device.startswith("cuda"):
        return interleaved(thunks, pace)
    begun = settled(device)
    for thunk in thunks:
        thunk()
    took = settled(device) - begun
    n_rounds = min(max(int(pace.seconds / took), pace.least), pace.most) if thunks else 0
    marks: list[list[Any]] = [[None] * len(thunks) for _ in range(n_rounds)]
    with torch.cuda.device(device):
        for number in range(n_rounds):
            for turn in range(len(thunks)):
                at = (turn + number) % len(thunks)
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
                start.record()
                thunks[at]()
                end.record()
                marks[number][at] = start, end
        settled(device)
    seconds = [[start.elapsed_time(end) / 1e3 for start, end in row] for row in marks]
    return np.array(seconds).reshape(n_rounds, len(thunks))


def settled(device: str) -> float:
    """Seconds on the host's clock, once the device has done all that it was asked."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def rotation(x: Any) -> list[Any]:
    """Return rows and, on a GPU, as many copies as fill its L2 cache several times."""
    import torch

    if not getattr(x, "is_cuda", False):
        return [x]
    cache = torch.cuda.get_device_properties(x.device).L2_cache_size
    copies = max(2, -(-CACHES * cache // (x.numel() * x.element_size())))
    return [x, *(x.clone() for _ in range(copies - 1))]


def spread(values: NDArray[np.float64]) -> Spread:
    """Median, least and largest; NaN where nothing was timed."""
    if not len(values):
        return Spread(math.nan, math.nan, math.nan)
    return Spread(float(np.median(values)), float(values.min()), float(values.max()))


def median_interval(values: NDArray[np.float64] | Sequence[float], confidence: float = 0.95) -> Spread:
    """Median, and order statistics that enclose it with at least this probability, whatever the distribution of times.

    The r-th smallest and r-th largest of m fail with probability ``2 P(Binomial(m, 1/2) < r)``. The interval is from 0
    to infinity where no order statistics enclose so much.
    """
    ordered, m = np.sort(values).tolist(), len(values)
    r, missed = 0, 0.0
    while r < m // 2:
        missed += 2 * math.comb(m, r) / 2**m
        if missed > 1 - confidence:
            break
        r += 1
    return Spread(float(np.median(values)), *((ordered[r - 1], ordered[m - r]) if r else (0.0, math.inf)))
