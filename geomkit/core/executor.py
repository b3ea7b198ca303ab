"""Execution protocols: passes over the rows of a matrix, the executors that run their tasks, and what tasks return.

A measurement makes three kinds of passes: it maps blocks of rows, accumulates sums over all rows, and sweeps over all
pairs. `Matrix.run` runs a pass. Rows that are local run it whole, in threads of this process. Rows of
`geomkit.distributed` cut it into tasks, which an `Executor` runs here or on the workers of a Dask cluster.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

__all__ = ["Executor", "HintedReducer", "Job", "MergeableReducer", "Pass", "Plan", "Span", "State", "local_spans"]

Span = tuple[int, int]
"""First row of consecutive rows, and the one after their last."""

State = dict[str, NDArray[Any]]
"""Partial results as named arrays, which can be sent to another process and written to a file."""


class Pass(Protocol):
    """One pass over the rows, or over the pairs of rows, of a matrix."""

    def run_here(self) -> Any:
        """Run the whole pass in threads of this process, and return its result."""


class MergeableReducer(Protocol):
    """A reducer of pairs that a task can make in another process, and whose state merges with that of others."""

    def factory(self) -> Callable[[int], "MergeableReducer"]:
        """Return a function that makes an empty reducer for a number of rows; it can be pickled."""

    def state_dict(self) -> State:
        """Return everything that was reduced, as arrays."""

    def merge_state(self, state: State, spans: Sequence[Span]) -> None:
        """Merge the state of another reducer, whose rows are the rows of these spans, one span after the other."""


@runtime_checkable
class HintedReducer(MergeableReducer, Protocol):
    """A reducer whose tasks take less time when they know what earlier tasks found."""

    def hints(self, spans: Sequence[Span]) -> State:
        """Return what is known of the rows of these spans, one span after the other."""

    def use_hints(self, hints: State) -> None:
        """Use these hints from now on; the reducer must be empty."""


class Job(Protocol):
    """A function that runs tasks of one kind; it is sent to each worker once."""

    def __call__(self, task: Any, threads: int) -> Any:
        """Run one task in so many threads, and return its result."""


def _unchanged(task: Any) -> Any:
    return task


@dataclass(frozen=True, slots=True)
class Plan:
    """How tasks are handed out to workers."""

    chain: Callable[[Any], Any]
    """Tasks for which this is equal read the same rows, and run on one worker where possible."""
    message: Callable[[Any], Any] = _unchanged
    """What is sent for a task; called when the task is handed out."""


class Executor(Protocol):
    """Runs tasks in any order: in this process, or on the workers of a cluster."""

    @property
    def workers(self) -> int:
        """How many tasks run at once."""

    def panel_bytes(self, source: Any) -> int:
        """Bytes of prepared rows that each worker may hold."""

    def run(self, job: Job, tasks: Sequence[tuple[int, Any]], plan: Plan) -> Iterator[tuple[int, Any]]:
        """Run numbered tasks, and yield number and result of each as it is done."""


def local_spans(spans: Sequence[Span]) -> list[tuple[slice, slice]]:
    """Pair the rows of each span within the spans, one after the other, with its rows within the matrix."""
    pairs, start = list[tuple[slice, slice]](), 0
    for first, last in spans:
        pairs.append((slice(start, start + last - first), slice(first, last)))
        start += last - first
    return pairs
