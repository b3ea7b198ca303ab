"""Rows that a cluster measures, or that are measured so that a run can be resumed: every measurement takes them."""

import hashlib
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from geomkit._version import __version__
from geomkit.core.blocks import BlockMap
from geomkit.core.executor import Executor, HintedReducer, Job, MergeableReducer, Pass, Plan, State
from geomkit.core.matrix import Matrix
from geomkit.core.row_source import RowSlice
from geomkit.covariance.accumulate import RowSums
from geomkit.covariance.batches import ScatterPair
from geomkit.distributed.checkpoint import Checkpoint, CheckpointDir
from geomkit.distributed.executors import DaskExecutor, LocalExecutor
from geomkit.distributed.schedule import Stripe, branches, leaves, panel_cut, spans_of, stripes
from geomkit.distributed.tasks import Accumulated, BlockJob, RowSumsJob, SumsTree, SweepJob
from geomkit.errors import InvalidInputError
from geomkit.io.shards.shards import Shards, open_shards
from geomkit.kernels import Backend, module
from geomkit.pairwise.panels import panel_rows
from geomkit.pairwise.scores import Scores
from geomkit.pairwise.sweep import PairSweep

__all__ = ["DistributedMatrix", "Progress", "at_scale", "distribute"]

Progress = Callable[[str, int, int], None]
"""Called with what is done ("rows" or "pairs"), how many tasks are, and of how many."""


class DistributedMatrix(RowSlice):
    """Rows whose passes are cut into tasks for an executor; made by `distribute`. Closing it releases the checkpoints.

    Attributes
    ----------
    executor : Executor
        Runs the tasks.
    """

    source: Shards

    def __init__(
        self, source: Shards, executor: Executor, checkpoint_dir: CheckpointDir | None, progress: Progress | None
    ) -> None:
        super().__init__(source, 0, source.shape[0])
        # Rows are prepared where tasks run, and not for this process.
        self.max_memory = 0
        self.executor, self.progress = executor, progress
        self._checkpoint_dir = checkpoint_dir

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker measures the rows of its task by itself.
        return _unpickled, (self.source,)

    def close(self) -> None:
        """Let other runs use the folder of checkpoints."""
        if self._checkpoint_dir is not None:
            self._checkpoint_dir.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, work: Pass) -> Any:
        """Cut a pass into tasks, have the executor run those that no checkpoint has, and merge their results."""
        shared = _SHARED[type(work)](work, self)
        checkpoint = self._checkpoint(shared)
        shared.begin(None if checkpoint is None else checkpoint.state)
        done = np.zeros(shared.count, np.bool_)
        if checkpoint is not None and checkpoint.state is not None:
            done = checkpoint.done.copy()
        self._tell(shared, done)
        for number, result in self.executor.run(shared.job, shared.tasks(done), shared.plan):
            done[shared.merge(number, result)] = True
            self._tell(shared, done)
            if checkpoint is not None and (checkpoint.due or done.all()):
                checkpoint.save(done, shared.state_dict())
        return shared.result()

    def _checkpoint(self, shared: "_SharedPass") -> Checkpoint | None:
        if self._checkpoint_dir is None or not shared.name:
            return None
        keep = shared.matrix.keep
        kept = "" if keep is None else hashlib.sha256(keep.tobytes()).hexdigest()
        about = {"rows": self.source.identity, "kept": kept, "geomkit": __version__}
        return self._checkpoint_dir.checkpoint(shared.name, shared.settings() | about)

    def _tell(self, shared: "_SharedPass", done: NDArray[np.bool_]) -> None:
        if self.progress is not None and shared.name:
            self.progress(shared.name, int(done.sum()), len(done))


def _unpickled(source: Shards) -> Shards:
    return source


def distribute(
    x: Any,
    *,
    client: Any = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    max_memory: int | None = None,
    threads: int | None = None,
    checkpoint_every: float = 10.0,
    progress: Progress | None = None,
) -> DistributedMatrix:
    """Have rows measured by a Dask cluster, or so that a run can be resumed, or both.

    Parameters
    ----------
    x : Shards, or what `open_shards` takes
        The rows to measure.
    client : distributed.Client, optional
        The client of a Dask cluster, whose workers read the rows where they lie and measure them. Each worker is best
        given one thread. Nothing is asked of a deployment but its client. None for this process.
    checkpoint_dir : path, optional
        A folder for partial results. A run that was stopped at any moment goes on where it was: call the same
        measurement again with the same folder. One run at a time may use it.
    max_memory : int, optional
        Bytes of prepared rows in each process; half of what is free here, a third of a worker's memory, unless given.
    threads : int, optional
        Threads of this process, where there is no client.
    checkpoint_every : float
        Least number of seconds between two writings to the folder.
    progress : callable, optional
        Called with ``("rows" or "pairs", tasks done, tasks)``.

    Returns
    -------
    DistributedMatrix
        Every measurement takes it for `x`. Use it in a ``with`` statement, or close it.

    Raises
    ------
    InvalidInputError
        The rows cannot be opened, or an argument is not what it must be.
    ClusterError
        The cluster has no workers, or one with another version of geomkit.
    StorageError
        The folder cannot be written to, or another run uses it.
    BackendUnavailableError
        Dask or filelock is not installed.

    Notes
    -----
    Sweeps over pairs, sums over rows and maps over blocks of rows run on the workers; everything else runs here. Counts
    are those of one process, to the bit, for any number of workers, and whether or not some died or the run was
    resumed. Sums of floating-point numbers are merged in a tree whose shape depends on the number of rows alone. Each
    worker reads n/p panels for n² / (2 p²) pairs of them, p rows each, of which it holds three.

    Examples
    --------
    >>> import numpy as np
    >>> import geomkit
    >>> x = np.random.default_rng(0).standard_normal((1000, 8))
    >>> with geomkit.distribute(x) as rows:
    ...     found = geomkit.moments(rows)
    >>> found.n_pairs
    499500
    """
    if max_memory is None and isinstance(x, Shards):
        source = x
    elif isinstance(x, Shards):
        msg = "max_memory is given to open_shards where x is opened already; it must be None"
        raise InvalidInputError(msg)
    else:
        source = open_shards(x, max_memory=max_memory)
    with ExitStack() as opened:
        folder = None
        if checkpoint_dir is not None:
            folder = CheckpointDir(checkpoint_dir, every=checkpoint_every)
            opened.callback(folder.close)
        executor: Executor = LocalExecutor(threads) if client is None else DaskExecutor(client)
        opened.pop_all()
    return DistributedMatrix(source, executor, folder, progress)


def at_scale(
    x: Any,
    *,
    run: str | os.PathLike[str] | None = None,
    every: float = 10.0,
    **options: Any,
) -> DistributedMatrix:
    """Call `distribute` by its old name; `run` is its `checkpoint_dir`, and `every` its `checkpoint_every`."""
    msg = "at_scale(run=, every=) is deprecated and goes with 0.11; use distribute(checkpoint_dir=, checkpoint_every=)"
    warnings.warn(msg, DeprecationWarning, stacklevel=2)
    return distribute(x, checkpoint_dir=run, checkpoint_every=every, **options)


class _SharedPass(ABC):
    """A pass as tasks: how it is cut, and what their results merge to."""

    name = ""
    """What its progress and its checkpoints are called; passes without a name have neither."""
    count: int
    """How many parts the pass has, each of which is done or not; known once it has begun."""
    job: Job
    plan: Plan
    matrix: Matrix

    def settings(self) -> dict[str, Any]:
        """Return everything that the results depend on, beside the rows."""
        return {}

    def begin(self, state: State | None) -> None:  # noqa: B027 (most passes have none)
        """Go on from a state, where there is one."""

    def state_dict(self) -> State:
        """Return what was merged so far."""
        return {}

    @abstractmethod
    def tasks(self, done: NDArray[np.bool_]) -> list[tuple[int, Any]]:
        """Return the tasks that are left, with numbers of their own."""

    @abstractmethod
    def merge(self, number: int, result: Any) -> int | slice:
        """Merge the result of a task; return what is done now."""

    @abstractmethod
    def result(self) -> Any:
        """Return what the pass returns."""


class _SharedBlocks(_SharedPass):
    """Consecutive blocks go to one task; the pass is short, and is made again by a run that is resumed."""

    def __init__(self, work: BlockMap, data: DistributedMatrix) -> None:
        self._work, workers = work, data.executor.workers
        self.count = min(len(work.blocks), 1 if workers == 1 else 4 * workers)
        self.job, self.plan = BlockJob(work.work), Plan(lambda task: task[0][0][0])
        self._results: list[list[Any]] = [[] for _ in range(self.count)]

    def tasks(self, done: NDArray[np.bool_]) -> list[tuple[int, Any]]:  # noqa: ARG002
        blocks, first, tasks = self._work.blocks, self._work.blocks[0][0], list[tuple[int, Any]]()
        for number in range(self.count):
            own = blocks[len(blocks) * number // self.count : len(blocks) * (number + 1) // self.count]
            rows = slice(own[0][0] - first, own[-1][1] - first)
            tasks.append((number, (own, [values[rows] for values in self._work.by_row])))
        return tasks

    def merge(self, number: int, result: Any) -> int | slice:
        self._results[number] = result
        return number

    def result(self) -> list[Any]:
        return [value for results in self._results for value in results]


class _SharedSums(_SharedPass):
    """Branches of a tree of leaves are accumulated by one task each, and merged two by two."""

    name = "rows"

    def __init__(self, work: RowSums, data: DistributedMatrix) -> None:
        _refuse_device(work.backend)
        self._work, self.matrix, self._workers = work, work.matrix, data.executor.workers
        self._leaves = leaves(work.matrix.n, work.matrix.d)
        self.count, self.plan = len(self._leaves), Plan(lambda task: task[0])
        self.job = RowSumsJob(replace(work, into=ScatterPair.empty(0, work.backend, None)))
        self._tree = SumsTree(self.count, work.backend)
        # The norms of rows that are still to come are those of valid rows.
        self._norms = np.ones(work.matrix.n)
        self._branches: list[tuple[int, int]] = []

    def settings(self) -> dict[str, Any]:
        work = self._work
        return {"tasks": self._leaves, "drop": work.drop, "directed": work.directed, "backend": work.backend.value}

    def begin(self, state: State | None) -> None:
        if state is not None:
            self._norms = state["norms"]
            self._tree.load_state_dict(state)

    def state_dict(self) -> State:
        infinite, zero = (np.flatnonzero(rows) for rows in self._work.invalid(self._norms))
        return {"norms": self._norms, "infinite": infinite, "zero": zero, **self._tree.state_dict()}

    def tasks(self, done: NDArray[np.bool_]) -> list[tuple[int, Any]]:
        self._branches = branches(done.tolist(), self.matrix.n, self._workers)
        return [(number, self._leaves[self._span(number)]) for number in range(len(self._branches))]

    def merge(self, number: int, result: Accumulated) -> int | slice:
        span = self._span(number)
        self._tree.add(*self._branches[number], result.sums)
        self._norms[self._leaves[span][0][0] : self._leaves[span][-1][1]] = result.norms
        return span

    def result(self) -> tuple[ScatterPair, NDArray[np.float64]]:
        valid = not np.logical_or(*self._work.invalid(self._norms)).any()
        return self._work.merged([self._tree.root], valid=valid), self._norms

    def _span(self, number: int) -> slice:
        level, at = self._branches[number]
        return slice(at << level, (at + 1) << level)


class _SharedSweep(_SharedPass):
    """Stripes of pairs of panels are reduced by one task each."""

    name = "pairs"

    def __init__(self, work: PairSweep, data: DistributedMatrix) -> None:
        rows: Any = work.tiles.rows
        _refuse_device(rows.backend)
        self._rows, self._work, self.matrix = rows, work, rows.matrix
        if not all(hasattr(reducer, "factory") for reducer in work.reducers):
            msg = f"{self.matrix.name} is distributed, and a matrix of all pairs is one array here; pass an array"
            raise InvalidInputError(msg)
        self._reducers: list[MergeableReducer] = list(work.reducers)  # type: ignore[arg-type]
        # Of each row, workers need what it is divided by.
        bare = replace(rows, facts=np.empty((3, 0))) if isinstance(rows, Scores) else rows
        self._factories = tuple(reducer.factory() for reducer in self._reducers)
        self._products: dict[str, str] = module(rows.backend).choices() if rows.backend is Backend.CPU else {}
        tiles = replace(work.tiles, rows=bare)
        self.job = SweepJob(os.urandom(8).hex(), tiles, self._factories, work.size, self._products)
        self.plan = Plan(lambda task: task.left, lambda task: (task, self._hints(task)))
        most = panel_rows(rows, data.executor.panel_bytes(data.source), work.size)
        self.cut = panel_cut(rows.n, work.size, most, data.executor.workers)
        self._stripes: list[Stripe] = []

    def settings(self) -> dict[str, Any]:
        rows, tiles = self._rows, self._work.tiles
        kinds = [[factory.func.__qualname__, str(factory.args)] for factory in self._factories]  # type: ignore[attr-defined]
        if isinstance(rows, Scores):
            how = [rows.precision, rows.dtype, int(rows.form), rows.offset, rows.origin, rows.unit]
            numbers = (rows.mean, rows.divisors)
        else:
            how = [rows.preparation, rows.dtype, rows.scale]
            numbers = (np.zeros(0) if rows.mean is None else rows.mean, rows.squares)
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(values).tobytes() for values in numbers)).hexdigest()
        return {
            "kernel": tiles.kernel, "p": tiles.p, "size": self._work.size, "backend": rows.backend.value,
            "products": self._products, "reducers": kinds, "how": how, "digest": digest,
        }  # fmt: skip

    def begin(self, state: State | None) -> None:
        if state is not None:
            # A run that is resumed keeps its cut, however much memory and however many workers there are now.
            self.cut = tuple(state["cut"].tolist())
            for number, reducer in enumerate(self._reducers):
                prefix = f"{number}_"
                own = {name.removeprefix(prefix): part for name, part in state.items() if name.startswith(prefix)}
                reducer.merge_state(own, [(0, self._rows.n)])
        self._stripes = stripes(self._rows.n, *self.cut)
        self.count = len(self._stripes)

    def state_dict(self) -> State:
        states = enumerate(reducer.state_dict() for reducer in self._reducers)
        parts = {f"{number}_{name}": value for number, state in states for name, value in state.items()}
        return {"cut": np.array(self.cut), **parts}

    def tasks(self, done: NDArray[np.bool_]) -> list[tuple[int, Any]]:
        return [(number, stripe) for number, stripe in enumerate(self._stripes) if not done[number]]

    def merge(self, number: int, result: list[State]) -> int | slice:
        for reducer, state in zip(self._reducers, result, strict=True):
            reducer.merge_state(state, spans_of(self._stripes[number]))
        return number

    def result(self) -> None:
        """Return nothing: the reducers have it all."""

    def _hints(self, task: Stripe) -> list[State | None]:
        spans = spans_of(task)
        return [reducer.hints(spans) if isinstance(reducer, HintedReducer) else None for reducer in self._reducers]


def _refuse_device(backend: Backend) -> None:
    if backend.on_device:
        msg = f"distributed rows are measured by the cpu backend; got backend {backend.value!r}"
        raise InvalidInputError(msg)


_SHARED: dict[type, Callable[[Any, DistributedMatrix], _SharedPass]] = {
    BlockMap: _SharedBlocks,
    RowSums: _SharedSums,
    PairSweep: _SharedSweep,
}
"""How each pass is cut into tasks."""
