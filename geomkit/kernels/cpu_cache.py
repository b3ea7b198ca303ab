"""What Numba compiles for this package: it is said once when that happens, and where it is kept can be asked for."""

import gc
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numba.core import config, event
from numba.core.caching import FunctionCache
from numba.core.dispatcher import Dispatcher

_OURS = "geomkit."

ABOUT = 5
"""Seconds that the kernels behind one public function take to compile, give or take a factor of two."""

_log = logging.getLogger("geomkit")


@dataclass(frozen=True, slots=True)
class Kept:
    """What this process has compiled, and what it found compiled by an earlier one."""

    compiled: int
    found: int
    folders: tuple[str, ...]


class _Herald(event.Listener):
    """Hears of every function that is compiled, and not of those that are read from the disk."""

    def __init__(self) -> None:
        self.silent = False
        self._lock = threading.Lock()

    def on_start(self, event: Any) -> None:
        dispatcher = event.data["dispatcher"]
        if not dispatcher.py_func.__module__.startswith(_OURS):
            return
        with self._lock:
            if self.silent:
                return
            self.silent = True
        _log.warning(
            "compiling the CPU kernels for this processor, once, about %d s a function; cached in %s; `geomkit warm` "
            "does it ahead of time",
            ABOUT,
            place(dispatcher.stats.cache_path),
        )

    def on_end(self, event: Any) -> None:
        pass


def place(folder: str | None) -> str:
    """Say where compiled code goes, and what was asked for where Numba could not write there."""
    if folder is None:
        return "no folder: it lasts as long as this process"
    asked = config.CACHE_DIR
    if asked and not Path(folder).is_relative_to(asked):
        return f"{folder}, since NUMBA_CACHE_DIR={asked} cannot be written"
    return folder


def folder() -> Path | None:
    """Return where compiled code of this package is kept, which can be written; None where there is no such place."""
    try:
        return Path(FunctionCache(folder).cache_path)
    except RuntimeError:  # "no locator available"
        return None


_herald = _Herald()
event.register("numba:compile", _herald)


@contextmanager
def unannounced() -> Iterator[None]:
    """Compile without saying so: for a caller that says it better."""
    before, _herald.silent = _herald.silent, True
    try:
        yield
    finally:
        _herald.silent = before


def kept() -> Kept:
    """Count the kernels that are in memory, by where they came from."""
    # By type: asking some objects what they are an instance of wakes up what is no more.
    alive = (each for each in gc.get_objects() if issubclass(type(each), Dispatcher))
    ours = [each.stats for each in alive if each.py_func.__module__.startswith(_OURS)]
    return Kept(
        compiled=sum(sum(each.cache_misses.values()) for each in ours),
        found=sum(sum(each.cache_hits.values()) for each in ours),
        # Those without a folder are parts of others.
        folders=tuple(sorted({each.cache_path for each in ours if each.cache_path is not None})),
    )
