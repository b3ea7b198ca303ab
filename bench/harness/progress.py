"""How far a run is: bars at a terminal, and a line every 15 seconds elsewhere."""

import sys
import threading
import time
from typing import Any, Self

from bench.harness.plan import Plan, Planned

__all__ = ["EVERY", "Progress"]

EVERY = 15.0
"""Seconds between two lines where there is no terminal."""


class Progress:
    """Counts units, of the run and of each study in work, and says how long the rest will take.

    The time left follows from what units took the last time, scaled by how this run compares so far; a unit that was
    never measured is taken for an average one.
    """

    def __init__(self, every: float = EVERY) -> None:
        self._every = every
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self._expected: dict[str, dict[str, float | None]] = {}
        self._total: dict[str, int] = {}
        self._spent: list[float | None] = []
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._stop = threading.Event()
        self._ticker: threading.Thread | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._open_bars()
        else:
            self._ticker = threading.Thread(target=self._tick, daemon=True)
            self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._ticker is not None:
            self._ticker.join()
        if self._bars is not None:
            self._bars.stop()

    def say(self, text: str) -> None:
        """Print something above the bars."""
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def add(self, study: str, plan: Plan) -> None:
        """Begin a study."""
        pending = plan.pending
        with self._lock:
            self._expected[study] = {each.unit.name: each.seconds for each in pending}
            self._total[study] = len(pending)
        if pending:
            self.say(f"{study}: {plan.study.about}; {len(pending)} of {len(plan.units)} units to measure")
        if self._bars is not None and pending:
            self._tasks[study] = self._bars.add_task(study, total=len(pending), left="")
            self._show()

    def measured(self, study: str, unit: Planned) -> None:
        """Count a unit as done."""
        with self._lock:
            self._expected[study].pop(unit.unit.name, None)
            self._spent.append(unit.seconds)
        if self._bars is not None:
            self._bars.advance(self._tasks[study])
            self._show()

    def finished(self, study: str) -> None:
        """End a study."""
        if self._bars is not None and study in self._tasks:
            self._bars.remove_task(self._tasks.pop(study))

    def left(self) -> float | None:
        """Estimate the seconds that the rest will take; None before anything is done."""
        with self._lock:
            waiting = [seconds for each in self._expected.values() for seconds in each.values()]
            known = [seconds for seconds in (*self._spent, *waiting) if seconds is not None]
            usual = sum(known) / len(known) if known else 1.0
            done = sum(usual if seconds is None else seconds for seconds in self._spent)
            rest = sum(usual if seconds is None else seconds for seconds in waiting)
        return rest * (time.monotonic() - self._start) / done if done else None

    def line(self) -> str:
        """Say in one line how far the run is."""
        total = sum(self._total.values())
        done = len(self._spent)
        parts = [f"{done} of {total} units"]
        for study, waiting in self._expected.items():
            if waiting:
                parts.append(f"{study} {self._total[study] - len(waiting)} of {self._total[study]}")
        spent = time.monotonic() - self._start
        left = self.left()
        rate = f"{60 * done / spent:.1f} units a minute" if done else "no unit done yet"
        return ", ".join(parts) + f"; {rate}, {'' if left is None else f'{_time(left)} left, '}{_time(spent)} so far"

    def _tick(self) -> None:
        while not self._stop.wait(self._every):
            if any(self._expected.values()):
                print(f"bench: {self.line()}", file=sys.stderr, flush=True)

    def _open_bars(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"),
            TimeElapsedColumn(), console=Console(stderr=True), transient=True,
        )  # fmt: skip
        self._bars.start()
        self._tasks[""] = self._bars.add_task("all units", total=0, left="")

    def _show(self) -> None:
        left = self.left()
        spent, done = time.monotonic() - self._start, len(self._spent)
        text = f"{60 * done / spent:.1f} a minute" if done else ""
        text += f", {_time(left)} left" if left is not None else ""
        self._bars.update(self._tasks[""], total=sum(self._total.values()), completed=done, left=text)


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
