"""Executors: tasks run in this process, or on the workers of a Dask cluster."""

import math
import time
import uuid
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from geomkit._version import __version__
from geomkit.core.executor import Job, Plan
from geomkit.core.memory import free_memory
from geomkit.core.row_source import RowSource
from geomkit.core.threads import processors
from geomkit.errors import BackendUnavailableError, ClusterError, GeomkitError, InvalidInputError

__all__ = ["DaskExecutor", "LocalExecutor", "connected", "local_cluster"]

AHEAD = 2
"""Tasks that a worker with one thread has at a time, so that it need not wait for the next."""

REFRESH = 2.0
"""Seconds after which a cluster is asked again which workers it has."""

LOCAL = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.nanny.pre-spawn-environ": {
        "MKL_NUM_THREADS": 1, "OMP_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 1,
    },
}  # fmt: skip
"""Of workers that share a machine with their scheduler and client. Each process of Dask would look at its stack every
10 ms and at its clock every 20 ms, idle or not, which took 4 % of a core each; and workers would give every block that
is freed back to the system (MALLOC_TRIM_THRESHOLD_), to be handed it again, page by page, for the next."""

PATIENCE = 60.0
"""Seconds to wait for a first worker, or for one more when all are gone."""


class LocalExecutor:
    """Runs tasks in this process, one at a time, each in threads."""

    workers = 1

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or processors()

    def panel_bytes(self, source: RowSource) -> int:
        """Bytes that the source allows, or half of what is free."""
        return source.max_memory or max(free_memory() // 2, 2**20)

    def run(self, job: Job, tasks: Sequence[tuple[int, Any]], plan: Plan) -> Iterator[tuple[int, Any]]:
        """Run one task after the other."""
        for number, task in tasks:
            yield number, job(plan.message(task), self._threads)


class DaskExecutor:
    """Runs tasks on the workers of a Dask cluster.

    Parameters
    ----------
    client : distributed.Client

    Raises
    ------
    ClusterError
        There are no workers, or one has another version of geomkit, or none.
    BackendUnavailableError
        distributed is not installed.
    """

    def __init__(self, client: Any) -> None:
        distributed = _distributed()
        if not isinstance(client, distributed.Client) or client.asynchronous:
            msg = f"client must be a distributed.Client that is not asynchronous; got {client!r}"
            raise InvalidInputError(msg)
        self._client: Any = client
        with self._reached():
            client.wait_for_workers(1, timeout=PATIENCE)
            facts = client.run(_facts)
        for address, (version, _) in facts.items():
            if version != __version__:
                msg = f"worker {address} has geomkit {version}; it must have {__version__}, as is here"
                raise ClusterError(msg)
        limits = [limit for _, limit in facts.values() if limit]
        self._limit: int | None = min(limits) if limits else None
        self._threads: dict[str, int] = {}
        self._asked = -math.inf
        self._look()

    @property
    def workers(self) -> int:
        """Workers that are there now."""
        return max(1, len(self._threads))

    def panel_bytes(self, source: RowSource) -> int:
        """Bytes that the source allows, or a third of the least memory of a worker, or 1 GiB where none has a limit."""
        return source.max_memory or (self._limit // 3 if self._limit else 2**30)

    def run(self, job: Job, tasks: Sequence[tuple[int, Any]], plan: Plan) -> Iterator[tuple[int, Any]]:
        """Give each worker a chain of its own while there are some, and then the end of the longest."""
        from distributed import as_completed

        chains: dict[Any, deque[tuple[int, Any]]] = {}
        for number, task in tasks:
            chains.setdefault(plan.chain(task), deque()).append((number, task))
        waiting, own = list(chains.values()), dict[str, deque[tuple[int, Any]]]()
        running: dict[Any, tuple[int, str]] = {}
        token = uuid.uuid4().hex
        with self._reached():
            travelling = self._send(job, token)
            done: Any = as_completed()

            def feed() -> None:
                for address, threads in self._idle(running):
                    taken = _next(address, waiting, own)
                    if taken is None:
                        return
                    number, task = taken
                    future = self._client.submit(
                        _do, travelling, plan.message(task), threads, __version__,
                        key=f"geomkit-{token}-{number}", pure=False, workers=[address], allow_other_workers=True,
                    )  # fmt: skip
                    running[future] = number, address
                    done.add(future)

            feed()
            while running:
                future = next(done)
                number, _ = running.pop(future)
                result = self._result(future)
                future.release()
                feed()
                yield number, result

    def _send(self, job: Job, token: str) -> Any:
        """Send a job as a task, whose result workers pass on, and make again when it was lost with one of them."""
        # With the same library as Dask itself, which takes functions that are in no module, too.
        import cloudpickle

        with warnings.catch_warnings():
            # What a job knows of each row travels once.
            warnings.filterwarnings("ignore", "Sending large graph")
            return self._client.submit(
                cloudpickle.loads, cloudpickle.dumps(job), key=f"geomkit-job-{token}", pure=False
            )

    def _idle(self, running: dict[Any, tuple[int, str]]) -> list[tuple[str, int]]:
        """Workers that have too little to do, with their threads; one with room for two stands there twice."""
        self._look()
        busy = dict.fromkeys(self._threads, 0)
        for _, address in running.values():
            busy[address] = busy.get(address, 0) + 1
        return [
            (address, threads)
            for address, threads in self._threads.items()
            for _ in range((AHEAD if threads == 1 else 1) - busy[address])
        ]

    def _look(self) -> None:
        """See which workers there are."""
        if time.monotonic() - self._asked < REFRESH and self._threads:
            return
        found = self._client.nthreads()
        if not found:
            self._client.wait_for_workers(1, timeout=PATIENCE)
            found = self._client.nthreads()
        self._threads, self._asked = dict(found), time.monotonic()

    @staticmethod
    def _result(future: Any) -> Any:
        from distributed import KilledWorker

        try:
            return future.result()
        except KilledWorker as why:
            msg = (
                "workers died again and again at the same task, most likely for want of memory: "
                f"lower max_memory, or give workers more ({' '.join(str(why).split())[:200]})"
            )
            raise ClusterError(msg) from why

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Say plainly that the cluster cannot be reached; what workers refused is passed on."""
        from concurrent.futures import CancelledError

        address = self._client.scheduler.address if self._client.scheduler else "unknown"
        try:
            yield
        except GeomkitError:
            raise
        except (OSError, TimeoutError, CancelledError, RuntimeError) as why:
            if (
                isinstance(why, RuntimeError)
                and "client" not in str(why).lower()
                and "scheduler" not in str(why).lower()
            ):
                raise
            reason = " ".join(str(why).split())[:200] or type(why).__name__
            kept = "what is done is kept in `checkpoint_dir`"
            msg = f"the cluster at {address} cannot be reached, or has no workers ({reason}); {kept}"
            raise ClusterError(msg) from why


def _next(address: str, waiting: list[Any], own: dict[str, Any]) -> Any:
    """Next task of a worker's own chain, of one that waits, or from the end of the longest of another's."""
    if not own.get(address):
        if waiting:
            own[address] = waiting.pop(0)
        else:
            longest = max(own.values(), key=len, default=None)
            if not longest:
                return None
            return longest.pop()
    return own[address].popleft()


def _facts(dask_worker: Any) -> tuple[str, int | None]:
    """Version of geomkit on a worker, and its memory."""
    try:
        from geomkit._version import __version__ as there
    except ImportError:
        return "none", None
    return there, dask_worker.memory_manager.memory_limit


def _do(job: Job, task: Any, threads: int, version: str) -> Any:
    """Do a task, on a worker that may have come late."""
    if __version__ != version:
        msg = f"a worker has geomkit {__version__}; it must have {version}, as its client has"
        raise ClusterError(msg)
    return job(task, threads)


@contextmanager
def connected(address: str, timeout: float = 10.0) -> Iterator[Any]:
    """Connect to a scheduler, which has so many seconds to answer.

    Raises
    ------
    ClusterError
        Nobody answers there.
    BackendUnavailableError
        distributed is not installed.
    """
    distributed = _distributed()
    try:
        client = distributed.Client(address, timeout=timeout)
    except (OSError, ValueError, TimeoutError) as why:
        msg = f"no scheduler answers at {address} ({' '.join(str(why).split())[:200]}); give the address of one"
        raise ClusterError(msg) from why
    with client:
        yield client


@contextmanager
def local_cluster(workers: int, *, dashboard: bool = True) -> Iterator[Any]:
    """Start worker processes of one thread each on this machine.

    Dask's profiler is off in them, so the profile on its dashboard is empty; all else is there.

    Raises
    ------
    InvalidInputError
        `workers` is not a whole number of at least 1.
    BackendUnavailableError
        distributed is not installed.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        msg = f"workers must be a whole number of at least 1; got {workers!r}"
        raise InvalidInputError(msg)
    distributed = _distributed()
    import dask

    where = "127.0.0.1:0" if dashboard else None
    with (
        dask.config.set(LOCAL),
        distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=where) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as why:
        msg = f"a cluster needs Dask, which cannot be imported ({why}): pip install 'geomkit[scale]'"
        raise BackendUnavailableError(msg) from why
    return distributed
