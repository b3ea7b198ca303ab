"""How far long passes are, for whoever watches."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["Counter", "Watch", "watched"]

Watch = Callable[[str, int, int], None]
"""Called with what is counted (``"pairs"`` or ``"rows"``), how many are done, and of how many; from any thread, one
call at a time for each pass."""

_WATCH: ContextVar[Watch | None] = ContextVar("geomkit_watch", default=None)


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Tell `watch` how far the passes are that begin within this context.

    Sweeps over pairs say it after each tile, passes over rows after each block. What a cluster does is told to the
    `progress` of `distribute`.
    """
    token = _WATCH.set(watch)
    try:
        yield
    finally:
        _WATCH.reset(token)


class Counter:
    """Counts what of one pass is done, by all threads; costs next to nothing where nobody watches.

    Parameters
    ----------
    what : str
    of : int
        How many there are to do.
    """

    def __init__(self, what: str, of: int) -> None:
        self._what, self._of, self._done = what, of, 0
        self._watch, self._lock = _WATCH.get(), threading.Lock()

    def __call__(self, many: int) -> None:
        """Count so many more."""
        if self._watch is None:
            return
        with self._lock:
            self._done += many
            self._watch(self._what, self._done, self._of)
