"""Rows that others measure, or that are measured so that a run can be resumed: every measurement takes them."""

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from geomkit._version import __version__
from geomkit.core.executor import Guided, Portable
from geomkit.core.matrix import Matrix
from geomkit.core.row_source import Stored
from geomkit.covariance.batches import Pair
from geomkit.distributed.checkpoint import RunFolder, Stage
from geomkit.distributed.executors import Cluster, Executor, Here, Plan
from geomkit.distributed.schedule import Stripe, branches, leaves, panel_cut, spans_of, stripes
from geomkit.distributed.tasks import Blocks, Count, Poured, Pouring, State, Tree
from geomkit.errors import InvalidInputError
from geomkit.io.shards.shards import Shards, open_shards
from geomkit.kernels import Backend, module
from geomkit.pairwise.panels import Span, panel_rows
from geomkit.pairwise.scores import Scores
from geomkit.pairwise.tiles import PairReducer, Tiles

__all__ = ["Progress", "Spread", "at_scale"]

Progress = Callable[[str, int, int], None]
"""Called with what is done ("rows" or "pairs"), how many tasks are, and of how many."""


class Spread(Stored):
    """Rows, and who measures them; made by `at_scale`. Closing it lets go of the run folder."""

    def __init__(self, source: Shards, executor: Executor, folder: RunFolder | None, progress: Progress | None) -> None:
        self.source, self.shape, self.dtype = source, source.shape, source.dtype
        self.max_memory = source.max_memory
        self.crew = _Crew(source, executor, folder, progress)
        self._folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        # To a worker they are rows that it measures itself.
        return _as_it_is, (self.source,)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start:stop``, as stored."""
        return self.source.read(start, stop)

    def take(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Return the rows with these numbers, as stored."""
        return self.source.take(numbers)

    def where(self, row: int) -> str:
        """Say where a row is."""
        return self.source.where(row)

    def ahead(self, start: int, stop: int) -> None:
        """Hint that rows will be read soon."""
        self.source.ahead(start, stop)

    def close(self) -> None:
        """Let other runs have the run folder."""
        if self._folder is not None:
            self._folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _as_it_is(source: Shards) -> Shards:
    return source


def at_scale(
    x: Any,
    *,
    client: Any = None,
    run: str | os.PathLike[str] | None = None,
    max_memory: int | None = None,
    threads: int | None = None,
    every: float = 10.0,
    progress: Progress | None = None,
) -> Spread:
    """Have rows measured by a Dask cluster, or so that a run can be resumed, or both.

    Parameters
    ----------
    x : Shards, or what `open_shards` takes
    client : distributed.Client, optional
        Whose workers read the rows where they lie and measure them. Each is best given one thread. Nothing is asked of
        a deployment but its client. None for this process.
    run : path, optional
        A folder for partial results. A run that was stopped at any moment goes on where it was: call the same
        measurement again with the same folder. One run at a time may use it.
    max_memory : int, optional
        Bytes of prepared rows in each process; half of what is free here, a third of a worker's memory, unless given.
    threads : int, optional
        Of this process, where there is no client.
    every : float
        Seconds between two writings to the run folder, at least.
    progress : callable, optional
        Called with ``("rows" or "pairs", tasks done, tasks)``.

    Returns
    -------
    Spread
        Every measurement takes it for `x`. Use it in a ``with`` statement, or close it.

    Raises
    ------
    InvalidInputError
        The rows cannot be opened, or an argument is not what it must be.
    ClusterError
        The cluster has no workers, or one with another version of geomkit.
    StorageError
        The run folder cannot be written to, or another run uses it.
    BackendUnavailableError
        Dask or filelock is not installed.

    Notes
    -----
    Sweeps over pairs, sums over rows and passes over blocks go to the workers; what remains is done here. Counts are
    those of one process, to the bit, for any number of workers, and whether or not some died or the run was resumed;
    sums of floating-point numbers are merged in a tree whose shape depends on the number of rows alone. Each worker
    reads n/p panels for n² / (2 p²) pairs of them, p rows each, of which it holds three.
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
        if run is not None:
            folder = RunFolder(run, every=every)
            opened.callback(folder.close)
        executor: Executor = Here(threads) if client is None else Cluster(client)
        opened.pop_all()
    return Spread(source, executor, folder, progress)


class _Crew:
    """Cuts work into tasks, has them done, and merges what they came to."""

    def __init__(self, source: Shards, executor: Executor, folder: RunFolder | None, progress: Progress | None) -> None:
        self._source, self._executor, self._folder = source, executor, folder
        self._say = progress or _say_nothing

    def each_block(self, blocks: Sequence[Span], work: Callable[..., Any], by_row: Sequence[NDArray[Any]]) -> list[Any]:
        """Share out consecutive blocks."""
        parts = min(len(blocks), 1 if isinstance(self._executor, Here) else 4 * self._executor.workers)
        cuts = [len(blocks) * k // parts for k in range(parts + 1)]
        tasks = []
        for number in range(parts):
            mine = blocks[cuts[number] : cuts[number + 1]]
            rows = slice(mine[0][0], mine[-1][1])
            tasks.append((number, (mine, [each[rows] for each in by_row])))
        found: list[Any] = [None] * parts
        for number, result in self._executor.run(Blocks(work), tasks, Plan(lambda task: task[0][0][0])):
            found[number] = result
        return [each for part in found for each in part]

    def gather(
        self, matrix: Matrix, backend: Backend, *, drop: bool, directed: bool
    ) -> tuple[Pair, list[int], list[int], NDArray[np.float64]]:
        """Have branches of a tree poured, and merge them two by two."""
        self._refuse_device(backend)
        job = Pouring(matrix, backend, drop, directed)
        cut = leaves(matrix.n, matrix.d)
        stage = self._stage(
            "rows", {"tasks": cut, "drop": drop, "directed": directed, "backend": backend.value}, matrix
        )
        tree = Tree(len(cut), backend)
        norms, infinite, zero = np.empty(matrix.n), list[int](), list[int]()
        done = np.zeros(len(cut), np.bool_)
        if stage is not None and stage.state is not None:
            done = stage.done.copy()
            norms, infinite, zero = stage.state["norms"], stage.state["infinite"].tolist(), stage.state["zero"].tolist()
            tree.load(stage.state)
        left = branches(done.tolist(), matrix.n, self._executor.workers)
        tasks = [cut[at << level : (at + 1) << level] for level, at in left]
        self._say("rows", int(done.sum()), len(cut))
        for number, found in self._executor.run(job, list(enumerate(tasks)), Plan(lambda task: task[0])):
            poured: Poured = found
            level, at = left[number]
            tree.add(level, at, poured.sums)
            norms[tasks[number][0][0] : tasks[number][-1][1]] = poured.norms
            infinite, zero = infinite + poured.infinite, zero + poured.zero
            done[at << level : (at + 1) << level] = True
            self._say("rows", int(done.sum()), len(cut))
            if stage is not None and (stage.due or done.all()):
                rows = {"norms": norms, "infinite": np.array(infinite, int), "zero": np.array(zero, int)}
                stage.save(done, rows | tree.state())
        return tree.root, sorted(infinite), sorted(zero), norms

    def sweep(self, tiles: Tiles, reducers: Sequence[PairReducer], size: int) -> None:
        """Have stripes of pairs of panels reduced."""
        rows: Any = tiles.rows
        self._refuse_device(rows.backend)
        if not all(hasattr(each, "recipe") for each in reducers):
            msg = f"{rows.matrix.name} is measured at scale, and a matrix of all pairs is one array here; pass an array"
            raise InvalidInputError(msg)
        portable: list[Portable] = list(reducers)  # type: ignore[arg-type]
        # Of each row, workers need what it is divided by.
        bare = replace(rows, facts=np.empty((3, 0))) if isinstance(rows, Scores) else rows
        recipes = tuple(each.recipe() for each in portable)
        chosen: dict[str, str] = module(rows.backend).choices() if rows.backend is Backend.CPU else {}
        job = Count(os.urandom(8).hex(), replace(tiles, rows=bare), recipes, size, chosen)
        stage = self._stage("pairs", _settings(tiles, recipes, size, chosen), rows.matrix)
        cut = self._panel(rows, size)
        if stage is not None and stage.state is not None:
            # Whoever goes on cuts as whoever began, however much memory and however many workers there are now.
            cut = tuple(stage.state["cut"].tolist())
        tasks = stripes(rows.n, *cut)
        done = np.zeros(len(tasks), np.bool_)
        if stage is not None and stage.state is not None:
            done = stage.done.copy()
            for number, each in enumerate(portable):
                each.absorb(_part(stage.state, number), [(0, rows.n)])
        left = [(number, task) for number, task in enumerate(tasks) if not done[number]]
        self._say("pairs", int(done.sum()), len(tasks))
        plan = Plan(lambda task: task.left, lambda task: (task, _guides(portable, task)))
        for number, states in self._executor.run(job, left, plan):
            for each, state in zip(portable, states, strict=True):
                each.absorb(state, spans_of(tasks[number]))
            done[number] = True
            self._say("pairs", int(done.sum()), len(tasks))
            if stage is not None and (stage.due or done.all()):
                stage.save(done, {"cut": np.array(cut), **_joined(portable)})

    def _panel(self, rows: Any, size: int) -> tuple[int, int]:
        """Rows of a panel, and pairs of panels in a stripe."""
        most = panel_rows(rows, self._executor.room(self._source), size)
        return panel_cut(rows.n, size, most, self._executor.workers)

    def _stage(self, what: str, settings: dict[str, Any], matrix: Matrix) -> Stage | None:
        if self._folder is None:
            return None
        kept = "" if matrix.keep is None else hashlib.sha256(matrix.keep.tobytes()).hexdigest()
        about = {"rows": self._source.identity, "kept": kept, "geomkit": __version__}
        return self._folder.stage(what, settings | about)

    def _refuse_device(self, backend: Backend) -> None:
        if backend.on_device:
            msg = f"rows that are measured at scale are measured by the cpu backend; got backend {backend.value!r}"
            raise InvalidInputError(msg)


def _say_nothing(what: str, done: int, of: int) -> None:
    pass


def _settings(tiles: Tiles, recipes: Sequence[Any], size: int, chosen: dict[str, str]) -> dict[str, Any]:
    """Everything that the counts of a sweep depend on, beside the rows."""
    rows: Any = tiles.rows
    kinds = [[each.func.__qualname__, str(each.args)] for each in recipes]
    if isinstance(rows, Scores):
        how = [rows.precision, rows.dtype, int(rows.form), rows.offset, rows.origin, rows.unit]
        numbers = (rows.mean, rows.divisors)
    else:
        how = [rows.preparation, rows.dtype, rows.scale]
        numbers = (np.zeros(0) if rows.mean is None else rows.mean, rows.squares)
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(each).tobytes() for each in numbers)).hexdigest()
    return {
        "kernel": tiles.kernel, "p": tiles.p, "size": size, "backend": rows.backend.value, "products": chosen,
        "reducers": kinds, "how": how, "digest": digest,
    }  # fmt: skip


def _guides(reducers: Sequence[Portable], task: Stripe) -> list[State | None]:
    spans = spans_of(task)
    return [each.guide(spans) if isinstance(each, Guided) else None for each in reducers]


def _joined(reducers: Sequence[Portable]) -> State:
    return {f"{number}_{name}": value for number, each in enumerate(reducers) for name, value in each.state().items()}


def _part(state: State, number: int) -> State:
    start = f"{number}_"
    return {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
