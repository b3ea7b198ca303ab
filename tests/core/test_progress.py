"""Progress of passes: every pair and row is counted once, nobody is told who does not watch, and bars come late."""

import threading

import numpy as np
import pytest

import geomkit
from geomkit.cli import bars, scale
from geomkit.core.progress import Counter, watched


def x_of(n, d=8):
    return np.random.default_rng(0).standard_normal((n, d), dtype=np.float32)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("n", [3, 700, 3001])
def test_sweeps_count_every_pair_once(threads, n):
    said = []
    with watched(lambda *each: said.append(each)):
        geomkit.cosine_stats(x_of(n), threads=threads)
    pairs = [(done, of) for what, done, of in said if what == "pairs"]
    assert pairs[-1] == (n * (n - 1) // 2, n * (n - 1) // 2)
    assert [done for done, _ in pairs] == sorted({done for done, _ in pairs})


def test_panels_count_every_pair_once(tmp_path):
    np.save(tmp_path / "x.npy", x_of(5000, 64))
    said = []
    with watched(lambda *each: said.append(each)):
        geomkit.cosine_stats(geomkit.open_shards(tmp_path / "x.npy", max_memory=2**20))
    done, of = [(done, of) for what, done, of in said if what == "pairs"][-1]
    assert done == of == 5000 * 4999 // 2
    assert len(said) > 5


def test_passes_over_rows_count_every_row_once():
    said = []
    with watched(lambda *each: said.append(each)):
        geomkit.moments(x_of(40_000, 32), threads=2)
    rows = [(done, of) for what, done, of in said if what == "rows"]
    assert rows[-1] == (40_000, 40_000)
    assert len(rows) > 1


def test_only_what_begins_within_is_watched():
    said = []
    with watched(lambda *each: said.append(each)):
        inside = Counter("pairs", 4)
    outside = Counter("pairs", 4)
    inside(3)
    outside(3)
    assert said == [("pairs", 3, 4)]


def test_threads_lose_no_count():
    said = []
    with watched(lambda *each: said.append(each)):
        count = Counter("rows", 4000)
    together = [threading.Thread(target=lambda: [count(1) for _ in range(1000)]) for _ in range(4)]
    for each in together:
        each.start()
    for each in together:
        each.join()
    assert [done for _, done, _ in said] == list(range(1, 4001))


class Clock:
    """Time that passes when a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(bars.time, "monotonic", made)
    return made


def test_a_bar_comes_after_two_seconds_at_a_terminal(monkeypatch, capsys, clock):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with bars.showing():
        watch = bars.watching()
        watch("pairs", 1, 10)
        clock.now = 1.9
        watch("pairs", 5, 10)
        assert watch._progress is None
        clock.now = 2.1
        watch("pairs", 6, 10)
        (task,) = watch._progress.tasks
        assert (task.description, task.completed, task.total) == ("pairs", 6, 10)
        clock.now = 3.0
        watch("pairs", 9, 10)
        assert task.completed == 9
        # Another pass begins: it has to take as long again.
        watch("pairs", 1, 20)
        assert watch._progress.tasks == []
    assert bars.watching() is None
    assert "pairs" in capsys.readouterr().err


def test_there_are_no_bars_where_nobody_looks(capsys):
    with bars.showing(after=0.0):
        assert bars.watching() is None
        geomkit.cosine_stats(x_of(300))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("number", "said"), [(5, "5"), (1234, "1.23 k"), (2.5e6, "2.5 M"), (7e9, "7 G")])
def test_rates_are_short(number, said):
    assert bars._short(number) == said


def test_what_a_cluster_counts_are_tasks():
    said = []
    watch = scale._of_tasks(lambda *each: said.append(each))
    watch("pairs", 3, 8)
    assert said == [("tasks of pairs", 3, 8)]
    assert scale._of_tasks(None) is None
