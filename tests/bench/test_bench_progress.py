"""How far a run is: a line now and then away from a terminal, bars at one."""

import io
import time
from dataclasses import dataclass, field

import pytest

from bench.harness.plan import Planned
from bench.harness.progress import Progress
from bench.harness.study import Study, Unit


@dataclass
class _Plan:
    study: Study
    units: list[Planned]
    pending: list[Planned] = field(default_factory=list)


def plan(name, *seconds):
    units = [Planned(Unit(f"{name}{at}"), "", "stale", seconds=each) for at, each in enumerate(seconds)]
    return _Plan(Study(name, "about it"), units, units)


def test_the_time_left_follows_what_units_took(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    shown, one = Progress(), plan("one", 10.0, 30.0, None)
    shown.add("one", one)
    assert shown.left() is None
    now[0] = 120.0
    shown.measured("one", one.units[0])
    # Twice as slow as the last time; the one that was never timed is an average one.
    assert shown.left() == pytest.approx(2 * (30 + 20))
    assert shown.line() == "1 of 3 units, one 1 of 3; 3.0 units a minute, 2 min left, 20 s so far"


def test_lines_come_now_and_then_where_there_is_no_terminal(capsys):
    one = plan("one", 1.0, 1.0)
    with Progress(every=0.02) as shown:
        shown.add("one", one)
        shown.measured("one", one.units[0])
        time.sleep(0.2)
        shown.measured("one", one.units[1])
        shown.finished("one")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "one: about it; 2 of 2 units to measure"
    assert len([line for line in lines if line.startswith("bench: 1 of 2 units, one 1 of 2; ")]) >= 2
    # Nothing is left to tell of once all is measured.
    assert not [line for line in lines if line.startswith("bench: 2 of 2")]


def test_bars_are_for_terminals(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    one = plan("one", 1.0, 1.0)
    with Progress() as shown:
        shown.add("one", one)
        shown.measured("one", one.units[0])
        shown.say("something")
        time.sleep(0.3)
        shown.finished("one")
    text = terminal.getvalue()
    assert "all units" in text
    assert "1/2" in text
    assert "something" in text
    assert "bench: " not in text
