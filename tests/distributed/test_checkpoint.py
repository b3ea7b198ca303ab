"""Partial results on disk: complete or not there, and what is there is never done again."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import geomkit
from geomkit.distributed import api, checkpoint, schedule
from geomkit.distributed.api import distribute
from geomkit.distributed.checkpoint import CheckpointDir
from geomkit.distributed.executors import LocalExecutor
from geomkit.distributed.tasks import SweepJob
from geomkit.errors import ClusterError, StorageError
from geomkit.kernels import Backend
from geomkit.pairwise.candidates import Nearest

PROGRAM = """
import sys
import numpy as np
import geomkit
from geomkit.distributed.api import distribute

x = np.load(sys.argv[1], mmap_mode="r")
say = lambda *each: print(*each, flush=True)
how = {"checkpoint_dir": sys.argv[2], "checkpoint_every": 0.0, "max_memory": 2**18, "threads": 1}
with distribute(x, progress=say, **how) as spread:
    found = geomkit.survey(spread, k=3)
    moments = geomkit.moments(spread)
np.savez(sys.argv[3], counts=found.cosine.distribution.counts, indices=found.neighbors.indices,
         distances=found.neighbors.distances, mean=moments.cosine_mean, variance=moments.squared_distance_variance)
print("end", flush=True)
"""


def rows(n=2600, d=16, seed=0):
    return (np.random.default_rng(seed).standard_normal((n, d)) + 0.4).astype("float32")


class StoppedError(Exception):
    """What a test stops a run with."""


class Stopping(LocalExecutor):
    """Does so many tasks, and then fails."""

    def __init__(self, tasks):
        super().__init__(1)
        self.left, self.done = tasks, 0

    def run(self, job, tasks, plan):
        for number, result in super().run(job, tasks, plan):
            if self.left == 0:
                raise StoppedError
            self.left -= 1
            self.done += isinstance(job, SweepJob)
            yield number, result


def stopped_after(tasks, x, folder, measure, **how):
    """Stop a measurement after so many tasks; return what it found if it came to the end, and stripes done."""
    with distribute(x, checkpoint_dir=folder, max_memory=2**18, checkpoint_every=0.0, **how) as spread:
        spread.executor = Stopping(tasks)
        try:
            return measure(spread), spread.executor.done
        except StoppedError:
            return None, spread.executor.done


@pytest.mark.parametrize("measure", [geomkit.cosine_stats, geomkit.concentration])
def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch, measure):
    monkeypatch.setattr(checkpoint, "SHARE", 0)
    x = rows()
    with distribute(x, max_memory=2**18) as spread:
        expected = measure(spread)
    every = stopped_after(10**6, x, tmp_path / "whole", measure)[1]
    done, found = 0, None
    while found is None:
        found, more = stopped_after(7, x, tmp_path / "run", measure)
        done += more
    assert np.array_equal(found.distribution.counts, expected.distribution.counts)
    # Passes over blocks of rows are short, and made again; no pair is.
    assert done == every > 7


def nothing_to_do(_, job, tasks, plan):
    assert callable(job)
    assert callable(plan.chain)
    assert tasks == []
    return iter(tasks)


def test_branches_of_a_stopped_run_are_poured_once_by_however_many_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARE", 0)
    monkeypatch.setattr(schedule, "LEAF_ROWS", (2**7, 2**20))
    x, poured = rows(2**13), list[list[tuple[int, int]]]()

    class Several(Stopping):
        def __init__(self, tasks, workers):
            super().__init__(tasks)
            self.workers = workers

        def run(self, job, tasks, plan):
            for number, result in super().run(job, tasks, plan):
                poured.append(dict(tasks)[number])
                yield number, result

    for tasks, workers, width in ((2, 2, 8), (3, 4, 4), (1, 1, 16), (99, 2, 8)):
        with distribute(x, checkpoint_dir=tmp_path / "run", checkpoint_every=0.0) as spread:
            spread.executor = Several(tasks, workers)
            before = len(poured)
            if tasks < 99:
                with pytest.raises(StoppedError):
                    geomkit.moments(spread)
            else:
                found = geomkit.moments(spread)
            assert len(poured[before]) == width or before
            assert max(map(len, poured[before:])) <= width
    # Each leaf once, though one branch was cut anew.
    assert sorted(leaf for branch in poured for leaf in branch) == schedule.leaves(*x.shape)
    assert len(schedule.leaves(*x.shape)) == 64
    assert str(found) == str(geomkit.moments(distribute(x)))


def test_a_finished_run_is_read_and_nothing_is_done(tmp_path, monkeypatch):
    x = rows(20_000, 4)
    with distribute(x, checkpoint_dir=tmp_path) as spread:
        first = geomkit.moments(spread)
    with distribute(x, checkpoint_dir=tmp_path) as spread:
        monkeypatch.setattr(LocalExecutor, "run", nothing_to_do)
        assert str(geomkit.moments(spread)) == str(first)


RUN_OF_0_8 = Path(__file__).parent / "run_0_8"
"""Partial results of `moments` and of `neighbors` with k=2, that 0.8.0 wrote for the rows of `of_0_8`."""


def of_0_8():
    return np.random.default_rng(0).standard_normal((60, 4)).astype("float32")


def test_sums_that_0_8_wrote_are_read_and_nothing_is_done(tmp_path, monkeypatch):
    shutil.copytree(RUN_OF_0_8, tmp_path, dirs_exist_ok=True)
    expected = geomkit.moments(of_0_8())
    # The version is part of what a run is known by, for another may count otherwise.
    monkeypatch.setattr(api, "__version__", "0.8.0")
    with distribute(of_0_8(), checkpoint_dir=tmp_path) as spread:
        monkeypatch.setattr(LocalExecutor, "run", nothing_to_do)
        found = geomkit.moments(spread)
    assert found.squared_distance_variance == pytest.approx(expected.squared_distance_variance, rel=1e-12)
    assert len(list(tmp_path.glob("rows-*.npz"))) == 1


def test_candidates_that_0_8_wrote_are_read(tmp_path):
    shutil.copytree(RUN_OF_0_8, tmp_path, dirs_exist_ok=True)
    (file,) = tmp_path.glob("pairs-*.npz")
    with np.load(file) as kept:
        settings = json.loads(str(kept["settings"]))
    read = CheckpointDir(tmp_path).checkpoint(settings.pop("what"), settings)
    assert read.path == file
    assert read.done.all()
    nearest = Nearest(Backend.CPU, 60, 4, "float32")
    nearest.merge_state({name.removeprefix("0_"): value for name, value in read.state.items()}, [(0, 60)])
    values, ids, _ = nearest.candidates()
    best = np.take_along_axis(ids, np.argsort(-values, axis=1)[:, :2], axis=1)
    assert np.array_equal(best, geomkit.neighbors(of_0_8(), k=2).indices)
    assert settings["reducers"][0] == [nearest.factory().func.__qualname__, str(nearest.factory().args)]


def test_other_rows_and_other_settings_have_files_of_their_own(tmp_path):
    for x, how in ((rows(), {}), (rows(seed=1), {}), (rows(), {"precision": "float64"})):
        with distribute(x, checkpoint_dir=tmp_path) as spread:
            found = geomkit.cosine_stats(spread, **how)
        assert np.array_equal(found.distribution.counts, geomkit.cosine_stats(x, **how).distribution.counts)
    assert len(list(tmp_path.glob("pairs-*.npz"))) == 3
    for seed in (0, 1):
        with distribute(rows(seed=seed), checkpoint_dir=tmp_path) as spread:
            assert geomkit.moments(spread).cosine_mean == geomkit.moments(distribute(rows(seed=seed))).cosine_mean


def test_a_run_with_more_memory_goes_on_with_the_panels_it_began_with(tmp_path):
    x = rows(12_000)
    stopped_after(30, x, tmp_path, geomkit.cosine_stats)
    said = []
    with distribute(x, checkpoint_dir=tmp_path, max_memory=2**30, progress=lambda *each: said.append(each)) as spread:
        found = geomkit.cosine_stats(spread)
    assert said[0][0] == "pairs"
    assert said[0][1] > 0
    with distribute(x, max_memory=2**30, progress=lambda *each: said.append(each)) as spread:
        geomkit.cosine_stats(spread)
    # With so much memory from the start there would have been fewer.
    assert said[-1][2] < said[0][2]
    assert np.array_equal(found.distribution.counts, geomkit.cosine_stats(x).distribution.counts)


def test_a_run_killed_at_ten_moments_ends_with_the_same_counts(tmp_path):
    np.save(tmp_path / "x.npy", rows(9000))
    arguments = [
        sys.executable,
        "-c",
        PROGRAM,
        str(tmp_path / "x.npy"),
        str(tmp_path / "run"),
        str(tmp_path / "out.npz"),
    ]
    draw, killed, begun = random.Random(0), 0, []
    for _ in range(60):
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            # Within the work: after some of its tasks, however long they take, and at any moment of the next.
            begun.append(int(process.stdout.readline().split()[1]))
            if killed < 10:
                for _ in range(draw.randrange(5)):
                    process.stdout.readline()
                time.sleep(draw.uniform(0, 0.01))
                killed += process.poll() is None
                process.send_signal(signal.SIGKILL)
            line = process.stdout.read()
        if line.endswith("end\n"):
            break
    assert killed == 10
    # Every run went on with the file of the one before.
    assert len(list((tmp_path / "run").glob("pairs-*.npz"))) == 1
    assert max(begun) > 0
    x = rows(9000)
    expected, moments = geomkit.survey(x, k=3), geomkit.moments(distribute(x))
    with np.load(tmp_path / "out.npz") as found:
        assert np.array_equal(found["counts"], expected.cosine.distribution.counts)
        assert np.array_equal(found["indices"], expected.neighbors.indices)
        assert np.array_equal(found["distances"], expected.neighbors.distances)
        assert float(found["mean"]) == moments.cosine_mean
        assert float(found["variance"]) == moments.squared_distance_variance
    assert not list((tmp_path / "run").glob(".*.part"))


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    stage = CheckpointDir(tmp_path).checkpoint("pairs", {"a": 1})
    stage.save(np.array([True, False]), {"counts": np.arange(5)})
    before = stage.path.read_bytes()

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.np, "savez", full)
    with pytest.raises(
        StorageError, match=r"could not be written: No space left on device; what was there before still is"
    ):
        stage.save(np.array([True, True]), {"counts": np.arange(5)})
    assert stage.path.read_bytes() == before
    assert not list(tmp_path.glob(".*part"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_is_really_full_is_one_line(tmp_path):
    stage = CheckpointDir(tmp_path).checkpoint("pairs", {"a": 1})
    part = stage.path.with_name(f".{stage.path.name}.{os.getpid()}.{threading.get_ident()}.part")
    part.symlink_to("/dev/full")
    with pytest.raises(StorageError, match="No space left on device"):
        stage.save(np.array([True]), {"counts": np.zeros(10**6)})
    assert not part.is_symlink()
    assert not stage.path.exists()


@pytest.mark.parametrize("harm", [b"", b"PK\x03\x04 not a zip", "cut", "bent"])
def test_damaged_partial_results_are_refused_and_named(tmp_path, harm):
    folder = CheckpointDir(tmp_path)
    stage = folder.checkpoint("pairs", {"a": 1})
    stage.save(np.ones(4, bool), {"counts": np.random.default_rng(0).integers(0, 99, 5000)})
    whole = stage.path.read_bytes()
    half = len(whole) // 2
    bent = whole[:half] + bytes(255 - byte for byte in whole[half : half + 9]) + whole[half + 9 :]
    stage.path.write_bytes({"cut": whole[:half], "bent": bent}.get(harm, harm))
    with pytest.raises(StorageError, match=r"partial results .*npz .*; remove the file to begin anew"):
        folder.checkpoint("pairs", {"a": 1})


def test_partial_results_of_another_run_under_the_same_name_are_refused(tmp_path):
    folder = CheckpointDir(tmp_path)
    one, other = folder.checkpoint("pairs", {"a": 1}), folder.checkpoint("pairs", {"a": 2})
    one.save(np.ones(1, bool), {"counts": np.arange(3)})
    one.path.rename(other.path)
    with pytest.raises(StorageError, match="are of another run"):
        folder.checkpoint("pairs", {"a": 2})


def test_writing_takes_a_small_share_of_the_time(tmp_path):
    stage = CheckpointDir(tmp_path, every=0.0).checkpoint("pairs", {"a": 1})
    assert stage.due
    stage._cost = 100.0
    assert not stage.due
    stage = CheckpointDir(tmp_path / "other", every=100.0).checkpoint("pairs", {"a": 1})
    assert not stage.due


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"run folder .*file.* cannot be written to"):
        CheckpointDir(tmp_path / "file" / "run")


def test_what_a_killed_run_left_half_written_goes_away(tmp_path):
    folder = CheckpointDir(tmp_path)
    stage = folder.checkpoint("pairs", {"a": 1})
    left = stage.path.with_name(f".{stage.path.name}.1.part")
    left.write_bytes(b"half")
    folder.checkpoint("pairs", {"a": 1})
    assert not left.exists()


def test_errors_of_a_cluster_and_of_a_disk_are_ours():
    assert issubclass(ClusterError, geomkit.errors.GeomkitError)
    assert issubclass(StorageError, geomkit.errors.GeomkitError)
