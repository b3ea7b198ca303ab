"""Progress bars for people: after two seconds, with rate and time left, and at a terminal alone."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from geomkit.core.progress import Watch, watched

__all__ = ["AFTER", "showing", "watching"]

AFTER = 2.0
"""Seconds that a pass takes before there is a bar for it."""

_BARS: ContextVar[Watch | None] = ContextVar("geomkit_bars", default=None)


@contextmanager
def showing(after: float = AFTER) -> Iterator[None]:
    """Show how far passes are that begin within this context, on standard error where that is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    shown = _Bars(after)
    token = _BARS.set(shown)
    try:
        with watched(shown):
            yield
    finally:
        _BARS.reset(token)
        shown.close()


def watching() -> Watch | None:
    """Who shows bars now, for those that are told directly; None where nobody does."""
    return _BARS.get()


class _Bars:
    """One bar for each pass, made when the pass has taken long enough."""

    def __init__(self, after: float) -> None:
        self._after = after
        self._progress: Any = None
        self._tasks: dict[str, tuple[float, int, int, Any]] = {}

    def __call__(self, what: str, done: int, of: int) -> None:
        """Show that so many are done."""
        now = time.monotonic()
        began, last, total, task = self._tasks.get(what, (now, 0, of, None))
        if total != of or done < last:
            # Another pass over the same.
            if task is not None:
                self._progress.remove_task(task)
            began, task = now, None
        if task is None and now - began >= self._after and done < of:
            task = self._open().add_task(what, total=of, completed=done)
        elif task is not None:
            self._progress.update(task, completed=done)
        self._tasks[what] = began, done, of, task

    def _open(self) -> Any:
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), _rate_column(),
                TimeRemainingColumn(), console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._progress.start()
        return self._progress

    def close(self) -> None:
        """Take the bars away."""
        if self._progress is not None:
            self._progress.stop()


def _rate_column() -> Any:
    from rich.progress import ProgressColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{_short(speed)} {task.description}/s")

    return Rate()


def _short(number: float) -> str:
    """Write a rate in four characters or so."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"
