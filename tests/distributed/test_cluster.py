"""Workers that die, run out of memory or are of another version; schedulers that go: real processes throughout."""

import os
import signal
import threading
import time

import numpy as np
import pytest

import geomkit
from geomkit.core.executor import Plan
from geomkit.distributed import executors
from geomkit.distributed.api import distribute
from geomkit.distributed.executors import DaskExecutor, connected, local_cluster
from geomkit.errors import ClusterError, InvalidInputError
from geomkit.io.shards.shards import open_shards


def rows(n=9000, d=32, seed=0):
    return (np.random.default_rng(seed).standard_normal((n, d)) + 0.4).astype("float32")


@pytest.fixture(scope="module")
def counts():
    return geomkit.cosine_stats(rows()).distribution.counts


class After:
    """Does something when so many tasks of a kind are done."""

    def __init__(self, what, tasks, act):
        self.what, self.tasks, self.act = what, tasks, act

    def __call__(self, what, done, of):
        if (what, done) == (self.what, self.tasks):
            assert done < of
            self.act()


@pytest.mark.parametrize("what", ["rows", "pairs"])
def test_a_worker_that_is_killed_is_replaced_and_nothing_counted_twice(counts, what):
    x = rows(40_000, 8) if what == "rows" else rows()
    with local_cluster(2, dashboard=False) as client:
        pids = client.run(os.getpid)

        def kill():
            os.kill(next(iter(pids.values())), signal.SIGKILL)

        with distribute(x, client=client, max_memory=2**20, progress=After(what, 2, kill)) as spread:
            if what == "rows":
                assert str(geomkit.moments(spread)) == str(geomkit.moments(distribute(x)))
            else:
                assert np.array_equal(geomkit.cosine_stats(spread).distribution.counts, counts)


def test_workers_of_a_local_cluster_spend_no_time_on_profiles_and_freed_memory():
    import dask
    import distributed  # noqa: F401 - brings its settings

    # Another cluster of this process may be open with these very settings, so that others are set before.
    before = [True, "20ms", {"OMP_NUM_THREADS": 3}]
    with dask.config.set(dict(zip(executors.LOCAL, before, strict=True))):
        with local_cluster(1, dashboard=False) as client:
            (there,) = client.run(lambda: [dask.config.get(name) for name in executors.LOCAL]).values()
            assert there == list(executors.LOCAL.values())
            (profile,) = client.run(lambda dask_worker: "profile" in dask_worker.periodic_callbacks).values()
            assert not profile
            (environ,) = client.run(lambda: dict(os.environ)).values()
            assert "MALLOC_TRIM_THRESHOLD_" not in environ
            assert environ["OMP_NUM_THREADS"] == environ["OPENBLAS_NUM_THREADS"] == "1"
        assert [dask.config.get(name) for name in executors.LOCAL] == before


def test_all_workers_may_be_killed_in_turn(counts):
    with local_cluster(1, dashboard=False) as client:
        killed = []

        def kill():
            killed.extend(client.run(os.getpid).values())
            os.kill(killed[-1], signal.SIGKILL)

        with distribute(rows(), client=client, max_memory=2**20, progress=After("pairs", 3, kill)) as spread:
            assert np.array_equal(geomkit.cosine_stats(spread).distribution.counts, counts)
        assert killed


class Greedy:
    """A job that takes more memory than a worker has."""

    def __call__(self, task, threads):
        held = []
        for _ in range(200):
            held.append(np.ones(2**24 // 8))
            time.sleep(0.01)
        return len(held) + task + threads


def test_a_worker_that_runs_out_of_memory_is_a_clear_error():
    import dask
    import distributed

    settings = {
        "distributed.worker.memory.terminate": 0.9,
        "distributed.worker.memory.pause": 0.85,
        "distributed.scheduler.allowed-failures": 0,
        "distributed.worker.memory.monitor-interval": "10ms",
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, memory_limit="900MB", dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        found = DaskExecutor(client)
        assert found.panel_bytes(open_shards(rows(10))) == 900_000_000 // 3
        with pytest.raises(
            ClusterError, match=r"most likely for want of memory: lower max_memory, or give workers more"
        ):
            list(found.run(Greedy(), [(0, 0)], Plan(lambda task: task)))


def test_a_scheduler_that_goes_is_a_clear_error_and_the_run_goes_on_later(tmp_path, counts):
    import distributed

    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None)
    client = distributed.Client(cluster, timeout=5)
    said = []

    def leave():
        threading.Thread(target=cluster.close, kwargs={"timeout": 5}).start()

    with distribute(rows(), client=client, checkpoint_dir=tmp_path, max_memory=2**20, checkpoint_every=0.0) as spread:
        spread.progress = After("pairs", 5, leave)
        with pytest.raises(ClusterError, match=r"the cluster at .* cannot be reached, or has no workers"):
            geomkit.cosine_stats(spread)
    client.close(timeout=1)
    with distribute(rows(), checkpoint_dir=tmp_path, progress=lambda *each: said.append(each)) as spread:
        assert np.array_equal(geomkit.cosine_stats(spread).distribution.counts, counts)
    assert said[0][1] >= 1


def test_nobody_answers():
    with (
        pytest.raises(ClusterError, match=r"no scheduler answers at tcp://127\.0\.0\.1:9 "),
        connected("tcp://127.0.0.1:9", 1),
    ):
        pass


def test_a_scheduler_is_reached_by_its_address(client):
    with connected(client.scheduler.address) as other:
        assert DaskExecutor(other).workers == 2


def test_a_worker_with_another_version_is_named(client, monkeypatch):
    monkeypatch.setattr(executors, "__version__", "0.0.1")
    with pytest.raises(ClusterError, match=r"worker tcp://.* has geomkit .*; it must have 0\.0\.1, as is here"):
        DaskExecutor(client)
    # One that comes later finds out itself.
    with pytest.raises(ClusterError, match=r"a worker has geomkit .*; it must have 0\.0\.2"):
        client.submit(executors._do, len, "x", 1, "0.0.2", pure=False).result()


@pytest.mark.parametrize("harm", ["missing", "cut", "width", "nan"])
def test_a_shard_that_breaks_is_named_by_whoever_reads_it(client, tmp_path, harm):
    x = rows(4000)
    for k in range(4):
        np.save(tmp_path / f"part-{k}.npy", x[1000 * k : 1000 * (k + 1)])
    shards = open_shards(tmp_path)
    if harm == "missing":
        (tmp_path / "part-2.npy").unlink()
    elif harm == "cut":
        (tmp_path / "part-2.npy").write_bytes((tmp_path / "part-2.npy").read_bytes()[:5000])
    elif harm == "width":
        np.save(tmp_path / "part-2.npy", x[2000:3000, :9])
    else:
        x[2345] = np.nan
        np.save(tmp_path / "part-2.npy", x[2000:3000])
        shards = open_shards(tmp_path)
        found = geomkit.cosine_stats(distribute(shards, client=client), on_invalid="drop")
        left = np.delete(x, 2345, axis=0)
        assert np.array_equal(found.distribution.counts, geomkit.cosine_stats(left).distribution.counts)
        assert found.n_dropped == 1
    with pytest.raises(InvalidInputError, match=r"part-2\.npy"):
        geomkit.cosine_stats(distribute(shards, client=client))


def test_each_worker_has_a_chain_of_its_own_and_helps_the_longest():
    from collections import deque

    waiting, own = [deque([(0, "a"), (1, "a"), (2, "a"), (4, "a")]), deque([(3, "b")])], {}
    taken = [executors._next(address, waiting, own)[0] for address in ("one", "two", "two", "one", "one")]
    assert taken == [0, 3, 4, 1, 2]
    assert executors._next("two", waiting, own) is None


@pytest.mark.parametrize("workers", [0, -1, 1.5, True])
def test_a_cluster_has_a_whole_number_of_workers(workers):
    with pytest.raises(InvalidInputError, match="workers must be a whole number of at least 1"), local_cluster(workers):
        pass
