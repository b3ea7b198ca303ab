"""Contenders timed in turn: ratios of times from one run, in which a drift of the machine's speed hits all alike."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Thunk = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Pace:
    """When a set of contenders has been timed for long enough."""

    seconds: float
    """No round starts after this many seconds ..."""
    least: int = 3
    """... unless fewer than these have been timed."""
    most: int = 9


class Spread(NamedTuple):
    """A median over rounds, and the least and the largest of them."""

    value: float
    low: float
    high: float


def interleaved(thunks: Sequence[Thunk], pace: Pace) -> NDArray[np.float64]:
    """Seconds of each thunk, (rounds, thunks).

    Every round times every thunk once, and starts with another of them, so that none always follows the same one. The
    thunks have run before: whoever proved their answers ran them.
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


def spread(values: NDArray[np.float64]) -> Spread:
    """Median, least and largest."""
    return Spread(float(np.median(values)), float(values.min()), float(values.max()))
