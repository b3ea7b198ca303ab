"""Contests become tidy rows: one number a row, ratios beside every peer, a reason where there is none."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from bench.speed import comparison, timing
from bench.speed.cases import OURS, Contender
from bench.speed.limits import Limit, Limits, Work
from bench.speed.timing import Pace
from geomkit.core.threads import processors
from geomkit.errors import BackendUnavailableError

LIMITS = Limits((Limit("product", "numpy", "float32", processors(), 1.0, 1.0, 1.0, "", 1),))
PACE = Pace(seconds=0.0, least=3, most=3)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that stands still but for what contenders take, so that no busy machine upsets a ratio."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    monkeypatch.setattr(Toy, "clock", now)
    return now


def missing():
    msg = "nosuch cannot\nbe imported"
    raise BackendUnavailableError(msg)


def taking(seconds):
    def thunk():
        Toy.clock.seconds += seconds

    return lambda: thunk


@dataclass(frozen=True)
class Toy:
    clock = None

    n: int = 11
    d: int = 5
    seed: int = 0
    data: str = "isotropic"
    kernel: str = field(default="toy", init=False)
    setting: str = field(default="", init=False)

    def contenders(self):
        return [
            Contender(OURS, self.ours),
            Contender(OURS, lambda: self.ours("bfloat16"), "bfloat16"),
            Contender("slow", taking(0.02), library="numpy"),
            Contender("other of ours", taking(0.01)),
            Contender("nosuch", missing, library="nosuch"),
        ]

    def ours(self, precision="float32", threads=None):
        assert precision in {"float32", "bfloat16"}
        return taking(0.0075 if threads == 1 else 0.005)()

    def work(self, precision):
        return Work(products=1e6) if precision == "float32" else None


def chosen(rows, **what):
    return [row for row in rows if all(getattr(row, name) == value for name, value in what.items())]


def test_rows_of_a_contest():
    rows = comparison.contest(Toy(), LIMITS, PACE)

    (ratio,) = chosen(rows, precision="float32", statistic=comparison.TIMES, beside="slow")
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((4.0, 4.0, 4.0))
    assert ratio.rounds == 3
    assert len(chosen(rows, precision="bfloat16", statistic=comparison.TIMES, beside="slow")) == 1
    # Another function of ours is compared at its own precision.
    assert len(chosen(rows, statistic=comparison.TIMES, beside="other of ours")) == 1
    (share,) = chosen(rows, statistic=comparison.SHARE)
    assert share.value == pytest.approx(1e6 / 1e9 / 0.005)
    (rate,) = chosen(rows, contender="slow", statistic=comparison.RATE)
    assert rate.value == pytest.approx(55 / 0.02 / 1e6)
    (seconds,) = chosen(rows, contender="slow", statistic=comparison.SECONDS)
    assert seconds.note.startswith("numpy ")
    assert seconds.threads is None
    (why,) = chosen(rows, contender="nosuch")
    assert (why.statistic, why.note, why.value) == ("not measured", "nosuch cannot be imported", None)


def test_only_those_named_are_timed():
    rows = comparison.contest(Toy(), LIMITS, PACE, only=(OURS,))
    assert {row.contender for row in rows} == {OURS}


def test_one_thread_beside_all(monkeypatch):
    monkeypatch.setattr(comparison, "processors", lambda: 2)
    limits = Limits((*LIMITS.rows, Limit("product", "numpy", "float32", 1, 1.0, 1.0, 1.0, "", 1)))
    rows = comparison.scaling(Toy(), "float32", limits, PACE)
    (ratio,) = chosen(rows, statistic=comparison.TIMES, beside=comparison.ONE_THREAD)
    assert ratio.threads == 2
    assert ratio.value == pytest.approx(1.5)


def test_the_table_has_a_column_a_field():
    table = comparison.frame(comparison.contest(Toy(), LIMITS, PACE))
    assert list(table.columns) == [name for name in comparison.Row.__dataclass_fields__ if name != "backend"]
